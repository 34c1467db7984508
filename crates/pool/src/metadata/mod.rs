//! What a pool knows about itself: its disks, volumes, maps, log segments, dirty regions and jobs.
//!
//! [`Metadata`] is held in memory and changes only by [`MetaRecord`]s, which are validated before
//! they change anything: what is read from a disk may be damaged or hostile, and a map that gives
//! one extent to two owners destroys data. A transaction is planned in a clone, which shares all that
//! it doesn't change ([`SharedMap`]). On disk it is a checkpoint in sections ([`table`](Table)), of which
//! the next one writes those that changed ([`checkpoint`](encode_checkpoint)), plus a log of records, in an
//! area of up to five disks ([`area`](AreaLayout)).

mod apply;
mod area;
mod changes;
mod checkpoint;
mod codec;
mod conversion;
mod disk_property;
mod extent_set;
mod job;
mod labels;
mod lacking;
mod node_keys;
mod notes;
mod offline;
mod places;
mod proof;
mod reading;
mod record;
mod recover;
mod restore;
mod runs;
mod sections;
mod segment;
mod shared;
mod state;
#[cfg(test)]
#[allow(clippy::expect_used)]
mod stories;
mod table;
#[cfg(test)]
#[allow(clippy::expect_used)]
pub(crate) mod testing;

pub use crate::format::ExtentRange;
pub use apply::Inconsistent;
pub use apply::{COPIES_MAX, WIDTH_MAX};
pub use area::{
    AreaLayout, AreaPosition, CheckpointHead, CheckpointStamp, EncodedEntry, LogFull,
    area_bytes_for, area_extents_for, encode_entry,
};
pub(crate) use area::{
    CheckedEntry, CheckpointSlot, ENTRY_HEAD_BYTES, check_entry, check_header, entry_claim,
};
pub use changes::{SectionKey, SectionKind};
pub use checkpoint::{EncodedCheckpoint, Placed, StoredCheckpoint, encode_checkpoint};
pub use codec::{decode_records, encode_records};
pub use conversion::Conversion;
pub use extent_set::ExtentSet;
pub use job::{Job, JobKind};
pub(crate) use labels::check_kinds;
pub use labels::{
    DomainLabel, InvalidLabel, Joint, LABEL_WORD_BYTES_MAX, LABELS_MAX, LabelKind, LabelValue,
    Labels,
};
pub use notes::{
    KeepNotes, KeeperId, KeptNotes, NOTE_BYTES_MAX, NOTES_BYTES_MAX, NotAKeeper, NotesKept, is_note,
};
pub use places::LastPlace;
pub use reading::{AreaBytes, CopyUnusable, SharedHistory, recover_copy};
pub(crate) use reading::{is_credible, read_placed, read_table};
pub use record::{MetaRecord, RootChange};
pub use recover::{AreaFault, ChooseError, Foundation, Recovered, choose_copy, found_on};
pub use restore::Restoring;
pub use runs::{Places, Runs};
pub use segment::{Segment, SegmentCopyPlace, SegmentState, VolumeLog};
pub use shared::{Roots, SharedMap};
pub use state::{
    Counters, DirtyRegions, Disk, Group, GroupRun, Incoming, InvalidLayout, Layout, Member,
    Metadata, PoolIdentity, RunKey, Volume,
};
pub(crate) use table::Sum;
pub use table::{BlockRun, Section, Table};
