//! What a machine has said, for those who read it later: signatures by the key that it has for sessions.
//!
//! A grant names supervisors by their keys of Curve25519, and what they write on disks is to be theirs by the same keys:
//! a second key of each would have to be named, handed on and revoked beside the first. So the secret half signs as a
//! scalar of Ed25519 (RFC 8032). The two curves are one in two forms: a signer names the point by which the signature is
//! verified, and the map between the forms (RFC 7748, section 4.1) leads from that to the known key and no other. XEdDSA
//! does the same and fixes the sign of the point, which this carries.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 32 | the signer's point, as a key of Ed25519 |
//! | 32 | 64 | signature of the context, a zero byte, and what is said |

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA512, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Sha512, VerifyingKey};
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, KeyPair, PublicKey};

/// Bytes of a signature with its signer's point.
pub const SIGNATURE_BYTES: usize = KEY_BYTES + ed25519_dalek::SIGNATURE_LENGTH;

/// That somebody said something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_BYTES]);

/// What makes the nonces' secret another one than that of sessions.
const NONCES: &[u8] = b"etherpool nonces of signatures\0";

impl KeyPair {
    /// Signs what is said in a context, which says for what it counts.
    pub fn sign(&self, context: &str, said: &[u8]) -> Signature {
        let key = self.expanded();
        let point = VerifyingKey::from(&key);
        let signed = raw_sign::<Sha512>(&key, &in_context(context, said), &point);
        let mut bytes = [0; SIGNATURE_BYTES];
        let (first, second) = bytes.split_at_mut(KEY_BYTES);
        first.copy_from_slice(point.as_bytes());
        second.copy_from_slice(&signed.to_bytes());
        Signature(bytes)
    }

    fn expanded(&self) -> ExpandedSecretKey {
        let secret = self.secret().bytes();
        let nonces = Zeroizing::new([NONCES, secret].concat());
        let nonces = digest(&SHA512, &nonces);
        let mut bytes = Zeroizing::new([0; 2 * KEY_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(secret);
        bytes[KEY_BYTES..].copy_from_slice(&nonces.as_ref()[..KEY_BYTES]);
        // The first half becomes a scalar by the same bits that X25519 clears and sets.
        ExpandedSecretKey::from_bytes(&bytes)
    }
}

impl Signature {
    /// Who said it, if it was said in this context.
    pub fn signer(&self, context: &str, said: &[u8]) -> Option<PublicKey> {
        let (point, signed) = self.0.split_first_chunk()?;
        let key = VerifyingKey::from_bytes(point).ok()?;
        let signed = ed25519_dalek::Signature::from_slice(signed).ok()?;
        key.verify_strict(&in_context(context, said), &signed).ok()?;
        Some(PublicKey(key.to_montgomery().to_bytes()))
    }
}

fn in_context(context: &str, said: &[u8]) -> Vec<u8> {
    [context.as_bytes(), b"\0", said].concat()
}

/// Text that is no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 128 letters and digits of base64")]
pub struct NoSignature;

/// For messages that are text: base64, as keys are.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl FromStr for Signature {
    type Err = NoSignature;

    fn from_str(text: &str) -> Result<Signature, NoSignature> {
        let bytes = STANDARD.decode(text).map_err(|_| NoSignature)?;
        bytes.try_into().map(Signature).map_err(|_| NoSignature)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::SecretKey;

    fn pair(number: u8) -> KeyPair {
        KeyPair::of(SecretKey::new([number; KEY_BYTES])).unwrap()
    }

    #[test]
    fn it_names_the_key_of_sessions_and_holds_for_what_was_said_alone() {
        for number in 0..=255 {
            let signature = pair(number).sign("vote", b"said");
            assert_eq!(signature.signer("vote", b"said"), Some(pair(number).public()));
            assert_eq!(signature, pair(number).sign("vote", b"said"));
        }
        let signature = pair(1).sign("vote", b"said");
        for (context, said) in [("vote", "sai"), ("vot", "esaid"), ("Vote", "said"), ("", "")] {
            assert_eq!(signature.signer(context, said.as_bytes()), None, "{context} {said}");
        }
        assert_ne!(pair(1).sign("vote", b"said").0[..32], pair(2).sign("vote", b"said").0[..32]);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let signature = pair(1).sign("vote", b"said");
        let text = signature.to_string();
        assert_eq!((text.len(), text.parse()), (128, Ok(signature)));
        for text in ["", "?", &text[4..], &format!("{text}AAAA")] {
            assert_eq!(text.parse::<Signature>(), Err(NoSignature), "{text}");
        }
    }

    /// Who knows a point by which everything verifies would be anybody.
    #[test]
    fn points_of_small_order_sign_nothing() {
        let points = [[0; 32], std::array::from_fn(|at| u8::from(at == 0))];
        for point in points {
            let mut bytes = [0; SIGNATURE_BYTES];
            bytes[..32].copy_from_slice(&point);
            bytes[32..64].copy_from_slice(&point);
            assert_eq!(Signature(bytes).signer("vote", b"said"), None, "{point:?}");
        }
    }

    #[test]
    fn golden_bytes() {
        let hex: String = pair(7)
            .sign("etherpool vote", b"said")
            .0
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "c8853df345ece33372843ff336ccb67a9d8d4de8af6f3645848a30bc6fe48f2bbfec7957d5f158cfb7d95499ee205a4c7cffd393f58fb1345ad1b4cdae3142e110ff1c90846a5b2a55d60ffd310a2240801051bad169d1bfb9181af58a6e0906"
        );
        let text = include_str!("../../../docs/session.md");
        assert!(text.contains(&hex[..64]) && text.contains(&hex[64..]));
    }

    /// A signature of the wire format of RFC 8032 that others verify.
    #[test]
    fn others_verify_it() {
        let signature = pair(7).sign("etherpool vote", b"said");
        let (point, signed) = signature.0.split_at(KEY_BYTES);
        let key =
            aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, point);
        assert!(key.verify(b"etherpool vote\0said", signed).is_ok());
        assert!(key.verify(b"etherpool vote\0sayd", signed).is_err());
    }

    proptest! {
        #[test]
        fn a_bit_that_differs_ends_it(bit in 0usize..8 * SIGNATURE_BYTES) {
            let mut signature = pair(3).sign("vote", b"said");
            signature.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(signature.signer("vote", b"said"), Some(pair(3).public()));
        }
    }
}
