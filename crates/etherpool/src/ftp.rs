//! `etherpool ftp`: serves volumes by FTP, and can do nothing else. Who breaks into it by a command has no file of this
//! machine in sight, is nobody, and uses those of the volumes that are served as he could by FTP.
//!
//! Services hand it the root of each volume and the socket to listen at, and answer what it has to know
//! ([`control::ftp`]); it lets go of a volume when they say so. It serves by their word alone: when they are gone it
//! ends, whatever it was at, and lets go of everything by that. Then both are started again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use control::api::{ApiError, ErrorCode, ProcessState};
use control::channel::{LINE_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, ReplyLine, RequestLine};
use control::config::{FtpConfig, TlsUse};
use control::ftp::{FtpAnswer, FtpNews, FtpQuestion, FtpRequest};
use frontend::ftp::{FtpServer, FtpTls, Outside};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tls::{KeyContents, KeyFiles};
use tokio::sync::oneshot;
use tokio_rustls::rustls::ServerConfig;

use crate::confinement::Process;
use crate::json_lines::{self, Connection, Outgoing, Rules, invalid};
use crate::supervisor::{check_parent, die_with_parent, load_config};

/// How long an answer is waited for; later is no. Services wait for the engine a second less.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Lines that wait for being sent: answers to all that services may ask at a time, and a question of each session.
const LINES_QUEUED_MAX: usize = 4096;
/// Between two looks whether a server still runs.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often it looks whether its supervisor is there.
const PARENT_EVERY: Duration = Duration::from_secs(1);
/// Threads for sessions; those that wait for a volume are others.
const WORKERS: usize = 2;
/// Of the connection to services.
const RULES: Rules = Rules {
    name: "channel",
    connections_max: 1,
    line_bytes_max: LINE_BYTES_MAX,
    descriptors_max: 8,
    timeout: None,
};

/// Arguments of the hidden `ftp`.
#[derive(Clone, Debug, Args)]
pub struct FtpArgs {
    /// The supervisor's configuration
    #[arg(long)]
    config: Option<PathBuf>,
}

/// The process.
pub fn run(args: FtpArgs) -> anyhow::Result<ExitCode> {
    die_with_parent()?;
    let config = load_config(args.config.as_deref())?;
    let listener = json_lines::bind(&config.ftp_socket())?;
    // Before the log has its thread: one that began earlier would have all files in sight.
    let warnings = crate::confinement::confine(Process::Ftp(&config));
    // A process that becomes another user outlives its parent, if it doesn't say so again.
    die_with_parent()?;
    crate::logging::start(&config.log.level);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("the event loop of FTP")?;
    let served = serve(&listener, config.ftp, runtime.handle());
    // Nobody is waited for: whatever a volume still holds up ends with the process.
    runtime.shutdown_background();
    served.context("the channel to services")?;
    tracing::info!("services are gone: FTP ends");
    Ok(ExitCode::SUCCESS)
}

/// Does what the first who connects asks for, until he is gone.
fn serve(
    listener: &UnixListener,
    config: FtpConfig,
    runtime: &tokio::runtime::Handle,
) -> io::Result<()> {
    // A supervisor without the right to send signals to other users has this process outlive it: it looks itself, as long
    // as there are no services whose end it would see.
    while !os::machine::wait_readable(listener.as_fd(), PARENT_EVERY)? {
        check_parent().map_err(io::Error::other)?;
    }
    let (stream, _) = listener.accept()?;
    let mut connection = Connection::new(stream, RULES, Arc::default())?;
    let (lines, queue) = Outgoing::new(LINES_QUEUED_MAX, 1, ReplyLine::EventsLost);
    connection.send_from(queue)?;
    let instance = os::random_u64()?.max(1);
    // What a predecessor asked may still be answered: by no number of this one.
    let first = os::random_u64()?;
    let servers = Arc::new(Servers {
        asker: Arc::new(Asker {
            lines,
            config,
            next: AtomicU64::new(first),
            asked: Mutex::default(),
        }),
        running: Mutex::default(),
    });
    while let Some(line) = connection.receive::<RequestLine<FtpRequest>>()? {
        let RequestLine { id, request } = line.map_err(invalid)?;
        let result = match request {
            FtpRequest::Process => Ok(state(instance)),
            FtpRequest::Serve { server } => {
                let descriptors = connection.take_descriptor().zip(connection.take_descriptor());
                let _inside = runtime.enter();
                servers.start(server, descriptors).map(|()| Value::Null)
            }
            FtpRequest::Stop { server } => {
                let servers = Arc::clone(&servers);
                runtime.spawn(async move {
                    let all = servers.stop(server).await;
                    servers.asker.say(ReplyLine::Result { id, value: all.into() });
                });
                continue;
            }
            FtpRequest::Answer { question, answer } => {
                servers.asker.take(question, answer);
                Ok(Value::Null)
            }
        };
        servers.asker.say(match result {
            Ok(value) => ReplyLine::Result { id, value },
            Err(error) => ReplyLine::Error { id, error },
        });
    }
    Ok(())
}

fn state(instance: u64) -> Value {
    let state = ProcessState {
        pid: std::process::id(),
        instance,
        log_lines_dropped: crate::logging::dropped_lines(),
        ..ProcessState::default()
    };
    serde_json::to_value(state).unwrap_or_default()
}

/// By which files those of a configuration show who they are, if they do.
pub fn keys_of(config: &FtpConfig) -> Option<KeyFiles> {
    let (certificate, key) = config.certificate.clone().zip(config.key.clone())?;
    Some(KeyFiles { certificate, key })
}

/// The servers that run.
struct Servers {
    asker: Arc<Asker>,
    running: Mutex<BTreeMap<u64, FtpServer>>,
}

impl Servers {
    /// Begins to serve a root, by a socket.
    fn start(
        self: &Arc<Self>,
        number: u64,
        descriptors: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<(), ApiError> {
        let failed = |why: String| ApiError::new(ErrorCode::Internal, format!("FTP: {why}"));
        let (root, listener) =
            descriptors.ok_or_else(|| failed("no volume came with the request".into()))?;
        let FtpConfig { passive_ports: ports, anonymous, certificate, tls, .. } =
            &self.asker.config;
        let config = frontend::ftp::FtpConfig {
            passive_ports: ports.first..=ports.last,
            anonymous: *anonymous,
            tls: certificate.as_ref().map(|_| match tls {
                Some(TlsUse::Offered) => FtpTls::Offered,
                Some(TlsUse::Required) | None => FtpTls::Required,
            }),
            ..frontend::ftp::FtpConfig::default()
        };
        let outside = OfServer { asker: Arc::clone(&self.asker), server: number };
        let started = FtpServer::start(config, Arc::new(outside), root, listener.into());
        let server = started.map_err(|error| failed(error.to_string()))?;
        self.running().insert(number, server);
        tokio::spawn(Arc::clone(self).watch(number));
        Ok(())
    }

    /// Tells of a server that ends by itself.
    async fn watch(self: Arc<Self>, number: u64) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            match self.running().get(&number).map(FtpServer::is_running) {
                Some(true) => {}
                Some(false) => break,
                // Somebody ended it.
                None => return,
            }
        }
        self.asker.say(ReplyLine::Event(FtpNews::Ended { server: number }));
    }

    /// Ends a server; whether all of its volume is let go.
    async fn stop(&self, number: u64) -> bool {
        let server = self.running().remove(&number);
        match server {
            Some(server) => server.stop().await,
            None => true,
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, FtpServer>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has services say what isn't known here.
struct Asker {
    lines: Outgoing<ReplyLine<FtpNews>>,
    config: FtpConfig,
    next: AtomicU64,
    asked: Mutex<BTreeMap<u64, oneshot::Sender<FtpAnswer>>>,
}

impl Asker {
    fn say(&self, line: ReplyLine<FtpNews>) {
        if !self.lines.send(line) {
            // They don't read: what they don't hear they wait for within limits, and end this process then.
            tracing::error!("services don't take what FTP tells them");
        }
    }

    /// The answer, if it comes in time.
    async fn ask(&self, what: FtpQuestion) -> Option<FtpAnswer> {
        let question = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let _asked = {
            let mut asked = self.asked();
            if asked.len() >= LINES_QUEUED_MAX - 2 * REQUESTS_IN_FLIGHT_MAX {
                return None;
            }
            asked.insert(question, answer);
            // Also where who asks is gone before.
            Forget { asker: self, question }
        };
        self.say(ReplyLine::Event(FtpNews::Asked { question, what }));
        tokio::time::timeout(ANSWER_LIMIT, answered).await.ok()?.ok()
    }

    fn take(&self, question: u64, answer: FtpAnswer) {
        if let Some(asked) = self.asked().remove(&question) {
            // It may be too late.
            let _ = asked.send(answer);
        }
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<FtpAnswer>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Forget<'a> {
    asker: &'a Asker,
    question: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.asker.asked().remove(&self.question);
    }
}

/// What one server asks for.
struct OfServer {
    asker: Arc<Asker>,
    server: u64,
}

fn unanswered() -> String {
    "services don't answer".to_owned()
}

impl Outside for OfServer {
    fn may_serve(&self) -> BoxFuture<'static, bool> {
        let (asker, server) = (Arc::clone(&self.asker), self.server);
        async move {
            let answer = asker.ask(FtpQuestion::MayServe { server }).await;
            matches!(answer, Some(FtpAnswer::May(true)))
        }
        .boxed()
    }

    fn users(&self) -> BoxFuture<'static, Result<String, String>> {
        let asker = Arc::clone(&self.asker);
        async move {
            match asker.ask(FtpQuestion::Users).await {
                Some(FtpAnswer::Users(users)) => users.map(|secret| secret.0),
                _ => Err(unanswered()),
            }
        }
        .boxed()
    }

    fn certificate(&self) -> BoxFuture<'static, Result<ServerConfig, String>> {
        let asker = Arc::clone(&self.asker);
        async move {
            let (certificate, key) = match asker.ask(FtpQuestion::Certificate).await {
                Some(FtpAnswer::Certificate(contents)) => contents?,
                _ => return Err(unanswered()),
            };
            let (certificate, key) = (certificate.0.into_bytes(), key.0.into_bytes());
            let contents = KeyContents { certificate, key };
            let files = keys_of(&asker.config).ok_or_else(unanswered)?;
            files.server_of(&contents).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json_lines::Queue;

    fn asker() -> (OfServer, Queue<ReplyLine<FtpNews>>) {
        let (lines, queue) = Outgoing::new(LINES_QUEUED_MAX, 1, ReplyLine::EventsLost);
        let config = FtpConfig::default();
        let asker = Asker { lines, config, next: AtomicU64::new(7), asked: Mutex::default() };
        (OfServer { asker: Arc::new(asker), server: 3 }, queue)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_wrong_or_missing_is_no() {
        let (server, queue) = asker();
        let asked = tokio::spawn(server.may_serve());
        tokio::task::yield_now().await;
        let what = FtpQuestion::MayServe { server: 3 };
        assert_eq!(queue.next(), Ok(ReplyLine::Event(FtpNews::Asked { question: 7, what })));
        server.asker.take(6, FtpAnswer::May(true));
        server.asker.take(7, FtpAnswer::May(true));
        assert!(asked.await.unwrap());
        let asked = tokio::spawn(server.may_serve());
        tokio::task::yield_now().await;
        server.asker.take(8, FtpAnswer::Users(Ok(control::ftp::Secret(String::new()))));
        assert!(!asked.await.unwrap());
        // Nobody answers: the clock runs.
        assert!(!server.may_serve().await);
        server.asker.take(9, FtpAnswer::May(true));
        assert!(server.users().await.is_err() && server.certificate().await.is_err());
        assert!(server.asker.asked().is_empty(), "and nothing stays behind");
        drop(queue);
        assert!(!server.may_serve().await);
    }
}
