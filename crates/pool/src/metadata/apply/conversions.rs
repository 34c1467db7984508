//! Records about volumes whose layouts change.

use super::{COPIES_MAX, Inconsistent};
use crate::format::VolumeId;
use crate::metadata::{Conversion, Layout, Metadata};

impl Metadata {
    pub(super) fn change_layout(
        &mut self,
        id: VolumeId,
        to: Conversion,
    ) -> Result<(), Inconsistent> {
        let is_one = (1..=COPIES_MAX).contains(&to.to.copies()) && to.to != Layout::Mirror(1);
        if !is_one {
            return Err(Inconsistent::NotConverted(id));
        }
        let is_another = self.conversion_of(to.job).is_some_and(|(volume, _)| volume.id != id);
        if is_another || self.jobs.contains_key(&to.job) {
            return Err(Inconsistent::UnknownJob(to.job));
        }
        self.volume_mut(id)?.conversion = Some(to);
        Ok(())
    }

    /// Nothing is promised before all of it is there.
    pub(super) fn layout_changed(&mut self, id: VolumeId) -> Result<(), Inconsistent> {
        let volume = self.volume_mut(id)?;
        let is_done = volume.conversion.is_some() && volume.is_converted();
        if !is_done {
            return Err(Inconsistent::NotConverted(id));
        }
        volume.layout = volume.wanted_layout();
        volume.conversion = None;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::format::{
        DiskNumber, ExtentNumber, FailureDomain, GenerationId, JobNumber, RecordNumber,
        SegmentNumber,
    };
    use crate::metadata::testing::{pool_of, restored, run, segment};
    use crate::metadata::{ExtentRange, Member, MetaRecord, RunKey, SegmentState};

    const ID: VolumeId = VolumeId(1);
    const KEY: RunKey = RunKey { lane: 0, first_set: 0 };

    fn apply(metadata: &mut Metadata, record: MetaRecord) -> Result<(), Inconsistent> {
        let before = metadata.clone();
        let applied = metadata.apply(&record);
        if applied.is_err() {
            assert_eq!(*metadata, before);
        }
        assert_eq!(restored(metadata).as_ref(), Ok(&*metadata));
        applied
    }

    fn changing(to: Layout) -> MetaRecord {
        let to = Conversion { to, job: JobNumber(1), extents: 4 };
        MetaRecord::LayoutChanging { id: ID, to }
    }

    fn begun(position: u8, disk: u32) -> MetaRecord {
        let to = Member { disk: DiskNumber(disk), first: ExtentNumber(0) };
        MetaRecord::MoveBegun { volume: ID, key: KEY, position, to }
    }

    /// A mirror of two with one run, of which everything was written to.
    fn mirror() -> Metadata {
        let sizes = [(0, 128), (1, 128), (2, 128), (3, 128)];
        let mut metadata = pool_of(FailureDomain::Node, &sizes);
        let name = "v".to_owned();
        let run = run(0, 4, 1, &[(0, 0), (1, 0)]);
        for record in [
            MetaRecord::VolumeCreated { id: ID, name, layout: Layout::Mirror(2), width: 1 },
            MetaRecord::RunAdded { volume: ID, run },
            MetaRecord::RunInitialised { volume: ID, key: KEY, count: 4 },
        ] {
            metadata.apply(&record).unwrap();
        }
        metadata
    }

    #[test]
    fn a_further_position_counts_once_it_lacks_nothing() {
        let mut metadata = mirror();
        let no_place = apply(&mut metadata, begun(2, 2));
        assert_eq!(no_place, Err(Inconsistent::BadShape), "the layout has none");
        apply(&mut metadata, changing(Layout::Mirror(3))).unwrap();
        apply(&mut metadata, begun(2, 2)).unwrap();
        let early = MetaRecord::MoveSwitched { volume: ID, key: KEY };
        let refused = apply(&mut metadata, early.clone());
        assert_eq!(refused, Err(Inconsistent::NoRightMember(GenerationId(1))));
        let changed = MetaRecord::LayoutChanged { id: ID };
        let refused = apply(&mut metadata, changed.clone());
        assert_eq!(refused, Err(Inconsistent::NotConverted(ID)));
        let lacked = metadata.dirty_regions().iter().map(|(key, mask)| (*key, *mask)).collect();
        apply(&mut metadata, MetaRecord::RegionsCleaned(lacked)).unwrap();
        apply(&mut metadata, early).unwrap();
        let disks: Vec<u32> =
            metadata.run(ID, KEY).unwrap().members.iter().map(|member| member.disk.0).collect();
        assert_eq!(disks, [0, 1, 2]);
        apply(&mut metadata, changed).unwrap();
        assert_eq!(metadata.volumes()[&ID].layout, Layout::Mirror(3));
    }

    #[test]
    fn a_position_goes_where_the_others_lack_nothing() {
        let mut metadata = mirror();
        let dropped = |position| MetaRecord::PositionDropped { volume: ID, key: KEY, position };
        assert_eq!(apply(&mut metadata, dropped(0)), Err(Inconsistent::BadShape));
        apply(&mut metadata, changing(Layout::Raid0)).unwrap();
        let dirty = [((GenerationId(3), DiskNumber(1)), 1)].into_iter().collect();
        apply(&mut metadata, MetaRecord::RegionsDirtied(dirty)).unwrap();
        let refused = apply(&mut metadata, dropped(0));
        assert_eq!(refused, Err(Inconsistent::NoRightMember(GenerationId(3))));
        apply(&mut metadata, dropped(1)).unwrap();
        assert!(metadata.dirty_regions().is_empty(), "what went lacks nothing any more");
        let (disk, extents) = (DiskNumber(1), ExtentRange::new(ExtentNumber(0), 4));
        apply(&mut metadata, MetaRecord::PendingFreed { disk, extents }).unwrap();
        assert_eq!(apply(&mut metadata, dropped(0)), Err(Inconsistent::BadShape), "the last one");
        apply(&mut metadata, MetaRecord::LayoutChanged { id: ID }).unwrap();
        assert_eq!(metadata.volumes()[&ID].layout, Layout::Raid0);
    }

    #[test]
    fn what_is_taken_back_leaves_nothing() {
        let mut metadata = mirror();
        let free = metadata.disks()[&DiskNumber(2)].free.clone();
        apply(&mut metadata, changing(Layout::Mirror(4))).unwrap();
        apply(&mut metadata, begun(2, 2)).unwrap();
        apply(&mut metadata, changing(Layout::Mirror(2))).unwrap();
        assert_eq!(apply(&mut metadata, begun(2, 3)), Err(Inconsistent::BadShape));
        apply(&mut metadata, MetaRecord::MoveCancelled { volume: ID, key: KEY }).unwrap();
        assert_eq!(apply(&mut metadata, begun(2, 3)), Err(Inconsistent::BadShape));
        let (disk, extents) = (DiskNumber(2), ExtentRange::new(ExtentNumber(0), 4));
        apply(&mut metadata, MetaRecord::PendingFreed { disk, extents }).unwrap();
        assert_eq!(metadata.disks()[&disk].free, free);
        apply(&mut metadata, MetaRecord::LayoutChanged { id: ID }).unwrap();
        assert_eq!(metadata.volumes()[&ID].conversion, None);
    }

    #[test]
    fn copies_that_the_log_lacks_are_not_said_to_be_there() {
        let mut metadata = mirror();
        apply(&mut metadata, changing(Layout::Raid0)).unwrap();
        let opened = MetaRecord::SegmentOpened { volume: ID, segment: segment(1, 17, &[(0, 20)]) };
        apply(&mut metadata, opened).unwrap();
        // Not after all; but meanwhile its log went on with fewer.
        apply(&mut metadata, changing(Layout::Mirror(2))).unwrap();
        let changed = MetaRecord::LayoutChanged { id: ID };
        let refused = apply(&mut metadata, changed.clone());
        assert_eq!(refused, Err(Inconsistent::NotConverted(ID)));
        let (number, state) = (SegmentNumber(1), SegmentState::Closed(RecordNumber(0)));
        apply(&mut metadata, MetaRecord::SegmentEnded { volume: ID, number, state }).unwrap();
        apply(&mut metadata, changed).unwrap();
    }

    #[test]
    fn a_number_is_one_job_s() {
        let mut metadata = mirror();
        apply(&mut metadata, changing(Layout::Mirror(3))).unwrap();
        assert_eq!(metadata.next_job(), JobNumber(2));
        let job = crate::metadata::testing::job(crate::metadata::JobKind::Rebalance, &[]);
        let taken = MetaRecord::JobSet { number: JobNumber(1), job };
        assert_eq!(apply(&mut metadata, taken), Err(Inconsistent::UnknownJob(JobNumber(1))));
        let none = apply(&mut metadata, changing(Layout::Mirror(1)));
        assert_eq!(none, Err(Inconsistent::NotConverted(ID)));
    }
}
