//! Which group resync copies next, and how much of it at once (docs/engine.md, 11.13).
//!
//! What is under way is bounded for each disk, not for all together: so each has its part of the work. A disk gives or
//! takes, for one other at a time, and the groups of a line come in the order in which they were made, in which they
//! mostly lie on it: so an arm isn't sent from one place to another and back.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Instant};

use super::disk_work::Flushes;
use super::underway::WaitsFor;
use crate::format::{DiskNumber, ExtentShape, GenerationId, VolumeId};

/// Beside requests a piece may keep a disk for about twice as long as each of them takes, where the disk does 200 MB/s.
const BESIDE_BYTES_PER_SECOND: u64 = 400_000_000;
/// The least that a piece has then; the most is what it has while nobody asks for anything. (Hard disks, 10 Gbit/s, requests at half of
/// what the pool answers: with two pieces of up to 4 MiB 6 GiB are rebuilt faster by a third, and one of a hundred requests takes 2.3
/// times as long as without, in place of 1.7.)
const BESIDE_PIECE_BYTES_MIN: u64 = 128 << 10;
/// What is read and written at once while nobody asks for anything.
const PIECE_BYTES: u64 = 1 << 20;
/// A part has so many.
const BESIDE_PIECES_PER_PART: u64 = 4;
/// So much is taken before a flush then: others wait until a disk has all of it.
const BESIDE_HELD_BYTES: u64 = 32 << 20;
/// The least and the most that a disk takes before it is flushed. It begins with the least: until one was flushed
/// nobody knows how long that takes, and who is slow would be out before he could show it.
const HELD_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;
/// What a disk may have taken before it is credited, while nobody asks for anything: a credit waits for writes to each of
/// several disks, and whoever wants a group that is locked until then has it credited at once.
const UNCREDITED_BYTES: u64 = 1 << 30;
/// So many times as much as before is flushed at once, at most.
const HELD_GROWTH: u64 = 16;
/// Pieces of a group that are under way at once, at most.
const PIECES: usize = 8;
/// Beside requests, where each waits for a disk that has nothing to do: one is read, one is written, and the next ones are
/// there as soon as the disks are.
const PIECES_BESIDE: usize = 4;
/// Disks on which requests take less have no arm.
const ARM_TAKES: Duration = Duration::from_millis(2);
/// A piece that takes longer waits behind others of its group, in front of a disk or of a cable: fewer are under way
/// then. Of those that take less than half of it there may be more.
const PIECE_TAKES: Duration = Duration::from_millis(200);
/// Of two lines the one goes first of whose disks one has more to do for all, so that none is left with work in the end
/// and nobody to do it with. Who goes on with a line need not find another place, which is worth so much, as a sum of what
/// two such disks have.
const GOES_ON_BYTES: u64 = 128 << 20;
/// Turns after which it is forgotten when a line had its last one.
const TURNS_REMEMBERED: u64 = 1000;
/// For so long at most its disks wait for it.
const TURN_MAX: Duration = Duration::from_secs(5);
/// So often the line that was served least lately has its turn, whatever its disks do for others. They wait for each
/// other meanwhile, so it is seldom.
const TURN_EVERY: Duration = Duration::from_secs(2);

/// How much is copied at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    /// Groups that a disk gives, or that it takes, at a time.
    pub(crate) groups: usize,
    /// What a disk took, or takes, and isn't credited with yet: that much of its groups is locked.
    pub(crate) held_bytes: u64,
    /// Pieces of a group.
    pub(crate) pieces: usize,
    /// What is read and written at once.
    pub(crate) piece_bytes: u64,
    /// What a piece waits for in front of its disks.
    pub(crate) waits_for: WaitsFor,
    /// The disks of a group may have the next one as soon as the last piece is under way.
    pub(crate) overlaps: bool,
    /// So much of a group is copied before is looked how much that was, and how long it took.
    pub(crate) part_bytes: u64,
}

impl Width {
    /// While nobody asks for anything.
    pub(crate) fn alone(extent_bytes: u64) -> Width {
        Width {
            groups: groups_at_once(extent_bytes),
            held_bytes: UNCREDITED_BYTES,
            pieces: PIECES,
            piece_bytes: PIECE_BYTES,
            waits_for: WaitsFor::Awaited,
            overlaps: true,
            part_bytes: 64 << 20,
        }
    }

    /// While requests are answered, each of which takes so long.
    pub(crate) fn beside(extent_bytes: u64, took: Duration) -> Width {
        let bytes = u128::from(BESIDE_BYTES_PER_SECOND) * took.as_micros() / 1_000_000;
        let bytes = u64::try_from(bytes).unwrap_or(PIECE_BYTES);
        let piece_bytes = bytes.clamp(BESIDE_PIECE_BYTES_MIN, PIECE_BYTES);
        let (pieces, waits_for) = match took < ARM_TAKES {
            true => (1, WaitsFor::Awaited),
            false => (PIECES_BESIDE, WaitsFor::Rest),
        };
        Width {
            groups: groups_at_once(extent_bytes),
            held_bytes: BESIDE_HELD_BYTES,
            pieces,
            piece_bytes,
            waits_for,
            overlaps: false,
            part_bytes: (BESIDE_PIECES_PER_PART * piece_bytes).max(PIECE_BYTES),
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

fn groups_of(bytes: u64, extent_bytes: u64) -> usize {
    (bytes / extent_bytes).max(1) as usize
}

/// Disks that have all of a group, and disks that lack something of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Between {
    pub(super) from: Vec<DiskNumber>,
    pub(super) to: Vec<DiskNumber>,
}

impl Between {
    fn disks(&self) -> impl Iterator<Item = DiskNumber> {
        self.from.iter().chain(&self.to).copied()
    }
}

/// Groups that wait to be copied, those between the same disks in a line of their own: whom one disk keeps waiting
/// stands in nobody else's way.
#[derive(Default)]
pub(super) struct Lines {
    lines: BTreeMap<Between, VecDeque<(VolumeId, GenerationId)>>,
    /// In how many groups that wait a disk has a part.
    of_disk: BTreeMap<DiskNumber, usize>,
    len: usize,
}

impl Lines {
    /// Puts a group at the end of its line.
    pub(super) fn push(&mut self, between: Between, volume: VolumeId, generation: GenerationId) {
        for disk in between.disks() {
            *self.of_disk.entry(disk).or_default() += 1;
        }
        self.lines.entry(between).or_default().push_back((volume, generation));
        self.len += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn of(&self, disk: DiskNumber) -> usize {
        self.of_disk.get(&disk).copied().unwrap_or(0)
    }

    fn remove(&mut self, between: &Between, at: usize) -> Option<(VolumeId, GenerationId)> {
        let line = self.lines.get_mut(between)?;
        let group = line.remove(at)?;
        if line.is_empty() {
            self.lines.remove(between);
        }
        for disk in between.disks() {
            self.of_disk.entry(disk).and_modify(|count| *count = count.saturating_sub(1));
        }
        self.len -= 1;
        Some(group)
    }
}

/// What is copied next, how much of it, and what it is for its disks: to copy it, to make it durable, and to hold it
/// until they are credited.
pub(super) struct Next {
    pub(super) generation: GenerationId,
    pub(super) width: Width,
    /// The disk that it is likely read from.
    pub(super) gives: Option<DiskNumber>,
    pub(super) copies: Load,
    /// For each disk that takes it.
    pub(super) writes: BTreeMap<DiskNumber, Load>,
    pub(super) holds: Load,
}

/// What disks are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Gives,
    Takes,
    /// It takes it, or has it in its cache.
    Writes,
    /// Its group is locked.
    Holds,
}

/// What disks have to do.
#[derive(Default)]
pub(super) struct Loads {
    counts: RefCell<BTreeMap<(DiskNumber, Role), usize>>,
    /// Of which line each gave or took last.
    at_line: RefCell<BTreeMap<DiskNumber, Between>>,
    /// What each may take before it is flushed.
    held_bytes: RefCell<BTreeMap<DiskNumber, u64>>,
    /// Pieces of a group that are under way at once where a disk gives it, and since when so many.
    pieces: RefCell<BTreeMap<DiskNumber, (usize, Instant)>>,
    turns: RefCell<Turns>,
    pub(super) flushes: Rc<Flushes>,
}

/// Who is served though others go on: else two disks that have much to do for each other, however slowly, would keep
/// all others waiting for them.
#[derive(Default)]
struct Turns {
    /// When each line was served last, counted in turns.
    served: BTreeMap<Between, u64>,
    count: u64,
    /// Whose disks begin nothing for others, and since when.
    next: Option<(Between, Instant)>,
    looked_at: Instant,
}

/// A part of it, for as long as it lives.
pub(super) struct Load {
    of: Rc<Loads>,
    parts: Vec<(DiskNumber, Role)>,
}

impl Turns {
    /// A line had its turn.
    fn serve(&mut self, between: &Between) {
        self.count += 1;
        self.served.insert(between.clone(), self.count);
        self.next.take_if(|(next, _)| next == between);
    }

    /// Looks whose turn it is, if nobody has it: of the most endangered the one that was served least lately.
    fn look(&mut self, waiting: &Lines, now: Instant) {
        let is_over = |(_, since): &mut (Between, Instant)| now.since(*since) >= TURN_MAX;
        let passed_over = self.next.take_if(is_over).map(|(between, _)| between);
        if let Some(between) = &passed_over {
            self.serve(between);
        }
        self.next.take_if(|(between, _)| !waiting.lines.contains_key(between));
        if self.next.is_some() || now.since(self.looked_at) < TURN_EVERY {
            return;
        }
        self.looked_at = now;
        self.served.retain(|_, at| *at + TURNS_REMEMBERED > self.count);
        let served = |between: &Between| self.served.get(between).copied().unwrap_or(0);
        // What nobody has whole is tried before all others as it is.
        let lines = waiting.lines.keys();
        let lines =
            lines.filter(|line| !line.from.is_empty() && Some(*line) != passed_over.as_ref());
        let next = lines.min_by_key(|between| (between.from.len(), served(between)));
        self.next = next.map(|between| (between.clone(), now));
    }

    /// Whether a disk may begin something of this line.
    fn allow(&self, disk: DiskNumber, between: &Between) -> bool {
        let next = self.next.as_ref().map(|(next, _)| next);
        next.is_none_or(|next| next == between || !next.disks().any(|of_next| of_next == disk))
    }
}

impl Loads {
    /// A group was copied from a disk, and no piece of it took longer.
    pub(super) fn was_copied(&self, gave: DiskNumber, slowest_piece: Duration, now: Instant) {
        let mut all = self.pieces.borrow_mut();
        let (pieces, since) = all.entry(gave).or_insert((PIECES, now));
        // What is seen by then may be of those before.
        if now.since(*since) < PIECE_TAKES {
            return;
        }
        *since = now;
        if slowest_piece > PIECE_TAKES {
            *pieces = (*pieces * 3 / 4).max(1);
        } else if slowest_piece < PIECE_TAKES / 2 {
            *pieces = (*pieces + 1).min(PIECES);
        }
    }

    /// Whether a disk takes nothing more before it is credited.
    pub(super) fn is_any_full(&self, width: Width, extent_bytes: u64) -> bool {
        let most = groups_of(width.held_bytes, extent_bytes);
        let counts = self.counts.borrow();
        counts.iter().any(|((_, role), count)| *role == Role::Holds && *count >= most)
    }

    /// Whether something is being copied to it.
    pub(super) fn is_taking(&self, disk: DiskNumber) -> bool {
        self.of(disk, Role::Takes) > 0
    }

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

    /// A disk was flushed, or it was waited for in vain, so long for so much that was copied to it; it is to take about
    /// `wanted`: others wait meanwhile, for its groups and for what they write to it.
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
        now: Instant,
    ) -> Option<Next> {
        let mut turns = self.turns.borrow_mut();
        turns.look(waiting, now);
        let held_bytes = |between: &Between| {
            let held = between.to.iter().map(|disk| self.held_bytes(*disk)).min();
            held.map_or(width.held_bytes, |held| held.min(width.held_bytes))
        };
        let at_line = self.at_line.borrow();
        let is_at = |disk: DiskNumber, between: &Between| at_line.get(&disk) == Some(between);
        let may = |disk: DiskNumber, role, between: &Between| {
            let count = self.of(disk, role);
            let is_free = count == 0 || count < width.groups && is_at(disk, between);
            is_free && turns.allow(disk, between)
        };
        let giver = |between: &Between| {
            let least = |disk: &DiskNumber| (self.of(*disk, Role::Gives), waiting.of(*disk));
            let may_give = |disk: &DiskNumber| {
                self.of(*disk, Role::Writes) == 0 && may(*disk, Role::Gives, between)
            };
            between.from.iter().copied().filter(may_give).min_by_key(least)
        };
        let first = waiting.lines.iter().filter_map(|(between, line)| {
            let held = groups_of(held_bytes(between), extent_bytes);
            let may_take = |disk: &DiskNumber| {
                self.of(*disk, Role::Gives) == 0
                    && may(*disk, Role::Takes, between)
                    && self.of(*disk, Role::Writes) < held
                    && self.of(*disk, Role::Holds) < groups_of(width.held_bytes, extent_bytes)
            };
            if !between.to.iter().all(may_take) {
                return None;
            }
            let gives = giver(between);
            if gives.is_none() && !between.from.is_empty() {
                return None;
            }
            let both = gives.iter().chain(&between.to);
            let goes_on = both.clone().all(|disk| is_at(*disk, between));
            let bonus = if goes_on { groups_of(GOES_ON_BYTES, extent_bytes) } else { 0 };
            let most = 2 * both.map(|disk| waiting.of(*disk)).max().unwrap_or(0) + bonus;
            let at = line.iter().position(|(volume, generation)| is_free(*volume, *generation))?;
            let order = (between.from.len(), Reverse(most), line.get(at)?.1);
            Some((order, at, gives, between))
        });
        let (_, at, gives, between) = first.min()?;
        let (between, held_bytes) = (between.clone(), held_bytes(between));
        drop(at_line);
        let (_, generation) = waiting.remove(&between, at)?;
        turns.serve(&between);
        for disk in gives.iter().chain(&between.to) {
            self.at_line.borrow_mut().insert(*disk, between.clone());
        }
        let as_role = |role| between.to.iter().map(move |disk| (*disk, role));
        let copies = as_role(Role::Takes).chain(gives.map(|disk| (disk, Role::Gives))).collect();
        let (copies, holds) = (self.add(copies), self.add(as_role(Role::Holds).collect()));
        let writes = as_role(Role::Writes).map(|part| (part.0, self.add(vec![part]))).collect();
        // A part is copied before anybody looks how much it was.
        let part_bytes = width.part_bytes.min(held_bytes);
        let pieces = gives.and_then(|disk| self.pieces.borrow().get(&disk).map(|(most, _)| *most));
        let pieces = width.pieces.min(pieces.unwrap_or(PIECES));
        let width = Width { held_bytes, part_bytes, pieces, ..width };
        Some(Next { generation, width, gives, copies, writes, holds })
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
        take_at(loads, lines, width, Instant::default())
    }

    fn take_at(loads: &Rc<Loads>, lines: &mut Lines, width: Width, now: Instant) -> Vec<Next> {
        let next = || loads.take_next(lines, |_, _| true, width, EXTENT, now);
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
    fn each_disk_gives_or_takes_few_groups_of_one_line() {
        let runs = [(0, [1], [2]), (100, [1], [3]), (200, [2], [1]), (300, [4], [3])];
        let (loads, mut lines) = (quick(), Lines::default());
        for (first, from, to) in runs {
            (first..first + 16).for_each(|generation| push(&mut lines, generation, &from, &to));
        }
        let mut taken = take(&loads, &mut lines, Width::alone(EXTENT));
        assert_eq!(numbers(&taken), [0, 1, 300, 301]);
        // Who copied one goes on behind it, and doesn't begin elsewhere.
        drop(taken.remove(0).copies);
        assert_eq!(numbers(&take(&loads, &mut lines, Width::alone(EXTENT))), [2]);
    }

    #[test]
    fn who_has_taken_something_gives_only_once_that_is_durable() {
        let (loads, mut lines) = (quick(), Lines::default());
        push(&mut lines, 0, &[1], &[2]);
        push(&mut lines, 1, &[2], &[3]);
        let next = take(&loads, &mut lines, Width::alone(EXTENT)).pop().unwrap();
        drop(next.copies);
        assert!(take(&loads, &mut lines, Width::alone(EXTENT)).is_empty());
        drop(next.writes);
        assert_eq!(numbers(&take(&loads, &mut lines, Width::alone(EXTENT))), [1]);
    }

    #[test]
    fn two_disks_that_have_much_to_do_for_each_other_keep_nobody_waiting_for_ever() {
        let (loads, mut lines) = (quick(), Lines::default());
        (0..1000).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        push(&mut lines, 2000, &[3], &[1]);
        push(&mut lines, 2001, &[2], &[4]);
        let (mut now, mut under_way) = (Instant::default(), VecDeque::new());
        for _ in 0..40 {
            now = now + Duration::from_millis(300);
            under_way.extend(take_at(&loads, &mut lines, Width::alone(EXTENT), now));
            let done: Option<Next> = under_way.pop_front();
            if done.is_some_and(|next| next.generation.0 >= 2000) && lines.lines.len() == 1 {
                return;
            }
        }
        panic!("these still wait: {:?}", lines.lines.keys().collect::<Vec<_>>());
    }

    #[test]
    fn a_line_whose_turn_it_is_and_that_cannot_begin_stands_in_no_way_for_long() {
        let (loads, mut lines) = (quick(), Lines::default());
        (0..9).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        push(&mut lines, 100, &[2], &[3]);
        let at = |secs| Instant::default() + Duration::from_secs(secs);
        let width = Width::alone(EXTENT);
        assert_eq!(numbers(&take_at(&loads, &mut lines, width, Instant::default())), [0, 1]);
        // What was taken is gone at once, and yet somebody else has the other group.
        let free = |_, generation: GenerationId| generation.0 != 100;
        let next = |lines: &mut Lines, now| loads.take_next(lines, free, width, EXTENT, now);
        assert!(next(&mut lines, at(2)).is_none());
        assert_eq!(next(&mut lines, at(8)).map(|next| next.generation.0), Some(2));
    }

    #[test]
    fn where_pieces_take_long_fewer_are_under_way() {
        let (loads, mut lines, mut now) = (quick(), Lines::default(), Instant::default());
        (0..300).for_each(|generation| push(&mut lines, generation, &[1], &[2]));
        let mut copy = |slowest| {
            now = now + PIECE_TAKES;
            let next = take_at(&loads, &mut lines, Width::alone(EXTENT), now).remove(0);
            let gave = next.gives.unwrap();
            loads.was_copied(gave, slowest, now);
            // At once there is nothing new to be seen.
            loads.was_copied(gave, slowest, now);
            next.width.pieces
        };
        let slow: Vec<usize> = (0..9).map(|_| copy(Duration::from_secs(1))).collect();
        assert_eq!(slow, [8, 8, 6, 4, 3, 2, 1, 1, 1]);
        let quick: Vec<usize> = (0..9).map(|_| copy(Duration::from_millis(10))).collect();
        assert_eq!(quick, [1, 2, 3, 4, 5, 6, 7, 8, 8]);
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
        assert_eq!(loads.held_bytes(disk), 16 << 20);
        // What little takes says nothing against more.
        loads.was_flushed(disk, 4096, Duration::from_millis(20), wanted);
        assert_eq!(loads.held_bytes(disk), 16 << 20);
    }

    #[test]
    fn one_of_several_gives_and_it_is_the_one_with_least_to_do() {
        let (loads, mut lines) = (quick(), Lines::default());
        (0..9).for_each(|number| push(&mut lines, number, &[1, 2], &[3 + number as u32]));
        assert_eq!(take(&loads, &mut lines, Width::alone(EXTENT)).len(), 2);
    }

    #[test]
    fn a_piece_beside_requests_takes_a_disk_about_as_long_as_two_of_them() {
        let piece = |micros| Width::beside(EXTENT, Duration::from_micros(micros)).piece_bytes;
        assert_eq!(piece(0), 128 << 10);
        assert_eq!(piece(1000), 400_000);
        assert_eq!(piece(1_000_000), 1 << 20);
        let (solid, hard) =
            [500, 5000].map(|micros| Width::beside(EXTENT, Duration::from_micros(micros))).into();
        assert_eq!((solid.pieces, solid.waits_for), (1, WaitsFor::Awaited));
        assert_eq!((hard.pieces, hard.waits_for), (4, WaitsFor::Rest));
    }
}
