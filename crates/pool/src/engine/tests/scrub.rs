//! Scrubs: that they find what nobody read, mend it, wait for nobody, and go on where they were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice};

use super::super::PoolSettings;
use super::super::config::vote_place;
use super::super::pool::Pool;
use super::super::testing::{Bench, Dead, Mode, TestDisk};
use super::pattern;
use crate::error::PoolError;
use crate::format::{DiskGeometry, VOTE_BYTES, VotePlace, select_vote};
use crate::metadata::{Layout, MetaRecord, Volume};
use crate::report::{JobState, PoolEvent, PoolState, ScrubReport};

/// Blocks that are written.
pub(super) const BLOCKS: u64 = 2000;

impl Bench {
    fn scrub(&self, settings: PoolSettings) -> Result<u32, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.scrub_pool("pool", &settings).await })
    }

    fn set(&self, settings: PoolSettings) {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.set_pool("pool", &settings).await }).unwrap();
    }

    fn found(&self) -> ScrubReport {
        self.report().scrub.unwrap()
    }

    /// Scrubs to the end.
    pub(super) fn scrubbed(&self) -> ScrubReport {
        self.scrub(PoolSettings::default()).unwrap();
        self.until(|report| report.jobs.is_empty());
        self.found()
    }
}

/// Three nodes with one mirrored volume, in place and idle.
fn written(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
    written_as(seed, Layout::Mirror(2))
}

/// The same of any layout.
pub(super) fn written_as(seed: u64, layout: Layout) -> (Bench, Rc<dyn BlockDevice>) {
    let bench = Bench::new(seed, 3, 48);
    bench.create();
    let volume = bench.create_volume(16, layout);
    for first in (0..BLOCKS).step_by(50) {
        bench.write(&volume, first, pattern(first, 50, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(5));
    (bench, volume)
}

/// Has blocks rot on the first disk that has them; tells how many.
fn rot(bench: &Bench, blocks: Range<u64>) -> u64 {
    let mut rotten: BTreeMap<u64, usize> = BTreeMap::new();
    for (index, disk) in bench.disks.iter().enumerate() {
        let image = disk.image();
        for at in (0..image.len()).step_by(BLOCK_BYTES) {
            let found = &image[at..at + BLOCK_BYTES];
            let block = u64::from_le_bytes(found[..8].try_into().unwrap());
            let is_it = blocks.contains(&block) && *found == pattern(block, 1, 1)[..];
            if is_it && *rotten.entry(block).or_insert(index) == index {
                disk.damage(at + 99, |byte| *byte ^= 0x10);
            }
        }
    }
    rotten.len() as u64
}

#[test]
fn a_scrub_reads_every_copy_and_mends_what_rotted() {
    let (bench, volume) = written(1);
    let found = bench.scrubbed();
    let counts = |found: ScrubReport| (found.blocks, found.bad_blocks, found.unread_blocks);
    assert_eq!(counts(found), (2 * BLOCKS, 0, 0));
    assert!(found.ended_secs >= found.begun_secs && found.begun_secs.is_some());
    // More than are repaired beside reads that find something wrong.
    let rotten = rot(&bench, 300..420);
    let found = bench.scrubbed();
    assert_eq!(counts(found), (2 * BLOCKS, rotten, 0));
    assert_eq!(found.repaired_blocks, rotten);
    for copy in [0, 1] {
        assert_eq!(bench.verify(Some(copy)).bad, []);
    }
    assert_eq!(bench.read(&volume, 300, 100).unwrap(), pattern(300, 100, 1));
    let done = |event: &PoolEvent| matches!(event, PoolEvent::ScrubDone { .. });
    assert_eq!(bench.events().iter().filter(|event| done(event)).count(), 2);
}

#[test]
fn labels_votes_and_checksum_blocks_are_mended() {
    let (bench, _volume) = written(2);
    let disk = &bench.disks[1];
    let bytes = disk.image().len() as u64;
    let labels = DiskGeometry::label_slots(bytes).map(|slot| slot.byte_offset() as usize);
    let votes = DiskGeometry::vote_slots().map(|slot| slot.byte_offset() as usize);
    let rotten = [labels[1], labels[3], votes[0], votes[1]];
    for at in rotten {
        disk.damage(at + 40, |byte| *byte ^= 1);
    }
    // Every checksum block has its name at its start.
    let image = disk.image();
    let named =
        (0..image.len()).step_by(BLOCK_BYTES).filter(|at| image[*at..].starts_with(b"epCS"));
    let checksums: Vec<usize> = named.collect();
    assert!(!checksums.is_empty());
    checksums.iter().for_each(|at| disk.damage(at + 300, |byte| *byte ^= 1));
    bench.events();
    let found = bench.scrubbed();
    assert_eq!((found.bad_blocks, found.unread_blocks), (0, 0));
    let mended = bench.events().into_iter().filter_map(|event| match event {
        PoolEvent::StructureRepaired { disk, what, .. } => Some((disk, what)),
        _ => None,
    });
    let mended: Vec<(String, String)> = mended.collect();
    for what in ["label", "vote", "checksum block"] {
        assert!(mended.contains(&("e1.0".into(), what.into())), "{what}: {mended:?}");
    }
    // With nothing but that disk's word, what it says is true.
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.scrubbed().bad_blocks, 0);
}

#[test]
fn a_scrub_goes_on_where_it_was_when_the_engine_died() {
    let (bench, _volume) = written(3);
    // Sixteen MiB on two disks.
    let rate = Some(Some(1 << 20));
    let number =
        bench.scrub(PoolSettings { scrub_rate_bytes: rate, ..Default::default() }).unwrap();
    // How far it is, is seen at once, and noted now and then.
    bench.until(|report| report.jobs.iter().any(|job| job.left_bytes < job.total_bytes));
    assert_eq!(bench.found().blocks, 0);
    bench.until(|report| report.scrub.is_some_and(|scrub| scrub.blocks > 0));
    let (begun, before) = (bench.found(), bench.report().jobs[0].clone());
    assert_eq!((before.number, before.kind.as_str()), (number, "scrub"));
    assert_eq!((before.state, begun.ended_secs), (JobState::Running, None));
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online);
    let after = bench.report().jobs[0].clone();
    assert_eq!((after.number, after.total_bytes), (number, before.total_bytes));
    assert!(after.left_bytes < after.total_bytes, "{after:?}");
    bench.until(|report| report.jobs.is_empty());
    let found = bench.found();
    assert_eq!((found.blocks, found.begun_secs), (2 * BLOCKS, begun.begun_secs));
    // By its rate, which its last parts needn't wait for.
    let took = found.ended_secs.unwrap() - found.begun_secs.unwrap();
    assert!((8..30).contains(&took), "{took} s");
}

#[test]
fn a_scrub_that_is_cancelled_begins_again_when_it_is_due() {
    let (bench, _volume) = written(4);
    let every = Some(Some(600));
    bench.set(PoolSettings { scrub_every_secs: every, ..Default::default() });
    let rate = Some(Some(100_000));
    let number =
        bench.scrub(PoolSettings { scrub_rate_bytes: rate, ..Default::default() }).unwrap();
    bench.pass(Duration::from_secs(20));
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.cancel_job("pool", number).await }).unwrap();
    bench.pass(Duration::from_secs(100));
    assert_eq!((bench.report().jobs, bench.found().ended_secs), (Vec::new(), None));
    let begun = bench.found();
    assert_eq!(begun.next_secs, begun.begun_secs.map(|begun| begun + 600));
    bench.set(PoolSettings { scrub_rate_bytes: Some(None), ..Default::default() });
    bench.pass(Duration::from_secs(600));
    let next = bench.found();
    assert!(next.begun_secs >= begun.next_secs && next.ended_secs.is_some(), "{next:?}");
    // None by itself, and none at once though it would be due.
    bench.set(PoolSettings { scrub_every_secs: Some(None), ..Default::default() });
    bench.pass(Duration::from_secs(2000));
    assert_eq!(bench.found(), ScrubReport { next_secs: None, ..next });
}

#[test]
fn a_pool_that_had_none_has_its_first_one_after_a_month() {
    let (bench, _volume) = written(5);
    let month = 30 * 24 * 3600;
    let next = bench.found().next_secs.unwrap();
    assert!(bench.found().begun_secs.is_none() && (month..month + 100).contains(&next), "{next}");
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.found().next_secs, Some(next), "whoever is restarted daily has it too");
}

#[test]
fn a_scrub_waits_for_nobody() {
    let (bench, _volume) = written(6);
    bench.set_mode(0, Mode::Lost);
    let found = bench.scrubbed();
    assert!(found.unread_blocks > 0 && found.bad_blocks == 0, "{found:?}");
    assert!(found.blocks + found.unread_blocks >= 2 * BLOCKS, "{found:?}");
    bench.set_mode(0, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.scrubbed().unread_blocks, 0);
    // Nor for one that hangs in the middle.
    bench.disks[1].set_mode(Mode::Hanging);
    let found = bench.scrubbed();
    assert!(found.unread_blocks > 0, "{found:?}");
}

#[test]
fn a_scrub_begins_once_and_only_what_is_known_is_set() {
    let (bench, _volume) = written(7);
    let slow = PoolSettings { scrub_rate_bytes: Some(Some(100_000)), ..Default::default() };
    let number = bench.scrub(slow).unwrap();
    assert_eq!(bench.scrub(PoolSettings::default()).unwrap(), number);
    assert_eq!(bench.report().jobs.len(), 1);
    let nothing = PoolSettings { scrub_rate_bytes: Some(Some(0)), ..Default::default() };
    assert!(matches!(bench.scrub(nothing), Err(PoolError::Invalid { .. })));
    let engine = Rc::clone(&bench.engine);
    let said = bench.run(async move { engine.set_pool("pool", &PoolSettings::default()).await });
    assert!(matches!(said, Err(PoolError::Invalid { .. })));
}

/// The vote of the disk e1.0.
struct Vote<'a> {
    bench: &'a Bench,
    disk: &'a TestDisk,
    place: VotePlace,
    pool: Rc<Pool>,
}

impl Vote<'_> {
    fn of(bench: &Bench) -> Vote<'_> {
        let pool = Rc::clone(&bench.engine.open_pool("pool").unwrap().pool);
        let member = pool.members().into_iter().find(|m| m.display_name() == "e1.0").unwrap();
        let place = vote_place(pool.id, member.id);
        Vote { bench, disk: &bench.disks[1], place, pool }
    }

    fn sector(slot: usize) -> u64 {
        DiskGeometry::vote_slots()[slot].0
    }

    fn slot(&self, slot: usize) -> Vec<u8> {
        let at = DiskGeometry::vote_slots()[slot].byte_offset() as usize;
        self.disk.image()[at..at + VOTE_BYTES].to_vec()
    }

    fn slots(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|slot| self.slot(slot))
    }

    /// Whether a slot holds the configuration that counts.
    fn is_current(&self, slot: usize) -> bool {
        let bytes = self.slot(slot);
        let alone = [(slot == 0).then_some(&bytes[..]), (slot == 1).then_some(&bytes[..])];
        let found = select_vote(&self.place, alone, &[]).newest;
        found.map(|found| found.rank()) == Some(self.pool.config.borrow().rank())
    }

    /// The only slot that holds the configuration that counts.
    fn newest(&self) -> usize {
        let newest = usize::from(!self.is_current(0));
        assert!(self.is_current(newest) && !self.is_current(1 - newest));
        newest
    }

    fn told(&self, is_it: impl Fn(&PoolEvent) -> bool) -> usize {
        self.bench.events().iter().filter(|event| is_it(event)).count()
    }
}

fn vote_repaired(event: &PoolEvent) -> bool {
    matches!(event, PoolEvent::StructureRepaired { what, .. } if what == "vote")
}

fn vote_damaged(event: &PoolEvent) -> bool {
    matches!(event, PoolEvent::StructureDamaged { what, .. } if what == "vote")
}

/// One read that fails is no rot: what is only in the slot that it was about mustn't be written over before it
/// shows elsewhere.
#[test]
fn a_vote_is_written_beside_what_could_not_be_read() {
    let (bench, _volume) = written(8);
    let vote = Vote::of(&bench);
    let (newest, before) = (vote.newest(), vote.slots());
    vote.disk.bad_sectors.borrow_mut().insert(Vote::sector(newest));
    vote.disk.latency.set(Duration::from_millis(50));
    bench.events();
    bench.scrub(PoolSettings::default()).unwrap();
    bench.until(|_| vote.slots() != before);
    assert_ne!(vote.slot(1 - newest), before[1 - newest]);
    bench.until(|report| report.jobs.is_empty());
    assert!(vote.is_current(0) && vote.is_current(1));
    assert!(vote.disk.bad_sectors.borrow().is_empty());
    assert_eq!(vote.told(vote_repaired), 1);
}

/// Nor when a disk comes back: its next record may be torn.
#[test]
fn a_disk_that_is_back_is_told_beside_what_could_not_be_read() {
    let (bench, _volume) = written(13);
    let vote = Vote::of(&bench);
    let (newest, before) = (vote.newest(), vote.slots());
    vote.disk.bad_sectors.borrow_mut().insert(Vote::sector(newest));
    bench.set_mode(1, Mode::Lost);
    bench.until(|report| report.state != PoolState::Online);
    bench.set_mode(1, Mode::Well);
    bench.until(|_| vote.slots() != before);
    assert_eq!(vote.slot(newest), before[newest]);
    bench.until(|report| report.state == PoolState::Online);
    assert!(vote.is_current(1 - newest));
}

/// A slot that can't be mended is told, its disk goes on voting by the other one, and that one isn't written over.
#[test]
fn a_slot_that_cannot_be_mended_leaves_the_other_one() {
    for dead in [Dead::ToReads, Dead::ToWrites] {
        let (bench, _volume) = written(14);
        let vote = Vote::of(&bench);
        let newest = vote.newest();
        let sector = Vote::sector(1 - newest);
        vote.disk.dead_sectors.borrow_mut().insert(sector, dead);
        bench.events();
        let found = bench.scrubbed();
        assert_eq!((found.bad_blocks, found.unread_blocks), (1, 0), "{dead:?}");
        assert_eq!((vote.told(vote_damaged), vote.told(vote_repaired)), (1, 0), "{dead:?}");
        let (config, id) = (vote.pool.config.borrow().clone(), vote.place.disk);
        assert!(vote.pool.votes.has(id, config.number) && vote.is_current(newest), "{dead:?}");
        // By then what happened, and where disks are, is in the pool.
        bench.pass(Duration::from_secs(70));
        let (kept, writes) = (vote.slot(newest), vote.disk.writes.get());
        bench.pass(Duration::from_secs(60));
        assert_eq!(vote.disk.writes.get(), writes, "{dead:?}: nobody tries again by himself");
        let pool = Rc::clone(&vote.pool);
        bench.run(async move { pool.change_configuration(|_| true).await.unwrap() });
        bench.pass(Duration::from_secs(1));
        assert_eq!(vote.slot(newest), kept, "{dead:?}");
    }
}

/// If the newest record doesn't show and the other slot takes nothing, the disk doesn't count as told.
#[test]
fn a_vote_that_shows_nothing_new_does_not_count() {
    for dead in [Dead::ToReads, Dead::ToWrites] {
        let (bench, _volume) = written(15);
        let vote = Vote::of(&bench);
        let newest = vote.newest();
        vote.disk.bad_sectors.borrow_mut().insert(Vote::sector(newest));
        vote.disk.dead_sectors.borrow_mut().insert(Vote::sector(1 - newest), dead);
        let kept = vote.slot(newest);
        bench.events();
        let found = bench.scrubbed();
        assert_eq!((found.bad_blocks, vote.told(vote_damaged)), (1, 1), "{dead:?}");
        assert_eq!(vote.slot(newest), kept, "{dead:?}: it may be read again");
    }
}

#[test]
fn a_label_that_is_gone_is_told_and_not_written_over() {
    let (bench, _volume) = written(9);
    let disk = &bench.disks[1];
    let labels = DiskGeometry::label_slots(disk.image().len() as u64);
    let is_blank = || {
        let image = disk.image();
        let mut bytes =
            labels.iter().flat_map(|slot| &image[slot.byte_offset() as usize..][..BLOCK_BYTES]);
        bytes.all(|byte| *byte == 0)
    };
    for slot in labels {
        let at = slot.byte_offset() as usize;
        (at..at + BLOCK_BYTES).for_each(|at| disk.damage(at, |byte| *byte = 0));
    }
    bench.events();
    let found = bench.scrubbed();
    assert_eq!((found.bad_blocks, found.repaired_blocks), (1, 0));
    let told = |event: &PoolEvent| matches!(event, PoolEvent::StructureDamaged { disk, .. } if disk == "e1.0");
    assert_eq!(bench.events().iter().filter(|event| told(event)).count(), 1);
    assert!(is_blank(), "it may be another drive's");
}

/// A destage that waits for a disk that is gone has its group for as long as that.
#[test]
fn a_scrub_does_not_wait_for_who_has_a_group() {
    let (bench, _volume) = written(10);
    let open = bench.engine.open_pool("pool").unwrap();
    let held = {
        let meta = open.pool.meta.borrow();
        let groups =
            meta.volumes().values().flat_map(Volume::groups).filter(|g| g.is_initialised());
        groups.map(|group| group.generation()).next().unwrap()
    };
    let pool = Rc::clone(&open.pool);
    let lock = bench.run(async move { pool.lock_group(held).await });
    let found = bench.scrubbed();
    assert!(found.unread_blocks > 0 && found.blocks > 0 && found.bad_blocks == 0, "{found:?}");
    drop(lock);
    assert_eq!(bench.scrubbed().unread_blocks, 0);
}

#[test]
fn another_rate_counts_at_once() {
    let (bench, _volume) = written(11);
    bench.scrub(PoolSettings { scrub_rate_bytes: Some(Some(1)), ..Default::default() }).unwrap();
    bench.pass(Duration::from_secs(100));
    assert_eq!(bench.report().jobs.len(), 1);
    bench.set(PoolSettings { scrub_rate_bytes: Some(None), ..Default::default() });
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.report().jobs, bench.found().blocks), (Vec::new(), 2 * BLOCKS));
}

/// An older program may have removed what it didn't know.
#[test]
fn a_job_of_which_nothing_is_known_begins_at_the_start() {
    let (bench, _volume) = written(12);
    let slow = PoolSettings { scrub_rate_bytes: Some(Some(100_000)), ..Default::default() };
    bench.scrub(slow).unwrap();
    bench.pass(Duration::from_secs(20));
    bench.commit(vec![MetaRecord::PoolPropertySet { key: "scrub".into(), value: None }]);
    bench.set(PoolSettings { scrub_rate_bytes: Some(None), ..Default::default() });
    bench.until(|report| report.jobs.is_empty());
    assert_eq!(bench.found().blocks, 2 * BLOCKS);
    let begun = |event: &PoolEvent| matches!(event, PoolEvent::ScrubBegun { .. });
    let events = bench.events();
    assert_eq!(events.iter().filter(|event| begun(event)).count(), 2, "{events:?}");
}
