//! The server: its sessions, their number, and their end.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, pin_mut, select_biased};
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::accounts::{Accounts, UsersFileError};
use super::root::Root;
use super::session;
use super::tls::FtpTls;
use crate::filesystem::{self, FilesystemError};
use crate::places::{Places, STRANGERS_MAX, network_of};
use crate::tls::TlsError;

/// How long sessions and their operations may take to end when the server stops.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Waits before the next accept when the last one failed (no descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Asked before each command that uses the volume: whether the volume is still ours to serve.
pub type Lease = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// How a volume is served by FTP.
#[derive(Clone)]
pub struct FtpConfig {
    /// Where the volume's file system is mounted.
    pub root: PathBuf,
    /// The block device that must be mounted there.
    pub device: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Ports of data connections.
    pub passive_ports: RangeInclusive<u16>,
    /// Users that may write, see [`super`]; none without it.
    pub users_file: Option<PathBuf>,
    /// Whether everybody may read.
    pub anonymous: bool,
    /// TLS, for clients that ask for it.
    pub tls: Option<FtpTls>,
    /// More sessions at a time are turned away.
    pub sessions_max: usize,
    /// A session in which nothing happens for so long ends.
    pub idle: Duration,
    /// So does one in which nobody has logged in by then.
    pub login: Duration,
    /// Asked before each command that uses the volume.
    pub lease: Lease,
}

impl FtpConfig {
    /// `device` at `root`, to be read by everybody on this machine, with no lease to ask for.
    pub fn new(root: PathBuf, device: PathBuf) -> FtpConfig {
        FtpConfig {
            root,
            device,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 2121)),
            passive_ports: 49152..=65534,
            users_file: None,
            anonymous: true,
            tls: None,
            sessions_max: 64,
            idle: Duration::from_secs(300),
            login: Duration::from_secs(60),
            lease: Arc::new(|| futures::future::ready(true).boxed()),
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
    /// The users can't be read.
    #[error(transparent)]
    Users(#[from] UsersFileError),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The range is empty.
    #[error("the range of passive ports is empty")]
    NoPorts,
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
    /// Starts to serve.
    pub async fn start(config: FtpConfig) -> Result<FtpServer, FtpError> {
        if config.passive_ports.is_empty() {
            return Err(FtpError::NoPorts);
        }
        let accounts = Arc::new(Accounts::new(config.users_file.clone(), config.anonymous));
        let (checked, path, device) =
            (Arc::clone(&accounts), config.root.clone(), config.device.clone());
        let tls = config.tls.clone();
        let opened = tokio::task::spawn_blocking(move || {
            checked.check()?;
            tls.map(|tls| tls.load()).transpose()?;
            open_root(&path, &device)
        });
        let root = opened.await.map_err(|error| {
            let what = "looking at the mount".to_owned();
            FilesystemError::System { what, source: io::Error::other(error) }
        })??;
        FtpServer::serve(config, accounts, root).await
    }

    /// Serves a directory, whatever it is.
    pub(super) async fn serve(
        config: FtpConfig,
        accounts: Arc<Accounts>,
        root: OwnedFd,
    ) -> Result<FtpServer, FtpError> {
        let address = config.listen;
        let failed = |source| FtpError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopping) = watch::channel(false);
        let (root, free) =
            (Arc::new(Root::new(root)), Arc::new(Semaphore::new(config.sessions_max)));
        let sessions_max = config.sessions_max;
        let shared = Arc::new(Shared {
            config,
            accounts,
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
    pub(super) root: Arc<Root>,
    free: Arc<Semaphore>,
    strangers: Arc<Places<IpAddr>>,
    pub(super) stopping: watch::Receiver<bool>,
}

fn open_root(root: &Path, device: &Path) -> Result<OwnedFd, FtpError> {
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
    Ok(opened)
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
