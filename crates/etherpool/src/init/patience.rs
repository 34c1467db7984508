//! How long a node waits for who says what it is. Pure.
//!
//! A name, a shelf and a key that change a moment later disturb those who use its disks: so it waits for the boot server.
//! But disks that carry etherpool's label are somebody's, and come back also where no boot server is. A driver that hangs
//! holds up neither.

use std::time::Duration;

use block::Instant;

/// How long it waits for an answer, from the moment that one can come.
const FOR_ANSWER: Duration = Duration::from_secs(20);
/// How long it waits at most, also where no answer can come.
const FOR_ANYTHING: Duration = Duration::from_secs(60);
/// How long the drivers of what was there at the beginning may take.
const FOR_DRIVERS: Duration = Duration::from_secs(30);

/// What has happened so far.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    begun: Instant,
    settled: Option<Instant>,
    addressed: Option<Instant>,
}

impl Patience {
    /// From the beginning.
    pub fn new(begun: Instant) -> Patience {
        Patience { begun, settled: None, addressed: None }
    }

    /// All that was there at the beginning has its drivers.
    pub fn settled(&mut self, now: Instant) {
        self.settled.get_or_insert(now);
    }

    /// An interface has an address.
    pub fn addressed(&mut self, now: Instant) {
        self.addressed.get_or_insert(now);
    }

    /// Whether what there is may be told, and used by who says what to do with it.
    pub fn has_drivers(&self, now: Instant) -> bool {
        self.settled.is_some() || now >= self.begun + FOR_DRIVERS
    }

    /// Whether the boot server may be reached: before, nobody is.
    pub fn may_ask(&self, now: Instant) -> bool {
        self.has_drivers(now) && (self.addressed.is_some() || now >= self.begun + FOR_ANSWER)
    }

    /// Whether it begins without an answer.
    pub fn is_over(&self, now: Instant) -> bool {
        let begun = self.settled.zip(self.addressed).map(|(one, other)| one.max(other));
        begun.is_some_and(|begun| now >= begun + FOR_ANSWER) || now >= self.begun + FOR_ANYTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(7) + Duration::from_secs(seconds)
    }

    #[test]
    fn it_waits_from_when_an_answer_can_come() {
        let mut patience = Patience::new(at(0));
        patience.settled(at(15));
        assert!(!patience.is_over(at(40)) && !patience.may_ask(at(19)));
        patience.addressed(at(25));
        assert!(patience.may_ask(at(25)));
        // Later addresses change nothing.
        patience.addressed(at(30));
        assert!(!patience.is_over(at(44)) && patience.is_over(at(45)));
        let mut patience = Patience::new(at(0));
        patience.addressed(at(1));
        assert!(!patience.may_ask(at(2)) && !patience.is_over(at(22)));
        patience.settled(at(20));
        assert!(patience.may_ask(at(20)) && !patience.is_over(at(39)) && patience.is_over(at(40)));
    }

    #[test]
    fn it_does_not_wait_for_ever() {
        let mut patience = Patience::new(at(0));
        assert!(!patience.has_drivers(at(29)) && patience.has_drivers(at(30)));
        assert!(!patience.may_ask(at(29)) && patience.may_ask(at(30)));
        assert!(!patience.is_over(at(59)) && patience.is_over(at(60)));
        // An address that comes late moves nothing further away.
        patience.settled(at(50));
        patience.addressed(at(55));
        assert!(patience.is_over(at(60)));
    }
}
