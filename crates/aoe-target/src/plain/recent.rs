//! Late duplicates of plain writes. A frame that the network kept, and hands over again when the
//! sectors have long been written anew, would undo the newer write: plain AoE has no sequence numbers.
//!
//! Each client's last writes are remembered by tag. A frame that repeats one of them in everything
//! isn't executed again: while the first waits it is dropped, afterwards it is answered as done. But
//! nothing in the protocol makes tags unique, and a client that uses few of them over and over may
//! mean such a frame as a new write. So it takes as many different tags in a row as a client may have
//! commands on their way before its repetitions count as duplicates, a tag that comes back with
//! another command or other data takes that back, and nothing counts that was before the client
//! began anew (asked what the disk is), or is older than a frame can be.

use std::time::Duration;

use block::{Instant, SectorRange};

/// Writes that are remembered of a client.
const WRITES_MAX: usize = 256;
/// Different tags in a row that make them trusted: more than there are places on the way, by which
/// a client may number its commands.
const PROOF: u32 = WRITES_MAX as u32 + 1;
/// How late a duplicate may be. A client that restarts and counts from the same number again takes
/// longer.
const AGE_MAX: Duration = Duration::from_secs(10);

/// What a write is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    pub tag: u32,
    pub range: SectorRange,
    pub crc: u32,
}

/// Whether a write is to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    New,
    /// It is being executed.
    Waits,
    /// It has been.
    Done,
}

/// Small, because there are many: of each client, of each export.
#[derive(Clone, Copy)]
struct Entry {
    place: u64,
    arrived: Instant,
    crc: u32,
    state: State,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// The 48 bits of a plain write's first sector, and the eight of its count.
fn place_of(range: SectorRange) -> u64 {
    range.start.0 | range.count << 48
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Done,
    /// It failed, and may come again.
    Void,
}

/// A client's last writes.
#[derive(Default)]
pub(crate) struct Recent {
    /// Apart from the rest, because every command looks through all of them. None is there twice.
    tags: Vec<u32>,
    entries: Vec<Entry>,
    /// Where the next one goes, once there are as many as there may be.
    oldest: usize,
    /// Different tags in a row.
    distinct: u32,
    pub last_used: Instant,
}

impl Recent {
    /// A write has arrived; a new one is remembered.
    pub(crate) fn write(&mut self, print: Print, now: Instant) -> Verdict {
        self.last_used = now;
        let Print { tag, range, crc } = print;
        let place = place_of(range);
        let mut entry = Entry { place, arrived: now, crc, state: State::Waits };
        let Some(index) = self.find(tag) else {
            self.distinct = self.distinct.saturating_add(1);
            self.remember(tag, entry);
            return Verdict::New;
        };
        let known = &mut self.entries[index];
        let same = known.place == place && known.crc == crc;
        let young = now.since(known.arrived) < AGE_MAX;
        match known.state {
            State::Void if same => std::mem::swap(known, &mut entry),
            State::Waits if same && young && self.distinct >= PROOF => return Verdict::Waits,
            State::Done if same && young && self.distinct >= PROOF => return Verdict::Done,
            _ => {
                // Its tags come back: who knows what it means by them.
                self.forget();
                self.remember(tag, entry);
            }
        }
        Verdict::New
    }

    /// Another command has arrived: its tag must not be that of a write.
    pub(crate) fn other(&mut self, tag: u32) {
        if self.find(tag).is_some() {
            self.forget();
        }
    }

    /// A write has been executed; one that failed may come again.
    pub(crate) fn finished(&mut self, tag: u32, arrived: Instant, succeeded: bool) {
        let known = self.find(tag).map(|index| &mut self.entries[index]);
        // Of the same tag there may have been another, forgotten since.
        if let Some(known) = known.filter(|known| known.arrived == arrived) {
            known.state = if succeeded { State::Done } else { State::Void };
        }
    }

    /// Nothing is known of the client's tags any more.
    pub(crate) fn forget(&mut self) {
        self.tags.clear();
        self.entries.clear();
        self.oldest = 0;
        self.distinct = 0;
    }

    fn remember(&mut self, tag: u32, entry: Entry) {
        if self.tags.len() < WRITES_MAX {
            self.tags.push(tag);
            self.entries.push(entry);
            return;
        }
        self.tags[self.oldest] = tag;
        self.entries[self.oldest] = entry;
        self.oldest = (self.oldest + 1) % WRITES_MAX;
    }

    fn find(&self, tag: u32) -> Option<usize> {
        // Without a way out of the inner loop, it becomes a few comparisons of many tags at once.
        const TOGETHER: usize = 32;
        let hit = |tags: &[u32]| tags.iter().fold(false, |hit, known| hit | (*known == tag));
        let chunk = self.tags.chunks(TOGETHER).position(hit)?;
        let first = chunk * TOGETHER;
        let within = self.tags[first..].iter().position(|known| *known == tag)?;
        Some(first + within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Lba;

    fn print(tag: u32, lba: u64, crc: u32) -> Print {
        Print { tag, range: SectorRange::new(Lba(lba), 2), crc }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// One whose tags are known to be unique.
    fn proven() -> Recent {
        let mut recent = Recent::default();
        for n in 0..PROOF {
            assert_eq!(recent.write(print(1000 + n, 0, n), at(0)), Verdict::New);
            recent.finished(1000 + n, at(0), true);
        }
        recent
    }

    #[test]
    fn a_repetition_is_known() {
        let mut recent = proven();
        assert_eq!(recent.write(print(1, 5, 7), at(0)), Verdict::New);
        assert_eq!(recent.write(print(1, 5, 7), at(1)), Verdict::Waits);
        recent.finished(1, at(0), true);
        assert_eq!(recent.write(print(1, 5, 7), at(1)), Verdict::Done);
        assert_eq!(recent.write(print(1, 5, 7), at(9_999)), Verdict::Done);
        assert_eq!(recent.write(print(1, 5, 7), at(10_000)), Verdict::New, "no frame is that old");
    }

    #[test]
    fn an_answer_is_for_its_own_write() {
        let mut recent = proven();
        recent.write(print(1, 5, 7), at(0));
        recent.other(1);
        recent.write(print(1, 5, 8), at(1));
        for n in 0..PROOF {
            recent.other(2000 + n);
        }
        recent.finished(1, at(0), true);
        assert_ne!(recent.write(print(1, 5, 8), at(1)), Verdict::Done);
    }

    #[test]
    fn what_failed_may_come_again() {
        let mut recent = proven();
        recent.write(print(1, 5, 7), at(0));
        recent.finished(1, at(0), false);
        assert_eq!(recent.write(print(1, 5, 7), at(1)), Verdict::New);
    }

    #[test]
    fn whose_tags_come_back_is_never_held_to_repeat() {
        for another in [print(1, 6, 7), print(1, 5, 8)] {
            let mut recent = proven();
            recent.write(print(1, 5, 7), at(0));
            recent.finished(1, at(0), true);
            assert_eq!(recent.write(another, at(0)), Verdict::New);
            recent.finished(1, at(0), true);
            assert_eq!(recent.write(another, at(0)), Verdict::New);
            assert_eq!(recent.write(print(1, 5, 7), at(0)), Verdict::New);
        }
        let mut recent = proven();
        recent.write(print(1, 5, 7), at(0));
        recent.other(2);
        assert_eq!(recent.write(print(1, 5, 7), at(0)), Verdict::Waits);
        recent.other(1);
        assert_eq!(recent.write(print(1, 5, 7), at(0)), Verdict::New);
        let mut recent = proven();
        recent.write(print(1, 5, 7), at(0));
        recent.forget();
        assert_eq!(recent.write(print(1, 5, 7), at(0)), Verdict::New);
    }

    /// Numbers of places on the way instead of tags, and the same two writes in turn for ever.
    #[test]
    fn few_tags_in_turn_prove_nothing() {
        for tags in [1, 2, 3, 63, 64, 128, 255, 256, 257, 300] {
            let mut recent = Recent::default();
            for round in 0..1000 {
                let tag = round % tags;
                assert_eq!(recent.write(print(tag, 5, tag), at(0)), Verdict::New);
                recent.finished(tag, at(0), true);
            }
        }
    }

    #[test]
    fn bounded() {
        let mut recent = proven();
        for tag in 0..10_000 {
            recent.write(print(tag, 5, tag), at(0));
        }
        assert_eq!((recent.tags.len(), recent.entries.len()), (WRITES_MAX, WRITES_MAX));
        assert_eq!(recent.write(print(9_999, 5, 9_999), at(0)), Verdict::Waits);
        assert_eq!(recent.write(print(9_743, 5, 9_743), at(0)), Verdict::New, "long gone");
    }
}
