//! Where things are on a pool disk: the arithmetic of the table in `docs/format.md`.
//!
//! | from | what |
//! |---|---|
//! | 0, 4 KiB | label slots 0 and 1 |
//! | 8 KiB, 12 KiB | the reservation record (not ours) |
//! | 16 KiB, 32 KiB | vote record, two slots |
//! | 48 KiB, 52 KiB | applied block, two slots |
//! | 1 MiB | extents; a run of them is the metadata area, where there is one |
//! | S − 1 MiB + 0, 4 KiB | label slots 2 and 3 |
//! | S − 1 MiB + 8 KiB, 12 KiB | the reservation record (not ours) |

use block::Lba;
use block::size::Human;

use super::{ExtentNumber, ExtentRange, ExtentShape};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

const SLOT_BYTES: u64 = 4096;
const VOTE_OFFSET: u64 = 16 << 10;
const VOTE_SLOT_BYTES: u64 = 16 << 10;
const APPLIED_OFFSET: u64 = VOTE_OFFSET + 2 * VOTE_SLOT_BYTES;
const HEAD_BYTES: u64 = MIB;
const TAIL_BYTES: u64 = MIB;

const _: () = assert!(APPLIED_OFFSET == 48 << 10);
const _: () = assert!(APPLIED_OFFSET + 2 * SLOT_BYTES <= HEAD_BYTES);

/// Why a disk can't be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Not even one extent fits.
    #[error("{} are too small for a pool disk (at least {} are needed)", Human(*.bytes), Human(*.needed))]
    TooSmall {
        /// The labelled size.
        bytes: u64,
        /// The smallest that would do.
        needed: u64,
    },
    /// The numbers contradict each other.
    #[error("the layout of the disk is impossible")]
    Impossible,
}

/// The layout of one disk; checked, so its arithmetic can't overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGeometry {
    labelled_bytes: u64,
    extent_bytes: u64,
    extents: u32,
}

impl DiskGeometry {
    /// The layout of a disk of `labelled_bytes` (a multiple of 4 KiB).
    pub fn new(labelled_bytes: u64, extent_bytes: u64) -> Result<DiskGeometry, GeometryError> {
        if ExtentShape::new(extent_bytes).is_none() || !labelled_bytes.is_multiple_of(SLOT_BYTES) {
            return Err(GeometryError::Impossible);
        }
        let needed = HEAD_BYTES + TAIL_BYTES + extent_bytes;
        if labelled_bytes < needed {
            return Err(GeometryError::TooSmall { bytes: labelled_bytes, needed });
        }
        let extents = (labelled_bytes - TAIL_BYTES - HEAD_BYTES) / extent_bytes;
        let extents = u32::try_from(extents).map_err(|_| GeometryError::Impossible)?;
        Ok(DiskGeometry { labelled_bytes, extent_bytes, extents })
    }

    /// The same, for a disk that is to hold so many extents at least.
    pub fn with_room(
        labelled_bytes: u64,
        extent_bytes: u64,
        extents: u32,
    ) -> Result<DiskGeometry, GeometryError> {
        let needed = DiskGeometry::bytes_with(extents, extent_bytes);
        let too_small = GeometryError::TooSmall { bytes: labelled_bytes, needed };
        match DiskGeometry::new(labelled_bytes, extent_bytes) {
            Ok(geometry) if geometry.extents >= extents => Ok(geometry),
            Ok(_) | Err(GeometryError::TooSmall { .. }) => Err(too_small),
            Err(impossible) => Err(impossible),
        }
    }

    /// How large a disk with so many extents is.
    pub fn bytes_with(extents: u32, extent_bytes: u64) -> u64 {
        let bytes = u64::from(extents).saturating_mul(extent_bytes);
        bytes.saturating_add(HEAD_BYTES + TAIL_BYTES)
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

    /// First sector of an extent; `None` when the disk has no such extent.
    pub fn extent_start(&self, extent: ExtentNumber) -> Option<Lba> {
        (extent.0 < self.extents).then(|| lba(HEAD_BYTES + u64::from(extent.0) * self.extent_bytes))
    }

    /// Where a run of extents begins and how many bytes it has; `None` for one without extents, or
    /// where the disk doesn't have them all.
    pub fn run_place(&self, run: ExtentRange) -> Option<(Lba, u64)> {
        let start = self.extent_start(run.first)?;
        let has_all = run.count > 0 && run.count <= self.extents - run.first.0;
        has_all.then(|| (start, u64::from(run.count) * self.extent_bytes))
    }

    /// The label slots of a disk of this labelled size, 0 to 3.
    pub fn label_slots(labelled_bytes: u64) -> [Lba; 4] {
        let tail = labelled_bytes.saturating_sub(TAIL_BYTES);
        [lba(0), lba(SLOT_BYTES), lba(tail), lba(tail + SLOT_BYTES)]
    }

    /// The slots of the reservation record on such a disk, 0 to 3. Targets write it.
    pub fn reservation_slots(labelled_bytes: u64) -> [Lba; 4] {
        let behind = |slot: Lba| lba(slot.byte_offset() + 2 * SLOT_BYTES);
        DiskGeometry::label_slots(labelled_bytes).map(behind)
    }

    /// The two slots of the vote record, 16 KiB each.
    pub fn vote_slots() -> [Lba; 2] {
        [lba(VOTE_OFFSET), lba(VOTE_OFFSET + VOTE_SLOT_BYTES)]
    }

    /// The two slots of the applied block, 4 KiB each.
    pub fn applied_slots() -> [Lba; 2] {
        [lba(APPLIED_OFFSET), lba(APPLIED_OFFSET + SLOT_BYTES)]
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
        let geometry = DiskGeometry::new(1 << 30, 4 * MIB).unwrap();
        assert_eq!(geometry.extents(), 255);
        assert_eq!(geometry.extent_start(ExtentNumber(0)), Some(Lba(2048)));
        let last = geometry.extent_start(ExtentNumber(254)).unwrap();
        assert!(last.byte_offset() + 4 * MIB <= (1 << 30) - MIB);
        assert_eq!(geometry.extent_start(ExtentNumber(255)), None);
        let slots = DiskGeometry::label_slots(1 << 30).map(Lba::byte_offset);
        assert_eq!(slots, [0, 4096, (1 << 30) - MIB, (1 << 30) - MIB + 4096]);
        assert_eq!(DiskGeometry::vote_slots().map(Lba::byte_offset), [16384, 32768]);
        assert_eq!(DiskGeometry::applied_slots().map(Lba::byte_offset), [49152, 53248]);
    }

    #[test]
    fn runs_lie_within_the_extents() {
        let geometry = DiskGeometry::new(1 << 30, 4 * MIB).unwrap();
        let place = |first, count| geometry.run_place(ExtentRange::new(ExtentNumber(first), count));
        assert_eq!(place(1, 2), Some((Lba(2048 + 8192), 8 * MIB)));
        assert_eq!(place(0, 255), Some((Lba(2048), 255 * 4 * MIB)));
        for (first, count) in [(0, 0), (0, 256), (254, 2), (255, 1), (1, u32::MAX), (u32::MAX, 1)] {
            assert_eq!(place(first, count), None, "{first} {count}");
        }
    }

    #[test]
    fn hostile_sizes_are_errors() {
        assert!(DiskGeometry::new(4096, 4 * MIB).is_err());
        assert!(DiskGeometry::new(1 << 30, 0).is_err());
        assert!(DiskGeometry::new(1 << 30, u64::MAX).is_err());
        assert!(DiskGeometry::new(u64::MAX - 4095, 4 * MIB).is_err());
    }

    #[test]
    fn what_is_needed_is_said() {
        let needed = Err(GeometryError::TooSmall { bytes: 12 * MIB, needed: 14 * MIB });
        assert_eq!(DiskGeometry::with_room(12 * MIB, 4 * MIB, 3), needed);
        assert_eq!(DiskGeometry::with_room(14 * MIB, 4 * MIB, 3).unwrap().extents(), 3);
        assert!(DiskGeometry::with_room(1 << 30, 64 << 10, u32::MAX).is_err());
    }

    #[test]
    fn extents_grow_with_the_pool() {
        assert_eq!(choose_extent_bytes(6 << 30), 4 * MIB);
        assert_eq!(choose_extent_bytes(5 << 40), 16 * MIB);
        assert_eq!(choose_extent_bytes(100 << 40), 64 * MIB);
    }
}
