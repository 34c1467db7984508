//! Volumes that get more copies or fewer while they are used, and pools in which data moves so that free space can
//! be used; with what is lost, cut or back meanwhile. Status never claims more than each group has at that moment.

use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::ExtendPool;
use pool::engine::{PoolSettings, VolumeSize};
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, EXTENT_BYTES, POOL, Rig, VOLUME, expect};
use super::damage::{mend_every_copy, places_of};
use super::in_place::{change, free, primed_with};
use super::jobs::{disturb_some, lose_one_of};
use super::losses::lose_disks;
use super::operations::{base_of, write_some};
use super::scenario;
use crate::cluster::Plan;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "convert-to-more",
        "a volume gets a copy more under load, grows meanwhile, machines and processes go; then it survives more",
        600,
        |stage| to_more(stage).boxed_local(),
    ),
    scenario(
        "convert-to-fewer",
        "a volume gets a copy less under load, after a machine was behind; no copy goes that is needed",
        600,
        |stage| to_fewer(stage).boxed_local(),
    ),
    scenario(
        "convert-and-back",
        "conversions are begun, taken back and begun again while machines and processes go",
        600,
        |stage| and_back(stage).boxed_local(),
    ),
    scenario(
        "convert-what-rots",
        "what is to stay of a mirror rotted unseen: it is made right before the other copy is given up",
        400,
        |stage| what_rots(stage).boxed_local(),
    ),
    scenario(
        "convert-what-rots-early",
        "what was written in its place, and is in no checksum block yet, rots on one disk: no other copy of it is \
         given up",
        400,
        |stage| rots_early(stage).boxed_local(),
    ),
    scenario(
        "convert-not-after-all",
        "a volume is to get copies less, and then it isn't: once it is said to be what it was, it is",
        400,
        |stage| not_after_all(stage).boxed_local(),
    ),
    scenario(
        "convert-under-large-writes",
        "a volume gets a copy less while large writes to its places never end",
        400,
        |stage| under_large_writes(stage).boxed_local(),
    ),
    scenario(
        "convert-striped",
        "a striped volume becomes a mirror and striped again, writing large and small",
        600,
        |stage| striped(stage).boxed_local(),
    ),
    scenario(
        "rebalance",
        "a full pool gets one more machine: what is free there can be used, by a job that nobody asked for or \
         somebody did, whatever goes meanwhile",
        600,
        |stage| rebalance(stage).boxed_local(),
    ),
];

impl Rig {
    /// Has the volume get another layout.
    pub async fn convert(&self, layout: Layout) -> Result<(), Failure> {
        let asked = |engine: Rc<pool::engine::Engine>| async move {
            engine.convert_volume(POOL, VOLUME, layout, false).await
        };
        self.with(asked).await.map(drop)
    }

    /// Waits until the volume has a layout, and nothing of it changes any more.
    pub async fn converted(&self, layout: Layout) -> Result<(), Failure> {
        let is_it = || {
            let volume = self.volume_report(VOLUME);
            volume.is_some_and(|volume| {
                volume.layout == layout.to_string() && volume.converting_to.is_none()
            }) && !self.has_job()
        };
        let waited =
            self.cluster.wait_for("the layout is what it is to be", CONVERGENCE_MAX, is_it);
        waited
            .await
            .map(drop)
            .map_err(|failure| Failure(format!("{}\nlast report: {:#?}", failure.0, self.report())))
    }
}

/// In a fork, two machines at once are lost for good, if status says that all survives that.
fn lose_two_of(rig: &Rig, nodes: usize, what: &str) {
    if rig.report().is_some_and(|report| report.lease_ok && report.survives >= 2) {
        let first = rig.below(nodes);
        let second = (first + 1 + rig.below(nodes - 1)) % nodes;
        lose_disks(rig, [(first, 0), (second, 0)].into(), what, rig.cluster.any_survival());
    }
}

async fn extend_volume(rig: &Rig, bytes: u64) -> Result<(), Failure> {
    let size = VolumeSize::Bytes(bytes);
    rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await.map(drop)
}

async fn to_more(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    rig.convert(Layout::Mirror(3)).await?;
    let disturbs = rig.below(3) > 0;
    if disturbs {
        if rig.below(2) == 0 {
            rig.run_for(rig.between(1, 300)).await;
            extend_volume(&rig, 5 << 20).await?;
        }
        disturb_some(&rig, 1500, "while it gets a copy more").await?;
        rig.cluster.heal();
    }
    // What it says to be it is, at that very moment.
    let begin = rig.cluster.world().timeline().now();
    loop {
        lose_one_of(&rig, 5, "while it is converted");
        let report = rig.report().ok_or(Failure("no pool".into()))?;
        let layout = report.volumes.first().map(|volume| volume.layout.clone());
        if layout.as_deref() == Some("mirror:3") {
            let is_whole = disturbs || report.survives >= 2;
            expect(is_whole, || format!("it is a mirror of three, and survives: {report:#?}"))?;
            break;
        }
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || format!("it isn't converted: {report:#?}"))?;
        rig.run_for(Duration::from_millis(50)).await;
    }
    lose_two_of(&rig, 5, "it has just become a mirror of three");
    rig.converted(Layout::Mirror(3)).await?;
    rig.converge().await?;
    let survives = rig.report().map_or(0, |report| report.survives);
    expect(survives >= 2, || format!("survives {survives} at rest"))?;
    lose_two_of(&rig, 5, "at rest");
    Ok(())
}

async fn to_fewer(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 5 << 20, Layout::Mirror(3))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 3000)).await;
    // One of them is behind, and back, with a lot to catch up.
    let away = rig.one_of_the_fullest(4);
    rig.cluster.kill_node(away);
    rig.wait_out(away, Duration::from_secs(20)).await?;
    rig.run_for(rig.between(500, 3000)).await;
    rig.convert(Layout::Mirror(2)).await?;
    rig.cluster.start_node(away);
    rig.wait_in(away, CONVERGENCE_MAX).await?;
    let begin = rig.cluster.world().timeline().now();
    while rig.has_job() {
        // Nothing fails, so two of the copies that there were stay whole. (That the votes hear of a configuration
        // one after the other is another matter.)
        let report = rig.report();
        let volumes = report.iter().flat_map(|report| &report.volumes);
        let survives = volumes.map(|volume| volume.survives_nodes).min().unwrap_or(1);
        expect(survives >= 1, || format!("a copy goes that is needed: {report:#?}"))?;
        lose_one_of(&rig, 4, "while it gets a copy less");
        rig.run_for(rig.between(1, 100)).await;
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || format!("it isn't converted: {:#?}", rig.report()))?;
    }
    rig.converted(Layout::Mirror(2)).await?;
    lose_one_of(&rig, 4, "it has just become a mirror of two");
    rig.converge().await?;
    lose_one_of(&rig, 4, "at rest");
    Ok(())
}

async fn and_back(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    for _ in 0..3 {
        let to = match rig.below(3) {
            0 => Layout::Mirror(4),
            _ => Layout::Mirror(3),
        };
        // It may be that already.
        if rig.convert(to).await.is_err() {
            continue;
        }
        rig.run_for(rig.between(1, 2000)).await;
        if rig.below(2) == 0 {
            disturb_some(&rig, 1000, "while it is converted").await?;
        }
        if rig.below(2) == 0 {
            rig.cancel_jobs().await?;
            rig.run_for(rig.between(1, 1000)).await;
            lose_one_of(&rig, 5, "a conversion is taken back");
        }
    }
    rig.cluster.heal();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    let report = rig.volume_report(VOLUME).ok_or(Failure("no volume".into()))?;
    expect(report.converting_to.is_none(), || format!("{report:?}"))?;
    rig.converge().await?;
    lose_one_of(&rig, 5, "at rest");
    Ok(())
}

async fn what_rots(stage: Stage) -> Result<(), Failure> {
    let layout =
        if stage.world.seed().is_multiple_of(2) { Layout::Mirror(2) } else { Layout::Mirror(3) };
    let rig = Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 2 << 20, layout)]).await?;
    write_some(&rig, 20).await?;
    rig.in_place(VOLUME).await?;
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    // Each row of one machine's, so that what is right of it is elsewhere.
    let rots = rig.one_of_the_fullest(3);
    let disk = Rc::clone(&rig.cluster.node(rots).disks()[0]);
    for _ in 0..12 {
        for place in places_of(&disk, sectors[rig.below(sectors.len())]) {
            disk.flip_byte(place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64, 1);
        }
    }
    let fewer = Layout::with_copies(layout.copies() - 1);
    rig.convert(fewer).await?;
    if rig.below(2) == 0 {
        rig.run_for(rig.between(1, 500)).await;
        rig.restart_supervisor(rig.between(1, 500)).await;
    }
    rig.converted(fewer).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    rig.converge().await
}

async fn rots_early(stage: Stage) -> Result<(), Failure> {
    let copies = if stage.world.seed().is_multiple_of(2) { 2 } else { 3 };
    let rig = primed_with(&stage, Plan::simple(4, 64), copies).await?;
    let fewer = Layout::with_copies(copies - 1);
    let mut ranges = Vec::new();
    for _ in 0..3 {
        ranges.push(free(&rig).await?);
    }
    let is_begun = rig.below(2) == 0;
    if is_begun {
        rig.convert(fewer).await?;
        rig.run_for(rig.between(0, 900)).await;
    }
    let mut rots_afterwards = false;
    let rots = rig.below(4);
    let disk = Rc::clone(&rig.cluster.node(rots).disks()[0]);
    for range in ranges {
        change(&rig, Change::Write, range).await?;
        rots_afterwards |= is_begun && !rig.has_job();
        for sector in (range.start.0..range.end().0).step_by(1 + rig.below(20)) {
            for place in places_of(&disk, sector) {
                disk.flip_byte(place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64, 1);
            }
        }
        rig.run_for(rig.between(0, 200)).await;
    }
    // It may be on its way.
    let _ = rig.convert(fewer).await;
    rig.converted(fewer).await?;
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    if rots_afterwards {
        // A copy that nobody reads isn't known to be wrong.
        mend_every_copy(&rig).await?;
    }
    rig.converge().await
}

async fn not_after_all(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(5, 32), &[(VOLUME, 3 << 20, Layout::Mirror(3))]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.convert([Layout::Raid0, Layout::Mirror(2)][rig.below(2)]).await?;
    rig.run_for(rig.between(1, 600)).await;
    match rig.below(2) {
        0 => rig.cancel_jobs().await?,
        // It may be done by now.
        _ => drop(rig.convert(Layout::Mirror(3)).await),
    }
    let begin = rig.cluster.world().timeline().now();
    loop {
        if rig.below(16) == 0 {
            lose_one_of(&rig, 5, "it is to have what it had");
        }
        let report = rig.report().ok_or(Failure("no pool".into()))?;
        let volume = report.volumes.first().ok_or(Failure("no volume".into()))?;
        let claimed = volume.layout.parse::<Layout>().map_or(0, |layout| layout.copies());
        if volume.converting_to.is_none() {
            let survives = volume.survives_disks.min(volume.survives_nodes);
            let is_so = survives + 1 >= u32::from(claimed);
            expect(is_so, || format!("it is said to have {claimed} copies: {report:#?}"))?;
            break;
        }
        let took = rig.cluster.world().timeline().now().since(begin);
        expect(took < CONVERGENCE_MAX, || format!("it isn't converted: {report:#?}"))?;
        rig.run_for(Duration::from_millis(5)).await;
    }
    lose_two_of(&rig, 5, "it has again what it had");
    rig.converge().await
}

async fn under_large_writes(stage: Stage) -> Result<(), Failure> {
    let rig = primed_with(&stage, Plan::simple(4, 64), 3).await?;
    let mix = Mix {
        depth: 6,
        writes: 100,
        zeroes: 0,
        discards: 0,
        flushes: 0,
        large: 100,
        think: Duration::from_millis(2),
        ..Mix::BUSY
    };
    rig.load(mix).await?;
    rig.run_for(rig.between(100, 1000)).await;
    rig.convert(Layout::Mirror(2)).await?;
    rig.converted(Layout::Mirror(2)).await?;
    rig.converge().await
}

async fn striped(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(4, 32), &[(VOLUME, 3 << 20, Layout::Raid0)]).await?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.convert(Layout::Mirror(2)).await?;
    for _ in 0..rig.below(3) {
        rig.run_for(rig.between(1, 1000)).await;
        let range = SectorRange::new(Lba(512 * rig.below(8) as u64), 256);
        let write = |watched: Watched| async move { watched.change(Change::Write, range).await };
        rig.on_volume(VOLUME, write).await??;
        if rig.below(3) == 0 {
            rig.restart_supervisor(rig.between(1, 1000)).await;
            rig.load(Mix::BUSY).await?;
        }
    }
    rig.converted(Layout::Mirror(2)).await?;
    lose_one_of(&rig, 4, "it has just become a mirror");
    rig.converge().await?;
    lose_one_of(&rig, 4, "at rest");
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(100, 1000)).await;
    rig.convert(Layout::Raid0).await?;
    rig.converted(Layout::Raid0).await?;
    rig.converge().await
}

async fn rebalance(stage: Stage) -> Result<(), Failure> {
    let by_itself = !stage.world.seed().is_multiple_of(3);
    let rig = Rig::start(&stage, Plan::simple(3, 16), &[]).await?;
    if !by_itself {
        let settings = PoolSettings { auto_rebalance: Some(false), ..PoolSettings::default() };
        rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await?;
    }
    let size = VolumeSize::PercentFree(100);
    let made = rig.with(|engine| async move {
        engine.create_volume(POOL, VOLUME, size, Layout::Mirror(2)).await
    });
    let had = made.await?.size_bytes;
    rig.adopt_volumes()?;
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(500, 2000)).await;
    rig.cluster.add_node(&[16 << 20]);
    rig.see_disks(4).await?;
    let added = ["e4.0".to_string()];
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    let size = VolumeSize::Bytes(had + (1 << 20));
    let grown =
        rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await;
    let Err(Failure(refused)) = grown else {
        return Err(Failure("space on one machine was paired".into()));
    };
    expect(refused.contains("pool rebalance"), || format!("no remedy: {refused}"))?;
    match by_itself {
        true => {
            let begun = || rig.has_job();
            rig.cluster.wait_for("it begins by itself", Duration::from_secs(40), begun).await?;
        }
        false => {
            rig.run_for(Duration::from_secs(15)).await;
            expect(!rig.has_job(), || "it begins though that is switched off".to_owned())?;
            rig.with(|engine| async move { engine.rebalance_pool(POOL, false).await }).await?;
        }
    }
    match rig.below(3) {
        0 => {
            // Nothing fails, so nothing may have fewer copies for a moment.
            let mut looks = 0;
            while rig.has_job() && looks < 1000 {
                let survives = rig.report().map_or(1, |report| report.survives);
                expect(survives >= 1, || "a rebalance takes a copy away".to_owned())?;
                rig.run_for(rig.between(1, 200)).await;
                looks += 1;
            }
        }
        _ => disturb_some(&rig, 2500, "while it is rebalanced").await?,
    }
    rig.cluster.heal();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    lose_one_of(&rig, 4, "it is rebalanced");
    // Of what the new machine has half can be had, but for what logs and metadata take.
    let report = rig.report().ok_or(Failure("no pool".into()))?;
    let spread = report.disks.iter().map(|disk| disk.free_bytes);
    let (least, most) = (spread.clone().min().unwrap_or(0), spread.max().unwrap_or(0));
    expect(most - least < 16 * EXTENT_BYTES, || format!("disks differ: {:#?}", report.disks))?;
    let size = VolumeSize::Bytes(had + (1 << 20));
    rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await?;
    rig.converge().await?;
    let again = rig.with(|engine| async move { engine.rebalance_pool(POOL, true).await }).await?;
    let bytes = again.bytes;
    expect(bytes <= 32 * EXTENT_BYTES, || format!("{bytes} bytes are to be moved again"))?;
    lose_one_of(&rig, 4, "at rest");
    Ok(())
}

/// A volume that is to have a copy more.
pub(super) async fn to_be_converted(stage: Stage) -> Result<Rc<Rig>, Failure> {
    base_of(stage, Plan { supervisors: 2, ..Plan::simple(4, 24) }).await
}

pub(super) async fn converted(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.convert(Layout::Mirror(3)).await?;
    write_some(&rig, 3).await?;
    rig.jobs_done(CONVERGENCE_MAX).await
}

/// A volume that has a copy more than it is to have.
pub(super) async fn to_be_thinned(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = to_be_converted(stage).await?;
    converted(Rc::clone(&rig)).await?;
    Ok(rig)
}

pub(super) async fn thinned(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.convert(Layout::Mirror(2)).await?;
    write_some(&rig, 3).await?;
    rig.jobs_done(CONVERGENCE_MAX).await
}

/// A full pool that has space on one machine.
pub(super) async fn to_be_rebalanced(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base_of(stage, Plan { supervisors: 2, ..Plan::simple(3, 16) }).await?;
    let settings = PoolSettings { auto_rebalance: Some(false), ..PoolSettings::default() };
    rig.with(|engine| async move { engine.set_pool(POOL, &settings).await }).await?;
    let size = VolumeSize::PercentFree(100);
    rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await?;
    rig.cluster.add_node(&[16 << 20]);
    rig.see_disks(4).await?;
    let added = ["e4.0".to_string()];
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&added)).await })
        .await?;
    Ok(rig)
}

pub(super) async fn rebalanced(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.with(|engine| async move { engine.rebalance_pool(POOL, false).await }).await?;
    write_some(&rig, 3).await?;
    rig.jobs_done(CONVERGENCE_MAX).await
}
