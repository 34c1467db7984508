//! Shared syncs. Everyone who asks while a sync runs is served by the next one, together; and a
//! failure is remembered for ever, because the kernel reports a lost write-back only once.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use block::IoError;
use runtime::Notify;

use crate::reactor::ReactorHandle;

pub(super) struct SyncGroup {
    handle: ReactorHandle,
    fd: Rc<OwnedFd>,
    started: Cell<u64>,
    completed: Cell<u64>,
    running: Cell<bool>,
    failed: Cell<bool>,
    /// For the log: which device.
    name: String,
    changed: Notify,
}

impl SyncGroup {
    pub(super) fn new(handle: ReactorHandle, fd: Rc<OwnedFd>, name: String) -> Rc<SyncGroup> {
        Rc::new(SyncGroup {
            handle,
            fd,
            started: Cell::new(0),
            completed: Cell::new(0),
            running: Cell::new(false),
            failed: Cell::new(false),
            name,
            changed: Notify::new(),
        })
    }

    /// Whether a write-back has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// How many syncs were begun.
    #[cfg(test)]
    pub(super) fn started(&self) -> u64 {
        self.started.get()
    }

    /// Records a failed write-back that was noticed elsewhere.
    pub(super) fn fail(&self, error: &io::Error) {
        if !self.failed.replace(true) {
            tracing::error!(device = %self.name, %error, "write-back failed; the device must be reopened");
        }
    }

    /// Completes after a sync that began after this call.
    pub(super) async fn sync(self: &Rc<Self>) -> Result<(), IoError> {
        let needed = self.started.get() + 1;
        loop {
            if self.failed.get() {
                return Err(IoError::FlushFailed);
            }
            if self.completed.get() >= needed {
                return Ok(());
            }
            let changed = self.changed.notified();
            if !self.running.get() {
                self.start();
            }
            changed.await;
        }
    }

    /// In a task of its own, so that whoever asked may go away.
    fn start(self: &Rc<Self>) {
        self.running.set(true);
        self.started.set(self.started.get() + 1);
        let group = Rc::clone(self);
        let request = self.handle.data_sync(Rc::clone(&self.fd));
        self.handle.runtime().spawn(async move {
            let (result, _) = request.await;
            match result {
                Ok(_) => group.completed.set(group.started.get()),
                Err(error) => group.fail(&error),
            }
            group.running.set(false);
            group.changed.notify_all();
        });
    }
}
