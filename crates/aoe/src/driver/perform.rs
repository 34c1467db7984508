//! Requests of the target, as calls: to the device of the export, to its memory, or to the disk
//! itself.

use std::rc::Rc;

use block::{
    BlockDevice, Completion, Durability, Geometry, Instance, IoError, IoFuture, Lba, SECTOR_BYTES,
    SectorRange,
};
use futures::FutureExt;

use super::{AtaPassThrough, ExportDevice, Memory};
use crate::target::{IoOperation, IoResult, IoValue};
use crate::wire::ShelfSlot;

/// What an export leans on beside its device.
pub(super) struct Beside {
    pub address: ShelfSlot,
    pub memory: Option<Rc<dyn Memory>>,
    pub ata: Option<Rc<dyn AtaPassThrough>>,
}

/// Calls the device, or what it leans on, at once.
pub(super) fn perform(
    device: &ExportDevice,
    aside: &Beside,
    operation: IoOperation,
) -> futures::future::LocalBoxFuture<'static, IoResult> {
    let on = device.device();
    match operation {
        IoOperation::Read(range) => valued(on.read(range), IoValue::Data),
        IoOperation::Write { start, data, durability } => {
            valued(on.write(start, data, durability), |()| IoValue::Done)
        }
        IoOperation::Flush(instance) => valued(on.flush(instance), |()| IoValue::Done),
        IoOperation::Claim(claim) => match device {
            ExportDevice::Fenced(medium) => valued(medium.claim(claim), IoValue::Holder),
            // What its device might do with a claim is between its owner and the device.
            ExportDevice::Device(_) => {
                futures::future::ready(Err(IoError::Unsupported)).boxed_local()
            }
        },
        IoOperation::Smart(command) => match &aside.ata {
            Some(ata) => beside(ata.smart(command), IoValue::Smart),
            None => futures::future::ready(Err(IoError::Unsupported)).boxed_local(),
        },
        IoOperation::Remember(state) => match &aside.memory {
            Some(memory) => beside(memory.store(aside.address, state), |()| IoValue::Done),
            None => futures::future::ready(Err(IoError::Unsupported)).boxed_local(),
        },
        IoOperation::Discard(range) => in_parts(device.clone(), range, None),
        IoOperation::WriteZeroes { range, durability } => {
            in_parts(device.clone(), range, Some(durability))
        }
    }
}

fn valued<T: 'static>(
    answer: IoFuture<'static, T>,
    value: impl FnOnce(T) -> IoValue + 'static,
) -> futures::future::LocalBoxFuture<'static, IoResult> {
    answer
        .map(|result| result.map(|done| Completion::new(done.instance, value(done.value))))
        .boxed_local()
}

/// An answer that doesn't come from the device, so no instance belongs to it.
fn beside<T: 'static>(
    answer: futures::future::LocalBoxFuture<'static, Result<T, IoError>>,
    value: impl FnOnce(T) -> IoValue + 'static,
) -> futures::future::LocalBoxFuture<'static, IoResult> {
    answer
        .map(|result| result.map(|done| Completion::new(Instance::default(), value(done))))
        .boxed_local()
}

/// Discards, or writes zeros: a message can name more than a device takes at once.
fn in_parts(
    device: ExportDevice,
    range: SectorRange,
    zeroes: Option<Durability>,
) -> futures::future::LocalBoxFuture<'static, IoResult> {
    let step = part_sectors(&device.device().geometry());
    let part_at = move |start: u64| SectorRange::new(Lba(start), step.min(range.end().0 - start));
    let call = move |device: &ExportDevice, part: SectorRange| match zeroes {
        None => device.device().discard(part),
        Some(durability) => device.device().write_zeroes(part, durability),
    };
    let first = call(&device, part_at(range.start.0));
    async move {
        let mut done = first.await?;
        let mut at = range.start.0.saturating_add(step);
        while at < range.end().0 {
            let next = call(&device, part_at(at)).await?;
            if next.instance != done.instance {
                // The parts before may be gone with the instance that took them.
                return Err(IoError::Restarted { now: next.instance });
            }
            done = next;
            at = at.saturating_add(step);
        }
        Ok(Completion::new(done.instance, IoValue::Done))
    }
    .boxed_local()
}

fn part_sectors(geometry: &Geometry) -> u64 {
    (u64::from(geometry.max_transfer_bytes) / SECTOR_BYTES as u64).max(1)
}
