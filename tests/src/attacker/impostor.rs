//! Somebody who has taken a node's address on the segment, and answers in its name: with keys of his own, or with none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_wire::{
    Choice, ExportInfo, MacAddr, Nonce, Offer, OpenPayload, Operation, Sealing, SessionId,
    SessionReply, SessionRequest, Status, open_sealed, prologue,
};
use block::{Buffer, Epoch, Instance, Instant};
use os::net::FrameSocket;
use seal::{Asked, KeyPair, Keys, Seal, Security};

use super::Attacker;
use super::stranger::{any_key, drawn};

/// Whose place he takes.
#[derive(Clone)]
pub struct Victim {
    /// The node's address.
    pub mac: [u8; 6],
    /// Its shelf.
    pub shelf: u16,
    /// What its disk is at present.
    pub instance: Instance,
    /// What it says of its disk.
    pub info: ExportInfo,
}

/// What he got.
#[derive(Clone, Default, Debug)]
pub struct Loot {
    /// HELLOs that he answered.
    pub hellos: u64,
    /// Openings that were sealed to his key.
    pub keyed: u64,
    /// Openings without keys.
    pub open: u64,
    /// Requests in sessions of the node's own, which he couldn't read.
    pub others: u64,
    /// Requests that he could read, by operation.
    pub requests: BTreeMap<u8, u64>,
}

/// At work until he is stopped.
pub struct Impostor {
    stop: Arc<AtomicBool>,
    loot: Arc<Mutex<Loot>>,
    thread: JoinHandle<()>,
}

/// How he answers HELLO.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As a target of long ago, which has no keys.
    Without,
    /// With a key of his own, demanding nothing.
    Lesser,
    /// With a key of his own.
    Own,
}

struct Work {
    socket: FrameSocket,
    victim: Victim,
    own: KeyPair,
    sessions: BTreeMap<u64, Option<Keys>>,
    loot: Loot,
}

impl Impostor {
    /// Begins. Who `is_loud` makes the switch believe that the node is where he is.
    pub fn start(attacker: &Attacker, victim: Victim, is_loud: bool) -> Impostor {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let socket = attacker.socket();
        let loot: Arc<Mutex<Loot>> = Arc::default();
        let told = Arc::clone(&loot);
        let thread = std::thread::spawn(move || {
            let own = any_key();
            let sessions = BTreeMap::new();
            let mut work = Work { socket, victim, own, sessions, loot: Loot::default() };
            while !stopped.load(Ordering::Relaxed) {
                work.turn(is_loud);
                told.lock().unwrap().clone_from(&work.loot);
            }
        });
        Impostor { stop, loot, thread }
    }

    /// What he got so far.
    pub fn loot(&self) -> Loot {
        self.loot.lock().unwrap().clone()
    }

    /// Ends it.
    pub fn stop(self) -> Loot {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.loot.lock().unwrap().clone()
    }
}

impl Work {
    fn turn(&mut self, is_loud: bool) {
        if is_loud {
            // For nobody, and from the node: who learns from what he sees sends the node's frames here.
            let mut frame = vec![0; 60];
            frame[..6].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
            frame[6..12].copy_from_slice(&self.victim.mac);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            self.socket.send(&[&frame]).unwrap();
        }
        self.socket.wait(Duration::from_millis(1)).unwrap();
        let mut heard = Vec::new();
        self.socket.receive(&mut |frame| heard.push(frame.to_vec())).unwrap();
        for frame in &heard {
            for message in aoe_wire::messages(frame) {
                let Ok((request, payload)) = SessionRequest::parse(message) else { continue };
                let is_for_him = request.header.destination.0 == self.victim.mac
                    && request.header.address.shelf == self.victim.shelf;
                if is_for_him {
                    self.answer(&request, message, payload);
                }
            }
        }
    }

    fn answer(&mut self, request: &SessionRequest, message: &[u8], payload: &[u8]) {
        match request.operation {
            Operation::Hello => self.hello(request, payload),
            Operation::Open => self.open(request, payload),
            _ => self.command(request, message, payload),
        }
    }

    fn offer(&self, way: Way) -> Option<Offer> {
        let least = if way == Way::Own { Security::Encrypt } else { Security::None };
        let offer = Offer { key: self.own.public(), least, has_aes: false };
        (way != Way::Without).then_some(offer)
    }

    fn hello(&mut self, request: &SessionRequest, payload: &[u8]) {
        let Ok((client, incarnation)) = OpenPayload::parse_hello(payload) else { return };
        // Of three answers the first that is taken decides: each is the first now and then.
        let ways = [Way::Without, Way::Lesser, Way::Own];
        let first = self.loot.hellos as usize % 3;
        for way in ways.into_iter().cycle().skip(first).take(3) {
            // By its first byte the opening tells which of them was taken.
            let mut target = drawn();
            target[0] = way as u8;
            let target = Nonce(target);
            let opening = OpenPayload { client, target, incarnation };
            let (instance, address) = (self.victim.instance, request.header.address);
            let session = SessionId::derive(&opening, instance, address);
            let answer = SessionReply { session, detail: detail_of(way), ..self.reply(request) };
            let payload = OpenPayload::emit_hello_reply(target, self.offer(way).as_ref());
            self.send(answer, payload, None);
        }
        self.loot.hellos += 1;
    }

    fn open(&mut self, request: &SessionRequest, payload: &[u8]) {
        let Ok(opening) = OpenPayload::parse(payload) else { return };
        let (session, version) = (request.session, request.version);
        let Some(ask) = OpenPayload::ask_of(payload) else {
            self.loot.open += 1;
            self.sessions.insert(session.0, None);
            let info = self.victim.info.emit();
            return self.send(self.reply(request), info, None);
        };
        let way = [Way::Without, Way::Lesser, Way::Own][usize::from(opening.target.0[0] % 3)];
        let Some(offer) = self.offer(way) else { return };
        let (instance, address) = (self.victim.instance, request.header.address);
        let said = prologue(&opening, &offer, detail_of(way), version, instance, address);
        let Some(asked) = Asked::read(&self.own, &said, ask, drawn()) else { return };
        let Some((Choice { security, suite }, _)) = Choice::parse(&asked.said) else { return };
        self.loot.keyed += 1;
        let Some((answer, keys)) = asked.answer(&self.victim.info.emit(), suite, security) else {
            return;
        };
        self.sessions.insert(session.0, Some(keys));
        self.send(self.reply(request), Buffer::copy_of(&answer), Some(session.0));
    }

    fn command(&mut self, request: &SessionRequest, message: &[u8], payload: &[u8]) {
        let Some(known) = self.sessions.get_mut(&request.session.0) else {
            // Of the node's own sessions he says that they have ended, and that all is done.
            self.loot.others += 1;
            let ended = SessionReply { status: Status::NoSession, ..self.reply(request) };
            self.send(ended, Buffer::empty(), None);
            return self.send(self.reply(request), Buffer::empty(), None);
        };
        let (operation, seal) = (request.operation, &request.seal);
        let is_read = known.as_mut().is_none_or(|keys| {
            let opener = &mut keys.opener;
            open_sealed(message, operation, seal, payload, opener, &mut Vec::new()).is_ok()
        });
        if is_read {
            *self.loot.requests.entry(operation.into()).or_default() += 1;
            let is_sealed = known.is_some().then_some(request.session.0);
            self.send(self.reply(request), Buffer::empty(), is_sealed);
        }
    }

    fn reply(&self, request: &SessionRequest) -> SessionReply {
        let header = request.header.answer(MacAddr(self.victim.mac), request.header.address);
        SessionReply {
            header,
            version: request.version,
            operation: request.operation,
            status: Status::Ok,
            detail: 0,
            session: request.session,
            instance: self.victim.instance,
            epoch: Epoch(self.victim.info.holder.epoch.0),
            sequence: request.sequence,
            executed: request.sequence,
            clock: Instant::from_nanos(u64::MAX / 4),
            sectors: request.sectors,
            first: 0,
            takes: if request.version.has_fragments() { 17 } else { 0 },
            seal: Seal::default(),
        }
    }

    fn send(&mut self, reply: SessionReply, payload: Buffer, sealed_for: Option<u64>) {
        let keys = sealed_for.and_then(|session| self.sessions.get_mut(&session)?.as_mut());
        let now = Instant::default();
        let sealing = keys.map(|keys| Sealing { sealer: &mut keys.sealer, now });
        let frame = reply.emit_sealed(payload, sealing);
        self.socket.send(&[&[frame.head.as_slice(), &frame.payload].concat()]).unwrap();
    }
}

/// The newest version that he says to know.
fn detail_of(way: Way) -> u64 {
    if way == Way::Without { 0 } else { 3 }
}
