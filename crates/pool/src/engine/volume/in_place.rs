//! Large writes in place (docs/engine.md, 10): what goes to rows of which nothing is in place goes there at
//! once, on every position, beside an INTENT that says so, instead of first into the log and then there. Where
//! something is in place, the INTENT is durable first, and one position after another has the rows: so one of
//! them is whole at any instant. What can't, or fails, goes into the log like any other write.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_BYTES, BlockDevice, Buffer, Instance, IoError, Lba, write_durably};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, join, join_all, select};
use runtime::Permit;

use super::Volume;
use super::log::Append;
use super::pending::InPlaceOn;
use super::write::Room;
use crate::engine::member::Member;
use crate::engine::pool::{GroupPlace, ended_error};
use crate::engine::underway::Underway;
use crate::format::{
    ConfigNumber, DiskNumber, Entry, RecordBody, RecordNumber, Row, RowRange, row_checksums,
    sector_checksums,
};
use crate::layout::Piece;
use crate::stats::Purpose;

/// The least that goes in place: 64 KiB.
const ROWS_MIN: u32 = 16;
/// Blocks that are on their way to their places at once: 4 MiB. As much as keeps disks busy; with more, each
/// would wait behind the others until its disk passes for one that hangs.
pub(super) const UNDER_WAY_MAX: u64 = 1024;

/// A piece of a write that goes in place.
pub(super) struct InPlace {
    piece: Piece,
    group: Rc<GroupPlace>,
    contents: Buffer,
    /// At once, if nothing is there.
    begun: Option<Begun>,
    turn: Rc<Permit>,
}

/// The positions of a group, as they may be written to now.
struct Begun {
    way: Way,
    legs: Vec<Leg>,
    /// What was decided under this one holds under no other.
    config: ConfigNumber,
    /// Held until they have answered.
    _lock: Permit,
}

/// What is in the place of rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing that counts.
    Fresh,
    /// What counts, and is in no record any more.
    Over,
}

/// Where a position of the group has the rows.
struct Leg {
    member: Rc<Member>,
    device: Rc<dyn BlockDevice>,
    sector: Lba,
}

impl Volume {
    /// Blocks of log room that a piece of a write takes, wherever it goes: its contents and a header for
    /// each record of it; and those of the INTENT, if it may have one and the contents must follow.
    pub(super) fn room_blocks(&self, piece: &Piece) -> u64 {
        let records = u64::from(piece.count.div_ceil(self.log_shape.record_rows));
        let has_intent = self.pool.limits.in_place && piece.count >= ROWS_MIN;
        let intent = RecordBody::intent_len_max(piece.count).div_ceil(BLOCK_BYTES) as u64;
        u64::from(piece.count) + records + if has_intent { intent } else { 0 }
    }

    /// Whether a piece of a write is of those that go in place if they may.
    pub(super) fn is_for_place(&self, piece: &Piece, group: &GroupPlace) -> bool {
        let is_mirror = group.members.len() > 1;
        self.pool.limits.in_place && piece.count >= ROWS_MIN && is_mirror
    }

    /// How a piece of a write may go in place, as far as is known without locks.
    pub(super) fn way_in_place(&self, piece: &Piece, group: &GroupPlace) -> Option<Way> {
        let is_at_rest = group.initialised && !group.is_moving && !self.loses_position(group);
        let may = self.is_for_place(piece, group) && is_at_rest && self.has_whole_segment();
        may.then(|| self.what_is_there(piece, group)).flatten()
    }

    /// Whether a position of the group is to be given up: of what is only in its place that one may have the only
    /// right copy.
    fn loses_position(&self, group: &GroupPlace) -> bool {
        let meta = self.pool.meta.borrow();
        let volume = meta.volumes().get(&self.id);
        volume.is_some_and(|volume| volume.has_too_many(group.members.len()))
    }

    /// Whether a piece of a write goes in place: then with the share of its group's lock, for which nobody
    /// waits. The caller holds its range, and has waited for its turn.
    pub(super) fn try_in_place(
        &self,
        piece: &Piece,
        group: &Rc<GroupPlace>,
        contents: &Buffer,
        turn: &Rc<Permit>,
    ) -> Option<InPlace> {
        let begun = self.try_begin(piece, group)?;
        // The log is waited for without the lock.
        let begun = Some(begun).filter(|begun| begun.way == Way::Fresh);
        let (piece, group, contents) = (*piece, Rc::clone(group), contents.clone());
        Some(InPlace { piece, group, contents, begun, turn: Rc::clone(turn) })
    }

    /// Whether the positions may be written to now.
    fn try_begin(&self, piece: &Piece, group: &GroupPlace) -> Option<Begun> {
        let legs: Option<Vec<Leg>> =
            (0..group.members.len()).map(|index| self.leg_of(group, index, piece.at.row)).collect();
        let (legs, _lock) = (legs?, self.pool.try_share_group(group.generation)?);
        // Who removes the volume waits for the lock once it has said so, and who moves a position for all that
        // were looked up before.
        if self.is_gone() || self.pool.mapped_anew(group).is_some() {
            return None;
        }
        let way = self.way_in_place(piece, group)?;
        let config = self.pool.config.borrow().number;
        Some(Begun { way, legs, config, _lock })
    }

    /// A position, if its disk takes part and misses nothing of the group.
    fn leg_of(&self, group: &GroupPlace, index: usize, first: Row) -> Option<Leg> {
        let (member, device, start) = self.pool.extent_of(group, index)?;
        let is_whole = !self.pool.is_out(member.number)
            && !member.rolled_back.get()
            && self.pool.dirty(group, index) == 0;
        let sector = Lba(start.0 + self.pool.shape().row_sector(first));
        is_whole.then_some(Leg { member, device, sector })
    }

    /// What is in the place of these rows; none if that isn't all that is known of them, or isn't known.
    fn what_is_there(&self, piece: &Piece, group: &GroupPlace) -> Option<Way> {
        let first = piece.block.0;
        let pending = self.pending.borrow();
        if pending.range(first..first + u64::from(piece.count)).next().is_some() {
            return None;
        }
        let shape = self.pool.shape();
        let (mut known, mut way) = (None, Way::Fresh);
        for row in piece.at.row.0..piece.at.row.0 + piece.count {
            let (index, entry) = shape.entry_of(Row(row));
            let block = match known.take() {
                Some((of, block)) if of == index => block,
                _ => self.checksums.in_memory(group.generation, index)?,
            };
            match block.get(entry) {
                Entry::Unwritten => {}
                Entry::Written(_) => way = Way::Over,
                Entry::Lost => return None,
            }
            known = Some((index, block));
        }
        Some(way)
    }

    /// Writes a piece in place, and answers once that is durable and known to be; else by what goes into the
    /// log, under the same range and with the same room.
    pub(super) async fn write_in_place(
        &self,
        write: InPlace,
        mut room: Room<'_>,
    ) -> Result<(), IoError> {
        let InPlace { piece, group, contents, begun, turn } = write;
        let (generation, first) = (group.generation, piece.at.row);
        let rows = RowRange { group: generation, first, count: piece.count };
        let checksums = row_checksums(generation, first, &contents);
        let sectors = match begun {
            Some(_) => Vec::new(),
            None => sector_checksums(generation, first, &contents),
        };
        let body = RecordBody::Intent { rows, checksums: checksums.clone(), sectors };
        let (done, receiver) = oneshot::channel();
        let appended = receiver.shared();
        let charge_bytes = room.take(body.encoded_len().next_multiple_of(BLOCK_BYTES) as u64);
        let append = Append { body, block: piece.block.0, charge_bytes, done: Some(done) };
        self.append_all(std::iter::once(append));
        let writing = async {
            let begun = match begun {
                Some(begun) => begun,
                None => {
                    let Ok(Ok(number)) = appended.clone().await else { return None };
                    let begun = self.try_begin(&piece, &group)?;
                    self.log.state.borrow_mut().intents.write_over(number, rows);
                    begun
                }
            };
            let took = self.write_legs(&begun, &contents).await;
            // The log is waited for without it, and without the lock.
            drop(turn);
            took.map(|took| (took, begun.config))
        };
        let both = self.pool.unless_over(join(writing, appended.clone())).await;
        let (took, appended) = both.map_err(|ended| ended_error(&self.pool, ended))?;
        let number = appended.unwrap_or(Err(IoError::Lost))?;
        // A destage beside it may have found a position that restarts away, and say that it misses something.
        let is_clean = || (0..group.members.len()).all(|at| self.pool.dirty(&group, at) == 0);
        let still_holds = |config: ConfigNumber| {
            let is_same = self.pool.config.borrow().number == config;
            // Where one of them moves to didn't get the rows, and may count from the next moment on.
            let is_mapped_so = self.pool.mapped_anew(&group).is_none();
            is_same && is_mapped_so && is_clean() && !self.is_gone()
        };
        if let Some((took, _)) = took.filter(|(_, config)| still_holds(*config)) {
            let block = piece.block.0;
            self.complete(block, number, (&contents, &checksums), took, room);
            return Ok(());
        }
        self.log.state.borrow_mut().intents.abandon(number);
        self.log.settled();
        let mut bodies = Vec::new();
        self.records_of(&piece, generation, &contents, &mut bodies);
        let appended = self.append(bodies, &mut room);
        for done in join_all(appended).await {
            done.unwrap_or(Err(IoError::Lost))?;
        }
        self.log.state.borrow_mut().intents.replaced(number);
        self.log.settled();
        Ok(())
    }

    /// Writes to every position: to all at once where nothing was, else to the first one before the others,
    /// so that at any instant one has all of what was or all of what is new.
    async fn write_legs(&self, begun: &Begun, contents: &Buffer) -> Option<InPlaceOn> {
        let alone = usize::from(begun.way == Way::Over);
        let (first, others) = begun.legs.split_at(alone);
        let mut took = Vec::with_capacity(begun.legs.len());
        for legs in [first, others] {
            let answers = join_all(legs.iter().map(|leg| self.write_leg(leg, contents))).await;
            took.extend(answers.into_iter().collect::<Option<InPlaceOn>>()?);
        }
        Some(took)
    }

    /// From here on the contents count.
    fn complete(
        &self,
        block: u64,
        number: RecordNumber,
        contents: (&Buffer, &[u32]),
        took: InPlaceOn,
        room: Room<'_>,
    ) {
        self.pending.borrow_mut().put_in_place(block, number, contents, took);
        let mut state = self.log.state.borrow_mut();
        state.intents.complete(number, room.keep());
        drop(state);
        self.log.appended_at.set(self.pool.runtime.now());
        self.log.settled();
    }

    /// Has a position write rows durably; tells whom, or that it didn't. It is left only after its answer or
    /// once its disk is out: what it may still write can then harm nobody.
    async fn write_leg(&self, leg: &Leg, contents: &Buffer) -> Option<(DiskNumber, Instance)> {
        let (disk, bytes) = (leg.member.number, contents.len() as u64);
        let write = async {
            let _underway = Underway::new(&self.pool.runtime, &leg.member, Purpose::Write, bytes);
            write_durably(&*leg.device, leg.sector, contents.clone()).await
        };
        let mut write = std::pin::pin!(self.pool.while_in(disk, write));
        let mut waited = false;
        loop {
            let timer = self.pool.runtime.sleep(self.pool.limits.eviction);
            match select(write.as_mut(), timer).await {
                Either::Left((Some(Ok(done)), _)) => {
                    self.pool.expect_instance(&leg.member, done.instance).ok()?;
                    return Some((disk, done.instance));
                }
                Either::Left(_) => return None,
                Either::Right(_) => {
                    // One that answers a probe may answer this as well, once.
                    let silent = BTreeMap::from([(disk, IoError::Lost)]);
                    self.pool.evict(&silent, waited).await.ok()?;
                    waited = true;
                }
            }
        }
    }
}
