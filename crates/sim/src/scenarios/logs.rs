//! What a log must have in all of its copies when a machine never comes back.

use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, OPENING_MAX, Rig, VOLUME, expect};
use super::losses::{lose_node, trickle};
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Latency, Part, WriteFault};
use crate::medium::Survival;
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "blip-thin",
        "a node blips while the log is idle and is back; a trickle of writes, a power cut, any one \
         node is lost for good: all is there",
        400,
        |stage| blip_thin(stage).boxed_local(),
    ),
    scenario(
        "thin-and-closed",
        "a node is evicted by a write to the log and is back; once status says that one more failure \
         is survived, the power goes and any node is lost for good: all is there",
        400,
        |stage| thin_and_closed(stage).boxed_local(),
    ),
    scenario(
        "join-and-evict",
        "a disk is taken in while it is being evicted, or while a destage ends that didn't reach it: its \
         log copy, or what it lacks, isn't counted",
        400,
        |stage| join_and_evict(stage).boxed_local(),
    ),
    scenario(
        "lone-tail",
        "a record that one log copy has is brought into place by an opening that the power cuts \
         short, and that copy is lost for good: what the row held before is there",
        400,
        |stage| lone_tail(stage).boxed_local(),
    ),
    scenario(
        "lone-tail-again",
        "the same where the opening that brings it into place dies and another one follows: what was \
         appended again goes only once nothing rests on it any more",
        400,
        |stage| lone_tail_again(stage).boxed_local(),
    ),
    scenario(
        "batches-under-way",
        "long writes come faster than the log's disks take them, so that several batches are under way, \
         in one small segment after the other; the power is cut, the supervisor or a node dies, or disks \
         refuse some",
        400,
        |stage| batches_under_way(stage, Layout::Mirror(2)).boxed_local(),
    ),
    scenario(
        "batches-under-way-raid0",
        "the same with one copy of each log: where it refuses a batch there is none left",
        400,
        |stage| batches_under_way(stage, Layout::Raid0).boxed_local(),
    ),
    scenario(
        "rotten-record",
        "raid0: a record in the middle of the log rots: what was acknowledged behind it is there, or \
         the volume waits and says for what",
        400,
        |stage| rotten_record(stage).boxed_local(),
    ),
    scenario(
        "stuck-rows",
        "raid0: a node is away for long; what belongs there stays in the log, is appended again and \
         again, and neither holds up the rest nor is lost by a power cut",
        400,
        |stage| stuck_rows(stage).boxed_local(),
    ),
    scenario(
        "stuck-unread",
        "raid0: a node dies before anything was read of what belongs there, or was ever written there, \
         and nobody has evicted it when a destage comes: the rest goes on",
        400,
        |stage| stuck_unread(stage).boxed_local(),
    ),
    scenario(
        "overwritten-while-stuck",
        "raid0: a node is away, and what belongs there is overwritten all the time: appending it again \
         brings nothing older back",
        400,
        |stage| overwritten_while_stuck(stage).boxed_local(),
    ),
];

/// A destage evicts X while the open segment has no batch in flight. That closes the segment too:
/// otherwise X's copy is dropped when X is back, and the log goes on with Y's alone while status says
/// that one more failure is survived.
async fn blip_thin(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(300, 1500)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    let blip = rig.below(3);
    // The idle log is destaged a second after the last record: the node goes before that.
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

/// A segment that lost a copy is closed: it is brought into place at once, neither when the log is idle
/// nor when it is half full, and counts until its last record is in place.
async fn thin_and_closed(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..3 {
        trickle(&rig, 4, 4096, Duration::from_millis(10)).await?;
        rig.in_place(VOLUME).await?;
        let victim = rig.cluster.node(rig.below(3));
        victim.process().iter().for_each(|process| process.pause());
        // Answered once the node is evicted, if it holds the log.
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

/// Whether a disk that returns has stale log copies is asked before the vote that evicts it is over;
/// if it were taken in after that vote, its copy would count.
///
/// And a destage takes the members that it must reach when it begins. If one of the others were taken in
/// while the destage's metadata record is on its way, the pool would say that it is online and survives a
/// failure, and the record then gave up the log's copies of what that member lacks.
async fn join_and_evict(stage: Stage) -> Result<(), Failure> {
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

/// What only one log copy has was never acknowledged, so it mustn't overwrite what was before it is as
/// safe as that.
async fn lone_tail(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let reconciler = leave_lone_tail(&rig).await?;
    rig.cluster.start_supervisor(0);
    lose_while_in_caches(&rig, reconciler, "while the tail is destaged").await;
    Ok(())
}

/// What an opening appended again makes the tail safe, and the next opening finds it twice: it mustn't
/// take the repetition for superfluous, since what came first is still on one copy only.
async fn lone_tail_again(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    let reconciler = leave_lone_tail(&rig).await?;
    rig.cluster.start_supervisor(0);
    // From the first sector of the repetition to the release.
    for _ in 0..OPENING_MAX.as_millis() {
        if rig.volume_report(VOLUME).is_some() {
            break;
        }
        rig.run_for(Duration::from_millis(1)).await;
    }
    rig.run_for(rig.between(0, 20)).await;
    rig.restart_supervisor(rig.between(0, 50)).await;
    lose_while_in_caches(&rig, reconciler, "while the tail is destaged once more").await;
    Ok(())
}

/// Writes on their way reach the log of one node only, and the supervisor dies; tells which node.
async fn leave_lone_tail(rig: &Rig) -> Result<usize, Failure> {
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
    let reconciler = rig.below(3);
    for number in (0..3).filter(|number| *number != reconciler) {
        rig.cluster.cut_link(number, true);
    }
    rig.run_for(rig.between(20, 200)).await;
    rig.cluster.kill_supervisor(0);
    rig.forget_clients();
    (0..3).for_each(|number| rig.cluster.cut_link(number, false));
    rig.run_for(Duration::from_millis(50)).await;
    Ok(reconciler)
}

/// Whether some other node than this one has something in a cache.
fn in_caches(rig: &Rig, but: usize) -> bool {
    let disks = |node: usize| rig.cluster.node(node).disks();
    (0..3).filter(|node| *node != but).any(|node| disks(node).iter().any(|disk| !disk.is_stable()))
}

/// An opening is in the middle of its destage while rows are in a cache: then the node is lost.
async fn lose_while_in_caches(rig: &Rig, reconciler: usize, what: &str) {
    let mut left = 6;
    let begin = rig.cluster.world().timeline().now();
    while left > 0 && rig.cluster.world().timeline().now().since(begin) < Duration::from_secs(12) {
        rig.run_for(Duration::from_micros(100)).await;
        let survives = || rig.report().is_some_and(|report| report.survives >= 1);
        if in_caches(rig, reconciler) && survives() {
            lose_node(rig, reconciler, what, Survival::Arbitrary);
            left -= 1;
        }
    }
}

/// A batch counts only with all before it: what is durable behind one that isn't was answered to nobody,
/// and neither proves that one nor stays when its segment is closed.
async fn batches_under_way(stage: Stage, layout: Layout) -> Result<(), Failure> {
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, layout)]).await?;
    let mix = Mix { depth: 16, writes: 96, zeroes: 1, discards: 1, flushes: 0, ..Mix::default() };
    let mix = Mix { sectors_max: 128, think: Duration::from_millis(1), ..mix };
    let mut is_loaded = false;
    for _ in 0..3 {
        if !is_loaded {
            rig.load(mix).await?;
            is_loaded = true;
        }
        rig.run_for(rig.between(20, 1500)).await;
        match rig.below(4) {
            0 => {
                // Every disk that may have a copy refuses some: a batch may find no copy that takes it,
                // and those behind it may have found all. What was answered must survive that, now.
                let each = rig.below(4);
                for (_, disk) in rig.cluster.disks() {
                    let count = if each == 0 { rig.below(4) } else { 1 };
                    (0..count).for_each(|_| {
                        let faults = [WriteFault::Error, WriteFault::NoSpace, WriteFault::Refused];
                        disk.spoil_next_write(Part::Extents, faults[rig.below(3)]);
                    });
                }
                if rig.below(2) == 0 {
                    rig.run_for(rig.between(0, 100)).await;
                    cut_and_start(&rig).await;
                    is_loaded = false;
                }
            }
            1 => {
                let node = rig.below(3);
                rig.cluster.kill_node(node);
                rig.run_for(rig.between(0, 4000)).await;
                rig.cluster.start_node(node);
            }
            2 => {
                rig.restart_supervisor(rig.between(0, 500)).await;
                is_loaded = false;
            }
            _ => {
                cut_and_start(&rig).await;
                is_loaded = false;
            }
        }
    }
    rig.converge().await
}

async fn cut_and_start(rig: &Rig) {
    rig.forget_clients();
    rig.cluster.cut_all_power();
    rig.run_for(rig.between(0, 500)).await;
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
}

/// A record that can't be read must not pass for the end of the log. The last one's damage is told by
/// the MARK behind it, once that is written.
async fn rotten_record(stage: Stage) -> Result<(), Failure> {
    let span = 256;
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    for _ in 0..2 {
        rig.on_volume(VOLUME, move |watched| async move {
            watched.change(Change::Write, SectorRange::new(Lba(0), span)).await
        })
        .await??;
        rig.in_place(VOLUME).await?;
    }
    let mix = Mix { depth: 8, writes: 100, zeroes: 0, discards: 0, flushes: 0, ..Mix::default() };
    rig.load(Mix { span_sectors: span, sectors_max: 8, think: Duration::from_millis(5), ..mix })
        .await?;
    rig.run_for(rig.between(50, 300)).await;
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.run_for(rig.between(150, 800)).await;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    // One of the latest operations, wherever the disks have it; in the log its header, or its contents.
    let in_header = rig.below(2) == 0;
    let operations = rig.record(VOLUME).oracle().operations();
    let rotten = operations.saturating_sub(1 + rig.below(16) as u64);
    let mut hit = false;
    for node in 0..3 {
        let disk = &rig.cluster.node(node).disks()[0];
        for sector in disk.written_sectors() {
            let bytes = disk.peek(SectorRange::new(Lba(sector), 1));
            let content = pattern::recognise(&bytes);
            if matches!(content, Content::Written { operation, .. } if operation == rotten) {
                let before = disk.peek(SectorRange::new(Lba(sector.saturating_sub(1)), 1));
                let in_header = in_header && before.starts_with(b"epLR");
                let sector = sector - u64::from(in_header);
                disk.flip_byte(sector * SECTOR_BYTES as u64 + 77, 4);
                hit |= in_header;
            }
        }
    }
    rig.cluster.tell(&format!("operation {rotten} rots; in a header: {hit}"));
    (0..3).for_each(|number| rig.cluster.start_node(number));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), span));
    let decided = || {
        rig.volume_report(VOLUME).is_some_and(|volume| {
            volume.suspended().is_none_or(|why| why.contains("its log is damaged: records "))
        })
    };
    rig.cluster
        .wait_for("it serves, or says that its log is damaged", OPENING_MAX, decided)
        .await?;
    if rig.volume_report(VOLUME).is_some_and(|volume| volume.suspended().is_some()) {
        return expect(hit, || "it waits for a log of which no header is damaged".into());
    }
    rig.on_volume(VOLUME, move |watched| async move {
        for start in (0..span).step_by(BLOCK_SECTORS as usize) {
            // What is read is compared with what was written; where it rotted in place, it is an error.
            let _ = watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await;
        }
    })
    .await
}

/// What can't be brought into place is appended again, so that release advances; more than the log
/// holds is written meanwhile.
async fn stuck_rows(stage: Stage) -> Result<(), Failure> {
    // A stripe unit on each node: less than an eighth of the log can't be brought into place.
    let span = 384;
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    rig.on_volume(VOLUME, move |watched| async move {
        watched.change(Change::Write, SectorRange::new(Lba(0), span)).await
    })
    .await??;
    rig.in_place(VOLUME).await?;
    let away = rig.below(3);
    rig.cluster.kill_node(away);
    trickle(&rig, 20, span, rig.between(0, 100)).await?;
    trickle(&rig, 260, span, Duration::ZERO).await?;
    rig.run_for(rig.between(0, 4000)).await;
    if rig.below(2) == 0 {
        rig.cluster.cut_all_power();
        rig.run_for(rig.between(0, 500)).await;
        (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(rig.active());
        trickle(&rig, 20, span, Duration::ZERO).await?;
    }
    rig.run_for(rig.between(0, 4000)).await;
    rig.cluster.start_node(away);
    rig.run_for(rig.between(0, 1000)).await;
    trickle(&rig, 20, span, rig.between(0, 100)).await?;
    rig.converge().await
}

/// A destage that needs the checksums of a group, or its initialisation, finds out by itself that nobody is
/// there who could give them.
async fn stuck_unread(stage: Stage) -> Result<(), Failure> {
    let span = 384;
    let rig = Rig::start(&stage, Plan::simple(3, 32), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    let write_each = || {
        rig.on_volume(VOLUME, move |watched| async move {
            for start in (0..span).step_by(128) {
                watched.change(Change::Write, SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
            }
            Ok::<(), block::IoError>(())
        })
    };
    if rig.below(2) == 0 {
        write_each().await??;
        rig.in_place(VOLUME).await?;
        rig.restart_supervisor(rig.between(1, 500)).await;
    }
    write_each().await??;
    let away = rig.below(3);
    rig.cluster.kill_node(away);
    rig.run_for(rig.between(0, 2000)).await;
    trickle(&rig, 600, span, Duration::ZERO).await?;
    rig.run_for(rig.between(0, 4000)).await;
    rig.cluster.start_node(away);
    rig.converge().await
}

/// What is appended again gets a number like everything else. Whatever is on its way to the log at that
/// moment is newer, whoever of them is written first.
async fn overwritten_while_stuck(stage: Stage) -> Result<(), Failure> {
    // Three stripe units on each node: less than an eighth of the log, which is a large one here, can't be
    // brought into place.
    let span = 1152;
    let rig = Rig::start(&stage, Plan::simple(3, 256), &[(VOLUME, 4 << 20, Layout::Raid0)]).await?;
    let write = || {
        rig.on_volume(VOLUME, move |watched| async move {
            watched.change(Change::Write, SectorRange::new(Lba(0), span)).await
        })
    };
    write().await??;
    rig.in_place(VOLUME).await?;
    let away = rig.below(3);
    rig.cluster.kill_node(away);
    rig.wait_out(away, CONVERGENCE_MAX).await?;
    // From now on the log has what nobody can read in place.
    write().await??;
    // Much is on its way at any moment, and writers never wait for room in the log.
    let base = rig.between(60, 120);
    for node in (0..3).filter(|node| *node != away) {
        rig.cluster.node(node).disks()[0].set_latency(Latency { base, ..Latency::FAST });
    }
    let mix = Mix { depth: 20, writes: 55, zeroes: 0, discards: 0, flushes: 0, ..Mix::default() };
    let mix = Mix { span_sectors: span, sectors_max: 8, think: Duration::from_millis(5), ..mix };
    rig.load(mix).await?;
    rig.run_for(rig.between(9000, 14_000)).await;
    if rig.below(2) == 0 {
        rig.cluster.cut_all_power();
        rig.forget_clients();
        (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
        rig.cluster.start_supervisor(rig.active());
        rig.load(mix).await?;
        rig.run_for(rig.between(2000, 8000)).await;
    }
    rig.quiet(CONVERGENCE_MAX).await?;
    rig.converge().await
}
