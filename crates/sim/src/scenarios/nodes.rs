//! Nodes that die, vanish or stop, and what they have to resync when they return.

use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::engine::Engine;
use pool::metadata::Layout;
use pool::{DiskState, PoolState};

use super::common::{CONVERGENCE_MAX, EXTENT_BYTES, POOL, Rig, VOLUME, disk_of, expect};
use super::damage::{mend_every_copy, places_of};
use super::losses::trickle;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Part, ReadFault};
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

/// Longest pause of clients when a node goes away.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Regions of an extent that may be dirty each for itself.
const REGIONS_PER_EXTENT: u64 = 64;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "slots-change",
        "a machine that begins anew finds its disks in another order: each is taken for what it is",
        400,
        |stage| slots_change(stage).boxed_local(),
    ),
    scenario(
        "node-killed",
        "a node dies under load: a pause under 3 s, and it resyncs only what it missed",
        300,
        |stage| async move { goes_away(stage, Way::Killed).await }.boxed_local(),
    ),
    scenario("link-cut", "a node's cable is cut for 30 s under load: the same", 300, |stage| {
        async move { goes_away(stage, Way::Cut).await }.boxed_local()
    }),
    scenario(
        "node-stopped",
        "a node's process is stopped and continued under load: the same",
        300,
        |stage| async move { goes_away(stage, Way::Stopped).await }.boxed_local(),
    ),
    scenario(
        "half-cut",
        "a node hears but isn't heard, or is heard but doesn't hear: the same",
        300,
        |stage| async move { goes_away(stage, Way::HalfCut).await }.boxed_local(),
    ),
    scenario(
        "stuck-disk",
        "a disk answers nothing for 20 s: the pool goes on without it and takes it back",
        300,
        |stage| async move { goes_away(stage, Way::Stuck).await }.boxed_local(),
    ),
    scenario(
        "unplugged-disk",
        "a disk vanishes from a node that lives on: the pool goes on without it and takes it back",
        300,
        |stage| async move { goes_away(stage, Way::Unplugged).await }.boxed_local(),
    ),
    scenario(
        "both-behind",
        "two nodes in turn miss writes, so that each is behind the other: nothing is lost",
        300,
        |stage| both_behind(stage).boxed_local(),
    ),
    scenario(
        "resync-interrupted",
        "resync is interrupted by the node's death, again and again: it ends all the same",
        400,
        |stage| resync_interrupted(stage).boxed_local(),
    ),
    scenario(
        "source-dies-in-resync",
        "while one node resyncs from another, that one dies: I/O waits or goes on, nothing is lost",
        400,
        |stage| source_dies(stage).boxed_local(),
    ),
    scenario(
        "rotten-source",
        "what one node resyncs has rotted on another, and a third one has it right: rot isn't copied",
        300,
        |stage| rotten_source(stage).boxed_local(),
    ),
    scenario(
        "mass-disappearance",
        "quorum is lost at once: I/O waits, nothing is recorded against the missing, all continues",
        400,
        |stage| mass_disappearance(stage).boxed_local(),
    ),
    scenario(
        "two-votes",
        "of two nodes one or the other fails for a while: I/O waits and goes on, nothing is stuck",
        400,
        |stage| two_votes(stage).boxed_local(),
    ),
    scenario(
        "refused-and-back",
        "of two nodes one restarts, and can't read whose its disk is until it restarts once more: I/O waits \
         and goes on",
        300,
        |stage| refused_and_back(stage).boxed_local(),
    ),
    scenario(
        "rolling-restarts",
        "each node in turn restarts quickly under load: nobody is evicted for longer than needed",
        300,
        |stage| rolling_restarts(stage).boxed_local(),
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Killed,
    Cut,
    Stopped,
    HalfCut,
    Stuck,
    Unplugged,
}

async fn goes_away(stage: Stage, way: Way) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(3);
    let node = rig.cluster.node(victim);
    let disk = rig.cluster.node(victim).disks()[0].clone();
    rig.record(VOLUME).forget_waits();
    match way {
        Way::Killed => rig.cluster.kill_node(victim),
        Way::Cut => rig.cluster.cut_link(victim, true),
        Way::Stopped => node.process().iter().for_each(|process| process.pause()),
        Way::HalfCut => {
            let out = rig.below(2) == 0;
            node.station().set_cut(out, !out);
        }
        Way::Stuck => disk.stick_for(Duration::from_secs(12)),
        Way::Unplugged => disk.set_gone(true),
    }
    rig.run_for(Duration::from_secs(6)).await;
    let pause = rig.record(VOLUME).longest_wait();
    expect(pause < PAUSE_MAX, || format!("clients waited {pause:?}"))?;
    expect(rig.report().is_some_and(|r| r.state == PoolState::Degraded), || {
        format!("the pool should be degraded: {:?}", rig.report().map(|r| r.state))
    })?;
    let written_before = rig.volume_report(VOLUME).map_or(0, |volume| volume.resynced_bytes);
    let away = if way == Way::Cut { Duration::from_secs(24) } else { rig.between(10, 10_000) };
    rig.run_for(away).await;
    match way {
        Way::Killed => rig.cluster.start_node(victim),
        Way::Cut => rig.cluster.cut_link(victim, false),
        Way::Stopped => node.process().iter().for_each(|process| process.resume()),
        Way::HalfCut => node.station().set_cut(false, false),
        Way::Stuck => {}
        Way::Unplugged => disk.set_gone(false),
    }
    rig.run_for(Duration::from_secs(3)).await;
    let pause = rig.record(VOLUME).longest_wait();
    expect(pause < PAUSE_MAX, || format!("clients waited {pause:?} around the return"))?;
    rig.converge().await?;
    // The volume may have been written everywhere: what was resynced is at most all its regions.
    let volume = rig.volume_report(VOLUME).ok_or_else(|| Failure("no volume".into()))?;
    let copied = volume.resynced_bytes - written_before;
    let most = volume.size_bytes.next_multiple_of(EXTENT_BYTES) + 2 * EXTENT_BYTES;
    expect(copied <= most, || format!("{copied} bytes were copied, at most {most} were missed"))
}

/// A node misses writes to few distinct regions; what is copied is bounded by those.
/// Without it there is no majority, so it can't be evicted: whoever waits for it may hold what taking it
/// in needs.
async fn refused_and_back(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 2 << 20, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(2, 32), &volumes).await?;
    rig.load(Mix::default()).await?;
    for _ in 0..2 {
        rig.run_for(rig.between(300, 1500)).await;
        let victim = rig.below(2);
        let disk = rig.cluster.node(victim).disks()[0].clone();
        (0..4).for_each(|_| disk.spoil_next_read(Part::Reservation, ReadFault::Error));
        for _ in 0..2 {
            rig.cluster.kill_node(victim);
            rig.run_for(rig.between(1, 3000)).await;
            rig.cluster.start_node(victim);
            rig.run_for(rig.between(500, 8000)).await;
        }
    }
    rig.converge().await
}

async fn rolling_restarts(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    for number in 0..3 {
        rig.run_for(rig.between(200, 1000)).await;
        rig.cluster.kill_node(number);
        rig.run_for(rig.between(1, 800)).await;
        rig.cluster.start_node(number);
        rig.wait_clean(CONVERGENCE_MAX).await?;
        let pause = rig.record(VOLUME).longest_wait();
        expect(pause < PAUSE_MAX, || format!("clients waited {pause:?}"))?;
    }
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    let before = rig.volume_report(VOLUME).map_or(0, |volume| volume.resynced_bytes);
    rig.cluster.kill_node(0);
    rig.wait_out(0, Duration::from_secs(10)).await?;
    let places = 5;
    let region_bytes = EXTENT_BYTES / REGIONS_PER_EXTENT;
    for place in 0..places {
        // Twice the same region: it is copied once.
        for block in [0, 0, 1] {
            let at = (place * 7 * EXTENT_BYTES / 10 + block * 4096) / 512 / 8 * 8;
            let range = SectorRange::new(Lba(at), 8);
            let write = |watched: crate::workload::Watched| async move {
                watched.change(Change::Write, range).await
            };
            rig.on_volume(VOLUME, write).await??;
        }
    }
    rig.run_for(Duration::from_secs(5)).await;
    rig.cluster.start_node(0);
    rig.converge().await?;
    let copied = rig.volume_report(VOLUME).map_or(0, |volume| volume.resynced_bytes) - before;
    // Two regions each, and those of their checksum blocks, two slots.
    let most = places * (2 + 2) * region_bytes;
    expect(copied <= most, || {
        format!("{copied} bytes were copied for {places} distinct places, at most {most} allowed")
    })
}

async fn slots_change(stage: Stage) -> Result<(), Failure> {
    let sizes =
        [vec![24 << 20, 24 << 20], vec![24 << 20, 32 << 20], vec![32 << 20, 24 << 20, 16 << 20]];
    let plan = Plan { nodes: sizes.to_vec(), ..Plan::simple(3, 24) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    for _ in 0..4 {
        rig.run_for(rig.between(100, 1500)).await;
        let number = rig.below(3);
        match rig.below(2) {
            0 => rig.cluster.kill_node(number),
            _ => rig.cluster.cut_node_power(number, rig.cluster.any_survival()),
        }
        rig.run_for(rig.between(1, 2500)).await;
        let by = 1 + rig.below(rig.cluster.node(number).disks().len() - 1);
        rig.cluster.node(number).slots().borrow_mut().rotate_left(by);
        if rig.below(3) == 0 {
            // One is looked at long after the others.
            let disks = rig.cluster.node(number).disks();
            disks[rig.below(disks.len())].stick_for(rig.between(100, 8000));
        }
        rig.cluster.start_node(number);
        match rig.below(3) {
            0 => {
                rig.run_for(rig.between(1, 8000)).await;
                rig.restart_supervisor(rig.between(1, 500)).await;
                rig.load(Mix::default()).await?;
            }
            // Perhaps it changes them again before the first change was noticed.
            1 => {}
            _ => drop(rig.wait_clean(CONVERGENCE_MAX).await?),
        }
    }
    rig.converge().await
}

async fn both_behind(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 6 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    let (first, second) = (rig.below(4), rig.below(3));
    let second = (first + 1 + second) % 4;
    for _ in 0..3 {
        rig.run_for(rig.between(200, 1500)).await;
        rig.cluster.kill_node(first);
        rig.run_for(rig.between(2000, 5000)).await;
        rig.cluster.start_node(first);
        // Not waiting for it to resync: the other one goes away while it is behind.
        rig.run_for(rig.between(10, 2500)).await;
        rig.cluster.kill_node(second);
        rig.run_for(rig.between(2000, 5000)).await;
        rig.cluster.start_node(second);
    }
    rig.converge().await
}

async fn resync_interrupted(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix { think: Duration::from_millis(15), ..Mix::default() }).await?;
    let victim = rig.below(3);
    rig.run_for(rig.between(200, 500)).await;
    for _ in 0..4 {
        rig.cluster.kill_node(victim);
        rig.run_for(rig.between(1600, 4000)).await;
        rig.cluster.start_node(victim);
        rig.run_for(rig.between(50, 1200)).await;
    }
    if rig.below(2) == 0 {
        rig.restart_supervisor(rig.between(1, 2000)).await;
    }
    rig.converge().await
}

async fn source_dies(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 800)).await;
    let first = rig.below(3);
    rig.cluster.kill_node(first);
    rig.run_for(rig.between(3000, 8000)).await;
    rig.cluster.start_node(first);
    rig.run_for(rig.between(1, 600)).await;
    let source = (first + 1 + rig.below(2)) % 3;
    rig.cluster.kill_node(source);
    rig.run_for(rig.between(2000, 15_000)).await;
    rig.cluster.start_node(source);
    rig.converge().await
}

/// A copy of what rotted would look as fresh as any: then two of three are wrong.
async fn rotten_source(stage: Stage) -> Result<(), Failure> {
    let volumes = [(VOLUME, 1 << 20, Layout::Mirror(3))];
    let rig = Rig::start(&stage, Plan::simple(3, 32), &volumes).await?;
    let behind = rig.below(3);
    rig.cluster.kill_node(behind);
    rig.wait_out(behind, Duration::from_secs(10)).await?;
    trickle(&rig, 4 + rig.below(12), 512, Duration::ZERO).await?;
    rig.in_place(VOLUME).await?;
    let source = rig.cluster.node((behind + 1 + rig.below(2)) % 3).disks()[0].clone();
    for sector in rig.record(VOLUME).oracle().written_sectors() {
        if rig.below(4) == 0 {
            let places = places_of(&source, sector).into_iter();
            places.for_each(|place| source.flip_byte(place * SECTOR_BYTES as u64 + 77, 1));
        }
    }
    rig.cluster.start_node(behind);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let verify =
        |engine: Rc<Engine>| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await };
    let report = rig.with(verify).await?;
    let name = disk_of(behind);
    let spread = report.bad.iter().find(|bad| bad.disk == name);
    expect(spread.is_none(), || format!("rot was copied: {spread:?}"))?;
    mend_every_copy(&rig).await?;
    rig.converge().await
}

async fn mass_disappearance(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let survivor = rig.below(4);
    rig.cluster.tell("a switch dies");
    for number in (0..3).filter(|number| *number != survivor) {
        rig.cluster.cut_link(number, true);
    }
    rig.run_for(Duration::from_secs(12)).await;
    let waited = rig.record(VOLUME).longest_wait();
    expect(waited > Duration::from_secs(5), || {
        format!("clients went on without a quorum (longest wait {waited:?})")
    })?;
    if let Some(report) = rig.report() {
        expect(!report.lease_ok, || "a lease without a quorum".to_string())?;
        let out = report.disks.iter().filter(|disk| matches!(disk.state, DiskState::Out)).count();
        // One node may have been evicted while the other still answered; never all that vanished.
        expect(out <= 1, || format!("{out} disks were evicted without a quorum: {report:#?}"))?;
    }
    rig.run_for(rig.between(1, 30_000)).await;
    for number in [2, 0, 1] {
        rig.cluster.cut_link(number, false);
        rig.run_for(rig.between(1, 1500)).await;
    }
    rig.record(VOLUME).forget_waits();
    let answers = rig.record(VOLUME).answers();
    rig.cluster
        .wait_for("clients go on", Duration::from_secs(20), || {
            rig.record(VOLUME).answers() > answers + 10
        })
        .await?;
    rig.converge().await
}

/// Without a majority nobody can be evicted: a disk that failed must count as fine once it answers.
async fn two_votes(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(2, 24), &[(VOLUME, 1 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    for _ in 0..4 {
        rig.run_for(rig.between(50, 1500)).await;
        let victim = rig.below(2);
        match rig.below(3) {
            0 => rig.cluster.kill_node(victim),
            1 => rig.cluster.cut_link(victim, true),
            _ => rig.cluster.node(victim).disks()[0].stick_for(rig.between(10, 5000)),
        }
        rig.run_for(rig.between(10, 5000)).await;
        rig.cluster.cut_link(victim, false);
        rig.cluster.start_node(victim);
    }
    rig.converge().await
}
