//! What is left of pools of which the other machines will never be back becomes a pool of its own; and what becomes of
//! that where they are back, or were never gone.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::engine::{ExtendPool, ImportOptions};
use pool::metadata::Layout;
use pool::{DiskState, PoolDisk, PoolReport};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "without-majority",
        "half of the machines are lost under load; what is left becomes a pool of its own, which survives crashes, and \
         leaves them alone when they come back all the same",
        600,
        |stage| without_majority(stage).boxed_local(),
    ),
    scenario(
        "split-cut-short",
        "half of the machines are away, and making the others a pool of its own is cut short by a crash of any of these \
         or of the supervisor while the first ones come back: all is one pool again, or two, and nothing is lost",
        600,
        |stage| split_cut_short(stage).boxed_local(),
    ),
    scenario(
        "split-beside-a-majority",
        "a machine is cut off, and somebody makes it a pool of its own while the others go on: both do, each for \
         itself, also when they see each other again and begin anew",
        600,
        |stage| split_beside_a_majority(stage).boxed_local(),
    ),
];

impl Rig {
    /// The active supervisor makes a pool of its own of what is there and opens that, until it has; it may be killed
    /// meanwhile.
    async fn split_and_open(&self, former: &str) -> Result<(), Failure> {
        for _ in 0..20 {
            let importing = self.with(|engine| async move {
                let options = ImportOptions {
                    grace: Some(Duration::ZERO),
                    force: true,
                    ..Default::default()
                };
                // One that was killed may have done it.
                let id = match engine.plan_split(POOL).await {
                    Ok(shown) => engine.split_pool(&shown, options).await?.id,
                    Err(_) => POOL.to_owned(),
                };
                engine.import_pool(&id, options).await
            });
            let done = match self.below(3) {
                0 => {
                    let limit = self.between(1, 3000);
                    match runtime::timeout(&self.cluster.director(), limit, importing).await {
                        Ok(done) => done,
                        Err(_) => {
                            self.restart_supervisor(self.between(1, 2000)).await;
                            continue;
                        }
                    }
                }
                _ => importing.await,
            };
            // As long as its lease runs nobody has noticed, and it is open as it is.
            let serves = |report: &PoolReport| report.lease_ok && report.id != former;
            if self.report().as_ref().is_some_and(serves) {
                return Ok(());
            }
            if let Err(error) = done {
                self.cluster.tell(&format!("not opened: {}", error.0));
            }
            self.run_for(Duration::from_secs(1)).await;
        }
        Err(Failure(format!("it can't be opened: {:#?}", self.report())))
    }

    /// Waits until the active supervisor has the pool open with all of its disks but those of these nodes, and none of
    /// those.
    async fn expect_without(&self, nodes: &[usize]) -> Result<(), Failure> {
        let lost: Vec<String> = nodes.iter().map(|node| format!("node-{}", node + 1)).collect();
        let is_so = |report: &PoolReport| {
            let is_right = |disk: &PoolDisk| {
                let is_lost = lost.contains(&disk.node);
                is_lost != (disk.state == DiskState::Usable)
            };
            report.lease_ok && report.disks.iter().all(is_right)
        };
        let so = || self.report().as_ref().is_some_and(is_so);
        let waited = self.cluster.wait_for("its own are in", Duration::from_secs(30), so).await;
        waited.map(drop).map_err(|failure| {
            Failure(format!("{}; without {lost:?}: {:#?}", failure.0, self.report()))
        })
    }
}

async fn read_all(rig: &Rig) -> Result<(), Failure> {
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await })
        .await?
        .map_err(|error| Failure(format!("not read: {error}")))
}

async fn without_majority(stage: Stage) -> Result<(), Failure> {
    // So that all data is on what is left.
    let (nodes, layout) = match stage.world.seed() % 2 {
        0 => (2, Layout::Mirror(2)),
        _ => (4, Layout::Mirror(3)),
    };
    let mut plan = Plan::simple(nodes, 32);
    // Some without a vote, too.
    plan.nodes.iter_mut().for_each(|disks| disks.push(24 << 20));
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 << 20, layout)]).await?;
    let former = rig.report().ok_or(Failure("no pool".into()))?.id;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(300, 3000)).await;
    let first = rig.below(nodes);
    let lost: Vec<usize> = (0..nodes / 2).map(|other| (first + other) % nodes).collect();
    match rig.below(3) {
        0 => rig.cluster.cut_all_power(),
        1 => lost.iter().for_each(|node| {
            rig.cluster.cut_node_power(*node, rig.cluster.any_survival());
        }),
        _ => lost.iter().for_each(|node| rig.cluster.cut_link(*node, true)),
    }
    rig.forget_clients();
    (0..nodes).filter(|node| !lost.contains(node)).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(0);
    // Sometimes before anybody has noticed.
    rig.run_for(rig.between(1, 12_000)).await;
    // What waited fails: the pool that it waited for is no more.
    rig.cluster.stage().verdict.expect_fencing();
    rig.split_and_open(&former).await?;
    rig.expect_without(&lost).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(1, 3000)).await;
    for node in &lost {
        rig.cluster.cut_link(*node, false);
        rig.cluster.start_node(*node);
    }
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 2000)).await;
        rig.load(Mix::BUSY).await?;
    }
    rig.run_for(rig.between(500, 8000)).await;
    rig.expect_without(&lost).await?;
    read_all(&rig).await?;
    // They may be had back, empty; then the copies that they had are made anew.
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    let gone = report.disks.iter().filter(|disk| disk.state != DiskState::Usable);
    let gone: Vec<String> = gone.map(|disk| disk.id.clone()).collect();
    let disks = lost.iter().flat_map(|node| [0, 1].map(|disk| format!("e{}.{disk}", node + 1)));
    let disks: Vec<String> = disks.collect();
    rig.see_disks(2 * nodes).await?;
    let unasked = ExtendPool { disks: disks.clone(), ..ExtendPool::default() };
    let taken = rig.with(|engine| async move { engine.extend_pool(POOL, &unasked).await }).await;
    expect(taken.is_err(), || "what nobody gave up was overwritten".into())?;
    let force_disks = disks.clone();
    let request = ExtendPool { disks, force_disks, ..ExtendPool::default() };
    rig.with(|engine| async move { engine.extend_pool(POOL, &request).await }).await?;
    rig.remove(&gone).await?;
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.converge().await
}

async fn split_cut_short(stage: Stage) -> Result<(), Failure> {
    let (nodes, layout) = match stage.world.seed() % 2 {
        0 => (2, Layout::Mirror(2)),
        _ => (4, Layout::Mirror(3)),
    };
    let mut plan = Plan::simple(nodes, 32);
    plan.nodes.iter_mut().for_each(|disks| disks.push(24 << 20));
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 << 20, layout)]).await?;
    let former = rig.report().ok_or(Failure("no pool".into()))?.id;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(300, 3000)).await;
    let first = rig.below(nodes);
    let away: Vec<usize> = (0..nodes / 2).map(|other| (first + other) % nodes).collect();
    let left: Vec<usize> = (0..nodes).filter(|node| !away.contains(node)).collect();
    away.iter().for_each(|node| rig.cluster.cut_link(*node, true));
    rig.run_for(rig.between(8000, 12_000)).await;
    rig.cluster.stage().verdict.expect_fencing();
    let splitting = rig.with(|engine| async move {
        let shown = engine.plan_split(POOL).await?;
        engine.split_pool(&shown, ImportOptions { force: true, ..Default::default() }).await
    });
    let mut splitting = Box::pin(splitting);
    let mut done = None;
    // Most often about when labels are written and votes follow: from the first of these on the former pool isn't known.
    let (limit, any_time) = (rig.between(1, 20_000).as_millis(), rig.below(4) == 0);
    let votes = || {
        let engine = rig.cluster.supervisor(0).engine();
        let known = engine.map(|engine| engine.known_pools()).unwrap_or_default();
        known.iter().all(|pool| pool.id.to_string() != former)
    };
    for passed in 0..60_000 {
        let step = Duration::from_millis(1);
        if let Ok(told) = runtime::timeout(&rig.cluster.director(), step, &mut splitting).await {
            done = Some(told);
            break;
        }
        if any_time && passed > limit || votes() {
            break;
        }
    }
    if done.is_none() {
        rig.run_for(rig.between(0, 12)).await;
    }
    let are_back = rig.below(2) == 0;
    if are_back {
        away.iter().for_each(|node| rig.cluster.cut_link(*node, false));
        rig.run_for(rig.between(1, 200)).await;
    }
    match rig.below(4) {
        0 => rig.cluster.cut_all_power(),
        1 => {
            let node = left[rig.below(left.len())];
            rig.cluster.cut_node_power(node, rig.cluster.any_survival());
        }
        2 => rig.cluster.kill_supervisor(0),
        _ => {}
    }
    rig.forget_clients();
    rig.run_for(rig.between(1, 4000)).await;
    rig.cluster.heal();
    rig.restart_supervisor(rig.between(1, 2000)).await;
    rig.see_disks(2 * nodes).await?;
    rig.run_for(Duration::from_secs(5)).await;
    let reports = rig.cluster.supervisor(0).engine().map(|engine| engine.reports());
    let reports = reports.unwrap_or_default();
    let new = reports.iter().find(|report| report.id != former && !report.disks.is_empty());
    let is_done = done.as_ref().is_some_and(Result::is_ok);
    expect(new.is_some() || !is_done, || format!("it is gone: {reports:#?}"))?;
    let id = new.map_or(former.clone(), |new| new.id.clone());
    rig.with(|engine| async move {
        let options = ImportOptions { force: true, ..Default::default() };
        engine.import_pool(&id, options).await
    })
    .await?;
    match new.is_some() {
        true => rig.expect_without(&away).await?,
        false => rig.expect_without(&[]).await?,
    }
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    match new.is_some() {
        true => read_all(&rig).await,
        false => rig.converge().await,
    }
}

async fn split_beside_a_majority(stage: Stage) -> Result<(), Failure> {
    let mut plan = Plan { supervisors: 2, ..Plan::simple(3, 32) };
    plan.nodes.iter_mut().for_each(|disks| disks.push(24 << 20));
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(3))]).await?;
    let former = rig.report().ok_or(Failure("no pool".into()))?.id;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let alone = rig.below(3);
    let others: Vec<usize> = (0..3).filter(|node| *node != alone).collect();
    let network = Rc::clone(rig.cluster.network());
    let part = |first: bool, node: usize| {
        let supervisor = rig.cluster.supervisor(usize::from(!first));
        network.part(supervisor.station(), rig.cluster.node(node).station(), true);
    };
    rig.cluster.start_supervisor(1);
    part(true, alone);
    others.iter().for_each(|node| part(false, *node));
    rig.run_for(rig.between(1, 12_000)).await;
    rig.set_active(1);
    rig.see_disks(2).await?;
    rig.split_and_open(&former).await?;
    rig.expect_without(&others).await?;
    rig.set_active(0);
    rig.run_for(rig.between(1, 4000)).await;
    for _ in 0..3 {
        match rig.below(4) {
            0 => network.join_all(),
            1 => {
                rig.set_active(1);
                rig.cluster.kill_supervisor(1);
                rig.run_for(rig.between(1, 3000)).await;
                rig.cluster.start_supervisor(1);
                rig.set_active(0);
            }
            2 => {
                rig.restart_supervisor(rig.between(1, 3000)).await;
                rig.load(Mix::default()).await?;
            }
            _ => {}
        }
        rig.run_for(rig.between(500, 8000)).await;
    }
    network.join_all();
    rig.run_for(rig.between(3000, 8000)).await;
    // The one with the majority has all that was written, without the machine that was cut off.
    rig.quiet(CONVERGENCE_MAX).await?;
    read_all(&rig).await?;
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    let own: Vec<String> = others.iter().map(|node| format!("node-{}", node + 1)).collect();
    for disk in &report.disks {
        let is_own = own.contains(&disk.node);
        expect(is_own == (disk.state == DiskState::Usable), || format!("{disk:?}: {report:#?}"))?;
    }
    rig.set_active(1);
    rig.expect_without(&others).await
}
