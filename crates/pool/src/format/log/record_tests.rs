#![allow(clippy::unwrap_used)]

use super::*;
use crate::format::log::{
    Conflict, FoundRecord, SEGMENT_HEADER_BYTES, SegmentContents, read_segment,
};

const SEGMENT_BLOCKS: usize = 64;

fn seal() -> SegmentSeal {
    SegmentSeal { generation: GenerationId(77), epoch: Epoch(5), key: 0x0102_0304_0506_0708 }
}

fn tail() -> LogTail {
    LogTail {
        segment: seal(),
        after: RecordNumber(10),
        next: RecordNumber(11),
        previous_crc: 0xfeed,
    }
}

fn witness() -> Stamp {
    Stamp {
        durable: RecordNumber(10),
        acknowledged: RecordNumber(9),
        metadata: RecordNumber(300),
        configuration: ConfigNumber(4),
    }
}

fn data(row: u32, rows: usize, fill: u8) -> RecordBody {
    RecordBody::data(GenerationId(3), Row(row), Buffer::copy_of(&vec![fill; rows * BLOCK_BYTES]))
}

fn zero(row: u32) -> RecordBody {
    let rows = RowRange { group: GenerationId(4), first: Row(row), count: 300 };
    RecordBody::Zero { rows, discard: row % 2 == 1 }
}

fn lost(row: u32, rows: u32) -> RecordBody {
    let checksums = (0..rows).map(|index| row + index).collect();
    let rows = RowRange { group: GenerationId(3), first: Row(row), count: rows };
    RecordBody::Lost { rows, checksums }
}

fn intent(row: u32, rows: u32) -> RecordBody {
    let checksums = (0..rows).map(|index| 7 * row + index).collect();
    let rows = RowRange { group: GenerationId(3), first: Row(row), count: rows };
    RecordBody::Intent { rows, checksums, sectors: Vec::new() }
}

fn overwrite(row: u32, rows: u32) -> RecordBody {
    let sectors = (0..8 * rows).map(|index| 11 * row + index).collect();
    match intent(row, rows) {
        RecordBody::Intent { rows, checksums, .. } => {
            RecordBody::Intent { rows, checksums, sectors }
        }
        other => other,
    }
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
        let batch = encode_batch(self.tail, witness(), bodies.iter());
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

/// Two batches with all kinds of records, and a third.
fn sample() -> (Copy, Vec<RecordBody>) {
    let intents = [intent(60, 256), overwrite(400, 100)];
    let bodies = [data(5, 2, 0xaa), zero(8), data(20, 3, 0xcc), lost(30, 200)];
    let bodies: Vec<RecordBody> = bodies.into_iter().chain(intents).collect();
    let mut copy = Copy::new();
    copy.write(&bodies);
    copy.write(&[RecordBody::Mark]);
    let more = data(9, 1, 0xbb);
    copy.write(std::slice::from_ref(&more));
    (copy, bodies.into_iter().chain([RecordBody::Mark, more]).collect())
}

fn read(copies: &[Buffer]) -> SegmentContents {
    read_segment(&seal(), RecordNumber(0), None, copies).unwrap()
}

/// The numbers of what is there as a whole.
fn numbers(contents: &SegmentContents) -> Vec<u64> {
    let is_whole = |found: &FoundRecord| found.record.is_some() && found.lost.is_empty();
    let whole = contents.records.iter().filter(|(_, found)| is_whole(found));
    whole.map(|(number, _)| number.0).collect()
}

#[test]
fn all_kinds_round_trip_over_batches() {
    let (copy, bodies) = sample();
    let contents = read(&[copy.buffer()]);
    let found: Vec<_> =
        contents.records.values().map(|found| found.record.clone().unwrap().body).collect();
    assert_eq!(found, bodies);
    assert_eq!(numbers(&contents), [11, 12, 13, 14, 15, 16, 17, 18]);
    let last = contents.records[&RecordNumber(18)].record.clone().unwrap();
    assert_eq!(last.crc, copy.tail.previous_crc);
    assert_eq!(contents.witness, witness());
    assert!(contents.records.values().all(|found| found.holders == [true]));
}

#[test]
fn a_damaged_byte_costs_its_record_and_no_other() {
    let mut copy = Copy::new();
    let first = copy.write(&[data(5, 1, 0xaa)]);
    let second = copy.write(&[data(6, 1, 0xab), zero(3)]);
    for at in first.start..second.start + 512 + 4096 + 512 {
        let mut bytes = copy.bytes.clone();
        bytes[at] ^= 2;
        let contents = read(&[Buffer::copy_of(&bytes)]);
        let found = numbers(&contents);
        // A sound header says what its rows were.
        let lost = contents.records.values().filter(|found| !found.lost.is_empty());
        let in_rows = [&first, &second].map(|batch| batch.start + 512..batch.start + 512 + 4096);
        assert_eq!(lost.count(), usize::from(in_rows.iter().any(|rows| rows.contains(&at))));
        let expected: &[u64] = if at < first.start + 512 + 4096 {
            &[12, 13]
        } else if at < first.end {
            // The padding of a batch says nothing.
            &[11, 12, 13]
        } else if at < second.start + 512 + 4096 {
            &[11, 13]
        } else {
            &[11, 12]
        };
        assert_eq!(found, expected, "byte {at}");
    }
}

#[test]
fn two_copies_make_up_for_each_other() {
    let (copy, bodies) = sample();
    let (mut a, mut b) = (copy.bytes.clone(), copy.bytes.clone());
    // The first row of record 11 is damaged in one copy, the second in the other, and the header of
    // record 13 in the first copy only.
    a[SEGMENT_HEADER_BYTES + 512 + 100] ^= 1;
    b[SEGMENT_HEADER_BYTES + 512 + 4096 + 100] ^= 1;
    a[SEGMENT_HEADER_BYTES + 512 + 2 * 4096 + 512 + 70] ^= 1;
    let contents = read(&[Buffer::copy_of(&a), Buffer::copy_of(&b)]);
    let found: Vec<_> =
        contents.records.values().map(|found| found.record.clone().unwrap().body).collect();
    assert_eq!(found, bodies);
    let holders = |number| contents.records[&RecordNumber(number)].holders.clone();
    assert_eq!(holders(11), [false, false]);
    assert_eq!(holders(12), [true, true]);
    assert_eq!(holders(13), [false, true]);
}

#[test]
fn a_lagging_copy_adds_nothing_and_takes_nothing() {
    let (copy, bodies) = sample();
    let mut late = Copy::new();
    late.write(&bodies[..3]);
    let contents = read(&[late.buffer(), copy.buffer()]);
    assert_eq!(numbers(&contents), [11, 12, 13, 14, 15, 16, 17, 18]);
    assert_eq!(contents.records[&RecordNumber(14)].holders, [false, true]);
}

#[test]
fn released_records_and_those_beyond_the_end_are_not_read() {
    let (copy, _) = sample();
    let mut bytes = copy.bytes.clone();
    // The first record, which is released, is damaged.
    bytes[SEGMENT_HEADER_BYTES + 20] ^= 1;
    let copies = [Buffer::copy_of(&bytes)];
    let end = Some(RecordNumber(14));
    let contents = read_segment(&seal(), RecordNumber(12), end, &copies).unwrap();
    assert_eq!(numbers(&contents), [13, 14]);
}

#[test]
fn a_record_that_is_at_two_places_counts_and_nobody_counts_as_having_it() {
    let (copy, bodies) = sample();
    let mut strayed = copy.bytes.clone();
    // Behind the last one: the first record, with its two rows, as a disk reads or writes elsewhere.
    let from = SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 512 + 2 * BLOCK_BYTES;
    let to = (SEGMENT_BLOCKS - 4) * BLOCK_BYTES;
    strayed[to..to + from.len()].copy_from_slice(&copy.bytes[from.clone()]);
    // Neither place has all of it any more.
    strayed[from.start + 512 + 100] ^= 1;
    strayed[to + 512 + BLOCK_BYTES + 100] ^= 1;
    let contents = read(&[Buffer::copy_of(&strayed), copy.buffer()]);
    let found: Vec<_> =
        contents.records.values().map(|found| found.record.clone().unwrap().body).collect();
    assert_eq!(found, bodies);
    assert_eq!(contents.records[&RecordNumber(11)].holders, [false, false]);
    assert_eq!(contents.records[&RecordNumber(12)].holders, [true, true]);
    let contents = read(&[Buffer::copy_of(&strayed)]);
    assert_eq!(contents.records[&RecordNumber(11)].record.clone().unwrap().body, bodies[0]);
}

#[test]
fn two_histories_are_refused() {
    let (mut a, mut b) = (Copy::new(), Copy::new());
    a.write(&[data(1, 1, 1)]);
    b.write(&[data(1, 1, 1)]);
    a.write(&[data(2, 1, 2)]);
    b.write(&[data(2, 1, 3)]);
    let found = read_segment(&seal(), RecordNumber(0), None, &[a.buffer(), b.buffer()]);
    let number = RecordNumber(12);
    assert_eq!(found, Err(Conflict::Copies { number, first: 0, second: 1 }));
    // One copy with a record of another history behind its first.
    let second = SEGMENT_HEADER_BYTES + 8192;
    let mut other = Copy::new();
    other.write(&[data(1, 1, 9)]);
    other.bytes[second..].copy_from_slice(&a.bytes[second..]);
    let found = read_segment(&seal(), RecordNumber(0), None, &[other.buffer()]);
    assert_eq!(found, Err(Conflict::Chain { number }));
}

#[test]
fn records_of_other_segments_epochs_and_keys_are_void() {
    let (copy, _) = sample();
    for other in [
        SegmentSeal { generation: GenerationId(78), ..seal() },
        SegmentSeal { epoch: Epoch(6), ..seal() },
        SegmentSeal { key: 1, ..seal() },
    ] {
        let contents = read_segment(&other, RecordNumber(0), None, &[copy.buffer()]).unwrap();
        assert_eq!(contents, SegmentContents::default());
    }
}

#[test]
fn a_record_in_the_payload_is_not_found() {
    // Somebody who has guessed all but the key writes a record as data, and the header before it rots.
    let forged = LogTail { segment: SegmentSeal { key: 0, ..seal() }, ..tail() };
    let forged = encode_batch(forged, witness(), [zero(1)].iter()).bytes;
    let mut copy = Copy::new();
    let range = copy.write(&[RecordBody::data(GenerationId(3), Row(1), forged)]);
    copy.bytes[range.start + 9] ^= 1;
    assert_eq!(read(&[copy.buffer()]), SegmentContents::default());
    // One with the key (a piece of the log itself) isn't looked for where data is.
    let own = encode_batch(tail(), witness(), [zero(1)].iter()).bytes;
    let mut copy = Copy::new();
    copy.write(&[RecordBody::data(GenerationId(3), Row(1), own)]);
    assert_eq!(numbers(&read(&[copy.buffer()])), [11]);
}

#[test]
fn hostile_lengths_reserve_nothing() {
    // A sound header that announces the most rows, at the end of a short segment.
    let rows = RowRange { group: GenerationId(1), first: Row(0), count: RECORD_ROWS_MAX };
    let count = RECORD_ROWS_MAX as usize;
    let len = header_len_for(count);
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES + len];
    let record = &mut bytes[SEGMENT_HEADER_BYTES..];
    encode_header(record, tail(), witness(), &RecordBody::Zero { rows, discard: false });
    KIND.put_number(record, KIND_DATA);
    CRC.put_number(record, 0);
    let crc = crc_seeded(&seal().key.to_le_bytes(), record, CRC);
    CRC.put_number(record, u64::from(crc));
    let contents = read(&[Buffer::copy_of(&bytes)]);
    assert_eq!(contents.records.len(), 1);
    assert_eq!(contents.records[&RecordNumber(11)].record, None);
    for cut in [0, 100, 4096, 4097, 4160, 4608] {
        assert!(read(&[Buffer::copy_of(&bytes[..cut])]).records.is_empty());
    }
}

/// The header that `body` has, with some bytes changed and its CRC made right again.
fn changed(body: &RecordBody, change: impl Fn(&mut [u8])) -> Option<CheckedHeader> {
    let mut header = encode_batch(tail(), witness(), std::iter::once(body)).bytes.to_vec();
    header.truncate(body.header_len());
    change(&mut header);
    CRC.put_number(&mut header, 0);
    let crc = crc_seeded(&seal().key.to_le_bytes(), &header, CRC);
    CRC.put_number(&mut header, u64::from(crc));
    check_header(&header, &seal())
}

#[test]
fn flags_and_lengths_that_no_encoder_yields_are_refused() {
    for flags in 0..=u8::MAX {
        let with = |body: &RecordBody| changed(body, |header| header[9] = flags).is_some();
        assert_eq!(with(&intent(5, 20)), flags == 2, "FRESH with {flags:#x}");
        assert_eq!(with(&overwrite(5, 20)), flags == 4, "OVERWRITE with {flags:#x}");
        assert_eq!(with(&zero(5)), flags <= 1, "ZERO with {flags:#x}");
        for body in [data(5, 2, 1), lost(5, 2), RecordBody::Mark] {
            assert_eq!(with(&body), flags == 0, "{body:?} with {flags:#x}");
        }
    }
    // More rows than it has checksums for, none, and rows that no number names.
    for count in [0, 200, RECORD_ROWS_MAX, RECORD_ROWS_MAX + 1, u32::MAX] {
        for body in [intent(5, 20), overwrite(5, 20)] {
            let found = changed(&body, |header| ROW_COUNT.put_number(header, count.into()));
            assert_eq!(found, None, "{count} rows");
        }
    }
    assert_eq!(changed(&intent(5, 20), |header| FIRST_ROW.put_number(header, 0xffff_fff0)), None);
}

#[test]
fn an_intent_has_no_rows_behind_it() {
    let body = intent(5, 40);
    let header = changed(&body, |_| {}).unwrap();
    assert_eq!((header.record_len(), body.encoded_len()), (512, 512));
    assert_eq!(header.kind, CheckedKind::Whole(body));
    // What follows is the next record and not its payload.
    let mut copy = Copy::new();
    copy.write(&[intent(5, 40), zero(9)]);
    assert_eq!(numbers(&read(&[copy.buffer()])), [11, 12]);
}

#[test]
fn golden_bytes_of_an_intent() {
    let bytes = encode_batch(tail(), witness(), [intent(2, 3)].iter()).bytes;
    assert_eq!(bytes.len(), 4096);
    assert_eq!(&bytes[8..16], &[3, 2, 1, 0, 0xed, 0xfe, 0, 0]);
    assert_eq!(
        &bytes[40..64],
        &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(&bytes[128..144], &[14, 0, 0, 0, 15, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn golden_bytes_of_an_overwrite() {
    let bytes = encode_batch(tail(), witness(), [overwrite(2, 3)].iter()).bytes;
    assert_eq!(bytes.len(), 4096);
    assert_eq!(&bytes[8..16], &[3, 4, 1, 0, 0xed, 0xfe, 0, 0]);
    assert_eq!(&bytes[128..144], &[14, 0, 0, 0, 15, 0, 0, 0, 16, 0, 0, 0, 22, 0, 0, 0]);
    assert_eq!(&bytes[232..240], &[45, 0, 0, 0, 0, 0, 0, 0]);
    // A sector's checksum is that of its place, which is no row's.
    let contents = [0x5a; BLOCK_BYTES];
    let sectors = sector_checksums(GenerationId(3), Row(5), &contents);
    assert_eq!(sectors.len(), 8);
    let of_all: std::collections::BTreeSet<u32> = sectors.iter().copied().collect();
    assert_eq!(of_all.len(), 8);
    assert_eq!(sectors[1], sector_checksum(GenerationId(3), Row(5), 1, &contents[..512]));
}

#[test]
fn golden_bytes() {
    let batch = encode_batch(tail(), witness(), [data(5, 1, 0)].iter());
    assert_eq!(batch.bytes.len(), 8192);
    assert_eq!(batch.numbers, (RecordNumber(11), RecordNumber(11)));
    let header = &batch.bytes[..512];
    assert_eq!(&header[..4], b"epLR");
    assert_eq!(&header[8..16], &[1, 0, 1, 0, 0xed, 0xfe, 0, 0]);
    assert_eq!(&header[16..32], &[77, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[32..48], &[11, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[48..64], &[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[64..80], &[10, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[80..96], &[44, 1, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&header[96..104], &[10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(header[104..128], [0; 24]);
    let checksum = row_checksum(GenerationId(3), Row(5), Role::Data(0), &[0; 4096]);
    assert_eq!(header[128..132], checksum.to_le_bytes());
}
