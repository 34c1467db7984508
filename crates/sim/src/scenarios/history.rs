//! What happened to a pool: it is known after a crash, and no flood of events drives it out.

use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::{HistoryEntry, PoolError};

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::damage::{off_and_on, places_of, written_and_in_place};
use super::scenario;
use crate::oracle::Change;
use crate::runner::{Failure, Scenario, Stage};

pub const SCENARIOS: &[Scenario] = &[scenario(
    "history",
    "commands, a disk that goes, and a client that reads what is lost for minutes: after a crash all of it is known, briefly",
    1200,
    |stage| history(stage).boxed_local(),
)];

/// By then what happened is kept, unless it is held back because it repeats.
const KEPT_AFTER: Duration = Duration::from_secs(40);
/// Reads of what is lost.
const READS: u64 = 2000;
/// As many entries may come of them: each pause is twice as long as the one before.
const ENTRIES_MAX: usize = 8;

async fn history(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    written_and_in_place(&rig).await?;
    let commands = 1 + rig.below(4) as u64;
    for number in 0..commands {
        rig.with(move |engine| async move {
            engine.tell_command(
                POOL.into(),
                "root".into(),
                format!("command {number}"),
                "done".into(),
            );
            Ok::<_, PoolError>(())
        })
        .await?;
    }
    let victim = rig.below(2);
    rig.cluster.kill_node(victim);
    rig.wait_out(victim, CONVERGENCE_MAX).await?;
    // A disk that nobody writes to isn't evicted; that the pool is degraded is seen twice by then.
    rig.run_for(KEPT_AFTER).await;
    rig.cluster.start_node(victim);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.run_for(KEPT_AFTER).await;
    rig.restart_supervisor(rig.between(1, 2000)).await;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    known(&rig, commands).await?;

    let sectors = rig.record(VOLUME).oracle().written_sectors();
    let lost = sectors[rig.below(sectors.len())] / BLOCK_SECTORS * BLOCK_SECTORS;
    let range = SectorRange::new(Lba(lost), BLOCK_SECTORS);
    off_and_on(&rig, || {
        for (_, disk) in rig.cluster.disks() {
            for place in places_of(&disk, lost) {
                disk.flip_byte(place * SECTOR_BYTES as u64 + 100, 4);
            }
        }
    })
    .await?;
    rig.record(VOLUME).expect_unreadable(range);
    for _ in 0..READS / 100 {
        rig.on_volume(VOLUME, move |watched| async move {
            for _ in 0..100 {
                // It is lost each time.
                let _ = watched.read(range).await;
            }
        })
        .await?;
        rig.run_for(rig.between(1000, 20_000)).await;
    }
    rig.run_for(KEPT_AFTER).await;
    rig.restart_supervisor(rig.between(1, 2000)).await;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let entries = known(&rig, commands).await?;
    let lost: Vec<&HistoryEntry> = entries.iter().filter(|e| e.event == "unrepairable").collect();
    expect(!lost.is_empty() && lost.len() <= ENTRIES_MAX, || {
        format!("{READS} reads of what is lost are {} entries", lost.len())
    })?;
    let counted: u64 = lost.iter().map(|entry| entry.count).sum();
    expect((READS / 4..=2 * READS).contains(&counted), || {
        format!("{READS} reads of what is lost are counted as {counted}")
    })?;
    rig.on_volume(VOLUME, move |watched| async move {
        watched.change(Change::Write, range).await?;
        watched.read(range).await
    })
    .await??;
    rig.converge().await
}

/// All that happened at first is known, in order.
async fn known(rig: &Rig, commands: u64) -> Result<Vec<HistoryEntry>, Failure> {
    let entries = rig.with(|engine| async move { engine.history(POOL) }).await?;
    for number in 0..commands {
        let text = format!("command {number}");
        let known = entries.iter().filter(|entry| entry.text == text);
        expect(known.count() == 1, || format!("{text} isn't known: {entries:#?}"))?;
    }
    for text in ["is opened by", "is degraded", "is online"] {
        expect(entries.iter().any(|entry| entry.text.contains(text)), || {
            format!("nothing that {text} is known: {entries:#?}")
        })?;
    }
    let in_order = entries.windows(2).all(|pair| pair[0].at_secs <= pair[1].at_secs + 10);
    expect(in_order, || format!("not in order: {entries:#?}"))?;
    Ok(entries)
}
