//! Whether it pays to look again for a moment before sleeping.
//!
//! A sleep and its wake-up cost 15-20 us of latency and CPU; at depth 1 the answer of a disk or peer
//! often comes sooner. But spinning in vain burns a core, so it has to be earned: only when sleeps
//! turned out shorter than a spin, or spins found something, is the next wait begun by spinning. An
//! idle process spends at most [`CREDIT_MAX`] spins before it only sleeps.

use std::time::Duration;

/// About twice the cost of a sleep and its wake-up.
pub(super) const SPIN_LIMIT: Duration = Duration::from_micros(30);
const CREDIT_MAX: u8 = 8;

pub(super) struct Spin {
    credit: u8,
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
        Spin { credit: 0, allowed: online > 1, several_cores: ours > 1 }
    }

    /// `ours` tells that threads of this process are waited for.
    pub(super) fn is_worth_it(&self, ours: bool) -> bool {
        self.allowed && self.credit > 0 && (self.several_cores || !ours)
    }

    pub(super) fn spun(&mut self, found: bool) {
        self.credit = if found { CREDIT_MAX } else { self.credit.saturating_sub(1) };
    }

    pub(super) fn slept(&mut self, duration: Duration) {
        if duration < SPIN_LIMIT {
            self.credit = (self.credit + 2).min(CREDIT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_is_earned_and_lost() {
        let mut spin = Spin { allowed: true, ..Spin::new() };
        assert!(!spin.is_worth_it(false));
        spin.slept(Duration::from_millis(5));
        assert!(!spin.is_worth_it(false), "an idle process must not spin");
        spin.slept(Duration::from_micros(10));
        assert!(spin.is_worth_it(false));
        for _ in 0..CREDIT_MAX {
            spin.spun(false);
        }
        assert!(!spin.is_worth_it(false));
        spin.slept(Duration::from_micros(10));
        spin.allowed = false;
        assert!(!spin.is_worth_it(false));
    }
}
