//! ATA over Ethernet and the sequenced session as bytes: one file per message, each with parse and emit;
//! and what frames go through, a [`Port`].
//!
//! Every file has the same shape: offsets in order, a checked `parse` from `&[u8]` into a validated
//! value, `emit` into a [`Frame`], tests from literal bytes. What
//! comes in is taken as liberally as real initiators need it (no padding, trailing bytes, reserved
//! header bits); what goes out is exact. The VLAN tag is absent: ports hand over untagged frames.

/// The bytes that stand for the variants of an enum; any other one is its `Unknown`.
macro_rules! codes {
    ($name:ident { $($variant:ident = $raw:literal),+ $(,)? }) => {
        impl From<u8> for $name {
            fn from(raw: u8) -> $name {
                match raw {
                    $($raw => $name::$variant,)+
                    other => $name::Unknown(other),
                }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                match value {
                    $($name::$variant => $raw,)+
                    $name::Unknown(raw) => raw,
                }
            }
        }
    };
}

mod address;
mod ata;
mod config;
mod export;
mod frame;
mod header;
mod health;
mod holder;
mod identify;
mod mask;
mod opening;
mod port;
mod reserve;
mod sealed;
mod sector_map;
mod session;
mod shelf_slot;
mod status;
mod together;

pub use address::{InvalidMacAddr, MacAddr};
pub use ata::{ATA_HEADER_BYTES, AtaCommand, AtaReply, AtaRequest, ata_sectors_max};
pub use config::{CONFIG_STRING_BYTES_MAX, ConfigCommand, ConfigMessage};
pub use export::{EXPORT_INFO_BYTES, ExportInfo};
pub use frame::{Frame, HEAD_BYTES_MAX, PortId};
pub use header::{AoeError, Command, HEADER_BYTES, Header};
pub use health::HealthPayload;
pub use holder::HolderPayload;
pub use identify::Identify;
pub use mask::{DIRECTIVES_MAX, Directive, DirectiveCommand, MaskCommand, MaskError, MaskMessage};
pub use opening::{
    Choice, Incarnation, Nonce, Offer, OpenPayload, SessionId, WANTS_OFFER, prologue,
};
pub use port::{Port, PortCounters, PortStatus};
pub use reserve::{RESERVED_MAX, ReserveCommand, ReserveMessage};
pub use sealed::{Sealing, open_sealed};
pub use sector_map::{COMMAND_SECTORS_MAX, READ_BYTES_MAX, SectorMap};
pub use session::{
    Operation, SessionReply, SessionRequest, SessionVersion, WINDOW_MAX, session_sectors_max,
};
pub use shelf_slot::{InvalidShelfSlot, ShelfSlot};
pub use status::Status;
pub use together::{join, messages};

use arrayvec::ArrayVec;

/// Why bytes are no message of ours. Such a frame is dropped and counted unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The frame ends inside a header.
    #[error("frame too short")]
    Truncated,
    /// Another protocol, or another command than the parser's.
    #[error("not this kind of frame")]
    WrongKind,
    /// A version that isn't spoken here.
    #[error("unknown version")]
    Version,
    /// A length field that contradicts the frame or the protocol.
    #[error("length field contradicts the frame")]
    Length,
    /// Reserved bits or fields are set.
    #[error("reserved bits are set")]
    Reserved,
    /// The checksum doesn't fit the bytes.
    #[error("checksum mismatch")]
    Checksum,
}

/// The head of a frame under construction.
type Head = ArrayVec<u8, HEAD_BYTES_MAX>;

/// Appends to a head. All headers of the protocol fit: the longest is the session's, which asserts it.
fn put(head: &mut Head, bytes: &[u8]) {
    let fits = head.try_extend_from_slice(bytes).is_ok();
    debug_assert!(fits, "a header outgrew HEAD_BYTES_MAX");
}

/// `N` bytes from `at` on, if the frame has them.
fn bytes_at<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], ParseError> {
    frame.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(ParseError::Truncated)
}

fn u8_at(frame: &[u8], at: usize) -> Result<u8, ParseError> {
    frame.get(at).copied().ok_or(ParseError::Truncated)
}

fn u16_at(frame: &[u8], at: usize) -> Result<u16, ParseError> {
    Ok(u16::from_be_bytes(bytes_at(frame, at)?))
}

fn u32_at(frame: &[u8], at: usize) -> Result<u32, ParseError> {
    Ok(u32::from_be_bytes(bytes_at(frame, at)?))
}

fn u64_at(frame: &[u8], at: usize) -> Result<u64, ParseError> {
    Ok(u64::from_be_bytes(bytes_at(frame, at)?))
}
