//! Space that is taken, grown and given back while everything runs.

use std::time::Duration;

use futures::FutureExt;
use pool::Spare;
use pool::engine::{ExtendPool, PoolSettings, VolumeSize};
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, disk_of, expect};
use super::scenario;
use crate::cluster::{Cluster, Plan};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "reused-space",
        "a volume is removed and its space becomes another's: nothing old shows, not after a crash",
        400,
        |stage| reused_space(stage).boxed_local(),
    ),
    scenario(
        "removed-without-majority",
        "a volume is removed while most votes are away: nobody knows whether it is gone before they are \
         back; a new one of its name serves",
        400,
        |stage| removed_without_majority(stage).boxed_local(),
    ),
    scenario(
        "extend",
        "a node is added, pool and volume are extended under load: nothing pauses, nothing is copied",
        300,
        |stage| extend(stage).boxed_local(),
    ),
    scenario(
        "uneven-disks",
        "disks of different sizes: at least 95 % of what two copies can use is usable",
        300,
        |stage| uneven_disks(stage).boxed_local(),
    ),
    scenario(
        "full-log",
        "writers are faster than the disks that the log is destaged to: they wait, nothing is stuck",
        400,
        |stage| full_log(stage).boxed_local(),
    ),
    scenario(
        "spare",
        "volumes take all that they can get of a pool that keeps room for a disk; one is lost for good, and all \
         that it had is made anew",
        600,
        |stage| spare(stage).boxed_local(),
    ),
    scenario(
        "layouts",
        "raid0, mirror:2 and mirror:3 side by side on four nodes through a restart of everything",
        400,
        |stage| layouts(stage).boxed_local(),
    ),
];

async fn reused_space(stage: Stage) -> Result<(), Failure> {
    let plan = Plan::simple(3, 16);
    let rig = Rig::start(&stage, plan, &[(VOLUME, 3 << 20, Layout::Mirror(2))]).await?;
    let mix = Mix { think: Duration::from_millis(15), ..Mix::default() };
    for _ in 0..4 {
        rig.load(mix).await?;
        rig.run_for(rig.between(300, 1500)).await;
        let away = rig.below(6);
        if away < 3 {
            // A node that wasn't there when the volume was removed mustn't bring it back.
            rig.cluster.kill_node(away);
            rig.wait_out(away, Duration::from_secs(10)).await?;
        }
        rig.quiet(CONVERGENCE_MAX).await?;
        rig.remove_volume(VOLUME).await?;
        rig.create_volume(VOLUME, (2 + rig.below(3) as u64) << 20, Layout::Mirror(2)).await?;
        if rig.below(2) == 0 {
            rig.restart_supervisor(rig.between(1, 100)).await;
        }
        rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
        if away < 3 {
            rig.cluster.start_node(away);
            // The next volume needs two machines, and the next that goes may be another one.
            rig.wait_in(away, Duration::from_secs(20)).await?;
        }
    }
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.converge().await
}

/// The command gives up long before the change is made.
async fn removed_without_majority(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 3 << 20, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(3, 16), &volumes).await?;
    let mix = Mix { think: Duration::from_millis(15), ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    let stays = rig.below(3);
    let cut = |is_cut| {
        let others = (0..3).filter(|node| *node != stays);
        others.for_each(|node| rig.cluster.cut_link(node, is_cut));
    };
    cut(true);
    rig.uncertain_volume(VOLUME);
    let removed = rig.remove_volume(VOLUME).await;
    expect(removed.is_err(), || "it was removed without a majority".to_string())?;
    rig.run_for(rig.between(0, 10_000)).await;
    cut(false);
    let is_gone = || rig.report().is_some_and(|report| report.volumes.is_empty());
    rig.cluster.wait_for("it is gone", CONVERGENCE_MAX, is_gone).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.adopt_volumes()?;
    rig.create_volume(VOLUME, 2 << 20, Layout::Mirror(2)).await?;
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.converge().await
}

async fn extend(stage: Stage) -> Result<(), Failure> {
    let plan = Plan::simple(3, 16);
    let rig = Rig::start(&stage, plan, &[(VOLUME, 3 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1000)).await;
    let capacity = rig.report().map_or(0, |report| report.capacity_bytes);
    rig.record(VOLUME).forget_waits();
    rig.cluster.add_node(&[16 << 20, 24 << 20]);
    rig.see_disks(5).await?;
    let disks = ["e4.0".to_string(), "e4.1".to_string()];
    let report = rig
        .with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&disks)).await })
        .await?;
    expect(report.capacity_bytes > capacity + (30 << 20), || {
        format!("capacity was {capacity} and is {}", report.capacity_bytes)
    })?;
    for size in [5u64 << 20, 8 << 20] {
        rig.run_for(rig.between(100, 800)).await;
        rig.with(|engine| async move {
            engine.extend_volume(POOL, VOLUME, VolumeSize::Bytes(size)).await
        })
        .await?;
    }
    rig.run_for(rig.between(300, 1500)).await;
    let pause = rig.record(VOLUME).longest_wait();
    expect(pause < Duration::from_secs(1), || format!("clients waited {pause:?}"))?;
    let volume = rig.volume_report(VOLUME).ok_or(Failure("no volume".into()))?;
    expect(volume.size_bytes >= 8 << 20, || format!("size is {}", volume.size_bytes))?;
    expect(volume.resynced_bytes == 0, || "growing copied data".to_string())?;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 500)).await;
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(100, 1000)).await;
    }
    rig.converge().await
}

async fn uneven_disks(stage: Stage) -> Result<(), Failure> {
    let plan =
        Plan { nodes: vec![vec![1 << 30], vec![2 << 30], vec![3 << 30]], ..Plan::simple(3, 0) };
    let rig = Rig::on(Cluster::start(&stage, plan));
    // As large as in the promise, with extents as the engine chooses them.
    let disks = vec!["e1.0".into(), "e2.0".into(), "e3.0".into()];
    rig.create_pool_of(disks, None).await?;
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    // What two copies on different nodes can use of 1 : 2 : 3 is half of all.
    let ideal = report.capacity_bytes / 2;
    rig.with(|engine| async move {
        engine.create_volume(POOL, VOLUME, VolumeSize::PercentFree(100), Layout::Mirror(2)).await
    })
    .await?;
    let volume = rig.volume_report(VOLUME).ok_or(Failure("no volume".into()))?;
    expect(volume.size_bytes * 100 >= ideal * 95, || {
        format!("{} of {ideal} bytes are usable", volume.size_bytes)
    })
}

async fn full_log(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let slow = rig.cluster.node(rig.below(3)).disks()[0].clone();
    slow.set_latency(crate::disk::Latency::SLOW);
    let mix =
        Mix { depth: 16, writes: 90, think: Duration::ZERO, sectors_max: 512, ..Mix::default() };
    rig.load(mix).await?;
    let before = rig.record(VOLUME).answers();
    rig.run_for(Duration::from_secs(4)).await;
    let answers = rig.record(VOLUME).answers() - before;
    expect(answers > 20, || format!("only {answers} answers in 4 s"))?;
    let wait = rig.record(VOLUME).longest_wait();
    expect(wait < Duration::from_secs(4), || format!("an operation waited {wait:?}"))?;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 500)).await;
    }
    rig.converge().await
}

async fn spare(stage: Stage) -> Result<(), Failure> {
    let nodes = 4 + stage.world.seed() as usize % 2;
    let rig = Rig::on(Cluster::start(&stage, Plan::simple(nodes, 24)));
    rig.create_pool((0..nodes).map(disk_of).collect()).await?;
    rig.set_rebuild_delay(1).await?;
    let kept = [Spare::Disk, Spare::Node][rig.below(2)];
    let settings = PoolSettings { spare: Some(Some(kept)), ..PoolSettings::default() };
    rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await?;
    let layout = [Layout::Mirror(2), Layout::Mirror(3)][rig.below(2)];
    rig.create_volume_of(VOLUME, VolumeSize::PercentFree(100), layout).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    let enough = |rig: &Rig| rig.report()?.spare.map(|spare| spare.is_enough());
    expect(enough(&rig) == Some(true), || format!("{:?} is too little", rig.report()))?;
    let more = VolumeSize::PercentFree(100);
    let grown = rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, more).await });
    // What the last set has beyond the end, at most.
    let _ = grown.await;
    expect(enough(&rig) == Some(true), || "a volume took of what is kept".to_string())?;
    let lost = rig.below(nodes);
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    if rig.below(2) == 0 {
        rig.run_for(rig.between(0, 4000)).await;
        rig.restart_supervisor(rig.between(1, 500)).await;
        rig.load(Mix::BUSY).await?;
    }
    let whole = || rig.volume_report(VOLUME).is_some_and(|volume| !volume.degraded);
    rig.cluster.wait_for("all of it is made anew", CONVERGENCE_MAX, whole).await?;
    expect(enough(&rig) == Some(false), || "what was used is there".to_string())?;
    rig.converge().await
}

async fn layouts(stage: Stage) -> Result<(), Failure> {
    let volumes = [
        ("zero", 2 << 20, Layout::Raid0),
        ("two", 2 << 20, Layout::Mirror(2)),
        ("three", 2 << 20, Layout::Mirror(3)),
    ];
    let rig = Rig::start(&stage, Plan::simple(4, 24), &volumes).await?;
    rig.load(Mix { depth: 2, ..Mix::default() }).await?;
    rig.run_for(rig.between(500, 2000)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    for number in 0..4 {
        rig.cluster.start_node(number);
        rig.run_for(rig.between(1, 500)).await;
    }
    rig.cluster.start_supervisor(0);
    rig.load(Mix { depth: 2, ..Mix::default() }).await?;
    rig.run_for(rig.between(500, 2000)).await;
    rig.converge().await
}
