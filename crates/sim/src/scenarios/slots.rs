//! Disks of which no checksum block is of use, and everything else is.

use block::{BLOCK_SECTORS, Lba, SECTOR_BYTES, SectorRange};
use futures::FutureExt;

use super::checksums::{
    SPAN, STEP, read_all, read_blocks, write_each_area, write_fresh_rows, written_raid0,
};
use super::common::{Rig, VOLUME, expect};
use super::scenario;
use crate::disk::Disk;
use crate::runner::{Failure, Scenario, Stage};

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "both-slots-rotten",
        "both slots of checksum blocks rot on one disk: the other one serves, and they are mended",
        400,
        |stage| both_slots_spoiled(stage, rot).boxed_local(),
    ),
    scenario(
        "both-slots-rotten-raid0",
        "raid0: both slots of a disk's checksum blocks rot: its rows are errors until they are written \
         anew, the others are read",
        400,
        |stage| both_slots_spoiled_raid0(stage, rot).boxed_local(),
    ),
    scenario(
        "both-slots-unreadable",
        "no checksum block of any group can be read on one disk: the other one serves, and they are \
         mended",
        400,
        |stage| both_slots_spoiled(stage, make_unreadable).boxed_local(),
    ),
    scenario(
        "both-slots-unreadable-raid0",
        "raid0: the same, its rows are errors until they are written anew, the others are read",
        400,
        |stage| both_slots_spoiled_raid0(stage, make_unreadable).boxed_local(),
    ),
];

/// Does something to both slots of every checksum block on a disk.
fn spoil_all_slots(disk: &Disk, spoil: fn(&Disk, u64)) {
    for sector in (0..disk.sectors()).step_by(BLOCK_SECTORS as usize) {
        if disk.peek(SectorRange::new(Lba(sector), 1)).starts_with(b"epCS") {
            spoil(disk, sector);
        }
    }
}

fn rot(disk: &Disk, sector: u64) {
    disk.flip_byte(sector * SECTOR_BYTES as u64 + 1000, 4);
}

fn make_unreadable(disk: &Disk, sector: u64) {
    disk.set_bad(SectorRange::new(Lba(sector), BLOCK_SECTORS));
}

async fn both_slots_spoiled(stage: Stage, spoil: fn(&Disk, u64)) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    for _ in 0..2 {
        write_each_area(&rig, BLOCK_SECTORS).await?;
    }
    write_fresh_rows(&rig).await?;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let rotten = rig.below(3);
    rig.cluster.node(rotten).disks().iter().for_each(|disk| spoil_all_slots(disk, spoil));
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.open(VOLUME).await?;
    read_all(&rig).await?;
    write_each_area(&rig, 2 * BLOCK_SECTORS).await?;
    rig.converge().await?;
    // What it holds now is right also when it is alone.
    let away = (rotten + 1 + rig.below(2)) % 3;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    (0..3).filter(|node| *node != away).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.open(VOLUME).await?;
    read_all(&rig).await
}

async fn both_slots_spoiled_raid0(stage: Stage, spoil: fn(&Disk, u64)) -> Result<(), Failure> {
    // More than what is written anew below: the rest must stay an error.
    let rig = written_raid0(&stage, SPAN, STEP as usize / 4).await?;
    rig.forget_clients();
    rig.cluster.cut_all_power();
    let disks = rig.cluster.node(rig.below(3)).disks();
    disks.iter().for_each(|disk| spoil_all_slots(disk, spoil));
    (0..3).for_each(|node| rig.cluster.start_node(node));
    rig.cluster.start_supervisor(rig.active());
    rig.record(VOLUME).expect_unreadable(SectorRange::new(Lba(0), SPAN));
    let failed = read_blocks(&rig).await?;
    let all = SPAN / BLOCK_SECTORS;
    expect(failed < all, || format!("{failed} of {all} blocks can't be read"))?;
    // Writes go on, and what is written anew can be read.
    write_each_area(&rig, BLOCK_SECTORS).await?;
    rig.on_volume(VOLUME, |watched| async move {
        for start in (0..SPAN).step_by(STEP as usize) {
            watched.read(SectorRange::new(Lba(start), BLOCK_SECTORS)).await?;
        }
        Ok::<(), block::IoError>(())
    })
    .await?
    .map_err(|error| Failure(format!("what was written anew reads as {error:?}")))?;
    let left = read_blocks(&rig).await?;
    expect(left <= failed, || format!("{failed} blocks couldn't be read, now {left}"))
}
