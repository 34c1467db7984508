//! Metadata transactions. One is committed when it is durable on **all current copies**; a copy that
//! can't take it leaves the current list by a configuration change first. When the log of the area
//! is full, a checkpoint of the next generation goes to all copies; a copy that joins gets one too.
//!
//! An entry is worth something only behind the entries before it. So under a boot generation of a disk
//! that didn't take all of them, the last one is read back before an answer counts: a disk that was
//! rolled back would take new entries behind a hole, where they are never found.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{
    BLOCK_BYTES, BLOCK_SECTORS, Buffer, Instance, IoError, Lba, SECTOR_BYTES, SectorRange,
};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::io::{RESTARTS_MAX, write_durably};
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::format::{CopySet, DiskId, DiskNumber, RecordNumber};
use crate::metadata::{
    AreaLayout, AreaPosition, CheckpointStamp, EncodedCheckpoint, Inconsistent, LogFull,
    MetaRecord, encode_checkpoint, encode_entry,
};

/// Where the metadata is on its copies.
pub(crate) struct Area {
    layout: AreaLayout,
    position: AreaPosition,
    /// The last record that is known to be on all current copies: what is told to witnesses.
    committed: RecordNumber,
    /// The copies that have everything, each with where it has it.
    copies: BTreeMap<DiskId, CopyPlace>,
    tail: Option<Tail>,
}

#[derive(Clone, Copy, Debug)]
struct CopyPlace {
    /// The slot of its newest checkpoint.
    slot: usize,
    /// The boot generation that took, or showed, the last entry.
    checked: Option<Instance>,
}

/// The first block of the last thing that was committed, by which a copy shows that it has it.
enum Tail {
    /// A checkpoint's header, as it is in either slot.
    Checkpoint([Buffer; 2]),
    /// An entry, and where it is in the log.
    Entry { log_at: u64, head: Buffer },
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
enum CopyFault {
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
    fn is_unfit(self) -> bool {
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
    Checkpoint([EncodedCheckpoint; 2]),
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
        let places = slots.into_iter();
        let copies = places.map(|(disk, slot)| (disk, CopyPlace { slot, checked: None })).collect();
        Area { layout, position, committed, copies, tail: None }
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
                    area.tail = Some(Tail::Entry { log_at: entry.log_at, head });
                    break;
                }
                Err(LogFull::CheckpointDue) => self.write_checkpoint(None).await?,
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
        let (layout, stamp) = {
            let area = self.area.borrow();
            let stamp = CheckpointStamp {
                generation: area.position.generation + 1,
                epoch: self.epoch,
                number: area.position.number,
            };
            (area.layout, stamp)
        };
        let encode = |slot| {
            let encoded = encode_checkpoint(&layout, &self.meta.borrow(), stamp, slot);
            encoded.map_err(|_| CommitError::TooLarge)
        };
        let encoded = [encode(0)?, encode(1)?];
        let after = encoded[0].after;
        let head = |slot: usize| Buffer::copy_of(&encoded[slot].bytes[..BLOCK_BYTES]);
        let tail = Tail::Checkpoint([head(0), head(1)]);
        let piece = Piece::Checkpoint(encoded);
        let is_current = |member: &Rc<Member>| {
            self.metadata_members().iter().any(|current| current.number == member.number)
        };
        let mut wrote = BTreeMap::new();
        if let Some(member) = joins.filter(|member| !is_current(member)) {
            let written = self.write_piece(member, &piece);
            if let Ok(place) = self.within_copy(self.limits.background, written).await {
                wrote.insert(member.id, place);
            }
        }
        wrote.extend(self.write_to_copies(&piece).await?.unwrap_or_default());
        let mut area = self.area.borrow_mut();
        area.position = after;
        area.committed = after.number;
        area.tail = Some(tail);
        // A copy without the newest checkpoint isn't written to before it joins again.
        area.copies = wrote;
        Ok(())
    }

    async fn within_copy<T>(
        &self,
        limit: std::time::Duration,
        work: impl Future<Output = Result<T, CopyFault>>,
    ) -> Result<T, CopyFault> {
        let done = runtime::timeout(&self.runtime, limit, work).await;
        done.unwrap_or(Err(CopyFault::Io(IoError::Lost)))
    }

    /// Whether a disk's metadata area has all that is committed.
    pub(crate) fn has_metadata(&self, disk: DiskId) -> bool {
        self.area.borrow().copies.contains_key(&disk)
    }

    /// Whether the copy on a disk that is taken in has all that is committed. One that hasn't leaves
    /// the list, if it isn't the last on it. The caller holds `meta_lock`.
    pub(crate) async fn check_copy(self: &Rc<Self>, member: &Rc<Member>) -> Result<bool, Ended> {
        let index = self.vote_index(member.id);
        let index = index.filter(|index| self.config.borrow().copies.contains(*index));
        let Some(index) = index.filter(|_| self.has_metadata(member.id)) else { return Ok(false) };
        let shown = self.within_copy(self.limits.claim, self.shows_tail(member)).await;
        match shown {
            Ok(instance) => {
                if let Some(place) = self.area.borrow_mut().copies.get_mut(&member.id) {
                    place.checked = Some(instance);
                }
                Ok(true)
            }
            Err(CopyFault::Older) => {
                if self.leave_older(&[index]).await? {
                    self.area.borrow_mut().copies.remove(&member.id);
                }
                Ok(false)
            }
            // A disk that doesn't answer is another's business; the next entry asks again.
            Err(CopyFault::Io(_)) => Ok(true),
        }
    }

    /// Takes older copies off the current list, unless no other would be left; tells which.
    async fn leave_older(self: &Rc<Self>, older: &[usize]) -> Result<bool, Ended> {
        let without = |copies: CopySet| older.iter().fold(copies, |set, index| set.without(*index));
        self.change_configuration(|config| {
            let copies = without(config.copies);
            let changes = !copies.is_empty() && copies != config.copies;
            config.copies = if changes { copies } else { config.copies };
            changes
        })
        .await?;
        let copies = self.config.borrow().copies;
        Ok(without(copies) == copies)
    }

    /// The boot generation under which a copy shows the last thing that was committed.
    async fn shows_tail(&self, member: &Member) -> Result<Instance, CopyFault> {
        let device = member.device().ok_or(IoError::Lost)?;
        let (at, expected) = {
            let area = self.area.borrow();
            let place = area.copies.get(&member.id).ok_or(CopyFault::Older)?;
            match area.tail.as_ref().ok_or(CopyFault::Older)? {
                Tail::Checkpoint(heads) => {
                    (area.layout.checkpoint_offset(place.slot), heads[place.slot].clone())
                }
                Tail::Entry { log_at, head } => {
                    (area.layout.log_offset(place.slot) + log_at, head.clone())
                }
            }
        };
        let read = device.read(SectorRange::new(sector_at(member, at), BLOCK_SECTORS)).await;
        match read {
            Ok(read) if *read.value == *expected => Ok(read.instance),
            Ok(_) | Err(IoError::Medium(_)) => Err(CopyFault::Older),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes something to a copy; where it has everything then.
    async fn write_piece(
        &self,
        member: &Rc<Member>,
        piece: &Piece<'_>,
    ) -> Result<CopyPlace, CopyFault> {
        let device = member.device().filter(|_| member.claimed.get()).ok_or(IoError::Lost)?;
        let place = self.area.borrow().copies.get(&member.id).copied();
        let (log_at, bytes) = match piece {
            Piece::Checkpoint(encoded) => {
                let slot = place.map_or(0, |place| 1 - place.slot);
                let start = sector_at(member, encoded[slot].at);
                let written = write_durably(&*device, start, encoded[slot].bytes.clone()).await?;
                return Ok(CopyPlace { slot, checked: Some(written.instance) });
            }
            Piece::Entry { log_at, bytes } => (*log_at, *bytes),
        };
        let place = place.ok_or(CopyFault::Older)?;
        let at = self.area.borrow().layout.log_offset(place.slot) + log_at;
        for _ in 0..RESTARTS_MAX {
            let start = sector_at(member, at);
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

fn sector_at(member: &Member, offset: u64) -> Lba {
    let start = member.geometry.metadata_start();
    Lba(start.0 + offset / SECTOR_BYTES as u64)
}
