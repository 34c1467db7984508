//! Taking a disk out of the pool for good, once nothing of the pool is on it.

use std::rc::Rc;

use super::grants;
use super::job_steps::has_log_copy;
use super::jobs::has_groups;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::unlabel::Unlabelled;
use crate::format::{DiskNumber, JobNumber};
use crate::metadata::{JobKind, MetaRecord};

impl OpenPool {
    /// Removes a disk as a job asks for, with all jobs that name it; false while it is needed, or if nobody asks
    /// any more.
    pub(super) async fn remove_disk(
        self: &Rc<Self>,
        number: JobNumber,
        disk: DiskNumber,
    ) -> Result<bool, Ended> {
        let pool = &self.pool;
        // Whoever releases names the disks that he wrote to.
        let reach = pool.unless_over(pool.release_lock.acquire(1)).await?;
        let lock = pool.unless_over(pool.meta_lock.acquire(1)).await?;
        let Some(member) = pool.member(disk) else { return Ok(false) };
        let records = {
            let meta = pool.meta.borrow();
            let asks = meta
                .jobs()
                .get(&number)
                .is_some_and(|job| job.kind == JobKind::Remove && job.empties() == Some(disk));
            let is_needed = has_groups(&meta, disk) || has_log_copy(&meta, disk);
            // Who writes an area for it writes to the disk's extents.
            if !asks || is_needed || pool.is_voter(member.id) || member.moving_area.get() {
                return Ok(false);
            }
            let named = meta.jobs().iter().filter(|(_, job)| job.disks.contains(&disk));
            let jobs = named.map(|(number, _)| MetaRecord::JobRemoved { number: *number });
            jobs.chain(meta.without_properties_of(disk))
                .chain([MetaRecord::DiskRemoved { number: disk }])
                .collect::<Vec<_>>()
        };
        pool.commit_locked(&records).await?;
        pool.members.borrow_mut().remove(&disk);
        pool.change_configuration(|config| {
            let before = config.out.len();
            config.out.retain(|out| out.disk != disk);
            config.out.len() != before
        })
        .await?;
        drop((lock, reach));
        self.tell_job(JobKind::Remove, &member.display_name(), false);
        let (device, is_claimed) = (member.device(), member.claimed.get());
        member.detach();
        if let Some(device) = device {
            let _labelling = pool.unless_over(member.labelling.acquire(1)).await?;
            // Whoever still tells it what is committed would do so behind the wipe.
            let _recording = pool.unless_over(member.recording_applied.acquire(1)).await?;
            // Another disk may be behind it by now.
            let is_it = is_claimed && pool.check_label(&member, &*device).await.is_ok();
            let wiped = match is_it {
                true => {
                    let unlabelled = Unlabelled {
                        device: &*device,
                        instance: member.checked_instance.get(),
                        labelled_bytes: member.geometry.labelled_bytes(),
                        newest_vote: pool.votes.newest_slot(member.id),
                    };
                    let wiped = async {
                        unlabelled.wipe(&pool.stops).await?;
                        grants::forget(&*device, pool.claim()).await;
                        Ok(())
                    };
                    let wiped = pool.within(pool.limits.background, wiped).await;
                    wiped.map_err(|error: block::IoError| error.to_string())
                }
                false => Err("it doesn't show its label".to_owned()),
            };
            if let Err(why) = wiped {
                // Its label names a pool that doesn't know it: whoever adds it to that one may.
                tracing::warn!(pool = %pool.name, disk = %member.display_name(), why, "not wiped");
            }
            device.disown();
        }
        pool.changed.notify_all();
        Ok(true)
    }
}
