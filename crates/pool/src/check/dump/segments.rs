//! The logs' segments, copy by copy, and the checksum blocks, holder by holder.

use std::ops::ControlFlow;

use block::{BLOCK_BYTES, SECTOR_BYTES};

use super::{Fields, Place, StructureKind, StructureState, Told, unsound};
use crate::check::disks::Disk;
use crate::check::space::extent_offset;
use crate::check::view::View;
use crate::format::{
    CHECKSUM_ENTRIES, CheckedHeader, CheckedKind, DiskNumber, Entry, RecordBody,
    SEGMENT_HEADER_BYTES, UncheckedChecksumBlock, UncheckedSegmentHeader, check_header,
    claimed_header_len, claimed_segment,
};
use crate::metadata::{Group, Segment, Volume};

/// Bytes read at once where records are looked for.
const PIECE_BYTES: u64 = 1 << 20;

/// Tells each copy of a segment that is on a disk that was given.
pub(super) fn tell_segment(
    view: &View<'_, '_>,
    volume: &Volume,
    segment: &Segment,
    tell: Told<'_>,
) -> ControlFlow<()> {
    for copy in &segment.copies {
        let Some(disk) = any_disk(view, copy.disk) else { continue };
        let Some(start) = extent_offset(disk, copy.extents.first) else { continue };
        let shape = view.metadata.shape();
        let (bytes, header) = (segment.bytes(shape), segment.header(volume.id, shape));
        let place = Place {
            disk: disk.name(),
            kind: StructureKind::SegmentHeader,
            at: start,
            bytes: SEGMENT_HEADER_BYTES as u64,
        };
        let found = disk.image.bytes_at(start, SEGMENT_HEADER_BYTES).ok();
        let sound =
            found.as_deref().is_some_and(|b| UncheckedSegmentHeader(b).check(&header).is_ok());
        let says = Fields::default()
            .with("volume", volume.name.as_str())
            .with("segment", segment.number.0);
        let state = if sound { StructureState::Sound } else { unsound(found.as_deref()) };
        tell(place.is(state, says))?;
        tell_records(disk, (volume, segment), (start, bytes), tell)?;
    }
    ControlFlow::Continue(())
}

/// A disk of the pool, also one whose contents don't count.
fn any_disk<'d, 'a>(view: &View<'d, 'a>, number: DiskNumber) -> Option<&'d Disk<'a>> {
    view.disks.get(*view.by_number.get(&number)?)
}

/// The records of a copy. What claims to be one of this segment and isn't sound is told as damaged.
fn tell_records(
    disk: &Disk<'_>,
    (volume, segment): (&Volume, &Segment),
    (start, len): (u64, u64),
    tell: Told<'_>,
) -> ControlFlow<()> {
    let seal = segment.seal();
    let mut at = SEGMENT_HEADER_BYTES as u64;
    while at < len {
        let piece_bytes = PIECE_BYTES.min(len - at);
        let Ok(piece_len) = usize::try_from(piece_bytes) else { break };
        let (piece, _) = disk.image.blocks_at(start.saturating_add(at), piece_len);
        let (begin, end) = (at, at + piece_bytes);
        while at < end {
            let from = usize::try_from(at - begin).unwrap_or(usize::MAX);
            let Some(header_len) = piece.get(from..).and_then(claimed_header_len) else {
                at += SECTOR_BYTES as u64;
                continue;
            };
            let fits = at.saturating_add(header_len as u64) <= len;
            let place = start.saturating_add(at);
            let bytes = disk.image.bytes_at(place, header_len).ok().filter(|_| fits);
            let says = Fields::default()
                .with("volume", volume.name.as_str())
                .with("segment", segment.number.0);
            match bytes.as_deref().and_then(|bytes| check_header(bytes, &seal)) {
                Some(header) => {
                    let is_void = segment.end().is_some_and(|end| header.number > end);
                    let bytes = header.len as u64;
                    let kind = kind_of(&header);
                    let place = Place { disk: disk.name(), kind, at: place, bytes };
                    let says = record_fields(says, &header).with("void", is_void);
                    tell(place.is(StructureState::Sound, says))?;
                    at += header.record_len() as u64;
                }
                // An earlier segment's record, most of the time: only one that names this one is of interest.
                None => {
                    let sector = piece.get(from..).unwrap_or_default();
                    if claimed_segment(sector) == Some(seal.generation) {
                        let kind = StructureKind::DataRecord;
                        let bytes = SECTOR_BYTES as u64;
                        let place = Place { disk: disk.name(), kind, at: place, bytes };
                        tell(place.is(StructureState::Damaged, says))?;
                    }
                    at += SECTOR_BYTES as u64;
                }
            }
        }
    }
    ControlFlow::Continue(())
}

fn kind_of(header: &CheckedHeader) -> StructureKind {
    match &header.kind {
        CheckedKind::Data(..) | CheckedKind::Whole(RecordBody::Data { .. }) => {
            StructureKind::DataRecord
        }
        CheckedKind::Whole(RecordBody::Zero { .. }) => StructureKind::ZeroRecord,
        CheckedKind::Whole(RecordBody::Mark) => StructureKind::MarkRecord,
        CheckedKind::Whole(RecordBody::Lost { .. }) => StructureKind::LostRecord,
        CheckedKind::Whole(RecordBody::Intent { sectors, .. }) if sectors.is_empty() => {
            StructureKind::FreshIntent
        }
        CheckedKind::Whole(RecordBody::Intent { .. }) => StructureKind::OverwriteIntent,
    }
}

fn record_fields(says: Fields, header: &CheckedHeader) -> Fields {
    let rows = match &header.kind {
        CheckedKind::Data(rows, _) => Some(*rows),
        CheckedKind::Whole(body) => body.rows(),
    };
    says.with("record", header.number.0)
        .with("after", header.after.0)
        .with("durable", header.witness.durable.0)
        .with("acknowledged", header.witness.acknowledged.0)
        .with("metadata_record", header.witness.metadata.0)
        .with("configuration", header.witness.configuration.0)
        .with_if("generation", rows.map(|rows| rows.group.0))
        .with_if("first_row", rows.map(|rows| rows.first.0))
        .with_if("rows", rows.map(|rows| rows.count))
        .with("payload_bytes", header.record_len() - header.len)
}

/// Tells both slots of each checksum block of each group, on each holder.
pub(super) fn tell_checksums(
    view: &View<'_, '_>,
    volume: &Volume,
    tell: Told<'_>,
) -> ControlFlow<()> {
    for run in volume.runs.values() {
        for index in 0..run.initialised().min(run.count) {
            let group = Group { volume: volume.id, run, index };
            for (number, extent) in group.members() {
                let Some(disk) = any_disk(view, number) else { continue };
                let Some(start) = extent_offset(disk, extent) else { continue };
                tell_holder(view, (volume, &group), disk, start, tell)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn tell_holder(
    view: &View<'_, '_>,
    (volume, group): (&Volume, &Group<'_>),
    disk: &Disk<'_>,
    start: u64,
    tell: Told<'_>,
) -> ControlFlow<()> {
    let shape = view.metadata.shape();
    let generation = group.generation();
    for index in 0..shape.checksum_blocks() {
        for slot in [0, 1] {
            let at = start.saturating_add(shape.checksum_sector(index, slot) * SECTOR_BYTES as u64);
            let bytes = disk.image.bytes_at(at, BLOCK_BYTES).ok();
            let kind = StructureKind::ChecksumBlock;
            let place = Place { disk: disk.name(), kind, at, bytes: BLOCK_BYTES as u64 };
            let says = Fields::default()
                .with("volume", volume.name.as_str())
                .with("generation", generation.0)
                .with("index", index)
                .with("slot", slot);
            let found = bytes.as_deref();
            let found =
                found.and_then(|b| UncheckedChecksumBlock(b).check(generation, index, slot).ok());
            let Some(block) = found else {
                tell(place.is(unsound(bytes.as_deref()), says))?;
                continue;
            };
            let count = |is: fn(&Entry) -> bool| {
                (0..CHECKSUM_ENTRIES).filter(|entry| is(&block.get(*entry))).count()
            };
            let says = says
                .with("epoch", block.version.epoch)
                .with("sequence", block.version.sequence)
                .with("written_rows", count(|entry| matches!(entry, Entry::Written(_))))
                .with("lost_rows", count(|entry| matches!(entry, Entry::Lost)));
            tell(place.is(StructureState::Sound, says))?;
        }
    }
    ControlFlow::Continue(())
}
