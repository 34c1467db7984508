//! For how long it pays to look again and again before sleeping.
//!
//! A sleep and its wake-up cost processor time, and latency on top; what is waited for may come sooner than
//! that. But looking takes the processor from others, among them those who are waited for. So it is remembered
//! how long the last waits were, and of some limits that one is taken which would have been the cheapest for
//! them: none for a process that has nothing to do, or whose waits are all longer.

use std::time::Duration;

/// What a sleep and its wake-up cost, in time of looking.
const SLEEP_COST_NS: u64 = 12_000;
/// The limits that there are.
const LIMITS_NS: [u64; 6] = [0, 2_000, 4_000, 8_000, 16_000, 32_000];
const LONGEST: usize = LIMITS_NS.len() - 1;
/// So many waits are remembered; then the older ones count half.
const WAITS_MAX: u32 = 128;
/// The limit is chosen anew after so many.
const CHOOSE_EVERY: u32 = 8;
/// After so many waits the longest limit is tried: how long a wait was that ended with a sleep isn't quite
/// known. Only if one of so many was short: an idle process must not spin.
const TRY_EVERY: u32 = 64;
const SHORT_SHARE: u32 = 8;

pub(super) struct Spin {
    /// Waits by the first limit that was long enough for them, then those that were longer than all.
    waits: [u32; LIMITS_NS.len() + 1],
    since_tried: u32,
    limit: usize,
    allowed: bool,
    /// This process has more than one core to run on.
    several_cores: bool,
}

impl Spin {
    pub(super) fn new() -> Spin {
        // On a machine with one core whoever is waited for can't run while we spin; where only this
        // process is confined to one, that holds for its own threads.
        let ours = std::thread::available_parallelism().map_or(1, usize::from);
        let online = crate::sys::online_cores();
        Spin {
            waits: Default::default(),
            since_tried: 0,
            limit: 0,
            allowed: online > 1,
            several_cores: ours > 1,
        }
    }

    /// For how long to look in the wait that begins. `ours` tells that threads of this process are waited for.
    pub(super) fn limit(&mut self, ours: bool) -> Duration {
        if !self.allowed || (ours && !self.several_cores) {
            return Duration::ZERO;
        }
        let total: u32 = self.waits.iter().sum();
        let has_short_ones = (total - self.waits[LONGEST + 1]) * SHORT_SHARE > total;
        let limit = if self.since_tried >= TRY_EVERY && has_short_ones {
            self.since_tried = 0;
            LONGEST
        } else {
            self.limit
        };
        Duration::from_nanos(LIMITS_NS[limit])
    }

    /// A wait is over, with a sleep or without; all of it took so long.
    pub(super) fn waited(&mut self, duration: Duration, slept: bool) {
        let took_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let took_ns = if slept { took_ns.saturating_sub(SLEEP_COST_NS).max(1) } else { took_ns };
        let place = LIMITS_NS.iter().position(|limit| took_ns <= *limit).unwrap_or(LONGEST + 1);
        self.waits[place] += 1;
        self.since_tried = self.since_tried.saturating_add(1);
        let total: u32 = self.waits.iter().sum();
        if total >= WAITS_MAX {
            self.waits.iter_mut().for_each(|count| *count /= 2);
        }
        if total.is_multiple_of(CHOOSE_EVERY) {
            self.limit = (0..=LONGEST).min_by_key(|limit| self.cost_ns(*limit)).unwrap_or(0);
        }
    }

    /// What the waits would have cost with this limit.
    fn cost_ns(&self, limit: usize) -> u64 {
        let cost_of = |(place, count): (usize, &u32)| {
            let each = match place <= limit {
                true => LIMITS_NS[place],
                false => LIMITS_NS[limit] + SLEEP_COST_NS,
            };
            u64::from(*count) * each
        };
        self.waits.iter().enumerate().map(cost_of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After many waits that took so long: how long it looks in most of the next ones.
    fn limit_after(waits_us: &[u64]) -> Duration {
        let mut spin = Spin { allowed: true, several_cores: true, ..Spin::new() };
        for round in 0..1000 {
            let took = Duration::from_micros(waits_us[round % waits_us.len()]);
            let limit = spin.limit(false);
            match took <= limit {
                true => spin.waited(took, false),
                false => spin.waited(took + Duration::from_nanos(SLEEP_COST_NS), true),
            }
        }
        spin.since_tried = 0;
        spin.limit(false)
    }

    #[test]
    fn as_long_as_what_comes_is_worth_it() {
        assert_eq!(limit_after(&[5]), Duration::from_micros(8));
        assert_eq!(limit_after(&[1, 1, 1, 500]), Duration::from_micros(2));
        assert_eq!(limit_after(&[40]), Duration::ZERO);
        assert_eq!(limit_after(&[5, 500, 500, 500]), Duration::ZERO, "most looks would be in vain");
    }

    #[test]
    fn an_idle_process_never_looks() {
        let mut spin = Spin { allowed: true, several_cores: true, ..Spin::new() };
        for _ in 0..1000 {
            assert_eq!(spin.limit(false), Duration::ZERO);
            spin.waited(Duration::from_millis(5), true);
        }
    }

    #[test]
    fn what_gets_quicker_is_noticed_and_what_gets_slower_too() {
        let mut spin = Spin { allowed: true, several_cores: true, ..Spin::new() };
        let wait = |spin: &mut Spin, us: u64| {
            let limit = spin.limit(false);
            spin.waited(Duration::from_micros(us), Duration::from_micros(us) > limit);
            limit
        };
        for us in [4, 300, 4] {
            for _ in 0..300 {
                wait(&mut spin, us);
            }
            let looks = (0..TRY_EVERY).filter(|_| !wait(&mut spin, us).is_zero()).count();
            if us == 4 { assert!(looks > 60, "{looks}") } else { assert!(looks <= 1, "{looks}") }
        }
    }

    #[test]
    fn with_one_core_there_is_nobody_to_look_for() {
        let mut spin = Spin { allowed: false, several_cores: false, ..Spin::new() };
        (0..100).for_each(|_| spin.waited(Duration::from_micros(1), false));
        assert_eq!(spin.limit(false), Duration::ZERO);
        (spin.allowed, spin.since_tried) = (true, 0);
        assert_eq!(
            (spin.limit(true), spin.limit(false)),
            (Duration::ZERO, Duration::from_micros(2))
        );
    }
}
