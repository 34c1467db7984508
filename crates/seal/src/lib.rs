//! Who speaks, proved, and what is said, sealed: the cryptography of sessions (docs/session.md), without I/O
//! and without randomness of its own.
//!
//! [`KeyPair`] is the identity of a node or a supervisor. [`Asking`] and [`Asked`] are the two ends of the
//! handshake by which each learns that the other one has the private half of the key that it names. What
//! comes of it are a [`Sealer`] and an [`Opener`] for each end, a key for each direction.
//!
//! The handshake is Noise's (`snow`), what it yields seals by an AEAD of `aws-lc-rs`. Nothing here was
//! invented but the way in which nonces are counted and keys follow each other.

mod claim;
mod digest;
mod grant;
mod handshake;
mod identity;
mod key;
mod message;
mod roster;
mod signature;
mod token;
mod window;

pub use claim::{Claim, NotAClaim};
pub use digest::{DIGEST_BYTES, Digest};
pub use grant::{
    GRANT_BYTES_MAX, GRANT_BYTES_MIN, Grant, GrantError, NotAGrant, PoolKey, PoolKeyPair,
    SUPERVISORS_MAX,
};
pub use handshake::{ANSWER_BYTES, ASK_BYTES, Asked, Asking, Keys};
pub use identity::{Entropy, Identity, Members, least_of};
pub use key::{KEY_BYTES, KeyError, KeyPair, PublicKey, SecretKey};
pub use message::{Opener, Rejected, SEAL_BYTES, Seal, Sealer, Stamp, TAG_BYTES};
pub use roster::{Joined, Joining, Roster, TokenRefused, TooManyMembers};
pub use signature::{NoSignature, SIGNATURE_BYTES, Signature};
pub use token::{
    NotATokenId, Occasion, PROOF_BYTES, Prover, TOKENS_MAX, Token, TokenError, TokenId,
};

/// How messages of a session are kept from others. Ascending: what is later keeps more.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema,
)]
#[schemars(rename_all = "kebab-case")]
pub enum Security {
    /// Not at all: whoever can send on the segment can forge them.
    #[default]
    None,
    /// Nobody can change or repeat one; all can read them.
    Authenticate,
    /// And nobody else can read their payloads.
    Encrypt,
}

block::words!(Security { None = "none", Authenticate = "authenticate", Encrypt = "encrypt" });
block::serde_as_text!(Security);

/// By what they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Where the processors of both ends have instructions for it.
    Aes256Gcm,
    /// Elsewhere.
    ChaCha20Poly1305,
}

block::words!(Suite { Aes256Gcm = "aes-256-gcm", ChaCha20Poly1305 = "chacha20-poly1305" });
