//! A disk for tests that takes a random while for everything, in any order, even where commands
//! overlap: who relies on order must make it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{
    BlockDevice, Buffer, Claim, Completion, DeviceEvent, Durability, DurabilityClass, Geometry,
    Holder, Instance, IoError, IoFuture, Lba, SECTOR_BYTES, SectorRange,
};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use runtime::Handle;

/// What happened, in the order in which it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Read(SectorRange),
    Write(SectorRange, Durability),
    Flush,
    Discard(SectorRange),
}

#[derive(Clone)]
pub(crate) struct SlowDevice {
    pub bytes: Rc<RefCell<Vec<u8>>>,
    pub effects: Rc<RefCell<Vec<Effect>>>,
    pub instance: Rc<Cell<u64>>,
    pub fail_flush: Rc<Cell<bool>>,
    pub unreadable: Rc<Cell<Option<SectorRange>>>,
    pub delay_ms: u64,
    pub handle: Handle,
}

impl SlowDevice {
    pub(crate) fn new(handle: Handle, sectors: u64, delay_ms: u64) -> SlowDevice {
        SlowDevice {
            bytes: Rc::new(RefCell::new(vec![0; sectors as usize * SECTOR_BYTES])),
            effects: Rc::default(),
            instance: Rc::new(Cell::new(1)),
            fail_flush: Rc::default(),
            unreadable: Rc::default(),
            delay_ms,
            handle,
        }
    }

    fn later<T: 'static>(
        &self,
        effect: impl FnOnce(&SlowDevice) -> Result<T, IoError> + 'static,
    ) -> IoFuture<'static, T> {
        let device = self.clone();
        let (send, receive) = futures::channel::oneshot::channel();
        // On its own, as a real disk does: also when nobody waits for it.
        self.handle.spawn(async move {
            let delay = device.handle.random_below(device.delay_ms + 1);
            device.handle.sleep(Duration::from_millis(delay)).await;
            let instance = Instance(device.instance.get());
            let _ = send.send(effect(&device).map(|value| Completion::new(instance, value)));
        });
        receive.map(|result| result.unwrap_or(Err(IoError::Lost))).boxed_local()
    }

    fn window(&self, range: SectorRange) -> Result<std::ops::Range<usize>, IoError> {
        if !range.fits(self.geometry().sectors) {
            return Err(IoError::OutOfRange(range));
        }
        let start = range.start.byte_offset() as usize;
        Ok(start..start + range.len_bytes() as usize)
    }

    fn note(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

impl BlockDevice for SlowDevice {
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
        self.later(move |device| {
            let window = device.window(range)?;
            if device.unreadable.get().is_some_and(|bad| bad.overlaps(range)) {
                return Err(IoError::Medium(range));
            }
            device.note(Effect::Read(range));
            Ok(Buffer::copy_of(&device.bytes.borrow()[window]))
        })
    }

    fn write(&self, start: Lba, data: Buffer, durability: Durability) -> IoFuture<'static, ()> {
        self.later(move |device| {
            let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
            let window = device.window(range)?;
            device.note(Effect::Write(range, durability));
            device.bytes.borrow_mut()[window].copy_from_slice(&data);
            Ok(())
        })
    }

    fn flush(&self, instance: Instance) -> IoFuture<'static, ()> {
        self.later(move |device| {
            let now = Instance(device.instance.get());
            if instance != now {
                return Err(IoError::Restarted { now });
            }
            if device.fail_flush.get() {
                return Err(IoError::FlushFailed);
            }
            device.note(Effect::Flush);
            Ok(())
        })
    }

    fn discard(&self, range: SectorRange) -> IoFuture<'static, ()> {
        self.later(move |device| {
            let window = device.window(range)?;
            device.note(Effect::Discard(range));
            device.bytes.borrow_mut()[window].fill(0);
            Ok(())
        })
    }

    fn write_zeroes(&self, range: SectorRange, durability: Durability) -> IoFuture<'static, ()> {
        self.write(range.start, Buffer::zeroed(range.len_bytes() as usize), durability)
    }

    fn claim(&self, _: Claim) -> IoFuture<'static, Holder> {
        futures::future::ready(Err(IoError::Unsupported)).boxed_local()
    }

    fn renew(&self) -> IoFuture<'static, Holder> {
        futures::future::ready(Err(IoError::Unsupported)).boxed_local()
    }

    fn next_event(&self) -> LocalBoxFuture<'static, DeviceEvent> {
        futures::future::pending().boxed_local()
    }
}

/// Runs an executor until nothing is left to do but wait for ever.
pub(crate) fn run(executor: &runtime::Executor) {
    loop {
        while executor.run_ready(1000) > 0 {}
        match executor.next_deadline() {
            Some(at) => executor.set_now(at),
            None => return,
        }
    }
}

/// Runs a future to its end on an executor, with all that goes on beside it.
pub(crate) fn block_on<T: 'static>(
    executor: &runtime::Executor,
    future: impl Future<Output = T> + 'static,
) -> Option<T> {
    let result = Rc::new(RefCell::new(None));
    let place = Rc::clone(&result);
    executor.handle().spawn(async move {
        let output = future.await;
        *place.borrow_mut() = Some(output);
    });
    run(executor);
    result.take()
}
