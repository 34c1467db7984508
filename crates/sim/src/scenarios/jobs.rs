//! Disks that are emptied while everything runs: rebuilt, evacuated, replaced; and what is lost, cut or back
//! while that is under way. Whenever status says that a loss is survived, it is, at every moment of it.

use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SectorRange};
use futures::FutureExt;
use pool::engine::{EmptyDisks, PoolSettings};
use pool::metadata::Layout;
use pool::{ExtendPool, JobState};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::losses::{lose_node, power_cut};
use super::operations::{base_of, write_some};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::Latency;
use crate::medium::Survival;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "evacuate",
        "a disk is evacuated under load, machines and processes go meanwhile; then its machine is lost",
        600,
        |stage| evacuate(stage).boxed_local(),
    ),
    scenario(
        "rebuild",
        "a machine is lost for good and rebuilt on the others under load; then another one is lost",
        600,
        |stage| rebuild(stage).boxed_local(),
    ),
    scenario(
        "rebuild-and-back",
        "a machine is back in the middle of its rebuild, or its extents have another owner by then",
        600,
        |stage| rebuild_and_back(stage).boxed_local(),
    ),
    scenario(
        "replace",
        "another disk takes the place of one, raid0 as well; either may fail, the command may be withdrawn",
        600,
        |stage| replace(stage).boxed_local(),
    ),
    scenario(
        "rebuild-without-room",
        "what was on a lost machine has no room on the others: nothing begins before there is some",
        400,
        |stage| rebuild_without_room(stage).boxed_local(),
    ),
    scenario(
        "jobs-come-and-go",
        "jobs are begun and withdrawn while writers are many and disks slow; what they free is used again",
        600,
        |stage| come_and_go(stage).boxed_local(),
    ),
    scenario(
        "large-then-emptied",
        "what was just written in place moves before a destage would come, then the other copy is lost",
        400,
        |stage| large_then_emptied(stage).boxed_local(),
    ),
    scenario(
        "rebuild-of-many",
        "more than a third of the machines are gone at once: nothing is rebuilt before some are back",
        400,
        |stage| rebuild_of_many(stage).boxed_local(),
    ),
];

impl Rig {
    /// Has a disk emptied.
    pub async fn empty(&self, disk: &str, to: Option<&str>) -> Result<(), Failure> {
        let (disks, to) = (vec![disk.to_owned()], to.map(str::to_owned));
        let request = EmptyDisks { disks, to, ..EmptyDisks::default() };
        self.with(|engine| async move { engine.empty_disks(POOL, &request).await }).await.map(drop)
    }

    /// Has disks taken out of the pool.
    pub async fn remove(&self, disks: &[String]) -> Result<(), Failure> {
        let request = EmptyDisks { disks: disks.to_vec(), remove: true, ..EmptyDisks::default() };
        self.with(|engine| async move { engine.empty_disks(POOL, &request).await }).await.map(drop)
    }

    /// Waits until no job has anything left to do.
    pub async fn jobs_done(&self, limit: Duration) -> Result<(), Failure> {
        let done = || {
            let report = self.report();
            report.is_some_and(|r| r.jobs.iter().all(|job| job.state == JobState::Done))
        };
        let waited = self.cluster.wait_for("the jobs are done", limit, done).await;
        waited
            .map(drop)
            .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, self.report())))
    }

    /// A disk that is out for so long is rebuilt.
    pub async fn set_rebuild_delay(&self, seconds: u64) -> Result<(), Failure> {
        let rebuild_delay_secs = Some(Some(seconds));
        let settings = PoolSettings { rebuild_delay_secs, ..PoolSettings::default() };
        self.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await
    }

    /// Withdraws what disks are emptied for.
    pub async fn cancel_jobs(&self) -> Result<(), Failure> {
        for job in self.report().map_or_else(Vec::new, |report| report.jobs) {
            // It may be done by now.
            let _ =
                self.with(|engine| async move { engine.cancel_job(POOL, job.number).await }).await;
        }
        Ok(())
    }

    /// One of the machines that have the most, by luck.
    pub fn one_of_the_fullest(&self, count: usize) -> usize {
        let report = self.report();
        let disks = report.iter().flat_map(|report| &report.disks).enumerate();
        let mut by_space: Vec<_> = disks.map(|(node, disk)| (disk.free_bytes, node)).collect();
        by_space.sort_unstable();
        let chosen = self.below(count.min(by_space.len()));
        by_space.get(chosen).map_or(0, |(_, node)| *node)
    }

    pub fn has_job(&self) -> bool {
        self.report().is_some_and(|report| !report.jobs.is_empty())
    }
}

/// In a fork, one of the machines is lost for good, if status says that all survives that.
pub(super) fn lose_one_of(rig: &Rig, nodes: usize, what: &str) {
    let survives = rig.report().is_some_and(|r| r.lease_ok && r.survives >= 1);
    if survives {
        lose_node(rig, rig.below(nodes), what, rig.cluster.any_survival());
    }
}

/// Something goes, and is back after a while.
pub(super) async fn disturb(rig: &Rc<Rig>, mix: Mix) -> Result<(), Failure> {
    let nodes = rig.cluster.node_count();
    match rig.below(5) {
        0 => {
            rig.restart_supervisor(rig.between(1, 2000)).await;
            rig.load(mix).await?;
        }
        1 => {
            power_cut(rig);
            rig.load(mix).await?;
        }
        2 | 3 => {
            let victim = rig.below(nodes);
            rig.cluster.kill_node(victim);
            rig.run_for(rig.between(1, 5000)).await;
            rig.cluster.start_node(victim);
        }
        _ => {}
    }
    Ok(())
}

/// The same once or more, each time after at most `most_ms`; a machine may be lost for good before it and after it.
pub(super) async fn disturb_some(rig: &Rc<Rig>, most_ms: u64, what: &str) -> Result<(), Failure> {
    let nodes = rig.cluster.node_count();
    for _ in 0..1 + rig.below(3) {
        rig.run_for(rig.between(1, most_ms)).await;
        lose_one_of(rig, nodes, what);
        disturb(rig, Mix::BUSY).await?;
        rig.run_for(rig.between(1, 1500)).await;
        lose_one_of(rig, nodes, &format!("{what}, after something went"));
    }
    Ok(())
}

async fn evacuate(stage: Stage) -> Result<(), Failure> {
    let nodes = 4 + usize::from(stage.world.seed().is_multiple_of(2));
    let layout =
        if stage.world.seed().is_multiple_of(3) { Layout::Mirror(3) } else { Layout::Mirror(2) };
    let plan = match stage.world.seed() % 5 {
        0 => Plan { extent_bytes: 4 << 20, ..Plan::simple(nodes, 160) },
        _ => Plan::simple(nodes, 32),
    };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 << 20, layout)]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let leaves = rig.one_of_the_fullest(3);
    rig.empty(&disk_of(leaves), None).await?;
    disturb_some(&rig, 2500, "while it is evacuated").await?;
    rig.cluster.heal();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    lose_node(&rig, leaves, "its disk is empty", Survival::None);
    rig.converge().await?;
    lose_one_of(&rig, nodes, "at rest");
    Ok(())
}

async fn rebuild(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 6 << 20, Layout::Mirror(2))]).await?;
    let delay = 1 + rig.below(4) as u64;
    rig.set_rebuild_delay(delay).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let lost = rig.one_of_the_fullest(2);
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    rig.cluster.wait_for("it is rebuilt", Duration::from_secs(30), || rig.has_job()).await?;
    if rig.below(2) == 0 {
        rig.run_for(rig.between(1, 1500)).await;
        rig.restart_supervisor(rig.between(1, 1000)).await;
        rig.load(Mix::BUSY).await?;
    }
    let whole = || {
        rig.report().is_some_and(|report| {
            report.jobs.is_empty()
                && report.survives >= 1
                && report.volumes.iter().all(|volume| !volume.degraded && volume.dirty_bytes == 0)
        })
    };
    rig.cluster
        .wait_for("all has two copies again", CONVERGENCE_MAX, whole)
        .await
        .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, rig.report())))?;
    // It never comes back, and another one goes.
    let others: Vec<usize> = (0..5).filter(|node| *node != lost).collect();
    let second = others[rig.below(others.len())];
    lose_node(&rig, second, &format!("node {} is away", lost + 1), Survival::None);
    rig.cluster.kill_node(second);
    rig.run_for(rig.between(1000, 6000)).await;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    // The first one has nothing more that could be lost with it: it isn't one of many that are gone at once.
    rig.cluster
        .wait_for("all has two copies once more", CONVERGENCE_MAX, whole)
        .await
        .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, rig.report())))?;
    rig.converge().await?;
    lose_one_of(&rig, 5, "at rest");
    Ok(())
}

async fn rebuild_and_back(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 6 << 20, Layout::Mirror(2))]).await?;
    rig.set_rebuild_delay(1).await?;
    rig.load(Mix::BUSY).await?;
    for round in 0..2 {
        rig.run_for(rig.between(500, 3000)).await;
        let away = rig.one_of_the_fullest(2);
        rig.cluster.kill_node(away);
        rig.wait_out(away, Duration::from_secs(20)).await?;
        rig.cluster.wait_for("it is rebuilt", Duration::from_secs(30), || rig.has_job()).await?;
        rig.run_for(rig.between(1, 3000)).await;
        rig.cluster.start_node(away);
        rig.run_for(rig.between(1, 3000)).await;
        lose_one_of(&rig, 5, "it is back");
        rig.jobs_done(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        if round == 0 {
            // What it had has another owner now.
            rig.create_volume("w", 4 << 20, Layout::Mirror(2)).await?;
            rig.load(Mix::BUSY).await?;
        }
        lose_one_of(&rig, 5, "all is clean");
    }
    rig.converge().await
}

async fn replace(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 4 << 20, Layout::Mirror(2)), ("s", 2 << 20, Layout::Raid0)];
    let rig = Rig::start(&stage, Plan::simple(3, 32), &volumes).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    rig.cluster.add_node(&[32 << 20]);
    rig.see_disks(4).await?;
    let added = ["e4.0".to_string()];
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    let leaves = rig.below(3);
    let disk = disk_of(leaves);
    rig.empty(&disk, Some("e4.0")).await?;
    for _ in 0..1 + rig.below(2) {
        rig.run_for(rig.between(1, 2000)).await;
        if rig.below(3) == 0 {
            rig.cancel_jobs().await?;
            rig.run_for(rig.between(1, 3000)).await;
            // Its machine may be back and its disk not yet.
            rig.wait_in(3, CONVERGENCE_MAX).await?;
            rig.empty(&disk, Some("e4.0")).await?;
        }
        disturb(&rig, Mix::BUSY).await?;
    }
    rig.cluster.heal();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    // Nothing is on it, of the volume with one copy neither.
    lose_node(&rig, leaves, "it was replaced", Survival::None);
    rig.converge().await
}

async fn rebuild_without_room(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 24), &[]).await?;
    rig.set_rebuild_delay(1).await?;
    let size = pool::engine::VolumeSize::PercentFree(90);
    let made = rig.with(|engine| async move {
        engine.create_volume(POOL, "big", size, Layout::Mirror(2)).await
    });
    made.await?;
    rig.adopt_volumes()?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let lost = rig.below(3);
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    rig.run_for(Duration::from_secs(10)).await;
    expect(!rig.has_job(), || "a rebuild begins that can't be done".to_owned())?;
    rig.cluster.add_node(&[24 << 20]);
    rig.run_for(Duration::from_secs(3)).await;
    let added = ["e4.0".to_string()];
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    rig.cluster.wait_for("there is room", Duration::from_secs(30), || rig.has_job()).await?;
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.converge().await
}

async fn rebuild_of_many(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 8 << 20, Layout::Mirror(3))]).await?;
    rig.set_rebuild_delay(1).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let first = rig.one_of_the_fullest(3);
    let second = (first + 1 + rig.below(4)) % 5;
    for node in [first, second] {
        rig.cluster.kill_node(node);
    }
    rig.wait_out(first, Duration::from_secs(20)).await?;
    rig.wait_out(second, Duration::from_secs(20)).await?;
    // Between the two of them the first one alone may have been out for long enough.
    rig.cancel_jobs().await?;
    rig.run_for(Duration::from_secs(15)).await;
    expect(!rig.has_job(), || "two of five machines are rebuilt".to_owned())?;
    rig.cluster.start_node(second);
    rig.cluster.wait_for("one is rebuilt", Duration::from_secs(40), || rig.has_job()).await?;
    rig.jobs_done(CONVERGENCE_MAX).await?;
    lose_one_of(&rig, 5, "one was rebuilt");
    rig.converge().await
}

/// Verifies the volume, whatever else happens.
fn verify_beside(rig: &Rc<Rig>) {
    let supervisor = Rc::clone(rig.cluster.supervisor(rig.active()));
    rig.cluster.director().spawn(async move {
        let verify = |engine: Rc<pool::engine::Engine>| async move {
            engine.verify_volume(POOL, VOLUME, None, &|_| ()).await.map(drop)
        };
        // What is bad is told where it is read; the process may end.
        let _ = supervisor.with(verify).await;
    });
}

async fn come_and_go(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 10 << 20, Layout::Mirror(2)), ("s", 2 << 20, Layout::Raid0)];
    let rig = Rig::start(&stage, Plan::simple(4, 32), &volumes).await?;
    let mix = Mix {
        depth: 6,
        sectors_max: 128,
        think: Duration::from_millis(10),
        large: 10,
        ..Mix::default()
    };
    rig.load(mix).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let mut has_third = false;
    for _ in 0..4 {
        let disks = rig.cluster.disks();
        let slow = Rc::clone(&disks[rig.below(4)].1);
        // Whoever verifies a group that is on it holds up the destages that have to do with that one.
        if rig.below(3) > 0 {
            slow.set_latency(Latency::SLOW);
            verify_beside(&rig);
        }
        let disk = disk_of(rig.below(4));
        if rig.empty(&disk, None).await.is_ok() {
            rig.run_for(rig.between(1, 2500)).await;
            if rig.below(3) > 0 {
                rig.cancel_jobs().await?;
            }
        }
        slow.set_latency(Latency::FAST);
        match rig.below(2) {
            0 if has_third => {
                rig.remove_volume("w").await?;
                has_third = false;
            }
            _ if !has_third => {
                // The disks that a job empties may be too many.
                has_third = rig.create_volume("w", 2 << 20, Layout::Mirror(2)).await.is_ok();
            }
            _ => {}
        }
        rig.cancel_jobs().await?;
        rig.run_for(rig.between(1, 1500)).await;
    }
    rig.converge().await
}

/// A disk to be emptied that has something.
pub(super) async fn to_be_emptied(stage: Stage) -> Result<Rc<Rig>, Failure> {
    base_of(stage, Plan { supervisors: 2, ..Plan::simple(4, 24) }).await
}

pub(super) async fn emptied(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.empty("e1.0", None).await?;
    write_some(&rig, 3).await?;
    rig.jobs_done(CONVERGENCE_MAX).await
}

/// A machine that is about to be rebuilt.
pub(super) async fn to_be_rebuilt(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base_of(stage, Plan { supervisors: 2, ..Plan::simple(5, 24) }).await?;
    rig.set_rebuild_delay(1).await?;
    rig.cluster.kill_node(rig.one_of_the_fullest(2));
    let begun = || rig.report().is_some_and(|report| !report.jobs.is_empty());
    rig.cluster.wait_for("the rebuild begins", Duration::from_secs(30), begun).await?;
    Ok(rig)
}

pub(super) async fn rebuilt(rig: Rc<Rig>) -> Result<(), Failure> {
    write_some(&rig, 3).await?;
    rig.jobs_done(CONVERGENCE_MAX).await
}

async fn large_then_emptied(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    write_some(&rig, 6).await?;
    rig.in_place(VOLUME).await?;
    for round in 0..3_u64 {
        // So many rows that they go in place, where nothing was.
        let range = SectorRange::new(Lba(4096 + round * 512), 128 + 128 * rig.below(3) as u64);
        let write = |watched: Watched| async move { watched.change(Change::Write, range).await };
        rig.on_volume(VOLUME, write).await??;
        let leaves = rig.one_of_the_fullest(2);
        rig.empty(&disk_of(leaves), None).await?;
        let begin = rig.cluster.world().timeline().now();
        loop {
            // The log is never idle for long enough to be destaged for that.
            write_some(&rig, 1).await?;
            rig.run_for(rig.between(100, 500)).await;
            lose_one_of(&rig, 5, "while it moves");
            // Nothing fails, so nothing may have fewer copies for a moment. Votes may: those of a new list of voters
            // count one after the other, as each is written.
            let report = rig.report();
            let have_copies = |report: &pool::PoolReport| {
                report.volumes.iter().all(|volume| volume.survives_nodes >= 1)
            };
            let survives = report.as_ref().is_some_and(have_copies);
            expect(survives, || format!("an evacuation takes a copy away: {report:?}"))?;
            let survives = || rig.report().is_some_and(|report| report.survives >= 1);
            rig.cluster.wait_for("votes are written", Duration::from_secs(1), survives).await?;
            let done = |report: pool::PoolReport| {
                report.jobs.iter().all(|job| job.state == JobState::Done)
            };
            if rig.report().is_some_and(done) {
                break;
            }
            let took = rig.cluster.world().timeline().now().since(begin);
            expect(took < CONVERGENCE_MAX, || "an evacuation waits for an idle log".to_owned())?;
        }
        lose_one_of(&rig, 5, "it has moved");
        rig.cancel_jobs().await?;
    }
    rig.converge().await
}
