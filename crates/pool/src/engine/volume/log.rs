//! Appending to a volume's log. All records that waited while the previous batch was in flight make
//! the next batch: one durable write per copy. When every current copy has it, the writers are
//! answered in order. A copy that doesn't answer is evicted by a majority of votes first. Whoever puts
//! a disk out closes each segment with a copy there: a batch in flight is its last, and the log goes on
//! in a new one on healthy disks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instant, IoError, Lba, SECTOR_BYTES};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use runtime::{Notify, Semaphore};

use super::Volume;
use crate::engine::lease::Ended;
use crate::engine::measure::Underway;
use crate::engine::member::WITHOUT_LOGS;
use crate::engine::pool::ended_error;
use crate::format::{
    ConfigNumber, DiskNumber, GenerationId, LogTail, RecordBody, RecordNumber,
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentNumber, Stamp, encode_batch,
};
use crate::metadata::{Segment, SegmentCopyPlace};
use crate::stats::Purpose;
use block::write_durably;

/// A record on its way into the log.
pub(crate) struct Append {
    pub(crate) body: RecordBody,
    /// The volume's block that its first row is.
    pub(crate) block: u64,
    /// Log room that it was given.
    pub(crate) charge_bytes: u64,
    pub(crate) done: oneshot::Sender<Result<(), IoError>>,
}

/// A volume's log.
pub(crate) struct Log {
    queue: RefCell<VecDeque<Append>>,
    /// Nobody looks at the queue any more.
    has_ended: Cell<bool>,
    arrived: Notify,
    pub(crate) state: RefCell<LogState>,
    /// Held while a batch is written or the open segment is given up.
    pub(crate) writing: Rc<Semaphore>,
    /// When a record was last appended.
    pub(crate) appended_at: Cell<Instant>,
    /// Wakes destaging.
    pub(crate) destaging: Notify,
    /// A new segment waits for the room of older ones.
    pub(crate) wants_room: Cell<bool>,
    /// Something is being appended again, and room comes of that: a log may have more segments than
    /// usual meanwhile.
    pub(crate) may_exceed: Cell<bool>,
    /// The groups of what had to be appended again; where their checksums were doubtful, under which
    /// configuration.
    pub(crate) stuck: RefCell<BTreeMap<GenerationId, Option<ConfigNumber>>>,
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
    /// The last record that is durable on all current copies.
    pub(crate) durable: RecordNumber,
    /// The last of them that isn't a MARK.
    pub(crate) content: RecordNumber,
    /// Up to here a durable record says that all is durable.
    pub(crate) witnessed: RecordNumber,
    /// Room taken by the records of each live segment.
    pub(crate) charges: BTreeMap<SegmentNumber, u64>,
}

/// The segment that takes records.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) segment: Segment,
    /// The number before its first record.
    pub(crate) after: RecordNumber,
    /// Where the next batch goes.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    /// No further batch: no copy took the last one.
    pub(crate) given_up: bool,
}

/// What became of a batch.
enum Written {
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
            has_ended: Cell::new(false),
            arrived: Notify::new(),
            state: RefCell::default(),
            writing: Semaphore::new(1),
            appended_at: Cell::default(),
            destaging: Notify::new(),
            wants_room: Cell::new(false),
            may_exceed: Cell::new(false),
            stuck: RefCell::default(),
            damage: RefCell::default(),
            accepts_loss: Cell::new(false),
        }
    }

    /// Queues a record. It is durable, in memory for readers and acknowledged when `done` says so.
    fn append(&self, append: Append) {
        self.queue.borrow_mut().push_back(append);
        self.arrived.notify_all();
    }

    /// Wakes appending and destaging, to see that the volume is gone.
    pub(crate) fn wake_all(&self) {
        self.arrived.notify_all();
        self.destaging.notify_all();
    }

    fn take_batch(&self, bytes_max: usize) -> Vec<Append> {
        let mut queue = self.queue.borrow_mut();
        let mut bytes = 0;
        let mut batch = Vec::new();
        while let Some(next) = queue.front() {
            bytes += next.body.encoded_len();
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            batch.extend(queue.pop_front());
        }
        batch
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
            let batch = self.log.take_batch(self.log_shape.batch_bytes());
            if batch.is_empty() {
                if self.wait_and_mark(arrived).await.is_err() {
                    break;
                }
                continue;
            }
            let written = self.write_batch(batch).await;
            if written.is_err() {
                break;
            }
        }
        self.log.has_ended.set(true);
        self.answer_unheard();
    }

    /// Queues records.
    pub(super) fn append_all(&self, appends: impl Iterator<Item = Append>) {
        appends.for_each(|append| self.log.append(append));
        // Who waited in line until now may come when nobody looks at the queue any more.
        if self.log.has_ended.get() {
            self.answer_unheard();
        }
    }

    fn answer_unheard(&self) {
        let ended = self.pool.lease.ended().unwrap_or(Ended::Closed);
        let unheard = self.log.queue.take();
        self.answer(unheard, Err(ended_error(&self.pool, ended)));
    }

    /// Waits for the next record; when none comes for a while, a MARK says how far the log was
    /// acknowledged.
    async fn wait_and_mark(
        self: &Rc<Self>,
        arrived: impl Future<Output = ()> + Unpin,
    ) -> Result<(), Ended> {
        if !self.may_mark() {
            return self.pool.unless_over(arrived).await;
        }
        let due = self.log.appended_at.get() + self.pool.limits.mark;
        let timer = self.pool.runtime.sleep_until(due);
        if let Either::Left(_) = self.pool.unless_over(select(arrived, timer)).await? {
            return Ok(());
        }
        let _writing = self.log.writing.acquire(1).await;
        if self.may_mark() {
            let mark = self.write_bodies(&[RecordBody::Mark]);
            self.pool.unless_over(mark).await.and_then(|result| result)?;
        }
        Ok(())
    }

    /// Whether a MARK would say something that no record says, and the open segment has room for it. (A
    /// closed one's end is in the metadata.)
    fn may_mark(&self) -> bool {
        let state = self.log.state.borrow();
        let fits = |current: &Current| {
            !current.given_up && current.at + BLOCK_BYTES as u64 <= current.bytes
        };
        state.content > state.witnessed.max(self.released())
            && state.current.as_ref().is_some_and(fits)
            && !self.is_current_over()
    }

    async fn write_batch(self: &Rc<Self>, batch: Vec<Append>) -> Result<(), Ended> {
        let writing = self.log.writing.acquire(1).await;
        let bodies: Vec<RecordBody> = batch.iter().map(|append| append.body.clone()).collect();
        let result = self.pool.unless_over(self.write_bodies(&bodies)).await;
        let result = result.and_then(|result| result);
        match result {
            Ok((first, segment)) => {
                self.adopt_batch(&batch, first, segment);
                drop(writing);
                self.answer(batch, Ok(()));
                self.log.destaging.notify_all();
                Ok(())
            }
            Err(ended) => {
                self.answer(batch, Err(ended_error(&self.pool, ended)));
                Err(ended)
            }
        }
    }

    /// Readers find the batch in memory from now on.
    fn adopt_batch(&self, batch: &[Append], first: RecordNumber, segment: SegmentNumber) {
        let mut pending = self.pending.borrow_mut();
        let mut state = self.log.state.borrow_mut();
        for (append, number) in batch.iter().zip(first.0..) {
            let number = RecordNumber(number);
            put_record(&mut pending, append.block, number, &append.body);
            *state.charges.entry(segment).or_default() += append.charge_bytes;
        }
        self.log.appended_at.set(self.pool.runtime.now());
    }

    fn answer(&self, batch: impl IntoIterator<Item = Append>, result: Result<(), IoError>) {
        for append in batch {
            if result.is_err() {
                self.credit.give_back(append.charge_bytes);
            }
            // A writer that went away doesn't matter: its write has happened.
            let _ = append.done.send(result);
        }
    }

    /// Brings records into the log; tells the first one's number and their segment.
    pub(crate) async fn write_bodies(
        self: &Rc<Self>,
        bodies: &[RecordBody],
    ) -> Result<(RecordNumber, SegmentNumber), Ended> {
        let bytes = bodies.iter().map(|body| body.encoded_len() as u64).sum::<u64>();
        let bytes = bytes.next_multiple_of(BLOCK_BYTES as u64);
        loop {
            let current = self.segment_with_room(bytes).await?;
            let (tail, witness) = {
                let state = self.log.state.borrow();
                let tail = LogTail {
                    segment: current.segment.seal(),
                    after: current.after,
                    next: state.next,
                    previous_crc: state.previous_crc,
                };
                let witness = Stamp {
                    durable: state.durable,
                    acknowledged: state.durable,
                    metadata: self.pool.area.borrow().committed(),
                    configuration: self.pool.config.borrow().number,
                };
                (tail, witness)
            };
            // Sealed here, once for this segment: all copies and repetitions get the same bytes.
            let batch = encode_batch(tail, witness, bodies);
            let written = self.write_copies(&current.segment, current.at, batch.bytes).await?;
            let mut state = self.log.state.borrow_mut();
            let Some(open) = state.current.as_mut() else { continue };
            match written {
                Written::Nowhere => open.given_up = true,
                Written::Everywhere => {
                    open.at += bytes;
                    state.next = batch.tail.next;
                    state.previous_crc = batch.tail.previous_crc;
                    state.durable = batch.numbers.1;
                    state.witnessed = witness.durable;
                    if bodies.iter().any(|body| *body != RecordBody::Mark) {
                        state.content = state.durable;
                    }
                    return Ok((batch.numbers.0, current.segment.number));
                }
            }
        }
    }

    async fn segment_with_room(self: &Rc<Self>, bytes: u64) -> Result<Current, Ended> {
        loop {
            let current = self.log.state.borrow().current.clone();
            let current = current.filter(|c| !c.given_up && c.at + bytes <= c.bytes);
            if let Some(current) = current.filter(|c| !self.is_over(&c.segment)) {
                return Ok(current);
            }
            let segment = self.switch_segment().await?;
            let header = self.segment_header(&segment);
            let bytes = u64::from(header.blocks) * BLOCK_BYTES as u64;
            let written = self.write_copies(&segment, 0, header.encode()).await?;
            let next = self.log.state.borrow().next;
            let current = Current {
                segment,
                after: RecordNumber(next.0.saturating_sub(1)),
                at: SEGMENT_HEADER_BYTES as u64,
                bytes,
                given_up: matches!(written, Written::Nowhere),
            };
            self.log.state.borrow_mut().current = Some(current);
        }
    }

    /// The header that a segment of this volume has.
    pub(crate) fn segment_header(&self, segment: &Segment) -> SegmentHeader {
        let extents = segment.copies.first().map_or(0, |copy| copy.extents.count);
        let bytes = u64::from(extents) * self.pool.shape().extent_bytes();
        SegmentHeader {
            volume: self.id,
            blocks: (bytes / BLOCK_BYTES as u64) as u32,
            number: segment.number,
            epoch: segment.epoch,
            generation: segment.generation,
        }
    }

    /// The copies of a segment that are current now.
    fn copies_of(&self, segment: &Segment) -> Vec<SegmentCopyPlace> {
        let meta = self.pool.meta.borrow();
        let volume = meta.volumes().get(&self.id);
        let live = volume.and_then(|volume| volume.log.segments.get(&segment.number));
        let copies = live.map_or(&[][..], |live| live.copies.as_slice());
        copies.iter().filter(|copy| !self.pool.is_out(copy.disk)).copied().collect()
    }

    /// Writes the same bytes to every current copy of a segment, durably.
    async fn write_copies(
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
        for (disk, error) in refusing {
            self.note_refusal(disk);
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

/// Puts what a durable record says where readers and destaging look.
pub(crate) fn put_record(
    pending: &mut super::pending::Pending,
    block: u64,
    number: RecordNumber,
    body: &RecordBody,
) {
    match body {
        RecordBody::Data { rows, checksums, payload } => {
            pending.put(block, u64::from(rows.count), number, Some((payload, checksums)));
        }
        RecordBody::Zero { rows, .. } => pending.put(block, u64::from(rows.count), number, None),
        RecordBody::Lost { rows, checksums } => {
            pending.put_lost(block, rows.count, number, checksums)
        }
        RecordBody::Mark => {}
    }
}
