//! What clients leave with an export: stored before it is answered, in force only then.

use super::*;
use block::Answer;

const REMEMBERS: Abilities = Abilities { remembers: true, smart: false };

fn set(string: &[u8]) -> Frame {
    ConfigMessage::request(header(Command::Config), ConfigCommand::ForceSet).emit(string)
}

fn config_string(bytes: &[u8]) -> Vec<u8> {
    ConfigMessage::parse(bytes).unwrap().1.to_vec()
}

fn read() -> Frame {
    ConfigMessage::request(header(Command::Config), ConfigCommand::Read).emit(b"")
}

fn edit(macs: &[(DirectiveCommand, MacAddr)]) -> Frame {
    let directives =
        macs.iter().map(|(command, mac)| Directive { command: *command, mac: *mac }).collect();
    MaskMessage {
        header: header(Command::Mask),
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: macs.len() as u8,
        directives,
    }
    .emit()
}

fn reserve(macs: &[MacAddr]) -> Frame {
    let (header, command) = (header(Command::Reserve), ReserveCommand::Set);
    ReserveMessage { header, command, macs: macs.to_vec() }.emit()
}

#[test]
fn a_change_is_answered_when_it_is_stored_and_counts_from_then_on() {
    for (change, check) in [
        (set(b"new"), Remembered { config_string: b"new".to_vec(), ..Remembered::default() }),
        (
            edit(&[(DirectiveCommand::Add, CLIENT)]),
            Remembered { mask: vec![CLIENT], ..Remembered::default() },
        ),
        (reserve(&[OTHER]), Remembered { reserved: vec![OTHER], ..Remembered::default() }),
    ] {
        let mut bench = Bench::with(REMEMBERS, OPEN, |_| ());
        bench.send(&change);
        assert!(bench.sent.is_empty(), "answered too early");
        let state = |bench: &Bench| bench.target.export_status(bench.export).unwrap().remembered;
        assert_eq!(state(&bench), Remembered::default(), "in force too early");
        let asked = bench.io.pop_front().unwrap();
        assert!(matches!(&asked.operation, IoOperation::Remember(stored) if *stored == check));
        // Whose answer it is must not be taken for the device's instance.
        bench.target.handle_io_done(
            bench.now,
            asked.id,
            Ok(Completion::new(Instance::default(), IoValue::Device(Answer::Done))),
        );
        bench.collect();
        assert_eq!(Header::parse(&bench.reply()).unwrap().error, None);
        assert_eq!(state(&bench), check);
        let status = bench.target.export_status(bench.export).unwrap();
        assert_eq!((status.device.instance, status.queued), (Instance(77), 0));
    }
}

#[test]
fn what_cannot_be_stored_is_not_so() {
    for change in [set(b"new"), edit(&[(DirectiveCommand::Add, CLIENT)]), reserve(&[OTHER])] {
        let mut bench = Bench::with(REMEMBERS, OPEN, |options| {
            options.remembered.config_string = b"old".to_vec();
        });
        bench.send(&change);
        let asked = bench.io.pop_front().unwrap();
        bench.complete(asked.id, Err(IoError::Lost));
        let error = Header::parse(&bench.reply()).unwrap().error;
        assert_eq!(error, Some(AoeError::DeviceUnavailable));
        let status = bench.target.export_status(bench.export).unwrap();
        let old = Remembered { config_string: b"old".to_vec(), ..Remembered::default() };
        assert_eq!((status.remembered, status.stats[Counter::NotRemembered]), (old, 1));
        // The next one is tried anew.
        bench.send(&change);
        bench.serve();
        assert_eq!(Header::parse(&bench.reply()).unwrap().error, None);
    }
}

#[test]
fn changes_follow_each_other_and_hold_up_nothing_else() {
    let mut bench = Bench::with(REMEMBERS, OPEN, |_| ());
    let set_if_empty = |string: &[u8]| {
        ConfigMessage::request(header(Command::Config), ConfigCommand::Set).emit(string)
    };
    bench.send(&set_if_empty(b"first"));
    bench.send(&set_if_empty(b"second"));
    bench.send(&edit(&[(DirectiveCommand::Add, CLIENT), (DirectiveCommand::Add, OTHER)]));
    assert_eq!(bench.io.len(), 1, "one after the other");
    bench.send(&read());
    assert_eq!(config_string(&bench.reply()), b"", "the old state counts meanwhile");
    let request = AtaRequest::new(header(Command::Ata), AtaCommand::READ_EXT, block::Lba(0), 1);
    bench.send(&request.emit(Buffer::empty()));
    assert_eq!(bench.io.len(), 2, "reads don't wait for it");
    bench.serve();
    let answers: Vec<_> = bench
        .sent
        .drain(..)
        .filter(|frame| frame[19] != 0)
        .map(|frame| Header::parse(&frame).unwrap().error)
        .collect();
    assert_eq!(answers, [None, Some(AoeError::ConfigStringPresent), None]);
    let remembered = bench.target.export_status(bench.export).unwrap().remembered;
    assert_eq!(remembered.config_string, b"first");
    assert_eq!(remembered.mask, [CLIENT, OTHER]);
    assert_eq!(bench.stored.last(), Some(&remembered));
    assert_eq!(bench.stored.len(), 2, "a refused change isn't stored");
}

#[test]
fn repetitions_cost_no_write_and_waiting_is_bounded() {
    let mut bench = Bench::with(REMEMBERS, OPEN, |_| ());
    bench.send(&set(b"new"));
    bench.serve();
    bench.sent.clear();
    for _ in 0..10 {
        bench.send(&set(b"new"));
        assert_eq!(config_string(&bench.reply()), b"new");
    }
    assert_eq!(bench.stored.len(), 1);
    for i in 0..1000u32 {
        bench.send(&set(&i.to_be_bytes()));
    }
    assert_eq!(bench.target.export_status(bench.export).unwrap().queued, 32);
    assert_eq!(bench.stats()[Counter::QueueFull], 968);
    bench.serve();
    assert_eq!((bench.stored.len(), bench.sent.len()), (33, 32));
}

/// A failed edit keeps what came before the failure; so does the storage.
#[test]
fn a_half_done_edit_is_stored_as_far_as_it_went() {
    let mut bench = Bench::with(REMEMBERS, OPEN, |_| ());
    bench.send(&edit(&[(DirectiveCommand::Add, CLIENT), (DirectiveCommand::Unknown(9), OTHER)]));
    bench.serve();
    let reply = MaskMessage::parse(&bench.reply()).unwrap();
    assert_eq!((reply.error, reply.count), (MaskError::BadDirective, 1));
    assert_eq!(bench.stored.last().unwrap().mask, [CLIENT]);
}

#[test]
fn what_is_handed_back_is_bounded() {
    let many = vec![CLIENT; 1000];
    let bench = Bench::new(OPEN, |options| {
        options.remembered = Remembered {
            config_string: vec![b'x'; 5000],
            mask: many.clone(),
            reserved: many.clone(),
        };
    });
    let state = bench.target.export_status(bench.export).unwrap().remembered;
    assert_eq!(
        (state.config_string.len(), state.mask.len(), state.reserved.len()),
        (1024, 255, 255)
    );
}

/// A state directory that hangs must not keep an owner from its disk.
#[test]
fn nothing_waits_for_the_storage() {
    let mut bench = Bench::with(REMEMBERS, OPEN, |options| options.write_cache_switchable = true);
    bench.send(&set(b"new"));
    let hangs = bench.io.pop_front().unwrap();
    let request = AtaRequest::new(header(Command::Ata), AtaCommand::SET_FEATURES, block::Lba(0), 0);
    bench.send(&AtaRequest { feature: 0x82, ..request }.emit(Buffer::empty()));
    bench.send(&edit(&[(DirectiveCommand::Add, CLIENT)]));
    assert_eq!(bench.io.len(), 1, "the flush, and not the next change");
    bench.serve();
    assert_eq!(bench.reply()[19], 0);
    bench.complete(hangs.id, Ok(Answer::Done));
    bench.serve();
    assert_eq!(bench.sent.len(), 2);
}
