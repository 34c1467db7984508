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

mod free;
mod moves;
mod spread;

use std::collections::{BTreeMap, BTreeSet};

use block::BLOCK_BYTES;
use uuid::Uuid;

use crate::format::{DiskNumber, GenerationId, VolumeId};
use crate::metadata::{
    ExtentRange, GroupRun, Layout, Member, Metadata, Roots, RunKey, SegmentCopyPlace, Volume,
    WIDTH_MAX,
};
use free::Choice;
use spread::Shared;

pub(crate) use free::{Space, most_groups};
pub use moves::MovePlan;

/// Groups in a run, at most.
pub(crate) const RUN_GROUPS_MAX: u32 = 16;
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
            let disks = metadata.data_disks().filter(|disk| usable.contains(&disk.number)).count();
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
        let shared = Shared::of(self.metadata, &self.space);
        let space = self.space;
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
    let extents_wanted = metadata.shape().segment_extents();
    let mut space = Space::new(metadata, usable);
    let mut places = Vec::new();
    let (mut taken_domains, mut taken_alone) = (BTreeSet::new(), BTreeSet::new());
    let alone = |disk| metadata.disks().get(&disk).map(|disk| metadata.unjoined_domain_of(disk));
    while places.len() < usize::from(copies) {
        let found = space.most_free(extents_wanted, |_, domain| !taken_domains.contains(&domain));
        let found = found.or_else(|| {
            space.most_free(extents_wanted, |disk, _| !taken_alone.contains(&alone(disk)))
        });
        let Some(disk) = found else { break };
        taken_domains.extend(space.domain_of(disk));
        taken_alone.insert(alone(disk));
        let Some(extents) = space.take_last(disk, extents_wanted) else { break };
        places.push(SegmentCopyPlace { disk, extents });
    }
    if places.is_empty() { Err(NoSpace { available_bytes: 0 }) } else { Ok(places) }
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
    // Of each domain what fails apart there without labels.
    let mut apart: BTreeMap<Uuid, BTreeSet<Uuid>> = BTreeMap::new();
    for disk in metadata.data_disks() {
        apart
            .entry(metadata.domain_of(disk))
            .or_default()
            .insert(metadata.unjoined_domain_of(disk));
    }
    let domains = apart.len().max(1);
    // Where labels left fewer domains than a log has copies, several are in one, as far as they fail apart without labels.
    let in_one = |domain: Uuid, copies: u8| {
        let most = apart.get(&domain).map_or(1, BTreeSet::len);
        usize::from(copies).div_ceil(domains).min(most) as u32
    };
    let mut logs: BTreeMap<u8, u32> = BTreeMap::new();
    for volume in metadata.volumes().values() {
        *logs.entry(volume.layout.copies()).or_default() += 1;
    }
    let all = |domain: Uuid| {
        let copies = logs.iter().map(|(copies, logs)| in_one(domain, *copies) * logs).sum::<u32>();
        per_log.saturating_mul(copies + u32::from(for_new_volume))
    };
    let distinct: BTreeSet<Uuid> = disks.values().copied().collect();
    let mut kept: BTreeMap<Uuid, u32> =
        distinct.into_iter().map(|domain| (domain, all(domain))).collect();
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
            let accept = |number, domain| !domains.contains(&domain) && !avoid.contains(&number);
            let shared = self.shared.with(&members);
            let found =
                self.space.choose(choice, len, accept, |disk| shared.groups(disk), shared.least());
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
