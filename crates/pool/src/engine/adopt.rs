//! Adopting the metadata when a pool is opened: the longest sound tail of the copies that the newest
//! configuration names. It is refused, by name, when anything present knows of a later record: the
//! newest copy may be away, and what is present a copy that rotted, lost a write or was rolled back.
//! Old maps give extents that others own by now; nothing may be served by them unasked.

use block::{Buffer, IoError, SECTOR_BYTES};
use futures::future::join_all;
use seal::{KeyPair, PublicKey};

use super::areas::{AreaPlace, shortest_area};
use super::cable::{Load, side_by_side};
use super::commit::Area;
use super::observe::{read_label_of, read_slots};
use super::open::{Claimed, OpenRequest, SeenDisk};
use crate::error::PoolError;
use crate::format::{
    Configuration, DiskGeometry, DiskId, ExtentRange, LabelState, RecordNumber, Signers,
    select_applied,
};
use crate::metadata::{
    AreaBytes, AreaFault, CopyUnusable, Metadata, Recovered, SharedHistory, choose_copy, found_on,
    recover_copy,
};
use block::read_run;

/// More than are committed before some disk records a release as applied.
const RECORDS_SKIPPED: u64 = 1 << 20;

/// Nobody commits so many while a disk isn't told: one that knows of more says what isn't so, and would have numbers come to
/// their end. Whose word counts has his own in it, too, where everybody's does.
const RECORDS_AHEAD_MAX: u64 = 1 << 40;

/// A record that was committed, and who knows of it.
struct Witness {
    record: RecordNumber,
    who: String,
}

/// Why a copy is of no use, and what it proves all the same.
struct Unusable {
    why: String,
    proves: Option<RecordNumber>,
    /// Whether it isn't signed by whom it should be.
    is_unproved: bool,
}

/// What was adopted.
pub(super) struct Adoption {
    pub(super) metadata: Metadata,
    pub(super) area: Area,
    /// Current copies that nobody signed who may have.
    pub(super) unproved: Vec<DiskId>,
}

impl OpenRequest {
    /// Reads the metadata copies that are current and present; the longest valid tail counts.
    pub(super) async fn adopt(
        &self,
        before: &Configuration,
        claimed: &[Claimed],
    ) -> Result<Adoption, PoolError> {
        let current = &before.copies;
        let holders: Vec<_> =
            claimed.iter().filter(|c| current.contains(&c.disk.label.disk)).collect();
        let shared = SharedHistory::default();
        let signers = self.below.signers_of(before);
        let mut witnesses = self.witnesses(before, &signers, claimed).await;
        let reads = holders.iter().map(|claimed| self.read_area(&claimed.disk, &signers, &shared));
        let mut copies: Vec<Recovered> = Vec::new();
        let (mut faults, mut unproved) = (Vec::new(), Vec::new());
        let mut places: Vec<(DiskId, ExtentRange)> = Vec::new();
        for (holder, found) in holders.iter().zip(join_all(reads).await) {
            let name = &holder.disk.place.name;
            match found {
                Ok((recovered, area)) => {
                    places.push((holder.disk.label.disk, area));
                    copies.push(recovered);
                }
                Err(Unusable { why, proves, is_unproved }) => {
                    unproved.extend(is_unproved.then_some(holder.disk.label.disk));
                    faults.push(format!("{name}: {why}"));
                    let who = format!("the metadata log of {name}, behind damage,");
                    witnesses.extend(proves.map(|record| Witness { record, who }));
                }
            }
        }
        let faults = match faults.is_empty() {
            true => String::new(),
            false => format!(" ({})", faults.join("; ")),
        };
        let pool = &self.name;
        let remedy =
            format!("to believe it all the same: etherpool pool import {pool} --pool-key any");
        let faults = if unproved.is_empty() { faults } else { format!("{faults}; {remedy}") };
        // Who is away may have more; who is there and of no use was named with its fault.
        let away = |disk: &&DiskId| !holders.iter().any(|holder| holder.disk.label.disk == **disk);
        let missing: Vec<String> =
            current.iter().filter(away).map(|disk| self.name_of(*disk)).collect();
        let unusable = |why: String| PoolError::NoQuorum {
            pool: self.name.clone(),
            why,
            missing: missing.clone(),
        };
        let best = choose_copy(&copies).map_err(|error| {
            unusable(format!("no usable copy of its metadata: {error}{faults}"))
        })?;
        let highest = copies.iter().map(|copy| copy.highest_sequence).max().unwrap_or(0);
        let none = || unusable("no metadata area".into());
        let foundation = found_on(&mut copies, best).ok_or_else(none)?;
        let mut chosen = copies.swap_remove(best);
        // Its own first: not all may fit.
        let by = [&chosen].into_iter().chain(&copies).map(|copy| copy.newest.head.by);
        let signers = self.signers_now(before, by.collect());
        chosen.position.sequence = highest;
        let ends = chosen.position.number;
        let credible = before.record.max(ends).0.saturating_add(RECORDS_AHEAD_MAX);
        witnesses.retain(|witness| witness.record.0 <= credible);
        let newest = witnesses.into_iter().max_by_key(|witness| witness.record);
        let committed = newest.as_ref().map_or(RecordNumber(0), |witness| witness.record);
        if let Some(Witness { record, who }) = newest.filter(|witness| witness.record > ends) {
            if !self.outdated {
                return Err(unusable(format!(
                    "the newest metadata found ends at {ends}, {who} knows of {record}{faults}; \
                     `etherpool pool import --outdated-metadata` gives up what was changed since"
                )));
            }
            tracing::warn!(pool = %self.name, %ends, %record, "outdated metadata is adopted");
            // No later number means two things. Logs may know of more than votes and applied blocks.
            chosen.position.number = RecordNumber(record.0.saturating_add(RECORDS_SKIPPED));
            chosen.metadata.forget_high_water_marks();
        }
        if chosen.config > self.found.unwrap_or(before.number) && !self.outdated {
            return Err(PoolError::NoQuorum {
                pool: self.name.clone(),
                why: format!(
                    "the votes found are older than its metadata ({}, which knows of {})",
                    before.number, chosen.config
                ),
                missing: self.votes_away(before, claimed),
            });
        }
        chosen.metadata.skip_releases();
        let layout = shortest_area(&chosen.metadata, &before.voters.all());
        let layout = layout.ok_or_else(none)?;
        // A copy that the newest metadata looks for elsewhere isn't written to before its label is right.
        let in_step = foundation.in_step.iter().filter_map(|index| places.get(*index));
        let in_step = in_step.filter(|(id, area)| {
            let disk = chosen.metadata.disk_by_id(*id);
            disk.is_some_and(|disk| disk.agrees_on_area(Some(*area)))
        });
        let in_step = in_step.map(|(id, _)| *id).collect();
        let foundation = (foundation, in_step);
        let area = Area::new(layout, chosen.position, foundation, committed, signers);
        for disk in &unproved {
            let disk = self.name_of(*disk);
            tracing::warn!(pool = %self.name, disk, "its copy of the metadata is signed by nobody who may have");
        }
        Ok(Adoption { metadata: chosen.metadata, area, unproved })
    }

    /// Who may have signed the metadata from now on: we, as well as those who signed what was found, or may have signed what
    /// can't be read. Everybody where we have no keys, or nobody signed what there is, until there is a checkpoint of ours.
    fn signers_now(&self, before: &Configuration, found: Option<Vec<PublicKey>>) -> Signers {
        let ours = self.config.keys.as_ref().map(KeyPair::public);
        let all = ours.zip(found).filter(|_| !before.metadata_by.is_empty());
        let all = all.map(|(ours, found)| {
            Signers::of([ours].into_iter().chain(found).chain(before.metadata_by.iter()))
        });
        all.unwrap_or_default()
    }

    fn votes_away(&self, before: &Configuration, claimed: &[Claimed]) -> Vec<String> {
        let away = |disk: &&DiskId| !claimed.iter().any(|c| c.disk.label.disk == **disk);
        before.voters.all().iter().filter(away).map(|disk| self.name_of(*disk)).collect()
    }

    /// What the votes and the disks' applied blocks know to be committed. Of these what one of `signers` wrote, or who is let
    /// in now: any machine can show a record that nobody has, and all would wait for it; and votes that were put back name
    /// those who had the pool at the time, and not who had it since.
    async fn witnesses(
        &self,
        before: &Configuration,
        signers: &Signers,
        claimed: &[Claimed],
    ) -> Vec<Witness> {
        let mut known = vec![Witness { record: before.record, who: "a vote".into() }];
        let reads = claimed.iter().map(|claimed| async move {
            let SeenDisk { device, label, place, .. } = &claimed.disk;
            let slots = read_slots(&**device, DiskGeometry::applied_slots(), 8);
            let slots = self.within(slots).await.ok()?;
            let slots = [slots[0].as_deref(), slots[1].as_deref()];
            let found = select_applied(self.id, label.disk, slots);
            let who = format!("{}, by what it applied,", place.name);
            // Also the older one: the other may have been put there to hide it.
            let counts = [found.newest, found.former].into_iter().flatten();
            let counts = counts.filter(|said| self.below.is_witness(signers, said.by));
            let record = counts.map(|said| said.record).max()?;
            Some(Witness { record, who })
        });
        let read = side_by_side(&self.runtime, Load::Labels, reads).await;
        known.extend(read.into_iter().flatten());
        known
    }

    /// The copy of a disk, and where it is. The label is read once more: its former owner may have moved
    /// the area between the look at the disk and the claim.
    async fn read_area(
        &self,
        disk: &SeenDisk,
        signers: &Signers,
        shared: &SharedHistory,
    ) -> Result<(Recovered, ExtentRange), Unusable> {
        let unusable = |why: String| Unusable { why, proves: None, is_unproved: false };
        let reading = read_label_of(&*disk.device, (disk.label.pool, disk.label.disk));
        let label = match self.within(reading).await {
            Ok(LabelState::Labelled(found)) if found.label.disk == disk.label.disk => found.label,
            Ok(_) => return Err(unusable("its label isn't what it was".into())),
            Err(error) => return Err(unusable(error.to_string())),
        };
        let found =
            label.area.and_then(|area| Some((area, AreaPlace::new(&label.geometry, area)?)));
        let (area, place) = found.ok_or_else(|| unusable("it has no metadata area".into()))?;
        let bytes = AreaOf { request: self, disk, place };
        let recovered = recover_copy((self.id, signers), &place.layout, &bytes, shared).await;
        let recovered = recovered.map_err(|error| Unusable {
            why: error.to_string(),
            proves: match error {
                CopyUnusable::Fault(fault) => fault.proves(),
                CopyUnusable::Unreadable(_) => None,
            },
            is_unproved: matches!(error, CopyUnusable::Fault(AreaFault::Unproved { .. })),
        })?;
        let itself = recovered.metadata.disk_by_id(label.disk);
        if !itself.is_some_and(|itself| itself.agrees_on_area(Some(area))) {
            return Err(unusable("its metadata names another place for itself".into()));
        }
        Ok((recovered, area))
    }
}

/// The metadata area of a disk present. Each piece has its time, so that a long log is read to its end.
struct AreaOf<'a> {
    request: &'a OpenRequest,
    disk: &'a SeenDisk,
    place: AreaPlace,
}

impl AreaBytes for AreaOf<'_> {
    async fn read(&self, at: u64, len: u64) -> Result<Buffer, IoError> {
        let start = self.place.sector_at(at);
        self.request.within(read_run(&*self.disk.device, start, len / SECTOR_BYTES as u64)).await
    }
}
