//! INTENTs that aren't in place as far as the metadata knows (10): which of them hold up what is
//! acknowledged, which hold up release, and the room that contents take which went to their place.

use std::collections::BTreeMap;

use crate::format::{GenerationId, RecordNumber, Row, RowRange};

/// Why an INTENT isn't complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    /// Its rows are being written.
    UnderWay,
    /// The same, over what was there: nobody knows what they are.
    Over(RowRange),
    /// Those were given up, and their contents go into the log.
    Torn(RowRange),
    /// Its contents go into the log, and its rows are what they were; or nobody has decided what became of it.
    Abandoned,
}

impl Unsettled {
    /// Rows of which nobody knows what they are.
    fn rows(self) -> Option<RowRange> {
        match self {
            Unsettled::Over(rows) | Unsettled::Torn(rows) => Some(rows),
            Unsettled::UnderWay | Unsettled::Abandoned => None,
        }
    }
}

/// The INTENTs of a log beyond what is released.
#[derive(Debug, Default)]
pub(crate) struct Intents {
    unsettled: BTreeMap<RecordNumber, Unsettled>,
    /// The last one that became complete.
    last_complete: RecordNumber,
    /// Log room of those that are complete, for their contents.
    room_bytes: BTreeMap<RecordNumber, u64>,
}

impl Intents {
    /// One is durable; its rows may not be.
    pub(crate) fn begin(&mut self, number: RecordNumber) {
        self.unsettled.insert(number, Unsettled::UnderWay);
    }

    /// Rows of one begin to be written over what is there.
    pub(crate) fn write_over(&mut self, number: RecordNumber, rows: RowRange) {
        self.unsettled.insert(number, Unsettled::Over(rows));
    }

    /// One won't become complete by itself.
    pub(crate) fn abandon(&mut self, number: RecordNumber) {
        let now = self.unsettled.get(&number).and_then(|why| why.rows());
        let why = now.map_or(Unsettled::Abandoned, Unsettled::Torn);
        self.unsettled.insert(number, why);
    }

    /// Whether nobody knows what a row is: something is being written over it, or that was given up, and what
    /// takes its place isn't durable.
    pub(crate) fn is_in_doubt(&self, group: GenerationId, row: Row) -> bool {
        let has = |rows: RowRange| {
            rows.group == group && (rows.first.0..rows.first.0 + rows.count).contains(&row.0)
        };
        self.unsettled.values().any(|why| why.rows().is_some_and(has))
    }

    /// The groups with such rows.
    pub(crate) fn groups_in_doubt(&self) -> impl Iterator<Item = GenerationId> + '_ {
        let rows = self.unsettled.values().filter_map(|why| why.rows());
        rows.map(|rows| rows.group)
    }

    /// Whether release waits for what is to be appended in the place of something.
    pub(crate) fn has_torn(&self) -> bool {
        self.unsettled.values().any(|why| matches!(why, Unsettled::Torn(_)))
    }

    /// Its rows are on all positions; its contents take this room from now on.
    pub(crate) fn complete(&mut self, number: RecordNumber, room_bytes: u64) {
        self.unsettled.remove(&number);
        self.last_complete = self.last_complete.max(number);
        self.room_bytes.insert(number, room_bytes);
    }

    /// What took the place of an abandoned one is durable.
    pub(crate) fn replaced(&mut self, number: RecordNumber) {
        self.unsettled.remove(&number);
    }

    /// All up to here is released; tells how much room that gives.
    pub(crate) fn released(&mut self, last: RecordNumber) -> u64 {
        self.unsettled.retain(|number, _| *number > last);
        let stays = self.room_bytes.split_off(&last.next());
        std::mem::replace(&mut self.room_bytes, stays).into_values().sum()
    }

    /// The last record before the newest contents in place, of so many bytes; none if there are no more.
    pub(crate) fn but_newest(&self, bytes: u64) -> Option<RecordNumber> {
        let mut newest = 0;
        let older = self.room_bytes.iter().rev().find(|(_, room)| {
            newest += **room;
            newest > bytes
        });
        older.map(|(number, _)| *number)
    }

    /// How far all is acknowledged, of what is durable up to `durable`.
    pub(crate) fn acknowledged(&self, durable: RecordNumber) -> RecordNumber {
        let first = self.unsettled.keys().next();
        first.map_or(durable, |first| before(*first).min(durable))
    }

    /// How far a destage may release. What was abandoned holds it up if its rows aren't what they were.
    pub(crate) fn releasable(&self, durable: RecordNumber) -> RecordNumber {
        let mut held = self.unsettled.iter().filter(|(_, why)| **why != Unsettled::Abandoned);
        held.next().map_or(durable, |(first, _)| before(*first).min(durable))
    }

    /// Up to here some INTENT is known to be complete.
    pub(crate) fn complete_through(&self, durable: RecordNumber) -> RecordNumber {
        self.last_complete.min(self.acknowledged(durable))
    }
}

fn before(number: RecordNumber) -> RecordNumber {
    RecordNumber(number.0.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_under_way_holds_up_both_and_an_abandoned_one_only_what_is_acknowledged() {
        let (mut intents, durable) = (Intents::default(), RecordNumber(20));
        let ends =
            |intents: &Intents| (intents.acknowledged(durable).0, intents.releasable(durable).0);
        assert_eq!(ends(&intents), (20, 20));
        for number in [5, 9, 12] {
            intents.begin(RecordNumber(number));
        }
        assert_eq!(ends(&intents), (4, 4));
        intents.complete(RecordNumber(9), 100);
        assert_eq!(ends(&intents), (4, 4));
        assert_eq!(intents.complete_through(durable), RecordNumber(4));
        intents.abandon(RecordNumber(5));
        assert_eq!(ends(&intents), (4, 11));
        intents.replaced(RecordNumber(5));
        assert_eq!(ends(&intents), (11, 11));
        assert_eq!(intents.complete_through(durable), RecordNumber(9));
        assert_eq!(intents.but_newest(99), Some(RecordNumber(9)));
        assert_eq!(intents.but_newest(100), None);
        intents.abandon(RecordNumber(12));
        assert_eq!(ends(&intents), (11, 20));
        let rows = RowRange { group: GenerationId(3), first: Row(10), count: 4 };
        intents.begin(RecordNumber(14));
        intents.write_over(RecordNumber(14), rows);
        let doubts = |intents: &Intents| {
            [9, 10, 13, 14].map(|row| intents.is_in_doubt(GenerationId(3), Row(row)))
        };
        assert_eq!(doubts(&intents), [false, true, true, false]);
        assert!(!intents.is_in_doubt(GenerationId(4), Row(10)) && !intents.has_torn());
        intents.abandon(RecordNumber(14));
        assert_eq!((ends(&intents), intents.has_torn()), ((11, 13), true));
        assert_eq!(doubts(&intents), [false, true, true, false]);
        intents.replaced(RecordNumber(14));
        assert_eq!((ends(&intents), intents.has_torn()), ((11, 20), false));
        assert_eq!(doubts(&intents), [false; 4]);
        assert_eq!(intents.released(RecordNumber(8)), 0);
        assert_eq!(intents.released(RecordNumber(12)), 100);
        assert_eq!(ends(&intents), (20, 20));
    }
}
