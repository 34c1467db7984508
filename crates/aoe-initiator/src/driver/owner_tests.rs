//! Two initiators and one disk: what the one that doesn't own it sees, and the way back of one that was
//! deposed.

use block::probe::{LABEL_BYTES, Signature, probe};
use block::{Holder, RefusalReason};

use super::*;

/// The device has 16384 sectors; the label says fewer.
const LABELLED: u64 = 12288;
pub(super) const OWNED: IoError = IoError::Refused(RefusalReason::Owned);

fn rival(world: &World) -> Initiator {
    rival_as(world, 2, None)
}

pub(super) fn rival_as(world: &World, number: u8, identity: Option<Rc<Identity>>) -> Initiator {
    let port = world.segment.plug(&world.handle, number, 9000);
    let options =
        InitiatorOptions { identity, ..InitiatorOptions::new(Incarnation([6 + number; 16])) };
    let initiator = Initiator::new(world.handle.clone(), options);
    initiator.add_port(port as Rc<dyn Port>);
    world.run(5 * SECOND, initiator.next_disk_event());
    initiator
}

fn label(slot: u8) -> Buffer {
    let mut label = vec![0; LABEL_BYTES];
    label[..8].copy_from_slice(b"EPLABEL\0");
    label[12] = slot;
    label[88..96].copy_from_slice(&(LABELLED * 512).to_le_bytes());
    let crc = block::crc32c(&label);
    label[8..12].copy_from_slice(&crc.to_le_bytes());
    Buffer::copy_of(&label)
}

impl World {
    pub(super) fn read(
        &self,
        disk: &RemoteDisk,
        start: u64,
        count: u64,
    ) -> Result<Buffer, IoError> {
        let read = disk.read(SectorRange::new(Lba(start), count));
        self.run(SECOND, read).map(|done| done.value)
    }

    pub(super) fn write(&self, disk: &RemoteDisk, start: u64, data: Buffer) -> Result<(), IoError> {
        let write = disk.write(Lba(start), data, Durability::Durable);
        self.run(SECOND, write).map(|_| ())
    }

    fn holder(&self, disk: &RemoteDisk) -> Holder {
        self.run(SECOND, disk.renew()).unwrap().value
    }

    fn claim(&self, disk: &RemoteDisk, claim: Claim) {
        self.run(SECOND, disk.claim(claim)).unwrap();
    }
}

fn told(initiator: &Initiator) -> Holder {
    let targets = initiator.targets();
    let Some(TargetKind::Session { export, .. }) = &targets[0].kind else { panic!("{targets:?}") };
    export.holder
}

#[test]
fn others_see_the_ends_that_the_label_names() {
    let world = world(21, 9000);
    let _node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let (owner, initiator) = (world.session_disk(), rival(&world));
    let stranger = session_disk_of(&initiator);
    world.read(&stranger, 0, 2048).unwrap();
    let blank = Rc::clone(&stranger);
    assert_eq!(world.run(SECOND, async move { probe(&*blank).await }), Ok(Vec::new()));
    world.claim(&owner, CLAIM);
    assert_eq!(world.read(&stranger, LABELLED - 2048, 32), Err(OWNED), "no label says so");
    world.write(&owner, 8, label(1)).unwrap();
    for (start, count) in [(0, 96), (LABELLED - 2048, 32), (16384 - 2048, 32)] {
        world.read(&stranger, start, count).unwrap();
        assert_eq!(world.read(&stranger, start, count + 1), Err(OWNED));
    }
    assert_eq!(world.read(&stranger, START, 8), Err(OWNED));
    assert_eq!(world.read(&owner, START, 8).unwrap(), bytes(8, 0));
    // Recognised, though not much can be read.
    let closed = Rc::clone(&stranger);
    let found = world.run(SECOND, async move { probe(&*closed).await });
    assert_eq!(found, Ok(vec![Signature::Etherpool]));
}

#[test]
fn who_was_deposed_finds_its_way_back() {
    for lost in [false, true] {
        let world = world(22, 9000);
        let node = world.node(1, 10, disk(), true);
        world.run(5 * SECOND, world.initiator.next_disk_event());
        let (deposed, initiator) = (world.session_disk(), rival(&world));
        let owner = session_disk_of(&initiator);
        world.claim(&deposed, CLAIM);
        world.write(&deposed, START, bytes(8, 1)).unwrap();
        let other = Claim { epoch: Epoch(4), owner: OwnerId(uuid::Uuid::max()), ..CLAIM };
        world.claim(&owner, other.clone());
        let fenced = IoError::Fenced { highest: Epoch(4) };
        assert_eq!(world.write(&deposed, START, bytes(8, 2)), Err(fenced));
        assert_eq!(world.run(SECOND, deposed.renew()), Err(fenced));
        assert_eq!(world.read(&deposed, 0, 8), Err(fenced));

        deposed.disown();
        if lost {
            node.port.is_down.set(true);
            assert_eq!(world.run(3 * SECOND, deposed.renew()), Err(IoError::Lost));
            world.wait(3 * SECOND);
            node.port.is_down.set(false);
            world.wait(3 * SECOND);
        }
        world.read(&deposed, 0, 8).unwrap();
        assert_eq!(world.read(&deposed, START, 8), Err(OWNED));
        assert!(world.write(&deposed, START, bytes(8, 2)).is_err());
        assert!(world.holder(&deposed).is_same(Holder::new(other.epoch, other.owner)));
        world.wait(3 * SECOND);
        let heard = world.holder(&deposed).heard.unwrap();
        assert!(heard >= 3 * SECOND, "{heard:?}");
        assert_eq!(world.read(&owner, START, 8).unwrap(), bytes(8, 1));
        assert!(world.holder(&deposed).heard.unwrap() < SECOND);

        world.claim(&deposed, Claim { epoch: Epoch(5), ..CLAIM });
        world.write(&deposed, START, bytes(8, 3)).unwrap();
        assert_eq!(world.read(&deposed, START, 8).unwrap(), bytes(8, 3));
        let fenced = IoError::Fenced { highest: Epoch(5) };
        assert_eq!(world.read(&owner, START, 8), Err(fenced));
    }
}

#[test]
fn targets_tell_the_owner_of_now() {
    let world = world(23, 9000);
    let _node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let (owner, initiator) = (world.session_disk(), rival(&world));
    assert_eq!(told(&world.initiator), Holder::default());
    world.claim(&owner, CLAIM);
    let held = Holder::new(CLAIM.epoch, CLAIM.owner);
    assert!(told(&world.initiator).is_same(held));
    assert_eq!(told(&initiator), Holder::default(), "nobody has told it yet");
    world.wait(3 * SECOND);
    assert!(told(&initiator).is_same(held));
    // Nothing was wanted under the claim since.
    assert!(told(&initiator).heard.unwrap() >= 3 * SECOND);
}
