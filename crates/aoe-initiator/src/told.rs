//! Who holds a medium, as its target told, and when that was.

use block::{Holder, Instant};

/// Who holds the medium, as the target told.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    holder: Holder,
    /// The target's clock then, by which answers that overtook each other are told apart.
    clock: Instant,
    at: Instant,
}

impl Told {
    /// An answer of the target's time `clock` said so `now`.
    pub fn new(holder: Holder, clock: Instant, now: Instant) -> Told {
        Told { holder, clock, at: now }
    }

    /// Who that is. When the owner was heard lies back farther the longer nothing was told.
    pub fn holder(&self, now: Instant) -> Holder {
        let heard = self.holder.heard.map(|age| age + now.since(self.at));
        Holder { heard, ..self.holder }
    }

    /// The one of both that was told later.
    pub fn or_newer(self, other: Option<Told>) -> Told {
        other.filter(|other| other.clock > self.clock).unwrap_or(self)
    }
}
