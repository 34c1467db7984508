//! A volume that ends earlier, and grows again: what stays is what it was, and beyond it are zeros.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::engine::VolumeSize;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::jobs::lose_one_of;
use super::operations::write_some;
use super::scenario;
use crate::cluster::Plan;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "reduced",
        "a volume is reduced under load, a machine away, a supervisor killed over it, and grows again: what \
         stays is there, beyond it are zeros, and what was given up becomes another volume's",
        600,
        |stage| reduced(stage).boxed_local(),
    ),
    scenario(
        "reduced-without-members",
        "a volume is reduced while destaging waits for machines: it is refused and nothing changes, or done",
        400,
        |stage| reduced_without_members(stage).boxed_local(),
    ),
    scenario(
        "reduced-while-converted",
        "a volume is reduced and grows while it gets copies or loses some, supervisors are killed over it: what \
         stays is there, and survives what it should",
        900,
        |stage| reduced_while_converted(stage).boxed_local(),
    ),
];

/// A volume's largest size here.
const LARGEST: u64 = 6 << 20;
const OTHER: &str = "w";

async fn reduced(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::on(crate::cluster::Cluster::start(&stage, Plan::simple(3, 40)));
    rig.create_pool((0..3).map(super::common::disk_of).collect()).await?;
    let layout = [Layout::Mirror(2), Layout::Mirror(3), Layout::Raid0][rig.below(3)];
    rig.create_volume(VOLUME, LARGEST, layout).await?;
    let mix = Mix { depth: 6, ..Mix::BUSY };
    for round in 0..4 {
        rig.load(mix).await?;
        rig.run_for(rig.between(100, 1500)).await;
        // A machine that wasn't there mustn't bring back what was given up.
        let away = (layout != Layout::Raid0 && rig.below(3) == 0).then(|| rig.below(3));
        if let Some(node) = away {
            rig.cluster.kill_node(node);
            rig.wait_out(node, Duration::from_secs(10)).await?;
            rig.run_for(rig.between(0, 500)).await;
        }
        let bytes = some_size(&rig, size_of(&rig)?);
        if rig.below(3) == 0 {
            reduce_and_die(&rig, bytes).await?;
        } else {
            reduce(&rig, bytes).await?;
            expect(size_of(&rig)? == bytes, || "it isn't as small as was asked for".to_string())?;
        }
        rig.load(mix).await?;
        rig.run_for(rig.between(0, 400)).await;
        if rig.below(2) == 0 {
            // What was given up is written by somebody else.
            rig.create_volume(OTHER, 1 << 20, Layout::Raid0).await?;
            rig.run_for(rig.between(0, 300)).await;
        }
        rig.quiet(CONVERGENCE_MAX).await?;
        if rig.below(3) == 0 {
            cut_and_start(&rig, 3).await?;
        } else if let Some(node) = away {
            rig.cluster.start_node(node);
        }
        // A volume grows on as many machines as it has copies.
        for node in 0..3 {
            rig.wait_in(node, CONVERGENCE_MAX).await?;
        }
        let now = size_of(&rig)?;
        grow(&rig, (now + BLOCK_BYTES as u64 * rig.below(1000) as u64).min(LARGEST)).await?;
        rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
        if rig.volumes().len() > 1 {
            rig.remove_volume(OTHER).await?;
        }
        if round < 3 {
            grow(&rig, LARGEST).await?;
        }
    }
    rig.converge().await
}

/// Two of three machines are gone for a while: half of what the log holds has nowhere to go.
async fn reduced_without_members(stage: Stage) -> Result<(), Failure> {
    let plan = Plan::simple(4, 24);
    let rig = Rig::start(&stage, plan, &[(VOLUME, LARGEST, Layout::Raid0)]).await?;
    let mix = Mix { depth: 6, ..Mix::default() };
    rig.load(mix).await?;
    rig.run_for(rig.between(100, 1000)).await;
    let node = rig.below(4);
    rig.cluster.kill_node(node);
    rig.run_for(rig.between(100, 6000)).await;
    let former = size_of(&rig)?;
    let bytes = some_size(&rig, former);
    let outcome = reduce(&rig, bytes).await;
    let now = size_of(&rig)?;
    match outcome {
        Ok(()) => expect(now == bytes, || format!("{now} bytes instead of {bytes}"))?,
        Err(_) => expect(now == former, || format!("refused, and {now} bytes now"))?,
    }
    rig.cluster.start_node(node);
    rig.wait_in(node, CONVERGENCE_MAX).await?;
    rig.run_for(rig.between(0, 1000)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    grow(&rig, LARGEST).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    rig.converge().await
}

/// Runs are cut, go and come while they have more positions than others, and while some are read for giving one up.
async fn reduced_while_converted(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 40), &[(VOLUME, LARGEST, Layout::Mirror(2))]).await?;
    let mix = Mix { depth: 6, ..Mix::BUSY };
    for _ in 0..3 {
        rig.load(mix).await?;
        rig.run_for(rig.between(100, 1500)).await;
        let layout = rig.volume_report(VOLUME).map(|volume| volume.layout);
        let others = [Layout::Raid0, Layout::Mirror(2), Layout::Mirror(3)]
            .into_iter()
            .filter(|other| layout.as_deref() != Some(&*other.to_string()));
        let others: Vec<Layout> = others.collect();
        let to = others[rig.below(others.len())];
        rig.convert(to).await?;
        for _ in 0..1 + rig.below(2) {
            rig.run_for(rig.between(0, 400)).await;
            let bytes = some_size(&rig, size_of(&rig)?);
            match rig.below(3) {
                0 => reduce_and_die(&rig, bytes).await?,
                _ => reduce(&rig, bytes).await?,
            }
            rig.load(mix).await?;
            rig.run_for(rig.between(0, 300)).await;
            if rig.below(2) == 0 {
                let more = BLOCK_BYTES as u64 * rig.below(1000) as u64;
                grow(&rig, (size_of(&rig)? + more).min(LARGEST)).await?;
            }
        }
        if rig.below(3) == 0 {
            rig.run_for(rig.between(0, 500)).await;
            cut_and_start(&rig, 4).await?;
        }
        rig.converted(to).await?;
        if to != Layout::Raid0 {
            lose_one_of(&rig, 4, "it has just another layout");
        }
        rig.quiet(CONVERGENCE_MAX).await?;
        grow(&rig, LARGEST).await?;
        rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    }
    rig.converge().await
}

/// Something smaller, in whole blocks: often within the last set of groups, or at its edge.
fn some_size(rig: &Rig, now: u64) -> u64 {
    let blocks = now / BLOCK_BYTES as u64;
    let less = match rig.below(3) {
        0 => rig.below(40) as u64,
        _ => rig.below(blocks as usize) as u64,
    };
    blocks.saturating_sub(less).max(1) * BLOCK_BYTES as u64
}

fn size_of(rig: &Rig) -> Result<u64, Failure> {
    let volume = rig.volume_report(VOLUME);
    volume.map(|volume| volume.size_bytes).ok_or_else(|| Failure("no volume".into()))
}

async fn cut_and_start(rig: &Rc<Rig>, nodes: usize) -> Result<(), Failure> {
    rig.cluster.cut_all_power();
    rig.forget_clients();
    (0..nodes).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.open(VOLUME).await.map(drop)
}

/// Where the volume ends, what lies beyond may be what it was, or zeros, as long as nobody asks.
fn ends_at(rig: &Rig, bytes: u64) {
    let record = rig.record(VOLUME);
    let now = rig.cluster.world().timeline().now();
    let (operation, _) = record.oracle().begin(Change::Discard, between(bytes, LARGEST), now);
    let _ = record.oracle().acknowledge(operation, now);
}

fn between(from_bytes: u64, to_bytes: u64) -> SectorRange {
    let [from, to] = [from_bytes, to_bytes].map(|bytes| bytes / SECTOR_BYTES as u64);
    SectorRange::new(Lba(from), to.saturating_sub(from))
}

/// Makes the volume smaller.
async fn reduce(rig: &Rc<Rig>, bytes: u64) -> Result<(), Failure> {
    ends_at(rig, bytes);
    let inside = Rc::clone(rig);
    rig.with(|engine| async move {
        let reduced = engine.reduce_volume(POOL, VOLUME, bytes).await;
        if reduced.is_ok() {
            ends_at(&inside, bytes);
        }
        reduced
    })
    .await
    .map(drop)
}

/// The supervisor dies while it is made smaller, or right after.
async fn reduce_and_die(rig: &Rc<Rig>, bytes: u64) -> Result<(), Failure> {
    rig.cluster.director().spawn({
        let rig = Rc::clone(rig);
        async move { reduce(&rig, bytes).await.map_or((), drop) }
    });
    rig.run_for(rig.between(0, 60)).await;
    rig.restart_supervisor(rig.between(1, 500)).await;
    rig.open(VOLUME).await?;
    ends_at(rig, size_of(rig)?);
    Ok(())
}

/// Makes the volume larger: what comes is zeros.
async fn grow(rig: &Rc<Rig>, bytes: u64) -> Result<(), Failure> {
    let record = rig.record(VOLUME);
    let now = || rig.cluster.world().timeline().now();
    // Beyond its new end nothing is promised as ever: that is zeroed when it grows again (14.5).
    let grown = between(size_of(rig)?, bytes);
    let (operation, _) = record.oracle().begin(Change::Zero, grown, now());
    let size = VolumeSize::Bytes(bytes);
    rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await?;
    record.oracle().acknowledge(operation, now()).map_err(|why| Failure(why.to_string()))
}

/// To less, and to what it was.
pub(super) async fn there_and_back(rig: Rc<Rig>) -> Result<(), Failure> {
    reduce(&rig, (1 << 20) + BLOCK_BYTES as u64).await?;
    write_some_within(&rig).await?;
    to_full_size(&rig).await?;
    write_some(&rig, 2).await
}

async fn write_some_within(rig: &Rig) -> Result<(), Failure> {
    let range = SectorRange::new(Lba(rig.below(100) as u64 * 8), 16);
    let write = |watched: crate::workload::Watched| async move {
        watched.change(Change::Write, range).await
    };
    rig.on_volume(VOLUME, write).await??;
    Ok(())
}

/// What an administrator does who doesn't know how far it came.
pub(super) async fn to_full_size(rig: &Rc<Rig>) -> Result<(), Failure> {
    rig.open(VOLUME).await?;
    if size_of(rig)? < 2 << 20 {
        grow(rig, 2 << 20).await?;
    }
    Ok(())
}
