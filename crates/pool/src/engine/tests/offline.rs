//! Disks that people take out of use, and into use again.

use std::rc::Rc;
use std::time::Duration;

use super::super::testing::{Bench, Mode};
use super::super::{ExtendPool, NamedDisks};
use super::jobs::written;
use super::pattern;
use crate::allocate::usable_bytes;
use crate::error::PoolError;
use crate::forecast::{OfflineForecast, OnlineForecast};
use crate::metadata::{GroupRun, Layout};
use crate::report::{DiskState, PoolState};

impl Bench {
    fn offline(&self, disks: &[&str], dry_run: bool) -> Result<OfflineForecast, PoolError> {
        let disks = disks.iter().map(|disk| (*disk).to_owned()).collect();
        let (engine, request) = (Rc::clone(&self.engine), NamedDisks { disks, dry_run });
        self.run(async move { engine.offline_disks("pool", &request).await })
    }

    fn online(&self, disks: &[&str]) -> Result<OnlineForecast, PoolError> {
        let disks = disks.iter().map(|disk| (*disk).to_owned()).collect();
        let (engine, request) = (Rc::clone(&self.engine), NamedDisks { disks, dry_run: false });
        self.run(async move { engine.online_disks("pool", &request).await })
    }

    fn is_offline(&self, disk: usize) -> bool {
        self.report().disks[disk].state == DiskState::Offline
    }

    /// Whether the pool's properties name a disk as one that is to take no part.
    fn wishes(&self) -> usize {
        let open = self.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        meta.properties().iter().filter(|(key, _)| key.starts_with("offline")).count()
    }
}

#[test]
fn an_offline_disk_is_left_alone_whoever_opens_the_pool_and_gets_what_it_missed() {
    let (bench, volume) = written(21, Layout::Mirror(2), 1000);
    bench.set_rebuild_delay(5);
    let looked = bench.offline(&["e0.0"], true).unwrap();
    assert!(!bench.is_offline(0) && bench.wishes() == 0, "it was only asked");
    let before = bench.executor.handle().now();
    assert_eq!(bench.offline(&["e0.0"], false).unwrap(), looked);
    assert!(bench.executor.handle().now().since(before) < Duration::from_millis(500));
    assert!(bench.is_offline(0) && !bench.devices.borrow()[0].is_owned());
    let report = bench.report();
    assert_eq!((report.state, report.survives), (PoolState::Degraded, 0));
    assert!(report.disks[0].offline.as_ref().is_some_and(|it| it.waits.is_none()));
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    let (reads, writes) = (bench.disks[0].reads.get(), bench.disks[0].writes.get());
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.disks[0].reads.get(), bench.disks[0].writes.get()), (reads, writes));
    assert_eq!(bench.report().jobs, [], "it isn't rebuilt");
    // Also one that is pulled and put back, a crash, and a power cut.
    bench.set_mode(0, Mode::Lost);
    bench.pass(Duration::from_secs(20));
    bench.set_mode(0, Mode::Well);
    bench.pass(Duration::from_secs(20));
    let bench = bench.crash_engine();
    let volume = bench.reopened();
    bench.pass(Duration::from_secs(20));
    assert!(bench.is_offline(0) && !bench.devices.borrow()[0].is_owned());
    bench.write(&volume, 50, pattern(50, 50, 1)).unwrap();
    let bench = bench.power_cut();
    let volume = bench.reopened();
    bench.pass(Duration::from_secs(20));
    assert!(bench.is_offline(0) && bench.report().jobs.is_empty());
    let refused = bench.online(&["e1.0"]).unwrap_err();
    assert!(refused.to_string().contains("e1.0 is not offline"), "{refused}");
    let back = bench.online(&["node-0"]).unwrap();
    assert!(back.missed_bytes > 0 && back.missed_bytes < 100 << 20, "{back:?}");
    bench.until(|report| report.state == PoolState::Online && report.volumes[0].dirty_bytes == 0);
    assert_eq!(bench.wishes(), 0);
    bench.assert_sound(&volume, 1000);
}

#[test]
fn the_last_right_copy_is_not_taken_out_of_use() {
    let (bench, volume) = written(22, Layout::Mirror(2), 1000);
    bench.set_mode(0, Mode::Lost);
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(5));
    let refusals = (1..5).map(|disk| bench.offline(&[&format!("e{disk}.0")], true));
    let refused: Vec<String> = refusals.filter_map(|r| r.err().map(|e| e.to_string())).collect();
    assert!(!refused.is_empty(), "e0.0 shares data with somebody");
    for why in &refused {
        assert!(why.contains("of volume v") && why.contains("e0.0"), "{why}");
    }
    let [whole, ..] = &refused[..] else { return };
    let disk = whole.split_whitespace().nth(1).unwrap();
    assert_eq!(bench.offline(&[disk], false).unwrap_err().to_string(), *whole);
    assert_eq!(bench.wishes(), 0);
    // What is gone may stay gone, as nobody depends on it.
    bench.offline(&["e0.0"], false).unwrap();
    bench.set_mode(0, Mode::Well);
    bench.pass(Duration::from_secs(20));
    assert!(bench.is_offline(0));
    let both = bench.offline(&["e1.0", "e2.0", "e3.0", "e4.0"], true).unwrap_err();
    assert!(both.to_string().contains("e1.0 and e2.0"), "{both}");
    bench.online(&["e0.0"]).unwrap();
    bench.until(|report| report.state == PoolState::Online && report.volumes[0].dirty_bytes == 0);
    bench.offline(&[disk], false).unwrap();
    bench.assert_reads(&volume, 1000);
}

#[test]
fn of_two_machines_either_may_be_worked_on() {
    let bench = Bench::new(23, 2, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    for (disk, name) in [(0, "e0.0"), (1, "e1.0"), (0, "e0.0")] {
        let plan = bench.offline(&[name], false).unwrap();
        assert_eq!(
            (plan.votes_move.as_slice(), plan.volumes[0].disks_then),
            (&[name.to_owned()][..], 0)
        );
        // Pulled, without anybody waiting for it.
        bench.set_mode(disk, Mode::Lost);
        let before = bench.executor.handle().now();
        bench.write(&volume, 50, pattern(50, 50, 1)).unwrap();
        assert!(bench.executor.handle().now().since(before) < Duration::from_millis(500));
        bench.pass(Duration::from_secs(30));
        assert!(bench.report().lease_ok && bench.report().votes.total == 1);
        bench.set_mode(disk, Mode::Well);
        bench.online(&[name]).unwrap();
        bench.until(|report| report.votes.total == 2 && report.state == PoolState::Online);
        bench.until(|report| report.volumes[0].dirty_bytes == 0);
    }
    bench.assert_sound(&volume, 100);
}

#[test]
fn an_offline_disk_votes_where_nobody_could_open_the_pool_otherwise() {
    let (bench, volume) = written(24, Layout::Mirror(3), 200);
    bench.offline(&["e0.0"], false).unwrap();
    bench.write(&volume, 0, pattern(0, 50, 1)).unwrap();
    bench.pass(Duration::from_secs(5));
    for gone in [3, 4] {
        bench.set_mode(gone, Mode::Lost);
    }
    // Without it these are two of five.
    bench.pass(Duration::from_secs(10));
    let report = bench.report();
    assert!(report.votes.total < 5 || !report.lease_ok, "{report:#?}");
    let bench = bench.crash_engine();
    bench.set_mode(3, Mode::Lost);
    bench.set_mode(4, Mode::Lost);
    bench.pass(Duration::from_secs(30));
    let report = bench.report();
    assert!(report.lease_ok && report.disks[0].state == DiskState::Offline, "{report:#?}");
    assert_eq!(report.survives, 0);
    bench.online(&["e0.0"]).unwrap();
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.report().disks[0].state, DiskState::Usable);
    for back in [3, 4] {
        bench.set_mode(back, Mode::Well);
    }
    let volume = bench.reopened();
    bench.until(|report| report.state == PoolState::Online && report.volumes[0].dirty_bytes == 0);
    bench.assert_sound(&volume, 200);
}

#[test]
fn disks_that_were_claimed_to_open_a_pool_are_left_alone_once_others_suffice() {
    let bench = Bench::new(26, 6, 48);
    bench.create();
    let votes: Vec<bool> = bench.report().disks.iter().map(|disk| disk.holds_vote).collect();
    let spare = votes.iter().position(|votes| !votes).unwrap();
    let voters: Vec<usize> = (0..6).filter(|disk| *disk != spare).collect();
    let offline = [voters[0], spare];
    let names = offline.map(|disk| format!("e{disk}.0"));
    bench.offline(&names.each_ref().map(String::as_str), false).unwrap();
    let gone = [voters[3], voters[4]];
    gone.iter().for_each(|disk| bench.set_mode(*disk, Mode::Lost));
    let bench = bench.crash_engine();
    gone.iter().for_each(|disk| bench.set_mode(*disk, Mode::Lost));
    bench.pass(Duration::from_secs(30));
    assert!(bench.report().lease_ok && offline.iter().all(|disk| bench.is_offline(*disk)));
    assert!(offline.iter().all(|disk| bench.devices.borrow()[*disk].is_owned()));
    gone.iter().for_each(|disk| bench.set_mode(*disk, Mode::Well));
    bench.pass(Duration::from_secs(60));
    assert!(bench.report().lease_ok && offline.iter().all(|disk| bench.is_offline(*disk)));
    let is_owned = offline.map(|disk| bench.devices.borrow()[disk].is_owned());
    assert_eq!(is_owned, [false, false]);
}

#[test]
fn a_disk_that_is_removed_leaves_no_wish_behind() {
    let (bench, volume) = written(25, Layout::Mirror(2), 1000);
    bench.offline(&["e0.0"], false).unwrap();
    bench.remove("e0.0").unwrap();
    bench.until(|report| report.disks.len() == 4 && report.jobs.is_empty());
    assert_eq!(bench.wishes(), 0);
    bench.assert_sound(&volume, 1000);
}

/// What was decided before the wish isn't done after it: the disk would count for what it is about to miss.
#[test]
fn a_move_does_not_end_on_a_disk_that_is_to_take_no_part() {
    let (bench, _volume) = written(28, Layout::Mirror(2), 1000);
    bench.empty("e0.0", None).unwrap();
    let open = bench.engine.open_pool("pool").unwrap();
    let (id, run) = loop {
        let meta = open.pool.meta.borrow();
        let volume = meta.volumes().values().next().unwrap();
        let is_whole = |run: &&GroupRun| {
            run.incoming.is_some_and(|incoming| meta.lacks_nothing(run, incoming.member.disk))
        };
        if let Some(run) = volume.runs.values().find(is_whole) {
            break (volume.id, run.clone());
        }
        drop(meta);
        bench.pass(Duration::from_millis(1));
    };
    let to = open.pool.disk_name(run.incoming.unwrap().member.disk);
    bench.offline(&[&to], false).unwrap();
    let volume = open.volume(id).unwrap();
    let (still, key) = (open.pool.meta.borrow().run(id, run.key).cloned(), run.key);
    assert_eq!(still.as_ref().map(|still| still.incoming), Some(run.incoming), "still on its way");
    let (this, moved) = (Rc::clone(&open), run.clone());
    let ended =
        bench.run(async move { this.change_map(vec![this.switch_move(&volume, &moved)]).await });
    assert_eq!(ended.ok(), Some(false));
    assert_eq!(open.pool.meta.borrow().run(id, key).unwrap().members, run.members);
}

/// Two of five machines are gone, and one comes.
#[test]
fn what_is_free_and_forecast_is_what_volumes_can_have_now() {
    let bench = Bench::new(29, 6, 48);
    let (engine, request) = (Rc::clone(&bench.engine), bench.request(5));
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    bench.offline(&["e3.0"], false).unwrap();
    bench.offline(&["e4.0"], false).unwrap();
    let report = bench.report();
    let here: u64 = report.disks[..3].iter().map(|disk| disk.free_bytes).sum();
    assert_eq!(report.free_bytes, here, "what is away is nobody's to have");
    assert!(report.capacity_bytes > here);
    let added = ExtendPool::of(&["e5.0".to_owned()]);
    let (engine, request) = (Rc::clone(&bench.engine), added.clone());
    let plan = bench.run(async move { engine.plan_extend("pool", &request).await }).unwrap();
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    let open = bench.engine.open_pool("pool").unwrap();
    let (meta, usable) = (open.pool.meta.borrow(), open.pool.usable_disks());
    assert_eq!(usable.len(), 4);
    let said: Vec<_> = plan.volumes.iter().map(|room| (&*room.layout, room.bytes)).collect();
    let layouts = ["raid0", "mirror:2", "mirror:3", "mirror:4"];
    let can =
        layouts.map(|layout| (layout, usable_bytes(&meta, &usable, layout.parse().unwrap(), None)));
    assert_eq!(said, can);
}
