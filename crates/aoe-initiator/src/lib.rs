//! The client's side: disks reached by sessions, disks reached by plain AoE, and their discovery.
//!
//! State machines without I/O: frames and time come in through `handle_*`, wishes through plain
//! verbs, and `poll_*` hands out what is to be done. The driver (`driver`) connects them
//! to ports and makes [`block::BlockDevice`]s of them.

pub mod discovery;

mod client;
mod driver;
mod flight;
mod link;
mod opening;
mod operations;
mod options;
mod outlet;
mod paths;
mod plain;
mod probe;
mod request;
mod sealed;
mod session;
mod statistics;
mod told;
mod window;

#[cfg(test)]
mod testing;

pub use discovery::{Discovery, DiscoveryEvent, TARGETS_MAX, TargetConfig, TargetInfo};
pub use driver::{DiskEvent, Initiator, InitiatorOptions, RemoteDisk};
pub use opening::Unfit;
pub use paths::{LocalPort, PathId};
pub use probe::TargetKind;
pub use statistics::Statistics;
