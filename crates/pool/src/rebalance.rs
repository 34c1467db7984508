//! Which groups should move so that more space can be given out, and disks are about as full as each other.
//!
//! Free space that lies on too few failure domains can't be paired: a full pool that gets one more machine has free
//! space, of which a mirror can have nothing. So positions move there, from where there is the least. Three kinds of
//! moves, each of which makes something better that no other makes worse, so planning ends, and what is planned
//! when all of it is done is nothing:
//!
//! 1. **Apart.** Where a disk moved or labels joined domains, two positions of a group may be in one. One of them moves,
//!    to a domain where the group has none, whatever that leaves free for volumes and the spare.
//! 2. **More can be given out.** From the domain with less free space to one of those with more than can be paired,
//!    and not so much that it had less afterwards. Then no mirror, of however many copies, can have less.
//! 3. **As full as each other**, relative to size: from the fuller disk to the emptier, if they differ by more than
//!    [`EVEN_PERCENT`], and not so much that they change places; only if no mirror of as many copies as the pool has can have less.
//!
//! A position moves only where the group has no copy in that failure domain, and only of groups that are whole: with
//! the rest redundancy comes first. What is kept for logs counts as taken, and so does what keeps the pool's spare held
//! (`crate::spare`).
//!
//! Planning changes nothing, and the same metadata give the same plan.

mod apart;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::allocate::{RUN_GROUPS_MAX, Space, Usable, halvings, most_groups};
use crate::format::{DiskNumber, ExtentNumber, VolumeId};
use crate::metadata::{ExtentRange, GroupRun, Member, Metadata, RunKey, Volume};
use crate::spare::{Spare, Standing};

/// Disks that differ by no more than this are evenly full.
pub const EVEN_PERCENT: u64 = 3;
/// Fullest and emptiest disks that are tried with each other for one move.
const DISKS_TRIED: usize = 16;
/// So many parts of an extent are counted with, so that what two or three domains share is a whole number.
const PARTS: u64 = 12;
/// The fewest copies of a mirror: what it could have counts also where there is none.
const COPIES_MIN: u8 = 2;

/// One position of groups that is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    /// Whose.
    pub volume: VolumeId,
    /// The run. Of one that an earlier move of the plan has split it is the second part.
    pub key: RunKey,
    /// How many of its groups, from the first on.
    pub count: u32,
    /// Which position.
    pub position: u8,
    /// Where it is.
    pub from: DiskNumber,
    /// Where it is to be.
    pub to: Member,
}

/// How full a disk is with groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    domain: Uuid,
    /// Extents that groups take.
    pub used: u64,
    /// Extents that it has for others than the metadata.
    pub room: u64,
}

/// A run, or a part of one, as far as the plan has come.
#[derive(Clone, Debug)]
struct Part {
    volume: VolumeId,
    key: RunKey,
    count: u32,
    members: Vec<Member>,
    /// It is whole, at rest and there.
    may_move: bool,
}

/// A plan under way: the pool as it would be.
pub struct Rebalancing<'a> {
    metadata: &'a Metadata,
    /// What nobody has, logs neither; and the same without what is kept for them.
    free_space: Space,
    space: Space,
    /// Nothing has moved since that was kept.
    is_fresh: bool,
    disks: BTreeMap<DiskNumber, Fill>,
    /// Extents of each domain that nobody has and that aren't kept for logs; less than none where those lack some.
    free: BTreeMap<Uuid, i64>,
    parts: Vec<Part>,
    /// The parts with a position on a disk.
    on: BTreeMap<DiskNumber, BTreeSet<usize>>,
    /// The parts with two positions in one domain; and those of them that may find a place apart, as far as is known.
    shared: BTreeSet<usize>,
    apart: BTreeSet<usize>,
    /// The parts by their places.
    places: BTreeMap<(VolumeId, RunKey), usize>,
    /// The numbers of copies for which what can be given out counts: from two to the most that any volume has.
    copies: RangeInclusive<u8>,
    /// How the pool stands, if it keeps a spare; and what is to stay free of each domain for that.
    standing: Option<Standing>,
    kept: BTreeMap<Uuid, u64>,
}

impl<'a> Rebalancing<'a> {
    /// Plans on these disks, with what is on its way where it is to be.
    pub fn new(metadata: &'a Metadata, usable: &Usable) -> Rebalancing<'a> {
        Rebalancing::plan(metadata, usable, true)
    }

    /// The same, of groups that lack something too: what there is to be planned once they don't.
    pub fn once_whole(metadata: &'a Metadata, usable: &Usable) -> Rebalancing<'a> {
        Rebalancing::plan(metadata, usable, false)
    }

    /// Whether groups of so many copies can surely be given out as the pool is. That is told without a look at every
    /// run, which a plan costs.
    pub fn is_room_for(metadata: &Metadata, usable: &Usable, copies: u8) -> bool {
        let free = free_of(metadata, &Space::new(metadata, usable));
        let free = free.into_iter();
        let free = free.map(|(domain, free)| (domain, u64::try_from(free).unwrap_or(0)));
        // What moves away leaves more; what a spare needs isn't known here.
        Spare::of(metadata).is_none() && most_groups(&free.collect(), copies) > 0
    }

    fn plan(metadata: &'a Metadata, usable: &Usable, only_whole: bool) -> Rebalancing<'a> {
        let free_space = Space::new(metadata, usable);
        let free = free_of(metadata, &free_space);
        let known = metadata.data_disks().filter(|disk| usable.contains(&disk.number));
        let disks = known.map(|disk| {
            let domain = metadata.domain_of(disk);
            (disk.number, Fill { domain, used: 0, room: u64::from(disk.room()) })
        });
        let copies = metadata.volumes().values().map(|volume| volume.wanted_layout().copies());
        let mut plan = Rebalancing {
            metadata,
            space: free_space.clone(),
            free_space,
            is_fresh: false,
            disks: disks.collect(),
            free,
            parts: Vec::new(),
            on: BTreeMap::new(),
            shared: BTreeSet::new(),
            apart: BTreeSet::new(),
            places: BTreeMap::new(),
            copies: COPIES_MIN..=copies.max().unwrap_or(0).max(COPIES_MIN),
            standing: Standing::for_growth(metadata, usable, false),
            kept: BTreeMap::new(),
        };
        for volume in metadata.volumes().values() {
            volume.runs.values().for_each(|run| plan.take_note(volume, run, only_whole));
        }
        plan.keep();
        plan
    }

    /// What is kept for logs and a loss is what it would be by now.
    fn keep(&mut self) {
        self.space = self.free_space.clone();
        self.space.reserve_for_logs(self.metadata, false);
        self.kept = self.standing.as_ref().map(Standing::kept_by_moves).unwrap_or_default();
        // What found no place may find one where others were.
        let may_move = self.shared.iter().filter(|index| self.parts[**index].may_move);
        self.apart = may_move.copied().collect();
        self.is_fresh = true;
    }

    /// The next move; none where nothing would be better for it. It counts as done from then on.
    pub fn next_move(&mut self) -> Option<PlannedMove> {
        let planned = self.best_move();
        if planned.is_some() || self.is_fresh {
            return planned;
        }
        self.keep();
        self.best_move()
    }

    fn best_move(&mut self) -> Option<PlannedMove> {
        let apart = self.move_apart();
        apart.or_else(|| self.move_for_more()).or_else(|| self.move_for_evenness())
    }

    /// All that is to move.
    pub fn all(&mut self) -> Vec<PlannedMove> {
        std::iter::from_fn(|| self.next_move()).collect()
    }

    /// Groups of so many copies that could be given out, beside the pool's spare.
    pub fn groups_left(&self, copies: u8) -> u64 {
        let Some(standing) = &self.standing else {
            return most_groups(&self.free_parts(None), copies) / PARTS;
        };
        let free = self.free.iter();
        let free = free.map(|(domain, free)| (*domain, u64::try_from(*free).unwrap_or(0)));
        standing.groups_beside(&free.collect(), copies)
    }

    /// Extents that nobody has and that aren't kept.
    pub fn free_extents(&self) -> u64 {
        self.free.keys().map(|domain| u64::try_from(self.left(*domain)).unwrap_or(0)).sum()
    }

    /// How full each disk is.
    pub fn fills(&self) -> &BTreeMap<DiskNumber, Fill> {
        &self.disks
    }

    fn take_note(&mut self, volume: &Volume, run: &GroupRun, only_whole: bool) {
        let outgoing = run.outgoing();
        for member in run.holders() {
            let Some(disk) = self.disks.get_mut(&member.disk) else { continue };
            match outgoing == Some(member) {
                // It is on its way elsewhere.
                true => {
                    let free = self.free.entry(disk.domain).or_default();
                    *free += i64::from(run.count);
                }
                false => disk.used += u64::from(run.count),
            }
        }
        let is_there = run.members.iter().all(|member| self.disks.contains_key(&member.disk));
        let is_at_rest = run.incoming.is_none() && volume.conversion.is_none();
        let may_move = is_there && is_at_rest && !(only_whole && self.metadata.is_dirty(run));
        // Where something moves to, it is.
        let members = run.members_once_moved();
        let (key, count) = (run.key, run.count);
        self.add(Part { volume: volume.id, key, count, members, may_move });
    }

    fn add(&mut self, part: Part) {
        for member in &part.members {
            self.on.entry(member.disk).or_default().insert(self.parts.len());
        }
        if !self.sharing(&part).is_empty() {
            self.shared.insert(self.parts.len());
            if part.may_move {
                self.apart.insert(self.parts.len());
            }
        }
        self.places.insert((part.volume, part.key), self.parts.len());
        self.parts.push(part);
    }

    /// What a domain has free besides what is kept; less than none where that lacks some.
    fn left(&self, domain: Uuid) -> i64 {
        let kept = self.kept.get(&domain).copied().unwrap_or(0);
        self.free.get(&domain).copied().unwrap_or(0) - i64::try_from(kept).unwrap_or(i64::MAX)
    }

    /// The same by domain, in parts; after so many extents went from one domain to another.
    fn free_parts(&self, moved: Option<(Uuid, Uuid, u32)>) -> BTreeMap<Uuid, u64> {
        let free = self.free.keys().map(|domain| {
            let change = match moved {
                Some((from, to, _)) if from == to => 0,
                Some((from, _, count)) if from == *domain => i64::from(count),
                Some((_, to, count)) if to == *domain => -i64::from(count),
                _ => 0,
            };
            (*domain, u64::try_from(self.left(*domain) + change).unwrap_or(0) * PARTS)
        });
        free.collect()
    }

    /// What can be given out, for each number of copies, in parts of a group.
    fn levels(&self, moved: Option<(Uuid, Uuid, u32)>) -> Vec<u64> {
        let free = self.free_parts(moved);
        self.copies.clone().map(|copies| most_groups(&free, copies)).collect()
    }

    /// Whether nothing gets less by a move between domains, what is kept for a loss included, and, if that is asked
    /// for, something more.
    fn is_no_worse(&self, now: &[u64], moved: (Uuid, Uuid, u32), must_gain: bool) -> bool {
        let (from, to, count) = moved;
        if from != to && self.kept.contains_key(&to) && self.left(to) < i64::from(count) {
            return false;
        }
        let then = self.levels(Some(moved));
        let mut pairs = now.iter().zip(&then);
        pairs.all(|(now, then)| then >= now) && (!must_gain || then != now)
    }

    /// A move to where more is free than can be paired, from where less is.
    fn move_for_more(&mut self) -> Option<PlannedMove> {
        let levels = self.levels(None);
        let mut domains: Vec<(i64, Uuid)> =
            self.free.keys().map(|domain| (self.left(*domain), *domain)).collect();
        domains.sort_unstable();
        for level in &levels {
            let in_parts = |free: i64| u64::try_from(free).unwrap_or(0) * PARTS;
            let above = domains.iter().rev().take_while(|(free, _)| in_parts(*free) > *level);
            for (most, to) in above {
                let below = domains.iter().take_while(|(free, _)| in_parts(*free) < *level);
                for (least, from) in below {
                    let count = u32::try_from((most - least) / 2).unwrap_or(u32::MAX);
                    let planned = self.move_between(*from, *to, count, &levels);
                    if planned.is_some() {
                        return planned;
                    }
                }
            }
        }
        None
    }

    /// A move of at most so many groups between two domains: from the fullest disk that has such to the emptiest.
    fn move_between(
        &mut self,
        from: Uuid,
        to: Uuid,
        most: u32,
        levels: &[u64],
    ) -> Option<PlannedMove> {
        let of = |domain: Uuid| {
            let disks = self.disks.iter().filter(move |(_, fill)| fill.domain == domain);
            let mut disks: Vec<(DiskNumber, Fill)> =
                disks.map(|(number, fill)| (*number, *fill)).collect();
            disks.sort_by(|(_, one), (_, other)| fullness(one, other));
            disks
        };
        let (sources, targets) = (of(from), of(to));
        for (source, _) in sources.iter().rev() {
            for (target, _) in &targets {
                let fits = |plan: &Self, count| plan.is_no_worse(levels, (from, to, count), true);
                let planned = self.try_move(*source, *target, most, fits);
                if planned.is_some() {
                    return planned;
                }
            }
        }
        None
    }

    /// A move from one of the fullest disks to one of the emptiest, where they differ by too much.
    fn move_for_evenness(&mut self) -> Option<PlannedMove> {
        let levels = self.levels(None);
        let mut disks: Vec<(DiskNumber, Fill)> =
            self.disks.iter().map(|(number, fill)| (*number, *fill)).collect();
        disks.retain(|(_, fill)| fill.room > 0);
        disks.sort_by(|(_, one), (_, other)| fullness(one, other));
        for (source, full) in disks.iter().rev().take(DISKS_TRIED) {
            for (target, empty) in disks.iter().take(DISKS_TRIED) {
                let (used, room) = (u128::from(full.used), u128::from(full.room));
                let (other_used, other_room) = (u128::from(empty.used), u128::from(empty.room));
                let more = (used * other_room).saturating_sub(other_used * room);
                if more * 100 <= u128::from(EVEN_PERCENT) * room * other_room {
                    break;
                }
                let most = u32::try_from(more / (room + other_room)).unwrap_or(u32::MAX);
                let (from, to) = (full.domain, empty.domain);
                let fits = |plan: &Self, count| plan.is_no_worse(&levels, (from, to, count), false);
                let planned = self.try_move(*source, *target, most, fits);
                if planned.is_some() {
                    return planned;
                }
            }
        }
        None
    }

    /// Moves as many groups as `fits` allows, at most a run's, from one disk to another.
    fn try_move(
        &mut self,
        source: DiskNumber,
        target: DiskNumber,
        most: u32,
        fits: impl Fn(&Self, u32) -> bool,
    ) -> Option<PlannedMove> {
        if source == target {
            return None;
        }
        for count in halvings(most.min(RUN_GROUPS_MAX)) {
            if !fits(self, count) {
                continue;
            }
            // What is chosen may be smaller, and that may be too little to make anything better.
            let (index, count) = self.part_for(source, target, count)?;
            if !fits(self, count) {
                continue;
            }
            if let Some(first) = self.space.take_first(target, count) {
                return Some(self.move_part(index, count, source, (target, first)));
            }
        }
        None
    }

    /// The largest part with a position on one disk that may be on another, of at most so many groups, else the
    /// beginning of a larger one; and how many groups that is.
    fn part_for(&self, source: DiskNumber, target: DiskNumber, most: u32) -> Option<(usize, u32)> {
        let domain = self.disks.get(&target)?.domain;
        let (mut best, mut larger): (Option<(usize, u32)>, Option<usize>) = (None, None);
        for index in self.on.get(&source)? {
            let part = &self.parts[*index];
            if !part.may_move
                || part.count <= most && best.is_some_and(|(_, count)| count >= part.count)
                || part.count > most && larger.is_some()
                || !self.may_move(part, source, (target, domain))
            {
                continue;
            }
            if part.count > most {
                larger = Some(*index);
                continue;
            }
            best = Some((*index, part.count));
            if part.count == most {
                break;
            }
        }
        // A run that is split stays so, so whole ones move first.
        best.or(larger.map(|index| (index, most)))
    }

    /// Whether a position may be on another disk: no other copy shares its failure domain, and of a striped volume
    /// no more neighbours are there.
    fn may_move(
        &self,
        part: &Part,
        source: DiskNumber,
        (target, domain): (DiskNumber, Uuid),
    ) -> bool {
        let others = part.members.iter().filter(|member| member.disk != source);
        let mut domains = others.map(|member| self.disks.get(&member.disk).map(|at| at.domain));
        if domains.any(|other| other == Some(domain)) {
            return false;
        }
        let Some(volume) = self.metadata.volumes().get(&part.volume) else { return false };
        let neighbours = |disk: DiskNumber| {
            let lanes = (0..volume.width).filter(|lane| *lane != part.key.lane);
            let parts = lanes.filter_map(|lane| {
                let key = (part.volume, RunKey { lane, ..part.key });
                let ((id, at), index) = self.places.range(..=key).next_back()?;
                ((*id, at.lane) == (part.volume, lane)).then(|| &self.parts[*index])
            });
            parts.filter(|part| part.members.iter().any(|member| member.disk == disk)).count()
        };
        volume.width == 1 || neighbours(target) <= neighbours(source)
    }

    fn move_part(
        &mut self,
        index: usize,
        count: u32,
        source: DiskNumber,
        (target, extents): (DiskNumber, ExtentRange),
    ) -> PlannedMove {
        let mut moved = self.parts[index].clone();
        for member in &moved.members {
            if let Some(on) = self.on.get_mut(&member.disk) {
                on.remove(&index);
            }
        }
        self.shared.remove(&index);
        self.apart.remove(&index);
        let at = moved.members.iter().position(|member| member.disk == source).unwrap_or(0);
        let left = moved.members[at];
        if count < moved.count {
            let behind = |member: &Member| {
                let first = ExtentNumber(member.first.0.saturating_add(count));
                Member { first, ..*member }
            };
            let first_set = moved.key.first_set + u64::from(count);
            self.add(Part {
                key: RunKey { first_set, ..moved.key },
                count: moved.count - count,
                members: moved.members.iter().map(behind).collect(),
                ..moved
            });
            moved.count = count;
        }
        let to = Member { disk: target, first: extents.first };
        moved.members[at] = to;
        let others = moved.members.iter().map(|member| member.disk);
        let others: Vec<DiskNumber> = others.filter(|disk| *disk != target).collect();
        let (volume, key) = (moved.volume, moved.key);
        self.add(moved);
        let left = ExtentRange::new(left.first, count);
        self.space.give_back(source, left);
        self.free_space.give_back(source, left);
        self.free_space.take(target, ExtentRange::new(extents.first, count));
        self.is_fresh = false;
        self.account(source, -i64::from(count));
        self.account(target, i64::from(count));
        if let Some(standing) = &mut self.standing {
            standing.move_position(&others, source, target, count);
        }
        PlannedMove { volume, key, count, position: at as u8, from: source, to }
    }

    /// A disk has so many extents of groups more.
    fn account(&mut self, disk: DiskNumber, more: i64) {
        if let Some(fill) = self.disks.get_mut(&disk) {
            fill.used = fill.used.saturating_add_signed(more);
            *self.free.entry(fill.domain).or_default() -= more;
        }
    }
}

/// Extents of each domain that are free and not kept for logs; less than none where those lack some.
fn free_of(metadata: &Metadata, space: &Space) -> BTreeMap<Uuid, i64> {
    let mut free: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (domain, extents) in space.domains() {
        free.insert(domain, i64::try_from(extents).unwrap_or(i64::MAX));
    }
    for (domain, segments) in space.kept_for_logs(metadata, false) {
        *free.entry(domain).or_default() -=
            i64::from(segments * metadata.shape().segment_extents());
    }
    free
}

impl Fill {
    /// How full it is, in percent.
    pub fn percent(&self) -> u64 {
        (self.used * 100).checked_div(self.room).unwrap_or(0)
    }
}

/// The emptier one is less.
fn fullness(one: &Fill, other: &Fill) -> std::cmp::Ordering {
    let this = u128::from(one.used) * u128::from(other.room);
    this.cmp(&(u128::from(other.used) * u128::from(one.room)))
}

#[cfg(test)]
#[path = "rebalance_tests.rs"]
mod tests;
