//! A device in memory, for tests of what stands on devices. It never fails and never forgets; the
//! simulator has the disk that does both.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use crate::{
    Answer, BlockDevice, Completion, Done, DurabilityClass, Geometry, Holder, Instance, IoError,
    Operation, SECTOR_BYTES,
};

/// Sectors in memory.
pub struct MemoryDevice {
    bytes: Rc<RefCell<Vec<u8>>>,
    holder: RefCell<Holder>,
}

const INSTANCE: Instance = Instance(1);

impl MemoryDevice {
    /// A device of `sectors` zero sectors.
    pub fn new(sectors: u64) -> MemoryDevice {
        let bytes = vec![0; sectors as usize * SECTOR_BYTES];
        MemoryDevice { bytes: Rc::new(RefCell::new(bytes)), holder: RefCell::default() }
    }

    /// The contents, to look at and to damage.
    pub fn contents(&self) -> Rc<RefCell<Vec<u8>>> {
        Rc::clone(&self.bytes)
    }

    fn perform<Data: Deref<Target = [u8]>>(
        &self,
        operation: Operation<Data>,
    ) -> Result<Answer, IoError> {
        match operation {
            Operation::Flush(instance) if instance != INSTANCE => {
                Err(IoError::Restarted { now: INSTANCE })
            }
            Operation::Claim(claim) => {
                let mut holder = self.holder.borrow_mut();
                if claim.epoch < holder.epoch {
                    return Err(IoError::Fenced { highest: holder.epoch });
                }
                *holder = Holder::new(claim.epoch, claim.owner);
                Ok(Answer::Holder(*holder))
            }
            Operation::Renew => Ok(Answer::Holder(*self.holder.borrow())),
            operation => operation.perform_on(&mut self.bytes.borrow_mut()),
        }
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: (self.bytes.borrow().len() / SECTOR_BYTES) as u64,
            physical_block_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            class: DurabilityClass::Durable,
        }
    }

    fn submit(&self, operation: Operation, done: Done) {
        done(self.perform(operation).map(|answer| Completion::new(INSTANCE, answer)));
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        self.perform(operation).ok().map(|answer| Completion::new(INSTANCE, answer))
    }
}
