//! Which counters were seen, so that no message counts twice: a window that slides, as in RFC 6479.

/// How far a message may come behind the newest one: more than two windows of a session are on their way on
/// all paths together.
const COUNTERS: u64 = 8192;
const WORDS: usize = (COUNTERS / 64) as usize;

/// The counters of one key.
pub(crate) struct Window {
    /// Every one from here on is new.
    next: u64,
    /// A bit for each of the [`COUNTERS`] before, at its remainder.
    seen: Box<[u64; WORDS]>,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window { next: 0, seen: Box::new([0; WORDS]) }
    }

    /// Whether it wasn't seen and isn't too old to tell.
    pub(crate) fn is_new(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        let is_recent = counter.saturating_add(COUNTERS) >= self.next;
        counter >= self.next || is_recent && self.seen[word] & bit == 0
    }

    /// Takes note of one that is new, and of a message that proved genuine.
    pub(crate) fn note(&mut self, counter: u64) {
        if counter >= self.next {
            // What is between was not seen, and its bits are those of counters that are too old by now.
            let skipped = (counter - self.next).min(COUNTERS);
            (0..skipped).for_each(|at| self.forget(counter - 1 - at));
            self.next = counter.saturating_add(1);
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
    }

    fn forget(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        self.seen[word] &= !bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % COUNTERS;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the simplest thing that could be meant.
        #[test]
        fn it_is_new_exactly_once(steps in prop::collection::vec((0u8..8, 0u64..20_000), 1..400)) {
            let (mut window, mut seen, mut newest) = (Window::new(), BTreeSet::new(), 0u64);
            for (kind, far) in steps {
                let counter = match kind {
                    0 => newest.saturating_sub(far),
                    1 => newest + far,
                    2 => newest.saturating_sub(far % 16),
                    _ => newest + far % 4,
                };
                let is_too_old = !seen.is_empty() && counter + COUNTERS < newest + 1;
                let expected = !is_too_old && !seen.contains(&counter);
                prop_assert_eq!(window.is_new(counter), expected, "{} of {}", counter, newest);
                if expected {
                    window.note(counter);
                    seen.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }
}
