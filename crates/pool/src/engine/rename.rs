//! Giving a pool another name. Only people call it by that: its identity, its disks and its volumes stay. Volumes,
//! exports and records are found by it all the same, so it isn't changed under them: the pool is closed in order under
//! its old name, once the new one is committed, and opened under that. Labels follow as the disks are taken in.

use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use super::create::check_name;
use super::open_pool::OpenPool;
use super::slot::{Slot, SlotState};
use crate::error::PoolError;
use crate::metadata::MetaRecord;
use crate::report::PoolReport;

impl Engine {
    /// Whether an open pool may have this name.
    pub fn plan_rename(&self, pool: &str, new: &str) -> Result<PoolReport, PoolError> {
        check_name("pool", new)?;
        let open = self.writable_pool(pool)?;
        let others = self.slots_named(new);
        match others.iter().any(|slot| slot.id != open.pool.id) {
            // Also closed ones: one of them couldn't be opened any more.
            true => Err(PoolError::Exists { what: "pool".into(), name: new.to_owned() }),
            false => Ok(open.report()),
        }
    }

    /// Gives an open pool another name. Requests to its volumes fail until it is open again; for those who use its
    /// exports that is a pause.
    pub async fn rename_pool(
        self: &Rc<Self>,
        pool: &str,
        new: &str,
    ) -> Result<PoolReport, PoolError> {
        let new = new.to_owned();
        let _taking = self.taken.take(&[], Some(&new))?;
        self.plan_rename(pool, &new)?;
        let open = self.writable_pool(pool)?;
        let slot = self.slots.borrow().get(&open.pool.id).cloned();
        let slot = slot.ok_or_else(|| PoolError::no_pool(pool))?;
        if open.pool.name == new {
            return Ok(open.report());
        }
        let name = new.clone();
        open.administer(move |_| Ok((vec![MetaRecord::PoolRenamed { name }], ()))).await?;
        self.reopen(&slot, &open, &new).await
    }

    /// Closes a pool of ours in order, and opens it again.
    async fn reopen(
        self: &Rc<Self>,
        slot: &Rc<Slot>,
        open: &Rc<OpenPool>,
        name: &str,
    ) -> Result<PoolReport, PoolError> {
        slot.between.set(true);
        // Whoever can't be told now sees its owner's epoch end: it is us who opens it again.
        let _closed = open.close(false).await;
        self.let_go(slot).await;
        *slot.name.borrow_mut() = name.to_owned();
        *slot.error.borrow_mut() = None;
        *slot.state.borrow_mut() = SlotState::Closed;
        slot.between.set(false);
        self.changed.notify_all();
        self.wait_open(slot, Duration::ZERO).await
    }
}
