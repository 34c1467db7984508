//! Opening a pool that is wanted: what is asked again before it is claimed, and what becomes of an opening
//! that fails.

use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use super::lease::{Ended, TAKEOVER_WAIT};
use super::open_pool::OpenPool;
use super::slot::{Slot, SlotState};
use crate::error::PoolError;
use crate::format::PoolId;
use crate::report::PoolReport;

impl Engine {
    /// Another pool of this name that is open or being opened. Volumes, mounts and exports are named by
    /// their pool's name: with two of one name a command could hit the one that wasn't meant.
    pub(super) fn namesake(&self, slot: &Slot) -> Option<PoolId> {
        let slots = self.slots.borrow();
        let mut others = slots.values().filter(|other| other.id != slot.id);
        let same = others.find(|other| {
            matches!(*other.state.borrow(), SlotState::Open(_) | SlotState::Opening)
                && *other.name.borrow() == *slot.name.borrow()
        });
        same.map(|other| other.id)
    }

    /// That a pool isn't opened because of its name.
    fn name_is_taken(&self, slot: &Slot) -> Option<PoolError> {
        let other = self.namesake(slot)?;
        let name = slot.name.borrow().clone();
        let remedy = format!("release the open one first (`etherpool pool release {name}`)");
        let (id, other) = (slot.id.to_string(), other.to_string());
        Some(PoolError::Namesake { name, id, other, remedy })
    }

    pub(super) async fn try_open(self: &Rc<Self>, slot: &Rc<Slot>) {
        // What was seen may be long ago: another supervisor may have imported the pool since, or the
        // owner that was silent may be back.
        self.look_again(slot.id).await;
        let refused = match slot.import.get() {
            Some(import) if !import.force => self.refusal(slot).await,
            _ => None,
        };
        if !self.is_wanted(slot) {
            return;
        }
        if let Some(error) = refused.or_else(|| self.name_is_taken(slot)) {
            return self.not_opened(slot, error);
        }
        *slot.state.borrow_mut() = SlotState::Opening;
        self.changed.notify_all();
        let request = self.request(slot);
        let opened = match request.read_only {
            true => self.open_read_only(slot, request).await,
            false => request.open().await,
        };
        let opened = opened.and_then(|open| {
            // Its metadata has the last word on its name.
            *slot.name.borrow_mut() = open.pool.name.clone();
            match self.name_is_taken(slot) {
                None => Ok(open),
                Some(error) => {
                    open.pool.lease.end(Ended::Closed);
                    open.pool.members().iter().filter_map(|m| m.device()).for_each(|d| d.disown());
                    Err(error)
                }
            }
        });
        match opened {
            Ok(open) => {
                *slot.error.borrow_mut() = None;
                slot.import.set(None);
                if !open.pool.read_only {
                    // It was brought back from copies of its disks.
                    self.destroyed.borrow_mut().remove(&slot.id);
                    self.remember_disks(&open);
                }
                open.start();
                self.set_state(slot, SlotState::Open(Rc::clone(&open)));
                self.attach_late(&open);
            }
            Err(error) => {
                self.lift_layers(slot);
                self.look_again(slot.id).await;
                self.not_opened(slot, error);
            }
        }
    }

    fn not_opened(&self, slot: &Slot, error: PoolError) {
        tracing::warn!(pool = %slot.name.borrow(), %error, "not opened");
        *slot.error.borrow_mut() = Some(error);
        slot.import.set(None);
        self.set_state(slot, SlotState::Closed);
    }

    /// Devices that was discovered while the pool was being opened, and disks that were and couldn't be
    /// taken. What was last read of those says nothing: where the answer to our claim got lost, nothing can
    /// be read under the former one.
    fn attach_late(self: &Rc<Self>, open: &Rc<OpenPool>) {
        if open.pool.read_only {
            self.detach_gone(open);
        } else {
            for seen in self.seen_disks(open.pool.id) {
                let label = &seen.label;
                let member = open.pool.member_labelled(label.number, label.disk);
                let Some(member) = member else { continue };
                if !member.device().is_some_and(|held| Rc::ptr_eq(&held, &seen.device)) {
                    open.attach(&member, seen.place, seen.machine, seen.device);
                }
            }
        }
        for member in open.pool.members() {
            if member.device().is_some() && !member.is_usable() && !member.joining.get() {
                open.pool.re_add_soon(&member);
            }
        }
    }

    /// Waits until a pool that is being opened is open or failed to; `grace` longer than that takes. What
    /// wasn't even begun then isn't begun any more: much later it would take nobody knows what from whom.
    pub(super) async fn wait_open(
        self: &Rc<Self>,
        slot: &Rc<Slot>,
        grace: Duration,
    ) -> Result<PoolReport, PoolError> {
        let limit = self.config.limits.administer + TAKEOVER_WAIT + grace;
        let opened = async {
            loop {
                let changed = self.changed.notified();
                let state = slot.state.borrow().clone();
                if let SlotState::Open(open) = state {
                    return Ok(open.report());
                }
                let error = slot.error.borrow().clone();
                if let (SlotState::Closed, Some(error)) = (state, error) {
                    return Err(error);
                }
                changed.await;
            }
        };
        runtime::timeout(&self.runtime, limit, opened).await.unwrap_or_else(|_| {
            let begun = matches!(*slot.state.borrow(), SlotState::Opening);
            if !begun {
                slot.import.set(None);
            }
            let then = match begun {
                true => "opening it goes on, see `etherpool pool show`",
                false => "its disks are not present any more, see `etherpool pool show`",
            };
            let reason = format!("it is not open after {} seconds; {then}", limit.as_secs());
            Err(PoolError::Suspended { name: slot.name.borrow().clone(), reason })
        })
    }
}
