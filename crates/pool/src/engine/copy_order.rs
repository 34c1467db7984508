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

/// Beside requests a piece may keep a disk for about as long as each of them takes, by so many bytes a second.
const BESIDE_BYTES_PER_SECOND: u64 = 200_000_000;
/// The least and the most that a piece has then.
const BESIDE_PIECE_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=2 << 20;
/// The least that a disk takes before it is flushed, also before it is known how long that takes, and the most.
const HELD_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;
/// So many times as much as before is flushed at once, at most.
const HELD_GROWTH: u64 = 4;

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
            held_bytes: *HELD_BYTES.end(),
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

/// Disks that have all of a group, and disks that lack something of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Between {
    pub(super) from: Vec<DiskNumber>,
    pub(super) to: Vec<DiskNumber>,
}

/// Groups that wait to be copied, those between the same disks in a line of their own: whom one disk keeps waiting
/// stands in nobody else's way.
#[derive(Default)]
pub(super) struct Lines {
    lines: BTreeMap<Between, VecDeque<(VolumeId, GenerationId)>>,
    len: usize,
}

impl Lines {
    /// Puts a group at the end of its line.
    pub(super) fn push(&mut self, between: Between, volume: VolumeId, generation: GenerationId) {
        self.lines.entry(between).or_default().push_back((volume, generation));
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn remove(&mut self, between: &Between, at: usize) -> Option<(VolumeId, GenerationId)> {
        let line = self.lines.get_mut(between)?;
        let group = line.remove(at)?;
        if line.is_empty() {
            self.lines.remove(between);
        }
        self.len -= 1;
        Some(group)
    }
}

/// What is copied next, how much of it, and what it is for its disks: to copy it, and to hold it until they are
/// credited.
pub(super) struct Next {
    pub(super) generation: GenerationId,
    pub(super) width: Width,
    pub(super) copies: Load,
    pub(super) holds: Load,
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
pub(super) struct Loads {
    counts: RefCell<BTreeMap<(DiskNumber, Role), usize>>,
    /// What each may take before it is flushed.
    held_bytes: RefCell<BTreeMap<DiskNumber, u64>>,
}

/// A part of it, for as long as it lives.
pub(super) struct Load {
    of: Rc<Loads>,
    parts: Vec<(DiskNumber, Role)>,
}

impl Loads {
    fn of(&self, disk: DiskNumber, role: Role) -> usize {
        self.counts.borrow().get(&(disk, role)).copied().unwrap_or(0)
    }

    fn add(self: &Rc<Loads>, parts: Vec<(DiskNumber, Role)>) -> Load {
        let mut counts = self.counts.borrow_mut();
        parts.iter().for_each(|part| *counts.entry(*part).or_default() += 1);
        drop(counts);
        Load { of: Rc::clone(self), parts }
    }

    fn held_bytes(&self, disk: DiskNumber) -> u64 {
        self.held_bytes.borrow().get(&disk).copied().unwrap_or(*HELD_BYTES.start())
    }

    /// A disk was flushed, which took so long for so much that was copied to it; it is to take about `wanted`: others
    /// wait meanwhile, for its groups and for what they write to it.
    pub(super) fn was_flushed(
        &self,
        disk: DiskNumber,
        bytes: u64,
        took: Duration,
        wanted: Duration,
    ) {
        let before = self.held_bytes(disk);
        let in_time = u128::from(bytes) * wanted.as_nanos() / took.as_nanos().max(1);
        let in_time = u64::try_from(in_time).unwrap_or(u64::MAX);
        let next = match took > wanted {
            true => in_time.min(before),
            // A few bytes take as long as more would.
            false => in_time.max(before).min(before.saturating_mul(HELD_GROWTH)),
        };
        let next = next.clamp(*HELD_BYTES.start(), *HELD_BYTES.end());
        self.held_bytes.borrow_mut().insert(disk, next);
    }

    /// Takes out the most endangered group that no disk is too busy for.
    pub(super) fn take_next(
        self: &Rc<Loads>,
        waiting: &mut Lines,
        is_free: impl Fn(VolumeId, GenerationId) -> bool,
        width: Width,
        extent_bytes: u64,
    ) -> Option<Next> {
        let held_bytes = |between: &Between| {
            let held = between.to.iter().map(|disk| self.held_bytes(*disk)).min();
            held.map_or(width.held_bytes, |held| held.min(width.held_bytes))
        };
        let gives = |between: &Between| {
            let disks = between.from.iter().copied();
            disks.min_by_key(|disk| self.of(*disk, Role::Gives))
        };
        let first = waiting.lines.iter().filter_map(|(between, line)| {
            let held = (held_bytes(between) / extent_bytes).max(1) as usize;
            let may_give =
                gives(between).is_none_or(|disk| self.of(disk, Role::Gives) < width.groups);
            let may_take = |disk: &DiskNumber| {
                self.of(*disk, Role::Takes) < width.groups && self.of(*disk, Role::Holds) < held
            };
            if !may_give || !between.to.iter().all(may_take) {
                return None;
            }
            let at = line.iter().position(|(volume, generation)| is_free(*volume, *generation))?;
            Some((between.from.len(), line.get(at)?.1, at, between))
        });
        let (.., at, between) = first.min()?;
        let (between, held_bytes, gives) = (between.clone(), held_bytes(between), gives(between));
        let (_, generation) = waiting.remove(&between, at)?;
        let as_role = |role| between.to.iter().map(move |disk| (*disk, role));
        let copies = as_role(Role::Takes).chain(gives.map(|disk| (disk, Role::Gives))).collect();
        let (copies, holds) = (self.add(copies), self.add(as_role(Role::Holds).collect()));
        // A part is copied before anybody looks how much it was.
        let width = Width { held_bytes, part_bytes: width.part_bytes.min(held_bytes), ..width };
        Some(Next { generation, width, copies, holds })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut counts = self.of.counts.borrow_mut();
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

    fn push(lines: &mut Lines, generation: u64, from: &[u32], to: &[u32]) {
        let disks = |numbers: &[u32]| numbers.iter().copied().map(DiskNumber).collect();
        let between = Between { from: disks(from), to: disks(to) };
        lines.push(between, VolumeId(1), GenerationId(generation));
    }

    fn take(loads: &Rc<Loads>, lines: &mut Lines, width: Width) -> Vec<Next> {
        let next = || loads.take_next(lines, |_, _| true, width, EXTENT);
        std::iter::from_fn(next).collect()
    }

    fn numbers(taken: &[Next]) -> Vec<u64> {
        taken.iter().map(|next| next.generation.0).collect()
    }

    /// Disks that flush as soon as they are asked.
    fn quick() -> Rc<Loads> {
        let loads = Rc::new(Loads::default());
        for disk in (0..20).map(DiskNumber) {
            for _ in 0..8 {
                loads.was_flushed(disk, 1 << 30, Duration::from_millis(1), Duration::from_secs(1));
            }
        }
        loads
    }

    #[test]
    fn each_disk_gives_and_takes_few_groups_and_all_have_work() {
        let runs = [(0, [1], [2]), (100, [1], [3]), (200, [2], [1]), (300, [4], [3])];
        let (loads, mut lines) = (quick(), Lines::default());
        for (first, from, to) in runs {
            (first..first + 16).for_each(|generation| push(&mut lines, generation, &from, &to));
        }
        let mut taken = take(&loads, &mut lines, Width::alone(EXTENT));
        assert_eq!(numbers(&taken), [0, 1, 200, 201, 300, 301]);
        // Who copied one goes on behind it.
        drop(taken.remove(0).copies);
        assert_eq!(numbers(&take(&loads, &mut lines, Width::alone(EXTENT))), [2]);
    }

    #[test]
    fn however_many_wait_for_one_disk_the_others_have_work() {
        let (loads, mut lines) = (quick(), Lines::default());
        (0..5000).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        (5000..5010).for_each(|generation| push(&mut lines, generation, &[3], &[4]));
        assert_eq!(numbers(&take(&loads, &mut lines, Width::alone(EXTENT))), [0, 1, 5000, 5001]);
        assert_eq!(lines.len(), 5006);
    }

    #[test]
    fn the_most_endangered_come_first() {
        let (loads, mut lines) = (quick(), Lines::default());
        push(&mut lines, 1, &[1, 2], &[3]);
        push(&mut lines, 2, &[4], &[3]);
        push(&mut lines, 3, &[], &[3]);
        let width = Width { groups: 1, ..Width::alone(EXTENT) };
        let order = std::iter::from_fn(|| take(&loads, &mut lines, width).pop());
        assert_eq!(order.map(|next| next.generation.0).collect::<Vec<_>>(), [3, 2, 1]);
    }

    #[test]
    fn what_is_copied_and_not_credited_is_bounded() {
        let width = Width { held_bytes: 3 * EXTENT, ..Width::alone(EXTENT) };
        let (loads, mut lines) = (quick(), Lines::default());
        (0..9).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        let mut held = Vec::new();
        for expected in [2, 1, 0] {
            let taken = take(&loads, &mut lines, width);
            assert_eq!(taken.len(), expected);
            held.extend(taken.into_iter().map(|next| next.holds));
        }
        drop(held);
        assert_eq!(take(&loads, &mut lines, width).len(), 2);
    }

    #[test]
    fn a_disk_that_flushes_slowly_takes_less_at_once() {
        let (loads, disk, wanted) = (quick(), DiskNumber(2), Duration::from_millis(500));
        loads.was_flushed(disk, 64 << 20, Duration::from_secs(4), wanted);
        assert_eq!(loads.held_bytes(disk), 8 << 20);
        loads.was_flushed(disk, 8 << 20, Duration::from_secs(40), wanted);
        assert_eq!(loads.held_bytes(disk), 1 << 20);
        let mut lines = Lines::default();
        (0..9).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        let taken = take(&loads, &mut lines, Width::alone(EXTENT));
        assert_eq!(taken.iter().map(|next| next.width.held_bytes).collect::<Vec<_>>(), [1 << 20]);
        // Nor is a part of a large group more than that: of 64 MiB a region.
        let shape = ExtentShape::new(64 << 20).unwrap();
        assert_eq!(taken[0].width.regions_at_once(shape), 1);
        loads.was_flushed(disk, 1 << 20, Duration::from_millis(1), wanted);
        assert_eq!(loads.held_bytes(disk), 4 << 20);
        // What little takes says nothing against more.
        loads.was_flushed(disk, 4096, Duration::from_millis(20), wanted);
        assert_eq!(loads.held_bytes(disk), 4 << 20);
    }

    #[test]
    fn one_of_several_gives_and_it_is_the_one_with_least_to_do() {
        let (loads, mut lines) = (quick(), Lines::default());
        (0..9).for_each(|number| push(&mut lines, number, &[1, 2], &[3 + number as u32]));
        assert_eq!(take(&loads, &mut lines, Width::alone(EXTENT)).len(), 4);
    }

    #[test]
    fn a_piece_beside_requests_takes_a_disk_about_as_long_as_one_of_them() {
        let piece = |micros| Width::beside(EXTENT, Duration::from_micros(micros)).piece_bytes;
        assert_eq!(piece(0), 128 << 10);
        assert_eq!(piece(10_000), 2_000_000);
        assert_eq!(piece(1_000_000), 2 << 20);
    }
}
