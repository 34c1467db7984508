//! Commands whose data comes in fragments: version 2 of docs/session.md.

#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;

use block::{Answer, Epoch, Lba, SectorRange};

use super::session::{ask, hello, of, opening, received, send};
use super::*;

const NEWEST: SessionVersion = SessionVersion::NEWEST;
/// The most that the disk of these tests has, and how many such commands a session's memory holds.
const LONG: u32 = SECTORS as u32;
const LONG_PER_SESSION: u64 = (8 << 20) / (SECTORS * 512 + 1024);

fn connect(bench: &mut Bench, n: u8) -> SessionId {
    let (opening, session) = hello(bench, opening(n));
    let open = SessionRequest { version: NEWEST, ..of(Operation::Open, session, 0, 0) };
    send(bench, open, &opening.emit());
    bench.serve();
    let (reply, _) = received(bench);
    assert_eq!((reply.status, reply.version), (Status::Ok, NEWEST));
    session
}

fn write(session: SessionId, sequence: u64, lba: u64, sectors: u32) -> SessionRequest {
    let write = of(Operation::Write, session, sequence, 5);
    SessionRequest { version: NEWEST, lba: Lba(lba), sectors, last: false, ..write }
}

fn read(session: SessionId, sequence: u64, lba: u64, sectors: u32) -> SessionRequest {
    let read = of(Operation::Read, session, sequence, 5);
    SessionRequest { version: NEWEST, lba: Lba(lba), sectors, ..read }
}

/// What a write of this number has for a sector of the disk.
fn data(sequence: u64, sectors: Range<u64>) -> Vec<u8> {
    sectors.flat_map(|sector| [(sector * 7 + sequence * 31) as u8; 512]).collect()
}

/// Sends these sectors of a command.
fn fragment(bench: &mut Bench, request: SessionRequest, part: Range<u32>) {
    let start = request.lba.0 + u64::from(part.start);
    let bytes = data(request.sequence, start..start + u64::from(part.end - part.start));
    send(bench, SessionRequest { first: part.start as u16, ..request }, &bytes);
}

fn last(request: SessionRequest) -> SessionRequest {
    SessionRequest { last: true, ..request }
}

/// Which sectors the only answer says are missing.
fn missing(bench: &mut Bench) -> Vec<Range<u32>> {
    let (reply, payload) = received(bench);
    assert_eq!((reply.status, reply.version), (Status::Incomplete, NEWEST));
    SectorMap::parse(&payload, reply.sectors).unwrap().runs().collect()
}

#[test]
fn a_session_begins_with_an_offer() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let greeting = SessionRequest::new(header(Command::Session), Operation::Hello);
    let payload = OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([1; 16]));
    bench.send(&greeting.emit(payload));
    let (reply, _) = received(&mut bench);
    assert_eq!((reply.version, reply.detail), (SessionVersion::One, 3));

    let (opening, session) = hello(&mut bench, opening(1));
    let open = SessionRequest { version: NEWEST, ..of(Operation::Open, session, 0, 0) };
    let (reply, payload) = ask(&mut bench, open, &opening.emit());
    assert_eq!((reply.version, reply.takes), (NEWEST, 17));
    assert_eq!(ExportInfo::parse(&payload).unwrap().message_sectors_max, 2048);
}

#[test]
fn fragments_in_any_order_are_one_write_and_one_answer() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let request = SessionRequest { durable: true, ..write(session, 1, 10, 100) };
    for part in [17..34, 0..17, 17..34, 90..100, 30..60, 50..89] {
        fragment(&mut bench, request, part);
        bench.silence();
    }
    fragment(&mut bench, request, 80..92);
    let asked = bench.io.pop_front().unwrap();
    let IoOperation::Device(block::Operation::Write { start, data: written, durability }) =
        &asked.operation
    else {
        panic!("{asked:?}")
    };
    assert_eq!((*start, *durability), (Lba(10), block::Durability::Durable));
    assert_eq!(written.to_vec(), data(1, 10..110));
    assert!(written.is_aligned_to(4096), "for direct I/O");
    // Late copies, while it runs and when it is done, whether or not their sender waits.
    fragment(&mut bench, request, 0..17);
    fragment(&mut bench, last(request), 90..100);
    bench.silence();
    bench.complete(asked.id, Ok(Answer::Done));
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    fragment(&mut bench, request, 0..17);
    bench.silence();
    fragment(&mut bench, last(request), 90..100);
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    bench.silence();
    assert_eq!(bench.stats()[Counter::Writes], 1);
}

#[test]
fn who_waits_hears_what_is_missing() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let request = write(session, 1, 0, 100);
    fragment(&mut bench, request, 0..17);
    fragment(&mut bench, last(request), 85..100);
    assert_eq!(missing(&mut bench), [17..85]);
    fragment(&mut bench, request, 34..51);
    bench.silence();
    // Nothing new, but asked.
    fragment(&mut bench, last(request), 85..100);
    assert_eq!(missing(&mut bench), [17..34, 51..85]);
    fragment(&mut bench, request, 17..34);
    fragment(&mut bench, last(request), 51..85);
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    assert_eq!(bench.disk[..100 * 512], data(1, 0..100));
}

/// The other path carries less: what was cut for one is made up on the other.
#[test]
fn fragments_of_any_size_make_one_command() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let request = write(session, 1, 3, 40);
    fragment(&mut bench, request, 0..17);
    for first in (16..40).step_by(2) {
        fragment(&mut bench, request, first..first + 2);
    }
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    assert_eq!(bench.disk[3 * 512..43 * 512], data(1, 3..43));
}

#[test]
fn fragments_that_disagree_are_dropped_and_counted() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let request = write(session, 1, 0, 100);
    fragment(&mut bench, request, 0..17);
    let strangers = [
        SessionRequest { sectors: 101, ..request },
        SessionRequest { lba: Lba(1), ..request },
        SessionRequest { durable: true, ..request },
    ];
    for stranger in strangers {
        fragment(&mut bench, last(stranger), 17..100);
        bench.silence();
    }
    let flush = SessionRequest { version: NEWEST, ..of(Operation::Flush, session, 1, 5) };
    send(&mut bench, flush, &[]);
    bench.silence();
    assert_eq!(bench.stats()[Counter::Malformed], 4);
    fragment(&mut bench, last(request), 17..100);
    bench.serve();
    assert_eq!(received(&mut bench).0.status, Status::Ok);
    assert_eq!(bench.disk[..100 * 512], data(1, 0..100));
}

#[test]
fn a_command_that_may_not_run_is_told_once() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let cases = [
        (SessionRequest { epoch: Epoch(4), ..write(session, 1, 0, 100) }, Status::Fenced),
        (write(session, 2, SECTORS - 50, 100), Status::OutOfRange),
        (write(session, 3, 0, 2049), Status::OutOfRange),
    ];
    for (request, status) in cases {
        fragment(&mut bench, request, 0..17);
        assert_eq!(received(&mut bench).0.status, status);
        fragment(&mut bench, request, 17..34);
        bench.silence();
        fragment(&mut bench, last(request), 34..51);
        assert_eq!(received(&mut bench).0.status, status);
    }
}

/// Who was deposed while his command was on its way doesn't write.
#[test]
fn a_claim_between_two_fragments_fences_the_command() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (session, other) = (connect(&mut bench, 1), connect(&mut bench, 2));
    let request = write(session, 1, 0, 34);
    fragment(&mut bench, request, 0..17);
    // It is no command that has arrived: the claim doesn't wait for it.
    let claim = SessionRequest { version: NEWEST, ..of(Operation::Claim, other, 1, 6) };
    let (reply, _) = ask(&mut bench, claim, owner(2).0.as_bytes());
    assert_eq!(reply.status, Status::Ok);
    fragment(&mut bench, last(request), 17..34);
    assert_eq!(received(&mut bench).0.status, Status::Fenced);
    assert!(bench.disk.iter().all(|byte| *byte == 0));
}

/// A command has arrived when nothing of it is missing: what overlaps it and was whole before goes first.
#[test]
fn a_command_has_its_place_from_its_last_fragment_on() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    fragment(&mut bench, write(session, 1, 0, 34), 0..17);
    send(&mut bench, read(session, 2, 0, 1), &[]);
    fragment(&mut bench, write(session, 3, 0, 1), 0..1);
    fragment(&mut bench, write(session, 1, 0, 34), 17..34);
    bench.serve();
    let told: Vec<_> = bench
        .sent
        .drain(..)
        .map(|bytes| {
            let (reply, payload) = SessionReply::parse(&bytes).unwrap();
            (reply.sequence, payload.first().copied())
        })
        .collect();
    assert_eq!(told, [(2, Some(0)), (3, None), (1, None)]);
    assert_eq!(bench.disk[..34 * 512], data(1, 0..34));
}

#[test]
fn a_full_queue_drops_fragments_and_the_repetition_runs() {
    let mut bench = Bench::new(held(5, 1), |options| options.queue_length = 1);
    let session = connect(&mut bench, 1);
    let request = write(session, 1, 0, 34);
    fragment(&mut bench, request, 0..17);
    let flush = SessionRequest { version: NEWEST, ..of(Operation::Flush, session, 2, 5) };
    send(&mut bench, flush, &[]);
    fragment(&mut bench, last(request), 17..34);
    assert!(bench.sent.is_empty());
    assert_eq!(bench.stats()[Counter::QueueFull], 1);
    bench.serve();
    assert_eq!(received(&mut bench).0.sequence, 2);
    fragment(&mut bench, last(request), 17..34);
    bench.serve();
    assert_eq!(received(&mut bench).0.sequence, 1);
    assert_eq!(bench.disk[..34 * 512], data(1, 0..34));
}

/// A few long commands are all that a queue holds: who has many of them isn't told by their number.
#[test]
fn a_flood_of_long_commands_leaves_room_for_others() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (flood, other) = (connect(&mut bench, 1), connect(&mut bench, 2));
    let of_other = |sequence| {
        let mut request = read(other, sequence, 0, LONG);
        request.header.source = OTHER;
        request
    };
    let queued = |bench: &Bench| bench.target.export_status(bench.export).unwrap().queued;
    let full = (16 << 20) / (SECTORS as usize * 512);
    for sequence in 1..=64 {
        send(&mut bench, read(flood, sequence, 0, LONG), &[]);
    }
    assert_eq!(queued(&bench), full, "alone it may have all");
    // What is done from now on is for the other, who is there.
    send(&mut bench, of_other(1), &[]);
    for sequence in 1..=8 {
        let asked = bench.io.pop_front().unwrap();
        bench.complete(asked.id, Ok(Answer::Data(Buffer::zeroed(SECTORS as usize * 512))));
        send(&mut bench, read(flood, 64, 0, LONG), &[]);
        assert_eq!(queued(&bench), full - 1, "{sequence}");
        send(&mut bench, of_other(sequence), &[]);
        assert_eq!(queued(&bench), full, "{sequence}");
    }
}

/// Begins as many commands as it takes until there is no memory, and says how many there were.
fn fill(bench: &mut Bench, session: SessionId) -> u64 {
    for sequence in 1..=1000 {
        let before = bench.stats()[Counter::QueueFull];
        fragment(bench, write(session, sequence, 0, LONG), 0..17);
        bench.silence();
        if bench.stats()[Counter::QueueFull] > before {
            return sequence - 1;
        }
    }
    panic!("no end of memory")
}

#[test]
fn a_sessions_memory_is_bounded_and_comes_back() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let held = fill(&mut bench, session);
    assert_eq!(held, LONG_PER_SESSION);
    // What needs none goes on, and so does what has it.
    fragment(&mut bench, last(write(session, 100, 0, 17)), 0..17);
    fragment(&mut bench, last(write(session, held, 0, LONG)), 17..LONG);
    bench.serve();
    let numbers: Vec<_> =
        bench.sent.drain(..).map(|bytes| SessionReply::parse(&bytes).unwrap().0.sequence).collect();
    assert_eq!(numbers, [100, held]);
    // There is room for one again, and for all once the floor has passed them.
    let floor = |request| SessionRequest { floor: 200, ..request };
    fragment(&mut bench, last(write(session, 101, 0, LONG)), 0..17);
    assert_eq!(missing(&mut bench), [17..LONG]);
    fragment(&mut bench, last(write(session, 102, 0, LONG)), 0..17);
    bench.silence();
    for sequence in 200..200 + held {
        fragment(&mut bench, last(floor(write(session, sequence, 0, LONG))), 0..17);
        assert_eq!(missing(&mut bench), [17..LONG]);
    }
    // What comes of a number below the floor comes late. Only who waits hears of it.
    fragment(&mut bench, write(session, 101, 0, LONG), 17..LONG);
    bench.silence();
    fragment(&mut bench, last(write(session, 101, 0, LONG)), 17..LONG);
    assert_eq!(received(&mut bench).0.status, Status::OutsideWindow);
}

#[test]
fn what_was_given_up_goes_where_memory_is_wanted() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let sessions: Vec<SessionId> = (0..10).map(|n| connect(&mut bench, n)).collect();
    let all: u64 = sessions[..9].iter().map(|session| fill(&mut bench, *session)).sum();
    assert_eq!(all, (64 << 20) / (SECTORS * 512 + 1024));
    let request = last(write(sessions[9], 1, 0, LONG));
    fragment(&mut bench, request, 0..17);
    bench.silence();
    // It isn't taken from who may still be at it.
    bench.pass(Duration::from_millis(900));
    fragment(&mut bench, last(write(sessions[0], 2, 0, LONG)), 17..34);
    assert_eq!(missing(&mut bench), [34..LONG]);
    fragment(&mut bench, write(sessions[0], 3, 0, LONG), 0..17);
    fragment(&mut bench, request, 0..17);
    bench.silence();
    bench.pass(Duration::from_millis(200));
    fragment(&mut bench, request, 0..17);
    bench.silence();
    fragment(&mut bench, request, 0..17);
    assert_eq!(missing(&mut bench), [17..LONG]);
    // Who comes back to a command that went begins it anew, and one that stayed isn't touched.
    fragment(&mut bench, last(write(sessions[0], 1, 0, LONG)), 17..LONG);
    assert_eq!(missing(&mut bench), [0..17]);
    fragment(&mut bench, last(write(sessions[0], 2, 0, LONG)), 0..17);
    assert_eq!(missing(&mut bench), [34..LONG]);
    // Saying the same again and again is no reason to stay.
    fragment(&mut bench, last(write(sessions[0], 3, 0, LONG)), 17..LONG);
    assert_eq!(missing(&mut bench), [0..17]);
}

/// What was begun under a former session isn't completed in the next one.
#[test]
fn incomplete_commands_end_with_their_session() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let former = connect(&mut bench, 1);
    fill(&mut bench, former);
    let session = connect(&mut bench, 1);
    fragment(&mut bench, write(former, 1, 0, LONG), 17..LONG);
    bench.silence();
    fragment(&mut bench, last(write(former, 1, 0, LONG)), 17..LONG);
    assert_eq!(received(&mut bench).0.status, Status::NoSession);
    fragment(&mut bench, last(write(session, 1, 0, LONG)), 17..LONG);
    assert_eq!(missing(&mut bench), [0..17]);
    // Its memory is free: the rest of a whole session's.
    for sequence in 2..=LONG_PER_SESSION {
        fragment(&mut bench, last(write(session, sequence, 0, LONG)), 0..17);
        assert_eq!(missing(&mut bench), [17..LONG]);
    }
    assert!(bench.disk.iter().all(|byte| *byte == 0));
}

/// Nothing of it was carried out: nobody has to flush for it.
#[test]
fn a_session_that_closes_with_incomplete_commands_owes_no_flush() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    fragment(&mut bench, write(session, 1, 0, 34), 0..17);
    let close = SessionRequest { version: NEWEST, ..of(Operation::Close, session, 2, 0) };
    assert_eq!(ask(&mut bench, close, &[]).0.status, Status::Ok);
    let (opening, next) = hello(&mut bench, opening(2));
    let open = SessionRequest { version: NEWEST, ..of(Operation::Open, next, 0, 0) };
    send(&mut bench, open, &opening.emit());
    assert_eq!(received(&mut bench).0.status, Status::Ok, "at once");
}

#[test]
fn one_read_and_many_frames() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    bench.disk = data(0, 0..SECTORS);
    let parts = |bench: &mut Bench| -> Vec<(Range<u32>, bool)> {
        bench.serve();
        bench
            .sent
            .drain(..)
            .map(|bytes| {
                let (reply, payload) = SessionReply::parse(&bytes).unwrap();
                assert_eq!((reply.status, reply.sequence), (Status::Ok, 1));
                let first = u32::from(reply.first);
                let end = first + (payload.len() / 512) as u32;
                let sectors = 5 + u64::from(first)..5 + u64::from(end);
                (first..end, payload == data(0, sectors))
            })
            .collect()
    };
    let request = read(session, 1, 5, 40);
    send(&mut bench, request, &[]);
    assert_eq!(bench.io.len(), 1);
    assert_eq!(parts(&mut bench), [(0..17, true), (17..34, true), (34..40, true)]);
    send(&mut bench, SessionRequest { takes: 30, ..request }, &[]);
    assert_eq!(parts(&mut bench).len(), 3, "no more than the path carries");
    send(&mut bench, SessionRequest { takes: 2, ..request }, &[]);
    assert_eq!(parts(&mut bench).len(), 20);
    // What was lost is asked for alone.
    let mut wanted = SectorMap::full(40);
    let had = [0..4, 6..30, 31..40].map(|had| wanted.remove(had));
    assert_eq!(had, [4, 24, 9]);
    send(&mut bench, request, &wanted.emit());
    let asked = &bench.io[0].operation;
    let hull = SectorRange::new(Lba(9), 27);
    assert!(
        matches!(asked, IoOperation::Device(block::Operation::Read(range)) if *range == hull),
        "{asked:?}"
    );
    assert_eq!(parts(&mut bench), [(4..6, true), (30..31, true)]);
    // A map of nothing is nothing that anybody wants.
    send(&mut bench, request, &[0; 5]);
    bench.silence();
    send(&mut bench, read(session, 2, SECTORS - 1, 2), &[]);
    assert_eq!(received(&mut bench).0.status, Status::OutOfRange);
}

/// A message of version 1 is a command in one fragment.
#[test]
fn all_versions_are_understood_side_by_side() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let old = super::session::connect(&mut bench, 1);
    let new = connect(&mut bench, 2);
    let versions =
        [(old, SessionVersion::One), (new, SessionVersion::Two), (new, SessionVersion::Three)];
    for ((session, version), number) in versions.into_iter().zip([1, 3, 5]) {
        let request = SessionRequest { version, ..last(write(session, number, 0, 16)) };
        let (reply, _) = ask(&mut bench, request, &data(1, 0..16));
        assert_eq!((reply.status, reply.version), (Status::Ok, version));
        let request = SessionRequest { version, ..read(session, number + 1, 0, 16) };
        let (reply, payload) = ask(&mut bench, request, &[]);
        assert_eq!((reply.version, payload), (version, data(1, 0..16)));
    }
    let request = SessionRequest { version: SessionVersion::One, ..read(old, 3, 0, 17) };
    assert_eq!(ask(&mut bench, request, &[]).0.status, Status::OutOfRange);
}

/// Each message of a frame is answered as if it had come alone; who doesn't know that version takes none.
#[test]
fn messages_come_together() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let message = |number: u64| {
        let request = last(write(session, number, number * 8, 2));
        let frame = request.emit(Buffer::copy_of(&data(number, 0..2)));
        [frame.head.as_slice(), &frame.payload].concat()
    };
    bench.target.set_newest(SessionVersion::Two);
    bench.frame(&[message(1), message(2)].concat());
    bench.silence();
    bench.target.set_newest(SessionVersion::Three);
    // The second is damaged, the third comes twice.
    let mut damaged = message(2);
    damaged[200] ^= 1;
    bench.frame(&[message(1), damaged, message(3), message(3)].concat());
    assert_eq!(bench.io.len(), 2);
    bench.serve();
    let answers = std::mem::take(&mut bench.sent);
    let answered: Vec<u64> =
        answers.iter().map(|answer| SessionReply::parse(answer).unwrap().0.sequence).collect();
    assert_eq!(answered, [1, 3]);
}

/// No longer than both ends take, and only with others if the client lets it.
#[test]
fn answers_travel_together_as_far_as_both_ends_take() {
    for (mtu_bytes, takes, most) in [(9000, 17, 17), (9000, 4, 4), (1500, 17, 2)] {
        let mut bench = Bench::new(held(5, 1), |_| ());
        let session = connect(&mut bench, 1);
        bench.target.set_port(PORT, "eth0".into(), SERVER, mtu_bytes);
        bench.collect();
        let together = |bench: &mut Bench, request: SessionRequest, payload: &[u8]| {
            let frame = request.emit(Buffer::copy_of(payload));
            let bytes = [frame.head.as_slice(), &frame.payload].concat();
            bench.target.handle_frame(bench.now, PORT, &bytes);
            let asked: Vec<_> = std::iter::from_fn(|| bench.target.poll_io()).collect();
            for asked in asked {
                let IoOperation::Device(operation) = asked.operation else { continue };
                let answer = match operation {
                    block::Operation::Read(range) => {
                        Answer::Data(Buffer::zeroed(range.len_bytes() as usize))
                    }
                    _ => Answer::Done,
                };
                let done = Ok(Completion::new(bench.instance, IoValue::Device(answer)));
                bench.target.handle_io_done(bench.now, asked.id, done);
            }
            let sent = std::iter::from_fn(|| bench.target.poll_transmit());
            sent.map(|(_, frame)| frame.together_bytes).collect::<Vec<usize>>()
        };
        let limit = 128 + most * 512;
        let asked = |request| SessionRequest { takes, together: true, ..request };
        let wrote = asked(last(write(session, 1, 0, 1)));
        assert_eq!(together(&mut bench, wrote, &[1; 512]), [limit]);
        // The same once more, alone; it was kept.
        let again = SessionRequest { together: false, ..wrote };
        assert_eq!(together(&mut bench, again, &[1; 512]), [0]);
        let whole = asked(read(session, 2, 0, 34));
        let parts = 34usize.div_ceil(most);
        assert_eq!(together(&mut bench, whole, &[]), vec![limit; parts]);
        let older =
            SessionRequest { version: SessionVersion::Two, takes, ..read(session, 3, 0, 1) };
        assert_eq!(together(&mut bench, older, &[]), [0]);
    }
}
