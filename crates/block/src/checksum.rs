//! CRC32C (Castagnoli), the one checksum of all formats here, on disk and on the wire.

use crc_fast::{CrcAlgorithm, Digest};

/// A CRC32C under construction, for what isn't contiguous.
pub struct Crc32c(Digest);

impl Crc32c {
    /// Nothing covered yet.
    pub fn new() -> Crc32c {
        Crc32c(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Covers `bytes` too.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Crc32c {
        self.0.update(bytes);
        self
    }

    /// The checksum of all that was covered.
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c::new()
    }
}

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-64/NVME of `bytes`: for numbers that must differ when their ingredients do, where 32 bits
/// are too few.
pub fn crc64_nvme(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn known_answers() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(Crc32c::new().update(b"1234").update(b"56789").finish(), 0xe306_9283);
        // The catalogue's check value.
        assert_eq!(crc64_nvme(b"123456789"), 0xae8b_1486_0a79_9888);
    }
}
