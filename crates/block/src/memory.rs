//! A device in memory, for tests of what stands on devices. It never fails and never forgets; the
//! simulator has the disk that does both.

use std::cell::RefCell;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::{
    BlockDevice, Buffer, Claim, Completion, DeviceEvent, Durability, DurabilityClass, Geometry,
    Holder, Instance, IoError, IoFuture, Lba, SECTOR_BYTES, SectorRange, Transfer, TransferDone,
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

    fn done<T: 'static>(result: Result<T, IoError>) -> IoFuture<'static, T> {
        futures::future::ready(result.map(|value| Completion::new(INSTANCE, value))).boxed_local()
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

    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        Self::done(self.window(range).map(|window| Buffer::copy_of(&self.bytes.borrow()[window])))
    }

    fn read_at_once(&self, range: SectorRange) -> Option<Completion<Buffer>> {
        let window = self.window(range).ok()?;
        Some(Completion::new(INSTANCE, Buffer::copy_of(&self.bytes.borrow()[window])))
    }

    fn write_at_once(&self, start: Lba, data: &[u8]) -> Option<Completion<()>> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        let window = self.window(range).ok().filter(|window| window.len() == data.len())?;
        self.bytes.borrow_mut()[window].copy_from_slice(data);
        Some(Completion::new(INSTANCE, ()))
    }

    fn begins(&self, transfer: &Transfer) -> bool {
        self.window(transfer.range()).is_ok()
    }

    fn begin(&self, transfer: Transfer, done: TransferDone) {
        let result = self.window(transfer.range()).map(|window| match transfer {
            Transfer::Read(_) => Buffer::copy_of(&self.bytes.borrow()[window]),
            Transfer::Write { data, .. } => {
                self.bytes.borrow_mut()[window].copy_from_slice(&data);
                Buffer::empty()
            }
        });
        done(result.map(|value| Completion::new(INSTANCE, value)));
    }

    fn write(&self, start: Lba, data: Buffer, _: Durability) -> IoFuture<'static, ()> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        Self::done(
            self.window(range).map(|window| self.bytes.borrow_mut()[window].copy_from_slice(&data)),
        )
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        if instance == INSTANCE {
            Self::done(Ok(()))
        } else {
            Self::done(Err(IoError::Restarted { now: INSTANCE }))
        }
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        self.write_zeroes(range, Durability::Volatile)
    }

    fn write_zeroes(&self, range: SectorRange, _: Durability) -> IoFuture<'static, ()> {
        Self::done(self.window(range).map(|window| self.bytes.borrow_mut()[window].fill(0)))
    }

    fn claim(&self, claim: Claim) -> IoFuture<'static, Holder> {
        let mut holder = self.holder.borrow_mut();
        if claim.epoch < holder.epoch {
            return Self::done(Err(IoError::Fenced { highest: holder.epoch }));
        }
        *holder = Holder::new(claim.epoch, claim.owner);
        Self::done(Ok(*holder))
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        Self::done(Ok(*self.holder.borrow()))
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        futures::future::pending().boxed_local()
    }
}
