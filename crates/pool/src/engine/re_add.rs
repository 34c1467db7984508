//! Taking a disk in: claimed, checked to be the disk that it was, what it missed made known, its log
//! copies dropped, and only then part of the configuration again.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_SECTORS, BlockDevice, Durability, IoError, RefusalReason};

use super::commit::CommitError;
use super::config::vote_place;
use super::lease::Ended;
use super::limits::READ_TRIES;
use super::member::{Member, Standing};
use super::observe::{self, Content, Others};
use super::pool::Pool;
use super::volume::segment::current_copies;
use crate::format::{
    Applied, AppliedSlots, DiskGeometry, DiskNumber, ExtentShape, Label, LabelError, select_applied,
};
use crate::metadata::{DirtyRegions, MetaRecord};
use crate::report::PoolEvent;

/// Why a disk isn't taken in.
#[derive(Debug)]
pub(crate) enum NotFit {
    /// Try again later.
    Lost,
    /// Not before somebody has done something.
    Refused(String),
    /// Another disk is behind the device: nothing is to be written to that one. What to tell people, unless it is
    /// another one of the pool's: that one is taken for what it is.
    Another(Option<String>),
    /// Its labels can't be read: damage stays, but a drive that fails for a moment reads them again.
    Unreadable(String),
}

/// Whether what was examined of a disk still held when it was to be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It is in, or refused.
    Yes,
    /// All of it is to be done again: it was evicted meanwhile, or fell silent.
    NotYet,
}

impl Pool {
    /// Takes a disk in, in the background; it is tried until it succeeds, is refused, or goes away.
    pub(crate) fn re_add_soon(self: &Rc<Self>, member: &Rc<Member>) {
        if member.joining.replace(true) {
            member.appear();
            return;
        }
        let (pool, member) = (Rc::clone(self), Rc::clone(member));
        self.runtime.spawn(async move {
            // The pool's end ends it.
            let _ = pool.unless_over(pool.re_add(&member)).await;
            member.joining.set(false);
        });
    }

    async fn re_add(self: &Rc<Self>, member: &Rc<Member>) {
        loop {
            let appearance = member.appearance.get();
            let Some(device) = member.device() else { return };
            if self.runtime.now() < member.stays_out_until.get() {
                if self.wait_for_change().await.is_err() {
                    return;
                }
                continue;
            }
            if self.is_offline(member.number) {
                let stays_so = self.vote_or_let_go(member, &*device).await;
                if stays_so && appearance == member.appearance.get() {
                    return;
                }
                self.runtime.sleep(self.limits.rejoin).await;
                continue;
            }
            match self.claim_and_check(member, &*device).await {
                Ok(rolled_back) => {
                    self.use_at_once(member, rolled_back);
                    match self.join(member, rolled_back).await {
                        Ok(Joined::Yes) if appearance == member.appearance.get() => return,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
                Err(NotFit::Another(why)) if appearance == member.appearance.get() => {
                    return self.part(member, why);
                }
                Err(NotFit::Another(_)) => {}
                Err(NotFit::Refused(why)) => {
                    self.refuse(member, why);
                    if appearance == member.appearance.get() {
                        return;
                    }
                }
                Err(NotFit::Unreadable(why)) => {
                    self.refuse(member, why);
                    self.runtime.sleep(self.limits.look_at_closed).await;
                }
                Err(NotFit::Lost) => self.runtime.sleep(self.limits.rejoin).await,
            }
        }
    }

    /// Uses a claimed and checked disk without which nobody did anything: who waits for it may have the
    /// locks that joining needs.
    pub(crate) fn use_at_once(&self, member: &Member, rolled_back: bool) {
        if !rolled_back && !self.is_out(member.number) {
            self.set_standing(member, Standing::Usable);
        }
    }

    /// Lets a device go behind which another disk was found than the member: whoever looks at devices finds out which
    /// it is. Two disks that change places on a machine are each other's so.
    pub(crate) fn part(&self, member: &Member, why: Option<String>) {
        match why {
            Some(why) => self.refuse(member, why),
            None => {
                tracing::info!(pool = %self.name, disk = %member.display_name(), "another disk of the pool is there now");
                self.set_standing(member, Standing::Away);
            }
        }
        member.detach();
        self.changed.notify_all();
    }

    pub(crate) fn refuse(&self, member: &Member, why: String) {
        if member.standing() != Standing::Refused(why.clone()) {
            self.events.tell(PoolEvent::DiskRefused {
                pool: Some(self.name.clone()),
                disk: member.display_name(),
                why: why.clone(),
            });
        }
        self.set_standing(member, Standing::Refused(why));
    }

    /// Claims a disk under our epoch and checks that it is the disk that the metadata means; tells
    /// whether it came back with older contents than it had applied.
    pub(crate) async fn claim_and_check(
        &self,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
    ) -> Result<bool, NotFit> {
        if let Some(why) = self.why_elsewhere(member) {
            return Err(NotFit::Refused(why));
        }
        let ended = member.claims_ended.get();
        let claimed = self.within(self.limits.claim, self.claim_unknown(device)).await;
        let instance = claimed.map_err(not_fit)?.instance;
        if member.failed_instance.get() == Some(instance) {
            return Err(NotFit::Lost);
        }
        let checked = self.check_label(member, device).await;
        // If it isn't held for this member any more, whom it is held for may have claimed it.
        if matches!(checked, Err(NotFit::Another(_))) && member.holds(device) {
            member.end_claim();
            device.disown();
        }
        checked?;
        self.tell(member, device).await?;
        let label = self.resolve_label(member, device).await?;
        self.refresh_vote(member, &label, device).await?;
        // Let go meanwhile: it would tell an observer our epoch without having heard the owner.
        if member.claims_ended.get() != ended {
            return Err(NotFit::Lost);
        }
        // It votes, whatever it has applied: on its own eviction, too.
        member.claimed.set(true);
        member.answers.set(true);
        let applied = self.read_applied(member, device).await?;
        let rolled_back = self.is_rolled_back(member.number, &applied);
        member.applied_sequence.set(applied.next_sequence);
        member.told_record.take();
        member.rolled_back.set(rolled_back);
        if rolled_back {
            if member.is_usable() {
                member.set_standing(Standing::Away);
            }
            self.events.tell(PoolEvent::RolledBack {
                pool: self.name.clone(),
                disk: member.display_name(),
            });
        }
        member.seen_instance.set(Some(instance));
        member.checked_instance.set(Some(instance));
        self.changed.notify_all();
        Ok(rolled_back)
    }

    /// What a disk has applied. A block that can't be read may hold the newest number, so that a disk
    /// isn't taken for one with older contents for it: it is read again for a while. Then it is written
    /// anew, as one that applied nothing, unless that would give up a log that no other disk has.
    async fn read_applied(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Result<AppliedSlots, NotFit> {
        let applied = self.applied_on(member, device);
        let applied = self.within(self.limits.claim, applied).await.map_err(not_fit)?;
        if applied.is_whole || !self.is_rolled_back(member.number, &applied) {
            member.unread_applied.set(0);
            return Ok(applied);
        }
        member.unread_applied.set(member.unread_applied.get() + 1);
        if member.unread_applied.get() < READ_TRIES {
            return Err(NotFit::Lost);
        }
        if self.has_lone_log_copy(member.number) {
            let why = "what it has applied can't be read, so nobody can tell whether it has \
                       everything, and no other disk has the log that is on it; see whether its \
                       drive or cable fails (log of its node), or bring back the other disks";
            return Err(NotFit::Unreadable(why.into()));
        }
        tracing::warn!(pool = %self.name, disk = %member.display_name(), "its applied blocks are lost");
        // Both: one that can be read again later mustn't pass for newer than what follows.
        let mut sequence = applied.next_sequence;
        // What it says of itself is its own; what was committed is ours to say, and signed by us.
        let release = applied.newest.map(|newest| newest.release).unwrap_or_default();
        let record = self.area.borrow().committed();
        let places = DiskGeometry::applied_slots();
        for _ in places {
            let anew =
                Applied { pool: self.id, disk: member.id, sequence, release, record, by: None };
            let bytes = anew.encode(self.keys.as_ref());
            let write = device.write(places[anew.slot()], bytes, Durability::Durable);
            self.within(self.limits.claim, write).await.map_err(not_fit)?;
            sequence += 1;
        }
        Ok(AppliedSlots { next_sequence: sequence, ..applied })
    }

    /// What the applied blocks of a disk say now.
    pub(super) async fn applied_on(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Result<AppliedSlots, IoError> {
        let places = DiskGeometry::applied_slots();
        let slots = observe::read_slots(device, places, BLOCK_SECTORS).await?;
        Ok(select_applied(self.id, member.id, [slots[0].as_deref(), slots[1].as_deref()]))
    }

    pub(crate) fn is_rolled_back(&self, disk: DiskNumber, applied: &AppliedSlots) -> bool {
        let meta = self.meta.borrow();
        let expected = meta.disks().get(&disk).map(|disk| disk.expected_release);
        let has = applied.newest.map(|applied| applied.release);
        expected.is_some_and(|expected| has.unwrap_or_default() < expected)
    }

    /// Whether a device is the disk that a member is; or which else it is.
    pub(super) async fn check_label(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Result<(), NotFit> {
        let content =
            self.within(self.limits.claim, observe::read_content(device, Others::Unasked)).await;
        // A target that refuses says nothing of the disk; the next claim tells why.
        match self.trusted().judge(content.map_err(|_| NotFit::Lost)?) {
            Content::Labelled { label, .. }
                if label.label.pool == self.id && label.label.disk == member.id =>
            {
                Ok(())
            }
            Content::Labelled { label, .. }
                if label.label.pool == self.id && self.member_by_id(label.label.disk).is_some() =>
            {
                Err(NotFit::Another(None))
            }
            Content::Labelled { label, .. } => Err(another(format!(
                "it now carries the label of pool {} ({}); put the right disk there",
                label.label.pool_name, label.label.pool
            ))),
            Content::Destroyed { label, .. } => Err(another(format!(
                "it belonged to pool {} ({}), which was destroyed; put the right disk there",
                label.label.pool_name, label.label.pool
            ))),
            // Whether nothing else is on it is looked at before it is written (`resolve_label`).
            Content::Refused(error) if error.left_of((self.id, member.id)).is_some() => Ok(()),
            Content::Refused(error @ LabelError::Damaged { .. }) => {
                Err(NotFit::Unreadable(observe::explain(&error)))
            }
            Content::Refused(error) => Err(another(observe::explain(&error))),
            Content::Blank | Content::Foreign(_) => Err(another(
                "it has no label any more: it was wiped, or another disk is in its place; the pool goes \
                 on without it; put back the disk that was there"
                    .into(),
            )),
            Content::Unread | Content::Unreadable(_) => Err(NotFit::Lost),
        }
    }

    async fn refresh_vote(
        &self,
        member: &Member,
        label: &Label,
        device: &dyn BlockDevice,
    ) -> Result<(), NotFit> {
        let place = vote_place(self.id, member.id);
        let read = observe::read_vote(device, &place, &label.vote_disks);
        let read = self.within(self.limits.claim, read).await;
        let (vote, _) = read.map_err(not_fit)?;
        if let Some(slot) = vote.newest_slot().filter(|_| self.is_forged(&vote)) {
            let disk = member.display_name();
            tracing::warn!(pool = %self.name, disk, "its vote isn't the pool's, and is overwritten");
            self.votes.set_forged(member.id, slot);
            return Ok(());
        }
        if let Some(newest) = vote.newest.as_ref().filter(|newest| newest.epoch > self.epoch) {
            let owner = &newest.owner_name;
            return Err(NotFit::Refused(format!(
                "its vote names a newer owner, {owner} ({}); see `etherpool pool show`",
                newest.epoch
            )));
        }
        self.votes.set_shown(member.id, &vote);
        Ok(())
    }

    /// Makes a claimed and checked disk part of everything, unless it was evicted meanwhile: then
    /// something may have been acknowledged without it, and what was examined isn't true any more.
    pub(crate) async fn join(
        self: &Rc<Self>,
        member: &Rc<Member>,
        rolled_back: bool,
    ) -> Result<Joined, Ended> {
        let reach = self.release_lock.acquire(1).await;
        let lock = self.meta_lock.acquire(1).await;
        // Somebody may have wished so since it was claimed.
        if self.is_offline(member.number) {
            return Ok(Joined::NotYet);
        }
        let examined = self.config.borrow().out_entry(member.number);
        self.note_move(member).await?;
        // What is only read is what there is; checksums tell what of it is right.
        if rolled_back && !self.read_only && self.has_lone_log_copy(member.number) {
            let why = "it has older contents than it had applied, and no other disk has the log \
                       that was on it; bring back its newest state or the other disks first";
            self.refuse(member, why.into());
            return Ok(Joined::Yes);
        }
        if rolled_back {
            let dirty = MetaRecord::RegionsDirtied(self.everything_on(member.number));
            match self.try_commit_locked(&[dirty]).await {
                Ok(()) => {}
                Err(CommitError::Ended(ended)) => return Err(ended),
                Err(error) => {
                    self.refuse(member, format!("what it misses can't be recorded: {error:?}"));
                    return Ok(Joined::Yes);
                }
            }
        }
        let dropped = self.stale_log_copies(member.number, rolled_back);
        if !dropped.is_empty() {
            self.commit_locked(&dropped).await?;
        }
        let area_ends = self.end_of_area(member);
        if !area_ends.is_empty() && !member.moving_area.get() {
            self.commit_locked(&area_ends).await?;
        }
        let votes = self.is_voter(member.id);
        if votes && !self.check_copy(member).await? {
            let filled = self.fill_copy(member).await?;
            if !filled && !self.answers(member).await {
                // It would be evicted by the first who writes, who would wait for that as well.
                return Ok(Joined::NotYet);
            }
        }
        let has_metadata = self.has_metadata(member.id);
        let mut joined = Joined::Yes;
        self.change_configuration(|config| {
            if config.out_entry(member.number) != examined {
                joined = Joined::NotYet;
                return false;
            }
            let joins = has_metadata && config.voters.contains(member.id);
            let joins = joins && config.copies.insert(member.id);
            let changes = config.is_out(member.number) || joins;
            config.out.retain(|out| out.disk != member.number);
            changes
        })
        .await?;
        if joined == Joined::NotYet {
            return Ok(joined);
        }
        self.set_standing(member, Standing::Usable);
        drop((lock, reach));
        member.taken_in(self.runtime.now());
        let dirty_bytes = self.dirty_bytes(member.number);
        if dirty_bytes > 0 {
            member.is_behind.set(true);
        }
        if examined.is_some() || rolled_back {
            self.events.tell(PoolEvent::DiskIn {
                pool: self.name.clone(),
                disk: member.display_name(),
                dirty_bytes,
            });
        }
        self.resync_soon();
        self.push_votes();
        Ok(Joined::Yes)
    }

    /// All that a disk ever had, as dirty regions, as far as another member has it. Of the rest it is the only
    /// one, and the checksums tell what of it is right: what doesn't match is an error or waited for.
    fn everything_on(&self, disk: DiskNumber) -> DirtyRegions {
        let meta = self.meta.borrow();
        let groups = meta.volumes().values().flat_map(|volume| volume.groups());
        let here = groups.filter(|group| group.is_initialised() && group.is_on(disk));
        let dirty_regions = here.map(|group| {
            let others = group.members().filter(|(other, _)| *other != disk);
            let has = others.map(|(other, _)| !meta.dirty(group.generation(), other));
            ((group.generation(), disk), has.fold(0, |any, has| any | has))
        });
        dirty_regions.filter(|(_, mask)| *mask != 0).collect()
    }

    /// Whether a disk has the only current copy of a live log segment: what was acknowledged and is only
    /// there is gone if its contents are older.
    fn has_lone_log_copy(&self, disk: DiskNumber) -> bool {
        let meta = self.meta.borrow();
        let config = self.config.borrow();
        meta.volumes().values().flat_map(|volume| volume.log.segments.values()).any(|segment| {
            let current = current_copies(segment, &config);
            !current.is_empty() && current.iter().all(|copy| copy.disk == disk)
        })
    }

    /// The live log copies on a disk that don't hold everything that was acknowledged.
    fn stale_log_copies(&self, disk: DiskNumber, rolled_back: bool) -> Vec<MetaRecord> {
        let meta = self.meta.borrow();
        let config = self.config.borrow();
        let mut dropped = Vec::new();
        for volume in meta.volumes().values() {
            for segment in volume.log.segments.values() {
                if !segment.copies.iter().any(|copy| copy.disk == disk) {
                    continue;
                }
                let current = current_copies(segment, &config);
                let is_current = current.iter().any(|copy| copy.disk == disk);
                let others = current.iter().any(|copy| copy.disk != disk);
                if others && (!is_current || rolled_back) {
                    let (volume, number) = (volume.id, segment.number);
                    dropped.push(MetaRecord::SegmentCopyDropped { volume, number, disk });
                }
            }
        }
        dropped
    }

    /// Bytes that a disk still has to resync: regions missed, times their size.
    pub(crate) fn dirty_bytes(&self, disk: DiskNumber) -> u64 {
        let meta = self.meta.borrow();
        let region = meta.shape().extent_bytes() / u64::from(ExtentShape::REGIONS);
        let dirty = meta.dirty_regions().iter().filter(|((_, of), _)| *of == disk);
        dirty.map(|(_, mask)| u64::from(mask.count_ones()) * region).sum()
    }

    /// The same of all that have to.
    pub(super) fn dirty_bytes_by_disk(&self) -> BTreeMap<DiskNumber, u64> {
        let meta = self.meta.borrow();
        let region = meta.shape().extent_bytes() / u64::from(ExtentShape::REGIONS);
        let mut dirty = BTreeMap::new();
        for ((_, disk), mask) in meta.dirty_regions() {
            *dirty.entry(*disk).or_default() += u64::from(mask.count_ones()) * region;
        }
        dirty
    }
}

fn another(why: String) -> NotFit {
    NotFit::Another(Some(why))
}

pub(super) fn not_fit(error: IoError) -> NotFit {
    match error {
        // It may be let in at any time.
        IoError::Refused(RefusalReason::NotAdmitted | RefusalReason::NotJoined) => {
            NotFit::Unreadable(observe::explain_io(error))
        }
        IoError::Refused(_) => NotFit::Refused(observe::explain_io(error)),
        IoError::Fenced { highest } => {
            NotFit::Refused(format!("another owner has claimed it ({highest})"))
        }
        IoError::ReadOnly => NotFit::Refused("it is read-only; export it writable".into()),
        IoError::Unsupported => {
            NotFit::Refused("its target cannot keep an owner; export it with etherpool node".into())
        }
        _ => NotFit::Lost,
    }
}
