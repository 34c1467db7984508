//! Which disks to bring back: what a volume or pool lacks that waits, named so that a person finds it.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::member::Member;
use super::open_pool::OpenPool;
use super::status::{RunsThere, There};
use super::volume::segment::current_copies;
use crate::format::DiskNumber;
use crate::metadata::{Metadata, Volume as VolumeMeta};

/// Disks named in a message, at most: the rest are counted.
const NAMED_MAX: usize = 4;

/// What keeps parts of a volume from being right on any disk that is there.
pub(super) struct Lacking {
    /// Disks that aren't there and are right in one of those parts.
    pub(super) away: BTreeSet<DiskNumber>,
    /// Disks that are there and missed one of them.
    pub(super) behind: BTreeSet<DiskNumber>,
}

/// What a volume's data lacks where only some disks are there, on which its runs have so much.
pub(super) fn lacking(
    meta: &Metadata,
    volume: &VolumeMeta,
    there: &There,
    runs: &RunsThere,
) -> Lacking {
    let is_there = |disk: DiskNumber| there.contains_key(&disk);
    // By runs first, since few of a large volume's groups have missed anything.
    let (mut away, mut behind) = (runs.away.as_ref().clone(), BTreeSet::new());
    for group in meta.groups_behind(volume) {
        let dirty = |disk: DiskNumber| meta.dirty(group.generation(), disk);
        let disks = || group.members().map(|(disk, _)| disk);
        let there = disks().filter(|disk| is_there(*disk));
        let wrong = there.map(dirty).fold(u64::MAX, |a, b| a & b);
        for disk in disks() {
            match is_there(disk) {
                true if dirty(disk) & wrong != 0 => drop(behind.insert(disk)),
                false if dirty(disk) & wrong != wrong => drop(away.insert(disk)),
                _ => {}
            }
        }
    }
    Lacking { away, behind }
}

impl OpenPool {
    /// Why some of a volume's requests wait, or its replay: parts of it are right on no disk that is
    /// there. A member that is there and behind doesn't count for the regions that it missed.
    pub(super) fn blocked(
        &self,
        meta: &Metadata,
        volume: &VolumeMeta,
        there: &There,
    ) -> Option<String> {
        let is_there = |disk| there.contains_key(&disk);
        let runs = self.runs_there(volume, there);
        let Lacking { away, behind } = lacking(meta, volume, there, &runs);
        let log = self.log_lacking(volume, is_there);
        if !log.is_empty() && away.is_empty() {
            return Some(format!(
                "no current copy of its log is present; bring back {}",
                self.names(&log, " or ")
            ));
        }
        if away.is_empty() {
            return None;
        }
        let behind = match behind.is_empty() {
            true => String::new(),
            false => format!(" ({} is there, but missed them)", self.names(&behind, ", ")),
        };
        let away = self.names(&away, ", ");
        Some(format!("no disk that is present has all of its blocks{behind}; bring back {away}"))
    }

    /// The disks of which one is needed for a live segment of a volume's log, where only some are there.
    pub(super) fn log_lacking(
        &self,
        volume: &VolumeMeta,
        is_there: impl Fn(DiskNumber) -> bool,
    ) -> BTreeSet<DiskNumber> {
        let config = self.pool.config.borrow();
        let live = volume.log.segments.values();
        let live = live.filter(|segment| segment.is_needed(volume.log.released));
        let mut missing = BTreeSet::new();
        for segment in live {
            let current = current_copies(segment, &config);
            if !current.iter().any(|copy| is_there(copy.disk)) {
                missing.extend(current.iter().map(|copy| copy.disk));
            }
        }
        missing
    }

    /// Why the lease doesn't run, with the vote disks that are missing.
    pub(super) fn votes_missing(&self) -> String {
        let voters = self.pool.all_voters().into_iter();
        let voters = voters.filter_map(|disk| self.pool.member_by_id(disk));
        let silent = voters.filter(|member| {
            !member.claimed.get() || !member.answers.get() || member.device().is_none()
        });
        let silent: BTreeSet<DiskNumber> = silent.map(|member| member.number).collect();
        match silent.is_empty() {
            true => "a majority of its votes does not answer in time".into(),
            false => format!(
                "a majority of its votes does not answer; bring back {}",
                self.names(&silent, ", ")
            ),
        }
    }

    pub(super) fn names(&self, disks: &BTreeSet<DiskNumber>, between: &str) -> String {
        let members = disks.iter().filter_map(|disk| self.pool.member(*disk));
        let name = |member: Rc<Member>| self.pool.describe(&member);
        let names: Vec<String> = members.take(NAMED_MAX).map(name).collect();
        let more = disks.len().saturating_sub(names.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{}{more}", names.join(between))
    }
}
