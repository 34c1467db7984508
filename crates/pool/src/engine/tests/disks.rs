//! Disks that are added.

use std::cell::RefCell;

use super::super::testing::TestDisk;
use super::*;

/// The first command has given up waiting when its commit is done; the second one was checked before that, took the disk for
/// one that the pool doesn't know, and made another member of it.
#[test]
fn a_disk_that_is_added_twice_is_one_member() {
    let bench = Bench::new(93, 3, 48);
    bench.create();
    bench.attach(&TestDisk::new("e9.0", 9, 48 << 20));
    bench.pass(Duration::from_secs(1));
    let outcomes: Rc<RefCell<Vec<_>>> = Rc::default();
    let extend = |force: bool| {
        let (engine, outcomes) = (Rc::clone(&bench.engine), Rc::clone(&outcomes));
        let names = vec!["e9.0".to_owned()];
        let force_disks = if force { names.clone() } else { Vec::new() };
        let request = ExtendPool { force_disks, ..ExtendPool::of(&names) };
        bench.executor.handle().spawn(async move {
            let outcome = engine.extend_pool("pool", &request).await;
            outcomes.borrow_mut().push(outcome);
        });
    };
    // Labelled, and the commit gets no majority.
    (0..2).for_each(|disk| bench.set_mode(disk, Mode::Hanging));
    extend(false);
    bench.pass(Duration::from_secs(40));
    extend(true);
    bench.pass(Duration::from_secs(2));
    (0..2).for_each(|disk| bench.set_mode(disk, Mode::Well));
    bench.pass(Duration::from_secs(60));
    let report = bench.report();
    let of_it = report.disks.iter().filter(|disk| disk.name == "e9.0").count();
    assert_eq!((report.disks.len(), of_it), (4, 1), "{:#?} {:#?}", report.disks, outcomes.borrow());
}
