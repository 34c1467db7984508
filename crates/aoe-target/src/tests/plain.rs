//! The table of a plain server's rules (aoe.md 1.1 to 1.7).

use block::{Answer, Durability, Lba, SectorRange};

use super::*;

fn ata(command: AtaCommand, lba: u64, count: u8) -> AtaRequest {
    AtaRequest::new(header(Command::Ata), command, Lba(lba), count)
}

fn ask(bench: &mut Bench, request: AtaRequest, data: &[u8]) -> (AtaReply, Vec<u8>) {
    bench.send(&request.emit(Buffer::copy_of(data)));
    bench.serve();
    let bytes = bench.reply();
    let (reply, data) = AtaReply::parse(&bytes).unwrap();
    (reply, data.to_vec())
}

fn registers(reply: AtaReply) -> (u8, u8) {
    (reply.status, reply.error)
}

const OK: (u8, u8) = (0x40, 0);
const ABORTED: (u8, u8) = (0x41, 0x04);
const NOT_FOUND: (u8, u8) = (0x41, 0x10);

fn aoe_error(bytes: &[u8]) -> Option<AoeError> {
    Header::parse(bytes).unwrap().error
}

#[test]
fn the_start_is_announced() {
    let node = NodeIdentity { id: uuid::Uuid::nil(), name: String::new() };
    let mut target = Target::new(node, 1);
    target.set_port(PORT, "eth0".into(), SERVER, 1500);
    let remembered = Remembered { config_string: b"abc".to_vec(), ..Remembered::default() };
    let options = ExportOptions { remembered, ..ExportOptions::new(ADDRESS, "disk") };
    let id = target.add_export(options, device(OPEN), Abilities::default()).unwrap();
    let mut announced = || {
        let (port, frame) = target.poll_transmit().unwrap();
        assert_eq!(port, PORT);
        assert!(target.poll_transmit().is_none());
        [frame.head.as_slice(), &frame.payload].concat()
    };
    #[rustfmt::skip]
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xa2,
        0x18, 0, 0, 194, 3, 1, 0, 0, 0, 0,
        0, 64, 0, 1, 2, 0x10, 0, 3, b'a', b'b', b'c',
    ];
    assert_eq!(announced(), expected);
    target.announce(id);
    assert!(target.poll_transmit().is_some());
    let mut grown = device(OPEN);
    target.set_device(id, grown.clone());
    assert!(target.poll_transmit().is_none(), "nothing changed");
    grown.geometry.sectors += 1;
    target.set_device(id, grown);
    assert!(target.poll_transmit().is_some(), "grown");
    target.set_port(PORT, "eth0".into(), SERVER, 9000);
    let (_, frame) = target.poll_transmit().unwrap();
    assert_eq!(frame.head[28], 16, "another MTU, whole blocks");
}

#[test]
fn discovery_is_answered_with_the_real_address() {
    for (asked, answered) in [
        (ShelfSlot::ANY, true),
        (ShelfSlot::new(194, 0xff), true),
        (ShelfSlot::new(0xffff, 3), true),
        (ADDRESS, true),
        (ShelfSlot::new(0xffff, 4), false),
        (ShelfSlot::new(195, 0xff), false),
        (ShelfSlot::new(194, 4), false),
    ] {
        let mut bench = Bench::new(OPEN, |_| ());
        let asked_by = Header::request(MacAddr::BROADCAST, CLIENT, asked, Command::Config, 7);
        let query = ConfigMessage::request(asked_by, ConfigCommand::Read).emit(b"");
        assert_eq!(query.len_bytes(), 32, "as Linux sends it");
        bench.send(&query);
        if !answered {
            bench.silence();
            continue;
        }
        let bytes = bench.reply();
        let (reply, _) = ConfigMessage::parse(&bytes).unwrap();
        assert_eq!(reply.header, asked_by.answer(SERVER, ADDRESS));
        assert_eq!((reply.buffer_count, reply.sectors_max), (64, 16));
    }
}

#[test]
fn advertised_sectors_follow_mtu_and_setting() {
    for (mtu, setting, advertised) in [
        (1500, None, 2),
        (4096, None, 7),
        (9000, None, 16),
        (65536, None, 16),
        (9000, Some(17), 17),
        (9000, Some(2), 2),
        (1500, Some(17), 2),
        (9000, Some(0), 1),
    ] {
        let mut bench = Bench::new(OPEN, |options| options.sectors_max = setting);
        bench.target.set_port(PORT, "eth0".into(), SERVER, mtu);
        bench.collect();
        assert_eq!(bench.reply()[28], advertised, "mtu {mtu}");
    }
}

#[test]
fn config_string_commands() {
    use ConfigCommand::*;
    // Command, string, string before; answer (error), string after.
    type Case = (ConfigCommand, &'static str, &'static str, Option<Option<AoeError>>, &'static str);
    let present = Some(Some(AoeError::ConfigStringPresent));
    let cases: [Case; 14] = [
        (Read, "junk", "abc", Some(None), "abc"),
        (Test, "abc", "abc", Some(None), "abc"),
        (Test, "ab", "abc", None, "abc"),
        (Test, "", "", Some(None), ""),
        (TestPrefix, "ab", "abc", Some(None), "abc"),
        (TestPrefix, "", "abc", Some(None), "abc"),
        (TestPrefix, "abcd", "abc", None, "abc"),
        (Set, "new", "", Some(None), "new"),
        (Set, "abc", "abc", Some(None), "abc"),
        (Set, "new", "abc", present, "abc"),
        (ForceSet, "new", "abc", Some(None), "new"),
        (ForceSet, "", "abc", Some(None), ""),
        (Unknown(5), "x", "abc", Some(Some(AoeError::BadArgument)), "abc"),
        (Unknown(15), "", "abc", Some(Some(AoeError::BadArgument)), "abc"),
    ];
    for (command, string, before, answer, after) in cases {
        let mut bench =
            Bench::new(OPEN, |o| o.remembered.config_string = before.as_bytes().to_vec());
        bench.send(
            &ConfigMessage::request(header(Command::Config), command).emit(string.as_bytes()),
        );
        match answer {
            None => bench.silence(),
            Some(error) => {
                let bytes = bench.reply();
                assert_eq!(aoe_error(&bytes), error, "{command:?} {string}");
                if error != Some(AoeError::BadArgument) {
                    let (reply, told) = ConfigMessage::parse(&bytes).unwrap();
                    assert_eq!((reply.command, told), (command, after.as_bytes()));
                }
            }
        }
        let now = bench.target.export_status(bench.export).unwrap().remembered.config_string;
        assert_eq!(now, after.as_bytes());
    }
}

#[test]
fn config_lengths_that_lie_are_met_with_silence() {
    for command in 1..=15 {
        let mut bench = Bench::new(OPEN, |_| ());
        let query = ConfigMessage::request(header(Command::Config), ConfigCommand::from(command));
        let mut bytes = query.emit(b"").head.to_vec();
        bytes[30..32].copy_from_slice(&1025u16.to_be_bytes());
        bytes.extend([0; 1100]);
        bench.frame(&bytes);
        bench.silence();
        bytes[30..32].copy_from_slice(&1000u16.to_be_bytes());
        bench.frame(&bytes[..60]);
        bench.silence();
        assert_eq!(bench.stats()[Counter::Malformed], 2);
    }
}

#[test]
fn over_long_requests_are_taken() {
    let mut bench = Bench::new(OPEN, |_| ());
    let mut aoeping = ConfigMessage::request(header(Command::Config), ConfigCommand::Read)
        .emit(b"")
        .head
        .to_vec();
    aoeping[30..32].copy_from_slice(&1024u16.to_be_bytes());
    aoeping.extend([0xee; 1024]);
    bench.frame(&aoeping);
    assert_eq!(bench.reply().len(), 32);
    let (reply, data) = ask(&mut bench, ata(AtaCommand::IDENTIFY, 0, 1), &[0; 8000]);
    assert_eq!((registers(reply), data.len()), (OK, 512));
    let (reply, data) = ask(&mut bench, ata(AtaCommand::READ_EXT, 0, 1), &[0; 8704]);
    assert_eq!((registers(reply), data.len()), (OK, 512));
}

#[test]
fn odd_bits_are_ignored() {
    let mut bench = Bench::new(OPEN, |_| ());
    let mut bytes = ata(AtaCommand::IDENTIFY, 0, 1).emit(Buffer::empty()).head.to_vec();
    bytes[14] |= 0x03;
    bytes[15] = 0x55;
    bytes[34] = 0x77;
    bench.frame(&bytes);
    let reply = bench.reply();
    assert_eq!((reply[14], reply[15], reply[34]), (0x18, 0, 0));
}

#[test]
fn frames_that_are_not_requests_are_ignored() {
    let mut bench = Bench::new(OPEN, |_| ());
    let good = ata(AtaCommand::IDENTIFY, 0, 1).emit(Buffer::empty()).head.to_vec();
    let mut response = good.clone();
    response[14] |= 0x08;
    bench.frame(&response);
    let mut foreign = good.clone();
    foreign[13] = 0;
    bench.frame(&foreign);
    let mut group = good.clone();
    group[6] |= 1;
    bench.frame(&group);
    bench.frame(&good[..23]);
    bench.frame(&[]);
    bench.target.handle_frame(bench.now, PortId(9), &good);
    bench.collect();
    bench.silence();
    assert_eq!(bench.target.stats().malformed, 4);
}

#[test]
fn protocol_errors() {
    let good = ata(AtaCommand::READ_EXT, 0, 1).emit(Buffer::empty()).head.to_vec();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let write = |count: u8, len: usize| {
        let request = ata(AtaCommand::WRITE_EXT, 0, count).emit(Buffer::zeroed(len));
        [request.head.as_slice(), &request.payload].concat()
    };
    for (bytes, error) in [
        (changed(14, 0x20), AoeError::UnsupportedVersion),
        (changed(19, 4), AoeError::UnrecognisedCommand),
        (changed(19, 0xf1), AoeError::UnrecognisedCommand),
        (changed(19, 0xff), AoeError::UnrecognisedCommand),
        (good[..35].to_vec(), AoeError::BadArgument),
        (changed(26, 18), AoeError::BadArgument),
        (changed(26, 255), AoeError::BadArgument),
        (write(2, 1023), AoeError::BadArgument),
        (write(1, 0), AoeError::BadArgument),
    ] {
        let mut bench = Bench::new(OPEN, |_| ());
        bench.frame(&bytes);
        let reply = bench.reply();
        let told = Header::parse(&reply).unwrap();
        assert_eq!((told.error, told.tag, told.version), (Some(error), 0x1234, 1));
        assert!(reply[24..].iter().all(|byte| *byte == 0), "nothing of the request comes back");
    }
}

#[test]
fn identify_tells_what_it_is() {
    let mut bench = Bench::new(OPEN, |_| ());
    for (lba, destination, address) in [
        (0, SERVER, ADDRESS),
        (0, MacAddr::BROADCAST, ADDRESS),
        (12345, MacAddr::BROADCAST, ShelfSlot::ANY),
    ] {
        let mut request = ata(AtaCommand::IDENTIFY, lba, 1);
        request.header.destination = destination;
        request.header.address = address;
        let (reply, data) = ask(&mut bench, request, &[]);
        assert_eq!(reply.header, request.header.answer(SERVER, ADDRESS));
        let identify = Identify::parse(&data).unwrap();
        assert_eq!((identify.sectors, identify.serial.as_str()), (SECTORS, "194.3"));
        assert!(identify.lba48 && identify.flush && !identify.write_cache);
    }
    for count in [0, 2, 255] {
        let (reply, data) = ask(&mut bench, ata(AtaCommand::IDENTIFY, 0, count), &[]);
        assert_eq!((registers(reply), data.len()), (ABORTED, 0));
    }
    let mut cached = Bench::new(OPEN, |options| options.write_cache = true);
    let (_, data) = ask(&mut cached, ata(AtaCommand::IDENTIFY, 0, 1), &[]);
    assert!(Identify::parse(&data).unwrap().write_cache);
}

#[test]
fn reads_and_writes() {
    let mut bench = Bench::new(OPEN, |_| ());
    for (write, read, lba, count) in [
        (AtaCommand::WRITE, AtaCommand::READ, 10, 2),
        (AtaCommand::WRITE_EXT, AtaCommand::READ_EXT, 900, 17),
        (AtaCommand::WRITE_EXT, AtaCommand::READ, SECTORS - 1, 1),
    ] {
        let data: Vec<u8> = (0..usize::from(count) * 512).map(|i| (i / 7) as u8).collect();
        let mut sent = data.clone();
        sent.extend([0xee; 24]);
        let (reply, echoed) = ask(&mut bench, ata(write, lba, count), &sent);
        assert_eq!((registers(reply), reply.count, echoed.len()), (OK, 0, 0));
        let (reply, got) = ask(&mut bench, ata(read, lba, count), &[]);
        assert_eq!((registers(reply), reply.count), (OK, 0));
        assert_eq!(got, data);
    }
    assert_eq!(
        (bench.stats()[Counter::Reads], bench.stats()[Counter::WrittenBytes]),
        (3, 20 * 512)
    );
}

#[test]
fn lba28_device_bits_are_masked() {
    let mut bench = Bench::new(OPEN, |_| ());
    let mut request = ata(AtaCommand::READ, 5, 1);
    request.lba_raw = 0xffff_e000_0005;
    bench.send(&request.emit(Buffer::empty()));
    let asked = bench.io.pop_front().unwrap();
    assert!(matches!(asked.operation, IoOperation::Device(block::Operation::Read(range))
        if range == SectorRange::new(Lba(5), 1)));
    let mut beyond = ata(AtaCommand::READ_EXT, 5, 1);
    beyond.lba_raw = 0xffff_e000_0005;
    bench.send(&beyond.emit(Buffer::empty()));
    assert_eq!(registers(AtaReply::parse(&bench.reply()).unwrap().0), NOT_FOUND);
}

#[test]
fn beyond_the_end_is_not_found() {
    let mut bench = Bench::new(OPEN, |_| ());
    for (lba, count) in [(SECTORS, 1), (SECTORS - 1, 2), (0xffff_ffff_ffff, 17)] {
        let (reply, data) = ask(&mut bench, ata(AtaCommand::READ_EXT, lba, count), &[]);
        assert_eq!((registers(reply), data.len()), (NOT_FOUND, 0));
        let (reply, _) = ask(&mut bench, ata(AtaCommand::WRITE_EXT, lba, count), &[1; 17 * 512]);
        assert_eq!(registers(reply), NOT_FOUND);
    }
    let (reply, data) = ask(&mut bench, ata(AtaCommand::READ_EXT, 0, 0), &[]);
    assert_eq!((registers(reply), data.len()), (OK, 0), "no sectors is no sectors");
    assert!(bench.disk.iter().all(|byte| *byte == 0));
}

#[test]
fn other_commands() {
    let mut bench = Bench::new(OPEN, |_| ());
    for command in [AtaCommand::FLUSH_CACHE, AtaCommand::FLUSH_CACHE_EXT] {
        let (reply, _) = ask(&mut bench, ata(command, 0, 0), &[]);
        assert_eq!(registers(reply), OK);
    }
    assert_eq!(bench.stats()[Counter::Flushes], 2);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::CHECK_POWER_MODE, 0, 0), &[]);
    assert_eq!((registers(reply), reply.count), (OK, 0xff));
    for code in [0x00, 0x25, 0xb0, 0xa0, 0xef, 0xff] {
        let (reply, _) = ask(&mut bench, ata(AtaCommand(code), 0, 1), &[0; 512]);
        assert_eq!(registers(reply), ABORTED, "{code:#x}");
    }
}

#[test]
fn acknowledged_means_durable_unless_a_cache_is_wanted() {
    for (write_cache, expected) in [(false, Durability::Durable), (true, Durability::Volatile)] {
        let mut bench = Bench::new(OPEN, |options| options.write_cache = write_cache);
        bench.send(&ata(AtaCommand::WRITE_EXT, 0, 1).emit(Buffer::zeroed(512)));
        assert!(bench.sent.is_empty(), "answered before the disk was");
        let asked = bench.io.pop_front().unwrap();
        assert!(
            matches!(asked.operation, IoOperation::Device(block::Operation::Write { durability, .. })
            if durability == expected)
        );
    }
}

#[test]
fn a_cache_lost_with_its_instance_is_told_at_the_next_flush() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache = true);
    ask(&mut bench, ata(AtaCommand::WRITE_EXT, 0, 1), &[1; 512]);
    bench.instance = Instance(78);
    ask(&mut bench, ata(AtaCommand::READ_EXT, 0, 1), &[]);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::FLUSH_CACHE, 0, 0), &[]);
    assert_eq!(registers(reply), ABORTED);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::FLUSH_CACHE, 0, 0), &[]);
    assert_eq!(registers(reply), OK);
}

#[test]
fn what_a_former_export_owed_is_told_by_the_next() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache = true);
    assert!(!bench.target.owes_flush(bench.export));
    ask(&mut bench, ata(AtaCommand::WRITE_EXT, 0, 1), &[1; 512]);
    assert!(bench.target.owes_flush(bench.export));
    ask(&mut bench, ata(AtaCommand::FLUSH_CACHE, 0, 0), &[]);
    assert!(!bench.target.owes_flush(bench.export));
    bench.target.note_lost(bench.export);
    assert!(bench.target.owes_flush(bench.export), "until somebody has heard");
    let (reply, _) = ask(&mut bench, ata(AtaCommand::FLUSH_CACHE, 0, 0), &[]);
    assert_eq!(registers(reply), ABORTED);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::FLUSH_CACHE, 0, 0), &[]);
    assert_eq!(registers(reply), OK);
    assert!(!bench.target.owes_flush(bench.export));
}

#[test]
fn failures_of_the_disk_are_ata_errors() {
    let range = SectorRange::new(Lba(4), 8);
    let bad = SectorRange::new(Lba(6), 2);
    use AtaCommand as C;
    for (command, error, expected) in [
        (C::READ_EXT, IoError::Medium(bad), (0x41, 0x40)),
        (C::WRITE_EXT, IoError::Medium(bad), (0x61, 0x04)),
        (C::WRITE_EXT, IoError::NoSpace(range), (0x61, 0x04)),
        (C::READ_EXT, IoError::OutOfRange(range), NOT_FOUND),
        (C::WRITE_EXT, IoError::ReadOnly, ABORTED),
        (C::READ_EXT, IoError::Lost, (0x61, 0x04)),
        (C::FLUSH_CACHE, IoError::FlushFailed, (0x61, 0x04)),
        (C::FLUSH_CACHE, IoError::Restarted { now: Instance(3) }, ABORTED),
        (C::WRITE_EXT, IoError::Refused(block::RefusalReason::ProtectedRange), ABORTED),
    ] {
        let mut bench = Bench::new(OPEN, |_| ());
        bench.send(&ata(command, 4, 8).emit(Buffer::zeroed(4096)));
        let asked = bench.io.pop_front().unwrap();
        bench.complete(asked.id, Err(error));
        let bytes = bench.reply();
        let (reply, data) = AtaReply::parse(&bytes).unwrap();
        assert_eq!((registers(reply), reply.header.error), (expected, None), "{error}");
        assert!(reply.is_failure() && data.is_empty());
        if command == C::READ_EXT && matches!(error, IoError::Medium(_)) {
            assert_eq!(reply.lba_raw, 6);
        }
    }
}

#[test]
fn a_short_read_is_an_error() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&ata(AtaCommand::READ_EXT, 4, 2).emit(Buffer::empty()));
    let asked = bench.io.pop_front().unwrap();
    bench.complete(asked.id, Ok(Answer::Data(Buffer::zeroed(512))));
    assert!(AtaReply::parse(&bench.reply()).unwrap().0.is_failure());
}

#[test]
fn read_only_refuses_writes_only() {
    let mut bench = Bench::new(OPEN, |options| options.read_only = true);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::WRITE_EXT, 0, 1), &[1; 512]);
    assert_eq!(registers(reply), ABORTED);
    let (reply, _) = ask(&mut bench, ata(AtaCommand::READ_EXT, 0, 1), &[]);
    assert_eq!(registers(reply), OK);
    assert_eq!(bench.disk[0], 0);
}

fn edit(directives: &[(DirectiveCommand, MacAddr)]) -> MaskMessage {
    MaskMessage {
        header: header(Command::Mask),
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: directives.len() as u8,
        directives: directives
            .iter()
            .map(|(command, mac)| Directive { command: *command, mac: *mac })
            .collect(),
    }
}

fn mask(bench: &mut Bench, request: &MaskMessage) -> MaskMessage {
    bench.send(&request.emit());
    MaskMessage::parse(&bench.reply()).unwrap()
}

#[test]
fn mask_list_rules() {
    use DirectiveCommand::*;
    let mut bench = Bench::new(OPEN, |_| ());
    let listed = |reply: &MaskMessage| reply.directives.iter().map(|d| d.mac).collect::<Vec<_>>();
    let reply = mask(&mut bench, &edit(&[(Add, CLIENT), (Add, OTHER), (None, CLIENT)]));
    assert_eq!((reply.error, reply.count), (MaskError::None, 2));
    assert_eq!(listed(&reply), [CLIENT, OTHER]);
    assert!(reply.directives.iter().all(|d| d.command == None));
    let reply = mask(&mut bench, &edit(&[(Delete, OTHER), (Unknown(9), CLIENT), (Add, OTHER)]));
    assert_eq!((reply.error, reply.count), (MaskError::BadDirective, 1));
    assert!(reply.directives.is_empty());
    let read = MaskMessage { command: MaskCommand::Read, ..edit(&[]) };
    assert_eq!(listed(&mask(&mut bench, &read)), [CLIENT], "those before stay executed");

    // Who isn't listed isn't answered at all.
    let mut stranger = ata(AtaCommand::IDENTIFY, 0, 1);
    stranger.header.source = OTHER;
    bench.send(&stranger.emit(Buffer::empty()));
    bench.silence();
    assert_eq!(bench.stats()[Counter::Denied], 1);
    bench.target.announce(bench.export);
    bench.collect();
    assert_eq!(bench.reply()[..6], CLIENT.0, "announced to the listed only");

    let odd = MaskMessage { command: MaskCommand::Unknown(7), ..edit(&[]) };
    bench.send(&odd.emit());
    assert_eq!(aoe_error(&bench.reply()), Some(AoeError::BadArgument));
}

#[test]
fn the_mask_list_is_bounded() {
    let mut bench = Bench::new(OPEN, |_| ());
    mask(&mut bench, &edit(&[(DirectiveCommand::Add, CLIENT)]));
    let many = |from: u8, n: usize| {
        let macs = (0..n).map(|i| MacAddr([2, from, 0, 0, 0, i as u8]));
        edit(&macs.map(|mac| (DirectiveCommand::Add, mac)).collect::<Vec<_>>())
    };
    assert_eq!(mask(&mut bench, &many(1, 254)).count, 255);
    let reply = mask(&mut bench, &many(2, 3));
    assert_eq!((reply.error, reply.count), (MaskError::ListFull, 0));
    // A list that doesn't fit into a frame is cut.
    bench.target.set_port(PORT, "eth0".into(), SERVER, 1500);
    bench.collect();
    bench.sent.clear();
    let read = MaskMessage { command: MaskCommand::Read, ..edit(&[]) };
    assert_eq!(mask(&mut bench, &read).count, 184);
}

#[test]
fn reservation_rules() {
    let mut bench = Bench::new(OPEN, |options| options.on_refusal = OnRefusal::AoeError);
    let mut reserve = |command, source, macs: &[MacAddr]| {
        let header = Header { source, ..header(Command::Reserve) };
        bench.send(&ReserveMessage { header, command, macs: macs.to_vec() }.emit());
        let bytes = bench.reply();
        aoe_error(&bytes).map_or_else(|| Ok(ReserveMessage::parse(&bytes).unwrap().macs), Err)
    };
    use ReserveCommand::*;
    assert_eq!(reserve(Read, OTHER, &[]), Ok(vec![]));
    assert_eq!(reserve(Set, CLIENT, &[CLIENT]), Ok(vec![CLIENT]));
    assert_eq!(reserve(Set, OTHER, &[OTHER]), Err(AoeError::Reserved));
    assert_eq!(reserve(Read, OTHER, &[]), Ok(vec![CLIENT]));
    assert_eq!(reserve(ForceSet, OTHER, &[OTHER]), Ok(vec![OTHER]));
    assert_eq!(reserve(Set, CLIENT, &[]), Err(AoeError::Reserved));
    assert_eq!(reserve(Set, OTHER, &[]), Ok(vec![]), "a release");
    assert_eq!(reserve(Unknown(3), OTHER, &[]), Err(AoeError::BadArgument));
}

#[test]
fn a_reserved_export_answers_as_set_up() {
    for (on_refusal, expected) in [
        (OnRefusal::AtaError, Some(Ok(ABORTED))),
        (OnRefusal::AoeError, Some(Err(AoeError::Reserved))),
        (OnRefusal::Silent, None),
    ] {
        let mut bench = Bench::new(OPEN, |options| options.on_refusal = on_refusal);
        let header = Header { source: OTHER, ..header(Command::Reserve) };
        let set = ReserveMessage { header, command: ReserveCommand::Set, macs: vec![OTHER] };
        bench.send(&set.emit());
        bench.reply();
        for command in [AtaCommand::READ_EXT, AtaCommand::FLUSH_CACHE, AtaCommand(0xb0)] {
            bench.send(&ata(command, 0, 1).emit(Buffer::empty()));
            match expected {
                None => bench.silence(),
                Some(Err(error)) => assert_eq!(aoe_error(&bench.reply()), Some(error)),
                Some(Ok(ata)) => {
                    assert_eq!(registers(AtaReply::parse(&bench.reply()).unwrap().0), ata);
                }
            }
        }
        assert_eq!(registers(ask(&mut bench, ata(AtaCommand::IDENTIFY, 0, 1), &[]).0), OK);
    }
}

/// Rule 6: of a disk with an owner or a label, plain clients see that it is there, and no more.
#[test]
fn a_disk_of_a_pool_is_closed_to_plain_clients() {
    for ownership in [held(5, 1), Ownership::Unreadable, Ownership::Unclaimed { labelled: true }] {
        let mut bench = Bench::new(ownership, |_| ());
        bench.disk.fill(0x77);
        let (reply, data) = ask(&mut bench, ata(AtaCommand::IDENTIFY, 0, 1), &[]);
        assert_eq!((registers(reply), data.len()), (OK, 512));
        for command in [
            AtaCommand::READ,
            AtaCommand::READ_EXT,
            AtaCommand::WRITE,
            AtaCommand::WRITE_EXT,
            AtaCommand::FLUSH_CACHE,
            AtaCommand::CHECK_POWER_MODE,
        ] {
            let (reply, data) = ask(&mut bench, ata(command, 0, 1), &[0; 512]);
            assert_eq!((registers(reply), data.len()), (ABORTED, 0));
        }
        bench.send(&ConfigMessage::request(header(Command::Config), ConfigCommand::Read).emit(b""));
        assert_eq!(aoe_error(&bench.reply()), None);
        bench.send(&edit(&[(DirectiveCommand::Add, OTHER)]).emit());
        assert_eq!(aoe_error(&bench.reply()), Some(AoeError::UnrecognisedCommand));
        let reserve = ReserveMessage {
            header: header(Command::Reserve),
            command: ReserveCommand::ForceSet,
            macs: vec![OTHER],
        };
        bench.send(&reserve.emit());
        assert_eq!(aoe_error(&bench.reply()), Some(AoeError::UnrecognisedCommand));
        assert!(bench.disk.iter().all(|byte| *byte == 0x77));
    }
}

#[test]
fn the_queue_is_bounded_and_what_exceeds_it_is_counted() {
    let mut bench = Bench::new(OPEN, |_| ());
    for i in 0..5000 {
        bench.send(&ata(AtaCommand::READ_EXT, i % SECTORS, 1).emit(Buffer::empty()));
    }
    let status = bench.target.export_status(bench.export).unwrap();
    assert_eq!(status.queued, 2048);
    assert_eq!(status.stats[Counter::QueueFull], 5000 - 2048);
    bench.serve();
    assert_eq!(bench.sent.len(), 2048);
    assert_eq!(bench.target.export_status(bench.export).unwrap().queued_bytes, 0);
}

#[test]
fn exports_come_and_go() {
    let mut bench = Bench::new(OPEN, |_| ());
    let taken = bench.target.add_export(
        ExportOptions::new(ADDRESS, "x"),
        device(OPEN),
        Abilities::default(),
    );
    assert_eq!(taken, Err(AddExportError::AddressInUse(ADDRESS)));
    let any = bench.target.add_export(
        ExportOptions::new(ShelfSlot::ANY, "x"),
        device(OPEN),
        Abilities::default(),
    );
    assert_eq!(any, Err(AddExportError::InvalidAddress(ShelfSlot::ANY)));
    bench.send(&ata(AtaCommand::READ_EXT, 0, 1).emit(Buffer::empty()));
    let asked = bench.io.pop_front().unwrap();
    assert!(bench.target.remove_export(bench.export));
    assert!(!bench.target.remove_export(bench.export));
    bench.complete(asked.id, Ok(Answer::Data(Buffer::zeroed(512))));
    bench.send(&ata(AtaCommand::READ_EXT, 0, 1).emit(Buffer::empty()));
    bench.silence();
    assert_eq!(bench.target.stats().not_ours, 1);
    let again = bench
        .target
        .add_export(ExportOptions::new(ADDRESS, "y"), device(OPEN), Abilities::default())
        .unwrap();
    assert_ne!(again, bench.export);
}

#[test]
fn an_export_answers_where_it_is_to() {
    let mut bench = Bench::new(OPEN, |options| {
        options.reach = Reach::Ports(["eth1".to_owned()].into());
    });
    bench.silence();
    let query = ConfigMessage::request(header(Command::Config), ConfigCommand::Read).emit(b"");
    bench.send(&query);
    bench.silence();
    bench.target.set_port(PortId(2), "eth1".into(), SERVER, 1500);
    bench.collect();
    assert_eq!(bench.reply()[..6], MacAddr::BROADCAST.0);
    bench.target.handle_frame(bench.now, PortId(2), &query.head);
    bench.collect();
    assert_eq!(bench.reply()[..6], CLIENT.0);
}
