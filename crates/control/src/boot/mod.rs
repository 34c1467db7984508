//! The boot server's files: its configuration, and what it knows of each machine.

mod config;
mod copy;
mod machine;
mod signed_slots;

pub use config::{BootConfig, DhcpConfig, IpxeConfig, StaticConfig};
pub use copy::{Copied, CopiedFiles, DEFAULT_NOTE};
pub use machine::{
    Assignment, DefaultFile, KeptIdentity, Machine, MachineError, MachineId, NoIdentity,
    without_covered,
};
pub use signed_slots::{sign_slots, slots_signer};
