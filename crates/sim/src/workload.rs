//! Clients: concurrent reads, writes, zeroes, discards and flushes of random sizes that overlap a
//! lot, each told to the oracle before its call and after its answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_SECTORS, BlockDevice, Buffer, Durability, Instance, Instant, IoError, Lba, SECTOR_BYTES,
    SectorRange,
};
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Notify;

use crate::oracle::{Change, OperationNumber, Oracle, Violation};
use crate::random::fork;
use crate::story::Story;
use crate::world::{Killed, Process, Timeline, World};

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Operations in flight at a time.
    pub depth: u32,
    /// Of a hundred operations, how many are writes.
    pub writes: u32,
    /// Of a hundred operations, how many are write-zeroes.
    pub zeroes: u32,
    /// Of a hundred operations, how many are discards.
    pub discards: u32,
    /// Of a hundred operations, how many are flushes; the rest are reads.
    pub flushes: u32,
    /// Of a hundred operations, how many are of whole blocks, and long.
    pub large: u32,
    /// Longest of the other operations, in sectors.
    pub sectors_max: u64,
    /// Operations stay below this sector, so that they overlap; `u64::MAX` is the whole volume.
    pub span_sectors: u64,
    /// Longest time that a client thinks between two operations.
    pub think: Duration,
}

impl Mix {
    const USUAL: Mix = Mix {
        depth: 4,
        writes: 55,
        zeroes: 4,
        discards: 3,
        flushes: 4,
        large: 0,
        sectors_max: 64,
        span_sectors: u64::MAX,
        think: Duration::from_millis(40),
    };
    /// More of it, and large writes among them.
    pub const BUSY: Mix = Mix { think: Duration::from_millis(20), large: 20, ..Mix::USUAL };
}

impl Default for Mix {
    fn default() -> Mix {
        Mix::USUAL
    }
}

/// The first thing that went wrong, if any.
#[derive(Default)]
pub struct Verdict {
    failure: RefCell<Option<String>>,
    changed: Notify,
    /// Whether an owner may find itself deposed, or its pool given up.
    fencing: Cell<bool>,
}

impl Verdict {
    /// Nothing has gone wrong.
    pub fn new() -> Rc<Verdict> {
        Rc::new(Verdict::default())
    }

    /// From now on somebody may lose a pool to somebody else, or give it up: requests may fail for it.
    pub fn expect_fencing(&self) {
        self.fencing.set(true);
    }

    /// Something went wrong; the first one counts.
    pub fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
        self.changed.notify_all();
    }

    /// What went wrong.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Completes when something goes wrong.
    pub async fn failed(&self) -> String {
        loop {
            let changed = self.changed.notified();
            if let Some(failure) = self.failure() {
                return failure;
            }
            changed.await;
        }
    }
}

/// What the clients of one volume have seen. It outlives the processes that they run in.
pub struct Record {
    oracle: Rc<Oracle>,
    verdict: Rc<Verdict>,
    timeline: Rc<Timeline>,
    story: Rc<Story>,
    /// Answers of each kind.
    answers: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
    waiting: RefCell<BTreeMap<u64, Instant>>,
    next_wait: Cell<u64>,
    longest_wait: Cell<Duration>,
    /// The volume was removed, or is being removed.
    removed: Cell<bool>,
    /// Ranges whose reads may fail because a scenario destroyed all copies.
    unreadable: RefCell<Vec<SectorRange>>,
    medium_errors: RefCell<Vec<SectorRange>>,
}

impl Record {
    /// Nothing seen yet.
    pub fn new(world: &World, oracle: Rc<Oracle>, verdict: Rc<Verdict>) -> Rc<Record> {
        Rc::new(Record {
            oracle,
            verdict,
            timeline: Rc::clone(world.timeline()),
            story: Rc::clone(world.story()),
            answers: Cell::new(0),
            errors: RefCell::default(),
            waiting: RefCell::default(),
            next_wait: Cell::new(0),
            longest_wait: Cell::default(),
            removed: Cell::new(false),
            unreadable: RefCell::default(),
            medium_errors: RefCell::default(),
        })
    }

    /// From now on requests of those who still use the volume may end with an error.
    pub fn is_removed(&self) {
        self.removed.set(true);
    }

    /// What may be read.
    pub fn oracle(&self) -> &Rc<Oracle> {
        &self.oracle
    }

    /// Successful answers so far.
    pub fn answers(&self) -> u64 {
        self.answers.get()
    }

    /// Failed answers so far, by error.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.borrow().clone()
    }

    /// The longest that an operation took or has been taking since [`Record::forget_waits`].
    pub fn longest_wait(&self) -> Duration {
        let now = self.timeline.now();
        let open = self.waiting.borrow().values().map(|since| now.since(*since)).max();
        self.longest_wait.get().max(open.unwrap_or_default())
    }

    /// Measures waits anew; what waits now counts from now.
    pub fn forget_waits(&self) {
        self.longest_wait.set(Duration::ZERO);
        let now = self.timeline.now();
        self.waiting.borrow_mut().values_mut().for_each(|since| *since = now);
    }

    /// No read may fail with a medium error from now on.
    pub fn expect_readable(&self) {
        self.unreadable.borrow_mut().clear();
    }

    /// Reads of `range` may fail with a medium error from now on.
    pub fn expect_unreadable(&self, range: SectorRange) {
        self.unreadable.borrow_mut().push(range);
    }

    /// The reads that failed with a medium error, as the errors named them.
    pub fn medium_errors(&self) -> Vec<SectorRange> {
        self.medium_errors.borrow().clone()
    }

    fn begin_wait(&self) -> u64 {
        let wait = self.next_wait.get();
        self.next_wait.set(wait + 1);
        self.waiting.borrow_mut().insert(wait, self.timeline.now());
        wait
    }

    fn end_wait(&self, wait: u64) {
        if let Some(since) = self.waiting.borrow_mut().remove(&wait) {
            self.story.mix(self.timeline.now().as_nanos() ^ wait << 40);
            let took = self.timeline.now().since(since);
            self.longest_wait.set(self.longest_wait.get().max(took));
        }
    }

    fn check(&self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.story.tell("oracle", &violation.what);
            self.verdict.fail(violation.what);
        }
    }

    fn failed(&self, what: &str, range: SectorRange, error: IoError) {
        let kind = match error {
            IoError::Medium(_) => "medium".to_string(),
            IoError::Fenced { .. } => "fenced".to_string(),
            IoError::Restarted { .. } => "restarted".to_string(),
            other => other.to_string(),
        };
        let count = {
            let mut errors = self.errors.borrow_mut();
            let count = errors.entry(kind).or_insert(0);
            *count += 1;
            *count
        };
        if count <= 3 {
            self.story
                .tell("client", &format!("{}: {what} of {range}: {error}", self.oracle.name()));
        }
        match error {
            IoError::Medium(bad) => {
                self.medium_errors.borrow_mut().push(bad);
                let mut unreadable = self.unreadable.borrow().clone().into_iter();
                // It names what can't be had, and that is part of what was asked for.
                let expected = unreadable.any(|lost| lost.overlaps(bad)) && bad.overlaps(range);
                if !expected {
                    let name = self.oracle.name();
                    self.verdict.fail(format!("{name}: {what} of {range} failed: {error}"));
                }
            }
            IoError::Restarted { .. } | IoError::FlushFailed if self.oracle.is_disk() => {}
            IoError::OutOfRange(_)
            | IoError::Restarted { .. }
            | IoError::FlushFailed
            | IoError::Unsupported
            | IoError::NoSpace(_)
            | IoError::ReadOnly => {
                let name = self.oracle.name();
                self.verdict
                    .fail(format!("{name}: {what} of {range} must not fail like this: {error}"));
            }
            // The disk is lost to this initiator: it was deposed, or the cable cut for long.
            IoError::Lost | IoError::Fenced { .. } | IoError::Refused(_)
                if self.oracle.is_disk() => {}
            // The pool is lost to this owner, which only another owner explains. Whatever else
            // happens, requests wait.
            IoError::Lost | IoError::Fenced { .. } if self.verdict.fencing.get() => {}
            IoError::Lost | IoError::Refused(_) if self.removed.get() => {}
            IoError::Lost | IoError::Fenced { .. } | IoError::Refused(_) => {
                let name = self.oracle.name();
                self.verdict.fail(format!("{name}: {what} of {range} must wait: {error}"));
            }
        }
    }
}

/// A device under an oracle's eyes: what clients call.
#[derive(Clone)]
pub struct Watched {
    device: Rc<dyn BlockDevice>,
    record: Rc<Record>,
    instance: Rc<Cell<Instance>>,
    /// Whether a write counts as acknowledged only after a flush: a bare disk, not a volume.
    durability: Durability,
}

impl Watched {
    /// `device`, checked against `record`'s oracle. Writes are asked to be durable by themselves.
    pub fn new(device: Rc<dyn BlockDevice>, record: Rc<Record>) -> Watched {
        let instance = Rc::new(Cell::new(Instance::default()));
        Watched { device, record, instance, durability: Durability::Durable }
    }

    /// Reads and checks.
    pub async fn read(&self, range: SectorRange) -> Result<Buffer, IoError> {
        let ticket = self.record.oracle.begin_read(range);
        let wait = self.record.begin_wait();
        let result = self.device.read(range).await;
        self.record.end_wait(wait);
        match result {
            Ok(read) => {
                self.answered(read.instance);
                self.record.check(self.record.oracle.check_read(ticket, &read.value));
                Ok(read.value)
            }
            Err(error) => {
                self.record.failed("read", range, error);
                Err(error)
            }
        }
    }

    /// Changes `range`.
    pub async fn change(&self, change: Change, range: SectorRange) -> Result<(), IoError> {
        let now = self.record.timeline.now();
        let (operation, data) = self.record.oracle.begin(change, range, now);
        let wait = self.record.begin_wait();
        let result = match change {
            Change::Write => self.device.write(range.start, data, self.durability),
            Change::Zero => self.device.write_zeroes(range, self.durability),
            Change::Discard => self.device.discard(range),
        };
        let result = result.await;
        self.record.end_wait(wait);
        match result {
            Ok(done) => {
                self.answered(done.instance);
                let now = self.record.timeline.now();
                self.record.check(self.record.oracle.acknowledge(operation, now));
                Ok(())
            }
            Err(error) => {
                self.record.failed(&format!("{change:?} #{operation}"), range, error);
                Err(error)
            }
        }
    }

    /// A flush of the instance that answered last.
    pub async fn flush(&self) -> Result<(), IoError> {
        let wait = self.record.begin_wait();
        let result = self.device.flush(self.instance.get()).await;
        self.record.end_wait(wait);
        match result {
            Ok(done) => self.answered(done.instance),
            // The client hasn't learned of the new instance yet; its writes were durable anyway.
            Err(IoError::Restarted { now }) => self.instance.set(now),
            Err(error) => {
                self.record.failed("flush", SectorRange::default(), error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes without asking for durability: acknowledged only by
    /// [`Watched::flush_and_acknowledge`].
    pub async fn write_volatile(
        &self,
        range: SectorRange,
    ) -> Result<(OperationNumber, Instance), IoError> {
        let now = self.record.timeline.now();
        let (operation, data) = self.record.oracle.begin(Change::Write, range, now);
        let result = self.device.write(range.start, data, Durability::Volatile).await;
        match result {
            Ok(done) => {
                self.answered(done.instance);
                Ok((operation, done.instance))
            }
            Err(error) => {
                self.record.failed(&format!("write #{operation}"), range, error);
                Err(error)
            }
        }
    }

    /// Flushes `instance`; if that succeeds, all of `operations` are acknowledged.
    pub async fn flush_and_acknowledge(
        &self,
        instance: Instance,
        operations: Vec<OperationNumber>,
    ) -> Result<(), IoError> {
        let result = self.device.flush(instance).await;
        match result {
            Ok(_) => {
                let now = self.record.timeline.now();
                for operation in operations {
                    self.record.check(self.record.oracle.acknowledge(operation, now));
                }
                Ok(())
            }
            Err(error) => {
                self.record.failed("flush", SectorRange::default(), error);
                Err(error)
            }
        }
    }

    /// Reads everything and checks it, in pieces, and what fails block by block: an error must not hide
    /// what else there is. Tells the first.
    pub async fn read_all(&self) -> Result<(), IoError> {
        let sectors = self.device.geometry().sectors;
        let piece = (u64::from(self.device.geometry().max_transfer_bytes) / SECTOR_BYTES as u64)
            .clamp(8, 256);
        let mut start = 0;
        let mut told = Ok(());
        while start < sectors {
            let count = piece.min(sectors - start);
            let read = self.read(SectorRange::new(Lba(start), count)).await;
            if matches!(read, Err(IoError::Medium(_))) {
                for at in (start..start + count).step_by(BLOCK_SECTORS as usize) {
                    let block = SectorRange::new(Lba(at), BLOCK_SECTORS.min(start + count - at));
                    // An error is judged where it is told.
                    let _ = self.read(block).await;
                }
            }
            told = told.and(read.map(drop));
            start += count;
        }
        told
    }

    fn answered(&self, instance: Instance) {
        self.instance.set(instance);
        self.record.answers.set(self.record.answers.get() + 1);
    }
}

/// Running clients of one volume in one process.
pub struct Clients {
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<u32>>,
    stopped: Rc<Notify>,
    process: Rc<Process>,
}

impl Clients {
    /// Starts `mix.depth` clients of `device` in `process`. `label` names their generators.
    pub fn start(
        world: &World,
        process: &Rc<Process>,
        watched: &Watched,
        mix: Mix,
        label: &str,
    ) -> Clients {
        let clients = Clients {
            stop: Rc::default(),
            running: Rc::default(),
            stopped: Rc::default(),
            process: Rc::clone(process),
        };
        let Some(handle) = process.handle() else { return clients };
        for number in 0..mix.depth {
            let (watched, handle_inside) = (watched.clone(), handle.clone());
            let (stop, running) = (Rc::clone(&clients.stop), Rc::clone(&clients.running));
            let stopped = Rc::clone(&clients.stopped);
            let begun = watched.record.next_wait.get();
            let mut random = fork(world.seed(), &format!("{label}/{number}/{begun}"));
            running.set(running.get() + 1);
            handle.spawn(async move {
                while !stop.get() {
                    let think = random.random_range(0..=mix.think.as_nanos() as u64);
                    handle_inside.sleep(Duration::from_nanos(think)).await;
                    if one_operation(&watched, &mix, &mut random).await.is_err() {
                        handle_inside.sleep(Duration::from_millis(100)).await;
                    }
                }
                running.set(running.get() - 1);
                stopped.notify_all();
            });
        }
        clients
    }

    /// Whether their process lives.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Asks the clients to stop and waits until their operations are answered.
    pub async fn stop(self) -> Result<(), Killed> {
        self.stop.set(true);
        loop {
            let stopped = self.stopped.notified();
            if !self.process.is_alive() {
                return Err(Killed);
            }
            if self.running.get() == 0 {
                return Ok(());
            }
            stopped.await;
        }
    }
}

async fn one_operation(watched: &Watched, mix: &Mix, random: &mut SmallRng) -> Result<(), IoError> {
    let sectors = watched.device.geometry().sectors.min(mix.span_sectors);
    let range = match mix.large > 0 && random.random_range(0..100) < mix.large {
        true => large_range(sectors, random),
        false => random_range(sectors, mix.sectors_max, random),
    };
    if range.count == 0 {
        return Ok(());
    }
    let dice = random.random_range(0..100);
    let writes = mix.writes;
    let zeroes = writes + mix.zeroes;
    let discards = zeroes + mix.discards;
    match dice {
        _ if dice < writes => watched.change(Change::Write, range).await,
        _ if dice < zeroes => watched.change(Change::Zero, range).await,
        _ if dice < discards => watched.change(Change::Discard, range).await,
        _ if dice < discards + mix.flushes => watched.flush().await,
        _ => watched.read(range).await.map(drop),
    }
}

/// 16 to 80 whole blocks.
fn large_range(sectors: u64, random: &mut SmallRng) -> SectorRange {
    let start = random.random_range(0..sectors.max(1)) / BLOCK_SECTORS * BLOCK_SECTORS;
    let count = random.random_range(16..=80) * BLOCK_SECTORS;
    SectorRange::new(Lba(start), count.min(sectors - start) / BLOCK_SECTORS * BLOCK_SECTORS)
}

/// Mostly whole blocks, sometimes single sectors, now and then something long.
fn random_range(sectors: u64, sectors_max: u64, random: &mut SmallRng) -> SectorRange {
    if sectors == 0 {
        return SectorRange::default();
    }
    let most = sectors_max.min(sectors);
    let (start, count) = match random.random_range(0..10) {
        0..6 => (random.random_range(0..sectors) / 8 * 8, 8 * random.random_range(1..=4)),
        6..9 => (random.random_range(0..sectors), random.random_range(1..=24)),
        _ => (random.random_range(0..sectors) / 8 * 8, random.random_range(1..=most)),
    };
    SectorRange::new(Lba(start), count.min(most).min(sectors - start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::medium::Survival;
    use crate::world::Clock;

    /// Clients on a bare disk whose power is cut a few times. Returns the failure, if any, the
    /// number of answers, and the hash of the trace.
    fn bare_disk(seed: u64, lies: bool) -> (Option<String>, u64, u64) {
        let world = World::new(seed, false);
        let disk = Disk::new(&world, "d", 1 << 20);
        disk.set_lying(lies);
        let verdict = Verdict::new();
        let oracle = Oracle::of_disk("d", 7);
        let record = Record::new(&world, oracle, Rc::clone(&verdict));
        let (director, seen, world_inside) =
            (world.director(), Rc::clone(&record), Rc::clone(&world));
        world
            .run(Duration::from_secs(60), async move {
                for _ in 0..5 {
                    let process = world_inside.start_process("user", Clock::default());
                    let watched = Watched::new(disk.open(), Rc::clone(&seen));
                    let mix = Mix { think: Duration::from_millis(1), ..Mix::default() };
                    let clients = Clients::start(&world_inside, &process, &watched, mix, "d");
                    director.sleep(Duration::from_millis(200)).await;
                    process.kill();
                    drop(clients);
                    disk.cut_power(Survival::Arbitrary);
                }
                let process = world_inside.start_process("user", Clock::default());
                let watched = Watched::new(disk.open(), seen);
                process.run(async move { watched.read_all().await }).await.unwrap().unwrap();
            })
            .unwrap();
        (verdict.failure(), record.answers(), world.story().hash())
    }

    #[test]
    fn a_good_disk_passes_and_a_liar_is_caught() {
        for seed in 0..10 {
            let (failure, answers, _) = bare_disk(seed, false);
            assert_eq!(failure, None, "seed {seed}");
            assert!(answers > 200, "{answers}");
        }
        assert!((0..10).any(|seed| bare_disk(seed, true).0.is_some()));
    }

    #[test]
    fn a_seed_replays_exactly() {
        assert_eq!(bare_disk(3, false), bare_disk(3, false));
        assert_ne!(bare_disk(3, false).2, bare_disk(4, false).2);
    }
}
