//! Records about jobs, and the pool's properties.

use super::volumes::set_in;
use super::{Inconsistent, check_name};
use crate::format::JobNumber;
use crate::metadata::{Job, JobKind, Metadata};

impl Metadata {
    pub(super) fn set_job(&mut self, number: JobNumber, job: &Job) -> Result<(), Inconsistent> {
        if let Some(unknown) = job.disks.iter().find(|disk| !self.disks.contains_key(*disk)) {
            return Err(Inconsistent::UnknownDisk(*unknown));
        }
        let fits = match (job.kind, job.disks.as_slice()) {
            (JobKind::Rebuild | JobKind::Evacuate | JobKind::Remove, [_]) => true,
            (JobKind::Replace, [disk, by]) => disk != by,
            (JobKind::Scrub | JobKind::Rebalance, []) | (JobKind::Other(_), _) => true,
            _ => false,
        };
        if !fits {
            return Err(Inconsistent::BadShape);
        }
        let known = match job.kind {
            JobKind::Scrub => self.scrub_job(),
            JobKind::Rebalance => self.rebalance_job(),
            _ => job.empties().and_then(|disk| self.job_of(disk)),
        };
        let is_conversion = self.conversion_of(number).is_some();
        if is_conversion || known.is_some_and(|(other, _)| other != number) {
            return Err(Inconsistent::UnknownJob(number));
        }
        self.jobs.insert_mut(number, job.clone());
        Ok(())
    }

    pub(super) fn remove_job(&mut self, number: JobNumber) -> Result<(), Inconsistent> {
        match self.jobs.remove_mut(&number) {
            true => Ok(()),
            false => Err(Inconsistent::UnknownJob(number)),
        }
    }

    pub(super) fn set_pool_property(
        &mut self,
        key: &str,
        value: &Option<String>,
    ) -> Result<(), Inconsistent> {
        check_name(key, false)?;
        set_in(&mut self.properties, key, value)
    }
}
