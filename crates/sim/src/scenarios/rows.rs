//! Rows of which one disk has the only right copy, and isn't the one that should have it, or is silent just
//! then.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;
use futures::future::join_all;
use pool::metadata::Layout;

use super::common::{CONVERGENCE_MAX, Rig, VOLUME};
use super::damage::repaired_by_verifying;
use super::scenario;
use crate::cluster::Plan;
use crate::disk::{Disk, Latency};
use crate::oracle::Change;
use crate::pattern::{self, Content};
use crate::runner::{Failure, Scenario, Stage};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "rotten-while-behind",
        "a disk misses rows, and what it has of their regions rots on the other one: it is read from the one \
         that is behind, as soon as that is back, and the other one is mended",
        400,
        |stage| rotten_while_behind(stage).boxed_local(),
    ),
    scenario(
        "rotten-while-silent",
        "rows are rotten on one disk, and the other one restarts or hangs for a moment: they are waited for, \
         and mended",
        400,
        |stage| rotten_while_silent(stage).boxed_local(),
    ),
];

/// Sectors that are written.
const SPAN: u64 = 4096;
/// A stripe unit.
const UNIT: u64 = 128;
/// Longest that a node is silent: with what it takes it in again, less than a write waits for a disk.
const SILENT_MAX_MS: u64 = 500;

/// A block of each stripe unit, and the operation that wrote it.
type Rows = BTreeMap<u64, u64>;

/// A pool whose regions have some rows each, written and in place.
async fn written(stage: &Stage) -> Result<(Rc<Rig>, Rows), Failure> {
    let plan = Plan { extent_bytes: 1 << 20, ..Plan::simple(3, 64) };
    let rig = Rig::start(stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let mut rows = Rows::new();
    write(&rig, (0..SPAN).step_by(UNIT as usize).map(|unit| SectorRange::new(Lba(unit), UNIT)))
        .await?;
    for unit in (0..SPAN).step_by(UNIT as usize) {
        let at = unit + (1 + rig.below(14) as u64) * BLOCK_SECTORS;
        write(&rig, [SectorRange::new(Lba(at), BLOCK_SECTORS)].into_iter()).await?;
        rows.insert(at, rig.record(VOLUME).oracle().operations());
    }
    rig.in_place(VOLUME).await?;
    Ok((rig, rows))
}

async fn write(rig: &Rig, ranges: impl Iterator<Item = SectorRange>) -> Result<(), Failure> {
    let ranges: Vec<SectorRange> = ranges.collect();
    rig.on_volume(VOLUME, |watched| async move {
        for range in ranges {
            watched.change(Change::Write, range).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await??;
    Ok(())
}

/// Reads all of these rows at once.
async fn read(rig: &Rig, rows: &Rows) -> Result<(), Failure> {
    let rows: Vec<u64> = rows.keys().copied().collect();
    rig.on_volume(VOLUME, |watched| async move {
        let ranges = rows.iter().map(|row| SectorRange::new(Lba(*row), BLOCK_SECTORS));
        let reads = join_all(ranges.map(|range| watched.read(range))).await;
        reads.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    })
    .await?
    .map_err(|error| Failure(format!("a row with a right copy reads as {error}")))
}

/// Where a disk has rows in place: not in its log, where a header precedes each.
fn places(disk: &Disk, rows: &Rows) -> Rows {
    let mut places = Rows::new();
    for at in disk.written_sectors() {
        let content = pattern::recognise(&disk.peek(SectorRange::new(Lba(at), 1)));
        let Content::Written { operation, sector, .. } = content else { continue };
        let before = disk.peek(SectorRange::new(Lba(at.saturating_sub(1)), 1));
        if rows.get(&sector) == Some(&operation) && !before.starts_with(b"epLR") {
            places.insert(sector, at);
        }
    }
    places
}

/// Rots on one node's disk what the other one's has as well; tells which rows.
fn rot(rig: &Rig, rows: &Rows, node: usize, other: usize) -> Rows {
    let disk = rig.cluster.node(node).disks()[0].clone();
    let rotten = shared(rig, rows, node, other);
    rotten.values().for_each(|at| disk.flip_byte(at * SECTOR_BYTES as u64 + 77, 4));
    rotten
}

/// Where the first node has what both have.
fn shared(rig: &Rig, rows: &Rows, node: usize, other: usize) -> Rows {
    let places = |node: usize| places(&rig.cluster.node(node).disks()[0], rows);
    let others = places(other);
    places(node).into_iter().filter(|(row, _)| others.contains_key(row)).collect()
}

/// Two nodes that share rows, in any order.
fn two_nodes(rig: &Rig, rows: &Rows) -> Result<(usize, usize), Failure> {
    let pairs = [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)];
    let pairs =
        pairs.into_iter().filter(|(one, other)| !shared(rig, rows, *one, *other).is_empty());
    let pairs: Vec<(usize, usize)> = pairs.collect();
    let chosen = pairs.get(rig.below(pairs.len())).copied();
    chosen.ok_or_else(|| Failure("no two nodes share a row".into()))
}

/// Bits steer, checksums decide: that it missed a row of a region says nothing of the others there.
async fn rotten_while_behind(stage: Stage) -> Result<(), Failure> {
    let (rig, rows) = written(&stage).await?;
    let (wrong, behind) = two_nodes(&rig, &rows)?;
    rig.cluster.kill_node(behind);
    rig.wait_out(behind, CONVERGENCE_MAX).await?;
    // On both sides: one of them is in the same region.
    let beside = |row: &u64| [row - BLOCK_SECTORS, row + BLOCK_SECTORS];
    let beside = rows.keys().flat_map(beside).map(|at| SectorRange::new(Lba(at), BLOCK_SECTORS));
    write(&rig, beside).await?;
    rig.in_place(VOLUME).await?;
    let rotten = rot(&rig, &rows, wrong, behind);
    // Without the one that is behind they are errors.
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    // Resync takes long, so that most is read before its bits are cleared.
    let slow = Latency { base: rig.between(50, 400), ..Latency::FAST };
    rig.cluster.node(wrong).disks()[0].set_latency(slow);
    rig.cluster.start_node(behind);
    rig.wait_in(behind, CONVERGENCE_MAX).await?;
    rig.record(VOLUME).expect_readable();
    read(&rig, &rotten).await?;
    rig.cluster.node(wrong).disks()[0].set_latency(Latency::FAST);
    rig.wait_clean(CONVERGENCE_MAX).await?;
    mended(&rig, &rotten, wrong).await
}

/// Nothing follows from silence: neither that a row is lost, nor that it is an error.
async fn rotten_while_silent(stage: Stage) -> Result<(), Failure> {
    let (rig, rows) = written(&stage).await?;
    for _ in 0..3 {
        let (wrong, silent) = two_nodes(&rig, &rows)?;
        let rotten = rot(&rig, &rows, wrong, silent);
        let restarts = rig.below(2) == 0;
        let process = rig.cluster.node(silent).process();
        match restarts {
            true => rig.cluster.kill_node(silent),
            false => process.iter().for_each(|process| process.pause()),
        }
        let time = rig.between(0, SILENT_MAX_MS);
        let returns = async {
            rig.run_for(time).await;
            match restarts {
                true => rig.cluster.start_node(silent),
                false => process.iter().for_each(|process| process.resume()),
            }
        };
        let (answer, ()) = futures::future::join(read(&rig, &rotten), returns).await;
        answer?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
        // Who was back at once may have answered before the other one was asked.
        repaired_by_verifying(&rig).await?;
        mended(&rig, &rotten, wrong).await?;
    }
    rig.converge().await
}

/// What was rotten is right again on its disk.
async fn mended(rig: &Rig, rotten: &Rows, node: usize) -> Result<(), Failure> {
    let disk = rig.cluster.node(node).disks()[0].clone();
    let is_right = |at: &u64| {
        let content = pattern::recognise(&disk.peek(SectorRange::new(Lba(*at), 1)));
        matches!(content, Content::Written { .. })
    };
    let mended = || rotten.values().all(is_right);
    rig.cluster.wait_for("what was rotten is mended", Duration::from_secs(20), mended).await?;
    rig.verify_all().await
}
