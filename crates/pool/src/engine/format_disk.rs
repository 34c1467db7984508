//! Making a device a disk of a pool: what is written in which order. (Whether it may be: `whose`.) The labels
//! come last, so that a crash leaves a disk that belongs to nobody.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{
    BLOCK_BYTES, BlockDevice, Claim, Epoch, Holder, IoError, RefusalReason, SECTOR_BYTES, Trust,
};

use futures::future::{try_join, try_join_all};

use super::observe::{Content, Others, read_content, read_label, remedy_of_refusal};
use super::unlabel::wipe;
use super::{DiskPlace, EngineConfig, Limits, votes};
use crate::error::PoolError;
use crate::format::{
    Applied, DiskGeometry, DiskId, ExtentNumber, ExtentRange, Label, LabelState, MIB, PoolId,
    RecordNumber, ReleaseNumber,
};
use crate::metadata::{AreaLayout, Labels};
use block::probe::{Signature, is_empty_but_for_owner};
use block::write_durably;

/// A device that shall become a disk.
pub(crate) struct Candidate {
    pub(crate) place: DiskPlace,
    pub(crate) node: uuid::Uuid,
    pub(crate) device: Rc<dyn BlockDevice>,
    /// The user named it as one to be overwritten.
    pub(crate) forced: bool,
    /// It shall only vote.
    pub(crate) is_witness: bool,
    /// The labels that it shall have.
    pub(crate) labels: Labels,
    /// What it was a disk of when it was judged, be that no more.
    pub(crate) judged_label: Cell<Option<(PoolId, DiskId)>>,
}

/// What is wiped of a witness side by side.
const WIPED_AT_ONCE: u64 = 8;
/// A witness that is wiped more slowly is none.
const WIPED_BYTES_PER_SECOND_MIN: u64 = 4 << 20;

impl Candidate {
    pub(crate) fn size_bytes(&self) -> u64 {
        let bytes = self.device.geometry().sectors.saturating_mul(SECTOR_BYTES as u64);
        DiskGeometry::labelled_bytes_of(bytes)
    }

    /// The same as one that may vote, and doesn't yet, in this failure domain.
    pub(super) fn to_vote(&self, domain: uuid::Uuid) -> votes::Candidate {
        votes::Candidate {
            machine: self.node,
            domain,
            bytes: self.size_bytes(),
            votes: false,
            is_witness: self.is_witness,
        }
    }

    /// `work` on it, for which nobody waits longer than this: a disk that hangs would keep its name and the others'
    /// from whoever tries again.
    pub(crate) async fn in_time<T>(
        &self,
        runtime: &runtime::Handle,
        limit: Duration,
        work: impl Future<Output = Result<T, PoolError>>,
    ) -> Result<T, PoolError> {
        let done = runtime::timeout(runtime, limit, work).await;
        let lost = || Err(PoolError::io("waiting for it", &self.place.name, IoError::Lost));
        done.unwrap_or_else(|_| lost())
    }

    /// Who has it, by its target, if that tells in time.
    pub(crate) async fn holder(
        &self,
        runtime: &runtime::Handle,
        limit: Duration,
    ) -> Option<Holder> {
        let answer = runtime::timeout(runtime, limit, self.device.renew()).await;
        Some(answer.ok()?.ok()?.value)
    }

    /// The layout of the disk, or how large it would have to be: with a metadata area in this run, to have
    /// room for that and for something else.
    fn geometry(
        &self,
        area: Option<ExtentRange>,
        extent_bytes: u64,
    ) -> Result<DiskGeometry, PoolError> {
        let extents = area.map_or(0, |area| area.first.0.saturating_add(area.count));
        let least = extents.saturating_add(1);
        DiskGeometry::with_room(self.size_bytes(), extent_bytes, least).map_err(|error| {
            PoolError::refused(&self.place.name, error.to_string(), "use a larger disk")
        })
    }

    /// Its layout and its metadata area: this one, if it is to have one, or a witness's.
    pub(crate) fn geometry_and_area(
        &self,
        area: Option<ExtentRange>,
        least: u32,
        extent_bytes: u64,
    ) -> Result<(DiskGeometry, Option<ExtentRange>), PoolError> {
        if self.is_witness {
            let (geometry, all) = self.witness_geometry(least, extent_bytes)?;
            return Ok((geometry, Some(all)));
        }
        Ok((self.geometry(area, extent_bytes)?, area))
    }

    /// The layout of a witness, and its metadata area: all that it has. The pool's metadata must fit `least` extents.
    fn witness_geometry(
        &self,
        least: u32,
        extent_bytes: u64,
    ) -> Result<(DiskGeometry, ExtentRange), PoolError> {
        let name = &self.place.name;
        let geometry = DiskGeometry::with_room(self.size_bytes(), extent_bytes, least);
        let geometry = geometry
            .map_err(|error| PoolError::refused(name, error.to_string(), "use a larger disk"))?;
        let area = ExtentRange::new(ExtentNumber(0), geometry.extents());
        if AreaLayout::of(&geometry, area).is_none() {
            return Err(PoolError::refused(
                name,
                "it is too large for a witness, which is for metadata alone: at most 1 GiB of it",
                "use a disk, partition or file of 1026 MiB, which does for any pool",
            ));
        }
        Ok((geometry, area))
    }

    /// Claims the medium.
    pub(crate) async fn claim(
        &self,
        config: &EngineConfig,
        epoch: Epoch,
        trust: Trust,
    ) -> Result<(), PoolError> {
        let claim = Claim { epoch, owner: config.owner, force: self.forced, trust };
        match self.device.claim(claim).await {
            Ok(_) => Ok(()),
            // Its target has gone through all of it, where we glanced.
            Err(IoError::Refused(RefusalReason::ForeignContent)) if !self.forced => {
                self.look_through().await?;
                Err(PoolError::refused(
                    &self.place.name,
                    format!("its target refuses: {}", RefusalReason::ForeignContent),
                    remedy_of_refusal(RefusalReason::ForeignContent),
                ))
            }
            Err(IoError::Refused(reason)) => Err(PoolError::refused(
                &self.place.name,
                format!("its target refuses: {reason}"),
                remedy_of_refusal(reason),
            )),
            Err(IoError::Unsupported) => Err(PoolError::refused(
                &self.place.name,
                "its target cannot keep an owner",
                "export it with etherpool node",
            )),
            Err(error) => Err(PoolError::io("claiming it", &self.place.name, error)),
        }
    }

    /// That nobody made it a pool's disk between its being judged and its being claimed: who claims has a higher epoch than
    /// a new pool, so nothing else would hold him back.
    pub(crate) async fn check_label_unchanged(&self) -> Result<(), PoolError> {
        let name = &self.place.name;
        if self.forced {
            return Ok(());
        }
        let found = read_label(&*self.device).await;
        let found = match found.map_err(|error| PoolError::io("reading its label", name, error))? {
            LabelState::Labelled(found) => found.label,
            LabelState::Blank | LabelState::Refused(_) => return Ok(()),
        };
        if self.judged_label.get() == Some((found.pool, found.disk)) {
            return Ok(());
        }
        Err(PoolError::refused(
            self.place.to_string(),
            format!("it was made a disk of pool {} a moment ago", found.pool_name),
            "name another one, or take it out of use there first",
        ))
    }

    /// That nothing is on it which nobody agreed to lose. Labels were judged before.
    pub(crate) async fn look_through(&self) -> Result<(), PoolError> {
        let name = &self.place.name;
        if self.forced {
            return Ok(());
        }
        let found = async {
            Ok(match read_content(&*self.device, Others::Searched).await? {
                Content::Foreign(found) if found == [Signature::Etherpool] => {
                    match is_empty_but_for_owner(&*self.device).await? {
                        true => Vec::new(),
                        false => vec![Signature::UnknownData],
                    }
                }
                Content::Foreign(found) => found,
                _ => Vec::new(),
            })
        };
        let found = found.await.map_err(|error| PoolError::io("looking at it", name, error))?;
        if found.is_empty() {
            return Ok(());
        }
        Err(self.refuse_contents(&found, ""))
    }

    /// Refuses it for what was found on it, and for what else there is to say.
    pub(super) fn refuse_contents(&self, found: &[Signature], more: &str) -> PoolError {
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        self.refuse_to_lose(format!("it carries: {}{more}", found.join(", ")))
    }

    /// Refuses it for what would be lost with it. That is advised only where the same message says what it is.
    pub(super) fn refuse_to_lose(&self, why: String) -> PoolError {
        let name = &self.place.name;
        let remedy =
            format!("name another one, or --force-disk {name}: what it carries is lost then");
        PoolError::refused(self.place.to_string(), why, remedy)
    }

    /// Wipes what might be recognised later and writes the first applied block.
    pub(crate) async fn prepare(&self, label: &Label) -> Result<(), IoError> {
        let end = label.geometry.labelled_bytes();
        let (front, back) = ((16 << 10, MIB), (end - MIB + (16 << 10), end));
        let wiped = |(from, to)| wipe(&*self.device, None, from, to);
        try_join(wiped(front), wiped(back)).await?;
        if let Some((start, bytes)) = label.witness_place() {
            // It may get a copy of the metadata at any time, and mustn't have what looks like one.
            let from = start.byte_offset();
            let piece = bytes.div_ceil(WIPED_AT_ONCE).next_multiple_of(BLOCK_BYTES as u64);
            let pieces = (0..WIPED_AT_ONCE).map(|index| {
                let at = |index: u64| from + (index * piece).min(bytes);
                wipe(&*self.device, None, at(index), at(index + 1))
            });
            try_join_all(pieces).await?;
        }
        let applied = Applied {
            pool: label.pool,
            disk: label.disk,
            sequence: 1,
            release: ReleaseNumber(0),
            record: RecordNumber(0),
            by: None,
        };
        let sector = DiskGeometry::applied_slots()[applied.slot()];
        write_durably(&*self.device, sector, applied.encode(None)).await?;
        Ok(())
    }

    /// Writes the label to all four slots. Both of one sequence at once: until they are there, the other two hold what
    /// counted before.
    pub(crate) async fn write_label(&self, label: &Label) -> Result<(), PoolError> {
        let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
        for sequence in 1..=2 {
            let writes = Label::slots_of(sequence).into_iter().map(|slot| {
                write_durably(&*self.device, slots[slot], label.encode(sequence, slot))
            });
            let written = try_join_all(writes).await;
            written.map_err(|error| PoolError::io("labelling it", &self.place.name, error))?;
        }
        Ok(())
    }

    /// Whether the label is there: two names may be one device. Tells what is.
    pub(crate) async fn check_label(&self, label: &Label) -> Result<Content, PoolError> {
        let content = read_content(&*self.device, Others::Unasked).await;
        match content {
            Ok(content) if content.label() == Some(label) => Ok(content),
            Ok(_) => Err(PoolError::refused(
                &self.place.name,
                "it does not hold what was just written to it: it is the same device as another \
                 one that was named, or it is broken",
                "name each device once",
            )),
            Err(error) => Err(PoolError::io("reading its label", &self.place.name, error)),
        }
    }
}

/// How long a disk may take to be wiped and written as it must be for this label.
pub(crate) fn time_to_prepare(limits: &Limits, label: &Label) -> Duration {
    let wiped_bytes = label.witness_place().map_or(0, |(_, bytes)| bytes);
    limits.administer + Duration::from_secs(wiped_bytes / WIPED_BYTES_PER_SECOND_MIN)
}
