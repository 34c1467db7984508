//! Making a pool, and adding disks to one.

use std::collections::BTreeSet;
use std::rc::Rc;

use block::size::Human;
use block::{Claim, Epoch, Holder, Trust};
use futures::FutureExt;
use futures::future::join_all;
use seal::{Grant, KeyPair};
use uuid::Uuid;

use super::areas::AreaPlace;
use super::cable::{Load, side_by_side};
use super::checkpoint::{clear_headers, store_header, store_placed};
use super::format_disk::{Candidate, time_to_prepare};
use super::grants;
use super::labels::words_of_joints;
use super::member::Member;
use super::observe::Content;
use super::open_pool::OpenPool;
use super::settings::spare_record;
use super::space::forecast_of;
use super::{CreatePool, DiskPlace, EngineConfig, Limits, votes};
use crate::error::PoolError;
use crate::forecast::PoolForecast;
use crate::format::{
    ConfigNumber, Configuration, Destruction, DiskGeometry, DiskId, DiskNumber, ExtentNumber,
    ExtentRange, FailureDomain, Features, Label, NAME_BYTES_MAX, PoolId, RecordNumber, Signer,
    Signers, VOTE_DISKS_MAX, Voters, choose_extent_bytes,
};
use crate::metadata::{
    AreaLayout, CheckpointStamp, MetaRecord, Metadata, PoolIdentity, area_extents_for,
    encode_checkpoint,
};
use block::write_durably;

/// A pool that is being made.
pub(crate) struct Creation<'a> {
    pub(crate) config: &'a EngineConfig,
    pub(crate) runtime: &'a runtime::Handle,
    pub(crate) request: &'a CreatePool,
    pub(crate) candidates: Vec<Candidate>,
    /// Whom its disks will obey.
    pub(crate) grant: Option<&'a Grant>,
}

/// A pool that was made.
pub(crate) struct NewPool {
    pub(crate) id: PoolId,
    /// Its disks and where they are, in the order in which they were named.
    pub(crate) disks: Vec<(DiskId, DiskPlace)>,
    /// What was read of each before it voted.
    pub(crate) contents: Vec<Content>,
}

impl Creation<'_> {
    /// Makes the pool on its disks; it isn't open then. The disks have been checked. Tells the pool's
    /// identity, where its disks are, and what was read of each once all were labelled.
    pub(crate) async fn run(&self) -> Result<NewPool, PoolError> {
        let (metadata, labels) = self.plan()?;
        let epoch = self.free_epoch().await;
        let trust = grants::replace(self.grant);
        let (candidates, claimed) = (&self.candidates, (epoch, trust.clone()));
        claim_all(self.config, self.runtime, candidates, claimed).await?;
        let written = self.write_all(&labels, &metadata, epoch).await;
        if written.is_err() {
            give_back(self.config, self.runtime, candidates, (epoch, &trust)).await;
        }
        let contents = written?;
        let places = self.candidates.iter().map(|candidate| candidate.place.clone());
        let disks = labels.iter().map(|label| label.disk).zip(places).collect();
        Ok(NewPool { id: metadata.pool().id, disks, contents })
    }

    /// What the pool would be like.
    pub(crate) fn forecast(&self, losses: Vec<String>) -> Result<PoolForecast, PoolError> {
        let (metadata, _) = self.plan()?;
        let extent_bytes = metadata.shape().extent_bytes();
        let total: u64 = metadata.data_disks().map(|disk| disk.bytes).sum();
        let area_extents = area_extents_for(total, extent_bytes);
        let witness_bytes = DiskGeometry::bytes_with(area_extents, extent_bytes);
        let candidates = candidates_in(&metadata, 0, &self.candidates);
        let votes = votes::forecast(&metadata, &candidates, witness_bytes);
        let name = |disk: DiskNumber| self.candidates[disk.0 as usize].place.name.clone();
        let joined = words_of_joints(&metadata, None, name);
        let all = metadata.disks().keys().copied().collect();
        Ok(PoolForecast { joined, ..forecast_of(&metadata, &all, losses, votes) })
    }

    /// The first metadata and the labels.
    fn plan(&self) -> Result<(Metadata, Vec<Label>), PoolError> {
        let data_disks = self.candidates.iter().filter(|candidate| !candidate.is_witness);
        let total: u64 = data_disks.map(Candidate::size_bytes).sum();
        let extent_bytes = self.request.extent_bytes.unwrap_or_else(|| choose_extent_bytes(total));
        let identity = PoolIdentity {
            id: PoolId(self.random_id()),
            name: self.request.name.clone(),
            extent_bytes,
            failure_domain: self.request.failure_domain,
        };
        let empty = Metadata::new(identity.clone()).ok_or_else(|| {
            PoolError::invalid(
                format!("extents of {} do not exist", Human(extent_bytes)),
                "use a power of two from 64 KiB to 1 GiB",
            )
        })?;
        let area_extents = area_extents_for(total, extent_bytes);
        let ids: Vec<DiskId> = self.candidates.iter().map(|_| DiskId(self.random_id())).collect();
        // Who votes follows from the domains, and areas from that.
        let without_votes = self.labels(&identity, &ids, &[], area_extents)?;
        let with_disks = self.with_disks(&empty, &without_votes)?;
        let candidates = candidates_in(&with_disks, 0, &self.candidates);
        let voters = votes::first_voters(self.request.failure_domain, &candidates);
        let labels = self.labels(&identity, &ids, &voters, area_extents)?;
        Ok((self.with_disks(&empty, &labels)?, labels))
    }

    /// The metadata of a pool of these disks.
    fn with_disks(&self, empty: &Metadata, labels: &[Label]) -> Result<Metadata, PoolError> {
        let spare = self.request.spare.map(|spare| spare_record(Some(spare)));
        let disks = labels.iter().map(added);
        let their_labels = self.candidates.iter().zip(labels);
        let their_labels =
            their_labels.filter_map(|(candidate, label)| candidate.label_record(label.number));
        let grant = self.grant.map(grants::record);
        let records: Vec<MetaRecord> =
            disks.chain(their_labels).chain(spare).chain(grant).collect();
        empty.with(&records).map_err(|error| {
            PoolError::invalid(error.to_string(), "report this: it should not happen")
        })
    }

    fn random_id(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.runtime.random_bytes16()).into_uuid()
    }

    fn labels(
        &self,
        identity: &PoolIdentity,
        ids: &[DiskId],
        voters: &[usize],
        area_extents: u32,
    ) -> Result<Vec<Label>, PoolError> {
        let vote_disks: Vec<DiskId> = voters.iter().map(|index| ids[*index]).collect();
        let labels = self.candidates.iter().enumerate().map(|(index, candidate)| {
            // The first extents are free on a new disk.
            let first = ExtentRange::new(ExtentNumber(0), area_extents);
            let extents = voters.contains(&index).then_some(first);
            let (geometry, area) =
                candidate.geometry_and_area(extents, area_extents, identity.extent_bytes)?;
            Ok(Label {
                features: Features::default(),
                pool: identity.id,
                pool_name: identity.name.clone(),
                disk: ids[index],
                number: DiskNumber(index as u32),
                geometry,
                area,
                failure_domain: identity.failure_domain,
                node: candidate.node,
                node_name: cut_name(&candidate.place.node_name),
                first_owner: self.config.owner,
                vote_disks: vote_disks.clone(),
            })
        });
        labels.collect()
    }

    /// An epoch above all that the disks have accepted.
    async fn free_epoch(&self) -> Epoch {
        let limit = self.config.limits.claim;
        let asked = self.candidates.iter().map(|c| c.holder(self.runtime, limit));
        let holders = side_by_side(self.runtime, Load::Commands, asked).await;
        holders.into_iter().flatten().map(|holder| holder.epoch).max().unwrap_or_default().next()
    }

    async fn write_all(
        &self,
        labels: &[Label],
        metadata: &Metadata,
        epoch: Epoch,
    ) -> Result<Vec<Content>, PoolError> {
        let voters = labels.first().map(|label| label.vote_disks.clone()).unwrap_or_default();
        let config = Configuration {
            epoch,
            number: ConfigNumber(1),
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            // Nobody serves it yet, so nobody need wait.
            released: true,
            destruction: Destruction::None,
            copies: voters.iter().copied().collect(),
            voters: Voters::of(voters),
            record: RecordNumber(0),
            out: Vec::new(),
            metadata_by: Signers::of(self.config.keys.as_ref().map(KeyPair::public)),
        };
        let disks = || self.candidates.iter().zip(labels);
        let place = |label: &Label| AreaPlace::new(&label.geometry, label.area?);
        // Sections lie in the same places on all copies, so they must be within the shortest area.
        let voting = labels.iter().filter(|label| holds_vote(label)).filter_map(place);
        let shortest = voting.map(|area| area.layout).min_by_key(AreaLayout::area_bytes);
        let prepare = async |candidate: &Candidate, label: &Label| {
            let io = |error| PoolError::io("writing to it", &candidate.place.name, error);
            candidate.prepare(label).await.map_err(io)?;
            if !holds_vote(label) {
                return Ok(());
            }
            let stamp = CheckpointStamp { sequence: 1, epoch, number: RecordNumber(0) };
            let checkpoint = place(label).zip(shortest).and_then(|(area, shortest)| {
                let stamp = (stamp, self.config.keys.as_ref());
                let whole = encode_checkpoint(&shortest, metadata, stamp, None, &[]);
                Some((area, whole.ok()?))
            });
            let Some((area, checkpoint)) = checkpoint else { return Err(too_large()) };
            // What is there may be a former pool's.
            let device = &*candidate.device;
            clear_headers(device, &area).await.map_err(io)?;
            for fresh in checkpoint.fresh() {
                store_placed(device, &area, std::slice::from_ref(fresh)).await.map_err(io)?;
            }
            store_header(device, &area, &checkpoint).await.map_err(io)?;
            Ok(())
        };
        let limits = &self.config.limits;
        let read = label_all(limits, self.runtime, &self.candidates, labels, prepare).await?;
        let limit = limits.administer;
        let grant = self.grant.map(|grant| Rc::new(grant.clone()));
        let signer = Signer::new(self.config.keys.as_ref(), grant.as_ref());
        // Last: a pool that a majority votes for is opened, with whatever disks it has.
        let voters = disks().filter(|(_, label)| holds_vote(label));
        let vote = async |candidate: &Candidate, label: &Label| {
            let place = super::config::vote_place(label.pool, label.disk);
            let signer = signer.as_ref();
            let vote = config.encode(&place, 0, signer).map_err(|_| too_large())?;
            let written = write_durably(&*candidate.device, DiskGeometry::vote_slots()[0], vote);
            let written = written.await.map(drop);
            written.map_err(|error| PoolError::io("voting on it", &candidate.place.name, error))
        };
        let voted = voters.map(|(c, label)| c.in_time(self.runtime, limit, vote(c, label)));
        join_all(voted).await.into_iter().collect::<Result<Vec<()>, PoolError>>()?;
        Ok(read)
    }
}

/// Claims devices, and sees to it that all of each has been looked at: before anything is written to the first of them.
/// The target of one that nobody had looks before it lets it be claimed; of others only who has them is shown everything.
/// Where one can't be had none is kept, so that others may have them.
async fn claim_all(
    config: &EngineConfig,
    runtime: &runtime::Handle,
    candidates: &[Candidate],
    (epoch, trust): (Epoch, Trust),
) -> Result<(), PoolError> {
    let all = |results: Vec<Result<(), PoolError>>| results.into_iter().collect();
    let limit = config.limits.administer;
    let claimed = async {
        let asked = candidates.iter().map(|c| c.holder(runtime, config.limits.claim));
        let is_had =
            |holder: &Option<Holder>| holder.is_none_or(|holder| holder.epoch != Epoch::OBSERVER);
        let holders = side_by_side(runtime, Load::Commands, asked).await;
        let had: Vec<bool> = holders.iter().map(is_had).collect();
        let claims = candidates
            .iter()
            .map(|c| c.in_time(runtime, limit, c.claim(config, epoch, Trust::Unchanged)));
        all(side_by_side(runtime, Load::Commands, claims).await)?;
        let labels =
            candidates.iter().map(|c| c.in_time(runtime, limit, c.check_label_unchanged()));
        all(side_by_side(runtime, Load::Labels, labels).await)?;
        let had = candidates.iter().zip(had).filter(|(_, is_had)| *is_had);
        let looks = had.map(|(c, _)| c.in_time(runtime, limit, c.look_through()));
        all(side_by_side(runtime, Load::Search, looks).await)?;
        if trust == Trust::Unchanged {
            return Ok(());
        }
        // Only now: another pool's disk may have been in the place of one of them.
        let obey = candidates.iter().map(|candidate| {
            let claim = candidate.claim(config, epoch, trust.clone());
            candidate.in_time(runtime, limit, claim)
        });
        let obeyed: Result<(), PoolError> = all(side_by_side(runtime, Load::Commands, obey).await);
        if obeyed.is_err() {
            give_back(config, runtime, candidates, (epoch, &trust)).await;
        }
        obeyed
    };
    let claimed: Result<(), PoolError> = claimed.await;
    if claimed.is_err() {
        candidates.iter().for_each(|candidate| candidate.device.disown());
    }
    claimed
}

/// Lets others have devices of which nothing came: they obey nobody for it.
async fn give_back(
    config: &EngineConfig,
    runtime: &runtime::Handle,
    candidates: &[Candidate],
    (epoch, trust): (Epoch, &Trust),
) {
    let forgets = candidates.iter().filter(|_| *trust != Trust::Unchanged).map(|candidate| {
        let claim = Claim::new(epoch, config.owner);
        let forgotten = grants::forget(&*candidate.device, claim);
        candidate.in_time(runtime, config.limits.claim, forgotten.map(Ok))
    });
    join_all(forgets).await;
}

/// Makes devices disks with these labels; and looks at all, once all are labelled, whether each has its own. Tells what it
/// saw.
async fn label_all(
    limits: &Limits,
    runtime: &runtime::Handle,
    candidates: &[Candidate],
    labels: &[Label],
    prepare: impl AsyncFn(&Candidate, &Label) -> Result<(), PoolError>,
) -> Result<Vec<Content>, PoolError> {
    let disks = || candidates.iter().zip(labels);
    let prepared = disks().map(|(candidate, label)| {
        let limit = time_to_prepare(limits, label);
        candidate.in_time(runtime, limit, prepare(candidate, label))
    });
    let prepared = side_by_side(runtime, Load::Block, prepared).await;
    prepared.into_iter().collect::<Result<Vec<()>, PoolError>>()?;
    let limit = limits.administer;
    let labelled = disks().map(|(c, label)| c.in_time(runtime, limit, c.write_label(label)));
    let labelled = side_by_side(runtime, Load::Labels, labelled).await;
    labelled.into_iter().collect::<Result<Vec<()>, PoolError>>()?;
    let checked = disks().map(|(c, label)| c.in_time(runtime, limit, c.check_label(label)));
    side_by_side(runtime, Load::Labels, checked).await.into_iter().collect()
}

/// Whether a new disk votes.
pub(super) fn holds_vote(label: &Label) -> bool {
    label.vote_disks.contains(&label.disk)
}

/// New disks, which have numbers from `first` on, as they may vote.
fn candidates_in(meta: &Metadata, first: u32, new: &[Candidate]) -> Vec<votes::Candidate> {
    let of = |(one, number): (&Candidate, u32)| {
        let disk = meta.disks().get(&DiskNumber(number));
        one.to_vote(disk.map_or(one.node, |disk| meta.domain_of(disk)))
    };
    new.iter().zip(first..).map(of).collect()
}

/// A disk with this label joins.
fn added(label: &Label) -> MetaRecord {
    MetaRecord::DiskAdded {
        number: label.number,
        id: label.disk,
        node: label.node,
        node_name: label.node_name.clone(),
        bytes: label.geometry.labelled_bytes(),
        area: label.area,
    }
}

fn too_large() -> PoolError {
    PoolError::invalid(
        "the pool's metadata does not fit its area",
        "start with fewer or larger disks",
    )
}

/// Whether a pool or volume may have this name.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), PoolError> {
    block::check_name(name).map_err(|_| {
        PoolError::invalid(
            format!("`{name}` is not a valid name for a {what}"),
            "use up to 48 letters, digits, `_`, `-` and `.`, beginning with a letter or digit",
        )
    })
}

/// Whether each disk is named once, and one at least.
pub(crate) fn check_once<'a>(
    mut disks: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), PoolError> {
    let (mut seen, is_empty) = (BTreeSet::new(), disks.clone().next().is_none());
    match disks.find(|disk| !seen.insert(*disk)) {
        Some(disk) => {
            Err(PoolError::invalid(format!("disk {disk} is named twice"), "name each disk once"))
        }
        None if is_empty => Err(PoolError::invalid("no disk is named", "name the disks to use")),
        None => Ok(()),
    }
}

/// Refuses witnesses that would never vote: on a machine that has another disk of the pool one votes beside an even number
/// of machines, where no other witness does. `known`: the pool's machines with data, if there is one already.
pub(crate) fn check_witnesses(
    domain: FailureDomain,
    candidates: &[Candidate],
    known: Vec<Uuid>,
    has_witness: bool,
) -> Result<(), PoolError> {
    let new = candidates.iter().filter(|candidate| !candidate.is_witness).map(|disk| disk.node);
    let machines: BTreeSet<Uuid> = new.chain(known).collect();
    let voters = machines.len().min(VOTE_DISKS_MAX);
    let one_helps = voters.is_multiple_of(2) && !has_witness;
    let is_wrong = |one: &&Candidate| one.is_witness && machines.contains(&one.node);
    let mut wrong = candidates.iter().filter(is_wrong).skip(one_helps.into());
    match wrong.next().filter(|_| domain == FailureDomain::Node) {
        Some(witness) => Err(PoolError::refused(
            witness.place.to_string(),
            "it would never vote: on its machine are other disks of the pool, and the votes are an odd number without it",
            "use a disk of a machine that has none",
        )),
        None => Ok(()),
    }
}

pub(super) fn cut_name(name: &str) -> String {
    let mut len = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(len) {
        len -= 1;
    }
    name[..len].to_string()
}

impl OpenPool {
    /// What the pool would be like with these disks as well.
    pub(crate) fn forecast(
        &self,
        candidates: &[Candidate],
        losses: Vec<String>,
    ) -> Result<PoolForecast, PoolError> {
        let meta = self.pool.meta.borrow();
        let first = meta.counters().disk.0;
        let added = candidates.iter().zip(first..).map(|(candidate, number)| {
            let (geometry, area) = self.geometry_of(candidate)?;
            Ok(MetaRecord::DiskAdded {
                number: DiskNumber(number),
                id: DiskId(Uuid::from_u128(u128::from(number) + 1)),
                node: candidate.node,
                node_name: cut_name(&candidate.place.node_name),
                bytes: geometry.labelled_bytes(),
                area,
            })
        });
        let mut added: Vec<MetaRecord> = added.collect::<Result<_, PoolError>>()?;
        let labels = candidates.iter().zip(first..);
        added.extend(labels.filter_map(|(one, number)| one.label_record(DiskNumber(number))));
        let with = meta.with(&added);
        let with = with.map_err(|fault| PoolError::invalid(fault.to_string(), "report this"))?;
        let [area_extents, _] = self.area_extents(&with);
        let extent_bytes = with.shape().extent_bytes();
        let witness_bytes = DiskGeometry::bytes_with(area_extents, extent_bytes);
        let new = candidates_in(&with, first, candidates);
        let votes = self.forecast_votes(&with, new, witness_bytes);
        let name = |disk: DiskNumber| {
            let new = disk.0.checked_sub(first).and_then(|at| candidates.get(at as usize));
            new.map_or_else(|| self.pool.disk_name(disk), |new| new.place.name.clone())
        };
        let joined = words_of_joints(&with, None, name);
        let new = (first..).map(DiskNumber).take(candidates.len());
        let usable = self.pool.usable_disks().into_iter().chain(new).collect();
        Ok(PoolForecast { joined, ..forecast_of(&with, &usable, losses, votes) })
    }

    /// The layout of a disk that joins, and a witness's metadata area: another disk gets one when it is to vote.
    pub(crate) fn geometry_of(
        &self,
        candidate: &Candidate,
    ) -> Result<(DiskGeometry, Option<ExtentRange>), PoolError> {
        let extent_bytes = self.pool.shape().extent_bytes();
        let least = self.pool.area.borrow().layout.area_bytes().div_ceil(extent_bytes) as u32;
        candidate.geometry_and_area(None, least, extent_bytes)
    }

    /// Adds disks, which have been checked: labelled, then committed, then taken in. All of them or none.
    pub(crate) async fn extend(
        self: &Rc<Self>,
        config: &EngineConfig,
        candidates: Vec<Candidate>,
    ) -> Result<(), PoolError> {
        let runtime = &self.pool.runtime;
        // Whoever adds others waits for this: they would have the same numbers.
        let adding = self.pool.unless_over(self.adding.acquire(1)).await;
        let adding = adding.map_err(|ended| self.over(ended))?;
        self.refuse_members(&candidates)?;
        let trust = grants::replace(self.pool.grant.borrow().as_deref());
        claim_all(config, runtime, &candidates, (self.pool.epoch, trust.clone())).await?;
        let labelled = self.label_new(&candidates).await;
        if labelled.is_err() {
            give_back(config, runtime, &candidates, (self.pool.epoch, &trust)).await;
            candidates.iter().for_each(|candidate| candidate.device.disown());
        }
        let labels = labelled?;
        let this = Rc::clone(self);
        // Whoever gives up waiting for the commit doesn't end it, and what is committed is a member.
        let commit = self.in_time(async move {
            let _adding = adding;
            let mut records: Vec<MetaRecord> = labels.iter().map(added).collect();
            let labelled = candidates.iter().zip(&labels);
            records.extend(labelled.filter_map(|(one, label)| one.label_record(label.number)));
            this.administer_now(|_| Ok((records, ()))).await?;
            let members = candidates.into_iter().zip(labels).map(|(candidate, label)| {
                let member = Member::new(label.number, label.disk, label.geometry);
                this.pool.members.borrow_mut().insert(label.number, Rc::clone(&member));
                let Candidate { place, node, device, .. } = candidate;
                this.attach(&member, place, node, device);
                member
            });
            Ok(members.collect::<Vec<_>>())
        });
        let mut members = commit.await?;
        let usable = async {
            loop {
                members.retain(|member| !member.is_usable());
                if members.is_empty() {
                    return Ok(());
                }
                self.pool.wait_for_change().await?;
            }
        };
        match runtime::timeout(runtime, self.pool.limits.administer, usable).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ended)) => Err(self.over(ended)),
            Err(_) => {
                let names: Vec<String> = members.iter().map(|disk| disk.display_name()).collect();
                Err(PoolError::refused(
                    names.join(" and "),
                    "it was added and does not answer now",
                    "it is taken in once it answers",
                ))
            }
        }
    }

    /// A former command may have added a disk since this one was checked, when nobody waited for that any more.
    fn refuse_members(&self, candidates: &[Candidate]) -> Result<(), PoolError> {
        let members = self.pool.members();
        let has =
            |device| members.iter().filter_map(|m| m.device()).any(|d| Rc::ptr_eq(&d, device));
        if let Some(candidate) = candidates.iter().find(|candidate| has(&candidate.device)) {
            let remedy = format!("see `etherpool pool show {}`", self.pool.name);
            return Err(PoolError::refused(&candidate.place.name, "it has been added", remedy));
        }
        Ok(())
    }

    /// Labels disks that are to join; whoever adds others waits meanwhile.
    async fn label_new(&self, candidates: &[Candidate]) -> Result<Vec<Label>, PoolError> {
        let first = self.pool.meta.borrow().counters().disk.0;
        let labels = candidates.iter().zip(first..);
        let labels = labels.map(|(candidate, number)| self.label_of(candidate, DiskNumber(number)));
        let labels: Vec<Label> = labels.collect::<Result<_, PoolError>>()?;
        let prepare = async |candidate: &Candidate, label: &Label| {
            let prepared = candidate.prepare(label).await;
            prepared.map_err(|error| PoolError::io("writing to it", &candidate.place.name, error))
        };
        let (limits, runtime) = (&self.pool.limits, &self.pool.runtime);
        label_all(limits, runtime, candidates, &labels, prepare).await?;
        Ok(labels)
    }

    /// That of a disk that joins.
    fn label_of(&self, candidate: &Candidate, number: DiskNumber) -> Result<Label, PoolError> {
        let (geometry, area) = self.geometry_of(candidate)?;
        let random = self.pool.runtime.random_bytes16();
        let pool = self.pool.meta.borrow().pool().clone();
        Ok(Label {
            features: Features::default(),
            pool: pool.id,
            pool_name: pool.name,
            disk: DiskId(uuid::Builder::from_random_bytes(random).into_uuid()),
            number,
            geometry,
            area,
            failure_domain: pool.failure_domain,
            node: candidate.node,
            node_name: cut_name(&candidate.place.node_name),
            first_owner: self.pool.owner,
            vote_disks: self.pool.config.borrow().voters.now.clone(),
        })
    }
}
