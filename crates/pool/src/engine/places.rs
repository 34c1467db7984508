//! Where the disks of an open pool are, kept in the pool itself: when one is gone, a person must find it on the shelf,
//! also where another host opens the pool that never saw it. It is written when it changes and when a disk is gone,
//! some at a time and seldom, so that disks that come and go, or a thousand of them, cost next to nothing.

use std::rc::Rc;
use std::time::Duration;

use block::CalendarTime;

use super::DiskPlace;
use super::lease::Ended;
use super::member::Member;
use super::open_pool::OpenPool;
use super::pool::Pool;
use crate::metadata::{LastPlace, MetaRecord, Metadata};
use crate::report::whereabouts;

/// How often it is noted in memory that disks are there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two commits, if there is anything to be committed.
const LOOKS_PER_COMMIT: u32 = 60;
/// Disks in one commit.
const AT_ONCE_MAX: usize = 64;
/// That a disk is there is written anew so seldom: a crash forgets no more than that.
const REFRESHED_AFTER_SECS: u64 = 24 * 3600;

impl DiskPlace {
    /// Where a disk was, as the pool keeps it.
    pub(super) fn of(place: LastPlace) -> DiskPlace {
        let LastPlace { name, device_name, serial, .. } = place;
        DiskPlace { name, device_name, serial, ..DiskPlace::default() }
    }

    /// Whether a drive that is at the one is the drive that was at the other, as far as can be told from outside: a
    /// machine finds its disks in another order, and then their paths are others.
    pub(super) fn is_same(&self, other: &DiskPlace) -> bool {
        (&self.name, self.drive()) == (&other.name, other.drive())
    }

    fn drive(&self) -> &str {
        if self.serial.is_empty() { &self.device_name } else { &self.serial }
    }

    /// For people, with what else there is to say of it.
    pub(crate) fn describe(&self, more: &str) -> String {
        if self.name.is_empty() {
            return format!("a disk of {}", self.node_name);
        }
        let at = whereabouts(&self.device_name, &self.node_name, &self.serial);
        format!("{} ({at}{more})", self.name)
    }
}

impl std::fmt::Display for DiskPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe(""))
    }
}

impl OpenPool {
    /// Takes note of where disks are for as long as the pool is open.
    pub(crate) async fn run_places(self: Rc<Self>) {
        let mut looks = 0;
        loop {
            if self.pool.unless_over(self.pool.runtime.sleep(LOOK_EVERY)).await.is_err() {
                return;
            }
            let now_secs = self.pool.runtime.calendar().as_secs();
            for member in self.pool.members() {
                if member.is_answering() {
                    member.seen_secs.set(now_secs);
                }
            }
            looks += 1;
            // Whoever opens the pool next tells when one was there last that is gone.
            if looks >= LOOKS_PER_COMMIT || self.is_gone_since_kept() {
                looks = 0;
                if self.keep_places().await.is_err() {
                    return;
                }
            }
        }
    }

    /// Keeps what isn't kept yet. Nobody waits for it, and where there is no room it isn't kept.
    async fn keep_places(&self) -> Result<(), Ended> {
        let is_due = !self.places_due(&self.pool.meta.borrow()).is_empty();
        if !is_due || !self.pool.lease.holds(self.pool.runtime.now()) {
            return Ok(());
        }
        let _meta = self.pool.unless_over(self.pool.meta_lock.acquire(1)).await?;
        let records = self.places_due(&self.pool.meta.borrow());
        self.commit_if_room(&records).await.map(drop)
    }

    fn places_due(&self, meta: &Metadata) -> Vec<MetaRecord> {
        let due = self.pool.members().into_iter();
        let due = due.filter_map(|member| Some((place_due(&member, meta)?, member.number)));
        due.take(AT_ONCE_MAX).map(|(place, disk)| MetaRecord::last_place(disk, &place)).collect()
    }

    fn is_gone_since_kept(&self) -> bool {
        let meta = self.pool.meta.borrow();
        let gone = |member: &Rc<Member>| !member.is_usable() && !member.is_answering();
        self.pool.members.borrow().values().any(|m| gone(m) && place_due(m, &meta).is_some())
    }
}

/// Where a disk was last, if another place is kept, or a moment that is too long ago.
fn place_due(member: &Member, meta: &Metadata) -> Option<LastPlace> {
    let now = member.last_place().filter(|place| place.seen_secs > 0)?;
    let is_kept = meta.last_place(member.number).is_some_and(|kept| {
        // Of one that is gone the last moment is kept.
        let may_be_older = if member.is_usable() { REFRESHED_AFTER_SECS } else { 0 };
        // A clock may have been wrong, then or now.
        kept.is_at(&now) && now.seen_secs.abs_diff(kept.seen_secs) <= may_be_older
    });
    (meta.disks().contains_key(&member.number) && !is_kept).then_some(now)
}

impl Pool {
    /// When a disk was last there, if it isn't now and that is known.
    pub(super) fn last_seen_secs(&self, member: &Member) -> Option<u64> {
        if member.is_answering() {
            return None;
        }
        let here = Some(member.seen_secs.get()).filter(|secs| *secs > 0);
        let kept = || self.meta.borrow().last_place(member.number);
        here.or_else(|| kept().map(|place| place.seen_secs))
    }

    /// Where to look for a disk, and when it was last there.
    pub(crate) fn describe(&self, member: &Member) -> String {
        let seen = self.last_seen_secs(member).map_or_else(String::new, |secs| {
            format!(", last seen {}", CalendarTime::since_1970(secs))
        });
        member.place.borrow().describe(&seen)
    }
}

impl Member {
    /// Where it is or was, and when that was last; none where that isn't known.
    fn last_place(&self) -> Option<LastPlace> {
        let DiskPlace { name, device_name, serial, .. } = self.place.borrow().clone();
        let place = LastPlace { seen_secs: self.seen_secs.get(), name, device_name, serial };
        (!place.name.is_empty()).then(|| place.cut())
    }
}
