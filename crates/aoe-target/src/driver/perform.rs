//! Requests of the target, as calls: to the device of the export, to its memory, or to the disk
//! itself.

use std::rc::Rc;

use block::{
    Answer, BlockDevice, Completion, Geometry, Instance, IoError, Lba, Operation, Outcome,
    SECTOR_BYTES, SectorRange,
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{AtaPassThrough, Memory};
use crate::{IoResult, IoValue, Remembered, SmartCommand};
use aoe_wire::ShelfSlot;

/// What an export leans on beside its device.
pub(super) struct Beside {
    pub address: ShelfSlot,
    pub memory: Option<Rc<dyn Memory>>,
    pub ata: Option<Rc<dyn AtaPassThrough>>,
}

/// A message can name more sectors to be discarded or zeroed than a device takes at once.
pub(super) async fn in_parts(device: Rc<dyn BlockDevice>, whole: Operation, step: u64) -> Outcome {
    let range = whole.range();
    let mut before: Option<Instance> = None;
    let mut at = range.start.0;
    loop {
        let part = SectorRange::new(Lba(at), step.min(range.end().0 - at));
        let part = match whole {
            Operation::WriteZeroes { durability, .. } => device.write_zeroes(part, durability),
            _ => device.discard(part),
        };
        let Completion { instance, .. } = part.await?;
        if before.is_some_and(|before| before != instance) {
            // The parts before may be gone with the instance that took them.
            return Err(IoError::Restarted { now: instance });
        }
        before = Some(instance);
        at = at.saturating_add(step);
        if at >= range.end().0 {
            return Ok(Completion::new(instance, Answer::Done));
        }
    }
}

impl Beside {
    /// Asks the disk itself.
    pub(super) fn smart(&self, command: SmartCommand) -> LocalBoxFuture<'static, IoResult> {
        match &self.ata {
            Some(ata) => beside(ata.smart(command), IoValue::Smart),
            None => futures::future::ready(Err(IoError::Unsupported)).boxed_local(),
        }
    }

    /// Puts on stable storage what clients left with the export.
    pub(super) fn remember(&self, state: Remembered) -> LocalBoxFuture<'static, IoResult> {
        match &self.memory {
            Some(memory) => {
                beside(memory.store(self.address, state), |()| IoValue::Device(Answer::Done))
            }
            None => futures::future::ready(Err(IoError::Unsupported)).boxed_local(),
        }
    }
}

/// An answer that doesn't come from the device, so no instance belongs to it.
fn beside<T: 'static>(
    answer: LocalBoxFuture<'static, Result<T, IoError>>,
    value: impl FnOnce(T) -> IoValue + 'static,
) -> LocalBoxFuture<'static, IoResult> {
    answer
        .map(|result| result.map(|done| Completion::new(Instance::default(), value(done))))
        .boxed_local()
}

pub(super) fn part_sectors(geometry: &Geometry) -> u64 {
    (u64::from(geometry.max_transfer_bytes) / SECTOR_BYTES as u64).max(1)
}
