//! Contents that say where they belong: each written sector carries the number of its write, its
//! volume and its address, and is random in every other bit. So a read that is wrong tells what it
//! got instead.

use block::{Buffer, BufferMut, Lba, SECTOR_BYTES, SectorRange};

use crate::random::mix;

const WORD_BYTES: usize = 8;

/// What a sector's bytes turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All zeros.
    Zero,
    /// Written by this operation of this volume to this address.
    Written {
        /// Whose.
        volume: u64,
        /// By which operation.
        operation: u64,
        /// For which address.
        sector: u64,
    },
    /// Nothing that a client ever wrote.
    Garbage {
        /// The first bytes.
        begins: u64,
    },
}

/// What operation `operation` of `volume` writes to `range`.
pub fn fill(volume: u64, operation: u64, range: SectorRange) -> Buffer {
    let mut data = BufferMut::zeroed(range.len_bytes() as usize);
    for (index, sector) in data.chunks_exact_mut(SECTOR_BYTES).enumerate() {
        fill_sector(volume, operation, range.start.0 + index as u64, sector);
    }
    data.freeze()
}

/// Tells what `bytes`, one sector, are.
pub fn recognise(bytes: &[u8]) -> Content {
    if bytes.iter().all(|byte| *byte == 0) {
        return Content::Zero;
    }
    let (operation, sector, volume) = (word(bytes, 0), word(bytes, 1), word(bytes, 2));
    let mut expected = [0; SECTOR_BYTES];
    fill_sector(volume, operation, sector, &mut expected);
    if bytes == expected {
        Content::Written { volume, operation, sector }
    } else {
        Content::Garbage { begins: word(bytes, 0) }
    }
}

fn fill_sector(volume: u64, operation: u64, sector: u64, bytes: &mut [u8]) {
    let seed = mix(volume ^ mix(operation ^ mix(sector)));
    for (index, word) in (0..).zip(bytes.chunks_exact_mut(WORD_BYTES)) {
        // No word depends on the one before, so that several are made at once.
        let state = seed.wrapping_add(index).wrapping_mul(0x5851_f42d_4c95_7f2d);
        word.copy_from_slice(&(state ^ (state >> 31)).to_le_bytes());
    }
    for (value, word) in [operation, sector, volume].iter().zip(bytes.chunks_exact_mut(WORD_BYTES))
    {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; WORD_BYTES];
    word.copy_from_slice(&bytes[index * WORD_BYTES..][..WORD_BYTES]);
    u64::from_le_bytes(word)
}

/// Every sector of a read with its address.
pub fn sectors(start: Lba, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    data.chunks_exact(SECTOR_BYTES)
        .enumerate()
        .map(move |(index, bytes)| (start.0 + index as u64, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_recognised_and_any_change_is_seen() {
        let range = SectorRange::new(Lba(77), 2);
        let data = fill(3, 9, range);
        let second = &data[SECTOR_BYTES..];
        assert_eq!(recognise(second), Content::Written { volume: 3, operation: 9, sector: 78 });
        for at in [0, 9, 17, 30, 511] {
            let mut changed = second.to_vec();
            changed[at] ^= 1;
            assert!(matches!(recognise(&changed), Content::Garbage { .. }), "{at}");
        }
        assert_eq!(recognise(&[0; SECTOR_BYTES]), Content::Zero);
    }
}
