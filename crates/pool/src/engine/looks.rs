//! Looks at devices: what is on each, whenever it comes or comes back, and now and then while no open pool has it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use block::{DeviceEvent, Instant, IoError};
use futures::FutureExt;
use futures::future::{Either, join_all, select};

use super::Engine;
use super::create::holds_vote;
use super::member::Member;
use super::observe::{Content, Others, labelled};
use super::open_pool::OpenPool;
use super::slot::{Device, SlotState};
use crate::format::LabelError;

/// At most so often one of the devices that are in no open pool is looked at anew.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// At most so often it is looked for what isn't etherpool's: 100 KiB are read for it, so this is half of what a cable of
/// 1 Gbit/s carries. Thousands come at once, and all together they would wait for it for longer than a device may take.
const BETWEEN_GLANCES: Duration = Duration::from_millis(2);

/// When one more device has its turn.
#[derive(Debug)]
pub(super) struct Turns {
    apart: Duration,
    next: Cell<Instant>,
}

impl Turns {
    pub(super) fn to_look() -> Turns {
        Turns { apart: BETWEEN_LOOKS, next: Cell::default() }
    }

    pub(super) fn to_glance() -> Turns {
        Turns { apart: BETWEEN_GLANCES, next: Cell::default() }
    }

    /// The next one of so many devices. What nobody took counts no further than one for each.
    fn next(&self, now: Instant, devices: usize) -> Instant {
        let furthest = now + self.apart * u32::try_from(devices).unwrap_or(u32::MAX);
        let turn = self.next.get().clamp(now, furthest);
        self.next.set(turn + self.apart);
        turn
    }
}

impl Engine {
    /// The member of an open pool that a device is held for: whatever was read of it last, if anything could be.
    pub(super) fn member_on(&self, device: &Device) -> Option<(Rc<OpenPool>, Rc<Member>)> {
        let is_on = |m: &Rc<Member>| m.device().is_some_and(|held| device.is_held(&held));
        // Nearly always it is the one that its label names, of thousands.
        if let Some((open, _)) = self.open_pool_of(device) {
            let number = device.content.borrow().label().map(|label| label.number);
            if let Some(member) = number.and_then(|of| open.pool.member(of)).filter(is_on) {
                return Some((open, member));
            }
        }
        let held_by =
            |open: &Rc<OpenPool>| open.pool.members.borrow().values().find(|m| is_on(m)).cloned();
        let slots = self.slots.borrow();
        slots.values().find_map(|slot| match &*slot.state.borrow() {
            SlotState::Open(open) => Some((Rc::clone(open), held_by(open)?)),
            _ => None,
        })
    }

    async fn turn(&self, turns: &Turns) {
        let turn = turns.next(self.runtime.now(), self.devices.borrow().len());
        self.runtime.sleep_until(turn).await;
    }

    /// Looks at a device whenever it comes back, and passes its hints on. One that is held for no member
    /// of an open pool is looked at now and then: nobody tells when another supervisor makes a pool of it,
    /// takes a pool over, or gives it up.
    pub(super) async fn watch(self: Rc<Self>, device: Rc<Device>) {
        self.look_at(&device).await;
        while !device.gone.get() {
            let poked = device.poked.notified();
            let event = device.device.next_event();
            let due = async {
                loop {
                    self.runtime.sleep(self.config.limits.look_at_closed).await;
                    // It may be removed from its pool.
                    if self.member_on(&device).is_some() {
                        continue;
                    }
                    self.turn(&self.look_turns).await;
                    if self.member_on(&device).is_none() {
                        return;
                    }
                }
            };
            let (poked, due) = (std::pin::pin!(poked), std::pin::pin!(due));
            match select(event, select(poked, due)).await {
                Either::Left((event, _)) => {
                    if let Some((open, member)) = self.member_on(&device) {
                        open.hint(&member, event);
                    } else if !matches!(event, DeviceEvent::Lost) {
                        self.look_at(&device).await;
                    }
                }
                Either::Right(_) if !device.gone.get() => self.look_at(&device).await,
                Either::Right(_) => {}
            }
        }
    }

    /// Reads what is on a device; one that doesn't answer is tried again.
    async fn look_at(self: &Rc<Self>, device: &Rc<Device>) {
        while !device.gone.get() {
            // What it told before it needs no look of its own: of thousands of disks each tells that it came.
            while self.member_on(device).is_none()
                && device.device.next_event().now_or_never().is_some()
            {}
            let content = match self.read_device(device).await {
                Ok(content) => content,
                Err(IoError::Lost | IoError::Restarted { .. }) => {
                    self.set_content(device, Content::Unreadable(IoError::Lost));
                    self.runtime.sleep(self.config.limits.rejoin).await;
                    continue;
                }
                Err(error) => Content::Unreadable(error),
            };
            self.set_content(device, content);
            self.discovered(device);
            return;
        }
    }

    pub(super) fn set_content(&self, device: &Device, content: Content) {
        let has_vote = |content: &Content| content.vote().is_some();
        // Whose votes count follows from votes alone, and of thousands of disks a few have one.
        let says_more = has_vote(&content);
        let former = device.content.replace(content);
        if says_more || has_vote(&former) {
            self.note_look();
        }
    }

    /// Takes note of what was read of devices that were made disks, before those of them voted that do.
    pub(super) async fn note_contents(self: &Rc<Self>, names: &[String], contents: Vec<Content>) {
        let notes = names.iter().zip(contents).map(async |(name, content)| {
            let device = self.devices.borrow().get(name).cloned();
            let Some(device) = device else { return };
            let content = match content.label().is_some_and(holds_vote) {
                true => self.read_device(&device).await.unwrap_or_else(Content::Unreadable),
                false => content,
            };
            self.set_content(&device, content);
            self.discovered(&device);
            // It votes, and failed since: it is looked at until it is back.
            if matches!(&*device.content.borrow(), Content::Unreadable(_)) {
                device.poked.notify_all();
            }
        });
        join_all(notes).await;
    }

    /// What is on a device, and under which reservation. Labels are little, and a pool waits for them.
    pub(super) async fn read_device(&self, device: &Device) -> Result<Content, IoError> {
        match self.read_in_time(device, Others::Unasked).await? {
            Content::Blank => {
                self.turn(&self.glance_turns).await;
                self.read_in_time(device, Others::Glanced).await
            }
            content => Ok(content),
        }
    }

    /// The same at once.
    async fn read_in_time(&self, device: &Device, others: Others) -> Result<Content, IoError> {
        let reading = async {
            let content = match self.recognise(&*device.device, others).await? {
                Content::Refused(error) => self.known_by_place(device, error).await?,
                content => content,
            };
            if content.label().is_some() {
                match device.device.renew().await {
                    Ok(holder) => device.epoch.set(holder.value.epoch),
                    Err(error @ (IoError::Lost | IoError::Restarted { .. })) => return Err(error),
                    // A target without reservations.
                    Err(_) => {}
                }
            }
            Ok(content)
        };
        let content = runtime::timeout(&self.runtime, self.config.limits.claim, reading).await;
        content.unwrap_or(Err(IoError::Lost))
    }

    /// What is on a device whose label has no two equal copies. Of a disk of a pool of ours that is where it was last, what
    /// is left of its label suffices; elsewhere it may be a part of a copy of that disk.
    async fn known_by_place(&self, device: &Device, error: LabelError) -> Result<Content, IoError> {
        let LabelError::Damaged { left: Some(left), .. } = &error else {
            return Ok(Content::Refused(error));
        };
        let (pool, disk) = (left.label.pool, left.label.disk);
        let place = device.facts.place();
        let known = self.known.borrow().get(&pool).and_then(|disks| disks.get(&disk).cloned());
        match known.is_some_and(|known| known.is_same(&place)) {
            true => labelled(&*device.device, left.clone()).await,
            false => Ok(Content::Refused(error)),
        }
    }
}
