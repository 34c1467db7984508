//! Pools that were through much: disks that come and go, power cuts, takeovers. At every quiet moment
//! all that there should be is there.

use super::*;

/// A source of numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

fn open(bench: Bench) -> Machines {
    for _ in 0..600 {
        bench.pass(Duration::from_millis(100));
        if let Ok(volume) = bench.engine.open_volume("pond", "v")
            && bench.engine.reports()[0].volumes.iter().all(|volume| volume.suspended().is_none())
        {
            return Machines { bench, volume };
        }
    }
    panic!("it never opens: {:#?}", bench.engine.reports());
}

/// Goes through some rounds of trouble, each of which ends with everything back and settled.
fn live(seed: u64, rounds: u64) {
    let mut dice = Dice(seed);
    let mut machines = Machines::new(seed);
    for round in 0..rounds {
        let away = dice.roll(4) as usize;
        if away < 3 {
            machines.bench.set_mode(away, Mode::Lost);
        }
        for _ in 0..dice.roll(12) {
            machines.write(dice.roll(1500), 1 + dice.roll(30) as usize, dice.roll(256) as u8);
            if dice.roll(3) == 0 {
                machines.bench.pass(Duration::from_millis(dice.roll(1500)));
            }
        }
        if away < 3 && dice.roll(2) == 0 {
            machines.bench.set_mode(away, Mode::Well);
            machines.bench.pass(Duration::from_millis(dice.roll(3000)));
            machines.write(dice.roll(1500), 4, 7);
        }
        machines = match dice.roll(3) {
            0 => open(machines.bench.power_cut()),
            1 => open(machines.bench.crash_engine()),
            _ => machines,
        };
        (0..3).for_each(|disk| machines.bench.set_mode(disk, Mode::Well));
        machines.write(dice.roll(1500), 2, 9);
        machines.bench.pass(Duration::from_secs(30));
        let report = look(&machines.images(), true);
        assert_eq!(serious(&report), [], "seed {seed}, round {round}: {report:#?}");
        let least = volume(&report).least;
        assert_eq!((least.metadata, least.votes), (3, 3), "seed {seed}, round {round}");
        assert!(least.data.is_none_or(|copies| copies == 2), "seed {seed}, round {round}");
        assert!(least.checksum_blocks.is_none_or(|copies| copies == 2));
    }
    let report = look(&machines.released(), true);
    assert_eq!(report.all_findings().collect::<Vec<_>>(), Vec::<&Finding>::new(), "seed {seed}");
}

#[test]
fn a_pool_that_was_through_much_is_well() {
    let seeds = std::env::var("CHECK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    (0..seeds).for_each(|seed| live(1000 + seed, 4));
}

/// A disk that was evicted by a destage and came back leaves the open segment with one copy: the log must
/// not go on in it while the pool says that it is online and survives the loss of a machine.
#[test]
fn what_was_acknowledged_while_online_is_in_both_copies_of_the_log() {
    for seed in [1, 4, 8, 10, 11, 13, 14, 25] {
        let mut dice = Dice(seed);
        let machines = Machines::new(3000 + seed);
        (0..4).for_each(|_| machines.write(dice.roll(1500), 2, 1));
        // Just before or while the log is destaged for being idle.
        machines.bench.pass(Duration::from_micros(995_000 + dice.roll(8_000)));
        let disk = (seed % 3) as usize;
        machines.bench.set_mode(disk, Mode::Lost);
        machines.bench.pass(Duration::from_millis(1 + dice.roll(40)));
        if seed % 2 == 0 {
            machines.write(dice.roll(1500), 2, 3);
        }
        machines.bench.set_mode(disk, Mode::Well);
        // Long after it is back; never idle for so long that all is destaged.
        for _ in 0..13 {
            machines.write(dice.roll(1500), 1, 2);
            machines.bench.pass(Duration::from_millis(300));
        }
        let engine = machines.bench.engine.reports()[0].clone();
        assert_eq!((&engine.state, engine.survives), (&crate::report::PoolState::Online, 1));
        let report = look(&machines.images(), false);
        let least = volume(&report).least;
        let log = [least.log_records, least.log_tail].into_iter().flatten().min();
        assert!(log.is_none_or(|copies| copies == 2), "seed {seed}: {least:?}");
    }
}
