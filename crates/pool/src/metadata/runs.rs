//! The map of a volume. It may have a million runs, so what is asked of all of them again and again, while hardly any of
//! them changes, is kept beside them: which of them move, which disks they are on, and whether any has another place
//! than when somebody looked last. There is no other way to change a run than through here, so it can't be forgotten.

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
    /// How many have or are to have a position on a disk; of none that has none.
    on_disks: Rc<BTreeMap<DiskNumber, u32>>,
    places: Places,
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
        self.count(&run, |runs| *runs += 1);
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
        self.count(&run, |runs| *runs -= 1);
    }

    /// The roots of a run, which say nothing about where it lies.
    pub(super) fn roots_mut(&mut self, key: &RunKey) -> Option<&mut Roots> {
        self.map.get_mut(key).map(|run| &mut run.roots)
    }

    fn count(&mut self, run: &GroupRun, change: impl Fn(&mut u32)) {
        let on_disks = Rc::make_mut(&mut self.on_disks);
        for member in run.holders() {
            let runs = on_disks.entry(member.disk).or_default();
            change(runs);
            if *runs == 0 {
                on_disks.remove(&member.disk);
            }
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
