//! What else rots than data and its checksums: labels and votes, which are read when a pool is opened and hardly
//! ever before. (Copies of the metadata are read back all the time, by `metadata_copies`.)
//!
//! No lock of the pool is held while a disk is asked: who changes the configuration or the metadata waits for none
//! of this. What changed meanwhile is looked at again.

use std::rc::Rc;

use block::BlockDevice;

use super::super::config::vote_place;
use super::super::lease::Ended;
use super::super::member::Member;
use super::super::observe;
use super::super::pool::Pool;
use crate::format::{ConfigNumber, DiskGeometry, LabelState, SelectedLabel, VoteSlots};
use crate::report::PoolEvent;

/// How often a slot of a vote is written that doesn't show what was written there.
const VOTE_TRIES: u32 = 2;

/// How a structure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// As it should be, maybe since a moment.
    Right,
    /// Wrong, and it stays so.
    Bad,
    /// Nobody knows: its disk didn't answer, or it was always being written.
    Unread,
}

/// Structures that aren't as they should be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Structures {
    pub(super) bad: u64,
    pub(super) unread: u64,
}

impl Pool {
    /// Reads labels and votes of all that take part, and writes anew what of them is damaged.
    pub(super) async fn scrub_structures(self: &Rc<Self>) -> Result<Structures, Ended> {
        let mut structures = Structures::default();
        for member in self.members() {
            let Some(device) = member.usable_device().filter(|_| takes_part(&member)) else {
                continue;
            };
            let label = self.unless_over(self.scrub_label(&member, &*device)).await?;
            let vote = self.scrub_vote(&member, &*device).await?;
            for found in [label, vote] {
                structures.bad += u64::from(found == Found::Bad);
                structures.unread += u64::from(found == Found::Unread);
            }
        }
        Ok(structures)
    }

    async fn scrub_label(&self, member: &Member, device: &dyn BlockDevice) -> Found {
        let _labelling = member.labelling.acquire(1).await;
        if self.awaits_area(member) || member.moving_area.get() {
            // All of it is about to be written.
            return Found::Right;
        }
        let reading = observe::read_label_of(device, (self.id, member.id));
        let limit = self.limits.background;
        let Ok(read) = self.within_while_in(member.number, limit, reading).await else {
            return Found::Unread;
        };
        if !takes_part(member) {
            return Found::Unread;
        }
        let is_its = |found: &SelectedLabel| {
            let label = &found.label;
            let names = (label.pool, label.disk, label.area);
            names == (self.id, member.id, member.labelled_area.get())
        };
        match read {
            LabelState::Labelled(found) if is_its(&found) => {
                let Some(slot) = found.faults.damaged.iter().position(|damaged| *damaged) else {
                    return Found::Right;
                };
                if self.write_label(device, &found, &found.label).await.is_ok() {
                    self.tell_mended(member, &found.label, slot);
                    return Found::Right;
                }
            }
            // The drive may be another one, or know it again after a moment: nothing is written over that.
            LabelState::Labelled(_) | LabelState::Blank | LabelState::Refused(_) => {}
        }
        self.events.tell(PoolEvent::StructureDamaged {
            pool: self.name.clone(),
            disk: member.display_name(),
            what: "label".into(),
        });
        Found::Bad
    }

    /// Of a vote whose newer slot rotted the older one would pass for all that it was told.
    async fn scrub_vote(
        self: &Rc<Self>,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
    ) -> Result<Found, Ended> {
        let (mut mended, mut tries, mut unread) = (None, [0; 2], None);
        loop {
            if !self.is_voter(member.id) {
                return Ok(Found::Right);
            }
            let look = self.look_at_vote(member, device);
            let in_time = runtime::timeout(&self.runtime, self.limits.background, look);
            let Ok(looked) = self.unless_over(in_time).await? else { return Ok(Found::Unread) };
            let Some((number, slots)) = looked else { return Ok(Found::Unread) };
            let has = slots.newest.as_ref().map(|newest| newest.rank());
            let shows = has >= Some((self.epoch, number));
            let damaged = slots.damaged.iter().position(|damaged| *damaged);
            if shows && damaged.is_none() {
                if let Some(slot) = mended {
                    self.tell_mended_vote(member, slot);
                }
                return Ok(Found::Right);
            }
            // What doesn't show may still be in the slot where it was written, and be read next time: until it
            // shows elsewhere that slot isn't touched.
            let kept = match slots.newest_slot().filter(|_| shows) {
                Some(newest) => newest,
                None => {
                    *unread.get_or_insert(self.votes.newest_slot(member.id).unwrap_or_default())
                }
            };
            self.votes.set_newest(member.id, kept, shows);
            let slot = 1 - kept;
            mended = mended.or(damaged).or(Some(slot));
            if tries[slot] == VOTE_TRIES {
                break;
            }
            tries[slot] += 1;
            if !self.write_vote_anew(member).await? {
                return Ok(Found::Unread);
            }
        }
        tracing::warn!(pool = %self.name, disk = %member.display_name(), "a vote stays damaged");
        self.events.tell(PoolEvent::StructureDamaged {
            pool: self.name.clone(),
            disk: member.display_name(),
            what: "vote".into(),
        });
        Ok(Found::Bad)
    }

    /// What a vote shows while nothing is written to it, and the configuration that it has then as far as is
    /// known; none if its disk doesn't answer.
    async fn look_at_vote(
        &self,
        member: &Member,
        device: &dyn BlockDevice,
    ) -> Option<(ConfigNumber, VoteSlots)> {
        loop {
            let number = self.config.borrow().number;
            let Some(written) = self.votes.at_rest(member.id, number) else {
                self.runtime.sleep(self.limits.retry).await;
                continue;
            };
            // Only what says which record it is matters here, not whom an old one means by its voters.
            let place = vote_place(self.id, member.id);
            let reading = observe::read_vote(device, &place, &[]);
            let reading = self.within_while_in(member.number, self.limits.background, reading);
            let (slots, _) = reading.await.ok()?;
            if !takes_part(member) {
                return None;
            }
            let is_still = self.config.borrow().number == number
                && self.votes.at_rest(member.id, number) == Some(written);
            if is_still {
                return Some((number, slots));
            }
        }
    }

    fn tell_mended_vote(&self, member: &Member, slot: usize) {
        self.events.tell(PoolEvent::StructureRepaired {
            pool: self.name.clone(),
            disk: member.display_name(),
            what: "vote".into(),
            disk_offset_bytes: DiskGeometry::vote_slots()[slot].byte_offset(),
        });
    }
}

/// Whether what a disk shows is the pool's; that of one that is just taken in is looked at there.
fn takes_part(member: &Member) -> bool {
    member.claimed.get() && !member.joining.get() && member.is_usable()
}
