//! Reading a segment back from all of its copies that are in sight.
//!
//! Copies are equal byte for byte as far as they go. Each is searched for sound headers, sector by
//! sector but not within a record's rows; so damage hides nothing that lies behind it, and whether a
//! number that is missing was never there or is damaged is for who knows all segments to judge. Rows
//! are taken each from whichever copy has a sound one. Two sound headers that differ under one number,
//! or don't follow each other, are two histories: that is refused, because either choice could take
//! back something that was acknowledged.

use std::collections::BTreeMap;

use block::{BLOCK_BYTES, Buffer, BufferMut, SECTOR_BYTES};

use super::record::{CheckedHeader, CheckedKind, check_header};
use super::{Record, RecordBody, RowRange, SEGMENT_HEADER_BYTES, SegmentSeal, Stamp};
use crate::format::{RecordNumber, Role, Row, row_checksum};

/// Two copies tell different histories, or one copy tells two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Copies (by index, in the order given) hold different records under one number.
    #[error("copies {first} and {second} of a segment of its log hold different {number}")]
    Copies {
        /// The number.
        number: RecordNumber,
        /// One copy.
        first: usize,
        /// Another.
        second: usize,
    },
    /// A record isn't the successor of the one with the number before.
    #[error("{number} does not follow the record before it in its log")]
    Chain {
        /// Its number.
        number: RecordNumber,
    },
}

/// A record of which some copy has a sound header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// The record, with zeros for rows that are damaged in every copy; `None` when it announces more than
    /// any copy has room for.
    pub record: Option<Record>,
    /// Those rows, counted from its first.
    pub lost: Vec<u32>,
    /// For each copy, whether it holds all of it.
    pub holders: Vec<bool>,
}

/// What a segment's copies hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentContents {
    /// By number, perhaps with gaps.
    pub records: BTreeMap<RecordNumber, FoundRecord>,
    /// The most that any of them witnesses.
    pub witness: Stamp,
}

/// Reads a segment's records beyond `released` and up to `end`, from its copies, each the whole segment
/// from its header block on. (The header itself isn't needed: each record names the segment.)
pub fn read_segment(
    segment: &SegmentSeal,
    released: RecordNumber,
    end: Option<RecordNumber>,
    copies: &[Buffer],
) -> Result<SegmentContents, Conflict> {
    let mut headers: BTreeMap<RecordNumber, (usize, usize, CheckedHeader)> = BTreeMap::new();
    let mut having: BTreeMap<RecordNumber, Vec<bool>> = BTreeMap::new();
    for (index, copy) in copies.iter().enumerate() {
        for (at, header) in headers_of(segment, copy) {
            let number = header.number;
            if number <= released || end.is_some_and(|end| number > end) {
                continue;
            }
            let having = having.entry(number).or_insert_with(|| vec![false; copies.len()]);
            having[index] = true;
            match headers.entry(number) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert((index, at, header));
                }
                std::collections::btree_map::Entry::Occupied(known) => {
                    let (first, place, other) = known.get();
                    if *place != at || *other != header {
                        return Err(Conflict::Copies { number, first: *first, second: index });
                    }
                }
            }
        }
    }
    let mut contents = SegmentContents::default();
    let mut before: Option<(RecordNumber, u32)> = None;
    for (number, (_, at, header)) in headers {
        if before.is_some_and(|(before, crc)| before.next() == number && crc != header.previous_crc)
        {
            return Err(Conflict::Chain { number });
        }
        before = Some((number, header.crc));
        contents.witness = contents.witness.max(header.witness);
        let mut holders = having.remove(&number).unwrap_or_default();
        let crc = header.crc;
        let mut lost = Vec::new();
        let body = match header.kind {
            CheckedKind::Whole(body) => Some(body),
            CheckedKind::Data(rows, checksums) => {
                let gathered = gather(&rows, &checksums, copies, at + header.len, &mut holders);
                gathered.map(|(payload, damaged)| {
                    lost = damaged;
                    RecordBody::Data { rows, checksums, payload }
                })
            }
        };
        let record = body.map(|body| Record { number, crc, body });
        contents.records.insert(number, FoundRecord { record, lost, holders });
    }
    Ok(contents)
}

/// The sound headers in a copy, and where they are.
fn headers_of(segment: &SegmentSeal, copy: &[u8]) -> Vec<(usize, CheckedHeader)> {
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while at + SECTOR_BYTES <= copy.len() {
        match check_header(&copy[at..], segment) {
            Some(header) => {
                let len = header.record_len();
                found.push((at, header));
                at += len;
            }
            None => at += SECTOR_BYTES,
        }
    }
    found
}

/// The rows of a DATA record, each from a copy that has it, and those that none has. `holders` keeps the
/// copies that have them all.
fn gather(
    rows: &RowRange,
    checksums: &[u32],
    copies: &[Buffer],
    at: usize,
    holders: &mut [bool],
) -> Option<(Buffer, Vec<u32>)> {
    let len = checksums.len() * BLOCK_BYTES;
    let row_is_sound = |copy: &Buffer, row: usize| {
        let start = at + row * BLOCK_BYTES;
        copy.get(start..start + BLOCK_BYTES).is_some_and(|block| {
            let place = Row(rows.first.0 + row as u32);
            row_checksum(rows.group, place, Role::Data(0), block) == checksums[row]
        })
    };
    for (copy, holds) in copies.iter().zip(holders.iter_mut()) {
        *holds = *holds && (0..checksums.len()).all(|row| row_is_sound(copy, row));
    }
    if let Some((copy, _)) = copies.iter().zip(&*holders).find(|(_, holds)| **holds) {
        return Some((copy.slice(at, at + len), Vec::new()));
    }
    // Announced rows beyond the end of every copy mustn't make anything be reserved.
    if copies.iter().all(|copy| copy.len() < at + len) {
        return None;
    }
    let mut payload = BufferMut::zeroed(len);
    let mut lost = Vec::new();
    for (row, window) in payload.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        match copies.iter().find(|copy| row_is_sound(copy, row)) {
            Some(copy) => {
                let start = at + row * BLOCK_BYTES;
                window.copy_from_slice(&copy[start..start + BLOCK_BYTES]);
            }
            None => lost.push(row as u32),
        }
    }
    Some((payload.freeze(), lost))
}
