//! What the engine tells about disks, pools and volumes: for status, logs and notification. Plain
//! values, serialisable; bytes are integers, states are kebab-case: each is a word called `state`, and why it is so
//! stands beside it as `why`.

mod event;
mod properties;

use std::collections::BTreeMap;

use block::DriveHealth;
use schemars::JsonSchema;
use seal::{Grant, PoolKey, PublicKey};
use serde::{Deserialize, Serialize};

use crate::error::PoolError;
use crate::metadata::{LabelKind, Labels, Layout};
use crate::spare::Spare;

pub use event::PoolEvent;

/// A device that is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskReport {
    /// The name it is addressed by (`e1.0`).
    pub name: String,
    /// The machine that exports it.
    pub node: String,
    /// Its path on that machine.
    pub device_name: String,
    /// Its drive's serial number, if its machine tells it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// When it was last there, if it is gone: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_secs: Option<u64>,
    /// How its drive is, as far as its machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<DriveHealth>,
    /// Size as the device tells it.
    pub size_bytes: u64,
    /// What is on it: `blank`, `etherpool`, or what was recognised.
    pub content: String,
    /// The pool whose label it carries.
    pub pool: Option<String>,
    /// The pool's owner as far as it can be told.
    pub owner: Option<String>,
    /// What it is good for.
    #[serde(flatten)]
    pub state: DiskState,
    /// Its labels, as a disk of an open pool: what it shares with others.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Where a disk stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DiskState {
    /// Carries nothing; free to be used.
    Free,
    /// Carries something that isn't etherpool's.
    InUse,
    /// A member of a pool present that isn't open here.
    Seen,
    /// A member that takes part in everything.
    Usable,
    /// A member that the pool does without; it is resynced once it is back.
    Out,
    /// A member that the pool does without because somebody wanted that, present or not, until somebody wants it
    /// back.
    Offline,
    /// A member that is known and not present.
    Missing,
    /// Of a pool that is no more; free once it is wiped.
    Destroyed,
    /// A member that came back with older contents than it had applied: resynced in everything.
    RolledBack,
    /// Not used.
    Refused {
        /// What is wrong and what to do.
        why: String,
    },
}

/// The state of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PoolState {
    /// Everything is there.
    Online,
    /// Serving with less redundancy than its layouts ask for.
    Degraded,
    /// Requests wait.
    Suspended {
        /// For what.
        why: String,
    },
    /// Owned by another supervisor; opened only by import.
    Foreign,
    /// Taken over by another supervisor while open here; closed.
    Fenced,
    /// Too little of it is present to open it.
    Incomplete {
        /// What is missing and what to do.
        why: String,
    },
    /// Being opened.
    Opening,
    /// Owned by nobody; opened by import.
    Released,
    /// No more: its disks that are present are to be wiped yet.
    Destroyed,
}

/// A pool and all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolReport {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Its state.
    #[serde(flatten)]
    pub state: PoolState,
    /// Whether it was imported read-only: nothing that happens to it here reaches its disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether it is to be open here, as it was made or imported by this supervisor.
    #[serde(default = "is_ours_by_default")]
    pub ours: bool,
    /// Its owner.
    pub owner: String,
    /// The epoch under which it is owned.
    pub epoch: u64,
    /// How old that is, where it couldn't be looked at lately: the owner may be another by now.
    pub stale_secs: Option<u64>,
    /// Space of its disks for extents.
    pub capacity_bytes: u64,
    /// Of that, what volumes can have now: not allocated, on disks that take part and aren't to be emptied.
    pub free_bytes: u64,
    /// How many more failures of nodes (or disks, by the pool's failure domain) all volumes and the
    /// votes survive now.
    pub survives: u32,
    /// Its disks.
    pub disks: Vec<PoolDisk>,
    /// Its votes.
    pub votes: VotesReport,
    /// Whether the lease runs.
    pub lease_ok: bool,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
    /// Its jobs.
    pub jobs: Vec<JobReport>,
    /// The scrub that is under way, or the last one; none of a pool that isn't open here.
    pub scrub: Option<ScrubReport>,
    /// The space that it keeps free for a loss, if it keeps any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<SpareReport>,
    /// By which its configurations are signed here; none where nobody demands keys, or it isn't open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
}

/// What a pool keeps free for a loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpareReport {
    /// Of what: `disk`, `node`, or so many bytes.
    pub keeps: Spare,
    /// Of the free space, what volumes don't get because of it.
    pub kept_bytes: u64,
    /// What volumes can have besides, all copies counted.
    #[serde(default)]
    pub left_bytes: u64,
    /// So many bytes might find no place after the loss that fits least; 0 where it is held.
    pub lacks_bytes: u64,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

impl SpareReport {
    /// Whether after each loss everything finds a place.
    pub fn is_held(&self) -> bool {
        self.lacks_bytes == 0
    }
}

impl PoolDisk {
    /// Where it is or was, for whoever looks for it: its path and machine, and its drive's serial number.
    pub fn whereabouts(&self) -> String {
        whereabouts(&self.device_name, &self.node, &self.serial)
    }
}

/// What is known of a path on a machine and the serial number of the drive there, for people.
pub(crate) fn whereabouts(device_name: &str, node: &str, serial: &str) -> String {
    let at = match (device_name, node) {
        ("", "") => None,
        ("", node) => Some(format!("on {node}")),
        (device_name, node) => Some(format!("{device_name} on {node}")),
    };
    let serial = (!serial.is_empty()).then(|| format!("serial {serial}"));
    at.into_iter().chain(serial).collect::<Vec<_>>().join(", ")
}

impl PoolReport {
    /// What is free; of a pool with a spare what volumes can have of that.
    pub fn free_beside_spare_bytes(&self) -> u64 {
        self.spare.as_ref().map_or(self.free_bytes, |spare| spare.left_bytes)
    }

    /// Whether it is this supervisor's. Pools of others, and those that were released, are present, not
    /// in trouble.
    pub fn is_ours(&self) -> bool {
        match self.state {
            PoolState::Foreign | PoolState::Released | PoolState::Destroyed => false,
            PoolState::Incomplete { .. } => self.ours,
            _ => true,
        }
    }

    /// Its state in words.
    pub fn state_text(&self) -> String {
        match self.state {
            PoolState::Foreign => format!("owned by {} (epoch {})", self.owner, self.epoch),
            _ => self.state.to_string(),
        }
    }

    /// Whether it is as it should be.
    pub fn is_healthy(&self) -> bool {
        self.state == PoolState::Online
            && self.volumes.iter().all(|volume| volume.suspended().is_none())
    }
}

/// A pool's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolDisk {
    /// The name under which it is or was present.
    pub name: String,
    /// Its identity in the pool.
    pub id: String,
    /// Its machine.
    pub node: String,
    /// The key of its machine, as far as it is known: none where machines don't prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_key: Option<PublicKey>,
    /// Its path on that machine, as far as it is known.
    pub device_name: String,
    /// Its drive's serial number, as far as it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// When it took part last, if it doesn't now and that is known: seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_secs: Option<u64>,
    /// How its drive is, as far as its machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<DriveHealth>,
    /// The size in its label.
    pub size_bytes: u64,
    /// Space not allocated.
    pub free_bytes: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub state: DiskState,
    /// What it still has to resync.
    pub dirty_bytes: u64,
    /// Blocks that didn't match their checksum, since the pool was opened here.
    pub checksum_errors: u64,
    /// Whether it holds a vote.
    pub holds_vote: bool,
    /// Whether it is a witness: it may vote, and has no data.
    pub is_witness: bool,
    /// Why what it had isn't rebuilt on others, though it is gone for long enough.
    pub rebuild_waits: Option<String>,
    /// That somebody wants it to take no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<OfflineReport>,
    /// Its labels: what it shares with other disks.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// A disk that another machine has than had it last, as it is shown to whoever accepts that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MovedDisk {
    /// Its identity in the pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Its name where it is now.
    pub disk: String,
    /// Its path there.
    pub device_name: String,
    /// Its drive's serial number, as far as it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// The machine that had it; empty where none is known.
    pub from: String,
    /// The key of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_key: Option<PublicKey>,
    /// What the machine calls itself that has it now.
    pub to: String,
    /// The key of that.
    pub to_key: PublicKey,
}

/// That a disk is to take no part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OfflineReport {
    /// Since when: seconds since 1970, by the clock of who owned the pool; 0 where that can't be read.
    pub since_secs: u64,
    /// Why it still takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl VolumeReport {
    /// Copies that its layout promises. Of one that is to have fewer nobody expects more.
    pub fn promised_copies(&self) -> u32 {
        let copies = |layout: &String| layout.parse::<Layout>().ok().map(|layout| layout.copies());
        let layouts = [Some(&self.layout), self.converting_to.as_ref()];
        layouts.into_iter().flatten().filter_map(copies).min().map_or(0, u32::from)
    }
}

/// Long work on a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobReport {
    /// Its number.
    pub number: u32,
    /// `rebuild`, `evacuate`, `replace`, `remove`, `rebalance`, `convert` or `scrub`.
    pub kind: String,
    /// The disk that is emptied; empty where it is of none or all.
    pub disk: String,
    /// The volume whose layout changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The disk that takes its place, where one was named; or the layout that the volume is to have.
    pub to: Option<String>,
    /// Bytes that it was to move, to copy, to give up or to read, when it began.
    pub total_bytes: u64,
    /// Of these, those that it hasn't yet.
    pub left_bytes: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub state: JobState,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum JobState {
    /// It moves or reads something.
    Running,
    /// It can't go on.
    Waiting {
        /// For what.
        why: String,
    },
    /// The disk is empty, and stays so until the job is cancelled. (A rebuild that is done is no job any more.)
    Done,
    /// It is of a later version of the program.
    Unknown,
}

/// What a scrub found, so far or in all. Times are in seconds since 1970, by the clocks of those who owned the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScrubReport {
    /// When it began; none if there was none yet.
    pub begun_secs: Option<u64>,
    /// When it was done; none of one that is under way or was cancelled.
    pub ended_secs: Option<u64>,
    /// When the next one begins by itself, if it does.
    pub next_secs: Option<u64>,
    /// Blocks that were read and compared, over all copies.
    pub blocks: u64,
    /// Blocks that didn't match or couldn't be read, and labels and votes that stay damaged.
    pub bad_blocks: u64,
    /// Of the bad ones, those that are right again.
    pub repaired_blocks: u64,
    /// Blocks, labels and votes that weren't compared: their disk or volume was away, or they were behind or just
    /// being written.
    pub unread_blocks: u64,
}

/// How the votes stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VotesReport {
    /// Votes of the pool.
    pub total: u32,
    /// Of these, in reach.
    pub present: u32,
    /// A witness would let one more failure domain be lost, as far as that is known.
    #[serde(default)]
    pub lacks_witness: bool,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeReport {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Its layout (`raid0`, `mirror:2`): what all of it has.
    pub layout: String,
    /// The layout that it is to have, while that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converting_to: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// What services remember of it: mounts, exports.
    #[serde(with = "properties")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub properties: BTreeMap<String, String>,
    /// Whether its requests are answered.
    #[serde(flatten)]
    pub state: VolumeState,
    /// Whether it has less redundancy than its layout asks for.
    pub degraded: bool,
    /// Bytes that some copy still has to resync.
    pub dirty_bytes: u64,
    /// Bytes that clients read, since the pool was opened here.
    pub read_bytes: u64,
    /// Bytes that clients wrote (and were answered), since the pool was opened here.
    pub written_bytes: u64,
    /// Bytes copied in resync, since the pool was opened here.
    pub resynced_bytes: u64,
    /// Blocks repaired, since the pool was opened here.
    pub repaired_blocks: u64,
    /// Bytes in its log that aren't in place yet.
    pub log_bytes: u64,
    /// Bytes that its log has room for.
    #[serde(default)]
    pub log_capacity_bytes: u64,
    /// How many more disks may fail before it loses something.
    #[serde(default)]
    pub survives_disks: u32,
    /// How many more machines may.
    #[serde(default)]
    pub survives_nodes: u32,
    /// The same of what labels tell, by their kind: so many racks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub survives_labels: BTreeMap<LabelKind, u32>,
    /// Groups that have two copies in one failure domain, since a disk moved or labels changed; a rebalance moves them
    /// apart.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_groups: u64,
    /// What the last opening found in the log.
    pub replayed: Replayed,
    /// While it is opened, and doesn't wait for a disk: how much of its log is read. What isn't in place of that follows
    /// (`log_bytes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaying: Option<Progress>,
}

/// The state of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum VolumeState {
    /// Everything is there.
    Online,
    /// Serving with less redundancy than its layout asks for.
    Degraded,
    /// Requests wait.
    Suspended {
        /// For what.
        why: String,
    },
    /// In a pool that was imported read-only: something of it can't be read, and fails where others would wait.
    Incomplete {
        /// What is missing.
        why: String,
    },
}

impl VolumeReport {
    /// Why its requests wait, when they do.
    pub fn suspended(&self) -> Option<&str> {
        match &self.state {
            VolumeState::Suspended { why } => Some(why),
            _ => None,
        }
    }

    /// Why not all of it can be read.
    pub fn unserved(&self) -> Option<&str> {
        match &self.state {
            VolumeState::Suspended { why } | VolumeState::Incomplete { why } => Some(why),
            VolumeState::Online | VolumeState::Degraded => None,
        }
    }
}

/// What an opening replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replayed {
    /// Log records adopted.
    pub records: u64,
    /// Blocks that they named.
    pub blocks: u64,
}

/// Whom the disks of a pool obey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolGrant {
    /// The newest grant of its key.
    pub grant: Grant,
    /// Disks that haven't heard of it: these obey those whom a former one names, until they do.
    pub unheard: Vec<String>,
}

/// Whose a pool is that may be imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportPlan {
    /// The pool.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The name of the machine whose supervisor owns it; none if nobody does.
    pub owner: Option<String>,
    /// The owner's identity.
    pub owner_id: Option<String>,
    /// Whether that is this supervisor itself.
    pub is_ours: bool,
    /// Milliseconds since a disk's machine last heard the owner; none if none of them did since it
    /// was started.
    pub heard_ms: Option<u64>,
    /// Why it isn't imported without force: its owner was heard within its lease and didn't release it.
    pub refusal: Option<PoolError>,
    /// Why it can be imported read-only alone: there is no majority of its votes, or no current copy of its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_quorum: Option<PoolError>,
    /// Its disks present.
    pub disks: Vec<String>,
    /// Its key, by which its newest configuration is signed; none if it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PoolKey>,
    /// Its vote disks present, and in all.
    pub votes: VotesReport,
}

/// How far a long operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyReport {
    /// Blocks read and compared with their checksum, over all copies asked for.
    pub blocks: u64,
    /// Blocks that were never written; they read as zeros without a copy.
    pub unwritten: u64,
    /// Blocks that a copy is known to have missed and was not asked for, whose disk isn't there, or that were
    /// being written over until a moment ago. (What isn't in place yet counts nowhere.)
    pub dirty: u64,
    /// Blocks that didn't match or couldn't be read.
    pub bad: Vec<BadBlock>,
    /// Bad blocks beyond those listed.
    pub more_bad: u64,
    /// Of all bad ones, those that are right again, written anew from another copy.
    #[serde(default)]
    pub repaired: u64,
    /// Of all bad ones, those that are known to be lost: no copy has them, whichever is asked.
    #[serde(default)]
    pub lost: u64,
}

/// A block that failed verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadBlock {
    /// Byte offset in the volume.
    pub volume_offset_bytes: u64,
    /// The disk.
    pub disk: String,
    /// Byte offset on that disk.
    pub disk_offset_bytes: u64,
    /// Whether the disk couldn't read it, rather than having read something else.
    pub unreadable: bool,
}

/// A former supervisor doesn't say; it told of all that lacked something.
fn is_ours_by_default() -> bool {
    true
}
