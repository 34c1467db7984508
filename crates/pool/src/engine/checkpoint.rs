//! Writing a checkpoint of the metadata: to all current copies what changed, to one that joins everything.
//! On each the header comes last, once all else is durable there; so until then the newest checkpoint
//! counts, of which nothing is touched (`metadata::checkpoint`).
//!
//! What the checkpoint builds on is on all copies that are **in step**. One that joins loses its headers
//! first: what they name is written over. A current copy that isn't in step leaves the list and joins anew.
//! Where none is in step, because the others are gone and the last one lacks something that was
//! committed, it gets everything, in places that its own headers don't name: what it has stays whole until
//! its new header is there. What can't be read of it now, or is read wrong, may be right after a power cut,
//! and is all that there is then: so all that it may name is kept off as well.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Completion, IoError};
use futures::future::try_join_all;

use super::areas::AreaPlace;
use super::commit::{Checkpoint, CommitError, CopyFault, CopyState, Piece, Writing};
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::format::{DiskId, RecordNumber, Signers};
use crate::metadata::{
    AreaBytes, BlockRun, CheckpointHead, CheckpointSlot, CheckpointStamp, CopyUnusable,
    EncodedCheckpoint, LogFull, Metadata, Placed, StoredCheckpoint, check_header,
    encode_checkpoint, is_credible, read_table,
};
use block::write_durably;

/// What copies take within the time for one write.
const BUNDLE_BYTES: usize = 4 << 20;

/// A disk that takes a whole copy more slowly gets none.
const JOIN_BYTES_PER_SECOND_MIN: u64 = 8 << 20;

/// What must stay until a checkpoint is everywhere.
#[derive(Default)]
struct Ground {
    /// What it builds on; without that it is whole.
    base: Option<StoredCheckpoint>,
    /// What else is in use.
    in_use: Vec<BlockRun>,
    /// What headers and tables may name that weren't read as they should be: kept off while there is room beside it.
    may_be_in_use: Vec<BlockRun>,
    /// The newest sequence there; its slot isn't taken.
    sequence: u64,
}

impl Pool {
    /// Writes what changed of the metadata to all current copies, and all to one that joins them. The
    /// caller holds `meta_lock`.
    pub(crate) async fn write_checkpoint(
        self: &Rc<Self>,
        joins: Option<&Rc<Member>>,
    ) -> Result<(), CommitError> {
        let (metadata, number) = (self.meta.borrow().clone(), self.area.borrow().position.number);
        if self.write_checkpoint_of(&metadata, number, joins).await? {
            self.meta.borrow_mut().forget_changes();
        }
        Ok(())
    }

    /// Writes a checkpoint of the metadata as it is after a record. Tells whether that is committed: a new
    /// record isn't where no copy takes it; and nothing is forgotten where a copy showed that sections
    /// aren't what they should be.
    pub(super) async fn write_checkpoint_of(
        self: &Rc<Self>,
        metadata: &Metadata,
        number: RecordNumber,
        joins: Option<&Rc<Member>>,
    ) -> Result<bool, CommitError> {
        let mut ground = self.ground().await?;
        let whole = ground.base.is_none();
        let encoded = match self.encode(metadata, number, &ground) {
            Ok(encoded) => Ok(encoded),
            Err(full) => match ground.base.as_ref().map(|base| 1 - base.head.slot()) {
                Some(former) if !ground.in_use.is_empty() => {
                    if !self.give_up(former).await? {
                        return Ok(false);
                    }
                    ground.in_use.clear();
                    self.encode(metadata, number, &ground)
                }
                None if !ground.may_be_in_use.is_empty() => {
                    // Only memory has everything, and it has no other place for that.
                    ground.may_be_in_use.clear();
                    self.encode(metadata, number, &ground)
                }
                _ => Err(full),
            },
        };
        let encoded = encoded.map_err(|_| CommitError::TooLarge)?;
        let mut copies = BTreeMap::new();
        let mut trusted = true;
        let is_current = |member: &Rc<Member>| {
            self.metadata_members().iter().any(|current| current.number == member.number)
        };
        let joins = joins.filter(|member| !is_current(member) && !self.awaits_area(member));
        if let Some(member) = joins {
            self.area.borrow_mut().copies.remove(&member.id);
            match self.write_whole(member, metadata, &encoded).await {
                Ok(Some(state)) => drop(copies.insert(member.id, state)),
                Ok(None) => trusted = false,
                Err(_) => {}
            }
        }
        let written = self.write_checkpoint_to_copies(&encoded, whole).await?;
        if written.is_none() && number > self.area.borrow().position.number {
            self.wait_for_change().await?;
            return Ok(false);
        }
        if written.is_none() && whole && copies.is_empty() {
            // Nothing of it was possible: something else must happen first.
            self.wait_for_change().await?;
        }
        copies.extend(written.unwrap_or_default());
        let (header, after) = (encoded.header, encoded.after);
        let former = match &ground.base {
            Some(base) => base.in_use(),
            None => [ground.in_use, ground.may_be_in_use].concat(),
        };
        let newest = (encoded.stored, Checkpoint { header, after });
        let is_everywhere =
            self.config.borrow().copies.iter().all(|disk| copies.contains_key(disk));
        let mut area = self.area.borrow_mut();
        if is_everywhere {
            area.signers = Signers::of(self.key());
        }
        area.advance(newest, former, copies);
        drop(area);
        if !trusted {
            tracing::error!(pool = %self.name, "a section of the metadata differs from memory");
            self.meta.borrow_mut().distrust_sections();
        }
        Ok(trusted)
    }

    /// Makes room where attempts that failed took what there was beside the newest checkpoint and the
    /// former one: the header of those goes, on all copies, before what it names is written over. Tells
    /// whether there is a copy left to go on with.
    async fn give_up(self: &Rc<Self>, slot: usize) -> Result<bool, Ended> {
        let bytes = Buffer::zeroed(BLOCK_BYTES);
        let writing = Writing { piece: Piece::Header { slot, bytes: &bytes }, whole: false };
        let given_up = self.write_to_copies(writing).await?.is_some();
        if given_up {
            self.area.borrow_mut().in_use.clear();
        }
        Ok(given_up)
    }

    fn encode(
        &self,
        metadata: &Metadata,
        number: RecordNumber,
        ground: &Ground,
    ) -> Result<EncodedCheckpoint, LogFull> {
        let mut area = self.area.borrow_mut();
        let above = area.attempted.max(area.position.sequence).max(ground.sequence);
        // Two sequences on, where the next one's slot has what this builds on.
        let is_beside = |sequence: &u64| sequence % 2 != ground.sequence % 2;
        let sequence = [above + 1, above + 2].into_iter().find(is_beside).unwrap_or(above + 1);
        let stamp = CheckpointStamp { sequence, epoch: self.epoch, number };
        let base = ground.base.as_ref();
        let stamp = (stamp, self.keys.as_ref());
        let in_use = [ground.in_use.as_slice(), &ground.may_be_in_use].concat();
        let encoded = encode_checkpoint(&area.layout, metadata, stamp, base, &in_use)?;
        area.attempted = sequence;
        area.in_use.extend(encoded.places());
        Ok(encoded)
    }

    /// Writes a checkpoint to every current copy; what is known of them then.
    async fn write_checkpoint_to_copies(
        self: &Rc<Self>,
        encoded: &EncodedCheckpoint,
        whole: bool,
    ) -> Result<Option<BTreeMap<DiskId, CopyState>>, Ended> {
        let fresh: Vec<Placed> = encoded.fresh().cloned().collect();
        let mut rest = fresh.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|placed| {
                bytes += placed.bytes.len();
                bytes <= BUNDLE_BYTES
            });
            let (bundle, behind) = rest.split_at(fits.count().max(1));
            let writing = Writing { piece: Piece::Placed(bundle), whole };
            if self.write_to_copies(writing).await?.is_none() {
                return Ok(None);
            }
            rest = behind;
        }
        let slot = encoded.after.slot();
        let writing = Writing { piece: Piece::Header { slot, bytes: &encoded.header }, whole };
        let mut copies = self.write_to_copies(writing).await?;
        for state in copies.iter_mut().flat_map(BTreeMap::values_mut) {
            state.read_anew(&encoded.stored.table.sections, &encoded.sections);
        }
        Ok(copies)
    }

    /// Writes a copy anew. Nothing that its headers name is of use from the beginning on. `None` where a
    /// section can't be made again as it was.
    async fn write_whole(
        &self,
        member: &Rc<Member>,
        metadata: &Metadata,
        encoded: &EncodedCheckpoint,
    ) -> Result<Option<CopyState>, CopyFault> {
        let device = member.device().filter(|_| member.claimed.get()).ok_or(IoError::Lost)?;
        let area = self.area_place(member).ok_or(CopyFault::Older)?;
        // Nothing is committed meanwhile: a disk that hangs doesn't take longer than for a foreground write.
        let piece = self.limits.eviction;
        let storing = async {
            self.within(piece, clear_headers(&*device, &area)).await?;
            for section in encoded.all_sections(metadata) {
                let Some(section) = section else { return Ok(None) };
                self.within(piece, store_placed(&*device, &area, &[section])).await?;
            }
            let table = store_placed(&*device, &area, std::slice::from_ref(&encoded.table));
            self.within(piece, table).await?;
            let header = self.within(piece, store_header(&*device, &area, encoded)).await?;
            let checked = Some(header.instance);
            let mut state = CopyState { checked, ..CopyState::default() };
            state.read_anew(&encoded.stored.table.sections, &encoded.sections);
            Ok(Some(state))
        };
        // Nor does a slow one than what it takes calls for.
        let seconds = encoded.stored.bytes() / JOIN_BYTES_PER_SECOND_MIN;
        let limit = self.limits.background + Duration::from_secs(seconds);
        self.within(limit, storing).await
    }

    /// What the next checkpoint builds on and keeps off.
    async fn ground(self: &Rc<Self>) -> Result<Ground, Ended> {
        if self.metadata_members().iter().any(|member| self.has_metadata(member.id)) {
            let area = self.area.borrow();
            return Ok(Ground {
                base: Some(area.base.clone()),
                in_use: area.in_use.clone(),
                sequence: area.base.head.stamp.sequence,
                ..Ground::default()
            });
        }
        let mut attempt = 0;
        loop {
            let mut members = self.metadata_members();
            let answers = |member: &Rc<Member>| member.device().is_some() && member.claimed.get();
            let lone = members.iter().position(answers).unwrap_or(0);
            if lone >= members.len() {
                self.wait_for_change().await?;
                continue;
            }
            let lone = members.remove(lone);
            // Only of one is everything kept.
            let others: Vec<DiskId> = members.iter().map(|other| other.id).collect();
            self.leave_older(&others).await?;
            match self.ground_of(&lone).await {
                Ok(ground) => return Ok(ground),
                Err(CopyFault::Older) => return Ok(Ground::default()),
                Err(fault) => {
                    let failed = [(lone.number, fault)].into();
                    self.part_with_copies(&failed, false, attempt).await?;
                }
            }
            attempt += 1;
        }
    }

    /// What the headers of a copy name that isn't in step.
    async fn ground_of(&self, member: &Rc<Member>) -> Result<Ground, CopyFault> {
        let reader = self.copy_reader(member)?;
        let (layout, mut heads) = (reader.layout(), Vec::<CheckpointHead>::new());
        let mut is_all_read = true;
        for slot in 0..2 {
            let header = match reader.read(layout.checkpoint_offset(slot), BLOCK_BYTES as u64).await
            {
                Err(IoError::Medium(_)) => {
                    is_all_read = false;
                    continue;
                }
                header => header?,
            };
            let found = check_header(&header, self.id, slot, &layout);
            is_all_read &= found != CheckpointSlot::Damaged;
            heads.extend(found.head().cloned());
        }
        {
            let area = self.area.borrow();
            heads.retain(|head| is_credible(head, &area.signers, area.attempted));
        }
        let mut ground = Ground::default();
        heads.sort_unstable_by_key(|head| (head.stamp.epoch, head.stamp.sequence));
        for head in heads {
            ground.sequence = head.stamp.sequence;
            ground.in_use.extend(&head.place);
            match read_table(self.id, &layout, &reader, &head).await {
                Ok(table) => ground.in_use.extend(StoredCheckpoint { head, table }.in_use()),
                Err(CopyUnusable::Unreadable(IoError::Medium(_)) | CopyUnusable::Fault(_)) => {
                    is_all_read = false;
                }
                Err(CopyUnusable::Unreadable(error)) => return Err(error.into()),
            }
        }
        let mut area = self.area.borrow_mut();
        if is_all_read {
            // Of attempts nothing is anywhere but what was found.
            area.in_use.clone_from(&ground.in_use);
        } else {
            ground.sequence = ground.sequence.max(area.base.head.stamp.sequence);
            ground.may_be_in_use = [area.base.in_use(), area.in_use.clone()].concat();
        }
        Ok(ground)
    }
}

/// Leaves no checkpoint in an area: what it names may be written over then.
pub(super) async fn clear_headers(
    device: &dyn BlockDevice,
    area: &AreaPlace,
) -> Result<(), IoError> {
    for slot in 0..2 {
        let at = area.sector_at(area.layout.checkpoint_offset(slot));
        write_durably(device, at, Buffer::zeroed(BLOCK_BYTES)).await?;
    }
    Ok(())
}

/// Writes sections, or a table, durably.
pub(super) async fn store_placed(
    device: &dyn BlockDevice,
    area: &AreaPlace,
    placed: &[Placed],
) -> Result<(), IoError> {
    let runs = placed.iter().flat_map(Placed::runs);
    let writes = runs.map(|(run, bytes)| {
        write_durably(device, area.sector_at(area.layout.run_offset(&run)), bytes)
    });
    try_join_all(writes).await.map(drop)
}

/// Writes the header of a checkpoint, when all else of it is durable: a sound one says that.
pub(super) async fn store_header(
    device: &dyn BlockDevice,
    area: &AreaPlace,
    checkpoint: &EncodedCheckpoint,
) -> Result<Completion<()>, IoError> {
    let at = area.layout.checkpoint_offset(checkpoint.after.slot());
    write_durably(device, area.sector_at(at), checkpoint.header.clone()).await
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
