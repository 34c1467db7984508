//! Volumes that get more copies or fewer, and pools in which data moves so that free space can be used.

use std::rc::Rc;
use std::time::Duration;

use super::super::testing::{Bench, Mode};
use super::super::{ExtendPool, VolumeSize};
use super::jobs::written;
use crate::error::PoolError;
use crate::forecast::{ConvertForecast, RebalanceForecast};
use crate::format::DiskNumber;
use crate::metadata::Layout;
use crate::report::{JobState, PoolReport};

impl Bench {
    pub(super) fn convert(
        &self,
        layout: Layout,
        dry_run: bool,
    ) -> Result<ConvertForecast, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.convert_volume("pool", "v", layout, dry_run).await })
    }

    fn rebalance(&self, dry_run: bool) -> RebalanceForecast {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.rebalance_pool("pool", dry_run).await }).unwrap()
    }

    /// Copies that each segment of the log has that is needed.
    fn log_copies(&self) -> Vec<usize> {
        let open = self.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let volume = meta.volumes().values().next().unwrap();
        let live = volume.log.segments.values();
        let live = live.filter(|segment| segment.is_needed(volume.log.released));
        live.map(|segment| segment.copies.len()).collect()
    }
}

fn is_idle(report: &PoolReport) -> bool {
    report.jobs.is_empty()
}

#[test]
fn a_mirror_gets_a_copy_more_and_a_copy_less() {
    let (bench, volume) = written(31, Layout::Mirror(2), 2000);
    let plan = bench.convert(Layout::Mirror(3), true).unwrap();
    assert_eq!((plan.from.as_str(), plan.survives, plan.survives_then), ("mirror:2", 1, 2));
    assert!(plan.copied_bytes > 0 && plan.taken_bytes >= plan.copied_bytes);
    assert!(bench.report().jobs.is_empty(), "it was only asked");
    let begun = bench.convert(Layout::Mirror(3), false).unwrap();
    assert_eq!(bench.convert(Layout::Mirror(3), false).unwrap().job, begun.job, "it is under way");
    let report = bench.report();
    assert_eq!(report.volumes[0].converting_to.as_deref(), Some("mirror:3"));
    assert_eq!(
        (report.jobs[0].kind.as_str(), report.jobs[0].volume.as_deref()),
        ("convert", Some("v"))
    );
    bench.write(&volume, 2000, super::pattern(2000, 50, 1)).unwrap();
    bench.until(is_idle);
    let report = bench.report();
    assert_eq!((report.volumes[0].layout.as_str(), report.survives), ("mirror:3", 2));
    assert!(bench.log_copies().iter().all(|copies| *copies == 3));
    bench.assert_sound(&volume, 2050);
    assert!(bench.convert(Layout::Mirror(3), false).is_err(), "it has that layout");
    let plan = bench.convert(Layout::Mirror(2), false).unwrap();
    assert!(plan.freed_bytes > 0 && plan.copied_bytes == 0);
    bench.until(is_idle);
    let report = bench.report();
    assert_eq!((report.volumes[0].layout.as_str(), report.survives), ("mirror:2", 1));
    assert!(!report.volumes[0].degraded);
    bench.assert_sound(&volume, 2050);
}

#[test]
fn what_finds_no_place_is_refused() {
    let (bench, _) = written(32, Layout::Mirror(2), 100);
    for disk in 2..5 {
        bench.empty(&format!("e{disk}.0"), None).unwrap();
    }
    let refused = bench.convert(Layout::Mirror(3), false).unwrap_err();
    assert!(matches!(refused, PoolError::NoSpace { .. }), "{refused}");
    assert!(bench.report().volumes[0].converting_to.is_none());
}

#[test]
fn a_conversion_goes_on_after_a_crash_and_can_be_taken_back() {
    let (bench, _) = written(33, Layout::Mirror(2), 2000);
    let free = bench.report().free_bytes;
    let job = bench.convert(Layout::Mirror(4), false).unwrap().job.unwrap();
    let bench = bench.crash_engine();
    bench.until(|report| !report.volumes.is_empty() && report.volumes[0].suspended().is_none());
    assert_eq!(bench.report().volumes[0].converting_to.as_deref(), Some("mirror:4"));
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.cancel_job("pool", job).await }).unwrap();
    bench.until(is_idle);
    let report = bench.report();
    assert_eq!((report.volumes[0].layout.as_str(), report.survives), ("mirror:2", 1));
    // All that was taken is free again, but for what the log may have otherwise now.
    assert!(report.free_bytes + (64 << 20) > free, "{} of {free}", report.free_bytes);
}

#[test]
fn no_copy_goes_while_another_one_is_behind_or_away() {
    let (bench, volume) = written(34, Layout::Mirror(3), 2000);
    bench.pass(Duration::from_secs(5));
    bench.set_mode(0, Mode::Lost);
    bench.set_mode(1, Mode::Lost);
    bench.pass(Duration::from_secs(10));
    bench.convert(Layout::Mirror(2), false).unwrap();
    bench.pass(Duration::from_secs(10));
    let waits = |report: &PoolReport| {
        report.jobs.iter().any(|job| matches!(job.state, JobState::Waiting { .. }))
    };
    let report = bench.report();
    // Groups that have at most one copy on the two may be done with.
    assert!(waits(&report), "{report:#?}");
    bench.set_mode(0, Mode::Well);
    bench.set_mode(1, Mode::Well);
    bench.until(is_idle);
    assert_eq!(bench.report().volumes[0].layout, "mirror:2");
    bench.until(|report| report.volumes[0].dirty_bytes == 0);
    bench.assert_sound(&volume, 2000);
}

#[test]
fn a_full_pool_uses_one_more_machine_by_itself() {
    let bench = Bench::new(35, 4, 48);
    let request = bench.request(3);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    let engine = Rc::clone(&bench.engine);
    let full = VolumeSize::PercentFree(100);
    let made =
        bench.run(async move { engine.create_volume("pool", "v", full, Layout::Mirror(2)).await });
    let had = made.unwrap().size_bytes;
    let engine = Rc::clone(&bench.engine);
    let added = ["e3.0".to_owned()];
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }).unwrap();
    let plan = bench.rebalance(true);
    assert!(plan.bytes > 0 && plan.volumes_then[0].bytes > plan.volumes[0].bytes, "{plan:#?}");
    let engine = Rc::clone(&bench.engine);
    let size = VolumeSize::Bytes(had + (16 << 20));
    let refused = bench.run(async move { engine.extend_volume("pool", "v", size).await });
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("pool rebalance"), "{refused}");
    // Nothing was written, so nothing has to be copied, and it is over soon.
    bench.pass(Duration::from_secs(40));
    bench.until(is_idle);
    assert_eq!(bench.rebalance(true).bytes, 0);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.extend_volume("pool", "v", size).await }).unwrap();
    assert_eq!(bench.report().survives, 1);
}

/// What has no other copy is never rebuilt, and holds nothing up that can be done.
#[test]
fn a_pool_is_rebalanced_beside_a_volume_that_lost_its_only_copy() {
    let bench = Bench::new(36, 5, 48);
    let request = bench.request(4);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    let make = |name: &'static str, mib: u64, layout| {
        let (engine, size) = (Rc::clone(&bench.engine), VolumeSize::Bytes(mib << 20));
        bench.run(async move { engine.create_volume("pool", name, size, layout).await }).unwrap();
        bench.engine.open_volume("pool", name).unwrap()
    };
    let (lost, kept) = (make("lost", 8, Layout::Raid0), make("v", 40, Layout::Mirror(2)));
    for first in (0..1000).step_by(50) {
        bench.write(&lost, first, super::pattern(first, 50, 1)).unwrap();
        bench.write(&kept, first, super::pattern(first, 50, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(5));
    let extents: Vec<usize> = {
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let lost = meta.volumes().values().find(|volume| volume.name == "lost").unwrap();
        let on = |disk: &DiskNumber| lost.runs.is_on(*disk);
        meta.disks().keys().enumerate().filter(|(_, disk)| on(disk)).map(|(at, _)| at).collect()
    };
    bench.set_rebuild_delay(5);
    bench.set_mode(extents[0], Mode::Lost);
    bench.pass(Duration::from_secs(120));
    let engine = Rc::clone(&bench.engine);
    let added = ["e4.0".to_owned()];
    bench.run(async move { engine.extend_pool("pool", &ExtendPool::of(&added)).await }).unwrap();
    assert!(bench.rebalance(false).bytes > 0);
    let is_over = |report: &PoolReport| report.jobs.iter().all(|job| job.kind == "rebuild");
    bench.until(is_over);
    let jobs = bench.report().jobs;
    let waits = |why: &str| why.contains("volume lost");
    assert!(matches!(&jobs[0].state, JobState::Waiting { why } if waits(why)), "{jobs:?}");
    bench.assert_reads(&kept, 1000);
}
