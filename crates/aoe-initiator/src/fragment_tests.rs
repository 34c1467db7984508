//! Commands in fragments, as the client sends and reads them: version 2 of docs/session.md.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use block::Answer;

use super::tests::{SECOND, SessionPair, bad_wire, claim_it, claimed, claimed_of, read};
use super::*;
use crate::paths::LocalPort;
use crate::testing::{Faults, TARGET_MAC, pattern, write};
use aoe_wire::{
    Frame, MacAddr, Operation as Verb, SectorMap, SessionRequest, SessionVersion, Status,
};

fn bytes_of(frame: &Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

/// What the client sends now.
fn sent(pair: &mut SessionPair) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| pair.client.poll_transmit())
        .map(|transmit| bytes_of(&transmit.frame))
        .collect()
}

fn request(bytes: &[u8]) -> SessionRequest {
    SessionRequest::parse(bytes).unwrap().0
}

/// Which sectors of its command a fragment of a write has.
fn part(bytes: &[u8]) -> (u32, u32) {
    let (request, payload) = SessionRequest::parse(bytes).unwrap();
    (u32::from(request.first), (payload.len() / 512) as u32)
}

/// All of these arrive at the target at once; what it answers.
fn deliver(pair: &mut SessionPair, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let now = pair.now;
    frames.iter().flat_map(|frame| pair.server.handle(now, frame)).map(|f| bytes_of(&f)).collect()
}

fn hear(pair: &mut SessionPair, replies: &[Vec<u8>]) {
    pair.now = pair.now + Duration::from_micros(100);
    for reply in replies {
        pair.client.handle_frame(pair.now, PortId(1), reply);
    }
}

/// With a window that is wide open.
fn wide_open(seed: u64, mtu_bytes: usize) -> SessionPair {
    let mut pair = claimed(seed, mtu_bytes);
    for round in 0..40 {
        let id = pair.submit(write(0, pattern(512, round)));
        pair.outcome(id, SECOND).unwrap();
    }
    assert_eq!(pair.client.statistics().window, 256);
    assert_eq!(pair.client.statistics().retransmissions, 0);
    (pair.server.writes_executed, pair.server.reads_executed) = (0, 0);
    pair
}

#[test]
fn a_mebibyte_is_written_by_one_command_and_read_by_several() {
    let mut pair = wide_open(1, 9000);
    let data = pattern(2048, 9);
    let id = pair.submit(write(7, data.clone()));
    pair.outcome(id, SECOND).unwrap();
    let id = pair.submit(read(7, 2048));
    assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(data));
    // The first piece goes to the border of a block.
    assert_eq!((pair.server.writes_executed, pair.server.reads_executed), (2, 9));
    // At a smaller MTU a command has as many frames, so that the window never holds less than two.
    let mut pair = wide_open(1, 1500);
    let id = pair.submit(write(0, pattern(2048, 9)));
    pair.outcome(id, SECOND).unwrap();
    assert_eq!(pair.server.writes_executed, 8);
}

/// However long the commands are, no more frames are on their way than the window says.
#[test]
fn the_window_counts_frames_of_both_directions() {
    let mut pair = claimed(1, 9000);
    for lba in 0..10 {
        pair.client.submit(pair.now, write(lba * 128, pattern(128, lba)));
        pair.client.submit(pair.now, read(2000 + lba * 128, 128));
    }
    let frames = sent(&mut pair);
    let fragments: Vec<_> = frames.iter().map(|frame| request(frame)).collect();
    let asked: u32 =
        fragments.iter().filter(|f| f.operation == Verb::Read).map(|f| f.sectors).sum();
    let written = fragments.iter().filter(|f| f.operation == Verb::Write).count();
    assert!(written > 0 && asked > 0);
    assert!(written + asked.div_ceil(17) as usize <= 16, "{written} and {asked}");
    assert!(fragments.iter().all(|fragment| fragment.sectors <= 8 * 17));
}

#[test]
fn only_the_lost_fragments_of_a_write_are_sent_again() {
    let mut pair = wide_open(2, 9000);
    let id = pair.client.submit(pair.now, write(0, pattern(340, 1)));
    let mut frames = sent(&mut pair);
    assert_eq!(frames.len(), 20);
    assert!(frames.iter().map(|frame| request(frame).last).eq((0..20).map(|index| index == 19)));
    for lost in [12, 11, 4] {
        frames.remove(lost);
    }
    let told = deliver(&mut pair, &frames);
    assert_eq!(told.len(), 1);
    // Doubled: it brings the fragments once.
    hear(&mut pair, &[told[0].clone(), told[0].clone()]);
    let again = sent(&mut pair);
    assert!(again.iter().map(|frame| part(frame)).eq([(68, 17), (187, 17), (204, 17)]));
    assert!(again.iter().map(|frame| request(frame).last).eq([false, false, true]));
    // The answer is lost, and then one frame asks for it.
    deliver(&mut pair, &again);
    assert_eq!(pair.server.writes_executed, 1);
    pair.now = pair.client.poll_timeout().unwrap();
    pair.client.advance(pair.now);
    let question = sent(&mut pair);
    assert_eq!((question.len(), part(&question[0])), (1, (204, 17)));
    let told = deliver(&mut pair, &question);
    hear(&mut pair, &told);
    pair.outcome(id, Duration::ZERO).unwrap();
    assert_eq!(pair.server.writes_executed, 1);
    assert_eq!(pair.server.disk[..340 * 512], *pattern(340, 1));
}

#[test]
fn a_write_of_which_nothing_arrived_is_asked_for_with_one_frame() {
    let mut pair = wide_open(3, 9000);
    let id = pair.client.submit(pair.now, write(0, pattern(340, 1)));
    assert_eq!(sent(&mut pair).len(), 20);
    pair.now = pair.client.poll_timeout().unwrap();
    pair.client.advance(pair.now);
    let question = sent(&mut pair);
    assert_eq!((question.len(), part(&question[0])), (1, (323, 17)));
    let told = deliver(&mut pair, &question);
    hear(&mut pair, &told);
    let rest = sent(&mut pair);
    assert_eq!(rest.len(), 19);
    let told = deliver(&mut pair, &rest);
    hear(&mut pair, &told);
    pair.outcome(id, Duration::ZERO).unwrap();
    assert_eq!(pair.server.disk[..340 * 512], *pattern(340, 1));
}

#[test]
fn only_the_lost_fragments_of_a_read_are_asked_for_again() {
    let mut pair = wide_open(4, 9000);
    pair.server.disk[..250 * 512].copy_from_slice(&pattern(250, 5));
    let id = pair.client.submit(pair.now, read(0, 250));
    let asked = sent(&mut pair);
    assert_eq!(asked.len(), 1);
    let mut told = deliver(&mut pair, &asked);
    assert_eq!(told.len(), 15);
    for lost in [12, 11, 4] {
        told.remove(lost);
    }
    hear(&mut pair, &told);
    let again = sent(&mut pair);
    assert_eq!(again.len(), 1, "as soon as the last one is there");
    let (asks, payload) = SessionRequest::parse(&again[0]).unwrap();
    assert_eq!((asks.sequence, asks.sectors), (request(&asked[0]).sequence, 250));
    let wanted = SectorMap::parse(payload, 250).unwrap();
    assert!(wanted.runs().eq([68..85, 187..221]));
    let told = deliver(&mut pair, &again);
    assert_eq!(told.len(), 3);
    hear(&mut pair, &told);
    let outcome = pair.outcome(id, Duration::ZERO).unwrap();
    assert_eq!(outcome.value, Answer::Data(pattern(250, 5)));
}

/// Frames that overtake each other look like lost ones. The first mistakes teach to wait.
#[test]
fn reordering_alone_costs_little() {
    let mut pair = wide_open(5, 9000);
    pair.faults = Faults { jitter: Duration::from_micros(30), ..Faults::NONE };
    for round in 0..50 {
        let id = pair.submit(write(0, pattern(512, round)));
        pair.outcome(id, SECOND).unwrap();
        let id = pair.submit(read(0, 512));
        assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(pattern(512, round)));
    }
    assert_eq!(pair.server.openings, 1);
    let frames = 100 * 512 / 17;
    assert!(pair.frames_sent < 3 * frames, "{} frames", pair.frames_sent);
}

/// Of a command that misses one frame nearly nothing is on its way, but the target holds the rest.
#[test]
fn what_waits_at_the_target_is_bounded_too() {
    let mut pair = wide_open(12, 1500);
    for lba in 0..16 {
        pair.client.submit(pair.now, write(lba * 256, pattern(256, lba)));
    }
    let mut held = std::collections::BTreeMap::new();
    for _ in 0..20 {
        let frames = sent(&mut pair);
        let commands = frames.iter().map(|frame| request(frame));
        held.extend(commands.map(|command| (command.sequence, command.sectors.div_ceil(2))));
        let rest: Vec<_> = frames.into_iter().filter(|frame| request(frame).first > 0).collect();
        let told = deliver(&mut pair, &rest);
        hear(&mut pair, &told);
    }
    let frames: u32 = held.values().sum();
    assert!((384..=512).contains(&frames), "{frames}, not twice the window");
}

/// What one path lost goes by the other, which carries less.
#[test]
fn a_command_goes_on_by_another_path() {
    for cut_after in [3, 10, 19] {
        let mut pair = wide_open(6, 9000);
        pair.client.set_port(
            pair.now,
            LocalPort {
                id: PortId(2),
                mac: MacAddr([2, 0, 0, 0, 1, 2]),
                mtu_bytes: 1500,
                trusted: false,
            },
        );
        pair.client.add_path(pair.now, PathId { port: PortId(2), target: TARGET_MAC });
        let id = pair.client.submit(pair.now, write(0, pattern(340, 1)));
        let frames = sent(&mut pair);
        deliver(&mut pair, &frames[..cut_after]);
        pair.cut.insert(PortId(1));
        pair.outcome(id, SECOND).unwrap();
        let id = pair.submit(read(0, 340));
        assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(pattern(340, 1)));
        assert_eq!((pair.server.openings, pair.server.writes_executed), (1, 1));
    }
}

#[test]
fn fragments_are_what_both_ends_take() {
    let mut pair = claimed(7, 9000);
    pair.server.takes = 5;
    for (lba, seed) in [(0, 1), (200, 2), (400, 3)] {
        let id = pair.submit(write(lba, pattern(100, seed)));
        // The first one finds out; what was sent before is longer than the target says it takes.
        pair.server.takes = if seed == 1 { 17 } else { 5 };
        pair.outcome(id, SECOND).unwrap();
        pair.server.takes = 5;
        let id = pair.submit(read(lba, 100));
        assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(pattern(100, seed)));
    }
}

/// A target without memory for it answers nothing. The command waits, and the disk isn't lost.
#[test]
fn a_target_that_lacks_memory_is_asked_again() {
    let mut pair = wide_open(8, 9000);
    pair.server.lacks_memory = true;
    let long = pair.submit(write(0, pattern(340, 1)));
    let begin = pair.frames_sent;
    pair.run_for(5 * SECOND);
    assert!(!pair.outcomes.contains_key(&long));
    assert!(pair.frames_sent - begin < 100, "{} frames", pair.frames_sent - begin);
    let short = pair.submit(write(1000, pattern(8, 2)));
    pair.outcome(short, SECOND).unwrap();
    pair.server.lacks_memory = false;
    pair.outcome(long, SECOND).unwrap();
    assert!(!pair.events.contains(&DeviceEvent::Lost));
    assert_eq!(pair.server.disk[..340 * 512], *pattern(340, 1));
}

/// A new session in the middle: the command begins anew, and its fragments are of that one.
#[test]
fn a_session_that_ends_in_the_middle_takes_its_commands_along() {
    let mut pair = wide_open(9, 9000);
    let id = pair.client.submit(pair.now, write(0, pattern(340, 1)));
    let frames = sent(&mut pair);
    deliver(&mut pair, &frames[..10]);
    pair.server.forget_sessions();
    pair.outcome(id, SECOND).unwrap();
    // In shorter ones: its window is small again.
    assert_eq!((pair.server.openings, pair.server.writes_executed), (2, 3));
    assert_eq!(pair.server.disk[..340 * 512], *pattern(340, 1));

    let id = pair.client.submit(pair.now, write(0, pattern(340, 2)));
    let frames = sent(&mut pair);
    deliver(&mut pair, &frames[..10]);
    pair.server.restart();
    let now = pair.server.instance;
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Restarted { now }));
    assert_eq!(pair.server.disk[..340 * 512], *pattern(340, 1));
}

/// Each end speaks what the other one knows.
#[test]
fn an_older_end_is_spoken_to_in_its_version() {
    let mut old_target = claimed_of(10, 9000, SessionVersion::One);
    let mut old_client = {
        let mut pair = super::tests::pair(10, 9000);
        pair.client.options.newest = SessionVersion::One;
        // The first opening was begun before.
        pair.client.start_opening(pair.now);
        pair
    };
    for pair in [&mut old_target, &mut old_client] {
        let id = pair.submit(Operation::Claim(crate::testing::claim(5, 77)));
        pair.outcome(id, SECOND).unwrap();
        pair.client.submit(pair.now, write(0, pattern(100, 1)));
        let frames = sent(pair);
        assert_eq!(frames.len(), 7);
        assert!(frames.iter().all(|frame| request(frame).version == SessionVersion::One));
    }
}

/// Whatever a target says, no answer is put together that it didn't give.
#[test]
fn answers_that_contradict_their_request_are_dropped() {
    let mut pair = wide_open(11, 9000);
    let reading = pair.client.submit(pair.now, read(0, 100));
    let writing = pair.client.submit(pair.now, write(200, pattern(100, 1)));
    let frames = sent(&mut pair);
    let now = pair.now;
    let told = deliver(&mut pair, &frames[..1]);
    let (good, data) = SessionReply::parse(&told[5]).unwrap();
    let ask = request(frames.last().unwrap());
    let malformed = |pair: &SessionPair| pair.client.statistics().malformed_replies;
    let reply = |reply: SessionReply, payload: &[u8]| {
        bytes_of(&reply.emit(block::Buffer::copy_of(payload)))
    };
    let incomplete = |request: SessionRequest| SessionReply {
        header: request.header.answer(TARGET_MAC, request.header.address),
        operation: request.operation,
        status: Status::Incomplete,
        sequence: request.sequence,
        first: 0,
        ..good
    };
    let bad = [
        reply(SessionReply { first: 90, ..good }, data),
        reply(SessionReply { first: 100, ..good }, &data[..512]),
        reply(SessionReply { first: u16::MAX, ..good }, &data[..512]),
        reply(good, &data[..100]),
        reply(good, &[]),
        reply(good, &vec![7; 101 * 512]),
        reply(SessionReply { version: SessionVersion::One, first: 0, ..good }, data),
        reply(incomplete(request(&frames[0])), &[0xff; 13]),
        reply(incomplete(ask), &[0; 13]),
        reply(incomplete(ask), &[0xff; 13]),
        reply(incomplete(ask), &[0xff; 12]),
    ];
    for (index, bytes) in bad.iter().enumerate() {
        let before = malformed(&pair);
        pair.client.handle_frame(now, PortId(1), bytes);
        assert_eq!(malformed(&pair), before + 1, "{index}");
        assert!(sent(&mut pair).is_empty() && pair.client.poll_outcome().is_none(), "{index}");
    }
    hear(&mut pair, &told);
    let told = deliver(&mut pair, &frames[1..]);
    hear(&mut pair, &told);
    let Answer::Data(data) = pair.outcome(reading, Duration::ZERO).unwrap().value else { panic!() };
    assert_eq!(data[..], pair.server.disk[..100 * 512]);
    pair.outcome(writing, Duration::ZERO).unwrap();
}

/// A bad wire and a target that restarts, forgets and lacks memory by turns.
#[test]
fn nothing_hangs_in_fragments() {
    for seed in 0..10 {
        let mut pair = wide_open(seed, 9000);
        pair.faults = bad_wire();
        for round in 0..30u64 {
            for index in 0..3 {
                let start = (round * 37 + index * 700) % 1500;
                match (round + index) % 2 {
                    0 => pair.submit(write(start, pattern(600, round))),
                    _ => pair.submit(read(start, 600)),
                };
            }
            match (seed + round) % 5 {
                0 => pair.server.forget_sessions(),
                1 => pair.server.lacks_memory = true,
                2 => pair.server.restart(),
                _ => pair.server.lacks_memory = false,
            }
            pair.run_for(Duration::from_millis(30 * (round % 4)));
        }
        (pair.server.lacks_memory, pair.faults) = (false, Faults::NONE);
        pair.run_for(5 * SECOND);
        claim_it(&mut pair);
        let id = pair.submit(write(0, pattern(2048, seed)));
        pair.outcome(id, SECOND).unwrap();
        assert!(pair.client.traffic.operations.is_empty(), "seed {seed}: an operation hangs");
    }
}
