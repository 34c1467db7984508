//! What operations do that a crash is to come into: how each is prepared, and its act.

use std::rc::Rc;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use pool::engine::{ExtendPool, ImportOptions, VolumeSize};
use pool::metadata::Layout;

use super::common::{POOL, Rig, VOLUME};
use super::damage::places_of;
use crate::cluster::{Cluster, Plan};
use crate::oracle::Change;
use crate::runner::{Failure, Stage};

pub(super) async fn write_some(rig: &Rig, count: usize) -> Result<(), Failure> {
    for _ in 0..count {
        let start = Lba(rig.below(400) as u64 * BLOCK_SECTORS);
        let range = SectorRange::new(start, BLOCK_SECTORS * (1 + rig.below(3) as u64));
        let write = |watched: crate::workload::Watched| async move {
            watched.change(Change::Write, range).await
        };
        rig.on_volume(VOLUME, write).await??;
    }
    Ok(())
}

pub(super) fn plan() -> Plan {
    Plan { supervisors: 2, ..Plan::simple(3, 24) }
}

/// A pool with something in place and something in the log.
pub(super) async fn base(stage: Stage) -> Result<Rc<Rig>, Failure> {
    base_of(stage, plan()).await
}

pub(super) async fn base_of(stage: Stage, plan: Plan) -> Result<Rc<Rig>, Failure> {
    let rig = Rig::start(&stage, plan, &[(VOLUME, 2 << 20, Layout::Mirror(2))]).await?;
    write_some(&rig, 6).await?;
    rig.in_place(VOLUME).await?;
    write_some(&rig, 4).await?;
    Ok(rig)
}

pub(super) fn disk_names(rig: &Rig) -> Vec<String> {
    rig.cluster.disks().into_iter().map(|(name, _)| name).collect()
}

pub(super) async fn prepare_create(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = Rig::on(Cluster::start(&stage, plan()));
    rig.see_disks(3).await?;
    Ok(rig)
}

pub(super) async fn create(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.create_pool(disk_names(&rig)).await?;
    rig.create_volume(VOLUME, 2 << 20, Layout::Mirror(2)).await?;
    write_some(&rig, 2).await
}

pub(super) async fn prepare_extend(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    rig.cluster.add_node(&[24 << 20; ADDED.len()]);
    rig.see_disks(3 + ADDED.len()).await?;
    Ok(rig)
}

/// The disks that the pool is extended by.
pub(super) const ADDED: [&str; 4] = ["e4.0", "e4.1", "e4.2", "e4.3"];

pub(super) async fn extend(rig: Rc<Rig>) -> Result<(), Failure> {
    let disks = ADDED.map(str::to_owned);
    rig.with(|engine| async move { engine.extend_pool(POOL, &ExtendPool::of(&disks)).await })
        .await?;
    let size = VolumeSize::Bytes(5 << 20);
    rig.with(|engine| async move { engine.extend_volume(POOL, VOLUME, size).await }).await?;
    write_some(&rig, 2).await
}

pub(super) async fn prepare_import(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    if rig.below(3) == 0 {
        rig.with(|engine| async move { engine.release_pool(POOL).await }).await?;
    }
    rig.cluster.kill_supervisor(0);
    rig.cluster.start_supervisor(1);
    rig.set_active(1);
    rig.see_disks(3).await?;
    Ok(rig)
}

pub(super) async fn import(rig: Rc<Rig>) -> Result<(), Failure> {
    let options = ImportOptions { force: true, ..ImportOptions::default() };
    rig.with(|engine| async move { engine.import_pool(POOL, options).await }).await?;
    rig.open(VOLUME).await.map(drop)
}

pub(super) async fn prepare_takeover(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    rig.cluster.kill_supervisor(0);
    Ok(rig)
}

pub(super) async fn takeover(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.cluster.start_supervisor(0);
    rig.open(VOLUME).await.map(drop)
}

pub(super) async fn prepare_destage(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    rig.in_place(VOLUME).await?;
    write_some(&rig, 3).await?;
    Ok(rig)
}

/// More than a segment takes.
pub(super) async fn switch(rig: Rc<Rig>) -> Result<(), Failure> {
    for piece in 0..10 {
        let range = SectorRange::new(Lba(piece * 128), 128);
        let write = |watched: crate::workload::Watched| async move {
            watched.change(Change::Write, range).await
        };
        rig.on_volume(VOLUME, write).await??;
    }
    Ok(())
}

/// Rot on one disk that nobody has seen yet.
pub(super) async fn rotten(stage: Stage) -> Result<Rc<Rig>, Failure> {
    let rig = base(stage).await?;
    rig.in_place(VOLUME).await?;
    rig.cluster.kill_supervisor(0);
    let sectors = rig.record(VOLUME).oracle().written_sectors();
    let disks = (0..3).map(|node| Rc::clone(&rig.cluster.node(node).disks()[0]));
    let holders: Vec<_> = disks.filter(|disk| !places_of(disk, sectors[0]).is_empty()).collect();
    let disk = &holders[rig.below(holders.len())];
    for _ in 0..12 {
        for place in places_of(disk, sectors[rig.below(sectors.len())]) {
            disk.flip_byte(place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64, 1);
        }
    }
    rig.cluster.start_supervisor(0);
    rig.open(VOLUME).await?;
    // While the machine with the other copy is away.
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), u64::MAX / 2));
    Ok(rig)
}

pub(super) async fn read_all(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.on_volume(VOLUME, |watched| async move { watched.read_all().await }).await??;
    Ok(())
}

pub(super) async fn verify(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.with(|engine| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await })
        .await
        .map(drop)
}

pub(super) async fn remove(rig: Rc<Rig>) -> Result<(), Failure> {
    rig.uncertain_volume(VOLUME);
    rig.with(|engine| async move { engine.remove_volume(POOL, VOLUME).await }).await?;
    rig.adopt_volumes()
}

/// Metadata transactions until their log begins anew.
pub(super) async fn properties(rig: Rc<Rig>) -> Result<(), Failure> {
    // So long that the log is full before the last.
    for value in (0..300).map(|number| format!("{number:06000}")) {
        rig.with(|engine| async move { engine.set_property(POOL, VOLUME, "k", Some(value)).await })
            .await?;
    }
    Ok(())
}
