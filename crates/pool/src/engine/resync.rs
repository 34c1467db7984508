//! Resync: what a usable member missed is copied to it from members that have it, region by
//! region, checksum blocks first, under the group's lock, verified and flushed; only then are the
//! bits cleared. Groups whose last right copy is at stake come first.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Buffer, Instance, Instant, Lba};
use futures::future::select;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use runtime::Permit;

use super::copy_credit::{GroupCopy, UncreditedCopies};
use super::copy_order::{Between, Lines, Load, Next, Width};
use super::disk_work::{DiskWork, Touched, WorkResult};
use super::known::SaidBy;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::pool::{GroupPlace, Pool};
use super::right_copy::NoRightCopy;
use super::underway::wait_for_one;
use super::volume::Volume;
use crate::format::{DiskNumber, ExtentShape, GenerationId, Row, VolumeId};
use crate::metadata::DirtyRegions;
use crate::report::PoolEvent;

/// How often is looked at what couldn't be copied.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A group of which nothing could be copied is left alone for so long while there are others: its place is theirs.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// For so long it is remembered that nothing could be copied of one.
pub(super) const IN_VAIN: Duration = Duration::from_secs(30);
/// After so many groups is looked anew which are the most endangered.
const LOOK_ANEW_AFTER: usize = 256;
/// A part of a group takes no longer, where a disk is slow: whoever else needs its disks would wait.
const PART_TAKES_MAX: Duration = Duration::from_secs(1);
/// How often disks are credited while copying goes on, unless somebody waits for it.
const CREDIT_EVERY: Duration = Duration::from_secs(1);
/// How often is looked whether more may be copied: requests are answered, a destage has its locks.
const LOOK_AT_PACE: Duration = Duration::from_millis(20);

/// What was copied to a member.
pub(crate) struct Copied {
    /// Regions that it has now.
    pub(crate) mask: u64,
    bytes: u64,
    /// The instance that took it, if anything had to be written.
    instance: Option<Instance>,
    /// How long a piece took at most.
    slowest_piece: Duration,
}

impl Pool {
    /// Tells resync that there may be work.
    pub(crate) fn resync_soon(&self) {
        if !self.meta.borrow().dirty_regions().is_empty() {
            self.resyncing.set(true);
            self.changed.notify_all();
        }
    }

    fn members_in_use(&self) -> Vec<DiskNumber> {
        let members = self.members.borrow();
        members.values().filter(|member| member.is_usable()).map(|member| member.number).collect()
    }

    /// Whether these are all of them. That is asked for each group that is copied.
    fn are_in_use(&self, known: &[DiskNumber]) -> bool {
        let members = self.members.borrow();
        let usable = members.values().filter(|member| member.is_usable());
        usable.map(|member| member.number).eq(known.iter().copied())
    }

    /// The groups of which usable members miss something and that may be copied.
    fn groups_behind(&self, may_be: impl Fn(VolumeId, GenerationId) -> bool) -> Lines {
        let meta = self.meta.borrow();
        let is_usable = |disk: DiskNumber| self.member(disk).is_some_and(|m| m.is_usable());
        let behind = meta.dirty_regions().keys().filter(|(_, disk)| is_usable(*disk));
        let behind: BTreeSet<GenerationId> = behind.map(|(generation, _)| *generation).collect();
        let mut lines = Lines::default();
        for generation in behind {
            let group = meta.group_by_generation(generation);
            let Some(group) = group.filter(|group| may_be(group.volume, generation)) else {
                continue;
            };
            let there = group.members().map(|(disk, _)| disk).filter(|disk| is_usable(*disk));
            let (from, to) = there.partition(|disk| meta.dirty(generation, *disk) == 0);
            lines.push(Between { from, to }, group.volume, generation);
        }
        lines
    }

    /// A look goes over all dirty regions, also of disks that are gone, of which there may be millions: it is to take
    /// a small part of the time.
    fn pause_between_looks(&self) -> Duration {
        Duration::from_micros(self.meta.borrow().dirty_regions().size() as u64)
    }

    /// Writes a part of a copy.
    async fn run_copy(&self, work: DiskWork) -> WorkResult {
        let disk = work.disk();
        let mut results = self.run_works(BTreeMap::from([(disk, work)]), None).await;
        results.remove(&disk).unwrap_or_default()
    }
}

impl OpenPool {
    /// Resyncs whenever a usable member misses something.
    pub(crate) async fn run_resync(self: Rc<Self>) {
        loop {
            let changed = self.pool.changed.notified();
            let Ok(progress) = self.resync_behind().await else { return };
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
    /// cleared. Copying goes on while what was copied is flushed, by each disk, and credited: all that is durable
    /// together, since each time costs a write to each disk and a commit.
    async fn resync_behind(self: &Rc<Self>) -> Result<bool, Ended> {
        let (loads, extent_bytes) = (Rc::clone(&self.copy_loads), self.pool.shape().extent_bytes());
        let mut waiting = Lines::default();
        let (mut begun, mut cleared, mut known_cleared) = (0, 0, 0);
        let (mut usable, mut locked) = (None, BTreeMap::new());
        let (mut looked_at, mut credited_at) = (self.pool.runtime.now(), Instant::default());
        let (mut copying, mut flushing) = (FuturesUnordered::new(), FuturesUnordered::new());
        let (mut crediting, mut uncredited) =
            (FuturesUnordered::new(), UncreditedCopies::default());
        loop {
            // Others may be more endangered by now, above all when a disk went, and of some groups there is more to copy.
            let is_short = begun >= LOOK_ANEW_AFTER || waiting.len() < LOOK_ANEW_AFTER;
            let now = self.pool.runtime.now();
            let known_for = now.since(looked_at);
            let may_differ = cleared > known_cleared
                && (is_short || known_for >= LOOK_AGAIN)
                && known_for >= self.pool.pause_between_looks();
            let is_same = usable.as_ref().is_some_and(|known: &Vec<_>| self.pool.are_in_use(known));
            if !is_same || may_differ {
                looked_at = now;
                let mut in_vain = self.in_vain.borrow_mut();
                in_vain.retain(|_, at| now.since(*at) < IN_VAIN);
                let is_left_alone = |generation| {
                    let at = in_vain.get(&generation).filter(|_| usable.is_some());
                    at.is_some_and(|at| now.since(*at) < LEFT_ALONE)
                };
                waiting = self.pool.groups_behind(|volume, generation| {
                    // What a log says of rows nobody knows before it is read; a destage follows that.
                    self.volume(volume).is_some_and(|volume| volume.is_decided.get())
                        && !locked.contains_key(&generation)
                        && !is_left_alone(generation)
                });
                drop(in_vain);
                (begun, known_cleared) = (0, cleared);
                usable = Some(self.pool.members_in_use());
                self.tell_resynced();
            }
            // Whoever asks for something comes first.
            let width = self.copy_pace.width(self, extent_bytes);
            while self.copy_pace.is_due(self) {
                let is_free = |volume, generation| {
                    let volume = self.volume(volume);
                    !volume.is_some_and(|volume| volume.is_lock_wanted(generation))
                };
                let next = loads.take_next(&mut waiting, is_free, width, extent_bytes, now);
                let Some(Next { generation, width, gives, copies, writes, holds }) = next else {
                    break;
                };
                begun += 1;
                locked.insert(generation, holds);
                let bytes_at_most = extent_bytes.min(width.held_bytes);
                self.copy_pace.begin(bytes_at_most);
                let copy = self.copy_one(generation, width, copies);
                copying
                    .push(copy.map(move |copy| (generation, bytes_at_most, copy, gives, writes)));
            }
            let is_idle = copying.is_empty() && crediting.is_empty() && uncredited.is_empty();
            if is_idle && waiting.is_empty() {
                return Ok(cleared > 0);
            }
            if let Some(ended) = self.pool.lease.ended() {
                return Err(ended);
            }
            // Whether more may be copied by now is seen only here.
            let mut look_again = self.pool.runtime.sleep(LOOK_AT_PACE).fuse();
            let now = self.pool.runtime.now();
            let flushes = uncredited.take_flushes(
                |disk, since| !loads.is_taking(disk) || now.since(since) >= self.pool.limits.hedge,
                |copy| self.is_copy_wanted(copy),
            );
            flushing.extend(flushes.into_iter().map(|flush| self.pool.flush_copies(flush, &loads)));
            let is_due = || {
                now.since(credited_at) >= CREDIT_EVERY
                    || loads.is_any_full(width, extent_bytes)
                    || copying.is_empty() && flushing.is_empty()
            };
            if crediting.is_empty()
                && let Some(credit) =
                    uncredited.take_credit(is_due(), |copy| self.is_copy_wanted(copy))
            {
                credited_at = now;
                let groups = credit.groups();
                let credit = self.pool.credit_copies(credit);
                crediting.push(credit.map(move |credited| (groups, credited)));
            }
            // In this order, and by no lot: a history follows from its seed. None is passed over for long, since at most
            // one credit, and a flush and a few copies of each disk, are under way.
            futures::select_biased! {
                (groups, credited) = crediting.select_next_some() => {
                    for generation in groups {
                        locked.remove(&generation);
                    }
                    cleared += credited?;
                },
                flushed = flushing.select_next_some() => {
                    uncredited.was_flushed(flushed?, self.pool.runtime.now());
                },
                (generation, bytes_at_most, copy, gives, writes) = copying.select_next_some() => {
                    let (copy, now) = (copy?, self.pool.runtime.now());
                    let bytes = copy.as_ref().map_or(0, GroupCopy::bytes);
                    self.copy_pace.end(self, bytes_at_most, bytes);
                    match copy {
                        None => {
                            locked.remove(&generation);
                            self.in_vain.borrow_mut().insert(generation, now);
                        }
                        Some(copy) => {
                            if let Some(gave) = gives {
                                loads.was_copied(gave, copy.slowest_piece, now);
                            }
                            self.in_vain.borrow_mut().remove(&generation);
                            uncredited.push(copy, writes, now);
                        }
                    }
                },
                () = look_again => {}
            }
        }
    }

    /// Whether somebody waits for the lock of a group that was copied.
    fn is_copy_wanted(&self, copy: &GroupCopy) -> bool {
        copy.volume.is_lock_wanted(copy.generation)
            || self.pool.group_lock(copy.generation).is_wanted()
    }

    /// Copies what usable members miss of one group, if its lock can be had. Its disks may begin the next one as soon
    /// as the last of this one is under way.
    async fn copy_one(
        &self,
        generation: GenerationId,
        width: Width,
        copies: Load,
    ) -> Result<Option<GroupCopy>, Ended> {
        let volume = {
            let meta = self.pool.meta.borrow();
            meta.group_by_generation(generation).and_then(|group| self.volume(group.volume))
        };
        let Some(volume) = volume.filter(|volume| volume.is_decided.get()) else { return Ok(None) };
        // A destage that has it may wait for a disk that never comes back, or for what was copied here.
        let lock = self.pool.lock_group(generation);
        let lock = runtime::timeout(&self.pool.runtime, self.pool.limits.hedge, lock);
        let Ok(lock) = self.pool.unless_over(lock).await? else { return Ok(None) };
        let copy = volume.copy_group(generation, lock, width, copies);
        let copy = self.pool.unless_over(copy).await??;
        Ok((!copy.cleared.is_empty()).then_some(copy))
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
        width: Width,
        copies: Load,
    ) -> Result<GroupCopy, Ended> {
        let copies = Cell::new(Some(copies));
        let mut copy = GroupCopy {
            generation,
            bytes: BTreeMap::new(),
            cleared: DirtyRegions::new(),
            took: BTreeMap::new(),
            slowest_piece: Duration::ZERO,
            volume: Rc::clone(&self),
            _lock: lock,
        };
        let Some(group) = self.pool.group_by_generation(generation) else { return Ok(copy) };
        let regions_at_once = width.regions_at_once(self.pool.shape());
        let group_lock = self.pool.group_lock(generation);
        let last = (0..group.members.len()).rfind(|index| self.pool.dirty(&group, *index) != 0);
        for (index, (disk, _)) in group.members.iter().enumerate() {
            let dirty = self.pool.dirty(&group, index);
            if dirty == 0 || self.pool.extent_of(&group, index).is_none() {
                continue;
            }
            let (mut left, begun) = (dirty, self.pool.runtime.now());
            // What nobody there has right mustn't keep the rest from being copied.
            let is_time = || self.pool.runtime.now().since(begun) < self.pool.limits.hedge;
            // A destage waits for no more than a part.
            let is_wanted = || group_lock.is_wanted() || self.is_lock_wanted(generation);
            let has_enough = |copy: &GroupCopy| {
                !copy.cleared.is_empty() && (is_wanted() || copy.bytes() >= width.held_bytes)
            };
            while left != 0 && is_time() && !has_enough(&copy) {
                let part = left & ExtentShape::CHECKSUMS | lowest_bits(left, regions_at_once);
                left &= !part;
                let is_last = left == 0 && Some(index) == last && width.overlaps;
                let part_begun = self.pool.runtime.now();
                let is_long = || self.pool.runtime.now().since(part_begun) >= PART_TAKES_MAX;
                let ends_early = || is_wanted() || is_long();
                let all_begun = || {
                    if is_last {
                        copies.take();
                    }
                };
                let copied = self.copy_regions(&group, index, part, width, ends_early, all_begun);
                let Some(copied) = copied.await? else { break };
                copy.slowest_piece = copy.slowest_piece.max(copied.slowest_piece);
                if copied.mask == 0 {
                    continue;
                }
                let took = copy.took.entry(*disk).or_insert(copied.instance);
                if took.is_some() && copied.instance.is_some() && *took != copied.instance {
                    // What the former one took may be gone.
                    copy.cleared.remove(&(generation, *disk));
                    break;
                }
                *took = took.or(copied.instance);
                *copy.bytes.entry(*disk).or_default() += copied.bytes;
                self.resynced_bytes.set(self.resynced_bytes.get() + copied.bytes);
                if let Some(member) = self.pool.member(*disk) {
                    member.resynced_bytes.set(member.resynced_bytes.get() + copied.bytes);
                }
                *copy.cleared.entry((generation, *disk)).or_default() |= copied.mask;
            }
        }
        Ok(copy)
    }

    /// Copies regions to one member, where they are volatile until somebody flushes them; `None` when the member failed. Where it
    /// ends early no more is begun than a first region: something is copied each time; `all_begun` is told with the last piece.
    pub(crate) async fn copy_regions(
        self: &Rc<Self>,
        group: &GroupPlace,
        target: usize,
        dirty: u64,
        width: Width,
        ends_early: impl Fn() -> bool,
        all_begun: impl Fn(),
    ) -> Result<Option<Copied>, Ended> {
        let shape = self.pool.shape();
        let Some((member, device, start)) = self.pool.extent_of(group, target) else {
            return Ok(None);
        };
        let new_work = || DiskWork::new(Rc::clone(&member), Rc::clone(&device)).stay_volatile();
        let mut work = new_work();
        let mut copied =
            Copied { mask: dirty, bytes: 0, instance: None, slowest_piece: Duration::ZERO };
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
            let mut rows_of_block = Vec::new();
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
                let rows = (from.0..from.0 + count)
                    .filter(|row| shape.entry_of(Row(*row)).0 == index)
                    .filter(|row| known(*row) == SaidBy::Entry)
                    .filter_map(|row| {
                        let entry = loaded.block.get(shape.entry_of(Row(row)).1);
                        Some((Row(row), entry.checksum()?))
                    });
                rows_of_block.extend(rows);
            }
            // What the same members have comes together; what some lack mustn't wait for those who have more.
            let have = |(row, _): &(Row, u32)| {
                let region = self.pool.region_mask(*row, 1);
                let members = 0..group.members.len();
                members.map(|member| self.pool.has_all(group, member, region)).collect::<Vec<_>>()
            };
            let goes_on = |one: &(Row, u32), next: &(Row, u32)| {
                let is_same_region = shape.region_of_row(one.0) == shape.region_of_row(next.0);
                one.0.0 + 1 == next.0.0 && (is_same_region || have(one) == have(next))
            };
            let chunks = rows_of_block.chunk_by(goes_on);
            runs.extend(chunks.flat_map(|run| run.chunks(width.piece_rows())).map(<[_]>::to_vec));
        }
        if self.is_destage_awaited.get() {
            self.destage_soon();
        }
        let write = |runs: Vec<(Row, Buffer)>| {
            let mut work = new_work();
            for (row, data) in runs {
                let mask = self.pool.region_mask(row, (data.len() / BLOCK_BYTES) as u32);
                let touched = Touched { group: group.generation, mask };
                work.write(Lba(start.0 + shape.row_sector(row)), data, touched);
            }
            self.pool.run_copy(work)
        };
        let checksums = async { self.pool.run_copy(work).await };
        let count = runs.len();
        // What touches it is never left out: a piece may be less than a region, which counts as a whole.
        let first_region = runs.first().map_or(0, |run| self.pool.region_mask(run[0].0, 1));
        let pieces = runs.into_iter().enumerate().map(|(number, run)| {
            let (is_silent, write, member) = (&is_silent, &write, &member);
            let (ends_early, all_begun) = (&ends_early, &all_begun);
            async move {
                let regions = self.pool.region_mask(run[0].0, run.len() as u32);
                let is_left_out = || regions & first_region == 0 && ends_early();
                if is_left_out() {
                    return (WorkResult::default(), regions, 0, Duration::ZERO);
                }
                let givers = self.givers_of(group, target, regions);
                wait_for_one(&self.pool.runtime, &givers, width.waits_for).await;
                let bytes = (run.len() * BLOCK_BYTES) as u64;
                let _room = self.pool.copy_room.bytes(bytes).await;
                if number + 1 == count && number >= width.pieces {
                    all_begun();
                }
                if is_left_out() {
                    return (WorkResult::default(), regions, 0, Duration::ZERO);
                }
                // Nobody waits under the group's lock for the same silent source again and again; one that is away costs no time.
                let reading = self.pool.copy_room.read(&self.pool.runtime, width).await;
                let begun = self.pool.runtime.now();
                let right = match is_silent.get() {
                    false => self.right_rows(group, &run).await,
                    true => None,
                };
                drop(reading);
                let took = self.pool.runtime.now().since(begun);
                is_silent.set(is_silent.get() || right.is_none() && took >= self.pool.limits.hedge);
                let Some(right) = right else {
                    return (WorkResult::default(), regions, 0, took);
                };
                let bytes = right.iter().map(|(_, data)| data.len() as u64).sum();
                let taker = std::slice::from_ref(member);
                let read = self.pool.runtime.now();
                wait_for_one(&self.pool.runtime, taker, width.waits_for).await;
                // Who lets others go first isn't slow.
                let waited = self.pool.runtime.now().since(read);
                let mut result = write(right.clone()).await;
                if !result.dirty.is_empty() {
                    // What a disk can't take of a region is no loss of the others.
                    let parts = right.into_iter().flat_map(|run| by_regions(shape, run));
                    result = write(parts.collect()).await;
                }
                let took = self.pool.runtime.now().since(begun).saturating_sub(waited);
                (result, 0, bytes, took)
            }
        });
        let pieces = futures::stream::iter(pieces).buffer_unordered(width.pieces);
        let checksums = checksums.map(|done| (done, 0, 0, Duration::ZERO));
        let mut pieces = Box::pin(futures::stream::once(checksums).chain(pieces));
        let mut instances = BTreeSet::new();
        while let Some((result, missed, bytes, took)) = pieces.next().await {
            if let Some(error) = result.failed {
                // The others aren't wanted any more, and nobody is to wait for what they hold until the disk is out.
                drop(pieces);
                self.pool.evict(&BTreeMap::from([(member.number, error)]), true).await?;
                return Ok(None);
            }
            instances.extend(result.instance);
            copied.bytes += bytes;
            copied.slowest_piece = copied.slowest_piece.max(took);
            copied.mask &= !(missed | result.dirty.get(&group.generation).copied().unwrap_or(0));
        }
        drop(pieces);
        copied.instance = instances.first().copied();
        if instances.len() > 1 {
            // It began anew: what it took before may be gone.
            copied.mask = 0;
        }
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

/// A run of rows cut at the borders of regions: what a disk can't take of one is no loss of the others.
fn by_regions(
    shape: ExtentShape,
    (first, data): (Row, Buffer),
) -> impl Iterator<Item = (Row, Buffer)> {
    let rows: Vec<u32> = (0..(data.len() / BLOCK_BYTES) as u32).collect();
    let region = move |row: &u32| shape.region_of_row(Row(first.0 + row));
    let parts: Vec<(u32, usize)> = rows
        .chunk_by(|one, next| region(one) == region(next))
        .map(|part| (part[0], part.len()))
        .collect();
    parts.into_iter().map(move |(from, count)| {
        let start = from as usize * BLOCK_BYTES;
        (Row(first.0 + from), data.slice(start, start + count * BLOCK_BYTES))
    })
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
