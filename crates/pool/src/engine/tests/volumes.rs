//! Volumes that get another name, or end earlier.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, IoError};

use super::super::VolumeSize;
use super::super::testing::{Bench, Mode};
use super::pattern;
use crate::error::PoolError;
use crate::metadata::Layout;
use crate::report::{PoolEvent, PoolState, VolumeReport};

impl Bench {
    fn rename(&self, from: &str, to: &str) -> Result<VolumeReport, PoolError> {
        let (engine, from, to) = (Rc::clone(&self.engine), from.to_owned(), to.to_owned());
        self.run(async move { engine.rename_volume("pool", &from, &to).await })
    }

    fn names(&self) -> Vec<String> {
        self.report().volumes.into_iter().map(|volume| volume.name).collect()
    }
}

#[test]
fn a_volume_gets_another_name_while_it_is_used() {
    let bench = Bench::new(601, 3, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let engine = Rc::clone(&bench.engine);
    let set = async move { engine.set_property("pool", "v", "mount", Some("/m".into())).await };
    bench.run(set).unwrap();
    let before = bench.report().volumes[0].clone();
    let renamed = bench.rename("v", "w").unwrap();
    assert_eq!(renamed.properties, before.properties);
    assert_eq!(bench.names(), ["w"]);
    // Who has it open knows it by no name.
    bench.write(&volume, 64, pattern(64, 64, 1)).unwrap();
    assert_eq!(bench.read(&volume, 0, 128).unwrap(), pattern(0, 128, 1));
    assert!(matches!(bench.rename("v", "x"), Err(PoolError::NotFound { .. })));
    assert!(bench.engine.open_volume("pool", "v").is_err());
    // The old name is free, the new one isn't.
    bench.create_volume(4, Layout::Raid0);
    assert_eq!(bench.names(), ["w", "v"]);
    assert!(matches!(bench.rename("v", "w"), Err(PoolError::Exists { .. })));
    assert!(matches!(bench.rename("v", "a/b"), Err(PoolError::Invalid { .. })));
    assert_eq!(bench.rename("w", "w").unwrap().name, "w");
    bench.events();
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.names(), ["w", "v"]);
    let serving = |event: &PoolEvent| matches!(event, PoolEvent::VolumeServing { volume, .. } if volume == "w");
    assert!(bench.events().iter().any(serving));
    let volume = bench.engine.open_volume("pool", "w").unwrap();
    assert_eq!(bench.read(&volume, 0, 128).unwrap(), pattern(0, 128, 1));
}

/// What can't be decided now may be decided later, and whoever asked isn't told that it failed.
#[test]
fn a_name_without_a_majority_is_not_known_to_be_given() {
    let bench = Bench::new(602, 3, 48);
    bench.create();
    bench.create_volume(8, Layout::Mirror(2));
    bench.set_mode(0, Mode::Hanging);
    bench.set_mode(1, Mode::Hanging);
    let engine = Rc::clone(&bench.engine);
    let asked = bench.run_for(Duration::from_secs(60), async move {
        engine.rename_volume("pool", "v", "w").await
    });
    assert!(asked.is_none_or(|answer| answer.is_err()));
    assert_eq!(bench.names(), ["v"]);
    bench.set_mode(0, Mode::Well);
    bench.set_mode(1, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    bench.pass(Duration::from_secs(10));
    let names = bench.names();
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.names(), names);
}

impl Bench {
    fn reduce(&self, bytes: u64) -> Result<VolumeReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.reduce_volume("pool", "v", bytes).await })
    }

    fn grow(&self, bytes: u64) {
        let engine = Rc::clone(&self.engine);
        let size = VolumeSize::Bytes(bytes);
        self.run(async move { engine.extend_volume("pool", "v", size).await }).unwrap();
    }
}

const BLOCK: u64 = BLOCK_BYTES as u64;

fn is_zeros(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

#[test]
fn a_volume_ends_earlier_and_is_zeros_where_it_grows_again() {
    for in_place in [false, true] {
        let bench = Bench::new(603, 3, 48);
        bench.create();
        let blocks = (8 << 20) / BLOCK;
        let volume = bench.create_volume(8, Layout::Mirror(2));
        for block in (0..blocks).step_by(64) {
            bench.write(&volume, block, pattern(block, 64, 1)).unwrap();
        }
        // What the log still has counts as little as what is in place.
        if in_place {
            bench.until(|report| report.volumes[0].log_bytes == 0);
        }
        let free = bench.report().free_bytes;
        // In the middle of a set of groups.
        let end = (2 << 20) / BLOCK + 3;
        assert!(matches!(bench.reduce((blocks + 1) * BLOCK), Err(PoolError::Invalid { .. })));
        assert!(matches!(bench.reduce(0), Err(PoolError::Invalid { .. })));
        assert_eq!(bench.reduce(blocks * BLOCK).unwrap().size_bytes, blocks * BLOCK);
        assert_eq!(bench.reduce(end * BLOCK - 5).unwrap().size_bytes, end * BLOCK);
        assert_eq!(volume.geometry().sectors, end * 8);
        assert!(matches!(bench.read(&volume, end, 1), Err(IoError::OutOfRange(_))));
        assert_eq!(bench.read(&volume, end - 1, 1).unwrap(), pattern(end - 1, 1, 1));
        assert!(bench.report().free_bytes > free, "nothing was given back");
        // Within the last set, and behind it; once at once, once after a crash.
        bench.grow((end + 2) * BLOCK);
        assert!(is_zeros(&bench.read(&volume, end, 2).unwrap()));
        let bench = bench.power_cut();
        bench.until(|report| report.state == PoolState::Online);
        bench.grow(blocks * BLOCK);
        let volume = bench.engine.open_volume("pool", "v").unwrap();
        for block in 0..blocks {
            let now = bench.read(&volume, block, 1).unwrap();
            match block < end {
                true => assert_eq!(now, pattern(block, 1, 1), "block {block}"),
                false => assert!(is_zeros(&now), "block {block}"),
            }
        }
    }
}

/// What is under way on the end, and waits for disks, isn't waited for for ever; then nothing has changed.
#[test]
fn what_cant_be_quieted_is_left_as_it_is() {
    let bench = Bench::new(604, 3, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    for disk in 0..3 {
        bench.set_mode(disk, Mode::Hanging);
    }
    let last = (8 << 20) / BLOCK - 1;
    let (engine, device) = (Rc::clone(&bench.engine), Rc::clone(&volume));
    bench.executor.handle().spawn(async move {
        let data = pattern(last, 1, 1);
        let _ = device.write(block::Lba(last * 8), data, block::Durability::Durable).await;
    });
    let asked = bench.run_for(Duration::from_secs(60), async move {
        engine.reduce_volume("pool", "v", 4 << 20).await
    });
    assert!(asked.is_none_or(|answer| answer.is_err()));
    for disk in 0..3 {
        bench.set_mode(disk, Mode::Well);
    }
    bench.until(|report| report.state == PoolState::Online);
    bench.until(|report| report.volumes[0].suspended().is_none());
    let now = bench.report().volumes[0].size_bytes;
    let engine = Rc::clone(&bench.engine);
    let volume = bench.engine.open_volume("pool", "v").unwrap();
    // Whoever asked was told that it isn't known: the report and the device agree on it.
    assert_eq!(volume.geometry().sectors * 512, now);
    let again = bench.run(async move { engine.reduce_volume("pool", "v", 4 << 20).await });
    assert_eq!(again.unwrap().size_bytes, 4 << 20);
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
}
