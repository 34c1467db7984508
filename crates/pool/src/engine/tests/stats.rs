//! What a request waits for is counted where it waits.

use std::time::Duration;

use block::{BLOCK_BYTES, BLOCK_SECTORS, Durability, Histogram, Lba, SECTOR_BYTES, SectorRange};
use futures::future::join_all;

use super::super::testing::{Bench, Mode};
use super::pattern;
use crate::stats::{DiskStats, VolumeStats};

const SLOW: Duration = Duration::from_millis(5);
/// The end of the bucket of what takes as long as a slow disk.
const SLOW_END: Option<Duration> = Some(Duration::from_micros(8192));
/// The same for what is done at once.
const AT_ONCE: Option<Duration> = Some(Duration::from_micros(1));

impl Bench {
    fn stats(&self) -> VolumeStats {
        self.engine.volume_stats("pool", "v").unwrap()
    }
}

fn most(times: &Histogram) -> Option<Duration> {
    times.percentile(100)
}

#[test]
fn a_slow_disk_shows_in_what_waits_for_it() {
    let (bench, volume) = Bench::mirrored(61);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    bench.read(&volume, 0, 64).unwrap();
    let before = bench.stats();
    assert!(most(&before.write.log) < SLOW_END && most(&before.read.device) < SLOW_END);
    assert_eq!(before.read.total.sum(), before.read.device.sum() + before.read.queue.sum());
    let total = before.write.log.sum() + before.write.queue.sum() + before.write.room.sum();
    assert_eq!(before.write.total.sum(), total, "nothing else takes time");

    bench.disks.iter().for_each(|disk| disk.latency.set(SLOW));
    bench.write(&volume, 100, pattern(100, 8, 1)).unwrap();
    bench.read(&volume, 0, 64).unwrap();
    let now = bench.stats().since(&before).unwrap();
    assert_eq!((most(&now.write.total), most(&now.write.log)), (SLOW_END, SLOW_END));
    assert_eq!((most(&now.write.queue), most(&now.write.room)), (AT_ONCE, AT_ONCE));
    assert_eq!((most(&now.read.total), most(&now.read.device)), (SLOW_END, SLOW_END));
    assert_eq!(most(&now.read.queue), AT_ONCE);
    assert!(now.read.log.is_empty() && now.read.room.is_empty() && now.write.device.is_empty());
    assert_eq!((now.read.bytes, now.write.bytes), (64 * 4096, 8 * 4096));
    assert!(now.destage.total.is_empty());

    bench.pass(Duration::from_secs(3));
    let now = bench.stats().since(&before).unwrap();
    assert_eq!((now.destage.blocks, now.destage.bytes), (8, 8 * 4096));
    assert!(now.destage.total.count() >= 1 && most(&now.destage.total) >= SLOW_END);
    let report = &bench.report().volumes[0];
    let all = bench.stats();
    assert_eq!((report.read_bytes, report.written_bytes), (all.read.bytes, all.write.bytes));
}

/// Who has room waits for nobody, so nothing is brought into place for it before the log is idle.
#[test]
fn writes_that_find_room_start_no_destage() {
    let (bench, volume) = Bench::mirrored(66);
    let destages = || bench.stats().destage.total.count();
    let before = destages();
    for round in 0..50 {
        bench.write(&volume, round % 4, pattern(0, 1, round)).unwrap();
        bench.pass(Duration::from_millis(10));
    }
    assert_eq!(destages(), before);
    bench.pass(Duration::from_secs(3));
    assert_eq!(destages(), before + 1);
    // Nor does the first one after a pause.
    bench.write(&volume, 0, pattern(0, 1, 50)).unwrap();
    bench.pass(Duration::from_millis(10));
    assert_eq!(destages(), before + 1);
}

#[test]
fn the_slow_one_of_several_disks_is_named() {
    let (bench, volume) = Bench::mirrored(62);
    let slow = &bench.disks[1];
    slow.latency.set(SLOW);
    for round in 0..8 {
        bench.write(&volume, round * 256, pattern(round * 256, 128, round)).unwrap();
        bench.pass(Duration::from_secs(3));
        bench.read(&volume, round * 256, 128).unwrap();
    }
    let stats = bench.stats();
    assert_eq!(stats.disks.len(), 3);
    for disk in &stats.disks {
        let done = &disk.operations;
        for (purpose, done) in done.by_purpose() {
            let is_slow = most(&done.total) >= SLOW_END;
            let expected = disk.name == slow.name && !done.total.is_empty();
            assert_eq!(is_slow, expected, "{} {purpose}: {:?}", disk.name, done.total);
        }
        assert!(!done.network.total.is_empty() && !done.flush.total.is_empty(), "{}", disk.name);
        assert!(done.write.bytes > 0, "{}", disk.name);
    }
    let written = |disk: &DiskStats| disk.operations.log.bytes + disk.operations.write.bytes;
    let written: u64 = stats.disks.iter().map(written).sum();
    assert!(written >= 2 * stats.write.bytes, "both copies");
}

#[test]
fn who_comes_second_waits_in_the_queue() {
    let (bench, volume) = Bench::mirrored(63);
    let before = bench.stats();
    let write = |version| volume.write(Lba(0), pattern(0, 8, version), Durability::Durable);
    let both = join_all([write(1), write(2)]);
    assert!(bench.run(both).into_iter().all(|done| done.is_ok()));
    let now = bench.stats().since(&before).unwrap();
    assert_eq!((now.write.queue.count(), now.write.queue.buckets()[0]), (2, 1));
    assert!(most(&now.write.queue) > AT_ONCE);
    assert_eq!(most(&now.write.room), AT_ONCE);
}

#[test]
fn who_finds_the_log_full_waits_for_room() {
    let (bench, volume) = Bench::mirrored(64);
    let blocks = 256;
    let write = |turn: u64| {
        let first = turn % 8 * blocks;
        volume.write(Lba(first * BLOCK_SECTORS), pattern(first, blocks, turn), Durability::Durable)
    };
    assert!(bench.run(join_all((0..64).map(write))).into_iter().all(|done| done.is_ok()));
    let stats = bench.stats();
    assert_eq!((stats.write.room.count(), stats.write.bytes), (64, 64 << 20));
    assert!(most(&stats.write.room) > AT_ONCE, "{:?}", stats.write.room);
    assert!(stats.destage.total.count() > 1);
}

#[test]
fn each_kind_is_counted_and_so_are_the_blocks_at_its_edges() {
    let (bench, volume) = Bench::mirrored(65);
    bench.write(&volume, 0, pattern(0, 8, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    let before = bench.stats();
    let sector = block::Buffer::zeroed(SECTOR_BYTES);
    bench.run(volume.write(Lba(9), sector, Durability::Durable)).unwrap();
    let zeros = SectorRange::new(Lba(16), 8);
    bench.run(volume.write_zeroes(zeros, Durability::Durable)).unwrap();
    let discarded = bench.run(volume.discard(SectorRange::new(Lba(24), 16))).unwrap();
    let nothing = SectorRange::new(Lba(8192), 16);
    bench.run(volume.discard(nothing)).unwrap();
    bench.run(volume.flush(discarded.instance)).unwrap();
    let now = bench.stats().since(&before).unwrap();
    assert_eq!((now.write.total.count(), now.write.bytes), (2, 512 + BLOCK_BYTES as u64));
    assert_eq!(now.write.device.count(), 1, "only the block that is changed in part is read");
    assert_eq!((now.discard.total.count(), now.discard.bytes), (2, 32 * 512));
    assert_eq!(now.discard.log.count(), 1, "where nothing was there is nothing to log");
    assert_eq!((now.flush.total.count(), now.flush.bytes), (1, 0));
    assert!(now.requests().iter().all(|(_, requests)| requests.errors == 0));
    bench.disks.iter().for_each(|disk| disk.bad_sectors.borrow_mut().extend(0..1 << 20));
    assert!(bench.read(&volume, 0, 1).is_err());
    let now = bench.stats().since(&before).unwrap();
    assert_eq!((now.read.errors, now.read.bytes, now.read.total.count()), (1, 0, 1));
}

#[test]
fn what_a_disk_never_answered_is_counted_as_long_as_it_was_waited_for() {
    let (bench, volume) = Bench::mirrored(66);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    let has_read = |name: &str| {
        let disks = bench.stats().disks;
        disks.iter().any(|disk| disk.name == name && !disk.operations.read.total.is_empty())
    };
    (0..64).for_each(|_| drop(bench.read(&volume, 0, 64).unwrap()));
    let hangs = bench.disks.iter().find(|disk| has_read(&disk.name)).unwrap();
    hangs.set_mode(Mode::Hanging);
    (0..64).for_each(|_| drop(bench.read(&volume, 0, 64).unwrap()));
    let hedge = crate::Limits::default().hedge;
    let waited = |disk: &crate::DiskStats| most(&disk.operations.read.total) > Some(hedge);
    let slow = bench.stats().disks;
    let slow: Vec<_> = slow.iter().filter(|disk| waited(disk)).map(|disk| &disk.name).collect();
    assert_eq!(slow, [&hangs.name]);
}
