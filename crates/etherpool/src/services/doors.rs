//! What the doors by TCP have in common, the API by TLS and the page: a thread of their own, so that whatever is done to
//! them costs the socket nothing; addresses that are listened at as soon as they are there; and requests that are heard as
//! a whole, within limits, before they are answered where those of the socket are.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse, Response};
use control::api::{ApiError, ErrorCode};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::access::Peer;
use super::api::Refusal;
use super::commands::REQUEST_BYTES_MAX;

pub const HEAD_BYTES_MAX: usize = 32 << 10;
/// For the rest of a request.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// How often an address that can't be listened at is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The thread of a door; it ends when this is dropped.
pub struct DoorThread {
    _running: oneshot::Sender<()>,
}

impl DoorThread {
    /// Runs `open` on it, and what that spawns.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        open: impl FnOnce() -> F + Send + 'static,
    ) -> std::io::Result<DoorThread> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()?;
        let (running, stopped) = oneshot::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                open().await;
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        })?;
        Ok(DoorThread { _running: running })
    }
}

/// Has those accepted who knock at an address, for good. `say` is told why they can't be, or that they can.
pub async fn listen<F: Future<Output = ()>>(
    address: SocketAddr,
    say: impl Fn(Option<String>),
    accept: impl Fn(TcpListener) -> F,
) {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                say(None);
                accept(listener).await;
            }
            Err(error) => say(Some(format!("it can't be listened on: {error}"))),
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// By HTTP/1.1; a request's head, also the next one of a connection, takes no longer than `head_limit`.
pub fn http(head_limit: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_limit).max_buf_size(HEAD_BYTES_MAX);
    http
}

/// The answer of `main` to somebody's request, once that is here as a whole. `place` is among those of its connection.
pub async fn answer(
    router: &TowerToHyperService<Router>,
    main: &Handle,
    peer: Peer,
    place: impl Send + 'static,
    request: Request<Incoming>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), REQUEST_BYTES_MAX);
    let Ok(Ok(body)) = tokio::time::timeout(BODY_LIMIT, body).await else {
        let why = "the request is too long, or wasn't said in time";
        return Refusal::from(ApiError::new(ErrorCode::Invalid, why)).into_response();
    };
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(ConnectInfo(peer));
    let answered = router.call(request);
    // It is answered to its end, also when the connection isn't there any more: who goes away and comes again has no
    // more under way than he may have connections.
    let answered = async move {
        let response = answered.await;
        drop(place);
        response
    };
    match main.spawn(answered).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(error) => {
            let error = ApiError::new(ErrorCode::Unavailable, error.to_string());
            Refusal::from(error).into_response()
        }
    }
}
