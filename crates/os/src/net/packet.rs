//! Frames through a packet socket (AF_PACKET), bound to one interface.
//!
//! Frames come through a ring ([`super::receive_ring`]) and leave by sendmmsg ([`super::outgoing`]),
//! for which a ring gains nothing.
//! The interface may go down, vanish, change its MTU or address, and come back under another index:
//! the port follows, told by rtnetlink, and is silent meanwhile.
#![allow(unsafe_code)] // socket, bind and socket options with C structures

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{Frame, MacAddr};
use aoe_wire::{Port, PortCounters};
use block::Instant;
use futures::FutureExt;
use futures::future::{AbortHandle, LocalBoxFuture, abortable, join, pending, select};
use runtime::{Handle, Notify};

use super::batch::BATCH;
use super::filter;
use super::link::{self, LinkState};
use super::netlink::LinkWatch;
use super::netns::Namespace;
use super::outgoing::Outgoing;
use super::receive_ring::{ReceiveRing, Taken};
use crate::reactor::{PollSource, PollWatch, ReactorHandle};
use crate::sys;

/// ATA over Ethernet.
pub(super) const ETHERTYPE_AOE: u16 = 0x88a2;
/// For local experiments (IEEE 802): the filter lets nothing of it through.
const ETHERTYPE_UNUSED: u16 = 0x88b5;
const SEND_BUFFER_BYTES: i32 = 8 << 20;
/// Ethernet header, a VLAN tag, and some.
pub(super) const FRAME_EXTRA_BYTES: usize = 64;
/// MTU assumed while there is no interface.
const MTU_DEFAULT_BYTES: usize = 1500;
/// The largest that is believed (`lo` says 65536).
const MTU_MAX_BYTES: usize = 65_536;
/// Pauses between attempts to get what an interface needs, by doubling. Each costs frames: the ring
/// in use has to go before another can be asked for.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a port is for; the kernel drops the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A target's: frames without the response flag.
    Requests,
    /// An initiator's: frames with it.
    Replies,
    /// Of who asks who is there: answers to config queries only, whatever else goes on.
    Answers,
}

/// Which interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Its name: `eth0`.
    pub name: String,
    /// Its network namespace: a name below `/run/netns` or a path; `None` for the process's own.
    pub netns: Option<String>,
}

impl std::fmt::Display for InterfaceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "{} in {netns}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A port can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't open a packet socket on {interface}: {error}")]
pub struct PacketPortError {
    /// Where.
    pub interface: InterfaceSpec,
    /// Why not.
    pub error: io::Error,
}

/// A port on an interface.
pub struct PacketPort {
    inner: Rc<Inner>,
    task: AbortHandle,
}

struct Inner {
    interface: InterfaceSpec,
    runtime: Handle,
    watch: PollWatch,
    link: Cell<Option<LinkState>>,
    /// Something that the interface needs could not be had.
    retry: Cell<Option<Retry>>,
    room: Rc<Room>,
    /// Largest payload that the ring has room for; `None` without a ring.
    room_mtu_bytes: Cell<Option<usize>>,
    outgoing: Outgoing,
    counters: Cell<PortCounters>,
    /// The interface is another, or has another address or MTU.
    changed: Notify,
}

/// When to try again what failed.
#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

/// The receive ring; none while there is no memory even for a small one.
struct Room(RefCell<Option<ReceiveRing>>);

impl PollSource for Room {
    fn is_ready(&self) -> bool {
        self.0.try_borrow().is_ok_and(|ring| ring.as_ref().is_some_and(ReceiveRing::has_frame))
    }
}

impl PacketPort {
    /// Opens a port. An interface that isn't there (yet) is no error: the port is down until it
    /// appears. Needs CAP_NET_RAW, and CAP_SYS_ADMIN for another namespace, whose path is resolved.
    pub fn open(
        handle: &ReactorHandle,
        interface: InterfaceSpec,
        role: Role,
    ) -> Result<PacketPort, PacketPortError> {
        let namespace = interface.netns.as_deref().map(Namespace::open).transpose();
        match namespace {
            Ok(namespace) => PacketPort::open_in(handle, interface, namespace.as_ref(), role),
            Err(error) => Err(PacketPortError { interface, error }),
        }
    }

    /// The same in a namespace that is open already; `None` for the process's own.
    pub fn open_in(
        handle: &ReactorHandle,
        interface: InterfaceSpec,
        namespace: Option<&Namespace>,
        role: Role,
    ) -> Result<PacketPort, PacketPortError> {
        let open = || Ok((open_socket(Some(role))?, LinkWatch::open_socket()?));
        let opened = match namespace {
            Some(namespace) => namespace.run(open),
            None => open(),
        };
        let opened = opened.and_then(|(socket, links)| {
            let frame_bytes = MTU_DEFAULT_BYTES + FRAME_EXTRA_BYTES;
            Ok((ReceiveRing::open(socket.as_fd(), frame_bytes)?, socket, links))
        });
        let (ring, socket, link_socket) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(PacketPortError { interface, error }),
        };
        let room_mtu_bytes = Cell::new(Some(ring_mtu_bytes(&ring)));
        let room = Rc::new(Room(RefCell::new(Some(ring))));
        let socket = Rc::new(socket);
        let inner = Rc::new(Inner {
            interface,
            runtime: handle.runtime().clone(),
            watch: handle
                .watch_poll_source(Rc::clone(&socket), Rc::clone(&room) as Rc<dyn PollSource>),
            link: Cell::new(None),
            retry: Cell::new(None),
            room_mtu_bytes,
            room,
            outgoing: Outgoing::new(socket),
            counters: Cell::default(),
            changed: Notify::new(),
        });
        inner.follow_link();
        if inner.link.get().is_none() {
            tracing::warn!(interface = %inner.interface, "no such interface; waiting for it");
        }
        let links = LinkWatch::new(handle, link_socket);
        let (tended, reactor) = (Rc::clone(&inner), handle.clone());
        let (work, task) = abortable(async move {
            let follow = async {
                loop {
                    select(pin!(links.changed()), pin!(tended.retry_due())).await;
                    tended.follow_link();
                }
            };
            join(follow, tended.outgoing.tend(&reactor)).await
        });
        handle.runtime().spawn(work.map(drop));
        Ok(PacketPort { inner, task })
    }

    /// Whether the interface is there and up.
    pub fn is_up(&self) -> bool {
        self.inner.link.get().is_some_and(|link| link.up)
    }
}

impl Drop for PacketPort {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody will look after what waits: whoever hears it needs not ask again.
        self.inner.outgoing.flush();
    }
}

impl Port for PacketPort {
    fn name(&self) -> String {
        self.inner.interface.name.clone()
    }

    fn is_up(&self) -> bool {
        self.inner.room_mtu_bytes.get().is_some()
            && self.inner.link.get().is_some_and(|link| link.running)
    }

    fn mac(&self) -> MacAddr {
        self.inner.link.get().map(|link| link.mac).unwrap_or_default()
    }

    fn mtu_bytes(&self) -> usize {
        // Whoever is told less sends what fits.
        let link = self.inner.link.get().map_or(MTU_DEFAULT_BYTES, |link| link.mtu_bytes);
        self.inner.room_mtu_bytes.get().map_or(link, |room| room.min(link))
    }

    fn counters(&self) -> PortCounters {
        self.inner.count_kernel_drops();
        let sent = self.inner.outgoing.sent();
        let send_dropped = self.inner.outgoing.dropped();
        PortCounters { sent, send_dropped, ..self.inner.counters.get() }
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        self.inner.outgoing.transmit(frames);
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        let inner = Rc::clone(&self.inner);
        async move {
            select(pin!(inner.changed.notified()), pin!(inner.watch.readable())).await;
            // A pending error (ENETDOWN when the interface goes down) would make the socket ready
            // for ever.
            if !inner.room.is_ready() {
                sys::clear_error(inner.watch.fd());
            }
        }
        .boxed_local()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.inner.outgoing.flush();
        self.inner.receive(sink)
    }
}

impl Inner {
    /// Looks at the interface again, and binds to it when it is another one by the same name.
    fn follow_link(&self) {
        let found = link::query(self.watch.fd(), &self.interface.name).ok().map(|mut link| {
            link.mtu_bytes = link.mtu_bytes.min(MTU_MAX_BYTES);
            link
        });
        let due = self.retry.get().is_some_and(|retry| retry.at <= self.runtime.now());
        let held = found.is_none_or(|link| self.holds(link.index));
        if found == self.link.get() && held && !due {
            return;
        }
        let Some(link) = found else {
            tracing::warn!(interface = %self.interface, "the interface is gone");
            self.link.set(None);
            self.retry.set(None);
            self.changed.notify_all();
            // When it comes back it gets another index, or the same: bind in any case. It may also have
            // been renamed: then it is somebody else's, and this socket must not hear it any more.
            if let Err(error) = self.let_go() {
                tracing::warn!(interface = %self.interface, %error, "can't let go of the interface");
            }
            return;
        };
        let before = (self.link.get(), self.room_mtu_bytes.get());
        let cramped = self.make_room(link.mtu_bytes + FRAME_EXTRA_BYTES).err();
        let unbound = self.hold(link.index).err();
        if unbound.is_none() {
            self.link.set(Some(link));
        }
        let rebound = !held && unbound.is_none();
        let after = (self.link.get(), self.room_mtu_bytes.get());
        let cramped =
            cramped.map(|error| (error, "no memory to receive frames of the MTU's length"));
        let unbound = unbound.map(|error| (error, "can't bind to the interface"));
        match unbound.or(cramped) {
            None => self.retry.set(None),
            Some((error, trouble)) if self.retry_later() => tracing::error!(
                interface = %self.interface, mtu = link.mtu_bytes, room = self.room_mtu_bytes.get(), %error,
                "{trouble}; trying again"
            ),
            Some(_) => {}
        }
        if before != after || rebound {
            self.changed.notify_all();
            tracing::info!(
                interface = %self.interface, mac = %link.mac, mtu = link.mtu_bytes, up = link.up, link = link.running,
                "the interface changed"
            );
        }
    }

    /// Completes when what failed should be tried again.
    async fn retry_due(&self) {
        match self.retry.get() {
            Some(retry) => self.runtime.sleep_until(retry.at).await,
            None => pending().await,
        }
    }

    /// Returns whether this is the first failure in a row, which people should hear of.
    fn retry_later(&self) -> bool {
        let former = self.retry.get();
        let pause = former.map_or(RETRY_MIN, |former| (former.pause * 2).min(RETRY_MAX));
        self.retry.set(Some(Retry { at: self.runtime.now() + pause, pause }));
        former.is_none()
    }

    /// Whether the socket is bound to this interface. The kernel is asked: it forgets an interface that
    /// is deleted, and the next one may look the same in all that can be seen of it.
    fn holds(&self, index: i32) -> bool {
        bound_index(self.watch.fd()).is_ok_and(|bound| bound == index)
    }

    /// Binds to an interface, to hear of it what the ring has room for.
    fn hold(&self, index: i32) -> io::Result<()> {
        if self.holds(index) {
            return Ok(());
        }
        // Without a ring frames would wait in the socket, which nobody reads, and make it readable
        // for ever.
        let deaf = self.room_mtu_bytes.get().is_none();
        let ethertype = if deaf { ETHERTYPE_UNUSED } else { ETHERTYPE_AOE };
        bind_to(self.watch.fd(), index, ethertype)
    }

    fn let_go(&self) -> io::Result<()> {
        bind_to(self.watch.fd(), 0, ETHERTYPE_UNUSED)
    }

    /// A larger ring when frames may be longer now. What waits in the old one is lost, as on a wire.
    /// Where there is no memory for it, one that is as large as before, or small: better to hear
    /// short frames than none. Lets go of the interface meanwhile.
    fn make_room(&self, frame_bytes: usize) -> io::Result<()> {
        let mut room = self.room.0.try_borrow_mut().map_err(io::Error::other)?;
        let former_bytes = room.as_ref().map_or(0, ReceiveRing::frame_bytes);
        if former_bytes >= frame_bytes {
            return Ok(());
        }
        let fd = self.watch.fd();
        self.let_go()?;
        if let Some(ring) = room.take() {
            self.room_mtu_bytes.set(None);
            ring.close(fd)?;
        }
        let (opened, error) = match ReceiveRing::open(fd, frame_bytes) {
            Ok(ring) => (Some(ring), None),
            Err(error) => {
                let smaller = [former_bytes, MTU_DEFAULT_BYTES + FRAME_EXTRA_BYTES];
                let mut smaller =
                    smaller.into_iter().filter(|bytes| (1..frame_bytes).contains(bytes));
                (smaller.find_map(|bytes| ReceiveRing::open(fd, bytes).ok()), Some(error))
            }
        };
        let mtu_bytes = opened.as_ref().map(ring_mtu_bytes);
        self.room_mtu_bytes.set(mtu_bytes);
        *room = opened;
        error.map_or(Ok(()), Err)
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let Ok(mut room) = self.room.0.try_borrow_mut() else { return 0 };
        let Some(ring) = room.as_mut() else { return 0 };
        let (mut handed_out, mut oversized) = (0, 0);
        while handed_out < BATCH {
            match ring.take(sink) {
                Taken::Frame => handed_out += 1,
                Taken::Truncated => oversized += 1,
                Taken::Tagged => {}
                Taken::Nothing => break,
            }
        }
        self.count(|counters| {
            counters.received += handed_out as u64;
            counters.oversized += oversized;
        });
        handed_out
    }

    fn count(&self, change: impl FnOnce(&mut PortCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// The kernel forgets its count when it is asked.
    fn count_kernel_drops(&self) {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to `statistics`.
        let asked = sys::check(unsafe {
            libc::getsockopt(
                self.watch.fd().as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        });
        if asked.is_ok() {
            self.count(|counters| counters.receive_dropped += u64::from(statistics.tp_drops));
        }
    }
}

/// The largest payload that a ring has room for.
fn ring_mtu_bytes(ring: &ReceiveRing) -> usize {
    ring.frame_bytes().saturating_sub(FRAME_EXTRA_BYTES)
}

/// A socket that hears nothing before it is bound, and then what `role` is for, or everything.
pub(super) fn open_socket(role: Option<Role>) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is involved.
    let socket = sys::check_fd(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    let fd = socket.as_fd();
    if let Some(role) = role {
        attach_filter(fd, role)?;
    }
    // Refused by older kernels: the filter drops outgoing frames too. The interface's queue is not
    // bypassed: it holds what the card can't take at once, where a bypass loses it.
    let _ = sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
    sys::enlarge_send_buffer(fd, SEND_BUFFER_BYTES);
    Ok(socket)
}

fn attach_filter(fd: BorrowedFd<'_>, role: Role) -> io::Result<()> {
    attach(fd, &mut filter::program(role))
}

/// Has the kernel drop all that a program doesn't take.
pub(super) fn attach(fd: BorrowedFd<'_>, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which outlives the call.
    sys::check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
    .map(drop)
}

pub(super) fn bind(fd: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    bind_to(fd, index, ETHERTYPE_AOE)
}

pub(super) fn bind_to(fd: BorrowedFd<'_>, index: i32, ethertype: u16) -> io::Result<()> {
    // SAFETY: a link-layer address of zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index;
    // SAFETY: pointer and length describe `address`.
    sys::check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// The interface that a packet socket is bound to: 0 for all, -1 when it has been deleted.
fn bound_index(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: a link-layer address of zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `address`.
    sys::check(unsafe {
        libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len)
    })?;
    Ok(address.sll_ifindex)
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
