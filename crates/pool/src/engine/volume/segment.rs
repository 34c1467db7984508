//! Log segments in the metadata: opening the next one, dropping a copy, and how much of a pool a log
//! may take.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::size::Human;
use block::{BLOCK_BYTES, Instant, SECTOR_BYTES};

use super::Volume;
use super::log::Written;
use crate::allocate::{Usable, plan_segment, segments_per_log};
use crate::engine::lease::Ended;
use crate::engine::pool::Pool;
use crate::format::{
    Configuration, DiskNumber, RecordNumber, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentNumber,
    VolumeId,
};
use crate::metadata::{MetaRecord, Metadata, Segment, SegmentCopyPlace, SegmentState};

/// The segment that takes records.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) segment: Segment,
    /// The number before its first record.
    pub(crate) after: RecordNumber,
    /// Where the next batch goes.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) opened_at: Instant,
    /// No further batch: no copy took the last one.
    pub(crate) given_up: bool,
}

impl Current {
    /// Nothing is written beyond this: the metadata says so, and an opening reads no further.
    pub(crate) fn high_water_bytes(&self) -> u64 {
        self.segment.up_to_high_water(self.bytes)
    }
}

/// How a volume's log is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogShape {
    /// Live segments, at most.
    pub(crate) segments_max: u32,
    /// Bytes of a segment's copy.
    pub(crate) segment_bytes: u64,
    /// Of these so many may be written as soon as it is opened.
    pub(crate) high_water_bytes: u64,
    /// Rows of a record, at most.
    pub(crate) record_rows: u32,
}

/// Records of more rows are cut, so that little of a segment is left unused where the next one doesn't fit.
const RECORD_ROWS: u64 = 128;
/// For the same reason the largest record takes at most this part of a segment.
const RECORD_PART: u64 = 8;

/// A batch is no larger than this ...
const BATCH_BYTES: u64 = 4 << 20;
/// ... and no larger than this part of a segment.
const BATCH_PART: u64 = 4;
/// The first high-water mark of a segment is this part of it: what is in a log that is seldom written to is less, and an
/// opening needn't read the rest.
const HIGH_WATER_PART: u64 = 16;
/// Each further mark is so many times the one before.
const HIGH_WATER_GROWTH: u64 = 4;
/// A segment that follows one which was filled in less than this time has no mark: it will be written in full, and each
/// mark costs a commit that writes wait for.
const FILLS_FAST: Duration = Duration::from_secs(60);
/// What leaves beside batches that are under way has so many bytes at least: small records that wait for a
/// batch share its padding. Of more, who waits would wait for nothing: a disk takes the next batch meanwhile.
const BESIDE_BYTES: usize = 64 << 10;

impl LogShape {
    /// The shape of logs in this pool.
    pub(crate) fn of(meta: &Metadata) -> LogShape {
        let all = meta.disks().keys().copied().collect();
        let shape = meta.shape();
        let segment_bytes = shape.segment_bytes(shape.segment_extents());
        let rows = segment_bytes / BLOCK_BYTES as u64 / RECORD_PART;
        LogShape {
            segments_max: segments_per_log(meta, &all),
            segment_bytes,
            high_water_bytes: segment_bytes / HIGH_WATER_PART,
            record_rows: rows.clamp(1, RECORD_ROWS) as u32,
        }
    }

    /// Bytes of records that writers may have in the log. One segment, an eighth of a usual log, is
    /// kept for destaging, and of each of the others what a switch may leave unused.
    pub(crate) fn credit_bytes(self) -> u64 {
        let block = BLOCK_BYTES as u64;
        let unused = SEGMENT_HEADER_BYTES as u64 + self.record_bytes_max() + block;
        u64::from(self.segments_max - 1) * (self.segment_bytes.saturating_sub(unused))
    }

    /// A batch takes no further record beyond this.
    pub(crate) fn batch_bytes(self) -> usize {
        (self.segment_bytes / BATCH_PART).min(BATCH_BYTES) as usize
    }

    /// So much doesn't wait until nothing is under way.
    pub(crate) fn beside_bytes(self) -> usize {
        self.batch_bytes().min(BESIDE_BYTES)
    }

    fn record_bytes_max(self) -> u64 {
        u64::from(self.record_rows) * (BLOCK_BYTES as u64 + 4) + SECTOR_BYTES as u64
    }
}

impl Volume {
    /// The open segment, or the next one, as soon as it takes so many bytes. Nothing is under way.
    pub(super) async fn segment_with_room(self: &Rc<Self>, bytes: u64) -> Result<Current, Ended> {
        loop {
            if let Some(current) = self.open_segment_for(bytes) {
                return Ok(current);
            }
            if self.raise_high_water(bytes).await? {
                continue;
            }
            let segment = self.switch_segment(bytes).await?;
            let header = self.segment_header(&segment);
            let bytes = u64::from(header.blocks) * BLOCK_BYTES as u64;
            let written = self.write_copies(&segment, 0, header.encode()).await?;
            let next = self.log.state.borrow().next;
            let current = Current {
                segment,
                after: RecordNumber(next.0.saturating_sub(1)),
                at: SEGMENT_HEADER_BYTES as u64,
                bytes,
                opened_at: self.pool.runtime.now(),
                given_up: matches!(written, Written::Nowhere),
            };
            self.log.state.borrow_mut().current = Some(current);
        }
    }

    /// The header that a segment of this volume has.
    pub(crate) fn segment_header(&self, segment: &Segment) -> SegmentHeader {
        segment.header(self.id, self.pool.shape())
    }

    /// Lets the open segment be written so many bytes further, if it has room for them. Nothing is under way.
    async fn raise_high_water(self: &Rc<Self>, bytes: u64) -> Result<bool, Ended> {
        let current = self.log.state.borrow().current.clone();
        let fits = |open: &Current| !open.given_up && open.at + bytes <= open.bytes;
        let Some(open) = current.filter(fits).filter(|open| !self.is_over(&open.segment)) else {
            return Ok(false);
        };
        if open.at + bytes <= open.high_water_bytes() {
            return Ok(true);
        }
        let grown = (open.high_water_bytes() * HIGH_WATER_GROWTH).max(open.at + bytes);
        let (volume, number) = (self.id, open.segment.number);
        let blocks = high_water_blocks(grown, open.bytes);
        let _lock = self.pool.meta_lock.acquire(1).await;
        if self.is_gone() {
            return Err(Ended::Closed);
        }
        let raised = MetaRecord::SegmentHighWater { volume, number, blocks };
        self.pool.commit_locked(&[raised]).await?;
        if let Some(open) = self.log.state.borrow_mut().current.as_mut() {
            open.segment.high_water_blocks = Some(blocks);
        }
        Ok(true)
    }

    /// Closes the open segment and opens the next one, for so many bytes at first; waits for room.
    async fn switch_segment(self: &Rc<Self>, bytes: u64) -> Result<Segment, Ended> {
        loop {
            let lock = self.pool.meta_lock.acquire(1).await;
            if self.is_gone() {
                return Err(Ended::Closed);
            }
            let refused = match self.plan_segment(bytes) {
                Ok((records, segment)) => {
                    self.pool.commit_locked(&records).await?;
                    drop(lock);
                    self.give_back_freed(&records);
                    self.credit.wants_segment.set(false);
                    self.log.lacks_space_since.set(None);
                    self.log.destaging.notify_all();
                    return Ok(segment);
                }
                Err(refused) => refused,
            };
            drop(lock);
            let since = self.log.lacks_space_since.get().unwrap_or(self.pool.runtime.now());
            self.log.lacks_space_since.set((refused == NoSegment::NoSpace).then_some(since));
            // Destaging gives room back; a disk that returns or is added may have some.
            self.credit.wants_segment.set(true);
            self.log.destaging.notify_all();
            self.wait_for_change().await?;
        }
    }

    /// The open segment, if nothing of it is durable.
    fn unused_segment(&self) -> Option<SegmentNumber> {
        let state = self.log.state.borrow();
        let unused = state.current.as_ref().filter(|current| current.after >= state.durable);
        unused.map(|current| current.segment.number)
    }

    /// The next segment, of which so many bytes are written at first, and what opens it.
    fn plan_segment(&self, bytes: u64) -> Result<(Vec<MetaRecord>, Segment), NoSegment> {
        let meta = self.pool.meta.borrow();
        let volume = meta.volumes().get(&self.id).ok_or(NoSegment::Full)?;
        let log = &volume.log;
        let durable = self.log.state.borrow().durable;
        let unused = self.unused_segment();
        let live = log.segments.size() - usize::from(unused.is_some());
        let full = live as u32 >= self.log_shape.segments_max;
        // What is to be appended in the place of something torn has its room, and may be all that release
        // waits for: evictions may have closed segments that are far from full.
        let exceeds = self.log.may_exceed.get() || self.log.state.borrow().intents.has_torn();
        if full && !exceeds {
            return Err(NoSegment::Full);
        }
        // Nothing is in flight: what isn't durable everywhere goes into the new one.
        let state = SegmentState::Closed(durable);
        let open = log.segments.values().filter(|live| live.state == SegmentState::Open);
        let mut records: Vec<MetaRecord> = open
            .map(|live| MetaRecord::SegmentEnded { volume: self.id, number: live.number, state })
            .collect();
        // While a disk comes and goes each switch would take room for nothing.
        let unused = unused.map(|number| MetaRecord::SegmentFreed { volume: self.id, number });
        records.extend(unused);
        let usable = self.pool.usable_disks();
        let wanted = volume.wanted_layout().copies();
        let places = |meta: &Metadata| {
            let copies = plan_segment(meta, &self.pool.disks_for_logs(&usable), wanted);
            copies.or_else(|_| plan_segment(meta, &usable, wanted)).ok()
        };
        let copies = places(&meta).or_else(|| {
            // Where there is no room for two, the next one takes the place of what is all in place.
            let released = log.released >= durable;
            let open = log.segments.values().filter(|live| live.state == SegmentState::Open);
            let open = open.filter(|live| released && Some(live.number) != self.unused_segment());
            records.extend(
                open.map(|live| MetaRecord::SegmentFreed { volume: self.id, number: live.number }),
            );
            places(&meta.with(&records).ok()?)
        });
        let copies = copies.ok_or(NoSegment::NoSpace)?;
        let whole = self.log_shape.segment_bytes;
        let first = self.log_shape.high_water_bytes.max(SEGMENT_HEADER_BYTES as u64 + bytes);
        let segment = Segment {
            number: log.next_segment,
            epoch: self.pool.epoch,
            generation: meta.counters().generation,
            copies,
            wanted,
            state: SegmentState::Open,
            key: self.pool.runtime.random_u64(),
            high_water_blocks: (!self.fills_fast()).then(|| high_water_blocks(first, whole)),
        };
        let (volume, number) = (self.id, segment.number);
        records.push(MetaRecord::SegmentOpened { volume, segment: segment.clone() });
        let marked = |blocks| MetaRecord::SegmentHighWater { volume, number, blocks };
        records.extend(segment.high_water_blocks.map(marked));
        Ok((records, segment))
    }

    /// Whether the segment that is left was filled so fast that the next one will be too.
    fn fills_fast(&self) -> bool {
        let state = self.log.state.borrow();
        let left = state.current.as_ref().filter(|left| !left.given_up);
        left.is_some_and(|left| {
            left.at > left.bytes / 2 && self.pool.runtime.now().since(left.opened_at) < FILLS_FAST
        })
    }
}

/// The high-water mark that covers so many bytes of a segment: all of it, if that is more than half.
fn high_water_blocks(bytes: u64, segment_bytes: u64) -> u32 {
    let mark = if bytes > segment_bytes / 2 { segment_bytes } else { bytes };
    u32::try_from(mark.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX)
}

/// What a segment's copies are worth: in more failure domains is better, then more of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Copies {
    domains: usize,
    disks: usize,
}

impl Copies {
    fn of<'a>(meta: &Metadata, copies: impl Iterator<Item = &'a SegmentCopyPlace>) -> Copies {
        let disks: Vec<DiskNumber> = copies.map(|copy| copy.disk).collect();
        Copies { domains: Pool::domains(meta, disks.iter().copied()), disks: disks.len() }
    }
}

/// Why a log gets no segment now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoSegment {
    /// It has as many as it may: destaging frees some.
    Full,
    /// No disk that takes part has room.
    NoSpace,
}

impl Volume {
    /// The records of freed segments take no room any more.
    fn give_back_freed(&self, records: &[MetaRecord]) {
        let mut state = self.log.state.borrow_mut();
        let freed = records.iter().filter_map(|record| match record {
            MetaRecord::SegmentFreed { number, .. } => state.charges.remove(number),
            _ => None,
        });
        let charges = freed.sum();
        drop(state);
        self.credit.give_back(charges);
    }

    /// Why its writers wait, where that is for space that somebody has to give.
    pub(crate) fn lacks_space(&self) -> Option<String> {
        let since = self.log.lacks_space_since.get()?;
        // Destaging may be about to give some.
        if self.pool.runtime.now().since(since) < self.pool.limits.eviction {
            return None;
        }
        let shape = self.pool.shape();
        Some(format!(
            "writes wait: no disk that takes part has {} in a row for its log; they go on by themselves \
             once one has: add disks (`etherpool pool extend {}`), or reduce or remove a volume",
            Human(u64::from(shape.segment_extents()) * shape.extent_bytes()),
            self.pool.name
        ))
    }

    /// Whether a segment takes no batch any more: a disk with a copy was evicted since it was opened,
    /// by whomever (the copy may be off the list again since that disk is back), or, in
    /// fewer failure domains than wanted, it could be in more now; or the volume is to have more copies, or fewer.
    pub(crate) fn is_over(&self, opened: &Segment) -> bool {
        let now = {
            let meta = self.pool.meta.borrow();
            let live =
                meta.volumes().get(&self.id).and_then(|v| v.log.segments.get(&opened.number));
            live.map_or(Copies::default(), |live| self.pool.copies_that_stay(live))
        };
        // It was opened for another layout.
        if usize::from(opened.wanted) != self.copies_wanted() {
            return true;
        }
        let wanted = usize::from(opened.wanted);
        now.disks < opened.copies.len()
            || self.may_be_better(now, wanted) && self.is_next_better(now)
    }

    /// Whether there may be better copies than these, where so many are wanted. In pools with fewer failure domains than
    /// that this says no without looking for places.
    fn may_be_better(&self, copies: Copies, wanted: usize) -> bool {
        let domains = self.pool.meta.borrow().data_domains();
        copies.disks < wanted || copies.domains < wanted.min(domains)
    }

    /// Whether the next segment had better copies than these.
    fn is_next_better(&self, copies: Copies) -> bool {
        let next = self.plan_segment(0);
        let meta = self.pool.meta.borrow();
        next.is_ok_and(|(_, next)| Copies::of(&meta, next.copies.iter()) > copies)
    }

    /// Whether a closed segment has copies in fewer failure domains than wanted and possible: nothing brings them back,
    /// so what it holds goes into place at once. What can't go there stays, unless a new segment had better copies.
    pub(crate) fn has_thin_segment(&self, destageable: bool) -> bool {
        let meta = self.pool.meta.borrow();
        let Some(volume) = meta.volumes().get(&self.id) else { return false };
        let wanted = usize::from(volume.wanted_layout().copies());
        let closed = volume.log.segments.values().filter(|live| live.end().is_some());
        let mut copies = closed.map(|live| self.pool.copies_that_stay(live));
        copies
            .any(|now| self.may_be_better(now, wanted) && (destageable || self.is_next_better(now)))
    }

    /// Whether the segment that takes records has all the copies that are wanted.
    pub(crate) fn has_whole_segment(&self) -> bool {
        let state = self.log.state.borrow();
        let Some(current) = state.current.as_ref().filter(|current| !current.given_up) else {
            return false;
        };
        let meta = self.pool.meta.borrow();
        let live = meta.volumes().get(&self.id);
        let wanted = live.map_or(0, |volume| usize::from(volume.wanted_layout().copies()));
        let live = live.and_then(|volume| volume.log.segments.get(&current.segment.number));
        live.is_some_and(|live| self.pool.copies_that_stay(live).disks >= wanted)
    }

    /// How many copies a segment should have: as many as the volume has, or is to have.
    fn copies_wanted(&self) -> usize {
        let meta = self.pool.meta.borrow();
        let volume = meta.volumes().get(&self.id);
        volume.map_or(0, |volume| usize::from(volume.wanted_layout().copies()))
    }

    /// The same of the segment that takes records.
    pub(crate) fn is_current_over(&self) -> bool {
        let current = self.log.state.borrow().current.clone();
        current.is_some_and(|current| self.is_over(&current.segment))
    }
}

impl Pool {
    /// The disks that new space may be taken from.
    pub(crate) fn usable_disks(&self) -> Usable {
        let (members, leaving) = (self.members.borrow(), self.leaving());
        let meta = self.meta.borrow();
        let usable = members.values().filter(|m| m.is_usable() && !self.is_out(m.number));
        let numbers = usable.map(|member| member.number);
        numbers.filter(|disk| !leaving.contains(disk) && !meta.is_witness(*disk)).collect()
    }

    /// The copies of a segment on disks that are in and stay.
    fn copies_that_stay(&self, segment: &Segment) -> Copies {
        let (config, leaving) = (self.config.borrow(), self.leaving());
        let stays = |disk: DiskNumber| !config.is_out(disk) && !leaving.contains(&disk);
        Copies::of(&self.meta.borrow(), segment.copies.iter().filter(|copy| stays(copy.disk)))
    }

    /// Those of them that don't refuse writes to logs.
    fn disks_for_logs(&self, usable: &Usable) -> Usable {
        let now = self.runtime.now();
        let takes = |disk: &DiskNumber| {
            self.member(*disk).is_some_and(|member| member.without_logs_until.get() <= now)
        };
        usable.iter().copied().filter(takes).collect()
    }

    /// Takes a copy off a live segment's list, if another current one remains, and not on one of the
    /// `silent` disks, which may never come back; tells whether.
    pub(crate) async fn drop_copy(
        self: &Rc<Self>,
        volume: VolumeId,
        number: SegmentNumber,
        disk: DiskNumber,
        silent: &BTreeSet<DiskNumber>,
    ) -> Result<bool, Ended> {
        let _lock = self.meta_lock.acquire(1).await;
        let others = {
            let meta = self.meta.borrow();
            let live = meta.volumes().get(&volume).and_then(|v| v.log.segments.get(&number));
            let Some(live) = live else { return Ok(true) };
            if !live.copies.iter().any(|copy| copy.disk == disk) {
                return Ok(true);
            }
            let mut others = live.copies.iter().filter(|copy| copy.disk != disk);
            let is_in = |disk| !self.is_out(disk);
            let answers = |disk| !silent.contains(&disk);
            others.any(|copy| is_in(copy.disk) && answers(copy.disk))
        };
        if others {
            let record = MetaRecord::SegmentCopyDropped { volume, number, disk };
            self.commit_locked(&[record]).await?;
        }
        Ok(others)
    }
}

/// The copies of a segment that hold everything that was acknowledged: those on disks that aren't
/// out, or, when all are out, those that were evicted last. (Nothing was acknowledged without them:
/// an acknowledgement needs a copy that is in.)
pub(crate) fn current_copies(segment: &Segment, config: &Configuration) -> Vec<SegmentCopyPlace> {
    let since = |copy: &SegmentCopyPlace| {
        config.out.iter().find(|out| out.disk == copy.disk).map(|out| out.since)
    };
    let inside: Vec<_> =
        segment.copies.iter().filter(|copy| since(copy).is_none()).copied().collect();
    if !inside.is_empty() {
        return inside;
    }
    let last = segment.copies.iter().filter_map(since).max();
    segment.copies.iter().filter(|copy| since(copy) == last).copied().collect()
}
