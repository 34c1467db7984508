//! Resync: what a usable member missed is copied to it from members that have it, region by
//! region, checksum blocks first, under the group's lock, verified and flushed; only then are the
//! bits cleared. Groups whose last right copy is at stake come first.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Buffer, Instance, Lba};
use futures::StreamExt;
use futures::future::{join_all, select};
use runtime::Permit;

use super::disk_work::{DiskWork, Touched};
use super::known::SaidBy;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::pool::{GroupPlace, Pool};
use super::right_copy::NoRightCopy;
use super::volume::Volume;
use crate::format::{DiskNumber, ExtentShape, GenerationId, Row, VolumeId};
use crate::metadata::{DirtyRegions, MetaRecord};
use crate::report::PoolEvent;

/// How often is looked at what couldn't be copied, and at a disk with older contents.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// So much of a group is copied under its lock at once: a destage waits for it, and it is in memory.
const COPIED_AT_ONCE_BYTES: u64 = 4 << 20;
/// Groups that are copied together: their credit costs one flush of each disk, and one commit.
const BATCH_GROUPS: usize = 4;
/// Batches under way: while one is flushed and committed another one is read and written.
const BATCHES: usize = 2;
/// After so many groups is looked anew which are the most endangered.
const LOOK_ANEW_AFTER: usize = 64;
/// Reads for a group's copy at once.
const READS: usize = 8;

/// What was copied to a member.
pub(crate) struct Copied {
    /// Regions that it has now.
    pub(crate) mask: u64,
    bytes: u64,
    /// The instance that took it, if anything had to be written.
    instance: Option<Instance>,
}

impl Pool {
    /// Tells resync that there may be work.
    pub(crate) fn resync_soon(&self) {
        if !self.meta.borrow().dirty_regions().is_empty() {
            self.resyncing.set(true);
            self.changed.notify_all();
        }
    }

    /// The groups of which usable members miss something, the fewer have everything the earlier.
    fn groups_behind(&self) -> Vec<GenerationId> {
        let meta = self.meta.borrow();
        let is_usable = |disk: DiskNumber| self.member(disk).is_some_and(|m| m.is_usable());
        let behind = meta.dirty_regions().keys().filter(|(_, disk)| is_usable(*disk));
        let behind: BTreeSet<GenerationId> = behind.map(|(generation, _)| *generation).collect();
        let whole = |generation: GenerationId| {
            let group = meta.group_by_generation(generation)?;
            let has_all = |disk: DiskNumber| meta.dirty(generation, disk) == 0;
            Some(group.members().filter(|(disk, _)| has_all(*disk) && is_usable(*disk)).count())
        };
        let mut behind: Vec<(Option<usize>, GenerationId)> =
            behind.into_iter().map(|generation| (whole(generation), generation)).collect();
        behind.sort_unstable();
        behind.into_iter().map(|(_, generation)| generation).collect()
    }

    /// Commits that disks have what was copied to them; tells of how many groups.
    async fn credit_copies(self: &Rc<Self>, copies: Vec<GroupCopy>) -> Result<usize, Ended> {
        let mut took: BTreeMap<DiskNumber, Option<Instance>> = BTreeMap::new();
        let mut cleared = DirtyRegions::new();
        for (disk, instance) in copies.iter().flat_map(|copy| &copy.took) {
            let first = took.entry(*disk).or_insert(*instance);
            *first = first.or(*instance);
        }
        for copy in &copies {
            let same = |disk: &DiskNumber| {
                let instance = copy.took.get(disk).copied().flatten();
                instance.is_none() || took.get(disk) == Some(&instance)
            };
            cleared.extend(copy.cleared.iter().filter(|((_, disk), _)| same(disk)));
        }
        if cleared.is_empty() {
            return Ok(0);
        }
        // A disk that was rolled back behind what it is credited with now must be told by its number.
        let _releases = self.unless_over(self.release_lock.acquire(1)).await?;
        let release = self.meta.borrow().counters().release;
        let applied = self.unless_over(self.record_applied(took, release)).await?;
        let _meta = self.unless_over(self.meta_lock.acquire(1)).await?;
        // Whoever removes a volume frees its extents only once nobody works on its groups.
        let is_there = |generation: GenerationId| {
            let meta = self.meta.borrow();
            let group = meta.group_by_generation(generation).map(|group| group.volume);
            copies.iter().any(|copy| Some(copy.volume.id) == group && !copy.volume.is_gone())
        };
        cleared.retain(|(generation, disk), _| applied.contains(disk) && is_there(*generation));
        if cleared.is_empty() {
            return Ok(0);
        }
        let groups: BTreeSet<GenerationId> =
            cleared.keys().map(|(generation, _)| *generation).collect();
        let disks = applied.into_iter().collect();
        let records = [MetaRecord::RegionsCleaned(cleared), MetaRecord::Applied { release, disks }];
        self.commit_locked(&records).await?;
        Ok(groups.len())
    }
}

/// What was copied of a group. Its lock is held until that is committed.
struct GroupCopy {
    volume: Rc<Volume>,
    cleared: DirtyRegions,
    /// The disks that took it, and which instance of each, if anything had to be written.
    took: BTreeMap<DiskNumber, Option<Instance>>,
    _lock: Permit,
}

impl OpenPool {
    /// Resyncs whenever a usable member misses something.
    pub(crate) async fn run_resync(self: Rc<Self>) {
        loop {
            let changed = self.pool.changed.notified();
            let Ok(progress) = self.resync_behind().await else { return };
            self.judge_rolled_back().await;
            self.tell_resynced();
            if !progress {
                // What failed may be well without anything else changing.
                let again = self.pool.runtime.sleep(LOOK_AGAIN);
                if self.pool.unless_over(select(std::pin::pin!(changed), again)).await.is_err() {
                    return;
                }
                // What couldn't be copied just now isn't tried again at every small change.
                let rest = self.pool.runtime.sleep(self.pool.limits.retry);
                if self.pool.unless_over(rest).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Resyncs some of what usable members miss, the most endangered groups first; tells whether any bit was
    /// cleared.
    async fn resync_behind(self: &Rc<Self>) -> Result<bool, Ended> {
        let behind = self.pool.groups_behind();
        let cleared = &Cell::new(0);
        let batches = behind.chunks(BATCH_GROUPS).map(|batch| async move {
            // Others may be more endangered by now.
            if cleared.get() >= LOOK_ANEW_AFTER {
                return Ok(());
            }
            // Ascending, since it holds the locks of all: so do those who destage.
            let mut batch = batch.to_vec();
            batch.sort_unstable();
            let more = self.resync_batch(batch).await?;
            cleared.set(cleared.get() + more);
            Ok(())
        });
        let mut batches = futures::stream::iter(batches).buffer_unordered(BATCHES);
        while let Some(batch) = batches.next().await {
            batch?;
        }
        Ok(cleared.get() > 0)
    }

    /// Copies what usable members miss of some groups, and commits that together; tells of how many groups bits
    /// were cleared.
    async fn resync_batch(self: &Rc<Self>, groups: Vec<GenerationId>) -> Result<usize, Ended> {
        let mut copying = Vec::with_capacity(groups.len());
        for generation in groups {
            let volume = {
                let meta = self.pool.meta.borrow();
                meta.group_by_generation(generation).and_then(|group| self.volume(group.volume))
            };
            // What its log says of rows nobody knows before it is read; a destage follows that.
            let Some(volume) = volume.filter(|volume| volume.is_decided.get()) else { continue };
            // A destage that has it may wait for a disk that never comes back, and others for those taken here.
            let lock = self.pool.lock_group(generation);
            let lock = runtime::timeout(&self.pool.runtime, self.pool.limits.hedge, lock);
            let Ok(lock) = self.pool.unless_over(lock).await? else { continue };
            copying.push(async move { volume.copy_group(generation, lock).await });
        }
        let copies = self.pool.unless_over(join_all(copying)).await?;
        let copies: Vec<GroupCopy> = copies.into_iter().collect::<Result<_, Ended>>()?;
        self.pool.credit_copies(copies).await
    }

    /// A disk that came back with older contents and misses nothing that others have is as good as the
    /// others once what counts of all checksums is there: until then its newer contents may come back,
    /// and are waited for.
    async fn judge_rolled_back(&self) {
        let now = self.pool.runtime.now();
        for member in self.pool.members() {
            let appearance = member.appearance.get();
            if !member.rolled_back.get()
                || !member.is_usable()
                || self.pool.dirty_bytes(member.number) > 0
                || member.judge_at.get() > now
            {
                continue;
            }
            member.judge_at.set(now + LOOK_AGAIN);
            if self.has_what_counts(member.number).await && member.appearance.get() == appearance {
                member.rolled_back.set(false);
                self.pool.changed.notify_all();
            }
        }
    }

    async fn has_what_counts(&self, disk: DiskNumber) -> bool {
        let groups: Vec<(VolumeId, GenerationId)> = {
            let meta = self.pool.meta.borrow();
            let groups = meta.volumes().values().flat_map(|volume| volume.groups());
            let here = groups.filter(|group| group.is_initialised() && group.is_on(disk));
            here.map(|group| (group.volume, group.generation())).collect()
        };
        for (volume, generation) in groups {
            let volume = self.volume(volume);
            let (Some(volume), Some(place)) = (volume, self.pool.group_by_generation(generation))
            else {
                continue;
            };
            let blocks = self.pool.shape().checksum_blocks();
            for index in 0..blocks {
                if volume.checksum_block(&place, index..blocks).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    fn tell_resynced(&self) {
        for member in self.pool.members() {
            let copied = member.resynced_bytes.get();
            let behind = member.is_behind.get();
            if behind && member.is_usable() && self.pool.dirty_bytes(member.number) == 0 {
                member.is_behind.set(false);
                member.resynced_bytes.set(0);
                self.pool.events.tell(PoolEvent::Resynced {
                    pool: self.pool.name.clone(),
                    disk: member.display_name(),
                    copied_bytes: copied,
                });
            }
        }
    }
}

impl Volume {
    /// Copies what usable members of one group miss, or the first part of it.
    async fn copy_group(
        self: Rc<Self>,
        generation: GenerationId,
        lock: Permit,
    ) -> Result<GroupCopy, Ended> {
        let mut copy = GroupCopy {
            cleared: DirtyRegions::new(),
            took: BTreeMap::new(),
            volume: Rc::clone(&self),
            _lock: lock,
        };
        let Some(group) = self.pool.group_by_generation(generation) else { return Ok(copy) };
        let region_bytes = self.pool.shape().extent_bytes() / u64::from(ExtentShape::REGIONS);
        let regions_at_once = (COPIED_AT_ONCE_BYTES / region_bytes).max(1) as u32;
        for (index, (disk, _)) in group.members.iter().enumerate() {
            let dirty = self.pool.dirty(&group, index);
            if dirty == 0 || self.pool.extent_of(&group, index).is_none() {
                continue;
            }
            // What nobody there has right mustn't keep the rest from being copied.
            let (mut left, begun) = (dirty, self.pool.runtime.now());
            while left != 0 && self.pool.runtime.now().since(begun) < self.pool.limits.hedge {
                let part = left & ExtentShape::CHECKSUMS | lowest_bits(left, regions_at_once);
                left &= !part;
                let Some(copied) = self.copy_regions(&group, index, part).await? else { break };
                if copied.mask == 0 {
                    continue;
                }
                self.resynced_bytes.set(self.resynced_bytes.get() + copied.bytes);
                if let Some(member) = self.pool.member(*disk) {
                    member.resynced_bytes.set(member.resynced_bytes.get() + copied.bytes);
                }
                copy.took.insert(*disk, copied.instance);
                copy.cleared.insert((generation, *disk), copied.mask);
                break;
            }
        }
        Ok(copy)
    }

    /// Copies regions to one member; `None` when the member failed.
    pub(crate) async fn copy_regions(
        self: &Rc<Self>,
        group: &GroupPlace,
        target: usize,
        dirty: u64,
    ) -> Result<Option<Copied>, Ended> {
        let shape = self.pool.shape();
        let Some((member, device, start)) = self.pool.extent_of(group, target) else {
            return Ok(None);
        };
        let mut work = DiskWork::new(Rc::clone(&member), device);
        let mut copied = Copied { mask: dirty, bytes: 0, instance: None };
        let (mut runs, is_silent) = (Vec::new(), Cell::new(false));
        let blocks = shape.checksum_blocks();
        for index in 0..blocks {
            let (first, count) = shape.rows_of_block(index);
            let regions = ExtentShape::CHECKSUMS;
            let rows = self.pool.region_mask(first, count);
            if dirty & (regions | rows) == 0 {
                continue;
            }
            let Ok(loaded) = self.checksum_block(group, index..blocks).await else {
                copied.mask &= !(regions | rows);
                continue;
            };
            if dirty & regions != 0 {
                let sector = Lba(start.0 + shape.checksum_sector(index, loaded.block.slot()));
                let touched = Touched { group: group.generation, mask: regions };
                work.write(sector, loaded.block.encode(), touched);
                copied.bytes += BLOCK_BYTES as u64;
            }
            for region in
                (0..ExtentShape::CHECKSUM_REGION).filter(|region| dirty & 1 << region != 0)
            {
                let (from, count) = shape.rows_of_region(region);
                let known = |row: u32| self.known_of(group, Row(row));
                let seen = member.seen_instance.get();
                let stays_out = |row: u32| match known(row) {
                    SaidBy::Nobody => true,
                    // Its log has no contents, and in its place this disk may lack them.
                    SaidBy::Record if !self.is_carried(group, Row(row), member.number, seen) => {
                        self.is_destage_awaited.set(true);
                        true
                    }
                    SaidBy::Record => false,
                    SaidBy::Entry => false,
                };
                if (from.0..from.0 + count).any(stays_out) {
                    copied.mask &= !(1 << region);
                    continue;
                }
                // What a record says comes by the destage.
                let rows: Vec<(Row, u32)> = (from.0..from.0 + count)
                    .filter(|row| shape.entry_of(Row(*row)).0 == index)
                    .filter(|row| known(*row) == SaidBy::Entry)
                    .filter_map(|row| {
                        let entry = loaded.block.get(shape.entry_of(Row(row)).1);
                        Some((Row(row), entry.checksum()?))
                    })
                    .collect();
                let chunks = rows.chunk_by(|one, next| one.0.0 + 1 == next.0.0);
                runs.extend(chunks.map(|run| (region, run.to_vec())));
            }
        }
        if self.is_destage_awaited.get() {
            self.destage_soon();
        }
        let reads = runs.into_iter().map(|(region, run)| {
            let is_silent = &is_silent;
            async move {
                // Nobody waits under the group's lock for the same silent source again and again. One that
                // is away costs no time, and holds up nothing that others have.
                let begun = self.pool.runtime.now();
                let right = match is_silent.get() {
                    false => self.right_rows(group, &run).await,
                    true => None,
                };
                let took = self.pool.runtime.now().since(begun);
                is_silent.set(is_silent.get() || right.is_none() && took >= self.pool.limits.hedge);
                (region, right)
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(READS);
        let mut writes = Vec::new();
        while let Some((region, right)) = reads.next().await {
            match right {
                Some(runs) => {
                    writes.extend(runs.into_iter().map(|(row, data)| (region, row, data)))
                }
                None => copied.mask &= !(1 << region),
            }
        }
        // What can't be taken off the list of what is dirty would be written again at the next look.
        writes.retain(|(region, ..)| copied.mask & 1 << region != 0);
        for (region, row, data) in writes {
            copied.bytes += data.len() as u64;
            let touched = Touched { group: group.generation, mask: 1 << region };
            work.write(Lba(start.0 + shape.row_sector(row)), data, touched);
        }
        let disk = member.number;
        let works: BTreeMap<DiskNumber, DiskWork> = BTreeMap::from([(disk, work)]);
        let mut results = self.pool.run_works(works, None).await;
        let Some(result) = results.remove(&disk) else { return Ok(None) };
        if let Some(error) = result.failed {
            self.pool.evict(&BTreeMap::from([(disk, error)]), true).await?;
            return Ok(None);
        }
        copied.instance = result.instance;
        copied.mask &= !result.dirty.get(&group.generation).copied().unwrap_or(0);
        Ok(Some(copied))
    }

    /// Those of consecutive rows of a region of which somebody has a right copy, as runs: what all have
    /// lost is no member's to copy, and its checksum says so. `None` if members are silent.
    async fn right_rows(
        self: &Rc<Self>,
        group: &GroupPlace,
        rows: &[(Row, u32)],
    ) -> Option<Vec<(Row, Buffer)>> {
        let crcs: Vec<u32> = rows.iter().map(|(_, crc)| *crc).collect();
        let (first, _) = *rows.first()?;
        let found = self.rows_of_one(group, first, &crcs).await;
        let mut data = found.data.into_mut();
        let mut there: Vec<usize> = (0..rows.len()).collect();
        for index in found.wrong {
            let (row, crc) = rows[index];
            match self.right_copy(group, row, crc, found.member).await {
                Ok(copy) => {
                    self.repair_soon(group, row, &copy.wrong);
                    data[index * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&copy.data);
                }
                Err(NoRightCopy::Lost) => there.retain(|other| *other != index),
                Err(NoRightCopy::Silent { .. }) => return None,
            }
        }
        let data = data.freeze();
        let runs = there.chunk_by(|one, next| one + 1 == *next).map(|run| {
            let (from, to) = (run[0], run[0] + run.len());
            (Row(first.0 + from as u32), data.slice(from * BLOCK_BYTES, to * BLOCK_BYTES))
        });
        Some(runs.collect())
    }
}

/// Of the bits that are set the lowest ones, so many at most.
fn lowest_bits(mask: u64, count: u32) -> u64 {
    let mut left = mask;
    for _ in 0..count {
        left &= left.wrapping_sub(1);
    }
    mask & !left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_what_is_dirty_is_its_lowest_regions() {
        assert_eq!(lowest_bits(0b1011_0110, 3), 0b1_0110);
        assert_eq!(lowest_bits(u64::MAX, 64), u64::MAX);
        assert_eq!(lowest_bits(0b101, 7), 0b101);
        assert_eq!(lowest_bits(0, 1), 0);
    }
}
