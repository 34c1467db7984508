//! What jobs do next: which positions begin to move and where to, which moves are over, which are given up, and
//! when nothing is left to do. Planned from the metadata as it is at each look; whatever changed by the time that
//! a step is taken, `relocate` notices.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::jobs::{is_moving, moving as moving_runs};
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::relocate::Change;
use super::volume::{Serving, Volume};
use crate::allocate::MovePlan;
use crate::format::{DiskNumber, JobNumber, VolumeId};
use crate::metadata::{
    GroupRun, Job, JobKind, Member, MetaRecord, Metadata, RunKey, Volume as VolumeMeta,
};

/// Runs that move at once: so many that of some dozen disks each has several others to give to, and two that are done with
/// each other find somebody who has nothing to do.
pub(super) const MOVES_MAX: usize = 96;
/// What waits to move is divided into about so many parts for each disk, where runs are longer: what begins later goes to
/// those who have the least left to do by then.
const PARTS_OF_DISK: u64 = 32;
/// The extents of a pool are at most in about so many parts: so many runs fit into the longest metadata area, beside the
/// roots of as many groups as that has room for.
const PARTS_OF_POOL: u64 = 1 << 20;
/// Changes of the map that are committed together: their groups' locks are held meanwhile.
const CHANGES_MAX: usize = 16;
/// A move that lacks as much as so long ago, though its turn came, doesn't count among them.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What is to be done next.
pub(super) enum Step {
    Begin { run: GroupRun, position: u8, to: Member },
    Split { run: GroupRun, count: u32 },
    Switch(GroupRun),
    Cancel(GroupRun),
    Check { run: GroupRun, position: u8 },
    Drop { run: GroupRun, position: u8 },
}

/// Steps, and whose runs they are about.
pub(super) type Steps = Vec<(Rc<Volume>, Step)>;

/// A run with a position on a disk that is to be emptied, or that is to have a further one.
struct Candidate<'a> {
    /// Members that take part.
    there: usize,
    volume: Rc<Volume>,
    run: &'a GroupRun,
    position: u8,
    number: JobNumber,
    /// What empties the disk; none of a further position.
    job: Option<&'a Job>,
}

impl OpenPool {
    /// Takes the next steps of all jobs; tells whether there were any.
    pub(super) async fn advance_jobs(self: &Rc<Self>) -> Result<bool, Ended> {
        let (steps, ended) = self.next_steps();
        let mut progress = false;
        let changes = steps.into_iter().filter_map(|(volume, step)| match step {
            Step::Begin { run, position, to } => Some(self.begin_move(&volume, &run, position, to)),
            Step::Split { run, count } => Some(self.split_run(&volume, &run, count)),
            Step::Switch(run) => Some(self.switch_move(&volume, &run)),
            Step::Cancel(run) => Some(self.cancel_move(&volume, &run)),
            Step::Drop { run, position } => self.drop_position(&volume, &run, position),
            Step::Check { run, position } => {
                self.begin_check(&volume, run, position);
                None
            }
        });
        let mut changes: Vec<Change<'_>> = changes.collect();
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHANGES_MAX));
            progress |= self.change_map(std::mem::replace(&mut changes, rest)).await?;
        }
        for (number, job) in ended {
            let disk = job.empties();
            if let (JobKind::Remove, Some(disk)) = (job.kind, disk) {
                progress |= self.remove_disk(number, disk).await?;
                continue;
            }
            // An empty disk may be pulled, so it stays empty until somebody withdraws that.
            let name = disk.map_or_else(String::new, |disk| self.pool.disk_name(disk));
            if !matches!(job.kind, JobKind::Rebuild | JobKind::Rebalance) {
                if self.jobs.done.borrow_mut().insert(number) {
                    self.tell_job(job.kind, &name, false);
                }
                continue;
            }
            let _lock = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
            if self.pool.meta.borrow().jobs().get(&number) != Some(&job) {
                continue;
            }
            self.pool.commit_locked(&[MetaRecord::JobRemoved { number }]).await?;
            self.tell_job(job.kind, &name, false);
            progress = true;
        }
        progress |= self.end_conversions().await?;
        Ok(progress)
    }

    /// What is to be done next, and the jobs that have nothing left to do.
    fn next_steps(&self) -> (Steps, Vec<(JobNumber, Job)>) {
        let meta = self.pool.meta.borrow();
        self.jobs.waits.borrow_mut().clear();
        self.forget_checks(&meta);
        let mut jobs: BTreeMap<DiskNumber, (JobNumber, &Job)> = BTreeMap::new();
        for (number, job) in meta.jobs() {
            jobs.extend(job.empties().map(|disk| (disk, (*number, job))));
        }
        let (mut steps, mut busy, mut candidates) = (Steps::new(), BTreeSet::new(), Vec::new());
        let (mut moving, mut checks_left) = (0, self.checks_left());
        // Whether a disk that is emptied has something that can be had elsewhere, or may be soon.
        let mut is_emptied = false;
        for (id, known) in meta.volumes() {
            let volume = self.volume(*id);
            let serving = volume.as_ref().map(|volume| volume.serving());
            let volume = volume.filter(|_| serving == Some(Serving::Yes));
            if let Some(conversion) = known.conversion.filter(|_| volume.is_none()) {
                let why = format!("volume {} isn't served", known.name);
                self.jobs.waits.borrow_mut().insert(conversion.job, why);
            }
            let in_place = OnceCell::new();
            let to_empty = jobs.iter().filter(|(disk, _)| known.runs.is_on(**disk));
            let (to_empty, of): (BTreeSet<DiskNumber>, Vec<JobNumber>) =
                to_empty.map(|(disk, (number, _))| (*disk, *number)).unzip();
            is_emptied |= serving == Some(Serving::Opening) && !of.is_empty();
            if let Some(Serving::Suspended(why)) = &serving {
                let (pool, name) = (&self.pool.name, &known.name);
                let why = format!(
                    "volume {name} waits: {why}; if that won't be: etherpool volume remove {pool}/{name}"
                );
                let waits = of.iter().map(|number| (*number, why.clone()));
                self.jobs.waits.borrow_mut().extend(waits);
            }
            busy.extend(of);
            let Some(volume) = &volume else { continue };
            // At most looks nothing is to be done with most of its runs.
            let runs: Vec<&GroupRun> = match known.conversion {
                Some(_) => known.runs.values().collect(),
                None => {
                    let mut found = self.jobs.to_empty.borrow_mut();
                    let waiting = match to_empty.is_empty() {
                        true => Vec::new(),
                        false => found.entry(*id).or_default().look(known, &to_empty),
                    };
                    let waiting = waiting.into_iter().filter(|run| run.incoming.is_none());
                    known.runs.moving().chain(waiting).collect()
                }
            };
            for run in runs {
                let members = run.members.iter().enumerate();
                let job_of = |member: &Member| jobs.get(&member.disk).copied();
                if run.incoming.is_some() {
                    let goes_on = self.is_under_way(&meta, *id, run);
                    moving += usize::from(goes_on);
                    is_emptied |=
                        goes_on && run.outgoing().is_some_and(|left| jobs.contains_key(&left.disk));
                    let step = self.step_of(&meta, known, run, &jobs);
                    steps.extend(step.map(|step| (Rc::clone(volume), step)));
                    continue;
                }
                if known.has_too_many(run.members.len()) {
                    let of = (known, &**volume);
                    let step = self.next_drop(&meta, of, run, &in_place, &mut checks_left);
                    steps.extend(step.map(|step| (Rc::clone(volume), step)));
                }
                for (position, member) in members {
                    let Some((number, job)) = job_of(member) else { continue };
                    let there = run.members.iter().filter(|m| self.is_there(m.disk)).count();
                    is_emptied |= there > 0;
                    let (volume, position, job) = (Rc::clone(volume), position as u8, Some(job));
                    candidates.push(Candidate { there, volume, run, position, number, job });
                }
                if let Some(to) = known.conversion.filter(|_| known.has_too_few(run.members.len()))
                {
                    let there = run.members.iter().filter(|m| self.is_there(m.disk)).count();
                    let (volume, position) = (Rc::clone(volume), run.members.len() as u8);
                    let (number, job) = (to.job, None);
                    candidates.push(Candidate { there, volume, run, position, number, job });
                }
            }
        }
        let still = |volume: &VolumeId, key: &RunKey| {
            meta.run(*volume, *key).is_some_and(|run| run.incoming.is_some())
        };
        self.jobs.moves.borrow_mut().retain(|(volume, key), _| still(volume, key));
        if jobs.is_empty() {
            self.jobs.to_empty.borrow_mut().clear();
        }
        // A number may be another job's by now.
        let is_done = |number: &JobNumber| {
            let job = meta.jobs().get(number);
            job.is_some_and(|job| job.empties().is_some()) && !busy.contains(number)
        };
        self.jobs.done.borrow_mut().retain(is_done);
        self.begin_some(&meta, candidates, moving, &mut steps);
        // It goes on beside what is gone for good, and beside a volume that waits for space to have a copy more: that one
        // may wait for what this makes usable.
        let rebalance = meta.rebalance_job().filter(|(number, _)| {
            if is_emptied {
                let why = "disks are to be emptied or rebuilt first".to_owned();
                self.jobs.waits.borrow_mut().insert(*number, why);
            }
            if is_emptied || !steps.is_empty() {
                return false;
            }
            let has_more = self.begin_rebalancing(&meta, *number, moving, &mut steps);
            !has_more && moving == 0 && steps.is_empty()
        });
        // What is rebuilt elsewhere may vote when it is back.
        let awaits_vote = |disk: DiskNumber, job: &Job| {
            let votes = || self.pool.id_of(disk).is_some_and(|id| self.pool.is_voter(id));
            job.kind != JobKind::Rebuild && votes()
        };
        let is_done = |(number, job): &(JobNumber, &Job)| {
            let disk = job.empties().filter(|disk| self.pool.member(*disk).is_some());
            let is_empty =
                disk.is_none_or(|disk| !awaits_vote(disk, job) && !has_log_copy(&meta, disk));
            !busy.contains(number) && is_empty
        };
        let mut waits = self.jobs.waits.borrow_mut();
        for (disk, (number, job)) in &jobs {
            if awaits_vote(*disk, job) && !busy.contains(number) {
                let why =
                    "its vote moves once enough of those who are to vote then answer".to_owned();
                waits.insert(*number, why);
            }
        }
        drop(waits);
        let over = jobs.values().copied().filter(is_done);
        let back = jobs.values().copied().filter(|(number, job)| {
            let moves = || job.empties().is_some_and(|disk| is_moving(&meta, disk));
            self.is_back(job) && busy.contains(number) && !moves()
        });
        let ended =
            over.chain(back).chain(rebalance).map(|(number, job)| (number, job.clone())).collect();
        (steps, ended)
    }

    /// Whether a move gets on, so that others wait for it. One that doesn't may need something that never comes
    /// back.
    fn is_under_way(&self, meta: &Metadata, volume: VolumeId, run: &GroupRun) -> bool {
        let Some(incoming) = run.incoming else { return false };
        let lacks = meta.regions_lacking(run, incoming.member.disk);
        let now = self.pool.runtime.now();
        let mut moves = self.jobs.moves.borrow_mut();
        let known = moves.entry((volume, run.key)).or_insert((lacks, now));
        if known.0 != lacks {
            *known = (lacks, now);
        }
        // By the rate that somebody said, or behind others, its turn may come late.
        let is_tried = || {
            let in_vain = self.in_vain.borrow();
            run.generations(run.initialised()).any(|group| in_vain.contains_key(&group))
        };
        let is_stuck = || !self.is_there(incoming.member.disk) || is_tried();
        now.since(known.1) < STUCK_AFTER || !is_stuck()
    }

    /// What becomes of a run of which a position moves.
    fn step_of(
        &self,
        meta: &Metadata,
        known: &VolumeMeta,
        run: &GroupRun,
        jobs: &BTreeMap<DiskNumber, (JobNumber, &Job)>,
    ) -> Option<Step> {
        let (incoming, outgoing) = (run.incoming?.member, run.outgoing());
        let job = outgoing.and_then(|left| jobs.get(&left.disk)).map(|(_, job)| *job);
        let is_wanted = match (outgoing, job) {
            (None, _) => known.has_too_few(run.members.len()),
            (Some(_), Some(job)) => job.to().is_none_or(|to| to == incoming.disk),
            (Some(_), None) => meta.rebalance_job().is_some(),
        };
        let is_lost =
            self.is_long_gone(meta, incoming.disk) || meta.offline_since(incoming.disk).is_some();
        let is_in_vain = is_lost || jobs.contains_key(&incoming.disk);
        if !is_wanted || is_in_vain || self.joins_copies(meta, run) {
            return Some(Step::Cancel(run.clone()));
        }
        if self.is_there(incoming.disk) && meta.lacks_nothing(run, incoming.disk) {
            return Some(Step::Switch(run.clone()));
        }
        // A disk that is back may be whole before what was to take its place.
        let is_whole = job.is_some_and(|job| self.is_back(job))
            && outgoing.is_some_and(|left| meta.lacks_nothing(run, left.disk));
        is_whole.then(|| Step::Cancel(run.clone()))
    }

    /// Whether the disk is there that a job rebuilds.
    fn is_back(&self, job: &Job) -> bool {
        job.kind == JobKind::Rebuild && job.empties().is_some_and(|disk| self.is_there(disk))
    }

    fn begin_some(
        &self,
        meta: &Metadata,
        mut candidates: Vec<Candidate<'_>>,
        mut moving: usize,
        steps: &mut Steps,
    ) {
        // What is looked at all the time, while nothing may begin, costs nothing.
        if candidates.is_empty() || moving >= MOVES_MAX {
            return;
        }
        let mut plan = MovePlan::new(meta, &self.pool.usable_disks());
        // The fewer copies are there the sooner; of those from each disk in turn, so that all that can give give.
        // Where that isn't as good as the order in which they were found to have room, it is that one.
        let mut turns: BTreeMap<DiskNumber, usize> = BTreeMap::new();
        let mut turn_of = |run: &GroupRun| {
            let mut there = run.members.iter().map(|m| m.disk).filter(|disk| self.is_there(*disk));
            let turn = turns.entry(there.next()?).or_default();
            *turn += 1;
            Some(*turn)
        };
        let any_order = plan.is_any_order_right();
        candidates.iter().for_each(|candidate| plan.expect(candidate.run, candidate.run.count));
        let part = match any_order {
            true => {
                let groups = candidates.iter().map(|candidate| u64::from(candidate.run.count));
                let disks = self.pool.usable_disks().len() as u64;
                let extents = meta.disks().values().map(|disk| u64::from(disk.room())).sum();
                let (of, extent) = (self.pool.limits.part_bytes, self.pool.shape().extent_bytes());
                groups_in_part(groups.sum(), disks, least_part(of, extent, extents))
            }
            false => u32::MAX,
        };
        moving_runs(meta).for_each(|run| {
            turn_of(run);
        });
        candidates.sort_by_cached_key(|candidate| {
            (candidate.there, any_order.then(|| turn_of(candidate.run)))
        });
        let mut waits = self.jobs.waits.borrow_mut();
        let mut taken: BTreeSet<(VolumeId, RunKey)> = BTreeSet::new();
        for Candidate { there, volume, run, position, number, job } in candidates {
            // A rebuild's disk that is back gets what it missed.
            let is_back = job.is_some_and(|job| self.is_back(job));
            if moving >= MOVES_MAX || is_back || taken.contains(&(volume.id, run.key)) {
                continue;
            }
            if there == 0 {
                let (pool, name) = (&self.pool.name, volume.name());
                let why = format!(
                    "no copy of some blocks of volume {name} is there; if none will be: etherpool volume remove {pool}/{name}"
                );
                waits.insert(number, why);
                continue;
            }
            let to = job.and_then(Job::to);
            let most = if to.is_some() { run.count } else { whole_or_part(run.count, part) };
            let Some((len, to)) = plan.take_some(run, position, most, to) else {
                let why = match to {
                    Some(to) if !self.is_there(to) => {
                        format!("{} is not there", self.pool.disk_name(to))
                    }
                    Some(to) => format!("{} has no room for the rest", self.pool.disk_name(to)),
                    None => "there is no room for the rest where its other copies aren't".into(),
                };
                waits.insert(number, why);
                continue;
            };
            moving += 1;
            taken.insert((volume.id, run.key));
            let (run, count) = (run.clone(), run.count);
            let step = match len == count {
                true => Step::Begin { run, position, to },
                false => Step::Split { run, count: len },
            };
            steps.push((volume, step));
            // The rest of the run comes before the others then.
            if len < count && !any_order {
                break;
            }
        }
    }
}

/// Groups that move together at least, where a run has so many.
fn least_part(part_bytes: u64, extent_bytes: u64, extents_of_pool: u64) -> u64 {
    (part_bytes / extent_bytes.max(1)).max(extents_of_pool / PARTS_OF_POOL)
}

/// Groups of a run that move to one place, about, of so many that wait: each disk is to have several places to give to,
/// and near the end little is to be left that only two disks have to do with.
fn groups_in_part(waiting: u64, disks: u64, least: u64) -> u32 {
    let groups = (waiting / (disks * PARTS_OF_DISK).max(1)).max(least).max(1);
    u32::try_from(groups).unwrap_or(u32::MAX)
}

/// How many groups of a run move together. What is left of it is another part at least: runs aren't joined again, and
/// each time that there is less to move parts are shorter, so remainders would become ever more and ever shorter.
fn whole_or_part(count: u32, part: u32) -> u32 {
    if count / 2 >= part { part } else { count }
}

/// Whether a log segment has a copy on a disk.
pub(super) fn has_log_copy(meta: &Metadata, disk: DiskNumber) -> bool {
    let segments = meta.volumes().values().flat_map(|volume| volume.log.segments.values());
    segments.flat_map(|segment| &segment.copies).any(|copy| copy.disk == disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_moved_in_short_parts_and_much_in_whole_runs() {
        assert_eq!(groups_in_part(1536, 11, 2), 4);
        assert_eq!(groups_in_part(100_000, 11, 2), 284);
        assert_eq!(groups_in_part(3, 11, 2), 2);
        assert_eq!(groups_in_part(0, 0, 32), 32);
        assert_eq!(groups_in_part(7, 1, 0), 1);
    }

    #[test]
    fn parts_of_large_pools_are_longer() {
        const MIB: u64 = 1 << 20;
        assert_eq!(least_part(128 * MIB, 4 * MIB, 1000), 32);
        // A hundred TiB, and two thousand.
        assert_eq!(least_part(128 * MIB, 64 * MIB, 100 * MIB / 64), 2);
        assert_eq!(least_part(128 * MIB, 64 * MIB, 2000 * MIB / 64), 31);
    }

    #[test]
    fn no_part_leaves_less_than_a_part() {
        for part in 1..20 {
            for count in 1..200 {
                let moves = whole_or_part(count, part);
                assert!(
                    moves == count || (moves == part && count - moves >= part),
                    "{count} {part}"
                );
                assert!(moves < 2 * part, "as much moves together as would be two parts");
            }
        }
        assert_eq!(whole_or_part(u32::MAX, u32::MAX), u32::MAX);
    }
}
