#![allow(clippy::unwrap_used)]

use super::*;
use aoe_target::{Abilities, DeviceState, Target};
use aoe_wire::PortId;
use block::{DurabilityClass, Geometry, Instant};

const ALLOWED: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

fn setting(allow: &[MacAddr]) -> ExportSetting {
    ExportSetting {
        address: aoe_wire::ShelfSlot { shelf: 7, slot: 1 },
        interfaces: Vec::new(),
        allow: allow.iter().map(|mac| (*mac).try_into().unwrap()).collect(),
        read_only: false,
    }
}

/// A target with one export of these settings, that has said what it says by itself.
fn target(allow: &[MacAddr]) -> (Target, Vec<Vec<u8>>) {
    let identity = NodeIdentity { id: uuid::Uuid::from_u128(1), name: "host".into() };
    let mut target = Target::new(identity, 1);
    let name = VolumeName::new("pool", "volume").unwrap();
    let options = options(&name, &setting(allow), &["eth0".to_owned()], Remembered::default());
    let device = DeviceState {
        geometry: Geometry {
            sectors: 1000,
            physical_block_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            class: DurabilityClass::Durable,
        },
        instance: block::Instance::default(),
        ownership: aoe_target::Ownership::Unclaimed { labelled: false },
        labelled: [None; 2],
        grant: None,
    };
    target.set_port(PortId(0), "eth0".into(), OWN, 9000);
    target
        .add_export(options, device, Abilities { remembers: true, ..Abilities::default() })
        .unwrap();
    let said = frames(&mut target);
    (target, said)
}

/// What the target sends. Requests to its device are left unanswered, and are told too: a frame that
/// makes the device work shows itself by the time that this takes.
fn frames(target: &mut Target) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((_, frame)) = target.poll_transmit() {
        let mut bytes = frame.head.to_vec();
        bytes.extend_from_slice(&frame.payload);
        frames.push(bytes);
    }
    while target.poll_io().is_some() {
        frames.push(Vec::new());
    }
    frames
}

/// Every command there is, to every form of the address, to the target's own address and to all
/// stations, as short, full and overlong frames, of our version and of others, with all flags that a
/// request can have, and with the arguments that decide what a command does.
fn all_frames(source: MacAddr) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let addresses = [(7u16, 1u8), (0xffff, 1), (7, 0xff), (0xffff, 0xff)];
    for destination in [OWN, BROADCAST] {
        for (shelf, slot) in addresses {
            for command in [0u8, 1, 2, 3, 4, 0xf0, 0xff] {
                for flags in [0x10u8, 0x13, 0x20, 0x00] {
                    for argument in arguments(command) {
                        for len in [24usize, 32, 36, 60, 36 + 512, 1500] {
                            let mut frame = destination.0.to_vec();
                            frame.extend(source.0);
                            frame.extend([0x88, 0xa2, flags, 0]);
                            frame.extend(shelf.to_be_bytes());
                            frame.extend([slot, command, 0, 0, 0, 9]);
                            frame.extend(&argument);
                            frame.resize(len, 0);
                            frames.push(frame);
                        }
                    }
                }
            }
        }
    }
    frames
}

fn arguments(command: u8) -> Vec<Vec<u8>> {
    match command {
        // Flags, feature, count, command, address.
        0 => [0x20u8, 0x24, 0x30, 0x34, 0xec, 0xe7, 0xea, 0xe5, 0xef, 0xb0, 0x00]
            .into_iter()
            .flat_map(|ata| {
                [0x00u8, 0x40]
                    .into_iter()
                    .map(move |flags| vec![flags, 0x02, 1, ata, 0, 0, 0, 0xa0, 0, 0, 0, 0])
            })
            .collect(),
        // Read, test, test of a prefix, set, force.
        1 => (0u8..=5).map(|what| vec![0, 0, 0, 0, 0, 0x10 | what, 0, 0]).collect(),
        // Read, edit: add the sender.
        2 => vec![vec![0, 0, 0, 0], [vec![0, 1, 0, 1, 0, 1], STRANGER.0.to_vec()].concat()],
        // Read, set, force set.
        3 => (0u8..=2).map(|what| [vec![what, 1], STRANGER.0.to_vec()].concat()).collect(),
        _ => vec![vec![0; 16]],
    }
}

#[test]
fn a_stranger_learns_nothing_by_any_frame() {
    let (mut target, announced) = target(&[ALLOWED]);
    let to = |frame: &Vec<u8>| MacAddr(frame[..6].try_into().unwrap());
    assert!(announced.iter().all(|frame| to(frame) == ALLOWED), "{announced:02x?}");
    let mut sent = 0;
    for (at, frame) in all_frames(STRANGER).into_iter().enumerate() {
        target.handle_frame(Instant::from_nanos(at as u64 * 1_000_000), PortId(0), &frame);
        let answers = frames(&mut target);
        assert!(answers.is_empty(), "{frame:02x?}\n{answers:02x?}");
        sent += 1;
    }
    assert!(sent > 2000);
    let stats = target.exports()[0].stats;
    assert_eq!(stats.answered(), 0);
    assert_eq!(target.exports()[0].remembered, Remembered::default());
}

#[test]
fn the_clients_on_the_list_are_served() {
    for allow in [&[ALLOWED][..], &[]] {
        let (mut target, announced) = target(allow);
        assert!(!announced.is_empty());
        let answered = all_frames(ALLOWED).into_iter().filter(|frame| {
            target.handle_frame(Instant::default(), PortId(0), frame);
            !frames(&mut target).is_empty()
        });
        assert!(answered.count() > 100);
    }
}

#[test]
fn clients_on_the_list_cannot_lock_out_each_other() {
    let name = VolumeName::new("pool", "volume").unwrap();
    let guarded = options(&name, &setting(&[ALLOWED]), &[], Remembered::default());
    assert!(!guarded.list_editors.allows(ALLOWED));
    let open = options(&name, &setting(&[]), &[], Remembered::default());
    assert!(open.list_editors.allows(ALLOWED) && open.access.allows_all(AccessOperation::Write));
}

fn report(state: pool::PoolState) -> PoolReport {
    let text = property_text(&[setting(&[])]);
    let volume = pool::VolumeReport {
        name: "volume".into(),
        id: "1".into(),
        layout: "raid0".into(),
        converting_to: None,
        size_bytes: 1,
        properties: BTreeMap::from([(control::settings::EXPORTS_KEY.to_owned(), text)]),
        state: pool::VolumeState::Online,
        degraded: false,
        dirty_bytes: 0,
        resynced_bytes: 0,
        read_bytes: 0,
        written_bytes: 0,
        repaired_blocks: 0,
        log_bytes: 0,
        log_capacity_bytes: 1 << 20,
        survives_disks: 1,
        survives_nodes: 1,
        survives_labels: Default::default(),
        shared_groups: 0,
        replayed: pool::Replayed::default(),
        replaying: None,
    };
    PoolReport {
        read_only: false,
        stale_secs: None,
        name: "pool".into(),
        id: uuid::Uuid::from_u128(7).to_string(),
        state,
        owner: "host".into(),
        epoch: 1,
        capacity_bytes: 0,
        free_bytes: 0,
        survives: 0,
        disks: Vec::new(),
        votes: pool::VotesReport::default(),
        lease_ok: true,
        ours: true,
        jobs: Vec::new(),
        scrub: None,
        spare: None,
        grant: None,
        volumes: vec![volume],
    }
}

#[test]
fn what_came_with_a_pool_is_not_exported_until_services_say_so() {
    use pool::PoolState;
    let open = report(PoolState::Online);
    let mut known = Registry::default();
    known.pool_mut(uuid::Uuid::from_u128(7), "pool");
    let mut held = HeldExports::new(&known);
    let exported = |held: &mut HeldExports, report: &PoolReport| {
        held.take_note(std::slice::from_ref(report));
        wanted(std::slice::from_ref(report), held).len()
    };
    assert_eq!(exported(&mut held, &open), 1, "a pool of our own, at the start");
    assert_eq!(exported(&mut held, &report(PoolState::Fenced)), 0);
    assert_eq!(exported(&mut held, &open), 0, "another had it");
    held.set(open.id.clone(), BTreeSet::new());
    assert_eq!(exported(&mut held, &open), 1, "confirmed");
    held.set(open.id.clone(), ["volume".to_owned()].into());
    assert_eq!(exported(&mut held, &open), 0);

    let volume = control::registry::held("volume", control::settings::EXPORTS_KEY);
    known.pool_mut(uuid::Uuid::from_u128(7), "pool").held.insert(volume);
    assert_eq!(exported(&mut HeldExports::new(&known), &open), 0, "waits over a restart");
    let mut held =
        HeldExports::new(&Registry { pools: vec![known.pools[0].clone()], ..Registry::default() });
    held.set(open.id.clone(), BTreeSet::new());
    held.import_begins(&[report(PoolState::Opening)]);
    held.set(open.id.clone(), BTreeSet::new());
    assert_eq!(exported(&mut held, &open), 0, "known, but it may have been another's meanwhile");
    held.set(open.id.clone(), BTreeSet::new());
    held.import_begins(std::slice::from_ref(&open));
    assert_eq!(exported(&mut held, &open), 1, "it was open all the time");
    let mut fresh = HeldExports::default();
    let mut empty = open.clone();
    let volumes = std::mem::take(&mut empty.volumes);
    assert_eq!(exported(&mut fresh, &empty), 0);
    empty.volumes = volumes;
    assert_eq!(exported(&mut fresh, &empty), 1, "set after the pool was made here");
}
