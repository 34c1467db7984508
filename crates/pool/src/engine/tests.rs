//! Whole engines over disks that crash, hang and forget, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Durability, IoError, Lba, SectorRange};

use super::testing::{Bench, Mode};
use super::{CreatePool, VolumeSize};
use crate::format::FailureDomain;
use crate::metadata::Layout;
use crate::report::{PoolEvent, PoolReport, PoolState, VerifyReport};

const MIB: u64 = 1 << 20;

impl Bench {
    fn create(&self) -> PoolReport {
        let request = CreatePool {
            name: "pool".into(),
            disks: self.disks.iter().map(|disk| disk.name.clone()).collect(),
            failure_domain: FailureDomain::Node,
            force_disks: Vec::new(),
            extent_bytes: Some(256 << 10),
        };
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

    /// Waits until the pool is open, and opens the volume.
    fn reopened(&self) -> Rc<dyn BlockDevice> {
        self.until(|report| {
            matches!(report.state, PoolState::Online | PoolState::Degraded)
                && report.volumes.iter().all(|volume| volume.suspended.is_none())
        });
        self.engine.open_volume("pool", "v").unwrap()
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
    // Folded by being idle, and read from disk.
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
fn a_lost_disk_is_put_out_and_catches_up_what_it_missed() {
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
        assert_eq!(report.missed, 0);
    }
    assert!(bench.report().volumes[0].caught_up_bytes > 0);
    assert_eq!(bench.read(&volume, 50, 2).unwrap(), pattern(50, 2, 2));
    let events = bench.events();
    assert!(events.iter().any(|event| matches!(event, PoolEvent::DiskOut { .. })), "{events:?}");
    assert!(events.iter().any(|event| matches!(event, PoolEvent::CaughtUp { .. })), "{events:?}");
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
    assert_eq!(bench.report().volumes[0].settled.blocks, 100);
}
