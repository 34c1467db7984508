//! What is counted, so that people see what happens to their exports.

use block::IoError;

/// Why a frame got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
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

/// Counters of an export, from its start on.
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

impl ExportStats {
    pub(super) fn dropped(&mut self, why: Drop) {
        let counter = match why {
            Drop::QueueFull => &mut self.dropped_queue_full,
            Drop::Malformed => &mut self.dropped_malformed,
            Drop::Denied => &mut self.dropped_denied,
            Drop::Repeated => &mut self.dropped_repeated,
            Drop::SessionLimit => &mut self.dropped_session_limit,
        };
        *counter += 1;
    }

    pub(super) fn failed(&mut self, error: IoError) {
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
