//! A DHCP server of a test's own, which gives out what the test says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boot::dhcp::{Addresses, Given, Leases, Network, Outcome, Range, SERVER_PORT, Server};
use os::net::netns::run_in;

/// What it is, and gives out.
pub struct DhcpServer {
    /// By which address it answers.
    pub address: Ipv4Addr,
    /// The addresses, both ends included, of a network with a mask of 24 bits.
    pub range: [Ipv4Addr; 2],
    /// For how long.
    pub lease: Duration,
    /// What everybody is told to boot, if anything.
    pub given: Option<Given>,
}

impl DhcpServer {
    /// Answers in a namespace until the test ends, and nobody as long as what this returns says so.
    pub fn start(self, netns: &str) -> Arc<AtomicBool> {
        let socket = run_in(Some(netns), || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT))?;
            socket.set_broadcast(true)?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        let [first, last] = self.range;
        let network = Network {
            names: BTreeMap::new(),
            router: None,
            name_servers: Vec::new(),
            domain: None,
            lease: self.lease,
        };
        let range = Range::new(first, last, 24).unwrap();
        let leases = Leases::new(range, BTreeMap::new(), Vec::new());
        let mut server = Server::new(self.address, Some(Addresses { leases, network }));
        let is_silent = Arc::<AtomicBool>::default();
        let silent = Arc::clone(&is_silent);
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            loop {
                let (len, from) = socket.recv_from(&mut bytes).unwrap();
                let SocketAddr::V4(from) = from else { continue };
                if silent.load(Ordering::Relaxed) {
                    continue;
                }
                let now = os::boot_time();
                let given = |_: &_| self.given.clone();
                let outcome = server.receive(now, (from, SERVER_PORT), &bytes[..len], given);
                let unkept = server.unkept(now).map(|unkept| unkept.answers).unwrap_or_default();
                let said = match outcome {
                    Outcome::Answered(answer) => Some(answer),
                    _ => None,
                };
                for answer in said.into_iter().chain(unkept) {
                    let _ = socket.send_to(&answer.bytes, answer.to);
                }
            }
        });
        is_silent
    }
}
