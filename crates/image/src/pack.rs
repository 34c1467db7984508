//! Packed files: modules of the kernel, which distributions pack one by one, and the archive, which is packed as a whole.
//!
//! By libraries, not by the programs of this machine: a version of the source makes the same bytes everywhere.

use std::io::{self, Read, Write};
use std::path::Path;

use crate::{Error, read};

const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The largest modules have some 10 MiB.
const MODULE_BYTES_MAX: u64 = 256 << 20;

/// How hard the archive is packed, if nobody says otherwise: most of what can be had in a fraction of the time.
pub const LEVEL: i32 = 15;
/// What zstd has without exotic memory.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// The contents of a file, packed or not: PID 1 loads modules as they are.
pub fn unpacked(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read(path)?;
    let form = |what: &str| Error::Form { path: path.to_owned(), what: what.to_owned() };
    let mut contents = Vec::new();
    let all = |reader: &mut dyn Read, into: &mut Vec<u8>| -> io::Result<u64> {
        reader.take(MODULE_BYTES_MAX + 1).read_to_end(into).map(|len| len as u64)
    };
    let length = if bytes.starts_with(&XZ_MAGIC) {
        all(&mut lzma_rust2::XzReader::new(bytes.as_slice(), true), &mut contents)
    } else if bytes.starts_with(&ZSTD_MAGIC) {
        zstd::Decoder::new(bytes.as_slice()).and_then(|mut reader| all(&mut reader, &mut contents))
    } else if bytes.starts_with(&GZIP_MAGIC) {
        return Err(form("it is packed by gzip, which no distribution that is supported does"));
    } else {
        return Ok(bytes);
    };
    match length {
        Ok(length) if length <= MODULE_BYTES_MAX => Ok(contents),
        Ok(_) => Err(form("it is larger than any module of the kernel")),
        Err(error) => Err(form(&format!("it can't be unpacked: {error}"))),
    }
}

/// What packs all that is written to it: by as many processors as there are, which changes nothing of the outcome.
pub fn packer<W: Write>(out: W, level: i32) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(out, level)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // Another way of cutting it into pieces than without any: never without.
    encoder.multithread(u32::try_from(processors.clamp(1, 8)).unwrap_or(1))?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modules_are_unpacked_however_they_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let contents = b"a module of the kernel".repeat(1000);
        // Of xz -9 --check=crc32, as Debian's are.
        let mut xz = Vec::new();
        let mut writer =
            lzma_rust2::XzWriter::new(&mut xz, lzma_rust2::XzOptions::with_preset(6)).unwrap();
        writer.write_all(&contents).unwrap();
        writer.finish().unwrap();
        let zst = zstd::encode_all(contents.as_slice(), 3).unwrap();
        for (name, bytes) in [("a.ko", &contents), ("a.ko.xz", &xz), ("a.ko.zst", &zst)] {
            assert_eq!(unpacked(&put(name, bytes)).unwrap(), contents, "{name}");
        }
        for (name, bytes) in
            [("b.ko.xz", &xz[..40]), ("b.ko.zst", &zst[..20]), ("b.ko.gz", &[0x1f, 0x8b, 8])]
        {
            let error = unpacked(&put(name, bytes)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn packing_is_the_same_each_time() {
        let contents: Vec<u8> =
            (0..9_000_000u32).map(|n| ((n / 1000).wrapping_mul(n) % 251) as u8).collect();
        let pack = || {
            let mut packer = packer(Vec::new(), 1).unwrap();
            packer.write_all(&contents).unwrap();
            packer.finish().unwrap()
        };
        let packed = pack();
        assert_eq!(packed, pack());
        assert_eq!(zstd::decode_all(packed.as_slice()).unwrap(), contents);
    }
}
