//! The map of a volume. It may have a million runs, so what is asked of all of them again and again, while hardly any of
//! them changes, is kept beside them: which of them move, what they have on which disk, how many copies, and whether any has
//! another place than when somebody looked last. There is no other way to change a run than through here, so it can't be forgotten.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

use super::{GroupRun, Roots, RunKey, SharedMap};
use crate::format::DiskNumber;

/// The runs of a volume, by their keys. Clones share everything until one of them changes.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    map: SharedMap<RunKey, GroupRun>,
    /// Those of which a position moves, or that get a further one.
    moving: SharedMap<RunKey, ()>,
    /// What they have on each disk; of none that has nothing.
    on_disks: Rc<BTreeMap<DiskNumber, OnDisk>>,
    /// Groups, by how many positions they have.
    by_copies: Rc<BTreeMap<usize, u64>>,
    places: Places,
}

/// What the runs of a volume have on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct OnDisk {
    /// Those that have or are to have a position there.
    runs: u32,
    /// Groups that have one.
    groups: u64,
}

/// Where the runs of a volume lie: the same as long as none comes, goes, is split or moves. What isn't the same may
/// still be alike.
#[derive(Clone, Debug, Default)]
pub struct Places(Rc<()>);

impl Places {
    /// Whether not a single run came, went or moved in between. As long as one of both is there no other takes its
    /// address.
    pub fn is_same(&self, other: &Places) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Runs {
    /// Puts a run in its place, or another one there.
    pub(super) fn insert(&mut self, run: GroupRun) {
        self.remove(&run.key);
        self.count(&run, u64::wrapping_add);
        if run.incoming.is_some() {
            self.moving.insert_mut(run.key, ());
        }
        self.map.insert_mut(run.key, run);
    }

    /// Takes a run out.
    pub(super) fn remove(&mut self, key: &RunKey) {
        self.places = Places::default();
        let Some(run) = self.map.get(key).cloned() else { return };
        self.map.remove_mut(key);
        self.moving.remove_mut(key);
        self.count(&run, u64::wrapping_sub);
    }

    /// The roots of a run, which say nothing about where it lies.
    pub(super) fn roots_mut(&mut self, key: &RunKey) -> Option<&mut Roots> {
        self.map.get_mut(key).map(|run| &mut run.roots)
    }

    fn count(&mut self, run: &GroupRun, change: impl Fn(u64, u64) -> u64) {
        let on_disks = Rc::make_mut(&mut self.on_disks);
        let groups = u64::from(run.count);
        for member in run.holders() {
            let on_disk = on_disks.entry(member.disk).or_default();
            on_disk.runs = change(on_disk.runs.into(), 1) as u32;
        }
        for member in &run.members {
            let on_disk = on_disks.entry(member.disk).or_default();
            on_disk.groups = change(on_disk.groups, groups);
        }
        for member in run.holders() {
            if on_disks.get(&member.disk) == Some(&OnDisk::default()) {
                on_disks.remove(&member.disk);
            }
        }
        let copies = run.members.len();
        let by_copies = Rc::make_mut(&mut self.by_copies);
        let known = by_copies.entry(copies).or_default();
        *known = change(*known, groups);
        if *known == 0 {
            by_copies.remove(&copies);
        }
    }

    /// The runs of which a position moves, or that get a further one.
    pub fn moving(&self) -> impl Iterator<Item = &GroupRun> {
        self.moving.keys().filter_map(|key| self.map.get(key))
    }

    /// The disks that any of them has or is to have a position on.
    pub fn disks(&self) -> impl Iterator<Item = DiskNumber> + '_ {
        self.on_disks.keys().copied()
    }

    /// Whether any of them has or is to have a position on a disk.
    pub fn is_on(&self, disk: DiskNumber) -> bool {
        self.on_disks.contains_key(&disk)
    }

    /// How many groups have a position on which disk, of those that have any.
    pub fn groups_on_disks(&self) -> impl Iterator<Item = (DiskNumber, u64)> + '_ {
        let groups = self.on_disks.iter().map(|(disk, on_disk)| (*disk, on_disk.groups));
        groups.filter(|(_, groups)| *groups > 0)
    }

    /// How many groups have a position on a disk.
    pub fn groups_on(&self, disk: DiskNumber) -> u64 {
        self.on_disks.get(&disk).map_or(0, |on_disk| on_disk.groups)
    }

    /// How many groups have so many positions.
    pub fn groups_by_copies(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.by_copies.iter().map(|(copies, groups)| (*copies, *groups))
    }

    /// Where they lie.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

impl Deref for Runs {
    type Target = SharedMap<RunKey, GroupRun>;

    fn deref(&self) -> &SharedMap<RunKey, GroupRun> {
        &self.map
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = (&'a RunKey, &'a GroupRun);
    type IntoIter = <&'a SharedMap<RunKey, GroupRun> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.map.iter()
    }
}

/// All else follows from the runs.
impl PartialEq for Runs {
    fn eq(&self, other: &Runs) -> bool {
        self.map == other.map
    }
}

impl Eq for Runs {}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
