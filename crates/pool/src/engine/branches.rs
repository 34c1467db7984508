//! Which of the disks present belong together (docs/engine.md, 17). A pool that was opened without a majority of its
//! votes is a **branch** of its own from then on: what its disks show says nothing of those that were away, which may
//! have been opened elsewhere meanwhile, nor theirs of it, whichever has the higher epoch. So of the disks of a pool
//! that are in sight those of one branch are looked at, and the others are left alone.

use std::collections::BTreeMap;

use block::OwnerId;

use super::observe::Vote;
use super::open::SeenDisk;
use super::quorum::Quorum;
use crate::format::{BranchId, Configuration, DiskNumber};

/// Whether a disk belongs to the branch of a configuration, by the newest record that it shows. One that has heard
/// nothing since the branch began, and wasn't given up then, does: whoever began it may have ended before he told it.
pub(crate) fn is_of(config: &Configuration, disk: DiskNumber, vote: Option<&Vote>) -> bool {
    let shown = vote.map(|vote| &vote.newest);
    let heard_of_it = |shown: &Configuration| {
        shown.branch.id == config.branch.id || shown.rank() <= config.branch.from
    };
    !config.is_given_up(disk) && shown.is_none_or(heard_of_it)
}

/// The disks of one branch, and the others. Of several branches that of which a majority of votes is there, and then
/// the one that `owner` has, comes first; else the one that was opened last.
pub(crate) fn part(disks: Vec<SeenDisk>, owner: OwnerId) -> (Vec<SeenDisk>, Vec<SeenDisk>) {
    let mut newest: BTreeMap<BranchId, Configuration> = BTreeMap::new();
    for shown in disks.iter().filter_map(|disk| Some(&disk.vote.as_ref()?.newest)) {
        let known = newest.entry(shown.branch.id).or_insert_with(|| shown.clone());
        if known.rank() < shown.rank() {
            *known = shown.clone();
        }
    }
    if newest.keys().all(|id| *id == BranchId::default()) {
        return (disks, Vec::new());
    }
    let mut parts: BTreeMap<BranchId, Vec<SeenDisk>> = BTreeMap::new();
    for disk in disks {
        let vote = disk.vote.as_ref();
        let its = vote.map_or(BranchId::default(), |vote| vote.newest.branch.id);
        let grown = newest.values().filter(|config| !config.branch.is_trunk());
        let claims = grown.filter(|config| is_of(config, disk.label.number, vote));
        let branch =
            claims.max_by_key(|config| config.rank()).map_or(its, |config| config.branch.id);
        parts.entry(branch).or_default().push(disk);
    }
    let worth = |disks: &Vec<SeenDisk>| {
        let quorum = Quorum::of(disks);
        let newest = quorum.newest.as_ref();
        let is_ours = newest.is_some_and(|newest| newest.owner == owner);
        (quorum.is_enough(), is_ours, newest.map(Configuration::rank))
    };
    let best = parts.iter().max_by_key(|(_, disks)| worth(disks)).map(|(id, _)| *id);
    let chosen = best.and_then(|best| parts.remove(&best)).unwrap_or_default();
    (chosen, parts.into_values().flatten().collect())
}
