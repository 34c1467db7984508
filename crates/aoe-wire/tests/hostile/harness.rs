//! What bytes make of a handshake, of sealed messages and of grants: changed, cut, repeated, sent elsewhere. Whatever
//! isn't exactly what its sender said is taken by nobody, and what is is taken once.

use std::collections::BTreeSet;
use std::time::Duration;

use aoe_wire::{
    ExportInfo, Header, HolderPayload, OpenPayload, Operation, Sealing, SessionReply,
    SessionRequest, SessionVersion, messages, open_sealed,
};
use block::{BufferMut, Instance, Instant, Lba, crc32c};
use seal::{
    Asked, Asking, Grant, KeyPair, Keys, PoolKeyPair, PublicKey, Rejected, SecretKey, Security,
    Suite,
};

/// Where the checksum is, and behind it the session, in a message.
const CRC: std::ops::Range<usize> = 28..32;
const SESSION: std::ops::Range<usize> = 32..40;
/// Messages of one conversation, at most.
const MESSAGES_MAX: usize = 64;
/// Steps, at most.
const STEPS_MAX: usize = 256;

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub taken: u64,
    pub forged: u64,
    pub repeated: u64,
    pub unread: u64,
    pub handshakes_refused: u64,
    pub grants_refused: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.taken += other.taken;
        self.forged += other.forged;
        self.repeated += other.repeated;
        self.unread += other.unread;
        self.handshakes_refused += other.handshakes_refused;
        self.grants_refused += other.grants_refused;
    }
}

/// Bytes that say what to do; zeros when there are no more.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % end.max(1)
    }
}

fn pair(number: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([number; 32])).expect("any 32 bytes are a key")
}

/// A change to bytes: some of them, or their number. It may be none.
fn change(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    match script.below(8) {
        0 => bytes.truncate(script.below(bytes.len() + 1)),
        1 => bytes.extend((0..script.below(8)).map(|number| number as u8)),
        2 => {
            let at = script.below(bytes.len());
            let value = script.byte();
            bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = value);
        }
        _ => {
            let (at, mask) = (script.below(bytes.len()), script.byte());
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= mask);
        }
    }
}

/// Both ends of a session that was opened as it should be.
fn opened(script: &mut Script<'_>, number: u8) -> (Keys, Keys) {
    let suite = if script.byte() & 1 == 0 { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
    let security = if script.byte() & 1 == 0 { Security::Encrypt } else { Security::Authenticate };
    let (client, target) = (pair(1), pair(2));
    let (mut asking, ask) =
        Asking::begin(&client, &target.public(), b"prologue", b"said", [number; 32]).unwrap();
    let asked = Asked::read(&target, b"prologue", &ask, [number + 1; 32]).unwrap();
    assert_eq!((asked.peer, &*asked.said), (client.public(), &b"said"[..]));
    let (answer, at_target) = asked.answer(b"export", suite, security).unwrap();
    let (said, at_client) = asking.finish(&answer, suite, security).unwrap();
    assert_eq!(said, b"export");
    (at_client, at_target)
}

/// A message on its way.
struct Sent {
    frame: Vec<u8>,
    payload: Vec<u8>,
    request: SessionRequest,
}

fn send(script: &mut Script<'_>, keys: &mut Keys, now: Instant) -> Sent {
    let mut header = [0; 24];
    header[12..15].copy_from_slice(&[0x88, 0xa2, 0x10]);
    header[19] = 0xf0;
    let header = Header::parse(&header).expect("a header");
    let sectors = script.below(4);
    let (operation, payload) = match sectors {
        0 => (Operation::Flush, Vec::new()),
        _ => {
            let mask = script.byte();
            (Operation::Write, (0..512 * sectors).map(|at| at as u8 ^ mask).collect())
        }
    };
    let request = SessionRequest {
        version: SessionVersion::Two,
        instance: Instance(7),
        sequence: 1 + script.below(1000) as u64,
        lba: Lba(script.below(1000) as u64),
        sectors: sectors as u32,
        ..SessionRequest::new(header, operation)
    };
    let mut data = BufferMut::zeroed(payload.len());
    data.copy_from_slice(&payload);
    let sealing = Sealing { sealer: &mut keys.sealer, now };
    let frame = request.emit_sealed(data.freeze(), Some(sealing));
    let bytes = [&frame.head[..], &frame.payload[..]].concat();
    Sent { frame: bytes, payload, request }
}

/// With a checksum that is right again: that is for accidents.
fn checksummed(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < SESSION.end {
        return frame;
    }
    frame[CRC].fill(0);
    let length = frame
        .get(84..88)
        .map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize);
    let head = if frame[24] >= 2 { 128 } else { 96 };
    let end = head.min(frame.len()).saturating_add(length).min(frame.len());
    let crc = crc32c(&[&frame[SESSION], &frame[..end]].concat());
    frame[CRC].copy_from_slice(&crc.to_be_bytes());
    frame
}

/// What somebody makes of a frame.
fn take(keys: &mut Keys, frame: &[u8]) -> Option<Result<(SessionRequest, Vec<u8>), Rejected>> {
    let (request, payload) = SessionRequest::parse(frame).ok()?;
    let mut room = Vec::new();
    let opened =
        open_sealed(frame, request.operation, &request.seal, payload, &mut keys.opener, &mut room);
    Some(opened.map(|said| (request, said.to_vec())))
}

/// Messages of a session, delivered as the bytes say.
pub fn messages_of(bytes: &[u8]) -> Tally {
    let mut script = Script(bytes);
    let mut tally = Tally::default();
    let (mut client, mut target) = opened(&mut script, 3);
    let (mut other, mut other_target) = opened(&mut script, 5);
    let mut now = Instant::default();
    let mut sent: Vec<Sent> = Vec::new();
    let mut taken = BTreeSet::new();
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        let step = script.below(8);
        if sent.is_empty() || step == 0 {
            if sent.len() < MESSAGES_MAX {
                sent.push(send(&mut script, &mut client, now));
            }
            continue;
        }
        let number = script.below(sent.len());
        let one = &sent[number];
        match step {
            1 => now = now + Duration::from_secs(60 * script.below(20) as u64),
            // To another session, back to who said it, and as another session says it.
            2..=4 => {
                let came = match step {
                    2 => take(&mut other_target, &one.frame),
                    3 => take(&mut client, &one.frame),
                    _ => take(&mut target, &send(&mut script, &mut other, now).frame),
                };
                let came = came.expect("it can be read");
                // Whose number was used is told without looking at what it says.
                assert!(came.is_err(), "it was for another one");
                tally.forged += 1;
            }
            _ => {
                let mut frame = one.frame.clone();
                if step > 5 {
                    change(&mut script, &mut frame);
                    frame = checksummed(frame);
                }
                // What is behind a message is padding.
                let is_whole = frame.starts_with(&one.frame);
                match take(&mut target, &frame) {
                    None => {
                        assert!(!is_whole, "what was sent can be read");
                        tally.unread += 1;
                    }
                    Some(Err(Rejected::Repeated)) => {
                        assert!(taken.contains(&number) || !is_whole, "it came for the first time");
                        tally.repeated += 1;
                    }
                    Some(Err(Rejected::Forged)) => {
                        // Of two keys before the present one nothing is taken any more.
                        tally.forged += 1;
                    }
                    Some(Ok((request, said))) => {
                        assert!(is_whole, "somebody else said that");
                        assert!(taken.insert(number), "it was taken before");
                        let seal = request.seal;
                        assert_eq!(request, SessionRequest { seal, ..one.request });
                        assert_eq!(said, one.payload);
                        tally.taken += 1;
                    }
                }
            }
        }
    }
    tally
}

/// A handshake of which something was changed, and grants.
pub fn handshake(bytes: &[u8]) -> Tally {
    let mut script = Script(bytes);
    let mut tally = Tally::default();
    let (client, target, stranger) = (pair(1), pair(2), pair(9));
    let (suite, security) = (Suite::ChaCha20Poly1305, Security::Encrypt);
    let begin = |peer: &KeyPair| {
        Asking::begin(&client, &peer.public(), b"prologue", b"said", [3; 32]).unwrap()
    };
    let (mut asking, ask) = begin(&target);
    let mut came = ask.clone();
    change(&mut script, &mut came);
    let asked = Asked::read(&target, b"prologue", &came, [4; 32]);
    assert_eq!(asked.is_some(), came == ask, "only what was said is heard");
    tally.handshakes_refused += u64::from(asked.is_none());
    assert!(Asked::read(&stranger, b"prologue", &ask, [4; 32]).is_none(), "it was for another one");
    assert!(Asked::read(&target, b"another", &ask, [4; 32]).is_none(), "about something else");
    let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).unwrap();
    let (answer, _) = asked.answer(b"export", suite, security).unwrap();
    let mut came = answer.clone();
    change(&mut script, &mut came);
    let finished = asking.finish(&came, suite, security);
    assert_eq!(finished.is_some(), came == answer);
    if finished.is_none() {
        tally.handshakes_refused += 1;
        assert!(asking.finish(&answer, suite, security).is_some(), "the right one may follow");
    }

    let key = |number| PoolKeyPair::of(SecretKey::new([number; 32])).unwrap();
    let us = PublicKey([1; 32]);
    let first = key(1).found(&[us, PublicKey([2; 32])]).unwrap();
    let second = key(1).hand_over(&first, &key(2), &[us]).unwrap();
    for grant in [first, second] {
        let mut came = grant.bytes().to_vec();
        change(&mut script, &mut came);
        let parsed = Grant::parse(&came);
        assert_eq!(parsed.is_some(), came == grant.bytes(), "nobody else signs");
        tally.grants_refused += u64::from(parsed.is_none());
    }
    // And whatever there is left, as it is.
    let rest = script.0;
    let _ = Grant::parse(rest);
    let _ =
        (Asked::read(&target, rest, rest, [4; 32]), begin(&target).0.finish(rest, suite, security));
    let _ = (SessionRequest::parse(rest), SessionReply::parse(rest), ExportInfo::parse(rest));
    let _ = (OpenPayload::parse(rest), OpenPayload::parse_hello_reply(rest));
    let _ = (HolderPayload::parse(rest), HolderPayload::parse_claim(rest));
    let _ = (OpenPayload::parse_hello(rest), messages(rest).count());
    tally
}
