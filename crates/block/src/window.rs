//! A part of a device as a device of its own, so that one disk can be exported as several.
//!
//! It adds a number to each address and takes it off again in what the device reports. Order and
//! promises are the device's.

use std::ops::Deref;
use std::rc::Rc;

use crate::{
    Answer, BlockDevice, Completion, Done, Geometry, IoError, Lba, Operation, Outcome,
    SECTOR_BYTES, SectorRange,
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

    /// The same in the device's own count; an error if its sectors are none of the window.
    fn inner<Data: Deref<Target = [u8]>>(
        &self,
        operation: Operation<Data>,
    ) -> Result<Operation<Data>, IoError> {
        let range = operation.range();
        if !range.fits(self.sectors()) {
            return Err(IoError::OutOfRange(range));
        }
        // Can't wrap: it fits, and the window does.
        Ok(operation.moved_to(Lba(self.start.0.saturating_add(range.start.0))))
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

    fn submit(&self, operation: Operation, done: Done) {
        if operation.is_of_server() {
            // A claim of a part would be one of the whole.
            return done(Err(IoError::Unsupported));
        }
        match self.inner(operation) {
            Err(error) => done(Err(error)),
            Ok(inner) => {
                let start = self.start;
                let told =
                    move |outcome: Outcome| done(outcome.map_err(|error| outer(error, start)));
                self.device.submit(inner, Box::new(told));
            }
        }
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        let moved = operation.has_range().then(|| self.inner(operation).ok())??;
        self.device.try_submit(moved)
    }

    // No events: a device tells one listener, and it may have several windows. Who made them hears of
    // changes and passes them on.
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Buffer, Claim, Durability, IoFuture, MemoryDevice};
    use futures::FutureExt;

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
    fn what_is_done_at_once_is_moved_too() {
        let disk = disk();
        let window = Window::new(Rc::clone(&disk) as Rc<dyn BlockDevice>, Lba(10), Some(20));
        let data = &[7; SECTOR_BYTES];
        let write = |start| Operation::Write {
            start: Lba(start),
            data: &data[..],
            durability: Durability::Volatile,
        };
        let read = |start| Operation::Read(SectorRange::new(Lba(start), 1));
        assert_eq!(window.try_submit(write(3)).unwrap().value, Answer::Done);
        let data = Answer::Data(Buffer::copy_of(data));
        assert_eq!(window.try_submit(read(3)).unwrap().value, data);
        assert_eq!(disk.try_submit(read(13)).unwrap().value, data);
        assert!(window.try_submit(read(20)).is_none() && window.try_submit(write(20)).is_none());
        assert_eq!(window.geometry().physical_block_bytes, SECTOR_BYTES as u32);
    }

    #[test]
    fn a_part_is_not_claimed() {
        let window = Window::new(disk(), Lba(10), Some(20));
        let claim = Claim {
            epoch: crate::Epoch(3),
            owner: crate::OwnerId::NONE,
            force: true,
            trust: crate::Trust::Unchanged,
        };
        assert_eq!(block_on(window.claim(claim.clone())), Err(IoError::Unsupported));
        assert_eq!(block_on(window.renew()), Err(IoError::Unsupported));
        assert!(window.try_submit(Operation::Claim(claim)).is_none());
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
