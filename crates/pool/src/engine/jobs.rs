//! Jobs: long work on a pool, which its metadata names and which goes on after a crash. All but the scrub, which
//! is worked on elsewhere (`scrub`), empty a disk, by moving its positions of groups elsewhere one run after the other (`relocate`): because it is
//! out for good (rebuild), because an administrator wants it empty (evacuate), or because another one is to take
//! its place (replace). What of it is done the map says, so a job has no cursor that could be wrong.
//!
//! A disk that a job empties gets nothing new, and its copies of log segments are given up like those of a
//! disk that is out: the segment is closed and destaged.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::size::Human;
use block::{Instant, IoError};
use futures::future::select;
use uuid::Uuid;

use super::EmptyDisks;
use super::convert::Checks;
use super::lease::Ended;
use super::member::Member;
use super::open_pool::OpenPool;
use super::rebalance::Balance;
use super::settings::{REBUILD_DELAY, setting};
use super::space::domain_word;
use super::to_empty::RunsToEmpty;
use crate::allocate::{MovePlan, Usable};
use crate::error::PoolError;
use crate::forecast::EmptyForecast;
use crate::format::{DiskNumber, JobNumber, VolumeId};
use crate::metadata::{GroupRun, Job, JobKind, MetaRecord, Metadata, RunKey};
use crate::report::{JobReport, JobState, PoolEvent};

/// How often jobs are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of jobs besides the metadata.
#[derive(Default)]
pub(crate) struct Jobs {
    /// Why they wait.
    pub(super) waits: RefCell<BTreeMap<JobNumber, String>>,
    /// What the moves under way lack, in regions, and since when that is so.
    pub(super) moves: RefCell<BTreeMap<(VolumeId, RunKey), (u64, Instant)>>,
    /// The runs that disks are to be emptied of, where they were found.
    pub(super) to_empty: RefCell<BTreeMap<VolumeId, RunsToEmpty>>,
    /// Those that were told to be done, and stay.
    pub(super) done: RefCell<BTreeSet<JobNumber>>,
    /// Since when disks aren't there. One that nobody needed meanwhile may still be in.
    gone_since: RefCell<BTreeMap<DiskNumber, Instant>>,
    /// Why they aren't rebuilt.
    not_rebuilt: RefCell<BTreeMap<DiskNumber, String>>,
    /// Which scrub, by its job and when it began, has read how many extents: what it noted is behind.
    pub(super) scrubbed: Cell<Option<(JobNumber, u64, u64)>>,
    pub(super) checks: RefCell<Checks>,
    pub(super) balance: RefCell<Balance>,
}

impl JobKind {
    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            JobKind::Rebuild => "rebuild",
            JobKind::Evacuate => "evacuate",
            JobKind::Replace => "replace",
            JobKind::Remove => "remove",
            JobKind::Scrub => "scrub",
            JobKind::Rebalance => "rebalance",
            JobKind::Other(_) => "unknown",
        }
    }
}

impl OpenPool {
    /// Works on the pool's jobs, and begins those that nobody has to ask for.
    pub(crate) async fn run_jobs(self: Rc<Self>) {
        loop {
            match self.look_at_jobs().await {
                Err(_) => return,
                Ok(true) => continue,
                Ok(false) => {}
            }
            // What was copied may let a move end.
            let has_jobs = {
                let meta = self.pool.meta.borrow();
                meta.jobs().values().any(|job| job.kind != JobKind::Scrub)
                    || meta.conversions().next().is_some()
            };
            let timer = self.pool.runtime.sleep(LOOK_EVERY);
            let waited = match has_jobs {
                true => {
                    let changed = self.pool.changed.notified();
                    let rest = self.pool.runtime.sleep(self.pool.limits.retry);
                    let both = async {
                        select(std::pin::pin!(changed), std::pin::pin!(timer)).await;
                        rest.await;
                    };
                    self.pool.unless_over(both).await
                }
                false => self.pool.unless_over(timer).await,
            };
            if waited.is_err() {
                return;
            }
        }
    }

    /// Begins what is due, and takes the next steps; tells whether there were any.
    async fn look_at_jobs(self: &Rc<Self>) -> Result<bool, Ended> {
        self.begin_rebuilds().await?;
        self.begin_rebalance_if_stuck().await?;
        self.advance_jobs().await
    }

    /// Has disks emptied, or tells what that would do.
    pub(crate) async fn empty_disks(
        self: &Rc<Self>,
        request: &EmptyDisks,
    ) -> Result<EmptyForecast, PoolError> {
        let disks = self.all_named(&request.disks)?;
        let to = match &request.to {
            Some(name) => self.disks_named(name)?.first().copied(),
            None => None,
        };
        if disks.is_empty() || to.is_some() && disks.len() > 1 {
            let why = format!("{} disks are named", disks.len());
            return Err(PoolError::invalid(why, "name the one disk whose place another one takes"));
        }
        let forecast = {
            let meta = self.pool.meta.borrow();
            self.check_jobs(&meta, &disks, to)?;
            self.forecast_without(&meta, &disks)
        };
        if request.dry_run {
            return Ok(forecast);
        }
        let kind = match to {
            Some(_) => JobKind::Replace,
            None if request.remove => JobKind::Remove,
            None => JobKind::Evacuate,
        };
        let (this, named) = (Rc::clone(self), disks.clone());
        let begun = self.administer(move |meta| {
            this.check_jobs(meta, &named, to)?;
            Ok((job_records(meta, kind, &named, to), ()))
        });
        begun.await?;
        forecast.disks.iter().for_each(|disk| self.tell_job(kind, disk, true));
        Ok(forecast)
    }

    /// The disks that names mean, each once.
    pub(super) fn all_named(&self, names: &[String]) -> Result<Vec<DiskNumber>, PoolError> {
        let mut disks: Vec<DiskNumber> = Vec::new();
        for name in names {
            disks.extend(self.disks_named(name)?);
        }
        disks.sort_unstable();
        disks.dedup();
        Ok(disks)
    }

    /// The disks that a name means: of a disk, or of a machine.
    fn disks_named(&self, name: &str) -> Result<Vec<DiskNumber>, PoolError> {
        let members = self.pool.members();
        let is_it =
            |member: &&Rc<Member>| member.display_name() == name || member.id.to_string() == name;
        if let Some(member) = members.iter().find(is_it) {
            return Ok(vec![member.number]);
        }
        let meta = self.pool.meta.borrow();
        let there = meta.disks().values().filter(|disk| disk.node_name == name);
        let there: Vec<DiskNumber> = there.map(|disk| disk.number).collect();
        match there.is_empty() {
            false => Ok(there),
            true => Err(PoolError::NotFound {
                what: "disk".into(),
                name: name.into(),
                remedy: format!("see `etherpool pool show {}`", self.pool.name),
            }),
        }
    }

    fn forecast_without(&self, meta: &Metadata, disks: &[DiskNumber]) -> EmptyForecast {
        let usable = self.usable_without(disks);
        let extent_bytes = meta.shape().extent_bytes();
        let extents: u64 = disks.iter().map(|disk| extents_on(meta, *disk)).sum();
        let taken: u64 = disks.iter().map(|disk| groups_on(meta, *disk)).sum();
        let others = meta.disks().values().filter(|disk| usable.contains(&disk.number));
        let free: u64 = others.map(|disk| u64::from(disk.free.len())).sum();
        EmptyForecast {
            disks: disks.iter().map(|disk| self.pool.disk_name(*disk)).collect(),
            bytes: extents * extent_bytes,
            free_bytes: free.saturating_sub(taken) * extent_bytes,
            spare_lacks: self.spare_lacks_more(meta, disks, &usable),
        }
    }

    /// What emptying disks would be refused for.
    fn check_jobs(
        &self,
        meta: &Metadata,
        disks: &[DiskNumber],
        to: Option<DiskNumber>,
    ) -> Result<(), PoolError> {
        if let Some(to) = to {
            if let Some(witness) = disks.iter().find(|disk| meta.is_witness(**disk)) {
                return Err(PoolError::refused(
                    self.pool.disk_name(*witness),
                    "it is a witness, and has nothing that another one could take over",
                    "add another witness (pool extend --witness), then remove this one (pool remove)",
                ));
            }
            if meta.is_witness(to) {
                return Err(PoolError::refused(
                    self.pool.disk_name(to),
                    "it is a witness, and no data may be on it",
                    "name a disk that isn't one, see `etherpool pool show`",
                ));
            }
            let name = self.pool.disk_name(to);
            if disks.contains(&to) {
                let remedy = "name the disk that takes its place";
                return Err(PoolError::refused(name, "it would take its own place", remedy));
            }
            if !self.pool.usable_disks().contains(&to) {
                let why = "it takes no part in the pool now, or is to be emptied itself";
                return Err(PoolError::refused(name, why, "see `etherpool pool show`"));
            }
        }
        let homeless = self.homeless(meta, disks, to);
        let names: Vec<String> = disks.iter().map(|disk| self.pool.disk_name(*disk)).collect();
        if self.usable_without(disks).is_empty() {
            let why = "no other disk of the pool takes part, and its votes must be somewhere";
            return Err(PoolError::refused(
                names.join(" and "),
                why,
                "add disks first (pool extend)",
            ));
        }
        if homeless == 0 {
            return Ok(());
        }
        let domain = domain_word(meta);
        let extent_bytes = meta.shape().extent_bytes();
        let extents = disks.iter().map(|disk| extents_on(meta, *disk)).sum::<u64>();
        let usable = self.usable_without(disks);
        let others = meta.data_disks().filter(|disk| usable.contains(&disk.number));
        let free: u64 = others.map(|disk| u64::from(disk.free.len())).sum();
        Err(PoolError::NoSpace {
            needed_bytes: extents * extent_bytes,
            free_bytes: extents.saturating_sub(homeless) * extent_bytes,
            remedy: format!(
                "what is on {} must go to another {domain} than its other copies are on, besides what is kept \
                 for logs: of the {} that are free on the others it can have no more; add disks first (pool extend)",
                names.join(" and "),
                Human(free * extent_bytes)
            ),
        })
    }

    /// Extents of disks that find no place elsewhere, besides what is on its way already.
    fn homeless(&self, meta: &Metadata, disks: &[DiskNumber], to: Option<DiskNumber>) -> u64 {
        let mut plan = MovePlan::forecast(meta, &self.usable_without(disks));
        plan_what_goes_on(&mut plan, meta, disks, None);
        disks.iter().map(|disk| plan.homeless(*disk, to, None)).sum()
    }

    /// The disks that new space may be taken from once these are to be emptied.
    pub(super) fn usable_without(&self, disks: &[DiskNumber]) -> Usable {
        let mut usable = self.pool.usable_disks();
        usable.retain(|disk| !disks.contains(disk));
        usable
    }

    /// Ends a job before it is done; what it moved stays where it is. A layout that changes is taken back, which is
    /// a job like the change.
    pub(crate) async fn cancel_job(self: &Rc<Self>, number: JobNumber) -> Result<(), PoolError> {
        let (this, pool) = (Rc::clone(self), self.pool.name.clone());
        // What is withdrawn isn't begun again at once by itself.
        let job = self.pool.meta.borrow().jobs().get(&number).cloned();
        let now = self.pool.runtime.now();
        if job.as_ref().is_some_and(|job| job.kind == JobKind::Rebalance) {
            self.rest_from_rebalance();
        }
        for disk in job.iter().flat_map(|job| &job.disks) {
            if let Some(since) = self.jobs.gone_since.borrow_mut().get_mut(disk) {
                *since = now;
            }
        }
        self.administer(move |meta| {
            if let Some(back) = this.take_back(meta, number) {
                return Ok((vec![back], ()));
            }
            if !meta.jobs().contains_key(&number) {
                return Err(PoolError::NotFound {
                    what: "job".into(),
                    name: format!("{} of pool {pool}", number.0),
                    remedy: "see `etherpool pool jobs`".into(),
                });
            }
            Ok((vec![MetaRecord::JobRemoved { number }], ()))
        })
        .await
    }

    /// Begins to rebuild disks that are out for long enough, where that can be done as a whole.
    async fn begin_rebuilds(self: &Rc<Self>) -> Result<(), Ended> {
        let due = self.rebuilds_due();
        for disk in due {
            let why_not = self.why_not_rebuilt(disk);
            let told = match &why_not {
                Some(why) => self.jobs.not_rebuilt.borrow_mut().insert(disk, why.clone()),
                None => self.jobs.not_rebuilt.borrow_mut().remove(&disk),
            };
            if let Some(why) = why_not {
                if told.as_ref() != Some(&why) {
                    let (pool, disk) = (self.pool.name.clone(), self.pool.disk_name(disk));
                    self.pool.events.tell(PoolEvent::RebuildWaits { pool, disk, why });
                }
                continue;
            }
            if !self.pool.is_out(disk) {
                self.pool.evict(&BTreeMap::from([(disk, IoError::Lost)]), false).await?;
            }
            let lock = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
            let meta = self.pool.meta.borrow().clone();
            // It may be back by now, or somebody asked for something else.
            let is_offline = meta.offline_since(disk).is_some();
            if !self.pool.is_out(disk) || meta.job_of(disk).is_some() || is_offline {
                continue;
            }
            let records = job_records(&meta, JobKind::Rebuild, &[disk], None);
            self.pool.commit_locked(&records).await?;
            drop(lock);
            self.tell_job(JobKind::Rebuild, &self.pool.disk_name(disk), true);
        }
        Ok(())
    }

    /// The disks that are gone for so long that they are rebuilt, and that have something to rebuild.
    fn rebuilds_due(&self) -> Vec<DiskNumber> {
        let meta = self.pool.meta.borrow();
        let delay = self.rebuild_delay(&meta);
        let now = self.pool.runtime.now();
        let mut gone_since = self.jobs.gone_since.borrow_mut();
        // Of one that is offline it counts from when nobody wants that any more.
        let is_gone =
            |disk: &DiskNumber| !self.is_there(*disk) && meta.offline_since(*disk).is_none();
        gone_since.retain(|disk, _| is_gone(disk));
        for disk in meta.disks().keys().filter(|disk| is_gone(disk)) {
            gone_since.entry(*disk).or_insert(now);
        }
        self.jobs.not_rebuilt.borrow_mut().retain(|disk, _| gone_since.contains_key(disk));
        let Some(delay) = delay else { return Vec::new() };
        let due = gone_since.iter().filter(|(_, since)| now.since(**since) >= delay);
        let due = due.map(|(disk, _)| *disk);
        due.filter(|disk| meta.job_of(*disk).is_none() && groups_on(&meta, *disk) > 0).collect()
    }

    /// After how long a disk that is gone is rebuilt, if it is.
    pub(super) fn rebuild_delay(&self, meta: &Metadata) -> Option<Duration> {
        let usual = self.pool.limits.rebuild_delay.as_secs();
        setting(meta, REBUILD_DELAY, Some(usual)).map(Duration::from_secs)
    }

    /// Whether a disk is gone for so long that others do what it did.
    pub(super) fn is_long_gone(&self, meta: &Metadata, disk: DiskNumber) -> bool {
        let delay = self.rebuild_delay(meta).unwrap_or(self.pool.limits.rebuild_delay);
        let since = self.jobs.gone_since.borrow().get(&disk).copied();
        since.is_some_and(|since| self.pool.runtime.now().since(since) >= delay)
    }

    /// Why a disk that is out isn't rebuilt.
    fn why_not_rebuilt(&self, disk: DiskNumber) -> Option<String> {
        let meta = self.pool.meta.borrow();
        let mut nodes: BTreeMap<Uuid, bool> = BTreeMap::new();
        // Of those that are offline it is known why they are gone; and who is gone, and has nothing any more, was rebuilt.
        for other in meta.data_disks().filter(|disk| meta.offline_since(disk.number).is_none()) {
            let is_there = self.is_there(other.number);
            if is_there || groups_on(&meta, other.number) > 0 {
                *nodes.entry(other.node).or_default() |= is_there;
            }
        }
        let gone = nodes.values().filter(|is_there| !**is_there).count();
        if gone * 3 > nodes.len() {
            return Some(format!(
                "{gone} of {} machines are gone, more than a third: that is seldom their disks' fault; bring \
                 them back, or begin it yourself (pool evacuate)",
                nodes.len()
            ));
        }
        let homeless = self.homeless(&meta, &[disk], None);
        (homeless > 0).then(|| {
            let bytes = Human(homeless * meta.shape().extent_bytes());
            // Evacuated, it stays empty until that is withdrawn.
            let done = self.jobs.done.borrow();
            let emptied = meta.jobs().iter().filter(|(number, _)| done.contains(number));
            let emptied = emptied.filter_map(|(number, job)| Some((number.0, job.empties()?)));
            let emptied = emptied.filter(|(_, disk)| self.is_there(*disk)).map(|(job, disk)| {
                let (pool, name) = (&self.pool.name, self.pool.disk_name(disk));
                format!(", or have {name} take data again (pool cancel {pool} {job})")
            });
            format!(
                "{bytes} of it would find no place on machines or disks that don't have the other \
                 copies; add disks (pool extend){}",
                emptied.collect::<String>()
            )
        })
    }

    pub(super) fn tell_job(&self, kind: JobKind, disk: &str, is_begun: bool) {
        let (pool, kind) = (self.pool.name.clone(), kind.name().to_owned());
        let disk = disk.to_owned();
        self.pool.events.tell(match is_begun {
            true => PoolEvent::JobBegun { pool, kind, disk },
            false => PoolEvent::JobDone { pool, kind, disk },
        });
    }

    /// Why a disk that is gone isn't rebuilt, if it is so for that long.
    pub(super) fn rebuild_waits(&self, disk: DiskNumber) -> Option<String> {
        self.jobs.not_rebuilt.borrow().get(&disk).cloned()
    }

    /// The jobs as they stand.
    pub(super) fn job_reports(&self, meta: &Metadata) -> Vec<JobReport> {
        let extent_bytes = meta.shape().extent_bytes();
        let reports = meta.jobs().iter().map(|(number, job)| {
            let disk = job.disks.first().copied();
            let left_bytes = match job.kind {
                JobKind::Scrub => {
                    job.extents.saturating_sub(self.scrubbed_extents(meta)) * extent_bytes
                }
                JobKind::Rebalance => self.rebalance_left(meta) * extent_bytes,
                _ => disk.map_or(0, |disk| left_on(meta, disk)),
            };
            let why = self.jobs.waits.borrow().get(number).cloned();
            let state = match (job.kind, why) {
                (JobKind::Other(_), _) => JobState::Unknown,
                _ if self.jobs.done.borrow().contains(number) => JobState::Done,
                (JobKind::Rebalance, Some(why)) if !is_any_moving(meta) => {
                    JobState::Waiting { why }
                }
                (JobKind::Rebalance, Some(_)) => JobState::Running,
                (_, Some(why)) if !disk.is_some_and(|disk| is_moving(meta, disk)) => {
                    JobState::Waiting { why }
                }
                _ => JobState::Running,
            };
            JobReport {
                number: number.0,
                kind: job.kind.name().to_owned(),
                disk: disk.map_or_else(String::new, |disk| self.pool.disk_name(disk)),
                volume: None,
                to: job.to().map(|disk| self.pool.disk_name(disk)),
                total_bytes: (job.extents * extent_bytes).max(left_bytes),
                left_bytes,
                state,
            }
        });
        let conversions = meta.conversions().map(|(volume, conversion)| {
            let left_bytes = self.conversion_left(meta, volume);
            let why = self.jobs.waits.borrow().get(&conversion.job).cloned();
            // Some of it may wait while the rest goes on.
            let why = why.filter(|_| !self.is_being_converted(volume));
            JobReport {
                number: conversion.job.0,
                kind: "convert".to_owned(),
                disk: String::new(),
                volume: Some(volume.name.clone()),
                to: Some(conversion.to.to_string()),
                total_bytes: (conversion.extents * extent_bytes).max(left_bytes),
                left_bytes,
                state: why.map_or(JobState::Running, |why| JobState::Waiting { why }),
            }
        });
        let mut reports: Vec<JobReport> = reports.chain(conversions).collect();
        reports.sort_by_key(|report| report.number);
        reports
    }
}

/// The records that give disks a job, or another one.
fn job_records(
    meta: &Metadata,
    kind: JobKind,
    disks: &[DiskNumber],
    to: Option<DiskNumber>,
) -> Vec<MetaRecord> {
    let JobNumber(mut next) = meta.next_job();
    let mut records = Vec::new();
    for disk in disks {
        let known = meta.job_of(*disk);
        let number = known.map_or(JobNumber(next), |(number, _)| number);
        next += u32::from(known.is_none());
        let disks = std::iter::once(*disk).chain(to).collect();
        let job = Job { kind, disks, extents: extents_on(meta, *disk) };
        records.push(MetaRecord::JobSet { number, job });
    }
    records
}

/// Takes the space that jobs and conversions still need, but for those of some disks and of a volume.
pub(super) fn plan_what_goes_on(
    plan: &mut MovePlan<'_>,
    meta: &Metadata,
    but_disks: &[DiskNumber],
    but_volume: Option<VolumeId>,
) {
    for job in meta.jobs().values() {
        if let Some(disk) = job.empties().filter(|disk| !but_disks.contains(disk)) {
            plan.homeless(disk, job.to(), None);
        }
    }
    for (volume, conversion) in meta.conversions() {
        if Some(volume.id) != but_volume {
            plan.homeless_copies(volume, conversion.to.copies(), None);
        }
    }
}

/// How many groups have a position on a disk.
fn groups_on(meta: &Metadata, disk: DiskNumber) -> u64 {
    meta.volumes().values().map(|volume| volume.runs.groups_on(disk)).sum()
}

/// The runs that have a position on a disk.
fn runs_on(meta: &Metadata, disk: DiskNumber) -> impl Iterator<Item = &GroupRun> {
    let volumes = meta.volumes().values().filter(move |volume| volume.runs.is_on(disk));
    let runs = volumes.flat_map(|volume| volume.runs.values());
    runs.filter(move |run| run.position_on(disk).is_some())
}

/// The runs of which a position moves, or that get a further one.
pub(super) fn moving(meta: &Metadata) -> impl Iterator<Item = &GroupRun> {
    meta.volumes().values().flat_map(|volume| volume.runs.moving())
}

/// Whether groups lie on a disk, or are to.
pub(super) fn has_groups(meta: &Metadata, disk: DiskNumber) -> bool {
    meta.volumes().values().any(|volume| volume.runs.is_on(disk))
}

/// Extents of a disk into which something was written.
fn extents_on(meta: &Metadata, disk: DiskNumber) -> u64 {
    runs_on(meta, disk).map(|run| u64::from(run.initialised())).sum()
}

/// Bytes of them that are on no other disk that is to have them.
fn left_on(meta: &Metadata, disk: DiskNumber) -> u64 {
    let extent_bytes = meta.shape().extent_bytes();
    let region_bytes = extent_bytes / u64::from(crate::format::ExtentShape::REGIONS);
    let left = runs_on(meta, disk).map(|run| match (run.incoming, run.outgoing()) {
        (Some(incoming), Some(outgoing)) if outgoing.disk == disk => {
            meta.regions_lacking(run, incoming.member.disk) * region_bytes
        }
        _ => u64::from(run.initialised()) * extent_bytes,
    });
    left.sum()
}

/// Whether a position moves to another disk just now.
pub(super) fn is_any_moving(meta: &Metadata) -> bool {
    moving(meta).any(|run| run.outgoing().is_some())
}

/// Whether something moves from a disk just now.
pub(super) fn is_moving(meta: &Metadata, disk: DiskNumber) -> bool {
    moving(meta).any(|run| run.outgoing().is_some_and(|member| member.disk == disk))
}
