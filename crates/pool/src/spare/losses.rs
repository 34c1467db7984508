//! The losses that a spare is for, and what the pool is after each: what was on its way to what is lost has stayed where it
//! was.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Loss, Place, Room, Spare, Standing, change, lacking};
use crate::format::DiskNumber;

/// A run of which a position is on its way to a disk. It is counted there; if that disk is lost, it is where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) to: DiskNumber,
    /// None where it is one more.
    pub(super) from: Option<Uuid>,
    /// The domains of the run's positions before it arrives, and once it has.
    pub(super) before: Vec<Uuid>,
    pub(super) after: Vec<Uuid>,
    pub(super) groups: i64,
    /// How many its volume is to have.
    pub(super) copies: u8,
}

/// What is lost at once.
pub(super) struct Lost {
    pub(super) loss: Loss,
    /// Domains of which nothing is left.
    pub(super) domains: BTreeSet<Uuid>,
    /// The domain of a disk that others are left of, and the extents of that disk.
    pub(super) partly: Option<(Uuid, u64)>,
    /// Copies of the metadata.
    pub(super) areas: u64,
    /// Domains as they are after it where that is otherwise: what was on its way to what is lost has stayed where it was.
    pub(super) rooms: BTreeMap<Uuid, Room>,
    /// Positions that wait for a place then, besides those that are lost.
    pub(super) waiting: u64,
}

impl Standing {
    /// Each loss that the spare is for.
    pub(super) fn losses(&self) -> Vec<Lost> {
        let mut in_domain: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut nodes: BTreeMap<Uuid, Vec<Place>> = BTreeMap::new();
        for place in self.disks.values() {
            *in_domain.entry(place.domain).or_default() += 1;
            nodes.entry(place.node).or_default().push(*place);
        }
        let areas_of = |places: &[Place]| places.iter().filter(|place| place.has_area).count();
        // Where a copy of the metadata is may change until then.
        let areas = |places: &[Place]| areas_of(places).max(1) as u64;
        let disks = self.disks.iter().map(|(disk, place)| {
            let is_alone = in_domain.get(&place.domain) == Some(&1);
            Lost {
                loss: Loss::Disk(*disk),
                domains: is_alone.then_some(place.domain).into_iter().collect(),
                partly: (!is_alone).then_some((place.domain, place.room)),
                areas: areas(&[*place]),
                rooms: BTreeMap::new(),
                waiting: self.waiting,
            }
        });
        let nodes = nodes.iter().map(|(node, places)| {
            let domains: BTreeSet<Uuid> = places.iter().map(|place| place.domain).collect();
            // Labels may have joined it with others, of which something is left.
            let joined = domains.first().filter(|domain| {
                domains.len() == 1 && in_domain.get(domain) != Some(&places.len())
            });
            let room = places.iter().map(|place| place.room).sum();
            let partly = joined.map(|domain| (*domain, room));
            let domains = if partly.is_some() { BTreeSet::new() } else { domains };
            let (loss, areas) = (Loss::Node(*node), areas(places));
            let (rooms, waiting) = (BTreeMap::new(), self.waiting);
            Lost { loss, domains, partly, areas, rooms, waiting }
        });
        let mut losses: Vec<Lost> = match self.spare {
            Spare::Disk | Spare::Bytes(_) => disks.collect(),
            // Of one domain a disk is no more than all of it.
            Spare::Node if !self.by_disk => nodes.collect(),
            Spare::Node => disks.chain(nodes).collect(),
        };
        losses.iter_mut().for_each(|lost| self.take_back(lost));
        losses
    }

    /// After a loss what was on its way there is where it was.
    fn take_back(&self, lost: &mut Lost) {
        let is_lost = |disk: &DiskNumber| match lost.loss {
            Loss::Disk(lost) => *disk == lost,
            Loss::Node(node) => self.disks.get(disk).is_some_and(|place| place.node == node),
        };
        let arrivals: Vec<&Arrival> =
            self.arrivals.iter().filter(|arrival| is_lost(&arrival.to)).collect();
        for Arrival { to, from, before, after, groups, copies } in arrivals {
            let to = self.disks.get(to).map(|place| place.domain);
            for domain in before.iter().chain(after).chain(&to).chain(from) {
                let room = self.rooms.get(domain).copied().unwrap_or_default();
                lost.rooms.entry(*domain).or_insert(room);
            }
            change(&mut lost.rooms, after, -groups);
            change(&mut lost.rooms, before, *groups);
            for (domain, freed) in [(to, *groups), (*from, -groups)] {
                if let Some(room) = domain.and_then(|domain| lost.rooms.get_mut(&domain)) {
                    room.free += freed;
                }
            }
            let more = lacking(before, *copies).saturating_sub(lacking(after, *copies));
            lost.waiting += more * groups.unsigned_abs();
        }
    }
}
