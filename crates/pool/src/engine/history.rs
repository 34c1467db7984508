//! Keeps what happens to a pool in its metadata ([`crate::history`]): some entries by one commit now and then, and
//! never one that anybody waits for.

use std::rc::Rc;
use std::time::Duration;

use super::lease::Ended;
use super::open_pool::OpenPool;
use crate::history::{self, HistoryEntry};
use crate::report::{PoolEvent, PoolState};

/// How often what happened is kept, and the state looked at. So much is forgotten by a crash.
const KEEP_EVERY: Duration = Duration::from_secs(10);

impl OpenPool {
    /// Keeps what happens for as long as the pool is open.
    pub(crate) async fn run_history(self: Rc<Self>) {
        let (mut told, mut seen) = (None, None);
        loop {
            let pause = self.pool.runtime.sleep(KEEP_EVERY);
            if self.pool.unless_over(pause).await.is_err() {
                return;
            }
            // What passes between two looks, as each opening does, is nobody's concern.
            let state = self.report().state;
            let word = Some(state.word());
            if word == seen && word != told {
                told = word;
                self.tell_state(state);
            }
            seen = word;
            if self.keep_history(false).await.is_err() {
                return;
            }
        }
    }

    fn tell_state(&self, state: PoolState) {
        self.pool.events.tell(PoolEvent::PoolState { pool: self.pool.name.clone(), state });
    }

    /// Keeps what is to be kept by now, or all that there is.
    pub(super) async fn keep_history(&self, all: bool) -> Result<(), Ended> {
        let pool = &self.pool;
        // While nothing can be committed it waits, and nothing waits for it.
        if !pool.lease.holds(pool.runtime.now()) {
            return Ok(());
        }
        let entries = pool.events.take_history(&pool.name, all);
        if entries.is_empty() {
            return Ok(());
        }
        self.commit_history(&entries).await?;
        pool.events.history_is_kept(&pool.name);
        Ok(())
    }

    async fn commit_history(&self, entries: &[HistoryEntry]) -> Result<(), Ended> {
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let records = history::records(&self.pool.meta.borrow(), entries);
        self.commit_if_room(&records).await.map(drop)
    }

    /// All that is known, the oldest first.
    pub(crate) fn history(&self) -> Vec<HistoryEntry> {
        let mut all = history::entries(&self.pool.meta.borrow());
        all.extend(self.pool.events.waiting_history(&self.pool.name));
        all
    }
}
