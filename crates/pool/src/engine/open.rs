//! Opening a pool: claim it under a new epoch, adopt the metadata, decide who takes part, and replay
//! the logs. A crash at any step leaves a pool that opens the same way again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Claim, Epoch, Instant, IoError};
use futures::future::join_all;
use runtime::{Handle, Notify, Semaphore};
use uuid::Uuid;

use super::checksum_cache::ChecksumCache;
use super::commit::{Area, CommitError};
use super::config::{Votes, evict};
use super::events::Events;
use super::lease::{Ended, Lease, TAKEOVER_WAIT};
use super::member::Member;
use super::observe::Vote;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::re_add::{Joined, NotFit};
use super::{DiskPlace, EngineConfig, Limits};
use crate::error::PoolError;
use crate::format::{Configuration, CopySet, DiskGeometry, DiskId, DiskNumber, Label, PoolId};
use crate::metadata::Metadata;
use crate::report::VotesReport;

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
}

/// What the votes present say.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    pub(crate) vote_disks: Vec<DiskId>,
    pub(crate) present: usize,
    /// Those of them of which both slots can be read.
    whole: usize,
    pub(crate) newest: Option<Configuration>,
    /// Whether a metadata copy that the newest configuration names is present.
    pub(crate) has_metadata: bool,
}

impl Quorum {
    /// What the votes of these disks say together.
    pub(crate) fn of(disks: &[SeenDisk]) -> Quorum {
        let vote_disks = disks.first().map(|disk| disk.label.vote_disks.clone());
        let vote_disks = vote_disks.unwrap_or_default();
        let votes: Vec<&Vote> = disks.iter().filter_map(|disk| disk.vote.as_ref()).collect();
        let newest = votes.iter().map(|vote| &vote.newest).max_by_key(|vote| vote.rank()).cloned();
        let whole = votes.iter().filter(|vote| vote.is_whole).count();
        let present: BTreeSet<DiskId> =
            disks.iter().filter(|d| d.vote.is_some()).map(|disk| disk.label.disk).collect();
        let has_metadata = newest.as_ref().is_some_and(|newest| {
            let current = newest.copies.iter().filter_map(|index| vote_disks.get(index));
            current.into_iter().any(|disk| present.contains(disk))
        });
        Quorum { vote_disks, present: present.len(), whole, newest, has_metadata }
    }

    /// Whether the newest of these votes is the newest of all: a majority is there, and of what another
    /// majority accepted one of them shows it. A vote of which a slot can't be read shows only what is
    /// older. (Of two votes each has what was accepted, and a lone one has nobody to ask.)
    fn is_enough(&self, present: usize, whole: usize) -> bool {
        let total = self.vote_disks.len();
        let shows = whole + self.majority() > total || total <= 2;
        total > 0 && present >= self.majority() && shows
    }

    /// How many votes make a majority.
    pub(crate) fn majority(&self) -> usize {
        self.vote_disks.len() / 2 + 1
    }

    /// How the votes stand.
    pub(crate) fn votes(&self) -> VotesReport {
        VotesReport { total: self.vote_disks.len() as u32, present: self.present as u32 }
    }

    /// Whether the pool can be opened from what is present.
    pub(crate) fn suffices(&self) -> bool {
        self.is_enough(self.present, self.whole) && self.has_metadata
    }
}

/// A disk that has accepted our epoch.
pub(super) struct Claimed {
    pub(super) disk: SeenDisk,
}

impl OpenRequest {
    /// Opens the pool. Devices that were claimed for an opening that failed are an observer's again:
    /// under an epoch that another has outbid not even their labels could be read.
    pub(crate) async fn open(self) -> Result<Rc<OpenPool>, PoolError> {
        let opened = self.open_claimed().await;
        if opened.is_err() {
            self.disks.iter().for_each(|disk| disk.device.disown());
        }
        opened
    }

    async fn open_claimed(&self) -> Result<Rc<OpenPool>, PoolError> {
        let quorum = Quorum::of(&self.disks);
        let before = quorum.newest.clone().filter(|_| quorum.suffices());
        let before = before.ok_or_else(|| self.no_quorum(&quorum))?;
        let (epoch, claimed) = self.claim_all(&quorum, &before).await?;
        let claimed_at = self.runtime.now();
        // The votes may have changed until the claim; from now on only we change them. What a majority
        // was told before is on one of any majority; less than that may have missed it.
        let before = self.reread_votes(&quorum, &claimed, before).await?;
        let (metadata, area) = self.adopt(&quorum, &before, &claimed).await?;
        let config = Configuration {
            epoch,
            number: before.number,
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            released: false,
            copies: before.copies,
            record: before.record,
            out: before.out.clone(),
        };
        let pool = self.build(epoch, config, metadata, area, &quorum);
        let pool = OpenPool::new(pool);
        let readying = self.make_ready(&pool, &claimed, &before, claimed_at);
        // Nobody takes back a disk that is lost while it is being claimed: begin again instead.
        let ready = runtime::timeout(&self.runtime, READY_MAX, readying).await;
        let ready = ready.unwrap_or(Err(Ended::Closed));
        match ready {
            Ok(()) => Ok(pool),
            Err(ended) => {
                pool.pool.lease.end(Ended::Closed);
                Err(pool.over(ended))
            }
        }
    }

    pub(crate) fn no_quorum(&self, quorum: &Quorum) -> PoolError {
        let present: Vec<&str> = self.disks.iter().map(|disk| disk.place.name.as_str()).collect();
        let there = match present.is_empty() {
            true => "none of its disks is present".to_owned(),
            false => format!("of its disks {} are present", present.join(", ")),
        };
        let why = match quorum.vote_disks.is_empty() {
            true => there,
            false => format!(
                "{} of {} votes answer, {} are needed, with a current copy of its metadata; {there}",
                quorum.present,
                quorum.vote_disks.len(),
                quorum.majority()
            ),
        };
        let present: BTreeSet<DiskId> =
            self.disks.iter().filter(|d| d.vote.is_some()).map(|disk| disk.label.disk).collect();
        let missing = quorum.vote_disks.iter().filter(|disk| !present.contains(disk));
        let missing = missing.map(|disk| self.name_of(*disk)).collect();
        let why = match quorum.present.saturating_sub(quorum.whole) {
            0 => why,
            hidden => format!("{why}; of {hidden} votes a newer state can't be read"),
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
        let mut highest =
            self.disks.iter().filter_map(|disk| Some(disk.vote.as_ref()?.newest.epoch));
        let mut epoch = highest.by_ref().max().unwrap_or(before.epoch).next();
        let is_voter = |disk: &&SeenDisk| quorum.vote_disks.contains(&disk.label.disk);
        let holders = self.disks.iter().map(|disk| self.within(disk.device.renew()));
        let mut others = 0;
        for (disk, holder) in self.disks.iter().zip(join_all(holders).await) {
            let Ok(holder) = holder else { continue };
            epoch = epoch.max(holder.value.epoch.next());
            let theirs = holder.value.owner != self.config.owner
                && holder.value.epoch > before.epoch
                && is_voter(&disk);
            others += usize::from(theirs);
        }
        if !self.import && others >= quorum.majority() {
            return Err(self.not_ours());
        }
        for _ in 0..CLAIM_ATTEMPTS {
            let voters: Vec<_> = self.disks.iter().filter(is_voter).collect();
            let (claimed, fenced) = self.claim_some(epoch, voters).await;
            if let Some(fenced) = fenced {
                // Somebody claims it at this moment. Only who was asked to outbids.
                if !self.import {
                    return Err(self.not_ours());
                }
                epoch = fenced.next();
                continue;
            }
            if claimed.len() < quorum.majority() {
                return Err(self.no_quorum(&Quorum { present: claimed.len(), ..quorum.clone() }));
            }
            let others = self.disks.iter().filter(|disk| !is_voter(disk)).collect();
            // A data disk with a higher epoch was claimed by somebody who didn't get the votes.
            let (others, fenced) = self.claim_some(epoch, others).await;
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
        epoch: Epoch,
        disks: Vec<&SeenDisk>,
    ) -> (Vec<Claimed>, Option<Epoch>) {
        let claim = Claim { epoch, owner: self.config.owner, force: false };
        let claims = disks.iter().map(|disk| self.within(disk.device.claim(claim)));
        let answers = join_all(claims).await;
        let (mut claimed, mut fenced) = (Vec::new(), None);
        for (disk, answer) in disks.into_iter().zip(answers) {
            match answer {
                Ok(_) => claimed.push(Claimed { disk: disk.clone() }),
                Err(IoError::Fenced { highest }) => fenced = fenced.max(Some(highest)),
                Err(error) => {
                    tracing::warn!(pool = %self.name, disk = %disk.place.name, %error, "not claimed");
                }
            }
        }
        (claimed, fenced)
    }

    async fn reread_votes(
        &self,
        quorum: &Quorum,
        claimed: &[Claimed],
        before: Configuration,
    ) -> Result<Configuration, PoolError> {
        let voters = claimed.iter().filter(|c| quorum.vote_disks.contains(&c.disk.label.disk));
        let reads = voters.map(|claimed| async {
            let content = super::observe::read_content(&*claimed.disk.device, false);
            match self.within(content).await {
                Ok(super::observe::Content::Labelled { vote, .. }) => vote,
                _ => None,
            }
        });
        let votes: Vec<Vote> = join_all(reads).await.into_iter().flatten().collect();
        let whole = votes.iter().filter(|vote| vote.is_whole).count();
        if !quorum.is_enough(votes.len(), whole) {
            return Err(self.no_quorum(&Quorum { present: votes.len(), whole, ..quorum.clone() }));
        }
        let newest = |newer: Configuration, vote: Configuration| {
            let record = newer.record.max(vote.record);
            let newer = if vote.rank() > newer.rank() { vote } else { newer };
            Configuration { record, ..newer }
        };
        Ok(votes.into_iter().map(|vote| vote.newest).fold(before, newest))
    }

    fn build(
        &self,
        epoch: Epoch,
        config: Configuration,
        metadata: Metadata,
        area: Area,
        quorum: &Quorum,
    ) -> Rc<Pool> {
        let members = metadata.disks().values().filter_map(|disk| {
            let extent = metadata.shape().extent_bytes();
            let geometry = DiskGeometry::new(disk.bytes, extent).ok()?;
            Some((disk.number, Member::new(disk.number, disk.id, geometry)))
        });
        let members: BTreeMap<DiskNumber, Rc<Member>> = members.collect();
        for (number, member) in &members {
            let node_name = metadata.disks().get(number).map(|disk| disk.node_name.clone());
            let unknown =
                || DiskPlace { node_name: node_name.unwrap_or_default(), ..DiskPlace::default() };
            *member.place.borrow_mut() =
                self.known.get(&member.id).cloned().unwrap_or_else(unknown);
        }
        for seen in &self.disks {
            if let Some(member) = members.values().find(|m| m.id == seen.label.disk) {
                member.attach(seen.place.clone(), seen.machine, Rc::clone(&seen.device));
            }
        }
        Rc::new(Pool {
            runtime: self.runtime.clone(),
            limits: self.config.limits.clone(),
            events: Rc::clone(&self.events),
            checksum_cache: Rc::clone(&self.checksum_cache),
            id: self.id,
            name: metadata.pool().name.clone(),
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            epoch,
            vote_disks: quorum.vote_disks.clone(),
            members: RefCell::new(members),
            leaving: RefCell::new(metadata.leaving()),
            meta: RefCell::new(metadata),
            places: RefCell::default(),
            meta_lock: Semaphore::new(1),
            area: RefCell::new(area),
            config: RefCell::new(config.clone()),
            config_lock: Semaphore::new(1),
            votes: Votes::new(&quorum.vote_disks, config),
            lease: Lease::new(),
            changed: Notify::new(),
            release_lock: Semaphore::new(1),
            group_locks: RefCell::default(),
            resyncing: Cell::new(false),
            credits: RefCell::default(),
        })
    }

    async fn make_ready(
        &self,
        open: &Rc<OpenPool>,
        claimed: &[Claimed],
        before: &Configuration,
        claimed_at: Instant,
    ) -> Result<(), Ended> {
        let pool = &open.pool;
        let mut fit: Vec<(Rc<Member>, bool)> = Vec::new();
        for claimed in claimed {
            let Some(member) = pool.member_by_id(claimed.disk.label.disk) else { continue };
            match pool.claim_and_check(&member, &*claimed.disk.device).await {
                Ok(rolled_back) => fit.push((member, rolled_back)),
                Err(NotFit::Refused(why) | NotFit::Unreadable(why)) => pool.refuse(&member, why),
                Err(NotFit::Lost) => {}
            }
        }
        pool.runtime.spawn(Rc::clone(pool).run_lease());
        self.evict_missing(pool, &fit).await?;
        let lock = pool.meta_lock.acquire(1).await;
        match pool.write_checkpoint(None).await {
            Ok(()) => {}
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::error!(pool = %pool.name, ?error, "checkpoint");
                return Err(Ended::Closed);
            }
        }
        drop(lock);
        for (member, rolled_back) in &fit {
            pool.use_at_once(member, *rolled_back);
        }
        for (member, rolled_back) in &fit {
            if pool.join(member, *rolled_back).await? == Joined::NotYet {
                pool.re_add_soon(member);
            }
        }
        pool.free_pending().await?;
        let ours = before.owner == self.config.owner;
        if !before.released && !ours {
            // The former owner may answer reads until its lease has run out.
            let wait = pool.runtime.sleep_until(claimed_at + TAKEOVER_WAIT);
            pool.unless_over(wait).await?;
        }
        pool.lease.wait(&pool.runtime).await
    }

    /// The first configuration under the new epoch: what is missing is out, and metadata copies that
    /// aren't present aren't current.
    async fn evict_missing(
        &self,
        pool: &Rc<Pool>,
        fit: &[(Rc<Member>, bool)],
    ) -> Result<(), Ended> {
        let present: BTreeSet<DiskNumber> = fit.iter().map(|(member, _)| member.number).collect();
        let missing: BTreeSet<DiskNumber> =
            pool.members().iter().map(|m| m.number).filter(|n| !present.contains(n)).collect();
        let newly: Vec<DiskNumber> =
            missing.iter().filter(|disk| !pool.is_out(**disk)).copied().collect();
        let index = |disk| pool.member(disk).and_then(|member| pool.vote_index(member.id));
        let stale: CopySet = fit
            .iter()
            .filter(|(_, rolled_back)| *rolled_back)
            .filter_map(|(member, _)| pool.vote_index(member.id))
            .fold(CopySet::default(), CopySet::with);
        pool.change_configuration(|config| {
            evict(config, &missing, index);
            let trusted = stale.iter().fold(config.copies, CopySet::without);
            if !trusted.is_empty() {
                config.copies = trusted;
            }
            true
        })
        .await?;
        for disk in newly {
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
