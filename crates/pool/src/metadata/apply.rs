//! Applying records. Everything is validated before anything is changed, so a refused record leaves
//! the metadata as it was, and no sequence of records, however hostile, gives an extent to two owners,
//! reuses a number or leaves a region of a group without a member that has it.

use std::collections::BTreeSet;

use super::{
    Disk, DiskState, ExtentRange, ExtentSet, GroupRun, Layout, MetaRecord, Metadata, MissChange,
    RunKey, Segment, SegmentState, Volume, VolumeLog,
};
use crate::format::{
    BirthId, DiskGeometry, DiskNumber, ExtentNumber, NAME_BYTES_MAX, RecordNumber, ReleaseNumber,
    SegmentNumber, VolumeId,
};

/// Widest set of groups.
pub const WIDTH_MAX: u16 = 64;
/// Most copies of a mirror.
pub const COPIES_MAX: u8 = 8;
/// Longest key of a property.
const KEY_BYTES_MAX: usize = 128;
/// Longest value of a property.
const VALUE_BYTES_MAX: usize = 64 << 10;

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
    /// No group with this birth id, or no such member.
    #[error("no group with {0}, or no such member of it")]
    UnknownGroup(BirthId),
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
    /// The disk still holds something.
    #[error("{0} still holds something")]
    StillInUse(DiskNumber),
    /// Groups overlap in the volume's map.
    #[error("{0} has groups there already")]
    Overlap(VolumeId),
    /// The size isn't covered by groups, or isn't whole blocks.
    #[error("the size of {0} is not covered by its groups")]
    NotCovered(VolumeId),
    /// A region would be right on no member.
    #[error("a region of the group with {0} would be right on no member")]
    NoRightMember(BirthId),
    /// A counter or state would go backwards.
    #[error("a counter or state would go backwards")]
    Backwards,
    /// The last copy of a segment would go, or one with records that aren't released.
    #[error("{1} of {0} is still needed")]
    StillNeeded(VolumeId, SegmentNumber),
}

impl Metadata {
    /// Applies one record, or changes nothing.
    pub fn apply(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        match record {
            MetaRecord::DiskAdded { number, id, node, node_name, bytes, metadata_bytes } => {
                check_name(node_name, true)?;
                if *number < self.next.disk || self.disk_by_id(*id).is_some() {
                    return Err(Inconsistent::NumberReused);
                }
                let geometry = DiskGeometry::new(*bytes, *metadata_bytes, self.pool.extent_bytes)
                    .map_err(|_| Inconsistent::BadGeometry(*number))?;
                self.next.disk =
                    DiskNumber(number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
                let disk = Disk {
                    number: *number,
                    id: *id,
                    node: *node,
                    node_name: node_name.clone(),
                    bytes: *bytes,
                    metadata_bytes: *metadata_bytes,
                    extents: geometry.extents(),
                    state: DiskState::Active,
                    free: ExtentSet::full(geometry.extents()),
                    pending: ExtentSet::default(),
                    expected_release: ReleaseNumber(0),
                };
                self.disks.insert(*number, disk);
                Ok(())
            }
            MetaRecord::DiskMoved { number, node, node_name } => {
                check_name(node_name, true)?;
                let disk = self.disk_mut(*number)?;
                disk.node = *node;
                disk.node_name.clone_from(node_name);
                Ok(())
            }
            MetaRecord::DiskStateChanged { number, state } => self.change_disk(*number, *state),
            MetaRecord::VolumeCreated { id, name, layout, width } => {
                self.create_volume(*id, name, *layout, *width)
            }
            MetaRecord::VolumeResized { id, bytes } => self.resize_volume(*id, *bytes),
            MetaRecord::VolumeRenamed { id, name } => {
                check_name(name, false)?;
                if self.volume_by_name(name).is_some_and(|volume| volume.id != *id) {
                    return Err(Inconsistent::BadName);
                }
                self.volume_mut(*id)?.name.clone_from(name);
                Ok(())
            }
            MetaRecord::VolumeRemoved { id } => self.remove_volume(*id),
            MetaRecord::PropertySet { id, key, value } => self.set_property(*id, key, value),
            MetaRecord::RunAdded { volume, run } => self.add_run(*volume, run),
            MetaRecord::RunInitialised { volume, key, count } => {
                let unknown = Inconsistent::UnknownRun(*volume, *key);
                let run = self.volume_mut(*volume)?.runs.get_mut(key).ok_or(unknown)?;
                if *count < run.initialised || *count > run.count {
                    return Err(Inconsistent::Backwards);
                }
                run.initialised = *count;
                Ok(())
            }
            MetaRecord::SegmentOpened { volume, segment } => self.open_segment(*volume, segment),
            MetaRecord::SegmentClosed { volume, number } => {
                self.segment_mut(*volume, *number)?.state = SegmentState::Closed;
                Ok(())
            }
            MetaRecord::SegmentFreed { volume, number } => self.free_segment(*volume, *number),
            MetaRecord::SegmentCopyDropped { volume, number, disk } => {
                self.drop_copy(*volume, *number, *disk)
            }
            MetaRecord::MissesSet(changes) => self.set_misses(changes),
            MetaRecord::MissesCleared(changes) => {
                self.check_members(changes)?;
                for change in changes {
                    let key = (change.group, change.member);
                    if let Some(mask) = self.misses.get_mut(&key) {
                        *mask &= !change.mask;
                        if *mask == 0 {
                            self.misses.remove(&key);
                        }
                    }
                }
                Ok(())
            }
            MetaRecord::Released { volume, log, release, touched, misses } => {
                self.release(*volume, *log, *release, touched, misses)
            }
            MetaRecord::Cut { volume, epoch, cut } => {
                let log = &mut self.volume_mut(*volume)?.log;
                if log.cut.is_some_and(|(before, _)| before >= *epoch) || *cut < log.released {
                    return Err(Inconsistent::Backwards);
                }
                log.cut = Some((*epoch, *cut));
                Ok(())
            }
            MetaRecord::PendingFreed { disk, extents } => {
                let number = *disk;
                let disk = self.disk_mut(number)?;
                if !disk.pending.remove(*extents) {
                    return Err(Inconsistent::NotPending(number));
                }
                disk.free.insert(*extents);
                Ok(())
            }
            MetaRecord::PoolRenamed { name } => {
                check_name(name, false)?;
                self.pool.name.clone_from(name);
                Ok(())
            }
            MetaRecord::DiskRestored { number, expected_release, pending } => {
                self.restore_disk(*number, *expected_release, pending)
            }
            MetaRecord::LogRestored { volume, next_segment, released, cut } => {
                let log = &mut self.volume_mut(*volume)?.log;
                if *next_segment < log.next_segment || *released < log.released {
                    return Err(Inconsistent::Backwards);
                }
                log.next_segment = *next_segment;
                log.released = *released;
                log.cut = *cut;
                Ok(())
            }
            MetaRecord::CountersRestored(counters) => {
                let now = self.next;
                if counters.birth < now.birth
                    || counters.volume < now.volume
                    || counters.disk < now.disk
                    || counters.release < now.release
                {
                    return Err(Inconsistent::Backwards);
                }
                self.next = *counters;
                Ok(())
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

    fn disk_mut(&mut self, number: DiskNumber) -> Result<&mut Disk, Inconsistent> {
        let disk = self.disks.get_mut(&number).filter(|disk| disk.state != DiskState::Gone);
        disk.ok_or(Inconsistent::UnknownDisk(number))
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

    fn change_disk(&mut self, number: DiskNumber, state: DiskState) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        if state == DiskState::Gone {
            if disk.free.len() != disk.extents {
                return Err(Inconsistent::StillInUse(number));
            }
            disk.free = ExtentSet::default();
        }
        disk.state = state;
        Ok(())
    }

    fn create_volume(
        &mut self,
        id: VolumeId,
        name: &str,
        layout: Layout,
        width: u16,
    ) -> Result<(), Inconsistent> {
        check_name(name, false)?;
        if self.volume_by_name(name).is_some() {
            return Err(Inconsistent::BadName);
        }
        if id < self.next.volume {
            return Err(Inconsistent::NumberReused);
        }
        let copies_fit = (1..=COPIES_MAX).contains(&layout.copies());
        if !copies_fit || !(1..=WIDTH_MAX).contains(&width) {
            return Err(Inconsistent::BadShape);
        }
        self.next.volume = VolumeId(id.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
        let log = VolumeLog { next_segment: SegmentNumber(1), ..VolumeLog::default() };
        let volume = Volume {
            id,
            name: name.to_string(),
            layout,
            width,
            bytes: 0,
            runs: Default::default(),
            log,
            properties: Default::default(),
        };
        self.volumes.insert(id, volume);
        Ok(())
    }

    fn resize_volume(&mut self, id: VolumeId, bytes: u64) -> Result<(), Inconsistent> {
        let shape = self.shape;
        let volume = self.volume_mut(id)?;
        let blocks = bytes / block::BLOCK_BYTES as u64;
        let stripes = volume.stripes(shape).ok_or(Inconsistent::BadShape)?;
        if !bytes.is_multiple_of(block::BLOCK_BYTES as u64)
            || stripes.sets_for(blocks) > volume.whole_sets()
        {
            return Err(Inconsistent::NotCovered(id));
        }
        volume.bytes = bytes;
        Ok(())
    }

    fn remove_volume(&mut self, id: VolumeId) -> Result<(), Inconsistent> {
        let volume = self.volumes.remove(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        for run in volume.runs.values() {
            self.births.remove(&run.birth);
            let first = (run.birth, 0);
            let last = (run.birth.plus(u64::from(run.count - 1)), u8::MAX);
            let gone: Vec<_> = self.misses.range(first..=last).map(|(key, _)| *key).collect();
            for key in gone {
                self.misses.remove(&key);
            }
        }
        for (disk, extents) in owned_by(&volume) {
            if let Some(disk) = self.disks.get_mut(&disk) {
                disk.pending.insert(extents);
            }
        }
        Ok(())
    }

    fn set_property(
        &mut self,
        id: VolumeId,
        key: &str,
        value: &Option<String>,
    ) -> Result<(), Inconsistent> {
        let too_long = value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || too_long {
            return Err(Inconsistent::BadName);
        }
        let properties = &mut self.volume_mut(id)?.properties;
        match value {
            Some(value) => properties.insert(key.to_string(), value.clone()),
            None => properties.remove(key),
        };
        Ok(())
    }

    fn add_run(&mut self, id: VolumeId, run: &GroupRun) -> Result<(), Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        let next_birth = run.birth.0.checked_add(u64::from(run.count));
        let end_set = run.key.first_set.checked_add(u64::from(run.count));
        let (Some(next_birth), Some(end_set)) = (next_birth, end_set) else {
            return Err(Inconsistent::BadShape);
        };
        if run.count == 0
            || run.key.lane >= volume.width
            || run.initialised > run.count
            || run.members.len() != usize::from(volume.layout.copies())
        {
            return Err(Inconsistent::BadShape);
        }
        if run.birth < self.next.birth {
            return Err(Inconsistent::NumberReused);
        }
        let last = RunKey { lane: run.key.lane, first_set: end_set - 1 };
        let before = volume.runs.range(..=last).next_back();
        if before.is_some_and(|(key, before)| {
            key.lane == run.key.lane && key.first_set + u64::from(before.count) > run.key.first_set
        }) {
            return Err(Inconsistent::Overlap(id));
        }
        let places = run.members.iter().map(|member| (member.disk, member.first, run.count));
        self.take(places)?;
        self.next.birth = BirthId(next_birth);
        self.births.insert(run.birth, (id, run.key));
        self.volume_mut(id)?.runs.insert(run.key, run.clone());
        Ok(())
    }

    fn open_segment(&mut self, id: VolumeId, segment: &Segment) -> Result<(), Inconsistent> {
        let log = &self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?.log;
        let next_number = segment.number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        let next_birth = segment.birth.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        if segment.number < log.next_segment || segment.birth < self.next.birth {
            return Err(Inconsistent::NumberReused);
        }
        let newest = log.segments.values().next_back();
        let first_before = newest.map_or(RecordNumber(0), |newest| newest.first_record);
        let epoch_before = newest.map_or(block::Epoch(0), |newest| newest.epoch);
        if segment.first_record < first_before || segment.epoch < epoch_before {
            return Err(Inconsistent::Backwards);
        }
        let len = segment.copies.first().map_or(0, |copy| copy.extents.count);
        let copies_fit = (1..=usize::from(COPIES_MAX)).contains(&segment.copies.len());
        if !copies_fit || len == 0 || segment.copies.iter().any(|copy| copy.extents.count != len) {
            return Err(Inconsistent::BadShape);
        }
        let places =
            segment.copies.iter().map(|copy| (copy.disk, copy.extents.first, copy.extents.count));
        self.take(places)?;
        self.next.birth = BirthId(next_birth);
        let log = &mut self.volume_mut(id)?.log;
        log.next_segment = SegmentNumber(next_number);
        log.segments.insert(segment.number, segment.clone());
        Ok(())
    }

    fn free_segment(&mut self, id: VolumeId, number: SegmentNumber) -> Result<(), Inconsistent> {
        self.segment_mut(id, number)?;
        let log = &mut self.volume_mut(id)?.log;
        // Whatever a segment holds lies before the next one's first record; an older one than the
        // newest is covered once that is released.
        let next_first = log.segments.range(number..).nth(1).map(|(_, next)| next.first_record);
        if next_first.is_some_and(|first| log.released.next() < first) {
            return Err(Inconsistent::StillNeeded(id, number));
        }
        let Some(segment) = log.segments.remove(&number) else {
            return Err(Inconsistent::UnknownSegment(id, number));
        };
        for copy in segment.copies {
            self.give_back(copy.disk, copy.extents);
        }
        Ok(())
    }

    fn drop_copy(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
        disk: DiskNumber,
    ) -> Result<(), Inconsistent> {
        let segment = self.segment_mut(id, number)?;
        let unknown = Inconsistent::UnknownSegment(id, number);
        let index = segment.copies.iter().position(|copy| copy.disk == disk).ok_or(unknown)?;
        if segment.copies.len() == 1 {
            return Err(Inconsistent::StillNeeded(id, number));
        }
        let copy = segment.copies.remove(index);
        self.give_back(copy.disk, copy.extents);
        Ok(())
    }

    fn release(
        &mut self,
        id: VolumeId,
        log: RecordNumber,
        release: ReleaseNumber,
        touched: &[DiskNumber],
        misses: &[MissChange],
    ) -> Result<(), Inconsistent> {
        let next = ReleaseNumber(release.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
        if release < self.next.release {
            return Err(Inconsistent::NumberReused);
        }
        if log < self.volume_mut(id)?.log.released {
            return Err(Inconsistent::Backwards);
        }
        for number in touched {
            self.disk_mut(*number)?;
        }
        self.set_misses(misses)?;
        self.next.release = next;
        for number in touched {
            self.disk_mut(*number)?.expected_release = release;
        }
        self.volume_mut(id)?.log.released = log;
        Ok(())
    }

    fn check_members(&self, changes: &[MissChange]) -> Result<(), Inconsistent> {
        for change in changes {
            let group = self.group_by_birth(change.group);
            if group.is_none_or(|group| usize::from(change.member) >= group.run.members.len()) {
                return Err(Inconsistent::UnknownGroup(change.group));
            }
        }
        Ok(())
    }

    fn set_misses(&mut self, changes: &[MissChange]) -> Result<(), Inconsistent> {
        self.check_members(changes)?;
        let mut masks: std::collections::BTreeMap<(BirthId, u8), u64> = Default::default();
        for change in changes {
            let key = (change.group, change.member);
            *masks.entry(key).or_insert_with(|| self.missed(key.0, key.1)) |= change.mask;
        }
        let groups: BTreeSet<BirthId> = changes.iter().map(|change| change.group).collect();
        for birth in groups {
            let members = self.group_by_birth(birth).map_or(0, |group| group.run.members.len());
            let nobody_has = (0..members as u8).fold(u64::MAX, |all, member| {
                let known = masks.get(&(birth, member)).copied();
                all & known.unwrap_or_else(|| self.missed(birth, member))
            });
            if nobody_has != 0 {
                return Err(Inconsistent::NoRightMember(birth));
            }
        }
        self.misses.extend(masks.into_iter().filter(|(_, mask)| *mask != 0));
        Ok(())
    }

    fn restore_disk(
        &mut self,
        number: DiskNumber,
        expected_release: ReleaseNumber,
        pending: &[ExtentRange],
    ) -> Result<(), Inconsistent> {
        let disk = self.disk_mut(number)?;
        if expected_release < disk.expected_release {
            return Err(Inconsistent::Backwards);
        }
        let mut free = disk.free.clone();
        let mut now_pending = disk.pending.clone();
        for extents in pending {
            if !free.remove(*extents) || !now_pending.insert(*extents) {
                return Err(Inconsistent::NotFree(number));
            }
        }
        disk.free = free;
        disk.pending = now_pending;
        disk.expected_release = expected_release;
        Ok(())
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
fn owned_by(volume: &Volume) -> impl Iterator<Item = (DiskNumber, ExtentRange)> + '_ {
    let groups = volume.runs.values().flat_map(|run| {
        run.members.iter().map(|member| (member.disk, ExtentRange::new(member.first, run.count)))
    });
    let segments = volume.log.segments.values();
    let copies = segments.flat_map(|segment| segment.copies.iter());
    groups.chain(copies.map(|copy| (copy.disk, copy.extents)))
}

fn check_name(name: &str, may_be_empty: bool) -> Result<(), Inconsistent> {
    if name.len() > NAME_BYTES_MAX || (name.is_empty() && !may_be_empty) {
        return Err(Inconsistent::BadName);
    }
    Ok(())
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
