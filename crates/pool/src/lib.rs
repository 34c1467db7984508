//! The pool engine: disks become volumes that keep their promises.
//!
//! `format` says how bytes lie on a disk, `metadata` what a pool knows about itself and how that is
//! committed, `layout` and `allocate` which rows hold a volume's blocks. All of that is pure. `engine`
//! does the work, as async code over `block::BlockDevice`s; it names no file, socket or clock. `check`
//! reads disks without the engine and says what is wrong with them.

pub mod allocate;
pub mod check;
pub mod engine;
pub mod format;
pub mod layout;
pub mod metadata;
pub mod rebalance;
pub mod spare;

mod endings;
mod error;
mod forecast;
mod history;
mod message;
mod report;
mod stats;

pub use endings::{
    DestroyPlan, DestroyReport, DoomedDisk, DoomedVolume, LeftDisk, WipePlan, WipeReport, WipedDisk,
};
pub use engine::{
    CreatePool, DiskFacts, DiskPlace, EmptyDisks, Engine, EngineConfig, ExtendPool, ImportOptions,
    InvalidStopAt, KnownDisk, KnownPool, LabelDisks, Limits, NamedDisks, OwnNodes, PoolSettings,
    StopAt, StopPoint, Stops, VolumeSize, VotesOf, WipeDisks,
};
pub use error::PoolError;
pub use forecast::{
    ConvertForecast, DiskFill, EmptyForecast, LabelForecast, LayoutRoom, OfflineForecast,
    OnlineForecast, PoolForecast, RebalanceForecast, RelabelledDisk, SharedVolume, VolumeForecast,
    VolumeSurvival, VotesForecast,
};
pub use format::FailureDomain;
pub use history::{HistoryEntry, Severity};
pub use metadata::{
    DomainLabel, InvalidLabel, InvalidLayout, KeepNotes, KeeperId, KeptNotes, LabelKind,
    LabelValue, Labels, Layout, NOTE_BYTES_MAX, NOTES_BYTES_MAX, NotAKeeper, NotesKept, is_note,
};
pub use report::{
    BadBlock, DiskReport, DiskState, ImportPlan, JobReport, JobState, MovedDisk, OfflineReport,
    PoolDisk, PoolEvent, PoolGrant, PoolReport, PoolState, Progress, Replayed, ScrubReport,
    SpareReport, VerifyReport, VolumeReport, VolumeState, VotesReport,
};
pub use spare::Spare;
pub use stats::{
    DestageStats, DiskOperations, DiskStats, OperationStats, RequestStats, VolumeStats,
};
