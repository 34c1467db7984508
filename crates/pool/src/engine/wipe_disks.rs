//! Taking etherpool's labels, and on request whatever else is recognised, off disks of which no pool makes use. What
//! would be taken off is shown first, and what is there is compared with that once the disk is claimed: meanwhile it may
//! have become a pool's, or another drive may have come to its address.

use std::cell::Cell;
use std::rc::Rc;

use block::probe::Signature;
use block::{BLOCK_BYTES, BlockDevice, Claim, Instance, IoError, SECTOR_BYTES, Trust};
use futures::future::join_all;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::create::check_once;
use super::format_disk::Candidate;
use super::grants;
use super::observe::{Content, Others, read_content};
use super::slot::{Device, SlotState};
use super::stops::Stops;
use super::unlabel::{Unlabelled, is_left_over, newest_slot_of, wipe};
use crate::endings::{LeftDisk, WipePlan, WipeReport, WipedDisk};
use crate::error::PoolError;
use crate::format::{LabelError, MIB, PoolId};
use crate::metadata::Labels;

/// Disks to be wiped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WipeDisks")]
pub struct WipeDisks<Disk = String> {
    /// Which.
    pub disks: Vec<Disk>,
    /// Also what isn't etherpool's: partition tables, file systems.
    #[serde(default)]
    pub signatures: bool,
}

/// Where partition tables and the signatures of file systems and volume managers are, at both ends of a disk.
const HEAD_BYTES: u64 = MIB + BLOCK_BYTES as u64;
/// Behind the labels a target has its record of who owns the disk, which nobody else writes.
const RECORD: std::ops::Range<u64> = 8 << 10..16 << 10;

/// A claimed disk, as it was looked at.
struct Held {
    candidate: Candidate,
    /// As it was accepted.
    claim: Claim,
    instance: Instance,
    content: Content,
}

impl Engine {
    /// What [`Engine::wipe_disks`] would take off, or why it wouldn't.
    pub async fn plan_wipe(&self, request: &WipeDisks) -> Result<WipePlan, PoolError> {
        check_once(request.disks.iter())?;
        let mut disks = Vec::new();
        for name in &request.disks {
            disks.push(self.plan_wipe_of(name, request.signatures).await?);
        }
        Ok(WipePlan { disks, signatures: request.signatures })
    }

    /// Wipes disks, if they are what was shown.
    pub async fn wipe_disks(&self, shown: &WipePlan) -> Result<WipeReport, PoolError> {
        let names: Vec<String> = shown.disks.iter().map(|disk| disk.name.clone()).collect();
        let _taking = self.taken.take(&names, None)?;
        let request = WipeDisks { disks: names.clone(), signatures: shown.signatures };
        if self.plan_wipe(&request).await? != *shown {
            return Err(PoolError::invalid(
                "the disks aren't what was shown any more; nothing was done",
                "look at them again: the same command shows them",
            ));
        }
        let candidates = shown.disks.iter().filter(|disk| !disk.is_blank);
        let candidates = candidates.map(|disk| Ok((disk, self.candidate_of(&disk.name)?)));
        let candidates = candidates.collect::<Result<Vec<_>, PoolError>>()?;
        let devices: Vec<Rc<dyn BlockDevice>> =
            candidates.iter().map(|(_, candidate)| Rc::clone(&candidate.device)).collect();
        let wiped = self.wipe_all(candidates, shown.signatures).await;
        devices.iter().for_each(|device| device.disown());
        self.observe_again(&names);
        wiped
    }

    /// All are claimed and looked at before the first of them is wiped.
    async fn wipe_all(
        &self,
        candidates: Vec<(&WipedDisk, Candidate)>,
        signatures: bool,
    ) -> Result<WipeReport, PoolError> {
        let holds = candidates.into_iter().map(|(shown, one)| self.hold(shown, one, signatures));
        let held = join_all(holds).await.into_iter().collect::<Result<Vec<_>, PoolError>>()?;
        let wipes = held.iter().map(|held| self.in_time(held.wipe(signatures, &self.config.stops)));
        let mut report = WipeReport::default();
        for (held, result) in held.iter().zip(join_all(wipes).await) {
            let disk = held.candidate.place.name.clone();
            match result {
                Ok(found) if found.is_empty() => {
                    let slots = self.slots.borrow();
                    let slot = held.content.label().and_then(|label| slots.get(&label.pool));
                    slot.into_iter().for_each(|slot| slot.only_if_present.set(true));
                    report.wiped.push(disk);
                }
                Ok(found) => {
                    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                    let why = format!("it still carries: {}", found.join(", "));
                    report.left.push(LeftDisk { disk, why });
                }
                Err(error) => report.left.push(LeftDisk { disk, why: error.to_string() }),
            }
        }
        Ok(report)
    }

    fn candidate_of(&self, name: &str) -> Result<Candidate, PoolError> {
        let device = self.device_named(name)?;
        Ok(Candidate {
            place: device.facts.place(),
            node: device.facts.node,
            device: Rc::clone(&device.device),
            forced: true,
            is_witness: false,
            labels: Labels::new(),
            judged_label: Cell::default(),
        })
    }

    fn device_named(&self, name: &str) -> Result<Rc<Device>, PoolError> {
        self.devices.borrow().get(name).cloned().ok_or_else(|| PoolError::NotFound {
            what: "disk".into(),
            name: name.into(),
            remedy: "see `etherpool disk list`".into(),
        })
    }

    async fn plan_wipe_of(&self, name: &str, signatures: bool) -> Result<WipedDisk, PoolError> {
        let candidate = self.candidate_of(name)?;
        let io = |error| PoolError::io("looking at it", name, error);
        let content =
            self.in_time(self.recognise(&*candidate.device, Others::Searched)).await.map_err(io)?;
        let label = content.label().map(|label| (label.pool, label.pool_name.clone()));
        let target = label.as_ref().and_then(|(pool, _)| self.open_with_id(*pool));
        let is_gone = label.as_ref().is_some_and(|(pool, _)| self.is_ended(*pool));
        let loss = match is_gone {
            true => None,
            false => self.check_candidate(&candidate, target.as_deref(), Others::Glanced).await?,
        };
        let carries = match &content {
            Content::Foreign(found) => {
                let others = found.iter().any(|found| *found != Signature::Etherpool);
                let ours = found[..] == [Signature::UnknownData]
                    && self.in_time(is_left_over(&*candidate.device)).await.map_err(io)?;
                if others && !ours && !signatures {
                    return Err(is_not_ours(&candidate, found));
                }
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                found.join(", ")
            }
            Content::Refused(error) => format!("etherpool: {error}"),
            other => other.label().map_or_else(String::new, |label| {
                format!("etherpool, disk {} of pool {}", label.number, label.pool)
            }),
        };
        Ok(WipedDisk {
            name: name.to_owned(),
            node: candidate.place.node_name.clone(),
            device_name: candidate.place.device_name.clone(),
            size_bytes: candidate.device.geometry().sectors.saturating_mul(SECTOR_BYTES as u64),
            is_blank: matches!(content, Content::Blank),
            carries,
            pool: label.map(|(_, name)| name),
            loss,
        })
    }

    fn open_with_id(&self, pool: PoolId) -> Option<Rc<super::open_pool::OpenPool>> {
        let slot = self.slots.borrow().get(&pool).cloned()?;
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => Some(open),
            _ => None,
        }
    }

    /// Claims a disk and looks whether it still carries what was shown.
    async fn hold(
        &self,
        shown: &WipedDisk,
        candidate: Candidate,
        signatures: bool,
    ) -> Result<Held, PoolError> {
        let io = |error| PoolError::io("looking at it once it was claimed", &shown.name, error);
        let holder = self.in_time(candidate.device.renew()).await.map_err(io)?;
        // What somebody put there since is overwritten by no claim, unless that was asked for.
        let candidate = Candidate { forced: signatures, ..candidate };
        let epoch = holder.value.epoch.next();
        candidate.claim(&self.config, epoch, Trust::Unchanged).await?;
        let looked = self.in_time(candidate.device.renew()).await.map_err(io)?;
        let content = read_content(&*candidate.device, Others::Searched);
        let content = self.in_time(content).await.map_err(io)?;
        let now = self.in_time(candidate.device.renew()).await.map_err(io)?;
        // Of a disk that has an owner nobody else was shown more.
        let hidden = shown.carries == Signature::Etherpool.to_string();
        let is_same = match &content {
            Content::Foreign(found) => {
                let others = found.iter().filter(|one| **one != Signature::Etherpool);
                let others: Vec<_> = others.map(ToString::to_string).collect();
                if hidden && !signatures && !others.is_empty() {
                    return Err(is_not_ours(&candidate, found));
                }
                let shown_others = shown.carries.split(", ").filter(|one| !is_ours(one));
                hidden || shown_others.eq(others.iter().map(String::as_str))
            }
            Content::Refused(error) => shown.carries == format!("etherpool: {error}"),
            Content::Blank => hidden,
            other => other.label().is_some_and(|label| {
                shown.carries == format!("etherpool, disk {} of pool {}", label.number, label.pool)
            }),
        };
        if !is_same || looked.instance != now.instance {
            return Err(PoolError::refused(
                candidate.place.to_string(),
                "it doesn't carry what was shown any more",
                "look at it again (disk list); nothing was wiped",
            ));
        }
        let claim = Claim::new(epoch, self.config.owner);
        Ok(Held { candidate, claim, instance: now.instance, content })
    }
}

/// What nobody asked to have taken off.
fn is_not_ours(candidate: &Candidate, found: &[Signature]) -> PoolError {
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    PoolError::refused(
        candidate.place.to_string(),
        format!("what it carries isn't etherpool's: {}", found.join(", ")),
        "to take that off too: --signatures",
    )
}

fn is_ours(carries: &str) -> bool {
    carries == Signature::Etherpool.to_string()
}

impl Held {
    /// Wipes it; tells what is still recognised on it.
    async fn wipe(&self, signatures: bool, stops: &Stops) -> Result<Vec<Signature>, IoError> {
        let device: &dyn BlockDevice = &*self.candidate.device;
        let bytes = self.candidate.size_bytes();
        let labelled_bytes = match &self.content {
            Content::Refused(LabelError::Truncated { labelled_bytes, .. }) => *labelled_bytes,
            content => content.label().map_or(bytes, |label| label.geometry.labelled_bytes()),
        };
        let newest_vote = match &self.content {
            Content::Refused(LabelError::Damaged { named: Some((pool, disk)), .. }) => {
                newest_slot_of(device, *pool, *disk).await?
            }
            content => content.vote().map(|vote| vote.slot),
        };
        let instance = Some(self.instance);
        let ours = Unlabelled { device, instance, labelled_bytes, newest_vote };
        ours.wipe(stops).await?;
        if signatures {
            let device_bytes = device.geometry().sectors.saturating_mul(SECTOR_BYTES as u64);
            let tail = bytes.saturating_sub(MIB);
            let ends = [(0, HEAD_BYTES.min(device_bytes)), (tail, device_bytes)];
            for (from, to) in ends {
                wipe(device, instance, from, from + RECORD.start).await?;
                wipe(device, instance, from + RECORD.end, to).await?;
            }
        }
        let left = read_content(device, Others::Searched).await;
        grants::forget(device, self.claim.clone()).await;
        Ok(match left? {
            Content::Foreign(mut found) => {
                found.retain(|one| *one != Signature::Etherpool);
                found
            }
            Content::Blank => Vec::new(),
            _ => vec![Signature::Etherpool],
        })
    }
}
