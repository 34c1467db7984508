//! Disks that are added, and such as answer at another's place.

use std::cell::RefCell;
use std::collections::BTreeMap;

use block::Instant;
use futures::future::join_all;

use super::super::testing::TestDisk;
use super::jobs::written;
use super::*;
use crate::format::DiskNumber;
use crate::report::DiskState;

impl Bench {
    /// Which disk of the pool answers at which address, if all of them are used.
    fn all_used(&self) -> Option<Vec<(String, String)>> {
        let disks = self.report().disks;
        let are_used = disks.iter().all(|disk| disk.state == DiskState::Usable);
        are_used.then(|| {
            let mut places: Vec<_> = disks.into_iter().map(|disk| (disk.name, disk.id)).collect();
            places.sort();
            places
        })
    }

    /// A machine is rebooted, and finds its disks in another order.
    fn reboot_in_order(&self, changes: &[(usize, usize)]) {
        let moved = || changes.iter().flat_map(|(a, b)| [*a, *b]);
        moved().for_each(|disk| self.set_mode(disk, Mode::Lost));
        self.pass(Duration::from_millis(1500));
        changes.iter().for_each(|(a, b)| self.disks[*a].change_places(&self.disks[*b]));
        moved().for_each(|disk| self.set_mode(disk, Mode::Well));
    }
}

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

/// Each was refused at the other's address until somebody restarted the supervisor.
#[test]
fn disks_that_change_places_are_taken_for_what_they_are() {
    for changes in [&[(0, 1)][..], &[(0, 1), (1, 2)]] {
        let (bench, volume) = written(94, Layout::Mirror(2), 2000);
        let before = bench.all_used().unwrap();
        bench.reboot_in_order(changes);
        for first in (100..500).step_by(50) {
            bench.write(&volume, first, pattern(first, 50, 2)).unwrap();
        }
        bench.until(|_| bench.all_used().is_some_and(|now| now != before));
        bench.until(|report| report.state == PoolState::Online);
        let mut expected: Vec<String> = before.iter().map(|(_, id)| id.clone()).collect();
        changes.iter().for_each(|(a, b)| expected.swap(*a, *b));
        let now: Vec<String> = bench.all_used().unwrap().into_iter().map(|(_, id)| id).collect();
        assert_eq!(now, expected);
        for first in (0..2000).step_by(50) {
            let version = if (100..500).contains(&first) { 2 } else { 1 };
            assert_eq!(bench.read(&volume, first, 50).unwrap(), pattern(first, 50, version));
        }
        let refused =
            bench.events().into_iter().find(|event| matches!(event, PoolEvent::DiskRefused { .. }));
        assert!(refused.is_none(), "nothing is wrong: {refused:?}");
    }
}

/// What is there instead is shown as what it is, nothing is written to it, and the disk is taken in when it is back.
#[test]
fn a_blank_disk_in_the_place_of_another_is_free_until_that_is_back() {
    let (bench, volume) = written(95, Layout::Mirror(2), 200);
    let (before, blank) = (bench.all_used().unwrap(), TestDisk::new("blank", 0, 48 << 20));
    let exchange = || {
        bench.set_mode(0, Mode::Lost);
        bench.pass(Duration::from_secs(2));
        bench.disks[0].change_places(&blank);
        bench.set_mode(0, Mode::Well);
    };
    exchange();
    bench.until(|report| matches!(&report.disks[0].state, DiskState::Refused { why } if why.contains("no label")));
    bench.write(&volume, 100, pattern(100, 50, 2)).unwrap();
    bench.pass(Duration::from_secs(30));
    let engine = Rc::clone(&bench.engine);
    let shown = bench.run(async move { engine.disks().await });
    assert_eq!((shown[0].name.as_str(), &shown[0].state), ("e0.0", &DiskState::Free));
    let refusals = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, PoolEvent::DiskRefused { .. }))
        .count();
    assert_eq!(refusals, 1, "it is told once");
    assert!(bench.disks[0].with_image(|bytes| bytes.iter().all(|byte| *byte == 0)));
    exchange();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.all_used().unwrap(), before);
    assert_eq!(bench.read(&volume, 100, 50).unwrap(), pattern(100, 50, 2));
}

/// Of each 100 KiB are read. A supervisor with 2,400 free disks had its cable full for good, as it looked at each every
/// five seconds, and at all at once when they came. They have turns.
#[test]
fn many_free_disks_are_looked_at_one_after_the_other() {
    let disk = |n: u16| TestDisk::new(&format!("e{n}.0"), (n % 200) as u8, 2 << 20);
    let disks = (0..600).map(disk).collect();
    let bench = Bench::with(31, disks, Instant::from_nanos(1_000_000_000), 1);
    let reads = || bench.disks.iter().map(|disk| disk.reads.get()).collect::<Vec<u64>>();
    bench.pass(Duration::from_secs(1));
    let early = reads();
    bench.pass(Duration::from_secs(3));
    let first = reads();
    assert!(first.iter().all(|count| *count == first[0] && *count > 0), "each is looked at once");
    let whole = early.iter().filter(|count| **count == first[0]).count();
    assert!((400..=501).contains(&whole), "{whole} within the first second");
    bench.pass(Duration::from_secs(16));
    let then = reads();
    assert!(then.iter().all(|count| *count >= 2 * first[0]), "nobody is forgotten");
    let looks = then.iter().sum::<u64>() / first[0] - 600;
    assert!(looks <= 15 * 50, "{looks} in 15 seconds");
}

/// Each of a disk's operations that fails would put it out. Told so often, and counted as often as coming back and going
/// again, it stayed out for minutes.
#[test]
fn a_disk_that_many_miss_is_put_out_once() {
    let bench = Bench::new(95, 3, 48);
    bench.create();
    let pool = Rc::clone(&bench.engine.open_pool("pool").unwrap().pool);
    bench.set_mode(1, Mode::Lost);
    let failed = BTreeMap::from([(DiskNumber(1), IoError::Lost)]);
    let evictions = (0..6).map(|_| {
        let (pool, failed) = (Rc::clone(&pool), failed.clone());
        async move { pool.evict(&failed, true).await }
    });
    let done = bench.run(join_all(evictions.collect::<Vec<_>>()));
    assert!(done.iter().all(Result::is_ok));
    assert!(pool.is_out(DiskNumber(1)));
    let told = bench.events().into_iter();
    let told = told.filter(|event| matches!(event, PoolEvent::DiskOut { .. })).count();
    assert_eq!(told, 1);
}
