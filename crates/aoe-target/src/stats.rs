//! What is counted, so that people see what happens to their exports.

use block::{Histogram, IoError};

/// Why a frame got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The queue is full; the client will ask again.
    QueueFull,
    /// A checksum, length, version or reserved bit is wrong.
    Malformed,
    /// The client is on no list that may ask.
    Denied,
    /// It has been asked before and is being worked on.
    Repeated,
    /// A session could not be opened now.
    SessionLimit,
}

/// Counters of an export from its start on, or one client's share of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// READ commands executed.
    pub reads: u64,
    /// WRITE commands executed.
    pub writes: u64,
    /// FLUSH commands executed.
    pub flushes: u64,
    /// All other requests answered.
    pub others: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Replies from the cache to repeated commands.
    pub replayed: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Failures: bad sectors.
    pub errors_medium: u64,
    /// Failures: no room under the export.
    pub errors_no_space: u64,
    /// Failures: beyond the end.
    pub errors_out_of_range: u64,
    /// Failures: a flush that failed.
    pub errors_flush: u64,
    /// Failures: a change by a client that couldn't be put on stable storage.
    pub errors_remember: u64,
    /// Failures: device gone or restarted.
    pub errors_lost: u64,
    /// Refusals: a deposed owner.
    pub fenced: u64,
    /// Refusals: read-only, protected, reserved, not supported.
    pub refused: u64,
    /// Answers that others gave for the export's address.
    pub foreign_answers: u64,
    /// Frames dropped because the queue was full.
    pub dropped_queue_full: u64,
    /// Frames dropped because something in them is wrong.
    pub dropped_malformed: u64,
    /// Frames dropped because the client may not ask.
    pub dropped_denied: u64,
    /// Repetitions dropped while the first is being worked on.
    pub dropped_repeated: u64,
    /// Openings dropped because there are too many sessions.
    pub dropped_session_limit: u64,
}

/// What moves sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Read,
    Write,
    Flush,
}

impl ExportStats {
    /// Requests that got an answer.
    pub fn answered(&self) -> u64 {
        let failed = self.errors_medium
            + self.errors_no_space
            + self.errors_out_of_range
            + self.errors_flush
            + self.errors_remember
            + self.errors_lost;
        let done = self.reads + self.writes + self.flushes + self.others + self.replayed;
        done + failed + self.fenced + self.refused
    }

    pub(crate) fn moved(&mut self, what: Moved, bytes: u64) {
        match what {
            Moved::Read => {
                self.reads += 1;
                self.read_bytes += bytes;
            }
            Moved::Write => {
                self.writes += 1;
                self.written_bytes += bytes;
            }
            Moved::Flush => self.flushes += 1,
        }
    }

    pub(crate) fn has_moved(&self) -> bool {
        self.reads + self.writes > 0
    }

    pub(crate) fn add(&mut self, other: &ExportStats) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.others += other.others;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.replayed += other.replayed;
        self.sessions_opened += other.sessions_opened;
        self.errors_medium += other.errors_medium;
        self.errors_no_space += other.errors_no_space;
        self.errors_out_of_range += other.errors_out_of_range;
        self.errors_flush += other.errors_flush;
        self.errors_remember += other.errors_remember;
        self.errors_lost += other.errors_lost;
        self.fenced += other.fenced;
        self.refused += other.refused;
        self.foreign_answers += other.foreign_answers;
        self.dropped_queue_full += other.dropped_queue_full;
        self.dropped_malformed += other.dropped_malformed;
        self.dropped_denied += other.dropped_denied;
        self.dropped_repeated += other.dropped_repeated;
        self.dropped_session_limit += other.dropped_session_limit;
    }

    pub(crate) fn dropped(&mut self, why: DropReason) {
        let counter = match why {
            DropReason::QueueFull => &mut self.dropped_queue_full,
            DropReason::Malformed => &mut self.dropped_malformed,
            DropReason::Denied => &mut self.dropped_denied,
            DropReason::Repeated => &mut self.dropped_repeated,
            DropReason::SessionLimit => &mut self.dropped_session_limit,
        };
        *counter += 1;
    }

    pub(crate) fn failed(&mut self, error: IoError) {
        let counter = match error {
            IoError::Medium(_) => &mut self.errors_medium,
            IoError::NoSpace(_) => &mut self.errors_no_space,
            IoError::OutOfRange(_) => &mut self.errors_out_of_range,
            IoError::FlushFailed => &mut self.errors_flush,
            IoError::Lost | IoError::Restarted { .. } => &mut self.errors_lost,
            IoError::Fenced { .. } => &mut self.fenced,
            IoError::ReadOnly | IoError::Refused(_) | IoError::Unsupported => &mut self.refused,
        };
        *counter += 1;
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
