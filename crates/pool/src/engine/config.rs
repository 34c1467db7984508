//! The configuration: what a majority of votes agrees on. It changes only by a record with the next
//! number on a majority, one change at a time. Records go to all voters in parallel; one that hangs
//! delays nothing and gets the newest record once it answers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{Buffer, IoError};
use futures::future::select;
use runtime::Notify;

use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::format::{
    ConfigNumber, Configuration, DiskGeometry, DiskId, DiskNumber, OutDisk, PoolId, VotePlace,
    VoteSlots, Voters,
};
use block::write_durably;

/// What is known about the voters.
pub(crate) struct Votes {
    /// What is known of them, and of disks that had a vote or may get one.
    voters: RefCell<BTreeMap<DiskId, Rc<Voter>>>,
    /// The configuration that all voters shall have.
    target: RefCell<Configuration>,
    /// The version of the grant under which it is signed.
    signed_under: Cell<u64>,
    arrived: Notify,
}

struct Voter {
    disk: DiskId,
    /// The newest configuration that it is known to have.
    has: Cell<ConfigNumber>,
    /// The slot of its newest record, as far as it is known: the other one is written next.
    newest_slot: Cell<Option<usize>>,
    writing: Cell<bool>,
    /// How often it is written to even if it has the newest record.
    anew: Cell<u8>,
    /// How often something was begun to be written, or what is known of it changed.
    changes: Cell<u64>,
}

impl Voter {
    fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
    }
}

impl Votes {
    /// Voters that nothing is known of yet.
    pub(crate) fn new(target: Configuration) -> Votes {
        Votes {
            voters: RefCell::default(),
            target: RefCell::new(target),
            signed_under: Cell::default(),
            arrived: Notify::new(),
        }
    }

    /// The version of the grant under which the newest configuration is signed, or an older one's.
    pub(crate) fn signed_under(&self) -> u64 {
        self.signed_under.get()
    }

    fn voter(&self, disk: DiskId) -> Rc<Voter> {
        let new = || Voter {
            disk,
            has: Cell::default(),
            newest_slot: Cell::new(None),
            writing: Cell::new(false),
            anew: Cell::new(0),
            changes: Cell::new(0),
        };
        Rc::clone(self.voters.borrow_mut().entry(disk).or_insert_with(|| Rc::new(new())))
    }

    /// Tells what a disk shows that is claimed again; it is told the newest configuration anew.
    pub(crate) fn set_shown(&self, disk: DiskId, slots: &VoteSlots) {
        let voter = self.voter(disk);
        if !voter.writing.get() {
            // What can't be read now may be read again, and be all that some configuration was told to.
            let is_unread = |newest: usize| slots.damaged[newest];
            if !voter.newest_slot.get().is_some_and(is_unread) {
                voter.newest_slot.set(slots.newest_slot());
            }
            voter.has.set(ConfigNumber(0));
            voter.note_change();
        }
    }

    /// Tells that a disk shows what isn't the pool's in a slot. It is overwritten by the newest configuration, there at
    /// first, as the other slot may have all that it was ever told; and then in the other one, which may have the like.
    pub(crate) fn set_forged(&self, disk: DiskId, slot: usize) {
        let voter = self.voter(disk);
        if !voter.writing.get() {
            voter.newest_slot.set(Some(1 - slot));
            voter.has.set(ConfigNumber(0));
            voter.anew.set(2);
            voter.note_change();
        }
    }

    /// If a voter has a configuration, or none as far as is known, and nothing is being written to it: how often
    /// its state changed so far.
    pub(crate) fn at_rest(&self, disk: DiskId, number: ConfigNumber) -> Option<u64> {
        let voters = self.voters.borrow();
        let voter = voters.get(&disk)?;
        let has = voter.has.get();
        let is_at_rest = (has == number || has == ConfigNumber(0)) && !voter.writing.get();
        is_at_rest.then(|| voter.changes.get())
    }

    /// The slot where a voter's newest record is, as far as it is known.
    pub(crate) fn newest_slot(&self, disk: DiskId) -> Option<usize> {
        self.voters.borrow().get(&disk)?.newest_slot.get()
    }

    /// Tells where the newest record of a voter at rest is, and whether it shows there; if it doesn't, the voter
    /// has none.
    pub(crate) fn set_newest(&self, disk: DiskId, slot: usize, shows: bool) {
        let voter = self.voter(disk);
        voter.newest_slot.set(Some(slot));
        if !shows {
            voter.has.set(ConfigNumber(0));
        }
        voter.note_change();
    }

    /// Whether a disk is out in the configuration that the votes are being brought to. From the first
    /// voter that has it, an opening may find it.
    pub(crate) fn is_going_out(&self, disk: DiskNumber) -> bool {
        self.target.borrow().is_out(disk)
    }

    /// Whether a voter is known to have a configuration, or a newer one.
    pub(crate) fn has(&self, disk: DiskId, number: ConfigNumber) -> bool {
        self.voters.borrow().get(&disk).is_some_and(|voter| voter.has.get() >= number)
    }
}

/// The place of a disk's vote record.
pub(crate) fn vote_place(pool: PoolId, disk: DiskId) -> VotePlace {
    VotePlace { pool, disk, witness: None }
}

impl Pool {
    /// The member that holds a vote disk's identity.
    pub(crate) fn member_by_id(&self, disk: DiskId) -> Option<Rc<Member>> {
        self.members.borrow().values().find(|member| member.id == disk).cloned()
    }

    /// The same of a disk whose label gives it this number, without going over thousands.
    pub(crate) fn member_labelled(&self, number: DiskNumber, disk: DiskId) -> Option<Rc<Member>> {
        let numbered = self.member(number).filter(|member| member.id == disk);
        numbered.or_else(|| self.member_by_id(disk))
    }

    /// The identity of a member.
    pub(crate) fn id_of(&self, disk: DiskNumber) -> Option<DiskId> {
        self.member(disk).map(|member| member.id)
    }

    /// The lists of voters of which each must have a majority for anything: of the configuration that counts,
    /// and of the one that the votes are being brought to, which an opening may find.
    pub(crate) fn voters(&self) -> Vec<Voters> {
        let (config, target) = (self.config.borrow(), self.votes.target.borrow());
        let mut voters = vec![config.voters.clone()];
        voters.extend((target.voters != config.voters).then(|| target.voters.clone()));
        voters
    }

    /// Whether these disks are a majority of each list of voters.
    pub(crate) fn is_majority(&self, are: impl Fn(DiskId) -> bool) -> bool {
        self.voters().iter().all(|voters| voters.is_majority(&are))
    }

    /// All who vote.
    pub(crate) fn all_voters(&self) -> BTreeSet<DiskId> {
        self.voters().iter().flat_map(Voters::all).collect()
    }

    /// Whether a disk votes.
    pub(crate) fn is_voter(&self, disk: DiskId) -> bool {
        self.config.borrow().voters.contains(disk)
            || self.votes.target.borrow().voters.contains(disk)
    }

    /// The voters whose disks are present and claimed.
    pub(crate) fn present_voters(&self) -> Vec<Rc<Member>> {
        let members = self.all_voters().into_iter().filter_map(|disk| self.member_by_id(disk));
        members.filter(|member| member.claimed.get() && member.device().is_some()).collect()
    }

    /// Changes the configuration on a majority of votes; waits until there is one. `edit` sees the
    /// newest configuration and says whether anything is to be changed.
    pub(crate) async fn change_configuration(
        self: &Rc<Self>,
        edit: impl FnOnce(&mut Configuration) -> bool,
    ) -> Result<(), Ended> {
        let lock = self.config_lock.acquire(1).await;
        let mut next = self.votes.target.borrow().clone();
        if !edit(&mut next) {
            return Ok(());
        }
        next.number = next.number.next();
        next.record = next.record.max(self.area.borrow().committed());
        let number = next.number;
        for out in next.out.iter_mut().filter(|out| out.since == UNSET) {
            out.since = number;
        }
        next.out.sort_unstable();
        next.metadata_by = self.area.borrow().signers.clone();
        let version = self.grant_version();
        *self.votes.target.borrow_mut() = next.clone();
        self.push_target_until(number).await?;
        self.votes.signed_under.set(version);
        *self.config.borrow_mut() = next;
        drop(lock);
        self.changed.notify_all();
        Ok(())
    }

    /// Has the votes say who may have signed the metadata, if that changed.
    pub(crate) async fn name_signers(self: &Rc<Self>) -> Result<(), Ended> {
        self.change_configuration(|config| config.metadata_by != self.area.borrow().signers).await
    }

    async fn push_target_until(self: &Rc<Self>, number: ConfigNumber) -> Result<(), Ended> {
        loop {
            let arrived = self.votes.arrived.notified();
            // Also of the voters before, who must not decide without those that follow them.
            if self.is_majority(|disk| self.votes.has(disk, number)) {
                return Ok(());
            }
            self.push_votes();
            select(std::pin::pin!(arrived), std::pin::pin!(self.wait_for_change())).await;
            if let Some(ended) = self.lease.ended() {
                return Err(ended);
            }
        }
    }

    /// Sends the newest configuration to every voter present that lacks it.
    pub(crate) fn push_votes(self: &Rc<Self>) {
        for member in self.present_voters() {
            let voter = self.votes.voter(member.id);
            if voter.has.get() < self.votes.target.borrow().number {
                self.push_vote(&voter, &member);
            }
        }
    }

    /// In a task of its own: whoever gives up waiting for it mustn't leave it in the middle of a record.
    fn push_vote(self: &Rc<Self>, voter: &Rc<Voter>, member: &Rc<Member>) {
        if !voter.writing.replace(true) {
            let (pool, voter, member) = (Rc::clone(self), Rc::clone(voter), Rc::clone(member));
            self.runtime.spawn(async move { pool.write_vote(&voter, &member).await });
        }
    }

    /// Has a disk show the configuration that counts, whether it votes or not; false if it doesn't in time.
    pub(crate) async fn show_configuration(
        self: &Rc<Self>,
        member: &Rc<Member>,
    ) -> Result<bool, Ended> {
        let voter = self.votes.voter(member.id);
        let number = self.config.borrow().number;
        let shown = async {
            while voter.has.get() < number {
                self.push_vote(&voter, member);
                self.runtime.sleep(self.limits.retry).await;
            }
        };
        let in_time = runtime::timeout(&self.runtime, self.limits.background, shown);
        Ok(self.unless_over(in_time).await?.is_ok())
    }

    /// Writes the newest configuration into the slot of a voter at rest that doesn't hold its newest record, be it
    /// there or not; false if that takes too long.
    pub(crate) async fn write_vote_anew(
        self: &Rc<Self>,
        member: &Rc<Member>,
    ) -> Result<bool, Ended> {
        let voter = self.votes.voter(member.id);
        voter.anew.set(voter.anew.get().max(1));
        self.push_vote(&voter, member);
        let written = async {
            while voter.writing.get() {
                self.runtime.sleep(self.limits.retry).await;
            }
        };
        let in_time = runtime::timeout(&self.runtime, self.limits.background, written);
        Ok(self.unless_over(in_time).await?.is_ok())
    }

    async fn write_vote(self: &Rc<Self>, voter: &Voter, member: &Member) {
        loop {
            let target = self.votes.target.borrow().clone();
            let is_due = voter.has.get() < target.number || voter.anew.get() > 0;
            if !is_due || self.lease.ended().is_some() {
                break;
            }
            // Behind one that isn't claimed another disk may be.
            let Some(device) = member.device().filter(|_| member.claimed.get()) else { break };
            let slot = voter.newest_slot.get().map_or(0, |newest| 1 - newest);
            let Some(record) = self.encode_vote(&target, voter.disk, slot) else { break };
            voter.note_change();
            match write_durably(&*device, DiskGeometry::vote_slots()[slot], record).await {
                Ok(_) => {
                    voter.has.set(target.number);
                    voter.newest_slot.set(Some(slot));
                    voter.anew.set(voter.anew.get().saturating_sub(1));
                    self.votes.arrived.notify_all();
                }
                Err(IoError::Fenced { .. }) => {
                    self.lease_round();
                    break;
                }
                Err(_) => break,
            }
        }
        voter.writing.set(false);
    }

    fn encode_vote(&self, target: &Configuration, disk: DiskId, slot: usize) -> Option<Buffer> {
        let encoded = target.encode(&vote_place(self.id, disk), slot, self.signer().as_ref());
        encoded.inspect_err(|error| tracing::error!(pool = %self.name, %error)).ok()
    }

    /// Whether the configuration does without a disk.
    pub(crate) fn is_out(&self, disk: DiskNumber) -> bool {
        self.config.borrow().is_out(disk)
    }

    /// The members whose metadata copies are current.
    pub(crate) fn metadata_members(&self) -> Vec<Rc<Member>> {
        let config = self.config.borrow();
        config.copies.iter().filter_map(|disk| self.member_by_id(*disk)).collect()
    }
}

impl Configuration {
    /// Takes disks off the current metadata copies, unless no other would be left (nothing is committed without
    /// that one); tells whether that changed anything.
    pub(super) fn leave_copies(&mut self, disks: &[DiskId]) -> bool {
        let stay = |disk: &&DiskId| !disks.contains(disk);
        let left: BTreeSet<DiskId> = self.copies.iter().filter(stay).copied().collect();
        let changes = !left.is_empty() && left != self.copies;
        if changes {
            self.copies = left;
        }
        changes
    }
}

/// Marks a disk that is evicted by the configuration under construction.
pub(crate) const UNSET: ConfigNumber = ConfigNumber(u64::MAX);

/// Takes disks out of a configuration: they lose their place among the current metadata copies,
/// unless no other copy would be left.
pub(crate) fn evict(
    config: &mut Configuration,
    disks: &BTreeSet<DiskNumber>,
    id: impl Fn(DiskNumber) -> Option<DiskId>,
) -> bool {
    let mut changed = false;
    for disk in disks {
        if !config.is_out(*disk) {
            config.out.push(OutDisk { disk: *disk, since: UNSET });
            changed = true;
        }
    }
    let gone: Vec<DiskId> = disks.iter().filter_map(|disk| id(*disk)).collect();
    config.leave_copies(&gone) || changed
}
