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

mod error;
mod message;
mod report;
mod spare;
mod stats;

pub use engine::{
    CreatePool, DiskFacts, DiskPlace, EmptyDisks, Engine, EngineConfig, ExtendPool, ImportOptions,
    KnownDisk, KnownPool, Limits, PoolSettings, VolumeSize,
};
pub use error::PoolError;
pub use format::FailureDomain;
pub use metadata::{InvalidLayout, Layout};
pub use report::{
    BadBlock, DiskReport, DiskState, EmptyForecast, ImportPlan, JobReport, JobState, LayoutRoom,
    PoolDisk, PoolEvent, PoolForecast, PoolReport, PoolState, Progress, Replayed, ScrubReport,
    SpareReport, VerifyReport, VolumeForecast, VolumeReport, VotesReport,
};
pub use spare::{InvalidSpare, Spare};
pub use stats::{
    DestageStats, DiskOperations, DiskStats, OperationStats, RequestStats, VolumeStats,
};
