//! Connects the state machines to ports, devices and the runtime. No state machine lives here.

mod initiator;
mod initiator_disk;
mod perform;
mod port;
mod setup;
mod target;
mod trace;

pub use initiator::{Disk, DiskEvent, Initiator, InitiatorOptions, PlainDisk, SessionDisk};
pub use initiator_disk::RemoteDisk;
pub use port::{Port, PortCounters, PortStatus};
pub use setup::{AtaPassThrough, ExportSetup, Memory};
pub use target::{ExportDevice, TargetDriver};
pub use trace::TraceStream;
