#![allow(clippy::unwrap_used)]

use super::*;
use crate::key::SecretKey;

const SUITE: Suite = Suite::Aes256Gcm;
const ENCRYPT: Security = Security::Encrypt;

fn pair(byte: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([byte; KEY_BYTES])).unwrap()
}

/// A message from one end to the other; whether it was taken.
fn passes(from: &mut Keys, to: &mut Keys, text: &[u8]) -> bool {
    let stamp = from.sealer.stamp(block::Instant::default());
    let mut seal = stamp.seal();
    let mut sealed = vec![0; text.len()];
    seal.tag = from.sealer.seal(stamp, b"head", text, &mut sealed);
    let mut opened = vec![0; text.len()];
    to.opener.open(&seal, b"head", &sealed, &mut opened).is_ok() && opened == text
}

#[test]
fn both_ends_know_each_other_and_share_two_keys() {
    let (client, target) = (pair(1), pair(2));
    let (mut asking, ask) =
        Asking::begin(&client, &target.public(), b"all", b"hello", [3; 32]).unwrap();
    assert_eq!(ask.len(), ASK_BYTES + 5);
    let asked = Asked::read(&target, b"all", &ask, [4; 32]).unwrap();
    assert_eq!((asked.peer, asked.said.as_slice()), (client.public(), b"hello".as_slice()));
    let (answer, mut at_target) = asked.answer(b"welcome", SUITE, ENCRYPT).unwrap();
    assert_eq!(answer.len(), ANSWER_BYTES + 7);
    let (said, mut at_client) = asking.finish(&answer, SUITE, ENCRYPT).unwrap();
    assert_eq!(said, b"welcome");
    assert!(passes(&mut at_client, &mut at_target, b"there"));
    assert!(passes(&mut at_target, &mut at_client, b"and back"));
    // What one says isn't taken for what the other one says.
    let (mut other, _) = {
        let (mut asking, ask) =
            Asking::begin(&client, &target.public(), b"all", b"hello", [5; 32]).unwrap();
        let asked = Asked::read(&target, b"all", &ask, [6; 32]).unwrap();
        let (answer, at_target) = asked.answer(b"", SUITE, ENCRYPT).unwrap();
        (at_target, asking.finish(&answer, SUITE, ENCRYPT).unwrap())
    };
    assert!(!passes(&mut other, &mut at_client, b"of another session"));
}

#[test]
fn who_isnt_meant_or_was_told_something_else_learns_nothing() {
    let (client, target, other) = (pair(1), pair(2), pair(3));
    let (_, ask) = Asking::begin(&client, &target.public(), b"all", b"hello", [4; 32]).unwrap();
    assert!(Asked::read(&other, b"all", &ask, [5; 32]).is_none());
    assert!(Asked::read(&target, b"something", &ask, [5; 32]).is_none());
    for cut in 0..ask.len() {
        assert!(Asked::read(&target, b"all", &ask[..cut], [5; 32]).is_none());
    }
    for at in 0..ask.len() {
        let mut changed = ask.clone();
        changed[at] ^= 1;
        assert!(Asked::read(&target, b"all", &changed, [5; 32]).is_none(), "byte {at}");
    }
}

#[test]
fn an_answer_of_another_is_no_answer() {
    let (client, target, other) = (pair(1), pair(2), pair(3));
    let answer_of = |own: &KeyPair, peer: &KeyPair| {
        let (asking, ask) = Asking::begin(&client, &peer.public(), b"", b"", [4; 32]).unwrap();
        let answer = Asked::read(own, b"", &ask, [5; 32]).map(|asked| {
            let (answer, _) = asked.answer(b"said", SUITE, ENCRYPT).unwrap();
            answer
        });
        (asking, answer)
    };
    let (_, answer) = answer_of(&target, &target);
    let answer = answer.unwrap();
    // To somebody else's question, or changed on its way.
    assert!(answer_of(&target, &other).0.finish(&answer, SUITE, ENCRYPT).is_none());
    let (mut asking, _) = answer_of(&target, &target);
    for at in 0..answer.len() {
        let mut changed = answer.clone();
        changed[at] ^= 1;
        assert!(asking.finish(&changed, SUITE, ENCRYPT).is_none(), "byte {at}");
        assert!(asking.finish(&answer[..at], SUITE, ENCRYPT).is_none(), "{at} bytes");
    }
    // None of that has spoilt it for the right one.
    assert!(asking.finish(&answer, SUITE, ENCRYPT).is_some());
}

/// The vector of docs/session.md, by which another implementation can be tried.
#[test]
fn the_handshake_is_the_documented_one() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (client, target) = (pair(1), pair(2));
    let (mut asking, ask) =
        Asking::begin(&client, &target.public(), b"prologue", b"\x02\x01", [3; 32]).unwrap();
    let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).unwrap();
    let (answer, _) = asked.answer(b"export", SUITE, ENCRYPT).unwrap();
    let (_, mut keys) = asking.finish(&answer, SUITE, ENCRYPT).unwrap();
    let stamp = keys.sealer.stamp(block::Instant::default());
    let mut payload = [0; 7];
    let tag = keys.sealer.seal(stamp, b"head", b"payload", &mut payload);
    let text = include_str!("../../../docs/session.md");
    for part in [hex(&ask), hex(&answer), hex(&payload), hex(&tag)] {
        assert!(text.contains(&part), "docs/session.md lacks {part}");
    }
}
