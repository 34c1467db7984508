//! The block device that front ends see of a volume.
//!
//! A request takes its place in line, and a write its turn for log room, when it is **called**; the
//! rest runs in a task of its own, so that dropping the future doesn't leave a write half done with
//! its range unlocked.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use block::{
    Access, Answer, BLOCK_BYTES, BLOCK_SECTORS, BlockDevice, Buffer, Completion, DeviceEvent, Done,
    DurabilityClass, Geometry, Instance, IoError, Lba, Operation, Place, SECTOR_BYTES, SectorRange,
};
use futures::future::{LocalBoxFuture, join_all};
use futures::{FutureExt, TryFutureExt};

use super::Volume;
use super::write::{Change, ZERO_CHARGE_BYTES};
use crate::engine::measure::Stopwatch;
use crate::engine::pool::ended_error;
use crate::layout::VolumeBlock;
use crate::stats::{Kind, Stage};

/// Largest transfer of a volume.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Blocks that one record of zeros may cover: what it costs in memory is charged to the log's room.
const ZERO_BLOCKS_MAX: u64 = 16 << 10;

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
    fn spawn(
        &self,
        request: Stopwatch,
        done: Done,
        work: impl Future<Output = Result<Answer, IoError>> + 'static,
    ) {
        let (instance, volume) = (self.instance(), Rc::clone(&self.volume));
        let told = move |result: Result<Answer, IoError>| {
            volume.end_request(request, result.is_ok());
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
        request: Stopwatch,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let volume = Rc::clone(&self.volume);
        let blocks = block_range(range);
        let count = blocks.end - blocks.start;
        let room = match change {
            // Headers: a record for each stripe unit at worst, padded.
            Change::Data(_) => {
                let pieces = volume.stripes.pieces(VolumeBlock(blocks.start), count);
                let room: u64 = pieces.map(|piece| volume.room_blocks(&piece)).sum();
                room * BLOCK_BYTES as u64
            }
            Change::Zero { .. } => {
                let pieces = volume.stripes.pieces(VolumeBlock(blocks.start), count).count() as u64;
                (pieces + 4) * BLOCK_BYTES as u64 + count * ZERO_CHARGE_BYTES
            }
        };
        let place = volume.line.enter(Access::Write(blocks_around(range)));
        let turn = volume.credit.line_up(room);
        volume.log.destaging.notify_all();
        volume.write(range, change, place, turn, request)
    }

    /// Zeroes whole blocks that nobody sees, since they are beyond the end.
    pub(crate) fn zero_unseen(
        &self,
        range: SectorRange,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let request = self.volume.begin_request(Kind::Discard, range.len_bytes());
        let (volume, zeroed) = (Rc::clone(&self.volume), self.zeroed(range, true, request));
        async move {
            let zeroed = zeroed.await;
            volume.end_request(request, zeroed.is_ok());
            zeroed
        }
    }

    fn zero(&self, range: SectorRange, discard: bool, request: Stopwatch, done: Done) {
        let zeroed = self.zeroed(range, discard, request);
        self.spawn(request, done, zeroed.map_ok(|()| Answer::Done));
    }

    /// Zeros of any length go as several changes, each with its own place and turn.
    fn zeroed(
        &self,
        range: SectorRange,
        discard: bool,
        request: Stopwatch,
    ) -> impl Future<Output = Result<(), IoError>> + 'static {
        let most = ZERO_BLOCKS_MAX * BLOCK_SECTORS;
        let mut changes = Vec::new();
        let mut at = range.start.0;
        while at < range.end().0 {
            let end = ((at / most + 1) * most).min(range.end().0);
            let part = SectorRange::new(Lba(at), end - at);
            changes.push(self.change(part, Change::Zero { discard }, request));
            at = end;
        }
        join_all(changes).map(|zeroed| zeroed.into_iter().collect())
    }
}

impl BlockDevice for VolumeDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.volume.size_bytes.get() / SECTOR_BYTES as u64,
            physical_block_bytes: BLOCK_BYTES as u32,
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            read_only: self.volume.pool.read_only,
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
        if self.volume.pool.read_only && operation.changes_sectors() {
            return done(Err(IoError::ReadOnly));
        }
        let volume = Rc::clone(&self.volume);
        let begin = |kind| self.volume.begin_request(kind, range.len_bytes());
        match operation {
            Operation::Read(_) => {
                let blocks = block_range(range);
                let place = volume.line.enter(Access::Read(blocks_around(range)));
                let request = begin(Kind::Read);
                let reading = volume.read(range, blocks, place, request);
                self.spawn(request, done, reading.map_ok(Answer::Data));
            }
            Operation::Write { data, .. } if data.is_empty() => {
                done(Ok(Completion::new(self.instance(), Answer::Done)));
            }
            Operation::Write { data, .. } => {
                let request = begin(Kind::Write);
                let change = self.change(range, Change::Data(data), request);
                self.spawn(request, done, change.map_ok(|()| Answer::Done));
            }
            Operation::WriteZeroes { .. } => self.zero(range, false, begin(Kind::Write), done),
            Operation::Discard(_) => self.zero(range, true, begin(Kind::Discard), done),
            // Everything that was answered is durable: only a barrier, without I/O.
            Operation::Flush(instance) if instance == self.instance() => {
                self.spawn(begin(Kind::Flush), done, async move {
                    volume.wait_serving().await?;
                    volume.may_answer().await.map(|()| Answer::Done)
                });
            }
            Operation::Flush(_) => done(Err(IoError::Restarted { now: self.instance() })),
            Operation::Claim(_) | Operation::Renew | Operation::AskHealth => {
                done(Err(IoError::Unsupported))
            }
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

impl Volume {
    async fn read(
        self: Rc<Self>,
        range: SectorRange,
        blocks: Range<u64>,
        place: Place,
        mut request: Stopwatch,
    ) -> Result<Buffer, IoError> {
        self.wait_serving().await?;
        place.turn().await;
        self.end_stage(&mut request, Stage::Queue);
        let reading = self.read_blocks(blocks.start, blocks.end - blocks.start);
        let data = self.pool.unless_over(reading).await;
        let data = data.map_err(|ended| ended_error(&self.pool, ended))??;
        self.end_stage(&mut request, Stage::Device);
        self.may_answer().await?;
        let skip = (range.start.0 - blocks.start * BLOCK_SECTORS) as usize * SECTOR_BYTES;
        Ok(data.slice(skip, skip + range.len_bytes() as usize))
    }
}

/// The blocks that sectors lie in.
pub(super) fn block_range(range: SectorRange) -> Range<u64> {
    range.start.0 / BLOCK_SECTORS..range.end().0.div_ceil(BLOCK_SECTORS)
}

/// All sectors of the blocks that a range touches.
fn blocks_around(range: SectorRange) -> SectorRange {
    let blocks = block_range(range);
    SectorRange::new(Lba(blocks.start * BLOCK_SECTORS), (blocks.end - blocks.start) * BLOCK_SECTORS)
}
