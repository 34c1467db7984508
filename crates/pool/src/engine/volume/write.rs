//! The write path: what a change is as records, and their way into the log.

use std::rc::Rc;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, Buffer, BufferMut, IoError, Lba, Place, SECTOR_BYTES, SectorRange,
};
use futures::channel::oneshot;
use futures::future::{join, join_all};
use runtime::Permit;

use super::Volume;
use super::credit::Turn;
use super::device::block_range;
use super::in_place::{InPlace, UNDER_WAY_MAX};
use super::log::Append;
use crate::engine::measure::Stopwatch;
use crate::engine::pool::ended_error;
use crate::format::{GenerationId, RecordBody, RecordNumber, Row, RowRange};
use crate::layout::{Piece, VolumeBlock};
use crate::stats::Stage;

/// Log room charged per block of a record of zeros, for the memory that it takes until destaged.
pub(super) const ZERO_CHARGE_BYTES: u64 = 128;

/// What a change is: records, and what goes in place.
#[derive(Default)]
struct Parts {
    bodies: Vec<(u64, RecordBody)>,
    in_place: Vec<(InPlace, u64)>,
}

/// What a write brings.
pub(super) enum Change {
    Data(Buffer),
    Zero { discard: bool },
}

impl Volume {
    /// Writes `data` (zeros without data), of which the places are already in line.
    pub(super) async fn write(
        self: Rc<Self>,
        range: SectorRange,
        data: Change,
        place: Place,
        turn: Turn,
        mut request: Stopwatch,
    ) -> Result<(), IoError> {
        let room = self.while_there(turn.take()).await?;
        let mut room = Room { volume: &self, bytes: room };
        self.end_stage(&mut request, Stage::Room);
        self.wait_serving().await?;
        place.turn().await;
        self.end_stage(&mut request, Stage::Queue);
        let reads_edges = !is_whole(range) && !matches!(data, Change::Zero { discard: true });
        let Parts { bodies, in_place } = self.parts_of(range, data).await?;
        if reads_edges {
            self.end_stage(&mut request, Stage::Device);
        }
        // Zeros where nothing was need no record.
        let waits_for_log = !bodies.is_empty() || !in_place.is_empty();
        let in_place: Vec<_> = in_place
            .into_iter()
            .map(|(piece, blocks)| {
                let room = room.part(blocks * BLOCK_BYTES as u64);
                self.write_in_place(piece, room)
            })
            .collect();
        let appended = self.append(bodies, &mut room);
        let (appended, in_place) = join(join_all(appended), join_all(in_place)).await;
        for done in appended {
            // A sender that was dropped is a log that ended without an answer.
            done.unwrap_or(Err(IoError::Lost))?;
        }
        in_place.into_iter().collect::<Result<(), IoError>>()?;
        if waits_for_log {
            self.end_stage(&mut request, Stage::Log);
        }
        self.may_answer().await
    }

    /// The records for a change of `range`, and what of it goes in place; edges that aren't whole blocks are
    /// read first.
    async fn parts_of(self: &Rc<Self>, range: SectorRange, data: Change) -> Result<Parts, IoError> {
        let blocks = block_range(range);
        let mut parts = Parts::default();
        let bodies = &mut parts.bodies;
        match data {
            Change::Data(data) if is_whole(range) => {
                self.whole_blocks(blocks.start, &data, &mut parts).await?;
            }
            Change::Data(data) => {
                let merged = self.merge_edges(range, |window, offset| {
                    window.copy_from_slice(&data[offset..offset + window.len()]);
                });
                self.data_bodies(blocks.start, &merged.await?, bodies)?;
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
                        self.data_bodies(block_range(edge).start, &merged, bodies)?;
                    }
                }
                self.zero_bodies(inner, discard, bodies)?;
            }
        }
        Ok(parts)
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

    /// What was written as whole blocks: each piece in place, or as records.
    async fn whole_blocks(
        &self,
        first: u64,
        data: &Buffer,
        parts: &mut Parts,
    ) -> Result<(), IoError> {
        let count = (data.len() / BLOCK_BYTES) as u64;
        let group_of = |piece: &Piece| {
            let group = self.pool.group_at(self.id, piece.at);
            group.ok_or(out_of_range(piece.block.0, u64::from(piece.count)))
        };
        let mut in_place = 0;
        for piece in self.stripes.pieces(VolumeBlock(first), count) {
            let group = group_of(&piece)?;
            if self.is_for_place(&piece, &group) {
                self.want_initialised(&group);
            }
            if self.way_in_place(&piece, &group).is_some() {
                in_place += u64::from(piece.count);
            }
        }
        // For all of them at once, and before any lock: who holds a part might wait for who waits for it.
        let turn = match in_place {
            0 => None,
            blocks => {
                let turn = self.placing.acquire(blocks.min(UNDER_WAY_MAX));
                Some(Rc::new(self.while_there(turn).await?))
            }
        };
        for piece in self.stripes.pieces(VolumeBlock(first), count) {
            let group = group_of(&piece)?;
            let contents = contents_of(&piece, first, data);
            let place = |turn: &Rc<Permit>| self.try_in_place(&piece, &group, &contents, turn);
            match turn.as_ref().and_then(place) {
                Some(write) => parts.in_place.push((write, self.room_blocks(&piece))),
                None => self.records_of(&piece, group.generation, &contents, &mut parts.bodies),
            }
        }
        Ok(())
    }

    fn data_bodies(
        &self,
        first: u64,
        data: &Buffer,
        bodies: &mut Vec<(u64, RecordBody)>,
    ) -> Result<(), IoError> {
        let count = (data.len() / BLOCK_BYTES) as u64;
        for piece in self.stripes.pieces(VolumeBlock(first), count) {
            let generation = self.generation_at(piece.at)?;
            self.records_of(&piece, generation, &contents_of(&piece, first, data), bodies);
        }
        Ok(())
    }

    /// The records of a piece with these contents.
    pub(super) fn records_of(
        &self,
        piece: &Piece,
        generation: GenerationId,
        contents: &Buffer,
        bodies: &mut Vec<(u64, RecordBody)>,
    ) {
        let mut done = 0;
        while done < piece.count {
            let rows = (piece.count - done).min(self.log_shape.record_rows);
            let start = done as usize * BLOCK_BYTES;
            let payload = contents.slice(start, start + rows as usize * BLOCK_BYTES);
            let row = Row(piece.at.row.0 + done);
            let block = piece.block.0 + u64::from(done);
            bodies.push((block, RecordBody::data(generation, row, payload)));
            done += rows;
        }
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
                let rows =
                    RowRange { group: group.generation, first: piece.at.row, count: piece.count };
                bodies.push((block, RecordBody::Zero { rows, discard }));
            }
        }
        Ok(())
    }

    fn generation_at(&self, at: crate::layout::RowAddress) -> Result<GenerationId, IoError> {
        let group = self.pool.group_at(self.id, at);
        Ok(group.ok_or(IoError::OutOfRange(SectorRange::default()))?.generation)
    }

    /// Queues records, which take over the room that was taken for them.
    pub(super) fn append(
        &self,
        bodies: Vec<(u64, RecordBody)>,
        room: &mut Room<'_>,
    ) -> Vec<oneshot::Receiver<Result<RecordNumber, IoError>>> {
        let last = bodies.len().saturating_sub(1);
        let mut receivers = Vec::with_capacity(bodies.len());
        self.append_all(bodies.into_iter().enumerate().map(|(index, (block, body))| {
            let charge_bytes = room.take(if index == last { u64::MAX } else { charge_of(&body) });
            let (done, receiver) = oneshot::channel();
            receivers.push(receiver);
            Append { body, block, charge_bytes, done: Some(done) }
        }));
        receivers
    }
}

/// Log room that was taken and not given to a record yet.
pub(super) struct Room<'a> {
    volume: &'a Volume,
    bytes: u64,
}

impl<'a> Room<'a> {
    /// So much of it, for a record.
    pub(super) fn take(&mut self, bytes: u64) -> u64 {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        taken
    }

    /// So much of it by itself.
    fn part(&mut self, bytes: u64) -> Room<'a> {
        Room { volume: self.volume, bytes: self.take(bytes) }
    }

    /// All of it, which is no longer given back.
    pub(super) fn keep(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
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
    (body.encoded_len() as u64).next_multiple_of(BLOCK_BYTES as u64) + zeros_charge(body)
}

fn zeros_charge(body: &RecordBody) -> u64 {
    match body {
        RecordBody::Zero { rows, .. } => u64::from(rows.count) * ZERO_CHARGE_BYTES,
        _ => 0,
    }
}

/// Charges the records of a batch what they take there, together `batch_bytes` of a segment, and returns
/// what they were charged above it: of many small ones that leave together nearly half.
pub(super) fn fit_charges(batch: &mut [Append], batch_bytes: u64) -> u64 {
    let mut above = 0;
    let mut padding = batch_bytes;
    for append in batch.iter_mut() {
        let encoded = append.body.encoded_len() as u64;
        padding = padding.saturating_sub(encoded);
        let charge = append.charge_bytes.min(encoded + zeros_charge(&append.body));
        above += append.charge_bytes - charge;
        append.charge_bytes = charge;
    }
    let padding = padding.min(above);
    if let Some(last) = batch.last_mut() {
        last.charge_bytes += padding;
    }
    above - padding
}

/// What of `data`, whose first block is `first`, belongs to a piece.
fn contents_of(piece: &Piece, first: u64, data: &Buffer) -> Buffer {
    let start = (piece.block.0 - first) as usize * BLOCK_BYTES;
    data.slice(start, start + piece.count as usize * BLOCK_BYTES)
}

/// Whether sectors are whole blocks.
fn is_whole(range: SectorRange) -> bool {
    range.start.0.is_multiple_of(BLOCK_SECTORS) && range.count.is_multiple_of(BLOCK_SECTORS)
}

/// The whole blocks within sectors.
fn whole_blocks(range: SectorRange) -> SectorRange {
    let start = range.start.0.next_multiple_of(BLOCK_SECTORS);
    let end = range.end().0 / BLOCK_SECTORS * BLOCK_SECTORS;
    SectorRange::new(Lba(start), end.saturating_sub(start))
}

fn out_of_range(block: u64, count: u64) -> IoError {
    IoError::OutOfRange(crate::engine::read::sectors_of(block, count))
}
