//! Applying records. Everything is validated before anything is changed, so a refused record leaves
//! the metadata as it was, and no sequence of records, however hostile, gives an extent to two owners,
//! reuses a number or leaves a region of a group without a member that has it.

mod conversions;
mod dirty_regions;
mod disks;
mod jobs;
mod logs;
mod moves;
mod volumes;

use std::collections::BTreeSet;

use super::labels::Domains;
use super::{Counters, Disk, ExtentRange, GroupRun, MetaRecord, Metadata, RunKey, Segment, Volume};
use crate::format::{
    DiskNumber, ExtentNumber, GenerationId, JobNumber, NAME_BYTES_MAX, ReleaseNumber,
    SegmentNumber, VolumeId,
};

/// Widest set of groups.
pub const WIDTH_MAX: u16 = 64;
/// More than an owner ever has under way.
const RELEASES_SKIPPED: u64 = 1024;
/// Most copies of a mirror.
pub const COPIES_MAX: u8 = 8;

/// Why a record doesn't fit the metadata that it is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// No such disk, or it is gone.
    #[error("{0} is unknown")]
    UnknownDisk(DiskNumber),
    /// No such volume.
    #[error("{0} is unknown")]
    UnknownVolume(VolumeId),
    /// No such run of groups.
    #[error("{0} has no run at lane {lane}, set {set}", lane = .1.lane, set = .1.first_set)]
    UnknownRun(VolumeId, RunKey),
    /// No group with this generation id.
    #[error("no group with {0}")]
    UnknownGroup(GenerationId),
    /// A group has no position on the disk.
    #[error("the group with {0} has no position on {1}")]
    UnknownPosition(GenerationId, DiskNumber),
    /// No such segment, or no copy there.
    #[error("{0} has no {1}, or no such copy of it")]
    UnknownSegment(VolumeId, SegmentNumber),
    /// A number that was given before, or isn't the next.
    #[error("a number was given twice or out of turn")]
    NumberReused,
    /// The name, key or value is too long, empty or taken.
    #[error("a name is taken, empty or too long")]
    BadName,
    /// The disk can't be laid out as told.
    #[error("{0} cannot have this layout")]
    BadGeometry(DiskNumber),
    /// A layout, width, run or segment of an impossible shape.
    #[error("impossible shape of a volume, run or segment")]
    BadShape,
    /// Extents that have an owner, or don't exist, would be given to another.
    #[error("{0} does not have these extents free")]
    NotFree(DiskNumber),
    /// Extents that aren't pending would be freed.
    #[error("{0} does not have these extents pending")]
    NotPending(DiskNumber),
    /// Groups overlap in the volume's map.
    #[error("{0} has groups there already")]
    Overlap(VolumeId),
    /// The size isn't covered by groups, or isn't whole blocks.
    #[error("the size of {0} is not covered by its groups")]
    NotCovered(VolumeId),
    /// A region would be right on no member.
    #[error("a region of the group with {0} would be right on no member")]
    NoRightMember(GenerationId),
    /// A run has a move already, or none.
    #[error("a position of that run moves already, or none does")]
    Moving(VolumeId, RunKey),
    /// A layout changes to what it can't, or isn't what it was to be.
    #[error("the layout of {0} can't change like that, or hasn't changed")]
    NotConverted(VolumeId),
    /// No such job, or the disk has another one.
    #[error("{0} is unknown, or its disk has another job")]
    UnknownJob(JobNumber),
    /// A counter or state would go backwards.
    #[error("a counter or state would go backwards")]
    Backwards,
    /// The last copy of a segment would go, or one with records that aren't released.
    #[error("{1} of {0} is still needed")]
    StillNeeded(VolumeId, SegmentNumber),
    /// A disk has something yet, or a job names it.
    #[error("{0} is still used")]
    StillUsed(DiskNumber),
}

impl Metadata {
    /// Applies one record, or changes nothing.
    pub fn apply(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        let changed = self.changed_by(record);
        self.change(record)?;
        self.changes.add(changed);
        if record.changes_domains() {
            self.domains = Domains::default();
        }
        Ok(())
    }

    fn change(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        match record {
            MetaRecord::DiskAdded { .. } => self.add_disk(record),
            MetaRecord::DiskMoved { number, node, node_name } => {
                self.move_disk(*number, *node, node_name)
            }
            MetaRecord::DiskRemoved { number } => self.remove_disk(*number),
            MetaRecord::AreaBegun { disk, extents } => self.begin_area(*disk, *extents),
            MetaRecord::AreaSwitched { disk } => self.end_area(*disk, true),
            MetaRecord::AreaCancelled { disk } => self.end_area(*disk, false),
            MetaRecord::VolumeCreated { id, name, layout, width } => {
                self.create_volume(*id, name, *layout, *width)
            }
            MetaRecord::VolumeResized { id, bytes } => self.resize_volume(*id, *bytes),
            MetaRecord::VolumeReduced { id, bytes } => self.reduce_volume(*id, *bytes),
            MetaRecord::VolumeRenamed { id, name } => self.rename_volume(*id, name),
            MetaRecord::LayoutChanging { id, to } => self.change_layout(*id, *to),
            MetaRecord::LayoutChanged { id } => self.layout_changed(*id),
            MetaRecord::VolumeRemoved { id } => self.remove_volume(*id),
            MetaRecord::PropertySet { id, key, value } => self.set_property(*id, key, value),
            MetaRecord::RunAdded { volume, run } => self.add_run(*volume, run),
            MetaRecord::RunInitialised { volume, key, count } => {
                self.initialise_run(*volume, *key, *count)
            }
            MetaRecord::RunSplit { volume, key, count } => self.split_run(*volume, *key, *count),
            MetaRecord::MoveBegun { volume, key, position, to } => {
                self.begin_move(*volume, *key, *position, *to)
            }
            MetaRecord::MoveSwitched { volume, key } => self.switch_move(*volume, *key),
            MetaRecord::MoveCancelled { volume, key } => self.cancel_move(*volume, *key),
            MetaRecord::PositionDropped { volume, key, position } => {
                self.drop_position(*volume, *key, *position)
            }
            MetaRecord::MoveRestored { volume, key, position, to } => {
                self.place_incoming(*volume, *key, *position, *to)
            }
            MetaRecord::JobSet { number, job } => self.set_job(*number, job),
            MetaRecord::JobRemoved { number } => self.remove_job(*number),
            MetaRecord::PoolPropertySet { key, value } => self.set_pool_property(key, value),
            MetaRecord::SegmentOpened { volume, segment } => self.open_segment(*volume, segment),
            MetaRecord::SegmentHighWater { volume, number, blocks } => {
                self.raise_high_water(*volume, *number, *blocks)
            }
            MetaRecord::SegmentEnded { volume, number, state } => {
                self.end_segment(*volume, *number, *state)
            }
            MetaRecord::SegmentFreed { volume, number } => self.free_segment(*volume, *number),
            MetaRecord::SegmentCopyDropped { volume, number, disk } => {
                self.drop_copy(*volume, *number, *disk)
            }
            MetaRecord::RegionsDirtied(dirty_regions) => self.mark_dirty(dirty_regions),
            MetaRecord::RegionsCleaned(dirty_regions) => self.mark_clean(dirty_regions),
            MetaRecord::Released { volume, log, release, touched, dirty_regions, roots } => {
                self.release(*volume, *log, *release, touched, (dirty_regions, roots))
            }
            MetaRecord::Applied { release, disks } => self.record_applied(*release, disks),
            MetaRecord::PendingFreed { disk, extents } => self.free_pending(*disk, *extents),
            MetaRecord::PoolRenamed { name } => self.rename_pool(name),
            MetaRecord::DiskRestored { number, expected_release, pending } => {
                self.restore_disk(*number, *expected_release, pending)
            }
            MetaRecord::LogRestored { volume, next_segment, released } => {
                self.restore_log(*volume, *next_segment, *released)
            }
            MetaRecord::RootsRestored { volume, key, first, roots } => {
                self.restore_roots(*volume, *key, *first, roots)
            }
        }
    }

    /// Applies records in turn. On an error the earlier ones stay applied, so this metadata mustn't
    /// be used any more: it is for records that were planned from this very metadata (an error is
    /// then a broken invariant) and for reading the log.
    pub fn apply_all(&mut self, records: &[MetaRecord]) -> Result<(), Inconsistent> {
        records.iter().try_for_each(|record| self.apply(record))
    }

    /// The metadata as it would be after these records; this one stays as it is.
    pub fn with(&self, records: &[MetaRecord]) -> Result<Metadata, Inconsistent> {
        let mut changed = self.clone();
        changed.apply_all(records)?;
        Ok(changed)
    }

    fn rename_pool(&mut self, name: &str) -> Result<(), Inconsistent> {
        check_name(name, false)?;
        self.pool.name = name.to_string();
        Ok(())
    }

    /// Sets the counters, none lower than they are.
    pub(super) fn set_counters(&mut self, counters: Counters) -> Result<(), Inconsistent> {
        let now = self.next;
        if counters.generation < now.generation
            || counters.volume < now.volume
            || counters.disk < now.disk
            || counters.release < now.release
        {
            return Err(Inconsistent::Backwards);
        }
        self.next = counters;
        Ok(())
    }

    /// Leaves out numbers that the former owner may have given to releases that were never committed:
    /// disks may have applied them, and would pass for having the releases that get them next.
    pub fn skip_releases(&mut self) {
        self.next.release = ReleaseNumber(self.next.release.0.saturating_add(RELEASES_SKIPPED));
    }

    fn disk_mut(&mut self, number: DiskNumber) -> Result<&mut Disk, Inconsistent> {
        self.disks.get_mut(&number).ok_or(Inconsistent::UnknownDisk(number))
    }

    fn volume_mut(&mut self, id: VolumeId) -> Result<&mut Volume, Inconsistent> {
        self.volumes.get_mut(&id).ok_or(Inconsistent::UnknownVolume(id))
    }

    fn segment_mut(
        &mut self,
        volume: VolumeId,
        number: SegmentNumber,
    ) -> Result<&mut Segment, Inconsistent> {
        let unknown = Inconsistent::UnknownSegment(volume, number);
        self.volume_mut(volume)?.log.segments.get_mut(&number).ok_or(unknown)
    }

    /// Takes extents of different disks, all or none.
    fn take(
        &mut self,
        places: impl Iterator<Item = (DiskNumber, ExtentNumber, u32)> + Clone,
    ) -> Result<(), Inconsistent> {
        let mut seen = BTreeSet::new();
        for (number, first, count) in places.clone() {
            let disk = self.disk_mut(number)?;
            if !seen.insert(number) {
                return Err(Inconsistent::BadShape);
            }
            if !disk.free.contains(ExtentRange::new(first, count)) {
                return Err(Inconsistent::NotFree(number));
            }
        }
        for (number, first, count) in places {
            self.disk_mut(number)?.free.remove(ExtentRange::new(first, count));
        }
        Ok(())
    }

    fn give_back(&mut self, disk: DiskNumber, extents: ExtentRange) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.free.insert(extents);
        }
    }
}

/// All extents that a volume owns: its groups' and its segments'.
pub(super) fn owned_by(volume: &Volume) -> impl Iterator<Item = (DiskNumber, ExtentRange)> + '_ {
    volume.runs.values().flat_map(places_of).chain(segments_of(volume))
}

/// The extents of a run's groups.
pub(super) fn places_of(run: &GroupRun) -> impl Iterator<Item = (DiskNumber, ExtentRange)> + '_ {
    run.holders().map(|member| (member.disk, ExtentRange::new(member.first, run.count)))
}

fn segments_of(volume: &Volume) -> impl Iterator<Item = (DiskNumber, ExtentRange)> + '_ {
    let segments = volume.log.segments.values();
    let copies = segments.flat_map(|segment| segment.copies.iter());
    copies.map(|copy| (copy.disk, copy.extents))
}

fn check_name(name: &str, may_be_empty: bool) -> Result<(), Inconsistent> {
    if name.len() > NAME_BYTES_MAX || (name.is_empty() && !may_be_empty) {
        return Err(Inconsistent::BadName);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
