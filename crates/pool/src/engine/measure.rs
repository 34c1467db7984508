//! Measuring where requests' time goes, for `VolumeStats`: each request and each operation on a disk costs
//! some loads and additions. Nothing waits for it, and nothing is decided by it.

use std::rc::Rc;

use block::{BLOCK_BYTES, Instant};
use runtime::Handle;

use super::destage::GroupDestage;
use super::member::Member;
use super::volume::Volume;
use crate::stats::{Kind, Purpose, Stage};

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    kind: Kind,
    bytes: u64,
    called: Instant,
    /// When what it waits for now began.
    stage_began: Instant,
}

impl Volume {
    /// A request is called.
    pub(crate) fn begin_request(&self, kind: Kind, bytes: u64) -> Stopwatch {
        let now = self.pool.runtime.now();
        Stopwatch { kind, bytes, called: now, stage_began: now }
    }

    /// A request has waited for this, and waits for something else next.
    pub(crate) fn end_stage(&self, request: &mut Stopwatch, stage: Stage) {
        let now = self.pool.runtime.now();
        let began = std::mem::replace(&mut request.stage_began, now);
        self.stats.borrow_mut().of_mut(request.kind).stage_mut(stage).note(now.since(began));
    }

    /// A request is answered.
    pub(crate) fn end_request(&self, request: Stopwatch, is_done: bool) {
        let took = self.pool.runtime.now().since(request.called);
        let mut stats = self.stats.borrow_mut();
        let requests = stats.of_mut(request.kind);
        requests.total.note(took);
        match is_done {
            true => requests.bytes += request.bytes,
            false => requests.errors += 1,
        }
    }

    /// A destage that began then has brought this into place.
    pub(crate) fn note_destage(&self, began: Instant, destages: &[GroupDestage]) {
        let rows = || destages.iter().flat_map(|destage| destage.rows.values());
        let written =
            rows().flatten().filter(|data| !data.is_lost && !data.went_in_place()).count();
        let destage = &mut self.stats.borrow_mut().destage;
        destage.blocks += rows().count() as u64;
        destage.bytes += (written * BLOCK_BYTES) as u64;
        destage.total.note(self.pool.runtime.now().since(began));
    }
}

/// An operation on a disk, counted when this is dropped: also where nobody waits for the answer any longer,
/// since the disk whose answers come too late is the one that is looked for. (A guard beside the operation's
/// future and not a future around it, which would be twice as large, and copied with each that it is in.)
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
        Underway { runtime, member, purpose, bytes, began }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let took = self.runtime.now().since(self.began);
        let mut operations = self.member.operations.borrow_mut();
        let operations = operations.of_mut(self.purpose);
        operations.bytes += self.bytes;
        operations.total.note(took);
    }
}

/// A moment, in the unit of reports.
pub(crate) fn milliseconds(at: Instant) -> u64 {
    at.as_nanos() / 1_000_000
}
