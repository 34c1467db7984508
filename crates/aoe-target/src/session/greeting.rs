//! The target's nonces: given to whoever says HELLO, and remembered of nobody. A nonce is a keyed hash of what
//! the other end said and of the time, so that OPEN proves by it that its sender has heard an answer, and a
//! flood of HELLOs takes no memory. Used nonces are remembered, for as long as they would be good: no
//! recorded OPEN opens anything again.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::time::Duration;

use aoe_wire::{Incarnation, Nonce, OpenPayload, SessionId, ShelfSlot};
use block::{Instance, Instant};
use siphasher::sip128::{Hasher128, SipHasher24};

/// How long a nonce is good at least; at most twice as long.
const LIFE: Duration = Duration::from_secs(10);
/// Used nonces that are remembered. With more all are forgotten, those that wait for their OPEN too.
const USED_MAX: usize = 4096;

/// By which nonces are made, and which were used.
pub(crate) struct Greeting {
    secret: [u8; 16],
    used: BTreeMap<SessionId, Instant>,
}

/// For which export.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub address: ShelfSlot,
    pub instance: Instance,
}

impl Greeting {
    pub(crate) fn new(secret: [u8; 16]) -> Greeting {
        Greeting { secret, used: BTreeMap::new() }
    }

    /// The nonce for who says HELLO now; for a while the same if it is said again, so that a repetition doesn't
    /// make the first answer void.
    pub(crate) fn nonce(
        &self,
        client: Nonce,
        incarnation: Incarnation,
        at: At,
        now: Instant,
    ) -> Nonce {
        self.nonce_of(client, incarnation, at, period(now))
    }

    /// Whether an opening names a nonce that was given to it, is good still and wasn't used.
    pub(crate) fn knows(&self, opening: &OpenPayload, at: At, now: Instant) -> bool {
        let present = period(now);
        let is_ours = [Some(present), present.checked_sub(1)].into_iter().flatten().any(|period| {
            self.nonce_of(opening.client, opening.incarnation, at, period) == opening.target
        });
        let id = SessionId::derive(opening, at.instance, at.address);
        is_ours && !self.used.contains_key(&id)
    }

    /// A session was opened. `secret` replaces the present one if too many were.
    pub(crate) fn used(&mut self, id: SessionId, now: Instant, secret: [u8; 16]) {
        self.used.retain(|_, until| *until > now);
        if self.used.len() >= USED_MAX {
            *self = Greeting::new(secret);
        }
        self.used.insert(id, now + LIFE * 2);
    }

    fn nonce_of(&self, client: Nonce, incarnation: Incarnation, at: At, period: u64) -> Nonce {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&client.0);
        hasher.write(&incarnation.0);
        hasher.write(&at.instance.0.to_be_bytes());
        hasher.write(&at.address.shelf.to_be_bytes());
        hasher.write(&[at.address.slot]);
        hasher.write(&period.to_be_bytes());
        Nonce(hasher.finish128().as_u128().to_be_bytes())
    }
}

fn period(now: Instant) -> u64 {
    now.as_nanos() / LIFE.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: At = At { address: ShelfSlot { shelf: 1, slot: 2 }, instance: Instance(3) };

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn greeted(greeting: &Greeting, client: u8, now: Instant) -> OpenPayload {
        let (client, incarnation) = (Nonce([client; 16]), Incarnation([9; 16]));
        let target = greeting.nonce(client, incarnation, AT, now);
        OpenPayload { client, target, incarnation }
    }

    #[test]
    fn a_nonce_is_good_once_for_who_got_it_and_for_a_while() {
        let mut greeting = Greeting::new([1; 16]);
        let opening = greeted(&greeting, 1, at(105));
        assert_eq!(greeted(&greeting, 1, at(106)), opening, "said again");
        assert!(greeting.knows(&opening, AT, at(105)) && greeting.knows(&opening, AT, at(119)));
        assert!(!greeting.knows(&opening, AT, at(120)) && !greeting.knows(&opening, AT, at(90)));
        let others = [
            OpenPayload { client: Nonce([2; 16]), ..opening },
            OpenPayload { incarnation: Incarnation([8; 16]), ..opening },
            OpenPayload { target: Nonce([0; 16]), ..opening },
        ];
        assert!(others.iter().all(|other| !greeting.knows(other, AT, at(105))));
        let elsewhere = At { address: ShelfSlot { shelf: 1, slot: 3 }, ..AT };
        assert!(!greeting.knows(&opening, elsewhere, at(105)));
        assert!(!greeting.knows(&opening, At { instance: Instance(4), ..AT }, at(105)));
        assert!(!Greeting::new([2; 16]).knows(&opening, AT, at(105)));
        let id = SessionId::derive(&opening, AT.instance, AT.address);
        greeting.used(id, at(106), [0; 16]);
        assert!(!greeting.knows(&opening, AT, at(106)) && !greeting.knows(&opening, AT, at(119)));
    }

    #[test]
    fn what_was_used_takes_bounded_memory_and_is_never_good_again() {
        let mut greeting = Greeting::new([1; 16]);
        let first = greeted(&greeting, 1, at(100));
        let id = SessionId::derive(&first, AT.instance, AT.address);
        greeting.used(id, at(100), [0; 16]);
        for number in 0..2 * USED_MAX as u64 {
            greeting.used(SessionId(number + 1), at(101), [2; 16]);
            assert!(greeting.used.len() <= USED_MAX && !greeting.knows(&first, AT, at(101)));
        }
        // What has expired takes none.
        greeting.used(SessionId(1), at(200), [0; 16]);
        assert_eq!(greeting.used.len(), 1);
    }
}
