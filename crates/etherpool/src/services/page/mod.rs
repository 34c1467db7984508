//! The live page: files that show in a browser what the API tells, and nothing by which anything is changed. By TLS it is
//! at the API's own addresses, for who has a certificate. At addresses of this machine's own it is served in clear, to
//! whoever has an account here or comes by a tunnel of SSH: there the door lets through what the page shows, and no more.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderName, Method};
use axum::response::{IntoResponse, Response};
use control::api::{ApiError, ErrorCode, Role};
use control::config::PageConfig;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tls::keep_watch;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::{ACCEPT_PAUSE, Peer};
use super::api::Refusal;
use super::described::{Path, Text, TextKind};
use super::doors::{self, DoorThread, http};
use super::lasting::Lasting;
use super::refusals::{Refusals, line_of};

/// Connections at a time. A browser has six at most, and one of those for as long as the page is looked at.
const CONNECTIONS_MAX: usize = 32;
/// For a request's head, also the next one of a connection: the page asks every two seconds.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// By which names it may be asked for in clear. Another one is somebody's who had a browser believe that it is here, so
/// that his own page there reads ours.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What a browser may do with it: run these files alone, and speak with who served them alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const SHIELD: [(HeaderName, &str); 4] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const INDEX: &str = include_str!("index.html");
/// Below `/page/`.
const FILES: [(&str, &str, &str); 11] = [
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("style.css", STYLE, include_str!("style.css")),
    ("page.js", JAVASCRIPT, include_str!("page.js")),
    ("words.js", JAVASCRIPT, include_str!("words.js")),
    ("model.js", JAVASCRIPT, include_str!("model.js")),
    ("tables.js", JAVASCRIPT, include_str!("tables.js")),
    ("picture.js", JAVASCRIPT, include_str!("picture.js")),
    ("rates.js", JAVASCRIPT, include_str!("rates.js")),
    ("events.js", JAVASCRIPT, include_str!("events.js")),
    ("uplot.js", JAVASCRIPT, include_str!("uplot/uplot.js")),
    ("uplot.css", STYLE, include_str!("uplot/uplot.css")),
];

/// `GET /`.
pub(super) async fn index() -> Text<Html> {
    Text::new(shown("text/html; charset=utf-8", INDEX))
}

/// `GET /page/FILE`.
pub(super) async fn file(Path(name): Path<String>) -> Result<Text<AnyFile>, Refusal> {
    match FILES.into_iter().find(|(file, _, _)| *file == name) {
        Some((_, kind, text)) => Ok(Text::new(shown(kind, text))),
        None => {
            let why = format!("the page has no file {}", line_of(&name));
            Err(ApiError::new(ErrorCode::NotFound, why).into())
        }
    }
}

/// The type of the page.
pub(super) struct Html;

impl TextKind for Html {
    const KIND: &str = "text/html";
}

/// The type of one of several.
pub(super) struct AnyFile;

impl TextKind for AnyFile {
    const KIND: &str = "*/*";
}

fn shown(kind: &'static str, text: &'static str) -> Response {
    let mut response = ([(CONTENT_TYPE, kind)], Body::from(text)).into_response();
    shield(response.headers_mut());
    response
}

fn shield(headers: &mut HeaderMap) {
    for (name, value) in SHIELD {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Of an older supervisor, or of a moment ago, it would be wrong.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Serves `router` in clear where the configuration says, which may be nowhere, with `main` to answer requests, until the
/// thread is dropped.
pub fn serve(
    config: &PageConfig,
    router: Router,
    main: Handle,
    troubles: Arc<Lasting>,
) -> std::io::Result<Option<DoorThread>> {
    let addresses = config.listen.clone();
    if addresses.is_empty() {
        return Ok(None);
    }
    let door = Arc::new(Door::new(router, main, troubles, HEAD_LIMIT));
    let open = async move || {
        for address in addresses {
            tokio::spawn(listen(Arc::clone(&door), address));
        }
    };
    DoorThread::start("page", open).map(Some)
}

/// What connections share.
struct Door {
    router: TowerToHyperService<Router>,
    main: Handle,
    troubles: Arc<Lasting>,
    places: Arc<Semaphore>,
    refusals: Refusals,
    head_limit: Duration,
}

async fn listen(door: Arc<Door>, address: SocketAddr) {
    let accept = |listener| {
        tracing::info!("the page is at http://{address}/");
        let door = Arc::clone(&door);
        async move { accept(&door, listener).await }
    };
    let what = format!("the page at {address}");
    let say = |trouble: Option<String>| {
        door.troubles.set(&what, trouble.map(|why| format!("{what}: {why}")));
    };
    doors::listen(address, say, accept).await;
}

async fn accept(door: &Arc<Door>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Arc::clone(&door.places).try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(Arc::clone(door).serve(stream, peer, Arc::new(place)));
                }
                Err(_) => door.tell(peer, "there are too many connections already"),
            },
            Err(error) => {
                door.refusals.tell(|_| tracing::warn!(%error, "the page accepts nobody"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    fn new(router: Router, main: Handle, troubles: Arc<Lasting>, head_limit: Duration) -> Door {
        Door {
            router: TowerToHyperService::new(router),
            main,
            troubles,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            refusals: Refusals::default(),
            head_limit,
        }
    }

    fn tell(&self, peer: SocketAddr, why: &str) {
        self.refusals.tell(|untold| {
            tracing::warn!(%peer, why = line_of(why), untold, "refused: the page");
        });
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        place: Arc<OwnedSemaphorePermit>,
    ) {
        let Ok(()) = keep_watch(&stream) else { return };
        let service = service_fn(async |request| {
            let response = self.answer(peer, Arc::clone(&place), request).await;
            Ok::<_, Infallible>(response)
        });
        let served = http(self.head_limit).serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%peer, %error, "a connection of the page broke");
        }
    }

    async fn answer(
        &self,
        peer: SocketAddr,
        place: Arc<OwnedSemaphorePermit>,
        request: Request<Incoming>,
    ) -> Response {
        let mut response = match may_ask(request.method(), request.headers()) {
            Ok(()) => {
                let address = peer.ip().to_canonical();
                let who = Peer::Client { name: "the page".to_owned(), role: Role::Read, address };
                doors::answer(&self.router, &self.main, who, place, request).await
            }
            Err(error) => {
                self.tell(peer, &error.message);
                Refusal::from(error).into_response()
            }
        };
        shield(response.headers_mut());
        response
    }
}

/// Refuses what isn't looking, and whoever calls this machine by a name that isn't its own.
fn may_ask(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::new(ErrorCode::Refused, "at the page's address nothing is changed")
            .remedy("use etherpool's commands, or the API by TLS"));
    }
    // Browsers say of a request that another site's page has made it: that page may read nothing of it, but it costs us.
    let says = |name: &str, what: &str| headers.get(name).is_some_and(|value| value == what);
    // A link that somebody follows is no such request.
    if says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate") {
        return Err(ApiError::new(ErrorCode::Refused, "another site's page asks for this")
            .remedy("open it as http://localhost:PORT/, on this machine or by ssh -L"));
    }
    let mut named = headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let is_ours = |host: &Authority| {
        let is_plain = !host.as_str().contains('@');
        is_plain && HOSTS.iter().any(|ours| host.host().eq_ignore_ascii_case(ours))
    };
    match host.is_some_and(|host| is_ours(&host)) {
        true => Ok(()),
        false => {
            let why = "the page is asked for by a name that isn't this machine's own";
            Err(ApiError::new(ErrorCode::Refused, why)
                .remedy("open it as http://localhost:PORT/, on this machine or by ssh -L"))
        }
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
