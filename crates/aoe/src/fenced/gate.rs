//! Operations of a medium on their way to its device: they pass at once, but for barriers, which
//! wait for all earlier ones and hold back all later ones.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use block::{IoError, IoFuture};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
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

    /// An operation passes an open gate, and counts as running until this is dropped.
    pub(super) fn enter(self: &Rc<Gate>) -> Passing {
        self.running.set(self.running.get() + 1);
        Passing(Rc::clone(self))
    }

    /// Starts an operation now, or when the barrier before it is gone. `start` is called in the
    /// order of the calls of this function.
    pub(super) fn pass<T: 'static>(
        self: &Rc<Gate>,
        start: impl FnOnce() -> IoFuture<'static, T> + 'static,
    ) -> IoFuture<'static, T> {
        if !self.closed.get() {
            return self.track(start()).boxed_local();
        }
        let (send, receive) = oneshot::channel();
        let gate = Rc::clone(self);
        self.waiting.borrow_mut().push_back(Box::new(move || {
            // Nobody waits for the answer any more: the operation happens all the same.
            drop(send.send(gate.track(start())));
        }));
        async move {
            match receive.await {
                Ok(tracked) => tracked.await,
                Err(oneshot::Canceled) => Err(IoError::Lost),
            }
        }
        .boxed_local()
    }

    /// Runs `work` when all earlier operations have completed; later ones start when it is done.
    pub(super) fn barrier<T: 'static>(
        self: &Rc<Gate>,
        work: impl Future<Output = T> + 'static,
    ) -> LocalBoxFuture<'static, Option<T>> {
        let (send, receive) = oneshot::channel();
        let gate = Rc::clone(self);
        let start = move || {
            gate.closed.set(true);
            let mut closed = Closed { gate: Rc::clone(&gate), is_done: false };
            gate.handle.spawn(async move {
                closed.gate.wait_until_drained().await;
                let _unheard = send.send(work.await);
                closed.is_done = true;
                closed.gate.open();
            });
        };
        if self.closed.get() {
            self.waiting.borrow_mut().push_back(Box::new(start));
        } else {
            start();
        }
        async move { receive.await.ok() }.boxed_local()
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

    fn track<T: 'static>(self: &Rc<Gate>, future: IoFuture<'static, T>) -> Tracked<T> {
        self.running.set(self.running.get() + 1);
        Tracked { gate: Rc::clone(self), future: Some(future) }
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

/// An operation that counts as running until it has completed, also when nobody waits for it: a
/// dropped write may still reach the medium, and a barrier must not overtake it.
struct Tracked<T: 'static> {
    gate: Rc<Gate>,
    future: Option<IoFuture<'static, T>>,
}

impl<T> Future for Tracked<T> {
    type Output = <IoFuture<'static, T> as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(Err(IoError::Lost)) };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
            self.gate.finished();
        }
        polled
    }
}

impl<T> Drop for Tracked<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        let gate = Rc::clone(&self.gate);
        self.gate.handle.spawn(async move {
            let _unheard = future.await;
            gate.finished();
        });
    }
}
