//! Records about the volumes' logs.

use block::Epoch;

use super::{COPIES_MAX, Inconsistent};
use crate::format::{BirthId, DiskNumber, RecordNumber, ReleaseNumber, SegmentNumber, VolumeId};
use crate::metadata::{Metadata, MissChange, Segment, SegmentState};

impl Metadata {
    pub(super) fn open_segment(
        &mut self,
        id: VolumeId,
        segment: &Segment,
    ) -> Result<(), Inconsistent> {
        let log = &self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?.log;
        let next_number = segment.number.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        let next_birth = segment.birth.0.checked_add(1).ok_or(Inconsistent::NumberReused)?;
        if segment.number < log.next_segment || segment.birth < self.next.birth {
            return Err(Inconsistent::NumberReused);
        }
        let newest = log.segments.values().next_back();
        let first_before = newest.map_or(RecordNumber(0), |newest| newest.first_record);
        let epoch_before = newest.map_or(Epoch(0), |newest| newest.epoch);
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

    pub(super) fn close_segment(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
    ) -> Result<(), Inconsistent> {
        self.segment_mut(id, number)?.state = SegmentState::Closed;
        Ok(())
    }

    pub(super) fn free_segment(
        &mut self,
        id: VolumeId,
        number: SegmentNumber,
    ) -> Result<(), Inconsistent> {
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

    pub(super) fn cut(
        &mut self,
        id: VolumeId,
        epoch: Epoch,
        cut: RecordNumber,
    ) -> Result<(), Inconsistent> {
        let log = &mut self.volume_mut(id)?.log;
        if log.cut.is_some_and(|(before, _)| before >= epoch) || cut < log.released {
            return Err(Inconsistent::Backwards);
        }
        log.cut = Some((epoch, cut));
        Ok(())
    }

    pub(super) fn restore_log(
        &mut self,
        id: VolumeId,
        next_segment: SegmentNumber,
        released: RecordNumber,
        cut: Option<(Epoch, RecordNumber)>,
    ) -> Result<(), Inconsistent> {
        let log = &mut self.volume_mut(id)?.log;
        if next_segment < log.next_segment || released < log.released {
            return Err(Inconsistent::Backwards);
        }
        log.next_segment = next_segment;
        log.released = released;
        log.cut = cut;
        Ok(())
    }
}
