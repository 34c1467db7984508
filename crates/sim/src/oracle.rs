//! Knows for each sector of a volume which contents a read may return.
//!
//! The rules, for one sector:
//! - Operations take effect in the order of their calls, so a read returns the newest operation that
//!   was called before it, or an older one only if every newer one was never acknowledged.
//! - An acknowledged operation buries all older ones.
//! - What a read returned stays: neither something older nor a newer operation that this read
//!   should have seen may be returned later. Not after a crash either.
//! - A block isn't torn: if any of an operation's sectors in a block took effect, all did.
//! - After a discard, zeros and what was there before are allowed, until one of them was read; of a disk anything
//!   that nobody wrote too.
//!
//! It doesn't know processes: an operation whose process died is one that was never acknowledged. So
//! a deposed owner that answers reads or acknowledges writes is caught by the same rules.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use block::{BLOCK_SECTORS, Buffer, Instant, Lba, SECTOR_BYTES, SectorRange};

use crate::pattern::{self, Content};

/// The number of an operation in the order of calls, from 1.
pub type OperationNumber = u64;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write [`pattern::fill`].
    Write,
    /// Write zeros.
    Zero,
    /// Tell that contents don't matter.
    Discard,
}

/// Contents that can't be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// For people: where, what is allowed, what was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The contents that one volume may have.
pub struct Oracle {
    name: String,
    volume: u64,
    /// Whether a block is written as a whole or not at all: true of volumes, not of disks.
    whole_blocks: bool,
    /// Where machines come and go one by one, a large write that wasn't answered may be torn in a block.
    large_may_tear: Cell<bool>,
    state: RefCell<State>,
}

/// What may go in place: 64 KiB.
const LARGE_SECTORS: u64 = 128;

#[derive(Clone, Default)]
struct State {
    operations: Vec<Operation>,
    /// By sector, oldest first; a sector beyond the end was never touched.
    candidates: Vec<Candidates>,
}

/// What a sector may have, shared between the oracle, tickets and forks until it changes: clients that
/// are never answered make these long.
type Candidates = Rc<Vec<Candidate>>;

#[derive(Clone, Copy)]
struct Operation {
    change: Change,
    range: SectorRange,
    called: Instant,
    acknowledged: Option<Instant>,
}

impl Operation {
    /// Whether it may have gone in place over what was there, and not everywhere: then a block of it may be old
    /// and new, where the power went in the middle and the machines that have it whole aren't there.
    fn is_large_and_open(self) -> bool {
        let is_whole = self.range.start.0.is_multiple_of(BLOCK_SECTORS)
            && self.range.count.is_multiple_of(BLOCK_SECTORS);
        self.acknowledged.is_none() && is_whole && self.range.count >= LARGE_SECTORS
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    operation: OperationNumber,
    change: Change,
}

/// Before any operation, everything is zero.
const UNTOUCHED: Candidate = Candidate { operation: 0, change: Change::Zero };

/// A read between call and answer.
pub struct ReadTicket {
    range: SectorRange,
    called_before: OperationNumber,
    candidates: Vec<Candidates>,
}

impl Oracle {
    /// A volume that was never written. `volume` is the number that its contents carry.
    pub fn new(name: &str, volume: u64) -> Rc<Oracle> {
        Oracle::of(name, volume, true)
    }

    /// A disk that was never written: a write that isn't acknowledged may tear anywhere.
    pub fn of_disk(name: &str, volume: u64) -> Rc<Oracle> {
        Oracle::of(name, volume, false)
    }

    fn of(name: &str, volume: u64, whole_blocks: bool) -> Rc<Oracle> {
        let name = name.to_string();
        let (large_may_tear, state) = (Cell::new(true), RefCell::default());
        Rc::new(Oracle { name, volume, whole_blocks, large_may_tear, state })
    }

    /// What may be read if the world ends at this moment: nothing that is called for later counts.
    pub fn fork(&self) -> Rc<Oracle> {
        Rc::new(Oracle {
            name: self.name.clone(),
            volume: self.volume,
            whole_blocks: self.whole_blocks,
            large_may_tear: Cell::new(true),
            state: RefCell::new(self.state.borrow().clone()),
        })
    }

    /// All machines are there whenever the volume is opened: every block of it is whole. A fork of it may have
    /// lost some.
    pub fn expect_whole_blocks(&self) {
        self.large_may_tear.set(false);
    }

    /// Whether this is a bare disk: its restarts and failed flushes are its client's to handle.
    pub fn is_disk(&self) -> bool {
        !self.whole_blocks
    }

    /// The volume's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A change is about to be called for. Returns its number and, for a write, the data.
    pub fn begin(
        &self,
        change: Change,
        range: SectorRange,
        now: Instant,
    ) -> (OperationNumber, Buffer) {
        let mut state = self.state.borrow_mut();
        state.operations.push(Operation { change, range, called: now, acknowledged: None });
        let operation = state.operations.len() as OperationNumber;
        for candidates in reach(&mut state.candidates, self.affected(change, range)) {
            Rc::make_mut(candidates).push(Candidate { operation, change });
        }
        drop(state);
        let data = match change {
            Change::Write => pattern::fill(self.volume, operation, range),
            Change::Zero | Change::Discard => Buffer::empty(),
        };
        (operation, data)
    }

    /// A change was acknowledged. (One that failed may have happened or not: say nothing.)
    pub fn acknowledge(&self, operation: OperationNumber, now: Instant) -> Result<(), Violation> {
        let mut state = self.state.borrow_mut();
        let State { operations, candidates } = &mut *state;
        let info = &mut operations[operation as usize - 1];
        info.acknowledged = Some(now);
        if info.change == Change::Discard {
            return Ok(());
        }
        let range = self.affected(info.change, info.range);
        let start = range.start;
        for (index, candidates) in reach(candidates, range).iter_mut().enumerate() {
            let known = candidates.iter().position(|known| known.operation == operation);
            let buried = candidates.last().is_some_and(|last| last.operation > operation)
                && candidates.first().is_some_and(|first| first.operation > operation);
            match known {
                Some(0) => {}
                Some(index) => drop(Rc::make_mut(candidates).drain(..index)),
                None if buried => {}
                None => {
                    let sector = start + index as u64;
                    let what = format!(
                        "{}: sector {sector}: {} is acknowledged, but a read that was called later \
                         has returned older contents",
                        self.name,
                        describe(operations, operation),
                    );
                    return Err(Violation { what });
                }
            }
        }
        Ok(())
    }

    /// A read is about to be called for.
    pub fn begin_read(&self, range: SectorRange) -> ReadTicket {
        let mut state = self.state.borrow_mut();
        let candidates = reach(&mut state.candidates, range.start.0..range.end().0).to_vec();
        ReadTicket { range, called_before: state.operations.len() as u64 + 1, candidates }
    }

    /// A read was answered with `data`.
    pub fn check_read(&self, ticket: ReadTicket, data: &[u8]) -> Result<(), Violation> {
        if data.len() as u64 != ticket.range.len_bytes() {
            let what = format!("{}: {} bytes for {}", self.name, data.len(), ticket.range);
            return Err(Violation { what });
        }
        let mut state = self.state.borrow_mut();
        let mut seen = Vec::with_capacity(ticket.candidates.len());
        for ((sector, bytes), candidates) in
            pattern::sectors(ticket.range.start, data).zip(&ticket.candidates)
        {
            let allowed = allowed(&state.operations, candidates);
            let content = pattern::recognise(bytes);
            let matching: Vec<Candidate> = allowed
                .iter()
                .copied()
                .filter(|candidate| self.is_content_of(content, sector, *candidate))
                .collect();
            if matching.is_empty() {
                return Err(self.wrong_content(&state, sector, allowed, content));
            }
            seen.push((sector, matching));
        }
        if self.whole_blocks {
            self.check_blocks(&state, &seen)?;
        }
        for (sector, matching) in seen {
            state.pin(sector, &matching, ticket.called_before, self.whole_blocks);
        }
        Ok(())
    }

    /// A disk holds `data` for what begins at this sector: it must be one of the contents that a read
    /// could return. Nobody has read it, so nothing follows for later reads.
    pub fn check_stored(&self, start: u64, data: &[u8]) -> Result<(), Violation> {
        let mut state = self.state.borrow_mut();
        let range = start..start + (data.len() / SECTOR_BYTES) as u64;
        let known = reach(&mut state.candidates, range).to_vec();
        for ((sector, bytes), candidates) in pattern::sectors(Lba(start), data).zip(&known) {
            let allowed = allowed(&state.operations, candidates);
            let content = pattern::recognise(bytes);
            if !allowed.iter().any(|candidate| self.is_content_of(content, sector, *candidate)) {
                let mut violation = self.wrong_content(&state, sector, allowed, content);
                violation.what.push_str(" from the disks");
                return Err(violation);
            }
        }
        Ok(())
    }

    /// No disk has contents for the block that begins at this sector: nothing of it is acknowledged.
    pub fn check_absent(&self, start: u64) -> Result<(), Violation> {
        let mut state = self.state.borrow_mut();
        let range = start..start + BLOCK_SECTORS;
        for (sector, candidates) in range.clone().zip(reach(&mut state.candidates, range).to_vec())
        {
            let allowed = allowed(&state.operations, &candidates);
            if allowed.iter().all(|candidate| candidate.change == Change::Write) {
                let allowed = describe_all(&state.operations, allowed);
                let what = format!(
                    "{}: sector {sector}: allowed: {allowed}; no disk has a right copy",
                    self.name
                );
                return Err(Violation { what });
            }
        }
        Ok(())
    }

    /// How many changes were called for.
    pub fn operations(&self) -> u64 {
        self.state.borrow().operations.len() as u64
    }

    /// The sectors in which an acknowledged write is the newest content: what must be readable.
    pub fn written_sectors(&self) -> Vec<u64> {
        let state = self.state.borrow();
        let written = (0..).zip(&state.candidates).filter(|(_, candidates)| {
            candidates.iter().all(|candidate| candidate.change == Change::Write)
        });
        written.map(|(sector, _)| sector).collect()
    }

    /// A volume discards whole blocks only; parts of blocks stay as they are.
    fn affected(&self, change: Change, range: SectorRange) -> std::ops::Range<u64> {
        if change != Change::Discard || !self.whole_blocks {
            return range.start.0..range.end().0;
        }
        let start = range.start.0.next_multiple_of(BLOCK_SECTORS);
        start..(range.end().0 / BLOCK_SECTORS * BLOCK_SECTORS).max(start)
    }

    fn is_content_of(&self, content: Content, at: u64, candidate: Candidate) -> bool {
        match (content, candidate.change) {
            (Content::Written { volume, operation, sector }, Change::Write) => {
                volume == self.volume && sector == at && operation == candidate.operation
            }
            (Content::Zero, Change::Zero | Change::Discard) => true,
            // Volumes promise more than disks.
            (Content::Garbage { .. }, Change::Discard) => self.is_disk(),
            _ => false,
        }
    }

    /// No operation shows in some of its sectors of a block and is missing in others, unless it may tear.
    fn check_blocks(&self, state: &State, seen: &[(u64, Vec<Candidate>)]) -> Result<(), Violation> {
        let same_block = |a: &(u64, Vec<Candidate>), b: &(u64, Vec<Candidate>)| {
            a.0 / BLOCK_SECTORS == b.0 / BLOCK_SECTORS
        };
        for block in seen.chunk_by(same_block) {
            let shown = block.iter().filter_map(|(_, matching)| match matching[..] {
                [only] if only.change == Change::Write => Some(only.operation),
                _ => None,
            });
            for operation in shown.collect::<std::collections::BTreeSet<_>>() {
                let written = state.operations[operation as usize - 1];
                if self.large_may_tear.get() && written.is_large_and_open() {
                    continue;
                }
                let range = written.range;
                let torn = block.iter().find(|(sector, matching)| {
                    (range.start.0..range.end().0).contains(sector)
                        && matching.iter().all(|candidate| candidate.operation < operation)
                });
                if let Some((sector, matching)) = torn {
                    let what = format!(
                        "{}: torn block: {} shows in a neighbour of sector {sector}, which has {}",
                        self.name,
                        describe(&state.operations, operation),
                        describe_all(&state.operations, matching),
                    );
                    return Err(Violation { what });
                }
            }
        }
        Ok(())
    }

    fn wrong_content(
        &self,
        state: &State,
        sector: u64,
        allowed: &[Candidate],
        content: Content,
    ) -> Violation {
        let got = match content {
            Content::Zero => "zeros".to_string(),
            Content::Garbage { begins } => format!("garbage ({begins:#018x}...)"),
            Content::Written { volume, operation, sector: at } if volume == self.volume => {
                let place =
                    if at == sector { String::new() } else { format!(" (sector {at} of it)") };
                format!("{}{place}", describe(&state.operations, operation))
            }
            Content::Written { volume, .. } => format!("data of another volume ({volume:#x})"),
        };
        let allowed = describe_all(&state.operations, allowed);
        let what = format!("{}: sector {sector}: allowed: {allowed}; read: {got}", self.name);
        Violation { what }
    }
}

impl State {
    /// A read called before operation `called_before` returned one of `matching`.
    fn pin(
        &mut self,
        sector: u64,
        matching: &[Candidate],
        called_before: OperationNumber,
        is_volume: bool,
    ) {
        let Some(candidates) = self.candidates.get_mut(sector as usize) else { return };
        // A volume decides once what a discard did; a disk may change its mind.
        let discarded =
            !is_volume && candidates.iter().any(|candidate| candidate.change == Change::Discard);
        let (Some(oldest), Some(newest)) = (matching.first(), matching.last()) else { return };
        if discarded {
            return;
        }
        let stays = |candidate: &Candidate| {
            let too_old = candidate.operation < oldest.operation;
            let missed =
                candidate.operation > newest.operation && candidate.operation < called_before;
            !too_old && !missed
        };
        if !candidates.iter().all(stays) {
            Rc::make_mut(candidates).retain(stays);
        }
    }
}

/// What these sectors may have.
fn reach(candidates: &mut Vec<Candidates>, sectors: std::ops::Range<u64>) -> &mut [Candidates] {
    let (start, end) = (sectors.start as usize, sectors.end as usize);
    if candidates.len() < end {
        candidates.resize(end, Rc::new(vec![UNTOUCHED]));
    }
    &mut candidates[start..end]
}

/// Of the candidates at the time of a read's call, those that nothing acknowledged since buries.
fn allowed<'a>(operations: &[Operation], candidates: &'a [Candidate]) -> &'a [Candidate] {
    let buries = |candidate: &Candidate| {
        candidate.change != Change::Discard
            && candidate.operation > 0
            && operations[candidate.operation as usize - 1].acknowledged.is_some()
    };
    &candidates[candidates.iter().rposition(buries).unwrap_or(0)..]
}

fn describe(operations: &[Operation], operation: OperationNumber) -> String {
    let info = match operation.checked_sub(1).and_then(|index| operations.get(index as usize)) {
        Some(info) => info,
        None if operation == 0 => return "never written".to_string(),
        None => return format!("operation {operation}, which doesn't exist"),
    };
    let seconds = |at: Instant| at.as_nanos() as f64 / 1e9;
    let end = match info.acknowledged {
        Some(at) => format!("acknowledged {:.6}", seconds(at)),
        None => "not acknowledged".to_string(),
    };
    let (change, range, called) = (info.change, info.range, seconds(info.called));
    format!("#{operation} ({change:?} {range}, called {called:.6}, {end})")
}

fn describe_all(operations: &[Operation], candidates: &[Candidate]) -> String {
    let all: Vec<String> =
        candidates.iter().map(|candidate| describe(operations, candidate.operation)).collect();
    all.join(" or ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Lba(start), count)
    }

    fn now() -> Instant {
        Instant::default()
    }

    fn write(oracle: &Oracle, at: SectorRange, acknowledged: bool) -> Buffer {
        let (operation, data) = oracle.begin(Change::Write, at, now());
        if acknowledged {
            oracle.acknowledge(operation, now()).unwrap();
        }
        data
    }

    fn read(oracle: &Oracle, at: SectorRange, data: &[u8]) -> Result<(), Violation> {
        oracle.check_read(oracle.begin_read(at), data)
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let oracle = Oracle::new("v", 1);
        let first = write(&oracle, range(0, 8), true);
        let second = write(&oracle, range(0, 8), true);
        assert!(read(&oracle, range(0, 8), &second).is_ok());
        assert!(read(&oracle, range(0, 8), &first).is_err());
        assert!(read(&oracle, range(0, 8), &[0; 4096]).is_err());
        assert!(read(&oracle, range(8, 8), &[0; 4096]).is_ok());
        assert!(read(&oracle, range(8, 8), &second).is_err(), "right data at the wrong place");
    }

    #[test]
    fn an_unacknowledged_write_may_be_there_but_doesnt_flip() {
        for shows in [true, false] {
            let oracle = Oracle::new("v", 1);
            let old = write(&oracle, range(0, 8), true);
            let new = write(&oracle, range(0, 8), false);
            let (seen, other) = if shows { (&new, &old) } else { (&old, &new) };
            assert!(read(&oracle, range(0, 8), seen).is_ok());
            assert!(read(&oracle, range(0, 8), other).is_err());
            assert!(read(&oracle, range(0, 8), seen).is_ok());
        }
    }

    #[test]
    fn a_read_called_before_a_write_returns_what_was() {
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 8), true);
        let ticket = oracle.begin_read(range(0, 8));
        let new = write(&oracle, range(0, 8), true);
        assert!(oracle.check_read(ticket, &old).is_ok());
        assert!(read(&oracle, range(0, 8), &new).is_ok());
        let ticket = oracle.begin_read(range(0, 8));
        let newest = write(&oracle, range(0, 8), true);
        assert!(oracle.check_read(ticket, &newest).is_err(), "a read from the future");
    }

    #[test]
    fn an_acknowledgement_after_an_older_read_is_a_lie() {
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 8), true);
        let (operation, _) = oracle.begin(Change::Write, range(0, 8), now());
        assert!(read(&oracle, range(0, 8), &old).is_ok());
        assert!(oracle.acknowledge(operation, now()).is_err());
    }

    #[test]
    fn a_late_acknowledgement_under_a_newer_write_is_none() {
        let oracle = Oracle::new("v", 1);
        let (late, _) = oracle.begin(Change::Write, range(0, 8), now());
        let new = write(&oracle, range(0, 8), true);
        assert!(oracle.acknowledge(late, now()).is_ok());
        assert!(read(&oracle, range(0, 8), &new).is_ok());
    }

    #[test]
    fn a_block_is_old_or_new() {
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 16), true);
        let new = write(&oracle, range(2, 12), false);
        // The first block took the write, the second didn't: allowed.
        let mut mixed = old.to_vec();
        mixed[1024..4096].copy_from_slice(&new[..3072]);
        assert!(read(&oracle, range(0, 16), &mixed).is_ok());
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 16), true);
        let new = write(&oracle, range(2, 12), false);
        let mut torn = old.to_vec();
        torn[1024..2048].copy_from_slice(&new[..1024]);
        assert!(read(&oracle, range(0, 16), &torn).is_err());
    }

    fn discarded(oracle: &Oracle, at: SectorRange) {
        let (discard, _) = oracle.begin(Change::Discard, at, now());
        oracle.acknowledge(discard, now()).unwrap();
    }

    #[test]
    fn after_a_discard_a_volume_shows_old_or_zeros_and_keeps_to_it() {
        for shows_zeros in [true, false] {
            let oracle = Oracle::new("v", 1);
            let old = write(&oracle, range(0, 8), true);
            discarded(&oracle, range(0, 8));
            let zeros = Buffer::zeroed(4096);
            let (seen, other) = if shows_zeros { (&zeros, &old) } else { (&old, &zeros) };
            assert!(read(&oracle, range(0, 8), seen).is_ok());
            assert!(read(&oracle, range(0, 8), other).is_err());
            assert!(read(&oracle, range(0, 8), seen).is_ok());
            let new = write(&oracle, range(0, 8), true);
            assert!(read(&oracle, range(0, 8), &old).is_err());
            assert!(read(&oracle, range(0, 8), &new).is_ok());
            discarded(&oracle, range(1, 7));
            assert!(read(&oracle, range(0, 8), &zeros).is_err(), "no whole block was discarded");
        }
    }

    #[test]
    fn after_a_discard_a_disk_shows_old_or_zeros_in_any_order() {
        let oracle = Oracle::of_disk("d", 1);
        let old = write(&oracle, range(0, 8), true);
        discarded(&oracle, range(0, 8));
        for seen in [&Buffer::zeroed(4096), &old, &Buffer::zeroed(4096)] {
            assert!(read(&oracle, range(0, 8), seen).is_ok());
        }
    }

    #[test]
    fn what_disks_hold_is_judged_like_a_read_and_pins_nothing() {
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 8), true);
        let new = write(&oracle, range(0, 8), false);
        assert!(oracle.check_stored(0, &new).is_ok());
        assert!(oracle.check_stored(0, &old).is_ok());
        assert!(oracle.check_stored(0, &[0; 4096]).is_err());
        assert!(oracle.check_absent(0).is_err());
        assert!(oracle.check_absent(8).is_ok());
    }

    #[test]
    fn zeroes_are_a_write() {
        let oracle = Oracle::new("v", 1);
        let old = write(&oracle, range(0, 8), true);
        let (zeroes, _) = oracle.begin(Change::Zero, range(0, 8), now());
        oracle.acknowledge(zeroes, now()).unwrap();
        assert!(read(&oracle, range(0, 8), &old).is_err());
        assert!(read(&oracle, range(0, 8), &[0; 4096]).is_ok());
    }
}
