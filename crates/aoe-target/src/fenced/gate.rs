//! Operations of a medium on their way to its device: they pass at once, but for barriers, which
//! wait for all earlier ones and hold back all later ones.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;

use block::{Access, Order};
use runtime::Handle;

/// The gate.
pub(super) struct Gate {
    handle: Handle,
    order: RefCell<Order<u64>>,
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Start>>,
    /// Whose turn has come while others are being started: they may end at once, and bring new ones,
    /// which mustn't overtake these.
    freed: RefCell<VecDeque<u64>>,
    is_starting: Cell<bool>,
}

type Start = Box<dyn FnOnce(Passing)>;

/// An operation that passes the gate, until this is dropped.
pub(super) struct Passing {
    gate: Rc<Gate>,
    number: u64,
}

impl Gate {
    pub(super) fn new(handle: Handle) -> Rc<Gate> {
        Rc::new(Gate {
            handle,
            order: RefCell::default(),
            next: Cell::new(1),
            waiting: RefCell::default(),
            freed: RefCell::default(),
            is_starting: Cell::new(false),
        })
    }

    /// Whether operations wait here.
    pub(super) fn is_closed(&self) -> bool {
        self.is_starting.get() || self.order.borrow().has_barrier()
    }

    /// Starts an operation now, or when the barrier before it is gone: in the order of the calls of this
    /// function.
    pub(super) fn pass(self: &Rc<Gate>, start: impl FnOnce(Passing) + 'static) {
        self.enter(Access::Free, start);
    }

    /// Runs `work` when all earlier operations have completed; later ones start when it is done.
    pub(super) fn barrier(self: &Rc<Gate>, work: impl Future<Output = ()> + 'static) {
        let handle = self.handle.clone();
        self.enter(Access::Barrier, move |passing| {
            let mut barrier = Barrier { passing: Some(passing) };
            handle.spawn(async move {
                work.await;
                drop(barrier.passing.take());
            });
        });
    }

    fn enter(self: &Rc<Gate>, access: Access, start: impl FnOnce(Passing) + 'static) {
        let number = self.next.replace(self.next.get() + 1);
        let may_start = self.order.borrow_mut().enter(number, access);
        if may_start && !self.is_starting.get() {
            return start(Passing { gate: Rc::clone(self), number });
        }
        self.waiting.borrow_mut().insert(number, Box::new(start));
        self.freed.borrow_mut().extend(may_start.then_some(number));
    }

    fn start_freed(self: &Rc<Gate>) {
        if self.is_starting.replace(true) {
            return;
        }
        loop {
            let next = self.freed.borrow_mut().pop_front();
            let Some(number) = next else { break };
            let start = self.waiting.borrow_mut().remove(&number);
            if let Some(start) = start {
                start(Passing { gate: Rc::clone(self), number });
            }
        }
        self.is_starting.set(false);
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let freed = self.gate.order.borrow_mut().leave(self.number);
        if !freed.is_empty() {
            self.gate.freed.borrow_mut().extend(freed);
            self.gate.start_freed();
        }
    }
}

/// A barrier at work. When it goes away with its task, before it was done, the process is dying:
/// what waits is dropped, so that nothing keeps the device.
struct Barrier {
    passing: Option<Passing>,
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if let Some(passing) = &self.passing {
            let waiting = std::mem::take(&mut *passing.gate.waiting.borrow_mut());
            drop(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Instant;
    use runtime::Executor;

    /// What a barrier held back goes before what the first of it brings when it ends at once.
    #[test]
    fn nothing_overtakes_what_was_held_back() {
        let executor = Executor::new(Instant::default(), 1, runtime::Order::Fifo, || {});
        let gate = Gate::new(executor.handle());
        let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
        let note = |what: u8| {
            let seen = Rc::clone(&seen);
            move || seen.borrow_mut().push(what)
        };
        let barrier = note(0);
        gate.barrier(async move { barrier() });
        let (first, brought, again) = (note(1), note(3), Rc::clone(&gate));
        gate.pass(move |passing| {
            first();
            drop(passing);
            again.pass(move |_| brought());
        });
        let second = note(2);
        gate.pass(move |_| second());
        assert!(gate.is_closed() && seen.borrow().is_empty());
        while executor.run_ready(100) > 0 {}
        assert_eq!(*seen.borrow(), [0, 1, 2, 3]);
        assert!(!gate.is_closed());
    }
}
