//! Command 3: reservation of a target for a set of clients.

use block::Buffer;

use super::{Command, HEADER_BYTES, Head, Header, MacAddr, ParseError, bytes_at, put, u8_at};
use crate::Frame;

const COMMAND: usize = HEADER_BYTES;
const COUNT: usize = COMMAND + 1;
const MACS: usize = COUNT + 1;
const _: () = assert!(MACS == 26);

/// Most clients in a reservation.
pub const RESERVED_MAX: usize = u8::MAX as usize;

/// What to do with the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveCommand {
    /// Tell it.
    Read,
    /// Set it, if it is empty or the sender is in it.
    Set,
    /// Set it.
    ForceSet,
    /// Any other.
    Unknown(u8),
}

codes!(ReserveCommand { Read = 0, Set = 1, ForceSet = 2 });

/// A request or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveMessage {
    /// Ethernet and AoE header.
    pub header: Header,
    /// What to do.
    pub command: ReserveCommand,
    /// For whom; none is a release.
    pub macs: Vec<MacAddr>,
}

impl ReserveMessage {
    /// A message. A count that promises more than the frame holds is an error.
    pub fn parse(frame: &[u8]) -> Result<ReserveMessage, ParseError> {
        let header = Header::parse(frame)?;
        if header.command != Command::Reserve {
            return Err(ParseError::WrongKind);
        }
        let command = ReserveCommand::from(u8_at(frame, COMMAND)?);
        let count = usize::from(u8_at(frame, COUNT)?);
        let listed = match command {
            ReserveCommand::Set | ReserveCommand::ForceSet => count,
            _ if header.response => count,
            _ => 0,
        };
        let bytes = frame.get(MACS..MACS + listed * 6).ok_or(ParseError::Length)?;
        let macs = bytes
            .chunks_exact(6)
            .map(|chunk| Ok(MacAddr(bytes_at(chunk, 0)?)))
            .collect::<Result<Vec<_>, ParseError>>()?;
        Ok(ReserveMessage { header, command, macs })
    }

    /// The frame.
    pub fn emit(&self) -> Frame {
        debug_assert!(self.macs.len() <= RESERVED_MAX, "bounded when it was set");
        let macs = &self.macs[..self.macs.len().min(RESERVED_MAX)];
        let mut head = Head::new();
        self.header.emit(&mut head);
        put(&mut head, &[self.command.into(), macs.len() as u8]);
        let list: Vec<u8> = macs.iter().flat_map(|mac| mac.0).collect();
        Frame::alone(head, if list.is_empty() { Buffer::empty() } else { Buffer::copy_of(&list) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const SET: [u8; 38] = [
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0x00, 0xc2, 3, 3, 0, 0, 0, 9,
        1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3,
    ];

    #[test]
    fn set_from_literal_bytes() {
        let set = ReserveMessage::parse(&SET).unwrap();
        assert_eq!(set.command, ReserveCommand::Set);
        assert_eq!(set.macs, [MacAddr([2; 6]), MacAddr([3; 6])]);
        let sent = set.emit();
        assert_eq!([sent.head.as_slice(), &*sent.payload].concat(), SET);
    }

    #[test]
    fn counts_that_lie() {
        for count in 3..=255 {
            let mut bytes = SET;
            bytes[25] = count;
            assert_eq!(ReserveMessage::parse(&bytes), Err(ParseError::Length));
            bytes[24] = 0;
            assert!(ReserveMessage::parse(&bytes).unwrap().macs.is_empty());
        }
        for len in 0..26 {
            assert!(ReserveMessage::parse(&SET[..len]).is_err());
        }
    }
}
