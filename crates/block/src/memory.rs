//! A device in memory, for tests of what stands on devices. It never fails and never forgets; the
//! simulator has the disk that does both.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use crate::{
    Answer, BlockDevice, Buffer, Completion, Done, DurabilityClass, Geometry, Holder, Instance,
    IoError, Operation, SECTOR_BYTES, SectorRange,
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

    fn window(&self, range: SectorRange) -> Result<std::ops::Range<usize>, IoError> {
        if !range.fits(self.geometry().sectors) {
            return Err(IoError::OutOfRange(range));
        }
        let start = range.start.byte_offset() as usize;
        Ok(start..start + range.len_bytes() as usize)
    }

    fn perform<Data: Deref<Target = [u8]>>(
        &self,
        operation: Operation<Data>,
    ) -> Result<Answer, IoError> {
        let window = self.window(operation.range())?;
        let mut bytes = self.bytes.borrow_mut();
        match operation {
            Operation::Read(_) => return Ok(Answer::Data(Buffer::copy_of(&bytes[window]))),
            Operation::Write { data, .. } => {
                let sectors =
                    data.get(..window.len()).filter(|sectors| sectors.len() == data.len());
                bytes[window].copy_from_slice(sectors.ok_or(IoError::Unsupported)?);
            }
            Operation::WriteZeroes { .. } | Operation::Discard(_) => bytes[window].fill(0),
            Operation::Flush(INSTANCE) => {}
            Operation::Flush(_) => return Err(IoError::Restarted { now: INSTANCE }),
            Operation::Claim(claim) => {
                let mut holder = self.holder.borrow_mut();
                if claim.epoch < holder.epoch {
                    return Err(IoError::Fenced { highest: holder.epoch });
                }
                *holder = Holder::new(claim.epoch, claim.owner);
                return Ok(Answer::Holder(*holder));
            }
            Operation::Renew => return Ok(Answer::Holder(*self.holder.borrow())),
        }
        Ok(Answer::Done)
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
