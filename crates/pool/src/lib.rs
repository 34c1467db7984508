//! The pool engine: disks become volumes that keep their promises.
//!
//! `format` says how bytes lie on a disk, `metadata` what a pool knows about itself and how that is
//! committed, `layout` and `allocate` which rows hold a volume's blocks. All of that is pure. `engine`
//! does the work, as async code over `block::BlockDevice`s; it names no file, socket or clock.

pub mod allocate;
pub mod format;
pub mod layout;
pub mod metadata;
