//! Volatile writes to one disk that become durable together: written, confirmed, and flushed under
//! the instance that took them. When the disk began anew in between, all of it is done again.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockDevice, Buffer, Durability, Instance, IoError, Lba};
use futures::StreamExt;
use futures::future::join_all;

use super::io::{RESTARTS_MAX, write_run};
use super::member::Member;
use super::pool::Pool;
use crate::format::{BirthId, Confirm, DiskGeometry, DiskNumber, ReleaseNumber};

/// Writes to one disk that are under way at once.
const WRITES: usize = 16;

/// The regions of a member that a write touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Touched {
    pub(crate) group: BirthId,
    pub(crate) member: u8,
    pub(crate) mask: u64,
}

/// Writes to one disk.
pub(crate) struct DiskWork {
    member: Rc<Member>,
    device: Rc<dyn BlockDevice>,
    writes: Vec<(Lba, Buffer, Touched)>,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct WorkResult {
    /// The disk as a whole failed: nothing on it counts.
    pub(crate) failed: Option<IoError>,
    /// Sectors that it can't take: these regions are missed.
    pub(crate) missed: Vec<Touched>,
}

impl DiskWork {
    pub(crate) fn new(member: Rc<Member>, device: Rc<dyn BlockDevice>) -> DiskWork {
        DiskWork { member, device, writes: Vec::new() }
    }

    /// Adds a write.
    pub(crate) fn write(&mut self, start: Lba, data: Buffer, touched: Touched) {
        self.writes.push((start, data, touched));
    }
}

impl Pool {
    /// Does the work of several disks at once; with a release number, each confirms it.
    pub(crate) async fn run_works(
        &self,
        works: BTreeMap<DiskNumber, DiskWork>,
        release: Option<ReleaseNumber>,
    ) -> BTreeMap<DiskNumber, WorkResult> {
        let runs = works
            .into_iter()
            .map(|(disk, work)| async move { (disk, self.run_work(&work, release).await) });
        join_all(runs).await.into_iter().collect()
    }

    async fn run_work(&self, work: &DiskWork, release: Option<ReleaseNumber>) -> WorkResult {
        let _confirming = work.member.confirming.acquire(1).await;
        for _ in 0..RESTARTS_MAX {
            match self.try_work(work, release).await {
                Err(IoError::Restarted { .. }) => {}
                Err(error) => return WorkResult { failed: Some(error), missed: Vec::new() },
                Ok(missed) => return WorkResult { failed: None, missed },
            }
        }
        WorkResult { failed: Some(IoError::Lost), missed: Vec::new() }
    }

    async fn try_work(
        &self,
        work: &DiskWork,
        release: Option<ReleaseNumber>,
    ) -> Result<Vec<Touched>, IoError> {
        let limit = self.limits.background;
        let mut taken_by: Option<Instance> = None;
        let mut missed = Vec::new();
        let confirm = release.map(|release| self.confirm_write(work, release));
        let writes =
            work.writes.iter().map(|(start, data, touched)| (*start, data.clone(), Some(*touched)));
        let writes = writes.chain(confirm.map(|(start, data)| (start, data, None)));
        let writes = writes.map(|(start, data, touched)| async move {
            let write = write_run(&*work.device, start, data, Durability::Volatile);
            (touched, self.within(limit, write).await)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES);
        while let Some((touched, answer)) = writes.next().await {
            match (answer, touched) {
                (Ok(answer), _) => {
                    let now = answer.instance;
                    if taken_by.is_some_and(|instance| instance != now) {
                        return Err(IoError::Restarted { now });
                    }
                    taken_by = Some(now);
                }
                (
                    Err(IoError::Medium(_) | IoError::NoSpace(_) | IoError::OutOfRange(_)),
                    Some(touched),
                ) => missed.push(touched),
                (Err(error), _) => return Err(error),
            }
        }
        if let Some(instance) = taken_by {
            work.member.seen_instance.set(Some(instance));
            self.within(limit, work.device.flush(instance)).await?;
        }
        if release.is_some() {
            // Only now: a confirm block that may be torn is written again in the same slot.
            work.member.confirm_sequence.set(work.member.confirm_sequence.get() + 1);
        }
        Ok(missed)
    }

    fn confirm_write(&self, work: &DiskWork, release: ReleaseNumber) -> (Lba, Buffer) {
        let member = &work.member;
        let sequence = member.confirm_sequence.get();
        let confirm = Confirm { pool: self.id, disk: member.id, sequence, release };
        (DiskGeometry::confirm_slots()[confirm.slot()], confirm.encode())
    }
}
