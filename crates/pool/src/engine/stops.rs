//! Places between two durable steps of long work, by name. The engine's host may have it halt at one, so that tests
//! take the process away in exactly that state of the disks. In production no host asks for that.
//!
//! Each tells apart what the disks hold, not what the engine is doing: what is passed without anything durable in
//! between has one name. None is on the path of a request.

use std::fmt;
use std::num::ParseIntError;
use std::rc::Rc;
use std::str::FromStr;

use crate::metadata::MetaRecord;

/// A named place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopPoint {
    /// A job was committed, or a disk got another one.
    JobRecorded,
    /// Positions of groups began to move: the disks that they move to lack everything.
    MoveBegun,
    /// What disks missed was copied to them; their caches may have it.
    CopyWritten,
    /// They made that durable.
    CopyFlushed,
    /// They wrote the number of the release that credits them with it.
    CopyApplied,
    /// The metadata says that they have it.
    CopyCredited,
    /// Positions of groups are elsewhere, and their former places free.
    MoveSwitched,
    /// A disk that is to vote has extents for a copy of the metadata.
    AreaBegun,
    /// Its labels name them; the metadata doesn't yet.
    AreaLabelled,
    /// Two lists of voters count: the former and the next.
    VotesBoth,
    /// The next one alone does.
    VotesMoved,
    /// A job isn't in the metadata any more.
    JobEnded,
    /// A disk isn't in the metadata any more, and has its labels.
    DiskRemoved,
    /// It lost the older of its votes,
    WipeOlderVote,
    /// its applied blocks and labels,
    WipeLabels,
    /// and the newest vote: it shows nothing any more.
    WipeNewestVote,
    /// An opening claimed the disks.
    OpenClaimed,
    /// A majority of votes has its first configuration.
    OpenConfigured,
    /// Its checkpoint is on all current copies of the metadata.
    OpenCheckpointed,
    /// Of a pool with a key: a majority of votes names its signers, and nobody else's, beside those of copies that lack it.
    OpenNamed,
    /// The pool is open; no record of the supervisor's says so.
    OpenDone,
    /// The ends of a volume's log are committed.
    LogBounded,
    /// What of it wasn't on all current copies was appended again.
    LogRepeated,
    /// It was brought into place.
    LogReplayed,
}

block::words!(StopPoint {
    JobRecorded = "job.recorded",
    MoveBegun = "move.begun",
    CopyWritten = "copy.written",
    CopyFlushed = "copy.flushed",
    CopyApplied = "copy.applied",
    CopyCredited = "copy.credited",
    MoveSwitched = "move.switched",
    AreaBegun = "area.begun",
    AreaLabelled = "area.labelled",
    VotesBoth = "votes.both",
    VotesMoved = "votes.moved",
    JobEnded = "job.ended",
    DiskRemoved = "disk.removed",
    WipeOlderVote = "wipe.older-vote",
    WipeLabels = "wipe.labels",
    WipeNewestVote = "wipe.newest-vote",
    OpenClaimed = "open.claimed",
    OpenConfigured = "open.configured",
    OpenCheckpointed = "open.checkpointed",
    OpenNamed = "open.named",
    OpenDone = "open.done",
    LogBounded = "log.bounded",
    LogRepeated = "log.repeated",
    LogReplayed = "log.replayed",
});

impl StopPoint {
    /// The place behind the commit of a record.
    fn behind(record: &MetaRecord) -> Option<StopPoint> {
        Some(match record {
            MetaRecord::JobSet { .. } => StopPoint::JobRecorded,
            MetaRecord::JobRemoved { .. } => StopPoint::JobEnded,
            MetaRecord::MoveBegun { .. } => StopPoint::MoveBegun,
            MetaRecord::MoveSwitched { .. } => StopPoint::MoveSwitched,
            MetaRecord::RegionsCleaned(_) => StopPoint::CopyCredited,
            MetaRecord::AreaBegun { .. } => StopPoint::AreaBegun,
            MetaRecord::DiskRemoved { .. } => StopPoint::DiskRemoved,
            _ => return None,
        })
    }
}

/// One passing of a place: `PLACE` for the first, `PLACE:N` for the n-th from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StopAt {
    /// Which place.
    pub point: StopPoint,
    /// How often it is still to be passed until then; 0 afterwards.
    pub passings: u32,
}

impl StopAt {
    /// Counts a passing; whether it is the one.
    pub fn is_reached(&mut self, point: StopPoint) -> bool {
        let counts = self.point == point && self.passings > 0;
        self.passings -= u32::from(counts);
        counts && self.passings == 0
    }
}

/// Not one passing of a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStopAt {
    /// No such place.
    #[error(transparent)]
    Place(#[from] block::UnknownWord),
    /// Behind the colon is no number.
    #[error("'{0}' doesn't say which passing: {1}")]
    Number(String, ParseIntError),
    /// Passings are counted from one.
    #[error("passings are counted from 1")]
    Zero,
}

impl FromStr for StopAt {
    type Err = InvalidStopAt;

    fn from_str(text: &str) -> Result<StopAt, InvalidStopAt> {
        let (point, passings) = match text.split_once(':') {
            Some((point, number)) => {
                let parsed = number.parse();
                (point, parsed.map_err(|why| InvalidStopAt::Number(number.to_owned(), why))?)
            }
            None => (text, 1),
        };
        let point = point.parse()?;
        if passings == 0 { Err(InvalidStopAt::Zero) } else { Ok(StopAt { point, passings }) }
    }
}

impl fmt::Display for StopAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.passings)
    }
}

type Halts = Rc<dyn Fn(StopPoint) -> bool>;

/// What the host says of places that are passed: nothing, unless it asked to be told.
#[derive(Clone, Default)]
pub struct Stops(Option<Halts>);

impl Stops {
    /// Tells the host of each place that is passed; where it answers `true`, whoever passes it never goes on.
    pub fn at(halts: impl Fn(StopPoint) -> bool + 'static) -> Stops {
        Stops(Some(Rc::new(halts)))
    }

    pub(super) async fn pass(&self, point: StopPoint) {
        if self.0.as_ref().is_some_and(|halts| halts(point)) {
            std::future::pending::<()>().await;
        }
    }

    /// What follows the commit of these records.
    pub(super) async fn pass_committed(&self, records: &[MetaRecord]) {
        if self.0.is_some() {
            for point in records.iter().filter_map(StopPoint::behind) {
                self.pass(point).await;
            }
        }
    }
}

impl fmt::Debug for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "the host is asked" } else { "none" })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_passing_is_named_and_counted_once() {
        let mut second: StopAt = "move.switched:2".parse().unwrap();
        assert_eq!(second.to_string(), "move.switched:2");
        let passed = [StopPoint::MoveSwitched, StopPoint::MoveBegun];
        let passed = passed.iter().cycle().take(8).map(|point| second.is_reached(*point));
        assert_eq!(
            passed.collect::<Vec<_>>(),
            [false, false, true, false, false, false, false, false]
        );
        assert_eq!("job.ended".parse::<StopAt>().unwrap().to_string(), "job.ended:1");
        for (text, why) in [
            ("move.ended", "use job.recorded or move.begun"),
            ("job.ended:x", "'x' doesn't say which passing"),
            ("job.ended:0", "counted from 1"),
        ] {
            let error = text.parse::<StopAt>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
