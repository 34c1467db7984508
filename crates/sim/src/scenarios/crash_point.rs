//! Where a crash comes: at which step of an operation, when, and what goes; and all such points.

use std::fmt;
use std::str::FromStr;

use pool::InvalidStopAt;

use super::nth_step::{Operation, operation_of};
use crate::steps::{Kind, Nth, When};

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The engine's process.
    Process,
    /// A machine with disks: the one where the step is, if it is on one.
    Machine,
    /// Everything.
    Power,
}

/// Where a crash comes.
#[derive(Clone, Copy)]
pub struct Point {
    /// In what.
    pub operation: &'static Operation,
    /// At which of its steps.
    pub nth: Nth,
    /// Before, in or after the step.
    pub when: When,
    /// What goes.
    pub what: What,
}

/// What the number of a step on a disk begins with.
const ON_DISK: &str = "disk-";
/// Of frames that follow each other, so many of the first and of the last are crashed at.
const FRAMES_AT_ENDS: usize = 8;
/// Of those between them, one of so many.
const ONE_FRAME_OF: usize = 16;
pub(super) const WHENS: [(When, &str); 3] =
    [(When::Before, "before"), (When::Middle, "middle"), (When::After, "after")];
pub(super) const WHATS: [(What, &str); 3] =
    [(What::Process, "process"), (What::Machine, "machine"), (What::Power, "power")];

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = WHENS.iter().find(|(when, _)| *when == self.when).map_or("", |known| known.1);
        let what = WHATS.iter().find(|(what, _)| *what == self.what).map_or("", |known| known.1);
        let nth = match self.nth {
            Nth::Step(number) => number.to_string(),
            Nth::OnDisk(number) => format!("{ON_DISK}{number}"),
            Nth::Named(at) => at.to_string(),
        };
        write!(f, "{}/{nth}/{when}/{what}", self.operation.name)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [operation, nth, when, what] = parts[..] else {
            return Err(format!("`{text}` isn't OPERATION/NUMBER/WHEN/WHAT"));
        };
        let number = |text: &str| text.parse().map_err(|_| format!("`{text}` isn't a number"));
        let nth = match (nth.strip_prefix(ON_DISK), nth.contains('.')) {
            (Some(nth), _) => Nth::OnDisk(number(nth)?),
            (None, true) => Nth::Named(nth.parse().map_err(|why: InvalidStopAt| why.to_string())?),
            (None, false) => Nth::Step(number(nth)?),
        };
        Ok(Point {
            operation: operation_of(operation)?,
            nth,
            when: WHENS
                .iter()
                .find_map(|(known, name)| (*name == when).then_some(*known))
                .ok_or_else(|| format!("`{when}` isn't before, middle or after"))?,
            what: WHATS
                .iter()
                .find_map(|(known, name)| (*name == what).then_some(*known))
                .ok_or_else(|| format!("`{what}` isn't process, machine or power"))?,
        })
    }
}

/// The points of an operation of these steps: each of those on disks, and the frames. A frame goes as
/// a whole or not at all. Where many follow each other nothing lasts in between: the first and last ones
/// of them stand for those in their middle, and a few of these are taken all the same.
pub fn points(operation: &'static Operation, steps: &[Kind]) -> Vec<Point> {
    let mut points = Vec::new();
    let mut add = |nth, whens: &[(When, &str)]| {
        let each = whens.iter().flat_map(|(when, _)| WHATS.map(|(what, _)| (*when, what)));
        points.extend(each.map(|(when, what)| Point { operation, nth, when, what }));
    };
    let (mut number, mut on_disks) = (0, 0);
    for run in steps.chunk_by(|one, next| one.is_on_disk() == next.is_on_disk()) {
        for (index, kind) in run.iter().enumerate() {
            let is_near_end = index.min(run.len() - 1 - index) < FRAMES_AT_ENDS;
            if kind.is_on_disk() {
                add(Nth::OnDisk(on_disks), &WHENS);
                on_disks += 1;
            } else if is_near_end || index % ONE_FRAME_OF == 0 {
                add(Nth::Step(number), &[WHENS[0], WHENS[2]]);
            }
            number += 1;
        }
    }
    points
}
