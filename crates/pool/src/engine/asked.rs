//! What is asked of an engine: requests as they are written, too.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use seal::{KeyError, PoolKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::WipeDisks;
use crate::format::FailureDomain;
use crate::metadata::DomainLabel;
use crate::spare::Spare;

/// A pool to be made of disks, which the engine knows by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "CreatePool",
    bound = "Disk: JsonSchema + Serialize, Witnesses: JsonSchema + Serialize + Default + PartialEq"
)]
pub struct CreatePool<Disk = String, Witnesses = Vec<Disk>> {
    /// Its name.
    pub name: String,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Further disks, that only vote.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        bound(serialize = "Witnesses: Serialize + Default + PartialEq")
    )]
    pub witnesses: Witnesses,
    /// What copies must not share.
    #[serde(default)]
    pub failure_domain: FailureDomain,
    /// Those of the disks that may be overwritten whatever they carry.
    #[serde(default = "Vec::<Disk>::new")]
    pub force_disks: Vec<Disk>,
    /// Bytes per extent; chosen by size when not given.
    #[serde(default)]
    pub extent_bytes: Option<u64>,
    /// Against which loss it keeps space free.
    #[serde(default)]
    pub spare: Option<Spare>,
    /// What its disks share: it joins failure domains. A machine's name stands for its disks among these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainLabel>,
}

impl<Disk, Witnesses> CreatePool<Disk, Witnesses> {
    /// The same with other witnesses.
    pub fn with_witnesses<Others>(self, witnesses: Others) -> CreatePool<Disk, Others> {
        CreatePool {
            name: self.name,
            disks: self.disks,
            witnesses,
            failure_domain: self.failure_domain,
            force_disks: self.force_disks,
            extent_bytes: self.extent_bytes,
            spare: self.spare,
            domains: self.domains,
        }
    }
}

impl<Disk: Clone> CreatePool<Disk> {
    /// Of disks that data may be on, none of which carries anything, where machines fail as a whole.
    pub fn of(name: &str, disks: &[Disk]) -> CreatePool<Disk> {
        CreatePool {
            name: name.to_owned(),
            disks: disks.to_vec(),
            witnesses: Vec::new(),
            failure_domain: FailureDomain::Node,
            force_disks: Vec::new(),
            extent_bytes: None,
            spare: None,
            domains: Vec::new(),
        }
    }
}

impl<Disk: ToString> CreatePool<Disk> {
    /// The same with the disks' names.
    pub fn by_name(self) -> CreatePool {
        CreatePool {
            name: self.name,
            disks: names(&self.disks),
            witnesses: names(&self.witnesses),
            failure_domain: self.failure_domain,
            force_disks: names(&self.force_disks),
            extent_bytes: self.extent_bytes,
            spare: self.spare,
            domains: self.domains,
        }
    }
}

/// Disks to be added to a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "ExtendPool",
    bound = "Disk: JsonSchema + Serialize, Witnesses: JsonSchema + Serialize + Default + PartialEq"
)]
pub struct ExtendPool<Disk = String, Witnesses = Vec<Disk>> {
    /// Those that data may be on.
    #[serde(default = "Vec::<Disk>::new")]
    pub disks: Vec<Disk>,
    /// Those that only vote.
    #[serde(
        default,
        skip_serializing_if = "is_default",
        bound(serialize = "Witnesses: Serialize + Default + PartialEq")
    )]
    pub witnesses: Witnesses,
    /// Those of either that may be overwritten whatever they carry.
    #[serde(default = "Vec::<Disk>::new")]
    pub force_disks: Vec<Disk>,
    /// What they share. A machine's name stands for its disks among these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainLabel>,
}

impl<Disk, Witnesses> ExtendPool<Disk, Witnesses> {
    /// The same with other witnesses.
    pub fn with_witnesses<Others>(self, witnesses: Others) -> ExtendPool<Disk, Others> {
        ExtendPool {
            disks: self.disks,
            witnesses,
            force_disks: self.force_disks,
            domains: self.domains,
        }
    }
}

impl<Disk: Clone> ExtendPool<Disk> {
    /// By disks that data may be on, none of which carries anything.
    pub fn of(disks: &[Disk]) -> ExtendPool<Disk> {
        ExtendPool {
            disks: disks.to_vec(),
            witnesses: Vec::new(),
            force_disks: Vec::new(),
            domains: Vec::new(),
        }
    }
}

impl<Disk: ToString> WipeDisks<Disk> {
    /// The same with the disks' names.
    pub fn by_name(self) -> WipeDisks {
        WipeDisks { disks: names(&self.disks), signatures: self.signatures }
    }
}

impl<Disk: ToString> ExtendPool<Disk> {
    /// The same with the disks' names.
    pub fn by_name(self) -> ExtendPool {
        let ExtendPool { disks, witnesses, force_disks, domains } = self;
        let (disks, witnesses) = (names(&disks), names(&witnesses));
        ExtendPool { disks, witnesses, force_disks: names(&force_disks), domains }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn names<Disk: ToString>(disks: &[Disk]) -> Vec<String> {
    disks.iter().map(ToString::to_string).collect()
}

/// How to import a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImportOptions {
    /// How long to wait for disks that aren't present, once the pool could be opened without them;
    /// the engine decides without it. Whole seconds where it is written.
    #[serde(rename = "grace_secs", with = "seconds")]
    #[schemars(with = "Option<u64>")]
    pub grace: Option<Duration>,
    /// Take it also from an owner that was heard a moment ago.
    pub force: bool,
    /// Open it with metadata that is older than what votes or disks know of: what was changed since is
    /// given up.
    pub outdated_metadata: bool,
    /// Change nothing on its disks: volumes refuse writes, and what else is changed is this import's alone. Needs no
    /// majority of votes, a silent owner and a copy of the metadata.
    pub read_only: bool,
    /// Whose votes count.
    pub votes: VotesOf,
}

/// Whose votes count when a pool is imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^(known|any|[A-Za-z0-9+/]{43}=)$"))]
pub enum VotesOf {
    /// Of those that the pool's key let in as it was known here; else as all votes present say.
    #[default]
    Known,
    /// Of those that this key of the pool let in, or one that followed it.
    Key(PoolKey),
    /// Anybody's.
    Any,
}

impl fmt::Display for VotesOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VotesOf::Known => f.write_str("known"),
            VotesOf::Any => f.write_str("any"),
            VotesOf::Key(key) => key.fmt(f),
        }
    }
}

impl FromStr for VotesOf {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<VotesOf, KeyError> {
        match text {
            "known" => Ok(VotesOf::Known),
            "any" => Ok(VotesOf::Any),
            key => key.parse().map(VotesOf::Key),
        }
    }
}

block::serde_as_text!(VotesOf);

/// Disks that are to take no part, or to take part again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NamedDisks {
    /// Each a disk, by the name under which it is or was present or by its identity, or a machine: all of its
    /// disks.
    pub disks: Vec<String>,
    /// Only say what it would do.
    pub dry_run: bool,
}

/// Labels that disks of a pool are to have, or to lose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LabelDisks {
    /// Each with its disks, one after the other.
    pub labels: Vec<DomainLabel>,
    /// Only say what it would mean.
    pub dry_run: bool,
}

/// Disks that are to be emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmptyDisks {
    /// Each a disk, by the name under which it is or was present or by its identity, or a machine: all of its
    /// disks.
    pub disks: Vec<String>,
    /// A disk of the pool that takes the place of the one that is named.
    pub to: Option<String>,
    /// They belong to the pool no more then.
    pub remove: bool,
    /// Only say what it would do.
    pub dry_run: bool,
}

mod seconds {
    use super::*;

    pub fn serialize<S: Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        span.map(|span| span.as_secs()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::deserialize(from)?.map(Duration::from_secs))
    }
}
