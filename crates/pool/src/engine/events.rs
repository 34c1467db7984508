//! What happened, in order, for the log, status and notification. Bounded: when nobody listens, the
//! oldest go.

use std::cell::RefCell;
use std::collections::VecDeque;

use runtime::Notify;

use crate::report::PoolEvent;

/// Events kept for a listener that is slow or not there.
const EVENTS_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Events {
    queue: RefCell<VecDeque<PoolEvent>>,
    arrived: Notify,
}

impl Events {
    pub(crate) fn tell(&self, event: PoolEvent) {
        match &event {
            PoolEvent::DiskOut { .. }
            | PoolEvent::DiskRefused { .. }
            | PoolEvent::RolledBack { .. }
            | PoolEvent::Repaired { .. }
            | PoolEvent::StructureRepaired { .. }
            | PoolEvent::VolumeSuspended { .. } => tracing::warn!("{event}"),
            PoolEvent::Unrepairable { .. } => tracing::error!("{event}"),
            _ => tracing::info!("{event}"),
        }
        let mut queue = self.queue.borrow_mut();
        if queue.len() >= EVENTS_MAX {
            queue.pop_front();
        }
        queue.push_back(event);
        drop(queue);
        self.arrived.notify_all();
    }

    pub(crate) async fn next(&self) -> PoolEvent {
        loop {
            let arrived = self.arrived.notified();
            let event = self.queue.borrow_mut().pop_front();
            if let Some(event) = event {
                return event;
            }
            arrived.await;
        }
    }
}
