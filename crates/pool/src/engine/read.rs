//! Reading blocks: from memory while they are pending, as zeros where nothing was written, else from
//! members, verified (`right_copy`). What is wrong there is repaired. Members that don't answer are waited
//! for while none has it right; what is lost is named.

use std::ops::Range;
use std::rc::Rc;

use block::{BLOCK_BYTES, BLOCK_SECTORS, Buffer, BufferMut, IoError, Lba, SectorRange};
use futures::FutureExt;
use futures::future::join_all;

use super::belief::LoadError;
use super::pool::{GroupPlace, ended_error};
use super::right_copy::{NoRightCopy, SPREAD_ROWS};
use super::volume::Volume;
use crate::format::{ChecksumBlock, Entry, ExtentShape, Row};
use crate::layout::{STRIPE_UNIT_ROWS, VolumeBlock};
use crate::report::PoolEvent;

/// Rows of a group that shall be read from disk, with what they should be.
struct DiskRun {
    group: Rc<GroupPlace>,
    first: Row,
    crcs: Vec<u32>,
    /// Offset of the run in the request, in blocks.
    offset: usize,
}

/// Where the blocks of a request come from.
enum Source {
    Zero,
    Memory(Buffer),
    Disk(u32),
}

impl Volume {
    /// Reads `count` blocks from `first`; the caller holds their range.
    pub(crate) async fn read_blocks(
        self: &Rc<Self>,
        first: u64,
        count: u64,
    ) -> Result<Buffer, IoError> {
        if count == 1
            && let Some(pending) = self.pending.borrow().get(first)
        {
            match &pending.data {
                Some(data) if data.is_lost => {}
                Some(data) => return Ok(data.buffer()),
                None => return Ok(Buffer::zeroed(BLOCK_BYTES)),
            }
        }
        let mut whole: Option<BufferMut> = None;
        let mut runs = Vec::new();
        for piece in self.stripes.pieces(VolumeBlock(first), count) {
            let offset = (piece.block.0 - first) as usize;
            let sources = self.sources_of(piece.block.0, piece.at, piece.count).await?;
            let Some((group, sources)) = sources else { continue };
            for (index, source) in sources.iter().enumerate() {
                if let Source::Memory(data) = source {
                    let whole = whole
                        .get_or_insert_with(|| BufferMut::zeroed(count as usize * BLOCK_BYTES));
                    let start = (offset + index) * BLOCK_BYTES;
                    whole[start..start + BLOCK_BYTES].copy_from_slice(data);
                }
            }
            runs.extend(disk_runs(&group, piece.at.row, offset, &sources));
        }
        if let [run] = runs.as_slice()
            && run.offset == 0
            && run.crcs.len() as u64 == count
        {
            return self.read_run(run).await;
        }
        let mut whole = whole.unwrap_or_else(|| BufferMut::zeroed(count as usize * BLOCK_BYTES));
        let reads = join_all(runs.iter().map(|run| self.read_run(run))).await;
        for (run, result) in runs.iter().zip(reads) {
            let data = result?;
            let start = run.offset * BLOCK_BYTES;
            whole[start..start + data.len()].copy_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Where each block of a piece comes from; `None` when all of it is zeros. What is pending is
    /// taken first, before anything is waited for: the caller's place in line keeps newer records
    /// of these blocks away, so what isn't pending now is in place.
    async fn sources_of(
        self: &Rc<Self>,
        block: u64,
        at: crate::layout::RowAddress,
        count: u32,
    ) -> Result<Option<(Rc<GroupPlace>, Vec<Source>)>, IoError> {
        let mut sources: Vec<Option<Source>> = (0..count).map(|_| None).collect();
        let mut known = 0;
        for (pending_block, pending) in self.pending.borrow().range(block..block + u64::from(count))
        {
            let source = match &pending.data {
                None => Source::Zero,
                // What the log doesn't have may be in its place, and the checksum tells; unless people do without those
                // who could have it.
                Some(data) if data.is_lost && self.log.accepts_loss.get() => {
                    return Err(IoError::Medium(sectors_of(pending_block, 1)));
                }
                Some(data) if data.is_lost => Source::Disk(data.crc),
                Some(data) => Source::Memory(data.buffer()),
            };
            sources[(pending_block - block) as usize] = Some(source);
            known += 1;
        }
        let Some(group) = self.pool.group_at(self.id, at) else {
            return Err(IoError::OutOfRange(sectors_of(block, u64::from(count))));
        };
        if known < count && group.initialised {
            let mut sums: Option<(u32, Rc<ChecksumBlock>)> = None;
            for (offset, source) in sources.iter_mut().enumerate().filter(|(_, s)| s.is_none()) {
                let row = Row(at.row.0 + offset as u32);
                let (index, entry) = self.pool.shape().entry_of(row);
                let loaded = sums.take().filter(|(loaded, _)| *loaded == index);
                let (_, known) = match loaded {
                    Some(loaded) => sums.insert(loaded),
                    None => {
                        let block = block + offset as u64;
                        // Whoever comes to its first rows goes in sequence, mostly.
                        let end = match entry < STRIPE_UNIT_ROWS as usize {
                            true => self.pool.shape().checksum_blocks(),
                            false => index + 1,
                        };
                        sums.insert((index, self.checksums_of(&group, index..end, block).await?))
                    }
                };
                *source = Some(match known.get(entry) {
                    Entry::Unwritten => Source::Zero,
                    Entry::Written(crc) => Source::Disk(crc),
                    Entry::Lost => {
                        let lost = block + offset as u64;
                        self.tell_unrepairable(&group, lost, 1);
                        return Err(IoError::Medium(sectors_of(lost, 1)));
                    }
                });
            }
        }
        let sources: Vec<_> =
            sources.into_iter().map(|source| source.unwrap_or(Source::Zero)).collect();
        let zeros = sources.iter().all(|source| matches!(source, Source::Zero));
        Ok((!zeros).then_some((group, sources)))
    }

    /// The first of some checksum blocks of a group, the others of which are wanted soon; `block` is the
    /// volume's block that it is wanted for.
    async fn checksums_of(
        self: &Rc<Self>,
        group: &GroupPlace,
        indexes: Range<u32>,
        block: u64,
    ) -> Result<Rc<ChecksumBlock>, IoError> {
        let mut moved = None;
        loop {
            let group = moved.as_ref().unwrap_or(group);
            match self.checksum_block(group, indexes.clone()).await {
                Ok(loaded) => {
                    if loaded.lagging {
                        self.mend_checksums_soon(group.generation);
                    }
                    return Ok(loaded.block);
                }
                // Those who were asked may not have it any more.
                Err(_) if let Some(now) = self.pool.mapped_anew(group) => moved = Some(now),
                Err(LoadError::Doubtful(_)) => {
                    self.tell_unrepairable(group, block, 1);
                    return Err(IoError::Medium(sectors_of(block, 1)));
                }
                Err(LoadError::Unreachable(_))
                    if self.pool.all_stay_away(group, ExtentShape::CHECKSUMS) =>
                {
                    self.tell_unrepairable(group, block, 1);
                    return Err(IoError::Medium(sectors_of(block, 1)));
                }
                Err(LoadError::Unreachable(silent)) => {
                    let waited = self.wait_for_holders(&silent).await;
                    waited.map_err(|ended| ended_error(&self.pool, ended))?;
                }
            }
        }
    }

    /// Waits for a member to come back.
    async fn wait_for_members(&self) -> Result<(), IoError> {
        let waited = self.pool.wait_for_change().await;
        waited.map_err(|ended| ended_error(&self.pool, ended))
    }

    async fn read_run(self: &Rc<Self>, run: &DiskRun) -> Result<Buffer, IoError> {
        let spread = run.crcs.chunks(SPREAD_ROWS as usize).enumerate();
        if run.crcs.len() <= SPREAD_ROWS as usize {
            return self.read_rows(&run.group, run.first, &run.crcs).await;
        }
        let parts = spread.map(|(index, crcs)| {
            let first = Row(run.first.0 + index as u32 * SPREAD_ROWS);
            self.read_rows(&run.group, first, crcs)
        });
        let mut whole = BufferMut::zeroed(run.crcs.len() * BLOCK_BYTES);
        let windows = whole.chunks_mut(SPREAD_ROWS as usize * BLOCK_BYTES);
        for (window, part) in windows.zip(join_all(parts).await) {
            window.copy_from_slice(&part?);
        }
        Ok(whole.freeze())
    }

    /// Reads rows that were written: from one member, and what of it is wrong from whoever has it right.
    async fn read_rows(
        self: &Rc<Self>,
        group: &Rc<GroupPlace>,
        first: Row,
        crcs: &[u32],
    ) -> Result<Buffer, IoError> {
        let found = self.rows_of_one(group, first, crcs).await;
        if found.wrong.is_empty() {
            return Ok(found.data);
        }
        // At once: a member that hangs costs all of them together what it costs one.
        let singly = found.wrong.iter().map(|index| {
            let row = Row(first.0 + *index as u32);
            self.read_row(group, row, crcs[*index], found.member).map(move |read| (*index, read))
        });
        let mut data = found.data.into_mut();
        let mut lost: Option<SectorRange> = None;
        for (index, read) in join_all(singly).await {
            match read? {
                Some(right) => data[index * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(&right),
                None => {
                    // A row that the volume doesn't have can't be named, and is lost all the same.
                    let block = self.block_of(group, Row(first.0 + index as u32));
                    block.iter().for_each(|block| self.tell_unrepairable(group, *block, 1));
                    let range = block.map(|block| sectors_of(block, 1));
                    lost.get_or_insert(range.unwrap_or_default());
                }
            }
        }
        lost.map_or(Ok(data.freeze()), |range| Err(IoError::Medium(range)))
    }

    /// Reads one row, from whoever has it right; `None` when it is lost, or others are wrong and the silent
    /// ones have been for as long as a write waits for them: a machine that restarts is back in a moment.
    pub(crate) async fn read_row(
        self: &Rc<Self>,
        group: &GroupPlace,
        row: Row,
        crc: u32,
        suspect: Option<usize>,
    ) -> Result<Option<Buffer>, IoError> {
        // As long as nobody is there who is wrong, nothing is waited for in vain.
        let mut until = None;
        let (mut moved, mut suspect) = (None, suspect);
        loop {
            let group = moved.as_ref().unwrap_or(group);
            match self.right_copy(group, row, crc, suspect).await {
                Ok(copy) => {
                    self.repair_soon(group, row, &copy.wrong);
                    return Ok(Some(copy.data));
                }
                // Those who were asked may not have it any more.
                Err(_) if let Some(now) = self.pool.mapped_anew(group) => {
                    (moved, suspect) = (Some(now), None);
                }
                Err(NoRightCopy::Lost) => return Ok(None),
                Err(NoRightCopy::Silent { others_wrong }) => {
                    let now = self.pool.runtime.now();
                    if others_wrong && now >= *until.get_or_insert(now + self.pool.limits.eviction)
                    {
                        return Ok(None);
                    }
                    self.wait_for_members().await?;
                }
            }
        }
    }

    /// The volume's block that a group's row holds.
    pub(crate) fn block_of(&self, group: &GroupPlace, row: Row) -> Option<u64> {
        let at = crate::layout::RowAddress { set: group.set, lane: group.lane, row };
        self.stripes.block_of(at).map(|block| block.0)
    }

    fn tell_unrepairable(&self, group: &GroupPlace, block: u64, count: u64) {
        // Where most of a pool is away that would be all that is told.
        if self.pool.read_only {
            return;
        }
        let disks = group.members.iter().map(|(disk, _)| self.pool.disk_name(*disk));
        self.pool.events.tell(PoolEvent::Unrepairable {
            pool: self.pool.name.clone(),
            volume: self.name(),
            offset_bytes: block * BLOCK_BYTES as u64,
            length_bytes: count * BLOCK_BYTES as u64,
            disks: disks.collect(),
        });
    }
}

/// The sectors of a volume's blocks.
pub(crate) fn sectors_of(block: u64, count: u64) -> SectorRange {
    SectorRange::new(Lba(block * BLOCK_SECTORS), count * BLOCK_SECTORS)
}

/// Consecutive rows that come from disk.
fn disk_runs(group: &Rc<GroupPlace>, row: Row, offset: usize, sources: &[Source]) -> Vec<DiskRun> {
    let mut runs: Vec<DiskRun> = Vec::new();
    let mut in_run = false;
    for (index, source) in sources.iter().enumerate() {
        match (source, runs.last_mut().filter(|_| in_run)) {
            (Source::Disk(crc), Some(run)) => run.crcs.push(*crc),
            (Source::Disk(crc), None) => {
                runs.push(DiskRun {
                    group: Rc::clone(group),
                    first: Row(row.0 + index as u32),
                    crcs: vec![*crc],
                    offset: offset + index,
                });
                in_run = true;
            }
            _ => in_run = false,
        }
    }
    runs
}
