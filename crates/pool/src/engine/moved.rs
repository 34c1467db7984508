//! Disks that are found on another machine: failure domains follow them. Otherwise both copies of
//! something may come to lie on one machine while status goes on to count two.

use std::collections::BTreeSet;
use std::rc::Rc;

use uuid::Uuid;

use super::create::cut_name;
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::format::{DiskId, DiskNumber};
use crate::metadata::{MetaRecord, Metadata};
use crate::report::PoolEvent;

impl Pool {
    /// Commits where a disk is that is taken in, if that isn't where it was. The caller holds
    /// `meta_lock`.
    pub(crate) async fn note_move(self: &Rc<Self>, member: &Member) -> Result<(), Ended> {
        let node = member.machine.get();
        let node_name = cut_name(&member.place.borrow().node_name);
        let before = {
            let meta = self.meta.borrow();
            let Some(disk) = meta.disks().get(&member.number) else { return Ok(()) };
            if node.is_nil() || (disk.node, &disk.node_name) == (node, &node_name) {
                return Ok(());
            }
            (disk.node != node)
                .then(|| (disk.node_name.clone(), shared_domains(&meta, &self.all_voters())))
        };
        let (number, to) = (member.number, node_name.clone());
        self.commit_locked(&[MetaRecord::DiskMoved { number, node, node_name }]).await?;
        // A machine that has another name is where it was.
        let Some((from, before)) = before else { return Ok(()) };
        let shared = shared_domains(&self.meta.borrow(), &self.all_voters());
        let shared: Vec<String> = shared.difference(&before).cloned().collect();
        let shared = match shared.is_empty() {
            true => String::new(),
            false => format!(
                "{} on one machine now, and one failure takes both: put the disk back",
                shared.join(", ")
            ),
        };
        let (pool, disk) = (self.name.clone(), member.display_name());
        tracing::warn!(pool, disk, from, to, shared, "a disk moved");
        self.events.tell(PoolEvent::DiskMoved { pool, disk, from, to, shared });
        Ok(())
    }

    /// So many failure domains are among these disks.
    pub(crate) fn domains(meta: &Metadata, disks: impl Iterator<Item = DiskNumber>) -> usize {
        let mut domains: Vec<Uuid> = disks
            .filter_map(|disk| meta.disks().get(&disk))
            .map(|disk| meta.domain_of(disk))
            .collect();
        domains.sort_unstable();
        domains.dedup();
        domains.len()
    }
}

/// What has two copies in one failure domain.
fn shared_domains(meta: &Metadata, voters: &BTreeSet<DiskId>) -> BTreeSet<String> {
    let shares = |disks: &[DiskNumber]| Pool::domains(meta, disks.iter().copied()) < disks.len();
    let mut shared = BTreeSet::new();
    for volume in meta.volumes().values() {
        let mut members = volume.runs.values().map(|run| run.members.iter().map(|m| m.disk));
        if members.any(|disks| shares(&disks.collect::<Vec<_>>())) {
            shared.insert(format!("copies of volume {} are", volume.name));
        }
        let mut copies = volume.log.segments.values().map(|s| s.copies.iter().map(|c| c.disk));
        if copies.any(|disks| shares(&disks.collect::<Vec<_>>())) {
            shared.insert(format!("copies of the log of volume {} are", volume.name));
        }
    }
    let voters = voters.iter().filter_map(|voter| meta.disk_by_id(*voter));
    let voters: Vec<DiskNumber> = voters.map(|disk| disk.number).collect();
    if shares(&voters) {
        shared.insert("votes are".into());
    }
    shared
}
