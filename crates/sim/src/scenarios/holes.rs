//! What isn't mended yet, each hole by a scenario that fails. `sim --known-holes` runs them; whoever
//! mends one moves its scenario to the others and takes it off the list in docs/failure-model.md.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, Rig, VOLUME};
use super::damage::newest_checksum_slots;
use super::losses::{disks_of, status, trickle};
use crate::cluster::Plan;
use crate::disk::{Disk, Latency};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::runner::{Expected, Failure, Scenario, Stage};
use crate::workload::Mix;

/// What a fork's failure says of itself.
const BY_FORK: &str = "in the fork at";
/// What the oracle says of contents that can't be.
const BY_READ: &str = "allowed:";

pub const SCENARIOS: &[Scenario] = &[
    hole(
        "slow-holder",
        "a disk answers the newest checksums without writing them, and after a restart the disk that \
         has them is slow: nobody believes the older ones",
        ("1.2", BY_READ),
        |stage| slow_holder(stage).boxed_local(),
    ),
    hole(
        "rotten-slot",
        "raid0: the newest checksums rot while a row of theirs is in the log only: the rows that \
         they were first to name are errors, not zeros",
        ("1.3", BY_READ),
        |stage| rotten_slot(stage).boxed_local(),
    ),
    hole(
        "rolled-back-metadata",
        "a node restarts quickly with an older disk; later its metadata copy is the only current one \
         in sight: the old maps aren't adopted",
        ("1.6", BY_FORK),
        |stage| rolled_back_metadata(stage).boxed_local(),
    ),
];

const fn hole(
    name: &'static str,
    about: &'static str,
    (finding, shown_by): (&'static str, &'static str),
    body: crate::runner::Body,
) -> Scenario {
    let expected = Expected::Failing { finding, shown_by };
    Scenario { name, about, limit: Duration::from_secs(400), body, expected }
}

/// Finding 1.2: after 300 ms the one holder that answered is believed with two sound slots, though it
/// lacks the newest; what was first written since reads as zeros, and the good block is overwritten.
async fn slow_holder(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let loser = rig.below(3);
    // Two folds of every group: then both slots of each checksum block are sound.
    for _ in 0..2 {
        rig.on_volume(VOLUME, |watched| async move {
            for start in (0..4096).step_by(128) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
        .await??;
        rig.in_place(VOLUME).await?;
    }
    // Rows that are written for the first time, in one fold: one lost write.
    let disk = Rc::clone(&rig.cluster.node(loser).disks()[0]);
    disk.lose_next_blocks(*b"epCS", 1);
    let fresh = SectorRange::new(Lba(rig.below(32) as u64 * 128 + 64), 32);
    rig.on_volume(VOLUME, move |watched| async move { watched.change(Change::Write, fresh).await })
        .await??;
    rig.in_place(VOLUME).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    disk.heal();
    rig.restart_supervisor(rig.between(1, 500)).await;
    rig.open(VOLUME).await?;
    let served = || rig.volume_report(VOLUME).is_some_and(|volume| volume.suspended.is_none());
    rig.cluster.wait_for("it serves", CONVERGENCE_MAX, served).await?;
    let slow = Latency { base: Duration::from_millis(400), ..Latency::SLOW };
    for node in (0..3).filter(|node| *node != loser) {
        rig.cluster.node(node).disks()[0].set_latency(slow);
    }
    rig.cluster.tell("the others are slow");
    rig.on_volume(VOLUME, |watched| async move {
        for start in (0..4096).step_by(64) {
            watched.read(SectorRange::new(Lba(start), 64)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    rig.converge().await
}

/// A volume without redundancy, each block of `span` sectors written twice and in place.
async fn written_raid0(stage: &Stage, span: u64, step: usize) -> Result<Rc<Rig>, Failure> {
    let rig = Rig::start(stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    for _ in 0..2 {
        rig.on_volume(VOLUME, move |watched| async move {
            for start in (0..span).step_by(step) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
        .await??;
        rig.in_place(VOLUME).await?;
    }
    Ok(rig)
}

/// Everything off, `damage` done, everything on; then each block is right or an error.
async fn damaged_and_read(
    rig: &Rig,
    span: u64,
    damage: impl FnOnce(&Disk, &Rig),
    which: usize,
) -> Result<(), Failure> {
    rig.forget_clients();
    rig.cluster.cut_all_power();
    damage(&rig.cluster.node(which).disks()[0], rig);
    (0..3).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), span));
    let reading = rig.on_volume(VOLUME, move |watched| async move {
        for start in (0..span).step_by(BLOCK_SECTORS as usize) {
            // What is read is compared with what was written; errors are allowed.
            let _ = watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await;
        }
    });
    // A volume that waits is right; whether it says for what is another question.
    let _ = runtime::timeout(&rig.cluster.director(), Duration::from_secs(40), reading).await;
    Ok(())
}

/// Finding 1.3: one row in the log, and the damaged slot passes for an interrupted fold; the older
/// slot is believed for all of its rows.
async fn rotten_slot(stage: Stage) -> Result<(), Failure> {
    let span = 4096;
    let rig = written_raid0(&stage, span, 128).await?;
    let at = rig.below(32) as u64 * 128;
    for fresh in [SectorRange::new(Lba(at + 64), 32), SectorRange::new(Lba(at), BLOCK_SECTORS)] {
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, fresh).await },
        )
        .await??;
        if fresh.count > BLOCK_SECTORS {
            rig.in_place(VOLUME).await?;
        }
    }
    let which = rig.below(3);
    let damage = |disk: &Disk, _: &Rig| {
        for slot in newest_checksum_slots(disk) {
            disk.flip_byte(slot * SECTOR_BYTES as u64 + 1000, 4);
        }
    };
    damaged_and_read(&rig, span, damage, which).await
}

/// Finding 1.6: the rollback is noticed and the data caught up, but a metadata copy that is current
/// and there is left as it is: new entries follow a hole, behind which they are never found.
async fn rolled_back_metadata(stage: Stage) -> Result<(), Failure> {
    let rig =
        Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let victim = rig.below(3);
    let disk = Rc::clone(&rig.cluster.node(victim).disks()[0]);
    let image = disk.snapshot();
    rig.run_for(rig.between(1500, 3000)).await;
    rig.create_volume("later", 1 << 20, Layout::Mirror(2)).await?;
    rig.cluster.kill_node(victim);
    disk.roll_back(image);
    rig.cluster.start_node(victim);
    rig.run_for(rig.between(500, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    trickle(&rig, 3, 4096, Duration::ZERO).await?;
    let second = (victim + 1 + rig.below(2)) % 3;
    rig.cluster.kill_node(second);
    trickle(&rig, 3, 4096, Duration::ZERO).await?;
    rig.wait_out(second, Duration::from_secs(10)).await?;
    // Of the two copies that are current one is away: what is left must not pass for everything.
    let third = 3 - victim - second;
    rig.fork(Loss {
        what: format!("only a copy that was rolled back; status: {}", status(&rig)),
        lost: BTreeSet::new(),
        away: disks_of(&rig, third),
        survival: Some(Survival::None),
        owners: vec![Owner::Same],
        judgement: Judgement::RightOrNamed,
    });
    Ok(())
}
