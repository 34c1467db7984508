//! Making a volume smaller (docs/engine.md, 14). One commit gives up the size and the groups beyond it, so
//! there is nothing in between: before it the volume is what it was, after it the rest is nobody's. Requests on
//! the part that goes are done before, no destage is under way, and its extents get another owner only once
//! nobody works on its groups. What the log says of them is void, because they aren't in the map.
//!
//! **What lies beyond a volume's end reads as zeros when it grows again.** New groups are; of the last set, which
//! the end may lie within, the rest is zeroed by the growth.

use std::rc::Rc;

use block::{BLOCK_BYTES, Instant, IoError, Lba, SECTOR_BYTES, SectorRange};

use super::open_pool::OpenPool;
use super::space::told_apart;
use super::volume::device::VolumeDevice;
use super::volume::{Serving, Volume};
use super::volumes::{forecast, round_up};
use crate::error::PoolError;
use crate::forecast::VolumeForecast;
use crate::format::{GenerationId, VolumeId};
use crate::metadata::{MetaRecord, Metadata};

/// What becomes of a volume.
struct Reduction {
    bytes: u64,
    records: Vec<MetaRecord>,
    /// The groups that go.
    groups: Vec<GenerationId>,
    /// Beyond this block there are no groups any more.
    end_block: u64,
}

impl OpenPool {
    /// What making a volume smaller would do.
    pub(crate) fn plan_reduction(
        &self,
        name: &str,
        bytes: u64,
    ) -> Result<VolumeForecast, PoolError> {
        let volume = self.volume_by_name(name)?;
        self.check_serving(&volume)?;
        let (meta, room) = (self.pool.meta.borrow(), self.pool.room());
        let reduction = plan(&meta, volume.id, bytes)?;
        forecast(&meta, &room.usable, &reduction.records, volume.id)
    }

    /// Makes a volume smaller, while the part that stays is in use. What lies beyond is lost.
    pub(crate) async fn reduce_volume(
        self: &Rc<Self>,
        name: &str,
        bytes: u64,
    ) -> Result<Rc<Volume>, PoolError> {
        let (this, volume) = (Rc::clone(self), self.volume_by_name(name)?);
        self.in_time(async move { this.reduce_now(&volume, bytes).await.map(|()| volume) }).await
    }

    async fn reduce_now(self: &Rc<Self>, volume: &Rc<Volume>, bytes: u64) -> Result<(), PoolError> {
        let until = self.pool.runtime.now() + self.pool.limits.administer / 2;
        let _sizing = self.by(until, volume, volume.sizing.acquire(1)).await?;
        // What waits to be freed is this one's.
        let _removing = self.by(until, volume, self.removing.acquire(1)).await?;
        self.wait_until_served(volume, until).await?;
        let bytes = plan(&self.pool.meta.borrow(), volume.id, bytes)?.bytes;
        // From now on nothing more is asked of what goes.
        let former = volume.size_bytes.replace(bytes);
        let reduced = self.reduce_quietly(volume, (former, bytes), until).await;
        let meta = self.pool.meta.borrow().volumes().get(&volume.id).map(|now| now.bytes);
        volume.size_bytes.set(meta.unwrap_or(bytes));
        volume.changed.notify_all();
        let groups = reduced?;
        // Whoever works on one of them ends before its extents get another owner.
        self.quiet_groups(&groups).await?;
        self.pool.free_pending().await.map_err(|ended| self.over(ended))
    }

    /// Commits it once nothing is under way there; tells which groups went.
    async fn reduce_quietly(
        self: &Rc<Self>,
        volume: &Rc<Volume>,
        (former, bytes): (u64, u64),
        until: Instant,
    ) -> Result<Vec<GenerationId>, PoolError> {
        let place = volume.line.enter(block::Access::Write(sectors(bytes, former)));
        let quiet = async {
            place.turn().await;
            volume.destaging.acquire(1).await
        };
        let _no_destage = self.by(until, volume, quiet).await?;
        let planned = self.administer_now(|meta| {
            if self.pool.runtime.now() > until {
                return Err(self.given_up(volume));
            }
            let mut reduction = plan(meta, volume.id, bytes)?;
            Ok((std::mem::take(&mut reduction.records), reduction))
        });
        let reduction = planned.await?;
        volume.forget_beyond(reduction.end_block);
        Ok(reduction.groups)
    }

    /// Zeroes what a volume's last set of groups has beyond the end, as far as the volume is to grow: it may be
    /// left from when it was larger.
    pub(super) async fn zero_slack(
        &self,
        volume: &Rc<Volume>,
        bytes: u64,
    ) -> Result<(), PoolError> {
        let (from, to) = {
            let meta = self.pool.meta.borrow();
            let Some(known) = meta.volumes().get(&volume.id) else { return Ok(()) };
            let covered = known.whole_sets() * volume.stripes.set_blocks() * BLOCK_BYTES as u64;
            (known.bytes, covered.min(bytes))
        };
        if to <= from {
            return Ok(());
        }
        let until = self.pool.runtime.now() + self.pool.limits.administer / 2;
        self.wait_until_served(volume, until).await?;
        let zeroed = VolumeDevice::new(Rc::clone(volume)).zero_unseen(sectors(from, to));
        zeroed.await.map_err(|error: IoError| {
            self.suspended(volume, format!("what lies behind its end can't be zeroed: {error}"))
        })
    }

    /// Waits for what a change of a volume's size needs, and gives the change up when that takes too long: it may
    /// wait for disks that never come back, and whoever asked has looked at what is on the volume. Later there may
    /// be something else.
    async fn by<T>(
        &self,
        until: Instant,
        volume: &Volume,
        work: impl Future<Output = T>,
    ) -> Result<T, PoolError> {
        let left = until.since(self.pool.runtime.now());
        let done = runtime::timeout(&self.pool.runtime, left, work);
        let done = self.pool.unless_over(done).await.map_err(|ended| self.over(ended))?;
        done.map_err(|_| self.given_up(volume))
    }

    fn given_up(&self, volume: &Volume) -> PoolError {
        let reason = "what is under way on its end, or in its log, waits for disks; nothing was changed: see \
                      `etherpool pool show` for the disks to bring back";
        self.suspended(volume, reason.to_owned())
    }

    /// Waits for a volume that is being opened.
    async fn wait_until_served(&self, volume: &Volume, until: Instant) -> Result<(), PoolError> {
        match self.by(until, volume, volume.until_serving()).await {
            Ok(Err(ended)) => Err(self.over(ended)),
            Ok(Ok(_)) | Err(_) => self.check_serving(volume),
        }
    }

    fn check_serving(&self, volume: &Volume) -> Result<(), PoolError> {
        match volume.serving() {
            Serving::Yes => Ok(()),
            Serving::Suspended(reason) => Err(self.suspended(volume, reason)),
            Serving::Opening => Err(self.suspended(volume, "its log is being replayed".into())),
            Serving::Gone => Err(PoolError::no_volume(&self.pool.name, &volume.name())),
        }
    }

    fn suspended(&self, volume: &Volume, reason: String) -> PoolError {
        let name = format!("{}/{}", self.pool.name, volume.name());
        PoolError::Suspended { name, reason }
    }
}

impl Volume {
    /// There are no groups from this block on any more: what records say of it is void.
    fn forget_beyond(&self, end_block: u64) {
        self.pending.borrow_mut().forget_from(end_block);
        let is_there = |group: &GenerationId| self.pool.group_by_generation(*group).is_some();
        self.log.stuck.borrow_mut().retain(|group, _| is_there(group));
    }
}

fn plan(meta: &Metadata, id: VolumeId, bytes: u64) -> Result<Reduction, PoolError> {
    let gone = || PoolError::invalid("the volume was removed", "see `etherpool volume list`");
    let volume = meta.volumes().get(&id).ok_or_else(gone)?;
    let stripes = volume.stripes(meta.shape()).ok_or_else(gone)?;
    let bytes = round_up(bytes)?;
    if bytes > volume.bytes {
        let [has, wanted] = told_apart([volume.bytes, bytes]);
        return Err(PoolError::invalid(
            format!("volume {} has {has}, {wanted} is more", volume.name),
            "`etherpool volume extend` makes a volume larger",
        ));
    }
    let sets = stripes.sets_for(bytes / BLOCK_BYTES as u64);
    let groups = volume.groups().filter(|group| group.set() >= sets);
    let groups = groups.map(|group| group.generation()).collect();
    let records = match bytes == volume.bytes {
        true => Vec::new(),
        false => vec![MetaRecord::VolumeReduced { id, bytes }],
    };
    Ok(Reduction { bytes, records, groups, end_block: sets * stripes.set_blocks() })
}

/// Whole blocks from one offset to another.
fn sectors(from_bytes: u64, to_bytes: u64) -> SectorRange {
    let [from, to] = [from_bytes, to_bytes].map(|bytes| bytes / SECTOR_BYTES as u64);
    SectorRange::new(Lba(from), to.saturating_sub(from))
}
