//! The engine's end of the control channel.
//!
//! Requests reach the reactor through a bounded mailbox, answers leave through a bounded queue, and a
//! peer that doesn't read its answers is cut off.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use control::api::{ApiError, ErrorCode};
use control::channel::{
    EngineRequest, LINE_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, ReplyLine, RequestLine,
};
use os::reactor::{MailSender, Mailbox, mailbox};
use pool::Progress;

use crate::json_lines::{self, Connection, Outgoing, Place, Rules, invalid};

/// Connections at a time: services, and a look from outside now and then.
const CONNECTIONS_MAX: usize = 8;
/// Answers that wait for being sent on one connection.
const ANSWERS_QUEUED_MAX: usize = 1024;
/// Events, and words of progress, that do.
const NEWS_QUEUED_MAX: usize = 1024;
/// Descriptors that may wait for their line.
const DESCRIPTORS_MAX: usize = 8;

/// A request, and where its answer goes.
pub struct Incoming {
    /// The request.
    pub line: RequestLine,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
    /// Whom to answer.
    pub peer: Arc<Peer>,
}

/// One who asks.
pub struct Peer {
    stream: UnixStream,
    answers: Outgoing<ReplyLine>,
    in_flight: AtomicUsize,
    /// Requests of a connection that is over count as that connection until they are answered.
    _place: Place,
}

impl Peer {
    /// The last word on a request.
    pub fn finish(&self, reply: ReplyLine) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.answers.send(reply) {
            // It may have closed already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// How far a request is. A slow peer isn't told.
    pub fn tell_progress(&self, id: u64, progress: Progress) {
        let _ = self.answers.try_tell(ReplyLine::Progress { id, progress });
    }
}

/// Those connected to the channel.
#[derive(Clone, Default)]
pub struct Channel {
    peers: Arc<Mutex<Vec<Weak<Peer>>>>,
}

impl Channel {
    /// Listens on `socket`, which is made anew.
    pub fn listen(socket: &Path) -> anyhow::Result<(Channel, Mailbox<Incoming>)> {
        let (requests, receiver) = mailbox(CONNECTIONS_MAX * REQUESTS_IN_FLIGHT_MAX);
        let channel = Channel::default();
        let accepting = channel.clone();
        let rules = Rules {
            name: "channel",
            connections_max: CONNECTIONS_MAX,
            line_bytes_max: LINE_BYTES_MAX,
            descriptors_max: DESCRIPTORS_MAX,
            timeout: None,
        };
        json_lines::listen(socket, rules, move |connection| {
            let peer = accepting.admit(connection)?;
            while let Some(line) = connection.receive()? {
                hand_on(line.map_err(invalid)?, connection, &peer, &requests);
            }
            Ok(())
        })?;
        Ok((channel, receiver))
    }

    /// Tells all who are connected of an event.
    pub fn tell_all(&self, event: &ReplyLine) {
        for peer in self.peers().iter().filter_map(Weak::upgrade) {
            peer.answers.tell(event.clone());
        }
    }

    fn admit(&self, connection: &Connection) -> io::Result<Arc<Peer>> {
        let (answers, queue) =
            Outgoing::new(ANSWERS_QUEUED_MAX, NEWS_QUEUED_MAX, ReplyLine::EventsLost);
        let (stream, place) = connection.parts()?;
        connection.send_from(queue)?;
        let peer = Peer { stream, answers, in_flight: AtomicUsize::new(0), _place: place };
        let peer = Arc::new(peer);
        let mut peers = self.peers();
        peers.retain(|peer| peer.strong_count() > 0);
        peers.push(Arc::downgrade(&peer));
        Ok(peer)
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Weak<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hand_on(
    line: RequestLine,
    connection: &mut Connection,
    peer: &Arc<Peer>,
    requests: &MailSender<Incoming>,
) {
    let id = line.id;
    let wanted = match line.request {
        EngineRequest::AttachVolume { controlled, .. } => 1 + usize::from(controlled),
        _ => 0,
    };
    let descriptors = (0..wanted).map_while(|_| connection.take_descriptor()).collect();
    let busy = peer.in_flight.fetch_add(1, Ordering::Relaxed) >= REQUESTS_IN_FLIGHT_MAX;
    let incoming = Incoming { line, descriptors, peer: Arc::clone(peer) };
    if busy || requests.send(incoming).is_err() {
        let error = ApiError::new(ErrorCode::Busy, "the engine has too many requests in flight");
        peer.finish(ReplyLine::Error { id, error: error.remedy("try again") });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::channel::to_line;
    use std::io::{BufRead, BufReader, Write};

    /// Runs the receiving end on a reactor and answers each request by its id.
    fn answer(mut mailbox: Mailbox<Incoming>, count: usize) -> Vec<(EngineRequest, bool)> {
        let (mut reactor, _handle) = os::Reactor::new().unwrap();
        reactor
            .run_until(async move {
                let mut seen = Vec::new();
                while seen.len() < count {
                    let Some(incoming) = mailbox.receive().await else { break };
                    let Incoming { line, descriptors, peer } = incoming;
                    seen.push((line.request, !descriptors.is_empty()));
                    peer.finish(ReplyLine::Result { id: line.id, value: line.id.into() });
                }
                seen
            })
            .unwrap()
    }

    #[test]
    fn requests_come_in_and_answers_go_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (channel, mailbox) = Channel::listen(&socket).unwrap();
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
        channel.tell_all(&ReplyLine::EventsLost(3));
        assert_eq!(lines.next().unwrap().unwrap(), "{\"events-lost\":3}");
    }

    /// However many events there are, and however slowly they are read.
    #[test]
    fn events_take_no_answer_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (channel, mailbox) = Channel::listen(&socket).unwrap();
        let mut stream = UnixStream::connect(&socket).unwrap();
        let ask = to_line(&RequestLine { id: 1, request: EngineRequest::Pools });
        stream.write_all(&ask).unwrap();
        let (mut reactor, _handle) = os::Reactor::new().unwrap();
        let (mut mailbox, peer) = reactor
            .run_until(async move {
                let mut mailbox = mailbox;
                let peer = mailbox.receive().await.unwrap().peer;
                (mailbox, peer)
            })
            .unwrap();
        // More than the socket takes.
        let long =
            ReplyLine::Error { id: 7, error: ApiError::new(ErrorCode::Busy, "x".repeat(9000)) };
        (0..3 * NEWS_QUEUED_MAX).for_each(|_| channel.tell_all(&long));
        peer.finish(ReplyLine::Result { id: 1, value: 1.into() });
        let is_answer = |line: io::Result<String>| line.unwrap().starts_with("{\"result\"");
        assert!(BufReader::new(stream).lines().any(is_answer));
        drop(mailbox.receive());
    }

    #[test]
    fn a_connection_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (_channel, mailbox) = Channel::listen(&socket).unwrap();
        let ask = to_line(&RequestLine { id: 1, request: EngineRequest::Pools });
        let mut connections: Vec<UnixStream> =
            (0..=CONNECTIONS_MAX).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let mut refused = connections.pop().unwrap();
        assert_eq!(std::io::Read::read(&mut refused, &mut [0]).unwrap(), 0);
        connections.iter_mut().for_each(|stream| stream.write_all(&ask).unwrap());
        assert_eq!(answer(mailbox, CONNECTIONS_MAX).len(), CONNECTIONS_MAX);
    }

    #[test]
    fn garbage_ends_the_connection_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("engine.sock");
        let (_channel, mailbox) = Channel::listen(&socket).unwrap();
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
}
