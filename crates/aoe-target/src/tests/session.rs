//! A scripted client of the session server, rule by rule of docs/session.md.

use std::cell::Cell;

use block::{Answer, Durability, Epoch, Lba, RefusalReason};

use super::*;

const INSTANCE: Instance = Instance(77);

fn request(operation: Operation) -> SessionRequest {
    SessionRequest {
        instance: INSTANCE,
        ..SessionRequest::new(header(Command::Session), operation)
    }
}

thread_local! {
    static NONCES: Cell<u128> = const { Cell::new(0) };
}

/// An opening of client `n`, with another nonce each time.
pub(super) fn opening(n: u8) -> OpenPayload {
    let number = NONCES.replace(NONCES.get() + 1);
    OpenPayload {
        client: Nonce(number.to_be_bytes()),
        target: Nonce::default(),
        incarnation: Incarnation([n; 16]),
    }
}

pub(super) fn received(bench: &mut Bench) -> (SessionReply, Vec<u8>) {
    let bytes = bench.reply();
    let (reply, payload) = SessionReply::parse(&bytes).unwrap();
    (reply, payload.to_vec())
}

/// HELLO; what OPEN has to carry, and the session's number.
pub(super) fn hello(bench: &mut Bench, opening: OpenPayload) -> (OpenPayload, SessionId) {
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello);
    bench.send(&hello.emit(OpenPayload::emit_hello(opening.client, opening.incarnation)));
    let (reply, payload) = received(bench);
    assert_eq!((reply.operation, reply.status), (Operation::Hello, Status::Ok));
    assert_eq!(reply.header.tag, 0x1234);
    let (target, _) = OpenPayload::parse_hello_reply(&payload).unwrap();
    let opening = OpenPayload { target, ..opening };
    assert_eq!(reply.session, SessionId::derive(&opening, reply.instance, ADDRESS));
    (opening, reply.session)
}

pub(super) fn send_open(bench: &mut Bench, opening: &OpenPayload, session: SessionId) {
    let instance = bench.target.export_status(bench.export).unwrap().device.instance;
    let open = SessionRequest { session, instance, ..request(Operation::Open) };
    bench.send(&open.emit(opening.emit()));
}

pub(super) fn connect(bench: &mut Bench, n: u8) -> SessionId {
    let (opening, session) = hello(bench, opening(n));
    send_open(bench, &opening, session);
    bench.serve();
    let (reply, _) = received(bench);
    assert_eq!(reply.status, Status::Ok);
    session
}

pub(super) fn send(bench: &mut Bench, request: SessionRequest, payload: &[u8]) {
    bench.send(&request.emit(Buffer::copy_of(payload)));
}

pub(super) fn ask(
    bench: &mut Bench,
    request: SessionRequest,
    payload: &[u8],
) -> (SessionReply, Vec<u8>) {
    send(bench, request, payload);
    bench.serve();
    received(bench)
}

fn write(session: SessionId, sequence: u64, lba: u64) -> SessionRequest {
    SessionRequest {
        session,
        sequence,
        epoch: Epoch(5),
        lba: Lba(lba),
        sectors: 1,
        ..request(Operation::Write)
    }
}

pub(super) fn of(
    operation: Operation,
    session: SessionId,
    sequence: u64,
    epoch: u64,
) -> SessionRequest {
    SessionRequest { session, sequence, epoch: Epoch(epoch), ..request(operation) }
}

pub(super) fn read(session: SessionId, sequence: u64, lba: u64) -> SessionRequest {
    SessionRequest { lba: Lba(lba), sectors: 1, ..of(Operation::Read, session, sequence, 5) }
}

fn status(bench: &mut Bench, request: SessionRequest, payload: &[u8]) -> Status {
    ask(bench, request, payload).0.status
}

#[test]
fn opening_describes_the_export() {
    let mut bench = Bench::new(held(5, 1), |options| options.read_only = true);
    let (opening, session) = hello(&mut bench, opening(1));
    send_open(&mut bench, &opening, session);
    let (reply, payload) = received(&mut bench);
    assert_eq!((reply.status, reply.session, reply.instance), (Status::Ok, session, INSTANCE));
    assert_eq!((reply.epoch, reply.clock), (Epoch(5), bench.now));
    let info = ExportInfo::parse(&payload).unwrap();
    assert_eq!((info.sectors, info.message_sectors_max, info.window), (SECTORS, 16, 1024));
    assert_eq!((info.node_name.as_str(), info.export_name.as_str()), ("node-194", "disk"));
    assert_eq!(info.node_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.holder, Holder::new(Epoch(5), owner(1)));
    assert!(info.read_only);
}

/// A recorded opening that arrives again, later, must not make the numbers of old frames valid.
#[test]
fn a_replayed_opening_yields_nothing() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (first, session) = hello(&mut bench, opening(1));
    send_open(&mut bench, &first, session);
    received(&mut bench);
    assert_eq!(status(&mut bench, write(session, 1, 10), &[1; 512]), Status::Ok);

    // While the session is open, a second copy of OPEN is a lost answer: it changes nothing.
    send_open(&mut bench, &first, session);
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    assert_eq!(status(&mut bench, write(session, 1, 10), &[9; 512]), Status::Ok);
    assert_eq!(bench.disk[10 * 512], 1, "still remembered");

    let second = connect(&mut bench, 1);
    assert_ne!(second, session, "the target's nonce is new");
    send_open(&mut bench, &first, session);
    assert_eq!(received(&mut bench).0.status, Status::NoSession);
    assert_eq!(status(&mut bench, write(session, 2, 10), &[9; 512]), Status::NoSession);
    assert_eq!(bench.disk[10 * 512], 1);
}

#[test]
fn nonces_are_forgotten_after_a_while_and_once_used() {
    let mut bench = Bench::new(OPEN, |_| ());
    let opening = opening(1);
    let (first, session) = hello(&mut bench, opening);
    assert_eq!(hello(&mut bench, opening), (first, session), "a repetition gets the same");
    assert_eq!(bench.target.poll_timeout(), None);
    bench.pass(Duration::from_secs(20));
    send_open(&mut bench, &first, session);
    assert_eq!(received(&mut bench).0.status, Status::NoSession);
    let (second, session) = hello(&mut bench, opening);
    assert_ne!(second, first);
    send_open(&mut bench, &second, session);
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    let close = SessionRequest { sequence: 1, ..of(Operation::Close, session, 1, 0) };
    assert_eq!(status(&mut bench, close, &[]), Status::Ok);
    send_open(&mut bench, &second, session);
    assert_eq!(received(&mut bench).0.status, Status::NoSession, "it was used");
}

#[test]
fn a_wrong_nonce_opens_nothing() {
    let mut bench = Bench::new(OPEN, |_| ());
    let (good, session) = hello(&mut bench, opening(1));
    for wrong in [
        OpenPayload { client: Nonce([9; 16]), ..good },
        OpenPayload { target: Nonce([9; 16]), ..good },
        OpenPayload { incarnation: Incarnation([9; 16]), ..good },
    ] {
        send_open(&mut bench, &wrong, session);
        assert_eq!(received(&mut bench).0.status, Status::NoSession);
        let derived = SessionId::derive(&wrong, INSTANCE, ADDRESS);
        send_open(&mut bench, &wrong, derived);
        assert_eq!(received(&mut bench).0.status, Status::NoSession);
    }
    assert_eq!(bench.target.export_status(bench.export).unwrap().sessions, 0);
}

/// However many others say it: nothing is remembered of them.
#[test]
fn hellos_push_nobody_out() {
    let mut bench = Bench::new(OPEN, |_| ());
    let (first, session) = hello(&mut bench, opening(0));
    for n in 1..=200 {
        hello(&mut bench, opening(n));
    }
    send_open(&mut bench, &first, session);
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
}

#[test]
fn without_a_session_nothing_happens() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let mut other_instance = write(session, 1, 0);
    other_instance.instance = Instance(76);
    for wrong in [write(SessionId(12345), 1, 0), other_instance] {
        let (reply, _) = ask(&mut bench, wrong, &[1; 512]);
        assert_eq!((reply.status, reply.session), (Status::NoSession, wrong.session));
        assert_eq!(reply.instance, INSTANCE);
    }
    let mut broadcast = SessionRequest::new(header(Command::Session), Operation::Hello);
    broadcast.header.address = ShelfSlot::ANY;
    bench.send(&broadcast.emit(OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([1; 16]))));
    bench.silence();
    assert!(bench.disk.iter().all(|byte| *byte == 0));
}

#[test]
fn writes_run_at_most_once() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    send(&mut bench, write(session, 1, 10), &[1; 512]);
    assert_eq!(bench.io.len(), 1);
    send(&mut bench, write(session, 1, 10), &[1; 512]);
    assert_eq!((bench.io.len(), bench.sent.len()), (1, 0), "ignored while the first runs");
    bench.serve();
    let (reply, _) = received(&mut bench);
    assert_eq!((reply.status, reply.executed, reply.sequence), (Status::Ok, 1, 1));

    assert_eq!(status(&mut bench, write(session, 2, 10), &[2; 512]), Status::Ok);
    // The late copy of the first must not undo the second.
    let mut again = write(session, 1, 10);
    again.header.tag = 99;
    send(&mut bench, again, &[1; 512]);
    assert!(bench.io.is_empty());
    let (reply, _) = received(&mut bench);
    assert_eq!((reply.status, reply.sequence, reply.executed), (Status::Ok, 1, 2));
    assert_eq!(reply.header.tag, 99);
    assert_eq!(bench.disk[10 * 512], 2);
    let stats = bench.stats();
    assert_eq!(
        (stats[Counter::Writes], stats[Counter::Replayed], stats[Counter::Repeated]),
        (2, 1, 1)
    );

    // The same number with another meaning is nobody's mistake but the client's.
    let mut other = of(Operation::Flush, session, 2, 5);
    other.header.tag = 100;
    send(&mut bench, other, &[]);
    bench.silence();
}

#[test]
fn failures_are_remembered_too() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    send(&mut bench, write(session, 1, 10), &[1; 512]);
    let asked = bench.io.pop_front().unwrap();
    let bad = block::SectorRange::new(Lba(10), 1);
    bench.complete(asked.id, Err(IoError::Medium(bad)));
    let (first, _) = received(&mut bench);
    assert_eq!((first.status, first.detail), (Status::Medium, 10));
    let (again, _) = ask(&mut bench, write(session, 1, 10), &[1; 512]);
    assert_eq!((again.status, again.detail), (Status::Medium, 10));
    assert_eq!(bench.disk[10 * 512], 0);
}

#[test]
fn the_window_has_a_floor_and_a_top() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    assert_eq!(status(&mut bench, write(session, 1023, 0), &[1; 512]), Status::Ok);
    assert_eq!(status(&mut bench, write(session, 1024, 0), &[2; 512]), Status::OutsideWindow);
    let raised = SessionRequest { floor: 1000, ..write(session, 1024, 0) };
    assert_eq!(status(&mut bench, raised, &[3; 512]), Status::Ok);
    // What a lower floor says afterwards came late.
    let late = SessionRequest { floor: 1, ..write(session, 999, 0) };
    assert_eq!(status(&mut bench, late, &[4; 512]), Status::OutsideWindow);
    assert_eq!(status(&mut bench, read(session, 999, 0), &[]), Status::OutsideWindow);
    let kept = SessionRequest { floor: 1000, ..write(session, 1023, 0) };
    assert_eq!(status(&mut bench, kept, &[5; 512]), Status::Ok, "from the cache");
    assert_eq!(bench.disk[0], 3);
    let wild = SessionRequest { floor: u64::MAX, ..write(session, u64::MAX, 0) };
    assert_eq!(status(&mut bench, wild, &[6; 512]), Status::OutsideWindow);
}

#[test]
fn reads_may_run_again() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    bench.disk[3 * 512] = 7;
    for _ in 0..2 {
        let (reply, payload) = ask(&mut bench, read(session, 1, 3), &[]);
        assert_eq!((reply.status, reply.sectors, payload.len()), (Status::Ok, 1, 512));
        assert_eq!(payload[0], 7);
    }
    assert_eq!(bench.stats()[Counter::Reads], 2);
}

#[test]
fn durable_is_passed_on() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    for (durable, expected) in [(true, Durability::Durable), (false, Durability::Volatile)] {
        let request = SessionRequest { durable, ..write(session, 1 + u64::from(durable), 0) };
        send(&mut bench, request, &[0; 512]);
        let asked = bench.io.pop_front().unwrap();
        assert!(
            matches!(asked.operation, IoOperation::Device(block::Operation::Write { durability, .. })
            if durability == expected)
        );
        bench.complete(asked.id, Ok(Answer::Done));
        received(&mut bench);
    }
}

/// Rule 3 as a table: ownership, operation, epoch of the request; status.
#[test]
fn epochs() {
    use Operation::*;
    let none = OPEN;
    let five = held(5, 1);
    let closed = Ownership::Unreadable;
    let all = [Read, Write, Flush, Discard, WriteZeroes, Claim, Status];
    for operation in all {
        let looks = matches!(operation, Read | Status);
        for (ownership, epoch, expected) in [
            (five, 0, if looks { None } else { Some((7, 5)) }),
            (five, 4, Some((6, 0))),
            (five, 5, None),
            (five, 6, if operation == Claim { None } else { Some((6, 0)) }),
            (none, 0, if looks { None } else { Some((7, 5)) }),
            (none, 1, if operation == Claim { None } else { Some((6, 0)) }),
            (closed, 0, if looks { None } else { Some((7, 5)) }),
            (closed, 5, Some((7, 2))),
        ] {
            let mut bench = Bench::new(ownership, |_| ());
            bench.disk.fill(1);
            let session = connect(&mut bench, 1);
            let mut request = of(operation, session, 1, epoch);
            let payload = match operation {
                Write => vec![9; 512],
                Claim => owner(1).0.as_bytes().to_vec(),
                _ => Vec::new(),
            };
            if matches!(operation, Read | Write | Discard | WriteZeroes) {
                request.sectors = 1;
            }
            let (reply, _) = ask(&mut bench, request, &payload);
            let got = match reply.status {
                aoe_wire::Status::Ok => None,
                status => Some((u8::from(status), reply.detail)),
            };
            assert_eq!(got, expected, "{operation:?} with {epoch} on {ownership:?}");
            if got.is_some() {
                assert!(bench.disk.iter().all(|byte| *byte == 1));
                assert_eq!(reply.epoch, ownership.holder().epoch);
            }
        }
    }
}

#[test]
fn an_unreadable_field_is_opened_by_force_only() {
    let mut bench = Bench::new(Ownership::Unreadable, |_| ());
    let session = connect(&mut bench, 1);
    let force = SessionRequest { force: true, ..of(Operation::Claim, session, 1, 3) };
    let (reply, payload) = ask(&mut bench, force, owner(4).0.as_bytes());
    assert_eq!((reply.status, reply.epoch), (Status::Ok, Epoch(3)));
    let holder = Holder::new(Epoch(3), owner(4));
    assert!(HolderPayload::parse(&payload).unwrap().is_same(holder));
}

#[test]
fn a_refused_claim_says_why() {
    let mut bench = Bench::new(OPEN, |_| ());
    let session = connect(&mut bench, 1);
    send(&mut bench, of(Operation::Claim, session, 1, 3), owner(4).0.as_bytes());
    let asked = bench.io.pop_front().unwrap();
    bench.complete(asked.id, Err(IoError::Refused(RefusalReason::ForeignContent)));
    let (reply, _) = received(&mut bench);
    assert_eq!((reply.status, reply.detail, reply.epoch), (Status::Refused, 1, Epoch(0)));
}

#[test]
fn the_accepted_claim_is_a_question() {
    let mut bench = Bench::new(held(5, 1), |options| options.read_only = true);
    let session = connect(&mut bench, 1);
    send(&mut bench, of(Operation::Claim, session, 1, 5), owner(1).0.as_bytes());
    assert!(bench.io.is_empty());
    let (reply, payload) = received(&mut bench);
    assert_eq!(reply.status, Status::Ok);
    assert_eq!(HolderPayload::parse(&payload).unwrap().owner, owner(1));
    let again = of(Operation::Claim, session, 1, 5);
    assert_eq!(ask(&mut bench, again, owner(1).0.as_bytes()).1, payload, "from the cache too");
    let other = of(Operation::Claim, session, 2, 5);
    assert_eq!(status(&mut bench, other, owner(2).0.as_bytes()), Status::Fenced);
    let higher = of(Operation::Claim, session, 3, 6);
    assert_eq!(status(&mut bench, higher, owner(1).0.as_bytes()), Status::ReadOnly);
}

/// Rule 4: a claim is answered after everything accepted before it, and what came after it under
/// the old epoch never runs.
#[test]
fn a_claim_is_a_barrier() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let old = connect(&mut bench, 1);
    let new = connect(&mut bench, 2);
    send(&mut bench, write(old, 1, 10), &[1; 512]);
    send(&mut bench, read(old, 2, 20), &[]);
    let before: Vec<IoRequest> = bench.io.drain(..).collect();
    assert_eq!(before.len(), 2);
    send(&mut bench, of(Operation::Claim, new, 1, 6), owner(2).0.as_bytes());
    send(&mut bench, write(old, 3, 30), &[3; 512]);
    send(&mut bench, of(Operation::Flush, old, 4, 5), &[]);
    bench.silence();

    bench.complete(before[1].id, Ok(Answer::Data(Buffer::zeroed(512))));
    assert_eq!(received(&mut bench).0.sequence, 2);
    bench.silence();
    bench.complete(before[0].id, Ok(Answer::Done));
    assert_eq!(received(&mut bench).0.sequence, 1);
    let claim = bench.io.pop_front().unwrap();
    assert!(
        matches!(claim.operation, IoOperation::Device(block::Operation::Claim(claim)) if claim.epoch == Epoch(6))
    );
    bench.silence();
    let holder = Holder::new(Epoch(6), owner(2));
    bench.complete(claim.id, Ok(Answer::Holder(holder)));

    let replies: Vec<SessionReply> =
        bench.sent.drain(..).map(|bytes| SessionReply::parse(&bytes).unwrap().0).collect();
    let told: Vec<_> = replies.iter().map(|r| (r.session, r.sequence, r.status)).collect();
    // The two that were fenced don't overlap: in any order.
    let fenced = |sequence| (old, sequence, Status::Fenced);
    assert_eq!((told.len(), told[0]), (3, (new, 1, Status::Ok)));
    assert!(told.contains(&fenced(3)) && told.contains(&fenced(4)), "{told:?}");
    assert!(replies.iter().all(|reply| reply.epoch == Epoch(6)));
    assert!(bench.io.is_empty());
    // A repetition of what was fenced stays so.
    assert_eq!(status(&mut bench, write(old, 3, 30), &[3; 512]), Status::Fenced);
    assert_eq!(bench.disk[30 * 512], 0);
    // The deposed owner can't even read.
    assert_eq!(status(&mut bench, read(old, 5, 0), &[]), Status::Fenced);
}

#[test]
fn two_claims_at_once_are_decided_one_after_the_other() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (a, b) = (connect(&mut bench, 1), connect(&mut bench, 2));
    send(&mut bench, of(Operation::Claim, a, 1, 6), owner(2).0.as_bytes());
    send(&mut bench, of(Operation::Claim, b, 1, 6), owner(3).0.as_bytes());
    send(&mut bench, of(Operation::Claim, a, 2, 6), owner(2).0.as_bytes());
    assert_eq!(bench.io.len(), 1);
    bench.serve();
    let told: Vec<_> = bench
        .sent
        .drain(..)
        .map(|bytes| SessionReply::parse(&bytes).unwrap().0)
        .map(|reply| (reply.session, reply.sequence, reply.status))
        .collect();
    assert_eq!(told, [(a, 1, Status::Ok), (b, 1, Status::Fenced), (a, 2, Status::Ok)]);
}

#[test]
fn a_claim_shuts_plain_clients_out_at_once() {
    let mut bench = Bench::new(OPEN, |_| ());
    let session = connect(&mut bench, 1);
    let plain = |lba| {
        AtaRequest::new(header(Command::Ata), AtaCommand::WRITE_EXT, Lba(lba), 1)
            .emit(Buffer::copy_of(&[7; 512]))
    };
    bench.send(&plain(1));
    send(&mut bench, of(Operation::Claim, session, 1, 1), owner(1).0.as_bytes());
    bench.send(&plain(2));
    bench.serve();
    let statuses: Vec<u8> =
        bench.sent.drain(..).filter(|f| f[19] == 0).map(|frame| frame[27]).collect();
    assert_eq!(statuses, [0x40, 0x41]);
    assert_eq!((bench.disk[512], bench.disk[1024]), (7, 0));
}

/// One client process has one session: what an earlier one of it sent is over and durable before
/// the new one is answered.
#[test]
fn a_new_session_ends_the_former_after_its_commands() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let former = connect(&mut bench, 1);
    let bystander = connect(&mut bench, 2);
    send(&mut bench, write(former, 1, 10), &[1; 512]);
    let running = bench.io.pop_front().unwrap();
    let (opening, session) = hello(&mut bench, opening(1));
    send_open(&mut bench, &opening, session);
    send_open(&mut bench, &opening, session);
    bench.silence();
    send(&mut bench, write(former, 2, 11), &[1; 512]);
    assert_eq!(received(&mut bench).0.status, Status::NoSession);
    send(&mut bench, write(session, 1, 12), &[1; 512]);
    assert_eq!(received(&mut bench).0.status, Status::NoSession, "not open yet");

    bench.complete(running.id, Ok(Answer::Done));
    assert!(bench.sent.is_empty(), "its session is gone");
    let flush = bench.io.pop_front().unwrap();
    assert!(matches!(flush.operation, IoOperation::Device(block::Operation::Flush(INSTANCE))));
    bench.complete(flush.id, Ok(Answer::Done));
    let (reply, _) = received(&mut bench);
    assert_eq!(
        (reply.operation, reply.status, reply.session),
        (Operation::Open, Status::Ok, session)
    );
    assert_eq!(status(&mut bench, write(session, 1, 12), &[1; 512]), Status::Ok);
    assert_eq!(status(&mut bench, write(bystander, 1, 13), &[1; 512]), Status::Ok);
}

/// A client that waits for a disk that hangs opens again and again. When the disk comes back, only
/// the last of these openings is worth a flush.
#[test]
fn openings_that_were_given_up_cost_no_flush() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let former = connect(&mut bench, 1);
    send(&mut bench, write(former, 1, 10), &[1; 512]);
    let running = bench.io.pop_front().unwrap();
    let mut last = former;
    for nonce in 1..=5 {
        let payload = OpenPayload { client: Nonce([nonce; 16]), ..opening(1) };
        let (payload, session) = hello(&mut bench, payload);
        send_open(&mut bench, &payload, session);
        last = session;
    }
    bench.silence();
    bench.complete(running.id, Ok(Answer::Done));
    assert_eq!(bench.io.len(), 1, "one flush, for the last");
    bench.sent.clear();
    bench.serve();
    let (reply, _) = received(&mut bench);
    assert_eq!((reply.status, reply.session), (Status::Ok, last));
}

#[test]
fn a_session_isnt_opened_over_a_failed_flush() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    connect(&mut bench, 1);
    let (opening, session) = hello(&mut bench, opening(1));
    send_open(&mut bench, &opening, session);
    let flush = bench.io.pop_front().unwrap();
    bench.complete(flush.id, Err(IoError::FlushFailed));
    assert_eq!(received(&mut bench).0.status, Status::FlushFailed);
    assert_eq!(status(&mut bench, write(session, 1, 0), &[1; 512]), Status::NoSession);
}

#[test]
fn another_instance_ends_all_sessions() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    send(&mut bench, of(Operation::Flush, session, 1, 5), &[]);
    send(&mut bench, write(session, 2, 0), &[1; 512]);
    let flush = bench.io.pop_front().unwrap();
    let now = Instance(78);
    bench.complete(flush.id, Err(IoError::Restarted { now }));
    bench.instance = now;
    bench.serve();
    assert!(bench.sent.is_empty(), "nothing of the old session is answered");
    let (reply, _) = ask(&mut bench, write(session, 2, 0), &[1; 512]);
    assert_eq!((reply.status, reply.instance), (Status::NoSession, now));
    let opened = connect(&mut bench, 1);
    let fresh = SessionRequest { instance: now, ..write(opened, 1, 0) };
    assert_eq!(status(&mut bench, fresh, &[2; 512]), Status::Ok);
}

#[test]
fn sessions_are_bounded_and_the_oldest_idle_one_goes() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let sessions: Vec<SessionId> = (0..32)
        .map(|n| {
            bench.pass(Duration::from_millis(1));
            connect(&mut bench, n)
        })
        .collect();
    bench.pass(Duration::from_millis(1));
    assert_eq!(status(&mut bench, of(Operation::Status, sessions[0], 1, 5), &[]), Status::Ok);
    send(&mut bench, write(sessions[1], 1, 0), &[1; 512]);
    let running = bench.io.pop_front().unwrap();
    // 0 was used, 1 is busy: 2 goes.
    let (opening, session) = hello(&mut bench, opening(99));
    send_open(&mut bench, &opening, session);
    bench.complete(running.id, Ok(Answer::Done));
    bench.serve();
    bench.sent.clear();
    for (index, expected) in
        [(0, Status::Ok), (1, Status::Ok), (2, Status::NoSession), (3, Status::Ok)]
    {
        let request = of(Operation::Status, sessions[index], 2, 5);
        assert_eq!(status(&mut bench, request, &[]), expected, "{index}");
    }
    assert_eq!(bench.target.export_status(bench.export).unwrap().sessions, 32);
}

#[test]
fn close_ends_it() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    assert_eq!(status(&mut bench, of(Operation::Close, session, 1, 0), &[]), Status::Ok);
    assert_eq!(status(&mut bench, of(Operation::Status, session, 2, 5), &[]), Status::NoSession);
}

#[test]
fn ranges_are_checked() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let mut sequence = 0;
    let mut outcome = |operation, lba, sectors| {
        sequence += 1;
        let request =
            SessionRequest { lba: Lba(lba), sectors, ..of(operation, session, sequence, 5) };
        let payload = match operation {
            Operation::Write => vec![1; sectors as usize * 512],
            _ => Vec::new(),
        };
        status(&mut bench, request, &payload)
    };
    use Operation::*;
    for operation in [Read, Write, Discard, WriteZeroes] {
        assert_eq!(outcome(operation, SECTORS - 1, 1), aoe_wire::Status::Ok);
        for (lba, sectors) in [(SECTORS, 1), (SECTORS - 1, 2), (u64::MAX, 1), (0, 0)] {
            assert_eq!(outcome(operation, lba, sectors), aoe_wire::Status::OutOfRange);
        }
    }
    assert_eq!(outcome(Read, 0, 17), aoe_wire::Status::OutOfRange, "no room in a frame");
    assert_eq!(outcome(Write, 0, 17), aoe_wire::Status::OutOfRange);
    assert_eq!(outcome(Discard, 0, 1000), aoe_wire::Status::Ok);
    assert_eq!(outcome(Unknown(0x55), 0, 0), aoe_wire::Status::Unsupported);
}

#[test]
fn damaged_messages_are_dropped_and_counted() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let frame = write(session, 1, 0).emit(Buffer::zeroed(512));
    let good = [frame.head.as_slice(), &frame.payload].concat();
    for at in [20, 25, 28, 33, 50, 60, 70, 75, 85, 90, 96, 600] {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bench.frame(&bytes);
        bench.silence();
    }
    assert_eq!(bench.stats()[Counter::Malformed], 12);
    // Padding behind isn't covered.
    let mut padded = good;
    padded.extend([0xee; 10]);
    bench.frame(&padded);
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
}

#[test]
fn a_full_queue_drops_and_the_repetition_runs() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let sessions: Vec<SessionId> = (0..4).map(|n| connect(&mut bench, n)).collect();
    for session in &sessions {
        for sequence in 1..=1000 {
            let request = of(Operation::Flush, *session, sequence, 5);
            send(&mut bench, request, &[]);
        }
    }
    let status_before = bench.target.export_status(bench.export).unwrap();
    assert_eq!(status_before.queued, 2048);
    assert_eq!(status_before.stats[Counter::QueueFull], 4000 - 2048);
    bench.serve();
    bench.sent.clear();
    assert_eq!(status(&mut bench, of(Operation::Flush, sessions[3], 1000, 5), &[]), Status::Ok);
}

/// a refusal of one write is its own, though its neighbour went to the disk with it.
#[test]
fn a_refusal_stays_its_own() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    for (sequence, lba) in [(1, 10), (2, 11)] {
        let frame = write(session, sequence, lba).emit(Buffer::copy_of(&[1; 512]));
        let bytes = [frame.head.as_slice(), &frame.payload].concat();
        bench.target.handle_frame(bench.now, PORT, &bytes);
    }
    bench.collect();
    // As a medium does: sectors from 11 on are its own.
    while let Some(request) = bench.io.pop_front() {
        let IoOperation::Device(block::Operation::Write { start, data, .. }) = &request.operation
        else {
            panic!()
        };
        let range = block::SectorRange::new(*start, data.len() as u64 / 512);
        let result = match range.overlaps(block::SectorRange::new(Lba(11), 1)) {
            true => Err(IoError::Refused(RefusalReason::ProtectedRange)),
            false => Ok(Answer::Done),
        };
        bench.complete(request.id, result);
    }
    let statuses: Vec<Status> =
        bench.sent.iter().map(|bytes| SessionReply::parse(bytes).unwrap().0.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Refused]);
}
