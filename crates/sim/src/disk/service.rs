//! How long a disk takes: what decides whether rebuild and streaming can be judged in virtual time.
//!
//! [`Model::Quick`] draws a short latency for each operation, alone, whatever else there is to do: that
//! is what random runs have, because it finds faults soonest. The others serve operations from a queue:
//! [`Spinning`] has one arm that moves and a platter that turns, [`SolidState`] has channels side by side
//! and one interface. They draw nothing: when an operation ends follows from what was asked before, where
//! and when. A model decides about time only. Effects happen with the call, and faults, crashes and what
//! a power cut leaves are the same with each.
//!
//! # Figures and where they come from
//!
//! - [`Spinning::HARD_DISK`]: a common disk of 7,200 revolutions a minute, from its maker's papers. Seeks:
//!   Western Digital Ultrastar DC HC310, OEM specification 1.4, tables 5 to 7 (7.4 ms reading and 8.2 ms
//!   writing on average, 0.23 and 0.32 ms to the next track, 8.33 ms a revolution). Rate: Seagate
//!   Constellation ES.3 product manual, section 4.1 (1,668,096 bytes a track on average, times 120 a
//!   second). Its cache and the time of a command are assumptions.
//! - [`SolidState::SATA`]: Intel SSD DC S4600, product specification (72,000 reads and 65,000 writes of
//!   4 KiB a second at depth 32, 110 and 52 us at depth 1, 500 and 490 MB/s; its cache outlives the power,
//!   so a flush has nothing to do).
//! - [`SolidState::MEASURED`]: a virtual machine's virtio disk, measured once with fio. `sim --speed disks`
//!   prints what each model does beside the figures that it was made from.
//!
//! # What is left out
//!
//! Inner tracks are as fast as outer ones. A simulated disk is small, and its arm crosses all of it in
//! the time that a large one takes: distances count as parts of the disk. A hard disk has one stream of
//! read-ahead, and what is in its cache to be written isn't read from there. A solid-state disk has
//! neither garbage to collect nor a cache that fills.

use std::time::Duration;

use block::{Durability, Instant, Operation};

mod solid_state;
mod spinning;

pub use solid_state::{Cost, SolidState};
pub use spinning::Spinning;

/// What a disk is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Model {
    /// A latency by chance for each operation alone; see [`super::Latency`].
    #[default]
    Quick,
    /// An arm and a platter.
    Spinning(Spinning),
    /// Channels side by side.
    SolidState(SolidState),
}

/// What a model has to know of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What is done.
    pub work: Work,
    /// Where it begins.
    pub start_bytes: u64,
    /// How much is moved.
    pub len_bytes: u64,
}

/// What is done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Answered once the data is there.
    Read,
    /// Answered once the disk's cache has it.
    Write,
    /// Answered once the medium has it.
    DurableWrite,
    /// Answered once the medium has all that was answered before.
    Flush,
    /// Moves no data.
    Nothing,
}

impl Job {
    /// What `operation` is to a model.
    pub fn of(operation: &Operation) -> Job {
        let work = match operation {
            Operation::Read(_) => Work::Read,
            Operation::Write { durability, .. } | Operation::WriteZeroes { durability, .. } => {
                match durability {
                    Durability::Volatile => Work::Write,
                    Durability::Durable => Work::DurableWrite,
                }
            }
            Operation::Flush(_) => Work::Flush,
            Operation::Discard(_)
            | Operation::Claim(_)
            | Operation::Renew
            | Operation::AskHealth => Work::Nothing,
        };
        let range = operation.range();
        Job { work, start_bytes: range.start.byte_offset(), len_bytes: range.len_bytes() }
    }
}

/// What a disk did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its busiest part was at work.
    pub busy: Duration,
    /// Of that, its arm or platter was on the way to the data.
    pub positioning: Duration,
}

/// Operations on their way through a disk, each with a `Token` that says whose it is.
pub(crate) enum Service<Token> {
    Spinning(Box<spinning::Queue<Token>>),
    SolidState(solid_state::Queue<Token>),
}

impl<Token> Service<Token> {
    /// Nothing to do yet; `None` for a model without a queue.
    pub(crate) fn new(model: Model, size_bytes: u64) -> Option<Service<Token>> {
        match model {
            Model::Quick => None,
            Model::Spinning(disk) => {
                Some(Service::Spinning(Box::new(spinning::Queue::new(disk, size_bytes))))
            }
            Model::SolidState(disk) => Some(Service::SolidState(solid_state::Queue::new(disk))),
        }
    }

    /// Takes a job.
    pub(crate) fn submit(&mut self, now: Instant, job: Job, token: Token) {
        match self {
            Service::Spinning(queue) => queue.submit(now, job, token),
            Service::SolidState(queue) => queue.submit(now, job, token),
        }
    }

    /// When [`Service::take_answered`] has to be called next.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self {
            Service::Spinning(queue) => queue.next(),
            Service::SolidState(queue) => queue.next(),
        }
    }

    /// A job that is answered by now.
    pub(crate) fn take_answered(&mut self, now: Instant) -> Option<Token> {
        match self {
            Service::Spinning(queue) => queue.take_answered(now),
            Service::SolidState(queue) => queue.take_answered(now),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        match self {
            Service::Spinning(queue) => queue.usage(),
            Service::SolidState(queue) => queue.usage(),
        }
    }
}

/// How long `bytes` take at a rate.
pub(super) fn transfer(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Answers in the order of their times.
struct Answers<Token> {
    waiting: std::collections::BTreeMap<(Instant, u64), Token>,
    next: u64,
}

impl<Token> Answers<Token> {
    fn new() -> Answers<Token> {
        Answers { waiting: std::collections::BTreeMap::new(), next: 0 }
    }

    fn give(&mut self, at: Instant, token: Token) {
        self.next += 1;
        self.waiting.insert((at, self.next), token);
    }

    fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Instant) -> Option<Token> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
