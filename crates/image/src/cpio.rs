//! The archive that the kernel unpacks into memory: cpio, form "newc" (Documentation/driver-api/early-userspace/
//! buffer-format.rst of Linux).

use std::io::{self, Write};

/// Of the type of a file, in its mode.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const MAGIC: &str = "070701";
/// What ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Names, contents and the whole are padded to these.
const ALIGNMENT_BYTES: usize = 4;
/// As cpio(1) does: who reads in blocks finds whole ones.
const BLOCK_BYTES: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// With these permissions.
    Directory(u32),
    /// With these permissions and contents.
    File(u32, &'a [u8]),
    /// To there.
    Link(&'a str),
    /// With these permissions and number.
    Device(u32, (u32, u32)),
}

/// Writes an archive. Everything in it is root's, and of the beginning of time: it says nothing of when and by whom it
/// was made.
pub struct Writer<W> {
    out: W,
    written_bytes: usize,
    number: u32,
}

impl<W: Write> Writer<W> {
    /// To there.
    pub fn new(out: W) -> Writer<W> {
        Writer { out, written_bytes: 0, number: 0 }
    }

    /// Appends an entry. Directories come before what is in them: the kernel makes none by itself.
    pub fn append(&mut self, path: &str, kind: Kind<'_>) -> io::Result<()> {
        let (mode, links, contents, device): (u32, u32, &[u8], _) = match kind {
            Kind::Directory(mode) => (DIRECTORY | mode, 2, &[], (0, 0)),
            Kind::File(mode, contents) => (FILE | mode, 1, contents, (0, 0)),
            Kind::Link(target) => (LINK | 0o777, 1, target.as_bytes(), (0, 0)),
            Kind::Device(mode, device) => (CHARACTER_DEVICE | mode, 1, &[], device),
        };
        // Files of one number would be taken for one file with several names.
        self.number += 1;
        self.entry(path, [self.number, mode, links], contents, device)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, [0, 0, 1], &[], (0, 0))?;
        self.pad_to(BLOCK_BYTES)?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        [number, mode, links]: [u32; 3],
        contents: &[u8],
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let too_large =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("{path}: too large"));
        let size = u32::try_from(contents.len()).map_err(|_| too_large())?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
        let mut header = MAGIC.to_owned();
        // Number, mode, user, group, links, time, size, device of the file system, device, name, check sum.
        for field in [number, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(path);
        header.push('\0');
        self.write(header.as_bytes())?;
        self.pad_to(ALIGNMENT_BYTES)?;
        self.write(contents)?;
        self.pad_to(ALIGNMENT_BYTES)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written_bytes += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad_to(&mut self, alignment_bytes: usize) -> io::Result<()> {
        let padding = self.written_bytes.next_multiple_of(alignment_bytes) - self.written_bytes;
        self.write(&[0; BLOCK_BYTES][..padding])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An entry as a reader of its own sees it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Entry {
        pub(crate) path: String,
        pub(crate) mode: u32,
        pub(crate) contents: Vec<u8>,
        pub(crate) device: (u32, u32),
    }

    /// By the description of the format, not by the writer.
    pub(crate) fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let whole = bytes.len();
        let mut entries = Vec::new();
        loop {
            let field = |number: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * number..14 + 8 * number]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[..6], b"070701");
            let (mode, time, size, name) = (field(1), field(5), field(6), field(11));
            let device = (field(9), field(10));
            let (size, name) = (size as usize, name as usize);
            assert_eq!((field(2), field(3), time, field(12)), (0, 0, 0, 0));
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name - 1], 0);
            let at = (110 + name).next_multiple_of(4);
            let contents = bytes[at..at + size].to_vec();
            bytes = &bytes[(at + size).next_multiple_of(4)..];
            if path == "TRAILER!!!" {
                assert!(bytes.iter().all(|byte| *byte == 0) && whole.is_multiple_of(512));
                return entries;
            }
            entries.push(Entry { path, mode, contents, device });
        }
    }

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.append("dev", Kind::Directory(0o755)).unwrap();
        writer.append("dev/console", Kind::Device(0o600, (5, 1))).unwrap();
        writer.append("init", Kind::Link("usr/bin/etherpool")).unwrap();
        for length in 0..6 {
            let contents = vec![7; length];
            writer.append(&format!("f{length}"), Kind::File(0o644, &contents)).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let entries = read(&archive());
        assert_eq!(entries.len(), 9);
        assert_eq!((entries[0].mode, entries[1].device), (0o040_755, (5, 1)));
        assert_eq!((entries[1].mode, entries[2].mode), (0o020_600, 0o120_777));
        assert_eq!(entries[2].contents, b"usr/bin/etherpool");
        assert_eq!((entries[8].mode, entries[8].contents.len()), (0o100_644, 5));
    }

    /// Another reader, by which people look into archives.
    #[test]
    fn cpio_lists_it() {
        use std::process::{Command, Stdio};
        let spawned = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut cpio) = spawned else {
            eprintln!("SKIPPED: no cpio here");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive()).unwrap();
        let listed = cpio.wait_with_output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.status.success(), "{text}");
        assert!(text.contains("init -> usr/bin/etherpool") && text.contains("5,   1"), "{text}");
        assert_eq!(text.lines().count(), 9, "{text}");
    }
}
