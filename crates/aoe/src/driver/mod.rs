//! Connects the state machines to ports, devices and the runtime. No state machine lives here.

mod port;
mod target;

pub use port::{Frame, HEAD_BYTES_MAX, Port};
pub use target::{ExportDevice, TargetDriver};
