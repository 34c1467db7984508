//! The engine's end of the control channel.
//!
//! Sockets are read and written on threads of their own, so that the reactor never waits for
//! whoever asks: requests reach it through a bounded mailbox, answers leave through a bounded queue,
//! and a peer that doesn't read its answers is cut off.

use std::io::{self, IoSliceMut, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context;
use control::api::{ApiError, ErrorCode};
use control::channel::{LineReader, REQUESTS_IN_FLIGHT_MAX, ReplyLine, RequestLine, to_line};
use os::reactor::{MailSender, Mailbox, mailbox};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Connections at a time: services, and a look from outside now and then.
const CONNECTIONS_MAX: usize = 8;
/// Lines that wait for being sent on one connection.
const ANSWERS_QUEUED_MAX: usize = 1024;
/// Descriptors that may come with one read.
const DESCRIPTORS_MAX: usize = 8;
/// Stack of a connection's threads; the process locks its memory.
const STACK_BYTES: usize = 256 << 10;

/// A request, and where its answer goes.
pub struct Incoming {
    /// The request.
    pub line: RequestLine,
    /// The descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
    /// Whom to answer.
    pub peer: Arc<Peer>,
}

/// One who asks.
pub struct Peer {
    stream: UnixStream,
    answers: SyncSender<Vec<u8>>,
    in_flight: AtomicUsize,
    events_lost: AtomicBool,
}

impl Peer {
    /// The last word on a request.
    pub fn finish(&self, reply: &ReplyLine) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.answers.try_send(to_line(reply)).is_err() {
            self.cut_off();
        }
    }

    /// News that may be lost when the peer is slow: progress and events.
    pub fn tell(&self, reply: &ReplyLine) {
        if self.events_lost.load(Ordering::Relaxed) {
            match self.answers.try_send(to_line(&ReplyLine::EventsLost)) {
                Ok(()) => self.events_lost.store(false, Ordering::Relaxed),
                Err(_) => return,
            }
        }
        if let Err(TrySendError::Full(_)) = self.answers.try_send(to_line(reply))
            && matches!(reply, ReplyLine::Event(_))
        {
            self.events_lost.store(true, Ordering::Relaxed);
        }
    }

    fn cut_off(&self) {
        // It may have closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The listening socket and those connected to it.
#[derive(Clone)]
pub struct Channel {
    peers: Arc<Mutex<Vec<Weak<Peer>>>>,
}

impl Channel {
    /// Listens on `socket`, which is made anew. `on_thread_start` is called first on each thread.
    pub fn listen(
        socket: &Path,
        on_thread_start: fn(),
    ) -> anyhow::Result<(Channel, Mailbox<Incoming>)> {
        remove_stale(socket)?;
        let listener = UnixListener::bind(socket)
            .with_context(|| format!("{} can't be listened on", socket.display()))?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(socket, permissions)
            .with_context(|| format!("{} can't be made private", socket.display()))?;
        let (sender, receiver) = mailbox(CONNECTIONS_MAX * REQUESTS_IN_FLIGHT_MAX);
        let channel = Channel { peers: Arc::default() };
        let accepting = channel.clone();
        spawn("channel", move || {
            on_thread_start();
            for stream in listener.incoming() {
                match stream.and_then(|stream| accepting.serve(stream, &sender, on_thread_start)) {
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the control channel failed");
                        // Out of descriptors or memory: not in a tight loop.
                        std::thread::sleep(std::time::Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok((channel, receiver))
    }

    /// Tells all who are connected.
    pub fn tell_all(&self, reply: &ReplyLine) {
        let peers: Vec<Arc<Peer>> = {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|peer| peer.strong_count() > 0);
            peers.iter().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.tell(reply);
        }
    }

    fn serve(
        &self,
        stream: UnixStream,
        requests: &MailSender<Incoming>,
        on_thread_start: fn(),
    ) -> io::Result<()> {
        let (sender, receiver) = sync_channel(ANSWERS_QUEUED_MAX);
        let peer = Arc::new(Peer {
            stream: stream.try_clone()?,
            answers: sender,
            in_flight: AtomicUsize::new(0),
            events_lost: AtomicBool::new(false),
        });
        {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|peer| peer.strong_count() > 0);
            if peers.len() >= CONNECTIONS_MAX {
                tracing::warn!("too many connections to the control channel; one is refused");
                return Ok(());
            }
            peers.push(Arc::downgrade(&peer));
        }
        let writing = stream.try_clone()?;
        let requests = requests.clone();
        spawn("channel-write", move || {
            on_thread_start();
            write_answers(writing, receiver);
        })?;
        spawn("channel-read", move || {
            on_thread_start();
            read_requests(&stream, &peer, &requests);
            peer.cut_off();
        })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)?;
    Ok(())
}

/// A socket that a dead predecessor left. Anything else at that path is not ours to remove.
fn remove_stale(socket: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(socket)
            .with_context(|| format!("{} can't be removed", socket.display())),
        Ok(_) => anyhow::bail!("{} exists and is not a socket", socket.display()),
        Err(_) => Ok(()),
    }
}

fn write_answers(mut stream: UnixStream, answers: Receiver<Vec<u8>>) {
    for answer in answers {
        if stream.write_all(&answer).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_requests(stream: &UnixStream, peer: &Arc<Peer>, requests: &MailSender<Incoming>) {
    let mut lines = LineReader::default();
    let mut chunk = vec![0; 64 << 10];
    let mut descriptors = std::collections::VecDeque::new();
    loop {
        match receive_with_descriptors(stream, &mut chunk) {
            Ok(received) if received.bytes == 0 => return,
            Ok(received) => {
                lines.push(&chunk[..received.bytes]);
                descriptors.extend(received.descriptors);
            }
            Err(error) => {
                tracing::debug!(%error, "the control channel broke");
                return;
            }
        }
        if descriptors.len() > DESCRIPTORS_MAX {
            tracing::warn!("a peer of the control channel sends descriptors that nobody asked for");
            return;
        }
        loop {
            match lines.next_line() {
                Ok(Some(line)) => match serde_json::from_slice::<RequestLine>(&line) {
                    Ok(line) => hand_on(line, &mut descriptors, peer, requests),
                    Err(error) => {
                        tracing::warn!(%error, "a request on the control channel is not understood");
                        return;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a peer of the control channel is cut off");
                    return;
                }
            }
        }
    }
}

fn hand_on(
    line: RequestLine,
    descriptors: &mut std::collections::VecDeque<OwnedFd>,
    peer: &Arc<Peer>,
    requests: &MailSender<Incoming>,
) {
    use control::channel::EngineRequest;
    let id = line.id;
    // Descriptors come in the order of the lines that they belong to.
    let descriptor = match line.request {
        EngineRequest::AttachVolume { .. } => descriptors.pop_front(),
        _ => None,
    };
    let busy = peer.in_flight.fetch_add(1, Ordering::Relaxed) >= REQUESTS_IN_FLIGHT_MAX;
    let incoming = Incoming { line, descriptor, peer: Arc::clone(peer) };
    if busy || requests.send(incoming).is_err() {
        let error = ApiError::new(ErrorCode::Busy, "the engine has too many requests in flight");
        peer.finish(&ReplyLine::Error { id, error: error.remedy("try again") });
    }
}

/// What one read brought.
pub struct Received {
    /// Bytes in the buffer; zero at the end of the stream.
    pub bytes: usize,
    /// Descriptors that came with them, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Reads bytes and the descriptors that come with them.
pub fn receive_with_descriptors(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space =
        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    Ok(Received { bytes: message.bytes, descriptors })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::channel::EngineRequest;
    use std::io::{BufRead, BufReader};

    /// Runs the receiving end on a reactor and answers each request by its id.
    fn answer(mut mailbox: Mailbox<Incoming>, count: usize) -> Vec<(EngineRequest, bool)> {
        let (mut reactor, _handle) = os::Reactor::new().unwrap();
        reactor
            .run_until(async move {
                let mut seen = Vec::new();
                while seen.len() < count {
                    let Some(incoming) = mailbox.receive().await else { break };
                    let Incoming { line, descriptor, peer } = incoming;
                    seen.push((line.request, descriptor.is_some()));
                    peer.finish(&ReplyLine::Result { id: line.id, value: line.id.into() });
                }
                seen
            })
            .unwrap()
    }

    #[test]
    fn requests_come_in_and_answers_go_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (channel, mailbox) = Channel::listen(&socket, || {}).unwrap();
        let stream = UnixStream::connect(&socket).unwrap();
        let mut writer = stream.try_clone().unwrap();
        for (id, request) in [(4, EngineRequest::Pools), (9, EngineRequest::Disks)] {
            writer.write_all(&to_line(&RequestLine { id, request })).unwrap();
        }
        let seen = answer(mailbox, 2);
        assert_eq!(seen, [(EngineRequest::Pools, false), (EngineRequest::Disks, false)]);
        let mut lines = BufReader::new(stream).lines();
        for id in [4u64, 9] {
            let line = lines.next().unwrap().unwrap();
            let reply: ReplyLine = serde_json::from_str(&line).unwrap();
            assert_eq!(reply, ReplyLine::Result { id, value: id.into() });
        }
        channel.tell_all(&ReplyLine::EventsLost);
        assert_eq!(lines.next().unwrap().unwrap(), "\"events-lost\"");
    }

    #[test]
    fn garbage_ends_the_connection_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (_channel, mailbox) = Channel::listen(&socket, || {}).unwrap();
        let mut bad = UnixStream::connect(&socket).unwrap();
        bad.write_all(b"{\"id\":1,\"request\":{\"op\":\"format-everything\"}}\n").unwrap();
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut bad, &mut rest).unwrap();
        assert!(rest.is_empty());
        let mut good = UnixStream::connect(&socket).unwrap();
        let line = RequestLine { id: 1, request: EngineRequest::Pools };
        good.write_all(&to_line(&line)).unwrap();
        assert_eq!(answer(mailbox, 1).len(), 1);
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(Channel::listen(&path, || {}).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
