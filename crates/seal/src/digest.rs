//! What stands for bytes in what is signed, where they are too long to be signed themselves.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// SHA-256 of some bytes: nobody finds others that have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut found = [0; DIGEST_BYTES];
        found.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Digest(found)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    #[test]
    fn known_answer() {
        let found = Digest::of(b"abc").0;
        assert_eq!(found[..8], [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]);
        assert_eq!(found[28..], [0xf2, 0x00, 0x15, 0xad]);
    }
}
