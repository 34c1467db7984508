//! The administrator's rules: what is refused, to whom, and how it is told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::session::connect;
use super::*;

const BOTH: [MacAddr; 2] = [CLIENT, OTHER];

fn policy(operation: AccessOperation, accept: &[MacAddr], deny: &[MacAddr]) -> AccessPolicy {
    let rule = AccessRule {
        accept: accept.iter().copied().collect(),
        deny: deny.iter().copied().collect(),
    };
    AccessPolicy { default: Access::Accept, rules: BTreeMap::from([(operation, rule)]) }
}

/// The answer to a frame, if there is one. The disk answers at once.
fn ask(bench: &mut Bench, frame: &Frame) -> Option<Vec<u8>> {
    bench.send(frame);
    bench.serve();
    assert!(bench.sent.len() <= 1);
    bench.sent.pop_front()
}

fn from(source: MacAddr, destination: MacAddr, address: ShelfSlot, command: Command) -> Header {
    Header::request(destination, source, address, command, 7)
}

fn config(header: Header, command: ConfigCommand) -> Frame {
    ConfigMessage::request(header, command).emit(b"abc")
}

fn plain(source: MacAddr, command: AtaCommand, count: u8) -> Frame {
    let header = from(source, SERVER, ADDRESS, Command::Ata);
    let data = Buffer::zeroed(usize::from(count) * 512);
    AtaRequest::new(header, command, block::Lba(0), count).emit(data)
}

/// What each question is answered by, when one operation is denied to the client.
#[test]
fn each_operation_by_itself() {
    use AccessOperation as A;
    let wild = |shelf, slot| ShelfSlot::new(shelf, slot);
    let query = |destination, address, command| {
        config(from(CLIENT, destination, address, Command::Config), command)
    };
    let mask = MaskMessage {
        header: from(CLIENT, SERVER, ADDRESS, Command::Mask),
        command: MaskCommand::Read,
        error: MaskError::None,
        count: 0,
        directives: vec![],
    };
    let reserve = ReserveMessage {
        header: from(CLIENT, SERVER, ADDRESS, Command::Reserve),
        command: ReserveCommand::Read,
        macs: vec![],
    };
    let scan = AtaRequest::new(
        from(CLIENT, MacAddr::BROADCAST, ShelfSlot::ANY, Command::Ata),
        AtaCommand::IDENTIFY,
        block::Lba(0),
        1,
    );
    let here = MacAddr::BROADCAST;
    #[rustfmt::skip]
    let silent: [(Frame, &[AccessOperation]); 15] = [
        (query(here, ShelfSlot::ANY, ConfigCommand::Read), &[A::Discover]),
        (query(here, wild(194, 0xff), ConfigCommand::Read), &[A::Discover]),
        (query(SERVER, wild(0xffff, 3), ConfigCommand::Read), &[A::Discover]),
        (query(here, ADDRESS, ConfigCommand::Read), &[A::Discover]),
        (query(SERVER, ADDRESS, ConfigCommand::Read), &[A::ConfigRead]),
        (query(SERVER, ADDRESS, ConfigCommand::Test), &[A::ConfigRead]),
        (query(SERVER, ADDRESS, ConfigCommand::TestPrefix), &[A::ConfigRead]),
        (query(here, ShelfSlot::ANY, ConfigCommand::Test), &[A::Discover, A::ConfigRead]),
        (query(SERVER, ADDRESS, ConfigCommand::Set), &[A::ConfigSet]),
        (query(SERVER, ADDRESS, ConfigCommand::ForceSet), &[A::ConfigSet]),
        (query(here, ShelfSlot::ANY, ConfigCommand::ForceSet), &[A::Discover, A::ConfigSet]),
        (mask.emit(), &[A::ConfigRead]),
        (reserve.emit(), &[A::ConfigRead]),
        (scan.emit(Buffer::empty()), &[A::Discover, A::Read]),
        (plain(CLIENT, AtaCommand::CHECK_POWER_MODE, 0), &[]),
    ];
    for (frame, silenced_by) in silent {
        for operation in AccessOperation::ALL {
            let mut bench = Bench::new(OPEN, |options| {
                options.access = policy(operation, &[], &[CLIENT]);
                options.remembered.config_string = b"abc".to_vec();
            });
            let answered = ask(&mut bench, &frame).is_some();
            assert_eq!(answered, !silenced_by.contains(&operation), "{operation:?} {frame:?}");
            assert_eq!(bench.stats()[Counter::Denied], u64::from(!answered));
        }
    }
}

#[test]
fn refused_reads_and_writes_are_told_as_set_up() {
    use AccessOperation as A;
    let write = |command| matches!(command, AtaCommand::WRITE | AtaCommand::WRITE_EXT);
    for operation in [A::Read, A::Write] {
        for command in [
            AtaCommand::READ,
            AtaCommand::READ_EXT,
            AtaCommand::WRITE,
            AtaCommand::WRITE_EXT,
            AtaCommand::IDENTIFY,
            AtaCommand::FLUSH_CACHE,
            AtaCommand::SMART,
        ] {
            let refused = write(command) == (operation == A::Write);
            for (on_refusal, told) in [
                (OnRefusal::AtaError, Some((0x18, 0x41))),
                (OnRefusal::AoeError, Some((0x1c, 0))),
                (OnRefusal::Silent, None),
            ] {
                let mut bench = Bench::new(OPEN, |options| {
                    options.access = policy(operation, &[OTHER], &[]);
                    options.on_refusal = on_refusal;
                });
                bench.disk.fill(7);
                let mut heard = |source| {
                    ask(&mut bench, &plain(source, command, 1)).map(|b| (b[14], b[27], b.len()))
                };
                let allowed = heard(OTHER);
                let answer = heard(CLIENT);
                if refused {
                    let short = answer.is_none_or(|(_, _, len)| len == 36);
                    assert_eq!(answer.map(|(flags, status, _)| (flags, status)), told);
                    assert!(short, "no data goes out");
                } else {
                    assert_eq!(answer, allowed, "{operation:?} {command}");
                }
                let unchanged = bench.disk.iter().all(|byte| *byte == 7);
                assert_eq!(unchanged, !write(command));
            }
        }
    }
}

#[test]
fn a_refused_write_leaves_the_disk() {
    let mut bench = Bench::new(OPEN, |options| {
        options.access = policy(AccessOperation::Write, &[OTHER], &[]);
    });
    bench.disk.fill(7);
    ask(&mut bench, &plain(CLIENT, AtaCommand::WRITE_EXT, 4));
    assert!(bench.disk.iter().all(|byte| *byte == 7) && bench.io.is_empty());
    assert_eq!(bench.stats()[Counter::Refused], 1);
}

/// Who may do nothing can't tell an export from an empty wire, but for what it asks of the disk.
#[test]
fn to_strangers_nothing_is_there() {
    let mut bench = Bench::new(OPEN, |options| {
        options.access = AccessPolicy { default: Access::Reject, rules: BTreeMap::new() };
        options.on_refusal = OnRefusal::Silent;
    });
    for command in (0..=255).filter(|raw| *raw != 0xf0) {
        for version in [0x10, 0x20, 0xf0] {
            let header = Header::request(SERVER, CLIENT, ADDRESS, Command::from(command), 1);
            let frame = config(Header { command: Command::Config, ..header }, ConfigCommand::Read);
            let mut bytes = frame.head.to_vec();
            bytes[14] = version;
            bytes[19] = command;
            // Full and cut short: errors are answers too.
            bench.frame(&bytes[..24]);
            bytes.extend([0; 40]);
            bench.frame(&bytes);
            if !bench.sent.is_empty() {
                // A malformed ATA command is told so.
                panic!("command {command} version {version:#x}: {:?}", bench.sent);
            }
        }
    }
}

#[test]
fn announcements_reach_only_those_who_may_know() {
    use AccessOperation as A;
    let reject = AccessPolicy { default: Access::Reject, rules: BTreeMap::new() };
    let all: &[MacAddr] = &[MacAddr::BROADCAST];
    for (access, mask, expected) in [
        (AccessPolicy::default(), &[][..], all),
        (policy(A::Write, &[CLIENT], &[]), &[], all),
        (policy(A::Discover, &[OTHER, CLIENT], &[]), &[], &BOTH),
        (policy(A::Discover, &[OTHER, CLIENT], &[OTHER]), &[], &[CLIENT]),
        (policy(A::Discover, &[], &[OTHER]), &[], &[]),
        (reject, &[], &[]),
        (AccessPolicy::default(), &BOTH, &BOTH),
        (policy(A::Discover, &[], &[OTHER]), &BOTH, &[CLIENT]),
        (policy(A::Discover, &[OTHER], &[]), &[CLIENT], &[]),
    ] {
        let mut bench = Bench::new(OPEN, |options| {
            options.access = access.clone();
            options.remembered.mask = mask.to_vec();
        });
        bench.target.announce(bench.export);
        bench.collect();
        let told: Vec<MacAddr> =
            bench.sent.iter().map(|frame| Header::parse(frame).unwrap().destination).collect();
        assert_eq!(told, expected, "{access:?} {mask:?}");
    }
}

/// Else whoever edited the list of a disk before it was taken into a pool would hide it from its owner.
#[test]
fn an_owner_hears_of_its_disk_whatever_the_mask() {
    for (ownership, told) in [(OPEN, CLIENT), (held(5, 1), MacAddr::BROADCAST)] {
        let mut bench = Bench::new(ownership, |options| options.remembered.mask = vec![CLIENT]);
        bench.target.announce(bench.export);
        bench.collect();
        assert_eq!(bench.reply()[..6], told.0);
    }
}

#[test]
fn where_some_are_denied_the_others_are_told_who_have_been_here() {
    let mut bench = Bench::new(OPEN, |options| {
        options.access = policy(AccessOperation::Discover, &[], &[OTHER]);
    });
    for source in BOTH {
        ask(&mut bench, &plain(source, AtaCommand::READ_EXT, 1));
    }
    bench.target.announce(bench.export);
    bench.collect();
    assert_eq!(bench.reply()[..6], CLIENT.0);
}

#[test]
fn who_may_search_but_not_read_the_string_doesnt_get_it() {
    let mut bench = Bench::new(OPEN, |options| {
        options.remembered.config_string = b"secret".to_vec();
        options.access = policy(AccessOperation::ConfigRead, &[OTHER], &[]);
    });
    for (source, expected) in [(CLIENT, &b""[..]), (OTHER, b"secret")] {
        let header = from(source, MacAddr::BROADCAST, ShelfSlot::ANY, Command::Config);
        let answer = ask(&mut bench, &config(header, ConfigCommand::Read)).unwrap();
        assert_eq!(ConfigMessage::parse(&answer).unwrap().1, expected);
    }
    bench.target.announce(bench.export);
    bench.collect();
    assert_eq!(ConfigMessage::parse(&bench.reply()).unwrap().1, b"");
}

#[test]
fn only_editors_change_the_lists() {
    let only = ListEditors::Only(BTreeSet::from([OTHER]));
    for (editors, client_may, other_may) in
        [(ListEditors::All, true, true), (ListEditors::Nobody, false, false), (only, false, true)]
    {
        for (source, may) in [(CLIENT, client_may), (OTHER, other_may)] {
            let mut bench = Bench::new(OPEN, |options| options.list_editors = editors.clone());
            let edit = MaskMessage {
                header: from(source, SERVER, ADDRESS, Command::Mask),
                command: MaskCommand::Edit,
                error: MaskError::None,
                count: 1,
                directives: vec![Directive { command: DirectiveCommand::Add, mac: source }],
            };
            let reserve = ReserveMessage {
                header: from(source, SERVER, ADDRESS, Command::Reserve),
                command: ReserveCommand::ForceSet,
                macs: vec![source],
            };
            let expected = (!may).then_some(AoeError::BadArgument);
            for frame in [edit.emit(), reserve.emit()] {
                let answer = ask(&mut bench, &frame).unwrap();
                assert_eq!(Header::parse(&answer).unwrap().error, expected, "{editors:?}");
            }
            let remembered = bench.target.export_status(bench.export).unwrap().remembered;
            let list = if may { vec![source] } else { vec![] };
            assert_eq!((remembered.mask, remembered.reserved), (list.clone(), list));
            // Looking is another matter.
            let look = MaskMessage { command: MaskCommand::Read, ..edit };
            assert!(ask(&mut bench, &look.emit()).is_some());
        }
    }
}

/// Else a session would be the way around every list.
#[test]
fn sessions_are_bound_too() {
    let write = |session| SessionRequest {
        session,
        instance: Instance(77),
        epoch: block::Epoch(5),
        sequence: 1,
        sectors: 1,
        ..SessionRequest::new(header(Command::Session), Operation::Write)
    };
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello)
        .emit(OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([2; 16])));

    let denied = policy(AccessOperation::Write, &[OTHER], &[]);
    let mut bench = Bench::new(held(5, 1), |options| options.access = denied);
    let session = connect(&mut bench, 1);
    let answer = ask(&mut bench, &write(session).emit(Buffer::zeroed(512))).unwrap();
    let (reply, _) = SessionReply::parse(&answer).unwrap();
    assert_eq!((reply.status, reply.detail), {
        let (status, detail) = Status::of(IoError::Refused(block::RefusalReason::AccessDenied));
        (status, detail)
    });

    let denied = policy(AccessOperation::Read, &[OTHER], &[]);
    let mut bench = Bench::new(held(5, 1), |options| options.access = denied.clone());
    assert_eq!(ask(&mut bench, &hello), None);
    bench.target.trust_port(PORT);
    assert!(ask(&mut bench, &hello).is_some(), "this machine's own programs are always heard");

    // A mask keeps sessions out of a disk without owner, and is nothing to an owner.
    for (ownership, heard) in [(OPEN, false), (held(5, 1), true)] {
        let mut bench = Bench::new(ownership, |options| options.remembered.mask = vec![OTHER]);
        assert_eq!(ask(&mut bench, &hello).is_some(), heard);
    }
    let mut bench = Bench::new(OPEN, |options| options.remembered.reserved = vec![OTHER]);
    let session = connect(&mut bench, 1);
    let claim = SessionRequest { operation: Operation::Claim, sectors: 0, ..write(session) };
    let answer =
        ask(&mut bench, &claim.emit(HolderPayload::emit_claim(owner(1), &block::Trust::Unchanged)))
            .unwrap();
    assert_eq!(SessionReply::parse(&answer).unwrap().0.status, Status::Refused);
}

#[test]
fn settings_change_while_requests_wait() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&plain(CLIENT, AtaCommand::READ_EXT, 1));
    let set = |bench: &mut Bench, change: fn(&mut ExportOptions)| {
        let mut options = ExportOptions::new(ADDRESS, "disk");
        change(&mut options);
        let done = bench.target.set_options(bench.export, options);
        bench.collect();
        done
    };
    assert_eq!(set(&mut bench, |_| ()), Ok(()));
    bench.sent.clear();
    let lasting = |options: &mut ExportOptions| {
        options.access = policy(AccessOperation::Read, &[OTHER], &[]);
        options.remembered.config_string = b"ignored".to_vec();
    };
    assert_eq!(set(&mut bench, lasting), Ok(()));
    assert_eq!(bench.reply()[..6], MacAddr::BROADCAST.0, "announced anew");
    bench.serve();
    assert_eq!(bench.reply()[27], 0x40, "what waited is answered");
    bench.send(&plain(CLIENT, AtaCommand::READ_EXT, 1));
    assert_eq!(bench.reply()[27], 0x41);
    let status = bench.target.export_status(bench.export).unwrap();
    assert!(status.remembered.config_string.is_empty());
    let moved = |options: &mut ExportOptions| options.address = ShelfSlot::new(1, 1);
    assert_eq!(set(&mut bench, moved), Err(SetOptionsError::OtherAddress));
    bench.target.remove_export(bench.export);
    assert_eq!(set(&mut bench, |_| ()), Err(SetOptionsError::NoSuchExport));
}

/// The rules in one line each, from the bytes alone: what is heard, and what is refused aloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Silence,
    Refused,
    Heard,
}

fn foretold(frame: &[u8], may: impl Fn(AccessOperation) -> bool, is_editor: bool) -> Fate {
    use AccessOperation as A;
    let wild = frame[16..18] == [0xff, 0xff] || frame[18] == 0xff;
    let search = wild || frame[19] == 1 && frame[0] & 1 != 0;
    if search && !may(A::Discover) {
        return Fate::Silence;
    }
    let (needed, aloud) = match (frame[19], frame[29] & 0x0f, frame[27], frame[25]) {
        (1, 0, _, _) if search => return Fate::Heard,
        (1, 3 | 4, _, _) => (A::ConfigSet, false),
        (1, _, _, _) => (A::ConfigRead, false),
        (2 | 3, _, _, _) if is_editor => return Fate::Heard,
        (2 | 3, _, _, _) => (A::ConfigRead, false),
        (0, _, 0x30 | 0x34 | 0xef, _) => (A::Write, !wild),
        (0, _, 0xb0, 0xd4 | 0xd6 | 0xd8 | 0xd9) => (A::Write, !wild),
        _ => (A::Read, !wild),
    };
    match (may(needed), aloud) {
        (true, _) => Fate::Heard,
        (false, true) => Fate::Refused,
        (false, false) => Fate::Silence,
    }
}

fn lists() -> impl Strategy<Value = AccessPolicy> {
    let some = || prop::collection::btree_set(prop::sample::select(BOTH.to_vec()), 0..3);
    let rule = (some(), some()).prop_map(|(accept, deny)| AccessRule { accept, deny });
    let operation = prop::sample::select(AccessOperation::ALL.to_vec());
    let rules = prop::collection::btree_map(operation, rule, 0..5);
    (any::<bool>(), rules).prop_map(|(accept, rules)| {
        let default = if accept { Access::Accept } else { Access::Reject };
        AccessPolicy { default, rules }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn as_foretold(
        access in lists(),
        editors in prop::option::of(prop::sample::select(BOTH.to_vec())),
        client in prop::sample::select(BOTH.to_vec()),
        address in prop::sample::select(vec![(194u16, 3u8), (0xffff, 3), (194, 0xff), (0xffff, 0xff)]),
        to_all in any::<bool>(),
    ) {
        let list_editors = match editors {
            Some(editor) => ListEditors::Only(BTreeSet::from([editor])),
            None => ListEditors::All,
        };
        for mut frame in rules::requests() {
            frame.resize(frame.len().max(60), 0);
            frame[..6].copy_from_slice(&if to_all { MacAddr::BROADCAST } else { SERVER }.0);
            frame[6..12].copy_from_slice(&client.0);
            frame[16..18].copy_from_slice(&address.0.to_be_bytes());
            frame[18] = address.1;
            let mut bench = Bench::with(Abilities { remembers: true, smart: true }, OPEN, |options| {
                options.access = access.clone();
                options.list_editors = list_editors.clone();
                options.remembered.config_string = b"abc".to_vec();
                options.write_cache_switchable = true;
            });
            bench.disk.fill(0x11);
            bench.frame(&frame);
            bench.serve();
            let answer = bench.sent.pop_front();
            let denied = |set: &BTreeSet<MacAddr>| set.contains(&client);
            let may = |operation| match access.rules.get(&operation) {
                None => access.default == Access::Accept,
                Some(rule) => {
                    let listed = rule.accept.contains(&client);
                    let open = rule.accept.is_empty() && access.default == Access::Accept;
                    !denied(&rule.deny) && (listed || open)
                }
            };
            let fate = foretold(&frame, may, editors == Some(client));
            match fate {
                Fate::Silence => prop_assert!(answer.is_none(), "{:x?}", frame),
                Fate::Heard => prop_assert!(answer.is_some(), "{:x?}", frame),
                Fate::Refused => {
                    let bytes = answer.unwrap();
                    prop_assert_eq!((bytes[14], bytes[27], bytes[25]), (0x18, 0x41, 4));
                    prop_assert!(bytes[36..].iter().all(|byte| *byte == 0), "nothing of the disk");
                }
            }
            let untouched = bench.disk.iter().all(|byte| *byte == 0x11) && bench.stored.is_empty();
            prop_assert!(fate == Fate::Heard || untouched);
        }
    }
}
