//! Operations of a medium on their way to its device: they pass at once, but for barriers, which
//! wait for all earlier ones and hold back all later ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use runtime::{Handle, Notify};

/// The gate.
pub(super) struct Gate {
    handle: Handle,
    running: Cell<u64>,
    drained: Notify,
    closed: Cell<bool>,
    waiting: RefCell<VecDeque<Box<dyn FnOnce()>>>,
}

impl Gate {
    pub(super) fn new(handle: Handle) -> Rc<Gate> {
        Rc::new(Gate {
            handle,
            running: Cell::new(0),
            drained: Notify::new(),
            closed: Cell::new(false),
            waiting: RefCell::default(),
        })
    }

    /// Whether operations wait here.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Starts an operation now, or when the barrier before it is gone: in the order of the calls of this
    /// function. It counts as running until the [`Passing`] is dropped.
    pub(super) fn pass(self: &Rc<Gate>, start: impl FnOnce(Passing) + 'static) {
        if self.closed.get() {
            let gate = Rc::clone(self);
            self.waiting.borrow_mut().push_back(Box::new(move || start(gate.enter())));
        } else {
            start(self.enter());
        }
    }

    fn enter(self: &Rc<Gate>) -> Passing {
        self.running.set(self.running.get() + 1);
        Passing(Rc::clone(self))
    }

    /// Runs `work` when all earlier operations have completed; later ones start when it is done.
    pub(super) fn barrier(self: &Rc<Gate>, work: impl Future<Output = ()> + 'static) {
        let gate = Rc::clone(self);
        let start = move || {
            gate.closed.set(true);
            let mut closed = Closed { gate: Rc::clone(&gate), is_done: false };
            gate.handle.spawn(async move {
                closed.gate.wait_until_drained().await;
                work.await;
                closed.is_done = true;
                closed.gate.open();
            });
        };
        if self.closed.get() {
            self.waiting.borrow_mut().push_back(Box::new(start));
        } else {
            start();
        }
    }

    async fn wait_until_drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.running.get() == 0 {
                return;
            }
            drained.await;
        }
    }

    /// Lets through what waited, up to the next barrier.
    fn open(&self) {
        self.closed.set(false);
        while !self.closed.get() {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(start) = next else { return };
            start();
        }
    }

    fn finished(&self) {
        self.running.set(self.running.get() - 1);
        if self.running.get() == 0 {
            self.drained.notify_all();
        }
    }
}

/// An operation that runs.
pub(super) struct Passing(Rc<Gate>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// A barrier at work. When it goes away with its task, before it was done, the process is dying:
/// what waits is dropped, so that nothing keeps the device.
struct Closed {
    gate: Rc<Gate>,
    /// The gate may be closed again by now, but by the next barrier.
    is_done: bool,
}

impl Drop for Closed {
    fn drop(&mut self) {
        if !self.is_done {
            let waiting = std::mem::take(&mut *self.gate.waiting.borrow_mut());
            drop(waiting);
        }
    }
}
