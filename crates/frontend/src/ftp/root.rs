//! The volume's root directory: lent to operations while the server serves.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use os::FileUser;
use tokio::sync::OwnedSemaphorePermit;

use super::accounts::FtpUser;
use super::beneath::Beneath;

/// The root while the server serves. Operations hold a copy as long as they run.
#[derive(Debug)]
pub(super) struct Root(Mutex<Option<Arc<OwnedFd>>>);

/// What a transfer has open: a file, or a directory. It holds the home as long: `close` must not seem
/// done, and the volume be unmounted, while one is still open. The order of the fields is the order of
/// the drops.
pub(super) struct Open<T> {
    file: T,
    home: Home,
}

impl<T> Open<T> {
    /// Does something with it, as the user whose it is; on a thread that may wait for the volume.
    pub(super) fn as_user<R>(&self, work: impl FnOnce(&T) -> io::Result<R>) -> io::Result<R> {
        self.home.rights()?.act(|| work(&self.file))
    }
}

/// A user's part of the volume, with the user's rights: nothing of the volume is reached otherwise, and no thread has
/// them any longer than for that. It holds the root, and the place of the session that took it: on a
/// volume that hangs, what sessions have begun is what the limit of sessions is for.
pub(super) struct Home {
    path: PathBuf,
    root: Arc<OwnedFd>,
    files: Option<FileUser>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Root {
    pub(super) fn new(root: OwnedFd) -> Root {
        Root(Mutex::new(Some(Arc::new(root))))
    }

    /// What a user may see, whose session has that `place`. Fails when the server stops.
    pub(super) fn home(
        &self,
        user: &FtpUser,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> io::Result<Home> {
        let root = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let root = root.ok_or_else(|| io::Error::other("the server stops"))?;
        let (path, files) = (user.home.clone(), user.files.clone());
        Ok(Home { path, root, files, _place: Arc::clone(place) })
    }

    /// No operation begins any more; the last one that runs drops the directory.
    pub(super) fn close(&self) -> Option<Arc<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Home {
    /// As whom files are used.
    fn rights(&self) -> io::Result<FileUser> {
        if let Some(files) = &self.files {
            return Ok(files.clone());
        }
        let owner = rustix::fs::fstat(&*self.root)?;
        Ok(FileUser { uid: owner.st_uid, gid: owner.st_gid, groups: Vec::new() })
    }

    /// Does something in the home's directory, as the user; on a thread that may wait for the volume.
    pub(super) fn as_user<T>(&self, work: impl FnOnce(&Beneath) -> io::Result<T>) -> io::Result<T> {
        self.rights()?.act(|| work(&Beneath::new(&self.root, &self.path)?))
    }

    /// The same on such a thread.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        blocking(move || self.as_user(work)).await
    }

    /// Opens something beneath the home.
    pub(super) async fn open<T: Send + 'static>(
        self,
        open: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> io::Result<Open<T>> {
        blocking(move || Ok(Open { file: self.as_user(open)?, home: self })).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let ran = tokio::task::spawn_blocking(work).await;
    ran.unwrap_or_else(|error| Err(io::Error::other(error)))
}
