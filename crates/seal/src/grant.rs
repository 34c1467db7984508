//! Whom the disks of a pool obey: a grant, which names supervisors by their keys and is signed by the pool's key.
//! Each disk keeps the newest that it was shown ([docs/session.md](../../../docs/session.md), Grants).
//!
//! | off | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 4 | magic `EPGR` |
//! | 4 | 1 | format: 1 |
//! | 5 | 1 | number of supervisors, 1 to 8 |
//! | 6 | 1 | number of successions, 0 to 8 |
//! | 7 | 1 | zero |
//! | 8 | 8 | version, not 0: of two grants of a pool the higher one counts |
//! | 16 | 32 | the pool's key (Ed25519) |
//! | 48 | 32 each | keys of the supervisors (X25519), ascending |
//! | … | 96 each | successions, the oldest first: the key that followed 32, its predecessor's signature 64 |
//! | … | 64 | signature of all before by the pool's key |
//!
//! What a signature covers has `etherpool grant` or `etherpool succession` in front of it, and a zero byte. A
//! succession is how somebody who knows a former key of the pool alone is led to the present one.

use std::fmt;

use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::key::{KEY_BYTES, KeyError, PublicKey, SecretKey};

/// So many supervisors may have a pool's disks.
pub const SUPERVISORS_MAX: usize = 8;
/// Who has missed more successions than that is led to the present key no more.
pub const SUCCESSIONS_MAX: usize = 8;
/// A grant is no longer than that: with the rest of a CLAIM it fits into a frame of 1514 bytes.
pub const GRANT_BYTES_MAX: usize =
    HEAD_BYTES + SUPERVISORS_MAX * KEY_BYTES + SUCCESSIONS_MAX * SUCCESSION_BYTES + SIGNATURE_BYTES;
/// Nor shorter than that.
pub const GRANT_BYTES_MIN: usize = HEAD_BYTES + KEY_BYTES + SIGNATURE_BYTES;

const MAGIC: [u8; 5] = *b"EPGR\x01";
const SUPERVISORS: usize = 5;
const SUCCESSIONS: usize = 6;
const VERSION: usize = 8;
const KEY: usize = 16;
const HEAD_BYTES: usize = 48;
const SIGNATURE_BYTES: usize = 64;
const SUCCESSION_BYTES: usize = KEY_BYTES + SIGNATURE_BYTES;

const GRANT: &[u8] = b"etherpool grant\0";
const SUCCESSION: &[u8] = b"etherpool succession\0";

/// The half of a pool's key by which disks know their pool. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9+/]{43}=$"))]
pub struct PoolKey(pub [u8; KEY_BYTES]);

/// Both halves of a pool's key.
#[derive(Clone)]
pub struct PoolKeyPair {
    secret: SecretKey,
    pair: Arc<Ed25519KeyPair>,
}

/// A grant whose own signature is right. Whether a disk is to believe it is for [`Grant::follows`].
#[derive(Clone, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9+/]+=*$"))]
pub struct Grant {
    bytes: Arc<[u8]>,
    version: u64,
    key: PoolKey,
    supervisors: Vec<PublicKey>,
    successions: Vec<Succession>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Succession {
    key: PoolKey,
    signature: [u8; SIGNATURE_BYTES],
}

/// Why no grant was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It would let nobody in.
    #[error("a pool has at least one supervisor")]
    Nobody,
    /// It would let in too many.
    #[error("a pool has at most {SUPERVISORS_MAX} supervisors")]
    TooMany,
    /// The key isn't that of the pool.
    #[error("this isn't the pool's key")]
    OtherKey,
    /// There is no higher version.
    #[error("the pool's grant has the highest version that there is")]
    Exhausted,
}

/// Text that is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this isn't the grant of a pool")]
pub struct NotAGrant;

impl PoolKeyPair {
    /// The pair of a secret half.
    pub fn of(secret: SecretKey) -> Result<PoolKeyPair, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(secret.bytes()).map_err(|_| KeyError)?;
        Ok(PoolKeyPair { secret, pair: Arc::new(pair) })
    }

    /// The half that others know.
    pub fn public(&self) -> PoolKey {
        let bytes = self.pair.public_key().as_ref().try_into();
        PoolKey(bytes.unwrap_or_default())
    }

    /// The half that they don't.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// The first grant of a pool.
    pub fn found(&self, supervisors: &[PublicKey]) -> Result<Grant, GrantError> {
        self.grant(1, supervisors, &[])
    }

    /// The grant after `former` where the secret half of its key is lost: it doesn't follow that one, and takes its
    /// place on disks that have who shows it already.
    pub fn found_after(
        &self,
        former: &Grant,
        supervisors: &[PublicKey],
    ) -> Result<Grant, GrantError> {
        self.grant(former.next_version()?, supervisors, &[])
    }

    /// The grant after `former`, which is of this key, to these supervisors.
    pub fn follow(&self, former: &Grant, supervisors: &[PublicKey]) -> Result<Grant, GrantError> {
        if former.key != self.public() {
            return Err(GrantError::OtherKey);
        }
        self.grant(former.next_version()?, supervisors, &former.successions)
    }

    /// The grant after `former`, which is of this key, by another key to these supervisors.
    pub fn hand_over(
        &self,
        former: &Grant,
        to: &PoolKeyPair,
        supervisors: &[PublicKey],
    ) -> Result<Grant, GrantError> {
        if former.key != self.public() {
            return Err(GrantError::OtherKey);
        }
        let key = to.public();
        let signature = self.sign(SUCCESSION, &key.0);
        let mut successions = former.successions.clone();
        successions.push(Succession { key, signature });
        let missed = successions.len().saturating_sub(SUCCESSIONS_MAX);
        to.grant(former.next_version()?, supervisors, &successions[missed..])
    }

    fn grant(
        &self,
        version: u64,
        supervisors: &[PublicKey],
        successions: &[Succession],
    ) -> Result<Grant, GrantError> {
        let mut supervisors = supervisors.to_vec();
        supervisors.sort_unstable();
        supervisors.dedup();
        match supervisors.len() {
            0 => return Err(GrantError::Nobody),
            1..=SUPERVISORS_MAX => {}
            _ => return Err(GrantError::TooMany),
        }
        let key = self.public();
        let mut bytes = Vec::with_capacity(GRANT_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend([supervisors.len() as u8, successions.len() as u8, 0]);
        bytes.extend(version.to_le_bytes());
        bytes.extend(key.0);
        supervisors.iter().for_each(|supervisor| bytes.extend(supervisor.0));
        for succession in successions {
            bytes.extend(succession.key.0);
            bytes.extend(succession.signature);
        }
        let signature = self.sign(GRANT, &bytes);
        bytes.extend(signature);
        let (bytes, successions) = (bytes.into(), successions.to_vec());
        Ok(Grant { bytes, version, key, supervisors, successions })
    }

    fn sign(&self, context: &[u8], said: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(&[context, said].concat());
        // Of this algorithm all signatures are that long; one of zeros is none.
        signature.as_ref().try_into().unwrap_or([0; SIGNATURE_BYTES])
    }
}

impl PoolKey {
    fn has_signed(&self, context: &[u8], said: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&[context, said].concat(), signature).is_ok()
    }
}

impl Grant {
    /// Reads one; `None` if it isn't whole, or wasn't signed by the key that it names.
    pub fn parse(bytes: &[u8]) -> Option<Grant> {
        let grant = Grant::parse_unproved(bytes)?;
        let (said, signature) = bytes.split_last_chunk::<SIGNATURE_BYTES>()?;
        grant.key.has_signed(GRANT, said, signature).then_some(grant)
    }

    fn parse_unproved(bytes: &[u8]) -> Option<Grant> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let counts = [SUPERVISORS, SUCCESSIONS].map(|at| usize::from(head[at]));
        let [supervisors, successions] = counts;
        let version = u64::from_le_bytes(*head[VERSION..].first_chunk()?);
        let len = supervisors * KEY_BYTES + successions * SUCCESSION_BYTES + SIGNATURE_BYTES;
        let is_sound = head.starts_with(&MAGIC)
            && (1..=SUPERVISORS_MAX).contains(&supervisors)
            && successions <= SUCCESSIONS_MAX
            && head[VERSION - 1] == 0
            && version > 0
            && rest.len() == len;
        if !is_sound {
            return None;
        }
        let (keys, rest) = rest.split_at(supervisors * KEY_BYTES);
        let supervisors: Vec<_> =
            keys.as_chunks().0.iter().map(|key: &[u8; KEY_BYTES]| PublicKey(*key)).collect();
        let successions = rest[..successions * SUCCESSION_BYTES].chunks_exact(SUCCESSION_BYTES);
        let successions = successions.map(|bytes| {
            let (key, signature) = bytes.split_first_chunk()?;
            Some(Succession { key: PoolKey(*key), signature: *signature.first_chunk()? })
        });
        let grant = Grant {
            bytes: bytes.into(),
            version,
            key: PoolKey(*head[KEY..].first_chunk()?),
            supervisors,
            successions: successions.collect::<Option<_>>()?,
        };
        grant.supervisors.is_sorted_by(|a, b| a < b).then_some(grant)
    }

    /// Whether whoever obeyed `former` is to obey this one from now on: it is newer, and the pool's key is the same,
    /// or has followed that one.
    pub fn follows(&self, former: &Grant) -> bool {
        self.version > former.version && self.leads_from(former.key)
    }

    /// Whether its pool's key is that of a former one, or has followed it.
    pub fn is_of_pool_of(&self, former: &Grant) -> bool {
        self.leads_from(former.key)
    }

    /// Whether its pool's key is this one, or has followed it.
    pub fn leads_from(&self, known: PoolKey) -> bool {
        let met = self.successions.iter().rposition(|succession| succession.key == known);
        let mut key = known;
        for succession in &self.successions[met.map_or(0, |at| at + 1)..] {
            if key == self.key {
                break;
            }
            if !key.has_signed(SUCCESSION, &succession.key.0, &succession.signature) {
                return false;
            }
            key = succession.key;
        }
        key == self.key
    }

    /// Whether it lets in who has this key.
    pub fn names(&self, supervisor: &PublicKey) -> bool {
        self.supervisors.contains(supervisor)
    }

    /// Those that it lets in.
    pub fn supervisors(&self) -> &[PublicKey] {
        &self.supervisors
    }

    /// The pool's key.
    pub fn key(&self) -> PoolKey {
        self.key
    }

    /// Of two grants of a pool the higher one counts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// As it is sent and kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn next_version(&self) -> Result<u64, GrantError> {
        self.version.checked_add(1).ok_or(GrantError::Exhausted)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.bytes))
    }
}

impl FromStr for Grant {
    type Err = NotAGrant;

    fn from_str(text: &str) -> Result<Grant, NotAGrant> {
        let bytes = STANDARD.decode(text).map_err(|_| NotAGrant)?;
        Grant::parse(&bytes).ok_or(NotAGrant)
    }
}

block::serde_as_text!(Grant);

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({} of {}, to {:?})", self.version, self.key, self.supervisors)
    }
}

impl fmt::Debug for PoolKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolKeyPair({})", self.public())
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PublicKey(self.0).fmt(f)
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolKey({self})")
    }
}

impl FromStr for PoolKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PoolKey, KeyError> {
        text.parse().map(|PublicKey(bytes)| PoolKey(bytes))
    }
}

block::serde_as_text!(PoolKey);

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
