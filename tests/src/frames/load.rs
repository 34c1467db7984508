//! A closed loop: so many requests are under way at any time, each answer is followed by the next
//! request. Whoever waits for answers here looks for them without sleeping, so that what is measured
//! at depth 1 is the target's delay and not our own waking up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use aoe_wire::ShelfSlot;
use block::SECTOR_BYTES;
use os::net::{FrameSocket, InterfaceSpec, Role};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bytes::{self, READ_EXT, WRITE_EXT, ata_request, header};
use super::client::Client;
use super::cpu::CpuTime;
use super::pattern;
use super::report::Report;

/// After how long a request counts as lost, usually.
pub const RETRY: Duration = Duration::from_millis(200);
/// Requests under way: what the low bits of a tag can number.
const DEPTH_MAX: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 9;
/// Bit 31 stays clear, as of the kernel's tags; bit 30 is of single questions.
const TAG_MASK: u32 = 0x3fff_ffff;
/// Empty looks for answers between two looks at the clock.
const LOOKS: u32 = 64;
/// How long the last answers are waited for.
const DRAIN: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Both; what is read must be what was written.
    Verify,
}

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Anywhere.
    Random,
    /// One after the other.
    Sequential,
}

/// A run of load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The client's end.
    pub interface: InterfaceSpec,
    /// The export.
    pub address: ShelfSlot,
    /// Reads or writes.
    pub kind: Kind,
    /// Per request.
    pub bytes: usize,
    /// Where.
    pub order: Order,
    /// Where it begins.
    pub offset_bytes: u64,
    /// How far it goes.
    pub range_bytes: u64,
    /// Requests under way.
    pub depth: usize,
    /// How long is measured.
    pub measured: Duration,
    /// What goes before.
    pub warm_up: Duration,
    /// Whose processor time is taken.
    pub pid: Option<u32>,
    /// For patterns and random order.
    pub seed: u64,
    /// Sleeps while there are no answers: for loads beside which others need the processor.
    pub sleep: bool,
    /// After how long a request counts as lost and is sent again.
    pub retry: Duration,
    /// Ends it early.
    pub stop: Option<Arc<AtomicBool>>,
    /// But not before so many reads were compared.
    pub verified_min: u64,
}

/// Binds the calling thread to a processor.
pub fn pin_to(cpu: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Loads an export, and reports.
pub fn run(options: &LoadOptions) -> anyhow::Result<Report> {
    let mut run = Run::new(options)?;
    run.go(options.warm_up)?;
    run.begin_measuring();
    let begun = Instant::now();
    let cpu = options.pid.map(CpuTime::of).transpose()?;
    run.go(options.measured)?;
    let used = options.pid.map(CpuTime::of).transpose()?;
    let took = begun.elapsed();
    let mut report = run.finish()?;
    report.set_times(&mut run.times, took);
    if let (Some(begin), Some(end)) = (cpu, used) {
        report.set_cpu(end.since(begin), took);
    }
    Ok(report)
}

/// A place among the requests under way.
struct Slot {
    frame: Vec<u8>,
    uses: u32,
    /// For the first time: what the client waited counts from there.
    sent: Instant,
    last_sent: Instant,
    block: usize,
    write: bool,
    /// How often it was sent again.
    repeated: u32,
    idle: bool,
}

struct Run<'a> {
    options: &'a LoadOptions,
    socket: FrameSocket,
    slots: Vec<Slot>,
    /// Slots whose frames wait to be sent.
    unsent: Vec<usize>,
    /// Slots that were just answered; empty between looks.
    answered: Vec<usize>,
    random: SmallRng,
    next: usize,
    blocks: Vec<Block>,
    times: Vec<u32>,
    report: Report,
    ended: Option<Report>,
}

/// What is known of a block that is verified.
#[derive(Clone, Copy, Default)]
struct Block {
    /// What was written last.
    version: u32,
    /// The first write to it that was sent twice, if one was: the late one may come after any later
    /// write, so from then on each version since may be what is read.
    doubled: Option<u32>,
    busy: bool,
}

impl<'a> Run<'a> {
    fn new(options: &'a LoadOptions) -> anyhow::Result<Run<'a>> {
        ensure!((1..=DEPTH_MAX).contains(&options.depth), "a depth from 1 to {DEPTH_MAX}");
        let sectors = options.bytes / SECTOR_BYTES;
        ensure!(sectors > 0 && options.bytes.is_multiple_of(SECTOR_BYTES), "whole sectors");
        let mut client = Client::connect(&options.interface, options.address)?;
        let told = client.discover()?;
        ensure!(
            sectors <= usize::from(told.sectors),
            "{} takes {} sectors per request",
            options.address,
            told.sectors
        );
        let end = options.offset_bytes + options.range_bytes;
        let size = client.sectors()? * SECTOR_BYTES as u64;
        ensure!(end <= size, "{} has {size} bytes", options.address);
        let blocks = (options.range_bytes / options.bytes as u64) as usize;
        ensure!(
            blocks >= if options.kind == Kind::Verify { 2 * options.depth } else { 1 },
            "too small a range"
        );
        let socket = FrameSocket::open(&options.interface, Some(Role::Replies))?;
        let head = header(told.mac, socket.mac(), options.address, 0, 0);
        let mut frame = ata_request(head, READ_EXT, sectors as u8, 0);
        frame.resize(bytes::HEADER_BYTES + options.bytes, 0x5a);
        let slot = || Slot {
            frame: frame.clone(),
            uses: 0,
            sent: Instant::now(),
            last_sent: Instant::now(),
            block: 0,
            write: false,
            repeated: 0,
            idle: true,
        };
        let known = if options.kind == Kind::Verify { blocks } else { 0 };
        let mut run = Run {
            options,
            socket,
            slots: (0..options.depth).map(|_| slot()).collect(),
            unsent: Vec::with_capacity(options.depth),
            answered: Vec::new(),
            random: SmallRng::seed_from_u64(options.seed),
            next: 0,
            blocks: vec![Block::default(); known],
            times: Vec::with_capacity(1 << 20),
            report: Report::default(),
            ended: None,
        };
        (0..options.depth).for_each(|slot| run.renew(slot));
        run.send_unsent()?;
        Ok(run)
    }

    /// Forgets what the warm-up counted; what was wrong stays.
    fn begin_measuring(&mut self) {
        self.times.clear();
        let before = std::mem::take(&mut self.report);
        self.report = Report { requests: 0, retried: 0, unexpected: 0, ..before };
    }

    fn is_stopped(&self) -> bool {
        self.report.verified >= self.options.verified_min
            && self.options.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Keeps the requests going for a while.
    fn go(&mut self, duration: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + duration;
        let mut looks = 0;
        loop {
            if self.look()? == 0 {
                looks += 1;
                if self.options.sleep {
                    self.socket.wait(Duration::from_millis(20))?;
                    looks = LOOKS;
                }
            }
            looks += 1;
            if looks >= LOOKS {
                looks = 0;
                let now = Instant::now();
                if now >= end || self.is_stopped() {
                    return Ok(());
                }
                self.resend(now);
            }
            self.send_unsent()?;
        }
    }

    /// Takes the answers that are there; each frees a slot, which is used again unless it ended.
    fn look(&mut self) -> anyhow::Result<usize> {
        let mut answered = std::mem::take(&mut self.answered);
        let mut lost = 0;
        let now = std::cell::Cell::new(None::<Instant>);
        let (slots, blocks, times) = (&mut self.slots, &mut self.blocks, &mut self.times);
        let (report, options) = (&mut self.report, self.options);
        let [high, low] = options.address.shelf.to_be_bytes();
        let address = [high, low, options.address.slot];
        let taken = self.socket.receive(&mut |reply| {
            let now = now.get().unwrap_or_else(|| {
                let read = Instant::now();
                now.set(Some(read));
                read
            });
            // Others may load another export from the same address.
            let (Some(tag), true) = (bytes::tag_of(reply), reply.get(16..19) == Some(&address[..]))
            else {
                return;
            };
            let index = tag as usize & (DEPTH_MAX - 1);
            let Some(slot) = slots.get_mut(index) else { return lost += 1 };
            // An answer to an earlier asking of the same request is one too.
            let age = (tag_for(slot.uses, index).wrapping_sub(tag) & TAG_MASK) >> SLOT_BITS;
            if slot.idle || age > slot.repeated {
                return lost += 1;
            }
            slot.idle = true;
            report.requests += 1;
            times.push(u32::try_from((now - slot.sent).as_nanos()).unwrap_or(u32::MAX));
            let want = if slot.write { 0 } else { options.bytes };
            if let Some(failure) = bytes::failure_of(reply, want) {
                report.errors += 1;
                report.first_error.get_or_insert(failure);
            } else if options.kind == Kind::Verify {
                judge(options, report, slot, &blocks[slot.block], &reply[bytes::HEADER_BYTES..]);
            }
            if let Some(block) = blocks.get_mut(slot.block) {
                block.busy = false;
                if slot.write && slot.repeated > 0 {
                    block.doubled.get_or_insert(block.version);
                }
            }
            answered.push(index);
        })?;
        self.report.unexpected += lost;
        if self.ended.is_none() {
            answered.iter().for_each(|index| self.renew(*index));
        }
        answered.clear();
        self.answered = answered;
        Ok(taken)
    }

    /// The next request in a slot.
    fn renew(&mut self, index: usize) {
        let (block, write) = self.choose();
        let sectors = (self.options.bytes / SECTOR_BYTES) as u64;
        let lba = self.options.offset_bytes / SECTOR_BYTES as u64 + block as u64 * sectors;
        let slot = &mut self.slots[index];
        slot.block = block;
        slot.write = write;
        slot.repeated = 0;
        slot.idle = false;
        slot.frame[24] = if write { 0x41 } else { 0x40 };
        slot.frame[27] = if write { WRITE_EXT } else { READ_EXT };
        slot.frame[28..34].copy_from_slice(&lba.to_le_bytes()[..6]);
        let data = &mut slot.frame[bytes::HEADER_BYTES..];
        match self.blocks.get_mut(block) {
            Some(known) => {
                known.busy = true;
                if write {
                    known.version += 1;
                    pattern::fill(data, lba, known.version.into(), self.options.seed);
                }
            }
            None if write => data[..8].copy_from_slice(&lba.to_le_bytes()),
            None => {}
        }
        self.unsent.push(index);
    }

    /// Where, and whether to write.
    fn choose(&mut self) -> (usize, bool) {
        let count = (self.options.range_bytes / self.options.bytes as u64) as usize;
        loop {
            let block = match self.options.order {
                Order::Random => self.random.random_range(0..count),
                Order::Sequential => {
                    self.next = (self.next + 1) % count;
                    self.next
                }
            };
            match (self.options.kind, self.blocks.get(block)) {
                (Kind::Verify, Some(known)) if known.busy => {}
                // Before the first write nobody can say what is in it.
                (Kind::Verify, Some(known)) => {
                    return (block, known.version == 0 || self.random.random());
                }
                (kind, _) => return (block, kind == Kind::Write),
            }
        }
    }

    fn send_unsent(&mut self) -> anyhow::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for &index in &self.unsent {
            let slot = &mut self.slots[index];
            slot.uses = slot.uses.wrapping_add(1);
            let tag = tag_for(slot.uses, index);
            slot.frame[20..24].copy_from_slice(&tag.to_be_bytes());
            slot.last_sent = now;
            if slot.repeated == 0 {
                slot.sent = now;
            }
        }
        let mut frames: [&[u8]; 64] = [&[]; 64];
        for indices in self.unsent.chunks(64) {
            for (frame, index) in frames.iter_mut().zip(indices) {
                let slot = &self.slots[*index];
                let len = if slot.write { slot.frame.len() } else { bytes::HEADER_BYTES };
                *frame = &slot.frame[..len];
            }
            // What the kernel doesn't take is sent again as if it were lost.
            self.socket.send(&frames[..indices.len()])?;
        }
        self.unsent.clear();
        Ok(())
    }

    /// Asks again where no answer came, with a new tag, each time after twice as long a while: who
    /// asks too often adds to what keeps the answer from coming.
    fn resend(&mut self, now: Instant) {
        let patience = self.options.retry;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let patience = patience * (1 << slot.repeated.min(3));
            let late = now.saturating_duration_since(slot.last_sent) >= patience;
            if !slot.idle && late && !self.unsent.contains(&index) {
                slot.repeated += 1;
                self.report.retried += 1;
                self.unsent.push(index);
            }
        }
    }

    /// Waits for the last answers, so that the next run begins with an idle target.
    fn finish(&mut self) -> anyhow::Result<Report> {
        let report = self.report.clone();
        self.ended = Some(report.clone());
        let begun = Instant::now();
        while self.slots.iter().any(|slot| !slot.idle) {
            if begun.elapsed() > DRAIN {
                bail!("{} doesn't answer any more", self.options.address);
            }
            self.look()?;
            self.resend(Instant::now());
            self.send_unsent()?;
        }
        Ok(Report {
            errors: self.report.errors,
            first_error: self.report.first_error.clone(),
            verified: self.report.verified,
            corrupt: self.report.corrupt,
            first_corrupt: self.report.first_corrupt.clone(),
            ..report
        })
    }
}

/// Compares what was read.
fn judge(options: &LoadOptions, report: &mut Report, slot: &Slot, known: &Block, data: &[u8]) {
    if slot.write {
        return;
    }
    report.verified += 1;
    let sectors = (options.bytes / SECTOR_BYTES) as u64;
    let lba = options.offset_bytes / SECTOR_BYTES as u64 + slot.block as u64 * sectors;
    let data = &data[..options.bytes];
    let (last, first) = (u64::from(known.version), known.doubled.unwrap_or(known.version).into());
    // Which of the possible ones it says it is; all of it must be that one.
    let version = pattern::version_of(data).clamp(first, last);
    if let Some(wrong) = pattern::check(data, lba, version, options.seed) {
        report.corrupt += 1;
        report.first_corrupt.get_or_insert(wrong);
    }
}

fn tag_for(uses: u32, slot: usize) -> u32 {
    (uses << SLOT_BITS | slot as u32) & TAG_MASK
}
