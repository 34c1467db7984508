#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn pair(number: u8) -> PoolKeyPair {
    PoolKeyPair::of(SecretKey::new([number; KEY_BYTES])).unwrap()
}

fn supervisor(number: u8) -> PublicKey {
    PublicKey([number; KEY_BYTES])
}

/// The key after so many others, and its grant.
fn after(rotations: u8) -> (PoolKeyPair, Grant) {
    let mut now = pair(1);
    let mut grant = now.found(&[supervisor(1)]).unwrap();
    for next in 0..rotations {
        let next = pair(2 + next);
        grant = now.hand_over(&grant, &next, &[supervisor(1)]).unwrap();
        now = next;
    }
    (now, grant)
}

#[test]
fn literal_bytes() {
    let grant = pair(1).found(&[supervisor(9), supervisor(8), supervisor(9)]).unwrap();
    let bytes = grant.bytes();
    assert_eq!(bytes.len(), 48 + 64 + 64);
    assert_eq!(bytes[..16], *b"EPGR\x01\x02\0\0\x01\0\0\0\0\0\0\0");
    assert_eq!(bytes[16..48], pair(1).public().0);
    assert_eq!((&bytes[48..80], &bytes[80..112]), (&[8; 32][..], &[9; 32][..]));
    assert_eq!(Grant::parse(bytes), Some(grant.clone()));
    assert_eq!(grant.to_string().parse(), Ok(grant.clone()));
    assert!(grant.names(&supervisor(8)) && !grant.names(&supervisor(7)));
    // RFC 8032, 7.1, test 2 has this pair.
    let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    let seed: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&seed[2 * at..2 * at + 2], 16).unwrap()).collect();
    let known = PoolKeyPair::of(SecretKey::new(seed.try_into().unwrap())).unwrap().public();
    assert_eq!(known.0[..4], [0x3d, 0x40, 0x17, 0xc3]);
}

#[test]
fn what_follows_is_newer_and_of_the_same_key_or_its_successor() {
    let (key, first) = after(0);
    let second = key.follow(&first, &[supervisor(2)]).unwrap();
    assert!(second.follows(&first) && !first.follows(&second) && !second.follows(&second));
    let foreign = pair(7).found(&[supervisor(1)]).unwrap();
    let foreign = pair(7).follow(&foreign, &[supervisor(1)]).unwrap();
    assert!(!foreign.follows(&first));
    assert_eq!(pair(7).follow(&first, &[supervisor(7)]), Err(GrantError::OtherKey));
    assert_eq!(pair(7).hand_over(&first, &pair(8), &[supervisor(7)]), Err(GrantError::OtherKey));
}

#[test]
fn who_missed_some_successions_is_led_to_the_present_key_and_nobody_is_led_back() {
    let all: Vec<(PoolKeyPair, Grant)> = (0..=10).map(after).collect();
    for (former, (_, known)) in all.iter().enumerate() {
        for (present, (_, shown)) in all.iter().enumerate() {
            let missed = present.saturating_sub(former);
            let leads = present > former && missed <= SUCCESSIONS_MAX;
            assert_eq!(shown.follows(known), leads, "{former} to {present}");
        }
    }
    // Who had the key before goes on with it, to a version above all.
    let (old, mut forged) = after(1);
    for _ in 0..5 {
        forged = old.follow(&forged, &[supervisor(66)]).unwrap();
    }
    let (_, present) = after(2);
    assert!(forged.version() > present.version() && !forged.follows(&present));
    let forged = old.hand_over(&forged, &pair(99), &[supervisor(66)]).unwrap();
    assert!(!forged.follows(&present));
}

#[test]
fn a_succession_that_the_former_key_did_not_sign_leads_nowhere() {
    let (_, first) = after(0);
    let thief = pair(66);
    let mut stolen = thief.found(&[supervisor(66)]).unwrap();
    for signature in [[0; SIGNATURE_BYTES], thief.sign(SUCCESSION, &thief.public().0)] {
        let succession = Succession { key: thief.public(), signature };
        stolen = thief.grant(9, &[supervisor(66)], &[succession]).unwrap();
        assert!(Grant::parse(stolen.bytes()).is_some() && !stolen.follows(&first));
    }
    // One of grants is none of successions.
    assert!(!stolen.key.has_signed(SUCCESSION, &[], &[]));
}

#[test]
fn nobody_and_too_many_are_refused() {
    let all: Vec<PublicKey> = (0..=SUPERVISORS_MAX as u8).map(supervisor).collect();
    assert_eq!(pair(1).found(&[]), Err(GrantError::Nobody));
    assert_eq!(pair(1).found(&all), Err(GrantError::TooMany));
    let (_, longest) = after(SUCCESSIONS_MAX as u8 + 2);
    let longest = pair(12).follow(&longest, &[supervisor(1)]);
    assert_eq!(longest, Err(GrantError::OtherKey));
    let (key, longest) = after(SUCCESSIONS_MAX as u8 + 2);
    let longest = key.follow(&longest, &all[1..]).unwrap();
    assert_eq!(longest.bytes().len(), GRANT_BYTES_MAX);
    assert_eq!(Grant::parse(longest.bytes()), Some(longest));
    let last = key.grant(u64::MAX, &all[1..], &[]).unwrap();
    assert_eq!(key.follow(&last, &all[1..]), Err(GrantError::Exhausted));
}

proptest! {
    #[test]
    fn a_changed_byte_is_never_believed(at in 0..GRANT_BYTES_MIN + 2 * SUCCESSION_BYTES, change in 1u8..) {
        let (_, grant) = after(2);
        let mut bytes = grant.bytes().to_vec();
        bytes[at] ^= change;
        prop_assert_eq!(Grant::parse(&bytes), None);
    }

    #[test]
    fn anything_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..GRANT_BYTES_MAX + 9)) {
        prop_assert_eq!(Grant::parse(&bytes), None);
        let mut bytes = bytes;
        let len = bytes.len().min(5);
        bytes[..len].copy_from_slice(&MAGIC[..len]);
        prop_assert_eq!(Grant::parse(&bytes), None);
    }
}
