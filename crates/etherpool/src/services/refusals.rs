//! Whoever is refused may try again as often as he likes: the log has so many lines of that a minute, and the next one
//! says how many it hasn't.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are told in one [`PERIOD`].
const TOLD_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(60);

/// What was told, and what wasn't.
#[derive(Default)]
pub struct Refusals(Mutex<Period>);

#[derive(Default)]
struct Period {
    begun: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Refusals {
    /// Has one more told, with how many before it weren't, or counts it.
    pub fn tell(&self, tell: impl FnOnce(u64)) {
        if let Some(untold) = self.turn(Instant::now()) {
            tell(untold);
        }
    }

    fn turn(&self, now: Instant) -> Option<u64> {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if period.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= PERIOD) {
            (period.begun, period.told) = (Some(now), 0);
        }
        if period.told >= TOLD_MAX {
            period.untold = period.untold.saturating_add(1);
            return None;
        }
        period.told += 1;
        Some(std::mem::take(&mut period.untold))
    }
}

/// What somebody said, as it may stand in a line of the log: no longer than that, and one line.
pub fn line_of(text: &str) -> String {
    const BYTES_MAX: usize = 512;
    let text = &text[..text.floor_char_boundary(BYTES_MAX)];
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_so_many_lines_and_a_number() {
        let (refusals, begun) = (Refusals::default(), Instant::now());
        let told = |after| (0..10_000).filter_map(|_| refusals.turn(begun + after)).collect();
        let first: Vec<u64> = told(Duration::ZERO);
        assert_eq!(first, [0; TOLD_MAX as usize]);
        assert_eq!(told(PERIOD - Duration::from_millis(1)), Vec::<u64>::new());
        let next: Vec<u64> = told(PERIOD);
        assert_eq!(next.len(), TOLD_MAX as usize);
        assert_eq!(next[0], 20_000 - u64::from(TOLD_MAX));
        assert!(next[1..].iter().all(|untold| *untold == 0));
    }

    #[test]
    fn what_somebody_says_is_one_line_of_no_more_than_so_much() {
        assert_eq!(line_of("ä\nroot did it\u{1b}[2J"), "ä root did it [2J");
        assert_eq!(line_of(&"aä".repeat(1000)).len(), 511);
        assert_eq!(line_of(&"ä€".repeat(1000)).len(), 512);
        assert_eq!(line_of(&"€".repeat(1000)).len(), 510);
    }
}
