//! What every layer of etherpool agrees on: a **block device**, the buffers that travel to and from
//! it, and the units that addresses are counted in.
//!
//! Everything that has sectors is a [`BlockDevice`]: a file, a remote disk, a volume, a simulated
//! disk. A capability is written once against this trait instead of once per combination.
//!
//! This crate is pure: it names no socket, file, thread or clock.

mod buffer;
mod checksum;
mod device;
mod error;
mod ids;
mod memory;
mod operation;
mod order;
pub mod probe;
mod time;
mod units;
mod window;

pub use buffer::{Buffer, BufferMut};
pub use checksum::{Crc32c, crc32c, crc64_nvme};
pub use device::{
    BlockDevice, Claim, Completion, DeviceEvent, Durability, DurabilityClass, Geometry, Holder,
    IoFuture,
};
pub use error::{IoError, RefusalReason};
pub use ids::{Epoch, Instance, OwnerId};
pub use memory::MemoryDevice;
pub use operation::{Answer, Done, Operation, Outcome};
pub use order::{Access, Line, Order, Place};
pub use time::{Instant, spoken};
pub use units::{
    BLOCK_BYTES, BLOCK_SECTORS, Lba, NAME_BYTES_MAX, SECTOR_BYTES, SectorRange,
    bytes_to_sectors_ceil,
};
pub use window::Window;
