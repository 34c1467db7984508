//! Destaging: what the log holds goes into place, with its checksums, on every usable member; the others
//! get dirty regions. Only when all of that is durable and recorded is the log's space released. From the
//! choice of whom a destage reaches to its commit no disk is taken in: it would pass for one that has all.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instant, Lba};
use futures::future::select;
use futures::{FutureExt, StreamExt};
use runtime::Permit;

use super::belief::LoadError;
use super::disk_work::{DiskWork, Touched, WorkResult, dirty_after, failures};
use super::lease::Ended;
use super::limits::READ_TRIES;
use super::pool::GroupPlace;
use super::volume::Volume;
use super::volume::pending::{BlockData, PendingBlock, gather};
use crate::format::{
    ChecksumBlock, ChecksumVersion, DiskNumber, Entry, ExtentShape, GenerationId, RecordNumber,
    ReleaseNumber, Row, SegmentNumber, version_hash,
};
use crate::layout::VolumeBlock;
use crate::metadata::{DirtyRegions, MetaRecord, RootChange, Segment, SegmentState};

/// Rows written by one transfer, at most.
const RUN_ROWS: usize = 256;
/// This part of the room stays with what was written in place last, where nobody waits for room.
const LEFT_PART: u64 = 8;
/// Checksum blocks loaded at once.
const LOADS: usize = 32;

/// What is due to rows: data, or zeros.
type DueRows = BTreeMap<Row, Option<BlockData>>;

/// What a destage does to one group.
pub(crate) struct GroupDestage {
    pub(crate) group: Rc<GroupPlace>,
    pub(crate) rows: DueRows,
    blocks: Vec<NextBlock>,
    /// Some checksum block of its rows can't be believed now, or nobody is there who could have it.
    pub(crate) is_doubtful: bool,
    _lock: Permit,
}

/// Groups of which a destage takes the locks, until it has them or is given up.
struct Wanted<'a>(&'a RefCell<(Instant, BTreeSet<GenerationId>)>);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().1.clear();
    }
}

/// A checksum block as a destage makes it.
struct NextBlock {
    block: ChecksumBlock,
    /// What the version that it follows adds to the root.
    followed_hash: u64,
}

impl Volume {
    /// Destages when the log fills, when it was idle, or when a segment has fewer copies than wanted.
    pub(crate) async fn run_destage(self: Rc<Self>) {
        loop {
            // A disk that is evicted or taken in may make a segment due.
            let told = select(self.log.destaging.notified(), self.pool.changed.notified());
            if self.is_gone() || self.initialise_wanted().await.is_err() {
                return;
            }
            let work = self.destage_due();
            let outcome = match work {
                DestageDue::Now(last) => self.destage(last).await,
                DestageDue::At(when) => {
                    let timer = self.pool.runtime.sleep_until(when);
                    self.pool.unless_over(select(told, timer)).await.map(|_| ())
                }
                DestageDue::Never => self.pool.unless_over(told).await.map(|_| ()),
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    fn destage_due(&self) -> DestageDue {
        let state = self.log.state.borrow();
        let meta = self.pool.meta.borrow();
        let Some(volume) = meta.volumes().get(&self.id) else { return DestageDue::Never };
        let segments = &volume.log.segments;
        let closed = segments.values().filter_map(Segment::end).max();
        // A MARK alone is worth no destage.
        let (last, released) = (state.releasable(), volume.log.released);
        if last < state.durable && last <= released {
            // Rows of an INTENT are being written; then this is looked at again.
            return DestageDue::Never;
        }
        let undestaged = state.content.min(last) > released;
        let quiet = self.log.writing.available() > 0;
        if (undestaged || quiet) && self.is_current_over() {
            return DestageDue::Now(last);
        }
        if closed.is_none() && !undestaged {
            // All is in place, and the open segment still holds room that somebody waits for.
            let gives_room = state.charges.values().any(|bytes| *bytes > 0);
            let stuck = self.credit.is_wanted() && gives_room && quiet
                // The open segment's room may be all that there is, and a MARK be what keeps it.
                || self.credit.wants_segment.get() && last > released;
            // An opening would read much of the open segment, which holds nothing.
            let rests_at = self.rests_at().filter(|_| quiet);
            return match rests_at {
                _ if stuck => DestageDue::Now(last),
                Some(when) if when <= self.pool.runtime.now() => DestageDue::Now(last),
                Some(when) => DestageDue::At(when),
                None => DestageDue::Never,
            };
        }
        let destageable = self.has_destageable();
        let full = self.credit.used_bytes() > self.credit.capacity_bytes() / 2;
        let half = full || destageable && segments.size() as u32 > self.log_shape.segments_max / 2;
        let pressed = destageable && self.credit.is_wanted() || self.credit.wants_segment.get();
        let thin = self.has_thin_segment(destageable);
        if half || pressed || thin {
            // The open segment is left alone while destaging the closed ones gives room; not if something
            // is stuck: of that, what each segment has would make the next one due, without end.
            let closed = closed.filter(|_| self.log.stuck.borrow().is_empty());
            if closed.is_none() && !pressed && !thin {
                // Whoever writes in sequence goes on in the groups that were written last.
                let newest = self.credit.capacity_bytes() / LEFT_PART;
                let older = state.intents.but_newest(newest).filter(|older| *older <= last);
                return DestageDue::Now(older.unwrap_or(last));
            }
            return DestageDue::Now(closed.map_or(last, |closed| closed.min(last)));
        }
        if !destageable {
            return DestageDue::Never;
        }
        if self.is_destage_awaited.get() {
            return DestageDue::Now(last);
        }
        let idle_at = self.log.appended_at.get() + self.pool.limits.destage_idle;
        if idle_at <= self.pool.runtime.now() {
            DestageDue::Now(last)
        } else {
            DestageDue::At(idle_at)
        }
    }

    /// Has the log brought into place for somebody who waits for that.
    pub(super) fn destage_soon(&self) {
        self.is_destage_awaited.set(true);
        self.log.destaging.notify_all();
    }

    /// Brings everything up to `last` into place and releases it; what can't be brought into place,
    /// because some region would be right on no member, is appended again.
    pub(crate) async fn destage(self: &Rc<Self>, last: RecordNumber) -> Result<(), Ended> {
        self.destage_and_free(last, false).await
    }

    /// The same for all that a log holds while nothing is appended: frees every segment.
    pub(crate) async fn destage_all(self: &Rc<Self>, last: RecordNumber) -> Result<(), Ended> {
        self.destage_and_free(last, true).await
    }

    async fn destage_and_free(self: &Rc<Self>, last: RecordNumber, all: bool) -> Result<(), Ended> {
        let _one_at_a_time = self.destaging.acquire(1).await;
        let began = self.pool.runtime.now();
        if self.is_gone() {
            return Err(Ended::Closed);
        }
        self.credit.wants_segment.set(false);
        self.is_destage_awaited.set(false);
        let due = self.pending.borrow().up_to(last);
        let mut destages = self.lock_groups(due).await;
        // Members may go away until all are initialised.
        loop {
            self.set_stuck_aside(&mut destages, last).await?;
            let groups: Vec<_> = destages.iter().map(|f| f.group.clone()).collect();
            if self.initialise_for(&groups).await? {
                break;
            }
        }
        self.pool.unless_over(self.load_checksums(&mut destages)).await??;
        let results = loop {
            self.set_stuck_aside(&mut destages, last).await?;
            let shows = destages.iter().map(|destage| self.show_span(&destage.group));
            let mut shows = futures::stream::iter(shows).buffer_unordered(LOADS);
            while let Some(shown) = self.pool.unless_over(shows.next()).await? {
                shown?;
            }
            drop(shows);
            let release_lock = self.pool.release_lock.acquire(1).await;
            if !destages.iter().all(|destage| self.is_shown(&destage.group)) {
                // Somebody was taken in meanwhile.
                continue;
            }
            let release = self.pool.meta.borrow().counters().release;
            let results = self.write_destages(&destages, release).await;
            let touched = touched_disks(&results);
            let written =
                destages.iter().map(|destage| (&*destage.group, self.touched_mask(destage)));
            let dirty_regions = dirty_after(written, &results);
            let failed = failures(&results);
            if failed.is_empty() && results.values().any(|result| result.began_anew) {
                continue;
            }
            if !failed.is_empty() {
                drop(release_lock);
                self.pool.evict(&failed, true).await?;
                continue;
            }
            let roots = destages.iter().filter_map(|destage| self.next_root(destage)).collect();
            if self.release(last, all, release, touched, (dirty_regions, roots)).await? {
                drop(release_lock);
                break results;
            }
            drop(release_lock);
            self.wait_for_change().await?;
        };
        self.note_destage(began, &destages);
        for destage in destages {
            self.pool.note_unwritten(destage.group.generation, self.unwritten_mask(&destage));
            let reached = reached_disks(&destage.group, &results);
            for next in destage.blocks {
                self.checksums.committed(next.block, &reached);
            }
        }
        self.pending.borrow_mut().release(last);
        self.pool.changed.notify_all();
        self.log.destaging.notify_all();
        self.pool.resync_soon();
        Ok(())
    }

    /// Whether a destage wants the lock of a group soon: who copies that gives it back, and nobody begins. A destage
    /// may wait long for another group, of which the holder waits for a disk: then copies go on.
    pub(super) fn is_lock_wanted(&self, generation: GenerationId) -> bool {
        let wanted = self.wanted_locks.borrow();
        let since = self.pool.runtime.now().since(wanted.0);
        since < self.pool.limits.hedge && wanted.1.contains(&generation)
    }

    async fn lock_groups(self: &Rc<Self>, due: Vec<(u64, PendingBlock)>) -> Vec<GroupDestage> {
        let mut groups: BTreeMap<GenerationId, (Rc<GroupPlace>, DueRows)> = BTreeMap::new();
        let mut last: Option<Rc<GroupPlace>> = None;
        for (block, pending) in due {
            let piece = self.stripes.locate(VolumeBlock(block));
            let same = last.as_ref().filter(|g| (g.set, g.lane) == (piece.at.set, piece.at.lane));
            let group = match same {
                Some(group) => Some(group.clone()),
                None => self.pool.group_at(self.id, piece.at),
            };
            // A block whose group is gone belongs to a volume that is being removed.
            let Some(group) = group else { continue };
            let entry =
                groups.entry(group.generation).or_insert_with(|| (group.clone(), BTreeMap::new()));
            entry.1.insert(piece.at.row, pending.data);
            last = Some(group);
        }
        let mut destages = Vec::with_capacity(groups.len());
        // Said of all at once: who copies many of them would be waited for one after the other.
        *self.wanted_locks.borrow_mut() =
            (self.pool.runtime.now(), groups.keys().copied().collect());
        let _wanted = Wanted(&self.wanted_locks);
        for (generation, (group, rows)) in groups {
            // Ascending by generation, as whoever else holds several.
            let lock = self.pool.lock_group_to_destage(generation).await;
            // The next one is waited for from now on.
            self.wanted_locks.borrow_mut().0 = self.pool.runtime.now();
            // Whoever had it may have moved a position, or split the run.
            let group = self.pool.group_by_generation(generation).map_or(group, Rc::new);
            let blocks = Vec::new();
            destages.push(GroupDestage { group, rows, blocks, is_doubtful: false, _lock: lock });
        }
        destages
    }

    /// Loads the checksum blocks that the rows need and makes the next ones of them.
    async fn load_checksums(self: &Rc<Self>, destages: &mut [GroupDestage]) -> Result<(), Ended> {
        let loads = destages.iter_mut().map(|destage| self.load_for(destage));
        let mut loads = futures::stream::iter(loads).buffer_unordered(LOADS);
        while let Some(loaded) = loads.next().await {
            loaded?;
        }
        Ok(())
    }

    pub(crate) async fn load_for(self: &Rc<Self>, destage: &mut GroupDestage) -> Result<(), Ended> {
        let shape = self.pool.shape();
        destage.is_doubtful = false;
        let (mut blocks, mut tries): (BTreeMap<u32, NextBlock>, u32) = (BTreeMap::new(), 0);
        let end = destage.rows.keys().next_back().map_or(0, |last| shape.entry_of(*last).0 + 1);
        for (row, data) in &destage.rows {
            let (index, entry) = shape.entry_of(*row);
            if let std::collections::btree_map::Entry::Vacant(vacant) = blocks.entry(index) {
                let Some(next) = self.next_block(&destage.group, index..end, &mut tries).await?
                else {
                    destage.is_doubtful = true;
                    return Ok(());
                };
                vacant.insert(next);
            }
            if let Some(next) = blocks.get_mut(&index) {
                let known = data.as_ref().map_or(Entry::Unwritten, |data| Entry::Written(data.crc));
                next.block.set(entry, known);
            }
        }
        destage.blocks = blocks.into_values().collect();
        Ok(())
    }

    /// The block that follows the one that counts, in the other slot. Where that one is lost for good,
    /// one of which all rows are lost; none where it is doubtful: nothing may be built on it, and none
    /// where nobody is there who could have it. It is read again for some seconds before it passes for
    /// lost; `tries` counts those of the whole group.
    async fn next_block(
        self: &Rc<Self>,
        group: &GroupPlace,
        indexes: Range<u32>,
        tries: &mut u32,
    ) -> Result<Option<NextBlock>, Ended> {
        let (pool, index) = (&self.pool, indexes.start);
        let next =
            |now| self.checksums.next_version((group.generation, index), now, pool.epoch.0 as u32);
        loop {
            match self.checksum_block(group, indexes.clone()).await {
                Ok(loaded) => {
                    let now = loaded.block.version;
                    let followed_hash = version_hash(pool.id, group.generation, index, now);
                    let mut block = (*loaded.block).clone();
                    block.version = next(now);
                    return Ok(Some(NextBlock { block, followed_hash }));
                }
                Err(LoadError::Doubtful(doubt)) if doubt.is_lost && *tries < READ_TRIES => {
                    *tries += 1;
                    pool.unless_over(pool.runtime.sleep(pool.limits.rejoin)).await?;
                }
                Err(LoadError::Doubtful(doubt)) if doubt.is_lost => {
                    tracing::error!(volume = %self.name(), group = %group.generation, index, "checksums lost");
                    let newest = ChecksumVersion { epoch: 0, sequence: doubt.newest_sequence };
                    let (_, rows) = pool.shape().rows_of_block(index);
                    let block = ChecksumBlock::lost(group.generation, index, next(newest), rows);
                    return Ok(Some(NextBlock { block, followed_hash: doubt.hash }));
                }
                Err(LoadError::Doubtful(_)) => return Ok(None),
                Err(LoadError::Unreachable(_)) if !self.has_holder(group) => return Ok(None),
                Err(LoadError::Unreachable(silent)) => self.wait_for_holders(&silent).await?,
            }
        }
    }

    /// The root of a group once a destage is in place.
    fn next_root(&self, destage: &GroupDestage) -> Option<RootChange> {
        let group = destage.group.generation;
        let mut root = self.pool.root_of(group)?;
        for NextBlock { block, followed_hash } in &destage.blocks {
            let hash = version_hash(self.pool.id, group, block.index, block.version);
            root = root.wrapping_sub(*followed_hash).wrapping_add(hash);
        }
        Some(RootChange { group, root })
    }

    /// Whether each region that will be written has a usable member that is right there.
    pub(crate) fn has_right_members(&self, destage: &GroupDestage) -> bool {
        let touched = self.touched_mask(destage);
        let mut covered = 0;
        for index in 0..destage.group.members.len() {
            if self.pool.extent_of(&destage.group, index).is_some() {
                covered |= touched & !self.pool.dirty(&destage.group, index);
            }
        }
        covered == touched
    }

    /// Whether a member that takes part should have a group's checksums.
    fn has_holder(&self, group: &GroupPlace) -> bool {
        let mut there =
            (0..group.members.len()).filter(|index| self.pool.extent_of(group, *index).is_some());
        there.any(|index| self.pool.has_all(group, index, ExtentShape::CHECKSUMS))
    }

    fn touched_mask(&self, destage: &GroupDestage) -> u64 {
        let is_written = |data: &Option<BlockData>| data.as_ref().is_some_and(|data| !data.is_lost);
        ExtentShape::CHECKSUMS | self.regions_of(destage, is_written)
    }

    /// The regions with rows that become unwritten.
    fn unwritten_mask(&self, destage: &GroupDestage) -> u64 {
        self.regions_of(destage, Option::is_none)
    }

    /// The regions with rows that get what counts.
    fn regions_of(
        &self,
        destage: &GroupDestage,
        counts: impl Fn(&Option<BlockData>) -> bool,
    ) -> u64 {
        let shape = self.pool.shape();
        let rows = destage.rows.iter().filter(|(_, data)| counts(data));
        rows.fold(0, |mask, (row, _)| mask | 1 << shape.region_of_row(*row))
    }

    /// Writes all of it on all usable members, each recorded as applied and flushed.
    async fn write_destages(
        self: &Rc<Self>,
        destages: &[GroupDestage],
        release: ReleaseNumber,
    ) -> BTreeMap<DiskNumber, WorkResult> {
        let mut works: BTreeMap<DiskNumber, DiskWork> = BTreeMap::new();
        for destage in destages {
            let mut data = destage.rows.values().flatten();
            let is_in_place = data.any(BlockData::went_in_place);
            let runs = if is_in_place { Vec::new() } else { row_runs(&destage.rows, |_| true) };
            for index in 0..destage.group.members.len() {
                let Some((member, device, start)) = self.pool.extent_of(&destage.group, index)
                else {
                    continue;
                };
                let work = works
                    .entry(member.number)
                    .or_insert_with(|| DiskWork::new(Rc::clone(&member), device).only_as_shown());
                if !self.pool.has_another_right(&destage.group, index) {
                    work.set_alone();
                }
                if is_in_place {
                    // Whoever took rows when they were written has them.
                    let (disk, instance) = (member.number, work.shown());
                    let runs = row_runs(&destage.rows, |data| !data.is_on(disk, instance));
                    self.add_writes(work, destage, &runs, start);
                } else {
                    self.add_writes(work, destage, &runs, start);
                }
            }
        }
        self.pool.run_works(works, Some(release)).await
    }

    fn add_writes(
        &self,
        work: &mut DiskWork,
        destage: &GroupDestage,
        runs: &[(Row, Buffer)],
        start: Lba,
    ) {
        let shape = self.pool.shape();
        let touched = |mask| Touched { group: destage.group.generation, mask };
        for (first, data) in runs {
            let count = (data.len() / BLOCK_BYTES) as u32;
            let mask = self.pool.region_mask(*first, count);
            let sector = Lba(start.0 + shape.row_sector(*first));
            work.write(sector, data.clone(), touched(mask));
        }
        for NextBlock { block, .. } in &destage.blocks {
            let sector = Lba(start.0 + shape.checksum_sector(block.index, block.slot()));
            work.write(sector, block.encode(), touched(ExtentShape::CHECKSUMS));
        }
    }

    /// Commits the release and frees segments; false when the dirty regions can't be recorded because
    /// nobody would be right.
    async fn release(
        self: &Rc<Self>,
        last: RecordNumber,
        all: bool,
        release: ReleaseNumber,
        touched: BTreeSet<DiskNumber>,
        (dirty_regions, roots): (DirtyRegions, Vec<RootChange>),
    ) -> Result<bool, Ended> {
        // With nothing in flight and nothing newer, the open segment may go too: a writer waits for
        // its room, or it has lost a copy, and its last one would be needed to open the volume, or nobody
        // has written for long and an opening would read much of it in vain.
        // Never waited for: whoever holds it may wait for the room that this destage gives.
        let may_go = self.credit.is_wanted() || self.is_current_over() || self.rests();
        let writing = if all || may_go { self.log.writing.acquire(1).now_or_never() } else { None };
        let whole = writing.is_some() && self.log.state.borrow().durable <= last;
        let lock = self.pool.meta_lock.acquire(1).await;
        let mut records = vec![MetaRecord::Released {
            volume: self.id,
            log: last.max(self.released()),
            release,
            touched: touched.into_iter().collect(),
            dirty_regions,
            roots,
        }];
        let (freed, open) = self.freeable(last, whole);
        let state = SegmentState::Closed(self.log.state.borrow().durable);
        let volume = self.id;
        records.extend(open.map(|number| MetaRecord::SegmentEnded { volume, number, state }));
        records.extend(
            freed
                .iter()
                .map(|number| MetaRecord::SegmentFreed { volume: self.id, number: *number }),
        );
        match self.pool.try_commit_locked(&records).await {
            Ok(()) => {}
            Err(super::commit::CommitError::Inconsistent(
                crate::metadata::Inconsistent::NoRightMember(_),
            )) => return Ok(false),
            Err(super::commit::CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::error!(volume = %self.name(), ?error, "a destage could not be committed");
                self.pool.lease.end(Ended::Closed);
                return Err(Ended::Closed);
            }
        }
        drop(lock);
        let mut state = self.log.state.borrow_mut();
        if whole {
            state.current = None;
        }
        let charges: u64 = freed.iter().filter_map(|number| state.charges.remove(number)).sum();
        let in_place = state.intents.released(last);
        drop(state);
        self.credit.give_back(charges + in_place);
        Ok(true)
    }

    /// When the open segment has seen no write for so long that it goes, if an opening would read more of it than of a
    /// new one.
    fn rests_at(&self) -> Option<Instant> {
        let state = self.log.state.borrow();
        let first = self.log_shape.high_water_bytes;
        let open = state.current.as_ref().filter(|open| open.high_water_bytes() > first);
        open.map(|_| self.log.appended_at.get() + self.pool.limits.segment_idle)
    }

    fn rests(&self) -> bool {
        self.rests_at().is_some_and(|when| when <= self.pool.runtime.now())
    }

    /// The last released record.
    pub(crate) fn released(&self) -> RecordNumber {
        let meta = self.pool.meta.borrow();
        meta.volumes().get(&self.id).map_or(RecordNumber(0), |volume| volume.log.released)
    }

    /// The segments that hold nothing beyond `last`, and which of them is open.
    fn freeable(
        &self,
        last: RecordNumber,
        whole: bool,
    ) -> (Vec<SegmentNumber>, Option<SegmentNumber>) {
        let meta = self.pool.meta.borrow();
        let Some(volume) = meta.volumes().get(&self.id) else { return (Vec::new(), None) };
        let released = last.max(volume.log.released);
        let segments = || volume.log.segments.values();
        let open = segments().find(|segment| whole && segment.state == SegmentState::Open);
        let freed = segments().filter(|segment| !segment.is_needed(released)).chain(open);
        (freed.map(|segment| segment.number).collect(), open.map(|segment| segment.number))
    }
}

enum DestageDue {
    Now(RecordNumber),
    At(Instant),
    Never,
}

/// Rows with data that are wanted, as runs that are written by one transfer each.
fn row_runs(rows: &DueRows, is_wanted: impl Fn(&BlockData) -> bool) -> Vec<(Row, Buffer)> {
    let mut runs: Vec<(Row, Vec<&BlockData>)> = Vec::new();
    for (row, data) in rows {
        let data = data.as_ref().filter(|data| !data.is_lost && is_wanted(data));
        let Some(data) = data else { continue };
        match runs.last_mut() {
            Some((first, run)) if first.0 + run.len() as u32 == row.0 && run.len() < RUN_ROWS => {
                run.push(data);
            }
            _ => runs.push((*row, vec![data])),
        }
    }
    runs.into_iter().map(|(first, run)| (first, gather(&run))).collect()
}

/// The disks that have all that a destage wrote of a group.
fn reached_disks(
    group: &GroupPlace,
    results: &BTreeMap<DiskNumber, WorkResult>,
) -> Vec<DiskNumber> {
    let disks = group.members.iter().map(|(disk, _)| *disk);
    let has_all = |result: &WorkResult| !result.dirty.contains_key(&group.generation);
    disks.filter(|disk| results.get(disk).is_some_and(has_all)).collect()
}

fn touched_disks(results: &BTreeMap<DiskNumber, WorkResult>) -> BTreeSet<DiskNumber> {
    results.keys().copied().collect()
}
