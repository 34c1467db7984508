//! The log of a volume on disk: segments, and the records in them.

mod header;
mod merge;
mod record;

pub use header::{SEGMENT_HEADER_BYTES, SegmentFault, SegmentHeader, UncheckedSegmentHeader};
pub use merge::{Conflict, FoundRecord, SegmentContents, read_segment};
pub use record::{
    Batch, LogTail, RECORD_ROWS_MAX, Record, RecordBody, RowRange, SegmentSeal, Stamp, encode_batch,
};
pub(crate) use record::{
    CheckedHeader, CheckedKind, check_header, claimed_header_len, claimed_segment, row_checksums,
    sector_checksums,
};
