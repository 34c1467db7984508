//! What others learn of a disk that has an owner: when that one was last heard, and of the disk itself
//! labels, votes and the reservation record.

use aoe_wire::HealthPayload;
use block::{DriveHealth, Epoch, HealthState, Lba, RefusalReason};

use super::session::{ask, connect, hello, of, opening, read, received, send, send_open};
use super::*;

const OBSERVER: u64 = 0;
const MILLISECOND: Duration = Duration::from_millis(1);

/// Who holds the medium, as an observer hears it.
fn holder(bench: &mut Bench, observer: SessionId, sequence: u64) -> Holder {
    let (reply, payload) = ask(bench, of(Operation::Status, observer, sequence, OBSERVER), &[]);
    assert_eq!(reply.status, Status::Ok);
    HolderPayload::parse(&payload).unwrap()
}

/// A labelled disk with something on it.
fn with_data(ownership: Ownership) -> Bench {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.disk = vec![3; 8192 * 512];
    bench.target.set_device(bench.export, labelled(ownership));
    bench.collect();
    bench.sent.clear();
    bench
}

#[test]
fn the_owners_requests_are_heard_and_nobody_elses() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (first, id) = hello(&mut bench, opening(9));
    send_open(&mut bench, &first, id);
    let told = ExportInfo::parse(&received(&mut bench).1).unwrap().holder;
    assert_eq!(told, Holder::new(Epoch(5), owner(1)), "not since the target serves it");
    let (observer, session) = (connect(&mut bench, 8), connect(&mut bench, 1));
    assert_eq!(holder(&mut bench, observer, 1).heard, None);

    assert_eq!(ask(&mut bench, read(session, 1, 0), &[]).0.status, Status::Ok);
    assert_eq!(holder(&mut bench, observer, 2).heard, Some(Duration::ZERO));
    bench.pass(3 * MILLISECOND);
    // Who is fenced or looks on isn't the owner, nor is who claims its epoch under another name.
    let others = [
        (of(Operation::Status, session, 2, 4), Vec::new(), Status::Fenced),
        (of(Operation::Status, session, 3, 6), Vec::new(), Status::Fenced),
        (of(Operation::Claim, session, 4, 5), vec![2; 16], Status::Fenced),
        (of(Operation::Status, session, 5, OBSERVER), Vec::new(), Status::Ok),
        (of(Operation::Status, session, 5000, 5), Vec::new(), Status::OutsideWindow),
        (of(Operation::Status, SessionId(3), 6, 5), Vec::new(), Status::NoSession),
    ];
    for (request, payload, status) in others {
        assert_eq!(ask(&mut bench, request, &payload).0.status, status);
    }
    assert_eq!(holder(&mut bench, observer, 3).heard, Some(3 * MILLISECOND));
    bench.pass(2000 * MILLISECOND);
    let (second, id) = hello(&mut bench, opening(7));
    send_open(&mut bench, &second, id);
    let told = ExportInfo::parse(&received(&mut bench).1).unwrap().holder;
    assert_eq!(told.heard, Some(2003 * MILLISECOND));

    // A renewal is answered with itself.
    let (_, payload) = ask(&mut bench, of(Operation::Status, session, 6, 5), &[]);
    assert_eq!(HolderPayload::parse(&payload).unwrap().heard, Some(Duration::ZERO));
}

#[test]
fn everybody_who_looks_hears_how_the_drive_is() {
    let health = DriveHealth {
        state: HealthState::Ageing,
        reason: "3 sectors that it can't read".into(),
        temperature_celsius: Some(40),
        wear_percent: None,
        power_on_hours: None,
        reallocated: None,
        unreadable: Some(3),
    };
    let mut bench = Bench::new(held(5, 1), |_| ());
    bench.target.set_health(bench.export, Some(health.clone()));
    let (observer, session) = (connect(&mut bench, 8), connect(&mut bench, 1));
    for request in
        [of(Operation::Health, observer, 1, OBSERVER), of(Operation::Health, session, 1, 5)]
    {
        let (reply, payload) = ask(&mut bench, request, &[]);
        assert_eq!(reply.status, Status::Ok);
        assert_eq!(HealthPayload::parse(&payload).unwrap().as_ref(), Some(&health));
    }
    let fenced = of(Operation::Health, session, 2, 4);
    assert_eq!(ask(&mut bench, fenced, &[]).0.status, Status::Fenced);
    bench.target.set_health(bench.export, None);
    let (reply, payload) = ask(&mut bench, of(Operation::Health, observer, 2, OBSERVER), &[]);
    assert_eq!(reply.status, Status::Ok);
    assert_eq!(HealthPayload::parse(&payload).unwrap(), None, "nobody knows");
}

#[test]
fn a_claim_that_is_accepted_was_heard() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (observer, session) = (connect(&mut bench, 8), connect(&mut bench, 2));
    let claim = of(Operation::Claim, session, 1, 6);
    let (_, answer) = ask(&mut bench, claim, owner(2).0.as_bytes());
    let claimed = HolderPayload::parse(&answer).unwrap();
    assert!(claimed.is_same(Holder::new(Epoch(6), owner(2))));
    assert_eq!(claimed.heard, None, "whoever held it before");
    assert_eq!(holder(&mut bench, observer, 9).heard, Some(Duration::ZERO));
    bench.pass(70 * MILLISECOND);
    assert_eq!(holder(&mut bench, observer, 1).heard, Some(70 * MILLISECOND));

    // Repeated, it is the owner's request too.
    assert_eq!(ask(&mut bench, claim, owner(2).0.as_bytes()).1, answer);
    assert_eq!(holder(&mut bench, observer, 2).heard, Some(Duration::ZERO));
    bench.pass(5 * MILLISECOND);

    let device = |ownership| DeviceState { instance: Instance(77), ..device(ownership) };
    bench.target.set_device(bench.export, device(held(6, 2)));
    assert_eq!(holder(&mut bench, observer, 3).heard, Some(5 * MILLISECOND), "the same");
    bench.target.set_device(bench.export, device(held(7, 2)));
    assert_eq!(holder(&mut bench, observer, 4).heard, None, "another epoch");
    // What answered a claim once says what it said.
    assert_eq!(ask(&mut bench, claim, owner(2).0.as_bytes()).1, answer);
    assert_eq!(holder(&mut bench, observer, 5).heard, None);
}

/// Who takes over waits for the former owner's lease only from then on.
#[test]
fn a_claim_is_told_when_the_former_holder_was_heard() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (former, next) = (connect(&mut bench, 1), connect(&mut bench, 2));
    assert_eq!(ask(&mut bench, of(Operation::Status, former, 1, 5), &[]).0.status, Status::Ok);
    bench.pass(30 * MILLISECOND);
    // Neither is a request under another epoch, nor a claim that is refused.
    assert_eq!(ask(&mut bench, of(Operation::Flush, former, 2, 4), &[]).0.status, Status::Fenced);
    let refused = of(Operation::Claim, next, 1, 5);
    let refused = ask(&mut bench, refused, owner(2).0.as_bytes()).0;
    assert_eq!(refused.status, Status::Fenced);
    bench.pass(10 * MILLISECOND);
    let claim = of(Operation::Claim, next, 2, 6);
    let (_, answer) = ask(&mut bench, claim, owner(2).0.as_bytes());
    let claimed = HolderPayload::parse(&answer).unwrap();
    assert!(claimed.is_same(Holder::new(Epoch(6), owner(2))));
    assert_eq!(claimed.heard, Some(40 * MILLISECOND));
    // It says the same when its answer was lost, however late that is noticed.
    bench.pass(50 * MILLISECOND);
    assert_eq!(ask(&mut bench, claim, owner(2).0.as_bytes()).1, answer);
    // Under the same epoch it is a new owner's own request.
    bench.pass(5 * MILLISECOND);
    let again = of(Operation::Claim, next, 3, 6);
    let (_, answer) = ask(&mut bench, again, owner(2).0.as_bytes());
    assert!(HolderPayload::parse(&answer).unwrap().heard <= Some(5 * MILLISECOND));
}

/// A target that was stopped in the middle of its turn takes in what came meanwhile, with the time of before.
#[test]
fn what_arrived_while_the_target_stood_still_was_heard_when_it_went_on() {
    let mut bench = Bench::new(held(5, 1), |_| ());
    let (former, next) = (connect(&mut bench, 1), connect(&mut bench, 2));
    let goes_on = bench.now + 3000 * MILLISECOND;
    bench.target.note_arrival(goes_on);
    assert_eq!(ask(&mut bench, of(Operation::Status, former, 1, 5), &[]).0.status, Status::Ok);
    bench.pass(3100 * MILLISECOND);
    let claim = of(Operation::Claim, next, 1, 6);
    let (_, answer) = ask(&mut bench, claim, owner(2).0.as_bytes());
    let heard = HolderPayload::parse(&answer).unwrap().heard.unwrap();
    assert!(heard <= 100 * MILLISECOND, "{heard:?}");
}

/// A disk of 4 MiB, labelled as one of 3 MiB.
fn labelled(ownership: Ownership) -> DeviceState {
    let geometry = Geometry { sectors: 8192, ..device(ownership).geometry };
    DeviceState { geometry, labelled: [Some(3 << 20), None], ..device(ownership) }
}

#[test]
fn others_read_labels_votes_and_reservation_only() {
    let closed = Some((Status::Refused, 6));
    let shown = [(0, 8, None), (80, 16, None), (4096, 16, None), (6160, 16, None)];
    let hidden = [
        (81, 16, closed),
        (96, 1, closed),
        (2048, 8, closed),
        (4095, 1, closed),
        (4120, 9, closed),
        (8184, 8, closed),
        (8192, 1, Some((Status::OutOfRange, 0))),
    ];
    for (ownership, epoch, restricted) in [
        (held(5, 1), OBSERVER, true),
        (Ownership::Unreadable, OBSERVER, true),
        (held(5, 1), 5, false),
        (OPEN, OBSERVER, false),
        (Ownership::Unclaimed { labelled: true }, OBSERVER, false),
    ] {
        let mut bench = with_data(ownership);
        let session = connect(&mut bench, 1);
        for (sequence, (lba, sectors, expected)) in (1..).zip(shown.into_iter().chain(hidden)) {
            let request = of(Operation::Read, session, sequence, epoch);
            let request = SessionRequest { lba: Lba(lba), sectors, ..request };
            let (reply, data) = ask(&mut bench, request, &[]);
            let expected = expected.filter(|error| restricted || *error != (Status::Refused, 6));
            let got = Some((reply.status, reply.detail)).filter(|got| got.0 != Status::Ok);
            assert_eq!(got, expected, "{lba}+{sectors} with {epoch} on {ownership:?}");
            assert_eq!(data.len(), if expected.is_some() { 0 } else { sectors as usize * 512 });
        }
    }
    let text = IoError::Refused(RefusalReason::Owned).to_string();
    assert!(text.contains("owner"), "{text}");
}

#[test]
fn an_observer_who_asks_for_it_reads_all_while_the_owner_is_silent() {
    let mut bench = with_data(held(5, 1));
    let (owner_session, observer) = (connect(&mut bench, 1), connect(&mut bench, 2));
    let mut sequence = 0;
    let mut inside = |bench: &mut Bench, force| {
        sequence += 1;
        let request = of(Operation::Read, observer, sequence, OBSERVER);
        let request = SessionRequest { lba: Lba(500), sectors: 1, force, ..request };
        ask(bench, request, &[]).0.status
    };
    assert_eq!(inside(&mut bench, true), Status::Ok, "not heard since the target serves it");
    assert_eq!(inside(&mut bench, false), Status::Refused);
    assert_eq!(holder(&mut bench, observer, 900).heard, None, "who looks isn't the owner");
    assert_eq!(ask(&mut bench, read(owner_session, 1, 0), &[]).0.status, Status::Ok);
    assert_eq!(inside(&mut bench, true), Status::Refused);
    bench.pass(6999 * MILLISECOND);
    assert_eq!(inside(&mut bench, true), Status::Refused);
    bench.pass(MILLISECOND);
    assert_eq!(inside(&mut bench, true), Status::Ok);
    assert_eq!(inside(&mut bench, false), Status::Refused);
    assert_eq!(ask(&mut bench, read(owner_session, 2, 0), &[]).0.status, Status::Ok);
    assert_eq!(inside(&mut bench, true), Status::Refused, "the owner is back");

    let mut unreadable = with_data(Ownership::Unreadable);
    let session = connect(&mut unreadable, 1);
    let request = of(Operation::Read, session, 1, OBSERVER);
    let request = SessionRequest { lba: Lba(500), sectors: 1, force: true, ..request };
    assert_eq!(ask(&mut unreadable, request, &[]).0.status, Status::Refused);
}

/// It was nobody's when it was asked for.
#[test]
fn a_read_that_waited_for_a_claim_is_judged_after_it() {
    let mut bench = Bench::new(OPEN, |_| ());
    let (owner_session, observer) = (connect(&mut bench, 1), connect(&mut bench, 2));
    let ahead = of(Operation::Read, observer, 1, OBSERVER);
    send(&mut bench, SessionRequest { lba: Lba(500), sectors: 1, ..ahead }, &[]);
    send(&mut bench, of(Operation::Claim, owner_session, 1, 1), owner(1).0.as_bytes());
    for (sequence, lba) in [(2, 500), (3, 3)] {
        let behind = of(Operation::Read, observer, sequence, OBSERVER);
        send(&mut bench, SessionRequest { lba: Lba(lba), sectors: 1, ..behind }, &[]);
    }
    bench.serve();
    let mut told: Vec<_> = bench
        .sent
        .drain(..)
        .map(|bytes| SessionReply::parse(&bytes).unwrap().0)
        .map(|reply| (reply.session == observer, reply.sequence, reply.status, reply.detail))
        .collect();
    told.sort_by_key(|(is_observer, sequence, ..)| (*is_observer, *sequence));
    let expected = [
        (false, 1, Status::Ok, 0),
        (true, 1, Status::Ok, 0),
        (true, 2, Status::Refused, 6),
        (true, 3, Status::Ok, 0),
    ];
    assert_eq!(told, expected);
}
