//! Channels that work side by side behind one interface.
//!
//! A read occupies the channel that is free first, then its data crosses the interface; a write crosses
//! first. An operation may be answered before its channel is free again: a write is in the cache by then.

use std::time::Duration;

use block::Instant;

use super::{Answers, Job, Usage, Work, transfer};

/// What one operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Until it is answered, once it has a channel and without its transfer.
    pub latency: Duration,
    /// How long it keeps its channel.
    pub occupancy: Duration,
    /// How fast its data crosses the interface.
    pub bytes_per_second: u64,
}

/// A disk without moving parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SolidState {
    /// Operations that are served at the same time.
    pub channels: usize,
    /// A read.
    pub read: Cost,
    /// A write.
    pub write: Cost,
    /// A flush; a durable write waits so long in addition. Those that come together are done together.
    pub flush: Duration,
}

impl SolidState {
    /// A disk for servers behind SATA; see [`super`].
    pub const SATA: SolidState = SolidState {
        channels: 8,
        read: Cost {
            latency: Duration::from_micros(102),
            occupancy: Duration::from_micros(110),
            bytes_per_second: 500_000_000,
        },
        write: Cost {
            latency: Duration::from_micros(44),
            occupancy: Duration::from_micros(122),
            bytes_per_second: 490_000_000,
        },
        flush: Duration::ZERO,
    };

    /// A virtual machine's virtio disk; see [`super`].
    pub const MEASURED: SolidState = SolidState {
        channels: 4,
        read: Cost {
            latency: Duration::from_micros(50),
            occupancy: Duration::from_micros(54),
            bytes_per_second: 1_230_000_000,
        },
        write: Cost {
            latency: Duration::from_micros(127),
            occupancy: Duration::from_micros(93),
            bytes_per_second: 2_930_000_000,
        },
        flush: Duration::from_micros(560),
    };
}

/// Operations on their way.
pub(crate) struct Queue<Token> {
    disk: SolidState,
    /// When each channel is free.
    channels: Vec<Instant>,
    interface_free: Instant,
    answers: Answers<Token>,
    channels_busy: Duration,
    interface_busy: Duration,
}

impl<Token> Queue<Token> {
    pub(super) fn new(disk: SolidState) -> Queue<Token> {
        Queue {
            disk,
            channels: vec![Instant::default(); disk.channels.max(1)],
            interface_free: Instant::default(),
            answers: Answers::new(),
            channels_busy: Duration::ZERO,
            interface_busy: Duration::ZERO,
        }
    }

    pub(super) fn submit(&mut self, now: Instant, job: Job, token: Token) {
        let answered = match job.work {
            Work::Read => {
                let cost = self.disk.read;
                let ready = self.occupy(now, cost) + cost.latency;
                self.cross(ready, job.len_bytes, cost)
            }
            Work::Write | Work::DurableWrite => {
                let cost = self.disk.write;
                let arrived = self.cross(now, job.len_bytes, cost);
                let answered = self.occupy(arrived, cost) + cost.latency;
                match job.work {
                    Work::DurableWrite => answered + self.disk.flush,
                    _ => answered,
                }
            }
            Work::Flush => now + self.disk.flush,
            Work::Nothing => now,
        };
        self.answers.give(answered, token);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.answers.next()
    }

    pub(super) fn take_answered(&mut self, now: Instant) -> Option<Token> {
        self.answers.take(now)
    }

    pub(super) fn usage(&self) -> Usage {
        let channels = self.channels_busy / self.channels.len() as u32;
        Usage { busy: channels.max(self.interface_busy), positioning: Duration::ZERO }
    }

    /// Takes the channel that is free first, and says from when on.
    fn occupy(&mut self, now: Instant, cost: Cost) -> Instant {
        let Some(first) = self.channels.iter_mut().min() else { return now };
        let begin = now.max(*first);
        *first = begin + cost.occupancy;
        self.channels_busy += cost.occupancy;
        begin
    }

    /// Sends data across the interface, and says when the last of it is there.
    fn cross(&mut self, now: Instant, len_bytes: u64, cost: Cost) -> Instant {
        let time = transfer(len_bytes, cost.bytes_per_second);
        self.interface_free = now.max(self.interface_free) + time;
        self.interface_busy += time;
        self.interface_free
    }
}
