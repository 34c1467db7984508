//! Scrubs: that they find what nobody read, mend it, wait for nobody, and go on where they were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice};

use super::super::PoolSettings;
use super::super::testing::{Bench, Mode};
use super::pattern;
use crate::error::PoolError;
use crate::format::DiskGeometry;
use crate::metadata::Layout;
use crate::report::{JobState, PoolEvent, PoolState, ScrubReport};

/// Blocks that are written.
const BLOCKS: u64 = 2000;

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
    fn scrubbed(&self) -> ScrubReport {
        self.scrub(PoolSettings::default()).unwrap();
        self.until(|report| report.jobs.is_empty());
        self.found()
    }
}

/// Three nodes with one mirrored volume, in place and idle.
fn written(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
    let bench = Bench::new(seed, 3, 48);
    bench.create();
    let volume = bench.create_volume(16, Layout::Mirror(2));
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
    bench.until(|report| {
        report.jobs.iter().any(|job| job.left_bytes < job.total_bytes && job.left_bytes > 0)
    });
    bench.pass(Duration::from_secs(1));
    let (begun, before) = (bench.found(), bench.report().jobs[0].clone());
    assert_eq!((before.number, before.kind.as_str()), (number, "scrub"));
    assert_eq!((before.state, begun.ended_secs), (JobState::Running, None));
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online);
    let after = bench.report().jobs[0].clone();
    assert_eq!((after.number, after.total_bytes), (number, before.total_bytes));
    assert!(after.left_bytes <= before.left_bytes, "{after:?}");
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
