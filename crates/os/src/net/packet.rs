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

use aoe::driver::{Frame, Port, PortCounters};
use aoe::wire::MacAddr;
use futures::FutureExt;
use futures::future::{AbortHandle, LocalBoxFuture, abortable, join, select};
use runtime::Notify;

use super::batch::BATCH;
use super::link::{self, LinkState};
use super::netlink::LinkWatch;
use super::outgoing::Outgoing;
use super::receive_ring::{ReceiveRing, Taken};
use super::{filter, netns};
use crate::reactor::{Glance, GlanceWatch, ReactorHandle};
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

/// What a port is for; the kernel drops the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A target's: frames without the response flag.
    Requests,
    /// An initiator's: frames with it.
    Replies,
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
    watch: GlanceWatch,
    link: Cell<Option<LinkState>>,
    /// Index to which the socket is bound.
    bound: Cell<i32>,
    room: Rc<Room>,
    outgoing: Outgoing,
    counters: Cell<PortCounters>,
    /// The interface is another, or has another address or MTU.
    changed: Notify,
}

/// The receive ring; none while a larger one could not be had.
struct Room(RefCell<Option<ReceiveRing>>);

impl Glance for Room {
    fn is_ready(&self) -> bool {
        self.0.try_borrow().is_ok_and(|ring| ring.as_ref().is_some_and(ReceiveRing::has_frame))
    }
}

impl PacketPort {
    /// Opens a port. An interface that isn't there (yet) is no error: the port is down until it
    /// appears. Needs CAP_NET_RAW, and CAP_SYS_ADMIN for another namespace.
    pub fn open(
        handle: &ReactorHandle,
        interface: InterfaceSpec,
        role: Role,
    ) -> Result<PacketPort, PacketPortError> {
        let opened = netns::run_in(interface.netns.as_deref(), || {
            Ok((open_socket(Some(role))?, LinkWatch::open_socket()?))
        });
        let opened = opened.and_then(|(socket, links)| {
            let frame_bytes = MTU_DEFAULT_BYTES + FRAME_EXTRA_BYTES;
            Ok((ReceiveRing::open(socket.as_fd(), frame_bytes)?, socket, links))
        });
        let (ring, socket, link_socket) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(PacketPortError { interface, error }),
        };
        let room = Rc::new(Room(RefCell::new(Some(ring))));
        let socket = Rc::new(socket);
        let inner = Rc::new(Inner {
            interface,
            watch: handle.watch_glance(Rc::clone(&socket), Rc::clone(&room) as Rc<dyn Glance>),
            link: Cell::new(None),
            bound: Cell::new(0),
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
                    links.changed().await;
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
        self.inner.link.get().is_some_and(|link| link.running)
    }

    fn mac(&self) -> MacAddr {
        self.inner.link.get().map(|link| link.mac).unwrap_or_default()
    }

    fn mtu_bytes(&self) -> usize {
        self.inner.link.get().map_or(MTU_DEFAULT_BYTES, |link| link.mtu_bytes)
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
        if found == self.link.get() {
            return;
        }
        let Some(link) = found else {
            tracing::warn!(interface = %self.interface, "the interface is gone");
            self.link.set(None);
            self.changed.notify_all();
            // When it comes back it gets another index, or the same: bind in any case. It may also have
            // been renamed: then it is somebody else's, and this socket must not hear it any more.
            self.bound.set(0);
            if let Err(error) = bind_to(self.watch.fd(), 0, ETHERTYPE_UNUSED) {
                tracing::warn!(interface = %self.interface, %error, "can't let go of the interface");
            }
            return;
        };
        if self.bound.get() != link.index {
            if let Err(error) = bind(self.watch.fd(), link.index) {
                tracing::warn!(interface = %self.interface, %error, "can't bind to the interface");
                return;
            }
            self.bound.set(link.index);
        }
        self.make_room(link.mtu_bytes + FRAME_EXTRA_BYTES);
        self.link.set(Some(link));
        self.changed.notify_all();
        tracing::info!(
            interface = %self.interface, mac = %link.mac, mtu = link.mtu_bytes, up = link.up, link = link.running,
            "the interface changed"
        );
    }

    /// A larger ring when frames may be longer now. What waits in the old one is lost, as on a wire.
    fn make_room(&self, frame_bytes: usize) {
        let Ok(mut room) = self.room.0.try_borrow_mut() else { return };
        if room.as_ref().is_some_and(|ring| ring.frame_bytes() >= frame_bytes) {
            return;
        }
        let fd = self.watch.fd();
        let closed = room.take().map_or(Ok(()), |ring| ring.close(fd));
        match closed.and_then(|()| ReceiveRing::open(fd, frame_bytes)) {
            Ok(ring) => *room = Some(ring),
            Err(error) => tracing::error!(
                interface = %self.interface, %error,
                "no memory to receive frames; nothing is heard here"
            ),
        }
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
    let mut program = filter::program(role);
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

fn bind_to(fd: BorrowedFd<'_>, index: i32, ethertype: u16) -> io::Result<()> {
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

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
