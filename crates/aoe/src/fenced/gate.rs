//! Operations of a medium on their way to its device: they pass at once, but for barriers, which
//! wait for all earlier ones and hold back all later ones.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
        })
    }

    /// Whether operations wait here.
    pub(super) fn is_closed(&self) -> bool {
        self.order.borrow().has_barrier()
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
        if may_start {
            start(Passing { gate: Rc::clone(self), number });
        } else {
            self.waiting.borrow_mut().insert(number, Box::new(start));
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let freed = self.gate.order.borrow_mut().leave(self.number);
        for number in freed {
            let start = self.gate.waiting.borrow_mut().remove(&number);
            if let Some(start) = start {
                start(Passing { gate: Rc::clone(&self.gate), number });
            }
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
