//! Unix sockets on which programs of this machine ask in JSON lines: the engine's control channel, and
//! the control sockets of targets.
//!
//! Each connection has a thread of its own, so that no reactor waits for who asks slowly, nonsense, or
//! doesn't read answers. Bounded are the connections, the length of a line, the descriptors that come
//! with it, the lines on their way out, and, where a server says so, the time that a connection may be
//! silent.

use std::collections::VecDeque;
use std::io::{self, BufWriter, IoSliceMut, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvError, RecvTimeoutError, SyncSender, TrySendError, sync_channel,
};
use std::time::Duration;

use anyhow::Context;
use control::channel::{LineReader, to_line};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The process locks its memory, stacks included.
const STACK_BYTES: usize = 256 << 10;
/// Bytes read or written at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Descriptors that may come with one read.
const DESCRIPTORS_AT_ONCE: usize = 8;

/// What a server lets those who connect do.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Of its threads.
    pub name: &'static str,
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// The longest line; a longer one ends its connection.
    pub line_bytes_max: usize,
    /// Descriptors that may wait to be asked for; more end the connection.
    pub descriptors_max: usize,
    /// How long a connection may be silent, and its answers not be read; for ever without it.
    pub timeout: Option<Duration>,
}

impl Rules {
    /// Runs `work` on a thread of its own.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(self.name.into());
        thread.stack_size(STACK_BYTES).spawn(work).map(drop)
    }
}

/// Listens on `socket`, which is made anew and is root's, and serves each connection on a thread of its
/// own. A connection ends when `serve` returns.
pub fn listen(
    socket: &Path,
    rules: Rules,
    serve: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = bind(socket)?;
    let (serve, places) = (Arc::new(serve), Arc::new(()));
    let accept = move |stream| {
        let place = Arc::new(Arc::clone(&places));
        if Arc::strong_count(&places) > rules.connections_max + 1 {
            tracing::warn!(server = rules.name, "too many connections; one is refused");
            return Ok(());
        }
        let mut connection = Connection::new(stream, rules, place)?;
        let serve = Arc::clone(&serve);
        rules.spawn(move || match serve(&mut connection) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(server = rules.name, %error, "a connection is cut off");
            }
            Err(error) => tracing::debug!(server = rules.name, %error, "a connection broke"),
        })
    };
    rules.spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(&accept) {
                tracing::warn!(server = rules.name, %error, "a connection failed");
                // Out of descriptors or memory: not in a tight loop.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    Ok(())
}

/// Listens on `socket`, which is made anew and is root's.
pub fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    remove_stale(socket)?;
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("{} can't be listened on", socket.display()))?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600))
        .with_context(|| format!("{} can't be made private", socket.display()))?;
    Ok(listener)
}

/// A socket that a dead predecessor left. Anything else at that path is not ours to remove.
fn remove_stale(socket: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(socket)
            .with_context(|| format!("{} can't be removed", socket.display())),
        Ok(_) => anyhow::bail!("{} exists and is not a socket", socket.display()),
        Err(_) => Ok(()),
    }
}

/// One who asks. The connection is shut down when this is dropped.
pub struct Connection {
    stream: UnixStream,
    lines: LineReader,
    chunk: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    rules: Rules,
    place: Place,
}

/// A connection counts as one as long as somebody has this.
pub type Place = Arc<Arc<()>>;

impl Connection {
    /// Over `stream`, by these rules.
    pub fn new(stream: UnixStream, rules: Rules, place: Place) -> io::Result<Connection> {
        stream.set_read_timeout(rules.timeout)?;
        stream.set_write_timeout(rules.timeout)?;
        Ok(Connection {
            stream,
            lines: LineReader::new(rules.line_bytes_max),
            chunk: vec![0; CHUNK_BYTES],
            descriptors: VecDeque::new(),
            rules,
            place,
        })
    }

    /// Who is connected, by the kernel's word.
    pub fn uid(&self) -> Option<u32> {
        rustix::net::sockopt::socket_peercred(&self.stream).ok().map(|peer| peer.uid.as_raw())
    }

    /// What is asked next, or that it isn't understood; `None` when the other end has said all.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<serde_json::Result<T>>> {
        loop {
            if let Some(line) = self.lines.next_line().map_err(invalid)? {
                return Ok(Some(serde_json::from_slice(&line)));
            }
            let received = receive_with_descriptors(&self.stream, &mut self.chunk)?;
            if received.bytes == 0 {
                return Ok(None);
            }
            self.lines.push(&self.chunk[..received.bytes]);
            self.descriptors.extend(received.descriptors);
            if self.descriptors.len() > self.rules.descriptors_max {
                return Err(invalid("descriptors that nobody asked for"));
            }
        }
    }

    /// The next descriptor. They come in the order of the lines that they belong to.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Sends an answer, and waits until it is on its way.
    pub fn send(&self, answer: &impl Serialize) -> io::Result<()> {
        (&self.stream).write_all(&to_line(answer))
    }

    /// Sends many, few calls for all of them.
    pub fn send_all(&self, answers: impl Iterator<Item: Serialize>) -> io::Result<()> {
        let mut writer = BufWriter::with_capacity(CHUNK_BYTES, &self.stream);
        for answer in answers {
            writer.write_all(&to_line(&answer))?;
        }
        writer.flush()
    }

    /// Has what is put into the queue sent by a thread of its own, until all of its ends are dropped or
    /// the other end goes.
    pub fn send_from<T: Serialize + Send + 'static>(&self, queue: Queue<T>) -> io::Result<()> {
        let stream = self.stream.try_clone()?;
        self.rules.spawn(move || {
            while let Ok(line) = queue.next() {
                if (&stream).write_all(&to_line(&line)).is_err() {
                    // It may have closed already.
                    let _ = stream.shutdown(Shutdown::Both);
                    return;
                }
            }
        })
    }

    /// The socket, and what has the connection counted.
    pub fn parts(&self) -> io::Result<(UnixStream, Place)> {
        Ok((self.stream.try_clone()?, Arc::clone(&self.place)))
    }

    /// Whether the other end is still there. What it says is of no interest any more.
    pub fn is_open(&self) -> bool {
        let mut bytes = [0; 64];
        match rustix::net::recv(&self.stream, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok(_) | Err(rustix::io::Errno::AGAIN) => true,
            Err(_) => false,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The way to a connection's thread. News that find no room are lost, which is counted and told before
/// the next; they never take the room of answers, of which none may be lost.
pub struct Outgoing<T> {
    queue: SyncSender<(T, Kind)>,
    news_waiting: Arc<AtomicUsize>,
    news_max: usize,
    lost: AtomicU64,
    tell_lost: fn(u64) -> T,
}

/// The end of an [`Outgoing`].
pub struct Queue<T> {
    lines: Receiver<(T, Kind)>,
    news_waiting: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    News,
}

impl<T> Outgoing<T> {
    /// A way on which so many answers and so much news may wait, and its end. `tell_lost` says how much
    /// was lost.
    pub fn new(
        answers_max: usize,
        news_max: usize,
        tell_lost: fn(u64) -> T,
    ) -> (Outgoing<T>, Queue<T>) {
        let (queue, lines) = sync_channel(answers_max + news_max);
        let news_waiting = Arc::<AtomicUsize>::default();
        let end = Queue { lines, news_waiting: Arc::clone(&news_waiting) };
        (Outgoing { queue, news_waiting, news_max, lost: AtomicU64::new(0), tell_lost }, end)
    }

    /// Sends an answer; false when there is no room, or nobody.
    pub fn send(&self, answer: T) -> bool {
        self.queue.try_send((answer, Kind::Answer)).is_ok()
    }

    /// Sends what may be lost; false when nobody is there any more.
    pub fn tell(&self, news: T) -> bool {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let told = match lost {
            0 => Ok(()),
            lost => self.try_tell((self.tell_lost)(lost)).inspect_err(|_| self.note_lost(lost)),
        };
        match told.and_then(|()| self.try_tell(news)) {
            Ok(()) => true,
            Err(TrySendError::Full(())) => {
                self.note_lost(1);
                true
            }
            Err(TrySendError::Disconnected(())) => false,
        }
    }

    /// Sends what is of no interest any more when there is no room.
    pub fn try_tell(&self, news: T) -> Result<(), TrySendError<()>> {
        let has_room = self.news_waiting.fetch_add(1, Ordering::Relaxed) < self.news_max;
        let sent = match has_room {
            true => self.queue.try_send((news, Kind::News)).map_err(|error| match error {
                TrySendError::Full(_) => TrySendError::Full(()),
                TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
            }),
            false => Err(TrySendError::Full(())),
        };
        sent.inspect_err(|_| _ = self.news_waiting.fetch_sub(1, Ordering::Relaxed))
    }

    /// Counts what was lost on its way here.
    pub fn note_lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }
}

impl<T> Queue<T> {
    /// What is to be sent next; an error when nothing can come any more.
    pub fn next(&self) -> Result<T, RecvError> {
        self.lines.recv().map(|line| self.taken(line))
    }

    /// What is to be sent next, if it comes in time.
    pub fn next_within(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.lines.recv_timeout(timeout).map(|line| self.taken(line))
    }

    /// What waits to be sent.
    pub fn waiting(&self) -> impl Iterator<Item = T> {
        self.lines.try_iter().map(|line| self.taken(line))
    }

    fn taken(&self, (line, kind): (T, Kind)) -> T {
        if kind == Kind::News {
            self.news_waiting.fetch_sub(1, Ordering::Relaxed);
        }
        line
    }
}

impl<T> Drop for Queue<T> {
    /// Makes room, so that who tells learns that nobody is there.
    fn drop(&mut self) {
        self.waiting().for_each(drop);
    }
}

/// What the other end sent isn't what it may send.
pub fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
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
        [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))];
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
mod tests;
