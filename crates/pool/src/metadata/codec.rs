//! Records as bytes: a tag, then the fields in the order of their declaration.
//!
//! Dirty regions are {count; per group and disk, ascending: how much higher the group's generation is than
//! that of the one before, the disk, 8 bytes of mask}, so neighbouring groups take a byte each for it.
//!
//! Tags are never given another meaning. Decoding accepts exactly what encoding yields; whether a
//! record makes sense is for [`Metadata::apply`](super::Metadata::apply) to judge.

use block::Epoch;

use super::{
    DirtyRegions, ExtentRange, GroupRun, Layout, Member, MetaRecord, RootChange, Roots, RunKey,
    Segment, SegmentCopyPlace, SegmentState,
};
use crate::format::{
    DiskId, DiskNumber, ExtentNumber, GenerationId, Malformed, Reader, RecordNumber, ReleaseNumber,
    SegmentNumber, VolumeId, Writer,
};

const DISK_ADDED: u8 = 1;
const DISK_MOVED: u8 = 2;
// 3 is for disks that take nothing new, or are gone.
const VOLUME_CREATED: u8 = 4;
const VOLUME_RESIZED: u8 = 5;
// 6 is for volumes that get another name.
const VOLUME_REMOVED: u8 = 7;
const PROPERTY_SET: u8 = 8;
const RUN_ADDED: u8 = 9;
const RUN_INITIALISED: u8 = 10;
const SEGMENT_OPENED: u8 = 11;
const SEGMENT_ENDED: u8 = 12;
const SEGMENT_FREED: u8 = 13;
const SEGMENT_COPY_DROPPED: u8 = 14;
const REGIONS_DIRTIED: u8 = 15;
const REGIONS_CLEANED: u8 = 16;
const RELEASED: u8 = 17;
// 18 said where a takeover had found a log's end.
const PENDING_FREED: u8 = 19;
const POOL_RENAMED: u8 = 20;
const DISK_RESTORED: u8 = 21;
const LOG_RESTORED: u8 = 22;
// 23 was for the counters, which are in the table of a checkpoint.
const APPLIED: u8 = 24;
const AREA_BEGUN: u8 = 25;
const AREA_SWITCHED: u8 = 26;
const AREA_CANCELLED: u8 = 27;
const ROOTS_RESTORED: u8 = 28;

/// Records, one after the other.
pub fn encode_records(records: &[MetaRecord]) -> Vec<u8> {
    let mut writer = Writer::new();
    for record in records {
        put_record(&mut writer, record);
    }
    writer.into_bytes()
}

/// Takes apart what [`encode_records`] made.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<MetaRecord>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(take_record(&mut reader)?);
    }
    Ok(records)
}

pub(super) fn put_record(w: &mut Writer, record: &MetaRecord) {
    match record {
        MetaRecord::DiskAdded { number, id, node, node_name, bytes, area } => {
            w.byte(DISK_ADDED).number(number.0.into()).uuid(id.0).uuid(*node).text(node_name);
            // No area has no extents: that is how none is told.
            w.number(*bytes).number(area.map_or(0, |area| area.count.into()));
            if let Some(area) = area {
                w.number(area.first.0.into());
            }
        }
        MetaRecord::AreaBegun { disk, extents } => {
            w.byte(AREA_BEGUN).number(disk.0.into());
            put_extents(w, *extents);
        }
        MetaRecord::AreaSwitched { disk } => {
            w.byte(AREA_SWITCHED).number(disk.0.into());
        }
        MetaRecord::AreaCancelled { disk } => {
            w.byte(AREA_CANCELLED).number(disk.0.into());
        }
        MetaRecord::DiskMoved { number, node, node_name } => {
            w.byte(DISK_MOVED).number(number.0.into()).uuid(*node).text(node_name);
        }
        MetaRecord::VolumeCreated { id, name, layout, width } => {
            // No mirror has zero copies: that is how a striped volume is told.
            let layout = match layout {
                Layout::Raid0 => 0,
                Layout::Mirror(copies) => *copies,
            };
            w.byte(VOLUME_CREATED).number(id.0.into()).text(name).byte(layout);
            w.number((*width).into());
        }
        MetaRecord::VolumeResized { id, bytes } => {
            w.byte(VOLUME_RESIZED).number(id.0.into()).number(*bytes);
        }
        MetaRecord::VolumeRemoved { id } => {
            w.byte(VOLUME_REMOVED).number(id.0.into());
        }
        MetaRecord::PropertySet { id, key, value } => {
            w.byte(PROPERTY_SET).number(id.0.into()).text(key).byte(value.is_some().into());
            if let Some(value) = value {
                w.text(value);
            }
        }
        MetaRecord::RunAdded { volume, run } => {
            put_run_added(w, *volume, run);
        }
        MetaRecord::RunInitialised { volume, key, count } => {
            w.byte(RUN_INITIALISED).number(volume.0.into());
            w.number(key.lane.into()).number(key.first_set).number((*count).into());
        }
        MetaRecord::SegmentOpened { volume, segment } => {
            w.byte(SEGMENT_OPENED).number(volume.0.into());
            put_segment(w, segment);
        }
        MetaRecord::SegmentEnded { volume, number, state } => {
            w.byte(SEGMENT_ENDED).number(volume.0.into()).number(number.0);
            put_segment_state(w, *state);
        }
        MetaRecord::SegmentFreed { volume, number } => {
            w.byte(SEGMENT_FREED).number(volume.0.into()).number(number.0);
        }
        MetaRecord::SegmentCopyDropped { volume, number, disk } => {
            w.byte(SEGMENT_COPY_DROPPED).number(volume.0.into()).number(number.0);
            w.number(disk.0.into());
        }
        MetaRecord::RegionsDirtied(dirty_regions) => {
            w.byte(REGIONS_DIRTIED);
            put_dirty_regions(w, dirty_regions);
        }
        MetaRecord::RegionsCleaned(dirty_regions) => {
            w.byte(REGIONS_CLEANED);
            put_dirty_regions(w, dirty_regions);
        }
        MetaRecord::Released { volume, log, release, touched, dirty_regions, roots } => {
            w.byte(RELEASED).number(volume.0.into()).number(log.0).number(release.0);
            w.number(touched.len() as u64);
            for disk in touched {
                w.number(disk.0.into());
            }
            put_dirty_regions(w, dirty_regions);
            w.number(roots.len() as u64);
            for change in roots {
                w.number(change.group.0).fixed64(change.root);
            }
        }
        MetaRecord::Applied { release, disks } => {
            w.byte(APPLIED).number(release.0).number(disks.len() as u64);
            for disk in disks {
                w.number(disk.0.into());
            }
        }
        MetaRecord::PendingFreed { disk, extents } => {
            w.byte(PENDING_FREED).number(disk.0.into());
            put_extents(w, *extents);
        }
        MetaRecord::PoolRenamed { name } => {
            w.byte(POOL_RENAMED).text(name);
        }
        MetaRecord::DiskRestored { number, expected_release, pending } => {
            w.byte(DISK_RESTORED).number(number.0.into()).number(expected_release.0);
            w.number(pending.len() as u64);
            for extents in pending {
                put_extents(w, *extents);
            }
        }
        MetaRecord::LogRestored { volume, next_segment, released } => {
            w.byte(LOG_RESTORED).number(volume.0.into()).number(next_segment.0);
            w.number(released.0);
        }
        MetaRecord::RootsRestored { volume, key, first, roots } => {
            w.byte(ROOTS_RESTORED).number(volume.0.into());
            w.number(key.lane.into()).number(key.first_set).number((*first).into());
            w.number(roots.len() as u64);
            for root in roots {
                w.fixed64(*root);
            }
        }
    }
}

fn take_record(r: &mut Reader<'_>) -> Result<MetaRecord, Malformed> {
    Ok(match r.byte()? {
        DISK_ADDED => MetaRecord::DiskAdded {
            number: disk(r)?,
            id: DiskId(r.uuid()?),
            node: r.uuid()?,
            node_name: r.text()?,
            bytes: r.number()?,
            area: match r.number32()? {
                0 => None,
                count => Some(ExtentRange::new(ExtentNumber(r.number32()?), count)),
            },
        },
        AREA_BEGUN => MetaRecord::AreaBegun { disk: disk(r)?, extents: take_extents(r)? },
        AREA_SWITCHED => MetaRecord::AreaSwitched { disk: disk(r)? },
        AREA_CANCELLED => MetaRecord::AreaCancelled { disk: disk(r)? },
        DISK_MOVED => {
            MetaRecord::DiskMoved { number: disk(r)?, node: r.uuid()?, node_name: r.text()? }
        }
        VOLUME_CREATED => MetaRecord::VolumeCreated {
            id: volume(r)?,
            name: r.text()?,
            layout: match r.byte()? {
                0 => Layout::Raid0,
                copies => Layout::Mirror(copies),
            },
            width: r.number16()?,
        },
        VOLUME_RESIZED => MetaRecord::VolumeResized { id: volume(r)?, bytes: r.number()? },
        VOLUME_REMOVED => MetaRecord::VolumeRemoved { id: volume(r)? },
        PROPERTY_SET => {
            let (id, key) = (volume(r)?, r.text()?);
            let value = if r.flag()? { Some(r.text()?) } else { None };
            MetaRecord::PropertySet { id, key, value }
        }
        RUN_ADDED => MetaRecord::RunAdded { volume: volume(r)?, run: take_run(r)? },
        RUN_INITIALISED => MetaRecord::RunInitialised {
            volume: volume(r)?,
            key: take_key(r)?,
            count: r.number32()?,
        },
        SEGMENT_OPENED => {
            MetaRecord::SegmentOpened { volume: volume(r)?, segment: take_segment(r)? }
        }
        SEGMENT_ENDED => MetaRecord::SegmentEnded {
            volume: volume(r)?,
            number: segment(r)?,
            state: take_segment_state(r)?,
        },
        SEGMENT_FREED => MetaRecord::SegmentFreed { volume: volume(r)?, number: segment(r)? },
        SEGMENT_COPY_DROPPED => MetaRecord::SegmentCopyDropped {
            volume: volume(r)?,
            number: segment(r)?,
            disk: disk(r)?,
        },
        REGIONS_DIRTIED => MetaRecord::RegionsDirtied(take_dirty_regions(r)?),
        REGIONS_CLEANED => MetaRecord::RegionsCleaned(take_dirty_regions(r)?),
        RELEASED => MetaRecord::Released {
            volume: volume(r)?,
            log: RecordNumber(r.number()?),
            release: ReleaseNumber(r.number()?),
            touched: take_list(r, disk)?,
            dirty_regions: take_dirty_regions(r)?,
            roots: take_list(r, |r| {
                Ok(RootChange { group: GenerationId(r.number()?), root: r.fixed64()? })
            })?,
        },
        APPLIED => {
            MetaRecord::Applied { release: ReleaseNumber(r.number()?), disks: take_list(r, disk)? }
        }
        PENDING_FREED => MetaRecord::PendingFreed { disk: disk(r)?, extents: take_extents(r)? },
        POOL_RENAMED => MetaRecord::PoolRenamed { name: r.text()? },
        DISK_RESTORED => MetaRecord::DiskRestored {
            number: disk(r)?,
            expected_release: ReleaseNumber(r.number()?),
            pending: take_list(r, take_extents)?,
        },
        LOG_RESTORED => MetaRecord::LogRestored {
            volume: volume(r)?,
            next_segment: segment(r)?,
            released: RecordNumber(r.number()?),
        },
        ROOTS_RESTORED => MetaRecord::RootsRestored {
            volume: volume(r)?,
            key: take_key(r)?,
            first: r.number32()?,
            roots: take_list(r, |r| r.fixed64())?,
        },
        _ => return Err(r.malformed()),
    })
}

fn disk(r: &mut Reader<'_>) -> Result<DiskNumber, Malformed> {
    r.number32().map(DiskNumber)
}

fn volume(r: &mut Reader<'_>) -> Result<VolumeId, Malformed> {
    r.number32().map(VolumeId)
}

fn segment(r: &mut Reader<'_>) -> Result<SegmentNumber, Malformed> {
    r.number().map(SegmentNumber)
}

fn take_list<T>(
    r: &mut Reader<'_>,
    item: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = r.count()?;
    (0..count).map(|_| item(r)).collect()
}

fn put_extents(w: &mut Writer, extents: ExtentRange) {
    w.number(extents.first.0.into()).number(extents.count.into());
}

fn take_extents(r: &mut Reader<'_>) -> Result<ExtentRange, Malformed> {
    Ok(ExtentRange::new(ExtentNumber(r.number32()?), r.number32()?))
}

fn take_key(r: &mut Reader<'_>) -> Result<RunKey, Malformed> {
    Ok(RunKey { lane: r.number16()?, first_set: r.number()? })
}

/// The record that adds a run, without its roots.
pub(super) fn put_run_added(w: &mut Writer, volume: VolumeId, run: &GroupRun) {
    w.byte(RUN_ADDED).number(volume.0.into());
    w.number(run.key.lane.into()).number(run.key.first_set).number(run.count.into());
    w.number(run.generation.0).number(run.members.len() as u64);
    for member in &run.members {
        w.number(member.disk.0.into()).number(member.first.0.into());
    }
}

fn take_run(r: &mut Reader<'_>) -> Result<GroupRun, Malformed> {
    let (key, count, generation) = (take_key(r)?, r.number32()?, GenerationId(r.number()?));
    let members =
        take_list(r, |r| Ok(Member { disk: disk(r)?, first: ExtentNumber(r.number32()?) }))?;
    Ok(GroupRun { key, count, generation, members, roots: Roots::default() })
}

fn put_segment_state(w: &mut Writer, state: SegmentState) {
    // 3 is kept for a segment that is prepared and takes no record yet.
    match state {
        SegmentState::Open => w.byte(0),
        SegmentState::Closed(end) => w.byte(1).number(end.0),
        SegmentState::Bounded(end) => w.byte(2).number(end.0),
    };
}

fn take_segment_state(r: &mut Reader<'_>) -> Result<SegmentState, Malformed> {
    Ok(match r.byte()? {
        0 => SegmentState::Open,
        1 => SegmentState::Closed(RecordNumber(r.number()?)),
        2 => SegmentState::Bounded(RecordNumber(r.number()?)),
        _ => return Err(r.malformed()),
    })
}

fn put_segment(w: &mut Writer, segment: &Segment) {
    w.number(segment.number.0).number(segment.epoch.0).number(segment.generation.0);
    w.byte(segment.wanted).fixed64(segment.key);
    put_segment_state(w, segment.state);
    w.number(segment.copies.len() as u64);
    for copy in &segment.copies {
        w.number(copy.disk.0.into());
        put_extents(w, copy.extents);
    }
}

fn take_segment(r: &mut Reader<'_>) -> Result<Segment, Malformed> {
    let (number, epoch, generation) = (segment(r)?, Epoch(r.number()?), GenerationId(r.number()?));
    let (wanted, key, state) = (r.byte()?, r.fixed64()?, take_segment_state(r)?);
    let copies =
        take_list(r, |r| Ok(SegmentCopyPlace { disk: disk(r)?, extents: take_extents(r)? }))?;
    Ok(Segment { number, epoch, generation, copies, wanted, state, key })
}

fn put_dirty_regions(w: &mut Writer, dirty_regions: &DirtyRegions) {
    w.number(dirty_regions.len() as u64);
    let mut before = 0;
    for ((group, disk), mask) in dirty_regions {
        w.number(group.0 - before).number(disk.0.into()).fixed64(*mask);
        before = group.0;
    }
}

fn take_dirty_regions(r: &mut Reader<'_>) -> Result<DirtyRegions, Malformed> {
    let mut dirty_regions = DirtyRegions::new();
    let mut group = 0_u64;
    for _ in 0..r.count()? {
        group = group.checked_add(r.number()?).ok_or_else(|| r.malformed())?;
        let key = (GenerationId(group), disk(r)?);
        if dirty_regions.last_key_value().is_some_and(|(before, _)| *before >= key) {
            return Err(r.malformed());
        }
        dirty_regions.insert(key, r.fixed64()?);
    }
    Ok(dirty_regions)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
