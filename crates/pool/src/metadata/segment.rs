//! What the metadata has of a volume's log: where its segments are, and where each ends.

use block::{BLOCK_BYTES, Epoch};

use super::SharedMap;
use crate::format::{
    DiskNumber, ExtentRange, ExtentShape, GenerationId, RecordNumber, SegmentHeader, SegmentNumber,
    SegmentSeal, VolumeId,
};

/// Whether a segment still takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentState {
    /// Records are appended.
    Open,
    /// It ends with this record: all up to it were durable on all current copies, beyond it all is
    /// void.
    Closed(RecordNumber),
    /// An opening found that it ends with this record: beyond it all is void. That bounds it, and
    /// proves nothing: the last ones may be on one copy only.
    Bounded(RecordNumber),
}

/// A copy of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentCopyPlace {
    /// The disk.
    pub disk: DiskNumber,
    /// Its extents there.
    pub extents: ExtentRange,
}

/// A live log segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number in the log.
    pub number: SegmentNumber,
    /// The epoch of all its records.
    pub epoch: Epoch,
    /// Its generation id.
    pub generation: GenerationId,
    /// The copies that are current: each has everything that was acknowledged.
    pub copies: Vec<SegmentCopyPlace>,
    /// How many there should be.
    pub wanted: u8,
    /// Whether it still takes records.
    pub state: SegmentState,
    /// Random: its records' CRCs begin with it.
    pub key: u64,
    /// Its high-water mark: blocks of a copy, header included, that may have been written. `None`: all.
    pub high_water_blocks: Option<u32>,
}

impl Segment {
    /// The header block of each of its copies.
    pub fn header(&self, volume: VolumeId, shape: ExtentShape) -> SegmentHeader {
        let blocks = self.bytes(shape) / BLOCK_BYTES as u64;
        SegmentHeader {
            volume,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            number: self.number,
            epoch: self.epoch,
            generation: self.generation,
        }
    }

    /// Bytes of a copy, header included.
    pub fn bytes(&self, shape: ExtentShape) -> u64 {
        shape.segment_bytes(self.copies.first().map_or(0, |copy| copy.extents.count))
    }

    /// Bytes of a copy, header included, that may have been written: nobody wrote beyond, so an opening needs to read
    /// no further.
    pub fn high_water_bytes(&self, shape: ExtentShape) -> u64 {
        self.up_to_high_water(self.bytes(shape))
    }

    /// What may have been written of so many bytes, from the beginning of a copy on.
    pub(crate) fn up_to_high_water(&self, bytes: u64) -> u64 {
        let blocks = self.high_water_blocks.map_or(u64::MAX, u64::from);
        blocks.saturating_mul(BLOCK_BYTES as u64).min(bytes)
    }

    /// What makes a record one of this segment.
    pub fn seal(&self) -> SegmentSeal {
        SegmentSeal { generation: self.generation, epoch: self.epoch, key: self.key }
    }

    /// Its last record that counts, where it is known.
    pub fn end(&self) -> Option<RecordNumber> {
        match self.state {
            SegmentState::Open => None,
            SegmentState::Closed(end) | SegmentState::Bounded(end) => Some(end),
        }
    }

    /// Whether it holds, or, open, may hold records beyond this one.
    pub fn is_needed(&self, released: RecordNumber) -> bool {
        self.end().is_none_or(|end| end > released)
    }
}

/// A volume's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeLog {
    /// The live segments.
    pub segments: SharedMap<SegmentNumber, Segment>,
    /// The number of the next segment.
    pub next_segment: SegmentNumber,
    /// Everything up to this record is in place on all members that are in, or marked dirty.
    pub released: RecordNumber,
}
