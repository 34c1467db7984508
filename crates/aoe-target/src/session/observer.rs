//! What of an owned disk is shown to everybody: its labels, votes and reservation record. Without
//! them nobody could say whose it is, or take over what an owner that died has left.

use block::{BLOCK_BYTES, Lba, SECTOR_BYTES, SectorRange};

use crate::DeviceState;
use crate::fenced::Ownership;

/// The first two labels, the reservation record and the votes.
const FRONT: SectorRange = SectorRange { start: Lba(0), count: (48 << 10) / SECTOR };
/// The other two labels and reservation records lie so far before the labelled end.
const TAIL: u64 = (1 << 20) / SECTOR;
const TAIL_COUNT: u64 = (16 << 10) / SECTOR;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// Whether somebody who isn't the owner may read these sectors.
///
/// A disk whose ownership can't be read has an owner as well. Where its end is, the labels say, and
/// the device: who reads it finds labels at that end which its beginning names, or at the device's
/// if it names none.
pub(crate) fn may_read(device: &DeviceState, range: SectorRange) -> bool {
    if matches!(device.ownership, Ownership::Unclaimed { .. }) || FRONT.contains(range) {
        return true;
    }
    let block_sectors = BLOCK_BYTES as u64 / SECTOR;
    let sectors = device.geometry.sectors;
    let labelled = device.labelled.into_iter().flatten().map(|bytes| bytes / SECTOR);
    labelled.chain([sectors - sectors % block_sectors]).any(|end| {
        let start = end.checked_sub(TAIL);
        start.is_some_and(|start| SectorRange::new(Lba(start), TAIL_COUNT).contains(range))
    })
}

#[cfg(test)]
mod tests {
    use block::{DurabilityClass, Epoch, Geometry, Holder, Instance, OwnerId};

    use super::*;

    const HELD: Ownership =
        Ownership::Held(Holder { epoch: Epoch(1), owner: OwnerId(uuid::Uuid::max()), heard: None });

    fn device(ownership: Ownership, sectors: u64, labelled: [Option<u64>; 2]) -> DeviceState {
        let geometry = Geometry {
            sectors,
            physical_block_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            class: DurabilityClass::Durable,
        };
        DeviceState { geometry, instance: Instance(1), ownership, labelled, grant: None }
    }

    fn may(device: &DeviceState, start: u64, count: u64) -> bool {
        may_read(device, SectorRange::new(Lba(start), count))
    }

    #[test]
    fn whatever_nobody_owns_is_open() {
        for labelled in [true, false] {
            let device = device(Ownership::Unclaimed { labelled }, 9000, [None; 2]);
            assert!(may(&device, 0, 9000) && may(&device, 5000, 1));
        }
    }

    #[test]
    fn both_ends_of_an_owned_disk_are_open_to_the_sector() {
        for ownership in [HELD, Ownership::Unreadable] {
            // Three sectors that make no block are behind the end.
            let device = device(ownership, 10003, [None; 2]);
            assert!(may(&device, 0, 96) && may(&device, 95, 1));
            for (start, count) in [(96, 1), (95, 2), (0, 97), (112, 1), (2048, 8), (7951, 1)] {
                assert!(!may(&device, start, count), "{start}+{count}");
            }
            let tail = 10000 - 2048;
            assert!(may(&device, tail, 32) && may(&device, tail + 31, 1));
            for (start, count) in [(tail - 1, 1), (tail - 1, 2), (tail, 33), (tail + 32, 1)] {
                assert!(!may(&device, start, count), "{start}+{count}");
            }
            assert!(!may(&device, 0, 10003));
        }
    }

    #[test]
    fn labels_say_where_their_end_is() {
        let device = device(HELD, 100_000, [Some(20_000 * 512), Some(30_000 * 512)]);
        for end in [20_000, 30_000, 100_000] {
            assert!(may(&device, end - 2048, 32), "{end}");
            assert!(!may(&device, end - 2048, 33) && !may(&device, end - 2049, 1), "{end}");
        }
        // From the end of one open part to the beginning of the next.
        assert!(!may(&device, 95, 20_000 - 2048 - 95 + 1));
    }

    #[test]
    fn sizes_that_make_no_sense_open_nothing() {
        let device = device(HELD, 2000, [Some(0), Some(u64::MAX - 4095)]);
        assert!(may(&device, 0, 96) && !may(&device, 96, 1) && !may(&device, 1900, 8));
        assert!(!may(&device, u64::MAX, u64::MAX));
    }
}
