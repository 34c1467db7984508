//! Disks that make it hard to bring others what they lack: the rest of the pool goes on, and is served.

use std::rc::Rc;
use std::time::Duration;

use block::{Lba, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;
use pool::{DiskState, PoolDisk};

use super::common::{CONVERGENCE_MAX, Rig, VOLUME, disk_of, expect};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency, WriteBack};
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::{Mix, Watched};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "rebuild-flush-fails",
        "a flush of a disk that takes copies fails: it is out until it is reopened, and isn't copied to for ever",
        400,
        |stage| rebuild_without_flush(stage, Flush::Fails).boxed_local(),
    ),
    scenario(
        "rebuild-flush-hangs",
        "flushes of a disk that takes copies are never answered: it is out, and the others get what is lacked",
        400,
        |stage| rebuild_without_flush(stage, Flush::Hangs).boxed_local(),
    ),
    scenario(
        "rebuild-flush-slow",
        "a disk that takes copies writes its large cache back slowly: nobody who writes waits for that",
        400,
        |stage| rebuild_beside_slow_flush(stage).boxed_local(),
    ),
    scenario(
        "rebuild-credited",
        "disks that write their large caches back slowly take copies, and one comes back amid that: what the metadata \
         says of them at any moment a power cut would leave",
        400,
        |stage| rebuild_credited(stage).boxed_local(),
    ),
    scenario(
        "resync-beside-older",
        "a disk came back with older contents of which others can't tell: what another one missed is copied \
         meanwhile",
        400,
        |stage| resync_beside_older(stage).boxed_local(),
    ),
];

/// Longest that a disk whose flushes aren't answered keeps its place while others get copies: what background work
/// may take, and some for an eviction.
const OUT_WITHIN: Duration = Duration::from_secs(12);
/// Longest that somebody who writes waits for a disk that flushes slowly: for two flushes, of what is copied and of what
/// is destaged, and for what he and others wrote themselves.
const WRITE_MAX: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Fails,
    Hangs,
}

impl Rig {
    fn only_disk(&self, node: usize) -> Rc<Disk> {
        self.cluster.node(node).disks()[0].clone()
    }

    /// Writes all of a volume once, and waits until it is in place.
    async fn fill(&self, name: &str, size_bytes: u64) -> Result<(), Failure> {
        let sectors = 256;
        for piece in 0..size_bytes / 512 / sectors {
            let range = SectorRange::new(Lba(piece * sectors), sectors);
            let write =
                |watched: Watched| async move { watched.change(Change::Write, range).await };
            self.on_volume(name, write).await??;
        }
        self.in_place(name).await
    }

    fn disk_is(&self, node: usize, is_so: impl Fn(&PoolDisk) -> bool) -> bool {
        let disks = self.report().map_or_else(Vec::new, |report| report.disks);
        disks.iter().any(|disk| disk.name == disk_of(node) && is_so(disk))
    }

    fn is_disk_out(&self, node: usize) -> bool {
        self.disk_is(node, |disk| disk.state != DiskState::Usable)
    }

    fn has_all(&self, node: usize) -> bool {
        self.disk_is(node, |disk| disk.dirty_bytes == 0)
    }
}

/// Nobody but the rebuild asks the disk for a flush.
async fn rebuild_without_flush(stage: Stage, flush: Flush) -> Result<(), Failure> {
    let size_bytes = 12 << 20;
    let volumes = [(VOLUME, size_bytes, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(5, 32), &volumes).await?;
    rig.fill(VOLUME, size_bytes).await?;
    rig.set_rebuild_delay(1).await?;
    let lost = rig.one_of_the_fullest(2);
    let others: Vec<usize> = (0..5).filter(|node| *node != lost).collect();
    let victim = others[rig.below(others.len())];
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    match flush {
        Flush::Fails => rig.only_disk(victim).fail_flushes(1),
        Flush::Hangs => rig.only_disk(victim).set_write_back(WriteBack::Never),
    }
    rig.cluster.wait_for("a rebuild begins", Duration::from_secs(30), || rig.has_job()).await?;
    let is_over = || rig.is_disk_out(victim) || !rig.has_job();
    rig.cluster.wait_for("it is out, or had nothing to take", OUT_WITHIN, is_over).await?;
    let before = rig.only_disk(victim).counters().written_bytes;
    rig.run_for(rig.between(100, 4000)).await;
    let after = rig.only_disk(victim).counters().written_bytes;
    let written = after - before;
    expect(written < size_bytes, || format!("{written} bytes more were written to it"))?;
    rig.cluster.kill_node(victim);
    rig.only_disk(victim).heal();
    rig.cluster.start_node(victim);
    rig.jobs_done(CONVERGENCE_MAX).await?;
    rig.converge().await
}

async fn rebuild_beside_slow_flush(stage: Stage) -> Result<(), Failure> {
    let size_bytes = 128 << 20;
    let volumes = [(VOLUME, size_bytes, Layout::Mirror(2))];
    let rig = Rig::start(&stage, Plan::simple(4, 320), &volumes).await?;
    rig.fill(VOLUME, size_bytes).await?;
    rig.set_rebuild_delay(3).await?;
    let lost = rig.one_of_the_fullest(2);
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    // Less than the slow disk can write back by itself.
    let mix = Mix {
        depth: 4,
        writes: 90,
        sectors_max: 64,
        think: Duration::from_millis(100),
        ..Mix::default()
    };
    rig.load(mix).await?;
    let others: Vec<usize> = (0..4).filter(|node| *node != lost).collect();
    let slow = others[rig.below(others.len())];
    rig.only_disk(slow).set_write_back(WriteBack::BytesPerSecond(2_500_000));
    rig.cluster.wait_for("a rebuild begins", Duration::from_secs(30), || rig.has_job()).await?;
    rig.record(VOLUME).forget_waits();
    rig.jobs_done(CONVERGENCE_MAX).await?;
    let wait = rig.record(VOLUME).longest_wait();
    expect(wait < WRITE_MAX, || format!("an operation waited {wait:?}"))?;
    expect(!rig.is_disk_out(slow), || "a disk is out because it is slow".to_owned())?;
    rig.converge().await
}

/// Nobody writes, so that nothing but a copy that isn't durable explains that a disk lacks what it is credited with.
async fn rebuild_credited(stage: Stage) -> Result<(), Failure> {
    let (nodes, size_bytes) = (6, 6 << 20);
    let volumes = [(VOLUME, size_bytes, Layout::Mirror(3))];
    let rig = Rig::start(&stage, Plan::simple(nodes, 32), &volumes).await?;
    rig.fill(VOLUME, size_bytes).await?;
    let lost = rig.one_of_the_fullest(2);
    let behind = (lost + 1 + rig.below(nodes - 1)) % nodes;
    rig.cluster.kill_node(behind);
    rig.wait_out(behind, Duration::from_secs(20)).await?;
    rig.fill(VOLUME, size_bytes).await?;
    rig.cluster.kill_node(lost);
    rig.wait_out(lost, Duration::from_secs(20)).await?;
    let latency = Latency { base: rig.between(5, 60), ..Latency::FAST };
    for node in (0..nodes).filter(|node| *node != lost) {
        let rate = (1 + rig.below(4) as u64) << 19;
        rig.only_disk(node).set_write_back(WriteBack::BytesPerSecond(rate));
        rig.only_disk(node).set_latency(latency);
    }
    rig.set_rebuild_delay(1).await?;
    rig.cluster.wait_for("a rebuild begins", Duration::from_secs(30), || rig.has_job()).await?;
    let back_in = rig.between(0, 1200);
    let begun = rig.cluster.world().timeline().now();
    while rig.has_job() || !rig.has_all(behind) {
        rig.count_credited_now()?;
        rig.run_for(rig.between(10, 150)).await;
        let passed = rig.cluster.world().timeline().now().since(begun);
        if passed > back_in {
            rig.cluster.start_node(behind);
        }
        expect(passed < CONVERGENCE_MAX, || format!("not rebuilt: {:#?}", rig.report()))?;
    }
    rig.converge().await
}

/// What one disk alone has is old, so it is judged again and again, each time for long.
async fn resync_beside_older(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { checksum_bytes: Some(16 << 10), ..Plan::simple(4, 64) };
    let (size_bytes, alone) = (24 << 20, "s");
    let volumes = [(VOLUME, size_bytes, Layout::Mirror(2)), (alone, 16 << 20, Layout::Raid0)];
    let rig = Rig::start(&stage, plan, &volumes).await?;
    rig.fill(VOLUME, size_bytes).await?;
    rig.fill(alone, 16 << 20).await?;
    let images: Vec<_> = (0..4).map(|node| rig.only_disk(node).snapshot()).collect();
    let written = |node: usize| rig.only_disk(node).counters().written_bytes;
    let before: Vec<u64> = (0..4).map(written).collect();
    rig.fill(alone, 16 << 20).await?;
    // Not one that has the log as well: without its newest contents it isn't taken in at all.
    let Some(older) = (0..4).min_by_key(|node| written(*node) - before[*node]) else {
        return Err(Failure::from("there is no disk"));
    };
    let change_to = |image| {
        rig.cluster.kill_node(older);
        let before = rig.only_disk(older).snapshot();
        rig.only_disk(older).roll_back(image);
        rig.cluster.start_node(older);
        before
    };
    let newest = change_to(images[older].clone());
    rig.record(alone).expect_unreadable(SectorRange::new(Lba(0), 32768));
    let is_older = || rig.disk_is(older, |disk| disk.state == DiskState::RolledBack);
    rig.cluster.wait_for("it is seen to be older", Duration::from_secs(20), is_older).await?;
    // Whoever is taken in is behind once that is committed.
    rig.run_for(Duration::from_secs(2)).await;
    rig.cluster.wait_for("it has what others have", CONVERGENCE_MAX, || rig.has_all(older)).await?;
    let misses = (older + 1 + rig.below(3)) % 4;
    rig.cluster.kill_node(misses);
    rig.wait_out(misses, Duration::from_secs(20)).await?;
    rig.fill(VOLUME, 1 << 20).await?;
    let long = Latency { base: Duration::from_millis(120), ..Latency::SLOW };
    (0..4).for_each(|node| rig.only_disk(node).set_latency(long));
    rig.cluster.start_node(misses);
    rig.wait_in(misses, Duration::from_secs(40)).await?;
    let has_all = || rig.has_all(misses);
    let waited = rig.cluster.wait_for("what it missed is copied", Duration::from_secs(40), has_all);
    waited.await?;
    (0..4).for_each(|node| rig.only_disk(node).set_latency(Latency::FAST));
    change_to(newest);
    rig.record(alone).expect_readable();
    rig.converge().await
}
