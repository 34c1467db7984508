//! The log of a volume on disk: segments, and the records in them.

mod header;
mod merge;
mod record;

pub use header::{SEGMENT_HEADER_BYTES, SegmentFault, SegmentHeader, UncheckedSegmentHeader};
pub use merge::{Conflict, MergedSegment, merge_segment};
pub use record::{
    Batch, LogTail, Mark, RECORD_ROWS_MAX, Record, RecordBody, RowRange, encode_batch,
};
pub(crate) use record::{CheckedHeader, CheckedKind, check_header, record_claim};
