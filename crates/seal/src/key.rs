//! Keys of machines, and how they are written: as WireGuard writes its own, since these are of the same
//! kind (Curve25519), 44 letters of base64.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes of a key of either half.
pub const KEY_BYTES: usize = 32;

/// The half of a key by which its owner is known to others. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9+/]{43}=$"))]
pub struct PublicKey(pub [u8; KEY_BYTES]);

/// The half that nobody else must have. It is never shown by accident, and its memory is wiped.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; KEY_BYTES]>);

/// Both halves.
#[derive(Clone, Debug)]
pub struct KeyPair {
    secret: SecretKey,
    public: PublicKey,
}

/// Text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 44 letters and digits of base64, the last one of them '='")]
pub struct KeyError;

impl SecretKey {
    /// A key of these bytes, which have to be random and known to nobody.
    pub fn new(bytes: [u8; KEY_BYTES]) -> SecretKey {
        SecretKey(Zeroizing::new(bytes))
    }

    /// Its text, for the file that keeps it and for nothing else.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    /// Reads what [`SecretKey::to_text`] wrote; space around it is nothing.
    pub fn parse(text: &str) -> Result<SecretKey, KeyError> {
        parse(text).map(SecretKey::new)
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl KeyPair {
    /// The pair of a secret half.
    pub fn of(secret: SecretKey) -> Result<KeyPair, KeyError> {
        let private =
            PrivateKey::from_private_key(&X25519, secret.bytes()).map_err(|_| KeyError)?;
        let public = private.compute_public_key().map_err(|_| KeyError)?;
        let bytes = public.as_ref().try_into().map_err(|_| KeyError)?;
        Ok(KeyPair { secret, public: PublicKey(bytes) })
    }

    /// The half that others know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The half that they don't.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }
}

fn parse(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| KeyError)?);
    bytes.as_slice().try_into().map_err(|_| KeyError)
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        parse(text).map(PublicKey)
    }
}

block::serde_as_text!(PublicKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hex(text: &str) -> [u8; KEY_BYTES] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn a_pair_is_that_of_curve25519() {
        let secret = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let pair = KeyPair::of(SecretKey::new(secret)).unwrap();
        let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(pair.public(), PublicKey(public));
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is() {
        let pair = KeyPair::of(SecretKey::new([7; KEY_BYTES])).unwrap();
        let public = pair.public().to_string();
        assert_eq!(public.len(), 44);
        assert_eq!(public.parse(), Ok(pair.public()));
        assert_eq!(format!(" {public}\n").parse(), Ok(pair.public()));
        let again = SecretKey::parse(&pair.secret().to_text()).unwrap();
        assert_eq!(again.bytes(), pair.secret().bytes());
        for wrong in ["", "abc", &public[1..], &format!("{public}{public}"), "ä", &public[..43]] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(KeyError), "{wrong}");
        }
    }

    #[test]
    fn a_secret_isnt_shown() {
        let pair = KeyPair::of(SecretKey::new([7; KEY_BYTES])).unwrap();
        assert!(!format!("{pair:?}").contains(pair.secret().to_text().as_str()));
    }
}
