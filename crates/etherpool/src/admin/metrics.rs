//! Metrics for Prometheus: a page by HTTP, and nothing else. It has threads of its own, so that who
//! asks slowly, much or nonsense costs the target nothing but the collecting of its counters; and it
//! serves few at once, each with a limit of time and bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use control::node::{NodeReply, NodeRequest};
use rustix::event::{PollFd, PollFlags, poll};

use super::AdminServer;

/// Who may ask at once; others are turned away.
const ASKERS_MAX: usize = 4;
/// Prometheus sends less than 1 KiB.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// For sending the question, and again for taking the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The process locks its memory, stacks included.
const STACK_BYTES: usize = 256 * 1024;
/// What the text format is called.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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
    let NodeReply::Stats(report) = admin.ask(NodeRequest::Stats { exports: Vec::new() }) else {
        return None;
    };
    let NodeReply::Status(status) = admin.ask(NodeRequest::Status) else { return None };
    Some(control::node::metrics(&report, &status))
}

/// The page's server; it ends when this is dropped.
pub struct MetricsServer {
    address: SocketAddr,
    /// Its end is the thread's sign to stop.
    _running: OwnedFd,
}

impl MetricsServer {
    /// Serves what `page` makes; `None` from it is told as "not now".
    pub fn start(
        address: SocketAddr,
        page: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> anyhow::Result<MetricsServer> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen at {address} for metrics"))?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let (stop, running) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || accept(&listener, &stop, &Arc::new(page)))?;
        Ok(MetricsServer { address: bound, _running: running })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn accept<P>(listener: &TcpListener, stop: &OwnedFd, page: &Arc<P>)
where
    P: Fn() -> Option<String> + Send + Sync + 'static,
{
    let askers = Arc::new(AtomicUsize::new(0));
    loop {
        let mut events =
            [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::empty())];
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return tracing::error!(%error, "metrics are not served any more"),
            Ok(_) if !events[1].revents().is_empty() => return,
            Ok(_) => {}
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Somebody who went away, or no descriptors left: no reason to turn in circles.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if askers.fetch_add(1, Ordering::SeqCst) >= ASKERS_MAX {
            askers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (counter, page) = (Arc::clone(&askers), Arc::clone(page));
        let asker = std::thread::Builder::new().name("metrics-asker".to_owned());
        let started = asker.stack_size(STACK_BYTES).spawn(move || {
            if let Err(error) = serve(&stream, &*page) {
                tracing::debug!(%error, "metrics asked in vain");
            }
            counter.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            askers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(stream: &TcpStream, page: &dyn Fn() -> Option<String>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let head = read_head(stream)?;
    let answer = match judge(&head) {
        Verdict::Page { with_body } => match page() {
            Some(text) => respond("200 OK", CONTENT_TYPE, &text, with_body),
            None => refuse("503 Service Unavailable"),
        },
        Verdict::Refuse(status) => refuse(status),
    };
    write_within(stream, answer.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // What is unread when the connection closes would make the kernel take the answer back.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if (&mut &*stream).read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// Writes within the limit of time, however little the other side takes at once.
fn write_within(mut stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    let end = Instant::now() + TIMEOUT;
    while !bytes.is_empty() {
        if Instant::now() >= end {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let written = stream.write(bytes)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// The request's head, or as much of it as may be sent.
fn read_head(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let end = Instant::now() + TIMEOUT;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !is_complete(&head) && head.len() < REQUEST_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            len => head.extend_from_slice(&part[..len]),
        }
    }
    Ok(head)
}

fn is_complete(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Page { with_body: bool },
    Refuse(&'static str),
}

fn judge(head: &[u8]) -> Verdict {
    if !is_complete(head) {
        return Verdict::Refuse("431 Request Header Fields Too Large");
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = str::from_utf8(line) else { return Verdict::Refuse("400 Bad Request") };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Verdict::Refuse("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") {
        return Verdict::Refuse("505 HTTP Version Not Supported");
    }
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/metrics") => Verdict::Page { with_body: true },
        ("HEAD", "/metrics") => Verdict::Page { with_body: false },
        (_, "/metrics") => Verdict::Refuse("405 Method Not Allowed"),
        _ => Verdict::Refuse("404 Not Found"),
    }
}

fn refuse(status: &str) -> String {
    respond(status, "text/plain; charset=utf-8", &format!("{status}\n"), true)
}

fn respond(status: &str, content_type: &str, body: &str, with_body: bool) -> String {
    let len = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask_once(address: SocketAddr, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Who asks again at once may be turned away because of those before: they have their answers, but
    /// their threads aren't quite gone.
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
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metricsx HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("nonsense\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            (&long, "431"),
        ] {
            let answer = ask(server.address(), request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        let query = ask(server.address(), "GET /metrics?x=y HTTP/1.1\r\n\r\n");
        assert!(query.starts_with("HTTP/1.1 200"), "{query}");
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
        while TcpListener::bind(address).is_err() {
            std::thread::yield_now();
        }
    }
}
