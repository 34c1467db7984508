//! The reactor: turns the executor's crank in production. One per thread; it owns the executor and
//! an io_uring, runs what is ready, hands requests to the kernel, and sleeps until a completion, a
//! wake-up from another thread or the next deadline.
//!
//! What it guarantees to the rest of the crate: memory that the kernel may still write to isn't
//! freed, neither when a future is dropped nor at the end ([`Reactor`]'s drop waits for what is in
//! flight, and leaks rather than frees when a dead disk never answers).
#![allow(unsafe_code)] // requests to the kernel carry raw pointers; see `ReactorHandle::submit`

mod blocking;
mod fuse;
mod mailbox;
mod ops;
mod poll_source;
mod requests;
mod ring;
mod spin;
mod watch;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, SystemTime};

use block::Instant;
use io_uring::squeue::{Entry, Entry128};
use io_uring::{opcode, types};
use runtime::{Executor, Handle, Order, Semaphore};

pub use fuse::{FuseQueues, FuseRequest, FuseServer};
pub use mailbox::{MailSender, Mailbox, SendError, mailbox};
pub(crate) use poll_source::{PollSource, PollWatch};
pub(crate) use requests::Part;
pub use watch::FdWatch;

use crate::sys::{self, boot_time};
use ops::{Op, OpState, OpTable};
use ring::Ring;
use spin::Spin;

/// Completion of the poll on the eventfd by which other threads rouse a sleeping reactor.
const KEY_ROUSE: u64 = u64::MAX;
/// Completion of a cancellation; nobody waits for it.
const KEY_CANCEL: u64 = u64::MAX - 1;
/// Steps of tasks between two looks at the kernel: bounds how long a completion waits.
const STEPS_PER_TURN: usize = 64;
/// Completions taken at once: few, so that the first answers are on their way while the rest is
/// handled. With 256 a disk at depth 32 idled while half a window was answered: 43,000 reads a second
/// instead of 70,000.
const REAP_BATCH: usize = 8;
/// How long the end waits for the kernel to finish what it was asked.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);
/// Calls that block (ioctls that discard, set-up in other namespaces) running at once.
const BLOCKING_MAX: u64 = 4;

/// The executor's crank and the ring. Not for sending to another thread.
pub struct Reactor {
    executor: Executor,
    shared: Rc<Shared>,
    rouser: Arc<Rouser>,
    spin: Spin,
    finished: Vec<(u64, i32)>,
}

/// What tasks need from the reactor. Cheap to clone.
#[derive(Clone)]
pub struct ReactorHandle {
    shared: Rc<Shared>,
    runtime: Handle,
    blocking: Rc<Semaphore>,
}

struct Shared {
    ring: RefCell<Option<Ring>>,
    ops: RefCell<OpTable>,
    /// What is looked at each turn.
    sources: RefCell<Vec<Rc<poll_source::Source>>>,
    /// Requests that other threads of this process work on.
    elsewhere: Cell<usize>,
    /// What is done when the tasks of this turn have run.
    turn_end: RefCell<Vec<Box<dyn FnOnce()>>>,
    closed: Cell<bool>,
}

/// Work of another thread of this process that the reactor waits for, until this is dropped.
pub(crate) struct Elsewhere {
    shared: Rc<Shared>,
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.shared.elsewhere.update(|count| count - 1);
    }
}

/// Rouses the reactor's thread if, and only if, it sleeps.
struct Rouser {
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Rouser {
    fn rouse(&self) {
        // Pairs with the fence before sleeping: either the reactor sees the task that the caller
        // has just queued, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst)
            && let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes())
            && error != rustix::io::Errno::AGAIN
        {
            tracing::error!(%error, "a sleeping reactor can't be roused");
        }
    }

    fn drain(&self) {
        let mut counter = [0; 8];
        // Nothing to read is as good as something read.
        let _ = rustix::io::read(&self.event, &mut counter);
    }
}

impl Reactor {
    /// A reactor for this thread, with its clock at boot time and its seed from the kernel.
    pub fn new() -> io::Result<(Reactor, ReactorHandle)> {
        let rouser = Arc::new(Rouser { sleeping: AtomicBool::new(false), event: sys::event_fd()? });
        let on_wake = Arc::clone(&rouser);
        let executor =
            Executor::new(boot_time(), sys::random_u64()?, Order::Fifo, move || on_wake.rouse());
        executor.set_clock(boot_time);
        // Before 1970 is a clock that was never set.
        executor.set_calendar(|| SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let shared = Rc::new(Shared {
            ring: RefCell::new(Some(Ring::open()?)),
            ops: RefCell::default(),
            sources: RefCell::default(),
            elsewhere: Cell::new(0),
            turn_end: RefCell::default(),
            closed: Cell::new(false),
        });
        let handle = ReactorHandle {
            shared: Rc::clone(&shared),
            runtime: executor.handle(),
            blocking: Semaphore::new(BLOCKING_MAX),
        };
        let finished = Vec::with_capacity(REAP_BATCH);
        let reactor = Reactor { executor, shared, rouser, spin: Spin::new(), finished };
        reactor.watch_rouser();
        Ok((reactor, handle))
    }

    /// Runs until `future` is done; other tasks go on meanwhile and stay afterwards. Fails only
    /// when the kernel refuses the ring itself.
    pub fn run_until<F>(&mut self, future: F) -> io::Result<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let output = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&output);
        self.executor.set_now(boot_time());
        self.executor.handle().spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            self.executor.set_now(boot_time());
            self.shared.look();
            self.executor.run_ready(STEPS_PER_TURN);
            self.shared.end_turn();
            if let Some(value) = output.take() {
                self.with_ring(Ring::submit)?;
                return Ok(value);
            }
            if self.executor.has_ready() {
                self.with_ring(Ring::submit)?;
            } else {
                // Whoever waits next submits by the same call.
                self.idle()?;
                // Who is called at the end of a request finds the time as it is after the sleep.
                self.executor.set_now(boot_time());
            }
            self.reap();
            // What a sleep was armed with and has completed is reaped: the rest is taken back.
            self.shared.disarm();
        }
    }

    /// Submits, then waits until there is something to do.
    fn idle(&mut self) -> io::Result<()> {
        let now = boot_time();
        let limit = self.executor.next_deadline().map(|deadline| deadline.since(now));
        if limit.is_some_and(|limit| limit.is_zero()) {
            return self.with_ring(Ring::submit);
        }
        let spin =
            self.spin.limit(self.shared.elsewhere.get() > 0).min(limit.unwrap_or(Duration::MAX));
        if !spin.is_zero() {
            self.with_ring(Ring::submit)?;
            if self.spin_for(now, spin)? {
                self.spin.waited(boot_time().since(now), false);
                return Ok(());
            }
        }
        if self.shared.look() {
            return self.with_ring(Ring::submit);
        }
        self.shared.arm();
        self.rouser.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let waited = if self.executor.has_ready() {
            self.with_ring(Ring::submit)
        } else {
            let limit = self.executor.next_deadline().map(|at| at.since(boot_time()));
            let waited = self.with_ring(|ring| ring.wait(limit));
            self.spin.waited(boot_time().since(now), true);
            waited
        };
        self.rouser.sleeping.store(false, Ordering::SeqCst);
        waited
    }

    fn spin_for(&mut self, begun: Instant, limit: Duration) -> io::Result<bool> {
        loop {
            let news = self.with_ring(|ring| Ok(ring.has_news()))?;
            if self.shared.look() || news || self.executor.has_ready() {
                self.with_ring(Ring::submit)?;
                return Ok(true);
            }
            if boot_time().since(begun) >= limit {
                return Ok(false);
            }
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        }
    }

    /// Tells finished operations to their futures; returns how many there were.
    fn reap(&mut self) -> usize {
        self.finished.clear();
        if let Some(ring) = self.shared.ring.borrow_mut().as_mut() {
            ring.reap(&mut self.finished);
        }
        for &(key, result) in &self.finished {
            match key {
                KEY_ROUSE => {
                    self.rouser.drain();
                    self.watch_rouser();
                }
                KEY_CANCEL => {}
                _ => {
                    let op = self.shared.ops.borrow_mut().remove(key);
                    if let Some(op) = op {
                        op.complete(result);
                    }
                }
            }
        }
        self.finished.len()
    }

    fn watch_rouser(&self) {
        let fd = types::Fd(self.rouser.event.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(KEY_ROUSE);
        // SAFETY: the entry points to no memory; the descriptor lives as long as the reactor.
        unsafe { self.shared.push(entry) };
    }

    fn with_ring<T>(&self, f: impl FnOnce(&mut Ring) -> io::Result<T>) -> io::Result<T> {
        match self.shared.ring.borrow_mut().as_mut() {
            Some(ring) => f(ring),
            None => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
        }
    }

    /// Takes back what may be taken back and waits for the rest; false when the kernel still holds
    /// something at the end of the limit.
    fn drain(&mut self) -> bool {
        let deadline = boot_time() + SHUTDOWN_LIMIT;
        let keys = self.shared.ops.borrow().cancellable();
        keys.into_iter().for_each(|key| self.shared.cancel(key));
        let all = self.shared.ops.borrow().all();
        all.into_iter().for_each(|op| op.abandon());
        loop {
            if self.shared.ops.borrow().in_flight() == 0 {
                return true;
            }
            let left = deadline.since(boot_time());
            if left.is_zero() || self.with_ring(|ring| ring.wait(Some(left))).is_err() {
                return false;
            }
            self.reap();
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // From here on requests of dying tasks are refused.
        self.shared.closed.set(true);
        self.executor.clear();
        let is_drained = self.drain();
        // Who was told of an end meanwhile may have begun something.
        self.executor.clear();
        if is_drained {
            self.shared.ring.borrow_mut().take();
            return;
        }
        let in_flight = self.shared.ops.borrow().in_flight();
        tracing::error!(
            in_flight,
            "the kernel has not finished these requests; their memory is left to it"
        );
        // Not dropping is the only safe thing to do with memory that the kernel may write to.
        std::mem::forget(self.shared.ring.borrow_mut().take());
        std::mem::forget(self.shared.ops.take());
    }
}

impl Shared {
    /// Queues an entry.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push(&self, entry: Entry) {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            // SAFETY: the caller's promise.
            unsafe { ring.push(entry) };
        }
    }

    /// Queues a driver's command, where [`Ring::takes_commands`].
    ///
    /// # Safety
    /// As for [`Ring::push`].
    unsafe fn push_command(&self, entry: Entry128) {
        if let Some(ring) = self.ring.borrow_mut().as_mut() {
            // SAFETY: the caller's promise.
            unsafe { ring.push_command(entry) };
        }
    }

    fn end_turn(&self) {
        let calls = std::mem::take(&mut *self.turn_end.borrow_mut());
        calls.into_iter().for_each(|call| call());
    }

    /// Wakes those whose sources have something to see; true if there was one.
    fn look(&self) -> bool {
        self.sources.borrow().iter().fold(false, |seen, source| source.look() | seen)
    }

    /// Asks the kernel to tell when a source is ready, for a sleep.
    fn arm(&self) {
        for source in self.sources.borrow().iter() {
            let Some(request) = source.to_arm() else { continue };
            let fd = types::Fd(request.fd().as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32);
            let completion: Rc<dyn ops::Complete> = Rc::clone(&request) as Rc<dyn ops::Complete>;
            let key = self.ops.borrow_mut().insert(completion, true);
            source.armed(key, request);
            // SAFETY: the entry points to no memory; the table keeps the request until its
            // completion is reaped, and with it the source, which keeps the descriptor open.
            unsafe { self.push(entry.build().user_data(key)) };
        }
    }

    /// Takes those requests back, with the next submission.
    fn disarm(&self) {
        for source in self.sources.borrow().iter() {
            if let Some(key) = source.disarm() {
                self.cancel(key);
            }
        }
    }

    fn cancel(&self, key: u64) {
        let entry = opcode::AsyncCancel::new(key).build().user_data(KEY_CANCEL);
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry) };
    }
}

impl ReactorHandle {
    /// Time, randomness and spawning.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Calls `call` when the tasks that can run have run, or some of them: once for all that they ask
    /// of another thread.
    pub(crate) fn at_end_of_turn(&self, call: impl FnOnce() + 'static) {
        self.shared.turn_end.borrow_mut().push(Box::new(call));
    }

    /// Tells that another thread of this process works for a task.
    pub(crate) fn work_elsewhere(&self) -> Elsewhere {
        self.shared.elsewhere.update(|count| count + 1);
        Elsewhere { shared: Rc::clone(&self.shared) }
    }

    /// Whether the reactor is gone; nothing completes any more.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Watches a descriptor for readability.
    pub fn watch(&self, fd: impl Into<Rc<OwnedFd>>) -> FdWatch {
        FdWatch::new(self.clone(), fd.into())
    }

    /// Watches a descriptor whose readiness shows in memory.
    pub(crate) fn watch_poll_source(
        &self,
        fd: Rc<OwnedFd>,
        poll_source: Rc<dyn PollSource>,
    ) -> PollWatch {
        PollWatch::new(self.clone(), fd, poll_source)
    }

    /// Hands `entry` to the kernel with the next turn; `done` is called with what it returned and with
    /// `resources`, which are kept until then. At the end of the reactor nothing may be called any
    /// more.
    ///
    /// # Safety
    /// As for [`ReactorHandle::submit`].
    unsafe fn submit_call<T: 'static>(
        &self,
        entry: Entry,
        resources: T,
        done: impl FnOnce(io::Result<u32>, T) + 'static,
    ) {
        if self.is_closed() {
            return done(Err(io::Error::from_raw_os_error(libc::ECANCELED)), resources);
        }
        let op: Rc<dyn ops::Complete> = Rc::new(ops::CallOp::new(resources, done));
        let key = self.shared.ops.borrow_mut().insert(op, false);
        // SAFETY: the table holds the operation, and with it `resources`, until the completion is
        // reaped.
        unsafe { self.shared.push(entry.user_data(key)) };
    }

    /// Hands `entry` to the kernel with the next turn. `resources` is kept until the completion is
    /// reaped and then comes back through the future.
    ///
    /// # Safety
    /// `entry` points only to what `resources` owns on the heap (so that moving `resources` doesn't
    /// move it), and names only descriptors that `resources` keeps open.
    unsafe fn submit<T: 'static>(&self, entry: Entry, resources: T, cancel_on_drop: bool) -> Op<T> {
        let state = OpState::new(resources);
        if self.is_closed() {
            ops::Complete::complete(&*state, -libc::ECANCELED);
            let shared = Rc::clone(&self.shared);
            return Op { state, shared, key: KEY_CANCEL, cancel_on_drop: false };
        }
        let completion: Rc<dyn ops::Complete> = Rc::clone(&state) as Rc<dyn ops::Complete>;
        let key = self.shared.ops.borrow_mut().insert(completion, cancel_on_drop);
        // SAFETY: the table holds `state`, and with it `resources`, until the completion is reaped.
        unsafe { self.shared.push(entry.user_data(key)) };
        Op { state, shared: Rc::clone(&self.shared), key, cancel_on_drop }
    }
}

#[cfg(test)]
mod tests;
