//! What the kernel wants done to the volume, and the way back.

use std::rc::Rc;

use futures::TryFutureExt;
use futures::future::{FutureExt, LocalBoxFuture, try_join_all};

use block::{
    BlockDevice, Buffer, Durability, IoError, IoFuture, Lba, SectorRange, most_sectors, read_run,
    write_run,
};

use super::server::Pending;

/// An operation on the volume. All of it lies within the size that the file had when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeRequest {
    /// Answer with the contents of these sectors.
    Read(SectorRange),
    /// Write and make durable.
    Write {
        /// First sector.
        start: Lba,
        /// Whole sectors.
        data: Buffer,
    },
    /// The range reads as zeros from now on, exactly, down to single sectors.
    Zero {
        /// The sectors.
        range: SectorRange,
        /// Their space isn't needed any more. The kernel sends its discards *and* those of its
        /// write-zeroes that may unmap in this form, so a plain discard, whose contents are
        /// undefined afterwards, is no legal way to do it.
        unmap: bool,
    },
}

/// The sectors that were read, or an empty buffer for all else.
pub type Answer = Result<Buffer, IoError>;

/// The right to answer one request. Dropped without an answer, it answers with an I/O error: nobody waits
/// for ever for an engine that is gone. A request that came by the descriptor is answered from any thread;
/// one that came by a ring only where that is.
#[derive(Debug)]
pub struct Reply<P: Finish = Pending>(Option<P>);

/// The way back of a request.
pub trait Finish {
    /// Gives the answer to the kernel.
    fn finish(self, answer: Answer);
}

impl<P: Finish> Reply<P> {
    pub(super) fn new(pending: P) -> Reply<P> {
        Reply(Some(pending))
    }

    /// Gives the answer to the kernel.
    pub fn answer(mut self, answer: Answer) {
        if let Some(pending) = self.0.take() {
            pending.finish(answer);
        }
    }
}

impl<P: Finish> Drop for Reply<P> {
    fn drop(&mut self) {
        if let Some(pending) = self.0.take() {
            pending.finish(Err(IoError::Lost));
        }
    }
}

/// Zeroing is cut into this many operations at a time.
const ZERO_WINDOW: usize = 16;

/// Does `request` on `device`, which acknowledges durable writes. What is longer than the device takes is
/// split. All operations but the later parts of a long zeroing are queued before this returns.
pub fn perform(
    device: &Rc<dyn BlockDevice>,
    request: VolumeRequest,
) -> LocalBoxFuture<'static, Answer> {
    match request {
        VolumeRequest::Read(range) => read_run(&**device, range.start, range.count).boxed_local(),
        VolumeRequest::Write { start, data } => {
            let write = write_run(&**device, start, data, Durability::Durable);
            write.map_ok(|_| Buffer::empty()).boxed_local()
        }
        VolumeRequest::Zero { range, unmap: _ } => {
            let mut parts = range.pieces(most_sectors(&**device));
            let device = Rc::clone(device);
            let zero = move |part| device.write_zeroes(part, Durability::Durable);
            let mut window: Vec<IoFuture<'static, ()>> =
                parts.by_ref().take(ZERO_WINDOW).map(&zero).collect();
            async move {
                while !window.is_empty() {
                    try_join_all(window).await?;
                    window = parts.by_ref().take(ZERO_WINDOW).map(&zero).collect();
                }
                Ok(Buffer::empty())
            }
            .boxed_local()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use block::{MemoryDevice, SECTOR_BYTES};

    fn done(device: &Rc<dyn BlockDevice>, request: VolumeRequest) -> Answer {
        perform(device, request).now_or_never().unwrap()
    }

    /// Three times the largest transfer (1 MiB) and an odd sector.
    #[test]
    fn long_operations_are_split_and_put_together() {
        let device: Rc<dyn BlockDevice> = Rc::new(MemoryDevice::new(8192));
        let bytes: Vec<u8> = (0..6145 * SECTOR_BYTES).map(|i| (i / 511) as u8).collect();
        let range = SectorRange::new(Lba(7), 6145);
        let write = VolumeRequest::Write { start: Lba(7), data: Buffer::copy_of(&bytes) };
        assert_eq!(done(&device, write), Ok(Buffer::empty()));
        assert!(*done(&device, VolumeRequest::Read(range)).unwrap() == *bytes);
        let zeroed = SectorRange::new(Lba(9), 6000);
        done(&device, VolumeRequest::Zero { range: zeroed, unmap: true }).unwrap();
        let now = done(&device, VolumeRequest::Read(range)).unwrap();
        assert!(now[..1024] == bytes[..1024] && now[6002 * 512..] == bytes[6002 * 512..]);
        assert!(now[1024..6002 * 512].iter().all(|byte| *byte == 0));
        let outside = SectorRange::new(Lba(8000), 4000);
        assert_eq!(
            done(&device, VolumeRequest::Read(outside)),
            Err(IoError::OutOfRange(SectorRange::new(Lba(8000), 2048)))
        );
    }
}
