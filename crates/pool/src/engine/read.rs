//! Reading blocks: from memory while they are pending, as zeros where nothing was written, else from
//! a member that has them, verified. A copy that doesn't match is read again, then another one is
//! taken and the bad one repaired. A member that hangs is not waited for while another can answer.

use std::cell::Cell;
use std::rc::Rc;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, Buffer, BufferMut, IoError, Lba, SECTOR_BYTES, SectorRange,
};
use futures::StreamExt;
use futures::future::{Either, join_all, select};
use futures::stream::FuturesUnordered;

use super::belief::LoadError;
use super::io::LOOKS_MAX;
use super::pool::{GroupPlace, Pool, ended_error};
use super::volume::Volume;
use crate::format::{ChecksumBlock, Entry, Role, Row, row_checksum};
use crate::layout::VolumeBlock;
use crate::report::PoolEvent;

/// Rows read from one member at once before the next run goes to another one.
const SPREAD_ROWS: u32 = 64;

/// Reads after which the members change their turns.
const READS_PER_TURN: u32 = 16;

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
            return match &pending.data {
                Some(data) if data.is_lost => Err(IoError::Medium(sectors_of(first, 1))),
                Some(data) => Ok(data.buffer()),
                None => Ok(Buffer::zeroed(BLOCK_BYTES)),
            };
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
            let data = pending.data.as_ref();
            if data.is_some_and(|data| data.is_lost) {
                return Err(IoError::Medium(sectors_of(pending_block, 1)));
            }
            sources[(pending_block - block) as usize] =
                Some(data.map_or(Source::Zero, |data| Source::Memory(data.buffer())));
            known += 1;
        }
        let Some(group) = self.pool.group_at(self.id, at).map(Rc::new) else {
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
                        sums.insert((index, self.checksums_of(&group, index, block).await?))
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

    /// A checksum block of a group; `block` is the volume's block that it is wanted for.
    async fn checksums_of(
        self: &Rc<Self>,
        group: &GroupPlace,
        index: u32,
        block: u64,
    ) -> Result<Rc<ChecksumBlock>, IoError> {
        loop {
            match self.checksum_block(group, index).await {
                Ok(loaded) => {
                    if loaded.lagging {
                        self.mend_checksums_soon(group.birth);
                    }
                    return Ok(loaded.block);
                }
                Err(LoadError::Doubtful(_)) => {
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

    /// Reads rows that were written, from whichever member answers rightly.
    async fn read_rows(
        self: &Rc<Self>,
        group: &Rc<GroupPlace>,
        first: Row,
        crcs: &[u32],
    ) -> Result<Buffer, IoError> {
        loop {
            match self.read_from_one(group, first, crcs.len() as u32, None).await {
                Ok((member, data)) => {
                    let wrong = wrong_rows(group, first, crcs, &data);
                    if wrong.is_empty() {
                        return Ok(data);
                    }
                    return self.rescue_rows(group, first, crcs, data, &wrong, member).await;
                }
                Err(Unread::Unreachable) => self.wait_for_members().await?,
                Err(Unread::Unreadable) => {
                    let data = Buffer::zeroed(crcs.len() * BLOCK_BYTES);
                    let wrong: Vec<usize> = (0..crcs.len()).collect();
                    return self.rescue_rows(group, first, crcs, data, &wrong, usize::MAX).await;
                }
            }
        }
    }

    /// Puts right rows in their place in `data`; `from` is where the wrong ones came from.
    async fn rescue_rows(
        self: &Rc<Self>,
        group: &Rc<GroupPlace>,
        first: Row,
        crcs: &[u32],
        data: Buffer,
        wrong: &[usize],
        from: usize,
    ) -> Result<Buffer, IoError> {
        let mut data = data.into_mut();
        let mut lost: Option<SectorRange> = None;
        for index in wrong {
            let row = Row(first.0 + *index as u32);
            match self.rescue_row(group, row, crcs[*index], from).await? {
                Some(right) => {
                    let start = index * BLOCK_BYTES;
                    data[start..start + BLOCK_BYTES].copy_from_slice(&right);
                }
                None => {
                    // A row that the volume doesn't have can't be named, and is wrong all the same.
                    let block = self.block_of(group, row);
                    block.iter().for_each(|block| self.tell_unrepairable(group, *block, 1));
                    lost.get_or_insert(
                        block.map_or_else(SectorRange::default, |block| sectors_of(block, 1)),
                    );
                }
            }
        }
        lost.map_or(Ok(data.freeze()), |range| Err(IoError::Medium(range)))
    }

    /// Looks for a right copy of one row on every member that should have it, the suspect first once
    /// more, and at last on those that missed something of its region, some times while an answer is wrong:
    /// what a disk reads may be wrong now and right next time. `None` when those that answer are all wrong, and those that don't haven't for as long as a write waits for them: a machine that
    /// restarts has it in a moment.
    async fn rescue_row(
        self: &Rc<Self>,
        group: &Rc<GroupPlace>,
        row: Row,
        crc: u32,
        suspect: usize,
    ) -> Result<Option<Buffer>, IoError> {
        let region = 1 << self.pool.shape().region_of_row(row);
        let patience = self.pool.runtime.now() + self.pool.limits.eviction;
        let mut looks = 0;
        loop {
            let has = |member: &usize| self.pool.has_all(group, *member, region);
            let mut order: Vec<usize> = (0..group.members.len()).collect();
            order.sort_by_key(|member| (!has(member), *member != suspect));
            let (mut right, mut wrong, mut is_silent) = (None, Vec::new(), false);
            let mut mismatches = false;
            for member in order {
                let should_have = has(&member);
                match self.read_from_one(group, row, 1, Some(member)).await {
                    Ok((_, data)) => {
                        if row_checksum(group.birth, row, Role::Data(0), &data) == crc {
                            right = Some(data);
                            break;
                        }
                        mismatches = true;
                        if should_have {
                            wrong.push(member);
                        }
                    }
                    Err(Unread::Unreadable) if should_have => wrong.push(member),
                    Err(Unread::Unreadable) => {}
                    Err(Unread::Unreachable) => is_silent |= should_have,
                }
            }
            if right.is_some() {
                for member in wrong {
                    self.repair_soon(group.birth, row, member);
                }
                return Ok(right);
            }
            looks += 1;
            if mismatches && !is_silent && looks < LOOKS_MAX {
                continue;
            }
            let waits = is_silent && self.pool.runtime.now() < patience;
            if !wrong.is_empty() && !waits {
                return Ok(None);
            }
            self.wait_for_members().await?;
        }
    }

    /// Reads rows from `only`, or from the least busy member that has them; after a short time
    /// without an answer another one is asked too.
    async fn read_from_one(
        &self,
        group: &GroupPlace,
        first: Row,
        count: u32,
        only: Option<usize>,
    ) -> Result<(usize, Buffer), Unread> {
        let shape = self.pool.shape();
        let mask = region_mask(&self.pool, first, count);
        let mut candidates: Vec<usize> = (0..group.members.len())
            .filter(|member| match only {
                Some(only) => only == *member,
                None => self.pool.has_all(group, *member, mask),
            })
            .collect();
        // Now and then the other way round, so that each copy is looked at in the long run.
        let reads = self.reads.replace(self.reads.get().wrapping_add(1));
        let turn = (first.0 / SPREAD_ROWS + group.index + reads / READS_PER_TURN) as usize;
        let members = group.members.len();
        candidates.sort_by_key(|index| {
            let (disk, _) = group.members[*index];
            let busy = self.pool.member(disk).map_or(0, |member| member.reading_bytes.get());
            (busy >> 18, (index + turn) % members)
        });
        let mut candidates = candidates.into_iter();
        let mut reads = FuturesUnordered::new();
        let (mut unreadable, mut asked) = (false, false);
        let mut given_up = false;
        loop {
            if !std::mem::replace(&mut asked, true) && !given_up {
                let next = candidates.by_ref().find_map(|index| {
                    self.pool.extent_of(group, index).map(|found| (index, found))
                });
                match next {
                    Some((index, (member, device, start))) => {
                        let sector = Lba(start.0 + shape.row_sector(first));
                        let sectors = u64::from(count) * BLOCK_SECTORS;
                        reads.push(async move {
                            let _busy = Busy::new(&member.reading_bytes, sectors);
                            (index, self.pool.read_member(&member, &*device, sector, sectors).await)
                        });
                    }
                    None => given_up = true,
                }
            }
            if reads.is_empty() && given_up {
                return Err(if unreadable { Unread::Unreadable } else { Unread::Unreachable });
            }
            let limit = if given_up { self.pool.limits.eviction } else { self.pool.limits.hedge };
            match select(reads.next(), self.pool.runtime.sleep(limit)).await {
                Either::Left((Some((index, Ok(data))), _)) => return Ok((index, data)),
                Either::Left((Some((_, Err(error))), _)) => {
                    unreadable |= matches!(error, IoError::Medium(_) | IoError::OutOfRange(_));
                    asked = false;
                }
                Either::Left((None, _)) => asked = false,
                Either::Right(_) if given_up => return Err(Unread::Unreachable),
                Either::Right(_) => asked = false,
            }
        }
    }

    /// The volume's block that a group's row holds.
    pub(crate) fn block_of(&self, group: &GroupPlace, row: Row) -> Option<u64> {
        let at = crate::layout::RowAddress { set: group.set, lane: group.lane, row };
        self.stripes.block_of(at).map(|block| block.0)
    }

    fn tell_unrepairable(&self, group: &GroupPlace, block: u64, count: u64) {
        let disks = group.members.iter().map(|(disk, _)| self.pool.disk_name(*disk));
        self.pool.events.tell(PoolEvent::Unrepairable {
            pool: self.pool.name.clone(),
            volume: self.name.clone(),
            offset_bytes: block * BLOCK_BYTES as u64,
            length_bytes: count * BLOCK_BYTES as u64,
            disks: disks.collect(),
        });
    }
}

/// Why rows weren't read.
enum Unread {
    /// No member that has them answers.
    Unreachable,
    /// A member that has them can't read them.
    Unreadable,
}

/// Counts bytes that are being read from a member.
struct Busy<'a> {
    counter: &'a Cell<u64>,
    bytes: u64,
}

impl<'a> Busy<'a> {
    fn new(counter: &'a Cell<u64>, sectors: u64) -> Busy<'a> {
        let bytes = sectors * SECTOR_BYTES as u64;
        counter.set(counter.get() + bytes);
        Busy { counter, bytes }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.counter.set(self.counter.get().saturating_sub(self.bytes));
    }
}

/// The regions that rows lie in.
pub(crate) fn region_mask(pool: &Pool, first: Row, count: u32) -> u64 {
    let shape = pool.shape();
    let last = Row(first.0 + count.saturating_sub(1));
    let (low, high) = (shape.region_of_row(first), shape.region_of_row(last));
    (low..=high).fold(0, |mask, region| mask | 1 << region)
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

/// Indices of rows that aren't what their checksum says.
fn wrong_rows(group: &GroupPlace, first: Row, crcs: &[u32], data: &[u8]) -> Vec<usize> {
    let blocks = data.chunks_exact(BLOCK_BYTES);
    let checked = blocks.zip(crcs).enumerate().filter(|(index, (block, crc))| {
        row_checksum(group.birth, Row(first.0 + *index as u32), Role::Data(0), block) != **crc
    });
    checked.map(|(index, _)| index).collect()
}
