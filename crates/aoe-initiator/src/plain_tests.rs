//! The plain client against a target that does what vblade does, on a wire that is worse.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{ADDRESS, Faults, Pair, Server, TARGET_MAC, pattern, rand_like, write};
use aoe_wire::Frame;

const SECTORS: u64 = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Executes every frame that it gets, as often as it gets it.
struct PlainServer {
    disk: Vec<u8>,
    identify: Identify,
    is_silent: bool,
    failing: Option<u8>,
    frames: u64,
}

impl Server for PlainServer {
    fn handle(&mut self, _: Instant, bytes: &[u8]) -> Vec<Frame> {
        self.answer(bytes).into_iter().collect()
    }
}

impl PlainServer {
    fn answer(&mut self, bytes: &[u8]) -> Option<Frame> {
        let (request, data) = AtaRequest::parse(bytes).ok()?;
        if self.is_silent || request.header.address != ADDRESS {
            return None;
        }
        self.frames += 1;
        let reply = AtaReply::to(&request, request.header.answer(TARGET_MAC, ADDRESS));
        if let Some(error) = self.failing {
            return Some(reply.failed(error).emit(Buffer::empty()));
        }
        let from = request.lba().0 as usize * SECTOR_BYTES;
        let len = usize::from(request.count) * SECTOR_BYTES;
        let payload = match request.command {
            AtaCommand::READ_EXT => Buffer::copy_of(&self.disk[from..from + len]),
            AtaCommand::WRITE_EXT => {
                self.disk[from..from + len].copy_from_slice(&data[..len]);
                Buffer::empty()
            }
            AtaCommand::IDENTIFY => Buffer::copy_of(&self.identify.build()),
            AtaCommand::FLUSH_CACHE_EXT => Buffer::empty(),
            other => panic!("{other}"),
        };
        Some(reply.emit(payload))
    }
}

type PlainPair = Pair<Plain, PlainServer>;

fn pair(seed: u64, class: DurabilityClass, flush: bool) -> PlainPair {
    let identify = Identify {
        sectors: SECTORS,
        serial: "7.3".to_owned(),
        lba48: true,
        flush,
        physical_block_bytes: 512,
        ..Identify::default()
    };
    let options = PlainOptions { class, ..PlainOptions::new(ADDRESS, 16, 17) };
    let mut random = rand_like::Random(seed);
    let client =
        Plain::new(Instant::default(), options, identify.clone(), Box::new(move || random.next()));
    let server = PlainServer {
        disk: vec![0; SECTORS as usize * SECTOR_BYTES],
        identify,
        is_silent: false,
        failing: None,
        frames: 0,
    };
    let mut pair = Pair::new(seed, client, server);
    pair.connect(1, 9000);
    pair
}

/// The first copy of a write is late, the second is answered, and the same sectors are written
/// anew. Both writes were acknowledged, and the older one was what stayed. Held ranges prevent it.
#[test]
fn the_late_first_copy_of_a_write_does_not_undo_the_next() {
    let mut pair = pair(7, DurabilityClass::Declared, false);
    pair.delay_next = Duration::from_millis(150);
    let first = pair.submit(write(0, pattern(8, 1)));
    let second = pair.submit(write(4, pattern(8, 2)));
    let elsewhere = pair.submit(write(100, pattern(8, 3)));
    pair.outcome(first, Duration::from_millis(100)).unwrap();
    pair.outcome(elsewhere, Duration::ZERO).unwrap();
    pair.outcome(second, SECOND).unwrap();
    pair.run_for(3 * SECOND);
    assert!(pair.server.disk[4 * 512..12 * 512] == *pattern(8, 2));
}

#[test]
fn late_copies_never_undo_a_later_write() {
    for seed in 0..40 {
        let mut pair = pair(seed, DurabilityClass::Declared, false);
        // Loss makes copies, jitter far beyond the time-outs makes them late.
        pair.faults =
            Faults { loss_per_mille: 50, jitter: Duration::from_millis(120), ..Faults::NONE };
        let mut model = vec![0; 64 * SECTOR_BYTES];
        let mut random = rand_like::Random(seed + 1);
        let mut all = Vec::new();
        for round in 0..60 {
            let (start, count) = (random.below(40), 1 + random.below(20));
            let data = pattern(count, seed * 100 + round);
            model[start as usize * 512..(start + count) as usize * 512].copy_from_slice(&data);
            all.push(pair.submit(write(start, data)));
        }
        for id in all {
            pair.outcome(id, 300 * SECOND).unwrap();
        }
        pair.run_for(5 * SECOND);
        assert!(pair.server.disk[..model.len()] == model[..], "seed {seed}");
        assert!(pair.client.held.is_empty() && pair.client.tags.is_empty());
        assert!(pair.client.traffic.operations.is_empty());
    }
}

#[test]
fn the_announced_limits_are_honoured() {
    let mut pair = pair(1, DurabilityClass::Unknown, true);
    let id = pair.submit(write(0, pattern(512, 1)));
    assert!(pair.frames_sent <= 16, "no more than the target queues");
    pair.outcome(id, SECOND).unwrap();
    assert_eq!(pair.server.frames, 32, "sixteen sectors each");
    let id = pair.submit(Operation::Read(SectorRange::new(Lba(0), 512)));
    assert_eq!(pair.outcome(id, SECOND).unwrap().value, Answer::Data(pattern(512, 1)));
    assert_eq!(pair.client.statistics().retransmissions, 0);
}

#[test]
fn a_dead_target_is_lost_and_comes_back_as_another_instance() {
    let mut pair = pair(2, DurabilityClass::Unknown, true);
    let id = pair.submit(write(0, pattern(8, 1)));
    let before = pair.outcome(id, SECOND).unwrap().instance;
    pair.server.is_silent = true;
    let id = pair.submit(write(0, pattern(8, 2)));
    assert_eq!(pair.outcome(id, 11 * SECOND), Err(IoError::Lost));
    let id = pair.submit(write(0, pattern(8, 2)));
    assert_eq!(pair.outcome(id, Duration::ZERO), Err(IoError::Lost));
    pair.server.is_silent = false;
    pair.run_for(4 * SECOND);
    let Some(DeviceEvent::Back(now)) = pair.events.last().copied() else { panic!() };
    assert_ne!(now, before);
    let id = pair.submit(Operation::Flush(before));
    assert_eq!(pair.outcome(id, SECOND), Err(IoError::Restarted { now }));
    let id = pair.submit(Operation::Flush(now));
    pair.outcome(id, SECOND).unwrap();
}

#[test]
fn flush_is_worth_what_the_class_is() {
    for (class, flush, expected) in [
        (DurabilityClass::Unknown, false, Some(IoError::Unsupported)),
        (DurabilityClass::Declared, false, None),
        (DurabilityClass::Unknown, true, None),
    ] {
        let mut pair = pair(3, class, flush);
        let instance = pair.client.instance;
        let id = pair.submit(Operation::Flush(instance));
        assert_eq!(pair.outcome(id, SECOND).err(), expected);
    }
    let mut pair = pair(4, DurabilityClass::Unknown, true);
    let instance = pair.client.instance;
    pair.server.failing = Some(0);
    for _ in 0..2 {
        let id = pair.submit(Operation::Flush(instance));
        assert_eq!(pair.outcome(id, SECOND), Err(IoError::FlushFailed));
        pair.server.failing = None;
    }
}

#[test]
fn errors_are_told_apart() {
    let range = SectorRange::new(Lba(5), 3);
    for (register, expected) in [
        (AtaReply::ERROR_NOT_FOUND, IoError::OutOfRange(range)),
        (AtaReply::ERROR_UNCORRECTABLE, IoError::Medium(range)),
        (AtaReply::ERROR_ABORTED, IoError::Refused(RefusalReason::AccessDenied)),
        (0, IoError::Medium(range)),
    ] {
        let mut pair = pair(5, DurabilityClass::Unknown, true);
        pair.server.failing = Some(register);
        let id = pair.submit(Operation::Read(range));
        assert_eq!(pair.outcome(id, SECOND), Err(expected));
    }
}
