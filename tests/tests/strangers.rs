//! What who isn't a disk's owner can see of it: a machine on the lab's switch that speaks sessions by
//! docs/session.md.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use aoe_wire::{
    Command as AoeCommand, Header, Incarnation, Nonce, OpenPayload, Operation, SessionId,
    SessionReply, SessionRequest, ShelfSlot, Status,
};
use blackbox::frames::Client;
use blackbox::{Lab, LabOptions, VOLUME, wait_until};
use block::{Buffer, Epoch, Instance, Lba};
use os::net::InterfaceSpec;

/// Status and detail. *Refused*: the disk has an owner.
const OWNED: (u8, u64) = (7, 6);
/// *Refused*: observers may only read.
const OBSERVER_ONLY: (u8, u64) = (7, 5);
const NEVER: u64 = u64::MAX;

struct Answer {
    status: u8,
    detail: u64,
    payload: Vec<u8>,
}

/// A session as an observer with one disk, from a machine of its own on the lab's switch.
struct Stranger {
    client: Client,
    session: SessionId,
    instance: Instance,
    sequence: u64,
    /// The epoch that the last answer named.
    epoch: Epoch,
}

/// Another machine at the switch.
fn plug_in(lab: &Lab) -> InterfaceSpec {
    let netns = lab.status()["netns"].as_str().unwrap().to_owned();
    for line in [
        "link add str1 mtu 9000 type veth peer name pstr1 mtu 9000",
        "link set pstr1 master br0 up",
        "link set str1 up",
    ] {
        let status = Command::new("ip").args(["-n", &netns]).args(line.split(' ')).status();
        assert!(status.unwrap().success(), "ip {line}");
    }
    InterfaceSpec { name: "str1".to_owned(), netns: Some(netns) }
}

impl Stranger {
    fn open(interface: &InterfaceSpec, address: &str) -> Stranger {
        let address: ShelfSlot = address.parse().unwrap();
        let client = Client::connect(interface, address).unwrap();
        let (session, instance) = (SessionId::NONE, Instance::default());
        let epoch = Epoch::OBSERVER;
        let mut stranger = Stranger { client, session, instance, sequence: 0, epoch };
        // Any numbers do, as long as none comes twice: nobody else is this machine.
        static NONCES: AtomicU64 = AtomicU64::new(1);
        let number = u128::from(NONCES.fetch_add(1, Ordering::Relaxed));
        let (nonce, incarnation) = (Nonce(number.to_be_bytes()), Incarnation([0x52; 16]));
        let hello = stranger.request(Operation::Hello);
        let (reply, payload) = stranger.ask(hello, OpenPayload::emit_hello(nonce, incarnation));
        (stranger.session, stranger.instance) = (reply.session, reply.instance);
        let (target, _) = OpenPayload::parse_hello_reply(&payload).unwrap();
        let opening = OpenPayload { client: nonce, target, incarnation };
        let open = stranger.request(Operation::Open);
        let (reply, _) = stranger.ask(open, opening.emit());
        assert_eq!(reply.status, Status::Ok);
        stranger
    }

    fn request(&self, operation: Operation) -> SessionRequest {
        let (client, address) = (self.client.mac(), self.client.address());
        let tag = self.client.tag();
        let header =
            Header::request(self.client.target(), client, address, AoeCommand::Session, tag);
        SessionRequest {
            session: self.session,
            instance: self.instance,
            sequence: self.sequence,
            floor: self.sequence,
            ..SessionRequest::new(header, operation)
        }
    }

    fn ask(&mut self, request: SessionRequest, payload: Buffer) -> (SessionReply, Vec<u8>) {
        let frame = request.emit(payload);
        let bytes = [frame.head.as_slice(), &frame.payload].concat();
        let answer = self.client.ask(&bytes, 50).unwrap();
        let answer = answer.unwrap_or_else(|| panic!("{request:?} is not answered"));
        let (reply, payload) = SessionReply::parse(&answer).unwrap();
        self.epoch = reply.epoch;
        (reply, payload.to_vec())
    }

    fn command(&mut self, operation: Operation, lba: u64, sectors: u32, payload: Buffer) -> Answer {
        self.sequence += 1;
        let request = self.request(operation);
        let request = SessionRequest { lba: Lba(lba), sectors, ..request };
        let (reply, payload) = self.ask(request, payload);
        Answer { status: reply.status.into(), detail: reply.detail, payload }
    }

    /// Status and detail of the answer.
    fn reads(&mut self, lba: u64, sectors: u32) -> (u8, u64) {
        let answer = self.command(Operation::Read, lba, sectors, Buffer::empty());
        (answer.status, answer.detail)
    }

    fn sees(&mut self, lba: u64, sectors: u32) -> Vec<u8> {
        let answer = self.command(Operation::Read, lba, sectors, Buffer::empty());
        assert_eq!((answer.status, answer.detail), (0, 0), "{lba}+{sectors}");
        assert_eq!(answer.payload.len(), sectors as usize * 512);
        answer.payload
    }

    /// How many milliseconds ago the disk's owner was heard.
    fn heard(&mut self) -> u64 {
        let answer = self.command(Operation::Status, 0, 0, Buffer::empty());
        assert_eq!((answer.status, answer.payload.len()), (0, 32));
        u64::from_be_bytes(*answer.payload.last_chunk().unwrap())
    }
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
    let interface = plug_in(&lab);
    for address in ["e1.0", "e2.0", "e3.0"] {
        let mut stranger = Stranger::open(&interface, address);
        let label = stranger.sees(0, 8);
        assert!(stranger.epoch > Epoch::OBSERVER, "nobody owns {address}");
        assert!(label.starts_with(b"EPLABEL\0"));
        let (size, extent) = (little_endian(&label, 88) / 512, little_endian(&label, 96) / 512);
        assert!(stranger.sees(8, 8).starts_with(b"EPLABEL\0"));
        stranger.sees(16, 16);
        stranger.sees(32, 16);
        stranger.sees(80, 16);
        for slot in [size - 2048, size - 2040] {
            assert!(stranger.sees(slot, 8).starts_with(b"EPLABEL\0"));
        }
        // Every extent, the metadata among them, and the last sectors; and what begins where it may.
        let extents: Vec<_> = (2048..size - 2048).step_by(extent as usize).collect();
        assert!(extents.len() > 10, "{} extents", extents.len());
        let begins = extents.iter().map(|begin| (*begin, 8));
        for (lba, sectors) in begins.chain([(size - 8, 8), (95, 2), (96, 1)]) {
            assert_eq!(stranger.reads(lba, sectors), OWNED, "{address}: {lba}+{sectors}");
        }
        let data = Buffer::copy_of(&[0; 4096]);
        let answer = stranger.command(Operation::Write, extents[0], 8, data);
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
    let interface = plug_in(&lab);
    let mut early: Vec<_> =
        addresses.iter().map(|address| Stranger::open(&interface, address)).collect();
    for stranger in &mut early {
        assert_eq!(stranger.sees(20_000, 16), vec![0; 8192]);
    }
    lab.cli(&["pool", "create", "cluster", "e1.0", "e2.0", "e3.0", "--yes"]);
    // At the first question, which is answered before anybody has been asked anew.
    let named = owners();
    assert!(named.len() == 1 && !named.contains(&None), "{named:?}");
    for stranger in &mut early {
        assert_eq!(stranger.reads(20_000, 16), OWNED);
        assert!(stranger.sees(0, 8).starts_with(b"EPLABEL\0"));
    }
}

/// Issue 7, item 3: when an owner was last heard.
#[test]
fn a_disk_tells_when_its_owner_was_last_heard() {
    let lab = Lab::up(&small());
    let interface = plug_in(&lab);
    let mut stranger = Stranger::open(&interface, "e1.0");
    wait_until("the owner is heard", || stranger.heard() < 1000);
    lab.lab(&["kill", "supervisor"]);
    let begin = stranger.heard();
    // One that lived would have renewed long before.
    wait_until("the owner isn't heard any more", || stranger.heard() >= begin + 10_000);
    assert!(stranger.epoch > Epoch::OBSERVER);

    lab.lab(&["kill", "n1"]);
    lab.lab(&["start", "n1"]);
    let mut stranger = Stranger::open(&interface, "e1.0");
    assert_eq!(stranger.heard(), NEVER, "the node serves it anew");
    assert!(stranger.epoch > Epoch::OBSERVER, "and knows the owner");
    lab.lab(&["start", "supervisor"]);
    wait_until("the owner is back", || stranger.heard() < 1000);
}
