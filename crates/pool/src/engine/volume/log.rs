//! Appending to a volume's log. Records that waited make a batch: one durable write per copy. What is long
//! enough leaves beside the batches that are under way; the rest waits for them and leaves together. When
//! every current copy has a batch and all before it, its writers are answered. A copy that doesn't answer is
//! evicted by a majority of votes first. Whoever puts a disk out closes each segment with a copy there: the
//! batches under way are its last, and the log goes on in a new one on healthy disks. What no copy took is
//! appended there again with all that came behind it, under the same numbers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instant, IoError, Lba, SECTOR_BYTES, write_durably};
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use runtime::{Notify, Semaphore};

use super::Volume;
use super::intents::Intents;
use super::segment::Current;
use super::write::fit_charges;
use crate::engine::lease::Ended;
use crate::engine::member::WITHOUT_LOGS;
use crate::engine::pool::ended_error;
use crate::engine::underway::Underway;
use crate::format::{
    ConfigNumber, DiskNumber, GenerationId, LogTail, RecordBody, RecordNumber, SegmentNumber,
    Stamp, encode_batch,
};
use crate::metadata::{Segment, SegmentCopyPlace};
use crate::stats::Purpose;

/// Batches under way at once, so that a disk needn't wait for the next while the last one is answered.
const BATCHES_MAX: usize = 8;

/// A record on its way into the log.
pub(crate) struct Append {
    pub(crate) body: RecordBody,
    /// The volume's block that its first row is.
    pub(crate) block: u64,
    /// Log room that it was given.
    pub(crate) charge_bytes: u64,
    /// Whoever waits for it, and is told its number.
    pub(crate) done: Option<oneshot::Sender<Result<RecordNumber, IoError>>>,
}

impl Append {
    /// A record that the volume itself appends.
    pub(crate) fn own(block: u64, body: RecordBody) -> Append {
        Append { body, block, charge_bytes: 0, done: None }
    }
}

/// Records that go to each copy by one write.
pub(crate) type Batch = Vec<Append>;

/// A batch that was given its numbers and its place in a segment.
struct Sealed {
    appends: Batch,
    segment: SegmentNumber,
    numbers: (RecordNumber, RecordNumber),
    last_crc: u32,
    /// What its records say was durable and acknowledged.
    witness: Stamp,
}

/// A volume's log.
pub(crate) struct Log {
    queue: RefCell<VecDeque<Append>>,
    /// Bytes of the records in it.
    queued_bytes: Cell<usize>,
    /// Batches are under way: less than [`LogShape::beside_bytes`] waits for them.
    is_busy: Cell<bool>,
    /// Nobody looks at the queue any more.
    has_ended: Cell<bool>,
    arrived: Notify,
    pub(crate) state: RefCell<LogState>,
    /// Held while batches are written or the open segment is given up.
    pub(crate) writing: Rc<Semaphore>,
    /// When a record was last appended.
    pub(crate) appended_at: Cell<Instant>,
    /// Wakes destaging.
    pub(crate) destaging: Notify,
    /// Something is being appended again, and room comes of that: a log may have more segments than
    /// usual meanwhile.
    pub(crate) may_exceed: Cell<bool>,
    /// The groups of what had to be appended again; where their checksums were doubtful, under which
    /// configuration.
    pub(crate) stuck: RefCell<BTreeMap<GenerationId, Option<ConfigNumber>>>,
    /// Since when no disk has room for the next segment.
    pub(crate) lacks_space_since: Cell<Option<Instant>>,
    /// What is damaged in it, while the volume waits for that.
    pub(crate) damage: RefCell<Option<String>>,
    /// Somebody said that it shall be served without what is damaged.
    pub(crate) accepts_loss: Cell<bool>,
}

/// Where the log stands.
#[derive(Default)]
pub(crate) struct LogState {
    pub(crate) current: Option<Current>,
    /// The next record's number.
    pub(crate) next: RecordNumber,
    pub(crate) previous_crc: u32,
    /// The last record that is durable on all current copies, as are all before it.
    pub(crate) durable: RecordNumber,
    /// Its header's.
    pub(crate) durable_crc: u32,
    /// The last of them that isn't a MARK.
    pub(crate) content: RecordNumber,
    /// Up to here a durable record says that all is durable ...
    pub(crate) witnessed: RecordNumber,
    /// ... and that all is acknowledged.
    pub(crate) told: RecordNumber,
    /// Those that aren't in place as far as the metadata knows.
    pub(crate) intents: Intents,
    /// Room taken by the records of each live segment.
    pub(crate) charges: BTreeMap<SegmentNumber, u64>,
}

impl LogState {
    /// The last record up to which all is acknowledged (A).
    pub(crate) fn acknowledged(&self) -> RecordNumber {
        self.intents.acknowledged(self.durable)
    }

    /// The last record that a destage may take: beyond it are INTENTs whose rows are being written.
    pub(crate) fn releasable(&self) -> RecordNumber {
        self.intents.releasable(self.durable)
    }
}

/// What became of a batch.
pub(super) enum Written {
    /// All that are current by now have it.
    Everywhere,
    /// No copy is left.
    Nowhere,
}

/// What became of the write to one copy.
type CopyAnswer = (DiskNumber, Result<(), IoError>);

impl Log {
    pub(crate) fn new() -> Log {
        Log {
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            is_busy: Cell::new(false),
            has_ended: Cell::new(false),
            arrived: Notify::new(),
            state: RefCell::default(),
            writing: Semaphore::new(1),
            appended_at: Cell::default(),
            destaging: Notify::new(),
            may_exceed: Cell::new(false),
            lacks_space_since: Cell::new(None),
            stuck: RefCell::default(),
            damage: RefCell::default(),
            accepts_loss: Cell::new(false),
        }
    }

    /// Queues a record. It is durable, in memory for readers and acknowledged when `done` says so.
    fn append(&self, append: Append, beside_bytes: usize) {
        self.queued_bytes.update(|bytes| bytes + append.body.encoded_len());
        self.queue.borrow_mut().push_back(append);
        if !self.is_busy.get() || self.queued_bytes.get() >= beside_bytes {
            self.arrived.notify_all();
        }
    }

    /// An INTENT holds nothing up any more: a MARK may be due, or a destage.
    pub(super) fn settled(&self) {
        self.wake_all();
    }

    /// Wakes appending and destaging, to see that the volume is gone.
    pub(crate) fn wake_all(&self) {
        self.arrived.notify_all();
        self.destaging.notify_all();
    }

    fn take_batch(&self, bytes_max: usize) -> Option<Batch> {
        let batch = take_batch(&mut self.queue.borrow_mut(), bytes_max)?;
        let bytes = records_len(&batch);
        self.queued_bytes.update(|queued| queued - bytes);
        Some(batch)
    }
}

impl Volume {
    /// Writes batches until the pool is over.
    pub(crate) async fn run_log(self: Rc<Self>) {
        loop {
            let arrived = self.log.arrived.notified();
            if self.is_gone() {
                break;
            }
            let has_work = !self.log.queue.borrow().is_empty();
            let worked = if has_work {
                self.write_queued().await
            } else {
                self.wait_and_mark(arrived).await
            };
            if worked.is_err() {
                break;
            }
        }
        self.log.has_ended.set(true);
        self.answer_unheard();
    }

    /// Writes what is queued, and what is while that is under way, unless somebody else wants to append.
    async fn write_queued(self: &Rc<Self>) -> Result<(), Ended> {
        let writing = &self.log.writing;
        let _writing = writing.acquire(1).await;
        let (shape, mut is_first) = (self.log_shape, true);
        let next = |bytes_max: usize, is_alone: bool| {
            let leaves = is_alone || self.log.queued_bytes.get() >= shape.beside_bytes();
            let has_turn = std::mem::take(&mut is_first) || !writing.is_wanted();
            let may = leaves && has_turn && !self.is_gone();
            may.then(|| self.log.take_batch(bytes_max)).flatten()
        };
        self.append_batches(next, |batch, first, segment| {
            self.adopt_batch(&batch, first, segment);
            self.answer(batch, Ok(first));
            self.log.destaging.notify_all();
        })
        .await
    }

    /// Queues records.
    pub(super) fn append_all(&self, appends: impl Iterator<Item = Append>) {
        let beside_bytes = self.log_shape.beside_bytes();
        appends.for_each(|append| self.log.append(append, beside_bytes));
        // Who waited in line until now may come when nobody looks at the queue any more.
        if self.log.has_ended.get() {
            self.answer_unheard();
        }
    }

    fn answer_unheard(&self) {
        let ended = self.pool.lease.ended().unwrap_or(Ended::Closed);
        let unheard = self.log.queue.take();
        self.log.queued_bytes.set(0);
        self.answer(unheard, Err(ended_error(&self.pool, ended)));
    }

    /// Readers find the batch in memory from now on.
    pub(crate) fn adopt_batch(
        &self,
        batch: &[Append],
        first: RecordNumber,
        segment: SegmentNumber,
    ) {
        let mut pending = self.pending.borrow_mut();
        let mut state = self.log.state.borrow_mut();
        for (append, number) in batch.iter().zip(first.0..) {
            let number = RecordNumber(number);
            pending.put_record(append.block, number, &append.body);
            if let RecordBody::Intent { .. } = append.body {
                state.intents.begin(number);
            }
            *state.charges.entry(segment).or_default() += append.charge_bytes;
        }
        self.log.appended_at.set(self.pool.runtime.now());
    }

    /// Tells the writers of a batch its first number, or why there is none.
    fn answer(
        &self,
        batch: impl IntoIterator<Item = Append>,
        result: Result<RecordNumber, IoError>,
    ) {
        for (append, index) in batch.into_iter().zip(0..) {
            if result.is_err() {
                self.credit.give_back(append.charge_bytes);
            }
            // A writer that went away doesn't matter: its write has happened.
            let number = result.map(|first| RecordNumber(first.0 + index));
            let _ = append.done.map(|done| done.send(number));
        }
    }

    /// Brings batches into the log, several at once, until `next` has no more. It is told how long a batch
    /// may be, if it has more than one record, and whether none is under way. `durable` is told of each in
    /// order, with its first record's number and its segment. The caller holds the permit to write. When the
    /// pool is over, those who wait for a batch are told.
    pub(crate) async fn append_batches(
        self: &Rc<Self>,
        mut next: impl FnMut(usize, bool) -> Option<Batch>,
        mut durable: impl FnMut(Batch, RecordNumber, SegmentNumber),
    ) -> Result<(), Ended> {
        let mut under_way: VecDeque<Sealed> = VecDeque::new();
        let mut writes: FuturesOrdered<LocalBoxFuture<'_, Result<Written, Ended>>> =
            FuturesOrdered::new();
        // What is to be sealed next: what no copy took and what came behind it, then what found no room.
        let mut again: VecDeque<Batch> = VecDeque::new();
        let mut returned = 0;
        let ended = loop {
            let arrived = self.log.arrived.notified();
            let waiting = match returned > 0 || under_way.len() >= BATCHES_MAX {
                true => None,
                false => {
                    again.pop_front().or_else(|| next(self.batch_bytes_max(), under_way.is_empty()))
                }
            };
            if let Some(batch) = waiting {
                let bytes = bytes_of(&batch);
                let current = match self.open_segment_for(bytes) {
                    Some(current) => Some(current),
                    // A segment is closed at its last acknowledged record: all of it must be known.
                    None if !under_way.is_empty() => None,
                    None => match self.pool.unless_over(self.segment_with_room(bytes)).await {
                        Ok(Ok(current)) => Some(current),
                        Ok(Err(ended)) | Err(ended) => {
                            again.push_front(batch);
                            break ended;
                        }
                    },
                };
                match current {
                    Some(current) => {
                        let (sealed, write) = self.seal(batch, current);
                        under_way.push_back(sealed);
                        writes.push_back(write.boxed_local());
                        continue;
                    }
                    None => again.push_front(batch),
                }
            }
            self.log.is_busy.set(!under_way.is_empty());
            if under_way.is_empty() {
                // Who came meanwhile woke nobody, and these may have been somebody else's batches.
                self.log.arrived.notify_all();
                return Ok(());
            }
            let told = select(writes.next(), arrived);
            let written = match self.pool.unless_over(told).await {
                Ok(Either::Left((Some(Ok(written)), _))) => written,
                Ok(Either::Right(_)) => continue,
                Ok(Either::Left((Some(Err(ended)), _))) | Err(ended) => break ended,
                Ok(Either::Left((None, _))) => break Ended::Closed,
            };
            let Some(sealed) = under_way.pop_front() else { break Ended::Closed };
            if returned == 0 && matches!(written, Written::Everywhere) {
                let (batch, first, segment) = self.settle(sealed);
                durable(batch, first, segment);
                continue;
            }
            // Wherever what came behind it is, it is no part of the log without it.
            again.insert(returned, sealed.appends);
            returned = if under_way.is_empty() { 0 } else { returned + 1 };
            self.take_numbers_back();
        };
        self.log.is_busy.set(false);
        let unheard = under_way.into_iter().map(|sealed| sealed.appends).chain(again).flatten();
        self.answer(unheard, Err(ended_error(&self.pool, ended)));
        Err(ended)
    }

    /// How long the next batch may be: a segment is filled before the next one is opened.
    fn batch_bytes_max(&self) -> usize {
        let state = self.log.state.borrow();
        let room = state.current.as_ref().map_or(0, |open| open.bytes.saturating_sub(open.at));
        let most = self.log_shape.batch_bytes();
        if room == 0 { most } else { most.min(room as usize) }
    }

    /// The open segment, if it takes a batch of so many bytes.
    pub(super) fn open_segment_for(&self, bytes: u64) -> Option<Current> {
        let current = self.log.state.borrow().current.clone();
        let current =
            current.filter(|open| !open.given_up && open.at + bytes <= open.high_water_bytes())?;
        (!self.is_over(&current.segment)).then_some(current)
    }

    /// Gives a batch its numbers and its place: once for this segment, so that all copies and repetitions
    /// get the same bytes. With it comes the write to every current copy.
    fn seal(
        self: &Rc<Self>,
        mut appends: Batch,
        current: Current,
    ) -> (Sealed, impl Future<Output = Result<Written, Ended>> + 'static) {
        let mut state = self.log.state.borrow_mut();
        let tail = LogTail {
            segment: current.segment.seal(),
            after: current.after,
            next: state.next,
            previous_crc: state.previous_crc,
        };
        let witness = Stamp {
            durable: state.durable,
            acknowledged: state.acknowledged(),
            metadata: self.pool.area.borrow().committed(),
            configuration: self.pool.config.borrow().number,
        };
        let batch = encode_batch(tail, witness, appends.iter().map(|append| &append.body));
        state.next = batch.tail.next;
        state.previous_crc = batch.tail.previous_crc;
        if let Some(open) = state.current.as_mut() {
            open.at += batch.bytes.len() as u64;
        }
        let above = fit_charges(&mut appends, batch.bytes.len() as u64);
        self.credit.give_back(above);
        let sealed = Sealed {
            appends,
            segment: current.segment.number,
            numbers: batch.numbers,
            last_crc: batch.tail.previous_crc,
            witness,
        };
        let volume = Rc::clone(self);
        let write =
            async move { volume.write_copies(&current.segment, current.at, batch.bytes).await };
        (sealed, write)
    }

    /// Every current copy has the batch, and all before it.
    fn settle(&self, sealed: Sealed) -> (Batch, RecordNumber, SegmentNumber) {
        let mut state = self.log.state.borrow_mut();
        state.durable = sealed.numbers.1;
        state.durable_crc = sealed.last_crc;
        (state.witnessed, state.told) = (sealed.witness.durable, sealed.witness.acknowledged);
        if sealed.appends.iter().any(|append| append.body != RecordBody::Mark) {
            state.content = state.durable;
        }
        (sealed.appends, sealed.numbers.0, sealed.segment)
    }

    /// The open segment is of no use any more; what was sealed and isn't durable gets its numbers anew.
    fn take_numbers_back(&self) {
        let mut state = self.log.state.borrow_mut();
        state.next = state.durable.next();
        state.previous_crc = state.durable_crc;
        if let Some(open) = state.current.as_mut() {
            open.given_up = true;
        }
    }

    /// Writes the same bytes to every current copy of a segment, durably.
    pub(super) async fn write_copies(
        self: &Rc<Self>,
        segment: &Segment,
        at: u64,
        bytes: Buffer,
    ) -> Result<Written, Ended> {
        let mut done = BTreeSet::new();
        for attempt in 0.. {
            let copies = self.copies_of(segment);
            let missing = copies.into_iter().filter(|copy| !done.contains(&copy.disk));
            let failed = self.write_to(missing.collect(), at, &bytes, &mut done).await;
            let copies = self.copies_of(segment);
            if !copies.is_empty() && copies.iter().all(|copy| done.contains(&copy.disk)) {
                return Ok(Written::Everywhere);
            }
            self.part_with(segment, &failed, attempt).await?;
            let copies = self.copies_of(segment);
            if copies.is_empty() {
                return Ok(Written::Nowhere);
            }
        }
        Ok(Written::Nowhere)
    }

    /// The copies of a segment that are current now.
    fn copies_of(&self, segment: &Segment) -> Vec<SegmentCopyPlace> {
        let meta = self.pool.meta.borrow();
        let volume = meta.volumes().get(&self.id);
        let live = volume.and_then(|volume| volume.log.segments.get(&segment.number));
        let copies = live.map_or(&[][..], |live| live.copies.as_slice());
        copies.iter().filter(|copy| !self.pool.is_out(copy.disk)).copied().collect()
    }

    /// Lets go of copies that failed: by configuration change where the disk doesn't answer, by a
    /// metadata transaction where it answers that it can't.
    async fn part_with(
        self: &Rc<Self>,
        segment: &Segment,
        failed: &BTreeMap<DiskNumber, IoError>,
        attempt: usize,
    ) -> Result<(), Ended> {
        let is_refusal = |error: &IoError| {
            matches!(
                error,
                IoError::Medium(_)
                    | IoError::NoSpace(_)
                    | IoError::OutOfRange(_)
                    | IoError::ReadOnly
                    | IoError::Unsupported
            )
        };
        let (refusing, mut lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            failed.iter().partition(|(_, error)| is_refusal(error));
        let silent: BTreeSet<DiskNumber> = lost.keys().copied().collect();
        let has_copy = |disk| self.copies_of(segment).iter().any(|copy| copy.disk == disk);
        for (disk, error) in refusing {
            // Several batches may find the same.
            if has_copy(disk) {
                self.note_refusal(disk);
            }
            if !self.pool.drop_copy(self.id, segment.number, disk, &silent).await? {
                lost.insert(disk, error);
            }
        }
        if lost.is_empty() { Ok(()) } else { self.pool.evict(&lost, attempt >= 1).await }
    }

    /// A disk that refuses one segment after the other is left out of the next ones for a while.
    fn note_refusal(&self, disk: DiskNumber) {
        let now = self.pool.runtime.now();
        if !self.pool.member(disk).is_some_and(|member| member.refused_log(now)) {
            return;
        }
        let pool = Rc::clone(&self.pool);
        self.pool.runtime.spawn(async move {
            if pool.unless_over(pool.runtime.sleep(WITHOUT_LOGS)).await.is_ok() {
                // A segment that is thin for that may be replaced.
                pool.changed.notify_all();
            }
        });
    }

    /// Writes to these copies at once, each until it answers or the eviction time is over; tells
    /// which failed.
    async fn write_to(
        &self,
        copies: Vec<SegmentCopyPlace>,
        at: u64,
        bytes: &Buffer,
        done: &mut BTreeSet<DiskNumber>,
    ) -> BTreeMap<DiskNumber, IoError> {
        let mut failed: BTreeMap<_, _> =
            copies.iter().map(|copy| (copy.disk, IoError::Lost)).collect();
        let writes = copies.into_iter().map(|copy| self.write_copy(copy, at, bytes.clone()));
        let mut writes: FuturesUnordered<_> = writes.collect();
        let mut timer = std::pin::pin!(self.pool.runtime.sleep(self.pool.limits.eviction));
        loop {
            let changed = std::pin::pin!(self.pool.changed.notified());
            // Whoever else waited for the same disk may have had it evicted meanwhile.
            if !failed.is_empty() && failed.keys().all(|disk| self.pool.is_out(*disk)) {
                return failed;
            }
            match select(writes.next(), select(timer.as_mut(), changed)).await {
                Either::Left((Some((disk, Ok(()))), _)) => {
                    failed.remove(&disk);
                    done.insert(disk);
                }
                Either::Left((Some((disk, Err(error))), _)) => {
                    failed.insert(disk, error);
                }
                Either::Right((Either::Right(_), _)) => {}
                Either::Left((None, _)) | Either::Right((Either::Left(_), _)) => return failed,
            }
        }
    }

    async fn write_copy(&self, copy: SegmentCopyPlace, at: u64, bytes: Buffer) -> CopyAnswer {
        let Some(member) = self.pool.member(copy.disk) else {
            return (copy.disk, Err(IoError::Lost));
        };
        let start = member.geometry.extent_start(copy.extents.first);
        let (Some(start), Some(device)) = (start, member.usable_device()) else {
            return (copy.disk, Err(IoError::Lost));
        };
        let sector = Lba(start.0 + at / SECTOR_BYTES as u64);
        let len = bytes.len() as u64;
        let _underway = Underway::new(&self.pool.runtime, &member, Purpose::Log, len);
        (copy.disk, write_durably(&*device, sector, bytes).await.map(|_| ()))
    }
}

/// The records in front that make no longer a batch than this, at least one.
pub(crate) fn take_batch(queue: &mut VecDeque<Append>, bytes_max: usize) -> Option<Batch> {
    let mut bytes = 0;
    let fits = |append: &&Append| {
        bytes += append.body.encoded_len();
        bytes <= bytes_max
    };
    let count = queue.iter().take_while(fits).count().max(1);
    (!queue.is_empty()).then(|| queue.drain(..count).collect())
}

fn records_len(batch: &[Append]) -> usize {
    batch.iter().map(|append| append.body.encoded_len()).sum()
}

/// Bytes that a batch takes in a segment.
fn bytes_of(batch: &[Append]) -> u64 {
    records_len(batch).next_multiple_of(BLOCK_BYTES) as u64
}
