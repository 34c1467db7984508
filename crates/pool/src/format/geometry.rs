//! Where things are on a pool disk: the arithmetic of the table in `docs/format.md`.
//!
//! | from | what |
//! |---|---|
//! | 0, 4 KiB | label slots 0 and 1 |
//! | 8 KiB, 12 KiB | the target's field (not ours) |
//! | 16 KiB, 32 KiB | vote record, two slots |
//! | 48 KiB, 52 KiB | confirm block, two slots |
//! | 1 MiB | metadata area, where there is one |
//! | then, aligned to 1 MiB | extents |
//! | S − 1 MiB + 0, 4 KiB | label slots 2 and 3 |
//! | S − 1 MiB + 8 KiB, 12 KiB | the target's field (not ours) |

use block::Lba;

use super::{ExtentNumber, ExtentShape};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

const SLOT_BYTES: u64 = 4096;
const VOTE_OFFSET: u64 = 16 << 10;
const VOTE_SLOT_BYTES: u64 = 16 << 10;
const CONFIRM_OFFSET: u64 = VOTE_OFFSET + 2 * VOTE_SLOT_BYTES;
const HEAD_BYTES: u64 = MIB;
const TAIL_BYTES: u64 = MIB;

const _: () = assert!(CONFIRM_OFFSET == 48 << 10);
const _: () = assert!(CONFIRM_OFFSET + 2 * SLOT_BYTES <= HEAD_BYTES);

/// Why a disk can't be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not even one extent fits.
    #[error("{bytes} bytes are too small for a pool disk (at least {needed} are needed)")]
    TooSmall {
        /// The labelled size.
        bytes: u64,
        /// The smallest that would do.
        needed: u64,
    },
    /// The numbers contradict each other (extent size, area length).
    #[error("the layout of the disk is impossible")]
    Impossible,
}

/// The layout of one disk; checked, so its arithmetic can't overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGeometry {
    labelled_bytes: u64,
    metadata_bytes: u64,
    extent_bytes: u64,
    extents: u32,
}

impl DiskGeometry {
    /// The layout of a disk of `labelled_bytes` (a multiple of 4 KiB) with a metadata area of
    /// `metadata_bytes` (0 for none).
    pub fn new(
        labelled_bytes: u64,
        metadata_bytes: u64,
        extent_bytes: u64,
    ) -> Result<DiskGeometry, GeometryError> {
        if ExtentShape::new(extent_bytes).is_none() || !labelled_bytes.is_multiple_of(SLOT_BYTES) {
            return Err(GeometryError::Impossible);
        }
        let start = HEAD_BYTES
            .checked_add(metadata_bytes)
            .and_then(|end| end.checked_next_multiple_of(MIB))
            .ok_or(GeometryError::Impossible)?;
        let needed = start
            .checked_add(extent_bytes)
            .and_then(|end| end.checked_add(TAIL_BYTES))
            .ok_or(GeometryError::Impossible)?;
        if labelled_bytes < needed {
            return Err(GeometryError::TooSmall { bytes: labelled_bytes, needed });
        }
        let extents = (labelled_bytes - TAIL_BYTES - start) / extent_bytes;
        let extents = u32::try_from(extents).map_err(|_| GeometryError::Impossible)?;
        Ok(DiskGeometry { labelled_bytes, metadata_bytes, extent_bytes, extents })
    }

    /// What a device of `device_bytes` is labelled as: whole blocks.
    pub fn labelled_bytes_of(device_bytes: u64) -> u64 {
        device_bytes - device_bytes % SLOT_BYTES
    }

    /// The labelled size.
    pub fn labelled_bytes(&self) -> u64 {
        self.labelled_bytes
    }

    /// Bytes per extent.
    pub fn extent_bytes(&self) -> u64 {
        self.extent_bytes
    }

    /// Number of extents.
    pub fn extents(&self) -> u32 {
        self.extents
    }

    /// Length of the metadata area; zero for none.
    pub fn metadata_bytes(&self) -> u64 {
        self.metadata_bytes
    }

    /// Byte offset of the metadata area.
    pub fn metadata_offset(&self) -> u64 {
        HEAD_BYTES
    }

    /// Byte offset of extent 0.
    pub fn extents_offset(&self) -> u64 {
        (HEAD_BYTES + self.metadata_bytes).next_multiple_of(MIB)
    }

    /// First sector of the metadata area.
    pub fn metadata_start(&self) -> Lba {
        lba(HEAD_BYTES)
    }

    /// First sector of an extent; `None` when the disk has no such extent.
    pub fn extent_start(&self, extent: ExtentNumber) -> Option<Lba> {
        (extent.0 < self.extents)
            .then(|| lba(self.extents_offset() + u64::from(extent.0) * self.extent_bytes))
    }

    /// The label slots of a disk of this labelled size, 0 to 3.
    pub fn label_slots(labelled_bytes: u64) -> [Lba; 4] {
        let tail = labelled_bytes.saturating_sub(TAIL_BYTES);
        [lba(0), lba(SLOT_BYTES), lba(tail), lba(tail + SLOT_BYTES)]
    }

    /// The two slots of the vote record, 16 KiB each.
    pub fn vote_slots() -> [Lba; 2] {
        [lba(VOTE_OFFSET), lba(VOTE_OFFSET + VOTE_SLOT_BYTES)]
    }

    /// The two slots of the confirm block, 4 KiB each.
    pub fn confirm_slots() -> [Lba; 2] {
        [lba(CONFIRM_OFFSET), lba(CONFIRM_OFFSET + SLOT_BYTES)]
    }
}

/// The extent size for a pool that starts with `pool_bytes`: large pools get large extents, so that
/// maps stay small.
pub fn choose_extent_bytes(pool_bytes: u64) -> u64 {
    const TIB: u64 = 1 << 40;
    match pool_bytes {
        0..=0x3ff_ffff_ffff => 4 * MIB,
        bytes if bytes < 64 * TIB => 16 * MIB,
        _ => 64 * MIB,
    }
}

fn lba(byte_offset: u64) -> Lba {
    Lba(byte_offset / block::SECTOR_BYTES as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn structures_follow_each_other_without_overlap() {
        let geometry = DiskGeometry::new(1 << 30, 8 * MIB, 4 * MIB).unwrap();
        assert_eq!(geometry.metadata_start(), Lba(2048));
        assert_eq!(geometry.extents_offset(), 9 * MIB);
        assert_eq!(geometry.extents(), 253);
        let last = geometry.extent_start(ExtentNumber(252)).unwrap();
        assert!(last.byte_offset() + 4 * MIB <= (1 << 30) - MIB);
        assert_eq!(geometry.extent_start(ExtentNumber(253)), None);
        let slots = DiskGeometry::label_slots(1 << 30).map(Lba::byte_offset);
        assert_eq!(slots, [0, 4096, (1 << 30) - MIB, (1 << 30) - MIB + 4096]);
        assert_eq!(DiskGeometry::vote_slots().map(Lba::byte_offset), [16384, 32768]);
        assert_eq!(DiskGeometry::confirm_slots().map(Lba::byte_offset), [49152, 53248]);
    }

    #[test]
    fn hostile_sizes_are_errors() {
        assert!(DiskGeometry::new(4096, 0, 4 * MIB).is_err());
        assert!(DiskGeometry::new(u64::MAX - 4095, u64::MAX, 4 * MIB).is_err());
        assert!(DiskGeometry::new(1 << 30, 0, 0).is_err());
        assert!(DiskGeometry::new(u64::MAX - 4095, 0, 4 * MIB).is_err());
    }

    #[test]
    fn extents_grow_with_the_pool() {
        assert_eq!(choose_extent_bytes(6 << 30), 4 * MIB);
        assert_eq!(choose_extent_bytes(5 << 40), 16 * MIB);
        assert_eq!(choose_extent_bytes(100 << 40), 64 * MIB);
    }
}
