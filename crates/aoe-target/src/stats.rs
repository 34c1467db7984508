//! What is counted, so that people see what happens to their exports.

use std::ops::Index;

use block::{Histogram, IoError};

/// What an export counts, of itself and of each of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// READ commands executed.
    Reads,
    /// WRITE commands executed.
    Writes,
    /// FLUSH commands executed.
    Flushes,
    /// All other requests answered.
    Others,
    /// Replies from the cache to repeated commands.
    Replayed,
    /// Failures: bad sectors.
    MediumErrors,
    /// Failures: no room under the export.
    NoSpace,
    /// Failures: beyond the end.
    OutOfRange,
    /// Failures: a flush that failed.
    FailedFlushes,
    /// Failures: a change by a client that couldn't be put on stable storage.
    NotRemembered,
    /// Failures: device gone or restarted.
    Lost,
    /// Refusals: a deposed owner.
    Fenced,
    /// Refusals: read-only, protected, reserved, not supported. The last one of those that are answers.
    Refused,
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WrittenBytes,
    /// Sessions opened.
    SessionsOpened,
    /// Answers that others gave for the export's address.
    ForeignAnswers,
    /// Frames without an answer: the queue is full; the client will ask again.
    QueueFull,
    /// Frames without an answer: a checksum, length, version or reserved bit is wrong.
    Malformed,
    /// Frames without an answer: the client is on no list that may ask.
    Denied,
    /// Frames without an answer: asked before, and being worked on.
    Repeated,
    /// Frames without an answer: a session could not be opened now.
    SessionLimit,
    /// Frames without an answer: not sealed by the client that they name.
    Forged,
}

/// How many counters there are.
pub const COUNTERS: usize = Counter::Forged as usize + 1;

/// Counters of an export from its start on, or one client's share of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportStats(pub [u64; COUNTERS]);

/// What moves sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Read,
    Write,
    Flush,
}

impl Index<Counter> for ExportStats {
    type Output = u64;

    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl ExportStats {
    /// Requests that got an answer.
    pub fn answered(&self) -> u64 {
        self.0[..=Counter::Refused as usize].iter().sum()
    }

    /// Counts more of something.
    pub fn count(&mut self, counter: Counter, more: u64) {
        self.0[counter as usize] += more;
    }

    pub(crate) fn moved(&mut self, what: Moved, bytes: u64) {
        match what {
            Moved::Read => {
                self.count(Counter::Reads, 1);
                self.count(Counter::ReadBytes, bytes);
            }
            Moved::Write => {
                self.count(Counter::Writes, 1);
                self.count(Counter::WrittenBytes, bytes);
            }
            Moved::Flush => self.count(Counter::Flushes, 1),
        }
    }

    pub(crate) fn has_moved(&self) -> bool {
        self[Counter::Reads] + self[Counter::Writes] > 0
    }

    pub(crate) fn add(&mut self, other: &ExportStats) {
        self.0.iter_mut().zip(other.0).for_each(|(own, more)| *own += more);
    }
}

impl Counter {
    pub(crate) fn of_error(error: IoError) -> Counter {
        match error {
            IoError::Medium(_) => Counter::MediumErrors,
            IoError::NoSpace(_) => Counter::NoSpace,
            IoError::OutOfRange(_) => Counter::OutOfRange,
            IoError::FlushFailed => Counter::FailedFlushes,
            IoError::Lost | IoError::Restarted { .. } => Counter::Lost,
            IoError::Fenced { .. } => Counter::Fenced,
            IoError::ReadOnly | IoError::Refused(_) | IoError::Unsupported => Counter::Refused,
        }
    }
}

/// How long an export's commands took, from the arrival of their frames to their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Reads.
    pub read: Histogram,
    /// Writes.
    pub write: Histogram,
    /// Flushes.
    pub flush: Histogram,
}

impl Latencies {
    pub(crate) fn of_mut(&mut self, what: Moved) -> &mut Histogram {
        match what {
            Moved::Read => &mut self.read,
            Moved::Write => &mut self.write,
            Moved::Flush => &mut self.flush,
        }
    }
}

/// Counters of a target, about frames that belong to no export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetStats {
    /// Frames received.
    pub frames: u64,
    /// Frames that aren't AoE requests at all.
    pub malformed: u64,
    /// Requests to addresses that aren't exported here.
    pub not_ours: u64,
    /// Replies that found no room on their way out.
    pub transmit_full: u64,
}
