//! Checks of images that a whole engine made, as they are and with something done to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bytes;
mod contents;
mod damage;
mod dump;
mod histories;
mod hostile;
mod images;
mod life;

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Durability, Lba};

use super::*;
use crate::engine::testing::{Bench, Mode};
use crate::engine::{CreatePool, VolumeSize};
use crate::metadata::Layout;

const MIB: u64 = 1 << 20;

/// Three machines with a disk each, and a mirrored volume on them.
struct Machines {
    bench: Bench,
    volume: Rc<dyn BlockDevice>,
}

impl Machines {
    fn new(seed: u64) -> Machines {
        Machines::with(seed, 3, 40, Layout::Mirror(2), 256 << 10)
    }

    fn with(seed: u64, nodes: u8, mib: usize, layout: Layout, extent_bytes: u64) -> Machines {
        let bench = Bench::new(seed, nodes, mib);
        let disks: Vec<String> = bench.disks.iter().map(|disk| disk.name.clone()).collect();
        let request =
            CreatePool { extent_bytes: Some(extent_bytes), ..CreatePool::of("pond", &disks) };
        let engine = Rc::clone(&bench.engine);
        bench.run(async move { engine.create_pool(request).await }).unwrap();
        let engine = Rc::clone(&bench.engine);
        let size = VolumeSize::Bytes(6 * MIB);
        bench.run(async move { engine.create_volume("pond", "v", size, layout).await }).unwrap();
        let volume = bench.engine.open_volume("pond", "v").unwrap();
        Machines { bench, volume }
    }

    /// Writes blocks of one byte each; acknowledged when it returns.
    fn write(&self, block: u64, count: usize, fill: u8) {
        let data = Buffer::copy_of(&vec![fill; count * BLOCK_BYTES]);
        let done = self.volume.write(Lba(block * 8), data, Durability::Durable);
        self.bench.run(done).unwrap();
    }

    /// Waits until the log is in place.
    fn quiesce(&self) {
        self.bench.pass(Duration::from_secs(3));
    }

    fn images(&self) -> Vec<Vec<u8>> {
        self.bench.disks.iter().map(|disk| disk.image()).collect()
    }

    /// The owner ends in order.
    fn released(self) -> Vec<Vec<u8>> {
        let engine = Rc::clone(&self.bench.engine);
        self.bench.run(async move { engine.shutdown().await });
        self.images()
    }
}

/// A pool with data in place on some groups, ended in order.
fn at_rest(seed: u64) -> Vec<Vec<u8>> {
    let machines = Machines::new(seed);
    machines.write(10, 100, 0xa1);
    machines.write(700, 60, 0xb2);
    machines.quiesce();
    machines.released()
}

fn images_of(bytes: &[Vec<u8>]) -> Vec<DiskImage<'_>> {
    let named = bytes.iter().enumerate();
    named.map(|(index, bytes)| DiskImage::of_bytes(format!("e{index}.0"), bytes)).collect()
}

fn look(bytes: &[Vec<u8>], data: bool) -> CheckReport {
    check(&images_of(bytes), &CheckOptions { data, pool: None })
}

/// The findings that aren't notes, as (severity, kind, disk).
fn serious(report: &CheckReport) -> Vec<(Severity, Kind, String)> {
    let serious = report.all_findings().filter(|found| found.severity != Severity::Note);
    serious
        .map(|found| (found.severity, found.kind, found.disk.clone().unwrap_or_default()))
        .collect()
}

fn volume(report: &CheckReport) -> &VolumeCheck {
    &report.pools[0].volumes[0]
}

#[test]
fn a_pool_that_ended_in_order_is_well() {
    let report = look(&at_rest(1), true);
    assert_eq!(report.all_findings().collect::<Vec<_>>(), Vec::<&Finding>::new());
    assert!(report.is_well());
    let pool = &report.pools[0];
    assert_eq!((pool.name.as_str(), pool.released, pool.disks.len()), ("pond", true, 3));
    assert_eq!((pool.votes.total, pool.votes.newest, pool.votes.majority), (3, 3, 2));
    assert!(pool.metadata.iter().all(|copy| copy.current && copy.state == CopyState::Newest));
    let volume = volume(&report);
    assert_eq!((volume.rows_written, volume.row_copies_read, volume.row_copies_bad), (160, 320, 0));
    assert!(volume.segments.iter().all(|segment| segment.unreleased == 0));
    let least = LeastCopies {
        log_records: None,
        log_tail: None,
        data: Some(2),
        checksum_blocks: Some(2),
        metadata: 3,
        votes: 3,
    };
    assert_eq!(volume.least, least);
    let extents: u32 = pool.disks.iter().map(|disk| disk.owned_extents).sum();
    assert!(extents > 0 && pool.disks.iter().all(|disk| disk.pending_extents == 0));
}

#[test]
fn what_is_in_the_log_only_is_counted_by_record() {
    let machines = Machines::new(2);
    machines.write(10, 4, 1);
    machines.write(20, 4, 2);
    machines.write(30, 4, 3);
    let report = look(&machines.images(), true);
    assert_eq!(serious(&report), []);
    let volume = volume(&report);
    let unreleased: u64 = volume.segments.iter().map(|segment| segment.unreleased).sum();
    assert!(unreleased > 0, "{volume:#?}");
    for segment in &volume.segments {
        assert_eq!(segment.gaps, []);
        assert_eq!(segment.copies.len(), 2);
        assert!(segment.copies.iter().all(|copy| copy.given && copy.header_sound));
        assert!(segment.copies.iter().all(|copy| copy.records == segment.records));
        assert_eq!(segment.records_by_copies[..2], [0, 0]);
    }
    assert_eq!(volume.least.log_tail, Some(2));
}

#[test]
fn a_power_cut_leaves_notes_at_most() {
    for seed in 0..8 {
        let machines = Machines::new(100 + seed);
        for round in 0..6 {
            machines.write(40 * round, 30, round as u8);
        }
        machines.bench.pass(Duration::from_millis(990 + 4 * seed));
        // One write is under way, not acknowledged.
        let data = Buffer::copy_of(&vec![9; 20 * BLOCK_BYTES]);
        let done = machines.volume.write(Lba(0), data, Durability::Durable);
        machines.bench.run_for(Duration::from_micros(100 * (seed % 5)), done);
        for disk in &machines.bench.disks {
            disk.crash(&machines.bench.executor.handle());
        }
        let report = look(&machines.images(), true);
        assert_eq!(serious(&report), [], "seed {seed}: {report:#?}");
        let least = volume(&report).least;
        assert!(least.log_records.is_none_or(|copies| copies == 2), "seed {seed}: {least:?}");
    }
}

#[test]
fn every_layout_and_production_extents_are_well() {
    for (seed, layout) in [(7, Layout::Raid0), (8, Layout::Mirror(3)), (9, Layout::Mirror(2))] {
        let machines = Machines::with(seed, 3, 128, layout, 4 << 20);
        machines.write(0, 40, 1);
        machines.write(1000, 64, 2);
        machines.quiesce();
        machines.write(5, 3, 3);
        let report = look(&machines.images(), true);
        assert_eq!(serious(&report), [], "{layout}");
        assert_eq!(volume(&report).least.data, Some(u32::from(layout.copies())));
        let report = look(&machines.released(), true);
        assert_eq!(report.all_findings().count(), 0, "{layout}: {report:#?}");
    }
}

#[test]
fn a_missing_disk_and_what_it_takes_along_are_named() {
    let all = at_rest(3);
    for missing in 0..3 {
        let mut left = all.clone();
        left.remove(missing);
        let report = look(&left, false);
        let found = serious(&report);
        assert!(found.iter().any(|(_, kind, _)| *kind == Kind::DiskMissing), "{found:?}");
        assert!(found.iter().all(|(severity, ..)| *severity == Severity::Redundancy), "{found:?}");
        let volume = volume(&report);
        assert_eq!((volume.least.metadata, volume.least.votes), (2, 2));
        let has = |kind| found.iter().any(|(_, found, _)| *found == kind);
        assert_eq!(volume.least.data == Some(1), has(Kind::Dirty));
        let member = report.pools[0].disks.iter().find(|disk| disk.name.is_none()).unwrap();
        assert_eq!(member.number, Some(missing as u32));
    }
    let report = look(&all[..1], false);
    assert!(serious(&report).contains(&(Severity::Damage, Kind::Votes, String::new())));
    let report = look(&[], false);
    assert_eq!(report, CheckReport::default());
}

#[test]
fn a_disk_that_is_out_and_behind_is_named() {
    let machines = Machines::new(4);
    machines.write(0, 64, 1);
    machines.quiesce();
    machines.bench.set_mode(1, Mode::Lost);
    (0..30).for_each(|block| machines.write(block * 40, 2, 2));
    machines.quiesce();
    let report = look(&machines.released(), true);
    let found = serious(&report);
    assert!(found.contains(&(Severity::Redundancy, Kind::DiskOut, "e1.0".into())), "{found:?}");
    assert!(found.iter().all(|(severity, ..)| *severity == Severity::Redundancy), "{found:?}");
    let disk = &report.pools[0].disks[1];
    assert!(disk.out && disk.dirty_regions > 0);
    assert_eq!(volume(&report).least.data, Some(1));
    assert_eq!(volume(&report).row_copies_bad, 0);
}

#[test]
fn one_pool_of_several_is_selected_by_name_or_id() {
    let mut disks = at_rest(5);
    let others = at_rest(6);
    disks.push(vec![0; 4 << 20]);
    let both: Vec<Vec<u8>> = disks.iter().chain(&others).cloned().collect();
    let report = look(&both, false);
    assert_eq!(report.pools.len(), 2);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        (report.findings[0].kind, report.findings[0].disk.as_deref()),
        (Kind::Label, Some("e3.0"))
    );
    let only = Some(report.pools[1].id.clone());
    let report = check(&images_of(&both), &CheckOptions { data: false, pool: only.clone() });
    assert_eq!(report.pools.len(), 1);
    assert_eq!(Some(&report.pools[0].id), only.as_ref());
    let named = CheckOptions { data: false, pool: Some("puddle".into()) };
    assert_eq!(check(&images_of(&both), &named).pools, []);
}
