#![allow(clippy::unwrap_used)]

use block::{BLOCK_SECTORS, Epoch, Lba, MemoryDevice, SectorRange};
use futures::FutureExt;

use super::*;
use crate::format::{DiskGeometry, ExtentNumber, ExtentRange, FailureDomain, MIB};
use crate::metadata::testing::empty_pool;

#[test]
fn a_checkpoint_is_durable_before_its_header_and_an_area_is_cleared_by_headers() {
    let geometry = DiskGeometry::new(64 * MIB, 4 * MIB).unwrap();
    let area = AreaPlace::new(&geometry, ExtentRange::new(ExtentNumber(0), 2)).unwrap();
    let stamp = CheckpointStamp { sequence: 2, epoch: Epoch(1), number: RecordNumber(0) };
    let metadata = empty_pool(FailureDomain::Node);
    let checkpoint = encode_checkpoint(&area.layout, &metadata, (stamp, None), None, &[]).unwrap();
    let Lba(start) = area.sector_at(0);
    // The first block is the header's, the table's the second: it has no room.
    let device = MemoryDevice::new(start + BLOCK_SECTORS);
    let table = std::slice::from_ref(&checkpoint.table);
    assert!(store_placed(&device, &area, table).now_or_never().unwrap().is_err());
    let device = MemoryDevice::new(start + 64 * MIB / 512);
    store_placed(&device, &area, table).now_or_never().unwrap().unwrap();
    store_header(&device, &area, &checkpoint).now_or_never().unwrap().unwrap();
    let read = |at: u64| {
        let range = SectorRange::new(area.sector_at(at), BLOCK_SECTORS);
        device.read(range).now_or_never().unwrap().unwrap().value
    };
    assert_eq!(read(0), checkpoint.header);
    assert_eq!(read(BLOCK_BYTES as u64), checkpoint.table.bytes);
    clear_headers(&device, &area).now_or_never().unwrap().unwrap();
    assert!(read(0).iter().all(|byte| *byte == 0));
}
