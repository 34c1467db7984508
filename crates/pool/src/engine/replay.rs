//! Opening a volume: its log is read from every current copy in sight, the end that counts is decided
//! and committed, and everything up to it is folded into place. Only then does the volume serve.

use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, BufferMut, IoError, Lba, SECTOR_BYTES, SectorRange};
use futures::StreamExt;
use futures::future::join_all;

use super::checksums::{LoadError, Loaded};
use super::lease::Ended;
use super::log::put_record;
use super::pool::GroupPlace;
use super::segment::current_copies;
use super::volume::{Serving, Volume};
use crate::format::{
    DiskNumber, Record, RecordNumber, SEGMENT_HEADER_BYTES, UncheckedSegmentHeader, merge_segment,
};
use crate::layout::RowAddress;
use crate::metadata::{MetaRecord, Segment, SegmentCopyPlace};
use crate::report::Settled;

/// Bytes read at once from a copy.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces of a copy under way at once.
const PIECES: usize = 4;

/// Why a log can't be adopted now.
enum Blocked {
    /// Copies are out of reach; these disks would help.
    Missing(Vec<DiskNumber>),
    /// What was read can't be adopted, whoever returns.
    Contradiction(String),
    Ended(Ended),
}

/// What a log holds.
struct Adopted {
    records: Vec<Record>,
    previous_crc: u32,
    cut: RecordNumber,
}

impl Volume {
    /// Settles the log, then serves: appends and folds until the pool is over.
    pub(crate) async fn open(self: Rc<Self>) {
        if self.settle().await.is_err() {
            return;
        }
        self.set_serving(Serving::Yes);
        let runtime = self.pool.runtime.clone();
        runtime.spawn(Rc::clone(&self).run_fold());
        self.run_log().await;
    }

    async fn settle(self: &Rc<Self>) -> Result<(), Ended> {
        let adopted = loop {
            let changed = self.pool.changed.notified();
            match self.pool.unless_over(self.read_log()).await? {
                Ok(adopted) => break adopted,
                Err(Blocked::Ended(ended)) => return Err(ended),
                Err(Blocked::Missing(disks)) => {
                    let members = disks.iter().filter_map(|disk| self.pool.member(*disk));
                    let names: Vec<_> = members.map(|member| member.describe()).collect();
                    let names = names.join(" or ");
                    self.set_serving(Serving::Suspended(format!(
                        "no current copy of its log is in sight; bring back {names}"
                    )));
                }
                Err(Blocked::Contradiction(what)) => {
                    tracing::error!(volume = %self.name, what);
                    self.set_serving(Serving::Suspended(what));
                }
            }
            self.pool.unless_over(changed).await?;
        };
        self.commit_cut(adopted.cut).await?;
        let settled = self.adopt(&adopted);
        self.settled.set(settled);
        self.settling.set(true);
        let folded = self.fold_all(adopted.cut).await;
        self.settling.set(false);
        folded
    }

    /// Whether the end of an earlier engine may have cut a fold of this checksum block short: the log
    /// had records of its rows, and they aren't in place yet.
    fn was_interrupted(&self, group: &GroupPlace, index: u32) -> bool {
        let (first, count) = self.pool.shape().rows_of_block(index);
        let at = RowAddress { set: group.set, lane: group.lane, row: first };
        let pending = self.pending.borrow();
        self.settling.get()
            && self.blocks_from(at, count).iter().any(|(_, (block, count))| {
                pending.range(*block..*block + u64::from(*count)).next().is_some()
            })
    }

    /// A checksum block of a group.
    pub(crate) async fn checksum_block(
        &self,
        group: &GroupPlace,
        index: u32,
    ) -> Result<Loaded, LoadError> {
        let interrupted = || self.was_interrupted(group, index);
        self.checksums.load(&self.pool, group, index, interrupted).await
    }

    /// A checksum block as its holders have it now.
    pub(crate) async fn checksum_block_anew(
        &self,
        group: &GroupPlace,
        index: u32,
    ) -> Result<Loaded, LoadError> {
        let interrupted = || self.was_interrupted(group, index);
        self.checksums.reload(&self.pool, group, index, interrupted).await
    }

    async fn commit_cut(self: &Rc<Self>, cut: RecordNumber) -> Result<(), Ended> {
        let _lock = self.pool.meta_lock.acquire(1).await;
        let epoch = self.pool.epoch;
        let decided = {
            let meta = self.pool.meta.borrow();
            let log = meta.volumes().get(&self.id).map(|volume| &volume.log);
            log.is_none_or(|log| log.cut.is_some_and(|(before, _)| before >= epoch))
        };
        if decided {
            return Ok(());
        }
        let record = MetaRecord::Cut { volume: self.id, epoch, cut };
        self.pool.commit_locked(&[record]).await
    }

    /// Puts the adopted records where folding looks, and says where the log continues.
    fn adopt(&self, adopted: &Adopted) -> Settled {
        let released = self.released();
        let mut pending = self.pending.borrow_mut();
        let mut settled = Settled::default();
        for record in adopted.records.iter().filter(|record| record.number > released) {
            settled.records += 1;
            // A record of a group that doesn't exist any more is void.
            let place = record.body.rows().and_then(|rows| {
                let group = self.pool.group_by_birth(rows.group)?;
                let fits = rows.first.0.checked_add(rows.count)? <= self.pool.shape().rows();
                let row = rows.first;
                let at = RowAddress { set: group.set, lane: group.lane, row };
                (fits && group.volume == self.id).then(|| self.blocks_from(at, rows.count))
            });
            for (offset, (block, count)) in place.into_iter().flatten() {
                let body = slice_body(&record.body, offset, count);
                put_record(&mut pending, block, record.number, &body);
            }
        }
        settled.blocks = pending.len() as u64;
        let mut state = self.log.state.borrow_mut();
        state.next = adopted.cut.next();
        state.durable = adopted.cut;
        state.previous_crc = adopted.previous_crc;
        state.current = None;
        settled
    }

    /// Rows of a group as runs of blocks: (offset in the rows, (first block, count)).
    fn blocks_from(&self, at: RowAddress, count: u32) -> Vec<(u32, (u64, u32))> {
        let mut runs: Vec<(u32, (u64, u32))> = Vec::new();
        for offset in 0..count {
            let row = crate::format::Row(at.row.0 + offset);
            let Some(block) = self.stripes.block_of(RowAddress { row, ..at }) else { continue };
            match runs.last_mut() {
                Some((_, (first, run))) if *first + u64::from(*run) == block.0 => *run += 1,
                _ => runs.push((offset, (block.0, 1))),
            }
        }
        runs
    }

    async fn read_log(self: &Rc<Self>) -> Result<Adopted, Blocked> {
        let (segments, released) = {
            let meta = self.pool.meta.borrow();
            let Some(volume) = meta.volumes().get(&self.id) else {
                return Err(Blocked::Ended(Ended::Closed));
            };
            let segments: Vec<Segment> = volume.log.segments.values().cloned().collect();
            (segments, volume.log.released)
        };
        let mut adopted = Adopted { records: Vec::new(), previous_crc: 0, cut: released };
        let mut chain: Option<u32> = None;
        for (index, segment) in segments.iter().enumerate() {
            let bound = segments.get(index + 1).map(|next| next.first_record);
            if bound.is_some_and(|bound| bound <= released.next()) {
                continue;
            }
            let copies = self.read_copies(segment).await?;
            let header = self.segment_header(segment);
            if segment.first_record > adopted.cut.next() {
                return Err(Blocked::Contradiction(format!(
                    "its log lacks the records before {}, which were acknowledged; bring back \
                     the disks that held its older segments",
                    segment.first_record
                )));
            }
            // The chain is known where this segment continues what was read last.
            let chained = chain.filter(|_| segment.first_record == adopted.cut.next());
            let merged = merge_segment(&header, chained, &copies).map_err(|conflict| {
                Blocked::Contradiction(format!("{conflict}; neither is chosen"))
            })?;
            // What this segment holds beyond the next one's first record was never acknowledged.
            for record in merged.records {
                if bound.is_some_and(|bound| record.number >= bound) {
                    break;
                }
                chain = Some(record.crc);
                adopted.previous_crc = record.crc;
                adopted.cut = adopted.cut.max(record.number);
                adopted.records.push(record);
            }
        }
        Ok(adopted)
    }

    /// Every current copy of a segment in sight, whole; at least one.
    async fn read_copies(self: &Rc<Self>, segment: &Segment) -> Result<Vec<Buffer>, Blocked> {
        let current = current_copies(segment, &self.pool.config.borrow());
        let reads = current.iter().map(|copy| self.read_copy(segment, copy));
        let copies: Vec<Buffer> = join_all(reads).await.into_iter().flatten().collect();
        if copies.is_empty() {
            return Err(Blocked::Missing(current.iter().map(|copy| copy.disk).collect()));
        }
        Ok(copies)
    }

    async fn read_copy(&self, segment: &Segment, copy: &SegmentCopyPlace) -> Option<Buffer> {
        let member = self.pool.member(copy.disk)?;
        let device = member.usable_device()?;
        let start = member.geometry.extent_start(copy.extents.first)?;
        let header = self.segment_header(segment);
        let bytes = header.blocks as usize * BLOCK_BYTES;
        let pieces =
            (0..bytes.div_ceil(PIECE_BYTES)).map(|piece| {
                let from = piece * PIECE_BYTES;
                let sectors = (bytes - from).min(PIECE_BYTES) / SECTOR_BYTES;
                let sector = Lba(start.0 + (from / SECTOR_BYTES) as u64);
                let device = Rc::clone(&device);
                async move {
                    (from, read_piece(&*device, SectorRange::new(sector, sectors as u64)).await)
                }
            });
        let mut whole = BufferMut::zeroed(bytes);
        let mut pieces = futures::stream::iter(pieces).buffer_unordered(PIECES);
        while let Some((from, piece)) = pieces.next().await {
            let piece = piece.ok()?;
            whole[from..from + piece.len()].copy_from_slice(&piece);
        }
        let whole = whole.freeze();
        // Every record names the segment itself, so a header that was lost loses nothing else.
        let head = &whole[..SEGMENT_HEADER_BYTES];
        if let Err(fault) = UncheckedSegmentHeader(head).check(&header) {
            tracing::warn!(volume = %self.name, disk = %member.display_name(), %fault);
        }
        Some(whole)
    }
}

/// Reads a piece; sectors that can't be read are taken for zeros, which no record is: another copy
/// may have them.
async fn read_piece(
    device: &dyn block::BlockDevice,
    range: SectorRange,
) -> Result<Buffer, IoError> {
    match super::io::read_run(device, range.start, range.count).await {
        Err(IoError::Medium(_)) => {}
        answer => return answer,
    }
    let mut whole = BufferMut::zeroed(range.len_bytes() as usize);
    for block in 0..range.count / block::BLOCK_SECTORS {
        let start = Lba(range.start.0 + block * block::BLOCK_SECTORS);
        match super::io::read_run(device, start, block::BLOCK_SECTORS).await {
            Ok(data) => {
                let at = block as usize * BLOCK_BYTES;
                whole[at..at + BLOCK_BYTES].copy_from_slice(&data);
            }
            Err(IoError::Medium(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(whole.freeze())
}

/// The part of a record's body for `count` rows from `offset`.
fn slice_body(
    body: &crate::format::RecordBody,
    offset: u32,
    count: u32,
) -> crate::format::RecordBody {
    use crate::format::{RecordBody, Row, RowRange};
    let part =
        |rows: &RowRange| RowRange { group: rows.group, first: Row(rows.first.0 + offset), count };
    let window = offset as usize..(offset + count) as usize;
    match body {
        RecordBody::Data { rows, checksums, payload } => RecordBody::Data {
            rows: part(rows),
            checksums: checksums.get(window.clone()).unwrap_or_default().to_vec(),
            payload: payload.slice(window.start * BLOCK_BYTES, window.end * BLOCK_BYTES),
        },
        RecordBody::Zero { rows, discard } => {
            RecordBody::Zero { rows: part(rows), discard: *discard }
        }
        other => other.clone(),
    }
}
