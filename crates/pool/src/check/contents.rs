//! What the disks hold of each block of a volume, for comparing with somebody who knows what it should
//! be: the newest contents, from the log or in place, and how many durable copies they have.

use std::collections::BTreeMap;

use block::{BLOCK_BYTES, Buffer};

use super::log_scan::{CopyPlace, Found};
use super::space::volume_offset;
use super::view::View;
use crate::format::{GenerationId, RecordNumber, Role, Row, row_checksum};
use crate::metadata::Volume;

/// A block of a volume. Blocks that were never written, or were given back, are not told of; neither are
/// those of which no checksum block can be believed, or no disk was given: these are findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopies<'b> {
    /// The pool's id.
    pub pool: uuid::Uuid,
    /// The volume's name.
    pub volume: &'b str,
    /// Its offset in the volume.
    pub offset_bytes: u64,
    /// Its contents, 4 KiB; `None` where no copy is right.
    pub contents: Option<&'b [u8]>,
    /// Right copies of these contents.
    pub copies: u32,
    /// The log record that has them, as long as they aren't in place.
    pub record: Option<u64>,
}

/// Is told of each block.
pub type Visit<'v> = &'v dyn Fn(&BlockCopies<'_>);

/// What the newest record of a row says.
struct NewestRow<'d, 'a> {
    record: RecordNumber,
    /// `None` for zeros.
    crc: Option<u32>,
    /// Copies of the record, for zeros.
    copies: u32,
    /// Where the row may be: disk and offset.
    places: Vec<(&'d super::disks::Disk<'a>, u64)>,
}

/// The newest contents of the rows that a log names.
#[derive(Default)]
pub(super) struct LogRows<'d, 'a>(BTreeMap<(GenerationId, u32), NewestRow<'d, 'a>>);

impl<'d, 'a> LogRows<'d, 'a> {
    /// Adds the rows of a record that counts.
    pub(super) fn add(&mut self, record: &Found, copies: &[CopyPlace<'d, 'a>], rows_max: u32) {
        let Some(rows) = record.rows.filter(|_| !record.is_intent) else { return };
        let end = rows.first.0.saturating_add(rows.count).min(rows_max);
        for row in rows.first.0..end {
            let known = self.0.get(&(rows.group, row));
            if known.is_some_and(|known| known.record > record.number) {
                continue;
            }
            let index = row - rows.first.0;
            let crc = record.checksums.get(index as usize).copied();
            let payload = record.at.saturating_add(record.header_bytes);
            let at = payload.saturating_add(u64::from(index) * BLOCK_BYTES as u64);
            let current = copies.iter().zip(&record.headers);
            let has_rows = crc.is_some() && !record.is_lost;
            let current = current.filter(|(copy, has)| copy.current && **has && has_rows);
            let places = current.map(|(copy, _)| (copy.disk, copy.start.saturating_add(at)));
            let newest = NewestRow {
                record: record.number,
                crc,
                copies: record.copies,
                places: places.collect(),
            };
            self.0.insert((rows.group, row), newest);
        }
    }

    /// The record that a row is named by last.
    pub(super) fn newest(&self, row: (GenerationId, u32)) -> Option<RecordNumber> {
        self.0.get(&row).map(|newest| newest.record)
    }

    /// A newer record says what the row is.
    pub(super) fn forget(&mut self, row: (GenerationId, u32)) {
        self.0.remove(&row);
    }

    /// Tells of all of them.
    pub(super) fn tell(&self, view: &View<'_, '_>, volume: &Volume, visit: Visit<'_>) {
        let zeros = Buffer::zeroed(BLOCK_BYTES);
        for ((generation, row), newest) in &self.0 {
            // Records of a group that doesn't exist any more are void.
            let Some(group) = view.metadata.group_by_generation(*generation) else { continue };
            let (set, lane, row) = (group.set(), group.lane(), Row(*row));
            let offset = volume_offset(view.metadata, volume, set, lane, row);
            let Some(offset_bytes) = offset.filter(|_| group.volume == volume.id) else { continue };
            let mut told = BlockCopies {
                pool: view.pool.0,
                volume: &volume.name,
                offset_bytes,
                contents: Some(&zeros),
                copies: newest.copies,
                record: Some(newest.record.0),
            };
            let mut found: Option<Vec<u8>> = None;
            if let Some(crc) = newest.crc {
                told.copies = 0;
                for (disk, at) in &newest.places {
                    let block = disk.image.bytes_at(*at, BLOCK_BYTES).ok();
                    let is_right = |block: &Vec<u8>| {
                        row_checksum(*generation, row, Role::Data(0), block) == crc
                    };
                    if let Some(block) = block.filter(is_right) {
                        told.copies += 1;
                        found = Some(block);
                    }
                }
                told.contents = found.as_deref();
            }
            visit(&told);
        }
    }
}
