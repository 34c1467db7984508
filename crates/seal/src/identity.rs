//! Who a machine is, and with whom it speaks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use crate::key::{KEY_BYTES, KeyPair, PublicKey};
use crate::token::{Occasion, Prover, TOKENS_MAX, Token};
use crate::{Security, Suite};

/// What fills bytes with randomness that nobody can foretell.
pub type Entropy = Box<dyn FnMut(&mut [u8])>;

/// Who belongs to a machine's cluster beside those that its configuration names: this changes while it runs.
pub trait Members {
    /// Whether the owner of a key does.
    fn has(&self, key: &PublicKey) -> bool;

    /// Whether the owner of a key may have disks that obey nobody, or disks are taken from him. `is_named` if he does, or the
    /// configuration names him.
    fn is_own(&self, key: &PublicKey, is_named: bool) -> bool;

    /// Tokens that are good at present, by each of which others may.
    fn tokens(&self) -> Vec<Token>;

    /// Those by which somebody may come in: these, and one that he used up, whose answer he may not have heard.
    fn tokens_for(&self, key: &PublicKey) -> Vec<Token>;

    /// Somebody has proved to have one of them.
    fn joined(&self, key: PublicKey, by: &Token);
}

/// A node or supervisor with its key, as one end of sessions.
pub struct Identity {
    keys: KeyPair,
    least: Security,
    peers: Option<BTreeSet<PublicKey>>,
    members: Option<Rc<dyn Members>>,
    has_aes: bool,
    entropy: RefCell<Entropy>,
}

impl Identity {
    /// Who speaks with anybody that has a key, and demands nothing.
    pub fn new(keys: KeyPair, entropy: Entropy) -> Identity {
        let entropy = RefCell::new(entropy);
        let (least, has_aes) = (Security::None, false);
        Identity { keys, least, peers: None, members: None, has_aes, entropy }
    }

    /// The same, demanding at least this of every session that isn't of its own machine.
    pub fn with_least(self, least: Security) -> Identity {
        Identity { least, ..self }
    }

    /// The same, speaking with these only.
    pub fn with_peers(self, peers: impl IntoIterator<Item = PublicKey>) -> Identity {
        Identity { peers: Some(peers.into_iter().collect()), ..self }
    }

    /// The same, taking nobody for its own but those whom it speaks with by name, and these.
    pub fn with_members(self, members: Rc<dyn Members>) -> Identity {
        Identity { members: Some(members), ..self }
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
        self.peers.is_none() || self.is_named(peer)
    }

    /// Whether it takes the owner of a key for its own: gives him disks that obey nobody, or takes disks from him. Whom it
    /// speaks with, where nothing was said of members.
    pub fn is_own(&self, peer: &PublicKey) -> bool {
        match &self.members {
            _ if *peer == self.public() => true,
            Some(members) => members.is_own(peer, self.is_named(peer)),
            None => self.admits(peer),
        }
    }

    /// Whether it tells its own from others at all.
    pub fn tells_own(&self) -> bool {
        self.members.is_some()
    }

    fn is_named(&self, peer: &PublicKey) -> bool {
        let by_name = self.peers.as_ref().is_some_and(|peers| peers.contains(peer));
        by_name || self.members.as_ref().is_some_and(|members| members.has(peer))
    }

    /// What it proves by to the other end that it has tokens.
    pub fn proofs(&self, prover: Prover, occasion: &Occasion<'_>) -> Vec<u8> {
        let tokens = self.tokens();
        tokens.iter().flat_map(|token| token.proof(prover, occasion)).collect()
    }

    /// Takes the other end in, whose key the opening proves, if one of its proofs is of a token that this end has, too: that one.
    pub fn take_in(&self, prover: Prover, occasion: &Occasion<'_>, proofs: &[u8]) -> Option<Token> {
        let members = self.members.as_ref()?;
        let key = match prover {
            Prover::Client => occasion.client,
            Prover::Target => occasion.target,
        };
        let mut tokens = members.tokens_for(&key).into_iter();
        let known = tokens.find(|token| token.is_proved(prover, occasion, proofs))?;
        members.joined(key, &known);
        Some(known)
    }

    /// Whether others may become its own at present.
    pub fn has_tokens(&self) -> bool {
        !self.tokens().is_empty()
    }

    fn tokens(&self) -> Vec<Token> {
        let mut tokens = self.members.as_ref().map_or_else(Vec::new, |members| members.tokens());
        tokens.truncate(TOKENS_MAX);
        tokens
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
