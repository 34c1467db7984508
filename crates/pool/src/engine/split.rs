//! Making a pool of its own of what is left of one of which a majority of the votes is lost for good (docs/engine.md,
//! 17). Nobody can tell that from a network that is cut, only people can, and they may be wrong. So what is left gets
//! another identity, in its labels: to whoever still has the other disks it is a stranger's from then on, and they to it.
//! Neither needs to know of the other so as not to destroy anything of his.
//!
//! 1. What is left is shown; whoever agrees hands that back. All of it is claimed and looked at again.
//! 2. The label of each disk names the new pool, and the former one as that which it **splits from**.
//! 3. Only once all do, the first configuration of the new pool is shown by the votes that are left. With a majority of
//!    these it can be opened, like any pool that nobody serves.
//! 4. When it is, a disk's label forgets the former pool before the disk is used.
//!
//! Whoever is cut short before the third is done leaves disks of a pool that can't be opened and never was: the same
//! again takes them for the former pool's.

use std::collections::BTreeSet;
use std::rc::Rc;

use block::{Instance, IoError, OwnerId, write_durably};
use futures::future::join_all;

use super::Engine;
use super::config::vote_place;
use super::destroy::{in_order, shown_by_label, shown_disk};
use super::examine::ExaminedDisk;
use super::lease::Ended;
use super::observe::{read_label, read_vote};
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Slot, SlotState};
use super::unlabel::{is_from, show};
use super::whose::owner_name;
use crate::endings::{ShownDisk, SplitPlan, SplitReport};
use crate::error::PoolError;
use crate::format::{
    Configuration, Destruction, DiskGeometry, DiskId, Label, LabelState, PoolId, Voters,
};
use crate::report::PoolEvent;

impl Engine {
    /// What [`Engine::split_pool`] would make a pool of its own, or why it wouldn't.
    pub async fn plan_split(self: &Rc<Self>, name_or_id: &str) -> Result<SplitPlan, PoolError> {
        let slot = self.importable(name_or_id)?;
        let slot = match self.unfinished(slot.id) {
            Some(former) => self.slot_of(former, &slot.name.borrow()),
            None => slot,
        };
        self.plan_split_of(&slot).await
    }

    /// Makes what is left of a pool one of its own, if it still is what was shown. It is closed then, and nobody's;
    /// its name is the former one's. With `force` also where the owner lives.
    pub async fn split_pool(
        self: &Rc<Self>,
        shown: &SplitPlan,
        force: bool,
    ) -> Result<SplitReport, PoolError> {
        let id = shown.id.parse().map(PoolId).map_err(|_| PoolError::no_pool(&shown.id))?;
        let slot = self.slots.borrow().get(&id).cloned();
        let slot = slot.ok_or_else(|| PoolError::no_pool(&shown.name))?;
        let names: Vec<String> = shown.disks.iter().map(|disk| disk.name.clone()).collect();
        let _taking = self.taken.take(&names, None)?;
        let plan = self.plan_split_of(&slot).await?;
        if plan.disks != shown.disks {
            return Err(is_another(shown));
        }
        if let Some(refusal) = plan.refusal.filter(|_| !force) {
            return Err(refusal);
        }
        let state = slot.state.borrow().clone();
        slot.between.set(true);
        if let SlotState::Open(open) = state {
            open.pool.lease.stop();
            open.pool.lease.end(Ended::Closed);
            open.pool.changed.notify_all();
            self.let_go(&slot).await;
        }
        let split = self.split(&slot, shown).await;
        if !matches!(*slot.state.borrow(), SlotState::Opening) {
            *slot.state.borrow_mut() = SlotState::Closed;
        }
        slot.between.set(false);
        self.look_again_at(|device| names.contains(&device.facts.name)).await;
        let new = split.inspect_err(|_| self.changed.notify_all())?;
        self.slot_of(new, &shown.name);
        self.changed.notify_all();
        self.events.tell(PoolEvent::Split {
            pool: shown.name.clone(),
            id: new.to_string(),
            former: shown.id.clone(),
            without: shown.away.iter().map(ShownDisk::describe).collect(),
        });
        Ok(SplitReport { name: shown.name.clone(), id: new.to_string() })
    }

    /// The pool that the disks of one were of, if they only began to be split from that. Such a pool can't be opened.
    pub(super) fn unfinished(&self, pool: PoolId) -> Option<PoolId> {
        let disks = self.seen_disks(pool);
        let former = disks.first()?.label.splits_from?;
        let all = disks.iter().all(|disk| disk.label.splits_from == Some(former));
        (all && !Quorum::of(&disks).is_enough()).then_some(former)
    }

    /// What is left of a pool: its disks present, and those that only began to be split from it.
    fn left_of(&self, pool: PoolId) -> Vec<SeenDisk> {
        self.seen_where(|label| {
            let began = || label.splits_from == Some(pool) && self.unfinished(label.pool).is_some();
            label.pool == pool || began()
        })
    }

    async fn look_at_rest(&self, pool: PoolId) {
        let began = |label: &Label| label.splits_from == Some(pool);
        self.look_again_at(|device| {
            device.is_of(pool) || device.content.borrow().label().is_some_and(began)
        })
        .await;
    }

    async fn plan_split_of(self: &Rc<Self>, slot: &Slot) -> Result<SplitPlan, PoolError> {
        let state = slot.state.borrow().clone();
        let name = slot.name.borrow().clone();
        let open = match state {
            SlotState::Opening => {
                let reason = "it is being opened; try again".into();
                return Err(PoolError::Suspended { name, reason });
            }
            SlotState::Open(open) => Some(open),
            SlotState::Closed | SlotState::Ended(_) => None,
        };
        if let Some(open) = open {
            if open.may_have_majority() {
                return Err(needs_nothing(&name));
            }
            let shown = self.plan_of_open(&open);
            let of_another = |disk: &SeenDisk| disk.label.pool != slot.id;
            let began = self.left_of(slot.id).into_iter().filter(of_another);
            let disks = began.map(|disk| shown_by_label(&disk)).chain(shown.disks);
            let (id, disks, away) = (shown.id, in_order(disks), shown.away);
            return Ok(SplitPlan { name, id, owner: None, refusal: None, disks, away });
        }
        self.look_at_rest(slot.id).await;
        let disks = self.left_of(slot.id);
        let own: Vec<SeenDisk> =
            disks.iter().filter(|disk| disk.label.pool == slot.id).cloned().collect();
        let quorum = Quorum::of(&own);
        if quorum.is_enough() {
            return Err(needs_nothing(&name));
        }
        if disks.is_empty() {
            return Err(self.request(slot).no_quorum(&quorum));
        }
        let owner = quorum.newest.as_ref().map_or(OwnerId::NONE, |newest| newest.owner);
        let is_anothers = ![OwnerId::NONE, self.config.owner].contains(&owner);
        let present: BTreeSet<DiskId> = disks.iter().map(|disk| disk.label.disk).collect();
        let known = self.known.borrow().get(&slot.id).cloned().unwrap_or_default();
        let away: BTreeSet<DiskId> = known.keys().copied().chain(quorum.missing()).collect();
        let away = away.difference(&present);
        let place = |disk| known.get(disk).cloned().unwrap_or_default();
        Ok(SplitPlan {
            id: slot.id.to_string(),
            owner: is_anothers.then(|| owner_name(&quorum)),
            refusal: self.refusal(slot).await,
            disks: in_order(disks.iter().map(shown_by_label)),
            away: in_order(away.map(|disk| shown_disk(&place(disk), *disk, 0))),
            name,
        })
    }

    async fn split(self: &Rc<Self>, slot: &Slot, shown: &SplitPlan) -> Result<PoolId, PoolError> {
        self.look_at_rest(slot.id).await;
        let seen = self.left_of(slot.id);
        if in_order(seen.iter().map(shown_by_label)) != shown.disks {
            return Err(is_another(shown));
        }
        let done = self.split_claimed(slot, &seen).await;
        seen.iter().for_each(|disk| disk.device.disown());
        done
    }

    async fn split_claimed(&self, slot: &Slot, seen: &[SeenDisk]) -> Result<PoolId, PoolError> {
        let (epoch, mut disks) = self.claim_and_examine(seen).await?;
        for disk in &mut disks {
            let read = self.in_time(vote_before(disk)).await;
            let vote =
                read.map_err(|e| PoolError::io("reading its vote", &disk.seen.place.name, e))?;
            disk.vote = vote;
        }
        let own = disks.iter().filter(|disk| disk.label.pool == slot.id);
        if Quorum::of(&own.map(|disk| disk.seen.clone()).collect::<Vec<_>>()).is_enough() {
            return Err(needs_nothing(&slot.name.borrow()));
        }
        let before = self.newest_of(slot, &disks)?;
        let present = |disk: &DiskId| disks.iter().any(|there| there.label.disk == *disk);
        let copies: BTreeSet<DiskId> = before.copies.iter().copied().filter(present).collect();
        let mut voters = before.voters.all();
        voters.retain(|disk| present(disk));
        if voters.is_empty() {
            voters = copies.iter().copied().collect();
        }
        if copies.is_empty() || disks.iter().all(|disk| disk.label.is_witness()) {
            return Err(self.too_little(slot, &before));
        }
        let new =
            PoolId(uuid::Builder::from_random_bytes(self.runtime.random_bytes16()).into_uuid());
        let labelled = disks.iter().map(|disk| async {
            let label = Label {
                pool: new,
                splits_from: Some(slot.id),
                vote_disks: voters.clone(),
                ..disk.label.clone()
            };
            let written = self.in_time(relabel(disk, &label)).await;
            written.map_err(|error| PoolError::io("labelling it", &disk.seen.place.name, error))
        });
        join_all(labelled).await.into_iter().collect::<Result<Vec<()>, PoolError>>()?;
        let config = Configuration {
            epoch,
            number: before.number.next(),
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            // Nobody serves it yet.
            released: true,
            voters: Voters::of(voters),
            copies,
            ..before
        };
        let voting = disks.iter().filter(|disk| config.voters.contains(disk.label.disk));
        let told = voting.map(|disk| async {
            let identity = (new, disk.label.disk);
            let slot = disk.next_slot();
            let shown = show(&*disk.seen.device, disk.instance, identity, &config, slot);
            let shown = self.in_time(shown).await;
            shown.map_err(|error| PoolError::io("voting on it", &disk.seen.place.name, error))
        });
        join_all(told).await.into_iter().collect::<Result<Vec<()>, PoolError>>()?;
        self.known.borrow_mut().remove(&slot.id);
        Ok(new)
    }

    /// The newest configuration that what is left shows.
    fn newest_of(&self, slot: &Slot, disks: &[ExaminedDisk]) -> Result<Configuration, PoolError> {
        let votes = || disks.iter().filter_map(|disk| disk.vote.as_ref().map(|(_, vote)| vote));
        if votes().any(|vote| vote.destruction != Destruction::None) {
            return Err(self.request(slot).is_destroyed());
        }
        let newest = votes().max_by_key(|vote| vote.rank()).cloned();
        newest.ok_or_else(|| PoolError::NoQuorum {
            pool: slot.name.borrow().clone(),
            why: "none of its votes is present, and without any nobody knows what is right on its disks".into(),
            missing: Vec::new(),
        })
    }

    fn too_little(&self, slot: &Slot, before: &Configuration) -> PoolError {
        let request = self.request(slot);
        PoolError::NoQuorum {
            pool: slot.name.borrow().clone(),
            why: "no current copy of its metadata is present, or no disk with data".into(),
            missing: before.copies.iter().map(|disk| request.name_of(*disk)).collect(),
        }
    }
}

impl OpenPool {
    /// Whether a majority of each list of voters may still say that the pool is ours.
    fn may_have_majority(&self) -> bool {
        let answers = |disk| {
            let member = self.pool.member_by_id(disk);
            member.is_some_and(|member| member.device().is_some() && member.answers.get())
        };
        self.pool.lease.holds(self.pool.runtime.now()) || self.pool.is_majority(answers)
    }
}

/// The newest vote of a disk, also of the pool that it only began to be split from.
async fn vote_before(disk: &ExaminedDisk) -> Result<Option<(usize, Configuration)>, IoError> {
    let vote = disk.vote.clone();
    let Some(former) = disk.label.splits_from else { return Ok(vote) };
    let place = vote_place(former, disk.label.disk);
    let (slots, _) = read_vote(&*disk.seen.device, &place, &disk.label.vote_disks).await?;
    let then = slots.newest_slot().zip(slots.newest);
    Ok(vote.into_iter().chain(then).max_by_key(|(_, vote)| vote.rank()))
}

/// Gives a disk another label: of the instance that was looked at.
async fn relabel(disk: &ExaminedDisk, label: &Label) -> Result<(), IoError> {
    let device = &*disk.seen.device;
    let found = match read_label(device).await? {
        LabelState::Labelled(found) if found.label == disk.label => found,
        _ => return Err(IoError::Lost),
    };
    let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
    let expected: Instance = disk.instance;
    for sequence in [found.next_sequence, found.next_sequence + 1] {
        for slot in Label::slots_of(sequence) {
            let written = write_durably(device, slots[slot], label.encode(sequence, slot)).await?;
            is_from(written.instance, Some(expected))?;
        }
    }
    Ok(())
}

fn needs_nothing(pool: &str) -> PoolError {
    PoolError::invalid(
        format!(
            "a majority of the votes of pool {pool} is present: nothing of it need be given up"
        ),
        format!("see `etherpool pool show {pool}`, or import it without --without-majority"),
    )
}

fn is_another(shown: &SplitPlan) -> PoolError {
    PoolError::invalid(
        format!(
            "what is left of pool {} isn't what was shown any more; nothing was done",
            shown.name
        ),
        "look at it again: the same command shows it",
    )
}
