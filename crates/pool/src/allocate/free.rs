//! Free space, to try things out on. What each failure domain has is kept as it changes, and all disks in the order in
//! which they are taken, so that a choice among thousands of them looks at a few.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Usable, kept_for_logs};
use crate::format::DiskNumber;
use crate::metadata::{ExtentRange, ExtentSet, Metadata};
use crate::spare::{Kept, Standing};

/// Disks whose free space differs by no more than such a part of it are as good as each other.
const ABOUT_PART: u64 = 8;

/// Which disk is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The one with the most free space.
    MostFree,
    /// The cheapest of those that have about the most, and of which the failure domain has.
    AboutMostFree,
    /// The cheapest of those that have half as much as the one with the most, whatever their domain has.
    AnyDomain,
}

/// A disk's free extents, and its failure domain.
#[derive(Clone, Debug)]
struct FreeDisk {
    domain: Uuid,
    free: ExtentSet,
}

/// How a disk ranks: the domain with the most left comes first, then the disk with the most free extents. The lower
/// number wins where all is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    left: u64,
    free: u32,
    disk: Reverse<DiskNumber>,
}

/// A failure domain's free extents.
#[derive(Clone, Debug, Default)]
struct FreeDomain {
    free: u64,
    /// So many of them stay free, wherever they lie.
    kept: u64,
    /// Its disks, in order of what they have free.
    disks: BTreeSet<(u32, Reverse<DiskNumber>)>,
}

impl FreeDomain {
    fn left(&self) -> u64 {
        self.free.saturating_sub(self.kept)
    }

    /// That of its first disk.
    fn rank(&self) -> Option<Rank> {
        self.disks.last().map(|(free, disk)| Rank { left: self.left(), free: *free, disk: *disk })
    }
}

/// What a disk must have to be taken.
struct Needed {
    /// Its domain's extents that may be taken.
    left: u64,
    free: u64,
    /// Extents in a row.
    run: u32,
}

/// Free space, to try things out on.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    disks: BTreeMap<DiskNumber, FreeDisk>,
    domains: BTreeMap<Uuid, FreeDomain>,
    /// The domains in the order of their first disks.
    ranks: BTreeMap<Rank, Uuid>,
    /// Extents that may be taken of all domains together.
    left: u64,
}

impl Space {
    pub(crate) fn new(metadata: &Metadata, usable: &Usable) -> Space {
        let disks = metadata.data_disks().filter(|disk| usable.contains(&disk.number));
        Space::of(disks.map(|disk| (disk.number, metadata.domain_of(disk), disk.free.clone())))
    }

    fn of(disks: impl Iterator<Item = (DiskNumber, Uuid, ExtentSet)>) -> Space {
        let (domains, ranks) = (BTreeMap::new(), BTreeMap::new());
        let mut space = Space { disks: BTreeMap::new(), domains, ranks, left: 0 };
        for (number, domain, free) in disks {
            let of = space.domains.entry(domain).or_default();
            of.free += u64::from(free.len());
            of.disks.insert((free.len(), Reverse(number)));
            space.disks.insert(number, FreeDisk { domain, free });
        }
        space.keep(BTreeMap::new());
        space
    }

    /// Leaves what the pool's spare needs. More groups than the answer would be too many for it.
    pub(super) fn keep_spare(
        &mut self,
        metadata: &Metadata,
        usable: &Usable,
        copies: u8,
        for_new_volume: bool,
    ) -> u64 {
        let Some(standing) = Standing::for_growth(metadata, usable, for_new_volume) else {
            return u64::MAX;
        };
        let Kept { extents, groups_left } = standing.kept(&self.domains(), copies);
        self.keep(extents);
        groups_left
    }

    /// Leaves so many extents of each domain, wherever they lie.
    fn keep(&mut self, extents: BTreeMap<Uuid, u64>) {
        for (id, domain) in &mut self.domains {
            domain.kept = extents.get(id).copied().unwrap_or(0);
        }
        let ranks = self.domains.iter().filter_map(|(id, domain)| Some((domain.rank()?, *id)));
        self.ranks = ranks.collect();
        self.left = self.domains.values().map(FreeDomain::left).sum();
    }

    /// Takes out what the logs may still need.
    pub(crate) fn reserve_for_logs(&mut self, metadata: &Metadata, for_new_volume: bool) {
        let extents = metadata.shape().segment_extents();
        for (domain, segments) in self.kept_for_logs(metadata, for_new_volume) {
            // Where labels joined machines, from each in turn: a log's copies may share the domain, but no machine.
            let part = |disk| metadata.disks().get(&disk).map(|d| metadata.unjoined_domain_of(d));
            let disks = self.domains.get(&domain).into_iter().flat_map(|domain| &domain.disks);
            let mut taken: BTreeMap<Uuid, u32> =
                disks.filter_map(|(_, disk)| Some((part(disk.0)?, 0))).collect();
            for _ in 0..segments {
                let least = taken.values().min().copied().unwrap_or(0);
                let cost = |disk| part(disk).and_then(|part| taken.get(&part)).map_or(0, |t| *t);
                let Some(disk) = self.most_free_in(domain, extents, cost, least) else { break };
                self.take_last(disk, extents);
                part(disk).into_iter().for_each(|part| *taken.entry(part).or_default() += 1);
            }
        }
    }

    /// Segments that the logs may still need: in each domain as many as a volume may have, for each volume, less
    /// those that it has there.
    pub(crate) fn kept_for_logs(
        &self,
        metadata: &Metadata,
        for_new_volume: bool,
    ) -> BTreeMap<Uuid, u32> {
        let domains = self.disks.iter().map(|(disk, free)| (*disk, free.domain)).collect();
        kept_for_logs(metadata, &domains, for_new_volume)
    }

    /// The disk that ranks highest of the acceptable ones with so many free extents in a row.
    pub(super) fn most_free(
        &self,
        run: u32,
        accept: impl Fn(DiskNumber, Uuid) -> bool,
    ) -> Option<DiskNumber> {
        let needed = Needed { left: u64::from(run), free: 0, run };
        self.search(&needed, accept, |_| 0, 0).map(|found| found.disk.0)
    }

    /// The same among the cheapest of a domain. None costs less than `least`.
    fn most_free_in(
        &self,
        domain: Uuid,
        run: u32,
        cost: impl Fn(DiskNumber) -> u32,
        least: u32,
    ) -> Option<DiskNumber> {
        let domain = self.domains.get(&domain).filter(|domain| domain.left() >= u64::from(run))?;
        let disks = || {
            let disks = domain.disks.iter().rev().map(|(_, disk)| disk.0);
            disks.filter(|disk| self.has_run(*disk, run))
        };
        let cheap = disks().find(|disk| cost(*disk) <= least);
        cheap.or_else(|| disks().min_by_key(|disk| cost(*disk)))
    }

    /// Whether a disk has so many free extents in a row.
    fn has_run(&self, disk: DiskNumber, run: u32) -> bool {
        self.disks.get(&disk).is_some_and(|disk| disk.free.first_fit(run).is_some())
    }

    /// The disk to take of those that have so many free extents in a row. None costs less than `least`.
    pub(super) fn choose(
        &self,
        choice: Choice,
        run: u32,
        accept: impl Fn(DiskNumber, Uuid) -> bool,
        cost: impl Fn(DiskNumber) -> u64,
        least: u64,
    ) -> Option<DiskNumber> {
        let anything = Needed { left: u64::from(run), free: 0, run };
        let most = self.search(&anything, &accept, |_| 0, 0)?;
        let about = |most: u64| most - most / ABOUT_PART;
        let free = u64::from(most.free);
        let needed = match choice {
            Choice::MostFree => return Some(most.disk.0),
            Choice::AboutMostFree => {
                Needed { left: about(most.left).max(anything.left), free: about(free), run }
            }
            Choice::AnyDomain => Needed { free: free / 2, ..anything },
        };
        self.search(&needed, accept, cost, least).map(|found| found.disk.0)
    }

    /// The cheapest of the acceptable disks that have what is needed; of those the one that ranks highest. In this order
    /// they are looked at, so the first that costs no more than the least is it.
    fn search(
        &self,
        needed: &Needed,
        accept: impl Fn(DiskNumber, Uuid) -> bool,
        cost: impl Fn(DiskNumber) -> u64,
        least: u64,
    ) -> Option<Rank> {
        let mut best: Option<(u64, Reverse<Rank>)> = None;
        for (first, domain) in self.ranks.iter().rev() {
            let is_beaten = |best: Option<(u64, Reverse<Rank>)>, rank: Rank| {
                best.is_some_and(|(cost, found)| cost <= least && found.0 > rank)
            };
            if first.left < needed.left || is_beaten(best, *first) {
                break;
            }
            let disks = self.domains.get(domain).into_iter().flat_map(|domain| &domain.disks);
            for (free, number) in disks.rev() {
                let rank = Rank { left: first.left, free: *free, disk: *number };
                if u64::from(*free) < needed.free || is_beaten(best, rank) {
                    break;
                }
                if !accept(number.0, *domain) {
                    continue;
                }
                let found = (cost(number.0), Reverse(rank));
                if best.is_none_or(|best| found < best) && self.has_run(number.0, needed.run) {
                    best = Some(found);
                }
            }
        }
        best.map(|(_, rank)| rank.0)
    }

    /// Whether a disk has so many extents in a row that may be taken, and is acceptable.
    pub(super) fn fits(
        &self,
        disk: DiskNumber,
        run: u32,
        accept: impl Fn(DiskNumber, Uuid) -> bool,
    ) -> bool {
        let domain = self.disks.get(&disk).map(|disk| disk.domain).filter(|id| accept(disk, *id));
        let left = domain.and_then(|id| self.domains.get(&id)).map_or(0, FreeDomain::left);
        left >= u64::from(run) && self.has_run(disk, run)
    }

    pub(super) fn has(&self, disk: DiskNumber) -> bool {
        self.disks.contains_key(&disk)
    }

    pub(super) fn domain_of(&self, disk: DiskNumber) -> Option<Uuid> {
        self.disks.get(&disk).map(|disk| disk.domain)
    }

    /// The disks, and the failure domain of each.
    pub(super) fn disks(&self) -> impl Iterator<Item = (DiskNumber, Uuid)> + '_ {
        self.disks.iter().map(|(number, disk)| (*number, disk.domain))
    }

    /// Groups grow from the front of a disk ...
    pub(crate) fn take_first(&mut self, disk: DiskNumber, count: u32) -> Option<ExtentRange> {
        self.change(disk, |free| free.first_fit(count).filter(|extents| free.remove(*extents)))
    }

    /// ... and segments, which come and go, from its end, so that they don't break up runs.
    pub(super) fn take_last(&mut self, disk: DiskNumber, count: u32) -> Option<ExtentRange> {
        self.change(disk, |free| free.last_fit(count).filter(|extents| free.remove(*extents)))
    }

    /// These are taken, wherever they are.
    pub(crate) fn take(&mut self, disk: DiskNumber, extents: ExtentRange) {
        self.change(disk, |free| Some(free.remove(extents)));
    }

    pub(crate) fn give_back(&mut self, disk: DiskNumber, extents: ExtentRange) {
        self.change(disk, |free| Some(free.insert(extents)));
    }

    /// Changes what a disk has free, and with it all orders in which that counts.
    fn change<T>(
        &mut self,
        number: DiskNumber,
        change: impl FnOnce(&mut ExtentSet) -> Option<T>,
    ) -> Option<T> {
        let disk = self.disks.get_mut(&number)?;
        let domain = self.domains.get_mut(&disk.domain)?;
        let before = disk.free.len();
        let changed = change(&mut disk.free);
        let after = disk.free.len();
        if before != after {
            domain.rank().and_then(|rank| self.ranks.remove(&rank));
            self.left -= domain.left();
            domain.disks.remove(&(before, Reverse(number)));
            domain.disks.insert((after, Reverse(number)));
            domain.free = domain.free - u64::from(before) + u64::from(after);
            self.left += domain.left();
            self.ranks.extend(domain.rank().map(|rank| (rank, disk.domain)));
        }
        changed
    }

    /// Free extents by domain, without what is to stay free.
    pub(crate) fn domains(&self) -> BTreeMap<Uuid, u64> {
        self.domains.iter().map(|(id, domain)| (*id, domain.left())).collect()
    }

    /// Groups of so many copies that still fit.
    pub(super) fn groups_left(&self, copies: u8) -> u64 {
        groups_of(self.left, self.ranks.keys().rev().map(|rank| rank.left), copies)
    }
}

/// The most groups with each copy in another domain: the highest T for which the domains hold T × copies
/// extents when none may give more than T.
pub(crate) fn most_groups(domains: &BTreeMap<Uuid, u64>, copies: u8) -> u64 {
    let mut largest: Vec<u64> = domains.values().copied().collect();
    largest.sort_unstable_by_key(|free| Reverse(*free));
    groups_of(largest.iter().sum(), largest.into_iter(), copies)
}

/// The same of all that there is, and of what each domain has, largest first. That they hold T × copies is to say that
/// for each k the k largest, with T each, and all others with all that they have do. Where k isn't less than the
/// copies that is always so; otherwise it is if the others have (copies − k) × T.
fn groups_of(all: u64, largest: impl Iterator<Item = u64>, copies: u8) -> u64 {
    let copies = u64::from(copies.max(1));
    let others = largest.scan(all, |others, free| {
        *others -= free;
        Some(*others)
    });
    let others = std::iter::once(all).chain(others).chain(std::iter::once(0));
    (1..=copies).rev().zip(others).map(|(groups, others)| others / groups).min().unwrap_or(0)
}

#[cfg(test)]
#[path = "free_tests.rs"]
mod tests;
