//! Metadata transactions. One is committed when it is durable on **all current copies**; a copy that
//! can't take it leaves the current list by a configuration change first. When the log of the area
//! is full, a checkpoint of the next generation goes to all copies; a copy that joins gets one too.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{Buffer, IoError, Lba, SECTOR_BYTES};
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;

use super::io::write_durably;
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::format::{DiskId, DiskNumber, RecordNumber};
use crate::metadata::{
    AreaLayout, AreaPosition, CheckpointStamp, Inconsistent, LogFull, MetaRecord,
    encode_checkpoint, encode_entry,
};

/// Where the metadata is on its copies.
pub(crate) struct Area {
    layout: AreaLayout,
    position: AreaPosition,
    /// The slot of each copy's newest checkpoint.
    slots: BTreeMap<DiskId, usize>,
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

impl From<Ended> for CommitError {
    fn from(ended: Ended) -> CommitError {
        CommitError::Ended(ended)
    }
}

/// What a piece of the metadata is written to.
struct Target {
    member: Rc<Member>,
    sector: Lba,
    bytes: Buffer,
}

impl Area {
    pub(crate) fn new(
        layout: AreaLayout,
        position: AreaPosition,
        slots: BTreeMap<DiskId, usize>,
    ) -> Area {
        Area { layout, position, slots }
    }

    /// The last committed record.
    pub(crate) fn last_record(&self) -> RecordNumber {
        self.position.number
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
                encode_entry(&area.layout, &area.position, records)
            };
            match encoded {
                Ok(entry) => {
                    let written = self.write_to_copies(|pool, member| {
                        let area = pool.area.borrow();
                        let slot = area.slots.get(&member.id).copied()?;
                        let at = area.layout.log_offset(slot) + entry.log_at;
                        Some(target(member, at, entry.bytes.clone()))
                    });
                    written.await?;
                    self.area.borrow_mut().position = entry.after;
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
        let mut encoded = Vec::new();
        for slot in 0..2 {
            let checkpoint = encode_checkpoint(&layout, &self.meta.borrow(), stamp, slot);
            encoded.push(checkpoint.map_err(|_| CommitError::TooLarge)?);
        }
        let next_slot = |pool: &Pool, member: &Member| {
            pool.area.borrow().slots.get(&member.id).map_or(0, |slot| 1 - slot)
        };
        let mut wrote: BTreeMap<DiskId, usize> = BTreeMap::new();
        if let Some(member) = joins {
            let slot = next_slot(self, member);
            let target = target(member, encoded[slot].at, encoded[slot].bytes.clone());
            let written = self.within(self.limits.background, write_target(&target)).await;
            if written.is_ok() {
                wrote.insert(member.id, slot);
            }
        }
        self.write_to_copies(|pool, member| {
            let slot = next_slot(pool, member);
            wrote.insert(member.id, slot);
            Some(target(member, encoded[slot].at, encoded[slot].bytes.clone()))
        })
        .await?;
        let mut area = self.area.borrow_mut();
        area.position = encoded[0].after;
        // A copy without the newest checkpoint isn't written to before it joins again.
        area.slots = wrote;
        Ok(())
    }

    /// Whether a disk's metadata area has all that is committed.
    pub(crate) fn has_metadata(&self, disk: DiskId) -> bool {
        self.area.borrow().slots.contains_key(&disk)
    }

    /// Writes something to every current copy; returns when all copies that are current by then have
    /// it.
    async fn write_to_copies(
        self: &Rc<Self>,
        mut make: impl FnMut(&Pool, &Rc<Member>) -> Option<Target>,
    ) -> Result<(), CommitError> {
        let mut done: BTreeSet<DiskNumber> = BTreeSet::new();
        for attempt in 0.. {
            let mut failed: BTreeMap<DiskNumber, IoError> = BTreeMap::new();
            let mut writes = FuturesUnordered::new();
            for member in self.metadata_members() {
                if done.contains(&member.number) {
                    continue;
                }
                failed.insert(member.number, IoError::Lost);
                if let Some(target) = make(self, &member)
                    && target.member.claimed.get()
                {
                    writes.push(async move { (target.member.number, write_target(&target).await) });
                }
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
                    Either::Left((Some((disk, Ok(()))), _)) => {
                        failed.remove(&disk);
                        done.insert(disk);
                    }
                    Either::Left((Some((disk, Err(error))), _)) => {
                        failed.insert(disk, error);
                    }
                    Either::Right((Either::Right(_), _)) => {}
                    Either::Left((None, _)) | Either::Right((Either::Left(_), _)) => break,
                }
            }
            let current = self.metadata_members();
            if !current.is_empty() && current.iter().all(|m| done.contains(&m.number)) {
                return Ok(());
            }
            self.part_with_copies(&failed, &done, attempt).await?;
        }
        Ok(())
    }

    async fn part_with_copies(
        self: &Rc<Self>,
        failed: &BTreeMap<DiskNumber, IoError>,
        done: &BTreeSet<DiskNumber>,
        attempt: usize,
    ) -> Result<(), CommitError> {
        let unfit = |error: &IoError| {
            matches!(error, IoError::Medium(_) | IoError::NoSpace(_) | IoError::ReadOnly)
        };
        let index = |disk| self.member(disk).and_then(|member| self.vote_index(member.id));
        let bad: Vec<usize> = failed
            .iter()
            .filter(|(_, error)| unfit(error))
            .filter_map(|(disk, _)| index(*disk))
            .collect();
        if !bad.is_empty() && !done.is_empty() {
            self.change_configuration(|config| {
                config.copies = bad.iter().fold(config.copies, |copies, i| copies.without(*i));
                true
            })
            .await?;
        }
        let lost = failed.iter().filter(|(_, error)| !unfit(error));
        let lost: BTreeMap<_, _> = lost.map(|(disk, error)| (*disk, *error)).collect();
        // A copy that is the only one with all that was committed stays current though its disk is
        // out: there is nothing to go on with before it is back.
        let alone = done.is_empty() && lost.keys().all(|disk| self.is_out(*disk));
        if alone {
            self.wait_for_change().await?;
        } else if !lost.is_empty() {
            self.exclude(&lost, attempt >= 1).await?;
        }
        Ok(())
    }
}

fn target(member: &Rc<Member>, offset: u64, bytes: Buffer) -> Target {
    let start = member.geometry.metadata_start();
    let sector = Lba(start.0 + offset / SECTOR_BYTES as u64);
    Target { member: Rc::clone(member), sector, bytes }
}

async fn write_target(target: &Target) -> Result<(), IoError> {
    let device = target.member.device().ok_or(IoError::Lost)?;
    write_durably(&*device, target.sector, target.bytes.clone()).await.map(|_| ())
}
