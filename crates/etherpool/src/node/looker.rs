//! Looks at disks: whether they are there, which they are, how large. All of these calls may hang with
//! a disk, so none is made on the reactor's thread; and there are hundreds of disks, so one thread
//! makes them all, one after the other, as long as it gets on. A thread that doesn't is left to its
//! disk, and another goes on with the rest.
//!
//! Only to find a disk that isn't open is its path resolved, which is what the administrator named it
//! by. One that is served is looked at through descriptors that were opened then.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::channel::oneshot;
use os::{FileReference, ReactorHandle};

use super::open_disks::{Place, SystemIdentity, locate};

/// How long a thread may take before it is left to its disk.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A disk that was found.
pub struct Found {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// Which it is.
    pub identity: SystemIdentity,
    /// Where it is found again.
    pub place: Place,
    /// Its drive's serial number, if it has one.
    pub serial: Option<String>,
    /// Where its drive is opened, if it is a block device.
    pub drive: Option<PathBuf>,
}

/// Looks at all disks of a process.
pub struct Looker {
    handle: ReactorHandle,
    waiting: Arc<Waiting>,
    /// A thread is at it, or will be.
    busy: Cell<bool>,
}

type Waiting = Mutex<VecDeque<Question>>;

/// Looks and answers.
type Question = Box<dyn FnOnce() + Send>;

impl Looker {
    /// Nothing to look at yet.
    pub fn new(handle: &ReactorHandle) -> Rc<Looker> {
        let handle = handle.clone();
        Rc::new(Looker { handle, waiting: Arc::default(), busy: Cell::new(false) })
    }

    /// Finds the disk that a name means. Takes as long as the disk does; whoever asks may not ask again
    /// meanwhile.
    pub async fn find(self: &Rc<Self>, name: &str) -> anyhow::Result<Found> {
        let name = name.to_owned();
        self.ask(move || locate(&name)).await
    }

    /// Looks whether an open disk still is at its place; its present size.
    ///
    /// # Errors
    /// When it is gone, or another has taken its place.
    pub async fn look(
        self: &Rc<Self>,
        place: Arc<Place>,
        file: Arc<FileReference>,
        identity: SystemIdentity,
    ) -> anyhow::Result<u64> {
        self.ask(move || {
            place.check(identity)?;
            file.size_bytes().context("the disk is gone")
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        self: &Rc<Self>,
        look: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone.
        let question = move || drop(answer.send(look()));
        lock(&self.waiting).push_back(Box::new(question));
        if !self.busy.replace(true) {
            let looker = Rc::clone(self);
            self.handle.runtime().spawn(async move { looker.work().await });
        }
        answered.await.unwrap_or_else(|_| Err(anyhow::anyhow!("a look at it panicked")))
    }

    /// Lets threads work until nothing waits.
    async fn work(self: Rc<Self>) {
        // Those who ask at the same time are asked about by the same thread.
        self.handle.runtime().yield_now().await;
        loop {
            let left = Arc::new(AtomicBool::new(false));
            let (waiting, abandoned) = (Arc::clone(&self.waiting), Arc::clone(&left));
            let worker = self.handle.blocking(move || work_off(&waiting, &abandoned));
            match runtime::timeout(self.handle.runtime(), TIMEOUT, worker).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "disks can't be looked at");
                    self.handle.runtime().sleep(TIMEOUT).await;
                }
                Err(_) => left.store(true, Ordering::SeqCst),
            }
            if lock(&self.waiting).is_empty() {
                self.busy.set(false);
                return;
            }
        }
    }
}

/// Answers questions until none waits, or another thread has taken over.
fn work_off(waiting: &Waiting, abandoned: &AtomicBool) {
    while !abandoned.load(Ordering::SeqCst) {
        let Some(question) = lock(waiting).pop_front() else { return };
        question();
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, VecDeque<Question>> {
    // A queue is whole whenever nobody holds it.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use os::Reactor;
    use std::sync::mpsc::channel;

    #[test]
    fn a_disk_that_hangs_holds_up_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        std::fs::write(&file, [0; 100]).unwrap();
        let (mut reactor, handle) = Reactor::new().unwrap();
        let (release, hung) = channel::<()>();
        reactor
            .run_until(async move {
                let looker = Looker::new(&handle);
                let stuck = Rc::clone(&looker);
                let first = stuck.ask(move || -> anyhow::Result<()> {
                    let _ = hung.recv();
                    anyhow::bail!("released")
                });
                let name = file.display().to_string();
                let second = looker.find(&name);
                let mut first = std::pin::pin!(first);
                assert!(futures::poll!(&mut first).is_pending());
                let seen = second.await.unwrap();
                assert_eq!(seen.path, std::fs::canonicalize(&file).unwrap());
                // Later ones too.
                looker.find(&name).await.unwrap();
                assert!(looker.find("/nonexistent/disk").await.is_err());
                assert!(futures::poll!(&mut first).is_pending());
                drop(release);
                assert_eq!(first.await.unwrap_err().to_string(), "released");
            })
            .unwrap();
    }
}
