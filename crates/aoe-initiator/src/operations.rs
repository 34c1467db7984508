//! A disk's operations between the call and its answer: in which order they may be sent, how they
//! are cut into pieces that fit a request, and how the answers become one again.
//!
//! A target runs commands in order of arrival, but frames are lost and repeated. So an operation
//! that overlaps one still unanswered, of which either writes, is held back until that is answered:
//! then no loss can turn their order around. A claim waits for all before it and holds back all
//! after it, so no operation runs under another epoch than the one at its call.
//!
//! Both kinds of client, session and plain, use this table. It knows nothing of frames.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aoe_wire::READ_BYTES_MAX;
use block::{
    Access, Answer, BLOCK_SECTORS, Buffer, BufferMut, Completion, DriveHealth, Holder, Instance,
    IoError, Lba, Operation, Order, Outcome, SECTOR_BYTES, SectorRange,
};

/// Names an operation between call and outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// A part of an operation that one request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub operation: OperationId,
    /// Empty for operations without sectors.
    pub range: SectorRange,
}

/// How many sectors one request may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PieceLimits {
    /// With data in the frame, one way or the other.
    pub data_sectors: u64,
    /// Without data (discard, write zeroes).
    pub bare_sectors: u64,
}

/// What a target said to a piece.
pub(crate) enum PieceAnswer {
    Done,
    Holder(Holder),
    Health(Box<DriveHealth>),
}

/// Whether it leaves the sectors as they are, so that it may simply run again.
pub(crate) fn is_repeatable(operation: &Operation) -> bool {
    matches!(operation, Operation::Read(_) | Operation::Renew | Operation::AskHealth)
}

/// Whether it changes what is on the disk, or makes that last: all but what looks, and claims.
pub(crate) fn is_change(operation: &Operation) -> bool {
    !is_repeatable(operation) && !matches!(operation, Operation::Claim(_))
}

/// Renewals first: a lease must not run out behind a queue of writes.
fn rank_of(operation: &Operation) -> u8 {
    u8::from(!matches!(operation, Operation::Renew))
}

/// What one request reads: a piece is asked for again where an answer is lost, and the next ones don't wait for it.
const READ_SECTORS_MAX: u64 = READ_BYTES_MAX / SECTOR_BYTES as u64;

struct Entry {
    operation: Operation,
    unsent: VecDeque<SectorRange>,
    outstanding: usize,
    was_sent: bool,
    /// Answered pieces of which copies may still arrive at the target.
    held: usize,
    /// Its outcome is out; it stays for what is held.
    is_told: bool,
    data: Option<BufferMut>,
    holder: Option<Holder>,
    health: Option<Box<DriveHealth>>,
    failure: Option<IoError>,
}

/// All operations of a disk that have no outcome yet, and the outcomes not yet fetched.
#[derive(Default)]
pub(crate) struct Operations {
    next_id: u64,
    entries: BTreeMap<OperationId, Entry>,
    order: Order<OperationId>,
    /// Not blocked and with something left to send, in order of sending.
    ready: BTreeSet<(u8, OperationId)>,
    /// The newest claim without an outcome.
    outcomes: VecDeque<(OperationId, Outcome)>,
}

impl Operations {
    /// Queues an operation behind all that it overlaps.
    pub fn submit(&mut self, operation: Operation) -> OperationId {
        let id = self.take_id();
        if self.order.enter(id, Access::from(&operation)) {
            self.ready.insert((rank_of(&operation), id));
        }
        let range = operation.range();
        let entry = Entry {
            operation,
            unsent: VecDeque::from([range]),
            outstanding: 0,
            was_sent: false,
            held: 0,
            is_told: false,
            data: None,
            holder: None,
            health: None,
            failure: None,
        };
        self.entries.insert(id, entry);
        id
    }

    /// An operation whose outcome is known at the call.
    pub fn submit_completed(&mut self, outcome: Outcome) -> OperationId {
        let id = self.take_id();
        self.outcomes.push_back((id, outcome));
        id
    }

    /// Whether what [`Operations::take_piece`] gives next shall not wait for a window.
    pub fn is_next_urgent(&self) -> bool {
        self.ready.first().is_some_and(|(rank, _)| *rank == 0)
    }

    /// What [`Operations::take_piece`] gives next.
    pub fn next_piece(&self, limits: PieceLimits) -> Option<Piece> {
        let (_, id) = self.ready.first()?;
        let entry = self.entries.get(id)?;
        let rest = entry.unsent.front()?;
        let limit = match entry.operation {
            Operation::Discard(_) | Operation::WriteZeroes { .. } => limits.bare_sectors,
            Operation::Read(_) => limits.data_sectors.min(READ_SECTORS_MAX),
            _ => limits.data_sectors,
        };
        let count = first_piece_sectors(*rest, limit);
        Some(Piece { operation: *id, range: SectorRange::new(rest.start, count) })
    }

    /// The next piece to send. The caller sends it until it is answered, put back or failed.
    pub fn take_piece(&mut self, limits: PieceLimits) -> Option<Piece> {
        let &(rank, id) = self.ready.first()?;
        if !self.entries.contains_key(&id) {
            self.ready.remove(&(rank, id));
        }
        let piece = self.next_piece(limits)?;
        let entry = self.entries.get_mut(&id)?;
        let (rest, count) = (entry.unsent.pop_front()?, piece.range.count);
        if count < rest.count {
            entry
                .unsent
                .push_front(SectorRange::new(Lba(rest.start.0 + count), rest.count - count));
        }
        entry.outstanding += 1;
        entry.was_sent = true;
        if entry.unsent.is_empty() {
            self.ready.remove(&(rank, id));
        }
        Some(piece)
    }

    /// Data of a piece has come, perhaps not all of it.
    pub fn take_data(&mut self, piece: Piece, range: SectorRange, bytes: &[u8]) {
        if let Some(entry) = self.entries.get_mut(&piece.operation) {
            entry.take_data(range, bytes);
        }
    }

    /// Takes a piece back that was never answered, to be sent again (maybe cut otherwise).
    pub fn put_back(&mut self, piece: Piece) {
        let Some(entry) = self.entries.get_mut(&piece.operation) else { return };
        entry.outstanding -= 1;
        if entry.failure.is_some() {
            self.complete_if_done(piece.operation, Instance::default());
            return;
        }
        entry.unsent.push_front(piece.range);
        let key = (rank_of(&entry.operation), piece.operation);
        self.ready.insert(key);
    }

    /// A piece was answered by `instance`, its data taken in before. An operation with a failed piece ends when no piece of it
    /// is on its way any more: until then something overlapping must not be sent.
    pub fn answer(
        &mut self,
        piece: Piece,
        instance: Instance,
        answer: Result<PieceAnswer, IoError>,
    ) {
        let Some(entry) = self.entries.get_mut(&piece.operation) else { return };
        entry.outstanding -= 1;
        match answer {
            Ok(PieceAnswer::Done) => {}
            Ok(PieceAnswer::Holder(holder)) => entry.holder = Some(holder),
            Ok(PieceAnswer::Health(health)) => entry.health = Some(health),
            Err(error) => {
                entry.failure.get_or_insert(error);
                entry.unsent.clear();
                let key = (rank_of(&entry.operation), piece.operation);
                self.ready.remove(&key);
            }
        }
        self.complete_if_done(piece.operation, instance);
    }

    /// Like [`Operations::answer`], but copies of the request may still be executed: the operation
    /// gets its outcome, and what overlaps it goes on waiting until [`Operations::release`].
    pub fn answer_and_hold(
        &mut self,
        piece: Piece,
        instance: Instance,
        answer: Result<PieceAnswer, IoError>,
    ) {
        if let Some(entry) = self.entries.get_mut(&piece.operation) {
            entry.held += 1;
        }
        self.answer(piece, instance, answer);
    }

    /// No copy of a held piece can be executed any more.
    pub fn release(&mut self, piece: Piece) {
        let Some(entry) = self.entries.get_mut(&piece.operation) else { return };
        entry.held = entry.held.saturating_sub(1);
        self.complete_if_done(piece.operation, Instance::default());
    }

    /// The server began anew: what changes something fails with `error`, as it may have been forgotten, or have been meant
    /// for another disk; what only looks begins again, and a claim that was never sent stays. No piece is on its way any
    /// more.
    pub fn restart(&mut self, error: IoError) {
        let is_over = |entry: &Entry| entry.was_sent || is_change(&entry.operation);
        let over = self.entries.iter().filter(|(_, entry)| is_over(entry));
        let over: Vec<OperationId> = over.map(|(id, _)| *id).collect();
        for id in over {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if is_repeatable(&entry.operation) && entry.failure.is_none() {
                entry.unsent = VecDeque::from([entry.operation.range()]);
                entry.outstanding = 0;
                entry.data = None;
                let key = (rank_of(&entry.operation), id);
                self.ready.insert(key);
            } else {
                let error = entry.failure.unwrap_or(error);
                self.complete(id, Err(error));
            }
        }
    }

    /// Ends all with `error`. No piece is on its way any more.
    pub fn fail_all(&mut self, error: IoError) {
        while let Some((&id, _)) = self.entries.first_key_value() {
            self.complete(id, Err(error));
        }
    }

    /// The next outcome, in order of completion.
    pub fn poll_outcome(&mut self) -> Option<(OperationId, Outcome)> {
        self.outcomes.pop_front()
    }

    /// The operation, while it has no outcome.
    pub fn get(&self, id: OperationId) -> Option<&Operation> {
        self.entries.get(&id).map(|entry| &entry.operation)
    }

    /// Whether a claim has no outcome yet.
    pub fn is_claiming(&self) -> bool {
        self.order.has_barrier()
    }

    /// Whether every operation has an outcome.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn take_id(&mut self) -> OperationId {
        self.next_id += 1;
        OperationId(self.next_id)
    }

    fn complete_if_done(&mut self, id: OperationId, instance: Instance) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.outstanding > 0 || !(entry.failure.is_some() || entry.unsent.is_empty()) {
            return;
        }
        if !entry.is_told {
            entry.is_told = true;
            let outcome = match entry.failure {
                Some(error) => Err(error),
                None => Ok(Completion::new(instance, entry.take_answer())),
            };
            self.outcomes.push_back((id, outcome));
        }
        if entry.held == 0 {
            self.remove(id);
        }
    }

    fn complete(&mut self, id: OperationId, outcome: Outcome) {
        if self.entries.get(&id).is_some_and(|entry| !entry.is_told) {
            self.outcomes.push_back((id, outcome));
        }
        self.remove(id);
    }

    fn remove(&mut self, id: OperationId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.ready.remove(&(rank_of(&entry.operation), id));
        for waiter in self.order.leave(id) {
            if let Some(waiting) = self.entries.get(&waiter) {
                self.ready.insert((rank_of(&waiting.operation), waiter));
            }
        }
    }
}

impl Entry {
    fn take_data(&mut self, range: SectorRange, bytes: &[u8]) {
        let whole = self.operation.range();
        let data = self.data.get_or_insert_with(|| BufferMut::zeroed(whole.len_bytes() as usize));
        let offset = (range.start.0 - whole.start.0) as usize * SECTOR_BYTES;
        data[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn take_answer(&mut self) -> Answer {
        match self.operation {
            Operation::Read(_) => {
                Answer::Data(self.data.take().map_or_else(Buffer::empty, BufferMut::freeze))
            }
            Operation::Claim(_) | Operation::Renew => {
                Answer::Holder(self.holder.take().unwrap_or_default())
            }
            Operation::AskHealth => self.health.take().map_or(Answer::Done, Answer::Health),
            _ => Answer::Done,
        }
    }
}

/// Sectors of the first piece of `range` when a request carries at most `limit`: whole blocks where
/// a block fits, so that no piece makes the target read, modify and write.
fn first_piece_sectors(range: SectorRange, limit: u64) -> u64 {
    let limit = limit.max(1);
    if limit < BLOCK_SECTORS {
        return range.count.min(limit);
    }
    let whole_blocks = limit - limit % BLOCK_SECTORS;
    range.count.min(whole_blocks - range.start.0 % BLOCK_SECTORS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use block::{Claim, Durability, Epoch, OwnerId};

    const LIMITS: PieceLimits = PieceLimits { data_sectors: 17, bare_sectors: 2048 };
    const INSTANCE: Instance = Instance(9);

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Lba(start), count)
    }

    fn write(start: u64, count: u64) -> Operation {
        Operation::Write {
            start: Lba(start),
            data: Buffer::zeroed(count as usize * SECTOR_BYTES),
            durability: Durability::Volatile,
        }
    }

    fn pieces(operations: &mut Operations) -> Vec<Piece> {
        std::iter::from_fn(|| {
            let next = operations.next_piece(LIMITS);
            let taken = operations.take_piece(LIMITS);
            assert_eq!(next, taken);
            taken
        })
        .collect()
    }

    fn done(operations: &mut Operations, piece: Piece) {
        operations.answer(piece, INSTANCE, Ok(PieceAnswer::Done));
    }

    #[test]
    fn pieces_are_whole_blocks() {
        assert_eq!(first_piece_sectors(range(0, 100), 17), 16);
        assert_eq!(first_piece_sectors(range(3, 100), 17), 13);
        assert_eq!(first_piece_sectors(range(3, 2), 17), 2);
        assert_eq!(first_piece_sectors(range(3, 100), 2), 2);
        assert_eq!(first_piece_sectors(range(7, 100), 8), 1);
        assert_eq!(first_piece_sectors(range(0, 1), 0), 1);
    }

    #[test]
    fn overlapping_operations_wait_and_readers_share() {
        let mut operations = Operations::default();
        let first = operations.submit(write(0, 16));
        let overlapping = operations.submit(Operation::Read(range(15, 1)));
        let second_reader = operations.submit(Operation::Read(range(15, 2)));
        let beside = operations.submit(write(16, 16));
        let sent = pieces(&mut operations);
        let ids: Vec<_> = sent.iter().map(|piece| piece.operation).collect();
        assert_eq!(ids, [first]);
        done(&mut operations, sent[0]);
        let ids: Vec<_> = pieces(&mut operations).iter().map(|piece| piece.operation).collect();
        assert_eq!(ids, [overlapping, second_reader]);
        assert!(operations.get(beside).is_some());
        let piece = Piece { operation: second_reader, range: range(15, 2) };
        operations.take_data(piece, range(15, 2), &[5; 1024]);
        done(&mut operations, piece);
        assert_eq!(pieces(&mut operations)[0].operation, beside);
    }

    #[test]
    fn a_claim_is_a_barrier() {
        let mut operations = Operations::default();
        let before = operations.submit(write(0, 1));
        let claim = Claim {
            epoch: Epoch(3),
            owner: OwnerId::NONE,
            force: false,
            trust: block::Trust::Unchanged,
        };
        let claim = operations.submit(Operation::Claim(claim));
        let after = operations.submit(write(100, 1));
        let renewal = operations.submit(Operation::Renew);
        for expected in [vec![before], vec![claim], vec![renewal, after]] {
            let sent = pieces(&mut operations);
            let ids: Vec<_> = sent.iter().map(|piece| piece.operation).collect();
            assert_eq!(ids, expected);
            sent.into_iter().for_each(|piece| done(&mut operations, piece));
        }
        assert!(operations.is_empty());
    }

    #[test]
    fn a_failed_operation_ends_with_its_last_piece() {
        let mut operations = Operations::default();
        let id = operations.submit(write(0, 32));
        let sent = pieces(&mut operations);
        assert_eq!(sent.len(), 2);
        operations.answer(sent[0], INSTANCE, Err(IoError::ReadOnly));
        assert_eq!(operations.poll_outcome(), None);
        done(&mut operations, sent[1]);
        assert_eq!(operations.poll_outcome(), Some((id, Err(IoError::ReadOnly))));
    }

    #[test]
    fn what_is_held_is_told_and_goes_on_blocking() {
        let mut operations = Operations::default();
        let first = operations.submit(write(0, 8));
        let second = operations.submit(write(4, 8));
        let sent = pieces(&mut operations);
        operations.answer_and_hold(sent[0], INSTANCE, Ok(PieceAnswer::Done));
        assert_eq!(operations.poll_outcome().map(|(id, _)| id), Some(first));
        assert!(pieces(&mut operations).is_empty());
        operations.release(sent[0]);
        assert_eq!(operations.poll_outcome(), None);
        assert_eq!(pieces(&mut operations)[0].operation, second);
    }

    #[test]
    fn a_restart_fails_what_changes_something_and_repeats_reads_in_full() {
        let mut operations = Operations::default();
        let sent_write = operations.submit(write(0, 16));
        let read = operations.submit(Operation::Read(range(64, 32)));
        let sent = pieces(&mut operations);
        operations.take_data(sent[1], sent[1].range, &[1; 8192]);
        operations.answer(sent[1], Instance(1), Ok(PieceAnswer::Done));
        let unsent_write = operations.submit(write(8, 1));
        let restarted = IoError::Restarted { now: Instance(2) };
        operations.restart(restarted);
        assert_eq!(operations.poll_outcome(), Some((sent_write, Err(restarted))));
        assert_eq!(operations.poll_outcome(), Some((unsent_write, Err(restarted))));
        let again = pieces(&mut operations);
        let ids: Vec<_> = again.iter().map(|piece| piece.operation).collect();
        assert_eq!(ids, [read, read]);
        for piece in &again {
            // In two parts.
            let [first, second] = [0, 8].map(|at| range(piece.range.start.0 + at, 8));
            operations.take_data(*piece, second, &[2; 4096]);
            operations.take_data(*piece, first, &[2; 4096]);
            operations.answer(*piece, Instance(2), Ok(PieceAnswer::Done));
        }
        let (_, outcome) = operations.poll_outcome().unwrap();
        let expected = Answer::Data(Buffer::copy_of(&[2; 16384]));
        assert_eq!(outcome, Ok(Completion::new(Instance(2), expected)));
    }
}
