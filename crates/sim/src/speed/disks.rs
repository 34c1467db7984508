//! Models of disks alone, beside the figures that they were made from.

use block::Instant;
use rand::Rng;

use super::{Rate, table};
use crate::disk::service::{Job, Model, Service, SolidState, Spinning, Work};
use crate::random::fork;

/// Size of the disk in all of this.
const DISK_BYTES: u64 = 64 << 30;
const MIB: u64 = 1 << 20;

/// Operations that are alike, so many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What is done.
    pub work: Work,
    /// Whether anywhere, instead of one behind the other.
    pub random: bool,
    /// How much each moves.
    pub len_bytes: u64,
    /// How many are under way.
    pub depth: usize,
}

impl Pattern {
    /// 1 MiB each, one behind the other.
    pub const fn sequential(work: Work, depth: usize) -> Pattern {
        Pattern { work, random: false, len_bytes: MIB, depth }
    }

    /// 4 KiB each, anywhere.
    pub const fn random(work: Work, depth: usize) -> Pattern {
        Pattern { work, random: true, len_bytes: 4096, depth }
    }

    fn name(&self) -> String {
        let work = match self.work {
            Work::Read => "read",
            Work::Write => "write",
            Work::DurableWrite => "durable write",
            Work::Flush | Work::Nothing => "other",
        };
        let (order, size) = match self.random {
            true => ("random", "4 KiB"),
            false => ("sequential", "1 MiB"),
        };
        format!("{order} {size} {work}, depth {}", self.depth)
    }
}

/// How fast a disk of `model` does `pattern`, with a flush in the end; `None` for a model without queue.
pub fn rate(model: Model, pattern: Pattern) -> Option<Rate> {
    rate_within(model, pattern, DISK_BYTES, DISK_BYTES)
}

/// The same on a disk of `disk_bytes` of which only `used_bytes` are used. The size counts beside the part:
/// of what lies on few tracks, more is on the arm's own or was read ahead.
pub fn rate_within(
    model: Model,
    pattern: Pattern,
    disk_bytes: u64,
    used_bytes: u64,
) -> Option<Rate> {
    let places = (used_bytes.min(disk_bytes) / pattern.len_bytes).max(1);
    let mut service = Service::new(model, disk_bytes)?;
    let mut random = fork(1, "disks");
    let count = if pattern.random { 20_000 } else { 2048 };
    let mut jobs = (0..count).map(|number| {
        let place = match pattern.random {
            true => random.random_range(0..places),
            false => number,
        };
        let start_bytes = place * pattern.len_bytes;
        Job { work: pattern.work, start_bytes, len_bytes: pattern.len_bytes }
    });
    let begin = Instant::from_nanos(1_000_000_000);
    let mut now = begin;
    jobs.by_ref().take(pattern.depth).for_each(|job| service.submit(now, job, ()));
    let answered = |service: &mut Service<()>, now: &mut Instant| {
        while let Some(next) = service.next() {
            *now = next;
            if service.take_answered(next).is_some() {
                return true;
            }
        }
        false
    };
    while answered(&mut service, &mut now) {
        if let Some(job) = jobs.next() {
            service.submit(now, job, ());
        }
    }
    service.submit(now, Job { work: Work::Flush, start_bytes: 0, len_bytes: 0 }, ());
    while answered(&mut service, &mut now) {}
    let per_second = count as f64 / now.since(begin).as_secs_f64();
    Some(Rate { per_second, len_bytes: pattern.len_bytes })
}

/// A preset, and what the real disk did: operations or, of sequential patterns, bytes a second.
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// The model.
    pub model: Model,
    /// What is known of the real one.
    pub known: &'static [(Pattern, f64)],
}

/// The presets that have a queue.
pub const PRESETS: [Preset; 3] = [
    Preset {
        name: "hard disk (published: 8 ms + half of 8.33 ms; 200 MB/s)",
        model: Model::Spinning(Spinning::HARD_DISK),
        known: &[
            (Pattern::sequential(Work::Read, 1), 200e6),
            (Pattern::sequential(Work::Write, 1), 200e6),
            (Pattern::random(Work::Read, 1), 82.2),
            (Pattern::random(Work::DurableWrite, 1), 82.2),
        ],
    },
    Preset {
        name: "solid state (published: Intel SSD DC S4600)",
        model: Model::SolidState(SolidState::SATA),
        known: &[
            (Pattern::sequential(Work::Read, 32), 500e6),
            (Pattern::sequential(Work::Write, 32), 490e6),
            (Pattern::random(Work::Read, 1), 9091.0),
            (Pattern::random(Work::Read, 32), 72_000.0),
            (Pattern::random(Work::Write, 1), 19_231.0),
            (Pattern::random(Work::Write, 32), 65_000.0),
        ],
    },
    Preset {
        name: "measured (a virtual machine's virtio disk, fio)",
        model: Model::SolidState(SolidState::MEASURED),
        known: &[
            (Pattern::sequential(Work::Read, 1), 1132e6),
            (Pattern::sequential(Work::Read, 32), 1227e6),
            (Pattern::sequential(Work::Write, 1), 3605e6),
            (Pattern::sequential(Work::Write, 32), 2930e6),
            (Pattern::random(Work::Read, 1), 18_812.0),
            (Pattern::random(Work::Read, 32), 74_273.0),
            (Pattern::random(Work::Write, 1), 7752.0),
            (Pattern::random(Work::Write, 32), 40_175.0),
            (Pattern::random(Work::DurableWrite, 1), 567.0),
            (Pattern::random(Work::DurableWrite, 32), 46_429.0),
        ],
    },
];

/// Patterns that are shown whether or not something is known of them.
const SHOWN: [Pattern; 10] = [
    Pattern::sequential(Work::Read, 1),
    Pattern::sequential(Work::Read, 32),
    Pattern::sequential(Work::Write, 1),
    Pattern::sequential(Work::Write, 32),
    Pattern::random(Work::Read, 1),
    Pattern::random(Work::Read, 32),
    Pattern::random(Work::Write, 1),
    Pattern::random(Work::Write, 32),
    Pattern::random(Work::DurableWrite, 1),
    Pattern::random(Work::DurableWrite, 32),
];

/// Each preset beside what is known of the real disk.
pub fn report() -> String {
    let tables = PRESETS.iter().map(|preset| {
        let rows = SHOWN.iter().map(|pattern| row(preset, *pattern)).collect::<Vec<_>>();
        table(&[preset.name, "real", "model", "error"], &rows)
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn row(preset: &Preset, pattern: Pattern) -> Vec<String> {
    let known = preset.known.iter().find(|(known, _)| *known == pattern).map(|(_, rate)| {
        let per_second = if pattern.random { *rate } else { rate / pattern.len_bytes as f64 };
        Rate { per_second, len_bytes: pattern.len_bytes }
    });
    let model = rate(preset.model, pattern);
    let error = known.zip(model).map(|(real, model)| model.per_second / real.per_second - 1.0);
    let cell = |rate: Option<Rate>| rate.map_or("-".into(), |rate| rate.to_string());
    let error = error.map_or("-".into(), |error| format!("{:+.1} %", error * 100.0));
    vec![pattern.name(), cell(known), cell(model), error]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(preset: &Preset, pattern: Pattern, real: f64) -> f64 {
        let rate = rate(preset.model, pattern).map_or(0.0, |rate| match pattern.random {
            true => rate.per_second,
            false => rate.bytes_per_second(),
        });
        rate / real - 1.0
    }

    /// The models do what they were made from. Of the measured disk single writes are left out, which no
    /// model with these figures explains: docs/benchmarks.md.
    #[test]
    fn each_preset_is_near_what_is_known_of_the_real_disk() {
        let [published @ .., measured] = &PRESETS;
        for preset in published {
            for (pattern, real) in preset.known {
                let error = error(preset, *pattern, *real);
                assert!(error.abs() < 0.02, "{}: {}: {error}", preset.name, pattern.name());
            }
        }
        for (pattern, real) in measured.known {
            if pattern.depth > 1 || pattern.work == Work::Read {
                let error = error(measured, *pattern, *real);
                assert!(error.abs() < 0.1, "{}: {}: {error}", measured.name, pattern.name());
            }
        }
    }
}
