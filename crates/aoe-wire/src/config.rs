//! Command 1: discovery, and the configuration string that clients use as a label or a cheap lock.

use block::Buffer;

use super::{Command, Frame, HEADER_BYTES, Head, Header, ParseError, put, u8_at, u16_at};

const BUFFER_COUNT: usize = HEADER_BYTES;
const FIRMWARE: usize = BUFFER_COUNT + 2;
const SECTORS_MAX: usize = FIRMWARE + 2;
const VERSION_COMMAND: usize = SECTORS_MAX + 1;
const STRING_LEN: usize = VERSION_COMMAND + 1;
const STRING: usize = STRING_LEN + 2;
const _: () = assert!(STRING == 32);

/// Longest configuration string.
pub const CONFIG_STRING_BYTES_MAX: usize = 1024;

/// What to do with the configuration string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// Tell it.
    Read,
    /// Answer only if it is this.
    Test,
    /// Answer only if it begins with this.
    TestPrefix,
    /// Set it if it is empty.
    Set,
    /// Set it.
    ForceSet,
    /// Any other.
    Unknown(u8),
}

codes!(ConfigCommand { Read = 0, Test = 1, TestPrefix = 2, Set = 3, ForceSet = 4 });

/// A query or its answer; the string comes behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigMessage {
    /// Ethernet and AoE header.
    pub header: Header,
    /// Answers: messages that the server queues; what exceeds them may be dropped.
    pub buffer_count: u16,
    /// Answers: the server's firmware version.
    pub firmware: u16,
    /// Answers: most sectors in an ATA command; 0 means 2.
    pub sectors_max: u8,
    /// What to do.
    pub command: ConfigCommand,
}

impl ConfigMessage {
    /// A query; with wildcards in the header's address it is discovery.
    pub fn request(header: Header, command: ConfigCommand) -> ConfigMessage {
        ConfigMessage { header, buffer_count: 0, firmware: 0, sectors_max: 0, command }
    }

    /// A message and its string. Of a request to read, string and length are ignored: aoeping sends
    /// junk there.
    pub fn parse(frame: &[u8]) -> Result<(ConfigMessage, &[u8]), ParseError> {
        let header = Header::parse(frame)?;
        if header.command != Command::Config {
            return Err(ParseError::WrongKind);
        }
        let message = ConfigMessage {
            header,
            buffer_count: u16_at(frame, BUFFER_COUNT)?,
            firmware: u16_at(frame, FIRMWARE)?,
            sectors_max: u8_at(frame, SECTORS_MAX)?,
            command: ConfigCommand::from(u8_at(frame, VERSION_COMMAND)? & 0x0f),
        };
        let len = usize::from(u16_at(frame, STRING_LEN)?);
        if !header.response && message.command == ConfigCommand::Read {
            return Ok((message, &[]));
        }
        if len > CONFIG_STRING_BYTES_MAX {
            return Err(ParseError::Length);
        }
        let string = frame.get(STRING..STRING + len).ok_or(ParseError::Length)?;
        Ok((message, string))
    }

    /// The frame, with `string` behind.
    pub fn emit(&self, string: &[u8]) -> Frame {
        debug_assert!(string.len() <= CONFIG_STRING_BYTES_MAX, "refused when it was set");
        let string = &string[..string.len().min(CONFIG_STRING_BYTES_MAX)];
        let version = if self.header.response { 0x10 } else { 0 };
        let mut head = Head::new();
        self.header.emit(&mut head);
        put(&mut head, &self.buffer_count.to_be_bytes());
        put(&mut head, &self.firmware.to_be_bytes());
        put(&mut head, &[self.sectors_max, version | u8::from(self.command) & 0x0f]);
        put(&mut head, &(string.len() as u16).to_be_bytes());
        Frame::alone(
            head,
            if string.is_empty() { Buffer::empty() } else { Buffer::copy_of(string) },
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{MacAddr, ShelfSlot};

    /// Linux's discovery: exactly 32 bytes.
    #[rustfmt::skip]
    const QUERY: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn discovery_from_literal_bytes() {
        let (query, string) = ConfigMessage::parse(&QUERY).unwrap();
        assert_eq!(query.command, ConfigCommand::Read);
        assert_eq!(query.header.address, ShelfSlot::ANY);
        assert!(string.is_empty());
        let header = Header::request(
            MacAddr::BROADCAST,
            MacAddr([0x52, 0x54, 0, 0, 0, 2]),
            ShelfSlot::ANY,
            Command::Config,
            0,
        );
        let sent = ConfigMessage::request(header, ConfigCommand::Read).emit(b"");
        assert_eq!(sent.head.as_slice(), QUERY);
        for len in 0..32 {
            assert_eq!(ConfigMessage::parse(&QUERY[..len]), Err(ParseError::Truncated));
        }
    }

    #[test]
    fn answer_from_literal_bytes() {
        #[rustfmt::skip]
        let bytes = [
            0x52, 0x54, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 0x88, 0xa2,
            0x18, 0, 0x00, 0xc2, 3, 1, 0, 0, 0, 5,
            0, 64, 0, 25, 17, 0x10, 0, 3, b'a', b'b', b'c',
        ];
        let (answer, string) = ConfigMessage::parse(&bytes).unwrap();
        assert_eq!(
            (answer.buffer_count, answer.firmware, answer.sectors_max, string),
            (64, 25, 17, &b"abc"[..])
        );
        let sent = answer.emit(b"abc");
        assert_eq!([sent.head.as_slice(), &*sent.payload].concat(), bytes);
    }

    #[test]
    fn lengths_that_lie() {
        let mut bytes = QUERY.to_vec();
        bytes[30..32].copy_from_slice(&1024u16.to_be_bytes());
        assert_eq!(ConfigMessage::parse(&bytes).unwrap().1, b"", "a read ignores its length");
        for command in 1..=15 {
            bytes[29] = command;
            assert_eq!(ConfigMessage::parse(&bytes), Err(ParseError::Length));
        }
        bytes.extend([b'x'; 1025]);
        assert_eq!(ConfigMessage::parse(&bytes).unwrap().1.len(), 1024);
        bytes[30..32].copy_from_slice(&1025u16.to_be_bytes());
        assert_eq!(ConfigMessage::parse(&bytes), Err(ParseError::Length));
    }
}
