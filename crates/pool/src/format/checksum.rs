//! Checksum blocks: the CRCs of a group's rows, kept apart from the data, and how an extent is divided
//! between them and rows.
//!
//! A member extent of B blocks: k checksum blocks in two slots each (slot 0 of all k, then slot 1 of
//! all k), then B − 2k rows; k is the least number for which k blocks hold an entry for each row.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic "epCS" |
//! | 4 | 4 | CRC32C of the block, this field as zeros |
//! | 8 | 8 | generation id of the group |
//! | 16 | 4 | index of the block within the extent |
//! | 20 | 4 | epoch under which it was written, the low 32 bits |
//! | 24 | 8 | sequence; the block lies in slot (sequence mod 2) |
//! | 32 | 124 | a bit per entry: the row was written |
//! | 156 | 3940 | 985 entries: with the bit the row's CRC32C, else 0 (unwritten) or 1 (lost) |
//!
//! (epoch, sequence) is the block's **version**, and a version names one content: an attempt that is
//! made again has the same bytes, and one that was given up is followed by another sequence. All
//! blocks of a group are a **span**; which version of each counts is said by the span's root in the
//! metadata ([`super::version_hash`]), never by what a disk holds.
//!
//! Protects against: rows that were lost, misdirected, rotten or rolled back (the entry's seed covers
//! group, row and role, and is stored elsewhere than the row); a checksum block of an earlier group in
//! the same place (generation id), of another place (index, slot), or torn (CRC; the other slot remains). A
//! row whose checksum was lost is *lost*: an error, until it is written anew.

use block::{BLOCK_BYTES, BLOCK_SECTORS, Buffer, BufferMut, Crc32c, SECTOR_BYTES};

use super::field::{Field, crc_without};
use super::{GenerationId, Row};

const MAGIC_BYTES: &[u8; 4] = b"epCS";

const MAGIC: Field = Field::first(4);
const CRC: Field = MAGIC.then(4);
const GENERATION: Field = CRC.then(8);
const INDEX: Field = GENERATION.then(4);
const EPOCH: Field = INDEX.then(4);
const SEQUENCE: Field = EPOCH.then(8);
const WRITTEN: Field = SEQUENCE.then(CHECKSUM_ENTRIES.div_ceil(8));
const ENTRIES: Field = WRITTEN.then(4 * CHECKSUM_ENTRIES);

/// Entries of a checksum block: as many as fit.
pub const CHECKSUM_ENTRIES: usize = 985;

const _: () = assert!(ENTRIES.end() == BLOCK_BYTES);

/// What a row is in its group. It is part of the checksum's seed, so that a data block that ended up
/// where parity belongs doesn't pass. All legs of a mirror hold `Data(0)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The i-th data block of the row.
    Data(u8),
    /// The j-th parity block of the row.
    Parity(u8),
}

/// The checksum of a row's 4 KiB: CRC32C seeded with its place.
pub fn row_checksum(group: GenerationId, row: Row, role: Role, data: &[u8]) -> u32 {
    let (kind, index) = match role {
        Role::Data(index) => (0, index),
        Role::Parity(index) => (1, index),
    };
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&group.0.to_le_bytes());
    seed[8..12].copy_from_slice(&row.0.to_le_bytes());
    seed[12] = kind;
    seed[13] = index;
    // The last two bytes are the offset within the row's block, for rows of several blocks.
    Crc32c::new().update(&seed).update(data).finish()
}

/// Sectors of a row.
pub(crate) const ROW_SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;

/// The checksum of one of a row's sectors of 512 bytes: CRC32C seeded with its place. It is in records only,
/// for rows that a power cut may leave half written.
pub(crate) fn sector_checksum(group: GenerationId, row: Row, index: usize, data: &[u8]) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&group.0.to_le_bytes());
    seed[8..12].copy_from_slice(&row.0.to_le_bytes());
    seed[12] = SECTOR_KIND;
    seed[13] = index as u8;
    Crc32c::new().update(&seed).update(data).finish()
}

/// No role is of this kind.
const SECTOR_KIND: u8 = 0xff;

/// How the blocks of an extent are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentShape {
    extent_bytes: u64,
    checksum_blocks: u32,
    rows: u32,
}

impl ExtentShape {
    /// What a log segment has at least, as long as an extent isn't larger, and what it doesn't use more of than. An
    /// opening reads all of it from each copy: with more, a pool of many volumes is away for long.
    const SEGMENT_BYTES: u64 = 16 << 20;
    /// Smallest and largest extent.
    const BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 30);
    /// Regions of an extent that are marked dirty each for itself: the rows' and the checksum blocks'.
    pub const REGIONS: u32 = 64;
    /// The region that all checksum blocks are.
    pub const CHECKSUM_REGION: u32 = 63;

    /// The division of an extent of so many bytes; `None` unless that is a power of two of at least
    /// 64 KiB and at most 1 GiB. (Pools use 4, 16 or 64 MiB; small ones are for tests.)
    pub const fn new(extent_bytes: u64) -> Option<ExtentShape> {
        let range = Self::BYTES;
        if !extent_bytes.is_power_of_two()
            || extent_bytes < *range.start()
            || extent_bytes > *range.end()
        {
            return None;
        }
        let blocks = (extent_bytes / BLOCK_BYTES as u64) as u32;
        let mut k = 1;
        while k * (CHECKSUM_ENTRIES as u32) < blocks - 2 * k {
            k += 1;
        }
        Some(ExtentShape { extent_bytes, checksum_blocks: k, rows: blocks - 2 * k })
    }

    /// Bytes of the extent.
    pub fn extent_bytes(self) -> u64 {
        self.extent_bytes
    }

    /// Extents that a new log segment takes.
    pub fn segment_extents(self) -> u32 {
        if self.extent_bytes < Self::SEGMENT_BYTES { 2 } else { 1 }
    }

    /// Bytes of a log segment of so many extents. (Of large extents it had two, once, and used them whole.)
    pub fn segment_bytes(self, extents: u32) -> u64 {
        match extents {
            1 => self.extent_bytes.min(Self::SEGMENT_BYTES),
            _ => u64::from(extents).saturating_mul(self.extent_bytes),
        }
    }

    /// Checksum blocks (k), each in two slots.
    pub fn checksum_blocks(self) -> u32 {
        self.checksum_blocks
    }

    /// Rows of the group.
    pub fn rows(self) -> u32 {
        self.rows
    }

    /// First sector, within the extent, of a slot (0 or 1) of a checksum block.
    pub fn checksum_sector(self, index: u32, slot: u32) -> u64 {
        u64::from((slot % 2) * self.checksum_blocks + index) * BLOCK_SECTORS
    }

    /// First sector, within the extent, of a row.
    pub fn row_sector(self, row: Row) -> u64 {
        u64::from(2 * self.checksum_blocks + row.0) * BLOCK_SECTORS
    }

    /// Which checksum block holds a row's entry, and which entry that is.
    pub fn entry_of(self, row: Row) -> (u32, usize) {
        let entries = CHECKSUM_ENTRIES as u32;
        (row.0 / entries, (row.0 % entries) as usize)
    }

    /// The rows whose entries a checksum block holds: first and count.
    pub fn rows_of_block(self, index: u32) -> (Row, u32) {
        let first = (index * CHECKSUM_ENTRIES as u32).min(self.rows);
        (Row(first), (self.rows - first).min(CHECKSUM_ENTRIES as u32))
    }

    /// The bit in a dirty mask of the region that a row lies in: 0 to 62, equal parts of the rows.
    pub fn region_of_row(self, row: Row) -> u32 {
        (row.0 / self.rows_per_region()).min(Self::CHECKSUM_REGION - 1)
    }

    /// The checksum blocks, as a dirty mask.
    pub const CHECKSUMS: u64 = 1 << Self::CHECKSUM_REGION;

    /// The rows that lie in a region: first and count (none in that of the checksum blocks).
    pub fn rows_of_region(self, region: u32) -> (Row, u32) {
        if region >= Self::CHECKSUM_REGION {
            return (Row(self.rows), 0);
        }
        let first = (region * self.rows_per_region()).min(self.rows);
        let end = (first + self.rows_per_region()).min(self.rows);
        (Row(first), end - first)
    }

    fn rows_per_region(self) -> u32 {
        self.rows.div_ceil(Self::CHECKSUM_REGION)
    }
}

/// Which of the contents that a checksum block had over time: later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChecksumVersion {
    /// The epoch of the owner who wrote it, the low 32 bits.
    pub epoch: u32,
    /// Counts on from block to block; decides the slot.
    pub sequence: u64,
}

impl ChecksumVersion {
    /// What a block is initialised to.
    pub const INITIAL: ChecksumVersion = ChecksumVersion { epoch: 0, sequence: 1 };

    /// Whether nothing was ever written under it.
    pub fn is_initial(self) -> bool {
        self == ChecksumVersion::INITIAL
    }

    /// The slot that a block of this version lies in.
    pub fn slot(self) -> u32 {
        (self.sequence % 2) as u32
    }
}

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It reads as zeros.
    Unwritten,
    /// Its checksum.
    Written(u32),
    /// Its checksum was lost: nobody can tell what it should be.
    Lost,
}

impl Entry {
    /// The checksum, where there is one.
    pub fn checksum(self) -> Option<u32> {
        match self {
            Entry::Written(checksum) => Some(checksum),
            Entry::Unwritten | Entry::Lost => None,
        }
    }
}

/// The value of a lost entry, whose bit is clear.
const LOST: u32 = 1;

/// A checksum block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumBlock {
    /// The group.
    pub group: GenerationId,
    /// Which of the extent's checksum blocks.
    pub index: u32,
    /// How new it is; decides the slot.
    pub version: ChecksumVersion,
    written: Box<[u8]>,
    entries: Box<[u32]>,
}

impl ChecksumBlock {
    /// A block that says of all its rows that they weren't written.
    pub fn unwritten(group: GenerationId, index: u32, version: ChecksumVersion) -> ChecksumBlock {
        let written = vec![0; CHECKSUM_ENTRIES.div_ceil(8)].into();
        let entries = vec![0; CHECKSUM_ENTRIES].into();
        ChecksumBlock { group, index, version, written, entries }
    }

    /// A block whose first `rows` rows are all lost.
    pub fn lost(
        group: GenerationId,
        index: u32,
        version: ChecksumVersion,
        rows: u32,
    ) -> ChecksumBlock {
        let mut block = ChecksumBlock::unwritten(group, index, version);
        (0..rows as usize).for_each(|entry| block.set(entry, Entry::Lost));
        block
    }

    /// What is known of an entry's row.
    pub fn get(&self, entry: usize) -> Entry {
        let Some(value) = self.entries.get(entry).copied() else { return Entry::Unwritten };
        match (self.written[entry / 8] & 1 << (entry % 8) != 0, value) {
            (true, checksum) => Entry::Written(checksum),
            (false, LOST) => Entry::Lost,
            (false, _) => Entry::Unwritten,
        }
    }

    /// Stores an entry.
    ///
    /// # Panics
    /// When there is no such entry: the caller's arithmetic is wrong.
    pub fn set(&mut self, entry: usize, known: Entry) {
        assert!(entry < CHECKSUM_ENTRIES, "entry {entry} of a checksum block");
        let bit = 1 << (entry % 8);
        self.written[entry / 8] &= !bit;
        self.entries[entry] = match known {
            Entry::Written(checksum) => {
                self.written[entry / 8] |= bit;
                checksum
            }
            Entry::Unwritten => 0,
            Entry::Lost => LOST,
        };
    }

    /// The slot that it lies in.
    pub fn slot(&self) -> u32 {
        self.version.slot()
    }

    /// Its bytes.
    pub fn encode(&self) -> Buffer {
        let mut block = BufferMut::zeroed(BLOCK_BYTES);
        MAGIC.of_mut(&mut block).copy_from_slice(MAGIC_BYTES);
        GENERATION.put_number(&mut block, self.group.0);
        INDEX.put_number(&mut block, u64::from(self.index));
        EPOCH.put_number(&mut block, u64::from(self.version.epoch));
        SEQUENCE.put_number(&mut block, self.version.sequence);
        WRITTEN.of_mut(&mut block).copy_from_slice(&self.written);
        let entries = ENTRIES.of_mut(&mut block).chunks_exact_mut(4);
        for (bytes, entry) in entries.zip(&self.entries) {
            bytes.copy_from_slice(&entry.to_le_bytes());
        }
        let crc = crc_without(&block, CRC);
        CRC.put_number(&mut block, u64::from(crc));
        block.freeze()
    }
}

/// Why bytes aren't the checksum block that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumFault {
    /// No such structure, or damaged.
    #[error("checksum block is damaged")]
    Damaged,
    /// A sound checksum block of another place or group.
    #[error("checksum block belongs elsewhere ({group}, block {index})")]
    Elsewhere {
        /// The group that it names.
        group: GenerationId,
        /// The index that it names.
        index: u32,
    },
}

/// Bytes from a checksum block's slot.
#[derive(Clone, Copy, Debug)]
pub struct UncheckedChecksumBlock<'a>(pub &'a [u8]);

impl UncheckedChecksumBlock<'_> {
    /// The block, if it is what belongs to this place: the group, the index and the slot that it was
    /// read from.
    pub fn check(
        self,
        group: GenerationId,
        index: u32,
        slot: u32,
    ) -> Result<ChecksumBlock, ChecksumFault> {
        let bytes = self.0;
        if bytes.len() != BLOCK_BYTES
            || MAGIC.of(bytes) != MAGIC_BYTES
            || CRC.number32(bytes) != crc_without(bytes, CRC)
        {
            return Err(ChecksumFault::Damaged);
        }
        let found = (GenerationId(GENERATION.number(bytes)), INDEX.number32(bytes));
        let version =
            ChecksumVersion { epoch: EPOCH.number32(bytes), sequence: SEQUENCE.number(bytes) };
        if found != (group, index) || version.slot() != slot {
            return Err(ChecksumFault::Elsewhere { group: found.0, index: found.1 });
        }
        let entries = ENTRIES.of(bytes).chunks_exact(4);
        let entries: Box<[u32]> = entries
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let written: Box<[u8]> = WRITTEN.of(bytes).into();
        // Nothing else is ever encoded, so anything else isn't one of ours.
        let known = |(entry, value): (usize, &u32)| {
            *value <= LOST || written[entry / 8] & 1 << (entry % 8) != 0
        };
        if !entries.iter().enumerate().all(known) {
            return Err(ChecksumFault::Damaged);
        }
        Ok(ChecksumBlock { group, index, version, written, entries })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> ChecksumBlock {
        let version = ChecksumVersion { epoch: 0x0a0b, sequence: 7 };
        let mut block = ChecksumBlock::unwritten(GenerationId(0x0102_0304), 1, version);
        block.set(0, Entry::Written(0xaabb_ccdd));
        block.set(9, Entry::Written(0));
        block.set(10, Entry::Lost);
        block.set(CHECKSUM_ENTRIES - 1, Entry::Written(0x1122_3344));
        block
    }

    fn check(bytes: &[u8]) -> Result<ChecksumBlock, ChecksumFault> {
        UncheckedChecksumBlock(bytes).check(GenerationId(0x0102_0304), 1, 1)
    }

    #[test]
    fn shapes_are_the_least_that_cover_all_rows() {
        for (mib, k) in [(4, 2), (16, 5), (64, 17)] {
            let shape = ExtentShape::new(mib << 20).unwrap();
            assert_eq!(shape.checksum_blocks(), k, "{mib} MiB");
            assert_eq!(u64::from(shape.rows() + 2 * k) * 4096, mib << 20);
            assert!(k * CHECKSUM_ENTRIES as u32 >= shape.rows());
            let less = k - 1;
            assert!(u64::from(less) * 985 < (mib << 20) / 4096 - 2 * u64::from(less));
            let end = shape.row_sector(Row(shape.rows() - 1)) + BLOCK_SECTORS;
            assert_eq!(end * 512, mib << 20);
        }
        for (mib, segment_mib, extents) in [(4, 8, 2), (8, 16, 2), (16, 16, 1), (64, 16, 1)] {
            let shape = ExtentShape::new(mib << 20).unwrap();
            assert_eq!(shape.segment_extents(), extents, "{mib} MiB");
            assert_eq!(shape.segment_bytes(extents), segment_mib << 20);
            assert_eq!(shape.segment_bytes(2), (2 * mib) << 20, "a former program's too");
        }
        for bad in [0, 4096, 5 << 20, 1 << 40] {
            assert_eq!(ExtentShape::new(bad), None);
        }
    }

    #[test]
    fn entries_and_regions_cover_each_row_once() {
        for bytes in [64 << 10, 256 << 10, 4 << 20, 16 << 20] {
            let shape = ExtentShape::new(bytes).unwrap();
            let rows = (0..shape.checksum_blocks()).map(|index| shape.rows_of_block(index).1);
            assert_eq!(rows.sum::<u32>(), shape.rows());
            let mut next = 0;
            for region in 0..ExtentShape::REGIONS {
                let (first, count) = shape.rows_of_region(region);
                assert!(count == 0 || first.0 == next);
                for row in first.0..first.0 + count {
                    assert_eq!(shape.region_of_row(Row(row)), region);
                    let (index, entry) = shape.entry_of(Row(row));
                    assert_eq!(shape.rows_of_block(index).0.0 + entry as u32, row);
                }
                next += count;
            }
            assert_eq!(next, shape.rows());
        }
    }

    #[test]
    fn slots_lie_before_rows_without_overlap() {
        let shape = ExtentShape::new(4 << 20).unwrap();
        let sectors = [(0, 0), (1, 0), (0, 1), (1, 1)]
            .map(|(index, slot)| shape.checksum_sector(index, slot));
        assert_eq!(sectors, [0, 8, 16, 24]);
        assert_eq!(shape.row_sector(Row(0)), 32);
    }

    #[test]
    fn round_trip() {
        let block = sample();
        let bytes = block.encode();
        let back = check(&bytes).unwrap();
        assert_eq!(back, block);
        assert_eq!(back.get(0), Entry::Written(0xaabb_ccdd));
        assert_eq!(back.get(1), Entry::Unwritten);
        assert_eq!(back.get(9), Entry::Written(0));
        assert_eq!(back.get(10), Entry::Lost);
        assert_eq!(back.get(CHECKSUM_ENTRIES), Entry::Unwritten);
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode();
        assert_eq!(&bytes[..4], b"epCS");
        assert_eq!(
            &bytes[8..36],
            &[
                4, 3, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0x0a, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2,
                0, 0
            ]
        );
        assert_eq!(&bytes[196..200], &[1, 0, 0, 0]);
        assert_eq!(&bytes[156..164], &[0xdd, 0xcc, 0xbb, 0xaa, 0, 0, 0, 0]);
        assert_eq!(&bytes[4092..], &[0x44, 0x33, 0x22, 0x11]);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert_eq!(check(&damaged), Err(ChecksumFault::Damaged), "byte {at}");
        }
        assert_eq!(check(&bytes[..4095]), Err(ChecksumFault::Damaged));
        assert_eq!(check(&[]), Err(ChecksumFault::Damaged));
    }

    #[test]
    fn entries_that_are_never_encoded_are_damage() {
        let mut bytes = sample().encode().to_vec();
        bytes[160] = 2;
        let crc = crc_without(&bytes, CRC);
        CRC.put_number(&mut bytes, u64::from(crc));
        assert_eq!(check(&bytes), Err(ChecksumFault::Damaged));
    }

    #[test]
    fn blocks_of_other_places_are_refused() {
        let bytes = sample().encode();
        let unchecked = UncheckedChecksumBlock(&bytes);
        assert!(unchecked.check(GenerationId(0x0102_0305), 1, 1).is_err());
        assert!(unchecked.check(GenerationId(0x0102_0304), 0, 1).is_err());
        assert!(unchecked.check(GenerationId(0x0102_0304), 1, 0).is_err());
    }

    #[test]
    fn a_row_checksum_covers_its_place() {
        let data = [7; 4096];
        let right = row_checksum(GenerationId(1), Row(2), Role::Data(0), &data);
        assert_ne!(right, row_checksum(GenerationId(2), Row(2), Role::Data(0), &data));
        assert_ne!(right, row_checksum(GenerationId(1), Row(3), Role::Data(0), &data));
        assert_ne!(right, row_checksum(GenerationId(1), Row(2), Role::Data(1), &data));
        assert_ne!(right, row_checksum(GenerationId(1), Row(2), Role::Parity(0), &data));
        let mut seeded = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        seeded.extend_from_slice(&data);
        assert_eq!(right, block::crc32c(&seeded));
    }
}
