//! Which group resync copies next, and how much of it at once (docs/engine.md, 11.13).
//!
//! What is under way is bounded for each disk, as one that gives and as one that takes, not for all together: so
//! each has its part of the work, and an arm isn't sent from one place to another and back. The groups of a disk
//! come in the order in which they were made, in which they mostly lie on it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use block::BLOCK_BYTES;

use crate::format::{DiskNumber, ExtentShape, GenerationId, VolumeId};

/// So many of the next groups are looked at for one whose disks have less to do.
const LOOKED_AT: usize = 512;
/// Beside requests a piece may keep a disk for about as long as each of them takes, by so many bytes a second.
const BESIDE_BYTES_PER_SECOND: u64 = 200_000_000;
/// The least and the most that a piece has then.
const BESIDE_PIECE_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=2 << 20;

/// How much is copied at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    /// Groups that a disk gives, and that it takes, at a time.
    pub(crate) groups: usize,
    /// What a disk took, or takes, and isn't credited with yet: that much of its groups is locked.
    pub(crate) held_bytes: u64,
    /// Pieces of a group.
    pub(crate) pieces: usize,
    /// What is read and written at once.
    pub(crate) piece_bytes: u64,
    /// So much of a group is copied before is looked whether somebody waits for it.
    pub(crate) part_bytes: u64,
}

impl Width {
    /// While nobody asks for anything.
    pub(crate) fn alone(extent_bytes: u64) -> Width {
        Width {
            groups: groups_at_once(extent_bytes),
            held_bytes: 256 << 20,
            pieces: 8,
            piece_bytes: 1 << 20,
            part_bytes: 16 << 20,
        }
    }

    /// While requests are answered, each of which takes so long.
    pub(crate) fn beside(extent_bytes: u64, took: Duration) -> Width {
        let bytes = u128::from(BESIDE_BYTES_PER_SECOND) * took.as_micros() / 1_000_000;
        let (least, most) = (*BESIDE_PIECE_BYTES.start(), *BESIDE_PIECE_BYTES.end());
        let piece_bytes = u64::try_from(bytes).unwrap_or(most).clamp(least, most);
        Width {
            groups: groups_at_once(extent_bytes),
            // A flush lets others wait until a disk has all of it.
            held_bytes: 8 << 20,
            pieces: 1,
            piece_bytes,
            part_bytes: piece_bytes.max(1 << 20),
        }
    }

    pub(crate) fn piece_rows(self) -> usize {
        (self.piece_bytes as usize / BLOCK_BYTES).max(1)
    }

    /// Regions that are copied before is looked whether somebody waits for the group.
    pub(crate) fn regions_at_once(self, shape: ExtentShape) -> u32 {
        let region_bytes = shape.extent_bytes() / u64::from(ExtentShape::REGIONS);
        (self.part_bytes / region_bytes).clamp(1, ExtentShape::REGIONS.into()) as u32
    }
}

/// Small groups that lie behind each other are read as one; of large ones two at a time would be two places.
fn groups_at_once(extent_bytes: u64) -> usize {
    if extent_bytes <= 4 << 20 { 2 } else { 1 }
}

/// A group that some disks lack something of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) volume: VolumeId,
    pub(super) generation: GenerationId,
    /// Disks that lack something, and those that have all of it.
    pub(super) to: Vec<DiskNumber>,
    pub(super) from: Vec<DiskNumber>,
}

/// What disks are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Gives,
    Takes,
    /// Its group is locked.
    Holds,
}

/// What disks have to do.
#[derive(Default)]
pub(super) struct Loads(RefCell<BTreeMap<(DiskNumber, Role), usize>>);

/// A part of it, for as long as it lives.
pub(super) struct Load {
    of: Rc<Loads>,
    parts: Vec<(DiskNumber, Role)>,
}

impl Loads {
    fn of(&self, disk: DiskNumber, role: Role) -> usize {
        self.0.borrow().get(&(disk, role)).copied().unwrap_or(0)
    }

    fn add(self: &Rc<Loads>, parts: Vec<(DiskNumber, Role)>) -> Load {
        let mut counts = self.0.borrow_mut();
        parts.iter().for_each(|part| *counts.entry(*part).or_default() += 1);
        drop(counts);
        Load { of: Rc::clone(self), parts }
    }

    /// Takes out the first group that no disk is too busy for, with what it is for its disks: to copy it, and to
    /// hold it until they are credited.
    pub(super) fn take_next(
        self: &Rc<Loads>,
        behind: &mut VecDeque<Behind>,
        is_free: impl Fn(&Behind) -> bool,
        width: Width,
        extent_bytes: u64,
    ) -> Option<(Behind, [Load; 2])> {
        let held = (width.held_bytes / extent_bytes).max(1) as usize;
        let next = behind.iter().take(LOOKED_AT).enumerate().filter(|(_, group)| is_free(group));
        let (at, gives) = next.into_iter().find_map(|(at, group)| {
            let gives = group.from.iter().copied().min_by_key(|disk| self.of(*disk, Role::Gives));
            let may_give = gives.is_none_or(|disk| self.of(disk, Role::Gives) < width.groups);
            let may_take = |disk: &DiskNumber| {
                self.of(*disk, Role::Takes) < width.groups && self.of(*disk, Role::Holds) < held
            };
            (may_give && group.to.iter().all(may_take)).then_some((at, gives))
        })?;
        let group = behind.remove(at)?;
        let as_role = |role| group.to.iter().map(move |disk| (*disk, role));
        let copies = as_role(Role::Takes).chain(gives.map(|disk| (disk, Role::Gives))).collect();
        let holds = as_role(Role::Holds).collect();
        let loads = [self.add(copies), self.add(holds)];
        Some((group, loads))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut counts = self.of.0.borrow_mut();
        for part in &self.parts {
            counts.entry(*part).and_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EXTENT: u64 = 4 << 20;

    fn group(generation: u64, from: &[u32], to: &[u32]) -> Behind {
        let disks = |numbers: &[u32]| numbers.iter().copied().map(DiskNumber).collect();
        let (from, to) = (disks(from), disks(to));
        Behind { volume: VolumeId(1), generation: GenerationId(generation), to, from }
    }

    fn take(
        loads: &Rc<Loads>,
        behind: &mut VecDeque<Behind>,
        width: Width,
    ) -> Vec<(u64, [Load; 2])> {
        let next = || loads.take_next(behind, |_| true, width, EXTENT);
        std::iter::from_fn(next).map(|(group, loads)| (group.generation.0, loads)).collect()
    }

    #[test]
    fn each_disk_gives_and_takes_few_groups_and_all_have_work() {
        let runs = [(0, [1], [2]), (100, [1], [3]), (200, [2], [1]), (300, [4], [3])];
        let groups = runs.iter().flat_map(|(first, from, to)| {
            (*first..*first + 16).map(|generation| group(generation, from, to))
        });
        let (loads, mut behind) = (Rc::new(Loads::default()), groups.collect());
        let mut taken = take(&loads, &mut behind, Width::alone(EXTENT));
        let numbers = |taken: &[(u64, [Load; 2])]| taken.iter().map(|of| of.0).collect::<Vec<_>>();
        assert_eq!(numbers(&taken), [0, 1, 200, 201, 300, 301]);
        // Who copied one goes on behind it.
        let (_, [copies, _holds]) = taken.remove(0);
        drop(copies);
        assert_eq!(numbers(&take(&loads, &mut behind, Width::alone(EXTENT))), [2]);
    }

    #[test]
    fn what_is_copied_and_not_credited_is_bounded() {
        let width = Width { held_bytes: 3 * EXTENT, ..Width::alone(EXTENT) };
        let (loads, mut behind) = (Rc::new(Loads::default()), VecDeque::new());
        behind.extend((0..9).map(|generation| group(generation, &[1], &[2])));
        let mut held = Vec::new();
        for expected in [2, 1, 0] {
            let taken = take(&loads, &mut behind, width);
            assert_eq!(taken.len(), expected);
            held.extend(taken.into_iter().map(|(_, [_copies, holds])| holds));
        }
        drop(held);
        assert_eq!(take(&loads, &mut behind, width).len(), 2);
    }

    #[test]
    fn one_of_several_gives_and_it_is_the_one_with_least_to_do() {
        let (loads, mut behind) = (Rc::new(Loads::default()), VecDeque::new());
        behind
            .extend((0..9).map(|generation| group(generation, &[1, 2], &[3 + generation as u32])));
        assert_eq!(take(&loads, &mut behind, Width::alone(EXTENT)).len(), 4);
    }

    #[test]
    fn a_piece_beside_requests_takes_a_disk_about_as_long_as_one_of_them() {
        let piece = |micros| Width::beside(EXTENT, Duration::from_micros(micros)).piece_bytes;
        assert_eq!(piece(0), 128 << 10);
        assert_eq!(piece(10_000), 2_000_000);
        assert_eq!(piece(1_000_000), 2 << 20);
    }
}
