//! A volume of an open pool, and the block device that front ends see of it.
//!
//! A request takes its place in line, and a write its turn for log room, when it is **called**; the
//! rest runs in a task of its own, so that dropping the future doesn't leave a write half done with
//! its range unlocked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use block::{
    Access, Answer, BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, BufferMut, Completion,
    DeviceEvent, Done, DurabilityClass, Geometry, Instance, IoError, Lba, Line, Operation, Place,
    SECTOR_BYTES, SectorRange,
};
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, join_all};
use futures::{FutureExt, TryFutureExt};
use runtime::{Notify, Semaphore};

use super::checksums::Checksums;
use super::credit::{Credit, Turn};
use super::lease::Ended;
use super::log::{Append, Log};
use super::pending::Pending;
use super::pool::{Pool, ended_error};
use super::segment::LogShape;
use crate::format::{BirthId, RecordBody, Row, RowRange, VolumeId};
use crate::layout::{StripeLayout, VolumeBlock};
use crate::report::{PoolEvent, Replayed};

/// Largest transfer of a volume.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Blocks that one record of zeros may cover: what it costs in memory is charged to the log's room.
const ZERO_BLOCKS_MAX: u64 = 16 << 10;
/// Log room charged per block of a record of zeros, for the memory that it takes until destaged.
const ZERO_CHARGE_BYTES: u64 = 128;

/// Whether a volume serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Its log is being replayed.
    Opening,
    /// It waits for something.
    Suspended(String),
    /// It serves.
    Yes,
    /// It was removed.
    Gone,
}

/// A volume of an open pool.
pub(crate) struct Volume {
    pub(crate) pool: Rc<Pool>,
    pub(crate) id: VolumeId,
    pub(crate) name: String,
    pub(crate) stripes: StripeLayout,
    pub(crate) log_shape: LogShape,
    /// Only the newest write of a block can be unacknowledged. Destaging takes no place here: it moves what
    /// is already acknowledged, so a request may hold its place while it waits for log credit.
    line: Rc<Line>,
    pub(crate) credit: Rc<Credit>,
    pub(crate) pending: RefCell<Pending>,
    pub(crate) log: Log,
    pub(crate) checksums: Checksums,
    /// One destage at a time.
    pub(crate) destaging: Rc<Semaphore>,
    pub(crate) size_bytes: Cell<u64>,
    serving: RefCell<Serving>,
    pub(crate) changed: Notify,
    pub(crate) repairing: RefCell<BTreeSet<(BirthId, Row, usize)>>,
    pub(crate) repaired_blocks: Cell<u64>,
    pub(crate) resynced_bytes: Cell<u64>,
    pub(crate) replayed: Cell<Replayed>,
    /// Counts reads of members.
    pub(crate) reads: Cell<u32>,
    /// Bytes that readers and writers asked for.
    pub(crate) read_bytes: Cell<u64>,
    pub(crate) written_bytes: Cell<u64>,
}

impl Volume {
    /// The volume with this id of an open pool's metadata; it doesn't serve yet.
    pub(crate) fn new(pool: &Rc<Pool>, id: VolumeId) -> Option<Rc<Volume>> {
        let meta = pool.meta.borrow();
        let volume = meta.volumes().get(&id)?;
        let log_shape = LogShape::of(&meta);
        Some(Rc::new(Volume {
            pool: Rc::clone(pool),
            id,
            name: volume.name.clone(),
            stripes: volume.stripes(meta.shape())?,
            log_shape,
            line: Line::new(usize::MAX),
            credit: Credit::new(log_shape.credit_bytes()),
            pending: RefCell::default(),
            log: Log::new(),
            checksums: Checksums::new(pool.limits.checksum_blocks),
            destaging: Semaphore::new(1),
            size_bytes: Cell::new(volume.bytes),
            serving: RefCell::new(Serving::Opening),
            changed: Notify::new(),
            repairing: RefCell::default(),
            repaired_blocks: Cell::new(0),
            resynced_bytes: Cell::new(0),
            replayed: Cell::default(),
            reads: Cell::new(0),
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
        }))
    }

    pub(crate) fn serving(&self) -> Serving {
        self.serving.borrow().clone()
    }

    /// Changes whether it serves, and tells. What is gone stays gone, whatever its opening finds.
    pub(crate) fn set_serving(&self, serving: Serving) {
        if *self.serving.borrow() == serving || self.is_gone() {
            return;
        }
        let (pool, volume) = (self.pool.name.clone(), self.name.clone());
        match &serving {
            Serving::Yes => {
                let replayed = self.replayed.get();
                self.pool.events.tell(PoolEvent::VolumeServing { pool, volume, replayed });
            }
            Serving::Suspended(reason) => {
                let reason = reason.clone();
                self.pool.events.tell(PoolEvent::VolumeSuspended { pool, volume, reason });
            }
            Serving::Opening | Serving::Gone => {}
        }
        *self.serving.borrow_mut() = serving;
        self.changed.notify_all();
    }

    /// Ends the volume's tasks.
    pub(crate) fn stop(&self) {
        self.log.wake_all();
        self.pool.changed.notify_all();
    }

    /// As [`Pool::wait_for_change`], for what the volume itself does: its removal waits for no member.
    pub(crate) async fn wait_for_change(&self) -> Result<(), Ended> {
        if self.is_gone() {
            return Err(Ended::Closed);
        }
        self.pool.wait_for_change().await
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.serving.borrow() == Serving::Gone
    }

    /// Waits until the volume serves.
    pub(crate) async fn wait_serving(&self) -> Result<(), IoError> {
        loop {
            let changed = self.changed.notified();
            match &*self.serving.borrow() {
                Serving::Yes => return Ok(()),
                Serving::Gone => return Err(IoError::Lost),
                Serving::Opening | Serving::Suspended(_) => {}
            }
            let waited = self.pool.unless_over(changed).await;
            waited.map_err(|ended| ended_error(&self.pool, ended))?;
        }
    }

    /// The right to answer: waits for the lease. Who was stopped since this turn began, for longer than
    /// the lease runs, mustn't answer by the time that it was then.
    async fn may_answer(&self) -> Result<(), IoError> {
        if self.pool.lease.holds(self.pool.runtime.look_at_clock()) {
            return Ok(());
        }
        let lease = self.pool.lease.wait(&self.pool.runtime).await;
        lease.map_err(|ended| ended_error(&self.pool, ended))
    }

    async fn read(
        self: Rc<Self>,
        range: SectorRange,
        blocks: Range<u64>,
        place: Place,
    ) -> Result<Buffer, IoError> {
        self.wait_serving().await?;
        place.turn().await;
        let reading = self.read_blocks(blocks.start, blocks.end - blocks.start);
        let data = self.pool.unless_over(reading).await;
        let data = data.map_err(|ended| ended_error(&self.pool, ended))??;
        self.may_answer().await?;
        self.read_bytes.set(self.read_bytes.get() + range.len_bytes());
        let skip = (range.start.0 - blocks.start * BLOCK_SECTORS) as usize * SECTOR_BYTES;
        Ok(data.slice(skip, skip + range.len_bytes() as usize))
    }

    /// Writes `data` (zeros without data), of which the places are already in line.
    async fn write(
        self: Rc<Self>,
        range: SectorRange,
        data: Change,
        place: Place,
        turn: Turn,
    ) -> Result<(), IoError> {
        let room = self.pool.unless_over(turn.take()).await;
        let room = room.map_err(|ended| ended_error(&self.pool, ended))?;
        let mut room = Room { volume: &self, bytes: room };
        self.wait_serving().await?;
        place.turn().await;
        let bodies = self.bodies_for(range, data).await?;
        let appended = self.append(bodies, &mut room);
        for done in join_all(appended).await {
            // A sender that was dropped is a log that ended without an answer.
            done.unwrap_or(Err(IoError::Lost))?;
        }
        self.written_bytes.set(self.written_bytes.get() + range.len_bytes());
        self.may_answer().await
    }

    /// The records for a change of `range`; edges that aren't whole blocks are read first.
    async fn bodies_for(
        self: &Rc<Self>,
        range: SectorRange,
        data: Change,
    ) -> Result<Vec<(u64, RecordBody)>, IoError> {
        let blocks = block_range(range);
        let whole = range.start.0.is_multiple_of(BLOCK_SECTORS)
            && range.count.is_multiple_of(BLOCK_SECTORS);
        let mut bodies = Vec::new();
        match data {
            Change::Data(data) if whole => self.data_bodies(blocks.start, &data, &mut bodies)?,
            Change::Data(data) => {
                let merged = self.merge_edges(range, |window, offset| {
                    window.copy_from_slice(&data[offset..offset + window.len()]);
                });
                self.data_bodies(blocks.start, &merged.await?, &mut bodies)?;
            }
            Change::Zero { discard } => {
                let inner = whole_blocks(range);
                for edge in [
                    SectorRange::new(range.start, inner.start.0.min(range.end().0) - range.start.0),
                    SectorRange::new(
                        inner.end().max(range.start),
                        range.end().0.saturating_sub(inner.end().max(range.start).0),
                    ),
                ] {
                    if edge.count > 0 && !discard {
                        let merged = self.merge_edges(edge, |window, _| window.fill(0)).await?;
                        self.data_bodies(block_range(edge).start, &merged, &mut bodies)?;
                    }
                }
                self.zero_bodies(inner, discard, &mut bodies)?;
            }
        }
        Ok(bodies)
    }

    /// The blocks that `range` lies in, as they are, with its own part changed by `change` (given the
    /// window to change and its offset in the range).
    async fn merge_edges(
        self: &Rc<Self>,
        range: SectorRange,
        change: impl FnOnce(&mut [u8], usize),
    ) -> Result<Buffer, IoError> {
        let blocks = block_range(range);
        let reading = self.read_blocks(blocks.start, blocks.end - blocks.start);
        let before = self.pool.unless_over(reading).await;
        let before = before.map_err(|ended| ended_error(&self.pool, ended))??;
        let mut merged: BufferMut = before.into_mut();
        let skip = (range.start.0 - blocks.start * BLOCK_SECTORS) as usize * SECTOR_BYTES;
        change(&mut merged[skip..skip + range.len_bytes() as usize], 0);
        Ok(merged.freeze())
    }

    fn data_bodies(
        &self,
        first: u64,
        data: &Buffer,
        bodies: &mut Vec<(u64, RecordBody)>,
    ) -> Result<(), IoError> {
        let count = (data.len() / BLOCK_BYTES) as u64;
        for piece in self.stripes.pieces(VolumeBlock(first), count) {
            let birth = self.birth_at(piece.at)?;
            let mut done = 0;
            while done < piece.count {
                let rows = (piece.count - done).min(self.log_shape.record_rows);
                let block = piece.block.0 + u64::from(done);
                let start = (block - first) as usize * BLOCK_BYTES;
                let payload = data.slice(start, start + rows as usize * BLOCK_BYTES);
                let row = Row(piece.at.row.0 + done);
                bodies.push((block, RecordBody::data(birth, row, payload)));
                done += rows;
            }
        }
        Ok(())
    }

    fn zero_bodies(
        &self,
        range: SectorRange,
        discard: bool,
        bodies: &mut Vec<(u64, RecordBody)>,
    ) -> Result<(), IoError> {
        let first = range.start.0 / BLOCK_SECTORS;
        for piece in self.stripes.pieces(VolumeBlock(first), range.count / BLOCK_SECTORS) {
            let block = piece.block.0;
            let count = u64::from(piece.count);
            let group = self.pool.group_at(self.id, piece.at).ok_or(out_of_range(block, count))?;
            let nothing_there = !group.initialised
                && self.pending.borrow().range(block..block + count).next().is_none();
            if !nothing_there {
                let rows = RowRange { group: group.birth, first: piece.at.row, count: piece.count };
                bodies.push((block, RecordBody::Zero { rows, discard }));
            }
        }
        Ok(())
    }

    fn birth_at(&self, at: crate::layout::RowAddress) -> Result<BirthId, IoError> {
        let group = self.pool.group_at(self.id, at);
        Ok(group.ok_or(IoError::OutOfRange(SectorRange::default()))?.birth)
    }

    /// Queues records, which take over the room that was taken for them.
    fn append(
        &self,
        bodies: Vec<(u64, RecordBody)>,
        room: &mut Room<'_>,
    ) -> Vec<oneshot::Receiver<Result<(), IoError>>> {
        let last = bodies.len().saturating_sub(1);
        let mut receivers = Vec::with_capacity(bodies.len());
        for (index, (block, body)) in bodies.into_iter().enumerate() {
            let share = charge_of(&body).min(room.bytes);
            let charge_bytes = if index == last { room.bytes } else { share };
            room.bytes -= charge_bytes;
            let (done, receiver) = oneshot::channel();
            self.log.append(Append { body, block, charge_bytes, done });
            receivers.push(receiver);
        }
        receivers
    }
}

/// What a write brings.
enum Change {
    Data(Buffer),
    Zero { discard: bool },
}

/// Log room that was taken and not given to a record yet.
struct Room<'a> {
    volume: &'a Volume,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.volume.credit.give_back(self.bytes);
        }
    }
}

/// Room that a record takes: as if it were alone in its batch.
fn charge_of(body: &RecordBody) -> u64 {
    let zeros = match body {
        RecordBody::Zero { rows, .. } => u64::from(rows.count) * ZERO_CHARGE_BYTES,
        _ => 0,
    };
    (body.encoded_len() as u64).next_multiple_of(BLOCK_BYTES as u64) + zeros
}

/// The blocks that sectors lie in.
fn block_range(range: SectorRange) -> Range<u64> {
    range.start.0 / BLOCK_SECTORS..range.end().0.div_ceil(BLOCK_SECTORS)
}

/// All sectors of the blocks that a range touches.
fn blocks_around(range: SectorRange) -> SectorRange {
    let blocks = block_range(range);
    SectorRange::new(Lba(blocks.start * BLOCK_SECTORS), (blocks.end - blocks.start) * BLOCK_SECTORS)
}

/// The whole blocks within sectors.
fn whole_blocks(range: SectorRange) -> SectorRange {
    let start = range.start.0.next_multiple_of(BLOCK_SECTORS);
    let end = range.end().0 / BLOCK_SECTORS * BLOCK_SECTORS;
    SectorRange::new(Lba(start), end.saturating_sub(start))
}

fn out_of_range(block: u64, count: u64) -> IoError {
    IoError::OutOfRange(super::read::sectors_of(block, count))
}

/// What a front end holds of a volume.
pub(crate) struct VolumeDevice {
    volume: Rc<Volume>,
    seen_bytes: Rc<Cell<u64>>,
}

impl VolumeDevice {
    pub(crate) fn new(volume: Rc<Volume>) -> VolumeDevice {
        let seen_bytes = Rc::new(Cell::new(volume.size_bytes.get()));
        VolumeDevice { volume, seen_bytes }
    }

    fn instance(&self) -> Instance {
        Instance(self.volume.pool.epoch.0)
    }

    /// Runs a request beside its caller, who may go away: the work is done all the same.
    fn spawn(&self, done: Done, work: impl Future<Output = Result<Answer, IoError>> + 'static) {
        let instance = self.instance();
        let told = move |result: Result<Answer, IoError>| {
            done(result.map(|answer| Completion::new(instance, answer)));
        };
        self.volume.pool.runtime.spawn(work.map(told));
    }

    fn fits(&self, range: SectorRange) -> bool {
        range.fits(self.volume.size_bytes.get() / SECTOR_BYTES as u64)
    }

    /// A change with its place in the order of the volume's requests, and its turn for room in the log.
    fn change(
        &self,
        range: SectorRange,
        change: Change,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let volume = Rc::clone(&self.volume);
        let blocks = block_range(range);
        let count = blocks.end - blocks.start;
        let room = match change {
            // Headers: a record for each stripe unit at worst, padded.
            Change::Data(_) => {
                let records = volume.stripes.pieces(VolumeBlock(blocks.start), count);
                let records: u64 = records
                    .map(|piece| u64::from(piece.count.div_ceil(volume.log_shape.record_rows)))
                    .sum();
                (count + records) * BLOCK_BYTES as u64
            }
            Change::Zero { .. } => {
                let pieces = volume.stripes.pieces(VolumeBlock(blocks.start), count).count() as u64;
                (pieces + 4) * BLOCK_BYTES as u64 + count * ZERO_CHARGE_BYTES
            }
        };
        let place = volume.line.enter(Access::Write(blocks_around(range)));
        let turn = volume.credit.line_up(room);
        volume.log.destaging.notify_all();
        volume.write(range, change, place, turn)
    }

    /// Zeros of any length go as several changes, each with its own place and turn.
    fn zero(&self, range: SectorRange, discard: bool, done: Done) {
        let most = ZERO_BLOCKS_MAX * BLOCK_SECTORS;
        let mut changes = Vec::new();
        let mut at = range.start.0;
        while at < range.end().0 {
            let end = ((at / most + 1) * most).min(range.end().0);
            let part = SectorRange::new(Lba(at), end - at);
            changes.push(self.change(part, Change::Zero { discard }));
            at = end;
        }
        self.spawn(done, async move {
            let zeroed: Result<(), IoError> = join_all(changes).await.into_iter().collect();
            zeroed.map(|()| Answer::Done)
        });
    }
}

impl BlockDevice for VolumeDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.volume.size_bytes.get() / SECTOR_BYTES as u64,
            physical_block_bytes: BLOCK_BYTES as u32,
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            read_only: false,
            class: DurabilityClass::Durable,
        }
    }

    fn submit(&self, operation: Operation, done: Done) {
        let range = operation.range();
        let moves = matches!(operation, Operation::Read(_) | Operation::Write { .. });
        let is_whole = match &operation {
            Operation::Write { data, .. } => data.len().is_multiple_of(SECTOR_BYTES),
            _ => true,
        };
        let is_too_long = moves && range.len_bytes() > u64::from(TRANSFER_BYTES_MAX);
        if !is_whole || is_too_long || !self.fits(range) {
            return done(Err(IoError::OutOfRange(range)));
        }
        let volume = Rc::clone(&self.volume);
        match operation {
            Operation::Read(_) => {
                let blocks = block_range(range);
                let place = volume.line.enter(Access::Read(blocks_around(range)));
                self.spawn(done, volume.read(range, blocks, place).map_ok(Answer::Data));
            }
            Operation::Write { data, .. } if data.is_empty() => {
                done(Ok(Completion::new(self.instance(), Answer::Done)));
            }
            Operation::Write { data, .. } => {
                let change = self.change(range, Change::Data(data));
                self.spawn(done, change.map_ok(|()| Answer::Done));
            }
            Operation::WriteZeroes { .. } => self.zero(range, false, done),
            Operation::Discard(_) => self.zero(range, true, done),
            // Everything that was answered is durable: only a barrier, without I/O.
            Operation::Flush(instance) if instance == self.instance() => {
                self.spawn(done, async move {
                    volume.wait_serving().await?;
                    volume.may_answer().await.map(|()| Answer::Done)
                });
            }
            Operation::Flush(_) => done(Err(IoError::Restarted { now: self.instance() })),
            Operation::Claim(_) | Operation::Renew => done(Err(IoError::Unsupported)),
        }
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        let (volume, seen) = (Rc::clone(&self.volume), Rc::clone(&self.seen_bytes));
        async move {
            loop {
                let changed = volume.changed.notified();
                if volume.size_bytes.get() != seen.replace(volume.size_bytes.get()) {
                    return DeviceEvent::Resized;
                }
                if volume.is_gone() || volume.pool.lease.ended().is_some() {
                    return futures::future::pending().await;
                }
                if volume.pool.unless_over(changed).await.is_err() {
                    return DeviceEvent::Lost;
                }
            }
        }
        .boxed_local()
    }
}
