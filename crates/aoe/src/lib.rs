//! ATA over Ethernet: messages, the target, the initiator, and the sequenced session between our own
//! ends. State machines without I/O, and the drivers that connect them to ports and devices.

pub mod driver;
pub mod fenced;
pub mod initiator;
pub mod target;
pub mod wire;
