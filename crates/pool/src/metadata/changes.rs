//! Which sections of a checkpoint are out of date: every record says here what it changes, by kind and
//! keys, before it is applied. A checkpoint writes the sections anew that hold any of it, and leaves the
//! others where they are. What a record changes and this doesn't tell is lost with the log, so the match
//! has no arm for the rest.

use std::collections::BTreeSet;

use super::apply::{owned_by, places_of};
use super::{GroupRun, MetaRecord, Metadata, RunKey, Section, SharedMap, Table};
use crate::format::{DiskNumber, GenerationId, VolumeId};

/// What a section is about. Restoring takes them in this order: each kind names what those before made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionKind {
    /// The disks, by number.
    Disks,
    /// Volumes, each with properties and log, without its map; by number.
    Volumes,
    /// Group runs, by volume, lane and first set.
    Runs,
    /// Roots, by volume, lane and set.
    Roots,
    /// Dirty regions, by generation.
    DirtyRegions,
    /// Jobs and properties of the pool.
    Pool,
}

impl SectionKind {
    /// In order.
    pub const ALL: [SectionKind; 6] = [
        SectionKind::Disks,
        SectionKind::Volumes,
        SectionKind::Runs,
        SectionKind::Roots,
        SectionKind::DirtyRegions,
        SectionKind::Pool,
    ];
}

/// A place within a kind. What has no volume or lane has zeros there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionKey {
    /// Whose.
    pub volume: VolumeId,
    /// In which lane.
    pub lane: u16,
    /// The set; or the disk's number, or a generation.
    pub at: u64,
}

/// Groups whose dirty regions aren't separated: so many generations, from a multiple on.
pub(super) const MISSES_TOGETHER: u64 = 256;
/// Roots of a run that aren't separated: 64 chunks of [`super::Roots`], from a multiple on.
pub(super) const ROOTS_TOGETHER: u32 = 64 * 256;

impl SectionKey {
    /// The last one.
    pub(super) const LAST: SectionKey =
        SectionKey { volume: VolumeId(u32::MAX), lane: u16::MAX, at: u64::MAX };

    pub(super) fn of_disk(disk: DiskNumber) -> SectionKey {
        SectionKey { at: disk.0.into(), ..SectionKey::default() }
    }

    pub(super) fn of_volume(volume: VolumeId) -> SectionKey {
        SectionKey { volume, ..SectionKey::default() }
    }

    pub(super) fn of_set(volume: VolumeId, lane: u16, set: u64) -> SectionKey {
        SectionKey { volume, lane, at: set }
    }

    pub(super) fn of_dirty_regions(generation: GenerationId) -> SectionKey {
        let at = generation.0 / MISSES_TOGETHER * MISSES_TOGETHER;
        SectionKey { at, ..SectionKey::default() }
    }
}

/// What changed since the last checkpoint. Clones share it.
#[derive(Clone, Debug)]
pub struct Changes {
    /// No section is of use.
    everything: bool,
    /// First key to last.
    ranges: SharedMap<(SectionKind, SectionKey), SectionKey>,
}

/// It is no part of what the metadata says.
impl PartialEq for Changes {
    fn eq(&self, _: &Changes) -> bool {
        true
    }
}

impl Eq for Changes {}

impl Changes {
    /// Nothing changed.
    pub(super) fn none() -> Changes {
        Changes { everything: false, ranges: SharedMap::default() }
    }

    /// Nothing is known to be right.
    pub(super) fn everything() -> Changes {
        Changes { everything: true, ranges: SharedMap::default() }
    }

    /// Whether no section is of use.
    pub(super) fn is_everything(&self) -> bool {
        self.everything
    }

    /// What changed of a kind, as first and last keys.
    pub(super) fn of(
        &self,
        kind: SectionKind,
    ) -> impl Iterator<Item = (SectionKey, SectionKey)> + '_ {
        let range = (kind, SectionKey::default())..=(kind, SectionKey::LAST);
        self.ranges.range(range).map(|((_, first), last)| (*first, *last))
    }

    pub(super) fn add(&mut self, more: Vec<Change>) {
        if self.everything {
            return;
        }
        for Change { kind, first, last } in more {
            match self.ranges.get_mut(&(kind, first)) {
                Some(known) => *known = last.max(*known),
                None => self.ranges.insert_mut((kind, first), last),
            }
        }
    }
}

/// Something that changes, from one key to another.
pub(super) struct Change {
    kind: SectionKind,
    first: SectionKey,
    last: SectionKey,
}

impl Change {
    fn at(kind: SectionKind, key: SectionKey) -> Change {
        Change { kind, first: key, last: key }
    }

    fn disk(disk: DiskNumber) -> Change {
        Change::at(SectionKind::Disks, SectionKey::of_disk(disk))
    }

    pub(super) fn volume(volume: VolumeId) -> Change {
        Change::at(SectionKind::Volumes, SectionKey::of_volume(volume))
    }

    fn all_of(kind: SectionKind, volume: VolumeId) -> Change {
        let last = SectionKey { volume, ..SectionKey::LAST };
        Change { kind, first: SectionKey::of_volume(volume), last }
    }
}

impl Metadata {
    /// What changed since the last checkpoint.
    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// A checkpoint of this metadata is on all copies.
    pub(crate) fn forget_changes(&mut self) {
        self.changes = Changes::none();
    }

    /// Marks what one table has otherwise than another.
    pub(super) fn changed_between(&mut self, one: &Table, other: &Table) {
        for (table, other) in [(one, other), (other, one)] {
            let has: BTreeSet<_> = other.sections.iter().map(Section::content).collect();
            for (index, section) in table.sections.iter().enumerate() {
                if has.contains(&section.content()) {
                    continue;
                }
                let next = table.sections.get(index + 1).filter(|next| next.kind == section.kind);
                // One key too many does no harm.
                let last = next.map_or(SectionKey::LAST, |next| next.first);
                let (kind, first) = (section.kind, section.first);
                self.changes.add(vec![Change { kind, first, last }]);
            }
        }
    }

    /// The next checkpoint is written whole.
    pub(crate) fn distrust_sections(&mut self) {
        self.changes = Changes::everything();
    }

    /// The kinds of sections of which the next checkpoint writes some.
    #[cfg(test)]
    pub(crate) fn changed_kinds(&self) -> Vec<SectionKind> {
        let is_changed = |kind: &SectionKind| self.changes.of(*kind).next().is_some();
        SectionKind::ALL.into_iter().filter(is_changed).collect()
    }

    /// What a record changes in the sections, if it applies to this metadata. Counters and the pool's
    /// name are in the table, which is always written.
    pub(super) fn changed_by(&self, record: &MetaRecord) -> Vec<Change> {
        match record {
            MetaRecord::PoolRenamed { .. } => Vec::new(),
            MetaRecord::DiskAdded { number: disk, .. }
            | MetaRecord::DiskRemoved { number: disk }
            | MetaRecord::AreaBegun { disk, .. }
            | MetaRecord::AreaSwitched { disk }
            | MetaRecord::AreaCancelled { disk }
            | MetaRecord::DiskMoved { number: disk, .. }
            | MetaRecord::DiskRestored { number: disk, .. }
            | MetaRecord::PendingFreed { disk, .. } => vec![Change::disk(*disk)],
            MetaRecord::VolumeCreated { id, .. }
            | MetaRecord::VolumeResized { id, .. }
            | MetaRecord::VolumeRenamed { id, .. }
            | MetaRecord::LayoutChanging { id, .. }
            | MetaRecord::LayoutChanged { id }
            | MetaRecord::PropertySet { id, .. } => vec![Change::volume(*id)],
            MetaRecord::SegmentOpened { volume, .. }
            | MetaRecord::SegmentEnded { volume, .. }
            | MetaRecord::SegmentHighWater { volume, .. }
            | MetaRecord::SegmentFreed { volume, .. }
            | MetaRecord::SegmentCopyDropped { volume, .. }
            | MetaRecord::LogRestored { volume, .. } => vec![Change::volume(*volume)],
            MetaRecord::VolumeReduced { id, bytes } => self.changed_by_reduction(*id, *bytes),
            MetaRecord::VolumeRemoved { id } => self.changed_by_removal(*id),
            MetaRecord::RunAdded { volume, run } => {
                let key = SectionKey::of_set(*volume, run.key.lane, run.key.first_set);
                vec![Change::at(SectionKind::Runs, key)]
            }
            MetaRecord::RunInitialised { volume, key, count } => {
                let first = self.run(*volume, *key).map_or(0, |run| run.initialised());
                let last = count.saturating_sub(1).max(first);
                let set = |index: u32| {
                    let set = key.first_set.saturating_add(index.into());
                    SectionKey::of_set(*volume, key.lane, set)
                };
                vec![Change { kind: SectionKind::Roots, first: set(first), last: set(last) }]
            }
            MetaRecord::RootsRestored { volume, key, first, roots } => {
                let first = key.first_set.saturating_add((*first).into());
                let last = first.saturating_add(roots.len() as u64);
                let [first, last] =
                    [first, last].map(|set| SectionKey::of_set(*volume, key.lane, set));
                vec![Change { kind: SectionKind::Roots, first, last }]
            }
            MetaRecord::RunSplit { volume, key, count } => {
                let of_run = |run: &GroupRun| {
                    let [first, second, last] = [0, *count, run.count.saturating_sub(1)]
                        .map(|index| key.first_set.saturating_add(index.into()))
                        .map(|set| SectionKey::of_set(*volume, key.lane, set));
                    vec![
                        Change::at(SectionKind::Runs, first),
                        Change::at(SectionKind::Runs, second),
                        Change { kind: SectionKind::Roots, first, last },
                    ]
                };
                self.run(*volume, *key).map_or_else(Vec::new, of_run)
            }
            MetaRecord::MoveBegun { volume, key, to, .. }
            | MetaRecord::MoveRestored { volume, key, to, .. } => {
                self.changed_by_move(*volume, *key, Some(to.disk))
            }
            MetaRecord::MoveSwitched { volume, key } => {
                let outgoing = self.run(*volume, *key).and_then(|run| run.outgoing());
                self.changed_by_move(*volume, *key, outgoing.map(|member| member.disk))
            }
            MetaRecord::PositionDropped { volume, key, position } => {
                let run = self.run(*volume, *key);
                let left = run.and_then(|run| run.members.get(usize::from(*position)));
                self.changed_by_move(*volume, *key, left.map(|member| member.disk))
            }
            MetaRecord::MoveCancelled { volume, key } => {
                let incoming = self.run(*volume, *key).and_then(|run| run.incoming);
                self.changed_by_move(*volume, *key, incoming.map(|incoming| incoming.member.disk))
            }
            MetaRecord::JobSet { .. }
            | MetaRecord::JobRemoved { .. }
            | MetaRecord::PoolPropertySet { .. } => {
                vec![Change::at(SectionKind::Pool, SectionKey::default())]
            }
            MetaRecord::RegionsDirtied(dirty_regions)
            | MetaRecord::RegionsCleaned(dirty_regions) => {
                dirty(dirty_regions.keys().map(|(generation, _)| *generation)).collect()
            }
            MetaRecord::Applied { disks, .. } => {
                disks.iter().map(|disk| Change::disk(*disk)).collect()
            }
            MetaRecord::Released { volume, touched, dirty_regions, roots, .. } => {
                let disks = touched.iter().map(|disk| Change::disk(*disk));
                let dirty_regions = dirty(dirty_regions.keys().map(|(generation, _)| *generation));
                let roots = roots.iter().filter_map(|change| {
                    let group = self.group_by_generation(change.group)?;
                    // As many marks as there are pieces that are written, not as there are roots.
                    let index = group.index / ROOTS_TOGETHER * ROOTS_TOGETHER;
                    let count = (group.run.count - index).min(ROOTS_TOGETHER);
                    let first = group.run.key.first_set + u64::from(index);
                    let [first, last] = [first, first.saturating_add(u64::from(count - 1))]
                        .map(|set| SectionKey::of_set(group.volume, group.lane(), set));
                    Some(Change { kind: SectionKind::Roots, first, last })
                });
                [Change::volume(*volume)]
                    .into_iter()
                    .chain(disks)
                    .chain(dirty_regions)
                    .chain(roots)
                    .collect()
            }
        }
    }

    /// What changes of a run where a place on a disk begins or ends.
    fn changed_by_move(
        &self,
        volume: VolumeId,
        key: RunKey,
        disk: Option<DiskNumber>,
    ) -> Vec<Change> {
        let Some(run) = self.run(volume, key) else { return Vec::new() };
        let place = SectionKey::of_set(volume, key.lane, key.first_set);
        let mut changes = vec![Change::at(SectionKind::Runs, place), dirty_regions_of(run)];
        changes.extend(disk.map(Change::disk));
        changes
    }

    fn changed_by_reduction(&self, id: VolumeId, bytes: u64) -> Vec<Change> {
        let Some(volume) = self.volumes.get(&id) else { return Vec::new() };
        let mut changes = vec![Change::volume(id)];
        let beyond = self.runs_beyond(volume, bytes).into_iter();
        for run in beyond.filter_map(|(key, _)| volume.runs.get(&key)) {
            let [first, last] = [0, run.count - 1]
                .map(|index| run.key.first_set.saturating_add(index.into()))
                .map(|set| SectionKey::of_set(id, run.key.lane, set));
            let kinds = [SectionKind::Runs, SectionKind::Roots];
            changes.extend(kinds.map(|kind| Change { kind, first, last }));
            changes.extend(places_of(run).map(|(disk, _)| Change::disk(disk)));
            changes.extend(self.is_dirty(run).then(|| dirty_regions_of(run)));
        }
        changes
    }

    fn changed_by_removal(&self, id: VolumeId) -> Vec<Change> {
        let Some(volume) = self.volumes.get(&id) else { return Vec::new() };
        let mut changes = vec![
            Change::volume(id),
            Change::all_of(SectionKind::Runs, id),
            Change::all_of(SectionKind::Roots, id),
        ];
        changes.extend(owned_by(volume).map(|(disk, _)| Change::disk(disk)));
        let dirty_runs = volume.runs.values().filter(|run| self.is_dirty(run));
        changes.extend(dirty_runs.map(dirty_regions_of));
        changes
    }
}

fn dirty_regions_of(run: &GroupRun) -> Change {
    Change {
        kind: SectionKind::DirtyRegions,
        first: SectionKey::of_dirty_regions(run.generation),
        last: SectionKey::of_dirty_regions(run.generation.plus(u64::from(run.count - 1))),
    }
}

fn dirty(groups: impl Iterator<Item = GenerationId>) -> impl Iterator<Item = Change> {
    groups.map(|group| Change::at(SectionKind::DirtyRegions, SectionKey::of_dirty_regions(group)))
}
