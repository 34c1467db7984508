//! Metrics for Prometheus: a page by HTTP, and nothing else. It has a thread of its own, so that who
//! asks slowly, much or nonsense costs the target nothing but the collecting of its counters; and it
//! serves few at once, each with a limit of time and bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use control::node::{NodeReply, NodeRequest};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use super::AdminServer;

/// Who may ask at once; others are turned away.
const ASKERS_MAX: usize = 4;
/// Prometheus sends less than 1 KiB. Who sends more is refused, and may see a reset instead of an answer.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// For sending the question and taking the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The process locks its memory, stacks included.
const STACK_BYTES: usize = 512 * 1024;
/// What the text format is called.
pub const PAGE_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page, where the configuration says.
pub struct Metrics {
    admin: AdminServer,
    server: Option<(SocketAddr, MetricsServer)>,
}

impl Metrics {
    /// Not served yet. What is on the page is asked at `admin`.
    pub fn new(admin: AdminServer) -> Metrics {
        Metrics { admin, server: None }
    }

    /// Serves at another address, or not any more. Exports don't depend on it: what doesn't work is
    /// logged.
    pub fn follow(&mut self, wanted: Option<SocketAddr>) {
        if self.server.as_ref().map(|(address, _)| *address) == wanted {
            return;
        }
        self.server = None;
        let Some(address) = wanted else { return };
        let admin = self.admin.clone();
        match MetricsServer::start(address, move || page(&admin)) {
            Ok(server) => {
                tracing::info!("metrics at http://{}/metrics", server.address());
                self.server = Some((address, server));
            }
            Err(error) => tracing::error!("no metrics: {error:#}"),
        }
    }
}

fn page(admin: &AdminServer) -> Option<String> {
    let NodeReply::Stats(report) = admin.ask(NodeRequest::Stats { exports: Vec::new() }, None)
    else {
        return None;
    };
    let NodeReply::Status(status) = admin.ask(NodeRequest::Status, None) else { return None };
    Some(control::node::metrics(&report, &status))
}

/// The page's server; it ends when this is dropped.
pub struct MetricsServer {
    address: SocketAddr,
    /// Its end is the thread's sign to stop.
    _running: oneshot::Sender<()>,
}

impl MetricsServer {
    /// Serves what `page` makes; `None` from it is told as "not now".
    pub fn start(
        address: SocketAddr,
        page: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> anyhow::Result<MetricsServer> {
        // What is on the page is waited for, up to a minute where a target hangs: not by who takes turns.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(ASKERS_MAX)
            .thread_stack_size(STACK_BYTES)
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .with_context(|| format!("cannot listen at {address} for metrics"))?;
        let bound = listener.local_addr()?;
        let (running, stopped) = oneshot::channel();
        std::thread::Builder::new().name("metrics".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(listener, page) => {}
                    }
                });
                runtime.shutdown_background();
            },
        )?;
        Ok(MetricsServer { address: bound, _running: running })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: TcpListener, page: impl Fn() -> Option<String> + Send + Sync + 'static) {
    let (page, room) = (Arc::new(page), Arc::new(Semaphore::new(ASKERS_MAX)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Somebody who went away, or no descriptors left: no reason to turn in circles.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            let serve = service_fn(|request| answer(request, Arc::clone(&page)));
            let mut http = http1::Builder::new();
            http.keep_alive(false).max_buf_size(REQUEST_BYTES_MAX).title_case_headers(true);
            let served = http.serve_connection(TokioIo::new(stream), serve);
            if !matches!(tokio::time::timeout(TIMEOUT, served).await, Ok(Ok(()))) {
                tracing::debug!("metrics asked in vain");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    page: Arc<impl Fn() -> Option<String> + Send + Sync + 'static>,
) -> hyper::http::Result<Response<String>> {
    let status = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            match tokio::task::spawn_blocking(move || page()).await {
                Ok(Some(page)) => {
                    return Response::builder().header(CONTENT_TYPE, PAGE_TYPE).body(page);
                }
                Ok(None) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            }
        }
        (_, "/metrics") => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    let refusal = Response::builder().status(status);
    refusal.header(CONTENT_TYPE, "text/plain; charset=utf-8").body(format!("{status}\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask_once(address: SocketAddr, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Who asks again at once may be turned away because of those before: they have their answers, but
    /// their turns aren't quite over.
    fn ask(address: SocketAddr, request: &str) -> String {
        loop {
            match ask_once(address, request) {
                Ok(text) if !text.is_empty() => return text,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("{request}: {error}"),
            }
        }
    }

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn the_page_is_served_and_nothing_else() {
        let server = MetricsServer::start(local(), || Some("a 1\n".to_owned())).unwrap();
        let page = ask(server.address(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(page.contains("\r\nContent-Length: 4\r\n") && page.ends_with("\r\n\r\na 1\n"));
        let head = ask(server.address(), "HEAD /metrics HTTP/1.0\r\n\r\n");
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "y".repeat(REQUEST_BYTES_MAX));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metricsx HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "400"),
            ("nonsense\r\n\r\n", "400"),
            (&endless[..REQUEST_BYTES_MAX], "431"),
        ] {
            let answer = ask(server.address(), request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        let query = ask(server.address(), "GET /metrics?x=y HTTP/1.1\r\n\r\n");
        assert!(query.starts_with("HTTP/1.1 200"), "{query}");
    }

    #[test]
    fn a_page_that_hangs_keeps_neither_others_out_nor_the_port() {
        let (hang, wait) = std::sync::mpsc::channel::<()>();
        let (begun, hangs) = std::sync::mpsc::channel();
        let (wait, begun) = (std::sync::Mutex::new(wait), std::sync::Mutex::new(begun));
        let hanging = move || {
            begun.lock().unwrap().send(()).unwrap();
            wait.lock().unwrap().recv().ok().map(|()| String::new())
        };
        let server = MetricsServer::start(local(), hanging).unwrap();
        let address = server.address();
        let mut hung = TcpStream::connect(address).unwrap();
        hung.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        hangs.recv().unwrap();
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        drop(server);
        while TcpStream::connect(address).is_ok() {}
        drop(hang);
    }

    #[test]
    fn those_who_say_nothing_do_not_keep_others_out_for_ever() {
        let server = MetricsServer::start(local(), || Some(String::new())).unwrap();
        let silent: Vec<TcpStream> =
            (0..ASKERS_MAX).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
        // One more is turned away at once, and doesn't wait for those.
        let mut text = String::new();
        let mut more = TcpStream::connect(server.address()).unwrap();
        let _ = more.read_to_string(&mut text);
        assert_eq!(text, "");
        drop(silent);
        loop {
            let Ok(mut stream) = TcpStream::connect(server.address()) else { continue };
            let mut text = String::new();
            let sent = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
            if sent.is_ok() && stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                break;
            }
        }
    }

    #[test]
    fn a_target_that_does_not_answer_is_said_so_and_the_end_is_the_end() {
        let server = MetricsServer::start(local(), || None).unwrap();
        let address = server.address();
        assert!(ask(address, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        drop(server);
        // Its thread lets go of the port.
        while std::net::TcpListener::bind(address).is_err() {
            std::thread::yield_now();
        }
    }
}
