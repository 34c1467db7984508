//! What happened, in order, for the log, status and notification.

use runtime::EventQueue;

use crate::report::PoolEvent;

/// Events kept for a listener that is slow or not there.
const EVENTS_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Events(EventQueue<PoolEvent, EVENTS_MAX>);

impl Events {
    pub(crate) fn tell(&self, event: PoolEvent) {
        match &event {
            PoolEvent::DiskOut { .. }
            | PoolEvent::DiskRefused { .. }
            | PoolEvent::RolledBack { .. }
            | PoolEvent::Repaired { .. }
            | PoolEvent::StructureRepaired { .. }
            | PoolEvent::StructureDamaged { .. }
            | PoolEvent::VolumeSuspended { .. } => tracing::warn!("{event}"),
            PoolEvent::Unrepairable { .. } => tracing::error!("{event}"),
            _ => tracing::info!("{event}"),
        }
        self.0.push(event);
    }

    pub(crate) async fn next(&self) -> PoolEvent {
        self.0.next().await
    }

    pub(crate) fn take_lost(&self) -> u64 {
        self.0.take_lost()
    }
}
