//! A network with a server and a client at it.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use block::Instant;

use super::client::{Asked, Client, Manner};
use super::*;

/// What a network does to packets; the chances in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    /// Of being overtaken by others.
    pub late: u64,
    pub seed: u64,
}

pub struct Network {
    weather: Weather,
    lots: u64,
    pub now: Instant,
    pub server: Server,
    pub client: Client,
    size: u64,
    ids: BTreeMap<TransferId, SocketAddrV4>,
    /// By when they arrive; of those with the same time, by when they were sent.
    flying: BTreeMap<(Instant, u64), (SocketAddrV4, SocketAddrV4, Vec<u8>)>,
    sent: u64,
    /// Packets whose last copy was lost, so that none is lost for ever.
    lost: BTreeMap<(SocketAddrV4, [u8; 4]), ()>,
    /// How often each block was sent, by its offset.
    pub blocks: BTreeMap<u64, u32>,
    /// Acknowledgements are delivered twice.
    pub doubles_acks: bool,
    /// Blocks that get lost the first time.
    pub loses: Vec<u64>,
    /// Packets that the client has room for, of those that arrive at once.
    pub room: Option<u32>,
    /// How many have arrived at this time.
    arrived: (Instant, u32),
    pub ends: Vec<End>,
}

impl Network {
    pub fn new(asked: Asked, manner: Manner, size: u64, weather: Weather) -> Network {
        let now = at(1);
        Network {
            weather,
            lots: weather.seed,
            now,
            server: Server::new(Limits::default()),
            client: Client::new(asked, manner, address(1, packet::PORT), now),
            size,
            ids: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            lost: BTreeMap::new(),
            blocks: BTreeMap::new(),
            doubles_acks: false,
            loses: Vec::new(),
            room: None,
            arrived: (now, 0),
            ends: Vec::new(),
        }
    }

    /// Until nobody has anything to do.
    pub fn run(&mut self) {
        for _ in 0..1_000_000 {
            assert!(self.flying.len() < 10_000, "an avalanche");
            let next = self.flying.keys().next().map(|(when, _)| *when);
            let times = [next, self.server.deadline(), self.client.deadline()];
            let Some(now) = times.into_iter().flatten().min() else { return };
            assert!(now >= self.now);
            self.now = now;
            let mut out = Vec::new();
            if next == Some(now) {
                let (_, (from, to, bytes)) = self.flying.pop_first().unwrap();
                self.arrive(from, to, &bytes, &mut out);
            } else if self.client.deadline() == Some(now) {
                let packets = self.client.expire(now);
                self.client_sends(packets);
            } else {
                self.server.poll(now, &mut out);
            }
            self.perform(out);
        }
        panic!("no end");
    }

    /// How many DATA packets were sent.
    pub fn data_packets(&self) -> u64 {
        self.blocks.values().map(|count| u64::from(*count)).sum()
    }

    fn arrive(
        &mut self,
        from: SocketAddrV4,
        to: SocketAddrV4,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let now = self.now;
        if to == address(2, 4000) {
            let (when, before) = self.arrived;
            self.arrived = (now, if when == now { before + 1 } else { 1 });
            if self.room.is_some_and(|room| self.arrived.1.is_multiple_of(room + 1)) {
                return;
            }
            let packets = self.client.receive(now, from, bytes);
            return self.client_sends(packets);
        }
        if to.port() != packet::PORT {
            let id = self.ids.iter().find(|(_, port)| **port == to).map(|(id, _)| *id);
            // Closed by now, otherwise.
            if let Some(id) = id {
                self.server.receive(now, id, from, bytes, out);
            }
            return;
        }
        let Some(opening) = self.server.request(now, from, bytes, out).unwrap() else { return };
        assert_eq!((opening.name().as_str(), opening.client()), ("file", from));
        if let Some(id) = self.server.begin(now, opening, self.size, out).unwrap() {
            let port = 10_000 + u16::try_from(self.ids.len()).unwrap();
            self.ids.insert(id, address(1, port));
        }
    }

    fn perform(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send { id, to, what } => {
                    let bytes = match what {
                        Outgoing::Packet(bytes) => bytes,
                        Outgoing::Data { block, offset, len } => {
                            let count = self.blocks.entry(offset).or_default();
                            *count += 1;
                            if *count == 1 && self.loses.contains(&offset) {
                                continue;
                            }
                            let data = (offset..offset + len as u64).map(byte_at);
                            packet::data_header(block).into_iter().chain(data).collect()
                        }
                    };
                    self.fly(self.ids[&id], to, bytes);
                }
                Effect::Over { id, end } => {
                    self.ids.insert(id, address(1, 1));
                    self.ends.push(end);
                }
            }
        }
    }

    fn client_sends(&mut self, packets: Vec<(SocketAddrV4, Vec<u8>)>) {
        for (to, bytes) in packets {
            if self.doubles_acks && bytes[1] == 4 {
                self.fly(address(2, 4000), to, bytes.clone());
            }
            self.fly(address(2, 4000), to, bytes);
        }
    }

    fn fly(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: Vec<u8>) {
        let key = (to, *bytes.first_chunk().unwrap());
        if self.happens(self.weather.lost) && self.lost.insert(key, ()).is_none() {
            return;
        }
        self.lost.remove(&key);
        let copies = if self.happens(self.weather.doubled) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if self.happens(self.weather.late) { self.draw() % 20_000 } else { 0 };
            self.sent += 1;
            let when = self.now + Duration::from_micros(100 + late);
            self.flying.insert((when, self.sent), (from, to, bytes.clone()));
        }
    }

    fn happens(&mut self, percent: u64) -> bool {
        percent > 0 && self.draw() % 100 < percent
    }

    /// By splitmix64.
    fn draw(&mut self) -> u64 {
        self.lots = self.lots.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.lots ^ (self.lots >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
