//! The session client against the scripted target over a bad wire.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use std::collections::BTreeMap;

use block::{Answer, Buffer, Lba, SECTOR_BYTES, SectorRange};

use super::*;
use crate::operations::OperationId;
use crate::testing::{
    ADDRESS, Faults, Pair, ScriptedTarget, claim, pattern, rand_like::Random, write,
};
use aoe_wire::{HealthPayload, Incarnation, SessionId, SessionVersion, Status};

const SECTORS: u64 = 4096;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type SessionPair = Pair<Session, ScriptedTarget>;

pub(crate) const VERSIONS: [SessionVersion; 3] =
    [SessionVersion::One, SessionVersion::Two, SessionVersion::Three];

pub(crate) fn pair(seed: u64, mtu_bytes: usize) -> SessionPair {
    pair_of(seed, mtu_bytes, SessionVersion::NEWEST)
}

/// With a target that speaks nothing newer than that.
pub(crate) fn pair_of(seed: u64, mtu_bytes: usize, newest: SessionVersion) -> SessionPair {
    let options = SessionOptions::new(ADDRESS, Incarnation([seed as u8; 16]));
    let mut random = Random(seed ^ 0xabcd);
    let client = Session::new(
        Instant::from_nanos(1_000_000),
        options,
        Box::new(move || random.next()),
        None,
    );
    let mut pair = Pair::new(seed, client, ScriptedTarget::new(seed, SECTORS));
    pair.server.newest = newest;
    pair.connect(1, mtu_bytes);
    pair
}

pub(crate) fn claimed(seed: u64, mtu_bytes: usize) -> SessionPair {
    claimed_of(seed, mtu_bytes, SessionVersion::NEWEST)
}

pub(crate) fn claimed_of(seed: u64, mtu_bytes: usize, newest: SessionVersion) -> SessionPair {
    let mut pair = pair_of(seed, mtu_bytes, newest);
    claim_it(&mut pair);
    pair
}

pub(crate) fn claim_it(pair: &mut SessionPair) {
    let id = pair.submit(Operation::Claim(claim(5, 77)));
    pair.outcome(id, SECOND).unwrap();
}

pub(crate) fn read(start: u64, count: u64) -> Operation {
    Operation::Read(SectorRange::new(Lba(start), count))
}

pub(crate) fn bad_wire() -> Faults {
    Faults {
        loss_per_mille: 30,
        double_per_mille: 30,
        damage_per_mille: 10,
        jitter: Duration::from_micros(400),
    }
}

/// Random operations, many of them overlapping; every read must see exactly what the calls before
/// it left, and in the end the disk must be what the calls in their order make of it.
fn run_ordered(seed: u64, mtu_bytes: usize, newest: SessionVersion, faults: Faults) -> SessionPair {
    let mut pair = claimed_of(seed, mtu_bytes, newest);
    pair.faults = faults;
    let mut random = Random(seed ^ 0x55);
    let mut model = vec![0u8; SECTORS as usize * SECTOR_BYTES];
    let mut reads: BTreeMap<OperationId, Vec<u8>> = BTreeMap::new();
    let mut all = Vec::new();
    for round in 0..150 {
        let start = random.below(200);
        let count = 1 + random.below(64);
        let window = start as usize * SECTOR_BYTES..(start + count) as usize * SECTOR_BYTES;
        let range = SectorRange::new(Lba(start), count);
        let id = match random.below(10) {
            0..4 => {
                let data = pattern(count, seed * 1000 + round);
                model[window].copy_from_slice(&data);
                pair.submit(write(start, data))
            }
            4 => {
                model[window].fill(0);
                pair.submit(Operation::WriteZeroes {
                    range,
                    durability: block::Durability::Durable,
                })
            }
            5 => pair.submit(Operation::Renew),
            6 => {
                let instance = pair.server.instance;
                pair.submit(Operation::Flush(instance))
            }
            _ => {
                let id = pair.submit(Operation::Read(range));
                reads.insert(id, model[window].to_vec());
                id
            }
        };
        all.push(id);
        if random.chance(300) {
            pair.run_for(Duration::from_micros(random.below(500)));
        }
    }
    let done =
        pair.run_until(20 * SECOND, |pair| all.iter().all(|id| pair.outcomes.contains_key(id)));
    assert!(done, "seed {seed}: an operation hangs");
    for id in &all {
        let outcome = &pair.outcomes[id].1;
        let completion = outcome.as_ref().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(completion.instance, pair.server.instance);
        if let (Some(expected), Answer::Data(data)) = (reads.get(id), &completion.value) {
            assert!(**data == **expected, "seed {seed}: a read saw the wrong moment");
        }
    }
    assert!(pair.server.disk == model, "seed {seed}: writes out of order");
    pair
}

#[test]
fn order_and_exactly_once_on_a_bad_wire() {
    for seed in 0..25 {
        for newest in VERSIONS {
            run_ordered(seed, 9000, newest, bad_wire());
            run_ordered(seed, 1500, newest, bad_wire());
        }
    }
}

#[test]
fn nothing_is_sent_twice_without_faults() {
    for (mtu_bytes, newest) in
        [1500, 9000].into_iter().flat_map(|mtu| VERSIONS.map(|one| (mtu, one)))
    {
        let pair = run_ordered(3, mtu_bytes, newest, Faults::NONE);
        let statistics = pair.client.statistics();
        assert_eq!(statistics.retransmissions, 0);
        assert_eq!(statistics.late_replies, 0);
        assert_eq!(pair.server.openings, 1);
    }
}

#[test]
fn damage_is_counted_and_never_believed() {
    let mut faults = bad_wire();
    faults.damage_per_mille = 100;
    let pair = run_ordered(11, 9000, SessionVersion::NEWEST, faults);
    assert!(pair.client.statistics().checksum_errors > 10);
}

#[test]
fn large_operations_are_cut_by_the_mtu() {
    for (mtu_bytes, frames) in [(9000, 128), (1500, 1024)] {
        let mut pair = claimed_of(1, mtu_bytes, SessionVersion::One);
        let executed = pair.server.writes_executed;
        let data = pattern(2048, 9);
        let id = pair.submit(write(0, data.clone()));
        pair.outcome(id, SECOND).unwrap();
        assert_eq!(pair.server.writes_executed - executed, frames);
        let id = pair.submit(read(0, 2048));
        assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(data));
    }
}

/// Throughput in virtual time of 1 MiB operations, four at once, in bytes per second.
fn throughput(
    seed: u64,
    mtu_bytes: usize,
    newest: SessionVersion,
    loss_per_mille: u64,
    writes: bool,
) -> f64 {
    let mut pair = claimed_of(seed, mtu_bytes, newest);
    pair.faults.loss_per_mille = loss_per_mille;
    let begin = pair.now;
    let mut running: Vec<OperationId> = Vec::new();
    let mut left = 40;
    let data = pattern(512, 1);
    while left > 0 || !running.is_empty() {
        while left > 0 && running.len() < 4 {
            left -= 1;
            let start = left % 8 * 512;
            running.push(match writes {
                true => pair.submit(write(start, data.clone())),
                false => pair.submit(read(start, 512)),
            });
        }
        let waiting = running.clone();
        assert!(pair.run_until(10 * SECOND, |pair| {
            waiting.iter().any(|id| pair.outcomes.contains_key(id))
        }));
        running.retain(|id| !pair.outcomes.contains_key(id));
    }
    40.0 * 512.0 * 512.0 / pair.now.since(begin).as_secs_f64()
}

#[test]
fn one_percent_loss_costs_less_than_a_third() {
    for (mtu_bytes, newest) in
        [1500, 9000].into_iter().flat_map(|mtu| VERSIONS.map(|one| (mtu, one)))
    {
        for writes in [true, false] {
            let of = |seed, loss| throughput(seed, mtu_bytes, newest, loss, writes);
            let clean = of(1, 0);
            let lossy: f64 = (0..4).map(|seed| of(seed, 10)).sum::<f64>() / 4.0;
            assert!(
                lossy > clean * 0.7,
                "mtu {mtu_bytes} {newest:?} writes {writes}: {lossy:.0} of {clean:.0} bytes/s"
            );
        }
    }
}

#[test]
fn a_restart_fails_writes_and_repeats_reads() {
    let mut pair = claimed(2, 9000);
    let before = pair.server.instance;
    // All on their way, none answered.
    let written = pair.submit(write(0, pattern(16, 1)));
    let looked = pair.submit(read(64, 16));
    let renewed = pair.submit(Operation::Renew);
    let flushed = pair.submit(Operation::Flush(before));
    pair.server.restart();
    let now = pair.server.instance;
    assert_eq!(pair.outcome(written, SECOND), Err(IoError::Restarted { now }));
    assert_eq!(pair.outcome(flushed, SECOND), Err(IoError::Restarted { now }));
    assert_eq!(pair.outcome(looked, SECOND).unwrap().instance, now);
    let Answer::Holder(holder) = pair.outcome(renewed, SECOND).unwrap().value else { panic!() };
    assert_eq!(holder.epoch, Epoch(5));
    assert_eq!(pair.events.last(), Some(&DeviceEvent::Back(now)));
    // A flush for the former instance is refused without asking.
    let id = pair.submit(Operation::Flush(before));
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Restarted { now }));
    // Another disk may be behind it: nothing is changed before whoever uses it has looked, and claims it.
    for changes in [write(0, pattern(16, 2)), Operation::Discard(SectorRange::new(Lba(0), 8))] {
        let id = pair.submit(changes);
        assert_eq!(pair.outcome(id, SECOND), Err(IoError::Restarted { now }));
    }
    claim_it(&mut pair);
    let id = pair.submit(write(0, pattern(16, 2)));
    assert_eq!(pair.outcome(id, SECOND).unwrap().instance, now);
}

#[test]
fn forgotten_sessions_are_opened_anew_without_failing_anything() {
    let mut pair = claimed(4, 9000);
    let id = pair.submit(write(8, pattern(64, 1)));
    pair.server.forget_sessions();
    pair.outcome(id, SECOND).unwrap();
    assert_eq!(&pair.server.disk[8 * 512..72 * 512], &*pattern(64, 1));
    assert_eq!(pair.server.openings, 2);
}

#[test]
fn a_clock_that_goes_back_is_a_restart_even_under_the_same_instance() {
    let mut pair = claimed(5, 9000);
    let before = pair.submit(read(0, 1));
    let before = pair.outcome(before, SECOND).unwrap().instance;
    pair.server.clock_offset = 0;
    let id = pair.submit(write(0, pattern(1, 1)));
    let Err(IoError::Restarted { now }) = pair.outcome(id, SECOND) else { panic!() };
    assert_ne!(now, before);
    let id = pair.submit(Operation::Flush(before));
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Restarted { now }));
    claim_it(&mut pair);
    let id = pair.submit(Operation::Flush(now));
    pair.outcome(id, SECOND).unwrap();
}

fn session_of(client: &Session) -> SessionId {
    let State::Open(link) = &client.state else { panic!("not open") };
    link.session()
}

#[test]
fn silence_means_lost_and_the_way_back_has_a_new_session() {
    let mut pair = claimed(6, 9000);
    let session = session_of(&pair.client);
    pair.server.is_silent = true;
    let begin = pair.now;
    let ids: Vec<_> = (0..20).map(|n| pair.submit(write(n * 8, pattern(8, n)))).collect();
    for id in ids {
        assert_eq!(pair.outcome(id, 2 * SECOND), Err(IoError::Lost));
    }
    let took = pair.now.since(begin);
    assert!(took >= SECOND && took < SECOND + SECOND / 10, "{took:?}");
    assert_eq!(pair.events.last(), Some(&DeviceEvent::Lost));
    let id = pair.submit(read(0, 1));
    assert_eq!(pair.outcome(id, Duration::ZERO), Err(IoError::Lost));
    pair.run_for(20 * SECOND);
    let frames = pair.frames_sent;
    pair.run_for(10 * SECOND);
    assert!((5..=15).contains(&(pair.frames_sent - frames)), "one HELLO a second");
    pair.server.is_silent = false;
    pair.run_for(2 * SECOND);
    assert_eq!(pair.events.last(), Some(&DeviceEvent::Back(pair.server.instance)));
    assert_ne!(session_of(&pair.client), session);
    let id = pair.submit(write(0, pattern(1, 1)));
    pair.outcome(id, SECOND).unwrap();
}

#[test]
fn an_idle_disk_that_dies_is_noticed() {
    let mut pair = claimed(7, 9000);
    pair.run_for(10 * SECOND);
    assert_eq!(pair.events.len(), 1);
    pair.server.is_silent = true;
    pair.run_for(4 * SECOND);
    assert_eq!(pair.events.last(), Some(&DeviceEvent::Lost));
}

#[test]
fn a_deposed_client_is_fenced_also_after_a_restart() {
    let mut pair = claimed(8, 9000);
    pair.server.holder = block::Holder::new(Epoch(6), block::OwnerId(uuid::Uuid::max()));
    let fenced = Err(IoError::Fenced { highest: Epoch(6) });
    for operation in [write(0, pattern(1, 1)), read(0, 1), Operation::Renew] {
        let id = pair.submit(operation);
        assert_eq!(pair.outcome(id, SECOND), fenced);
    }
    let id = pair.submit(Operation::Claim(claim(5, 77)));
    assert_eq!(pair.outcome(id, SECOND), fenced);
    let id = pair.submit(write(0, pattern(1, 1)));
    pair.server.restart();
    assert_eq!(pair.outcome(id, SECOND), fenced);
    assert!(pair.server.disk[..512].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_forgot_the_claim_is_told_again() {
    let mut pair = claimed(9, 9000);
    pair.server.holder = block::Holder::default();
    pair.server.restart();
    let id = pair.submit(write(0, pattern(1, 1)));
    assert!(matches!(pair.outcome(id, SECOND), Err(IoError::Restarted { .. })));
    assert_eq!(pair.server.holder.epoch, Epoch(0), "it may be another disk");
    claim_it(&mut pair);
    // The same instance, whatever it remembers.
    pair.server.holder = block::Holder::default();
    pair.server.forget_sessions();
    let id = pair.submit(write(0, pattern(1, 1)));
    pair.outcome(id, SECOND).unwrap();
    assert_eq!(pair.server.holder.epoch, Epoch(5));
}

#[test]
fn observers_may_only_read() {
    let mut pair = pair(10, 9000);
    let id = pair.submit(read(0, 9));
    pair.outcome(id, SECOND).unwrap();
    pair.server.holder.epoch = Epoch(9);
    let id = pair.submit(read(0, 9));
    pair.outcome(id, SECOND).unwrap();
    let id = pair.submit(write(0, pattern(1, 1)));
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Fenced { highest: Epoch(9) }));
}

#[test]
fn observers_see_all_of_a_disk_while_they_look_inside() {
    let mut pair = pair(11, 9000);
    pair.server.holder.epoch = Epoch(9);
    let inside = |pair: &mut SessionPair| {
        let id = pair.submit(read(500, 1));
        pair.outcome(id, SECOND).map(|_| ())
    };
    let refused = Err(IoError::Refused(block::RefusalReason::Owned));
    assert_eq!(inside(&mut pair), refused);
    pair.client.look_inside(true);
    assert_eq!(inside(&mut pair), Ok(()));
    pair.client.look_inside(false);
    assert_eq!(inside(&mut pair), refused);
}

#[test]
fn a_cut_path_is_left_for_another() {
    let mut pair = claimed(12, 9000);
    pair.connect(2, 9000);
    pair.cut.insert(PortId(1));
    let begin = pair.now;
    let ids: Vec<_> = (0..50).map(|n| pair.submit(write(n * 8, pattern(8, n)))).collect();
    for id in ids {
        pair.outcome(id, SECOND).unwrap();
    }
    assert!(pair.now.since(begin) < Duration::from_millis(500));
    assert_eq!(pair.server.openings, 1, "the same session on another path");
    pair.cut = [PortId(2)].into();
    let id = pair.submit(read(0, 8));
    pair.outcome(id, SECOND).unwrap();
    assert!(!pair.events.contains(&DeviceEvent::Lost));
}

/// A switch that drops jumbo frames lets the opening pass. Without a fallback the first large
/// request would hang for ever while the target is plainly alive.
#[test]
fn a_switch_without_jumbo_frames_is_survived() {
    VERSIONS.into_iter().for_each(survive_a_switch_without_jumbo_frames);
}

fn survive_a_switch_without_jumbo_frames(newest: SessionVersion) {
    let mut pair = pair_of(13, 9000, newest);
    pair.server.frame_bytes_max = 1514;
    let id = pair.submit(Operation::Claim(claim(5, 77)));
    pair.outcome(id, SECOND).unwrap();
    let id = pair.submit(write(0, pattern(64, 3)));
    pair.outcome(id, 3 * SECOND).unwrap();
    let id = pair.submit(read(0, 64));
    let begin = pair.now;
    assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(pattern(64, 3)));
    assert!(pair.now.since(begin) < Duration::from_millis(10));
}

#[test]
fn errors_name_their_sectors_and_hit_nobody_else() {
    let mut pair = claimed(14, 9000);
    pair.server.failing = Some((Status::Medium, 20));
    let id = pair.submit(read(0, 64));
    // To the end of the command.
    let bad = SectorRange::new(Lba(20), 44);
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Medium(bad)));
    pair.server.failing = None;
    let id = pair.submit(read(SECTORS - 1, 2));
    assert!(matches!(pair.outcome(id, SECOND), Err(IoError::OutOfRange(_))));
    let id = pair.submit(read(5, 0));
    assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(Buffer::empty()));
    let id = pair.submit(write(0, Buffer::zeroed(100)));
    assert!(matches!(pair.outcome(id, SECOND), Err(IoError::OutOfRange(_))));
}

#[test]
fn a_vanished_medium_is_lost_at_once() {
    let mut pair = claimed(15, 9000);
    pair.server.failing = Some((Status::MediumGone, 0));
    let begin = pair.now;
    let id = pair.submit(read(0, 1));
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Lost));
    assert!(pair.now.since(begin) < Duration::from_millis(10));
}

#[test]
fn another_export_under_the_same_address_is_never_written() {
    let mut pair = claimed(16, 9000);
    pair.server.info.node_id = uuid::Uuid::from_u128(666);
    pair.server.restart();
    let id = pair.submit(write(0, pattern(1, 1)));
    assert_eq!(pair.outcome(id, 2 * SECOND), Err(IoError::Lost));
    assert_eq!(pair.client.statistics().identity_conflicts, 1);
    assert!(pair.server.disk[..512].iter().all(|byte| *byte == 0));
}

/// Restarts, forgotten sessions, silence and loss at random: every operation ends, in bounded time,
/// and in the end everything works.
#[test]
fn nothing_hangs_whatever_happens() {
    for seed in 0..40 {
        let mtu_bytes = if seed % 2 == 0 { 9000 } else { 1500 };
        let mut pair = claimed_of(seed, mtu_bytes, VERSIONS[[2, 1, 0, 0][seed as usize % 4]]);
        pair.faults = bad_wire();
        let mut random = Random(seed);
        for round in 0..60 {
            for _ in 0..random.below(6) {
                let start = random.below(300);
                if random.chance(500) {
                    pair.submit(write(start, pattern(16, round)));
                } else {
                    pair.submit(read(start, 40));
                }
            }
            match random.below(12) {
                0 => pair.server.restart(),
                1 => pair.server.forget_sessions(),
                2 => pair.server.is_silent = true,
                3 => pair.server.clock_offset -= 1_000_000,
                _ => pair.server.is_silent = false,
            }
            pair.run_for(Duration::from_millis(random.below(400)));
        }
        pair.server.is_silent = false;
        pair.faults = Faults::NONE;
        pair.run_for(8 * SECOND);
        claim_it(&mut pair);
        let id = pair.submit(write(0, pattern(8, seed)));
        assert!(pair.outcome(id, SECOND).is_ok(), "seed {seed}");
        assert!(pair.client.traffic.operations.is_empty(), "seed {seed}: an operation hangs");
        assert!(pair.server.sessions() <= 1);
    }
}

#[test]
fn closing_tells_the_target_and_ends_everything() {
    let mut pair = claimed(17, 9000);
    pair.server.is_silent = true;
    let id = pair.submit(write(0, pattern(8, 1)));
    pair.server.is_silent = false;
    pair.client.close(pair.now);
    assert_eq!(pair.outcome(id, Duration::ZERO), Err(IoError::Lost));
    pair.run_for(SECOND);
    assert_eq!(pair.server.sessions(), 0);
    assert_eq!(pair.client.poll_timeout(), None);
}

/// All timers are due when a stopped process goes on, and the answers lie unread in the socket.
/// Taking the disk for lost then would put every disk of a pool out at once.
#[test]
fn a_pause_of_our_own_is_no_loss() {
    for pause in [SECOND, 60 * SECOND] {
        let mut pair = claimed(1, 9000);
        let answered = pair.submit(read(0, 8));
        pair.now = pair.now + pause;
        pair.client.advance(pair.now);
        pair.outcome(answered, SECOND).unwrap();
        assert!(!pair.events.contains(&DeviceEvent::Lost));

        // It is no excuse for a target that is silent afterwards.
        pair.cut.insert(PortId(1));
        let silent = pair.submit(read(0, 8));
        pair.now = pair.now + pause;
        pair.client.advance(pair.now);
        assert_eq!(pair.outcome(silent, 2 * SECOND), Err(IoError::Lost));
    }
}

/// A renewal used to wait for its place in a window full of writes to a slow disk, while the lease ran
/// out; and once a stuck request had used up all numbers, nothing could be asked any more.
#[test]
fn a_renewal_waits_for_no_window() {
    let mut pair = claimed(1, 9000);
    let frames = |pair: &mut SessionPair| -> Vec<Vec<u8>> {
        std::iter::from_fn(|| pair.client.poll_transmit())
            .map(|sent| [sent.frame.head.as_slice(), &sent.frame.payload].concat())
            .collect()
    };
    for lba in 0..400 {
        pair.client.submit(pair.now, write(lba * 8, pattern(8, lba)));
    }
    assert!(frames(&mut pair).len() < 400, "the window is full");
    let mut renewals = 0;
    for _ in 0..2 * 8 {
        pair.client.submit(pair.now, Operation::Renew);
        renewals += frames(&mut pair).len();
    }
    assert_eq!(renewals, 8, "at once, and bounded");
}

/// One request that is never answered holds the floor while a thousand others are: the target must
/// still be asked, or it would be taken for lost.
#[test]
fn a_stuck_request_leaves_numbers_to_ask_the_target() {
    let mut pair = claimed(1, 9000);
    pair.server.stuck = Some(Lba(4000));
    let stuck = pair.submit(read(4000, 8));
    let others: Vec<_> = (0..2000).map(|n| pair.submit(read(n % 400 * 8, 8))).collect();
    pair.run_for(20 * SECOND);
    assert!(!pair.client.is_lost && !pair.outcomes.contains_key(&stuck));
    let answered = others.iter().filter(|id| pair.outcomes.contains_key(id)).count();
    assert!(answered > 250, "{answered} got past it");
    let renewal = pair.submit(Operation::Renew);
    pair.outcome(renewal, SECOND / 100).unwrap();
    assert_eq!(pair.outcome(stuck, 20 * SECOND), Err(IoError::Lost));
}

/// What is due but can't be done must not be waited for in a loop (the wire of these tests refuses
/// timers that stay due): no path to repeat on, no number to ask under.
#[test]
fn what_cannot_be_done_does_not_spin() {
    let mut pair = claimed(1, 9000);
    let id = pair.submit(read(0, 8));
    pair.client.remove_port(pair.now, PortId(1));
    assert_eq!(pair.outcome(id, 2 * SECOND), Err(IoError::Lost));

    let mut pair = self::pair(2, 9000);
    pair.server.info.window = 1;
    let id = pair.submit(read(0, 8));
    pair.outcome(id, SECOND).unwrap();
    pair.server.stuck = Some(Lba(16));
    let id = pair.submit(read(16, 8));
    assert_eq!(pair.outcome(id, 2 * SECOND), Err(IoError::Lost));
}

#[test]
fn how_a_drive_is_comes_over_a_bad_wire_or_not_at_all() {
    let health = block::DriveHealth {
        state: block::HealthState::Ageing,
        reason: "7 sectors that it can't read".into(),
        temperature_celsius: Some(44),
        wear_percent: None,
        power_on_hours: Some(5),
        reallocated: None,
        unreadable: Some(7),
    };
    for seed in 0..8 {
        let mut pair = pair(seed, 9000);
        let id = pair.submit(Operation::AskHealth);
        assert_eq!(pair.outcome(id, 5 * SECOND), Err(IoError::Unsupported), "a former target");
        let mut told = HealthPayload::emit(Some(&health)).to_vec();
        pair.server.health = Some(Buffer::copy_of(&told));
        let id = pair.submit(Operation::AskHealth);
        let answer = pair.outcome(id, 5 * SECOND).unwrap().value;
        assert_eq!(answer, Answer::Health(Box::new(health.clone())));
        told[0] = 9;
        pair.server.health = Some(Buffer::copy_of(&told));
        let id = pair.submit(Operation::AskHealth);
        assert_eq!(pair.outcome(id, 5 * SECOND), Err(IoError::Unsupported), "a newer one");
    }
}
