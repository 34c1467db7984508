//! Waiting until a descriptor is ready, without giving the kernel a new request for each look.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::ReactorHandle;
use super::ops::Op;

/// Pause after a failed poll request (out of memory), so that a listener doesn't spin.
const FAILED_PAUSE: Duration = Duration::from_millis(10);

/// A descriptor and the poll request on it, which stays with the kernel when a listener goes away
/// and serves the next one.
#[derive(Clone)]
pub struct FdWatch {
    state: Rc<WatchState>,
}

struct WatchState {
    handle: ReactorHandle,
    fd: Rc<OwnedFd>,
    request: RefCell<Option<Op<Rc<OwnedFd>>>>,
}

impl FdWatch {
    pub(super) fn new(handle: ReactorHandle, fd: Rc<OwnedFd>) -> FdWatch {
        FdWatch { state: Rc::new(WatchState { handle, fd, request: RefCell::new(None) }) }
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.state.fd.as_fd()
    }

    /// Completes when the descriptor may be readable, has an error or was hung up. May be wrong
    /// now and then: read without blocking. One listener at a time.
    pub fn readable(&self) -> impl Future<Output = ()> + 'static {
        let state = Rc::clone(&self.state);
        async move {
            let polled = poll_fn(|context| {
                let mut request = state.request.borrow_mut();
                let pending = request
                    .get_or_insert_with(|| state.handle.poll(Rc::clone(&state.fd), libc::POLLIN));
                match Pin::new(pending).poll(context) {
                    Poll::Ready((result, _)) => {
                        *request = None;
                        Poll::Ready(result)
                    }
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            if polled.is_err() {
                if state.handle.is_closed() {
                    std::future::pending::<()>().await;
                }
                state.handle.runtime().sleep(FAILED_PAUSE).await;
            }
        }
    }
}
