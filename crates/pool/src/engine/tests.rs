//! Whole engines over disks that crash, hang and forget, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Durability, IoError, Lba, SectorRange};

use super::testing::{Bench, Mode};
use super::volume::Volume;
use super::{CreatePool, ExtendPool, ImportOptions, VolumeSize};
use crate::error::PoolError;
use crate::format::DiskGeometry;
use crate::metadata::{Layout, MetaRecord};
use crate::report::{PoolEvent, PoolReport, PoolState, VerifyReport};

mod areas;
mod disks;
mod endings;
mod health;
mod history;
mod in_place;
mod jobs;
mod label_ends;
mod labels;
mod layouts;
mod logs;
mod metadata;
mod node_keys;
mod notes;
mod offline;
mod owners;
mod places;
mod read_only;
mod reads;
mod right_copies;
mod scrub;
mod spare;
mod stats;
mod trusted;
mod volumes;
mod witness;

const MIB: u64 = 1 << 20;

impl Bench {
    fn create(&self) -> PoolReport {
        self.create_with(256 << 10)
    }

    fn create_with(&self, extent_bytes: u64) -> PoolReport {
        let request =
            CreatePool { extent_bytes: Some(extent_bytes), ..self.request(self.disks.len()) };
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.create_pool(request).await }).unwrap()
    }

    fn create_volume(&self, mib: u64, layout: Layout) -> Rc<dyn BlockDevice> {
        let engine = Rc::clone(&self.engine);
        self.run(async move {
            engine.create_volume("pool", "v", VolumeSize::Bytes(mib * MIB), layout).await
        })
        .unwrap();
        self.engine.open_volume("pool", "v").unwrap()
    }

    /// A pool of three nodes with a mirrored volume of 8 MiB.
    fn mirrored(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
        let bench = Bench::new(seed, 3, 48);
        bench.create();
        let volume = bench.create_volume(8, Layout::Mirror(2));
        (bench, volume)
    }

    /// Gives the pool up.
    fn release(&self, pool: &'static str) {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.release_pool(pool).await }).unwrap();
    }

    /// Waits until the pool is open, and opens the volume.
    /// A mirrored volume of 8 MiB, whose log has segments of 2 MiB.
    fn with_long_segments(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
        let bench = Bench::new(seed, 3, 48);
        bench.create_with(MIB);
        let volume = bench.create_volume(8, Layout::Mirror(2));
        (bench, volume)
    }

    /// Commits records to the only pool's metadata.
    fn commit(&self, records: Vec<MetaRecord>) {
        let pool = Rc::clone(&self.engine.open_pool("pool").unwrap().pool);
        let committing = async move {
            let _meta = pool.meta_lock.acquire(1).await;
            pool.commit_locked(&records).await
        };
        self.run(committing).unwrap();
    }

    fn reopened(&self) -> Rc<dyn BlockDevice> {
        self.until(|report| {
            matches!(report.state, PoolState::Online | PoolState::Degraded)
                && report.volumes.iter().all(|volume| volume.suspended().is_none())
        });
        self.engine.open_volume("pool", "v").unwrap()
    }

    /// The only volume, as the engine has it.
    fn serving(&self) -> Rc<Volume> {
        let volumes = self.engine.open_pool("pool").unwrap().volumes.borrow().clone();
        volumes.into_values().next().unwrap()
    }

    fn report(&self) -> PoolReport {
        self.engine.reports().into_iter().next().unwrap()
    }

    fn until(&self, done: impl Fn(&PoolReport) -> bool) {
        for _ in 0..1200 {
            if self.engine.reports().first().is_some_and(&done) {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("never: {:#?}", self.engine.reports());
    }

    fn write(&self, volume: &Rc<dyn BlockDevice>, block: u64, data: Buffer) -> Result<(), IoError> {
        let done = volume.write(Lba(block * 8), data, Durability::Durable);
        self.run(async move { done.await.map(|_| ()) })
    }

    fn read(
        &self,
        volume: &Rc<dyn BlockDevice>,
        block: u64,
        count: u64,
    ) -> Result<Buffer, IoError> {
        let done = volume.read(SectorRange::new(Lba(block * 8), count * 8));
        self.run(async move { done.await.map(|done| done.value) })
    }

    fn verify(&self, copy: Option<u8>) -> VerifyReport {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.verify_volume("pool", "v", copy, &|_| {}).await }).unwrap()
    }

    fn events(&self) -> Vec<PoolEvent> {
        let mut events = Vec::new();
        loop {
            let engine = Rc::clone(&self.engine);
            let next = self.run_for(Duration::ZERO, async move { engine.next_event().await });
            match next {
                Some(event) => events.push(event),
                None => return events,
            }
        }
    }
}

/// Recognisable contents for blocks from `first` on.
fn pattern(first: u64, count: u64, version: u64) -> Buffer {
    let mut bytes = vec![0; count as usize * BLOCK_BYTES];
    for (index, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        for word in block.chunks_exact_mut(16) {
            word[..8].copy_from_slice(&(first + index as u64).to_le_bytes());
            word[8..].copy_from_slice(&version.to_le_bytes());
        }
    }
    Buffer::copy_of(&bytes)
}

#[test]
fn what_was_written_is_read_and_the_rest_is_zeros() {
    let (bench, volume) = Bench::mirrored(1);
    assert_eq!(bench.report().state, PoolState::Online);
    assert_eq!(bench.report().survives, 1);
    bench.write(&volume, 10, pattern(10, 20, 1)).unwrap();
    assert_eq!(bench.read(&volume, 10, 20).unwrap(), pattern(10, 20, 1));
    assert_eq!(bench.read(&volume, 0, 10).unwrap(), Buffer::zeroed(10 * BLOCK_BYTES));
    // Destaged by being idle, and read from disk.
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.report().volumes[0].log_bytes, 0);
    assert_eq!(
        bench.read(&volume, 5, 30).unwrap()[5 * BLOCK_BYTES..25 * BLOCK_BYTES],
        pattern(10, 20, 1)[..]
    );
    let report = bench.verify(None);
    assert_eq!((report.blocks, report.bad.len()), (40, 0));
}

#[test]
fn a_crash_of_everything_loses_nothing_acknowledged() {
    for seed in 0..8 {
        let (bench, volume) = Bench::mirrored(seed);
        for round in 0..3 {
            bench.write(&volume, 100 * round, pattern(100 * round, 64, round)).unwrap();
        }
        if seed % 2 == 0 {
            bench.pass(Duration::from_millis(1002 + seed));
        }
        bench.write(&volume, 110, pattern(110, 4, 9)).unwrap();
        let bench = bench.power_cut();
        let volume = bench.reopened();
        for round in [0, 2] {
            let read = bench.read(&volume, 100 * round, 64).unwrap();
            assert_eq!(read, pattern(100 * round, 64, round), "seed {seed}");
        }
        assert_eq!(bench.read(&volume, 110, 4).unwrap(), pattern(110, 4, 9));
        let report = bench.verify(None);
        assert_eq!(report.bad, [], "seed {seed}");
    }
}

#[test]
fn a_lost_disk_is_evicted_and_resyncs_what_it_missed() {
    let (bench, volume) = Bench::mirrored(3);
    bench.write(&volume, 0, pattern(0, 256, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    bench.set_mode(1, Mode::Lost);
    for block in 0..40 {
        bench.write(&volume, block * 50, pattern(block * 50, 2, 2)).unwrap();
    }
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.report().state, PoolState::Degraded);
    bench.set_mode(1, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    for copy in [0, 1] {
        let report = bench.verify(Some(copy));
        assert_eq!(report.bad, []);
        assert_eq!(report.dirty, 0);
    }
    assert!(bench.report().volumes[0].resynced_bytes > 0);
    assert_eq!(bench.read(&volume, 50, 2).unwrap(), pattern(50, 2, 2));
    let events = bench.events();
    assert!(events.iter().any(|event| matches!(event, PoolEvent::DiskOut { .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, PoolEvent::Resynced { .. })), "{events:?}");
}

#[test]
fn a_hanging_disk_holds_up_a_write_for_less_than_three_seconds() {
    for disk in 0..3 {
        let (bench, volume) = Bench::mirrored(20 + disk as u64);
        bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
        bench.set_mode(disk, Mode::Hanging);
        for block in 0..8 {
            let done = volume.write(Lba(block * 64), pattern(block * 8, 1, 2), Durability::Durable);
            let done = bench.run_for(Duration::from_secs(3), done);
            assert!(done.expect("still waiting after three seconds").is_ok());
        }
        let done = volume.read(SectorRange::new(Lba(0), 64 * 8));
        assert!(bench.run_for(Duration::from_secs(2), done).expect("hangs").is_ok());
    }
}

#[test]
fn an_engine_that_dies_is_followed_by_one_that_settles() {
    let (bench, volume) = Bench::mirrored(4);
    bench.write(&volume, 7, pattern(7, 100, 1)).unwrap();
    let bench = bench.crash_engine();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 7, 100).unwrap(), pattern(7, 100, 1));
    assert_eq!(bench.report().volumes[0].replayed.blocks, 100);
}

/// Where block 0 of the volume lies: found by its contents.
fn places_of(bench: &Bench, contents: &[u8]) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    for (index, disk) in bench.disks.iter().enumerate() {
        let image = disk.image();
        for offset in (0..image.len()).step_by(BLOCK_BYTES) {
            if image[offset..offset + BLOCK_BYTES] == *contents {
                places.push((index, offset));
            }
        }
    }
    places
}

#[test]
fn a_flipped_bit_is_repaired_and_named() {
    let (bench, volume) = Bench::mirrored(5);
    bench.write(&volume, 0, pattern(0, 8, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    let bad = places_of(&bench, &pattern(3, 1, 1));
    // The two copies in place; log segments hold records at other alignments, or are freed.
    for (disk, offset) in &bad {
        bench.disks[*disk].damage(offset + 100, |byte| *byte ^= 4);
        assert_eq!(bench.read(&volume, 0, 8).unwrap(), pattern(0, 8, 1));
        for _ in 0..40 {
            bench.read(&volume, 3, 1).unwrap();
        }
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.verify(None).bad, []);
    let repaired: Vec<_> = bench
        .events()
        .into_iter()
        .filter_map(|event| match event {
            PoolEvent::Repaired { disk, disk_offset_bytes, .. } => Some((disk, disk_offset_bytes)),
            _ => None,
        })
        .collect();
    assert!(!repaired.is_empty());
    for (disk, offset) in repaired {
        let place = bad.iter().find(|(index, _)| bench.disks[*index].name == disk);
        assert!(place.is_some_and(|_| bad.iter().any(|(_, at)| *at as u64 == offset)));
    }
}

#[test]
fn both_copies_gone_is_an_error_of_exactly_that_block() {
    let (bench, volume) = Bench::mirrored(6);
    bench.write(&volume, 0, pattern(0, 8, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    for (disk, offset) in places_of(&bench, &pattern(3, 1, 1)) {
        bench.disks[disk].damage(offset, |byte| *byte ^= 1);
    }
    let range = SectorRange::new(Lba(24), 8);
    assert_eq!(bench.read(&volume, 0, 8), Err(IoError::Medium(range)));
    assert_eq!(bench.read(&volume, 0, 3).unwrap(), pattern(0, 3, 1));
    assert_eq!(bench.read(&volume, 4, 4).unwrap(), pattern(4, 4, 1));
    assert!(bench.events().iter().any(|event| matches!(
        event,
        PoolEvent::Unrepairable { offset_bytes: 12288, length_bytes: 4096, disks, .. } if disks.len() == 2
    )));
    // Writing makes it whole again.
    bench.write(&volume, 3, pattern(3, 1, 2)).unwrap();
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.read(&volume, 3, 1).unwrap(), pattern(3, 1, 2));
}

#[test]
fn a_disk_rolled_back_as_a_whole_is_not_trusted() {
    for disk in 0..3 {
        let (bench, volume) = Bench::mirrored(30 + disk as u64);
        bench.write(&volume, 0, pattern(0, 128, 1)).unwrap();
        bench.pass(Duration::from_secs(3));
        let old = bench.disks[disk].image();
        bench.write(&volume, 0, pattern(0, 128, 2)).unwrap();
        bench.pass(Duration::from_secs(3));
        bench.write(&volume, 64, pattern(64, 128, 3)).unwrap();
        let bench = bench.power_cut();
        // The cut came first: the image goes back while nothing runs.
        bench.executor.clear();
        bench.disks[disk].set_image(&old);
        let bench = bench.power_cut();
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 2), "disk {disk}");
        assert_eq!(bench.read(&volume, 64, 128).unwrap(), pattern(64, 128, 3), "disk {disk}");
        bench.until(|report| report.state == PoolState::Online);
        let report = bench.verify(None);
        assert_eq!((report.bad, report.dirty), (vec![], 0), "disk {disk}");
        let rolled = bench.events().into_iter().any(|e| matches!(e, PoolEvent::RolledBack { .. }));
        // The third disk had logs only, which have no number to fall below.
        assert_eq!(rolled, disk < 2, "disk {disk}");
    }
}

#[test]
fn devices_may_arrive_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
        let (bench, volume) = Bench::mirrored(40);
        bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
        let (now, pools) = (bench.executor.handle().now(), bench.engine.known_pools());
        bench.executor.clear();
        let bench = Bench::alone(41, bench.disks.clone(), now, 1, pools);
        for disk in order {
            bench.attach(&bench.disks[disk]);
            bench.pass(Duration::from_millis(700));
        }
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
        bench.until(|report| report.state == PoolState::Online);
    }
}

#[test]
fn a_pool_opens_without_one_disk_and_takes_it_in_later() {
    for away in 0..3 {
        let (bench, volume) = Bench::mirrored(50 + away as u64);
        bench.write(&volume, 0, pattern(0, 256, 1)).unwrap();
        let (now, pools) = (bench.executor.handle().now(), bench.engine.known_pools());
        bench.executor.clear();
        let bench = Bench::alone(51, bench.disks.clone(), now, 1, pools);
        for disk in (0..3).filter(|disk| *disk != away) {
            bench.attach(&bench.disks[disk]);
        }
        let volume = bench.reopened();
        assert_eq!(bench.report().state, PoolState::Degraded);
        assert_eq!(bench.read(&volume, 0, 256).unwrap(), pattern(0, 256, 1));
        bench.write(&volume, 100, pattern(100, 64, 2)).unwrap();
        bench.pass(Duration::from_secs(3));
        bench.attach(&bench.disks[away]);
        bench.until(|report| report.state == PoolState::Online);
        assert_eq!(bench.read(&volume, 100, 64).unwrap(), pattern(100, 64, 2));
        let report = bench.verify(None);
        assert_eq!((report.bad, report.dirty), (vec![], 0));
    }
}

#[test]
fn a_majority_out_of_reach_suspends_and_nothing_is_recorded() {
    let (bench, volume) = Bench::mirrored(60);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.events();
    for disk in 0..3 {
        bench.set_mode(disk, Mode::Lost);
    }
    let waiting = volume.write(Lba(8), pattern(1, 1, 2), Durability::Durable);
    assert!(bench.run_for(Duration::from_secs(30), waiting).is_none(), "answered without a quorum");
    assert!(matches!(bench.report().state, PoolState::Suspended { .. }));
    for disk in [2, 0, 1] {
        bench.set_mode(disk, Mode::Well);
        bench.pass(Duration::from_millis(50));
    }
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.read(&volume, 1, 1).unwrap(), pattern(1, 1, 2));
}

#[test]
fn a_pool_of_another_owner_is_opened_only_by_import_and_deposes_the_former() {
    let (first, volume) = Bench::mirrored(70);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let second = Bench::with(71, first.disks.clone(), first.executor.handle().now(), 2);
    second.pass(Duration::from_secs(10));
    assert!(matches!(second.report().state, PoolState::Foreign));
    assert!(second.engine.open_volume("pool", "v").is_err());
    first.pass(Duration::from_secs(10));
    assert_eq!(first.report().state, PoolState::Online);

    let engine = Rc::clone(&second.engine);
    let refused =
        second.run(async move { engine.import_pool("pool", ImportOptions::default()).await });
    assert!(matches!(refused, Err(PoolError::InUse { .. })), "{refused:?}");
    first.pass(Duration::from_secs(3));
    assert_eq!(first.report().state, PoolState::Online);

    let engine = Rc::clone(&second.engine);
    let before = second.executor.handle().now();
    second
        .run(async move {
            let options = ImportOptions { force: true, ..ImportOptions::default() };
            engine.import_pool("pool", options).await
        })
        .unwrap();
    let waited = second.executor.handle().now().since(before);
    assert!(waited >= Duration::from_secs(7), "served after {waited:?}, the lease may still run");
    let taken = second.reopened();
    assert_eq!(second.read(&taken, 0, 64).unwrap(), pattern(0, 64, 1));
    second.write(&taken, 0, pattern(0, 64, 2)).unwrap();

    assert!(matches!(first.write(&volume, 0, pattern(0, 1, 3)), Err(IoError::Fenced { .. })));
    assert!(matches!(first.read(&volume, 0, 1), Err(IoError::Fenced { .. })));
    first.pass(Duration::from_secs(5));
    assert_eq!(first.report().state, PoolState::Fenced);
    assert_eq!(second.read(&taken, 0, 64).unwrap(), pattern(0, 64, 2));

    // Switched on again, the former owner leaves it alone.
    let again = first.crash_engine();
    again.pass(Duration::from_secs(20));
    assert!(matches!(again.report().state, PoolState::Foreign));
    second.pass(Duration::from_secs(5));
    assert_eq!(second.report().state, PoolState::Online);
}

#[test]
fn a_released_pool_is_imported_without_waiting() {
    let (first, volume) = Bench::mirrored(80);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    first.release("pool");
    assert!(first.read(&volume, 0, 1).is_err());
    let again = first.crash_engine();
    again.pass(Duration::from_secs(10));
    assert_eq!(again.report().state, PoolState::Released);
    let engine = Rc::clone(&again.engine);
    let before = again.executor.handle().now();
    again.run(async move { engine.import_pool("pool", ImportOptions::default()).await }).unwrap();
    assert!(again.executor.handle().now().since(before) < Duration::from_secs(4));
    let volume = again.reopened();
    assert_eq!(again.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
}

#[test]
fn a_pool_that_was_shut_down_opens_by_itself() {
    let (bench, volume) = Bench::mirrored(81);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.shutdown().await });
    let bench = bench.crash_engine();
    let volume = bench.reopened();
    assert_eq!(bench.report().volumes[0].replayed.blocks, 0);
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
}

#[test]
fn discarded_and_zeroed_blocks_read_as_zeros() {
    let (bench, volume) = Bench::mirrored(90);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    let discard = volume.discard(SectorRange::new(Lba(8 * 8 + 3), 8 * 8));
    bench.run(discard).unwrap();
    let zero = volume.write_zeroes(SectorRange::new(Lba(30 * 8 + 3), 16), Durability::Durable);
    bench.run(zero).unwrap();
    let mut expected = pattern(0, 64, 1).into_mut();
    expected[9 * BLOCK_BYTES..16 * BLOCK_BYTES].fill(0);
    let zeroed = (30 * 8 + 3) * 512;
    expected[zeroed..zeroed + 16 * 512].fill(0);
    let expected = expected.freeze();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), expected);
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), expected);
    let bench = bench.power_cut();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), expected);
}

#[test]
fn parts_of_blocks_are_merged() {
    let (bench, volume) = Bench::mirrored(91);
    bench.write(&volume, 0, pattern(0, 4, 1)).unwrap();
    let data = Buffer::copy_of(&[0xee; 512 * 11]);
    bench.run(volume.write(Lba(5), data, Durability::Durable)).unwrap();
    let mut expected = pattern(0, 4, 1).into_mut();
    expected[5 * 512..16 * 512].fill(0xee);
    assert_eq!(bench.read(&volume, 0, 4).unwrap(), expected.freeze());
    let odd = bench.run(volume.read(SectorRange::new(Lba(4), 3))).unwrap().value;
    assert_eq!((odd.len(), odd[512]), (1536, 0xee));
    let beyond = volume.read(SectorRange::new(Lba(8 * MIB / 512 - 1), 2));
    assert!(matches!(bench.run(beyond), Err(IoError::OutOfRange(_))));
}

#[test]
fn a_failed_flush_puts_the_disk_out_until_it_is_reopened() {
    let (bench, volume) = Bench::mirrored(92);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.disks[0].flush_fails.set(true);
    bench.disks[1].flush_fails.set(false);
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    if report.disks.iter().all(|disk| disk.state == crate::report::DiskState::Usable) {
        // The volume's first groups don't lie there.
        return;
    }
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.report().state, PoolState::Degraded, "taken in without being reopened");
    bench.disks[0].crash(&bench.executor.handle());
    bench.set_mode(0, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.verify(None).bad, []);
}

#[test]
fn damaged_labels_are_mended_or_refused_by_name() {
    let (bench, volume) = Bench::mirrored(93);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let now = bench.executor.handle().now();
    let pools = bench.engine.known_pools();
    bench.executor.clear();
    bench.disks[0].damage(20, |byte| *byte ^= 1);
    let slots = DiskGeometry::label_slots(bench.disks[1].image().len() as u64);
    for slot in &slots[..3] {
        bench.disks[1].damage(slot.byte_offset() as usize + 20, |byte| *byte ^= 1);
    }
    let bench = Bench::again(94, bench.disks.clone(), now, 1, pools);
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
    let events = bench.events();
    assert!(events.iter().any(|event| matches!(
        event,
        PoolEvent::StructureRepaired { disk, what, .. } if disk == "e0.0" && what == "label"
    )));
    assert!(events.iter().any(|event| matches!(
        event,
        PoolEvent::DiskRefused { disk, why, .. } if disk == "e1.0" && why.contains("damaged")
    )));
}

#[test]
fn pools_grow_and_volumes_come_and_go() {
    let bench = Bench::new(95, 4, 48);
    let request = bench.request(3);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let before = bench.report().capacity_bytes;
    let engine = Rc::clone(&bench.engine);
    bench
        .run(async move { engine.extend_pool("pool", &ExtendPool::of(&["e3.0".into()])).await })
        .unwrap();
    assert!(bench.report().capacity_bytes > before);
    let engine = Rc::clone(&bench.engine);
    let grown = bench
        .run(async move { engine.extend_volume("pool", "v", VolumeSize::PercentFree(100)).await })
        .unwrap();
    assert!(grown.size_bytes > 40 * MIB, "{}", grown.size_bytes);
    let last = grown.size_bytes / BLOCK_BYTES as u64 - 8;
    bench.write(&volume, last, pattern(last, 8, 3)).unwrap();
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.read(&volume, last, 8).unwrap(), pattern(last, 8, 3));
    let bench = bench.crash_engine();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, last, 8).unwrap(), pattern(last, 8, 3));
    let engine = Rc::clone(&bench.engine);
    bench
        .run(async move { engine.set_property("pool", "v", "mount", Some("/m".into())).await })
        .unwrap();
    assert_eq!(bench.report().volumes[0].properties["mount"], "/m");
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.remove_volume("pool", "v").await }).unwrap();
    assert!(bench.read(&volume, 0, 1).is_err());
    let report = bench.report();
    assert_eq!(report.free_bytes, report.capacity_bytes);
    let volume = bench.create_volume(4, Layout::Raid0);
    assert_eq!(bench.read(&volume, 0, 128).unwrap(), Buffer::zeroed(128 * BLOCK_BYTES));
    bench.write(&volume, 3, pattern(3, 100, 4)).unwrap();
    bench.pass(Duration::from_secs(3));
    assert_eq!(bench.read(&volume, 3, 100).unwrap(), pattern(3, 100, 4));
}

#[test]
fn disks_that_carry_something_are_refused_unless_forced() {
    let bench = Bench::new(96, 3, 48);
    bench.disks[1].damage(0x438, |byte| *byte = 0x53);
    bench.disks[1].damage(0x439, |byte| *byte = 0xef);
    let request = |force: &[&str]| CreatePool {
        force_disks: force.iter().map(ToString::to_string).collect(),
        ..bench.request(3)
    };
    let (engine, refused) = (Rc::clone(&bench.engine), request(&[]));
    let error = bench.run(async move { engine.create_pool(refused).await }).unwrap_err();
    assert!(error.to_string().contains("e1.0") && error.to_string().contains("ext"), "{error}");
    let untouched = bench.disks.iter().all(|disk| disk.writes.get() == 0);
    assert!(untouched, "a refusal must leave every disk as it was");
    let (engine, forced) = (Rc::clone(&bench.engine), request(&["e1.0"]));
    bench.run(async move { engine.create_pool(forced).await }).unwrap();
}

#[test]
fn what_only_its_target_sees_on_a_disk_is_said_and_left_alone() {
    let bench = Bench::new(96, 3, 48);
    // Too far from the start for a glance.
    bench.disks[1].damage(100_000, |byte| *byte = 1);
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(3));
    let error = bench.run(async move { engine.create_pool(request).await }).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("e1.0") && error.contains("unknown data"), "{error}");
    let untouched = bench.disks.iter().all(|disk| disk.writes.get() == 0);
    assert!(untouched, "a refusal must leave every disk as it was");
    let forced = CreatePool { force_disks: vec!["e1.0".into()], ..bench.request(3) };
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(forced).await }).unwrap();
}

#[test]
fn a_disk_that_somebody_else_took_before_it_was_claimed_is_left_to_him() {
    let (other, _) = Bench::mirrored(97);
    let bench = Bench::new(96, 3, 48);
    let theirs = other.disks[1].image();
    *bench.disks[1].before_claim.borrow_mut() = Some(theirs.clone());
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(3));
    let error = bench.run(async move { engine.create_pool(request).await }).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("e1.0") && error.contains("pool"), "{error}");
    assert!(bench.disks[1].image() == theirs, "nothing of it is lost");
}

/// Bounded storms: several writers and readers at once, destages, lost and hanging disks, crashes of
/// single disks (one sick at a time), power cuts, engine deaths. Whatever was acknowledged is there;
/// what wasn't is old or new.
#[test]
fn random_faults_lose_nothing() {
    let from_environment =
        |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let start: u64 = from_environment("STORM_START").unwrap_or(1000);
    let seeds: u64 = from_environment("STORM_SEEDS").unwrap_or(12);
    for seed in start..start + seeds {
        Storm::new(seed).run();
    }
}

struct Storm {
    seed: u64,
    bench: Bench,
    volume: Rc<dyn BlockDevice>,
    /// Per block: the versions that it may have.
    allowed: Vec<Vec<u64>>,
    version: u64,
    sick: Option<usize>,
}

const STORM_BLOCKS: u64 = 400;

fn contents(block: u64, version: u64) -> Buffer {
    match version {
        0 => Buffer::zeroed(BLOCK_BYTES),
        version if version.is_multiple_of(7) => Buffer::zeroed(BLOCK_BYTES),
        version => pattern(block, 1, version),
    }
}

impl Storm {
    fn new(seed: u64) -> Storm {
        let (bench, volume) = Bench::mirrored(seed);
        let allowed = vec![vec![0]; STORM_BLOCKS as usize];
        Storm { seed, bench, volume, allowed, version: 0, sick: None }
    }

    fn run(mut self) {
        for step in 0..100 {
            let random = self.bench.executor.handle();
            match random.random_below(20) {
                0..=9 => self.writes(),
                10..=13 => self.reads(step),
                14 | 15 => self.bench.pass(Duration::from_millis(random.random_below(3000))),
                16 => self.sicken_or_heal(),
                17 if self.sick.is_none() => {
                    let disk = random.random_below(3) as usize;
                    self.bench.disks[disk].crash(&random);
                    self.bench.set_mode(disk, Mode::Well);
                }
                18 => {
                    let bench = self.bench.crash_engine();
                    if let Some(disk) = self.sick.take() {
                        bench.set_mode(disk, Mode::Well);
                    }
                    self.volume = bench.reopened();
                    self.bench = bench;
                }
                19 => {
                    self.sick = None;
                    self.bench = self.bench.power_cut();
                    self.volume = self.bench.reopened();
                }
                _ => {}
            }
        }
        if let Some(disk) = self.sick.take() {
            self.bench.set_mode(disk, Mode::Well);
        }
        self.bench.until(|report| report.state == PoolState::Online);
        for block in 0..STORM_BLOCKS {
            let read = self.bench.read(&self.volume, block, 1).unwrap();
            self.check(block, &read, 1000);
        }
        // What hung until just now may still have its disk evicted once, which then resyncs.
        self.bench.verify(None);
        self.bench.pass(Duration::from_secs(3));
        self.bench.until(|report| report.state == PoolState::Online);
        let report = self.bench.verify(None);
        assert_eq!((report.bad, report.dirty), (vec![], 0), "seed {}", self.seed);
    }

    /// Some writes at once, waited for as long as chance says. Blocks of several of them may end up
    /// with any of the versions; overlapping ones run in the order of their calls.
    fn writes(&mut self) {
        let random = self.bench.executor.handle();
        let mut started = Vec::new();
        for _ in 0..1 + random.random_below(6) {
            self.version += 1;
            let version = self.version;
            let first = random.random_below(STORM_BLOCKS);
            let count = (1 + random.random_below(40)).min(STORM_BLOCKS - first);
            let blocks: Vec<u8> = (first..first + count)
                .flat_map(|block| contents(block, version).to_vec())
                .collect();
            let range = SectorRange::new(Lba(first * 8), count * 8);
            let write = if version.is_multiple_of(7) {
                self.volume.write_zeroes(range, Durability::Durable)
            } else {
                self.volume.write(range.start, Buffer::copy_of(&blocks), Durability::Durable)
            };
            started.push((first, count, version, write));
        }
        let limit = Duration::from_millis(random.random_below(4000));
        let answers = Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut pending = Vec::new();
        for (first, count, version, write) in started {
            let answers = Rc::clone(&answers);
            pending.push((first, count, version));
            self.bench.executor.handle().spawn(async move {
                let answer = write.await;
                answers.borrow_mut().push((version, answer.is_ok()));
            });
        }
        let (all, count) = (Rc::clone(&answers), pending.len());
        let runtime = self.bench.executor.handle();
        self.bench.run_for(limit, async move {
            while all.borrow().len() < count {
                runtime.sleep(Duration::from_micros(50)).await;
            }
        });
        for (first, count, version) in pending {
            let done = answers.borrow().contains(&(version, true));
            for block in first..first + count {
                let versions = &mut self.allowed[block as usize];
                if done {
                    versions.clear();
                }
                versions.push(version);
            }
        }
    }

    fn reads(&mut self, step: u64) {
        let random = self.bench.executor.handle();
        let first = random.random_below(STORM_BLOCKS);
        let count = (1 + random.random_below(100)).min(STORM_BLOCKS - first);
        let read = self.volume.read(SectorRange::new(Lba(first * 8), count * 8));
        let read = self.bench.run_for(Duration::from_secs(20), read);
        let Some(read) = read else {
            panic!("seed {} step {step}: a read hangs; {:#?}", self.seed, self.bench.report());
        };
        let read = read.unwrap_or_else(|error| panic!("seed {} step {step}: {error}", self.seed));
        for (index, bytes) in read.value.chunks_exact(BLOCK_BYTES).enumerate() {
            self.check(first + index as u64, bytes, step);
        }
    }

    fn check(&self, block: u64, found: &[u8], step: u64) {
        let allowed = &self.allowed[block as usize];
        let right = allowed.iter().any(|version| found == &contents(block, *version)[..]);
        let version = u64::from_le_bytes(found[8..16].try_into().unwrap());
        let seed = self.seed;
        assert!(right, "seed {seed} step {step}: block {block} has {version}, not {allowed:?}");
    }

    fn sicken_or_heal(&mut self) {
        match self.sick.take() {
            Some(disk) => {
                self.bench.set_mode(disk, Mode::Well);
                self.bench.until(|report| report.state == PoolState::Online);
            }
            None => {
                let random = self.bench.executor.handle();
                let any = random.random_below(3) as usize;
                let lost = random.random_below(2) == 0;
                // One that is still behind is as good as sick: a second one would be one too many.
                let report = self.bench.report();
                let behind = report.disks.iter().position(|disk| disk.dirty_bytes > 0);
                let disk = behind.unwrap_or(any);
                self.bench.set_mode(disk, if lost { Mode::Lost } else { Mode::Hanging });
                self.sick = Some(disk);
            }
        }
    }
}
