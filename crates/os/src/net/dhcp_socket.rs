//! Packets of DHCP on a link that may have no address yet: IPv4 to its client's port, and ARP, by which it finds the server
//! when it asks again. Nothing else is heard: whoever speaks IP here on its own would answer what is meant for the kernel.
#![allow(unsafe_code)] // socket, bind and a filter with C structures

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::filter::dhcp_program;
use super::packet;

/// A packet socket for DHCP.
pub struct DhcpSocket {
    socket: OwnedFd,
}

impl DhcpSocket {
    /// On the link with that number.
    pub fn open(index: u32) -> io::Result<DhcpSocket> {
        let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let socket = packet::open_socket(None)?;
        packet::attach(socket.as_fd(), &mut dhcp_program())?;
        packet::bind_to(socket.as_fd(), index, libc::ETH_P_ALL as u16)?;
        Ok(DhcpSocket { socket })
    }

    /// Takes a frame; `None` when there is none.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: pointer and length describe `into`.
        let len = crate::sys::check_len(unsafe {
            libc::recv(self.socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), 0)
        });
        match len {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        Ok(rustix::io::write(&self.socket, frame).map(drop)?)
    }
}

impl AsFd for DhcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
