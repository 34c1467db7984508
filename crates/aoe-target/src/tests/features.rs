//! SET FEATURES, SMART, and what a failed flush means.

use block::{Answer, Durability, Lba};

use super::*;

fn ata(command: AtaCommand, feature: u8, count: u8) -> AtaRequest {
    AtaRequest { feature, ..AtaRequest::new(header(Command::Ata), command, Lba(0), count) }
}

fn ask(bench: &mut Bench, request: AtaRequest, data: &[u8]) -> (AtaReply, Vec<u8>) {
    bench.send(&request.emit(Buffer::copy_of(data)));
    bench.serve();
    let bytes = bench.reply();
    let (reply, data) = AtaReply::parse(&bytes).unwrap();
    (reply, data.to_vec())
}

fn identify(bench: &mut Bench) -> Identify {
    Identify::parse(&ask(bench, ata(AtaCommand::IDENTIFY, 0, 1), &[]).1).unwrap()
}

fn write(bench: &mut Bench) -> IoRequest {
    bench.send(&ata(AtaCommand::WRITE_EXT, 0, 1).emit(Buffer::zeroed(512)));
    bench.io.pop_back().unwrap()
}

fn is_volatile(request: &IoRequest) -> bool {
    matches!(
        request.operation,
        IoOperation::Device(block::Operation::Write { durability: Durability::Volatile, .. })
    )
}

const ABORTED: (u8, u8) = (0x41, 0x04);
const FAULT: (u8, u8) = (0x61, 0x04);

fn registers(reply: AtaReply) -> (u8, u8) {
    (reply.status, reply.error)
}

#[test]
fn the_write_cache_is_switched() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache_switchable = true);
    assert!(!identify(&mut bench).write_cache);
    assert!(!ask(&mut bench, ata(AtaCommand::SET_FEATURES, 0x02, 0), &[]).0.is_failure());
    assert!(identify(&mut bench).write_cache);
    let early = write(&mut bench);
    assert!(is_volatile(&early));

    // Off waits for what was answered early, flushes, and holds back what comes later.
    bench.send(&ata(AtaCommand::SET_FEATURES, 0x82, 0).emit(Buffer::empty()));
    bench.send(&ata(AtaCommand::WRITE_EXT, 0, 1).emit(Buffer::zeroed(512)));
    assert!(bench.io.is_empty());
    bench.complete(early.id, Ok(Answer::Done));
    bench.reply();
    let flush = bench.io.pop_front().unwrap();
    assert!(
        matches!(flush.operation, IoOperation::Device(block::Operation::Flush(Instance(77))))
            && bench.sent.is_empty()
    );
    bench.complete(flush.id, Ok(Answer::Done));
    assert_eq!(bench.reply()[27], 0x40);
    let late = bench.io.pop_front().unwrap();
    assert!(!is_volatile(&late));
    bench.complete(late.id, Ok(Answer::Done));
    bench.reply();
    assert!(!identify(&mut bench).write_cache);
    for feature in [0x00, 0x03, 0x10, 0x55, 0xaa, 0xff] {
        let (reply, _) = ask(&mut bench, ata(AtaCommand::SET_FEATURES, feature, 0), &[]);
        assert_eq!(registers(reply), ABORTED, "{feature:#x}");
    }
}

/// Switching is free of rates, so it must be no way to keep the disk busy.
#[test]
fn switching_off_flushes_only_what_was_written_early() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache_switchable = true);
    let switch = |bench: &mut Bench, feature| {
        bench.send(&ata(AtaCommand::SET_FEATURES, feature, 0).emit(Buffer::empty()));
        let flushes = bench.io.len();
        bench.serve();
        assert_eq!(AtaReply::parse(&bench.reply()).unwrap().0.status, 0x40);
        flushes
    };
    assert_eq!(switch(&mut bench, 0x82), 1, "a former process may have written early");
    for feature in [0x82, 0x02, 0x82, 0x02] {
        assert_eq!(switch(&mut bench, feature), 0);
    }
    assert!(!ask(&mut bench, ata(AtaCommand::WRITE_EXT, 0, 1), &[0; 512]).0.is_failure());
    assert_eq!([0x02, 0x82, 0x82].map(|feature| switch(&mut bench, feature)), [0, 1, 0]);
    bench.instance = Instance(78);
    bench.target.set_device(bench.export, DeviceState { instance: Instance(78), ..device(OPEN) });
    assert_eq!(switch(&mut bench, 0x82), 1);
}

/// Off, and on again at once: the last word counts, though off takes a while.
#[test]
fn switches_take_their_turns() {
    let mut bench = Bench::new(OPEN, |options| {
        options.write_cache = true;
        options.write_cache_switchable = true;
    });
    let early = write(&mut bench);
    for feature in [0x82, 0x02, 0x82, 0x02] {
        bench.send(&ata(AtaCommand::SET_FEATURES, feature, 0).emit(Buffer::empty()));
    }
    bench.complete(early.id, Ok(Answer::Done));
    bench.serve();
    assert_eq!(bench.sent.drain(..).len(), 5);
    assert!(identify(&mut bench).write_cache);
}

#[test]
fn who_may_not_switch_is_refused() {
    let deny = |operation| AccessPolicy {
        rules: [(operation, AccessRule { accept: [OTHER].into(), deny: [].into() })].into(),
        ..AccessPolicy::default()
    };
    let changes: [fn(&mut ExportOptions, AccessPolicy); 3] = [
        |options, _| options.write_cache_switchable = false,
        |options, _| options.read_only = true,
        |options, access| options.access = access,
    ];
    for change in changes {
        let mut bench = Bench::new(OPEN, |options| {
            options.write_cache_switchable = true;
            change(options, deny(AccessOperation::Write));
        });
        for feature in [0x02, 0x82] {
            let (reply, _) = ask(&mut bench, ata(AtaCommand::SET_FEATURES, feature, 0), &[]);
            assert_eq!(registers(reply), ABORTED);
        }
        assert!(!identify(&mut bench).write_cache && bench.stats()[Counter::Flushes] == 0);
    }
}

#[test]
fn a_cache_that_the_administrator_switches_off_is_flushed() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache = true);
    let early = write(&mut bench);
    bench.target.set_options(bench.export, ExportOptions::new(ADDRESS, "disk")).unwrap();
    bench.collect();
    assert!(bench.io.is_empty(), "not before what runs has ended");
    bench.complete(early.id, Ok(Answer::Done));
    let flush = bench.io.pop_front().unwrap();
    assert!(matches!(flush.operation, IoOperation::Device(block::Operation::Flush(_))));
    bench.complete(flush.id, Ok(Answer::Done));
    assert_eq!(bench.sent.iter().filter(|frame| frame[19] == 0).count(), 1, "the write's answer");
    assert!(!is_volatile(&write(&mut bench)));
}

/// What happened elsewhere: fsync failed once, the next one said all was well, and the database
/// believed it. So a failure is told again until the device is opened anew.
#[test]
fn a_failed_flush_is_told_to_every_later_flush() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache = true);
    let early = write(&mut bench);
    bench.complete(early.id, Ok(Answer::Done));
    bench.reply();
    bench.send(&ata(AtaCommand::FLUSH_CACHE, 0, 0).emit(Buffer::empty()));
    let flush = bench.io.pop_front().unwrap();
    bench.complete(flush.id, Err(IoError::FlushFailed));
    assert_eq!(registers(AtaReply::parse(&bench.reply()).unwrap().0), FAULT);
    for command in [AtaCommand::FLUSH_CACHE, AtaCommand::FLUSH_CACHE_EXT] {
        for _ in 0..3 {
            let (reply, _) = ask(&mut bench, ata(command, 0, 0), &[]);
            assert_eq!(registers(reply), FAULT);
        }
    }
    assert!(!ask(&mut bench, ata(AtaCommand::READ_EXT, 0, 1), &[]).0.is_failure());
    // Opened anew: what was written before may be gone, which is told once.
    bench.target.set_device(bench.export, DeviceState { instance: Instance(78), ..device(OPEN) });
    bench.instance = Instance(78);
    let flush = ata(AtaCommand::FLUSH_CACHE, 0, 0);
    assert_eq!(registers(ask(&mut bench, flush, &[]).0), ABORTED);
    assert!(!ask(&mut bench, flush, &[]).0.is_failure());
}

const SMART: Abilities = Abilities { remembers: false, smart: true };

fn smart(feature: u8, count: u8) -> AtaRequest {
    AtaRequest { lba_raw: 0xa0c2_4f07, ..ata(AtaCommand::SMART, feature, count) }
}

fn said(bytes: usize) -> SmartReply {
    let data = Buffer::copy_of(&vec![9; bytes]);
    SmartReply { status: 0x50, error: 0, count: 1, lba: [7, 0xf4, 0x2c], data }
}

#[test]
fn smart_goes_to_the_disk() {
    for (feature, count, sent, answer) in [
        (0xd0, 1, 0, 512),
        (0xd1, 1, 0, 512),
        (0xd4, 0, 0, 0),
        (0xd5, 2, 0, 1024),
        (0xd6, 1, 512, 0),
        (0xd8, 0, 0, 0),
        (0xd9, 0, 0, 0),
        (0xda, 0, 0, 0),
    ] {
        let mut bench = Bench::with(SMART, OPEN, |_| ());
        bench.smart = Some(said(answer));
        // More than announced, as aoeping does it.
        let request = smart(feature, count);
        bench.send(&request.emit(Buffer::copy_of(&vec![3; sent + 100])));
        let asked = bench.io.front().unwrap();
        let IoOperation::Smart(command) = &asked.operation else { panic!("{asked:?}") };
        assert_eq!((command.feature.raw(), command.count, command.lba_low), (feature, count, 7));
        assert_eq!(&*command.data, vec![3; sent]);
        bench.serve();
        let bytes = bench.reply();
        let (reply, data) = AtaReply::parse(&bytes).unwrap();
        // A sector of zeros where there is no data: aoeping wants one.
        assert_eq!((reply.status, reply.error, data.len()), (0x50, 0, answer.max(512)));
        assert!(answer > 0 || data.iter().all(|byte| *byte == 0));
        assert_eq!(reply.lba_raw, 0xa02c_f407, "the disk's registers: it is about to fail");
        assert_eq!(bench.stats()[Counter::Others], 1);
        let status = bench.target.export_status(bench.export).unwrap();
        assert_eq!(status.device.instance, Instance(77));
        assert_eq!(identify(&mut bench).smart, Some(feature != 0xd9));
    }
}

#[test]
fn of_smart_only_what_is_known_gets_through() {
    let mut bench = Bench::with(SMART, OPEN, |_| ());
    let wrong_signature = AtaRequest { lba_raw: 0xc2_4e00, ..smart(0xd0, 1) };
    let refused: Vec<AtaRequest> = (0..=255)
        .filter(|raw| ![0xd0, 0xd1, 0xd4, 0xd5, 0xd6, 0xd8, 0xd9, 0xda].contains(raw))
        .map(|raw| smart(raw, 1))
        // Logs without sectors, with more than a frame has, and with less data than promised.
        .chain([wrong_signature, smart(0xd5, 0), smart(0xd5, 18), smart(0xd6, 2)])
        .collect();
    for request in refused {
        let (reply, data) = ask(&mut bench, request, &[0; 512]);
        assert_eq!(registers(reply), ABORTED, "{request:?}");
        assert!(data.iter().all(|byte| *byte == 0), "data goes out");
    }
    // Without a disk there is none.
    let mut bench = Bench::new(OPEN, |_| ());
    assert_eq!(registers(ask(&mut bench, smart(0xd0, 1), &[]).0), ABORTED);
    assert_eq!(identify(&mut bench).smart, None);
}

#[test]
fn smart_changes_nothing_for_those_who_only_read() {
    let readers: [fn(&mut ExportOptions); 2] = [
        |options| options.read_only = true,
        |options| {
            let rule = AccessRule { accept: [OTHER].into(), deny: [].into() };
            options.access.rules.insert(AccessOperation::Write, rule);
        },
    ];
    for reader in readers {
        let mut bench = Bench::with(SMART, OPEN, reader);
        for feature in [0xd4, 0xd6, 0xd8, 0xd9] {
            let (reply, _) = ask(&mut bench, smart(feature, 1), &[0; 512]);
            assert_eq!(registers(reply), ABORTED, "{feature:#x}");
        }
        bench.smart = Some(said(512));
        assert!(!ask(&mut bench, smart(0xd0, 1), &[]).0.is_failure());
    }
}

#[test]
fn questions_to_a_slow_disk_are_bounded() {
    let mut bench = Bench::with(SMART, OPEN, |_| ());
    for _ in 0..100 {
        bench.send(&smart(0xd0, 1).emit(Buffer::empty()));
    }
    assert_eq!((bench.io.len(), bench.stats()[Counter::QueueFull]), (8, 92));
    bench.smart = Some(said(512));
    bench.serve();
    assert_eq!(bench.sent.drain(..).len(), 8);
    assert!(!ask(&mut bench, smart(0xd0, 1), &[]).0.is_failure());
}

#[test]
fn what_a_disk_says_is_not_trusted_either() {
    let mut bench = Bench::with(SMART, OPEN, |_| ());
    bench.smart = Some(said(100));
    assert!(ask(&mut bench, smart(0xd0, 1), &[]).0.is_failure(), "a short answer is none");
    bench.smart = Some(SmartReply { status: 0x51, error: 0x04, ..said(512) });
    let (reply, data) = ask(&mut bench, smart(0xd0, 1), &[]);
    assert_eq!(registers(reply), (0x51, 0x04));
    assert!(data.iter().all(|byte| *byte == 0), "what failed has no data");
    // A dead way to the disk says nothing about the device that reads and writes go to.
    bench.send(&smart(0xd0, 1).emit(Buffer::empty()));
    let asked = bench.io.pop_front().unwrap();
    bench.complete(asked.id, Err(IoError::Restarted { now: Instance(5) }));
    assert!(AtaReply::parse(&bench.reply()).unwrap().0.is_failure());
    let status = bench.target.export_status(bench.export).unwrap();
    assert_eq!(status.device.instance, Instance(77));
}

/// a client has switched the cache on; the administrator forbids that by a reload.
#[test]
fn a_cache_that_is_forbidden_later_is_off() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache_switchable = true);
    assert!(!ask(&mut bench, ata(AtaCommand::SET_FEATURES, 0x02, 0), &[]).0.is_failure());
    bench.target.set_options(bench.export, ExportOptions::new(ADDRESS, "disk")).unwrap();
    bench.collect();
    bench.serve();
    bench.sent.clear();
    assert!(!is_volatile(&write(&mut bench)), "write-cache = off, but answered early");
}
