//! A metadata area: checkpoint 0, log 0, checkpoint 1, log 1, a quarter each. It is a run of extents of
//! its disk, named in the label and in the disk's record; what is longer than another one's has longer
//! quarters.
//!
//! A checkpoint holds the whole metadata; the log behind it the transactions since. It is a header, which
//! names a table, which names sections (`table`). The two headers begin the checkpoint quarters; all else
//! of both quarters is one space of blocks for tables and sections. When the log is full, a checkpoint of
//! a higher sequence writes anew what changed, a table, and the **other** header (slot = sequence mod
//! 2), whose log starts empty. Nothing is written to a block that the newest or the former checkpoint names
//! (`checkpoint`): both stay whole until the header is there, so a torn write loses nothing. Entries
//! are committed to a log only until its successor is begun.
//!
//! Checkpoint header (4 KiB):
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epCHECKP" |
//! | 8 | 4 | CRC32C of the header, this field as zeros |
//! | 12 | 4 | slot, 0 or 1 |
//! | 16 | 16 | pool |
//! | 32 | 8 | sequence |
//! | 40 | 8 | epoch |
//! | 48 | 8 | number of the last record that it contains |
//! | 56 | 8 | bytes of the table |
//! | 64 | 4 | CRC32C of the table |
//! | 68 | 4 | number of runs of blocks that the table fills, at most 37; in headers of former versions, which have nothing behind them, 64 |
//! | 72 | 296 | the runs: first block and count, 4 bytes each; then zeros |
//! | 368 | 1 | what follows: 1 digest, 3 digest and signature; 0 in headers of former versions |
//! | 369 | 7 | zero |
//! | 376 | 32 | SHA-256 of the table |
//! | 408 | 96 | signature ([`seal::Signature`]) by the supervisor that wrote it, in the context `etherpool metadata`, of the header with the CRC and this field as zeros |
//! | 504 | 3592 | zero |
//!
//! All of a header that isn't zero is in its first sector: a torn write leaves the former one or the new one.
//! The header is written when table and sections are durable. So a torn checkpoint has no sound header,
//! and a sound header without them is damage: what the older checkpoint says is out of date then.
//!
//! Log entry, each at a 4 KiB boundary and padded to one:
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epMETLOG" |
//! | 8 | 4 | CRC32C of header and payload, this field as zeros |
//! | 12 | 4 | CRC of the entry before; of the checkpoint's table for the first |
//! | 16 | 16 | pool |
//! | 32 | 8 | sequence |
//! | 40 | 8 | epoch |
//! | 48 | 8 | number |
//! | 56 | 4 | bytes of the payload |
//! | 60 | 4 | bytes of the signature: 96, or zero behind a checkpoint that nobody signed |
//! | 64 | 8 | configuration number under which it was committed |
//! | 72 | | signature by whoever signed the checkpoint, in the context `etherpool metadata entry`, of header and payload with the CRC as zeros |
//! | | | payload: records (`codec`) |
//!
//! An entry is written once its predecessor is on all current copies: so it proves that one committed,
//! and an entry behind a place where none is sound proves damage there, sound or not. An entry takes a quarter of the
//! log and 4 MiB at most, so that this is searched for within twice as much; a longer transaction is
//! committed by a checkpoint that contains it. Reading begins with both headers and ends there
//! (`reading`): what lies beyond is out of use.
//!
//! Protects against: torn checkpoints and entries (CRCs; the other slot), entries of an earlier
//! sequence or owner in the same place (sequence, epoch, chain), two histories (chain), another
//! pool's area, a log without its checkpoint or with a gap (see `recover`), and votes that are older
//! than the metadata (configuration number). The signatures protect against who holds a copy and shows another one: an
//! owner writes one checkpoint of a sequence and one entry of a number, and no two owners have the same epoch, so
//! nothing signed can be put in the place of something else. Whose signature counts the votes say (`vote`).

use block::{BLOCK_BYTES, Buffer, BufferMut, Epoch};
use seal::{Digest, KeyPair, PublicKey, SIGNATURE_BYTES, Signature};

use super::proof::{self, PROOF_BYTES};
use super::table::is_place;
use super::{BlockRun, MetaRecord, encode_records};
use crate::format::field::{Field, crc_without};
use crate::format::{ConfigNumber, DiskGeometry, ExtentRange, MIB, PoolId, RecordNumber};

const CHECKPOINT_MAGIC: &[u8; 8] = b"epCHECKP";
const MAGIC: Field = Field::first(8);
/// That of a header or an entry.
pub(super) const CRC: Field = MAGIC.then(4);
const SLOT: Field = CRC.then(4);
const POOL: Field = SLOT.then(16);
const SEQUENCE: Field = POOL.then(8);
const EPOCH: Field = SEQUENCE.then(8);
const NUMBER: Field = EPOCH.then(8);
const LENGTH: Field = NUMBER.then(8);
const TABLE_CRC: Field = LENGTH.then(4);
const RUNS: Field = TABLE_CRC.then(4);
const RUN: Field = RUNS.then(8 * TABLE_RUNS_MAX);
const FORMER_RUN: Field = RUNS.then(8 * FORMER_TABLE_RUNS_MAX);
/// Where what proves a checkpoint begins.
pub(super) const PROOF: Field = RUN.then(PROOF_BYTES);

const _: () = assert!(PROOF.end() <= block::SECTOR_BYTES && RUN.end() == 368);

/// Nobody comes so far by counting: what says more isn't what it seems, and there would be nothing behind it.
const SEQUENCE_MAX: u64 = 1 << 62;

const ENTRY_MAGIC: &[u8; 8] = b"epMETLOG";
const ENTRY_PREVIOUS: Field = CRC.then(4);
const ENTRY_POOL: Field = ENTRY_PREVIOUS.then(16);
const ENTRY_SEQUENCE: Field = ENTRY_POOL.then(8);
const ENTRY_EPOCH: Field = ENTRY_SEQUENCE.then(8);
const ENTRY_NUMBER: Field = ENTRY_EPOCH.then(8);
const ENTRY_LENGTH: Field = ENTRY_NUMBER.then(4);
const ENTRY_SIGNATURE: Field = ENTRY_LENGTH.then(4);
const ENTRY_CONFIG: Field = ENTRY_SIGNATURE.then(8);
const ENTRY_HEADER_BYTES: usize = ENTRY_CONFIG.end();

const _: () = assert!(ENTRY_HEADER_BYTES == 72);

/// Smallest quarter of an area.
const QUARTER_BYTES_MIN: u64 = 2 * MIB;
/// Largest quarter of an area: what a supervisor must be able to hold in memory several times.
const QUARTER_BYTES_MAX: u64 = 256 * MIB;
/// Longest entry, in a log that has room for several.
const ENTRY_BYTES_MAX: u64 = 4 * MIB;
/// Most runs of blocks that a table is in.
pub(super) const TABLE_RUNS_MAX: usize = 37;
const FORMER_TABLE_RUNS_MAX: usize = 64;
/// Blocks of the section space are numbered so that a quarter of any length has the same numbers.
const QUARTER_BLOCKS_MAX: u32 = (QUARTER_BYTES_MAX / BLOCK_BYTES as u64) as u32;
/// Bytes of metadata for an extent in the worst case: half a run of one group with two members, its root
/// and dirty regions of both.
const EXTENT_METADATA_BYTES: u64 = 42;
/// Of the section space a checkpoint takes at most one part in so many: the next one is written beside
/// the newest and the former one.
const SPACE_PARTS: u64 = 3;
/// The pool may grow to so many times its first size.
const GROWTH: u64 = 4;

/// Extents of the metadata areas of a pool that starts with `pool_bytes` on all disks together.
pub fn area_extents_for(pool_bytes: u64, extent_bytes: u64) -> u32 {
    let extents = area_bytes_for(pool_bytes, extent_bytes).div_ceil(extent_bytes.max(1));
    u32::try_from(extents).unwrap_or(u32::MAX)
}

/// What such an area must have at least.
pub fn area_bytes_for(pool_bytes: u64, extent_bytes: u64) -> u64 {
    let extents = pool_bytes / extent_bytes.max(1);
    let metadata = extents.saturating_mul(EXTENT_METADATA_BYTES).saturating_mul(GROWTH);
    // Two quarters hold a checkpoint's space.
    let quarter = metadata.saturating_mul(SPACE_PARTS) / 2;
    4 * quarter.clamp(QUARTER_BYTES_MIN, QUARTER_BYTES_MAX).next_multiple_of(MIB)
}

/// Where things are in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaLayout {
    quarter_bytes: u64,
}

impl AreaLayout {
    /// The layout of an area of so many bytes; `None` when that is too short or not whole blocks.
    pub fn new(area_bytes: u64) -> Option<AreaLayout> {
        let quarter_bytes = area_bytes / 4;
        (area_bytes.is_multiple_of(4 * BLOCK_BYTES as u64)
            && (2 * BLOCK_BYTES as u64..=QUARTER_BYTES_MAX).contains(&quarter_bytes))
        .then_some(AreaLayout { quarter_bytes })
    }

    /// The layout of an area in this run of a disk's extents; `None` where the disk doesn't have them,
    /// or where they are too few or too many.
    pub fn of(geometry: &DiskGeometry, area: ExtentRange) -> Option<AreaLayout> {
        AreaLayout::new(geometry.run_place(area)?.1)
    }

    /// Length of the area.
    pub fn area_bytes(&self) -> u64 {
        4 * self.quarter_bytes
    }

    /// Byte offset, within the area, of a checkpoint's header (slot 0 or 1).
    pub fn checkpoint_offset(&self, slot: usize) -> u64 {
        (slot as u64 % 2) * 2 * self.quarter_bytes
    }

    /// Byte offset, within the area, of the log of a checkpoint slot.
    pub fn log_offset(&self, slot: usize) -> u64 {
        self.checkpoint_offset(slot) + self.quarter_bytes
    }

    /// The blocks of the section space: those of either checkpoint quarter but the header.
    pub(crate) fn section_space(&self) -> [BlockRun; 2] {
        let count = (self.quarter_bytes / BLOCK_BYTES as u64) as u32 - 1;
        [0, 1].map(|quarter| BlockRun { first: quarter * QUARTER_BLOCKS_MAX + 1, count })
    }

    /// Whether all blocks of a run (of one at least) are in the section space.
    pub(super) fn has_run(&self, run: &BlockRun) -> bool {
        let space = self.section_space();
        run.count > 0 && space.iter().any(|all| run.first >= all.first && run.end() <= all.end())
    }

    /// Blocks that a checkpoint may take.
    pub(super) fn checkpoint_blocks_max(&self) -> u64 {
        self.section_space().iter().map(|run| u64::from(run.count)).sum::<u64>() / SPACE_PARTS
    }

    /// Byte offset, within the area, of a run of the section space.
    pub fn run_offset(&self, run: &BlockRun) -> u64 {
        let (quarter, index) = (run.first / QUARTER_BLOCKS_MAX, run.first % QUARTER_BLOCKS_MAX);
        self.checkpoint_offset(quarter as usize) + u64::from(index) * BLOCK_BYTES as u64
    }

    /// Bytes of a log.
    pub fn log_bytes(&self) -> u64 {
        self.quarter_bytes
    }

    /// Bytes of the longest entry: behind a log's end twice as much is read for what a damaged one hides.
    pub fn entry_bytes_max(&self) -> u64 {
        let block = BLOCK_BYTES as u64;
        (self.log_bytes() / 4 / block * block).clamp(block, ENTRY_BYTES_MAX)
    }
}

/// The slot of a checkpoint of this sequence.
pub(super) fn slot_of(sequence: u64) -> usize {
    (sequence % 2) as usize
}

/// Where the next entry goes: the same on all current copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaPosition {
    /// The pool.
    pub pool: PoolId,
    /// Sequence of the checkpoint that this log follows.
    pub sequence: u64,
    /// The epoch of checkpoint and log.
    pub epoch: Epoch,
    /// The last committed record.
    pub number: RecordNumber,
    /// CRC that the next entry names.
    pub chain: u32,
    /// Byte offset within the log of the next entry.
    pub log_at: u64,
    /// Who signs it, if anybody does.
    pub by: Option<PublicKey>,
}

impl AreaPosition {
    /// The slot of that checkpoint and its log.
    pub fn slot(&self) -> usize {
        slot_of(self.sequence)
    }

    /// The entry that follows here, if `bytes` begin with it. Whether it was signed by whom it should be is for who
    /// believes what it says ([`CheckedEntry::is_by`]).
    pub(crate) fn entry_here<'a>(&self, bytes: &'a [u8]) -> Option<CheckedEntry<'a>> {
        check_entry(bytes, self.pool).filter(|entry| {
            entry.sequence == self.sequence
                && entry.epoch == self.epoch
                && entry.number == self.number.next()
                && entry.previous == self.chain
                && entry.is_signed() == self.by.is_some()
        })
    }

    /// The position behind an entry that follows here.
    pub(crate) fn after(&self, entry: &CheckedEntry<'_>) -> AreaPosition {
        AreaPosition {
            number: entry.number,
            chain: entry.crc,
            log_at: self.log_at + entry.len as u64,
            ..*self
        }
    }
}

/// Why something can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFull {
    /// The log is full: write a checkpoint of the next sequence, then the entry.
    #[error("the metadata log is full; a checkpoint is due")]
    CheckpointDue,
    /// The transaction is longer than an entry may be: a checkpoint with it takes the entry's place.
    #[error("the transaction is too long for an entry of the metadata log")]
    EntryTooLong,
    /// The metadata is larger than the area was made for.
    #[error("the metadata ({needed_bytes} bytes) exceeds the area that the pool was made with")]
    AreaTooSmall {
        /// What it takes.
        needed_bytes: u64,
    },
}

/// A log entry ready to be written.
#[derive(Clone, Debug)]
pub struct EncodedEntry {
    /// The entry, padded to 4 KiB.
    pub bytes: Buffer,
    /// Byte offset within the log.
    pub log_at: u64,
    /// Where the log continues once this is durable.
    pub after: AreaPosition,
}

/// What a checkpoint stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointStamp {
    /// Above all sequences seen.
    pub sequence: u64,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// The last record that the metadata contains.
    pub number: RecordNumber,
}

/// The bytes of the next log entry: one transaction, under a configuration, signed by whoever signed the checkpoint.
pub fn encode_entry(
    layout: &AreaLayout,
    position: &AreaPosition,
    (config, keys): (ConfigNumber, Option<&KeyPair>),
    records: &[MetaRecord],
) -> Result<EncodedEntry, LogFull> {
    debug_assert_eq!(position.by, keys.map(KeyPair::public));
    let payload = encode_records(records);
    let begins = ENTRY_HEADER_BYTES + keys.map_or(0, |_| SIGNATURE_BYTES);
    let used = begins + payload.len();
    let len = used.next_multiple_of(BLOCK_BYTES);
    if len as u64 > layout.entry_bytes_max() {
        return Err(LogFull::EntryTooLong);
    }
    if position.log_at.saturating_add(len as u64) > layout.log_bytes() {
        return Err(LogFull::CheckpointDue);
    }
    let mut bytes = BufferMut::zeroed(len);
    let number = position.number.next();
    MAGIC.of_mut(&mut bytes).copy_from_slice(ENTRY_MAGIC);
    ENTRY_PREVIOUS.put_number(&mut bytes, u64::from(position.chain));
    ENTRY_POOL.put_uuid(&mut bytes, position.pool.0);
    ENTRY_SEQUENCE.put_number(&mut bytes, position.sequence);
    ENTRY_EPOCH.put_number(&mut bytes, position.epoch.0);
    ENTRY_NUMBER.put_number(&mut bytes, number.0);
    ENTRY_LENGTH.put_number(&mut bytes, payload.len() as u64);
    ENTRY_CONFIG.put_number(&mut bytes, config.0);
    bytes[begins..used].copy_from_slice(&payload);
    if let Some(keys) = keys {
        ENTRY_SIGNATURE.put_number(&mut bytes, SIGNATURE_BYTES as u64);
        let signature = proof::sign_entry(keys, &bytes[..ENTRY_HEADER_BYTES], &payload);
        bytes[ENTRY_HEADER_BYTES..begins].copy_from_slice(&signature.0);
    }
    let crc = crc_without(&bytes[..used], CRC);
    CRC.put_number(&mut bytes, u64::from(crc));
    let log_at = position.log_at;
    let after = AreaPosition { number, chain: crc, log_at: log_at + len as u64, ..*position };
    Ok(EncodedEntry { bytes: bytes.freeze(), log_at, after })
}

/// What a checkpoint slot holds, by its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointSlot {
    /// Never one of this kind.
    Empty,
    /// Damaged, torn, or of another place.
    Damaged,
    /// A sound one; what it names may not be.
    Sound(CheckpointHead),
}

impl CheckpointSlot {
    /// The header, if it is sound.
    pub(crate) fn head(&self) -> Option<&CheckpointHead> {
        match self {
            CheckpointSlot::Sound(head) => Some(head),
            CheckpointSlot::Empty | CheckpointSlot::Damaged => None,
        }
    }
}

/// The header of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// What it stands for.
    pub stamp: CheckpointStamp,
    /// CRC of the table.
    pub crc: u32,
    /// Bytes of the table.
    pub table_bytes: u64,
    /// Where the table is, in order; padded.
    pub place: Vec<BlockRun>,
    /// What the table is, by the digest that former versions didn't write.
    pub digest: Option<Digest>,
    /// Who signed it, if anybody did.
    pub by: Option<PublicKey>,
}

impl CheckpointHead {
    /// The header's slot.
    pub fn slot(&self) -> usize {
        slot_of(self.stamp.sequence)
    }

    /// The header, signed with these keys.
    pub(super) fn encode(&self, pool: PoolId, keys: Option<&KeyPair>) -> Buffer {
        let mut header = BufferMut::zeroed(BLOCK_BYTES);
        MAGIC.of_mut(&mut header).copy_from_slice(CHECKPOINT_MAGIC);
        SLOT.put_number(&mut header, self.slot() as u64);
        POOL.put_uuid(&mut header, pool.0);
        SEQUENCE.put_number(&mut header, self.stamp.sequence);
        EPOCH.put_number(&mut header, self.stamp.epoch.0);
        NUMBER.put_number(&mut header, self.stamp.number.0);
        LENGTH.put_number(&mut header, self.table_bytes);
        TABLE_CRC.put_number(&mut header, u64::from(self.crc));
        RUNS.put_number(&mut header, self.place.len() as u64);
        for (field, run) in RUN.of_mut(&mut header).chunks_exact_mut(8).zip(&self.place) {
            field[..4].copy_from_slice(&run.first.to_le_bytes());
            field[4..].copy_from_slice(&run.count.to_le_bytes());
        }
        if let Some(digest) = &self.digest {
            proof::put(&mut header, digest, keys);
        }
        let crc = crc_without(&header, CRC);
        CRC.put_number(&mut header, u64::from(crc));
        header.freeze()
    }
}

/// Judges the header of a checkpoint slot.
pub(crate) fn check_header(
    header: &[u8],
    pool: PoolId,
    slot: usize,
    layout: &AreaLayout,
) -> CheckpointSlot {
    let Some(header) = header.get(..BLOCK_BYTES) else { return CheckpointSlot::Empty };
    if MAGIC.of(header) != CHECKPOINT_MAGIC {
        return CheckpointSlot::Empty;
    }
    if CRC.number32(header) != crc_without(header, CRC) {
        return CheckpointSlot::Damaged;
    }
    let count = RUNS.number32(header) as usize;
    let (runs, proof) = match count <= TABLE_RUNS_MAX {
        true => (RUN.of(header), proof::of(header)),
        false => (FORMER_RUN.of(header), Some((None, None))),
    };
    let Some((digest, by)) = proof else { return CheckpointSlot::Damaged };
    let word = Field::first(4);
    let runs = runs.chunks_exact(8).take(count);
    let head = CheckpointHead {
        stamp: CheckpointStamp {
            sequence: SEQUENCE.number(header),
            epoch: Epoch(EPOCH.number(header)),
            number: RecordNumber(NUMBER.number(header)),
        },
        crc: TABLE_CRC.number32(header),
        table_bytes: LENGTH.number(header),
        place: runs
            .map(|run| BlockRun { first: word.number32(run), count: word.then(4).number32(run) })
            .collect(),
        digest,
        by,
    };
    if SLOT.number(header) != slot as u64
        || head.stamp.sequence > SEQUENCE_MAX
        || head.slot() != slot
        || POOL.uuid(header) != pool.0
        || !is_place(layout, &head.place, head.table_bytes)
    {
        return CheckpointSlot::Damaged;
    }
    CheckpointSlot::Sound(head)
}

/// A log entry with a sound CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckedEntry<'a> {
    pub(crate) sequence: u64,
    pub(crate) epoch: Epoch,
    pub(crate) number: RecordNumber,
    pub(crate) previous: u32,
    pub(crate) config: ConfigNumber,
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
    /// Bytes that it takes in the log.
    pub(crate) len: usize,
    header: &'a [u8],
    signature: Option<Signature>,
}

impl CheckedEntry<'_> {
    /// Header, signature and payload, without the padding.
    pub(crate) fn bytes(&self) -> usize {
        entry_bytes(self.header)
    }

    /// Whether it says that somebody signed it, or nobody did, as it should; not whether that is so.
    fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Whether it was signed by whoever signed the checkpoint, if anybody did.
    pub(crate) fn is_by(&self, by: Option<PublicKey>) -> bool {
        match self.signature {
            None => by.is_none(),
            Some(signature) => {
                by.is_some() && proof::signer_of_entry(signature, self.header, self.payload) == by
            }
        }
    }
}

/// The entry at the beginning of `bytes`, if there is a sound one of this pool.
pub(crate) fn check_entry(bytes: &[u8], pool: PoolId) -> Option<CheckedEntry<'_>> {
    let header = bytes.get(..ENTRY_HEADER_BYTES)?;
    if MAGIC.of(header) != ENTRY_MAGIC || ENTRY_POOL.uuid(header) != pool.0 {
        return None;
    }
    let used = entry_bytes(header);
    let entry = bytes.get(..used)?;
    if CRC.number32(entry) != crc_without(entry, CRC) {
        return None;
    }
    let (signature, payload) = match ENTRY_SIGNATURE.number(entry) as usize {
        0 => (None, entry.get(ENTRY_HEADER_BYTES..)?),
        SIGNATURE_BYTES => {
            let (signature, payload) = entry.get(ENTRY_HEADER_BYTES..)?.split_first_chunk()?;
            (Some(Signature(*signature)), payload)
        }
        _ => return None,
    };
    Some(CheckedEntry {
        sequence: ENTRY_SEQUENCE.number(entry),
        epoch: Epoch(ENTRY_EPOCH.number(entry)),
        number: RecordNumber(ENTRY_NUMBER.number(entry)),
        previous: ENTRY_PREVIOUS.number32(entry),
        config: ConfigNumber(ENTRY_CONFIG.number(entry)),
        crc: CRC.number32(entry),
        payload,
        len: used.next_multiple_of(BLOCK_BYTES),
        header,
        signature,
    })
}

/// What the head of an entry says of itself. Nothing of it was checked but magic and pool: it is for
/// telling a torn or damaged entry from the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryClaim {
    pub(crate) sequence: u64,
    pub(crate) epoch: Epoch,
    pub(crate) number: RecordNumber,
    /// Header, signature and payload, without the padding.
    pub(crate) bytes: usize,
}

/// Bytes by which an entry is recognised.
pub(crate) const ENTRY_HEAD_BYTES: usize = ENTRY_HEADER_BYTES;

/// What the entry that begins with these bytes claims to be.
pub(crate) fn entry_claim(head: &[u8], pool: PoolId) -> Option<EntryClaim> {
    let header = head.get(..ENTRY_HEADER_BYTES)?;
    (MAGIC.of(header) == ENTRY_MAGIC && ENTRY_POOL.uuid(header) == pool.0).then(|| EntryClaim {
        sequence: ENTRY_SEQUENCE.number(header),
        epoch: Epoch(ENTRY_EPOCH.number(header)),
        number: RecordNumber(ENTRY_NUMBER.number(header)),
        bytes: entry_bytes(header),
    })
}

/// What the head of an entry says of its length. Only an entry whose signature is as long as signatures are is one.
fn entry_bytes(header: &[u8]) -> usize {
    let signature = ENTRY_SIGNATURE.number(header) as usize;
    ENTRY_HEADER_BYTES + signature.min(SIGNATURE_BYTES) + ENTRY_LENGTH.number32(header) as usize
}

#[cfg(test)]
#[path = "area_tests.rs"]
mod tests;
