//! Seeds that must stay as they are: each replays exactly, and those that once failed don't any more.

use sim::fork::Luck;
use sim::{runner, scenarios};

fn run(name: &str, seed: u64) -> runner::Outcome {
    let scenario = scenarios::find(name).unwrap_or_else(|| panic!("no scenario {name}"));
    runner::run(&scenario, seed, &runner::Options::default())
}

#[test]
fn a_seed_replays_exactly() {
    for name in ["random", "session-takeover"] {
        let (first, again) = (run(name, 11), run(name, 11));
        assert_eq!(first.failure, None, "{name}");
        assert_eq!(first.hash, again.hash, "{name}");
        assert_ne!(first.hash, run(name, 12).hash, "{name}");
    }
}

/// - stuck-disk 0: a destage waited for a disk that was out already, and writers waited for the destage.
/// - rolled-back-disk 4: after a quick restart an older disk was given a newer applied number before
///   anybody had looked at the old one; what it had lost was found by checksums only.
/// - two-votes: of two votes one failed for a moment; its disk could neither be evicted nor count as
///   fine again, and everything hung after it was back.
/// - vanish-while-opening: disks vanished while the pool was being opened; the opening waited for
///   ever.
/// - unread-applied 187: both slots of a disk's applied block were unreadable before it had anything to
///   show in them; it was taken in, and its resync began again for ever.
#[test]
fn what_failed_once() {
    let seeds = [
        ("stuck-disk", 0),
        ("stuck-disk", 254),
        ("random", 58),
        ("random", 480),
        ("rolled-back-disk", 4),
        ("two-votes", 1),
        ("vanish-while-opening", 1),
        ("unread-applied", 187),
    ];
    for (name, seed) in seeds {
        assert_eq!(run(name, seed).failure, None, "{name} {seed}");
    }
}

/// A fork draws nothing that the run draws, and follows from the seed as well.
#[test]
fn a_run_doesnt_know_of_its_forks() {
    let scenario = scenarios::random();
    let with = |forks| runner::Options { forks, ..runner::Options::default() };
    let plain = runner::run(&scenario, 3, &with(Luck::Never));
    let options = with(Luck::Often);
    let (forked, again) =
        (runner::run(&scenario, 3, &options), runner::run(&scenario, 3, &options));
    assert_eq!(forked.failure, None);
    assert!(forked.forks > 0 && plain.forks == 0);
    assert_eq!(plain.hash, forked.hash);
    assert_eq!((forked.forks, forked.fork_hash), (again.forks, again.fork_hash));
}
