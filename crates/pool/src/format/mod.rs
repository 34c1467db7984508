//! What a pool disk carries, one file per structure. The byte map, the rule of validity and what each
//! structure protects against stand in the doc of its module; `docs/format.md` shows where they are.
//!
//! All numbers are little-endian. Bytes from a disk become a value only through a check of magic,
//! CRC and identity, because a disk may hold anything: an older pool's bytes, another disk's, a torn
//! or misdirected write, or what somebody put there on purpose. Nothing here panics on such bytes.

mod applied;
mod bytes;
mod checksum;
pub(crate) mod field;
mod geometry;
mod ids;
mod label;
mod log;
mod root;
mod signers;
mod vote;
mod voters;

pub use applied::{APPLIED_BYTES, Applied, AppliedSlots, select_applied};
pub(crate) use bytes::{Coded, Listed, Malformed, Reader, Variant, Writer, coded};
pub use checksum::{
    CHECKSUM_ENTRIES, ChecksumBlock, ChecksumFault, ChecksumVersion, Entry, ExtentShape, Role,
    UncheckedChecksumBlock, row_checksum,
};
pub(crate) use checksum::{ROW_SECTORS, sector_checksum};
pub use geometry::{DiskGeometry, GeometryError, MIB, choose_extent_bytes};
pub use ids::{
    ConfigNumber, DiskId, DiskNumber, ExtentNumber, ExtentRange, GenerationId, JobNumber, PoolId,
    RecordNumber, ReleaseNumber, Row, SegmentNumber, VolumeId,
};
pub use label::{
    FailureDomain, Features, LABEL_BYTES, Label, LabelError, LabelFaults, LabelState,
    NAME_BYTES_MAX, SelectedLabel, end_of_labelled, read_label_slot, select_label,
};
pub use log::{
    Batch, Conflict, FoundRecord, LogTail, RECORD_ROWS_MAX, Record, RecordBody, RowRange,
    SEGMENT_HEADER_BYTES, SegmentContents, SegmentFault, SegmentHeader, SegmentSeal, Stamp,
    UncheckedSegmentHeader, encode_batch, read_segment,
};
pub(crate) use log::{
    CheckedHeader, CheckedKind, check_header, claimed_header_len, claimed_segment, row_checksums,
    sector_checksums,
};
pub use root::{initial_root, version_hash};
pub use signers::Signers;
pub(crate) use vote::VOTE_MAGIC;
pub use vote::{
    Configuration, Destruction, OUT_DISKS_MAX, OutDisk, Signed, Signer, TooManyOut, VOTE_BYTES,
    VotePlace, VoteSlots, Witness, select_vote,
};
pub(crate) use voters::has_majority;
pub use voters::{VOTE_DISKS_MAX, Voters, majority_of, poorest};

/// No slot of a disk is written to so often. One that says more isn't sound: the sequences after it would come to the end of
/// numbers.
const SEQUENCE_MAX: u64 = 1 << 62;
