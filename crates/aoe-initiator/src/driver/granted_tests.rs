//! Whom a disk obeys that has the grant of a pool's key, among those who all may open sessions with its node.

use aoe_target::FencedDevice;
use block::{RefusalReason, Trust};
use seal::{Grant, PoolKeyPair, SecretKey, Security};

use super::keyed::{identity, public};
use super::owner::{OWNED, rival_as};
use super::*;

const NOT_ADMITTED: IoError = IoError::Refused(RefusalReason::NotAdmitted);
/// Two supervisors, by the numbers of their keys.
const OURS: u8 = 1;
const OTHER: u8 = 3;

fn pool_key(number: u8) -> PoolKeyPair {
    PoolKeyPair::of(SecretKey::new([100 + number; 32])).unwrap()
}

fn bytes_of(grant: &Grant) -> Buffer {
    Buffer::copy_of(grant.bytes())
}

fn claim(epoch: u64, supervisor: u8, trust: Trust) -> Claim {
    let owner = OwnerId(uuid::Uuid::from_u128(supervisor.into()));
    Claim { epoch: Epoch(epoch), owner, force: false, trust }
}

/// A node, the supervisor that has its disk, and another one.
struct Scene {
    world: World,
    _node: Node,
    ours: Rc<RemoteDisk>,
    _initiator: Initiator,
    other: Rc<RemoteDisk>,
}

fn scene(seed: u64) -> Scene {
    let key = |number| Some(Rc::new(identity(number, Security::Encrypt)));
    let world = world_as(seed, 9000, key(OURS));
    let node = world.node_as(1, 10, disk(), true, key(2));
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let (ours, initiator) = (world.session_disk(), rival_as(&world, 2, key(OTHER)));
    let other = session_disk_of(&initiator);
    Scene { world, _node: node, ours, _initiator: initiator, other }
}

impl Scene {
    fn claims(&self, disk: &RemoteDisk, claim: Claim) -> Result<(), IoError> {
        self.world.run(SECOND, disk.claim(claim)).map(drop)
    }

    fn writes(&self, disk: &RemoteDisk, tag: u8) -> Result<(), IoError> {
        self.world.write(disk, START, bytes(8, tag))
    }

    /// What is on the disk, as its owner sees it.
    fn has(&self, disk: &RemoteDisk, tag: u8) {
        assert_eq!(self.world.read(disk, START, 8).unwrap(), bytes(8, tag));
    }
}

#[test]
fn a_disk_obeys_whom_its_pool_lets_in_and_nobody_else() {
    let scene = scene(1);
    let first = pool_key(1).found(&[public(OURS)]).unwrap();
    scene.claims(&scene.ours, claim(3, OURS, Trust::Replace(bytes_of(&first)))).unwrap();
    scene.writes(&scene.ours, 1).unwrap();

    // With a higher epoch, with the present one in the owner's name, with a grant of his own, and with none.
    let thiefs = pool_key(9).found(&[public(OTHER)]).unwrap();
    let thiefs_newer = pool_key(9).follow(&thiefs, &[public(OTHER)]).unwrap();
    let tries = [
        Trust::Unchanged,
        Trust::Forget,
        Trust::Replace(bytes_of(&thiefs)),
        Trust::Follow(bytes_of(&thiefs_newer)),
        Trust::Follow(bytes_of(&first)),
        Trust::Follow(Buffer::copy_of(&[0; 200])),
    ];
    for trust in tries {
        for (epoch, owner) in [(3, OURS), (4, OTHER), (u64::MAX, OTHER)] {
            for force in [false, true] {
                scene.other.disown();
                let claim = Claim { force, ..claim(epoch, owner, trust.clone()) };
                assert_eq!(scene.claims(&scene.other, claim), Err(NOT_ADMITTED), "{trust:?}");
            }
        }
    }
    // He sees what all see, also when the owner was silent for long, and doesn't make him live.
    scene.other.disown();
    scene.world.read(&scene.other, 0, 96).unwrap();
    assert_eq!(scene.world.read(&scene.other, START, 8), Err(OWNED));
    let heard = |scene: &Scene| {
        scene.other.disown();
        scene.world.run(SECOND, scene.other.renew()).unwrap().value.heard.unwrap()
    };
    for trust in [Trust::Unchanged, Trust::Follow(bytes_of(&thiefs_newer))] {
        scene.world.wait(10 * SECOND);
        let owners = claim(3, OURS, trust);
        assert_eq!(scene.claims(&scene.other, owners), Err(NOT_ADMITTED));
        assert!(heard(&scene) >= 10 * SECOND);
    }
    scene.other.look_inside(true);
    assert_eq!(scene.world.read(&scene.other, START, 8), Err(NOT_ADMITTED));
    scene.has(&scene.ours, 1);
}

/// Who has the pool's key reads what a dead owner has left, and the disk obeys whom it obeyed.
#[test]
fn who_shows_a_newer_grant_as_an_observer_reads_and_nothing_is_kept() {
    let scene = scene(5);
    let (key, next) = (pool_key(1), pool_key(2));
    let first = key.found(&[public(OURS)]).unwrap();
    let both = key.follow(&first, &[public(OURS), public(OTHER)]).unwrap();
    let show = |grant: &Grant| {
        let trust = Trust::Follow(bytes_of(grant));
        scene.claims(&scene.other, Claim { trust, ..Claim::new(Epoch::OBSERVER, OwnerId::NONE) })
    };
    scene.claims(&scene.ours, claim(3, OURS, Trust::Replace(bytes_of(&first)))).unwrap();
    scene.writes(&scene.ours, 1).unwrap();
    scene.other.look_inside(true);
    let reads = || scene.world.read(&scene.other, START, 8);
    // One that doesn't name him, and one of another key.
    for grant in [&first, &key.follow(&first, &[public(OURS)]).unwrap()] {
        assert_eq!(show(grant), Err(NOT_ADMITTED));
    }
    let thiefs = pool_key(9).found(&[public(OTHER)]).unwrap();
    let thiefs = pool_key(9).follow(&thiefs, &[public(OTHER)]).unwrap();
    assert_eq!(show(&thiefs), Err(NOT_ADMITTED));
    let nothing = Claim::new(Epoch::OBSERVER, OwnerId::NONE);
    let refused = Err(IoError::Refused(RefusalReason::ObserverOnly));
    assert_eq!(scene.claims(&scene.other, nothing), refused);
    scene.world.wait(20 * SECOND);
    assert_eq!(reads(), Err(NOT_ADMITTED));

    show(&both).unwrap();
    let heard = scene.world.run(SECOND, scene.other.renew()).unwrap().value.heard;
    assert!(heard.unwrap() >= 20 * SECOND, "nobody passes for the owner so");
    assert_eq!(reads().unwrap(), bytes(8, 1));
    // To look is all that he may.
    let changed = scene.writes(&scene.other, 2);
    assert_eq!(changed, Err(IoError::Refused(RefusalReason::ObserverOnly)));
    assert_eq!(scene.claims(&scene.other, claim(4, OTHER, Trust::Unchanged)), Err(NOT_ADMITTED));
    assert_eq!(scene.claims(&scene.other, claim(3, OURS, Trust::Unchanged)), Err(NOT_ADMITTED));
    // While the owner lives he gets nothing, nor once the disk obeys something newer.
    scene.has(&scene.ours, 1);
    assert_eq!(reads(), Err(OWNED));
    let rotated = key.hand_over(&first, &next, &[public(OURS)]).unwrap();
    scene.claims(&scene.ours, claim(3, OURS, Trust::Follow(bytes_of(&rotated)))).unwrap();
    scene.world.wait(20 * SECOND);
    assert_eq!(reads(), Err(NOT_ADMITTED));
    assert_eq!(show(&both), Err(NOT_ADMITTED));
}

#[test]
fn a_newer_grant_lets_in_and_shuts_out_at_once_and_a_former_one_comes_too_late() {
    let scene = scene(2);
    let (key, next) = (pool_key(1), pool_key(2));
    let first = key.found(&[public(OURS)]).unwrap();
    let both = key.follow(&first, &[public(OURS), public(OTHER)]).unwrap();
    let only_other = key.hand_over(&both, &next, &[public(OTHER)]).unwrap();
    scene.claims(&scene.ours, claim(3, OURS, Trust::Replace(bytes_of(&first)))).unwrap();
    // Under the epoch that it has.
    scene.claims(&scene.ours, claim(3, OURS, Trust::Follow(bytes_of(&both)))).unwrap();
    scene.writes(&scene.ours, 1).unwrap();
    scene.claims(&scene.other, claim(4, OTHER, Trust::Unchanged)).unwrap();
    // Back, with the former grant: it changes nothing.
    scene.claims(&scene.ours, claim(5, OURS, Trust::Follow(bytes_of(&first)))).unwrap();
    scene.claims(&scene.other, claim(6, OTHER, Trust::Follow(bytes_of(&only_other)))).unwrap();
    scene.writes(&scene.other, 2).unwrap();
    assert_eq!(scene.writes(&scene.ours, 3), Err(IoError::Fenced { highest: Epoch(6) }));
    // The former key signs no more, whatever version it writes, nor hands over to somebody else.
    let mut late = both;
    for _ in 0..3 {
        late = key.follow(&late, &[public(OURS)]).unwrap();
    }
    let elsewhere = key.hand_over(&late, &pool_key(9), &[public(OURS)]).unwrap();
    for trust in
        [Trust::Unchanged, Trust::Follow(bytes_of(&late)), Trust::Follow(bytes_of(&elsewhere))]
    {
        let again = claim(9, OURS, trust);
        assert_eq!(scene.claims(&scene.ours, again), Err(NOT_ADMITTED));
    }
    scene.has(&scene.other, 2);
}

#[test]
fn another_pool_begins_where_whoever_had_the_disk_gives_it_up() {
    let scene = scene(3);
    let ours = pool_key(1).found(&[public(OURS)]).unwrap();
    let others = pool_key(2).found(&[public(OTHER)]).unwrap();
    // Nobody shows a grant that locks him out himself.
    for trust in [Trust::Replace(bytes_of(&others)), Trust::Follow(bytes_of(&others))] {
        assert_eq!(scene.claims(&scene.ours, claim(3, OURS, trust)), Err(NOT_ADMITTED));
    }
    scene.claims(&scene.ours, claim(3, OURS, Trust::Follow(bytes_of(&ours)))).unwrap();
    let takes = || claim(4, OTHER, Trust::Replace(bytes_of(&others)));
    assert_eq!(scene.claims(&scene.other, takes()), Err(NOT_ADMITTED));
    scene.claims(&scene.ours, claim(3, OURS, Trust::Forget)).unwrap();
    scene.claims(&scene.other, takes()).unwrap();
    assert_eq!(scene.writes(&scene.ours, 1), Err(IoError::Fenced { highest: Epoch(4) }));
    scene.writes(&scene.other, 2).unwrap();
    // A pool of one's own may follow one's former pool.
    let again = pool_key(3).found(&[public(OTHER)]).unwrap();
    scene.claims(&scene.other, claim(5, OTHER, Trust::Replace(bytes_of(&again)))).unwrap();
    scene.has(&scene.other, 2);
}

#[test]
fn who_has_no_key_gets_nothing_of_a_disk_that_obeys_one() {
    let world = world(4, 9000);
    let device = disk();
    let fenced = FencedDevice::open(device.clone(), world.handle.clone());
    let fenced = Rc::new(world.run(SECOND, fenced).unwrap());
    let grant = pool_key(1).found(&[public(OURS)]).unwrap();
    let claiming = Rc::clone(&fenced);
    let granted = claim(3, OURS, Trust::Replace(bytes_of(&grant)));
    world.run(SECOND, async move { claiming.claim(granted).await }).unwrap();
    drop(fenced);
    let _node = world.node(1, 10, device, true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let disk = world.session_disk();
    for trust in [Trust::Unchanged, Trust::Forget, Trust::Follow(bytes_of(&grant))] {
        let claimed = world.run(SECOND, disk.claim(claim(4, OURS, trust)));
        assert_eq!(claimed.map(drop), Err(NOT_ADMITTED));
    }
    world.read(&disk, 0, 96).unwrap();
    assert_eq!(world.read(&disk, START, 8), Err(OWNED));
}
