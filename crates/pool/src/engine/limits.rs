//! Every limit of the engine, with its reason.

use std::time::Duration;

use super::lease::{LEASE, RENEW_EVERY};

/// So often what can't be read and nobody else has is read before it passes for lost: a drive that fails for
/// a moment reads it again.
pub(crate) const READ_TRIES: u32 = 8;
/// How often all copies of something are looked at, one look after the other, while they are wrong: what a
/// disk answers may be wrong now and right next time.
pub(crate) const LOOKS_MAX: u32 = 5;

/// MiB of log segments that are held at once while the volumes of a pool replay their logs: a segment has up to 128
/// MiB, each volume has a log, and each segment is read from all of its copies.
pub(super) const REPLAY_MIB_MAX: u64 = 256;
/// Memory for what is being copied from disk to disk, of all groups together.
pub(super) const COPIED_BYTES_MAX: u64 = 96 << 20;

/// Times and sizes. The defaults are what production uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A foreground write that takes longer than this evicts its disk. Longer than a busy hard
    /// disk ever takes for one write; short enough that people don't notice a dead machine.
    pub eviction: Duration,
    /// A read that takes longer than this is asked of another member too.
    pub hedge: Duration,
    /// A background write or flush that takes longer than this evicts its disk. Many are queued at
    /// once, so each may take longer than a foreground write.
    pub background: Duration,
    /// How long a waiting operation waits at most before it looks again: hints may be lost.
    pub retry: Duration,
    /// How long a disk that failed an operation has to show that it is back.
    pub probe: Duration,
    /// How long claiming and checking a disk may take: its server completes and flushes first.
    pub claim: Duration,
    /// How often a disk that should be taken in and doesn't answer is tried.
    pub rejoin: Duration,
    /// How often a disk that is in no open pool is looked at: others may have done something with it.
    pub look_at_closed: Duration,
    /// How often is asked how drives are.
    pub ask_health: Duration,
    /// How often what was written of the metadata is read back, and a copy of it that isn't current is
    /// written anew.
    pub metadata_check: Duration,
    /// So long after the last acknowledgement the log says that it was given. Short, because a record
    /// that rots before could pass for one that was being written; long enough that a busy log, whose
    /// next record says it too, writes none.
    pub mark: Duration,
    /// The metadata's log is followed by a checkpoint once it is so long, and half as long as a checkpoint.
    pub metadata_log_bytes: u64,
    /// A log that was idle for so long is destaged.
    pub destage_idle: Duration,
    /// A log that was idle for so long has no open segment: the next write waits for a new one.
    pub segment_idle: Duration,
    /// What is freed or discarded is discarded on the disks after so long.
    pub trim_after: Duration,
    /// How long a pool that could be opened waits for the disks that aren't present yet.
    pub grace: Duration,
    /// How long closing a pool waits for destaging and for the votes.
    pub close: Duration,
    /// A disk that is out for so long is rebuilt elsewhere: a machine that is restarted or repaired is back by
    /// then. The pool's property comes before it.
    pub rebuild_delay: Duration,
    /// What moves to another disk in parts does so in parts of so many bytes at least: arms would be on the way all the
    /// time, and the map of ever more runs, if they were shorter.
    pub part_bytes: u64,
    /// How long an administrator's command waits for the pool.
    pub administer: Duration,
    /// Memory for checksum blocks, of all volumes together: each takes 4 KiB and is for 4 MiB of a volume.
    pub checksum_bytes: usize,
    /// Memory for what pools that were imported read-only change for themselves: a checkpoint for each copy of their
    /// metadata, the ends of their logs. As much again for what mounts of their volumes write.
    pub private_bytes: u64,
    /// Whether large writes go in place. An opening decides what became of those that did all
    /// the same.
    pub in_place: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            eviction: Duration::from_millis(1500),
            hedge: Duration::from_millis(300),
            background: Duration::from_secs(6),
            retry: Duration::from_millis(200),
            probe: Duration::from_millis(200),
            claim: Duration::from_secs(10),
            rejoin: Duration::from_millis(500),
            look_at_closed: Duration::from_secs(5),
            ask_health: Duration::from_secs(20),
            metadata_check: Duration::from_secs(5),
            mark: Duration::from_millis(100),
            metadata_log_bytes: 8 << 20,
            destage_idle: Duration::from_secs(1),
            segment_idle: Duration::from_secs(30),
            trim_after: Duration::from_secs(5),
            grace: Duration::from_secs(2),
            close: Duration::from_secs(20),
            rebuild_delay: Duration::from_secs(600),
            part_bytes: 128 << 20,
            administer: Duration::from_secs(30),
            checksum_bytes: 16 << 20,
            private_bytes: 512 << 20,
            in_place: true,
        }
    }
}

/// Evicting a disk must be quicker than losing the lease to the wait for it.
const _: () = assert!(LEASE.as_millis() > RENEW_EVERY.as_millis() + 1500 + 200);
