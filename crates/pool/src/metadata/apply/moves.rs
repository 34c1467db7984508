//! Records about runs of which a position moves to another disk, or that get one more. While it does, both are
//! positions: every region of a group is right on one that stays, whichever of the two goes.

use super::{COPIES_MAX, Inconsistent};
use crate::format::{ExtentNumber, GenerationId, VolumeId};
use crate::metadata::{ExtentRange, GroupRun, Incoming, Member, Metadata, RunKey};

impl GroupRun {
    /// Its members once what is under way has arrived.
    pub(crate) fn members_once_moved(&self) -> Vec<Member> {
        let mut members = self.members.clone();
        if let Some(incoming) = self.incoming {
            match members.get_mut(usize::from(incoming.position)) {
                Some(member) => *member = incoming.member,
                None => members.push(incoming.member),
            }
        }
        members
    }
}

impl Metadata {
    pub(super) fn split_run(
        &mut self,
        id: VolumeId,
        key: RunKey,
        count: u32,
    ) -> Result<(), Inconsistent> {
        let run = self.run_of(id, key)?;
        if count == 0 || count >= run.count {
            return Err(Inconsistent::BadShape);
        }
        let behind = |member: Member| {
            let first = member.first.0.checked_add(count).map(ExtentNumber);
            first.map(|first| Member { first, ..member }).ok_or(Inconsistent::BadShape)
        };
        let members = run.members.iter().copied().map(behind).collect::<Result<_, _>>()?;
        let incoming = match run.incoming {
            Some(incoming) => Some(Incoming { member: behind(incoming.member)?, ..incoming }),
            None => None,
        };
        let initialised = run.initialised() as usize;
        let second = GroupRun {
            key: RunKey { first_set: key.first_set + u64::from(count), ..key },
            count: run.count - count,
            generation: run.generation.plus(count.into()),
            members,
            incoming,
            roots: run.roots.between(count as usize, initialised).collect(),
        };
        let roots = run.roots.between(0, initialised.min(count as usize)).collect();
        let first = GroupRun { count, roots, ..run };
        self.generations.insert_mut(second.generation, (id, second.key));
        let runs = &mut self.volume_mut(id)?.runs;
        runs.insert(first);
        runs.insert(second);
        Ok(())
    }

    pub(super) fn begin_move(
        &mut self,
        id: VolumeId,
        key: RunKey,
        position: u8,
        to: Member,
    ) -> Result<(), Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        let positions = self.run_of(id, key)?.members.len();
        if usize::from(position) >= positions && !volume.has_too_few(positions) {
            return Err(Inconsistent::BadShape);
        }
        self.place_incoming(id, key, position, to)?;
        let run = self.run_of(id, key)?;
        for generation in run.generations(run.initialised()) {
            self.dirty_regions.insert_mut((generation, to.disk), u64::MAX);
        }
        Ok(())
    }

    pub(super) fn place_incoming(
        &mut self,
        id: VolumeId,
        key: RunKey,
        position: u8,
        to: Member,
    ) -> Result<(), Inconsistent> {
        let run = self.run_of(id, key)?;
        if run.incoming.is_some() {
            return Err(Inconsistent::Moving(id, key));
        }
        let is_there = run.members.iter().any(|member| member.disk == to.disk);
        let positions = run.members.len();
        // A further one may come while the layout changes, whatever it is to be by now.
        let is_converting = self.volumes.get(&id).is_some_and(|volume| volume.conversion.is_some());
        let fits = match usize::from(position) {
            position if position == positions => {
                is_converting && positions < usize::from(COPIES_MAX)
            }
            position => position < positions,
        };
        if !fits || is_there {
            return Err(Inconsistent::BadShape);
        }
        self.take(std::iter::once((to.disk, to.first, run.count)))?;
        let incoming = Some(Incoming { position, member: to });
        self.volume_mut(id)?.runs.insert(GroupRun { incoming, ..run });
        Ok(())
    }

    pub(super) fn switch_move(&mut self, id: VolumeId, key: RunKey) -> Result<(), Inconsistent> {
        let mut run = self.run_of(id, key)?;
        let (outgoing, members) = (run.outgoing(), run.members_once_moved());
        let incoming = run.incoming.take().ok_or(Inconsistent::Moving(id, key))?;
        let lacks = |generation: &GenerationId| self.dirty(*generation, incoming.member.disk) != 0;
        if let Some(lacking) = run.generations(run.count).find(lacks) {
            return Err(Inconsistent::NoRightMember(lacking));
        }
        run.members = members;
        self.end_move(id, run, outgoing)
    }

    pub(super) fn cancel_move(&mut self, id: VolumeId, key: RunKey) -> Result<(), Inconsistent> {
        let mut run = self.run_of(id, key)?;
        let incoming = run.incoming.take().ok_or(Inconsistent::Moving(id, key))?;
        self.end_move(id, run, Some(incoming.member))
    }

    pub(super) fn drop_position(
        &mut self,
        id: VolumeId,
        key: RunKey,
        position: u8,
    ) -> Result<(), Inconsistent> {
        let mut run = self.run_of(id, key)?;
        if run.incoming.is_some() {
            return Err(Inconsistent::Moving(id, key));
        }
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        let at = usize::from(position);
        if !volume.has_too_many(run.members.len()) || at >= run.members.len() {
            return Err(Inconsistent::BadShape);
        }
        let left = run.members.remove(at);
        let lacks = |generation: &GenerationId| {
            run.members.iter().any(|member| self.dirty(*generation, member.disk) != 0)
        };
        if let Some(lacking) = run.generations(run.count).find(lacks) {
            return Err(Inconsistent::NoRightMember(lacking));
        }
        self.end_move(id, run, Some(left))
    }

    /// A run is as it is told from now on, and one place of it is given up, if any.
    fn end_move(
        &mut self,
        id: VolumeId,
        run: GroupRun,
        left: Option<Member>,
    ) -> Result<(), Inconsistent> {
        let nobody_has = |generation: &GenerationId| {
            let masks = run.members.iter().map(|member| self.dirty(*generation, member.disk));
            masks.fold(u64::MAX, |nobody_has, mask| nobody_has & mask) != 0
        };
        if let Some(lacking) = run.generations(run.count).find(nobody_has) {
            return Err(Inconsistent::NoRightMember(lacking));
        }
        if let Some(left) = left {
            for generation in run.generations(run.count) {
                self.dirty_regions.remove_mut(&(generation, left.disk));
            }
            let extents = ExtentRange::new(left.first, run.count);
            self.disk_mut(left.disk)?.pending.insert(extents);
        }
        self.volume_mut(id)?.runs.insert(run);
        Ok(())
    }

    pub(super) fn run_of(&self, id: VolumeId, key: RunKey) -> Result<GroupRun, Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        volume.runs.get(&key).cloned().ok_or(Inconsistent::UnknownRun(id, key))
    }
}
