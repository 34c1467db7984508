//! Crediting disks with what resync copied to them: flushed under the instance that took it, recorded as applied, and
//! only then committed as theirs. A disk that can't make it durable is out.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{Instance, Instant, IoError};
use runtime::Permit;

use super::copy_order::{Load, Loads};
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
    /// How long a piece took at most.
    pub(super) slowest_piece: Duration,
    pub(super) _lock: Permit,
}

impl GroupCopy {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.values().sum()
    }
}

/// What was copied to a disk, on the way to be durable there.
pub(super) struct CopyFlush {
    disk: DiskNumber,
    instance: Instance,
    groups: BTreeSet<GenerationId>,
    bytes: u64,
}

/// What became of it: nothing if the disk doesn't take part any more.
pub(super) struct Flushed {
    of: CopyFlush,
    result: Option<WorkResult>,
}

/// Copies that are durable where they are to be credited, and disks whose flush failed meanwhile.
pub(super) struct Credit {
    copies: Vec<GroupCopy>,
    failed: BTreeMap<DiskNumber, IoError>,
}

impl Credit {
    pub(super) fn groups(&self) -> Vec<GenerationId> {
        self.copies.iter().map(|copy| copy.generation).collect()
    }
}

/// What was copied and isn't credited yet. Each disk is flushed by itself, so that none waits for another one's arm;
/// what is durable is credited together, since that costs a write to each disk and a commit.
#[derive(Default)]
pub(super) struct UncreditedCopies {
    copies: BTreeMap<GenerationId, Uncredited>,
    /// What each disk is to make durable, and since when the first of it was copied.
    unflushed: BTreeMap<DiskNumber, (Instant, BTreeSet<GenerationId>)>,
    flushing: BTreeSet<DiskNumber>,
    /// What no disk is waited for any more.
    durable: Vec<GroupCopy>,
    failed: BTreeMap<DiskNumber, IoError>,
}

struct Uncredited {
    copy: GroupCopy,
    /// The disks that are to make it durable, the instances that took it, and that they have it to do.
    unflushed: BTreeMap<DiskNumber, (Instance, Option<Load>)>,
}

impl UncreditedCopies {
    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.durable.is_empty() && self.failed.is_empty()
    }

    /// A group was copied: that `writes` is still to be done by its disks.
    pub(super) fn push(
        &mut self,
        copy: GroupCopy,
        mut writes: BTreeMap<DiskNumber, Load>,
        now: Instant,
    ) {
        // One that wasn't known to lack something when the group was chosen has no such load, and is flushed as well.
        let unflushed = copy.took.iter().filter_map(|(disk, instance)| {
            let load = writes.remove(disk);
            Some((*disk, ((*instance)?, load)))
        });
        let unflushed: BTreeMap<_, _> = unflushed.collect();
        for disk in unflushed.keys() {
            let (_, groups) = self.unflushed.entry(*disk).or_insert((now, BTreeSet::new()));
            groups.insert(copy.generation);
        }
        match unflushed.is_empty() {
            true => self.durable.push(copy),
            false => {
                self.copies.insert(copy.generation, Uncredited { copy, unflushed });
            }
        }
    }

    /// What is to be flushed now, for each disk all that it took.
    pub(super) fn take_flushes(
        &mut self,
        is_due: impl Fn(DiskNumber, Instant) -> bool,
        is_wanted: impl Fn(&GroupCopy) -> bool,
    ) -> Vec<CopyFlush> {
        let idle = self
            .unflushed
            .iter()
            .filter(|(disk, _)| !self.flushing.contains(*disk) && !self.failed.contains_key(*disk));
        let flushes = idle.filter_map(|(disk, (since, groups))| {
            let copies = groups.iter().filter_map(|group| self.copies.get(group));
            let is_any_wanted = || copies.clone().any(|copy| is_wanted(&copy.copy));
            if !is_due(*disk, *since) && !is_any_wanted() {
                return None;
            }
            let took = |copy: &Uncredited| copy.unflushed.get(disk).map(|(instance, _)| *instance);
            let instance = copies.clone().find_map(took)?;
            // What another instance took is flushed next, under that one.
            let its: Vec<&GroupCopy> = copies
                .filter(|copy| took(copy) == Some(instance))
                .map(|uncredited| &uncredited.copy)
                .collect();
            Some(CopyFlush {
                disk: *disk,
                instance,
                groups: its.iter().map(|copy| copy.generation).collect(),
                bytes: its.iter().filter_map(|copy| copy.bytes.get(disk)).sum(),
            })
        });
        let flushes: Vec<CopyFlush> = flushes.collect();
        self.flushing.extend(flushes.iter().map(|flush| flush.disk));
        flushes
    }

    /// What a disk didn't make durable it isn't credited with.
    pub(super) fn was_flushed(&mut self, Flushed { of, result }: Flushed, now: Instant) {
        self.flushing.remove(&of.disk);
        let is_done = result.as_ref().is_some_and(WorkResult::is_done);
        if let Some(error) = result.as_ref().and_then(|result| result.failed) {
            self.failed.entry(of.disk).or_insert(error);
        }
        let left = self.unflushed.remove(&of.disk).map(|(_, mut groups)| {
            groups.retain(|group| !of.groups.contains(group));
            groups
        });
        if let Some(groups) = left.filter(|groups| !groups.is_empty()) {
            self.unflushed.insert(of.disk, (now, groups));
        }
        for generation in of.groups {
            let Some(uncredited) = self.copies.get_mut(&generation) else { continue };
            uncredited.unflushed.remove(&of.disk);
            if !is_done {
                uncredited.copy.took.remove(&of.disk);
                uncredited.copy.cleared.retain(|(_, disk), _| *disk != of.disk);
            }
            if uncredited.unflushed.is_empty() {
                self.durable.extend(self.copies.remove(&generation).map(|done| done.copy));
            }
        }
    }

    /// What is durable, if it is due to be credited or somebody wants a group of it; or if a disk is to go.
    pub(super) fn take_credit(
        &mut self,
        is_due: bool,
        is_wanted: impl Fn(&GroupCopy) -> bool,
    ) -> Option<Credit> {
        let is_due = is_due || self.durable.iter().any(is_wanted);
        if !self.failed.is_empty() || is_due && !self.durable.is_empty() {
            let copies = std::mem::take(&mut self.durable);
            return Some(Credit { copies, failed: std::mem::take(&mut self.failed) });
        }
        None
    }
}

impl Pool {
    /// Makes what was copied durable on a disk.
    pub(super) async fn flush_copies(
        &self,
        of: CopyFlush,
        loads: &Loads,
    ) -> Result<Flushed, Ended> {
        self.stops.pass(StopPoint::CopyWritten).await;
        // Before any lock of the pool: a flush may take long, and whoever destages, moves something or takes a disk in
        // would wait for it.
        let flush = self.flush_disk(of.disk, of.instance, &loads.flushes);
        let (begin, wanted) = (self.runtime.now(), self.limits.eviction / FLUSHES);
        let result = self.unless_over(flush).await?;
        let took = self.runtime.now().since(begin);
        // Who is out because it took too long begins with less when it is back.
        if took > wanted || result.as_ref().is_some_and(WorkResult::is_done) {
            loads.was_flushed(of.disk, of.bytes, took, wanted);
        }
        Ok(Flushed { of, result })
    }

    /// Commits that disks have what was copied to them and is durable there; tells of how many groups. A disk that
    /// can't make it durable is out.
    pub(super) async fn credit_copies(
        self: &Rc<Self>,
        Credit { copies, mut failed }: Credit,
    ) -> Result<usize, Ended> {
        let mut took: BTreeMap<DiskNumber, Option<Instance>> = BTreeMap::new();
        for (disk, instance) in copies.iter().flat_map(|copy| &copy.took) {
            let first = took.entry(*disk).or_insert(*instance);
            *first = first.or(*instance);
        }
        // Nobody waits here for a disk that is about to be out: what it made durable before is copied again.
        took.retain(|disk, _| !failed.contains_key(disk));
        let (credited, recorded) = self.commit_copies(&copies, took).await?;
        // Whoever waits for their groups has no reason to wait until a disk is out.
        drop(copies);
        for (disk, error) in failures(&recorded) {
            failed.entry(disk).or_insert(error);
        }
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
