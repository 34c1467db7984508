//! Two devices with one identity: a clone of a disk, a snapshot of its image, or one disk by two names.
//! Both pass for the member, and what is written to one is missed by the other without anybody knowing.
//! So the second one is refused while the first answers; where none is held, the one whose reservation
//! is older, because it missed an owner; and where that doesn't tell them apart, both.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Engine;
use super::member::Member;
use super::observe::read_label_of;
use super::open_pool::OpenPool;
use super::slot::Device;
use crate::format::{DiskId, LabelState, PoolId};
use crate::report::PoolEvent;

/// The devices present by the disks for which they pass, so that of thousands not each is compared with each.
pub(super) struct Identities(BTreeMap<(PoolId, DiskId), Vec<Rc<Device>>>);

impl Engine {
    /// Those of these devices: of all, or of all that have a pool's label.
    pub(super) fn identities<'d>(
        &self,
        devices: impl IntoIterator<Item = &'d Rc<Device>>,
    ) -> Identities {
        let mut by_disk: BTreeMap<_, Vec<Rc<Device>>> = BTreeMap::new();
        for device in devices {
            if let Some(identity) = self.identity_of(device) {
                by_disk.entry(identity).or_default().push(Rc::clone(device));
            }
        }
        Identities(by_disk)
    }

    /// Why a labelled device isn't taken for the disk that its label names, if it isn't.
    pub(super) fn why_not_itself(
        &self,
        device: &Device,
        identities: &Identities,
    ) -> Option<String> {
        let identity = self.identity_of(device)?;
        if let Some(why) = self.why_elsewhere(device) {
            return Some(why);
        }
        let same = identities.0.get(&identity).into_iter().flatten();
        let others = same.filter(|other| !std::ptr::eq(&***other, device));
        let twins: Vec<&Rc<Device>> = others.filter(|other| !self.is_elsewhere(other)).collect();
        if twins.is_empty() {
            return None;
        }
        let held = self.open_pool_of(device).and_then(|(open, disk)| open.pool.member_by_id(disk));
        if let Some(held) = held.and_then(|member| member.device()) {
            let devices = self.devices.borrow();
            let holder = devices.values().find(|other| other.is_held(&held))?;
            return (!device.is_held(&held)).then(|| refusal(&holder.facts.name));
        }
        let newest = twins.iter().max_by_key(|twin| twin.epoch.get())?;
        match device.epoch.get().cmp(&newest.epoch.get()) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Less => Some(format!(
                "it carries the identity of {}, which says that it had a later owner; {REMEDY}",
                newest.facts.name
            )),
            std::cmp::Ordering::Equal => Some(format!(
                "it carries the identity of {}, and nothing tells which is the disk and which its copy; \
                 take the copy away (stop exporting it)",
                newest.facts.name
            )),
        }
    }

    /// A device present that is labelled as a member of an open pool: it is taken for it, unless
    /// another one is held for that and answers.
    pub(super) fn take_or_part(
        self: &Rc<Self>,
        open: &Rc<OpenPool>,
        member: &Rc<Member>,
        device: &Rc<Device>,
    ) {
        if self.is_elsewhere(device) {
            return;
        }
        match member.device() {
            Some(held) if device.is_held(&held) => {}
            _ if open.pool.read_only => {}
            Some(_) if device.parted.replace(true) => {}
            Some(_) => {
                let (this, open) = (Rc::clone(self), Rc::clone(open));
                let (member, device) = (Rc::clone(member), Rc::clone(device));
                self.runtime.spawn(async move {
                    if this.is_left_alone(&open, &member, &device).await {
                        this.take(&open, &member, &device);
                    }
                    device.parted.set(false);
                });
            }
            None => self.take(open, member, device),
        }
    }

    fn take(&self, open: &Rc<OpenPool>, member: &Rc<Member>, device: &Device) {
        let (place, machine) = (device.facts.place(), device.facts.node);
        open.attach(member, place, machine, Rc::clone(&device.device));
    }

    /// Waits until the device that is held for a member doesn't answer as it any more; tells whether
    /// `device` is to be taken in its place.
    async fn is_left_alone(&self, open: &OpenPool, member: &Member, device: &Device) -> bool {
        let identity = Some((open.pool.id, member.id));
        let mut told = false;
        loop {
            let over =
                device.gone.get() || open.pool.lease.ended().is_some() || self.is_elsewhere(device);
            if over || self.identity_of(device) != identity {
                return false;
            }
            let Some(held) = member.device() else { return true };
            if device.is_held(&held) {
                return false;
            }
            let limit = self.config.limits.eviction;
            let label = runtime::timeout(
                &self.runtime,
                limit,
                read_label_of(&*held, (open.pool.id, member.id)),
            )
            .await;
            match label {
                Ok(Ok(LabelState::Labelled(label)))
                    if Some((label.label.pool, label.label.disk)) == identity => {}
                _ => return true,
            }
            if !std::mem::replace(&mut told, true) {
                self.events.tell(PoolEvent::DiskRefused {
                    pool: Some(open.pool.name.clone()),
                    disk: device.facts.name.clone(),
                    why: refusal(&member.display_name()),
                });
            }
            self.runtime.sleep(self.config.limits.look_at_closed).await;
        }
    }
}

const REMEDY: &str =
    "if it is the copy, take it away (stop exporting it); if the other one is, that one";

fn refusal(held: &str) -> String {
    format!("it carries the identity of {held}, which answers; {REMEDY}")
}
