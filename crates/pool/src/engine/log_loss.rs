//! Acknowledged records that are in no copy of a log that can be read: how that is said, and how people have a volume
//! served without them.

use std::collections::BTreeSet;

use super::volume::Volume;
use crate::format::{DiskNumber, RecordNumber};

/// What is missing of a log.
pub(super) struct Damage {
    /// Numbers, from and to.
    pub(super) ranges: Vec<(RecordNumber, RecordNumber)>,
    /// Where they should be.
    pub(super) disks: BTreeSet<DiskNumber>,
}

impl Damage {
    pub(super) fn describe(&self) -> String {
        let ranges: Vec<String> = self
            .ranges
            .iter()
            .map(|(from, to)| match from == to {
                true => format!("{}", from.0),
                false => format!("{} to {}", from.0, to.0),
            })
            .collect();
        format!(
            "records {} were acknowledged and can't be read (the blocks that they wrote go back to what \
             they were before, nobody can tell which these are)",
            ranges.join(", ")
        )
    }
}

impl Volume {
    /// What people can do where nobody has what is missing of the log any more.
    pub(super) fn doing_without(&self) -> String {
        let until = match self.pool.read_only {
            true => "until the pool is released",
            false => "for ever",
        };
        format!(
            "; if nobody can, `etherpool volume accept-loss {}/{}` does without them {until}",
            self.pool.name,
            self.name()
        )
    }

    /// Serves without the records that can't be read; tells what is lost with them.
    pub(crate) fn accept_log_loss(&self, dry_run: bool) -> Option<String> {
        let damage = self.log.damage.borrow().clone()?;
        if !dry_run {
            self.log.accepts_loss.set(true);
            self.pool.changed.notify_all();
        }
        Some(damage)
    }
}
