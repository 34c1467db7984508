//! Metadata transactions. One is committed when it is durable on **all current copies**; a copy that
//! can't take it leaves the current list by a configuration change first. When the log of the area
//! is full, a checkpoint of the next generation goes to all copies; a copy that joins gets one too, and
//! one that contains it takes the place of a transaction that is too long for the log.
//!
//! An entry is worth something only behind the entries before it. So under a boot generation of a disk
//! that didn't take all of them, the last one is read back before an answer counts: a disk that was
//! rolled back would take new entries behind a hole, where they are never found.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{BLOCK_BYTES, Buffer, Instance, IoError};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::io::{RESTARTS_MAX, write_durably};
use super::lease::Ended;
use super::member::Member;
use super::metadata_copies::store_checkpoint;
use super::pool::Pool;
use crate::format::{DiskId, DiskNumber, RecordNumber};
use crate::metadata::{
    AreaLayout, AreaPosition, CheckpointStamp, EncodedCheckpoint, Inconsistent, LogFull,
    MetaRecord, Metadata, encode_checkpoint, encode_entry,
};

/// Where the metadata is on its copies.
pub(crate) struct Area {
    pub(super) layout: AreaLayout,
    pub(super) position: AreaPosition,
    /// The last record that is known to be on all current copies: what is told to witnesses.
    committed: RecordNumber,
    /// The copies that have everything, each with where it has it.
    pub(super) copies: BTreeMap<DiskId, CopyPlace>,
    /// `None` before the first commit.
    pub(super) checkpoint: Option<Checkpoint>,
    /// The last entry behind it.
    pub(super) last_entry: Option<LastEntry>,
}

/// Where a copy has everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyPlace {
    /// The slot of its newest checkpoint.
    pub(super) slot: usize,
    /// The boot generation that took, or showed, the last entry.
    pub(super) checked: Option<Instance>,
    /// How far it was read back since that checkpoint.
    pub(super) read_back: Option<AreaPosition>,
}

/// The newest checkpoint.
pub(super) struct Checkpoint {
    /// Its header, as it is in either slot.
    pub(super) heads: [Buffer; 2],
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

/// What is written to all copies, each in its own place.
enum Piece<'a> {
    Entry { log_at: u64, bytes: &'a Buffer },
    Checkpoint(EncodedCheckpoint),
}

impl Area {
    /// As it was read: before anything is committed, a checkpoint goes to every copy. Until then the
    /// last record may be on one copy only, and nobody is told that there must be more than `committed`.
    pub(crate) fn new(
        layout: AreaLayout,
        position: AreaPosition,
        slots: BTreeMap<DiskId, usize>,
        committed: RecordNumber,
    ) -> Area {
        let unread = |slot| CopyPlace { slot, checked: None, read_back: None };
        let copies = slots.into_iter().map(|(disk, slot)| (disk, unread(slot))).collect();
        Area { layout, position, committed, copies, checkpoint: None, last_entry: None }
    }

    /// The last committed record.
    pub(crate) fn committed(&self) -> RecordNumber {
        self.committed
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
        let next = self.meta.borrow().with(records).map_err(CommitError::Inconsistent)?;
        loop {
            let encoded = {
                let area = self.area.borrow();
                let config = self.config.borrow().number;
                encode_entry(&area.layout, &area.position, config, records)
            };
            match encoded {
                Ok(entry) => {
                    let piece = Piece::Entry { log_at: entry.log_at, bytes: &entry.bytes };
                    if self.write_to_copies(&piece).await?.is_none() {
                        // Memory is the only place that has it all.
                        self.write_checkpoint(None).await?;
                        continue;
                    }
                    let head = Buffer::copy_of(&entry.bytes[..BLOCK_BYTES]);
                    let mut area = self.area.borrow_mut();
                    area.position = entry.after;
                    area.committed = entry.after.number;
                    area.last_entry = Some(LastEntry { log_at: entry.log_at, head });
                    break;
                }
                Err(LogFull::CheckpointDue) => self.write_checkpoint(None).await?,
                Err(LogFull::EntryTooLong) => {
                    let number = self.area.borrow().position.number.next();
                    if self.write_checkpoint_of(&next, number, None).await? {
                        break;
                    }
                }
                Err(LogFull::AreaTooSmall { .. }) => return Err(CommitError::TooLarge),
            }
        }
        *self.meta.borrow_mut() = next;
        self.changed.notify_all();
        Ok(())
    }

    /// Writes the whole metadata to all current copies, and to one that joins them. The caller holds
    /// `meta_lock`.
    pub(crate) async fn write_checkpoint(
        self: &Rc<Self>,
        joins: Option<&Rc<Member>>,
    ) -> Result<(), CommitError> {
        let (metadata, number) = (self.meta.borrow().clone(), self.area.borrow().position.number);
        self.write_checkpoint_of(&metadata, number, joins).await.map(drop)
    }

    /// Writes a checkpoint of the metadata as it is after a record. Tells whether that is committed: a new
    /// record isn't where no copy takes it.
    async fn write_checkpoint_of(
        self: &Rc<Self>,
        metadata: &Metadata,
        number: RecordNumber,
        joins: Option<&Rc<Member>>,
    ) -> Result<bool, CommitError> {
        let (layout, stamp) = {
            let area = self.area.borrow();
            let generation = area.position.generation + 1;
            (area.layout, CheckpointStamp { generation, epoch: self.epoch, number })
        };
        let encoded = encode_checkpoint(&layout, metadata, stamp);
        let encoded = encoded.map_err(|_| CommitError::TooLarge)?;
        let after = encoded.after;
        let checkpoint = Checkpoint { heads: encoded.headers.clone(), after };
        let piece = Piece::Checkpoint(encoded);
        let is_current = |member: &Rc<Member>| {
            self.metadata_members().iter().any(|current| current.number == member.number)
        };
        let mut wrote = BTreeMap::new();
        let joins = joins.filter(|member| !is_current(member) && !self.awaits_area(member));
        if let Some(member) = joins {
            let written = self.write_piece(member, &piece);
            if let Ok(place) = self.within_copy(self.limits.background, written).await {
                wrote.insert(member.id, place);
            }
        }
        let written = self.write_to_copies(&piece).await?;
        if written.is_none() && number > self.area.borrow().position.number {
            self.wait_for_change().await?;
            return Ok(false);
        }
        wrote.extend(written.unwrap_or_default());
        let mut area = self.area.borrow_mut();
        area.position = after;
        area.committed = after.number;
        area.checkpoint = Some(checkpoint);
        area.last_entry = None;
        // A copy without the newest checkpoint isn't written to before it joins again.
        area.copies = wrote;
        Ok(true)
    }

    /// Writes something to a copy; where it has everything then.
    async fn write_piece(
        &self,
        member: &Rc<Member>,
        piece: &Piece<'_>,
    ) -> Result<CopyPlace, CopyFault> {
        let device = member.device().filter(|_| member.claimed.get()).ok_or(IoError::Lost)?;
        let place = self.area.borrow().copies.get(&member.id).copied();
        let area = self.area_place(member).ok_or(CopyFault::Older)?;
        let (log_at, bytes) = match piece {
            Piece::Checkpoint(encoded) => {
                let slot = place.map_or(0, |place| 1 - place.slot);
                let written = store_checkpoint(&*device, &area, encoded, slot).await?;
                return Ok(CopyPlace { slot, checked: Some(written.instance), read_back: None });
            }
            Piece::Entry { log_at, bytes } => (*log_at, *bytes),
        };
        let place = place.ok_or(CopyFault::Older)?;
        let start = area.sector_at(area.layout.log_offset(place.slot) + log_at);
        for _ in 0..RESTARTS_MAX {
            let took = write_durably(&*device, start, bytes.clone()).await?.instance;
            if place.checked == Some(took) || self.shows_tail(member).await? == took {
                return Ok(CopyPlace { checked: Some(took), ..place });
            }
        }
        Err(IoError::Lost.into())
    }

    /// Writes something to every current copy; returns when all copies that are current by then have
    /// it, and where; `None` when what lies before it is on none of them any more.
    async fn write_to_copies(
        self: &Rc<Self>,
        piece: &Piece<'_>,
    ) -> Result<Option<BTreeMap<DiskId, CopyPlace>>, Ended> {
        let mut done: BTreeMap<DiskNumber, (DiskId, CopyPlace)> = BTreeMap::new();
        for attempt in 0.. {
            let mut failed: BTreeMap<DiskNumber, CopyFault> = BTreeMap::new();
            let mut writes = FuturesUnordered::new();
            for member in self.metadata_members() {
                if done.contains_key(&member.number) {
                    continue;
                }
                failed.insert(member.number, CopyFault::Io(IoError::Lost));
                writes.push(async move {
                    let written = self.write_piece(&member, piece).await;
                    (member, written)
                });
            }
            let was_out: BTreeSet<DiskNumber> =
                failed.keys().copied().filter(|disk| self.is_out(*disk)).collect();
            let mut timer = std::pin::pin!(self.runtime.sleep(self.limits.exclusion));
            loop {
                let changed = std::pin::pin!(self.changed.notified());
                // Whoever else waited for the same disk may have had it put out meanwhile.
                let put_out = |disk: &DiskNumber| self.is_out(*disk) && !was_out.contains(disk);
                if !failed.is_empty() && failed.keys().all(put_out) {
                    break;
                }
                let step = select(writes.next(), select(timer.as_mut(), changed)).await;
                match step {
                    Either::Left((Some((member, Ok(place))), _)) => {
                        failed.remove(&member.number);
                        done.insert(member.number, (member.id, place));
                    }
                    Either::Left((Some((member, Err(fault))), _)) => {
                        failed.insert(member.number, fault);
                    }
                    Either::Right((Either::Right(_), _)) => {}
                    Either::Left((None, _)) | Either::Right((Either::Left(_), _)) => break,
                }
            }
            let current = self.metadata_members();
            if !current.is_empty() && current.iter().all(|m| done.contains_key(&m.number)) {
                let done: BTreeMap<DiskId, CopyPlace> = done.into_values().collect();
                let mut area = self.area.borrow_mut();
                for (disk, place) in &done {
                    area.copies.insert(*disk, *place);
                }
                return Ok(Some(done));
            }
            if !self.part_with_copies(&failed, !done.is_empty(), attempt).await? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Tells whether there is a copy left to go on with.
    async fn part_with_copies(
        self: &Rc<Self>,
        failed: &BTreeMap<DiskNumber, CopyFault>,
        any_done: bool,
        attempt: usize,
    ) -> Result<bool, Ended> {
        let index = |disk| self.member(disk).and_then(|member| self.vote_index(member.id));
        let older = failed.iter().filter(|(_, fault)| **fault == CopyFault::Older);
        let older: Vec<DiskNumber> = older.map(|(disk, _)| *disk).collect();
        if !older.is_empty() {
            let indices: Vec<usize> = older.iter().filter_map(|disk| index(*disk)).collect();
            if !self.leave_older(&indices).await? {
                return Ok(false);
            }
            for member in older.iter().filter_map(|disk| self.member(*disk)) {
                self.area.borrow_mut().copies.remove(&member.id);
                self.readmit_soon(&member);
            }
        }
        let bad = failed.iter().filter(|(_, fault)| fault.is_unfit());
        let bad: Vec<usize> = bad.filter_map(|(disk, _)| index(*disk)).collect();
        if !bad.is_empty() && any_done {
            self.change_configuration(|config| {
                config.copies = bad.iter().fold(config.copies, |copies, i| copies.without(*i));
                true
            })
            .await?;
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
            self.exclude(&lost, attempt >= 1).await?;
        }
        Ok(true)
    }
}
