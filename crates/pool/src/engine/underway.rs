//! Operations under way: what each disk has to do, which of two is asked next, and when one that nobody hurries finds
//! a disk with nothing to do.

use std::rc::Rc;
use std::time::Duration;

use block::Instant;
use futures::future::select_all;
use runtime::Handle;

use super::member::Member;
use crate::stats::Purpose;

/// What an operation costs a disk beyond its bytes.
const OPERATION_BYTES: u64 = 256 << 10;
/// So long at most a copy waits in front of a disk: an arm that is sent elsewhere later keeps all who come meanwhile waiting.
const WAITS_MAX: Duration = Duration::from_millis(100);

/// An operation on a disk: until this is dropped the disk has it to do, and then it is counted, also where nobody waits
/// for the answer any longer, since the disk whose answers come too late is the one that is looked for. (A guard beside
/// the operation's future and not a future around it, which would be twice as large, and copied with each that it is in.)
#[must_use]
pub(crate) struct Underway {
    runtime: Handle,
    member: Rc<Member>,
    purpose: Purpose,
    bytes: u64,
    began: Instant,
}

impl Underway {
    /// A disk is being asked now.
    pub(crate) fn new(
        runtime: &Handle,
        member: &Rc<Member>,
        purpose: Purpose,
        bytes: u64,
    ) -> Underway {
        let (runtime, member, began) = (runtime.clone(), Rc::clone(member), runtime.now());
        let underway = Underway { runtime, member, purpose, bytes, began };
        underway.member.underway_bytes.update(|bytes| bytes + underway.costs_bytes());
        underway
    }

    fn costs_bytes(&self) -> u64 {
        match self.purpose {
            Purpose::Network => 0,
            _ => self.bytes + OPERATION_BYTES,
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let took = self.runtime.now().since(self.began);
        {
            let mut operations = self.member.operations.borrow_mut();
            let operations = operations.of_mut(self.purpose);
            operations.bytes += self.bytes;
            operations.total.note(took);
        }
        self.member.underway_bytes.update(|bytes| bytes.saturating_sub(self.costs_bytes()));
        if self.member.underway_bytes.get() == 0 {
            self.member.rested.notify_all();
        }
    }
}

/// A small durable write that much waits for, as a commit: while a disk has one to do, copies ask it for nothing more.
/// It would go on with them, since its arm is there already.
#[must_use]
pub(crate) struct Awaited(Rc<Member>);

impl Awaited {
    pub(crate) fn new(member: &Rc<Member>) -> Awaited {
        member.awaited_writes.update(|count| count + 1);
        Awaited(Rc::clone(member))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.awaited_writes.update(|count| count.saturating_sub(1));
        self.0.rested.notify_all();
    }
}

/// What a copy waits for, in front of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// That what is awaited of it is done.
    Awaited,
    /// That it has nothing to do.
    Rest,
}

impl WaitsFor {
    fn is_met(self, member: &Member) -> bool {
        let is_at_work = self == WaitsFor::Rest && member.underway_bytes.get() > 0;
        !is_at_work && member.awaited_writes.get() == 0
    }
}

/// Until that is so of one of these disks, or was waited for long enough.
pub(crate) async fn wait_for_one(runtime: &Handle, members: &[Rc<Member>], what: WaitsFor) {
    let until = runtime.now() + WAITS_MAX;
    let is_met = |member: &Rc<Member>| what.is_met(member);
    while runtime.now() < until && !members.is_empty() && !members.iter().any(is_met) {
        let rested = select_all(members.iter().map(|member| Box::pin(member.rested.notified())));
        let left = until.since(runtime.now());
        let _ = runtime::timeout(runtime, left, rested).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use runtime::{Executor, Order};
    use uuid::Uuid;

    use super::*;
    use crate::format::{DiskGeometry, DiskId, DiskNumber};

    fn member(number: u32) -> Rc<Member> {
        let geometry = DiskGeometry::new(64 << 20, 4 << 20).unwrap();
        Member::new(DiskNumber(number), DiskId(Uuid::from_u128(number.into())), geometry)
    }

    /// How long a copy waits in front of these disks, until the first is let go of after so long.
    fn waits(members: &[Rc<Member>], what: WaitsFor, held: Awaited, for_ms: u64) -> Duration {
        let executor = Executor::new(Instant::default(), 1, Order::Seeded, || {});
        let (runtime, members) = (executor.handle(), members.to_vec());
        let holder = runtime.clone();
        runtime.spawn(async move {
            holder.sleep(Duration::from_millis(for_ms)).await;
            drop(held);
        });
        let waited = Rc::new(std::cell::Cell::new(None));
        let (done, clock) = (Rc::clone(&waited), runtime.clone());
        runtime.spawn(async move {
            wait_for_one(&clock, &members, what).await;
            done.set(Some(clock.now()));
        });
        loop {
            executor.run_ready(1000);
            let Some(at) = executor.next_deadline() else { break };
            executor.set_now(at);
        }
        waited.get().unwrap().since(Instant::default())
    }

    #[test]
    fn a_copy_lets_what_much_waits_for_go_first_but_not_for_ever() {
        let (first, second) = (member(1), member(2));
        let both = [Rc::clone(&first), second];
        for what in [WaitsFor::Awaited, WaitsFor::Rest] {
            let of_first = |for_ms| waits(&both[..1], what, Awaited::new(&first), for_ms);
            assert_eq!(of_first(30), Duration::from_millis(30));
            assert_eq!(of_first(500), WAITS_MAX);
            // Another one can give it as well.
            assert_eq!(waits(&both, what, Awaited::new(&first), 30), Duration::ZERO);
        }
    }
}
