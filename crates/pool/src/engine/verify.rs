//! Verification: every written block of one copy, or of all, is read and compared with its stored checksum, and
//! holders of checksum blocks are shown to have what counts. What is bad is repaired from another copy, as if it
//! had been read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
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
use crate::format::{ChecksumBlock, DiskNumber, Entry, ExtentShape, GenerationId, Row};
use crate::metadata::Volume as VolumeMeta;
use crate::report::{BadBlock, Progress, VerifyReport};

/// Bad blocks that a report lists.
const BAD_LISTED_MAX: usize = 100;
/// Rows read at once: so many that a hard disk, which reads elsewhere in between, is busy with reading rather than
/// with getting there.
const RUN_ROWS: u32 = 512;

/// For so long is waited for a group that others work on, where not all of them are awaited: a destage takes
/// seconds, and one that needs a disk that is gone takes until it is back.
const GROUP_MAX: Duration = Duration::from_secs(30);

/// What becomes of a group whose checksums somebody has who doesn't answer, or that somebody works on who waits
/// for such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// He is waited for, however long he is gone.
    Awaited,
    /// Nothing of it is compared.
    LeftOut,
}

/// How a group is verified.
pub(super) struct Manner {
    /// One copy, or all.
    copy: Option<u8>,
    silent: Silent,
    /// Disks that were silent once: of them no more is asked, each time would take as long, with the lock.
    unanswered: RefCell<BTreeSet<DiskNumber>>,
}

impl Manner {
    pub(super) fn of(copy: Option<u8>, silent: Silent) -> Manner {
        Manner { copy, silent, unanswered: RefCell::default() }
    }
}

/// What was found among some rows.
#[derive(Default)]
struct Found {
    report: VerifyReport,
    /// Rows, and the members that have them wrong.
    wrong: Vec<(Row, usize)>,
    /// Bytes that were asked for.
    read_bytes: u64,
    /// Somebody else works on the group and doesn't end: the rest of it isn't read either.
    is_held: bool,
}

impl Found {
    /// So many blocks that weren't compared.
    fn dirty(blocks: u64) -> Found {
        Found {
            report: VerifyReport { dirty: blocks, ..VerifyReport::default() },
            ..Found::default()
        }
    }
}

impl VerifyReport {
    /// Adds what was found elsewhere.
    pub(super) fn add(&mut self, other: VerifyReport) {
        self.blocks += other.blocks;
        self.unwritten += other.unwritten;
        self.dirty += other.dirty;
        self.repaired += other.repaired;
        self.lost += other.lost;
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
            let manner = Manner::of(copy, Silent::Awaited);
            let group = self.verify_group(*generation, manner, unhurried);
            report.add(self.pool.unless_over(group).await??.unwrap_or_default());
        }
        progress(Progress { done_bytes: total_bytes, total_bytes });
        Ok(report)
    }

    /// Brings what the log holds into place, so that it is verified there.
    async fn replay_for_verify(self: &Rc<Self>) -> Result<(), Ended> {
        let last = self.log.state.borrow().releasable();
        if self.pending.borrow().is_empty() || self.pool.read_only {
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
    /// these, not for all. `rest` is told how many bytes were read and for how long, and may take its time; none if
    /// it says that nobody wants to know any more.
    pub(super) async fn verify_group(
        self: &Rc<Self>,
        generation: GenerationId,
        manner: Manner,
        rest: impl AsyncFn(u64, Duration) -> bool,
    ) -> Result<Option<VerifyReport>, Ended> {
        let mut report = VerifyReport::default();
        let (shape, shown) = (self.pool.shape(), Cell::new(false));
        for index in 0..shape.checksum_blocks() {
            let begun = self.pool.runtime.now();
            let part = self.verify_part(generation, index, &manner, &shown).await?;
            let Some(part) = part else { break };
            report.add(part.report);
            if part.is_held {
                let rest = (index + 1..shape.checksum_blocks()).map(|at| shape.rows_of_block(at).1);
                let members = self.pool.group_by_generation(generation);
                let members = members.map_or(0, |place| place.members.len() as u64);
                report.dirty += rest.map(u64::from).sum::<u64>() * members;
                break;
            }
            if !rest(part.read_bytes, self.pool.runtime.now().since(begun)).await {
                return Ok(None);
            }
        }
        Ok(Some(report))
    }

    /// Waits for who else works on a group, as long as suits; none if he goes on for too long.
    async fn as_long_as_suits<T>(
        &self,
        manner: &Manner,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        match manner.silent {
            Silent::Awaited => Some(work.await),
            Silent::LeftOut => runtime::timeout(&self.pool.runtime, GROUP_MAX, work).await.ok(),
        }
    }

    /// Verifies the rows of a checksum block, and repairs what is bad; none if the group isn't there any more.
    /// `shown` says whether its members were already asked to show what they have.
    async fn verify_part(
        self: &Rc<Self>,
        generation: GenerationId,
        index: u32,
        manner: &Manner,
        shown: &Cell<bool>,
    ) -> Result<Option<Found>, Ended> {
        let shape = self.pool.shape();
        let (_, rows) = shape.rows_of_block(index);
        loop {
            let lock = self.as_long_as_suits(manner, self.pool.lock_group(generation)).await;
            let Some(place) = self.pool.group_by_generation(generation) else { return Ok(None) };
            let all = u64::from(rows) * place.members.len() as u64;
            let Some(lock) = lock else {
                return Ok(Some(Found { is_held: true, ..Found::dirty(all) }));
            };
            if !place.initialised {
                let mut found = Found::default();
                found.report.unwritten = u64::from(rows);
                return Ok(Some(found));
            }
            if index == 0 {
                // As the disks have them now.
                self.checksums.forget(generation, shape);
            }
            let left_out = manner.silent == Silent::LeftOut;
            let block = match self.checksum_block(&place, index..shape.checksum_blocks()).await {
                Ok(loaded) => Some(loaded.block),
                // A disk that is away may have it.
                Err(LoadError::Doubtful(doubt)) if left_out && !doubt.is_lost => {
                    return Ok(Some(Found::dirty(all)));
                }
                Err(LoadError::Doubtful(_)) => None,
                Err(LoadError::Unreachable(_))
                    if left_out || self.pool.all_stay_away(&place, ExtentShape::CHECKSUMS) =>
                {
                    return Ok(Some(Found::dirty(all)));
                }
                // Not with the lock held: a destage that needs it would wait for them too.
                Err(LoadError::Unreachable(disks)) => {
                    drop(lock);
                    self.wait_for_holders(&disks).await?;
                    continue;
                }
            };
            // A disk that doesn't answer is for those to see to who need it.
            let read_only = self.pool.read_only;
            let unseen = match shown.replace(true) || read_only {
                true => 0,
                false => self.try_show(&place).await.len(),
            };
            let mut found = self.verify_block(&place, index, block.as_deref(), manner).await;
            found.report.dirty += unseen as u64;
            drop(lock);
            let wrong = std::mem::take(&mut found.wrong);
            for (row, member) in wrong.into_iter().filter(|_| !read_only) {
                let Some((disk, _)) = place.members.get(member).copied() else { continue };
                let repair = self.repair_now(generation, row, disk);
                let Some(is_right) = self.as_long_as_suits(manner, repair).await else {
                    found.is_held = true;
                    break;
                };
                found.report.repaired += u64::from(is_right);
            }
            return Ok(Some(found));
        }
    }

    /// The rows of a checksum block, on all members at once; without the block they are all in doubt.
    async fn verify_block(
        self: &Rc<Self>,
        place: &GroupPlace,
        index: u32,
        block: Option<&ChecksumBlock>,
        manner: &Manner,
    ) -> Found {
        let (first, count) = self.pool.shape().rows_of_block(index);
        let mut all = Found::default();
        let Some(block) = block else {
            for row in (first.0..first.0 + count).map(Row) {
                self.note_bad(place, row, 0, true, &mut all.report);
            }
            return all;
        };
        let is_asked = |member: &usize| manner.copy.is_none_or(|copy| usize::from(copy) == *member);
        let members = (0..place.members.len()).filter(is_asked);
        let found =
            members.map(|member| self.verify_rows(place, block, (first, count), member, manner));
        for found in join_all(found).await {
            all.report.add(found.report);
            all.wrong.extend(found.wrong);
            all.read_bytes += found.read_bytes;
        }
        all
    }

    async fn verify_rows(
        self: &Rc<Self>,
        place: &GroupPlace,
        block: &ChecksumBlock,
        (first, count): (Row, u32),
        member: usize,
        manner: &Manner,
    ) -> Found {
        let shape = self.pool.shape();
        let mut found = Found::default();
        let Some((disk, _)) = place.members.get(member).copied() else { return found };
        let mut is_silent = manner.unanswered.borrow().contains(&disk);
        let has = |row| self.pool.has_all(place, member, 1 << shape.region_of_row(row));
        let Found { report, wrong, read_bytes, .. } = &mut found;
        let ask = |first, count| {
            let reading = self.ask(place, first, count, member);
            self.pool.within_while_in(disk, self.pool.limits.background, reading)
        };
        let mut next = 0;
        while next < count {
            let rows = RUN_ROWS.min(count - next);
            let from = Row(first.0 + next);
            let is_wanted = |row: u32| {
                block.get((next + row) as usize).checksum().is_some() && has(Row(from.0 + row))
            };
            let data = if !is_silent && (0..rows).any(is_wanted) {
                *read_bytes += u64::from(rows) * BLOCK_BYTES as u64;
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
                        report.blocks += 1;
                        report.lost += 1;
                        continue;
                    }
                };
                let said_by = self.known_of(place, row);
                if said_by == SaidBy::Record {
                    // A destage brings it.
                    continue;
                }
                let is_known = said_by == SaidBy::Entry;
                if !is_known || !has(row) {
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
                    None => {
                        *read_bytes += BLOCK_BYTES as u64;
                        Answer::of(place, row, crc, ask(row, 1).await)
                    }
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
        if is_silent {
            manner.unanswered.borrow_mut().insert(disk);
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
