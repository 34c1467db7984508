//! Where new groups and log segments go.
//!
//! Members of a group lie in different failure domains, chosen by most free space first, in runs of up
//! to 16 groups on one set of disks; the sets rotate as free space levels out. Near the end runs get
//! shorter, never longer than leaves the best possible use of what remains: with domains of 1, 2 and
//! 3 GiB every extent that two copies on different domains can use is used.
//!
//! Of each domain some extents are kept for the volumes' logs, so that a full pool can still write,
//! also while a domain is missing. Nothing is planned on disks that the caller doesn't name as usable.
//!
//! Planning changes nothing: it yields records that the caller commits.

use std::collections::{BTreeMap, BTreeSet};

use block::BLOCK_BYTES;
use uuid::Uuid;

use crate::format::{DiskNumber, GenerationId, VolumeId};
use crate::metadata::{
    ExtentRange, ExtentSet, GroupRun, Layout, Member, Metadata, Roots, RunKey, SegmentCopyPlace,
    Volume, WIDTH_MAX,
};

/// Groups in a run, at most.
pub(crate) const RUN_GROUPS_MAX: u32 = 16;
/// Extents in a log segment.
pub const SEGMENT_EXTENTS: u32 = 2;
/// Live segments of a log: at most, and at least where there is any room.
const SEGMENTS: std::ops::RangeInclusive<u32> = 3..=8;
/// A log may have one live segment for so many extents of the smallest domain.
const EXTENTS_PER_SEGMENT: u32 = 48;
/// Most disks that a striped volume's set goes over.
const RAID0_WIDTH_MAX: u16 = 16;

const _: () = assert!(RAID0_WIDTH_MAX <= WIDTH_MAX);

/// Disks whose free space differs by no more than such a part of it are as good as each other.
const ABOUT_PART: u64 = 8;

/// Work of a group that is read or written; divisible by how many may share it.
const WORK_OF_GROUP: u64 = 12;

/// Which disks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Those with the most free space.
    MostFree,
    /// Of those that have about the most, such as have few groups in common.
    Spread,
}

/// Not enough space for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no space: {available_bytes} bytes are available")]
pub struct NoSpace {
    /// What such a request could have, in bytes of volume.
    pub available_bytes: u64,
}

/// The disks that new space may be taken from: present and not out.
pub type Usable = BTreeSet<DiskNumber>;

/// Groups in a set of a new volume: one for mirrors, one per disk for striped volumes.
pub fn stripe_width(metadata: &Metadata, usable: &Usable, layout: Layout) -> u16 {
    match layout {
        Layout::Mirror(_) => 1,
        Layout::Raid0 => {
            let disks = Space::new(metadata, usable).disks.len();
            u16::try_from(disks).unwrap_or(RAID0_WIDTH_MAX).clamp(1, RAID0_WIDTH_MAX)
        }
    }
}

/// Live segments that a volume's log may have at a time, on these disks.
pub fn segments_per_log(metadata: &Metadata, usable: &Usable) -> u32 {
    let mut domains: BTreeMap<Uuid, u32> = BTreeMap::new();
    for disk in metadata.data_disks().filter(|disk| usable.contains(&disk.number)) {
        *domains.entry(metadata.domain_of(disk)).or_default() += disk.room();
    }
    let smallest = domains.values().min().copied().unwrap_or(0);
    (smallest / EXTENTS_PER_SEGMENT).clamp(*SEGMENTS.start(), *SEGMENTS.end())
}

/// Bytes that a new volume of this layout could have (`volume` is `None`), or that an existing one
/// could grow by.
pub fn usable_bytes(
    metadata: &Metadata,
    usable: &Usable,
    layout: Layout,
    volume: Option<VolumeId>,
) -> u64 {
    let width = volume
        .and_then(|id| metadata.volumes().get(&id))
        .map_or_else(|| stripe_width(metadata, usable, layout), |volume| volume.width);
    let mut space = Space::new(metadata, usable);
    space.reserve_for_logs(metadata, volume.is_none());
    let sets = space.sets_left(layout, width);
    let set_bytes = u64::from(width) * u64::from(metadata.shape().rows()) * BLOCK_BYTES as u64;
    sets.saturating_mul(set_bytes)
}

/// Plans the groups by which an existing volume must grow so that it covers `bytes`; none when it
/// does already. Generations count up from the metadata's next.
pub fn plan_groups(
    metadata: &Metadata,
    usable: &Usable,
    id: VolumeId,
    bytes: u64,
) -> Result<Vec<GroupRun>, NoSpace> {
    let available_bytes = || {
        let volume = metadata.volumes().get(&id);
        volume.map_or(0, |volume| usable_bytes(metadata, usable, volume.wanted_layout(), Some(id)))
    };
    let no_space = || NoSpace { available_bytes: available_bytes() };
    let volume = metadata.volumes().get(&id).ok_or_else(no_space)?;
    let stripes = volume.stripes(metadata.shape()).ok_or_else(no_space)?;
    let wanted = stripes.sets_for(bytes.div_ceil(BLOCK_BYTES as u64));
    let have = volume.whole_sets();
    if wanted <= have {
        return Ok(Vec::new());
    }
    let mut space = Space::new(metadata, usable);
    space.reserve_for_logs(metadata, false);
    // While the layout changes, what is new gets that which it is to have.
    let layout = volume.wanted_layout();
    if space.sets_left(layout, volume.width) < wanted - have {
        return Err(no_space());
    }
    let (shared, generation) = (Shared::of(metadata), metadata.counters().generation);
    let mut plan = Plan { space, shared, runs: Vec::new(), generation };
    let mut next = have;
    while next < wanted {
        let most = u32::try_from(wanted - next).unwrap_or(u32::MAX).min(RUN_GROUPS_MAX);
        let taken = match layout {
            Layout::Mirror(copies) if volume.width == 1 => plan.mirror_run(copies, next, most),
            layout => plan.striped_sets(layout.copies(), volume.width, next, most),
        };
        next += u64::from(taken.ok_or_else(no_space)?);
    }
    Ok(plan.runs)
}

/// Plans a metadata area of so many extents on a disk, none where they don't lie in a row. All of them are never
/// taken: that would make a witness of the disk, which nobody asked for.
pub fn plan_area(metadata: &Metadata, disk: DiskNumber, extents: u32) -> Option<ExtentRange> {
    let disk = metadata.disks().get(&disk)?;
    disk.free.first_fit(extents).filter(|area| !area.is_all_of(disk.extents))
}

/// Where positions of runs may move to, one after the other.
pub struct MovePlan<'a> {
    metadata: &'a Metadata,
    space: Space,
    usable: Usable,
    /// What moves that are under way give each disk to do.
    work: BTreeMap<DiskNumber, u64>,
}

impl MovePlan<'_> {
    /// Plans on these disks, and leaves what logs may need.
    pub fn new<'a>(metadata: &'a Metadata, usable: &Usable) -> MovePlan<'a> {
        let mut space = Space::new(metadata, usable);
        space.reserve_for_logs(metadata, false);
        let mut plan =
            MovePlan { metadata, space, usable: usable.clone(), work: BTreeMap::default() };
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.values()) {
            if let Some(incoming) = run.incoming {
                plan.add_work(run, run.count, incoming.member.disk);
            }
        }
        plan
    }

    /// Groups of a run go to a disk, which those give them that have them, each a part.
    fn add_work(&mut self, run: &GroupRun, count: u32, to: DiskNumber) {
        let of = run.members.iter().map(|member| member.disk);
        let from: Vec<DiskNumber> = of.filter(|disk| self.usable.contains(disk)).collect();
        let written = u64::from(count) * WORK_OF_GROUP;
        for disk in &from {
            *self.work.entry(*disk).or_default() += written / from.len() as u64;
        }
        *self.work.entry(to).or_default() += written;
    }

    /// Takes a place for `count` groups of a run's position, or of a further one: on a disk that has none of its
    /// others, in another failure domain than they; on `to`, if that is told.
    fn take(
        &mut self,
        run: &GroupRun,
        position: u8,
        count: u32,
        to: Option<DiskNumber>,
        choice: Choice,
    ) -> Option<Member> {
        let others = run.members.iter().enumerate();
        let others = others.filter(|(index, _)| *index != usize::from(position));
        let disks = others.filter_map(|(_, member)| self.metadata.disks().get(&member.disk));
        let domains: BTreeSet<Uuid> = disks.map(|disk| self.metadata.domain_of(disk)).collect();
        let accept = |number: DiskNumber, disk: &FreeDisk| {
            to.is_none_or(|to| to == number)
                && !domains.contains(&disk.domain)
                && run.holders().all(|member| member.disk != number)
        };
        let work = |disk| self.work.get(&disk).copied().unwrap_or(0);
        let disk = match choice {
            Choice::MostFree => self.space.most_free(count, accept),
            Choice::Spread => self.space.about_most_free(count, accept, false, work),
        }?;
        let first = self.space.take_first(disk, count)?.first;
        self.add_work(run, count, disk);
        Some(Member { disk, first })
    }

    /// The same for as many groups as there is a place for, `most` or the half of that and so on; tells how many.
    /// Of disks that are about as full that one which other moves give the least to do: so all take part alike.
    pub fn take_some(
        &mut self,
        run: &GroupRun,
        position: u8,
        most: u32,
        to: Option<DiskNumber>,
    ) -> Option<(u32, Member)> {
        self.take_most(run, position, most, to, Choice::Spread)
    }

    fn take_most(
        &mut self,
        run: &GroupRun,
        position: u8,
        most: u32,
        to: Option<DiskNumber>,
        choice: Choice,
    ) -> Option<(u32, Member)> {
        halvings(most).find_map(|count| Some((count, self.take(run, position, count, to, choice)?)))
    }

    /// How many extents of a disk find no place elsewhere.
    pub fn homeless(&mut self, disk: DiskNumber, to: Option<DiskNumber>) -> u64 {
        let volumes = self.metadata.volumes().values();
        let mut homeless = 0;
        for run in volumes.flat_map(|volume| volume.runs.values()) {
            let Some(position) = run.position_on(disk) else { continue };
            let mut left = match run.incoming {
                Some(incoming) if incoming.position == position => 0,
                _ => run.count,
            };
            while let Some((count, _)) = self.take_most(run, position, left, to, Choice::MostFree) {
                left -= count;
            }
            homeless += u64::from(left);
        }
        homeless
    }

    /// How many extents find no place that a volume needs to have so many copies, besides what is on its way.
    pub fn homeless_copies(&mut self, volume: &Volume, copies: u8) -> u64 {
        let mut homeless = 0;
        for run in volume.runs.values() {
            // Where the ones before it are to be is only known once they are planned.
            let mut grown = run.clone();
            grown.members.extend(
                grown.incoming.take().filter(|_| run.outgoing().is_none()).map(|to| to.member),
            );
            let mut parts = vec![grown];
            while let Some(mut part) = parts.pop() {
                if part.members.len() >= usize::from(copies) || part.count == 0 {
                    continue;
                }
                let position = part.members.len() as u8;
                let taken = self.take_most(&part, position, part.count, None, Choice::MostFree);
                let Some((count, to)) = taken else {
                    homeless += u64::from(part.count) * (u64::from(copies) - u64::from(position));
                    continue;
                };
                parts.push(GroupRun { count: part.count - count, ..part.clone() });
                part.count = count;
                part.members.push(to);
                parts.push(part);
            }
        }
        homeless
    }
}

/// Plans the copies of a log segment: `copies` on disks of different failure domains, fewer when there
/// are fewer domains with room. At least one, or no space.
///
/// The extents that are kept for logs serve for this; a volume may have [`segments_per_log`].
pub fn plan_segment(
    metadata: &Metadata,
    usable: &Usable,
    copies: u8,
) -> Result<Vec<SegmentCopyPlace>, NoSpace> {
    let mut space = Space::new(metadata, usable);
    let mut places = Vec::new();
    let mut taken_domains = BTreeSet::new();
    while places.len() < usize::from(copies) {
        let found =
            space.most_free(SEGMENT_EXTENTS, |_, disk| !taken_domains.contains(&disk.domain));
        let Some(disk) = found else { break };
        taken_domains.extend(space.domain_of(disk));
        let Some(extents) = space.take_last(disk, SEGMENT_EXTENTS) else { break };
        places.push(SegmentCopyPlace { disk, extents });
    }
    if places.is_empty() { Err(NoSpace { available_bytes: 0 }) } else { Ok(places) }
}

/// A disk's free extents, and where it stands.
#[derive(Clone, Debug)]
struct FreeDisk {
    domain: Uuid,
    free: ExtentSet,
}

/// Free space, to try things out on.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    disks: BTreeMap<DiskNumber, FreeDisk>,
}

impl Space {
    pub(crate) fn new(metadata: &Metadata, usable: &Usable) -> Space {
        let disks = metadata.data_disks().filter(|disk| usable.contains(&disk.number));
        let disks = disks.map(|disk| {
            let domain = metadata.domain_of(disk);
            let free = FreeDisk { domain, free: disk.free.clone() };
            (disk.number, free)
        });
        Space { disks: disks.collect() }
    }

    /// Takes out what the logs may still need.
    pub(crate) fn reserve_for_logs(&mut self, metadata: &Metadata, for_new_volume: bool) {
        for (domain, segments) in self.kept_for_logs(metadata, for_new_volume) {
            for _ in 0..segments {
                let Some(disk) = self.most_free(SEGMENT_EXTENTS, |_, disk| disk.domain == domain)
                else {
                    break;
                };
                self.take_last(disk, SEGMENT_EXTENTS);
            }
        }
    }

    /// Segments that the logs may still need: in each domain as many as a volume may have, for each volume, less
    /// those that it has there.
    pub(crate) fn kept_for_logs(
        &self,
        metadata: &Metadata,
        for_new_volume: bool,
    ) -> BTreeMap<Uuid, u32> {
        // What is kept doesn't depend on which disks are out just now: what is full stays full.
        let all = metadata.disks().keys().copied().collect();
        let per_log = segments_per_log(metadata, &all);
        let volumes = metadata.volumes().size() as u32 + u32::from(for_new_volume);
        let domains: BTreeSet<Uuid> = self.disks.values().map(|disk| disk.domain).collect();
        let kept = domains.into_iter().map(|domain| {
            let mut live = 0_u32;
            for volume in metadata.volumes().values() {
                let segments = volume.log.segments.values();
                let places = segments.flat_map(|segment| segment.copies.iter());
                let here = places.filter(|place| {
                    self.disks.get(&place.disk).is_some_and(|disk| disk.domain == domain)
                });
                live += (here.count() as u32).min(per_log);
            }
            (domain, per_log.saturating_mul(volumes).saturating_sub(live))
        });
        kept.collect()
    }

    /// The disk with the most free extents, `run` of them consecutive, among the acceptable ones. The
    /// domain with the most free space comes first; the lower number wins where all is equal.
    fn most_free(
        &self,
        run: u32,
        accept: impl Fn(DiskNumber, &FreeDisk) -> bool,
    ) -> Option<DiskNumber> {
        let domains = self.domains();
        let candidates = self
            .disks
            .iter()
            .filter(|(number, disk)| accept(**number, disk) && disk.free.first_fit(run).is_some());
        let best = candidates.max_by_key(|(number, disk)| {
            let domain_free = domains.get(&disk.domain).copied().unwrap_or(0);
            (domain_free, disk.free.len(), std::cmp::Reverse(**number))
        });
        best.map(|(number, _)| *number)
    }

    /// Of the disks that have about as many free extents as the one with the most, and as much in their domain if
    /// that matters, the one that costs least.
    fn about_most_free(
        &self,
        run: u32,
        accept: impl Fn(DiskNumber, &FreeDisk) -> bool,
        domains_matter: bool,
        cost: impl Fn(DiskNumber) -> u64,
    ) -> Option<DiskNumber> {
        let most = self.disks.get(&self.most_free(run, &accept)?)?;
        let domains = self.domains();
        let domain_free = |disk: &FreeDisk| domains.get(&disk.domain).copied().unwrap_or(0);
        let is_about = |free: u64, most: u64| free + most / ABOUT_PART >= most;
        let candidates = self.disks.iter().filter(|(number, disk)| {
            accept(**number, disk)
                && disk.free.first_fit(run).is_some()
                && (!domains_matter || is_about(domain_free(disk), domain_free(most)))
                && is_about(disk.free.len().into(), most.free.len().into())
        });
        let least = candidates.min_by_key(|(number, disk)| {
            let free = std::cmp::Reverse((domain_free(disk), disk.free.len()));
            (cost(**number), free, **number)
        });
        least.map(|(number, _)| *number)
    }

    fn domain_of(&self, disk: DiskNumber) -> Option<Uuid> {
        self.disks.get(&disk).map(|disk| disk.domain)
    }

    /// Groups grow from the front of a disk ...
    pub(crate) fn take_first(&mut self, disk: DiskNumber, count: u32) -> Option<ExtentRange> {
        let free = &mut self.disks.get_mut(&disk)?.free;
        let extents = free.first_fit(count)?;
        free.remove(extents).then_some(extents)
    }

    /// ... and segments, which come and go, from its end, so that they don't break up runs.
    fn take_last(&mut self, disk: DiskNumber, count: u32) -> Option<ExtentRange> {
        let free = &mut self.disks.get_mut(&disk)?.free;
        let extents = free.last_fit(count)?;
        free.remove(extents).then_some(extents)
    }

    /// These are taken, wherever they are.
    pub(crate) fn take(&mut self, disk: DiskNumber, extents: ExtentRange) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.free.remove(extents);
        }
    }

    pub(crate) fn give_back(&mut self, disk: DiskNumber, extents: ExtentRange) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.free.insert(extents);
        }
    }

    /// Free extents by domain.
    pub(crate) fn domains(&self) -> BTreeMap<Uuid, u64> {
        let mut domains = BTreeMap::new();
        for disk in self.disks.values() {
            *domains.entry(disk.domain).or_default() += u64::from(disk.free.len());
        }
        domains
    }

    /// Groups of so many copies that still fit.
    fn groups_left(&self, copies: u8) -> u64 {
        most_groups(&self.domains(), copies)
    }

    fn sets_left(&self, layout: Layout, width: u16) -> u64 {
        self.groups_left(layout.copies()) / u64::from(width.max(1))
    }
}

/// The most groups with each copy in another domain: the highest T for which the domains hold T × copies
/// extents when none may give more than T.
pub(crate) fn most_groups(domains: &BTreeMap<Uuid, u64>, copies: u8) -> u64 {
    let copies = u64::from(copies.max(1));
    let total: u64 = domains.values().sum();
    let (mut low, mut high) = (0, total / copies);
    while low < high {
        let groups = high - (high - low) / 2;
        let held: u64 = domains.values().map(|free| (*free).min(groups)).sum();
        if held >= groups * copies { low = groups } else { high = groups - 1 }
    }
    low
}

/// How many groups two disks have in common. Whoever is lost is made anew from those that had groups in common with
/// it: the more there are, and the more evenly, the sooner.
#[derive(Clone, Debug, Default)]
struct Shared(BTreeMap<(DiskNumber, DiskNumber), u64>);

impl Shared {
    fn of(metadata: &Metadata) -> Shared {
        let mut shared = Shared::default();
        for run in metadata.volumes().values().flat_map(|volume| volume.runs.values()) {
            let disks: Vec<DiskNumber> = run.holders().map(|member| member.disk).collect();
            shared.add(&disks, run.count);
        }
        shared
    }

    fn add(&mut self, disks: &[DiskNumber], count: u32) {
        for (one, other) in
            disks.iter().flat_map(|one| disks.iter().map(move |other| (*one, *other)))
        {
            if one != other {
                *self.0.entry((one, other)).or_default() += u64::from(count);
            }
        }
    }

    fn with_any(&self, disk: DiskNumber, others: &[Member]) -> u64 {
        let with = |other: &Member| self.0.get(&(disk, other.disk)).copied().unwrap_or(0);
        others.iter().map(with).sum()
    }
}

/// Runs under construction.
struct Plan {
    space: Space,
    shared: Shared,
    runs: Vec<GroupRun>,
    generation: GenerationId,
}

impl Plan {
    /// One run of a mirror, of at most `most` groups: as long as it can be without spoiling the best
    /// use of the rest. Yields its length.
    fn mirror_run(&mut self, copies: u8, first_set: u64, most: u32) -> Option<u32> {
        let best = self.space.groups_left(copies);
        for (len, choice) in
            halvings(most).flat_map(|len| [(len, Choice::Spread), (len, Choice::MostFree)])
        {
            let members = self.take_members(copies, len, &BTreeSet::new(), choice);
            let Some(members) = members else { continue };
            let is_best = self.space.groups_left(copies) + u64::from(len) >= best;
            if is_best || len == 1 && choice == Choice::MostFree {
                self.push(0, first_set, len, members);
                return Some(len);
            }
            self.give_back(&members, len);
        }
        None
    }

    /// Runs for all lanes of consecutive sets, each lane on other disks where possible.
    fn striped_sets(&mut self, copies: u8, width: u16, first_set: u64, most: u32) -> Option<u32> {
        let best = self.space.groups_left(copies);
        for len in halvings(most) {
            let Some(lanes) = self.take_lanes(copies, width, len) else { continue };
            let taken = u64::from(width) * u64::from(len);
            if len == 1 || self.space.groups_left(copies) + taken >= best {
                for (lane, members) in lanes.into_iter().enumerate() {
                    self.push(lane as u16, first_set, len, members);
                }
                return Some(len);
            }
            for members in lanes {
                self.give_back(&members, len);
            }
        }
        None
    }

    /// Members for a run in each lane, or nothing taken.
    fn take_lanes(&mut self, copies: u8, width: u16, len: u32) -> Option<Vec<Vec<Member>>> {
        let mut lanes: Vec<Vec<Member>> = Vec::new();
        let mut used = BTreeSet::new();
        for _ in 0..width {
            let found = self
                .take_members(copies, len, &used, Choice::MostFree)
                .or_else(|| self.take_members(copies, len, &BTreeSet::new(), Choice::MostFree));
            let Some(members) = found else {
                for members in lanes {
                    self.give_back(&members, len);
                }
                return None;
            };
            used.extend(members.iter().map(|member| member.disk));
            lanes.push(members);
        }
        Some(lanes)
    }

    /// Members for a run of `len` groups in as many domains as there are copies, or nothing taken.
    fn take_members(
        &mut self,
        copies: u8,
        len: u32,
        avoid: &BTreeSet<DiskNumber>,
        choice: Choice,
    ) -> Option<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        let mut domains = BTreeSet::new();
        for _ in 0..copies {
            let accept = |number, disk: &FreeDisk| {
                !domains.contains(&disk.domain) && !avoid.contains(&number)
            };
            let found = match choice {
                Choice::MostFree => self.space.most_free(len, accept),
                Choice::Spread => {
                    let cost = |disk| self.shared.with_any(disk, &members);
                    self.space.about_most_free(len, accept, true, cost)
                }
            };
            let taken = found.and_then(|disk| Some((disk, self.space.take_first(disk, len)?)));
            let Some((disk, extents)) = taken else {
                self.give_back(&members, len);
                return None;
            };
            domains.extend(self.space.domain_of(disk));
            members.push(Member { disk, first: extents.first });
        }
        Some(members)
    }

    fn give_back(&mut self, members: &[Member], len: u32) {
        for member in members {
            self.space.give_back(member.disk, ExtentRange::new(member.first, len));
        }
    }

    fn push(&mut self, lane: u16, first_set: u64, count: u32, members: Vec<Member>) {
        let disks: Vec<DiskNumber> = members.iter().map(|member| member.disk).collect();
        self.shared.add(&disks, count);
        let key = RunKey { lane, first_set };
        self.runs.push(GroupRun {
            key,
            count,
            generation: self.generation,
            members,
            incoming: None,
            roots: Roots::default(),
        });
        self.generation = self.generation.plus(u64::from(count));
    }
}

/// `most`, then half of that, down to 1.
pub(crate) fn halvings(most: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(most).filter(|len| *len > 0), |len| {
        Some(len / 2).filter(|len| *len > 0)
    })
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
