//! Frames between processes of one machine, over a Unix socket that keeps message boundaries
//! (SOCK_SEQPACKET): the engine reaches the disks of its own machine by the same frames as others.
//!
//! A peer that doesn't read costs frames, as on Ethernet, never a blocked reactor; nor does what is
//! mounted over a directory above the socket, because no path to it is resolved ([`crate::dir`]).
//! Addresses are made up; there is nobody else on this wire.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use aoe_wire::{Frame, MacAddr};
use aoe_wire::{Port, PortCounters};
use futures::FutureExt;
use futures::future::{AbortHandle, LocalBoxFuture, abortable};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::batch::{BATCH, ReceiveBatch};
use super::outgoing;
use crate::dir::{Directory, Spot};
use crate::reactor::{FdWatch, ReactorHandle};
use crate::sys;

/// Largest payload of a frame here: two blocks and all headers, as on Ethernet with jumbo frames.
pub const UNIX_MTU_BYTES: usize = 9216;
/// The Ethernet header, and some.
const FRAME_BYTES: usize = UNIX_MTU_BYTES + 64;
const SOCKET_BUFFER_BYTES: i32 = 4 << 20;
const BACKLOG: i32 = 16;
/// Pauses between attempts to connect.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Pause after a failure to accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A process that was killed is reaped before the kernel has cancelled its ring's requests and closed
/// what they hold, its sockets among it.
const PREDECESSOR_MAX: Duration = Duration::from_secs(3);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// One end of a connection.
pub struct UnixPort {
    inner: Rc<Inner>,
    connecting: Option<AbortHandle>,
}

struct Inner {
    name: String,
    mac: MacAddr,
    watch: RefCell<Option<FdWatch>>,
    /// Counts connections made and lost.
    generation: Cell<u64>,
    /// Who waits for frames, and who for the end of the connection.
    listener: RefCell<Option<Waker>>,
    mourner: RefCell<Option<Waker>>,
    room: RefCell<ReceiveBatch>,
    /// The last batch emptied the socket: waiting comes next, not another system call.
    drained: Cell<bool>,
    dropped: Cell<u64>,
}

impl UnixPort {
    /// A port to whoever listens at `spot`. It connects when it can and again when the connection
    /// is lost; frames sent meanwhile are lost.
    pub fn connect(handle: &ReactorHandle, spot: Spot) -> UnixPort {
        let inner = Inner::new(handle, spot.path().display().to_string());
        let (task, connecting) = abortable(keep_connected(handle.clone(), Rc::clone(&inner), spot));
        handle.runtime().spawn(task.map(drop));
        UnixPort { inner, connecting: Some(connecting) }
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.inner.watch.borrow().is_some()
    }

    /// Completes when there is no connection (any more). An accepted port is of no use then.
    pub fn closed(&self) -> impl Future<Output = ()> + 'static {
        Inner::disconnected(&self.inner)
    }

    /// Frames that could not be sent.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.get()
    }
}

impl Drop for UnixPort {
    fn drop(&mut self) {
        if let Some(connecting) = &self.connecting {
            connecting.abort();
        }
        self.inner.set_connection(None);
    }
}

impl Port for UnixPort {
    fn name(&self) -> String {
        self.inner.name.clone()
    }

    fn mac(&self) -> MacAddr {
        self.inner.mac
    }

    fn is_trusted(&self) -> bool {
        true
    }

    fn mtu_bytes(&self) -> usize {
        UNIX_MTU_BYTES
    }

    fn counters(&self) -> PortCounters {
        PortCounters { send_dropped: self.inner.dropped.get(), ..PortCounters::default() }
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        let sent = self.inner.transmit(frames);
        self.inner.dropped.set(self.inner.dropped.get() + (frames.len() - sent) as u64);
        frames.clear();
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        let inner = Rc::clone(&self.inner);
        let seen = inner.generation.get();
        let mut frames = inner.watch.borrow().as_ref().map(|watch| watch.readable().boxed_local());
        poll_fn(move |context| {
            let changed = inner.generation.get() != seen;
            let ready = frames.as_mut().is_some_and(|frames| frames.poll_unpin(context).is_ready());
            if changed || ready {
                return Poll::Ready(());
            }
            *inner.listener.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .boxed_local()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.inner.receive(sink)
    }
}

impl Inner {
    fn new(handle: &ReactorHandle, name: String) -> Rc<Inner> {
        let random = handle.runtime().random_bytes16();
        // Locally administered, for one station.
        let mac = MacAddr([0x02, 0x45, random[0], random[1], random[2], random[3]]);
        Rc::new(Inner {
            name,
            mac,
            watch: RefCell::new(None),
            generation: Cell::new(0),
            listener: RefCell::new(None),
            mourner: RefCell::new(None),
            room: RefCell::new(ReceiveBatch::new(FRAME_BYTES)),
            drained: Cell::new(false),
            dropped: Cell::new(0),
        })
    }

    fn set_connection(&self, watch: Option<FdWatch>) {
        let ended = watch.is_none();
        if let Some(former) = self.watch.replace(watch) {
            // The kernel's poll request still holds the descriptor: hang up now, not when that is
            // taken back. A connection that is gone already refuses, and needs nothing.
            let _ = rustix::net::shutdown(former.fd(), rustix::net::Shutdown::Both);
        }
        self.generation.set(self.generation.get() + 1);
        if let Some(waker) = self.listener.take() {
            waker.wake();
        }
        if ended && let Some(waker) = self.mourner.take() {
            waker.wake();
        }
    }

    fn disconnected(inner: &Rc<Inner>) -> impl Future<Output = ()> + 'static {
        let inner = Rc::clone(inner);
        poll_fn(move |context| {
            if inner.watch.borrow().is_none() {
                return Poll::Ready(());
            }
            *inner.mourner.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
    }

    /// Returns how many of `frames` the socket took.
    fn transmit(&self, frames: &[Frame]) -> usize {
        let Some(watch) = self.watch.borrow().clone() else { return 0 };
        let (mut next, mut sent) = (0, 0);
        while next < frames.len() {
            let end = frames.len().min(next + BATCH);
            match outgoing::send(watch.fd(), &frames[next..end]) {
                Ok(0) => break,
                Ok(count) => {
                    next += count;
                    sent += count;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EMSGSIZE) => next += 1,
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => break,
                    _ => {
                        self.set_connection(None);
                        break;
                    }
                },
            }
        }
        sent
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let Some(watch) = self.watch.borrow().clone() else { return 0 };
        if self.drained.take() {
            return 0;
        }
        let Ok(mut room) = self.room.try_borrow_mut() else { return 0 };
        let mut handed_out = 0;
        loop {
            let received = room.receive(watch.fd(), &mut |frame| {
                handed_out += 1;
                sink(frame);
            });
            match received {
                // No frame is empty: this is the end of the connection.
                Ok(received) if received.empty > 0 => break,
                Ok(received) if handed_out > 0 => {
                    self.drained.set(received.taken < BATCH);
                    return handed_out;
                }
                Ok(received) if received.taken > 0 => {}
                Ok(_) => return 0,
                Err(error) if sys::is_errno(&error, libc::EINTR) => {}
                Err(error) if sys::is_errno(&error, libc::EAGAIN) => return handed_out,
                Err(_) => break,
            }
        }
        drop(room);
        // The sink may have closed the connection already, by sending.
        if self.watch.borrow().is_some() {
            self.set_connection(None);
        }
        handed_out
    }
}

async fn keep_connected(handle: ReactorHandle, inner: Rc<Inner>, spot: Spot) {
    let path = spot.path();
    let mut pause = RETRY_MIN;
    loop {
        match connect_socket(&spot) {
            Ok(socket) => {
                tracing::debug!(path = %path.display(), "connected");
                inner.set_connection(Some(handle.watch(socket)));
                Inner::disconnected(&inner).await;
                tracing::debug!(path = %path.display(), "connection lost");
                // A listener that hangs up at once must not be asked in a tight loop.
                pause = RETRY_MIN;
            }
            Err(error) => tracing::trace!(path = %path.display(), %error, "can't connect"),
        }
        handle.runtime().sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn is_ours(socket: &OwnedFd) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(socket);
    peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn connect_socket(spot: &Spot) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    sys::enlarge_buffers(socket.as_fd(), SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES);
    spot.connect(&socket)?;
    Ok(socket)
}

/// Where other processes connect to.
pub struct UnixPortListener {
    handle: ReactorHandle,
    watch: FdWatch,
    directory: Directory,
    name: String,
}

impl UnixPortListener {
    /// Listens under this name in a directory, for this user only; before anything is served, because
    /// people are to find the socket's path where sockets are listed. A socket that a dead process left
    /// behind is replaced; one that somebody listens at is not. Blocks while it is found out that it
    /// isn't a process that was killed a moment ago.
    pub fn bind(
        handle: &ReactorHandle,
        directory: &Directory,
        name: &str,
    ) -> io::Result<UnixPortListener> {
        let path = directory.path_of(name);
        let begun = std::time::Instant::now();
        loop {
            match connect_socket(&Spot::of(&path)?) {
                Err(error) if sys::is_errno(&error, libc::ECONNREFUSED) => {
                    directory.remove(OsStr::new(name))?;
                    break;
                }
                Err(error) if !sys::is_errno(&error, libc::EAGAIN) => break,
                _ if begun.elapsed() >= PREDECESSOR_MAX => return Err(in_use(path)),
                _ => std::thread::sleep(PREDECESSOR_PAUSE),
            }
        }
        let socket = seqpacket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(UnixPortListener {
            handle: handle.clone(),
            watch: handle.watch(socket),
            directory: directory.clone(),
            name: name.to_owned(),
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.path_of(&self.name)
    }

    /// The next connection of this user, or of root. The socket's mode says the same, where nobody has changed it.
    pub async fn accept(&self) -> UnixPort {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(self.watch.fd(), flags) {
                Ok(socket) if !is_ours(&socket) => {
                    tracing::warn!(path = %self.path().display(), "refused: a connection of another user");
                }
                Ok(socket) => {
                    sys::enlarge_buffers(socket.as_fd(), SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES);
                    let inner = Inner::new(&self.handle, self.path().display().to_string());
                    inner.set_connection(Some(self.handle.watch(socket)));
                    return UnixPort { inner, connecting: None };
                }
                Err(Errno::AGAIN) => self.watch.readable().await,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(path = %self.path().display(), %error, "can't accept");
                    self.handle.runtime().sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for UnixPortListener {
    fn drop(&mut self) {
        // Another process may have replaced it; then its clients reconnect, which is harmless.
        let _ = self.directory.remove(OsStr::new(&self.name));
    }
}

fn in_use(path: PathBuf) -> io::Error {
    let message = format!("another process listens at {}", path.display());
    io::Error::new(io::ErrorKind::AddrInUse, message)
}

#[cfg(test)]
#[path = "unix_tests.rs"]
mod tests;
