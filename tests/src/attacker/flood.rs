//! Openings as quickly as one processor makes them, from addresses that nobody has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Time};

use aoe_wire::{
    Choice, Command, Header, Incarnation, MacAddr, Nonce, OpenPayload, Operation, SessionReply,
    SessionRequest, SessionVersion, ShelfSlot, WANTS_OFFER, prologue,
};
use os::net::FrameSocket;
use seal::{ASK_BYTES, Asking, KeyPair, Security, Suite};

use super::stranger::{any_key, bytes_of, drawn};
use super::{Attacker, Said};

/// What it consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodOf {
    /// First messages.
    Hellos,
    /// Openings with what the target gave, and a handshake that is none.
    Garbage,
    /// Openings by many who have a key each, as anybody can make as many as he likes.
    Strangers,
}

/// More than an export has sessions.
const KEYS: usize = 64;

/// Until it is stopped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

struct Work {
    socket: FrameSocket,
    of: FloodOf,
    targets: Vec<(ShelfSlot, MacAddr)>,
    keys: Vec<KeyPair>,
    sent: u64,
}

impl Flood {
    /// Begins, against these targets.
    pub fn start(attacker: &Attacker, of: FloodOf, targets: &[(ShelfSlot, MacAddr)]) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (socket, targets) = (attacker.socket(), targets.to_vec());
        let keys = (0..KEYS).map(|_| any_key()).collect();
        let mut work = Work { socket, of, targets, keys, sent: 0 };
        let thread = std::thread::spawn(move || {
            let begun = Time::now();
            while !stopped.load(Ordering::Relaxed) {
                work.turn();
            }
            (work.sent, begun.elapsed())
        });
        Flood { stop, thread }
    }

    /// Ends it: how many frames that were, and how long it went on.
    pub fn stop(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Work {
    fn send(&mut self, frames: &[Vec<u8>]) {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        self.sent += self.socket.send(&frames).unwrap() as u64;
    }

    fn turn(&mut self) {
        let hellos: Vec<Vec<u8>> = (0..16).flat_map(|_| self.hellos()).collect();
        self.send(&hellos);
        let mut heard = Vec::new();
        self.socket.wait(Duration::from_millis(1)).unwrap();
        self.socket.receive(&mut |frame| heard.push(frame.to_vec())).unwrap();
        if self.of != FloodOf::Hellos {
            let answers = heard.iter().flat_map(|frame| Said::all_of(frame));
            let opens: Vec<_> = answers.filter_map(|said| self.open(said)).collect();
            self.send(&opens);
        }
    }

    /// One for each target. Its tag is of no use to who answers, so that nonces are told from addresses.
    fn hellos(&self) -> Vec<Vec<u8>> {
        let hello = |(address, target): &(ShelfSlot, MacAddr)| {
            let mut mac: [u8; 6] = drawn();
            mac[0] = 0x06;
            let header =
                Header::request(*target, MacAddr(mac), *address, Command::Session, 0x7a00_0000);
            let request = SessionRequest {
                lba: WANTS_OFFER,
                ..SessionRequest::new(header, Operation::Hello)
            };
            // Made of its address, and so known when the answer comes.
            let (client, incarnation) = named_by(mac);
            bytes_of(request, OpenPayload::emit_hello(client, incarnation), None)
        };
        self.targets.iter().map(hello).collect()
    }

    fn open(&self, said: Said<'_>) -> Option<Vec<u8>> {
        let (reply, payload) = SessionReply::parse(said.bytes()).ok()?;
        let header = reply.header;
        if reply.operation != Operation::Hello || header.tag != 0x7a00_0000 {
            return None;
        }
        let (target, offer) = OpenPayload::parse_hello_reply(payload).ok()?;
        let (client, incarnation) = named_by(header.destination.0);
        let opening = OpenPayload { client, target, incarnation };
        let (version, instance, address) = (SessionVersion::NEWEST, reply.instance, header.address);
        let choice = Choice { security: Security::Encrypt, suite: Suite::ChaCha20Poly1305 };
        let ask = match self.of {
            FloodOf::Strangers => {
                let offer = offer?;
                let said = prologue(&opening, &offer, reply.detail, version, instance, address);
                let [at] = drawn::<1>();
                let own = &self.keys[usize::from(at) % KEYS];
                Asking::begin(own, &offer.key, &said, &choice.bytes(&[]), drawn())?.1
            }
            _ => drawn::<{ ASK_BYTES + 2 }>().to_vec(),
        };
        let own = header.destination;
        let header = Header::request(header.source, own, address, Command::Session, header.tag);
        let request = SessionRequest {
            version,
            session: reply.session,
            instance,
            ..SessionRequest::new(header, Operation::Open)
        };
        Some(bytes_of(request, opening.emit_keyed(&ask), None))
    }
}

fn named_by(mac: [u8; 6]) -> (Nonce, Incarnation) {
    let mut bytes = [0x5a; 16];
    bytes[..6].copy_from_slice(&mac);
    (Nonce(bytes), Incarnation(bytes))
}
