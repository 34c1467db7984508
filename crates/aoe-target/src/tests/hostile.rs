//! Whatever arrives: no panic, no growth, and nothing changes that shouldn't.

use block::{Epoch, Lba};
use proptest::prelude::*;
use std::collections::BTreeSet;

use super::*;

fn seeds() -> Vec<Vec<u8>> {
    let flat = |frame: Frame| [frame.head.as_slice(), &frame.payload].concat();
    let ata = |command, lba, data: usize| {
        flat(
            AtaRequest::new(header(Command::Ata), command, Lba(lba), (data / 512).max(1) as u8)
                .emit(Buffer::copy_of(&vec![7; data])),
        )
    };
    let mask = MaskMessage {
        header: header(Command::Mask),
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: 2,
        directives: vec![Directive { command: DirectiveCommand::Add, mac: CLIENT }; 2],
    };
    let reserve = ReserveMessage {
        header: header(Command::Reserve),
        command: ReserveCommand::Set,
        macs: vec![CLIENT, OTHER],
    };
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello)
        .emit(OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([2; 16])));
    let write = SessionRequest {
        session: SessionId(5),
        instance: Instance(77),
        epoch: Epoch(5),
        sequence: 1,
        sectors: 1,
        ..SessionRequest::new(header(Command::Session), Operation::Write)
    };
    vec![
        ata(AtaCommand::READ_EXT, 3, 0),
        ata(AtaCommand::WRITE_EXT, 3, 1024),
        ata(AtaCommand::WRITE, 990, 512),
        ata(AtaCommand::IDENTIFY, 0, 0),
        ata(AtaCommand::FLUSH_CACHE, 0, 0),
        flat(ConfigMessage::request(header(Command::Config), ConfigCommand::ForceSet).emit(b"x")),
        flat(mask.emit()),
        flat(MaskMessage { count: 255, ..mask }.emit()),
        ata(AtaCommand::SET_FEATURES, 0, 0),
        ata(AtaCommand::SMART, 0xc2_4f00, 512),
        flat(reserve.emit()),
        flat(hello),
        flat(write.emit(Buffer::zeroed(512))),
    ]
}

/// What a frame may do to the disk, decided without the target's code: from the bytes alone.
fn may_write(frame: &[u8], reserved_or_masked: bool) -> Option<std::ops::Range<usize>> {
    let plain_write = frame.len() >= 36
        && frame[12..14] == [0x88, 0xa2]
        && frame[14] >> 4 == 1
        && frame[14] & 0x08 == 0
        && frame[6] & 1 == 0
        && (frame[16..18] == [0, 194] || frame[16..18] == [0xff, 0xff])
        && (frame[18] == 3 || frame[18] == 0xff)
        && frame[19] == 0
        && (frame[27] == 0x30 || frame[27] == 0x34);
    let count = *frame.get(26)? as usize;
    if !plain_write || reserved_or_masked || count > 17 || frame.len() < 36 + count * 512 {
        return None;
    }
    let mut lba = 0u64;
    for i in (0..6).rev() {
        lba = lba << 8 | u64::from(frame[28 + i]);
    }
    if frame[27] == 0x30 {
        lba &= 0x0fff_ffff;
    }
    let fits = lba.checked_add(count as u64).is_some_and(|end| end <= SECTORS);
    fits.then(|| lba as usize * 512..(lba as usize + count) * 512)
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let cut = prop_oneof![6 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (0..seeds().len(), prop::collection::vec(change, 0..4), cut).prop_map(
        |(which, changes, cut)| {
            let mut bytes = seeds().swap_remove(which);
            for (at, to) in changes {
                // Mostly headers: that is where the decisions are.
                let len = bytes.len().min(40);
                bytes[at.index(len)] = to;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_disk_changes_exactly_as_the_bytes_say(
        frames in prop::collection::vec(mutated(), 1..40),
    ) {
        let mut bench = Bench::new(OPEN, |options| options.list_editors = ListEditors::Nobody);
        let mut expected = bench.disk.clone();
        for frame in frames {
            if let Some(window) = may_write(&frame, false) {
                let len = window.len();
                expected[window].copy_from_slice(&frame[36..36 + len]);
            }
            bench.frame(&frame);
            bench.serve();
            for reply in bench.sent.drain(..) {
                prop_assert!(reply[14] & 0x08 != 0 && reply[16..19] == [0, 194, 3]);
                prop_assert!(reply.len() <= 9014);
            }
            prop_assert!(bench.disk == expected);
        }
    }

    #[test]
    fn a_disk_of_a_pool_never_changes(frames in prop::collection::vec(mutated(), 1..40)) {
        let mut bench = Bench::new(held(5, 1), |_| ());
        for frame in frames {
            bench.frame(&frame);
            prop_assert!(bench.io.is_empty());
            bench.sent.clear();
        }
        let status = bench.target.export_status(bench.export).unwrap();
        prop_assert_eq!((status.queued, status.sessions), (0, 0));
    }

    #[test]
    fn noise(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20)) {
        let mut bench = Bench::new(OPEN, |_| ());
        for frame in frames {
            bench.frame(&frame);
            bench.silence();
        }
    }
}

/// A client that is right about the checksum and nothing else.
fn session_request() -> impl Strategy<Value = SessionRequest> {
    let operation = prop_oneof![
        4 => Just(Operation::Write),
        1 => Just(Operation::Read),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Discard),
        1 => Just(Operation::WriteZeroes),
        1 => Just(Operation::Status),
        1 => Just(Operation::Health),
        1 => Just(Operation::Unknown(0x33)),
    ];
    let numbers = (0u64..12, prop_oneof![9 => 0u64..3, 1 => 0u64..2000], 0u64..1004, 0u32..4);
    let epoch = prop_oneof![1 => Just(0u64), 1 => Just(4), 6 => Just(5), 1 => Just(6)];
    let right = prop_oneof![7 => Just((0u64, 77u64)), 1 => Just((1, 77)), 1 => Just((0, 76))];
    (operation, numbers, epoch, right).prop_map(
        |(operation, numbers, epoch, (session, instance))| {
            let (sequence, floor, lba, sectors) = numbers;
            SessionRequest {
                session: SessionId(session),
                instance: Instance(instance),
                epoch: Epoch(epoch),
                sequence,
                floor,
                lba: Lba(lba),
                sectors,
                ..SessionRequest::new(header(Command::Session), operation)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Against the rules in one line each: what a session's commands do to the disk.
    #[test]
    fn a_sessions_commands_run_once_and_only_where_they_may(
        requests in prop::collection::vec(session_request(), 1..80),
    ) {
        let mut bench = Bench::new(held(5, 1), |_| ());
        let session = super::session::connect(&mut bench, 1);
        let mut expected = bench.disk.clone();
        let (mut floor, mut seen) = (0, BTreeSet::new());
        for (nth, request) in (1u8..).zip(requests) {
            let known = request.session == SessionId(0) && request.instance == Instance(77);
            let request = SessionRequest {
                session: SessionId(session.0 ^ request.session.0),
                ..request
            };
            let is_write = request.operation == Operation::Write;
            let payload = if is_write { request.sectors as usize * 512 } else { 0 };
            bench.send(&request.emit(Buffer::copy_of(&vec![nth; payload])));
            bench.serve();
            // None for a number that it had with another meaning.
            prop_assert!(bench.sent.len() <= 1);
            bench.sent.clear();
            if !known {
                continue;
            }
            floor = request.floor.max(floor);
            let in_window = (floor..floor + WINDOW_MAX).contains(&request.sequence);
            let fits = request.sectors > 0 && request.range().fits(SECTORS);
            let once = request.operation.is_once();
            if !in_window || once && !seen.insert(request.sequence) {
                continue;
            }
            if request.epoch == Epoch(5) && fits && once && request.operation != Operation::Flush {
                let start = request.lba.byte_offset() as usize;
                let end = start + request.sectors as usize * 512;
                expected[start..end].fill(if is_write { nth } else { 0 });
            }
            prop_assert!(bench.disk == expected);
        }
        prop_assert!(bench.disk == expected);
    }
}
