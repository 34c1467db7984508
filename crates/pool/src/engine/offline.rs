//! Disks that people take out of use before they work on them, and into use again (docs/engine.md, 16).
//!
//! The wish is a property of the pool, committed first: from then on nothing new is put on the disk, its vote and its
//! copies of logs go elsewhere. Once nothing needs it any more, the configuration does without it, in order; from then
//! on it is **offline**: nothing is read from it or written to it, whoever owns the pool, until the wish is withdrawn.
//! Then it comes back like any disk that was away.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::BlockDevice;

use super::NamedDisks;
use super::config::evict;
use super::lease::Ended;
use super::member::{Member, Standing};
use super::missing::lacking;
use super::open_pool::OpenPool;
use super::pool::Pool;
use super::re_add::NotFit;
use super::status::RunsThere;
use super::volume::Serving;
use crate::error::PoolError;
use crate::forecast::{OfflineForecast, OnlineForecast, VolumeSurvival};
use crate::format::{DiskId, DiskNumber, has_majority};
use crate::metadata::{JobKind, MetaRecord, Metadata};
use crate::report::{OfflineReport, PoolEvent};

/// Why a disk votes though it is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recall {
    /// The pool was opened with its vote: it is let go once others suffice.
    ToOpen,
    /// Somebody wants it online, and that isn't committed yet. Whether others suffice is known only then: one that
    /// died a moment ago still seems to be there.
    ByRequest,
}

impl Pool {
    /// Whether a disk takes no part because somebody wants that. One that is to take none and isn't out is still
    /// needed, and used.
    pub(crate) fn is_offline(&self, disk: DiskNumber) -> bool {
        // Nobody works on a disk that is only read.
        !self.read_only && self.is_out(disk) && self.meta.borrow().offline_since(disk).is_some()
    }

    /// Of a pool that is being opened with the disks that are claimed: where those that are offline are needed for a
    /// majority, they vote. Who opens it can't ask anybody, and it would be opened never again.
    pub(super) fn recall_if_needed(&self, claimed: impl Iterator<Item = DiskId>) {
        let claimed: BTreeSet<DiskId> = claimed.collect();
        let offline: Vec<Rc<Member>> =
            self.members().into_iter().filter(|member| self.is_offline(member.number)).collect();
        let is_offline = |disk| offline.iter().any(|member| member.id == disk);
        if !self.is_majority(|disk| claimed.contains(&disk) && !is_offline(disk)) {
            let recalled = offline.iter().map(|member| (member.number, Recall::ToOpen));
            self.recalled.borrow_mut().extend(recalled);
        }
    }

    /// What is done with an offline disk that is present: it is left alone, or claimed for its vote if that is needed.
    /// Tells whether that is done.
    pub(super) async fn vote_or_let_go(
        &self,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
    ) -> bool {
        let is_recalled = self.recalled.borrow().contains_key(&member.number);
        if !is_recalled {
            self.let_go(member, device);
            return true;
        }
        match self.claim_and_check(member, device).await {
            Ok(_) => {
                self.set_standing(member, Standing::Out);
                true
            }
            Err(NotFit::Lost) => false,
            Err(NotFit::Refused(why)) => {
                self.refuse(member, why);
                true
            }
            Err(NotFit::Another(why)) => {
                self.part(member, why);
                true
            }
            // It may be read the next time, and its vote be the one that is missing.
            Err(NotFit::Unreadable(why)) => {
                self.refuse(member, why);
                false
            }
        }
    }

    /// Gives an offline disk's device up: whoever works on it has it for himself.
    fn let_go(&self, member: &Member, device: &dyn BlockDevice) {
        member.end_claim();
        device.disown();
        self.set_standing(member, Standing::Out);
    }
}

impl OpenPool {
    /// Takes disks out of use, or tells what that would mean.
    pub(crate) async fn offline_disks(
        self: &Rc<Self>,
        request: &NamedDisks,
    ) -> Result<OfflineForecast, PoolError> {
        let mut disks: BTreeSet<DiskNumber> = self.all_named(&request.disks)?.into_iter().collect();
        if disks.is_empty() {
            return Err(PoolError::invalid("no disk is named", "name those to take out of use"));
        }
        let is_undecided =
            |disk: &DiskNumber| self.pool.recalled.borrow().get(disk) == Some(&Recall::ByRequest);
        if let Some(disk) = disks.iter().copied().find(is_undecided) {
            return Err(PoolError::invalid(
                format!("{} is just being taken into use", self.pool.disk_name(disk)),
                "try again once that is done",
            ));
        }
        // Of those that are offline already nothing is asked that may have changed since.
        disks.retain(|disk| !self.pool.is_offline(*disk));
        let forecast = {
            let meta = self.pool.meta.borrow();
            let then = self.with_wish(&meta, &disks)?;
            self.check_offline(&then, &disks)?;
            self.forecast_offline(&meta, &then, &disks)
        };
        if request.dry_run {
            return Ok(forecast);
        }
        let this = Rc::clone(self);
        self.in_time(async move { this.offline_now(&disks).await }).await?;
        Ok(forecast)
    }

    async fn offline_now(self: &Rc<Self>, disks: &BTreeSet<DiskNumber>) -> Result<(), PoolError> {
        let until = self.pool.runtime.now() + self.pool.limits.administer / 2;
        let wished = self.administer_now(|meta| {
            let then = self.with_wish(meta, disks)?;
            self.check_offline(&then, disks)?;
            let new = disks.iter().filter(|disk| meta.offline_since(**disk).is_none());
            let new: Vec<DiskNumber> = new.copied().collect();
            Ok((self.wish(meta, disks), new))
        });
        let new = wished.await?;
        loop {
            let taken = self.take_offline(disks).await.map_err(|ended| self.over(ended))?;
            let Err(why) = taken else { return Ok(()) };
            if self.pool.runtime.now() < until {
                self.pool.wait_for_change().await.map_err(|ended| self.over(ended))?;
                continue;
            }
            // Whoever asked gets what he asked for, or what there was.
            self.administer_now(|meta| Ok((withdrawal(meta, &new), ()))).await?;
            self.bring_back(&new);
            let remedy = "nothing was changed; try again when that is over, or move what is on it first (pool evacuate)";
            return Err(PoolError::refused(self.all_names(disks), why, remedy));
        }
    }

    /// The records of the wish that these take no part. A rebuild that nobody asked for ends with it.
    fn wish(&self, meta: &Metadata, disks: &BTreeSet<DiskNumber>) -> Vec<MetaRecord> {
        let now = self.pool.runtime.calendar().as_secs();
        let new = disks.iter().filter(|disk| meta.offline_since(**disk).is_none());
        let jobs = rebuilds(meta, disks);
        let jobs = jobs.map(|number| MetaRecord::JobRemoved { number });
        new.map(|disk| MetaRecord::offline(*disk, Some(now))).chain(jobs).collect()
    }

    /// The metadata with it.
    fn with_wish(
        &self,
        meta: &Metadata,
        disks: &BTreeSet<DiskNumber>,
    ) -> Result<Metadata, PoolError> {
        let then = meta.with(&self.wish(meta, disks));
        then.map_err(|fault| PoolError::invalid(fault.to_string(), "nothing was changed"))
    }

    /// What taking disks out of use is refused for: what no waiting changes. `then` is the metadata with the wish.
    fn check_offline(
        &self,
        then: &Metadata,
        disks: &BTreeSet<DiskNumber>,
    ) -> Result<(), PoolError> {
        let names = self.all_names(disks);
        if !self.pool.lease.holds(self.pool.runtime.now()) {
            let (name, reason) = (self.pool.name.clone(), self.votes_missing());
            return Err(PoolError::Suspended { name, reason });
        }
        if let Some(why) = self.needed_for_data(then, disks) {
            let remedy = "wait until they have what they lack (pool status), bring those back that are away, or \
                          move what is on it first (pool evacuate)";
            return Err(PoolError::refused(names, why, remedy));
        }
        let stays = self.stays_without(disks);
        let stay: Vec<DiskNumber> = disks.iter().copied().collect();
        let logs = |disk: &DiskNumber| super::job_steps::has_log_copy(then, *disk);
        if disks.iter().any(logs) && self.usable_without(&stay).is_empty() {
            let why = "no other disk takes part, and the logs of the volumes must be somewhere";
            return Err(PoolError::refused(
                names,
                why,
                "bring other disks back, or add some (pool extend)",
            ));
        }
        let voters = self.pool.config.borrow().voters.clone();
        let wanted = self.wanted_voters(then, &voters);
        let is_there =
            |disk: DiskId| self.pool.member_by_id(disk).is_some_and(|member| stays(member.number));
        if !has_majority(&wanted, is_there) {
            let why = "the pool's votes would have no majority without it, and no other disk that takes part can \
                       have its vote";
            let remedy = "bring other disks back, or add a disk, or a witness, on another machine (pool extend)";
            return Err(PoolError::refused(names, why, remedy));
        }
        Ok(())
    }

    /// Which disks are there and stay, without these.
    fn stays_without(&self, disks: &BTreeSet<DiskNumber>) -> impl Fn(DiskNumber) -> bool {
        move |disk| self.is_there(disk) && !disks.contains(&disk)
    }

    /// What of the volumes would be right on no disk that takes part without these, a sentence.
    fn needed_for_data(&self, meta: &Metadata, disks: &BTreeSet<DiskNumber>) -> Option<String> {
        let stays = self.there_without(meta, disks);
        for (id, known) in meta.volumes() {
            let is_on = |disk: DiskNumber| disks.contains(&disk);
            let in_log = known.log.segments.values().flat_map(|segment| &segment.copies);
            let mut places = known.runs.disks().chain(in_log.map(|at| at.disk));
            // Opening it may need any of them.
            let serves = self.volume(*id).is_none_or(|v| v.serving() == Serving::Yes);
            if !serves && places.any(is_on) {
                return Some(format!("volume {} is on it, and is not served now", known.name));
            }
            let lacking = lacking(meta, known, &stays, &RunsThere::of(known, &stays));
            if lacking.away.iter().all(|disk| !disks.contains(disk)) {
                continue;
            }
            let mut others = lacking.away;
            others.retain(|disk| !disks.contains(disk));
            let mut why =
                format!("the last right copy of some blocks of volume {} is on it", known.name);
            for (disks, are) in [(lacking.behind, "missed them"), (others, "away")] {
                if !disks.is_empty() {
                    why.push_str(&format!("; {}: {are}", self.names(&disks, ", ")));
                }
            }
            return Some(why);
        }
        None
    }

    /// Why disks can't be done without at this moment.
    fn still_needed(&self, meta: &Metadata, disks: &BTreeSet<DiskNumber>) -> Option<String> {
        if let Some(why) = self.needed_for_data(meta, disks) {
            return Some(why);
        }
        let stays = self.stays_without(disks);
        for volume in meta.volumes().values() {
            if self.log_lacking(volume, &stays).iter().any(|disk| disks.contains(disk)) {
                return Some(format!(
                    "the last copy of the log of volume {} is on it",
                    volume.name
                ));
            }
        }
        let there = self.pool.present_voters();
        let votes = |disk: DiskId| {
            there.iter().any(|m| m.id == disk && m.answers.get() && !disks.contains(&m.number))
        };
        if !self.pool.is_majority(votes) {
            return Some("the votes have no majority without it".to_owned());
        }
        let copies = self.pool.whole_metadata_copies();
        if !copies.iter().any(|member| stays(member.number)) {
            return Some("the last copy of the pool's metadata is on it".to_owned());
        }
        None
    }

    /// Has the configuration do without disks that are to take no part, all or none; or tells why not yet.
    async fn take_offline(
        self: &Rc<Self>,
        disks: &BTreeSet<DiskNumber>,
    ) -> Result<Result<(), String>, Ended> {
        let pool = &self.pool;
        let is_in = |disk: &&DiskNumber| !pool.is_out(**disk) && pool.member(**disk).is_some();
        let are_in: BTreeSet<DiskNumber> = disks.iter().filter(is_in).copied().collect();
        if are_in.is_empty() {
            return Ok(Ok(()));
        }
        let why_not = self.still_needed(&pool.meta.borrow(), &are_in);
        if let Some(why) = why_not {
            return Ok(Err(why));
        }
        // Its vote would count as that of one that stays.
        if are_in.iter().filter_map(|disk| pool.member(*disk)).any(|member| member.is_unfit()) {
            return Ok(Err("it is just being looked at".to_owned()));
        }
        if !pool.majority_answers(&are_in).await {
            return Ok(Err("no majority of the votes answers without it".to_owned()));
        }
        // What is judged must not change until they are out: a release that tells of a disk that lacks something, a
        // position or a copy of a log that is given up because these are in.
        let _releases = pool.unless_over(pool.release_lock.acquire(1)).await?;
        let _meta = pool.unless_over(pool.meta_lock.acquire(1)).await?;
        // What another one lacks is told before it is taken in, so what holds now holds once they are out.
        let mut outcome = Ok(());
        pool.change_configuration(|config| {
            let meta = pool.meta.borrow();
            let wished = are_in.iter().all(|disk| meta.offline_since(*disk).is_some());
            let why_not = self.still_needed(&meta, &are_in);
            let why_not = why_not.or((!wished).then(|| "somebody wants it online".to_owned()));
            outcome = why_not.map_or(Ok(()), Err);
            outcome.is_ok() && evict(config, &are_in, |disk| pool.id_of(disk))
        })
        .await?;
        if outcome.is_err() {
            return Ok(outcome);
        }
        for member in are_in.iter().filter_map(|disk| pool.member(*disk)) {
            // Somebody may have withdrawn the wish while that was decided.
            if !pool.is_offline(member.number) {
                pool.set_standing(&member, Standing::Out);
                pool.re_add_soon(&member);
                continue;
            }
            // Or is about to, and needs its vote for that.
            let is_recalled = pool.recalled.borrow().contains_key(&member.number);
            match member.device().filter(|_| !is_recalled) {
                Some(device) => pool.let_go(&member, &*device),
                None => pool.set_standing(&member, Standing::Out),
            }
            let (pool, disk) = (pool.name.clone(), member.display_name());
            self.pool.events.tell(PoolEvent::DiskOffline { pool, disk });
        }
        Ok(Ok(()))
    }

    /// Finishes what a command or a crash left of disks that are to take no part.
    pub(super) async fn look_after_offline(self: &Rc<Self>) -> Result<(), Ended> {
        // What was wished at once goes at once, or not at all.
        let mut wishes: BTreeMap<u64, BTreeSet<DiskNumber>> = BTreeMap::new();
        for (disk, since_secs) in self.pool.meta.borrow().offline() {
            wishes.entry(since_secs).or_default().insert(disk);
        }
        let is_wished = |disk: &DiskNumber| wishes.values().any(|disks| disks.contains(disk));
        self.offline_waits.borrow_mut().retain(|disk, _| is_wished(disk));
        for disks in wishes.values() {
            let taken = self.take_offline(disks).await?;
            let mut waits = self.offline_waits.borrow_mut();
            for disk in disks {
                match &taken {
                    Ok(()) => drop(waits.remove(disk)),
                    Err(why) => drop(waits.insert(*disk, why.clone())),
                }
            }
        }
        // Those that had to vote need not once others do.
        let voters = self.pool.present_voters();
        let is_spare = |member: &Rc<Member>| self.pool.is_offline(member.number);
        let stays =
            |disk: DiskId| voters.iter().any(|m| m.id == disk && m.answers.get() && !is_spare(m));
        if self.pool.is_majority(stays) {
            self.pool.recalled.borrow_mut().retain(|_, why| *why == Recall::ByRequest);
            let recalled = self.pool.recalled.borrow();
            let is_kept = |member: &Rc<Member>| recalled.contains_key(&member.number);
            // Also those without a vote: all that were offline were claimed to open the pool.
            let claimed = self.pool.members().into_iter().filter(|member| member.claimed.get());
            let spare = claimed.filter(|member| is_spare(member) && !is_kept(member));
            spare.for_each(|member| self.pool.re_add_soon(&member));
        }
        Ok(())
    }

    /// Takes disks into use again, or tells what that would mean.
    pub(crate) async fn online_disks(
        self: &Rc<Self>,
        request: &NamedDisks,
    ) -> Result<OnlineForecast, PoolError> {
        let named = self.all_named(&request.disks)?;
        let mut disks = named.clone();
        {
            let meta = self.pool.meta.borrow();
            disks.retain(|disk| meta.offline_since(*disk).is_some());
        }
        if disks.is_empty() {
            // Commands name them by their identities, which nobody has typed.
            let names: Vec<_> = named.iter().map(|disk| self.pool.disk_name(*disk)).collect();
            let why = format!("{} is not offline", names.join(", "));
            let remedy = format!("see `etherpool pool show {}`", self.pool.name);
            return Err(PoolError::invalid(why, remedy));
        }
        let is_away = |disk: &&DiskNumber| {
            let member = self.pool.member(**disk);
            member.is_none_or(|member| member.device().is_none() || !member.answers.get())
        };
        let name = |disk: &DiskNumber| self.pool.disk_name(*disk);
        let forecast = OnlineForecast {
            disks: disks.iter().map(name).collect(),
            away: disks.iter().filter(is_away).map(name).collect(),
            missed_bytes: disks.iter().map(|disk| self.pool.dirty_bytes(*disk)).sum(),
        };
        if request.dry_run {
            return Ok(forecast);
        }
        // They vote at once: without them there may be no majority that could commit anything.
        let recalled = disks.iter().map(|disk| (*disk, Recall::ByRequest));
        self.pool.recalled.borrow_mut().extend(recalled);
        let members = disks.iter().filter_map(|disk| self.pool.member(*disk));
        members.for_each(|member| self.pool.re_add_soon(&member));
        let this = Rc::clone(self);
        // It may be committed after whoever asked has given up.
        let online = async move {
            let withdrawn = this.administer_now(|meta| Ok((withdrawal(meta, &disks), ()))).await;
            match &withdrawn {
                Ok(()) => this.bring_back(&disks),
                Err(_) => this.pool.recalled.borrow_mut().retain(|disk, _| !disks.contains(disk)),
            }
            withdrawn
        };
        self.in_time(online).await?;
        Ok(forecast)
    }

    /// Nobody wants these to take no part any more.
    fn bring_back(&self, disks: &[DiskNumber]) {
        self.pool.recalled.borrow_mut().retain(|disk, _| !disks.contains(disk));
        for member in disks.iter().filter_map(|disk| self.pool.member(*disk)) {
            if !member.is_usable() {
                let (pool, disk) = (self.pool.name.clone(), member.display_name());
                self.pool.events.tell(PoolEvent::DiskOnline { pool, disk });
                self.pool.re_add_soon(&member);
            }
        }
        self.pool.changed.notify_all();
    }

    fn forecast_offline(
        &self,
        meta: &Metadata,
        then: &Metadata,
        disks: &BTreeSet<DiskNumber>,
    ) -> OfflineForecast {
        let voters = self.pool.config.borrow().voters.clone();
        let wanted = self.wanted_voters(then, &voters);
        let gives_up = |disk: &&DiskNumber| {
            let id = self.pool.id_of(**disk);
            id.is_some_and(|id| voters.now.contains(&id) && !wanted.contains(&id))
        };
        let there = self.there_without(meta, &BTreeSet::new());
        let there_then = self.there_without(meta, disks);
        let volumes = meta.volumes().values().map(|volume| {
            let now = self.least_copies(meta, volume, &there);
            let then = self.least_copies(meta, volume, &there_then);
            VolumeSurvival {
                volume: volume.name.clone(),
                disks: now.disks.saturating_sub(1),
                nodes: now.nodes.saturating_sub(1),
                disks_then: then.disks.saturating_sub(1),
                nodes_then: then.nodes.saturating_sub(1),
            }
        });
        let name = |disk: &DiskNumber| self.pool.disk_name(*disk);
        OfflineForecast {
            disks: disks.iter().map(name).collect(),
            votes_move: disks.iter().filter(gives_up).map(name).collect(),
            withdrawn_jobs: rebuilds(meta, disks).map(|number| number.0).collect(),
            volumes: volumes.collect(),
        }
    }

    /// That somebody wants a disk to take no part.
    pub(super) fn offline_report(
        &self,
        meta: &Metadata,
        disk: DiskNumber,
    ) -> Option<OfflineReport> {
        let since_secs = meta.offline_since(disk)?;
        // Whoever reads that it is offline pulls it.
        let waits = match self.pool.is_offline(disk) {
            true => None,
            false => {
                let known = self.offline_waits.borrow().get(&disk).cloned();
                Some(known.unwrap_or_else(|| "it is just being taken out of use".to_owned()))
            }
        };
        Some(OfflineReport { since_secs, waits })
    }

    fn all_names(&self, disks: &BTreeSet<DiskNumber>) -> String {
        let names: Vec<String> = disks.iter().map(|disk| self.pool.disk_name(*disk)).collect();
        names.join(" and ")
    }
}

/// The records that nobody wants these to take no part any more, as far as somebody does.
fn withdrawal(meta: &Metadata, disks: &[DiskNumber]) -> Vec<MetaRecord> {
    let wished = disks.iter().filter(|disk| meta.offline_since(**disk).is_some());
    wished.map(|disk| MetaRecord::offline(*disk, None)).collect()
}

/// The jobs that make anew what disks have that are gone.
fn rebuilds<'a>(
    meta: &'a Metadata,
    disks: &'a BTreeSet<DiskNumber>,
) -> impl Iterator<Item = crate::format::JobNumber> + 'a {
    let jobs = disks.iter().filter_map(|disk| meta.job_of(*disk));
    jobs.filter(|(_, job)| job.kind == JobKind::Rebuild).map(|(number, _)| number)
}
