//! Taking a disk back whose label names a pool that was to be split from this one and never was (docs/engine.md, 18.5).
//! What was in sight before it was claimed (`undone`) may be past, so it is asked again of what can't change any more:
//! **a disk that is under our epoch and shows no vote of the other pool never will have one.** Whoever split it had
//! claimed it before he chose the other pool's identity, and is fenced from it now.
//!
//! If those leave no majority of the other pool's voters it is **committed that it never was**, and only then the label of
//! the first of its disks is written back. From then on whose the others are doesn't depend on who is there.

use std::rc::Rc;

use block::BlockDevice;

use super::commit::CommitError;
use super::lease::Ended;
use super::member::{Member, Standing};
use super::observe::{Content, Split, read_content};
use super::pool::Pool;
use super::undone::leaves_no_majority;
use crate::format::{DiskId, Label, PoolId};
use crate::metadata::MetaRecord;

impl Pool {
    /// Whether the pool that a claimed disk names, besides this one, never was nor will be, by what was read under our
    /// claim.
    pub(super) async fn never_was(&self, member: &Member, label: &Label, split: &Split) -> bool {
        if self.meta.borrow().is_undone(label.pool) {
            return true;
        }
        if !split.may_have_voted {
            member.never_votes_in.set(Some(label.pool));
        }
        let mut never: Vec<DiskId> = Vec::new();
        for voter in &label.vote_disks {
            if self.never_votes(*voter, label.pool).await {
                never.push(*voter);
            }
        }
        leaves_no_majority(&label.vote_disks, |voter| never.contains(&voter))
    }

    /// Whether a disk has no vote of a pool that was to be split from this one, and never will have one. The claim that
    /// a member has may be outbid by now: it is looked at under that.
    async fn never_votes(&self, voter: DiskId, new: PoolId) -> bool {
        let Some(member) = self.member_by_id(voter) else { return false };
        if member.never_votes_in.get() == Some(new) {
            return true;
        }
        let Some(device) = member.device().filter(|_| member.claimed.get()) else { return false };
        let content = self.within(self.limits.claim, read_content(&*device, false)).await;
        let is_ours = match &content {
            Ok(Content::Labelled { label, .. }) => {
                (label.label.pool, label.label.disk) == (self.id, voter)
            }
            _ => false,
        };
        if is_ours && member.claimed.get() {
            member.never_votes_in.set(Some(new));
        }
        is_ours
    }

    /// Gives a device up that isn't known to be ours any more.
    pub(super) fn part_with(&self, member: &Member, device: &dyn BlockDevice) {
        member.detach();
        member.is_taken_back.set(None);
        device.disown();
        self.set_standing(member, Standing::Away);
    }

    /// Has the label of a claimed and checked disk name this pool alone; tells whether it does.
    pub(super) async fn take_back(
        self: &Rc<Self>,
        member: &Member,
        new: PoolId,
    ) -> Result<bool, Ended> {
        let lock = self.meta_lock.acquire(1).await;
        let is_known = self.meta.borrow().is_undone(new);
        if !is_known {
            let record = MetaRecord::split_undone(new, self.runtime.calendar().as_secs());
            match self.try_commit_locked(&[record]).await {
                Ok(()) => {}
                Err(CommitError::Ended(ended)) => return Err(ended),
                Err(error) => {
                    tracing::warn!(pool = %self.name, ?error, "not recorded that a split was undone");
                    return Ok(false);
                }
            }
        }
        drop(lock);
        let Some(device) = member.device() else { return Ok(false) };
        let resolved = self.resolve_label(member, &*device).await;
        Ok(resolved.is_ok() && member.is_taken_back.get().is_none())
    }
}
