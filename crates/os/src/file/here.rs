//! Which writes through the page cache the reactor does itself.
//!
//! That costs a fraction of giving them to a thread ([`super::writer`]), but a medium that hangs then
//! stops everything that the reactor does. So it is done only where nobody else would be stopped:
//!
//! - in file systems in memory, where nothing waits;
//! - on a medium that is the only one (memory counts as one) of all files that this thread has open, as in a process with
//!   one disk image, the way vblade is used; and not while its writes turn out to wait (too many dirty
//!   pages, a full journal, blocks to be read first): then the thread has its turn for a while.
//!
//! Where a server may be behind it, it is never done: one on a network may be away for hours, and one in
//! this very process would be waited for by itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::Instant;

/// So much waiting is too much, unless many fast writes lie between: being scheduled away for a tick now
/// and then is none.
const WAITED_MAX: Duration = Duration::from_millis(20);
/// What a write may take without having waited: many times what it does take.
const EXPECTED: Duration = Duration::from_micros(50);
const EXPECTED_EACH_KIB: Duration = Duration::from_nanos(500);
/// How long the thread writes then.
const PAUSE: Duration = Duration::from_secs(1);

/// What a file lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Pages that no device is behind.
    Memory,
    /// The block device with this number (`st_dev`, or `st_rdev` of a device itself).
    BlockDevice(u64),
    /// What a server is behind, or may be: of a file system, or of a device.
    Other(u64),
}

/// The number of all memory among media.
const MEMORY: u64 = 0;

/// Media of this thread's open files, with the number of files.
type Media = Rc<RefCell<BTreeMap<u64, usize>>>;

thread_local! {
    /// Per thread as a reactor is: whoever hangs, hangs all of it and nothing else.
    static MEDIA: Media = Rc::default();
}

impl Place {
    fn number(self) -> u64 {
        match self {
            Place::Memory => MEMORY,
            Place::BlockDevice(number) | Place::Other(number) => number,
        }
    }
}

/// An open file's view of the question, for as long as it is open.
pub(super) struct Here {
    place: Place,
    media: Media,
    waited: Cell<Duration>,
    slow_until: Cell<Instant>,
}

impl Here {
    pub(super) fn new(place: Place) -> Here {
        let media = MEDIA.with(Rc::clone);
        *media.borrow_mut().entry(place.number()).or_default() += 1;
        Here { place, media, waited: Cell::default(), slow_until: Cell::default() }
    }

    /// Whether the file's pages can be reached without waiting.
    pub(super) fn is_memory(&self) -> bool {
        self.place == Place::Memory
    }

    /// Whether a write may be done here and now.
    pub(super) fn may_write(&self, now: Instant) -> bool {
        match self.place {
            Place::Memory => true,
            Place::BlockDevice(_) => self.media.borrow().len() == 1 && now >= self.slow_until.get(),
            Place::Other(_) => false,
        }
    }

    /// Takes note of how long a write took.
    pub(super) fn note_write(&self, bytes: usize, begun: Instant, ended: Instant) {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        let expected = EXPECTED + EXPECTED_EACH_KIB.saturating_mul(kib);
        self.waited.update(|waited| (waited + ended.since(begun)).saturating_sub(expected));
        if self.waited.get() >= WAITED_MAX {
            self.waited.set(Duration::ZERO);
            self.slow_until.set(ended + PAUSE);
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut media = self.media.borrow_mut();
        if let Some(count) = media.get_mut(&self.place.number()) {
            *count -= 1;
            if *count == 0 {
                media.remove(&self.place.number());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_medium_that_is_alone_is_written_here() {
        let now = Instant::default();
        let first = Here::new(Place::BlockDevice(1));
        assert!(first.may_write(now));
        let same = Here::new(Place::BlockDevice(1));
        assert!(first.may_write(now) && same.may_write(now));
        let memory = Here::new(Place::Memory);
        assert!(memory.may_write(now));
        assert!(!first.may_write(now), "what is in memory would be held up");
        drop(memory);
        assert!(first.may_write(now));
        let second = Here::new(Place::BlockDevice(2));
        assert!(!first.may_write(now) && !second.may_write(now));
        drop(second);
        assert!(first.may_write(now));
        let network = Here::new(Place::Other(50));
        assert!(!first.may_write(now) && !network.may_write(now));
        drop((first, same));
        assert!(!network.may_write(now), "alone, but not to be waited for");
        drop(network);
        MEDIA.with(|media| assert!(media.borrow().is_empty()));
    }

    #[test]
    fn who_has_waited_too_long_leaves_writing_to_the_thread() {
        let here = Here::new(Place::BlockDevice(1));
        let mut now = Instant::default();
        let mut write = |here: &Here, took: Duration| {
            let begun = now;
            now = now + took;
            here.note_write(1024, begun, now);
            now
        };
        // Scheduled away now and then.
        for _ in 0..100 {
            write(&here, Duration::from_millis(4));
            let last = (0..100).map(|_| write(&here, Duration::from_micros(3))).last().unwrap();
            assert!(here.may_write(last));
        }
        // A disk that has to read first.
        assert!(here.may_write(write(&here, Duration::from_millis(8))));
        assert!(here.may_write(write(&here, Duration::from_millis(8))));
        let ended = write(&here, Duration::from_millis(8));
        assert!(!here.may_write(ended));
        assert!(!here.may_write(ended + PAUSE / 2));
        assert!(here.may_write(ended + PAUSE));
        // A faster disk that has to read first.
        let last = (0..200).map(|_| write(&here, Duration::from_micros(200))).last().unwrap();
        assert!(!here.may_write(last));
        drop(here);
        let memory = Here::new(Place::Memory);
        assert!(memory.may_write(write(&memory, Duration::from_secs(1))));
    }
}
