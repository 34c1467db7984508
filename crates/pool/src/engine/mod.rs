//! The engine: pools of disks, and volumes on them, kept true.
//!
//! [`Engine`] is what the outside holds: it is told which devices are present, opens by itself every
//! pool that names its owner, and offers volumes as block devices. The rules that it keeps stand in
//! `docs/engine.md`; each operation has a file of its own:
//!
//! - **which pools there are**: `looks` and `observe` (what is on a disk), `trusted` (whose votes count), `slot` (when a pool is opened), `open`
//!   (takeover), `create` and `format_disk`, `destroy` and `unlabel`;
//! - **who takes part**: `config` (votes), `commit`, `checkpoint` and `areas` (metadata), `lease`, `evict`, `re_add`,
//!   `offline`;
//! - **data**: `volume/` (requests, their way into the log, what isn't in place yet), `destage` with `init`,
//!   `disk_work` and `again`, `read`, `right_copy` (which member's answer counts), `checksums`, `replay`;
//! - **where data is**: `relocate` moves groups to other disks, and `jobs` with `job_steps`, `rebalance` and
//!   `convert` decides which, and why;
//! - **what others keep here**: `notes`;
//! - **upkeep**: `repair`, `resync` with `copy_order`, `copy_credit` and `judge`, `verify`, `scrub`, each at its `pace`;
//!   and `status`, `measure`, `events` and `history` for people.
//!
//! It is single-threaded: state is in cells, and no borrow lives across an await.

mod adopt;
mod adopted;
mod again;
mod areas;
mod asked;
mod belief;
mod cable;
mod checkpoint;
mod checksum_cache;
mod checksums;
mod commit;
mod config;
mod convert;
mod copy_credit;
mod copy_order;
mod copy_room;
mod create;
mod destage;
mod destroy;
mod discovered;
mod disk_work;
mod events;
mod evict;
mod format_disk;
mod grants;
mod health;
mod history;
mod import;
mod init;
mod job_steps;
mod jobs;
mod judge;
mod known;
mod labels;
mod lease;
mod limits;
mod log_loss;
mod looks;
mod measure;
mod member;
mod metadata_copies;
mod missing;
mod moved;
mod named;
mod node_keys;
mod notes;
mod observe;
mod offline;
mod open;
mod open_pool;
mod opening;
mod overlay;
mod pace;
mod places;
mod pool;
mod quorum;
mod re_add;
mod read;
mod read_only;
mod rebalance;
mod reduce;
mod release;
mod relocate;
mod remove;
mod rename;
mod repair;
mod replay;
mod resync;
mod right_copy;
mod scrub;
mod settings;
mod slot;
mod space;
mod spare;
mod status;
mod stops;
mod taken;
mod to_empty;
mod torn;
mod trim;
mod trusted;
mod twins;
mod undecided;
mod underway;
mod unlabel;
mod verify;
mod version_search;
mod volume;
mod volumes;
mod votes;
mod whose;
mod wipe_disks;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockDevice, Holder, OwnerId};
use seal::{Grant, KeyPair, PublicKey};

pub use asked::{
    CreatePool, EmptyDisks, ExtendPool, ImportOptions, LabelDisks, NamedDisks, VotesOf,
};
pub use block::size::VolumeSize;
pub use limits::Limits;
pub use node_keys::OwnNodes;
pub use settings::PoolSettings;
pub use slot::Engine;
pub use stops::{InvalidStopAt, StopAt, StopPoint, Stops};
pub use wipe_disks::WipeDisks;

use crate::error::PoolError;
use crate::forecast::{
    ConvertForecast, EmptyForecast, LabelForecast, OfflineForecast, OnlineForecast,
    RebalanceForecast, VolumeForecast,
};
use crate::format::JobNumber;
use crate::history::HistoryEntry;
use crate::metadata::Layout;
use crate::report::{PoolEvent, PoolGrant, Progress, VerifyReport, VolumeReport};
use crate::stats::VolumeStats;
use overlay::Overlay;
use volume::device::VolumeDevice;

/// Who an engine works for, and its limits.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The lasting identity of the supervisor.
    pub owner: OwnerId,
    /// Its name, for people.
    pub owner_name: String,
    /// The key that it shows to targets, and by which it signs what it writes of pools that have one; none where it
    /// shows none.
    pub keys: Option<KeyPair>,
    /// The machines that are its own.
    pub own_nodes: OwnNodes,
    /// The pools that the supervisor's own records name as its. No other is opened by itself,
    /// whatever it says about its owner: everybody on the network can read that identity.
    pub pools: Vec<KnownPool>,
    /// By which grants pools were open here last, also those that aren't its any more: whose votes count of them.
    pub grants: Vec<(uuid::Uuid, Grant)>,
    /// Times and sizes.
    pub limits: Limits,
    /// Where it halts: nowhere, but in tests.
    pub stops: Stops,
}

/// What the outside knows about a device. Names mean nothing to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// The name that it is addressed by (`e1.0`).
    pub name: String,
    /// The machine that exports it: the failure domain `node`.
    pub node: uuid::Uuid,
    /// That machine's name.
    pub node_name: String,
    /// Its path on that machine.
    pub device_name: String,
    /// Its drive's serial number; empty where that isn't known.
    pub serial: String,
    /// The key that its machine proved, or, of this machine, has.
    pub node_key: Option<PublicKey>,
}

impl DiskFacts {
    /// Where the device is, for people.
    pub(crate) fn place(&self) -> DiskPlace {
        DiskPlace {
            name: self.name.clone(),
            node_name: self.node_name.clone(),
            device_name: self.device_name.clone(),
            serial: self.serial.clone(),
            node_key: self.node_key,
        }
    }
}

/// A pool of the supervisor's own records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPool {
    /// Its identity.
    pub id: uuid::Uuid,
    /// Its disks as they were last present. Some may have come since.
    pub disks: Vec<KnownDisk>,
}

/// A disk of a known pool, as it was last present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDisk {
    /// Its identity in the pool.
    pub id: uuid::Uuid,
    /// Where it was.
    pub place: DiskPlace,
}

/// Where a disk is or was, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskPlace {
    /// The name that it is addressed by (`e1.0`).
    pub name: String,
    /// Its machine's name.
    pub node_name: String,
    /// Its path on that machine.
    pub device_name: String,
    /// Its drive's serial number; empty where that isn't known.
    pub serial: String,
    /// Its machine's key, as far as that is known.
    pub node_key: Option<PublicKey>,
}

impl Engine {
    /// Makes a volume.
    pub async fn create_volume(
        &self,
        pool: &str,
        volume: &str,
        size: VolumeSize,
        layout: Layout,
    ) -> Result<VolumeReport, PoolError> {
        let open = self.writable_pool(pool)?;
        let made = open.create_volume(volume, size, layout).await?;
        open.report_of(&made).ok_or_else(|| PoolError::no_volume(pool, volume))
    }

    /// What [`Engine::create_volume`] would do, or why it wouldn't.
    pub fn plan_volume(
        &self,
        pool: &str,
        volume: &str,
        size: VolumeSize,
        layout: Layout,
    ) -> Result<VolumeForecast, PoolError> {
        self.writable_pool(pool)?.plan_volume(volume, size, layout)
    }

    /// What [`Engine::extend_volume`] would do, or why it wouldn't.
    pub fn plan_growth(
        &self,
        pool: &str,
        volume: &str,
        size: VolumeSize,
    ) -> Result<VolumeForecast, PoolError> {
        self.writable_pool(pool)?.plan_growth(volume, size)
    }

    /// Grows a volume.
    pub async fn extend_volume(
        &self,
        pool: &str,
        volume: &str,
        size: VolumeSize,
    ) -> Result<VolumeReport, PoolError> {
        let open = self.writable_pool(pool)?;
        let grown = open.extend_volume(volume, size).await?;
        open.report_of(&grown).ok_or_else(|| PoolError::no_volume(pool, volume))
    }

    /// What [`Engine::reduce_volume`] would do, or why it wouldn't.
    pub fn plan_reduction(
        &self,
        pool: &str,
        volume: &str,
        bytes: u64,
    ) -> Result<VolumeForecast, PoolError> {
        self.writable_pool(pool)?.plan_reduction(volume, bytes)
    }

    /// Makes a volume smaller: what lies beyond its new end is lost. Requests there fail from now on.
    pub async fn reduce_volume(
        &self,
        pool: &str,
        volume: &str,
        bytes: u64,
    ) -> Result<VolumeReport, PoolError> {
        let open = self.writable_pool(pool)?;
        let reduced = open.reduce_volume(volume, bytes).await?;
        open.report_of(&reduced).ok_or_else(|| PoolError::no_volume(pool, volume))
    }

    /// Gives a volume another name. Whoever has it open goes on with it.
    pub async fn rename_volume(
        &self,
        pool: &str,
        volume: &str,
        name: &str,
    ) -> Result<VolumeReport, PoolError> {
        let open = self.writable_pool(pool)?;
        let renamed = open.rename_volume(volume, name).await?;
        open.report_of(&renamed).ok_or_else(|| PoolError::no_volume(pool, name))
    }

    /// Removes a volume. Requests under way fail.
    pub async fn remove_volume(&self, pool: &str, volume: &str) -> Result<(), PoolError> {
        self.writable_pool(pool)?.remove_volume(volume).await
    }

    /// A volume as a block device; several front ends may hold one each.
    pub fn open_volume(&self, pool: &str, volume: &str) -> Result<Rc<dyn BlockDevice>, PoolError> {
        let volume = self.open_pool(pool)?.volume_by_name(volume)?;
        Ok(Rc::new(VolumeDevice::new(volume)))
    }

    /// The same for who makes a file system of it: in a pool that was imported read-only it takes writes, which are
    /// its own and gone with it. A mount that only reads replays a journal first.
    pub fn open_to_mount(
        &self,
        pool: &str,
        volume: &str,
    ) -> Result<Rc<dyn BlockDevice>, PoolError> {
        let device = self.open_volume(pool, volume)?;
        Ok(match device.geometry().read_only {
            true => {
                Overlay::over(device, Holder::default(), &self.mounts_room, &self.runtime, None)
            }
            false => device,
        })
    }

    /// What services remember of a volume, as it is now.
    pub fn properties(
        &self,
        pool: &str,
        volume: &str,
    ) -> Result<BTreeMap<String, String>, PoolError> {
        let open = self.open_pool(pool)?;
        let id = open.volume_by_name(volume)?.id;
        let meta = open.pool.meta.borrow();
        let volume = meta.volumes().get(&id).ok_or_else(|| PoolError::no_volume(pool, volume))?;
        Ok(volume.properties.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Where the time of a volume's requests went since its pool was opened here.
    pub fn volume_stats(&self, pool: &str, volume: &str) -> Result<VolumeStats, PoolError> {
        let open = self.open_pool(pool)?;
        let found = open.volume_by_name(volume)?;
        open.stats_of(&found).ok_or_else(|| PoolError::no_volume(pool, volume))
    }

    /// Whether a volume may go on being served: its pool is open here and its lease runs. Costs a look-up
    /// where a report walks all groups, since services ask before each of their answers.
    pub fn keeps(&self, pool: &str, volume: &str) -> bool {
        self.open_pool(pool).is_ok_and(|open| {
            open.pool.lease.holds(open.pool.runtime.now()) && open.volume_by_name(volume).is_ok()
        })
    }

    /// Reads every written block of one copy, or of all, and compares it with its checksum.
    pub async fn verify_volume(
        &self,
        pool: &str,
        volume: &str,
        copy: Option<u8>,
        progress: &dyn Fn(Progress),
    ) -> Result<VerifyReport, PoolError> {
        let open = self.open_pool(pool)?;
        let volume = open.volume_by_name(volume)?;
        let copies = {
            let meta = open.pool.meta.borrow();
            let runs = meta.volumes().get(&volume.id).into_iter().flat_map(|v| v.runs.values());
            runs.map(|run| run.members.len()).max().unwrap_or(0)
        };
        if copy.is_some_and(|copy| usize::from(copy) >= copies) {
            return Err(PoolError::invalid(
                format!("there are {copies} copies, counted from 0"),
                "name one of them",
            ));
        }
        volume.verify(copy, progress).await.map_err(|ended| open.over(ended))
    }

    /// Serves a volume whose log is damaged without the acknowledged records that can't be read; tells
    /// what is lost with them, and with `dry_run` only that. Nothing else than this makes the engine go
    /// on without them.
    pub fn accept_log_loss(
        &self,
        pool: &str,
        volume: &str,
        dry_run: bool,
    ) -> Result<String, PoolError> {
        let loss = self.open_pool(pool)?.volume_by_name(volume)?.accept_log_loss(dry_run);
        loss.ok_or_else(|| {
            PoolError::invalid(
                format!("the log of {pool}/{volume} is not damaged"),
                "see `etherpool volume list`",
            )
        })
    }

    /// Remembers something about a volume in the pool; `None` forgets it.
    pub async fn set_property(
        &self,
        pool: &str,
        volume: &str,
        key: &str,
        value: Option<String>,
    ) -> Result<(), PoolError> {
        self.open_pool(pool)?.set_property(volume, key, value).await
    }

    /// Has disks emptied by jobs, or tells what that would do.
    pub async fn empty_disks(
        &self,
        pool: &str,
        request: &EmptyDisks,
    ) -> Result<EmptyForecast, PoolError> {
        self.writable_pool(pool)?.empty_disks(request).await
    }

    /// Takes disks out of use until they are taken into use again, or tells what that would mean. Refused where
    /// something would be without a right copy, or the votes without a majority.
    pub async fn offline_disks(
        &self,
        pool: &str,
        request: &NamedDisks,
    ) -> Result<OfflineForecast, PoolError> {
        self.writable_pool(pool)?.offline_disks(request).await
    }

    /// Takes disks into use again that were taken out of it, or tells what that would mean.
    pub async fn online_disks(
        &self,
        pool: &str,
        request: &NamedDisks,
    ) -> Result<OnlineForecast, PoolError> {
        self.writable_pool(pool)?.online_disks(request).await
    }

    /// Has groups move so that more space can be given out and disks are evenly full, by a job, or tells what that
    /// would do. Where there is nothing to do no job begins.
    pub async fn rebalance_pool(
        &self,
        pool: &str,
        dry_run: bool,
    ) -> Result<RebalanceForecast, PoolError> {
        self.writable_pool(pool)?.rebalance(dry_run).await
    }

    /// Gives a volume another layout while it is in use, by a job, or tells what that would do.
    pub async fn convert_volume(
        &self,
        pool: &str,
        volume: &str,
        layout: Layout,
        dry_run: bool,
    ) -> Result<ConvertForecast, PoolError> {
        self.writable_pool(pool)?.convert_volume(volume, layout, dry_run).await
    }

    /// Ends a job before it is done: what it moved stays where it is; a volume whose layout it changes gets its
    /// former one back.
    pub async fn cancel_job(&self, pool: &str, number: u32) -> Result<(), PoolError> {
        self.writable_pool(pool)?.cancel_job(JobNumber(number)).await
    }

    /// Gives disks of a pool labels, by which failure domains are joined, or tells what that would mean.
    pub async fn label_disks(
        &self,
        pool: &str,
        request: &LabelDisks,
    ) -> Result<LabelForecast, PoolError> {
        self.writable_pool(pool)?.label_disks(request).await
    }

    /// Sets what is named of a pool.
    pub async fn set_pool(&self, pool: &str, settings: &PoolSettings) -> Result<(), PoolError> {
        self.writable_pool(pool)?.change_settings(settings).await
    }

    /// Gives a pool another grant: from then on its disks obey the supervisors that it names, and no others.
    pub async fn set_grant(&self, pool: &str, grant: Grant) -> Result<PoolGrant, PoolError> {
        self.writable_pool(pool)?.set_grant(Rc::new(grant)).await
    }

    /// Whom a pool's disks obey; none where it is whoever claims them.
    pub fn grant(&self, pool: &str) -> Result<Option<PoolGrant>, PoolError> {
        Ok(self.open_pool(pool)?.grant())
    }

    /// Begins to read and compare everything, unless that is under way, with new settings if there are any; tells
    /// the job's number.
    pub async fn scrub_pool(&self, pool: &str, settings: &PoolSettings) -> Result<u32, PoolError> {
        let begun = self.writable_pool(pool)?.begin_scrub(settings).await;
        begun.map(|number| number.0)
    }

    /// What happened to a pool and what people had done to it, the oldest first.
    pub fn history(&self, pool: &str) -> Result<Vec<HistoryEntry>, PoolError> {
        self.open_pool(pool).map(|open| open.history())
    }

    /// Tells whoever listens what somebody had done to a pool, and has it kept.
    pub fn tell_command(&self, pool: String, who: String, what: String, result: String) {
        self.events.tell(PoolEvent::Command { pool, who, what, result });
    }

    /// The next event.
    pub async fn next_event(&self) -> PoolEvent {
        self.events.next().await
    }

    /// How many events were lost since the last question because nobody fetched them: all of them
    /// before what [`Engine::next_event`] gives next.
    pub fn take_lost_events(&self) -> u64 {
        self.events.take_lost()
    }
}
