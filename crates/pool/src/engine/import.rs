//! Making, extending and importing pools: what is asked before anything is changed, and the forecast
//! that a dry run shows. The same checks serve both, so that a dry run says what the command would.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use block::{Epoch, OwnerId, spoken};
use seal::Grant;

use super::cable::{Load, side_by_side};
use super::create::{Creation, NewPool, check_name, check_once, check_witnesses};
use super::format_disk::Candidate;
use super::labels::put_labels;
use super::observe::{Content, Others};
use super::open::OpenRequest;
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Import, Slot, SlotState};
use super::whose::{ALIVE_WITHIN, owner_name};
use super::{CreatePool, Engine, ExtendPool, ImportOptions, KnownDisk, KnownPool, VotesOf};
use crate::error::PoolError;
use crate::forecast::PoolForecast;
use crate::format::{Destruction, DiskId, PoolId};
use crate::metadata::Labels;
use crate::report::{ImportPlan, PoolReport};

/// A pool that is opened once a minute comes so far in four thousand years; versions of checksum blocks have room for
/// twice as much.
const EPOCH_FLOOR_MAX: Epoch = Epoch(1 << 31);

/// By which looks at free disks a command is decided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// By new ones, for a forecast: nobody looks after it.
    Anew,
    /// By those that every device is given anyway, now and then, if nothing was on it. Labels are read anew, and a target
    /// goes through a disk that nobody has before it lets anybody claim it, we through others: so what came there since is
    /// found, and nothing is written over it.
    Before,
}

impl Engine {
    /// Makes a pool and opens it.
    pub async fn create_pool(
        self: &Rc<Self>,
        request: CreatePool,
    ) -> Result<PoolReport, PoolError> {
        self.create_granted(request, None).await
    }

    /// Makes a pool whose disks obey those whom a grant names, and opens it.
    pub async fn create_granted(
        self: &Rc<Self>,
        request: CreatePool,
        grant: Option<Grant>,
    ) -> Result<PoolReport, PoolError> {
        let disks = [request.disks.as_slice(), &request.witnesses].concat();
        check_once(disks.iter())?;
        let taking = self.taken.take(&disks, Some(&request.name))?;
        let (candidates, _) = self.check_create(&request, Looks::Before).await?;
        let creation = Creation {
            config: &self.config,
            runtime: &self.runtime,
            request: &request,
            candidates,
            grant: grant.as_ref(),
        };
        let NewPool { id, disks: places, contents } = creation.run().await?;
        // Ours before it can be seen: the first look opens it.
        self.known.borrow_mut().insert(id, places.into_iter().collect());
        let slot = self.slot_of(id, &request.name);
        drop(taking);
        self.note_contents(&disks, contents).await;
        self.wait_open(&slot, Duration::ZERO).await
    }

    /// What [`Engine::create_pool`] would do, or why it wouldn't.
    pub async fn plan_create(&self, request: &CreatePool) -> Result<PoolForecast, PoolError> {
        let (candidates, losses) = self.check_create(request, Looks::Anew).await?;
        let creation = Creation {
            config: &self.config,
            runtime: &self.runtime,
            request,
            candidates,
            grant: None,
        };
        creation.forecast(losses)
    }

    async fn check_create(
        &self,
        request: &CreatePool,
        looks: Looks,
    ) -> Result<(Vec<Candidate>, Vec<String>), PoolError> {
        check_name("pool", &request.name)?;
        check_once(request.disks.iter())?;
        check_once(request.disks.iter().chain(&request.witnesses))?;
        let named = self.slots_named(&request.name);
        if named.iter().any(|slot| !self.is_given_up(slot, &request.force_disks)) {
            return Err(PoolError::Exists { what: "pool".into(), name: request.name.clone() });
        }
        let mut candidates =
            self.candidates(&request.disks, &request.witnesses, &request.force_disks)?;
        put_labels(&request.domains, &mut candidates, &BTreeSet::new())?;
        check_witnesses(request.failure_domain, &candidates, Vec::new(), false)?;
        let losses = self.check_candidates(&candidates, None, looks).await?;
        Ok((candidates, losses))
    }

    /// Whether all that is present of a closed pool, which isn't ours, is about to be overwritten: what is
    /// left of a `pool create` that was cut short goes so.
    fn is_given_up(&self, slot: &Slot, force_disks: &[String]) -> bool {
        self.rank(slot) > 1
            && self.seen_disks(slot.id).iter().all(|disk| force_disks.contains(&disk.place.name))
    }

    /// Adds disks to a pool.
    pub async fn extend_pool(
        &self,
        pool: &str,
        request: &ExtendPool,
    ) -> Result<PoolReport, PoolError> {
        let disks = [request.disks.as_slice(), &request.witnesses].concat();
        check_once(disks.iter())?;
        let _taking = self.taken.take(&disks, None)?;
        let (open, candidates, _) = self.check_extend(pool, request, Looks::Before).await?;
        let extended = open.extend(&self.config, candidates).await;
        self.remember_disks(&open);
        self.observe_again(&disks);
        extended.map(|()| open.report())
    }

    /// What [`Engine::extend_pool`] would do, or why it wouldn't.
    pub async fn plan_extend(
        &self,
        pool: &str,
        request: &ExtendPool,
    ) -> Result<PoolForecast, PoolError> {
        let (open, candidates, losses) = self.check_extend(pool, request, Looks::Anew).await?;
        open.forecast(&candidates, losses)
    }

    async fn check_extend(
        &self,
        pool: &str,
        request: &ExtendPool,
        looks: Looks,
    ) -> Result<(Rc<OpenPool>, Vec<Candidate>, Vec<String>), PoolError> {
        let open = self.writable_pool(pool)?;
        let ExtendPool { disks, witnesses, force_disks, domains } = request;
        // Of nothing more it can be told how the pool is.
        if !disks.is_empty() || !witnesses.is_empty() {
            check_once(disks.iter().chain(witnesses))?;
        }
        let mut candidates = self.candidates(disks, witnesses, force_disks)?;
        {
            let meta = open.pool.meta.borrow();
            put_labels(domains, &mut candidates, &meta.label_kinds())?;
            let machines = meta.data_machines().into_iter().collect();
            let domain = meta.pool().failure_domain;
            check_witnesses(domain, &candidates, machines, open.has_able_witness())?;
        }
        let losses = self.check_candidates(&candidates, Some(&open), looks).await?;
        self.check_epochs(&candidates, &open).await?;
        for candidate in &candidates {
            open.geometry_of(candidate)?;
        }
        Ok((open, candidates, losses))
    }

    /// A target refuses whoever comes with a lower epoch than it has accepted, and what a disk had in another pool
    /// may be more than this one has seen. An opening is under whatever epoch is above.
    async fn check_epochs(
        &self,
        candidates: &[Candidate],
        open: &OpenPool,
    ) -> Result<(), PoolError> {
        let limit = self.config.limits.claim;
        let asked = candidates.iter().map(|one| one.holder(&self.runtime, limit));
        let holders = side_by_side(&self.runtime, Load::Commands, asked).await.into_iter();
        let epochs = holders.map(|holder| holder.map(|holder| holder.epoch)).zip(candidates);
        let Some((Some(highest), candidate)) = epochs.max_by_key(|(epoch, _)| *epoch) else {
            return Ok(());
        };
        if highest <= open.pool.epoch {
            return Ok(());
        }
        let (name, disk) = (&open.pool.name, candidate.place.to_string());
        let why = format!(
            "another pool used it under {highest}, and {name} is open under {}",
            open.pool.epoch
        );
        if highest > EPOCH_FLOOR_MAX {
            return Err(PoolError::refused(
                disk,
                why,
                "use another one: no pool is opened so often",
            ));
        }
        if let Some(slot) = self.slots.borrow().get(&open.pool.id) {
            slot.epoch_floor.set(slot.epoch_floor.get().max(highest));
        }
        let remedy = format!(
            "close the pool and open it again, which gives it a higher one: etherpool pool release \
             {name}; etherpool pool import {name}; then try again"
        );
        Err(PoolError::refused(disk, why, remedy))
    }

    async fn check_candidates(
        &self,
        candidates: &[Candidate],
        target: Option<&OpenPool>,
        looks: Looks,
    ) -> Result<Vec<String>, PoolError> {
        let (known, unknown): (Vec<_>, Vec<_>) = candidates
            .iter()
            .partition(|candidate| looks == Looks::Before && self.was_blank(&candidate.place.name));
        let mut losses = Vec::new();
        for (candidates, load, others) in
            [(known, Load::Labels, Others::Unasked), (unknown, Load::Glance, Others::Glanced)]
        {
            let checks = candidates.iter().map(|one| self.check_candidate(one, target, others));
            let checked = side_by_side(&self.runtime, load, checks).await;
            losses.extend(checked.into_iter().collect::<Result<Vec<_>, PoolError>>()?);
        }
        Ok(losses.into_iter().flatten().collect())
    }

    /// Whether a device was blank when it was glanced at last.
    fn was_blank(&self, name: &str) -> bool {
        let devices = self.devices.borrow();
        devices.get(name).is_some_and(|device| matches!(*device.content.borrow(), Content::Blank))
    }

    fn candidates(
        &self,
        disks: &[String],
        witnesses: &[String],
        force: &[String],
    ) -> Result<Vec<Candidate>, PoolError> {
        let devices = self.devices.borrow();
        let candidate = |name: &String, is_witness: bool| {
            let device = devices.get(name).ok_or_else(|| PoolError::NotFound {
                what: "disk".into(),
                name: name.clone(),
                remedy: "see `etherpool disk list`".into(),
            })?;
            Ok(Candidate {
                place: device.facts.place(),
                node: device.facts.node,
                device: Rc::clone(&device.device),
                forced: force.contains(name),
                is_witness,
                labels: Labels::new(),
                judged_label: Cell::default(),
            })
        };
        let disks = disks.iter().map(|name| candidate(name, false));
        disks.chain(witnesses.iter().map(|name| candidate(name, true))).collect()
    }

    /// Takes a pool over and opens it: one that nobody owns, or whose owner wasn't heard for longer
    /// than its lease lasts, or any other if that is forced.
    pub async fn import_pool(
        self: &Rc<Self>,
        name_or_id: &str,
        options: ImportOptions,
    ) -> Result<PoolReport, PoolError> {
        let slot = self.importable(name_or_id)?;
        if let Some(open) = already_open(&slot, options) {
            return open;
        }
        let plan = self.plan_of(&slot, options.votes).await?;
        // Where its owner lives, nothing can be read either.
        if let Some(refusal) = plan.refusal.filter(|_| !options.force || options.read_only) {
            return Err(refusal);
        }
        if let Some(no_quorum) = plan.no_quorum.filter(|_| !options.read_only) {
            return Err(no_quorum);
        }
        // It may have been opened meanwhile. An import of what is open would stay, until the pool is somebody else's
        // and it takes it from him.
        if let Some(open) = already_open(&slot, options) {
            return open;
        }
        let other = slot.import.get().filter(|other| other.read_only != options.read_only);
        if let Some(other) = other {
            let how = if other.read_only { "read-only" } else { "as usual" };
            let reason = format!("it is being imported {how} already");
            return Err(PoolError::Suspended { name: slot.name.borrow().clone(), reason });
        }
        *slot.error.borrow_mut() = None;
        if matches!(*slot.state.borrow(), SlotState::Ended(_)) {
            *slot.state.borrow_mut() = SlotState::Closed;
        }
        let grace = options.grace.unwrap_or(self.config.limits.grace);
        let ImportOptions { force, outdated_metadata: outdated, read_only, .. } = options;
        slot.import.set(Some(Import { grace, force, outdated, read_only, votes: options.votes }));
        self.changed.notify_all();
        self.wait_open(&slot, grace).await
    }

    /// Why a pool isn't taken over now without force; what can't be told is found out by opening it.
    pub(super) async fn refusal(&self, slot: &Slot) -> Option<PoolError> {
        let disks = self.seen_disks(slot.id);
        let quorum = Quorum::of(&disks);
        let heard = self.live_owner(&disks, &quorum).await?;
        Some(owner_lives(&slot.name.borrow(), &owner_name(&quorum), heard))
    }

    /// Takes note of a grant that was found on a pool's disks, or made so that it can be imported. It lets us have disks
    /// that know a former one, and is the pool's if the key in its metadata leads to it.
    pub fn learn_grant(&self, pool: &str, grant: Grant) -> Result<(), PoolError> {
        let slot = self.importable(pool)?;
        if let SlotState::Open(open) = &*slot.state.borrow() {
            open.learn_grant(grant.clone());
        }
        slot.grant.replace(Some(Rc::new(grant)));
        Ok(())
    }

    /// Whose a pool is, and whether [`Engine::import_pool`] would take it without force.
    pub async fn plan_import(
        self: &Rc<Self>,
        name_or_id: &str,
        votes: VotesOf,
    ) -> Result<ImportPlan, PoolError> {
        let slot = self.importable(name_or_id)?;
        if let SlotState::Open(open) = &*slot.state.borrow() {
            let name = &open.pool.name;
            let remedy = format!("see `etherpool pool show {name}`");
            return Err(PoolError::invalid(format!("pool {name} is open here already"), remedy));
        }
        self.plan_of(&slot, votes).await
    }

    /// The pool that is meant by a name. Of several of one name none is taken by guessing.
    pub(super) fn importable(&self, name: &str) -> Result<Rc<Slot>, PoolError> {
        let found = self.slots_named(name);
        match found.as_slice() {
            [] => Err(PoolError::no_pool(name)),
            [one] => Ok(Rc::clone(one)),
            [first, ..] if matches!(*first.state.borrow(), SlotState::Open(_)) => {
                Ok(Rc::clone(first))
            }
            several => {
                let ids: Vec<String> = several.iter().map(|slot| slot.id.to_string()).collect();
                Err(PoolError::invalid(
                    format!("{} pools are called {name}: {}", ids.len(), ids.join(", ")),
                    "name one by its id",
                ))
            }
        }
    }

    async fn plan_of(
        self: &Rc<Self>,
        slot: &Slot,
        votes: VotesOf,
    ) -> Result<ImportPlan, PoolError> {
        self.look_again(slot.id).await;
        let trusted = self.trusted_for(slot.id, votes);
        self.forget_others_homes(slot);
        let disks = self.seen_disks_by(slot.id, &trusted);
        let request = OpenRequest { disks: disks.clone(), ..self.request(slot) };
        let quorum = Quorum::of(&disks);
        if quorum.newest.is_none() {
            return Err(request.no_quorum(&quorum));
        }
        let no_quorum = (!quorum.suffices()).then(|| request.no_quorum(&quorum));
        if quorum.destruction() != Destruction::None {
            return Err(request.is_destroyed());
        }
        let owner = quorum.newest.as_ref().map_or(OwnerId::NONE, |newest| newest.owner);
        let heard = self.last_heard(&disks, &quorum).await;
        let name = slot.name.borrow().clone();
        let lives = heard.filter(|heard| *heard < ALIVE_WITHIN);
        Ok(ImportPlan {
            refusal: lives.map(|heard| owner_lives(&name, &owner_name(&quorum), heard)),
            no_quorum,
            name,
            id: slot.id.to_string(),
            owner: (owner != OwnerId::NONE).then(|| owner_name(&quorum)),
            owner_id: (owner != OwnerId::NONE).then(|| owner.to_string()),
            is_ours: owner == self.config.owner,
            heard_ms: heard.map(|heard| heard.as_millis() as u64),
            disks: disks.iter().map(|disk| disk.place.to_string()).collect(),
            key: quorum.signed.as_ref().map(|signed| signed.grant.key()),
            votes: quorum.votes(),
        })
    }

    /// Takes note of what is known of the pools that are open.
    pub(super) fn remember_open(&self) {
        let open: Vec<Rc<OpenPool>> = {
            let slots = self.slots.borrow();
            let open = slots.values().filter_map(|slot| match &*slot.state.borrow() {
                SlotState::Open(open) => Some(Rc::clone(open)),
                _ => None,
            });
            open.collect()
        };
        let kept = open.iter().filter(|open| !open.pool.read_only);
        kept.for_each(|open| self.remember_disks(open));
    }

    /// The pools that the supervisor's records should name now.
    pub fn known_pools(&self) -> Vec<KnownPool> {
        self.remember_open();
        let known = self.known.borrow();
        let disk = |(id, place): (&DiskId, &super::DiskPlace)| KnownDisk {
            id: id.0,
            place: place.clone(),
        };
        let pool = |(id, disks): (&PoolId, &super::slot::KnownDisks)| KnownPool {
            id: id.0,
            disks: disks.iter().map(disk).collect(),
        };
        known.iter().map(pool).collect()
    }
}

/// What comes of an import of a pool that is open here.
fn already_open(slot: &Slot, options: ImportOptions) -> Option<Result<PoolReport, PoolError>> {
    let SlotState::Open(open) = &*slot.state.borrow() else { return None };
    Some(match options.read_only {
        true => Ok(open.report()),
        false => open.check_writable().map(|()| open.report()),
    })
}

pub(super) fn owner_lives(pool: &str, owner: &str, heard: Duration) -> PoolError {
    PoolError::InUse {
        pool: pool.to_owned(),
        owner: owner.to_owned(),
        heard: spoken(heard),
        remedy: format!("release it there first (`etherpool pool release {pool}` on {owner})"),
    }
}
