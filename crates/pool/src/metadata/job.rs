//! What is to be done to a pool that takes long: it is in the metadata, so any owner goes on with it.

use std::collections::BTreeSet;

use super::Metadata;
use crate::format::{DiskNumber, JobNumber};

/// What a job is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// A disk is out: what it has is made anew on others.
    Rebuild,
    /// What a disk has moves to others, and it gets nothing new.
    Evacuate,
    /// The same, to one other disk.
    Replace,
    /// What a disk has moves to others, and then it belongs to the pool no more.
    Remove,
    /// Everything is read and compared with its checksum. There is one at most; how far it is stands in the
    /// pool's property `scrub`.
    Scrub,
    /// Groups move so that more space can be given out, and disks are evenly full. There is one at most.
    Rebalance,
    /// Of a later version: it is kept, and nobody works on it.
    Other(u8),
}

/// Long work, which goes on after a crash. What was moved, the maps say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What for.
    pub kind: JobKind,
    /// The disk that it is about; behind it the one that takes its place. None of a scrub, or
    /// where disks are made evenly full.
    pub disks: Vec<DiskNumber>,
    /// Extents that were to be moved, or read, when it began.
    pub extents: u64,
}

impl Job {
    /// The disk that it empties, if it is known that it does that.
    pub fn empties(&self) -> Option<DiskNumber> {
        match self.kind {
            JobKind::Scrub | JobKind::Rebalance | JobKind::Other(_) => None,
            _ => self.disks.first().copied(),
        }
    }

    /// The disk that takes its place, where one was named.
    pub fn to(&self) -> Option<DiskNumber> {
        self.disks.get(1).copied()
    }
}

impl Metadata {
    /// The disks that get nothing new, since jobs are to empty them or they are to take no part.
    pub fn leaving(&self) -> BTreeSet<DiskNumber> {
        let emptied = self.jobs().values().filter_map(Job::empties);
        emptied.chain(self.offline().map(|(disk, _)| disk)).collect()
    }

    /// The job that empties a disk.
    pub fn job_of(&self, disk: DiskNumber) -> Option<(JobNumber, &Job)> {
        let mut jobs = self.jobs().iter().map(|(number, job)| (*number, job));
        jobs.find(|(_, job)| job.empties() == Some(disk))
    }

    /// The job that reads everything.
    pub fn scrub_job(&self) -> Option<(JobNumber, &Job)> {
        self.job_of_kind(JobKind::Scrub)
    }

    /// The job that makes disks evenly full.
    pub fn rebalance_job(&self) -> Option<(JobNumber, &Job)> {
        self.job_of_kind(JobKind::Rebalance)
    }

    fn job_of_kind(&self, kind: JobKind) -> Option<(JobNumber, &Job)> {
        let mut jobs = self.jobs().iter().map(|(number, job)| (*number, job));
        jobs.find(|(_, job)| job.kind == kind)
    }

    /// The number that the next job gets.
    pub fn next_job(&self) -> JobNumber {
        let jobs = self.jobs().keys().next_back().copied();
        let conversions = self.conversions().map(|(_, conversion)| conversion.job);
        let highest = conversions.chain(jobs).max().map_or(0, |number| number.0);
        JobNumber(highest.saturating_add(1))
    }
}
