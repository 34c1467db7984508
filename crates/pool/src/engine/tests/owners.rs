//! Who may have a pool or a disk: what the supervisor's own records say, who was heard lately, and
//! the way back for who was deposed.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, BlockDevice, Claim, Epoch, OwnerId, SectorRange};

use super::super::observe::{Content, Others, read_content};
use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{CreatePool, ExtendPool, ImportOptions, VotesOf};
use super::pattern;
use crate::error::PoolError;
use crate::forecast::PoolForecast;
use crate::format::{DiskGeometry, FailureDomain, Features, Label};
use crate::report::{DiskState, ImportPlan, PoolReport, PoolState};

impl Bench {
    fn import(&self, force: bool) -> Result<PoolReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        let options = ImportOptions { force, ..ImportOptions::default() };
        self.run(async move { engine.import_pool("pool", options).await })
    }

    fn plan_import(&self) -> Result<ImportPlan, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.plan_import("pool", VotesOf::Known).await })
    }

    fn create_of(&self, name: &str, disks: &[&str], force: bool) -> Result<PoolReport, PoolError> {
        let (engine, request) = (Rc::clone(&self.engine), request(name, disks, force));
        self.run(async move { engine.create_pool(request).await })
    }

    fn plan_of(&self, name: &str, disks: &[&str], force: bool) -> Result<PoolForecast, PoolError> {
        let (engine, request) = (Rc::clone(&self.engine), request(name, disks, force));
        self.run(async move { engine.plan_create(&request).await })
    }

    fn extend(&self, pool: &'static str, disk: &str, force: bool) -> Result<(), PoolError> {
        let engine = Rc::clone(&self.engine);
        let mut added = ExtendPool::of(&[disk.to_owned()]);
        added.force_disks = if force { added.disks.clone() } else { Vec::new() };
        self.run(async move { engine.extend_pool(pool, &added).await.map(|_| ()) })
    }

    /// A disk was in a pool that had this epoch, and isn't any more.
    fn use_under(&self, disk: usize, epoch: u64) {
        let device = Rc::clone(&self.devices.borrow()[disk]);
        let owner = OwnerId(uuid::Uuid::from_u128(self.owner));
        self.run(device.claim(Claim {
            epoch: Epoch(epoch),
            owner,
            force: false,
            trust: block::Trust::Unchanged,
        }))
        .unwrap();
        device.disown();
    }

    /// Another supervisor over the same disks, now.
    pub(super) fn other(&self, owner: u128) -> Bench {
        Bench::with(77, self.disks.clone(), self.executor.handle().now(), owner)
    }
}

fn request(name: &str, disks: &[&str], force: bool) -> CreatePool {
    let disks: Vec<String> = disks.iter().map(|disk| (*disk).to_owned()).collect();
    CreatePool {
        force_disks: if force { disks.clone() } else { Vec::new() },
        failure_domain: FailureDomain::Disk,
        extent_bytes: Some(256 << 10),
        ..CreatePool::of(name, &disks)
    }
}

/// Others may have what a pool wasn't made of.
#[test]
fn devices_are_given_back_when_one_of_a_new_pool_refuses() {
    let bench = Bench::new(205, 3, 48);
    bench.disks[1].refuses_claims.set(true);
    let refused = bench.create_of("pool", &["e0.0", "e1.0", "e2.0"], false);
    assert!(refused.unwrap_err().to_string().contains("e1.0"));
    assert!(bench.devices.borrow().iter().all(|device| !device.is_owned()));
}

/// Finding 5.1: the owner's identity can be read by everybody; a pool that names it isn't ours for it.
#[test]
fn a_pool_that_only_says_that_it_is_ours_is_not_opened() {
    let (forger, _) = Bench::mirrored(200);
    let victim = forger.other(1);
    victim.pass(Duration::from_secs(20));
    assert!(matches!(victim.report().state, PoolState::Foreign), "{:?}", victim.report());
    assert!(victim.engine.known_pools().is_empty());
    // It may be imported, by somebody's word.
    drop(forger);
    victim.import(false).unwrap();
    victim.reopened();
    assert_eq!(victim.engine.known_pools().len(), 1);
}

/// Else all others would accept the last epoch that there is, and nobody could ever have the pool again.
#[test]
fn a_disk_that_tells_of_an_absurd_epoch_is_left_out_and_spoils_no_other() {
    for epoch in [u64::MAX, u64::from(u32::MAX), (1 << 31) + 1] {
        let (bench, _volume) = Bench::mirrored(206);
        bench.release("pool");
        bench.use_under(2, epoch);
        bench.pass(Duration::from_secs(20));
        bench.import(true).unwrap();
        bench.reopened();
        let report = bench.report();
        assert!(report.epoch < 100, "{report:?}");
        assert!(report.disks[2].state != DiskState::Usable, "{report:?}");
    }
}

/// Nobody could have it again, if what all say were absurd.
#[test]
fn what_a_majority_has_accepted_is_outbid_however_high() {
    let (bench, _volume) = Bench::mirrored(207);
    bench.release("pool");
    [0, 1].into_iter().for_each(|disk| bench.use_under(disk, 1 << 31));
    bench.use_under(2, u64::MAX);
    bench.pass(Duration::from_secs(20));
    bench.import(true).unwrap();
    bench.reopened();
    assert_eq!(bench.report().epoch, (1 << 31) + 1);
}

/// Finding 5.4.
#[test]
fn a_pool_is_not_taken_from_an_owner_that_lives() {
    let (first, volume) = Bench::mirrored(210);
    let second = first.other(2);
    second.pass(Duration::from_secs(5));
    first.pass(Duration::from_secs(5));
    let plan = second.plan_import().unwrap();
    assert_eq!((plan.owner.as_deref(), plan.is_ours), (Some("supervisor-1"), false));
    assert!(plan.refusal.is_some() && plan.heard_ms.unwrap() < 3000, "{plan:?}");
    assert_eq!(plan.disks.len(), 3);
    let refused = second.import(false);
    assert!(matches!(refused, Err(PoolError::InUse { .. })), "{refused:?}");
    first.pass(Duration::from_secs(3));
    assert_eq!(first.write(&volume, 0, pattern(0, 8, 1)), Ok(()));

    // Silent for longer than its lease: it may be taken.
    second.pass(Duration::from_secs(30));
    let plan = second.plan_import().unwrap();
    assert!(plan.refusal.is_none() && plan.heard_ms.unwrap() > 10_000, "{plan:?}");
    second.import(false).unwrap();
}

/// Finding 5.5: what was fenced is taken back by the same engine.
#[test]
fn a_deposed_engine_takes_the_pool_back() {
    let (first, volume) = Bench::mirrored(220);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let second = first.other(2);
    second.pass(Duration::from_secs(2));
    second.import(true).unwrap();
    let taken = second.reopened();
    second.write(&taken, 0, pattern(0, 64, 2)).unwrap();
    first.pass(Duration::from_secs(15));
    assert!(first.write(&volume, 0, pattern(0, 1, 3)).is_err());
    assert_eq!(first.report().state, PoolState::Fenced);
    assert!(first.engine.known_pools().is_empty(), "it isn't opened by itself any more");

    second.release("pool");
    assert!(second.engine.known_pools().is_empty());
    first.pass(Duration::from_secs(15));
    let plan = first.plan_import().unwrap();
    assert_eq!((plan.owner, plan.refusal, plan.disks.len()), (None, None, 3));
    first.import(false).unwrap();
    let back = first.reopened();
    assert_eq!(first.read(&back, 0, 64).unwrap(), pattern(0, 64, 2));
    first.write(&back, 0, pattern(0, 64, 3)).unwrap();
    // And the other way round, from one that lives.
    second.pass(Duration::from_secs(40));
    assert!(matches!(second.report().state, PoolState::Released | PoolState::Foreign));
    second.import(true).unwrap();
    let taken = second.reopened();
    assert_eq!(second.read(&taken, 0, 64).unwrap(), pattern(0, 64, 3));
}

/// Finding 5.3: no option puts a disk of an open pool into another.
#[test]
fn a_disk_belongs_to_one_pool() {
    let disks = [("e0.0", 0), ("e1.0", 1), ("e2.0", 2), ("e0.1", 0)];
    let disks = disks.map(|(name, node)| TestDisk::new(name, node, 48 << 20)).to_vec();
    let bench = Bench::with(230, disks, block::Instant::from_nanos(1_000_000_000), 1);
    // Of two disks of a machine one has no vote.
    bench.create_of("a", &["e0.0", "e0.1"], false).unwrap();
    bench.create_of("b", &["e1.0"], false).unwrap();
    for force in [false, true] {
        for attempt in [bench.extend("b", "e0.0", force), bench.extend("a", "e1.0", force)] {
            let text = attempt.unwrap_err().to_string();
            assert!(text.contains("already") && !text.contains("--force-disk"), "{text}");
        }
        let text = bench.create_of("c", &["e2.0", "e0.0"], force).unwrap_err().to_string();
        assert!(text.contains("already") && !text.contains("--force-disk"), "{text}");
        assert!(bench.plan_of("c", &["e2.0", "e0.0"], force).is_err(), "a dry run says the same");
    }
    assert!(bench.plan_of("c", &["e2.0"], false).unwrap().capacity_bytes > 0);

    // Of another supervisor that lives: no option either.
    let other = bench.other(2);
    other.pass(Duration::from_secs(3));
    bench.pass(Duration::from_secs(3));
    for force in [false, true] {
        let text = other.create_of("c", &["e0.0"], force).unwrap_err().to_string();
        assert!(text.contains("heard") && !text.contains("--force-disk"), "{text}");
    }
    // Also of one that sees nothing but a disk without a vote.
    let alone = bench.disks.iter().filter(|disk| disk.name == "e0.1").cloned().collect();
    let alone = Bench::with(231, alone, other.executor.handle().now(), 2);
    alone.pass(Duration::from_secs(1));
    let text = alone.create_of("c", &["e0.1"], true).unwrap_err().to_string();
    assert!(text.contains("heard") && !text.contains("--force-disk"), "{text}");
    // Of one that is gone: by name, and it is said what is lost.
    other.pass(Duration::from_secs(60));
    let text = other.create_of("c", &["e0.0"], false).unwrap_err().to_string();
    assert!(text.contains("belongs to pool a") && text.contains("--force-disk e0.0"), "{text}");
    assert!(text.contains("supervisor-1") && text.contains("for good"), "{text}");
    let forecast = other.plan_of("c", &["e0.0"], true).unwrap();
    assert!(forecast.losses[0].contains("one of its 2 votes"), "{forecast:?}");
    other.create_of("c", &["e0.0"], true).unwrap();
}

/// Finding 5.8: what can't be read isn't offered for overwriting, and what an open pool misses can't be
/// overwritten at all.
#[test]
fn a_damaged_disk_is_kept() {
    let (first, _) = Bench::mirrored(250);
    let (now, pools) = (first.executor.handle().now(), first.engine.known_pools());
    first.executor.clear();
    let sectors = first.disks[1].image().len();
    let ends = [0, 4096, sectors - (1 << 20), sectors - (1 << 20) + 4096];
    // First one sound copy is left, which names the pool, then none.
    for bad in [&ends[..3], &ends[3..]] {
        bad.iter().for_each(|at| first.disks[1].damage(at + 20, |byte| *byte ^= 1));
        let bench = Bench::again(251, first.disks.clone(), now, 1, pools.clone());
        bench.pass(Duration::from_secs(40));
        for force in [false, true] {
            let text = bench.create_of("c", &["e1.0"], force).unwrap_err().to_string();
            assert!(text.contains("damaged") && text.contains("open here"), "{text}");
            assert!(text.contains("keep it") && !text.contains("--force-disk"), "{text}");
        }
        bench.executor.clear();
    }
    // The same for somebody who knows nothing of the pool: it isn't advised, but it can be had.
    let other = Bench::with(252, first.disks.clone(), now + Duration::from_secs(99), 2);
    other.pass(Duration::from_secs(30));
    let text = other.create_of("c", &["e1.0"], false).unwrap_err().to_string();
    assert!(text.contains("keep it") && !text.contains("--force-disk"), "{text}");
    let forecast = other.plan_of("c", &["e1.0"], true).unwrap();
    assert!(forecast.losses[0].contains("damaged"), "{forecast:?}");
}

/// Finding 5.16: what others did with a pool or a disk is seen without anybody asking.
#[test]
fn what_others_do_is_seen() {
    let (first, _) = Bench::mirrored(240);
    let second = first.other(2);
    second.pass(Duration::from_secs(2));
    first.release("pool");
    second.pass(Duration::from_secs(12));
    assert_eq!(second.report().state, PoolState::Released);
    first.import(false).unwrap();
    second.pass(Duration::from_secs(12));
    assert!(matches!(second.report().state, PoolState::Foreign), "{:?}", second.report());

    let alone = Bench::new(241, 2, 48);
    let other = alone.other(2);
    other.pass(Duration::from_secs(1));
    assert!(other.engine.reports().is_empty());
    alone.create_of("late", &["e0.0", "e1.0"], false).unwrap();
    other.pass(Duration::from_secs(12));
    assert_eq!(other.report().name, "late");
}

/// What an earlier version left: one disk that two pools believe to be theirs.
#[test]
fn a_disk_of_two_pools_is_refused_by_the_one_that_lost_it() {
    let bench = Bench::new(250, 3, 48);
    bench.create_of("a", &["e0.0", "e1.0", "e2.0"], false).unwrap();
    let other = bench.other(1);
    other.pass(Duration::from_secs(60));
    // Taken by name while nobody had pool a open.
    other.create_of("b", &["e2.0"], true).unwrap();
    drop(other);
    let again = bench.crash_engine();
    again.pass(Duration::from_secs(20));
    let report = again.engine.reports().into_iter().find(|report| report.name == "a").unwrap();
    assert_eq!(report.state, PoolState::Degraded);
    let taken = report.disks.iter().find(|disk| disk.name == "e2.0").unwrap();
    let DiskState::Refused { why } = &taken.state else { panic!("{:?}", taken.state) };
    assert!(why.contains("pool b"), "{why}");
}

/// Two commands at once: what both were told was free is given to one.
#[test]
fn two_commands_at_once_do_not_get_one_disk() {
    for seed in 260..270 {
        let bench = Bench::new(seed, 4, 48);
        bench.create_of("a", &["e0.0", "e1.0"], false).unwrap();
        let (one, two) = (Rc::clone(&bench.engine), Rc::clone(&bench.engine));
        let extended =
            async move { one.extend_pool("a", &ExtendPool::of(&["e2.0".to_owned()])).await };
        let made = async move { two.create_pool(request("b", &["e2.0", "e3.0"], false)).await };
        let (extended, made) = bench.run(async move { futures::join!(extended, made) });
        assert_ne!(extended.is_ok(), made.is_ok(), "{extended:?} {made:?}");
        bench.pass(Duration::from_secs(20));
        let reports = bench.engine.reports();
        let holders = reports.iter().filter(|pool| pool.disks.iter().any(|d| d.name == "e2.0"));
        assert_eq!(holders.count(), 1, "{reports:?}");

        let bench = Bench::new(seed, 2, 48);
        let (one, two) = (Rc::clone(&bench.engine), Rc::clone(&bench.engine));
        let one = async move { one.create_pool(request("a", &["e0.0"], false)).await };
        let two = async move { two.create_pool(request("a", &["e1.0"], false)).await };
        let (one, two) = bench.run(async move { futures::join!(one, two) });
        assert_ne!(one.is_ok(), two.is_ok(), "of one name there is one: {one:?} {two:?}");
    }
}

/// Volumes, mounts and exports are named by their pool's name: of one name one pool is open.
#[test]
fn of_one_name_one_pool_is_open() {
    let disks: Vec<_> = (0..2).map(|n| TestDisk::new(&format!("e{n}.0"), n, 48 << 20)).collect();
    let of = |index: usize| vec![Rc::clone(&disks[index])];
    let now = block::Instant::from_nanos(1_000_000_000);
    let first = Bench::with(280, of(0), now, 1);
    let id = first.create_of("tank", &["e0.0"], false).unwrap().id;
    let other = Bench::with(281, of(1), now, 2);
    let stranger = other.create_of("tank", &["e1.0"], false).unwrap().id;
    other.release("tank");
    drop(other);
    first.attach(&disks[1]);
    first.pass(Duration::from_secs(10));
    let import = |bench: &Bench, id: &str| {
        let (engine, id) = (Rc::clone(&bench.engine), id.to_owned());
        bench.run(async move { engine.import_pool(&id, ImportOptions::default()).await })
    };
    let open = |bench: &Bench| -> Vec<String> {
        let reports = bench.engine.reports().into_iter();
        reports.filter(|report| report.lease_ok).map(|report| report.id).collect()
    };
    let refused = import(&first, &stranger);
    assert!(matches!(refused, Err(PoolError::Namesake { .. })), "{refused:?}");
    first.pass(Duration::from_secs(10));
    assert_eq!(open(&first), std::slice::from_ref(&id));

    // When the one is given up, the other may be had; and both may be known from before.
    first.release("tank");
    import(&first, &stranger).unwrap();
    assert_eq!(open(&first), std::slice::from_ref(&stranger));
    let mut pools = first.engine.known_pools();
    let now = first.executor.handle().now();
    first.executor.clear();
    drop(first);
    let again = Bench::with(282, disks.clone(), now, 1);
    again.pass(Duration::from_secs(2));
    import(&again, &id).unwrap();
    pools.extend(again.engine.known_pools());
    assert_eq!(pools.len(), 2);
    let now = again.executor.handle().now();
    again.executor.clear();
    drop(again);
    let both = Bench::again(283, disks, now, 1, pools);
    both.pass(Duration::from_secs(30));
    assert_eq!(open(&both).len(), 1, "{:?}", both.engine.reports());
    let closed = both.engine.reports().into_iter().find(|report| !report.lease_ok).unwrap();
    let PoolState::Suspended { why } = closed.state else { panic!("{:?}", closed.state) };
    assert!(why.contains("release"), "{why}");
    // The same through an opening that is asked for by name: the open one is meant.
    assert!(import(&both, "tank").is_ok());
    both.release("tank");
    both.pass(Duration::from_secs(10));
    assert_eq!(open(&both), [closed.id]);
}

/// Whose a pool is was asked before; who came back while disks were waited for keeps it.
#[test]
fn an_owner_that_comes_back_during_an_import_keeps_its_pool() {
    let (first, volume) = Bench::mirrored(290);
    let now = first.executor.handle().now() + Duration::from_secs(60);
    let second = Bench::alone(291, first.disks.clone(), now, 2, Vec::new());
    second.disks.iter().take(2).for_each(|disk| second.attach(disk));
    second.pass(Duration::from_secs(2));
    let result = Rc::new(std::cell::RefCell::new(None));
    let (engine, slot) = (Rc::clone(&second.engine), Rc::clone(&result));
    let grace = Duration::from_secs(90);
    second.executor.handle().spawn(async move {
        let options = ImportOptions { grace: Some(grace), ..ImportOptions::default() };
        let imported = engine.import_pool("pool", options).await;
        *slot.borrow_mut() = Some(imported);
    });
    second.pass(Duration::from_secs(60));
    assert!(result.borrow().is_none(), "it waits as long as was said: {:?}", result.borrow());
    // The machine slept, no more.
    first.pass(Duration::from_secs(60 + 2 + 60 + 28));
    second.pass(Duration::from_secs(40));
    let imported = result.borrow_mut().take();
    assert!(matches!(imported, Some(Err(PoolError::InUse { .. }))), "{imported:?}");
    first.pass(Duration::from_secs(12));
    assert_eq!(first.write(&volume, 0, pattern(0, 8, 1)), Ok(()));
}

/// An import that came to nothing isn't done much later by itself.
#[test]
fn an_import_that_failed_is_over() {
    let (first, _) = Bench::mirrored(300);
    let now = first.executor.handle().now() + Duration::from_secs(60);
    drop(first.engine);
    let second = Bench::with(301, first.disks.clone(), now, 2);
    second.pass(Duration::from_secs(2));
    let (engine, runtime) = (Rc::clone(&second.engine), second.executor.handle());
    let grace = Some(Duration::from_secs(1));
    let options = ImportOptions { grace, force: true, ..ImportOptions::default() };
    // Its disks go while it is asked for.
    let disks = second.disks.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>();
    let imported = second.run(async move {
        let import = engine.import_pool("pool", options);
        let lose = async {
            runtime.sleep(Duration::from_millis(500)).await;
            disks.iter().for_each(|disk| engine.remove_device(disk));
        };
        futures::join!(import, lose).0
    });
    assert!(imported.is_err(), "{imported:?}");
    second.disks.iter().for_each(|disk| second.attach(disk));
    second.pass(Duration::from_secs(60));
    let state = second.report().state;
    assert!(matches!(state, PoolState::Foreign), "{state:?}");
}

/// The pool may be opened while it is asked whose it is. Then nothing is left of the import that would take it from
/// whoever imports it later.
#[test]
fn an_import_of_what_was_just_opened_is_over() {
    let (first, _) = Bench::mirrored(310);
    let (now, pools) = (first.executor.handle().now(), first.engine.known_pools());
    first.executor.clear();
    let bench = Bench::alone(311, first.disks.clone(), now, 1, pools);
    bench.disks.iter().take(2).for_each(|disk| bench.attach(disk));
    let state = || bench.report().state;
    let mut waited = 0;
    while bench.engine.reports().is_empty() || state() != PoolState::Opening {
        bench.pass(Duration::from_millis(1));
        waited += 1;
        assert!(waited < 60_000, "{:?}", bench.engine.reports());
    }
    // One that the opening doesn't wait for, and who asks does.
    bench.attach(&bench.disks[2]);
    bench.pass(Duration::from_micros(1500));
    bench.disks[2].mode.set(Mode::Hanging);
    assert_eq!(state(), PoolState::Opening);
    bench.import(true).unwrap();
    let slot = bench.engine.slots.borrow().values().next().cloned().unwrap();
    assert!(slot.import.get().is_none(), "it is armed though the pool is open");

    bench.disks[2].mode.set(Mode::Well);
    let second = bench.other(2);
    second.pass(Duration::from_secs(2));
    second.import(true).unwrap();
    bench.pass(Duration::from_secs(60));
    assert_eq!(state(), PoolState::Fenced);
}

/// A newer etherpool may give a pool a feature that lets older ones read it and not write it. The engine
/// can't but write.
#[test]
fn a_pool_that_may_only_be_read_is_refused() {
    let (bench, volume) = Bench::mirrored(730);
    drop(volume);
    let features = Features { read_only: 1 << 3, ..Features::default() };
    let labels: Vec<Label> = (0..3).map(|disk| Label { features, ..bench.label(disk) }).collect();
    labels.iter().enumerate().for_each(|(disk, label)| bench.set_label(disk, label));
    let before: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
    let bench = bench.power_cut();
    bench.pass(Duration::from_secs(10));
    assert!(bench.import(true).is_err());
    let device = Rc::clone(&bench.devices.borrow()[0]);
    let content = bench.run(async move { read_content(&*device, Others::Searched).await });
    let Ok(Content::Refused(error)) = content else { panic!("{content:?}") };
    assert_eq!(
        error.to_string(),
        "the pool uses what this etherpool does not know: feature 3 (without it a pool may only be read)"
    );
    let after: Vec<Vec<u8>> = bench.disks.iter().map(|disk| disk.image()).collect();
    assert!(before == after, "it was written");
}

/// The former owner's lease runs from when a vote heard it last: who is silent for so long already isn't waited for.
#[test]
fn a_takeover_waits_for_what_is_left_of_the_lease() {
    // How long it is silent, whether a target was started since, and between what the import takes.
    for (silent, restarted, least, most) in [
        (2000, false, 4500, 6000),
        (4000, false, 3000, 4500),
        (4000, true, 7000, 8000),
        (9000, false, 0, 1500),
    ] {
        let (first, volume) = Bench::mirrored(320);
        assert_eq!(first.write(&volume, 0, pattern(0, 8, 1)), Ok(()));
        first.executor.clear();
        let second = first.other(2);
        second.pass(Duration::from_millis(silent));
        if restarted {
            second.disks[1].heard.set(None);
        }
        let before = second.executor.handle().now();
        let options =
            ImportOptions { force: true, grace: Some(Duration::ZERO), ..ImportOptions::default() };
        let engine = Rc::clone(&second.engine);
        let imported = second.run(async move { engine.import_pool("pool", options).await });
        assert!(imported.is_ok(), "{silent} {restarted}: {imported:?}");
        let took = second.executor.handle().now().since(before).as_millis() as u64;
        assert!((least..most).contains(&took), "{silent} {restarted}: {took} ms");
    }
}

/// An observer is told the epoch that is in force, too: asked so, a disk would count for the lease without having
/// heard its owner.
#[test]
fn who_was_let_go_while_he_was_checked_is_not_claimed() {
    let bench = Bench::new(63, 3, 24);
    bench.create();
    let open = bench.engine.open_pool("pool").unwrap();
    let member = open.pool.members()[0].clone();
    let device = member.device().unwrap();
    let vote = SectorRange::new(DiskGeometry::vote_slots()[0], BLOCK_SECTORS);
    bench.disks[0].slow_reads.set(Some((vote, Duration::from_secs(1))));
    let checks = {
        let (pool, member, device) =
            (Rc::clone(&open.pool), Rc::clone(&member), Rc::clone(&device));
        async move { pool.claim_and_check(&member, &*device).await.is_err() }
    };
    let lets_go = {
        let (runtime, member) = (bench.executor.handle(), Rc::clone(&member));
        async move {
            runtime.sleep(Duration::from_millis(500)).await;
            assert!(member.claimed.get());
            member.end_claim();
            device.disown();
        }
    };
    assert!(bench.run(futures::future::join(checks, lets_go)).0);
    assert!(!member.claimed.get());
}

/// Of a pool that was opened often, a disk moves to a younger one.
#[test]
fn a_disk_that_was_used_under_a_higher_epoch_is_taken_after_another_opening() {
    let bench = Bench::new(64, 4, 24);
    bench.create_of("pool", &["e0.0", "e1.0", "e2.0"], false).unwrap();
    bench.use_under(3, 52);
    for _ in 0..2 {
        let refused = bench.extend("pool", "e3.0", false).unwrap_err().to_string();
        assert!(
            refused.contains("under epoch 52") && refused.contains("pool release"),
            "{refused}"
        );
    }
    bench.release("pool");
    bench.import(false).unwrap();
    assert_eq!(bench.report().epoch, 53);
    bench.extend("pool", "e3.0", false).unwrap();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().disks[3].state, DiskState::Usable);
}

/// Versions of checksum blocks have half of an epoch's bits.
#[test]
fn no_disk_brings_an_epoch_that_no_pool_can_have_had() {
    let bench = Bench::new(65, 4, 24);
    bench.create_of("pool", &["e0.0", "e1.0", "e2.0"], false).unwrap();
    bench.use_under(3, u64::from(u32::MAX));
    let refused = bench.extend("pool", "e3.0", false).unwrap_err().to_string();
    assert!(refused.contains("use another one"), "{refused}");
    bench.release("pool");
    bench.import(false).unwrap();
    assert!(bench.report().epoch < 10);
}
