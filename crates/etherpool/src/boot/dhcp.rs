//! The sockets of DHCP, each with a thread of its own, around the one state machine; and one that remembers leases.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aoe_wire::MacAddr;
use boot::dhcp::{Answer, Client, Given, Leases, Outcome, Program, Remembered, Server, Unkept};
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
    fn set(&mut self, leases: &[Remembered], clock: &Clock) {
        // The clock on the wall may have been put right since the server began.
        let (now, wall) = (clock.now(), now_seconds());
        let kept = |lease: &Remembered| KeptLease {
            mac: lease.mac,
            address: lease.address,
            // Not before it is over: of both times less than a second isn't counted.
            until_seconds: wall
                .saturating_add(lease.until.since(now).as_secs().saturating_add(2))
                .saturating_sub(now.since(lease.until).as_secs()),
        };
        self.leases = leases.iter().map(kept).collect();
    }

    /// Gives a table what it had before: for no longer than a lease is, as clocks have been wrong, and files written by hand.
    /// What looks over is taken up as that, for the same reason.
    pub fn put_into(&self, leases: &mut Leases, lease: Duration, clock: &Clock) {
        let now = clock.now();
        for KeptLease { mac, address, until_seconds } in &self.leases {
            let until = since_1970(*until_seconds).min(now + lease);
            leases.recall(Remembered { mac: *mac, address: *address, until });
        }
    }
}

/// The time of the state machine: since 1970 as it was known when the server began, so that what was before has a time, too;
/// from then on it goes on evenly, whatever becomes of the clock on the wall.
pub struct Clock {
    began: block::Instant,
    begun: Instant,
}

impl Clock {
    /// Now, by the clock on the wall.
    pub fn begin(wall_seconds: u64) -> Clock {
        Clock { began: since_1970(wall_seconds), begun: Instant::now() }
    }

    fn now(&self) -> block::Instant {
        self.began + self.begun.elapsed()
    }
}

fn since_1970(seconds: u64) -> block::Instant {
    block::Instant::default() + Duration::from_secs(seconds)
}

/// The server and what it keeps.
pub struct Dhcp {
    server: Mutex<Server>,
    /// The leases have changed.
    changed: Condvar,
    leases: Kept<KeptLeases>,
    clock: Clock,
    shared: Arc<Shared>,
    /// Other servers that were heard of.
    others: Mutex<BTreeSet<Ipv4Addr>>,
}

/// Of other servers that are told in the log.
const OTHERS_MAX: usize = 16;

impl Dhcp {
    /// Around a server, with the clock by which it was given its leases.
    pub fn new(
        server: Server,
        clock: Clock,
        leases: Kept<KeptLeases>,
        shared: Arc<Shared>,
    ) -> Dhcp {
        let (server, others) = (Mutex::new(server), Mutex::default());
        Dhcp { server, changed: Condvar::new(), leases, clock, shared, others }
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
            let now = self.clock.now();
            let outcome =
                self.lock().receive(now, (from, port), message, |client| self.given(client));
            match outcome {
                Outcome::Answered(answer) => self.send(socket, &answer),
                Outcome::Instead(answer, own) => {
                    self.send(socket, &answer);
                    self.shared.troubles.tell(|untold| {
                        tracing::warn!(%own, untold, "DHCP: another machine has the address of a [[static]] one, which is offered another until that is free");
                    });
                }
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
                match server.unkept(self.clock.now()) {
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
        let unkept = self.lock().unkept(self.clock.now());
        unkept.map(|unkept| self.write(&unkept));
    }

    fn write(&self, unkept: &Unkept) -> bool {
        self.leases.change().set(&unkept.leases, &self.clock);
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

    const HOUR: Duration = Duration::from_secs(3600);

    fn table() -> Leases {
        let range = Range::new([10, 0, 0, 10].into(), [10, 0, 0, 20].into(), 24).unwrap();
        Leases::new(range, [].into(), Vec::new())
    }

    fn kept(last: u8, until_seconds: u64) -> KeptLease {
        let address = Ipv4Addr::new(10, 0, 0, last);
        KeptLease { mac: MacAddr([2, 0, 0, 0, 0, last]), address, until_seconds }
    }

    /// Of each how many seconds are left, or have passed.
    fn left(leases: &Leases, clock: &Clock) -> Vec<i64> {
        let began = i64::try_from(clock.began.as_nanos()).unwrap();
        let left = |lease: Remembered| i64::try_from(lease.until.as_nanos()).unwrap() - began;
        leases.all().into_iter().map(|lease| left(lease).div_euclid(1_000_000_000)).collect()
    }

    /// The clock was behind when leases were written, and right after a restart: all looked over, none was taken up, and
    /// addresses in use were free.
    #[test]
    fn no_lease_is_longer_than_leases_are_and_none_is_forgotten_that_looks_over() {
        let (mut leases, clock) = (table(), Clock::begin(1_000_000));
        let all = [kept(10, u64::MAX), kept(11, 1_000_060), kept(12, 999_000), kept(13, 0)];
        KeptLeases { leases: all.into() }.put_into(&mut leases, HOUR, &clock);
        assert_eq!(left(&leases, &clock), [3600, 60, -1000, -1_000_000]);
    }

    #[test]
    fn leases_are_written_by_the_clock_on_the_wall_as_it_is_then() {
        // The server began with a clock that was behind by years.
        let (mut leases, clock) = (table(), Clock::begin(1_000_000));
        let all = [kept(10, 1_001_000), kept(11, 999_000)];
        KeptLeases { leases: all.into() }.put_into(&mut leases, HOUR, &clock);
        let mut written = KeptLeases::default();
        written.set(&leases.all(), &clock);
        let (mut again, clock) = (table(), Clock::begin(now_seconds()));
        written.put_into(&mut again, HOUR, &clock);
        for (is, was) in left(&again, &clock).into_iter().zip([1000, -1000]) {
            assert!((was - 60..=was + 2).contains(&is), "{is} {was}");
        }
        assert_eq!(again.all().len(), 2);
    }
}
