//! A disk of an open pool: its device, and whether it takes part.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use block::{BlockDevice, Instance, Instant, Lba};
use runtime::{Notify, Semaphore};
use uuid::Uuid;

use super::DiskPlace;
use super::trim::DiskTrim;
use crate::format::{DiskGeometry, DiskId, DiskNumber, ExtentRange, RecordNumber};
use crate::stats::DiskOperations;

/// A disk that is evicted so long after it was taken in failed anew.
const RETURN_HOLDS: Duration = Duration::from_secs(10);
/// A disk that refuses writes to logs gets no copy of a new segment for so long: each costs writers a
/// switch.
pub(super) const WITHOUT_LOGS: Duration = Duration::from_secs(10);
/// The pause before a disk is taken in again is doubled at most so often.
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// Whether a disk takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No device present, or one that doesn't answer, or one that is being checked.
    Away,
    /// Takes part in everything.
    Usable,
    /// The configuration does without it.
    Out,
    /// Present and not used, with the reason.
    Refused(String),
}

/// A disk of an open pool.
pub(crate) struct Member {
    /// Its index in the pool.
    pub(crate) number: DiskNumber,
    /// Its identity.
    pub(crate) id: DiskId,
    /// Where things are on it.
    pub(crate) geometry: DiskGeometry,
    /// When it took part last: seconds since 1970; 0 before it did.
    pub(crate) seen_secs: Cell<u64>,
    /// Where it is or was present.
    pub(crate) place: RefCell<DiskPlace>,
    /// The machine that it is present on; nil before it was.
    pub(crate) machine: Cell<Uuid>,
    /// The metadata area that its label names; not known before it was claimed and checked.
    pub(crate) labelled_area: Cell<Option<ExtentRange>>,
    /// All slots of the label name that one.
    pub(crate) label_resolved: Cell<bool>,
    /// It is being given another area.
    pub(crate) moving_area: Cell<bool>,
    /// One writer of its label at a time.
    pub(crate) labelling: Rc<Semaphore>,
    device: RefCell<Option<Rc<dyn BlockDevice>>>,
    standing: RefCell<Standing>,
    /// Counts the devices and restarts it was seen with, so that a check that is overtaken by a
    /// newer one gives up.
    pub(crate) appearance: Cell<u64>,
    /// Its medium has accepted our epoch.
    pub(crate) claimed: Cell<bool>,
    /// The version of the pool's grant that it has heard of.
    pub(crate) heard_grant: Cell<u64>,
    /// How often that ended: a check that was under way meanwhile isn't one of what is ours now.
    pub(crate) claims_ended: Cell<u64>,
    /// The hint of its driver: it answers.
    pub(crate) answers: Cell<bool>,
    /// The instance whose flush failed: not used again before another one.
    pub(crate) failed_instance: Cell<Option<Instance>>,
    /// The instance that took the last volatile writes.
    pub(crate) seen_instance: Cell<Option<Instance>>,
    /// The sequence of its next applied block.
    pub(crate) applied_sequence: Cell<u64>,
    /// The last record of the metadata that we had it name there since it was taken in.
    pub(crate) told_record: Cell<RecordNumber>,
    /// How often in a row what it has applied couldn't be read.
    pub(crate) unread_applied: Cell<u32>,
    /// Blocks that didn't match, or couldn't be read.
    pub(crate) checksum_errors: Cell<u64>,
    /// Whether it came back with older contents and hasn't resynced yet.
    pub(crate) rolled_back: Cell<bool>,
    /// When it is judged next whether its older contents lack anything that counts.
    pub(crate) judge_at: Cell<Instant>,
    /// The instance whose applied number was looked at when the disk was taken in.
    pub(crate) checked_instance: Cell<Option<Instance>>,
    /// It is being taken in.
    pub(crate) joining: Cell<bool>,
    /// When it was taken in.
    taken_in_at: Cell<Option<Instant>>,
    /// How often in a row it was evicted soon after it was taken in, and until when it stays out for that.
    returns: Cell<u32>,
    pub(crate) stays_out_until: Cell<Instant>,
    /// When it last refused a write to a log, and until when it gets no copy of a new segment for that.
    log_refused_at: Cell<Option<Instant>>,
    pub(crate) without_logs_until: Cell<Instant>,
    /// It misses something, and will say so when it doesn't any more.
    pub(crate) is_behind: Cell<bool>,
    /// What it has to do, as bytes, to spread reads over mirrors; and that it may have nothing any more.
    pub(crate) underway_bytes: Cell<u64>,
    pub(crate) rested: Notify,
    /// Writes that much waits for.
    pub(crate) awaited_writes: Cell<u32>,
    /// Where the last read of rows ended.
    pub(crate) read_until: Cell<Lba>,
    /// One applied block at a time: two slots are written in turn.
    pub(crate) recording_applied: Rc<Semaphore>,
    /// Bytes copied to it since it came back.
    pub(crate) resynced_bytes: Cell<u64>,
    pub(crate) trim: DiskTrim,
    /// What it was asked to do, since the pool was opened.
    pub(crate) operations: RefCell<DiskOperations>,
}

impl Member {
    pub(crate) fn new(number: DiskNumber, id: DiskId, geometry: DiskGeometry) -> Rc<Member> {
        Rc::new(Member {
            number,
            id,
            geometry,
            seen_secs: Cell::new(0),
            place: RefCell::default(),
            machine: Cell::new(Uuid::nil()),
            labelled_area: Cell::new(None),
            label_resolved: Cell::new(false),
            moving_area: Cell::new(false),
            labelling: Semaphore::new(1),
            device: RefCell::new(None),
            standing: RefCell::new(Standing::Away),
            appearance: Cell::new(0),
            claimed: Cell::new(false),
            heard_grant: Cell::new(0),
            claims_ended: Cell::new(0),
            answers: Cell::new(false),
            failed_instance: Cell::new(None),
            seen_instance: Cell::new(None),
            applied_sequence: Cell::new(1),
            told_record: Cell::default(),
            unread_applied: Cell::new(0),
            checksum_errors: Cell::new(0),
            rolled_back: Cell::new(false),
            judge_at: Cell::new(Instant::default()),
            checked_instance: Cell::new(None),
            joining: Cell::new(false),
            taken_in_at: Cell::new(None),
            returns: Cell::new(0),
            stays_out_until: Cell::new(Instant::default()),
            log_refused_at: Cell::new(None),
            without_logs_until: Cell::new(Instant::default()),
            is_behind: Cell::new(false),
            underway_bytes: Cell::new(0),
            rested: Notify::new(),
            awaited_writes: Cell::new(0),
            read_until: Cell::default(),
            recording_applied: Semaphore::new(1),
            resynced_bytes: Cell::new(0),
            trim: DiskTrim::new(),
            operations: RefCell::default(),
        })
    }

    /// The device, if one is present.
    pub(crate) fn device(&self) -> Option<Rc<dyn BlockDevice>> {
        self.device.borrow().clone()
    }

    /// Whether that is its device.
    pub(crate) fn holds(&self, device: &dyn BlockDevice) -> bool {
        self.device().is_some_and(|held| std::ptr::addr_eq(Rc::as_ptr(&held), device))
    }

    /// The device, if the disk takes part.
    pub(crate) fn usable_device(&self) -> Option<Rc<dyn BlockDevice>> {
        if self.is_usable() { self.device() } else { None }
    }

    /// Whether it takes part.
    pub(crate) fn is_usable(&self) -> bool {
        *self.standing.borrow() == Standing::Usable
    }

    /// Whether it takes part and answers.
    pub(crate) fn is_answering(&self) -> bool {
        self.is_usable() && self.answers.get()
    }

    /// Whether it answers and can't take part as it is.
    pub(crate) fn is_unfit(&self) -> bool {
        self.answers.get() && !self.is_usable()
    }

    /// Whether it takes part again as soon as it was seen to be the disk that it was.
    pub(crate) fn is_looked_at(&self) -> bool {
        let is_away = *self.standing.borrow() == Standing::Away;
        is_away && self.answers.get() && self.joining.get() && !self.rolled_back.get()
    }

    /// Where it stands.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(crate) fn set_standing(&self, standing: Standing) {
        *self.standing.borrow_mut() = standing;
    }

    /// It takes part again.
    pub(crate) fn taken_in(&self, now: Instant) {
        self.taken_in_at.set(Some(now));
    }

    /// It was evicted. One that comes and goes costs clients a pause and a segment each time: if it was
    /// taken in a moment ago it stays out for a while, the longer the more often.
    pub(crate) fn was_evicted(&self, now: Instant, pause: Duration) {
        let soon = self.taken_in_at.get().is_some_and(|at| now.since(at) < RETURN_HOLDS);
        let returns = if soon { self.returns.get() + 1 } else { 0 };
        self.returns.set(returns);
        if let Some(doublings) = returns.checked_sub(1) {
            self.stays_out_until.set(now + pause * (1 << doublings.min(PAUSE_DOUBLINGS_MAX)));
        }
    }

    /// It answered that it can't take a write to a log. Perhaps another place on it can: the next segment
    /// shows. If that is refused as well, new segments do without it for a while; tells whether.
    pub(crate) fn refused_log(&self, now: Instant) -> bool {
        let before = self.log_refused_at.replace(Some(now));
        let again = before.is_some_and(|at| now.since(at) < WITHOUT_LOGS);
        if again {
            self.without_logs_until.set(now + WITHOUT_LOGS);
        }
        again
    }

    /// A device was discovered at `place`, on `machine`.
    pub(crate) fn attach(&self, place: DiskPlace, machine: Uuid, device: Rc<dyn BlockDevice>) {
        self.machine.set(machine);
        *self.place.borrow_mut() = place;
        *self.device.borrow_mut() = Some(device);
        self.end_claim();
        self.answers.set(true);
        self.stays_out_until.set(Instant::default());
        self.appear();
    }

    /// The device disappeared.
    pub(crate) fn detach(&self) {
        *self.device.borrow_mut() = None;
        self.end_claim();
        self.answers.set(false);
        self.appear();
    }

    /// Whatever is asked of its device from now on isn't asked under our epoch.
    pub(crate) fn end_claim(&self) {
        self.claimed.set(false);
        self.claims_ended.set(self.claims_ended.get() + 1);
    }

    /// A new appearance; returns its number.
    pub(crate) fn appear(&self) -> u64 {
        self.appearance.set(self.appearance.get() + 1);
        self.appearance.get()
    }

    /// Its address, or what is known of it in short.
    pub(crate) fn display_name(&self) -> String {
        let place = self.place.borrow();
        match place.name.is_empty() {
            true => format!("{} of {}", self.number, place.node_name),
            false => place.name.clone(),
        }
    }
}
