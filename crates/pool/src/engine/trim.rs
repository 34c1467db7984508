//! Discards what nothing names any more on the disks (docs/engine.md, 19): extents that became free, and rows whose
//! zeros are in place and released. Nothing depends on it: it is forgotten with a crash, or where it can't be done.
//!
//! No lock is held for it. Whether something is still nobody's is judged in the very turn in which its discard is
//! called, and whoever writes there later is behind that discard, by the order that every device keeps of what
//! overlaps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{
    Access, BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Instant, IoError, Lba, SECTOR_BYTES,
    SectorRange,
};
use futures::future::{join_all, select};
use runtime::{Notify, Permit, Semaphore};

use super::known::SaidBy;
use super::member::Member;
use super::open_pool::OpenPool;
use super::pool::{GroupPlace, Pool};
use super::settings::{TRIM, is_on};
use super::underway::Underway;
use super::volume::{Serving, Volume};
use crate::format::{DiskNumber, Entry, ExtentNumber, ExtentRange, ExtentShape, GenerationId, Row};
use crate::metadata::MetaRecord;
use crate::stats::Purpose;

/// The least that is discarded at once, and how much to begin with: drives forget nothing in smaller parts, or do
/// badly.
const PIECE_BYTES_MIN: u64 = 1 << 20;
/// The most: nobody knows how long a drive takes for it.
const PIECE_BYTES_MAX: u64 = 64 << 20;
/// Rows that are looked at in one turn of the event loop.
const LOOKED_AT_MAX: u32 = 4096;
/// Fewer rows in a row aren't worth an operation.
const ROWS_MIN: u32 = (64 << 10) / BLOCK_BYTES as u32;
/// A piece is to take about so long: a drive may do nothing else meanwhile, and its session goes on by a thousand
/// requests only.
const PIECE_TAKES: Duration = Duration::from_millis(20);
/// So many times as long as a piece took others have their turn, where they want it.
const RESTS: u32 = 3;
/// How long a disk is left alone that gave trouble; twice as long each time.
const TROUBLE_REST: Duration = Duration::from_secs(600);
const TROUBLE_REST_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often is looked for what is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How many extents of a disk from one on became free, and when.
type Freed = BTreeMap<ExtentNumber, (u32, Instant)>;

/// What may be discarded.
#[derive(Default)]
pub(crate) struct Trims {
    /// Extents that became free. Some may have been given out since.
    extents: RefCell<BTreeMap<DiskNumber, Freed>>,
    /// Groups in which rows became unwritten: in which regions, and when that was last.
    rows: RefCell<BTreeMap<GenerationId, (u64, Instant)>>,
    noted: Notify,
}

impl Trims {
    fn is_empty(&self) -> bool {
        self.extents.borrow().is_empty() && self.rows.borrow().is_empty()
    }

    fn forget(&self) {
        self.extents.borrow_mut().clear();
        self.rows.borrow_mut().clear();
    }

    fn note_extents(&self, disk: DiskNumber, extents: ExtentRange, now: Instant) {
        let mut noted = self.extents.borrow_mut();
        let (count, since) = noted.entry(disk).or_default().entry(extents.first).or_default();
        (*count, *since) = (extents.count.max(*count), now);
        drop(noted);
        self.noted.notify_all();
    }

    fn note_rows(&self, group: GenerationId, regions: u64, now: Instant) {
        let mut rows = self.rows.borrow_mut();
        let known = rows.get(&group).map_or(0, |(regions, _)| *regions);
        rows.insert(group, (known | regions, now));
        drop(rows);
        self.noted.notify_all();
    }

    fn disks(&self) -> Vec<DiskNumber> {
        self.extents.borrow().keys().copied().collect()
    }

    fn forget_disk(&self, disk: DiskNumber) {
        self.extents.borrow_mut().remove(&disk);
    }

    /// Takes the extents of a disk that became free before `until`.
    fn take_extents(&self, disk: DiskNumber, until: Instant) -> Vec<ExtentRange> {
        let mut noted = self.extents.borrow_mut();
        let Some(extents) = noted.get_mut(&disk) else { return Vec::new() };
        let mut due = Vec::new();
        extents.retain(|first, (count, since)| {
            let stays = *since > until;
            if !stays {
                due.push(ExtentRange::new(*first, *count));
            }
            stays
        });
        if extents.is_empty() {
            noted.remove(&disk);
        }
        due
    }

    /// Takes groups in which nothing more was discarded since `until`.
    fn take_rows(&self, until: Instant) -> BTreeMap<GenerationId, u64> {
        let mut due = BTreeMap::new();
        self.rows.borrow_mut().retain(|group, (regions, since)| {
            let stays = *since > until;
            if !stays {
                due.insert(*group, *regions);
            }
            stays
        });
        due
    }
}

/// What a disk has to discard.
pub(crate) struct DiskTrim {
    /// One discard at a time: held until it is answered, however long that takes.
    turn: Rc<Semaphore>,
    piece_bytes: Cell<u64>,
    /// Its free extents are being discarded.
    is_under_way: Cell<bool>,
    /// Nothing is discarded before: it refused it, or took far too long.
    rests_until: Cell<Instant>,
    /// So often in a row.
    failures: Cell<u32>,
}

impl DiskTrim {
    pub(crate) fn new() -> DiskTrim {
        DiskTrim {
            turn: Semaphore::new(1),
            piece_bytes: Cell::new(PIECE_BYTES_MIN),
            is_under_way: Cell::default(),
            rests_until: Cell::default(),
            failures: Cell::default(),
        }
    }

    fn rests(&self, now: Instant) -> bool {
        now < self.rests_until.get()
    }

    /// It refused a piece, or took far too long for it: some drives take minutes, or never end. Tells for how long it is
    /// left alone.
    fn gave_trouble(&self, now: Instant) -> Duration {
        self.piece_bytes.set(PIECE_BYTES_MIN);
        let rest = (TROUBLE_REST * (1 << self.failures.get().min(16))).min(TROUBLE_REST_MAX);
        self.failures.set(self.failures.get() + 1);
        self.rests_until.set(now + rest);
        rest
    }

    /// A piece took so long.
    fn judge(&self, bytes: u64, took: Duration) {
        let now = self.piece_bytes.get();
        if took > PIECE_TAKES * 2 {
            self.piece_bytes.set((now / 2).max(PIECE_BYTES_MIN));
        } else if took < PIECE_TAKES / 2 && bytes >= now {
            self.piece_bytes.set((now * 2).min(PIECE_BYTES_MAX));
        }
    }
}

impl Pool {
    fn is_trimmed(&self) -> bool {
        is_on(&self.meta.borrow(), TRIM)
    }

    /// These records are about to change what the pool knows about itself, and are committed.
    pub(super) fn note_freed(&self, records: &[MetaRecord]) {
        if !self.is_trimmed() {
            return;
        }
        let now = self.runtime.now();
        for record in records {
            // Not a log's segments: logs take them again, and write slower where there are holes.
            if let MetaRecord::PendingFreed { disk, extents } = record {
                self.trims.note_extents(*disk, *extents, now);
            }
        }
    }

    /// Rows in these regions of a group became unwritten, and that is committed.
    pub(super) fn note_unwritten(&self, group: GenerationId, regions: u64) {
        if regions != 0 && self.is_trimmed() {
            self.trims.note_rows(group, regions, self.runtime.now());
        }
    }

    /// How many extents of a disk from this one on are free.
    fn free_from(&self, disk: DiskNumber, extent: ExtentNumber) -> u32 {
        self.meta.borrow().disks().get(&disk).map_or(0, |disk| disk.free.count_from(extent))
    }

    /// Calls a discard now, and tells of its end. The turn is kept until then, whoever waits.
    fn discard(
        self: &Rc<Self>,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
        (start, bytes): (Lba, u64),
        turn: Rc<Permit>,
    ) -> impl Future<Output = ()> + use<> {
        let began = self.runtime.now();
        let underway = Underway::new(&self.runtime, member, Purpose::Discard, bytes);
        let discarding = device.discard(SectorRange::new(start, bytes / SECTOR_BYTES as u64));
        let (done, receiver) = futures::channel::oneshot::channel();
        let (runtime, member) = (self.runtime.clone(), Rc::clone(member));
        let too_long = self.limits.eviction;
        self.runtime.spawn(async move {
            let result = discarding.await;
            let (now, trim) = (runtime.now(), &member.trim);
            let took = now.since(began);
            let trouble = match result {
                _ if took >= too_long => Some(format!("one took {took:?}")),
                Ok(_) => {
                    trim.failures.set(0);
                    trim.judge(bytes, took);
                    None
                }
                // It went, and comes back.
                Err(IoError::Lost | IoError::Restarted { .. } | IoError::Fenced { .. }) => None,
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = trouble {
                let (rest, disk) = (trim.gave_trouble(now), member.display_name());
                tracing::warn!(%disk, why, ?rest, "is asked for no discard for a while");
            }
            drop((underway, turn));
            let _ = done.send(());
        });
        async move {
            let _ = receiver.await;
        }
    }
}

impl OpenPool {
    /// Discards what became nobody's some time ago, as long as the pool is open.
    pub(super) async fn run_trims(self: Rc<Self>) {
        let trims = &self.pool.trims;
        let looking = async {
            loop {
                let noted = trims.noted.notified();
                if trims.is_empty() {
                    noted.await;
                }
                self.pool.runtime.sleep(LOOK_EVERY).await;
                self.trim_due().await;
            }
        };
        let _ = self.pool.unless_over(looking).await;
    }

    async fn trim_due(self: &Rc<Self>) {
        let pool = &self.pool;
        if !pool.is_trimmed() {
            pool.trims.forget();
        }
        let Some(until) = self.due_since() else { return };
        for disk in pool.trims.disks() {
            let Some(member) = pool.member(disk) else {
                pool.trims.forget_disk(disk);
                continue;
            };
            if member.trim.rests(pool.runtime.now()) {
                pool.trims.forget_disk(disk);
                continue;
            }
            // One that is away may do it when it is back.
            if !member.is_answering() || member.trim.is_under_way.get() {
                continue;
            }
            let due = pool.trims.take_extents(disk, until);
            if !due.is_empty() {
                member.trim.is_under_way.set(true);
                pool.runtime.spawn(Rc::clone(self).trim_disk(member, due));
            }
        }
        for (group, regions) in pool.trims.take_rows(until) {
            if !pool.is_trimmed() {
                return;
            }
            self.trim_rows(group, regions).await;
        }
    }

    /// While requests are answered most of the time is theirs.
    async fn rest_from_trim(&self, bytes: u64, began: Instant) {
        let took = self.pool.runtime.now().since(began);
        self.trim_pace.rest(self, bytes, took * RESTS, || self.pool.is_trimmed()).await;
    }

    /// What became nobody's before that is due: a log takes its extents again within moments, and whoever deletes
    /// files often writes others.
    fn due_since(&self) -> Option<Instant> {
        let limit = self.pool.limits.trim_after;
        self.pool
            .runtime
            .now()
            .as_nanos()
            .checked_sub(limit.as_nanos() as u64)
            .map(Instant::from_nanos)
    }

    /// Discards free extents of a disk.
    async fn trim_disk(self: Rc<Self>, member: Rc<Member>, due: Vec<ExtentRange>) {
        let work = async {
            for extents in due {
                self.trim_extents(&member, extents).await;
            }
        };
        let _ = self.pool.unless_over(work).await;
        member.trim.is_under_way.set(false);
    }

    async fn trim_extents(self: &Rc<Self>, member: &Rc<Member>, extents: ExtentRange) {
        let pool = &self.pool;
        let extent_bytes = member.geometry.extent_bytes();
        let Some((start, bytes)) = member.geometry.run_place(extents) else { return };
        let mut at = 0;
        while at < bytes && pool.is_trimmed() && !member.trim.rests(pool.runtime.now()) {
            let turn = Rc::new(member.trim.turn.acquire(1).await);
            // Nothing is awaited from here until the discard is called.
            let index = at / extent_bytes;
            let extent = ExtentNumber(extents.first.0 + index as u32);
            let free_end =
                (index + u64::from(pool.free_from(member.number, extent))) * extent_bytes;
            if free_end <= at {
                at = (index + 1) * extent_bytes;
                continue;
            }
            let Some(device) = member.usable_device() else {
                let left = ExtentRange::new(extent, extents.count - index as u32);
                pool.trims.note_extents(member.number, left, pool.runtime.now());
                return;
            };
            let piece = member.trim.piece_bytes.get().min(free_end.min(bytes) - at);
            let began = pool.runtime.now();
            let place = (Lba(start.0 + at / SECTOR_BYTES as u64), piece);
            pool.discard(member, &*device, place, turn).await;
            at += piece;
            self.rest_from_trim(piece, began).await;
        }
    }

    /// Discards what is unwritten of these regions of a group, on all that have it. Where a disk is busy that is noted
    /// again; what somebody is about to write is left.
    async fn trim_rows(self: &Rc<Self>, generation: GenerationId, regions: u64) {
        let pool = &self.pool;
        let mut left = Regions::of(pool.shape(), regions);
        while let Some((first, end)) = left.next_span() {
            let Some(volume) = self.volume_of(generation) else { return };
            let turns = self.trim_turns(generation).await;
            volume.load_entries(generation, first, end).await;
            // Nothing is awaited from here until the discards are called.
            let Some(group) = pool.group_by_generation(generation) else { return };
            let is_ready = volume.serving() == Serving::Yes && pool.is_trimmed();
            let Some(turns) = turns.filter(|_| is_ready) else {
                pool.note_unwritten(generation, left.mask_from(first));
                return;
            };
            let pieces = turns.iter().map(|(member, _)| member.trim.piece_bytes.get());
            let most = pieces.min().unwrap_or(PIECE_BYTES_MIN) / BLOCK_BYTES as u64;
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            let end = end.min(first.saturating_add(LOOKED_AT_MAX));
            let Some((row, count)) = volume.unwritten_run(&group, (first, end), most) else {
                left.skip_to(end);
                continue;
            };
            left.skip_to(row.0 + count);
            let piece = u64::from(count) * BLOCK_BYTES as u64;
            let (began, mut bytes) = (pool.runtime.now(), 0);
            let discards = (0..group.members.len()).filter_map(|index| {
                let (member, device, start) = pool.extent_of(&group, index)?;
                let turn = turns.iter().find(|(other, _)| other.number == member.number)?;
                let place = Lba(start.0 + pool.shape().row_sector(row));
                bytes += piece;
                Some(pool.discard(&member, &*device, (place, piece), Rc::clone(&turn.1)))
            });
            let discards: Vec<_> = discards.collect();
            drop(turns);
            // Whoever is slow keeps his turn; nothing else waits for him.
            let hedge = pool.runtime.sleep(pool.limits.hedge);
            select(join_all(discards), hedge).await;
            self.rest_from_trim(bytes, began).await;
        }
    }

    /// The turns of the disks that have a group, of all that take part; none where one can't be had soon.
    async fn trim_turns(&self, generation: GenerationId) -> Option<Vec<(Rc<Member>, Rc<Permit>)>> {
        let pool = &self.pool;
        let group = pool.group_by_generation(generation)?;
        let disks: BTreeSet<DiskNumber> = group.members.iter().map(|(disk, _)| *disk).collect();
        let members = disks.into_iter().filter_map(|disk| pool.member(disk));
        let now = pool.runtime.now();
        let members = members.filter(|m| m.is_answering() && !m.trim.rests(now));
        let all = async {
            let mut turns = Vec::new();
            for member in members {
                let turn = Rc::new(member.trim.turn.acquire(1).await);
                turns.push((member, turn));
            }
            turns
        };
        runtime::timeout(&pool.runtime, pool.limits.hedge, all).await.ok()
    }

    fn volume_of(&self, generation: GenerationId) -> Option<Rc<Volume>> {
        self.volume(self.pool.group_by_generation(generation)?.volume)
    }
}

/// Regions of which the rows are still to be looked at, ascending.
struct Regions {
    shape: ExtentShape,
    mask: u64,
    /// The rows before this one are done.
    from: u32,
}

impl Regions {
    fn of(shape: ExtentShape, mask: u64) -> Regions {
        Regions { shape, mask, from: 0 }
    }

    /// The next rows, those of neighbours together: the first one and that behind the last.
    fn next_span(&self) -> Option<(u32, u32)> {
        let regions =
            (0..ExtentShape::CHECKSUM_REGION).filter(|region| self.mask >> region & 1 == 1);
        let spans = regions.map(|region| {
            let (first, count) = self.shape.rows_of_region(region);
            (first.0.max(self.from), first.0 + count)
        });
        let mut spans = spans.filter(|(first, end)| first < end);
        let (first, mut end) = spans.next()?;
        for (next, next_end) in spans {
            if next != end {
                break;
            }
            end = next_end;
        }
        Some((first, end))
    }

    fn skip_to(&mut self, row: u32) {
        self.from = row;
    }

    /// The regions with rows from this one on.
    fn mask_from(&self, row: u32) -> u64 {
        self.mask & (u64::MAX << self.shape.region_of_row(Row(row)))
    }
}

impl Volume {
    /// Has the checksum blocks of rows in memory, where it can.
    async fn load_entries(&self, generation: GenerationId, first: u32, end: u32) {
        let Some(group) = self.pool.group_by_generation(generation) else { return };
        let shape = self.pool.shape();
        let indexes = shape.entry_of(Row(first)).0..shape.entry_of(Row(end - 1)).0 + 1;
        for index in indexes.clone() {
            if group.initialised && self.checksums.in_memory(generation, index).is_none() {
                let _ = self.checksum_block(&group, index..indexes.end).await;
            }
        }
    }

    /// The first long run of unwritten rows that nobody is about to write, of those from `first` to `end`, `most` of it.
    /// What is written in place is in line until it is answered, and named by a record from then on.
    fn unwritten_run(
        &self,
        group: &GroupPlace,
        (first, end): (u32, u32),
        most: u32,
    ) -> Option<(Row, u32)> {
        let shape = self.pool.shape();
        let (mut known, mut run) = (None, (first, 0));
        for row in first..end {
            if run.1 >= most {
                break;
            }
            let (index, entry) = shape.entry_of(Row(row));
            if known.as_ref().is_none_or(|(of, _)| *of != index) {
                known = Some((index, self.checksums.in_memory(group.generation, index)));
            }
            let block = known.as_ref().and_then(|(_, block)| block.as_ref());
            if block.is_some_and(|block| block.get(entry) == Entry::Unwritten)
                && self.is_left_alone(group, Row(row))
            {
                run.1 += 1;
            } else if run.1 >= ROWS_MIN {
                break;
            } else {
                run = (row + 1, 0);
            }
        }
        (run.1 >= ROWS_MIN).then_some((Row(run.0), run.1))
    }

    /// Whether no record names a row, and nobody is about to change it.
    fn is_left_alone(&self, group: &GroupPlace, row: Row) -> bool {
        let Some(block) = self.block_of(group, row) else { return false };
        let sectors = SectorRange::new(Lba(block * BLOCK_SECTORS), BLOCK_SECTORS);
        self.known_of(group, row) == SaidBy::Entry && !self.line.holds_up(Access::Read(sectors))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_regions_are_one_span() {
        let shape = ExtentShape::new(1 << 20).unwrap();
        let rows = |region| shape.rows_of_region(region).0.0;
        let mut left = Regions::of(shape, 0b1_0110);
        assert_eq!(left.next_span(), Some((rows(1), rows(3))));
        assert_eq!(left.mask_from(rows(2)), 0b1_0100);
        left.skip_to(rows(2) + 1);
        assert_eq!(left.next_span(), Some((rows(2) + 1, rows(3))));
        left.skip_to(rows(3));
        assert_eq!(left.next_span(), Some((rows(4), rows(5))));
        left.skip_to(rows(5));
        assert_eq!(left.next_span(), None);
    }

    #[test]
    fn pieces_follow_what_a_drive_takes() {
        let trim = DiskTrim::new();
        for _ in 0..20 {
            trim.judge(trim.piece_bytes.get(), Duration::from_millis(1));
        }
        assert_eq!(trim.piece_bytes.get(), PIECE_BYTES_MAX);
        trim.judge(PIECE_BYTES_MIN, Duration::from_millis(30));
        assert_eq!(trim.piece_bytes.get(), PIECE_BYTES_MAX, "about as long as it should");
        trim.judge(PIECE_BYTES_MAX, Duration::from_secs(3));
        assert_eq!(trim.piece_bytes.get(), PIECE_BYTES_MAX / 2);
    }
}
