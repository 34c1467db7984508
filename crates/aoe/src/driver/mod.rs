//! Connects the state machines to ports, devices and the runtime. No state machine lives here.

mod port;

pub use port::{Frame, HEAD_BYTES_MAX, Port};
