//! The supervisor, or all power, goes at each named place of the work that moves data and pools: each seed at
//! another place, so that each is known to be reached.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::engine::{EmptyDisks, ImportOptions};
use pool::metadata::Layout;
use pool::{ExtendPool, JobState, StopAt, StopPoint};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::jobs::lose_one_of;
use super::losses::{lose_node, start_all};
use super::nth_step::{What, arm, is_open};
use super::scenario;
use crate::cluster::Plan;
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::steps::{Nth, When};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "stops",
    "the supervisor or the power goes at a named place of evacuation, replacement, rebuild, removal or import",
    700,
    |stage| stops(stage).boxed_local(),
)];

/// Five of them vote.
const NODES: usize = 6;
/// A machine that comes later.
const ADDED: &str = "e7.0";
/// Later passings are tried up to this one, where there are as many.
const PASSINGS_MAX: usize = 6;
/// Longest that a work may take.
const RUN_MAX: Duration = Duration::from_secs(120);

/// From the end that status shows to the last place.
const WIPED_MAX: Duration = Duration::from_secs(2);

/// What passes places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Evacuate,
    Replace,
    Rebuild,
    Remove,
    Import,
}

/// What surely passes a place.
fn passed_by(point: StopPoint) -> &'static [Work] {
    use StopPoint as P;
    match point {
        P::JobRecorded
        | P::MoveBegun
        | P::CopyWritten
        | P::CopyFlushed
        | P::CopyApplied
        | P::CopyCredited
        | P::MoveSwitched
        | P::AreaBegun
        | P::AreaLabelled
        | P::VotesBoth
        | P::VotesMoved => &[Work::Evacuate, Work::Replace, Work::Rebuild],
        P::JobEnded => &[Work::Rebuild, Work::Remove],
        P::DiskRemoved | P::WipeOlderVote | P::WipeLabels | P::WipeNewestVote => &[Work::Remove],
        P::OpenClaimed
        | P::OpenConfigured
        | P::OpenCheckpointed
        | P::OpenNamed
        | P::OpenDone
        | P::LogBounded
        | P::LogRepeated
        | P::LogReplayed => &[Work::Import],
    }
}

/// Each place, with each work that passes it.
fn all_places() -> Vec<(StopPoint, Work)> {
    let places = StopPoint::ALL.into_iter();
    places.flat_map(|point| passed_by(point).iter().map(move |work| (point, *work))).collect()
}

async fn stops(stage: Stage) -> Result<(), Failure> {
    let (seed, places) = (stage.world.seed(), all_places());
    let round = seed / places.len() as u64;
    // A sweep that has this scenario at every n-th seed comes to all of them, too.
    let (point, work) = places[((seed + round) % places.len() as u64) as usize];
    let Course { rig, leaves, .. } = Course::prepare(&stage, work).await?;
    let passings = 1 + if round == 0 { 0 } else { rig.below(PASSINGS_MAX) as u32 };
    let what = if rig.below(3) == 0 { What::Power } else { What::Process };
    rig.cluster.tell(&format!("{what:?} is to go at {point}:{passings} of {work:?}"));
    let struck = arm(&rig, Nth::Named(StopAt { point, passings }), When::After, what);
    let course = Course { rig: Rc::clone(&rig), work, leaves };
    course.run(|| struck.get()).await?;
    if struck.get() {
        rig.count_now()?;
        rig.count_members_now()?;
        rig.run_for(rig.between(1, 3000)).await;
        course.open_again().await?;
        rig.load(Mix::BUSY).await?;
        lose_one_of(&rig, NODES, &format!("after {point}"));
    } else {
        rig.cluster.world().timeline().steps().end();
        expect(passings > 1, || format!("{work:?} doesn't pass {point}"))?;
        rig.cluster.tell("over before that passing");
    }
    course.finish().await?;
    rig.converge().await?;
    lose_one_of(&rig, NODES, "at rest");
    Ok(())
}

/// A work on a pool under load.
struct Course {
    rig: Rc<Rig>,
    work: Work,
    /// The machine whose disk is emptied, lost or removed.
    leaves: usize,
}

impl Course {
    async fn prepare(stage: &Stage, work: Work) -> Result<Course, Failure> {
        let seed = stage.world.seed();
        let layout = if seed.is_multiple_of(5) { 3 } else { 2 };
        let volumes = [(VOLUME, 6 << 20, Layout::Mirror(layout)), ("s", 1 << 20, Layout::Raid0)];
        // What has one copy isn't made anew.
        let has_raid0 = work != Work::Rebuild && seed.is_multiple_of(3);
        let plan = Plan { supervisors: 2, ..Plan::simple(NODES, 32) };
        let rig = Rig::start(stage, plan, &volumes[..1 + usize::from(has_raid0)]).await?;
        rig.load(Mix::BUSY).await?;
        rig.run_for(rig.between(500, 3000)).await;
        let leaves = voter_with_data(&rig).await?;
        match work {
            Work::Replace => {
                rig.cluster.add_node(&[32 << 20]);
                rig.see_disks(NODES + 1).await?;
                rig.extend_by(ExtendPool::of(&[ADDED.to_owned()])).await?;
            }
            Work::Rebuild => rig.set_rebuild_delay(1 + rig.below(3) as u64).await?,
            Work::Import => {
                rig.forget_clients();
                match rig.below(2) {
                    0 => rig.cluster.kill_supervisor(0),
                    _ => rig.cluster.cut_all_power(),
                }
                rig.set_active(1);
                start_all(&rig);
                rig.see_disks(NODES).await?;
            }
            Work::Evacuate | Work::Remove => {}
        }
        Ok(Course { rig, work, leaves })
    }

    /// Begins the work, and waits for its end or that of the supervisor.
    async fn run(&self, is_ended: impl Fn() -> bool) -> Result<(), Failure> {
        let begun: Rc<RefCell<Option<Result<(), Failure>>>> = Rc::default();
        self.rig.cluster.director().spawn({
            let (rig, begun) = (Rc::clone(&self.rig), Rc::clone(&begun));
            let (work, disk, leaves) = (self.work, disk_of(self.leaves), self.leaves);
            async move {
                let result = match work {
                    Work::Evacuate => rig.empty(&disk, None).await,
                    Work::Replace => rig.empty(&disk, Some(ADDED)).await,
                    Work::Rebuild => {
                        rig.cluster.kill_node(leaves);
                        rig.wait_until("it is rebuilt", |report| !report.jobs.is_empty()).await
                    }
                    Work::Remove => rig.remove(&[disk]).await,
                    Work::Import => import(&rig).await,
                };
                *begun.borrow_mut() = Some(result);
            }
        });
        let is_over = || is_ended() || begun.borrow().is_some() && self.is_done();
        self.rig.cluster.wait_for("the work or its crash", RUN_MAX, is_over).await?;
        // A disk is wiped once status doesn't show it any more.
        let _ = self.rig.cluster.wait_for("its crash", WIPED_MAX, &is_ended).await;
        match begun.take() {
            Some(Err(failure)) if !is_ended() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Starts who had the pool, or has another one import it.
    async fn open_again(&self) -> Result<(), Failure> {
        let rig = &self.rig;
        if rig.below(3) == 0 {
            rig.set_active(1 - rig.active());
        }
        start_all(rig);
        if self.work == Work::Rebuild {
            // It never comes back.
            rig.cluster.kill_node(self.leaves);
        }
        let begin = rig.cluster.world().timeline().now();
        let mut refused = String::new();
        loop {
            let opens = rig.cluster.wait_for("it opens", Duration::from_secs(10), || is_open(rig));
            if opens.await.is_ok() {
                return Ok(());
            }
            let took = rig.cluster.world().timeline().now().since(begin);
            expect(took < CONVERGENCE_MAX, || format!("not open: {refused}; {:#?}", rig.report()))?;
            // Nobody's records name it: a person imports it.
            if let Err(why) = import(rig).await {
                refused = why.0;
            }
        }
    }

    /// Whether the work has done all that it was begun for.
    fn is_done(&self) -> bool {
        let Some(report) = self.rig.report() else { return false };
        match self.work {
            Work::Evacuate | Work::Replace => {
                !report.jobs.is_empty() && report.jobs.iter().all(|job| job.state == JobState::Done)
            }
            Work::Rebuild => {
                let whole =
                    |volume: &pool::VolumeReport| !volume.degraded && volume.dirty_bytes == 0;
                report.jobs.is_empty() && report.survives >= 1 && report.volumes.iter().all(whole)
            }
            Work::Remove => {
                let disk = disk_of(self.leaves);
                report.jobs.is_empty() && report.disks.iter().all(|other| other.name != disk)
            }
            Work::Import => report.volumes.iter().all(|volume| volume.suspended().is_none()),
        }
    }

    /// The work goes on to its end, though nobody asks for it again, and what it was done for is so.
    async fn finish(&self) -> Result<(), Failure> {
        let rig = &self.rig;
        let ended = rig.cluster.wait_for("the work ends", CONVERGENCE_MAX, || self.is_done()).await;
        ended.map_err(|failure| {
            Failure(format!("{}\nlast report: {:#?}", failure.0, rig.report()))
        })?;
        match self.work {
            Work::Import => return Ok(()),
            // Its machine is away until all is repaired.
            Work::Rebuild => {}
            Work::Evacuate | Work::Replace | Work::Remove => {
                rig.wait_clean(CONVERGENCE_MAX).await?;
            }
        }
        lose_node(rig, self.leaves, &format!("{:?} is done", self.work), Survival::None);
        if self.work == Work::Remove {
            rig.extend_again(&disk_of(self.leaves)).await?;
        }
        Ok(())
    }
}

/// A machine whose disk votes and has contents of volumes: both must go elsewhere.
async fn voter_with_data(rig: &Rc<Rig>) -> Result<usize, Failure> {
    let voters: Vec<usize> = rig.voters().into_iter().collect();
    let first = rig.below(voters.len());
    let begin = rig.cluster.world().timeline().now();
    loop {
        for node in voters[first..].iter().chain(&voters[..first]) {
            let request =
                EmptyDisks { disks: vec![disk_of(*node)], dry_run: true, ..EmptyDisks::default() };
            let forecast =
                rig.with(|engine| async move { engine.empty_disks(POOL, &request).await }).await?;
            if forecast.bytes > 0 {
                return Ok(*node);
            }
        }
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || "nothing is brought into place".to_owned())?;
        rig.run_for(Duration::from_millis(200)).await;
    }
}

async fn import(rig: &Rc<Rig>) -> Result<(), Failure> {
    let options = ImportOptions { force: true, ..ImportOptions::default() };
    rig.with(|engine| async move { engine.import_pool(POOL, options).await }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::runner::{Options, run_body};

    /// A place that nothing comes to would pass for one where all goes well.
    #[test]
    fn each_place_is_passed_by_the_work_that_is_said_to() {
        let places = all_places();
        for work in [Work::Evacuate, Work::Replace, Work::Rebuild, Work::Remove, Work::Import] {
            let passed: Rc<RefCell<BTreeSet<StopPoint>>> = Rc::default();
            let seen = Rc::clone(&passed);
            let course = move |stage: Stage| {
                async move {
                    let course = Course::prepare(&stage, work).await?;
                    stage.world.timeline().steps().begin();
                    course.run(|| false).await?;
                    *seen.borrow_mut() = stage.world.timeline().steps().passed();
                    Ok(())
                }
                .boxed_local()
            };
            let outcome = run_body(course, SCENARIOS[0].limit, 7, &Options::default());
            assert_eq!(outcome.failure, None, "{work:?}");
            let of_this = places.iter().filter(|(_, passing)| *passing == work);
            for (point, _) in of_this {
                assert!(passed.borrow().contains(point), "{work:?} doesn't pass {point}");
            }
        }
        let all: BTreeSet<StopPoint> = places.iter().map(|(point, _)| *point).collect();
        assert_eq!(all, StopPoint::ALL.into(), "each has something that passes it");
    }
}
