//! A target by the letter of docs/session.md without any of the production code, and a wire that
//! loses, doubles, delays and reorders: what the clients are tested against, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use block::{
    Buffer, Claim, DeviceEvent, Epoch, Holder, Instance, Instant, Lba, Operation, Outcome, OwnerId,
    SECTOR_BYTES,
};
use rand_like::Random;

use super::client::Client;
use super::operations::OperationId;
use super::paths::{LocalPort, PathId};
use aoe_wire::{
    ExportInfo, Frame, HolderPayload, Incarnation, MacAddr, Nonce, OpenPayload, Operation as Verb,
    PortId, SessionId, SessionReply, SessionRequest, SessionVersion, ShelfSlot, Status,
};

pub(crate) const ADDRESS: ShelfSlot = ShelfSlot { shelf: 7, slot: 3 };
pub(crate) const TARGET_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

pub(crate) mod rand_like {
    /// splitmix64: enough for tests, and a run is its seed.
    #[derive(Clone)]
    pub(crate) struct Random(pub u64);

    impl Random {
        pub fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub fn below(&mut self, bound: u64) -> u64 {
            self.next() % bound
        }

        pub fn chance(&mut self, per_mille: u64) -> bool {
            self.below(1000) < per_mille
        }
    }
}

#[derive(Default)]
struct ServerSession {
    incarnation: Incarnation,
    /// Answers to what runs at most once, until the floor passes.
    answers: BTreeMap<u64, (SessionRequest, SessionReply, Buffer)>,
    floor: u64,
    highest: u64,
    /// Writes of which fragments are missing: the first of them, and each sector that came.
    parts: BTreeMap<u64, (SessionRequest, BTreeMap<u32, Vec<u8>>)>,
}

/// The scripted target.
pub(crate) struct ScriptedTarget {
    random: Random,
    pub instance: Instance,
    pub disk: Vec<u8>,
    pub holder: Holder,
    pub info: ExportInfo,
    sessions: BTreeMap<SessionId, ServerSession>,
    pending: BTreeSet<(Nonce, Nonce)>,
    /// Added to its clock; falls when it is rolled back.
    pub clock_offset: u64,
    /// Answers nothing.
    pub is_silent: bool,
    /// Swallows frames longer than this, as a switch without jumbo frames does.
    pub frame_bytes_max: usize,
    /// Answers like this to every READ and WRITE.
    pub failing: Option<(Status, u64)>,
    /// Its answer to HEALTH; none of a target that doesn't know the question.
    pub health: Option<Buffer>,
    /// Never answers what begins here.
    pub stuck: Option<Lba>,
    pub writes_executed: u64,
    pub reads_executed: u64,
    pub openings: u64,
    /// The newest version that it speaks.
    pub newest: SessionVersion,
    /// Sectors of data that it takes in a frame.
    pub takes: u16,
    /// Has no memory to put fragments together.
    pub lacks_memory: bool,
}

impl ScriptedTarget {
    pub fn new(seed: u64, sectors: u64) -> ScriptedTarget {
        ScriptedTarget {
            random: Random(seed ^ 0x7a26),
            instance: Instance(1000 + seed),
            disk: vec![0; sectors as usize * SECTOR_BYTES],
            holder: Holder::default(),
            info: ExportInfo {
                sectors,
                physical_block_bytes: 4096,
                message_sectors_max: 16,
                read_only: false,
                window: 512,
                holder: Holder::default(),
                node_id: uuid::Uuid::from_u128(5),
                node_name: "node".to_owned(),
                node_version: String::new(),
                export_name: "disk".to_owned(),
                drive_serial: String::new(),
            },
            sessions: BTreeMap::new(),
            pending: BTreeSet::new(),
            clock_offset: 1_000_000_000,
            is_silent: false,
            frame_bytes_max: usize::MAX,
            failing: None,
            health: None,
            stuck: None,
            writes_executed: 0,
            reads_executed: 0,
            openings: 0,
            newest: SessionVersion::NEWEST,
            takes: 17,
            lacks_memory: false,
        }
    }

    /// The process is killed and started again.
    pub fn restart(&mut self) {
        self.instance = Instance(self.random.next());
        self.sessions.clear();
        self.pending.clear();
    }

    /// Forgets sessions but not the instance.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub fn handle(&mut self, now: Instant, bytes: &[u8]) -> Vec<Frame> {
        if self.is_silent || bytes.len() > self.frame_bytes_max {
            return Vec::new();
        }
        let Ok((request, payload)) = SessionRequest::parse(bytes) else { return Vec::new() };
        let is_for_us = request.header.address == ADDRESS && request.version <= self.newest;
        if !is_for_us || self.stuck == Some(request.lba) {
            return Vec::new();
        }
        assert!(request.operation != Verb::Hello || request.version == SessionVersion::One);
        let Some((reply, data)) = self.answer(now, &request, payload) else { return Vec::new() };
        let frames = match (request.version.has_fragments(), request.operation, reply.status) {
            (true, Verb::Read, Status::Ok) => self.cut(&request, payload, reply, &data),
            _ => vec![reply.emit(data)],
        };
        frames.into_iter().filter(|frame| frame.len_bytes() <= self.frame_bytes_max).collect()
    }

    /// The answer to a READ in fragments: what `wanted` names, or all.
    fn cut(
        &self,
        request: &SessionRequest,
        wanted: &[u8],
        reply: SessionReply,
        data: &Buffer,
    ) -> Vec<Frame> {
        let is_wanted =
            |sector: &usize| wanted.is_empty() || wanted[sector / 8] & (0x80 >> (sector % 8)) != 0;
        let all: Vec<usize> = (0..request.sectors as usize).filter(is_wanted).collect();
        let takes = usize::from(request.takes.min(self.takes));
        let mut frames = Vec::new();
        for run in all.chunk_by(|one, next| one + 1 == *next) {
            for part in run.chunks(takes) {
                let bytes = data.slice(part[0] * 512, (part[0] + part.len()) * 512);
                frames.push(SessionReply { first: part[0] as u16, ..reply }.emit(bytes));
            }
        }
        frames
    }

    /// The whole data of a write, if this fragment is the last that was missing; else the map of what
    /// is, if its sender waits.
    fn gather(
        &mut self,
        request: &SessionRequest,
        payload: &[u8],
    ) -> Result<Vec<u8>, Option<Buffer>> {
        let count = (payload.len() / 512) as u32;
        if count == request.sectors {
            return Ok(payload.to_vec());
        }
        assert!(count <= u32::from(self.takes), "more than the target takes");
        if self.lacks_memory {
            return Err(None);
        }
        let session = self.sessions.get_mut(&request.session).ok_or(None)?;
        let (first, sectors) =
            session.parts.entry(request.sequence).or_insert((*request, BTreeMap::new()));
        let same = first.range() == request.range() && first.durable == request.durable;
        assert!(same, "one number, two requests");
        for (sector, bytes) in (u32::from(request.first)..).zip(payload.chunks(512)) {
            sectors.insert(sector, bytes.to_vec());
        }
        if sectors.len() == request.sectors as usize {
            return Ok(sectors.values().flatten().copied().collect());
        }
        let mut map = vec![0; request.sectors.div_ceil(8) as usize];
        for sector in (0..request.sectors).filter(|sector| !sectors.contains_key(sector)) {
            map[sector as usize / 8] |= 0x80 >> (sector % 8);
        }
        Err(request.last.then(|| Buffer::copy_of(&map)))
    }

    fn answer(
        &mut self,
        now: Instant,
        request: &SessionRequest,
        payload: &[u8],
    ) -> Option<(SessionReply, Buffer)> {
        let mut reply = SessionReply {
            header: request.header.answer(request.header.destination, ADDRESS),
            version: request.version,
            operation: request.operation,
            status: Status::Ok,
            detail: 0,
            session: request.session,
            instance: self.instance,
            epoch: self.holder.epoch,
            sequence: request.sequence,
            executed: 0,
            clock: now + Duration::from_nanos(self.clock_offset),
            sectors: request.sectors,
            first: 0,
            takes: if request.version.has_fragments() { self.takes } else { 0 },
            seal: Default::default(),
        };
        match request.operation {
            Verb::Hello => {
                let (client, incarnation) = OpenPayload::parse_hello(payload).ok()?;
                let target = Nonce([self.random.next() as u8; 16]);
                self.pending.insert((client, target));
                let opening = OpenPayload { client, target, incarnation };
                reply.session = SessionId::derive(&opening, self.instance, ADDRESS);
                reply.detail = self.newest.offer();
                return Some((reply, OpenPayload::emit_hello_reply(target, None)));
            }
            Verb::Open => {
                let opening = OpenPayload::parse(payload).ok()?;
                let id = SessionId::derive(&opening, self.instance, ADDRESS);
                if !self.sessions.contains_key(&id) {
                    let known = self.pending.remove(&(opening.client, opening.target));
                    if !known || id != request.session {
                        reply.status = Status::NoSession;
                        return Some((reply, Buffer::empty()));
                    }
                    self.openings += 1;
                    let incarnation = opening.incarnation;
                    self.sessions.retain(|_, session| session.incarnation != incarnation);
                    let session = ServerSession { incarnation, ..ServerSession::default() };
                    self.sessions.insert(id, session);
                }
                let mut info = ExportInfo { holder: self.holder, ..self.info.clone() };
                if request.version.has_fragments() {
                    info.message_sectors_max = 2048;
                }
                return Some((reply, info.emit()));
            }
            _ => {}
        }
        let known = self.sessions.contains_key(&request.session);
        if !known || request.instance != self.instance {
            reply.status = Status::NoSession;
            return Some((reply, Buffer::empty()));
        }
        self.answer_in_session(request, payload, reply)
    }

    fn answer_in_session(
        &mut self,
        request: &SessionRequest,
        payload: &[u8],
        mut reply: SessionReply,
    ) -> Option<(SessionReply, Buffer)> {
        let window = u64::from(self.info.window);
        let session = self.sessions.get_mut(&request.session)?;
        session.floor = session.floor.max(request.floor);
        let floor = session.floor;
        session.answers.retain(|number, _| *number >= floor);
        session.parts.retain(|number, _| *number >= floor);
        assert!(request.sequence >= request.floor, "a request below its own floor");
        if request.sequence < floor || request.sequence >= floor + window {
            assert!(request.sequence < floor, "the client overran the window");
            reply.status = Status::OutsideWindow;
            return Some((reply, Buffer::empty()));
        }
        if let Some((first, answer, payload)) = session.answers.get(&request.sequence) {
            let same = first.range() == request.range() && first.operation == request.operation;
            assert!(same, "one number, two requests");
            if !request.last {
                return None;
            }
            let mut answer = *answer;
            answer.header = reply.header;
            answer.clock = reply.clock;
            return Some((answer, payload.clone()));
        }
        let mut whole = payload.to_vec();
        if request.operation == Verb::Write {
            match self.gather(request, payload) {
                Ok(data) => whole = data,
                Err(missing) => {
                    reply.status = Status::Incomplete;
                    return missing.map(|missing| (reply, missing));
                }
            }
        }
        let session = self.sessions.get_mut(&request.session)?;
        session.parts.remove(&request.sequence);
        session.highest = session.highest.max(request.sequence);
        reply.executed = session.highest;
        let (status, detail, data) = self.execute(request, &whole);
        (reply.status, reply.detail, reply.epoch) = (status, detail, self.holder.epoch);
        if request.operation.is_once() {
            let session = self.sessions.get_mut(&request.session)?;
            session.answers.insert(request.sequence, (*request, reply, data.clone()));
        }
        Some((reply, data))
    }

    fn execute(&mut self, request: &SessionRequest, payload: &[u8]) -> (Status, u64, Buffer) {
        let observer = request.epoch == Epoch::OBSERVER && !request.operation.is_once();
        if !observer && request.operation != Verb::Claim && request.epoch != self.holder.epoch {
            return (Status::Fenced, 0, Buffer::empty());
        }
        if !request.range().fits(self.info.sectors) {
            return (Status::OutOfRange, 0, Buffer::empty());
        }
        let from = request.lba.0 as usize * SECTOR_BYTES;
        let window = from..from + request.sectors as usize * SECTOR_BYTES;
        if let (Some((status, detail)), Verb::Read | Verb::Write) =
            (self.failing, request.operation)
        {
            return (status, detail, Buffer::empty());
        }
        match request.operation {
            Verb::Read
                if request.epoch == Epoch::OBSERVER && !request.force && !self.shows(request) =>
            {
                return (Status::Refused, 6, Buffer::empty());
            }
            Verb::Read => {
                self.reads_executed += 1;
                return (Status::Ok, 0, Buffer::copy_of(&self.disk[window]));
            }
            Verb::Write => {
                self.writes_executed += 1;
                self.disk[window].copy_from_slice(payload);
            }
            Verb::WriteZeroes | Verb::Discard => self.disk[window].fill(0),
            Verb::Claim => {
                if request.epoch < self.holder.epoch {
                    return (Status::Fenced, 0, Buffer::empty());
                }
                let (owner, _) = HolderPayload::parse_claim(payload).unwrap_or_default();
                self.holder = Holder::new(request.epoch, owner);
                self.holder.heard = Some(Duration::ZERO);
                return (Status::Ok, 0, HolderPayload::emit(self.holder));
            }
            Verb::Status => return (Status::Ok, 0, HolderPayload::emit(self.holder)),
            Verb::Close => {
                self.sessions.remove(&request.session);
            }
            Verb::Flush => {}
            Verb::Health if self.health.is_some() => {
                return (Status::Ok, 0, self.health.clone().unwrap_or_else(Buffer::empty));
            }
            _ => return (Status::Unsupported, 0, Buffer::empty()),
        }
        (Status::Ok, 0, Buffer::empty())
    }

    /// Whether everybody may read this.
    fn shows(&self, request: &SessionRequest) -> bool {
        let end = request.range().end().0;
        let tail = self.info.sectors - 2048;
        self.holder.epoch == Epoch::OBSERVER
            || end <= 96
            || request.lba.0 >= tail && end <= tail + 32
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

/// How bad the wire is, both ways.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub loss_per_mille: u64,
    pub double_per_mille: u64,
    pub damage_per_mille: u64,
    /// Delay beyond the latency, at random up to this: reorders.
    pub jitter: Duration,
}

impl Faults {
    pub const NONE: Faults = Faults {
        loss_per_mille: 0,
        double_per_mille: 0,
        damage_per_mille: 0,
        jitter: Duration::ZERO,
    };
}

/// Anything that answers frames.
pub(crate) trait Server {
    fn handle(&mut self, now: Instant, bytes: &[u8]) -> Vec<Frame>;
}

impl Server for ScriptedTarget {
    fn handle(&mut self, now: Instant, bytes: &[u8]) -> Vec<Frame> {
        ScriptedTarget::handle(self, now, bytes)
    }
}

enum Arrival {
    AtServer(PortId, Vec<u8>),
    AtClient(PortId, Vec<u8>),
}

const LATENCY: Duration = Duration::from_micros(50);
/// 10 Gbit/s.
const NANOS_PER_BYTE_TIMES_TEN: u64 = 8;

/// A client and its target with a wire in between.
pub(crate) struct Pair<C, S> {
    pub now: Instant,
    pub client: C,
    pub server: S,
    pub faults: Faults,
    /// Ports whose wire is cut.
    pub cut: BTreeSet<PortId>,
    /// The next frame to the server takes so much longer.
    pub delay_next: Duration,
    pub random: Random,
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    arrival_number: u64,
    /// When each direction is free again.
    wire_free: [Instant; 2],
    pub outcomes: BTreeMap<OperationId, (Instant, Outcome)>,
    pub events: Vec<DeviceEvent>,
    pub frames_sent: u64,
}

impl<C: Client, S: Server> Pair<C, S> {
    pub fn new(seed: u64, client: C, server: S) -> Pair<C, S> {
        Pair {
            now: Instant::from_nanos(1_000_000),
            client,
            server,
            faults: Faults::NONE,
            cut: BTreeSet::new(),
            delay_next: Duration::ZERO,
            random: Random(seed),
            arrivals: BTreeMap::new(),
            arrival_number: 0,
            wire_free: [Instant::default(); 2],
            outcomes: BTreeMap::new(),
            events: Vec::new(),
            frames_sent: 0,
        }
    }

    pub fn connect(&mut self, port: u32, mtu_bytes: usize) {
        let mac = MacAddr([2, 0, 0, 0, 1, port as u8]);
        self.client
            .set_port(self.now, LocalPort { id: PortId(port), mac, mtu_bytes, trusted: false });
        self.client.add_path(self.now, PathId { port: PortId(port), target: TARGET_MAC });
    }

    pub fn submit(&mut self, operation: Operation) -> OperationId {
        let id = self.client.submit(self.now, operation);
        self.drain();
        id
    }

    /// Runs until `done` or the time limit; says whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        self.drain();
        while !done(self) {
            let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at);
            let timeout = self.client.poll_timeout();
            let Some(next) = [arrival, timeout].into_iter().flatten().min() else { return false };
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
            self.step();
            self.drain();
        }
        true
    }

    /// Runs until this operation ended, which must be within the limit.
    pub fn outcome(&mut self, id: OperationId, limit: Duration) -> Outcome {
        let done = self.run_until(limit, |pair| pair.outcomes.contains_key(&id));
        assert!(done, "{id:?} hangs");
        self.outcomes[&id].1.clone()
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn step(&mut self) {
        while let Some(first) = self.arrivals.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            match first.remove() {
                Arrival::AtServer(port, bytes) => {
                    for frame in self.server.handle(self.now, &bytes) {
                        self.put_on_wire(1, port, &frame);
                    }
                }
                Arrival::AtClient(port, bytes) => self.client.handle_frame(self.now, port, &bytes),
            }
        }
        if self.client.poll_timeout().is_some_and(|at| at <= self.now) {
            self.client.advance(self.now);
            let next = self.client.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now), "a timer that stays due spins");
        }
    }

    pub fn drain(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            self.frames_sent += 1;
            self.put_on_wire(0, transmit.port, &transmit.frame);
        }
        while let Some((id, outcome)) = self.client.poll_outcome() {
            let before = self.outcomes.insert(id, (self.now, outcome));
            assert!(before.is_none(), "{id:?} ended twice");
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
    }

    fn put_on_wire(&mut self, direction: usize, port: PortId, frame: &Frame) {
        let mut bytes = frame.head.to_vec();
        bytes.extend_from_slice(&frame.payload);
        bytes.resize(bytes.len().max(60), 0);
        let duration = Duration::from_nanos(bytes.len() as u64 * NANOS_PER_BYTE_TIMES_TEN / 10);
        self.wire_free[direction] = self.wire_free[direction].max(self.now) + duration;
        let copies = if self.random.chance(self.faults.double_per_mille) { 2 } else { 1 };
        for _ in 0..copies {
            if self.cut.contains(&port) || self.random.chance(self.faults.loss_per_mille) {
                continue;
            }
            let mut bytes = bytes.clone();
            if self.random.chance(self.faults.damage_per_mille) {
                let at = self.random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.random.below(8);
            }
            let jitter = self.random.below(self.faults.jitter.as_nanos() as u64 + 1);
            let mut at = self.wire_free[direction] + LATENCY + Duration::from_nanos(jitter);
            if direction == 0 {
                at = at + std::mem::take(&mut self.delay_next);
            }
            self.arrival_number += 1;
            let arrival = match direction {
                0 => Arrival::AtServer(port, bytes),
                _ => Arrival::AtClient(port, bytes),
            };
            self.arrivals.insert((at, self.arrival_number), arrival);
        }
    }
}

pub(crate) fn claim(epoch: u64, owner: u128) -> Claim {
    Claim {
        epoch: Epoch(epoch),
        owner: OwnerId(uuid::Uuid::from_u128(owner)),
        force: false,
        trust: block::Trust::Unchanged,
    }
}

pub(crate) fn pattern(sectors: u64, seed: u64) -> Buffer {
    let mut random = Random(seed);
    let bytes: Vec<u8> = (0..sectors as usize * SECTOR_BYTES / 8)
        .flat_map(|_| random.next().to_be_bytes())
        .collect();
    Buffer::copy_of(&bytes)
}

pub(crate) fn write(start: u64, data: Buffer) -> Operation {
    Operation::Write { start: Lba(start), data, durability: block::Durability::Volatile }
}
