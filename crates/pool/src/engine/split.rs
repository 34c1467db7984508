//! Making a pool of its own of what is left of one of which a majority of the votes is lost for good (docs/engine.md,
//! 18). Nobody can tell that from a network that is cut, only people can, and they may be wrong. So what is left gets
//! another identity, in its labels: to whoever still has the other disks it is a stranger's from then on, and they to it.
//! Neither needs to know of the other so as not to destroy anything of his.
//!
//! 1. What is left is shown; whoever agrees hands that back. All of it is claimed and looked at again, and so is whether
//!    the new pool could be opened.
//! 2. The label of each disk names the new pool, and the former one as that which it **splits from**. If one can't be
//!    written, all are written back.
//! 3. Only once all do, the first configuration of the new pool is shown by the votes that are left. With a majority of
//!    these it can be opened, like any pool that nobody serves.
//! 4. When it is, a disk's label forgets the former pool before the disk is used.
//!
//! Whoever is cut short before the third is done leaves disks of a pool that never was. They are the former one's
//! (`undone`): the same again counts them, and so does the former pool if its majority is back after all.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use block::{Epoch, Instance, IoError, OwnerId, write_durably};
use futures::future::join_all;

use super::destroy::{in_order, shown_by_label, shown_disk};
use super::examine::ExaminedDisk;
use super::import::the_one;
use super::lease::Ended;
use super::observe::read_label;
use super::open::{Claimed, OpenRequest, SeenDisk};
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::{Slot, SlotState};
use super::unlabel::{is_from, newest_vote, show};
use super::whose::owner_name;
use super::{Engine, ImportOptions};
use crate::endings::{SplitPlan, SplitReport};
use crate::error::PoolError;
use crate::format::{
    Configuration, Destruction, DiskGeometry, DiskId, Label, LabelState, PoolId, VOTE_DISKS_MAX,
    Voters,
};

impl Engine {
    /// What [`Engine::split_pool`] would make a pool of its own, or why it wouldn't.
    pub async fn plan_split(self: &Rc<Self>, name_or_id: &str) -> Result<SplitPlan, PoolError> {
        let mut found = self.slots_named(name_or_id);
        if let Ok(id) = name_or_id.parse()
            && found.is_empty()
        {
            let left = self.left_of(PoolId(id));
            let slot = |disk: &SeenDisk| self.slot_or_new(PoolId(id), &disk.label.pool_name);
            found.extend(left.first().map(slot));
        }
        for slot in &mut found {
            if let Some(former) = self.unfinished(slot.id) {
                let of_former = self.slot_or_new(former, &slot.name.borrow());
                *slot = of_former;
            }
        }
        let mut ids = BTreeSet::new();
        found.retain(|slot| ids.insert(slot.id));
        self.plan_split_of(&*the_one(name_or_id, found)?).await
    }

    /// The slot of a pool. Whoever only asks leaves no trace of a pool that has none.
    fn slot_or_new(&self, id: PoolId, name: &str) -> Rc<Slot> {
        let slot = self.slots.borrow().get(&id).cloned();
        slot.unwrap_or_else(|| Rc::new(Slot::new(id, name)))
    }

    /// Makes what is left of a pool one of its own, if it still is what was shown. It is closed then, and nobody's;
    /// its name is the former one's. With `force` also where the owner lives, and by word also with metadata that is
    /// older than what is known of. Where this fails the pool is what it was, but for [`PoolError::Suspended`]: then
    /// nobody knows.
    pub async fn split_pool(
        self: &Rc<Self>,
        shown: &SplitPlan,
        options: ImportOptions,
    ) -> Result<SplitReport, PoolError> {
        let id = shown.id.parse().map(PoolId).map_err(|_| PoolError::no_pool(&shown.id))?;
        let is_known = self.slots.borrow().contains_key(&id);
        if !is_known && self.left_of(id).is_empty() {
            return Err(PoolError::no_pool(&shown.name));
        }
        let slot = self.slot_of(id, &shown.name);
        let names: Vec<String> = shown.disks.iter().map(|disk| disk.name.clone()).collect();
        let _taking = self.taken.take(&names, None)?;
        let split = {
            let _closed = Between::new(&slot)?;
            let split = self.split_slot(&slot, shown, options).await;
            if matches!(*slot.state.borrow(), SlotState::Ended(_)) {
                *slot.state.borrow_mut() = SlotState::Closed;
            }
            split
        };
        self.look_again_at(|device| names.contains(&device.facts.name)).await;
        let new = split.inspect_err(|_| self.changed.notify_all())?;
        slot.wiped.set(true);
        self.slot_of(new, &shown.name);
        self.changed.notify_all();
        Ok(SplitReport { name: shown.name.clone(), id: new.to_string() })
    }

    async fn look_at_rest(&self, pool: PoolId) {
        let began = |label: &Label| label.splits_from == Some(pool);
        self.look_again_at(|device| {
            self.is_of(device, pool) || device.content.borrow().label().is_some_and(began)
        })
        .await;
    }

    async fn plan_split_of(self: &Rc<Self>, slot: &Slot) -> Result<SplitPlan, PoolError> {
        let state = slot.state.borrow().clone();
        let name = slot.name.borrow().clone();
        let open = match state {
            SlotState::Opening => return Err(try_again(&name)),
            SlotState::Open(open) => Some(open),
            SlotState::Closed | SlotState::Ended(_) => None,
        };
        if let Some(open) = open {
            if open.may_have_majority() {
                return Err(needs_nothing(&name));
            }
            let mut disks = self.left_of(slot.id);
            disks.retain(|disk| {
                let member = open.pool.member_by_id(disk.label.disk);
                member.is_none_or(|member| member.device().is_some() && member.answers.get())
            });
            self.check_clones(slot)?;
            let begun = begun(&disks);
            let disks = in_order(disks.iter().map(shown_by_label));
            let mut away = self.plan_of_open(&open).away;
            away.retain(|disk| disks.iter().all(|there| there.id != disk.id));
            let id = slot.id.to_string();
            return Ok(SplitPlan { name, id, disks, away, begun, ..SplitPlan::default() });
        }
        self.look_at_rest(slot.id).await;
        self.check_clones(slot)?;
        let disks = self.left_of(slot.id);
        let quorum = Quorum::of(&disks);
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
            refusal: self.refusal_of(slot, &disks).await,
            disks: in_order(disks.iter().map(shown_by_label)),
            away: in_order(away.map(|disk| shown_disk(&place(disk), *disk, 0))),
            begun: begun(&disks),
            name,
            uses: Vec::new(),
        })
    }

    /// Of two that pass for one disk only one would be of the new pool.
    fn check_clones(&self, slot: &Slot) -> Result<(), PoolError> {
        let clones = self.clones_left(slot.id);
        let Some(first) = clones.first() else { return Ok(()) };
        let why = format!("{} pass for the same disk of the pool", clones.join(" and "));
        let remedy = "take away those that are copies (stop exporting them)";
        Err(PoolError::refused(first.clone(), why, remedy))
    }

    async fn split_slot(
        self: &Rc<Self>,
        slot: &Slot,
        shown: &SplitPlan,
        options: ImportOptions,
    ) -> Result<PoolId, PoolError> {
        let plan = self.plan_split_of(slot).await?;
        if plan.disks != shown.disks {
            return Err(is_another(shown));
        }
        if let Some(refusal) = plan.refusal.filter(|_| !options.force) {
            return Err(refusal);
        }
        // An opening that was under way may have got so far meanwhile.
        let state = slot.state.borrow().clone();
        match state {
            SlotState::Opening => return Err(try_again(&shown.name)),
            SlotState::Open(open) if open.may_have_majority() => {
                return Err(needs_nothing(&shown.name));
            }
            SlotState::Open(open) => {
                open.pool.lease.stop();
                open.pool.lease.end(Ended::Closed);
                open.pool.changed.notify_all();
                self.let_go(slot).await;
                self.look_at_rest(slot.id).await;
            }
            SlotState::Closed | SlotState::Ended(_) => {}
        }
        let seen = self.left_of(slot.id);
        if in_order(seen.iter().map(shown_by_label)) != shown.disks {
            return Err(is_another(shown));
        }
        let done = self.split_claimed(slot, shown, &seen, options).await;
        seen.iter().for_each(|disk| disk.device.disown());
        done
    }

    async fn split_claimed(
        &self,
        slot: &Slot,
        shown: &SplitPlan,
        seen: &[SeenDisk],
        options: ImportOptions,
    ) -> Result<PoolId, PoolError> {
        let (epoch, disks) = self.claim_and_examine(seen).await?;
        let before = self.newest_of(slot, &disks)?;
        let config = self.first_configuration(epoch, &before, &disks);
        if config.copies.is_empty() || disks.iter().all(|disk| disk.label.is_witness()) {
            return Err(self.too_little(slot, &before));
        }
        self.check_metadata(slot, &config, &disks, options).await?;
        // From here on nobody else changes these. What they are left of, and whether others are there by now, is asked once
        // more: what was seen before the claim may be past.
        self.look_at_rest(slot.id).await;
        let left = self.left_of(slot.id);
        if in_order(left.iter().map(shown_by_label)) != shown.disks {
            return Err(is_another(shown));
        }
        if Quorum::of(&left).is_enough() {
            return Err(needs_nothing(&shown.name));
        }
        let new =
            PoolId(uuid::Builder::from_random_bytes(self.runtime.random_bytes16()).into_uuid());
        self.label_all(slot, new, &config, &before, &disks).await?;
        self.known.borrow_mut().remove(&slot.id);
        self.vote_all(slot, new, &config, &disks).await?;
        Ok(new)
    }

    /// What the new pool begins with: what the former one had, with what is left.
    fn first_configuration(
        &self,
        epoch: Epoch,
        before: &Configuration,
        disks: &[ExaminedDisk],
    ) -> Configuration {
        let mut voters = before.voters.all();
        voters.retain(|voter| disks.iter().any(|disk| disk.label.disk == *voter));
        // Of two lists, while one gives way to the other, more may be left than one has.
        voters.sort_by_key(|voter| !before.copies.contains(voter));
        voters.truncate(VOTE_DISKS_MAX);
        let copies = before.copies.iter().filter(|copy| voters.contains(copy)).copied().collect();
        let votes = disks.iter().filter_map(|disk| disk.vote.as_ref());
        Configuration {
            epoch,
            // Not the next: by its number metadata is told from votes that are older.
            number: before.number,
            owner: self.config.owner,
            owner_name: self.config.owner_name.clone(),
            // Nobody serves it yet.
            released: true,
            destruction: Destruction::None,
            voters: Voters::of(voters),
            copies,
            record: votes.map(|(_, vote)| vote.record).fold(before.record, Ord::max),
            out: before.out.clone(),
        }
    }

    /// Reads the metadata as whoever opens the new pool will: what he would be refused is refused now.
    async fn check_metadata(
        &self,
        slot: &Slot,
        config: &Configuration,
        disks: &[ExaminedDisk],
        options: ImportOptions,
    ) -> Result<(), PoolError> {
        let seen: Vec<SeenDisk> = disks.iter().map(|disk| disk.seen.clone()).collect();
        let claimed: Vec<Claimed> = seen.iter().cloned().map(Claimed::new).collect();
        let outdated = options.outdated_metadata;
        let request = OpenRequest { disks: seen, import: true, outdated, ..self.request(slot) };
        request.adopt(config, &claimed).await.map(drop)
    }

    /// Has all labels name the new pool, or none.
    async fn label_all(
        &self,
        slot: &Slot,
        new: PoolId,
        config: &Configuration,
        before: &Configuration,
        disks: &[ExaminedDisk],
    ) -> Result<(), PoolError> {
        let labelled = disks.iter().map(|disk| async {
            let (splits_from, vote_disks) = (Some(slot.id), config.voters.now.clone());
            let label = Label { pool: new, splits_from, vote_disks, ..disk.label.clone() };
            let written = self.in_time(relabel(disk, &label)).await;
            written.map_err(|error| PoolError::io("labelling it", &disk.seen.place.name, error))
        });
        let labelled: Result<Vec<()>, PoolError> = join_all(labelled).await.into_iter().collect();
        if labelled.is_err() {
            let undone = disks.iter().map(|disk| async {
                let mut label = Label { splits_from: None, ..disk.label.clone() };
                if disk.label.splits_from.is_some() {
                    label.vote_disks.clone_from(&before.voters.now);
                }
                // Of one that doesn't answer the others show that it wasn't done.
                if let Err(error) = self.in_time(relabel(disk, &label)).await {
                    tracing::warn!(disk = %disk.seen.place.name, %error, "its former label isn't back");
                }
            });
            join_all(undone).await;
        }
        labelled.map(drop)
    }

    /// Has the voters of the new pool show its first configuration.
    async fn vote_all(
        &self,
        slot: &Slot,
        new: PoolId,
        config: &Configuration,
        disks: &[ExaminedDisk],
    ) -> Result<(), PoolError> {
        let voting = disks.iter().filter(|disk| config.voters.contains(disk.label.disk));
        let told = voting.map(|disk| async {
            let device = &*disk.seen.device;
            let voted = async {
                // Its vote in the former pool stays.
                let (identity, slot) = ((new, disk.label.disk), disk.next_slot());
                show(device, disk.instance, identity, config, slot).await?;
                let label = Label { pool: new, ..disk.label.clone() };
                let shown = newest_vote(device, &label).await?;
                let shows = shown.is_some_and(|(_, vote)| vote == *config);
                shows.then_some(disk.label.disk).ok_or(IoError::Lost)
            };
            let voted = self.in_time(voted).await;
            voted.map_err(|error| PoolError::io("voting on it", &disk.seen.place.name, error))
        });
        let told = join_all(told).await;
        let voted: BTreeSet<DiskId> = told.iter().flatten().copied().collect();
        if config.voters.is_majority(|disk| voted.contains(&disk)) {
            return Ok(());
        }
        let errors = told.iter().filter_map(|told| Some(told.as_ref().err()?.to_string()));
        Err(PoolError::Suspended {
            name: slot.name.borrow().clone(),
            reason: format!(
                "what is left of it may be a pool of its own by now, or not: {}; once its disks answer, see \
                 `etherpool pool list`: the same command goes on with it if it isn't",
                errors.collect::<Vec<_>>().join("; ")
            ),
        })
    }

    /// The newest configuration that what is left shows.
    fn newest_of(&self, slot: &Slot, disks: &[ExaminedDisk]) -> Result<Configuration, PoolError> {
        let votes = || disks.iter().filter_map(|disk| disk.vote.as_ref().map(|(_, vote)| vote));
        let newest = votes().max_by_key(|vote| vote.rank()).cloned();
        let newest = newest.ok_or_else(|| PoolError::NoQuorum {
            pool: slot.name.borrow().clone(),
            why: "none of its votes is present, and without any nobody knows what is right on its disks".into(),
            missing: Vec::new(),
        })?;
        // That it was only asked for counts if it was the last thing that was.
        let decided = votes().any(|vote| vote.destruction == Destruction::Decided);
        if decided || newest.destruction != Destruction::None {
            return Err(PoolError::invalid(
                format!("pool {} is to be no more", slot.name.borrow()),
                format!("`etherpool pool destroy {}` goes on with that", slot.id),
            ));
        }
        Ok(newest)
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

/// As long as this lives a pool isn't opened.
struct Between<'a>(&'a Cell<bool>);

impl Between<'_> {
    fn new(slot: &Slot) -> Result<Between<'_>, PoolError> {
        match slot.between.replace(true) {
            true => Err(try_again(&slot.name.borrow())),
            false => Ok(Between(&slot.between)),
        }
    }
}

impl Drop for Between<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Gives a disk another label: of the instance that was looked at.
async fn relabel(disk: &ExaminedDisk, label: &Label) -> Result<(), IoError> {
    let device = &*disk.seen.device;
    let former = disk.label.pool;
    let is_it = |found: &Label| {
        found.disk == disk.label.disk && (found.pool == former || found.splits_from == Some(former))
    };
    let found = match read_label(device).await? {
        LabelState::Labelled(found) if is_it(&found.label) => found,
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

/// Those that name a pool already which was begun to be split from theirs, and which.
fn begun(disks: &[SeenDisk]) -> Vec<String> {
    let named = disks.iter().filter_map(|disk| Some((&disk.place.name, disk.taken_back?)));
    named.map(|(name, new)| format!("{name} ({new})")).collect()
}

fn try_again(pool: &str) -> PoolError {
    PoolError::invalid(
        format!("pool {pool} is being opened, or another command is at work on it"),
        "try again",
    )
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
