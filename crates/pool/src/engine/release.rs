//! Giving pools up: one that nobody is to own from now on, one that can't be opened any more, or all, which stay ours, at
//! the supervisor's end.

use std::rc::Rc;

use uuid::Uuid;

use super::Engine;
use super::lease::Ended;
use super::slot::{Slot, SlotState};
use crate::error::PoolError;
use crate::format::PoolId;

impl Engine {
    /// Gives a pool up: everything in place, closed, and nobody's.
    pub async fn release_pool(self: &Rc<Self>, name: &str) -> Result<(), PoolError> {
        let (open, slot) = (self.open_pool(name)?, self.find_slot(name));
        let closed = if open.pool.read_only {
            open.pool.lease.end(Ended::Closed);
            open.pool.changed.notify_all();
            Ok(())
        } else {
            self.known.borrow_mut().remove(&open.pool.id);
            open.close(true).await
        };
        // Until its disks were looked at as a stranger's: who takes it back at once finds it.
        if let Some(slot) = slot {
            self.let_go(&slot).await;
        }
        closed.map_err(|_| PoolError::Suspended {
            name: name.into(),
            reason: "it is closed here, but a majority of its votes could not be told; import it \
                     to take it over"
                .into(),
        })
    }

    /// Gives up a pool that isn't open, whatever is there of it: it isn't opened by itself any more. Nothing is written.
    pub fn give_up_pool(&self, id: Uuid) -> Result<(), PoolError> {
        let id = PoolId(id);
        if let Some(slot) = self.slots.borrow().get(&id) {
            let is_open = matches!(*slot.state.borrow(), SlotState::Open(_) | SlotState::Opening);
            if is_open || slot.between.get() || slot.import.get().is_some() {
                return Err(PoolError::Suspended {
                    name: slot.name.borrow().clone(),
                    reason: "it is being opened; try again".into(),
                });
            }
            slot.only_if_present.set(true);
        }
        self.known.borrow_mut().remove(&id);
        self.changed.notify_all();
        Ok(())
    }

    /// Closes all pools in good order; they stay ours.
    pub async fn shutdown(self: &Rc<Self>) {
        self.closing.set(true);
        let slots: Vec<Rc<Slot>> = self.slots.borrow().values().cloned().collect();
        for slot in slots {
            let state = slot.state.borrow().clone();
            if let SlotState::Open(open) = state
                && !open.pool.read_only
            {
                // What isn't destaged stays in the log; without a majority there is nobody to tell.
                let _ = open.close(false).await;
            }
        }
    }
}
