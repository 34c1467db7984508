//! A disk with everything that disks do wrong, and the device that a process sees of it.
//!
//! Effects happen in the order of the calls (so overlapping operations can't overtake each other),
//! answers come later, by a seeded latency. A process that dies doesn't take its requests back: the
//! disk executes them. A power cut does, as far as [`Survival`] says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_SECTORS, BlockDevice, Buffer, BufferMut, Claim, Completion, DeviceEvent, Durability,
    DurabilityClass, Geometry, Holder, Instance, Instant, IoError, IoFuture, Lba, SECTOR_BYTES,
    SectorRange,
};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::medium::{Image, Medium, Sector, Survival, WriteNumber};
use crate::random::fork;
use crate::story::Story;
use crate::world::{Timeline, World};

const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// How long operations take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Least time of an operation.
    pub base: Duration,
    /// Most that is added by chance.
    pub spread: Duration,
    /// What a flush or a durable write takes on top.
    pub stable: Duration,
}

impl Latency {
    /// A flash disk with a power-safe cache.
    pub const FAST: Latency = Latency {
        base: Duration::from_micros(60),
        spread: Duration::from_micros(120),
        stable: Duration::from_micros(300),
    };
    /// A disk with an arm.
    pub const SLOW: Latency = Latency {
        base: Duration::from_millis(2),
        spread: Duration::from_millis(9),
        stable: Duration::from_millis(6),
    };
}

/// What happens to a later write, unknown to whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Answered and never done.
    Lost,
    /// Answered and done so many sectors away.
    Misdirected(i64),
    /// Answered with a medium error and not done.
    Error,
    /// Answered that the store is full.
    NoSpace,
}

/// The piece of hardware. It outlives processes.
pub struct Disk {
    name: String,
    timeline: Rc<Timeline>,
    story: Rc<Story>,
    sectors: Cell<u64>,
    medium: RefCell<Medium>,
    random: RefCell<SmallRng>,
    latency: Cell<Latency>,
    stuck_until: Cell<Instant>,
    /// Answers of an earlier power cycle never come.
    power_cycle: Cell<u64>,
    next_write: Cell<WriteNumber>,
    bad_sectors: RefCell<BTreeSet<u64>>,
    write_faults: RefCell<Vec<WriteFault>>,
    failing_flushes: Cell<u32>,
    lies: Cell<bool>,
    gone: Cell<bool>,
    /// Blocks that begin like this are answered and not written, so many of them.
    losing: Cell<Option<([u8; 4], u32)>>,
    counters: Cell<DiskCounters>,
}

/// What is left of a disk when its machine goes.
#[derive(Clone)]
pub struct DiskRemains {
    name: String,
    sectors: u64,
    image: Image,
    bad_sectors: BTreeSet<u64>,
}

/// What a disk was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Disk {
    /// A new disk, all zeros.
    pub fn new(world: &World, name: &str, size_bytes: u64) -> Rc<Disk> {
        Rc::new(Disk {
            name: name.to_string(),
            timeline: Rc::clone(world.timeline()),
            story: Rc::clone(world.story()),
            sectors: Cell::new(size_bytes / SECTOR_BYTES as u64),
            medium: RefCell::default(),
            random: RefCell::new(fork(world.seed(), name)),
            latency: Cell::new(Latency::FAST),
            stuck_until: Cell::new(Instant::default()),
            power_cycle: Cell::new(0),
            next_write: Cell::new(1),
            bad_sectors: RefCell::default(),
            write_faults: RefCell::default(),
            failing_flushes: Cell::new(0),
            lies: Cell::new(false),
            gone: Cell::new(false),
            losing: Cell::new(None),
            counters: Cell::default(),
        })
    }

    /// A disk with what another one left, in another world.
    pub fn restored(world: &World, remains: &DiskRemains) -> Rc<Disk> {
        let disk = Disk::new(world, &remains.name, remains.sectors * SECTOR_BYTES as u64);
        disk.medium.borrow_mut().restore(remains.image.clone());
        *disk.bad_sectors.borrow_mut() = remains.bad_sectors.clone();
        disk
    }

    /// What a power cut at this moment would leave. Nothing changes.
    pub fn remains(&self, survival: Survival, random: &mut SmallRng) -> DiskRemains {
        DiskRemains {
            name: self.name.clone(),
            sectors: self.sectors.get(),
            image: self.medium.borrow().image_after(survival, random),
            bad_sectors: self.bad_sectors.borrow().clone(),
        }
    }

    /// Its name in stories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was asked to do so far.
    pub fn counters(&self) -> DiskCounters {
        self.counters.get()
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors.get()
    }

    /// Opens it: a new instance.
    pub fn open(self: &Rc<Self>) -> Rc<SimDisk> {
        let instance = Instance(self.random.borrow_mut().random::<u64>() | 1);
        Rc::new(SimDisk { disk: Rc::clone(self), instance })
    }

    /// The power goes: requests without an answer never get one.
    pub fn cut_power(&self, survival: Survival) {
        self.power_cycle.set(self.power_cycle.get() + 1);
        self.stuck_until.set(Instant::default());
        let stable = self.medium.borrow().is_stable();
        self.medium.borrow_mut().cut_power(survival, &mut self.random.borrow_mut());
        if !stable {
            self.story.tell(&self.name, &format!("power cut, of the cache: {survival:?}"));
        }
    }

    /// A copy of what is stable, to roll back to.
    pub fn snapshot(&self) -> Image {
        self.medium.borrow().stable_image()
    }

    /// The disk is as it was when `image` was taken.
    pub fn roll_back(&self, image: Image) {
        self.story.tell(&self.name, "rolled back to an older image");
        self.medium.borrow_mut().restore(image);
    }

    /// This disk and `other` change places: contents and sizes.
    pub fn swap(&self, other: &Disk) {
        self.story.tell(&self.name, &format!("swapped with {}", other.name));
        self.medium.swap(&other.medium);
        self.sectors.swap(&other.sectors);
        self.bad_sectors.swap(&other.bad_sectors);
    }

    /// The contents as reads see them, past all faults.
    pub fn peek(&self, range: SectorRange) -> Vec<u8> {
        let medium = self.medium.borrow();
        (range.start.0..range.end().0).flat_map(|sector| medium.live().sector(sector)).collect()
    }

    /// Changes one byte.
    pub fn flip_byte(&self, offset_bytes: u64, mask: u8) {
        self.story.tell(&self.name, &format!("bit rot at byte {offset_bytes:#x}"));
        let sector = offset_bytes / SECTOR_BYTES as u64;
        let mut medium = self.medium.borrow_mut();
        let mut contents = medium.live().sector(sector);
        contents[(offset_bytes % SECTOR_BYTES as u64) as usize] ^= mask;
        medium.damage(sector, &contents);
    }

    /// Replaces contents behind everybody's back.
    pub fn poke(&self, start: Lba, bytes: &[u8]) {
        let mut medium = self.medium.borrow_mut();
        for (index, chunk) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let mut contents: Sector = [0; SECTOR_BYTES];
            contents.copy_from_slice(chunk);
            medium.damage(start.0 + index as u64, &contents);
        }
    }

    /// Reads of `range` fail until it is written again.
    pub fn set_bad(&self, range: SectorRange) {
        self.story.tell(&self.name, &format!("can't read {range}"));
        self.bad_sectors.borrow_mut().extend(range.start.0..range.end().0);
    }

    /// The next write of data (at least a block, so not a label) suffers `fault`.
    pub fn spoil_next_write(&self, fault: WriteFault) {
        self.write_faults.borrow_mut().push(fault);
    }

    /// The next `count` blocks that begin with `magic` are answered and never written, whatever they
    /// are written together with.
    pub fn lose_next_blocks(&self, magic: [u8; 4], count: u32) {
        self.losing.set(Some((magic, count)));
    }

    /// Whether a power cut could change anything.
    pub fn is_stable(&self) -> bool {
        self.medium.borrow().is_stable()
    }

    /// Whether it answers nothing now, or only that it is gone.
    pub fn is_silent(&self) -> bool {
        self.gone.get() || self.stuck_until.get() > self.timeline.now()
    }

    /// The next `count` flushes fail.
    pub fn fail_flushes(&self, count: u32) {
        self.failing_flushes.set(count);
    }

    /// Whether flushes and durable writes are answered without being done.
    pub fn set_lying(&self, lies: bool) {
        self.story.tell(&self.name, if lies { "lies about flushes" } else { "stops lying" });
        self.lies.set(lies);
    }

    /// How long operations take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.latency.set(latency);
    }

    /// No answer comes before `until`.
    pub fn stick_for(&self, duration: Duration) {
        self.story.tell(&self.name, &format!("is stuck for {duration:?}"));
        self.stuck_until.set(self.timeline.now() + duration);
    }

    /// Whether it is unplugged: all is answered with `Lost`.
    pub fn set_gone(&self, gone: bool) {
        self.story.tell(&self.name, if gone { "is unplugged" } else { "is plugged in" });
        self.gone.set(gone);
    }

    /// Faults that lie in wait are taken back, and it answers in time. Damage stays.
    pub fn heal(&self) {
        self.latency.set(Latency::FAST);
        self.stuck_until.set(Instant::default());
        self.failing_flushes.set(0);
        self.write_faults.borrow_mut().clear();
        self.lies.set(false);
        self.gone.set(false);
        self.losing.set(None);
    }

    /// The device grows.
    pub fn grow(&self, size_bytes: u64) {
        self.sectors.set(self.sectors.get().max(size_bytes / SECTOR_BYTES as u64));
    }

    fn duration(&self, stable: bool) -> Duration {
        let latency = self.latency.get();
        let spread = latency.spread.as_nanos() as u64;
        let chance = Duration::from_nanos(self.random.borrow_mut().random_range(0..=spread));
        latency.base + chance + if stable { latency.stable } else { Duration::ZERO }
    }

    fn count(&self, change: impl FnOnce(&mut DiskCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Executes a write now; it is answered by [`Medium::answer`] later.
    fn execute_write(&self, start: Lba, data: &[u8]) -> (WriteNumber, Result<u64, IoError>) {
        let number = self.next_write.get();
        self.next_write.set(number + 1);
        let count = (data.len() / SECTOR_BYTES) as u64;
        let range = SectorRange::new(start, count);
        self.count(|counters| counters.written_bytes += range.len_bytes());
        let mut to = start.0;
        match self.take_write_fault(range) {
            None => {}
            Some(WriteFault::Lost) => return (number, Ok(to)),
            Some(WriteFault::Error) => return (number, Err(IoError::Medium(range))),
            Some(WriteFault::NoSpace) => return (number, Err(IoError::NoSpace(range))),
            Some(WriteFault::Misdirected(by)) => to = to.saturating_add_signed(by),
        }
        if !SectorRange::new(Lba(to), count).fits(self.sectors()) {
            to = start.0;
        }
        let mut medium = self.medium.borrow_mut();
        let mut bad = self.bad_sectors.borrow_mut();
        let mut losing = false;
        for (index, chunk) in data.chunks_exact(SECTOR_BYTES).enumerate() {
            if (to + index as u64).is_multiple_of(BLOCK_SECTORS) {
                losing = self.loses(chunk);
            }
            if losing {
                continue;
            }
            let mut contents: Sector = [0; SECTOR_BYTES];
            contents.copy_from_slice(chunk);
            let sector = to + index as u64;
            medium.write_sector(number, sector, &contents);
            bad.remove(&sector);
        }
        (number, Ok(to))
    }

    /// Whether a block that begins like this is answered and not written.
    fn loses(&self, begin: &[u8]) -> bool {
        let Some((magic, count)) = self.losing.get() else { return false };
        if !begin.starts_with(&magic) {
            return false;
        }
        self.story.tell(&self.name, &format!("loses a block that begins with {magic:?}"));
        self.losing.set((count > 1).then_some((magic, count - 1)));
        true
    }

    /// Labels, votes and metadata live in the first and last megabytes; a fault there is another
    /// story than one in the data, so these faults wait for data.
    fn take_write_fault(&self, range: SectorRange) -> Option<WriteFault> {
        let margin = (2 << 20) / SECTOR_BYTES as u64;
        if range.start.0 < margin || range.end().0 + margin > self.sectors() {
            return None;
        }
        let fault = self.write_faults.borrow_mut().pop()?;
        self.story.tell(&self.name, &format!("write of {range}: {fault:?}"));
        Some(fault)
    }
}

/// What a process has of a [`Disk`] between opening it and dying.
pub struct SimDisk {
    disk: Rc<Disk>,
    instance: Instance,
}

impl SimDisk {
    /// Answers after `duration` with what `outcome` then says, unless the power goes before.
    fn answer<T: 'static>(
        &self,
        duration: Duration,
        outcome: impl FnOnce(&Disk) -> Result<T, IoError> + 'static,
    ) -> IoFuture<'static, T> {
        let (sender, receiver) = oneshot::channel();
        let disk = Rc::clone(&self.disk);
        let (cycle, instance) = (disk.power_cycle.get(), self.instance);
        let at = (self.disk.timeline.now() + duration).max(self.disk.stuck_until.get());
        self.disk.timeline.schedule(at, move || {
            if disk.power_cycle.get() != cycle {
                return;
            }
            disk.story.mix(disk.timeline.now().as_nanos() ^ disk.next_write.get() << 40);
            let result = outcome(&disk).map(|value| Completion::new(instance, value));
            // A dead process doesn't listen any more; the disk did the work all the same.
            let _ = sender.send(result);
        });
        async move {
            match receiver.await {
                Ok(result) => result,
                // The power went, and the process with it: nobody is left to see an answer.
                Err(oneshot::Canceled) => std::future::pending().await,
            }
        }
        .boxed_local()
    }

    fn refuse<T: 'static>(&self, range: SectorRange) -> Option<IoFuture<'static, T>> {
        let error = if self.disk.gone.get() {
            IoError::Lost
        } else if !range.fits(self.disk.sectors())
            || range.len_bytes() > u64::from(MAX_TRANSFER_BYTES)
        {
            IoError::OutOfRange(range)
        } else {
            return None;
        };
        Some(self.answer(Duration::from_micros(10), move |_| Err(error)))
    }

    fn write_bytes(
        &self,
        start: Lba,
        data: &[u8],
        durability: Durability,
    ) -> IoFuture<'static, ()> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        let (number, written) = self.disk.execute_write(start, data);
        let durable = durability == Durability::Durable;
        let duration = self.disk.duration(durable);
        self.answer(duration, move |disk| {
            let to = written?;
            let mut medium = disk.medium.borrow_mut();
            if durable && !disk.lies.get() {
                medium.make_stable(number, to..to + range.count);
            } else {
                medium.answer(number);
            }
            Ok(())
        })
    }
}

impl BlockDevice for SimDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.disk.sectors(),
            physical_block_bytes: 4096,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            read_only: false,
            class: DurabilityClass::Durable,
        }
    }

    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        if let Some(refused) = self.refuse(range) {
            return refused;
        }
        self.disk.count(|counters| counters.read_bytes += range.len_bytes());
        let bad =
            self.disk.bad_sectors.borrow().range(range.start.0..range.end().0).next().copied();
        let mut data = BufferMut::zeroed(range.len_bytes() as usize);
        let medium = self.disk.medium.borrow();
        for (index, chunk) in data.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            chunk.copy_from_slice(&medium.live().sector(range.start.0 + index as u64));
        }
        let data = data.freeze();
        self.answer(self.disk.duration(false), move |_| match bad {
            Some(sector) => Err(IoError::Medium(SectorRange::new(Lba(sector), 1))),
            None => Ok(data),
        })
    }

    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        match self.refuse(range) {
            Some(refused) => refused,
            None => self.write_bytes(start, &data, durability),
        }
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        if let Some(refused) = self.refuse(SectorRange::default()) {
            return refused;
        }
        self.disk.count(|counters| counters.flushes += 1);
        let duration = self.disk.duration(true);
        if instance != self.instance {
            let now = self.instance;
            return self.answer(duration, move |_| Err(IoError::Restarted { now }));
        }
        let covered = self.disk.medium.borrow().answers();
        self.answer(duration, move |disk| {
            if disk.failing_flushes.get() > 0 {
                disk.failing_flushes.set(disk.failing_flushes.get() - 1);
                disk.story.tell(&disk.name, "a flush fails");
                // As with fsync, the failure is told once, and what was to be written back is
                // dropped: a later flush succeeds. Remembering it is the business of those above.
                let mut random = disk.random.borrow_mut();
                disk.medium.borrow_mut().fail_write_back(&mut random);
                return Err(IoError::FlushFailed);
            }
            if !disk.lies.get() {
                disk.medium.borrow_mut().flush(covered);
            }
            Ok(())
        })
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        if let Some(refused) = self.refuse(range) {
            return refused;
        }
        // Undefined contents: sometimes zeros, sometimes what was there.
        if self.disk.random.borrow_mut().random_bool(0.5) {
            return self.write_zeroes(range, Durability::Volatile);
        }
        self.answer(self.disk.duration(false), |_| Ok(()))
    }

    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        match self.refuse(range) {
            Some(refused) => refused,
            None => self.write_bytes(range.start, &vec![0; range.len_bytes() as usize], durability),
        }
    }

    fn claim(&self, _: Claim) -> IoFuture<'static, Holder> {
        self.answer(Duration::ZERO, |_| Err(IoError::Unsupported))
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        self.answer(Duration::ZERO, |_| Err(IoError::Unsupported))
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        futures::future::pending().boxed_local()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
