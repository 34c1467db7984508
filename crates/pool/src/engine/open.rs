//! Opening a pool: claim it under a new epoch, adopt the metadata, decide who takes part, and replay
//! the logs. A crash at any step leaves a pool that opens the same way again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Claim, Epoch, Instant, IoError};
use futures::future::join_all;
use runtime::{Handle, Notify, Semaphore};
use seal::{Grant, KeyPair};
use uuid::Uuid;

use super::adopt::Adoption;
use super::cable::{Load, side_by_side};
use super::checksum_cache::ChecksumCache;
use super::commit::{Area, CommitError};
use super::config::{Votes, evict};
use super::events::Events;
use super::grants;
use super::lease::{Ended, Lease, TAKEOVER_WAIT};
use super::limits::REPLAY_MIB_MAX;
use super::member::Member;
use super::node_keys::{Homes, explain_all};
use super::observe::{Content, Others, Vote, has_no_vote, read_content};
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::quorum::Quorum;
use super::re_add::{Joined, NotFit};
use super::stops::StopPoint;
use super::trim::Trims;
use super::trusted::Trusted;
use super::{DiskPlace, EngineConfig, Limits, trusted};
use crate::error::PoolError;
use crate::format::{
    ConfigNumber, Configuration, Destruction, DiskGeometry, DiskId, DiskNumber, Label, PoolId,
    Voters,
};
use crate::metadata::Metadata;
use crate::report::MovedDisk;

/// A labelled disk that is present.
#[derive(Clone)]
pub(crate) struct SeenDisk {
    pub(crate) place: DiskPlace,
    /// The machine that exports it.
    pub(crate) machine: Uuid,
    pub(crate) device: Rc<dyn BlockDevice>,
    pub(crate) label: Label,
    pub(crate) vote: Option<Vote>,
}

/// What is needed to open a pool.
#[derive(Clone)]
pub(crate) struct OpenRequest {
    pub(crate) runtime: Handle,
    pub(crate) config: EngineConfig,
    pub(crate) events: Rc<Events>,
    pub(crate) checksum_cache: Rc<ChecksumCache>,
    pub(crate) id: PoolId,
    pub(crate) name: String,
    pub(crate) disks: Vec<SeenDisk>,
    /// Where the pool's disks were last present, those that are missing now among them.
    pub(crate) known: BTreeMap<DiskId, DiskPlace>,
    /// Somebody asked for it: the pool is taken from whoever has it.
    pub(crate) import: bool,
    /// Somebody said that older metadata will do.
    pub(crate) outdated: bool,
    /// Its disks have private layers, and volumes refuse writes.
    pub(crate) read_only: bool,
    /// The newest configuration that was found before the layers said something else.
    pub(crate) found: Option<ConfigNumber>,
    /// Its epoch is above this.
    pub(crate) epoch_floor: Epoch,
    /// Shown to its disks with the claim, which may know an older one.
    pub(crate) grant: Option<Rc<Grant>>,
    /// Whose votes count. In layers all do: they are of our own making.
    pub(super) trusted: Trusted,
    /// Whose metadata counts, in layers or not.
    pub(super) below: Trusted,
    /// Where its disks belong.
    pub(super) homes: Rc<Homes>,
    /// What of it is present and doesn't count, as it is elsewhere.
    pub(super) moved: Vec<MovedDisk>,
}

/// Why an opening ended.
pub(super) enum Failed {
    /// For good.
    Error(PoolError),
    /// Other machines have these disks than the metadata says.
    Elsewhere(BTreeSet<DiskId>),
}

impl From<PoolError> for Failed {
    fn from(error: PoolError) -> Failed {
        Failed::Error(error)
    }
}

/// A disk that has accepted our epoch.
pub(super) struct Claimed {
    pub(super) disk: SeenDisk,
    /// How long before that its target had heard whoever held it, if it knows.
    former_heard: Option<Duration>,
}

/// How long the former owner may still have a lease after these claims. Each of its renewals was heard by one of the
/// votes claimed, as they are a majority, and before the claim; so none is newer than what any of them heard last. A
/// target that was started since knows nothing. Its clock may be off by one percent, as the owner's.
fn lease_left(claimed: &[Claimed], voters: &Voters) -> Duration {
    let votes = claimed.iter().filter(|claimed| voters.contains(claimed.disk.label.disk));
    let silent = votes.map(|vote| vote.former_heard.unwrap_or_default()).min().unwrap_or_default();
    TAKEOVER_WAIT.saturating_sub(silent - silent / 50)
}

impl OpenRequest {
    /// Opens the pool. Devices that were claimed for an opening that failed are an observer's again:
    /// under an epoch that another has outbid not even their labels could be read.
    pub(crate) async fn open(mut self) -> Result<Rc<OpenPool>, PoolError> {
        loop {
            match self.open_once().await {
                Ok(open) => return Ok(open),
                Err(Failed::Error(error)) => return Err(error),
                // What they say of votes and metadata was believed: all begins anew without them.
                Err(Failed::Elsewhere(disks)) => {
                    self.disks.retain(|disk| !disks.contains(&disk.label.disk));
                }
            }
        }
    }

    /// The same, which ends where disks turn out to be elsewhere.
    pub(super) async fn open_once(&mut self) -> Result<Rc<OpenPool>, Failed> {
        let opened = self.open_claimed().await;
        if opened.is_err() {
            self.disks.iter().for_each(|disk| disk.device.disown());
        }
        opened
    }

    async fn open_claimed(&mut self) -> Result<Rc<OpenPool>, Failed> {
        let quorum = Quorum::of(&self.disks);
        let before = quorum.newest.clone().filter(|_| quorum.suffices());
        let before = before.ok_or_else(|| self.no_quorum(&quorum))?;
        let (epoch, claimed) = self.claim_all(&quorum, &before).await?;
        // Whoever was stopped since this turn began has another time by now.
        let claimed_at = self.runtime.look_at_clock();
        self.config.stops.pass(StopPoint::OpenClaimed).await;
        // The votes may have changed until the claim; from now on only we change them. What a majority
        // was told before is on one of any majority; less than that may have missed it.
        let before = self.reread_votes(&claimed, before).await?;
        if before.destruction != Destruction::None {
            return Err(self.is_destroyed().into());
        }
        let Adoption { metadata, area, unproved } = self.adopt(&before, &claimed).await?;
        let elsewhere = self.elsewhere(&metadata);
        if !elsewhere.is_empty() {
            return Err(Failed::Elsewhere(elsewhere));
        }
        // Until the former owner's lease has run out the pool is his: who takes it over and dies before has nothing.
        let takes_over = !before.released && before.owner != self.config.owner;
        let (owner, owner_name) = match takes_over {
            true => (before.owner, before.owner_name.clone()),
            false => (self.config.owner, self.config.owner_name.clone()),
        };
        let config = Configuration {
            epoch,
            number: before.number,
            owner,
            owner_name,
            released: false,
            destruction: Destruction::None,
            voters: before.voters.clone(),
            copies: before.copies.clone(),
            record: before.record,
            out: before.out.clone(),
            metadata_by: area.signers.clone(),
        };
        let pool = self.build(epoch, config, metadata, area);
        let pool = OpenPool::new(pool, &before);
        let readying = self.make_ready(&pool, &claimed, (&before, &unproved), claimed_at);
        // Nobody takes back a disk that is lost while it is being claimed: begin again instead.
        let ready = runtime::timeout(&self.runtime, READY_MAX, readying).await;
        let ready = ready.unwrap_or(Err(Ended::Closed));
        match ready {
            Ok(()) => {
                self.config.stops.pass(StopPoint::OpenDone).await;
                Ok(pool)
            }
            Err(ended) => {
                pool.pool.lease.end(Ended::Closed);
                Err(pool.over(ended).into())
            }
        }
    }

    /// That a pool isn't opened any more.
    pub(super) fn is_destroyed(&self) -> PoolError {
        let name = self.name.clone();
        let goes_on = format!("`etherpool pool destroy {}` goes on with that", self.id);
        PoolError::Suspended { name, reason: format!("it is to be no more; {goes_on}") }
    }

    pub(crate) fn no_quorum(&self, quorum: &Quorum) -> PoolError {
        let present: Vec<&str> = self.disks.iter().map(|disk| disk.place.name.as_str()).collect();
        let there = match present.is_empty() {
            true => "none of its disks is present".to_owned(),
            false => format!("of its disks {} are present", present.join(", ")),
        };
        let votes = quorum.votes();
        let why = match votes.total {
            0 => there,
            total => format!(
                "{} of {total} votes answer, {} are needed, with a current copy of its metadata; {there}",
                votes.present,
                total / 2 + 1
            ),
        };
        // What is there isn't to be brought back, though its vote may not count.
        let is_there = |disk: DiskId| self.disks.iter().any(|seen| seen.label.disk == disk);
        let missing = quorum.missing().into_iter().filter(|disk| !is_there(*disk));
        let missing = missing.map(|disk| self.name_of(disk)).collect();
        let why = match quorum.hidden() {
            0 => why,
            hidden => format!("{why}; of {hidden} votes a newer state can't be read"),
        };
        let why = match trusted::explain(&self.name, &self.disks, quorum.newest.as_ref()) {
            None => why,
            Some(others) => format!("{why}; {others}"),
        };
        let why = match explain_all(&self.name, &self.moved) {
            None => why,
            Some(moved) => format!("{why}; {moved}"),
        };
        PoolError::NoQuorum { pool: self.name.clone(), why, missing }
    }

    /// A disk of the pool, for people: where it is, or where it was.
    pub(super) fn name_of(&self, disk: DiskId) -> String {
        let seen = self.disks.iter().find(|seen| seen.label.disk == disk).map(|seen| &seen.place);
        match seen.or(self.known.get(&disk)) {
            Some(place) => place.to_string(),
            None => format!("the disk with the id {disk}"),
        }
    }

    /// Claims every disk present under an epoch above all that were ever accepted, vote disks
    /// first.
    async fn claim_all(
        &self,
        quorum: &Quorum,
        before: &Configuration,
    ) -> Result<(Epoch, Vec<Claimed>), PoolError> {
        let voted = voted_epoch(&self.disks).unwrap_or(before.epoch).max(self.epoch_floor);
        let mut epoch = voted.next();
        let is_voter = |disk: &&SeenDisk| quorum.voters.contains(disk.label.disk);
        let holders =
            join_all(self.disks.iter().map(|disk| self.within(disk.device.renew()))).await;
        let holders: Vec<_> = self.disks.iter().zip(holders).collect();
        let told = holders.iter().filter_map(|(disk, holder)| {
            Some((disk.label.disk, holder.as_ref().ok()?.value.epoch))
        });
        let credible = credible(voted, &told.collect(), |are| quorum.voters.is_majority(are));
        let mut others: BTreeSet<DiskId> = BTreeSet::new();
        for (disk, holder) in holders {
            let Some(holder) = holder.ok().filter(|holder| holder.value.epoch <= credible) else {
                continue;
            };
            epoch = epoch.max(holder.value.epoch.next());
            let theirs = holder.value.owner != self.config.owner
                && holder.value.epoch > before.epoch
                && is_voter(&disk);
            others.extend(theirs.then_some(disk.label.disk));
        }
        if !self.import && quorum.voters.is_majority(|disk| others.contains(&disk)) {
            return Err(self.not_ours());
        }
        for _ in 0..CLAIM_ATTEMPTS {
            let voters: Vec<_> = self.disks.iter().filter(is_voter).collect();
            let (claimed, fenced) = self.claim_some((epoch, credible), voters).await;
            if let Some(fenced) = fenced {
                // Somebody claims it at this moment. Only who was asked to outbids.
                if !self.import {
                    return Err(self.not_ours());
                }
                epoch = fenced.next();
                continue;
            }
            let have: BTreeSet<DiskId> = claimed.iter().map(|c| c.disk.label.disk).collect();
            if !quorum.voters.is_majority(|disk| have.contains(&disk)) {
                return Err(self.no_quorum(&quorum.among(&have)));
            }
            let others = self.disks.iter().filter(|disk| !is_voter(disk)).collect();
            // A data disk with a higher epoch was claimed by somebody who didn't get the votes.
            let (others, fenced) = self.claim_some((epoch, credible), others).await;
            if let Some(fenced) = fenced {
                epoch = fenced.next();
                continue;
            }
            return Ok((epoch, claimed.into_iter().chain(others).collect()));
        }
        Err(self.not_ours())
    }

    fn not_ours(&self) -> PoolError {
        PoolError::NotOwner {
            pool: self.name.clone(),
            owner: "another supervisor that has claimed it".into(),
            remedy: "make sure that only one supervisor uses it, then import it".into(),
        }
    }

    async fn claim_some(
        &self,
        (epoch, credible): (Epoch, Epoch),
        disks: Vec<&SeenDisk>,
    ) -> (Vec<Claimed>, Option<Epoch>) {
        let claim = Claim::new(epoch, self.config.owner);
        let claims = disks.iter().map(|disk| {
            self.within(grants::admitted(&*disk.device, claim.clone(), self.grant.clone()))
        });
        let answers = join_all(claims).await;
        let (mut claimed, mut fenced) = (Vec::new(), None);
        for (disk, answer) in disks.into_iter().zip(answers) {
            match answer {
                Ok(holder) => {
                    let former_heard = holder.value.heard;
                    claimed.push(Claimed { disk: disk.clone(), former_heard });
                }
                Err(IoError::Fenced { highest }) if highest <= credible => {
                    fenced = fenced.max(Some(highest));
                }
                Err(error) => {
                    tracing::warn!(pool = %self.name, disk = %disk.place.name, %error, "not claimed");
                }
            }
        }
        (claimed, fenced)
    }

    /// The newest configuration, as the disks show it that were claimed. Who votes may have changed since they
    /// were looked at; then these must be a majority of those.
    async fn reread_votes(
        &self,
        claimed: &[Claimed],
        before: Configuration,
    ) -> Result<Configuration, PoolError> {
        let reads = claimed.iter().map(|claimed| async {
            let device = &*claimed.disk.device;
            // Of a disk without any nothing else counts.
            if self.within(has_no_vote(device)).await != Ok(false) {
                return Ok(SeenDisk { vote: None, ..claimed.disk.clone() });
            }
            let content = self.within(read_content(device, Others::Unasked)).await;
            let vote = match content.map(|content| self.trusted.judge(content)) {
                Ok(Content::Labelled { vote, .. }) => vote,
                Ok(Content::Destroyed { .. }) => return Err(self.is_destroyed()),
                _ => None,
            };
            Ok(SeenDisk { vote, ..claimed.disk.clone() })
        });
        let disks = side_by_side(&self.runtime, Load::Labels, reads).await;
        let disks = disks.into_iter().collect::<Result<Vec<_>, PoolError>>()?;
        let mut quorum = Quorum::of(&disks);
        // What was seen before the claim was there.
        if quorum.newest.as_ref().is_none_or(|newest| newest.rank() < before.rank()) {
            quorum.voters = before.voters.clone();
            quorum.newest = Some(before.clone());
        }
        let newest = quorum.newest.clone().filter(|_| quorum.is_enough());
        let newest = newest.ok_or_else(|| self.no_quorum(&quorum))?;
        let votes = disks.iter().filter_map(|disk| disk.vote.as_ref()).filter(|vote| vote.counts);
        let record = votes.map(|vote| vote.newest.record).fold(before.record, Ord::max);
        Ok(Configuration { record: newest.record.max(record), ..newest })
    }

    fn build(
        &self,
        epoch: Epoch,
        config: Configuration,
        metadata: Metadata,
        area: Area,
    ) -> Rc<Pool> {
        let members = metadata.disks().values().filter_map(|disk| {
            let extent = metadata.shape().extent_bytes();
            let geometry = DiskGeometry::new(disk.bytes, extent).ok()?;
            Some((disk.number, Member::new(disk.number, disk.id, geometry)))
        });
        let members: BTreeMap<DiskNumber, Rc<Member>> = members.collect();
        for (number, member) in &members {
            let node_name = metadata.disks().get(number).map(|disk| disk.node_name.clone());
            let node_name = node_name.unwrap_or_default();
            // The pool may have been elsewhere since our records were written.
            let kept = metadata.last_place(*number);
            let kept = kept
                .map(DiskPlace::of)
                .map(|place| DiskPlace { node_name: node_name.clone(), ..place });
            let place = kept.or_else(|| self.known.get(&member.id).cloned());
            let place = place.unwrap_or_else(|| DiskPlace { node_name, ..DiskPlace::default() });
            let node_key = metadata.node_key(*number).or(place.node_key);
            *member.place.borrow_mut() = DiskPlace { node_key, ..place };
        }
        for seen in &self.disks {
            let numbered = members.get(&seen.label.number).filter(|m| m.id == seen.label.disk);
            let labelled = || members.values().find(|m| m.id == seen.label.disk);
            if let Some(member) = numbered.or_else(labelled) {
                member.attach(seen.place.clone(), seen.machine, Rc::clone(&seen.device));
            }
        }
        Rc::new(Pool {
            runtime: self.runtime.clone(),
            limits: self.config.limits.clone(),
            stops: self.config.stops.clone(),
            events: Rc::clone(&self.events),
            checksum_cache: Rc::clone(&self.checksum_cache),
            id: self.id,
            name: metadata.pool().name.clone(),
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            epoch,
            grant: RefCell::new(self.grant_of(&metadata)),
            keys: self.config.keys.clone(),
            opened_by: self.trusted.clone(),
            homes: Rc::clone(&self.homes),
            read_only: self.read_only,
            members: RefCell::new(members),
            leaving: RefCell::new(metadata.leaving()),
            recalled: RefCell::default(),
            meta: RefCell::new(metadata),
            places: RefCell::default(),
            meta_lock: Semaphore::new(1),
            area: RefCell::new(area),
            config: RefCell::new(config.clone()),
            config_lock: Semaphore::new(1),
            votes: Votes::new(config),
            lease: Lease::new(),
            changed: Notify::new(),
            release_lock: Semaphore::new(1),
            replay_room: Semaphore::new(REPLAY_MIB_MAX),
            group_locks: RefCell::default(),
            copy_room: Default::default(),
            resyncing: Cell::new(false),
            trims: Trims::default(),
            credits: RefCell::default(),
        })
    }

    /// Whom its disks are to obey: not those whom a grant names that doesn't name this supervisor, as it has the disks
    /// all the same. Their nodes have given up whom they obeyed.
    fn grant_of(&self, metadata: &Metadata) -> Option<Rc<Grant>> {
        let kept = self.trusted.grant_of(grants::kept(metadata));
        let key = self.config.keys.as_ref().map(KeyPair::public);
        grants::believed(kept, self.grant.clone(), key)
    }

    async fn make_ready(
        &self,
        open: &Rc<OpenPool>,
        claimed: &[Claimed],
        (before, unproved): (&Configuration, &[DiskId]),
        claimed_at: Instant,
    ) -> Result<(), Ended> {
        let pool = &open.pool;
        let mut fit: Vec<(Rc<Member>, bool)> = Vec::new();
        pool.recall_if_needed(claimed.iter().map(|claimed| claimed.disk.label.disk));
        // Of a hundred disks, each of which takes ten turns of its arm, in turn this would be seconds.
        let checks = claimed.iter().map(|claimed| async move {
            let label = &claimed.disk.label;
            let member = pool.member_labelled(label.number, label.disk)?;
            if pool.is_offline(member.number) {
                pool.vote_or_let_go(&member, &*claimed.disk.device).await;
                return None;
            }
            let checked = pool.claim_and_check(&member, &*claimed.disk.device).await;
            Some((member, checked))
        });
        let checked = side_by_side(&self.runtime, Load::Labels, checks).await;
        for (member, checked) in checked.into_iter().flatten() {
            match checked {
                Ok(rolled_back) => fit.push((member, rolled_back)),
                Err(NotFit::Refused(why) | NotFit::Unreadable(why)) => pool.refuse(&member, why),
                Err(NotFit::Another(why)) => pool.part(&member, why),
                Err(NotFit::Lost) => {}
            }
        }
        pool.runtime.spawn(Rc::clone(pool).run_lease());
        self.evict_missing(pool, &fit, unproved).await?;
        pool.stops.pass(StopPoint::OpenConfigured).await;
        let lock = pool.meta_lock.acquire(1).await;
        match pool.write_checkpoint(None).await {
            Ok(()) => {}
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::error!(pool = %pool.name, ?error, "checkpoint");
                return Err(Ended::Closed);
            }
        }
        pool.keep_node_keys(fit.iter().map(|(member, _)| member)).await?;
        drop(lock);
        pool.stops.pass(StopPoint::OpenCheckpointed).await;
        pool.name_signers().await?;
        pool.stops.pass(StopPoint::OpenNamed).await;
        for (member, rolled_back) in &fit {
            pool.use_at_once(member, *rolled_back);
        }
        for (member, rolled_back) in &fit {
            if pool.join(member, *rolled_back).await? == Joined::NotYet {
                pool.re_add_soon(member);
            }
        }
        pool.free_pending().await?;
        if pool.config.borrow().owner != self.config.owner {
            // The former owner may answer reads until its lease has run out.
            let left = lease_left(claimed, &before.voters);
            let wait = pool.runtime.sleep_until(claimed_at + left);
            pool.unless_over(wait).await?;
            pool.change_configuration(|config| {
                config.owner = pool.owner;
                config.owner_name.clone_from(&pool.owner_name);
                true
            })
            .await?;
        }
        pool.lease.wait(&pool.runtime).await
    }

    /// The first configuration under the new epoch: what is missing is out, what doesn't exist any more isn't, and
    /// metadata copies that aren't present aren't current. Nor are those that nobody signed who may have: from now on we
    /// may, and one of them may bear our signature.
    async fn evict_missing(
        &self,
        pool: &Rc<Pool>,
        fit: &[(Rc<Member>, bool)],
        unproved: &[DiskId],
    ) -> Result<(), Ended> {
        let present: BTreeSet<DiskNumber> = fit.iter().map(|(member, _)| member.number).collect();
        let missing: BTreeSet<DiskNumber> =
            pool.members().iter().map(|m| m.number).filter(|n| !present.contains(n)).collect();
        let newly: Vec<DiskNumber> =
            missing.iter().filter(|disk| !pool.is_out(**disk)).copied().collect();
        let rolled_back = fit.iter().filter(|(_, rolled_back)| *rolled_back);
        let stale: Vec<DiskId> = rolled_back.map(|(member, _)| member.id).collect();
        pool.change_configuration(|config| {
            // Whoever removed a disk may have ended before the configuration forgot it.
            config.out.retain(|out| pool.meta.borrow().disks().contains_key(&out.disk));
            evict(config, &missing, |disk| pool.id_of(disk));
            config.leave_copies(&stale);
            config.leave_copies(unproved);
            true
        })
        .await?;
        for disk in newly.into_iter().filter(|_| !pool.read_only) {
            pool.events.tell(crate::report::PoolEvent::DiskOut {
                pool: pool.name.clone(),
                disk: pool.disk_name(disk),
                why: "it was not present when the pool was opened".into(),
            });
        }
        Ok(())
    }

    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, IoError>>,
    ) -> Result<T, IoError> {
        let limits: &Limits = &self.config.limits;
        let done = runtime::timeout(&self.runtime, limits.claim, work).await;
        done.unwrap_or(Err(IoError::Lost))
    }
}

/// Two who claim at once outbid each other this often before one gives up.
const CLAIM_ATTEMPTS: usize = 4;
/// How long it may take to get a majority's word on the new owner, its wait for the lease included.
const READY_MAX: Duration = TAKEOVER_WAIT.saturating_add(Duration::from_secs(15));
/// Who claims it anew comes so far above what votes show by attempts that failed; more no honest disk has accepted.
const EPOCHS_SKIPPED: u64 = 1 << 16;

/// The highest epoch of all votes that count. Whoever made up the others may have made up one after which there are no more.
pub(super) fn voted_epoch(disks: &[SeenDisk]) -> Option<Epoch> {
    let votes = disks.iter().filter_map(|disk| disk.vote.as_ref());
    votes.filter(|vote| vote.counts).map(|vote| vote.newest.epoch).max()
}

/// The highest epoch that is believed of a disk, by what its pool's votes show, and what disks say that they have accepted. A
/// disk that says more is none of a majority, and isn't outbid: its target is broken, or was broken into, and would have
/// all others accept the last epoch that there is. What a majority says is so.
pub(super) fn credible(
    voted: Epoch,
    told: &BTreeMap<DiskId, Epoch>,
    is_majority: impl Fn(&dyn Fn(DiskId) -> bool) -> bool,
) -> Epoch {
    let has = |disk: DiskId, epoch: Epoch| told.get(&disk).is_some_and(|told| *told >= epoch);
    let accepted: BTreeSet<Epoch> = told.values().copied().collect();
    let accepted = accepted.into_iter().rev().find(|epoch| is_majority(&|disk| has(disk, *epoch)));
    let least = voted.max(accepted.unwrap_or_default());
    Epoch(least.0.saturating_add(EPOCHS_SKIPPED))
}
