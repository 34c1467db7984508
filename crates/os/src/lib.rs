//! What production runs on: the reactor that turns the executor's crank, disks through io_uring,
//! frames through packet and Unix sockets, and what Linux knows about links, disks and processes.
//!
//! This is the only crate with `unsafe`. It implements the traits of the pure crates
//! ([`block::BlockDevice`], [`aoe_wire::Port`]) and holds no protocol and no policy.

pub mod ata;
pub mod confine;
pub mod dir;
pub mod disks;
pub mod file;
pub mod file_user;
pub mod ioctl;
pub mod machine;
pub mod manager;
pub mod net;
pub mod process;
pub mod reactor;
mod sys;

pub use file::{FileDevice, FileOptions, FileReference, OpenError};
pub use file_user::FileUser;
pub use reactor::{Reactor, ReactorHandle};
pub use sys::{boot_time, random_bytes, random_u64};
