//! The client's side: disks reached by sessions, disks reached by plain AoE, and their discovery.
//!
//! State machines without I/O: frames and time come in through `handle_*`, wishes through plain
//! verbs, and `poll_*` hands out what is to be done. The driver (`driver`) connects them
//! to ports and makes [`block::BlockDevice`]s of them.

pub mod client;
pub mod discovery;
pub mod plain;
pub mod session;
pub mod statistics;

mod driver;
mod flight;
mod link;
mod opening;
mod operations;
mod outlet;
mod paths;
mod probe;
mod window;

#[cfg(test)]
mod testing;

pub use client::{Client, Random};
pub use discovery::{Discovery, DiscoveryEvent, TARGETS_MAX, TargetConfig, TargetInfo};
pub use driver::{
    Disk, DiskEvent, Initiator, InitiatorOptions, PlainDisk, RemoteDisk, SessionDisk,
};
pub use operations::OperationId;
pub use outlet::Transmit;
pub use paths::{LocalPort, PathId};
pub use plain::{Plain, PlainOptions};
pub use probe::TargetKind;
pub use session::{Session, SessionOptions};
pub use statistics::Statistics;
