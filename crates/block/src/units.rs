//! Units of address and length. A sector is always 512 bytes (AoE's unit); the engine's block is
//! 4 KiB. A bare `u64` does not cross a module boundary where one of these fits.

use std::fmt;

/// Bytes in a sector, the unit of every address on the wire.
pub const SECTOR_BYTES: usize = 512;
/// Bytes in a block, the unit of checksums and of the log.
pub const BLOCK_BYTES: usize = 4096;
/// Sectors in a block.
pub const BLOCK_SECTORS: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;

/// Address of a sector on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

impl Lba {
    /// The sector at which a byte offset lies; `None` unless the offset is sector-aligned.
    pub fn from_byte_offset(offset_bytes: u64) -> Option<Lba> {
        offset_bytes
            .is_multiple_of(SECTOR_BYTES as u64)
            .then_some(Lba(offset_bytes / SECTOR_BYTES as u64))
    }

    /// Byte offset of this sector.
    pub fn byte_offset(self) -> u64 {
        self.0 * SECTOR_BYTES as u64
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {}", self.0)
    }
}

/// A run of sectors: `count` of them from `start`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorRange {
    /// First sector.
    pub start: Lba,
    /// Number of sectors; zero is an empty range.
    pub count: u64,
}

impl SectorRange {
    /// The run of `count` sectors from `start`.
    pub fn new(start: Lba, count: u64) -> SectorRange {
        SectorRange { start, count }
    }

    /// One past the last sector; saturates instead of wrapping on hostile input.
    pub fn end(self) -> Lba {
        Lba(self.start.0.saturating_add(self.count))
    }

    /// Length in bytes; saturates.
    pub fn len_bytes(self) -> u64 {
        self.count.saturating_mul(SECTOR_BYTES as u64)
    }

    /// Whether both ranges have a sector in common.
    pub fn overlaps(self, other: SectorRange) -> bool {
        self.count > 0 && other.count > 0 && self.start < other.end() && other.start < self.end()
    }

    /// Whether all of `other` lies within this range.
    pub fn contains(self, other: SectorRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// The range in pieces of `most` sectors, the last one perhaps shorter.
    pub fn pieces(self, most: u64) -> impl Iterator<Item = SectorRange> + Clone {
        (0..self.count.div_ceil(most)).map(move |piece| {
            let from = piece * most;
            SectorRange::new(Lba(self.start.0 + from), most.min(self.count - from))
        })
    }

    /// Whether the range lies on a device of `sectors` sectors, without overflow.
    pub fn fits(self, sectors: u64) -> bool {
        self.start.0.checked_add(self.count).is_some_and(|end| end <= sectors)
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}+{}", self.start.0, self.count)
    }
}

/// Sectors needed to hold `bytes`.
pub fn bytes_to_sectors_ceil(bytes: u64) -> u64 {
    bytes.div_ceil(SECTOR_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ranges_neither_wrap_nor_fit() {
        let range = SectorRange::new(Lba(u64::MAX - 1), 4);
        assert!(!range.fits(u64::MAX));
        assert_eq!(range.end(), Lba(u64::MAX));
        assert!(!SectorRange::new(Lba(5), 0).overlaps(SectorRange::new(Lba(0), 10)));
        assert!(SectorRange::new(Lba(5), 1).overlaps(SectorRange::new(Lba(0), 6)));
        assert!(!SectorRange::new(Lba(6), 1).overlaps(SectorRange::new(Lba(0), 6)));
        assert!(SectorRange::new(Lba(2), 6).contains(SectorRange::new(Lba(2), 6)));
        assert!(!SectorRange::new(Lba(2), 6).contains(SectorRange::new(Lba(1), 2)));
        assert!(!SectorRange::new(Lba(2), 6).contains(SectorRange::new(Lba(7), 2)));
        assert!(!SectorRange::new(Lba(2), 6).contains(range));
    }
}
