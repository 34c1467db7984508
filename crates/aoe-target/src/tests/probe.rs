//! Others at an export's address: looked for, waited for, reported.

use super::*;

const RIVAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const LOWER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

fn bench(probe: Probe) -> Bench {
    let node = NodeIdentity { id: uuid::Uuid::nil(), name: String::new() };
    let mut target = Target::new(node, 1);
    target.set_port(PORT, "eth0".into(), SERVER, 9000);
    let mut bench = Bench::new(OPEN, |_| ());
    let options = ExportOptions { probe, ..ExportOptions::new(ADDRESS, "disk") };
    bench.export = target.add_export(options, device(OPEN), Abilities::default()).unwrap();
    bench.target = target;
    bench.collect();
    bench
}

/// What was sent, as source-independent words.
fn said(bench: &mut Bench) -> Vec<&'static str> {
    bench
        .sent
        .drain(..)
        .map(|bytes| {
            let header = Header::parse(&bytes).unwrap();
            assert_eq!((header.address, header.source), (ADDRESS, SERVER));
            match (header.response, header.destination) {
                (false, MacAddr::BROADCAST) => "query",
                (true, MacAddr::BROADCAST) => "announcement",
                (true, _) => "answer",
                _ => panic!("{header:?}"),
            }
        })
        .collect()
}

fn pass_ms(bench: &mut Bench, ms: u64) -> Vec<&'static str> {
    let until = bench.now + Duration::from_millis(ms);
    while let Some(at) = bench.target.poll_timeout().filter(|at| *at <= until) {
        bench.now = bench.now.max(at);
        bench.target.handle_timeout(bench.now);
        bench.collect();
    }
    bench.now = until;
    said(bench)
}

fn config(source: MacAddr, response: bool, firmware: u16) -> Frame {
    let header = Header::request(SERVER, source, ADDRESS, Command::Config, 5);
    let header = Header { response, ..header };
    let query = ConfigMessage::request(header, ConfigCommand::Read);
    ConfigMessage { firmware, ..query }.emit(b"")
}

fn events(bench: &mut Bench) -> Vec<TargetEvent> {
    std::iter::from_fn(|| bench.target.poll_event()).collect()
}

fn state(bench: &Bench) -> ExportState {
    bench.target.export_status(bench.export).unwrap().state
}

#[test]
fn a_free_address_is_announced_after_three_queries() {
    let mut bench = bench(Probe::Defend);
    assert_eq!(said(&mut bench), [] as [&str; 0]);
    assert_eq!(state(&bench), ExportState::Probing);
    assert_eq!(pass_ms(&mut bench, 0), ["query"]);
    assert_eq!(pass_ms(&mut bench, 99), [] as [&str; 0]);
    assert_eq!(pass_ms(&mut bench, 101), ["query", "query"]);
    bench.send(&config(CLIENT, false, 0));
    bench.silence();
    assert_eq!(pass_ms(&mut bench, 100), ["announcement"]);
    assert_eq!(state(&bench), ExportState::Up);
    assert_eq!(events(&mut bench), [TargetEvent::AddressFree { export: bench.export }]);
    bench.send(&config(CLIENT, false, 0));
    assert_eq!(said(&mut bench), ["answer"]);
    assert_eq!(bench.target.poll_timeout(), None);
}

#[test]
fn who_finds_another_waits_until_it_is_gone() {
    let mut bench = bench(Probe::Defend);
    pass_ms(&mut bench, 150);
    bench.send(&config(RIVAL, true, 0));
    assert_eq!(state(&bench), ExportState::Conflict { mac: RIVAL });
    let conflict = TargetEvent::AddressConflict { export: bench.export, port: PORT, mac: RIVAL };
    assert_eq!(events(&mut bench), [conflict]);
    // Neither announced nor answered, whatever is asked.
    bench.target.announce(bench.export);
    bench.target.set_port(PORT, "eth0".into(), SERVER, 1500);
    bench.send(&config(CLIENT, false, 0));
    let identify = AtaRequest::new(header(Command::Ata), AtaCommand::IDENTIFY, block::Lba(0), 1);
    bench.send(&identify.emit(Buffer::empty()));
    bench.collect();
    bench.silence();
    for _ in 0..3 {
        assert_eq!(pass_ms(&mut bench, 4900), [] as [&str; 0]);
        assert_eq!(pass_ms(&mut bench, 101), ["query"]);
        bench.send(&config(RIVAL, true, 0));
    }
    assert!(events(&mut bench).is_empty(), "one report per minute");
    assert_eq!(bench.stats()[Counter::ForeignAnswers], 4);
    assert_eq!(pass_ms(&mut bench, 5300), ["query", "query", "query", "announcement"]);
    assert_eq!(state(&bench), ExportState::Up);
}

#[test]
fn who_is_up_stays_up_and_reports() {
    for probe in [Probe::Off, Probe::Report, Probe::Defend] {
        let mut bench = bench(probe);
        let said = pass_ms(&mut bench, 1000);
        let queries = said.iter().filter(|said| **said == "query").count();
        assert_eq!(queries, if probe == Probe::Off { 0 } else { 3 });
        events(&mut bench);
        let answers = |bench: &mut Bench, response: &Frame| {
            bench.send(response);
            bench.send(&config(CLIENT, false, 0));
            assert_eq!(self::said(bench), ["answer"]);
            events(bench).len()
        };
        assert_eq!(answers(&mut bench, &config(RIVAL, true, 0)), 1);
        assert_eq!(answers(&mut bench, &config(RIVAL, true, 0)), 0);
        let identified = AtaRequest::new(
            Header { source: OTHER, ..header(Command::Ata) },
            AtaCommand::IDENTIFY,
            block::Lba(0),
            1,
        );
        let answered = identified.header.answer(OTHER, ADDRESS);
        let identified = AtaReply::to(&identified, answered).emit(Buffer::zeroed(512));
        assert_eq!(answers(&mut bench, &identified), 1, "another one is news");
        bench.now = bench.now + Duration::from_secs(60);
        assert_eq!(answers(&mut bench, &config(RIVAL, true, 0)), 1, "and a minute later again");
        assert_eq!(bench.stats()[Counter::ForeignAnswers], 4);
    }
}

#[test]
fn our_own_answers_and_those_about_others_are_none() {
    let mut bench = bench(Probe::Report);
    bench.target.set_port(PortId(2), "eth1".into(), OTHER, 1500);
    bench.send(&config(OTHER, true, 0));
    bench.send(&config(SERVER, true, 0));
    let elsewhere = Header::request(SERVER, RIVAL, ShelfSlot::new(1, 1), Command::Config, 0);
    let elsewhere = Header { response: true, ..elsewhere };
    bench.send(&ConfigMessage::request(elsewhere, ConfigCommand::Read).emit(b""));
    let masked = Header { response: true, source: RIVAL, ..header(Command::Mask) };
    let (command, error) = (MaskCommand::Read, MaskError::None);
    let masked = MaskMessage { header: masked, command, error, count: 0, directives: vec![] };
    bench.send(&masked.emit());
    assert_eq!((events(&mut bench).len(), bench.stats()[Counter::ForeignAnswers]), (0, 0));
}

/// Two that start together would both find the address free.
#[test]
fn of_two_that_ask_together_the_lower_address_wins() {
    let mark = {
        let mut first = bench(Probe::Defend);
        first.target.handle_timeout(first.now);
        first.collect();
        ConfigMessage::parse(&first.reply()).unwrap().0.firmware
    };
    for (rival, firmware, yields) in
        [(RIVAL, mark, false), (LOWER, mark, true), (LOWER, 0, false), (SERVER, mark, false)]
    {
        let mut bench = bench(Probe::Defend);
        pass_ms(&mut bench, 50);
        bench.send(&config(rival, false, firmware));
        pass_ms(&mut bench, 1000);
        let expected = if yields { ExportState::Conflict { mac: rival } } else { ExportState::Up };
        assert_eq!(state(&bench), expected, "{rival} {firmware:#x}");
        // Who is up answers a query like any other.
        bench.sent.clear();
        bench.send(&config(rival, false, firmware));
        assert_eq!(bench.sent.is_empty(), yields);
    }
}

#[test]
fn without_a_port_nobody_has_been_asked() {
    let mut bench = bench(Probe::Defend);
    bench.target.remove_port(PORT);
    assert_eq!(pass_ms(&mut bench, 10_000), [] as [&str; 0]);
    assert_eq!(state(&bench), ExportState::Probing);
    bench.target.set_port(PORT, "eth0".into(), SERVER, 9000);
    bench.collect();
    assert_eq!(pass_ms(&mut bench, 301), ["query", "query", "query", "announcement"]);
    // One that comes later is told of the export, and asked.
    bench.target.remove_port(PORT);
    bench.target.set_port(PortId(5), "eth5".into(), SERVER, 9000);
    bench.collect();
    assert_eq!(said(&mut bench), ["announcement"]);
    assert_eq!(pass_ms(&mut bench, 1000), ["query", "query", "query"]);
}

#[test]
fn this_machines_own_programs_dont_wait() {
    let mut bench = bench(Probe::Defend);
    pass_ms(&mut bench, 50);
    bench.send(&config(RIVAL, true, 0));
    bench.send(&config(CLIENT, false, 0));
    bench.silence();
    bench.target.trust_port(PORT);
    bench.send(&config(CLIENT, false, 0));
    assert_eq!(said(&mut bench), ["answer"]);
}

/// A machine that boots has its interfaces before their links.
#[test]
fn without_a_link_nobody_has_been_asked() {
    let mut bench = bench(Probe::Defend);
    let link = |bench: &mut Bench, up| {
        bench.target.set_link(PORT, up);
        bench.target.set_port(PORT, "eth0".into(), SERVER, 9000);
        bench.collect();
        said(bench)
    };
    assert!(link(&mut bench, false).is_empty());
    assert_eq!(pass_ms(&mut bench, 10_000), [] as [&str; 0]);
    assert_eq!(state(&bench), ExportState::Probing);
    assert!(link(&mut bench, true).is_empty());
    assert_eq!(pass_ms(&mut bench, 301), ["query", "query", "query", "announcement"]);
    assert!(link(&mut bench, false).is_empty());
    bench.target.announce(bench.export);
    assert!(said(&mut bench).is_empty());
    assert_eq!(link(&mut bench, true), ["announcement"], "clients may have given up meanwhile");
    assert_eq!(pass_ms(&mut bench, 301), ["query", "query", "query"]);
}

#[test]
fn settings_end_the_waiting() {
    let mut bench = bench(Probe::Defend);
    pass_ms(&mut bench, 50);
    bench.send(&config(RIVAL, true, 0));
    bench.target.set_options(bench.export, ExportOptions::new(ADDRESS, "disk")).unwrap();
    bench.collect();
    assert_eq!((said(&mut bench), state(&bench)), (vec!["announcement"], ExportState::Up));
    let options = ExportOptions { probe: Probe::Defend, ..ExportOptions::new(ADDRESS, "disk") };
    bench.target.set_options(bench.export, options).unwrap();
    assert_eq!(state(&bench), ExportState::Up, "who is up stays up");
}

#[test]
fn events_and_foreign_targets_are_bounded() {
    let mut bench = bench(Probe::Off);
    assert_eq!(said(&mut bench), ["announcement"]);
    for i in 0..1000u16 {
        let [a, b] = i.to_be_bytes();
        bench.send(&config(MacAddr([2, 1, 0, 0, a, b]), true, 0));
    }
    assert_eq!(events(&mut bench).len(), 16);
    bench.silence();
    for last in 0..200 {
        let options = ExportOptions::new(ShelfSlot::new(9, last), "another");
        bench.target.add_export(options, device(OPEN), Abilities::default()).unwrap();
        let header = Header { response: true, source: RIVAL, ..header(Command::Config) };
        let header = Header { address: ShelfSlot::new(9, last), ..header };
        bench.send(&ConfigMessage::request(header, ConfigCommand::Read).emit(b""));
    }
    assert_eq!(events(&mut bench).len(), 64);
}

/// a port that comes while others are being asked is asked on too.
#[test]
fn a_port_that_comes_meanwhile_is_asked_on() {
    let mut bench = bench(Probe::Defend);
    pass_ms(&mut bench, 250);
    bench.target.set_port(PortId(2), "eth1".into(), SERVER, 9000);
    let told = pass_ms(&mut bench, 60);
    assert!(
        !told.contains(&"announcement"),
        "announced on a port where nobody was asked: {told:?}"
    );
}
