//! What every AoE frame begins with: the Ethernet header and the common AoE header.

use super::{Head, MacAddr, ParseError, ShelfSlot, bytes_at, put, u8_at, u16_at, u32_at};

/// The EtherType of ATA over Ethernet.
const ETHERTYPE: u16 = 0x88a2;
/// The only protocol version there is.
const VERSION: u8 = 1;

const DESTINATION: usize = 0;
const SOURCE: usize = DESTINATION + 6;
const TYPE: usize = SOURCE + 6;
const VERSION_FLAGS: usize = TYPE + 2;
const ERROR: usize = VERSION_FLAGS + 1;
const SHELF: usize = ERROR + 1;
const SLOT: usize = SHELF + 2;
pub(super) const COMMAND: usize = SLOT + 1;
const TAG: usize = COMMAND + 1;
/// Bytes of the Ethernet and the common AoE header.
pub const HEADER_BYTES: usize = TAG + 4;
const _: () = assert!(HEADER_BYTES == 24);

const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// ATA command.
    Ata,
    /// Query or change of the configuration string, and discovery.
    Config,
    /// MAC mask list.
    Mask,
    /// Reserve and release.
    Reserve,
    /// Sequenced session (docs/session.md).
    Session,
    /// Any other.
    Unknown(u8),
}

codes!(Command { Ata = 0, Config = 1, Mask = 2, Reserve = 3, Session = 0xf0 });

/// Why a server could make nothing of a request. Failures of a disk are never told this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AoeError {
    /// The server has no such command.
    UnrecognisedCommand,
    /// An argument makes no sense.
    BadArgument,
    /// The disk takes no ATA commands any more.
    DeviceUnavailable,
    /// The configuration string is set already.
    ConfigStringPresent,
    /// The server speaks another version.
    UnsupportedVersion,
    /// Somebody else reserved the target.
    Reserved,
    /// Any other.
    Unknown(u8),
}

codes!(AoeError {
    UnrecognisedCommand = 1,
    BadArgument = 2,
    DeviceUnavailable = 3,
    ConfigStringPresent = 4,
    UnsupportedVersion = 5,
    Reserved = 6,
});

/// The Ethernet and the common AoE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// To whom.
    pub destination: MacAddr,
    /// From whom.
    pub source: MacAddr,
    /// The version nibble; 1 in what we send.
    pub version: u8,
    /// Whether it is an answer.
    pub response: bool,
    /// In answers: the request made no sense to the server.
    pub error: Option<AoeError>,
    /// Which export.
    pub address: ShelfSlot,
    /// What the argument is.
    pub command: Command,
    /// The client's own number, echoed.
    pub tag: u32,
}

impl Header {
    /// The header of a request.
    pub fn request(
        destination: MacAddr,
        source: MacAddr,
        address: ShelfSlot,
        command: Command,
        tag: u32,
    ) -> Header {
        Header {
            destination,
            source,
            version: VERSION,
            response: false,
            error: None,
            address,
            command,
            tag,
        }
    }

    /// The header that answers this one, from the export `address` at a port of address `own`.
    pub fn answer(&self, own: MacAddr, address: ShelfSlot) -> Header {
        Header {
            destination: self.source,
            source: own,
            version: VERSION,
            response: true,
            error: None,
            address,
            command: self.command,
            tag: self.tag,
        }
    }

    /// The header of a frame. The two reserved flag bits are ignored (aoeping sets one), and so is
    /// the version, which the receiver judges.
    pub fn parse(frame: &[u8]) -> Result<Header, ParseError> {
        if u16_at(frame, TYPE)? != ETHERTYPE {
            return Err(ParseError::WrongKind);
        }
        let version_flags = u8_at(frame, VERSION_FLAGS)?;
        let error = u8_at(frame, ERROR)?;
        let header = Header {
            destination: MacAddr(bytes_at(frame, DESTINATION)?),
            source: MacAddr(bytes_at(frame, SOURCE)?),
            version: version_flags >> 4,
            response: version_flags & FLAG_RESPONSE != 0,
            error: (version_flags & FLAG_ERROR != 0).then(|| AoeError::from(error)),
            address: ShelfSlot { shelf: u16_at(frame, SHELF)?, slot: u8_at(frame, SLOT)? },
            command: Command::from(u8_at(frame, COMMAND)?),
            tag: u32_at(frame, TAG)?,
        };
        Ok(header)
    }

    /// Whether the sender speaks our version.
    pub fn is_our_version(&self) -> bool {
        self.version == VERSION
    }

    pub(crate) fn emit(&self, head: &mut Head) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[DESTINATION..SOURCE].copy_from_slice(&self.destination.0);
        bytes[SOURCE..TYPE].copy_from_slice(&self.source.0);
        bytes[TYPE..VERSION_FLAGS].copy_from_slice(&ETHERTYPE.to_be_bytes());
        bytes[VERSION_FLAGS] = VERSION << 4
            | if self.response { FLAG_RESPONSE } else { 0 }
            | if self.error.is_some() { FLAG_ERROR } else { 0 };
        bytes[ERROR] = self.error.map_or(0, u8::from);
        bytes[SHELF..SLOT].copy_from_slice(&self.address.shelf.to_be_bytes());
        bytes[SLOT] = self.address.slot;
        bytes[COMMAND] = self.command.into();
        bytes[TAG..].copy_from_slice(&self.tag.to_be_bytes());
        put(head, &bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    const ERROR_REPLY: [u8; 24] = [
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x1c, 6, 0x00, 0xc2, 3, 0, 0x01, 0x02, 0x03, 0x04,
    ];

    #[test]
    fn literal_bytes() {
        let header = Header::parse(&ERROR_REPLY).unwrap();
        assert_eq!(
            header,
            Header {
                destination: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
                source: MacAddr([0x52, 0x54, 0, 0, 0, 2]),
                version: 1,
                response: true,
                error: Some(AoeError::Reserved),
                address: ShelfSlot::new(194, 3),
                command: Command::Ata,
                tag: 0x0102_0304,
            }
        );
        let mut head = Head::new();
        header.emit(&mut head);
        assert_eq!(head.as_slice(), ERROR_REPLY);
    }

    #[test]
    fn reserved_bits_are_ignored_and_never_sent() {
        let mut bytes = ERROR_REPLY;
        bytes[14] |= 0x03;
        let header = Header::parse(&bytes).unwrap();
        let mut head = Head::new();
        header.emit(&mut head);
        assert_eq!(head.as_slice(), ERROR_REPLY);
    }

    #[test]
    fn short_or_foreign_frames_are_refused() {
        for len in 0..HEADER_BYTES {
            assert_eq!(Header::parse(&ERROR_REPLY[..len]), Err(ParseError::Truncated));
        }
        let mut bytes = ERROR_REPLY;
        bytes[13] = 0;
        assert_eq!(Header::parse(&bytes), Err(ParseError::WrongKind));
    }

    #[test]
    fn an_answer_swaps_addresses_and_names_the_real_export() {
        let asked = Header::request(
            MacAddr::BROADCAST,
            MacAddr([2; 6]),
            ShelfSlot::ANY,
            Command::Config,
            9,
        );
        let answer = asked.answer(MacAddr([4; 6]), ShelfSlot::new(1, 2));
        assert_eq!((answer.destination, answer.source), (MacAddr([2; 6]), MacAddr([4; 6])));
        assert_eq!((answer.address, answer.tag), (ShelfSlot::new(1, 2), 9));
        assert!(answer.response);
    }

    #[test]
    fn raw_values_survive() {
        for raw in 0..=255 {
            assert_eq!(u8::from(Command::from(raw)), raw);
            assert_eq!(u8::from(AoeError::from(raw)), raw);
        }
    }
}
