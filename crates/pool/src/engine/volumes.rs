//! Making, growing and removing volumes, and what services remember of them.

use std::rc::Rc;

use block::BLOCK_BYTES;
use futures::channel::oneshot;

use super::VolumeSize;
use super::commit::CommitError;
use super::create::check_name;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::pool::{GROUP_LOCK_SHARES, Pool};
use super::space::{Room, no_space, told_apart};
use super::volume::{Serving, Volume};
use crate::allocate::{NoSpace, Usable, plan_groups, stripe_width, usable_bytes};
use crate::error::PoolError;
use crate::forecast::VolumeForecast;
use crate::format::{GenerationId, VolumeId};
use crate::metadata::{COPIES_MAX, Layout, MetaRecord, Metadata};

impl OpenPool {
    /// Makes a volume and opens it.
    pub(crate) async fn create_volume(
        self: &Rc<Self>,
        name: &str,
        size: VolumeSize,
        layout: Layout,
    ) -> Result<Rc<Volume>, PoolError> {
        check_new(name, layout)?;
        let (this, name, room) = (Rc::clone(self), name.to_string(), self.pool.room());
        let made = self.in_time(async move {
            let plan = |meta: &_| plan_volume(meta, &room, &this.pool.name, name, size, layout);
            let id = this.administer_now(plan).await?;
            this.open_volume(id);
            this.volume(id).ok_or_else(|| PoolError::no_volume(&this.pool.name, "new"))
        });
        let volume = made.await?;
        // It exists now, whether it serves at once or later.
        let serving = volume.wait_serving();
        let _ = runtime::timeout(&self.pool.runtime, self.pool.limits.administer, serving).await;
        Ok(volume)
    }

    /// What making a volume would do.
    pub(crate) fn plan_volume(
        &self,
        name: &str,
        size: VolumeSize,
        layout: Layout,
    ) -> Result<VolumeForecast, PoolError> {
        check_new(name, layout)?;
        let (meta, room) = (self.pool.meta.borrow(), self.pool.room());
        let (records, id) =
            plan_volume(&meta, &room, &self.pool.name, name.to_owned(), size, layout)?;
        forecast(&meta, &room.usable, &records, id)
    }

    /// What growing a volume would do.
    pub(crate) fn plan_growth(
        &self,
        name: &str,
        size: VolumeSize,
    ) -> Result<VolumeForecast, PoolError> {
        let id = self.volume_by_name(name)?.id;
        let (meta, room) = (self.pool.meta.borrow(), self.pool.room());
        let (records, _) = plan_growth(&meta, &room, id, size)?;
        forecast(&meta, &room.usable, &records, id)
    }

    /// Grows a volume, while it is in use.
    pub(crate) async fn extend_volume(
        self: &Rc<Self>,
        name: &str,
        size: VolumeSize,
    ) -> Result<Rc<Volume>, PoolError> {
        let volume = self.volume_by_name(name)?;
        let (this, id, room) = (Rc::clone(self), volume.id, self.pool.room());
        self.in_time(async move {
            let sizing = this.pool.unless_over(volume.sizing.acquire(1)).await;
            let _sizing = sizing.map_err(|ended| this.over(ended))?;
            let (_, wanted) = plan_growth(&this.pool.meta.borrow(), &room, id, size)?;
            this.zero_slack(&volume, wanted).await?;
            // No more than was zeroed: the share of the free space may be larger by now.
            let size = VolumeSize::Bytes(wanted);
            let bytes = this.administer_now(|meta| plan_growth(meta, &room, id, size)).await?;
            volume.size_bytes.set(bytes);
            volume.changed.notify_all();
            Ok(volume)
        })
        .await
    }

    /// Gives a volume another name; everything else of it stays, and who has it open goes on.
    pub(crate) async fn rename_volume(
        self: &Rc<Self>,
        name: &str,
        new: &str,
    ) -> Result<Rc<Volume>, PoolError> {
        check_name("volume", new)?;
        let id = self.volume_by_name(name)?.id;
        let (this, new) = (Rc::clone(self), new.to_owned());
        self.in_time(async move {
            let plan = |meta: &_| plan_renaming(meta, &this.pool.name, id, &new);
            this.administer_now(plan).await?;
            // It may have been opened anew meanwhile, by a removal that didn't come to its end.
            let volume =
                this.volume(id).ok_or_else(|| PoolError::no_volume(&this.pool.name, &new))?;
            volume.rename(new);
            Ok(volume)
        })
        .await
    }

    /// Removes a volume and gives its space back.
    pub(crate) async fn remove_volume(self: &Rc<Self>, name: &str) -> Result<(), PoolError> {
        let (this, id) = (Rc::clone(self), self.volume_by_name(name)?.id);
        self.in_time(async move { this.remove_now(id).await }).await
    }

    async fn remove_now(self: &Rc<Self>, id: VolumeId) -> Result<(), PoolError> {
        let over = |ended| self.over(ended);
        // One at a time: what waits to be freed is then this one's.
        let _removing = self.pool.unless_over(self.removing.acquire(1)).await.map_err(over)?;
        // Somebody else may have removed it meanwhile.
        let Some(volume) = self.volume(id) else { return Ok(()) };
        volume.set_serving(Serving::Gone);
        volume.stop();
        // What is under way on its extents ends before they get another owner.
        let (destaging, writing) = (volume.destaging.acquire(1), volume.log.writing.acquire(1));
        let both = futures::future::join(destaging, writing);
        let _quiet = self.pool.unless_over(both).await.map_err(over)?;
        let generations: Vec<GenerationId> = {
            let meta = self.pool.meta.borrow();
            let groups = meta.volumes().get(&id).into_iter().flat_map(|volume| volume.groups());
            groups.map(|group| group.generation()).collect()
        };
        let removed = self.administer_now(|_| Ok((vec![MetaRecord::VolumeRemoved { id }], ())));
        if let Err(error) = removed.await {
            // Its log has all that was acknowledged, and nothing comes to its places behind its back.
            self.quiet_groups(&generations).await?;
            self.open_volume(id);
            return Err(error);
        }
        self.volumes.borrow_mut().remove(&id);
        self.quiet_groups(&generations).await?;
        self.pool.free_pending().await.map_err(over)
    }

    /// Waits until nobody works on these groups. On no others: whoever does may wait for disks.
    pub(super) async fn quiet_groups(&self, generations: &[GenerationId]) -> Result<(), PoolError> {
        for lock in self.pool.held_group_locks(generations) {
            let alone = self.pool.unless_over(lock.acquire(GROUP_LOCK_SHARES)).await;
            drop(alone.map_err(|ended| self.over(ended))?);
        }
        Ok(())
    }

    /// Remembers something about a volume, or forgets it.
    pub(crate) async fn set_property(
        self: &Rc<Self>,
        name: &str,
        key: &str,
        value: Option<String>,
    ) -> Result<(), PoolError> {
        let id = self.volume_by_name(name)?.id;
        let record = MetaRecord::PropertySet { id, key: key.to_string(), value };
        self.administer(move |_| Ok((vec![record], ()))).await
    }

    /// Commits what an administrator asked for: `plan` makes the records of the metadata as it is.
    pub(crate) async fn administer<T: 'static>(
        self: &Rc<Self>,
        plan: impl FnOnce(&Metadata) -> Result<(Vec<MetaRecord>, T), PoolError> + 'static,
    ) -> Result<T, PoolError> {
        let this = Rc::clone(self);
        self.in_time(async move { this.administer_now(plan).await }).await
    }

    /// Waits for what an administrator asked for, not for ever; it goes on all the same.
    pub(super) async fn in_time<T: 'static>(
        self: &Rc<Self>,
        work: impl Future<Output = Result<T, PoolError>> + 'static,
    ) -> Result<T, PoolError> {
        let (done, receiver) = oneshot::channel();
        // A task of its own: a caller that gives up mustn't leave a transaction half written.
        self.pool.runtime.spawn(async move {
            let _ = done.send(work.await);
        });
        let limit = self.pool.limits.administer;
        match self.pool.unless_over(runtime::timeout(&self.pool.runtime, limit, receiver)).await {
            Ok(Ok(Ok(result))) => result,
            Ok(Ok(Err(_))) => Err(self.over(Ended::Closed)),
            Ok(Err(_)) => Err(PoolError::Suspended {
                name: self.pool.name.clone(),
                reason: "the majority of its votes or its metadata copies do not answer; it is \
                         not known whether the change was made"
                    .into(),
            }),
            Err(ended) => Err(self.over(ended)),
        }
    }

    pub(super) async fn administer_now<T>(
        self: &Rc<Self>,
        plan: impl FnOnce(&Metadata) -> Result<(Vec<MetaRecord>, T), PoolError>,
    ) -> Result<T, PoolError> {
        let _lock = self.pool.meta_lock.acquire(1).await;
        let (records, value) = plan(&self.pool.meta.borrow())?;
        if !records.is_empty() {
            let committed = self.pool.try_commit_locked(&records).await;
            committed.map_err(|error| self.explain(error))?;
        }
        Ok(value)
    }

    fn explain(&self, error: CommitError) -> PoolError {
        match error {
            CommitError::Ended(ended) => self.over(ended),
            CommitError::Inconsistent(fault) => {
                PoolError::invalid(fault.to_string(), "nothing was changed")
            }
            CommitError::TooLarge => PoolError::invalid(
                "the pool's metadata would exceed its area",
                "fewer volumes or disks fit; make a new pool for more",
            ),
        }
    }
}

impl Pool {
    /// Frees extents that lost their owner. Nothing is under way on them any more.
    pub(crate) async fn free_pending(self: &Rc<Self>) -> Result<(), super::lease::Ended> {
        let _lock = self.meta_lock.acquire(1).await;
        let records: Vec<MetaRecord> = {
            let meta = self.meta.borrow();
            let disks = meta.disks().values();
            let pending = disks.flat_map(|disk| {
                let number = disk.number;
                disk.pending.ranges().map(move |extents| (number, extents))
            });
            pending.map(|(disk, extents)| MetaRecord::PendingFreed { disk, extents }).collect()
        };
        if records.is_empty() { Ok(()) } else { self.commit_locked(&records).await }
    }
}

/// Whether there may be a new volume with this name and layout.
fn check_new(name: &str, layout: Layout) -> Result<(), PoolError> {
    check_name("volume", name)?;
    check_layout(layout)
}

/// Whether a volume may have a layout.
pub(super) fn check_layout(layout: Layout) -> Result<(), PoolError> {
    if layout == Layout::Mirror(1) || layout.copies() == 0 || layout.copies() > COPIES_MAX {
        return Err(PoolError::invalid(
            format!("a mirror of {} copies does not exist", layout.copies()),
            format!("use raid0 or mirror:2 to mirror:{COPIES_MAX}"),
        ));
    }
    Ok(())
}

fn plan_renaming(
    meta: &Metadata,
    pool: &str,
    id: VolumeId,
    name: &str,
) -> Result<(Vec<MetaRecord>, ()), PoolError> {
    if !meta.volumes().contains_key(&id) {
        return Err(PoolError::invalid("the volume was removed", "see `etherpool volume list`"));
    }
    match meta.volume_by_name(name) {
        Some(same) if same.id == id => Ok((Vec::new(), ())),
        Some(_) => {
            let name = format!("{pool}/{name}");
            Err(PoolError::Exists { what: "volume".into(), name })
        }
        None => Ok((vec![MetaRecord::VolumeRenamed { id, name: name.to_owned() }], ())),
    }
}

pub(super) fn forecast(
    meta: &Metadata,
    usable: &Usable,
    records: &[MetaRecord],
    id: VolumeId,
) -> Result<VolumeForecast, PoolError> {
    let after = meta.with(records);
    let after = after.map_err(|fault| PoolError::invalid(fault.to_string(), "report this"))?;
    let volume = after.volumes().get(&id);
    Ok(VolumeForecast {
        size_bytes: volume.map_or(0, |volume| volume.bytes),
        left_bytes: volume.map_or(0, |v| usable_bytes(&after, usable, v.wanted_layout(), None)),
    })
}

pub(super) fn round_up(bytes: u64) -> Result<u64, PoolError> {
    bytes
        .checked_next_multiple_of(BLOCK_BYTES as u64)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| PoolError::invalid(format!("a size of {bytes} bytes"), "give a size"))
}

fn percent_of(percent: u8, free: u64) -> Result<u64, PoolError> {
    if percent == 0 || percent > 100 {
        return Err(PoolError::invalid(format!("{percent}% of the free space"), "use 1 to 100"));
    }
    let bytes = (u128::from(free) * u128::from(percent) / 100) as u64;
    Ok(bytes - bytes % BLOCK_BYTES as u64)
}

fn plan_volume(
    meta: &Metadata,
    room: &Room,
    pool: &str,
    name: String,
    size: VolumeSize,
    layout: Layout,
) -> Result<(Vec<MetaRecord>, VolumeId), PoolError> {
    let usable = &room.usable;
    if meta.volume_by_name(&name).is_some() {
        let name = format!("{pool}/{name}");
        return Err(PoolError::Exists { what: "volume".into(), name });
    }
    let free = usable_bytes(meta, usable, layout, None);
    let bytes = match size {
        VolumeSize::Bytes(bytes) => round_up(bytes)?,
        VolumeSize::PercentFree(percent) => percent_of(percent, free)?,
    };
    if bytes == 0 || bytes > free {
        return Err(no_space(meta, room, layout, bytes, free));
    }
    let id = meta.counters().volume;
    let width = stripe_width(meta, usable, layout);
    let mut records = vec![MetaRecord::VolumeCreated { id, name, layout, width }];
    let with_volume = meta.with(&records);
    let with_volume = with_volume.map_err(|e| PoolError::invalid(e.to_string(), "report this"))?;
    let runs = plan_groups(&with_volume, usable, id, bytes);
    let runs = runs.map_err(|NoSpace { available_bytes }| {
        no_space(meta, room, layout, bytes, available_bytes)
    })?;
    records.extend(runs.into_iter().map(|run| MetaRecord::RunAdded { volume: id, run }));
    records.push(MetaRecord::VolumeResized { id, bytes });
    Ok((records, id))
}

fn plan_growth(
    meta: &Metadata,
    room: &Room,
    id: VolumeId,
    size: VolumeSize,
) -> Result<(Vec<MetaRecord>, u64), PoolError> {
    let usable = &room.usable;
    let gone = || PoolError::invalid("the volume was removed", "see `etherpool volume list`");
    let volume = meta.volumes().get(&id).ok_or_else(gone)?;
    let layout = volume.wanted_layout();
    let free = usable_bytes(meta, usable, layout, Some(id));
    let bytes = match size {
        VolumeSize::Bytes(bytes) => round_up(bytes)?,
        VolumeSize::PercentFree(percent) => {
            // What the last set of groups has beyond the volume's end is free as well.
            let stripes = volume.stripes(meta.shape()).ok_or_else(gone)?;
            let covered = volume.whole_sets() * stripes.set_blocks() * BLOCK_BYTES as u64;
            let slack = covered.saturating_sub(volume.bytes);
            volume.bytes + percent_of(percent, free + slack)?
        }
    };
    if bytes < volume.bytes {
        let [has, wanted] = told_apart([volume.bytes, bytes]);
        return Err(PoolError::invalid(
            format!("volume {} has {has} already, {wanted} is less", volume.name),
            "`etherpool volume reduce` makes a volume smaller",
        ));
    }
    let runs = plan_groups(meta, usable, id, bytes);
    let runs = runs.map_err(|NoSpace { available_bytes }| {
        no_space(meta, room, layout, bytes - volume.bytes, available_bytes)
    })?;
    let mut records: Vec<MetaRecord> =
        runs.into_iter().map(|run| MetaRecord::RunAdded { volume: id, run }).collect();
    if bytes != volume.bytes {
        records.push(MetaRecord::VolumeResized { id, bytes });
    }
    Ok((records, bytes))
}
