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
pub mod glob;
mod health;
mod histogram;
mod ids;
mod memory;
mod names;
mod operation;
mod order;
pub mod probe;
pub mod size;
mod text;
mod time;
mod units;
mod window;

pub use buffer::{Buffer, BufferMut};
pub use checksum::{Crc32c, crc32c, crc64_nvme};
pub use device::{
    BlockDevice, Claim, Completion, DeviceEvent, Durability, DurabilityClass, Geometry, Holder,
    IoFuture, Trust, most_sectors, read_run, read_seen, write_durably, write_run,
};
pub use error::{IoError, RefusalReason};
pub use health::{DriveHealth, HealthState, REASON_BYTES_MAX};
pub use histogram::{HISTOGRAM_BUCKETS, Histogram};
pub use ids::{Epoch, Instance, OwnerId};
pub use memory::MemoryDevice;
pub use names::{FsType, InvalidName, NAME_BYTES_MAX, VolumeName, check_name};
pub use operation::{Answer, Done, Operation, Outcome};
pub use order::{Access, Line, Order, Place};
pub use text::{UnknownWord, is_format, plain};
pub use time::{CalendarTime, Instant, spoken};
pub use units::{
    BLOCK_BYTES, BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange, bytes_to_sectors_ceil,
};
pub use window::Window;
