//! Production's shapes: large extents with several checksum blocks in a group and a cache that is too
//! small, metadata logs that begin anew under load, two paths, two owners, partitions between pairs.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SectorRange};
use futures::FutureExt;
use futures::future::join;
use pool::engine::{ImportOptions, VolumeSize};
use pool::format::FailureDomain;
use pool::metadata::Layout;
use pool::{DiskState, PoolState};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::losses::{lose_disks, status};
use super::scenario;
use crate::cluster::Plan;
use crate::network::Quality;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Clients, Mix};

/// Longest pause of clients when one of two paths fails.
const PATH_PAUSE_MAX: Duration = Duration::from_secs(3);

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "production-extents",
        "4 MiB extents and a cache of 16 checksum blocks: restarts, resync and rot as ever",
        600,
        |stage| production_extents(stage, 4 << 20).boxed_local(),
    ),
    scenario(
        "largest-extents",
        "the same with 64 MiB extents, of which a log segment uses a part",
        600,
        |stage| production_extents(stage, 64 << 20).boxed_local(),
    ),
    scenario(
        "disks-of-one-machine",
        "one machine, whose disks may each be lost for good: one of them is, whenever status says that it may",
        400,
        |stage| disks_of_one_machine(stage).boxed_local(),
    ),
    scenario(
        "many-groups",
        "a volume of some hundred groups, written all over, its checksums out of memory all the time",
        600,
        |stage| many_groups(stage).boxed_local(),
    ),
    scenario(
        "metadata-roll-over",
        "the metadata's log begins anew, again and again, under load and through every failure",
        600,
        |stage| metadata_roll_over(stage).boxed_local(),
    ),
    scenario(
        "volumes-come-and-go",
        "volumes are made, written, grown and removed while another one is under load",
        600,
        |stage| volumes_come_and_go(stage).boxed_local(),
    ),
    scenario(
        "pairwise-partition",
        "each of two owners is cut off from another node: what one has taken the other doesn't touch",
        600,
        |stage| pairwise_partition(stage).boxed_local(),
    ),
    scenario(
        "second-path",
        "of two paths to each machine one fails here, the other there: clients hardly notice",
        400,
        |stage| second_path(stage).boxed_local(),
    ),
    scenario(
        "imports-at-once",
        "two supervisors import the pool at the same moment: one of them has it, whole",
        600,
        |stage| imports_at_once(stage).boxed_local(),
    ),
    scenario(
        "half-vanishes",
        "half of the nodes vanish at once: I/O waits, nothing is recorded against them",
        400,
        |stage| half_vanishes(stage).boxed_local(),
    ),
];

async fn production_extents(stage: Stage, extent_bytes: u64) -> Result<(), Failure> {
    let disk_mib = (40 * extent_bytes) >> 20;
    let plan = Plan { extent_bytes, checksum_bytes: Some(64 << 10), ..Plan::simple(3, disk_mib) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 * extent_bytes, Layout::Mirror(2))]).await?;
    let mix = Mix { sectors_max: 512, depth: 3, ..Mix::default() };
    rig.load(mix).await?;
    for _ in 0..2 {
        rig.run_for(rig.between(300, 2000)).await;
        let victim = rig.below(3);
        match rig.below(4) {
            0 => {
                rig.restart_supervisor(rig.between(1, 500)).await;
                rig.load(mix).await?;
            }
            1 => {
                rig.cluster.cut_all_power();
                rig.forget_clients();
                (0..3).for_each(|number| rig.cluster.start_node(number));
                rig.cluster.start_supervisor(0);
                rig.load(mix).await?;
            }
            _ => {
                rig.cluster.kill_node(victim);
                rig.run_for(rig.between(1, 4000)).await;
                rig.cluster.start_node(victim);
            }
        }
    }
    rig.run_for(rig.between(300, 1500)).await;
    rig.converge().await
}

async fn many_groups(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { checksum_bytes: Some(64 << 10), ..Plan::simple(4, 96) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 80 << 20, Layout::Mirror(2))]).await?;
    let mix = Mix { depth: 6, think: Duration::from_millis(15), ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(500, 2500)).await;
    let victim = rig.below(4);
    rig.cluster.kill_node(victim);
    rig.run_for(rig.between(1, 4000)).await;
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 500)).await;
        rig.load(mix).await?;
        rig.run_for(rig.between(100, 1000)).await;
    }
    rig.cluster.start_node(victim);
    rig.run_for(rig.between(300, 1000)).await;
    rig.converge().await
}

async fn disks_of_one_machine(stage: Stage) -> Result<(), Failure> {
    let disks = 3 + (stage.world.seed() % 3) as usize;
    let plan = Plan {
        nodes: vec![vec![32 << 20; disks]],
        failure_domain: FailureDomain::Disk,
        ..Plan::simple(0, 0)
    };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let survives = || rig.report().map_or(0, |report| report.survives);
    let lose_any = |when: &str| {
        let lost = BTreeSet::from([(0, rig.below(disks))]);
        lose_disks(&rig, lost, when, rig.cluster.any_survival());
    };
    rig.wait_clean(CONVERGENCE_MAX).await?;
    expect(survives() == 1, || format!("nothing is wrong, and status says {}", status(&rig)))?;
    for _ in 0..2 {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(1, 1500)).await;
        lose_any("under load");
        let disk = Rc::clone(&rig.cluster.node(0).disks()[rig.below(disks)]);
        disk.set_gone(true);
        rig.run_for(rig.between(2500, 9000)).await;
        disk.set_gone(false);
        rig.run_for(rig.between(1, 2500)).await;
        if rig.below(2) == 0 {
            rig.cluster.cut_all_power();
            rig.forget_clients();
            rig.cluster.start_node(0);
            rig.cluster.start_supervisor(0);
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
        expect(survives() == 1, || format!("all is clean, and status says {}", status(&rig)))?;
        lose_any("after a disk was away");
    }
    rig.converge().await
}

async fn metadata_roll_over(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let mix = Mix { depth: 2, think: Duration::from_millis(60), ..Mix::default() };
    rig.load(mix).await?;
    // A checkpoint sequence has 512 blocks, and each of these takes one.
    for round in 0..5 {
        commit_often(&rig, 260).await;
        let victim = rig.below(3);
        match rig.below(4) {
            0 => rig.cluster.kill_node(victim),
            1 => {
                let survival = rig.cluster.any_survival();
                rig.cluster.cut_node_power(victim, survival);
            }
            2 if round > 0 => {
                rig.restart_supervisor(rig.between(1, 500)).await;
                rig.load(mix).await?;
            }
            _ => {
                rig.cluster.cut_all_power();
                rig.forget_clients();
                (0..3).for_each(|number| rig.cluster.start_node(number));
                rig.cluster.start_supervisor(0);
                rig.load(mix).await?;
            }
        }
        rig.run_for(rig.between(1, 1500)).await;
        (0..3).for_each(|number| rig.cluster.start_node(number));
    }
    rig.converge().await
}

/// Metadata transactions one after the other; what interrupts them is not their concern.
async fn commit_often(rig: &Rig, count: usize) {
    let limit = rig.between(300, 8000);
    let supervisor = Rc::clone(rig.cluster.supervisor(rig.active()));
    let committing = supervisor.with(move |engine| async move {
        for number in 0..count {
            let value = Some(number.to_string());
            if engine.set_property(POOL, VOLUME, "number", value).await.is_err() {
                return;
            }
        }
    });
    // Either ends it.
    let _ = runtime::timeout(&rig.cluster.director(), limit, committing).await;
}

async fn volumes_come_and_go(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 2 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    for round in 0..4 {
        let name = if round % 2 == 0 { "x" } else { "y" };
        rig.create_volume(name, (1 + rig.below(3) as u64) << 20, Layout::Mirror(2)).await?;
        write_all_over(&rig, name, 6).await?;
        let grown = VolumeSize::Bytes(4 << 20);
        let grow = move |engine: Rc<pool::engine::Engine>| async move {
            engine.extend_volume(POOL, name, grown).await
        };
        rig.with(grow).await?;
        write_all_over(&rig, name, 6).await?;
        let bigger = VolumeSize::Bytes((2 << 20) + ((1 + round as u64) << 18));
        rig.with(move |engine| async move { engine.extend_volume(POOL, VOLUME, bigger).await })
            .await?;
        let victim = rig.below(8);
        if victim < 4 {
            rig.cluster.kill_node(victim);
            rig.run_for(rig.between(1, 3000)).await;
        }
        if rig.below(3) > 0 {
            rig.remove_volume(name).await?;
        }
        if victim < 4 {
            rig.cluster.start_node(victim);
        }
        if rig.below(3) == 0 {
            rig.restart_supervisor(rig.between(1, 300)).await;
            rig.load(Mix::default()).await?;
        }
        if rig.volumes().iter().any(|known| known == name) {
            rig.open(name).await?;
            rig.remove_volume(name).await?;
        }
    }
    rig.converge().await
}

async fn write_all_over(rig: &Rig, name: &str, count: usize) -> Result<(), Failure> {
    let sectors = rig.volume_report(name).map_or(0, |volume| volume.size_bytes) / 512;
    for _ in 0..count {
        let start = rig.below((sectors / 8) as usize) as u64 * 8;
        let range = SectorRange::new(Lba(start), 8);
        let write = |watched: crate::workload::Watched| async move {
            watched.change(Change::Write, range).await
        };
        rig.on_volume(name, write).await??;
    }
    Ok(())
}

async fn half_vanishes(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let first = rig.below(4);
    let second = (first + 1 + rig.below(3)) % 4;
    for number in [first, second] {
        rig.cluster.cut_link(number, true);
    }
    rig.run_for(rig.between(3000, 15_000)).await;
    let disks = rig.report().map(|report| report.disks).unwrap_or_default();
    let out = disks.iter().filter(|disk| disk.state == DiskState::Out).count();
    expect(out == 0, || format!("{out} disks were evicted without a majority"))?;
    let dirty: u64 = disks.iter().map(|disk| disk.dirty_bytes).sum();
    expect(dirty == 0, || format!("{dirty} bytes were recorded as dirty"))?;
    // With the first one there is a majority again, which may evict the second one.
    for number in [first, second] {
        rig.cluster.cut_link(number, false);
        rig.run_for(rig.between(1, 1500)).await;
    }
    rig.converge().await
}

fn two_owners() -> Plan {
    Plan { supervisors: 2, ..Plan::simple(3, 32) }
}

/// Supervisor `number` takes the pool by force, again and again until it has it or time is up.
async fn take(rig: &Rig, number: usize, limit: Duration) -> bool {
    let supervisor = Rc::clone(rig.cluster.supervisor(number));
    let begin = rig.cluster.world().timeline().now();
    while rig.cluster.world().timeline().now().since(begin) < limit {
        let importing = supervisor.with(|engine| async move {
            let options = ImportOptions { force: true, ..ImportOptions::default() };
            engine.import_pool(POOL, options).await.is_ok()
        });
        let answer = runtime::timeout(&rig.cluster.director(), limit, importing).await;
        if matches!(answer, Ok(Ok(true))) {
            return true;
        }
        rig.run_for(Duration::from_millis(500)).await;
    }
    false
}

/// Clients of a supervisor that has the pool; they work on the same oracle as all others.
async fn load_of(rig: &Rig, number: usize, label: &str) -> Result<Clients, Failure> {
    rig.set_active(number);
    let watched = rig.open(VOLUME).await?;
    let process = rig.cluster.supervisor(number).process().ok_or(Failure("dead".into()))?;
    let mix = Mix { depth: 2, think: Duration::from_millis(25), ..Mix::default() };
    Ok(Clients::start(rig.cluster.world(), &process, &watched, mix, label))
}

async fn pairwise_partition(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, two_owners(), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let mut running = vec![load_of(&rig, 0, "first").await?];
    rig.run_for(rig.between(300, 1500)).await;
    rig.cluster.start_supervisor(1);
    let network = Rc::clone(rig.cluster.network());
    let apart = [rig.below(3), rig.below(3)];
    for (number, node) in apart.into_iter().enumerate() {
        let node = rig.cluster.node(node);
        network.part(rig.cluster.supervisor(number).station(), node.station(), true);
    }
    rig.run_for(rig.between(1, 4000)).await;
    let taken = take(&rig, 1, Duration::from_secs(30)).await;
    rig.cluster.tell(if taken { "the second has it" } else { "the second hasn't got it" });
    if taken {
        running.push(load_of(&rig, 1, "second").await?);
        rig.run_for(rig.between(300, 3000)).await;
    }
    network.join_all();
    rig.run_for(rig.between(300, 6000)).await;
    settle_owner(&rig, usize::from(taken)).await?;
    stop(&rig, running).await?;
    rig.converge().await
}

/// The one that should have the pool has it, with the other one switched off.
async fn settle_owner(rig: &Rig, owner: usize) -> Result<(), Failure> {
    rig.cluster.kill_supervisor(1 - owner);
    rig.set_active(owner);
    let open = || {
        rig.report().is_some_and(|report| {
            report.lease_ok && matches!(report.state, PoolState::Online | PoolState::Degraded)
        })
    };
    for _ in 0..6 {
        let waited = rig.cluster.wait_for("it is open", Duration::from_secs(10), open).await;
        if waited.is_ok() || take(rig, owner, Duration::from_secs(10)).await {
            return Ok(());
        }
    }
    Err(Failure(format!("supervisor {owner} doesn't get the pool: {:#?}", rig.report())))
}

async fn stop(rig: &Rig, running: Vec<Clients>) -> Result<(), Failure> {
    for clients in running.into_iter().filter(Clients::is_alive) {
        let director = rig.cluster.director();
        let stopped = runtime::timeout(&director, CONVERGENCE_MAX, clients.stop()).await;
        expect(stopped.is_ok(), || "an operation hangs".to_string())?;
    }
    Ok(())
}

async fn second_path(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { paths: 2, ..Plan::simple(3, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    for _ in 0..3 {
        rig.run_for(rig.between(500, 2000)).await;
        rig.record(VOLUME).forget_waits();
        for number in 0..3 {
            let node = rig.cluster.node(number);
            let station = &node.stations()[rig.below(2)];
            match rig.below(4) {
                0 => station.set_cut(true, true),
                1 => station.set_cut(true, false),
                2 => station.set_quality(Quality { loss: 0.3, ..Quality::GOOD }),
                _ => {}
            }
        }
        rig.run_for(rig.between(500, 6000)).await;
        let pause = rig.record(VOLUME).longest_wait();
        expect(pause < PATH_PAUSE_MAX, || format!("clients waited {pause:?}"))?;
        for number in 0..3 {
            for station in rig.cluster.node(number).stations() {
                station.set_cut(false, false);
                station.set_quality(Quality::GOOD);
            }
        }
    }
    rig.converge().await
}

async fn imports_at_once(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, two_owners(), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    for round in 0..2 {
        let clients = load_of(&rig, rig.active(), &format!("owner-{round}")).await?;
        rig.run_for(rig.between(300, 1500)).await;
        // Nobody has it, or whoever has it is forced.
        if rig.below(2) == 0 {
            rig.cluster.kill_supervisor(rig.active());
        }
        (0..2).for_each(|number| rig.cluster.start_supervisor(number));
        rig.run_for(rig.between(1, 1500)).await;
        let limit = Duration::from_secs(20);
        let (first, second) = join(take(&rig, 0, limit), take(&rig, 1, limit)).await;
        rig.cluster.tell(&format!("the first has it: {first}, the second: {second}"));
        let has_lease = |number: usize| {
            rig.cluster.supervisor(number).report(POOL).is_some_and(|report| report.lease_ok)
        };
        let owner = usize::from(has_lease(1));
        settle_owner(&rig, owner).await?;
        stop(&rig, vec![clients]).await?;
    }
    rig.converge().await
}
