//! Sessions with keys, and those who have none or the wrong one: who hears the segment, who sends on it what
//! they like, who recorded all.

use aoe_target::Counter;
use aoe_wire::{HolderPayload, Operation as Verb, SessionReply, SessionRequest, Status};
use seal::{KeyPair, PublicKey, SecretKey, Security};

use super::*;
use crate::opening::Unfit;

const NODE: u8 = 10;
const SECRET_WORDS: &[u8] = b"what nobody but us may read, or put in the place of something else";

pub(super) fn identity(number: u8, least: Security) -> Identity {
    let mut next = u64::from(number) << 32;
    let entropy = move |bytes: &mut [u8]| {
        bytes.chunks_mut(8).for_each(|chunk| {
            next += 1;
            chunk.copy_from_slice(
                &block::crc64_nvme(&next.to_be_bytes()).to_be_bytes()[..chunk.len()],
            );
        });
    };
    let keys = KeyPair::of(SecretKey::new([number; 32])).unwrap();
    Identity::new(keys, Box::new(entropy)).with_least(least).with_aes(number.is_multiple_of(2))
}

pub(super) fn public(number: u8) -> PublicKey {
    identity(number, Security::None).public()
}

/// Sectors that say what an eavesdropper looks for.
fn secret() -> Buffer {
    let mut sectors = SECRET_WORDS.repeat(100);
    sectors.resize(16 * 512, 0);
    Buffer::copy_of(&sectors)
}

impl World {
    /// Who hears the segment has heard the words.
    fn is_heard(&self) -> bool {
        let tape = self.segment.tape.borrow();
        tape.iter().any(|frame| frame.windows(SECRET_WORDS.len()).any(|part| part == SECRET_WORDS))
    }

    /// A frame comes from nowhere.
    fn inject(&self, bytes: &[u8]) {
        self.segment.carry(&self.handle, MacAddr([2, 0, 0, 0, 0, 66]), bytes);
    }

    fn opened(&self) -> Rc<RemoteDisk> {
        let event = self.run(5 * SECOND, self.initiator.next_disk_event());
        assert_eq!(event, DiskEvent::Appeared(ADDRESS));
        let disk = self.session_disk();
        self.run(SECOND, disk.claim(CLAIM)).unwrap();
        disk
    }

    fn store(&self, disk: &RemoteDisk, start: u64, data: Buffer) {
        self.run(5 * SECOND, disk.write(Lba(start), data, Durability::Durable)).unwrap();
    }

    fn fetch(&self, disk: &RemoteDisk, start: u64, count: u64) -> Buffer {
        self.run(5 * SECOND, disk.read(SectorRange::new(Lba(start), count))).unwrap().value
    }
}

fn count(node: &Node, counter: Counter) -> u64 {
    node.driver.exports()[0].stats[counter]
}

#[test]
fn the_stricter_end_decides_what_others_hear() {
    use Security::{Authenticate, Encrypt, None};
    for (client, target, is_heard, in_clear) in [
        (None, None, true, true),
        (Authenticate, None, true, false),
        (None, Authenticate, true, false),
        (Encrypt, Authenticate, false, false),
        (Authenticate, Encrypt, false, false),
        (None, Encrypt, false, false),
    ] {
        for mtu_bytes in [1500, 9000] {
            let world = world_as(1, mtu_bytes, Some(Rc::new(identity(1, client))));
            let key = Some(Rc::new(identity(2, target)));
            let node = world.node_as(1, NODE, disk(), true, key);
            let remote = world.opened();
            world.store(&remote, START, secret());
            assert_eq!(world.fetch(&remote, START, 16), secret());
            assert_eq!(world.is_heard(), is_heard, "{client} and {target}");
            let tape = world.segment.tape.borrow();
            let requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
            let mut writes = requests.filter(|(asked, _)| asked.operation == Verb::Write);
            assert!(writes.all(|(asked, _)| asked.seal.is_present() != in_clear));
            assert_eq!(count(&node, Counter::Forged), 0);
        }
    }
}

#[test]
fn who_demands_keys_speaks_with_nobody_who_has_none() {
    use Security::{Authenticate, Encrypt, None as Nothing};
    let refused = || TargetKind::Refused(IoError::Refused(block::RefusalReason::AccessDenied));
    let unfit = TargetKind::Unfit;
    let only_three = |identity: Identity| identity.with_peers([public(3)]);
    for (client, target, expected) in [
        (Some(identity(1, Encrypt)), None, unfit(Unfit::NoKeys)),
        (None, Some(identity(2, Authenticate)), refused()),
        (
            Some(only_three(identity(1, Encrypt))),
            Some(identity(2, Nothing)),
            unfit(Unfit::Stranger(public(2))),
        ),
        (Some(identity(1, Nothing)), Some(only_three(identity(2, Encrypt))), refused()),
    ] {
        let world = world_as(2, 9000, client.map(Rc::new));
        let node = world.node_as(1, NODE, disk(), true, target.map(Rc::new));
        world.wait(8 * SECOND);
        assert_eq!(world.initiator.targets()[0].kind, Some(expected));
        assert!(world.initiator.disk(ADDRESS).is_none());
        assert_eq!(node.driver.exports()[0].sessions, 0);
    }
}

#[test]
fn lists_let_in_whom_they_name() {
    let client = identity(1, Security::Encrypt).with_peers([public(2), public(4)]);
    let world = world_as(3, 9000, Some(Rc::new(client)));
    let target = identity(2, Security::Encrypt).with_peers([public(1)]);
    world.node_as(1, NODE, disk(), true, Some(Rc::new(target)));
    world.opened();
}

/// The frames of a whole life: played back while it lasts, afterwards, and to a target that was restarted.
#[test]
fn a_recorded_session_does_nothing() {
    let world = world_as(4, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let (store, key) = (disk(), Rc::new(identity(2, Security::Encrypt)));
    let node = world.node_as(
        1,
        NODE,
        Rc::clone(&store) as Rc<dyn BlockDevice>,
        true,
        Some(Rc::clone(&key)),
    );
    let remote = world.opened();
    world.store(&remote, START, secret());
    world.fetch(&remote, START, 16);
    let recorded: Vec<_> = world.segment.tape.borrow().clone();
    let is_request = |frame: &&Vec<u8>| SessionRequest::parse(frame).is_ok();
    let requests: Vec<_> = recorded.iter().filter(is_request).cloned().collect();
    let play = |world: &World| {
        requests.iter().for_each(|frame| world.inject(frame));
        world.wait(SECOND / 10);
    };
    world.store(&remote, START, bytes(16, 9));
    let before = count(&node, Counter::Writes);
    play(&world);
    assert_eq!(world.fetch(&remote, START, 16), bytes(16, 9), "while it lasts");
    assert_eq!((count(&node, Counter::Writes), remote.statistics().reopenings), (before, 0));
    drop(remote);
    world.initiator.forget(ADDRESS);
    world.wait(SECOND);
    play(&world);
    world.wait(30 * SECOND);
    play(&world);
    assert_eq!(count(&node, Counter::Writes), before, "afterwards");
    node.port.is_down.set(true);
    let node = world.node_as(1, NODE + 1, store, true, Some(key));
    node.port.mac.set(MacAddr([2, 0, 0, 0, 0, NODE]));
    play(&world);
    assert_eq!(count(&node, Counter::Writes), 0, "to another one");
}

/// Frames with the right addresses, session, instance, epoch and numbers, by somebody who has heard all of them.
#[test]
fn what_isnt_sealed_by_the_client_does_nothing() {
    for least in [Security::Authenticate, Security::Encrypt] {
        let world = world_as(5, 9000, Some(Rc::new(identity(1, least))));
        let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, least))));
        let remote = world.opened();
        world.store(&remote, START, bytes(8, 1));
        let heard = {
            let tape = world.segment.tape.borrow();
            let requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
            let mut writes = requests.filter(|(asked, _)| asked.operation == Verb::Write);
            writes.next_back().unwrap().0
        };
        let forged =
            SessionRequest { sequence: heard.sequence + 1, lba: Lba(START), sectors: 8, ..heard };
        let claim = SessionRequest {
            operation: Verb::Claim,
            durable: false,
            sectors: 0,
            epoch: Epoch(9),
            ..forged
        };
        let read = SessionRequest { operation: Verb::Read, durable: false, ..forged };
        let close = SessionRequest { operation: Verb::Close, durable: false, sectors: 0, ..forged };
        let thief = HolderPayload::emit_claim(
            OwnerId(uuid::Uuid::from_u128(666)),
            &block::Trust::Unchanged,
        );
        let version = aoe_wire::SessionVersion::One;
        let open = SessionRequest { operation: Verb::Open, version, ..close };
        let frame = open.emit(Buffer::zeroed(48));
        world.inject(&bytes_of(frame));
        for (request, payload) in [
            (forged, bytes(8, 6)),
            (claim, thief),
            (read, Buffer::empty()),
            (close, Buffer::empty()),
        ] {
            for version in [aoe_wire::SessionVersion::One, request.version] {
                let request = SessionRequest { version, ..request };
                let frame = request.emit(payload.clone());
                let mut frame = [frame.head.as_slice(), &frame.payload].concat();
                world.inject(&frame);
                if version == request.version && version != aoe_wire::SessionVersion::One {
                    // With a seal that it would have, and a tag that nobody checks by hand.
                    frame[100..104].copy_from_slice(&1u32.to_be_bytes());
                    frame[104..112].copy_from_slice(&1000u64.to_be_bytes());
                    frame[112..128].fill(0x5a);
                    reseal(&mut frame);
                    world.inject(&frame);
                }
            }
        }
        world.wait(SECOND / 10);
        assert_eq!(count(&node, Counter::Forged), 12);
        assert_eq!(world.fetch(&remote, START, 8), bytes(8, 1));
        let holder = world.run(SECOND, remote.renew()).unwrap().value;
        assert_eq!(holder.owner, CLAIM.owner);
        assert_eq!(remote.statistics().reopenings, 0);
    }
}

/// A checksum has no key: who changes a frame makes a new one.
fn reseal(frame: &mut [u8]) {
    frame[28..32].fill(0);
    let crc = block::crc32c(&[&frame[32..40], frame].concat());
    frame[28..32].copy_from_slice(&crc.to_be_bytes());
}

/// Answers in the target's name: that there is no session, that the disk is gone, other data.
#[test]
fn what_isnt_sealed_by_the_target_isnt_believed() {
    let world = world_as(6, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    world.store(&remote, START, bytes(8, 1));
    let request = {
        let tape = world.segment.tape.borrow();
        let mut requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
        requests.next_back().unwrap().0
    };
    for round in 0..100 {
        let reading = remote.read(SectorRange::new(Lba(START), 8));
        for status in [Status::NoSession, Status::MediumGone, Status::Fenced, Status::Ok] {
            let reply = SessionReply {
                operation: Verb::Read,
                status,
                epoch: Epoch(99),
                sequence: request.sequence + 1 + round,
                sectors: 8,
                ..in_its_name(&world, &request)
            };
            let data = if status == Status::Ok { bytes(8, 6) } else { Buffer::empty() };
            let frame = reply.emit(data);
            world.inject(&bytes_of(frame));
        }
        assert_eq!(world.run(SECOND, reading).unwrap().value, bytes(8, 1));
    }
    let statistics = remote.statistics();
    assert_eq!((statistics.reopenings, statistics.losses), (0, 0));
    assert!(statistics.forged_replies > 100, "{statistics:?}");
}

/// Frames that are changed on their way count as lost; nothing else is to be seen of it.
#[test]
fn loss_and_damage_are_got_over() {
    let world = world_as(7, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    world.segment.loss_per_mille.set(50);
    for round in 0..40u8 {
        let start = START + u64::from(round) * 200;
        world.store(&remote, start, bytes(200, round));
        assert_eq!(world.fetch(&remote, start, 200), bytes(200, round));
    }
    assert!(remote.statistics().retransmissions > 0);
}

/// A key lasts for a quarter of an hour; nobody notices that another one follows, though some of the messages that say so
/// are lost.
#[test]
fn keys_follow_each_other_under_a_session() {
    let world = world_as(1, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let key = Some(Rc::new(identity(2, Security::Encrypt)));
    let node = world.node_as(1, NODE, disk(), true, key);
    let remote = world.opened();
    world.segment.loss_per_mille.set(100);
    for quarter in 1..=3 {
        assert_eq!(heard(&world).seal.key, quarter);
        for at in 0..16 {
            world.store(&remote, START + 16 * at, secret());
            assert_eq!(world.fetch(&remote, START + 16 * at, 16), secret());
        }
        world.wait(15 * 60 * SECOND);
        world.store(&remote, START, secret());
    }
    assert!(!world.is_heard());
    assert_eq!(remote.statistics().reopenings, 0);
    assert_eq!(count(&node, Counter::Forged), 0);
}

/// A target that has forgotten its sessions says so, which nobody can prove; it is believed when nothing else is heard.
#[test]
fn a_restarted_target_is_opened_anew_with_another_key_or_the_same() {
    let world = world_as(8, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let (store, key) = (disk(), Rc::new(identity(2, Security::Encrypt)));
    let node = world.node_as(
        1,
        NODE,
        Rc::clone(&store) as Rc<dyn BlockDevice>,
        true,
        Some(Rc::clone(&key)),
    );
    let remote = world.opened();
    world.store(&remote, START, bytes(8, 1));
    node.port.is_down.set(true);
    node.port.mac.set(MacAddr([2, 0, 0, 0, 0, 99]));
    let again = world.node_as(1, NODE + 1, store, true, Some(key));
    again.port.mac.set(MacAddr([2, 0, 0, 0, 0, NODE]));
    again.port.arrived.notify_all();
    let reading = remote.read(SectorRange::new(Lba(START), 8));
    let read = world.run(5 * SECOND, reading);
    assert_eq!(read.unwrap().value, bytes(8, 1));
    assert_eq!(remote.statistics().losses, 0);
}

/// A key that is taken off the list, as an administrator does who doesn't trust its owner any more.
/// Nothing is asked of it meanwhile.
#[test]
fn a_target_that_was_restarted_is_there_again_for_who_only_looks_on() {
    for away in [Duration::from_millis(100), 2 * SECOND, 10 * SECOND] {
        let world = world_as(9, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
        let (store, key) = (disk(), || Some(Rc::new(identity(2, Security::Encrypt))));
        let first = Rc::clone(&store) as Rc<dyn BlockDevice>;
        let node = world.node_as(1, NODE, first, true, key());
        world.run(5 * SECOND, world.initiator.next_disk_event());
        let remote = world.session_disk();
        world.wait(20 * SECOND);
        node.port.is_down.set(true);
        node.port.mac.set(MacAddr([2, 0, 0, 0, 0, 99]));
        world.wait(away);
        let again = world.node_as(1, NODE + 1, store, true, key());
        again.port.mac.set(MacAddr([2, 0, 0, 0, 0, NODE]));
        again.port.arrived.notify_all();
        world.wait(20 * SECOND);
        let reading = remote.read(SectorRange::new(Lba(0), 8));
        assert!(world.run(SECOND, reading).is_ok(), "{away:?}: {:?}", remote.statistics());
    }
}

#[test]
fn who_isnt_on_the_list_any_more_is_shut_out_at_once() {
    let world = world_as(10, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let own = || identity(2, Security::Encrypt);
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(own().with_peers([public(1)]))));
    let remote = world.opened();
    world.store(&remote, START, bytes(8, 1));
    node.driver.set_identity(Rc::new(own().with_peers([public(1), public(4)])));
    world.store(&remote, START, bytes(8, 2));
    node.driver.set_identity(Rc::new(own().with_peers([public(4)])));
    let before = count(&node, Counter::Writes);
    let write = remote.write(Lba(START), bytes(8, 3), Durability::Durable);
    assert!(world.run(5 * SECOND, write).is_err());
    assert_eq!((count(&node, Counter::Writes), node.driver.exports()[0].sessions), (before, 0));
}

/// What is known of the client's session from the segment: a request with its numbers.
fn heard(world: &World) -> SessionRequest {
    let tape = world.segment.tape.borrow();
    let requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
    let mut of_session = requests.filter(|(asked, _)| asked.sequence > 0);
    of_session.next_back().unwrap().0
}

/// An answer in the target's name that nobody sealed.
fn in_its_name(world: &World, request: &SessionRequest) -> SessionReply {
    SessionReply {
        header: request.header.answer(MacAddr([2, 0, 0, 0, 0, NODE]), ADDRESS),
        version: request.version,
        operation: request.operation,
        status: Status::NoSession,
        detail: 0,
        session: request.session,
        instance: request.instance,
        epoch: Epoch(0),
        sequence: request.sequence,
        executed: 0,
        clock: world.handle.now(),
        sectors: 0,
        first: 0,
        takes: 17,
        seal: Default::default(),
    }
}

fn bytes_of(frame: Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

/// Nothing is heard of a disk that isn't asked, so silence says nothing.
#[test]
fn a_disk_that_rests_isnt_talked_away() {
    let world = world_as(11, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    for _ in 0..50 {
        world.wait(SECOND / 5);
        let reply = in_its_name(&world, &heard(&world));
        world.inject(&bytes_of(reply.emit(Buffer::empty())));
    }
    let statistics = remote.statistics();
    assert_eq!((statistics.losses, statistics.reopenings), (0, 0));
    assert!(statistics.forged_replies >= 49, "{statistics:?}");
    world.store(&remote, START, bytes(8, 1));
}

/// A session without keys, by a socket of this machine, never goes on over Ethernet: neither is what it says heard
/// there, nor what is said there believed.
#[test]
fn what_is_said_to_this_machine_stays_there() {
    for least in [Security::None, Security::Encrypt] {
        let own = |number| Rc::new(identity(number, least));
        let world = world_as(12, 9000, Some(own(1)));
        let socket = Rc::new(Segment::default());
        let [client, target] = [1, 2].map(|number| socket.plug(&world.handle, number, 9000));
        [&client, &target].iter().for_each(|port| port.is_trusted.set(true));
        world.initiator.add_port(Rc::clone(&client) as Rc<dyn Port>);
        let node = world.node_as(1, NODE, disk(), true, Some(own(2)));
        node.driver.add_port(Rc::clone(&target) as Rc<dyn Port>);
        world.client_port.is_down.set(true);
        let remote = world.opened();
        world.client_port.is_down.set(false);
        world.wait(12 * SECOND);
        world.store(&remote, START, secret());
        assert!(!world.is_heard(), "it is opened by the socket");
        for round in 0..6 {
            // The socket loses some frames, and all for a while.
            socket.loss_per_mille.set(if round % 2 == 0 { 400 } else { 0 });
            client.is_down.set(round == 3);
            for start in 0..20 {
                let write = remote.write(Lba(START + 16 * start), secret(), Durability::Durable);
                let _ = world.run(5 * SECOND, write);
            }
            if round == 3 {
                world.wait(5 * SECOND);
                world.store(&remote, START, secret());
            }
            client.is_down.set(false);
            socket.loss_per_mille.set(0);
            world.wait(3 * SECOND);
        }
        world.store(&remote, START, secret());
        assert_eq!(world.fetch(&remote, START, 16), secret());
        let tape = world.segment.tape.borrow();
        let requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
        let of_sessions: Vec<_> = requests.filter(|(asked, _)| asked.sequence > 0).collect();
        let sealed = of_sessions.iter().filter(|(asked, _)| asked.seal.is_present()).count();
        let is_open =
            |asked: &SessionRequest| asked.operation == Verb::Write && asked.sectors == 16;
        match least {
            Security::None => assert!(of_sessions.iter().any(|(asked, _)| is_open(asked))),
            _ => assert_eq!((sealed, world.is_heard()), (of_sessions.len(), false)),
        }
        assert!(!of_sessions.is_empty(), "it went on by Ethernet");
    }
}

/// The demand for keys ends, and with it the sessions that have some: one without would be opened beside them.
#[test]
fn sessions_with_keys_dont_outlast_the_demand() {
    let world = world_as(13, 9000, Some(Rc::new(identity(1, Security::None))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    world.store(&remote, START, bytes(8, 1));
    node.driver.set_identity(Rc::new(identity(2, Security::None)));
    assert_eq!(node.driver.exports()[0].sessions, 0);
    world.store(&remote, START, bytes(8, 2));
    assert_eq!(world.fetch(&remote, START, 8), bytes(8, 2));
    assert!(!heard(&world).seal.is_present());
}

/// Whoever answers as a plain disk while the real one is away doesn't take its place.
#[test]
fn a_plain_disk_doesnt_stand_in_the_way() {
    let world = world_as(14, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    world.store(&remote, START, bytes(8, 1));
    node.port.is_down.set(true);
    let _ = world.run(5 * SECOND, remote.read(SectorRange::new(Lba(START), 8)));
    world.wait(100 * SECOND);
    let _fake = world.node(2, NODE + 1, disk(), false);
    world.wait(100 * SECOND);
    node.port.is_down.set(false);
    world.wait(30 * SECOND);
    let read = remote.read(SectorRange::new(Lba(START), 8));
    assert_eq!(world.run(SECOND, read).unwrap().value, bytes(8, 1));
}

/// Everything that could be said instead of an offer, by somebody who is heard first.
#[test]
fn nobody_talks_an_end_down() {
    let world = world_as(9, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(identity(2, Security::Encrypt))));
    let remote = world.opened();
    world.store(&remote, START, secret());
    let tape = world.segment.tape.borrow().clone();
    let hellos = tape.iter().filter_map(|frame| SessionReply::parse(frame).ok());
    let offers: Vec<_> = hellos.filter(|(reply, _)| reply.operation == Verb::Hello).collect();
    assert!(offers.iter().all(|(_, payload)| payload.len() == 64));
    // Its own key instead of the target's, a lesser demand, none at all: of a HELLO that is to be answered still.
    node.port.is_down.set(true);
    world.run(3 * SECOND, world.initiator.next_disk_event());
    for round in 0..50 {
        world.wait(SECOND / 50);
        let hello = {
            let tape = world.segment.tape.borrow();
            let requests = tape.iter().rev().filter_map(|frame| SessionRequest::parse(frame).ok());
            let mut hellos = requests.filter(|(asked, _)| asked.operation == Verb::Hello);
            hellos.next().map(|(asked, payload)| (asked, payload.to_vec())).unwrap()
        };
        let (client, incarnation) = aoe_wire::OpenPayload::parse_hello(&hello.1).unwrap();
        let target = aoe_wire::Nonce([5; 16]);
        let instance = block::Instance(1);
        let opening = aoe_wire::OpenPayload { client, target, incarnation };
        let least = if round % 2 == 0 { Security::None } else { Security::Encrypt };
        let offer = aoe_wire::Offer { key: public(6), least, has_aes: true };
        let offer = Some(&offer).filter(|_| round % 3 != 0);
        let reply = SessionReply {
            status: Status::Ok,
            detail: 3,
            session: aoe_wire::SessionId::derive(&opening, instance, ADDRESS),
            instance,
            epoch: Epoch(99),
            takes: 0,
            ..in_its_name(&world, &hello.0)
        };
        let frame = reply.emit(aoe_wire::OpenPayload::emit_hello_reply(target, offer));
        world.inject(&bytes_of(frame));
    }
    node.port.is_down.set(false);
    world.wait(10 * SECOND);
    assert_eq!(world.fetch(&remote, START, 16), secret());
    assert!(!world.is_heard());
    // What would open a session without keys was never sent.
    let tape = world.segment.tape.borrow();
    let requests = tape.iter().filter_map(|frame| SessionRequest::parse(frame).ok());
    let mut opens = requests.filter(|(asked, _)| asked.operation == Verb::Open);
    assert!(opens.all(|(_, payload)| payload.len() > 48));
}
