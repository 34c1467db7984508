//! Which disk is taken of those that have about as much free space: as many as there are take part when what one of
//! them had is made anew.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{FreeDisk, Space};
use crate::format::DiskNumber;
use crate::metadata::{Member, Metadata};

/// Disks whose free space differs by no more than such a part of it are as good as each other.
const ABOUT_PART: u64 = 8;

/// Which disk is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one with the most free space.
    MostFree,
    /// The cheapest of those that have about the most, and of which the failure domain has.
    AboutMostFree,
    /// The same whatever their domain has.
    AnyDomain,
}

impl Space {
    /// The disk to take of those that have so many free extents in a row.
    pub(super) fn choose(
        &self,
        choice: Choice,
        run: u32,
        accept: impl Fn(DiskNumber, &FreeDisk) -> bool,
        cost: impl Fn(DiskNumber) -> u64,
    ) -> Option<DiskNumber> {
        let found = self.most_free(run, &accept)?;
        if choice == Choice::MostFree {
            return Some(found);
        }
        let most = self.disks.get(&found)?;
        let domains = self.domains();
        let domain_free = |disk: &FreeDisk| domains.get(&disk.domain).copied().unwrap_or(0);
        let is_about = |free: u64, most: u64| free + most / ABOUT_PART >= most;
        let candidates = self.disks.iter().filter(|(number, disk)| {
            accept(**number, disk)
                && disk.has_room(&domains, run)
                && (choice == Choice::AnyDomain || is_about(domain_free(disk), domain_free(most)))
                && is_about(disk.free.len().into(), most.free.len().into())
        });
        let cheapest = candidates.min_by_key(|(number, disk)| {
            (cost(**number), Reverse((domain_free(disk), disk.free.len())), **number)
        });
        cheapest.map(|(number, _)| *number)
    }
}

/// How many groups two disks have in common. Whoever is lost is made anew from those that had groups in common with
/// it: the more there are, and the more evenly, the sooner.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(BTreeMap<(DiskNumber, DiskNumber), u64>);

impl Shared {
    pub(super) fn of(metadata: &Metadata) -> Shared {
        let mut shared = Shared::default();
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.values()) {
            let disks: Vec<DiskNumber> = run.holders().map(|member| member.disk).collect();
            shared.add(&disks, run.count);
        }
        shared
    }

    pub(super) fn add(&mut self, disks: &[DiskNumber], count: u32) {
        for (one, other) in
            disks.iter().flat_map(|one| disks.iter().map(move |other| (*one, *other)))
        {
            if one != other {
                *self.0.entry((one, other)).or_default() += u64::from(count);
            }
        }
    }

    pub(super) fn with_any(&self, disk: DiskNumber, others: &[Member]) -> u64 {
        let with = |other: &Member| self.0.get(&(disk, other.disk)).copied().unwrap_or(0);
        others.iter().map(with).sum()
    }
}
