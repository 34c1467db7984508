//! How fast a scrub reads: as somebody said; else as long as nobody asks for anything as fast as it can, and
//! otherwise half of the time.

use std::cell::Cell;
use std::time::Duration;

use block::Instant;

use super::super::open_pool::OpenPool;
use super::super::settings::{SCRUB_RATE, setting};

/// Requests so long ago still count as being served.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// However long a part took, others have had their turn after that.
const REST_MAX: Duration = Duration::from_secs(2);

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
    /// Waits after so much was read in so long a time.
    pub(super) async fn rest(&self, open: &OpenPool, bytes: u64, took: Duration) {
        let runtime = &open.pool.runtime;
        let now = runtime.now();
        let rate = setting(&open.pool.meta.borrow(), SCRUB_RATE, None);
        if let Some(rate) = rate.filter(|rate| *rate > 0) {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            let costs = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let next = self.next.get().max(now) + costs;
            self.next.set(next);
            return runtime.sleep_until(next).await;
        }
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
        if self.busy_at.get().is_some_and(|at| now.since(at) < BUSY_FOR) {
            runtime.sleep(took.min(REST_MAX)).await;
        }
    }
}
