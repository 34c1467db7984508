//! What a client may not have heard of when its session ended is on stable storage before the next one
//! is open, however the session ended.

use super::session::{connect, hello, of, opening, send, send_open};
use super::*;
use block::Answer;

/// A session of client `n` with a write that is carried out, and whose answer gets lost.
fn written(bench: &mut Bench, n: u8) -> SessionId {
    let session = connect(bench, n);
    write(bench, session);
    bench.serve();
    bench.sent.clear();
    session
}

fn write(bench: &mut Bench, session: SessionId) {
    let request = SessionRequest { sectors: 1, ..of(Operation::Write, session, 1, 5) };
    send(bench, request, &[7; 512]);
}

fn close(bench: &mut Bench, session: SessionId, floor: u64) {
    let request = of(Operation::Close, session, 2, 5);
    send(bench, SessionRequest { floor, ..request }, &[]);
    bench.sent.clear();
}

/// Client `n` says OPEN; the flush that this waits for.
fn open(bench: &mut Bench, n: u8) -> Option<IoId> {
    let (opening, session) = hello(bench, opening(n));
    send_open(bench, &opening, session);
    let request = bench.io.pop_front()?;
    assert!(
        matches!(request.operation, IoOperation::Device(block::Operation::Flush(_))),
        "{request:?}"
    );
    assert!(bench.sent.is_empty(), "answered before the flush");
    Some(request.id)
}

fn opens_at_once(bench: &mut Bench, n: u8) -> bool {
    let waits = open(bench, n).is_some();
    bench.sent.clear();
    !waits
}

#[test]
fn a_session_that_was_given_up_for_another() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    written(&mut bench, 1);
    for other in 2..=32 {
        bench.pass(Duration::from_millis(1));
        connect(&mut bench, other);
    }
    assert!(!opens_at_once(&mut bench, 33));
    bench.serve();
}

#[test]
fn a_session_that_was_closed() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = written(&mut bench, 1);
    close(&mut bench, session, 2);
    assert!(opens_at_once(&mut bench, 1), "all was heard");
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = written(&mut bench, 1);
    close(&mut bench, session, 1);
    let flush = open(&mut bench, 1).unwrap();
    bench.complete(flush, Ok(Answer::Done));
    assert_eq!(bench.sent.len(), 1);
    bench.sent.clear();
    assert!(opens_at_once(&mut bench, 2), "once is enough");
}

/// The write of a session waits behind a flush that another client's opening waits for, and is carried
/// out when that session has been closed.
#[test]
fn a_write_that_comes_after_the_flush() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let session = connect(&mut bench, 1);
    let other = written(&mut bench, 2);
    close(&mut bench, other, 1);
    let flush = open(&mut bench, 2).unwrap();
    write(&mut bench, session);
    close(&mut bench, session, 1);
    bench.complete(flush, Ok(Answer::Done));
    bench.serve();
    bench.sent.clear();
    assert!(!opens_at_once(&mut bench, 1));
}

#[test]
fn a_disk_that_was_away_for_a_moment() {
    for (error, again) in [(IoError::Lost, true), (IoError::FlushFailed, false)] {
        let mut bench = Bench::new(held(5, 1), |_| ());
        written(&mut bench, 1);
        let flush = open(&mut bench, 1).unwrap();
        bench.complete(flush, Err(error));
        bench.sent.clear();
        assert_eq!(!opens_at_once(&mut bench, 1), again, "{error}");
    }
}
