//! Verification: every written block of one copy, or of all, is read and compared with its stored
//! checksum. What is bad is reported and then repaired from another copy, as if it had been read.

use std::rc::Rc;

use block::{BLOCK_BYTES, Lba};

use super::belief::LoadError;
use super::known::SaidBy;
use super::lease::Ended;
use super::pool::GroupPlace;
use super::right_copy::{Answer, is_unreadable};
use super::volume::Volume;
use crate::format::{ChecksumBlock, DiskNumber, Entry, Row};
use crate::report::{BadBlock, Progress, VerifyReport};

/// Bad blocks that a report lists.
const BAD_LISTED_MAX: usize = 100;
/// Rows read at once.
const RUN_ROWS: u32 = 128;

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
        let places: Vec<GroupPlace> = {
            let meta = self.pool.meta.borrow();
            let volume = meta.volumes().get(&self.id);
            let generations: Vec<_> = volume
                .into_iter()
                .flat_map(|v| v.groups().map(|group| group.generation()))
                .collect();
            drop(meta);
            generations
                .into_iter()
                .filter_map(|generation| self.pool.group_by_generation(generation))
                .collect()
        };
        let group_bytes = u64::from(self.pool.shape().rows()) * BLOCK_BYTES as u64;
        let total_bytes = places.len() as u64 * group_bytes;
        let mut report = VerifyReport::default();
        for (index, place) in places.iter().enumerate() {
            progress(Progress { done_bytes: index as u64 * group_bytes, total_bytes });
            self.pool.unless_over(self.verify_group(place, copy, &mut report)).await??;
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

    async fn verify_group(
        self: &Rc<Self>,
        place: &GroupPlace,
        copy: Option<u8>,
        report: &mut VerifyReport,
    ) -> Result<(), Ended> {
        loop {
            let lock = self.pool.lock_group(place.generation).await;
            let Some(place) = self.pool.group_by_generation(place.generation) else {
                return Ok(());
            };
            if !place.initialised {
                report.unwritten += u64::from(self.pool.shape().rows());
                return Ok(());
            }
            // As the disks have them now.
            self.checksums.forget(place.generation, self.pool.shape());
            self.mend_checksums_soon(place.generation);
            match self.known_blocks(&place).await {
                Ok(blocks) => {
                    self.verify_blocks(&place, &blocks, copy, report).await;
                    return Ok(());
                }
                // Not with the lock held: a destage that needs it would wait for them too.
                Err(silent) => {
                    drop(lock);
                    self.wait_for_holders(&silent).await?;
                }
            }
        }
    }

    /// A group's checksum blocks, none for those in doubt, unless it must be waited for somebody.
    async fn known_blocks(
        &self,
        place: &GroupPlace,
    ) -> Result<Vec<Option<Rc<ChecksumBlock>>>, Vec<DiskNumber>> {
        let mut blocks = Vec::new();
        let count = self.pool.shape().checksum_blocks();
        for index in 0..count {
            blocks.push(match self.checksum_block(place, index..count).await {
                Ok(loaded) => Some(loaded.block),
                Err(LoadError::Doubtful(_)) => None,
                Err(LoadError::Unreachable(silent)) => return Err(silent),
            });
        }
        Ok(blocks)
    }

    async fn verify_blocks(
        self: &Rc<Self>,
        place: &GroupPlace,
        blocks: &[Option<Rc<ChecksumBlock>>],
        copy: Option<u8>,
        report: &mut VerifyReport,
    ) {
        let shape = self.pool.shape();
        let spans = (0..).map(|index| shape.rows_of_block(index));
        let doubted = blocks.iter().zip(spans.clone()).filter(|(block, _)| block.is_none());
        for (_, (first, count)) in doubted {
            for row in (first.0..first.0 + count).map(Row) {
                self.report_bad(place, row, 0, true, report);
            }
        }
        for member in 0..place.members.len() {
            if copy.is_some_and(|copy| usize::from(copy) != member) {
                continue;
            }
            // Of one that was silent once no more is asked: each time would take as long, with the lock.
            let mut is_silent = false;
            for (block, rows) in blocks.iter().zip(spans.clone()) {
                let Some(block) = block else { continue };
                self.verify_rows(place, block, rows, (member, &mut is_silent), report).await;
            }
        }
    }

    async fn verify_rows(
        self: &Rc<Self>,
        place: &GroupPlace,
        block: &ChecksumBlock,
        (first, count): (Row, u32),
        (member, is_silent): (usize, &mut bool),
        report: &mut VerifyReport,
    ) {
        let shape = self.pool.shape();
        let Some((disk, _)) = place.members.get(member).copied() else { return };
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
            let data = if written && !*is_silent {
                let read = ask(from, rows).await;
                *is_silent = read.as_ref().is_err_and(|error| !is_unreadable(error));
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
                        self.report_bad(place, row, member, true, report);
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
                    None if *is_silent => Answer::Silent,
                    // Only the bad ones of a run that can't be read are to be named.
                    None => Answer::of(place, row, crc, ask(row, 1).await),
                };
                match answer {
                    Answer::Right(_) => {}
                    Answer::Differs => self.report_bad(place, row, member, false, report),
                    Answer::Unreadable => self.report_bad(place, row, member, true, report),
                    // A disk that isn't there has nothing bad: what it holds can't be told now.
                    Answer::Silent => {
                        *is_silent = true;
                        report.dirty += 1;
                        continue;
                    }
                }
                report.blocks += 1;
            }
            next += rows;
        }
    }

    fn report_bad(
        self: &Rc<Self>,
        place: &GroupPlace,
        row: Row,
        member: usize,
        unreadable: bool,
        report: &mut VerifyReport,
    ) {
        self.repair_soon(place, row, &[member]);
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
