//! Measuring where requests' time goes, for `VolumeStats`: each request costs some loads and additions. Nothing waits
//! for it, and nothing is decided by it.

use block::{BLOCK_BYTES, Instant};

use super::destage::GroupDestage;
use super::volume::Volume;
use crate::stats::{Kind, Stage};

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

/// A moment, in the unit of reports.
pub(crate) fn milliseconds(at: Instant) -> u64 {
    at.as_nanos() / 1_000_000
}
