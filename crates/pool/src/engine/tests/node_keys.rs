//! Which machine has which disk, where machines prove who they are.

use std::rc::Rc;
use std::time::Duration;

use seal::PublicKey;

use super::super::ImportOptions;
use super::super::testing::{Bench, TestDisk};
use crate::error::PoolError;
use crate::report::{DiskState, PoolEvent, PoolReport, PoolState};

/// The key of a machine.
fn key(number: u8) -> PublicKey {
    PublicKey([100 + number; 32])
}

/// Five disks on machines of their own, each of which proves its key.
fn disks(seed: u64) -> Vec<Rc<TestDisk>> {
    let bench = Bench::new(seed, 5, 48);
    for (disk, number) in bench.disks.iter().zip(0..) {
        disk.node_key.set(Some(key(number)));
    }
    bench.disks.clone()
}

fn made(seed: u64) -> Bench {
    let bench = Bench::with(seed, disks(seed), block::Instant::default(), 1);
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(5));
    bench.pass(Duration::from_secs(1));
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    bench
}

/// What is left of a supervisor that ended a minute ago: the disks, and when that is.
fn ended(bench: Bench) -> (Vec<Rc<TestDisk>>, block::Instant) {
    (bench.disks.clone(), bench.executor.handle().now() + Duration::from_secs(60))
}

/// A supervisor without records that sees these disks.
fn seen_by(owner: u128, seed: u64, disks: Vec<Rc<TestDisk>>, now: block::Instant) -> Bench {
    let bench = Bench::with(seed, disks, now, owner);
    bench.pass(Duration::from_secs(5));
    bench
}

impl Bench {
    fn keys(&self) -> Vec<Option<PublicKey>> {
        let open = self.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        meta.disks().keys().map(|disk| meta.node_key(*disk)).collect()
    }

    fn go(&self, disk: usize) {
        self.engine.remove_device(&self.disks[disk].name);
    }

    /// A disk is there, on the machine with this key.
    fn come(&self, disk: usize, node_key: PublicKey) {
        self.disks[disk].node_key.set(Some(node_key));
        self.attach(&self.disks[disk]);
        self.pass(Duration::from_secs(10));
    }

    fn state(&self, disk: usize) -> DiskState {
        self.report().disks[disk].state.clone()
    }

    fn import_of(&self, pool: &'static str) -> Result<PoolReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        let force = ImportOptions { force: true, ..ImportOptions::default() };
        self.run(async move { engine.import_pool(pool, force).await })
    }

    /// Accepts those of these names, or all.
    fn accept(&self, names: &[&str]) -> Vec<String> {
        let mut moved = self.engine.moved_disks("pool").unwrap();
        moved.retain(|moved| names.is_empty() || names.contains(&&*moved.disk));
        self.engine.accept_disks("pool", &moved).unwrap();
        self.pass(Duration::from_secs(10));
        moved.into_iter().map(|moved| moved.disk).collect()
    }
}

fn is_elsewhere(state: &DiskState) -> bool {
    matches!(state, DiskState::Refused { why } if why.contains("etherpool pool accept pool e0.0"))
}

#[test]
fn a_disk_that_another_machine_has_is_refused_until_somebody_says_that_it_was_moved() {
    let bench = made(61);
    let all: Vec<_> = (0..5).map(|number| Some(key(number))).collect();
    assert_eq!(bench.keys(), all);
    bench.go(0);
    bench.come(0, key(9));
    bench.pass(Duration::from_secs(60));
    assert!(is_elsewhere(&bench.state(0)), "{:?}", bench.state(0));
    assert_eq!(bench.keys(), all, "a disk that isn't taken in changes nothing");
    let events = bench.events().into_iter();
    let told = events
        .filter(|event| matches!(event, PoolEvent::DiskRefused { disk, .. } if disk == "e0.0"));
    assert_eq!(told.count(), 1);
    // It is back where it was.
    bench.go(0);
    bench.come(0, key(0));
    assert_eq!(bench.state(0), DiskState::Usable);

    bench.go(0);
    bench.come(0, key(9));
    let mut shown = bench.engine.moved_disks("pool").unwrap();
    shown[0].to_key = key(8);
    assert!(bench.engine.accept_disks("pool", &shown).is_err(), "nobody was shown who has it");
    assert_eq!(bench.accept(&["e0.0"]), ["e0.0"]);
    assert_eq!(bench.state(0), DiskState::Usable);
    assert_eq!(bench.keys()[0], Some(key(9)));
    assert_eq!(bench.accept(&[]), [""; 0], "there is nothing more to accept");
    // And no more where it was.
    bench.go(0);
    bench.come(0, key(0));
    assert!(is_elsewhere(&bench.state(0)), "{:?}", bench.state(0));
}

#[test]
fn what_shows_a_disk_on_another_machine_doesnt_stand_in_its_way() {
    let bench = made(62);
    let image = bench.disks[0].image();
    let other = TestDisk::new("e8.0", 8, image.len());
    other.set_image(&image);
    other.node_key.set(Some(key(8)));
    bench.attach(&other);
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.state(0), DiskState::Usable);
    bench.go(0);
    bench.pass(Duration::from_secs(30));
    assert!(!matches!(bench.state(0), DiskState::Usable), "its place isn't taken");
    bench.come(0, key(0));
    assert_eq!(bench.state(0), DiskState::Usable);
}

#[test]
fn our_records_say_whose_votes_count_before_the_metadata_can_be_read() {
    let bench = made(63).crash_engine();
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.report().state, PoolState::Online);
    for disk in 0..3 {
        bench.disks[disk].node_key.set(Some(key(9)));
    }
    // Three of five votes are shown by a machine that had none of them.
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(60));
    let report = bench.report();
    let PoolState::Incomplete { why } = &report.state else { panic!("{:?}", report.state) };
    assert!(why.contains("etherpool pool accept pool e0.0"), "{why}");
    assert_eq!(bench.accept(&["e0.0", "e1.0"]), ["e0.0", "e1.0"]);
    bench.pass(Duration::from_secs(30));
    let report = bench.report();
    assert_eq!(report.state, PoolState::Degraded);
    assert!(matches!(&report.disks[2].state, DiskState::Refused { .. }), "{:?}", report.disks[2]);
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(30));
    assert_eq!(
        bench.keys()[..3],
        [Some(key(9)), Some(key(9)), Some(key(2))],
        "it is known for good"
    );
    assert_eq!(bench.report().state, PoolState::Degraded);
}

#[test]
fn who_imports_a_pool_goes_by_its_metadata() {
    let bench = made(64);
    let (disks, now) = ended(bench);
    disks[0].node_key.set(Some(key(9)));
    let bench = seen_by(2, 65, disks.clone(), now);
    bench.import_of("pool").unwrap();
    bench.pass(Duration::from_secs(10));
    assert!(is_elsewhere(&bench.state(0)), "{:?}", bench.state(0));
    assert_eq!(bench.report().state, PoolState::Degraded);
    let (disks, now) = ended(bench);
    // A majority is elsewhere: there is nothing to go by until somebody says that this is right.
    disks[1].node_key.set(Some(key(9)));
    disks[2].node_key.set(Some(key(9)));
    let bench = seen_by(3, 66, disks, now);
    let error = bench.import_of("pool").unwrap_err();
    assert!(error.to_string().contains("votes answer"), "{error}");
    let said = bench.engine.moved_disks("pool").unwrap();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(
        (said[1].from.as_str(), said[1].from_key, said[1].to_key),
        ("node-1", Some(key(1)), key(9))
    );
    bench.accept(&[]);
    bench.import_of("pool").unwrap();
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.report().state, PoolState::Online);
}

#[test]
fn a_pool_learns_its_machines_when_it_is_first_opened_with_keys() {
    let bench = Bench::new(67, 5, 48);
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(5));
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    assert_eq!(bench.keys(), [None; 5]);
    for (disk, number) in bench.disks.iter().zip(0..) {
        disk.node_key.set(Some(key(number)));
    }
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.keys()[4], Some(key(4)));
    bench.go(0);
    bench.come(0, key(9));
    assert!(is_elsewhere(&bench.state(0)), "{:?}", bench.state(0));
}

/// A disk whose machine the pool doesn't know would be for good whoever's comes first.
#[test]
fn what_a_stranger_shows_is_taken_from_nowhere() {
    let stranger = PublicKey([crate::engine::testing::STRANGER; 32]);
    let bench = Bench::new(75, 5, 48);
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(5));
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    for (disk, number) in bench.disks.iter().zip(1..) {
        disk.node_key.set(Some(key(number)));
    }
    bench.disks[0].node_key.set(Some(stranger));
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(20));
    assert!(format!("{:?}", bench.state(0)).contains("hasn't joined"), "{:?}", bench.state(0));
    assert_eq!((bench.keys()[0], bench.keys()[1]), (None, Some(key(2))));
    bench.go(0);
    bench.come(0, key(1));
    assert_eq!(bench.keys()[0], Some(key(1)));
    // Once it is known somebody's, his word counts, whoever he is.
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(20));
    bench.go(1);
    bench.come(1, stranger);
    let moved = bench.engine.moved_disks("pool").unwrap();
    assert_eq!((moved[0].from_key, moved[0].to_key), (Some(key(2)), stranger));
    bench.accept(&[]);
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.keys()[1], Some(stranger));
}

#[test]
fn what_answers_no_claim_isnt_taken_in_later() {
    let bench = made(68);
    let (disks, now) = ended(bench);
    disks[0].node_key.set(Some(key(9)));
    disks[0].refuses_claims.set(true);
    let bench = seen_by(2, 69, disks.clone(), now);
    bench.import_of("pool").unwrap();
    disks[0].refuses_claims.set(false);
    bench.pass(Duration::from_secs(60));
    assert!(is_elsewhere(&bench.state(0)), "{:?}", bench.state(0));
    assert_eq!(bench.keys()[0], Some(key(0)));
}

#[test]
fn who_had_the_pool_meanwhile_may_have_moved_its_disks() {
    let bench = made(70);
    let pools = bench.engine.known_pools();
    let (disks, now) = ended(bench);
    let other = seen_by(2, 71, disks.clone(), now);
    other.import_of("pool").unwrap();
    for disk in 0..3 {
        other.go(disk);
        other.come(disk, key(9));
        assert_eq!(other.accept(&[]).len(), 1);
    }
    other.pass(Duration::from_secs(30));
    assert_eq!(other.report().state, PoolState::Online);
    let (disks, now) = ended(other);
    let bench = Bench::again(72, disks, now, 1, pools);
    bench.pass(Duration::from_secs(30));
    bench.import_of("pool").unwrap();
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.report().state, PoolState::Online);
    assert_eq!(bench.keys()[..3], [Some(key(9)); 3]);
}

#[test]
fn what_is_elsewhere_is_no_vote_of_a_pool_that_is_only_read() {
    let bench = made(73);
    let (disks, now) = ended(bench);
    let disks: Vec<_> = disks[..2].to_vec();
    disks[0].node_key.set(Some(key(9)));
    let bench = seen_by(2, 74, disks, now);
    let engine = Rc::clone(&bench.engine);
    let options = ImportOptions { read_only: true, ..ImportOptions::default() };
    bench.run(async move { engine.import_pool("pool", options).await }).unwrap();
    let report = bench.report();
    assert!(is_elsewhere(&report.disks[0].state), "{:?}", report.disks[0]);
    assert_eq!(report.disks[1].state, DiskState::Usable);
}
