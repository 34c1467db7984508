//! The library's view of the volume: each operation asks whether the server still serves, runs on a
//! blocking thread, and is durable before it is answered.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rustix::fs::{AtFlags, FileType, Stat};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use unftp_core::storage::{
    Error, ErrorKind, FEATURE_RESTART, Fileinfo, Metadata, Permissions, Result, StorageBackend,
};

use super::accounts::FtpUser;
use super::beneath::{Beneath, Entry};

/// What is read or written at a time.
const PIECE_BYTES: usize = 512 << 10;

/// The volume's root directory while the server serves. Operations hold a copy as long as they run.
#[derive(Debug)]
pub(super) struct Root(Mutex<Option<Arc<OwnedFd>>>);

impl Root {
    pub(super) fn new(root: OwnedFd) -> Root {
        Root(Mutex::new(Some(Arc::new(root))))
    }

    fn get(&self) -> io::Result<Arc<OwnedFd>> {
        let root = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        root.ok_or_else(|| io::Error::other("the server stops"))
    }

    /// No operation begins any more; the last one that runs drops the directory.
    pub(super) fn close(&self) -> Option<Arc<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A file that a transfer has open. It holds the root as long: `close` must not seem done, and the
/// volume be unmounted, while one is still open. The order of the fields is the order of the drops.
struct OpenFile {
    file: File,
    _root: Arc<OwnedFd>,
}

/// Where a session's next transfer starts. The relay sets it when it sees the commands.
#[derive(Debug, Default)]
pub(super) struct Restart {
    /// From a REST that no transfer has used yet.
    pub(super) pending: u64,
    /// Of the transfer that comes next; `None` lets the library decide (APPE).
    pub(super) next: Option<u64>,
}

/// One session's backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) root: Arc<Root>,
    pub(super) restart: Arc<Mutex<Restart>>,
    /// How long a client may send nothing within an upload.
    pub(super) idle: Duration,
}

impl Backend {
    /// Runs `work` beneath the user's home.
    async fn run<T: Send + 'static>(
        &self,
        user: &FtpUser,
        work: impl FnOnce(&Beneath) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.get()?;
        let home = user.home.clone();
        blocking(move || Beneath::new(&root, &home).and_then(|beneath| work(&beneath))).await
    }

    /// Opens a file beneath the user's home, with its position at `start`.
    async fn open(
        &self,
        user: &FtpUser,
        start: u64,
        open: impl FnOnce(&Beneath) -> io::Result<File> + Send + 'static,
    ) -> Result<OpenFile> {
        let root = self.root.get()?;
        let home = user.home.clone();
        blocking(move || {
            let mut file = Beneath::new(&root, &home).and_then(|beneath| open(&beneath))?;
            file.seek(SeekFrom::Start(start))?;
            Ok(OpenFile { file, _root: root })
        })
        .await
    }

    async fn change(
        &self,
        user: &FtpUser,
        work: impl FnOnce(&Beneath) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        if !user.may_write {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.run(user, work).await
    }

    fn start_of_transfer(&self, by_library: u64) -> u64 {
        let mut restart = self.restart.lock().unwrap_or_else(PoisonError::into_inner);
        restart.next.take().unwrap_or(by_library)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Error::from),
        Err(error) => Err(Error::new(ErrorKind::LocalError, error)),
    }
}

/// What FTP tells of a file.
#[derive(Debug)]
pub(super) struct Meta(Stat);

impl Meta {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.st_mode)
    }
}

impl Metadata for Meta {
    fn len(&self) -> u64 {
        u64::try_from(self.0.st_size).unwrap_or(0)
    }

    fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    fn is_symlink(&self) -> bool {
        self.kind() == FileType::Symlink
    }

    fn modified(&self) -> Result<SystemTime> {
        let secs = u64::try_from(self.0.st_mtime).unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(secs));
        // The library's calendar ends; ext4's times stay far within.
        Ok(modified.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    fn gid(&self) -> u32 {
        self.0.st_gid
    }

    fn uid(&self) -> u32 {
        self.0.st_uid
    }

    fn links(&self) -> u64 {
        u64::from(self.0.st_nlink as u32)
    }

    fn permissions(&self) -> Permissions {
        Permissions(self.0.st_mode & 0o7777)
    }
}

#[async_trait]
impl StorageBackend<FtpUser> for Backend {
    type Metadata = Meta;

    fn supported_features(&self) -> u32 {
        FEATURE_RESTART
    }

    async fn metadata<P: AsRef<Path> + Send + Debug>(
        &self,
        user: &FtpUser,
        path: P,
    ) -> Result<Meta> {
        let path = path.as_ref().to_owned();
        self.run(user, move |beneath| beneath.stat(&path)).await.map(Meta)
    }

    async fn list<P: AsRef<Path> + Send + Debug>(
        &self,
        user: &FtpUser,
        path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Meta>>> {
        let path = path.as_ref().to_owned();
        let mut entries = self.run(user, move |beneath| beneath.list(&path)).await?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let info = |entry: Entry| Fileinfo { path: entry.name.into(), metadata: Meta(entry.stat) };
        Ok(entries.into_iter().map(info).collect())
    }

    async fn get_into<'a, P, W: ?Sized>(
        &self,
        user: &FtpUser,
        path: P,
        start_pos: u64,
        output: &'a mut W,
    ) -> Result<u64>
    where
        W: AsyncWrite + Unpin + Sync + Send,
        P: AsRef<Path> + Send + Debug,
    {
        let start = self.start_of_transfer(start_pos);
        let path = path.as_ref().to_owned();
        let opened = path.clone();
        let mut open = self.open(user, start, move |beneath| beneath.read(&opened)).await?;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut sent = 0;
        loop {
            // A server that stops lets no transfer run on.
            self.root.get()?;
            let count;
            (open, buffer, count) = blocking(move || {
                let count = open.file.read(&mut buffer)?;
                Ok((open, buffer, count))
            })
            .await?;
            if count == 0 {
                break;
            }
            output.write_all(&buffer[..count]).await?;
            sent += count as u64;
        }
        output.flush().await?;
        tracing::info!(parent: None, %user, path = %path.display(), bytes = sent, start, "FTP sent");
        Ok(sent)
    }

    /// Never asked for: downloads go through [`Backend::get_into`], and checksums, the library's other
    /// use of it, are off. A reader given away would keep the mount busy behind our back.
    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &FtpUser,
        _: P,
        _: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        Err(ErrorKind::CommandNotImplemented.into())
    }

    async fn put<P: AsRef<Path> + Send + Debug, R: AsyncRead + Send + Sync + Unpin + 'static>(
        &self,
        user: &FtpUser,
        mut input: R,
        path: P,
        start_pos: u64,
    ) -> Result<u64> {
        let start = self.start_of_transfer(start_pos);
        if !user.may_write {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let path = path.as_ref().to_owned();
        let opened = path.clone();
        let mut open = self.open(user, start, move |beneath| beneath.write(&opened, start)).await?;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut received = 0;
        loop {
            self.root.get()?;
            let (count, end) = fill(&mut input, &mut buffer, self.idle).await;
            // What came before an error is kept, for the client to resume from.
            (open, buffer) = blocking(move || {
                open.file.write_all(&buffer[..count])?;
                Ok((open, buffer))
            })
            .await?;
            received += count as u64;
            match end {
                None => {}
                Some(Ok(())) => break,
                Some(Err(error)) => {
                    tracing::info!(parent: None, %user, path = %path.display(), bytes = received, start, %error, "FTP upload broken off");
                    return Err(Error::new(ErrorKind::ConnectionClosed, error));
                }
            }
        }
        let synced = path.clone();
        self.run(user, move |beneath| {
            open.file.sync_all()?;
            beneath.sync_parent(&synced)
        })
        .await?;
        tracing::info!(parent: None, %user, path = %path.display(), bytes = received, start, "FTP received");
        Ok(received)
    }

    async fn del<P: AsRef<Path> + Send + Debug>(&self, user: &FtpUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.change(user, move |beneath| beneath.remove(&path, AtFlags::empty())).await
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(&self, user: &FtpUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.change(user, move |beneath| beneath.make_directory(&path)).await
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(
        &self,
        user: &FtpUser,
        from: P,
        to: P,
    ) -> Result<()> {
        let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        self.change(user, move |beneath| beneath.rename(&from, &to)).await
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(&self, user: &FtpUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.change(user, move |beneath| beneath.remove(&path, AtFlags::REMOVEDIR)).await
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(&self, user: &FtpUser, path: P) -> Result<()> {
        let path = path.as_ref().to_owned();
        self.run(user, move |beneath| beneath.is_directory(&path)).await
    }
}

/// Reads until `buffer` is full or the input ends, by itself or by an error.
async fn fill<R: AsyncRead + Unpin>(
    input: &mut R,
    buffer: &mut [u8],
    idle: Duration,
) -> (usize, Option<io::Result<()>>) {
    let mut count = 0;
    while count < buffer.len() {
        match tokio::time::timeout(idle, input.read(&mut buffer[count..])).await {
            Ok(Ok(0)) => return (count, Some(Ok(()))),
            Ok(Ok(more)) => count += more,
            Ok(Err(error)) => return (count, Some(Err(error))),
            Err(_) => return (count, Some(Err(io::ErrorKind::TimedOut.into()))),
        }
    }
    (count, None)
}
