//! Votes and copies of the metadata that are old, damaged or overtaken.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_BYTES, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::join;
use pool::engine::ImportOptions;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME, expect};
use super::copies::copies_of_log;
use super::losses::{disks_of, lose_node, status, trickle};
use super::node_keys::accept;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, DiskRemains, Latency, Part, ReadFault, WriteFault};
use crate::fork::{Judgement, Loss, Owner};
use crate::medium::Survival;
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "rolled-back-metadata",
        "a node restarts quickly with an older disk; later its metadata copy is the only current one \
         present: the old maps aren't adopted",
        400,
        |stage| rolled_back_metadata(stage).boxed_local(),
    ),
    scenario(
        "eviction-during-claim",
        "a disk is evicted between a new owner's look at the votes and his claim, and the votes that \
         say so don't answer right then: it counts",
        400,
        |stage| eviction_during_claim(stage).boxed_local(),
    ),
    scenario(
        "rotten-metadata",
        "the log of the only current metadata copy present is rotten, in its middle or up to its end: \
         what it says without that isn't adopted",
        400,
        |stage| rotten_metadata(stage).boxed_local(),
    ),
    scenario(
        "rotten-newest-entry",
        "the newest entry of the only current metadata copy present is rotten, and nothing else happened for seconds: \
         what it said before isn't taken for the newest",
        400,
        |stage| rotten_newest_entry(stage).boxed_local(),
    ),
    scenario(
        "clone-present",
        "a copy of a member is discovered while the pool is open, and at a cold start: it isn't taken \
         for the member",
        400,
        |stage| clone_present(stage).boxed_local(),
    ),
    scenario(
        "disks-moved",
        "disks are put into other machines: status counts what is on one machine once",
        400,
        |stage| disks_moved(stage).boxed_local(),
    ),
    scenario(
        "lost-metadata-write",
        "a disk answers a write of the metadata's log without doing it: the copy is noticed and \
         written anew while the pool is open",
        400,
        |stage| lost_metadata_write(stage).boxed_local(),
    ),
    scenario(
        "cut-in-checkpoint",
        "the power goes while a checkpoint of the metadata is written, again and again: the old one or \
         the new one is there",
        400,
        |stage| cut_in_checkpoint(stage).boxed_local(),
    ),
    scenario(
        "metadata-copy-taken-back",
        "disks fail a write of the metadata once: their copies are current again once they take writes",
        400,
        |stage| metadata_copy_taken_back(stage).boxed_local(),
    ),
    scenario(
        "last-copy-unread",
        "the only current copy of the metadata can't be read for a moment and is written anew: what it has stays \
         until that is done",
        400,
        |stage| last_copy_unread(stage).boxed_local(),
    ),
];

/// The rollback is noticed and the data resynced; new entries mustn't follow a hole in the metadata
/// copy, behind which they are never found.
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

/// The sectors of a reservation record, at the beginning of a disk.
const RECORD: SectorRange = SectorRange { start: Lba(16), count: 16 };

/// A disk that hangs holds the new owner's look up until the old owner has evicted it. Then the disks
/// whose votes say so hang, and the one that was evicted answers.
async fn eviction_during_claim(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::start(
        &stage,
        Plan { supervisors: 2, ..Plan::simple(3, 32) },
        &[(VOLUME, 4 << 20, Layout::Mirror(2))],
    )
    .await?;
    rig.cluster.start_supervisor(1);
    rig.load(Mix { think: Duration::from_millis(10), ..Mix::default() }).await?;
    rig.run_for(rig.between(500, 1500)).await;
    // The old owner evicts whom it writes to: one with the log.
    rig.quiet(CONVERGENCE_MAX).await?;
    trickle(&rig, 1, 4096, Duration::ZERO).await?;
    let (lagging, _) = copies_of_log(&rig)?;
    rig.load(Mix { think: Duration::from_millis(10), ..Mix::default() }).await?;
    let disk = |node: usize| Rc::clone(&rig.cluster.node(node).disks()[0]);
    let others: Vec<_> = (0..3).filter(|node| *node != lagging).map(disk).collect();
    (0..3).for_each(|node| disk(node).set_latency(Latency::SLOW));
    // The claim takes longest there, so that the others have answered theirs.
    disk(lagging).set_latency(Latency { base: Duration::from_millis(40), ..Latency::SLOW });
    // What the old owner decides mustn't get there once it goes on.
    (0..50).for_each(|_| disk(lagging).spoil_next_write(Part::Votes, WriteFault::NoSpace));
    rig.set_active(1);
    let grace = Some(Duration::ZERO);
    let options = ImportOptions { force: true, grace, ..ImportOptions::default() };
    let importing = rig.with(|engine| async move { engine.import_pool(POOL, options).await });
    let hiding = async {
        // Whoever imports looks twice, and the second look is what it goes by. Here that takes twice three
        // reads of the slow disk.
        rig.run_for(rig.between(150, 230)).await;
        disk(lagging).stick_for(Duration::from_millis(1600) + rig.between(1, 300));
        let records = || others.iter().map(|disk| disk.peek(RECORD)).collect::<Vec<_>>();
        let before = records();
        let claimed = || records().iter().zip(&before).all(|(now, before)| now != before);
        for _ in 0..100_000 {
            if claimed() {
                // Both have answered. Longer than the votes are waited for, then those who know what
                // was committed, and then the metadata.
                rig.run_for(rig.between(30, 100)).await;
                others.iter().for_each(|disk| disk.stick_for(Duration::from_millis(30_300)));
                return;
            }
            rig.run_for(Duration::from_micros(50)).await;
        }
    };
    let (imported, ()) = join(importing, hiding).await;
    rig.cluster.tell(&format!("imported: {:?}", imported.as_ref().err()));
    rig.run_for(Duration::from_secs(40)).await;
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    rig.cluster.heal();
    if imported.is_err() {
        rig.with(|engine| async move {
            let options = ImportOptions { force: true, ..ImportOptions::default() };
            engine.import_pool(POOL, options).await
        })
        .await?;
    }
    rig.converge().await
}

/// Two of three nodes have all that there is, after a load that has ended: the third one, which is away, and one of the two.
async fn one_lags(stage: &Stage) -> Result<(Rc<Rig>, usize, usize), Failure> {
    let rig = Rig::mirror(stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let lagging = rig.below(3);
    rig.cluster.kill_node(lagging);
    rig.wait_out(lagging, Duration::from_secs(10)).await?;
    rig.quiet(CONVERGENCE_MAX).await?;
    let rotten = (lagging + 1 + rig.below(2)) % 3;
    Ok((rig, lagging, rotten))
}

/// Of two current copies one is away, and the other lost entries: one in the middle of its log, or all
/// from one on, of which votes and applied blocks know, or nobody. What it says without them is out of date.
async fn rotten_metadata(stage: Stage) -> Result<(), Failure> {
    let (rig, lagging, rotten) = one_lags(&stage).await?;
    let disk = Rc::clone(&rig.cluster.node(rotten).disks()[0]);
    let before = entries_of(&disk).last().map_or(0, |(number, _)| *number);
    rig.create_volume("later", 1 << 20, Layout::Mirror(2)).await?;
    let nobody_knows = rig.below(3) == 0;
    if nobody_knows {
        rig.create_volume("latest", 1 << 20, Layout::Mirror(2)).await?;
    } else {
        trickle(&rig, 1 + rig.below(4), 4096, Duration::ZERO).await?;
        // What is brought into place is applied, with the metadata as it is by then.
        rig.in_place(VOLUME).await?;
    }
    let later: Vec<_> =
        entries_of(&disk).into_iter().filter(|(number, _)| *number > before).collect();
    let to_end = nobody_knows || rig.below(2) == 0;
    let first = rig.below(later.len().saturating_sub(1).max(1));
    let count = if to_end { later.len() } else { 1 };
    let first = if to_end { 0 } else { first };
    let spoil = || {
        for (_, at) in later.iter().skip(first).take(count) {
            disk.flip_byte(at + 100, 4);
        }
    };
    spoil();
    rig.fork(Loss {
        what: format!("{count} entries of the metadata are rotten; status: {}", status(&rig)),
        lost: BTreeSet::new(),
        away: disks_of(&rig, 3 - lagging - rotten),
        survival: Some(Survival::None),
        owners: vec![if rig.below(2) == 0 { Owner::Same } else { Owner::New }],
        judgement: Judgement::RightOrNamed,
    });
    spoil();
    rig.converge().await
}

/// Of two current copies one is away, and the other lost its last entry, after which nothing was written for some seconds.
async fn rotten_newest_entry(stage: Stage) -> Result<(), Failure> {
    let (rig, lagging, rotten) = one_lags(&stage).await?;
    // History is written, too.
    rig.run_for(Duration::from_secs(90)).await;
    let (key, value) = ("mount", "/srv");
    let said = Some(value.to_owned());
    rig.with(|engine| async move { engine.set_property(POOL, VOLUME, key, said).await }).await?;
    let disk = Rc::clone(&rig.cluster.node(rotten).disks()[0]);
    rig.run_for(rig.between(16_000, 20_000)).await;
    rig.cluster.cut_all_power();
    rig.forget_clients();
    let (_, at) = entries_of(&disk).pop().ok_or_else(|| Failure("no entry".to_owned()))?;
    disk.flip_byte(at + 100, 4);
    [lagging, rotten].iter().for_each(|node| rig.cluster.start_node(*node));
    rig.cluster.start_supervisor(0);
    let shown = || Some(rig.volume_report(VOLUME)?.properties.get(key).cloned());
    for _ in 0..30 {
        rig.run_for(Duration::from_secs(1)).await;
        expect(shown().is_none_or(|shown| shown.as_deref() == Some(value)), || {
            "it was opened as it was before".to_owned()
        })?;
    }
    rig.cluster.start_node(3 - lagging - rotten);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    expect(shown().flatten().as_deref() == Some(value), || {
        "what was said last is gone".to_owned()
    })?;
    rig.converge().await
}

/// Number and place of each entry in the newest log of a disk's metadata area.
fn entries_of(disk: &Disk) -> Vec<(u64, u64)> {
    const START: u64 = 1 << 20;
    const AREA_SECTORS: u64 = (8 << 20) / SECTOR_BYTES as u64;
    let area = disk.peek(SectorRange::new(Lba(START / SECTOR_BYTES as u64), AREA_SECTORS));
    let word = |block: &[u8], at: usize| {
        block[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let found = area.chunks_exact(BLOCK_BYTES).enumerate();
    let found = found.filter(|(_, block)| block.starts_with(b"epMETLOG"));
    let found: Vec<_> = found
        .map(|(index, block)| {
            let place = START + (index * BLOCK_BYTES) as u64;
            ((word(block, 40), word(block, 32)), (word(block, 48), place))
        })
        .collect();
    let newest = found.iter().map(|(log, _)| *log).max();
    let mut entries: Vec<_> =
        found.iter().filter(|(log, _)| Some(*log) == newest).map(|(_, entry)| *entry).collect();
    entries.sort_unstable();
    entries
}

/// A copy, made while writes go on, is discovered beside its original; then the original goes, and at
/// last both are there at a cold start.
async fn clone_present(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let (original, machine) = (rig.below(3), rig.below(3));
    let copy = |rig: &Rig| {
        let disk = Rc::clone(&rig.cluster.node(original).disks()[0]);
        rig.cluster.luck(|random| disk.remains(Survival::None, random))
    };
    let running = copy(&rig);
    rig.run_for(rig.between(1, 2000)).await;
    if rig.below(2) == 0 {
        add_copy(&rig, &running, machine);
        rig.run_for(rig.between(1000, 8000)).await;
    } else {
        // Without an owner since the copy was made, neither would be known to be the newer one.
        rig.restart_supervisor(rig.between(1, 500)).await;
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(100, 1500)).await;
        rig.cluster.cut_all_power();
        rig.forget_clients();
        add_copy(&rig, &running, machine);
        (0..3).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(0);
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(500, 3000)).await;
    }
    rig.converge().await
}

/// Two of three disks end up in one machine. Where both copies of something are there, nothing more is
/// survived, and status says so.
async fn disks_moved(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    let from = rig.below(3);
    let to = (from + 1 + rig.below(2)) % 3;
    move_disk(&rig, (from, 0), to);
    accept(&rig, 1).await?;
    rig.run_for(rig.between(4000, 9000)).await;
    let report = rig.report();
    let names = report.iter().flat_map(|report| &report.disks).map(|disk| disk.node.clone());
    let machines: BTreeSet<String> = names.collect();
    expect(machines.len() == 2, || format!("disks are on two machines: {report:#?}"))?;
    expect(report.as_ref().is_some_and(|report| report.survives == 0), || {
        format!("two of three votes are on one machine: {report:#?}")
    })?;
    move_disk(&rig, (to, 1), from);
    accept(&rig, 1).await?;
    rig.run_for(Duration::from_secs(3)).await;
    rig.wait_clean(CONVERGENCE_MAX).await?;
    for node in 0..3 {
        if rig.report().is_some_and(|report| report.survives >= 1) {
            lose_node(&rig, node, "all disks are back", Survival::None);
        }
    }
    rig.converge().await
}

/// A disk is taken out of its machine and put into another one; both are off meanwhile.
pub(super) fn move_disk(rig: &Rig, (from, slot): (usize, usize), to: usize) {
    rig.cluster.tell(&format!("disk {slot} of node {} goes to node {}", from + 1, to + 1));
    [from, to].iter().for_each(|number| rig.cluster.kill_node(*number));
    let disk = rig.cluster.node(from).slots().borrow_mut().remove(slot);
    rig.cluster.node(to).slots().borrow_mut().push(disk);
    [from, to].iter().for_each(|number| rig.cluster.start_node(*number));
}

/// A copy of a disk, made a moment ago, is put into another machine.
pub(super) fn add_copy(rig: &Rig, copy: &DiskRemains, to: usize) {
    rig.cluster.tell(&format!("a copy of a disk is put into node {}", to + 1));
    rig.cluster.kill_node(to);
    let disk = Disk::restored(rig.cluster.world(), copy);
    rig.cluster.node(to).slots().borrow_mut().push(disk);
    rig.cluster.start_node(to);
}

/// Nothing else reads a copy of the metadata again before the pool is opened anew: one that lost an entry
/// would count as current for as long as the owner lives.
async fn lost_metadata_write(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let disk = Rc::clone(&rig.cluster.node(rig.below(3)).disks()[0]);
    disk.lose_next_blocks(*b"epME", 1);
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(2000, 5000)).await;
    rig.converge().await
}

/// A new owner begins with a checkpoint: on all copies at once its sections, and then its header. Whatever
/// of that is done when the power goes, on each of them another part, the pool opens again.
async fn cut_in_checkpoint(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..3 {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(300, 1500)).await;
        let disk = Rc::clone(&rig.cluster.node(rig.below(3)).disks()[0]);
        let before = checkpoint_blocks(&disk);
        rig.restart_supervisor(rig.between(1, 300)).await;
        for _ in 0..100_000 {
            if checkpoint_blocks(&disk) != before {
                break;
            }
            rig.run_for(Duration::from_micros(100)).await;
        }
        rig.run_for(Duration::from_micros(rig.below(1500) as u64)).await;
        rig.cluster.cut_all_power();
        rig.forget_clients();
        (0..3).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(0);
    }
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(500, 1500)).await;
    rig.converge().await
}

/// The headers of both checkpoints, and the blocks where those of a small pool are.
fn checkpoint_blocks(disk: &Disk) -> [Vec<u8>; 2] {
    const START: u64 = 1 << 20;
    [(START, 24), (START + (4 << 20), 1)].map(|(at, blocks)| {
        let sectors = (blocks * BLOCK_BYTES / SECTOR_BYTES) as u64;
        disk.peek(SectorRange::new(Lba(at / SECTOR_BYTES as u64), sectors))
    })
}

/// A copy that couldn't be written leaves the current ones though its disk stays in. Once two of three
/// did, the loss of one machine would be the pool's.
async fn metadata_copy_taken_back(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    for node in 0..2 {
        rig.cluster.node(node).disks()[0].spoil_next_write(Part::Metadata, WriteFault::Error);
        rig.run_for(rig.between(2000, 4000)).await;
    }
    rig.converge().await
}

/// What can't be read now may be read after the power came back: its places are none to write to.
async fn last_copy_unread(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    trickle(&rig, 4, 4096, Duration::ZERO).await?;
    let last = rig.below(3);
    for node in (0..3).filter(|node| *node != last) {
        rig.cluster.node(node).disks()[0].spoil_next_write(Part::Metadata, WriteFault::Refused);
    }
    let disk = Rc::clone(&rig.cluster.node(last).disks()[0]);
    for volume in ["first", "second", "third"] {
        if rig.below(2) == 0 {
            // A new owner's checkpoint lies where the one before the last did.
            disk.heal();
            rig.restart_supervisor(Duration::ZERO).await;
            rig.open(VOLUME).await?;
        }
        // What was written since the last look is read back at the next one, twice where that fails.
        rig.create_volume(volume, 1 << 20, Layout::Mirror(2)).await?;
        let fault = [ReadFault::Error, ReadFault::Flipped][rig.below(2)];
        let faults = 1 + rig.below(8);
        (0..faults).for_each(|_| disk.spoil_next_read(Part::Metadata, fault));
        let mut before = checkpoint_blocks(&disk);
        for _ in 0..40_000 {
            rig.run_for(Duration::from_micros(100)).await;
            let now = checkpoint_blocks(&disk);
            if now != before {
                rig.count_now()?;
            }
            before = now;
        }
    }
    (0..3).for_each(|node| rig.cluster.node(node).disks()[0].heal());
    rig.converge().await
}
