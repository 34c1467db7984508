//! What is left of a pool becomes one of its own: by word, as it was shown, whatever cuts it short, and whoever still
//! has the rest.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Instant};

use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{ExtendPool, ImportOptions};
use super::pattern;
use crate::check::{CheckOptions, DiskImage, Severity, check};
use crate::endings::{SplitPlan, SplitReport};
use crate::error::PoolError;
use crate::metadata::Layout;
use crate::report::{DiskState, PoolReport, PoolState};

impl Bench {
    pub(super) fn plan_split(&self, pool: &str) -> Result<SplitPlan, PoolError> {
        let (engine, pool) = (Rc::clone(&self.engine), pool.to_owned());
        self.run(async move { engine.plan_split(&pool).await })
    }

    pub(super) fn split(&self, plan: &SplitPlan) -> Result<SplitReport, PoolError> {
        let (engine, plan) = (Rc::clone(&self.engine), plan.clone());
        self.run(async move { engine.split_pool(&plan, ImportOptions::default()).await })
    }

    pub(super) fn import_id(&self, id: &str) -> Result<PoolReport, PoolError> {
        let (engine, id) = (Rc::clone(&self.engine), id.to_owned());
        self.run(async move { engine.import_pool(&id, ImportOptions::default()).await })
    }

    /// A pool whose machines all have all of its volume, of which some blocks were written.
    pub(super) fn everywhere(seed: u64, machines: u8) -> Bench {
        let bench = Bench::new(seed, machines, 48);
        bench.create();
        let volume = bench.create_volume(4, Layout::Mirror(machines));
        bench.write(&volume, 0, pattern(0, 100, 1)).unwrap();
        bench
    }

    /// The same disks under an engine that sees only these of them.
    pub(super) fn left_with(self, left: &[usize]) -> Bench {
        let (now, pools) = (self.executor.handle().now(), self.engine.known_pools());
        self.executor.clear();
        let bench = Bench::alone(self.seed + 1, self.disks.clone(), now, self.owner, pools);
        left.iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
        bench.pass(Duration::from_secs(30));
        bench
    }

    pub(super) fn open_id(&self) -> Option<String> {
        let reports = self.engine.reports();
        reports.into_iter().find(|report| report.lease_ok).map(|report| report.id)
    }

    pub(super) fn volume_of(&self, id: &str) -> Rc<dyn BlockDevice> {
        let serves = || {
            let reports = self.engine.reports();
            let serves = |report: &PoolReport| {
                let waits = report.volumes.iter().any(|volume| volume.suspended.is_some());
                report.id == id && report.lease_ok && !waits
            };
            reports.iter().any(serves)
        };
        for _ in 0..600 {
            if serves() {
                return self.engine.open_volume(id, "v").unwrap();
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("{:#?}", self.engine.reports());
    }
}

pub(super) fn findings(disks: &[Rc<TestDisk>]) -> Vec<String> {
    let images: Vec<Vec<u8>> = disks.iter().map(|disk| disk.image()).collect();
    let images: Vec<DiskImage<'_>> =
        images.iter().map(|image| DiskImage::of_bytes("d", image)).collect();
    let report = check(&images, &CheckOptions { data: true, ..CheckOptions::default() });
    let found = report.pools.iter().flat_map(|pool| &pool.findings);
    found.filter(|found| found.severity == Severity::Damage).map(|f| format!("{f:?}")).collect()
}

#[test]
fn what_is_left_serves_all_that_was_acknowledged_and_the_rest_is_a_stranger() {
    let bench = Bench::everywhere(900, 2).left_with(&[0]);
    let former = bench.report().id;
    assert!(bench.import_id("pool").is_err());
    let plan = bench.plan_split("pool").unwrap();
    let names = |disks: &[crate::endings::ShownDisk]| -> Vec<String> {
        disks.iter().map(|disk| disk.name.clone()).collect()
    };
    assert_eq!((names(&plan.disks), names(&plan.away)), (vec!["e0.0".into()], vec!["e1.0".into()]));
    assert_eq!((&plan.id, &plan.refusal), (&former, &None));
    let split = bench.split(&plan).unwrap();
    assert_ne!(split.id, former);
    assert!(bench.engine.known_pools().is_empty(), "the former one isn't opened by itself");
    assert_eq!(findings(&bench.disks[..1]), Vec::<String>::new());
    bench.import_id(&split.id).unwrap();
    // By its id: who asked for it knows no other name.
    let told = |text: &str| text.to_owned();
    bench.engine.tell_command(split.id.clone(), told("root"), told("pool import"), told("done"));
    let history = bench.engine.history(&split.id).unwrap();
    let kept = |event: &str| history.iter().filter(|entry| entry.event == event).count();
    assert_eq!((kept("split"), kept("command")), (1, 1), "{history:#?}");
    let volume = bench.volume_of(&split.id);
    assert!(bench.read(&volume, 0, 100).unwrap() == pattern(0, 100, 1));
    bench.write(&volume, 0, pattern(0, 50, 2)).unwrap();
    assert_eq!(bench.label(0).splits_from, None);

    // The other machine is back. It is another pool's, here as elsewhere, and what is there stays.
    let other = bench.disks[1].image();
    bench.attach(&bench.disks[1]);
    bench.pass(Duration::from_secs(60));
    let disks = &bench.engine.reports().into_iter().find(|r| r.id == split.id).unwrap().disks;
    assert!(
        disks.iter().all(|disk| (disk.name == "e0.0") == (disk.state == DiskState::Usable)),
        "{disks:?}"
    );
    assert!(bench.disks[1].image() == other, "it was written to");
    let unasked = ExtendPool::of(&["e1.0".to_owned()]);
    let (engine, id) = (Rc::clone(&bench.engine), split.id.clone());
    let refused = bench.run(async move { engine.extend_pool(&id, &unasked).await });
    assert!(refused.is_err() && bench.disks[1].image() == other);

    // Its owner goes on with it in the same way.
    let elsewhere = bench.other(2).left_with(&[1]);
    let plan = elsewhere.plan_split(&former).unwrap();
    assert_eq!(plan.owner.as_deref(), Some("supervisor-1"));
    let second = elsewhere.split(&plan).unwrap();
    elsewhere.import_id(&second.id).unwrap();
    let theirs = elsewhere.volume_of(&second.id);
    assert!(elsewhere.read(&theirs, 0, 100).unwrap() == pattern(0, 100, 1));

    // Here it begins anew by itself, once all is back as before.
    let bench = bench.crash_engine();
    let volume = bench.volume_of(&split.id);
    assert!(bench.read(&volume, 0, 50).unwrap() == pattern(0, 50, 2));
    assert_eq!(findings(&bench.disks[..1]), Vec::<String>::new());
    // Who agrees gets the disk as an empty one, and the copies are made anew.
    let asked =
        ExtendPool { force_disks: vec!["e1.0".into()], ..ExtendPool::of(&["e1.0".to_owned()]) };
    let (engine, id) = (Rc::clone(&bench.engine), split.id.clone());
    elsewhere.executor.clear();
    bench.pass(Duration::from_secs(60));
    let report = bench.run(async move { engine.extend_pool(&id, &asked).await }).unwrap();
    let gone = report.disks.iter().find(|disk| disk.state != DiskState::Usable).unwrap().id.clone();
    bench.remove(&gone).unwrap();
    bench.until(|_| {
        let reports = bench.engine.reports();
        let report = reports.into_iter().find(|report| report.id == split.id);
        report.is_some_and(|r| r.state == PoolState::Online && r.jobs.is_empty() && r.survives == 0)
    });
    assert_eq!(findings(&bench.disks[..2]), Vec::<String>::new());
}

/// The majority is where it was and goes on: it has lost a disk, no more.
#[test]
fn a_minority_is_split_off_beside_a_majority_that_goes_on() {
    let bench = Bench::everywhere(910, 3);
    let id = bench.report().id;
    let second = bench.other(2).left_with(&[2]);
    bench.pass(Duration::from_secs(31));
    let refused = second.plan_split("pool").unwrap();
    assert!(refused.refusal.is_some(), "its owner was heard");
    assert!(second.split(&refused).is_err());
    second.pass(Duration::from_secs(60));
    let plan = second.plan_split("pool").unwrap();
    assert_eq!((plan.refusal.as_ref(), plan.away.len()), (None, 2));
    let split = second.split(&plan).unwrap();
    second.import_id(&split.id).unwrap();
    let theirs = second.volume_of(&split.id);
    second.write(&theirs, 0, pattern(0, 100, 7)).unwrap();

    bench.pass(Duration::from_secs(60));
    let ours = bench.volume_of(&id);
    bench.write(&ours, 0, pattern(0, 100, 8)).unwrap();
    assert!(bench.read(&ours, 0, 100).unwrap() == pattern(0, 100, 8));
    second.pass(Duration::from_secs(60));
    assert!(second.read(&theirs, 0, 100).unwrap() == pattern(0, 100, 7));
    // Whoever has a majority needs no such thing.
    assert!(bench.plan_split("pool").is_err());
    let bench = bench.left_with(&[0, 1]);
    assert!(bench.plan_split(&id).is_err());
}

/// It may have been looked at while another disk was there, or without one that is there by now.
#[test]
fn what_is_not_as_it_was_shown_stays_as_it_is() {
    let bench = Bench::everywhere(920, 5).left_with(&[0, 1]);
    let plan = bench.plan_split("pool").unwrap();
    bench.set_mode(1, Mode::Lost);
    let before = bench.disks[0].image();
    assert!(bench.split(&plan).is_err());
    assert!(bench.disks[0].image() == before);
    bench.set_mode(1, Mode::Well);
    bench.pass(Duration::from_secs(60));
    let again = bench.plan_split("pool").unwrap();
    assert_eq!(again.disks, plan.disks);
    // With a third they are a majority.
    bench.attach(&bench.disks[2]);
    bench.pass(Duration::from_secs(60));
    assert!(bench.split(&again).is_err());
    assert_eq!(bench.open_id(), Some(plan.id));
}

/// Cut short after any write to any disk, the same again makes one pool of all that is left; and until then none of it
/// is opened.
#[test]
fn a_split_that_is_cut_short_is_begun_again() {
    let mut cuts = 0;
    for (disk, other) in [(0, 1), (1, 0)] {
        for writes in 0..8 {
            let bench = Bench::everywhere(930 + writes, 5).left_with(&[0, 1]);
            let plan = bench.plan_split("pool").unwrap();
            bench.disks[disk].hangs_from.set(Some(bench.disks[disk].writes.get() + writes));
            let cut = bench.split(&plan).is_err();
            cuts += u32::from(cut);
            bench.disks[disk].hangs_from.set(None);
            let (now, pools) = (bench.executor.handle().now(), bench.engine.known_pools());
            bench.executor.clear();
            let random = bench.executor.handle();
            bench.disks[disk].crash(&random);
            bench.disks[disk].set_mode(Mode::Well);
            if writes % 2 == 0 {
                bench.disks[other].crash(&random);
            }
            let now = Instant::from_nanos(now.as_nanos() + 1_000_000_000);
            let bench = Bench::alone(940 + writes, bench.disks.clone(), now, 1, pools);
            [0, 1].iter().for_each(|disk| bench.attach(&bench.disks[*disk]));
            bench.pass(Duration::from_secs(60));
            assert_eq!(bench.open_id(), None, "{writes}: nobody asked for it");
            let id = match bench.plan_split("pool") {
                Ok(plan) => {
                    assert_eq!(plan.disks.len(), 2, "{writes}: {plan:?}");
                    bench.split(&plan).unwrap().id
                }
                // It was done, and only the answer is missing.
                Err(error) => {
                    assert!(!cut || error.to_string().contains("majority"), "{writes}: {error}");
                    "pool".into()
                }
            };
            let report = bench.import_id(&id).unwrap_or_else(|error| {
                panic!("{disk} {writes} {cut}: {error} {:#?}", bench.engine.reports())
            });
            let volume = bench.volume_of(&report.id);
            assert!(bench.read(&volume, 0, 100).unwrap() == pattern(0, 100, 1), "{writes}");
            let present =
                report.disks.iter().filter(|disk| disk.state == DiskState::Usable).count();
            assert_eq!(present, 2, "{writes}: {report:#?}");
            assert_eq!(findings(&bench.disks[..2]), Vec::<String>::new(), "{writes}");
        }
    }
    assert!(cuts > 8, "{cuts}");
}
