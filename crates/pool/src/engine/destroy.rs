//! Ending a pool for good. That is decided like any configuration, by a majority of its votes, and before anything is
//! wiped: so whoever opens what is left finds a pool that is whole, or one that is no more.
//!
//! 1. What is to end is shown; whoever agrees hands that back, and it is compared with what is there: once its disks are
//!    taken, and again once they are claimed. What isn't as it was shown is refused, and nothing was done.
//! 2. **Asked**: a configuration that says so goes to the votes, with a majority of each list it is decided. Who finds
//!    it on any vote, with a majority in sight, doesn't open the pool: it may have been.
//! 3. **Decided**: only then each disk is told, in a record that proves it by itself, so that a disk may be wiped
//!    whatever became of the others. A minority that was *asked* proves nothing.
//! 4. Each disk that shows the proof is wiped, its labels before the proof (`unlabel`).
//!
//! The same again goes on from any of these. A disk that was away has no proof; of a pool that was destroyed here the
//! supervisor's records tell, else one other disk that shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{BlockDevice, Claim, Epoch, Instance, IoError};
use futures::future::join_all;

use super::grants;
use super::lease::Ended;
use super::observe::{Content, Others, read_content};
use super::open::{SeenDisk, credible, voted_epoch};
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Slot, SlotState};
use super::unlabel::{Unlabelled, show};
use super::whose::owner_name;
use super::{DiskPlace, Engine};
use crate::endings::{DestroyPlan, DestroyReport, DoomedDisk, DoomedVolume, LeftDisk};
use crate::error::PoolError;
use crate::format::{
    ConfigNumber, Configuration, Destruction, DiskId, Label, PoolId, RecordNumber, Signer, Signers,
    Voters,
};
use crate::report::{PoolEvent, PoolState};

/// Who else claims the disks outbids us this often before we give up.
const CLAIM_ATTEMPTS: usize = 4;

/// A claimed disk of a pool that is to end.
struct Doomed {
    seen: SeenDisk,
    label: Label,
    /// The instance that was looked at.
    instance: Instance,
    /// Its newest vote, and the slot that has it.
    vote: Option<(usize, Configuration)>,
    /// It proves that the pool is no more.
    is_proof: bool,
}

impl Doomed {
    fn next_slot(&self) -> usize {
        self.vote.as_ref().map_or(0, |(slot, _)| 1 - slot)
    }
}

impl Engine {
    /// What [`Engine::destroy_pool`] would end, or why it wouldn't.
    pub async fn plan_destroy(self: &Rc<Self>, name_or_id: &str) -> Result<DestroyPlan, PoolError> {
        let slot = self.the_only(name_or_id)?;
        self.plan_end(&slot).await
    }

    /// Ends a pool for good, if it still is what was shown: a majority of its votes says that it is no more, and then
    /// its disks are wiped. Requests under way fail.
    pub async fn destroy_pool(
        self: &Rc<Self>,
        shown: &DestroyPlan,
    ) -> Result<DestroyReport, PoolError> {
        let slot = self.the_only(&shown.id)?;
        let names: Vec<String> = shown.disks.iter().map(|disk| disk.name.clone()).collect();
        let _taking = self.taken.take(&names, None)?;
        if self.plan_end(&slot).await? != *shown {
            return Err(is_another(shown));
        }
        let state = slot.state.borrow().clone();
        slot.between.set(true);
        if let SlotState::Open(open) = state {
            open.pool.lease.stop();
            open.pool.lease.end(Ended::Closed);
            open.pool.changed.notify_all();
            self.let_go(&slot).await;
        }
        let ended = self.end(&slot, shown).await;
        // What isn't decided is opened again, if it was open.
        if !matches!(*slot.state.borrow(), SlotState::Opening) {
            *slot.state.borrow_mut() = SlotState::Closed;
        }
        slot.between.set(false);
        self.look_again(slot.id).await;
        self.observe_again(&names);
        self.changed.notify_all();
        ended
    }

    /// Takes note of a pool that was destroyed here, as the supervisor's records have it.
    pub fn remember_destroyed(&self, id: uuid::Uuid, name: &str) {
        self.destroyed.borrow_mut().insert(PoolId(id), name.to_owned());
    }

    /// Whether a pool is known to be no more: by our records, by a disk of it that proves it, or because its votes
    /// say that it is to be.
    pub(super) fn is_ended(&self, pool: PoolId) -> bool {
        let quorum = Quorum::of(&self.seen_disks(pool));
        let asked = quorum.is_enough() && quorum.destruction() != Destruction::None;
        // A pool whose votes say otherwise was brought back from copies of its disks.
        let lives = quorum.suffices() && !asked;
        asked || !lives && self.is_proven(pool)
    }

    fn is_proven(&self, pool: PoolId) -> bool {
        self.destroyed.borrow().contains_key(&pool) || !self.remnants(pool).is_empty()
    }

    /// The disks present that show that their pool is no more.
    pub(super) fn remnants(&self, pool: PoolId) -> Vec<SeenDisk> {
        let devices = self.devices.borrow();
        let of_pool = devices.values().filter(|device| device.is_of(pool));
        let shows = of_pool.filter_map(|device| match self.content_of(device) {
            Content::Destroyed { label, .. } if !self.is_elsewhere(device) => Some(SeenDisk {
                place: device.facts.place(),
                machine: device.facts.node,
                device: Rc::clone(&device.device),
                label: label.label,
                vote: None,
            }),
            _ => None,
        });
        shows.collect()
    }

    /// The one pool of this name or id: of several none is ended by guessing.
    fn the_only(&self, name: &str) -> Result<Rc<Slot>, PoolError> {
        match self.slots_named(name).as_slice() {
            [] => Err(PoolError::no_pool(name)),
            [one] => Ok(Rc::clone(one)),
            several => {
                let ids: Vec<String> = several.iter().map(|slot| slot.id.to_string()).collect();
                Err(PoolError::invalid(
                    format!("{} pools are called {name}: {}", ids.len(), ids.join(", ")),
                    "name one by its id",
                ))
            }
        }
    }

    async fn plan_end(self: &Rc<Self>, slot: &Slot) -> Result<DestroyPlan, PoolError> {
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Open(open) => open.check_writable().map(|()| self.plan_of_open(&open)),
            SlotState::Opening => Err(PoolError::Suspended {
                name: slot.name.borrow().clone(),
                reason: "it is being opened; try again".into(),
            }),
            SlotState::Closed | SlotState::Ended(_) => self.plan_of_closed(slot).await,
        }
    }

    fn plan_of_open(&self, open: &OpenPool) -> DestroyPlan {
        let mut disks = self.seen_disks(open.pool.id);
        // Of disks of an open pool their drivers know whether they answer.
        disks.retain(|seen| {
            let member = open.pool.member_by_id(seen.label.disk);
            member.is_none_or(|member| member.device().is_some() && member.answers.get())
        });
        let present: BTreeSet<DiskId> = disks.iter().map(|disk| disk.label.disk).collect();
        let meta = open.pool.meta.borrow();
        let away = open.pool.members().into_iter().filter(|member| !present.contains(&member.id));
        let away = away.map(|member| {
            let mut disk =
                doomed_disk(&member.place.borrow(), member.id, member.geometry.labelled_bytes());
            if let Some(known) = meta.disks().get(&member.number).filter(|_| disk.node.is_empty()) {
                disk.node.clone_from(&known.node_name);
            }
            disk
        });
        let volumes = meta
            .volumes()
            .values()
            .map(|volume| DoomedVolume { name: volume.name.clone(), size_bytes: volume.bytes });
        DestroyPlan {
            name: open.pool.name.clone(),
            id: open.pool.id.to_string(),
            owner: None,
            volumes: Some(volumes.collect()),
            disks: in_order(disks.iter().map(doomed_by_label)),
            away: in_order(away),
        }
    }

    /// Of a closed pool nobody shows what is in it.
    async fn plan_of_closed(self: &Rc<Self>, slot: &Slot) -> Result<DestroyPlan, PoolError> {
        self.look_again(slot.id).await;
        let disks = self.seen_disks(slot.id);
        let quorum = Quorum::of(&disks);
        if !self.is_proven(slot.id) && !quorum.is_enough() {
            return Err(self.undecidable(slot, &quorum));
        }
        if let Some(refusal) = self.refusal(slot).await {
            return Err(refusal);
        }
        let others = quorum.newest.as_ref().is_some_and(|newest| {
            newest.owner != self.config.owner && newest.owner != block::OwnerId::NONE
        });
        let seen: Vec<SeenDisk> = disks.into_iter().chain(self.remnants(slot.id)).collect();
        let present: BTreeSet<DiskId> = seen.iter().map(|disk| disk.label.disk).collect();
        let known = self.known.borrow().get(&slot.id).cloned().unwrap_or_default();
        let away = known.iter().filter(|(disk, _)| !present.contains(disk));
        Ok(DestroyPlan {
            name: slot.name.borrow().clone(),
            id: slot.id.to_string(),
            owner: others.then(|| owner_name(&quorum)),
            volumes: None,
            disks: in_order(seen.iter().map(doomed_by_label)),
            away: in_order(away.map(|(disk, place)| doomed_disk(place, *disk, 0))),
        })
    }

    fn undecidable(&self, slot: &Slot, quorum: &Quorum) -> PoolError {
        match self.request(slot).no_quorum(quorum) {
            PoolError::NoQuorum { pool, why, missing } => {
                let why = format!(
                    "{why}; without them it may be in use elsewhere, and isn't destroyed; `etherpool disk \
                     wipe` frees single disks"
                );
                PoolError::NoQuorum { pool, why, missing }
            }
            other => other,
        }
    }

    /// Waits until a pool that was open has let its disks go.
    pub(super) async fn let_go(&self, slot: &Slot) {
        while matches!(&*slot.state.borrow(), SlotState::Open(_)) {
            self.changed.notified().await;
        }
    }

    async fn end(
        self: &Rc<Self>,
        slot: &Slot,
        shown: &DestroyPlan,
    ) -> Result<DestroyReport, PoolError> {
        self.look_again(slot.id).await;
        let seen: Vec<SeenDisk> =
            self.seen_disks(slot.id).into_iter().chain(self.remnants(slot.id)).collect();
        if in_order(seen.iter().map(doomed_by_label)) != shown.disks {
            return Err(is_another(shown));
        }
        let done = self.end_claimed(slot, shown, &seen).await;
        seen.iter().for_each(|disk| disk.device.disown());
        done
    }

    async fn end_claimed(
        &self,
        slot: &Slot,
        shown: &DestroyPlan,
        seen: &[SeenDisk],
    ) -> Result<DestroyReport, PoolError> {
        let (epoch, mut disks) = self.claim_doomed(seen).await?;
        let proof = disks.iter().find(|disk| disk.is_proof);
        let proof = proof.and_then(|disk| disk.vote.clone()).map(|(_, vote)| vote);
        let is_recorded = self.destroyed.borrow().contains_key(&slot.id);
        let decided = match proof {
            Some(proof) => proof,
            None if is_recorded => recorded(&disks),
            None => self.decide(slot, epoch, &mut disks).await?,
        };
        self.known.borrow_mut().remove(&slot.id);
        self.destroyed.borrow_mut().insert(slot.id, shown.name.clone());
        let proof = Configuration {
            epoch,
            number: decided.number.next(),
            destruction: Destruction::Decided,
            ..decided
        };
        let signer = self.signer_of(slot);
        let ended =
            disks.iter().map(|disk| self.prove_and_wipe(slot.id, disk, &proof, signer.as_ref()));
        let ended = disks.iter().zip(join_all(ended).await);
        let (mut wiped, mut left) = (Vec::new(), Vec::new());
        for (disk, result) in ended {
            let name = disk.seen.place.name.clone();
            match result {
                Ok(()) => wiped.push(name),
                Err(error) => left.push(LeftDisk { disk: name, why: error.to_string() }),
            }
        }
        let away = shown.away.iter().map(DoomedDisk::describe).collect();
        let (pool, state) = (shown.name.clone(), PoolState::Destroyed);
        self.events.tell(PoolEvent::PoolState { pool, state });
        Ok(DestroyReport { name: shown.name.clone(), id: shown.id.clone(), wiped, left, away })
    }

    /// Claims all disks under one epoch, and looks at each again: one that doesn't answer, or isn't what it was, ends it.
    async fn claim_doomed(&self, seen: &[SeenDisk]) -> Result<(Epoch, Vec<Doomed>), PoolError> {
        let renewals = seen.iter().map(|disk| self.in_time(disk.device.renew()));
        let renewals = join_all(renewals).await;
        let voted = voted_epoch(seen).unwrap_or_default();
        let told = seen.iter().zip(renewals);
        let told =
            told.filter_map(|(disk, answer)| Some((disk.label.disk, answer.ok()?.value.epoch)));
        let told: BTreeMap<DiskId, Epoch> = told.collect();
        let credible = credible(voted, &told, |are| {
            2 * seen.iter().filter(|disk| are(disk.label.disk)).count() > seen.len()
        });
        let heard = told.into_values().filter(|epoch| *epoch <= credible);
        let mut epoch = heard.max().unwrap_or_default().max(voted).next();
        for _ in 0..CLAIM_ATTEMPTS {
            let claim = Claim::new(epoch, self.config.owner);
            let claims = seen.iter().map(|disk| self.in_time(disk.device.claim(claim.clone())));
            let answers = join_all(claims).await;
            let outbid = answers.iter().filter_map(|answer| match answer {
                Err(IoError::Fenced { highest }) if *highest <= credible => Some(*highest),
                _ => None,
            });
            if let Some(highest) = outbid.max() {
                epoch = highest.next();
                continue;
            }
            let looks = seen.iter().zip(answers).map(|(disk, answer)| async move {
                let look = async { self.look_claimed(disk, answer?.instance).await };
                look.await.map_err(|error| {
                    PoolError::io("looking at it once it was claimed", &disk.place.name, error)
                })?
            });
            let disks = join_all(looks).await.into_iter().collect::<Result<Vec<_>, PoolError>>()?;
            return Ok((epoch, disks));
        }
        Err(PoolError::invalid("another supervisor claims its disks", "find out who uses the pool"))
    }

    /// Whether a claimed disk is the one that was seen.
    async fn look_claimed(
        &self,
        seen: &SeenDisk,
        instance: Instance,
    ) -> Result<Result<Doomed, PoolError>, IoError> {
        let content = self.in_time(read_content(&*seen.device, Others::Unasked)).await?;
        let content = self.judged(content);
        let label = content
            .label()
            .filter(|label| (label.pool, label.disk) == (seen.label.pool, seen.label.disk));
        let Some(label) = label.cloned() else {
            return Ok(Err(PoolError::refused(
                seen.place.to_string(),
                "it doesn't carry what was shown any more",
                "look at it again (disk list); nothing was done",
            )));
        };
        let vote = content.vote().map(|vote| (vote.slot, vote.newest.clone()));
        // Still the one that was claimed.
        let now = self.in_time(seen.device.renew()).await?.instance;
        if now != instance {
            return Err(IoError::Restarted { now });
        }
        let (shown, is_proof) = match content {
            Content::Labelled { vote, .. } => (vote, false),
            Content::Destroyed { .. } => (None, true),
            _ => (None, false),
        };
        let seen = SeenDisk { vote: shown, ..seen.clone() };
        Ok(Ok(Doomed { seen, label, instance, vote, is_proof }))
    }

    /// Has a majority of the votes say that the pool is no more; tells what they say.
    async fn decide(
        &self,
        slot: &Slot,
        epoch: Epoch,
        disks: &mut [Doomed],
    ) -> Result<Configuration, PoolError> {
        let seen: Vec<SeenDisk> = disks.iter().map(|disk| disk.seen.clone()).collect();
        let quorum = Quorum::of(&seen);
        let newest = quorum.newest.clone().filter(|_| quorum.is_enough());
        let newest = newest.ok_or_else(|| self.undecidable(slot, &quorum))?;
        let asked = Configuration {
            epoch,
            number: newest.number.next(),
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            released: true,
            destruction: Destruction::Asked,
            ..newest
        };
        let signer = self.signer_of(slot);
        let voters = disks.iter_mut().filter(|disk| asked.voters.contains(disk.label.disk));
        let told = voters.map(|disk| async {
            let next = disk.next_slot();
            let identity = (slot.id, disk.label.disk);
            let place = (next, signer.as_ref());
            let shown = show(&*disk.seen.device, disk.instance, identity, &asked, place);
            self.in_time(shown).await.ok()?;
            disk.vote = Some((next, asked.clone()));
            Some(disk.label.disk)
        });
        let told: BTreeSet<DiskId> = join_all(told).await.into_iter().flatten().collect();
        match asked.voters.is_majority(|disk| told.contains(&disk)) {
            true => Ok(asked),
            false => Err(PoolError::Suspended {
                name: slot.name.borrow().clone(),
                reason:
                    "a majority of its votes could not be told that it is to be no more; it may be \
                         destroyed or not: the same command goes on with it"
                        .into(),
            }),
        }
    }

    async fn prove_and_wipe(
        &self,
        pool: PoolId,
        disk: &Doomed,
        proof: &Configuration,
        signer: Option<&Signer>,
    ) -> Result<(), IoError> {
        let device: &dyn BlockDevice = &*disk.seen.device;
        let slot = match &disk.vote {
            Some((slot, _)) if disk.is_proof => *slot,
            _ => {
                let next = disk.next_slot();
                let identity = (pool, disk.label.disk);
                self.in_time(show(device, disk.instance, identity, proof, (next, signer))).await?;
                next
            }
        };
        let unlabelled = Unlabelled {
            device,
            instance: Some(disk.instance),
            labelled_bytes: disk.label.geometry.labelled_bytes(),
            newest_vote: Some(slot),
        };
        self.in_time(async {
            unlabelled.wipe(&self.config.stops).await?;
            grants::forget(device, Claim::new(proof.epoch, self.config.owner)).await;
            Ok(())
        })
        .await
    }

    /// What a disk that is to be looked at or wiped answers in time.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        let done = runtime::timeout(&self.runtime, self.config.limits.claim, work).await;
        done.unwrap_or(Err(IoError::Lost))
    }
}

/// What proves that a pool is no more where our records alone say so.
fn recorded(disks: &[Doomed]) -> Configuration {
    let counts =
        |disk: &&Doomed| disk.is_proof || disk.seen.vote.as_ref().is_some_and(|vote| vote.counts);
    let counting = disks.iter().filter(counts);
    let newest = counting.filter_map(|disk| disk.vote.as_ref()).map(|(_, vote)| vote);
    newest.max_by_key(|vote| vote.rank()).cloned().unwrap_or_else(|| Configuration {
        epoch: Epoch::OBSERVER,
        number: ConfigNumber(0),
        owner: block::OwnerId::NONE,
        owner_name: String::new(),
        released: true,
        destruction: Destruction::Decided,
        voters: Voters::of(
            disks.first().map(|disk| disk.label.vote_disks.clone()).unwrap_or_default(),
        ),
        copies: BTreeSet::new(),
        record: RecordNumber(0),
        out: Vec::new(),
        metadata_by: Signers::default(),
    })
}

fn doomed_by_label(disk: &SeenDisk) -> DoomedDisk {
    doomed_disk(&disk.place, disk.label.disk, disk.label.geometry.labelled_bytes())
}

fn doomed_disk(place: &DiskPlace, disk: DiskId, size_bytes: u64) -> DoomedDisk {
    DoomedDisk {
        name: place.name.clone(),
        id: disk.to_string(),
        node: place.node_name.clone(),
        device_name: place.device_name.clone(),
        size_bytes,
    }
}

fn in_order(disks: impl Iterator<Item = DoomedDisk>) -> Vec<DoomedDisk> {
    let mut disks: Vec<DoomedDisk> = disks.collect();
    disks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    disks
}

fn is_another(shown: &DestroyPlan) -> PoolError {
    PoolError::invalid(
        format!(
            "pool {} or its disks aren't what was shown any more; nothing was done",
            shown.name
        ),
        "look at it again: the same command shows it",
    )
}
