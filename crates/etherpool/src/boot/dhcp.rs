//! The sockets of DHCP, each with a thread of its own, around the one state machine; and one that remembers leases.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aoe_wire::MacAddr;
use boot::dhcp::{Answer, Client, Given, Lease, Leases, Outcome, Program, Server, Unkept};
use serde::{Deserialize, Serialize};

use super::kept::{Kept, now_seconds};
use super::serve::Shared;
use super::told;

/// Longer than any message is, with the headers of IP and UDP in one Ethernet frame.
const MESSAGE_BYTES_MAX: usize = 2048;
/// After a failure that may last; and between two writings of the leases.
const PAUSE: Duration = Duration::from_millis(100);
/// Until what couldn't be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The file.
pub const LEASES_FILE: &str = "leases.json";

/// Leases, as they are kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct KeptLeases {
    leases: Vec<KeptLease>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptLease {
    mac: MacAddr,
    address: Ipv4Addr,
    until_seconds: u64,
}

impl KeptLeases {
    fn set(&mut self, leases: &[Lease]) {
        let now = now_seconds();
        let kept = |lease: &Lease| KeptLease {
            mac: lease.mac,
            address: lease.address,
            // Not before it is over: of both times less than a second isn't counted.
            until_seconds: now.saturating_add(lease.left.as_secs()).saturating_add(2),
        };
        self.leases = leases.iter().map(kept).collect();
    }

    /// Gives a table what it had before: for no longer than a lease is, as clocks have been wrong, and files written by hand.
    pub fn put_into(&self, leases: &mut Leases, lease: Duration, now: u64) {
        for KeptLease { mac, address, until_seconds } in &self.leases {
            let left = Duration::from_secs(until_seconds.saturating_sub(now)).min(lease);
            if !left.is_zero() {
                let lease = Lease { mac: *mac, address: *address, left };
                leases.bind(block::Instant::default(), lease);
            }
        }
    }
}

/// The server and what it keeps.
pub struct Dhcp {
    server: Mutex<Server>,
    /// The leases have changed.
    changed: Condvar,
    leases: Kept<KeptLeases>,
    begun: Instant,
    shared: Arc<Shared>,
    /// Other servers that were heard of.
    others: Mutex<BTreeSet<Ipv4Addr>>,
}

/// Of other servers that are told in the log.
const OTHERS_MAX: usize = 16;

impl Dhcp {
    /// Around a server whose clock begins now.
    pub fn new(server: Server, leases: Kept<KeptLeases>, shared: Arc<Shared>) -> Dhcp {
        let (server, others) = (Mutex::new(server), Mutex::default());
        Dhcp { server, changed: Condvar::new(), leases, begun: Instant::now(), shared, others }
    }

    /// Answers what comes to a socket, for ever.
    pub fn serve(&self, socket: &UdpSocket, port: u16) -> io::Result<()> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer) {
                Ok((len, SocketAddr::V4(from))) => (len, from),
                Ok(_) => continue,
                Err(error) => {
                    // Of an answer that didn't arrive, or that the interface is down.
                    tracing::debug!(%error, port, "DHCP");
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let message = buffer.get(..len).unwrap_or_default();
            let now = self.now();
            let outcome =
                self.lock().receive(now, (from, port), message, |client| self.given(client));
            match outcome {
                Outcome::Answered(answer) => self.send(socket, &answer),
                Outcome::Changed => self.changed.notify_all(),
                Outcome::Exhausted => self.shared.troubles.tell(|untold| {
                    tracing::warn!(untold, "DHCP: all addresses of the range are taken");
                }),
                Outcome::AnotherServer(other) => self.meet(other),
                Outcome::Nothing => {}
            }
        }
    }

    /// Remembers leases as they change, and answers by this socket those whose they are; for ever.
    pub fn keep(&self, socket: &UdpSocket) -> io::Result<()> {
        loop {
            let mut server = self.lock();
            let unkept = loop {
                match server.unkept(self.now()) {
                    Some(unkept) => break unkept,
                    None => {
                        let waited = self.changed.wait(server);
                        server = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(server);
            let kept = self.write(&unkept);
            // Machines boot also where nothing can be written: by the leases in memory.
            unkept.answers.iter().for_each(|answer| self.send(socket, answer));
            // Many that come at once are written at once.
            std::thread::sleep(if kept { PAUSE } else { AGAIN });
        }
    }

    /// Writes leases that have changed and weren't written, at the end. Blocks.
    pub fn write_last(&self) {
        let unkept = self.lock().unkept(self.now());
        unkept.map(|unkept| self.write(&unkept));
    }

    fn write(&self, unkept: &Unkept) -> bool {
        self.leases.change().set(&unkept.leases);
        let written = self.leases.write(&self.shared.state.root);
        if let Err(error) = &written {
            self.lock().not_kept();
            tracing::error!(
                "leases can't be kept: {error:#}; as long as that lasts, a restart of this server may give an address twice"
            );
        }
        written.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, socket: &UdpSocket, answer: &Answer) {
        if let Err(error) = socket.send_to(&answer.bytes, answer.to) {
            self.shared.troubles.tell(|untold| {
                tracing::warn!(to = %answer.to, %error, untold, "DHCP can't answer");
            });
        }
    }

    fn now(&self) -> block::Instant {
        let nanos = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        block::Instant::from_nanos(nanos)
    }

    fn given(&self, client: &Client) -> Option<Given> {
        if client.program == Program::Other {
            return None;
        }
        let decided = self.shared.known.now().decided(client.uuid, Some(client.mac));
        let (given, words) = told::given(&self.shared.place, &decided, client);
        let is_news = self.shared.sightings.change().asked(client, &words);
        if is_news {
            self.shared.news.tell(|untold| {
                let uuid = client.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
                let architecture = client.architecture;
                tracing::info!(mac = %client.mac, uuid, %architecture, given = words, untold, "a machine asks what to boot");
            });
        }
        given
    }

    /// Somebody else gives out addresses, too: two who do so give one address to two machines, sooner or later.
    fn meet(&self, other: Ipv4Addr) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.len() < OTHERS_MAX && others.insert(other) {
            tracing::error!(
                %other,
                "a machine has taken its address from another DHCP server of this segment: \
                 take [dhcp] out of the configuration, or stop that server"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use boot::dhcp::Range;

    use super::*;

    #[test]
    fn no_lease_is_longer_than_leases_are() {
        let range = Range::new([10, 0, 0, 10].into(), [10, 0, 0, 20].into(), 24).unwrap();
        let mut leases = Leases::new(range, [].into(), Vec::new());
        let kept = |last, until_seconds| KeptLease {
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            address: Ipv4Addr::new(10, 0, 0, last),
            until_seconds,
        };
        let kept = KeptLeases { leases: vec![kept(10, u64::MAX), kept(11, 1060), kept(12, 999)] };
        kept.put_into(&mut leases, Duration::from_secs(3600), 1000);
        let left: Vec<u64> = leases
            .all(block::Instant::default())
            .iter()
            .map(|lease| lease.left.as_secs())
            .collect();
        assert_eq!(left, [3600, 60]);
    }
}
