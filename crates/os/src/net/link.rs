//! What a packet socket can tell of an interface of its own namespace, whichever the thread's is.
#![allow(unsafe_code)] // SIOCGIF… ioctls on a union

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aoe_wire::MacAddr;

use crate::sys;

/// An interface at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub(super) index: i32,
    pub(super) mtu_bytes: usize,
    pub(super) mac: MacAddr,
    pub(super) up: bool,
    /// It has a link too.
    pub(super) running: bool,
}

/// The interface `name` in the namespace of `socket`.
pub(super) fn query(socket: BorrowedFd<'_>, name: &str) -> io::Result<LinkState> {
    let mut request = request_for(name)?;
    ask(socket, libc::SIOCGIFINDEX as _, &mut request)?;
    // SAFETY: each ioctl fills the member of the union that is read after it.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    ask(socket, libc::SIOCGIFMTU as _, &mut request)?;
    // SAFETY: as above.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    ask(socket, libc::SIOCGIFFLAGS as _, &mut request)?;
    // SAFETY: as above.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    ask(socket, libc::SIOCGIFHWADDR as _, &mut request)?;
    // SAFETY: as above.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from as u8;
    }
    Ok(LinkState {
        index,
        mtu_bytes: usize::try_from(mtu).unwrap_or(0),
        mac: MacAddr(mac),
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0,
    })
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq of zeros is valid: an empty name and a zero union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the name's end.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['\0', '/']) {
        let message = format!("{name:?} can't be the name of an interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn ask(fd: BorrowedFd<'_>, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these ioctls read the name and write the union of one ifreq.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), code as _, request as *mut libc::ifreq) })
        .map(drop)
}
