//! An open pool with its volumes, and the tasks that run as long as it is open.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockDevice, DeviceEvent, Epoch, Instant};
use futures::channel::oneshot;
use futures::future::join_all;
use runtime::Semaphore;
use uuid::Uuid;

use super::DiskPlace;
use super::copy_order::Loads;
use super::jobs::Jobs;
use super::lease::Ended;
use super::member::{Member, Standing};
use super::pace::Pace;
use super::pool::Pool;
use super::settings::REBUILD_RATE;
use super::status::CountedRuns;
use super::volume::{Serving, Volume};
use super::votes::Unfit;
use crate::error::PoolError;
use crate::format::{Configuration, DiskNumber, GenerationId, VolumeId};
use crate::report::{PoolEvent, PoolState, VotesReport};

/// An open pool.
pub(crate) struct OpenPool {
    pub(crate) pool: Rc<Pool>,
    pub(crate) volumes: RefCell<BTreeMap<VolumeId, Rc<Volume>>>,
    /// Held over the removal of a volume.
    pub(super) removing: Rc<Semaphore>,
    /// Held from choosing a disk's number to its commit.
    pub(super) adding: Rc<Semaphore>,
    pub(super) jobs: Jobs,
    /// How fast is copied from disk to disk.
    pub(super) copy_pace: Pace,
    /// What disks have to do for that.
    pub(super) copy_loads: Rc<Loads>,
    /// How fast is discarded.
    pub(super) trim_pace: Pace,
    /// Groups of which nothing could be copied of late, and when.
    pub(super) in_vain: RefCell<BTreeMap<GenerationId, Instant>>,
    pub(super) unfit: Unfit,
    pub(super) counted_runs: RefCell<CountedRuns>,
    /// Why disks that are to take no part still do.
    pub(super) offline_waits: RefCell<BTreeMap<DiskNumber, String>>,
    /// Who owned it before it was opened here, by name, and under which epoch.
    owned_before: (String, Epoch),
    /// How its votes stood when it was imported read-only.
    pub(super) votes_before: Cell<Option<VotesReport>>,
}

impl OpenPool {
    pub(crate) fn new(pool: Rc<Pool>, before: &Configuration) -> Rc<OpenPool> {
        let (removing, adding) = (Semaphore::new(1), Semaphore::new(1));
        Rc::new(OpenPool {
            pool,
            volumes: RefCell::default(),
            removing,
            adding,
            jobs: Jobs::default(),
            copy_pace: Pace::by(Some(REBUILD_RATE)),
            copy_loads: Rc::default(),
            trim_pace: Pace::by(None),
            in_vain: RefCell::default(),
            unfit: Unfit::default(),
            counted_runs: RefCell::default(),
            offline_waits: RefCell::default(),
            owned_before: (before.owner_name.clone(), before.epoch),
            votes_before: Cell::new(None),
        })
    }

    /// Opens the volumes, and starts what runs beside requests where something may change.
    pub(crate) fn start(self: &Rc<Self>) {
        if !self.pool.read_only {
            self.start_maintenance();
        }
        let ids: Vec<VolumeId> = self.pool.meta.borrow().volumes().keys().copied().collect();
        for id in ids {
            self.open_volume(id);
        }
    }

    /// Who owns it, and under which epoch: who only reads it owns nothing, and has its epoch for itself.
    pub(super) fn owner(&self) -> (&str, Epoch) {
        let (name, epoch) = &self.owned_before;
        match self.pool.read_only {
            true => (name, *epoch),
            false => (&self.pool.owner_name, self.pool.epoch),
        }
    }

    /// Starts what runs beside requests.
    fn start_maintenance(self: &Rc<Self>) {
        self.pool.events.begin_history(&self.pool.name);
        self.pool.events.tell(PoolEvent::Owned {
            pool: self.pool.name.clone(),
            owner: self.pool.owner_name.clone(),
            epoch: self.pool.epoch.0,
            before: self.owned_before.0.clone(),
        });
        self.pool.runtime.spawn(Rc::clone(self).run_resync());
        self.pool.runtime.spawn(Rc::clone(self).run_judging());
        self.pool.runtime.spawn(Rc::clone(self).run_jobs());
        self.pool.runtime.spawn(Rc::clone(self).run_votes());
        self.pool.runtime.spawn(Rc::clone(self).run_scrubs());
        self.pool.runtime.spawn(Rc::clone(self).run_history());
        self.pool.runtime.spawn(Rc::clone(self).run_places());
        self.pool.runtime.spawn(Rc::clone(self).run_grants());
        self.pool.runtime.spawn(Rc::clone(self).run_trims());
        self.pool.runtime.spawn(Rc::clone(&self.pool).run_metadata_copies());
        self.pool.resync_soon();
    }

    /// Opens a volume of the metadata.
    pub(crate) fn open_volume(self: &Rc<Self>, id: VolumeId) {
        if let Some(volume) = Volume::new(&self.pool, id) {
            self.volumes.borrow_mut().insert(id, Rc::clone(&volume));
            self.pool.runtime.spawn(volume.open());
        }
    }

    pub(crate) fn volume(&self, id: VolumeId) -> Option<Rc<Volume>> {
        self.volumes.borrow().get(&id).cloned()
    }

    pub(crate) fn volume_by_name(&self, name: &str) -> Result<Rc<Volume>, PoolError> {
        let volumes = self.volumes.borrow();
        let found = volumes.values().find(|volume| volume.name() == name).cloned();
        found.ok_or_else(|| PoolError::no_volume(&self.pool.name, name))
    }

    /// A device of one of the pool's disks was discovered.
    pub(crate) fn attach(
        self: &Rc<Self>,
        member: &Rc<Member>,
        place: DiskPlace,
        machine: Uuid,
        device: Rc<dyn BlockDevice>,
    ) {
        member.attach(place, machine, device);
        if member.is_usable() {
            member.set_standing(Standing::Away);
        }
        self.pool.changed.notify_all();
        self.pool.re_add_soon(member);
    }

    /// What a disk's driver hints at.
    pub(crate) fn hint(self: &Rc<Self>, member: &Rc<Member>, event: DeviceEvent) {
        match event {
            DeviceEvent::Lost => member.answers.set(false),
            DeviceEvent::Back(instance) => {
                member.answers.set(true);
                // Nothing is written to it before it is known to be the disk that it was.
                if member.is_usable() && member.checked_instance.get() != Some(instance) {
                    member.set_standing(Standing::Away);
                }
                member.appear();
                self.pool.re_add_soon(member);
            }
            DeviceEvent::Resized => {}
        }
        self.pool.changed.notify_all();
    }

    /// Brings everything into place and stops; with `give_up`, nobody owns the pool afterwards.
    /// Volumes that can't be destaged now keep their log.
    pub(crate) async fn close(self: &Rc<Self>, give_up: bool) -> Result<(), Ended> {
        let volumes: Vec<_> = self.volumes.borrow().values().cloned().collect();
        let mut destaged = Vec::new();
        for volume in volumes.into_iter().filter(|v| v.serving() == Serving::Yes) {
            let (done, receiver) = oneshot::channel();
            destaged.push(receiver);
            // Beside us, not within a limit of time: a commit mustn't be left half done.
            self.pool.runtime.spawn(async move {
                let last = volume.log.state.borrow().releasable();
                let _ = done.send(volume.destage(last).await);
            });
        }
        if give_up {
            let (pool, state) = (self.pool.name.clone(), PoolState::Released);
            self.pool.events.keep(&PoolEvent::PoolState { pool, state });
        }
        let (done, receiver) = oneshot::channel();
        destaged.push(receiver);
        let this = Rc::clone(self);
        self.pool.runtime.spawn(async move {
            let _ = done.send(this.keep_history(true).await);
        });
        let limit = self.pool.limits.close;
        let _ = runtime::timeout(&self.pool.runtime, limit, join_all(destaged)).await;
        // From here on nothing is answered, so nobody need wait for our lease.
        self.pool.lease.stop();
        let released = self.pool.change_configuration(|config| {
            config.released = true;
            if give_up {
                config.owner = block::OwnerId::NONE;
                config.owner_name.clear();
            }
            true
        });
        let released = runtime::timeout(&self.pool.runtime, limit, released).await;
        self.pool.lease.end(Ended::Closed);
        self.pool.changed.notify_all();
        released.unwrap_or(Err(Ended::Closed))
    }

    pub(crate) fn over(&self, ended: Ended) -> PoolError {
        match ended {
            Ended::Fenced => PoolError::NotOwner {
                pool: self.pool.name.clone(),
                owner: "another supervisor".into(),
                remedy:
                    "it was taken over; pool show says by whom; release it there, then pool import \
                         takes it back"
                        .into(),
            },
            Ended::Closed => PoolError::Suspended {
                name: self.pool.name.clone(),
                reason: "it was closed".into(),
            },
        }
    }
}
