//! Discovery against floods, doubles and silence.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{ScriptedTarget, TARGET_MAC, rand_like};
use aoe_wire::{ExportInfo, Frame};

const PORT: LocalPort =
    LocalPort { id: PortId(1), mac: MacAddr([2, 0, 0, 0, 1, 1]), mtu_bytes: 9000, trusted: false };

fn discovery(seed: u64) -> Discovery {
    let mut random = rand_like::Random(seed);
    let mut discovery = Discovery::new(Instant::default(), Box::new(move || random.next()), None);
    discovery.set_port(Instant::default(), PORT);
    discovery.handle_timeout(Instant::default());
    discovery
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

fn drain(discovery: &mut Discovery) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| discovery.poll_transmit()).map(|sent| bytes_of(&sent.frame)).collect()
}

/// What a target at `mac` announces, or answers to a query with this tag.
fn announcement(address: ShelfSlot, mac: MacAddr, tag: u32) -> Vec<u8> {
    let asked = Header::request(MacAddr::BROADCAST, PORT.mac, address, Command::Config, tag);
    let message = ConfigMessage {
        buffer_count: 16,
        sectors_max: 17,
        ..ConfigMessage::request(asked.answer(mac, address), ConfigCommand::Read)
    };
    bytes_of(&message.emit(b"name"))
}

fn take(discovery: &mut Discovery, now: Instant, frame: &[u8]) -> bool {
    let header = Header::parse(frame).unwrap();
    discovery.handle_frame(now, PORT.id, &header, frame)
}

/// Lets the target answer until nothing is left to say.
fn converse(discovery: &mut Discovery, target: &mut ScriptedTarget, now: Instant) {
    loop {
        let frames = drain(discovery);
        if frames.is_empty() {
            return;
        }
        for frame in frames {
            for reply in target.handle(now, &frame) {
                take(discovery, now, &bytes_of(&reply));
            }
        }
    }
}

const ADDRESS: ShelfSlot = crate::testing::ADDRESS;

#[test]
fn a_target_of_ours_is_told_by_its_session_which_is_closed_again() {
    let mut discovery = discovery(1);
    let mut target = ScriptedTarget::new(1, 100);
    let query = Header::parse(&drain(&mut discovery)[0]).unwrap();
    assert_eq!((query.destination, query.address), (MacAddr::BROADCAST, ShelfSlot::ANY));
    take(&mut discovery, Instant::default(), &announcement(ADDRESS, TARGET_MAC, query.tag));
    converse(&mut discovery, &mut target, Instant::default());
    let Some(DiscoveryEvent::Found(info)) = discovery.poll_event() else { panic!() };
    let described = ExportInfo { message_sectors_max: 2048, ..target.info.clone() };
    assert_eq!(info.kind, Some(TargetKind::Session { export: described, node_key: None }));
    assert_eq!((info.config.buffer_count, &*info.config.string), (16, &b"name"[..]));
    assert_eq!((target.openings, target.sessions()), (1, 0));
}

/// A hundred and fifty thousand announcements of targets that don't exist must neither grow the table nor
/// keep a real one out that answers our query.
#[test]
fn a_flood_of_announcements_is_bounded_and_does_not_hide_a_real_target() {
    let mut discovery = discovery(2);
    let mut target = ScriptedTarget::new(2, 100);
    let mut random = rand_like::Random(9);
    let mut now = Instant::default();
    let mut frames = 0;
    let mut tag = 0;
    for round in 0..150_000u64 {
        now = now + Duration::from_micros(20);
        let address = ShelfSlot::new(random.below(60_000) as u16, random.below(250) as u8);
        let mut mac = MacAddr([4, 0, 0, 0, 0, 0]);
        mac.0[1..].copy_from_slice(&random.next().to_be_bytes()[..5]);
        take(&mut discovery, now, &announcement(address, mac, random.next() as u32));
        if round == 140_000 {
            take(&mut discovery, now, &announcement(ADDRESS, TARGET_MAC, tag));
        }
        if discovery.poll_timeout().is_some_and(|at| at <= now) {
            discovery.handle_timeout(now);
        }
        for frame in drain(&mut discovery) {
            frames += 1;
            let header = Header::parse(&frame).unwrap();
            if header.command == Command::Config {
                tag = header.tag;
            }
            for reply in target.handle(now, &frame) {
                take(&mut discovery, now, &bytes_of(&reply));
            }
        }
    }
    assert!(discovery.targets().len() <= TARGETS_MAX);
    assert!(frames < 3000, "{frames} frames in three seconds");
    let found = discovery.targets().into_iter().find(|info| info.address == ADDRESS).unwrap();
    assert!(matches!(found.kind, Some(TargetKind::Session { .. })));
}

#[test]
fn addresses_and_senders_that_cannot_be_are_ignored() {
    let mut discovery = discovery(3);
    for (address, mac) in [
        (ShelfSlot::ANY, TARGET_MAC),
        (ShelfSlot::new(1, 255), TARGET_MAC),
        (ADDRESS, MacAddr::BROADCAST),
        (ADDRESS, MacAddr::default()),
    ] {
        take(&mut discovery, Instant::default(), &announcement(address, mac, 0));
    }
    assert!(discovery.targets().is_empty());
}

#[test]
fn queries_are_eager_at_first_and_rare_later() {
    let mut discovery = discovery(4);
    drain(&mut discovery);
    let mut times = Vec::new();
    while let Some(at) =
        discovery.poll_timeout().filter(|at| *at < Instant::from_nanos(40_000_000_000))
    {
        discovery.handle_timeout(at);
        if !drain(&mut discovery).is_empty() {
            times.push(at.as_nanos() / 1_000_000_000);
        }
    }
    assert_eq!(times, [1, 2, 3, 4, 5, 15, 25, 35]);
}
