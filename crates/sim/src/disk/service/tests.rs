use super::*;
use crate::speed::disks::{Pattern, rate};

const MIB: u64 = 1 << 20;
const HARD: Model = Model::Spinning(Spinning::HARD_DISK);
const FLASH: Model = Model::SolidState(SolidState::SATA);

/// A disk of 64 GiB and what it answered when.
struct Bare {
    service: Service<u32>,
    now: Instant,
    answers: Vec<(u32, Instant)>,
}

impl Bare {
    fn new(model: Model) -> Bare {
        let service = Service::new(model, 64 << 30).unwrap();
        Bare { service, now: Instant::from_nanos(1_000_000_000), answers: Vec::new() }
    }

    fn submit(&mut self, work: Work, start_bytes: u64, len_bytes: u64, token: u32) {
        self.service.submit(self.now, Job { work, start_bytes, len_bytes }, token);
    }

    /// Lets time pass until `token` is answered; says how long that took.
    fn wait_for(&mut self, token: u32) -> Duration {
        let begin = self.now;
        loop {
            if let Some((_, at)) = self.answers.iter().find(|(answered, _)| *answered == token) {
                return at.since(begin);
            }
            self.now = self.service.next().unwrap();
            while let Some(answered) = self.service.take_answered(self.now) {
                self.answers.push((answered, self.now));
            }
        }
    }
}

fn near(figure: f64, stated: f64, part: f64) {
    assert!((figure / stated - 1.0).abs() < part, "{figure} for {stated}");
}

#[test]
fn a_stream_reaches_the_stated_rate() {
    for (model, work, depth, stated) in [
        (HARD, Work::Read, 1, 200e6),
        (HARD, Work::Read, 4, 200e6),
        (HARD, Work::Write, 1, 200e6),
        (FLASH, Work::Read, 4, 500e6),
        (FLASH, Work::Write, 4, 490e6),
    ] {
        let rate = rate(model, Pattern::sequential(work, depth)).unwrap();
        near(rate.bytes_per_second(), stated, 0.01);
    }
}

#[test]
fn random_reads_reach_the_stated_rate_and_a_queue_helps_an_arm() {
    let per_second = |model, depth| rate(model, Pattern::random(Work::Read, depth)).unwrap();
    let disk = Spinning::HARD_DISK;
    let each = disk.average_seek + disk.revolution / 2 + disk.command;
    near(per_second(HARD, 1).per_second, 1.0 / each.as_secs_f64(), 0.02);
    let gain = per_second(HARD, 32).per_second / per_second(HARD, 1).per_second;
    assert!((1.8..4.0).contains(&gain), "{gain}");
    near(per_second(FLASH, 32).per_second, 72_000.0, 0.02);
    near(per_second(FLASH, 1).per_second, 9091.0, 0.02);
}

#[test]
fn what_comes_when_its_place_has_gone_by_waits_for_a_turn() {
    let mut bare = Bare::new(HARD);
    bare.submit(Work::DurableWrite, 0, 4096, 0);
    bare.wait_for(0);
    for number in 1..20 {
        bare.submit(Work::DurableWrite, u64::from(number) * 4096, 4096, number);
        let turn = Spinning::HARD_DISK.revolution.as_secs_f64();
        near(bare.wait_for(number).as_secs_f64(), turn, 0.01);
    }
}

#[test]
fn a_stream_that_pauses_is_read_ahead() {
    let mut bare = Bare::new(HARD);
    bare.submit(Work::Read, 0, MIB, 0);
    bare.wait_for(0);
    bare.now = bare.now + Duration::from_millis(20);
    bare.submit(Work::Read, MIB, MIB, 1);
    assert_eq!(bare.wait_for(1), Spinning::HARD_DISK.command);
}

#[test]
fn the_cache_answers_at_once_until_it_is_full_and_a_flush_waits_for_the_medium() {
    let mut bare = Bare::new(HARD);
    let fits = (Spinning::HARD_DISK.cache_bytes / MIB) as u32;
    for number in 0..=fits {
        bare.submit(Work::Write, u64::from(number) * MIB, MIB, number);
    }
    bare.submit(Work::Flush, 0, 0, 1000);
    assert_eq!(bare.wait_for(fits - 1), Spinning::HARD_DISK.command);
    let held = bare.wait_for(fits);
    assert!(held > Duration::from_millis(5) && held < Duration::from_millis(20), "{held:?}");
    // The flush isn't about the write that had no room when it came.
    near(bare.wait_for(1000).as_secs_f64(), f64::from(fits) * MIB as f64 / 200e6, 0.1);
    let mut flash = Bare::new(FLASH);
    flash.submit(Work::Flush, 0, 0, 0);
    assert_eq!(flash.wait_for(0), Duration::ZERO);
}

#[test]
fn nobody_is_passed_over_for_ever() {
    let mut bare = Bare::new(HARD);
    bare.submit(Work::Write, 32 << 30, 4096, 1_000_000);
    bare.wait_for(1_000_000);
    bare.submit(Work::Write, 48 << 30, 4096, 1_000_001);
    bare.submit(Work::Flush, 0, 0, 1_000_002);
    bare.submit(Work::Read, 60 << 30, 4096, 1_000_003);
    // A stream in which the next piece is always there.
    let pieces = 400;
    (0..4).for_each(|number| bare.submit(Work::Read, u64::from(number) * MIB, MIB, number));
    for number in 0..pieces {
        bare.wait_for(number);
        bare.submit(Work::Read, u64::from(number + 4) * MIB, MIB, number + 4);
    }
    for late in [1_000_001, 1_000_002, 1_000_003] {
        let (_, at) = bare.answers.iter().find(|(token, _)| *token == late).unwrap();
        let took = at.since(Instant::from_nanos(1_000_000_000));
        assert!(took < Duration::from_millis(700), "{late}: {took:?}");
    }
}

#[test]
fn time_spent_is_told() {
    let mut bare = Bare::new(HARD);
    (0..100).for_each(|number| bare.submit(Work::Read, u64::from(number) << 28, 4096, number));
    for number in 0..100 {
        bare.wait_for(number);
    }
    let usage = bare.service.usage();
    assert!(usage.positioning * 100 > usage.busy * 98, "{usage:?}");
    let took = bare.now.since(Instant::from_nanos(1_000_000_000));
    near(usage.busy.as_secs_f64(), took.as_secs_f64(), 0.01);
}
