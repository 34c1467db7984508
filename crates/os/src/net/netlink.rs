//! Links and their addresses, and news of them, from the kernel's routing netlink. Only reading (`setup` changes them); a
//! hundred lines of our own instead of a dependency with a runtime.
#![allow(unsafe_code)] // socket and bind with a C structure

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aoe_wire::MacAddr;

use super::netns;
use crate::reactor::{FdWatch, ReactorHandle};
use crate::sys;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// The interface's name.
    pub name: String,
    /// Its Ethernet address; `None` for links without one.
    pub mac: Option<MacAddr>,
    /// Largest payload.
    pub mtu_bytes: u32,
    /// Switched on (IFF_UP).
    pub up: bool,
    /// The far end is there (carrier).
    pub running: bool,
    /// `lo`.
    pub loopback: bool,
    /// RFC 2863 state: 6 is up, 2 down, 0 unknown.
    pub operstate: u8,
    /// IP addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// The links of a namespace (`None`: the process's own), by index. Blocks for a moment.
pub fn links(netns: Option<&str>) -> io::Result<Vec<Link>> {
    netns::run_in(netns, || {
        let socket = route_socket(0)?;
        let mut links = Vec::new();
        dump(&socket, libc::RTM_GETLINK, size_of_ifinfo(), &mut |kind, body| {
            if kind == libc::RTM_NEWLINK {
                links.extend(parse_link(body));
            }
        })?;
        dump(&socket, libc::RTM_GETADDR, 8, &mut |kind, body| {
            if kind == libc::RTM_NEWADDR
                && let Some((index, address)) = parse_address(body)
                && let Some(link) = links.iter_mut().find(|link: &&mut Link| link.index == index)
            {
                link.addresses.push(address);
            }
        })?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    })
}

/// Tells that something about some link of a namespace changed.
pub struct LinkWatch {
    watch: FdWatch,
    scratch: RefCell<Vec<u8>>,
}

impl LinkWatch {
    /// Watches the links of `netns`.
    pub fn open(handle: &ReactorHandle, netns: Option<&str>) -> io::Result<LinkWatch> {
        let socket = netns::run_in(netns, LinkWatch::open_socket)?;
        Ok(LinkWatch::new(handle, socket))
    }

    /// The socket, of the calling thread's namespace.
    pub(super) fn open_socket() -> io::Result<OwnedFd> {
        route_socket(libc::RTMGRP_LINK as u32)
    }

    pub(super) fn new(handle: &ReactorHandle, socket: OwnedFd) -> LinkWatch {
        LinkWatch { watch: handle.watch(socket), scratch: RefCell::new(vec![0; BUFFER_BYTES]) }
    }

    /// Completes after the next change; several may be told as one.
    pub async fn changed(&self) {
        loop {
            self.watch.readable().await;
            let mut news = false;
            let mut scratch = self.scratch.borrow_mut();
            loop {
                match rustix::io::read(self.watch.fd(), scratch.as_mut_slice()) {
                    Ok(0) => break,
                    Ok(_) => news = true,
                    // News were lost: that is news.
                    Err(rustix::io::Errno::NOBUFS) => news = true,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            drop(scratch);
            if news {
                return;
            }
        }
    }
}

/// Larger than any netlink message of the kernel.
const BUFFER_BYTES: usize = 64 * 1024;
pub(super) const HEADER_BYTES: usize = 16;

fn size_of_ifinfo() -> usize {
    size_of::<libc::ifinfomsg>()
}

fn route_socket(groups: u32) -> io::Result<OwnedFd> {
    let mut kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    if groups != 0 {
        kind |= libc::SOCK_NONBLOCK;
    }
    // SAFETY: no memory is involved.
    let socket =
        sys::check_fd(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })?;
    // SAFETY: a netlink address of zeros is valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    // SAFETY: pointer and length describe `address`.
    sys::check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// Sends a request that changes something, and waits for the kernel to say what became of it.
pub(super) fn request_answered(message: &[u8]) -> io::Result<()> {
    let socket = route_socket(0)?;
    rustix::io::write(socket.as_fd(), message)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&socket, buffer.as_mut_slice()))?;
    let Some((kind, body, _)) = split_message(&buffer[..len]) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    // An error of zero is none.
    match (i32::from(kind), body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))) {
        (libc::NLMSG_ERROR, Some(0)) => Ok(()),
        (libc::NLMSG_ERROR, Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Asks for all objects of a kind and hands each message to `sink`.
fn dump(
    socket: &OwnedFd,
    kind: u16,
    body_bytes: usize,
    sink: &mut dyn FnMut(u16, &[u8]),
) -> io::Result<()> {
    let mut request = vec![0; HEADER_BYTES + body_bytes];
    request[0..4].copy_from_slice(&((HEADER_BYTES + body_bytes) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    rustix::io::write(socket.as_fd(), &request)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = rustix::io::retry_on_intr(|| rustix::io::read(socket, buffer.as_mut_slice()))?;
        let mut rest = &buffer[..len];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, body, next)) = split_message(rest) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                _ => sink(kind, body),
            }
            rest = next;
        }
    }
}

/// The first message of `bytes`: kind, body, and what follows.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER_BYTES..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes behind a message's fixed part.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let flags = i32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    let mut link = Link {
        index,
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_RUNNING != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(size_of_ifinfo()..)?) {
        match kind {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS => {
                link.mac = <[u8; 6]>::try_from(value).ok().map(MacAddr);
            }
            libc::IFLA_MTU => {
                link.mtu_bytes = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            }
            libc::IFLA_OPERSTATE => link.operstate = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_address(body: &[u8]) -> Option<(u32, (IpAddr, u8))> {
    let prefix = *body.get(1)?;
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    // On point-to-point links IFA_ADDRESS is the peer's; IFA_LOCAL is always ours.
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        let address =
            <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))).or_else(
                |_| <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))),
            );
        match (kind, address) {
            (libc::IFA_LOCAL, Ok(address)) => found = Some(address),
            (libc::IFA_ADDRESS, Ok(address)) if found.is_none() => found = Some(address),
            _ => {}
        }
    }
    Some((index, (found?, prefix)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_loopback_is_listed() {
        let links = links(None).unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback && lo.mtu_bytes >= 1500, "{lo:?}");
        if lo.up {
            assert!(lo.addresses.contains(&(IpAddr::V4(Ipv4Addr::LOCALHOST), 8)), "{lo:?}");
        }
    }

    #[test]
    fn damaged_messages_end_the_parsing() {
        let mut message = vec![0; 64];
        for len in [0u32, 3, 15, 65, u32::MAX] {
            message[0..4].copy_from_slice(&len.to_ne_bytes());
            assert!(split_message(&message).is_none(), "{len}");
        }
        for len in 0..16 {
            assert!(parse_link(&message[..len]).is_none());
            assert!(parse_address(&message[..len]).is_none());
        }
        for len in [0u16, 3, 100, u16::MAX] {
            let mut bytes = [0; 12];
            bytes[0..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{len}");
        }
    }
}
