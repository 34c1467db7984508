//! How much of a pool stays free, so that what is lost with a disk or machine finds a place again.
//!
//! A pool's property `spare` says against which loss: of any one disk, of any one machine, or of so many bytes of any
//! one disk. Nothing is set aside at a place: what counts is whether, after each such loss, the free space that is left
//! takes all that was lost.
//!
//! # The rule
//!
//! Let a loss be given, with that which is gone or to be emptied already. After it, each failure domain d that has a disk
//! left has F(d) extents that are free and not kept for logs. A lost position may go to every domain in which its
//! group has no other copy; O is the set of those that have one. Let A be the extents that copies of the metadata may
//! take outside of O, of those that are lost with the disks. The spare is **held** if for each O of a lost position
//!
//! > Σ F(d), d not in O  −  A  ≥  the number of lost positions that may go to any domain outside O.
//!
//! # Why that suffices
//!
//! Positions find places one after the other, in any order, each at any free extent of a domain where it may be. (A run that
//! finds none as a whole is split, down to one extent, so where in a domain what is free lies doesn't matter.) Let one
//! find no place, and O be where its group has copies. Then nothing is free outside of O, so F(d) extents of each of
//! those domains were taken, at most A by copies of the metadata, the others by lost positions that might go there. That one
//! itself isn't among them, so there are more such positions than Σ F(d) − A, against the rule. ∎
//!
//! It follows that no choice of the planner can spoil it: rebuilding may go in any order, beside writes and logs.
//!
//! Where a loss takes several positions of a group (disks that each are a failure domain, in one machine), those that
//! are placed before it close j further domains to the last one, and nobody knows which: then the left side is without
//! the j largest F(d), and on the right side all lost positions count. Where at most so many bytes are to find a place, the right side is
//! at most what is lost already and that number, by the same argument: before one fails that many were placed.
//!
//! More groups make F smaller and the right side larger, so what is held with a plan is held with its beginning, and
//! how much can be given out is found by halving.
//!
//! For two copies on three equal machines this leaves two thirds of each to be used, which is all there can be; with n
//! machines (n−2)/(n−1) instead of (n−1)/n, since all that was lost may have its other copy in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use uuid::Uuid;

use crate::allocate::{SEGMENT_EXTENTS, Usable, segments_per_log};
use crate::format::DiskNumber;
use crate::metadata::{GroupRun, Metadata};

/// The pool's property.
pub(crate) const SPARE: &str = "spare";

/// The loss for which a pool keeps space free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// Of any one disk.
    Disk,
    /// Of any one machine, or disk.
    Node,
    /// Of so many bytes of any one disk.
    Bytes(u64),
}

/// Not a spare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a spare: use disk, node, or a number of bytes")]
pub struct InvalidSpare(String);

impl Spare {
    /// What a pool keeps, if anything. What can't be read is of a later version, and kept by nobody here.
    pub fn of(metadata: &Metadata) -> Option<Spare> {
        metadata.properties().get(SPARE)?.parse().ok()
    }
}

impl std::fmt::Display for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spare::Disk => f.write_str("disk"),
            Spare::Node => f.write_str("node"),
            Spare::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Spare {
    type Err = InvalidSpare;

    fn from_str(text: &str) -> Result<Spare, InvalidSpare> {
        match text {
            "disk" => Ok(Spare::Disk),
            "node" => Ok(Spare::Node),
            bytes => {
                let bytes = bytes.parse().ok().filter(|bytes| *bytes > 0);
                bytes.map(Spare::Bytes).ok_or_else(|| InvalidSpare(text.to_owned()))
            }
        }
    }
}

block::serde_as_text!(Spare);

/// What would be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Nothing besides what is lost or to be emptied already.
    Nothing,
    /// A disk.
    Disk(DiskNumber),
    /// A machine.
    Node(Uuid),
}

/// The loss that fits least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub loss: Loss,
    /// So many extents might find no place.
    pub extents: u64,
}

/// Failure domains by number; few, ascending.
type Domains = Vec<usize>;

/// A disk that takes part.
#[derive(Clone, Debug)]
struct Place {
    domain: usize,
    node: Uuid,
    free: u64,
    has_area: bool,
    /// Live log segments, by volume.
    live: Vec<u64>,
}

/// Where groups have their positions, and how many may get no further without somebody: copies that are to come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spread {
    disks: Vec<DiskNumber>,
    to_come: u8,
}

/// A pool's groups and free space, counted, to try things out on.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    spare: Spare,
    extent_bytes: u64,
    /// Log segments that each volume may have in each domain.
    per_log: u64,
    volumes: u64,
    /// Extents of a copy of the metadata.
    area: u64,
    /// Areas that are lost already.
    areas_lost: u64,
    disks: BTreeMap<DiskNumber, Place>,
    /// The domain of each disk that is known.
    domains: BTreeMap<DiskNumber, usize>,
    groups: BTreeMap<Spread, u64>,
    /// The spreads with a position on a disk that takes part.
    on: BTreeMap<DiskNumber, BTreeSet<Spread>>,
    /// Those that lack a position already.
    lacking: BTreeSet<Spread>,
}

impl Ledger {
    /// The ledger of a pool that keeps a spare, and is to have so many volumes more.
    pub(crate) fn new(metadata: &Metadata, usable: &Usable, new_volumes: u32) -> Option<Ledger> {
        let spare = Spare::of(metadata)?;
        let all = metadata.disks().keys().copied().collect();
        let mut numbers: BTreeMap<Uuid, usize> = BTreeMap::new();
        let (mut disks, mut domains, mut areas_lost) = (BTreeMap::new(), BTreeMap::new(), 0);
        for disk in metadata.data_disks() {
            let next = numbers.len();
            let domain = *numbers.entry(metadata.domain_of(disk)).or_insert(next);
            domains.insert(disk.number, domain);
            let has_area = disk.areas().next().is_some();
            if !usable.contains(&disk.number) {
                areas_lost += u64::from(has_area);
                continue;
            }
            let live = vec![0; metadata.volumes().size()];
            let (node, free) = (disk.node, u64::from(disk.free.len()));
            disks.insert(disk.number, Place { domain, node, free, has_area, live });
        }
        for (index, volume) in metadata.volumes().values().enumerate() {
            let segments = volume.log.segments.values();
            for copy in segments.flat_map(|segment| segment.copies.iter()) {
                if let Some(place) = disks.get_mut(&copy.disk) {
                    place.live[index] += 1;
                }
            }
        }
        let areas = metadata.data_disks().flat_map(|disk| disk.areas());
        let mut ledger = Ledger {
            spare,
            extent_bytes: metadata.shape().extent_bytes(),
            per_log: segments_per_log(metadata, &all).into(),
            volumes: metadata.volumes().size() as u64 + u64::from(new_volumes),
            area: areas.map(|area| u64::from(area.count)).max().unwrap_or(0),
            areas_lost,
            disks,
            domains,
            groups: BTreeMap::new(),
            on: BTreeMap::new(),
            lacking: BTreeSet::new(),
        };
        for volume in metadata.volumes().values() {
            for run in volume.runs.values() {
                let spread = ledger.spread_of(run, volume.wanted_layout().copies());
                ledger.count(spread, u64::from(run.count));
                ledger.foresee(run);
            }
        }
        Some(ledger)
    }

    /// Where a run's positions are, or are to be if that is there.
    fn spread_of(&self, run: &GroupRun, copies: u8) -> Spread {
        let mut disks: Vec<DiskNumber> = run.members.iter().map(|member| member.disk).collect();
        if let Some(incoming) = run.incoming
            && self.disks.contains_key(&incoming.member.disk)
        {
            match disks.get_mut(usize::from(incoming.position)) {
                Some(disk) => *disk = incoming.member.disk,
                None => disks.push(incoming.member.disk),
            }
        }
        disks.sort_unstable();
        let to_come = copies.saturating_sub(u8::try_from(disks.len()).unwrap_or(u8::MAX));
        Spread { disks, to_come }
    }

    /// What a move leaves is free when it ends.
    fn foresee(&mut self, run: &GroupRun) {
        let is_there =
            run.incoming.is_some_and(|incoming| self.disks.contains_key(&incoming.member.disk));
        let left = run.outgoing().filter(|_| is_there);
        if let Some(place) = left.and_then(|left| self.disks.get_mut(&left.disk)) {
            place.free += u64::from(run.count);
        }
    }

    fn count(&mut self, spread: Spread, groups: u64) {
        for disk in spread.disks.iter().filter(|disk| self.disks.contains_key(disk)) {
            self.on.entry(*disk).or_default().insert(spread.clone());
        }
        let is_there = |disk: &DiskNumber| self.disks.contains_key(disk);
        if spread.to_come > 0 || !spread.disks.iter().all(is_there) {
            self.lacking.insert(spread.clone());
        }
        *self.groups.entry(spread).or_default() += groups;
    }

    /// Gives space to a run's first groups.
    pub(crate) fn add(&mut self, run: &GroupRun, groups: u32) {
        for member in &run.members {
            if let Some(place) = self.disks.get_mut(&member.disk) {
                place.free = place.free.saturating_sub(groups.into());
            }
        }
        let spread = self.spread_of(run, 0);
        self.count(spread, groups.into());
    }

    /// Gives so many groups, which are on these disks, one copy more.
    pub(crate) fn add_copy(
        &mut self,
        disks: impl Iterator<Item = DiskNumber>,
        groups: u32,
        to: DiskNumber,
    ) {
        let mut disks: Vec<DiskNumber> = disks.collect();
        disks.sort_unstable();
        self.take_out(Spread { disks: disks.clone(), to_come: 0 }, groups);
        disks.push(to);
        disks.sort_unstable();
        self.count(Spread { disks, to_come: 0 }, groups.into());
        if let Some(place) = self.disks.get_mut(&to) {
            place.free = place.free.saturating_sub(groups.into());
        }
    }

    fn take_out(&mut self, spread: Spread, groups: u32) {
        if let Some(left) = self.groups.get_mut(&spread) {
            *left = left.saturating_sub(groups.into());
        }
    }

    /// Moves a position of so many groups, which are on these disks.
    pub(crate) fn relocate(
        &mut self,
        disks: impl Iterator<Item = DiskNumber>,
        groups: u32,
        (from, to): (DiskNumber, DiskNumber),
    ) {
        let mut disks: Vec<DiskNumber> = disks.collect();
        disks.sort_unstable();
        self.take_out(Spread { disks: disks.clone(), to_come: 0 }, groups);
        disks.iter_mut().filter(|disk| **disk == from).for_each(|disk| *disk = to);
        disks.sort_unstable();
        self.count(Spread { disks, to_come: 0 }, groups.into());
        for (disk, is_freed) in [(from, true), (to, false)] {
            if let Some(place) = self.disks.get_mut(&disk) {
                place.free = match is_freed {
                    true => place.free + u64::from(groups),
                    false => place.free.saturating_sub(groups.into()),
                };
            }
        }
    }

    /// The loss that fits least, if there is one that doesn't fit.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        let nodes: BTreeSet<Uuid> = self.disks.values().map(|place| place.node).collect();
        let nodes = nodes.into_iter().filter(|_| self.spare == Spare::Node).map(Loss::Node);
        let disks = self.disks.keys().copied().map(Loss::Disk);
        let all = std::iter::once(Loss::Nothing).chain(disks).chain(nodes);
        let short = all.filter_map(|loss| {
            let extents = self.short_after(loss);
            (extents > 0).then_some(Shortage { loss, extents })
        });
        short.max_by_key(|shortage| shortage.extents)
    }

    /// How many extents might find no place after that.
    pub(crate) fn lacks(&self) -> u64 {
        self.shortage().map_or(0, |shortage| shortage.extents)
    }

    /// How many extents might find no place after a loss.
    fn short_after(&self, loss: Loss) -> u64 {
        let goes = |disk: &DiskNumber, place: &Place| match loss {
            Loss::Nothing => false,
            Loss::Disk(lost) => lost == *disk,
            Loss::Node(node) => place.node == node,
        };
        let lost = self.disks.iter().filter(|(disk, place)| goes(disk, place));
        let lost: BTreeSet<DiskNumber> = lost.map(|(disk, _)| *disk).collect();
        let free = self.free_without(&lost);
        let areas = lost.iter().filter_map(|disk| self.disks.get(disk));
        let areas = areas.filter(|place| place.has_area).count() as u64 + self.areas_lost;
        let demands = self.demands(&lost, &free);
        let all: u64 = demands.values().sum();
        let most = match self.spare {
            Spare::Bytes(bytes) => {
                let already: u64 = self.demands(&BTreeSet::new(), &free).values().sum();
                already.saturating_add(bytes.div_ceil(self.extent_bytes))
            }
            Spare::Disk | Spare::Node => u64::MAX,
        };
        // Only where there are so few domains may two groups' copies be in all of them.
        let widest = demands.keys().map(|(others, _)| others.len()).max().unwrap_or(0);
        let short = demands.keys().map(|(others, siblings)| {
            let outside = free.iter().filter(|(domain, _)| !others.contains(domain));
            let places: u64 = outside.clone().map(|(_, (_, places))| places).sum();
            let mut outside: Vec<u64> = outside.map(|(_, (free, _))| *free).collect();
            outside.sort_unstable();
            outside.truncate(outside.len().saturating_sub(*siblings));
            let mut wanted = all;
            if *siblings == 0 && others.len() + widest >= free.len() {
                let may_not = demands.iter().filter(|((theirs, more), _)| {
                    let has = |domain| others.contains(domain) || theirs.contains(domain);
                    *more == 0 && free.keys().all(has)
                });
                // Where all is taken by its own group, it itself finds nothing.
                let may_not = may_not.filter(|((theirs, _), _)| theirs != others);
                wanted -= may_not.map(|(_, groups)| groups).sum::<u64>();
            }
            let room: u64 = outside.iter().sum();
            wanted.min(most).saturating_sub(room.saturating_sub(areas.min(places) * self.area))
        });
        short.max().unwrap_or(0)
    }

    /// Free extents of each domain that has a disk left, without what is kept for logs; and how many of its disks
    /// could get a copy of the metadata.
    fn free_without(&self, lost: &BTreeSet<DiskNumber>) -> BTreeMap<usize, (u64, u64)> {
        let mut left: BTreeMap<usize, Vec<&Place>> = BTreeMap::new();
        for (_, place) in self.disks.iter().filter(|(disk, _)| !lost.contains(disk)) {
            left.entry(place.domain).or_default().push(place);
        }
        let free = left.into_iter().map(|(domain, places)| {
            let volumes = places.first().map_or(0, |place| place.live.len());
            let live = (0..volumes).map(|volume| {
                let live: u64 = places.iter().map(|place| place.live[volume]).sum();
                live.min(self.per_log)
            });
            let segments = (self.per_log * self.volumes).saturating_sub(live.sum());
            let without = places.iter().filter(|place| !place.has_area).count() as u64;
            let free: u64 = places.iter().map(|place| place.free).sum();
            (domain, (free.saturating_sub(segments * u64::from(SEGMENT_EXTENTS)), without))
        });
        free.collect()
    }

    /// The positions that are to find a place: how many, by the domains that are closed to them and how many further
    /// ones may be.
    fn demands(
        &self,
        lost: &BTreeSet<DiskNumber>,
        free: &BTreeMap<usize, (u64, u64)>,
    ) -> BTreeMap<(Domains, usize), u64> {
        let mut demands = BTreeMap::new();
        let hit: BTreeSet<&Spread> =
            lost.iter().filter_map(|disk| self.on.get(disk)).flatten().collect();
        for spread in hit.into_iter().chain(&self.lacking).collect::<BTreeSet<_>>() {
            let groups = self.groups.get(spread).copied().unwrap_or(0);
            if groups == 0 {
                continue;
            }
            let is_gone =
                |disk: &&DiskNumber| lost.contains(disk) || !self.disks.contains_key(disk);
            let gone: Vec<Option<DiskNumber>> =
                spread.disks.iter().filter(is_gone).map(|disk| Some(*disk)).collect();
            let gone = gone.into_iter().chain((0..spread.to_come).map(|_| None));
            let gone: Vec<Option<DiskNumber>> = gone.collect();
            for position in &gone {
                let others = spread.disks.iter().filter(|disk| *position != Some(**disk));
                let domains = others.filter_map(|disk| self.domains.get(disk));
                let mut domains: Domains =
                    domains.copied().filter(|domain| free.contains_key(domain)).collect();
                domains.sort_unstable();
                domains.dedup();
                *demands.entry((domains, gone.len() - 1)).or_default() += groups;
            }
        }
        demands
    }
}

#[cfg(test)]
#[path = "spare_tests.rs"]
mod tests;
