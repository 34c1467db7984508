//! What it costs to seal and to open messages, and a handshake: processor time of one thread, the median of some runs, as a
//! table. `make bench-keys` prints what `openssl speed` says of the same machine below it.

#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use seal::{Asked, Asking, KeyPair, Keys, SecretKey, Security, Suite};

const RUNS: usize = 9;
const MESSAGES: u32 = 20_000;
const HANDSHAKES: u32 = 300;
/// A header as far as the tag.
const HEAD: [u8; 112] = [7; 112];

fn pair(number: u8) -> KeyPair {
    KeyPair::of(SecretKey::new([number; 32])).expect("a key")
}

fn handshake(suite: Suite, security: Security) -> (Keys, Keys) {
    let (client, target) = (pair(1), pair(2));
    let (mut asking, ask) =
        Asking::begin(&client, &target.public(), b"prologue", b"12", [3; 32]).expect("it begins");
    let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).expect("it is genuine");
    let (answer, at_target) = asked.answer(&[0; 200], suite, security).expect("it is answered");
    let (_, at_client) = asking.finish(&answer, suite, security).expect("it is genuine");
    (at_client, at_target)
}

/// The median of microseconds for each of `count`.
fn median(count: u32, mut run: impl FnMut()) -> f64 {
    let mut took: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            (0..count).for_each(|_| run());
            begin.elapsed().as_secs_f64() * 1e6 / f64::from(count)
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[RUNS / 2]
}

fn row(suite: Suite, security: Security, len_bytes: usize) {
    let (mut client, mut target) = handshake(suite, security);
    let payload = vec![5; len_bytes];
    let (mut sealed, mut opened) = (payload.clone(), payload.clone());
    let now = block::Instant::default();
    let sealed_once = |client: &mut Keys, sealed: &mut [u8]| {
        let stamp = client.sealer.stamp(now);
        let mut seal = stamp.seal();
        seal.tag = match client.sealer.encrypts() {
            true => client.sealer.seal(stamp, &HEAD, &payload, sealed),
            false => client.sealer.seal_clear(stamp, &HEAD, &payload),
        };
        seal
    };
    let sealing = median(MESSAGES, || {
        black_box(sealed_once(&mut client, &mut sealed));
    });
    let (mut client, _) = handshake(suite, security);
    let both = median(MESSAGES, || {
        let seal = sealed_once(&mut client, &mut sealed);
        let outcome = match target.opener.encrypts() {
            true => target.opener.open(&seal, &HEAD, &sealed, &mut opened),
            false => target.opener.open_clear(&seal, &HEAD, &payload),
        };
        outcome.expect("it is genuine");
    });
    let opening = both - sealing;
    println!("| {suite}, {security}, {len_bytes} bytes | {sealing:.2} | {opening:.2} |");
}

fn main() {
    println!("| us | sealed | opened |");
    println!("|---|---|---|");
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for security in [Security::Encrypt, Security::Authenticate] {
            for len_bytes in [0, 4096, 8192] {
                row(suite, security, len_bytes);
            }
        }
    }
    let took = median(HANDSHAKES, || {
        black_box(handshake(Suite::Aes256Gcm, Security::Encrypt));
    });
    println!("\nA handshake, both ends together: {took:.0} us, the making of both keys included.");
}
