//! Whose a device is that shall become a disk of a pool. A disk belongs to one pool: what another
//! engine may be writing to at this moment can't be taken by any option, and what belongs to a pool
//! that is closed only by one that names the disk, after it was said what that pool loses.

use std::rc::Rc;
use std::time::Duration;

use block::probe::{Signature, is_empty_but_for_owner};
use block::{BlockDevice, DurabilityClass, Holder, IoError, OwnerId, spoken};
use futures::future::join_all;

use super::Engine;
use super::format_disk::Candidate;
use super::lease::TAKEOVER_WAIT;
use super::observe::{Content, Others, read_content, remedy_of_label};
use super::open::SeenDisk;
use super::open_pool::OpenPool;
use super::quorum::Quorum;
use super::slot::SlotState;
use crate::error::PoolError;
use crate::format::{DiskId, Label, LabelError, PoolId};

/// An owner that was heard within this time may still be answering: as long as a new owner waits.
pub(crate) const ALIVE_WITHIN: Duration = TAKEOVER_WAIT;

impl Engine {
    /// Whether a device may become a disk (of `target`, or of a new pool); what that costs another
    /// pool, if anything. So much of what isn't etherpool's is looked for.
    pub(crate) async fn check_candidate(
        &self,
        candidate: &Candidate,
        target: Option<&OpenPool>,
        others: Others,
    ) -> Result<Option<String>, PoolError> {
        let refuse = |why: String, remedy: &str| {
            Err(PoolError::refused(candidate.place.to_string(), why, remedy))
        };
        let name = &candidate.place.name;
        if let Some(pool) = self.open_pool_with(candidate) {
            return refuse(format!("it is a disk of pool {pool} already"), "name another one");
        }
        if let Some(heard) = self.heard_of_another(&*candidate.device).await {
            return refuse(
                format!("another supervisor uses it: it was heard {} ago", spoken(heard)),
                "name another one, or take it out of use there first",
            );
        }
        let geometry = candidate.device.geometry();
        if geometry.read_only {
            return refuse("it is read-only".into(), "export it writable");
        }
        let volatile = geometry.class == DurabilityClass::Unknown;
        let content = self.recognise(&*candidate.device, others).await;
        let content = content.map_err(|error| PoolError::io("looking at it", name, error))?;
        candidate.judged_label.set(content.label().map(|label| (label.pool, label.disk)));
        match self.judged(content) {
            Content::Blank if volatile && !candidate.forced => refuse(
                "it is blank, but its target may acknowledge writes that are not durable".into(),
                &format!("export it with etherpool node, or accept that: --force-disk {name}"),
            ),
            Content::Blank => Ok(None),
            Content::Labelled { label, .. } => {
                self.check_labelled(candidate, &label.label, target).await
            }
            // Nothing can be lost with it.
            Content::Destroyed { .. } => Ok(None),
            Content::Foreign(_) if candidate.forced => Ok(None),
            Content::Foreign(found) => {
                let volatile = match volatile {
                    true => "; its target may also acknowledge writes that are not durable",
                    false => "",
                };
                Err(candidate.refuse_contents(&found, volatile))
            }
            Content::Refused(error) => self.check_damaged(candidate, &error, target).await,
            Content::Unreadable(error) => Err(PoolError::io("looking at it", name, error)),
            Content::Unread => refuse("it could not be looked at".into(), "try again"),
        }
    }

    /// A disk that is somebody's and can't be read as such. Whoever names it may overwrite it, but that
    /// is advised to nobody: what it holds isn't known.
    async fn check_damaged(
        &self,
        candidate: &Candidate,
        error: &LabelError,
        target: Option<&OpenPool>,
    ) -> Result<Option<String>, PoolError> {
        let refuse = |why: String, remedy: &str| {
            Err(PoolError::refused(candidate.place.to_string(), why, remedy))
        };
        let named = match error {
            LabelError::Damaged { named: Some((pool, disk)), .. }
                if is_unknown_to(target, *pool, *disk) =>
            {
                return Ok(None);
            }
            LabelError::Damaged { named, .. } => named.map(|(pool, _)| pool),
            LabelError::Truncated { pool, .. } => Some(*pool),
            LabelError::NewerVersion { .. } | LabelError::UnknownFeatures { .. } => None,
        };
        if let Some(pool) = self.open_pool_missing(candidate, named) {
            return refuse(
                format!(
                    "{error}; by that or its place it is a disk of pool {pool}, which is open here"
                ),
                remedy_of_label(error),
            );
        }
        if let Some(pool) = named {
            let disks = self.seen_disks(pool);
            let quorum = Quorum::of(&disks);
            if let Some(heard) = self.live_owner(&disks, &quorum).await {
                let (owner, heard) = (owner_name(&quorum), spoken(heard));
                return refuse(
                    format!("{error}; it is a disk of a pool that {owner} uses, heard {heard} ago"),
                    remedy_of_label(error),
                );
            }
        }
        match candidate.forced {
            true => Ok(Some(format!(
                "{}: {error}; whatever its pool has on no other disk would be lost for good",
                candidate.place.name
            ))),
            false => refuse(error.to_string(), remedy_of_label(error)),
        }
    }

    /// The open pool that misses a disk which this one may be: by what is left of its label, or because
    /// it is where that one was.
    fn open_pool_missing(&self, candidate: &Candidate, named: Option<PoolId>) -> Option<String> {
        let slots = self.slots.borrow();
        let known = self.known.borrow();
        let was_here = |id: &PoolId| {
            let mut disks = known.get(id).into_iter().flat_map(|disks| disks.values());
            disks.any(|place| place.name == candidate.place.name)
        };
        let mut open = slots.iter().filter(|(_, slot)| {
            matches!(*slot.state.borrow(), SlotState::Open(_) | SlotState::Opening)
        });
        let found = open.find(|(id, _)| named.map_or_else(|| was_here(id), |named| named == **id));
        found.map(|(_, slot)| slot.name.borrow().clone())
    }

    async fn check_labelled(
        &self,
        candidate: &Candidate,
        label: &Label,
        target: Option<&OpenPool>,
    ) -> Result<Option<String>, PoolError> {
        let refuse = |why: String, remedy: &str| {
            Err(PoolError::refused(candidate.place.to_string(), why, remedy))
        };
        if is_unknown_to(target, label.pool, label.disk) {
            return Ok(None);
        }
        let slot = self.slots.borrow().get(&label.pool).cloned();
        let state = slot.map(|slot| slot.state.borrow().clone());
        if let Some(SlotState::Open(open)) = &state
            && is_unknown_to(Some(open), label.pool, label.disk)
        {
            let pool = &open.pool.name;
            return refuse(
                format!("it was a disk of pool {pool}, which doesn't have it any more"),
                &format!("name another one; pool extend {pool} takes it back, empty"),
            );
        }
        if matches!(state, Some(SlotState::Open(_) | SlotState::Opening)) {
            return refuse(
                format!("it is a disk of pool {}, which is open here", label.pool_name),
                "name another one",
            );
        }
        let disks = self.seen_disks(label.pool);
        let quorum = Quorum::of(&disks);
        if let Some(heard) = self.live_owner(&disks, &quorum).await {
            return refuse(
                format!(
                    "it is a disk of pool {}, which {} uses: it was heard {} ago",
                    label.pool_name,
                    owner_name(&quorum),
                    spoken(heard)
                ),
                "name another one, or take it out of that pool first",
            );
        }
        let loss = loss_of(label, &disks, &quorum);
        match candidate.forced {
            true => Ok(Some(format!("{}: {loss}", candidate.place.name))),
            false => {
                let why = format!("it belongs to pool {}; {loss}", label.pool_name);
                Err(candidate.refuse_to_lose(why))
            }
        }
    }

    /// What is on a device. One that was removed from a pool of ours is blank: all that is left is the record of
    /// its target, which no client can write, that we had it. Of such a disk only the start is shown, so that it
    /// is looked at again once it is claimed ([`Candidate::look_through`]).
    pub(super) async fn recognise(
        &self,
        device: &dyn BlockDevice,
        others: Others,
    ) -> Result<Content, IoError> {
        let content = read_content(device, others).await?;
        if !matches!(&content, Content::Foreign(found) if *found == [Signature::Etherpool]) {
            return Ok(content);
        }
        let ours = device.renew().await.is_ok_and(|holder| holder.value.owner == self.config.owner);
        let is_blank = ours && is_empty_but_for_owner(device).await?;
        Ok(if is_blank { Content::Blank } else { content })
    }

    /// The open pool that has the candidate's device among its disks, whatever the label says.
    fn open_pool_with(&self, candidate: &Candidate) -> Option<String> {
        let slots = self.slots.borrow();
        let open = slots.values().filter_map(|slot| match &*slot.state.borrow() {
            SlotState::Open(open) => Some(Rc::clone(open)),
            _ => None,
        });
        let devices = self.devices.borrow();
        let device = devices.get(&candidate.place.name);
        let device = device.filter(|device| Rc::ptr_eq(&device.device, &candidate.device))?;
        let has = |open: &Rc<OpenPool>| {
            let held = open.pool.members().into_iter().filter_map(|member| member.device());
            held.into_iter().any(|held| device.is_held(&held))
        };
        open.into_iter().find(has).map(|open| open.pool.name.clone())
    }

    /// How long ago a device's owner was heard, if that is another supervisor that may live.
    async fn heard_of_another(&self, device: &dyn BlockDevice) -> Option<Duration> {
        let asked = runtime::timeout(&self.runtime, self.config.limits.claim, device.renew()).await;
        let holder = asked.ok()?.ok()?.value;
        self.is_another(&holder).then_some(holder.heard).flatten().filter(|h| *h < ALIVE_WITHIN)
    }

    fn is_another(&self, holder: &Holder) -> bool {
        ![OwnerId::NONE, self.config.owner].contains(&holder.owner)
    }

    /// How long ago a pool's owner was heard by any of these disks, if it may still be serving the
    /// pool: it is another supervisor, and didn't release it.
    pub(crate) async fn live_owner(&self, disks: &[SeenDisk], quorum: &Quorum) -> Option<Duration> {
        let heard = self.last_heard(disks, quorum).await;
        heard.filter(|heard| *heard < ALIVE_WITHIN)
    }

    /// How long ago another owner of a pool was heard by any of these disks.
    pub(crate) async fn last_heard(&self, disks: &[SeenDisk], quorum: &Quorum) -> Option<Duration> {
        let newest = quorum.newest.as_ref();
        let released = newest.filter(|newest| newest.released).map(|newest| newest.epoch);
        let asked = disks.iter().map(|disk| async {
            let renewed = disk.device.renew();
            runtime::timeout(&self.runtime, self.config.limits.claim, renewed).await
        });
        let holders = join_all(asked).await.into_iter().flatten().flatten();
        // Who released the pool still has its sessions; who claimed it since doesn't count as that.
        let counts = |holder: &Holder| {
            self.is_another(holder) && released.is_none_or(|epoch| holder.epoch > epoch)
        };
        holders.map(|answer| answer.value).filter(counts).filter_map(|holder| holder.heard).min()
    }
}

/// The name of who owns a pool, by its votes present.
pub(crate) fn owner_name(quorum: &Quorum) -> String {
    let owner = quorum.newest.as_ref().filter(|newest| newest.owner != OwnerId::NONE);
    match owner.map(|newest| newest.owner_name.as_str()) {
        None => "nobody".into(),
        Some("") => "a supervisor without a name".into(),
        Some(name) => name.to_owned(),
    }
}

/// What a closed pool loses with a disk.
fn loss_of(label: &Label, disks: &[SeenDisk], quorum: &Quorum) -> String {
    let vote = match quorum.voters.contains(label.disk) {
        true => {
            format!(", one of its {} votes and a copy of its metadata", quorum.votes().total)
        }
        false => String::new(),
    };
    let others = match disks.iter().filter(|disk| disk.label.disk != label.disk).count() {
        0 => "no other disk of it is present".to_owned(),
        1 => "one other disk of it is present".to_owned(),
        count => format!("{count} other disks of it are present"),
    };
    format!(
        "pool {} ({}, owned by {}) would lose this disk's copies of its data{vote} for good; {others}",
        label.pool_name,
        label.pool,
        owner_name(quorum)
    )
}

/// Whether a label is what is left of an extension that was cut off, or of a disk that was removed while it was
/// away: `target` is the pool that it names, and doesn't know the disk.
fn is_unknown_to(target: Option<&OpenPool>, pool: PoolId, disk: DiskId) -> bool {
    // What is only read may be older than the disk.
    let target = target.filter(|open| open.pool.id == pool && !open.pool.read_only);
    target.is_some_and(|open| open.pool.meta.borrow().disk_by_id(disk).is_none())
}
