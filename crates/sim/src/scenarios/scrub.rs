//! Scrubs: what rots on one disk while nobody reads it is right again when a scrub is done, whatever went meanwhile.

use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::engine::PoolSettings;
use pool::metadata::Layout;
use pool::{JobState, ScrubReport};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::damage::places_of;
use super::scenario;
use crate::cluster::Plan;
use crate::count::Count;
use crate::disk::{Disk, Part};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "scrub",
    "blocks, checksums, a label and a vote of one disk rot while it is used: a scrub that is interrupted mends all of it",
    600,
    |stage| scrub(stage).boxed_local(),
)];

impl Rig {
    /// Begins a scrub that reads so much per second.
    async fn begin_scrub(&self, rate: Option<u64>) -> Result<u32, Failure> {
        let settings = PoolSettings { scrub_rate_bytes: Some(rate), ..PoolSettings::default() };
        self.with(move |engine| async move { engine.scrub_pool(POOL, &settings).await }).await
    }

    /// Waits until it is done.
    async fn scrubbed(&self) -> Result<ScrubReport, Failure> {
        let is_done = || {
            let report = self.report();
            report.is_some_and(|report| report.lease_ok && report.jobs.is_empty())
        };
        self.cluster.wait_for("the scrub is done", CONVERGENCE_MAX, is_done).await?;
        let found = self.report().and_then(|report| report.scrub);
        found.ok_or_else(|| Failure("nothing is known of the scrub".into()))
    }
}

async fn scrub(stage: Stage) -> Result<(), Failure> {
    let nodes = 3 + usize::from(stage.world.seed().is_multiple_of(2));
    let layout =
        if stage.world.seed().is_multiple_of(3) { Layout::Mirror(3) } else { Layout::Mirror(2) };
    let plan = match stage.world.seed() % 5 {
        0 => Plan { extent_bytes: 4 << 20, ..Plan::simple(nodes, 160) },
        _ => Plan::simple(nodes, 32),
    };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 6 << 20, layout)]).await?;
    let mix = Mix { writes: 60, zeroes: 2, discards: 2, ..Mix::BUSY };
    rig.load(mix).await?;
    rig.run_for(rig.between(1000, 4000)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.in_place(VOLUME).await?;
    let victim = rig.below(nodes);
    rot(&rig, &rig.cluster.node(victim).disks()[0].clone());
    // The volume's six MiB are up to two extents of four.
    let whole = layout.copies() as u64 * (8 << 20);
    // Some take so long that how far they are is noted now and then.
    let is_slow = rig.below(2) == 0;
    let seconds = if is_slow { 20 + rig.below(40) } else { 1 + rig.below(8) };
    rig.begin_scrub(Some(whole / seconds as u64)).await?;
    let is_used = rig.below(2) == 0;
    if is_used {
        rig.load(Mix { writes: 5, ..Mix::default() }).await?;
    }
    for _ in 0..rig.below(3) {
        rig.run_for(rig.between(1, if is_slow { 20_000 } else { 4000 })).await;
        interrupt(&rig, victim).await?;
    }
    rig.quiet(CONVERGENCE_MAX).await?;
    let mut found = rig.scrubbed().await?;
    rig.cluster.tell(&format!("found: {found:?}"));
    if found.unread_blocks > 0 {
        // One that was away, or that a client wrote to in the same moment, is read by the next one.
        rig.in_place(VOLUME).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        rig.begin_scrub(None).await?;
        found = rig.scrubbed().await?;
    }
    expect(found.unread_blocks == 0 && found.ended_secs.is_some(), || {
        format!("not all was read: {found:?}")
    })?;
    let report =
        rig.with(|engine| async move { engine.verify_volume(POOL, VOLUME, None, &|_| ()).await });
    let report = report.await?;
    expect(report.bad.is_empty() && report.more_bad == 0, || {
        format!("a scrub was done and left this: {:?}", report.bad)
    })?;
    Count::of(&rig.cluster, &rig.oracles()).slots_are_sound().map_err(Failure)?;
    rig.converge().await
}

/// Has much of a disk rot that takes part.
fn rot(rig: &Rig, disk: &Rc<Disk>) {
    let mut sectors = rig.record(VOLUME).oracle().written_sectors();
    sectors.retain(|sector| sector % BLOCK_SECTORS == 0);
    // Neighbours, more than are repaired at once; and here and there.
    let from = rig.below(sectors.len());
    let together = (from..sectors.len()).take(rig.below(150));
    let apart: Vec<usize> = (0..rig.below(12)).map(|_| rig.below(sectors.len())).collect();
    let mut rotten = 0;
    for index in together.chain(apart) {
        for place in places_of(disk, sectors[index]) {
            disk.flip_byte(place * SECTOR_BYTES as u64 + rig.below(SECTOR_BYTES) as u64, 4);
            rotten += 1;
        }
    }
    // Every checksum block has its name at its start; other disks have them too.
    let named = |at: &u64| disk.peek(SectorRange::new(Lba(*at), 1)).starts_with(b"epCS");
    let checksums: Vec<u64> = disk.written_sectors().into_iter().filter(named).collect();
    if rig.below(2) == 0 && !checksums.is_empty() {
        for _ in 0..1 + rig.below(6) {
            let at = checksums[rig.below(checksums.len())];
            disk.flip_byte(at * SECTOR_BYTES as u64 + rig.below(4000) as u64, 2);
        }
    }
    // One slot of a vote, the other one is there; and one of a label or two, as long as one of either sequence is there.
    let slots = [Part::Labels, Part::Votes].map(|part| part.ranges(disk));
    for (slots, of_label) in slots.iter().zip([true, false]) {
        if rig.below(2) == 1 || slots.is_empty() {
            continue;
        }
        let (one, other) = (rig.below(slots.len()), [1, 3][rig.below(2)]);
        let two = of_label && rig.below(2) == 0;
        for slot in [Some(one), two.then_some((one + other) % 4)].into_iter().flatten() {
            disk.flip_byte(slots[slot].start.byte_offset() + 50, 1);
        }
    }
    rig.cluster.tell(&format!("{rotten} sectors rotted"));
}

/// Something goes that takes nothing with it that rotted elsewhere.
async fn interrupt(rig: &Rc<Rig>, victim: usize) -> Result<(), Failure> {
    match rig.below(4) {
        0 => rig.restart_supervisor(rig.between(1, 2000)).await,
        1 => {
            rig.cluster.cut_all_power();
            rig.forget_clients();
            (0..rig.cluster.node_count()).for_each(|number| rig.cluster.start_node(number));
            rig.cluster.start_supervisor(0);
        }
        2 => {
            rig.cluster.kill_node(victim);
            rig.run_for(rig.between(1, 5000)).await;
            rig.cluster.start_node(victim);
        }
        _ => {
            // It is begun again by whoever wants it.
            let running = rig.report().map_or_else(Vec::new, |report| report.jobs);
            if running.iter().any(|job| job.state == JobState::Running) {
                rig.cancel_jobs().await?;
                rig.begin_scrub(None).await?;
            }
        }
    }
    rig.run_for(Duration::from_millis(200)).await;
    Ok(())
}
