#![allow(clippy::unwrap_used)]

use super::*;
use crate::PoolKeyPair;
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What docs/session.md has to say word for word, by which another implementation can be tried.
fn documented(parts: &[String]) {
    let text = include_str!("../../../docs/session.md");
    let lacking: Vec<&String> = parts.iter().filter(|part| !text.contains(*part)).collect();
    assert!(lacking.is_empty(), "docs/session.md lacks {lacking:#?}");
}

#[test]
fn the_handshake_is_the_documented_one() {
    let (client, target) = (pair(1), pair(2));
    let (mut asking, ask) =
        Asking::begin(&client, &target.public(), b"prologue", b"\x02\x01", [3; 32]).unwrap();
    let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).unwrap();
    let (answer, _) = asked.answer(b"export", SUITE, ENCRYPT).unwrap();
    let (_, mut keys) = asking.finish(&answer, SUITE, ENCRYPT).unwrap();
    let stamp = keys.sealer.stamp(block::Instant::default());
    let mut payload = [0; 7];
    let tag = keys.sealer.seal(stamp, b"head", b"payload", &mut payload);
    documented(&[hex(&ask), hex(&answer), hex(&payload), hex(&tag)]);
}

/// Of each suite and each security the first message, and the first under the key that follows.
#[test]
fn messages_are_the_documented_ones() {
    let (client, target) = (pair(1), pair(2));
    let mut lines = Vec::new();
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for security in [Security::Encrypt, Security::Authenticate] {
            let begun = Asking::begin(&client, &target.public(), b"prologue", b"\x02\x01", [3; 32]);
            let (mut asking, ask) = begun.unwrap();
            let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).unwrap();
            let (answer, _) = asked.answer(b"export", suite, security).unwrap();
            let (_, keys) = asking.finish(&answer, suite, security).unwrap();
            let mut sealer = keys.sealer;
            let said = [0, 15 * 60].map(|seconds| {
                let now = block::Instant::default() + std::time::Duration::from_secs(seconds);
                let stamp = sealer.stamp(now);
                let mut payload = *b"payload";
                let tag = match sealer.encrypts() {
                    true => sealer.seal(stamp, b"head", b"payload", &mut payload),
                    false => sealer.seal_clear(stamp, b"head", b"payload"),
                };
                format!("{} {}", hex(&payload), hex(&tag))
            });
            lines.push(format!("| {suite:?}, {security} | `{}` | `{}` |", said[0], said[1]));
        }
    }
    documented(&lines);
}

/// What a pool's key signs, and what follows it.
#[test]
fn grants_are_the_documented_ones() {
    let key = |number| PoolKeyPair::of(SecretKey::new([number; 32])).unwrap();
    let supervisors = [8, 9].map(|number| PublicKey([number; 32]));
    let first = key(1).found(&supervisors).unwrap();
    let next = key(1).hand_over(&first, &key(2), &supervisors[..1]).unwrap();
    documented(&[hex(first.bytes()), hex(next.bytes())]);
}
