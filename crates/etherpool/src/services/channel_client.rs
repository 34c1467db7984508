//! The services' end of the control channel of another process, the engine or the one that serves FTP: many requests
//! in flight, connected anew whenever there is a new one.
//!
//! A request that was in flight when the process died fails at once, and one that isn't answered within
//! its limit then: whether it was done is for the asker to find out from the reports.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::api::{ApiError, ErrorCode, ProcessState};
use control::channel::{
    EngineRequest, LineReader, REQUESTS_IN_FLIGHT_MAX, ReplyLine, RequestLine, to_line,
};
use control::reconcile::EngineInstance;
use pool::{PoolEvent, Progress};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::peer::Peer;
use super::timeouts::{SILENCE, timeout_of, too_long, what};

/// Between attempts to reach a process that isn't there.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Events kept for a listener that is slow; then it is told that some were lost.
const EVENTS_KEPT: usize = 256;

/// Something that happened in the process, or to the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<E = PoolEvent> {
    /// The process' own word.
    Event(E),
    /// So many events were lost.
    Lost(u64),
}

/// What a process is asked.
pub trait Asked: Serialize + Send + Sync + 'static {
    /// What it tells unasked.
    type Event: DeserializeOwned + Clone + Send + 'static;
    /// The process, for people.
    const WHO: &'static str;
    /// Whether one that takes connections and doesn't answer may be killed: then its parent starts it again.
    const MAY_BE_KILLED: bool;

    /// To be answered with a [`ProcessState`].
    fn process() -> Self;
    /// That it isn't there, and what to do.
    fn away() -> ApiError;
    /// How long the answer may take.
    fn limit(&self) -> Duration;
    /// For people: what it was asked to do.
    fn what(&self) -> String;
}

impl Asked for EngineRequest {
    type Event = PoolEvent;
    const WHO: &'static str = "the engine";
    const MAY_BE_KILLED: bool = false;

    fn process() -> EngineRequest {
        EngineRequest::Process
    }

    fn away() -> ApiError {
        ApiError::engine_away()
    }

    fn limit(&self) -> Duration {
        timeout_of(self)
    }

    fn what(&self) -> String {
        what(self)
    }
}

/// The engine, as far as it can be reached.
pub type EngineClient = Client<EngineRequest>;

/// A process, as far as it can be reached.
pub struct Client<R: Asked> {
    shared: Arc<Shared<R>>,
}

// Not derived: that would want requests to be cloned.
impl<R: Asked> Clone for Client<R> {
    fn clone(&self) -> Client<R> {
        Client { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<R: Asked> {
    link: Mutex<Link>,
    process: watch::Sender<Option<ProcessState>>,
    news: broadcast::Sender<News<R::Event>>,
}

#[derive(Default)]
struct Link {
    outgoing: Option<mpsc::Sender<Outgoing>>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    /// Who is connected, by the kernel's word.
    peer: Option<Arc<Peer>>,
}

struct Outgoing {
    line: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

type Answer = Result<Result<Value, ApiError>, oneshot::error::RecvError>;

enum Heard {
    Progress(Progress),
    Answer(Answer),
}

struct Pending {
    done: oneshot::Sender<Result<Value, ApiError>>,
    progress: Option<mpsc::UnboundedSender<Progress>>,
}

impl Client<EngineRequest> {
    /// Which engine it is; none while there is none.
    pub fn instance(&self) -> Option<EngineInstance> {
        self.shared.process.borrow().as_ref().map(|process| EngineInstance(process.instance))
    }
}

impl<R: Asked> Client<R> {
    /// Keeps connecting to the process behind `socket`, as long as the client exists.
    pub fn start(socket: PathBuf) -> Client<R> {
        let shared = Arc::new(Shared {
            link: Mutex::default(),
            process: watch::Sender::new(None),
            news: broadcast::Sender::new(EVENTS_KEPT),
        });
        let client = Client { shared };
        tokio::spawn(client.clone().connect_for_ever(socket));
        client
    }

    /// The process, as it introduced itself; none while there is none.
    pub fn process(&self) -> watch::Receiver<Option<ProcessState>> {
        self.shared.process.subscribe()
    }

    /// Who is connected and has introduced itself, by the kernel's word.
    pub fn peer(&self) -> Option<Arc<Peer>> {
        let introduced = self.shared.process.borrow().is_some();
        self.shared.link().peer.clone().filter(|_| introduced)
    }

    /// What happens from now on.
    pub fn news(&self) -> broadcast::Receiver<News<R::Event>> {
        self.shared.news.subscribe()
    }

    /// Asks for something.
    pub async fn call<T: DeserializeOwned>(&self, request: R) -> Result<T, ApiError> {
        self.ask(request, Vec::new()).await
    }

    /// Asks for something that tells how far it is; the limit is for its silence.
    pub async fn call_with_progress<T: DeserializeOwned>(
        &self,
        request: R,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<T, ApiError> {
        let asked = request.what();
        let (sender, mut news) = mpsc::unbounded_channel();
        let mut answer = self.begin(request, Vec::new(), Some(sender))?;
        loop {
            let heard = tokio::time::timeout(SILENCE, async {
                tokio::select! {
                    biased;
                    Some(news) = news.recv() => Heard::Progress(news),
                    answer = &mut answer => Heard::Answer(answer),
                }
            });
            match heard.await {
                // Whoever asked may have gone.
                Ok(Heard::Progress(news)) => drop(progress.send(news)),
                Ok(Heard::Answer(answer)) => return decode::<R, T>(answer),
                Err(_) => return Err(too_long(R::WHO, &asked, SILENCE)),
            }
        }
    }

    /// Asks for something and hands descriptors along, two at most.
    pub async fn call_with_descriptors<T: DeserializeOwned>(
        &self,
        request: R,
        descriptors: Vec<OwnedFd>,
    ) -> Result<T, ApiError> {
        self.ask(request, descriptors).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: R,
        descriptors: Vec<OwnedFd>,
    ) -> Result<T, ApiError> {
        let (asked, limit) = (request.what(), request.limit());
        // Who gives up leaves the entry of the request behind: it counts as in flight until the process
        // has answered it or is gone, so that a silent process isn't asked without end.
        let answer = self.begin(request, descriptors, None)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => decode::<R, T>(answer),
            Err(_) => Err(too_long(R::WHO, &asked, limit)),
        }
    }

    fn begin(
        &self,
        request: R,
        descriptors: Vec<OwnedFd>,
        progress: Option<mpsc::UnboundedSender<Progress>>,
    ) -> Result<oneshot::Receiver<Result<Value, ApiError>>, ApiError> {
        let (done, answer) = oneshot::channel();
        let mut link = self.shared.link();
        let Some(outgoing) = link.outgoing.clone() else { return Err(R::away()) };
        let busy = || {
            ApiError::new(ErrorCode::Busy, format!("{} has too many requests in flight", R::WHO))
                .remedy("try again")
        };
        if link.pending.len() >= REQUESTS_IN_FLIGHT_MAX {
            return Err(busy());
        }
        let id = link.next_id;
        link.next_id += 1;
        let line = to_line(&RequestLine { id, request });
        outgoing.try_send(Outgoing { line, descriptors }).map_err(|_| busy())?;
        link.pending.insert(id, Pending { done, progress });
        Ok(answer)
    }

    async fn connect_for_ever(self, socket: PathBuf) {
        loop {
            match UnixStream::connect(&socket).await {
                Ok(stream) => {
                    let why = self.serve(stream).await;
                    self.disconnected();
                    tracing::warn!(why, "{} is gone", R::WHO);
                }
                Err(error) => tracing::trace!(%error, "{} isn't there yet", R::WHO),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Carries lines both ways until the connection ends; says why it did.
    async fn serve(&self, stream: UnixStream) -> String {
        let peer = Peer::of(&stream).map(Arc::new);
        let (reader, writer) = stream.into_split();
        let (sender, receiver) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        {
            let mut link = self.shared.link();
            (link.outgoing, link.peer) = (Some(sender), peer.as_ref().ok().cloned());
        }
        let greeting = async {
            match self.call::<ProcessState>(R::process()).await {
                Ok(process) => {
                    tracing::info!(pid = process.pid, "connected to {}", R::WHO);
                    self.shared.process.send_replace(Some(process));
                    std::future::pending().await
                }
                Err(error) => {
                    if let Some(peer) = peer.as_ref().ok().filter(|_| R::MAY_BE_KILLED) {
                        peer.kill();
                    }
                    error.to_string()
                }
            }
        };
        tokio::select! {
            why = self.receive(reader) => why,
            why = send_all(writer, receiver) => why,
            why = greeting => why,
        }
    }

    async fn receive(&self, mut reader: OwnedReadHalf) -> String {
        let mut lines = LineReader::default();
        let mut chunk = vec![0; 64 << 10];
        loop {
            match reader.read(&mut chunk).await {
                Ok(0) => return "it closed the connection".into(),
                Ok(count) => lines.push(&chunk[..count]),
                Err(error) => return error.to_string(),
            }
            loop {
                match lines.next_line() {
                    Ok(Some(line)) => match serde_json::from_slice(&line) {
                        Ok(reply) => self.handle(reply),
                        Err(error) => return format!("it speaks another language: {error}"),
                    },
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
        }
    }

    fn handle(&self, reply: ReplyLine<R::Event>) {
        match reply {
            ReplyLine::Progress { id, progress } => {
                if let Some(listener) =
                    self.shared.link().pending.get(&id).and_then(|pending| pending.progress.clone())
                {
                    // Whoever asked may have gone.
                    let _ = listener.send(progress);
                }
            }
            ReplyLine::Result { id, value } => self.finish(id, Ok(value)),
            ReplyLine::Error { id, error } => self.finish(id, Err(error)),
            ReplyLine::Event(event) => {
                // Without a listener there is nobody to tell.
                let _ = self.shared.news.send(News::Event(event));
            }
            ReplyLine::EventsLost(count) => {
                let _ = self.shared.news.send(News::Lost(count));
            }
        }
    }

    fn finish(&self, id: u64, result: Result<Value, ApiError>) {
        if let Some(pending) = self.shared.link().pending.remove(&id) {
            let _ = pending.done.send(result);
        }
    }

    fn disconnected(&self) {
        let mut link = self.shared.link();
        (link.outgoing, link.peer) = (None, None);
        let pending = std::mem::take(&mut link.pending);
        drop(link);
        self.shared.process.send_replace(None);
        for pending in pending.into_values() {
            let what = format!("{} ended in the middle of the operation", R::WHO);
            let _ = pending.done.send(Err(ApiError::new(ErrorCode::Unavailable, what)
                .remedy("see `etherpool status` for what was done, then try again")));
        }
    }
}

impl<R: Asked> Shared<R> {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode<R: Asked, T: DeserializeOwned>(answer: Answer) -> Result<T, ApiError> {
    let value = answer.unwrap_or_else(|_| Err(R::away()))?;
    serde_json::from_value(value).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("the answer of {} is not understood: {error}", R::WHO),
        )
        .remedy("restart the supervisor: its processes are of different versions")
    })
}

async fn send_all(writer: OwnedWriteHalf, mut receiver: mpsc::Receiver<Outgoing>) -> String {
    while let Some(Outgoing { line, mut descriptors }) = receiver.recv().await {
        let mut sent = 0;
        while sent < line.len() {
            match send_some(writer.as_ref(), &line[sent..], &descriptors).await {
                Ok(count) => {
                    sent += count;
                    // They went with the first byte; no copy of them may stay here.
                    descriptors.clear();
                }
                Err(error) => return error.to_string(),
            }
        }
    }
    "nobody asks any more".into()
}

async fn send_some(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
            if !descriptors.is_empty()
                && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors))
            {
                return Err(io::Error::other("no room for the descriptors"));
            }
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await
}

#[cfg(test)]
#[path = "channel_client_tests.rs"]
mod tests;
