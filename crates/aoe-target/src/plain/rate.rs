//! How much an export, and each of its clients, may do in a second. What exceeds that waits, and is
//! never dropped for it: a lost frame costs a client more than a slow one.
//!
//! A bucket is the time until which all that it has let through is paid for; it lets a command
//! through while that lies less than a burst ahead. Each client's commands wait in a line of their
//! own, in their order, and the lines take turns, so that of an export's rate everybody gets a share.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use block::Instant;

use crate::queue::Ticket;
use aoe_wire::MacAddr;

/// What may be done at once after a rest, as time at the full rate.
const BURST: Duration = Duration::from_millis(50);
/// Clients whose lines are kept though nothing waits in them.
const LINES_MAX: usize = 1024;

/// A rate; what isn't named is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Plain commands and sessions' reads, writes and flushes.
    pub requests_per_second: Option<u64>,
    /// Bytes read and written.
    pub bytes_per_second: Option<u64>,
}

/// The limits of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// For all clients together.
    pub export: Rate,
    /// For each client, by its Ethernet address.
    pub client: Rate,
}

impl Rate {
    /// Whether it limits nothing.
    pub fn is_unlimited(&self) -> bool {
        *self == Rate::default()
    }

    /// How long a command of so many bytes takes at this rate.
    fn cost(&self, bytes: u64) -> Duration {
        // A rate of nothing would hold commands for ever; with one per second they end.
        let time = |amount: u64, rate: Option<u64>| {
            let Some(rate) = rate else { return Duration::ZERO };
            let nanos = u128::from(amount) * 1_000_000_000 / u128::from(rate.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        time(1, self.requests_per_second).max(time(bytes, self.bytes_per_second))
    }
}

/// What was let through is paid for until this time.
#[derive(Clone, Copy, Default)]
struct Bucket {
    paid_until: Instant,
}

impl Bucket {
    /// When the next command gets through; now or earlier if at once.
    fn ready_at(&self) -> Instant {
        let ahead = self.paid_until.since(Instant::default());
        Instant::default() + ahead.saturating_sub(BURST)
    }

    fn take(&mut self, now: Instant, cost: Duration) {
        self.paid_until = self.paid_until.max(now) + cost;
    }

    /// Whether it is as full as a new one.
    fn is_full(&self, now: Instant) -> bool {
        self.paid_until <= now
    }
}

/// A client's commands.
#[derive(Default)]
struct Line {
    bucket: Bucket,
    waiting: VecDeque<(Ticket, u64)>,
}

/// Holds commands back.
#[derive(Default)]
pub(crate) struct Throttle {
    limits: RateLimits,
    export: Bucket,
    lines: BTreeMap<MacAddr, Line>,
    /// Lines with somebody in them, in the order of their turns.
    turns: VecDeque<MacAddr>,
    deadline: Option<Instant>,
}

impl Throttle {
    pub(crate) fn new(limits: RateLimits) -> Throttle {
        Throttle { limits, ..Throttle::default() }
    }

    /// Other limits count from now on, also for what waits.
    pub(crate) fn set(&mut self, limits: RateLimits) {
        if self.limits != limits {
            self.limits = limits;
            self.export = Bucket::default();
            self.lines.values_mut().for_each(|line| line.bucket = Bucket::default());
        }
    }

    /// Whether nothing is limited.
    pub(crate) fn is_off(&self) -> bool {
        self.limits.export.is_unlimited() && self.limits.client.is_unlimited()
    }

    /// When [`Throttle::poll`] will let the next one through, if anybody waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A command takes its place behind the others of its client.
    pub(crate) fn line_up(&mut self, now: Instant, client: MacAddr, ticket: Ticket, bytes: u64) {
        if self.lines.len() >= LINES_MAX {
            self.lines.retain(|_, line| !line.waiting.is_empty() || !line.bucket.is_full(now));
        }
        if self.lines.len() >= LINES_MAX && !self.lines.contains_key(&client) {
            // More clients than there can be: the export's own limit holds them all.
            let idle = self.lines.iter().filter(|(_, line)| line.waiting.is_empty());
            let first = idle.min_by_key(|(_, line)| line.bucket.paid_until).map(|(mac, _)| *mac);
            first.map(|mac| self.lines.remove(&mac));
        }
        let line = self.lines.entry(client).or_default();
        if line.waiting.is_empty() {
            self.turns.push_back(client);
        }
        line.waiting.push_back((ticket, bytes));
    }

    /// The next command that may go on.
    pub(crate) fn poll(&mut self, now: Instant, hurry: bool) -> Option<Ticket> {
        self.deadline = None;
        if self.turns.is_empty() {
            return None;
        }
        let export_ready = self.export.ready_at();
        if export_ready > now && !hurry {
            self.deadline = Some(export_ready);
            return None;
        }
        for _ in 0..self.turns.len() {
            let client = self.turns.pop_front()?;
            let Some(line) = self.lines.get_mut(&client) else { continue };
            let ready = line.bucket.ready_at();
            if ready > now && !hurry {
                self.turns.push_back(client);
                self.deadline = Some(self.deadline.map_or(ready, |earlier| earlier.min(ready)));
                continue;
            }
            let Some((ticket, bytes)) = line.waiting.pop_front() else { continue };
            line.bucket.take(now, self.limits.client.cost(bytes));
            self.export.take(now, self.limits.export.cost(bytes));
            if !line.waiting.is_empty() {
                self.turns.push_back(client);
            }
            self.deadline = None;
            return Some(ticket);
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(n: u16) -> MacAddr {
        let [a, b] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn rate(requests: Option<u64>, bytes: Option<u64>) -> Rate {
        Rate { requests_per_second: requests, bytes_per_second: bytes }
    }

    /// What gets through until `until`, with the times.
    fn drain(throttle: &mut Throttle, now: &mut Instant, until: Instant) -> Vec<(Instant, u64)> {
        let mut through = Vec::new();
        loop {
            while let Some(ticket) = throttle.poll(*now, false) {
                through.push((*now, ticket.0));
            }
            match throttle.deadline() {
                Some(at) if at <= until => {
                    assert!(at > *now, "no progress");
                    *now = at;
                }
                _ => {
                    *now = until;
                    return through;
                }
            }
        }
    }

    #[test]
    fn requests_and_bytes_each_limit() {
        for (rate, bytes, per_second) in [
            (rate(Some(100), None), 1 << 20, 100),
            (rate(None, Some(100 * 512)), 512, 100),
            (rate(Some(1000), Some(512 * 10)), 512, 10),
            (rate(Some(10), Some(1 << 40)), 512, 10),
        ] {
            for limits in [
                RateLimits { export: rate, client: Rate::default() },
                RateLimits { export: Rate::default(), client: rate },
            ] {
                let mut throttle = Throttle::new(limits);
                assert!(!throttle.is_off());
                for n in 0..10_000 {
                    throttle.line_up(ms(1000), mac(1), Ticket(n), bytes);
                }
                let mut now = ms(1000);
                let through = drain(&mut throttle, &mut now, ms(11_000)).len() as u64;
                let burst = per_second / 20 + 1;
                assert!((10 * per_second..=10 * per_second + burst).contains(&through));
            }
        }
    }

    #[test]
    fn a_held_client_holds_up_nobody_else() {
        let limits = RateLimits { client: rate(Some(10), None), ..RateLimits::default() };
        let mut throttle = Throttle::new(limits);
        for n in 0..100 {
            throttle.line_up(ms(0), mac(1), Ticket(n), 512);
        }
        let mut now = ms(0);
        drain(&mut throttle, &mut now, ms(500));
        throttle.line_up(now, mac(2), Ticket(1000), 512);
        assert_eq!(throttle.poll(now, false), Some(Ticket(1000)));
    }

    #[test]
    fn of_an_exports_rate_everybody_gets_a_share() {
        let limits = RateLimits { export: rate(Some(100), None), ..RateLimits::default() };
        let mut throttle = Throttle::new(limits);
        for n in 0..1000 {
            throttle.line_up(ms(0), mac(1), Ticket(n), 512);
        }
        for n in 0..100 {
            throttle.line_up(ms(0), mac(2), Ticket(5000 + n), 512);
        }
        let mut now = ms(0);
        let through = drain(&mut throttle, &mut now, ms(1000));
        let of_second = through.iter().filter(|(_, n)| *n >= 5000).count();
        assert!((45..=55).contains(&of_second), "{of_second}");
    }

    #[test]
    fn lines_are_bounded_and_other_limits_count_at_once() {
        let limits = RateLimits { client: rate(Some(1), None), ..RateLimits::default() };
        let mut throttle = Throttle::new(limits);
        for n in 0..5000u16 {
            throttle.line_up(ms(u64::from(n)), mac(n), Ticket(u64::from(n)), 0);
            assert_eq!(throttle.poll(ms(u64::from(n)), false), Some(Ticket(u64::from(n))));
        }
        assert!(throttle.lines.len() <= LINES_MAX);
        for n in 0..10 {
            throttle.line_up(ms(5000), mac(1), Ticket(n), 0);
        }
        assert!(drain(&mut throttle, &mut ms(5000), ms(5001)).len() <= 2);
        throttle.set(RateLimits::default());
        assert!(throttle.is_off());
        assert!(drain(&mut throttle, &mut ms(5001), ms(5002)).len() >= 8);
        assert_eq!(throttle.deadline(), None);
    }

    proptest! {
        /// Nothing is lost, a client's commands keep their order, and in no second does more get
        /// through than the rate and a burst, whatever comes when.
        #[test]
        fn all_get_through_in_order_and_not_too_fast(
            commands in prop::collection::vec((0u64..200, 0u16..4, 0u64..20_000), 1..200),
            client_rate in 1u64..500,
            export_bytes in 1000u64..10_000_000,
        ) {
            let limits = RateLimits {
                client: rate(Some(client_rate), None),
                export: rate(None, Some(export_bytes)),
            };
            let mut throttle = Throttle::new(limits);
            let mut now = ms(0);
            let mut through = Vec::new();
            let mut due = 0;
            for (n, (pause, client, bytes)) in commands.iter().enumerate() {
                due += pause;
                through.extend(drain(&mut throttle, &mut now, ms(due)));
                throttle.line_up(now, mac(*client), Ticket(n as u64), *bytes);
            }
            through.extend(drain(&mut throttle, &mut now, ms(100_000_000)));
            prop_assert_eq!(through.len(), commands.len());
            for client in 0..4 {
                let own: Vec<_> =
                    through.iter().filter(|(_, n)| commands[*n as usize].1 == client).collect();
                prop_assert!(own.windows(2).all(|pair| pair[0].1 < pair[1].1));
                for (index, (at, _)) in own.iter().enumerate() {
                    let until = *at + Duration::from_secs(1);
                    let count = own[index..].iter().take_while(|(t, _)| *t < until).count() as u64;
                    prop_assert!(count <= client_rate + client_rate / 20 + 2);
                }
            }
            for (index, (at, _)) in through.iter().enumerate() {
                let until = *at + Duration::from_secs(1);
                let bytes: u64 = through[index..]
                    .iter()
                    .take_while(|(t, _)| *t < until)
                    .map(|(_, n)| commands[*n as usize].2)
                    .sum();
                prop_assert!(bytes <= export_bytes + export_bytes / 20 + 2 * 20_000);
            }
        }
    }
}
