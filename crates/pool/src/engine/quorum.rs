//! Whether what is present of a pool is enough to open it: the newest configuration that any of its disks shows
//! says who votes, and a majority of those must be there, of both lists while one gives way to the other.
//!
//! That is the newest there is. Who votes changes only by a configuration that a majority of each list got, so
//! a majority of any list that ever counted shows the change away from it; and a list that is obeyed because it
//! is the newest in sight has a majority in sight, which would show what came after it.

use std::collections::BTreeSet;

use super::observe::Vote;
use super::open::SeenDisk;
use crate::format::{Configuration, Destruction, DiskId, Signed, Voters, majority_of, poorest};
use crate::report::VotesReport;

/// What the votes present say.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    pub(crate) voters: Voters,
    /// Disks present that show a configuration.
    present: BTreeSet<DiskId>,
    /// Those of them of which both slots can be read.
    whole: BTreeSet<DiskId>,
    pub(crate) newest: Option<Configuration>,
    /// By whose word.
    pub(crate) signed: Option<Signed>,
}

impl Quorum {
    /// What the votes of these disks say together.
    pub(crate) fn of(disks: &[SeenDisk]) -> Quorum {
        let votes = || disks.iter().filter_map(|d| Some((d.label.disk, d.vote.as_ref()?)));
        let counting = votes().filter(|(_, vote)| vote.counts).map(|(_, vote)| vote);
        let newest = counting.max_by_key(|vote| vote.newest.rank());
        let signed = newest.and_then(|vote| vote.signed.clone());
        let newest = newest.map(|vote| vote.newest.clone());
        // Without any, the labels say whose votes to look for.
        let labelled = || disks.first().map(|disk| Voters::of(disk.label.vote_disks.clone()));
        let voters = newest.as_ref().map(|newest| newest.voters.clone());
        // What isn't proved and newer may be a forgery, or what a majority has accepted under a key that isn't known
        // here: that disk is none of a majority. If it is older it hides nothing.
        let rank = newest.as_ref().map(Configuration::rank);
        let shows = |(_, vote): &(DiskId, &Vote)| vote.counts || Some(vote.newest.rank()) <= rank;
        let shown = || votes().filter(shows);
        let is_whole = |(_, vote): &(DiskId, &Vote)| vote.is_whole;
        Quorum {
            voters: voters.or_else(labelled).unwrap_or_default(),
            present: shown().map(|(disk, _)| disk).collect(),
            whole: shown().filter(is_whole).map(|(disk, _)| disk).collect(),
            newest,
            signed,
        }
    }

    /// The same, of these disks alone.
    pub(crate) fn among(&self, disks: &BTreeSet<DiskId>) -> Quorum {
        let mut quorum = self.clone();
        quorum.present.retain(|disk| disks.contains(disk));
        quorum.whole.retain(|disk| disks.contains(disk));
        quorum
    }

    /// Whether the newest of these votes is the newest of all: a majority is there, and of what another
    /// majority accepted one of them shows it. A vote of which a slot can't be read shows only what is
    /// older. (Of two votes each has what was accepted, and a lone one has nobody to ask.)
    pub(crate) fn is_enough(&self) -> bool {
        let shows = self.voters.lists().all(|list| {
            let whole = list.iter().filter(|disk| self.whole.contains(disk)).count();
            whole + majority_of(list) > list.len() || list.len() <= 2
        });
        shows && self.voters.is_majority(|disk| self.present.contains(&disk))
    }

    /// Whether the pool can be opened from what is present.
    pub(crate) fn suffices(&self) -> bool {
        let newest = self.newest.as_ref();
        let has_metadata = newest
            .is_some_and(|newest| newest.copies.iter().any(|disk| self.present.contains(disk)));
        has_metadata && self.is_enough()
    }

    /// Whether the pool is to be no more, by the newest of these votes.
    pub(crate) fn destruction(&self) -> Destruction {
        self.newest.as_ref().map_or(Destruction::None, |newest| newest.destruction)
    }

    /// How the votes stand, in the list where they are fewest.
    pub(crate) fn votes(&self) -> VotesReport {
        let is_present = |disk| self.present.contains(&disk);
        votes_of(poorest(self.voters.lists(), is_present), is_present)
    }

    /// The voters that aren't there.
    pub(crate) fn missing(&self) -> Vec<DiskId> {
        let mut missing = self.voters.all();
        missing.retain(|disk| !self.present.contains(disk));
        missing
    }

    /// Votes of which a newer state may not be readable.
    pub(crate) fn hidden(&self) -> usize {
        let voters = self.voters.all();
        let hidden = |disk: &&DiskId| self.present.contains(disk) && !self.whole.contains(disk);
        voters.iter().filter(hidden).count()
    }
}

/// How the votes of a list stand.
pub(super) fn votes_of(list: &[DiskId], is_present: impl Fn(DiskId) -> bool) -> VotesReport {
    let present = list.iter().filter(|disk| is_present(**disk)).count();
    VotesReport { total: list.len() as u32, present: present as u32, lacks_witness: false }
}
