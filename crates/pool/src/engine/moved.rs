//! Disks that are found on another machine: failure domains follow them. Otherwise both copies of
//! something may come to lie on one machine while status goes on to count two.

use std::rc::Rc;

use super::create::cut_name;
use super::lease::Ended;
use super::member::Member;
use super::pool::Pool;
use crate::metadata::MetaRecord;
use crate::report::PoolEvent;

impl Pool {
    /// Commits where a disk is that is taken in, if that isn't where it was. The caller holds
    /// `meta_lock`.
    pub(crate) async fn note_move(self: &Rc<Self>, member: &Member) -> Result<(), Ended> {
        let node = member.machine.get();
        let node_name = cut_name(&member.place.borrow().node_name);
        let (number, to) = (member.number, node_name.clone());
        let (moved, before) = {
            let meta = self.meta.borrow();
            let Some(disk) = meta.disks().get(&number) else { return Ok(()) };
            let is_there = node.is_nil() || (disk.node, &disk.node_name) == (node, &node_name);
            let before = (!node.is_nil() && disk.node != node)
                .then(|| (disk.node_name.clone(), self.sharing(&meta)));
            ((!is_there).then_some(MetaRecord::DiskMoved { number, node, node_name }), before)
        };
        let records: Vec<_> = moved.into_iter().chain(self.node_key_record(member)).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.commit_locked(&records).await?;
        self.learn_home(member);
        // A machine that has another name is where it was.
        let Some((from, before)) = before else { return Ok(()) };
        let (pool, disk) = (self.name.clone(), member.display_name());
        tracing::warn!(pool, disk, from, to, "a disk moved");
        self.events.tell(PoolEvent::DiskMoved { pool, disk, from, to });
        self.tell_joined(&before);
        Ok(())
    }
}
