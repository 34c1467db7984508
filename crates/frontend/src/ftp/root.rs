//! The volume's root directory: lent to operations while the server serves.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::beneath::Beneath;

/// The root while the server serves. Operations hold a copy as long as they run.
#[derive(Debug)]
pub(super) struct Root(Mutex<Option<Arc<OwnedFd>>>);

/// What a transfer has open: a file, or a directory. It holds the home as long: `close` must not seem
/// done, and the volume be unmounted, while one is still open. The order of the fields is the order of
/// the drops.
pub(super) struct Open<T> {
    file: T,
    _home: Home,
}

impl<T> Open<T> {
    /// Not a field that is visible: a closure that names one takes only that, and leaves the home.
    pub(super) fn file(&self) -> &T {
        &self.file
    }
}

/// A user's part of the volume. It holds the root, and the place of the session that took it: on a
/// volume that hangs, what sessions have begun is what the limit of sessions is for.
pub(super) struct Home {
    path: PathBuf,
    root: Arc<OwnedFd>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Root {
    pub(super) fn new(root: OwnedFd) -> Root {
        Root(Mutex::new(Some(Arc::new(root))))
    }

    /// What a user at `path` may see, whose session has that `place`. Fails when the server stops.
    pub(super) fn home(&self, path: &Path, place: &Arc<OwnedSemaphorePermit>) -> io::Result<Home> {
        let root = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let root = root.ok_or_else(|| io::Error::other("the server stops"))?;
        Ok(Home { path: path.to_owned(), root, _place: Arc::clone(place) })
    }

    /// No operation begins any more; the last one that runs drops the directory.
    pub(super) fn close(&self) -> Option<Arc<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Home {
    /// The home's directory; on a thread that may wait for the volume.
    pub(super) fn beneath(&self) -> io::Result<Beneath> {
        Beneath::new(&self.root, &self.path)
    }

    /// Runs `work` beneath the home on such a thread.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        blocking(move || work(&self.beneath()?)).await
    }

    /// Opens something beneath the home.
    pub(super) async fn open<T: Send + 'static>(
        self,
        open: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Open<T>> {
        blocking(move || Ok(Open { file: open(&self.beneath()?)?, _home: self })).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let ran = tokio::task::spawn_blocking(work).await;
    ran.unwrap_or_else(|error| Err(io::Error::other(error)))
}
