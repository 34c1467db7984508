//! A volume of an open pool: what is known of it, and whether it serves. `device` is what front ends see of
//! it, `write` makes records of what they write, and `log`, in the `segment`s that it has, makes these
//! durable within the `credit` that there is; `mark` says how far. `in_place` writes what is large to its
//! place at once, behind `intents`. `pending` is what isn't in place yet, or not known to be by the metadata.

pub(crate) mod credit;
pub(crate) mod device;
mod in_place;
pub(crate) mod intents;
pub(crate) mod log;
mod mark;
pub(crate) mod pending;
pub(crate) mod segment;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use block::{Instant, IoError, Line};
use futures::FutureExt;
use futures::future::{Either, select};
use runtime::{Notify, Semaphore};

use super::checksums::Checksums;
use super::lease::Ended;
use super::measure::milliseconds;
use super::pool::{Pool, ended_error};
use crate::format::{DiskNumber, GenerationId, Row, VolumeId};
use crate::layout::StripeLayout;
use crate::metadata::RunKey;
use crate::report::{PoolEvent, Progress, Replayed};
use crate::stats::VolumeStats;
use credit::Credit;
use log::Log;
use pending::Pending;
use segment::LogShape;

/// Whether a volume serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Its log is being replayed.
    Opening,
    /// It waits for something.
    Suspended(String),
    /// It serves.
    Yes,
    /// It was removed.
    Gone,
}

/// A volume of an open pool.
pub(crate) struct Volume {
    pub(crate) pool: Rc<Pool>,
    pub(crate) id: VolumeId,
    name: RefCell<String>,
    pub(crate) stripes: StripeLayout,
    pub(crate) log_shape: LogShape,
    /// Only the newest write of a block can be unacknowledged. Destaging takes no place here: it moves what
    /// is already acknowledged, so a request may hold its place while it waits for log credit.
    pub(crate) line: Rc<Line>,
    pub(crate) credit: Rc<Credit>,
    pub(crate) pending: RefCell<Pending>,
    pub(crate) log: Log,
    /// Blocks that may still be on their way to their places.
    placing: Rc<Semaphore>,
    pub(crate) checksums: Checksums,
    /// One destage at a time, and nobody else initialises groups.
    pub(crate) destaging: Rc<Semaphore>,
    /// A copy waits for rows that only a destage brings.
    pub(crate) is_destage_awaited: Cell<bool>,
    /// Groups of which a destage takes the locks, and since when.
    pub(crate) wanted_locks: RefCell<(Instant, BTreeSet<GenerationId>)>,
    /// How many groups of a run large writes want initialised.
    pub(crate) wanted_groups: RefCell<BTreeMap<RunKey, u32>>,
    /// How large it is for those who use it.
    pub(crate) size_bytes: Cell<u64>,
    /// One at a time changes that.
    pub(crate) sizing: Rc<Semaphore>,
    serving: RefCell<Serving>,
    /// What became of the INTENTs that the log had when it was opened.
    pub(crate) is_decided: Cell<bool>,
    pub(crate) changed: Notify,
    pub(crate) repairing: RefCell<BTreeSet<(GenerationId, Row, DiskNumber)>>,
    pub(crate) repaired_blocks: Cell<u64>,
    pub(crate) resynced_bytes: Cell<u64>,
    pub(crate) replayed: Cell<Replayed>,
    /// How much of the log the opening has read.
    pub(crate) replaying: Cell<Progress>,
    /// Counts reads of members.
    pub(crate) reads: Cell<u32>,
    pub(crate) stats: RefCell<VolumeStats>,
}

impl Volume {
    /// The volume with this id of an open pool's metadata; it doesn't serve yet.
    pub(crate) fn new(pool: &Rc<Pool>, id: VolumeId) -> Option<Rc<Volume>> {
        let meta = pool.meta.borrow();
        let volume = meta.volumes().get(&id)?;
        let log_shape = LogShape::of(&meta);
        let began_ms = milliseconds(pool.runtime.now());
        Some(Rc::new(Volume {
            pool: Rc::clone(pool),
            id,
            name: RefCell::new(volume.name.clone()),
            stripes: volume.stripes(meta.shape())?,
            log_shape,
            line: Line::new(usize::MAX),
            credit: pool.new_credit(log_shape.credit_bytes()),
            pending: RefCell::default(),
            log: Log::new(),
            placing: Semaphore::new(in_place::UNDER_WAY_MAX),
            checksums: Checksums::new(pool.checksum_cache.part()),
            destaging: Semaphore::new(1),
            is_destage_awaited: Cell::new(false),
            wanted_locks: RefCell::default(),
            wanted_groups: RefCell::default(),
            size_bytes: Cell::new(volume.bytes),
            sizing: Semaphore::new(1),
            serving: RefCell::new(Serving::Opening),
            is_decided: Cell::new(false),
            changed: Notify::new(),
            repairing: RefCell::default(),
            repaired_blocks: Cell::new(0),
            resynced_bytes: Cell::new(0),
            replayed: Cell::default(),
            replaying: Cell::default(),
            reads: Cell::new(0),
            stats: RefCell::new(VolumeStats { began_ms, ..VolumeStats::default() }),
        }))
    }

    pub(crate) fn name(&self) -> String {
        self.name.borrow().clone()
    }

    /// It has another name, which its pool has committed.
    pub(crate) fn rename(&self, name: String) {
        *self.name.borrow_mut() = name;
    }

    pub(crate) fn serving(&self) -> Serving {
        self.serving.borrow().clone()
    }

    /// Changes whether it serves, and tells. What is gone stays gone, whatever its opening finds.
    pub(crate) fn set_serving(&self, serving: Serving) {
        if *self.serving.borrow() == serving || self.is_gone() {
            return;
        }
        let (pool, volume) = (self.pool.name.clone(), self.name());
        match &serving {
            Serving::Yes => {
                let replayed = self.replayed.get();
                self.pool.events.tell(PoolEvent::VolumeServing { pool, volume, replayed });
            }
            Serving::Suspended(reason) => {
                let reason = reason.clone();
                self.pool.events.tell(PoolEvent::VolumeSuspended { pool, volume, reason });
            }
            Serving::Opening | Serving::Gone => {}
        }
        *self.serving.borrow_mut() = serving;
        self.changed.notify_all();
    }

    /// Ends the volume's tasks, which want nothing any more.
    pub(crate) fn stop(&self) {
        self.credit.wants_segment.set(false);
        self.log.wake_all();
        self.pool.changed.notify_all();
    }

    /// As [`Pool::wait_for_change`], for what the volume itself does: its removal waits for no member.
    pub(crate) async fn wait_for_change(&self) -> Result<(), Ended> {
        if self.is_gone() {
            return Err(Ended::Closed);
        }
        self.pool.wait_for_change().await
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.serving.borrow() == Serving::Gone
    }

    /// `work`, unless the volume is removed or the pool over before it is done.
    pub(super) async fn while_there<T>(&self, work: impl Future<Output = T>) -> Result<T, IoError> {
        let mut work = std::pin::pin!(work);
        // Mostly there is nothing to wait for.
        if let Some(done) = work.as_mut().now_or_never() {
            return Ok(done);
        }
        let gone = std::pin::pin!(self.until_gone());
        match self.pool.unless_over(select(work, gone)).await {
            Ok(Either::Left((done, _))) => Ok(done),
            Ok(Either::Right(_)) => Err(IoError::Lost),
            Err(ended) => Err(ended_error(&self.pool, ended)),
        }
    }

    async fn until_gone(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_gone() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the volume serves.
    pub(crate) async fn wait_serving(&self) -> Result<(), IoError> {
        match self.until_serving().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(IoError::Lost),
            Err(ended) => Err(ended_error(&self.pool, ended)),
        }
    }

    /// The same; false if it was removed.
    pub(crate) async fn until_serving(&self) -> Result<bool, Ended> {
        loop {
            let changed = self.changed.notified();
            match &*self.serving.borrow() {
                Serving::Yes => return Ok(true),
                Serving::Gone => return Ok(false),
                Serving::Opening | Serving::Suspended(_) => {}
            }
            self.pool.unless_over(changed).await?;
        }
    }

    /// The right to answer: waits for the lease. Who was stopped since this turn began, for longer than
    /// the lease runs, mustn't answer by the time that it was then.
    pub(super) async fn may_answer(&self) -> Result<(), IoError> {
        if self.pool.lease.holds(self.pool.runtime.look_at_clock()) {
            return Ok(());
        }
        let lease = self.pool.lease.wait(&self.pool.runtime).await;
        lease.map_err(|ended| ended_error(&self.pool, ended))
    }
}
