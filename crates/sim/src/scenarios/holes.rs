//! What isn't mended yet, each hole by a scenario that is `Expected::Failing`. `sim --known-holes` runs
//! them; whoever mends one moves its scenario to the others and takes it off the list in
//! docs/failure-model.md.

use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;

use super::common::Rig;
use crate::disk::{Part, WriteFault};
use crate::runner::{Expected, Failure, Scenario, Stage};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    hole(
        "lost-metadata-write",
        "a disk answers a write of the metadata's log without doing it: the copy is noticed and \
         written anew while the pool is open",
        ("new-2", "MetadataOlder"),
        |stage| lost_metadata_write(stage).boxed_local(),
    ),
    hole(
        "metadata-copy-not-taken-back",
        "a disk fails a write of the metadata once: its copy is current again once it takes writes",
        ("new-3", "its copy of the metadata isn't current"),
        |stage| metadata_copy_not_taken_back(stage).boxed_local(),
    ),
    hole(
        "half-vanishes",
        "half of the nodes vanish at once: I/O waits, nothing is recorded against them",
        ("new-4", "bytes were copied"),
        |stage| super::shapes::half_vanishes(stage).boxed_local(),
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

/// Finding new-2: nothing reads a copy of the metadata again before the pool is opened anew, so that one
/// that lost an entry counts as current for as long as the owner lives, and what survives is said to be
/// one machine more than it is.
async fn lost_metadata_write(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.judge_metadata_copies();
    let disk = Rc::clone(&rig.cluster.node(rig.below(3)).disks()[0]);
    disk.lose_next_blocks(*b"epME", 1);
    rig.load(Mix::default()).await?;
    rig.run_for(rig.between(2000, 5000)).await;
    rig.converge().await
}

/// Finding new-3: a copy that couldn't be written leaves the current ones and stays away while its disk is
/// in; status says online, and that one more machine may fail, though the metadata is down to one copy.
async fn metadata_copy_not_taken_back(stage: Stage) -> Result<(), Failure> {
    let rig = Rig::mirror(&stage).await?;
    rig.judge_metadata_copies();
    rig.load(Mix::default()).await?;
    for node in 0..2 {
        rig.cluster.node(node).disks()[0].spoil_next_write(Part::Metadata, WriteFault::Error);
        rig.run_for(rig.between(2000, 4000)).await;
    }
    rig.converge().await
}
