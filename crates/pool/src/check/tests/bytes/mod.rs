//! Every byte of every structure damaged in turn, and every metadata write torn at every sector: what was
//! acknowledged is read as it was, or refused by name; never something else, never a panic, never a wait
//! without end.
//!
//! A pool is made by a real engine and ends by a power cut at a busy moment (`busy`). A trial changes
//! something on the disks, has `check` look at them, opens the pool with another engine, and reads everything
//! (`trial`). What there is to damage is told by `dump`, which knows each structure's place; what of the
//! disks it doesn't know, and which magic of the sources isn't one of its kinds, is a failure (`kinds`).
//!
//! Each decoder is tried with every byte beside it. A whole engine takes some milliseconds, so
//! `cargo test` tries some places by a seed; `BYTES=20000` so many, `BYTES=all` all. `BYTES_SEED` is the seed,
//! `BYTES_ONLY=kind@disk:offset` repeats one.

mod busy;
mod every_byte;
mod kinds;
mod torn;
mod trial;

use std::ops::ControlFlow;

use self::busy::Busy;
use super::*;
use crate::engine::testing::TestDisk;

/// How many trials are wanted; `None` is all that there are.
fn trials_wanted(usual: usize) -> Option<usize> {
    match std::env::var("BYTES") {
        Ok(all) if all == "all" => None,
        Ok(number) => Some(number.parse().expect("BYTES is a number, or all")),
        Err(_) => Some(usual),
    }
}

fn seed() -> u64 {
    std::env::var("BYTES_SEED").map_or(1, |seed| seed.parse().expect("BYTES_SEED is a number"))
}

/// Of `count` things those that a seed chooses, spread over all of them.
fn sample(count: usize, wanted: Option<usize>) -> Vec<usize> {
    let wanted = wanted.unwrap_or(count).min(count);
    let mut state = seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    (0..wanted)
        .map(|index| {
            let (from, to) = (index * count / wanted, (index + 1) * count / wanted);
            from + roll(to - from)
        })
        .collect()
}

/// Everything that `dump` finds on these disks, checksum blocks included.
fn structures(images: &[DiskImage<'_>]) -> Vec<Structure> {
    let mut found = Vec::new();
    let options = DumpOptions { pool: None, checksums: true, reservation: &|_, _| None };
    dump(images, &options, &mut |item| {
        if let DumpItem::Structure(structure) = item {
            found.push(structure);
        }
        ControlFlow::Continue(())
    });
    found
}

/// Has each of `jobs` done by one of several threads, each with a pool of its own.
fn spread<J: Sync>(jobs: &[J], make: impl Fn() -> Busy + Sync, work: impl Fn(&Busy, &J) + Sync) {
    let threads =
        std::thread::available_parallelism().map_or(2, usize::from).min(jobs.len().max(1));
    std::thread::scope(|scope| {
        for first in 0..threads {
            let (make, work) = (&make, &work);
            scope.spawn(move || {
                let busy = make();
                jobs.iter().skip(first).step_by(threads).for_each(|job| work(&busy, job));
            });
        }
    });
}
