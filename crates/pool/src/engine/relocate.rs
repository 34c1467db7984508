//! Moving a position of groups to another disk (docs/engine.md, 11): the one mechanism of rebuilding, replacing,
//! evacuating and rebalancing, and of giving groups a further position. From its beginning on the new disk is a position like the others, of which it lacks
//! everything: destages write to it too, and resync copies what it lacks. Once it lacks nothing it takes the
//! former one's place, if there is one, in one step. So a crash needs no rule of its own, and a move that is cancelled has
//! changed nothing.
//!
//! **Where groups are changes only with their locks held alone**, and while no destage has chosen whom it
//! reaches: whoever holds one of these may rely on a group's positions.

use std::rc::Rc;

use super::commit::CommitError;
use super::convert::has_any;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::volume::Volume;
use crate::metadata::{ExtentRange, GroupRun, Member, MetaRecord};

impl OpenPool {
    /// Begins to move a position of a run, or to give it a further one; false if it isn't as it was any more, or if
    /// nothing is wrong where it is and what the pool's spare needs was given out since that was planned.
    pub(crate) async fn begin_move(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        position: u8,
        to: Member,
    ) -> Result<bool, Ended> {
        let begun = MetaRecord::MoveBegun { volume: volume.id, key: run.key, position, to };
        let may_be = || self.move_leaves_spare(run, position, to.disk);
        self.change_map(volume, run, vec![begun], may_be).await
    }

    /// Ends the move of a run: where it went lacks nothing. False also if that disk went meanwhile, or is to: what it
    /// took the place of may be the last that is there.
    pub(crate) async fn switch_move(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
    ) -> Result<bool, Ended> {
        let switched = MetaRecord::MoveSwitched { volume: volume.id, key: run.key };
        let stays = || {
            let to = run.incoming.map(|incoming| incoming.member.disk);
            let is_offline = |disk| self.pool.meta.borrow().offline_since(disk).is_some();
            to.is_some_and(|disk| self.is_there(disk) && !is_offline(disk))
        };
        self.end_move(volume, run, switched, run.outgoing(), stays).await
    }

    /// Gives the move of a run up.
    pub(crate) async fn cancel_move(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
    ) -> Result<bool, Ended> {
        let cancelled = MetaRecord::MoveCancelled { volume: volume.id, key: run.key };
        let incoming = run.incoming.map(|incoming| incoming.member);
        self.end_move(volume, run, cancelled, incoming, || true).await
    }

    /// Nothing is written to the place that is given up, and who reads there finds contents of another
    /// generation at worst, so it is free at once.
    async fn end_move(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        ended: MetaRecord,
        left: Option<Member>,
        may_end: impl Fn() -> bool,
    ) -> Result<bool, Ended> {
        let freed = left.map(|left| freed(run, left));
        self.change_map(volume, run, [ended].into_iter().chain(freed).collect(), may_end).await
    }

    /// Makes two runs of one, the first of so many groups.
    pub(crate) async fn split_run(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        count: u32,
    ) -> Result<bool, Ended> {
        let split = MetaRecord::RunSplit { volume: volume.id, key: run.key, count };
        self.change_map(volume, run, vec![split], || true).await
    }

    /// Gives up a position of a run; false if it isn't as it was, or somebody may need that position: where a row
    /// was being written over, or was written in its place and the log doesn't have it. A destage, which is due
    /// then, changes that; but whoever read the others didn't see that row.
    pub(crate) async fn drop_position(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        position: u8,
    ) -> Result<bool, Ended> {
        let Some(left) = run.members.get(usize::from(position)) else { return Ok(false) };
        let dropped = MetaRecord::PositionDropped { volume: volume.id, key: run.key, position };
        let others = run.members.iter().filter(|member| *member != left);
        let may_go = || {
            let is_known = !has_any(run, &volume.only_in_place());
            if !is_known {
                self.forget_check(volume.id, run);
                volume.destage_soon();
            }
            is_known && others.clone().all(|member| self.is_there(member.disk))
        };
        self.change_map(volume, run, vec![dropped, freed(run, *left)], may_go).await
    }

    /// Commits what changes the place of a run's groups; false if the run isn't as it was any more, the records
    /// don't fit it, or, with the locks held, it may not be.
    async fn change_map(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        records: Vec<MetaRecord>,
        may_be: impl Fn() -> bool,
    ) -> Result<bool, Ended> {
        let pool = &self.pool;
        let mut locks = Vec::with_capacity(run.count as usize);
        // Ascending, like those who destage. One of these may wait for a disk that never comes back: then other
        // runs go on, and this one is tried again.
        for generation in run.generations(run.count) {
            let lock = pool.lock_group(generation);
            let lock = runtime::timeout(&pool.runtime, pool.limits.eviction, lock);
            let Ok(lock) = pool.unless_over(lock).await? else { return Ok(false) };
            locks.push(lock);
        }
        // Nobody initialises groups, and no destage has chosen whom it reaches.
        let _releases = pool.unless_over(pool.release_lock.acquire(1)).await?;
        let _meta = pool.unless_over(pool.meta_lock.acquire(1)).await?;
        let is_same = {
            let meta = pool.meta.borrow();
            meta.run(volume.id, run.key).is_some_and(|now| is_mapped_alike(now, run))
        };
        if !is_same || volume.is_gone() || !may_be() {
            return Ok(false);
        }
        match pool.try_commit_locked(&records).await {
            Ok(()) => {}
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::warn!(volume = %volume.name(), ?error, "a change of the map was refused");
                return Ok(false);
            }
        }
        pool.resync_soon();
        Ok(true)
    }
}

/// What a position had is free.
fn freed(run: &GroupRun, left: Member) -> MetaRecord {
    MetaRecord::PendingFreed { disk: left.disk, extents: ExtentRange::new(left.first, run.count) }
}

/// Whether groups are where they were, whatever was written to them.
pub(super) fn is_mapped_alike(now: &GroupRun, run: &GroupRun) -> bool {
    (now.generation, now.count, &now.members, now.incoming)
        == (run.generation, run.count, &run.members, run.incoming)
}
