//! Whose votes count (docs/engine.md, 7.10). Everybody can read a pool's identity, so a configuration counts only if it
//! was signed by a supervisor that the pool's key had let in, as far as that key is known here. One that isn't shows
//! that its disk is there, and nothing else: neither who owns the pool, nor who votes, nor that it is to be no more.

use std::rc::Rc;

use seal::{Grant, PoolKey};

use super::Engine;
use super::asked::VotesOf;
use super::observe::{Content, Vote};
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::slot::{Device, Slot};
use crate::error::PoolError;
use crate::format::{PoolId, Signed, Signer};

/// Keys that are named in a sentence, at most.
const NAMED_MAX: usize = 4;

/// What is known of a pool's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trusted {
    /// Nothing, or that it has none: every vote counts.
    #[default]
    All,
    /// Somebody said that it is this one.
    Key(PoolKey),
    /// It was open here under this grant.
    Grant(Rc<Grant>),
}

impl Trusted {
    fn has(&self, signed: Option<&Signed>) -> bool {
        let Some(Signed { grant, by }) = signed else { return *self == Trusted::All };
        match self {
            Trusted::All => true,
            Trusted::Key(key) => grant.leads_from(*key),
            // Who was shut out may have a former key of the pool, and a former grant: with these he makes nothing that
            // counts. What those who weren't said before they heard of it stays true.
            Trusted::Grant(known) if grant.version() < known.version() => {
                known.names(by) && (known.is_of_pool_of(grant) || grant.is_of_pool_of(known))
            }
            Trusted::Grant(known) => grant.is_of_pool_of(known),
        }
    }

    fn judged(&self, vote: Vote) -> Vote {
        Vote { counts: self.has(vote.signed.as_ref()), ..vote }
    }

    /// What is on a disk, as far as it is believed.
    pub(super) fn judge(&self, content: Content) -> Content {
        match content {
            Content::Labelled { label, vote } => {
                Content::Labelled { label, vote: vote.map(|vote| self.judged(vote)) }
            }
            Content::Destroyed { label, vote } => match self.judged(vote) {
                vote if vote.counts => Content::Destroyed { label, vote },
                vote => Content::Labelled { label, vote: Some(vote) },
            },
            other => other,
        }
    }
}

impl Engine {
    /// Whose votes of a pool count now.
    pub(super) fn trusted(&self, pool: PoolId) -> Trusted {
        let slot = self.slots.borrow().get(&pool).cloned();
        let imports = slot.filter(|slot| slot.import.get().is_some());
        let known = || self.grants.borrow().get(&pool).cloned().map(Trusted::Grant);
        let asked = imports.map(|slot| slot.import_trusts.borrow().clone());
        asked.or_else(known).unwrap_or_default()
    }

    /// What is on a device, as far as it is believed.
    pub(super) fn content_of(&self, device: &Device) -> Content {
        let content = device.content.borrow().clone();
        let pool = content.label().map(|label| label.pool);
        pool.map(|pool| self.trusted(pool)).unwrap_or_default().judge(content)
    }

    /// Whose votes count for an import: what somebody says, what is known here, or else the key under which all votes
    /// present are that were signed at all.
    pub(super) fn trusted_for(&self, slot: &Slot, votes: VotesOf) -> Result<Trusted, PoolError> {
        let known = self.grants.borrow().get(&slot.id).cloned();
        match (votes, known) {
            (VotesOf::Any, _) => Ok(Trusted::All),
            (VotesOf::Key(key), _) => Ok(Trusted::Key(key)),
            (VotesOf::Known, Some(known)) => Ok(Trusted::Grant(known)),
            (VotesOf::Known, None) => {
                let seen = self.seen_disks_by(slot.id, &Trusted::All);
                first_trust(&slot.name.borrow(), &seen)
            }
        }
    }

    /// Takes note of the key under which a pool is open.
    pub(super) fn remember_grant(&self, open: &OpenPool) {
        let mut grants = self.grants.borrow_mut();
        match open.pool.signer() {
            Some(signer) => grants.insert(open.pool.id, Rc::clone(signer.grant())),
            None => grants.remove(&open.pool.id),
        };
    }

    /// The grants by which pools were open here last, which the supervisor's records should name.
    pub fn known_grants(&self) -> Vec<(uuid::Uuid, Grant)> {
        let grants = self.grants.borrow();
        grants.iter().map(|(pool, grant)| (pool.0, (**grant).clone())).collect()
    }

    /// As whom a closed pool's votes are signed here.
    pub(super) fn signer_of(&self, slot: &Slot) -> Option<Signer> {
        let grant = match self.trusted(slot.id) {
            Trusted::Grant(known) => Some(known),
            _ => slot.grant.borrow().clone(),
        };
        Signer::new(self.config.keys.as_ref(), grant.as_ref())
    }
}

/// Why there are fewer votes than disks that show one.
pub(super) fn explain(pool: &str, unproved: usize) -> String {
    let remedy = format!(
        "if the pool has another key by now (`etherpool pool key list` where it was open): etherpool pool import {pool} \
         --pool-key KEY"
    );
    format!(
        "{unproved} disks show a vote that no supervisor has signed whom the pool's key, as it is known here, let in; {remedy}"
    )
}

/// Whose votes count of a pool of which nothing is known here. Its newest configuration says under which key it is,
/// unless others present contradict: one of them is a forgery then, or the pool's former key was lost.
fn first_trust(pool: &str, seen: &[SeenDisk]) -> Result<Trusted, PoolError> {
    let votes = || seen.iter().filter_map(|disk| Some((disk, disk.vote.as_ref()?)));
    let Some((_, newest)) = votes().max_by_key(|(_, vote)| vote.newest.rank()) else {
        return Ok(Trusted::All);
    };
    let contradicts = |vote: &Vote| match (&newest.signed, &vote.signed) {
        (None, None) | (Some(_), None) => false,
        (None, Some(_)) => true,
        (Some(newest), Some(other)) => {
            !newest.grant.is_of_pool_of(&other.grant) && !other.grant.is_of_pool_of(&newest.grant)
        }
    };
    if !votes().any(|(_, vote)| contradicts(vote)) {
        let signed = newest.signed.as_ref();
        return Ok(signed.map_or(Trusted::All, |signed| Trusted::Grant(Rc::clone(&signed.grant))));
    }
    let named = votes().take(NAMED_MAX).map(|(disk, vote)| match &vote.signed {
        Some(signed) => format!("{} under {}", disk.place, signed.grant.key()),
        None => format!("{} under none", disk.place),
    });
    let named: Vec<String> = named.collect();
    Err(PoolError::refused(
        format!("pool {pool}"),
        format!("its votes are under different keys, so some may be forged: {}", named.join(", ")),
        "name the right one (`etherpool pool key list` where it was open): etherpool pool import --pool-key KEY",
    ))
}
