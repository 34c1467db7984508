//! Repairing single blocks and checksum blocks on one member, from the others, under the group's lock
//! and only after verifying there once more that it is needed.

use std::rc::Rc;

use block::{BLOCK_BYTES, BLOCK_SECTORS, Buffer, Lba};

use super::checksums::LoadError;
use super::io::{read_run, write_durably};
use super::lease::Ended;
use super::pool::GroupPlace;
use super::volume::Volume;
use crate::format::{BirthId, CHECKSUM_ENTRIES, ChecksumBlock, Role, Row, row_checksum};
use crate::report::PoolEvent;

/// Repairs that wait or run at once; more are dropped, and found again by the next read.
const REPAIRS_MAX: usize = 64;
/// What takes the place of checksums of which every copy was lost: reads of those rows fail by name.
pub(super) const POISON: u32 = 0xdead_0bad;
/// Above every sequence in use, for a block whose sequence was lost with it.
const SEQUENCE_AFTER_LOSS: u64 = 1 << 48;

impl Volume {
    /// Repairs a row on a member in the background.
    pub(crate) fn repair_soon(self: &Rc<Self>, group: BirthId, row: Row, member: usize) {
        let key = (group, row, member);
        let mut repairing = self.repairing.borrow_mut();
        if repairing.len() >= REPAIRS_MAX || !repairing.insert(key) {
            return;
        }
        let volume = Rc::clone(self);
        self.pool.runtime.spawn(async move {
            let repair = volume.repair_row(group, row, member);
            // The pool's end ends the repair; nothing was promised.
            let _ = volume.pool.unless_over(repair).await;
            volume.repairing.borrow_mut().remove(&key);
        });
    }

    async fn repair_row(self: &Rc<Self>, birth: BirthId, row: Row, bad: usize) {
        let _lock = self.pool.group_lock(birth).acquire(1).await;
        let Some(group) = self.pool.group_by_birth(birth) else { return };
        let shape = self.pool.shape();
        let (index, entry) = shape.entry_of(row);
        let loaded = self.checksum_block(&group, index).await;
        let Some(crc) = loaded.ok().and_then(|loaded| loaded.block.get(entry)) else { return };
        let Some((member, device, start)) = self.pool.extent_of(&group, bad) else { return };
        let sector = Lba(start.0 + shape.row_sector(row));
        member.checksum_errors.set(member.checksum_errors.get() + 1);
        let here = self.read_checked(&group, row, bad, crc).await;
        if here.is_some() {
            return;
        }
        let region = 1 << shape.region_of_row(row);
        for other in (0..group.members.len()).filter(|other| *other != bad) {
            if !self.pool.has_all(birth, other, region) {
                continue;
            }
            let Some(right) = self.read_checked(&group, row, other, crc).await else { continue };
            let write = write_durably(&*device, sector, right);
            let limit = self.pool.limits.background;
            let written = self.pool.within_while_in(member.number, limit, write).await;
            if written.is_ok() && self.read_checked(&group, row, bad, crc).await.is_some() {
                self.repaired_blocks.set(self.repaired_blocks.get() + 1);
                self.pool.events.tell(PoolEvent::Repaired {
                    pool: self.pool.name.clone(),
                    volume: self.name.clone(),
                    disk: member.display_name(),
                    disk_offset_bytes: sector.byte_offset(),
                });
            }
            return;
        }
    }

    /// A row as one member has it, if that is right.
    pub(crate) async fn read_checked(
        &self,
        group: &GroupPlace,
        row: Row,
        member: usize,
        crc: u32,
    ) -> Option<Buffer> {
        let (_, device, start) = self.pool.extent_of(group, member)?;
        let sector = Lba(start.0 + self.pool.shape().row_sector(row));
        let reading = read_run(&*device, sector, BLOCK_SECTORS);
        let data = self.pool.within(self.pool.limits.exclusion, reading).await.ok()?;
        let right = data.len() == BLOCK_BYTES
            && row_checksum(group.birth, row, Role::Data(0), &data) == crc;
        right.then_some(data)
    }

    /// Brings lagging or damaged copies of a checksum block up to date in the background.
    pub(crate) fn mend_checksums_soon(self: &Rc<Self>, group: BirthId, index: u32) {
        let key = (group, Row(u32::MAX - index), usize::MAX);
        let mut repairing = self.repairing.borrow_mut();
        if repairing.len() >= REPAIRS_MAX || !repairing.insert(key) {
            return;
        }
        let volume = Rc::clone(self);
        self.pool.runtime.spawn(async move {
            let mending = async {
                let _lock = volume.pool.group_lock(group).acquire(1).await;
                if let Some(place) = volume.pool.group_by_birth(group) {
                    let _ = volume.level_checksums(&place, index).await;
                }
            };
            let _ = volume.pool.unless_over(mending).await;
            volume.repairing.borrow_mut().remove(&key);
        });
    }

    /// The newest checksum block, after every usable holder has it: only then may a newer one
    /// overwrite the other slot. The caller holds the group's lock.
    pub(crate) async fn level_checksums(
        self: &Rc<Self>,
        group: &GroupPlace,
        index: u32,
    ) -> Result<ChecksumBlock, Ended> {
        loop {
            match self.checksum_block(group, index).await {
                Ok(loaded) if loaded.lagging.is_empty() => return Ok((*loaded.block).clone()),
                Ok(loaded) => {
                    for member in loaded.lagging.iter() {
                        self.write_checksums(group, &loaded.block, *member).await;
                    }
                    let block = (*loaded.block).clone();
                    self.checksums.replace(block.clone());
                    return Ok(block);
                }
                Err(LoadError::Unreachable) => self.wait_for_change().await?,
                Err(LoadError::Damaged) => return Ok(self.poisoned(group, index)),
            }
        }
    }

    /// Writes a checksum block to both slots of a member; the other slot gets it under the sequence
    /// before.
    pub(crate) async fn write_checksums(
        &self,
        group: &GroupPlace,
        block: &ChecksumBlock,
        member: usize,
    ) -> bool {
        let shape = self.pool.shape();
        let Some((disk, device, start)) = self.pool.extent_of(group, member) else { return false };
        let mut older = block.clone();
        older.sequence = block.sequence.checked_sub(1).unwrap_or(1);
        let sectors = [block, &older].map(|block| {
            let sector = Lba(start.0 + shape.checksum_sector(block.index, block.slot()));
            (sector, block.encode())
        });
        // The newest first: the other slot may hold the only sound one until it is durable.
        for (sector, bytes) in sectors {
            let write = write_durably(&*device, sector, bytes);
            let limit = self.pool.limits.background;
            if self.pool.within_while_in(disk.number, limit, write).await.is_err() {
                return false;
            }
        }
        self.pool.events.tell(PoolEvent::StructureRepaired {
            pool: self.pool.name.clone(),
            disk: disk.display_name(),
            what: "checksum block".into(),
            disk_offset_bytes: Lba(start.0 + shape.checksum_sector(block.index, 0)).byte_offset(),
        });
        true
    }

    fn poisoned(&self, group: &GroupPlace, index: u32) -> ChecksumBlock {
        tracing::error!(volume = %self.name, group = %group.birth, index, "checksums lost");
        let mut block = ChecksumBlock::unwritten(group.birth, index, SEQUENCE_AFTER_LOSS);
        (0..CHECKSUM_ENTRIES).for_each(|entry| block.set(entry, Some(POISON)));
        block
    }
}
