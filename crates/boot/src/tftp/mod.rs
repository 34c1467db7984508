//! The server's half of TFTP, read requests only: by it the ROM of a machine fetches the program that it boots, and
//! now and then a kernel.
//!
//! RFC 1350 with the options of RFC 2347 to 2349 (`blksize`, `timeout`, `tsize`) and of RFC 7440 (`windowsize`).
//! [`Server`] is told what arrived and what time it is, and says what to send. It keeps no data: whoever performs its
//! [`Effect`]s reads the file, for a repetition once more.

mod names;
pub mod packet;
mod server;
#[cfg(test)]
mod tests;
mod transfer;

pub use names::{BadName, Name};
pub use server::{Effect, End, Limits, Opening, Refused, Server, TransferId};
pub use transfer::Outgoing;
