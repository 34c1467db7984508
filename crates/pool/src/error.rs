//! Why an operation on a pool was not done, cut by what a caller can do about it.

use block::size::Human;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A refused or failed operation on a pool. The text is for people: what failed, on what, and what
/// to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PoolError {
    /// No such pool, volume or disk is known here.
    #[error("{what} `{name}` is not known here; {remedy}")]
    NotFound {
        /// `pool`, `volume` or `disk`.
        what: String,
        /// The name that was asked for.
        name: String,
        /// What to do.
        remedy: String,
    },
    /// The name is taken.
    #[error("{what} `{name}` exists already; choose another name")]
    Exists {
        /// `pool` or `volume`.
        what: String,
        /// The name that is taken.
        name: String,
    },
    /// The request itself can't be granted, whatever the disks say.
    #[error("{why}; {remedy}")]
    Invalid {
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A disk can't be used for this.
    #[error("disk {disk} refused: {why}; {remedy}")]
    Refused {
        /// The disk, by the name under which it is present.
        disk: String,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// Not enough space of the kind that the layout needs.
    #[error("not enough space: {}; {remedy}", wanted(*.needed_bytes, *.free_bytes))]
    NoSpace {
        /// What was asked for.
        needed_bytes: u64,
        /// What there is for this layout.
        free_bytes: u64,
        /// What to do.
        remedy: String,
    },
    /// The pool's majority of votes, or the metadata that the votes name, is out of reach.
    #[error("pool {pool}: {why}{}", bring_back(.missing))]
    NoQuorum {
        /// The pool.
        pool: String,
        /// What is missing and why it matters.
        why: String,
        /// Disks to bring back.
        missing: Vec<String>,
    },
    /// Another supervisor owns the pool, or took it over.
    #[error("pool {pool} belongs to {owner}; {remedy}")]
    NotOwner {
        /// The pool.
        pool: String,
        /// The owner's name or identity.
        owner: String,
        /// What to do.
        remedy: String,
    },
    /// The pool is open for reading only.
    #[error(
        "pool {pool} was imported read-only; to change it, release it and import it as usual (`etherpool pool \
         release {pool}`, `etherpool pool import {pool}`)"
    )]
    ReadOnly {
        /// The pool.
        pool: String,
    },
    /// The pool's owner lives: it was heard within its lease and didn't give the pool up.
    #[error("pool {pool} is in use by {owner}, which was heard {heard} ago; {remedy}")]
    InUse {
        /// The pool.
        pool: String,
        /// The owner's name.
        owner: String,
        /// How long ago.
        heard: String,
        /// What to do.
        remedy: String,
    },
    /// Another pool of the same name is open here.
    #[error(
        "pool {name} ({id}) stays closed: another pool of this name is open here ({other}); {remedy}"
    )]
    Namesake {
        /// The name of both.
        name: String,
        /// The pool that stays closed.
        id: String,
        /// The open one.
        other: String,
        /// What to do.
        remedy: String,
    },
    /// The pool or volume waits for something; nothing was changed.
    #[error("{name} is suspended: {reason}")]
    Suspended {
        /// The pool or volume.
        name: String,
        /// What it waits for.
        reason: String,
    },
    /// A disk failed under the operation.
    #[error("{what} failed on disk {disk}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// The disk.
        disk: String,
        /// The device's answer.
        error: String,
    },
}

fn bring_back(missing: &[String]) -> String {
    match missing.is_empty() {
        true => String::new(),
        false => format!("; bring back {}", missing.join(", ")),
    }
}

/// A share of what is free is asked for without a size.
fn wanted(needed_bytes: u64, free_bytes: u64) -> String {
    match needed_bytes {
        0 => format!("{} can be had", Human(free_bytes)),
        _ => format!("{} wanted, {} can be had", Human(needed_bytes), Human(free_bytes)),
    }
}

impl PoolError {
    /// That no pool has this name.
    pub fn no_pool(name: &str) -> PoolError {
        PoolError::NotFound {
            what: "pool".into(),
            name: name.into(),
            remedy: "see `etherpool pool list`".into(),
        }
    }

    pub(crate) fn no_volume(pool: &str, volume: &str) -> PoolError {
        PoolError::NotFound {
            what: "volume".into(),
            name: format!("{pool}/{volume}"),
            remedy: "see `etherpool volume list`".into(),
        }
    }

    pub(crate) fn invalid(why: impl Into<String>, remedy: impl Into<String>) -> PoolError {
        PoolError::Invalid { why: why.into(), remedy: remedy.into() }
    }

    pub(crate) fn refused(
        disk: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> PoolError {
        PoolError::Refused { disk: disk.into(), why: why.into(), remedy: remedy.into() }
    }

    pub(crate) fn io(what: &str, disk: &str, error: block::IoError) -> PoolError {
        PoolError::Io { what: what.into(), disk: disk.into(), error: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do() {
        let error = PoolError::refused("e1.0", "it carries ext4", "name it with --force-disk e1.0");
        assert_eq!(
            error.to_string(),
            "disk e1.0 refused: it carries ext4; name it with --force-disk e1.0"
        );
        let error = PoolError::NoQuorum {
            pool: "cluster".into(),
            why: "1 of 3 votes present".into(),
            missing: vec!["e2.0".into(), "e3.0".into()],
        };
        assert!(error.to_string().ends_with("bring back e2.0, e3.0"));
    }
}
