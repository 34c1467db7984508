//! The API by TLS, for clients whose certificates the configuration names.
//!
//! Strangers are judged on the door's own thread, and each of the rest is bounded: how many may knock at a time, of one
//! network and at all, how many connections a client has, and how long anybody may say nothing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::IntoResponse;
use control::api::{ApiConfig, ApiError, ErrorCode};
use control::config::SupervisorConfig;
use frontend::places::{Place, Places, STRANGERS_MAX, network_of};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tls::{KeyFiles, TlsError, keep_watch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::access::{ACCEPT_PAUSE, Peer};
use super::api::Refusal;
use super::certificate::Certificate;
use super::doors::{self, DoorThread, HEAD_BYTES_MAX, http};
use super::ftp;
use super::lasting::Lasting;
use super::refusals::{Refusals, line_of};

/// Who may knock at a time, whoever they are.
const STRANGERS_OF_ALL_MAX: usize = 64;
/// Connections of one client.
const OF_A_CLIENT_MAX: usize = 16;
/// For showing who one is; and for one answer to who is nobody here.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For what somebody still says who is refused.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);
/// For a request's head, also the next one of a connection.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// When it is said that the supervisor's own certificate is to be renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 86_400);
/// Certificates and authorities are replaced while we run: files are no older than this when somebody knocks.
const FILES_AGE_MAX: Duration = Duration::from_secs(10);

/// The files of a configuration that has TLS.
fn files(config: &ApiConfig) -> Option<(KeyFiles, &std::path::Path)> {
    let (certificate, key) = config.certificate.clone().zip(config.key.clone())?;
    Some((KeyFiles { certificate, key }, config.client_ca.as_deref()?))
}

/// What the files hold now, and what will be wrong with them soon; none without any. Blocks.
fn load(config: &ApiConfig) -> Result<Option<(ServerConfig, Option<String>)>, TlsError> {
    let Some((files, authorities)) = files(config) else { return Ok(None) };
    files.check_private()?;
    let loaded = files.server_for(authorities)?;
    let chain = files.chain()?;
    let own = chain.first().and_then(|own| Certificate::read(own));
    let left = own.map(|own| own.valid_for(SystemTime::now()));
    let file = files.certificate.display();
    let warning = left.filter(|left| *left < RENEW_BEFORE).map(|left| match left.is_zero() {
        true => format!("the certificate in {file} has expired: clients trust it no more"),
        false => {
            format!("the certificate in {file} expires within {} h", left.as_secs() / 3600 + 1)
        }
    });
    Ok(Some((loaded, warning)))
}

/// Refuses a configuration whose certificates and keys can't be used as they are now. Blocks.
pub fn check(config: &SupervisorConfig) -> Result<(), ApiError> {
    let unfit = |what: &str, error: TlsError| {
        ApiError::new(ErrorCode::Invalid, format!("{what} can't be served by TLS: {error}"))
    };
    let loaded = load(&config.api).map_err(|error| {
        unfit("the API", error)
            .remedy("correct certificate, key and client-ca of the configuration's [api]")
    })?;
    if let Some(warning) = loaded.and_then(|(_, warning)| warning) {
        eprintln!("warning: {warning}");
    }
    ftp::files_of(&config.ftp).check_keys().map_err(|error| {
        unfit("FTP", error).remedy("correct certificate and key of the configuration's [ftp]")
    })
}

/// Serves `router` where the configuration says, which may be nowhere, with `main` to answer requests, until the thread
/// is dropped.
pub fn serve(
    config: ApiConfig,
    router: Router,
    main: Handle,
    troubles: Arc<Lasting>,
) -> std::io::Result<Option<DoorThread>> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let door = Arc::new(Door::new(config, router, main, troubles));
    let open = async move || {
        // A configuration that can't be used is said before somebody knocks.
        door.config().await;
        let addresses: BTreeSet<SocketAddr> = door.config.listen.iter().copied().collect();
        for address in addresses {
            tokio::spawn(listen(Arc::clone(&door), address));
        }
    };
    DoorThread::start("api-tls", open).map(Some)
}

/// A place among those who haven't shown who they are: of their network's, and of all.
type Stranger = (Place<IpAddr>, OwnedSemaphorePermit);

/// What connections share.
struct Door {
    config: ApiConfig,
    router: TowerToHyperService<Router>,
    main: Handle,
    troubles: Arc<Lasting>,
    /// The files as they were read last, and when that was.
    read: tokio::sync::Mutex<(Option<Arc<ServerConfig>>, Option<Instant>)>,
    networks: Arc<Places<IpAddr>>,
    strangers: Arc<Semaphore>,
    clients: Arc<Places<String>>,
    refusals: Refusals,
}

async fn listen(door: Arc<Door>, address: SocketAddr) {
    let accept = |listener| {
        tracing::info!(%address, "the API is served by TLS");
        let door = Arc::clone(&door);
        async move { accept(&door, listener).await }
    };
    doors::listen(address, |trouble| door.say(&address.to_string(), trouble), accept).await;
}

async fn accept(door: &Arc<Door>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match door.admit(peer.ip()) {
                Some(stranger) => {
                    tokio::spawn(Arc::clone(door).serve(stream, peer, stranger));
                }
                None => door.tell(peer, "too many connections that haven't shown who they are"),
            },
            Err(error) => {
                door.refusals.tell(|_| tracing::warn!(%error, "the API by TLS accepts nobody"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    fn new(config: ApiConfig, router: Router, main: Handle, troubles: Arc<Lasting>) -> Door {
        Door {
            config,
            router: TowerToHyperService::new(router),
            main,
            troubles,
            read: tokio::sync::Mutex::default(),
            networks: Places::new(STRANGERS_MAX),
            strangers: Arc::new(Semaphore::new(STRANGERS_OF_ALL_MAX)),
            clients: Places::new(OF_A_CLIENT_MAX),
            refusals: Refusals::default(),
        }
    }

    fn say(&self, what: &str, trouble: Option<String>) {
        self.troubles.set(what, trouble.map(|why| format!("the API by TLS: {what}: {why}")));
    }

    fn tell(&self, peer: SocketAddr, why: &str) {
        self.refusals.tell(|untold| {
            tracing::warn!(%peer, why = line_of(why), untold, "refused: the API by TLS");
        });
    }

    fn admit(&self, peer: IpAddr) -> Option<Stranger> {
        let network = self.networks.admit(network_of(peer))?;
        Some((network, Arc::clone(&self.strangers).try_acquire_owned().ok()?))
    }

    /// What the files say; what they said, where they can't be used any more.
    async fn config(&self) -> Option<Arc<ServerConfig>> {
        let mut read = self.read.lock().await;
        let (config, looked) = &mut *read;
        if looked.is_none_or(|looked| looked.elapsed() >= FILES_AGE_MAX) {
            // Before: files that hang aren't read again by each who knocks meanwhile.
            *looked = Some(Instant::now());
            let files = self.config.clone();
            let loaded = tokio::task::spawn_blocking(move || load(&files)).await;
            let trouble = match loaded {
                Ok(Ok(Some((loaded, warning)))) => {
                    *config = Some(Arc::new(loaded));
                    warning
                }
                Ok(Ok(None)) => Some("none are named".to_owned()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            self.say("its files", trouble);
        }
        config.clone()
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, stranger: Stranger) {
        let shown = tokio::time::timeout(HANDSHAKE_LIMIT, self.handshake(stream)).await;
        let (stream, certificate) = match shown {
            Ok(Ok(shown)) => shown,
            Ok(Err(why)) => return self.tell(peer, &why),
            Err(_) => return self.tell(peer, "it hasn't shown who it is in time"),
        };
        let Some(client) = self.config.client(&certificate.names) else {
            let why = format!("no client of supervisor.toml is called {:?}", certificate.names);
            self.tell(peer, &why);
            let error = ApiError::new(
                ErrorCode::Refused,
                "the name of this certificate is no client's here",
            );
            let remedy =
                "name it in [[api.clients]] of supervisor.toml, and restart the supervisor";
            return turn_away(stream, error.remedy(remedy), stranger).await;
        };
        let Some(place) = self.clients.admit(client.name.clone()) else {
            let why = format!("{} has {OF_A_CLIENT_MAX} connections already", client.name);
            self.tell(peer, &why);
            let error = ApiError::new(ErrorCode::Busy, why).remedy("end one of them (`events --follow` has one for as long as it runs), then try again");
            return turn_away(stream, error, stranger).await;
        };
        drop(stranger);
        let address = peer.ip().to_canonical();
        let client = Peer::Client { name: client.name.clone(), role: client.role, address };
        let place = Arc::new(place);
        let service = service_fn(async |request| {
            let place = Arc::clone(&place);
            let (router, main) = (&self.router, &self.main);
            Ok::<_, Infallible>(doors::answer(router, main, client.clone(), place, request).await)
        });
        let served = http(HEAD_LIMIT).serve_connection(TokioIo::new(stream), service);
        // What a certificate says counts until it expires, also for who has connected before.
        let left = certificate.valid_for(SystemTime::now());
        if let Ok(Err(error)) = tokio::time::timeout(left, served).await {
            tracing::debug!(%peer, %error, "a connection of the API broke");
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Certificate), String> {
        keep_watch(&stream).map_err(|error| error.to_string())?;
        let config = self.config().await.ok_or("there is no certificate to show")?;
        let stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                hear_out(stream).await;
                return Err(error.to_string());
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown.and_then(|shown| Certificate::read(shown));
        Ok((stream, certificate.ok_or("its certificate can't be read")?))
    }
}

/// Answers one request by why it isn't, to somebody who stays a stranger.
async fn turn_away(stream: TlsStream<TcpStream>, error: ApiError, _stranger: Stranger) {
    let answer = |request: Request<Incoming>| {
        let refusal = Refusal::from(error.clone()).into_response();
        async move {
            // Whose request is cut off may lose the answer with it.
            let _ = to_bytes(Body::new(request.into_body()), HEAD_BYTES_MAX).await;
            Ok::<_, Infallible>(refusal)
        }
    };
    let mut http = http(HEAD_LIMIT);
    http.keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), service_fn(answer));
    let _ = tokio::time::timeout(HANDSHAKE_LIMIT, served).await;
}

/// Ends a connection whose other end goes on speaking, and is to hear before why it isn't listened to: what was left unread
/// would have the kernel take that back.
async fn hear_out(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let mut rest = stream.take(HEAD_BYTES_MAX as u64);
    let mut ignored = tokio::io::sink();
    let _ = tokio::time::timeout(LAST_WORDS_LIMIT, tokio::io::copy(&mut rest, &mut ignored)).await;
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
