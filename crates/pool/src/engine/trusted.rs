//! Whose votes count (docs/engine.md, 7.10). Everybody can read a pool's identity, so a configuration counts only if it
//! was signed by a supervisor that the pool's key had let in, as far as that key is known: from our own records, and
//! from the grants in sight that it leads to. One that doesn't count says neither who owns the pool, nor who votes, nor
//! that it is to be no more; and if it is newer than all that do, its disk is none of a majority: it may be that the
//! pool has another key by now. So whoever trusts too little opens nothing, and never anything older.

use std::rc::Rc;

use seal::{Grant, KeyPair, PoolKey, PublicKey};

use super::Engine;
use super::asked::VotesOf;
use super::observe::{Content, Vote};
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::slot::{Device, Slot};
use crate::format::{Configuration, DiskId, PoolId, Signed, Signer, Signers, VoteSlots};

/// A pool that has had more keys since our records were written than a grant leads through isn't known here any more. And
/// whoever signs what he likes would have us compare each with each.
const KEYS_MAX: usize = 16;
/// Votes that are named in a sentence, at most.
const NAMED_MAX: usize = 4;

/// Whose votes count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// Our own, always: nobody else can make them.
    own: Option<PublicKey>,
    root: Root,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Root {
    /// The pool has no key, as far as that is known: everybody's.
    #[default]
    All,
    /// Theirs whom this grant names, or a later one to which its key leads.
    Grant(Rc<Grant>),
    /// Nobody's: some in sight lead nowhere together. The pool was open here under this grant.
    Forked(Option<Rc<Grant>>),
}

/// What was decided from what was in sight.
pub(super) struct Decided {
    /// So often something was looked at by then.
    looks: u64,
    votes: VotesOf,
    trusted: Trusted,
}

impl Root {
    /// From what is known, and the grants by which votes in sight are signed.
    fn of(known: Option<Rc<Grant>>, key: Option<PoolKey>, in_sight: &[Rc<Grant>]) -> Root {
        let leads = |grant: &&Rc<Grant>| match (key, &known) {
            (Some(key), _) => grant.leads_from(key),
            (None, Some(known)) => {
                grant.version() > known.version() && grant.leads_from(known.key())
            }
            (None, None) => true,
        };
        let ours = known.iter().filter(|_| key.is_none());
        let led: Vec<&Rc<Grant>> = ours.chain(in_sight.iter().filter(leads)).collect();
        if led.is_empty() {
            return if key.is_some() { Root::Forked(known) } else { Root::All };
        }
        if led.len() > KEYS_MAX {
            return Root::Forked(known);
        }
        // To its key those of all others lead. Who was shut out may have a former key, and sign with that what he likes.
        let is_last = |grant: &&&Rc<Grant>| led.iter().all(|other| grant.leads_from(other.key()));
        let last = led.iter().filter(is_last).max_by_key(|grant| grant.version());
        last.map_or(Root::Forked(known.clone()), |last| Root::Grant(Rc::clone(last)))
    }
}

impl Trusted {
    fn has(&self, signed: Option<&Signed>) -> bool {
        let Some(signed) = signed else { return self.root == Root::All };
        match &self.root {
            _ if self.own == Some(signed.by) => true,
            Root::All => true,
            Root::Forked(_) => false,
            Root::Grant(last) => signed.counts_under(last),
        }
    }

    /// Whether the newest of what a vote's slots hold is believed, if they hold anything.
    pub(super) fn has_newest(&self, slots: &VoteSlots) -> bool {
        slots.newest.is_none() || self.has(slots.signed.as_ref())
    }

    /// Whether a vote says what counts.
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

    /// Whose metadata counts where this configuration does. Where everybody's votes count it says nothing.
    pub(super) fn signers_of(&self, config: &Configuration) -> Signers {
        match self.root {
            Root::All => Signers::default(),
            Root::Grant(_) | Root::Forked(_) => config.metadata_by.clone(),
        }
    }

    /// Whether what somebody says to be committed counts, where these sign metadata.
    pub(super) fn is_witness(&self, signers: &Signers, by: Option<PublicKey>) -> bool {
        let is_let_in = |grant: &Grant| by.is_some_and(|by| grant.names(&by));
        signers.admit(by) || matches!(&self.root, Root::Grant(last) if is_let_in(last))
    }

    /// The grant by which a pool is opened whose metadata has `kept`. Who holds a copy of the metadata could have put his
    /// own there.
    pub(super) fn grant_of(&self, kept: Option<Rc<Grant>>) -> Option<Rc<Grant>> {
        match &self.root {
            Root::All | Root::Forked(None) => kept,
            Root::Forked(known) => known.clone(),
            Root::Grant(last) => {
                let follows = |kept: &Rc<Grant>| {
                    kept.version() >= last.version() && kept.leads_from(last.key())
                };
                Some(kept.filter(follows).unwrap_or_else(|| Rc::clone(last)))
            }
        }
    }
}

impl Pool {
    /// The key that it shows to its disks.
    pub(super) fn key(&self) -> Option<PublicKey> {
        self.keys.as_ref().map(KeyPair::public)
    }

    /// As whom its configurations are signed.
    pub(super) fn signer(&self) -> Option<Signer> {
        Signer::new(self.keys.as_ref(), self.grant.borrow().as_ref())
    }

    /// Whether what a disk shows as its newest vote isn't the pool's. Until a majority is signed under the grant that counts
    /// now, what counted for the opening is.
    pub(super) fn is_forged(&self, slots: &VoteSlots) -> bool {
        let is_settled = self.signed_by().is_some() || !self.opened_by.has_newest(slots);
        is_settled && !self.trusted().has_newest(slots)
    }

    /// Whose votes count while it is open.
    pub(super) fn trusted(&self) -> Trusted {
        let signer = self.signer().filter(|_| !self.read_only);
        let root = signer.map_or(Root::All, |signer| Root::Grant(Rc::clone(signer.grant())));
        Trusted { own: self.key(), root }
    }

    /// The grant under which a majority of its votes is signed. Until it is under a new one that is no reason to believe
    /// nothing else.
    pub(super) fn signed_by(&self) -> Option<Rc<Grant>> {
        let signer = self.signer()?;
        let is_so = self.votes.signed_under() >= signer.grant().version();
        is_so.then(|| Rc::clone(signer.grant()))
    }
}

impl Engine {
    /// Whose votes of a pool count now.
    pub(super) fn trusted(&self, pool: PoolId) -> Trusted {
        let import = self.slots.borrow().get(&pool).and_then(|slot| slot.import.get());
        self.trusted_for(pool, import.map(|import| import.votes).unwrap_or_default())
    }

    /// Whose count if somebody says this of them.
    pub(super) fn trusted_for(&self, pool: PoolId, votes: VotesOf) -> Trusted {
        let looks = self.looks.get();
        let is_so = |decided: &&Decided| decided.looks == looks && decided.votes == votes;
        if let Some(decided) = self.trusts.borrow().get(&pool).filter(is_so) {
            return decided.trusted.clone();
        }
        let known = self.grants.borrow().get(&pool).cloned();
        let root = match votes {
            VotesOf::Any => Root::All,
            // It was open here, and has none.
            VotesOf::Known if known.is_none() && self.known.borrow().contains_key(&pool) => {
                Root::All
            }
            VotesOf::Known => Root::of(known, None, &self.grants_in_sight(pool)),
            VotesOf::Key(key) => Root::of(known, Some(key), &self.grants_in_sight(pool)),
        };
        let trusted = Trusted { own: self.config.keys.as_ref().map(KeyPair::public), root };
        let decided = Decided { looks, votes, trusted: trusted.clone() };
        self.trusts.borrow_mut().insert(pool, decided);
        trusted
    }

    /// By which votes in sight are signed, of each key the last.
    fn grants_in_sight(&self, pool: PoolId) -> Vec<Rc<Grant>> {
        let mut grants: Vec<Rc<Grant>> = Vec::new();
        for device in self.devices.borrow().values().filter(|device| device.is_of(pool)) {
            let content = device.content.borrow();
            let Some(signed) = content.vote().and_then(|vote| vote.signed.as_ref()) else {
                continue;
            };
            match grants.iter_mut().find(|grant| grant.key() == signed.grant.key()) {
                Some(grant) if grant.version() >= signed.grant.version() => {}
                Some(grant) => *grant = Rc::clone(&signed.grant),
                None => grants.push(Rc::clone(&signed.grant)),
            }
        }
        grants
    }

    /// What is on a device, as far as it is believed.
    pub(super) fn content_of(&self, device: &Device) -> Content {
        let content = device.content.borrow().clone();
        self.judged(content)
    }

    /// The same of what was read.
    pub(super) fn judged(&self, content: Content) -> Content {
        let pool = content.label().map(|label| label.pool);
        pool.map(|pool| self.trusted(pool)).unwrap_or_default().judge(content)
    }

    /// The disk of a pool that a device passes for.
    pub(super) fn identity_of(&self, device: &Device) -> Option<(PoolId, DiskId)> {
        let content = device.content.borrow();
        let label = content.label()?;
        let is_proof = |vote: &Vote| self.trusted(label.pool).has(vote.signed.as_ref());
        let is_remnant = matches!(&*content, Content::Destroyed { vote, .. } if is_proof(vote));
        (!is_remnant).then_some((label.pool, label.disk))
    }

    /// Something was looked at, or is known: whose votes count may be others.
    pub(super) fn note_look(&self) {
        self.looks.set(self.looks.get() + 1);
    }

    /// Takes note of the key under which a pool is open. One that it shows to nobody any more, as its nodes have given
    /// up whom they obeyed, is none.
    pub(super) fn remember_grant(&self, open: &OpenPool) {
        let (id, pool) = (open.pool.id, &open.pool);
        let former = self.grants.borrow().get(&id).cloned();
        let now = if pool.signer().is_some() { pool.signed_by().or(former.clone()) } else { None };
        if now != former {
            let mut grants = self.grants.borrow_mut();
            match now {
                Some(now) => grants.insert(id, now),
                None => grants.remove(&id),
            };
            self.note_look();
        }
    }

    /// The grant by which a pool was open here last.
    pub(super) fn known_grant(&self, pool: PoolId) -> Option<Grant> {
        self.grants.borrow().get(&pool).map(|grant| (**grant).clone())
    }

    /// The grants by which pools were open here last, which the supervisor's records should name.
    pub fn known_grants(&self) -> Vec<(uuid::Uuid, Grant)> {
        self.remember_open();
        let grants = self.grants.borrow();
        grants.iter().map(|(pool, grant)| (pool.0, (**grant).clone())).collect()
    }

    /// As whom a closed pool's votes are signed here.
    pub(super) fn signer_of(&self, slot: &Slot) -> Option<Signer> {
        let grant = match self.trusted(slot.id).root {
            Root::Grant(last) => Some(last),
            Root::All | Root::Forked(_) => slot.grant.borrow().clone(),
        };
        Signer::new(self.config.keys.as_ref(), grant.as_ref())
    }
}

/// Why there are fewer votes than disks that show one, if there are any that don't count and are newer than all that do.
pub(super) fn explain(
    pool: &str,
    disks: &[SeenDisk],
    newest: Option<&Configuration>,
) -> Option<String> {
    let rank = newest.map(Configuration::rank);
    let votes = disks.iter().filter_map(|disk| Some((disk, disk.vote.as_ref()?)));
    let others: Vec<String> = votes
        .filter(|(_, vote)| !vote.counts && Some(vote.newest.rank()) > rank)
        .map(|(disk, vote)| match &vote.signed {
            Some(signed) => format!("{} under {}", disk.place.name, signed.grant.key()),
            None => format!("{} under none", disk.place.name),
        })
        .collect();
    let named = others.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let remedy = format!(
        "if the pool has another key by now (`etherpool pool key list` where it was open): etherpool pool import {pool} \
         --pool-key KEY; if it has none any more: --pool-key any"
    );
    (!others.is_empty()).then(|| {
        format!(
            "votes of {} disks aren't signed under the pool's key as it is known here, so they may be forged ({named}); \
             {remedy}",
            others.len()
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use seal::{PoolKeyPair, SecretKey};

    use super::*;

    fn key(number: u8) -> PoolKeyPair {
        PoolKeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    const US: PublicKey = PublicKey([1; 32]);

    #[test]
    fn metadata_puts_no_other_key_in_the_place_of_the_one_that_is_known() {
        let of = |grant: &Grant| Some(Rc::new(grant.clone()));
        let first = key(1).found(&[US]).unwrap();
        let second = key(1).follow(&first, &[US]).unwrap();
        let rotated = key(1).hand_over(&second, &key(2), &[US]).unwrap();
        let lost = key(3).found_after(&rotated, &[US]).unwrap();
        let by = |root| Trusted { own: Some(US), root };
        let known = |grant: &Grant| by(Root::Grant(Rc::new(grant.clone())));
        for (trusted, kept, expected) in [
            (by(Root::All), None, None),
            (by(Root::All), of(&first), of(&first)),
            (known(&second), None, of(&second)),
            (known(&second), of(&first), of(&second)),
            (known(&second), of(&rotated), of(&rotated)),
            (known(&rotated), of(&second), of(&rotated)),
            (known(&rotated), of(&lost), of(&rotated)),
            (by(Root::Forked(None)), of(&lost), of(&lost)),
            (by(Root::Forked(of(&first))), of(&lost), of(&first)),
        ] {
            assert_eq!(trusted.grant_of(kept.clone()), expected, "{trusted:?} {kept:?}");
        }
    }

    #[test]
    fn the_root_is_where_all_others_lead() {
        let of = |grant: &Grant| Rc::new(grant.clone());
        let first = key(1).found(&[US]).unwrap();
        let second = key(1).follow(&first, &[US]).unwrap();
        let rotated = key(1).hand_over(&second, &key(2), &[US]).unwrap();
        let own = key(1).hand_over(&second, &key(9), &[US]).unwrap();
        let own = key(9).follow(&own, &[US]).unwrap();
        let lost = key(3).found_after(&rotated, &[US]).unwrap();
        let is = |grant: &Grant| Root::Grant(Rc::new(grant.clone()));
        for (known, key, in_sight, root) in [
            (None, None, vec![], Root::All),
            (None, None, vec![of(&first), of(&second)], is(&second)),
            (None, None, vec![of(&rotated), of(&first)], is(&rotated)),
            (None, None, vec![of(&rotated), of(&lost)], Root::Forked(None)),
            (None, None, vec![of(&rotated), of(&own)], Root::Forked(None)),
            (None, Some(rotated.key()), vec![of(&rotated), of(&own)], is(&rotated)),
            (None, Some(lost.key()), vec![of(&rotated)], Root::Forked(None)),
            (Some(of(&first)), None, vec![], is(&first)),
            (Some(of(&first)), None, vec![of(&rotated), of(&lost)], is(&rotated)),
            (Some(of(&rotated)), None, vec![of(&own), of(&first)], is(&rotated)),
            (Some(of(&first)), None, vec![of(&rotated), of(&own)], Root::Forked(Some(of(&first)))),
            (Some(of(&first)), Some(lost.key()), vec![of(&lost), of(&first)], is(&lost)),
        ] {
            assert_eq!(
                Root::of(known.clone(), key, &in_sight),
                root,
                "{known:?} {key:?} {in_sight:?}"
            );
        }
    }
}
