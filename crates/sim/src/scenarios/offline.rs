//! Disks that people take out of use, and into use again, while everything runs and things fail: they stay out
//! whoever owns the pool, nobody waits for them, and nothing depends on them.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::engine::{NamedDisks, PoolSettings};
use pool::metadata::Layout;
use pool::{DiskState, ExtendPool, PoolReport};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::jobs::{disturb, lose_one_of};
use super::losses::{power_cut, start_all};
use super::operations::{base_of, write_some};
use super::owners::import;
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "offline",
        "a disk is taken out of use under load, pulled and put back; it stays out whatever goes and whoever opens the \
         pool, isn't rebuilt, and gets what it missed when somebody wants it back",
        600,
        |stage| there_and_back(stage).boxed_local(),
    ),
    scenario(
        "offline-of-two",
        "of two machines each is taken out of use in turn and switched off at once; the other one goes on",
        600,
        |stage| of_two(stage).boxed_local(),
    ),
    scenario(
        "offline-by-luck",
        "disks are taken out of use while others are behind or gone: refused, or all goes on without them",
        600,
        |stage| by_luck(stage).boxed_local(),
    ),
    scenario(
        "offline-striped",
        "of a pool with a striped volume each disk is taken out of use that has none of it, wherever its log is",
        600,
        |stage| striped(stage).boxed_local(),
    ),
    scenario(
        "offline-to-open",
        "so many machines are lost that a pool can be opened only with the vote of a disk that is out of use",
        600,
        |stage| to_open(stage).boxed_local(),
    ),
];

/// Longest that taking a disk out of use may take where its vote must move.
const MOVED_MAX: Duration = Duration::from_secs(12);

impl Rig {
    /// Takes disks out of use.
    pub async fn offline(&self, disks: &[String]) -> Result<(), Failure> {
        let request = NamedDisks { disks: disks.to_vec(), dry_run: false };
        let done = self.with(|engine| async move { engine.offline_disks(POOL, &request).await });
        done.await.map(drop)
    }

    /// Takes disks into use again.
    pub async fn online(&self, disks: &[String]) -> Result<(), Failure> {
        let request = NamedDisks { disks: disks.to_vec(), dry_run: false };
        let done = self.with(|engine| async move { engine.online_disks(POOL, &request).await });
        done.await.map(drop)
    }

    /// All that are to take no part take part again.
    pub async fn all_online(&self) -> Result<(), Failure> {
        let begin = self.cluster.world().timeline().now();
        loop {
            let disks = self.report().map_or_else(Vec::new, |report| wished(&report));
            let is_open = self.report().is_some_and(|report| !report.disks.is_empty());
            if disks.is_empty() && is_open {
                return Ok(());
            }
            // Whoever was to do it may just have died.
            let done = self.online(&disks).await;
            if self.cluster.world().timeline().now().since(begin) > CONVERGENCE_MAX {
                return done;
            }
            self.run_for(Duration::from_millis(500)).await;
        }
    }
}

/// The disks that are to take no part.
fn wished(report: &PoolReport) -> Vec<String> {
    let disks = report.disks.iter().filter(|disk| disk.offline.is_some());
    disks.map(|disk| disk.name.clone()).collect()
}

fn is_offline(rig: &Rig, disk: &str) -> bool {
    let report = rig.report();
    let mut disks = report.iter().flat_map(|report| &report.disks);
    disks.any(|known| known.name == disk && known.state == DiskState::Offline)
}

/// It is out of use, and nobody did anything about that.
async fn expect_left_alone(rig: &Rig, disk: &str) -> Result<(), Failure> {
    let history = rig.with(|engine| async move { engine.history(POOL) }).await?;
    let rebuild = format!("rebuild of disk {disk} begins");
    let is_rebuilt = history.iter().any(|entry| entry.text.contains(&rebuild));
    let alone = is_offline(rig, disk) && !is_rebuilt;
    expect(alone, || format!("{disk} isn't left alone ({is_rebuilt}): {:#?}", rig.report()))
}

/// Whatever is open serves.
fn expect_serving(rig: &Rig) -> Result<(), Failure> {
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    let waits = report.volumes.iter().find_map(|volume| volume.suspended().map(str::to_owned));
    expect(waits.is_none() && report.lease_ok, || format!("{waits:?}: {report:#?}"))
}

async fn there_and_back(stage: Stage) -> Result<(), Failure> {
    let layout =
        if stage.world.seed().is_multiple_of(2) { Layout::Mirror(3) } else { Layout::Mirror(2) };
    let plan = Plan { supervisors: 2, ..Plan::simple(5, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, layout)]).await?;
    rig.set_rebuild_delay(2).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    let node = rig.one_of_the_fullest(3);
    let disk = disk_of(node);
    let begin = rig.cluster.world().timeline().now();
    rig.offline(std::slice::from_ref(&disk)).await?;
    let took = rig.cluster.world().timeline().now().since(begin);
    expect(took < Duration::from_secs(1), || format!("it took {took:?}"))?;
    expect_left_alone(&rig, &disk).await?;
    expect_serving(&rig)?;
    lose_one_of(&rig, 5, "a disk was just taken out of use");
    let pulled = rig.below(3) > 0;
    if pulled {
        // Nobody notices.
        rig.cluster.kill_node(node);
        for _ in 0..20 {
            rig.run_for(rig.between(1, 100)).await;
            expect_serving(&rig)?;
        }
    }
    rig.run_for(rig.between(3000, 8000)).await;
    expect_left_alone(&rig, &disk).await?;
    lose_one_of(&rig, 5, "a disk is out of use");
    if pulled {
        // Whoever pulled it has it for himself when it is back.
        let counters = || rig.cluster.node(node).disks()[0].counters();
        let before = counters();
        rig.cluster.start_node(node);
        rig.run_for(rig.between(1000, 5000)).await;
        expect_left_alone(&rig, &disk).await?;
        let now = counters();
        expect(now.written_bytes == before.written_bytes, || format!("{disk} is written to"))?;
    }
    match rig.below(4) {
        0 => {
            rig.restart_supervisor(rig.between(1, 2000)).await;
            rig.load(Mix::BUSY).await?;
        }
        1 => {
            power_cut(&rig);
            rig.load(Mix::BUSY).await?;
        }
        2 => {
            rig.cluster.kill_supervisor(0);
            rig.forget_clients();
            rig.cluster.start_supervisor(1);
            import(&rig, 1).await?;
            rig.load(Mix::BUSY).await?;
        }
        _ => disturb(&rig, Mix::BUSY).await?,
    }
    rig.run_for(rig.between(3000, 6000)).await;
    let stays = || is_offline(&rig, &disk);
    rig.cluster.wait_for("it stays out of use", Duration::from_secs(30), stays).await?;
    expect_left_alone(&rig, &disk).await?;
    lose_one_of(&rig, 5, "a disk is out of use, and something went");
    rig.online(std::slice::from_ref(&disk)).await?;
    rig.run_for(rig.between(1, 3000)).await;
    lose_one_of(&rig, 5, "a disk is in use again");
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    lose_one_of(&rig, 5, "it has what it missed");
    rig.converge().await
}

async fn of_two(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(2, 32), &[(VOLUME, 3 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    for round in 0..3 {
        rig.run_for(rig.between(300, 2000)).await;
        let (node, disk) = (round % 2, disk_of(round % 2));
        let begin = rig.cluster.world().timeline().now();
        rig.offline(std::slice::from_ref(&disk)).await?;
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < MOVED_MAX, || format!("it took {took:?}"))?;
        match rig.below(2) {
            0 => rig.cluster.kill_node(node),
            _ => rig.cluster.cut_node_power(node, rig.cluster.any_survival()),
        }
        for _ in 0..30 {
            expect_serving(&rig)?;
            rig.run_for(rig.between(1, 200)).await;
        }
        if rig.below(2) == 0 {
            rig.restart_supervisor(rig.between(1, 2000)).await;
            rig.load(Mix::BUSY).await?;
        }
        rig.run_for(rig.between(500, 3000)).await;
        rig.cluster.start_node(node);
        rig.run_for(rig.between(1, 3000)).await;
        rig.all_online().await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        let both = || rig.report().is_some_and(|report| report.votes.total == 2);
        rig.cluster.wait_for("both vote", CONVERGENCE_MAX, both).await?;
    }
    rig.converge().await
}

async fn by_luck(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.set_rebuild_delay(600).await?;
    rig.load(Mix::BUSY).await?;
    for _ in 0..3 {
        rig.run_for(rig.between(300, 1500)).await;
        // One of them is behind, or gone.
        let away = rig.below(4);
        let is_behind = rig.below(3) > 0;
        rig.cluster.kill_node(away);
        rig.run_for(rig.between(2000, 4000)).await;
        if is_behind {
            rig.cluster.start_node(away);
            let _ = rig.wait_in(away, CONVERGENCE_MAX).await;
            rig.run_for(rig.between(1, 200)).await;
        }
        for _ in 0..2 {
            let disk = disk_of(rig.below(4));
            let served = expect_serving(&rig).is_ok();
            let Ok(()) = rig.offline(std::slice::from_ref(&disk)).await else { continue };
            rig.cluster.tell(&format!("{disk} is out of use"));
            if served {
                expect_serving(&rig)?;
            }
            lose_one_of(&rig, 4, "some are out of use");
        }
        if rig.below(2) == 0 {
            disturb(&rig, Mix::BUSY).await?;
        }
        rig.run_for(rig.between(1, 2000)).await;
        start_all(&rig);
        rig.all_online().await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        lose_one_of(&rig, 4, "all are in use again");
    }
    rig.converge().await
}

async fn striped(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 1 << 20, Layout::Raid0)]).await?;
    let settings = PoolSettings { auto_rebalance: Some(false), ..PoolSettings::default() };
    rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await?;
    // Of these the volume has nothing but its log.
    let added = ["e4.0".to_string(), "e5.0".to_string()];
    for _ in &added {
        rig.cluster.add_node(&[32 << 20]);
    }
    rig.see_disks(5).await?;
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    rig.load(Mix::BUSY).await?;
    let mut taken = 0;
    for node in [3, 4, 0, 3, 4] {
        rig.run_for(rig.between(1, 1500)).await;
        let disk = [disk_of(node)];
        match rig.offline(&disk).await {
            Ok(()) => taken += 1,
            Err(Failure(why)) if node == 0 && why.contains("the last right copy") => continue,
            Err(failure) => return Err(failure),
        }
        expect_serving(&rig)?;
        rig.cluster.kill_node(node);
        rig.run_for(rig.between(1, 3000)).await;
        expect_serving(&rig)?;
        rig.cluster.start_node(node);
        rig.all_online().await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    expect(taken == 4, || format!("{taken} were taken out of use, not those without data"))?;
    rig.converge().await
}

async fn to_open(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 3 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let (out, gone) = (0, 1 + rig.below(2));
    rig.offline(&[disk_of(out)]).await?;
    rig.run_for(rig.between(300, 3000)).await;
    let survives = rig.report().map_or(0, |report| report.survives);
    expect(survives == 0, || format!("survives {survives}: {:#?}", rig.report()))?;
    rig.cluster.kill_node(gone);
    // Also before anybody has noticed.
    rig.run_for(rig.between(1, [300, 12_000][rig.below(2)])).await;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 1000)).await;
        let open = || rig.report().is_some_and(|report| report.lease_ok);
        rig.cluster.wait_for("it is opened", Duration::from_secs(60), open).await?;
        let is_honest = rig.report().is_some_and(|report| report.survives == 0);
        expect(is_honest, || format!("it depends on that disk: {:#?}", rig.report()))?;
        expect(is_offline(&rig, &disk_of(out)), || format!("{:#?}", rig.report()))?;
    }
    // Also where no majority is left to commit it.
    rig.online(&[disk_of(out)]).await?;
    let open = || rig.report().is_some_and(|report| report.lease_ok);
    rig.cluster.wait_for("it votes", Duration::from_secs(30), open).await?;
    rig.run_for(rig.between(1, 3000)).await;
    rig.cluster.start_node(gone);
    rig.converge().await
}

/// A disk that is about to be taken out of use, and into use again.
pub(super) async fn to_be_offline(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let nodes = 2 + 2 * usize::from(stage.world.seed().is_multiple_of(2));
    let rig = base_of(stage, Plan { supervisors: 2, ..Plan::simple(nodes, 24) }).await?;
    rig.set_rebuild_delay(2).await?;
    Ok(rig)
}

pub(super) async fn offline_and_online(rig: Rc<Rig>) -> Result<(), Failure> {
    let disk = [disk_of(0)];
    rig.offline(&disk).await?;
    write_some(&rig, 3).await?;
    rig.online(&disk).await?;
    write_some(&rig, 3).await?;
    rig.wait_clean(CONVERGENCE_MAX).await.map(drop)
}
