//! What else rots than data and its checksums: labels and votes, which are read when a pool is opened and hardly
//! ever before. (Copies of the metadata are read back all the time, by `metadata_copies`.)

use std::rc::Rc;

use block::BlockDevice;

use super::super::config::vote_place;
use super::super::lease::Ended;
use super::super::member::Member;
use super::super::observe;
use super::super::pool::Pool;
use crate::format::{DiskGeometry, LabelState};
use crate::report::PoolEvent;

impl Pool {
    /// Reads labels and votes of all that take part, and writes anew what of them is damaged.
    pub(super) async fn scrub_structures(self: &Rc<Self>) -> Result<(), Ended> {
        for member in self.members() {
            let takes_part = member.claimed.get() && !member.joining.get();
            if let Some(device) = member.usable_device().filter(|_| takes_part) {
                self.unless_over(self.scrub_label(&member, &*device)).await?;
                self.scrub_vote(&member, &*device).await?;
            }
        }
        Ok(())
    }

    async fn scrub_label(&self, member: &Member, device: &dyn BlockDevice) {
        // Which area a label must name doesn't change meanwhile.
        let _meta = self.meta_lock.acquire(1).await;
        if self.awaits_area(member) || member.moving_area.get() {
            return;
        }
        let read = {
            let _labelling = member.labelling.acquire(1).await;
            self.within(self.limits.claim, observe::read_label(device)).await
        };
        let Ok(LabelState::Labelled(found)) = read else { return };
        let label = &found.label;
        let is_its = label.pool == self.id && label.disk == member.id;
        if is_its
            && label.area == member.labelled_area.get()
            && found.faults.damaged.contains(&true)
        {
            // It tells what was mended.
            let _ = self.resolve_label(member, device).await;
        }
    }

    /// Of a vote whose newer slot rotted the older one would pass for all that it was told.
    async fn scrub_vote(
        self: &Rc<Self>,
        member: &Rc<Member>,
        device: &dyn BlockDevice,
    ) -> Result<(), Ended> {
        if !self.is_voter(member.id) {
            return Ok(());
        }
        let damaged = {
            let _config = self.unless_over(self.config_lock.acquire(1)).await?;
            let number = self.config.borrow().number;
            if !self.votes.is_at_rest(member.id, number) {
                return Ok(());
            }
            // Only what says which record it is matters here, not whom an old one means by its voters.
            let place = vote_place(self.id, member.id);
            let read = observe::read_vote(device, &place, &[]);
            let read = self.unless_over(self.within(self.limits.claim, read)).await?;
            let Ok((slots, _)) = read else { return Ok(()) };
            let has = slots.newest.as_ref().map(|newest| newest.rank());
            let lags = has != Some((self.epoch, number));
            let damaged = (0..2).find(|slot| slots.damaged[*slot]);
            let Some(slot) = damaged.or(lags.then_some(slots.next_slot)) else { return Ok(()) };
            self.votes.set_next_slot(member.id, slot);
            slot
        };
        if self.show_configuration(member).await? {
            self.events.tell(PoolEvent::StructureRepaired {
                pool: self.name.clone(),
                disk: member.display_name(),
                what: "vote".into(),
                disk_offset_bytes: DiskGeometry::vote_slots()[damaged].byte_offset(),
            });
        }
        Ok(())
    }
}
