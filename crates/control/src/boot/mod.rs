//! The boot server's files: its configuration, and what it knows of each machine.

mod config;
mod copy;
mod machine;

pub use config::{BootConfig, DhcpConfig, IpxeConfig, StaticConfig};
pub use copy::{Copied, CopiedFiles, DEFAULT_NOTE};
pub use machine::{
    Assignment, DefaultFile, KeptIdentity, Machine, MachineError, MachineId, NoIdentity,
    without_covered,
};
