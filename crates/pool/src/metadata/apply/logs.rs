//! Records about the volumes' logs.

use super::{COPIES_MAX, Inconsistent};
use crate::format::{
    DiskNumber, GenerationId, RecordNumber, ReleaseNumber, SegmentNumber, VolumeId,
};
use crate::metadata::changes::Change;
use crate::metadata::{DirtyRegions, Metadata, RootChange, Segment, SegmentState};

impl Metadata {
    pub(super) fn open_segment(
        &mut self,
        id: VolumeId,
        segment: &Segment,
    ) -> Result<(), Inconsistent> {
        if segment.generation < self.next.generation {
            return Err(Inconsistent::NumberReused);
        }
        self.place_segment(id, segment)
    }

    /// Adds a segment whose generation is free.
    pub(in crate::metadata) fn place_segment(
        &mut self,
        id: VolumeId,
        segment: &Segment,
    ) -> Result<(), Inconsistent> {
        let log = &self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?.log;
        let next_number = segment.number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        let next_generation =
            segment.generation.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        if segment.number < log.next_segment {
            return Err(Inconsistent::NumberReused);
        }
        let newest = log.segments.values().next_back();
        if newest.is_some_and(|newest| segment.epoch < newest.epoch) {
            return Err(Inconsistent::Backwards);
        }
        let len = segment.copies.first().map_or(0, |copy| copy.extents.count);
        let wanted = 1..=usize::from(COPIES_MAX);
        let copies_fit =
            wanted.contains(&segment.copies.len()) && wanted.contains(&usize::from(segment.wanted));
        if !copies_fit || len == 0 || segment.copies.iter().any(|copy| copy.extents.count != len) {
            return Err(Inconsistent::BadShape);
        }
        let places =
            segment.copies.iter().map(|copy| (copy.disk, copy.extents.first, copy.extents.count));
        self.take(places)?;
        self.next.generation = self.next.generation.max(GenerationId(next_generation));
        let log = &mut self.volume_mut(id)?.log;
        log.next_segment = SegmentNumber(next_number);
        let segment = Segment { high_water_blocks: None, ..segment.clone() };
        log.segments.insert_mut(segment.number, segment);
        Ok(())
    }

    pub(super) fn raise_high_water(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
        blocks: u32,
    ) -> Result<(), Inconsistent> {
        let segment = self.segment_mut(id, number)?;
        // What may have been written once has to be read for ever.
        if segment.high_water_blocks.is_some_and(|mark| blocks <= mark) {
            return Err(Inconsistent::Backwards);
        }
        if blocks == 0 {
            return Err(Inconsistent::BadShape);
        }
        segment.high_water_blocks = Some(blocks);
        Ok(())
    }

    /// The metadata may be older than the logs: how far they were written isn't known.
    pub fn forget_high_water_marks(&mut self) {
        let is_marked = |segment: &Segment| segment.high_water_blocks.is_some();
        for (id, volume) in self.volumes.clone().iter() {
            for segment in volume.log.segments.values().filter(|segment| is_marked(segment)) {
                if let Ok(segment) = self.segment_mut(*id, segment.number) {
                    segment.high_water_blocks = None;
                }
                self.changes.add(vec![Change::volume(*id)]);
            }
        }
    }

    pub(super) fn end_segment(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
        state: SegmentState,
    ) -> Result<(), Inconsistent> {
        let segment = self.segment_mut(id, number)?;
        // Its end is decided once.
        if segment.state != SegmentState::Open || state == SegmentState::Open {
            return Err(Inconsistent::Backwards);
        }
        segment.state = state;
        Ok(())
    }

    pub(super) fn free_segment(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
    ) -> Result<(), Inconsistent> {
        let end = self.segment_mut(id, number)?.end();
        let log = &mut self.volume_mut(id)?.log;
        // Released, or copied from an older segment that still has it.
        let end = end.ok_or(Inconsistent::StillNeeded(id, number))?;
        let mut older = log.segments.range(..number).map(|(_, older)| older);
        if end > log.released && !older.any(|older| older.end().is_some_and(|has| has >= end)) {
            return Err(Inconsistent::StillNeeded(id, number));
        }
        let Some(segment) = log.segments.get(&number).cloned() else {
            return Err(Inconsistent::UnknownSegment(id, number));
        };
        log.segments.remove_mut(&number);
        for copy in segment.copies {
            self.give_back(copy.disk, copy.extents);
        }
        Ok(())
    }

    pub(super) fn drop_copy(
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

    pub(super) fn release(
        &mut self,
        id: VolumeId,
        log: RecordNumber,
        release: ReleaseNumber,
        touched: &[DiskNumber],
        (dirty_regions, roots): (&DirtyRegions, &[RootChange]),
    ) -> Result<(), Inconsistent> {
        let next = self.check_release(release, touched)?;
        if log < self.volume_mut(id)?.log.released {
            return Err(Inconsistent::Backwards);
        }
        for change in roots {
            let group = self.group_by_generation(change.group);
            if !group.is_some_and(|group| group.volume == id && group.is_initialised()) {
                return Err(Inconsistent::UnknownGroup(change.group));
            }
        }
        self.mark_dirty(dirty_regions)?;
        for change in roots {
            self.set_root(*change);
        }
        self.set_applied(release, next, touched);
        self.volume_mut(id)?.log.released = log;
        Ok(())
    }

    pub(super) fn record_applied(
        &mut self,
        release: ReleaseNumber,
        disks: &[DiskNumber],
    ) -> Result<(), Inconsistent> {
        let next = self.check_release(release, disks)?;
        self.set_applied(release, next, disks);
        Ok(())
    }

    /// The number after `release`, if these disks may record it.
    fn check_release(
        &mut self,
        release: ReleaseNumber,
        disks: &[DiskNumber],
    ) -> Result<ReleaseNumber, Inconsistent> {
        if release < self.next.release {
            return Err(Inconsistent::NumberReused);
        }
        for number in disks {
            self.disk_mut(*number)?;
        }
        release.0.checked_add(1).map(ReleaseNumber).ok_or(Inconsistent::NumberReused)
    }

    fn set_applied(&mut self, release: ReleaseNumber, next: ReleaseNumber, disks: &[DiskNumber]) {
        self.next.release = next;
        for number in disks {
            if let Some(disk) = self.disks.get_mut(number) {
                disk.expected_release = release;
            }
        }
    }

    fn set_root(&mut self, change: RootChange) {
        let Some((first, place)) = self.generations.range(..=change.group).next_back() else {
            return;
        };
        let (index, (volume, key)) = ((change.group.0 - first.0) as usize, *place);
        let volume = self.volumes.get_mut(&volume);
        if let Some(roots) = volume.and_then(|volume| volume.runs.roots_mut(&key)) {
            roots.set(index, change.root);
        }
    }

    pub(super) fn restore_log(
        &mut self,
        id: VolumeId,
        next_segment: SegmentNumber,
        released: RecordNumber,
    ) -> Result<(), Inconsistent> {
        let log = &mut self.volume_mut(id)?.log;
        if next_segment < log.next_segment || released < log.released {
            return Err(Inconsistent::Backwards);
        }
        log.next_segment = next_segment;
        log.released = released;
        Ok(())
    }
}
