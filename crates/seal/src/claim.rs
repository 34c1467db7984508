//! `claim`: who may have a node's disks that obey nobody yet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::key::PublicKey;

/// How one of several keys is written.
const KEY: &str = "key:";

/// Who may claim, read and write disks that no pool has put under its key, beside programs of the node's own machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
pub enum Claim {
    /// Those whom the node's configuration names as supervisors, and those who joined by a token.
    #[default]
    Token,
    /// Everybody with whom it speaks.
    Anyone,
    /// Who has one of these keys.
    Keys(Vec<PublicKey>),
}

/// What is no such setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "claim is \"token\", \"anyone\", or \"key:\" and the key of a supervisor (etherpool key show), or a list of such keys; this is none: {0}"
)]
pub struct NotAClaim(String);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<Written> for Claim {
    type Error = NotAClaim;

    fn try_from(written: Written) -> Result<Claim, NotAClaim> {
        match written {
            Written::One(word) if word == "token" => Ok(Claim::Token),
            Written::One(word) if word == "anyone" => Ok(Claim::Anyone),
            Written::One(key) => Ok(Claim::Keys(vec![key_of(&key)?])),
            Written::Several(keys) => {
                Ok(Claim::Keys(keys.iter().map(|key| key_of(key)).collect::<Result<_, _>>()?))
            }
        }
    }
}

impl From<Claim> for Written {
    fn from(claim: Claim) -> Written {
        match claim {
            Claim::Token => Written::One("token".to_owned()),
            Claim::Anyone => Written::One("anyone".to_owned()),
            Claim::Keys(keys) => {
                Written::Several(keys.iter().map(|key| format!("{KEY}{key}")).collect())
            }
        }
    }
}

fn key_of(text: &str) -> Result<PublicKey, NotAClaim> {
    let key = text.strip_prefix(KEY).and_then(|key| key.parse().ok());
    key.ok_or_else(|| NotAClaim(text.to_owned()))
}
