//! Writes a file through the page cache as fast as it goes, or reads it and compares: what is in it follows
//! from its place, so nothing has to be remembered where memory is short.
//!
//!     buffered-writer write|verify FILE MEBIBYTES
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

const PIECE_BYTES: usize = 1 << 20;

/// No two words of a file are alike, nor are those of neighbours nearly so.
fn fill(piece: &mut [u8], number: u64) {
    let first = number * (PIECE_BYTES / 8) as u64;
    for (word, at) in piece.chunks_exact_mut(8).zip(first..) {
        word.copy_from_slice(&at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, path, mebibytes] = args.as_slice() else {
        panic!("usage: buffered-writer write|verify FILE MEBIBYTES")
    };
    let mebibytes: u64 = mebibytes.parse().expect("a number of mebibytes");
    let (mut expected, mut found) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let start = Instant::now();
    match what.as_str() {
        "write" => {
            let mut file = File::create(path).expect("a file");
            for number in 0..mebibytes {
                fill(&mut expected, number);
                file.write_all(&expected).expect("a write");
            }
            file.sync_all().expect("to be durable");
        }
        "verify" => {
            let mut file = File::open(path).expect("a file");
            for number in 0..mebibytes {
                fill(&mut expected, number);
                file.read_exact(&mut found).expect("a read");
                assert!(found == expected, "MiB {number} is not what was written");
            }
            assert_eq!(file.read(&mut found).expect("a read"), 0, "the file is longer");
        }
        other => panic!("no such command: {other}"),
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {mebibytes} MiB in {seconds:.1} s, {:.1} MiB/s", mebibytes as f64 / seconds);
}
