//! What can't be brought into place now, because no member that is in has some of its regions or its
//! checksums are doubtful, is appended to the log again: so release advances, and the rest of the volume
//! goes on. It stays in memory for readers, and goes into place once the members are back.
//!
//! Numbers are given under the `writing` permit. What pending has is the newest of all that is durable,
//! and whatever is queued meanwhile gets a higher number; so a repetition never supersedes a newer write.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use block::BLOCK_BYTES;

use super::destage::GroupDestage;
use super::lease::Ended;
use super::volume::Volume;
use super::volume::log::{Append, Batch, take_batch};
use super::volume::pending::{PendingBlock, gather};
use crate::format::{GenerationId, RecordBody, RecordNumber, Row, RowRange, SegmentNumber};
use crate::layout::{RowAddress, VolumeBlock};

/// At most this part of the log is for repetitions: as much as writers never get.
const AGAIN_PART: u64 = 8;

impl Volume {
    /// Waits a little for members of the groups that lack one; then appends what these groups were to
    /// get again, and takes them out. More than the log has room for waits: status says for whom.
    pub(crate) async fn set_stuck_aside(
        self: &Rc<Self>,
        destages: &mut Vec<GroupDestage>,
        last: RecordNumber,
    ) -> Result<(), Ended> {
        let until = self.pool.runtime.now() + self.pool.limits.eviction;
        loop {
            let is_stuck =
                |destage: &GroupDestage| destage.is_doubtful || !self.has_right_members(destage);
            let blocks: usize = destages
                .iter()
                .filter(|destage| is_stuck(destage))
                .map(|destage| destage.rows.len())
                .sum();
            if blocks == 0 {
                return Ok(());
            }
            let log = u64::from(self.log_shape.segments_max) * self.largest_segment_bytes();
            let fits = blocks as u64 * 2 * BLOCK_BYTES as u64 <= log / AGAIN_PART;
            if !fits || self.pool.runtime.now() < until {
                self.wait_for_change().await?;
                for destage in destages.iter_mut().filter(|destage| destage.is_doubtful) {
                    self.pool.unless_over(self.load_for(destage)).await??;
                }
                continue;
            }
            let (stuck, ready) = std::mem::take(destages).into_iter().partition(is_stuck);
            *destages = ready;
            self.append_stuck(stuck, last).await?;
        }
    }

    async fn append_stuck(
        self: &Rc<Self>,
        stuck: Vec<GroupDestage>,
        last: RecordNumber,
    ) -> Result<(), Ended> {
        // Who holds the permit may wait for the room that comes of this.
        self.log.may_exceed.set(true);
        let appended = self.append_rows(&stuck, last).await;
        self.log.may_exceed.set(false);
        let number = self.pool.config.borrow().number;
        // Where members are missing, their return is what it waits for.
        let doubted = |destage: &GroupDestage| {
            (destage.is_doubtful && self.has_right_members(destage)).then_some(number)
        };
        let stuck = stuck.iter().map(|destage| (destage.group.generation, doubted(destage)));
        self.log.stuck.borrow_mut().extend(stuck);
        appended
    }

    async fn append_rows(
        self: &Rc<Self>,
        stuck: &[GroupDestage],
        last: RecordNumber,
    ) -> Result<(), Ended> {
        let _writing = self.pool.unless_over(self.log.writing.acquire(1)).await?;
        let mut appends: VecDeque<Append> = VecDeque::new();
        for destage in stuck {
            for row in destage.rows.keys() {
                let at = RowAddress { set: destage.group.set, lane: destage.group.lane, row: *row };
                let Some(VolumeBlock(block)) = self.stripes.block_of(at) else { continue };
                let pending = self.pending.borrow().get(block).cloned();
                // A newer record has it by now.
                if let Some(pending) = pending.filter(|pending| pending.number <= last) {
                    let body = body_of(destage.group.generation, *row, &pending);
                    appends.push_back(Append::own(block, body));
                }
            }
        }
        // In a segment of its own, so that the former ones can go.
        if let Some(current) = self.log.state.borrow_mut().current.as_mut() {
            current.given_up = true;
        }
        self.append_own(appends, |batch, first, segment| self.adopt_batch(&batch, first, segment))
            .await
    }

    /// Appends records of the volume's own; the caller holds the permit to write.
    pub(crate) async fn append_own(
        self: &Rc<Self>,
        mut appends: VecDeque<Append>,
        durable: impl FnMut(Batch, RecordNumber, SegmentNumber),
    ) -> Result<(), Ended> {
        let next = |bytes_max: usize, _| take_batch(&mut appends, bytes_max);
        self.append_batches(next, durable).await
    }

    /// Whether a destage would bring anything into place: what the last one had to append again doesn't
    /// count before its members are back.
    pub(crate) fn has_destageable(&self) -> bool {
        let mut stuck = self.log.stuck.borrow_mut();
        if stuck.is_empty() {
            return true;
        }
        // What was doubtful may be known once another disk is in.
        let number = self.pool.config.borrow().number;
        stuck.retain(|generation, doubted| {
            doubted.map_or_else(|| self.is_without_members(*generation), |under| under == number)
        });
        let pending = self.pending.borrow();
        let mut groups: BTreeSet<GenerationId> = BTreeSet::new();
        for (block, _) in pending.range(0..u64::MAX) {
            let at = self.stripes.locate(VolumeBlock(block)).at;
            groups.extend(self.pool.group_at(self.id, at).map(|group| group.generation));
        }
        groups.iter().any(|generation| !stuck.contains_key(generation))
    }

    fn is_without_members(&self, generation: GenerationId) -> bool {
        let Some(group) = self.pool.group_by_generation(generation) else { return false };
        let there =
            (0..group.members.len()).filter(|index| self.pool.extent_of(&group, *index).is_some());
        let lacking = there.map(|index| self.pool.dirty(&group, index));
        lacking.fold(u64::MAX, |all, dirty| all & dirty) != 0
    }
}

/// The record that says of one row what pending says.
fn body_of(group: GenerationId, row: Row, pending: &PendingBlock) -> RecordBody {
    let rows = RowRange { group, first: row, count: 1 };
    match &pending.data {
        Some(data) if data.is_lost => RecordBody::Lost { rows, checksums: vec![data.crc] },
        Some(data) => {
            RecordBody::Data { rows, checksums: vec![data.crc], payload: gather(&[data]) }
        }
        None => RecordBody::Zero { rows, discard: false },
    }
}
