//! A volume gets another layout while it is in use: its groups get a further position, or lose one, one run after
//! the other (`relocate`), and its log goes on in segments with so many copies. What is to be stands with the volume
//! in the metadata, and the map says how far it is; so it goes on after any crash, and taking it back is the same
//! in the other direction.
//!
//! **A position is given up only after the others were read**: they are there, lack nothing, and every block of
//! them is right, or was made right from the one that is to go. It may be the only one that is.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::Instant;

use super::job_steps::Step;
use super::jobs::plan_what_goes_on;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::rebalance::gain_bytes;
use super::relocate::is_mapped_alike;
use super::space::domain_word;
use super::spare::others_of;
use super::verify::{Manner, Silent};
use super::volume::Volume;
use super::volumes::check_layout;
use crate::allocate::MovePlan;
use crate::error::PoolError;
use crate::forecast::ConvertForecast;
use crate::format::{DiskNumber, GenerationId, JobNumber, VolumeId};
use crate::metadata::{
    Conversion, GroupRun, Layout, MetaRecord, Metadata, RunKey, Volume as VolumeMeta,
};
use crate::report::{PoolEvent, VerifyReport};
use crate::spare::Standing;

/// Runs whose positions are read at once.
const CHECKS_MAX: usize = 2;
/// What was read counts for so long.
const CHECKED_FOR: Duration = Duration::from_secs(60);
/// What wasn't right is read again after so long.
const CHECK_AGAIN: Duration = Duration::from_secs(20);

/// What became of reading the positions of a run that are to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Checked {
    UnderWay,
    Right(Instant),
    Wrong(Instant, String),
}

/// The runs of which a position is to go.
#[derive(Default)]
pub(super) struct Checks(BTreeMap<(VolumeId, RunKey), (GroupRun, u8, Checked)>);

impl OpenPool {
    /// Begins to give a volume another layout, or tells what that would do.
    pub(crate) async fn convert_volume(
        self: &Rc<Self>,
        name: &str,
        layout: Layout,
        dry_run: bool,
    ) -> Result<ConvertForecast, PoolError> {
        check_layout(layout)?;
        let id = self.volume_by_name(name)?.id;
        let forecast = self.plan_conversion(&self.pool.meta.borrow(), id, layout)?;
        if dry_run || forecast.job.is_some() {
            return Ok(forecast);
        }
        let this = Rc::clone(self);
        let begun = self.administer(move |meta| {
            if let Some(job) = this.plan_conversion(meta, id, layout)?.job {
                return Ok((Vec::new(), JobNumber(job)));
            }
            let known = meta.volumes().get(&id).and_then(|volume| volume.conversion);
            let job = known.map_or_else(|| meta.next_job(), |known| known.job);
            Ok((vec![conversion_record(meta, id, layout, job)], job))
        });
        let job = begun.await?;
        let (pool, volume, to) = (self.pool.name.clone(), name.to_owned(), layout.to_string());
        self.pool.events.tell(PoolEvent::ConversionBegun { pool, volume, to });
        self.pool.changed.notify_all();
        Ok(ConvertForecast { job: Some(job.0), ..forecast })
    }

    /// The record that takes a conversion back, if a job is one: the volume is to have the layout again that it
    /// had.
    pub(super) fn take_back(&self, meta: &Metadata, job: JobNumber) -> Option<MetaRecord> {
        let (volume, _) = meta.conversion_of(job)?;
        Some(conversion_record(meta, volume.id, volume.layout, job))
    }

    fn plan_conversion(
        &self,
        meta: &Metadata,
        id: VolumeId,
        layout: Layout,
    ) -> Result<ConvertForecast, PoolError> {
        let gone = || PoolError::invalid("the volume was removed", "see `etherpool volume list`");
        let volume = meta.volumes().get(&id).ok_or_else(gone)?;
        let extent_bytes = meta.shape().extent_bytes();
        let (from, to) = (volume.layout, layout.copies());
        let mut forecast = ConvertForecast {
            from: from.to_string(),
            to: layout.to_string(),
            copied_bytes: 0,
            taken_bytes: 0,
            freed_bytes: 0,
            survives: u32::from(from.copies().saturating_sub(1)),
            survives_then: u32::from(to.saturating_sub(1)),
            job: volume.conversion.filter(|known| known.to == layout).map(|known| known.job.0),
        };
        if forecast.job.is_none() && volume.wanted_layout() == layout {
            return Err(PoolError::refused(
                format!("{}/{}", self.pool.name, volume.name),
                format!("its layout is {layout} already"),
                "see `etherpool volume show`",
            ));
        }
        for run in volume.runs.values() {
            let has = u64::try_from(run.holders().count() - usize::from(run.outgoing().is_some()))
                .unwrap_or(0);
            let more = u64::from(to).saturating_sub(has);
            forecast.taken_bytes += more * u64::from(run.count) * extent_bytes;
            forecast.copied_bytes += more * u64::from(run.initialised()) * extent_bytes;
            let fewer = has.saturating_sub(to.into());
            forecast.freed_bytes += fewer * u64::from(run.count) * extent_bytes;
        }
        let usable = self.pool.usable_disks();
        let mut plan = MovePlan::forecast(meta, &usable);
        plan_what_goes_on(&mut plan, meta, &[], Some(id));
        let mut standing = Standing::for_growth(meta, &usable, false);
        let homeless = plan.homeless_copies(volume, to, standing.as_mut()) * extent_bytes;
        if homeless > 0 && forecast.job.is_none() {
            let domain = domain_word(meta);
            let rebalance = match gain_bytes(meta, &usable, layout) {
                Some(_) => ", or move groups so that more of it can be paired (pool rebalance)",
                None => "",
            };
            return Err(PoolError::NoSpace {
                needed_bytes: forecast.taken_bytes,
                free_bytes: forecast.taken_bytes.saturating_sub(homeless),
                remedy: format!(
                    "each further copy of a group must be on a {domain} that has none of it, besides what is kept \
                     for logs; add disks first (pool extend){rebalance}"
                ),
            });
        }
        let short = standing.and_then(|standing| standing.shortage(to));
        if let Some(shortage) = short.filter(|_| forecast.job.is_none() && forecast.taken_bytes > 0)
        {
            return Err(PoolError::NoSpace {
                needed_bytes: forecast.taken_bytes,
                free_bytes: 0,
                remedy: format!(
                    "the pool's spare wouldn't be held then: {}; add disks first (pool extend), or give the spare up \
                     (pool set {} spare off)",
                    self.short_of(meta, shortage),
                    self.pool.name
                ),
            });
        }
        Ok(forecast)
    }

    /// Ends conversions of which all is done; tells whether there were any.
    pub(super) async fn end_conversions(&self) -> Result<bool, Ended> {
        let is_done = |(volume, _): &(&VolumeMeta, Conversion)| volume.is_converted();
        if !self.pool.meta.borrow().conversions().any(|each| is_done(&each)) {
            return Ok(false);
        }
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let done: Vec<(VolumeId, String, Layout, bool)> = {
            let meta = self.pool.meta.borrow();
            let done = meta.conversions().filter(is_done);
            let done = done.map(|(volume, to)| {
                (volume.id, volume.name.clone(), to.to, to.to == volume.layout)
            });
            done.collect()
        };
        let records: Vec<MetaRecord> =
            done.iter().map(|(id, ..)| MetaRecord::LayoutChanged { id: *id }).collect();
        self.pool.commit_locked(&records).await?;
        for (_, volume, to, is_back) in done {
            let (pool, to) = (self.pool.name.clone(), to.to_string());
            self.pool.events.tell(PoolEvent::ConversionDone { pool, volume, to, is_back });
        }
        Ok(true)
    }

    /// How many runs more may be read now for giving a position up.
    pub(super) fn checks_left(&self) -> usize {
        let checks = self.jobs.checks.borrow();
        let under_way = checks.0.values().filter(|(.., checked)| *checked == Checked::UnderWay);
        CHECKS_MAX.saturating_sub(under_way.count())
    }

    /// What is next for a run that has too many positions: what is only in its place comes into the log or into the
    /// checksums, those that stay are read, then one goes. `in_place` is of the volume, of this look.
    pub(super) fn next_drop(
        &self,
        meta: &Metadata,
        (known, volume): (&VolumeMeta, &Volume),
        run: &GroupRun,
        in_place: &OnceCell<BTreeSet<GenerationId>>,
        checks_left: &mut usize,
    ) -> Option<Step> {
        let conversion = known.conversion?;
        let now = self.pool.runtime.now();
        let waits = |why: String| drop(self.jobs.waits.borrow_mut().insert(conversion.job, why));
        let checks = self.jobs.checks.borrow();
        match checks.0.get(&(known.id, run.key)) {
            // Also one of the run as it was: it ends by itself.
            Some((.., Checked::UnderWay)) => return None,
            Some((of, position, Checked::Right(at)))
                if is_mapped_alike(of, run)
                    && now.since(*at) < CHECKED_FOR
                    && self.can_go(meta, run, *position) =>
            {
                return Some(Step::Drop { run: run.clone(), position: *position });
            }
            Some((of, _, Checked::Wrong(at, why)))
                if is_mapped_alike(of, run) && now.since(*at) < CHECK_AGAIN =>
            {
                waits(why.clone());
                return None;
            }
            _ => {}
        }
        // There may be a hundred thousand more, of which none is looked at before its turn.
        if *checks_left == 0 {
            return None;
        }
        let Some(position) = self.position_to_drop(meta, run) else {
            waits(format!(
                "no copy of some blocks of volume {} can be given up: another one isn't there, isn't whole, or is on \
                 the same {} as a third one",
                known.name,
                domain_word(meta)
            ));
            return None;
        };
        if has_any(run, in_place.get_or_init(|| volume.only_in_place())) {
            volume.destage_soon();
            waits(format!("the log of volume {} is to be brought into place first", known.name));
            return None;
        }
        *checks_left -= 1;
        Some(Step::Check { run: run.clone(), position })
    }

    /// Of the positions that can be done without one that is of least use, else that on the fullest disk.
    fn position_to_drop(&self, meta: &Metadata, run: &GroupRun) -> Option<u8> {
        let leaving = self.pool.leaving();
        let positions = (0..).zip(run.members.iter().map(|member| member.disk));
        let least_use = |(_, disk): &(u8, DiskNumber)| {
            let free = meta.disks().get(disk).map_or(0, |disk| {
                u64::from(disk.free.len()) * 1000 / u64::from(disk.room().max(1))
            });
            (self.is_there(*disk), !leaving.contains(disk), meta.lacks_nothing(run, *disk), free)
        };
        let chosen = positions.filter(|(position, _)| self.can_go(meta, run, *position));
        chosen.min_by_key(least_use).map(|(position, _)| position)
    }

    /// Whether a position can be done without: the others are there, lack nothing, and are in as many failure
    /// domains as they can be.
    pub(super) fn can_go(&self, meta: &Metadata, run: &GroupRun, position: u8) -> bool {
        let disks = run.members.iter().map(|member| member.disk);
        let others = others_of(run, position);
        let domains = Pool::domains(meta, disks).min(others.len());
        others.iter().all(|disk| self.is_there(*disk) && meta.lacks_nothing(run, *disk))
            && Pool::domains(meta, others.iter().copied()) >= domains
    }

    /// Reads what is to stay of a run, beside everything else.
    pub(super) fn begin_check(self: &Rc<Self>, volume: &Rc<Volume>, run: GroupRun, position: u8) {
        let place = (volume.id, run.key);
        let put = move |this: &OpenPool, run: GroupRun, checked: Checked| {
            this.jobs.checks.borrow_mut().0.insert(place, (run, position, checked));
        };
        put(self, run.clone(), Checked::UnderWay);
        let (this, volume) = (Rc::clone(self), Rc::clone(volume));
        self.pool.runtime.spawn(async move {
            let Ok(found) = this.check_positions(&volume, &run, position).await else { return };
            let now = this.pool.runtime.now();
            // What no copy has isn't lost by giving one up.
            let wrong = found.bad_blocks().saturating_sub(found.repaired + found.lost);
            let checked = match (wrong, found.dirty) {
                (0, 0) => Checked::Right(now),
                (0, unread) => Checked::Wrong(
                    now,
                    format!("{unread} blocks of volume {} can't be compared now", volume.name()),
                ),
                (wrong, _) => Checked::Wrong(
                    now,
                    format!(
                        "{wrong} blocks of volume {} are right on none of the disks that would keep them: see \
                         `etherpool volume verify`, and write them anew",
                        volume.name()
                    ),
                ),
            };
            put(&this, run, checked);
            this.pool.changed.notify_all();
        });
    }

    async fn check_positions(
        self: &Rc<Self>,
        volume: &Rc<Volume>,
        run: &GroupRun,
        position: u8,
    ) -> Result<VerifyReport, Ended> {
        let mut found = VerifyReport::default();
        for stays in (0..run.members.len() as u8).filter(|stays| *stays != position) {
            for generation in run.generations(run.initialised()) {
                let manner = Manner::of(Some(stays), Silent::LeftOut);
                let unhurried = async |_, _| true;
                let group = volume.verify_group(generation, manner, unhurried);
                found.add(self.pool.unless_over(group).await??.unwrap_or_default());
                // Readers and writers come in between.
                self.pool.runtime.yield_now().await;
            }
        }
        Ok(found)
    }

    /// What was read of a run doesn't count any more: something of it was not in sight then.
    pub(super) fn forget_check(&self, volume: VolumeId, run: &GroupRun) {
        self.jobs.checks.borrow_mut().0.remove(&(volume, run.key));
    }

    /// What was read of runs that are gone, or where nothing is to go, isn't needed any more.
    pub(super) fn forget_checks(&self, meta: &Metadata) {
        let is_needed = |(id, key): &(VolumeId, RunKey), checked: &Checked| {
            let volume = meta.volumes().get(id);
            let run = volume.and_then(|volume| volume.runs.get(key));
            let has_too_many =
                volume.zip(run).is_some_and(|(volume, run)| volume.has_too_many(run.members.len()));
            has_too_many || *checked == Checked::UnderWay
        };
        let mut checks = self.jobs.checks.borrow_mut();
        checks.0.retain(|place, (.., checked)| is_needed(place, checked));
    }

    /// Whether something of a conversion is under way: a copy is made, or read for giving another one up.
    pub(super) fn is_being_converted(&self, volume: &VolumeMeta) -> bool {
        let checks = self.jobs.checks.borrow();
        let mut checks = checks.0.iter().filter(|((id, _), _)| *id == volume.id);
        checks.any(|(_, (.., checked))| !matches!(checked, Checked::Wrong(..)))
            || volume.runs.moving().any(|run| run.outgoing().is_none())
    }

    /// Bytes of a conversion that are still to be copied, or to be given up.
    pub(super) fn conversion_left(&self, meta: &Metadata, volume: &VolumeMeta) -> u64 {
        extents_to_change(meta, volume, volume.wanted_layout()) * meta.shape().extent_bytes()
    }
}

impl Volume {
    /// The groups of which the log doesn't have everything that is to be: somebody knows a row of them only by where
    /// it was written, or by what was to be written there.
    pub(super) fn only_in_place(&self) -> BTreeSet<GenerationId> {
        let mut groups: BTreeSet<GenerationId> =
            self.log.state.borrow().intents.groups_in_doubt().collect();
        let pending = self.pending.borrow();
        groups.extend(pending.only_in_place().filter_map(|block| {
            let at = self.stripes.locate(crate::layout::VolumeBlock(block)).at;
            Some(self.pool.group_at(self.id, at)?.generation)
        }));
        groups
    }
}

/// Whether any of a run's groups is among these.
pub(super) fn has_any(run: &GroupRun, groups: &BTreeSet<GenerationId>) -> bool {
    run.generations(run.count).any(|group| groups.contains(&group))
}

fn conversion_record(meta: &Metadata, id: VolumeId, to: Layout, job: JobNumber) -> MetaRecord {
    let volume = meta.volumes().get(&id);
    let extents = volume.map_or(0, |volume| extents_to_change(meta, volume, to));
    MetaRecord::LayoutChanging { id, to: Conversion { to, job, extents } }
}

/// Extents that were written to and that a volume has too few of, or too many, to have a layout. One that is being
/// copied counts for what it lacks.
fn extents_to_change(meta: &Metadata, volume: &VolumeMeta, to: Layout) -> u64 {
    let copies = u64::from(to.copies());
    let of_run = |run: &GroupRun| {
        let groups = u64::from(run.initialised());
        let change = (run.members.len() as u64).abs_diff(copies) * groups;
        let coming = run.incoming.filter(|_| run.outgoing().is_none());
        let lacks = coming.map_or(0, |coming| {
            let regions = meta.regions_lacking(run, coming.member.disk);
            groups.saturating_sub(regions.div_ceil(64))
        });
        change.saturating_sub(lacks)
    };
    volume.runs.values().map(of_run).sum()
}
