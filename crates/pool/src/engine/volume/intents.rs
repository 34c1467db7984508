//! INTENTs that aren't in place as far as the metadata knows (10): which of them hold up what is
//! acknowledged, which hold up release, and the room that contents take which went to their place.

use std::collections::BTreeMap;

use crate::format::RecordNumber;

/// Why an INTENT isn't complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    /// Its rows are being written.
    UnderWay,
    /// Its contents go into the log, or nobody has decided what became of it.
    Abandoned,
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

    /// One won't become complete by itself.
    pub(crate) fn abandon(&mut self, number: RecordNumber) {
        self.unsettled.insert(number, Unsettled::Abandoned);
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

    /// How far a destage may release.
    pub(crate) fn releasable(&self, durable: RecordNumber) -> RecordNumber {
        let mut under_way = self.unsettled.iter().filter(|(_, why)| **why == Unsettled::UnderWay);
        under_way.next().map_or(durable, |(first, _)| before(*first).min(durable))
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
        assert_eq!(intents.released(RecordNumber(8)), 0);
        assert_eq!(intents.released(RecordNumber(12)), 100);
        assert_eq!(ends(&intents), (20, 20));
    }
}
