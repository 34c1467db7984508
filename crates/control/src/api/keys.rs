//! Keys of pools: whom their disks obey.

use schemars::JsonSchema;
use seal::{PoolKey, PublicKey, Token, TokenId};
use serde::{Deserialize, Serialize};

/// Whom a pool's disks obey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolKeyReport {
    /// The pool's key.
    pub key: PoolKey,
    /// How often that, or who may have its disks, was changed.
    pub version: u64,
    /// The keys of the supervisors that may have its disks.
    pub supervisors: Vec<PublicKey>,
    /// The key of this machine, which may be one of them.
    pub this_machine: PublicKey,
    /// Where this machine keeps the secret half; none where it has none, and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Disks that haven't heard of the last change: they obey whom they obeyed before until they are back.
    #[serde(default)]
    pub unheard: Vec<String>,
}

/// A supervisor by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSupervisor {
    /// What `etherpool key show` tells there.
    pub supervisor: PublicKey,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// A supervisor that is to be shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeSupervisor {
    /// By its key.
    pub supervisor: PublicKey,
    /// Also without the secret half of the pool's present key: disks that are away don't hear of the next one then
    /// before they are back.
    #[serde(default)]
    pub lost_key: bool,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// Another key for a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotateKey {
    /// As for [`RevokeSupervisor`].
    pub lost_key: bool,
}

/// Who joined a node or a supervisor, beside those whom its configuration names, and by what others may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MembersReport {
    /// Their keys.
    pub members: Vec<PublicKey>,
    /// Tokens that are good at present.
    pub tokens: Vec<TokenReport>,
}

/// A token, but for its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenReport {
    /// By which it is named.
    pub id: TokenId,
    /// From when on it is good no more, in seconds since 1970.
    pub until: u64,
}

/// A token that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// For how long it is good.
    pub valid_seconds: u64,
}

/// A token that was made, with its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    /// As it is handed on.
    pub token: Token,
    /// What is known of it afterwards.
    #[serde(flatten)]
    pub report: TokenReport,
}

/// A machine that joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedMember {
    /// What `etherpool key show` tells there.
    pub key: PublicKey,
}

/// A node was added to those that joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddedMember {
    /// The supervisor's own key, which the node has to know.
    pub supervisor: PublicKey,
}

/// The secret half of a pool's key, on its way to or from a file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolKeySecret {
    /// As text.
    pub secret: String,
}

impl std::fmt::Debug for PoolKeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolKeySecret(..)")
    }
}
