//! Records as bytes: a tag, then the fields in the order that stands here.
//!
//! Dirty regions are {count; per group and disk, ascending: how much higher the group's generation is than
//! that of the one before, the disk, 8 bytes of mask}, so neighbouring groups take a byte each for it.
//!
//! Tags are never given another meaning. Decoding accepts exactly what encoding yields; whether a
//! record makes sense is for [`Metadata::apply`](super::Metadata::apply) to judge.

use block::Epoch;

use super::{
    Conversion, DirtyRegions, ExtentRange, GroupRun, Job, JobKind, Layout, Member, MetaRecord,
    RootChange, Roots, RunKey, Segment, SegmentCopyPlace, SegmentState,
};
use crate::format::{Coded, DiskNumber, GenerationId, Listed, Malformed, Reader, Writer, coded};

coded!(enum MetaRecord {
    1 => DiskAdded { number, id, node, node_name, bytes, area },
    2 => DiskMoved { number, node, node_name },
    3 => DiskRemoved { number },
    4 => VolumeCreated { id, name, layout, width },
    5 => VolumeResized { id, bytes },
    6 => VolumeRenamed { id, name },
    7 => VolumeRemoved { id },
    8 => PropertySet { id, key, value },
    9 => RunAdded { volume, run },
    10 => RunInitialised { volume, key, count },
    11 => SegmentOpened { volume, segment },
    12 => SegmentEnded { volume, number, state },
    13 => SegmentFreed { volume, number },
    14 => SegmentCopyDropped { volume, number, disk },
    15 => RegionsDirtied(dirty_regions),
    16 => RegionsCleaned(dirty_regions),
    17 => Released { volume, log, release, touched, dirty_regions, roots },
    // 18 said where a takeover had found a log's end.
    19 => PendingFreed { disk, extents },
    20 => PoolRenamed { name },
    21 => DiskRestored { number, expected_release, pending },
    22 => LogRestored { volume, next_segment, released },
    // 23 was for the counters, which are in the table of a checkpoint.
    24 => Applied { release, disks },
    25 => AreaBegun { disk, extents },
    26 => AreaSwitched { disk },
    27 => AreaCancelled { disk },
    28 => RootsRestored { volume, key, first, roots },
    29 => RunSplit { volume, key, count },
    30 => MoveBegun { volume, key, position, to },
    31 => MoveSwitched { volume, key },
    32 => MoveCancelled { volume, key },
    33 => MoveRestored { volume, key, position, to },
    34 => JobSet { number, job },
    35 => JobRemoved { number },
    36 => PoolPropertySet { key, value },
    37 => VolumeReduced { id, bytes },
    38 => LayoutChanging { id, to },
    39 => LayoutChanged { id },
    40 => PositionDropped { volume, key, position },
    41 => SegmentHighWater { volume, number, blocks },
});

coded!(enum SegmentState {
    0 => Open,
    1 => Closed(end),
    2 => Bounded(end),
    // 3 is kept for a segment that is prepared and takes no record yet.
});

coded!(struct Epoch { 0 });
coded!(struct RunKey { lane, first_set });
coded!(struct Member { disk, first });
coded!(struct SegmentCopyPlace { disk, extents });
coded!(struct Job { kind, disks, extents });
coded!(struct Conversion { to, job, extents });

/// Records, one after the other.
pub fn encode_records(records: &[MetaRecord]) -> Vec<u8> {
    let mut writer = Writer::new();
    for record in records {
        record.put(&mut writer);
    }
    writer.into_bytes()
}

/// Takes apart what [`encode_records`] made.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<MetaRecord>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(reader.take()?);
    }
    Ok(records)
}

/// No mirror has zero copies: that is how a striped volume is told.
impl Coded for Layout {
    fn put(&self, w: &mut Writer) {
        w.byte(match self {
            Layout::Raid0 => 0,
            Layout::Mirror(copies) => *copies,
        });
    }

    fn take(r: &mut Reader<'_>) -> Result<Layout, Malformed> {
        Ok(match r.byte()? {
            0 => Layout::Raid0,
            copies => Layout::Mirror(copies),
        })
    }
}

/// What an earlier version of the program doesn't know it keeps.
impl Coded for JobKind {
    fn put(&self, w: &mut Writer) {
        w.byte(match self {
            JobKind::Rebuild => 1,
            JobKind::Evacuate => 2,
            JobKind::Replace => 3,
            JobKind::Remove => 4,
            JobKind::Scrub => 5,
            JobKind::Rebalance => 6,
            JobKind::Other(kind) => *kind,
        });
    }

    fn take(r: &mut Reader<'_>) -> Result<JobKind, Malformed> {
        Ok(match r.byte()? {
            1 => JobKind::Rebuild,
            2 => JobKind::Evacuate,
            3 => JobKind::Replace,
            4 => JobKind::Remove,
            5 => JobKind::Scrub,
            6 => JobKind::Rebalance,
            kind => JobKind::Other(kind),
        })
    }
}

/// An area has extents: their count comes first, and none is told by zero of them.
impl Coded for Option<ExtentRange> {
    fn put(&self, w: &mut Writer) {
        w.put(&self.map_or(0, |extents| extents.count));
        if let Some(extents) = self {
            w.put(&extents.first);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Option<ExtentRange>, Malformed> {
        Ok(match r.take()? {
            0 => None,
            count => Some(ExtentRange::new(r.take()?, count)),
        })
    }
}

impl Coded for Option<String> {
    fn put(&self, w: &mut Writer) {
        match self {
            None => w.byte(0),
            Some(text) => w.byte(1).put(text),
        };
    }

    fn take(r: &mut Reader<'_>) -> Result<Option<String>, Malformed> {
        match r.byte()? {
            0 => Ok(None),
            1 => r.take().map(Some),
            _ => Err(r.malformed()),
        }
    }
}

/// Without its roots and where it moves to: a run that is added has none, or is told them by records behind
/// this one.
impl Coded for GroupRun {
    fn put(&self, w: &mut Writer) {
        w.put(&self.key).put(&self.count).put(&self.generation).put(&self.members);
    }

    fn take(r: &mut Reader<'_>) -> Result<GroupRun, Malformed> {
        let (key, count, generation, members) = (r.take()?, r.take()?, r.take()?, r.take()?);
        Ok(GroupRun { key, count, generation, members, incoming: None, roots: Roots::default() })
    }
}

/// Without its high-water mark, which is a record of its own behind this one.
impl Coded for Segment {
    fn put(&self, w: &mut Writer) {
        w.put(&self.number).put(&self.epoch).put(&self.generation).put(&self.wanted);
        w.fixed64(self.key).put(&self.state).put(&self.copies);
    }

    fn take(r: &mut Reader<'_>) -> Result<Segment, Malformed> {
        Ok(Segment {
            number: r.take()?,
            epoch: r.take()?,
            generation: r.take()?,
            wanted: r.take()?,
            key: r.fixed64()?,
            state: r.take()?,
            copies: r.take()?,
            high_water_blocks: None,
        })
    }
}

impl Coded for RootChange {
    fn put(&self, w: &mut Writer) {
        w.put(&self.group).fixed64(self.root);
    }

    fn take(r: &mut Reader<'_>) -> Result<RootChange, Malformed> {
        Ok(RootChange { group: r.take()?, root: r.fixed64()? })
    }
}

impl Listed for RootChange {}

/// Roots, which are 8 bytes each.
impl Coded for Vec<u64> {
    fn put(&self, w: &mut Writer) {
        w.number(self.len() as u64);
        for root in self {
            w.fixed64(*root);
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Vec<u64>, Malformed> {
        (0..r.count()?).map(|_| r.fixed64()).collect()
    }
}

impl Coded for DirtyRegions {
    fn put(&self, w: &mut Writer) {
        w.number(self.len() as u64);
        let mut before = 0;
        for ((group, disk), mask) in self {
            w.number(group.0 - before).put(disk).fixed64(*mask);
            before = group.0;
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<DirtyRegions, Malformed> {
        let mut dirty_regions = DirtyRegions::new();
        let mut group = 0_u64;
        for _ in 0..r.count()? {
            group = group.checked_add(r.number()?).ok_or_else(|| r.malformed())?;
            let key = (GenerationId(group), r.take::<DiskNumber>()?);
            if dirty_regions.last_key_value().is_some_and(|(before, _)| *before >= key) {
                return Err(r.malformed());
            }
            dirty_regions.insert(key, r.fixed64()?);
        }
        Ok(dirty_regions)
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
