//! Votes and metadata copies: what was forgotten, rolled back or overtaken doesn't count.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{IoError, Lba, SectorRange};

use super::super::areas::AreaPlace;
use super::super::commit::CopyFault;
use super::super::config::UNSET;
use super::super::slot::Import;
use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{ImportOptions, VolumeSize, VotesOf};
use super::trusted::applied;
use super::{MIB, pattern};
use crate::error::PoolError;
use crate::format::{
    Applied, Configuration, DiskGeometry, DiskNumber, OutDisk, PoolId, ReleaseNumber,
};
use crate::metadata::testing::recover_bytes;
use crate::metadata::{Layout, MetaRecord, Metadata, SectionKind};
use crate::report::{DiskState, PoolEvent, PoolState};

impl Bench {
    pub(super) fn add_volume(&self, name: &'static str) {
        let engine = Rc::clone(&self.engine);
        let made = async move {
            engine.create_volume("pool", name, VolumeSize::Bytes(MIB), Layout::Mirror(2)).await
        };
        self.run(made).unwrap();
    }

    /// After a power cut the first disk is gone, and the second one has the copy of the metadata that it had in this
    /// image.
    fn left_with_metadata(self, before: &[u8]) -> Bench {
        let (mut image, area) = (self.disks[1].image(), self.area_of(1));
        image[area.clone()].copy_from_slice(&before[area]);
        self.disks[1].set_image(&image);
        let bench = self.power_cut();
        bench.disks[0].mode.set(Mode::Lost);
        bench.pass(Duration::from_secs(20));
        bench
    }

    /// Imports the pool and gives up what was changed since what is there of its metadata.
    fn import_outdated(&self) {
        let engine = Rc::clone(&self.engine);
        let options =
            ImportOptions { outdated_metadata: true, force: true, ..ImportOptions::default() };
        self.run(async move { engine.import_pool("pool", options).await }).unwrap();
    }

    /// A pool whose metadata's log may have so many bytes before a checkpoint follows.
    fn with_short_log(seed: u64, metadata_log_bytes: u64) -> Bench {
        let disks: Vec<_> =
            (0..3).map(|n| TestDisk::new(&format!("e{n}.0"), n, 24 << 20)).collect();
        let start = block::Instant::from_nanos(1_000_000_000);
        let bench = Bench::limited(seed, disks, start, 1, |limits| {
            limits.metadata_log_bytes = metadata_log_bytes;
        });
        bench.create();
        bench.add_volume("v");
        bench
    }

    fn note(&self, value: &str) {
        let (key, value) = ("note".to_owned(), Some(value.to_owned()));
        self.commit(vec![MetaRecord::PoolPropertySet { key, value }]);
    }

    /// The metadata that a disk's copy alone yields.
    pub(super) fn copy_of(&self, disk: usize) -> Metadata {
        let open = self.engine.open_pool("pool").unwrap();
        let layout = self.place_of(disk).layout;
        let image = self.disks[disk].image();
        recover_bytes(open.pool.id, &layout, &image[self.area_of(disk)]).unwrap().metadata
    }

    pub(super) fn place_of(&self, disk: usize) -> AreaPlace {
        let open = self.engine.open_pool("pool").unwrap();
        open.pool.area_place(&open.pool.member(DiskNumber(disk as u32)).unwrap()).unwrap()
    }

    /// The bytes that are a disk's metadata area.
    pub(super) fn area_of(&self, disk: usize) -> std::ops::Range<usize> {
        let place = self.place_of(disk);
        let start = place.sector_at(0).byte_offset() as usize;
        start..start + place.layout.area_bytes() as usize
    }
}

/// Finding 1.6: entries behind a hole are never found.
#[test]
fn a_metadata_copy_that_was_rolled_back_takes_no_entries_behind_a_hole() {
    for hinted in [false, true] {
        let (bench, _volume) = Bench::mirrored(300);
        let image = bench.disks[1].image();
        bench.add_volume("later");
        bench.disks[1].set_image(&image);
        if hinted {
            bench.set_mode(1, Mode::Well);
        }
        // The one entry that is under way when nobody knows yet of the restart.
        bench.add_volume("last");
        bench.until(|report| report.state == PoolState::Online);
        bench.pass(Duration::from_secs(5));
        let open = bench.engine.open_pool("pool").unwrap();
        let now = open.pool.meta.borrow().clone();
        assert_eq!(open.pool.config.borrow().copies.len(), 3, "hinted: {hinted}");
        for disk in 0..3 {
            assert!(bench.copy_of(disk) == now, "copy {disk}, hinted: {hinted}");
        }
    }
}

/// The only copy left is rolled back: memory has everything, and it is written whole.
#[test]
fn the_last_metadata_copy_is_written_whole_when_it_was_rolled_back() {
    let (bench, _volume) = Bench::mirrored(301);
    // A pool of three votes goes on with two, and with one copy of its metadata.
    bench.disks[2].mode.set(Mode::Lost);
    bench.add_volume("without-2");
    let open = bench.engine.open_pool("pool").unwrap();
    let pool = Rc::clone(&open.pool);
    let voters = open.pool.config.borrow().voters.now.clone();
    let first = voters[0];
    let left = async move {
        pool.change_configuration(|config| config.leave_copies(&[first])).await.unwrap();
    };
    bench.run(left);
    assert_eq!(open.pool.config.borrow().copies, [voters[1]].into());
    let image = bench.disks[1].image();
    bench.add_volume("later");
    bench.disks[1].set_image(&image);
    bench.add_volume("last");
    assert!(bench.copy_of(1) == *open.pool.meta.borrow());
}

/// The same: without one on the list the pool could never be opened again.
#[test]
fn the_last_metadata_copy_stays_current_whatever_it_answers() {
    let (bench, _volume) = Bench::mirrored(304);
    let open = bench.engine.open_pool("pool").unwrap();
    let pool = Rc::clone(&open.pool);
    let voters = pool.config.borrow().voters.now.clone();
    let last = pool.member_by_id(voters[1]).unwrap().number;
    bench.run(async move {
        let _meta = pool.meta_lock.acquire(1).await;
        pool.leave_older(&[voters[0], voters[2]]).await.unwrap();
        let medium = IoError::Medium(SectorRange::new(Lba(0), 8));
        // One that had taken it is off the list by now.
        let failed = [(last, CopyFault::Io(medium))].into();
        assert!(pool.part_with_copies(&failed, true, 0).await.unwrap());
        assert_eq!(pool.config.borrow().copies, [voters[1]].into());
    });
}

/// Nor does a commit go on with one that took it and is out since: it waits for the last one on the list.
#[test]
fn a_commit_waits_for_the_last_copy() {
    let bench = Bench::new(305, 5, 48);
    bench.create();
    let open = bench.engine.open_pool("pool").unwrap();
    let voters = open.pool.config.borrow().voters.now.clone();
    // What an opened pool commits by itself is done.
    bench.pass(Duration::from_secs(2));
    let is_done = Rc::new(Cell::new(false));
    let (pool, done, others) = (Rc::clone(&open.pool), Rc::clone(&is_done), voters[2..].to_vec());
    bench.set_mode(1, Mode::Hanging);
    bench.executor.handle().spawn(async move {
        let _meta = pool.meta_lock.acquire(1).await;
        pool.leave_older(&others).await.unwrap();
        let set = MetaRecord::PoolPropertySet { key: "key".into(), value: Some("value".into()) };
        pool.commit_locked(&[set]).await.unwrap();
        done.set(true);
    });
    bench.pass(Duration::from_millis(100));
    bench.set_mode(0, Mode::Lost);
    let pool = Rc::clone(&open.pool);
    bench.run(async move {
        pool.evict(&[(DiskNumber(0), IoError::Lost)].into(), true).await.unwrap();
    });
    assert_eq!(open.pool.config.borrow().copies, [voters[1]].into());
    bench.engine.remove_device("e1.0");
    bench.pass(Duration::from_secs(20));
    assert!(!is_done.get());
    bench.disks[1].set_mode(Mode::Well);
    bench.attach(&bench.disks[1]);
    bench.pass(Duration::from_secs(20));
    assert!(is_done.get());
}

/// A disk that is out and was the only copy is one of several later. Nobody waits for it then.
#[test]
fn a_copy_that_is_out_and_silent_is_given_up() {
    let (bench, _volume) = Bench::mirrored(307);
    let pool = Rc::clone(&bench.engine.open_pool("pool").unwrap().pool);
    let voters = pool.config.borrow().voters.now.clone();
    let out = pool.member_by_id(voters[2]).unwrap().number;
    let told = Rc::clone(&pool);
    bench.disks[out.0 as usize].mode.set(Mode::Lost);
    bench.run(async move {
        let leave = |config: &mut Configuration| {
            config.out.push(OutDisk { disk: out, since: UNSET });
            true
        };
        told.change_configuration(leave).await.unwrap();
    });
    assert_eq!(pool.config.borrow().copies, voters.iter().copied().collect());
    bench.add_volume("later");
    assert_eq!(pool.config.borrow().copies, [voters[0], voters[1]].into());
}

/// Whoever removed a disk may have died before the configuration forgot that it was out.
#[test]
fn a_disk_that_does_not_exist_is_not_out() {
    let (bench, _volume) = Bench::mirrored(306);
    let open = bench.engine.open_pool("pool").unwrap();
    let pool = Rc::clone(&open.pool);
    bench.run(async move {
        let gone = OutDisk { disk: DiskNumber(9), since: UNSET };
        let leave = |config: &mut Configuration| {
            config.out.push(gone);
            true
        };
        pool.change_configuration(leave).await.unwrap();
    });
    drop(open);
    bench.disks[2].mode.set(Mode::Lost);
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Degraded);
    let open = bench.engine.open_pool("pool").unwrap();
    let out: Vec<u32> = open.pool.config.borrow().out.iter().map(|out| out.disk.0).collect();
    assert_eq!(out, [2]);
}

/// Attempts that failed may take all the room there is.
#[test]
fn a_checkpoint_without_room_gives_up_the_former_one() {
    let (bench, _volume) = Bench::mirrored(303);
    let open = bench.engine.open_pool("pool").unwrap();
    let checkpoint = || {
        let pool = Rc::clone(&open.pool);
        bench.run(async move {
            let _meta = pool.meta_lock.acquire(1).await;
            pool.write_checkpoint(None).await.unwrap();
        });
    };
    bench.add_volume("first");
    checkpoint();
    let everything = open.pool.area.borrow().layout.section_space();
    open.pool.area.borrow_mut().in_use = everything.into();
    let before = open.pool.area.borrow().position.sequence;
    bench.add_volume("second");
    checkpoint();
    assert!(open.pool.area.borrow().position.sequence > before);
    let now = open.pool.meta.borrow().clone();
    for disk in 0..3 {
        assert!(bench.copy_of(disk) == now, "copy {disk}");
    }
    bench.add_volume("third");
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.report().volumes.len(), 4);
}

/// What a checkpoint kept is read back too, and what is rotten written anew: to the last copy also, whose
/// headers are all that there is until then.
#[test]
fn a_section_that_rots_is_noticed_and_its_copy_written_anew() {
    for is_last in [false, true] {
        let (bench, _volume) = Bench::mirrored(302);
        let open = bench.engine.open_pool("pool").unwrap();
        bench.pass(Duration::from_secs(20));
        let pool = Rc::clone(&open.pool);
        let voters = open.pool.config.borrow().voters.now.clone();
        let others = [voters[0], voters[2]];
        let checkpoint = async move {
            let _meta = pool.meta_lock.acquire(1).await;
            if is_last {
                pool.leave_older(&others).await.unwrap();
            }
            pool.write_checkpoint(None).await.unwrap();
        };
        bench.run(checkpoint);
        let member = open.pool.member_by_id(voters[1]).unwrap();
        let section = open.pool.area.borrow().base.table.sections[0].clone();
        let area = open.pool.area_place(&member).unwrap();
        let at = area.sector_at(area.layout.run_offset(&section.place[0])).byte_offset() as usize;
        let mut image = bench.disks[1].image();
        image[at + 3] ^= 1;
        bench.disks[1].set_image(&image);
        bench.pass(Duration::from_secs(40));
        assert!(bench.copy_of(1) == *open.pool.meta.borrow(), "{is_last}");
        assert_eq!(open.pool.config.borrow().copies.len(), 3, "{is_last}");
    }
}

/// A transaction that is longer than an entry may be.
#[test]
fn a_long_transaction_is_committed_by_a_checkpoint() {
    let (bench, _volume) = Bench::mirrored(303);
    let open = bench.engine.open_pool("pool").unwrap();
    let before = open.pool.area.borrow().position;
    let id = *open.pool.meta.borrow().volumes().keys().next().unwrap();
    let set = |number: usize| MetaRecord::PropertySet {
        id,
        key: format!("key-{number}"),
        value: Some("x".repeat(60 << 10)),
    };
    let records: Vec<MetaRecord> = (0..10).map(set).collect();
    bench.commit(records);
    let after = open.pool.area.borrow().position;
    assert_eq!((after.sequence, after.log_at), (before.sequence + 1, 0));
    assert_eq!(after.number, before.number.next());
    for disk in 0..3 {
        assert!(bench.copy_of(disk) == *open.pool.meta.borrow(), "copy {disk}");
    }
    bench.add_volume("later");
    let now = open.pool.meta.borrow().clone();
    assert_eq!(now.volumes()[&id].properties.size(), 10);
    for disk in 0..3 {
        assert!(bench.copy_of(disk) == now, "copy {disk}");
    }
}

/// Finding 1.8: an eviction that was committed between a look at the votes and their claim counts,
/// though those who know of it don't answer at that moment.
#[test]
fn votes_are_read_again_once_they_are_claimed() {
    let (first, volume) = Bench::mirrored(302);
    let second = first.other(2);
    second.pass(Duration::from_secs(5));
    let request = || {
        let inner = &second.engine;
        let slot = inner.find_slot("pool").unwrap();
        let (force, outdated) = (true, false);
        slot.import.set(Some(Import {
            grace: Duration::ZERO,
            force,
            outdated,
            read_only: false,
            votes: VotesOf::Known,
        }));
        let request = inner.request(&slot);
        slot.import.set(None);
        request
    };
    let looked = request();
    first.disks[2].mode.set(Mode::Lost);
    first.write(&volume, 3, pattern(3, 4, 9)).unwrap();
    first.add_volume("later");
    let open = first.engine.open_pool("pool").unwrap();
    let told = open.pool.config.borrow().clone();
    assert!(told.is_out(DiskNumber(2)));
    for disk in 0..2 {
        first.disks[disk].vote_reads_lost.set(1);
    }
    first.disks[2].mode.set(Mode::Well);
    let opened = second.run(looked.open());
    let error = opened.err().expect("two of three votes weren't read");
    assert!(matches!(error, PoolError::NoQuorum { .. }), "{error}");
    let again = second.run(request().open()).unwrap();
    assert!(again.pool.meta.borrow().volume_by_name("later").is_some());
}

/// A vote under a later epoch than ours is a newer owner's: its disk isn't taken in.
#[test]
fn a_vote_of_a_newer_owner_is_not_overwritten() {
    let (bench, _volume) = Bench::mirrored(303);
    let open = bench.engine.open_pool("pool").unwrap();
    let mut newer = open.pool.config.borrow().clone();
    newer.epoch = newer.epoch.next();
    newer.owner_name = "cellar".into();
    let member = open.pool.member(DiskNumber(2)).unwrap();
    let place = super::super::config::vote_place(PoolId(open.pool.id.0), member.id);
    let record = newer.encode(&place, 0, None).unwrap();
    let at = DiskGeometry::vote_slots()[0].byte_offset() as usize;
    let mut image = bench.disks[2].image();
    image[at..at + record.len()].copy_from_slice(&record);
    bench.disks[2].set_image(&image);
    bench.set_mode(2, Mode::Well);
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    let refused = report
        .disks
        .iter()
        .any(|disk| matches!(&disk.state, DiskState::Refused { why } if why.contains("cellar")));
    assert!(refused, "{report:#?}");
}

/// Finding 1.4: the newest metadata is away, and what is present lost entries; votes and applied
/// blocks know of them.
#[test]
fn metadata_older_than_any_witness_is_refused() {
    let (bench, volume) = Bench::mirrored(310);
    bench.disks[2].mode.set(Mode::Lost);
    bench.add_volume("first");
    let open = bench.engine.open_pool("pool").unwrap();
    let before = bench.disks[1].image();
    bench.add_volume("later");
    bench.write(&volume, 3, pattern(3, 4, 9)).unwrap();
    // Brought into place, and applied with the metadata as it is by then.
    bench.pass(Duration::from_secs(5));
    let known = open.pool.area.borrow().committed();
    drop((open, volume));
    let bench = bench.left_with_metadata(&before);
    let state = bench.report().state;
    let PoolState::Suspended { why } = &state else { panic!("{state:?}") };
    assert!(why.contains("knows of") && why.contains("e0.0"), "{why}");
    bench.import_outdated();
    let open = bench.engine.open_pool("pool").unwrap();
    assert!(open.pool.meta.borrow().volume_by_name("first").is_some());
    assert!(open.pool.meta.borrow().volume_by_name("later").is_none());
    assert!(open.pool.area.borrow().committed() >= known);
}

/// Finding 1.10: of two devices with one identity the second one waits until the first is gone.
#[test]
fn a_copy_of_a_disk_is_not_taken_for_it_while_it_answers() {
    let (bench, _volume) = Bench::mirrored(311);
    let copy = TestDisk::new("e9.0", 9, bench.disks[1].image().len());
    copy.set_image(&bench.disks[1].image());
    bench.add_volume("later");
    bench.attach(&copy);
    bench.pass(Duration::from_secs(12));
    let engine = Rc::clone(&bench.engine);
    let seen = bench.run(async move { engine.disks().await });
    let refused = seen.iter().find(|disk| disk.name == "e9.0").unwrap();
    assert!(matches!(&refused.state, DiskState::Refused { why } if why.contains("e1.0")));
    assert!(bench.report().disks.iter().any(|disk| disk.name == "e1.0"));
    assert_eq!(bench.report().state, PoolState::Online);
    bench.set_mode(1, Mode::Lost);
    bench.until(|report| report.disks.iter().any(|disk| disk.name == "e9.0"));
}

/// Finding 1.9: what is on one machine is lost together.
#[test]
fn a_disk_on_another_machine_changes_its_failure_domain() {
    let (bench, _volume) = Bench::mirrored(312);
    assert_eq!(bench.report().survives, 1);
    let moved = TestDisk::new("e0.1", 0, bench.disks[1].image().len());
    bench.disks[1].mode.set(Mode::Lost);
    bench.engine.remove_device("e1.0");
    moved.set_image(&bench.disks[1].image());
    bench.attach(&moved);
    bench.until(|report| report.disks.iter().any(|disk| disk.name == "e0.1"));
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    assert!(report.disks.iter().all(|disk| disk.state == DiskState::Usable), "{report:#?}");
    // Two of three votes would be lost with that machine, and perhaps both copies.
    assert_eq!(report.survives, 0);
    let events = bench.events();
    let moved = |event: &PoolEvent| match event {
        PoolEvent::DiskMoved { from, to, .. } => Some((from.clone(), to.clone())),
        _ => None,
    };
    let joined = |event: &PoolEvent| match event {
        PoolEvent::DomainsJoined { shared, .. } => Some(shared.clone()),
        _ => None,
    };
    let (from, to) = events.iter().find_map(moved).unwrap();
    assert_eq!((from.as_str(), to.as_str()), ("node-1", "node-0"));
    let shared = events.iter().find_map(joined).unwrap();
    assert!(shared.contains("so many votes that the others are no majority are"), "{shared}");
}

/// Finding 1.11: stopped in the middle of a turn and resumed after a takeover, nothing is answered by the
/// time that it was when the turn began.
#[test]
fn the_lease_is_compared_with_the_clock_as_it_is() {
    let (bench, volume) = Bench::mirrored(320);
    bench.write(&volume, 3, pattern(3, 4, 9)).unwrap();
    let read = || {
        let reading = volume.read(block::SectorRange::new(block::Lba(24), 8));
        async move { reading.await.is_ok() }
    };
    assert_eq!(bench.run_for(Duration::from_secs(1), read()), Some(true));
    let stopped = Rc::new(std::cell::Cell::new(Duration::ZERO));
    let (handle, ahead) = (bench.executor.handle(), Rc::clone(&stopped));
    bench.executor.set_clock(move || handle.now() + ahead.get());
    assert_eq!(bench.run_for(Duration::from_secs(1), read()), Some(true));
    stopped.set(Duration::from_secs(7));
    assert_eq!(bench.run_for(Duration::from_secs(5), read()), None);
    stopped.set(Duration::ZERO);
    assert_eq!(bench.run_for(Duration::from_secs(5), read()), Some(true));
}

/// Their commands say that nobody knows; once it is known, what was made serves, at its size.
#[test]
fn what_was_asked_for_without_a_majority_is_whole_when_it_is_back() {
    let bench = Bench::new(211, 3, 48);
    bench.create();
    bench.add_volume("v");
    let lose = |mode| [1, 2].into_iter().for_each(|disk| bench.set_mode(disk, mode));
    lose(Mode::Lost);
    let engine = Rc::clone(&bench.engine);
    let (made, grown) = bench.run(async move {
        let layout = Layout::Mirror(2);
        let made = engine.create_volume("pool", "w", VolumeSize::Bytes(MIB), layout);
        let grown = engine.extend_volume("pool", "v", VolumeSize::Bytes(2 * MIB));
        futures::join!(made, grown)
    });
    for error in [made.unwrap_err(), grown.unwrap_err()] {
        assert!(matches!(error, PoolError::Suspended { .. }), "{error}");
    }
    lose(Mode::Well);
    bench.until(|report| {
        let serves = |size| {
            move |volume: &crate::report::VolumeReport| {
                volume.size_bytes == size && volume.suspended().is_none()
            }
        };
        report.volumes.iter().any(serves(MIB)) && report.volumes.iter().any(serves(2 * MIB))
    });
    for name in ["v", "w"] {
        let volume = bench.engine.open_volume("pool", name).unwrap();
        let last = volume.geometry().sectors / 8 - 1;
        bench.write(&volume, last, pattern(last, 1, 1)).unwrap();
        assert_eq!(bench.read(&volume, last, 1).unwrap(), pattern(last, 1, 1));
    }
}

#[test]
fn the_log_of_the_metadata_does_not_grow_beyond_what_an_opening_should_read() {
    for least in [64 << 10, 0] {
        let bench = Bench::with_short_log(461, least);
        let mut longest = 0;
        for round in 0..60 {
            bench.note(&round.to_string());
            let pool = Rc::clone(&bench.serving().pool);
            let area = pool.area.borrow();
            let entry = block::BLOCK_BYTES as u64;
            assert!(area.position.log_at <= least.max(area.base.bytes() / 2) + entry, "{round}");
            longest = longest.max(area.position.log_at);
        }
        assert!(longest >= least, "{longest}");
        let bench = bench.crash_engine();
        bench.reopened();
        let meta = bench.serving().pool.meta.borrow().clone();
        assert_eq!(meta.properties().get("note").map(String::as_str), Some("59"));
    }
}

/// Of the log of the only volume: how far its newest segment was written, and how far it may be.
fn written(bench: &Bench) -> (u64, u64) {
    let volume = bench.serving();
    let state = volume.log.state.borrow();
    state.current.as_ref().map_or((0, 0), |open| (open.at, open.high_water_bytes()))
}

/// A copy of the metadata that lost the last raise of a high-water mark, and nobody knows but the log, of which all
/// that was written since is beyond the mark.
#[test]
fn a_lost_high_water_mark_is_noticed() {
    let (bench, volume) = Bench::with_long_segments(462);
    bench.disks[2].mode.set(Mode::Lost);
    bench.write(&volume, 0, pattern(0, 2, 1)).unwrap();
    (1..15).for_each(|block| bench.write(&volume, 2 * block, pattern(2 * block, 1, 1)).unwrap());
    let (at, mark) = written(&bench);
    assert_eq!(at, mark, "the next record begins at the mark");
    let before = bench.disks[1].image();
    bench.write(&volume, 40, pattern(40, 1, 1)).unwrap();
    assert!(written(&bench).1 > mark);
    drop(volume);
    let bench = bench.left_with_metadata(&before);
    let suspended = bench.report().volumes[0].suspended().map(str::to_owned).unwrap();
    assert!(suspended.contains("its log was written when"), "{suspended}");
}

/// Whoever gives up what was changed since doesn't give up what was acknowledged.
#[test]
fn a_log_is_read_to_its_end_under_outdated_metadata() {
    let (bench, volume) = Bench::with_long_segments(463);
    bench.disks[2].mode.set(Mode::Lost);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    let before = bench.disks[1].image();
    (1..40).for_each(|block| bench.write(&volume, block, pattern(block, 1, 1)).unwrap());
    assert!(written(&bench).0 > 256 << 10);
    // A vote knows of it.
    let pool = Rc::clone(&bench.serving().pool);
    let told = Rc::clone(&pool);
    bench.run(async move { told.change_configuration(|_| true).await }).unwrap();
    drop((pool, volume));
    let bench = bench.left_with_metadata(&before);
    let state = bench.report().state;
    assert!(matches!(state, PoolState::Suspended { .. }), "{state:?}");
    bench.import_outdated();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 0, 40), Ok(pattern(0, 40, 1)));
}

/// What was written by one checkpoint isn't by the next.
#[test]
fn a_checkpoint_for_a_long_log_costs_what_changed() {
    let bench = Bench::with_short_log(464, 64 << 10);
    let pool = Rc::clone(&bench.serving().pool);
    let mut checkpoints = 0;
    for round in 0..80 {
        let is_long = pool.area.borrow().position.log_at > 64 << 10;
        bench.note(&round.to_string());
        checkpoints += u32::from(is_long);
        if is_long {
            let changed = pool.meta.borrow().changed_kinds();
            assert_eq!(changed, [SectionKind::Pool], "{round}");
        }
    }
    assert!(checkpoints > 2, "{checkpoints}");
}

/// Each disk with a copy names what was committed last, within two looks; and what it has applied as it was.
#[test]
fn disks_with_a_copy_are_told_what_is_committed() {
    let (bench, volume) = Bench::mirrored(830);
    bench.write(&volume, 0, pattern(0, 4, 1)).unwrap();
    let (pool, ids) = bench.ids();
    let said = || -> Vec<_> {
        let disks = ids.iter().zip(&bench.disks);
        disks.map(|(id, disk)| applied(disk, (pool, *id)).newest.unwrap()).collect()
    };
    // What follows upon it is committed by then, too.
    bench.pass(Duration::from_secs(120));
    let before = said();
    assert!(before.iter().any(|applied| applied.release > ReleaseNumber(0)));
    let engine = Rc::clone(&bench.engine);
    let set = async move { engine.set_property("pool", "v", "mount", Some("/srv".into())).await };
    bench.run(set).unwrap();
    let open = bench.engine.open_pool("pool").unwrap();
    let record = open.pool.area.borrow().committed();
    assert!(before.iter().all(|applied| applied.record < record));
    bench.pass(Duration::from_secs(15));
    let told: Vec<_> =
        before.iter().map(|b| Applied { record, sequence: b.sequence + 1, ..*b }).collect();
    assert_eq!(said(), told);
    bench.pass(Duration::from_secs(60));
    assert_eq!(said(), told, "nothing was committed since");
}
