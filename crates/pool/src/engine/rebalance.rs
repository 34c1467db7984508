//! Groups move so that more of a pool's space can be given out and its disks are evenly full: a job, that somebody
//! asked for, or that begins by itself where space is free of which no volume can have anything. What moves is
//! planned anew from the metadata at each look (`crate::rebalance`), and moves like everything else (`relocate`);
//! the plan is empty when all of it is done, so the job has no cursor either.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::Instant;

use super::job_steps::{MOVES_MAX, Step, Steps};
use super::jobs::{has_groups, is_any_moving, moving};
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::settings::{AUTO_REBALANCE, is_on};
use super::volume::Serving;
use crate::allocate::{Usable, usable_bytes};
use crate::error::PoolError;
use crate::forecast::{DiskFill, LayoutRoom, RebalanceForecast};
use crate::format::{DiskNumber, JobNumber, VolumeId};
use crate::metadata::{Conversion, Job, JobKind, Layout, MetaRecord, Metadata, RunKey, Volume};
use crate::rebalance::Rebalancing;

/// A rebalance that nobody asked for makes at least this part of the pool usable.
const GAIN_PERCENT_MIN: u64 = 1;
/// How often is looked whether a pool's free space can be paired, and how much a rebalance has left.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What is known of rebalancing besides the metadata.
#[derive(Default)]
pub(super) struct Balance {
    /// When the state of the pool is to be judged next.
    look_at: Option<Instant>,
    /// Extents that were to be moved when that was counted last.
    left: Option<(Instant, u64)>,
}

impl OpenPool {
    /// Begins to make disks evenly full, or tells what that would do.
    pub(crate) async fn rebalance(
        self: &Rc<Self>,
        dry_run: bool,
    ) -> Result<RebalanceForecast, PoolError> {
        let forecast = {
            let meta = self.pool.meta.borrow();
            let known = meta.rebalance_job().map(|(number, _)| number.0);
            RebalanceForecast { job: known, ..self.rebalance_forecast(&meta) }
        };
        if dry_run || forecast.job.is_some() || forecast.bytes == 0 {
            return Ok(forecast);
        }
        let extents = forecast.bytes / self.pool.shape().extent_bytes();
        let begun = self.administer(move |meta| {
            if let Some((number, _)) = meta.rebalance_job() {
                return Ok((Vec::new(), number));
            }
            let number = meta.next_job();
            Ok((vec![job_record(number, extents)], number))
        });
        let number = begun.await?;
        self.tell_job(JobKind::Rebalance, "", true);
        Ok(RebalanceForecast { job: Some(number.0), ..forecast })
    }

    fn rebalance_forecast(&self, meta: &Metadata) -> RebalanceForecast {
        let mut plan = Rebalancing::new(meta, &self.pool.usable_disks());
        let before = plan.fills().clone();
        let extent_bytes = meta.shape().extent_bytes();
        let rooms = |plan: &Rebalancing<'_>| -> Vec<(Layout, u64)> {
            let mirrors = (2..=Layout::COPIES_ASKED_MAX).map(Layout::Mirror);
            mirrors.map(|layout| (layout, plan.groups_left(layout.copies()))).collect()
        };
        let rooms_before = rooms(&plan);
        let shared_groups = plan.shared_groups();
        let extents: u64 = plan.all().iter().map(|planned| u64::from(planned.count)).sum();
        let disks = plan.fills().iter().map(|(disk, fill)| DiskFill {
            disk: self.pool.disk_name(*disk),
            percent: before.get(disk).map_or(0, |fill| fill.percent()),
            percent_then: fill.percent(),
        });
        let rows_bytes = u64::from(meta.shape().rows()) * block::BLOCK_BYTES as u64;
        let room = |rooms: Vec<(Layout, u64)>| -> Vec<LayoutRoom> {
            let room = |(layout, groups): (Layout, u64)| LayoutRoom {
                layout: layout.to_string(),
                bytes: groups * rows_bytes,
            };
            rooms.into_iter().map(room).collect()
        };
        let rooms_then = rooms(&plan);
        RebalanceForecast {
            bytes: extents * extent_bytes,
            shared_groups,
            shared_groups_then: plan.shared_groups(),
            shared_groups_held: plan.shared_groups_held(),
            disks: disks.collect(),
            volumes: room(rooms_before),
            volumes_then: room(rooms_then),
            job: None,
        }
    }

    /// Begins by itself where all is there, space is free, and none of it can be paired for a volume of the pool,
    /// though some could if groups moved.
    pub(super) async fn begin_rebalance_if_stuck(self: &Rc<Self>) -> Result<(), Ended> {
        let now = self.pool.runtime.now();
        let is_due = self.jobs.balance.borrow().look_at.is_none_or(|at| at <= now);
        if !is_due {
            return Ok(());
        }
        self.jobs.balance.borrow_mut().look_at = Some(now + LOOK_AGAIN);
        if self.stuck_extents().is_none() {
            return Ok(());
        }
        let lock = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let Some(extents) = self.stuck_extents() else { return Ok(()) };
        let number = self.pool.meta.borrow().next_job();
        let is_begun = self.commit_if_room(&[job_record(number, extents)]).await?;
        drop(lock);
        if is_begun {
            self.tell_job(JobKind::Rebalance, "", true);
        }
        Ok(())
    }

    /// Somebody ended one, so none begins by itself for as long as a disk that is gone isn't rebuilt.
    pub(super) fn rest_from_rebalance(&self) {
        let rest = self.rebuild_delay(&self.pool.meta.borrow());
        let rest = rest.unwrap_or(self.pool.limits.rebuild_delay).max(LOOK_AGAIN);
        self.jobs.balance.borrow_mut().look_at = Some(self.pool.runtime.now() + rest);
    }

    /// Extents that are to be moved where nothing more can be given out as the pool is; none where something can,
    /// nothing helps, or something else has to be done first.
    fn stuck_extents(&self) -> Option<u64> {
        let meta = self.pool.meta.borrow();
        let usable = self.pool.usable_disks();
        // A conversion that waits may wait for this.
        let waits = self.jobs.waits.borrow();
        let goes_on = |(_, to): (&Volume, Conversion)| !waits.contains_key(&to.job);
        let is_busy = meta.jobs().values().any(|job| job.kind != JobKind::Scrub)
            || meta.conversions().any(goes_on);
        let all_there = meta.data_disks().all(|disk| usable.contains(&disk.number));
        if !is_on(&meta, AUTO_REBALANCE) || is_busy || !all_there {
            return None;
        }
        let copies: BTreeSet<u8> =
            meta.volumes().values().map(|volume| volume.layout.copies()).collect();
        let mirrors = copies.into_iter().filter(|copies| *copies > 1);
        let mut stuck: Vec<u8> =
            mirrors.filter(|copies| !Rebalancing::is_room_for(&meta, &usable, *copies)).collect();
        if stuck.is_empty() {
            return None;
        }
        let mut plan = Rebalancing::new(&meta, &usable);
        stuck.retain(|copies| plan.groups_left(*copies) == 0);
        if stuck.is_empty() || plan.free_extents() == 0 {
            return None;
        }
        let extents = plan.all().iter().map(|planned| u64::from(planned.count)).sum();
        let room: u64 = plan.fills().values().map(|fill| fill.room).sum();
        let gains = |copies: &u8| {
            let extents = plan.groups_left(*copies) * u64::from(*copies);
            extents > 0 && extents * 100 >= room * GAIN_PERCENT_MIN
        };
        stuck.iter().any(gains).then_some(extents)
    }

    /// The next moves of a rebalance: beside nothing else, since what is lost or wanted elsewhere comes first.
    /// Tells whether anything is left to be done, as far as is known.
    pub(super) fn begin_rebalancing(
        &self,
        meta: &Metadata,
        number: JobNumber,
        mut moving: usize,
        steps: &mut Steps,
    ) -> bool {
        let usable = self.pool.usable_disks();
        if moving >= MOVES_MAX {
            return true;
        }
        let mut plan = Rebalancing::new(meta, &usable);
        let mut taken: BTreeSet<(VolumeId, RunKey)> = BTreeSet::new();
        let mut is_over = true;
        while moving < MOVES_MAX {
            let Some(planned) = plan.next_move() else { break };
            is_over = false;
            let volume = self.volume(planned.volume);
            let Some(volume) = volume.filter(|volume| volume.serving() == Serving::Yes) else {
                let why = "a volume isn't served".to_owned();
                self.jobs.waits.borrow_mut().insert(number, why);
                break;
            };
            // What is behind the first part of a run that is to be split has no place of its own yet.
            let run = meta.run(planned.volume, planned.key).filter(|run| run.incoming.is_none());
            let Some(run) = run.filter(|_| taken.insert((planned.volume, planned.key))) else {
                break;
            };
            moving += 1;
            let run = run.clone();
            let step = match planned.count < run.count {
                true => Step::Split { run, count: planned.count },
                false => Step::Begin { run, position: planned.position, to: planned.to },
            };
            steps.push((volume, step));
        }
        if moving >= MOVES_MAX || !is_over || is_any_moving(meta) {
            return true;
        }
        // What isn't there now, or isn't whole, may be to be moved when it is.
        let waits = Rebalancing::once_whole(meta, &self.may_be_back(meta)).next_move().is_some();
        if waits {
            let why =
                "groups that are to move aren't whole, or their disks aren't there".to_owned();
            self.jobs.waits.borrow_mut().insert(number, why);
        }
        waits
    }

    /// The disks that will take part. One that is gone and has nothing any more, as it was rebuilt, needn't come back:
    /// who waited for it would wait for ever.
    fn may_be_back(&self, meta: &Metadata) -> Usable {
        let (leaving, usable) = (meta.leaving(), self.pool.usable_disks());
        let disks = meta.data_disks().map(|disk| disk.number);
        let takes_part = |disk: &DiskNumber| usable.contains(disk) || has_groups(meta, *disk);
        disks.filter(|disk| !leaving.contains(disk)).filter(takes_part).collect()
    }

    /// Extents that a rebalance has left, as counted some seconds ago.
    pub(super) fn rebalance_left(&self, meta: &Metadata) -> u64 {
        let now = self.pool.runtime.now();
        if let Some((at, left)) = self.jobs.balance.borrow().left
            && now.since(at) < LOOK_AGAIN
        {
            return left;
        }
        let on_the_way: u64 =
            moving(meta).filter_map(|run| run.outgoing().map(|_| u64::from(run.count))).sum();
        let planned = Rebalancing::new(meta, &self.pool.usable_disks()).all();
        let left = on_the_way + planned.iter().map(|each| u64::from(each.count)).sum::<u64>();
        self.jobs.balance.borrow_mut().left = Some((now, left));
        left
    }
}

/// What a layout could have more if groups moved; none where that is nothing.
pub(super) fn gain_bytes(meta: &Metadata, usable: &Usable, layout: Layout) -> Option<u64> {
    let now = usable_bytes(meta, usable, layout, None);
    let mut plan = Rebalancing::new(meta, usable);
    let before = plan.groups_left(layout.copies());
    plan.all();
    let more = plan.groups_left(layout.copies()).saturating_sub(before);
    let rows_bytes = u64::from(meta.shape().rows()) * block::BLOCK_BYTES as u64;
    (layout.copies() > 1 && more > 0).then_some(now + more * rows_bytes)
}

fn job_record(number: JobNumber, extents: u64) -> MetaRecord {
    let job = Job { kind: JobKind::Rebalance, disks: Vec::new(), extents };
    MetaRecord::JobSet { number, job }
}
