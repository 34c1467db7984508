//! Who hears that others are shut out relies on it: nothing of theirs reaches the disk from then on.

use block::{Epoch, Lba};

use super::session::connect;
use super::*;

fn from(source: MacAddr, command: Command, tag: u32) -> Header {
    Header::request(SERVER, source, ADDRESS, command, tag)
}

fn write(source: MacAddr, lba: u64, byte: u8) -> Frame {
    let header = from(source, Command::Ata, u32::from(byte));
    let request = AtaRequest::new(header, AtaCommand::WRITE_EXT, Lba(lba), 1);
    request.emit(Buffer::copy_of(&[byte; 512]))
}

fn reserve(tag: u32, macs: &[MacAddr]) -> Frame {
    let header = from(CLIENT, Command::Reserve, tag);
    ReserveMessage { header, command: ReserveCommand::ForceSet, macs: macs.to_vec() }.emit()
}

fn mask(tag: u32, entries: &[(DirectiveCommand, MacAddr)]) -> Frame {
    let directives =
        entries.iter().map(|(command, mac)| Directive { command: *command, mac: *mac }).collect();
    MaskMessage {
        header: from(CLIENT, Command::Mask, tag),
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: entries.len() as u8,
        directives,
    }
    .emit()
}

/// The commands and tags of what was answered since.
fn answered(bench: &mut Bench) -> Vec<(Command, u32)> {
    let headers = bench.sent.drain(..).map(|frame| Header::parse(&frame).unwrap());
    headers.map(|header| (header.command, header.tag)).collect()
}

const SESSION: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);

/// The one change that a session can ask for while a disk has no owner.
fn claim(session: SessionId) -> Frame {
    let request = SessionRequest {
        session,
        instance: Instance(77),
        sequence: 1,
        epoch: Epoch(1),
        ..SessionRequest::new(from(SESSION, Command::Session, 1), Operation::Claim)
    };
    request.emit(HolderPayload::emit_claim(owner(1), &block::Trust::Unchanged))
}

#[test]
fn the_answer_waits_for_writes_of_others_that_are_with_the_device() {
    for shut in [reserve(9, &[CLIENT]), mask(9, &[(DirectiveCommand::Add, CLIENT)])] {
        let command = Header::parse(&shut.head).unwrap().command;
        let mut bench = Bench::new(OPEN, |_| ());
        bench.send(&write(OTHER, 1, 7));
        bench.send(&write(CLIENT, 2, 8));
        // Waits for the first, and so never runs.
        bench.send(&write(OTHER, 1, 9));
        let held: Vec<IoRequest> = bench.io.drain(..).collect();
        assert_eq!(held.len(), 2);
        bench.send(&shut);
        assert_eq!(answered(&mut bench), [], "another's write may still land");
        // Nothing else waits, and what is in force is so already.
        let query = ConfigMessage::request(from(CLIENT, Command::Config, 1), ConfigCommand::Read);
        bench.send(&query.emit(b""));
        assert_eq!(answered(&mut bench), [(Command::Config, 1)]);
        let set = ConfigMessage::request(from(CLIENT, Command::Config, 2), ConfigCommand::Set);
        bench.send(&set.emit(b"x"));
        assert_eq!(answered(&mut bench), [(Command::Config, 2)]);
        bench.send(&write(OTHER, 3, 10));
        assert!(bench.io.is_empty(), "shut out already");
        answered(&mut bench);
        // A repetition says no more than the first, and neither does another try.
        bench.send(&shut);
        bench.send(&match command {
            Command::Reserve => reserve(10, &[CLIENT]),
            _ => mask(10, &[(DirectiveCommand::Add, CLIENT)]),
        });
        assert_eq!(answered(&mut bench), []);
        // Its own write is nothing that it waits for.
        let [others, own] = held.try_into().unwrap();
        bench.io.extend([others]);
        bench.serve();
        let told = answered(&mut bench);
        assert_eq!(told.last_chunk(), Some(&[(command, 9), (command, 10)]), "{told:?}");
        bench.io.extend([own]);
        bench.serve();
        assert_eq!(answered(&mut bench), [(Command::Ata, 8)]);
        assert_eq!((bench.disk[512], bench.disk[1024], bench.disk[1536]), (7, 8, 0));
    }
}

/// It failed, or the disk is another one: then it doesn't land any more either.
#[test]
fn a_failed_write_is_over_too() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&write(OTHER, 1, 7));
    let held = bench.io.pop_front().unwrap();
    bench.send(&reserve(9, &[CLIENT]));
    bench.complete(held.id, Err(IoError::Lost));
    assert_eq!(answered(&mut bench).last(), Some(&(Command::Reserve, 9)));
}

/// Neighbours that were written together are written once more alone when that fails: those of who was
/// shut out meanwhile are not.
#[test]
fn what_is_tried_once_more_is_asked_once_more() {
    let mut bench = Bench::new(OPEN, |_| ());
    for lba in [10, 11, 12] {
        bench.target.handle_frame(bench.now, PORT, &{
            let frame = write(OTHER, lba, lba as u8);
            [frame.head.as_slice(), &frame.payload].concat()
        });
    }
    bench.collect();
    let held: Vec<IoRequest> = bench.io.drain(..).collect();
    assert_eq!(held.len(), 1, "joined");
    bench.send(&reserve(9, &[CLIENT]));
    assert_eq!(answered(&mut bench), []);
    for request in held {
        bench.complete(request.id, Err(IoError::Medium(block::SectorRange::new(Lba(10), 1))));
    }
    assert!(bench.io.is_empty());
    assert_eq!(answered(&mut bench).last(), Some(&(Command::Reserve, 9)));
}

/// What the administrator forbids is forbidden to commands, too, that wait for their turn.
#[test]
fn other_rules_are_for_those_who_wait_as_well() {
    let denied = |options: &mut ExportOptions| {
        let rule = AccessRule { deny: [OTHER].into(), ..AccessRule::default() };
        options.access.rules.insert(AccessOperation::Write, rule);
    };
    let read_only = |options: &mut ExportOptions| options.read_only = true;
    for change in [&denied as &dyn Fn(&mut ExportOptions), &read_only] {
        let mut bench = Bench::new(OPEN, |_| ());
        bench.send(&write(OTHER, 1, 7));
        bench.send(&write(OTHER, 1, 9));
        let mut options = ExportOptions::new(ADDRESS, "disk");
        change(&mut options);
        bench.target.set_options(bench.export, options).unwrap();
        bench.serve();
        let replies: Vec<Vec<u8>> = bench.sent.drain(..).collect();
        let failed = |bytes: &Vec<u8>| {
            let (reply, _) = AtaReply::parse(bytes).unwrap();
            (reply.header.tag, reply.is_failure())
        };
        let told: Vec<(u32, bool)> = replies
            .iter()
            .filter(|bytes| Header::parse(bytes).is_ok_and(|header| header.command == Command::Ata))
            .map(failed)
            .collect();
        assert_eq!(told, [(7, false), (9, true)]);
        assert_eq!(bench.disk[512], 7);
    }
}

#[test]
fn programs_of_this_machine_are_bound_by_no_list() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&reserve(1, &[CLIENT]));
    bench.send(&mask(2, &[(DirectiveCommand::Add, CLIENT)]));
    answered(&mut bench);
    bench.send(&write(OTHER, 1, 7));
    assert!(bench.io.is_empty() && bench.sent.is_empty());
    bench.target.trust_port(PORT);
    bench.send(&write(OTHER, 1, 8));
    bench.serve();
    assert_eq!(answered(&mut bench), [(Command::Ata, 8)]);
    assert_eq!(bench.disk[512], 8);
    // Nor does anybody wait for what they write.
    bench.send(&write(OTHER, 1, 9));
    bench.send(&reserve(3, &[CLIENT]));
    assert_eq!(answered(&mut bench), [(Command::Reserve, 3)]);
    bench.serve();
    assert_eq!(answered(&mut bench), [(Command::Ata, 9)]);
}

#[test]
fn nobody_waits_who_shuts_out_nobody() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&write(OTHER, 1, 7));
    bench.send(&reserve(9, &[CLIENT, OTHER]));
    bench.send(&mask(9, &[(DirectiveCommand::Add, OTHER), (DirectiveCommand::Add, CLIENT)]));
    assert_eq!(answered(&mut bench), [(Command::Reserve, 9), (Command::Mask, 9)]);
    // Off the list that it was on.
    bench.send(&mask(10, &[(DirectiveCommand::Delete, OTHER)]));
    assert_eq!(answered(&mut bench), []);
    bench.serve();
    assert_eq!(answered(&mut bench).last(), Some(&(Command::Mask, 10)));
}

/// A disk that hangs takes no changes from others, and no memory.
#[test]
fn waiting_answers_are_bounded_and_hold_up_no_change() {
    let mut bench = Bench::new(OPEN, |_| ());
    bench.send(&write(OTHER, 1, 7));
    for tag in 100..200 {
        bench.send(&reserve(tag, &[CLIENT]));
        bench.send(&reserve(tag, &[CLIENT]));
    }
    let set = ConfigMessage::request(from(CLIENT, Command::Config, 2), ConfigCommand::Set);
    bench.send(&set.emit(b"x"));
    assert_eq!(answered(&mut bench), [(Command::Config, 2)]);
    bench.serve();
    let tags: Vec<u32> = answered(&mut bench).iter().map(|(_, tag)| *tag).collect();
    assert_eq!(tags, std::iter::once(7).chain(100..132).collect::<Vec<_>>());
}

/// Whoever claimed the disk isn't bound by lists: who set them must not believe otherwise.
#[test]
fn a_claim_that_was_begun_comes_first() {
    let mut bench = Bench::new(OPEN, |_| ());
    let session = connect(&mut bench, 1);
    bench.send(&claim(session));
    assert_eq!(bench.io.len(), 1);
    bench.send(&reserve(9, &[CLIENT]));
    assert_eq!(answered(&mut bench), []);
    bench.serve();
    let told: Vec<_> = bench.sent.drain(..).map(|frame| Header::parse(&frame).unwrap()).collect();
    let told: Vec<_> = told.iter().map(|header| (header.command, header.error)).collect();
    let refused = (Command::Reserve, Some(AoeError::UnrecognisedCommand));
    assert_eq!(told, [(Command::Session, None), refused]);
}

/// What a session had asked for before others reserved the disk has no turn afterwards.
#[test]
fn a_session_that_was_shut_out_has_no_turn_any_more() {
    for (shut, told) in [
        (reserve(9, &[CLIENT]), Some(Status::Refused)),
        (mask(9, &[(DirectiveCommand::Add, CLIENT)]), None),
    ] {
        for trusted in [false, true] {
            let mut bench = Bench::new(OPEN, |_| ());
            let session = connect(&mut bench, 1);
            if trusted {
                bench.target.trust_port(PORT);
            }
            // A claim waits for what came before.
            bench.send(&write(CLIENT, 1, 7));
            bench.send(&claim(session));
            bench.send(&shut);
            assert_eq!(answered(&mut bench).len(), 1, "nothing of others is with the device");
            bench.serve();
            let said: Vec<Status> = bench
                .sent
                .drain(..)
                .filter_map(|frame| Some(SessionReply::parse(&frame).ok()?.0.status))
                .collect();
            let expected = if trusted { Some(Status::Ok) } else { told };
            assert_eq!(said, Vec::from_iter(expected));
            let status = bench.target.export_status(bench.export).unwrap();
            let holder = bench.target.holder(bench.export).unwrap();
            assert_eq!((holder.epoch, status.queued), (Epoch(u64::from(trusted)), 0));
            if trusted {
                continue;
            }
            // A repetition is answered as before, even if the client may again.
            bench.send(&reserve(10, &[]));
            bench.send(&mask(10, &[(DirectiveCommand::Delete, CLIENT)]));
            bench.sent.clear();
            bench.send(&claim(session));
            let (reply, _) =
                SessionReply::parse(&bench.reply()).map(|(r, p)| (r, p.len())).unwrap();
            assert_eq!(reply.status, Status::Refused);
            assert!(bench.io.is_empty());
        }
    }
}
