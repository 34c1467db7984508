//! Machines that boot: addresses by DHCP and a file by TFTP, over a network that loses, doubles and delays, of a server
//! that dies at any moment and remembers what it has written.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::MacAddr;
use block::Instant;
use boot::dhcp::{
    self, Addresses, CLIENT_PORT, Leases, Network, Outcome, Range, Remembered, SERVER_PORT,
};
use boot::tftp::packet::{PORT, data_header};
use boot::tftp::{self, Effect, Outgoing, TransferId};
use futures::FutureExt;
use futures::future::{Either, select};
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::{Handle, Notify};

use super::scenario;
use crate::random::fork;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Verdict;
use crate::world::{Clock, Process, Timeline, World};

pub const SCENARIOS: &[Scenario] = &[scenario(
    "machines-boot",
    "machines and the boot server die and come back, and packets are lost: each machine has an address of its own, and gets \
     its file",
    600,
    |stage| machines_boot(stage).boxed_local(),
)];

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MACHINES: u8 = 10;
/// So short that it ends often.
const LEASE: Duration = Duration::from_secs(20);
const FILE_BYTES: u64 = 20_000;
/// Bytes of a block of a file, where nothing else was agreed on (RFC 1350).
const BLOCK: usize = 512;
/// How long things break, and how long all may take then.
const TROUBLE: Duration = Duration::from_secs(200);
const REST: Duration = Duration::from_secs(90);

fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8
}

type Datagram = (SocketAddrV4, SocketAddrV4, Vec<u8>);

/// Where datagrams come to, of a process.
#[derive(Default)]
struct Host {
    address: Cell<Option<Ipv4Addr>>,
    queue: RefCell<VecDeque<Datagram>>,
    arrived: Notify,
}

impl Host {
    /// The next datagram, if one comes in time.
    async fn hear(&self, runtime: &Handle, until: Instant) -> Option<Datagram> {
        loop {
            let arrived = self.arrived.notified();
            let next = self.queue.borrow_mut().pop_front();
            if next.is_some() {
                return next;
            }
            match select(std::pin::pin!(arrived), runtime.sleep_until(until)).await {
                Either::Left(_) => {}
                Either::Right(_) => return None,
            }
        }
    }
}

/// The segment.
struct Segment {
    timeline: Rc<Timeline>,
    random: RefCell<SmallRng>,
    /// In percent.
    lost: Cell<u32>,
    doubled: Cell<u32>,
    late_ms: Cell<u64>,
    hosts: RefCell<BTreeMap<u8, Rc<Host>>>,
}

impl Segment {
    /// What was under way to a former one of this number is for nobody.
    fn join(&self, number: u8, address: Option<Ipv4Addr>) -> Rc<Host> {
        let host = Rc::new(Host { address: Cell::new(address), ..Host::default() });
        self.hosts.borrow_mut().insert(number, Rc::clone(&host));
        host
    }

    fn send(self: &Rc<Self>, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        let copies = {
            let mut random = self.random.borrow_mut();
            let is_lost = random.random_range(0..100) < self.lost.get();
            let is_doubled = random.random_range(0..100) < self.doubled.get();
            if is_lost { 0 } else { 1 + u32::from(is_doubled) }
        };
        for _ in 0..copies {
            let late = self.random.borrow_mut().random_range(0..=self.late_ms.get() * 1000);
            let (segment, bytes) = (Rc::clone(self), bytes.to_vec());
            self.timeline.after(Duration::from_micros(100 + late), move || {
                for host in segment.hosts.borrow().values() {
                    let is_sender = host.address.get() == Some(*from.ip());
                    let is_for = to.ip().is_broadcast() && !is_sender;
                    if is_for || host.address.get() == Some(*to.ip()) {
                        host.queue.borrow_mut().push_back((from, to, bytes.clone()));
                        host.arrived.notify_all();
                    }
                }
            });
        }
    }
}

/// What a server's disk has: leases, by the world's time, which is the clock of the state machine too.
type Disk = RefCell<Vec<Remembered>>;

/// The boot server around its cores, as the program has it.
struct BootServer {
    segment: Rc<Segment>,
    host: Rc<Host>,
    runtime: Handle,
    disk: Rc<Disk>,
    dhcp: RefCell<dhcp::Server>,
    changed: Notify,
}

impl BootServer {
    fn new(all: &All, runtime: Handle) -> Rc<BootServer> {
        let mut leases = Leases::new(all.range.clone(), BTreeMap::new(), vec![SERVER]);
        all.disk.borrow().iter().for_each(|lease| leases.recall(*lease));
        let network = Network {
            router: None,
            name_servers: Vec::new(),
            domain: None,
            lease: LEASE,
            names: BTreeMap::new(),
        };
        let dhcp = dhcp::Server::new(SERVER, Some(Addresses { leases, network }));
        Rc::new(BootServer {
            segment: Rc::clone(&all.segment),
            host: all.segment.join(0, Some(SERVER)),
            runtime,
            disk: Rc::clone(&all.disk),
            dhcp: RefCell::new(dhcp),
            changed: Notify::new(),
        })
    }

    /// Writes take a while, and are whole or not there.
    async fn keep(self: Rc<Self>) {
        loop {
            let changed = self.changed.notified();
            let unkept = self.dhcp.borrow_mut().unkept(self.segment.timeline.now());
            let Some(unkept) = unkept else {
                changed.await;
                continue;
            };
            let takes = self.runtime.random_below(300);
            self.runtime.sleep(Duration::from_millis(takes)).await;
            *self.disk.borrow_mut() = unkept.leases;
            unkept.answers.iter().for_each(|answer| self.send_answer(answer));
        }
    }

    fn send_answer(&self, answer: &dhcp::Answer) {
        self.segment.send(SocketAddrV4::new(SERVER, SERVER_PORT), answer.to, &answer.bytes);
    }

    async fn serve(self: Rc<Self>) {
        let mut tftp = tftp::Server::new(tftp::Limits::default());
        let mut ports: BTreeMap<TransferId, u16> = BTreeMap::new();
        let mut next_port = 10_000;
        loop {
            let mut out = Vec::new();
            let idle = self.runtime.now() + Duration::from_secs(3600);
            let until = tftp.deadline().unwrap_or(idle);
            let heard = self.host.hear(&self.runtime, until).await;
            let now = self.runtime.now();
            tftp.poll(now, &mut out);
            match heard {
                Some((from, to, bytes)) if to.port() == SERVER_PORT => {
                    let now = self.segment.timeline.now();
                    let outcome =
                        self.dhcp.borrow_mut().receive(now, (from, SERVER_PORT), &bytes, |_| None);
                    match outcome {
                        Outcome::Answered(answer) => self.send_answer(&answer),
                        Outcome::Changed => self.changed.notify_all(),
                        _ => {}
                    }
                }
                Some((from, to, bytes)) if to.port() == PORT => {
                    if let Ok(Some(opening)) = tftp.request(now, from, &bytes, &mut out)
                        && let Ok(Some(id)) = tftp.begin(now, opening, FILE_BYTES, &mut out)
                    {
                        next_port += 1;
                        ports.insert(id, next_port);
                    }
                }
                Some((from, to, bytes)) => {
                    let id = ports.iter().find(|(_, port)| **port == to.port()).map(|(id, _)| *id);
                    if let Some(id) = id {
                        tftp.receive(now, id, from, &bytes, &mut out);
                    }
                }
                None => {}
            }
            for effect in out {
                match effect {
                    Effect::Over { id, .. } => drop(ports.remove(&id)),
                    Effect::Send { id, to, what } => {
                        let Some(port) = ports.get(&id) else { continue };
                        let bytes = match what {
                            Outgoing::Packet(bytes) => bytes,
                            Outgoing::Data { block, offset, len } => {
                                let data = (offset..offset + len as u64).map(byte_at);
                                data_header(block).into_iter().chain(data).collect()
                            }
                        };
                        self.segment.send(SocketAddrV4::new(SERVER, *port), to, &bytes);
                    }
                }
            }
        }
    }
}

/// A machine's life from one power-on to the next.
struct Machine {
    all: Rc<All>,
    number: u8,
    host: Rc<Host>,
    runtime: Handle,
}

/// What a server says to a machine.
struct Said {
    kind: u8,
    address: Ipv4Addr,
}

/// Kinds of messages (RFC 2132, 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

impl Machine {
    fn mac(&self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, self.number])
    }

    fn message(&self, kind: u8, transaction: u32, options: &[(u8, Ipv4Addr)]) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&transaction.to_be_bytes());
        let own = self.host.address.get().unwrap_or(Ipv4Addr::UNSPECIFIED);
        bytes[12..16].copy_from_slice(&own.octets());
        bytes[28..34].copy_from_slice(&self.mac().0);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, kind]);
        for (option, address) in options {
            bytes.extend([*option, 4]);
            bytes.extend(address.octets());
        }
        bytes.push(255);
        bytes
    }

    /// Asks until somebody answers, some times; with the time at which it was asked first.
    async fn ask(
        &self,
        (kind, tries): (u8, u32),
        options: &[(u8, Ipv4Addr)],
        end: Option<Instant>,
    ) -> Option<(Said, Instant)> {
        let transaction = self.runtime.random_u64() as u32;
        let bytes = self.message(kind, transaction, options);
        let own = self.host.address.get();
        let from = SocketAddrV4::new(own.unwrap_or(Ipv4Addr::UNSPECIFIED), CLIENT_PORT);
        let to = SocketAddrV4::new(own.map_or(Ipv4Addr::BROADCAST, |_| SERVER), SERVER_PORT);
        let begun = self.runtime.now();
        for _ in 0..tries {
            self.all.segment.send(from, to, &bytes);
            let patience = 500 + self.runtime.random_below(1000);
            let until = self.runtime.now() + Duration::from_millis(patience);
            let until = end.map_or(until, |end| until.min(end));
            while let Some((_, to, heard)) = self.host.hear(&self.runtime, until).await {
                let is_mine = to.port() == CLIENT_PORT && heard[4..8] == transaction.to_be_bytes();
                if let Some(at) =
                    heard.windows(2).position(|two| two == [53, 1]).filter(|_| is_mine)
                {
                    let address = <[u8; 4]>::try_from(&heard[16..20]).unwrap_or_default();
                    return Some((Said { kind: heard[at + 2], address: address.into() }, begun));
                }
            }
            if end.is_some_and(|end| self.runtime.now() >= end) {
                return None;
            }
        }
        None
    }

    /// An address, and since when it is the machine's.
    async fn get_address(&self) -> (Ipv4Addr, Instant) {
        const WANTED: u8 = 50;
        const OF_SERVER: u8 = 54;
        loop {
            // Many ask first for what they had (RFC 2131, 3.2).
            let former = self.all.former.borrow().get(&self.number).copied();
            let former = former.filter(|_| self.runtime.random_below(2) == 0);
            let (wanted, options) = match former {
                Some(former) => (former, vec![(WANTED, former)]),
                None => match self.ask((DISCOVER, 1), &[], None).await {
                    Some((Said { kind: OFFER, address }, _)) => {
                        (address, vec![(WANTED, address), (OF_SERVER, SERVER)])
                    }
                    _ => continue,
                },
            };
            if let Some((Said { kind: ACK, address }, asked)) =
                self.ask((REQUEST, 4), &options, None).await
                && address == wanted
            {
                return (address, asked);
            }
            self.all.former.borrow_mut().remove(&self.number);
        }
    }

    async fn live(self) {
        loop {
            let (address, mut since) = self.get_address().await;
            self.all.take(self.number, address);
            self.host.address.set(Some(address));
            loop {
                let half = since + LEASE / 2;
                if !self.all.has_booted.borrow().contains(&self.number)
                    && self.fetch(address, half).await
                {
                    self.all.has_booted.borrow_mut().insert(self.number);
                }
                while self.host.hear(&self.runtime, half).await.is_some() {}
                match self.ask((REQUEST, 100), &[], Some(since + LEASE)).await {
                    Some((Said { kind: ACK, address: same }, asked)) if same == address => {
                        since = asked;
                    }
                    _ => break,
                }
            }
            self.host.address.set(None);
            self.all.give_up(self.number);
        }
    }

    /// By a client as simple as they come (RFC 1350).
    async fn fetch(&self, address: Ipv4Addr, end: Instant) -> bool {
        let port = 4000 + (self.runtime.random_below(1000)) as u16;
        let own = SocketAddrV4::new(address, port);
        let mut server = SocketAddrV4::new(SERVER, PORT);
        let mut says = b"\x00\x01node.img\0octet\0".to_vec();
        let (mut have, mut blocks) = (0, 0_u16);
        loop {
            if self.runtime.now() >= end {
                return false;
            }
            self.all.segment.send(own, server, &says);
            let until = (self.runtime.now() + Duration::from_secs(1)).min(end);
            while let Some((from, to, bytes)) = self.host.hear(&self.runtime, until).await {
                let is_next = to == own
                    && (blocks == 0 || from == server)
                    && bytes.starts_with(&[0, 3])
                    && bytes[2..4] == blocks.wrapping_add(1).to_be_bytes();
                if !is_next {
                    continue;
                }
                (server, blocks) = (from, blocks + 1);
                let data = &bytes[4..];
                if !data.iter().zip(have..).all(|(byte, at)| *byte == byte_at(at)) {
                    self.all.verdict.fail(format!("machine {}: other bytes", self.number));
                }
                have += data.len() as u64;
                says = [0, 4].into_iter().chain(blocks.to_be_bytes()).collect();
                if data.len() < BLOCK {
                    self.all.segment.send(own, server, &says);
                    if have != FILE_BYTES {
                        self.all.verdict.fail(format!("machine {}: {have} bytes", self.number));
                    }
                    return true;
                }
                break;
            }
        }
    }
}

/// All of it, and who has which address.
struct All {
    world: Rc<World>,
    verdict: Rc<Verdict>,
    segment: Rc<Segment>,
    range: Range,
    disk: Rc<Disk>,
    holders: RefCell<BTreeMap<Ipv4Addr, u8>>,
    /// What a machine had last, which it remembers.
    former: RefCell<BTreeMap<u8, Ipv4Addr>>,
    has_booted: RefCell<BTreeSet<u8>>,
}

impl All {
    fn take(&self, machine: u8, address: Ipv4Addr) {
        self.world.story().tell(&format!("machine-{machine}"), &format!("has {address}"));
        self.former.borrow_mut().insert(machine, address);
        if let Some(other) = self.holders.borrow_mut().insert(address, machine)
            && other != machine
        {
            self.verdict.fail(format!("{address} is of machine {other}, and given to {machine}"));
        }
    }

    fn give_up(&self, machine: u8) {
        self.holders.borrow_mut().retain(|_, holder| *holder != machine);
    }

    fn start_server(self: &Rc<Self>) -> Rc<Process> {
        let clock = Clock { booted: self.world.timeline().now(), drift_ppm: 0 };
        let process = self.world.start_process("boot-server", clock);
        if let Some(runtime) = process.handle() {
            let server = BootServer::new(self, runtime.clone());
            runtime.spawn(Rc::clone(&server).keep());
            runtime.spawn(server.serve());
        }
        process
    }

    fn switch_on(self: &Rc<Self>, number: u8) -> Rc<Process> {
        self.has_booted.borrow_mut().remove(&number);
        let process = self.world.start_process(&format!("machine-{number}"), Clock::default());
        if let Some(runtime) = process.handle() {
            let host = self.segment.join(number, None);
            let machine = Machine { all: Rc::clone(self), number, host, runtime: runtime.clone() };
            runtime.spawn(machine.live());
        }
        process
    }
}

async fn machines_boot(stage: Stage) -> Result<(), Failure> {
    let world = Rc::clone(&stage.world);
    let mut random = fork(world.seed(), "booting");
    let last = 9 + MACHINES + random.random_range(0..3);
    let range = Range::new([10, 0, 0, 10].into(), [10, 0, 0, last].into(), 24);
    let all = Rc::new(All {
        segment: Rc::new(Segment {
            timeline: Rc::clone(world.timeline()),
            random: RefCell::new(fork(world.seed(), "segment")),
            lost: Cell::new(0),
            doubled: Cell::new(0),
            late_ms: Cell::new(1),
            hosts: RefCell::default(),
        }),
        verdict: Rc::clone(&stage.verdict),
        range: range.map_err(|why| Failure(why.to_string()))?,
        disk: Rc::default(),
        holders: RefCell::default(),
        former: RefCell::default(),
        has_booted: RefCell::default(),
        world: Rc::clone(&world),
    });
    let runtime = world.director();
    let mut server = all.start_server();
    let mut machines: BTreeMap<u8, Rc<Process>> =
        (1..=MACHINES).map(|number| (number, all.switch_on(number))).collect();
    let end = runtime.now() + TROUBLE;
    while runtime.now() < end && all.verdict.failure().is_none() {
        runtime.sleep(Duration::from_millis(random.random_range(10..3000))).await;
        let off = Duration::from_millis(random.random_range(0..4000));
        match random.random_range(0..4) {
            0 => {
                server.kill();
                runtime.sleep(off).await;
                server = all.start_server();
            }
            1 | 2 => {
                let number = random.random_range(1..=MACHINES);
                if let Some(machine) = machines.get(&number) {
                    machine.kill();
                }
                all.give_up(number);
                runtime.sleep(off / 4).await;
                machines.insert(number, all.switch_on(number));
            }
            _ => {
                all.segment.lost.set([0, 5, 40][random.random_range(0..3)]);
                all.segment.doubled.set([0, 20][random.random_range(0..2)]);
                all.segment.late_ms.set([1, 50, 900][random.random_range(0..3)]);
            }
        }
    }
    all.segment.lost.set(0);
    all.segment.doubled.set(0);
    all.segment.late_ms.set(1);
    let machines = usize::from(MACHINES);
    let end = runtime.now() + REST;
    while all.has_booted.borrow().len() < machines || all.holders.borrow().len() < machines {
        if runtime.now() >= end {
            let booted: Vec<u8> = all.has_booted.borrow().iter().copied().collect();
            let holders = all.holders.borrow().clone();
            return Err(Failure(format!("only {booted:?} have booted; addresses: {holders:?}")));
        }
        runtime.sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
