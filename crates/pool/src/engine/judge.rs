//! Judging disks that came back with older contents: each that misses nothing that others have is as good as they
//! are once what counts of all checksums is there. Until then its newer contents may come back, and are waited for.

use std::rc::Rc;
use std::time::Duration;

use futures::future::select;

use super::member::Member;
use super::open_pool::OpenPool;
use super::pool::Pool;
use crate::format::{DiskNumber, GenerationId, VolumeId};

/// How long a disk that isn't as good as the others is left alone.
const JUDGED_AGAIN: Duration = Duration::from_secs(5);

impl Pool {
    fn misses_something(&self, disk: DiskNumber) -> bool {
        self.meta.borrow().dirty_regions().keys().any(|(_, of)| *of == disk)
    }

    fn is_to_be_judged(&self, member: &Member) -> bool {
        member.rolled_back.get()
            && member.is_usable()
            && member.judge_at.get() <= self.runtime.now()
            && !self.misses_something(member.number)
    }
}

impl OpenPool {
    /// Judges whatever is to be judged, beside all that is copied: it may take long, and end with nothing.
    pub(crate) async fn run_judging(self: Rc<Self>) {
        loop {
            let changed = self.pool.changed.notified();
            if self.pool.unless_over(self.judge_rolled_back()).await.is_err() {
                return;
            }
            let again = self.pool.runtime.sleep(JUDGED_AGAIN);
            if self.pool.unless_over(select(std::pin::pin!(changed), again)).await.is_err() {
                return;
            }
            // Much changes while something is copied.
            let rest = self.pool.runtime.sleep(self.pool.limits.retry);
            if self.pool.unless_over(rest).await.is_err() {
                return;
            }
        }
    }

    async fn judge_rolled_back(&self) {
        for member in self.pool.members() {
            let appearance = member.appearance.get();
            if !self.pool.is_to_be_judged(&member) {
                continue;
            }
            let is_good = self.has_what_counts(member.number).await;
            member.judge_at.set(self.pool.runtime.now() + JUDGED_AGAIN);
            if is_good && member.appearance.get() == appearance {
                member.rolled_back.set(false);
                self.pool.changed.notify_all();
            }
        }
    }

    async fn has_what_counts(&self, disk: DiskNumber) -> bool {
        let groups: Vec<(VolumeId, GenerationId)> = {
            let meta = self.pool.meta.borrow();
            let groups = meta.volumes().values().flat_map(|volume| volume.groups());
            let here = groups.filter(|group| group.is_initialised() && group.is_on(disk));
            here.map(|group| (group.volume, group.generation())).collect()
        };
        for (volume, generation) in groups {
            let volume = self.volume(volume);
            let (Some(volume), Some(place)) = (volume, self.pool.group_by_generation(generation))
            else {
                continue;
            };
            let blocks = self.pool.shape().checksum_blocks();
            for index in 0..blocks {
                if volume.checksum_block(&place, index..blocks).await.is_err() {
                    return false;
                }
            }
        }
        true
    }
}
