//! How drives are, as their machines tell.

use block::{DriveHealth, HealthState};

use super::*;

fn health(state: HealthState, reason: &str) -> DriveHealth {
    DriveHealth {
        state,
        reason: reason.into(),
        temperature_celsius: Some(31),
        wear_percent: None,
        power_on_hours: Some(9),
        reallocated: Some(0),
        unreadable: Some(0),
    }
}

/// What was told since the last time of drives.
fn told(bench: &Bench) -> Vec<(String, HealthState, String)> {
    let told = bench.events().into_iter().filter_map(|event| match event {
        PoolEvent::DiskHealth { pool, disk, health, reason } => {
            assert_eq!(pool, "pool");
            Some((disk, health, reason))
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn how_drives_are_is_shown_and_told_when_it_changes() {
    let bench = Bench::new(70, 3, 48);
    bench.create();
    let name = bench.disks[1].name.clone();
    let shown = |bench: &Bench| {
        let disk = bench.report().disks.into_iter().find(|disk| disk.name == name).unwrap();
        let engine = Rc::clone(&bench.engine);
        let listed = bench.run(async move { engine.disks().await });
        let listed = listed.into_iter().find(|disk| disk.name == name).unwrap();
        assert_eq!(listed.health, disk.health);
        disk.health
    };
    let pass = |bench: &Bench| bench.pass(Duration::from_secs(61));
    pass(&bench);
    assert_eq!(shown(&bench), None, "its machine doesn't know");

    let good = health(HealthState::Good, "");
    bench.disks[1].health.replace(Some(good.clone()));
    pass(&bench);
    assert_eq!(shown(&bench), Some(good));

    let ageing = health(HealthState::Ageing, "8 sectors that it can't read");
    bench.disks[1].health.replace(Some(ageing.clone()));
    pass(&bench);
    assert_eq!(shown(&bench), Some(ageing.clone()));
    pass(&bench);

    // A disk that is silent is as it was, as far as anybody knows; one that is missing isn't shown at all.
    bench.disks[1].set_mode(Mode::Hanging);
    pass(&bench);
    bench.disks[1].set_mode(Mode::Well);
    pass(&bench);
    assert_eq!(shown(&bench), Some(ageing));

    bench.disks[1].health.replace(Some(health(HealthState::Good, "")));
    pass(&bench);
    bench.disks[1].health.take();
    pass(&bench);
    assert_eq!(shown(&bench), None, "its machine can't tell any more");
    // Once each; that it is well at first is no news.
    let expected = [
        (name.clone(), HealthState::Ageing, "8 sectors that it can't read".to_owned()),
        (name.clone(), HealthState::Good, String::new()),
    ];
    assert_eq!(told(&bench), expected);
}

#[test]
fn what_is_wrong_from_the_beginning_is_told_once_the_pool_is_open() {
    let bench = Bench::new(71, 3, 48);
    bench.create();
    bench.disks[2]
        .health
        .replace(Some(health(HealthState::Failing, "it expects to fail soon itself")));
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online);
    bench.pass(Duration::from_secs(61));
    let told = told(&bench);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0].0, told[0].1), (&bench.disks[2].name, HealthState::Failing));
}
