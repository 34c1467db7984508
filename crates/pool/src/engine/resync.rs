//! Resync: what a usable member missed is copied to it from members that have it, region by
//! region, checksum blocks first, under the group's lock, verified and flushed; only then are the
//! bits cleared. Groups whose last right copy is at stake come first.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Buffer, Instance, Lba};
use futures::future::select;

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

    /// The groups of which usable members miss something.
    fn groups_behind(&self) -> BTreeSet<GenerationId> {
        let meta = self.meta.borrow();
        let behind = meta
            .dirty_regions()
            .keys()
            .filter(|(_, disk)| self.member(*disk).is_some_and(|member| member.is_usable()));
        behind.map(|(generation, _)| *generation).collect()
    }
}

impl OpenPool {
    /// Resyncs whenever a usable member misses something.
    pub(crate) async fn run_resync(self: Rc<Self>) {
        loop {
            let changed = self.pool.changed.notified();
            let behind = self.pool.groups_behind();
            let mut progress = false;
            for generation in behind {
                match self.resync_group(generation).await {
                    Ok(copied) => progress |= copied,
                    Err(_) => return,
                }
            }
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

    async fn resync_group(self: &Rc<Self>, generation: GenerationId) -> Result<bool, Ended> {
        let volume = {
            let meta = self.pool.meta.borrow();
            meta.group_by_generation(generation).and_then(|group| self.volume(group.volume))
        };
        // What its log says of rows nobody knows before it is read; a destage follows that.
        let decided = volume.filter(|volume| volume.is_decided.get());
        let Some(volume) = decided else { return Ok(false) };
        self.pool.unless_over(volume.resync_group(generation)).await?
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
    /// Copies what usable members of one group miss; tells whether any bit was cleared.
    async fn resync_group(self: &Rc<Self>, generation: GenerationId) -> Result<bool, Ended> {
        let _lock = self.pool.lock_group(generation).await;
        let Some(group) = self.pool.group_by_generation(generation) else { return Ok(false) };
        let mut cleared = DirtyRegions::new();
        let mut took = BTreeMap::new();
        for (index, (disk, _)) in group.members.iter().enumerate() {
            let dirty = self.pool.dirty(&group, index);
            if dirty == 0 || self.pool.extent_of(&group, index).is_none() {
                continue;
            }
            let Some(copied) = self.copy_regions(&group, index, dirty).await? else { continue };
            if copied.mask != 0 {
                self.resynced_bytes.set(self.resynced_bytes.get() + copied.bytes);
                if let Some(member) = self.pool.member(*disk) {
                    member.resynced_bytes.set(member.resynced_bytes.get() + copied.bytes);
                }
                took.insert(*disk, copied.instance);
                cleared.insert((generation, *disk), copied.mask);
            }
        }
        if cleared.is_empty() {
            return Ok(false);
        }
        // A disk that was rolled back behind what it is credited with now must be told by its number.
        let _releases = self.pool.release_lock.acquire(1).await;
        let release = self.pool.meta.borrow().counters().release;
        let applied = self.pool.record_applied(took, release).await;
        cleared.retain(|(_, disk), _| applied.contains(disk));
        if cleared.is_empty() {
            return Ok(false);
        }
        let disks = applied.into_iter().collect();
        let records = [MetaRecord::RegionsCleaned(cleared), MetaRecord::Applied { release, disks }];
        let _meta = self.pool.meta_lock.acquire(1).await;
        // Whoever removes the volume frees its extents only once nobody works on the group.
        if self.is_gone() {
            return Ok(false);
        }
        self.pool.commit_locked(&records).await?;
        Ok(true)
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
        let (mut writes, mut is_silent) = (Vec::new(), false);
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
                if (from.0..from.0 + count).any(|row| known(row) == SaidBy::Nobody) {
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
                for run in rows.chunk_by(|one, next| one.0.0 + 1 == next.0.0) {
                    // Nobody waits under the group's lock for the same silent source again and again. One
                    // that is away costs no time, and holds up nothing that others have.
                    let begun = self.pool.runtime.now();
                    let right = match is_silent {
                        false => self.right_rows(group, run).await,
                        true => None,
                    };
                    let took = self.pool.runtime.now().since(begun);
                    is_silent |= right.is_none() && took >= self.pool.limits.hedge;
                    match right {
                        Some(runs) => {
                            writes.extend(runs.into_iter().map(|(row, data)| (region, row, data)));
                        }
                        None => copied.mask &= !(1 << region),
                    }
                }
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
                    self.repair_soon(group.generation, row, &copy.wrong);
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
