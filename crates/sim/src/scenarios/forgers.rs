//! A machine of the cluster that was broken into: it shows configurations of its own making on its disk, signed by nobody,
//! by a key of its own, or by whom the pool has shut out, while the pool is closed; or metadata. Whoever opens it or imports
//! it believes none of that.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use block::{Buffer, Epoch, IoError, Lba, OwnerId, SectorRange};
use futures::FutureExt;
use futures::future::select;
use pool::engine::{ImportOptions, VotesOf};
use pool::format::{
    APPLIED_BYTES, Applied, ConfigNumber, Configuration, Destruction, DiskGeometry, DiskId, PoolId,
    RecordNumber, ReleaseNumber, Signer, Signers, VOTE_BYTES, VotePlace, VoteSlots, Voters,
    select_applied, select_vote,
};
use pool::metadata::{
    AreaBytes, AreaLayout, AreaPosition, CheckpointStamp, Layout, MetaRecord, SharedHistory,
    encode_checkpoint, encode_entry, recover_copy,
};
use pool::{PoolReport, StopAt, StopPoint};
use seal::{Grant, KeyPair, SecretKey};
use uuid::Uuid;

use super::common::{CONVERGENCE_MAX, POOL, Rig, VOLUME};
use super::grants::{bystander, key, supervisor};
use super::nth_step::{What, arm};
use super::read_only::read_by;
use super::scenario;
use super::votes::VOTE_SLOTS;
use crate::cluster::Plan;
use crate::disk::{Disk, Part};
use crate::drivers;
use crate::runner::{Failure, Scenario, Stage};
use crate::steps::{Nth, When};
use crate::workload::Mix;

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "forged-votes",
        "a machine of the cluster shows configurations that no supervisor of the pool has written, while the pool is \
         closed: over restarts, takeovers and changes of the pool's key it is opened as it was",
        400,
        |stage| forged(stage).boxed_local(),
    ),
    scenario(
        "forged-metadata",
        "a machine of the cluster shows metadata that no owner of the pool has written, as the newest copy, while the pool is \
         closed: over restarts and takeovers, also such as are cut short, it is opened as it was",
        400,
        |stage| rewritten(stage).boxed_local(),
    ),
    scenario(
        "key-lost-while-away",
        "a pool's key is lost and another made while machines are away; a supervisor that knows the former one opens \
         nothing older, and all once it is told",
        400,
        |stage| key_lost(stage).boxed_local(),
    ),
];

/// Longest that an opening takes to come to a place.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// The numbers of keys that are nobody's.
const OUTSIDER: u8 = 200;

/// What was said of whom the disks obey.
struct Keys {
    /// The number of the pool's key.
    number: u8,
    /// The grants before the present one, with the numbers of their keys.
    former: Vec<(u8, Grant)>,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

async fn forged(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, ..Plan::simple(4, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let mut keys = Keys { number: 1, former: Vec::new() };
    let mut active = 0;
    let mut has_had = [true, false];
    for _ in 0..2 + rig.below(3) {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(300, 2500)).await;
        if rig.below(2) == 0 {
            change(&rig, &mut keys, active).await?;
        }
        let grant = rig.grant().await?.grant;
        let report = rig.report().ok_or_else(|| failed("the pool isn't open"))?;
        rig.run_for(rig.between(0, 2000)).await;
        rig.cluster.kill_supervisor(active);
        rig.forget_clients();
        rig.run_for(rig.between(0, 8000)).await;
        forge(&rig, &report, &keys, &grant)?;
        let other = 1 - active;
        if rig.below(2) == 0 && grant.names(&supervisor(&rig, other)) {
            active = other;
            // Who never had it has to be told which key is the pool's.
            let is_told = !has_had[active] || rig.below(2) == 0;
            let votes = if is_told { VotesOf::Key(grant.key()) } else { VotesOf::Known };
            taken_over(&rig, active, votes).await?;
            has_had[active] = true;
        } else {
            rig.cluster.start_supervisor(active);
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.load(Mix::default()).await?;
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}

/// Imports the pool by the other supervisor, which is to believe these votes.
async fn taken_over(rig: &Rc<Rig>, active: usize, votes: VotesOf) -> Result<(), Failure> {
    rig.cluster.kill_supervisor(1 - active);
    rig.forget_clients();
    rig.cluster.start_supervisor(active);
    rig.set_active(active);
    rig.see_disks(rig.cluster.disks().len()).await?;
    imported(rig, votes).await
}

async fn imported(rig: &Rc<Rig>, votes: VotesOf) -> Result<(), Failure> {
    let options = ImportOptions { force: true, votes, ..ImportOptions::default() };
    rig.with(|engine| async move { engine.import_pool(POOL, options).await }).await.map(drop)
}

async fn rewritten(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, ..Plan::simple(4, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    let first = rig.grant().await?.grant;
    let named = [supervisor(&rig, 0), supervisor(&rig, 1)];
    rig.set_grant(key(1)?.follow(&first, &named).map_err(failed)?).await?;
    let mut active = 0;
    for _ in 0..2 + rig.below(3) {
        rig.load(Mix::default()).await?;
        rig.run_for(rig.between(300, 2500)).await;
        let report = rig.report().ok_or_else(|| failed("the pool isn't open"))?;
        rig.cluster.kill_supervisor(active);
        rig.forget_clients();
        rig.run_for(rig.between(0, 8000)).await;
        rewrite(&rig, &report, active)?;
        if rig.below(3) == 0 {
            // Who only looks at it is told nothing else either.
            read_by(&rig, 1 - active).await?;
            rig.cluster.kill_supervisor(1 - active);
            rig.set_active(active);
        }
        match rig.below(3) {
            0 => rig.cluster.start_supervisor(active),
            whether => {
                let other = 1 - active;
                if whether == 1 {
                    cut_short(&rig, other).await?;
                    rig.run_for(rig.between(0, 8000)).await;
                }
                active = if rig.below(2) == 0 { other } else { active };
                taken_over(&rig, active, VotesOf::Known).await?;
            }
        }
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    rig.load(Mix::default()).await?;
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}

/// Where an opening leaves votes and copies of the metadata each in a state of its own.
const OPENING: [StopPoint; 4] = [
    StopPoint::OpenClaimed,
    StopPoint::OpenConfigured,
    StopPoint::OpenCheckpointed,
    StopPoint::OpenNamed,
];

/// A supervisor that begins to take the pool, and ends at some moment of that: it may have written to some copies of the
/// metadata, to all, or to none.
async fn cut_short(rig: &Rc<Rig>, active: usize) -> Result<(), Failure> {
    rig.cluster.start_supervisor(active);
    rig.set_active(active);
    rig.see_disks(rig.cluster.disks().len()).await?;
    let steps = rig.cluster.world().timeline().steps();
    let moment = match rig.below(2) {
        0 => rig.run_for(rig.between(0, 1500)).boxed_local(),
        _ => {
            let at = StopAt { point: OPENING[rig.below(OPENING.len())], passings: 1 };
            let struck = arm(rig, Nth::Named(at), When::After, What::Process);
            let ends = rig.cluster.wait_for("it is cut short", OPENING_MAX, move || struck.get());
            ends.map(drop).boxed_local()
        }
    };
    // It may be done before.
    drop(select(pin!(imported(rig, VotesOf::Known)), pin!(moment)).await);
    steps.end();
    rig.cluster.kill_supervisor(active);
    rig.forget_clients();
    Ok(())
}

async fn key_lost(stage: Stage) -> Result<(), Failure> {
    let plan = Plan { supervisors: 2, granted: true, ..Plan::simple(3, 32) };
    let rig = Rig::start(&stage, plan, &[(VOLUME, 4 << 20, Layout::Mirror(2))]).await?;
    // Both have had it.
    for active in [1, 0] {
        taken_over(&rig, active, VotesOf::Known).await?;
        rig.wait_clean(CONVERGENCE_MAX).await?;
    }
    let known = rig.grant().await?.grant;
    let away = rig.below(rig.cluster.node_count());
    rig.cluster.kill_node(away);
    rig.load(Mix::BUSY).await?;
    rig.run_for(rig.between(1, 20_000)).await;
    let named = [supervisor(&rig, 0), supervisor(&rig, 1), bystander(&rig)];
    let next = key(9)?.found_after(&known, &named).map_err(failed)?;
    rig.set_grant(next.clone()).await?;
    rig.run_for(rig.between(1, 20_000)).await;
    rig.cluster.start_node(away);
    // The disk that was away may have heard of it, or not.
    rig.run_for(rig.between(0, 300)).await;
    let is_refused = taken_over(&rig, 1, VotesOf::Known).await.is_err();
    if is_refused {
        imported(&rig, VotesOf::Key(next.key())).await?;
    }
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.load(Mix::default()).await?;
    rig.cluster.heal();
    rig.wait_clean(CONVERGENCE_MAX).await?;
    rig.converge().await
}

/// The pool gets another key, or lets others in.
async fn change(rig: &Rig, keys: &mut Keys, active: usize) -> Result<(), Failure> {
    let known = rig.grant().await?.grant;
    let other = (rig.below(2) == 0).then(|| supervisor(rig, 1 - active));
    let named: Vec<_> =
        [supervisor(rig, active), bystander(rig)].into_iter().chain(other).collect();
    keys.former.push((keys.number, known.clone()));
    let pair = key(keys.number)?;
    let next = match rig.below(3) {
        0 => pair.follow(&known, &named),
        _ => {
            keys.number += 1;
            pair.hand_over(&known, &key(keys.number)?, &named)
        }
    };
    rig.set_grant(next.map_err(failed)?).await.map(drop)
}

/// Somebody's word, who has no say.
fn forger(rig: &Rig, keys: &Keys, grant: &Grant) -> Result<Option<Signer>, Failure> {
    let outsider = KeyPair::of(SecretKey::new([OUTSIDER; 32])).map_err(failed)?;
    let named = [supervisor(rig, 0), supervisor(rig, 1), outsider.public()];
    let former = keys.former.get(rig.below(keys.former.len()));
    let (by, grant) = match (rig.below(4), former) {
        (0, _) => return Ok(None),
        // Under a key of his own, and under any version.
        (1, _) | (_, None) => {
            let own = key(OUTSIDER)?;
            let first = own.found(&named).map_err(failed)?;
            let later = (0..rig.below(8)).try_fold(first, |last, _| own.follow(&last, &named));
            (outsider, later.map_err(failed)?)
        }
        // By a former key of the pool, if it has another by now.
        (2, Some((number, former))) if *number < keys.number => {
            let own = key(*number)?;
            let steps = rig.below(8);
            let later = (0..=steps).try_fold(former.clone(), |last, _| own.follow(&last, &named));
            (outsider, later.map_err(failed)?)
        }
        // Who was let in, and is no more.
        (_, Some((_, former))) => {
            let out = (0..2).find(|of| !grant.names(&supervisor(rig, *of)));
            let Some(out) = out else { return Ok(None) };
            let name = rig.cluster.supervisor(out).name().to_owned();
            (drivers::keys(&rig.cluster.director(), &name), former.clone())
        }
    };
    Ok(Signer::new(Some(&by), Some(&Rc::new(grant))))
}

fn slots_of(disk: &Disk, place: &VotePlace) -> VoteSlots {
    let sectors = (VOTE_BYTES / block::SECTOR_BYTES) as u64;
    let [first, second] = VOTE_SLOTS.map(|at| disk.peek(SectorRange::new(Lba(at), sectors)));
    select_vote(place, [Some(&first), Some(&second)], &[])
}

/// Shows what isn't so on a machine's disk.
fn forge(rig: &Rig, report: &PoolReport, keys: &Keys, grant: &Grant) -> Result<(), Failure> {
    let pool = PoolId(report.id.parse().map_err(failed)?);
    let shown = &report.disks[rig.below(report.disks.len())];
    let mine = DiskId(shown.id.parse().map_err(failed)?);
    let place = VotePlace { pool, disk: mine, witness: None };
    let disks = rig.cluster.disks();
    let disk = disks.iter().find(|(name, _)| *name == shown.name).map(|(_, disk)| disk);
    let disk = disk.ok_or_else(|| failed("there is no such disk"))?;
    let slots = slots_of(disk, &place);
    // A disk that never had a vote shows none.
    let Some(genuine) = slots.newest else { return Ok(()) };
    let epoch = match rig.below(3) {
        0 => Epoch(u64::MAX),
        1 => genuine.epoch,
        _ => genuine.epoch.next(),
    };
    let owners = [genuine.owner, OwnerId(Uuid::from_u128(666)), OwnerId::NONE];
    let destruction = [Destruction::None, Destruction::Asked, Destruction::Decided];
    let is_alone = rig.below(3) > 0;
    let voters = if is_alone { Voters::of(vec![mine]) } else { genuine.voters.clone() };
    let forged = Configuration {
        epoch,
        number: ConfigNumber(genuine.number.0 + 1 + rig.below(1000) as u64),
        owner: owners[rig.below(3)],
        released: rig.below(2) == 0,
        destruction: destruction[rig.below(3)],
        voters,
        copies: [mine].into(),
        record: RecordNumber(genuine.record.0 + [0, 1, 1_000_000][rig.below(3)]),
        out: Vec::new(),
        ..genuine
    };
    let by = forger(rig, keys, grant)?;
    rig.cluster.tell(&format!("{} shows {forged:?}, signed by {by:?}", shown.name));
    // In the place of its older vote, or of both.
    let both = rig.below(2) == 0;
    for slot in [slots.next_slot, 1 - slots.next_slot].into_iter().take(1 + usize::from(both)) {
        let record = forged.encode(&place, slot, by.as_ref()).map_err(failed)?;
        disk.poke(Lba(VOTE_SLOTS[slot]), &record);
    }
    Ok(())
}

/// The bytes of a metadata area.
struct Area<'a>(&'a [u8]);

impl AreaBytes for Area<'_> {
    async fn read(&self, at: u64, len: u64) -> Result<Buffer, IoError> {
        let bytes = self.0.get(at as usize..(at + len) as usize);
        bytes.map(Buffer::copy_of).ok_or(IoError::Lost)
    }
}

/// Shows metadata without its volumes on a machine's disk, as the newest: as an entry behind what is there, or as a
/// checkpoint. It isn't signed, by nobody's key, or by a supervisor that the pool lets in and whom it doesn't belong to.
/// Or has the disk say that records were committed of which nobody has heard.
fn rewrite(rig: &Rig, report: &PoolReport, owner: usize) -> Result<(), Failure> {
    let pool = PoolId(report.id.parse().map_err(failed)?);
    let shown = &report.disks[rig.below(report.disks.len())];
    let disks = rig.cluster.disks();
    let disk = disks.iter().find(|(name, _)| *name == shown.name).map(|(_, disk)| disk);
    let disk = disk.ok_or_else(|| failed("there is no such disk"))?;
    let keys = match rig.below(3) {
        0 => None,
        1 => Some(KeyPair::of(SecretKey::new([OUTSIDER; 32])).map_err(failed)?),
        _ => {
            let name = rig.cluster.supervisor(1 - owner).name().to_owned();
            Some(drivers::keys(&rig.cluster.director(), &name))
        }
    };
    if rig.below(4) == 0 {
        // Whoever has the key of a supervisor that is let in may as well take the pool.
        let keys = keys.filter(|keys| keys.public() != supervisor(rig, 1 - owner));
        return outdo(rig, disk, (pool, DiskId(shown.id.parse().map_err(failed)?)), keys.as_ref());
    }
    let Some(area) = Part::Metadata.ranges(disk).pop() else { return Ok(()) };
    let bytes = disk.peek(area);
    let (anybody, shared) = (Signers::default(), SharedHistory::default());
    let layout = AreaLayout::new(bytes.len() as u64).ok_or_else(|| failed("no metadata area"))?;
    let copy = recover_copy((pool, &anybody), &layout, &Area(&bytes), &shared).now_or_never();
    // A disk that has no vote has none.
    let Some(Ok(copy)) = copy else { return Ok(()) };
    let records: Vec<MetaRecord> =
        copy.metadata.volumes().keys().map(|id| MetaRecord::VolumeRemoved { id: *id }).collect();
    let poke = |at: u64, bytes: &[u8]| {
        disk.poke(Lba(area.start.0 + at / block::SECTOR_BYTES as u64), bytes);
    };
    let is_entry = rig.below(2) == 0;
    let by = keys.as_ref().map(KeyPair::public);
    rig.cluster.tell(&format!(
        "{} shows other metadata after {}, {} by {by:?}",
        shown.name,
        copy.position.number,
        if is_entry { "an entry" } else { "a checkpoint" }
    ));
    if is_entry {
        let position = AreaPosition { by, ..copy.position };
        let entry = encode_entry(&layout, &position, (copy.config, keys.as_ref()), &records);
        let entry = entry.map_err(failed)?;
        poke(layout.log_offset(position.slot()) + entry.log_at, &entry.bytes);
        return Ok(());
    }
    let mut metadata = copy.metadata.clone();
    metadata.apply_all(&records).map_err(failed)?;
    let head = &copy.newest.head;
    let stamp = CheckpointStamp {
        sequence: copy.highest_sequence + 1,
        epoch: head.stamp.epoch,
        number: copy.position.number.next(),
    };
    let in_use = copy.newest.in_use();
    let stamp = (stamp, keys.as_ref());
    let forged = encode_checkpoint(&layout, &metadata, stamp, None, &in_use).map_err(failed)?;
    for (run, bytes) in forged.fresh().flat_map(|placed| placed.runs()) {
        poke(layout.run_offset(&run), &bytes);
    }
    poke(layout.checkpoint_offset(forged.after.slot()), &forged.header);
    Ok(())
}

/// A disk that knows of more than was ever committed.
fn outdo(
    rig: &Rig,
    disk: &Disk,
    (pool, id): (PoolId, DiskId),
    keys: Option<&KeyPair>,
) -> Result<(), Failure> {
    let slots = DiskGeometry::applied_slots();
    let sectors = (APPLIED_BYTES / block::SECTOR_BYTES) as u64;
    let [first, second] = slots.map(|at| disk.peek(SectorRange::new(at, sectors)));
    let found = select_applied(pool, id, [Some(&first), Some(&second)]);
    let Some(newest) = found.newest else { return Ok(()) };
    let record = RecordNumber([newest.record.0 + 1000, 1 << 62, u64::MAX][rig.below(3)]);
    let mut forged = Applied { sequence: found.next_sequence, record, ..newest };
    // Or as blocks that lost what they said, which whoever has the pool writes anew.
    let is_lost = rig.below(2) == 0;
    if is_lost {
        forged.release = ReleaseNumber(0);
        disk.poke(slots[1 - forged.slot()], &[0; APPLIED_BYTES]);
    }
    rig.cluster.tell(&format!("{id} says {forged:?}, signed by {keys:?}"));
    disk.poke(slots[forged.slot()], &forged.encode(keys));
    Ok(())
}
