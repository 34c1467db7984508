//! Witnesses: of two machines with data and a third one that only votes, any one may be lost.

use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Instant};

use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{CreatePool, ExtendPool};
use super::{MIB, pattern};
use crate::check::{CheckOptions, DiskImage, Severity, check};
use crate::error::PoolError;
use crate::format::{DiskGeometry, ExtentNumber, ExtentRange};
use crate::metadata::{AreaLayout, Layout};
use crate::report::{DiskState, JobState, PoolReport, PoolState};

/// A witness that is as small as one may be here.
const SMALL: usize = 10;

fn request(disks: &[&str], witnesses: &[&str]) -> CreatePool {
    let names = |disks: &[&str]| -> Vec<String> { disks.iter().map(ToString::to_string).collect() };
    CreatePool {
        witnesses: names(witnesses),
        extent_bytes: Some(256 << 10),
        ..CreatePool::of("pool", &names(disks))
    }
}

/// Disks of so many MiB, each on a machine of its own: `e0.0` and so on.
fn bench_of(seed: u64, mib: &[usize]) -> Bench {
    let disk =
        |(node, mib): (usize, &usize)| TestDisk::new(&format!("e{node}.0"), node as u8, mib << 20);
    let disks = mib.iter().enumerate().map(disk).collect();
    Bench::with(seed, disks, Instant::from_nanos(1_000_000_000), 1)
}

impl Bench {
    fn create_witnessed(
        &self,
        disks: &[&str],
        witnesses: &[&str],
    ) -> Result<PoolReport, PoolError> {
        let (engine, request) = (Rc::clone(&self.engine), request(disks, witnesses));
        self.run(async move { engine.create_pool(request).await })
    }

    fn extend_by_witness(&self, witness: &str) -> Result<PoolReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        let witnesses = vec![witness.to_owned()];
        let request = ExtendPool { witnesses, ..ExtendPool::default() };
        self.run(async move { engine.extend_pool("pool", &request).await })
    }

    /// A disk on a machine of its own, from now on in sight.
    fn replacement(&self, name: &str, is_witness: bool) -> Result<PoolReport, PoolError> {
        let mib = if is_witness { SMALL } else { 48 };
        self.attach(&TestDisk::new(name, 9, mib << 20));
        self.pass(Duration::from_secs(1));
        if is_witness {
            return self.extend_by_witness(name);
        }
        let (engine, added) = (Rc::clone(&self.engine), ExtendPool::of(&[name.to_owned()]));
        self.run(async move { engine.extend_pool("pool", &added).await })
    }

    /// All that was written is there.
    fn assert_well(&self, volume: &Rc<dyn BlockDevice>) {
        self.until(|report| report.state == PoolState::Online && report.jobs.is_empty());
        assert!(self.read(volume, 0, 100).unwrap() == pattern(0, 100, 1));
        assert_eq!(self.verify(None).bad, vec![]);
    }

    fn voters(&self) -> Vec<String> {
        let disks = self.report().disks;
        let names = disks.into_iter().filter(|disk| disk.holds_vote).map(|disk| disk.name);
        names.collect()
    }

    /// A look at all images finds nothing wrong, and so many copies of the metadata.
    fn assert_checked(&self, copies: usize) {
        let images: Vec<Vec<u8>> = self.disks.iter().map(|disk| disk.image()).collect();
        let named = images.iter().enumerate();
        let images: Vec<DiskImage<'_>> =
            named.map(|(at, bytes)| DiskImage::of_bytes(format!("e{at}.0"), bytes)).collect();
        let report = check(&images, &CheckOptions { data: true, pool: None });
        let serious: Vec<_> =
            report.all_findings().filter(|found| found.severity != Severity::Note).collect();
        assert!(serious.is_empty(), "{serious:#?}");
        assert_eq!(report.pools[0].metadata.len(), copies);
    }
}

/// Two machines with data, a third with the witness, and a volume of which something was written.
fn two_and_a_witness(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
    let bench = bench_of(seed, &[48, 48, SMALL]);
    bench.create_witnessed(&["e0.0", "e1.0"], &["e2.0"]).unwrap();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 200, 1)).unwrap();
    (bench, volume)
}

fn refusal(refused: Result<PoolReport, PoolError>) -> String {
    match refused {
        Err(error @ (PoolError::Refused { .. } | PoolError::Invalid { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_witness_votes_and_has_no_data() {
    let (bench, volume) = two_and_a_witness(700);
    let report = bench.report();
    assert_eq!((report.state, report.votes.total, report.survives), (PoolState::Online, 3, 1));
    assert_eq!(bench.voters(), ["e0.0", "e1.0", "e2.0"]);
    let roles: Vec<(bool, u64)> =
        report.disks.iter().map(|disk| (disk.is_witness, disk.free_bytes)).collect();
    assert_eq!((roles[0].0, roles[1].0, roles[2]), (false, false, (true, 0)));
    // What would be there without it.
    let without = bench_of(700, &[48, 48]);
    let plain = without.create_witnessed(&["e0.0", "e1.0"], &[]).unwrap();
    assert_eq!((report.capacity_bytes, plain.votes.total), (plain.capacity_bytes, 2));
    // Whatever is written, it goes elsewhere, and logs are as long as without a machine that has no room.
    for first in (0..2000).step_by(100) {
        bench.write(&volume, first, pattern(first, 100, 1)).unwrap();
    }
    let open = bench.engine.open_pool("pool").unwrap();
    let meta = open.pool.meta.borrow().clone();
    let witness = meta.disks().values().find(|disk| disk.is_witness()).unwrap().number;
    for known in meta.volumes().values() {
        let held = known.runs.values().flat_map(|run| run.holders());
        assert!(held.into_iter().all(|member| member.disk != witness));
        let copies = known.log.segments.values().flat_map(|segment| &segment.copies);
        assert!(copies.into_iter().all(|copy| copy.disk != witness));
    }
    let all = meta.disks().keys().copied().collect();
    let data = meta.data_disks().map(|disk| disk.number).collect();
    let segments = |disks| crate::allocate::segments_per_log(&meta, disks);
    assert_eq!(segments(&all), segments(&data));
    bench.pass(Duration::from_secs(30));
    bench.assert_checked(3);
}

#[test]
fn a_witness_would_be_lost_with_each_machine_that_has_data_whether_it_votes_or_not() {
    let bench = bench_of(690, &[48; 6]);
    let disks: Vec<String> = (0..6).map(|node| format!("e{node}.0")).collect();
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let (engine, asked) = (Rc::clone(&bench.engine), request(&disks, &[]));
    let votes = bench.run(async move { engine.plan_create(&asked).await }).unwrap().votes;
    assert_eq!((votes.votes, votes.machines.len()), (5, 6));
    bench.create_witnessed(&disks, &[]).unwrap();
    let engine = Rc::clone(&bench.engine);
    let plan = async move { engine.plan_extend("pool", &ExtendPool::default()).await };
    let votes = bench.run(plan).unwrap().votes;
    assert_eq!((votes.votes, votes.machines.len()), (5, 6));
}

#[test]
fn a_blank_disk_that_a_command_has_taken_is_not_free() {
    let bench = bench_of(691, &[48]);
    bench.pass(Duration::from_secs(1));
    let state = || {
        let engine = Rc::clone(&bench.engine);
        bench.run(async move { engine.disks().await })[0].state.clone()
    };
    assert_eq!(state(), DiskState::Free);
    let taking = bench.engine.taken.take(&["e0.0".to_owned()], None).unwrap();
    assert_eq!(state(), DiskState::Seen);
    drop(taking);
    assert_eq!(state(), DiskState::Free);
}

#[test]
fn any_one_of_three_machines_may_be_lost_for_good() {
    for lost in 0..3 {
        for crashes in [false, true] {
            let (bench, volume) = two_and_a_witness(710 + lost as u64);
            bench.set_rebuild_delay(20);
            bench.set_mode(lost, Mode::Lost);
            bench.pass(Duration::from_secs(if crashes { 1 } else { 60 }));
            let (bench, volume) = match crashes {
                false => (bench, volume),
                true => {
                    drop(volume);
                    let bench = bench.crash_engine();
                    bench.set_mode(lost, Mode::Lost);
                    let volume = bench.reopened();
                    (bench, volume)
                }
            };
            let report = bench.report();
            assert!(report.lease_ok && report.votes.present == 2, "{lost}: {report:#?}");
            assert!(bench.read(&volume, 0, 200).unwrap() == pattern(0, 200, 1), "{lost}");
            bench.write(&volume, 300, pattern(300, 50, 1)).unwrap();
            // Another machine takes its place: its vote moves there, and its data.
            let name = format!("e{lost}.0");
            let added = bench.replacement("e3.0", lost == 2);
            assert!(added.is_ok(), "{lost}: {added:?}");
            bench.remove(&name).unwrap();
            bench.until(|report| report.disks.len() == 3 && report.jobs.is_empty());
            bench.until(|report| report.votes.present == 3 && report.votes.total == 3);
            bench.until(|report| report.state == PoolState::Online && report.survives == 1);
            assert!(bench.read(&volume, 300, 50).unwrap() == pattern(300, 50, 1), "{lost}");
        }
    }
}

#[test]
fn a_witness_that_joins_votes_and_gives_way_to_a_machine_with_data() {
    let bench = bench_of(720, &[48, 48, SMALL, 48]);
    bench.create_witnessed(&["e0.0", "e1.0"], &[]).unwrap();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 100, 1)).unwrap();
    assert_eq!(bench.report().votes.total, 2);
    bench.extend_by_witness("e2.0").unwrap();
    bench.until(|report| report.votes.present == 3 && report.survives == 1);
    bench.pass(Duration::from_secs(30));
    // With three others it has nothing to add, and is there when one of them goes.
    let (engine, added) = (Rc::clone(&bench.engine), ExtendPool::of(&["e3.0".to_owned()]));
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    bench.until(|report| {
        let holds = |name: &str| report.disks.iter().any(|d| d.name == name && d.holds_vote);
        report.votes.total == 3 && holds("e3.0") && !holds("e2.0")
    });
    bench.remove("e3.0").unwrap();
    bench.until(|report| report.disks.len() == 3 && report.votes.total == 3);
    assert_eq!(bench.voters(), ["e0.0", "e1.0", "e2.0"]);
    bench.assert_well(&volume);
}

#[test]
fn a_witness_is_emptied_of_its_vote_and_removed_and_takes_nobodys_place() {
    let (bench, volume) = two_and_a_witness(730);
    for (old, new) in [("e2.0", "e1.0"), ("e0.0", "e2.0")] {
        let refused = bench.empty(old, Some(new)).unwrap_err().to_string();
        assert!(refused.contains("e2.0 refused: it is a witness"), "{refused}");
    }
    bench.empty("e2.0", None).unwrap();
    bench.until(|report| report.jobs.iter().all(|job| job.state == JobState::Done));
    assert_eq!(bench.voters(), ["e0.0", "e1.0"]);
    bench.remove("e2.0").unwrap();
    bench.until(|report| report.disks.len() == 2 && report.jobs.is_empty());
    // It carries nothing of the pool, and may be added again; what it had of the metadata is wiped first.
    bench.pass(Duration::from_secs(20));
    bench.extend_by_witness("e2.0").unwrap();
    bench.until(|report| report.votes.present == 3);
    bench.assert_well(&volume);
    // Without the others it has nothing to vote on.
    let last = bench.remove("e0.0").and_then(|_| bench.remove("e1.0"));
    assert!(last.is_err(), "{last:?}");
}

#[test]
fn what_cannot_be_a_witness_is_refused_by_name() {
    let mut disks: Vec<Rc<TestDisk>> = [(0, 48), (1, 48), (2, SMALL - 1), (2, SMALL)]
        .iter()
        .enumerate()
        .map(|(at, (node, mib))| TestDisk::new(&format!("e{at}.0"), *node, mib << 20))
        .collect();
    disks.push(TestDisk::new("e4.0", 1, SMALL << 20));
    let bench = Bench::with(740, disks, Instant::from_nanos(1_000_000_000), 1);
    let create = |witness: &str| refusal(bench.create_witnessed(&["e0.0", "e1.0"], &[witness]));
    let small = create("e2.0");
    assert!(small.contains("too small"), "{small}");
    let twice = create("e1.0");
    assert!(twice.contains("named twice"), "{twice}");
    let alone = refusal(bench.create_witnessed(&[], &["e3.0"]));
    assert!(alone.contains("no disk is named"), "{alone}");
    bench.create_witnessed(&["e0.0", "e1.0"], &[]).unwrap();
    let small = refusal(bench.extend_by_witness("e2.0"));
    assert!(small.contains("too small"), "{small}");
    bench.extend_by_witness("e3.0").unwrap();
    bench.until(|report| report.votes.present == 3);
}

#[test]
fn on_a_machine_with_data_a_witness_lets_the_others_be_lost_and_gives_way_to_a_better_one() {
    let mut disks: Vec<Rc<TestDisk>> =
        (0..2).map(|node| TestDisk::new(&format!("e{node}.0"), node, 48 << 20)).collect();
    disks.push(TestDisk::new("e2.0", 0, SMALL << 20));
    disks.push(TestDisk::new("e3.0", 3, SMALL << 20));
    let bench = Bench::with(745, disks, Instant::from_nanos(1_000_000_000), 1);
    bench.create_witnessed(&["e0.0", "e1.0"], &["e2.0"]).unwrap();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    assert_eq!(bench.voters(), ["e0.0", "e1.0", "e2.0"]);
    assert!(bench.report().votes.lacks_witness, "either could be lost with one elsewhere");
    assert_eq!(bench.report().survives, 0);
    // Of three votes two are on the first machine.
    bench.set_mode(1, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 200, 1)).unwrap();
    bench.until(|report| report.state == PoolState::Degraded);
    bench.set_mode(1, Mode::Well);
    bench.assert_well(&volume);
    bench.attach(&TestDisk::new("e4.0", 1, SMALL << 20));
    bench.pass(Duration::from_secs(1));
    let second = refusal(bench.extend_by_witness("e4.0"));
    assert!(second.contains("it would never vote"), "{second}");
    bench.extend_by_witness("e3.0").unwrap();
    bench.until(|report| report.votes.total == 3 && report.survives == 1);
    assert_eq!(bench.voters(), ["e0.0", "e1.0", "e3.0"]);
    bench.assert_well(&volume);
}

#[test]
fn in_place_of_a_dead_witness_another_one_beside_data_is_taken() {
    let mut disks: Vec<Rc<TestDisk>> =
        (0..2).map(|node| TestDisk::new(&format!("e{node}.0"), node, 48 << 20)).collect();
    disks.push(TestDisk::new("e2.0", 0, SMALL << 20));
    disks.push(TestDisk::new("e3.0", 1, SMALL << 20));
    let bench = Bench::with(746, disks, Instant::from_nanos(1_000_000_000), 1);
    bench.create_witnessed(&["e0.0", "e1.0"], &["e2.0"]).unwrap();
    bench.set_mode(2, Mode::Lost);
    bench.until(|report| report.votes.present == 2);
    let early = refusal(bench.extend_by_witness("e3.0"));
    assert!(early.contains("it would never vote"), "it may be back: {early}");
    bench.pass(Duration::from_secs(20 * 60));
    bench.extend_by_witness("e3.0").unwrap();
    bench.until(|report| report.votes.present == 3);
    assert_eq!(bench.voters(), ["e0.0", "e1.0", "e3.0"]);
}

#[test]
fn more_than_metadata_may_be_is_refused_for_a_witness() {
    let geometry = DiskGeometry::new(1026 * MIB, 4 * MIB).unwrap();
    let all = |extents| ExtentRange::new(ExtentNumber(0), extents);
    let layout = AreaLayout::of(&geometry, all(geometry.extents()));
    assert_eq!(layout.map(|layout| layout.area_bytes()), Some(1 << 30));
    let larger = DiskGeometry::new(1030 * MIB, 4 * MIB).unwrap();
    assert_eq!(AreaLayout::of(&larger, all(larger.extents())), None);
}

#[test]
fn an_ordinary_disk_never_becomes_a_witness() {
    let bench = bench_of(750, &[48, 48, SMALL]);
    bench.create_witnessed(&["e0.0", "e1.0"], &[]).unwrap();
    let (engine, added) = (Rc::clone(&bench.engine), ExtendPool::of(&["e2.0".to_owned()]));
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    bench.pass(Duration::from_secs(90));
    let report = bench.report();
    assert!(report.disks.iter().all(|disk| !disk.is_witness), "{report:#?}");
    assert_eq!(bench.voters(), ["e0.0", "e1.0"]);
}
