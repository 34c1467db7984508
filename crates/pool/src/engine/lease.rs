//! The right to answer. The owner asks every vote for its status; when a majority has answered with
//! our epoch, the lease runs until six seconds after the **sending** of that round. It is checked
//! after a request arrived and before its data is used or acknowledged; without it requests wait.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{Instant, IoError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use runtime::{Handle, Notify};

use super::pool::Pool;
use super::underway::Underway;
use crate::format::Voters;
use crate::stats::Purpose;

/// How long a round of answers is worth.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
/// How often it is renewed.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(2);
/// What a new owner waits from the last answer of the votes: the lease, a clock drift of 1 %, and a
/// margin.
pub(crate) const TAKEOVER_WAIT: Duration = Duration::from_millis(7_060);

const _: () = assert!(RENEW_EVERY.as_millis() * 2 < LEASE.as_millis());
const _: () = assert!(TAKEOVER_WAIT.as_millis() >= LEASE.as_millis() * 101 / 100 + 1000);

/// The lease of an open pool.
pub(crate) struct Lease {
    until: Cell<Instant>,
    ended: Cell<Option<Ended>>,
    stopped: Cell<bool>,
    changed: Notify,
}

/// Why no lease will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A majority of votes has accepted a higher epoch.
    Fenced,
    /// We gave the pool back or are shutting down.
    Closed,
}

impl Lease {
    pub(crate) fn new() -> Lease {
        Lease {
            until: Cell::default(),
            ended: Cell::new(None),
            stopped: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// A majority answered the round that was sent at `sent`.
    pub(crate) fn renewed(&self, sent: Instant) {
        self.until.set(self.until.get().max(sent + LEASE));
        self.changed.notify_all();
    }

    /// Nothing is answered any more, though the pool isn't over yet: before it is given up.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// There will be no lease any more.
    pub(crate) fn end(&self, why: Ended) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
        }
        self.changed.notify_all();
    }

    /// Whether and why it is over for good.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.get()
    }

    /// Whether it runs at `now`.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        !self.stopped.get() && self.ended.get().is_none() && now < self.until.get()
    }

    /// Completes when it runs; fails when it never will again.
    pub(crate) async fn wait(&self, runtime: &Handle) -> Result<(), Ended> {
        loop {
            let changed = self.changed.notified();
            if let Some(ended) = self.ended.get() {
                return Err(ended);
            }
            if self.holds(runtime.look_at_clock()) {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Completes when it ended for good.
    pub(crate) async fn over(&self) -> Ended {
        loop {
            let changed = self.changed.notified();
            if let Some(ended) = self.ended.get() {
                return ended;
            }
            changed.await;
        }
    }
}

impl Pool {
    /// Renews the lease until the pool is over.
    pub(crate) async fn run_lease(self: Rc<Self>) {
        loop {
            self.lease_round();
            self.show_life();
            self.push_votes();
            let rest = self.unless_over(self.runtime.sleep(RENEW_EVERY)).await;
            if rest.is_err() {
                return;
            }
        }
    }

    /// Asks every vote once; one that hangs delays nothing.
    pub(crate) fn lease_round(self: &Rc<Self>) {
        let pool = Rc::clone(self);
        self.runtime.spawn(async move {
            let limit = LEASE;
            let round = runtime::timeout(&pool.runtime, limit, pool.ask_votes());
            // Votes that don't answer within a lease can't prolong it any more.
            let _ = round.await;
        });
    }

    /// Lets every other disk hear that its owner lives, so that nobody takes it for another pool, the
    /// vote disks being absent for him.
    fn show_life(&self) {
        if self.read_only {
            return;
        }
        let others = self.members().into_iter();
        let others = others
            .filter(|member| member.claimed.get() && !self.is_voter(member.id))
            .filter_map(|member| Some((member.device()?, member)));
        for (device, member) in others {
            let runtime = self.runtime.clone();
            self.runtime.spawn(async move {
                let _underway = Underway::new(&runtime, &member, Purpose::Network, 0);
                let _ = runtime::timeout(&runtime, LEASE, device.renew()).await;
            });
        }
    }

    async fn ask_votes(&self) {
        let sent = self.runtime.now();
        let asked = match self.read_only {
            // Its owner may be back on any disk.
            true => self.members().into_iter().filter(|member| member.claimed.get()).collect(),
            false => self.present_voters(),
        };
        let renewals = asked.iter().filter_map(|member| {
            let renewal = member.device()?.renew();
            let underway = Underway::new(&self.runtime, member, Purpose::Network, 0);
            let disk = member.id;
            Some(async move {
                let _underway = underway;
                (disk, renewal.await)
            })
        });
        let mut asked: FuturesUnordered<_> = renewals.collect();
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        while let Some((disk, answer)) = asked.next().await {
            match answer {
                Ok(answer) if answer.value.epoch == self.epoch => ours.insert(disk),
                Ok(answer) if answer.value.epoch > self.epoch => theirs.insert(disk),
                Err(IoError::Fenced { .. }) => theirs.insert(disk),
                _ => false,
            };
            // Who only reads keeps nobody out: one disk that says that its owner is silent will do.
            if self.read_only && !ours.is_empty() || self.is_majority(|disk| ours.contains(&disk)) {
                self.lease.renewed(sent);
            }
            let blocks = |voters: &Voters| voters.is_blocked(|disk| theirs.contains(&disk));
            // What is only read is left as soon as its owner speaks anywhere.
            if self.read_only && !theirs.is_empty() || self.voters().iter().any(blocks) {
                self.lease.end(Ended::Fenced);
                self.changed.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_from_sending_and_ends_for_good() {
        let lease = Lease::new();
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert!(!lease.holds(at(0)));
        lease.renewed(at(10));
        assert!(lease.holds(at(15)) && !lease.holds(at(16)));
        lease.renewed(at(5));
        assert!(lease.holds(at(15)), "a late answer to an early round takes nothing away");
        lease.end(Ended::Fenced);
        lease.end(Ended::Closed);
        lease.renewed(at(20));
        assert!(!lease.holds(at(21)));
        assert_eq!(lease.ended(), Some(Ended::Fenced));
    }
}
