//! What happened, in order, for the log, status, notification and the pools' history.

use std::cell::RefCell;

use runtime::{EventQueue, Handle};

use crate::history::{HistoryEntry, Recorder, Severity};
use crate::report::PoolEvent;

/// Events kept for a listener that is slow or not there.
const EVENTS_MAX: usize = 1024;

pub(crate) struct Events {
    runtime: Handle,
    queue: EventQueue<PoolEvent, EVENTS_MAX>,
    recorder: RefCell<Recorder>,
}

impl Events {
    pub(crate) fn new(runtime: Handle) -> Events {
        Events { runtime, queue: EventQueue::default(), recorder: RefCell::default() }
    }

    pub(crate) fn tell(&self, event: PoolEvent) {
        let (id, pool, _) = event.about();
        let (volume, disk) = (event.volume(), event.disk());
        match event.severity() {
            Severity::Info => tracing::info!(event = id, pool, volume, disk, "{event}"),
            Severity::Warning => tracing::warn!(event = id, pool, volume, disk, "{event}"),
            Severity::Error => tracing::error!(event = id, pool, volume, disk, "{event}"),
        }
        self.keep(&event);
        self.queue.push(event);
    }

    /// Has it kept without telling anybody now.
    pub(crate) fn keep(&self, event: &PoolEvent) {
        let (now, calendar) = (self.runtime.now(), self.runtime.calendar());
        self.recorder.borrow_mut().note(event, now, calendar);
    }

    pub(crate) async fn next(&self) -> PoolEvent {
        self.queue.next().await
    }

    pub(crate) fn take_lost(&self) -> u64 {
        self.queue.take_lost()
    }

    /// From now on what happens to a pool is to be kept.
    pub(crate) fn begin_history(&self, pool: &str) {
        self.recorder.borrow_mut().begin(pool);
    }

    /// Nobody keeps it any more.
    pub(crate) fn end_history(&self, pool: &str) {
        self.recorder.borrow_mut().end(pool);
    }

    /// What is to be kept of a pool by now, or all there is.
    pub(crate) fn take_history(&self, pool: &str, all: bool) -> Vec<HistoryEntry> {
        self.recorder.borrow_mut().take(pool, self.runtime.now(), all)
    }

    /// It is kept.
    pub(crate) fn history_is_kept(&self, pool: &str) {
        self.recorder.borrow_mut().kept(pool);
    }

    /// What isn't kept yet.
    pub(crate) fn waiting_history(&self, pool: &str) -> Vec<HistoryEntry> {
        self.recorder.borrow().waiting(pool)
    }
}
