//! Tokens, by which machines come to know each other's keys: who has one proves it to the other end of a session that is
//! being opened, bound to the keys of both and to that opening. So neither end shows it, nobody between them can pass a
//! proof on, and what lasts are the keys.

use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::key::PublicKey;

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 16;
/// Proofs in an opening, and tokens that a machine has at a time, at most.
pub const TOKENS_MAX: usize = 4;

/// How a token's text begins: its kind and form.
const PREFIX: &str = "epj1-";
const SECRET_BYTES: usize = 16;
const SECRET: usize = 4;
const CHECK: usize = SECRET + SECRET_BYTES;
const TOKEN_BYTES: usize = CHECK + 4;
const MINUTE_SECONDS: u64 = 60;
/// What a proof is of, so that it is good for nothing else.
const CONTEXT: &[u8] = b"etherpool join\0";

/// A secret that machines have in common for a while.
#[derive(Clone, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^epj1-"))]
pub struct Token(Zeroizing<[u8; TOKEN_BYTES]>);

/// By which people name a token: no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[0-9a-f]{8}$"))]
pub struct TokenId(u32);

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is what `etherpool token create` printed, whole: epj1- and 32 more letters and digits"
)]
pub struct TokenError;

/// Which end of an opening proves that it has the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prover {
    /// Who opens the session.
    Client = 1,
    /// Who is asked.
    Target = 2,
}

/// An opening, as both of its ends know it.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'a> {
    /// The key of who opens.
    pub client: PublicKey,
    /// That of who is asked.
    pub target: PublicKey,
    /// What was said before, with the nonces of both.
    pub prologue: &'a [u8],
}

impl Token {
    /// Of a secret, which has to be random and known to nobody. It is good until the minute, since 1970, in which `until` (seconds)
    /// lies has begun.
    pub fn new(secret: [u8; SECRET_BYTES], until_seconds: u64) -> Token {
        let minutes = u32::try_from(until_seconds / MINUTE_SECONDS).unwrap_or(u32::MAX);
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        bytes[..SECRET].copy_from_slice(&minutes.to_be_bytes());
        bytes[SECRET..CHECK].copy_from_slice(&secret);
        let check = check_of(&bytes);
        bytes[CHECK..].copy_from_slice(&check);
        Token(bytes)
    }

    /// Reads what [`Token::to_text`] wrote; space around it is nothing.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        let read = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError)?);
        let bytes: [u8; TOKEN_BYTES] = read.as_slice().try_into().map_err(|_| TokenError)?;
        let bytes = Zeroizing::new(bytes);
        if check_of(&bytes) != bytes[CHECK..] {
            return Err(TokenError);
        }
        Ok(Token(bytes))
    }

    /// Its text, for who asked for it and for the file that keeps it.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*self.0)))
    }

    /// By which people name it.
    pub fn id(&self) -> TokenId {
        let hash = digest::digest(&digest::SHA256, &*self.0);
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        TokenId(u32::from_be_bytes(first))
    }

    /// From when on it is worth nothing, in seconds since 1970.
    pub fn until_seconds(&self) -> u64 {
        let minutes = self.0.first_chunk().copied().unwrap_or_default();
        u64::from(u32::from_be_bytes(minutes)) * MINUTE_SECONDS
    }

    /// What shows that one end has it.
    pub fn proof(&self, prover: Prover, occasion: &Occasion<'_>) -> [u8; PROOF_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0[..CHECK]);
        let mut said = hmac::Context::with_key(&key);
        said.update(CONTEXT);
        said.update(&[prover as u8]);
        said.update(&occasion.client.0);
        said.update(&occasion.target.0);
        said.update(occasion.prologue);
        said.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Whether one of these proofs is that end's of this token.
    pub fn is_proved(&self, prover: Prover, occasion: &Occasion<'_>, proofs: &[u8]) -> bool {
        let expected = self.proof(prover, occasion);
        let is_it = |proof: &[u8]| constant_time::verify_slices_are_equal(proof, &expected).is_ok();
        proofs.chunks(PROOF_BYTES).take(TOKENS_MAX).any(is_it)
    }
}

/// So that a letter that was mistyped is told before anybody waits for what never comes.
fn check_of(bytes: &[u8; TOKEN_BYTES]) -> [u8; 4] {
    block::crc32c(&bytes[..CHECK]).to_be_bytes()
}

/// As its text, on its way to a file or to who asked for it.
impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Token::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:08x}", self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl std::str::FromStr for TokenId {
    type Err = NotATokenId;

    fn from_str(text: &str) -> Result<TokenId, NotATokenId> {
        let number = u32::from_str_radix(text, 16).map_err(|_| NotATokenId)?;
        (text.len() == 8).then_some(TokenId(number)).ok_or(NotATokenId)
    }
}

/// Text that names no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is named by eight hexadecimal digits, as `etherpool token list` shows them")]
pub struct NotATokenId;

block::serde_as_text!(TokenId);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CLIENT: PublicKey = PublicKey([1; 32]);
    const TARGET: PublicKey = PublicKey([2; 32]);

    fn occasion(prologue: &[u8]) -> Occasion<'_> {
        Occasion { client: CLIENT, target: TARGET, prologue }
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_that_was_mistyped() {
        let token = Token::new([7; 16], 1_800_000_059);
        let text = token.to_text();
        assert_eq!(text.len(), PREFIX.len() + 32);
        assert_eq!(Token::parse(&format!(" {}\n", *text)), Ok(token.clone()));
        assert_eq!(token.until_seconds(), 1_800_000_000);
        assert_eq!(token.id().to_string().parse(), Ok(token.id()));
        for at in 0..text.len() {
            let mut wrong = text.to_string().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Token::parse(&String::from_utf8(wrong).unwrap()), Err(TokenError), "{at}");
        }
        for wrong in ["", PREFIX, &text[..20], &format!("{}A", *text), "ä"] {
            assert_eq!(Token::parse(wrong), Err(TokenError), "{wrong}");
        }
        assert!(
            ["", "1234567", "123456789", "1234567g"]
                .iter()
                .all(|id| id.parse::<TokenId>().is_err())
        );
    }

    #[test]
    fn a_proof_is_good_for_one_end_of_one_opening() {
        let token = Token::new([7; 16], 600);
        let here = occasion(b"here");
        let proof = token.proof(Prover::Client, &here);
        assert!(token.is_proved(Prover::Client, &here, &proof));
        let others = [
            Occasion { client: TARGET, ..here },
            Occasion { target: CLIENT, ..here },
            occasion(b"there"),
        ];
        assert!(others.iter().all(|other| !token.is_proved(Prover::Client, other, &proof)));
        assert!(!token.is_proved(Prover::Target, &here, &proof));
        // Another secret, or another time until which it is good.
        for other in [Token::new([8; 16], 600), Token::new([7; 16], 660)] {
            assert!(!other.is_proved(Prover::Client, &here, &proof));
        }
    }

    /// That of docs/session.md.
    #[test]
    fn another_implementation_has_the_same() {
        let token = Token::new([0xb8; 16], 0x01b7_5d00 * 60);
        assert_eq!(*token.to_text(), "epj1-AbddALi4uLi4uLi4uLi4uLi4uLjS1s7r");
        let hex = |proof: [u8; PROOF_BYTES]| proof.map(|byte| format!("{byte:02x}")).concat();
        let here = occasion(b"here");
        let proofs = [Prover::Client, Prover::Target].map(|prover| hex(token.proof(prover, &here)));
        assert_eq!(
            proofs,
            ["9efb95d0e7b0710994bef34302c20e87", "90fb70982bcaaa7603ad9e5949a51561"]
        );
        let text = include_str!("../../../docs/session.md");
        assert!(
            proofs.iter().all(|proof| text.contains(proof)) && text.contains(&*token.to_text())
        );
    }

    #[test]
    fn one_of_several_proofs_is_enough_and_pieces_are_none() {
        let token = Token::new([7; 16], 600);
        let here = occasion(b"here");
        let proof = token.proof(Prover::Client, &here);
        let wrong = [0; PROOF_BYTES];
        assert!(token.is_proved(Prover::Client, &here, &[wrong, wrong, proof].concat()));
        let too_many = [[0; PROOF_BYTES].repeat(TOKENS_MAX), proof.to_vec()].concat();
        assert!(!token.is_proved(Prover::Client, &here, &too_many));
        assert!(!token.is_proved(Prover::Client, &here, &proof[..15]));
        assert!(!token.is_proved(Prover::Client, &here, &[]));
    }

    #[test]
    fn a_token_isnt_shown() {
        let token = Token::new([7; 16], 600);
        assert!(!format!("{token:?}").contains(&token.to_text()[PREFIX.len()..]));
    }
}
