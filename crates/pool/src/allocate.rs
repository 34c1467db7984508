//! Where new groups and log segments go.
//!
//! Members of a group lie in different failure domains, chosen by most free space first, in runs of up
//! to 16 groups on one set of disks; the sets rotate as free space levels out. Near the end runs get
//! shorter, never longer than leaves the best possible use of what remains: with domains of 1, 2 and
//! 3 GiB every extent that two copies on different domains can use is used.
//!
//! Of each domain some extents are kept for the volumes' logs, so that a full pool can still write,
//! also while a domain is missing; and what the pool's spare needs is left (`crate::spare`). Nothing is planned on
//! disks that the caller doesn't name as usable.
//!
//! Planning changes nothing: it yields records that the caller commits.

mod moves;
mod spread;

use std::collections::{BTreeMap, BTreeSet};

use block::BLOCK_BYTES;
use uuid::Uuid;

use crate::format::{DiskNumber, GenerationId, VolumeId};
use crate::metadata::{
    ExtentRange, ExtentSet, GroupRun, Layout, Member, Metadata, Roots, RunKey, SegmentCopyPlace,
    Volume, WIDTH_MAX,
};
use crate::spare::{Kept, Standing};
use spread::{Choice, Shared};

pub use moves::MovePlan;

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
    let sets = Planning::new(metadata, usable, layout, width, volume).sets_left();
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
    let wanted = wanted - have;
    // While the layout changes, what is new gets that which it is to have.
    let planning = Planning::new(metadata, usable, volume.wanted_layout(), volume.width, Some(id));
    if planning.sets_left() < wanted {
        return Err(no_space());
    }
    planning.runs(wanted).ok_or_else(no_space)
}

/// What a volume of a layout, or more of one, can be made of.
struct Planning<'a> {
    metadata: &'a Metadata,
    space: Space,
    /// More groups than these would be too many for the pool's spare.
    groups_max: u64,
    layout: Layout,
    width: u16,
    first_set: u64,
}

impl Planning<'_> {
    /// A new volume where none is named.
    fn new<'a>(
        metadata: &'a Metadata,
        usable: &Usable,
        layout: Layout,
        width: u16,
        volume: Option<VolumeId>,
    ) -> Planning<'a> {
        let mut space = Space::new(metadata, usable);
        space.reserve_for_logs(metadata, volume.is_none());
        let groups_max = space.keep_spare(metadata, usable, layout.copies(), volume.is_none());
        let volume = volume.and_then(|id| metadata.volumes().get(&id));
        let first_set = volume.map_or(0, Volume::whole_sets);
        Planning { metadata, space, groups_max, layout, width, first_set }
    }

    fn sets_left(&self) -> u64 {
        let groups = self.space.groups_left(self.layout.copies()).min(self.groups_max);
        groups / u64::from(self.width.max(1))
    }

    fn runs(self, sets: u64) -> Option<Vec<GroupRun>> {
        let generation = self.metadata.counters().generation;
        let (space, shared) = (self.space, Shared::of(self.metadata));
        let mut plan = Plan { space, shared, runs: Vec::new(), generation };
        let (mut next, end) = (self.first_set, self.first_set + sets);
        while next < end {
            let most = u32::try_from(end - next).unwrap_or(u32::MAX).min(RUN_GROUPS_MAX);
            let taken = match self.layout {
                Layout::Mirror(copies) if self.width == 1 => plan.mirror_run(copies, next, most),
                layout => plan.striped_sets(layout.copies(), self.width, next, most),
            };
            next += u64::from(taken?);
        }
        Some(plan.runs)
    }
}

/// Plans a metadata area of so many extents on a disk, none where they don't lie in a row. All of them are never
/// taken: that would make a witness of the disk, which nobody asked for.
pub fn plan_area(metadata: &Metadata, disk: DiskNumber, extents: u32) -> Option<ExtentRange> {
    let disk = metadata.disks().get(&disk)?;
    disk.free.first_fit(extents).filter(|area| !area.is_all_of(disk.extents))
}

/// Plans the copies of a log segment: `copies` on disks of different failure domains, fewer when there
/// are fewer domains with room. At least one, or no space. Where labels joined what has room, copies share a domain
/// rather than be fewer, but nothing that would be lost as one without labels.
///
/// The extents that are kept for logs serve for this; a volume may have [`segments_per_log`].
pub fn plan_segment(
    metadata: &Metadata,
    usable: &Usable,
    copies: u8,
) -> Result<Vec<SegmentCopyPlace>, NoSpace> {
    let mut space = Space::new(metadata, usable);
    let mut places = Vec::new();
    let (mut taken_domains, mut taken_alone) = (BTreeSet::new(), BTreeSet::new());
    let alone = |disk| metadata.disks().get(&disk).map(|disk| metadata.unjoined_domain_of(disk));
    while places.len() < usize::from(copies) {
        let found =
            space.most_free(SEGMENT_EXTENTS, |_, disk| !taken_domains.contains(&disk.domain));
        let found = found.or_else(|| {
            space.most_free(SEGMENT_EXTENTS, |disk, _| !taken_alone.contains(&alone(disk)))
        });
        let Some(disk) = found else { break };
        taken_domains.extend(space.domain_of(disk));
        taken_alone.insert(alone(disk));
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

impl FreeDisk {
    /// Whether so many extents lie in a row, and may be taken of what the domains have.
    fn has_room(&self, domains: &BTreeMap<Uuid, u64>, run: u32) -> bool {
        domains.get(&self.domain).is_some_and(|free| *free >= u64::from(run))
            && self.free.first_fit(run).is_some()
    }
}

/// Segments that the logs may still need in the domains of these disks.
pub(crate) fn kept_for_logs(
    metadata: &Metadata,
    disks: &BTreeMap<DiskNumber, Uuid>,
    for_new_volume: bool,
) -> BTreeMap<Uuid, u32> {
    // What is kept doesn't depend on which disks are out just now: what is full stays full.
    let all = metadata.disks().keys().copied().collect();
    let per_log = segments_per_log(metadata, &all);
    let apart: BTreeSet<(Uuid, Uuid)> = metadata
        .data_disks()
        .map(|disk| (metadata.domain_of(disk), metadata.unjoined_domain_of(disk)))
        .collect();
    let domains = apart.iter().map(|(domain, _)| domain).collect::<BTreeSet<_>>().len().max(1);
    // Where labels left fewer domains than a log has copies, several are in one, as far as they fail apart without labels.
    let in_one = |domain: Uuid, copies: u8| {
        let most = apart.iter().filter(|(one, _)| *one == domain).count();
        usize::from(copies).div_ceil(domains).min(most).max(1) as u32
    };
    let all = |domain: Uuid| {
        let copies = metadata.volumes().values().map(|volume| volume.layout.copies());
        let copies = copies.map(|copies| in_one(domain, copies)).sum::<u32>();
        per_log.saturating_mul(copies + u32::from(for_new_volume))
    };
    let mut kept: BTreeMap<Uuid, u32> =
        disks.values().map(|domain| (*domain, all(*domain))).collect();
    for volume in metadata.volumes().values() {
        let copies = volume.log.segments.values().flat_map(|segment| segment.copies.iter());
        let mut live: BTreeMap<Uuid, u32> = BTreeMap::new();
        for domain in copies.filter_map(|copy| disks.get(&copy.disk)) {
            *live.entry(*domain).or_default() += 1;
        }
        for (domain, segments) in live {
            if let Some(kept) = kept.get_mut(&domain) {
                let most = per_log * in_one(domain, volume.layout.copies());
                *kept = kept.saturating_sub(segments.min(most));
            }
        }
    }
    kept
}

/// Free space, to try things out on.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    disks: BTreeMap<DiskNumber, FreeDisk>,
    /// Of each domain so many stay free, wherever they lie.
    kept: BTreeMap<Uuid, u64>,
}

impl Space {
    pub(crate) fn new(metadata: &Metadata, usable: &Usable) -> Space {
        let disks = metadata.data_disks().filter(|disk| usable.contains(&disk.number));
        let disks = disks.map(|disk| {
            let domain = metadata.domain_of(disk);
            let free = FreeDisk { domain, free: disk.free.clone() };
            (disk.number, free)
        });
        Space { disks: disks.collect(), kept: BTreeMap::new() }
    }

    /// Leaves what the pool's spare needs. More groups than the answer would be too many for it.
    fn keep_spare(
        &mut self,
        metadata: &Metadata,
        usable: &Usable,
        copies: u8,
        for_new_volume: bool,
    ) -> u64 {
        let Some(standing) = Standing::for_growth(metadata, usable, for_new_volume) else {
            return u64::MAX;
        };
        let Kept { extents, groups_left } = standing.kept(&self.domains(), copies);
        self.keep(extents);
        groups_left
    }

    /// Leaves so many extents of each domain, wherever they lie.
    pub(crate) fn keep(&mut self, extents: BTreeMap<Uuid, u64>) {
        self.kept = extents;
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
        let domains = self.disks.iter().map(|(disk, free)| (*disk, free.domain)).collect();
        kept_for_logs(metadata, &domains, for_new_volume)
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
            .filter(|(number, disk)| accept(**number, disk) && disk.has_room(&domains, run));
        let best = candidates.max_by_key(|(number, disk)| {
            let domain_free = domains.get(&disk.domain).copied().unwrap_or(0);
            (domain_free, disk.free.len(), std::cmp::Reverse(**number))
        });
        best.map(|(number, _)| *number)
    }

    fn has(&self, disk: DiskNumber) -> bool {
        self.disks.contains_key(&disk)
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

    /// Free extents by domain, without what is to stay free.
    pub(crate) fn domains(&self) -> BTreeMap<Uuid, u64> {
        let mut domains: BTreeMap<Uuid, u64> = BTreeMap::new();
        for disk in self.disks.values() {
            *domains.entry(disk.domain).or_default() += u64::from(disk.free.len());
        }
        for (domain, free) in &mut domains {
            *free = free.saturating_sub(self.kept.get(domain).copied().unwrap_or(0));
        }
        domains
    }

    /// Groups of so many copies that still fit.
    fn groups_left(&self, copies: u8) -> u64 {
        most_groups(&self.domains(), copies)
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
            halvings(most).flat_map(|len| [(len, Choice::AboutMostFree), (len, Choice::MostFree)])
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
            let cost = |disk| self.shared.with_any(disk, &members);
            let found = self.space.choose(choice, len, accept, cost);
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
