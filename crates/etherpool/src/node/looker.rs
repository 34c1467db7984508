//! Looks at disks: whether they are there, which they are, how large. All of these calls may hang with
//! a disk, so none is made on the reactor's thread; and there are hundreds of disks, so one thread
//! makes them all, one after the other, as long as it gets on. A thread that doesn't is left to its
//! disk, and another goes on with the rest.

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::channel::oneshot;
use os::{FileReference, ReactorHandle};

use super::open_disks::{SystemIdentity, find};

/// How long a thread may take before it is left to its disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was seen of a disk.
#[derive(Debug)]
pub struct Seen {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// Which it is.
    pub identity: SystemIdentity,
    /// The size of the open file, if there is one.
    pub size_bytes: Option<u64>,
}

/// Looks at all disks of a process.
pub struct Looker {
    handle: ReactorHandle,
    waiting: Arc<Waiting>,
    /// A thread is at it, or will be.
    busy: Cell<bool>,
}

type Waiting = Mutex<VecDeque<Question>>;

struct Question {
    look: Box<dyn FnOnce() -> anyhow::Result<Seen> + Send>,
    answer: oneshot::Sender<anyhow::Result<Seen>>,
}

impl Looker {
    /// Nothing to look at yet.
    pub fn new(handle: &ReactorHandle) -> Rc<Looker> {
        let handle = handle.clone();
        Rc::new(Looker { handle, waiting: Arc::default(), busy: Cell::new(false) })
    }

    /// Looks at the disk that a name means, and at the size of an open file. Takes as long as the
    /// disk does; whoever asks may not ask again meanwhile.
    pub async fn look(
        self: &Rc<Self>,
        name: &str,
        file: Option<Arc<FileReference>>,
    ) -> anyhow::Result<Seen> {
        let name = name.to_owned();
        self.ask(Box::new(move || {
            let (path, identity) = find(&name)?;
            let size_bytes = file.map(|file| file.size_bytes()).transpose()?;
            Ok(Seen { path, identity, size_bytes })
        }))
        .await
    }

    async fn ask(
        self: &Rc<Self>,
        look: Box<dyn FnOnce() -> anyhow::Result<Seen> + Send>,
    ) -> anyhow::Result<Seen> {
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).push_back(Question { look, answer });
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
            match runtime::timeout(self.handle.runtime(), PATIENCE, worker).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "disks can't be looked at");
                    self.handle.runtime().sleep(PATIENCE).await;
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
        // Whoever asked may have gone.
        let _ = question.answer.send((question.look)());
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
                let first = stuck.ask(Box::new(move || {
                    let _ = hung.recv();
                    anyhow::bail!("released")
                }));
                let name = file.display().to_string();
                let second = looker.look(&name, None);
                let mut first = std::pin::pin!(first);
                assert!(futures::poll!(&mut first).is_pending());
                let seen = second.await.unwrap();
                assert_eq!(seen.path, std::fs::canonicalize(&file).unwrap());
                // Later ones too.
                looker.look(&name, None).await.unwrap();
                assert!(looker.look("/nonexistent/disk", None).await.is_err());
                assert!(futures::poll!(&mut first).is_pending());
                drop(release);
                assert_eq!(first.await.unwrap_err().to_string(), "released");
            })
            .unwrap();
    }
}
