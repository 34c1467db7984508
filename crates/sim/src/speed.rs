//! Speed in virtual time: what a pool makes of disks and cables that have limits.
//!
//! [`pool`] does what people do with a volume (stream, read and write at random, bring a machine back) and
//! says each rate as a part of what the disks and the cables would allow; [`rebuild`] does that of a disk of
//! twelve that is lost; [`disks`] does the same to the models of disks alone and says how near each comes to the figures that it was made from. Nothing here
//! depends on the machine that it runs on, and processors cost nothing: a rate is what policy, protocol
//! and hardware allow, never more. It is no part of the random runs.

use std::fmt::Write;
use std::time::Duration;

use futures::future::LocalBoxFuture;

use crate::disk::service::{Model, SolidState, Spinning};
use crate::network::Line;
use crate::runner::{self, Failure, Options, Outcome, Stage};

pub mod disks;
pub mod pool;
pub mod rebuild;
pub mod scale;

/// Hardware, all of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// What it is called.
    pub name: &'static str,
    /// Its disks.
    pub disk: Model,
    /// Its cables.
    pub line: Line,
}

/// What `sim --speed` compares.
pub const HARDWARE: [Hardware; 5] = [
    Hardware {
        name: "hard disks, 1 Gbit/s",
        disk: Model::Spinning(Spinning::HARD_DISK),
        line: Line::GIGABIT,
    },
    Hardware {
        name: "hard disks, 10 Gbit/s",
        disk: Model::Spinning(Spinning::HARD_DISK),
        line: Line::TEN_GIGABIT,
    },
    Hardware {
        name: "solid-state disks, 1 Gbit/s",
        disk: Model::SolidState(SolidState::SATA),
        line: Line::GIGABIT,
    },
    Hardware {
        name: "solid-state disks, 10 Gbit/s",
        disk: Model::SolidState(SolidState::SATA),
        line: Line::TEN_GIGABIT,
    },
    Hardware {
        name: "measured disks, 10 Gbit/s",
        disk: Model::SolidState(SolidState::MEASURED),
        line: Line::TEN_GIGABIT,
    },
];

/// Stack of a thread that measures.
const STACK_BYTES: usize = 16 << 20;

/// The hardware whose name has `only` in it.
fn chosen(only: &str) -> Result<Vec<Hardware>, Failure> {
    let chosen: Vec<Hardware> =
        HARDWARE.into_iter().filter(|hardware| hardware.name.contains(only)).collect();
    if chosen.is_empty() {
        let names = HARDWARE.map(|hardware| hardware.name).join("; ");
        return Err(Failure(format!("no hardware has `{only}` in its name; there are: {names}")));
    }
    Ok(chosen)
}

/// Measures each on a thread of its own.
fn side_by_side<T: Send>(
    work: Vec<impl FnOnce() -> Result<T, Failure> + Send>,
) -> Vec<Result<T, Failure>> {
    std::thread::scope(|scope| {
        let begin =
            |work| std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let measured: Vec<_> = work.into_iter().map(begin).collect();
        let joined = measured.into_iter().map(|measured| {
            measured?.join().unwrap_or_else(|_| Err(Failure("a measurement panicked".into())))
        });
        joined.collect()
    })
}

/// Runs a measurement to its end; a failure comes with the hardware and the story of it.
fn run(
    hardware: Hardware,
    settings: pool::Settings,
    body: impl FnOnce(Stage) -> LocalBoxFuture<'static, Result<(), Failure>> + 'static,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(24 * 3600);
    let options = Options { verbose: settings.verbose, ..Options::default() };
    let Outcome { failure, story, .. } = runner::run_body(body, limit, settings.seed, &options);
    let failed = |why| Failure(format!("{}: {why}\n{}", hardware.name, story.join("\n")));
    failure.map_or(Ok(()), |why| Err(failed(why)))
}

/// A rate of operations that are alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Operations a second.
    pub per_second: f64,
    /// Bytes of each.
    pub len_bytes: u64,
}

impl Rate {
    /// It as a part of the lesser of two others of operations of the same size.
    fn part_of(self, one: Rate, other: Rate) -> f64 {
        self.per_second / one.per_second.min(other.per_second)
    }

    /// Bytes a second.
    pub fn bytes_per_second(self) -> f64 {
        self.per_second * self.len_bytes as f64
    }
}

/// Small operations are counted, large ones are measured by their bytes.
impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.len_bytes {
            ..64_000 => write!(f, "{:.0}/s", self.per_second),
            _ => write!(f, "{:.1} MB/s", self.bytes_per_second() / 1e6),
        }
    }
}

/// A Markdown table whose columns are as wide as their widest cell.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.collect();
        // A string takes whatever is written to it.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    // What something is called stands left, figures stand right.
    let aligned = |cell: &str, place: usize| match place {
        0 => format!("{cell:<width$}", width = widths[place]),
        _ => format!("{cell:>width$}", width = widths[place]),
    };
    line(&mut head.iter().enumerate().map(|(place, cell)| aligned(cell, place)));
    line(&mut widths.iter().enumerate().map(|(place, width)| match place {
        0 => "-".repeat(*width),
        _ => format!("{}:", "-".repeat(width - 1)),
    }));
    for row in rows {
        line(&mut row.iter().enumerate().map(|(place, cell)| aligned(cell, place)));
    }
    text
}
