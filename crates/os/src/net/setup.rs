//! Links that are switched on and given addresses: what `ip link` and `ip address` do, for a machine that has no such
//! programs. By the kernel's routing netlink.

use std::io;
use std::net::Ipv4Addr;

use super::netlink::{HEADER_BYTES, request_answered};

/// Of routes that programs make by DHCP (rtnetlink(7)).
const ROUTE_OF_DHCP: u8 = 16;
/// Scope of addresses and routes that hold everywhere.
const EVERYWHERE: u8 = libc::RT_SCOPE_UNIVERSE;

/// An address of a link with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's.
    pub prefix: u8,
}

/// Switches a link on; with a size, it is to carry payloads of that many bytes.
pub fn switch_on(index: u32, mtu_bytes: Option<u32>) -> io::Result<()> {
    let mut body = interface_body(index, libc::IFF_UP.unsigned_abs());
    if let Some(mtu) = mtu_bytes {
        attribute(&mut body, libc::IFLA_MTU, &mtu.to_ne_bytes());
    }
    request(libc::RTM_NEWLINK, 0, &body)
}

/// Gives a link an address.
pub fn add_address(index: u32, address: LinkAddress) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    request(libc::RTM_NEWADDR, flags, &address_body(index, address))
}

/// Takes it away. One that isn't there is no error.
pub fn remove_address(index: u32, address: LinkAddress) -> io::Result<()> {
    match request(libc::RTM_DELADDR, 0, &address_body(index, address)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        removed => removed,
    }
}

/// Has packets to other networks go by a router on that link, unless another link's cost is lower.
pub fn set_router(index: u32, router: Ipv4Addr, cost: u32) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    // Family, lengths of destination and source, service, table, protocol, scope, kind, flags.
    let family = libc::AF_INET as u8;
    let table = libc::RT_TABLE_MAIN;
    let kind = libc::RTN_UNICAST;
    let mut body = vec![family, 0, 0, 0, table, ROUTE_OF_DHCP, EVERYWHERE, kind, 0, 0, 0, 0];
    attribute(&mut body, libc::RTA_GATEWAY, &router.octets());
    attribute(&mut body, libc::RTA_OIF, &index.to_ne_bytes());
    attribute(&mut body, libc::RTA_PRIORITY, &cost.to_ne_bytes());
    request(libc::RTM_NEWROUTE, flags, &body)
}

/// struct ifinfomsg, in which these flags are switched on.
fn interface_body(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

/// struct ifaddrmsg, with the address.
fn address_body(index: u32, address: LinkAddress) -> Vec<u8> {
    let LinkAddress { address, prefix } = address;
    let mut body = vec![libc::AF_INET as u8, prefix, 0, EVERYWHERE];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &address.octets());
    attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    // Of a pair of addresses nobody else hears a broadcast.
    if prefix < 31 {
        let broadcast = Ipv4Addr::from(u32::from(address) | !mask);
        attribute(&mut body, libc::IFA_BROADCAST, &broadcast.octets());
    }
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn request(kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    request_answered(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_form() {
        let at = LinkAddress { address: Ipv4Addr::new(10, 1, 2, 3), prefix: 20 };
        let body = address_body(7, at);
        assert_eq!(body[..4], [2, 20, 0, 0]);
        assert_eq!(body[8..16], [8, 0, 2, 0, 10, 1, 2, 3]);
        assert_eq!(body[24..32], [8, 0, 4, 0, 10, 1, 15, 255]);
        assert_eq!(address_body(7, LinkAddress { prefix: 32, ..at }).len(), 24);
        assert_eq!(address_body(7, LinkAddress { prefix: 0, ..at })[28..32], [255; 4]);
        assert_eq!(interface_body(7, 1).len(), 16);
    }

    /// No link has that number: the kernel has understood the rest.
    #[test]
    fn the_kernel_understands_them() {
        let at = LinkAddress { address: Ipv4Addr::LOCALHOST, prefix: 8 };
        let missing = 0x7fff_fff0;
        for answered in [
            switch_on(missing, Some(1500)),
            add_address(missing, at),
            set_router(missing, Ipv4Addr::LOCALHOST, 7),
        ] {
            let code = answered.err().and_then(|error| error.raw_os_error());
            // As who may (a router is looked for in the networks of the link first), and as who may not.
            let expected = [libc::ENODEV, libc::ENETUNREACH, libc::EPERM];
            assert!(code.is_some_and(|code| expected.contains(&code)), "{code:?}");
        }
    }
}
