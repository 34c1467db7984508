//! A session client that gives its claim up, and what it knows of who holds the medium.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use block::{Answer, Holder, OwnerId, RefusalReason};

use super::tests::{SECOND, SessionPair, bad_wire, claimed, pair, read};
use super::*;
use crate::testing::{claim, pattern, rand_like::Random, write};

/// A sector that only the owner may read.
const DATA: u64 = 500;

fn ended(pair: &mut SessionPair, operation: Operation) -> Outcome {
    let id = pair.submit(operation);
    pair.outcome(id, SECOND)
}

/// Somebody else has claimed the medium.
fn depose(pair: &mut SessionPair, epoch: u64) -> Holder {
    let owner = OwnerId(uuid::Uuid::max());
    pair.server.holder = Holder::new(Epoch(epoch), owner);
    pair.server.holder.heard = Some(Duration::from_millis(1500));
    pair.server.holder
}

fn disown(pair: &mut SessionPair) {
    pair.client.disown(pair.now);
    pair.drain();
}

/// It looks on and does nothing else.
fn assert_observes(pair: &mut SessionPair) {
    let answer = ended(pair, Operation::Renew).unwrap();
    assert_eq!(answer.value, Answer::Holder(pair.server.holder));
    ended(pair, read(0, 96)).unwrap();
    assert_eq!(ended(pair, read(DATA, 1)), Err(IoError::Refused(RefusalReason::Owned)));
    let before = pair.server.writes_executed;
    assert!(ended(pair, write(DATA, pattern(1, 1))).is_err());
    assert_eq!(pair.server.writes_executed, before);
    assert_eq!(pair.client.claim, None);
}

#[test]
fn who_was_deposed_looks_on_and_may_claim_again() {
    let mut pair = claimed(1, 9000);
    depose(&mut pair, 6);
    let fenced = Err(IoError::Fenced { highest: Epoch(6) });
    assert_eq!(ended(&mut pair, write(DATA, pattern(1, 1))), fenced);
    assert_eq!(ended(&mut pair, read(0, 8)), fenced);
    disown(&mut pair);
    assert_observes(&mut pair);
    ended(&mut pair, Operation::Claim(claim(7, 77))).unwrap();
    assert_eq!(pair.client.claim, Some(claim(7, 77)));
    ended(&mut pair, write(DATA, pattern(1, 9))).unwrap();
    let data = ended(&mut pair, read(DATA, 1)).unwrap().value;
    assert_eq!(data, Answer::Data(pattern(1, 9)));
    assert_eq!(pair.server.sessions(), 1);
    assert!(!pair.events.contains(&DeviceEvent::Lost));
}

#[test]
fn no_claim_comes_back_with_the_target() {
    for (seed, restarts, before) in
        [(2, false, false), (3, false, true), (4, true, false), (5, true, true)]
    {
        let mut pair = claimed(seed, 9000);
        depose(&mut pair, 6);
        if before {
            disown(&mut pair);
        }
        pair.server.is_silent = true;
        let id = pair.submit(read(0, 8));
        assert_eq!(pair.outcome(id, 3 * SECOND), Err(IoError::Lost));
        if !before {
            disown(&mut pair);
        }
        pair.server.is_silent = false;
        match restarts {
            true => {
                pair.server.restart();
                // And the medium was taken out and its owner reset: a claim would be repeated.
                pair.server.holder = Holder::new(Epoch(1), OwnerId(uuid::Uuid::max()));
            }
            false => pair.server.forget_sessions(),
        }
        assert!(pair.run_until(5 * SECOND, |pair| pair.client.is_open()), "{seed}");
        let holder = pair.server.holder;
        assert_observes(&mut pair);
        assert_eq!(pair.server.holder, holder, "{seed}");
        ended(&mut pair, Operation::Claim(claim(7, 77))).unwrap();
        ended(&mut pair, write(DATA, pattern(1, 9))).unwrap();
    }
}

/// Also where nobody has deposed it: the claim that is given up may still be the accepted one.
#[test]
fn what_failed_never_happens_later() {
    for seed in 0..200 {
        let mut pair = claimed(seed, if seed % 2 == 0 { 9000 } else { 1500 });
        pair.faults = bad_wire();
        let mut random = Random(seed);
        let ids: Vec<_> =
            (0..60).map(|n| pair.submit(write(100 + n % 40 * 8, pattern(8, n)))).collect();
        pair.run_for(Duration::from_micros(random.below(2000)));
        if random.chance(300) {
            pair.server.forget_sessions();
        }
        disown(&mut pair);
        for id in &ids {
            let outcome = &pair.outcomes[id].1;
            let fenced = Err(IoError::Fenced { highest: Epoch(5) });
            assert!(outcome.is_ok() || *outcome == fenced, "{seed}: {outcome:?}");
        }
        let id = pair.submit(Operation::Renew);
        pair.outcome(id, SECOND).unwrap();
        let disk = pair.server.disk.clone();
        pair.run_for(SECOND);
        let id = pair.submit(Operation::Claim(claim(6, 78)));
        pair.outcome(id, SECOND).unwrap();
        pair.run_for(3 * SECOND);
        assert!(pair.server.disk == disk, "{seed}: written after it had failed");
    }
}

/// What was handed out but not sent yet is under the old claim too.
#[test]
fn nothing_is_left_to_be_sent() {
    let mut pair = claimed(6, 9000);
    let ids: Vec<_> =
        (0..20).map(|n| pair.client.submit(pair.now, write(n * 8, pattern(8, n)))).collect();
    disown(&mut pair);
    pair.run_for(SECOND);
    assert_eq!(pair.server.writes_executed, 0);
    let fenced = Err(IoError::Fenced { highest: Epoch(5) });
    assert!(ids.iter().all(|id| pair.outcomes[id].1 == fenced));
}

#[test]
fn a_claim_without_an_answer_is_given_up_too() {
    let mut pair = pair(7, 9000);
    ended(&mut pair, read(0, 8)).unwrap();
    pair.server.is_silent = true;
    let id = pair.submit(Operation::Claim(claim(5, 77)));
    pair.run_for(SECOND / 10);
    disown(&mut pair);
    assert!(matches!(pair.outcomes[&id].1, Err(IoError::Fenced { .. })));
    pair.server.is_silent = false;
    pair.run_for(SECOND);
    assert_eq!((pair.client.claim.clone(), pair.server.holder), (None, Holder::default()));
    ended(&mut pair, Operation::Claim(claim(6, 77))).unwrap();
    assert_eq!(pair.client.claim, Some(claim(6, 77)));
}

#[test]
fn who_has_no_claim_is_not_disturbed() {
    let mut pair = pair(8, 9000);
    let id = pair.submit(read(0, 8));
    disown(&mut pair);
    pair.outcome(id, SECOND).unwrap();
    let id = pair.submit(read(0, 8));
    disown(&mut pair);
    pair.outcome(id, SECOND).unwrap();
    assert_eq!(pair.server.openings, 1);
    pair.client.close(pair.now);
    disown(&mut pair);
    assert_eq!(ended(&mut pair, read(0, 8)), Err(IoError::Lost));
}

#[test]
fn who_holds_the_medium_is_what_was_told_last() {
    let mut pair = pair(9, 9000);
    assert_eq!(pair.client.export(pair.now), None);
    ended(&mut pair, read(0, 8)).unwrap();
    assert_eq!(pair.client.export(pair.now).unwrap().holder, Holder::default());
    ended(&mut pair, Operation::Claim(claim(5, 77))).unwrap();
    let told = pair.client.export(pair.now).unwrap().holder;
    assert!(told.is_same(Holder::new(Epoch(5), claim(5, 77).owner)));
    assert_eq!(told.heard, Some(Duration::ZERO));
    // Asked whether it lives, the target tells who holds its medium.
    let other = depose(&mut pair, 6);
    pair.run_for(5 * SECOND / 2);
    let told = pair.client.export(pair.now).unwrap().holder;
    assert!(told.is_same(other), "{told:?}");
    let age = told.heard.unwrap() - other.heard.unwrap();
    assert!(age > Duration::ZERO && age < SECOND, "{age:?}");
    pair.server.is_silent = true;
    pair.run_for(10 * SECOND);
    let told = pair.client.export(pair.now).unwrap().holder;
    assert!(told.heard.unwrap() > 9 * SECOND, "{told:?}");
}

#[test]
fn what_a_target_runs_is_told_anew_when_it_was_started_anew() {
    let mut pair = pair(12, 9000);
    ended(&mut pair, read(0, 8)).unwrap();
    assert_eq!(pair.client.export(pair.now).unwrap().node_version, "");
    pair.server.info.node_version = "0.2.0".into();
    pair.server.restart();
    // The answer shows it, whether or not the operation is one that is repeated.
    let _ = ended(&mut pair, read(0, 8));
    assert_eq!(pair.client.export(pair.now).unwrap().node_version, "0.2.0");
}

#[test]
fn an_older_answer_tells_nothing_new() {
    let mut pair = claimed(10, 9000);
    let newest = Holder::new(Epoch(6), OwnerId(uuid::Uuid::max()));
    let clock = Instant::from_nanos(u64::MAX / 2);
    pair.client.told = Some(Told::new(newest, clock, pair.now));
    ended(&mut pair, Operation::Renew).unwrap();
    assert!(pair.client.export(pair.now).unwrap().holder.is_same(newest));
}
