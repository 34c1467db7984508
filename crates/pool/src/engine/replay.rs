//! Opening a volume: its log is read from every current copy present, and the end that counts is
//! decided and committed. What isn't on all current copies by then is appended again, so that nothing
//! acknowledged is overwritten by what one failure takes away; then everything is destaged into place.
//! Only then does the volume serve. A log that is damaged, and not merely at its end, is told from one
//! that ends, and isn't opened before somebody says so.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, BufferMut, IoError, Lba, SECTOR_BYTES,
    SectorRange,
};
use futures::StreamExt;
use futures::future::{join_all, select};

use super::lease::Ended;
use super::limits::{LOOKS_MAX, READ_TRIES, REPLAY_MIB_MAX};
use super::log_loss::Damage;
use super::member::Member;
use super::stops::StopPoint;
use super::volume::log::Append;
use super::volume::segment::current_copies;
use super::volume::{Serving, Volume};
use crate::format::{
    DiskNumber, FoundRecord, MIB, Record, RecordBody, RecordNumber, SEGMENT_HEADER_BYTES,
    SegmentContents, SegmentNumber, Stamp, UncheckedSegmentHeader, read_segment,
};
use crate::metadata::{MetaRecord, Segment, SegmentCopyPlace, SegmentState};
use crate::report::{Progress, Replayed};

/// Bytes read at once from a copy.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of a copy under way at once.
const PIECES: usize = 4;
/// What INTENTs of a log name may be so many times as large as the log: their contents take room in it as
/// if they were there, and those that were given up follow as DATA.
const INTENTS_TO_LOG: u64 = 8;

/// Why a log can't be adopted now.
enum Blocked {
    /// Sectors that may hold what counts can't be read.
    Unread,
    /// Copies are out of reach; these disks would help.
    Missing(Vec<DiskNumber>),
    /// Acknowledged records are in no copy that can be read.
    Damaged(Damage),
    /// What was read can't be adopted, whoever returns.
    Contradiction(String),
    Ended(Ended),
}

/// A copy of a segment as it was read.
struct CopyRead {
    disk: DiskNumber,
    bytes: Buffer,
    /// Some of it couldn't be read, and is zeros there.
    is_unread: bool,
    /// It was flushed afterwards, under the instance that was read: what it showed is durable.
    flushed: bool,
}

/// A record that some segment has.
#[derive(Default)]
struct Held {
    record: Option<Record>,
    /// Its rows that are damaged in every copy.
    lost: Vec<u32>,
    /// All current copies of a segment hold it durably.
    safe: bool,
}

impl Held {
    /// Takes the record as another segment has it, if more of it is right there; whether both are the same.
    fn merge(&mut self, record: Option<Record>, lost: Vec<u32>) -> bool {
        let Some(other) = record else { return true };
        let Some(one) = &self.record else {
            (self.record, self.lost) = (Some(other), lost);
            return true;
        };
        let same = match (&one.body, &other.body) {
            (
                RecordBody::Data { rows, checksums, .. },
                RecordBody::Data { rows: other_rows, checksums: other_checksums, .. },
            ) => rows == other_rows && checksums == other_checksums,
            (one, other) => one == other,
        };
        if same && lost.len() < self.lost.len() {
            (self.record, self.lost) = (Some(other), lost);
        }
        same
    }

    /// The record, if all of it can be read, or it was acknowledged: then it costs the rows that can't.
    fn counts(&self, is_proven: bool) -> Option<&Record> {
        self.record.as_ref().filter(|_| self.lost.is_empty() || is_proven)
    }
}

/// The records of which a segment has a sound header.
type Numbers = BTreeMap<RecordNumber, InSegment>;

/// What a segment has of a record.
#[derive(Clone, Copy)]
struct InSegment {
    /// All of its rows.
    is_whole: bool,
    /// All current copies have it, durably.
    is_safe: bool,
}

/// What a log holds beyond what is in place.
struct Adopted {
    records: Vec<Record>,
    /// Rows, counted from their record's first, that are damaged in every copy.
    lost: BTreeMap<RecordNumber, Vec<u32>>,
    /// The last of them.
    last: RecordNumber,
    /// Up to here all is on all current copies.
    safe: RecordNumber,
    /// Up to here all was acknowledged, so that INTENTs are complete (A').
    complete: RecordNumber,
    /// What becomes of the segments.
    ends: Vec<MetaRecord>,
}

impl Adopted {
    /// The CRC of a record's header; 0 where it isn't known.
    fn crc_of(&self, number: RecordNumber) -> u32 {
        self.records.iter().find(|record| record.number == number).map_or(0, |record| record.crc)
    }
}

impl Volume {
    /// Replays the log, then serves: appends and destages until the pool is over.
    pub(crate) async fn open(self: Rc<Self>) {
        if self.replay().await.is_err() {
            return;
        }
        self.set_serving(Serving::Yes);
        if self.pool.read_only {
            return;
        }
        let runtime = self.pool.runtime.clone();
        runtime.spawn(Rc::clone(&self).run_destage());
        self.run_log().await;
    }

    async fn replay(self: &Rc<Self>) -> Result<(), Ended> {
        let mut tries = 0;
        let adopted = loop {
            let changed = self.pool.changed.notified();
            let reading = self.read_log(tries < READ_TRIES);
            match self.pool.unless_over(reading).await? {
                Ok(adopted) => break adopted,
                Err(Blocked::Unread) => {
                    tries += 1;
                    self.pool.unless_over(self.pool.runtime.sleep(self.pool.limits.rejoin)).await?;
                    continue;
                }
                Err(Blocked::Ended(ended)) => return Err(ended),
                Err(Blocked::Missing(disks)) => {
                    let waits_for = format!(
                        "no current copy of its log is present; bring back {}",
                        self.names_of(disks.iter().copied())
                    );
                    let stays = disks.iter().all(|disk| self.pool.stays_away(*disk));
                    let without = match stays {
                        true => self.doing_without(),
                        false => String::new(),
                    };
                    self.set_serving(Serving::Suspended(format!("{waits_for}{without}")));
                    *self.log.damage.borrow_mut() = stays.then_some(waits_for);
                }
                Err(Blocked::Damaged(damage)) => {
                    let names = self.names_of(damage.disks.iter().copied());
                    let loss = damage.describe();
                    let without = self.doing_without();
                    self.set_serving(Serving::Suspended(format!(
                        "its log is damaged: {loss}; bring back {names} with them{without}"
                    )));
                    *self.log.damage.borrow_mut() = Some(loss);
                }
                Err(Blocked::Contradiction(what)) => {
                    tracing::error!(volume = %self.name(), what);
                    self.set_serving(Serving::Suspended(what));
                }
            }
            let timer = self.pool.runtime.sleep(self.pool.limits.look_at_closed);
            self.pool.unless_over(select(std::pin::pin!(changed), timer)).await?;
            if self.is_gone() {
                return Err(Ended::Closed);
            }
        };
        *self.log.damage.borrow_mut() = None;
        if !adopted.ends.is_empty() {
            let _lock = self.pool.meta_lock.acquire(1).await;
            // Its removal waits for the log to stand still, not for who has only read it.
            if self.is_gone() {
                return Err(Ended::Closed);
            }
            self.pool.commit_locked(&adopted.ends).await?;
            self.pool.stops.pass(StopPoint::LogBounded).await;
        }
        self.append_again(&adopted).await?;
        self.pool.stops.pass(StopPoint::LogRepeated).await;
        let replayed = self.adopt(&adopted.records, &adopted.lost);
        self.decide_intents(&adopted.records, adopted.complete).await?;
        self.is_decided.set(true);
        self.replayed.set(Replayed { blocks: self.pending.borrow().len() as u64, ..replayed });
        if self.pool.read_only {
            // What isn't in place is read from memory.
            return Ok(());
        }
        self.destage_all(adopted.last).await?;
        self.pool.stops.pass(StopPoint::LogReplayed).await;
        Ok(())
    }

    /// What isn't on all current copies was perhaps never acknowledged, and what it overwrites was: it
    /// is appended again, under the same numbers, before anything is brought into place.
    async fn append_again(self: &Rc<Self>, adopted: &Adopted) -> Result<(), Ended> {
        {
            let mut state = self.log.state.borrow_mut();
            state.current = None;
            state.next = adopted.safe.next();
            state.durable = adopted.safe;
            state.content = adopted.safe;
            state.witnessed = adopted.safe;
            state.told = adopted.complete;
            // Nobody has decided yet what became of them: no record may say that they are complete.
            let intents = adopted.records.iter().filter(|record| is_intent(record));
            for record in intents.filter(|record| record.number > adopted.complete) {
                state.intents.abandon(record.number);
            }
            state.previous_crc = adopted.crc_of(adopted.safe);
            state.durable_crc = state.previous_crc;
        }
        let again = adopted.records.iter().filter(|record| record.number > adopted.safe);
        let again = again.map(|record| Append::own(0, record.body.clone())).collect();
        let _writing = self.log.writing.acquire(1).await;
        // It must append before it can free anything.
        self.log.may_exceed.set(true);
        let appended = self.append_own(again, |_, _, _| {}).await;
        self.log.may_exceed.set(false);
        appended
    }

    pub(super) fn names_of(&self, disks: impl IntoIterator<Item = DiskNumber>) -> String {
        let members = disks.into_iter().filter_map(|disk| self.pool.member(disk));
        let names: Vec<_> = members.map(|member| self.pool.describe(&member)).collect();
        names.join(" or ")
    }

    /// Reads all segments that hold anything beyond what is in place, and decides what counts. A number
    /// that no copy has ends the log, unless something proves that it was acknowledged, or what can't be
    /// read may hide it. `reads_again`: unreadable sectors that matter are an answer of their own.
    async fn read_log(self: &Rc<Self>, reads_again: bool) -> Result<Adopted, Blocked> {
        let _room = self.pool.replay_room.acquire(self.replay_mib()).await;
        // All of one moment: a disk that is taken in meanwhile has its copies off the list first, and passes
        // for current by a list from before that.
        let (segments, released, config) = {
            let meta = self.pool.meta.borrow();
            let Some(volume) = meta.volumes().get(&self.id) else {
                return Err(Blocked::Ended(Ended::Closed));
            };
            let segments: Vec<Segment> = volume.log.segments.values().cloned().collect();
            (segments, volume.log.released, self.pool.config.borrow().clone())
        };
        let mut all: BTreeMap<RecordNumber, Held> = BTreeMap::new();
        let mut by_segment: BTreeMap<SegmentNumber, Numbers> = BTreeMap::new();
        // Up to here all records were acknowledged.
        let (mut proven, mut witness) = (released, Stamp::default());
        let needed: Vec<&Segment> =
            segments.iter().filter(|segment| segment.is_needed(released)).collect();
        let mut unread = false;
        let bytes_of = |segment: &Segment| segment.high_water_bytes(self.pool.shape());
        let total_bytes = needed.iter().map(|segment| bytes_of(segment)).sum();
        self.replaying.set(Progress { done_bytes: 0, total_bytes });
        for segment in &needed {
            let current = current_copies(segment, &config);
            if let SegmentState::Closed(end) = segment.state {
                proven = proven.max(end);
            }
            let (copies, contents) = match self.contents_of(segment, &current, released).await {
                // Nobody brings its copies back into this pool.
                Err(Blocked::Missing(disks))
                    if self.log.accepts_loss.get()
                        && disks.iter().all(|disk| self.pool.stays_away(*disk)) =>
                {
                    continue;
                }
                contents => contents?,
            };
            let done_bytes = self.replaying.get().done_bytes + bytes_of(segment);
            self.replaying.set(Progress { done_bytes, total_bytes });
            let all_unread = copies.iter().all(|copy| copy.is_unread);
            unread |= copies.iter().any(|copy| copy.is_unread);
            if reads_again && unread && (all_unread || !contents.records.values().all(is_whole)) {
                return Err(Blocked::Unread);
            }
            witness = witness.max(contents.witness);
            for (number, found) in contents.records {
                let durable_on = |place: &SegmentCopyPlace| {
                    let mut held = copies.iter().zip(&found.holders);
                    held.any(|(copy, holds)| *holds && copy.flushed && copy.disk == place.disk)
                };
                let safe = current.iter().all(durable_on);
                if found.record.is_some() {
                    let numbers = by_segment.entry(segment.number).or_default();
                    let is_whole = found.lost.is_empty();
                    numbers.insert(number, InSegment { is_whole, is_safe: safe });
                }
                let held = all.entry(number).or_default();
                held.safe |= safe;
                if !held.merge(found.record, found.lost) {
                    let what = format!("two segments of its log hold different {number}");
                    return Err(contradiction(&what));
                }
            }
        }
        let newest = self.pool.area.borrow().adopted();
        if witness.metadata > newest {
            let holders = self.pool.all_voters().into_iter();
            let holders = holders.filter_map(|disk| self.pool.member_by_id(disk));
            let away = holders.filter(|member| !member.is_usable()).map(|member| member.number);
            let away = self.names_of(away.collect::<Vec<_>>());
            return Err(Blocked::Contradiction(format!(
                "its log was written when the pool's metadata was at {}, what was found of that ends \
                 at {newest}; bring back the newer metadata's disks: {away}",
                witness.metadata
            )));
        }
        proven = proven.max(witness.durable);
        let (mut records, mut last, mut lost) = (Vec::new(), released, Vec::new());
        loop {
            let next = last.next();
            let held = all.get(&next);
            match held.and_then(|held| held.counts(next <= proven)) {
                Some(record) => {
                    records.push(record.clone());
                    last = next;
                }
                None if next <= proven => {
                    let sound = all.range(next..).find(|(_, held)| held.counts(true).is_some());
                    let to = sound.map_or(proven, |(number, _)| RecordNumber(number.0 - 1));
                    last = to.min(proven);
                    lost.push((next, last));
                }
                None => break,
            }
        }
        if !lost.is_empty() && reads_again && unread {
            return Err(Blocked::Unread);
        }
        if !lost.is_empty() && !self.log.accepts_loss.get() {
            let copies = needed.iter().flat_map(|segment| segment.copies.iter());
            let disks = copies.map(|copy| copy.disk).collect();
            return Err(Blocked::Damaged(Damage { ranges: lost, disks }));
        }
        let mut safe = released;
        let is_safe =
            |number| number <= proven || all.get(&number).is_some_and(|held: &Held| held.safe);
        while safe < last && is_safe(safe.next()) {
            safe = safe.next();
        }
        let named: u64 = records.iter().filter(|record| is_intent(record)).map(rows_of).sum();
        let log_bytes = u64::from(self.log_shape.segments_max) * self.largest_segment_bytes();
        if named > INTENTS_TO_LOG * log_bytes / BLOCK_BYTES as u64 {
            return Err(contradiction("its log names more rows than any engine writes in place"));
        }
        // A MARK at the end says nothing that is worth writing again, unless it tells of an INTENT.
        let has_intents = named > 0;
        while !has_intents
            && last > safe
            && records.last().is_some_and(|last| last.body == RecordBody::Mark)
        {
            records.pop();
            last = RecordNumber(last.0 - 1);
        }
        let ends = self.ends_of(&segments, &by_segment, released, last);
        let lost = all.into_iter().map(|(number, held)| (number, held.lost));
        let lost = lost.filter(|(number, rows)| *number <= last && !rows.is_empty()).collect();
        let complete = witness.acknowledged.max(released);
        Ok(Adopted { records, lost, last, safe, complete, ends })
    }

    /// What reading its log holds in memory at once: all copies of a segment.
    fn replay_mib(&self) -> u64 {
        let meta = self.pool.meta.borrow();
        let Some(volume) = meta.volumes().get(&self.id) else { return 1 };
        let segments = volume.log.segments.values();
        let bytes = segments.map(|segment| segment.high_water_bytes(meta.shape())).max();
        let copies = u64::from(volume.layout.copies());
        (copies * bytes.unwrap_or(0)).div_ceil(MIB).clamp(1, REPLAY_MIB_MAX)
    }

    /// A former program's may be larger than those of today.
    pub(super) fn largest_segment_bytes(&self) -> u64 {
        let meta = self.pool.meta.borrow();
        let segments = meta.volumes().get(&self.id).map(|volume| volume.log.segments.values());
        let bytes = segments.into_iter().flatten().map(|segment| segment.bytes(meta.shape()));
        bytes.max().unwrap_or(0).max(self.log_shape.segment_bytes)
    }

    /// Before anything is appended again it is decided, for ever, where each segment ends: what is
    /// beyond is void, and what isn't stays valid beside its repetition until all of it is in place. A
    /// repetition that was cut short goes, if an older segment has all of it, and as safely: what isn't
    /// appended again because of a repetition rests on that one.
    fn ends_of(
        &self,
        segments: &[Segment],
        numbers: &BTreeMap<SegmentNumber, Numbers>,
        released: RecordNumber,
        last: RecordNumber,
    ) -> Vec<MetaRecord> {
        let (volume, none) = (self.id, Numbers::new());
        let (mut records, mut older): (Vec<MetaRecord>, Vec<(SegmentNumber, RecordNumber)>) =
            (Vec::new(), Vec::new());
        for segment in segments {
            let number = segment.number;
            let has = numbers.get(&number).unwrap_or(&none);
            let end = segment.end().unwrap_or_else(|| {
                let end = has.range(..=last).next_back().map_or(released, |(number, _)| *number);
                let state = SegmentState::Bounded(end);
                records.push(MetaRecord::SegmentEnded { volume, number, state });
                end
            });
            let repeats = |(other, other_end): &(SegmentNumber, RecordNumber)| {
                let others = numbers.get(other).unwrap_or(&none);
                let does_without = |(number, repeated): (&RecordNumber, &InSegment)| {
                    let older = others.get(number).filter(|older| older.is_whole);
                    older.is_some_and(|older| older.is_safe || !repeated.is_safe)
                };
                *other_end >= end && has.range(..=end).all(does_without)
            };
            let proven = matches!(segment.state, SegmentState::Closed(_));
            if end <= released || !proven && older.iter().any(repeats) {
                records.push(MetaRecord::SegmentFreed { volume, number });
            } else {
                older.push((number, end));
            }
        }
        records
    }

    /// A segment's copies present, and what they hold together. A lone copy that may hold more than it
    /// showed is read again, until two looks in a row show the same, and all looks count: what a disk
    /// answers may be wrong now and right next time, and what nobody saw passes for never written.
    async fn contents_of(
        self: &Rc<Self>,
        segment: &Segment,
        current: &[SegmentCopyPlace],
        released: RecordNumber,
    ) -> Result<(Vec<CopyRead>, SegmentContents), Blocked> {
        let mut copies: Vec<CopyRead> = Vec::new();
        loop {
            copies.extend(self.read_copies(segment, current).await?);
            let bytes: Vec<Buffer> = copies.iter().map(|copy| copy.bytes.clone()).collect();
            let contents = read_segment(&segment.seal(), released, segment.end(), &bytes);
            let mut contents = contents.map_err(|conflict| contradiction(&conflict.to_string()))?;
            let is_lone = copies.iter().all(|copy| copy.disk == copies[0].disk);
            let is_settled = matches!(bytes.as_slice(), [.., before, last] if before == last);
            let is_enough = is_settled || copies.len() >= LOOKS_MAX as usize;
            if !is_lone || is_enough || has_all(segment, &contents) {
                // Small records would keep the whole segment in memory until they are in place.
                let found = contents.records.values_mut().filter_map(|found| found.record.as_mut());
                found.for_each(|record| record.body.detach());
                return Ok((copies, contents));
            }
        }
    }

    /// Every current copy of a segment that is present, up to its high-water mark; at least one.
    async fn read_copies(
        self: &Rc<Self>,
        segment: &Segment,
        current: &[SegmentCopyPlace],
    ) -> Result<Vec<CopyRead>, Blocked> {
        let reads = current.iter().map(|copy| self.read_copy(segment, copy));
        let copies: Vec<CopyRead> = join_all(reads).await.into_iter().flatten().collect();
        if copies.is_empty() {
            return Err(Blocked::Missing(current.iter().map(|copy| copy.disk).collect()));
        }
        Ok(copies)
    }

    async fn read_copy(&self, segment: &Segment, copy: &SegmentCopyPlace) -> Option<CopyRead> {
        let member = self.pool.member(copy.disk)?;
        let device = member.usable_device()?;
        let instance = member.seen_instance.get();
        let start = member.geometry.extent_start(copy.extents.first)?;
        let header = self.segment_header(segment);
        // A block more: the first record beyond the mark shows that the metadata is older than the log.
        let mark = segment.high_water_bytes(self.pool.shape()) + BLOCK_BYTES as u64;
        let bytes = mark.min(segment.bytes(self.pool.shape())) as usize;
        let pieces = (0..bytes.div_ceil(PIECE_BYTES)).map(|piece| {
            let from = piece * PIECE_BYTES;
            let sectors = (bytes - from).min(PIECE_BYTES) / SECTOR_BYTES;
            let sector = Lba(start.0 + (from / SECTOR_BYTES) as u64);
            let (member, device) = (Rc::clone(&member), Rc::clone(&device));
            async move {
                let range = SectorRange::new(sector, sectors as u64);
                (from, self.read_piece(&member, &*device, range).await)
            }
        });
        let mut whole = BufferMut::zeroed(bytes);
        let mut is_unread = false;
        let mut pieces = futures::stream::iter(pieces).buffer_unordered(PIECES);
        while let Some((from, piece)) = pieces.next().await {
            let (piece, has_gaps) = piece.ok()?;
            is_unread |= has_gaps;
            whole[from..from + piece.len()].copy_from_slice(&piece);
        }
        let whole = whole.freeze();
        // Every record names the segment itself, so a header that was lost loses nothing else.
        let head = &whole[..SEGMENT_HEADER_BYTES];
        if let Err(fault) = UncheckedSegmentHeader(head).check(&header) {
            tracing::warn!(volume = %self.name(), disk = %member.display_name(), %fault);
        }
        let flush = async { device.flush(instance.ok_or(IoError::Lost)?).await };
        let flushed = self.pool.within(self.pool.limits.background, flush).await.is_ok();
        Some(CopyRead { disk: copy.disk, bytes: whole, is_unread, flushed })
    }

    /// Reads a piece of the instance that was looked at; what of it can't be read is zeros, which no record
    /// is: another copy may have it. Tells whether there is such.
    async fn read_piece(
        &self,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
        range: SectorRange,
    ) -> Result<(Buffer, bool), IoError> {
        match self.pool.read_member(member, device, range.start, range.count).await {
            Err(IoError::Medium(_)) => {}
            answer => return answer.map(|data| (data, false)),
        }
        let mut whole = BufferMut::zeroed(range.len_bytes() as usize);
        let mut has_gaps = false;
        for block in 0..range.count / BLOCK_SECTORS {
            let start = Lba(range.start.0 + block * BLOCK_SECTORS);
            let at = block as usize * BLOCK_BYTES;
            let window = at..at + BLOCK_BYTES;
            match self.pool.read_member(member, device, start, BLOCK_SECTORS).await {
                Ok(data) => whole[window].copy_from_slice(&data),
                Err(IoError::Medium(_)) => has_gaps = true,
                Err(error) => return Err(error),
            }
        }
        Ok((whole.freeze(), has_gaps))
    }
}

fn is_intent(record: &Record) -> bool {
    matches!(record.body, RecordBody::Intent { .. })
}

fn rows_of(record: &Record) -> u64 {
    record.body.rows().map_or(0, |rows| u64::from(rows.count))
}

fn contradiction(what: &str) -> Blocked {
    Blocked::Contradiction(format!("{what}; neither is chosen"))
}

fn is_whole(found: &FoundRecord) -> bool {
    found.record.is_some() && found.lost.is_empty()
}

/// Whether a segment is known to hold no more than this: a closed one was acknowledged up to its end.
fn has_all(segment: &Segment, contents: &SegmentContents) -> bool {
    let records = &contents.records;
    let (Some((first, _)), Some((last, _))) = (records.first_key_value(), records.last_key_value())
    else {
        return false;
    };
    let has_no_gap = last.0 - first.0 < records.len() as u64;
    segment.state == SegmentState::Closed(*last) && has_no_gap && records.values().all(is_whole)
}
