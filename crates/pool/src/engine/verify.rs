//! Verification: every written block of one copy, or of all, is read and compared with its stored checksum, and
//! holders of checksum blocks are shown to have what counts. What is bad is repaired from another copy, as if it
//! had been read.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Lba};
use futures::future::join_all;

use super::belief::LoadError;
use super::known::SaidBy;
use super::lease::Ended;
use super::pool::GroupPlace;
use super::right_copy::{Answer, is_unreadable};
use super::volume::Volume;
use crate::format::{ChecksumBlock, Entry, GenerationId, Row};
use crate::metadata::Volume as VolumeMeta;
use crate::report::{BadBlock, Progress, VerifyReport};

/// Bad blocks that a report lists.
const BAD_LISTED_MAX: usize = 100;
/// Rows read at once: so many that a hard disk, which reads elsewhere in between, is busy with reading rather than
/// with getting there.
const RUN_ROWS: u32 = 512;

/// What becomes of a group whose checksums somebody has who doesn't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// He is waited for, however long he is gone.
    Awaited,
    /// Nothing of it is compared.
    LeftOut,
}

/// What was found among some rows.
#[derive(Default)]
struct Found {
    report: VerifyReport,
    /// Rows, and the members that have them wrong.
    wrong: Vec<(Row, usize)>,
}

impl VerifyReport {
    /// Adds what was found elsewhere.
    pub(super) fn add(&mut self, other: VerifyReport) {
        self.blocks += other.blocks;
        self.unwritten += other.unwritten;
        self.dirty += other.dirty;
        self.repaired += other.repaired;
        self.more_bad += other.more_bad;
        let room = BAD_LISTED_MAX.saturating_sub(self.bad.len()).min(other.bad.len());
        self.more_bad += (other.bad.len() - room) as u64;
        self.bad.extend(other.bad.into_iter().take(room));
    }

    /// Bad blocks, those listed and the others.
    pub fn bad_blocks(&self) -> u64 {
        self.bad.len() as u64 + self.more_bad
    }
}

impl Volume {
    /// Verifies one copy, or all.
    pub(crate) async fn verify(
        self: &Rc<Self>,
        copy: Option<u8>,
        progress: &dyn Fn(Progress),
    ) -> Result<VerifyReport, Ended> {
        // Before its log is read nobody knows what its blocks are, and nothing of it may be destaged.
        if !self.until_serving().await? {
            return Err(Ended::Closed);
        }
        self.replay_for_verify().await?;
        let generations: Vec<GenerationId> = {
            let meta = self.pool.meta.borrow();
            let groups = meta.volumes().get(&self.id).into_iter().flat_map(VolumeMeta::groups);
            groups.map(|group| group.generation()).collect()
        };
        let group_bytes = u64::from(self.pool.shape().rows()) * BLOCK_BYTES as u64;
        let total_bytes = generations.len() as u64 * group_bytes;
        let mut report = VerifyReport::default();
        for (index, generation) in generations.iter().enumerate() {
            progress(Progress { done_bytes: index as u64 * group_bytes, total_bytes });
            let unhurried = async |_, _| true;
            let group = self.verify_group(*generation, copy, Silent::Awaited, unhurried);
            report.add(self.pool.unless_over(group).await??.unwrap_or_default());
        }
        progress(Progress { done_bytes: total_bytes, total_bytes });
        Ok(report)
    }

    /// Brings what the log holds into place, so that it is verified there.
    async fn replay_for_verify(self: &Rc<Self>) -> Result<(), Ended> {
        let last = self.log.state.borrow().releasable();
        if self.pending.borrow().is_empty() {
            return Ok(());
        }
        let (done, receiver) = futures::channel::oneshot::channel();
        let volume = Rc::clone(self);
        // A task of its own: a caller that goes away mustn't leave a commit half done.
        self.pool.runtime.spawn(async move {
            let _ = done.send(volume.destage(last).await);
        });
        self.pool.unless_over(receiver).await?.unwrap_or(Err(Ended::Closed))
    }

    /// Verifies a group, one checksum block's rows after the other: whoever destages into it waits for one of
    /// these, not for all. `rest` is told what was read and for how long, and may take its time; none if it says that
    /// nobody wants to know any more.
    pub(super) async fn verify_group(
        self: &Rc<Self>,
        generation: GenerationId,
        copy: Option<u8>,
        silent: Silent,
        rest: impl AsyncFn(u64, Duration) -> bool,
    ) -> Result<Option<VerifyReport>, Ended> {
        let mut report = VerifyReport::default();
        for index in 0..self.pool.shape().checksum_blocks() {
            let begun = self.pool.runtime.now();
            let Some(part) = self.verify_part(generation, index, copy, silent).await? else {
                break;
            };
            let read_bytes = part.blocks * BLOCK_BYTES as u64;
            report.add(part);
            if !rest(read_bytes, self.pool.runtime.now().since(begun)).await {
                return Ok(None);
            }
        }
        Ok(Some(report))
    }

    /// Verifies the rows of a checksum block, and repairs what is bad; none if the group isn't there any more.
    async fn verify_part(
        self: &Rc<Self>,
        generation: GenerationId,
        index: u32,
        copy: Option<u8>,
        silent: Silent,
    ) -> Result<Option<VerifyReport>, Ended> {
        let shape = self.pool.shape();
        let (_, rows) = shape.rows_of_block(index);
        loop {
            let lock = self.pool.lock_group(generation).await;
            let Some(place) = self.pool.group_by_generation(generation) else { return Ok(None) };
            if !place.initialised {
                let unwritten = u64::from(rows);
                return Ok(Some(VerifyReport { unwritten, ..VerifyReport::default() }));
            }
            if index == 0 {
                // As the disks have them now.
                self.checksums.forget(generation, shape);
            }
            let block = match self.checksum_block(&place, index..shape.checksum_blocks()).await {
                Ok(loaded) => Some(loaded.block),
                Err(LoadError::Doubtful(_)) => None,
                Err(LoadError::Unreachable(_)) if silent == Silent::LeftOut => {
                    let dirty = u64::from(rows) * place.members.len() as u64;
                    return Ok(Some(VerifyReport { dirty, ..VerifyReport::default() }));
                }
                // Not with the lock held: a destage that needs it would wait for them too.
                Err(LoadError::Unreachable(disks)) => {
                    drop(lock);
                    self.wait_for_holders(&disks).await?;
                    continue;
                }
            };
            if index == 0 {
                // A disk that doesn't answer is for those to see to who need it.
                let _ = self.try_show(&place).await;
            }
            let mut found = self.verify_block(&place, index, block.as_deref(), copy).await;
            drop(lock);
            for (row, member) in std::mem::take(&mut found.wrong) {
                let Some((disk, _)) = place.members.get(member).copied() else { continue };
                found.report.repaired += u64::from(self.repair_now(generation, row, disk).await);
            }
            return Ok(Some(found.report));
        }
    }

    /// The rows of a checksum block, on all members at once; without the block they are all in doubt.
    async fn verify_block(
        self: &Rc<Self>,
        place: &GroupPlace,
        index: u32,
        block: Option<&ChecksumBlock>,
        copy: Option<u8>,
    ) -> Found {
        let (first, count) = self.pool.shape().rows_of_block(index);
        let mut all = Found::default();
        let Some(block) = block else {
            for row in (first.0..first.0 + count).map(Row) {
                self.note_bad(place, row, 0, true, &mut all.report);
            }
            return all;
        };
        let is_asked = |member: &usize| copy.is_none_or(|copy| usize::from(copy) == *member);
        let members = (0..place.members.len()).filter(is_asked);
        let found = members.map(|member| self.verify_rows(place, block, (first, count), member));
        for found in join_all(found).await {
            all.report.add(found.report);
            all.wrong.extend(found.wrong);
        }
        all
    }

    async fn verify_rows(
        self: &Rc<Self>,
        place: &GroupPlace,
        block: &ChecksumBlock,
        (first, count): (Row, u32),
        member: usize,
    ) -> Found {
        let shape = self.pool.shape();
        let mut found = Found::default();
        let Some((disk, _)) = place.members.get(member).copied() else { return found };
        // Of one that was silent once no more is asked: each time would take as long, with the lock.
        let mut is_silent = false;
        let Found { report, wrong } = &mut found;
        let ask = |first, count| {
            let reading = self.ask(place, first, count, member);
            self.pool.within_while_in(disk, self.pool.limits.background, reading)
        };
        let mut next = 0;
        while next < count {
            let rows = RUN_ROWS.min(count - next);
            let from = Row(first.0 + next);
            let written =
                (0..rows).any(|row| block.get((next + row) as usize).checksum().is_some());
            let data = if written && !is_silent {
                let read = ask(from, rows).await;
                is_silent = read.as_ref().is_err_and(|error| !is_unreadable(error));
                read.ok()
            } else {
                None
            };
            for index in 0..rows {
                let row = Row(from.0 + index);
                let crc = match block.get((next + index) as usize) {
                    Entry::Written(crc) => crc,
                    Entry::Unwritten => {
                        report.unwritten += 1;
                        continue;
                    }
                    Entry::Lost => {
                        self.note_bad(place, row, member, true, report);
                        continue;
                    }
                };
                let said_by = self.known_of(place, row);
                if said_by == SaidBy::Record {
                    // A destage brings it.
                    continue;
                }
                let is_known = said_by == SaidBy::Entry;
                if !is_known || !self.pool.has_all(place, member, 1 << shape.region_of_row(row)) {
                    report.dirty += 1;
                    continue;
                }
                let at = index as usize * BLOCK_BYTES;
                let answer = match &data {
                    Some(data) => {
                        let data = data.slice(at, at + BLOCK_BYTES);
                        Answer::of(place, row, crc, Ok(data))
                    }
                    None if is_silent => Answer::Silent,
                    // Only the bad ones of a run that can't be read are to be named.
                    None => Answer::of(place, row, crc, ask(row, 1).await),
                };
                match answer {
                    Answer::Right(_) => {}
                    Answer::Differs | Answer::Unreadable => {
                        let is_unreadable = matches!(answer, Answer::Unreadable);
                        self.note_bad(place, row, member, is_unreadable, report);
                        wrong.push((row, member));
                    }
                    // A disk that isn't there has nothing bad: what it holds can't be told now.
                    Answer::Silent => {
                        is_silent = true;
                        report.dirty += 1;
                        continue;
                    }
                }
                report.blocks += 1;
            }
            next += rows;
        }
        found
    }

    fn note_bad(
        &self,
        place: &GroupPlace,
        row: Row,
        member: usize,
        unreadable: bool,
        report: &mut VerifyReport,
    ) {
        if report.bad.len() >= BAD_LISTED_MAX {
            report.more_bad += 1;
            return;
        }
        let Some((number, extent)) = place.members.get(member).copied() else { return };
        let disk = self.pool.member(number);
        let start = disk.as_ref().and_then(|disk| disk.geometry.extent_start(extent));
        let sector = start.map_or(0, |start| start.0) + self.pool.shape().row_sector(row);
        report.bad.push(BadBlock {
            volume_offset_bytes: self.block_of(place, row).unwrap_or(0) * BLOCK_BYTES as u64,
            disk: self.pool.disk_name(number),
            disk_offset_bytes: Lba(sector).byte_offset(),
            unreadable,
        });
    }
}
