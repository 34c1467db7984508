//! A right copy of rows that were written. Whom to ask, in which order, what counts as wrong, how often
//! it is looked at again and whom nothing was heard of is decided here and nowhere else, so that reads,
//! repair, resync and verification never judge a disk differently.
//!
//! **The rule.** Bits steer, checksums decide: what matches the believed checksum is right, whoever has it.
//! A member **should have** a row if its bit of the row's region is clear. Those are asked first, the
//! suspect before the others; the members that missed something of the region are the last resort. One that
//! should have a row and hasn't it right is
//! - **wrong** if it answers with something else, or that its medium can't read it: it is to be repaired;
//! - **silent** if it isn't there, doesn't answer in time, or began anew since it was looked at: nothing
//!   follows from that.
//!
//! While nobody is right and somebody's answer differs, all are asked again, some times, unless somebody
//! hangs: what a disk answers may be wrong now and right next time. Then the row is **lost** if all that
//! should have it are wrong, or stay away as long as the pool is open. What is done where somebody is silent depends on the locks that the caller
//! holds: nobody is waited for here.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, BLOCK_SECTORS, Buffer, IoError, Lba};

use super::limits::LOOKS_MAX;
use super::member::Member;
use super::pool::GroupPlace;
use super::volume::Volume;
use crate::format::{Role, Row, row_checksum};

/// Rows read from one member at once before the next run goes to another one.
pub(crate) const SPREAD_ROWS: u32 = 64;

/// A read that begins where the last one of a member ended goes on there, unless so much more waits for it
/// than for another one.
const STAY_BYTES: u64 = 4 << 20;
/// A disk with something small to write that much waits for counts as one with so much more to do.
const AWAITED_BYTES: u64 = 2 * STAY_BYTES;

/// Reads after which the members change their turns.
const READS_PER_TURN: u32 = 16;

/// What a member has in the place of a row.
#[derive(Debug)]
pub(crate) enum Answer {
    Right(Buffer),
    /// Something else.
    Differs,
    /// Its medium can't read it.
    Unreadable,
    /// It gave no answer.
    Silent,
}

impl Answer {
    /// What a read of a row says, of which this is the checksum.
    pub(crate) fn of(
        group: &GroupPlace,
        row: Row,
        crc: u32,
        read: Result<Buffer, IoError>,
    ) -> Answer {
        match read {
            Ok(data) if is_right(group, row, crc, &data) => Answer::Right(data),
            Ok(_) => Answer::Differs,
            Err(error) if is_unreadable(&error) => Answer::Unreadable,
            Err(_) => Answer::Silent,
        }
    }
}

/// A right copy of a row.
#[derive(Debug)]
pub(crate) struct RightCopy {
    pub(crate) data: Buffer,
    /// Members that were found wrong before.
    pub(crate) wrong: Vec<usize>,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRightCopy {
    /// All that should have it are wrong.
    Lost,
    /// Some that should have it are silent.
    Silent {
        /// Others are wrong.
        others_wrong: bool,
    },
}

/// Rows as one member has them.
pub(crate) struct RowsOfOne {
    /// The rows; those that are wrong are to be replaced.
    pub(crate) data: Buffer,
    /// Indices of those that are wrong.
    pub(crate) wrong: Vec<usize>,
    /// Whose they are; nobody's if all of them are wrong because nobody gave them at once.
    pub(crate) member: Option<usize>,
}

impl Volume {
    /// Finds a right copy of a row of which this is the checksum. Takes no longer than the eviction time
    /// for each member that hangs, and as long once more.
    pub(crate) async fn right_copy(
        &self,
        group: &GroupPlace,
        row: Row,
        crc: u32,
        suspect: Option<usize>,
    ) -> Result<RightCopy, NoRightCopy> {
        let limit = self.pool.limits.eviction;
        let region = self.pool.region_mask(row, 1);
        let (begun, mut looks) = (self.pool.runtime.now(), 0);
        loop {
            let should_have = |member| (member, self.pool.has_all(group, member, region));
            let mut order: Vec<(usize, bool)> = (0..group.members.len()).map(should_have).collect();
            order.sort_by_key(|(member, should_have)| (!should_have, Some(*member) != suspect));
            let (mut wrong, mut is_silent, mut differs) = (Vec::new(), false, false);
            let mut stays_away = false;
            for (member, should_have) in order {
                match self.ask_for_row(group, row, crc, member, limit).await {
                    Answer::Right(data) => return Ok(RightCopy { data, wrong }),
                    Answer::Silent if self.pool.stays_away(group.members[member].0) => {
                        stays_away |= should_have;
                    }
                    Answer::Silent => is_silent |= should_have,
                    answer => {
                        differs |= matches!(answer, Answer::Differs);
                        wrong.extend(should_have.then_some(member));
                    }
                }
            }
            looks += 1;
            let is_quick = self.pool.runtime.now().since(begun) < limit;
            if differs && is_quick && looks < LOOKS_MAX {
                continue;
            }
            let others_wrong = !wrong.is_empty();
            return Err(match is_silent {
                false if others_wrong || stays_away => NoRightCopy::Lost,
                _ => NoRightCopy::Silent { others_wrong },
            });
        }
    }

    /// Rows of which these are the checksums, read at once from the least busy member that should have all
    /// of them, or from another one if that takes long.
    pub(crate) async fn rows_of_one(
        &self,
        group: &GroupPlace,
        first: Row,
        crcs: &[u32],
    ) -> RowsOfOne {
        let count = crcs.len() as u32;
        let members = self.by_turns(group, first, self.pool.region_mask(first, count));
        let mut found = None;
        let asks = members
            .into_iter()
            .map(|member| async move { (member, self.ask(group, first, count, member).await) });
        let asked = self.pool.ask_in_turn(asks, |(member, answer)| {
            found = answer.ok().map(|data| (member, data));
            found.is_some()
        });
        asked.await;
        let Some((member, data)) = found else {
            let data = Buffer::zeroed(crcs.len() * BLOCK_BYTES);
            return RowsOfOne { data, wrong: (0..crcs.len()).collect(), member: None };
        };
        let blocks = data.chunks_exact(BLOCK_BYTES).zip(crcs).enumerate();
        let wrong = blocks.filter(|(index, (block, crc))| {
            !is_right(group, Row(first.0 + *index as u32), **crc, block)
        });
        let wrong = wrong.map(|(index, _)| index).collect();
        RowsOfOne { data, wrong, member: Some(member) }
    }

    /// What one member has in the place of a row; silent after `limit`.
    pub(crate) async fn ask_for_row(
        &self,
        group: &GroupPlace,
        row: Row,
        crc: u32,
        member: usize,
        limit: Duration,
    ) -> Answer {
        let read = self.pool.within(limit, self.ask(group, row, 1, member)).await;
        Answer::of(group, row, crc, read)
    }

    /// Rows as one member has them, right or not.
    pub(crate) async fn ask(
        &self,
        group: &GroupPlace,
        first: Row,
        count: u32,
        member: usize,
    ) -> Result<Buffer, IoError> {
        let (member, device, start) = self.pool.extent_of(group, member).ok_or(IoError::Lost)?;
        let sector = Lba(start.0 + self.pool.shape().row_sector(first));
        let sectors = u64::from(count) * BLOCK_SECTORS;
        member.read_until.set(Lba(sector.0 + sectors));
        self.pool.read_member(&member, &*device, sector, sectors).await
    }

    /// The disks that have all of some regions which another one lacks.
    pub(crate) fn givers_of(
        &self,
        group: &GroupPlace,
        target: usize,
        regions: u64,
    ) -> Vec<Rc<Member>> {
        (0..group.members.len())
            .filter(|index| *index != target && self.pool.has_all(group, *index, regions))
            .filter_map(|index| Some(self.pool.extent_of(group, index)?.0))
            .collect()
    }

    /// The members that should have all of some regions, the least busy first.
    fn by_turns(&self, group: &GroupPlace, first: Row, regions: u64) -> Vec<usize> {
        let members = group.members.len();
        // Now and then the other way round, so that each copy is looked at in the long run.
        let reads = self.reads.replace(self.reads.get().wrapping_add(1));
        let turn = (first.0 / SPREAD_ROWS + group.index + reads / READS_PER_TURN) as usize;
        let able = (0..members).filter(|member| self.pool.has_all(group, *member, regions));
        let sector = self.pool.shape().row_sector(first);
        let mut order: Vec<(u64, bool, usize)> = able
            .map(|index| match self.pool.extent_of(group, index) {
                Some((member, _, start)) => {
                    let goes_on = member.read_until.get() == Lba(start.0 + sector);
                    let awaited = u64::from(member.awaited_writes.get() > 0) * AWAITED_BYTES;
                    (member.underway_bytes.get() + awaited, goes_on, index)
                }
                None => (0, false, index),
            })
            .collect();
        let least = order.iter().map(|(busy, ..)| *busy).min().unwrap_or(0);
        order.sort_by_key(|(busy, goes_on, index)| {
            let stays = *goes_on && *busy <= least + STAY_BYTES;
            (!stays, busy >> 18, (index + turn) % members)
        });
        order.into_iter().map(|(_, _, index)| index).collect()
    }
}

pub(super) fn is_right(group: &GroupPlace, row: Row, crc: u32, data: &[u8]) -> bool {
    row_checksum(group.generation, row, Role::Data(0), data) == crc
}

/// The disk answered, and can't read it.
pub(super) fn is_unreadable(error: &IoError) -> bool {
    matches!(error, IoError::Medium(_) | IoError::OutOfRange(_))
}
