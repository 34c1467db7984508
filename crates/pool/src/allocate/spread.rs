//! What makes a disk a better choice than another with about as much free space: as many as there are take part when
//! what one of them had is made anew.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Space;
use crate::format::DiskNumber;
use crate::metadata::{Member, Metadata};

/// How many groups two disks of different failure domains have in common. Whoever is lost is made anew from those that
/// had groups in common with it: the more there are, and the more evenly, the sooner.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(BTreeMap<DiskNumber, SharedWith>);

/// What a disk has in common with others.
#[derive(Clone, Debug)]
struct SharedWith {
    domain: Uuid,
    groups: BTreeMap<DiskNumber, u64>,
    /// How many of all disks of other domains have so many, from the fewest on.
    disks: BTreeMap<u64, usize>,
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

impl Shared {
    /// What the disks of a space have in common.
    pub(super) fn of(metadata: &Metadata, space: &Space) -> Shared {
        let mut in_domain: BTreeMap<Uuid, usize> = BTreeMap::new();
        for (_, domain) in space.disks() {
            *in_domain.entry(domain).or_default() += 1;
        }
        let all = space.disks().count();
        let disks = space.disks().map(|(disk, domain)| {
            let others = all - in_domain.get(&domain).copied().unwrap_or(0);
            let disks = [(0, others)].into_iter().filter(|(_, disks)| *disks > 0).collect();
            (disk, SharedWith { domain, groups: BTreeMap::new(), disks })
        });
        let mut shared = Shared(disks.collect());
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.values()) {
            let disks: Vec<DiskNumber> = run.holders().map(|member| member.disk).collect();
            shared.add(&disks, run.count);
        }
        shared
    }

    pub(super) fn add(&mut self, disks: &[DiskNumber], count: u32) {
        for (index, one) in disks.iter().enumerate() {
            for other in &disks[..index] {
                let domain = |disk| self.0.get(disk).map(|with| with.domain);
                let (Some(left), Some(right)) = (domain(one), domain(other)) else { continue };
                if left != right {
                    self.add_to(*one, *other, count);
                    self.add_to(*other, *one, count);
                }
            }
        }
    }

    fn add_to(&mut self, one: DiskNumber, other: DiskNumber, count: u32) {
        if let Some(with) = self.0.get_mut(&one) {
            with.add(other, count);
        }
    }

    /// Groups that a disk has in common with any of others, whose failure domains it isn't of.
    pub(super) fn with_any(&self, disk: DiskNumber, others: &[Member]) -> u64 {
        let with = |other: &Member| self.0.get(&other.disk)?.groups.get(&disk).copied();
        others.iter().filter_map(with).sum()
    }

    /// No disk has fewer in common with these.
    pub(super) fn least(&self, others: &[Member]) -> u64 {
        let least = |other: &Member| self.0.get(&other.disk)?.disks.keys().next().copied();
        others.iter().filter_map(least).sum()
    }
}
