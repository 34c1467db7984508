//! Operations in the kernel's hands. An operation owns its buffers and descriptors from submission
//! until its completion is reaped, whoever drops the future meanwhile: the kernel writes into that
//! memory.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Shared;

/// The future of an operation: what the kernel returned, and the resources back.
pub(crate) struct Op<T> {
    pub(super) state: Rc<OpState<T>>,
    pub(super) shared: Rc<Shared>,
    pub(super) key: u64,
    /// Whether the operation is pointless without a listener (polling), so that dropping the
    /// future takes it back.
    pub(super) cancel_on_drop: bool,
}

pub(super) struct OpState<T> {
    result: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
    resources: RefCell<Option<T>>,
}

impl<T> OpState<T> {
    pub(super) fn new(resources: T) -> Rc<OpState<T>> {
        Rc::new(OpState {
            result: Cell::new(None),
            waker: RefCell::new(None),
            resources: RefCell::new(Some(resources)),
        })
    }
}

/// An operation whose end is told by a call instead of a future.
pub(super) struct CallOp<T, F> {
    parts: Cell<Option<(T, F)>>,
}

impl<T, F: FnOnce(io::Result<u32>, T)> CallOp<T, F> {
    pub(super) fn new(resources: T, done: F) -> CallOp<T, F> {
        CallOp { parts: Cell::new(Some((resources, done))) }
    }
}

impl<T, F: FnOnce(io::Result<u32>, T)> Complete for CallOp<T, F> {
    fn complete(&self, result: i32) {
        if let Some((resources, done)) = self.parts.take() {
            done(outcome(result), resources);
        }
    }
}

/// What the kernel says by one number.
fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

pub(super) trait Complete {
    fn complete(&self, result: i32);

    /// The reactor ends, and waits for the completion of what can't be taken back.
    fn abandon(&self) {}
}

impl<T> Complete for OpState<T> {
    fn complete(&self, result: i32) {
        self.result.set(Some(result));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Op<T> {
    type Output = (io::Result<u32>, T);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.state.result.get()
            && let Some(resources) = self.state.resources.take()
        {
            return Poll::Ready((outcome(result), resources));
        }
        *self.state.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Op<T> {
    fn drop(&mut self) {
        self.state.waker.take();
        if self.cancel_on_drop && self.state.result.get().is_none() {
            self.shared.cancel(self.key);
        }
    }
}

/// The operations in flight, by the key that the kernel hands back.
#[derive(Default)]
pub(super) struct OpTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    in_flight: usize,
}

#[derive(Default)]
struct Slot {
    /// Counts reuse, so that a key never names two operations.
    generation: u32,
    op: Option<(Rc<dyn Complete>, bool)>,
}

impl OpTable {
    /// Keeps `op` until [`OpTable::remove`]; returns its key.
    pub(super) fn insert(&mut self, op: Rc<dyn Complete>, cancellable: bool) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.op = Some((op, cancellable));
        self.in_flight += 1;
        (u64::from(slot.generation) << 32) | u64::from(index)
    }

    /// Gives up a finished operation; `None` for keys that aren't operations (cancellations).
    pub(super) fn remove(&mut self, key: u64) -> Option<Rc<dyn Complete>> {
        let slot = self.slots.get_mut((key & 0xffff_ffff) as usize)?;
        if u64::from(slot.generation) != key >> 32 {
            return None;
        }
        let (op, _) = slot.op.take()?;
        // The highest generations are left to the reactor's own keys.
        slot.generation = (slot.generation + 1) & 0x7fff_ffff;
        self.free.push((key & 0xffff_ffff) as u32);
        self.in_flight -= 1;
        Some(op)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// All that are in flight.
    pub(super) fn all(&self) -> Vec<Rc<dyn Complete>> {
        self.slots.iter().filter_map(|slot| Some(Rc::clone(&slot.op.as_ref()?.0))).collect()
    }

    /// Keys of the operations that may be taken back without harm.
    pub(super) fn cancellable(&self) -> Vec<u64> {
        let keys = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let (_, cancellable) = slot.op.as_ref()?;
            cancellable.then_some((u64::from(slot.generation) << 32) | index as u64)
        });
        keys.collect()
    }
}
