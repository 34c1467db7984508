//! Initialising groups: before a group's first destage its checksum blocks say "unwritten", durably, in
//! both slots on every usable member. Done for some groups ahead, so that a sequential writer seldom
//! waits for it, and as soon as somebody writes much near the end of those that are: only to groups that are
//! initialised anything goes in place.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::Lba;

use super::disk_work::{DiskWork, Touched, WorkResult, dirty_after};
use super::lease::Ended;
use super::pool::GroupPlace;
use super::volume::Volume;
use crate::format::{ChecksumBlock, ChecksumVersion, DiskNumber, ExtentShape, GenerationId};
use crate::metadata::{MetaRecord, RunKey};

/// Groups that are initialised beyond those that are needed.
const AHEAD: u32 = 8;
/// A large write wants so many initialised beyond its own.
const WANTED_AHEAD: u64 = AHEAD as u64 / 2;

impl Volume {
    /// Somebody writes much to this group: has it and the next ones of its lane initialised soon.
    pub(crate) fn want_initialised(&self, group: &GroupPlace) {
        let meta = self.pool.meta.borrow();
        let Some(volume) = meta.volumes().get(&self.id) else { return };
        let next =
            (0..=WANTED_AHEAD).map_while(|ahead| volume.group(group.set + ahead, group.lane));
        let mut wanted = self.wanted_groups.borrow_mut();
        for group in next.filter(|group| !group.is_initialised()) {
            let count = wanted.entry(group.run.key).or_default();
            if *count <= group.index {
                *count = group.index + 1;
                self.log.destaging.notify_all();
            }
        }
    }

    /// Initialises what large writes want. What nobody is there for waits until it is needed.
    pub(crate) async fn initialise_wanted(self: &Rc<Self>) -> Result<(), Ended> {
        let wanted = std::mem::take(&mut *self.wanted_groups.borrow_mut());
        if wanted.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.destaging.acquire(1).await;
        if self.is_gone() {
            return Err(Ended::Closed);
        }
        for (key, count) in wanted {
            self.initialise_run(key, count).await?;
        }
        Ok(())
    }

    /// Initialises these groups where they aren't; false if no member of some is there. The caller holds
    /// `destaging`, so nobody else initialises the same groups at the same time.
    pub(crate) async fn initialise_for(
        self: &Rc<Self>,
        groups: &[Rc<GroupPlace>],
    ) -> Result<bool, Ended> {
        let mut needed: BTreeMap<RunKey, u32> = BTreeMap::new();
        for group in groups.iter().filter(|group| !group.initialised) {
            let count = needed.entry(group.key).or_default();
            *count = (*count).max(group.index + 1);
        }
        for (key, count) in needed {
            if !self.initialise_run(key, count).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn initialise_run(self: &Rc<Self>, key: RunKey, needed: u32) -> Result<bool, Ended> {
        loop {
            // Nobody is taken in before the commit says what it lacks.
            let members_stay = self.pool.release_lock.acquire(1).await;
            let Some((groups, count)) = self.uninitialised(key, needed) else {
                return Ok(true);
            };
            let mut works = BTreeMap::new();
            let mut alone: BTreeSet<GenerationId> =
                groups.iter().map(|group| group.generation).collect();
            for group in &groups {
                for index in 0..group.members.len() {
                    let Some((member, device, start)) = self.pool.extent_of(group, index) else {
                        continue;
                    };
                    alone.remove(&group.generation);
                    let work = works
                        .entry(member.number)
                        .or_insert_with(|| DiskWork::new(Rc::clone(&member), device));
                    if !self.pool.has_another_right(group, index) {
                        work.set_alone();
                    }
                    self.add_unwritten(work, group, start);
                }
            }
            if !alone.is_empty() {
                return Ok(false);
            }
            let release = self.pool.meta.borrow().counters().release;
            let work = self.pool.run_works(works, Some(release));
            let results = self.pool.unless_over(work).await?;
            let failed: BTreeMap<_, _> =
                results.iter().filter_map(|(disk, r)| Some((*disk, r.failed?))).collect();
            if !failed.is_empty() {
                drop(members_stay);
                self.pool.evict(&failed, true).await?;
                continue;
            }
            let written = groups.iter().map(|group| (&**group, ExtentShape::CHECKSUMS));
            let dirty_regions = dirty_after(written, &results);
            let _lock = self.pool.meta_lock.acquire(1).await;
            let records = [
                MetaRecord::RegionsDirtied(dirty_regions),
                MetaRecord::RunInitialised { volume: self.id, key, count },
                MetaRecord::Applied { release, disks: results.keys().copied().collect() },
            ];
            match self.pool.try_commit_locked(&records).await {
                Ok(()) => {
                    self.remember_initialised(&groups, &results);
                    return Ok(true);
                }
                Err(super::commit::CommitError::Ended(ended)) => return Err(ended),
                // No member could take the blocks, or the volume is gone: the caller finds out.
                Err(error) => tracing::warn!(volume = %self.name(), ?error, "initialising"),
            }
            drop((_lock, members_stay));
            self.wait_for_change().await?;
            return Ok(false);
        }
    }

    /// Who took the blocks is known to hold them, so that the first destage needn't look.
    fn remember_initialised(
        &self,
        groups: &[Rc<GroupPlace>],
        results: &BTreeMap<DiskNumber, WorkResult>,
    ) {
        let blocks = self.pool.shape().checksum_blocks();
        for group in groups {
            let shown = group.members.iter().filter_map(|(disk, _)| {
                let result = results.get(disk)?;
                let whole = !result.dirty.contains_key(&group.generation);
                whole.then_some((*disk, result.instance?))
            });
            self.checksums.initialised(group.generation, blocks, shown.collect());
        }
    }

    /// The groups of a run from the first uninitialised one to those needed and some more, and how
    /// many of the run will then be initialised.
    fn uninitialised(&self, key: RunKey, needed: u32) -> Option<(Vec<Rc<GroupPlace>>, u32)> {
        let (first, count) = {
            let meta = self.pool.meta.borrow();
            let run = meta.volumes().get(&self.id)?.runs.get(&key)?;
            let count = needed.saturating_add(AHEAD).min(run.count);
            (run.initialised(), count)
        };
        if first >= needed {
            return None;
        }
        let at = |index: u32| crate::layout::RowAddress {
            set: key.first_set + u64::from(index),
            lane: key.lane,
            row: crate::format::Row(0),
        };
        let groups = (first..count).filter_map(|index| self.pool.group_at(self.id, at(index)));
        Some((groups.collect(), count))
    }

    fn add_unwritten(&self, work: &mut DiskWork, group: &GroupPlace, start: Lba) {
        let shape = self.pool.shape();
        for index in 0..shape.checksum_blocks() {
            for sequence in 0..2 {
                let version = ChecksumVersion { sequence, ..ChecksumVersion::INITIAL };
                let block = ChecksumBlock::unwritten(group.generation, index, version);
                let sector = Lba(start.0 + shape.checksum_sector(index, block.slot()));
                let touched = Touched { group: group.generation, mask: ExtentShape::CHECKSUMS };
                work.write(sector, block.encode(), touched);
            }
        }
    }
}
