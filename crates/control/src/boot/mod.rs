//! The boot server's files: its configuration, and what it knows of each machine.

mod config;
mod machine;

pub use config::{BootConfig, DhcpConfig, IpxeConfig, StaticConfig};
pub use machine::{
    Assignment, DefaultFile, KeptIdentity, Machine, MachineError, MachineId, NoIdentity,
    without_covered,
};
