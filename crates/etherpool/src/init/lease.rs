//! An address for an interface, by DHCP: asked for, renewed, and given up when its time is over. The state machine is
//! smoltcp's; it speaks through a socket that hears nothing else, and the address is the kernel's.
//!
//! The node needs it to reach the boot server and to be reached by people. Its disks need none.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use os::machine::wait_readable;
use os::net::DhcpSocket;
use os::net::netlink::Link;
use os::net::setup::{LinkAddress, add_address, remove_address, set_router};
use smoltcp::iface::{Config, Interface, SocketSet, SocketStorage};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use super::network::Told;

/// Longest frame: a message of DHCP and more; a server may fill what Ethernet carries.
const FRAME_BYTES_MAX: usize = 1514;
/// How often a server is looked for. A machine that starts has nobody who would wait shorter.
const DISCOVER_EVERY: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(4);
/// The longest that nothing is looked at.
const IDLE: Duration = Duration::from_secs(60);
/// The shortest lease that is taken as it is.
const LEASE_SECONDS_MIN: u32 = 30;
/// Before IPv4's header, and behind it.
const ETHERNET_BYTES: usize = 14;
const UDP_BYTES: usize = 8;
/// Of a message of DHCP: behind what BOOTP has, and a number by which they are known (RFC 2131, 3).
const OPTIONS_AT: usize = 236 + 4;
const OPTION_PAD: u8 = 0;
const OPTION_LEASE: u8 = 51;
const OPTION_END: u8 = 255;
/// Of routes, above those that people make.
const COST: u32 = 1000;

/// Asks on a link from now on, on a thread of its own, which ends when the link does. `told` hears of the address.
pub fn follow(link: &Link, told: Told) -> io::Result<JoinHandle<()>> {
    let link = link.clone();
    let name = format!("dhcp-{}", link.name);
    std::thread::Builder::new().name(name).spawn(move || {
        if let Err(error) = ask(&link, &told) {
            tracing::debug!(%error, interface = link.name, "no more DHCP");
        }
    })
}

fn ask(link: &Link, told: &Told) -> io::Result<()> {
    let mut held = None;
    let asked = ask_and_hold(link, told, &mut held);
    // Nobody renews it any more: whoever is given it next has it alone.
    hold(link, &mut held, None, None);
    asked
}

fn ask_and_hold(link: &Link, told: &Told, held: &mut Option<LinkAddress>) -> io::Result<()> {
    let Some(mac) = link.mac else { return Ok(()) };
    let mut device = LinkDevice { socket: DhcpSocket::open(link.index)?, failed: None };
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
    config.random_seed = os::random_u64()?;
    let mut interface = Interface::new(config, &mut device, now());
    let mut packet = [0; FRAME_BYTES_MAX];
    let mut socket = dhcpv4::Socket::new();
    let mut retries = socket.get_retry_config();
    retries.discover_timeout = DISCOVER_EVERY;
    socket.set_retry_config(retries);
    socket.set_receive_packet_buffer(&mut packet);
    let mut storage = [SocketStorage::EMPTY];
    let mut sockets = SocketSet::new(&mut storage[..]);
    let handle = sockets.add(socket);
    loop {
        interface.poll(now(), &mut device, &mut sockets);
        if let Some(error) = device.failed.take() {
            return Err(error);
        }
        match sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
            Some(dhcpv4::Event::Configured(config)) => {
                let cidr = config.address;
                let boot = config.packet.as_ref().map(|packet| packet.server_ip());
                let router = config.router;
                let address = LinkAddress { address: cidr.address(), prefix: cidr.prefix_len() };
                interface.update_ip_addrs(|addresses| {
                    addresses.clear();
                    // There is room for one.
                    let _ = addresses.push(IpCidr::Ipv4(cidr));
                });
                hold(link, held, Some(address), router);
                told(boot.filter(|address| !address.is_unspecified()));
            }
            Some(dhcpv4::Event::Deconfigured) => {
                interface.update_ip_addrs(|addresses| addresses.clear());
                hold(link, held, None, None);
            }
            None => {}
        }
        let delay = interface.poll_delay(now(), &sockets).map_or(IDLE, Duration::from);
        wait_readable(device.socket.as_fd(), delay.min(IDLE))?;
    }
}

/// Has the kernel use an address, or none, in place of the one before.
fn hold(
    link: &Link,
    held: &mut Option<LinkAddress>,
    address: Option<LinkAddress>,
    router: Option<Ipv4Addr>,
) {
    let interface = &link.name;
    let told = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(interface, "{what}: {error}");
        }
    };
    if let Some(former) = held.take_if(|held| Some(*held) != address) {
        tracing::info!(interface, address = %former.address, "the lease is over; its disks need no address");
        told("its address can't be taken away", remove_address(link.index, former));
    }
    let Some(address) = address else { return };
    if *held != Some(address) {
        tracing::info!(interface, address = %address.address, prefix = address.prefix, "has an address");
        told("it can't be given its address", add_address(link.index, address));
        *held = Some(address);
    }
    if let Some(router) = router {
        told("its router can't be set", set_router(link.index, router, COST + link.index));
    }
}

fn now() -> Instant {
    Instant::from_micros(i64::try_from(os::boot_time().as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// A link as smoltcp sees it.
struct LinkDevice {
    socket: DhcpSocket,
    failed: Option<io::Error>,
}

struct Received(Vec<u8>);

struct Sending<'s>(&'s DhcpSocket);

impl Device for LinkDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        match self.socket.receive(&mut frame) {
            Ok(Some(len)) => {
                frame.truncate(len);
                lengthen(&mut frame);
                Some((Received(frame), Sending(&self.socket)))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES_MAX;
        // Of a server on the same machine as this one, or behind the same bridge, the kernel leaves the sum to the card,
        // which never sees the frame. And what is changed below has another.
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

/// Makes a lease that is over at once one that lasts somewhat longer: a server's mistake isn't a flood of questions.
fn lengthen(frame: &mut [u8]) {
    let Some(header) = frame.get(ETHERNET_BYTES).map(|byte| usize::from(byte & 0xf) * 4) else {
        return;
    };
    let Some(message) = frame.get_mut(ETHERNET_BYTES + header + UDP_BYTES..) else { return };
    let Some(mut options) = message.get_mut(OPTIONS_AT..) else { return };
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (OPTION_PAD, rest) => rest,
            (kind, [length, rest @ ..]) if kind != OPTION_END => {
                let Some((value, rest)) = rest.split_at_mut_checked((*length).into()) else {
                    return;
                };
                if let (OPTION_LEASE, Ok(seconds)) = (kind, <&mut [u8; 4]>::try_from(value)) {
                    *seconds = u32::from_be_bytes(*seconds).max(LEASE_SECONDS_MIN).to_be_bytes();
                }
                rest
            }
            _ => return,
        };
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        // Lost, as frames are: it is asked again.
        let _ = self.0.send(&frame);
        result
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(options: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_BYTES + 24 + UDP_BYTES + OPTIONS_AT];
        // A header with an option of its own.
        frame[ETHERNET_BYTES] = 0x46;
        frame.extend(options);
        frame
    }

    #[test]
    fn no_lease_is_over_at_once() {
        let lengthened = |options: &[u8]| {
            let mut one = frame(options);
            lengthen(&mut one);
            let at = one.len() - options.len();
            assert_eq!(one[..at], frame(&[])[..]);
            one[at..].to_vec()
        };
        assert_eq!(
            lengthened(&[53, 1, 5, 0, 51, 4, 0, 0, 0, 0, 255]),
            [53, 1, 5, 0, 51, 4, 0, 0, 0, 30, 255]
        );
        for same in [
            &[51, 4, 0, 0, 14, 16, 255][..],
            &[51, 4, 0, 0],
            &[51, 2, 0, 0, 255],
            &[51],
            &[255, 51, 4, 0, 0, 0, 0],
            &[],
        ] {
            assert_eq!(lengthened(same), same);
        }
        let whole = frame(&[51, 4, 0, 0, 0, 0]);
        for len in 0..whole.len() {
            lengthen(&mut whole[..len].to_vec());
        }
    }

    #[test]
    fn sums_that_the_kernel_left_to_a_card_are_not_looked_at() {
        let Ok(socket) = DhcpSocket::open(1) else {
            eprintln!("SKIPPED: packet sockets need CAP_NET_RAW");
            return;
        };
        let capabilities = LinkDevice { socket, failed: None }.capabilities();
        assert!(!capabilities.checksum.udp.rx() && capabilities.checksum.udp.tx());
    }
}
