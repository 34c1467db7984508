//! The header block of a log segment's copy.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic "epSEGMNT" |
//! | 8 | 4 | CRC32C of the block, this field as zeros |
//! | 12 | 4 | volume |
//! | 16 | 4 | log of the volume: 0 |
//! | 20 | 4 | bytes of the segment in units of 4 KiB |
//! | 24 | 8 | segment number |
//! | 32 | 8 | epoch |
//! | 40 | 8 | generation id |
//! | 48 | 4048 | zero |
//!
//! Protects against: taking an earlier owner's bytes in the same extents for this segment's: its generation
//! id is in no other segment's header or record. All copies of a segment are equal byte for byte; a
//! copy is known by where the metadata says it is.

use block::{BLOCK_BYTES, Buffer, BufferMut, Epoch};

use crate::format::field::{Field, crc_without};
use crate::format::{GenerationId, SegmentNumber, VolumeId};

const MAGIC_BYTES: &[u8; 8] = b"epSEGMNT";

const MAGIC: Field = Field::first(8);
const CRC: Field = MAGIC.then(4);
const VOLUME: Field = CRC.then(4);
const LOG: Field = VOLUME.then(4);
const BLOCKS: Field = LOG.then(4);
const NUMBER: Field = BLOCKS.then(8);
const EPOCH: Field = NUMBER.then(8);
const GENERATION: Field = EPOCH.then(8);
const REST: Field = GENERATION.then(SEGMENT_HEADER_BYTES - GENERATION.end());

/// Bytes of the header block; records follow.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;

const _: () = assert!(REST.end() == SEGMENT_HEADER_BYTES);

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log.
    pub volume: VolumeId,
    /// Length of the whole segment, header included, in blocks.
    pub blocks: u32,
    /// Its number in the log.
    pub number: SegmentNumber,
    /// The epoch of all its records.
    pub epoch: Epoch,
    /// Its generation id, in each of its records too.
    pub generation: GenerationId,
}

/// Why a header isn't that of the segment that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// No such structure, or damaged.
    #[error("segment header is damaged")]
    Damaged,
    /// A sound header of another segment.
    #[error("segment header belongs to another segment ({0})")]
    Elsewhere(GenerationId),
}

impl SegmentHeader {
    /// Its bytes.
    pub fn encode(&self) -> Buffer {
        let mut block = BufferMut::zeroed(SEGMENT_HEADER_BYTES);
        MAGIC.of_mut(&mut block).copy_from_slice(MAGIC_BYTES);
        VOLUME.put_number(&mut block, u64::from(self.volume.0));
        BLOCKS.put_number(&mut block, u64::from(self.blocks));
        NUMBER.put_number(&mut block, self.number.0);
        EPOCH.put_number(&mut block, self.epoch.0);
        GENERATION.put_number(&mut block, self.generation.0);
        let crc = crc_without(&block, CRC);
        CRC.put_number(&mut block, u64::from(crc));
        block.freeze()
    }
}

/// Bytes from the place of a segment's header.
#[derive(Clone, Copy, Debug)]
pub struct UncheckedSegmentHeader<'a>(pub &'a [u8]);

impl UncheckedSegmentHeader<'_> {
    /// Whether these bytes are exactly the header that the metadata leads to expect.
    pub fn check(self, expected: &SegmentHeader) -> Result<SegmentHeader, SegmentFault> {
        let bytes = self.0;
        if bytes.len() != SEGMENT_HEADER_BYTES
            || MAGIC.of(bytes) != MAGIC_BYTES
            || CRC.number32(bytes) != crc_without(bytes, CRC)
            || LOG.number(bytes) != 0
        {
            return Err(SegmentFault::Damaged);
        }
        let found = SegmentHeader {
            volume: VolumeId(VOLUME.number32(bytes)),
            blocks: BLOCKS.number32(bytes),
            number: SegmentNumber(NUMBER.number(bytes)),
            epoch: Epoch(EPOCH.number(bytes)),
            generation: GenerationId(GENERATION.number(bytes)),
        };
        if found == *expected { Ok(found) } else { Err(SegmentFault::Elsewhere(found.generation)) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            volume: VolumeId(2),
            blocks: 2048,
            number: SegmentNumber(9),
            epoch: Epoch(5),
            generation: GenerationId(0x0102),
        }
    }

    #[test]
    fn round_trip_and_identity() {
        let bytes = header().encode();
        assert_eq!(UncheckedSegmentHeader(&bytes).check(&header()), Ok(header()));
        let other = SegmentHeader { generation: GenerationId(3), ..header() };
        let found = UncheckedSegmentHeader(&bytes).check(&other);
        assert_eq!(found, Err(SegmentFault::Elsewhere(GenerationId(0x0102))));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = header().encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x80;
            let found = UncheckedSegmentHeader(&damaged).check(&header());
            assert_eq!(found, Err(SegmentFault::Damaged), "byte {at}");
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = header().encode();
        assert_eq!(&bytes[..8], b"epSEGMNT");
        assert_eq!(&bytes[12..24], &[2, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]);
        assert_eq!(&bytes[24..40], &[9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[40..49], &[2, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
