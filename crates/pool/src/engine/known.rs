//! What says what a row is (docs/engine.md, 10.19). Whoever judges what disks have in its place asks here first:
//! its checksum entry is only one of those that may say it.

use block::Instance;

use super::pool::GroupPlace;
use super::volume::Volume;
use crate::format::{DiskNumber, Row};

/// What says what a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SaidBy {
    /// Its entry: it is in place.
    Entry,
    /// A record that isn't released: a destage brings it to whoever takes part.
    Record,
    /// Nobody yet: something is being written over it, or that was given up and what takes its place isn't
    /// durable; or the volume is being opened, and what became of its INTENTs isn't decided. Its place may be
    /// neither what it was nor what it is to be.
    Nobody,
}

impl Volume {
    /// Whether the log has the contents of a row that a record says, or this instance of a disk has them in
    /// their place.
    pub(crate) fn is_carried(
        &self,
        group: &GroupPlace,
        row: Row,
        disk: DiskNumber,
        instance: Option<Instance>,
    ) -> bool {
        let pending = self.pending.borrow();
        let block = self.block_of(group, row).and_then(|block| pending.get(block));
        block
            .and_then(|pending| pending.data.as_ref())
            .is_none_or(|data| !data.is_only_in_place() || data.is_on(disk, instance))
    }

    /// What says what a row is. Under the group's lock only a record that becomes durable changes that.
    pub(crate) fn known_of(&self, group: &GroupPlace, row: Row) -> SaidBy {
        let in_doubt = || self.log.state.borrow().intents.is_in_doubt(group.generation, row);
        if !self.is_decided.get() || in_doubt() {
            return SaidBy::Nobody;
        }
        let block = self.block_of(group, row);
        match block.is_some_and(|block| self.pending.borrow().get(block).is_some()) {
            true => SaidBy::Record,
            false => SaidBy::Entry,
        }
    }
}
