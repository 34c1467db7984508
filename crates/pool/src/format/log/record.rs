//! Log records and the batches that they are written in.
//!
//! A record is a header of whole sectors and, for DATA, its rows:
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic "epLR" |
//! | 4 | 4 | CRC32C of the segment's key and the header (all its sectors), this field as zeros |
//! | 8 | 1 | kind: 1 DATA, 2 ZERO, 3 INTENT, 4 MARK, 6 LOST; reserved: 5 PARITY |
//! | 9 | 1 | flags: 0x01 the zeros are a discard; 0x02 the INTENT is FRESH; 0x04 it is OVERWRITE |
//! | 10 | 2 | sectors of the header |
//! | 12 | 4 | CRC field of the record with the previous number; 0 before the first |
//! | 16 | 8 | generation id of the segment |
//! | 24 | 8 | epoch |
//! | 32 | 8 | number |
//! | 40 | 8 | generation id of the group; 0 in a MARK |
//! | 48 | 4 | first row |
//! | 52 | 4 | number of rows |
//! | 56 | 2 | role of the rows: 0 is data 0 |
//! | 58 | 6 | zero |
//! | 64 | 8 | durable through (D): this record and all before it were on all current copies |
//! | 72 | 8 | acknowledged through (A) |
//! | 80 | 8 | number of the last committed metadata record |
//! | 88 | 8 | number of the configuration |
//! | 96 | 8 | continues after: the number before the first one of this segment |
//! | 104 | 24 | zero |
//! | 128 | 4 each | DATA, INTENT, LOST: CRC32C of each row, seeded as in checksum blocks |
//! | … | 4 each | OVERWRITE: CRC32C of each sector of each row |
//! | … | | zero to the end of the sector |
//!
//! Records lie end to end; a batch of them is padded with zeros to 4 KiB, so that a batch never shares
//! a block of the disk with one that was acknowledged, and begins with a record where the padding ends.
//! A batch is sealed once: every copy of the segment, and every repetition, gets the same bytes.
//!
//! Protects against: torn batches (CRCs over everything), bytes of an earlier segment or owner (generation
//! id, epoch), gaps and two histories (consecutive numbers, each with its predecessor's CRC), records
//! that somebody wrote as data (the key is random and nowhere but in the metadata), replaying into
//! space that was given to another group (group generation id instead of a place), and damage that passes
//! for the log's end: D of a later record says what must be there. A MARK says nothing but D and A. LOST
//! names rows that were acknowledged and of which the log has the checksums alone. INTENT names rows whose
//! contents go to their place and nowhere else: A says whether they have arrived, and without it the
//! checksums show. FRESH ones go where nothing was; OVERWRITE ones where something was, so that a power cut
//! may leave rows of which some sectors are old and some new.

use block::{BLOCK_BYTES, Buffer, BufferMut, Epoch, SECTOR_BYTES};

use crate::format::checksum::{ROW_SECTORS, sector_checksum};
use crate::format::field::{Field, crc_seeded};
use crate::format::{ConfigNumber, GenerationId, RecordNumber, Role, Row, row_checksum};

const MAGIC_BYTES: &[u8; 4] = b"epLR";
const KIND_DATA: u64 = 1;
const KIND_ZERO: u64 = 2;
const KIND_INTENT: u64 = 3;
const KIND_MARK: u64 = 4;
const KIND_LOST: u64 = 6;
const FLAG_DISCARD: u64 = 0x01;
const FLAG_FRESH: u64 = 0x02;
const FLAG_OVERWRITE: u64 = 0x04;

const MAGIC: Field = Field::first(4);
const CRC: Field = MAGIC.then(4);
const KIND: Field = CRC.then(1);
const FLAGS: Field = KIND.then(1);
const SECTORS: Field = FLAGS.then(2);
const PREVIOUS: Field = SECTORS.then(4);
const SEGMENT: Field = PREVIOUS.then(8);
const EPOCH: Field = SEGMENT.then(8);
const NUMBER: Field = EPOCH.then(8);
const GROUP: Field = NUMBER.then(8);
const FIRST_ROW: Field = GROUP.then(4);
const ROW_COUNT: Field = FIRST_ROW.then(4);
const ROLE: Field = ROW_COUNT.then(2);
const ZERO: Field = ROLE.then(6);
const DURABLE: Field = ZERO.then(8);
const ACKNOWLEDGED: Field = DURABLE.then(8);
const METADATA: Field = ACKNOWLEDGED.then(8);
const CONFIGURATION: Field = METADATA.then(8);
const AFTER: Field = CONFIGURATION.then(8);
const ZERO_TOO: Field = AFTER.then(24);
const FIXED_BYTES: usize = ZERO_TOO.end();

const _: () = assert!(FIXED_BYTES == 128);

/// Rows that a record can name, at most: those of the largest extent.
pub const RECORD_ROWS_MAX: u32 = 1 << 18;

/// Bytes of a header, at most: that of an OVERWRITE of so many rows.
const HEADER_BYTES_MAX: usize = header_len_for((1 + ROW_SECTORS) * RECORD_ROWS_MAX as usize);

const _: () = assert!(HEADER_BYTES_MAX / SECTOR_BYTES <= u16::MAX as usize);

/// Rows of a group, named by generation and never by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRange {
    /// The group.
    pub group: GenerationId,
    /// The first row.
    pub first: Row,
    /// How many.
    pub count: u32,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// These rows now hold this.
    Data {
        /// The rows.
        rows: RowRange,
        /// A checksum per row.
        checksums: Vec<u32>,
        /// Their contents: 4 KiB per row.
        payload: Buffer,
    },
    /// These rows now are zeros.
    Zero {
        /// The rows.
        rows: RowRange,
        /// Whether they may go back to unwritten.
        discard: bool,
    },
    /// These rows are being written in their place; whether they have arrived is to be found out.
    Intent {
        /// The rows.
        rows: RowRange,
        /// A checksum per row.
        checksums: Vec<u32>,
        /// A checksum per sector; none where nothing was there that counts (FRESH).
        sectors: Vec<u32>,
    },
    /// These rows were written, and what is known of their contents is this.
    Lost {
        /// The rows.
        rows: RowRange,
        /// A checksum per row.
        checksums: Vec<u32>,
    },
    /// Nothing: it is there for what its header says of the records before it.
    Mark,
}

impl RecordBody {
    /// What it carries becomes memory of its own, so that what it was read with can go.
    pub fn detach(&mut self) {
        if let RecordBody::Data { payload, .. } = self {
            *payload = Buffer::copy_of(payload);
        }
    }

    /// A DATA record for consecutive rows of a mirror, with its checksums computed.
    ///
    /// # Panics
    /// When the payload isn't 1 to [`RECORD_ROWS_MAX`] whole blocks: the caller's arithmetic is wrong.
    pub fn data(group: GenerationId, first: Row, payload: Buffer) -> RecordBody {
        let count = payload.len() / BLOCK_BYTES;
        assert!(
            payload.len().is_multiple_of(BLOCK_BYTES)
                && (1..=RECORD_ROWS_MAX as usize).contains(&count),
            "a record of {} bytes",
            payload.len()
        );
        let checksums = row_checksums(group, first, &payload);
        RecordBody::Data {
            rows: RowRange { group, first, count: count as u32 },
            checksums,
            payload,
        }
    }

    /// The rows that it is about.
    pub fn rows(&self) -> Option<RowRange> {
        match self {
            RecordBody::Data { rows, .. }
            | RecordBody::Zero { rows, .. }
            | RecordBody::Intent { rows, .. }
            | RecordBody::Lost { rows, .. } => Some(*rows),
            RecordBody::Mark => None,
        }
    }

    /// Bytes that it takes in a segment, without the padding of its batch.
    pub fn encoded_len(&self) -> usize {
        self.header_len() + self.payload().map_or(0, |payload| payload.len())
    }

    /// Bytes that an INTENT for so many rows takes at most.
    pub(crate) fn intent_len_max(rows: u32) -> usize {
        header_len_for((1 + ROW_SECTORS) * rows as usize)
    }

    fn header_len(&self) -> usize {
        header_len_for(self.checksums().len() + self.sectors().len())
    }

    fn sectors(&self) -> &[u32] {
        match self {
            RecordBody::Intent { sectors, .. } => sectors,
            _ => &[],
        }
    }

    fn checksums(&self) -> &[u32] {
        match self {
            RecordBody::Data { checksums, .. }
            | RecordBody::Intent { checksums, .. }
            | RecordBody::Lost { checksums, .. } => checksums,
            RecordBody::Zero { .. } | RecordBody::Mark => &[],
        }
    }

    fn payload(&self) -> Option<&Buffer> {
        match self {
            RecordBody::Data { payload, .. } => Some(payload),
            _ => None,
        }
    }
}

/// The checksums of consecutive rows of a mirror that have these contents.
pub(crate) fn row_checksums(group: GenerationId, first: Row, contents: &[u8]) -> Vec<u32> {
    let blocks = contents.chunks_exact(BLOCK_BYTES).zip(first.0..);
    blocks.map(|(block, row)| row_checksum(group, Row(row), Role::Data(0), block)).collect()
}

/// The checksums of the sectors of consecutive rows of a mirror that have these contents.
pub(crate) fn sector_checksums(group: GenerationId, first: Row, contents: &[u8]) -> Vec<u32> {
    let blocks = contents.chunks_exact(BLOCK_BYTES).zip(first.0..);
    let sectors = blocks.flat_map(|(block, row)| {
        let sectors = block.chunks_exact(SECTOR_BYTES).enumerate();
        sectors.map(move |(index, sector)| sector_checksum(group, Row(row), index, sector))
    });
    sectors.collect()
}

const fn header_len_for(checksums: usize) -> usize {
    (FIXED_BYTES + 4 * checksums).next_multiple_of(SECTOR_BYTES)
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub number: RecordNumber,
    /// Its header's CRC, which the next record repeats.
    pub crc: u32,
    /// What it says.
    pub body: RecordBody,
}

/// What makes a record one of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSeal {
    /// The segment's generation id.
    pub generation: GenerationId,
    /// The epoch of all its records.
    pub epoch: Epoch,
    /// Random; in no record, but in the CRC of each.
    pub key: u64,
}

/// Where a log continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// The segment that takes the next record.
    pub segment: SegmentSeal,
    /// The number before the first one of that segment.
    pub after: RecordNumber,
    /// The next record's number.
    pub next: RecordNumber,
    /// CRC of the last record; 0 before the first.
    pub previous_crc: u32,
}

/// What a record witnesses: how far things were when it was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Up to here all records were durable on all current copies.
    pub durable: RecordNumber,
    /// Up to here all records were acknowledged.
    pub acknowledged: RecordNumber,
    /// The last committed metadata record.
    pub metadata: RecordNumber,
    /// The configuration.
    pub configuration: ConfigNumber,
}

impl Stamp {
    /// The highest of each.
    #[must_use]
    pub fn max(self, other: Stamp) -> Stamp {
        Stamp {
            durable: self.durable.max(other.durable),
            acknowledged: self.acknowledged.max(other.acknowledged),
            metadata: self.metadata.max(other.metadata),
            configuration: self.configuration.max(other.configuration),
        }
    }
}

/// A batch ready to be written.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its bytes, padded to 4 KiB.
    pub bytes: Buffer,
    /// Its records' numbers, first and last.
    pub numbers: (RecordNumber, RecordNumber),
    /// Where the log continues after it.
    pub tail: LogTail,
}

/// Bytes of a batch of records of these lengths ([`RecordBody::encoded_len`]).
fn batch_len<'b>(bodies: impl Iterator<Item = &'b RecordBody>) -> usize {
    bodies.map(RecordBody::encoded_len).sum::<usize>().next_multiple_of(BLOCK_BYTES)
}

/// Lays records end to end into one buffer, numbers and chains them.
///
/// # Panics
/// When there are no records, or a DATA record's checksums, rows and payload don't go together.
pub fn encode_batch<'b>(
    tail: LogTail,
    witness: Stamp,
    bodies: impl Iterator<Item = &'b RecordBody> + Clone,
) -> Batch {
    assert!(bodies.clone().next().is_some(), "a batch without records");
    let mut bytes = BufferMut::for_overwriting(batch_len(bodies.clone()));
    let mut after = tail;
    let mut at = 0;
    for body in bodies {
        let header_len = body.header_len();
        let header = &mut bytes[at..at + header_len];
        header.fill(0);
        after.previous_crc = encode_header(header, after, witness, body);
        after.next = after.next.next();
        at += header_len;
        if let Some(payload) = body.payload() {
            bytes[at..at + payload.len()].copy_from_slice(payload);
            at += payload.len();
        }
    }
    bytes[at..].fill(0);
    let last = RecordNumber(after.next.0 - 1);
    Batch { bytes: bytes.freeze(), numbers: (tail.next, last), tail: after }
}

/// Whether a record of this kind has a checksum for each of its rows.
fn has_checksums(kind: u64) -> bool {
    matches!(kind, KIND_DATA | KIND_INTENT | KIND_LOST)
}

fn encode_header(header: &mut [u8], tail: LogTail, witness: Stamp, body: &RecordBody) -> u32 {
    let (kind, flags) = match body {
        RecordBody::Data { .. } => (KIND_DATA, 0),
        RecordBody::Zero { discard, .. } => (KIND_ZERO, if *discard { FLAG_DISCARD } else { 0 }),
        RecordBody::Intent { sectors, .. } if sectors.is_empty() => (KIND_INTENT, FLAG_FRESH),
        RecordBody::Intent { .. } => (KIND_INTENT, FLAG_OVERWRITE),
        RecordBody::Lost { .. } => (KIND_LOST, 0),
        RecordBody::Mark => (KIND_MARK, 0),
    };
    let (group, first, count) =
        body.rows().map_or((0, 0, 0), |rows| (rows.group.0, rows.first.0, rows.count));
    let checksums = body.checksums();
    if has_checksums(kind) {
        assert_eq!(checksums.len(), count as usize, "checksums of a record");
    }
    let sectors = body.sectors();
    if flags == FLAG_OVERWRITE {
        assert_eq!(sectors.len(), count as usize * ROW_SECTORS, "sectors of a record");
    }
    if let Some(payload) = body.payload() {
        assert_eq!(payload.len(), count as usize * BLOCK_BYTES, "payload of a record");
    }
    assert!(
        kind == KIND_MARK || (1..=RECORD_ROWS_MAX).contains(&count),
        "{count} rows in a record"
    );
    MAGIC.of_mut(header).copy_from_slice(MAGIC_BYTES);
    KIND.put_number(header, kind);
    FLAGS.put_number(header, flags);
    SECTORS.put_number(header, (header.len() / SECTOR_BYTES) as u64);
    PREVIOUS.put_number(header, u64::from(tail.previous_crc));
    SEGMENT.put_number(header, tail.segment.generation.0);
    EPOCH.put_number(header, tail.segment.epoch.0);
    NUMBER.put_number(header, tail.next.0);
    GROUP.put_number(header, group);
    FIRST_ROW.put_number(header, u64::from(first));
    ROW_COUNT.put_number(header, u64::from(count));
    DURABLE.put_number(header, witness.durable.0);
    ACKNOWLEDGED.put_number(header, witness.acknowledged.0);
    METADATA.put_number(header, witness.metadata.0);
    CONFIGURATION.put_number(header, witness.configuration.0);
    AFTER.put_number(header, tail.after.0);
    let checksums = checksums.iter().chain(sectors);
    for (bytes, checksum) in header[FIXED_BYTES..].chunks_exact_mut(4).zip(checksums) {
        bytes.copy_from_slice(&checksum.to_le_bytes());
    }
    let crc = crc_seeded(&tail.segment.key.to_le_bytes(), header, CRC);
    CRC.put_number(header, u64::from(crc));
    crc
}

/// A record's header that is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedHeader {
    pub(crate) number: RecordNumber,
    pub(crate) crc: u32,
    pub(crate) previous_crc: u32,
    /// Bytes of the header.
    pub(crate) len: usize,
    /// The number before the segment's first.
    pub(crate) after: RecordNumber,
    pub(crate) witness: Stamp,
    pub(crate) kind: CheckedKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckedKind {
    /// Rows with these checksums follow.
    Data(RowRange, Vec<u32>),
    /// Nothing follows.
    Whole(RecordBody),
}

impl CheckedHeader {
    /// Bytes of the whole record.
    pub(crate) fn record_len(&self) -> usize {
        self.len
            + match &self.kind {
                CheckedKind::Data(_, checksums) => checksums.len() * BLOCK_BYTES,
                CheckedKind::Whole(_) => 0,
            }
    }
}

/// Bytes of the header that a sector claims to begin; for who reads no more than needed.
pub(crate) fn claimed_header_len(sector: &[u8]) -> Option<usize> {
    let sector = sector.get(..SECTOR_BYTES)?;
    let len = SECTORS.number(sector) as usize * SECTOR_BYTES;
    let plausible =
        MAGIC.of(sector) == MAGIC_BYTES && (SECTOR_BYTES..=HEADER_BYTES_MAX).contains(&len);
    plausible.then_some(len)
}

/// The segment that a sector claims to begin a record of.
pub(crate) fn claimed_segment(sector: &[u8]) -> Option<GenerationId> {
    claimed_header_len(sector).map(|_| GenerationId(SEGMENT.number(sector)))
}

/// The record header of this segment that these bytes begin with.
pub(crate) fn check_header(bytes: &[u8], segment: &SegmentSeal) -> Option<CheckedHeader> {
    let header = bytes.get(..claimed_header_len(bytes)?)?;
    if SEGMENT.number(header) != segment.generation.0
        || EPOCH.number(header) != segment.epoch.0
        || CRC.number32(header) != crc_seeded(&segment.key.to_le_bytes(), header, CRC)
        || ZERO.number(header) != 0
        || ROLE.number(header) != 0
        || ZERO_TOO.of(header).iter().any(|byte| *byte != 0)
    {
        return None;
    }
    let count = ROW_COUNT.number32(header);
    let rows = RowRange {
        group: GenerationId(GROUP.number(header)),
        first: Row(FIRST_ROW.number32(header)),
        count,
    };
    let sane_rows =
        (1..=RECORD_ROWS_MAX).contains(&count) && rows.first.0.checked_add(count).is_some();
    let flags = FLAGS.number(header);
    let kind = KIND.number(header);
    let is_overwrite = kind == KIND_INTENT && flags == FLAG_OVERWRITE;
    let each = match has_checksums(kind) {
        true if is_overwrite => 1 + ROW_SECTORS,
        has_one => usize::from(has_one),
    };
    let expected_len = header_len_for(count as usize * each);
    let flags_are_known = match kind {
        KIND_ZERO => flags & !FLAG_DISCARD == 0,
        // Another one says something that only a later version knows.
        KIND_INTENT => flags == FLAG_FRESH || flags == FLAG_OVERWRITE,
        _ => flags == 0,
    };
    if header.len() != expected_len || !flags_are_known || (kind != KIND_MARK && !sane_rows) {
        return None;
    }
    let checksums_from = |skipped: usize, taken: usize| {
        let entries = header[FIXED_BYTES..].chunks_exact(4).skip(skipped).take(taken);
        entries.map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
    };
    let checksums = || checksums_from(0, count as usize);
    let sectors = || match is_overwrite {
        true => checksums_from(count as usize, count as usize * ROW_SECTORS),
        false => Vec::new(),
    };
    let kind = match kind {
        KIND_DATA => CheckedKind::Data(rows, checksums()),
        KIND_INTENT => {
            let (checksums, sectors) = (checksums(), sectors());
            CheckedKind::Whole(RecordBody::Intent { rows, checksums, sectors })
        }
        KIND_LOST => CheckedKind::Whole(RecordBody::Lost { rows, checksums: checksums() }),
        KIND_ZERO => {
            CheckedKind::Whole(RecordBody::Zero { rows, discard: flags & FLAG_DISCARD != 0 })
        }
        KIND_MARK if count == 0 && rows.group.0 == 0 && rows.first.0 == 0 => {
            CheckedKind::Whole(RecordBody::Mark)
        }
        _ => return None,
    };
    Some(CheckedHeader {
        number: RecordNumber(NUMBER.number(header)),
        crc: CRC.number32(header),
        previous_crc: PREVIOUS.number32(header),
        len: header.len(),
        after: RecordNumber(AFTER.number(header)),
        witness: Stamp {
            durable: RecordNumber(DURABLE.number(header)),
            acknowledged: RecordNumber(ACKNOWLEDGED.number(header)),
            metadata: RecordNumber(METADATA.number(header)),
            configuration: ConfigNumber(CONFIGURATION.number(header)),
        },
        kind,
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
