//! How a session begins: who opens it, and the number that both ends derive.

use block::{Buffer, Instance, crc64_nvme};

use super::{ParseError, ShelfSlot, bytes_at};

/// A random number used once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 16]);

/// The identity of a client process, made anew at each of its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

/// The number of a session. Both ends derive it; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// No session yet.
    pub const NONE: SessionId = SessionId(0);

    /// The session that this opening yields at this export.
    pub fn derive(opening: &OpenPayload, instance: Instance, address: ShelfSlot) -> SessionId {
        let mut bytes = [0; 59];
        bytes[..48].copy_from_slice(&opening.bytes());
        bytes[48..56].copy_from_slice(&instance.0.to_be_bytes());
        bytes[56..58].copy_from_slice(&address.shelf.to_be_bytes());
        bytes[58] = address.slot;
        SessionId(crc64_nvme(&bytes).max(1))
    }
}

/// The payload of OPEN; HELLO carries its first and last part, HELLO's answer the middle one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenPayload {
    /// The client's nonce.
    pub client: Nonce,
    /// The target's.
    pub target: Nonce,
    /// Who opens.
    pub incarnation: Incarnation,
}

impl OpenPayload {
    /// Reads the payload of OPEN.
    pub fn parse(payload: &[u8]) -> Result<OpenPayload, ParseError> {
        Ok(OpenPayload {
            client: Nonce(bytes_at(payload, 0)?),
            target: Nonce(bytes_at(payload, 16)?),
            incarnation: Incarnation(bytes_at(payload, 32)?),
        })
    }

    /// Reads the payload of HELLO; the target's nonce is its reader's to choose.
    pub fn parse_hello(payload: &[u8]) -> Result<(Nonce, Incarnation), ParseError> {
        Ok((Nonce(bytes_at(payload, 0)?), Incarnation(bytes_at(payload, 16)?)))
    }

    /// Reads the payload of HELLO's answer.
    pub fn parse_hello_reply(payload: &[u8]) -> Result<Nonce, ParseError> {
        if payload.len() == 16 { Ok(Nonce(bytes_at(payload, 0)?)) } else { Err(ParseError::Length) }
    }

    /// The payload of HELLO.
    pub fn emit_hello(client: Nonce, incarnation: Incarnation) -> Buffer {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&client.0);
        bytes[16..].copy_from_slice(&incarnation.0);
        Buffer::copy_of(&bytes)
    }

    /// The payload of HELLO's answer.
    pub fn emit_hello_reply(target: Nonce) -> Buffer {
        Buffer::copy_of(&target.0)
    }

    /// The payload of OPEN.
    pub fn emit(&self) -> Buffer {
        Buffer::copy_of(&self.bytes())
    }

    fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&self.client.0);
        bytes[16..32].copy_from_slice(&self.target.0);
        bytes[32..].copy_from_slice(&self.incarnation.0);
        bytes
    }
}
