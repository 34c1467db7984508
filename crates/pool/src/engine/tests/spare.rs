//! Space that is kept free for a loss, as people set and see it.

use super::*;
use crate::error::PoolError;
use crate::spare::Spare;
use crate::{EmptyDisks, PoolSettings};

impl Bench {
    fn create_keeping(&self, spare: Option<Spare>) -> PoolReport {
        let request = CreatePool { spare, ..self.request(self.disks.len()) };
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.create_pool(request).await }).unwrap()
    }

    fn keep_spare(&self, spare: Option<Spare>) {
        let engine = Rc::clone(&self.engine);
        let settings = PoolSettings { spare: Some(spare), ..PoolSettings::default() };
        self.run(async move { engine.set_pool("pool", &settings).await }).unwrap();
    }

    fn fill(&self, name: &'static str, layout: Layout) -> Result<u64, PoolError> {
        let (engine, all) = (Rc::clone(&self.engine), VolumeSize::PercentFree(100));
        let made = self.run(async move { engine.create_volume("pool", name, all, layout).await });
        made.map(|volume| volume.size_bytes)
    }
}

#[test]
fn a_pool_is_made_with_a_spare_and_all_that_is_free_leaves_it_out() {
    let without = Bench::new(61, 4, 64);
    assert_eq!(without.create_keeping(None).spare, None);
    let all = without.fill("v", Layout::Mirror(2)).unwrap();
    let bench = Bench::new(61, 4, 64);
    let report = bench.create_keeping(Some(Spare::Node));
    let spare = report.spare.clone().unwrap();
    assert!(spare.is_held() && spare.kept_bytes > 0, "{spare:?}");
    assert!(report.free_beside_spare_bytes() < report.free_bytes);
    let some = bench.fill("v", Layout::Mirror(2)).unwrap();
    assert!(some * 100 < all * 75 && some * 100 > all * 50, "{some} of {all}");
    let report = bench.report();
    assert!(report.spare.as_ref().unwrap().is_held(), "{:?}", report.spare);
    // What is left is kept for logs.
    assert!(report.free_beside_spare_bytes() * 4 < report.free_bytes, "{:?}", report.spare);
    // It goes with the pool.
    let bench = bench.crash_engine();
    bench.until(|report| report.volumes.iter().any(|volume| volume.suspended().is_none()));
    assert!(bench.report().spare.unwrap().is_held());
    bench.keep_spare(None);
    assert_eq!(bench.report().spare, None);
    bench.fill("w", Layout::Mirror(2)).unwrap();
}

#[test]
fn what_can_not_be_held_is_accepted_and_said() {
    let bench = Bench::new(62, 3, 64);
    bench.create_keeping(None);
    bench.fill("v", Layout::Mirror(2)).unwrap();
    bench.keep_spare(Some(Spare::Disk));
    let spare = bench.report().spare.unwrap();
    assert!(!spare.is_held() && spare.lacks.unwrap().contains("were lost"));
    let refused = bench.fill("w", Layout::Raid0).unwrap_err().to_string();
    assert!(refused.contains("for the pool's spare (for the loss of any one disk)"), "{refused}");
    // A little of each disk still finds a place.
    bench.keep_spare(Some(Spare::Bytes(1)));
    assert!(!bench.report().spare.unwrap().is_held(), "not even that");
}

#[test]
fn what_people_want_moved_may_use_it_and_more_copies_may_not() {
    let bench = Bench::new(63, 4, 64);
    bench.create_keeping(Some(Spare::Disk));
    bench.fill("v", Layout::Mirror(2)).unwrap();
    let refused = bench.convert(Layout::Mirror(3), true).unwrap_err();
    assert!(matches!(refused, PoolError::NoSpace { .. }), "{refused}");
    assert!(refused.to_string().contains("spare off"), "{refused}");
    let engine = Rc::clone(&bench.engine);
    let request = EmptyDisks { disks: vec!["e1.0".into()], dry_run: true, ..EmptyDisks::default() };
    let plan = bench.run(async move { engine.empty_disks("pool", &request).await }).unwrap();
    assert!(plan.spare_lacks.unwrap().contains("were lost"), "it isn't said");
    bench.empty("e1.0", None).unwrap();
    bench.until(|report| report.jobs.iter().all(|job| job.state == crate::JobState::Done));
    assert!(!bench.report().spare.unwrap().is_held());
    assert_eq!(bench.report().survives, 1);
    assert!(bench.fill("w", Layout::Mirror(2)).is_err());
}
