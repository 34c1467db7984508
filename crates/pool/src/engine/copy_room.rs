//! How much is copied at once, of all groups together: memory for it, and how many pieces of it are read at once beside
//! requests (docs/engine.md, 11.13).
//!
//! What disks answer comes by this machine's cable, and what requests wait for comes behind it, or is dropped by a switch. How
//! much the cable carries nobody says; but where pieces wait for each other in front of it, most of them take longer than by
//! their disks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::Instant;
use runtime::{Handle, Permit, Semaphore};

use super::copy_order::Width;
use super::limits::COPIED_BYTES_MAX;
use super::underway::WaitsFor;

/// Pieces at once. With a single one whoever waits for a group would wait for all others' pieces, too.
const PIECES: std::ops::RangeInclusive<u64> = 2..=16;
/// After so many pieces it is looked how long half of them took.
const SEEN: usize = 16;
/// Where that is less there may be more of them: a disk reads a piece in 5 ms, if its arm is there (in the simulator with 10 Gbit/s beside
/// requests at half of what the pool answers half of them take 5 to 13 ms).
const QUICK: Duration = Duration::from_millis(14);
/// Where it is longer there are fewer: two pieces come by 1 Gbit/s in 17 ms (with five at once half of them took 17 to 54 ms).
const SLOW: Duration = Duration::from_millis(20);
/// Nobody waits longer for others' pieces, whose disks may be silent.
const WAITS_MAX: Duration = Duration::from_millis(200);
/// Divided among those that are read at once.
const ROOM: u64 = 1 << 20;

/// The room of a pool.
pub(crate) struct CopyRoom {
    bytes: Rc<Semaphore>,
    reads: Rc<Semaphore>,
    /// So many are read at once.
    pieces: Cell<u64>,
    /// How long the last ones took.
    seen: RefCell<Vec<Duration>>,
}

/// A piece that is being read, until it is dropped.
pub(crate) struct Reading<'a> {
    of: &'a CopyRoom,
    runtime: &'a Handle,
    begun: Instant,
    _room: Option<Permit>,
}

impl Default for CopyRoom {
    fn default() -> CopyRoom {
        CopyRoom {
            bytes: Semaphore::new(COPIED_BYTES_MAX),
            reads: Semaphore::new(ROOM),
            pieces: Cell::new(*PIECES.end()),
            seen: RefCell::default(),
        }
    }
}

impl CopyRoom {
    /// Memory for what is copied.
    pub(crate) async fn bytes(&self, bytes: u64) -> Permit {
        self.bytes.acquire(bytes).await
    }

    /// Waits until one more piece may be read, where it waits for its disk as well.
    pub(crate) async fn read<'a>(
        &'a self,
        runtime: &'a Handle,
        width: Width,
    ) -> Option<Reading<'a>> {
        if width.waits_for != WaitsFor::Rest {
            return None;
        }
        let room = self.reads.acquire(ROOM / self.pieces.get());
        let room = runtime::timeout(runtime, WAITS_MAX, room).await.ok();
        Some(Reading { of: self, runtime, begun: runtime.now(), _room: room })
    }

    fn was_read(&self, took: Duration) {
        let mut seen = self.seen.borrow_mut();
        seen.push(took);
        if seen.len() < SEEN {
            return;
        }
        let (_, median, _) = seen.select_nth_unstable(SEEN / 2);
        let pieces = match self.pieces.get() {
            pieces if *median > SLOW => pieces * 3 / 4,
            pieces if *median < QUICK => pieces + 1,
            pieces => pieces,
        };
        seen.clear();
        self.pieces.set(pieces.clamp(*PIECES.start(), *PIECES.end()));
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.of.was_read(self.runtime.now().since(self.begun));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_most_take_long_fewer_are_read_at_once() {
        let room = CopyRoom::default();
        let see = |count: usize, took| (0..count).for_each(|_| room.was_read(took));
        see(SEEN - 1, 2 * SLOW);
        assert_eq!(room.pieces.get(), 16);
        see(1, QUICK);
        assert_eq!(room.pieces.get(), 12, "one that is quick says little");
        see(100 * SEEN, 2 * SLOW);
        assert_eq!(room.pieces.get(), 2, "never one alone");
        see(SEEN, SLOW);
        assert_eq!(room.pieces.get(), 2);
        see(100 * SEEN, QUICK / 2);
        assert_eq!(room.pieces.get(), 16);
    }
}
