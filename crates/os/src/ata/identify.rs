//! IDENTIFY DEVICE of a real disk, as far as settings need it. (What our own exports say about
//! themselves is in `aoe_wire`.)

use super::SECTOR_BYTES;

/// What a disk can do and does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identify {
    /// It has a write cache that can be switched.
    pub has_write_cache: bool,
    /// That cache is on.
    pub write_cache: bool,
    /// It has a read-ahead that can be switched.
    pub has_read_ahead: bool,
    /// It reads ahead.
    pub read_ahead: bool,
    /// It has power management, and its standby timer counts as the standard says.
    pub has_standby_timer: bool,
    /// Its error recovery can be limited.
    pub has_error_recovery: bool,
}

impl Identify {
    /// Reads the sector; `None` if it isn't one.
    pub fn parse(sector: &[u8]) -> Option<Identify> {
        let sector: &[u8; SECTOR_BYTES] = sector.try_into().ok()?;
        let word = |at: usize| u16::from_le_bytes([sector[at * 2], sector[at * 2 + 1]]);
        let bit = |at: usize, bit: u8| word(at) & (1 << bit) != 0;
        // Words 82 to 87 hold only where two bits of word 83 say so, and the sum is right where
        // there is one.
        let summed = sector[510] == 0xa5;
        let sum = sector.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if word(83) >> 14 != 0b01 || (summed && sum != 0) {
            return None;
        }
        Some(Identify {
            has_write_cache: bit(82, 5),
            write_cache: bit(85, 5),
            has_read_ahead: bit(82, 6),
            read_ahead: bit(85, 6),
            has_standby_timer: bit(82, 3) && bit(49, 13),
            has_error_recovery: bit(206, 0) && bit(206, 3),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sector(words: &[(usize, u16)]) -> Vec<u8> {
        let mut sector = vec![0; SECTOR_BYTES];
        for (at, word) in words {
            sector[at * 2..at * 2 + 2].copy_from_slice(&word.to_le_bytes());
        }
        sector
    }

    #[test]
    fn features_are_read_from_their_words() {
        // Words 49, 82, 83, 85 and 206 as of a common 4 TB disk.
        let disk = sector(&[(49, 0x2f00), (82, 0x746b), (83, 0x7f69), (85, 0x7469), (206, 0x303d)]);
        let read = Identify::parse(&disk).unwrap();
        let all = Identify {
            has_write_cache: true,
            write_cache: true,
            has_read_ahead: true,
            read_ahead: true,
            has_standby_timer: true,
            has_error_recovery: true,
        };
        assert_eq!(read, all);
        let plain = Identify::parse(&sector(&[(83, 0x4000), (206, 0x0001)])).unwrap();
        assert_eq!(plain, Identify::default());
    }

    #[test]
    fn what_is_no_identity_is_not_taken_for_one() {
        assert_eq!(Identify::parse(&[0; 511]), None);
        assert_eq!(Identify::parse(&[0; 512]), None);
        assert_eq!(Identify::parse(&[0xff; 512]), None);
        let mut wrong = sector(&[(83, 0x4000)]);
        wrong[510] = 0xa5;
        assert_eq!(Identify::parse(&wrong), None);
        // The sum over all bytes is zero.
        wrong[511] = 0u8.wrapping_sub(0xa5).wrapping_sub(0x40);
        assert!(Identify::parse(&wrong).is_some());
    }
}
