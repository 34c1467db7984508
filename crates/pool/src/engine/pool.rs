//! What the operations of an open pool share: its members, metadata, configuration and lease. The
//! operations themselves are each in a file of their own.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use block::{BlockDevice, Epoch, IoError, Lba, OwnerId};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use runtime::{Handle, Notify, Permit, Semaphore};
use seal::{Grant, KeyPair};

use super::Limits;
use super::checksum_cache::ChecksumCache;
use super::commit::Area;
use super::config::Votes;
use super::copy_room::CopyRoom;
use super::events::Events;
use super::lease::{Ended, Lease};
use super::member::{Member, Standing};
use super::node_keys::Homes;
use super::offline::Recall;
use super::stops::Stops;
use super::trim::Trims;
use super::trusted::Trusted;
use super::volume::credit::Credit;
use crate::format::{
    Configuration, DiskNumber, ExtentNumber, ExtentShape, GenerationId, PoolId, Row, VolumeId,
};
use crate::layout::RowAddress;
use crate::metadata::{Group, Metadata, RunKey};

/// Groups whose places are kept at hand until the next commit: looking one up walks the volume's map.
const PLACES_MAX: usize = 4096;

/// An open pool.
pub(crate) struct Pool {
    pub(crate) runtime: Handle,
    pub(crate) limits: Limits,
    pub(crate) stops: Stops,
    pub(crate) events: Rc<Events>,
    pub(crate) checksum_cache: Rc<ChecksumCache>,
    pub(crate) id: PoolId,
    pub(crate) name: String,
    pub(crate) owner: OwnerId,
    pub(crate) owner_name: String,
    /// The epoch under which we own it.
    pub(crate) epoch: Epoch,
    /// The key that we show to its disks.
    pub(crate) keys: Option<KeyPair>,
    /// Whose votes counted when it was opened.
    pub(super) opened_by: Trusted,
    /// Where its disks belong.
    pub(super) homes: Rc<Homes>,
    /// Whom its disks obey, if that is anybody in particular.
    pub(crate) grant: RefCell<Option<Rc<Grant>>>,
    /// It was imported read-only: nothing of it reaches its disks.
    pub(crate) read_only: bool,
    pub(crate) members: RefCell<BTreeMap<DiskNumber, Rc<Member>>>,
    /// Changed only by [`Pool::commit`], with [`Pool::set_meta`].
    pub(crate) meta: RefCell<Metadata>,
    /// The disks that jobs empty, or that are to take no part, by it.
    pub(super) leaving: RefCell<BTreeSet<DiskNumber>>,
    /// Disks that are offline and vote all the same, and why.
    pub(super) recalled: RefCell<BTreeMap<DiskNumber, Recall>>,
    /// Groups as they were looked up in it.
    pub(crate) places: RefCell<BTreeMap<(VolumeId, u64, u16), Rc<GroupPlace>>>,
    /// Held over each metadata transaction. Taken before `config_lock`, never after.
    pub(crate) meta_lock: Rc<Semaphore>,
    pub(crate) area: RefCell<Area>,
    /// The newest configuration that a majority has.
    pub(crate) config: RefCell<Configuration>,
    /// Held over each change of the configuration.
    pub(crate) config_lock: Rc<Semaphore>,
    pub(crate) votes: Votes,
    pub(crate) lease: Lease,
    /// Something changed that a waiting operation may have waited for: a member's standing, the
    /// configuration, dirty regions, space.
    pub(crate) changed: Notify,
    /// Held from choosing a release number, and whom a destage reaches, to its commit: release numbers
    /// only go up, and who is taken in meanwhile would lack what the destage has given up in the log.
    /// Taken before `meta_lock`.
    pub(crate) release_lock: Rc<Semaphore>,
    /// MiB of segments that replays may hold at once.
    pub(crate) replay_room: Rc<Semaphore>,
    pub(crate) group_locks: RefCell<BTreeMap<GenerationId, Rc<Semaphore>>>,
    pub(crate) copy_room: CopyRoom,
    /// Resync is running.
    pub(crate) resyncing: Cell<bool>,
    /// What nothing names any more.
    pub(crate) trims: Trims,
    /// The room of each log.
    pub(crate) credits: RefCell<Vec<Weak<Credit>>>,
}

/// A group as it is mapped now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupPlace {
    pub(crate) volume: VolumeId,
    pub(crate) key: RunKey,
    /// Index in its run.
    pub(crate) index: u32,
    pub(crate) set: u64,
    pub(crate) lane: u16,
    pub(crate) generation: GenerationId,
    /// At last where one of them moves to.
    pub(crate) members: Vec<(DiskNumber, ExtentNumber)>,
    pub(crate) is_moving: bool,
    pub(crate) initialised: bool,
}

impl GroupPlace {
    fn of(group: Group<'_>) -> GroupPlace {
        GroupPlace {
            volume: group.volume,
            key: group.run.key,
            index: group.index,
            set: group.set(),
            lane: group.lane(),
            generation: group.generation(),
            members: group.members().collect(),
            is_moving: group.run.incoming.is_some(),
            initialised: group.is_initialised(),
        }
    }
}

impl Pool {
    /// Room for the log of a volume that is opened.
    pub(crate) fn new_credit(&self, capacity_bytes: u64) -> Rc<Credit> {
        let credit = Credit::new(capacity_bytes);
        let mut credits = self.credits.borrow_mut();
        credits.retain(|other| other.strong_count() > 0);
        credits.push(Rc::downgrade(&credit));
        credit
    }

    /// Whether somebody waits for what only destaging gives back, in any log.
    pub(crate) fn is_room_awaited(&self) -> bool {
        let credits = self.credits.borrow();
        credits.iter().filter_map(Weak::upgrade).any(|credit| credit.is_awaited())
    }

    /// A member by its number.
    pub(crate) fn member(&self, number: DiskNumber) -> Option<Rc<Member>> {
        self.members.borrow().get(&number).cloned()
    }

    /// All members, by number.
    pub(crate) fn members(&self) -> Vec<Rc<Member>> {
        self.members.borrow().values().cloned().collect()
    }

    /// A disk's name for people.
    pub(crate) fn disk_name(&self, number: DiskNumber) -> String {
        self.member(number).map_or_else(|| number.to_string(), |member| member.display_name())
    }

    /// How members' extents are divided.
    pub(crate) fn shape(&self) -> ExtentShape {
        self.meta.borrow().shape()
    }

    /// The group that a row address of a volume lies in.
    pub(crate) fn group_at(&self, volume: VolumeId, at: RowAddress) -> Option<Rc<GroupPlace>> {
        let key = (volume, at.set, at.lane);
        if let Some(place) = self.places.borrow().get(&key) {
            return Some(Rc::clone(place));
        }
        let meta = self.meta.borrow();
        let group = meta.volumes().get(&volume)?.group(at.set, at.lane)?;
        let place = Rc::new(GroupPlace::of(group));
        let mut places = self.places.borrow_mut();
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(key, Rc::clone(&place));
        Some(place)
    }

    /// From now on this is what the pool knows about itself.
    pub(crate) fn set_meta(&self, meta: Metadata) {
        *self.leaving.borrow_mut() = meta.leaving();
        *self.meta.borrow_mut() = meta;
        self.places.borrow_mut().clear();
        self.changed.notify_all();
    }

    /// The disks that get nothing new, since jobs are to empty them or they are to take no part.
    pub(crate) fn leaving(&self) -> Ref<'_, BTreeSet<DiskNumber>> {
        self.leaving.borrow()
    }

    /// The group with this generation id, if it still exists.
    pub(crate) fn group_by_generation(&self, generation: GenerationId) -> Option<GroupPlace> {
        self.meta.borrow().group_by_generation(generation).map(GroupPlace::of)
    }

    /// A group as it is mapped now, if that isn't as it was looked up: positions change under the group's lock
    /// alone, and not everybody holds it.
    pub(crate) fn mapped_anew(&self, group: &GroupPlace) -> Option<GroupPlace> {
        let now = self.group_by_generation(group.generation);
        now.filter(|now| now.members != group.members)
    }

    /// Which versions of a group's checksum blocks count.
    pub(crate) fn root_of(&self, generation: GenerationId) -> Option<u64> {
        self.meta.borrow().group_by_generation(generation)?.root()
    }

    /// The regions of a group that are out of date on the member at `index`: a bit each.
    pub(crate) fn dirty(&self, group: &GroupPlace, index: usize) -> u64 {
        let member = group.members.get(index);
        member.map_or(u64::MAX, |(disk, _)| self.meta.borrow().dirty(group.generation, *disk))
    }

    /// Whether the member at `index` of a group has everything of the regions in `mask`.
    pub(crate) fn has_all(&self, group: &GroupPlace, index: usize, mask: u64) -> bool {
        self.dirty(group, index) & mask == 0
    }

    /// Whether a group can do without a member: another one takes part and misses nothing.
    pub(crate) fn has_another_right(&self, group: &GroupPlace, index: usize) -> bool {
        let others = (0..group.members.len()).filter(|other| *other != index);
        let mut right = others.filter(|other| self.has_all(group, *other, u64::MAX));
        right.any(|other| self.extent_of(group, other).is_some())
    }

    /// The regions that rows lie in: a bit each.
    pub(crate) fn region_mask(&self, first: Row, count: u32) -> u64 {
        let shape = self.shape();
        let last = Row(first.0 + count.saturating_sub(1));
        let (low, high) = (shape.region_of_row(first), shape.region_of_row(last));
        (low..=high).fold(0, |mask, region| mask | 1 << region)
    }

    /// The first sector of a group's extent on its member at `index`, if that disk takes part.
    pub(crate) fn extent_of(
        &self,
        group: &GroupPlace,
        index: usize,
    ) -> Option<(Rc<Member>, Rc<dyn BlockDevice>, Lba)> {
        let (disk, extent) = *group.members.get(index)?;
        let member = self.member(disk)?;
        let device = member.usable_device()?;
        let start = member.geometry.extent_start(extent)?;
        Some((member, device, start))
    }

    /// Takes a group's lock alone: under it the group's blocks and checksums change place. Repair, resync and
    /// verification take it, and who gives its extents away.
    pub(crate) async fn lock_group(&self, generation: GenerationId) -> Permit {
        self.group_lock(generation).acquire(GROUP_LOCK_SHARES).await
    }

    /// Takes it for a destage: alone but for who has a share. Their rows are in no record that is destaged, and
    /// it leaves their places and entries as they are.
    pub(crate) async fn lock_group_to_destage(&self, generation: GenerationId) -> Permit {
        self.group_lock(generation).acquire(GROUP_LOCK_SHARES / 2 + 1).await
    }

    /// A share of it, if nobody has it alone or waits for it: for who writes rows of which nothing is in place.
    /// Its holder waits for disks, and never for the log: who destages may have what the log waits for.
    pub(crate) fn try_share_group(&self, generation: GenerationId) -> Option<Permit> {
        self.group_lock(generation).acquire(1).now_or_never()
    }

    pub(crate) fn group_lock(&self, generation: GenerationId) -> Rc<Semaphore> {
        let mut locks = self.group_locks.borrow_mut();
        if locks.len() > GROUP_LOCKS_KEPT {
            locks.retain(|_, lock| Rc::strong_count(lock) > 1 || lock.available() == 0);
        }
        let new = || Semaphore::new(GROUP_LOCK_SHARES);
        Rc::clone(locks.entry(generation).or_insert_with(new))
    }

    /// The locks of those groups that somebody may be working on.
    pub(crate) fn held_group_locks(&self, generations: &[GenerationId]) -> Vec<Rc<Semaphore>> {
        let locks = self.group_locks.borrow();
        generations.iter().filter_map(|generation| locks.get(generation)).cloned().collect()
    }

    /// Waits until something changed, or a moment passed (a hint may have been lost). Fails when the
    /// pool is over.
    pub(crate) async fn wait_for_change(&self) -> Result<(), Ended> {
        let changed = self.changed.notified();
        if let Some(ended) = self.lease.ended() {
            return Err(ended);
        }
        let timer = self.runtime.sleep(self.limits.retry);
        select(std::pin::pin!(changed), timer).await;
        self.lease.ended().map_or(Ok(()), Err)
    }

    /// Runs `work` unless the pool ends first.
    pub(crate) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        match select(std::pin::pin!(self.lease.over()), std::pin::pin!(work)).await {
            Either::Left((ended, _)) => Err(ended),
            Either::Right((value, _)) => Ok(value),
        }
    }

    /// `work` on a device, given up after `limit` as if the device didn't answer. The operation
    /// itself goes on: a write may still happen, so the caller evicts the disk.
    pub(crate) async fn within<T, E: From<IoError>>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let done = runtime::timeout(&self.runtime, limit, work).await;
        done.unwrap_or_else(|_| Err(IoError::Lost.into()))
    }

    /// Asks one after the other, until an answer is enough: the next one as soon as an answer wasn't, or none
    /// came for a moment. Tells whether all that were asked have answered, rather than been given up.
    pub(crate) async fn ask_in_turn<T>(
        &self,
        asks: impl Iterator<Item = impl Future<Output = T>>,
        mut is_enough: impl FnMut(T) -> bool,
    ) -> bool {
        let mut asks = asks.map(Box::pin).fuse();
        let Some(mut first) = asks.next() else { return true };
        // Mostly that is all, so it goes without a collection.
        let answer = match select(&mut first, self.runtime.sleep(self.limits.hedge)).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        };
        let unanswered = answer.is_none().then_some(first);
        if answer.is_some_and(&mut is_enough) {
            return true;
        }
        let mut asked: FuturesUnordered<_> = unanswered.into_iter().collect();
        loop {
            let next = asks.next();
            let are_all_asked = next.is_none();
            asked.extend(next);
            let limit = if are_all_asked { self.limits.eviction } else { self.limits.hedge };
            match select(asked.next(), self.runtime.sleep(limit)).await {
                Either::Left((Some(answer), _)) => {
                    if is_enough(answer) {
                        return true;
                    }
                }
                Either::Left((None, _)) => return true,
                Either::Right(_) if are_all_asked => return false,
                Either::Right(_) => {}
            }
        }
    }

    /// Sets a member's standing and tells those who wait.
    pub(crate) fn set_standing(&self, member: &Member, standing: Standing) {
        member.set_standing(standing);
        self.changed.notify_all();
    }
}

/// Shares of a group's lock.
pub(crate) const GROUP_LOCK_SHARES: u64 = 1 << 20;
/// Idle group locks kept before they are swept.
const GROUP_LOCKS_KEPT: usize = 1024;

/// The error that requests get when a pool is over.
pub(crate) fn ended_error(pool: &Pool, ended: Ended) -> IoError {
    match ended {
        Ended::Fenced => IoError::Fenced { highest: pool.epoch.next() },
        Ended::Closed => IoError::Lost,
    }
}
