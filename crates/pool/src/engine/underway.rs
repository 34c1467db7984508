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

/// Until one of these disks has nothing to do, or that was waited for so long.
pub(crate) async fn rest_of(runtime: &Handle, members: &[Rc<Member>], longest: Duration) {
    let until = runtime.now() + longest;
    let is_at_work = |member: &Rc<Member>| member.underway_bytes.get() > 0;
    while runtime.now() < until && !members.is_empty() && members.iter().all(is_at_work) {
        let rested = select_all(members.iter().map(|member| Box::pin(member.rested.notified())));
        let left = until.since(runtime.now());
        let _ = runtime::timeout(runtime, left, rested).await;
    }
}
