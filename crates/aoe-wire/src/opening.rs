//! How a session begins: who opens it, and the number that both ends derive.

use block::{Buffer, Instance, Lba, crc64_nvme};
use seal::{ASK_BYTES, KEY_BYTES, PROOF_BYTES, PublicKey, Security, Suite, TOKENS_MAX};

use super::{ParseError, SessionVersion, ShelfSlot, bytes_at, u8_at};

/// What HELLO has in its LBA where an offer of keys is wanted. Targets that know none don't look.
pub const WANTS_OFFER: Lba = Lba(1);
const NONCE_BYTES: usize = 16;
const OPEN_BYTES: usize = 3 * NONCE_BYTES;
const OFFER_BYTES: usize = 48;
/// Bytes of OPEN's payload in a session with keys, without proofs.
const KEYED_OPEN_BYTES: usize = OPEN_BYTES + ASK_BYTES + CHOICE_BYTES;
const CHOICE_BYTES: usize = 2;

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
    pub fn parse_hello_reply(payload: &[u8]) -> Result<(Nonce, Option<Offer>), ParseError> {
        let nonce = Nonce(bytes_at(payload, 0)?);
        match payload.split_at_checked(NONCE_BYTES) {
            Some((_, [])) => Ok((nonce, None)),
            Some((_, offer)) => Ok((nonce, Some(Offer::parse(offer)?))),
            None => Err(ParseError::Length),
        }
    }

    /// The payload of HELLO.
    pub fn emit_hello(client: Nonce, incarnation: Incarnation) -> Buffer {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&client.0);
        bytes[16..].copy_from_slice(&incarnation.0);
        Buffer::copy_of(&bytes)
    }

    /// The payload of HELLO's answer.
    pub fn emit_hello_reply(target: Nonce, offer: Option<&Offer>) -> Buffer {
        let offer = offer.map(Offer::bytes);
        let parts = [target.0.as_slice(), offer.as_ref().map_or(&[], |bytes| bytes.as_slice())];
        Buffer::copy_of(&parts.concat())
    }

    /// The payload of OPEN in a session with keys, of which `ask` is the first message of the handshake.
    pub fn emit_keyed(&self, ask: &[u8]) -> Buffer {
        Buffer::copy_of(&[self.bytes().as_slice(), ask].concat())
    }

    /// What of OPEN's payload is the first message of a handshake; `None` where the session is to have no keys.
    pub fn ask_of(payload: &[u8]) -> Option<&[u8]> {
        payload.get(OPEN_BYTES..).filter(|ask| !ask.is_empty())
    }

    /// The payload of OPEN.
    pub fn emit(&self) -> Buffer {
        Buffer::copy_of(&self.bytes())
    }

    /// Whether OPEN may have so many bytes.
    pub(super) fn is_open(len: usize, version: SessionVersion) -> bool {
        let is_keyed = len.checked_sub(KEYED_OPEN_BYTES).is_some_and(are_proofs);
        len == OPEN_BYTES || version.has_fragments() && is_keyed
    }

    fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&self.client.0);
        bytes[16..32].copy_from_slice(&self.target.0);
        bytes[32..].copy_from_slice(&self.incarnation.0);
        bytes
    }
}

/// What a target says of keys in its answer to HELLO, if it is asked to. Nothing proves it yet: the handshake does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whose key it is.
    pub key: PublicKey,
    /// The least that it demands.
    pub least: Security,
    /// Whether its processor has instructions for AES.
    pub has_aes: bool,
}

impl Offer {
    fn parse(bytes: &[u8]) -> Result<Offer, ParseError> {
        let [least, has_aes] = [u8_at(bytes, KEY_BYTES)?, u8_at(bytes, KEY_BYTES + 1)?];
        if bytes.len() != OFFER_BYTES {
            return Err(ParseError::Length);
        }
        let least = security_of(least).ok_or(ParseError::Reserved)?;
        Ok(Offer { key: PublicKey(bytes_at(bytes, 0)?), least, has_aes: has_aes & 1 == 1 })
    }

    fn bytes(&self) -> [u8; OFFER_BYTES] {
        let mut bytes = [0; OFFER_BYTES];
        bytes[..KEY_BYTES].copy_from_slice(&self.key.0);
        bytes[KEY_BYTES] = self.least as u8;
        bytes[KEY_BYTES + 1] = self.has_aes.into();
        bytes
    }
}

/// How the messages of a session are sealed: what who opens it has chosen, within what the target offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How much is kept from others.
    pub security: Security,
    /// By what.
    pub suite: Suite,
}

impl Choice {
    /// Reads what the first message of a handshake carries: that, and what proves that its sender has tokens.
    pub fn parse(said: &[u8]) -> Option<(Choice, &[u8])> {
        let (choice, proofs) = said.split_first_chunk::<CHOICE_BYTES>()?;
        let suite = match choice[1] {
            1 => Suite::Aes256Gcm,
            2 => Suite::ChaCha20Poly1305,
            _ => return None,
        };
        let security = security_of(choice[0]).filter(|security| *security != Security::None)?;
        are_proofs(proofs.len()).then_some((Choice { security, suite }, proofs))
    }

    /// What the first message of a handshake carries.
    pub fn bytes(&self, proofs: &[u8]) -> Vec<u8> {
        let suite = match self.suite {
            Suite::Aes256Gcm => 1,
            Suite::ChaCha20Poly1305 => 2,
        };
        [&[self.security as u8, suite], proofs].concat()
    }
}

fn are_proofs(bytes: usize) -> bool {
    bytes.is_multiple_of(PROOF_BYTES) && bytes <= TOKENS_MAX * PROOF_BYTES
}

fn security_of(raw: u8) -> Option<Security> {
    Security::ALL.into_iter().find(|security| *security as u8 == raw)
}

/// What both ends of a handshake must have heard alike (`newest` as the answer to HELLO had it in its detail), lest somebody between them has changed it.
pub fn prologue(
    opening: &OpenPayload,
    offer: &Offer,
    newest: u64,
    version: SessionVersion,
    instance: Instance,
    address: ShelfSlot,
) -> Vec<u8> {
    let session = SessionId::derive(opening, instance, address);
    let mut prologue = b"etherpool session".to_vec();
    prologue.push(version.number());
    prologue.extend_from_slice(&opening.bytes());
    prologue.extend_from_slice(&offer.bytes());
    prologue.extend_from_slice(&newest.to_be_bytes());
    prologue.extend_from_slice(&instance.0.to_be_bytes());
    prologue.extend_from_slice(&address.shelf.to_be_bytes());
    prologue.push(address.slot);
    prologue.extend_from_slice(&session.0.to_be_bytes());
    prologue
}
