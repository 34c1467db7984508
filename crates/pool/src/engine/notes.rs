//! What others keep in a pool (`metadata::notes`): a commit where that changes, and none where it doesn't.

use super::Engine;
use crate::error::PoolError;
use crate::metadata::{KeepNotes, KeeperId, KeptNotes, NotesKept};

impl Engine {
    /// Has a pool keep what somebody wants to have there, as far as there is room.
    pub async fn keep_notes(&self, pool: &str, want: KeepNotes) -> Result<NotesKept, PoolError> {
        let open = self.writable_pool(pool)?;
        open.administer(move |meta| Ok(meta.records_to_keep(&want))).await
    }

    /// What a pool keeps, and of whom.
    pub fn notes(&self, pool: &str) -> Result<Vec<KeptNotes>, PoolError> {
        self.open_pool(pool).map(|open| open.pool.meta.borrow().notes())
    }

    /// Has a pool forget what somebody keeps there; whether there was anything.
    pub async fn forget_notes(&self, pool: &str, keeper: KeeperId) -> Result<bool, PoolError> {
        let open = self.writable_pool(pool)?;
        open.administer(move |meta| {
            let records = meta.records_without_notes_of(keeper);
            let was_there = !records.is_empty();
            Ok((records, was_there))
        })
        .await
    }
}
