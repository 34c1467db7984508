//! Volumes that get another name.

use std::rc::Rc;
use std::time::Duration;

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
