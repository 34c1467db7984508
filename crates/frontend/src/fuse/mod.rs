//! The engine's side of a volume's local block device: a directory with one file, `volume`, served
//! from a `/dev/fuse` descriptor that the services process has opened, mounted and handed over.
//!
//! The few operations that a loop device needs are spoken here directly instead of through a
//! library: data of writes lands in aligned buffers without a copy, answers come from whichever
//! thread has them, and dropping the [`VolumeFile`] makes the kernel fail everything at once.

mod errno;
mod namespace;
mod request;
mod server;
mod wire;

pub use errno::errno_of;
pub use namespace::FILE_NAME;
pub use request::{Answer, Reply, VolumeRequest, perform};
pub use server::{Options, VolumeFile};
pub use wire::TRANSFER_BYTES_MAX;
