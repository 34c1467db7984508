//! The changes that metadata can undergo. Several make one transaction, committed as one log entry.

use uuid::Uuid;

use super::{
    Conversion, DirtyRegions, ExtentRange, GroupRun, Job, Layout, Member, RunKey, Segment,
    SegmentState,
};
use crate::format::{
    DiskId, DiskNumber, GenerationId, JobNumber, RecordNumber, ReleaseNumber, SegmentNumber,
    VolumeId,
};

/// The versions of a group's checksum blocks that count from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootChange {
    /// The group.
    pub group: GenerationId,
    /// Its root.
    pub root: u64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaRecord {
    /// A disk joins, all of it free but for its metadata area.
    DiskAdded {
        /// Its number: the next one.
        number: DiskNumber,
        /// Its identity.
        id: DiskId,
        /// Its machine.
        node: Uuid,
        /// Its machine's name.
        node_name: String,
        /// Its labelled size.
        bytes: u64,
        /// Its metadata area, if it has one.
        area: Option<ExtentRange>,
    },
    /// A disk that has nothing of the pool belongs to it no more. Its number isn't given again.
    DiskRemoved {
        /// Its number.
        number: DiskNumber,
    },
    /// A disk is to get a metadata area, or another one: the extents are the metadata's from now on.
    AreaBegun {
        /// Which disk.
        disk: DiskNumber,
        /// Which extents.
        extents: ExtentRange,
    },
    /// A disk's label names the area that was begun: the former one is given up.
    AreaSwitched {
        /// Which disk.
        disk: DiskNumber,
    },
    /// No label names the area that was begun, nor will: it is given up.
    AreaCancelled {
        /// Which disk.
        disk: DiskNumber,
    },
    /// A disk was seen on another machine, or its machine has another name.
    DiskMoved {
        /// Which.
        number: DiskNumber,
        /// Its machine.
        node: Uuid,
        /// Its machine's name.
        node_name: String,
    },
    /// A volume comes into being, without size or groups.
    VolumeCreated {
        /// Its number: the next one.
        id: VolumeId,
        /// Its name.
        name: String,
        /// How its data is kept.
        layout: Layout,
        /// Groups in a set.
        width: u16,
    },
    /// A volume's size changes; its groups must cover the new one.
    VolumeResized {
        /// Which.
        id: VolumeId,
        /// Its size.
        bytes: u64,
    },
    /// A volume ends earlier: the groups beyond its new size, and what is known of them, are given up. They
    /// become pending frees.
    VolumeReduced {
        /// Which.
        id: VolumeId,
        /// Its size: no larger than before.
        bytes: u64,
    },
    /// A volume has another name, which no other has.
    VolumeRenamed {
        /// Which.
        id: VolumeId,
        /// Its name.
        name: String,
    },
    /// A volume is to have another layout, or again the one that it has: from now on runs get positions, or lose
    /// them, until they have as many.
    LayoutChanging {
        /// Which.
        id: VolumeId,
        /// To what, and as which job.
        to: Conversion,
    },
    /// All of a volume has the layout that it was to have.
    LayoutChanged {
        /// Which.
        id: VolumeId,
    },
    /// A volume ends: its groups and segments become pending frees.
    VolumeRemoved {
        /// Which.
        id: VolumeId,
    },
    /// A property is set, or taken away.
    PropertySet {
        /// Whose.
        id: VolumeId,
        /// Which.
        key: String,
        /// Its value.
        value: Option<String>,
    },
    /// Groups are added to a volume's map; they take their extents.
    RunAdded {
        /// Whose.
        volume: VolumeId,
        /// The groups. Generations are new, none has a root.
        run: GroupRun,
    },
    /// The checksum blocks of a run's groups, from the first on, are durable.
    RunInitialised {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
        /// How many of its groups now; never fewer than before.
        count: u32,
    },
    /// A run becomes two; all that is known of its groups stays.
    RunSplit {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
        /// How many of its groups stay in it: some, not all.
        count: u32,
    },
    /// A position of a run is to be on another disk, or a further one is, where its volume is to have more copies.
    /// The disk takes its extents and lacks everything.
    MoveBegun {
        /// Whose.
        volume: VolumeId,
        /// Which run: one without a move.
        key: RunKey,
        /// Which of its positions.
        position: u8,
        /// Where it is to be.
        to: Member,
    },
    /// The disk that a position moves to lacks nothing: it is the position now, and what it was on before is
    /// pending.
    MoveSwitched {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
    },
    /// A position stays where it is; what it was to move to is pending.
    MoveCancelled {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
    },
    /// A run has a position less: its volume is to have fewer copies, and the other positions lack nothing. What it
    /// was on is pending.
    PositionDropped {
        /// Whose.
        volume: VolumeId,
        /// Which run: one without a move.
        key: RunKey,
        /// Which of its positions. Those behind it move up.
        position: u8,
    },
    /// A job is begun, or told anew.
    JobSet {
        /// Its number.
        number: JobNumber,
        /// What it does.
        job: Job,
    },
    /// A job is over.
    JobRemoved {
        /// Its number.
        number: JobNumber,
    },
    /// A property of the pool is set, or taken away.
    PoolPropertySet {
        /// Which.
        key: String,
        /// Its value.
        value: Option<String>,
    },
    /// A log gets a segment; its copies take their extents.
    SegmentOpened {
        /// Whose log.
        volume: VolumeId,
        /// The segment. Its generation is new.
        segment: Segment,
    },
    /// More of a segment may be written: this is its high-water mark from now on. Without one all of it may be, so its
    /// first mark is in the commit that opens it.
    SegmentHighWater {
        /// The volume.
        volume: VolumeId,
        /// The segment.
        number: SegmentNumber,
        /// Blocks of a copy, header included.
        blocks: u32,
    },
    /// A segment takes no more records.
    SegmentEnded {
        /// Whose log.
        volume: VolumeId,
        /// Which.
        number: SegmentNumber,
        /// Closed or bounded.
        state: SegmentState,
    },
    /// A segment whose records are all released, or all in an older one too, ends; its extents are free.
    SegmentFreed {
        /// Whose log.
        volume: VolumeId,
        /// Which.
        number: SegmentNumber,
    },
    /// A copy of a segment is not current any more; its extents are free. Never the last one.
    SegmentCopyDropped {
        /// Whose log.
        volume: VolumeId,
        /// Which.
        number: SegmentNumber,
        /// The copy's disk.
        disk: DiskNumber,
    },
    /// These regions are out of date on disks from now on.
    RegionsDirtied(DirtyRegions),
    /// Disks have resynced with these regions.
    RegionsCleaned(DirtyRegions),
    /// Disks wrote a release number into their applied blocks, durably, with what the other records of
    /// this transaction credit to them.
    Applied {
        /// The next number, or higher.
        release: ReleaseNumber,
        /// The disks.
        disks: Vec<DiskNumber>,
    },
    /// A destage is done: everything up to `log` is in place, on `touched` disks recorded as applied under
    /// `release`, elsewhere marked dirty.
    Released {
        /// Whose log.
        volume: VolumeId,
        /// The last record that is in place.
        log: RecordNumber,
        /// The release's number: the next one, or higher.
        release: ReleaseNumber,
        /// The disks that wrote it into their applied blocks.
        touched: Vec<DiskNumber>,
        /// What wasn't reached.
        dirty_regions: DirtyRegions,
        /// The roots of the groups whose checksum blocks it changed.
        roots: Vec<RootChange>,
    },
    /// Extents that were pending are free.
    PendingFreed {
        /// On which disk.
        disk: DiskNumber,
        /// Which.
        extents: ExtentRange,
    },
    /// The pool gets another name.
    PoolRenamed {
        /// Its name.
        name: String,
    },
    /// Checkpoints only: what a disk's history left behind.
    DiskRestored {
        /// Which.
        number: DiskNumber,
        /// What its applied block must hold at least.
        expected_release: ReleaseNumber,
        /// Its pending extents.
        pending: Vec<ExtentRange>,
    },
    /// Checkpoints only: what a log's history left behind.
    LogRestored {
        /// Whose.
        volume: VolumeId,
        /// The next segment's number.
        next_segment: SegmentNumber,
        /// The last released record.
        released: RecordNumber,
    },
    /// Checkpoints only: where a position of a run moves to. What that disk lacks is told for itself.
    MoveRestored {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
        /// Which of its positions.
        position: u8,
        /// Where it is to be.
        to: Member,
    },
    /// Checkpoints only: roots of a run's groups, behind those that it has.
    RootsRestored {
        /// Whose.
        volume: VolumeId,
        /// Which run.
        key: RunKey,
        /// The index of the first of the groups.
        first: u32,
        /// Their roots.
        roots: Vec<u64>,
    },
}
