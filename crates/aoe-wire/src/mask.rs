//! Command 2: the list of clients (by Ethernet address) that a target answers at all.

use block::Buffer;

use super::{Command, HEADER_BYTES, Head, Header, MacAddr, ParseError, bytes_at, put, u8_at};
use crate::Frame;

const COMMAND: usize = HEADER_BYTES + 1;
const ERROR: usize = COMMAND + 1;
const COUNT: usize = ERROR + 1;
const DIRECTIVES: usize = COUNT + 1;
const _: () = assert!(DIRECTIVES == 28);
const DIRECTIVE_BYTES: usize = 8;

/// Most directives in a message, and most addresses in a list.
pub const DIRECTIVES_MAX: usize = u8::MAX as usize;

/// What to do with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskCommand {
    /// Tell it.
    Read,
    /// Execute the directives.
    Edit,
    /// Any other.
    Unknown(u8),
}

codes!(MaskCommand { Read = 0, Edit = 1 });

/// How an edit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// Well.
    None,
    /// Badly.
    Unspecified,
    /// A directive isn't known.
    BadDirective,
    /// The list is full.
    ListFull,
    /// Any other.
    Unknown(u8),
}

codes!(MaskError { None = 0, Unspecified = 1, BadDirective = 2, ListFull = 3 });

/// What a directive does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectiveCommand {
    /// Nothing.
    None,
    /// Adds the address.
    Add,
    /// Takes it off.
    Delete,
    /// Any other.
    Unknown(u8),
}

codes!(DirectiveCommand { None = 0, Add = 1, Delete = 2 });

/// One step of an edit, or one entry of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// What to do.
    pub command: DirectiveCommand,
    /// With whom.
    pub mac: MacAddr,
}

/// A request or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskMessage {
    /// Ethernet and AoE header.
    pub header: Header,
    /// What to do.
    pub command: MaskCommand,
    /// Answers: how it went.
    pub error: MaskError,
    /// The count field: directives that follow; with an error the index of the one that failed.
    pub count: u8,
    /// The directives, or the list; none with an error.
    pub directives: Vec<Directive>,
}

impl MaskMessage {
    /// A message. A count that promises more than the frame holds is an error, which vblade dies of.
    pub fn parse(frame: &[u8]) -> Result<MaskMessage, ParseError> {
        let header = Header::parse(frame)?;
        if header.command != Command::Mask {
            return Err(ParseError::WrongKind);
        }
        let command = MaskCommand::from(u8_at(frame, COMMAND)?);
        let error = MaskError::from(u8_at(frame, ERROR)?);
        let count = u8_at(frame, COUNT)?;
        let bare =
            if header.response { error != MaskError::None } else { command != MaskCommand::Edit };
        let listed = if bare { 0 } else { usize::from(count) };
        let bytes = frame
            .get(DIRECTIVES..DIRECTIVES + listed * DIRECTIVE_BYTES)
            .ok_or(ParseError::Length)?;
        let directives = bytes
            .chunks_exact(DIRECTIVE_BYTES)
            .map(|chunk| {
                Ok(Directive {
                    command: DirectiveCommand::from(u8_at(chunk, 1)?),
                    mac: MacAddr(bytes_at(chunk, 2)?),
                })
            })
            .collect::<Result<Vec<_>, ParseError>>()?;
        Ok(MaskMessage { header, command, error, count, directives })
    }

    /// The frame.
    pub fn emit(&self) -> Frame {
        let mut head = Head::new();
        self.header.emit(&mut head);
        put(&mut head, &[0, self.command.into(), self.error.into(), self.count]);
        let mut list = Vec::with_capacity(self.directives.len() * DIRECTIVE_BYTES);
        for directive in &self.directives {
            list.extend([0, u8::from(directive.command)]);
            list.extend(directive.mac.0);
        }
        Frame::alone(head, if list.is_empty() { Buffer::empty() } else { Buffer::copy_of(&list) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The frame with two directives that kills vblade 25.
    #[rustfmt::skip]
    const EDIT: [u8; 44] = [
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0x00, 0xc2, 3, 2, 0, 0, 0, 9,
        0, 1, 0, 2,
        0, 1, 2, 2, 2, 2, 2, 2,
        0, 2, 3, 3, 3, 3, 3, 3,
    ];

    #[test]
    fn edit_from_literal_bytes() {
        let edit = MaskMessage::parse(&EDIT).unwrap();
        assert_eq!((edit.command, edit.count), (MaskCommand::Edit, 2));
        assert_eq!(
            edit.directives,
            [
                Directive { command: DirectiveCommand::Add, mac: MacAddr([2; 6]) },
                Directive { command: DirectiveCommand::Delete, mac: MacAddr([3; 6]) },
            ]
        );
        let sent = edit.emit();
        assert_eq!([sent.head.as_slice(), &*sent.payload].concat(), EDIT);
    }

    #[test]
    fn counts_that_lie() {
        for count in 3..=255 {
            let mut bytes = EDIT;
            bytes[27] = count;
            assert_eq!(MaskMessage::parse(&bytes), Err(ParseError::Length));
            bytes[25] = 0;
            assert!(MaskMessage::parse(&bytes).unwrap().directives.is_empty());
        }
        for len in 0..28 {
            assert!(MaskMessage::parse(&EDIT[..len]).is_err());
        }
    }

    #[test]
    fn a_failed_edit_carries_no_list() {
        let mut answer = MaskMessage::parse(&EDIT).unwrap();
        answer.header.response = true;
        answer.error = MaskError::ListFull;
        answer.directives.clear();
        let sent = answer.emit();
        assert_eq!(MaskMessage::parse(&sent.head).unwrap(), answer);
    }
}
