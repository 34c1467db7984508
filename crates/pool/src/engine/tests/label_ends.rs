//! Labels of which one end is damaged: an open pool mends them, and an opening takes the disk in where it was, unless
//! its start is something else's since.

use std::rc::Rc;
use std::time::Duration;

use block::BLOCK_BYTES;

use super::super::testing::{Mode, TestDisk};
use super::scrub::{BLOCKS, written_as as written};
use crate::format::{DiskGeometry, LabelState, select_label};
use crate::metadata::Layout;
use crate::report::{DiskState, PoolEvent, PoolState, ScrubReport};

fn label_places(disk: &TestDisk) -> [usize; 4] {
    DiskGeometry::label_slots(disk.image().len() as u64).map(|slot| slot.byte_offset() as usize)
}

/// Overwrites label slots with what is nothing.
fn damage(disk: &TestDisk, slots: &[usize]) {
    let places = label_places(disk);
    for at in slots.iter().map(|slot| places[*slot]) {
        (at..at + BLOCK_BYTES).for_each(|at| disk.damage(at, |byte| *byte = at as u8 ^ 0x5a));
    }
}

/// Overwrites all that lies before the extents.
fn damage_front(disk: &TestDisk) {
    (0..1 << 20).for_each(|at| {
        disk.damage(at, |byte| *byte = (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
    });
}

fn damaged_slots(disk: &TestDisk) -> [bool; 4] {
    let (image, bytes) = (disk.image(), disk.image().len() as u64);
    let slots = label_places(disk).map(|at| Some(&image[at..at + BLOCK_BYTES]));
    match select_label(slots, bytes) {
        LabelState::Labelled(found) => found.faults.damaged,
        LabelState::Blank | LabelState::Refused(_) => [true; 4],
    }
}

fn counts(found: ScrubReport) -> (u64, u64, u64) {
    (found.bad_blocks, found.repaired_blocks, found.unread_blocks)
}

#[test]
fn an_open_pool_mends_a_label_of_which_two_copies_are_left() {
    // At one end, and of two sequences at different ones.
    for (seed, slots) in [(1, [0, 1]), (2, [2, 3]), (3, [0, 3])] {
        let (bench, _volume) = written(seed, Layout::Mirror(2));
        let disk = &bench.disks[1];
        damage(disk, &slots);
        bench.events();
        assert_eq!(counts(bench.scrubbed()), (0, 0, 0), "{slots:?}");
        assert_eq!(damaged_slots(disk), [false; 4], "{slots:?}");
        let mended = |event: &PoolEvent| matches!(event, PoolEvent::StructureRepaired { what, .. } if what == "label");
        assert_eq!(bench.events().iter().filter(|event| mended(event)).count(), 1);
        let bench = bench.power_cut();
        bench.until(|report| report.state == PoolState::Online);
        assert_eq!(counts(bench.scrubbed()), (0, 0, 0));
    }
}

#[test]
fn an_open_pool_mends_all_that_lies_before_the_extents() {
    let (bench, _volume) = written(4, Layout::Mirror(2));
    let disk = &bench.disks[1];
    damage_front(disk);
    let found = bench.scrubbed();
    assert_eq!(found.bad_blocks, found.repaired_blocks, "{found:?}");
    assert_eq!(damaged_slots(disk), [false; 4]);
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online);
}

/// Without its applied blocks one that has the only copy of a log isn't taken in (design, taking in), so of that one they stay.
#[test]
fn a_disk_with_a_damaged_front_is_taken_in_where_it_was() {
    for (seed, layout) in [(5, Layout::Mirror(2)), (6, Layout::Raid0)] {
        let (bench, _volume) = written(seed, layout);
        match layout {
            Layout::Raid0 => damage(&bench.disks[1], &[0, 1]),
            Layout::Mirror(_) => damage_front(&bench.disks[1]),
        }
        let bench = bench.crash_engine();
        bench.until(|report| report.state == PoolState::Online);
        assert_eq!(damaged_slots(&bench.disks[1]), [false; 4], "{layout:?}");
        bench.assert_reads(&bench.reopened(), BLOCKS);
        assert_eq!(counts(bench.scrubbed()), (0, 0, 0), "{layout:?}");
    }
}

/// So it is one that comes back while the pool is open.
#[test]
fn a_disk_that_comes_back_with_a_damaged_front_is_taken_in() {
    let (bench, _volume) = written(7, Layout::Mirror(2));
    bench.set_mode(1, Mode::Lost);
    bench.until(|report| report.state != PoolState::Online);
    damage_front(&bench.disks[1]);
    bench.set_mode(1, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(damaged_slots(&bench.disks[1]), [false; 4]);
}

/// What else is at its start may be in use, and nothing is written over it.
#[test]
fn a_disk_that_was_used_for_something_else_is_not_taken_in() {
    let (bench, _volume) = written(8, Layout::Mirror(2));
    let disk = Rc::clone(&bench.disks[1]);
    (0..1 << 20).for_each(|at| disk.damage(at, |byte| *byte = 0));
    // An ext4's magic.
    disk.damage(1080, |byte| *byte = 0x53);
    disk.damage(1081, |byte| *byte = 0xef);
    let bench = bench.crash_engine();
    bench.until(|report| !report.disks.is_empty() && report.lease_ok);
    bench.pass(Duration::from_secs(60));
    assert_eq!(disk.image()[..1 << 20].iter().filter(|byte| **byte != 0).count(), 2);
    let engine = Rc::clone(&bench.engine);
    let disks = bench.run(async move { engine.disks().await });
    let state = disks.iter().find(|found| found.name == "e1.0").map(|found| &found.state);
    assert!(matches!(state, Some(DiskState::Refused { .. })), "{state:?}");
}

/// The end of a disk that was copied to another one isn't that disk.
#[test]
fn an_end_elsewhere_is_not_the_disk() {
    let (bench, _volume) = written(9, Layout::Mirror(2));
    let image = bench.disks[1].image();
    let end = image.len() - (1 << 20);
    let copy = TestDisk::new("e9.0", 9, image.len());
    copy.overwrite(block::Lba(end as u64 / 512), &image[end..]);
    bench.set_mode(1, Mode::Lost);
    bench.until(|report| report.state != PoolState::Online);
    let before = copy.image();
    bench.attach(&copy);
    bench.pass(Duration::from_secs(60));
    assert!(copy.image() == before, "nothing is written to it");
    assert!(bench.report().state != PoolState::Online);
    bench.set_mode(1, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
}
