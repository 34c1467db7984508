//! The services' end of the engine's control channel: many requests in flight, connected anew
//! whenever there is a new engine.
//!
//! A request that was in flight when the engine died fails at once, and one that isn't answered within
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
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::timeouts::{SILENCE, timeout_of, too_long, what};

/// Between attempts to reach an engine that isn't there.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Events kept for a listener that is slow; then it is told that some were lost.
const EVENTS_KEPT: usize = 256;

/// Something that happened in the engine, or to the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The engine's own word.
    Event(PoolEvent),
    /// So many events were lost.
    Lost(u64),
}

/// The engine, as far as it can be reached.
#[derive(Clone)]
pub struct EngineClient {
    shared: Arc<Shared>,
}

struct Shared {
    link: Mutex<Link>,
    process: watch::Sender<Option<ProcessState>>,
    news: broadcast::Sender<News>,
}

#[derive(Default)]
struct Link {
    outgoing: Option<mpsc::Sender<Outgoing>>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
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

impl EngineClient {
    /// Keeps connecting to the engine behind `socket`, as long as the client exists.
    pub fn start(socket: PathBuf) -> EngineClient {
        let shared = Arc::new(Shared {
            link: Mutex::default(),
            process: watch::Sender::new(None),
            news: broadcast::Sender::new(EVENTS_KEPT),
        });
        let client = EngineClient { shared };
        tokio::spawn(client.clone().connect_for_ever(socket));
        client
    }

    /// The engine's process, as it introduced itself; none while there is none.
    pub fn process(&self) -> watch::Receiver<Option<ProcessState>> {
        self.shared.process.subscribe()
    }

    /// Which engine it is; none while there is none.
    pub fn instance(&self) -> Option<EngineInstance> {
        self.shared.process.borrow().as_ref().map(|process| EngineInstance(process.instance))
    }

    /// What happens from now on.
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.shared.news.subscribe()
    }

    /// Asks for something.
    pub async fn call<T: DeserializeOwned>(&self, request: EngineRequest) -> Result<T, ApiError> {
        self.ask(request, Vec::new()).await
    }

    /// Asks for something that tells how far it is; the limit is for its silence.
    pub async fn call_with_progress<T: DeserializeOwned>(
        &self,
        request: EngineRequest,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> Result<T, ApiError> {
        let asked = what(&request);
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
                Ok(Heard::Answer(answer)) => return decode(answer),
                Err(_) => return Err(too_long(&asked, SILENCE)),
            }
        }
    }

    /// Asks for something and hands descriptors along, two at most.
    pub async fn call_with_descriptors<T: DeserializeOwned>(
        &self,
        request: EngineRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<T, ApiError> {
        self.ask(request, descriptors).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: EngineRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<T, ApiError> {
        let (asked, limit) = (what(&request), timeout_of(&request));
        // Who gives up leaves the entry of the request behind: it counts as in flight until the engine
        // has answered it or is gone, so that a silent engine isn't asked without end.
        let answer = self.begin(request, descriptors, None)?;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => decode(answer),
            Err(_) => Err(too_long(&asked, limit)),
        }
    }

    fn begin(
        &self,
        request: EngineRequest,
        descriptors: Vec<OwnedFd>,
        progress: Option<mpsc::UnboundedSender<Progress>>,
    ) -> Result<oneshot::Receiver<Result<Value, ApiError>>, ApiError> {
        let (done, answer) = oneshot::channel();
        let mut link = self.shared.link();
        let Some(outgoing) = link.outgoing.clone() else { return Err(ApiError::engine_away()) };
        let busy = || {
            ApiError::new(ErrorCode::Busy, "the engine has too many requests in flight")
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
                    tracing::warn!(why, "the engine is gone");
                }
                Err(error) => tracing::trace!(%error, "no engine yet"),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Carries lines both ways until the connection ends; says why it did.
    async fn serve(&self, stream: UnixStream) -> String {
        let (reader, writer) = stream.into_split();
        let (sender, receiver) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
        self.shared.link().outgoing = Some(sender);
        let greeting = async {
            match self.call::<ProcessState>(EngineRequest::Process).await {
                Ok(process) => {
                    tracing::info!(pid = process.pid, "connected to the engine");
                    self.shared.process.send_replace(Some(process));
                    std::future::pending().await
                }
                Err(error) => error.to_string(),
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

    fn handle(&self, reply: ReplyLine) {
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
        link.outgoing = None;
        let pending = std::mem::take(&mut link.pending);
        drop(link);
        self.shared.process.send_replace(None);
        for pending in pending.into_values() {
            let _ = pending.done.send(Err(ApiError::new(
                ErrorCode::Unavailable,
                "the engine process ended in the middle of the operation",
            )
            .remedy("see `etherpool status` for what was done, then try again")));
        }
    }
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode<T: DeserializeOwned>(answer: Answer) -> Result<T, ApiError> {
    let value = answer.unwrap_or_else(|_| Err(ApiError::engine_away()))?;
    serde_json::from_value(value).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("the engine's answer is not understood: {error}"),
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    async fn read_request(stream: &mut UnixStream, lines: &mut LineReader) -> RequestLine {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = lines.next_line().unwrap() {
                return serde_json::from_slice(&line).unwrap();
            }
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(count > 0);
            lines.push(&chunk[..count]);
        }
    }

    async fn greet(stream: &mut UnixStream, lines: &mut LineReader, instance: u64) {
        let request = read_request(stream, lines).await;
        assert_eq!(request.request, EngineRequest::Process);
        let process = ProcessState { instance, ..ProcessState::default() };
        let value = serde_json::to_value(process).unwrap();
        stream.write_all(&to_line(&ReplyLine::Result { id: request.id, value })).await.unwrap();
    }

    #[tokio::test]
    async fn answers_find_their_requests_and_a_dead_engine_fails_them() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = EngineClient::start(socket);
        let mut process = client.process();

        let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
        greet(&mut engine, &mut lines, 7).await;
        process.wait_for(Option::is_some).await.unwrap();
        assert_eq!(client.instance(), Some(EngineInstance(7)));

        let one = tokio::spawn({
            let client = client.clone();
            async move { client.call::<u32>(EngineRequest::Pools).await }
        });
        let first = read_request(&mut engine, &mut lines).await;
        let two = tokio::spawn({
            let client = client.clone();
            async move { client.call::<u32>(EngineRequest::Disks).await }
        });
        let second = read_request(&mut engine, &mut lines).await;
        for (id, number) in [(second.id, 2), (first.id, 1)] {
            let reply = ReplyLine::Result { id, value: number.into() };
            engine.write_all(&to_line(&reply)).await.unwrap();
        }
        assert_eq!(one.await.unwrap(), Ok(1));
        assert_eq!(two.await.unwrap(), Ok(2));

        let lost = tokio::spawn({
            let client = client.clone();
            async move { client.call::<u32>(EngineRequest::Disks).await }
        });
        read_request(&mut engine, &mut lines).await;
        drop(engine);
        assert_eq!(lost.await.unwrap().unwrap_err().code, ErrorCode::Unavailable);

        let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
        greet(&mut engine, &mut lines, 8).await;
        let anew =
            |process: &Option<ProcessState>| process.as_ref().is_some_and(|p| p.instance == 8);
        process.wait_for(anew).await.unwrap();
    }

    /// Each waits as long as it may, and no longer; what comes afterwards harms nobody.
    #[tokio::test]
    async fn a_silent_engine_is_waited_for_within_limits() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = EngineClient::start(socket);
        let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
        greet(&mut engine, &mut lines, 7).await;
        client.process().wait_for(Option::is_some).await.unwrap();
        let ask = |request| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<u32>(request).await })
        };
        let asked = ask(EngineRequest::Pools);
        let unheard = read_request(&mut engine, &mut lines).await;
        let (told, mut progress) = mpsc::unbounded_channel();
        let volume = block::VolumeName::new("p", "v").unwrap();
        let verify = EngineRequest::VerifyVolume { volume, copy: None };
        let long = tokio::spawn({
            let client = client.clone();
            async move { client.call_with_progress::<u32>(verify, told).await }
        });
        let verify = read_request(&mut engine, &mut lines).await;

        tokio::time::pause();
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.message.contains("which pools there are"), "{error}");
        let news = Progress { done_bytes: 1, total_bytes: 2 };
        let line = to_line(&ReplyLine::Progress { id: verify.id, progress: news });
        tokio::time::resume();
        engine.write_all(&line).await.unwrap();
        assert_eq!(progress.recv().await, Some(news));
        tokio::time::pause();
        let error = long.await.unwrap().unwrap_err();
        assert!(error.message.contains("to verify volume p/v"), "{error}");
        tokio::time::resume();

        let asked = ask(EngineRequest::Disks);
        let heard = read_request(&mut engine, &mut lines).await;
        for id in [unheard.id, verify.id, heard.id] {
            let reply = ReplyLine::Result { id, value: 3.into() };
            engine.write_all(&to_line(&reply)).await.unwrap();
        }
        assert_eq!(asked.await.unwrap(), Ok(3));
    }

    #[tokio::test]
    async fn descriptors_travel_with_their_request() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = EngineClient::start(socket);
        let (mut engine, mut lines) = (listener.accept().await.unwrap().0, LineReader::default());
        greet(&mut engine, &mut lines, 1).await;
        client.process().wait_for(Option::is_some).await.unwrap();

        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs: OwnedFd = theirs.into_std().unwrap().into();
        let second = theirs.try_clone().unwrap();
        let volume = block::VolumeName::new("p", "v").unwrap();
        let asked = tokio::spawn({
            let client = client.clone();
            let request = EngineRequest::AttachVolume { volume, controlled: true };
            let both = vec![theirs, second];
            async move { client.call_with_descriptors::<()>(request, both).await }
        });
        let engine = engine.into_std().unwrap();
        engine.set_nonblocking(false).unwrap();
        // The client's own task must go on while this waits.
        let (engine, received) = tokio::task::spawn_blocking(move || {
            let received = crate::json_lines::receive_with_descriptors(&engine, &mut [0; 4096]);
            (engine, received.unwrap())
        })
        .await
        .unwrap();
        assert!(received.bytes > 0);
        assert_eq!(received.descriptors.len(), 2);
        drop(received);
        // There are no other copies: our end sees it.
        ours.readable().await.unwrap();
        assert_eq!(ours.try_read(&mut [0; 1]).unwrap(), 0);
        drop(engine);
        assert!(asked.await.unwrap().is_err());
    }
}
