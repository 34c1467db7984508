//! The metadata area of a disk: both checkpoints with their tables and sections, and both logs.

use std::ops::ControlFlow;

use block::BLOCK_BYTES;

use super::{Fields, Place, StructureKind, StructureState, Told, Value, unsound};
use crate::check::area::place_bytes;
use crate::check::disks::Disk;
use crate::format::{PoolId, Variant};
use crate::metadata::{
    AreaLayout, BlockRun, CheckpointHead, CheckpointSlot, ENTRY_HEAD_BYTES, Sum, Table,
    check_entry, check_header, decode_records, entry_claim,
};

struct Area<'d, 'a> {
    pool: PoolId,
    disk: &'d Disk<'a>,
    start: u64,
    layout: AreaLayout,
}

/// Tells the area that a disk's label names.
pub(super) fn tell_area(pool: PoolId, disk: &Disk<'_>, tell: Told<'_>) -> ControlFlow<()> {
    let place = disk.label.area.and_then(|area| disk.label.geometry.run_place(area));
    let Some((start, bytes)) = place else { return ControlFlow::Continue(()) };
    let Some(layout) = AreaLayout::new(bytes) else { return ControlFlow::Continue(()) };
    let area = Area { pool, disk, start: start.byte_offset(), layout };
    for slot in [0, 1] {
        area.tell_checkpoint(slot, tell)?;
        area.tell_log(slot, tell)?;
    }
    ControlFlow::Continue(())
}

impl Area<'_, '_> {
    fn place(&self, kind: StructureKind, at: u64, bytes: u64) -> Place<'_> {
        Place { disk: self.disk.name(), kind, at, bytes }
    }

    fn tell_checkpoint(&self, slot: usize, tell: Told<'_>) -> ControlFlow<()> {
        let at = self.start + self.layout.checkpoint_offset(slot);
        let place = self.place(StructureKind::CheckpointHeader, at, BLOCK_BYTES as u64);
        let header = self.disk.image.bytes_at(at, BLOCK_BYTES).ok();
        let judged =
            header.as_deref().map(|bytes| check_header(bytes, self.pool, slot, &self.layout));
        let says = Fields::default().with("slot", slot);
        let Some(CheckpointSlot::Sound(head)) = judged else {
            return tell(place.is(unsound(header.as_deref()), says));
        };
        let says = says
            .with("sequence", head.stamp.sequence)
            .with("epoch", head.stamp.epoch.0)
            .with("metadata_record", head.stamp.number.0)
            .with("table_bytes", head.table_bytes)
            .with_if("signed_by", head.by.map(|by| by.to_string()));
        tell(place.is(StructureState::Sound, says))?;
        self.tell_named(&head, slot, tell)
    }

    /// The table of a checkpoint, and what that names.
    fn tell_named(&self, head: &CheckpointHead, slot: usize, tell: Told<'_>) -> ControlFlow<()> {
        let bytes = self.sound(&head.place, head.table_sum());
        let table = bytes.and_then(|bytes| Table::decode(self.pool, &bytes, &self.layout).ok());
        let says = Fields::default().with("slot", slot);
        let says = says.with_if("sections", table.as_ref().map(|table| table.sections.len()));
        let says = says.with_if("name", table.as_ref().map(|table| table.identity.name.as_str()));
        let is = state_of(table.is_some());
        self.tell_runs(
            StructureKind::CheckpointTable,
            (&head.place, head.table_bytes),
            is,
            &says,
            tell,
        )?;
        for section in table.iter().flat_map(|table| &table.sections) {
            let bytes = self.sound(&section.place, section.sum());
            let records = bytes.and_then(|bytes| decode_records(&bytes).ok());
            let says = Fields::default()
                .with("slot", slot)
                .with("of", section.kind.variant())
                .with("section_bytes", section.bytes)
                .with_if("records", records.as_ref().map(Vec::len));
            let is = state_of(records.is_some());
            let place = (section.place.as_slice(), section.bytes);
            self.tell_runs(StructureKind::CheckpointSection, place, is, &says, tell)?;
        }
        ControlFlow::Continue(())
    }

    /// Each run of blocks of a place, as far as it holds something.
    fn tell_runs(
        &self,
        kind: StructureKind,
        (place, mut left): (&[BlockRun], u64),
        state: StructureState,
        says: &Fields,
        tell: Told<'_>,
    ) -> ControlFlow<()> {
        for run in place {
            let bytes = run.bytes().min(left);
            left -= bytes;
            let at = self.start + self.layout.run_offset(run);
            tell(self.place(kind, at, bytes).is(state, says.clone()))?;
        }
        ControlFlow::Continue(())
    }

    fn sound(&self, place: &[BlockRun], sum: Sum) -> Option<Vec<u8>> {
        place_bytes(self.disk, (self.start, &self.layout), place, sum)
    }

    /// The entries of a log, of whichever checkpoint: behind the newest ones those of an earlier use follow. What
    /// claims to be an entry of this pool and isn't is told as damaged.
    fn tell_log(&self, slot: usize, tell: Told<'_>) -> ControlFlow<()> {
        let log = self.start + self.layout.log_offset(slot);
        let end = log + self.layout.log_bytes();
        let mut at = log;
        while at < end {
            let head = self.disk.image.bytes_at(at, ENTRY_HEAD_BYTES).ok();
            let claim = head.as_deref().and_then(|head| entry_claim(head, self.pool));
            let Some(claim) = claim else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            let longest = self.layout.entry_bytes_max();
            let bytes = (claim.bytes as u64).min(longest).min(end - at);
            let whole = usize::try_from(bytes).ok();
            let whole = whole.and_then(|len| self.disk.image.bytes_at(at, len).ok());
            let entry = whole.as_deref().and_then(|whole| check_entry(whole, self.pool));
            let says = Fields::default()
                .with("slot", slot)
                .with("sequence", claim.sequence)
                .with("epoch", claim.epoch.0)
                .with("metadata_record", claim.number.0);
            let Some(entry) = entry else {
                let place = self.place(StructureKind::MetadataEntry, at, ENTRY_HEAD_BYTES as u64);
                let read = whole.is_some();
                let state = if read { StructureState::Damaged } else { StructureState::Unreadable };
                tell(place.is(state, says))?;
                at += BLOCK_BYTES as u64;
                continue;
            };
            let records = decode_records(entry.payload).unwrap_or_default();
            let names =
                records.iter().map(|record| Value::from(record.variant())).collect::<Vec<_>>();
            let says = says.with("configuration", entry.config.0).with("records", names);
            let place = self.place(StructureKind::MetadataEntry, at, bytes);
            tell(place.is(StructureState::Sound, says))?;
            at += entry.len as u64;
        }
        ControlFlow::Continue(())
    }
}

fn state_of(is_sound: bool) -> StructureState {
    if is_sound { StructureState::Sound } else { StructureState::Damaged }
}
