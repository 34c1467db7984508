//! The Ethernet segment: a switch, a cable to each station, and what goes wrong on them.
//!
//! A station keeps its address over restarts of the process behind it, so a frame that was held up
//! for minutes reaches whoever has the address by then.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{Command, Frame, Header, MacAddr, Port};
use block::{Instant, crc32c};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::SmallRng;
use runtime::Notify;

use crate::random::fork;
use crate::steps::{Effect, Kind};
use crate::story::Story;
use crate::world::{Timeline, World};

mod line;

pub use line::Line;
use line::PortQueue;

/// Bytes that Ethernet adds to its payload.
const ETHERNET_HEADER_BYTES: usize = 14;
/// Shortest frame.
const FRAME_BYTES_MIN: usize = 60;
/// Frames that wait in a station for its process; more are dropped, as a socket does.
const RECEIVE_QUEUE_MAX: usize = 4096;
/// Longest queue in front of a cable, in time; what comes then is dropped, as a switch does.
const SEND_QUEUE_MAX: Duration = Duration::from_millis(20);
/// Frames that who listens remembers.
const TAPE_MAX: usize = 20_000;
/// Frames handed over in one go.
const BATCH_MAX: usize = 64;
/// Of a sealed message (docs/session.md): its session, and the number of its key 4 and its own under it 8.
const SESSION_AT: usize = 32;
const NUMBER_AT: usize = 100;
const NUMBER_BYTES: usize = 12;
/// More than are on their way at a time.
const NUMBERS_MAX: usize = 1 << 14;

/// How a cable treats frames, in each direction.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Least time on the way.
    pub delay: Duration,
    /// Most that is added by chance; more than the distance of two frames reorders them.
    pub jitter: Duration,
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// Chance of losing a frame.
    pub loss: f64,
    /// Chance of doubling a frame.
    pub duplication: f64,
    /// Chance of changing a byte.
    pub corruption: f64,
    /// Chance of holding a frame up for up to [`Quality::hold_up`].
    pub stragglers: f64,
    /// How long a straggler takes at most.
    pub hold_up: Duration,
}

impl Quality {
    /// A gigabit cable in good order.
    pub const GOOD: Quality = Quality {
        delay: Duration::from_micros(30),
        jitter: Duration::from_micros(20),
        bytes_per_second: 125_000_000,
        loss: 0.0,
        duplication: 0.0,
        corruption: 0.0,
        stragglers: 0.0,
        hold_up: Duration::from_secs(180),
    };

    /// A cable that does everything wrong, each at a low rate.
    pub const BAD: Quality = Quality {
        jitter: Duration::from_millis(2),
        loss: 0.01,
        duplication: 0.01,
        corruption: 0.004,
        stragglers: 0.002,
        ..Quality::GOOD
    };
}

/// A switch.
pub struct Network {
    /// Of several that a world has, from zero.
    number: u8,
    /// Between whom nothing passes, though each hears everybody else.
    parted: RefCell<BTreeSet<(MacAddr, MacAddr)>>,
    /// Largest payload that passes the switch, whatever its cables carry.
    mtu_bytes: Cell<usize>,
    timeline: Rc<Timeline>,
    story: Rc<Story>,
    stations: RefCell<BTreeMap<MacAddr, Rc<Station>>>,
    random: RefCell<SmallRng>,
    counters: Cell<NetworkCounters>,
    /// The newest frames, for who listens; none where nobody does.
    tape: RefCell<Option<VecDeque<Rc<Vec<u8>>>>>,
    sealed: Rc<Sealed>,
}

/// By which numbers each machine has sealed in a session, by whichever switch: **none is ever used again**.
#[derive(Default)]
pub struct Sealed(RefCell<BTreeMap<Sealer, Numbers>>);

/// Of keys and messages; the newest ones.
type Numbers = BTreeSet<[u8; NUMBER_BYTES]>;

/// A session, and the machine at one end of it.
type Sealer = ([u8; 8], String);

impl Sealed {
    /// A machine itself sends a message that begins so. What is sent again is sealed anew: whoever seals two messages by one
    /// number has shown both, and the key that makes tags.
    fn hear(&self, from: &str, head: &[u8]) {
        let is_of_session = Header::parse(head).is_ok_and(|head| head.command == Command::Session);
        let session = head.get(SESSION_AT..).and_then(|rest| rest.first_chunk());
        let number = head.get(NUMBER_AT..).and_then(|rest| rest.first_chunk::<NUMBER_BYTES>());
        let (Some(session), Some(number)) = (session, number) else { return };
        // Keys count from 1.
        if !is_of_session || number[..4] == [0; 4] {
            return;
        }
        let mut all = self.0.borrow_mut();
        let numbers = all.entry((*session, from.to_owned())).or_default();
        assert!(numbers.insert(*number), "{from} seals twice by one number");
        if numbers.len() > NUMBERS_MAX {
            numbers.pop_first();
        }
    }
}

/// What became of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    /// Arrived.
    pub delivered: u64,
    /// Lost on a cable or because a cable was cut.
    pub lost: u64,
    /// Dropped by a full queue.
    pub overflowed: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived with a changed byte.
    pub corrupted: u64,
    /// Held up.
    pub held_up: u64,
}

/// A frame that waits, and where it goes.
type Held = (Rc<Station>, Rc<Vec<u8>>);

/// One end of a cable: what a machine's interface is.
pub struct Station {
    name: String,
    mac: MacAddr,
    mtu_bytes: Cell<usize>,
    quality: Cell<Quality>,
    line: Cell<Option<Line>>,
    /// In front of its cable, in the machine.
    outgoing: PortQueue,
    /// In front of its cable, in the switch.
    incoming: PortQueue,
    /// Frames from this station don't get through.
    cut_out: Cell<bool>,
    /// Frames to this station don't get through.
    cut_in: Cell<bool>,
    /// Frames from this station wait on the way.
    holds: Cell<bool>,
    held: RefCell<Vec<Held>>,
    busy_out: Cell<Instant>,
    busy_in: Cell<Instant>,
    queue: RefCell<VecDeque<Rc<Vec<u8>>>>,
    arrived: Notify,
}

impl Network {
    /// A switch without cables.
    pub fn new(world: &World) -> Rc<Network> {
        Network::numbered(world, 0)
    }

    /// One of several switches, each a path of its own between the same machines.
    pub fn numbered(world: &World, number: u8) -> Rc<Network> {
        let label = if number == 0 { "network".into() } else { format!("network-{number}") };
        Rc::new(Network {
            number,
            parted: RefCell::default(),
            mtu_bytes: Cell::new(usize::MAX),
            timeline: Rc::clone(world.timeline()),
            story: Rc::clone(world.story()),
            stations: RefCell::default(),
            random: RefCell::new(fork(world.seed(), &label)),
            counters: Cell::default(),
            tape: RefCell::default(),
            sealed: Rc::clone(world.sealed()),
        })
    }

    /// Plugs a machine in.
    pub fn plug(&self, name: &str, mtu_bytes: usize) -> Rc<Station> {
        let number = self.stations.borrow().len() as u8;
        let station = Rc::new(Station {
            name: name.to_string(),
            mac: MacAddr([0x02, 0, 0, 0, self.number, number + 1]),
            mtu_bytes: Cell::new(mtu_bytes),
            quality: Cell::new(Quality::GOOD),
            line: Cell::default(),
            outgoing: PortQueue::default(),
            incoming: PortQueue::default(),
            cut_out: Cell::new(false),
            cut_in: Cell::new(false),
            holds: Cell::new(false),
            held: RefCell::default(),
            busy_out: Cell::default(),
            busy_in: Cell::default(),
            queue: RefCell::default(),
            arrived: Notify::new(),
        });
        self.stations.borrow_mut().insert(station.mac, Rc::clone(&station));
        station
    }

    /// From now on the switch swallows longer frames, and nobody is told.
    pub fn set_mtu_bytes(&self, mtu_bytes: usize) {
        self.story.tell("switch", &format!("carries {mtu_bytes} bytes"));
        self.mtu_bytes.set(mtu_bytes);
    }

    /// Whether nothing passes between two stations, in either direction.
    pub fn part(&self, one: &Station, other: &Station, parted: bool) {
        self.story.tell(
            &one.name,
            &format!("{} {}", if parted { "is cut off from" } else { "hears" }, other.name),
        );
        for pair in [(one.mac, other.mac), (other.mac, one.mac)] {
            match parted {
                true => self.parted.borrow_mut().insert(pair),
                false => self.parted.borrow_mut().remove(&pair),
            };
        }
    }

    /// Nobody is cut off from another any more.
    pub fn join_all(&self) {
        self.parted.borrow_mut().clear();
    }

    /// Whether a station is cut off from another one.
    pub fn is_parted(&self, station: &Station) -> bool {
        self.parted.borrow().iter().any(|(one, _)| *one == station.mac)
    }

    /// What became of frames so far.
    pub fn counters(&self) -> NetworkCounters {
        self.counters.get()
    }

    /// A port for a process on the machine at `station`. The frames that its predecessor left in
    /// the queue are gone with it.
    pub fn open(self: &Rc<Self>, station: &Rc<Station>) -> Rc<SimPort> {
        station.queue.borrow_mut().clear();
        Rc::new(SimPort { network: Rc::clone(self), station: Rc::clone(station) })
    }

    /// From now on somebody hears all that stations send.
    pub fn listen(&self) {
        self.tape.borrow_mut().get_or_insert_default();
    }

    /// A frame that was heard, with this number from the oldest one that is remembered on.
    pub fn heard(&self, number: usize) -> Option<Rc<Vec<u8>>> {
        self.tape.borrow().as_ref()?.get(number).cloned()
    }

    /// How many frames that were heard are remembered.
    pub fn heard_count(&self) -> usize {
        self.tape.borrow().as_ref().map_or(0, VecDeque::len)
    }

    fn remember(&self, bytes: &Rc<Vec<u8>>) {
        let mut tape = self.tape.borrow_mut();
        let Some(tape) = tape.as_mut() else { return };
        if tape.len() >= TAPE_MAX {
            tape.pop_front();
        }
        tape.push_back(Rc::clone(bytes));
    }

    /// Puts `bytes` on the wire as if `from` had sent them: for forged and replayed frames.
    pub fn inject(self: &Rc<Self>, from: &Rc<Station>, bytes: Vec<u8>) {
        let Some(destination) = bytes.first_chunk::<6>().copied().map(MacAddr) else { return };
        let bytes = Rc::new(bytes);
        // An attacker doesn't listen to himself: he has no address of his own on what he sends.
        if bytes.get(6..12) == Some(from.mac.0.as_slice()) {
            self.remember(&bytes);
        }
        let receivers: Vec<Rc<Station>> = match destination {
            MacAddr::BROADCAST => {
                let stations = self.stations.borrow();
                stations.values().filter(|station| station.mac != from.mac).cloned().collect()
            }
            mac => self.stations.borrow().get(&mac).cloned().into_iter().collect(),
        };
        for to in receivers {
            self.carry(from, &to, &bytes);
        }
    }

    /// What was held up of a station's frames goes on to where it was sent, in its order.
    pub fn let_go(self: &Rc<Self>, from: &Rc<Station>) {
        let held = from.held.take();
        self.story.tell(&from.name, &format!("{} frames arrive late", held.len()));
        for (to, bytes) in held {
            self.carry(from, &to, &bytes);
        }
    }

    fn carry(self: &Rc<Self>, from: &Rc<Station>, to: &Rc<Station>, bytes: &Rc<Vec<u8>>) {
        let mtu = from.mtu_bytes.get().min(to.mtu_bytes.get()).min(self.mtu_bytes.get());
        let (sender, receiver) = (from.quality.get(), to.quality.get());
        let lost = from.cut_out.get()
            || to.cut_in.get()
            || self.parted.borrow().contains(&(from.mac, to.mac))
            || bytes.len() > mtu + ETHERNET_HEADER_BYTES
            || self.chance(sender.loss)
            || self.chance(receiver.loss);
        if lost {
            self.count(|counters| counters.lost += 1);
            return;
        }
        if from.holds.get() {
            self.count(|counters| counters.held_up += 1);
            from.held.borrow_mut().push((Rc::clone(to), Rc::clone(bytes)));
            return;
        }
        let copies = 1 + u32::from(self.chance(sender.duplication + receiver.duplication));
        self.count(|counters| counters.duplicated += u64::from(copies - 1));
        let now = self.timeline.now();
        let (sent, delay, jitter) = match from.line.get() {
            None => (
                self.queue_for(&from.busy_out, bytes.len(), sender),
                sender.delay + receiver.delay,
                sender.jitter + receiver.jitter,
            ),
            Some(line) => {
                let sent = from.outgoing.send(now, bytes.len(), line, line.machine_queue_bytes);
                (self.counted(sent), line.delay, Duration::ZERO)
            }
        };
        let Some(sent) = sent else { return };
        for copy in 0..copies {
            let mut way = delay + self.up_to(jitter);
            if copy > 0 {
                way += self.up_to(Duration::from_millis(50));
            }
            for quality in [sender, receiver] {
                if self.chance(quality.stragglers) {
                    self.count(|counters| counters.held_up += 1);
                    way += self.up_to(quality.hold_up);
                }
            }
            let bytes = if self.chance(sender.corruption + receiver.corruption) {
                self.corrupted(bytes)
            } else {
                Rc::clone(bytes)
            };
            let (network, to) = (Rc::clone(self), Rc::clone(to));
            self.timeline.schedule(sent + way, move || network.reach_switch(&to, bytes));
        }
    }

    /// The frame is at the far end of the sender's cable.
    fn reach_switch(self: &Rc<Self>, to: &Rc<Station>, bytes: Rc<Vec<u8>>) {
        let Some(line) = to.line.get() else { return self.arrive(to, bytes) };
        let now = self.timeline.now();
        let sent = to.incoming.send(now, bytes.len(), line, line.switch_queue_bytes);
        let Some(sent) = self.counted(sent) else { return };
        let (network, to) = (Rc::clone(self), Rc::clone(to));
        self.timeline.schedule(sent + line.delay, move || network.arrive(&to, bytes));
    }

    fn counted(&self, sent: Option<Instant>) -> Option<Instant> {
        self.count(|counters| counters.overflowed += u64::from(sent.is_none()));
        sent
    }

    /// When the last bit has left a cable's queue; `None` when the queue is full.
    fn queue_for(&self, busy: &Cell<Instant>, bytes: usize, quality: Quality) -> Option<Instant> {
        let start = busy.get().max(self.timeline.now());
        if start.since(self.timeline.now()) > SEND_QUEUE_MAX {
            return self.counted(None);
        }
        let nanos = bytes as u64 * 1_000_000_000 / quality.bytes_per_second.max(1);
        busy.set(start + Duration::from_nanos(nanos));
        Some(busy.get())
    }

    fn arrive(&self, to: &Station, bytes: Rc<Vec<u8>>) {
        let mut queue = to.queue.borrow_mut();
        // A cable that was cut meanwhile swallows what is on it.
        if to.cut_in.get() {
            self.count(|counters| counters.lost += 1);
            return;
        }
        if queue.len() >= RECEIVE_QUEUE_MAX {
            self.count(|counters| counters.overflowed += 1);
            return;
        }
        let takes = |quality| self.queue_for(&to.busy_in, bytes.len(), quality).is_some();
        if to.line.get().is_none() && !takes(to.quality.get()) {
            return;
        }
        self.count(|counters| counters.delivered += 1);
        let digest = u64::from(crc32c(&bytes[..bytes.len().min(128)]));
        self.story.mix(digest << 32 ^ self.timeline.now().as_nanos());
        queue.push_back(bytes);
        drop(queue);
        to.arrived.notify_all();
    }

    fn corrupted(&self, bytes: &Rc<Vec<u8>>) -> Rc<Vec<u8>> {
        self.count(|counters| counters.corrupted += 1);
        let mut random = self.random.borrow_mut();
        let mut bytes = (**bytes).clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= random.random_range(1..=255u8);
        Rc::new(bytes)
    }

    fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random.borrow_mut().random_bool(probability.min(1.0))
    }

    fn up_to(&self, most: Duration) -> Duration {
        let nanos = most.as_nanos() as u64;
        Duration::from_nanos(self.random.borrow_mut().random_range(0..=nanos))
    }

    fn count(&self, change: impl FnOnce(&mut NetworkCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl Station {
    /// Its address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Largest payload.
    pub fn mtu_bytes(&self) -> usize {
        self.mtu_bytes.get()
    }

    /// How its cable treats frames from now on.
    pub fn set_quality(&self, quality: Quality) {
        self.quality.set(quality);
    }

    /// How its cable treats frames.
    pub fn quality(&self) -> Quality {
        self.quality.get()
    }

    /// What its cable carries from now on.
    pub fn set_line(&self, line: Option<Line>) {
        self.line.set(line);
    }

    /// How long its cable carried something out and in, if it has a [`Line`].
    pub fn busy(&self) -> [Duration; 2] {
        [self.outgoing.busy(), self.incoming.busy()]
    }

    /// Cuts or joins the two directions of its cable.
    pub fn set_cut(&self, outgoing: bool, incoming: bool) {
        self.cut_out.set(outgoing);
        self.cut_in.set(incoming);
    }

    /// Whether frames from it wait on the way until [`Network::let_go`]: all copies of a request, while
    /// a single one that is late has mostly been sent again.
    pub fn set_hold(&self, hold: bool) {
        self.holds.set(hold);
    }

    /// Whether its cable is cut in a direction, or loses frames.
    pub fn is_troubled(&self) -> bool {
        self.cut_out.get() || self.cut_in.get() || self.quality.get().loss > 0.0
    }

    /// Largest payload from now on.
    pub fn set_mtu_bytes(&self, mtu_bytes: usize) {
        self.mtu_bytes.set(mtu_bytes);
    }

    /// Frames that arrived and that its process hasn't taken.
    pub fn waiting(&self) -> usize {
        self.queue.borrow().len()
    }

    /// What arrived and wasn't taken is gone, as with the power.
    pub fn clear(&self) {
        self.queue.borrow_mut().clear();
    }
}

/// A process's socket on its machine's [`Station`].
pub struct SimPort {
    network: Rc<Network>,
    station: Rc<Station>,
}

impl Port for SimPort {
    fn name(&self) -> String {
        self.station.name.clone()
    }

    fn mac(&self) -> MacAddr {
        self.station.mac
    }

    fn mtu_bytes(&self) -> usize {
        self.station.mtu_bytes.get()
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            self.network.sealed.hear(&self.station.name, &frame.head);
            let steps = self.network.timeline.steps();
            if steps.take(Kind::Frame, &self.station.name) == Effect::Nothing {
                continue;
            }
            let mut bytes = Vec::with_capacity(frame.len_bytes().max(FRAME_BYTES_MIN));
            bytes.extend_from_slice(&frame.head);
            bytes.extend_from_slice(&frame.payload);
            bytes.resize(bytes.len().max(FRAME_BYTES_MIN), 0);
            self.network.inject(&self.station, bytes);
        }
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        let station = Rc::clone(&self.station);
        async move {
            loop {
                let arrived = station.arrived.notified();
                if !station.queue.borrow().is_empty() {
                    return;
                }
                arrived.await;
            }
        }
        .boxed_local()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < BATCH_MAX {
            let Some(bytes) = self.station.queue.borrow_mut().pop_front() else { break };
            sink(&bytes);
            count += 1;
        }
        count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
