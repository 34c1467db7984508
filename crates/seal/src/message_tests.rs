#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
const HEAD: &[u8] = b"the header of a message";

fn ends(suite: Suite, security: Security) -> (Sealer, Opener) {
    (
        Sealer::new(suite, security, [7; KEY_BYTES]).unwrap(),
        Opener::new(suite, security, [7; KEY_BYTES]).unwrap(),
    )
}

fn at(seconds: u64) -> Instant {
    Instant::default() + Duration::from_secs(seconds)
}

fn sealed(sealer: &mut Sealer, now: Instant, text: &[u8]) -> (Seal, Vec<u8>) {
    let stamp = sealer.stamp(now);
    let (mut seal, mut payload) = (stamp.seal(), text.to_vec());
    seal.tag = match sealer.encrypts() {
        true => sealer.seal(stamp, HEAD, text, &mut payload),
        false => sealer.seal_clear(stamp, HEAD, text),
    };
    (seal, payload)
}

fn opened(opener: &mut Opener, (seal, payload): &(Seal, Vec<u8>)) -> Result<Vec<u8>, Rejected> {
    open(opener, seal, HEAD, payload)
}

fn open(
    opener: &mut Opener,
    seal: &Seal,
    head: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>, Rejected> {
    let mut text = payload.to_vec();
    match opener.encrypts() {
        true => opener.open(seal, head, payload, &mut text)?,
        false => opener.open_clear(seal, head, payload)?,
    }
    Ok(text)
}

#[test]
fn a_message_is_taken_once_and_as_it_was_sent() {
    for suite in SUITES {
        for security in [Security::Authenticate, Security::Encrypt] {
            let (mut sealer, mut opener) = ends(suite, security);
            let message = sealed(&mut sealer, at(0), b"what is said");
            assert_eq!(message.1 == b"what is said", security == Security::Authenticate);
            assert_eq!(opened(&mut opener, &message).unwrap(), b"what is said");
            assert_eq!(opened(&mut opener, &message), Err(Rejected::Repeated));
            let empty = sealed(&mut sealer, at(0), b"");
            assert_eq!(opened(&mut opener, &empty).unwrap(), b"");
        }
    }
}

#[test]
fn nothing_of_it_can_be_changed() {
    for suite in SUITES {
        for security in [Security::Authenticate, Security::Encrypt] {
            let (mut sealer, mut opener) = ends(suite, security);
            let message = sealed(&mut sealer, at(0), b"what is said");
            let mut rejects = |seal: Seal, head: &[u8], payload: &[u8]| {
                assert_eq!(open(&mut opener, &seal, head, payload), Err(Rejected::Forged));
            };
            let (seal, payload) = &message;
            for bit in 0..8 * payload.len() {
                let mut changed = payload.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                rejects(*seal, HEAD, &changed);
            }
            for bit in 0..8 * TAG_BYTES {
                let mut changed = *seal;
                changed.tag[bit / 8] ^= 1 << (bit % 8);
                rejects(changed, HEAD, payload);
            }
            rejects(Seal { counter: 1, ..*seal }, HEAD, payload);
            rejects(Seal { counter: u64::MAX, ..*seal }, HEAD, payload);
            for key in [0, 2, 3, u32::MAX] {
                rejects(Seal { key, ..*seal }, HEAD, payload);
            }
            rejects(*seal, b"another header", payload);
            rejects(*seal, HEAD, &payload[1..]);
            rejects(*seal, HEAD, &[]);
            // None of that has kept the genuine one out.
            assert_eq!(opened(&mut opener, &message).unwrap(), b"what is said");
        }
    }
}

#[test]
fn keys_follow_each_other_by_time_and_what_is_late_is_taken() {
    let (mut sealer, mut opener) = ends(SUITES[0], Security::Encrypt);
    let late = sealed(&mut sealer, at(0), b"late");
    let first = sealed(&mut sealer, at(1), b"first");
    let second = sealed(&mut sealer, at(3600), b"second");
    let third = sealed(&mut sealer, at(7200), b"third");
    assert_eq!([first.0.key, second.0.key, third.0.key], [1, 2, 3]);
    assert!(opened(&mut opener, &first).is_ok());
    // Nobody skips a key.
    assert_eq!(opened(&mut opener, &third), Err(Rejected::Forged));
    assert!(opened(&mut opener, &second).is_ok());
    assert!(opened(&mut opener, &late).is_ok());
    assert!(opened(&mut opener, &third).is_ok());
    assert_eq!(opened(&mut opener, &first), Err(Rejected::Forged), "its key is forgotten");
    assert_eq!(opened(&mut opener, &second), Err(Rejected::Repeated));
}

#[test]
fn keys_follow_each_other_by_count() {
    let (mut sealer, mut opener) = ends(SUITES[0], Security::Encrypt);
    sealer.counter = MESSAGES_MAX - 1;
    let last = sealed(&mut sealer, at(0), b"last");
    let next = sealed(&mut sealer, at(0), b"next");
    assert_eq!((last.0.key, last.0.counter), (1, MESSAGES_MAX - 1));
    assert_eq!((next.0.key, next.0.counter), (2, 0));
    for message in [next, last] {
        assert!(opened(&mut opener, &message).is_ok());
    }
}

#[test]
fn a_key_that_nobody_used_yet_isnt_gone_on_to() {
    let (mut sealer, mut opener) = ends(SUITES[0], Security::Encrypt);
    let message = sealed(&mut sealer, at(0), b"said");
    let forged = (Seal { key: 2, ..message.0 }, message.1.clone());
    assert_eq!(opened(&mut opener, &forged), Err(Rejected::Forged));
    assert!(opened(&mut opener, &message).is_ok());
    let next = sealed(&mut sealer, at(3600), b"next");
    assert!(opened(&mut opener, &next).is_ok());
}

#[test]
fn no_nonce_comes_twice() {
    let (mut sealer, _) = ends(SUITES[0], Security::Encrypt);
    let mut nonces = BTreeSet::new();
    for step in 0..5000 {
        if step % 1000 == 999 {
            sealer.counter = MESSAGES_MAX - 2;
        }
        let stamp = sealer.stamp(at(step));
        assert!(nonces.insert((stamp.key, stamp.counter)), "{stamp:?}");
        sealer.seal(stamp, HEAD, &[], &mut []);
    }
}

#[test]
fn what_makes_the_keys_stays_readable_and_is_proved_too() {
    let (mut sealer, mut opener) = ends(SUITES[1], Security::Encrypt);
    let stamp = sealer.stamp(at(0));
    let mut seal = stamp.seal();
    seal.tag = sealer.seal_clear(stamp, HEAD, b"readable");
    assert_eq!(opener.open_clear(&seal, HEAD, b"changed."), Err(Rejected::Forged));
    assert_eq!(opener.open_clear(&seal, HEAD, b"readable"), Ok(()));
    assert_eq!(opener.open_clear(&seal, HEAD, b"readable"), Err(Rejected::Repeated));
}
