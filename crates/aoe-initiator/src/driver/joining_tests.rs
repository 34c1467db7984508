//! Machines that come to know each other by a token, and those that have another one, or none.

use std::collections::BTreeSet;

use aoe_wire::SessionRequest;
use block::RefusalReason;
use seal::{Members, PublicKey, Security, Token};

use super::keyed::{identity, public};
use super::*;
use crate::opening::Unfit;

const NODE: u8 = 10;
const NOT_JOINED: IoError = IoError::Refused(RefusalReason::NotJoined);

/// What a machine keeps of others.
#[derive(Default)]
struct Known {
    tokens: RefCell<Vec<Token>>,
    members: RefCell<BTreeSet<PublicKey>>,
}

impl Known {
    fn with(tokens: &[Token]) -> Rc<Known> {
        Rc::new(Known { tokens: RefCell::new(tokens.to_vec()), ..Known::default() })
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.members.borrow().iter().copied().collect()
    }
}

impl Members for Known {
    fn has(&self, key: &PublicKey) -> bool {
        self.members.borrow().contains(key)
    }

    fn is_own(&self, _: &PublicKey, is_named: bool) -> bool {
        is_named
    }

    fn tokens(&self) -> Vec<Token> {
        self.tokens.borrow().clone()
    }

    fn tokens_for(&self, _: &PublicKey) -> Vec<Token> {
        self.tokens()
    }

    fn joined(&self, key: PublicKey, _: &Token) {
        self.members.borrow_mut().insert(key);
    }
}

fn token(number: u8) -> Token {
    Token::new([number; 16], 600)
}

/// One end, that takes nobody for its own but whom it knows.
fn one(number: u8, known: &Rc<Known>) -> Identity {
    identity(number, Security::Encrypt).with_members(Rc::clone(known) as Rc<dyn Members>)
}

fn appeared(world: &World) -> Rc<RemoteDisk> {
    let event = world.run(5 * SECOND, world.initiator.next_disk_event());
    assert_eq!(event, DiskEvent::Appeared(ADDRESS));
    world.session_disk()
}

#[test]
fn both_ends_join_by_a_token_that_both_have() {
    for (client, target, do_join) in [
        (vec![token(1)], vec![token(1)], true),
        (vec![token(2), token(1)], vec![token(1), token(3)], true),
        (vec![token(2)], vec![token(1)], false),
        (vec![], vec![token(1)], false),
        (vec![token(1)], vec![], false),
    ] {
        let (ours, theirs) = (Known::with(&client), Known::with(&target));
        let world = world_as(1, 1500, Some(Rc::new(one(1, &ours))));
        let _node = world.node_as(1, NODE, disk(), true, Some(Rc::new(one(2, &theirs))));
        let remote = appeared(&world);
        // Everybody may look.
        world.run(SECOND, remote.read(SectorRange::new(Lba(0), 8))).unwrap();
        let claimed = world.run(SECOND, remote.claim(CLAIM)).map(drop);
        assert_eq!(claimed, if do_join { Ok(()) } else { Err(NOT_JOINED) });
        let expected = |key| if do_join { vec![key] } else { Vec::new() };
        assert_eq!((ours.keys(), theirs.keys()), (expected(public(2)), expected(public(1))));
        let tape = world.segment.tape.borrow();
        let tokens = client.iter().chain(&target).map(Token::to_text);
        let secrets: Vec<Vec<u8>> = tokens.map(|text| text.as_bytes().to_vec()).collect();
        let shows = |frame: &Vec<u8>| {
            secrets.iter().any(|secret| frame.windows(secret.len()).any(|part| part == secret))
                || frame.windows(16).any(|part| (1..4).any(|number| part == [number; 16]))
        };
        assert!(!tape.iter().any(shows));
    }
}

/// Reads and writes of a disk with an owner that obeys no pool's key, too.
#[test]
fn who_hasnt_joined_gets_nothing_of_a_disk_that_somebody_has() {
    let known = Known::with(&[]);
    known.joined(public(1), &token(1));
    let world = world_as(2, 9000, Some(Rc::new(identity(1, Security::Encrypt))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(one(2, &known))));
    let remote = appeared(&world);
    world.run(SECOND, remote.claim(CLAIM)).unwrap();
    let range = SectorRange::new(Lba(START), 8);
    let write = || remote.write(Lba(START), bytes(8, 1), Durability::Durable);
    world.run(SECOND, write()).unwrap();
    // It is forgotten, and its session goes on.
    known.members.borrow_mut().clear();
    node.driver.set_identity(Rc::new(one(2, &known)));
    let refused = [
        world.run(SECOND, write()).map(drop),
        world.run(SECOND, remote.read(range)).map(drop),
        world.run(SECOND, remote.claim(Claim { epoch: Epoch(9), ..CLAIM })).map(drop),
    ];
    assert_eq!(refused, [Err(NOT_JOINED); 3]);
    assert_eq!(remote.statistics().reopenings, 0);
}

#[test]
fn a_token_that_comes_later_does_as_well() {
    let (ours, theirs) = (Known::with(&[token(1)]), Known::with(&[]));
    let world = world_as(3, 9000, Some(Rc::new(one(1, &ours))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(one(2, &theirs))));
    let remote = appeared(&world);
    assert_eq!(world.run(SECOND, remote.claim(CLAIM)).map(drop), Err(NOT_JOINED));
    theirs.tokens.borrow_mut().push(token(1));
    node.driver.set_identity(Rc::new(one(2, &theirs)));
    world.wait(20 * SECOND);
    assert_eq!((ours.keys(), theirs.keys()), (vec![public(2)], vec![public(1)]));
    world.run(5 * SECOND, remote.claim(CLAIM)).unwrap();
}

/// Lists say with whom a machine speaks; a token says so too.
#[test]
fn who_joins_is_spoken_with_whatever_the_lists_say() {
    for (ours, theirs, do_join) in [
        (Known::with(&[token(1)]), Known::with(&[token(1)]), true),
        (Known::with(&[token(1)]), Known::with(&[token(2)]), false),
    ] {
        let client = one(1, &ours).with_peers([public(9)]);
        let world = world_as(4, 9000, Some(Rc::new(client)));
        let target = one(2, &theirs).with_peers([public(9)]);
        let _node = world.node_as(1, NODE, disk(), true, Some(Rc::new(target)));
        if do_join {
            world.run(SECOND, appeared(&world).claim(CLAIM)).unwrap();
        } else {
            world.wait(8 * SECOND);
            assert!(world.initiator.disk(ADDRESS).is_none());
            assert!(ours.keys().is_empty() && theirs.keys().is_empty());
        }
    }
    // The target takes everybody who has a key, and proves nothing.
    let ours = Known::with(&[token(1)]);
    let client = one(1, &ours).with_peers([public(9)]);
    let world = world_as(5, 9000, Some(Rc::new(client)));
    let target = identity(2, Security::Encrypt);
    let _node = world.node_as(1, NODE, disk(), true, Some(Rc::new(target)));
    world.wait(8 * SECOND);
    let expected = TargetKind::Unfit(Unfit::Stranger(public(2)));
    assert_eq!(world.initiator.targets()[0].kind, Some(expected));
    assert!(world.initiator.disk(ADDRESS).is_none() && ours.keys().is_empty());
}

/// Somebody plays the openings of a machine that joined back to the node, and to another one that has the same token.
#[test]
fn a_recorded_opening_joins_nobody() {
    let (ours, theirs) = (Known::with(&[token(1)]), Known::with(&[token(1)]));
    let world = world_as(6, 9000, Some(Rc::new(one(1, &ours))));
    let node = world.node_as(1, NODE, disk(), true, Some(Rc::new(one(2, &theirs))));
    appeared(&world);
    assert_eq!(theirs.keys(), [public(1)]);
    let recorded: Vec<_> = world.segment.tape.borrow().clone();
    theirs.members.borrow_mut().clear();
    node.port.is_down.set(true);
    let others = Known::with(&[token(1)]);
    let other = world.node_as(1, NODE + 1, disk(), true, Some(Rc::new(one(2, &others))));
    other.port.mac.set(MacAddr([2, 0, 0, 0, 0, NODE]));
    let is_request = |frame: &&Vec<u8>| SessionRequest::parse(frame).is_ok();
    world.initiator.forget(ADDRESS);
    for frame in recorded.iter().filter(is_request) {
        world.segment.carry(&world.handle, MacAddr([2, 0, 0, 0, 0, 66]), frame);
    }
    world.wait(SECOND / 100);
    assert!(theirs.keys().is_empty() && others.keys().is_empty());
}

/// Whoever is first at an address has it against others, but a stranger not against one of ours, unless we have his disk.
#[test]
fn a_stranger_gives_way_unless_his_disk_is_claimed() {
    for is_claimed in [false, true] {
        let ours = Known::with(&[]);
        ours.joined(public(2), &token(1));
        let world = world_as(7, 9000, Some(Rc::new(one(1, &ours))));
        let stranger = Some(Rc::new(identity(3, Security::Encrypt)));
        let _stranger = world.node_as(1, NODE, disk(), true, stranger);
        let first = appeared(&world);
        assert_eq!(first.node_key(), Some(public(3)));
        if is_claimed {
            world.run(SECOND, first.claim(CLAIM)).unwrap();
        }
        let own = Some(Rc::new(identity(2, Security::Encrypt)));
        let _own = world.node_as(1, NODE + 1, disk(), true, own);
        world.wait(60 * SECOND);
        let expected = if is_claimed { 3 } else { 2 };
        assert_eq!(world.session_disk().node_key(), Some(public(expected)));
        world.wait(60 * SECOND);
        let read = world.session_disk().read(SectorRange::new(Lba(0), 8));
        world.run(SECOND, read).unwrap();
    }
}
