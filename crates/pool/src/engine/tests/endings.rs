//! Pools that are destroyed or get another name, and disks that are wiped: what was decided first, what was looked at again, and what may
//! come back.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Instant};

use super::super::config::vote_place;
use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{CreatePool, ExtendPool, ImportOptions, KnownPool, WipeDisks};
use super::pattern;
use crate::endings::{DestroyPlan, DestroyReport, WipePlan, WipeReport};
use crate::error::PoolError;
use crate::format::{
    Configuration, Destruction, DiskGeometry, FailureDomain, LABEL_BYTES, VOTE_BYTES, select_vote,
};
use crate::metadata::Layout;
use crate::report::{DiskState, PoolState};

impl Bench {
    pub(super) fn plan_destroy(&self, pool: &str) -> Result<DestroyPlan, PoolError> {
        let (engine, pool) = (Rc::clone(&self.engine), pool.to_owned());
        self.run(async move { engine.plan_destroy(&pool).await })
    }

    fn destroy_shown(&self, shown: DestroyPlan) -> Result<DestroyReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.destroy_pool(&shown).await })
    }

    pub(super) fn destroy(&self, pool: &str) -> Result<DestroyReport, PoolError> {
        self.destroy_shown(self.plan_destroy(pool)?)
    }

    fn plan_wipe(&self, disks: &[&str], signatures: bool) -> Result<WipePlan, PoolError> {
        let disks = disks.iter().map(|disk| (*disk).to_owned()).collect();
        let (engine, request) = (Rc::clone(&self.engine), WipeDisks { disks, signatures });
        self.run(async move { engine.plan_wipe(&request).await })
    }

    fn wipe_shown(&self, shown: WipePlan) -> Result<WipeReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.wipe_disks(&shown).await })
    }

    fn state_of(&self, disk: &str) -> DiskState {
        let engine = Rc::clone(&self.engine);
        let disks = self.run(async move { engine.disks().await });
        disks.into_iter().find(|report| report.name == disk).unwrap().state
    }

    /// Another engine of the same supervisor over these disks, with nothing or these pools in its records.
    fn over(self, disks: &[usize], pools: Vec<KnownPool>) -> Bench {
        let now = self.executor.handle().now();
        let chosen = disks.iter().map(|at| Rc::clone(&self.disks[*at])).collect();
        self.executor.clear();
        let bench = Bench::again(self.seed + 1, chosen, now, self.owner, pools);
        bench.pass(Duration::from_secs(8));
        bench
    }
}

/// The votes that a disk's slots hold.
fn votes_on(disk: &TestDisk) -> Vec<Destruction> {
    let image = disk.image();
    let label = crate::format::select_label(
        DiskGeometry::label_slots(image.len() as u64).map(|slot| {
            let at = slot.byte_offset() as usize;
            Some(&image[at..at + LABEL_BYTES])
        }),
        image.len() as u64,
    );
    let crate::format::LabelState::Labelled(label) = label else { return Vec::new() };
    let place = vote_place(label.label.pool, label.label.disk);
    let slots = DiskGeometry::vote_slots().map(|slot| {
        let at = slot.byte_offset() as usize;
        &image[at..at + VOTE_BYTES]
    });
    let each = [[Some(slots[0]), None], [None, Some(slots[1])]];
    let each = each.map(|slots| select_vote(&place, slots, &label.label.vote_disks).newest);
    each.into_iter().flatten().map(|vote: Configuration| vote.destruction).collect()
}

fn create(bench: &Bench, name: &str, disks: &[&str]) {
    let disks: Vec<String> = disks.iter().map(|disk| (*disk).to_owned()).collect();
    let request = CreatePool {
        failure_domain: FailureDomain::Disk,
        extent_bytes: Some(256 << 10),
        ..CreatePool::of(name, &disks)
    };
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
}

#[test]
fn a_destroyed_pool_leaves_blank_disks_which_make_another() {
    let (bench, volume) = Bench::mirrored(600);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let plan = bench.plan_destroy("pool").unwrap();
    let volumes = plan.volumes.clone().unwrap();
    assert_eq!((volumes[0].name.as_str(), volumes[0].size_bytes), ("v", 8 << 20));
    assert_eq!((plan.disks.len(), plan.away.len()), (3, 0));
    let done = bench.destroy_shown(plan).unwrap();
    assert_eq!((done.wiped.len(), done.left.len()), (3, 0), "{done:?}");
    assert!(bench.write(&volume, 0, pattern(0, 1, 2)).is_err());
    assert!(bench.engine.known_pools().is_empty());
    bench.pass(Duration::from_secs(10));
    assert!(bench.engine.reports().is_empty(), "{:?}", bench.engine.reports());
    for disk in ["e0.0", "e1.0", "e2.0"] {
        assert_eq!(bench.state_of(disk), DiskState::Free);
    }
    create(&bench, "pool", &["e0.0", "e1.0", "e2.0"]);
    let again = bench.crash_engine();
    again.until(|report| report.state == PoolState::Online);
}

/// A disk that was away comes back: it belongs to a pool that is no more, and is freed by wiping it.
#[test]
fn a_disk_that_was_away_is_of_a_destroyed_pool() {
    let (bench, _) = Bench::mirrored(610);
    bench.set_mode(2, Mode::Lost);
    bench.pass(Duration::from_secs(10));
    let done = bench.destroy("pool").unwrap();
    assert_eq!((done.wiped.len(), done.left.len(), done.away.len()), (2, 0, 1), "{done:?}");
    bench.set_mode(2, Mode::Well);
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.state_of("e2.0"), DiskState::Destroyed);
    assert_eq!(bench.report().state, PoolState::Destroyed);
    // A later engine knows it by the supervisor's records alone.
    let bench = bench.over(&[0, 1, 2], Vec::new());
    let pool = bench.report();
    assert!(matches!(pool.state, PoolState::Incomplete { .. }), "{pool:?}");
    bench.engine.remember_destroyed(pool.id.parse().unwrap(), "pool");
    assert_eq!(bench.report().state, PoolState::Destroyed);
    let plan = bench.plan_wipe(&["e2.0"], false).unwrap();
    assert_eq!((plan.disks[0].pool.as_deref(), &plan.disks[0].loss), (Some("pool"), &None));
    assert_eq!(bench.wipe_shown(plan).unwrap().wiped, ["e2.0"]);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.state_of("e2.0"), DiskState::Free);
    assert!(bench.engine.reports().is_empty());
}

/// Whoever was asked and isn't a majority proves nothing: the pool is opened without him, and destroying it again by
/// him alone is refused.
#[test]
fn a_minority_that_was_asked_decides_nothing() {
    let (bench, volume) = Bench::mirrored(620);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.pass(Duration::from_secs(5));
    let plan = bench.plan_destroy("pool").unwrap();
    // Of three votes one takes what it is told.
    bench.disks[1..].iter().for_each(|disk| disk.refuses_votes.set(true));
    let refused = bench.destroy_shown(plan).unwrap_err().to_string();
    assert!(refused.contains("the same command goes on"), "{refused}");
    assert!(votes_on(&bench.disks[0]).contains(&Destruction::Asked));
    assert!(bench.disks.iter().all(|disk| !votes_on(disk).contains(&Destruction::Decided)));
    bench.disks.iter().for_each(|disk| disk.refuses_votes.set(false));
    let pools = bench.engine.known_pools();
    assert_eq!(pools.len(), 1, "it isn't decided");

    // It alone: nobody knows what the others decided.
    let alone = bench.over(&[0], pools);
    let refused = alone.plan_destroy("pool").unwrap_err().to_string();
    assert!(refused.contains("in use elsewhere"), "{refused}");
    assert_eq!(alone.state_of("e0.0"), DiskState::Seen);
}

/// The same with it in sight: it may have been a majority, so the pool isn't opened; destroying goes on.
#[test]
fn who_sees_that_it_was_asked_does_not_open_it() {
    let (bench, _) = Bench::mirrored(625);
    let plan = bench.plan_destroy("pool").unwrap();
    bench.disks[1..].iter().for_each(|disk| disk.refuses_votes.set(true));
    bench.destroy_shown(plan).unwrap_err();
    bench.disks.iter().for_each(|disk| disk.refuses_votes.set(false));
    let pools = bench.engine.known_pools();
    let bench = bench.over(&[0, 1, 2], pools);
    assert_eq!(bench.report().state, PoolState::Destroyed);
    let engine = Rc::clone(&bench.engine);
    let imported =
        bench.run(async move { engine.import_pool("pool", ImportOptions::default()).await });
    assert!(imported.unwrap_err().to_string().contains("to be no more"));
    let done = bench.destroy("pool").unwrap();
    assert_eq!(done.wiped.len(), 3, "{done:?}");
}

#[test]
fn without_the_one_that_was_asked_the_pool_lives_on() {
    let (bench, volume) = Bench::mirrored(627);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let plan = bench.plan_destroy("pool").unwrap();
    bench.disks[1..].iter().for_each(|disk| disk.refuses_votes.set(true));
    bench.destroy_shown(plan).unwrap_err();
    bench.disks.iter().for_each(|disk| disk.refuses_votes.set(false));
    let (pools, all) = (bench.engine.known_pools(), bench.disks.clone());
    let bench = bench.over(&[1, 2], pools);
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
    bench.attach(&all[0]);
    bench.until(|report| report.state == PoolState::Online);
    assert!(!votes_on(&all[0]).is_empty());
    let bench = bench.crash_engine();
    bench.reopened();
}

/// A crash at any step leaves a pool that opens whole, or one that is known to be no more.
#[test]
fn a_crash_leaves_all_or_nothing() {
    let mut ends = [0, 0];
    for step in 0..40 {
        let (bench, volume) = Bench::mirrored(630 + step);
        bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
        let plan = bench.plan_destroy("pool").unwrap();
        let engine = Rc::clone(&bench.engine);
        let work = async move { engine.destroy_pool(&plan).await };
        let _cut_short = bench.run_for(Duration::from_micros(150 * step), work);
        let bench = if step % 2 == 0 { bench.crash_engine() } else { bench.power_cut() };
        bench.pass(Duration::from_secs(30));
        match bench.engine.reports().first().map(|report| report.state.clone()) {
            Some(PoolState::Online) => {
                ends[0] += 1;
                let volume = bench.engine.open_volume("pool", "v").unwrap();
                assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
            }
            Some(PoolState::Destroyed) => {
                ends[1] += 1;
                let done = bench.destroy("pool").unwrap();
                assert!(done.left.is_empty(), "{done:?}");
                bench.pass(Duration::from_secs(10));
                assert!(bench.engine.reports().is_empty());
            }
            None => ends[1] += 1,
            other => panic!("step {step}: {other:?}"),
        }
    }
    assert!(ends[0] > 3 && ends[1] > 3, "{ends:?}");
}

/// What is there is compared with what was shown: another drive, or a disk that came meanwhile.
#[test]
fn what_was_not_shown_is_not_destroyed() {
    let bench = Bench::new(680, 4, 48);
    create(&bench, "pool", &["e0.0", "e1.0", "e2.0"]);
    let plan = bench.plan_destroy("pool").unwrap();
    let engine = Rc::clone(&bench.engine);
    let added = ExtendPool::of(&["e3.0".to_owned()]);
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    bench.pass(Duration::from_secs(10));
    let refused = bench.destroy_shown(plan).unwrap_err().to_string();
    assert!(refused.contains("aren't what was shown"), "{refused}");
    bench.until(|report| report.state == PoolState::Online);

    // Another drive comes to an address between the question and the claim.
    let plan = bench.plan_destroy("pool").unwrap();
    let others = bench.disks[3].image();
    bench.disks[3].set_image(&vec![7; others.len()]);
    let refused = bench.destroy_shown(plan).unwrap_err().to_string();
    assert!(refused.contains("shown"), "{refused}");
    assert!(bench.disks[3].image().iter().all(|byte| *byte == 7), "it was written to");
    bench.disks[3].set_image(&others);
    bench.pass(Duration::from_secs(20));
    bench.until(|report| matches!(report.state, PoolState::Online | PoolState::Degraded));
}

/// Of two pools of one name neither is ended by guessing.
#[test]
fn of_two_pools_of_one_name_neither_is_meant() {
    let disks = [("e0.0", 0), ("e1.0", 1)];
    let disks = disks.map(|(name, node)| TestDisk::new(name, node, 48 << 20)).to_vec();
    let now = Instant::from_nanos(1_000_000_000);
    let other = Bench::with(690, disks[1..].to_vec(), now, 2);
    create(&other, "pool", &["e1.0"]);
    let now = other.executor.handle().now();
    other.executor.clear();
    drop(other);
    let bench = Bench::with(691, disks[..1].to_vec(), now + Duration::from_secs(60), 1);
    create(&bench, "pool", &["e0.0"]);
    bench.attach(&disks[1]);
    bench.pass(Duration::from_secs(10));
    let refused = bench.plan_destroy("pool").unwrap_err().to_string();
    assert!(refused.contains("2 pools are called pool"), "{refused}");
    let open = bench.engine.reports().into_iter().find(|report| report.lease_ok).unwrap();
    let done = bench.destroy(&open.id).unwrap();
    assert_eq!(done.wiped, ["e0.0"]);
    assert!(!votes_on(&disks[1]).is_empty(), "the other one is as it was");
}

/// Another supervisor that lives: no.
#[test]
fn a_pool_in_use_elsewhere_is_not_destroyed() {
    let (first, volume) = Bench::mirrored(695);
    let second = first.other(2);
    second.pass(Duration::from_secs(5));
    first.pass(Duration::from_secs(5));
    let refused = second.plan_destroy("pool");
    assert!(matches!(refused, Err(PoolError::InUse { .. })), "{refused:?}");
    let refused = second.plan_wipe(&["e0.0"], true).unwrap_err().to_string();
    assert!(refused.contains("heard"), "{refused}");
    first.write(&volume, 0, pattern(0, 8, 1)).unwrap();
    // Of one that is gone it says whose it was.
    second.pass(Duration::from_secs(60));
    let plan = second.plan_destroy("pool").unwrap();
    assert_eq!((plan.owner.as_deref(), plan.volumes.is_none()), (Some("supervisor-1"), true));
    assert_eq!(second.destroy_shown(plan).unwrap().wiped.len(), 3);
}

#[test]
fn wiping_takes_off_what_was_shown_and_nothing_that_is_used() {
    let bench = Bench::new(700, 4, 48);
    create(&bench, "pool", &["e0.0", "e1.0"]);
    let refused = bench.plan_wipe(&["e0.0"], true).unwrap_err().to_string();
    assert!(refused.contains("already"), "{refused}");
    assert!(bench.plan_wipe(&["e2.0"], false).unwrap().disks[0].is_blank);
    // A file system is only taken off where that is asked for.
    (0x438..0x43a)
        .zip([0x53u8, 0xef])
        .for_each(|(at, byte)| bench.disks[2].damage(at, |b| *b = byte));
    bench.pass(Duration::from_secs(8));
    let refused = bench.plan_wipe(&["e2.0"], false).unwrap_err().to_string();
    assert!(refused.contains("ext2/3/4") && refused.contains("--signatures"), "{refused}");
    let plan = bench.plan_wipe(&["e2.0"], true).unwrap();
    // Meanwhile it becomes another file system, or a pool's.
    (0..).zip(*b"XFSB").for_each(|(at, byte)| bench.disks[2].damage(at, |b| *b = byte));
    let refused = bench.wipe_shown(plan).unwrap_err().to_string();
    assert!(refused.contains("shown"), "{refused}");
    let plan = bench.plan_wipe(&["e2.0"], true).unwrap();
    assert_eq!(bench.wipe_shown(plan).unwrap().wiped, ["e2.0"]);
    bench.pass(Duration::from_secs(8));
    assert_eq!(bench.state_of("e2.0"), DiskState::Free);

    let plan = bench.plan_wipe(&["e3.0"], true).unwrap();
    let engine = Rc::clone(&bench.engine);
    let added = ExtendPool::of(&["e3.0".to_owned()]);
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    assert!(bench.wipe_shown(plan).is_err());
    bench.until(|report| report.state == PoolState::Online && report.disks.len() == 3);
}

/// A disk of a closed pool is freed by name, after it was said what that pool loses.
#[test]
fn wiping_says_what_a_closed_pool_loses() {
    let (bench, _) = Bench::mirrored(710);
    let bench = bench.over(&[0], Vec::new());
    let plan = bench.plan_wipe(&["e0.0"], false).unwrap();
    let loss = plan.disks[0].loss.clone().unwrap();
    assert!(loss.contains("for good") && loss.contains("votes"), "{loss}");
    assert_eq!(bench.wipe_shown(plan).unwrap().wiped, ["e0.0"]);
    assert_eq!(bench.disks[0].image()[..BLOCK_BYTES], [0; BLOCK_BYTES]);
}

/// Of two votes on a disk the older one goes first: alone it would pass for the newest.
#[test]
fn no_crash_while_a_disk_is_wiped_shows_an_older_vote() {
    for step in 0..24 {
        let bench = Bench::new(720 + step, 1, 48);
        create(&bench, "pool", &["e0.0"]);
        let engine = Rc::clone(&bench.engine);
        let layout = Layout::Raid0;
        bench
            .run(async move {
                engine
                    .create_volume("pool", "v", super::super::VolumeSize::Bytes(1 << 20), layout)
                    .await
            })
            .unwrap();
        let newest = rank_on(&bench.disks[0]).unwrap();
        let now = bench.executor.handle().now() + Duration::from_secs(60);
        let disks = bench.disks.clone();
        bench.executor.clear();
        let bench = Bench::with(900 + step, disks, now, 2);
        bench.pass(Duration::from_secs(3));
        let plan = bench.plan_wipe(&["e0.0"], false).unwrap();
        let engine = Rc::clone(&bench.engine);
        let work = async move { engine.wipe_disks(&plan).await };
        let _cut_short = bench.run_for(Duration::from_micros(120 * step), work);
        let bench = bench.power_cut();
        let shown = rank_on(&bench.disks[0]);
        assert!(
            shown.is_none_or(|rank| rank == newest),
            "step {step}: {shown:?}, it was {newest:?}"
        );
    }
}

/// The newest vote of a disk that has a label.
fn rank_on(disk: &TestDisk) -> Option<(block::Epoch, crate::format::ConfigNumber)> {
    let image = disk.image();
    let bytes = image.len() as u64;
    let slots = DiskGeometry::label_slots(bytes).map(|slot| {
        let at = slot.byte_offset() as usize;
        Some(&image[at..at + LABEL_BYTES])
    });
    let crate::format::LabelState::Labelled(label) = crate::format::select_label(slots, bytes)
    else {
        return None;
    };
    let votes = DiskGeometry::vote_slots().map(|slot| {
        let at = slot.byte_offset() as usize;
        Some(&image[at..at + VOTE_BYTES])
    });
    let place = vote_place(label.label.pool, label.label.disk);
    let newest = select_vote(&place, votes, &label.label.vote_disks).newest;
    newest.map(|vote| vote.rank())
}

#[test]
fn a_pool_goes_on_under_another_name() {
    let (bench, volume) = Bench::mirrored(740);
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.set_mode(2, Mode::Lost);
    bench.pass(Duration::from_secs(10));
    let id = bench.report().id;
    let rename = |bench: &Bench, from: &'static str, to: &'static str| {
        let engine = Rc::clone(&bench.engine);
        bench.run(async move { engine.rename_pool(from, to).await })
    };
    let renamed = rename(&bench, "pool", "lake").unwrap();
    assert_eq!((renamed.name.as_str(), &renamed.id), ("lake", &id));
    let volume = bench.engine.open_volume("lake", "v").unwrap();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
    bench.write(&volume, 0, pattern(0, 64, 2)).unwrap();
    assert_eq!(names_on(&bench), ["lake", "lake", "pool"]);
    assert!(bench.engine.open_volume("pool", "v").is_err());
    // A disk that was away is called so once it is back.
    bench.set_mode(2, Mode::Well);
    bench.until(|report| report.state == PoolState::Online && report.name == "lake");
    assert_eq!(names_on(&bench), ["lake", "lake", "lake"]);
    assert!(rename(&bench, "lake", "-").is_err());
    let bench = bench.crash_engine();
    bench.until(|report| report.state == PoolState::Online && report.name == "lake");
    let volume = bench.engine.open_volume("lake", "v").unwrap();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 2));
}

/// The pool's name by each disk's label.
fn names_on(bench: &Bench) -> Vec<String> {
    let name = |disk: &Rc<TestDisk>| {
        let image = disk.image();
        let slots = DiskGeometry::label_slots(image.len() as u64).map(|slot| {
            let at = slot.byte_offset() as usize;
            Some(&image[at..at + LABEL_BYTES])
        });
        match crate::format::select_label(slots, image.len() as u64) {
            crate::format::LabelState::Labelled(label) => label.label.pool_name,
            other => panic!("{other:?}"),
        }
    };
    bench.disks.iter().map(name).collect()
}

/// Two pools of one name couldn't be open here: a name that is seen isn't given.
#[test]
fn no_pool_gets_the_name_of_another() {
    let bench = Bench::new(745, 2, 48);
    create(&bench, "a", &["e0.0"]);
    create(&bench, "b", &["e1.0"]);
    let engine = Rc::clone(&bench.engine);
    let refused = bench.run(async move { engine.rename_pool("a", "b").await });
    assert!(matches!(refused, Err(PoolError::Exists { .. })), "{refused:?}");
    bench.release("b");
    let engine = Rc::clone(&bench.engine);
    let refused = bench.run(async move { engine.rename_pool("a", "b").await });
    assert!(matches!(refused, Err(PoolError::Exists { .. })), "{refused:?}");
}
