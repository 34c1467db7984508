//! A part of a device: for clients of a bare disk that must keep off what its target writes there.

use std::rc::Rc;

use block::{
    BlockDevice, Buffer, Claim, DeviceEvent, Durability, Geometry, Holder, Instance, IoError,
    IoFuture, Lba, SectorRange,
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

/// A run of a device's sectors.
pub struct Section {
    device: Rc<dyn BlockDevice>,
    part: SectorRange,
}

impl Section {
    /// `part` of `device`.
    pub fn new(device: Rc<dyn BlockDevice>, part: SectorRange) -> Rc<Section> {
        Rc::new(Section { device, part })
    }

    fn place(&self, range: SectorRange) -> Result<SectorRange, IoError> {
        match range.fits(self.part.count) {
            true => Ok(SectorRange::new(Lba(self.part.start.0 + range.start.0), range.count)),
            false => Err(IoError::OutOfRange(range)),
        }
    }
}

fn refused<T: 'static>(error: IoError) -> IoFuture<'static, T> {
    futures::future::ready(Err(error)).boxed_local()
}

impl BlockDevice for Section {
    fn geometry(&self) -> Geometry {
        Geometry { sectors: self.part.count, ..self.device.geometry() }
    }

    fn read(&self, range: SectorRange) -> IoFuture<'static, Buffer> {
        self.place(range).map_or_else(refused, |place| self.device.read(place))
    }

    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        let range = SectorRange::new(start, (data.len() / block::SECTOR_BYTES) as u64);
        self.place(range)
            .map_or_else(refused, |place| self.device.write(place.start, data, durability))
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        self.device.flush(instance)
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        self.place(range).map_or_else(refused, |place| self.device.discard(place))
    }

    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        self.place(range).map_or_else(refused, |place| self.device.write_zeroes(place, durability))
    }

    fn claim(&self, claim: Claim) -> IoFuture<'static, Holder> {
        self.device.claim(claim)
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        self.device.renew()
    }

    fn disown(&self) {
        self.device.disown();
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        self.device.next_event()
    }
}
