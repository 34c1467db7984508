//! Pools that are imported read-only: what is there can be read, nothing of it changes, and it is over when the owner
//! is back.

use std::rc::Rc;
use std::time::Duration;

use block::{Durability, IoError, Lba};

use super::super::testing::{Bench, Mode};
use super::super::{EmptyDisks, ImportOptions, NamedDisks, VolumeSize, VotesOf};
use super::{MIB, pattern};
use crate::PoolSettings;
use crate::error::PoolError;
use crate::metadata::Layout;
use crate::report::{PoolReport, PoolState};

const READ_ONLY: ImportOptions = ImportOptions {
    grace: None,
    force: false,
    outdated_metadata: false,
    read_only: true,
    votes: VotesOf::Known,
};

impl Bench {
    fn import_read_only(&self, options: ImportOptions) -> Result<PoolReport, PoolError> {
        let engine = Rc::clone(&self.engine);
        self.run(async move { engine.import_pool("pool", options).await })
    }

    fn images(&self) -> Vec<Vec<u8>> {
        self.disks.iter().map(|disk| disk.image()).collect()
    }

    /// Its engine's process dies, and another supervisor sees the disks that answer, `after` that.
    fn succeeded(self, owner: u128, after: Duration) -> Bench {
        let now = self.executor.handle().now() + after;
        self.executor.clear();
        let Bench { disks, engine, .. } = self;
        drop(engine);
        let second = Bench::with(400, disks, now, owner);
        second.pass(Duration::from_secs(3));
        second
    }
}

#[test]
fn nothing_of_a_read_only_import_reaches_a_disk() {
    let (first, volume) = Bench::mirrored(400);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    first.pass(Duration::from_secs(5));
    // In place, and in the log alone.
    first.write(&volume, 32, pattern(32, 64, 2)).unwrap();
    drop(volume);
    let pools = first.engine.known_pools();
    let second = first.succeeded(2, Duration::from_secs(10));
    let before = second.images();

    let report = second.import_read_only(READ_ONLY).unwrap();
    assert!(report.read_only && report.lease_ok, "{report:?}");
    let volume = second.reopened();
    assert!(volume.geometry().read_only);
    assert_eq!(second.read(&volume, 0, 32).unwrap(), pattern(0, 32, 1));
    assert_eq!(second.read(&volume, 32, 64).unwrap(), pattern(32, 64, 2));
    assert_eq!(second.write(&volume, 0, pattern(0, 1, 3)), Err(IoError::ReadOnly));
    let discard = volume.discard(block::SectorRange::new(Lba(0), 8));
    assert_eq!(second.run(discard).map(|_| ()), Err(IoError::ReadOnly));
    let zeroes = volume.write_zeroes(block::SectorRange::new(Lba(0), 8), Durability::Durable);
    assert_eq!(second.run(zeroes).map(|_| ()), Err(IoError::ReadOnly));
    assert_eq!(second.verify(None).bad_blocks(), 0);

    // What is set for the time being is this import's alone; what would change the pool is refused.
    let engine = Rc::clone(&second.engine);
    let set = async move { engine.set_property("pool", "v", "mount", Some("/m".into())).await };
    second.run(set).unwrap();
    assert_eq!(second.engine.properties("pool", "v").unwrap().len(), 1);
    let engine = Rc::clone(&second.engine);
    let refusals = second.run(async move {
        let engine = &*engine;
        let size = VolumeSize::Bytes(MIB);
        let settings = PoolSettings::default();
        let (named, emptied) = (NamedDisks::default(), EmptyDisks::default());
        vec![
            engine.create_volume("pool", "w", size, Layout::Mirror(2)).await.err(),
            engine.extend_volume("pool", "v", size).await.err(),
            engine.reduce_volume("pool", "v", MIB).await.err(),
            engine.rename_volume("pool", "v", "w").await.err(),
            engine.remove_volume("pool", "v").await.err(),
            engine.convert_volume("pool", "v", Layout::Mirror(3), false).await.err(),
            engine.rebalance_pool("pool", false).await.err(),
            engine.empty_disks("pool", &emptied).await.err(),
            engine.offline_disks("pool", &named).await.err(),
            engine.online_disks("pool", &named).await.err(),
            engine.scrub_pool("pool", &settings).await.err(),
            engine.set_pool("pool", &settings).await.err(),
            engine.cancel_job("pool", 1).await.err(),
            engine.plan_rename("pool", "tank").err(),
        ]
    });
    for (index, refusal) in refusals.into_iter().enumerate() {
        assert!(matches!(refusal, Some(PoolError::ReadOnly { .. })), "{index}: {refusal:?}");
    }
    let engine = Rc::clone(&second.engine);
    let destroyed = second.run(async move { engine.plan_destroy("pool").await });
    assert!(matches!(destroyed, Err(PoolError::ReadOnly { .. })), "{destroyed:?}");
    let usual = second.import_read_only(ImportOptions::default());
    assert!(matches!(usual, Err(PoolError::ReadOnly { .. })), "{usual:?}");
    assert!(second.engine.known_pools().is_empty(), "it isn't opened by itself next time");

    second.pass(Duration::from_secs(120));
    assert_eq!(second.read(&volume, 0, 32).unwrap(), pattern(0, 32, 1));
    second.release("pool");
    second.pass(Duration::from_secs(30));
    assert!(matches!(second.report().state, PoolState::Foreign), "{:?}", second.report());
    assert!(second.images() == before, "something was written");
    assert!(second.devices.borrow().iter().all(|device| !device.is_owned()));

    // For its owner nothing has happened.
    let now = second.executor.handle().now();
    let owner = Bench::again(401, second.disks.clone(), now, 1, pools);
    let volume = owner.reopened();
    assert_eq!(owner.read(&volume, 32, 64).unwrap(), pattern(32, 64, 2));
    assert!(owner.engine.properties("pool", "v").unwrap().is_empty());
    owner.write(&volume, 0, pattern(0, 1, 4)).unwrap();
}

/// Nobody has a majority any more. What is there is shown, what isn't is an error, and nothing waits for ever.
#[test]
fn without_a_majority_what_is_present_can_be_read() {
    let mut seen = (0, 0);
    for lost in 0..3 {
        let (first, volume) = Bench::mirrored(410);
        for block in (0..2048).step_by(256) {
            first.write(&volume, block, pattern(block, 256, 1)).unwrap();
        }
        first.pass(Duration::from_secs(10));
        drop(volume);
        // One is left.
        first.disks.iter().enumerate().filter(|(index, _)| *index != lost).for_each(|(_, disk)| {
            disk.mode.set(Mode::Lost);
        });
        let second = first.succeeded(2, Duration::from_secs(10));
        let before = second.images();
        let usual = second.import_read_only(ImportOptions::default());
        assert!(matches!(usual, Err(PoolError::NoQuorum { .. })), "{usual:?}");
        let engine = Rc::clone(&second.engine);
        let plan =
            second.run(async move { engine.plan_import("pool", VotesOf::Known).await }).unwrap();
        assert!(plan.no_quorum.is_some() && plan.votes.present == 1, "{plan:?}");
        let report = second.import_read_only(READ_ONLY).unwrap();
        assert!(report.read_only, "{report:?}");
        second.pass(Duration::from_secs(5));
        // What a log had that is gone nobody can tell.
        if second.report().volumes[0].suspended().is_some() {
            second.engine.accept_log_loss("pool", "v", false).unwrap();
        }
        let volume = second.engine.open_volume("pool", "v").unwrap();
        for block in 0..2048 {
            match second.read(&volume, block, 1) {
                Ok(data) if data == pattern(block, 1, 1) => seen.0 += 1,
                Err(IoError::Medium(_)) => seen.1 += 1,
                other => panic!("{block}: {other:?}"),
            }
        }
        assert_eq!(second.verify(None).bad_blocks(), 0);
        assert!(second.images() == before, "something was written");
        // A disk that is back stays out: what it has may be newer than what is shown.
        second.set_mode((lost + 1) % 3, Mode::Well);
        second.pass(Duration::from_secs(30));
        let votes = second.report().votes;
        assert_eq!((votes.present, votes.total), (1, 3), "as it was when it was imported");
        second.release("pool");
        // A new look finds all that is there.
        second.set_mode((lost + 2) % 3, Mode::Well);
        second.pass(Duration::from_secs(15));
        second.import_read_only(ImportOptions::default()).unwrap();
        let volume = second.reopened();
        assert_eq!(second.read(&volume, 0, 256).unwrap(), pattern(0, 256, 1));
    }
    assert!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
}

#[test]
fn it_is_over_when_the_owner_is_back() {
    let (first, volume) = Bench::mirrored(420);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    let epoch = first.report().epoch;
    let now = first.executor.handle().now() + Duration::from_secs(30);
    let second = Bench::with(421, first.disks.clone(), now, 2);
    second.pass(Duration::from_secs(3));
    second.import_read_only(READ_ONLY).unwrap();
    let read = second.reopened();
    assert_eq!(second.read(&read, 0, 64).unwrap(), pattern(0, 64, 1));
    second.pass(Duration::from_secs(60));
    assert!(second.report().read_only);
    // The owner was only stopped, and goes on.
    first.pass(second.executor.handle().now().since(first.executor.handle().now()));
    first.pass(Duration::from_secs(10));
    first.write(&volume, 0, pattern(0, 64, 2)).unwrap();
    second.pass(Duration::from_secs(5));
    let report = second.report();
    assert!(matches!(report.state, PoolState::Foreign) && !report.read_only, "{report:?}");
    assert!(second.read(&read, 0, 64).is_err());
    let again = second.import_read_only(READ_ONLY);
    assert!(matches!(again, Err(PoolError::InUse { .. })), "{again:?}");
    let forced = second.import_read_only(ImportOptions { force: true, ..READ_ONLY });
    assert!(matches!(forced, Err(PoolError::InUse { .. })), "what lives can't be read: {forced:?}");
    first.pass(Duration::from_secs(60));
    assert_eq!(first.read(&volume, 0, 64).unwrap(), pattern(0, 64, 2));
    assert_eq!(first.report().epoch, epoch, "nobody took it away");
}

/// Our own pool, which has lost its majority: it is read here, and opened by itself when the others are back.
#[test]
fn our_own_pool_is_opened_as_usual_afterwards() {
    let (first, volume) = Bench::mirrored(430);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    drop(volume);
    first.disks[1].mode.set(Mode::Lost);
    first.disks[2].mode.set(Mode::Lost);
    let bench = first.crash_engine();
    bench.pass(Duration::from_secs(5));
    assert!(matches!(bench.report().state, PoolState::Incomplete { .. }), "{:?}", bench.report());
    assert!(bench.import_read_only(READ_ONLY).unwrap().read_only);
    bench.set_mode(1, Mode::Well);
    bench.set_mode(2, Mode::Well);
    bench.pass(Duration::from_secs(30));
    assert!(bench.report().read_only, "not under the feet of who reads");
    bench.release("pool");
    let volume = bench.reopened();
    assert!(!bench.report().read_only);
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 1));
    bench.write(&volume, 0, pattern(0, 64, 2)).unwrap();
}

/// The newest writes are in a log whose disks are gone.
#[test]
fn a_log_that_nobody_has_can_be_done_without() {
    let (first, volume) = Bench::mirrored(440);
    for block in (0..2048).step_by(256) {
        first.write(&volume, block, pattern(block, 256, 1)).unwrap();
    }
    first.pass(Duration::from_secs(10));
    first.write(&volume, 0, pattern(0, 8, 2)).unwrap();
    let serving = first.serving();
    let copies: Vec<String> = {
        let meta = serving.pool.meta.borrow();
        let segments = meta.volumes().values().flat_map(|volume| volume.log.segments.values());
        let disks = segments.flat_map(|segment| segment.copies.iter().map(|copy| copy.disk));
        disks.map(|disk| serving.pool.disk_name(disk)).collect()
    };
    drop((serving, volume));
    for disk in first.disks.iter().filter(|disk| copies.iter().any(|c| c.contains(&disk.name))) {
        disk.mode.set(Mode::Lost);
    }
    assert!(first.disks.iter().any(|disk| disk.mode.get() == Mode::Well), "{copies:?}");
    let second = first.succeeded(2, Duration::from_secs(10));
    let options = ImportOptions { outdated_metadata: true, ..READ_ONLY };
    second.import_read_only(options).unwrap();
    second.pass(Duration::from_secs(5));
    let suspended = second.report().volumes[0].suspended().map(str::to_owned).unwrap();
    assert!(suspended.contains("accept-loss"), "{suspended}");
    second.engine.accept_log_loss("pool", "v", false).unwrap();
    second.pass(Duration::from_secs(10));
    assert_eq!(second.report().volumes[0].suspended(), None);
    assert!(second.report().volumes[0].unserved().is_some());
    let volume = second.engine.open_volume("pool", "v").unwrap();
    let mut read = 0;
    for block in 0..2048 {
        match second.read(&volume, block, 1) {
            Ok(data) if data == pattern(block, 1, 1) => read += 1,
            Err(IoError::Medium(_)) => {}
            other => panic!("{block}: {other:?}"),
        }
    }
    assert!(read > 0);
}

#[test]
fn too_little_memory_is_said() {
    let (first, volume) = Bench::mirrored(450);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    drop(volume);
    let now = first.executor.handle().now() + Duration::from_secs(30);
    first.executor.clear();
    let second = Bench::limited(451, first.disks.clone(), now, 2, |limits| {
        limits.private_bytes = 40 << 10;
    });
    second.pass(Duration::from_secs(3));
    let refused = second.import_read_only(READ_ONLY);
    let Err(PoolError::Suspended { reason, .. }) = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("memory"), "{reason}");
    second.pass(Duration::from_secs(30));
    assert!(matches!(second.report().state, PoolState::Foreign), "{:?}", second.report());
}

/// The network goes while it is opened: nothing of what was laid over the disks is left when it is back.
#[test]
fn what_was_laid_over_disks_that_went_is_gone() {
    let (first, volume) = Bench::mirrored(460);
    first.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    drop(volume);
    let bench = first.crash_engine();
    bench.disks.iter().for_each(|disk| disk.mode.set(Mode::Lost));
    bench.pass(Duration::from_secs(30));
    // Its own pool, of which one disk answers and then none.
    bench.set_mode(0, Mode::Well);
    bench.pass(Duration::from_secs(6));
    let engine = Rc::clone(&bench.engine);
    let imported = Rc::new(std::cell::RefCell::new(None));
    let told = Rc::clone(&imported);
    bench.executor.handle().spawn(async move {
        *told.borrow_mut() = Some(engine.import_pool("pool", READ_ONLY).await);
    });
    let is_opening = || {
        let slots = bench.engine.slots.borrow();
        slots.values().any(|slot| !slot.laid_over.borrow().is_empty())
    };
    for _ in 0..60_000 {
        if is_opening() {
            break;
        }
        bench.pass(Duration::from_millis(1));
    }
    assert!(is_opening());
    bench.set_mode(0, Mode::Lost);
    bench.pass(Duration::from_secs(60));
    assert!(matches!(&*imported.borrow(), Some(Err(_))), "{:?}", imported.borrow());
    bench.disks.iter().enumerate().for_each(|(index, _)| bench.set_mode(index, Mode::Well));
    let volume = bench.reopened();
    bench.write(&volume, 0, pattern(0, 64, 2)).unwrap();
    drop(volume);
    // What was acknowledged is on the disks.
    let bench = bench.power_cut();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 0, 64).unwrap(), pattern(0, 64, 2));
}

/// The owner is back, and what it reaches is no vote of those that are read.
#[test]
fn an_owner_that_speaks_to_any_disk_is_heard() {
    let bench = Bench::new(470, 7, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    bench.write(&volume, 0, pattern(0, 64, 1)).unwrap();
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    let silent = report.disks.iter().position(|disk| !disk.holds_vote).unwrap();
    let now = bench.executor.handle().now() + Duration::from_secs(30);
    let second = Bench::with(471, bench.disks.clone(), now, 2);
    second.pass(Duration::from_secs(3));
    second.import_read_only(READ_ONLY).unwrap();
    second.pass(Duration::from_secs(10));
    assert!(second.report().read_only);
    second.disks[silent].hear(&second.executor.handle());
    second.pass(Duration::from_secs(5));
    assert!(!second.report().read_only);
}
