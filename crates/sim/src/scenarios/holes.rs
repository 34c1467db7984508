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
use crate::claim::Place;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Expected, Failure, Scenario, Stage};
use crate::workload::Mix;

/// What a fork's failure says of itself.
const BY_FORK: &str = "in the fork at";
/// What the oracle says of contents that can't be.
const BY_READ: &str = "allowed:";

pub const SCENARIOS: &[Scenario] = &[
    hole(
        "blip-thin",
        "a node blips while the log is idle and is back; a trickle of writes, a power cut, any one \
         node is lost for good: all is there",
        ("1.1", BY_FORK),
        |stage| blip_thin(stage).boxed_local(),
    ),
    hole(
        "thin-and-closed",
        "a node is put out by a write to the log and is back; once status says that one more failure \
         is survived, the power goes and any node is lost for good: all is there",
        ("1.1", "no current copy of its log"),
        |stage| thin_and_closed(stage).boxed_local(),
    ),
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
        "rotten-record",
        "raid0: a record in the middle of the log rots: what was acknowledged behind it is there, or \
         the volume waits and says so",
        ("1.4", BY_READ),
        |stage| rotten_record(stage).boxed_local(),
    ),
    hole(
        "join-and-exclude",
        "a disk is taken in while it is being put out: its log copy, which lacks what was \
         acknowledged meanwhile, isn't current",
        ("1.5", "its log lacks the records"),
        |stage| join_and_exclude(stage).boxed_local(),
    ),
    hole(
        "fold-across-return",
        "a fold that began while a node was out ends once it is back: what is released then and the \
         node lacks isn't claimed to be on it",
        ("new-1", "is there, but missed them"),
        |stage| join_and_exclude(stage).boxed_local(),
    ),
    hole(
        "rolled-back-metadata",
        "a node restarts quickly with an older disk; later its metadata copy is the only current one \
         in sight: the old maps aren't adopted",
        ("1.6", BY_FORK),
        |stage| rolled_back_metadata(stage).boxed_local(),
    ),
    hole(
        "lone-tail",
        "a record that one log copy has is brought into place by an opening that the power cuts \
         short, and that copy is lost for good: what the row held before is there",
        ("1.14", BY_FORK),
        |stage| lone_tail(stage).boxed_local(),
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

/// Every disk of a node.
fn disks_of(rig: &Rig, node: usize) -> BTreeSet<Place> {
    (0..rig.cluster.node(node).disks().len()).map(|slot| (node, slot)).collect()
}

/// In a fork, `node` is destroyed with all its disks and everything else comes back after a power
/// cut: all is readable, by the same and by a new owner.
fn lose_node(rig: &Rig, node: usize, what: &str, survival: Survival) {
    rig.fork(Loss {
        what: format!("{what}; status: {}", status(rig)),
        lost: disks_of(rig, node),
        away: BTreeSet::new(),
        survival: Some(survival),
        owners: match rig.below(2) {
            0 => vec![Owner::Same, Owner::New],
            _ => vec![Owner::New, Owner::Same],
        },
        judgement: Judgement::Readable,
    });
}

fn status(rig: &Rig) -> String {
    rig.report()
        .map_or("none".into(), |report| format!("{:?}, survives {}", report.state, report.survives))
}

/// Writes `count` whole blocks one after the other, somewhere below sector `span`.
async fn trickle(rig: &Rig, count: usize, span: u64, pause: Duration) -> Result<(), Failure> {
    for _ in 0..count {
        let at = rig.below((span / BLOCK_SECTORS) as usize) as u64 * BLOCK_SECTORS;
        let range = SectorRange::new(Lba(at), BLOCK_SECTORS);
        rig.on_volume(
            VOLUME,
            move |watched| async move { watched.change(Change::Write, range).await },
        )
        .await??;
        rig.run_for(pause).await;
    }
    Ok(())
}

/// Finding 1.1: a fold puts X out while the open segment has no batch in flight, so the log never
/// learns that its segment lost a copy. X's copy is dropped when X is back, and the log goes on with
/// Y's alone while status says that one more failure is survived.
async fn blip_thin(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    let blip = rig.below(3);
    // The idle log is folded a second after the last record: the node goes before that.
    rig.run_for(rig.between(1, 900)).await;
    rig.cluster.kill_node(blip);
    rig.run_for(rig.between(2500, 9000)).await;
    rig.cluster.start_node(blip);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    let (count, pause) = (1 + rig.below(6), rig.between(1, 200));
    trickle(&rig, count, 4096, pause).await?;
    if rig.report().is_some_and(|report| report.survives >= 1) {
        for node in 0..3 {
            lose_node(&rig, node, "after a blip", Survival::None);
        }
    }
    Ok(())
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

/// Finding 1.1, its other half: the segment that lost a copy is closed and not brought into place
/// before the log is idle or half full, and status takes it for released with its first record.
async fn thin_and_closed(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..3 {
        trickle(&rig, 4, 4096, Duration::from_millis(10)).await?;
        rig.in_place(VOLUME).await?;
        let victim = rig.cluster.node(rig.below(3));
        victim.process().iter().for_each(|process| process.pause());
        // Answered once the node is put out, if it holds the log.
        trickle(&rig, 1, 4096, rig.between(0, 100)).await?;
        victim.process().iter().for_each(|process| process.resume());
        let survives = || rig.report().is_some_and(|report| report.survives >= 1);
        rig.cluster.wait_for("one more failure is survived", CONVERGENCE_MAX, survives).await?;
        for node in 0..3 {
            lose_node(&rig, node, "after a blip of the log", Survival::None);
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    Ok(())
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

/// Finding 1.4: a record that can't be read passes for the end of the log.
async fn rotten_record(stage: Stage) -> Result<(), Failure> {
    let span = 256;
    let rig = written_raid0(&stage, span, BLOCK_SECTORS as usize).await?;
    let mix = Mix { depth: 8, writes: 100, zeroes: 0, discards: 0, flushes: 0, ..Mix::default() };
    rig.load(Mix { span_sectors: span, sectors_max: 8, think: Duration::from_millis(5), ..mix })
        .await?;
    rig.run_for(rig.between(50, 300)).await;
    let which = rig.below(3);
    let damage = |disk: &Disk, rig: &Rig| {
        // One of the latest operations, wherever the disk has it.
        let operations = rig.record(VOLUME).oracle().operations();
        let rotten = operations.saturating_sub(8 + rig.below(16) as u64);
        for sector in 0..disk.sectors() {
            let bytes = disk.peek(SectorRange::new(Lba(sector), 1));
            let content = pattern::recognise(&bytes);
            if matches!(content, Content::Written { operation, .. } if operation == rotten) {
                disk.flip_byte(sector * SECTOR_BYTES as u64 + 77, 4);
            }
        }
    };
    damaged_and_read(&rig, span, damage, which).await
}

/// Finding 1.5: whether a disk that returns has stale log copies is asked before the vote that puts
/// it out is over; it is taken in after that vote, and its copy counts.
///
/// The same course shows another hole (new-1): a fold takes the members that it must reach when it
/// begins. If one of the others is taken in while the fold's metadata record is on its way, the pool
/// says that it is online and survives a failure, and the record then gives up the log's copies of
/// what that member lacks.
async fn join_and_exclude(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let mix = Mix { depth: 3, writes: 90, discards: 0, ..Mix::default() };
    for round in 0..4 {
        rig.load(mix).await?;
        rig.run_for(rig.between(100, 500)).await;
        let victim = rig.below(3);
        // Votes take long: so the window is wide.
        let base = rig.between(250, 900);
        let slow = Latency { base, spread: Duration::from_millis(100), ..Latency::SLOW };
        for node in (0..3).filter(|node| *node != victim) {
            rig.cluster.node(node).disks()[0].set_latency(slow);
        }
        rig.cluster.kill_node(victim);
        // A write is given up after 1.5 s, and then the vote begins.
        rig.run_for(rig.between(1200, 2400)).await;
        rig.cluster.start_node(victim);
        rig.run_for(rig.between(1500, 3500)).await;
        for node in 0..3 {
            rig.cluster.node(node).disks()[0].set_latency(Latency::FAST);
        }
        for _ in 0..2 {
            rig.run_for(rig.between(10, 300)).await;
            if rig.report().is_some_and(|report| report.survives >= 1) {
                for node in (0..3).filter(|node| *node != victim) {
                    lose_node(&rig, node, &format!("round {round}"), Survival::None);
                }
            }
        }
        rig.quiet(CONVERGENCE_MAX).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    Ok(())
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

/// Finding 1.14: what only one log copy has was never acknowledged, so it mustn't overwrite what was
/// before it is as safe as that.
async fn lone_tail(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let span = 512;
    rig.on_volume(VOLUME, move |watched| async move {
        for start in (0..span).step_by(64) {
            watched.change(Change::Write, SectorRange::new(Lba(start), 64)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    rig.in_place(VOLUME).await?;
    let mix = Mix { depth: 8, writes: 100, zeroes: 0, discards: 0, flushes: 0, ..Mix::default() };
    rig.load(Mix { span_sectors: span, think: Duration::from_millis(20), ..mix }).await?;
    rig.run_for(rig.between(50, 400)).await;
    // What is on its way reaches one node only.
    let keeper = rig.below(3);
    for number in (0..3).filter(|number| *number != keeper) {
        rig.cluster.cut_link(number, true);
    }
    rig.run_for(rig.between(20, 200)).await;
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    (0..3).for_each(|number| rig.cluster.cut_link(number, false));
    rig.run_for(Duration::from_millis(50)).await;
    rig.cluster.start_supervisor(0);
    let mut left = 6;
    let begin = rig.cluster.world().timeline().now();
    // The opening is in the middle of its fold while rows are in a cache.
    while left > 0 && rig.cluster.world().timeline().now().since(begin) < Duration::from_secs(12) {
        rig.run_for(Duration::from_micros(100)).await;
        let others = (0..3).filter(|node| *node != keeper);
        let unstable = others
            .filter(|node| rig.cluster.node(*node).disks().iter().any(|disk| !disk.is_stable()));
        if unstable.count() > 0 && rig.report().is_some_and(|report| report.survives >= 1) {
            lose_node(&rig, keeper, "while the tail is folded", Survival::Arbitrary);
            left -= 1;
        }
    }
    Ok(())
}
