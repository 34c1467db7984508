//! FTP servers of mounts, by the configuration: what the process is given that serves them, and the answers to what it
//! asks. It is believed nothing, and is ended where it doesn't let go of a volume.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;
use control::config::{FtpConfig, SupervisorConfig};
use control::ftp::{FtpAnswer, FtpNews, FtpQuestion, FtpRequest, Secret};
use control::reconcile::Attachment;
use frontend::ftp::{Files, FtpError, listen, open_root};
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast};

use super::channel_client::{Asked, Client, EngineClient, News};
use super::peer::Peer;
use crate::ftp::keys_of;

/// How long the engine may take to say whether the lease runs; later is no.
const LEASE_LIMIT: Duration = Duration::from_secs(2);
/// What takes no volume.
const AT_ONCE: Duration = Duration::from_secs(5);
/// A server that ends waits so long for sessions, and as long again for what these have begun.
const STOP_LIMIT: Duration = Duration::from_secs(12);
/// How long a process that was killed may take to be gone. It does, where it waits for a volume that doesn't answer.
const GONE_LIMIT: Duration = Duration::from_secs(3);
/// How long the process may take to be there before something is done without it.
const START_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks whether the process answers.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// So many looks in a row that aren't answered, each waited for as long as what is done at once: a machine that is short
/// of everything has its pauses.
const SILENT_LOOKS_MAX: u32 = 3;
/// Questions that are answered at a time; the process is told no more than that.
const ANSWERS_MAX: usize = 128;

impl Asked for FtpRequest {
    type Event = FtpNews;
    const WHO: &'static str = "the process that serves FTP";
    const MAY_BE_KILLED: bool = true;

    fn process() -> FtpRequest {
        FtpRequest::Process
    }

    fn away() -> ApiError {
        ApiError::ftp_away()
    }

    fn limit(&self) -> Duration {
        match self {
            FtpRequest::Stop { .. } => STOP_LIMIT,
            FtpRequest::Process | FtpRequest::Serve { .. } | FtpRequest::Answer { .. } => AT_ONCE,
        }
    }

    fn what(&self) -> String {
        match self {
            FtpRequest::Process => "to say how it is".into(),
            FtpRequest::Serve { .. } => "to serve a volume".into(),
            FtpRequest::Stop { .. } => "to let go of a volume".into(),
            FtpRequest::Answer { .. } => "to take an answer".into(),
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct FtpHandle {
    number: u64,
    /// In which process.
    process: Arc<Peer>,
}

/// Starts and stops servers.
pub struct FtpServers {
    config: FtpConfig,
    process: Client<FtpRequest>,
    served: Arc<Served>,
    next: AtomicU64,
}

/// What is served, and out of what questions are answered.
struct Served {
    files: Files,
    engine: EngineClient,
    /// By the numbers of servers, of which none comes twice.
    servers: Mutex<BTreeMap<u64, (VolumeName, Attachment)>>,
}

impl FtpServers {
    /// By this configuration.
    pub fn new(config: &SupervisorConfig, engine: EngineClient) -> FtpServers {
        let process = Client::start(config.ftp_socket());
        let config = config.ftp.clone();
        let files = files_of(&config);
        let served = Arc::new(Served { files, engine, servers: Mutex::default() });
        tokio::spawn(answer_all(process.clone(), process.news(), Arc::downgrade(&served)));
        tokio::spawn(end_if_it_hangs(process.clone(), Arc::downgrade(&served)));
        FtpServers { config, process, served, next: AtomicU64::new(0) }
    }

    /// Where servers listen that are not told otherwise.
    pub fn default_address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Waits until there is a process that serves nothing yet: one that a predecessor of this one had serve may have a
    /// volume still. One that doesn't answer is ended meanwhile.
    pub async fn fresh(&self) {
        let mut process = self.process.process();
        let there = process.wait_for(Option::is_some);
        if tokio::time::timeout(START_LIMIT, there).await.is_err() {
            tracing::warn!("the process that serves FTP isn't there yet");
        }
    }

    /// Serves `root`, on which `device` must be mounted, from that attachment of a volume.
    pub async fn start(
        &self,
        served: (&VolumeName, Attachment),
        device: &Path,
        root: &Path,
        address: SocketAddr,
    ) -> Result<FtpHandle, ApiError> {
        let (files, path, on) = (self.served.files.clone(), root.to_owned(), device.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            files.users()?;
            files.check_keys()?;
            open_root(&path, &on)
        });
        let root = opened.await.map_err(|error| {
            ApiError::new(ErrorCode::Internal, format!("a look at a mount was lost: {error}"))
        })?;
        let root = root.map_err(error_of)?;
        let listener = OwnedFd::from(listen(address).await.map_err(error_of)?);
        let process = self.process.peer().ok_or_else(FtpRequest::away)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.served.servers().insert(number, (served.0.clone(), served.1));
        let handle = FtpHandle { number, process };
        let request = FtpRequest::Serve { server: number };
        let begun =
            self.process.call_with_descriptors::<Value>(request, vec![root, listener]).await;
        if let Err(error) = begun {
            // It may have it all the same, or get it yet.
            self.stop(handle).await;
            return Err(error);
        }
        Ok(handle)
    }

    /// Whether a server still lets clients in.
    pub fn is_running(&self, server: &FtpHandle) -> bool {
        self.is_there(&server.process) && self.served.servers().contains_key(&server.number)
    }

    fn is_there(&self, process: &Arc<Peer>) -> bool {
        self.process.peer().is_some_and(|peer| Arc::ptr_eq(&peer, process))
    }

    /// Ends a server. Nothing of its volume is open then, unless that doesn't answer: a process that doesn't let go of it
    /// in time is killed, with all servers that it has. The others are begun again.
    pub async fn stop(&self, server: FtpHandle) {
        let FtpHandle { number, process } = server;
        self.served.servers().remove(&number);
        if self.is_there(&process) {
            match self.process.call(FtpRequest::Stop { server: number }).await {
                Ok(true) => return,
                Ok(false) => tracing::error!(
                    "FTP doesn't let go of a volume; its process is killed, and serves again by itself"
                ),
                Err(error) => {
                    tracing::error!(%error, "the process that serves FTP is killed, and serves again by itself");
                }
            }
        }
        // Where it is gone already that is soon known.
        process.kill();
        if !process.gone(GONE_LIMIT).await {
            tracing::error!(
                "the process that serves FTP was killed and isn't gone: it waits for a volume"
            );
        }
    }
}

impl Served {
    fn servers(&self) -> MutexGuard<'_, BTreeMap<u64, (VolumeName, Attachment)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, what: FtpQuestion) -> FtpAnswer {
        if let FtpQuestion::MayServe { server } = what {
            return FtpAnswer::May(self.may_serve(server).await);
        }
        let read = move || match what {
            FtpQuestion::Certificate => FtpAnswer::Certificate(self.certificate()),
            _ => {
                let users = self.files.users().map(Secret);
                FtpAnswer::Users(users.map_err(|error| error.to_string()))
            }
        };
        let answer = tokio::task::spawn_blocking(read).await;
        answer.unwrap_or_else(|error| FtpAnswer::Users(Err(error.to_string())))
    }

    /// The volume may be served as long as the engine that it was attached to says that this attachment
    /// is alive and the pool's lease runs. An engine that can't be asked, or another one, can't vouch
    /// for it.
    async fn may_serve(&self, server: u64) -> bool {
        let Some((volume, attachment)) = self.servers().get(&server).cloned() else { return false };
        let asked = self.engine.call::<bool>(EngineRequest::Lease { volume, attachment });
        let answer = tokio::time::timeout(LEASE_LIMIT, asked).await;
        matches!(answer, Ok(Ok(true)))
    }

    /// What the files hold now: a certificate that was renewed is used for the next who asks. Blocks.
    fn certificate(&self) -> Result<(Secret, Secret), String> {
        let contents = self.files.key_contents().map_err(|error| error.to_string())?;
        let contents = contents.ok_or("there is none")?;
        let text = |bytes| String::from_utf8(bytes).map(Secret).map_err(|_| "it is no text");
        Ok((text(contents.certificate)?, text(contents.key)?))
    }
}

/// Answers what the process asks, as long as there are servers to begin.
async fn answer_all(
    process: Client<FtpRequest>,
    mut news: broadcast::Receiver<News<FtpNews>>,
    served: Weak<Served>,
) {
    let places = Arc::new(Semaphore::new(ANSWERS_MAX));
    loop {
        let said = match news.recv().await {
            Ok(News::Event(said)) => said,
            // Who asked waits for no longer than he may, and hears no answer.
            Ok(News::Lost(_)) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let Some(served) = served.upgrade() else { return };
        match said {
            FtpNews::Ended { server } => drop(served.servers().remove(&server)),
            FtpNews::Asked { question, what } => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let process = process.clone();
                tokio::spawn(async move {
                    let answer = served.answer(what).await;
                    // It may be gone by now, or another one be there, which asked nothing by this number.
                    let _ = process.call::<Value>(FtpRequest::Answer { question, answer }).await;
                    drop(place);
                });
            }
        }
    }
}

/// Ends a process that hangs, as long as there are servers to begin: clients alone would notice, and wait.
async fn end_if_it_hangs(process: Client<FtpRequest>, served: Weak<Served>) {
    let (mut looked_at, mut silent) = (None, 0);
    while served.strong_count() > 0 {
        tokio::time::sleep(LOOK_PAUSE).await;
        let Some(peer) = process.peer() else { continue };
        if looked_at.as_ref().is_none_or(|former| !Arc::ptr_eq(former, &peer)) {
            (looked_at, silent) = (Some(Arc::clone(&peer)), 0);
        }
        let answered = process.call::<Value>(FtpRequest::Process).await.is_ok();
        silent = if answered { 0 } else { silent + 1 };
        if silent >= SILENT_LOOKS_MAX {
            tracing::error!(
                "the process that serves FTP doesn't answer; it is killed, and serves again by itself"
            );
            peer.kill();
        }
    }
}

/// Those that the configuration names.
pub(super) fn files_of(config: &FtpConfig) -> Files {
    Files::new(config.users_file.clone(), keys_of(config))
}

fn error_of(error: FtpError) -> ApiError {
    let code = match &error {
        FtpError::NotMounted { .. } => ErrorCode::NotFound,
        FtpError::Users(_) | FtpError::Tls(_) => ErrorCode::Invalid,
        FtpError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            ErrorCode::Busy
        }
        FtpError::Listen { .. } | FtpError::Filesystem(_) | FtpError::Copy { .. } => ErrorCode::Io,
    };
    let told = ApiError::new(code, format!("FTP: {error}"));
    match error {
        FtpError::Users(_) => told.remedy("correct the users-file of the configuration's [ftp]"),
        FtpError::Tls(_) => told.remedy("correct certificate and key of the configuration's [ftp]"),
        FtpError::Listen { .. } => told.remedy("choose another address with --listen"),
        _ => told,
    }
}
