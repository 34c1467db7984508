//! How much of a pool stays free, so that what is lost with a disk or machine finds a place again.
//!
//! A pool's property `spare` says against which loss: of any one disk, of any one machine, or of so many bytes of any
//! one disk. Nothing is set aside at a place: of each failure domain so many extents stay free, wherever they lie.
//!
//! # The rule
//!
//! Failure domain d has U(d) extents that groups take and F(d) that are free and not kept for logs. Let c be the most
//! copies that any volume has, w the positions that wait for a place already, and A what copies of the metadata may
//! need that were lost with it. After a loss each lost position may go to every domain in which its group has no
//! other copy. The spare is **held** if one of these is true:
//!
//! 1. **By domains.** For each loss, the sum of F over the domains that have something left, but for the c − 1 largest,
//!    is at least w + A and the positions that are lost.
//! 2. **By groups.** There are c domains besides as many as any loss takes of which each has U(d) + F(d) ≥ A and the
//!    number of all groups, groups that have several positions there being counted once.
//!
//! # Why that suffices
//!
//! Positions find places one after the other, in any order, each at any free extent of a domain where it may be. (A run
//! that finds none as a whole is split, down to one extent, so where in a domain what is free lies doesn't matter.) Let
//! one find no place. Its group has other copies in at most c − 1 domains, and outside of these nothing is free.
//!
//! 1. So what was free there was taken, at most A by copies of the metadata and the rest by positions that waited or were lost,
//!    without the one itself: less than F of these domains, against the rule.
//! 2. One of those domains, d, is outside of them and of the loss. Nobody came there but copies of the metadata and
//!    groups that weren't there, each once, and this one isn't among them: fewer than A + groups − U(d) ≤ F(d), so something is free. ∎
//!
//! No choice of the planner can spoil it: rebuilding may go in any order, beside writes and logs.
//!
//! The first is for many machines: of n that are as large as each other (n−c)/(n−c+1) can be used. The second is for c + 1 of them, where
//! every lost position has just one place to go to: all but 1/n can. What is given out is the more of the two.
//!
//! # Disks of a domain
//!
//! Where a disk is lost whose domain has others, or a machine that labels joined with others, its positions may go to
//! these, and what was free on it is lost too. As that and
//! what is lost are together no more than it has, the first rule says so: the sum, with all that is free in its
//! domain, is at least w + A and all of it. With a number of bytes that many count instead, if the disk's domain isn't counted.
//! That domain isn't among the c − 1 unless something waits, which may have its other copies there, or some group has
//! two positions in it, of which one may be lost.
//!
//! # Moves under way
//!
//! A position that moves counts as having arrived. Where its disk is the loss, it is back where it was: both rules are asked
//! of domains as they are then, filled by as much as they were before.
//!
//! # What may be given out
//!
//! Both rules say the same of a pool that is fuller. So by the first the domains may be filled up to one level: the
//! highest for which it is still true if each domain's U were that (or what it is, or all there is). What is free above
//! that is kept.

mod losses;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use uuid::Uuid;

use self::losses::{Arrival, Lost};
use crate::allocate::{Usable, kept_for_logs, most_groups};
use crate::format::{DiskNumber, FailureDomain};
use crate::metadata::{GroupRun, Member, Metadata, area_extents_for};

/// The pool's property.
pub(crate) const SPARE: &str = "spare";

/// The loss for which a pool keeps space free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^(disk|node|[0-9]+)$"))]
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

/// What isn't given out because of the spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of what each failure domain has free, so much.
    pub(crate) extents: BTreeMap<Uuid, u64>,
    /// All but so many groups.
    pub(crate) groups_left: u64,
}

impl Kept {
    fn groups_of(&self, free: &BTreeMap<Uuid, u64>, copies: u8) -> u64 {
        let left = free.iter().map(|(domain, free)| {
            let kept = self.extents.get(domain).copied().unwrap_or(0);
            (*domain, free.saturating_sub(kept))
        });
        most_groups(&left.collect(), copies).min(self.groups_left)
    }
}

/// A failure domain's extents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    used: u64,
    /// What is free and not kept for logs; less than nothing where those lack some.
    free: i64,
    /// Of what is used, positions of groups that have another one here: they were made elsewhere.
    doubled: u64,
}

impl Room {
    fn all(self) -> u64 {
        self.used + u64::try_from(self.free).unwrap_or(0)
    }

    /// What it has free if groups take as much as this.
    fn free_at(self, level: u64) -> u64 {
        let all = self.all();
        all - all.min(level).max(self.used)
    }

    /// How many groups of the pool could have a position here.
    fn groups(self) -> i64 {
        i64::try_from(self.used.saturating_sub(self.doubled))
            .unwrap_or(i64::MAX)
            .saturating_add(self.free)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    domain: Uuid,
    node: Uuid,
    /// Extents that aren't the metadata's.
    room: u64,
    has_area: bool,
}

/// Counts groups that have positions in these domains; less than none don't any more.
fn change(rooms: &mut BTreeMap<Uuid, Room>, positions: &[Uuid], groups: i64) {
    for (index, domain) in positions.iter().enumerate() {
        let Some(room) = rooms.get_mut(domain) else { continue };
        room.used = room.used.saturating_add_signed(groups);
        if positions[..index].contains(domain) {
            room.doubled = room.doubled.saturating_add_signed(groups);
        }
    }
}

/// How many positions groups lack.
fn lacking(positions: &[Uuid], copies: u8) -> u64 {
    usize::from(copies).saturating_sub(positions.len()) as u64
}

/// How a pool stands that keeps a spare: counted, to try things out on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    spare: Spare,
    /// Of a loss at most so many extents count.
    most: u64,
    disks: BTreeMap<DiskNumber, Place>,
    rooms: BTreeMap<Uuid, Room>,
    by_disk: bool,
    copies: u8,
    groups: u64,
    waiting: u64,
    /// Extents of a copy of the metadata.
    area: u64,
    /// Copies that others may have to take over already.
    areas_gone: u64,
    arrivals: Vec<Arrival>,
}

impl Standing {
    /// How a pool that keeps a spare stands with just these disks. What is on others waits for a place.
    pub(crate) fn with(metadata: &Metadata, disks: &Usable) -> Option<Standing> {
        Standing::new(metadata, disks, false)
    }

    /// The same as far as it matters for what is given out: a disk that is away may be back, and is that which is
    /// lost if it isn't. So it counts as there until what it had is elsewhere.
    pub(crate) fn for_growth(
        metadata: &Metadata,
        usable: &Usable,
        for_new_volume: bool,
    ) -> Option<Standing> {
        Spare::of(metadata)?;
        let leaving = metadata.leaving();
        let volumes = metadata.volumes().values();
        let disks = volumes.flat_map(|volume| volume.runs.groups_on_disks()).map(|(disk, _)| disk);
        let needed: BTreeSet<DiskNumber> =
            disks.filter(|disk| !usable.contains(disk) && !leaving.contains(disk)).collect();
        Standing::new(metadata, &needed.union(usable).copied().collect(), for_new_volume)
    }

    fn new(metadata: &Metadata, disks: &Usable, for_new_volume: bool) -> Option<Standing> {
        let spare = Spare::of(metadata)?;
        let extent_bytes = metadata.shape().extent_bytes();
        let total: u64 = metadata.data_disks().map(|disk| disk.bytes).sum();
        let areas = metadata.data_disks().flat_map(|disk| disk.areas());
        let there = metadata.data_disks().filter(|disk| disks.contains(&disk.number));
        let domains = there.map(|disk| (disk.number, metadata.domain_of(disk))).collect();
        let mut rooms: BTreeMap<Uuid, Room> = BTreeMap::new();
        for (domain, segments) in kept_for_logs(metadata, &domains, for_new_volume) {
            let free = -i64::from(segments) * i64::from(metadata.shape().segment_extents());
            rooms.insert(domain, Room { free, ..Room::default() });
        }
        for (disk, domain) in &domains {
            let free = metadata.disks().get(disk).map_or(0, |disk| disk.free.len());
            rooms.entry(*domain).or_default().free += i64::from(free);
        }
        let places = metadata.data_disks().filter(|disk| disks.contains(&disk.number));
        let places = places.map(|disk| {
            let (domain, node, room) = (metadata.domain_of(disk), disk.node, disk.room().into());
            let has_area = disk.areas().next().is_some();
            (disk.number, Place { domain, node, room, has_area })
        });
        let mut standing = Standing {
            spare,
            most: match spare {
                Spare::Bytes(bytes) => bytes.div_ceil(extent_bytes),
                Spare::Disk | Spare::Node => u64::MAX,
            },
            disks: places.collect(),
            rooms,
            by_disk: metadata.pool().failure_domain == FailureDomain::Disk,
            copies: 1,
            groups: 0,
            waiting: 0,
            arrivals: Vec::new(),
            areas_gone: metadata
                .data_disks()
                .filter(|disk| !disks.contains(&disk.number) && disk.areas().next().is_some())
                .count() as u64,
            // A pool that grew makes larger ones than it has.
            area: areas
                .map(|area| area.count)
                .chain([area_extents_for(total, extent_bytes)])
                .max()
                .unwrap_or(0)
                .into(),
        };
        for volume in metadata.volumes().values() {
            let copies = volume.wanted_layout().copies();
            standing.copies = standing.copies.max(copies).max(volume.layout.copies());
            volume.runs.values().for_each(|run| standing.count(run, copies));
        }
        Some(standing)
    }

    /// Counts a run where its positions are, or are to be.
    fn count(&mut self, run: &GroupRun, copies: u8) {
        let groups = i64::from(run.count);
        self.groups += u64::from(run.count);
        let incoming = run.incoming.map(|incoming| incoming.member.disk);
        let incoming = incoming.filter(|to| self.disks.contains_key(to));
        let before = self.domains_of(&run.members);
        let after = incoming.map(|_| self.domains_of(&run.members_once_moved()));
        let counted = after.as_ref().unwrap_or(&before);
        change(&mut self.rooms, counted, groups);
        self.copies = self.copies.max(u8::try_from(counted.len()).unwrap_or(u8::MAX));
        self.waiting += lacking(counted, copies) * u64::from(run.count);
        let (Some(to), Some(after)) = (incoming, after) else { return };
        let from = run.outgoing().and_then(|left| Some(self.disks.get(&left.disk)?.domain));
        if let Some(room) = from.and_then(|domain| self.rooms.get_mut(&domain)) {
            room.free += groups;
        }
        self.arrivals.push(Arrival { to, from, before, after, groups, copies });
    }

    /// The domain of each position that is on a disk that is there.
    fn domains_of(&self, members: &[Member]) -> Vec<Uuid> {
        let places = members.iter().filter_map(|member| self.disks.get(&member.disk));
        places.map(|place| place.domain).collect()
    }

    fn room_of(&mut self, disk: DiskNumber) -> Option<&mut Room> {
        self.rooms.get_mut(&self.disks.get(&disk)?.domain)
    }

    /// So many extents are taken on a disk.
    pub(crate) fn take(&mut self, disk: DiskNumber, extents: u32) {
        if let Some(room) = self.room_of(disk) {
            room.used += u64::from(extents);
            room.free -= i64::from(extents);
        }
    }

    /// So many positions that wait for a place have one on a disk.
    pub(crate) fn place(&mut self, disk: DiskNumber, extents: u32) {
        self.waiting = self.waiting.saturating_sub(extents.into());
        self.take(disk, extents);
    }

    /// A position of groups that have these others goes from one disk to another, in a domain where they have none.
    pub(crate) fn move_position(
        &mut self,
        others: &[DiskNumber],
        from: DiskNumber,
        to: DiskNumber,
        extents: u32,
    ) {
        let domain = |disk: &DiskNumber| self.disks.get(disk).map(|place| place.domain);
        let was_doubled = others.iter().any(|other| domain(other) == domain(&from));
        if let Some(room) = self.room_of(from) {
            room.used = room.used.saturating_sub(extents.into());
            room.free += i64::from(extents);
            if was_doubled {
                room.doubled = room.doubled.saturating_sub(extents.into());
            }
        }
        self.take(to, extents);
    }

    /// What each domain has free besides what is kept for logs.
    pub(crate) fn free(&self) -> BTreeMap<Uuid, u64> {
        let free = self.rooms.iter();
        free.map(|(domain, room)| (*domain, u64::try_from(room.free).unwrap_or(0))).collect()
    }

    /// The loss that fits least, where there are volumes of so many copies too; none while the spare is held.
    pub(crate) fn shortage(&self, copies: u8) -> Option<Shortage> {
        let losses = self.losses();
        let mut worst = self.short_at(&losses, copies, 0)?;
        match self.groups_left(&losses, copies) {
            Some(left) if left >= 0 => return None,
            Some(left) => worst.extents = worst.extents.min(left.unsigned_abs()),
            None => {}
        }
        Some(worst)
    }

    /// What isn't given out to volumes of so many copies, of what each domain has free for them.
    pub(crate) fn kept(&self, free: &BTreeMap<Uuid, u64>, copies: u8) -> Kept {
        let losses = self.losses();
        let by_groups = self.groups_left(&losses, copies);
        let by_groups = by_groups.and_then(|left| u64::try_from(left).ok()).unwrap_or(0);
        let all = Kept { extents: free.clone(), groups_left: 0 };
        let by_domains = self.level(&losses, copies).map_or(all, |level| {
            let kept = free.iter().map(|(domain, free)| {
                let room = self.rooms.get(domain).copied().unwrap_or_default();
                let left = room.free_at(0) - room.free_at(level);
                (*domain, free.saturating_sub(left))
            });
            Kept { extents: kept.collect(), groups_left: u64::MAX }
        });
        let by_groups = Kept { extents: BTreeMap::new(), groups_left: by_groups };
        match by_domains.groups_of(free, copies) >= by_groups.groups_of(free, copies) {
            true => by_domains,
            false => by_groups,
        }
    }

    /// Groups of so many copies that can be had of what each domain has free.
    pub(crate) fn groups_beside(&self, free: &BTreeMap<Uuid, u64>, copies: u8) -> u64 {
        self.kept(free, copies).groups_of(free, copies)
    }

    /// What moves leave alone, of what each domain has free: what keeps the spare held, if it is.
    pub(crate) fn kept_by_moves(&self) -> BTreeMap<Uuid, u64> {
        let losses = self.losses();
        let by_groups = self.groups_left(&losses, self.copies);
        // By groups it isn't changed by where these are.
        let level =
            self.level(&losses, self.copies).filter(|_| by_groups.is_none_or(|left| left < 0));
        let kept =
            |level| self.rooms.iter().map(move |(domain, room)| (*domain, room.free_at(level)));
        level.map(|level| kept(level).collect()).unwrap_or_default()
    }

    /// The highest level up to which domains may be filled; none where they are too full already.
    fn level(&self, losses: &[Lost], copies: u8) -> Option<u64> {
        let is_held = |level: u64| self.short_at(losses, copies, level).is_none();
        let all = self.rooms.values().map(|room| room.all()).max().unwrap_or(0);
        if !is_held(0) {
            return None;
        }
        let (mut low, mut high) = (0, all);
        while low < high {
            let level = high - (high - low) / 2;
            if is_held(level) { low = level } else { high = level - 1 }
        }
        Some(low)
    }

    /// Groups that there may be more by the second rule, or fewer; none where there are too few domains for it.
    fn groups_left(&self, losses: &[Lost], copies: u8) -> Option<i64> {
        let most_lost = losses.iter().map(|lost| lost.domains.len().max(1)).max().unwrap_or(0);
        let needed = most_lost + usize::from(self.copies.max(copies));
        let smallest = |after: &BTreeMap<Uuid, Room>| {
            let rooms = self.rooms.iter();
            let rooms = rooms.map(|(domain, room)| after.get(domain).unwrap_or(room).groups());
            let mut rooms: Vec<i64> = rooms.collect();
            rooms.sort_unstable_by(|one, other| other.cmp(one));
            rooms.get(needed.checked_sub(1)?).copied()
        };
        let mut fewest = smallest(&BTreeMap::new())?;
        for lost in losses.iter().filter(|lost| !lost.rooms.is_empty()) {
            fewest = fewest.min(smallest(&lost.rooms)?);
        }
        let areas = self.areas_gone + losses.iter().map(|lost| lost.areas).max().unwrap_or(0);
        let taken = self.groups.saturating_add(areas.saturating_mul(self.area));
        Some(fewest.saturating_sub_unsigned(taken))
    }

    /// The loss that fits least by the first rule, if each domain is filled up to a level before it.
    fn short_at(&self, losses: &[Lost], copies: u8, level: u64) -> Option<Shortage> {
        let free = self.rooms.iter().map(|(domain, room)| (room.free_at(level), *domain));
        let mut free: Vec<(u64, Uuid)> = free.collect();
        free.sort_unstable_by(|one, other| other.cmp(one));
        let all: u64 = free.iter().map(|(free, _)| *free).sum();
        let closed = usize::from(self.copies.max(copies)).saturating_sub(1);
        let short = losses.iter().filter_map(|lost| {
            let room = |domain: &Uuid| {
                let after = lost.rooms.get(domain).or_else(|| self.rooms.get(domain));
                after.copied().unwrap_or_default()
            };
            // What fills it came before the loss.
            let filled = |domain: &Uuid| {
                self.rooms.get(domain).map_or(0, |room| room.free_at(0) - room.free_at(level))
            };
            let free_at = |domain: &Uuid| room(domain).free_at(0).saturating_sub(filled(domain));
            let used_at = |domain: &Uuid| room(domain).used + filled(domain);
            let is_open = |domain: &Uuid| lost.waiting == 0 && room(domain).doubled == 0;
            let partly = lost.partly.map(|(domain, _)| domain).filter(is_open);
            let may_be_closed =
                |domain: &Uuid| !lost.domains.contains(domain) && partly != Some(*domain);
            let unchanged = free.iter().filter(|(_, domain)| !lost.rooms.contains_key(domain));
            let mut most: Vec<u64> = unchanged
                .filter(|(_, domain)| may_be_closed(domain))
                .map(|(free, _)| *free)
                .take(closed)
                .collect();
            let changed = || lost.rooms.keys();
            most.extend(changed().filter(|domain| may_be_closed(domain)).map(free_at));
            most.sort_unstable_by(|one, other| other.cmp(one));
            let before: u64 =
                changed().filter_map(|domain| Some(self.rooms.get(domain)?.free_at(level))).sum();
            let all = all - before + changed().map(free_at).sum::<u64>();
            let open = all - most.iter().take(closed).sum::<u64>();
            let besides = lost.waiting + (self.areas_gone + lost.areas) * self.area;
            let open = open - lost.domains.iter().map(free_at).sum::<u64>();
            let used = lost.domains.iter().map(used_at).sum::<u64>().min(self.most);
            let extents = match lost.partly {
                None => (besides + used).saturating_sub(open),
                Some((domain, extents)) => {
                    let elsewhere = open.saturating_sub(free_at(&domain));
                    let all = (besides + extents).saturating_sub(open);
                    all.min((besides + extents.min(self.most)).saturating_sub(elsewhere))
                }
            };
            (extents > 0).then_some(Shortage { loss: lost.loss, extents })
        });
        short.max_by_key(|shortage| shortage.extents)
    }
}

#[cfg(test)]
#[path = "spare_tests.rs"]
mod tests;
