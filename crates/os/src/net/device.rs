//! A socket that hears one interface alone, whatever addresses others have.
#![allow(unsafe_code)] // setsockopt with a name, which no crate of ours wraps

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::sys;

/// Binds a socket to an interface by its name. Needs CAP_NET_RAW.
pub fn bind_to_device(socket: impl AsFd, interface: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe the name, which the kernel copies.
    sys::check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            interface.len() as libc::socklen_t,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_told() -> io::Result<()> {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        // Who may not is told that; who may, that there is none.
        let code = bind_to_device(&socket, "nowhere0").err().and_then(|error| error.raw_os_error());
        assert!([Some(libc::ENODEV), Some(libc::EPERM)].contains(&code), "{code:?}");
        Ok(())
    }
}
