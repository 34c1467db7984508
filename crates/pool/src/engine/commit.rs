//! Metadata transactions. One is committed when it is durable on **all current copies**; a copy that
//! can't take it leaves the current list by a configuration change first. When the log of the area
//! is full, a checkpoint of the next sequence goes to all copies; a copy that joins gets one too, and
//! one that contains it takes the place of a transaction that is too long for the log.
//!
//! An entry is worth something only behind the entries before it. So under a instance of a disk
//! that didn't take all of them, the last one is read back before an answer counts: a disk that was
//! rolled back would take new entries behind a hole, where they are never found.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instance, IoError};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::checkpoint::store_placed;
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use super::underway::Awaited;
use crate::format::{DiskId, DiskNumber, RecordNumber, Signers};
use crate::metadata::{
    AreaLayout, AreaPosition, BlockRun, Foundation, Inconsistent, LogFull, MetaRecord, Placed,
    Section, StoredCheckpoint, encode_entry,
};
use block::write_durably;

/// Where the metadata is on its copies.
pub(crate) struct Area {
    pub(super) layout: AreaLayout,
    pub(super) position: AreaPosition,
    /// The last record that is known to be on all current copies: what is told to witnesses.
    committed: RecordNumber,
    /// The last record of what was found when the pool was opened.
    adopted: RecordNumber,
    /// There was no room for a checkpoint that the log alone was reason for.
    is_too_small: bool,
    /// The copies that have everything: the next checkpoint builds on what they have in common.
    pub(super) copies: BTreeMap<DiskId, CopyState>,
    /// That: the newest checkpoint, which the next one doesn't touch.
    pub(super) base: StoredCheckpoint,
    /// What else their headers may name: the former checkpoint, and attempts that weren't seen to succeed.
    pub(super) in_use: Vec<BlockRun>,
    /// The highest sequence of any attempt.
    pub(super) attempted: u64,
    /// `None` before the first commit.
    pub(super) checkpoint: Option<Checkpoint>,
    /// The last entry behind it.
    pub(super) last_entry: Option<LastEntry>,
    /// Who may have signed what the current copies have.
    pub(super) signers: Signers,
}

/// What is known of a copy that has everything.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyState {
    /// The instance that took, or showed, the last entry.
    pub(super) checked: Option<Instance>,
    /// How far it was read back since the newest checkpoint.
    pub(super) read_back: Option<AreaPosition>,
    /// The sections, by their first block, that weren't read back since they were written.
    pub(super) unread: BTreeSet<u32>,
    /// Those that weren't since the newest checkpoint, which kept them.
    pub(super) kept_unread: BTreeSet<u32>,
    /// These are read in turn: the next one begins here or behind.
    pub(super) reads_from: u32,
}

impl CopyState {
    /// All sections are to be read back, those that were written now first.
    pub(super) fn read_anew(&mut self, all: &[Section], written: &[Placed]) {
        let all = all.iter().filter_map(|section| section.place.first());
        let all: BTreeSet<u32> = all.map(|run| run.first).collect();
        let written = written.iter().filter_map(|placed| placed.place.first());
        self.unread.extend(written.map(|run| run.first));
        self.unread.retain(|at| all.contains(at));
        self.kept_unread = all.difference(&self.unread).copied().collect();
    }
}

/// The newest checkpoint, as this owner wrote it.
pub(super) struct Checkpoint {
    /// Its header.
    pub(super) header: Buffer,
    /// Where its log begins.
    pub(super) after: AreaPosition,
}

/// The first block of an entry, by which a copy shows that it has it.
pub(super) struct LastEntry {
    pub(super) log_at: u64,
    pub(super) head: Buffer,
}

/// Why a transaction wasn't committed. Nothing was changed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// The pool is over.
    Ended(Ended),
    /// The records don't fit the metadata.
    Inconsistent(Inconsistent),
    /// The metadata would be larger than its area.
    TooLarge,
}

/// Why a copy didn't take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyFault {
    Io(IoError),
    /// It lacks entries that were committed.
    Older,
}

impl From<IoError> for CopyFault {
    fn from(error: IoError) -> CopyFault {
        CopyFault::Io(error)
    }
}

impl CopyFault {
    /// Whether it is the copy that is unfit, not the way to it.
    pub(super) fn is_unfit(self) -> bool {
        match self {
            CopyFault::Older => true,
            CopyFault::Io(error) => {
                matches!(error, IoError::Medium(_) | IoError::NoSpace(_) | IoError::ReadOnly)
            }
        }
    }
}

impl From<Ended> for CommitError {
    fn from(ended: Ended) -> CommitError {
        CommitError::Ended(ended)
    }
}

/// What is written to all copies.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    /// An entry of the log.
    Entry { log_at: u64, bytes: &'a Buffer },
    /// Sections and table of a checkpoint.
    Placed(&'a [Placed]),
    /// A checkpoint's header.
    Header { slot: usize, bytes: &'a Buffer },
}

/// A piece, and who may take it.
#[derive(Clone, Copy)]
pub(super) struct Writing<'a> {
    pub(super) piece: Piece<'a>,
    /// Everything is written: also copies that have nothing of it take it.
    pub(super) whole: bool,
}

impl Area {
    /// As it was read: before anything is committed, a checkpoint goes to every copy. Until then the
    /// last record may be on one copy only, and nobody is told that there must be more than `committed`.
    pub(crate) fn new(
        layout: AreaLayout,
        position: AreaPosition,
        (foundation, in_step): (Foundation, Vec<DiskId>),
        committed: RecordNumber,
        signers: Signers,
    ) -> Area {
        let copies = in_step.into_iter().map(|disk| (disk, CopyState::default())).collect();
        Area {
            layout,
            position,
            committed,
            adopted: position.number,
            is_too_small: false,
            copies,
            base: foundation.base,
            in_use: foundation.in_use,
            attempted: position.sequence,
            checkpoint: None,
            last_entry: None,
            signers,
        }
    }

    /// The newest checkpoint is on these copies, and no other is.
    pub(super) fn advance(
        &mut self,
        (stored, checkpoint): (StoredCheckpoint, Checkpoint),
        former: Vec<BlockRun>,
        copies: BTreeMap<DiskId, CopyState>,
    ) {
        self.position = checkpoint.after;
        self.committed = checkpoint.after.number;
        self.is_too_small = false;
        self.base = stored;
        self.in_use = former;
        self.checkpoint = Some(checkpoint);
        self.last_entry = None;
        // A copy without the newest checkpoint isn't written to before it joins again.
        self.copies = copies;
    }

    /// The last committed record.
    pub(crate) fn committed(&self) -> RecordNumber {
        self.committed
    }

    /// The last record that was found when the pool was opened: nothing that was there before knows of a later one.
    pub(crate) fn adopted(&self) -> RecordNumber {
        self.adopted
    }
}

impl Pool {
    /// Commits records that follow from the metadata as it is; a contradiction is a broken invariant
    /// of ours and ends the pool before it does damage.
    pub(crate) async fn commit_locked(
        self: &Rc<Self>,
        records: &[MetaRecord],
    ) -> Result<(), Ended> {
        match self.try_commit_locked(records).await {
            Ok(()) => Ok(()),
            Err(CommitError::Ended(ended)) => Err(ended),
            Err(error) => {
                tracing::error!(pool = %self.name, ?error, ?records, "metadata invariant broken");
                self.lease.end(Ended::Closed);
                Err(Ended::Closed)
            }
        }
    }

    /// Commits records, if they fit. The caller holds `meta_lock`.
    pub(crate) async fn try_commit_locked(
        self: &Rc<Self>,
        records: &[MetaRecord],
    ) -> Result<(), CommitError> {
        if self.has_long_log() {
            match self.write_checkpoint(None).await {
                // There is room in the log; what makes the metadata smaller has to go there.
                Err(CommitError::TooLarge) => self.area.borrow_mut().is_too_small = true,
                written => written?,
            }
        }
        // Made anew after each checkpoint: what changed before it has not changed since.
        let planned = || self.meta.borrow().with(records).map_err(CommitError::Inconsistent);
        let mut next = planned()?;
        loop {
            let encoded = {
                let area = self.area.borrow();
                let config = self.config.borrow().number;
                let signed = (config, self.keys.as_ref());
                encode_entry(&area.layout, &area.position, signed, records)
            };
            match encoded {
                Ok(entry) => {
                    let piece = Piece::Entry { log_at: entry.log_at, bytes: &entry.bytes };
                    let writing = Writing { piece, whole: false };
                    if self.write_to_copies(writing).await?.is_none() {
                        // Memory is the only place that has it all.
                        self.write_checkpoint(None).await?;
                        next = planned()?;
                        continue;
                    }
                    let head = Buffer::copy_of(&entry.bytes[..BLOCK_BYTES]);
                    let mut area = self.area.borrow_mut();
                    area.position = entry.after;
                    area.committed = entry.after.number;
                    area.last_entry = Some(LastEntry { log_at: entry.log_at, head });
                    break;
                }
                Err(LogFull::CheckpointDue) => {
                    self.write_checkpoint(None).await?;
                    next = planned()?;
                }
                Err(LogFull::EntryTooLong) => {
                    let number = self.area.borrow().position.number.next();
                    if self.write_checkpoint_of(&next, number, None).await? {
                        next.forget_changes();
                        break;
                    }
                }
                Err(LogFull::AreaTooSmall { .. }) => return Err(CommitError::TooLarge),
            }
        }
        self.stops.pass_committed(records).await;
        self.note_freed(records);
        self.set_meta(next);
        Ok(())
    }

    /// Whether the log is longer than an opening should have to read: it reads the checkpoint as well, and writing that
    /// more often than after half as much would cost more than it saves.
    fn has_long_log(&self) -> bool {
        let area = self.area.borrow();
        let least = self.limits.metadata_log_bytes;
        let is_long = |bytes| area.position.log_at > bytes;
        !area.is_too_small && is_long(least) && is_long(area.base.bytes() / 2)
    }

    /// Writes something to a copy; what is known of it then.
    async fn write_piece(
        &self,
        member: &Rc<Member>,
        Writing { piece, whole }: Writing<'_>,
    ) -> Result<CopyState, CopyFault> {
        let device = member.device().filter(|_| member.claimed.get()).ok_or(IoError::Lost)?;
        let known = self.area.borrow().copies.get(&member.id).cloned();
        let area = self.area_place(member).ok_or(CopyFault::Older)?;
        let state = known.or(whole.then(CopyState::default)).ok_or(CopyFault::Older)?;
        let _awaited = Awaited::new(member);
        let (start, bytes) = match piece {
            Piece::Placed(placed) => {
                store_placed(&*device, &area, placed).await?;
                return Ok(state);
            }
            Piece::Header { slot, bytes } => {
                let at = area.sector_at(area.layout.checkpoint_offset(slot));
                let checked = Some(write_durably(&*device, at, bytes.clone()).await?.instance);
                return Ok(CopyState { checked, read_back: None, ..state });
            }
            Piece::Entry { log_at, bytes } => {
                let slot = self.area.borrow().position.slot();
                (area.sector_at(area.layout.log_offset(slot) + log_at), bytes)
            }
        };
        let took = write_durably(&*device, start, bytes.clone()).await?.instance;
        if state.checked != Some(took) {
            let now = self.shows_tail(member).await?;
            if now != took {
                return Err(IoError::Restarted { now }.into());
            }
        }
        Ok(CopyState { checked: Some(took), ..state })
    }

    /// Writes something to every current copy; returns when all copies that are current by then have
    /// it, and what is known of them; `None` when what lies before it is on none of them any more.
    pub(super) async fn write_to_copies(
        self: &Rc<Self>,
        writing: Writing<'_>,
    ) -> Result<Option<BTreeMap<DiskId, CopyState>>, Ended> {
        let mut done: BTreeMap<DiskNumber, (DiskId, CopyState)> = BTreeMap::new();
        for attempt in 0.. {
            let mut failed: BTreeMap<DiskNumber, CopyFault> = BTreeMap::new();
            let mut writes = FuturesUnordered::new();
            for member in self.metadata_members() {
                if done.contains_key(&member.number) {
                    continue;
                }
                failed.insert(member.number, CopyFault::Io(IoError::Lost));
                writes.push(async move {
                    let written = self.write_piece(&member, writing).await;
                    (member, written)
                });
            }
            let was_out: BTreeSet<DiskNumber> =
                failed.keys().copied().filter(|disk| self.is_out(*disk)).collect();
            let mut timer = std::pin::pin!(self.runtime.sleep(self.limits.eviction));
            loop {
                let changed = std::pin::pin!(self.changed.notified());
                // Whoever else waited for the same disk may have had it evicted meanwhile.
                let evict = |disk: &DiskNumber| self.is_out(*disk) && !was_out.contains(disk);
                if !failed.is_empty() && failed.keys().all(evict) {
                    break;
                }
                let step = select(writes.next(), select(timer.as_mut(), changed)).await;
                match step {
                    Either::Left((Some((member, Ok(state))), _)) => {
                        failed.remove(&member.number);
                        done.insert(member.number, (member.id, state));
                    }
                    Either::Left((Some((member, Err(fault))), _)) => {
                        failed.insert(member.number, fault);
                    }
                    Either::Right((Either::Right(_), _)) => {}
                    Either::Left((None, _)) | Either::Right((Either::Left(_), _)) => break,
                }
            }
            let current = self.metadata_members();
            let have = current.iter().filter(|m| done.contains_key(&m.number)).count();
            if have > 0 && have == current.len() {
                let done: BTreeMap<DiskId, CopyState> = done.into_values().collect();
                if matches!(writing.piece, Piece::Entry { .. }) {
                    self.note_copies(&done);
                }
                return Ok(Some(done));
            }
            // One that took it and left the list since is none to go on with.
            if !self.part_with_copies(&failed, have > 0, attempt).await? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Keeps what is known of copies by now. What was read back meanwhile isn't forgotten.
    fn note_copies(&self, done: &BTreeMap<DiskId, CopyState>) {
        let mut area = self.area.borrow_mut();
        for (disk, state) in done {
            if let Some(known) = area.copies.get_mut(disk) {
                known.checked = state.checked;
            }
        }
    }

    /// Tells whether there is a copy left to go on with.
    pub(super) async fn part_with_copies(
        self: &Rc<Self>,
        failed: &BTreeMap<DiskNumber, CopyFault>,
        any_done: bool,
        attempt: usize,
    ) -> Result<bool, Ended> {
        let older = failed.iter().filter(|(_, fault)| **fault == CopyFault::Older);
        let older: Vec<DiskNumber> = older.map(|(disk, _)| *disk).collect();
        if !older.is_empty() {
            let ids: Vec<DiskId> = older.iter().filter_map(|disk| self.id_of(*disk)).collect();
            if !self.give_up_copies(&ids).await? {
                // The last one has no place in the list of those in step: it gets everything.
                return Ok(false);
            }
            for member in older.iter().filter_map(|disk| self.member(*disk)) {
                self.re_add_soon(&member);
            }
        }
        // One that is out may be on the list since there was no other; it is nobody's to wait for then.
        let bad = failed.iter().filter(|(disk, fault)| fault.is_unfit() || self.is_out(**disk));
        let bad: Vec<DiskId> = bad.filter_map(|(disk, _)| self.id_of(*disk)).collect();
        if !bad.is_empty() && any_done {
            self.change_configuration(|config| config.leave_copies(&bad)).await?;
        }
        let lost: BTreeMap<DiskNumber, IoError> = failed
            .iter()
            .filter(|(_, fault)| !fault.is_unfit())
            .filter_map(|(disk, fault)| match fault {
                CopyFault::Io(error) => Some((*disk, *error)),
                CopyFault::Older => None,
            })
            .collect();
        if lost.is_empty() && !older.is_empty() {
            return Ok(true);
        }
        // A copy that is the only one with all that was committed stays current though its disk is
        // out: there is nothing to go on with before it is back.
        let alone = !any_done && lost.keys().all(|disk| self.is_out(*disk));
        if alone {
            self.wait_for_change().await?;
        } else if !lost.is_empty() {
            self.evict(&lost, attempt >= 1).await?;
        }
        Ok(true)
    }
}
