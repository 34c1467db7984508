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
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
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
    let mut held = None;
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
                hold(link, &mut held, Some(address), router);
                told(boot.filter(|address| !address.is_unspecified()));
            }
            Some(dhcpv4::Event::Deconfigured) => {
                interface.update_ip_addrs(|addresses| addresses.clear());
                hold(link, &mut held, None, None);
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
        capabilities
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
