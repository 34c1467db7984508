//! Reading a segment back from all of its copies that are present.
//!
//! Copies are equal byte for byte as far as they go. Each is searched for sound headers, sector by
//! sector but not within a record's rows; so damage hides nothing that lies behind it, and whether a
//! number that is missing was never there or is damaged is for who knows all segments to judge. Rows
//! are taken each from whichever copy has a sound one. Two sound headers that differ under one number,
//! or don't follow each other, are two histories: that is refused, because either choice could take
//! back something that was acknowledged. The same header at two places is one record that a disk wrote
//! or read where it didn't belong: it counts, but no copy counts as having it.

use std::collections::{BTreeMap, BTreeSet};

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
    let mut headers: BTreeMap<RecordNumber, Sighting> = BTreeMap::new();
    for (index, copy) in copies.iter().enumerate() {
        for (at, header) in headers_of(segment, copy) {
            let number = header.number;
            if number <= released || end.is_some_and(|end| number > end) {
                continue;
            }
            let sighting = headers.entry(number).or_insert_with(|| Sighting {
                holders: vec![false; copies.len()],
                places: BTreeSet::new(),
                header: header.clone(),
            });
            if sighting.header != header {
                let first = sighting.holders.iter().position(|holds| *holds).unwrap_or(index);
                return Err(Conflict::Copies { number, first, second: index });
            }
            sighting.holders[index] = true;
            sighting.places.insert(at);
        }
    }
    let mut contents = SegmentContents::default();
    let mut before: Option<(RecordNumber, u32)> = None;
    for (number, Sighting { mut holders, places, header }) in headers {
        if before.is_some_and(|(before, crc)| before.next() == number && crc != header.previous_crc)
        {
            return Err(Conflict::Chain { number });
        }
        before = Some((number, header.crc));
        contents.witness = contents.witness.max(header.witness);
        if places.len() > 1 {
            holders.fill(false);
        }
        let crc = header.crc;
        let mut lost = Vec::new();
        let body = match header.kind {
            CheckedKind::Whole(body) => Some(body),
            CheckedKind::Data(rows, checksums) => {
                let starts: Vec<usize> = places.iter().map(|at| at + header.len).collect();
                let gathered = gather(&rows, &checksums, copies, &starts, &mut holders);
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

/// Where a record's header was seen.
struct Sighting {
    /// For each copy, whether it has it.
    holders: Vec<bool>,
    /// More than one if something strayed.
    places: BTreeSet<usize>,
    header: CheckedHeader,
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

/// The rows of a DATA record, each from a copy that has it, and those that none has. They begin at one of
/// `starts`; `holders` keeps the copies that have them all.
fn gather<'c>(
    rows: &RowRange,
    checksums: &[u32],
    copies: &'c [Buffer],
    starts: &[usize],
    holders: &mut [bool],
) -> Option<(Buffer, Vec<u32>)> {
    let len = checksums.len() * BLOCK_BYTES;
    let sound_row = |copy: &'c Buffer, start: usize, row: usize| {
        let at = start + row * BLOCK_BYTES;
        let place = Row(rows.first.0 + row as u32);
        let is_sound =
            |block: &&[u8]| row_checksum(rows.group, place, Role::Data(0), block) == checksums[row];
        copy.get(at..at + BLOCK_BYTES).filter(is_sound)
    };
    for (copy, holds) in copies.iter().zip(holders.iter_mut()) {
        let has_all =
            |start: &usize| (0..checksums.len()).all(|row| sound_row(copy, *start, row).is_some());
        *holds = *holds && starts.iter().any(has_all);
    }
    if let ([start], Some((copy, _))) =
        (starts, copies.iter().zip(&*holders).find(|(_, holds)| **holds))
    {
        return Some((copy.slice(*start, start + len), Vec::new()));
    }
    // Announced rows beyond the end of every copy mustn't make anything be reserved.
    let fits = |copy: &Buffer| starts.iter().any(|start| copy.len() >= start + len);
    if !copies.iter().any(fits) {
        return None;
    }
    let mut payload = BufferMut::zeroed(len);
    let mut lost = Vec::new();
    for (row, window) in payload.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let mut places = copies.iter().flat_map(|copy| starts.iter().map(move |at| (copy, *at)));
        match places.find_map(|(copy, start)| sound_row(copy, start, row)) {
            Some(sound) => window.copy_from_slice(sound),
            None => lost.push(row as u32),
        }
    }
    Some((payload.freeze(), lost))
}
