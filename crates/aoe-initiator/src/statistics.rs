//! What a disk's client counts, for `aoe stat`.

use std::time::Duration;

/// Counters since the disk was first seen, and present values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests sent for the first time.
    pub requests: u64,
    /// Requests sent again.
    pub retransmissions: u64,
    /// Of those, the ones that turned out to be in vain.
    pub spurious_retransmissions: u64,
    /// Replies to what was answered already, or to an earlier session.
    pub late_replies: u64,
    /// Replies whose checksum was wrong.
    pub checksum_errors: u64,
    /// Replies that contradict themselves or the request.
    pub malformed_replies: u64,
    /// Replies that the target didn't seal.
    pub forged_replies: u64,
    /// Openings after the first one.
    pub reopenings: u64,
    /// Times the disk was lost.
    pub losses: u64,
    /// Frames from a target with another identity at the same address.
    pub identity_conflicts: u64,
    /// Frames that may be on their way at present.
    pub window: u32,
    /// Usual round trip of a read.
    pub read_round_trip: Option<Duration>,
    /// Usual round trip of a write.
    pub write_round_trip: Option<Duration>,
}
