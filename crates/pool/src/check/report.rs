//! What a check says: plain values, serialisable; bytes are integers, states are kebab-case.

use serde::{Deserialize, Serialize};

/// What is on the disks that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The pools that they belong to.
    pub pools: Vec<PoolCheck>,
    /// What was found on disks of which no pool can be told.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// All findings, of pools and of disks without one.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.pools.iter().flat_map(|pool| &pool.findings).chain(&self.findings)
    }

    /// Whether nothing was found but notes.
    pub fn is_well(&self) -> bool {
        let counts = self.pools.iter().all(|pool| pool.counts.damage + pool.counts.redundancy == 0);
        counts && self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing: what an interrupted write leaves, or what the pool settles by itself.
    Note,
    /// Fewer sound copies than there should be; nothing is lost.
    Redundancy,
    /// No sound copy is on the disks that were given, or the structures contradict each other.
    Damage,
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A disk carries no label, or none that counts.
    Label,
    /// One of a label's four slots.
    LabelSlot,
    /// A label that doesn't go with the other labels or the metadata.
    LabelDiffers,
    /// Two of the disks given are the same member.
    Twin,
    /// A member wasn't given.
    DiskMissing,
    /// A member that the configuration has evicted.
    DiskOut,
    /// A member with older contents than it had applied.
    RolledBack,
    /// One of an applied block's two slots.
    AppliedSlot,
    /// One of a vote's two slots.
    VoteSlot,
    /// A voter without a sound vote.
    VoteLost,
    /// A vote that is older than the newest.
    VoteOlder,
    /// Votes that contradict each other, or no majority that agrees.
    Votes,
    /// One of an area's two checkpoints.
    Checkpoint,
    /// A copy of the metadata that can't be used.
    MetadataLost,
    /// A copy of the metadata that lacks what another has.
    MetadataOlder,
    /// An entry of a metadata log that is damaged, with entries behind it.
    MetadataGap,
    /// Metadata whose bytes are sound and whose contents contradict themselves.
    MetadataContradiction,
    /// Copies of the metadata with different histories.
    MetadataHistories,
    /// An extent with two owners.
    ExtentTwice,
    /// An extent that nobody owns and that isn't free.
    ExtentLost,
    /// An extent beyond the end of its disk.
    ExtentOutside,
    /// Copies in one failure domain.
    Domain,
    /// The header of a log segment's copy.
    SegmentHeader,
    /// A log segment with fewer copies than there should be.
    SegmentCopy,
    /// A log segment that was given up before it held anything, and is still there.
    SegmentUnused,
    /// A record that a copy of a log segment lacks.
    LogRecord,
    /// Records that no copy has, with others behind them.
    LogGap,
    /// What the last, perhaps interrupted write to a log left.
    LogTail,
    /// Copies of a log with different records under one number.
    LogHistories,
    /// One of a checksum block's two slots.
    ChecksumSlot,
    /// A checksum block that is older than another holder's.
    ChecksumOlder,
    /// A checksum block of which no holder can show the newest.
    ChecksumLost,
    /// Holders with different contents of a checksum block under one sequence.
    ChecksumHistories,
    /// Rows that some of their members lack, by what the metadata knows.
    Dirty,
    /// Rows that don't match their checksum.
    Row,
    /// A disk that a process of this machine uses at this moment.
    InUse,
    /// More of one kind were found than are listed.
    More,
}

/// Something that isn't as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing.
    pub kind: Kind,
    /// What was found.
    pub what: String,
    /// What that means.
    pub means: String,
    /// The disk, as it was given or as the pool knows it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk: Option<String>,
    /// Where on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk_offset_bytes: Option<u64>,
    /// How many bytes of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// The volume.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub volume: Option<String>,
    /// Where in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub volume_offset_bytes: Option<u64>,
}

/// How many of each severity; those that aren't listed count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Nothing sound is left of something, or a contradiction.
    pub damage: u64,
    /// Less redundancy than there should be.
    pub redundancy: u64,
    /// Worth knowing.
    pub notes: u64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCheck {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Who owns it, by the newest configuration.
    pub owner: Option<String>,
    /// Whether that owner gave it up in order. If not, interrupted writes are to be expected.
    pub released: bool,
    /// Whether every written row was read.
    pub data_read: bool,
    /// Its disks.
    pub disks: Vec<DiskCheck>,
    /// Its votes.
    pub votes: VotesCheck,
    /// Its metadata, a copy for each voter.
    pub metadata: Vec<MetadataCheck>,
    /// Its volumes.
    pub volumes: Vec<VolumeCheck>,
    /// How many findings of each severity.
    pub counts: Counts,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// A member disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCheck {
    /// As it was given.
    pub name: Option<String>,
    /// Its number in the pool; `None` while the metadata doesn't name it.
    pub number: Option<u32>,
    /// Its id.
    pub id: String,
    /// The machine that it was last known on.
    pub node: String,
    /// Whether the configuration has evicted it.
    pub out: bool,
    /// Whether its contents are older than what it had applied, or otherwise not what the metadata
    /// means: nothing on it counts.
    pub distrusted: bool,
    /// Extents that groups and log segments own.
    pub owned_extents: u32,
    /// Extents that are free.
    pub free_extents: u32,
    /// Extents that have lost their owner and aren't free yet.
    pub pending_extents: u32,
    /// Regions (64ths of an extent) that it is known to lack.
    pub dirty_regions: u64,
}

/// The votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotesCheck {
    /// Voters of the pool.
    pub total: u32,
    /// Voters with a sound vote among the disks given.
    pub sound: u32,
    /// Voters that have the newest configuration.
    pub newest: u32,
    /// How many make a majority.
    pub majority: u32,
    /// Epoch of the newest configuration.
    pub epoch: Option<u64>,
    /// Its number.
    pub configuration: Option<u64>,
}

/// Where a copy of the metadata stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// It has the newest record.
    Newest,
    /// It lacks records.
    Older,
    /// It can't be used.
    Lost,
    /// Its disk wasn't given.
    Missing,
}

/// A copy of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataCheck {
    /// Its disk.
    pub disk: String,
    /// Whether the newest configuration counts on it.
    pub current: bool,
    /// Where it stands.
    pub state: CopyState,
    /// Epoch of its newest checkpoint.
    pub epoch: Option<u64>,
    /// Sequence of its newest checkpoint.
    pub sequence: Option<u64>,
    /// Entries of the log behind that.
    pub entries: u64,
    /// The last record that it has.
    pub record: Option<u64>,
}

/// The least number of durable copies that anything of a volume has; `None` where there is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeastCopies {
    /// Of log records that are known to be acknowledged and aren't released.
    pub log_records: Option<u32>,
    /// Of the last batches of records, which may not have been acknowledged.
    pub log_tail: Option<u32>,
    /// Of written rows that aren't in the log: by what was read, or, when data isn't read, by what the
    /// metadata knows of the disks given.
    pub data: Option<u32>,
    /// Of checksum blocks, each in its newest state.
    pub checksum_blocks: Option<u32>,
    /// Of the metadata: current copies with the newest record.
    pub metadata: u32,
    /// Votes that have the newest configuration.
    pub votes: u32,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCheck {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Its layout: what all of it has.
    pub layout: String,
    /// The layout that it is to have, while that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converting_to: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// How many copies of data, log and checksums there should be.
    pub copies: u32,
    /// How many there are at least.
    pub least: LeastCopies,
    /// The last record that is in place.
    pub released: u64,
    /// Live segments of its log.
    pub segments: Vec<SegmentCheck>,
    /// Its groups.
    pub groups: u64,
    /// Groups whose checksum blocks were written.
    pub initialised_groups: u64,
    /// Checksum blocks that were looked at.
    pub checksum_blocks: u64,
    /// Rows that have a checksum.
    pub rows_written: u64,
    /// Rows whose contents are in the log.
    pub rows_in_log: u64,
    /// Rows that were read, counted once for each copy.
    pub row_copies_read: u64,
    /// Those among them that don't match their checksum.
    pub row_copies_bad: u64,
}

/// A live log segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCheck {
    /// Its number.
    pub number: u64,
    /// The epoch of its records.
    pub epoch: u64,
    /// Whether it takes records.
    pub open: bool,
    /// Its first record.
    pub first_record: u64,
    /// The last one that was found.
    pub last_record: Option<u64>,
    /// Records that were found, in any copy.
    pub records: u64,
    /// Those among them that aren't released.
    pub unreleased: u64,
    /// How many durable copies each unreleased record has: index n counts the records with n copies.
    pub records_by_copies: Vec<u64>,
    /// Its copies.
    pub copies: Vec<SegmentCopyCheck>,
    /// Missing numbers with records behind them, first and last.
    pub gaps: Vec<(u64, u64)>,
}

/// A copy of a log segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCopyCheck {
    /// Its disk.
    pub disk: String,
    /// Where it begins there.
    pub disk_offset_bytes: u64,
    /// Whether it counts: it is on a disk that isn't out.
    pub current: bool,
    /// Whether it could be read.
    pub given: bool,
    /// Whether its header block is sound.
    pub header_sound: bool,
    /// Records that it holds soundly.
    pub records: u64,
}
