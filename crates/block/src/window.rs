//! A part of a device as a device of its own, so that one disk can be exported as several.
//!
//! It adds a number to each address and takes it off again in what the device reports. Order and
//! promises are the device's.

use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, pending};

use crate::{
    BlockDevice, Buffer, Claim, Completion, DeviceEvent, Durability, Geometry, Holder, Instance,
    IoError, IoFuture, Lba, SECTOR_BYTES, SectorRange, Transfer, TransferDone,
};

/// Sectors of a device from a place on: a number of them, or as far as the device goes.
pub struct Window {
    device: Rc<dyn BlockDevice>,
    start: Lba,
    sectors_max: Option<u64>,
}

impl Window {
    /// The part of `device` from `start` on, of at most `sectors_max` sectors. It is shorter while
    /// the device is.
    pub fn new(device: Rc<dyn BlockDevice>, start: Lba, sectors_max: Option<u64>) -> Window {
        Window { device, start, sectors_max }
    }

    fn sectors(&self) -> u64 {
        let rest = self.device.geometry().sectors.saturating_sub(self.start.0);
        self.sectors_max.map_or(rest, |most| most.min(rest))
    }

    /// The same sectors in the device's own count; an error if they are no sectors of the window.
    fn inner(&self, range: SectorRange) -> Result<SectorRange, IoError> {
        if !range.fits(self.sectors()) {
            return Err(IoError::OutOfRange(range));
        }
        // Can't wrap: it fits, and the window does.
        Ok(SectorRange::new(Lba(self.start.0.saturating_add(range.start.0)), range.count))
    }

    /// A transfer in the device's own count.
    fn moved(&self, transfer: Transfer) -> Result<Transfer, IoError> {
        let inner = self.inner(transfer.range())?;
        Ok(match transfer {
            Transfer::Read(_) => Transfer::Read(inner),
            Transfer::Write { data, durability, .. } => {
                Transfer::Write { start: inner.start, data, durability }
            }
        })
    }

    fn within<T: 'static>(
        &self,
        range: SectorRange,
        call: impl FnOnce(SectorRange) -> IoFuture<'static, T>,
    ) -> IoFuture<'static, T> {
        match self.inner(range) {
            Err(error) => futures::future::ready(Err(error)).boxed_local(),
            Ok(inner) => {
                // Called now: the order of calls counts.
                let answer = call(inner);
                let start = self.start;
                answer.map(move |result| result.map_err(|error| outer(error, start))).boxed_local()
            }
        }
    }
}

/// An error of the device in the window's count.
fn outer(error: IoError, start: Lba) -> IoError {
    let shift = |range: SectorRange| {
        SectorRange::new(Lba(range.start.0.saturating_sub(start.0)), range.count)
    };
    match error {
        IoError::Medium(range) => IoError::Medium(shift(range)),
        IoError::NoSpace(range) => IoError::NoSpace(shift(range)),
        IoError::OutOfRange(range) => IoError::OutOfRange(shift(range)),
        other => other,
    }
}

impl BlockDevice for Window {
    fn geometry(&self) -> Geometry {
        let geometry = self.device.geometry();
        let block_sectors = u64::from(geometry.physical_block_bytes) / SECTOR_BYTES as u64;
        // Blocks that don't begin where the window does are none that anybody could keep to.
        let aligned = block_sectors > 0 && self.start.0.is_multiple_of(block_sectors);
        let physical_block_bytes =
            if aligned { geometry.physical_block_bytes } else { SECTOR_BYTES as u32 };
        Geometry { sectors: self.sectors(), physical_block_bytes, ..geometry }
    }

    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        self.within(range, |inner| self.device.read(inner))
    }

    fn read_at_once(&self, range: SectorRange) -> Option<Completion<Buffer>> {
        self.device.read_at_once(self.inner(range).ok()?)
    }

    fn write_at_once(&self, start: Lba, data: &[u8]) -> Option<Completion<()>> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        self.device.write_at_once(self.inner(range).ok()?.start, data)
    }

    fn begins(&self, transfer: &Transfer) -> bool {
        self.moved(transfer.clone()).is_ok_and(|inner| self.device.begins(&inner))
    }

    fn begin(&self, transfer: Transfer, done: TransferDone) {
        let start = self.start;
        match self.moved(transfer) {
            Err(error) => done(Err(error)),
            Ok(inner) => self.device.begin(
                inner,
                Box::new(move |result| done(result.map_err(|error| outer(error, start)))),
            ),
        }
    }

    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        self.within(range, |inner| self.device.write(inner.start, data, durability))
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        self.device.flush(instance)
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        self.within(range, |inner| self.device.discard(inner))
    }

    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        self.within(range, |inner| self.device.write_zeroes(inner, durability))
    }

    fn claim(&self, _: Claim) -> IoFuture<'static, Holder> {
        // A claim of a part would be one of the whole.
        futures::future::ready(Err(IoError::Unsupported)).boxed_local()
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        futures::future::ready(Err(IoError::Unsupported)).boxed_local()
    }

    /// None: a device tells one listener, and it may have several windows. Who made them hears of
    /// changes and passes them on.
    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        pending().boxed_local()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    /// A device in memory answers at once.
    fn block_on<T>(answer: IoFuture<'static, T>) -> Result<crate::Completion<T>, IoError> {
        answer.now_or_never().unwrap()
    }

    fn disk() -> Rc<MemoryDevice> {
        Rc::new(MemoryDevice::new(100))
    }

    fn write(device: &dyn BlockDevice, start: u64, sectors: usize) -> Result<(), IoError> {
        let data = Buffer::zeroed(sectors * SECTOR_BYTES);
        block_on(device.write(Lba(start), data, Durability::Durable)).map(drop)
    }

    #[test]
    fn what_is_written_lies_where_it_should() {
        let disk = disk();
        let window = Window::new(Rc::clone(&disk) as Rc<dyn BlockDevice>, Lba(10), Some(20));
        assert_eq!(window.geometry().sectors, 20);
        let data = Buffer::copy_of(&[7; SECTOR_BYTES]);
        block_on(window.write(Lba(3), data, Durability::Durable)).unwrap();
        let whole = block_on(disk.read(SectorRange::new(Lba(0), 100))).unwrap().value;
        for (sector, bytes) in whole.chunks(SECTOR_BYTES).enumerate() {
            assert_eq!(bytes[0] == 7, sector == 13, "{sector}");
        }
        let read = block_on(window.read(SectorRange::new(Lba(3), 1))).unwrap().value;
        assert_eq!(read[511], 7);
    }

    #[test]
    fn transfers_told_by_a_call_are_moved_too() {
        let disk = disk();
        let window = Window::new(Rc::clone(&disk) as Rc<dyn BlockDevice>, Lba(10), Some(20));
        let begin = |transfer: Transfer| {
            assert!(window.begins(&transfer));
            let answer = Rc::new(std::cell::Cell::new(None));
            let place = Rc::clone(&answer);
            window.begin(transfer, Box::new(move |result| place.set(Some(result))));
            answer.take().unwrap()
        };
        let data = Buffer::copy_of(&[7; SECTOR_BYTES]);
        let durability = Durability::Durable;
        begin(Transfer::Write { start: Lba(3), data: data.clone(), durability }).unwrap();
        let range = SectorRange::new(Lba(3), 1);
        assert!(begin(Transfer::Read(range)).unwrap().value == data);
        assert!(window.read_at_once(range).unwrap().value == data);
        let whole = block_on(disk.read(SectorRange::new(Lba(13), 1))).unwrap().value;
        assert!(whole == data);
        let beyond = SectorRange::new(Lba(20), 1);
        assert!(!window.begins(&Transfer::Read(beyond)) && window.read_at_once(beyond).is_none());
        assert_eq!(window.geometry().physical_block_bytes, SECTOR_BYTES as u32);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let disk = disk();
        let window = Window::new(Rc::clone(&disk) as Rc<dyn BlockDevice>, Lba(10), Some(20));
        assert!(write(&window, 18, 2).is_ok());
        for (start, sectors) in [(19, 2), (20, 1), (u64::MAX, 1), (u64::MAX - 9, 1)] {
            let range = SectorRange::new(Lba(start), sectors as u64);
            assert_eq!(write(&window, start, sectors), Err(IoError::OutOfRange(range)));
            assert_eq!(block_on(window.read(range)).unwrap_err(), IoError::OutOfRange(range));
        }
        // Beyond the end of the disk there is no window.
        let beyond = Window::new(Rc::clone(&disk) as Rc<dyn BlockDevice>, Lba(90), Some(20));
        assert_eq!(beyond.geometry().sectors, 10);
        assert!(write(&beyond, 10, 1).is_err());
        let beyond = Window::new(disk, Lba(u64::MAX), None);
        assert_eq!(beyond.geometry().sectors, 0);
        assert!(write(&beyond, 0, 1).is_err());
    }

    #[test]
    fn errors_are_told_in_the_windows_count() {
        let range = |start| SectorRange::new(Lba(start), 1);
        assert_eq!(outer(IoError::Medium(range(15)), Lba(10)), IoError::Medium(range(5)));
        assert_eq!(outer(IoError::NoSpace(range(15)), Lba(10)), IoError::NoSpace(range(5)));
        assert_eq!(outer(IoError::Lost, Lba(10)), IoError::Lost);
    }
}
