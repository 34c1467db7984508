//! Requests as bytes, and the fields of replies.

use aoe_wire::{MacAddr, ShelfSlot};

/// Ethernet and common AoE header, and that of an ATA command.
pub const HEADER_BYTES: usize = 36;
/// In byte 14: a reply.
pub const RESPONSE_FLAG: u8 = 0x08;
/// In byte 14: the request made no sense.
pub const ERROR_FLAG: u8 = 0x04;
/// To all.
pub const BROADCAST: MacAddr = MacAddr::BROADCAST;

pub(super) const READ_EXT: u8 = 0x24;
pub(super) const WRITE_EXT: u8 = 0x34;
pub(super) const IDENTIFY: u8 = 0xec;

/// The 24 bytes that every request begins with.
pub fn header(
    destination: MacAddr,
    source: MacAddr,
    address: ShelfSlot,
    command: u8,
    tag: u32,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES);
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend([0x88, 0xa2, 0x10, 0]);
    frame.extend(address.shelf.to_be_bytes());
    frame.extend([address.slot, command]);
    frame.extend(tag.to_be_bytes());
    frame
}

/// Appends an ATA command with a 48-bit address to a header; data follows.
pub fn ata_request(mut header: Vec<u8>, ata: u8, sectors: u8, lba: u64) -> Vec<u8> {
    let flags = match ata {
        WRITE_EXT => 0x41,
        READ_EXT => 0x40,
        _ => 0,
    };
    header.extend([flags, 0, sectors, ata]);
    header.extend(&lba.to_le_bytes()[..6]);
    header.extend([0, 0]);
    header
}

/// Appends a config query (read) to a header.
pub fn config_request(mut header: Vec<u8>) -> Vec<u8> {
    header.extend([0; 8]);
    header
}

/// The tag of a frame that is at least a header.
pub fn tag_of(frame: &[u8]) -> Option<u32> {
    frame.get(20..24)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The address of a frame that is at least a header.
pub fn address_of(frame: &[u8]) -> Option<ShelfSlot> {
    let shelf = frame.get(16..18)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
    Some(ShelfSlot::new(shelf, *frame.get(18)?))
}

/// Why a reply to an ATA command is none that a client can use.
pub(super) fn failure_of(reply: &[u8], data_bytes: usize) -> Option<String> {
    if reply.len() < HEADER_BYTES {
        return Some(format!("a reply of {} bytes", reply.len()));
    }
    if reply[14] & ERROR_FLAG != 0 {
        return Some(format!("AoE error {}", reply[15]));
    }
    // BSY, DF, DRQ, ERR.
    if reply[27] & 0xa9 != 0 {
        return Some(format!("ATA status {:#04x}, error {:#04x}", reply[27], reply[25]));
    }
    if reply.len() < HEADER_BYTES + data_bytes {
        return Some(format!("{} bytes instead of {data_bytes}", reply.len() - HEADER_BYTES));
    }
    None
}
