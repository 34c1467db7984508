//! What happens to pools, as it is told to those who listen.

use block::HealthState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PoolState, Replayed, ScrubReport};

/// Something that a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PoolEvent {
    /// A pool's state changed.
    PoolState {
        /// The pool.
        pool: String,
        /// Its new state.
        #[serde(flatten)]
        state: PoolState,
    },
    /// A pool was opened.
    Owned {
        /// The pool.
        pool: String,
        /// By whom.
        owner: String,
        /// In which epoch.
        epoch: u64,
        /// Who owned it before; empty if nobody did.
        before: String,
    },
    /// Somebody had something changed.
    Command {
        /// The pool.
        pool: String,
        /// Who.
        who: String,
        /// What.
        what: String,
        /// `done`, or why it wasn't.
        result: String,
    },
    /// A disk was evicted: the pool goes on without it.
    DiskOut {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// What it did.
        why: String,
    },
    /// A disk takes part again.
    DiskIn {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// What it has to resync.
        dirty_bytes: u64,
    },
    /// A disk takes no part from now on because somebody wants that.
    DiskOffline {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
    },
    /// A disk that was offline is to take part again.
    DiskOnline {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
    },
    /// Other disks vote, and have the metadata.
    VotesMoved {
        /// The pool.
        pool: String,
        /// The disks that vote no more.
        from: Vec<String>,
        /// Those that vote instead.
        to: Vec<String>,
    },
    /// A disk is emptied from now on.
    JobBegun {
        /// The pool.
        pool: String,
        /// `rebuild`, `evacuate`, `replace`, `remove` or `rebalance`.
        kind: String,
        /// The disk; empty of a rebalance.
        disk: String,
    },
    /// A job has done what it was to do.
    JobDone {
        /// The pool.
        pool: String,
        /// `rebuild`, `evacuate`, `replace`, `remove` or `rebalance`.
        kind: String,
        /// The disk; empty of a rebalance.
        disk: String,
    },
    /// A volume gets another layout from now on.
    ConversionBegun {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// The layout.
        to: String,
    },
    /// All of a volume has the layout that it was to have.
    ConversionDone {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// The layout.
        to: String,
        /// It is the one that it had: the change was taken back.
        is_back: bool,
    },
    /// Everything is read and compared from now on, or from where that stopped.
    ScrubBegun {
        /// The pool.
        pool: String,
    },
    /// Everything was read and compared.
    ScrubDone {
        /// The pool.
        pool: String,
        /// What was found.
        report: ScrubReport,
    },
    /// A disk that is out isn't rebuilt.
    RebuildWaits {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A disk that was away has everything again.
    Resynced {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// Bytes that were copied to it.
        copied_bytes: u64,
    },
    /// A disk was found on another machine than before.
    DiskMoved {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// The machine that it was on.
        from: String,
        /// The machine that it is on.
        to: String,
    },
    /// A disk moved, or labels changed, and something has copies in one failure domain since.
    DomainsJoined {
        /// The pool.
        pool: String,
        /// What has.
        shared: String,
    },
    /// A drive says by what it counts that it is worse than before, or well again.
    DiskHealth {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// How it is.
        health: HealthState,
        /// Why it isn't good; empty if it is.
        reason: String,
    },
    /// A disk isn't used.
    DiskRefused {
        /// The pool, when the label tells it.
        pool: Option<String>,
        /// The disk.
        disk: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A disk came back with older contents than it had applied.
    RolledBack {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
    },
    /// A block that didn't match its checksum, or couldn't be read, was written anew from another
    /// copy.
    Repaired {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// The disk.
        disk: String,
        /// Byte offset on that disk.
        disk_offset_bytes: u64,
    },
    /// A label, checksum block or other structure was written anew from a good copy.
    StructureRepaired {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// What it was.
        what: String,
        /// Byte offset on that disk.
        disk_offset_bytes: u64,
    },
    /// A label or vote of a disk that is used isn't as it was written, and couldn't be written anew.
    StructureDamaged {
        /// The pool.
        pool: String,
        /// The disk.
        disk: String,
        /// What it is.
        what: String,
    },
    /// No copy of these bytes is right.
    Unrepairable {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// Byte offset in the volume.
        offset_bytes: u64,
        /// Length.
        length_bytes: u64,
        /// The disks that were tried.
        disks: Vec<String>,
    },
    /// A volume's requests wait.
    VolumeSuspended {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// For what.
        reason: String,
    },
    /// A volume serves.
    VolumeServing {
        /// The pool.
        pool: String,
        /// The volume.
        volume: String,
        /// What its log held.
        replayed: Replayed,
    },
}
