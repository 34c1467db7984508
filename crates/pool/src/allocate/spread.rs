//! What makes a disk a better choice than another with about as much free space: as many as there are take part when
//! what one of them had is made anew.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Space;
use crate::format::DiskNumber;
use crate::metadata::{Member, Metadata};

/// How many groups two disks of different failure domains have in common. Whoever is lost is made anew from those that
/// had groups in common with it: the more there are, and the more evenly, the sooner.
pub(super) struct Shared {
    /// By number.
    disks: Vec<(DiskNumber, SharedWith)>,
}

/// What a disk has in common with others.
struct SharedWith {
    domain: Uuid,
    groups: BTreeMap<DiskNumber, u64>,
    /// How many of all disks of other domains have so many, from the fewest on.
    disks: BTreeMap<u64, usize>,
}

/// What some disks have in common with others.
pub(super) struct SharedWithAny<'a>(Vec<&'a SharedWith>);

impl Shared {
    /// What the disks of a space have in common.
    pub(super) fn of(metadata: &Metadata, space: &Space) -> Shared {
        let mut in_domain: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (_, domain) in space.disks() {
            *in_domain.entry(domain).or_default() += 1;
        }
        let disks = space.disks().map(|(disk, domain)| {
            let (groups, disks) = (BTreeMap::new(), BTreeMap::new());
            (disk, SharedWith { domain, groups, disks })
        });
        let mut shared = Shared { disks: disks.collect() };
        // There may be a million runs: what each disk has in common is sorted once.
        let mut found: Vec<Vec<(DiskNumber, u32)>> = vec![Vec::new(); shared.disks.len()];
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.values()) {
            let disks: Vec<DiskNumber> = run.holders().map(|member| member.disk).collect();
            shared.pairs(&disks, |index, other| found[index].push((other, run.count)));
        }
        let all = shared.disks.len();
        for ((_, with), mut found) in shared.disks.iter_mut().zip(found) {
            found.sort_unstable_by_key(|(other, _)| *other);
            let others = found.chunk_by(|(one, _), (other, _)| one == other);
            let sum =
                |same: &[(DiskNumber, u32)]| same.iter().map(|(_, count)| u64::from(*count)).sum();
            with.groups = others.map(|same| (same[0].0, sum(same))).collect();
            for groups in with.groups.values() {
                *with.disks.entry(*groups).or_default() += 1;
            }
            let others = all - in_domain.get(&with.domain).copied().unwrap_or(0);
            let without = others - with.groups.len();
            with.disks.extend((without > 0).then_some((0, without)));
        }
        shared
    }

    /// So many groups more are on these disks.
    pub(super) fn add(&mut self, disks: &[DiskNumber], count: u32) {
        let mut pairs = Vec::new();
        self.pairs(disks, |index, other| pairs.push((index, other)));
        for (index, other) in pairs {
            self.disks[index].1.add(other, count);
        }
    }

    /// Each of these disks by its index, with each other one of another failure domain.
    fn pairs(&self, disks: &[DiskNumber], mut each: impl FnMut(usize, DiskNumber)) {
        for (place, one) in disks.iter().enumerate() {
            let Some(left) = self.index(*one) else { continue };
            for other in &disks[..place] {
                let Some(right) = self.index(*other) else { continue };
                if self.disks[left].1.domain != self.disks[right].1.domain {
                    each(left, *other);
                    each(right, *one);
                }
            }
        }
    }

    fn index(&self, disk: DiskNumber) -> Option<usize> {
        self.disks.binary_search_by_key(&disk, |(number, _)| *number).ok()
    }

    /// What any of these have in common with others.
    pub(super) fn with(&self, members: &[Member]) -> SharedWithAny<'_> {
        let indexes = members.iter().filter_map(|member| self.index(member.disk));
        SharedWithAny(indexes.map(|index| &self.disks[index].1).collect())
    }
}

impl SharedWith {
    fn add(&mut self, disk: DiskNumber, count: u32) {
        let groups = self.groups.entry(disk).or_default();
        if let Some(disks) = self.disks.get_mut(groups) {
            *disks -= 1;
            if *disks == 0 {
                self.disks.remove(groups);
            }
        }
        *groups += u64::from(count);
        *self.disks.entry(*groups).or_default() += 1;
    }
}

impl SharedWithAny<'_> {
    /// Groups that they have in common with a disk of another failure domain than theirs.
    pub(super) fn groups(&self, disk: DiskNumber) -> u64 {
        self.0.iter().filter_map(|with| with.groups.get(&disk)).sum()
    }

    /// No such disk has fewer in common with them.
    pub(super) fn least(&self) -> u64 {
        self.0.iter().filter_map(|with| with.disks.keys().next()).sum()
    }
}
