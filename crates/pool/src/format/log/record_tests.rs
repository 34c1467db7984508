#![allow(clippy::unwrap_used)]

use super::*;
use crate::format::log::{Conflict, SEGMENT_HEADER_BYTES, SegmentHeader, merge_segment};
use crate::format::{SegmentNumber, VolumeId};

const SEGMENT_BLOCKS: usize = 64;

fn header() -> SegmentHeader {
    SegmentHeader {
        volume: VolumeId(1),
        blocks: SEGMENT_BLOCKS as u32,
        number: SegmentNumber(4),
        epoch: Epoch(5),
        birth: BirthId(77),
        first_record: RecordNumber(11),
    }
}

fn tail() -> LogTail {
    LogTail { segment: BirthId(77), epoch: Epoch(5), next: RecordNumber(11), previous_crc: 0xfeed }
}

fn data(row: u32, rows: usize, fill: u8) -> RecordBody {
    RecordBody::data(BirthId(3), Row(row), Buffer::copy_of(&vec![fill; rows * BLOCK_BYTES]))
}

fn zero(row: u32) -> RecordBody {
    let rows = RowRange { group: BirthId(4), first: Row(row), count: 300 };
    RecordBody::Zero { rows, discard: row % 2 == 1 }
}

fn intent() -> RecordBody {
    let rows = RowRange { group: BirthId(4), first: Row(9), count: 200 };
    RecordBody::Intent { rows, checksums: (0..200).collect() }
}

/// A segment's bytes being written.
struct Copy {
    bytes: Vec<u8>,
    at: usize,
    tail: LogTail,
}

impl Copy {
    fn new() -> Copy {
        Copy {
            bytes: vec![0; SEGMENT_BLOCKS * BLOCK_BYTES],
            at: SEGMENT_HEADER_BYTES,
            tail: tail(),
        }
    }

    fn write(&mut self, bodies: &[RecordBody]) -> std::ops::Range<usize> {
        let batch = encode_batch(self.tail, bodies);
        let range = self.at..self.at + batch.bytes.len();
        self.bytes[range.clone()].copy_from_slice(&batch.bytes);
        self.at = range.end;
        self.tail = batch.tail;
        range
    }

    fn buffer(&self) -> Buffer {
        Buffer::copy_of(&self.bytes)
    }
}

/// Two batches with all kinds of records.
fn sample() -> (Copy, Vec<RecordBody>) {
    let bodies =
        vec![data(5, 2, 0xaa), zero(8), intent(), RecordBody::Mark(Mark { code: 2, value: 9 })];
    let mut copy = Copy::new();
    copy.write(&bodies[..3]);
    copy.write(&bodies[3..]);
    let more = data(9, 1, 0xbb);
    copy.write(std::slice::from_ref(&more));
    (copy, bodies.into_iter().chain([more]).collect())
}

#[test]
fn all_kinds_round_trip_over_batches() {
    let (copy, bodies) = sample();
    let merged = merge_segment(&header(), Some(0xfeed), &[copy.buffer()]).unwrap();
    let found: Vec<_> = merged.records.iter().map(|record| record.body.clone()).collect();
    assert_eq!(found, bodies);
    let numbers: Vec<_> = merged.records.iter().map(|record| record.number.0).collect();
    assert_eq!(numbers, [11, 12, 13, 14, 15]);
    assert_eq!(merged.end, copy.at);
    assert_eq!(merged.previous_crc, 0xfeed);
    assert_eq!(merged.records[4].crc, copy.tail.previous_crc);
    assert_eq!(merged.reached, [Some(RecordNumber(15))]);
}

#[test]
fn every_damaged_byte_ends_the_log_there() {
    let mut copy = Copy::new();
    let first = copy.write(&[data(5, 1, 0xaa)]);
    let second = copy.write(&[data(6, 1, 0xab), zero(3)]);
    let used = first.start..second.start + 512 + 4096 + 512;
    for at in used {
        let mut bytes = copy.bytes.clone();
        bytes[at] ^= 2;
        let merged = merge_segment(&header(), None, &[Buffer::copy_of(&bytes)]).unwrap();
        let expected = if at < first.start + 512 + 4096 {
            0
        } else if at < first.end {
            // The padding of a batch says nothing.
            3
        } else if at < second.start + 512 + 4096 {
            1
        } else {
            2
        };
        assert_eq!(merged.records.len(), expected, "byte {at}");
    }
}

#[test]
fn two_copies_make_up_for_each_other() {
    let (copy, bodies) = sample();
    let (mut a, mut b) = (copy.bytes.clone(), copy.bytes.clone());
    // The first row of record 11 is damaged in one copy, the second in the other, and record 13 in
    // the first copy only.
    a[SEGMENT_HEADER_BYTES + 512 + 100] ^= 1;
    b[SEGMENT_HEADER_BYTES + 512 + 4096 + 100] ^= 1;
    a[SEGMENT_HEADER_BYTES + 512 + 2 * 4096 + 512 + 70] ^= 1;
    let copies = [Buffer::copy_of(&a), Buffer::copy_of(&b)];
    let merged = merge_segment(&header(), None, &copies).unwrap();
    let found: Vec<_> = merged.records.iter().map(|record| record.body.clone()).collect();
    assert_eq!(found, bodies);
    assert_eq!(merged.reached, [None, None]);
}

#[test]
fn a_lagging_copy_adds_nothing_and_takes_nothing() {
    let (copy, bodies) = sample();
    let mut late = Copy::new();
    late.write(&bodies[..3]);
    let merged = merge_segment(&header(), None, &[late.buffer(), copy.buffer()]).unwrap();
    assert_eq!(merged.records.len(), 5);
    assert_eq!(merged.reached, [Some(RecordNumber(13)), Some(RecordNumber(15))]);
}

#[test]
fn two_histories_are_refused() {
    let (mut a, mut b) = (Copy::new(), Copy::new());
    a.write(&[data(1, 1, 1)]);
    b.write(&[data(1, 1, 1)]);
    a.write(&[data(2, 1, 2)]);
    b.write(&[data(2, 1, 3)]);
    let found = merge_segment(&header(), None, &[a.buffer(), b.buffer()]);
    let number = RecordNumber(12);
    assert_eq!(found, Err(Conflict { segment: SegmentNumber(4), number, first: 0, second: 1 }));
}

#[test]
fn records_of_other_segments_epochs_and_chains_are_void() {
    let (copy, _) = sample();
    let none = |header: SegmentHeader, previous| {
        let merged = merge_segment(&header, previous, &[copy.buffer()]).unwrap();
        assert!(merged.records.is_empty());
        assert_eq!(merged.end, SEGMENT_HEADER_BYTES);
    };
    none(SegmentHeader { birth: BirthId(78), ..header() }, None);
    none(SegmentHeader { epoch: Epoch(6), ..header() }, None);
    none(SegmentHeader { first_record: RecordNumber(12), ..header() }, None);
    none(header(), Some(1));
}

#[test]
fn a_record_that_survived_a_torn_batch_does_not_join_the_next_history() {
    // A batch of 11 and 12 was torn so that only 12 reached the disk; a batch with another 11 was
    // then written over it. Without the chain the old 12 would follow the new 11.
    let mut torn = Copy::new();
    torn.write(&[data(1, 1, 1), data(2, 1, 2)]);
    let mut copy = Copy::new();
    copy.write(&[data(1, 1, 9)]);
    let second = SEGMENT_HEADER_BYTES + 512 + 4096;
    let end = second + 512 + 4096;
    copy.bytes[second..end].copy_from_slice(&torn.bytes[second..end]);
    let merged = merge_segment(&header(), None, &[copy.buffer()]).unwrap();
    assert_eq!(merged.records.len(), 1);
}

#[test]
fn hostile_lengths_reserve_nothing() {
    // A sound header that announces the most rows, at the end of a short segment.
    let rows = RowRange { group: BirthId(1), first: Row(0), count: RECORD_ROWS_MAX };
    let count = RECORD_ROWS_MAX as usize;
    let body = RecordBody::Intent { rows, checksums: vec![0; count] };
    let batch = encode_batch(tail(), &[body]);
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    bytes.extend_from_slice(&batch.bytes);
    let len = header_len_for(count);
    let record = &mut bytes[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + len];
    KIND.put_number(record, KIND_DATA);
    let crc = crc_without(record, CRC);
    CRC.put_number(record, u64::from(crc));
    let merged = merge_segment(&header(), None, &[Buffer::copy_of(&bytes)]).unwrap();
    assert!(merged.records.is_empty());
    for cut in [0, 100, 4096, 4097, 4160, 4608] {
        let short = Buffer::copy_of(&bytes[..cut]);
        assert!(merge_segment(&header(), None, &[short]).unwrap().records.is_empty());
    }
}

#[test]
fn golden_bytes() {
    let batch = encode_batch(tail(), &[data(5, 1, 0)]);
    assert_eq!(batch.bytes.len(), 8192);
    assert_eq!(batch.numbers, (RecordNumber(11), RecordNumber(11)));
    let header = &batch.bytes[..512];
    assert_eq!(&header[..4], b"epLR");
    assert_eq!(&header[8..16], &[1, 0, 1, 0, 0xed, 0xfe, 0, 0]);
    assert_eq!(&header[16..32], &[77, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[32..48], &[11, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[48..64], &[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let checksum = row_checksum(BirthId(3), Row(5), Role::Data(0), &[0; 4096]);
    assert_eq!(header[64..68], checksum.to_le_bytes());
}
