//! Disks that are emptied: rebuilt because they are out, evacuated, replaced; and what becomes of that when
//! everything loses power in the middle.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Instant};

use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{EmptyDisks, ExtendPool, PoolSettings};
use super::pattern;
use crate::error::PoolError;
use crate::forecast::EmptyForecast;
use crate::format::DiskNumber;
use crate::metadata::Layout;
use crate::report::{JobState, PoolEvent, PoolReport, PoolState};

impl Bench {
    pub(super) fn empty(&self, disk: &str, to: Option<&str>) -> Result<EmptyForecast, PoolError> {
        let request = EmptyDisks {
            disks: vec![disk.to_owned()],
            to: to.map(str::to_owned),
            ..EmptyDisks::default()
        };
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.empty_disks("pool", &request).await })
    }

    pub(super) fn remove(&self, disk: &str) -> Result<EmptyForecast, PoolError> {
        let disks = vec![disk.to_owned()];
        let request = EmptyDisks { disks, remove: true, ..EmptyDisks::default() };
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.empty_disks("pool", &request).await })
    }

    pub(super) fn set_rebuild_delay(&self, seconds: u64) {
        let engine = Rc::clone(&self.engine);
        let rebuild_delay_secs = Some(Some(seconds));
        let settings = PoolSettings { rebuild_delay_secs, ..PoolSettings::default() };
        self.run(async move { engine.set_pool("pool", &settings).await }).unwrap();
    }

    fn set_rebuild_rate(&self, bytes: Option<u64>) {
        let engine = Rc::clone(&self.engine);
        let settings = PoolSettings { rebuild_rate_bytes: Some(bytes), ..PoolSettings::default() };
        self.run(async move { engine.set_pool("pool", &settings).await }).unwrap();
    }

    /// Extents of a disk that the pool has given to something.
    fn taken_of(&self, disk: usize) -> u32 {
        let open = self.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let disk = meta.disks().values().nth(disk).unwrap();
        disk.room() - disk.free.len()
    }

    pub(super) fn assert_reads(&self, volume: &Rc<dyn BlockDevice>, blocks: u64) {
        for first in (0..blocks).step_by(100) {
            let count = 100.min(blocks - first);
            let read = self.read(volume, first, count).unwrap();
            assert!(read == pattern(first, count, 1), "what was written isn't what is read");
        }
    }

    /// All that was written is right on each copy.
    pub(super) fn assert_sound(&self, volume: &Rc<dyn BlockDevice>, blocks: u64) {
        self.assert_reads(volume, blocks);
        for copy in [None, Some(0)] {
            let report = self.verify(copy);
            assert_eq!((report.bad, report.dirty), (vec![], 0));
        }
    }
}

/// Five nodes, the first blocks of a mirrored volume written.
pub(super) fn written(seed: u64, layout: Layout, blocks: u64) -> (Bench, Rc<dyn BlockDevice>) {
    let bench = Bench::new(seed, 5, 48);
    bench.create();
    let volume = bench.create_volume(16, layout);
    for first in (0..blocks).step_by(50) {
        bench.write(&volume, first, pattern(first, 50.min(blocks - first), 1)).unwrap();
    }
    (bench, volume)
}

#[test]
fn a_disk_that_is_removed_is_blank_and_may_be_added_again() {
    let (bench, volume) = written(11, Layout::Mirror(2), 2000);
    bench.remove("e0.0").unwrap();
    bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
    bench.pass(Duration::from_secs(30));
    let report = bench.report();
    assert_eq!((report.state, report.votes.total, report.survives), (PoolState::Online, 4, 1));
    assert!(report.disks.iter().all(|disk| disk.holds_vote));
    bench.assert_sound(&volume, 2000);
    let engine = Rc::clone(&bench.engine);
    let added = ["e0.0".to_owned()];
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }).unwrap();
    bench.until(|report| report.votes.present == 5);
    bench.assert_sound(&volume, 2000);
    let names: Vec<String> = bench.report().disks.into_iter().map(|disk| disk.name).collect();
    assert_eq!(names, ["e1.0", "e2.0", "e3.0", "e4.0", "e0.0"]);
}

#[test]
fn one_that_is_removed_while_it_is_away_is_none_of_the_pool_s_when_it_is_back() {
    let (bench, volume) = written(12, Layout::Mirror(2), 2000);
    bench.set_mode(0, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.remove("e0.0").unwrap();
    bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
    assert_eq!(bench.report().state, PoolState::Online);
    bench.set_mode(0, Mode::Well);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.report().disks.len(), 4);
    bench.assert_sound(&volume, 2000);
    // Nor does its old vote say anything.
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!((bench.report().disks.len(), bench.report().votes.total), (4, 4));
}

#[test]
fn the_last_disk_is_not_removed() {
    let bench = Bench::new(13, 1, 48);
    bench.create();
    let refused = bench.remove("e0.0").unwrap_err();
    assert!(matches!(refused, PoolError::Refused { .. }), "{refused}");
}

#[test]
fn two_that_fit_alone_and_not_together_are_not_both_emptied() {
    let bench = Bench::new(14, 5, 48);
    bench.create();
    bench.create_volume(64, Layout::Mirror(2));
    bench.empty("e0.0", None).unwrap();
    let refused = bench.empty("e1.0", None).unwrap_err();
    assert!(matches!(refused, PoolError::NoSpace { .. }), "{refused}");
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    assert!(bench.empty("e1.0", None).is_err(), "it was all done before");
}

#[test]
fn what_moves_to_a_disk_that_never_comes_back_goes_elsewhere() {
    let (bench, volume) = written(15, Layout::Mirror(2), 3000);
    bench.set_rebuild_delay(20);
    bench.remove("e4.0").unwrap();
    bench.until(|report| report.disks.len() == 4);
    bench.pass(Duration::from_secs(30));
    let engine = Rc::clone(&bench.engine);
    let added = ["e4.0".to_owned()];
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }).unwrap();
    bench.disks[4].latency.set(Duration::from_millis(200));
    bench.empty("e0.0", None).unwrap();
    let moves_there = || {
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let new = meta.disks().values().next_back().unwrap();
        new.room() > new.free.len()
    };
    while !moves_there() {
        bench.pass(Duration::from_millis(100));
    }
    bench.set_mode(4, Mode::Lost);
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    assert_eq!(bench.taken_of(0), 0);
    bench.assert_reads(&volume, 3000);
}

#[test]
fn an_evacuated_disk_is_empty_and_stays_so() {
    let (bench, volume) = written(1, Layout::Mirror(2), 2000);
    assert!(bench.taken_of(0) > 0);
    let forecast = bench.empty("e0.0", None).unwrap();
    assert_eq!(forecast.disks, ["e0.0"]);
    // While somebody writes.
    for block in 0..200 {
        bench.write(&volume, block * 10, pattern(block * 10, 1, 1)).unwrap();
    }
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    assert_eq!(bench.taken_of(0), 0);
    assert_eq!(bench.report().jobs[0].left_bytes, 0);
    bench.assert_sound(&volume, 2000);
    bench.write(&volume, 3000, pattern(3000, 200, 1)).unwrap();
    bench.pass(Duration::from_secs(5));
    assert_eq!((bench.taken_of(0), bench.report().state), (0, PoolState::Online));
    // Without it nothing is missing, and nobody needs its copies.
    bench.set_mode(0, Mode::Lost);
    bench.pass(Duration::from_secs(10));
    assert!(!bench.report().volumes[0].degraded);
    assert_eq!(bench.report().survives, 1);
    bench.assert_sound(&volume, 2000);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.cancel_job("pool", 1).await }).unwrap();
    assert!(bench.report().jobs.is_empty());
}

#[test]
fn what_a_disk_had_that_is_out_for_good_is_rebuilt() {
    let (bench, volume) = written(2, Layout::Mirror(2), 2000);
    bench.set_rebuild_delay(60);
    bench.pass(Duration::from_secs(5));
    bench.set_mode(0, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(50));
    assert!(bench.report().jobs.is_empty(), "it may be back any moment");
    bench.write(&volume, 500, pattern(500, 50, 1)).unwrap();
    bench.until(|report| !report.jobs.is_empty());
    bench.until(|report| report.jobs.is_empty());
    let report = bench.report();
    assert_eq!((report.survives, report.volumes[0].degraded), (1, false));
    assert_eq!(bench.taken_of(0), 0);
    bench.assert_sound(&volume, 2000);
    let events = bench.events();
    let done =
        |event: &PoolEvent| matches!(event, PoolEvent::JobDone { kind, .. } if kind == "rebuild");
    assert!(events.iter().any(done), "{events:?}");
    // Another one may be lost now.
    bench.set_mode(1, Mode::Lost);
    bench.pass(Duration::from_secs(10));
    bench.assert_reads(&volume, 2000);
}

#[test]
fn a_disk_that_is_back_in_the_middle_of_its_rebuild_is_used() {
    let (bench, volume) = written(3, Layout::Mirror(2), 3000);
    bench.set_rebuild_delay(10);
    bench.set_rebuild_rate(Some(1 << 20));
    bench.pass(Duration::from_secs(5));
    bench.set_mode(0, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.until(|report| !report.jobs.is_empty());
    bench.pass(Duration::from_millis(700));
    let job = bench.report().jobs.first().cloned();
    assert!(job.is_some_and(|job| job.left_bytes > 0), "it is in the middle");
    bench.set_mode(0, Mode::Well);
    bench.until(|report| report.jobs.is_empty() && report.state == PoolState::Online);
    assert!(bench.taken_of(0) > 0, "what of it is right is used");
    bench.assert_sound(&volume, 3000);
}

#[test]
fn another_disk_takes_the_place_of_one() {
    for layout in [Layout::Raid0, Layout::Mirror(2), Layout::Mirror(3)] {
        let (bench, volume) = written(4, layout, 2000);
        let extra = super::super::testing::TestDisk::new("e9.0", 9, 48 << 20);
        bench.attach(&extra);
        bench.pass(Duration::from_secs(1));
        let engine = Rc::clone(&bench.engine);
        let extended = bench.run(async move {
            engine.extend_pool("pool", &ExtendPool::of(&["e9.0".into()])).await
        });
        extended.unwrap();
        let refused = bench.empty("e1.0", Some("e1.0")).unwrap_err();
        assert!(refused.to_string().contains("its own place"), "{refused}");
        bench.empty("e1.0", Some("e9.0")).unwrap();
        bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
        assert_eq!(bench.taken_of(1), 0, "{layout}");
        bench.assert_reads(&volume, 2000);
        bench.set_mode(1, Mode::Lost);
        bench.pass(Duration::from_secs(10));
        bench.assert_reads(&volume, 2000);
    }
}

#[test]
fn an_evacuation_without_room_is_refused_and_changes_nothing() {
    let bench = Bench::new(5, 2, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    let refused = bench.empty("e0.0", None).unwrap_err();
    assert!(matches!(refused, PoolError::NoSpace { .. }), "{refused}");
    assert!(bench.report().jobs.is_empty());
    let unknown = bench.empty("e7.0", None).unwrap_err();
    assert!(matches!(unknown, PoolError::NotFound { .. }), "{unknown}");
    // Nor is a half of the machines rebuilt by itself.
    bench.set_rebuild_delay(5);
    bench.set_mode(1, Mode::Hanging);
    bench.pass(Duration::from_secs(30));
    assert!(bench.report().jobs.is_empty());
}

#[test]
fn a_cancelled_evacuation_leaves_what_moved_where_it_is() {
    let (bench, volume) = written(6, Layout::Mirror(2), 3000);
    for disk in &bench.disks {
        disk.latency.set(Duration::from_millis(3));
    }
    bench.empty("e0.0", None).unwrap();
    bench.pass(Duration::from_millis(1500));
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.cancel_job("pool", 1).await }).unwrap();
    bench.pass(Duration::from_secs(20));
    let open = bench.engine.open_pool("pool").unwrap();
    let moving = |open: &super::super::open_pool::OpenPool| {
        let meta = open.pool.meta.borrow();
        let runs = meta.volumes().values().flat_map(|volume| volume.runs.values());
        runs.filter(|run| run.incoming.is_some()).count()
    };
    assert_eq!(moving(&open), 0);
    assert_eq!(bench.report().state, PoolState::Online);
    bench.assert_sound(&volume, 3000);
    bench.empty("e0.0", None).unwrap();
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    bench.assert_sound(&volume, 3000);
}

/// Runs move in parts, and nobody joins them again. As there was ever less to move the parts became shorter, each run
/// left a remainder that was shorter still, and what had just been divided was divided again.
#[test]
fn however_often_disks_are_emptied_no_run_is_shorter_than_parts_are_to_be() {
    // Runs have 16 groups.
    const LEAST: u32 = 3;
    let disks = (0..6).map(|n| TestDisk::new(&format!("e{n}.0"), n, 96 << 20)).collect();
    let part_bytes = u64::from(LEAST) * (256 << 10);
    let began = Instant::from_nanos(1_000_000_000);
    let bench = Bench::limited(23, disks, began, 1, |limits| limits.part_bytes = part_bytes);
    bench.create();
    let volume = bench.create_volume(128, Layout::Mirror(2));
    for first in (0..2000).step_by(50) {
        bench.write(&volume, first, pattern(first, 50, 1)).unwrap();
    }
    let counts = |bench: &Bench| -> Vec<u32> {
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let runs = meta.volumes().values().flat_map(|volume| volume.runs.values());
        runs.map(|run| run.count).collect()
    };
    let before = counts(&bench);
    let least = before.iter().copied().min().unwrap().min(LEAST);
    for round in 0..12 {
        bench.empty(&format!("e{}.0", round % 6), None).unwrap();
        bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
        let engine = Rc::clone(&bench.engine);
        let number = bench.report().jobs[0].number;
        bench.run(async move { engine.cancel_job("pool", number).await }).unwrap();
        let now = counts(&bench);
        assert!(now.iter().all(|count| *count >= least), "{before:?} {round}: {now:?}");
        assert_eq!(now.iter().sum::<u32>(), before.iter().sum::<u32>());
    }
    assert!(counts(&bench).len() > before.len(), "nothing moved in parts: {before:?}");
    bench.assert_sound(&volume, 2000);
}

#[test]
fn whenever_the_power_goes_an_evacuation_goes_on() {
    for seed in 0..24 {
        let layout = if seed % 3 == 0 { Layout::Raid0 } else { Layout::Mirror(2) };
        let (bench, volume) = written(100 + seed, layout, 1500);
        for disk in &bench.disks {
            disk.latency.set(Duration::from_millis(1));
        }
        bench.empty("e0.0", None).unwrap();
        let mut bench = bench;
        let mut volume = volume;
        for cut in 0..3_u64 {
            for write in 0..10 {
                let block = write * 130 + cut;
                bench.write(&volume, block, pattern(block, 16, 1)).unwrap();
            }
            bench.pass(Duration::from_millis(37 * (seed + 1) * (cut + 1)));
            bench = bench.power_cut();
            volume = bench.reopened();
        }
        bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
        assert_eq!(bench.taken_of(0), 0, "seed {seed}");
        bench.assert_sound(&volume, 1500);
    }
}

/// Rows that a large write put in place aren't in the log: where a position moves to lacks them until a destage
/// has brought them there.
#[test]
fn what_went_in_place_before_a_move_is_on_the_new_disk_before_it_counts() {
    let (bench, volume) = written(7, Layout::Mirror(2), 400);
    bench.pass(Duration::from_secs(5));
    bench.write(&volume, 400, pattern(400, 64, 1)).unwrap();
    bench.empty("e0.0", None).unwrap();
    for pause in 0..40 {
        bench.pass(Duration::from_millis(50));
        bench.write(&volume, 464 + pause * 64, pattern(464 + pause * 64, 64, 1)).unwrap();
    }
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    let blocks = 464 + 40 * 64;
    bench.assert_sound(&volume, blocks);
    let zeros = bench.read(&volume, blocks, 64).unwrap();
    assert_eq!(zeros, Buffer::zeroed(64 * BLOCK_BYTES));
}

#[test]
fn a_disk_that_nobody_misses_is_rebuilt_all_the_same() {
    let (bench, volume) = written(8, Layout::Mirror(2), 1000);
    bench.set_rebuild_delay(60);
    bench.pass(Duration::from_secs(20));
    // Nothing is written, so nobody has to do without it.
    bench.set_mode(0, Mode::Lost);
    bench.pass(Duration::from_secs(50));
    assert!(bench.report().jobs.is_empty());
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.report().jobs.len(), bench.taken_of(0)), (0, 0));
    bench.assert_sound(&volume, 1000);
}

/// A read that began before a move waits for nobody who doesn't have the row any more.
#[test]
fn who_reads_without_a_lock_looks_again_where_a_group_is() {
    let (bench, volume) = written(9, Layout::Raid0, 600);
    bench.pass(Duration::from_secs(5));
    let serving = bench.serving();
    let pool = Rc::clone(&serving.pool);
    let disk_of = |name: &str| {
        let members = pool.members();
        members.iter().find(|member| member.display_name() == name).unwrap().number
    };
    let first = disk_of("e0.0");
    let at = |block| serving.stripes.locate(crate::layout::VolumeBlock(block)).at;
    let is_there =
        |block: &u64| pool.group_at(serving.id, at(*block)).unwrap().members[0].0 == first;
    let block = (0..600).find(is_there).unwrap();
    let (place, row) = (pool.group_at(serving.id, at(block)).unwrap(), at(block).row);
    bench.empty("e0.0", None).unwrap();
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    bench.set_mode(0, Mode::Lost);
    let crc = crate::format::row_checksum(
        place.generation,
        row,
        crate::format::Role::Data(0),
        &pattern(block, 1, 1),
    );
    let reader = Rc::clone(&serving);
    let read = async move { reader.read_row(&place, row, crc, None).await };
    let read = bench.run_for(Duration::from_secs(60), read).expect("it waits for the former disk");
    assert!(read.unwrap().unwrap() == pattern(block, 1, 1));
    bench.assert_reads(&volume, 600);
}

/// A destage that waits for the lock of one group, while another one that it has to do with moves.
#[test]
fn a_destage_looks_again_where_a_group_is_once_it_has_its_lock() {
    let (bench, volume) = written(10, Layout::Mirror(2), 1500);
    bench.pass(Duration::from_secs(5));
    let serving = bench.serving();
    let pool = Rc::clone(&serving.pool);
    let runs: Vec<_> = {
        let meta = pool.meta.borrow();
        meta.volumes().values().flat_map(|volume| volume.runs.values().cloned()).collect()
    };
    let held = runs[0].generation;
    let lock = {
        let pool = Rc::clone(&pool);
        bench.run(async move { pool.lock_group(held).await })
    };
    // In the first group of each of two runs.
    let second = u64::from(runs[0].count) * u64::from(pool.shape().rows());
    for block in [0, second] {
        bench.write(&volume, block, pattern(block, 8, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(3));
    let leaves = pool.disk_name(runs[1].members[0].disk);
    bench.empty(&leaves, None).unwrap();
    let moved = || {
        let meta = pool.meta.borrow();
        let run = meta.run(serving.id, runs[1].key);
        run.is_some_and(|run| run.members != runs[1].members && run.incoming.is_none())
    };
    bench.until(|_| moved());
    drop(lock);
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().volumes[0].log_bytes, 0);
    let report = bench.verify(None);
    assert_eq!((report.bad, report.dirty), (vec![], 0));
    bench.assert_reads(&volume, second + 8);
}

/// The record of a write in place becomes durable only when a position has already moved: who is there now
/// doesn't have the rows.
#[test]
fn a_write_in_place_that_a_move_overtakes_goes_into_the_log() {
    let (bench, volume) = written(11, Layout::Mirror(2), 100);
    bench.pass(Duration::from_secs(5));
    let serving = bench.serving();
    let pool = Rc::clone(&serving.pool);
    let members = || {
        let meta = pool.meta.borrow();
        let run = meta.volumes().values().flat_map(|volume| volume.runs.values()).next().unwrap();
        (run.members.clone(), run.incoming.is_some())
    };
    let (before, _) = members();
    let log = Rc::clone(&serving.log.writing);
    let held = bench.run(async move { log.acquire(1).await });
    let answered: Rc<std::cell::Cell<bool>> = Rc::default();
    bench.executor.handle().spawn({
        let (volume, answered) = (Rc::clone(&volume), Rc::clone(&answered));
        async move {
            let durable = block::Durability::Durable;
            volume.write(block::Lba(100 * 8), pattern(100, 16, 1), durable).await.unwrap();
            answered.set(true);
        }
    });
    bench.pass(Duration::from_millis(100));
    bench.empty(&pool.disk_name(before[0].disk), None).unwrap();
    bench.until(|_| members().0[0] != before[0] && !members().1);
    assert!(!answered.get());
    drop(held);
    for _ in 0..1000 {
        bench.pass(Duration::from_micros(200));
        if answered.get() {
            break;
        }
    }
    assert!(answered.get());
    let other = pool.disk_name(before[1].disk);
    drop((serving, pool, volume));
    let bench = bench.crash_engine();
    let lost = bench.disks.iter().position(|disk| disk.name == other).unwrap();
    bench.set_mode(lost, Mode::Lost);
    let volume = bench.reopened();
    assert!(bench.read(&volume, 100, 16).unwrap() == pattern(100, 16, 1));
}

/// A pool of so many of the bench's disks.
fn pool_of(bench: &Bench, disks: usize) {
    let request = bench.request(disks);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
}

fn extend(bench: &Bench, disk: &str) -> Result<(), PoolError> {
    let (engine, added) = (Rc::clone(&bench.engine), [disk.to_owned()]);
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }).map(drop)
}

#[test]
fn one_that_something_moves_to_is_not_removed_before_that_is_taken_back() {
    let bench = Bench::new(16, 7, 48);
    pool_of(&bench, 6);
    let volume = bench.create_volume(16, Layout::Mirror(2));
    for first in (0..4096).step_by(64) {
        bench.write(&volume, first, pattern(first, 64, 1)).unwrap();
    }
    extend(&bench, "e6.0").unwrap();
    bench.pass(Duration::from_secs(20));
    bench.disks[6].latency.set(Duration::from_millis(50));
    bench.empty("e0.0", Some("e6.0")).unwrap();
    let comes = |bench: &Bench| {
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let mut runs = meta.volumes().values().flat_map(|volume| volume.runs.values());
        runs.any(|run| run.incoming.is_some_and(|to| to.member.disk == DiskNumber(6)))
    };
    while !comes(&bench) {
        bench.pass(Duration::from_millis(1));
    }
    bench.remove("e6.0").unwrap();
    assert!(comes(&bench));
    // No volume serves when the reopened pool first looks at its jobs.
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online && report.disks.len() == 6);
    let volume = bench.reopened();
    bench.assert_sound(&volume, 4096);
}

#[test]
fn votes_do_not_move_to_a_list_of_which_no_majority_is_there() {
    let bench = Bench::new(3, 3, 48);
    bench.create();
    bench.set_mode(0, Mode::Lost);
    bench.pass(Duration::from_secs(20));
    bench.remove("e2.0").unwrap();
    for _ in 0..10 {
        bench.pass(Duration::from_secs(5));
        let report = bench.report();
        assert_eq!((report.votes.present, report.votes.total), (2, 3));
        assert_eq!(report.state, PoolState::Degraded);
        assert!(matches!(&report.jobs[0].state, JobState::Waiting { why } if why.contains("vote")));
    }
    bench.set_mode(0, Mode::Well);
    bench.until(|report| report.disks.len() == 2 && report.votes.present == 2);
}

#[test]
fn a_pool_opens_after_a_crash_at_the_first_vote_of_a_disk_that_came() {
    for slow in 1..12 {
        let bench = Bench::new(5, 2, 48);
        pool_of(&bench, 1);
        bench.disks[1].latency.set(Duration::from_millis(20));
        extend(&bench, "e1.0").unwrap();
        let voters =
            |bench: &Bench| bench.engine.open_pool("pool").unwrap().pool.all_voters().len();
        while voters(&bench) < 2 {
            bench.pass(Duration::from_millis(1));
        }
        bench.disks[1].set_mode(Mode::Hanging);
        bench.pass(Duration::from_millis(slow));
        let bench = bench.power_cut();
        bench.until(|report| report.state == PoolState::Online && report.votes.present == 2);
    }
}

#[test]
fn a_disk_in_the_place_of_one_that_is_removed_is_not_wiped() {
    let other = Bench::new(77, 1, 48);
    other.create();
    other.pass(Duration::from_secs(1));
    let image = other.disks[0].image();
    let (bench, volume) = written(17, Layout::Mirror(2), 500);
    bench.set_mode(4, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(20));
    bench.disks[4].set_image(&image);
    bench.set_mode(4, Mode::Well);
    bench.pass(Duration::from_secs(20));
    bench.remove("e4.0").unwrap();
    bench.until(|report| report.disks.len() == 4);
    bench.pass(Duration::from_secs(20));
    assert!(bench.disks[4].image()[..64 << 10] == image[..64 << 10]);
}

#[test]
fn a_disk_that_was_removed_and_used_is_not_blank() {
    for at in [0, 600, 4096, 40_000, 65_600, 200_000] {
        let (bench, _volume) = written(18, Layout::Mirror(2), 500);
        bench.remove("e0.0").unwrap();
        bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
        bench.pass(Duration::from_secs(20));
        let mut image = bench.disks[0].image();
        image[at..at + 6].copy_from_slice(b"mine!!");
        bench.disks[0].set_image(&image);
        bench.pass(Duration::from_secs(20));
        let refused = extend(&bench, "e0.0").unwrap_err();
        assert!(matches!(refused, PoolError::Refused { .. }), "{at}: {refused}");
        assert_eq!(bench.disks[0].image()[at..at + 6], *b"mine!!");
    }
}

/// Whoever doesn't say who has it may have an owner, and then its target didn't look at what is on it.
#[test]
fn a_disk_that_does_not_say_whose_it_is_is_gone_through() {
    const AT: usize = 200_000;
    for answered in 0..6 {
        let (bench, _volume) = written(18, Layout::Mirror(2), 500);
        bench.remove("e0.0").unwrap();
        bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
        bench.pass(Duration::from_secs(20));
        let mut image = bench.disks[0].image();
        image[AT] = 1;
        bench.disks[0].set_image(&image);
        bench.pass(Duration::from_secs(20));
        bench.disks[0].renew_lost_after.set(Some(answered));
        extend(&bench, "e0.0").unwrap_err();
        assert_eq!(bench.disks[0].image()[AT], 1, "{answered} were answered");
    }
}

#[test]
fn a_vote_moves_though_another_voter_is_gone_for_good() {
    let bench = Bench::new(19, 3, 48);
    bench.create();
    bench.set_rebuild_delay(30);
    bench.set_mode(0, Mode::Lost);
    bench.remove("e2.0").unwrap();
    bench.until(|report| report.disks.len() == 2 && report.votes.present == 1);
    assert_eq!(bench.report().votes.total, 1);
}

#[test]
fn of_disks_of_which_one_is_refused_none_is_added() {
    let (bench, _volume) = written(20, Layout::Mirror(2), 500);
    for disk in ["e0.0", "e1.0"] {
        bench.remove(disk).unwrap();
        bench.until(|report| report.disks.iter().all(|other| other.name != disk));
    }
    bench.pass(Duration::from_secs(20));
    let mut image = bench.disks[1].image();
    image[200_000] = 1;
    bench.disks[1].set_image(&image);
    bench.pass(Duration::from_secs(20));
    let (engine, both) = (Rc::clone(&bench.engine), ["e0.0".to_owned(), "e1.0".to_owned()]);
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&both)).await }).unwrap_err();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().disks.len(), 3);
    extend(&bench, "e0.0").unwrap();
}

/// What happened: the machines with votes were out of reach for so long that others were to vote, which began with
/// a configuration that nobody could decide and nobody could take back. Then one of the others was lost for good:
/// when all who voted were back, nothing could be decided any more, nor the pool opened.
#[test]
fn votes_do_not_begin_to_move_while_those_who_vote_are_out_of_reach() {
    for reopened in [false, true] {
        let bench = Bench::new(21, 6, 48);
        bench.create();
        bench.set_rebuild_delay(5);
        bench.pass(Duration::from_secs(20));
        let voting: Vec<usize> = (0..6).filter(|at| bench.report().disks[*at].holds_vote).collect();
        assert_eq!(voting.len(), 5);
        let other = (0..6).find(|at| !voting.contains(at)).unwrap();
        // As one that voted before.
        let least =
            bench.engine.open_pool("pool").unwrap().pool.area.borrow().layout.area_bytes() >> 18;
        bench.give_area(other as u32, least as u32).unwrap();
        voting.iter().for_each(|disk| bench.set_mode(*disk, Mode::Lost));
        bench.pass(Duration::from_secs(60));
        bench.set_mode(other, Mode::Lost);
        bench.pass(Duration::from_secs(1));
        voting.iter().for_each(|disk| bench.set_mode(*disk, Mode::Well));
        bench.pass(Duration::from_secs(10));
        let bench = if reopened { bench.crash_engine() } else { bench };
        let goes_on = |report: &crate::report::PoolReport| {
            report.lease_ok && (report.votes.present, report.votes.total) == (5, 5)
        };
        bench.until(goes_on);
        bench.create_volume(8, Layout::Mirror(2));
    }
}

/// The one who asked gave up waiting for a majority, and the commit went on: the disk was in the metadata, and no
/// member before the pool was opened again. Nothing used it, and it couldn't be removed.
#[test]
fn a_disk_that_is_added_though_nobody_waits_any_more_takes_part() {
    let bench = Bench::new(22, 4, 48);
    pool_of(&bench, 3);
    bench.pass(Duration::from_secs(5));
    (0..3).for_each(|disk| bench.set_mode(disk, Mode::Lost));
    let gave_up = extend(&bench, "e3.0").unwrap_err();
    assert!(matches!(gave_up, PoolError::Suspended { .. }), "{gave_up}");
    (0..3).for_each(|disk| bench.set_mode(disk, Mode::Well));
    bench.until(|report| report.state == PoolState::Online && report.disks.len() == 4);
    bench.remove("e3.0").unwrap();
    bench.until(|report| report.disks.len() == 3 && report.jobs.is_empty());
}

#[test]
fn two_who_add_disks_at_once_both_do() {
    let bench = Bench::new(23, 5, 48);
    pool_of(&bench, 3);
    bench.pass(Duration::from_secs(5));
    let add = |disk: &str| {
        let (engine, added) = (Rc::clone(&bench.engine), [disk.to_owned()]);
        async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }
    };
    let both = futures::future::join(add("e3.0"), add("e4.0"));
    let (one, other) = bench.run(both);
    assert_eq!((one.map(drop), other.map(drop)), (Ok(()), Ok(())));
    bench.until(|report| report.state == PoolState::Online && report.disks.len() == 5);
}

/// A target that refused to be read after it had accepted the claim passed for one with another disk, which isn't
/// looked at again before it appears anew.
#[test]
fn a_disk_whose_target_refuses_once_is_taken_in() {
    let (bench, volume) = written(24, Layout::Mirror(2), 50);
    bench.set_mode(4, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(20));
    bench.disks[4].reads_refused.set(1);
    bench.set_mode(4, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.disks[4].reads_refused.get(), 0);
}

/// A disk was wiped while nobody saw it: before anybody had looked who is there it got a copy of the metadata.
#[test]
fn what_is_in_the_place_of_a_disk_gets_no_copy_of_the_metadata_before_it_is_looked_at() {
    let bench = Bench::new(25, 3, 48);
    bench.create();
    bench.pass(Duration::from_secs(20));
    // Something that is to be read back.
    bench.set_rebuild_delay(60);
    bench.disks[1].set_image(&vec![0; 48 << 20]);
    bench.pass(Duration::from_secs(60));
    // (An entry that was on its way to the disk may have met the one in its place.)
    let is_copy = |sector: &[u8]| sector.starts_with(b"epCHECKP");
    assert!(!bench.disks[1].image().chunks(512).any(is_copy));
}

#[test]
fn who_adds_a_disk_that_hangs_is_told_and_holds_up_nobody() {
    let bench = Bench::new(26, 5, 48);
    pool_of(&bench, 3);
    bench.pass(Duration::from_secs(5));
    bench.disks[3].hangs_from.set(Some(20));
    let told = extend(&bench, "e3.0").unwrap_err();
    assert!(told.to_string().contains("e3.0"), "{told}");
    extend(&bench, "e4.0").unwrap();
    bench.disks[3].hangs_from.set(None);
    bench.disks[3].set_mode(Mode::Well);
    bench.pass(Duration::from_secs(20));
    extend(&bench, "e3.0").unwrap();
}

/// An evacuated disk takes nothing; that the only room for a rebuild is there is said, and how to have it.
#[test]
fn a_rebuild_without_room_names_the_disk_that_was_emptied() {
    let bench = Bench::new(61, 4, 48);
    bench.create();
    let volume = bench.create_volume(36, Layout::Mirror(2));
    for first in (0..2000).step_by(50) {
        bench.write(&volume, first, pattern(first, 50, 1)).unwrap();
    }
    bench.set_rebuild_delay(5);
    bench.empty("e3.0", None).unwrap();
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    let job = bench.report().jobs[0].number;
    bench.set_mode(1, Mode::Lost);
    let waits = |report: &PoolReport| report.disks[1].rebuild_waits.clone();
    bench.until(|report| waits(report).is_some());
    let why = waits(&bench.report()).unwrap();
    assert!(why.contains(&format!("e3.0 take data again (pool cancel pool {job})")), "{why}");
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.cancel_job("pool", job).await }).unwrap();
    bench.until(|report| report.survives == 1 && waits(report).is_none());
    bench.assert_reads(&volume, 2000);
}
