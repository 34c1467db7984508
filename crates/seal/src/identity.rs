//! Who a machine is, and with whom it speaks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use crate::key::{KEY_BYTES, KeyPair, PublicKey};
use crate::{Security, Suite};

/// What fills bytes with randomness that nobody can foretell.
pub type Entropy = Box<dyn FnMut(&mut [u8])>;

/// A node or supervisor with its key, as one end of sessions.
pub struct Identity {
    keys: KeyPair,
    least: Security,
    peers: Option<BTreeSet<PublicKey>>,
    has_aes: bool,
    entropy: RefCell<Entropy>,
}

impl Identity {
    /// Who speaks with anybody that has a key, and demands nothing.
    pub fn new(keys: KeyPair, entropy: Entropy) -> Identity {
        let entropy = RefCell::new(entropy);
        Identity { keys, least: Security::None, peers: None, has_aes: false, entropy }
    }

    /// The same, demanding at least this of every session that isn't of its own machine.
    pub fn with_least(self, least: Security) -> Identity {
        Identity { least, ..self }
    }

    /// The same, speaking with these only.
    pub fn with_peers(self, peers: impl IntoIterator<Item = PublicKey>) -> Identity {
        Identity { peers: Some(peers.into_iter().collect()), ..self }
    }

    /// The same, on a processor that has instructions for AES or hasn't.
    pub fn with_aes(self, has_aes: bool) -> Identity {
        Identity { has_aes, ..self }
    }

    /// Both halves of its key.
    pub fn keys(&self) -> &KeyPair {
        &self.keys
    }

    /// The half that others know it by.
    pub fn public(&self) -> PublicKey {
        self.keys.public()
    }

    /// What it demands at least.
    pub fn least(&self) -> Security {
        self.least
    }

    /// Whether its processor has instructions for AES.
    pub fn has_aes(&self) -> bool {
        self.has_aes
    }

    /// Whether it speaks with the owner of a key.
    pub fn admits(&self, peer: &PublicKey) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(peer))
    }

    /// What to seal by with somebody whose processor has instructions for AES, or hasn't.
    pub fn suite_with(&self, has_aes: bool) -> Suite {
        if self.has_aes && has_aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
    }

    /// Bytes that nobody else has or will ever have: a secret for a handshake.
    pub fn draw(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        (self.entropy.borrow_mut())(&mut bytes);
        bytes
    }
}

/// What is demanded at least by who may have no key, and then demands nothing.
pub fn least_of(identity: Option<&Identity>) -> Security {
    identity.map_or(Security::None, Identity::least)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, {})", self.public(), self.least)
    }
}
