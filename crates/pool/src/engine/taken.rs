//! What commands under way are about to use: devices that become disks of a pool, and the name of a pool
//! that is made. They are looked at and then written to, and until that is done nobody else, command or
//! opening pool, may come to the same decision about them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::error::PoolError;

/// Everything that is taken.
#[derive(Default)]
pub(crate) struct Taken(RefCell<BTreeSet<What>>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Disk(String),
    Name(String),
}

/// What one command has taken, until it is over.
pub(crate) struct Taking<'a> {
    taken: &'a Taken,
    what: Vec<What>,
}

impl Taken {
    /// Takes devices, and the name of a pool to be made of them, for a command.
    pub(crate) fn take(
        &self,
        disks: &[String],
        name: Option<&String>,
    ) -> Result<Taking<'_>, PoolError> {
        let mut taking = Taking { taken: self, what: Vec::new() };
        let all = disks.iter().cloned().map(What::Disk).chain(name.cloned().map(What::Name));
        for what in all {
            if !self.0.borrow_mut().insert(what.clone()) {
                return Err(match what {
                    What::Disk(disk) => {
                        PoolError::refused(disk, "another command is using it", "try again")
                    }
                    What::Name(name) => PoolError::Exists { what: "pool".into(), name },
                });
            }
            taking.what.push(what);
        }
        Ok(taking)
    }

    /// Whether a command is making this device somebody's.
    pub(crate) fn has_disk(&self, name: &str) -> bool {
        self.0.borrow().contains(&What::Disk(name.to_owned()))
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let mut taken = self.taken.0.borrow_mut();
        self.what.iter().for_each(|what| {
            taken.remove(what);
        });
    }
}
