//! Pools by their names: which one is meant, and why it can't be used.

use std::rc::Rc;

use super::Engine;
use super::open_pool::OpenPool;
use super::slot::{Slot, SlotState};
use crate::error::PoolError;
use crate::report::PoolState;

impl Engine {
    /// The pool of this name or id. Of several of one name ours is meant: the open one, then one that
    /// our records name; anybody may bring disks of a pool of the same name.
    pub(super) fn find_slot(&self, name_or_id: &str) -> Option<Rc<Slot>> {
        self.slots_named(name_or_id).into_iter().next()
    }

    /// All pools of this name or id, ours first; of others those that are present.
    pub(super) fn slots_named(&self, name_or_id: &str) -> Vec<Rc<Slot>> {
        let slots = self.slots.borrow();
        let is_named = |slot: &&Rc<Slot>| {
            *slot.name.borrow() == name_or_id || slot.id.to_string() == name_or_id
        };
        let is_there = |slot: &&Rc<Slot>| self.rank(slot) < 2 || self.is_present(slot.id);
        let mut found: Vec<_> = slots.values().filter(is_named).filter(is_there).cloned().collect();
        found.sort_by_key(|slot| self.rank(slot));
        found
    }

    /// Ours before others'.
    pub(super) fn rank(&self, slot: &Slot) -> u8 {
        match *slot.state.borrow() {
            SlotState::Open(_) => 0,
            _ if self.known.borrow().contains_key(&slot.id) => 1,
            _ => 2,
        }
    }

    /// An open pool, or why it isn't.
    pub(crate) fn open_pool(&self, name: &str) -> Result<Rc<OpenPool>, PoolError> {
        let slot = self.find_slot(name).ok_or_else(|| PoolError::no_pool(name))?;
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => Ok(open),
            SlotState::Opening => {
                Err(PoolError::Suspended { name: name.into(), reason: "it is being opened".into() })
            }
            SlotState::Closed | SlotState::Ended(_) => Err(self.why_closed(&slot)),
        }
    }

    /// An open pool that may be changed, or why it can't be.
    pub(crate) fn writable_pool(&self, name: &str) -> Result<Rc<OpenPool>, PoolError> {
        let open = self.open_pool(name)?;
        open.check_writable().map(|()| open)
    }

    fn why_closed(&self, slot: &Slot) -> PoolError {
        let name = slot.name.borrow().clone();
        if let Some(error) = slot.error.borrow().clone() {
            return error;
        }
        let report = self.report_slot(slot);
        let owner = report.as_ref().map(|report| report.owner.clone()).unwrap_or_default();
        match report.map(|report| report.state) {
            Some(PoolState::Foreign) => PoolError::NotOwner {
                pool: name,
                owner,
                remedy: "take it over with pool import".into(),
            },
            Some(PoolState::Fenced) => PoolError::NotOwner {
                pool: name,
                owner: "another supervisor".into(),
                remedy:
                    "it was taken over; pool show says by whom; release it there, then pool import \
                         takes it back"
                        .into(),
            },
            Some(PoolState::Incomplete { why }) => {
                PoolError::NoQuorum { pool: name, why, missing: Vec::new() }
            }
            _ => PoolError::Suspended { name, reason: "it is not open; see pool import".into() },
        }
    }
}
