//! Moving a position of groups to another disk (docs/engine.md, 11): the one mechanism of rebuilding, replacing,
//! evacuating and rebalancing, and of giving groups a further position. From its beginning on the new disk is a position like
//! the others, of which it lacks everything: destages write to it too, and resync copies what it lacks. Once it lacks
//! nothing it takes the former one's place, if there is one, in one step. So a crash needs no rule of its own, and a
//! move that is cancelled has changed nothing.
//!
//! **Where groups are changes only with their locks held alone**, and while no destage has chosen whom it
//! reaches: whoever holds one of these may rely on a group's positions.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use runtime::Permit;

use super::commit::CommitError;
use super::convert::has_any;
use super::lease::Ended;
use super::open_pool::OpenPool;
use super::spare::{others_of, shares_domain};
use super::volume::Volume;
use crate::format::GenerationId;
use crate::metadata::{ExtentRange, GroupRun, Member, MetaRecord, Metadata};

/// A change of where a run's groups are.
pub(crate) struct Change<'a> {
    volume: Rc<Volume>,
    run: GroupRun,
    records: Vec<MetaRecord>,
    /// Whether it may be, asked with all locks held, of the metadata with the changes before it.
    may_be: Box<dyn Fn(&Metadata) -> bool + 'a>,
}

impl OpenPool {
    /// Begins to move a position of a run, or to give it a further one; not if labels that changed since that was
    /// planned put it into the failure domain of another one, nor if nothing is wrong where it is and what
    /// the pool's spare needs was given out meanwhile.
    pub(crate) fn begin_move(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        position: u8,
        to: Member,
    ) -> Change<'_> {
        let begun = MetaRecord::MoveBegun { volume: volume.id, key: run.key, position, to };
        let of = run.clone();
        let may_be = move |meta: &Metadata| {
            !shares_domain(meta, to.disk, &others_of(&of, position))
                && self.move_leaves_spare(meta, &of, position, to.disk)
        };
        change(volume, run, vec![begun], may_be)
    }

    /// Ends the move of a run: where it went lacks nothing. Not if that disk went meanwhile, or is to: what it
    /// took the place of may be the last that is there. Nor if that fails apart from the others and this doesn't.
    pub(crate) fn switch_move(&self, volume: &Rc<Volume>, run: &GroupRun) -> Change<'_> {
        let switched = MetaRecord::MoveSwitched { volume: volume.id, key: run.key };
        let to = run.incoming.map(|incoming| incoming.member.disk);
        let of = run.clone();
        let stays = move |meta: &Metadata| {
            let is_offline = |disk| meta.offline_since(disk).is_some();
            to.is_some_and(|disk| self.is_there(disk) && !is_offline(disk))
                && !self.joins_copies(meta, &of)
        };
        end_move(volume, run, switched, run.outgoing(), stays)
    }

    /// Whether a move, by labels that changed since it began, would give up a whole copy that fails apart from the
    /// others for one that is lost with another of them.
    pub(super) fn joins_copies(&self, meta: &Metadata, run: &GroupRun) -> bool {
        let (Some(incoming), Some(left)) = (run.incoming, run.outgoing()) else { return false };
        let others = others_of(run, incoming.position);
        shares_domain(meta, incoming.member.disk, &others)
            && !shares_domain(meta, left.disk, &others)
            && self.is_there(left.disk)
            && meta.lacks_nothing(run, left.disk)
    }

    /// Gives the move of a run up.
    pub(crate) fn cancel_move(&self, volume: &Rc<Volume>, run: &GroupRun) -> Change<'_> {
        let cancelled = MetaRecord::MoveCancelled { volume: volume.id, key: run.key };
        let incoming = run.incoming.map(|incoming| incoming.member);
        end_move(volume, run, cancelled, incoming, |_| true)
    }

    /// Makes two runs of one, the first of so many groups.
    pub(crate) fn split_run(&self, volume: &Rc<Volume>, run: &GroupRun, count: u32) -> Change<'_> {
        let split = MetaRecord::RunSplit { volume: volume.id, key: run.key, count };
        change(volume, run, vec![split], |_| true)
    }

    /// Gives up a position of a run; not if somebody may need that position: where a row
    /// was being written over, or was written in its place and the log doesn't have it. A destage, which is due
    /// then, changes that; but whoever read the others didn't see that row. Nor if others make the better copies by now.
    pub(crate) fn drop_position(
        &self,
        volume: &Rc<Volume>,
        run: &GroupRun,
        position: u8,
    ) -> Option<Change<'_>> {
        let left = *run.members.get(usize::from(position))?;
        let dropped = MetaRecord::PositionDropped { volume: volume.id, key: run.key, position };
        let (of, whose) = (run.clone(), Rc::clone(volume));
        let may_go = move |meta: &Metadata| {
            let is_known = !has_any(&of, &whose.only_in_place());
            if !is_known {
                self.forget_check(whose.id, &of);
                whose.destage_soon();
            }
            is_known && self.can_go(meta, &of, position)
        };
        Some(change(volume, run, vec![dropped, freed(run, left)], may_go))
    }

    /// Commits what changes the places of runs' groups, together; left out is each of which the run isn't as it was
    /// any more, or that the records don't fit, or that, with the locks held, may not be. Tells whether there was
    /// any.
    pub(crate) async fn change_map(&self, mut changes: Vec<Change<'_>>) -> Result<bool, Ended> {
        let pool = &self.pool;
        let of = changes.iter().enumerate();
        let generations = of.flat_map(|(index, change)| {
            change.run.generations(change.run.count).map(move |generation| (generation, index))
        });
        let mut generations: Vec<(GenerationId, usize)> = generations.collect();
        // Ascending, like those who destage. One of these may wait for a disk that never comes back: then other
        // runs go on, and this one is tried again. However many there are, nobody waits longer than for one.
        generations.sort_unstable();
        let (mut locks, mut held_up) = (BTreeMap::<usize, Vec<Permit>>::new(), BTreeSet::new());
        let until = pool.runtime.now() + pool.limits.eviction;
        for (generation, index) in generations {
            if held_up.contains(&index) {
                continue;
            }
            let lock = pool.lock_group(generation);
            let patience = until.since(pool.runtime.now());
            let lock = runtime::timeout(&pool.runtime, patience, lock);
            match pool.unless_over(lock).await? {
                Ok(lock) => locks.entry(index).or_default().push(lock),
                Err(_) => {
                    locks.remove(&index);
                    held_up.insert(index);
                }
            }
        }
        let mut index = 0..;
        changes.retain(|_| index.next().is_some_and(|index| !held_up.contains(&index)));
        // Nobody initialises groups, and no destage has chosen whom it reaches.
        let _releases = pool.unless_over(pool.release_lock.acquire(1)).await?;
        let _meta = pool.unless_over(pool.meta_lock.acquire(1)).await?;
        let records = self.those_that_may_be(&changes);
        if records.is_empty() {
            return Ok(false);
        }
        match pool.try_commit_locked(&records).await {
            Ok(()) => {}
            Err(CommitError::Ended(ended)) => return Err(ended),
            Err(error) => {
                tracing::warn!(?error, "changes of the map were refused");
                return Ok(false);
            }
        }
        pool.resync_soon();
        Ok(true)
    }

    /// The records of those changes that may be, each after the ones before it, with the locks held.
    fn those_that_may_be(&self, changes: &[Change<'_>]) -> Vec<MetaRecord> {
        let (mut meta, mut records) = (self.pool.meta.borrow().clone(), Vec::new());
        for change in changes {
            let now = meta.run(change.volume.id, change.run.key);
            let is_same = now.is_some_and(|now| is_mapped_alike(now, &change.run));
            if !is_same || change.volume.is_gone() || !(change.may_be)(&meta) {
                continue;
            }
            match meta.with(&change.records) {
                Ok(with) => {
                    meta = with;
                    records.extend(change.records.iter().cloned());
                }
                Err(error) => {
                    let volume = change.volume.name();
                    tracing::warn!(%volume, ?error, "a change of the map was refused");
                }
            }
        }
        records
    }
}

fn change<'a>(
    volume: &Rc<Volume>,
    run: &GroupRun,
    records: Vec<MetaRecord>,
    may_be: impl Fn(&Metadata) -> bool + 'a,
) -> Change<'a> {
    Change { volume: Rc::clone(volume), run: run.clone(), records, may_be: Box::new(may_be) }
}

/// Nothing is written to the place that is given up, and who reads there finds contents of another
/// generation at worst, so it is free at once.
fn end_move<'a>(
    volume: &Rc<Volume>,
    run: &GroupRun,
    ended: MetaRecord,
    left: Option<Member>,
    may_end: impl Fn(&Metadata) -> bool + 'a,
) -> Change<'a> {
    let freed = left.map(|left| freed(run, left));
    change(volume, run, [ended].into_iter().chain(freed).collect(), may_end)
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
