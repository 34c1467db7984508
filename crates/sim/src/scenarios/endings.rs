//! Pools that are destroyed or get another name: whatever is lost, cut or back meanwhile, what is left is a pool that is whole or one that
//! is known to be no more, and disks that were away never bring it back.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use pool::engine::{VolumeSize, WipeDisks};
use pool::metadata::Layout;
use pool::{DestroyPlan, DiskState, ExtendPool, PoolState};

use super::common::{CONVERGENCE_MAX, OPENING_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::operations::write_some;
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "destroy",
        "a pool is destroyed, machines, power and supervisor go at any step; it is whole or no more, then done again",
        600,
        |stage| destroy(stage).boxed_local(),
    ),
    scenario(
        "destroy-not-as-shown",
        "a pool isn't any more what was shown to whoever agreed to destroy it: it stays",
        400,
        |stage| not_as_shown(stage).boxed_local(),
    ),
    scenario(
        "pool-rename",
        "a pool gets another name, machines, power and supervisor go at any step; it opens by the one or the other",
        400,
        |stage| rename(stage).boxed_local(),
    ),
];

impl Rig {
    async fn plan_destroy(&self) -> Result<DestroyPlan, Failure> {
        self.with(|engine| async move { engine.plan_destroy(POOL).await }).await
    }

    async fn destroy(&self, shown: DestroyPlan) -> Result<(), Failure> {
        let done = self.with(|engine| async move { engine.destroy_pool(&shown).await }).await?;
        expect(done.left.is_empty(), || format!("left as they are: {:?}", done.left))
    }

    /// Frees what belongs to a pool that is no more, or that can't be opened any more.
    async fn wipe_rest(&self) -> Result<(), Failure> {
        let disks =
            self.with(|engine| async move { Ok::<_, String>(engine.disks().await) }).await?;
        let rest = disks.iter().filter(|disk| disk.state != DiskState::Free);
        let disks: Vec<String> = rest.map(|disk| disk.name.clone()).collect();
        if disks.is_empty() {
            return Ok(());
        }
        // What was being wiped when the power went may have lost its labels already.
        let request = WipeDisks { disks, signatures: true };
        self.with(|engine| async move {
            let shown = engine.plan_wipe(&request).await?;
            engine.wipe_disks(&shown).await
        })
        .await
        .map(drop)
    }
}

async fn destroy(stage: Stage) -> Result<(), Failure> {
    let nodes = if stage.world.seed().is_multiple_of(2) { 3 } else { 5 };
    let rig = Rig::start(&stage, Plan::simple(nodes, 24), &[(VOLUME, 2 << 20, Layout::Mirror(2))])
        .await?;
    write_some(&rig, 8).await?;
    let away = (rig.below(3) == 0).then(|| rig.below(nodes));
    if let Some(away) = away {
        rig.cluster.kill_node(away);
        rig.run_for(rig.between(1, 4000)).await;
    }
    let shown = rig.plan_destroy().await?;
    // Once the pool is closed its disks are looked at again, after half a second.
    let later = Duration::from_millis(if rig.below(3) == 0 { 0 } else { 500 });
    let cut_after = later + rig.between(0, 40) + Duration::from_micros(rig.below(1000) as u64);
    let begun = runtime::timeout(&rig.cluster.director(), cut_after, rig.destroy(shown)).await;
    let is_done = matches!(begun, Ok(Ok(())));
    disturb(&rig, nodes).await;
    rig.cluster.heal();
    rig.cluster.start_supervisor(0);
    rig.see_disks(nodes).await?;
    rig.run_for(OPENING_MAX).await;
    let state = rig.report().map(|report| report.state);
    match &state {
        None => {}
        Some(PoolState::Destroyed) => {
            let shown = rig.plan_destroy().await?;
            rig.destroy(shown).await?;
        }
        // Who was away alone is left, and a new engine doesn't know of the end.
        Some(PoolState::Incomplete { .. }) => {
            let left = rig.report().map_or(0, |report| report.disks.len());
            expect(left * 2 < nodes, || format!("{left} disks are left: {:#?}", rig.report()))?;
        }
        Some(_) => {
            expect(!is_done, || format!("it was destroyed and is {state:?}"))?;
            rig.converge().await?;
            let shown = rig.plan_destroy().await?;
            rig.destroy(shown).await?;
        }
    }
    rig.forget_volumes();
    rig.wipe_rest().await?;
    rig.run_for(Duration::from_secs(10)).await;
    expect(rig.report().is_none(), || format!("it is back: {:#?}", rig.report()))?;
    rig.create_pool((0..nodes).map(disk_of).collect()).await?;
    rig.create_volume(VOLUME, 2 << 20, Layout::Mirror(2)).await?;
    write_some(&rig, 4).await?;
    rig.converge().await
}

/// Something goes while the pool is being destroyed.
async fn disturb(rig: &Rc<Rig>, nodes: usize) {
    let chosen = |rig: &Rig| (0..nodes).filter(|_| rig.below(2) == 0).collect::<Vec<usize>>();
    match rig.below(4) {
        0 => rig.cluster.kill_supervisor(0),
        1 => rig.cluster.cut_all_power(),
        2 => chosen(rig).into_iter().for_each(|node| {
            rig.cluster.cut_node_power(node, rig.cluster.any_survival());
        }),
        _ => chosen(rig).into_iter().for_each(|node| rig.cluster.cut_link(node, true)),
    }
    rig.run_for(rig.between(1, 3000)).await;
    if rig.below(2) == 0 {
        rig.cluster.kill_supervisor(0);
        rig.run_for(rig.between(1, 3000)).await;
    }
}

async fn not_as_shown(stage: Stage) -> Result<(), Failure> {
    let plan = Plan::simple(4, 24);
    let rig = Rig::on(crate::cluster::Cluster::start(&stage, plan));
    rig.see_disks(4).await?;
    rig.make_pool((0..3).map(disk_of).collect(), Some(64 << 10), Vec::new()).await?;
    rig.create_volume(VOLUME, 2 << 20, Layout::Mirror(2)).await?;
    write_some(&rig, 4).await?;
    let shown = rig.plan_destroy().await?;
    match rig.below(3) {
        0 => {
            let added = ExtendPool::of(&[disk_of(3)]);
            rig.with(|engine| async move { engine.extend_pool(POOL, &added).await }).await?;
        }
        1 => drop(rig.create_volume("w", 1 << 20, Layout::Mirror(2)).await?),
        _ => {
            let size = VolumeSize::Bytes(3 << 20);
            rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await })
                .await?;
        }
    }
    rig.run_for(rig.between(1, 6000)).await;
    let refused = rig.destroy(shown).await;
    expect(refused.is_err(), || "it was destroyed, though it isn't what was shown".to_owned())?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}

async fn rename(stage: Stage) -> Result<(), Failure> {
    const OTHER: &str = "q";
    let rig = Rig::mirror(&stage).await?;
    write_some(&rig, 8).await?;
    let renaming = rig.with(|engine| async move { engine.rename_pool(POOL, OTHER).await });
    let cut_after = rig.between(0, if rig.below(2) == 0 { 50 } else { 2000 });
    let begun = runtime::timeout(&rig.cluster.director(), cut_after, renaming).await;
    let is_done = matches!(begun, Ok(Ok(_)));
    disturb(&rig, 3).await;
    if rig.below(2) == 0 {
        rig.cluster.kill_supervisor(0);
    }
    rig.cluster.heal();
    rig.cluster.start_supervisor(0);
    let called =
        |name: &str| rig.cluster.supervisor(0).report(name).is_some_and(|report| report.lease_ok);
    rig.cluster.wait_for("it is open", CONVERGENCE_MAX, || called(POOL) || called(OTHER)).await?;
    expect(!is_done || called(OTHER), || "it has its former name again".to_owned())?;
    if called(OTHER) {
        rig.with(|engine| async move { engine.rename_pool(OTHER, POOL).await }).await?;
    }
    rig.converge().await
}
