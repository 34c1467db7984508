//! A disk with everything that disks do wrong, and the device that a process sees of it.
//!
//! Effects happen in the order of the calls (so overlapping operations can't overtake each other),
//! answers come later, by a seeded latency or as [`service`] has it. A process that dies doesn't take its requests back: the
//! disk executes them. A power cut does, as far as [`Survival`] says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BLOCK_SECTORS, Buffer, BufferMut, Durability, Instant, IoError, Lba, Operation,
    SECTOR_BYTES, SectorRange,
};
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Notify;

use crate::medium::{Image, Medium, Sector, Survival, WriteNumber};
use crate::random::fork;
use crate::steps::{Effect, Kind};
use crate::story::Story;
use crate::world::{Timeline, World};

mod contents;
mod device;
mod discard;
mod faults;
pub mod service;

pub use device::{SimDisk, Way};
use faults::Faults;
pub use faults::{Chances, Part, ReadFault, WriteFault};
use service::{Job, Model, Service, Usage, Work};

/// How long operations of a [`Model::Quick`] take.
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

/// How long a flush takes, besides its latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteBack {
    /// What was written is about to be stable anyway.
    #[default]
    AtOnce,
    /// Writes fill a large cache, from which so much a second is written back, and not before somebody flushes.
    BytesPerSecond(u64),
    /// No flush is ever answered.
    Never,
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
    write_back: Cell<WriteBack>,
    /// What was written and answered before it was stable, since the last flush.
    unflushed_bytes: Cell<u64>,
    /// When all is written back that flushes wait for.
    written_back_at: Cell<Instant>,
    model: Cell<Model>,
    /// What it has to do, if its model has a queue.
    service: RefCell<Option<Service<Answering>>>,
    /// When it looks at that next.
    service_wakes: Cell<Option<Instant>>,
    stuck_until: Cell<Instant>,
    discards_stuck_until: Cell<Instant>,
    /// Answers of an earlier power cycle never come.
    power_cycle: Cell<u64>,
    next_write: Cell<WriteNumber>,
    bad_sectors: RefCell<BTreeSet<u64>>,
    faults: Faults,
    /// A flush failed, or its field couldn't be read, since it was opened: to be opened anew.
    to_be_reopened: Cell<bool>,
    resized: Notify,
    counters: Cell<DiskCounters>,
}

/// Tells somebody of an operation's end; `None` when a crash comes first.
type Answering = Box<dyn FnOnce(&Disk) -> Option<()>>;

/// When an operation is answered.
enum Due {
    After(Duration),
    Served(Job),
}

/// What became of an operation in the medium, before anybody hears of it.
enum Performed {
    /// This will be answered.
    Answered(Result<Answer, IoError>),
    /// Sectors were written, and are as durable as was asked for once that is answered.
    Written { number: WriteNumber, at: SectorRange, durability: Durability },
    /// A crash came first.
    Never,
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
    /// Bytes discarded.
    pub discarded_bytes: u64,
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
            write_back: Cell::default(),
            unflushed_bytes: Cell::default(),
            written_back_at: Cell::default(),
            model: Cell::default(),
            service: RefCell::default(),
            service_wakes: Cell::default(),
            stuck_until: Cell::new(Instant::default()),
            discards_stuck_until: Cell::new(Instant::default()),
            power_cycle: Cell::new(0),
            next_write: Cell::new(1),
            bad_sectors: RefCell::default(),
            faults: Faults::default(),
            to_be_reopened: Cell::new(false),
            resized: Notify::new(),
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

    /// The power goes: requests without an answer never get one.
    pub fn cut_power(&self, survival: Survival) {
        self.power_cycle.set(self.power_cycle.get() + 1);
        self.stuck_until.set(Instant::default());
        self.unflushed_bytes.set(0);
        self.written_back_at.set(Instant::default());
        self.set_model(self.model.get());
        let stable = self.medium.borrow().is_stable();
        self.medium.borrow_mut().cut_power(survival, &mut self.random.borrow_mut());
        if !stable {
            self.story.tell(&self.name, &format!("power cut, of the cache: {survival:?}"));
        }
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

    /// The next write that touches `part` suffers `fault`.
    pub fn spoil_next_write(&self, part: Part, fault: WriteFault) {
        self.faults.spoil_write(part.ranges(self), fault);
    }

    /// The next read that touches `part` suffers `fault`.
    pub fn spoil_next_read(&self, part: Part, fault: ReadFault) {
        self.faults.spoil_read(part.ranges(self), fault);
    }

    /// The next read that touches one of `ranges` suffers `fault`.
    pub fn spoil_read_of(&self, ranges: &[SectorRange], fault: ReadFault) {
        self.faults.spoil_read(ranges.to_vec(), fault);
    }

    /// Faults come by chance from now on.
    pub fn set_chances(&self, chances: Chances) {
        self.story.tell(&self.name, &format!("fails by chance: {chances:?}"));
        self.faults.set_chances(chances);
    }

    /// What stale reads will see is what is there now.
    pub fn remember(&self) {
        *self.faults.remembered.borrow_mut() = Some(self.medium.borrow().live().clone());
    }

    /// Whether the store is full: what was written before can be written again, and nothing else.
    pub fn set_full(&self, full: bool) {
        self.story.tell(&self.name, if full { "is full" } else { "has room again" });
        self.faults.full.set(full);
    }

    /// The next `count` blocks that begin with `magic` are answered and never written, whatever they
    /// are written together with.
    pub fn lose_next_blocks(&self, magic: [u8; 4], count: u32) {
        self.faults.lose_blocks(magic, count);
    }

    /// Whether a power cut could change anything.
    pub fn is_stable(&self) -> bool {
        self.medium.borrow().is_stable()
    }

    /// Whether it answers nothing now, or only that it is gone.
    pub fn is_silent(&self) -> bool {
        self.faults.gone.get() || self.stuck_until.get() > self.timeline.now()
    }

    /// The next `count` flushes fail.
    pub fn fail_flushes(&self, count: u32) {
        self.faults.failing_flushes.set(count);
    }

    /// Whether flushes and durable writes are answered without being done.
    pub fn set_lying(&self, lies: bool) {
        self.story.tell(&self.name, if lies { "lies about flushes" } else { "stops lying" });
        self.faults.lies.set(lies);
    }

    /// Whether a flush failed or the reservation record couldn't be read since it was opened: then somebody
    /// must have it opened anew.
    pub fn is_to_be_reopened(&self) -> bool {
        self.to_be_reopened.get()
    }

    /// What it is like from now on. What it was asked before is never answered.
    pub fn set_model(&self, model: Model) {
        self.model.set(model);
        let size_bytes = self.sectors() * SECTOR_BYTES as u64;
        *self.service.borrow_mut() = Service::new(model, size_bytes);
        self.service_wakes.set(None);
    }

    /// What it did with its time since the power came on.
    pub fn usage(&self) -> Usage {
        self.service.borrow().as_ref().map_or(Usage::default(), Service::usage)
    }

    /// How long operations of a [`Model::Quick`] take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.latency.set(latency);
    }

    /// How long flushes of a [`Model::Quick`] take from now on, besides their latency.
    pub fn set_write_back(&self, write_back: WriteBack) {
        self.story.tell(&self.name, &format!("writes back: {write_back:?}"));
        self.write_back.set(write_back);
    }

    /// No answer comes before `until`.
    pub fn stick_for(&self, duration: Duration) {
        self.story.tell(&self.name, &format!("is stuck for {duration:?}"));
        self.stuck_until.set(self.timeline.now() + duration);
    }

    /// Whether it is unplugged: all is answered with `Lost`.
    pub fn set_gone(&self, gone: bool) {
        self.story.tell(&self.name, if gone { "is unplugged" } else { "is plugged in" });
        self.faults.gone.set(gone);
    }

    /// Faults that lie in wait are taken back, and it answers in time. Damage stays.
    pub fn heal(&self) {
        self.latency.set(Latency::FAST);
        self.write_back.set(WriteBack::AtOnce);
        self.stuck_until.set(Instant::default());
        self.faults.clear();
    }

    /// The device grows.
    pub fn grow(&self, size_bytes: u64) {
        self.story.tell(&self.name, &format!("grows to {size_bytes} bytes"));
        self.sectors.set(self.sectors.get().max(size_bytes / SECTOR_BYTES as u64));
        self.resized.notify_all();
    }

    fn due(&self, job: Job) -> Due {
        if self.model.get() != Model::Quick {
            return Due::Served(job);
        }
        let stable = matches!(job.work, Work::DurableWrite | Work::Flush);
        let latency = self.latency.get();
        let spread = latency.spread.as_nanos() as u64;
        let chance = Duration::from_nanos(self.random.borrow_mut().random_range(0..=spread));
        let stable = if stable { latency.stable } else { Duration::ZERO };
        Due::After(latency.base + chance + stable)
    }

    /// The same for a flush; `None` if it is never answered.
    fn due_flush(&self, job: Job) -> Option<Due> {
        let Due::After(latency) = self.due(job) else { return Some(Due::Served(job)) };
        let now = self.timeline.now();
        let takes = match self.write_back.get() {
            WriteBack::AtOnce => Duration::ZERO,
            WriteBack::BytesPerSecond(rate) => {
                let bytes = self.unflushed_bytes.take();
                let done = self.written_back_at.get().max(now) + service::transfer(bytes, rate);
                self.written_back_at.set(done);
                done.since(now)
            }
            WriteBack::Never => return None,
        };
        Some(Due::After(latency + takes))
    }

    fn count(&self, change: impl FnOnce(&mut DiskCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Does `operation` to the medium now; what it is answered with is [`Disk::complete`]'s to say.
    fn perform(&self, operation: Operation) -> Performed {
        let range = operation.range();
        let zeros = || BufferMut::zeroed(range.len_bytes() as usize);
        match operation {
            Operation::Read(_) => Performed::Answered(self.execute_read(range).map(Answer::Data)),
            Operation::Write { start, data, durability } => {
                self.execute_write(start, &data, durability)
            }
            Operation::WriteZeroes { durability, .. } => {
                self.execute_write(range.start, &zeros(), durability)
            }
            Operation::Discard(_) => self.execute_discard(range),
            Operation::Flush(_) | Operation::Claim(_) | Operation::Renew | Operation::AskHealth => {
                Performed::Answered(Err(IoError::Unsupported))
            }
        }
    }

    fn execute_read(&self, range: SectorRange) -> Result<Buffer, IoError> {
        self.count(|counters| counters.read_bytes += range.len_bytes());
        let bad = self.bad_sectors.borrow().range(range.start.0..range.end().0).next().copied();
        if let Some(sector) = bad {
            return Err(IoError::Medium(SectorRange::new(Lba(sector), 1)));
        }
        let mut data = BufferMut::zeroed(range.len_bytes() as usize);
        let medium = self.medium.borrow();
        let fault = self.faults.take_read(range, &self.random);
        if let Some(fault) = fault {
            self.story.tell(&self.name, &format!("read of {range}: {fault:?}"));
        }
        match fault {
            Some(ReadFault::Error) => {
                let ends = [16..32, self.sectors().saturating_sub(2048)..self.sectors()];
                if ends.iter().any(|field| field.contains(&range.start.0)) {
                    self.to_be_reopened.set(true);
                }
                return Err(IoError::Medium(range));
            }
            Some(ReadFault::Stale) => match &*self.faults.remembered.borrow() {
                Some(image) => image.read(range.start.0, &mut data),
                None => medium.live().read(range.start.0, &mut data),
            },
            Some(ReadFault::Misdirected(by)) => {
                let from = self.displaced(range, by);
                medium.live().read(from.start.0, &mut data);
            }
            None | Some(ReadFault::Flipped) => medium.live().read(range.start.0, &mut data),
        }
        if fault == Some(ReadFault::Flipped) && !data.is_empty() {
            let mut random = self.random.borrow_mut();
            let at = random.random_range(0..data.len());
            data[at] ^= 1 << random.random_range(0..8);
        }
        Ok(data.freeze())
    }

    fn execute_write(&self, start: Lba, data: &[u8], durability: Durability) -> Performed {
        let effect = self.timeline.steps().take(Kind::Write, &self.name);
        if effect == Effect::Nothing {
            return Performed::Never;
        }
        let number = self.next_write.get();
        self.next_write.set(number + 1);
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        self.count(|counters| counters.written_bytes += range.len_bytes());
        if self.faults.full.get() && !self.has_room(range) {
            return Performed::Answered(Err(IoError::NoSpace(range)));
        }
        let fault = self.faults.take_write(range, &self.random);
        if let Some(fault) = fault {
            self.story.tell(&self.name, &format!("write of {range}: {fault:?}"));
        }
        match fault {
            None => {
                let count = if effect == Effect::Half { range.count / 2 } else { range.count };
                self.put(number, start.0, &data[..count as usize * SECTOR_BYTES]);
                if durability == Durability::Volatile {
                    self.unflushed_bytes.update(|bytes| bytes + range.len_bytes());
                }
                Performed::Written { number, at: range, durability }
            }
            Some(WriteFault::Lost) => Performed::Answered(Ok(Answer::Done)),
            Some(WriteFault::Error | WriteFault::Refused) => {
                let done = self.random.borrow_mut().random_range(0..=range.count);
                self.put(number, start.0, &data[..done as usize * SECTOR_BYTES]);
                // What was done is as volatile as if it had been answered.
                self.medium.borrow_mut().answer(number);
                Performed::Answered(Err(IoError::Medium(range)))
            }
            Some(WriteFault::NoSpace) => Performed::Answered(Err(IoError::NoSpace(range))),
            Some(WriteFault::Misdirected(by)) => {
                // One write astray may take both labels of an end, and with them the disk: that is judged
                // where labels are damaged.
                let at = self.displaced(range, by);
                let extents = SectorRange::new(Lba(2048), self.sectors().saturating_sub(4096));
                let at = if extents.contains(at) { at } else { range };
                self.put(number, at.start.0, data);
                Performed::Written { number, at, durability }
            }
        }
    }

    /// Where something for `range` goes that is so many sectors off; where it belongs if the disk ends
    /// before.
    fn displaced(&self, range: SectorRange, by: i64) -> SectorRange {
        let to = SectorRange::new(Lba(range.start.0.saturating_add_signed(by)), range.count);
        if to.fits(self.sectors()) { to } else { range }
    }

    fn has_room(&self, range: SectorRange) -> bool {
        let medium = self.medium.borrow();
        (range.start.0..range.end().0).all(|sector| medium.live().has(sector))
    }

    fn put(&self, number: WriteNumber, start: u64, data: &[u8]) {
        let mut medium = self.medium.borrow_mut();
        if self.faults.loses_blocks() {
            for (index, block) in blocks_of(start, data) {
                if (start + index).is_multiple_of(BLOCK_SECTORS) && self.faults.loses(block) {
                    let begin = &block[..4];
                    self.story
                        .tell(&self.name, &format!("loses a block that begins with {begin:?}"));
                } else {
                    medium.write(number, start + index, block);
                }
            }
        } else {
            medium.write(number, start, data);
        }
        let mut bad = self.bad_sectors.borrow_mut();
        if !bad.is_empty() {
            let end = start + (data.len() / SECTOR_BYTES) as u64;
            bad.retain(|sector| !(start..end).contains(sector));
        }
    }
}

/// The data of a write cut at the borders of blocks, each with its first sector's index.
fn blocks_of(start: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = (BLOCK_SECTORS - start % BLOCK_SECTORS) as usize * SECTOR_BYTES;
    let (head, rest) = data.split_at(first.min(data.len()));
    let mut index = 0;
    std::iter::once(head).chain(rest.chunks(BLOCK_SECTORS as usize * SECTOR_BYTES)).map(
        move |block| {
            let at = index;
            index += (block.len() / SECTOR_BYTES) as u64;
            (at, block)
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
