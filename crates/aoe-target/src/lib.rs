//! The target: answers for many exports on many ports. The state machine does no I/O itself; `driver`
//! connects it to ports, devices and the runtime.
//!
//! The driver feeds it what arrived and takes away what it has to say:
//!
//! - `handle_frame`, `handle_io_done`, `handle_timeout`: something happened, at `now`;
//! - `poll_io`, `poll_transmit`, `poll_timeout`: drain the first two after each of the above (one
//!   answer may let several commands run), then sleep until the third;
//! - `add_*`, `remove_*`, `set_*`, `announce`: the administrator's commands.
//!
//! Commands of an export run in the order of their arrival where they overlap, whoever sent them
//! (`queue`). `plain` holds what only plain AoE needs: what its clients may do, how fast, which of their
//! frames repeat one, what they leave with an export, and a disk's health. `session` holds our own
//! clients' side: openings, commands, and what those see who don't own the disk. `fenced` is a device
//! with an owner.

pub mod fenced;

mod discover;
mod driver;
mod export;
mod io;
mod merge;
mod meter;
mod plain;
mod policy;
mod probe;
mod pump;
mod queue;
mod session;
mod stats;
mod status;
mod target;
mod trace;

#[cfg(test)]
pub(crate) mod slow_device;
#[cfg(test)]
mod tests;

pub use driver::{AtaPassThrough, ExportDevice, ExportSetup, Memory, TargetDriver, TraceStream};
pub use export::{Abilities, DeviceState, ExportOptions, OnRefusal, Reach};
pub use fenced::{FencedDevice, Ownership, ReservationRecord, read_reservation};
pub use io::{IoId, IoOperation, IoRequest, IoResult, IoValue};
pub use meter::ClientStatus;
pub use plain::rate::{Rate, RateLimits};
pub use plain::remembered::Remembered;
pub use plain::smart::{SmartCommand, SmartFeature, SmartReply};
pub use policy::{Access, AccessOperation, AccessPolicy, AccessRule, ListEditors};
pub use probe::{ExportState, Probe, TargetEvent};
pub use queue::Ticket;
pub use stats::{COUNTERS, Counter, ExportStats, Latencies, TargetStats};
pub use status::{AddExportError, ExportStatus, SetOptionsError};
pub use target::{ExportId, NodeIdentity, Target};
pub use trace::{TraceRecord, TracedCommand, TracedStatus};

pub(crate) use target::{FIRMWARE_TEXT, FIRMWARE_VERSION, Shared};
