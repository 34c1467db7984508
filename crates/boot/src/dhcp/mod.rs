//! DHCP for machines that boot (RFC 2131, PXE 2.1): beside the server that gives out addresses (*proxy*), or as that.
//!
//! [`Server`] is told each message that comes to ports 67 and 4011, and says what is sent where. Whether a machine is
//! given anything to boot is the caller's to decide, and is [`Given`].

mod client;
mod leases;
mod message;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use aoe_wire::MacAddr;
use block::Instant;
use smoltcp::wire::DhcpMessageType;

pub use client::{Architecture, Client, Program};
pub use leases::{Lease, Leases, Range, RangeError, Remembered};

use message::{Reply, Request, RequestKind, option};

/// Where clients ask for an address.
pub const SERVER_PORT: u16 = 67;
/// Where clients hear.
pub const CLIENT_PORT: u16 = 68;
/// Where PXE's clients ask a proxy what to boot (PXE 2.1, 2.2.3).
pub const PROXY_PORT: u16 = 4011;

/// PXE 2.1, table 2-1: "discovery control", and of it "don't look for boot servers, take the file that is named".
const DISCOVERY_CONTROL: [u8; 4] = [6, 1, 0b1000, 255];

/// What machines of a network are told beside their address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Where packets to other networks go.
    pub router: Option<Ipv4Addr>,
    /// Who knows names.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain of names.
    pub domain: Option<String>,
    /// How long an address is one's own.
    pub lease: Duration,
    /// What machines are told that they are called.
    pub names: BTreeMap<MacAddr, String>,
}

/// What a machine is given to begin with: a file, by TFTP for [`Program::Pxe`], else a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given(pub String);

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where to. The broadcast address means: on the interface that the request came by.
    pub to: SocketAddrV4,
    /// What.
    pub bytes: Vec<u8>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was none, or isn't ours to answer.
    Nothing,
    /// It is answered; the leases are what they were.
    Answered(Answer),
    /// The leases have changed: see [`Server::unkept`].
    Changed,
    /// It is answered; but the address that the machine is always to have is another's at the moment.
    Instead(Answer, Ipv4Addr),
    /// All addresses are taken.
    Exhausted,
    /// A machine has chosen another server, though it should be us who give out addresses.
    AnotherServer(Ipv4Addr),
}

/// Addresses that are given out, and what is said with them.
#[derive(Debug)]
pub struct Addresses {
    /// To whom.
    pub leases: Leases,
    /// The rest.
    pub network: Network,
}

/// What is to be remembered, and whom to answer then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unkept {
    /// All leases.
    pub leases: Vec<Remembered>,
    /// To machines that were given an address. **Not before it is remembered**: else a server that begins anew gives it
    /// to another one.
    pub answers: Vec<Answer>,
}

/// The state machine.
#[derive(Debug)]
pub struct Server {
    /// Our address on this network.
    address: Ipv4Addr,
    /// None beside another server.
    addresses: Option<Addresses>,
    /// The leases have changed since they were remembered.
    is_changed: bool,
    /// Who is answered when they are, and has what. Never more than there are addresses.
    waiting: BTreeMap<MacAddr, (Ipv4Addr, Answer)>,
}

/// What becomes of a message to who gives out addresses.
enum Served {
    /// The leases are what they were.
    Said(Outcome),
    /// The machine has an address.
    Bound(Ipv4Addr, Answer),
    /// It has none any more.
    Ended,
}

impl Server {
    /// One that answers by this address; beside another server that gives out addresses, or with those to give out.
    pub fn new(address: Ipv4Addr, addresses: Option<Addresses>) -> Server {
        Server { address, addresses, is_changed: false, waiting: BTreeMap::new() }
    }

    /// What is to be remembered now, if anything: once. Many are gathered if it is asked seldom.
    pub fn unkept(&mut self, now: Instant) -> Option<Unkept> {
        let addresses = self.addresses.as_ref().filter(|_| self.is_changed)?;
        self.is_changed = false;
        let leases = addresses.leases.all();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        // It may have given it back meanwhile, or waited too long.
        let has = |mac, at| addresses.leases.is_bound(now, mac, at);
        let answers =
            waiting.filter(|(mac, (at, _))| has(*mac, *at)).map(|(_, (_, answer))| answer);
        Some(Unkept { answers: answers.collect(), leases })
    }

    /// That couldn't be done: it is to be tried again.
    pub fn not_kept(&mut self) {
        self.is_changed = true;
    }

    /// A message that came to this port of ours. `given` says what a machine is given to boot, if anything.
    pub fn receive(
        &mut self,
        now: Instant,
        (from, port): (SocketAddrV4, u16),
        bytes: &[u8],
        given: impl FnOnce(&Client) -> Option<Given>,
    ) -> Outcome {
        let Some(request) = Request::parse(bytes) else { return Outcome::Nothing };
        // Behind a relay is another network, which is none of ours; and whoever names one could have anybody written to.
        if request.is_relayed {
            return Outcome::Nothing;
        }
        match (&mut self.addresses, request.kind) {
            // A client that has an address by now asks what to boot.
            (_, RequestKind::Request | RequestKind::Inform) if port == PROXY_PORT => {
                match request.server.is_none_or(|server| server == self.address) {
                    true => self.tell_boot(&request, DhcpMessageType::Ack, from, given),
                    false => Outcome::Nothing,
                }
            }
            _ if port == PROXY_PORT => Outcome::Nothing,
            (Some(addresses), _) => {
                let mac = request.client.mac;
                match serve(self.address, addresses, now, (*from.ip(), &request), given) {
                    Served::Said(outcome) => return outcome,
                    Served::Bound(at, answer) => {
                        let is_full = self.waiting.len() >= addresses.leases.len();
                        // Who isn't answered asks again.
                        if !is_full || self.waiting.contains_key(&mac) {
                            self.waiting.insert(mac, (at, answer));
                        }
                    }
                    Served::Ended => {}
                }
                self.is_changed = true;
                Outcome::Changed
            }
            // Another server gives the address.
            (None, RequestKind::Discover) => {
                self.tell_boot(&request, DhcpMessageType::Offer, hears(&request), given)
            }
            (None, _) => Outcome::Nothing,
        }
    }

    /// Says what to boot, and nothing of addresses. Whoever isn't to boot from here hears nothing of us.
    fn tell_boot(
        &self,
        request: &Request,
        kind: DhcpMessageType,
        to: SocketAddrV4,
        given: impl FnOnce(&Client) -> Option<Given>,
    ) -> Outcome {
        if request.client.program == Program::Other {
            return Outcome::Nothing;
        }
        let Some(given) = given(&request.client) else { return Outcome::Nothing };
        let mut reply = Reply::new(request, kind, self.address);
        reply.set_addresses(None, request.uses);
        put_boot(&mut reply, self.address, &request.client, &given);
        Outcome::Answered(Answer { to, bytes: reply.finish() })
    }
}

/// We give the address.
fn serve(
    address: Ipv4Addr,
    Addresses { leases, network }: &mut Addresses,
    now: Instant,
    (from, request): (Ipv4Addr, &Request),
    given: impl FnOnce(&Client) -> Option<Given>,
) -> Served {
    let mac = request.client.mac;
    let range = leases.range().clone();
    let netmask = range.netmask();
    let full = |kind, got: Option<(Ipv4Addr, Duration)>| {
        let mut reply = Reply::new(request, kind, address);
        reply.set_addresses(got.map(|(got, _)| got), request.uses);
        if let Some(given) = given(&request.client) {
            put_boot(&mut reply, address, &request.client, &given);
        }
        put_network(&mut reply, netmask, network, got.map(|(_, left)| left));
        reply.put(option::HOST_NAME, network.names.get(&mac).map_or(&[], |name| name.as_bytes()));
        // Nobody elsewhere is written to by us, whatever address is said to be his.
        let is_near = request.uses.is_some_and(|used| range.has(used));
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        let to = if is_near { hears(request) } else { everybody };
        Answer { to, bytes: reply.finish() }
    };
    match request.kind {
        RequestKind::Discover => Served::Said(match leases.offer(now, mac, request.wants) {
            Some(offered) => {
                let answer = full(DhcpMessageType::Offer, Some((offered, network.lease)));
                match leases.misses(now, mac) {
                    Some(own) => Outcome::Instead(answer, own),
                    None => Outcome::Answered(answer),
                }
            }
            None => Outcome::Exhausted,
        }),
        RequestKind::Request => {
            if let Some(other) = request.server.filter(|server| *server != address) {
                leases.withdraw(now, mac);
                return Served::Said(Outcome::AnotherServer(other));
            }
            let Some(wanted) = request.wants.or(request.uses) else {
                return Served::Said(Outcome::Nothing);
            };
            // Also a machine that nothing is known of may keep what it has: where we forgot, or another server was before.
            let left = leases.bind(now, Lease { mac, address: wanted, left: network.lease });
            if let Some(left) = left {
                Served::Bound(wanted, full(DhcpMessageType::Ack, Some((wanted, left))))
            } else {
                let bytes = Reply::new(request, DhcpMessageType::Nak, address).finish();
                // Everybody hears that: the address that the client has may be of no use (RFC 2131, 4.3.2).
                let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
                Served::Said(Outcome::Answered(Answer { to, bytes }))
            }
        }
        RequestKind::Inform => {
            Served::Said(match request.uses.filter(|used| leases.range().has(*used)) {
                Some(_) => Outcome::Answered(full(DhcpMessageType::Ack, None)),
                None => Outcome::Nothing,
            })
        }
        // By who has it, from where he has it: the address is in the message, and what it came from, too.
        RequestKind::Release
            if request.uses.is_some_and(|used| used == from && leases.release(now, mac, used)) =>
        {
            Served::Ended
        }
        RequestKind::Decline if request.wants.is_some_and(|at| leases.decline(now, mac, at)) => {
            Served::Ended
        }
        RequestKind::Release | RequestKind::Decline => Served::Said(Outcome::Nothing),
    }
}

/// What goes with an address.
fn put_network(reply: &mut Reply, netmask: Ipv4Addr, network: &Network, lease: Option<Duration>) {
    reply.put_address(option::SUBNET_MASK, netmask);
    if let Some(lease) = lease {
        let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        reply.put_seconds(option::LEASE_TIME, seconds);
        // RFC 2131, 4.4.5.
        reply.put_seconds(option::RENEWAL_TIME, seconds / 2);
        reply.put_seconds(option::REBINDING_TIME, seconds / 8 * 7);
    }
    if let Some(router) = network.router {
        reply.put_address(option::ROUTER, router);
    }
    let servers: Vec<u8> = network.name_servers.iter().flat_map(Ipv4Addr::octets).collect();
    reply.put(option::NAME_SERVER, &servers);
    reply.put(option::DOMAIN_NAME, network.domain.as_deref().unwrap_or_default().as_bytes());
}

/// What a machine is to boot, in the words of what it runs.
fn put_boot(reply: &mut Reply, server: Ipv4Addr, client: &Client, given: &Given) {
    match client.program {
        Program::Pxe => {
            reply.put(option::VENDOR_CLASS, b"PXEClient");
            reply.put(option::VENDOR_SPECIFIC, &DISCOVERY_CONTROL);
        }
        // Firmware takes the file for a URL only where this comes back (UEFI 2.10, 24.7.3.1).
        Program::Http => reply.put(option::VENDOR_CLASS, b"HTTPClient"),
        // It takes an offer without an address for a proxy's only with this.
        Program::Ipxe => reply.put(option::VENDOR_CLASS, b"PXEClient"),
        Program::Other => return,
    }
    reply.set_file(server, &given.0);
}

/// Where a client hears the answer (RFC 2131, 4.1): by the address that it has, or else by broadcast; also who could hear
/// what is sent to the address that he is about to get: that takes a packet made by hand, as nobody answers for it yet.
fn hears(request: &Request) -> SocketAddrV4 {
    SocketAddrV4::new(request.uses.unwrap_or(Ipv4Addr::BROADCAST), CLIENT_PORT)
}

#[cfg(test)]
mod recorded_tests;
#[cfg(test)]
mod tests;
