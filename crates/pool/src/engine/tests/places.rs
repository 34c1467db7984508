//! Where disks were, for people who look for them.

use std::time::Duration;

use super::super::testing::{Bench, Mode};
use super::jobs::written;
use super::pattern;
use crate::metadata::Layout;
use crate::report::DiskState;

impl Bench {
    /// Properties of the pool that say where disks were.
    fn kept_places(&self) -> Vec<String> {
        let open = self.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let kept = meta.properties().iter().filter(|(key, _)| key.starts_with("place-"));
        kept.map(|(_, value)| value.clone()).collect()
    }

    fn commits(&self) -> u64 {
        let open = self.engine.open_pool("pool").unwrap();
        open.pool.area.borrow().committed().0
    }
}

#[test]
fn a_disk_that_is_gone_is_named_by_what_stands_on_it_also_elsewhere() {
    let (bench, volume) = written(31, Layout::Mirror(2), 200);
    bench.pass(Duration::from_secs(70));
    assert_eq!(bench.kept_places().len(), 5);
    bench.set_mode(0, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(8));
    let gone = bench.report().disks[0].clone();
    assert_eq!((gone.state, gone.serial.as_str()), (DiskState::Missing, "SERIAL-e0.0"));
    let seen = gone.last_seen_secs.unwrap();
    // Another supervisor that never saw it: its records say nothing of the pool.
    let now = bench.executor.handle().now() + Duration::from_secs(60);
    let others: Vec<_> = bench.disks[1..].to_vec();
    drop(bench);
    let bench = Bench::with(32, others, now, 2);
    bench.pass(Duration::from_secs(5));
    let engine = std::rc::Rc::clone(&bench.engine);
    let force = super::super::ImportOptions { force: true, ..Default::default() };
    bench.run(async move { engine.import_pool("pool", force).await }).unwrap();
    let gone = bench.report().disks[0].clone();
    assert_eq!((gone.name.as_str(), gone.node.as_str()), ("e0.0", "node-0"));
    assert_eq!((gone.device_name.as_str(), gone.serial.as_str()), ("/dev/e0.0", "SERIAL-e0.0"));
    assert_eq!(gone.last_seen_secs, Some(seen));
    let open = bench.engine.open_pool("pool").unwrap();
    let member = open.pool.members().into_iter().find(|m| !m.is_usable()).unwrap();
    let said = open.pool.describe(&member);
    assert!(
        said.starts_with("e0.0 (/dev/e0.0 on node-0, serial SERIAL-e0.0, last seen "),
        "{said}"
    );
}

#[test]
fn disks_that_come_and_go_cost_few_commits() {
    let (bench, _volume) = written(33, Layout::Mirror(2), 200);
    bench.pass(Duration::from_secs(200));
    let (before, places) = (bench.commits(), bench.kept_places());
    bench.pass(Duration::from_secs(600));
    assert_eq!((bench.commits(), bench.kept_places()), (before, places), "nothing changed");
    // Nor is anything left of one that is the pool's no more.
    bench.remove("e0.0").unwrap();
    bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
    assert_eq!(bench.kept_places().len(), 4);
}
