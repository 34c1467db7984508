//! How fast a scrub reads: as somebody said; else as long as nobody asks for anything as fast as it can, and
//! otherwise half of the time.

use std::cell::Cell;
use std::time::Duration;

use block::Instant;

use super::super::open_pool::OpenPool;
use super::super::settings::{SCRUB_RATE, setting};
use super::GROUPS;

/// Requests so long ago still count as being served.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// However long a part took, others have had their turn after that.
const REST_MAX: Duration = Duration::from_secs(10);
/// How often who rests looks whether he is still to.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Each part rests so many times as long as it took: with all groups together disks are asked half of the time.
const RESTS: u32 = 2 * GROUPS as u32 - 1;

/// What keeps it slow.
#[derive(Default)]
pub(super) struct Pace {
    /// When more may be read, by the rate.
    next: Cell<Instant>,
    /// Requests that were answered, and when there was one more.
    answered: Cell<u64>,
    busy_at: Cell<Option<Instant>>,
}

impl Pace {
    /// Waits after so much was read in so long a time, for as long as that is wanted.
    pub(super) async fn rest(
        &self,
        open: &OpenPool,
        bytes: u64,
        took: Duration,
        is_wanted: impl Fn() -> bool,
    ) {
        let runtime = &open.pool.runtime;
        let rate = rate(open);
        let until = match rate {
            Some(rate) => {
                let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
                let costs = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.next.set(self.next.get().max(runtime.now()) + costs);
                self.next.get()
            }
            None => runtime.now() + (took * RESTS).min(REST_MAX),
        };
        loop {
            let now = runtime.now();
            if self::rate(open) != rate {
                // By another rate nothing is owed.
                self.next.set(now);
                return;
            }
            if now >= until || !is_wanted() || (rate.is_none() && !self.is_busy(open)) {
                return;
            }
            runtime.sleep_until(until.min(now + LOOK_EVERY)).await;
        }
    }

    /// Whether somebody asked for something a moment ago.
    fn is_busy(&self, open: &OpenPool) -> bool {
        let now = open.pool.runtime.now();
        let volumes = open.volumes.borrow().values().cloned().collect::<Vec<_>>();
        let counts = volumes.iter().map(|volume| {
            let stats = volume.stats.borrow();
            let kinds = [&stats.read, &stats.write, &stats.discard, &stats.flush];
            kinds.iter().map(|kind| kind.total.count()).sum::<u64>()
        });
        let answered = counts.sum();
        if self.answered.replace(answered) != answered {
            self.busy_at.set(Some(now));
        }
        self.busy_at.get().is_some_and(|at| now.since(at) < BUSY_FOR)
    }
}

/// Bytes per second that somebody said.
fn rate(open: &OpenPool) -> Option<u64> {
    setting(&open.pool.meta.borrow(), SCRUB_RATE, None).filter(|rate| *rate > 0)
}
