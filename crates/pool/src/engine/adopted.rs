//! What an opening adopts of a log, where destaging looks: in memory, by the blocks that records are about.

use std::collections::BTreeMap;

use block::BLOCK_BYTES;

use super::pool::GroupPlace;
use super::volume::Volume;
use crate::format::{Record, RecordBody, RecordNumber, Row, RowRange};
use crate::layout::RowAddress;
use crate::report::Replayed;

impl Volume {
    /// Puts the adopted records where destaging looks, INTENTs excepted: what became of those is found out.
    /// `damaged` are rows, counted from their record's first.
    pub(super) fn adopt(
        &self,
        records: &[Record],
        damaged: &BTreeMap<RecordNumber, Vec<u32>>,
    ) -> Replayed {
        let mut pending = self.pending.borrow_mut();
        let mut replayed = Replayed::default();
        for record in records {
            replayed.records += 1;
            let place = record.body.rows().and_then(|rows| {
                let group = self.adoptable(&rows)?;
                let at = RowAddress { set: group.set, lane: group.lane, row: rows.first };
                Some(self.blocks_from(at, rows.count))
            });
            let lost = damaged.get(&record.number).map_or(&[][..], Vec::as_slice);
            if !lost.is_empty() {
                tracing::error!(
                    volume = %self.name(),
                    "record {} of its log was acknowledged, and {} of its blocks are damaged in every \
                     copy: reading them fails",
                    record.number.0,
                    lost.len()
                );
            }
            for (offset, (block, count)) in place.into_iter().flatten() {
                let body = slice_body(&record.body, offset, count);
                pending.put_record(block, record.number, &body);
                for row in lost.iter().filter(|row| (offset..offset + count).contains(*row)) {
                    pending.lose(block + u64::from(row - offset), record.number);
                }
            }
        }
        replayed
    }

    /// The group that a record's rows are of. A record of one that doesn't exist any more is void.
    pub(super) fn adoptable(&self, rows: &RowRange) -> Option<GroupPlace> {
        let group = self.pool.group_by_generation(rows.group)?;
        let fits = rows.first.0.checked_add(rows.count)? <= self.pool.shape().rows();
        (fits && group.volume == self.id).then_some(group)
    }

    /// Rows of a group as runs of blocks: (offset in the rows, (first block, count)).
    fn blocks_from(&self, at: RowAddress, count: u32) -> Vec<(u32, (u64, u32))> {
        let mut runs: Vec<(u32, (u64, u32))> = Vec::new();
        for offset in 0..count {
            let row = Row(at.row.0 + offset);
            let Some(block) = self.stripes.block_of(RowAddress { row, ..at }) else { continue };
            match runs.last_mut() {
                Some((_, (first, run))) if *first + u64::from(*run) == block.0 => *run += 1,
                _ => runs.push((offset, (block.0, 1))),
            }
        }
        runs
    }
}

/// The part of a record's body for `count` rows from `offset`.
fn slice_body(body: &RecordBody, offset: u32, count: u32) -> RecordBody {
    let part =
        |rows: &RowRange| RowRange { group: rows.group, first: Row(rows.first.0 + offset), count };
    let window = offset as usize..(offset + count) as usize;
    match body {
        RecordBody::Data { rows, checksums, payload } => RecordBody::Data {
            rows: part(rows),
            checksums: checksums.get(window.clone()).unwrap_or_default().to_vec(),
            payload: payload.slice(window.start * BLOCK_BYTES, window.end * BLOCK_BYTES),
        },
        RecordBody::Zero { rows, discard } => {
            RecordBody::Zero { rows: part(rows), discard: *discard }
        }
        RecordBody::Lost { rows, checksums } => RecordBody::Lost {
            rows: part(rows),
            checksums: checksums.get(window).unwrap_or_default().to_vec(),
        },
        // An INTENT is decided as a whole.
        RecordBody::Intent { .. } | RecordBody::Mark => RecordBody::Mark,
    }
}
