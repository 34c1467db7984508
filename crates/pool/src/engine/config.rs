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
    ConfigNumber, Configuration, CopySet, DiskGeometry, DiskId, DiskNumber, OutDisk, PoolId,
    VotePlace,
};
use block::write_durably;

/// What is known about the voters.
pub(crate) struct Votes {
    voters: BTreeMap<DiskId, Rc<Voter>>,
    /// The configuration that all voters shall have.
    target: RefCell<Configuration>,
    arrived: Notify,
}

struct Voter {
    disk: DiskId,
    /// The newest configuration that it is known to have.
    has: Cell<ConfigNumber>,
    next_slot: Cell<usize>,
    writing: Cell<bool>,
}

impl Votes {
    /// Voters with what their slots held when the pool was opened.
    pub(crate) fn new(voters: &[DiskId], target: Configuration) -> Votes {
        let voters = voters.iter().map(|disk| {
            let voter = Voter {
                disk: *disk,
                has: Cell::default(),
                next_slot: Cell::new(0),
                writing: Cell::new(false),
            };
            (*disk, Rc::new(voter))
        });
        Votes { voters: voters.collect(), target: RefCell::new(target), arrived: Notify::new() }
    }

    /// Votes in all.
    pub(crate) fn total(&self) -> usize {
        self.voters.len()
    }

    /// How many make a majority.
    pub(crate) fn majority(&self) -> usize {
        self.total() / 2 + 1
    }

    /// Tells which slot of a voter doesn't hold its newest record.
    pub(crate) fn set_next_slot(&self, disk: DiskId, slot: usize) {
        if let Some(voter) = self.voters.get(&disk).filter(|voter| !voter.writing.get()) {
            voter.next_slot.set(slot);
            voter.has.set(ConfigNumber(0));
        }
    }

    /// Whether a disk is out in the configuration that the votes are being brought to. From the first
    /// voter that has it, an opening may find it.
    pub(crate) fn is_going_out(&self, disk: DiskNumber) -> bool {
        self.target.borrow().is_out(disk)
    }

    /// Whether a voter is known to have a configuration, or a newer one.
    pub(crate) fn has(&self, disk: DiskId, number: ConfigNumber) -> bool {
        self.voters.get(&disk).is_some_and(|voter| voter.has.get() >= number)
    }

    fn holders_of(&self, number: ConfigNumber) -> usize {
        self.voters.keys().filter(|disk| self.has(**disk, number)).count()
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

    /// The index of a member among the voters.
    pub(crate) fn vote_index(&self, disk: DiskId) -> Option<usize> {
        self.vote_disks.iter().position(|voter| *voter == disk)
    }

    /// The voters whose disks are present and claimed.
    pub(crate) fn present_voters(&self) -> Vec<Rc<Member>> {
        let members = self.vote_disks.iter().filter_map(|disk| self.member_by_id(*disk));
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
        *self.votes.target.borrow_mut() = next.clone();
        self.push_target_until(number).await?;
        *self.config.borrow_mut() = next;
        drop(lock);
        self.changed.notify_all();
        Ok(())
    }

    async fn push_target_until(self: &Rc<Self>, number: ConfigNumber) -> Result<(), Ended> {
        loop {
            let arrived = self.votes.arrived.notified();
            if self.votes.holders_of(number) >= self.votes.majority() {
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
        for voter in self.votes.voters.values() {
            let behind = voter.has.get() < self.votes.target.borrow().number;
            let Some(member) = self.member_by_id(voter.disk) else { continue };
            if behind && !voter.writing.get() && member.claimed.get() && member.device().is_some() {
                voter.writing.set(true);
                let (pool, voter) = (Rc::clone(self), Rc::clone(voter));
                self.runtime.spawn(async move { pool.write_vote(&voter, &member).await });
            }
        }
    }

    async fn write_vote(self: &Rc<Self>, voter: &Voter, member: &Member) {
        loop {
            let target = self.votes.target.borrow().clone();
            if voter.has.get() >= target.number || self.lease.ended().is_some() {
                break;
            }
            let Some(device) = member.device() else { break };
            let slot = voter.next_slot.get();
            let Some(record) = self.encode_vote(&target, voter.disk, slot) else { break };
            match write_durably(&*device, DiskGeometry::vote_slots()[slot], record).await {
                Ok(_) => {
                    voter.has.set(target.number);
                    voter.next_slot.set(1 - slot);
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
        let encoded = target.encode(&vote_place(self.id, disk), slot);
        encoded.inspect_err(|error| tracing::error!(pool = %self.name, %error)).ok()
    }

    /// Whether the configuration does without a disk.
    pub(crate) fn is_out(&self, disk: DiskNumber) -> bool {
        self.config.borrow().is_out(disk)
    }

    /// The members whose metadata copies are current.
    pub(crate) fn metadata_members(&self) -> Vec<Rc<Member>> {
        let copies = self.config.borrow().copies;
        copies
            .iter()
            .filter_map(|index| self.vote_disks.get(index))
            .filter_map(|disk| self.member_by_id(*disk))
            .collect()
    }
}

/// Marks a disk that is evicted by the configuration under construction.
pub(crate) const UNSET: ConfigNumber = ConfigNumber(u64::MAX);

/// Takes disks out of a configuration: they lose their place among the current metadata copies,
/// unless no other copy would be left (nothing is committed without that one).
pub(crate) fn evict(
    config: &mut Configuration,
    disks: &BTreeSet<DiskNumber>,
    vote_index: impl Fn(DiskNumber) -> Option<usize>,
) -> bool {
    let mut changed = false;
    for disk in disks {
        if !config.is_out(*disk) {
            config.out.push(OutDisk { disk: *disk, since: UNSET });
            changed = true;
        }
    }
    let gone = disks.iter().filter_map(|disk| vote_index(*disk));
    let copies = gone.fold(config.copies, CopySet::without);
    if !copies.is_empty() && copies != config.copies {
        config.copies = copies;
        changed = true;
    }
    changed
}
