//! Packets of TFTP: those of clients are read here, those of the server written.
//!
//! What a ROM sends is read leniently where nothing is risked (padding behind a packet, a last option that is cut
//! off), because nobody can correct a ROM.

/// The port that requests arrive at.
pub const PORT: u16 = 69;
/// Bytes of a block when nothing was agreed.
pub const BLKSIZE: u16 = 512;
/// The smallest block that may be agreed (RFC 2348).
pub const BLKSIZE_MIN: u16 = 8;
/// The largest.
pub const BLKSIZE_MAX: u16 = 65464;
/// Bytes of a DATA packet before its data.
pub const DATA_HEADER_BYTES: usize = 4;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ: it wants to read a file.
    Read(Request<'a>),
    /// WRQ: it wants to write one.
    Write,
    /// DATA, which only the server sends when files are read.
    Data,
    /// ACK: it has this block and all before it.
    Ack(u16),
    /// ERROR: it won't go on.
    Error {
        /// The code, of [`ErrorCode`] or not.
        code: u16,
        /// The message as it came.
        message: &'a [u8],
    },
    /// OACK, which only the server sends when files are read.
    OptionAck,
}

/// A request to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its name as it came.
    pub name: &'a [u8],
    /// The mode as it came.
    pub mode: &'a [u8],
    /// Those options that are known and have a value that makes sense.
    pub options: Options,
}

impl Request<'_> {
    /// Whether the file is wanted as it is.
    pub fn is_octet(&self) -> bool {
        self.mode.eq_ignore_ascii_case(b"octet")
    }
}

/// Options: asked for by a request, or agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a block.
    pub blksize: Option<u16>,
    /// Seconds until what isn't acknowledged is sent again.
    pub timeout: Option<u8>,
    /// The file's size is to be told.
    pub tsize: bool,
    /// Blocks that are sent before an acknowledgement is waited for.
    pub windowsize: Option<u16>,
}

impl Options {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        *self != Options::default()
    }
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They are too few.
    #[error("the packet is cut off")]
    Short,
    /// There is no such operation.
    #[error("{0} is no operation of TFTP")]
    Opcode(u16),
    /// A read request whose name or mode has no end.
    #[error("the request is cut off")]
    Request,
}

impl<'a> Packet<'a> {
    /// From the bytes of a datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let (opcode, rest) = number(bytes).ok_or(Malformed::Short)?;
        match opcode {
            READ => request(rest).map(Packet::Read).ok_or(Malformed::Request),
            WRITE => Ok(Packet::Write),
            DATA => Ok(Packet::Data),
            ACK => number(rest).map(|(block, _)| Packet::Ack(block)).ok_or(Malformed::Short),
            ERROR => {
                let (code, rest) = number(rest).ok_or(Malformed::Short)?;
                let message = text(rest).map_or(rest, |(message, _)| message);
                Ok(Packet::Error { code, message })
            }
            OPTION_ACK => Ok(Packet::OptionAck),
            _ => Err(Malformed::Opcode(opcode)),
        }
    }
}

/// What an ERROR says by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Only the message says it.
    NotDefined = 0,
    /// There is no such file.
    FileNotFound = 1,
    /// It must not be read, or written.
    AccessViolation = 2,
    /// Not what may be asked.
    IllegalOperation = 4,
    /// Not of this transfer.
    UnknownTransfer = 5,
}

/// What goes before a block's data.
pub fn data_header(block: u16) -> [u8; DATA_HEADER_BYTES] {
    let ([a, b], [c, d]) = (DATA.to_be_bytes(), block.to_be_bytes());
    [a, b, c, d]
}

/// An OACK, with the file's size if it was asked for.
pub fn option_ack(agreed: &Options, size: u64) -> Vec<u8> {
    let mut packet = OPTION_ACK.to_be_bytes().to_vec();
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            packet.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
    };
    add("blksize", agreed.blksize.map(u64::from));
    add("timeout", agreed.timeout.map(u64::from));
    add("tsize", agreed.tsize.then_some(size));
    add("windowsize", agreed.windowsize.map(u64::from));
    packet
}

/// An ERROR. A message ends at its first NUL.
pub fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    let message = message.split('\0').next().unwrap_or_default();
    let head = [ERROR.to_be_bytes(), (code as u16).to_be_bytes()];
    [head.as_flattened(), message.as_bytes(), &[0]].concat()
}

fn request(rest: &[u8]) -> Option<Request<'_>> {
    let (name, rest) = text(rest)?;
    let (mode, rest) = text(rest)?;
    Some(Request { name, mode, options: options(rest) })
}

/// Of an option that is there twice the first counts, also if it is of no use.
fn options(mut rest: &[u8]) -> Options {
    const NAMES: [&[u8]; 4] = [b"blksize", b"timeout", b"tsize", b"windowsize"];
    let mut values = [None; NAMES.len()];
    while let Some((name, behind)) = text(rest)
        && let Some((value, behind)) = text(behind)
    {
        rest = behind;
        let known = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known));
        if let Some(seen) = known.and_then(|known| values.get_mut(known)) {
            seen.get_or_insert(value);
        }
    }
    let [blksize, timeout, tsize, windowsize] = values.map(|value| value.and_then(decimal));
    let blksizes = u64::from(BLKSIZE_MIN)..=u64::from(BLKSIZE_MAX);
    Options {
        blksize: blksize
            .filter(|size| blksizes.contains(size))
            .and_then(|size| size.try_into().ok()),
        timeout: timeout.filter(|seconds| *seconds > 0).and_then(|seconds| seconds.try_into().ok()),
        tsize: tsize.is_some(),
        windowsize: windowsize.filter(|blocks| *blocks > 0).and_then(|size| size.try_into().ok()),
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    // What parses numbers takes a sign, too.
    let digits = std::str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Up to a NUL, and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn options_of(said: &str) -> Options {
        let packet = format!("\0\x01f\0octet\0{said}").into_bytes();
        match Packet::parse(&packet) {
            Ok(Packet::Read(request)) => request.options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_read() {
        let packet =
            b"\0\x01/a\0OcTeT\0BLKSIZE\x001432\0tsize\x000\0multicast\0\0windowsize\x0016\0\
            timeout\x003\0";
        let Ok(Packet::Read(request)) = Packet::parse(packet) else { panic!() };
        assert!(request.name == b"/a" && request.is_octet());
        let options =
            Options { blksize: Some(1432), timeout: Some(3), tsize: true, windowsize: Some(16) };
        assert_eq!(request.options, options);
        let Ok(Packet::Read(request)) = Packet::parse(b"\0\x01a\0netascii\0") else { panic!() };
        assert!(!request.is_octet() && !request.options.any());
    }

    #[test]
    fn a_value_without_sense_is_as_if_it_werent_there() {
        for said in [
            "blksize\x007\0",
            "blksize\x0065465\0",
            "blksize\0\0",
            "blksize\0+512\0",
            "blksize\0 512\0",
            "blksize\x000x200\0",
            "blksize\x0099999999999999999999999\0",
            "blksize\x00-1\0",
            "timeout\x000\0",
            "timeout\x00256\0",
            "tsize\0a\0",
            "windowsize\x000\0",
            "windowsize\x0065536\0",
            "unheard\x001\0",
            "blksize\x001024",
            "blksize",
            // The first counts.
            "blksize\x001\0blksize\x001024\0",
        ] {
            assert!(!options_of(said).any(), "{said:?}");
        }
        let sizes = options_of("blksize\x008\0blksize\x009\0BlkSize\x0010\0windowsize\x0065535\0");
        assert_eq!((sizes.blksize, sizes.windowsize), (Some(8), Some(65535)));
        assert_eq!(options_of("blksize\x0065464\0").blksize, Some(65464));
        assert_eq!(options_of("blksize\x00001024\0").blksize, Some(1024));
        // Padding, and what is behind an option of no use.
        assert_eq!(options_of("x\0\0blksize\x001024\0\0\0\0\0\0").blksize, Some(1024));
        assert!(options_of("tsize\x001234\0").tsize);
    }

    #[test]
    fn the_other_packets_are_read() {
        assert_eq!(Packet::parse(b"\0\x02a\0octet\0"), Ok(Packet::Write));
        assert_eq!(Packet::parse(b"\0\x03\0\x01x"), Ok(Packet::Data));
        assert_eq!(Packet::parse(b"\0\x04\x12\x34"), Ok(Packet::Ack(0x1234)));
        assert_eq!(Packet::parse(b"\0\x04\x12\x34padding"), Ok(Packet::Ack(0x1234)));
        assert_eq!(Packet::parse(b"\0\x06"), Ok(Packet::OptionAck));
        let error = |message| Ok(Packet::Error { code: 8, message });
        assert_eq!(Packet::parse(b"\0\x05\0\x08no\0more"), error(b"no"));
        assert_eq!(Packet::parse(b"\0\x05\0\x08no"), error(b"no"));
        assert_eq!(Packet::parse(b"\0\x05\0\x08"), error(b""));
    }

    #[test]
    fn what_is_no_packet_is_told_apart() {
        for bytes in [&b""[..], b"\0", b"\0\x04", b"\0\x04\0", b"\0\x05\0"] {
            assert_eq!(Packet::parse(bytes), Err(Malformed::Short), "{bytes:?}");
        }
        for bytes in [&b"\0\x01"[..], b"\0\x01a", b"\0\x01a\0", b"\0\x01a\0octet"] {
            assert_eq!(Packet::parse(bytes), Err(Malformed::Request), "{bytes:?}");
        }
        assert_eq!(Packet::parse(b"\0\x07"), Err(Malformed::Opcode(7)));
        assert_eq!(Packet::parse(b"\x01\0"), Err(Malformed::Opcode(256)));
    }

    #[test]
    fn packets_are_written_as_the_rfcs_have_them() {
        assert_eq!(data_header(0x1234), *b"\0\x03\x12\x34");
        assert_eq!(error(ErrorCode::FileNotFound, "no"), b"\0\x05\0\x01no\0");
        assert_eq!(error(ErrorCode::NotDefined, "a\0b"), b"\0\x05\0\0a\0");
        let all = Options { blksize: Some(8), timeout: Some(2), tsize: true, windowsize: Some(4) };
        let packet = b"\0\x06blksize\x008\0timeout\x002\0tsize\x0012345678901\0windowsize\x004\0";
        assert_eq!(option_ack(&all, 12_345_678_901), packet);
        let some = Options { tsize: true, ..Options::default() };
        assert_eq!(option_ack(&some, 0), b"\0\x06tsize\x000\0");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(
            opcode in 0..8_u8,
            rest in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let _ = Packet::parse(&rest);
            let bytes = [&[0, opcode], rest.as_slice()].concat();
            if let Ok(Packet::Read(Request { options, .. })) = Packet::parse(&bytes) {
                let blksize = options.blksize.unwrap_or(BLKSIZE);
                prop_assert!((BLKSIZE_MIN..=BLKSIZE_MAX).contains(&blksize));
                prop_assert!(options.windowsize != Some(0) && options.timeout != Some(0));
            }
        }
    }
}
