//! Somebody on the segment of a lab whose machines have keys: he hears every frame, replays, changes and forges them under
//! any address, stands between a node and the switch, takes a node's place, and floods. He gets no data and changes none.
//! The same means do what they are made for where nobody has keys, so that it is known that they work.
//!
//! What others do who have more than a cable: pools that name a foreign owner (owners, strangers), disks that another
//! machine shows (node_keys), supervisors that were shut out (pool_keys, keys), tokens (joining).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aoe_wire::{
    HolderPayload, MacAddr, Operation, SessionRequest, SessionVersion, ShelfSlot, Status,
};
use blackbox::attacker::{
    Attacker, CHANGES, FORGED, FORGED_AT, Flood, FloodOf, HELLO, Impostor, Middle, NO_SESSION,
    OPEN, OTHER_DATA, READ, Stranger, Tape, Victim, any_key, tape, thief,
};
use blackbox::frames::Client;
use blackbox::{Lab, LabOptions, Load, VOLUME, wait_until};
use block::{Buffer, Epoch, Trust};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{Advice, fadvise};
use seal::PublicKey;
use serde_json::Value;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// What the secret file consists of: in whatever piece of it.
const SECRET: &[u8; 32] = b"nobody but its owner reads this\n";
const SECRET_BYTES: usize = 2 << 20;
/// That, and names that a volume, a pool and a file have on disks and in labels.
const KNOWN: [&[u8]; 5] = [SECRET, b"EPLABEL\0", b"hyperspace", b"a-file-of-secrets", b"cluster"];

fn up(security: &'static str) -> Lab {
    Lab::up(&LabOptions { size: "512M", disks: 1, security, ..LabOptions::default() })
}

fn secret_file(lab: &Lab) -> PathBuf {
    lab.mount().join("a-file-of-secrets")
}

/// Writes it, and reads it from the disks.
fn write_secret(lab: &Lab) {
    std::fs::write(secret_file(lab), SECRET.repeat(SECRET_BYTES / 32)).unwrap();
    rustix::fs::syncfs(File::open(lab.mount()).unwrap()).unwrap();
    read_secret(lab);
}

fn read_secret(lab: &Lab) {
    let file = File::open(secret_file(lab)).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut read = vec![0; SECRET_BYTES];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == SECRET.repeat(SECRET_BYTES / 32), "the secret file has other contents");
}

/// What a lab says to itself while sessions with a node are opened, and data is written and read.
fn record(lab: &Lab, attacker: &Attacker) -> Tape {
    let ear = attacker.listen();
    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    let load = Load::start(&lab.mount().join("recorded"), 64, 3);
    load.wait_for(200);
    wait_until("the node is back", || uses(lab, "e1.0"));
    lab.wait_clean();
    // It may have seemed never to be gone: what is heard must be of the sessions that it has now.
    wait_until("the node is written to", || {
        stats(lab, "n1")["requests"]["write"].as_u64() > Some(20)
    });
    write_secret(lab);
    load.wait_for(200);
    load.stop().verify();
    read_secret(lab);
    let tape = ear.stop();
    let messages = tape::said(&tape).count();
    println!("heard: {} frames, {messages} messages of sessions", tape.len());
    assert!(messages > 1000, "too little was heard: the test shows nothing");
    tape
}

/// Whether the pool has a disk.
fn uses(lab: &Lab, name: &str) -> bool {
    let pool = lab.json(&["pool", "show", "cluster"]);
    let disks = pool["disks"].as_array().unwrap();
    disks.iter().any(|disk| disk["name"] == name && disk["state"] == "usable")
}

/// What a node has dropped, by reason.
fn dropped(lab: &Lab, node: &str) -> BTreeMap<String, u64> {
    serde_json::from_value(stats(lab, node)["dropped"].clone()).unwrap()
}

/// What a node has counted since it was started.
fn stats(lab: &Lab, node: &str) -> Value {
    let run = lab.dir().join(node).join("run").display().to_string();
    lab.json(&["target", "stats", "--socket", &run])[0]["exports"][0].clone()
}

/// What nodes say to frames of somebody who is nobody's client: `answers` of theirs, of which none may bring anything.
fn tell_nothing(answers: &Tape) {
    assert_eq!(tape::found(answers, &KNOWN), Vec::<String>::new(), "it is told");
    let told: BTreeSet<_> = tape::said(answers)
        .filter(|said| said.is_reply())
        .map(|said| (said.operation(), said.status(), said.payload_len() > 0))
        .collect();
    println!("answered (operation, status, with anything): {told:?}");
    for (operation, status, brings) in told {
        let is_nothing = match operation {
            // Nonces and the target's public key; what only who has the client's key can read.
            HELLO | OPEN => true,
            _ => status == NO_SESSION && !brings,
        };
        assert!(is_nothing, "operation {operation:#x} is answered with status {status}");
    }
}

/// (a): data, labels and names go by, and he reads none of them.
fn who_hears_everything_reads_nothing(tape: &Tape) {
    assert_eq!(tape::found(tape, &KNOWN), Vec::<String>::new(), "it is readable on the cable");
    assert_eq!(tape::unsealed(tape), Vec::new(), "this isn't sealed");
}

/// (a): he sees of each message who sends it to whom, what it asks for, of which sectors, and under which epoch.
fn who_hears_everything_sees_headers(tape: &Tape) {
    let asked: BTreeSet<_> = tape::said(tape)
        .filter_map(|said| SessionRequest::parse(said.bytes()).ok())
        .map(|(request, _)| (u8::from(request.operation), request.epoch > Epoch::OBSERVER))
        .collect();
    assert!(asked.contains(&(READ, true)) && asked.contains(&(CHANGES[0], true)), "{asked:?}");
    let places: BTreeSet<_> = tape::said(tape)
        .filter(|said| said.operation() == CHANGES[0])
        .filter_map(|said| Some(SessionRequest::parse(said.bytes()).ok()?.0.lba))
        .collect();
    assert!(places.len() > 10, "{places:?}");
}

/// (b): all that was said, said again while its client is served and goes on.
fn what_is_replayed_beside_its_client_changes_nothing(lab: &Lab, attacker: &Attacker, tape: &Tape) {
    let load = Load::start(&lab.mount().join("replayed"), 64, 4);
    let before = dropped(lab, "n1");
    attacker.send(tape.iter().map(Vec::as_slice));
    load.wait_for(50);
    let changed = tape::spliced(tape, 3000);
    attacker.send(changed.iter().map(Vec::as_slice));
    let forged = tape::forged(tape);
    attacker.send(forged.iter().map(Vec::as_slice));
    load.wait_for(50);
    let report = load.stop();
    assert!(report.error.is_none(), "{:?}", report.error);
    report.verify();
    read_secret(lab);
    let after = dropped(lab, "n1");
    println!("n1 dropped: {before:?}, then {after:?}");
    // They came, and were taken for what they are.
    assert!(after["repeated"] > before["repeated"], "{after:?}");
    assert!(after["forged"] > before["forged"], "{after:?}");
}

/// (b): the same while nobody else says anything, so that what is answered is answered to him, and what changes he has
/// changed; then when the node was restarted.
fn what_is_replayed_later_changes_nothing(lab: &Lab, attacker: &Attacker, tapes: [&Tape; 2]) {
    let mut frames = tapes.into_iter().flatten().cloned().collect::<Tape>();
    frames.extend(tape::spliced(tapes[1], 3000));
    frames.extend(tape::forged(tapes[1]));
    let (before, counted) = (tape::disks(lab), dropped(lab, "n1"));
    for is_open in [true, false] {
        let ear = attacker.listen();
        attacker.send(frames.iter().map(Vec::as_slice));
        // Answered behind all of them.
        let mut stranger = open(attacker, "e1.0", Some(&any_key())).unwrap();
        stranger.command(Operation::Status, OBSERVER, (0, 0), Buffer::empty()).unwrap();
        let own = attacker.socket().mac();
        let mut answers = ear.stop();
        answers.retain(|frame| frame[..6] != own.0);
        tell_nothing(&answers);
        assert_eq!(tape::differences(&before, &tape::disks(lab)), [], "the disks have changed");
        if is_open {
            let known = dropped(lab, "n1");
            println!("n1 dropped {counted:?}, then {known:?}");
            assert!(known["repeated"] > counted["repeated"], "{known:?}");
            assert!(known["forged"] > counted["forged"], "{known:?}");
            lab.lab(&["kill", "n1"]);
            lab.lab(&["start", "n1"]);
            wait_until("the node is back", || open(attacker, "e1.0", Some(&any_key())).is_ok());
        }
    }
}

const OBSERVER: (Epoch, bool) = (Epoch::OBSERVER, false);

fn open(
    attacker: &Attacker,
    address: &str,
    own: Option<&seal::KeyPair>,
) -> Result<Stranger, Option<Status>> {
    Stranger::open(attacker.interface(), address, own, SessionVersion::NEWEST)
}

/// (b): whoever has no key opens nothing, by any version; and who has made one reads what labels say and neither reads,
/// writes nor claims more, whatever he says to be.
fn a_stranger_gets_labels_and_nothing_else(attacker: &Attacker, lab: &Lab) {
    for version in [SessionVersion::One, SessionVersion::Three] {
        let opened = Stranger::open(attacker.interface(), "e2.0", None, version);
        assert!(opened.is_err(), "a session without keys, version {version:?}");
    }
    let mut stranger = open(attacker, "e2.0", Some(&any_key())).unwrap();
    let holder = stranger.info().holder;
    assert!(stranger.epoch > Epoch::OBSERVER && holder.epoch == stranger.epoch);
    let label = stranger.command(Operation::Read, OBSERVER, (0, 8), Buffer::empty()).unwrap();
    assert!(label.status == 0 && label.payload.starts_with(b"EPLABEL\0"), "{label:?}");
    let epochs = [0, stranger.epoch.0, stranger.epoch.0 + 1, u64::MAX].map(Epoch);
    for (epoch, force) in epochs.into_iter().flat_map(|epoch| [(epoch, false), (epoch, true)]) {
        let data = Buffer::copy_of(&[FORGED; 4096]);
        let mut asked = vec![
            (Operation::Write, (FORGED_AT, 8), data),
            (Operation::Flush, (0, 0), Buffer::empty()),
            (Operation::Discard, (FORGED_AT, 8), Buffer::empty()),
            (Operation::WriteZeroes, (0, 8), Buffer::empty()),
        ];
        asked.retain(|_| !force);
        // Who looks may only force a READ, and who claims a CLAIM; all else isn't even heard.
        if epoch == Epoch::OBSERVER || !force {
            asked.push((Operation::Read, (FORGED_AT, 8), Buffer::empty()));
        }
        for owner in [holder.owner, thief()] {
            let claim = HolderPayload::emit_claim(owner, &Trust::Unchanged);
            asked.push((Operation::Claim, (0, 0), claim));
        }
        for (operation, range, payload) in asked {
            let answer = stranger.command(operation, (epoch, force), range, payload);
            let answer = answer.unwrap_or_else(|| panic!("{operation:?} isn't answered"));
            assert!([6, 7].contains(&answer.status), "{operation:?} under {epoch:?}: {answer:?}");
            assert!(answer.payload.is_empty(), "{operation:?} under {epoch:?}: {answer:?}");
        }
    }
    lab.cli(&["volume", "verify", VOLUME]);
}

/// (d): a client of plain AoE is told what a disk is called and how large it is.
fn a_plain_client_gets_identify_and_nothing_else(attacker: &Attacker) {
    let address = ShelfSlot::new(2, 0);
    let mut client = Client::connect(attacker.interface(), address).unwrap();
    client.discover().unwrap();
    assert_eq!(client.sectors().unwrap(), 1 << 20);
    for at in [0, FORGED_AT] {
        client.read(at, 8).unwrap_err();
        client.write(at, &[FORGED; 4096]).unwrap_err();
    }
    client.flush().unwrap_err();
}

/// (e): what is on a disk can be read by who has it, but for the keys by which it is had.
fn a_disk_that_is_taken_away_has_data_and_no_keys(lab: &Lab) {
    let state = lab.dir().join("supervisor/state");
    let known = lab.json(&["pool", "key", "list", "cluster"]);
    let files = [
        PathBuf::from(known["file"].as_str().unwrap()),
        state.join("identity.key"),
        lab.dir().join("n1/state/identity.key"),
        lab.dir().join("supervisor/token"),
    ];
    let texts = files.map(|file| std::fs::read_to_string(file).unwrap().trim().to_owned());
    let bytes_of = |text: &str| text.parse::<PublicKey>().unwrap().0;
    let secrets: Vec<_> = texts[..3].iter().map(|text| bytes_of(text)).collect();
    let all = texts.iter().map(String::as_bytes).chain(secrets.iter().map(<[u8; 32]>::as_slice));
    let all: Vec<&[u8]> = all.collect();
    assert_eq!(tape::on_disks(lab, &all), vec![false; all.len()], "a key is on a disk");
    // By the same look the data, and the public half of the pool's key.
    let public = bytes_of(known["key"].as_str().unwrap());
    let known = [&KNOWN[..], &[&public]].concat();
    assert_eq!(tape::on_disks(lab, &known), vec![true; known.len()]);
}

/// Where keys aren't asked for: the sockets of the same machine.
fn doors_of_the_same_machine_are_roots(lab: &Lab) {
    let mut doors = Vec::new();
    for place in NODES.map(|node| format!("{node}/run")) {
        for entry in std::fs::read_dir(lab.dir().join(place)).unwrap() {
            let path = entry.unwrap().path();
            let about = path.metadata().unwrap();
            if about.file_type().is_socket() {
                assert_eq!((about.uid(), about.mode() & 0o077), (0, 0), "{}", path.display());
                doors.push(path);
            }
        }
    }
    assert!(doors.iter().any(|door| door.ends_with("node.sock")), "{doors:?}");
}

fn mac_of(tape: &Tape, shelf: u16) -> [u8; 6] {
    let mut answers = tape::said(tape).filter(|said| said.is_reply() && said.shelf() == shelf);
    answers.next().expect("it was heard").source()
}

/// Whom he answers for: the second node.
fn victim(attacker: &Attacker, tape: &Tape) -> Victim {
    let stranger = open(attacker, "e2.0", Some(&any_key())).unwrap();
    let (instance, info) = (stranger.instance(), stranger.info().clone());
    Victim { mac: mac_of(tape, 2), shelf: 2, instance, info }
}

/// (b): while a node comes back he answers in its name, as quickly as it: without keys, with less, with his own. Nobody
/// says anything to him that counts, and nobody speaks without keys.
fn nobody_is_talked_into_less(lab: &Lab, attacker: &Attacker, tape: &Tape) {
    let load = Load::start(&lab.mount().join("downgraded"), 64, 5);
    let victim = victim(attacker, tape);
    let ear = attacker.listen();
    let impostor = Impostor::start(attacker, victim, false);
    lab.lab(&["kill", "n2"]);
    lab.lab(&["start", "n2"]);
    wait_until("it is asked whether it is back", || impostor.loot().hellos > 0);
    load.wait_for(100);
    let loot = impostor.stop();
    println!("in the node's name: {loot:?}");
    let taken: Vec<_> = loot.requests.keys().filter(|asked| CHANGES.contains(asked)).collect();
    assert!(taken.is_empty() && loot.open == 0, "{loot:?}");
    wait_until("the node is back", || uses(lab, "e2.0"));
    lab.wait_clean();
    let tape = ear.stop();
    let mac = attacker.socket().mac();
    let by_clients = unsealed_requests(&tape, mac);
    assert_eq!(by_clients, [], "somebody speaks without keys");
    load.wait_for(50);
    load.stop().verify();
}

/// Unsealed requests of others than this one.
fn unsealed_requests(tape: &Tape, own: MacAddr) -> Vec<(bool, u8, u8)> {
    let others: Tape = tape.iter().filter(|frame| frame[6..12] != own.0).cloned().collect();
    tape::unsealed(&others).into_iter().filter(|(is_reply, ..)| !is_reply).collect()
}

/// (b): the switch believes that the node is where he is, who answers for it.
fn who_takes_an_address_gets_nothing_and_is_got_rid_of(
    lab: &Lab,
    attacker: &Attacker,
    tape: &Tape,
) {
    let load = Load::start(&lab.mount().join("taken"), 64, 6);
    attacker.hears_all(false);
    let victim = victim(attacker, tape);
    let impostor = Impostor::start(attacker, victim, true);
    // He gets what is meant for the node; then nobody hears from that, and it is looked for.
    wait_until("he has the node's place", || {
        let loot = impostor.loot();
        loot.others > 0 && loot.hellos > 0
    });
    load.wait_for(100);
    let loot = impostor.stop();
    println!("in the node's place: {loot:?}");
    assert!(loot.keyed > 0, "nobody was talked into his key: {loot:?}");
    let taken: Vec<_> = loot.requests.keys().filter(|asked| CHANGES.contains(asked)).collect();
    assert!(taken.is_empty() && loot.open == 0, "{loot:?}");
    // He is gone: the switch learns, and all is as it was.
    attacker.hears_all(true);
    wait_until("the node is back", || uses(lab, "e2.0"));
    lab.wait_clean();
    load.wait_for(50);
    let report = load.stop();
    assert!(report.error.is_none(), "{:?}", report.error);
    report.verify();
}

/// (b): between a node and the switch he lets pass, holds up, swaps, changes and drops.
fn who_stands_between_changes_nothing_and_is_got_rid_of(lab: &Lab, attacker: &Attacker) {
    let load = Load::start(&lab.mount().join("between"), 64, 7);
    let middle = Middle::step_in(attacker, "n1");
    load.wait_for(100);
    middle.change();
    load.wait_for(200);
    let (passed, changed) = middle.counts();
    middle.relay_only();
    load.wait_for(50);
    middle.step_out(attacker);
    println!("{passed} frames went through his hands, {changed} of them as others");
    assert!(changed > 20, "he did nothing: the test shows nothing");
    lab.wait_clean();
    load.wait_for(50);
    let report = load.stop();
    assert!(report.error.is_none(), "{:?}", report.error);
    report.verify();
    // What another copy would make good is on no disk either.
    assert_eq!(tape::on_disks(lab, &[OTHER_DATA]), [false], "what he made of it is on a disk");
    lab.cli(&["volume", "verify", VOLUME]);
}

/// How long a client waits for each of its writes and reads, one after the other; all that it reads is right.
fn served(lab: &Lab, what: &str) {
    let file = lab.mount().join("served");
    let file =
        File::options().create(true).truncate(false).read(true).write(true).open(file).unwrap();
    let mut random = SmallRng::seed_from_u64(8);
    let mut versions = [0; 64];
    let block = |at: usize, version: u8| [(at as u8) ^ version; 4096];
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for round in 0..464 {
        // Each block once first, which isn't counted.
        let at = if round < 64 { round } else { random.random_range(0..64) };
        versions[at] = (round % 251) as u8;
        let begun = Instant::now();
        file.write_all_at(&block(at, versions[at]), at as u64 * 4096).unwrap();
        file.sync_data().unwrap();
        let took = begun.elapsed();
        if round < 64 {
            continue;
        }
        writes.push(took);
        let at = random.random_range(0..64);
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let mut read = [0; 4096];
        let begun = Instant::now();
        file.read_exact_at(&mut read, at as u64 * 4096).unwrap();
        reads.push(begun.elapsed());
        assert!(read == block(at, versions[at]), "block {at} has other contents");
    }
    let of = |mut times: Vec<Duration>| {
        times.sort();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        format!("p50 {:.1} ms, p99 {:.1} ms, the longest {:.1} ms", ms(200), ms(396), ms(399))
    };
    println!("{what:>32}: writes {}; reads {}", of(writes), of(reads));
}

/// What a node has counted of sessions that were opened, and of what has to do with openings that weren't.
fn openings(lab: &Lab, node: &str) -> (u64, u64, u64) {
    let stats = stats(lab, node);
    let dropped = |reason: &str| stats["dropped"][reason].as_u64().unwrap_or(0);
    let opened = stats["sessions_opened"].as_u64().unwrap();
    (opened, dropped("forged"), dropped("queue_full"))
}

/// (b): openings from addresses that nobody has, while a client is served.
fn a_flood_of_openings_disturbs_and_changes_nothing(lab: &Lab, attacker: &Attacker, tape: &Tape) {
    let targets = [1, 2, 3].map(|shelf| (ShelfSlot::new(shelf, 0), MacAddr(mac_of(tape, shelf))));
    served(lab, "no flood");
    for of in [FloodOf::Hellos, FloodOf::Garbage, FloodOf::Strangers] {
        let before = openings(lab, "n1");
        let flood = Flood::start(attacker, of, &targets);
        served(lab, &format!("a flood of {of:?}"));
        let (sent, took) = flood.stop();
        let after = openings(lab, "n1");
        let rate = sent as f64 / took.as_secs_f64();
        println!(
            "{:>32}  {sent} frames, {rate:.0} a second; n1 (opened, forged, full) {before:?}, {after:?}",
            ""
        );
        // It came, and was what it is meant to be.
        assert!(sent > 1000, "{sent} frames are no flood");
        let came = match of {
            // Nobody who is served has to open another session.
            FloodOf::Hellos => after.0 == before.0,
            FloodOf::Garbage => after.1 + after.2 > before.1 + before.2 && after.0 == before.0,
            FloodOf::Strangers => after.0 > before.0 + 10 && after.2 > before.2,
        };
        assert!(came, "{of:?}: {before:?}, {after:?}");
    }
    served(lab, "no flood again");
}

#[test]
fn nobody_on_the_segment_gets_or_changes_anything() {
    let begun = Instant::now();
    let at = |what: &str| println!("--- {:.1} s: {what}", begun.elapsed().as_secs_f64());
    let lab = up("encrypt");
    let attacker = Attacker::plug_in(&lab);
    at("recording");
    let tape = record(&lab, &attacker);
    who_hears_everything_reads_nothing(&tape);
    who_hears_everything_sees_headers(&tape);
    doors_of_the_same_machine_are_roots(&lab);
    at("replaying beside the client");
    what_is_replayed_beside_its_client_changes_nothing(&lab, &attacker, &tape);
    at("a stranger");
    a_stranger_gets_labels_and_nothing_else(&attacker, &lab);
    a_plain_client_gets_identify_and_nothing_else(&attacker);
    at("downgrades");
    nobody_is_talked_into_less(&lab, &attacker, &tape);
    at("in a node's place");
    who_takes_an_address_gets_nothing_and_is_got_rid_of(&lab, &attacker, &tape);
    at("between");
    who_stands_between_changes_nothing_and_is_got_rid_of(&lab, &attacker);
    at("floods");
    a_flood_of_openings_disturbs_and_changes_nothing(&lab, &attacker, &tape);
    at("replaying later");
    // Also of sessions that are open still.
    let fresh = record(&lab, &attacker);
    a_disk_that_is_taken_away_has_data_and_no_keys(&lab);
    lab.lab(&["kill", "supervisor"]);
    what_is_replayed_later_changes_nothing(&lab, &attacker, [&tape, &fresh]);
    let tape = [tape, fresh].concat();
    at("replaying after the supervisor's restart");
    lab.lab(&["start", "supervisor"]);
    lab.wait_served();
    attacker.send(tape.iter().map(Vec::as_slice));
    lab.wait_clean();
    read_secret(&lab);
    lab.cli(&["volume", "verify", VOLUME]);
    at("the end");
}

/// Where it is enough for people that nothing is changed.
#[test]
fn with_less_he_reads_all_and_changes_nothing() {
    let lab = up("authenticate");
    let attacker = Attacker::plug_in(&lab);
    let tape = record(&lab, &attacker);
    assert_eq!(tape::found(&tape, &KNOWN).len(), KNOWN.len());
    assert_eq!(tape::unsealed(&tape), Vec::new(), "this isn't sealed");
    what_is_replayed_beside_its_client_changes_nothing(&lab, &attacker, &tape);
    lab.cli(&["volume", "verify", VOLUME]);
}

/// The control: by the same means.
#[test]
fn where_nobody_has_keys_all_of_it_succeeds() {
    let lab = up("none");
    let attacker = Attacker::plug_in(&lab);
    let tape = record(&lab, &attacker);
    let readable = tape::found(&tape, &KNOWN);
    println!("readable: {readable:?}");
    assert!(readable.len() == KNOWN.len(), "{readable:?}");
    assert!(tape::unsealed(&tape).len() > 1000);
    // In its owner's name he writes to a disk, reads it, and takes it.
    lab.lab(&["kill", "supervisor"]);
    let before = tape::disks(&lab);
    let ear = attacker.listen();
    let forged = tape::forged(&tape);
    attacker.send(forged.iter().map(Vec::as_slice));
    // Behind all of that in each node's queue.
    let mut own = ["e1.0", "e2.0", "e3.0"].map(|address| open(&attacker, address, None).unwrap());
    let answers = ear.stop();
    let reads = tape::said(&answers).filter(|said| {
        said.is_reply() && said.operation() == READ && said.bytes().ends_with(&[FORGED; 4096])
    });
    assert!(reads.count() >= 2, "he doesn't read what he wrote");
    let changed = tape::differences(&before, &tape::disks(&lab));
    let written = changed.iter().filter(|(_, at)| *at == (FORGED_AT / 2048) as usize);
    assert!(written.count() >= 2, "{changed:?}");
    let mut his = own.iter_mut().filter(|disk| disk.info().holder.owner == thief());
    let stranger = his.next().expect("no disk is his");
    let (epoch, data) = ((stranger.epoch, false), Buffer::copy_of(&[FORGED; 4096]));
    let wrote = stranger.command(Operation::Write, epoch, (FORGED_AT, 8), data).unwrap();
    assert_eq!(wrote.status, 0, "{wrote:?}");
}
