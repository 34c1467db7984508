//! The server: its sessions, their number, and their end.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, pin_mut, select_biased};
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::accounts::{Accounts, UsersFileError};
use super::outside::Outside;
use super::root::Root;
use super::session;
use crate::filesystem::{self, FilesystemError};
use crate::places::{Places, STRANGERS_MAX, network_of};
use ::tls::TlsError;

/// How long sessions and their operations may take to end when the server stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Waits before the next accept when the last one failed (no descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a volume is served by FTP.
#[derive(Clone, Debug)]
pub struct FtpConfig {
    /// Ports of data connections.
    pub passive_ports: RangeInclusive<u16>,
    /// Whether everybody may read what everybody may read.
    pub anonymous: bool,
    /// TLS, for clients that ask for it.
    pub tls: Option<FtpTls>,
    /// More sessions at a time are turned away.
    pub sessions_max: usize,
    /// A session in which nothing happens for so long ends.
    pub idle: Duration,
    /// So does one in which nobody has logged in by then.
    pub login: Duration,
}

/// Who uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FtpTls {
    /// Passwords, and the data of who gave one, are taken by TLS only.
    Required,
    /// Who asks for it.
    Offered,
}

impl Default for FtpConfig {
    fn default() -> FtpConfig {
        FtpConfig {
            passive_ports: 49152..=65534,
            anonymous: true,
            tls: None,
            sessions_max: 64,
            idle: Duration::from_secs(300),
            login: Duration::from_secs(60),
        }
    }
}

/// Why FTP did not start.
#[derive(Debug, thiserror::Error)]
pub enum FtpError {
    /// The mount isn't there: files would land beneath it.
    #[error("{device} is not mounted at {root}; mount the volume first")]
    NotMounted {
        /// Where it should be mounted.
        root: PathBuf,
        /// What should be.
        device: PathBuf,
    },
    /// The mount can't be looked at.
    #[error(transparent)]
    Filesystem(#[from] FilesystemError),
    /// The mount can't be handed over.
    #[error("a copy of the mount {root}: {source}")]
    Copy {
        /// Where it is.
        root: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The users can't be read.
    #[error(transparent)]
    Users(#[from] UsersFileError),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address can't be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A running server. [`FtpServer::stop`] it before the file system is unmounted.
pub struct FtpServer {
    address: SocketAddr,
    root: Arc<Root>,
    free: Arc<Semaphore>,
    sessions_max: usize,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl fmt::Debug for FtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FtpServer({})", self.address)
    }
}

impl FtpServer {
    /// Serves a volume by its root, which is what [`open_root`] gives, to those who connect to `listener`.
    pub fn start(
        config: FtpConfig,
        outside: Arc<dyn Outside>,
        root: OwnedFd,
        listener: std::net::TcpListener,
    ) -> io::Result<FtpServer> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (stop, stopping) = watch::channel(false);
        let (root, free) =
            (Arc::new(Root::new(root)), Arc::new(Semaphore::new(config.sessions_max)));
        let sessions_max = config.sessions_max;
        let shared = Arc::new(Shared {
            accounts: Arc::new(Accounts::new(Arc::clone(&outside), config.anonymous)),
            config,
            outside,
            root: Arc::clone(&root),
            free: Arc::clone(&free),
            strangers: Places::new(STRANGERS_MAX),
            stopping,
        });
        let accepting = tokio::spawn(accept(listener, shared));
        tracing::info!(%address, "FTP serves");
        Ok(FtpServer { address, root, free, sessions_max, stop, accepting })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions at this moment, and what of former ones the volume still works at.
    pub fn sessions(&self) -> usize {
        self.sessions_max.saturating_sub(self.free.available_permits())
    }

    /// Whether clients are let in: false when it ended by itself.
    pub fn is_running(&self) -> bool {
        !self.accepting.is_finished()
    }

    /// Ends all sessions, those within a transfer too, and lets go of the mount. False when an
    /// operation on the file system did not end in time: shut that down first, then unmount.
    pub async fn stop(self) -> bool {
        let root = self.root.close();
        self.stop.send_replace(true);
        let ended = self.accepting.await.is_ok();
        let Some(root) = root else { return ended };
        let mut waited = Duration::ZERO;
        while Arc::strong_count(&root) > 1 && waited < STOP_LIMIT {
            tokio::time::sleep(Duration::from_millis(5)).await;
            waited += Duration::from_millis(5);
        }
        tracing::info!(address = %self.address, "FTP has stopped");
        ended && Arc::strong_count(&root) == 1
    }
}

/// What sessions share.
pub(super) struct Shared {
    pub(super) config: FtpConfig,
    pub(super) accounts: Arc<Accounts>,
    pub(super) outside: Arc<dyn Outside>,
    pub(super) root: Arc<Root>,
    free: Arc<Semaphore>,
    strangers: Arc<Places<IpAddr>>,
    pub(super) stopping: watch::Receiver<bool>,
}

/// Listens where a server shall.
pub async fn listen(address: SocketAddr) -> Result<std::net::TcpListener, FtpError> {
    let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std);
    bound.map_err(|source| FtpError::Listen { address, source })
}

/// The root of a mount, on which `device` must be mounted: a copy of the mount that stands nowhere, so that `..` doesn't
/// lead out of it either. As long as it, or anything in it, is open, the file system stays mounted. Blocks.
pub fn open_root(root: &Path, device: &Path) -> Result<OwnedFd, FtpError> {
    let not_mounted = || FtpError::NotMounted { root: root.to_owned(), device: device.to_owned() };
    if !filesystem::is_mounted(device, root)? {
        return Err(not_mounted());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, Mode::empty()).map_err(|_| not_mounted())?;
    // What was opened, not what the table said a moment ago.
    if !filesystem::is_on(opened.as_fd(), device)? {
        return Err(not_mounted());
    }
    let how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(&opened, "", how)
        .map_err(|error| FtpError::Copy { root: root.to_owned(), source: error.into() })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    let mut stopping = shared.stopping.clone();
    loop {
        let accepted = {
            let stopped = stopping.wait_for(|stop| *stop).map(|_| ()).fuse();
            let connection = listener.accept().fuse();
            pin_mut!(stopped, connection);
            select_biased! {
                () = stopped => break,
                accepted = connection => accepted,
            }
        };
        while sessions.try_join_next().is_some() {}
        match accepted {
            Ok((client, peer)) => admit(&shared, &mut sessions, client, peer).await,
            Err(error) => {
                tracing::warn!(%error, "FTP accepts nobody");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = async { while sessions.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
        sessions.shutdown().await;
    }
}

async fn admit(
    shared: &Arc<Shared>,
    sessions: &mut JoinSet<()>,
    mut client: TcpStream,
    peer: SocketAddr,
) {
    let stranger = shared.strangers.admit(network_of(peer.ip()));
    let place = stranger.zip(Arc::clone(&shared.free).try_acquire_owned().ok());
    let Some((stranger, place)) = place else {
        tracing::warn!(%peer, "FTP session refused: too many");
        // A fresh connection takes this much without waiting.
        let refusal = client.write_all(b"421 Too many sessions; try again later.\r\n");
        let _ = tokio::time::timeout(Duration::from_secs(1), refusal).await;
        return;
    };
    let shared = Arc::clone(shared);
    sessions.spawn(async move {
        match session::serve(shared, client, peer, (place, stranger)).await {
            Ok(end) => tracing::info!(%peer, ?end, "FTP session ended"),
            Err(error) => tracing::warn!(%peer, %error, "FTP session failed"),
        }
    });
}
