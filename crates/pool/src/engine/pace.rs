//! How fast is done what nobody waits for, a scrub or copies from disk to disk: as somebody said; else as fast as it
//! can be done as long as nobody asks for anything, and otherwise less, as each decides.

use std::cell::Cell;
use std::time::Duration;

use block::Instant;

use super::copy_order::Width;
use super::open_pool::OpenPool;
use super::settings::setting;

/// Requests so long ago still count as being served.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// However long a part took, others have had their turn after that.
const REST_MAX: Duration = Duration::from_secs(10);
/// How often who rests looks whether he is still to.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// With a rate so much of it may be under way at once: enough for all disks to have some, and no burst.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Of so many reads is taken how long one takes.
const READS_JUDGED: u64 = 32;

/// What keeps it slow.
pub(super) struct Pace {
    /// The pool's property that says how fast, if there is one.
    setting: Option<&'static str>,
    /// By which rate it went.
    rate: Cell<Option<u64>>,
    /// When more may be read, by the rate.
    next: Cell<Instant>,
    /// What was begun and isn't owed yet, at most.
    begun_bytes: Cell<u64>,
    /// Requests that were answered, and when there was one more.
    answered: Cell<u64>,
    looked_at: Cell<Instant>,
    /// Reads that were answered, how long they took together, and what one took of late.
    reads: Cell<(u64, Duration)>,
    read_took: Cell<Duration>,
    busy_at: Cell<Option<Instant>>,
}

impl Pace {
    /// As the pool's property says, if there is one for it.
    pub(super) fn by(setting: Option<&'static str>) -> Pace {
        let (rate, next, begun_bytes) = (Cell::default(), Cell::default(), Cell::default());
        let (answered, looked_at, busy_at) = (Cell::default(), Cell::default(), Cell::default());
        let (reads, read_took) = (Cell::default(), Cell::default());
        Pace { setting, rate, next, begun_bytes, answered, looked_at, reads, read_took, busy_at }
    }

    /// Waits after so much was read, for as long as that is wanted; without a rate for so long if requests are
    /// answered.
    pub(super) async fn rest(
        &self,
        open: &OpenPool,
        bytes: u64,
        rest: Duration,
        is_wanted: impl Fn() -> bool,
    ) {
        let runtime = &open.pool.runtime;
        self.owe(open, bytes);
        let rate = self.rate(open);
        let until = match rate {
            Some(_) => self.next.get(),
            None => runtime.now() + rest.min(REST_MAX),
        };
        loop {
            let now = runtime.now();
            if self.rate(open) != rate {
                return;
            }
            if now >= until || !is_wanted() || (rate.is_none() && !self.is_busy(open)) {
                return;
            }
            runtime.sleep_until(until.min(now + LOOK_EVERY)).await;
        }
    }

    /// At most so much is begun.
    pub(super) fn begin(&self, bytes: u64) {
        self.begun_bytes.update(|begun| begun + bytes);
    }

    /// Of what was begun so much was done.
    pub(super) fn end(&self, open: &OpenPool, begun_bytes: u64, bytes: u64) {
        self.begun_bytes.update(|begun| begun.saturating_sub(begun_bytes));
        self.owe(open, bytes);
    }

    /// So much was done.
    fn owe(&self, open: &OpenPool, bytes: u64) {
        if let Some(rate) = self.rate(open) {
            self.next.set(self.next.get().max(open.pool.runtime.now()) + costs(bytes, rate));
        }
    }

    /// Whether more may be done by the rate.
    pub(super) fn is_due(&self, open: &OpenPool) -> bool {
        self.rate(open).is_none_or(|rate| {
            self.next.get() <= open.pool.runtime.now()
                && costs(self.begun_bytes.get(), rate) < UNDER_WAY
        })
    }

    /// How much is copied at once: less where somebody said a rate, or asked for something a moment ago.
    pub(super) fn width(&self, open: &OpenPool, extent_bytes: u64) -> Width {
        match self.is_busy(open) | self.rate(open).is_some() {
            true => Width::beside(extent_bytes, self.read_took.get()),
            false => Width::alone(extent_bytes),
        }
    }

    /// Bytes per second that somebody said. By another rate nothing is owed.
    fn rate(&self, open: &OpenPool) -> Option<u64> {
        let said = |key| setting(&open.pool.meta.borrow(), key, None);
        let rate = self.setting.and_then(said).filter(|rate| *rate > 0);
        if self.rate.replace(rate) != rate {
            self.next.set(open.pool.runtime.now());
        }
        rate
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
        let answered: u64 = counts.sum();
        let reads = volumes.iter().map(|volume| {
            let read = &volume.stats.borrow().read.total;
            (read.count(), read.sum())
        });
        let (count, sum) =
            reads.fold((0, Duration::ZERO), |all, one| (all.0 + one.0, all.1 + one.1));
        let (count_before, sum_before) = self.reads.get();
        // A volume may have gone.
        let new = count.checked_sub(count_before);
        if new.is_none_or(|new| new >= READS_JUDGED) {
            self.reads.set((count, sum));
            let new = new.and_then(|new| u32::try_from(new).ok()).filter(|new| *new > 0);
            let took = new.map(|new| sum.saturating_sub(sum_before) / new);
            self.read_took.set(took.unwrap_or_default());
        }
        let since = now.since(self.looked_at.replace(now));
        let new_answers = answered.saturating_sub(self.answered.replace(answered));
        // Where nobody looked for long, what was answered may have been long ago: unless it was as much as that.
        if new_answers > 0 && BUSY_FOR.as_nanos() * u128::from(new_answers) >= since.as_nanos() {
            self.busy_at.set(Some(now));
        }
        self.busy_at.get().is_some_and(|at| now.since(at) < BUSY_FOR)
    }
}

/// How long so much takes at a rate.
fn costs(bytes: u64, bytes_per_second: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
