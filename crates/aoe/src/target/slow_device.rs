//! A disk for tests that takes a random while for everything, in any order, even where commands
//! overlap: who relies on order must make it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{
    BlockDevice, Buffer, Claim, Completion, DeviceEvent, Durability, DurabilityClass, Geometry,
    Holder, Instance, IoError, IoFuture, Lba, SECTOR_BYTES, SectorRange, Transfer, TransferDone,
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
    /// Everything takes this long, one after the other, instead of a random while.
    pub each: Option<Duration>,
    pub turn: Rc<Cell<block::Instant>>,
    /// Of two reads, or writes, so many are done at once.
    pub at_once: Rc<Cell<u64>>,
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
            each: None,
            turn: Rc::default(),
            at_once: Rc::default(),
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
        let until = match self.each {
            None => {
                let delay = self.handle.random_below(self.delay_ms + 1);
                self.handle.now() + Duration::from_millis(delay)
            }
            Some(each) => {
                self.turn.set(self.turn.get().max(self.handle.now()) + each);
                self.turn.get()
            }
        };
        self.handle.spawn(async move {
            device.handle.sleep_until(until).await;
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

    fn is_at_once(&self) -> bool {
        let share = self.at_once.get();
        share > 0 && self.handle.random_below(2) < share
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

    fn read_at_once(&self, range: SectorRange) -> Option<Completion<Buffer>> {
        let window = self.is_at_once().then(|| self.window(range).ok())??;
        self.note(Effect::Read(range));
        let data = Buffer::copy_of(&self.bytes.borrow()[window]);
        Some(Completion::new(Instance(self.instance.get()), data))
    }

    fn write_at_once(&self, start: Lba, data: &[u8]) -> Option<Completion<()>> {
        let range = SectorRange::new(start, (data.len() / SECTOR_BYTES) as u64);
        let window = self.is_at_once().then(|| self.window(range).ok())??;
        self.note(Effect::Write(range, Durability::Volatile));
        self.bytes.borrow_mut()[window].copy_from_slice(data);
        Some(Completion::new(Instance(self.instance.get()), ()))
    }

    /// Now one way, now the other: who calls must be right with both.
    fn begins(&self, _: &Transfer) -> bool {
        self.handle.random_below(2) == 0
    }

    fn begin(&self, transfer: Transfer, done: TransferDone) {
        let answer = match transfer {
            Transfer::Read(range) => self.read(range),
            Transfer::Write { start, data, durability } => self
                .write(start, data, durability)
                .map(|result| result.map(|done| Completion::new(done.instance, Buffer::empty())))
                .boxed_local(),
        };
        self.handle.spawn(answer.map(done));
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
