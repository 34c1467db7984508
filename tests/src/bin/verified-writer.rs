//! The writer that remembers what was acknowledged, for where the tests themselves can't be: in a
//! machine with a kernel of its own. It is told by lines on its standard input when to stop and when
//! to verify, because between the two its file system is unmounted, checked and mounted again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::BufRead;
use std::path::PathBuf;

use blackbox::{Load, LoadReport};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("usage: verified-writer FILE BLOCKS SEED");
    let file = PathBuf::from(next());
    let blocks = next().parse().expect("a number of blocks");
    let seed = next().parse().expect("a seed");
    let mut load = Some(Load::start(&file, blocks, seed));
    let mut report: Option<LoadReport> = None;
    for line in std::io::stdin().lock().lines() {
        match line.expect("standard input").as_str() {
            "stop" => {
                let stopped = load.take().expect("it runs").stop();
                if let Some(error) = &stopped.error {
                    panic!("a write failed: {error}");
                }
                report = Some(stopped);
            }
            "verify" => report.as_ref().expect("it is stopped").verify(),
            other => panic!("no such command: {other}"),
        }
        println!("done");
    }
}
