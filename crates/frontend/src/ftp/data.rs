//! Data connections: a port for one client, and the thread on which its data goes straight between
//! the connection and the file.
//!
//! The thread is the transfer's own: a client that stalls takes none from those who wait for the
//! runtime's. It looks around every [`TICK`], because nothing else ends a wait for a client without
//! telling the client that the file is complete.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::rustls::{ProtocolVersion, ServerConfig, ServerConnection};

use super::control::TLS_LIMIT;

/// How long a client may take to connect to the port that it was told.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// What is read or written at a time.
const PIECE_BYTES: usize = 1 << 20;
/// More than that isn't sent by one key of TLS 1.2, of which records are 16 KiB at most, and 2^24 are the end.
const TLS_BYTES_MAX: u64 = 1 << 37;
/// And by TLS: as much as it buffers.
const TLS_PIECE_BYTES: usize = 64 << 10;
/// How long a thread waits for a client before it looks whether it shall.
const TICK: Duration = Duration::from_millis(100);

/// A data connection that is being made, or was; at most one. Dropping it closes the port, at some
/// time.
#[derive(Default)]
pub(super) struct Passive(JoinSet<io::Result<tokio::net::TcpStream>>);

impl Passive {
    /// Listens at `local`, on any of the ports that is free, for a connection from `peer`.
    pub(super) async fn listen(
        &mut self,
        mut local: SocketAddr,
        ports: RangeInclusive<u16>,
        peer: IpAddr,
    ) -> io::Result<u16> {
        self.close().await;
        let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let count = (last + 1).saturating_sub(first).max(1);
        // Not to be guessed easily; each `RandomState` has keys of its own.
        let offset = RandomState::new().build_hasher().finish() as u32 % count;
        let candidates = (0..count).map(|step| first + (offset + step) % count);
        for port in candidates.filter_map(|port| u16::try_from(port).ok()) {
            local.set_port(port);
            if let Ok(listener) = listen(local) {
                self.0.spawn(accept(listener, peer));
                return Ok(port);
            }
        }
        tracing::warn!(?ports, "no free port for FTP data");
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Whether the client was told a port.
    pub(super) fn is_listening(&self) -> bool {
        !self.0.is_empty()
    }

    /// The connection; nothing if the client never came.
    pub(super) async fn connected(&mut self) -> Option<tokio::net::TcpStream> {
        self.0.join_next().await?.ok()?.ok()
    }

    /// Its port is free when this is done.
    pub(super) async fn close(&mut self) {
        self.0.shutdown().await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4)
}

/// At once, not when the transfer begins: strangers must not fill the queue of the port.
async fn accept(listener: TcpListener, peer: IpAddr) -> io::Result<tokio::net::TcpStream> {
    let accepted = tokio::time::timeout(CONNECT_LIMIT, async {
        loop {
            let (stream, address) = listener.accept().await?;
            if address.ip() == peer {
                return Ok(stream);
            }
            tracing::warn!(%peer, from = %address, "FTP data connection from a stranger refused");
        }
    });
    accepted.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A transfer that runs on its thread. Dropping it breaks the transfer off.
pub(super) struct Transfer {
    called_off: Arc<AtomicBool>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Transfer {
    /// Runs `work` with the connection, which is reset unless all went well, also where the process is killed: its end
    /// would tell the client that a file is complete. A client that moves nothing for `idle` is given up.
    pub(super) fn start(
        stream: tokio::net::TcpStream,
        tls: Option<Arc<ServerConfig>>,
        idle: Duration,
        work: impl FnOnce(&mut Flow) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Transfer> {
        let called_off = Arc::new(AtomicBool::new(false));
        // It stays non-blocking: a sendfile that waits does so for each part of its piece.
        let stream = stream.into_std()?;
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        let tls = tls.map(ServerConnection::new).transpose().map_err(io::Error::other)?;
        let mut flow = Flow {
            stream,
            tls: tls.map(Box::new),
            idle,
            called_off: Arc::clone(&called_off),
            bytes: 0,
            last_moved: Instant::now(),
        };
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("ftp-data".into()).spawn(move || {
            let result = flow.begin().and_then(|()| work(&mut flow));
            let result = result.and_then(|()| Ok(set_socket_linger(&flow.stream, None)?));
            drop(flow);
            // Whoever started it may be gone.
            let _ = end.send(result);
        })?;
        Ok(Transfer { called_off, ended })
    }

    /// Breaks the transfer off. It ends when what it is at with the volume is done.
    pub(super) fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.call_off();
    }
}

/// The connection, as a transfer's thread has it.
pub(super) struct Flow {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    idle: Duration,
    called_off: Arc<AtomicBool>,
    bytes: u64,
    last_moved: Instant,
}

impl Flow {
    /// Agrees on TLS, if that is wanted.
    fn begin(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            if begun.elapsed() >= TLS_LIMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.flush_tls()?;
            if self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
                self.read_tls()?;
            }
        }
        self.flush_tls()
    }

    /// Sends what TLS has for the client.
    fn flush_tls(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => self.last_moved = Instant::now(),
                Err(error) if is_wait(&error) => self.wait_for(PollFlags::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what the client sends next, which needn't be data.
    fn read_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        match tls.read_tls(&mut self.stream) {
            Ok(0) if tls.is_handshaking() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                let taken = tls.process_new_packets();
                // The client is told what was wrong, if it listens.
                let told = self.flush_tls();
                taken.map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
                told
            }
            Err(error) if is_wait(&error) => self.wait_for(PollFlags::IN),
            Err(error) => Err(error),
        }
    }

    /// Says the end, too, to who has said it and may wait for that; what was received stays received if he is gone.
    pub(super) fn acknowledge(&mut self) {
        if self.tls.is_some() {
            let _ = self.end();
        }
    }

    /// Reads what has come; the end counts only where the client has said it.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.reader().read(buffer),
            None => self.stream.read(buffer),
        }
    }

    /// Waits until there may be more to read.
    fn wait_for_more(&mut self) -> io::Result<()> {
        if self.tls.is_some() { self.read_tls() } else { self.wait_for(PollFlags::IN) }
    }

    /// Sends a file from its position to its end.
    pub(super) fn send_file(&mut self, mut file: &File) -> io::Result<()> {
        if self.tls.is_some() {
            let mut piece = vec![0; TLS_PIECE_BYTES];
            loop {
                match file.read(&mut piece)? {
                    0 => return self.end(),
                    count => self.send(&piece[..count])?,
                }
            }
        }
        loop {
            match rustix::fs::sendfile(&self.stream, file, None, PIECE_BYTES) {
                Ok(0) => return self.end(),
                Ok(count) => self.moved(count)?,
                Err(Errno::AGAIN | Errno::INTR) => self.wait_for(PollFlags::OUT)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends all of `bytes`.
    pub(super) fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match &mut self.tls {
                // It would write no more, and say so to nobody.
                Some(tls)
                    if self.bytes >= TLS_BYTES_MAX
                        && tls.protocol_version() == Some(ProtocolVersion::TLSv1_2) =>
                {
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
                Some(tls) => tls.writer().write(bytes),
                None => self.stream.write(bytes),
            };
            match written {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.flush_tls()?;
                    self.moved(count)?;
                }
                Err(error) if is_wait(&error) => self.wait_for(PollFlags::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the client that all was sent.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush_tls()?;
        self.stream.shutdown(Shutdown::Write)
    }

    /// Writes what comes until its end. What came before an error is kept, for the client to resume
    /// from.
    pub(super) fn receive(&mut self, file: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let before = self.bytes;
            let filled = self.fill(&mut buffer);
            file.write_all(&buffer[..(self.bytes - before) as usize])?;
            // A volume that is slow isn't the client's stalling.
            self.last_moved = Instant::now();
            if filled? {
                return Ok(());
            }
        }
    }

    /// Reads what comes until `buffer` is full or a [`TICK`] is over; true if the client has sent all
    /// instead. Nothing is kept over a wait for more: written later, it could land on what the client
    /// has sent anew by another connection.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let (mut count, begun) = (0, Instant::now());
        while count == 0 || (count < buffer.len() && begun.elapsed() < TICK) {
            match self.read(&mut buffer[count..]) {
                Ok(0) => return Ok(true),
                Ok(more) => {
                    count += more;
                    self.moved(more)?;
                }
                Err(error) if is_wait(&error) => self.wait_for_more()?,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What was sent or received.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn moved(&mut self, bytes: usize) -> io::Result<()> {
        self.bytes += bytes as u64;
        self.last_moved = Instant::now();
        self.check()
    }

    /// Waits for the client, no longer than a [`TICK`].
    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        if self.last_moved.elapsed() >= self.idle {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        match rustix::event::poll(&mut [PollFd::new(&self.stream, what)], Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => self.check(),
            Err(error) => Err(error.into()),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.called_off.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
