//! Command 0: an ATA command in a frame.

use std::fmt;

use block::{Buffer, Lba, SECTOR_BYTES};

use super::{Command, Frame, HEADER_BYTES, Head, Header, ParseError, bytes_at, put, u8_at};

const FLAGS: usize = HEADER_BYTES;
const FEATURE_ERROR: usize = FLAGS + 1;
const COUNT: usize = FEATURE_ERROR + 1;
const COMMAND_STATUS: usize = COUNT + 1;
const LBA: usize = COMMAND_STATUS + 1;
const RESERVED: usize = LBA + 6;
/// Bytes of a frame before the data of an ATA command.
pub const ATA_HEADER_BYTES: usize = RESERVED + 2;
const _: () = assert!(ATA_HEADER_BYTES == 36);

const FLAG_EXTENDED: u8 = 0x40;
const FLAG_DEVICE: u8 = 0x10;
const FLAG_ASYNC: u8 = 0x02;
const FLAG_WRITE: u8 = 0x01;

const LBA28_MASK: u64 = 0x0fff_ffff;

/// Sectors that one ATA message carries at an MTU: what vblade and Linux compute, who subtract the
/// Ethernet header too.
pub fn ata_sectors_max(mtu_bytes: usize) -> u8 {
    let sectors = mtu_bytes.saturating_sub(ATA_HEADER_BYTES) / SECTOR_BYTES;
    u8::try_from(sectors).unwrap_or(u8::MAX)
}

/// An ATA command code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtaCommand(pub u8);

impl AtaCommand {
    /// Read, 28-bit address.
    pub const READ: AtaCommand = AtaCommand(0x20);
    /// Read, 48-bit address.
    pub const READ_EXT: AtaCommand = AtaCommand(0x24);
    /// Write, 28-bit address.
    pub const WRITE: AtaCommand = AtaCommand(0x30);
    /// Write, 48-bit address.
    pub const WRITE_EXT: AtaCommand = AtaCommand(0x34);
    /// Self-monitoring, with a sub-command in the feature register.
    pub const SMART: AtaCommand = AtaCommand(0xb0);
    /// Asks whether the disk spins.
    pub const CHECK_POWER_MODE: AtaCommand = AtaCommand(0xe5);
    /// Makes what was acknowledged durable.
    pub const FLUSH_CACHE: AtaCommand = AtaCommand(0xe7);
    /// The same.
    pub const FLUSH_CACHE_EXT: AtaCommand = AtaCommand(0xea);
    /// Asks what the disk is.
    pub const IDENTIFY: AtaCommand = AtaCommand(0xec);
    /// Switches features, the write cache among them.
    pub const SET_FEATURES: AtaCommand = AtaCommand(0xef);

    /// Whether addresses of this command have 48 bits. Initiators differ in the flag that says so
    /// too; the command counts.
    pub fn is_extended(self) -> bool {
        matches!(self, Self::READ_EXT | Self::WRITE_EXT | Self::FLUSH_CACHE_EXT)
    }
}

impl fmt::Display for AtaCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::READ => "READ",
            Self::READ_EXT => "READ EXT",
            Self::WRITE => "WRITE",
            Self::WRITE_EXT => "WRITE EXT",
            Self::SMART => "SMART",
            Self::CHECK_POWER_MODE => "CHECK POWER MODE",
            Self::FLUSH_CACHE => "FLUSH CACHE",
            Self::FLUSH_CACHE_EXT => "FLUSH CACHE EXT",
            Self::IDENTIFY => "IDENTIFY",
            Self::SET_FEATURES => "SET FEATURES",
            AtaCommand(code) => return write!(f, "ATA {code:#04x}"),
        })
    }
}

/// A request to execute an ATA command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtaRequest {
    /// Ethernet and AoE header.
    pub header: Header,
    /// Device register, bit 4.
    pub device: bool,
    /// The client lets the server answer before the data is on the medium.
    pub asynchronous: bool,
    /// Data goes from client to device.
    pub write: bool,
    /// Feature register.
    pub feature: u8,
    /// Sectors.
    pub count: u8,
    /// The command.
    pub command: AtaCommand,
    /// The six address bytes as a number, device bits included.
    pub lba_raw: u64,
}

impl AtaRequest {
    /// A request of `command` for `count` sectors from `lba` on, with the flags that Linux sends.
    pub fn new(header: Header, command: AtaCommand, lba: Lba, count: u8) -> AtaRequest {
        let device_bits = match command {
            AtaCommand::IDENTIFY => 0xa000_0000,
            AtaCommand::READ | AtaCommand::WRITE => 0xe000_0000,
            _ => 0,
        };
        AtaRequest {
            header,
            device: false,
            asynchronous: false,
            write: matches!(command, AtaCommand::WRITE | AtaCommand::WRITE_EXT),
            feature: 0,
            count,
            command,
            lba_raw: lba.0 | device_bits,
        }
    }

    /// A request and the data behind it, padding included.
    pub fn parse(frame: &[u8]) -> Result<(AtaRequest, &[u8]), ParseError> {
        let header = Header::parse(frame)?;
        if header.command != Command::Ata || header.response {
            return Err(ParseError::WrongKind);
        }
        let data = frame.get(ATA_HEADER_BYTES..).ok_or(ParseError::Truncated)?;
        let flags = u8_at(frame, FLAGS)?;
        let request = AtaRequest {
            header,
            device: flags & (FLAG_EXTENDED | FLAG_DEVICE) == FLAG_EXTENDED | FLAG_DEVICE,
            asynchronous: flags & FLAG_ASYNC != 0,
            write: flags & FLAG_WRITE != 0,
            feature: u8_at(frame, FEATURE_ERROR)?,
            count: u8_at(frame, COUNT)?,
            command: AtaCommand(u8_at(frame, COMMAND_STATUS)?),
            lba_raw: lba_raw(frame)?,
        };
        Ok((request, data))
    }

    /// The first sector: 48 bits, or 28 without the device bits, as the command says.
    pub fn lba(&self) -> Lba {
        Lba(if self.command.is_extended() { self.lba_raw } else { self.lba_raw & LBA28_MASK })
    }

    /// The frame, with `data` behind.
    pub fn emit(&self, data: Buffer) -> Frame {
        let extended = if self.command.is_extended() { FLAG_EXTENDED } else { 0 };
        let flags = extended
            | if self.device && extended != 0 { FLAG_DEVICE } else { 0 }
            | if self.asynchronous { FLAG_ASYNC } else { 0 }
            | if self.write { FLAG_WRITE } else { 0 };
        let registers = [flags, self.feature, self.count, self.command.0];
        emit(&self.header, registers, self.lba_raw, data)
    }
}

/// The answer to an ATA command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtaReply {
    /// Ethernet and AoE header.
    pub header: Header,
    /// The request's flags, echoed.
    pub flags: u8,
    /// Error register.
    pub error: u8,
    /// Sectors not transferred; for CHECK POWER MODE the mode.
    pub count: u8,
    /// Status register.
    pub status: u8,
    /// Address registers.
    pub lba_raw: u64,
}

impl AtaReply {
    /// The disk is ready.
    pub const STATUS_READY: u8 = 0x40;
    /// The command failed; the error register says why.
    pub const STATUS_ERROR: u8 = 0x01;
    /// The disk is broken.
    pub const STATUS_FAULT: u8 = 0x20;
    /// Bits of the status of which each means failure to Linux: busy, fault, data request, error.
    pub const STATUS_FAILED_MASK: u8 = 0xa9;
    /// Error register: the command isn't supported or was refused.
    pub const ERROR_ABORTED: u8 = 0x04;
    /// Error register: the address doesn't exist.
    pub const ERROR_NOT_FOUND: u8 = 0x10;
    /// Error register: the sectors can't be read.
    pub const ERROR_UNCORRECTABLE: u8 = 0x40;

    /// The successful answer to `request` by a server at `header`.
    pub fn to(request: &AtaRequest, header: Header) -> AtaReply {
        let extended = if request.command.is_extended() { FLAG_EXTENDED } else { 0 };
        let write = if request.write { FLAG_WRITE } else { 0 };
        AtaReply {
            header,
            flags: extended | write,
            error: 0,
            count: 0,
            status: Self::STATUS_READY,
            lba_raw: request.lba_raw,
        }
    }

    /// The same answer as a failure.
    pub fn failed(self, error: u8) -> AtaReply {
        AtaReply { error, status: Self::STATUS_READY | Self::STATUS_ERROR, ..self }
    }

    /// An answer and the data behind it, padding included.
    pub fn parse(frame: &[u8]) -> Result<(AtaReply, &[u8]), ParseError> {
        let header = Header::parse(frame)?;
        if header.command != Command::Ata || !header.response {
            return Err(ParseError::WrongKind);
        }
        let data = frame.get(ATA_HEADER_BYTES..).ok_or(ParseError::Truncated)?;
        let reply = AtaReply {
            header,
            flags: u8_at(frame, FLAGS)?,
            error: u8_at(frame, FEATURE_ERROR)?,
            count: u8_at(frame, COUNT)?,
            status: u8_at(frame, COMMAND_STATUS)?,
            lba_raw: lba_raw(frame)?,
        };
        Ok((reply, data))
    }

    /// Whether the command failed.
    pub fn is_failure(&self) -> bool {
        self.status & Self::STATUS_FAILED_MASK != 0
    }

    /// The frame, with `data` behind.
    pub fn emit(&self, data: Buffer) -> Frame {
        let registers = [self.flags, self.error, self.count, self.status];
        emit(&self.header, registers, self.lba_raw, data)
    }
}

fn lba_raw(frame: &[u8]) -> Result<u64, ParseError> {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&bytes_at::<6>(frame, LBA)?);
    Ok(u64::from_le_bytes(bytes))
}

fn emit(header: &Header, registers: [u8; 4], lba_raw: u64, data: Buffer) -> Frame {
    let mut head = Head::new();
    header.emit(&mut head);
    put(&mut head, &registers);
    put(&mut head, &lba_raw.to_le_bytes()[..6]);
    put(&mut head, &[0, 0]);
    Frame::alone(head, data)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{MacAddr, ShelfSlot};

    /// An ATA read as Linux sends it: exactly 36 bytes.
    #[rustfmt::skip]
    const READ_EXT: [u8; 36] = [
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0x00, 0xc2, 3, 0, 0x01, 0x02, 0x03, 0x04,
        0x40, 0, 16, 0x24, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0, 0,
    ];

    #[test]
    fn linux_read_from_literal_bytes() {
        let (request, data) = AtaRequest::parse(&READ_EXT).unwrap();
        assert_eq!(request.command, AtaCommand::READ_EXT);
        assert_eq!((request.lba(), request.count), (Lba(0x6655_4433_2211), 16));
        assert_eq!(request.header.address, ShelfSlot::new(194, 3));
        assert!(!request.write && data.is_empty());
        assert_eq!(request.emit(Buffer::empty()).head.as_slice(), READ_EXT);
        assert_eq!(
            AtaRequest::new(request.header, AtaCommand::READ_EXT, request.lba(), 16),
            request
        );
        for len in 0..36 {
            assert_eq!(AtaRequest::parse(&READ_EXT[..len]), Err(ParseError::Truncated));
        }
    }

    #[test]
    fn lba28_is_masked_whatever_the_flag_says() {
        let mut bytes = READ_EXT;
        bytes[27] = AtaCommand::WRITE.0;
        bytes[31] = 0xe4;
        let (request, _) = AtaRequest::parse(&bytes).unwrap();
        assert_eq!(request.lba(), Lba(0x0433_2211));
        bytes[24] = 0;
        assert_eq!(AtaRequest::parse(&bytes).unwrap().0.lba(), Lba(0x0433_2211));
        bytes[27] = AtaCommand::READ_EXT.0;
        assert_eq!(AtaRequest::parse(&bytes).unwrap().0.lba(), Lba(0x6655_e433_2211));
    }

    #[test]
    fn trailing_data_is_handed_over() {
        let mut long = READ_EXT.to_vec();
        long.extend([7; 24]);
        let (_, data) = AtaRequest::parse(&long).unwrap();
        assert_eq!(data, [7; 24]);
    }

    #[test]
    fn reply_from_literal_bytes() {
        #[rustfmt::skip]
        let expected = [
            0x52, 0x54, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 0x88, 0xa2,
            0x18, 0, 0x00, 0xc2, 3, 0, 0x01, 0x02, 0x03, 0x04,
            0x40, 0x10, 0, 0x41, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0, 0,
        ];
        let (request, _) = AtaRequest::parse(&READ_EXT).unwrap();
        let header = request.header.answer(MacAddr([2; 6]), ShelfSlot::new(194, 3));
        let reply = AtaReply::to(&request, header).failed(AtaReply::ERROR_NOT_FOUND);
        assert!(reply.is_failure());
        assert_eq!(reply.emit(Buffer::empty()).head.as_slice(), expected);
        assert_eq!(AtaReply::parse(&expected), Ok((reply, &[][..])));
        assert!(!AtaReply::to(&request, header).is_failure());
    }

    #[test]
    fn sectors_per_message() {
        for (mtu, sectors) in
            [(0, 0), (36, 0), (1500, 2), (4096, 7), (9000, 17), (9216, 17), (1 << 20, 255)]
        {
            assert_eq!(ata_sectors_max(mtu), sectors);
        }
    }
}
