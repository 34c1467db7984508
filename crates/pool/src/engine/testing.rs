//! Disks that crash and a bench that drives an engine over them in virtual time, for the tests of
//! this crate. A disk has a live and a durable image: a crash keeps an arbitrary subset of the
//! sectors that were written and not flushed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BlockDevice, Buffer, Claim, Completion, DeviceEvent, Done, DriveHealth, Durability,
    DurabilityClass, Epoch, Geometry, Holder, Instance, Instant, IoError, Lba, MemoryDevice,
    Operation, Outcome, OwnerId, SECTOR_BYTES, SectorRange,
    probe::{Signature, probe},
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use runtime::{EventQueue, Executor, Handle, Notify, Order};
use seal::{Grant, KeyPair, PublicKey, SecretKey};
use uuid::Uuid;

use super::{CreatePool, DiskFacts, Engine, EngineConfig, KnownPool, Limits, OwnNodes, Stops};
use crate::format::DiskGeometry;

/// Writes of several disks in the order in which they took effect: disk, place, contents.
pub(crate) type Journal = Rc<RefCell<Vec<(String, Lba, Buffer)>>>;

/// How a disk answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    /// Answers `Lost` at once.
    Lost,
    /// Answers nothing until it is well again; then what hung answers `Lost`, undone.
    Hanging,
}

/// How a sector is that a write doesn't mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dead {
    /// It takes what is written and can't be read.
    ToReads,
    /// It refuses what is written, too.
    ToWrites,
}

/// A disk that outlives engines and its own crashes.
pub(crate) struct TestDisk {
    pub(crate) name: String,
    pub(crate) node: u8,
    /// The key that its machine proves, when it is attached.
    pub(crate) node_key: Cell<Option<PublicKey>>,
    live: RefCell<Vec<u8>>,
    durable: RefCell<Vec<u8>>,
    dirty: RefCell<BTreeSet<u64>>,
    /// What was changed since it was made or restored.
    touched: RefCell<Vec<SectorRange>>,
    /// Where writes are noted, if somebody wants to see them.
    pub(crate) journal: RefCell<Option<Journal>>,
    instance: Cell<u64>,
    pub(crate) heard: Cell<Option<Instant>>,
    holder: Cell<Holder>,
    pub(crate) mode: Cell<Mode>,
    pub(crate) health: RefCell<Option<DriveHealth>>,
    mode_changed: Notify,
    /// Reads that begin in one of these sectors fail.
    pub(crate) bad_sectors: RefCell<BTreeSet<u64>>,
    /// Sectors that can't be read, whatever is written there.
    pub(crate) dead_sectors: RefCell<BTreeMap<u64, Dead>>,
    pub(crate) flush_fails: Cell<bool>,
    /// It hangs once it took so many writes.
    pub(crate) hangs_from: Cell<Option<u64>>,
    /// So many reads by an owner are refused.
    pub(crate) reads_refused: Cell<u32>,
    /// So many reads of a vote by an owner get no answer.
    pub(crate) vote_reads_lost: Cell<u32>,
    pub(crate) refuses_claims: Cell<bool>,
    /// After so many that were answered, one that asks who has it gets no answer.
    pub(crate) renew_lost_after: Cell<Option<u32>>,
    /// What somebody else made of it just before it is claimed.
    pub(crate) before_claim: RefCell<Option<Vec<u8>>>,
    /// Writes of votes fail.
    pub(crate) refuses_votes: Cell<bool>,
    pub(crate) latency: Cell<Duration>,
    /// A flush takes so long, if that is more.
    pub(crate) flush_latency: Cell<Duration>,
    /// Reads that touch these sectors take so long.
    pub(crate) slow_reads: Cell<Option<(SectorRange, Duration)>>,
    pub(crate) bytes_written: Cell<u64>,
    pub(crate) writes: Cell<u64>,
    pub(crate) reads: Cell<u64>,
}

/// One engine's way to a disk.
pub(crate) struct TestDevice {
    disk: Rc<TestDisk>,
    runtime: Handle,
    epoch: Cell<Epoch>,
    /// The instance that its user claimed last: nothing is changed on another one.
    claimed: Cell<u64>,
    looks_inside: Cell<bool>,
    events: Rc<EventQueue<DeviceEvent, 8>>,
}

impl TestDisk {
    pub(crate) fn new(name: &str, node: u8, bytes: usize) -> Rc<TestDisk> {
        Rc::new(TestDisk {
            name: name.into(),
            node,
            node_key: Cell::new(None),
            live: RefCell::new(vec![0; bytes]),
            durable: RefCell::new(vec![0; bytes]),
            dirty: RefCell::default(),
            touched: RefCell::default(),
            journal: RefCell::default(),
            instance: Cell::new(1),
            heard: Cell::new(None),
            holder: Cell::default(),
            mode: Cell::new(Mode::Well),
            health: RefCell::default(),
            mode_changed: Notify::new(),
            bad_sectors: RefCell::default(),
            dead_sectors: RefCell::default(),
            flush_fails: Cell::new(false),
            hangs_from: Cell::new(None),
            reads_refused: Cell::new(0),
            vote_reads_lost: Cell::new(0),
            refuses_claims: Cell::new(false),
            renew_lost_after: Cell::new(None),
            before_claim: RefCell::new(None),
            refuses_votes: Cell::new(false),
            latency: Cell::new(Duration::from_micros(100)),
            flush_latency: Cell::new(Duration::ZERO),
            slow_reads: Cell::new(None),
            bytes_written: Cell::new(0),
            writes: Cell::new(0),
            reads: Cell::new(0),
        })
    }

    /// Power cut: keeps a random subset of what wasn't flushed, and begins anew.
    pub(crate) fn crash(&self, random: &Handle) {
        let mut live = self.live.borrow_mut();
        let mut durable = self.durable.borrow_mut();
        for sector in std::mem::take(&mut *self.dirty.borrow_mut()) {
            let window = sector as usize * SECTOR_BYTES..(sector as usize + 1) * SECTOR_BYTES;
            if random.random_below(2) == 0 {
                durable[window.clone()].copy_from_slice(&live[window]);
            } else {
                live[window.clone()].copy_from_slice(&durable[window]);
            }
        }
        self.instance.set(self.instance.get() + 1);
        self.flush_fails.set(false);
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.set(mode);
        self.mode_changed.notify_all();
    }

    /// Its owner speaks to it.
    pub(crate) fn hear(&self, runtime: &Handle) {
        self.heard.set(Some(runtime.now()));
    }

    /// Changes what is on the medium, behind everybody's back.
    pub(crate) fn damage(&self, offset: usize, change: impl Fn(&mut u8)) {
        let sector = Lba((offset / SECTOR_BYTES) as u64);
        self.touched.borrow_mut().push(SectorRange::new(sector, 1));
        change(&mut self.live.borrow_mut()[offset]);
        change(&mut self.durable.borrow_mut()[offset]);
    }

    /// Whether something that isn't etherpool's is on it.
    fn carries_others(&self) -> bool {
        let whole = MemoryDevice::new(0);
        whole.contents().swap(&self.live);
        let found = probe(&whole).now_or_never().expect("memory answers at once");
        whole.contents().swap(&self.live);
        found.expect("memory can be read").iter().any(|found| *found != Signature::Etherpool)
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.live.borrow().clone()
    }

    pub(crate) fn set_image(&self, image: &[u8]) {
        self.live.borrow_mut().copy_from_slice(image);
        self.durable.borrow_mut().copy_from_slice(image);
        self.dirty.borrow_mut().clear();
        self.instance.set(self.instance.get() + 1);
    }

    /// Both change places: what was read and written as one is the other now, as after a reboot of their machine.
    pub(crate) fn change_places(&self, other: &TestDisk) {
        self.live.swap(&other.live);
        self.durable.swap(&other.durable);
        self.dirty.swap(&other.dirty);
        self.holder.swap(&other.holder);
        let newer = self.instance.get().max(other.instance.get()) + 1;
        self.instance.set(newer);
        other.instance.set(newer);
    }

    /// Makes it what it was when it was all of `image` and `instance`, whatever was done to it since; nobody owns it.
    pub(crate) fn restore(&self, image: &[u8]) {
        let (mut live, mut durable) = (self.live.borrow_mut(), self.durable.borrow_mut());
        for range in std::mem::take(&mut *self.touched.borrow_mut()) {
            let window = range.start.byte_offset() as usize..range.end().byte_offset() as usize;
            live[window.clone()].copy_from_slice(&image[window.clone()]);
            durable[window.clone()].copy_from_slice(&image[window]);
        }
        self.dirty.borrow_mut().clear();
        self.instance.set(self.instance.get() + 1);
        self.holder.set(Holder::default());
        self.heard.set(None);
    }

    /// Its bytes as they are now.
    pub(crate) fn with_image<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.live.borrow())
    }

    /// Puts bytes on the medium, behind everybody's back.
    pub(crate) fn overwrite(&self, at: Lba, bytes: &[u8]) {
        let range = SectorRange::new(at, (bytes.len() / SECTOR_BYTES) as u64);
        let window = at.byte_offset() as usize..range.end().byte_offset() as usize;
        self.live.borrow_mut()[window.clone()].copy_from_slice(bytes);
        self.durable.borrow_mut()[window].copy_from_slice(bytes);
        self.touched.borrow_mut().push(range);
    }

    fn settle(&self, range: SectorRange) {
        let live = self.live.borrow();
        let mut durable = self.durable.borrow_mut();
        let mut dirty = self.dirty.borrow_mut();
        for sector in range.start.0..range.end().0 {
            if dirty.remove(&sector) {
                let window = sector as usize * SECTOR_BYTES..(sector as usize + 1) * SECTOR_BYTES;
                durable[window.clone()].copy_from_slice(&live[window]);
            }
        }
    }

    fn put(&self, operation: &Operation) {
        operation.perform_on(&mut self.live.borrow_mut()).expect("it was checked");
        let range = operation.range();
        self.touched.borrow_mut().push(range);
        if let Some(journal) = &*self.journal.borrow() {
            let data = match operation {
                Operation::Write { data, .. } => data.clone(),
                _ => Buffer::zeroed(range.len_bytes() as usize),
            };
            journal.borrow_mut().push((self.name.clone(), range.start, data));
        }
        self.dirty.borrow_mut().extend(range.start.0..range.end().0);
        self.bytes_written.set(self.bytes_written.get() + range.len_bytes());
        self.writes.set(self.writes.get() + 1);
        if self.hangs_from.get().is_some_and(|from| self.writes.get() >= from) {
            self.mode.set(Mode::Hanging);
        }
    }
}

/// An operation whose effect has happened, before its answer.
enum Begun {
    Answered(Outcome),
    /// The disk hangs.
    Stuck,
    Changed {
        instance: u64,
        range: SectorRange,
        durability: Durability,
    },
    Flushing {
        instance: Instance,
        covered: BTreeSet<u64>,
    },
}

impl TestDisk {
    fn latency_of(&self, operation: &Operation) -> Duration {
        let slow = self.slow_reads.get().filter(
            |(sectors, _)| matches!(operation, Operation::Read(range) if range.overlaps(*sectors)),
        );
        match operation {
            Operation::Flush(_) => self.flush_latency.get().max(self.latency.get()),
            _ => slow.map_or(self.latency.get(), |(_, latency)| latency),
        }
    }

    async fn end(&self, begun: Begun, latency: Duration, runtime: &Handle) -> Outcome {
        if let Begun::Stuck = begun {
            while self.mode.get() == Mode::Hanging {
                self.mode_changed.notified().await;
            }
            return Err(IoError::Lost);
        }
        runtime.sleep(latency).await;
        let now = self.instance.get();
        let restarted = Err(IoError::Restarted { now: Instance(now) });
        match begun {
            Begun::Answered(outcome) => return outcome,
            Begun::Stuck => {}
            Begun::Changed { .. } if self.mode.get() != Mode::Well => return Err(IoError::Lost),
            Begun::Changed { instance, .. } if instance != now => return restarted,
            Begun::Changed { range, durability: Durability::Durable, .. } => self.settle(range),
            Begun::Changed { .. } => {}
            Begun::Flushing { .. } if self.mode.get() != Mode::Well => return Err(IoError::Lost),
            Begun::Flushing { instance, .. } if instance.0 != now => return restarted,
            Begun::Flushing { .. } if self.flush_fails.get() => return Err(IoError::FlushFailed),
            Begun::Flushing { covered, .. } => {
                covered.into_iter().for_each(|at| self.settle(SectorRange::new(Lba(at), 1)));
            }
        }
        Ok(Completion::new(Instance(now), Answer::Done))
    }
}

impl TestDevice {
    /// Whether an engine has it under an epoch.
    pub(crate) fn is_owned(&self) -> bool {
        self.epoch.get() != Epoch::OBSERVER
    }

    fn begin(&self, operation: Operation) -> Begun {
        let looks_only = matches!(operation, Operation::Read(_)) || operation.is_of_server();
        let is_claim = matches!(operation, Operation::Claim(_));
        match self.disk.mode.get() {
            Mode::Lost => return Begun::Answered(Err(IoError::Lost)),
            Mode::Hanging => return Begun::Stuck,
            Mode::Well => {}
        }
        let highest = self.disk.holder.get().epoch;
        if !is_claim && self.epoch.get() == highest && highest != Epoch::OBSERVER {
            self.disk.heard.set(Some(self.runtime.now()));
        }
        let observes = self.epoch.get() == Epoch::OBSERVER && looks_only;
        if !is_claim && !observes && self.epoch.get() < highest {
            return Begun::Answered(Err(IoError::Fenced { highest }));
        }
        let range = operation.range();
        if !range.fits(self.geometry().sectors) {
            return Begun::Answered(Err(IoError::OutOfRange(range)));
        }
        let instance = self.disk.instance.get();
        let changes = !looks_only && !is_claim;
        if changes && self.epoch.get() != Epoch::OBSERVER && self.claimed.get() != instance {
            self.events.push(DeviceEvent::Back(Instance(instance)));
            return Begun::Answered(Err(IoError::Restarted { now: Instance(instance) }));
        }
        let answer = match operation {
            Operation::Read(_) => self.read_now(range, &operation),
            Operation::Write { ref data, durability, .. } => {
                assert!(data.len() <= 1 << 20, "a transfer larger than the device takes");
                if self.disk.refuses_votes.get()
                    && DiskGeometry::vote_slots().contains(&range.start)
                {
                    return Begun::Answered(Err(IoError::Medium(range)));
                }
                let dead = self.disk.dead_sectors.borrow();
                let mut touched = dead.range(range.start.0..range.end().0);
                if let Some((sector, _)) = touched.find(|(_, how)| **how == Dead::ToWrites) {
                    return Begun::Answered(Err(IoError::Medium(SectorRange::new(
                        Lba(*sector),
                        1,
                    ))));
                }
                let is_other = |sector: &u64| !range.overlaps(SectorRange::new(Lba(*sector), 1));
                self.disk.bad_sectors.borrow_mut().retain(is_other);
                self.disk.put(&operation);
                return Begun::Changed { instance, range, durability };
            }
            Operation::WriteZeroes { durability, .. } => {
                self.disk.put(&operation);
                return Begun::Changed { instance, range, durability };
            }
            Operation::Discard(_) => {
                self.disk.put(&operation);
                return Begun::Changed { instance, range, durability: Durability::Volatile };
            }
            Operation::Flush(instance) => {
                let covered = self.disk.dirty.borrow().clone();
                return Begun::Flushing { instance, covered };
            }
            Operation::Claim(claim) => self.claim_now(claim).map(Answer::Holder),
            Operation::Renew => {
                let left = self.disk.renew_lost_after.get();
                self.disk.renew_lost_after.set(left.and_then(|left| left.checked_sub(1)));
                if left == Some(0) {
                    return Begun::Answered(Err(IoError::Lost));
                }
                let heard = self.disk.heard.get().map(|at| self.runtime.now().since(at));
                Ok(Answer::Holder(Holder { heard, ..self.disk.holder.get() }))
            }
            Operation::AskHealth => {
                let health = self.disk.health.borrow().clone().ok_or(IoError::Unsupported);
                health.map(|health| Answer::Health(Box::new(health)))
            }
        };
        Begun::Answered(answer.map(|answer| Completion::new(Instance(instance), answer)))
    }

    fn read_now(&self, range: SectorRange, read: &Operation) -> Result<Answer, IoError> {
        // As the target: of a disk with an owner others see labels and votes only.
        let tail = self.geometry().sectors - 2048;
        let open = range.end().0 <= 96 || range.start.0 >= tail && range.end().0 <= tail + 32;
        let owned = self.disk.holder.get().epoch != Epoch::OBSERVER;
        let heard = self.disk.heard.get().map(|at| self.runtime.now().since(at));
        let silent = heard.is_none_or(|heard| heard >= Duration::from_secs(7));
        let open = open || self.looks_inside.get() && silent;
        if owned && self.epoch.get() == Epoch::OBSERVER && !open {
            return Err(IoError::Refused(block::RefusalReason::Owned));
        }
        let refused = self.disk.reads_refused.get();
        if refused > 0 && self.epoch.get() != Epoch::OBSERVER {
            self.disk.reads_refused.set(refused - 1);
            return Err(IoError::Refused(block::RefusalReason::AccessDenied));
        }
        self.disk.reads.set(self.disk.reads.get() + 1);
        assert!(range.len_bytes() <= 1 << 20, "a transfer larger than the device takes");
        let lost = self.disk.vote_reads_lost.get();
        let of_vote = DiskGeometry::vote_slots().contains(&range.start);
        if of_vote && lost > 0 && self.epoch.get() != Epoch::OBSERVER {
            self.disk.vote_reads_lost.set(lost - 1);
            return Err(IoError::Lost);
        }
        let (bad, dead) = (self.disk.bad_sectors.borrow(), self.disk.dead_sectors.borrow());
        if let Some((sector, _)) = dead.range(range.start.0..range.end().0).next() {
            return Err(IoError::Medium(SectorRange::new(Lba(*sector), 1)));
        }
        if let Some(sector) = bad.range(range.start.0..range.end().0).next() {
            return Err(IoError::Medium(SectorRange::new(Lba(*sector), 1)));
        }
        read.perform_on(&mut self.disk.live.borrow_mut())
    }

    fn claim_now(&self, claim: Claim) -> Result<Holder, IoError> {
        if self.disk.refuses_claims.get() {
            return Err(IoError::Refused(block::RefusalReason::AccessDenied));
        }
        let holder = self.disk.holder.get();
        let refused = claim.epoch < holder.epoch
            || (claim.epoch == holder.epoch && claim.owner != holder.owner);
        if refused {
            return Err(IoError::Fenced { highest: holder.epoch });
        }
        // As the target: what nobody had may be somebody's all the same.
        if holder.epoch == Epoch::OBSERVER && !claim.force && self.disk.carries_others() {
            return Err(IoError::Refused(block::RefusalReason::ForeignContent));
        }
        if let Some(image) = self.disk.before_claim.take() {
            self.disk.set_image(&image);
        }
        let holder = Holder::new(claim.epoch, claim.owner);
        self.disk.holder.set(holder);
        let heard = self.disk.heard.replace(Some(self.runtime.now()));
        let heard = heard.map(|at| self.runtime.now().since(at));
        self.epoch.set(claim.epoch);
        self.claimed.set(self.disk.instance.get());
        Ok(Holder { heard, ..holder })
    }
}

impl BlockDevice for TestDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: (self.disk.live.borrow().len() / SECTOR_BYTES) as u64,
            physical_block_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            class: DurabilityClass::Durable,
        }
    }

    fn submit(&self, operation: Operation, done: Done) {
        let latency = self.disk.latency_of(&operation);
        let begun = self.begin(operation);
        let (disk, runtime) = (Rc::clone(&self.disk), self.runtime.clone());
        self.runtime.spawn(async move { done(disk.end(begun, latency, &runtime).await) });
    }

    fn disown(&self) {
        self.epoch.set(Epoch::OBSERVER);
    }

    fn look_inside(&self, looks: bool) {
        self.looks_inside.set(looks);
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        let events = Rc::clone(&self.events);
        async move { events.next().await }.boxed_local()
    }
}

/// A machine with an engine, disks within its reach, and virtual time.
pub(crate) struct Bench {
    pub(crate) executor: Executor,
    pub(crate) disks: Vec<Rc<TestDisk>>,
    pub(crate) engine: Rc<Engine>,
    pub(crate) devices: RefCell<Vec<Rc<TestDevice>>>,
    pub(crate) owner: u128,
    pub(crate) seed: u64,
}

/// With what the keys of machines begin that are nobody's own.
pub(crate) const STRANGER: u8 = 200;

/// What a supervisor's records say of pools, and of their keys.
pub(crate) type Records = (Vec<KnownPool>, Vec<(Uuid, Grant)>);

/// The key of a supervisor by its number.
pub(crate) fn keys(owner: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([owner; 32])).unwrap()
}

impl Bench {
    /// One disk of `mib` MiB on each of `nodes` nodes, all present.
    pub(crate) fn new(seed: u64, nodes: u8, mib: usize) -> Bench {
        let disks =
            (0..nodes).map(|n| TestDisk::new(&format!("e{n}.0"), n, mib << 20)).collect::<Vec<_>>();
        Bench::with(seed, disks, Instant::from_nanos(1_000_000_000), 1)
    }

    /// What asks for a pool of the first of its disks.
    pub(crate) fn request(&self, disks: usize) -> CreatePool {
        let names: Vec<String> =
            self.disks.iter().take(disks).map(|disk| disk.name.clone()).collect();
        CreatePool { extent_bytes: Some(256 << 10), ..CreatePool::of("pool", &names) }
    }

    /// An engine of `owner` over `disks`, at time `now`.
    pub(crate) fn with(seed: u64, disks: Vec<Rc<TestDisk>>, now: Instant, owner: u128) -> Bench {
        Bench::again(seed, disks, now, owner, Vec::new())
    }

    /// The same by a supervisor that has these pools in its records.
    pub(crate) fn again(
        seed: u64,
        disks: Vec<Rc<TestDisk>>,
        now: Instant,
        owner: u128,
        pools: Vec<KnownPool>,
    ) -> Bench {
        Bench::alone(seed, disks, now, owner, pools).with_all()
    }

    /// Has all of its disks discovered.
    pub(crate) fn with_all(self) -> Bench {
        self.disks.iter().for_each(|disk| self.attach(disk));
        self
    }

    /// The same without any disk present yet.
    pub(crate) fn alone(
        seed: u64,
        disks: Vec<Rc<TestDisk>>,
        now: Instant,
        owner: u128,
        pools: Vec<KnownPool>,
    ) -> Bench {
        Bench::remembering(seed, disks, now, owner, (pools, Vec::new()))
    }

    /// The same with what its records say of pools' keys, too.
    pub(crate) fn remembering(
        seed: u64,
        disks: Vec<Rc<TestDisk>>,
        now: Instant,
        owner: u128,
        records: Records,
    ) -> Bench {
        Bench::of(seed, disks, now, owner, records, Limits::default())
    }

    fn of(
        seed: u64,
        disks: Vec<Rc<TestDisk>>,
        now: Instant,
        owner: u128,
        (pools, grants): Records,
        limits: Limits,
    ) -> Bench {
        let executor = Executor::new(now, seed, Order::Seeded, || {});
        let has_keys = disks.iter().any(|disk| disk.node_key.get().is_some());
        let keys = has_keys.then(|| keys(owner as u8));
        let config = EngineConfig { keys, grants, ..Bench::config(owner, limits, pools) };
        let engine = Engine::new(executor.handle(), config);
        let devices = RefCell::default();
        Bench { executor, disks, engine, devices, owner, seed }
    }

    fn config(owner: u128, limits: Limits, pools: Vec<KnownPool>) -> EngineConfig {
        EngineConfig {
            pools,
            owner: OwnerId(Uuid::from_u128(owner)),
            owner_name: format!("supervisor-{owner}"),
            grants: Vec::new(),
            keys: None,
            own_nodes: OwnNodes::those(|key| key.0[0] != STRANGER),
            limits,
            stops: Stops::default(),
        }
    }

    /// An engine with other limits over `disks`, all present.
    pub(crate) fn limited(
        seed: u64,
        disks: Vec<Rc<TestDisk>>,
        now: Instant,
        owner: u128,
        change: impl FnOnce(&mut Limits),
    ) -> Bench {
        let mut limits = Limits::default();
        change(&mut limits);
        let bench = Bench::of(seed, disks, now, owner, Records::default(), limits);
        bench.with_all()
    }

    /// Has `disk` discovered.
    pub(crate) fn attach(&self, disk: &Rc<TestDisk>) {
        let device = Rc::new(TestDevice {
            disk: Rc::clone(disk),
            runtime: self.executor.handle(),
            epoch: Cell::new(Epoch::OBSERVER),
            claimed: Cell::new(0),
            looks_inside: Cell::new(false),
            events: Rc::default(),
        });
        // As a session tells when it is opened.
        device.events.push(DeviceEvent::Back(Instance(disk.instance.get())));
        self.devices.borrow_mut().push(Rc::clone(&device));
        let facts = DiskFacts {
            name: disk.name.clone(),
            node: Uuid::from_u128(1000 + u128::from(disk.node)),
            node_name: format!("node-{}", disk.node),
            device_name: format!("/dev/{}", disk.name),
            serial: format!("SERIAL-{}", disk.name),
            node_key: disk.node_key.get(),
        };
        self.engine.add_device(facts, device);
    }

    /// Changes how a disk answers, with the hints that a driver gives.
    pub(crate) fn set_mode(&self, disk: usize, mode: Mode) {
        let disk = &self.disks[disk];
        disk.set_mode(mode);
        let hint = match mode {
            Mode::Well => DeviceEvent::Back(Instance(disk.instance.get())),
            Mode::Lost => DeviceEvent::Lost,
            Mode::Hanging => return,
        };
        for device in self.devices.borrow().iter().filter(|d| Rc::ptr_eq(&d.disk, disk)) {
            device.events.push(hint);
        }
    }

    /// Runs `future` to its end, for at most an hour of virtual time.
    pub(crate) fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        self.run_for(Duration::from_secs(3600), future).expect("it never ends")
    }

    /// Runs `future` for at most `limit`.
    pub(crate) fn run_for<T: 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.executor.handle().spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        let end = self.executor.handle().now() + limit;
        loop {
            let mut steps = 0;
            while self.executor.run_one() {
                steps += 1;
                assert!(steps < 200_000, "spinning without progress of time");
                if result.borrow().is_some() {
                    return result.take();
                }
            }
            match self.executor.next_deadline() {
                Some(at) if at <= end => self.executor.set_now(at),
                _ => {
                    self.executor.set_now(end);
                    self.executor.run_ready(1_000_000);
                    return result.take();
                }
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.run_for(time, std::future::pending::<()>());
    }

    /// The engine's process dies; the disks live on. What comes next is a new engine.
    pub(crate) fn crash_engine(self) -> Bench {
        let now = self.executor.handle().now();
        let records = (self.engine.known_pools(), self.engine.known_grants());
        self.executor.clear();
        let Bench { disks, owner, seed, engine, .. } = self;
        drop(engine);
        Bench::remembering(seed + 1, disks, now, owner, records).with_all()
    }

    /// Everything loses power at once.
    pub(crate) fn power_cut(self) -> Bench {
        let now = self.executor.handle().now();
        let records = (self.engine.known_pools(), self.engine.known_grants());
        self.executor.clear();
        for disk in &self.disks {
            disk.crash(&self.executor.handle());
            disk.mode.set(Mode::Well);
        }
        let Bench { disks, owner, seed, engine, .. } = self;
        drop(engine);
        Bench::remembering(seed + 1, disks, now, owner, records).with_all()
    }
}
