//! Waiting for something that can be seen in memory (the next slot of a receive ring): a look each
//! turn costs a load, and only for as long as the reactor sleeps is the kernel asked to rouse it. A poll
//! request that stayed would cost a call into the kernel for each frame, only to find that the frame
//! has been dealt with.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::ReactorHandle;
use super::ops::Complete;

/// What is looked at.
pub(crate) trait PollSource {
    /// Whether there is something to do. Costs no system call.
    fn is_ready(&self) -> bool;
}

/// A descriptor whose readiness shows in memory. One listener at a time.
pub(crate) struct PollWatch {
    handle: ReactorHandle,
    source: Rc<Source>,
}

pub(super) struct Source {
    fd: Rc<OwnedFd>,
    poll_source: Rc<dyn PollSource>,
    waker: RefCell<Option<Waker>>,
    /// The poll request with the kernel.
    armed: RefCell<Option<(u64, Rc<Armed>)>>,
    /// The kernel said that the descriptor is ready, has an error or was hung up.
    roused: Cell<bool>,
}

impl PollWatch {
    pub(super) fn new(
        handle: ReactorHandle,
        fd: Rc<OwnedFd>,
        poll_source: Rc<dyn PollSource>,
    ) -> PollWatch {
        let source = Rc::new(Source {
            fd,
            poll_source,
            waker: RefCell::new(None),
            armed: RefCell::new(None),
            roused: Cell::new(false),
        });
        handle.shared.sources.borrow_mut().push(Rc::clone(&source));
        PollWatch { handle, source }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.source.fd.as_fd()
    }

    /// Completes when there is something to see, or when the kernel reports anything about the
    /// descriptor.
    pub(crate) fn readable(&self) -> impl Future<Output = ()> + 'static {
        let source = Rc::clone(&self.source);
        poll_fn(move |context| {
            if source.roused.take() || source.poll_source.is_ready() {
                source.waker.take();
                return Poll::Ready(());
            }
            *source.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for PollWatch {
    fn drop(&mut self) {
        self.source.waker.take();
        self.handle.shared.sources.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.source));
        if let Some(key) = self.source.disarm() {
            self.handle.shared.cancel(key);
        }
    }
}

impl Source {
    /// Wakes its listener if there is something to see; true if it did.
    pub(super) fn look(&self) -> bool {
        let seen = self.waker.borrow().is_some() && self.poll_source.is_ready();
        if seen && let Some(waker) = self.waker.take() {
            waker.wake();
        }
        seen
    }

    /// A poll request to be made, and of what, if somebody listens and there is none yet.
    pub(super) fn to_arm(self: &Rc<Self>) -> Option<Rc<Armed>> {
        let wanted = self.waker.borrow().is_some() && self.armed.borrow().is_none();
        let armed = || Armed { source: Rc::clone(self), current: Cell::new(true) };
        wanted.then(|| Rc::new(armed()))
    }

    /// The request has been made, under this key.
    pub(super) fn armed(&self, key: u64, request: Rc<Armed>) {
        self.armed.replace(Some((key, request)));
    }

    /// The request isn't wanted any more; its key, to be taken back.
    pub(super) fn disarm(&self) -> Option<u64> {
        let (key, request) = self.armed.take()?;
        request.current.set(false);
        Some(key)
    }
}

/// A poll request. Its end may come after the next one has been made.
pub(super) struct Armed {
    source: Rc<Source>,
    current: Cell<bool>,
}

impl Armed {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.source.fd.as_fd()
    }
}

impl Complete for Armed {
    fn complete(&self, _: i32) {
        if !self.current.replace(false) {
            return;
        }
        self.source.armed.take();
        self.source.roused.set(true);
        if let Some(waker) = self.source.waker.take() {
            waker.wake();
        }
    }
}
