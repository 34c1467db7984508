//! Somebody who has a key, as anybody can make one, opens sessions with a disk that obeys others: that is no business of
//! theirs.

use std::rc::Rc;

use block::probe::{LABEL_MAGIC, RESERVATION_MAGIC};
use block::{Answer, Epoch, Lba};
use seal::{
    Asking, Grant, Identity, KeyPair, Keys, Members, PoolKeyPair, PublicKey, SecretKey, Security,
    Suite, Token,
};

use super::session::{opening, received};
use super::*;

const NODE: u8 = 1;
const OWNER: u8 = 2;
const STRANGER: u8 = 3;
const CHOICE: Choice = Choice { security: Security::Encrypt, suite: Suite::ChaCha20Poly1305 };

fn key(number: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([number; 32])).unwrap()
}

/// Of a target that nobody has joined.
struct Nobody;

impl Members for Nobody {
    fn has(&self, _: &PublicKey) -> bool {
        false
    }

    fn is_own(&self, _: &PublicKey, is_named: bool) -> bool {
        is_named
    }

    fn tokens(&self) -> Vec<Token> {
        Vec::new()
    }

    fn tokens_for(&self, _: &PublicKey) -> Vec<Token> {
        Vec::new()
    }

    fn joined(&self, _: PublicKey, _: &Token) {}
}

/// A disk that obeys its owner, of a target that demands keys and speaks with everybody who has one.
fn bench() -> Bench {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let mut drawn = 0_u8;
    let entropy = Box::new(move |bytes: &mut [u8]| {
        drawn = drawn.wrapping_add(1);
        bytes.fill(drawn);
    });
    let identity = Identity::new(key(NODE), entropy).with_least(Security::Encrypt);
    let identity = identity.with_members(Rc::new(Nobody));
    bench.target.set_identity(Rc::new(identity));
    let pool = PoolKeyPair::of(SecretKey::new([9; 32])).unwrap();
    let grant: Grant = pool.found(&[key(OWNER).public()]).unwrap();
    bench.target.set_said(bench.export, [None; 2], Some(Rc::new(grant)));
    bench
}

/// An opening that was sent; how it began.
struct Begun {
    session: SessionId,
    asking: Asking,
}

/// Says HELLO and OPEN as who has this key.
fn begin(bench: &mut Bench, number: u8) -> Begun {
    let greeting = opening(number);
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello);
    let hello = SessionRequest { lba: WANTS_OFFER, ..hello };
    bench.send(&hello.emit(OpenPayload::emit_hello(greeting.client, greeting.incarnation)));
    let (reply, payload) = received(bench);
    let (target, offer) = OpenPayload::parse_hello_reply(&payload).unwrap();
    let (greeting, offer) = (OpenPayload { target, ..greeting }, offer.unwrap());
    let version = SessionVersion::Three;
    let said = prologue(&greeting, &offer, reply.detail, version, reply.instance, ADDRESS);
    let own = key(number);
    let begun = Asking::begin(&own, &offer.key, &said, &CHOICE.bytes(&[]), [number; 32]);
    let (asking, ask) = begun.unwrap();
    let open = SessionRequest {
        version,
        session: reply.session,
        instance: reply.instance,
        ..SessionRequest::new(header(Command::Session), Operation::Open)
    };
    bench.send(&open.emit(greeting.emit_keyed(&ask)));
    Begun { session: reply.session, asking }
}

/// The answer has come: the session, and its keys.
fn opened(bench: &mut Bench, begun: Begun) -> (SessionId, Keys) {
    let Begun { session, mut asking } = begun;
    let frame = bench.reply();
    let (reply, payload) = SessionReply::parse(&frame).unwrap();
    assert_eq!((reply.operation, reply.status), (Operation::Open, Status::Ok));
    let (_, mut keys) = asking.finish(payload, CHOICE.suite, CHOICE.security).unwrap();
    let (opener, said) = (&mut keys.opener, &mut Vec::new());
    open_sealed(&frame, Operation::Open, &reply.seal, payload, opener, said).unwrap();
    (session, keys)
}

/// A write of one sector, for which the disk takes its time.
fn write(bench: &mut Bench, (session, keys): &mut (SessionId, Keys), sequence: u64) {
    let request = SessionRequest {
        version: SessionVersion::Three,
        session: *session,
        instance: bench.instance,
        epoch: Epoch(5),
        sequence,
        lba: Lba(sequence),
        sectors: 1,
        ..SessionRequest::new(header(Command::Session), Operation::Write)
    };
    let sealing = Sealing { sealer: &mut keys.sealer, now: bench.now };
    bench.send(&request.emit_sealed(Buffer::copy_of(&[7; 512]), Some(sealing)));
}

/// An opening by who may have commands under way waits for them, and all others for it. When those of strangers did so, too,
/// anybody could hold up whoever was served, as often as he liked, and have the disk flush each time.
#[test]
fn strangers_openings_hold_nobody_up() {
    let mut bench = bench();
    let begun = begin(&mut bench, OWNER);
    bench.serve();
    let mut owner = opened(&mut bench, begun);
    write(&mut bench, &mut owner, 1);
    let first = bench.io.pop_front().unwrap();

    // Three of them, one after the other; each ends the one before.
    for _ in 0..3 {
        let stranger = begin(&mut bench, STRANGER);
        opened(&mut bench, stranger);
    }
    assert!(bench.io.is_empty(), "it costs the disk something");
    write(&mut bench, &mut owner, 2);
    assert_eq!(bench.io.len(), 1, "it waits for nobody's opening");
    let second = bench.io.pop_front().unwrap();
    bench.complete(second.id, Ok(Answer::Done));
    assert_eq!(bench.sent.len(), 1, "answered");
    bench.sent.clear();
    bench.complete(first.id, Ok(Answer::Done));

    // Of those who may have something under way all is as it was.
    bench.sent.clear();
    write(&mut bench, &mut owner, 3);
    let third = bench.io.pop_front().unwrap();
    let again = begin(&mut bench, OWNER);
    bench.silence();
    bench.complete(third.id, Ok(Answer::Done));
    let flush = &bench.io[0];
    let is_flush = matches!(flush.operation, IoOperation::Device(block::Operation::Flush(_)));
    assert!(is_flush, "{flush:?}");
    bench.sent.clear();
    bench.serve();
    opened(&mut bench, again);
}

/// An export has 32 sessions: who makes keys, as many as he likes, has strangers make room, and nobody who is served.
#[test]
fn strangers_with_many_keys_throw_out_nobody_who_is_served() {
    let mut bench = bench();
    let begun = begin(&mut bench, OWNER);
    bench.serve();
    let mut owner = opened(&mut bench, begun);
    for number in 0..40 {
        bench.pass(Duration::from_millis(100));
        let stranger = begin(&mut bench, 10 + number);
        opened(&mut bench, stranger);
        bench.sent.clear();
    }
    write(&mut bench, &mut owner, 1);
    assert_eq!(bench.io.len(), 1, "its session is gone");
}

/// However many are sent: what a handshake costs is paid for so many, and then others have their turn. It was 64 in a quarter
/// of a second once, and all others waited for those in one piece.
#[test]
fn openings_are_few_at_a_time() {
    let mut bench = bench();
    let answered = |bench: &mut Bench| {
        let mut answered = 0;
        for _ in 0..40 {
            begin(bench, STRANGER);
            answered += bench.sent.drain(..).count();
        }
        answered
    };
    assert_eq!(answered(&mut bench), 8);
    assert_eq!(bench.stats()[Counter::QueueFull], 32);
    bench.pass(Duration::from_micros(31_249));
    assert_eq!(answered(&mut bench), 0);
    bench.pass(Duration::from_micros(1));
    assert_eq!(answered(&mut bench), 8);
}

/// Whoever can send a frame may write to a disk that nobody has. A label or a reservation record would make it one of a pool,
/// perhaps a disk's double, or one that obeys him.
#[test]
fn nobody_without_a_key_makes_a_disk_of_a_pool() {
    let mut large = device(OPEN);
    large.geometry.sectors = 8196;
    let tail = 8192_u64 - 2048;
    let places =
        [(0, LABEL_MAGIC), (8, LABEL_MAGIC), (16, RESERVATION_MAGIC), (24, RESERVATION_MAGIC)];
    let places = places.into_iter().flat_map(|(at, magic)| [(at, magic), (tail + at, magic)]);
    for (at, magic) in places {
        for (demands_keys, trusted) in [(true, false), (true, true), (false, false)] {
            let mut bench = Bench::new(OPEN, |_| ());
            bench.target.set_device(bench.export, large.clone());
            bench.disk = vec![0; 8196 * 512];
            bench.collect();
            bench.sent.clear();
            if demands_keys {
                let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(1));
                let identity = Identity::new(key(NODE), entropy).with_least(Security::Encrypt);
                let identity = identity.with_members(Rc::new(Nobody));
                bench.target.set_identity(Rc::new(identity));
            }
            if trusted {
                bench.target.trust_port(PORT);
            }
            // Also in the middle of other bytes.
            for first in [at, at.saturating_sub(1)] {
                let mut data = vec![0xA5; 1024];
                let offset = (at - first) as usize * 512;
                data[offset..offset + 8].copy_from_slice(&magic);
                let write =
                    AtaRequest::new(header(Command::Ata), AtaCommand::WRITE_EXT, Lba(first), 2);
                bench.send(&write.emit(Buffer::copy_of(&data)));
                let is_done = !bench.io.is_empty();
                assert_eq!(is_done, !demands_keys || trusted, "{first}");
                bench.serve();
                let (reply, _) =
                    AtaReply::parse(&bench.reply()).map(|(r, d)| (r, d.to_vec())).unwrap();
                assert_eq!(reply.error == 0, is_done);
                // All else may be written there.
                data[offset] = b'x';
                bench.send(&write.emit(Buffer::copy_of(&data)));
                assert!(!bench.io.is_empty());
                bench.serve();
                bench.reply();
            }
        }
    }
}
