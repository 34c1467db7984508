//! A client on the level of frames, independent of the program's own reading and writing of them:
//! the bytes are laid out here once more, from the protocol's tables.
//!
//! [`Client`] asks and gets one answer; [`run`] keeps a number of requests under way, measures, and
//! can verify what it reads.

mod bytes;
mod client;
mod cpu;
mod load;
mod pattern;
mod report;

pub use bytes::{
    BROADCAST, ERROR_FLAG, HEADER_BYTES, RESPONSE_FLAG, address_of, ata_request, config_request,
    header, tag_of,
};
pub use client::{Client, Discovered};
pub use cpu::CpuTime;
pub use load::{Kind, LoadOptions, Order, RETRY, pin_to, run};
pub use report::Report;
