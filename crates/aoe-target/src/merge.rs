//! Joins adjacent reads, and adjacent writes, into one operation of the device.
//!
//! At an MTU of 1500 a client's megabyte comes in a thousand frames. What waits together goes to the
//! device together:
//!
//! - what became ready in one turn is joined;
//! - a sequential stream has at most two operations with the device; what follows them waits for
//!   the older one, and is joined meanwhile, until it is as long as may be;
//! - a write that covers a block of the medium only in part waits a moment for the rest, since
//!   without it the medium would have to read the block first. Where waiting was in vain it isn't
//!   done any more until it would have helped again.
//!
//! All of this is about commands that the [`crate::queue`] has let run, so none of them overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use aoe_wire::READ_BYTES_MAX;
use block::{Instant, Lba, SECTOR_BYTES, SectorRange};

use crate::queue::Ticket;

/// The longest joined operation: beyond that, less would be saved than waiting costs.
const JOINED_BYTES_MAX: u64 = 512 << 10;
/// How long a write waits for the rest of its block: many times the distance of two frames.
const PLUG_TIMEOUT: Duration = Duration::from_micros(500);
/// Failed merges after which writes are held back no more.
const FAILED_MERGES_MAX: u8 = 8;

/// What is done to sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Commands that go to the device as one, in order of their sectors.
pub(crate) type Joined = Vec<(Ticket, SectorRange)>;

/// The waiting and the flying transfers of an export.
#[derive(Default)]
pub(crate) struct Merger {
    reads: Lane,
    writes: Lane,
    /// How often a write was held back for the rest of its block and that didn't come, lately.
    failed_merges: u8,
    /// Where the last write ended that didn't fill its block: had it waited, would it have helped?
    incomplete_end: Option<Lba>,
}

#[derive(Default)]
struct Lane {
    /// By first sector.
    waiting: BTreeMap<Lba, Run>,
    /// First sector of the waiting run that ends here.
    ends: BTreeMap<Lba, Lba>,
    /// Operations with the device, by the sector behind their last.
    flying: BTreeMap<Lba, Flight>,
}

struct Run {
    commands: Joined,
    end: Lba,
    /// The flight that it lets finish first.
    behind: Option<Ticket>,
    /// Until when it waits for the rest of its block.
    plugged_until: Option<Instant>,
}

struct Flight {
    id: Ticket,
    /// The flight directly before this one, if that was under way when this began.
    behind: Option<Ticket>,
}

/// What a device wants of joined operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockLimits {
    /// Sectors of a block of the medium.
    pub block_sectors: u64,
    /// Most sectors of one read, and of one write.
    pub read_sectors_max: u64,
    pub write_sectors_max: u64,
}

impl BlockLimits {
    pub(crate) fn of(geometry: &block::Geometry) -> BlockLimits {
        let sector = SECTOR_BYTES as u64;
        let at_most = |bytes: u64| (bytes.min(geometry.max_transfer_bytes.into()) / sector).max(1);
        BlockLimits {
            block_sectors: (u64::from(geometry.physical_block_bytes) / sector).max(1),
            read_sectors_max: at_most(READ_BYTES_MAX),
            write_sectors_max: at_most(JOINED_BYTES_MAX),
        }
    }

    fn sectors_max(self, kind: Kind) -> u64 {
        match kind {
            Kind::Read => self.read_sectors_max,
            Kind::Write => self.write_sectors_max,
        }
    }

    fn is_block_border(self, at: Lba) -> bool {
        at.0.is_multiple_of(self.block_sectors)
    }
}

impl Merger {
    /// Whether a write would find no neighbours here and not wait for any, so that it may as well be
    /// done by other means. Takes note of it as if it had come.
    pub(crate) fn let_pass(&mut self, range: SectorRange, limits: BlockLimits) -> bool {
        let lane = &self.writes;
        if lane.ends.contains_key(&range.start)
            || lane.waiting.contains_key(&range.end())
            || lane.flying.contains_key(&range.start)
        {
            return false;
        }
        if limits.is_block_border(range.start) && limits.is_block_border(range.end()) {
            return true;
        }
        if self.failed_merges < FAILED_MERGES_MAX || self.incomplete_end == Some(range.start) {
            return false;
        }
        self.incomplete_end = Some(range.end());
        true
    }

    /// Takes a command that may run; it comes out by [`Merger::poll_ready`], perhaps with others.
    /// False for a read that overlaps another one here: that goes alone, at once.
    pub(crate) fn offer(
        &mut self,
        now: Instant,
        kind: Kind,
        ticket: Ticket,
        range: SectorRange,
        limits: BlockLimits,
    ) -> bool {
        if kind == Kind::Write && self.incomplete_end.take_if(|end| *end == range.start).is_some() {
            self.failed_merges = 0;
        }
        let plugs = kind == Kind::Write
            && limits.block_sectors > 1
            && self.failed_merges < FAILED_MERGES_MAX;
        let lane = self.lane(kind);
        if lane.waiting.contains_key(&range.start) || lane.ends.contains_key(&range.end()) {
            return false;
        }
        let most = limits.sectors_max(kind);
        if lane.append(ticket, range, most) || lane.prepend(ticket, range, most) {
            return true;
        }
        let behind = lane.flying.get(&range.start).and_then(|flight| flight.behind);
        let is_flying = |id: &Ticket| lane.flying.values().any(|flight| flight.id == *id);
        let run = Run {
            commands: vec![(ticket, range)],
            end: range.end(),
            behind: behind.filter(is_flying),
            plugged_until: plugs.then(|| now + PLUG_TIMEOUT),
        };
        lane.insert(range.start, run);
        true
    }

    /// Commands that go to the device now, as one.
    pub(crate) fn poll_ready(
        &mut self,
        now: Instant,
        limits: BlockLimits,
    ) -> Option<(Kind, Joined)> {
        if let Some(start) = self.reads.first_ready(now, limits, Kind::Read) {
            return self.reads.remove(start).map(|run| (Kind::Read, run.commands));
        }
        let start = self.writes.first_ready(now, limits, Kind::Write)?;
        let run = self.writes.remove(start)?;
        let is_complete = limits.is_block_border(start) && limits.is_block_border(run.end);
        if !is_complete {
            let timed_out =
                run.plugged_until.is_some_and(|until| now >= until) && run.commands.len() == 1;
            self.failed_merges =
                if timed_out { self.failed_merges.saturating_add(1) } else { self.failed_merges };
            self.incomplete_end = Some(run.end);
        } else if run.commands.len() > 1 {
            self.failed_merges = 0;
        }
        Some((Kind::Write, self.writes.keep_rest(run, now, limits)))
    }

    /// An operation is with the device.
    pub(crate) fn started(&mut self, kind: Kind, id: Ticket, range: SectorRange) {
        let lane = self.lane(kind);
        let behind = lane.flying.get(&range.start).map(|flight| flight.id);
        lane.flying.insert(range.end(), Flight { id, behind });
    }

    /// The device has answered; what waited for that may go.
    pub(crate) fn finished(&mut self, kind: Kind, id: Ticket, range: SectorRange) {
        let lane = self.lane(kind);
        if lane.flying.get(&range.end()).is_some_and(|flight| flight.id == id) {
            lane.flying.remove(&range.end());
        }
        for run in lane.waiting.values_mut().filter(|run| run.behind == Some(id)) {
            run.behind = None;
        }
    }

    /// When to look again though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.writes.waiting.values().filter(|run| run.behind.is_none());
        waiting.filter_map(|run| run.plugged_until).min()
    }

    /// Whether anything waits here.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.reads.waiting.is_empty() && self.writes.waiting.is_empty()
    }

    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        }
    }
}

impl Lane {
    fn insert(&mut self, start: Lba, run: Run) {
        self.ends.insert(run.end, start);
        self.waiting.insert(start, run);
    }

    fn remove(&mut self, start: Lba) -> Option<Run> {
        let run = self.waiting.remove(&start)?;
        self.ends.remove(&run.end);
        Some(run)
    }

    /// Joins a command to the run that ends where it begins, and that to the run behind.
    fn append(&mut self, ticket: Ticket, range: SectorRange, most: u64) -> bool {
        let Some(&start) = self.ends.get(&range.start) else { return false };
        let Some(run) = self.waiting.get_mut(&start) else { return false };
        if range.end().0 - start.0 > most {
            return false;
        }
        self.ends.remove(&run.end);
        run.commands.push((ticket, range));
        run.end = range.end();
        self.ends.insert(range.end(), start);
        true
    }

    fn prepend(&mut self, ticket: Ticket, range: SectorRange, most: u64) -> bool {
        let Some(run) = self.waiting.get(&range.end()) else { return false };
        if run.end.0 - range.start.0 > most {
            return false;
        }
        let Some(mut run) = self.remove(range.end()) else { return false };
        run.commands.insert(0, (ticket, range));
        self.insert(range.start, run);
        true
    }

    fn first_ready(&self, now: Instant, limits: BlockLimits, kind: Kind) -> Option<Lba> {
        let is_ready = |(start, run): &(&Lba, &Run)| {
            let is_plugged = run.plugged_until.is_some_and(|until| now < until);
            let is_complete = limits.is_block_border(**start) && run.has_border(limits);
            let is_full = run.end.0 - start.0 >= limits.sectors_max(kind);
            (run.behind.is_none() || is_full) && (!is_plugged || is_complete)
        };
        self.waiting.iter().find(is_ready).map(|(start, _)| *start)
    }

    /// Cuts a run behind its last whole block; the rest waits on for what completes it.
    fn keep_rest(&mut self, mut run: Run, now: Instant, limits: BlockLimits) -> Joined {
        let Some(until) = run.plugged_until.filter(|until| now < *until) else {
            return run.commands;
        };
        let whole = run.commands.iter().rposition(|(_, range)| limits.is_block_border(range.end()));
        let rest = run.commands.split_off(whole.map_or(run.commands.len(), |last| last + 1));
        if let Some((_, first)) = rest.first() {
            let (start, end) = (first.start, run.end);
            self.insert(
                start,
                Run { commands: rest, end, behind: None, plugged_until: Some(until) },
            );
        }
        run.commands
    }
}

impl Run {
    /// Whether one of its commands ends with a block.
    fn has_border(&self, limits: BlockLimits) -> bool {
        self.commands.iter().any(|(_, range)| limits.is_block_border(range.end()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: BlockLimits =
        BlockLimits { block_sectors: 8, read_sectors_max: 1024, write_sectors_max: 1024 };

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    fn range(start: u64, count: u64) -> SectorRange {
        SectorRange::new(Lba(start), count)
    }

    fn ready(merger: &mut Merger, micros: u64) -> Vec<(u64, usize)> {
        let mut all = Vec::new();
        while let Some((_, joined)) = merger.poll_ready(at(micros), LIMITS) {
            all.push((joined[0].1.start.0, joined.len()));
        }
        all
    }

    #[test]
    fn what_is_ready_together_goes_together_in_any_order() {
        let mut merger = Merger::default();
        for (number, start) in [4, 0, 2, 6, 100, 16].into_iter().enumerate() {
            merger.offer(at(0), Kind::Read, Ticket(number as u64), range(start, 2), LIMITS);
        }
        let joined = ready(&mut merger, 0);
        assert_eq!(joined.iter().map(|(_, count)| count).sum::<usize>(), 6);
        assert!(joined.len() <= 4, "{joined:?}");
        assert!(merger.is_empty());
    }

    #[test]
    fn a_stream_has_two_flights_and_gathers_behind_them() {
        let mut merger = Merger::default();
        for frame in 0..2 {
            merger.offer(at(0), Kind::Read, Ticket(frame), range(frame * 2, 2), LIMITS);
            assert_eq!(ready(&mut merger, 0), [(frame * 2, 1)]);
            merger.started(Kind::Read, Ticket(frame), range(frame * 2, 2));
        }
        for frame in 2..30 {
            merger.offer(at(1), Kind::Read, Ticket(frame), range(frame * 2, 2), LIMITS);
            assert_eq!(ready(&mut merger, 1), []);
        }
        merger.finished(Kind::Read, Ticket(0), range(0, 2));
        assert_eq!(ready(&mut merger, 200), [(4, 28)]);
    }

    #[test]
    fn what_is_as_long_as_may_be_waits_for_no_flight() {
        let mut merger = Merger::default();
        let part = |index: u64| range(index * 1024, 1024);
        for index in 0..9 {
            merger.offer(at(0), Kind::Read, Ticket(index), part(index), LIMITS);
            assert_eq!(ready(&mut merger, 0), [(index * 1024, 1)]);
            merger.started(Kind::Read, Ticket(index), part(index));
        }
        // What is shorter does, until it is complete.
        let halves = [9 * 1024, 9 * 1024 + 512];
        merger.offer(at(1), Kind::Read, Ticket(9), range(halves[0], 512), LIMITS);
        assert_eq!(ready(&mut merger, 1), []);
        merger.offer(at(1), Kind::Read, Ticket(10), range(halves[1], 512), LIMITS);
        assert_eq!(ready(&mut merger, 1), [(halves[0], 2)]);
    }

    #[test]
    fn part_of_a_block_waits_for_the_rest_until_merges_fail() {
        let mut merger = Merger::default();
        for frame in 0..6 {
            merger.offer(at(0), Kind::Write, Ticket(frame), range(frame * 2, 2), LIMITS);
        }
        assert_eq!(ready(&mut merger, 0), [(0, 4)], "one whole block");
        assert!(merger.deadline().is_some());
        merger.offer(at(9), Kind::Write, Ticket(6), range(12, 4), LIMITS);
        assert_eq!(ready(&mut merger, 9), [(8, 3)], "the second");
        // One sector here and there: soon nobody waits any more.
        let mut waits = 0;
        for number in 10..40 {
            merger.offer(
                at(number * 1000),
                Kind::Write,
                Ticket(number),
                range(number * 99, 1),
                LIMITS,
            );
            let at_once = ready(&mut merger, number * 1000).len();
            waits += 1 - at_once;
            assert_eq!(at_once + ready(&mut merger, number * 1000 + 600).len(), 1);
        }
        assert_eq!(waits, usize::from(FAILED_MERGES_MAX));
        // Until it would have helped.
        merger.offer(at(90_000), Kind::Write, Ticket(90), range(800, 2), LIMITS);
        assert_eq!(ready(&mut merger, 90_000), [(800, 1)]);
        merger.offer(at(90_010), Kind::Write, Ticket(91), range(802, 2), LIMITS);
        assert_eq!(ready(&mut merger, 90_010), []);
        merger.offer(at(90_020), Kind::Write, Ticket(92), range(804, 4), LIMITS);
        assert!(ready(&mut merger, 90_600).len() == 1);
    }

    proptest! {
        /// Whatever comes in comes out once, joined only with its neighbours and not beyond the
        /// limit, and nothing waits for ever.
        #[test]
        fn all_come_out(
            starts in prop::collection::btree_set(0u64..300, 1..80),
            choices in prop::collection::vec(any::<u8>(), 200),
        ) {
            let mut merger = Merger::default();
            let mut incoming: Vec<u64> = starts.into_iter().collect();
            let mut out = Vec::new();
            let mut flying: Vec<(Kind, Ticket, SectorRange)> = Vec::new();
            let total = incoming.len();
            let limits = BlockLimits { block_sectors: 8, read_sectors_max: 40, write_sectors_max: 40 };
            let mut now = 0;
            for choice in choices.into_iter().chain(std::iter::repeat_n(0, 400)) {
                now += 10;
                if choice % 3 != 0 && !incoming.is_empty() {
                    let start = incoming.swap_remove(usize::from(choice) % incoming.len());
                    let kind = if start % 100 < 50 { Kind::Write } else { Kind::Read };
                    merger.offer(at(now), kind, Ticket(start), range(start * 2, 2), limits);
                } else if !flying.is_empty() {
                    let (kind, id, range) = flying.swap_remove(usize::from(choice) % flying.len());
                    merger.finished(kind, id, range);
                }
                while let Some((kind, joined)) = merger.poll_ready(at(now), limits) {
                    let first = joined[0].1.start;
                    let end = joined[joined.len() - 1].1.end();
                    prop_assert!(end.0 - first.0 <= 40);
                    prop_assert!(joined.windows(2).all(|two| two[0].1.end() == two[1].1.start));
                    out.extend(joined.iter().map(|(ticket, _)| ticket.0));
                    let whole = SectorRange::new(first, end.0 - first.0);
                    merger.started(kind, joined[0].0, whole);
                    flying.push((kind, joined[0].0, whole));
                }
                prop_assert!(merger.deadline().is_none_or(|until| until > at(now)));
            }
            out.sort_unstable();
            out.dedup();
            prop_assert_eq!(out.len() + incoming.len(), total);
            prop_assert!(merger.is_empty());
        }
    }
}
