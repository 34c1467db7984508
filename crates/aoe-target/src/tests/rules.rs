//! The protocol's rules as one table each (aoe.md 1.1 to 1.6): what initiators of all ages send is
//! taken as they send it, and what goes out is exact.

use block::Lba;
use proptest::prelude::*;

use super::*;

fn flat(frame: &Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

fn ata(command: AtaCommand, lba: u64, count: u8, data: usize) -> Vec<u8> {
    let request = AtaRequest::new(header(Command::Ata), command, Lba(lba), count);
    flat(&request.emit(Buffer::copy_of(&vec![0x5a; data])))
}

fn config(command: ConfigCommand, string: &[u8]) -> Vec<u8> {
    flat(&ConfigMessage::request(header(Command::Config), command).emit(string))
}

fn mask(command: MaskCommand, directives: &[Directive]) -> Vec<u8> {
    let (header, error) = (header(Command::Mask), MaskError::None);
    let (count, directives) = (directives.len() as u8, directives.to_vec());
    flat(&MaskMessage { header, command, error, count, directives }.emit())
}

fn reserve(command: ReserveCommand, macs: &[MacAddr]) -> Vec<u8> {
    let header = header(Command::Reserve);
    flat(&ReserveMessage { header, command, macs: macs.to_vec() }.emit())
}

/// Every kind of request that there is, exact to the byte.
pub(super) fn requests() -> Vec<Vec<u8>> {
    let add = Directive { command: DirectiveCommand::Add, mac: CLIENT };
    vec![
        config(ConfigCommand::Read, b""),
        config(ConfigCommand::Test, b"abc"),
        config(ConfigCommand::TestPrefix, b"ab"),
        config(ConfigCommand::Set, b"abc"),
        config(ConfigCommand::ForceSet, b"new"),
        mask(MaskCommand::Read, &[]),
        mask(MaskCommand::Edit, &[add, add]),
        reserve(ReserveCommand::Read, &[]),
        reserve(ReserveCommand::Set, &[CLIENT]),
        reserve(ReserveCommand::ForceSet, &[CLIENT, OTHER]),
        ata(AtaCommand::IDENTIFY, 0, 1, 0),
        ata(AtaCommand::READ, 7, 2, 0),
        ata(AtaCommand::READ_EXT, 7, 2, 0),
        ata(AtaCommand::WRITE, 7, 2, 1024),
        ata(AtaCommand::WRITE_EXT, 7, 2, 1024),
        ata(AtaCommand::FLUSH_CACHE, 0, 0, 0),
        ata(AtaCommand::FLUSH_CACHE_EXT, 0, 0, 0),
        ata(AtaCommand::CHECK_POWER_MODE, 0, 0, 0),
        ata(AtaCommand::SMART, 0, 1, 0),
        ata(AtaCommand(0x91), 0, 1, 0),
        ata(AtaCommand::READ_EXT, SECTORS, 2, 0),
    ]
}

/// What a fresh target answers, and what its disk is then.
fn outcome(frame: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut bench = Bench::new(OPEN, |options| {
        options.remembered.config_string = b"abc".to_vec();
    });
    bench.disk.fill(0x11);
    bench.frame(frame);
    bench.serve();
    (bench.sent.into(), bench.disk)
}

#[test]
fn length_makes_no_difference() {
    for exact in requests() {
        let expected = outcome(&exact);
        assert_eq!(expected.0.len(), 1, "{exact:x?}");
        // To the least that Ethernet takes, to what aoeping and aoecfg send, to the MTU; and what is
        // there is as often junk as zeros.
        for len in [exact.len() + 1, 60, 1056, 1060, 9014] {
            for junk in [0, 0xee] {
                let mut longer = exact.clone();
                longer.resize(len.max(exact.len()), junk);
                assert_eq!(outcome(&longer), expected, "{len} {exact:x?}");
            }
        }
    }
}

/// Reserved since r8, must be zero since r11: of older and of careless clients they aren't.
#[test]
fn reserved_bits_make_no_difference() {
    for exact in requests() {
        let expected = outcome(&exact);
        let command = exact[19];
        let reserved: &[(usize, u8)] = match command {
            0 => &[(14, 0x01), (14, 0x02), (15, 0xff), (24, 0x80), (24, 0x20), (34, 0xff)],
            1 => &[(14, 0x01), (14, 0x03), (15, 0xff), (24, 0xff), (26, 0xff), (28, 0xff)],
            2 => &[(14, 0x01), (14, 0x03), (15, 0xff), (24, 0xff), (26, 0xff)],
            _ => &[(14, 0x01), (14, 0x03), (15, 0xff)],
        };
        for (at, bits) in reserved {
            let mut odd = exact.clone();
            odd[*at] |= bits;
            assert_eq!(outcome(&odd), expected, "byte {at} {exact:x?}");
        }
        // The high nibble beside the config command.
        if command == 1 {
            let mut odd = exact.clone();
            odd[29] |= 0xf0;
            assert_eq!(outcome(&odd), expected);
        }
    }
}

#[test]
fn what_every_answer_has() {
    for frame in requests() {
        for tag in [0u32, 0x7fff_ffff, 0x8000_0000, 0xdead_beef] {
            for destination in [SERVER, MacAddr::BROADCAST] {
                let mut asked = frame.clone();
                asked[..6].copy_from_slice(&destination.0);
                asked[20..24].copy_from_slice(&tag.to_be_bytes());
                let (answers, _) = outcome(&asked);
                let [answer] = answers.as_slice() else { panic!("{answers:x?}") };
                assert_eq!(answer[..6], CLIENT.0);
                assert_eq!(answer[6..12], SERVER.0);
                assert_eq!(answer[12..14], [0x88, 0xa2]);
                assert_eq!((answer[14] & !0x04, answer[16..19].to_vec()), (0x18, vec![0, 194, 3]));
                assert_eq!(answer[19], frame[19], "the command");
                assert_eq!(answer[20..24], tag.to_be_bytes());
                assert_eq!(answer[15] == 0, answer[14] & 0x04 == 0, "a code with the flag only");
                if frame[19] == 0 {
                    assert_eq!(answer[34..36], [0, 0]);
                }
            }
        }
    }
}

/// Each wildcard on its own, for every command; every export that is meant answers, by its name.
#[test]
fn wildcards_reach_all_that_match() {
    let others = [ShelfSlot::new(194, 4), ShelfSlot::new(7, 3), ShelfSlot::new(7, 9)];
    for frame in requests() {
        for (shelf, slot) in [(0xffff, 0xff), (0xffff, 3), (194, 0xff), (194, 3), (0xffff, 77)] {
            let mut bench = Bench::new(OPEN, |_| ());
            for address in others {
                let options = ExportOptions::new(address, "another");
                bench.target.add_export(options, device(OPEN), Abilities::default()).unwrap();
            }
            bench.collect();
            bench.sent.clear();
            let mut asked = frame.clone();
            asked[16..18].copy_from_slice(&u16::to_be_bytes(shelf));
            asked[18] = slot;
            bench.frame(&asked);
            bench.serve();
            let mut told: Vec<ShelfSlot> =
                bench.sent.iter().map(|frame| Header::parse(frame).unwrap().address).collect();
            told.sort();
            let meant = |own: &ShelfSlot| ShelfSlot { shelf, slot }.matches(*own);
            // Tests of a string that only the first has are answered by none here.
            let tests = frame[19] == 1 && matches!(frame[29] & 0x0f, 1 | 2);
            let mut expected: Vec<ShelfSlot> =
                others.into_iter().chain([ADDRESS]).filter(meant).filter(|_| !tests).collect();
            expected.sort();
            assert_eq!(told, expected, "{shelf:#x}.{slot:#x} {frame:x?}");
        }
    }
}

#[test]
fn the_ata_command_counts_and_not_the_flags() {
    // AFlags: extended, device, asynchronous, write, in all combinations that initiators send.
    for flags in [0x00, 0x01, 0x02, 0x03, 0x10, 0x40, 0x41, 0x42, 0x50, 0x51] {
        for (command, data) in [
            (AtaCommand::READ, 0),
            (AtaCommand::READ_EXT, 0),
            (AtaCommand::WRITE, 512),
            (AtaCommand::WRITE_EXT, 512),
        ] {
            let mut frame = ata(command, 9, 1, data);
            frame[24] = flags;
            // Device bits for 28-bit commands, as Linux and iPXE have them.
            frame[31] = if command.is_extended() { 0 } else { 0xe0 };
            let (answers, disk) = outcome(&frame);
            let [answer] = answers.as_slice() else { panic!("{answers:x?}") };
            assert_eq!((answer[14], answer[27]), (0x18, 0x40), "{command} {flags:#x}");
            let written = data > 0;
            assert_eq!(disk[9 * 512], if written { 0x5a } else { 0x11 });
            assert_eq!(answer.len(), if written { 36 } else { 36 + 512 });
        }
    }
    // Whether a write may be answered early is the administrator's to say, not the client's.
    let mut bench = Bench::new(OPEN, |_| ());
    let mut frame = ata(AtaCommand::WRITE_EXT, 9, 1, 512);
    frame[24] |= 0x02;
    bench.frame(&frame);
    assert!(bench.sent.is_empty());
    let asked = bench.io.pop_front().unwrap();
    assert!(
        matches!(asked.operation, IoOperation::Device(block::Operation::Write { durability, .. })
        if durability == block::Durability::Durable)
    );
}

/// Shelf and slot at their ends; 4095 is an address like any other.
#[test]
fn addresses_at_their_ends() {
    for (shelf, slot) in [(0, 0), (4095, 255 - 1), (65534, 0)] {
        let address = ShelfSlot::new(shelf, slot);
        let mut bench = Bench::new(OPEN, |options| options.address = address);
        let mut asked = config(ConfigCommand::Read, b"");
        asked[16..18].copy_from_slice(&shelf.to_be_bytes());
        asked[18] = slot;
        bench.frame(&asked);
        assert_eq!(Header::parse(&bench.reply()).unwrap().address, address);
    }
}

/// All occasions, and what each frame is: a config response with tag 0, which Linux wants.
#[test]
fn every_announcement() {
    let mut bench = Bench::new(OPEN, |_| ());
    let mut announced = |act: &dyn Fn(&mut Target, ExportId)| {
        act(&mut bench.target, bench.export);
        bench.collect();
        let said: Vec<Vec<u8>> = bench.sent.drain(..).collect();
        for frame in &said {
            assert_eq!((frame[14], frame[19], &frame[20..24]), (0x18, 1, &[0; 4][..]));
            assert_eq!((&frame[16..19], frame[29]), (&[0, 194, 3][..], 0x10));
        }
        said.iter().map(|frame| frame[..6].to_vec()).collect::<Vec<_>>()
    };
    let all = MacAddr::BROADCAST.0.to_vec();
    let options = |change: fn(&mut ExportOptions)| {
        let mut options = ExportOptions::new(ADDRESS, "disk");
        change(&mut options);
        options
    };
    let resized = |sectors| {
        let mut device = device(OPEN);
        device.geometry.sectors = sectors;
        device
    };
    let once = std::slice::from_ref(&all);
    assert_eq!(announced(&|target, id| target.announce(id)), once);
    let mtu = |target: &mut Target, _| target.set_port(PORT, "eth0".into(), SERVER, 1500);
    assert_eq!(announced(&mtu), once);
    let port = |target: &mut Target, _| target.set_port(PortId(2), "eth1".into(), OTHER, 1500);
    assert_eq!(announced(&port), once);
    let both = [all.clone(), all.clone()];
    assert_eq!(announced(&|target, id| target.set_device(id, resized(2000))), both);
    assert!(announced(&|target, id| target.set_device(id, resized(2000))).is_empty());
    let set = |change: fn(&mut ExportOptions)| {
        move |target: &mut Target, id| target.set_options(id, options(change)).unwrap()
    };
    assert_eq!(announced(&set(|options| options.sectors_max = Some(2))), both);
    assert!(announced(&set(|options| options.sectors_max = Some(2))).is_empty());
    assert_eq!(announced(&set(|options| options.buffer_count = 16)), both);
    assert!(
        announced(&set(|options| {
            (options.buffer_count, options.trace, options.read_only) = (16, true, true);
        }))
        .is_empty()
    );
    assert!(announced(&set(|options| options.announce = false)).is_empty());
    assert!(announced(&|target, id| target.announce(id)).is_empty());
    assert!(announced(&|target, id| target.set_device(id, resized(3000))).is_empty());
    let reach = |options: &mut ExportOptions| {
        options.reach = Reach::Ports(["eth1".to_owned()].into());
    };
    assert_eq!(announced(&set(reach)), once);
    assert!(announced(&|target, id| assert!(target.remove_export(id))).is_empty());
}

/// The two frames that end vblade 25: its mask list has room for one directive, and believes a count.
#[test]
fn what_vblade_dies_of() {
    let add =
        |last| Directive { command: DirectiveCommand::Add, mac: MacAddr([2, 0, 0, 0, 7, last]) };
    let two = mask(MaskCommand::Edit, &[add(1), add(2)]);
    assert_eq!(two.len(), 44);
    let mut lying = mask(MaskCommand::Edit, &[add(1)]);
    lying[27] = 255;
    let mut bench = Bench::new(OPEN, |_| ());
    bench.frame(&lying);
    let answer = bench.reply();
    assert_eq!(Header::parse(&answer).unwrap().error, Some(AoeError::BadArgument));
    assert!(bench.target.export_status(bench.export).unwrap().remembered.mask.is_empty());
    bench.frame(&two);
    let reply = MaskMessage::parse(&bench.reply()).unwrap();
    assert_eq!((reply.error, reply.count, reply.directives.len()), (MaskError::None, 2, 2));
}

proptest! {
    /// No string that a client may set, and no list, is told otherwise than it was set; nothing of
    /// one request is seen in the answer to another.
    #[test]
    fn what_is_set_is_told(
        string in prop::collection::vec(any::<u8>(), 0..1100),
        macs in prop::collection::vec(any::<[u8; 6]>(), 0..255),
    ) {
        let mut bench = Bench::new(OPEN, |_| ());
        bench.frame(&ata(AtaCommand::WRITE_EXT, 0, 16, 8192));
        bench.serve();
        bench.sent.clear();
        let fits = string.len() <= 1024;
        if fits {
            bench.frame(&config(ConfigCommand::ForceSet, &string));
            prop_assert_eq!(bench.sent.drain(..).len(), 1);
        }
        bench.frame(&config(ConfigCommand::Read, b""));
        let answer = bench.reply();
        let expected: &[u8] = if fits { &string } else { b"" };
        prop_assert_eq!(answer.len(), 32 + expected.len());
        prop_assert_eq!(&answer[32..], expected);
        let macs: Vec<MacAddr> = macs.into_iter().map(MacAddr).collect();
        bench.frame(&reserve(ReserveCommand::ForceSet, &macs));
        bench.sent.clear();
        bench.frame(&reserve(ReserveCommand::Read, &[]));
        let answer = bench.reply();
        prop_assert_eq!(ReserveMessage::parse(&answer).unwrap().macs, macs.clone());
        prop_assert_eq!(answer.len(), 26 + 6 * macs.len());
    }
}
