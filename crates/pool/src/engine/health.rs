//! How the drives behind the disks are, as their machines tell: asked of every disk that is present, whether it is in a
//! pool or might be, and shown with it. Nothing is decided by it here: people are told, and may empty the disk.

use std::pin::pin;
use std::rc::Rc;

use block::{DriveHealth, HealthState, IoError};
use futures::future::select;

use super::Engine;
use super::slot::Device;
use crate::report::{DiskState, PoolEvent, PoolReport};

impl Engine {
    /// Asks how a device's drive is for as long as the device is there.
    pub(super) async fn watch_health(self: Rc<Self>, device: Rc<Device>) {
        while !device.gone.get() {
            match device.device.health().await {
                Ok(answer) => {
                    device.health.replace(Some(answer.value));
                }
                // Silent now: it is as it was.
                Err(IoError::Lost | IoError::Restarted { .. }) => {}
                Err(_) => {
                    device.health.take();
                }
            }
            self.tell_health(&device);
            let pause = self.runtime.sleep(self.config.limits.ask_health);
            select(pin!(device.poked.notified()), pin!(pause)).await;
        }
    }

    /// Tells when a drive of an open pool has become worse, or well.
    fn tell_health(&self, device: &Device) {
        let health = device.health.borrow();
        let Some(health) = health.as_ref() else { return };
        let Some((open, disk)) = self.open_pool_of(device) else { return };
        if self.is_elsewhere(device) {
            return;
        }
        let told = self.told_health.borrow_mut().insert(disk, health.state);
        if health.state == told.unwrap_or(HealthState::Good) {
            return;
        }
        self.events.tell(PoolEvent::DiskHealth {
            pool: open.pool.name.clone(),
            disk: device.facts.name.clone(),
            health: health.state,
            reason: health.reason.clone(),
        });
    }

    /// How a device's drive is, by the device's name.
    pub(super) fn health_of(&self, name: &str) -> Option<DriveHealth> {
        self.devices.borrow().get(name)?.health.borrow().clone()
    }

    /// Adds to a report how the drives are.
    pub(super) fn show_health(&self, report: &mut PoolReport) {
        for disk in &mut report.disks {
            // At the name of a disk that is missing or refused there may be another one.
            if matches!(disk.state, DiskState::Missing | DiskState::Refused { .. }) {
                continue;
            }
            disk.health = self.health_of(&disk.name);
        }
    }
}
