//! Supervisors that die, restart, are deposed, or believe that they own what another one has.

use std::time::Duration;

use futures::FutureExt;
use pool::PoolState;
use pool::engine::ImportOptions;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, OPENING_MAX, POOL, Rig, VOLUME, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Clients, Mix};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "supervisor-killed",
        "the supervisor dies under load at any await point and starts again, several times",
        400,
        |stage| supervisor_killed(stage).boxed_local(),
    ),
    scenario(
        "killed-while-opening",
        "the supervisor dies while it replays what its death left: replay is idempotent",
        400,
        |stage| killed_while_opening(stage).boxed_local(),
    ),
    scenario(
        "vanish-while-opening",
        "all nodes vanish while the pool is being opened, and come back: it opens",
        400,
        |stage| vanish_while_opening(stage).boxed_local(),
    ),
    scenario(
        "cold-start",
        "everything loses power under load and comes back in any order",
        400,
        |stage| cold_start(stage).boxed_local(),
    ),
    scenario(
        "cold-start-without-one",
        "everything loses power, one node stays away: the pool opens without it, if votes permit",
        400,
        |stage| cold_start_without_one(stage).boxed_local(),
    ),
    scenario(
        "stale-copy-present",
        "after a power cut only nodes that missed writes are there: nothing stale is read",
        400,
        |stage| stale_copy(stage).boxed_local(),
    ),
    scenario(
        "deposed",
        "a stopped supervisor is deposed and continues: it neither writes nor answers reads",
        400,
        |stage| deposed(stage).boxed_local(),
    ),
    scenario(
        "deposed-switched-on",
        "a supervisor whose pool was imported elsewhere is switched on again: it doesn't open it",
        400,
        |stage| deposed_switched_on(stage).boxed_local(),
    ),
    scenario(
        "two-owners",
        "two supervisors, cut off from each other's nodes in turn, import the pool from each other",
        600,
        |stage| two_owners(stage).boxed_local(),
    ),
    scenario(
        "released",
        "a pool that was released is imported without waiting for a lease",
        300,
        |stage| released(stage).boxed_local(),
    ),
];

async fn supervisor_killed(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..3 {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(20, 3000)).await;
        rig.restart_supervisor(rig.between(1, 1000)).await;
    }
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await
}

async fn killed_while_opening(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(200, 2500)).await;
    if rig.below(2) == 0 {
        rig.cluster.cut_all_power();
        (0..3).for_each(|number| rig.cluster.start_node(number));
    }
    for _ in 0..5 {
        rig.restart_supervisor(Duration::from_millis(5)).await;
        rig.run_for(rig.between(1, 1500)).await;
    }
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await
}

/// Nobody takes disks back into a pool that isn't open yet: the opening must begin again.
async fn vanish_while_opening(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(200, 1500)).await;
    for _ in 0..3 {
        rig.restart_supervisor(Duration::from_millis(5)).await;
        rig.run_for(rig.between(1, 700)).await;
        (0..3).for_each(|number| rig.cluster.kill_node(number));
        rig.run_for(rig.between(1, 3000)).await;
        (0..3).for_each(|number| rig.cluster.start_node(number));
        rig.run_for(rig.between(1, 1500)).await;
    }
    rig.converge().await
}

async fn cold_start(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..2 {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(50, 2500)).await;
        rig.cluster.cut_all_power();
        rig.forget_clients();
        start_in_any_order(&rig).await;
    }
    rig.converge().await
}

async fn start_in_any_order(rig: &Rig) {
    let mut waiting: Vec<usize> = (0..=rig.cluster.node_count()).collect();
    while !waiting.is_empty() {
        rig.run_for(rig.between(1, 5000)).await;
        match waiting.swap_remove(rig.below(waiting.len())) {
            0 => rig.cluster.start_supervisor(rig.active()),
            number => rig.cluster.start_node(number - 1),
        }
    }
}

async fn cold_start_without_one(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(50, 2500)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    let away = rig.below(3);
    (0..3).filter(|number| *number != away).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(0);
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 4000)).await;
    rig.converge().await
}

/// Nodes 1 and 2 carry the data. Node 2 misses writes, then the power goes, and node 1 stays away:
/// what is present has a majority of votes, and stale data.
async fn stale_copy(stage: Stage) -> Result<(), Failure> {
    let mut plan = Plan::simple(3, 32);
    // The third is too small for data: it has its vote.
    plan.nodes[2] = vec![12 << 20];
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.cluster.kill_node(1);
    rig.wait_out(1, Duration::from_secs(10)).await?;
    rig.run_for(rig.between(2500, 5000)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    rig.cluster.start_node(1);
    rig.cluster.start_node(2);
    rig.cluster.start_supervisor(0);
    rig.run_for(OPENING_MAX).await;
    // Whether or not it serves what it has: no stale sector is ever read, and nothing is an error.
    let reading = rig.on_volume(VOLUME, |watched| async move { watched.read_all().await });
    let director = rig.cluster.director();
    let read = runtime::timeout(&director, Duration::from_secs(10), reading).await;
    if let Ok(read) = read {
        read??;
    }
    let report = rig.report();
    expect(report.as_ref().is_some_and(|report| report.state != PoolState::Online), || {
        format!("a disk that has the only right copies is missing: {report:#?}")
    })?;
    rig.cluster.start_node(0);
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    rig.converge().await
}

pub(super) async fn import(rig: &Rig, number: usize) -> Result<(), Failure> {
    import_of(rig, number, rig.cluster.disks().len()).await
}

/// The same once so many disks are seen.
pub(super) async fn import_of(rig: &Rig, number: usize, disks: usize) -> Result<(), Failure> {
    rig.set_active(number);
    rig.see_disks(disks).await?;
    let import = || {
        rig.with(|engine| async move {
            let options = ImportOptions { force: true, ..ImportOptions::default() };
            engine.import_pool(POOL, options).await
        })
    };
    import().await.map(drop)
}

async fn deposed(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(
        &stage,
        Plan { supervisors: 2, ..Plan::simple(3, 32) },
        &[(VOLUME, 4 << 20, Layout::Mirror(2))],
    )
    .await?;
    let mix = Mix { think: Duration::from_millis(40), ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let first = rig.cluster.supervisor(0).process();
    // Stopped between two turns, or in the middle of one so that what it decided before is done
    // after the takeover; or cut off from all nodes and still working.
    let steps = rig.below(100) as u32;
    match rig.below(4) {
        0 => first.iter().for_each(|process| process.pause()),
        1 => first.iter().for_each(|process| process.pause_in_turn(steps)),
        _ => rig.cluster.supervisor(0).station().set_cut(true, true),
    }
    rig.run_for(rig.between(1, 4000)).await;
    take_over(&rig, mix).await?;
    rig.converge().await
}

/// The second supervisor takes the pool from the first one, which comes back while clients work by both, and
/// knows soon that it is deposed.
pub(super) async fn take_over(rig: &Rig, mix: Mix) -> Result<(), Failure> {
    let first = rig.cluster.supervisor(0).process();
    rig.cluster.start_supervisor(1);
    import(rig, 1).await?;
    // The clients of the second work on the same oracle; those of the first still run, or will.
    let watched = rig.open(VOLUME).await?;
    let process = rig.cluster.supervisor(1).process().ok_or(Failure("dead".into()))?;
    let clients = Clients::start(rig.cluster.world(), &process, &watched, mix, "second");
    rig.run_for(rig.between(200, 2000)).await;
    rig.cluster.tell("the first one is back");
    first.iter().for_each(|process| process.resume());
    rig.cluster.supervisor(0).station().set_cut(false, false);
    rig.run_for(Duration::from_secs(10)).await;
    if let Some(report) = rig.cluster.supervisor(0).report(POOL) {
        let closed = matches!(report.state, PoolState::Fenced | PoolState::Foreign);
        expect(closed, || format!("the deposed one believes: {:?}", report.state))?;
    }
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    clients.stop().await.map_err(|_| Failure("the second supervisor died".into()))
}

async fn deposed_switched_on(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(
        &stage,
        Plan { supervisors: 2, ..Plan::simple(3, 32) },
        &[(VOLUME, 4 << 20, Layout::Mirror(2))],
    )
    .await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    rig.cluster.start_supervisor(1);
    import(&rig, 1).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(10, 1000)).await;
    rig.cluster.start_supervisor(0);
    rig.run_for(OPENING_MAX).await;
    let opened = rig
        .cluster
        .supervisor(0)
        .engine()
        .is_some_and(|engine| engine.open_volume(POOL, VOLUME).is_ok());
    expect(!opened, || "the deposed supervisor opened the pool".into())?;
    let state = rig.cluster.supervisor(0).report(POOL).map(|report| report.state);
    expect(matches!(state, Some(PoolState::Foreign)), || {
        format!("the deposed supervisor reports {state:?}")
    })?;
    expect(rig.report().is_some_and(|report| report.state == PoolState::Online), || {
        "the owner was disturbed".into()
    })?;
    rig.converge().await
}

async fn two_owners(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(
        &stage,
        Plan { supervisors: 2, ..Plan::simple(3, 32) },
        &[(VOLUME, 4 << 20, Layout::Mirror(2))],
    )
    .await?;
    rig.cluster.start_supervisor(1);
    let mut running = Vec::new();
    let mix = Mix { think: Duration::from_millis(25), depth: 2, ..Mix::default() };
    for round in 0..4 {
        let owner = round % 2;
        if round > 0 {
            // A lossy moment, so that what the other one sent may still be on the way.
            rig.cluster.supervisor(1 - owner).station().set_cut(true, rig.below(2) == 0);
            rig.run_for(rig.between(1, 2000)).await;
            if round > 1 {
                // A fenced engine sees nothing through its deposed sessions: switched on anew.
                rig.cluster.kill_supervisor(owner);
                rig.cluster.start_supervisor(owner);
            }
            import(&rig, owner).await?;
            rig.cluster.supervisor(1 - owner).station().set_cut(false, false);
        }
        let watched = rig.open(VOLUME).await?;
        let process = rig.cluster.supervisor(owner).process().ok_or(Failure("dead".into()))?;
        let label = format!("owner-{round}");
        running.push(Clients::start(rig.cluster.world(), &process, &watched, mix, &label));
        rig.run_for(rig.between(300, 4000)).await;
    }
    let limit = CONVERGENCE_MAX;
    // Those of killed processes died with them.
    for clients in running.into_iter().filter(Clients::is_alive) {
        let stopped = runtime::timeout(&rig.cluster.director(), limit, clients.stop()).await;
        expect(stopped.is_ok(), || format!("an operation hangs for {limit:?}"))?;
    }
    rig.converge().await
}

async fn released(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(
        &stage,
        Plan { supervisors: 2, ..Plan::simple(3, 32) },
        &[(VOLUME, 4 << 20, Layout::Mirror(2))],
    )
    .await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.with(|engine| async move { engine.release_pool(POOL).await }).await?;
    rig.cluster.start_supervisor(1);
    rig.set_active(1);
    rig.see_disks(3).await?;
    let begin = rig.cluster.world().timeline().now();
    import(&rig, 1).await?;
    rig.open_within(VOLUME, Duration::from_secs(5)).await?;
    let took = rig.cluster.world().timeline().now().since(begin);
    expect(took < Duration::from_secs(4), || format!("a clean release was waited out: {took:?}"))?;
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await?;

    // Taken again at once, by who gave it up: he has just begun to open its disks as a stranger's.
    rig.with(|engine| async move { engine.release_pool(POOL).await }).await?;
    rig.cluster.supervisor(1).station().set_cut(true, true);
    let again =
        rig.with(|engine| async move { engine.import_pool(POOL, ImportOptions::default()).await });
    let cable = async {
        rig.run_for(rig.between(200, 1500)).await;
        rig.cluster.supervisor(1).station().set_cut(false, false);
    };
    futures::join!(again, cable).0?;
    rig.open_within(VOLUME, Duration::from_secs(5)).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(Duration::from_millis(500)).await;
    rig.converge().await
}
