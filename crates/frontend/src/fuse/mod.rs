//! The engine's side of a volume's local block device: a directory with one file, `volume`, served
//! from a `/dev/fuse` descriptor that the services process has opened, mounted and handed over.
//!
//! The few operations that a loop device needs are spoken here directly instead of through a
//! library: data of long writes lands in aligned buffers without a copy, answers come from whichever
//! thread has them, and dropping the [`VolumeFile`] makes the kernel fail everything at once.
//!
//! A request comes in one of two ways, and means the same (`meaning`) in both: a thread reads it from the
//! descriptor (`server`), or, where the kernel has FUSE over io_uring and the administrator has switched
//! that on, it comes to the engine's reactor as a completion of its ring (`uring`).

mod errno;
mod meaning;
mod namespace;
mod request;
mod server;
mod uring;
mod wire;

pub use errno::errno_of;
pub use namespace::FILE_NAME;
pub use request::{Answer, Finish, Reply, VolumeRequest, perform};
pub use server::{Connection, Options, Pending, VolumeFile};
pub use uring::{RingReply, RingSide, Switch, switch};
pub use wire::TRANSFER_BYTES_MAX;
