//! Whose votes count: of a pool with a key, those that were signed by whom it had let in.

use std::rc::Rc;
use std::time::Duration;

use block::{Epoch, OwnerId};
use seal::{Grant, PoolKey, PoolKeyPair, PublicKey, SecretKey};
use uuid::Uuid;

use super::super::config::vote_place;
use super::super::testing::{Bench, Mode, TestDisk, keys};
use super::super::{ImportOptions, VolumeSize, VotesOf};
use super::{MIB, pattern};
use crate::check::{CheckOptions, DiskImage, check};
use crate::error::PoolError;
use crate::format::{
    APPLIED_BYTES, Applied, AppliedSlots, Configuration, Destruction, DiskGeometry, DiskId, PoolId,
    RecordNumber, ReleaseNumber, Signer, VOTE_BYTES, VoteSlots, Voters, select_applied,
    select_vote,
};
use crate::metadata::Layout;
use crate::report::{DiskState, PoolReport, PoolState};

/// The key of a pool by its number.
fn pool_key(number: u8) -> PoolKeyPair {
    PoolKeyPair::of(SecretKey::new([number; 32])).unwrap()
}

fn named(supervisors: &[u8]) -> Vec<PublicKey> {
    supervisors.iter().map(|of| keys(*of).public()).collect()
}

fn signer(supervisor: u8, grant: &Grant) -> Signer {
    Signer::new(Some(&keys(supervisor)), Some(&Rc::new(grant.clone()))).unwrap()
}

/// A pool of five disks on five machines, which obey `grant`, with a volume that has something.
fn made(seed: u64, grant: Option<Grant>) -> Bench {
    made_of(5, seed, grant)
}

/// The same of so many.
fn made_of(machines: u8, seed: u64, grant: Option<Grant>) -> Bench {
    let bench = Bench::new(seed, machines, 48);
    for (disk, number) in bench.disks.iter().zip(100..) {
        disk.node_key.set(Some(PublicKey([number; 32])));
    }
    let bench = Bench::with(seed, bench.disks.clone(), block::Instant::default(), 1);
    bench.pass(Duration::from_secs(1));
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(machines.into()));
    bench.run(async move { engine.create_granted(request, grant).await }).unwrap();
    let volume = bench.create_volume(1, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench
}

/// The first grant, to the supervisors 1 and 2.
fn first() -> Grant {
    pool_key(1).found(&named(&[1, 2])).unwrap()
}

impl Bench {
    fn configuration(&self) -> Configuration {
        self.engine.open_pool("pool").unwrap().pool.config.borrow().clone()
    }

    pub(super) fn ids(&self) -> (PoolId, Vec<DiskId>) {
        let open = self.engine.open_pool("pool").unwrap();
        (open.pool.id, open.pool.members().iter().map(|member| member.id).collect())
    }

    /// A supervisor of this number, with that of its records that it has.
    fn seen_by(&self, owner: u128, grants: Vec<(Uuid, Grant)>) -> Bench {
        let now = self.executor.handle().now() + Duration::from_secs(60);
        let bench = Bench::remembering(78, self.disks.clone(), now, owner, (Vec::new(), grants));
        let bench = bench.with_all();
        bench.pass(Duration::from_secs(5));
        bench
    }

    fn import_by(&self, votes: VotesOf) -> Result<PoolReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        let options = ImportOptions { force: true, votes, ..ImportOptions::default() };
        self.run(async move { engine.import_pool("pool", options).await })
    }

    fn set_grant(&self, grant: &Grant) {
        let (engine, grant) = (Rc::clone(&self.engine), grant.clone());
        self.run(async move { engine.set_grant("pool", grant).await }).unwrap();
    }

    /// What was written is there.
    fn is_whole(&self) {
        let volume = self.reopened();
        assert_eq!(self.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
    }
}

fn is_open(report: &PoolReport) -> bool {
    matches!(report.state, PoolState::Online | PoolState::Degraded)
}

fn vote_places() -> [usize; 2] {
    DiskGeometry::vote_slots().map(|slot| slot.byte_offset() as usize)
}

fn slots(disk: &TestDisk, (pool, id): (PoolId, DiskId)) -> VoteSlots {
    let image = disk.image();
    let shown = vote_places().map(|at| Some(&image[at..at + VOTE_BYTES]));
    select_vote(&vote_place(pool, id), shown, &[])
}

/// Shows a configuration on a disk, as the newest.
fn show(
    disk: &TestDisk,
    (pool, id): (PoolId, DiskId),
    config: &Configuration,
    by: Option<&Signer>,
) {
    let slot = slots(disk, (pool, id)).next_slot;
    let mut image = disk.image();
    let places = vote_places();
    let record = config.encode(&vote_place(pool, id), slot, by).unwrap();
    image[places[slot]..places[slot] + VOTE_BYTES].copy_from_slice(&record);
    disk.set_image(&image);
}

/// What somebody would have believed who has the disk with this id.
fn forgeries(genuine: &Configuration, mine: DiskId) -> Vec<Configuration> {
    let alone = Configuration {
        epoch: Epoch(genuine.epoch.0 + 1000),
        voters: Voters::of(vec![mine]),
        copies: [mine].into(),
        ..genuine.clone()
    };
    let foreign = OwnerId(Uuid::from_u128(666));
    vec![
        Configuration { owner: foreign, ..alone.clone() },
        Configuration { destruction: Destruction::Asked, ..alone.clone() },
        Configuration { destruction: Destruction::Decided, ..alone.clone() },
        Configuration { epoch: Epoch(u64::MAX), ..alone.clone() },
        alone,
    ]
}

/// Nobody's word, that of a key of one's own which names the owner, and a stranger's under the pool's own grant: the last
/// is no record at all.
fn forgers() -> Vec<Option<Signer>> {
    let own = pool_key(9).found(&named(&[1, 9])).unwrap();
    let own = pool_key(9).follow(&own, &named(&[1, 9])).unwrap();
    vec![None, Some(signer(9, &own))]
}

#[test]
fn an_opening_goes_by_what_the_pools_key_let_in() {
    for by in forgers() {
        let mut bench = made(801, Some(first()));
        let (pool, ids) = bench.ids();
        for forged in forgeries(&bench.configuration(), ids[4]) {
            show(&bench.disks[4], (pool, ids[4]), &forged, by.as_ref());
            bench = bench.crash_engine();
            bench.pass(Duration::from_secs(60));
            let report = bench.report();
            assert!(is_open(&report), "{forged:?} by {by:?}: {report:?}");
            assert!(report.epoch < 1000, "{report:?}");
            bench.is_whole();
        }
    }
}

#[test]
fn a_majority_of_forged_votes_is_told_and_not_believed() {
    let bench = made(802, Some(first()));
    let (pool, ids) = bench.ids();
    let genuine = bench.configuration();
    for (disk, id) in bench.disks.iter().zip(&ids) {
        show(disk, (pool, *id), &forgeries(&genuine, *id)[0], None);
    }
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(60));
    let state = bench.report().state;
    let PoolState::Incomplete { why } = &state else { panic!("{state:?}") };
    assert!(why.contains("votes of 5 disks aren't signed under the pool's key"), "{why}");
}

#[test]
fn who_knows_nothing_of_a_pool_goes_by_its_votes_unless_they_contradict() {
    let bench = made(803, Some(first()));
    let (pool, ids) = bench.ids();
    let mut other = bench.seen_by(2, Vec::new());
    other.import_by(VotesOf::Known).unwrap();
    other.is_whole();
    for by in forgers() {
        for forged in forgeries(&other.configuration(), ids[4]) {
            show(&bench.disks[4], (pool, ids[4]), &forged, by.as_ref());
            // Of two keys that have nothing to do with each other one may be the pool's.
            let third = other.seen_by(1, Vec::new());
            let imported = third.import_by(VotesOf::Known);
            if by.is_some() {
                let error = imported.unwrap_err().to_string();
                assert!(error.contains("--pool-key KEY"), "{error}");
            } else {
                imported.unwrap();
                third.is_whole();
            }
            show(&bench.disks[4], (pool, ids[4]), &forged, by.as_ref());
            let third = third.seen_by(2, Vec::new());
            third.import_by(VotesOf::Key(first().key())).unwrap();
            third.is_whole();
            // It is remembered.
            other = third.crash_engine();
            other.pass(Duration::from_secs(60));
            other.is_whole();
        }
    }
    let another = other.seen_by(1, Vec::new());
    assert!(another.import_by(VotesOf::Key(PoolKey([7; 32]))).is_err());
}

#[test]
fn a_closed_pool_of_two_keys_ends_once_it_was_imported_by_one() {
    let bench = made(817, Some(first()));
    let (pool, ids) = bench.ids();
    let foreign = signer(3, &pool_key(9).found(&named(&[3])).unwrap());
    let forged = &forgeries(&bench.configuration(), ids[4])[0];
    show(&bench.disks[4], (pool, ids[4]), forged, Some(&foreign));
    let other = bench.seen_by(2, Vec::new());
    let refused = other.plan_destroy("pool").unwrap_err().to_string();
    assert!(refused.contains("--pool-key KEY"), "{refused}");
    assert!(!refused.contains("bring back"), "all of them are there: {refused}");
    other.import_by(VotesOf::Key(first().key())).unwrap();
    assert_eq!(other.destroy("pool").unwrap().wiped.len(), 5);
}

#[test]
fn who_was_shut_out_is_believed_nothing_that_he_says_later() {
    let bench = made(804, Some(first()));
    let (pool, ids) = bench.ids();
    // By the pool's former key, which he had, and by the grant that named him.
    let rotated = pool_key(1).hand_over(&first(), &pool_key(2), &named(&[1])).unwrap();
    bench.set_grant(&rotated);
    let mut later = first();
    for _ in 0..5 {
        later = pool_key(1).follow(&later, &named(&[1, 2])).unwrap();
    }
    let mut bench = bench;
    for grant in [first(), later] {
        for forged in forgeries(&bench.configuration(), ids[4]) {
            show(&bench.disks[4], (pool, ids[4]), &forged, Some(&signer(2, &grant)));
            bench = bench.crash_engine();
            bench.pass(Duration::from_secs(60));
            assert!(is_open(&bench.report()), "{forged:?}: {:?}", bench.report());
            bench.is_whole();
        }
    }
    // Nor by who knows nothing of the pool, or nothing of that, or is told the key that it has now.
    let id = Uuid::from_u128(pool.0.as_u128());
    let key = VotesOf::Key(rotated.key());
    for (known, votes) in [(None, VotesOf::Known), (Some(first()), VotesOf::Known), (None, key)] {
        let forged = &forgeries(&bench.configuration(), ids[4])[0];
        show(&bench.disks[4], (pool, ids[4]), forged, Some(&signer(2, &first())));
        let records = known.map(|known| (id, known)).into_iter().collect();
        let again = bench.seen_by(1, records);
        again.import_by(votes).unwrap();
        again.is_whole();
        bench = again;
    }
    // With a successor of his own to the former key he makes at most that nobody knows what is right.
    let own = pool_key(1).hand_over(&first(), &pool_key(9), &named(&[1, 2])).unwrap();
    let forged = &forgeries(&bench.configuration(), ids[4])[0];
    show(&bench.disks[4], (pool, ids[4]), forged, Some(&signer(2, &own)));
    let again = bench.seen_by(3, vec![(id, first())]);
    let error = again.import_by(VotesOf::Known).unwrap_err().to_string();
    assert!(error.contains("--pool-key KEY"), "{error}");
}

#[test]
fn a_key_is_followed_from_one_to_the_next_and_no_further() {
    let bench = made(805, Some(first()));
    let id = Uuid::from_u128(bench.ids().0.0.as_u128());
    let both = named(&[1, 2]);
    let rotated = pool_key(1).hand_over(&first(), &pool_key(2), &both).unwrap();
    bench.set_grant(&rotated);
    assert_eq!(bench.engine.known_grants(), [(id, rotated.clone())]);
    let other = bench.seen_by(2, vec![(id, first())]);
    other.import_by(VotesOf::Known).unwrap();
    other.is_whole();
    // The secret half was lost: nothing leads from the former key to the next.
    let found = pool_key(3).found_after(&rotated, &both).unwrap();
    other.set_grant(&found);
    let bench = other.seen_by(1, vec![(id, rotated)]);
    let error = bench.import_by(VotesOf::Known).unwrap_err().to_string();
    assert!(error.contains("--pool-key"), "{error}");
    bench.import_by(VotesOf::Key(found.key())).unwrap();
    bench.is_whole();
    assert_eq!(bench.engine.known_grants(), [(id, found)]);
}

#[test]
fn a_pool_without_a_key_is_opened_as_ever_and_may_get_one() {
    let bench = made(806, None);
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(60));
    bench.is_whole();
    assert!(bench.engine.known_grants().is_empty());
    bench.engine.remove_device("e4.0");
    bench.pass(Duration::from_secs(30));
    bench.set_grant(&first());
    // That one still shows what nobody signed.
    let other = bench.seen_by(2, Vec::new());
    other.import_by(VotesOf::Known).unwrap();
    other.is_whole();
    let other = other.crash_engine();
    other.pass(Duration::from_secs(60));
    other.is_whole();
}

/// Who only looks at disks knows no key: what most of them say counts.
#[test]
fn a_check_goes_by_the_key_that_most_disks_have() {
    let bench = made(97, Some(first()));
    let (ids, genuine) = (bench.ids(), bench.configuration());
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.shutdown().await });
    let sound: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
    let look = || {
        let images: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
        let named = images.iter().enumerate();
        let images: Vec<DiskImage<'_>> =
            named.map(|(of, bytes)| DiskImage::of_bytes(format!("e{of}.0"), bytes)).collect();
        check(&images, &CheckOptions { data: false, pool: None })
    };
    let whole = look();
    assert!(whole.is_well(), "{:?}", whole.all_findings().collect::<Vec<_>>());
    let place = (ids.0, ids.1[0]);
    for by in forgers() {
        for forged in forgeries(&genuine, ids.1[0]) {
            bench.disks[0].set_image(&sound[0]);
            show(&bench.disks[0], place, &forged, by.as_ref());
            let report = look();
            let pool = &report.pools[0];
            assert_eq!((pool.votes.epoch, pool.votes.sound), (whole.pools[0].votes.epoch, 4));
            assert_eq!(pool.owner, whole.pools[0].owner);
            let told =
                pool.findings.iter().find(|found| found.what.starts_with("its vote is signed by"));
            assert_eq!(told.and_then(|found| found.disk.as_deref()), Some("e0.0"));
        }
    }
}

#[test]
fn whatever_is_said_counts_if_somebody_wants_that() {
    let bench = made(807, Some(first()));
    let (pool, ids) = bench.ids();
    let genuine = bench.configuration();
    let known = bench.engine.known_grants();
    let unsigned = Configuration { epoch: genuine.epoch.next(), released: true, ..genuine };
    for (disk, id) in bench.disks.iter().zip(&ids) {
        show(disk, (pool, *id), &unsigned, None);
    }
    let other = bench.seen_by(2, known);
    assert!(other.import_by(VotesOf::Known).is_err());
    other.import_by(VotesOf::Any).unwrap();
    other.is_whole();
}

/// A key was lost, and the pool given another, while a disk with a vote was away. Whoever doesn't know of that believes
/// the vote of that disk alone, and that is older than what others have accepted.
#[test]
fn nothing_older_is_opened_where_too_little_is_believed() {
    let bench = made(808, Some(first()));
    let id = Uuid::from_u128(bench.ids().0.0.as_u128());
    bench.engine.remove_device("e4.0");
    bench.pass(Duration::from_secs(30));
    let found = pool_key(3).found_after(&first(), &named(&[1, 2])).unwrap();
    bench.set_grant(&found);
    let volume = bench.reopened();
    bench.write(&volume, 64, pattern(64, 64, 1)).unwrap();
    let other = bench.seen_by(2, vec![(id, first())]);
    let error = other.import_by(VotesOf::Known).unwrap_err().to_string();
    assert!(error.contains("--pool-key KEY"), "{error}");
    other.import_by(VotesOf::Key(found.key())).unwrap();
    other.is_whole();
    let volume = other.reopened();
    assert_eq!(other.read(&volume, 64, 64).unwrap(), pattern(64, 64, 1));
}

#[test]
fn a_pool_that_is_only_read_is_what_its_key_says() {
    let bench = made(809, Some(first()));
    let (pool, ids) = bench.ids();
    for by in forgers() {
        for forged in forgeries(&bench.configuration(), ids[4]) {
            show(&bench.disks[4], (pool, ids[4]), &forged, by.as_ref());
            let other = bench.seen_by(2, Vec::new());
            let engine = Rc::clone(&other.engine);
            let votes = VotesOf::Key(first().key());
            let options = ImportOptions { read_only: true, votes, ..ImportOptions::default() };
            other.run(async move { engine.import_pool("pool", options).await }).unwrap();
            other.is_whole();
        }
    }
}

/// Who proves that a pool is no more isn't taken for a disk of it; who only says so is.
#[test]
fn a_copy_that_says_that_the_pool_is_destroyed_is_a_copy() {
    let bench = made(810, Some(first()));
    let (pool, ids) = bench.ids();
    let decided = &forgeries(&bench.configuration(), ids[0])[2];
    assert_eq!(decided.destruction, Destruction::Decided);
    let copy = TestDisk::new("a0.0", 9, bench.disks[0].image().len());
    copy.set_image(&bench.disks[0].image());
    copy.node_key.set(Some(PublicKey([109; 32])));
    show(&copy, (pool, ids[0]), decided, None);
    let now = bench.executor.handle().now() + Duration::from_secs(60);
    let records = (bench.engine.known_pools(), bench.engine.known_grants());
    let disks = [std::slice::from_ref(&copy), &bench.disks].concat();
    let again = Bench::remembering(79, disks, now, 1, records).with_all();
    again.pass(Duration::from_secs(60));
    again.is_whole();
    let report = again.report();
    let first = report.disks.iter().find(|disk| disk.id == ids[0].to_string()).unwrap();
    assert_eq!(first.name, "e0.0", "{report:?}");
}

/// Else a supervisor that was shut out would be let in again.
#[test]
fn a_change_of_the_key_outlives_a_release() {
    let bench = made(812, Some(first()));
    let found = pool_key(3).found_after(&first(), &named(&[1])).unwrap();
    bench.set_grant(&found);
    bench.release("pool");
    bench.pass(Duration::from_secs(5));
    bench.import_by(VotesOf::Known).unwrap();
    bench.is_whole();
    assert_eq!(bench.engine.grant("pool").unwrap().unwrap().grant, found);
    assert_eq!(bench.report().grant, Some(found));
}

/// Whoever comes back with what nobody has signed is taken in, and shows what is so.
#[test]
fn a_disk_that_comes_to_an_open_pool_with_a_forgery_is_taken_in() {
    let bench = made(813, Some(first()));
    let (pool, ids) = bench.ids();
    for forged in forgeries(&bench.configuration(), ids[4]) {
        bench.engine.remove_device("e4.0");
        bench.pass(Duration::from_secs(30));
        show(&bench.disks[4], (pool, ids[4]), &forged, None);
        show(&bench.disks[4], (pool, ids[4]), &forged, None);
        bench.attach(&bench.disks[4]);
        bench.pass(Duration::from_secs(60));
        let report = bench.report();
        assert_eq!(report.disks[4].state, DiskState::Usable, "{forged:?}");
        assert_eq!(report.votes.present, 5, "{forged:?}");
        let slots = slots(&bench.disks[4], (pool, ids[4]));
        assert_eq!(slots.newest, Some(bench.configuration()), "{forged:?}");
    }
}

/// The grant that counts becomes that of the records only when a majority has signed under it.
#[test]
fn a_pool_that_gets_a_key_is_opened_whenever_its_supervisor_ends() {
    let bench = made(811, None);
    let engine = Rc::clone(&bench.engine);
    for disk in 0..5 {
        bench.disks[disk].set_mode(Mode::Hanging);
    }
    let setting = async move { engine.set_grant("pool", first()).await };
    let _ = bench.run_for(Duration::from_secs(2), setting);
    assert!(bench.engine.known_grants().is_empty());
    assert!(bench.report().grant.is_none());
    for disk in 0..5 {
        bench.disks[disk].set_mode(Mode::Well);
    }
    let bench = bench.crash_engine();
    bench.pass(Duration::from_secs(60));
    bench.is_whole();
}

pub(super) fn applied(disk: &TestDisk, (pool, id): (PoolId, DiskId)) -> AppliedSlots {
    let image = disk.image();
    let places = DiskGeometry::applied_slots().map(|at| at.byte_offset() as usize);
    let shown = places.map(|at| Some(&image[at..at + APPLIED_BYTES]));
    select_applied(pool, id, shown)
}

fn show_applied(disk: &TestDisk, shown: &Applied) {
    let place = DiskGeometry::applied_slots()[shown.slot()];
    disk.overwrite(place, &shown.encode(None));
}

/// A disk whose applied blocks are lost gets others, signed by whoever has the pool: what it showed isn't in them.
#[test]
fn what_a_disk_makes_up_is_signed_by_nobody() {
    let bench = made(820, Some(first()));
    bench.pass(Duration::from_secs(5));
    let (pool, ids) = bench.ids();
    let open = bench.engine.open_pool("pool").unwrap();
    let expected =
        |of: &Rc<TestDisk>, id| applied(of, (pool, id)).newest.map(|newest| newest.release);
    let mine = ids
        .iter()
        .zip(&bench.disks)
        .position(|(id, disk)| expected(disk, *id) > Some(ReleaseNumber(0)));
    let mine = mine.unwrap();
    let (disk, id) = (Rc::clone(&bench.disks[mine]), ids[mine]);
    let committed = open.pool.area.borrow().committed();
    drop(open);
    let bench = bench.crash_engine();
    let shown = Applied {
        release: ReleaseNumber(0),
        record: RecordNumber(committed.0 + 1000),
        sequence: 8,
        by: None,
        ..applied(&disk, (pool, id)).newest.unwrap()
    };
    let blank = Applied { sequence: 9, ..shown };
    disk.overwrite(DiskGeometry::applied_slots()[blank.slot()], &[0; APPLIED_BYTES]);
    show_applied(&disk, &shown);
    let mut written = applied(&disk, (pool, id));
    for _ in 0..10_000 {
        bench.pass(Duration::from_millis(10));
        written = applied(&disk, (pool, id));
        if written.newest.is_some_and(|newest| newest.by.is_some()) {
            break;
        }
    }
    let newest = written.newest.unwrap();
    // Before anything else was applied.
    assert_eq!((newest.by, newest.release), (Some(keys(1).public()), ReleaseNumber(0)));
    assert!(newest.record < shown.record, "{newest:?}");
    bench.until(|report| report.state == PoolState::Online);
    bench.crash_engine().is_whole();
}

/// A majority of its machines was put back to before another supervisor had the pool, and the rest of the votes is away:
/// who was let in knows better, whoever's votes are the newest, and whatever lies in the newer slot.
#[test]
fn votes_that_were_put_back_do_not_hide_who_had_the_pool_since() {
    for hidden in [false, true] {
        let bench = made_of(7, 821, Some(first()));
        bench.pass(Duration::from_secs(5));
        let (pool, ids) = bench.ids();
        let voters = bench.configuration().voters.all();
        let votes: Vec<usize> = (0..7).filter(|of| voters.contains(&ids[*of])).collect();
        assert!(votes.len() < 7, "{votes:?}");
        let monday: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
        let known = (bench.engine.known_pools(), bench.engine.known_grants());
        let other = bench.crash_engine().seen_by(2, Vec::new());
        other.import_by(VotesOf::Known).unwrap();
        let engine = Rc::clone(&other.engine);
        let size = VolumeSize::Bytes(16 * MIB);
        let made =
            async move { engine.create_volume("pool", "tuesday", size, Layout::Mirror(2)).await };
        other.run(made).unwrap();
        let volume = other.engine.open_volume("pool", "tuesday").unwrap();
        for mib in 0..16 {
            other.write(&volume, mib * 256, pattern(mib * 256, 8, 2)).unwrap();
        }
        drop(volume);
        other.pass(Duration::from_secs(600));
        let rest: Vec<usize> = (0..7).filter(|of| !votes.contains(of)).collect();
        let by = |of: usize| applied(&other.disks[of], (pool, ids[of]));
        assert!(
            rest.iter()
                .any(|of| by(*of).newest.is_some_and(|newest| newest.by == Some(keys(2).public())))
        );
        let (now, disks) = (other.executor.handle().now(), other.disks.clone());
        other.executor.clear();
        for of in &votes {
            disks[*of].set_image(&monday[*of]);
        }
        if hidden {
            for of in &rest {
                let found = applied(&disks[*of], (pool, ids[*of]));
                let Some(newest) = found.newest else { continue };
                let sequence = found.next_sequence;
                show_applied(
                    &disks[*of],
                    &Applied { sequence, record: RecordNumber(1), by: None, ..newest },
                );
            }
        }
        let away = votes[votes.len() - 1];
        let present = (0..7).filter(|of| *of != away).map(|of| Rc::clone(&disks[of])).collect();
        let bench = Bench::remembering(79, present, now, 1, known).with_all();
        bench.pass(Duration::from_secs(60));
        let reason = bench.import_by(VotesOf::Known).unwrap_err().to_string();
        assert!(reason.contains("knows of"), "{hidden} {reason}");
    }
}
