//! The handshake: Noise IK, two messages, in OPEN and its answer. Who opens knows the other end's public key
//! from the answer to HELLO, which anybody may forge: it is proved here, and whether it is that of the right
//! machine is for who opens to judge.
//!
//! The first message may be sent again by anybody who heard it. It opens nothing, since what it is answered
//! with is of use only to who began, and since all that was said in HELLO and its answer, the target's own
//! nonce among it, is in the prologue.

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, KeyPair, PublicKey};
use crate::message::{Opener, Sealer, TAG_BYTES};
use crate::{Security, Suite};

const PROTOCOL: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// Bytes of the first message beside what it carries: a key, a sealed key, a tag.
pub const ASK_BYTES: usize = KEY_BYTES + KEY_BYTES + TAG_BYTES + TAG_BYTES;
/// Bytes of the second one beside what it carries.
pub const ANSWER_BYTES: usize = KEY_BYTES + TAG_BYTES;

/// What seals and opens the messages of one end.
pub struct Keys {
    /// What this end says.
    pub sealer: Sealer,
    /// What it hears.
    pub opener: Opener,
}

/// The end that opens, between its message and the answer.
pub struct Asking(Box<HandshakeState>);

/// The end that is asked, who knows by now who asks.
pub struct Asked {
    state: Box<HandshakeState>,
    /// Whose key it is, proved as soon as anything sealed comes from there, and not before.
    pub peer: PublicKey,
    /// What its message carried.
    pub said: Vec<u8>,
}

impl Asking {
    /// Begins, and has the message. `ephemeral` has to be random and never used again.
    pub fn begin(
        own: &KeyPair,
        peer: &PublicKey,
        prologue: &[u8],
        said: &[u8],
        ephemeral: [u8; KEY_BYTES],
    ) -> Option<(Asking, Vec<u8>)> {
        let builder = builder(own, prologue, ephemeral)?;
        let mut state = builder.remote_public_key(&peer.0).ok()?.build_initiator().ok()?;
        let mut message = vec![0; ASK_BYTES + said.len()];
        let len = state.write_message(said, &mut message).ok()?;
        message.truncate(len);
        Some((Asking(Box::new(state)), message))
    }

    /// Takes the answer, and has what it carried. Of one that isn't genuine nothing stays: the right one may follow.
    pub fn finish(
        &mut self,
        answer: &[u8],
        suite: Suite,
        security: Security,
    ) -> Option<(Vec<u8>, Keys)> {
        let mut said = vec![0; answer.len().checked_sub(ANSWER_BYTES)?];
        let len = self.0.read_message(answer, &mut said).ok()?;
        said.truncate(len);
        let (own, other) = split(&mut self.0)?;
        Some((said, keys(suite, security, *own, *other)?))
    }
}

impl Asked {
    /// Takes the message of who opens. `ephemeral` has to be random and never used again.
    pub fn read(
        own: &KeyPair,
        prologue: &[u8],
        message: &[u8],
        ephemeral: [u8; KEY_BYTES],
    ) -> Option<Asked> {
        let mut said = vec![0; message.len().checked_sub(ASK_BYTES)?];
        let mut state = builder(own, prologue, ephemeral)?.build_responder().ok()?;
        let len = state.read_message(message, &mut said).ok()?;
        said.truncate(len);
        let peer = PublicKey(state.get_remote_static()?.try_into().ok()?);
        Some(Asked { state: Box::new(state), peer, said })
    }

    /// The answer, which carries `said`.
    pub fn answer(
        mut self,
        said: &[u8],
        suite: Suite,
        security: Security,
    ) -> Option<(Vec<u8>, Keys)> {
        let mut message = vec![0; ANSWER_BYTES + said.len()];
        let len = self.state.write_message(said, &mut message).ok()?;
        message.truncate(len);
        let (other, own) = split(&mut self.state)?;
        Some((message, keys(suite, security, *own, *other)?))
    }
}

type Bytes = Zeroizing<[u8; KEY_BYTES]>;

/// The keys of both directions: first that of who opened.
fn split(state: &mut HandshakeState) -> Option<(Bytes, Bytes)> {
    let (first, second) =
        state.is_handshake_finished().then(|| state.dangerously_get_raw_split())?;
    Some((Zeroizing::new(first), Zeroizing::new(second)))
}

fn keys(
    suite: Suite,
    security: Security,
    own: [u8; KEY_BYTES],
    other: [u8; KEY_BYTES],
) -> Option<Keys> {
    Some(Keys {
        sealer: Sealer::new(suite, security, own)?,
        opener: Opener::new(suite, security, other)?,
    })
}

fn builder<'a>(
    own: &'a KeyPair,
    prologue: &'a [u8],
    ephemeral: [u8; KEY_BYTES],
) -> Option<Builder<'a>> {
    let params: NoiseParams = PROTOCOL.parse().ok()?;
    let resolver = Box::new(Given { ephemeral });
    let builder = Builder::with_resolver(params, resolver).prologue(prologue).ok()?;
    builder.local_private_key(own.secret().bytes()).ok()
}

/// `snow` with randomness that it is given, so that what happens follows from a run's seed where there is one.
struct Given {
    ephemeral: [u8; KEY_BYTES],
}

impl CryptoResolver for Given {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(Zeroizing::new(self.ephemeral)))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.ephemeral);
    }
}

/// Randomness for one key: a handshake draws one.
struct Once(Option<Bytes>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let bytes = self.0.take().filter(|bytes| bytes.len() == dest.len());
        dest.copy_from_slice(bytes.ok_or(snow::Error::Rng)?.as_slice());
        Ok(())
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
