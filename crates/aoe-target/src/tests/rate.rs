//! Limits by export and client, on the test's own time.

use block::Lba;

use super::*;

fn read(source: MacAddr, lba: u64, count: u8) -> Frame {
    let header = Header::request(SERVER, source, ADDRESS, Command::Ata, lba as u32);
    AtaRequest::new(header, AtaCommand::READ_EXT, Lba(lba), count).emit(Buffer::empty())
}

fn per_second(requests: u64) -> Rate {
    Rate { requests_per_second: Some(requests), bytes_per_second: None }
}

/// Answers that arrive in so many milliseconds, by client.
fn answers(bench: &mut Bench, ms: u64) -> [usize; 2] {
    let until = bench.now + Duration::from_millis(ms);
    loop {
        bench.serve();
        match bench.target.poll_timeout() {
            Some(at) if at <= until => {
                assert!(at > bench.now, "no progress");
                bench.now = at;
                bench.target.handle_timeout(at);
                bench.collect();
            }
            _ => break,
        }
    }
    bench.now = until;
    let sent: Vec<_> = bench.sent.drain(..).collect();
    [CLIENT, OTHER].map(|mac| sent.iter().filter(|frame| frame[..6] == mac.0).count())
}

#[test]
fn commands_wait_and_none_is_lost() {
    let mut bench = Bench::new(OPEN, |options| options.limits.client = per_second(100));
    for lba in 0..300 {
        bench.send(&read(CLIENT, lba, 1));
    }
    let [first, _] = answers(&mut bench, 1000);
    assert!((100..=106).contains(&first), "{first}");
    bench.send(&read(OTHER, 500, 1));
    let [second, other] = answers(&mut bench, 1000);
    assert!((99..=101).contains(&second) && other == 1, "{second} {other}");
    let [rest, _] = answers(&mut bench, 10_000);
    assert_eq!(first + second + rest, 300);
    assert_eq!((bench.target.poll_timeout(), bench.stats()[Counter::QueueFull]), (None, 0));
}

#[test]
fn who_doesnt_overlap_isnt_held_up() {
    let mut bench = Bench::new(OPEN, |options| options.limits.client = per_second(10));
    for lba in 0..50 {
        bench.send(&read(CLIENT, lba, 1));
    }
    answers(&mut bench, 0);
    bench.send(&read(OTHER, 900, 1));
    assert_eq!(answers(&mut bench, 0), [0, 1]);
}

#[test]
fn bytes_of_an_export_are_shared() {
    let bytes = Some(100 * 4096);
    let mut bench = Bench::new(OPEN, |options| options.limits.export.bytes_per_second = bytes);
    for _ in 0..300 {
        bench.send(&read(CLIENT, 0, 8));
        bench.send(&read(OTHER, 8, 8));
    }
    let [one, two] = answers(&mut bench, 2000);
    assert!((199..=207).contains(&(one + two)) && one.abs_diff(two) <= 1, "{one} {two}");
}

#[test]
fn limits_change_while_commands_wait() {
    let mut bench = Bench::new(OPEN, |options| options.limits.client = per_second(1));
    for lba in 0..50 {
        bench.send(&read(CLIENT, lba, 1));
    }
    assert!(answers(&mut bench, 500)[0] <= 2);
    bench.target.set_options(bench.export, ExportOptions::new(ADDRESS, "disk")).unwrap();
    bench.collect();
    assert!(answers(&mut bench, 0)[0] >= 48);
    assert_eq!(bench.target.poll_timeout(), None);
}

/// What holds up everybody isn't held up itself, and identification is free.
#[test]
fn barriers_and_questions_pass() {
    let mut bench = Bench::with(Abilities { remembers: true, smart: false }, OPEN, |options| {
        options.limits.client = per_second(1);
        options.write_cache_switchable = true;
    });
    bench.send(&read(CLIENT, 0, 1));
    answers(&mut bench, 0);
    let plain = |command, feature| {
        let request = AtaRequest::new(header(Command::Ata), command, Lba(0), 1);
        AtaRequest { feature, ..request }.emit(Buffer::empty())
    };
    for frame in [
        plain(AtaCommand::IDENTIFY, 0),
        plain(AtaCommand::SET_FEATURES, 0x82),
        ConfigMessage::request(header(Command::Config), ConfigCommand::Set).emit(b"x"),
    ] {
        bench.send(&frame);
        assert_eq!(answers(&mut bench, 0), [1, 0]);
    }
}

/// one barrier behind a limited client's line stops everybody.
#[test]
fn a_barrier_behind_a_limited_client_holds_up_nobody() {
    let mut bench = Bench::new(OPEN, |options| {
        options.limits.client = per_second(10);
        options.write_cache_switchable = true;
    });
    for lba in 0..400 {
        bench.send(&read(CLIENT, lba, 1));
    }
    answers(&mut bench, 0);
    let header = Header::request(SERVER, OTHER, ADDRESS, Command::Ata, 7);
    let off = AtaRequest::new(header, AtaCommand::SET_FEATURES, Lba(0), 0);
    bench.send(&AtaRequest { feature: 0x82, ..off }.emit(Buffer::empty()));
    bench.send(&read(OTHER, 900, 1));
    let [_, other] = answers(&mut bench, 5000);
    assert_eq!(other, 2, "of the other client's commands, after five seconds");
}

/// who has been told that the export is reserved for him is alone from then on.
#[test]
fn nothing_of_others_runs_after_a_reservation_is_answered() {
    let mut bench = Bench::new(OPEN, |options| options.limits.client = per_second(10));
    for lba in 0..20 {
        let header = Header::request(SERVER, OTHER, ADDRESS, Command::Ata, lba as u32);
        let write = AtaRequest::new(header, AtaCommand::WRITE_EXT, Lba(lba), 1);
        bench.send(&write.emit(Buffer::copy_of(&[7; 512])));
    }
    answers(&mut bench, 0);
    let header = Header::request(SERVER, CLIENT, ADDRESS, Command::Reserve, 9);
    let set = ReserveMessage { header, command: ReserveCommand::Set, macs: vec![CLIENT] };
    bench.send(&set.emit());
    assert_eq!(answers(&mut bench, 0), [1, 0], "it is told so");
    let before = bench.disk.clone();
    answers(&mut bench, 5000);
    assert!(bench.disk == before, "another's write after the answer");
}

/// A question to the disk that is refused late, silently, is no question any more.
#[test]
fn questions_refused_late_are_forgotten() {
    let smart = Abilities { smart: true, ..Abilities::default() };
    let mut bench = Bench::with(smart, OPEN, |options| {
        options.limits.client = per_second(10);
        options.on_refusal = OnRefusal::Silent;
    });
    for lba in 0..10 {
        bench.send(&read(OTHER, lba, 1));
    }
    for tag in 0..8 {
        let header = Header::request(SERVER, OTHER, ADDRESS, Command::Ata, 100 + tag);
        let ask = AtaRequest::new(header, AtaCommand::SMART, Lba(0), 1);
        bench.send(&AtaRequest { feature: 0xda, lba_raw: 0xc2_4f00, ..ask }.emit(Buffer::empty()));
    }
    for macs in [vec![CLIENT], vec![]] {
        let header = Header::request(SERVER, CLIENT, ADDRESS, Command::Reserve, 9);
        bench.send(&ReserveMessage { header, command: ReserveCommand::Set, macs }.emit());
        answers(&mut bench, 20_000);
    }
    let said = SmartReply { status: 0x50, error: 0, count: 0, lba: [0; 3], data: Buffer::empty() };
    bench.smart = Some(said);
    let header = Header::request(SERVER, CLIENT, ADDRESS, Command::Ata, 7);
    let ask = AtaRequest::new(header, AtaCommand::SMART, Lba(0), 1);
    bench.send(&AtaRequest { feature: 0xda, lba_raw: 0xc2_4f00, ..ask }.emit(Buffer::empty()));
    assert_eq!(answers(&mut bench, 1000), [1, 0], "dropped {}", bench.stats()[Counter::QueueFull]);
}

/// A write that was refused late may come again with its tag.
#[test]
fn a_write_refused_late_may_come_again() {
    let mut bench = Bench::new(OPEN, |options| {
        options.limits.client = per_second(100);
        options.on_refusal = OnRefusal::Silent;
    });
    let write = |tag: u32| {
        let header = Header::request(SERVER, OTHER, ADDRESS, Command::Ata, tag);
        let write = AtaRequest::new(header, AtaCommand::WRITE_EXT, Lba(u64::from(tag)), 1);
        write.emit(Buffer::copy_of(&[7; 512]))
    };
    for tag in 0..100 {
        bench.send(&write(tag));
    }
    for macs in [vec![CLIENT], vec![]] {
        let header = Header::request(SERVER, CLIENT, ADDRESS, Command::Reserve, 9);
        bench.send(&ReserveMessage { header, command: ReserveCommand::Set, macs }.emit());
        answers(&mut bench, 2000);
    }
    assert_eq!(bench.disk[99 * 512], 0, "not written");
    bench.send(&write(99));
    assert_eq!(answers(&mut bench, 1000), [0, 1], "it is free again, and the write is repeated");
}
