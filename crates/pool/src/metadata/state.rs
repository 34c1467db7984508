//! The metadata in memory, and the questions that the engine asks of it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::changes::Changes;
use super::labels::Domains;
use super::{Conversion, ExtentRange, ExtentSet, Job, Roots, Runs, SharedMap, VolumeLog};
use crate::format::{
    DiskId, DiskNumber, ExtentNumber, ExtentShape, FailureDomain, GenerationId, JobNumber, PoolId,
    ReleaseNumber, VolumeId,
};
use crate::layout::StripeLayout;

/// What never changes about a pool (but its name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolIdentity {
    /// The pool.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Bytes per extent, checked to be a shape that exists.
    pub extent_bytes: u64,
    /// What members of a group must not share.
    pub failure_domain: FailureDomain,
}

/// A disk of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its index in the pool.
    pub number: DiskNumber,
    /// Its identity, as in its label.
    pub id: DiskId,
    /// The machine that it was last seen on: the failure domain `node`.
    pub node: Uuid,
    /// That machine's name, for people.
    pub node_name: String,
    /// Its labelled size.
    pub bytes: u64,
    /// Its metadata area, if it has one. Who reads it finds it by the label.
    pub area: Option<ExtentRange>,
    /// The area that is about to take that one's place. The label says which of the two it is by now.
    pub incoming_area: Option<ExtentRange>,
    /// Number of its extents.
    pub extents: u32,
    /// What nobody owns.
    pub free: ExtentSet,
    /// What has lost its owner but may still be under an operation that names it.
    pub pending: ExtentSet,
    /// The release number that its applied block must hold at least.
    pub expected_release: ReleaseNumber,
}

impl Disk {
    /// The extents that the metadata has for itself.
    pub fn areas(&self) -> impl Iterator<Item = ExtentRange> {
        self.area.into_iter().chain(self.incoming_area)
    }

    /// Whether what its label names may be its area.
    pub fn agrees_on_area(&self, labelled: Option<ExtentRange>) -> bool {
        labelled == self.area || (labelled.is_some() && labelled == self.incoming_area)
    }

    /// Whether it only votes: its metadata area takes all that it has, so that nothing else ever finds a place on it.
    pub fn is_witness(&self) -> bool {
        self.area.is_some_and(|area| area.is_all_of(self.extents))
    }

    /// Number of the extents that others than the metadata may have.
    pub fn room(&self) -> u32 {
        let areas: u32 = self.areas().map(|area| area.count).sum();
        self.extents - areas
    }
}

/// How a volume's data is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^(raid0|mirror(:[2-4])?)$"))]
pub enum Layout {
    /// Striped, one copy.
    Raid0,
    /// So many copies in different failure domains.
    Mirror(u8),
}

impl Layout {
    /// Most copies that can be asked for; the format has room for more.
    pub const COPIES_ASKED_MAX: u8 = 4;

    /// Members of a group.
    pub fn copies(self) -> u8 {
        match self {
            Layout::Raid0 => 1,
            Layout::Mirror(copies) => copies,
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Layout::Raid0 => f.write_str("raid0"),
            Layout::Mirror(copies) => write!(f, "mirror:{copies}"),
        }
    }
}

impl std::str::FromStr for Layout {
    type Err = InvalidLayout;

    fn from_str(text: &str) -> Result<Layout, InvalidLayout> {
        let copies = match text {
            "raid0" => return Ok(Layout::Raid0),
            // As md calls two copies; its raid10 has them in stripes, as every mirror of ours.
            "mirror" | "raid1" | "raid10" => Some(2),
            other => other.strip_prefix("mirror:").and_then(|copies| copies.parse().ok()),
        };
        let copies = copies.filter(|copies| (2..=Layout::COPIES_ASKED_MAX).contains(copies));
        copies.map(Layout::Mirror).ok_or_else(|| InvalidLayout(text.to_owned()))
    }
}

block::serde_as_text!(Layout);

/// Not a layout that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a layout: use raid0, or mirror:N with 2 to {max} copies",
    max = Layout::COPIES_ASKED_MAX
)]
pub struct InvalidLayout(pub String);

/// Where one member of a run lies: consecutive extents of a disk, one per group of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The disk.
    pub disk: DiskNumber,
    /// The extent of the run's first group.
    pub first: ExtentNumber,
}

/// Place of a run in its volume: the order of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    /// The lane of all its groups.
    pub lane: u16,
    /// The set of its first group.
    pub first_set: u64,
}

/// A position that moves to another disk, or a further one. Until it has moved both are positions: the new one gets
/// all that is written, and counts for what it doesn't lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Which of the run's positions; the number of them for a further one.
    pub position: u8,
    /// Where it is to be.
    pub member: Member,
}

/// Consecutive groups of one lane on one set of disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRun {
    /// Where in the volume.
    pub key: RunKey,
    /// How many groups, in consecutive sets.
    pub count: u32,
    /// Generation of the first group; the others follow.
    pub generation: GenerationId,
    /// Where its members lie.
    pub members: Vec<Member>,
    /// Where one of them is to lie.
    pub incoming: Option<Incoming>,
    /// Of each group that has durable checksum blocks, from the first on: which versions of them
    /// count ([`crate::format::version_hash`]).
    pub roots: Roots,
}

impl GroupRun {
    /// How many groups, from the first on, have durable checksum blocks.
    pub fn initialised(&self) -> u32 {
        self.roots.len() as u32
    }

    /// Its members, and where one of them moves to.
    pub fn holders(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().copied().chain(self.incoming.map(|incoming| incoming.member))
    }

    /// The position that a disk has; none for one that it is only to have.
    pub fn position_on(&self, disk: DiskNumber) -> Option<u8> {
        self.members.iter().position(|member| member.disk == disk).map(|position| position as u8)
    }

    /// The generations of its first groups, ascending.
    pub fn generations(&self, count: u32) -> impl Iterator<Item = GenerationId> + use<> {
        let first = self.generation;
        (0..count).map(move |index| first.plus(index.into()))
    }

    /// Where the member lies that is to move; none where a further one comes.
    pub fn outgoing(&self) -> Option<Member> {
        self.members.get(usize::from(self.incoming?.position)).copied()
    }
}

/// One group, as a view into its run.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The volume that it belongs to.
    pub volume: VolumeId,
    /// Its run.
    pub run: &'a GroupRun,
    /// Its index in the run.
    pub index: u32,
}

impl<'a> Group<'a> {
    /// Its generation id.
    pub fn generation(&self) -> GenerationId {
        self.run.generation.plus(u64::from(self.index))
    }

    /// The set that it belongs to.
    pub fn set(&self) -> u64 {
        self.run.key.first_set + u64::from(self.index)
    }

    /// Its lane.
    pub fn lane(&self) -> u16 {
        self.run.key.lane
    }

    /// Whether its checksum blocks are durable: then a row without a valid entry is an error.
    pub fn is_initialised(&self) -> bool {
        self.root().is_some()
    }

    /// Which versions of its checksum blocks count; `None` before they are initialised.
    pub fn root(&self) -> Option<u64> {
        self.run.roots.get(self.index as usize)
    }

    /// Its members' extents, in order of the member index; at last where one of them moves to.
    pub fn members(&self) -> impl Iterator<Item = (DiskNumber, ExtentNumber)> + 'a {
        let index = self.index;
        self.run
            .holders()
            .map(move |member| (member.disk, ExtentNumber(member.first.0.saturating_add(index))))
    }

    /// Whether it has a position on a disk.
    pub fn is_on(&self, disk: DiskNumber) -> bool {
        self.run.holders().any(|member| member.disk == disk)
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// Its name, unique in the pool.
    pub name: String,
    /// How its data is kept: what all of it has.
    pub layout: Layout,
    /// How it is to be kept, where that changes.
    pub conversion: Option<Conversion>,
    /// Groups in a set.
    pub width: u16,
    /// Its size; the groups cover at least that.
    pub bytes: u64,
    /// Its map.
    pub runs: Runs,
    /// Its log.
    pub log: VolumeLog,
    /// What services remember about it (mount, exports, …).
    pub properties: SharedMap<String, String>,
}

/// Dirty bits: for a group's generation and a disk that has a position in it a bit per region of the extent.
/// They are a disk's: who takes over a position inherits nothing.
pub type DirtyRegions = BTreeMap<(GenerationId, DiskNumber), u64>;

/// The numbers that will be given next; none is ever given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// For groups and segments.
    pub generation: GenerationId,
    /// For volumes.
    pub volume: VolumeId,
    /// For disks.
    pub disk: DiskNumber,
    /// For releases.
    pub release: ReleaseNumber,
}

impl Default for Counters {
    /// Zero is nobody's number, so that zeroed bytes never name anything.
    fn default() -> Counters {
        Counters {
            generation: GenerationId(1),
            volume: VolumeId(1),
            disk: DiskNumber(0),
            release: ReleaseNumber(1),
        }
    }
}

/// All that a pool knows about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub(super) pool: PoolIdentity,
    pub(super) shape: ExtentShape,
    pub(super) disks: SharedMap<DiskNumber, Disk>,
    /// Their numbers: each that joins is looked for among thousands.
    pub(super) disks_by_id: SharedMap<DiskId, DiskNumber>,
    pub(super) volumes: SharedMap<VolumeId, Volume>,
    pub(super) dirty_regions: SharedMap<(GenerationId, DiskNumber), u64>,
    pub(super) jobs: SharedMap<JobNumber, Job>,
    pub(super) properties: SharedMap<String, String>,
    pub(super) next: Counters,
    /// First generation of each run to its place.
    pub(super) generations: SharedMap<GenerationId, (VolumeId, RunKey)>,
    /// What the newest checkpoint's sections don't have.
    pub(super) changes: Changes,
    pub(super) domains: Domains,
}

impl Metadata {
    /// A pool without disks; `None` when the extent size is none that exists.
    pub fn new(pool: PoolIdentity) -> Option<Metadata> {
        let shape = ExtentShape::new(pool.extent_bytes)?;
        Some(Metadata {
            pool,
            shape,
            disks: SharedMap::default(),
            disks_by_id: SharedMap::default(),
            volumes: SharedMap::default(),
            dirty_regions: SharedMap::default(),
            jobs: SharedMap::default(),
            properties: SharedMap::default(),
            next: Counters::default(),
            generations: SharedMap::default(),
            changes: Changes::everything(),
            domains: Domains::default(),
        })
    }

    /// What the pool is.
    pub fn pool(&self) -> &PoolIdentity {
        &self.pool
    }

    /// How a member's extent is divided.
    pub fn shape(&self) -> ExtentShape {
        self.shape
    }

    /// The disks.
    pub fn disks(&self) -> &SharedMap<DiskNumber, Disk> {
        &self.disks
    }

    /// The disks that data may be on: all but witnesses.
    pub fn data_disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values().filter(|disk| !disk.is_witness())
    }

    /// The machines that have them.
    pub fn data_machines(&self) -> BTreeSet<Uuid> {
        self.data_disks().map(|disk| disk.node).collect()
    }

    /// Whether a disk is a witness.
    pub fn is_witness(&self, disk: DiskNumber) -> bool {
        self.disks.get(&disk).is_some_and(Disk::is_witness)
    }

    /// A disk by its identity.
    pub fn disk_by_id(&self, id: DiskId) -> Option<&Disk> {
        self.disks.get(self.disks_by_id.get(&id)?)
    }

    /// The volumes.
    pub fn volumes(&self) -> &SharedMap<VolumeId, Volume> {
        &self.volumes
    }

    /// A volume by its name.
    pub fn volume_by_name(&self, name: &str) -> Option<&Volume> {
        self.volumes.values().find(|volume| volume.name == name)
    }

    /// The jobs.
    pub fn jobs(&self) -> &SharedMap<JobNumber, Job> {
        &self.jobs
    }

    /// The pool's properties.
    pub fn properties(&self) -> &SharedMap<String, String> {
        &self.properties
    }

    /// The regions that are out of date on disks, by group.
    pub fn dirty_regions(&self) -> &SharedMap<(GenerationId, DiskNumber), u64> {
        &self.dirty_regions
    }

    /// Whether a run has dirty regions.
    pub fn is_dirty(&self, run: &GroupRun) -> bool {
        self.dirty_regions_in(run).next().is_some()
    }

    /// The dirty regions of a volume's groups, in any order. Mostly there are none, and sometimes more of other volumes
    /// than this one has runs.
    pub fn dirty_regions_of<'a>(
        &'a self,
        volume: &'a Volume,
    ) -> impl Iterator<Item = ((GenerationId, DiskNumber), u64)> + 'a {
        let are_few = self.dirty_regions.size() <= volume.runs.size();
        let is_of = move |generation| {
            self.group_by_generation(generation).is_some_and(|group| group.volume == volume.id)
        };
        let few = are_few.then(|| self.dirty_regions.iter()).into_iter().flatten();
        let few = few.map(|(key, mask)| (*key, *mask)).filter(move |((of, _), _)| is_of(*of));
        let runs = (!are_few).then(|| volume.runs.values()).into_iter().flatten();
        few.chain(runs.flat_map(move |run| self.dirty_regions_in(run)))
    }

    /// The dirty regions of a run's groups.
    pub(super) fn dirty_regions_in(
        &self,
        run: &GroupRun,
    ) -> impl Iterator<Item = ((GenerationId, DiskNumber), u64)> + '_ {
        let first = (run.generation, DiskNumber(0));
        let end = (run.generation.plus(u64::from(run.count)), DiskNumber(0));
        self.dirty_regions.range(first..end).map(|(key, mask)| (*key, *mask))
    }

    /// The groups of a volume of which a disk has dirty regions.
    pub fn groups_behind<'a>(&'a self, volume: &'a Volume) -> impl Iterator<Item = Group<'a>> + 'a {
        let generations: BTreeSet<GenerationId> =
            self.dirty_regions_of(volume).map(|((generation, _), _)| generation).collect();
        generations.into_iter().filter_map(|generation| self.group_by_generation(generation))
    }

    /// The regions of a group that are out of date on a disk: a bit each.
    pub fn dirty(&self, group: GenerationId, disk: DiskNumber) -> u64 {
        self.dirty_regions.get(&(group, disk)).copied().unwrap_or(0)
    }

    /// The numbers that will be given next.
    pub fn counters(&self) -> Counters {
        self.next
    }

    /// A run of a volume.
    pub fn run(&self, volume: VolumeId, key: RunKey) -> Option<&GroupRun> {
        self.volumes.get(&volume)?.runs.get(&key)
    }

    /// The group with this generation id; `None` when its space was given back.
    pub fn group_by_generation(&self, generation: GenerationId) -> Option<Group<'_>> {
        let (first, (volume, key)) = self.generations.range(..=generation).next_back()?;
        let run = self.volumes.get(volume)?.runs.get(key)?;
        let index =
            u32::try_from(generation.0 - first.0).ok().filter(|index| *index < run.count)?;
        Some(Group { volume: *volume, run, index })
    }
}

impl Volume {
    /// How its blocks go over its groups.
    pub fn stripes(&self, shape: ExtentShape) -> Option<StripeLayout> {
        StripeLayout::new(self.width, shape.rows())
    }

    /// The group at a place of the map.
    pub fn group(&self, set: u64, lane: u16) -> Option<Group<'_>> {
        let key = RunKey { lane, first_set: set };
        let (found, run) = self.runs.range(..=key).next_back()?;
        let index = set.checked_sub(found.first_set).filter(|_| found.lane == lane)?;
        let index = u32::try_from(index).ok().filter(|index| *index < run.count)?;
        Some(Group { volume: self.id, run, index })
    }

    /// All groups, lane by lane.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let volume = self.id;
        self.runs
            .values()
            .flat_map(move |run| (0..run.count).map(move |index| Group { volume, run, index }))
    }

    /// The sets that are complete from the first on in every lane.
    pub fn whole_sets(&self) -> u64 {
        (0..self.width).map(|lane| self.sets_in_lane(lane)).min().unwrap_or(0)
    }

    /// The end of the unbroken row of sets in one lane.
    pub fn sets_in_lane(&self, lane: u16) -> u64 {
        let first = RunKey { lane, first_set: 0 };
        let last = RunKey { lane, first_set: u64::MAX };
        let mut end = 0;
        for (key, run) in self.runs.range(first..=last) {
            if key.first_set != end {
                break;
            }
            end += u64::from(run.count);
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_as_they_are_written() {
        for layout in [Layout::Raid0, Layout::Mirror(2), Layout::Mirror(4)] {
            assert_eq!(layout.to_string().parse(), Ok(layout));
        }
        for two in ["mirror", "raid1", "raid10"] {
            assert_eq!(two.parse(), Ok(Layout::Mirror(2)));
        }
        for wrong in ["mirror:1", "mirror:5", "mirror:", "raid5", "", "mirror:256"] {
            assert!(wrong.parse::<Layout>().is_err(), "{wrong}");
        }
    }
}
