//! Waiting for something that can be seen in memory (the next slot of a receive ring): a look each
//! turn costs a load, and only before the reactor sleeps is the kernel asked to rouse it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::ReactorHandle;
use super::ops::Complete;

/// What is looked at.
pub(crate) trait Glance {
    /// Whether there is something to do. Costs no system call.
    fn is_ready(&self) -> bool;
}

/// A descriptor whose readiness shows in memory. One listener at a time.
pub(crate) struct GlanceWatch {
    handle: ReactorHandle,
    source: Rc<Source>,
}

pub(super) struct Source {
    fd: Rc<OwnedFd>,
    glance: Rc<dyn Glance>,
    waker: RefCell<Option<Waker>>,
    /// Key of the poll request with the kernel.
    armed: Cell<Option<u64>>,
    /// The kernel said that the descriptor is ready, has an error or was hung up.
    roused: Cell<bool>,
}

impl GlanceWatch {
    pub(super) fn new(
        handle: ReactorHandle,
        fd: Rc<OwnedFd>,
        glance: Rc<dyn Glance>,
    ) -> GlanceWatch {
        let source = Rc::new(Source {
            fd,
            glance,
            waker: RefCell::new(None),
            armed: Cell::new(None),
            roused: Cell::new(false),
        });
        handle.shared.sources.borrow_mut().push(Rc::clone(&source));
        GlanceWatch { handle, source }
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
            if source.roused.take() || source.glance.is_ready() {
                source.waker.take();
                return Poll::Ready(());
            }
            *source.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for GlanceWatch {
    fn drop(&mut self) {
        self.source.waker.take();
        self.handle.shared.sources.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.source));
        if let Some(key) = self.source.armed.get() {
            self.handle.shared.cancel(key);
        }
    }
}

impl Source {
    /// Wakes its listener if there is something to see; true if it did.
    pub(super) fn look(&self) -> bool {
        let seen = self.waker.borrow().is_some() && self.glance.is_ready();
        if seen && let Some(waker) = self.waker.take() {
            waker.wake();
        }
        seen
    }

    /// The descriptor to poll, if somebody listens and the kernel hasn't been asked yet.
    pub(super) fn to_arm(&self) -> Option<Rc<OwnedFd>> {
        let wanted = self.waker.borrow().is_some() && self.armed.get().is_none();
        wanted.then(|| Rc::clone(&self.fd))
    }

    pub(super) fn armed(&self, key: u64) {
        self.armed.set(Some(key));
    }
}

impl Complete for Source {
    fn complete(&self, _: i32) {
        self.armed.set(None);
        self.roused.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
