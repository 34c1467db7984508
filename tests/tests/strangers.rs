//! What who isn't a disk's owner can see of it: a machine on the lab's switch that speaks sessions by
//! docs/session.md.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;

use aoe_wire::{Operation, SessionVersion};
use blackbox::attacker::{Answer, Stranger};
use blackbox::{Lab, LabOptions, VOLUME, wait_until};
use block::{Buffer, Epoch};
use os::net::InterfaceSpec;

/// Status and detail. *Refused*: the disk has an owner.
const OWNED: (u8, u64) = (7, 6);
/// *Refused*: observers may only read.
const OBSERVER_ONLY: (u8, u64) = (7, 5);
const NEVER: u64 = u64::MAX;

/// A session of a machine that has no key.
fn open(interface: &InterfaceSpec, address: &str) -> Stranger {
    Stranger::open(interface, address, None, SessionVersion::One).expect("it may look")
}

/// As an observer.
fn asks(
    stranger: &mut Stranger,
    operation: Operation,
    place: (u64, u32),
    payload: Buffer,
) -> Answer {
    let answer = stranger.command(operation, (Epoch::OBSERVER, false), place, payload);
    answer.unwrap_or_else(|| panic!("{operation:?} {place:?} is not answered"))
}

/// Status and detail of the answer.
fn reads(stranger: &mut Stranger, lba: u64, sectors: u32) -> (u8, u64) {
    let answer = asks(stranger, Operation::Read, (lba, sectors), Buffer::empty());
    (answer.status, answer.detail)
}

fn sees(stranger: &mut Stranger, lba: u64, sectors: u32) -> Vec<u8> {
    let answer = asks(stranger, Operation::Read, (lba, sectors), Buffer::empty());
    assert_eq!((answer.status, answer.detail), (0, 0), "{lba}+{sectors}");
    assert_eq!(answer.payload.len(), sectors as usize * 512);
    answer.payload
}

/// How many milliseconds ago the disk's owner was heard.
fn heard(stranger: &mut Stranger) -> u64 {
    let answer = asks(stranger, Operation::Status, (0, 0), Buffer::empty());
    assert_eq!((answer.status, answer.payload.len()), (0, 32));
    u64::from_be_bytes(*answer.payload.last_chunk().unwrap())
}

fn little_endian(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn small() -> LabOptions {
    // Of one whose machines have keys nobody gets so far (keys, joining).
    LabOptions { size: "512M", disks: 1, security: "none", ..LabOptions::default() }
}

/// Issue 7, item 8.
#[test]
fn a_stranger_reads_labels_and_no_data() {
    let lab = Lab::up(&small());
    std::fs::write(lab.mount().join("secret"), vec![0x5a; 4 << 20]).unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();
    let interface = lab.plug_in("str1");
    for address in ["e1.0", "e2.0", "e3.0"] {
        let mut stranger = open(&interface, address);
        let label = sees(&mut stranger, 0, 8);
        assert!(stranger.epoch > Epoch::OBSERVER, "nobody owns {address}");
        assert!(label.starts_with(b"EPLABEL\0"));
        let (size, extent) = (little_endian(&label, 88) / 512, little_endian(&label, 96) / 512);
        assert!(sees(&mut stranger, 8, 8).starts_with(b"EPLABEL\0"));
        sees(&mut stranger, 16, 16);
        sees(&mut stranger, 32, 16);
        sees(&mut stranger, 80, 16);
        for slot in [size - 2048, size - 2040] {
            assert!(sees(&mut stranger, slot, 8).starts_with(b"EPLABEL\0"));
        }
        // Every extent, the metadata among them, and the last sectors; and what begins where it may.
        let extents: Vec<_> = (2048..size - 2048).step_by(extent as usize).collect();
        assert!(extents.len() > 10, "{} extents", extents.len());
        let begins = extents.iter().map(|begin| (*begin, 8));
        for (lba, sectors) in begins.chain([(size - 8, 8), (95, 2), (96, 1)]) {
            assert_eq!(reads(&mut stranger, lba, sectors), OWNED, "{address}: {lba}+{sectors}");
        }
        let data = Buffer::copy_of(&[0; 4096]);
        let answer = asks(&mut stranger, Operation::Write, (extents[0], 8), data);
        assert_eq!((answer.status, answer.detail), OBSERVER_ONLY);
    }
    // The owner isn't disturbed.
    assert_eq!(std::fs::read(lab.mount().join("secret")).unwrap(), vec![0x5a; 4 << 20]);
    lab.cli(&["volume", "verify", VOLUME]);
}

/// Issue 7, items 8 and 10 (findings 5.16): who is in time sees all of a blank disk, but only until it
/// has an owner; and that owner is named at once.
#[test]
fn a_new_pools_disks_are_closed_and_their_owner_is_named() {
    let lab = Lab::up(&LabOptions { bare: true, ..small() });
    let addresses = ["e1.0", "e2.0", "e3.0"];
    let owners = || -> BTreeSet<Option<String>> {
        let seen = lab.json(&["aoe", "discover"]);
        let targets = seen.as_array().or_else(|| seen["targets"].as_array()).unwrap().clone();
        let owner = |target: &serde_json::Value| target["owner"].as_str().map(str::to_owned);
        // Each is seen on several ways.
        let ours = targets.iter().filter(|target| target["session"] == true);
        ours.map(owner).collect()
    };
    wait_until("the disks are seen", || owners() == BTreeSet::from([None]));
    let interface = lab.plug_in("str1");
    let mut early: Vec<_> = addresses.iter().map(|address| open(&interface, address)).collect();
    for stranger in &mut early {
        assert_eq!(sees(stranger, 20_000, 16), vec![0; 8192]);
    }
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    // At the first question, which is answered before anybody has been asked anew.
    let named = owners();
    assert!(named.len() == 1 && !named.contains(&None), "{named:?}");
    for stranger in &mut early {
        assert_eq!(reads(stranger, 20_000, 16), OWNED);
        assert!(sees(stranger, 0, 8).starts_with(b"EPLABEL\0"));
    }
}

/// Issue 7, item 3: when an owner was last heard.
#[test]
fn a_disk_tells_when_its_owner_was_last_heard() {
    let lab = Lab::up(&small());
    let interface = lab.plug_in("str1");
    let mut stranger = open(&interface, "e1.0");
    wait_until("the owner is heard", || heard(&mut stranger) < 1000);
    lab.lab(&["kill", "supervisor"]);
    let begin = heard(&mut stranger);
    // One that lived would have renewed long before.
    wait_until("the owner isn't heard any more", || heard(&mut stranger) >= begin + 10_000);
    assert!(stranger.epoch > Epoch::OBSERVER);

    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    let mut stranger = open(&interface, "e1.0");
    assert_eq!(heard(&mut stranger), NEVER, "the node serves it anew");
    assert!(stranger.epoch > Epoch::OBSERVER, "and knows the owner");
    lab.lab(&["start", "supervisor"]);
    wait_until("the owner is back", || heard(&mut stranger) < 1000);
}
