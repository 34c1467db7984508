//! The key of a node that keeps nothing: made at each boot, until it is handed the one by which it was accepted, as the boot
//! server keeps it. **What is kept is sealed to the machine's TPM, if it has one**: then the secret half never leaves it.

use std::fmt::Display;

use anyhow::{Context, anyhow, bail};
use boot::node::{Answer, Identity, Kept};
use boot::tpm::{self, Sealed};
use seal::{KeyPair, SecretKey};

use super::tpm::{Tpm, Unusable};

/// An answer, with the key that it hands to this node.
pub struct Heard {
    /// What the boot server says.
    pub answer: Answer,
    /// The key, or why it isn't to be had; none where none was handed to it.
    pub key: Option<Result<KeyPair, String>>,
}

impl Heard {
    /// With its key unsealed, unless that is known already.
    pub async fn of(answer: Answer, tpm: &Tpm, known: Option<KeyPair>) -> Heard {
        let key = match &answer.identity {
            Some(handed) => Some(open(handed, tpm, known).await),
            None => None,
        };
        Heard { key: key.map(|key| key.map_err(|error| format!("{error:#}"))), answer }
    }
}

/// A key as this node shows it to the boot server, which keeps it when the node is accepted.
pub async fn shown(key: &KeyPair, tpm: &Tpm) -> Identity {
    let secret = key.secret().to_text();
    let sealed = tpm.ask(move |device| {
        tpm::seal(&mut |command: &[u8]| device.ask(command), secret.as_bytes())?.to_kept()
    });
    let kept = match sealed.await {
        Ok(kept) => {
            tracing::info!("the key of this node is sealed to its TPM");
            kept
        }
        Err(error) => {
            if !matches!(error, Unusable::None) {
                tracing::warn!("the key of this node isn't sealed to its TPM: {error}");
            }
            Kept::Plain { secret: key.secret().to_text().to_string() }
        }
    };
    Identity { public: key.public().to_string(), kept }
}

/// Makes the key of what the boot server keeps of it.
async fn open(handed: &Identity, tpm: &Tpm, known: Option<KeyPair>) -> anyhow::Result<KeyPair> {
    let is_it = |key: &KeyPair| key.public().to_string() == handed.public;
    if let Some(key) = known.filter(is_it) {
        return Ok(key);
    }
    let key = match &handed.kept {
        Kept::Plain { secret } => key_of(secret)?,
        Kept::Tpm { public, private } => {
            let sealed = Sealed::parse(public, private).map_err(sealed_still)?;
            let unsealed = tpm
                .ask(move |device| tpm::unseal(&mut |command: &[u8]| device.ask(command), &sealed));
            let secret = unsealed.await.map_err(sealed_still)?;
            key_of(std::str::from_utf8(&secret).context("what the TPM unsealed is no key")?)?
        }
    };
    if !is_it(&key) {
        bail!("the key that was handed to this node is another than it is said to be");
    }
    Ok(key)
}

/// It doesn't go on with a key that isn't sealed: whoever accepts that knows what he does.
fn sealed_still(error: impl Display) -> anyhow::Error {
    anyhow!(
        "{error}; until its key can be unsealed this isn't the node that was accepted (to accept it anew: etherpool node accept)"
    )
}

/// A key of a text.
fn key_of(secret: &str) -> anyhow::Result<KeyPair> {
    let secret = SecretKey::parse(secret).context("the key that was handed to this node")?;
    KeyPair::of(secret).context("the key that was handed to this node")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Heard {
    /// Of an answer that hands a key as it is, if any.
    pub fn plain(answer: &Answer) -> Heard {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Heard::of(answer.clone(), &Tpm::none(), None))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(number: u8) -> KeyPair {
        KeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    #[tokio::test]
    async fn without_a_tpm_a_key_is_shown_as_it_is_and_a_sealed_one_stays_sealed() {
        let none = Tpm::none();
        let own = shown(&key(5), &none).await;
        assert_eq!(open(&own, &none, None).await.unwrap().public(), key(5).public());
        let kept = Kept::Tpm { public: own.public.clone(), private: own.public.clone() };
        let nonsense = Identity { kept, ..own.clone() };
        let error = open(&nonsense, &none, None).await.unwrap_err().to_string();
        assert!(error.contains("isn't what a TPM gives out"), "{error}");
        // One that it has already it needn't have unsealed.
        let known = open(&nonsense, &none, Some(key(5))).await.unwrap();
        assert_eq!(known.public(), key(5).public());
        let other = open(&nonsense, &none, Some(key(6))).await.unwrap_err().to_string();
        assert!(other.contains("etherpool node accept"), "{other}");
        assert!(other.len() < boot::node::TEXT_CHARS_MAX, "it is cut: {other}");
        let lying = Identity { public: key(6).public().to_string(), ..own };
        let error = open(&lying, &none, None).await.unwrap_err().to_string();
        assert!(error.contains("another than it is said to be"), "{error}");
    }
}
