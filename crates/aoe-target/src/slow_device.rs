//! A disk for tests that takes a random while for everything, in any order, even where commands
//! overlap: who relies on order must make it.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use block::{
    Answer, BlockDevice, Completion, Done, Durability, DurabilityClass, Geometry, Instance,
    IoError, Operation, SECTOR_BYTES, SectorRange,
};
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

    fn later(
        &self,
        effect: impl FnOnce(&SlowDevice) -> Result<Answer, IoError> + 'static,
        done: Done,
    ) {
        let device = self.clone();
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
            done(effect(&device).map(|answer| Completion::new(instance, answer)));
        });
    }

    fn perform<Data: Deref<Target = [u8]>>(
        &self,
        operation: Operation<Data>,
    ) -> Result<Answer, IoError> {
        let range = operation.range();
        let answer = operation.perform_on(&mut self.bytes.borrow_mut())?;
        let effect = match operation {
            Operation::Read(_) if self.unreadable.get().is_some_and(|bad| bad.overlaps(range)) => {
                return Err(IoError::Medium(range));
            }
            Operation::Read(_) => Effect::Read(range),
            Operation::Write { durability, .. } | Operation::WriteZeroes { durability, .. } => {
                Effect::Write(range, durability)
            }
            Operation::Discard(_) => Effect::Discard(range),
            Operation::Flush(instance) => {
                let now = Instance(self.instance.get());
                if instance != now {
                    return Err(IoError::Restarted { now });
                }
                if self.fail_flush.get() {
                    return Err(IoError::FlushFailed);
                }
                Effect::Flush
            }
            Operation::Claim(_) | Operation::Renew | Operation::AskHealth => {
                return Err(IoError::Unsupported);
            }
        };
        self.effects.borrow_mut().push(effect);
        Ok(answer)
    }

    fn is_at_once(&self) -> bool {
        let share = self.at_once.get();
        share > 0 && self.handle.random_below(2) < share
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

    /// Now in the call, now later: who submits must be right with both.
    fn submit(&self, operation: Operation, done: Done) {
        let waits = !operation.has_range() || self.handle.random_below(2) > 0;
        if waits || !self.is_at_once() {
            return self.later(move |device| device.perform(operation), done);
        }
        let instance = Instance(self.instance.get());
        done(self.perform(operation).map(|answer| Completion::new(instance, answer)));
    }

    fn try_submit(&self, operation: Operation<&[u8]>) -> Option<Completion<Answer>> {
        let answer = self.is_at_once().then(|| self.perform(operation).ok())??;
        Some(Completion::new(Instance(self.instance.get()), answer))
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
