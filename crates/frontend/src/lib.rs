//! How people reach a volume: a real block device made of a FUSE file and a loop device, the file
//! system on it, and FTP.
//!
//! [`fuse`] belongs into the engine's process, all else into the services': whoever waits for the
//! kernel's write-back must not be the one whom the write-back needs. This crate knows
//! [`block::BlockDevice`], not pools.

pub mod attach;
pub mod filesystem;
pub mod ftp;
pub mod fuse;

pub mod kernel;
pub mod places;

mod wait;
