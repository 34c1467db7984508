//! What machines fetch by HTTP: their script, images, programs; and where nodes say hello. Nobody proves who he is, so all
//! is bounded: connections, of one machine and at all, what they say, and how long.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aoe_wire::MacAddr;
use boot::node::{Answer, HELLO_BYTES_MAX, HELLO_PATH, Hello, State};
use boot::tftp::Name;
use control::boot::{Assignment, KeptIdentity, Machine, NoIdentity, slots_signer};
use frontend::places::{Places, network_of};
use futures::stream::{Stream, try_unfold};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Sleep;
use uuid::Uuid;

use super::files::Served;
use super::guests::{Guests, Taken};
use super::hellos::{Heard, Standing};
use super::kept::now_seconds;
use super::known::{Decided, Who};
use super::serve::Shared;
use super::told;

/// Hellos that are read at a time.
const HELLOS_MAX: usize = 64;
/// Those of one machine: else it would keep all others from saying theirs, by beginning some.
const HELLOS_OF_A_MACHINE_MAX: usize = 2;
/// For a request's head, also the next one of a connection.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 << 10;
/// For a hello.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long somebody may take nothing of what is sent to him.
const STILL_LIMIT: Duration = Duration::from_secs(30);
/// What of a file is in memory for one connection.
const CHUNK_BYTES: u64 = 64 << 10;
/// After a failure to accept (no descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = UnsyncBoxBody<Bytes, io::Error>;

struct Http {
    shared: Arc<Shared>,
    hellos: Semaphore,
    greeting: Arc<Places<IpAddr>>,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let http = Arc::new(Http {
        shared,
        hellos: Semaphore::new(HELLOS_MAX),
        greeting: Places::new(HELLOS_OF_A_MACHINE_MAX),
    });
    let guests = Arc::<Guests>::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                http.shared.troubles.tell(|untold| {
                    tracing::warn!(%error, untold, "HTTP accepts nobody");
                });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(guest) = guests.admit(network_of(peer.ip())) else {
            http.shared.troubles.tell(|untold| {
                tracing::warn!(%peer, untold, "refused: too many connections by HTTP");
            });
            continue;
        };
        let http = Arc::clone(&http);
        tokio::spawn(async move {
            tokio::select! {
                () = http.connection(stream, peer, guest.taken()) => {}
                () = guest.displaced() => http.shared.troubles.tell(|untold| {
                    tracing::warn!(%peer, untold, "a slow connection by HTTP has to make room");
                }),
            }
        });
    }
}

impl Http {
    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, taken: Taken) {
        let service = service_fn(move |request| {
            let http = Arc::clone(self);
            async move { Ok::<_, Infallible>(http.answer(peer, request).await) }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        server.max_buf_size(HEAD_BYTES_MAX);
        let stream = TokioIo::new(Hurried { stream, still: None, taken });
        if let Err(error) = server.serve_connection(stream, service).await {
            tracing::debug!(%peer, %error, "HTTP");
        }
    }

    async fn answer(
        self: Arc<Self>,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = Query::of(request.uri().query().unwrap_or_default());
        if path == HELLO_PATH {
            return match *request.method() {
                Method::POST => self.hello(peer, request).await,
                _ => not_allowed("POST"),
            };
        }
        let is_head = match *request.method() {
            Method::GET => false,
            Method::HEAD => true,
            _ => return not_allowed("GET, HEAD"),
        };
        // Files are looked up where that may take its time.
        let answered = tokio::task::spawn_blocking(move || match path.as_str() {
            "/boot.ipxe" => self.script(&query),
            path => self.file(path, &query, is_head),
        });
        let mut response = answered
            .await
            .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "it failed"));
        if is_head {
            *response.body_mut() = empty();
        }
        response
    }

    fn script(&self, query: &Query) -> Response<Body> {
        let place = &self.shared.place;
        if query.mac.is_none() && query.uuid.is_none() {
            return text("text/plain", told::asking_script(place));
        }
        let assignment = match self.shared.known.now().decided(query.uuid, query.mac) {
            Decided::Boots(assignment) => assignment,
            Decided::Unknown => return plain(StatusCode::NOT_FOUND, "nothing is assigned to it"),
            Decided::Unreadable => return unclear(),
        };
        let build = match &assignment {
            Assignment::Node { image, .. } => self.shared.files.build_of(image),
            _ => None,
        };
        match told::boots(place, &assignment, query.mac, build.as_deref()) {
            Ok(Some(boots)) => {
                self.note(query, &format!("has the script ({assignment})"));
                let source = told::source(place, query.mac, query.uuid);
                text("text/plain", boot::script::script(&boots, &source))
            }
            // He would go on with what he was told before: a volume is another machine's by now, perhaps.
            Ok(None) if query.is_again => text("text/plain", boot::script::NOTHING.to_owned()),
            Ok(None) => plain(StatusCode::NOT_FOUND, "nothing is assigned to it"),
            Err(error) => {
                tracing::error!(%error, "a script can't be made of {assignment}");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "no script can be made of it")
            }
        }
    }

    fn file(&self, path: &str, query: &Query, is_head: bool) -> Response<Body> {
        let Some(path) = decoded(path) else {
            return plain(StatusCode::BAD_REQUEST, "no path");
        };
        let Ok(name) = Name::parse(&path) else {
            return plain(StatusCode::NOT_FOUND, "there is no such file");
        };
        // Not by a bare name, as TFTP has it.
        let opened = match name.components().nth(1) {
            Some(_) => self.shared.files.open(&name),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let Ok(served) = opened else {
            return plain(StatusCode::NOT_FOUND, "there is no such file");
        };
        if !is_head {
            let file = name.as_str().strip_prefix("images/").unwrap_or(name.as_str());
            self.note(query, &format!("fetches {file}"));
        }
        let len = served.len;
        let body = StreamBody::new(chunks(served)).boxed_unsync();
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, len.into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response
    }

    async fn hello(&self, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let busy = || plain(StatusCode::SERVICE_UNAVAILABLE, "too many say hello");
        let Some(_own) = self.greeting.admit(network_of(peer.ip())) else { return busy() };
        let Ok(_place) = self.hellos.try_acquire() else { return busy() };
        let body = Limited::new(request.into_body(), HELLO_BYTES_MAX).collect();
        let body = match tokio::time::timeout(BODY_LIMIT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long for a hello"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "it took too long"),
        };
        let hello = match Hello::parse(&body) {
            Ok(hello) => hello,
            Err(error) => {
                self.shared.troubles.tell(|untold| {
                    tracing::warn!(%peer, %error, untold, "refused: a hello");
                });
                return plain(StatusCode::BAD_REQUEST, &error.to_string());
            }
        };
        let shared = Arc::clone(&self.shared);
        let answered = tokio::task::spawn_blocking(move || answer_hello(&shared, peer, hello));
        let answer = match answered.await {
            Ok(Ok(Some(answer))) => answer,
            // Not that it is nobody: it would forget who it is.
            Ok(Ok(None)) => return unclear(),
            Ok(Err(no_identity)) => {
                return plain(StatusCode::BAD_REQUEST, &no_identity.to_string());
            }
            Err(_) => return plain(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
        };
        match serde_json::to_string(&answer) {
            Ok(answer) => text("application/json", answer),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
        }
    }

    fn note(&self, query: &Query, how_far: &str) {
        if let Some(mac) = query.mac {
            self.shared.sightings.change().got(mac, how_far);
        }
    }
}

/// What is said of a node's disks whose slots aren't kept: of an image of before nodes signed them; and of who has another
/// key than the accepted one, as a stranger has.
const NOT_SIGNED: &str =
    "slots of its disks aren't kept, as it didn't sign them: build its image anew";
const SIGNED_BY_ANOTHER: &str = "slots of its disks aren't kept, as another key signed them";

/// None where it isn't clear who it is. Blocks.
fn answer_hello(
    shared: &Shared,
    peer: SocketAddr,
    mut hello: Hello,
) -> Result<Option<Answer>, NoIdentity> {
    if let Some(Err(error)) = hello.identity.as_ref().map(KeptIdentity::shown) {
        shared.troubles.tell(|untold| {
            tracing::warn!(%peer, %error, untold, "refused: a hello");
        });
        return Err(error);
    }
    let table = shared.known.now();
    let (machine, is_stranger) = match table.who(hello.uuid, &hello.macs) {
        Who::Known(machine) => (Some(machine), false),
        // Of one that has no key nothing is to be had.
        Who::Stranger(machine) => (None, machine.identity.is_some()),
        Who::Nobody => (None, false),
        Who::Unclear => return Ok(None),
    };
    let kept = told::kept_of(machine);
    let standing = match &kept {
        _ if is_stranger => Standing::Stranger,
        Some(kept) => {
            let has_addresses = machine.is_some_and(|machine| !machine.macs.is_empty());
            Standing::Accepted { kept, has_addresses }
        }
        None => Standing::Unknown,
    };
    let signer = slots_signer(&hello);
    let has_signed =
        |of: &Machine| signer.is_some() && signer == of.identity.as_ref().map(KeptIdentity::public);
    let has_news = |of: &Machine| shared.slots.look().lacks(of, &hello.slots);
    let learns = machine.filter(|of| of.identity.is_some() && has_news(of)).map(has_signed);
    if let (Some(false), Some(machine)) = (learns, machine) {
        let why = if signer.is_none() { NOT_SIGNED } else { SIGNED_BY_ANOTHER };
        shared.troubles.tell(|untold| {
            tracing::warn!(%peer, node = machine.called(), untold, "a hello: {why}");
        });
        let message = hello.message.take().unwrap_or_default();
        hello.message = Some(format!("{message}; {why}").trim_start_matches("; ").to_owned());
    }
    let (macs, phase) = (hello.macs.clone(), hello.phase);
    let message = hello.message.as_deref().map(|message| format!(": {message}"));
    let hands_key = told::hands_key(&hello);
    let said = hello.slots.clone();
    let heard = shared.hellos.change().hear(hello, standing, now_seconds());
    let Heard { is_remembered, is_stranger } = heard;
    let how_far = format!("node: {phase}{}", message.unwrap_or_default());
    let mut sightings = shared.sightings.change();
    macs.iter().for_each(|mac| sightings.got(*mac, &how_far));
    drop(sightings);
    let machine = machine.filter(|_| !is_stranger);
    let mut answer = told::answer(machine, is_remembered, hands_key);
    if let (State::Accepted, Some(machine)) = (answer.state, machine) {
        if learns == Some(true) {
            shared.slots.change().learn(machine, &said, table.machines());
        }
        answer.slots = shared.slots.look().of(machine);
    }
    if let (Some(identity), Some(machine)) = (&answer.identity, machine) {
        // Each time: whoever has it without being that machine leaves no other trace.
        let (node, key) = (machine.called(), &identity.public);
        tracing::info!(%peer, node, key, "a node is handed its key");
    }
    Ok(Some(answer))
}

fn unclear() -> Response<Body> {
    plain(StatusCode::SERVICE_UNAVAILABLE, "what is known of it can't be read")
}

/// Who asks, as far as the request says it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    mac: Option<MacAddr>,
    uuid: Option<Uuid>,
    /// He has had his script, and what it says doesn't work.
    is_again: bool,
}

impl Query {
    fn of(text: &str) -> Query {
        let mut query = Query::default();
        for (name, value) in text.split('&').filter_map(|part| part.split_once('=')) {
            let value = decoded(value).and_then(|value| String::from_utf8(value).ok());
            match name {
                "mac" => query.mac = value.and_then(|mac| mac.parse().ok()),
                boot::script::AGAIN => query.is_again = true,
                "uuid" => query.uuid = value.and_then(|uuid| uuid.parse().ok()),
                _ => {}
            }
        }
        query.uuid = query.uuid.filter(|uuid| !uuid.is_nil() && !uuid.is_max());
        query
    }
}

/// Without percent signs (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(decoded)
}

fn chunks(served: Served) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    let Served { file, len } = served;
    let file = Arc::new(file);
    try_unfold(0_u64, move |at| {
        let file = Arc::clone(&file);
        async move {
            let size = CHUNK_BYTES.min(len.saturating_sub(at));
            if size == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; usize::try_from(size).unwrap_or_default()];
                file.read_exact_at(&mut chunk, at).map(|()| chunk)
            });
            let chunk = read.await.map_err(io::Error::other)??;
            Ok(Some((Frame::data(Bytes::from(chunk)), at + size)))
        }
    })
}

fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn text(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = text("text/plain", format!("{words}\n"));
    *response.status_mut() = status;
    response
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "not so");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A connection whose other end has to take something of what is sent to it, now and then.
struct Hurried {
    stream: TcpStream,
    still: Option<Pin<Box<Sleep>>>,
    taken: Taken,
}

impl Hurried {
    fn hurry(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(wrote) = wrote {
            self.still = None;
            self.taken.add(wrote.as_ref().copied().unwrap_or_default());
            return Poll::Ready(wrote);
        }
        let still = self.still.get_or_insert_with(|| Box::pin(tokio::time::sleep(STILL_LIMIT)));
        ready!(still.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Hurried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Hurried {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.hurry(context, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.hurry(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_asks_is_read_however_it_is_written() {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 7]));
        let uuid = Some(Uuid::from_u128(7));
        for (text, expected) in [
            ("", Query::default()),
            ("mac=02:00:00:00:00:07", Query { mac, ..Query::default() }),
            ("mac=02:00:00:00:00:07&again=1", Query { mac, is_again: true, ..Query::default() }),
            (
                "x=1&mac=02%3a00%3A00:00:00:07&uuid=00000000-0000-0000-0000-000000000007",
                Query { mac, uuid, is_again: false },
            ),
            ("mac=&uuid=00000000-0000-0000-0000-000000000000", Query::default()),
            ("mac=%0", Query::default()),
            ("mac&uuid", Query::default()),
        ] {
            assert_eq!(Query::of(text), expected, "{text}");
        }
        assert_eq!(decoded("/a%20b").unwrap(), b"/a b");
        assert_eq!(decoded("%zz"), None);
    }
}
