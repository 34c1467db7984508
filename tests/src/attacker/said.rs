//! Messages of sessions as bytes, by the map of docs/session.md: read, changed, and given a checksum that says that they
//! are right, as anybody can who knows the protocol.

use rand::Rng;
use rand::rngs::SmallRng;

/// Where fields are.
const FLAGS: usize = 26;
const CRC: usize = 28;
const SESSION: usize = 32;
const PAYLOAD_LEN: usize = 84;
const HEADER_ONE: usize = 96;
const SEAL: usize = 100;
const HEADER_TWO: usize = 128;

/// HELLO.
pub const HELLO: u8 = 0x01;
/// OPEN.
pub const OPEN: u8 = 0x02;
/// READ.
pub const READ: u8 = 0x10;
/// What changes a disk, or whose it is.
pub const CHANGES: [u8; 4] = [0x11, 0x13, 0x14, 0x15];
/// *No-session*.
pub const NO_SESSION: u8 = 8;

/// What changed data consists of.
pub const OTHER_DATA: &[u8; 32] = b"this was changed on its way here";

/// A message of a session, which may be one of several in its frame.
#[derive(Clone, Copy)]
pub struct Said<'a>(&'a [u8]);

impl<'a> Said<'a> {
    /// Those in a frame.
    pub fn all_of(frame: &'a [u8]) -> impl Iterator<Item = Said<'a>> {
        let is_session =
            frame.len() >= HEADER_ONE && frame[12..14] == [0x88, 0xa2] && frame[19] == 0xf0;
        let messages = is_session.then(|| aoe_wire::messages(frame)).into_iter().flatten();
        messages.filter(|message| message.len() >= HEADER_ONE).map(Said)
    }

    /// All of it.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    fn number(self, at: usize, len: usize) -> u64 {
        self.0[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Who sent it.
    pub fn source(self) -> [u8; 6] {
        self.0[6..12].try_into().unwrap()
    }

    /// Whose disk it is about: the shelf, which is a node's.
    pub fn shelf(self) -> u16 {
        self.number(16, 2) as u16
    }

    /// Whether it is an answer.
    pub fn is_reply(self) -> bool {
        self.0[14] & 0x08 != 0
    }

    /// The version of the session.
    pub fn version(self) -> u8 {
        self.0[24]
    }

    /// What it asks for, or answers.
    pub fn operation(self) -> u8 {
        self.0[25]
    }

    /// How it went.
    pub fn status(self) -> u8 {
        self.0[27]
    }

    /// The session's number.
    pub fn session(self) -> u64 {
        self.number(SESSION, 8)
    }

    /// Bytes of payload.
    pub fn payload_len(self) -> usize {
        self.number(PAYLOAD_LEN, 4) as usize
    }

    /// Whether it says to be sealed.
    pub fn is_sealed(self) -> bool {
        self.version() >= 2 && self.0.len() >= HEADER_TWO && self.number(SEAL, 4) != 0
    }

    /// The same in a frame that is as long as it has to be, with a checksum that says that all is right.
    pub fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() < HEADER_ONE {
            return bytes;
        }
        let header = if bytes[24] == 1 { HEADER_ONE } else { HEADER_TWO };
        let end = header + Said(&bytes).payload_len();
        let Some(message) = bytes.get(..end) else { return bytes };
        let seed =
            if message[25] == HELLO { [0; 8] } else { *message[SESSION..].first_chunk().unwrap() };
        let crc = block::crc32c(&[&seed, &message[..CRC], &[0; 4], &message[SESSION..]].concat());
        bytes[CRC..SESSION].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// The same with other data, where it has any.
    pub fn with_other_data(self) -> Vec<u8> {
        let mut bytes = self.0.to_vec();
        let header = if self.version() == 1 { HEADER_ONE } else { HEADER_TWO };
        let end = (header + self.payload_len()).min(bytes.len());
        let data = bytes[..end].iter_mut().skip(header);
        data.zip(OTHER_DATA.iter().cycle()).for_each(|(byte, other)| *byte = *other);
        Said::resealed(bytes)
    }

    /// The same message changed in one of all the ways that there are, `other` being one of another session.
    pub fn changed(self, other: Said<'_>, random: &mut SmallRng) -> Vec<u8> {
        let mut bytes = self.0.to_vec();
        match random.random_range(0..9) {
            // What was said in one session, in another one; at another disk; in the other direction.
            0 => bytes[SESSION..SESSION + 8].copy_from_slice(&other.0[SESSION..SESSION + 8]),
            1 => {
                bytes[..12].copy_from_slice(&other.0[..12]);
                bytes[16..19].copy_from_slice(&other.0[16..19]);
            }
            2 => {
                bytes[..12].rotate_left(6);
                bytes[14] ^= 0x08;
                bytes[FLAGS] ^= 0x01;
            }
            // Bits, anywhere behind the addresses.
            3 => {
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(14..bytes.len());
                    bytes[at] ^= 1 << random.random_range(0..8);
                }
            }
            // A part of it.
            4 => {
                let header = HEADER_TWO.min(bytes.len());
                bytes.truncate(random.random_range(header..=bytes.len()));
                let len = (bytes.len() - header) as u32;
                bytes[PAYLOAD_LEN..PAYLOAD_LEN + 4].copy_from_slice(&len.to_be_bytes());
            }
            // As if it weren't sealed.
            5 => bytes.iter_mut().skip(SEAL).take(HEADER_TWO - SEAL).for_each(|byte| *byte = 0),
            // As of version 1, which knows no seals.
            6 => {
                bytes[24] = 1;
                bytes[FLAGS] &= 0x07;
                let rest = HEADER_TWO.min(bytes.len());
                bytes.drain(HEADER_ONE..rest);
            }
            // Under a number that wasn't used, or the next key.
            7 => {
                let at = [SEAL + 3, SEAL + 9, SEAL + 11][random.random_range(0..3)];
                bytes[at] = bytes[at].wrapping_add(1);
            }
            // Without its flags, or with others.
            _ => bytes[FLAGS] ^= [0x02, 0x04, 0x08, 0x10][random.random_range(0..4)],
        }
        Said::resealed(bytes)
    }
}
