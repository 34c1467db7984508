//! Crediting disks with what resync copied to them: flushed under the instance that took it, recorded as applied, and
//! only then committed as theirs. A disk that can't make it durable is out.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{Instance, IoError};
use runtime::Permit;

use super::copy_order::Loads;
use super::disk_work::{WorkResult, failures};
use super::lease::Ended;
use super::pool::Pool;
use super::stops::StopPoint;
use super::volume::Volume;
use crate::format::{DiskNumber, GenerationId};
use crate::metadata::{DirtyRegions, MetaRecord};

/// A flush for copies is to take such a part of the time after which a disk that is silent is evicted: a write that
/// somebody waits for may come behind one that has just begun, and behind the next one.
const FLUSHES: u32 = 6;

/// What was copied of a group. Its lock is held until that is committed.
pub(super) struct GroupCopy {
    pub(super) volume: Rc<Volume>,
    pub(super) generation: GenerationId,
    /// So much to each disk.
    pub(super) bytes: BTreeMap<DiskNumber, u64>,
    pub(super) cleared: DirtyRegions,
    /// The disks that took it, and which instance of each, if anything had to be written.
    pub(super) took: BTreeMap<DiskNumber, Option<Instance>>,
    pub(super) _lock: Permit,
}

impl GroupCopy {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }
}

impl Pool {
    /// Makes what was copied durable on the disks that took it, and commits that they have it; tells of how many
    /// groups. A disk that can't make it durable is out.
    pub(super) async fn credit_copies(
        self: &Rc<Self>,
        copies: Vec<GroupCopy>,
        loads: &Loads,
    ) -> Result<usize, Ended> {
        let mut took: BTreeMap<DiskNumber, Option<Instance>> = BTreeMap::new();
        for (disk, instance) in copies.iter().flat_map(|copy| &copy.took) {
            let first = took.entry(*disk).or_insert(*instance);
            *first = first.or(*instance);
        }
        let mut bytes: BTreeMap<DiskNumber, u64> = BTreeMap::new();
        for (disk, copied) in copies.iter().flat_map(|copy| &copy.bytes) {
            *bytes.entry(*disk).or_default() += copied;
        }
        self.stops.pass(StopPoint::CopyWritten).await;
        // Before any lock of the pool: a flush may take long, and whoever destages, moves something or takes a disk in
        // would wait for it.
        let written = took.iter().filter_map(|(disk, instance)| Some((*disk, (*instance)?)));
        let flushed = self.unless_over(self.flush_disks(written)).await?;
        took.retain(|disk, instance| {
            instance.is_none() || flushed.get(disk).is_some_and(WorkResult::is_done)
        });
        let (credited, recorded) = self.commit_copies(&copies, took).await?;
        for (disk, result) in flushed.iter().filter(|(_, done)| done.is_done()) {
            // A drive without FUA flushes for the applied number once more.
            let again = recorded.get(disk).map_or(Duration::ZERO, |done| done.took);
            let bytes = bytes.get(disk).copied().unwrap_or(0);
            loads.was_flushed(*disk, bytes, result.took + again, self.limits.eviction / FLUSHES);
        }
        // Whoever waits for their groups has no reason to wait until a disk is out.
        drop(copies);
        let failed: BTreeMap<DiskNumber, IoError> =
            failures(&flushed).into_iter().chain(failures(&recorded)).collect();
        if !failed.is_empty() {
            self.evict(&failed, true).await?;
        }
        Ok(credited)
    }

    /// Commits that disks have what was copied to them, where that is durable.
    async fn commit_copies(
        self: &Rc<Self>,
        copies: &[GroupCopy],
        took: BTreeMap<DiskNumber, Option<Instance>>,
    ) -> Result<(usize, BTreeMap<DiskNumber, WorkResult>), Ended> {
        let mut cleared = DirtyRegions::new();
        for copy in copies {
            let same = |disk: &DiskNumber| match copy.took.get(disk).copied().flatten() {
                None => true,
                instance => took.get(disk) == Some(&instance),
            };
            cleared.extend(copy.cleared.iter().filter(|((_, disk), _)| same(disk)));
        }
        if cleared.is_empty() {
            return Ok((0, BTreeMap::new()));
        }
        self.stops.pass(StopPoint::CopyFlushed).await;
        // A disk that was rolled back behind what it is credited with now must be told by its number.
        let _releases = self.unless_over(self.release_lock.acquire(1)).await?;
        let release = self.meta.borrow().counters().release;
        let recorded = self.unless_over(self.record_applied(took, release)).await?;
        let applied: BTreeSet<DiskNumber> =
            recorded.iter().filter(|(_, done)| done.is_done()).map(|(disk, _)| *disk).collect();
        self.stops.pass(StopPoint::CopyApplied).await;
        let _meta = self.unless_over(self.meta_lock.acquire(1)).await?;
        // Whoever removes a volume frees its extents only once nobody works on its groups.
        let is_there = |generation: GenerationId| {
            let meta = self.meta.borrow();
            let group = meta.group_by_generation(generation).map(|group| group.volume);
            copies.iter().any(|copy| Some(copy.volume.id) == group && !copy.volume.is_gone())
        };
        cleared.retain(|(generation, disk), _| applied.contains(disk) && is_there(*generation));
        if cleared.is_empty() {
            return Ok((0, recorded));
        }
        let groups: BTreeSet<GenerationId> =
            cleared.keys().map(|(generation, _)| *generation).collect();
        let disks = applied.into_iter().collect();
        let records = [MetaRecord::RegionsCleaned(cleared), MetaRecord::Applied { release, disks }];
        self.commit_locked(&records).await?;
        Ok((groups.len(), recorded))
    }
}
