//! Messages of a session, sealed: each under a number of its own, with a tag over all of it.
//!
//! **No nonce is used twice.** A nonce is a key's number and the counter of what was sealed by it. A
//! [`Stamp`] has one, [`Sealer::stamp`] makes each once, and sealing uses it up: there is no way to seal
//! without one, to copy one, or to make one of a number. A session's keys are of its handshake alone, and
//! each direction has its own.
//!
//! **Keys follow each other**, by count and by time: each is made of the one before, which is forgotten, so
//! that whoever gets hold of one can't read what was said under earlier ones. Who receives follows who
//! sends. Of a key before the present one what is late is still taken.

use std::time::Duration;

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use block::Instant;
use zeroize::Zeroizing;

use crate::key::KEY_BYTES;
use crate::window::Window;
use crate::{Security, Suite};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a [`Seal`]: key, counter and tag.
pub const SEAL_BYTES: usize = 4 + 8 + TAG_BYTES;

/// Messages under one key. AES-GCM is sound for far more than these of a megabyte together (RFC 8446, 5.5).
const MESSAGES_MAX: u64 = 1 << 22;
/// How long one key is in use.
const KEY_LIFE: Duration = Duration::from_secs(15 * 60);
/// The nonce by which the next key is made. No message has it: counters end long before.
const NEXT_KEY_NONCE: [u8; NONCE_LEN] = [0xff; NONCE_LEN];

/// What a sealed message has in its header. All zeros where it isn't sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seal {
    /// The number of the key, from 1 on.
    pub key: u32,
    /// The number of the message under it.
    pub counter: u64,
    /// Over all of the message.
    pub tag: [u8; TAG_BYTES],
}

impl Seal {
    /// Whether the message is sealed.
    pub fn is_present(&self) -> bool {
        self.key != 0
    }
}

/// The right to seal one message.
#[derive(Debug)]
pub struct Stamp {
    key: u32,
    counter: u64,
}

impl Stamp {
    /// What the header says before the tag is known.
    pub fn seal(&self) -> Seal {
        Seal { key: self.key, counter: self.counter, tag: [0; TAG_BYTES] }
    }
}

/// Why a message isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It isn't sealed, or not by who has the key, or was changed on its way.
    #[error("a message that its sender didn't seal")]
    Forged,
    /// It was taken before, or is too old to tell.
    #[error("a message that came before")]
    Repeated,
}

/// A key in use.
struct Key {
    aead: LessSafeKey,
    suite: Suite,
}

impl Key {
    /// `None` never happens: any 32 bytes are a key of either suite.
    fn new(suite: Suite, bytes: [u8; KEY_BYTES]) -> Option<Key> {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let bytes = Zeroizing::new(bytes);
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, bytes.as_slice()).ok()?);
        Some(Key { aead, suite })
    }

    /// The key that follows: what this one makes of zeros.
    fn next(&self) -> Option<Key> {
        let mut bytes = [0; KEY_BYTES];
        let nonce = Nonce::assume_unique_for_key(NEXT_KEY_NONCE);
        let _tag = self.aead.seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes).ok()?;
        Key::new(self.suite, bytes)
    }
}

fn nonce(key: u32, counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..4].copy_from_slice(&key.to_be_bytes());
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what one end says.
pub struct Sealer {
    security: Security,
    key: Key,
    number: u32,
    counter: u64,
    since: Option<Instant>,
    /// What is authenticated and not encrypted, in one piece.
    clear: Vec<u8>,
}

impl Sealer {
    pub(crate) fn new(suite: Suite, security: Security, bytes: [u8; KEY_BYTES]) -> Option<Sealer> {
        let key = Key::new(suite, bytes)?;
        Some(Sealer { security, key, number: 1, counter: 0, since: None, clear: Vec::new() })
    }

    /// The number of the next message.
    pub fn stamp(&mut self, now: Instant) -> Stamp {
        let since = *self.since.get_or_insert(now);
        if self.counter >= MESSAGES_MAX || now.since(since) >= KEY_LIFE {
            // After 2^32 keys there is none: a session of thousands of years.
            if let (Some(key), Some(number)) = (self.key.next(), self.number.checked_add(1)) {
                (self.key, self.number, self.counter, self.since) = (key, number, 0, Some(now));
            }
        }
        let stamp = Stamp { key: self.number, counter: self.counter };
        self.counter += 1;
        stamp
    }

    /// Whether payloads are encrypted, as it was agreed.
    pub fn encrypts(&self) -> bool {
        self.security == Security::Encrypt
    }

    /// Encrypts a message's payload into `sealed`, which is as long, and seals it: `head` is what precedes it with the
    /// stamp's [`Seal`] in it, as both ends see it. For those who agreed to encrypt ([`Sealer::encrypts`]).
    pub fn seal(
        &mut self,
        stamp: Stamp,
        head: &[u8],
        payload: &[u8],
        sealed: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        debug_assert!(self.encrypts());
        let (nonce, aad, mut tag) = (self.nonce(stamp), Aad::from(head), [0; TAG_BYTES]);
        let aead = &self.key.aead;
        let done = aead.seal_out_of_place_scatter(nonce, aad, payload, sealed, &[], &mut tag);
        // It fails for lengths only that no frame has. Then nothing is said: neither what was there before, nor by a tag
        // that anybody takes.
        done.map_or_else(
            |_| {
                sealed.fill(0);
                [0; TAG_BYTES]
            },
            |()| tag,
        )
    }

    /// Seals a message whose payload stays readable: because that was agreed, or because it is what keys are made of.
    pub fn seal_clear(&mut self, stamp: Stamp, head: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
        let nonce = self.nonce(stamp);
        let clear = in_one_piece(&mut self.clear, head, payload);
        tag_of(self.key.aead.seal_in_place_separate_tag(nonce, Aad::from(clear), &mut []))
    }

    fn nonce(&self, stamp: Stamp) -> Nonce {
        debug_assert!(stamp.key == self.number && stamp.counter < self.counter);
        nonce(stamp.key, stamp.counter)
    }
}

/// Sealing fails for lengths only that no frame has. Whoever gets it doesn't take zeros for a tag.
fn tag_of(sealed: Result<Tag, Unspecified>) -> [u8; TAG_BYTES] {
    sealed.map_or([0; TAG_BYTES], |tag| tag.as_ref().try_into().unwrap_or([0; TAG_BYTES]))
}

fn in_one_piece<'a>(clear: &'a mut Vec<u8>, head: &[u8], payload: &[u8]) -> &'a [u8] {
    clear.clear();
    clear.extend_from_slice(head);
    clear.extend_from_slice(payload);
    clear
}

/// A key of the other end, and what came under it.
struct Received {
    key: Key,
    number: u32,
    window: Window,
}

/// Opens what the other end sealed.
pub struct Opener {
    security: Security,
    present: Received,
    /// The key that follows, as soon as somebody seems to use it.
    next: Option<Received>,
    before: Option<Received>,
    clear: Vec<u8>,
}

impl Opener {
    pub(crate) fn new(suite: Suite, security: Security, bytes: [u8; KEY_BYTES]) -> Option<Opener> {
        let present = Received { key: Key::new(suite, bytes)?, number: 1, window: Window::new() };
        Some(Opener { security, present, next: None, before: None, clear: Vec::new() })
    }

    /// Whether payloads are encrypted, as it was agreed.
    pub fn encrypts(&self) -> bool {
        self.security == Security::Encrypt
    }

    /// Opens a message of which `head` is as at [`Sealer::seal`]; its payload goes to `opened`, which is as long.
    /// A message is taken once.
    pub fn open(
        &mut self,
        seal: &Seal,
        head: &[u8],
        payload: &[u8],
        opened: &mut [u8],
    ) -> Result<(), Rejected> {
        debug_assert!(self.encrypts());
        self.open_as(seal, head, payload, Some(opened))
    }

    /// Opens what [`Sealer::seal_clear`] sealed.
    pub fn open_clear(&mut self, seal: &Seal, head: &[u8], payload: &[u8]) -> Result<(), Rejected> {
        self.open_as(seal, head, payload, None)
    }

    /// To `opened` what was encrypted, which is as long; nowhere what wasn't.
    fn open_as(
        &mut self,
        seal: &Seal,
        head: &[u8],
        payload: &[u8],
        opened: Option<&mut [u8]>,
    ) -> Result<(), Rejected> {
        let is_next = self.present.number.checked_add(1) == Some(seal.key);
        if is_next && self.next.is_none() {
            let key = self.present.key.next().ok_or(Rejected::Forged)?;
            self.next = Some(Received { key, number: seal.key, window: Window::new() });
        }
        let all = [Some(&mut self.present), self.next.as_mut(), self.before.as_mut()];
        let known = all.into_iter().flatten().find(|known| known.number == seal.key);
        let received = known.ok_or(Rejected::Forged)?;
        if !received.window.is_new(seal.counter) {
            return Err(Rejected::Repeated);
        }
        let (aead, nonce) = (&received.key.aead, nonce(seal.key, seal.counter));
        let outcome = match opened {
            Some(opened) => {
                aead.open_separate_gather(nonce, Aad::from(head), payload, &seal.tag, opened)
            }
            None => {
                let clear = in_one_piece(&mut self.clear, head, payload);
                aead.open_separate_gather(nonce, Aad::from(clear), &[], &seal.tag, &mut [])
            }
        };
        outcome.map_err(|_| Rejected::Forged)?;
        received.window.note(seal.counter);
        if is_next && let Some(next) = self.next.take() {
            // Its sender has gone on: what is late of the key before is taken still, of older ones nothing.
            self.before = Some(std::mem::replace(&mut self.present, next));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
