//! Reading a segment back from all of its copies that are in sight.
//!
//! Copies are equal byte for byte as far as they go, so they are read side by side: at each place the
//! record with the next number is taken from whichever copy has it, its rows each from whichever copy
//! has a sound one. Where no copy has the next record, the log ends; what lies behind is void. Two
//! sound headers that differ under one (epoch, number) are two histories: that is refused, because
//! either choice could take back something that was acknowledged.

use std::collections::BTreeSet;

use block::{BLOCK_BYTES, Buffer, BufferMut};

use super::record::{CheckedHeader, CheckedKind, check_header};
use super::{Record, RecordBody, RowRange, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::{RecordNumber, Role, Row, SegmentNumber, row_checksum};

/// Two copies tell different histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("copies {first} and {second} of {segment} hold different {number}")]
pub struct Conflict {
    /// The segment.
    pub segment: SegmentNumber,
    /// The record that they differ in.
    pub number: RecordNumber,
    /// Index of one copy, in the order given.
    pub first: usize,
    /// Index of another.
    pub second: usize,
}

/// What a segment's copies hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedSegment {
    /// The records, by number without a gap, from the segment's first on.
    pub records: Vec<Record>,
    /// CRC of the record before the first; 0 when there are no records.
    pub previous_crc: u32,
    /// Byte offset in the segment behind the last record's batch.
    pub end: usize,
    /// For each copy the number of the last record that it holds soundly itself, without a gap.
    pub reached: Vec<Option<RecordNumber>>,
}

impl MergedSegment {
    /// The number that would follow.
    pub fn next_number(&self, header: &SegmentHeader) -> RecordNumber {
        self.records.last().map_or(header.first_record, |record| record.number.next())
    }
}

/// Reads a segment from its copies, each the whole segment from its header block on (of which only
/// the records are read: who has the copy has checked the header). `previous_crc` is the CRC of the
/// record before the segment's first, when that is known.
pub fn merge_segment(
    header: &SegmentHeader,
    previous_crc: Option<u32>,
    copies: &[Buffer],
) -> Result<MergedSegment, Conflict> {
    let mut merged = MergedSegment {
        records: Vec::new(),
        previous_crc: 0,
        end: SEGMENT_HEADER_BYTES,
        reached: vec![None; copies.len()],
    };
    let mut chain = previous_crc;
    let mut behind = BTreeSet::new();
    let mut at = SEGMENT_HEADER_BYTES;
    loop {
        let number = merged.next_number(header);
        let Some(found) = find(header, number, chain, copies, at)? else {
            // The batch may have ended here: the next one starts at the next block.
            if at.is_multiple_of(BLOCK_BYTES) {
                return Ok(merged);
            }
            at = at.next_multiple_of(BLOCK_BYTES);
            continue;
        };
        if merged.records.is_empty() {
            merged.previous_crc = found.header.previous_crc;
        }
        for (index, reached) in merged.reached.iter_mut().enumerate() {
            if !found.sound.contains(&index) {
                behind.insert(index);
            } else if !behind.contains(&index) {
                *reached = Some(number);
            }
        }
        chain = Some(found.header.crc);
        at += found.body.encoded_len();
        merged.end = at.next_multiple_of(BLOCK_BYTES);
        merged.records.push(Record { number, crc: found.header.crc, body: found.body });
    }
}

/// A record found in the copies.
struct Found {
    header: CheckedHeader,
    body: RecordBody,
    /// The copies that hold all of it.
    sound: BTreeSet<usize>,
}

fn find(
    segment: &SegmentHeader,
    number: RecordNumber,
    chain: Option<u32>,
    copies: &[Buffer],
    at: usize,
) -> Result<Option<Found>, Conflict> {
    let mut found: Option<(usize, CheckedHeader)> = None;
    let mut holders = BTreeSet::new();
    for (index, copy) in copies.iter().enumerate() {
        let bytes = copy.get(at..).unwrap_or_default();
        let Some(header) = check_header(bytes, segment.birth, segment.epoch, number) else {
            continue;
        };
        if chain.is_some_and(|crc| crc != header.previous_crc) {
            continue;
        }
        match &found {
            Some((first, other)) if *other != header => {
                let (first, second) = (*first, index);
                return Err(Conflict { segment: segment.number, number, first, second });
            }
            Some(_) => {}
            None => found = Some((index, header)),
        }
        holders.insert(index);
    }
    let Some((_, header)) = found else { return Ok(None) };
    match header.kind.clone() {
        CheckedKind::Whole(body) => Ok(Some(Found { header, body, sound: holders })),
        CheckedKind::Data(rows, checksums) => {
            let payload_at = at + header.len;
            let Some((payload, sound)) = gather(&rows, &checksums, copies, payload_at) else {
                return Ok(None);
            };
            let sound = sound.intersection(&holders).copied().collect();
            Ok(Some(Found { header, body: RecordBody::Data { rows, checksums, payload }, sound }))
        }
    }
}

/// The rows of a DATA record, each from a copy that has it, and the copies that have them all; `None`
/// when some row is nowhere.
fn gather(
    rows: &RowRange,
    checksums: &[u32],
    copies: &[Buffer],
    at: usize,
) -> Option<(Buffer, BTreeSet<usize>)> {
    let len = checksums.len() * BLOCK_BYTES;
    let row_is_sound = |index: usize, row: usize| {
        let start = at + row * BLOCK_BYTES;
        copies[index].get(start..start + BLOCK_BYTES).is_some_and(|block| {
            let place = Row(rows.first.0 + row as u32);
            row_checksum(rows.group, place, Role::Data(0), block) == checksums[row]
        })
    };
    let sound: BTreeSet<usize> = (0..copies.len())
        .filter(|index| (0..checksums.len()).all(|row| row_is_sound(*index, row)))
        .collect();
    if let Some(index) = sound.first() {
        return Some((copies[*index].slice(at, at + len), sound));
    }
    // Announced rows beyond the end of every copy mustn't make anything be reserved.
    if copies.iter().all(|copy| copy.len() < at + len) {
        return None;
    }
    let mut payload = BufferMut::zeroed(len);
    for row in 0..checksums.len() {
        let index = (0..copies.len()).find(|index| row_is_sound(*index, row))?;
        let start = at + row * BLOCK_BYTES;
        payload[row * BLOCK_BYTES..(row + 1) * BLOCK_BYTES]
            .copy_from_slice(&copies[index][start..start + BLOCK_BYTES]);
    }
    Some((payload.freeze(), sound))
}
