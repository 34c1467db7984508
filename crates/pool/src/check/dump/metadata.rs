//! What the newest metadata says.

use std::ops::ControlFlow;

use super::{DumpItem, Fields, Told, Value};
use crate::metadata::{Metadata, SegmentState, Volume};

/// Tells of the pool, its disks, settings, jobs, and what disks lack.
pub(super) fn tell_metadata(metadata: &Metadata, tell: Told<'_>) -> ControlFlow<()> {
    let (pool, counters) = (metadata.pool(), metadata.counters());
    tell(DumpItem::Pool(
        Fields::default()
            .with("id", pool.id.0)
            .with("name", pool.name.as_str())
            .with("extent_bytes", pool.extent_bytes)
            .with("failure_domain", pool.failure_domain.name())
            .with("next_generation", counters.generation.0)
            .with("next_volume", counters.volume.0)
            .with("next_disk", counters.disk.0)
            .with("next_release", counters.release.0),
    ))?;
    for disk in metadata.disks().values() {
        tell(DumpItem::Disk(
            Fields::default()
                .with("number", disk.number.0)
                .with("id", disk.id.0)
                .with("node", disk.node)
                .with("node_name", disk.node_name.as_str())
                .with("bytes", disk.bytes)
                .with("extents", disk.extents)
                .with("free_extents", disk.free.len())
                .with("pending_extents", disk.pending.len())
                .with("expected_release", disk.expected_release.0)
                .with_if("area_first", disk.area.map(|area| area.first.0))
                .with_if("area_extents", disk.area.map(|area| area.count))
                .with_if("next_area_first", disk.incoming_area.map(|area| area.first.0))
                .with_if("next_area_extents", disk.incoming_area.map(|area| area.count))
                .with("witness", disk.is_witness()),
        ))?;
    }
    for (key, value) in metadata.properties() {
        let fields = Fields::default().with("key", key.as_str()).with("value", value.as_str());
        tell(DumpItem::Setting(fields))?;
    }
    for (number, job) in metadata.jobs() {
        let disks = job.disks.iter().map(|disk| Value::from(disk.0)).collect::<Vec<_>>();
        tell(DumpItem::Job(
            Fields::default()
                .with("number", number.0)
                .with("kind", job.kind.name())
                .with("disks", disks)
                .with("extents", job.extents),
        ))?;
    }
    for ((generation, disk), mask) in metadata.dirty_regions() {
        tell(DumpItem::Dirty(
            Fields::default()
                .with("generation", generation.0)
                .with("disk", disk.0)
                .with("regions", format!("{mask:016x}")),
        ))?;
    }
    ControlFlow::Continue(())
}

/// Tells of a volume, its settings, groups, and the segments of its log.
pub(super) fn tell_volume(metadata: &Metadata, volume: &Volume, tell: Told<'_>) -> ControlFlow<()> {
    tell(DumpItem::Volume(
        Fields::default()
            .with("number", volume.id.0)
            .with("name", volume.name.as_str())
            .with("layout", volume.layout.to_string())
            .with_if("converting_to", volume.conversion.map(|known| known.to.to_string()))
            .with_if("job", volume.conversion.map(|known| known.job.0))
            .with("width", volume.width)
            .with("bytes", volume.bytes)
            .with("released_record", volume.log.released.0)
            .with("next_segment", volume.log.next_segment.0),
    ))?;
    for (key, value) in &volume.properties {
        let fields = Fields::default().with("volume", volume.name.as_str());
        let fields = fields.with("key", key.as_str()).with("value", value.as_str());
        tell(DumpItem::Setting(fields))?;
    }
    let extent = |disk: u32, first: u32| Value::Text(format!("{disk}:{first}"));
    for run in volume.runs.values() {
        let members = run.members.iter().map(|m| extent(m.disk.0, m.first.0)).collect::<Vec<_>>();
        let moves = run.incoming.map(|incoming| {
            let to = incoming.member;
            let comes = if run.outgoing().is_some() { "position" } else { "further position" };
            Value::Text(format!("{comes} {} to {}:{}", incoming.position, to.disk.0, to.first.0))
        });
        tell(DumpItem::Run(
            Fields::default()
                .with("volume", volume.name.as_str())
                .with("lane", run.key.lane)
                .with("first_set", run.key.first_set)
                .with("groups", run.count)
                .with("initialised_groups", run.initialised())
                .with("generation", run.generation.0)
                .with("members", members)
                .with_if("moves", moves),
        ))?;
    }
    for segment in volume.log.segments.values() {
        let copies = segment.copies.iter().map(|copy| {
            Value::Text(format!("{}:{}+{}", copy.disk.0, copy.extents.first.0, copy.extents.count))
        });
        let state = match segment.state {
            SegmentState::Open => "open",
            SegmentState::Closed(_) => "closed",
            SegmentState::Bounded(_) => "bounded",
        };
        tell(DumpItem::Segment(
            Fields::default()
                .with("volume", volume.name.as_str())
                .with("number", segment.number.0)
                .with("epoch", segment.epoch.0)
                .with("generation", segment.generation.0)
                .with("state", state)
                .with_if("last_record", segment.end().map(|end| end.0))
                .with("needed", segment.is_needed(volume.log.released))
                .with("copies_wanted", segment.wanted)
                .with("bytes", segment.bytes(metadata.shape()))
                .with("high_water_bytes", segment.high_water_bytes(metadata.shape()))
                .with("copies", copies.collect::<Vec<_>>()),
        ))?;
    }
    ControlFlow::Continue(())
}
