//! Repairing single blocks and checksum blocks on one member, from the others, under the group's lock
//! and only after verifying there once more that it is needed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use block::{IoError, Lba};
use futures::channel::oneshot;

use super::belief::{Heard, LoadError, hear};
use super::checksums::Loaded;
use super::known::SaidBy;
use super::lease::Ended;
use super::limits::READ_TRIES;
use super::pool::GroupPlace;
use super::right_copy::{Answer, NoRightCopy};
use super::volume::Volume;
use crate::format::{DiskNumber, ExtentShape, GenerationId, Row};
use crate::report::PoolEvent;
use block::write_durably;

/// Repairs that wait or run at once; more are dropped, and found again by the next read.
const REPAIRS_MAX: usize = 64;

/// What became of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// The row is right on that member now.
    Done,
    /// It can't be made so, or needn't be.
    Dropped,
    /// The member, or who has it right, was silent: nothing follows from that.
    Unheard,
}

impl Volume {
    /// Repairs a row in the background on the members that were found wrong.
    pub(crate) fn repair_soon(self: &Rc<Self>, place: &GroupPlace, row: Row, wrong: &[usize]) {
        let group = place.generation;
        if self.pool.read_only {
            return;
        }
        for (disk, _) in wrong.iter().filter_map(|member| place.members.get(*member)).copied() {
            let key = (group, row, disk);
            let is_full = self.repairing.borrow().len() >= REPAIRS_MAX;
            if is_full || !self.repairing.borrow_mut().insert(key) {
                continue;
            }
            let volume = Rc::clone(self);
            self.pool.runtime.spawn(async move {
                // The pool's end ends the repair; nothing was promised.
                let _ = volume.pool.unless_over(volume.repair_once_heard(group, row, disk)).await;
                volume.repairing.borrow_mut().remove(&key);
            });
        }
    }

    /// Repairs a row, again if it wasn't heard whether that is needed: a disk that is slow for a moment, perhaps
    /// with the reads that found the row, would keep it until somebody reads it again.
    async fn repair_once_heard(self: &Rc<Self>, group: GenerationId, row: Row, disk: DiskNumber) {
        for _ in 0..READ_TRIES {
            if self.is_gone() || self.repair_row(group, row, disk).await != Repair::Unheard {
                return;
            }
            self.pool.runtime.sleep(self.pool.limits.rejoin).await;
        }
    }

    /// Repairs a row on a member that was found wrong; tells whether it is right there now.
    pub(super) async fn repair_now(
        self: &Rc<Self>,
        group: GenerationId,
        row: Row,
        disk: DiskNumber,
    ) -> bool {
        let (done, receiver) = oneshot::channel();
        let volume = Rc::clone(self);
        // A task of its own: who gives up mustn't let others at the group in the middle of a write.
        self.pool.runtime.spawn(async move {
            let repair = volume.repair_row(group, row, disk);
            let _ = done.send(volume.pool.unless_over(repair).await);
        });
        matches!(receiver.await, Ok(Ok(Repair::Done)))
    }

    async fn repair_row(
        self: &Rc<Self>,
        generation: GenerationId,
        row: Row,
        bad: DiskNumber,
    ) -> Repair {
        let _lock = self.pool.lock_group(generation).await;
        let group = self.pool.group_by_generation(generation);
        let Some(group) = group else { return Repair::Dropped };
        let position = group.members.iter().position(|(disk, _)| *disk == bad);
        let Some(bad) = position else { return Repair::Dropped };
        let shape = self.pool.shape();
        let (index, entry) = shape.entry_of(row);
        let loaded = self.checksum_block(&group, index..index + 1).await;
        let known = loaded.ok().and_then(|loaded| loaded.block.get(entry).checksum());
        let Some(crc) = known else { return Repair::Dropped };
        if self.known_of(&group, row) != SaidBy::Entry {
            return Repair::Dropped;
        }
        let place = self.pool.extent_of(&group, bad);
        let Some((member, device, start)) = place else { return Repair::Dropped };
        let limits = &self.pool.limits;
        let count = || member.checksum_errors.set(member.checksum_errors.get() + 1);
        let copy = match self.right_copy(&group, row, crc, Some(bad)).await {
            Ok(copy) if copy.wrong.contains(&bad) => {
                count();
                copy
            }
            // A second look may find it right.
            Ok(_) => match self.ask_for_row(&group, row, crc, bad, limits.eviction).await {
                Answer::Right(_) => return Repair::Done,
                _ => return Repair::Unheard,
            },
            Err(NoRightCopy::Lost) => {
                count();
                return Repair::Dropped;
            }
            Err(NoRightCopy::Silent { .. }) => return Repair::Unheard,
        };
        let sector = Lba(start.0 + shape.row_sector(row));
        let write = write_durably(&*device, sector, copy.data);
        let written = self.pool.within_while_in(member.number, limits.background, write).await;
        let reading = self.ask_for_row(&group, row, crc, bad, limits.eviction);
        if written.is_err() || !matches!(reading.await, Answer::Right(_)) {
            return Repair::Dropped;
        }
        self.repaired_blocks.set(self.repaired_blocks.get() + 1);
        self.pool.events.tell(PoolEvent::Repaired {
            pool: self.pool.name.clone(),
            volume: self.name(),
            disk: member.display_name(),
            disk_offset_bytes: sector.byte_offset(),
        });
        Repair::Done
    }

    /// The believed checksum block of a group at the start of `indexes`, of which the others are wanted soon.
    pub(crate) async fn checksum_block(
        &self,
        group: &GroupPlace,
        indexes: Range<u32>,
    ) -> Result<Loaded, LoadError> {
        self.checksums.load(&self.pool, group, indexes).await
    }

    /// Waits for disks whose checksums are needed. Those that take part and don't answer are evicted
    /// first: of who is out, nobody expects an answer.
    pub(crate) async fn wait_for_holders(
        self: &Rc<Self>,
        silent: &[DiskNumber],
    ) -> Result<(), Ended> {
        let silent: BTreeMap<_, _> = silent.iter().map(|disk| (*disk, IoError::Lost)).collect();
        if !silent.is_empty() {
            self.pool.evict(&silent, false).await?;
        }
        self.wait_for_change().await
    }

    /// Brings members that lag behind a span up to date in the background.
    pub(crate) fn mend_checksums_soon(self: &Rc<Self>, group: GenerationId) {
        let key = (group, Row(u32::MAX), DiskNumber(u32::MAX));
        let mut repairing = self.repairing.borrow_mut();
        if self.pool.read_only || repairing.len() >= REPAIRS_MAX || !repairing.insert(key) {
            return;
        }
        let volume = Rc::clone(self);
        self.pool.runtime.spawn(async move {
            let mending = async {
                let _lock = volume.pool.lock_group(group).await;
                if let Some(place) = volume.pool.group_by_generation(group) {
                    let _ = volume.try_show(&place).await;
                }
            };
            let _ = volume.pool.unless_over(mending).await;
            volume.repairing.borrow_mut().remove(&key);
        });
    }

    /// Sees to it that each member that takes part and has missed none of the checksums holds, durably,
    /// what counts: only then may a newer version take the other slot, or a crash during that write
    /// and the loss of the one good holder would together lose checksums that no log names any more.
    /// The caller holds the group's lock.
    pub(crate) async fn show_span(self: &Rc<Self>, group: &GroupPlace) -> Result<(), Ended> {
        for attempt in 0.. {
            let mut silent = self.try_show(group).await;
            if silent.is_empty() {
                return Ok(());
            }
            // One that began anew is being looked at.
            silent.retain(|_, error| !matches!(error, IoError::Restarted { .. }));
            // One that answers a probe each time and never this is of no use either.
            self.pool.evict(&silent, attempt > 1).await?;
            self.wait_for_change().await?;
        }
        Ok(())
    }

    /// Whether all of them were shown to hold it. Of a span of which something is doubtful nothing is
    /// remembered, and what is known of it doesn't lose its place.
    pub(crate) fn is_shown(&self, group: &GroupPlace) -> bool {
        let known = self.checksums.versions(group.generation).is_some();
        !known
            || (0..group.members.len()).all(|index| {
                let holds = self.pool.has_all(group, index, ExtentShape::CHECKSUMS);
                let member = self.pool.extent_of(group, index).map(|(member, ..)| member);
                member.filter(|_| holds).is_none_or(|member| {
                    self.checksums.is_shown(
                        group.generation,
                        member.number,
                        member.seen_instance.get(),
                    )
                })
            })
    }

    /// The same once; returns the members that couldn't be seen to.
    pub(super) async fn try_show(
        self: &Rc<Self>,
        group: &GroupPlace,
    ) -> BTreeMap<DiskNumber, IoError> {
        let shape = self.pool.shape();
        let mut failed = BTreeMap::new();
        for index in 0..group.members.len() {
            let holds = self.pool.has_all(group, index, ExtentShape::CHECKSUMS);
            let Some((member, device, start)) = self.pool.extent_of(group, index) else { continue };
            let seen = member.seen_instance.get();
            if !holds || self.checksums.is_shown(group.generation, member.number, seen) {
                continue;
            }
            let positions = 0..2 * shape.checksum_blocks();
            let hearing = hear(shape, group, index, &*device, start, positions);
            let limit = self.pool.limits.eviction;
            let heard = self.pool.within_while_in(member.number, limit, hearing).await;
            let seen =
                |heard: Heard| self.pool.expect_instance(&member, heard.instance).map(|()| heard);
            let heard = match heard.and_then(seen) {
                Ok(heard) => heard,
                Err(error) => {
                    failed.insert(member.number, error);
                    continue;
                }
            };
            match self.mend_holder(group, &heard).await {
                Ok(true) => {
                    member.seen_instance.set(Some(heard.instance));
                    self.checksums.set_shown(group.generation, member.number, heard.instance);
                }
                // What counts isn't known of all blocks, and what is known it has.
                Ok(false) => {}
                Err(error) => drop(failed.insert(member.number, error)),
            }
        }
        failed
    }

    /// Writes to a member that answered what it lacks of a span; tells whether it has all of it now.
    async fn mend_holder(
        self: &Rc<Self>,
        group: &GroupPlace,
        heard: &Heard,
    ) -> Result<bool, IoError> {
        let shape = self.pool.shape();
        let lost = Err(IoError::Lost);
        let Some((disk, device, start)) = self.pool.extent_of(group, heard.member) else {
            return lost;
        };
        let mut has_all = true;
        let blocks = shape.checksum_blocks();
        for index in 0..blocks {
            let version = self.checksums.version(group.generation, index);
            if version.is_some_and(|version| heard.find(shape, index, version).is_some()) {
                continue;
            }
            // Whatever stands in the way of knowing it is for those who need it to wait for.
            let Ok(loaded) = self.checksum_block(group, index..blocks).await else {
                has_all = false;
                continue;
            };
            let block = loaded.block;
            if heard.find(shape, index, block.version).is_some() {
                continue;
            }
            let sector = Lba(start.0 + shape.checksum_sector(index, block.slot()));
            let write = write_durably(&*device, sector, block.encode());
            let limit = self.pool.limits.background;
            let written = self.pool.within_while_in(disk.number, limit, write).await?;
            if written.instance != heard.instance {
                return Err(IoError::Restarted { now: written.instance });
            }
            self.pool.events.tell(PoolEvent::StructureRepaired {
                pool: self.pool.name.clone(),
                disk: disk.display_name(),
                what: "checksum block".into(),
                disk_offset_bytes: sector.byte_offset(),
            });
        }
        Ok(has_all && self.checksums.versions(group.generation).is_some())
    }
}
