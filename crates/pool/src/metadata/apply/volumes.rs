//! Records about volumes and their maps.

use super::{COPIES_MAX, Inconsistent, WIDTH_MAX, check_name, places_of, segments_of};
use crate::format::{DiskNumber, GenerationId, SegmentNumber, VolumeId, initial_root};
use crate::metadata::{
    ExtentRange, GroupRun, Layout, Metadata, RunKey, SharedMap, Volume, VolumeLog,
};

/// Longest key of a property.
const KEY_BYTES_MAX: usize = 128;
/// Longest value of a property.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Sets a property, or takes it away.
pub(super) fn set_in(
    properties: &mut SharedMap<String, String>,
    key: &str,
    value: &Option<String>,
) -> Result<(), Inconsistent> {
    let too_long = value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || too_long {
        return Err(Inconsistent::BadName);
    }
    match value {
        Some(value) => properties.insert_mut(key.to_string(), value.clone()),
        None => {
            properties.remove_mut(key);
        }
    }
    Ok(())
}

/// Whether a run may have so many positions. While the layout changes runs differ in that, also where it changed
/// several times.
fn fits_copies(volume: &Volume, positions: usize) -> bool {
    match volume.conversion {
        None => positions == usize::from(volume.layout.copies()),
        Some(_) => (1..=usize::from(COPIES_MAX)).contains(&positions),
    }
}

impl Metadata {
    pub(super) fn create_volume(
        &mut self,
        id: VolumeId,
        name: &str,
        layout: Layout,
        width: u16,
    ) -> Result<(), Inconsistent> {
        check_name(name, false)?;
        if self.volume_by_name(name).is_some() {
            return Err(Inconsistent::BadName);
        }
        if id < self.next.volume {
            return Err(Inconsistent::NumberReused);
        }
        let copies_fit = (1..=COPIES_MAX).contains(&layout.copies());
        if !copies_fit || !(1..=WIDTH_MAX).contains(&width) {
            return Err(Inconsistent::BadShape);
        }
        self.next.volume = VolumeId(id.0.checked_add(1).ok_or(Inconsistent::NumberReused)?);
        let log = VolumeLog { next_segment: SegmentNumber(1), ..VolumeLog::default() };
        let volume = Volume {
            id,
            name: name.to_string(),
            layout,
            conversion: None,
            width,
            bytes: 0,
            runs: Default::default(),
            log,
            properties: Default::default(),
        };
        self.volumes.insert_mut(id, volume);
        Ok(())
    }

    pub(super) fn resize_volume(&mut self, id: VolumeId, bytes: u64) -> Result<(), Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        if !self.covers(volume, bytes) {
            return Err(Inconsistent::NotCovered(id));
        }
        self.set_size(id, bytes)
    }

    /// Whether a volume's groups cover such a size.
    pub(in crate::metadata) fn covers(&self, volume: &Volume, bytes: u64) -> bool {
        let blocks = bytes / block::BLOCK_BYTES as u64;
        bytes.is_multiple_of(block::BLOCK_BYTES as u64)
            && volume.stripes(self.shape).is_some_and(|s| s.sets_for(blocks) <= volume.whole_sets())
    }

    pub(in crate::metadata) fn set_size(
        &mut self,
        id: VolumeId,
        bytes: u64,
    ) -> Result<(), Inconsistent> {
        self.volume_mut(id)?.bytes = bytes;
        Ok(())
    }

    pub(super) fn rename_volume(&mut self, id: VolumeId, name: &str) -> Result<(), Inconsistent> {
        check_name(name, false)?;
        if self.volume_by_name(name).is_some_and(|other| other.id != id) {
            return Err(Inconsistent::BadName);
        }
        self.volume_mut(id)?.name = name.to_string();
        Ok(())
    }

    pub(super) fn remove_volume(&mut self, id: VolumeId) -> Result<(), Inconsistent> {
        let unknown = Inconsistent::UnknownVolume(id);
        let volume = self.volumes.get(&id).cloned().ok_or(unknown)?;
        self.volumes.remove_mut(&id);
        volume.runs.values().for_each(|run| self.give_up_run(run));
        for (disk, extents) in segments_of(&volume) {
            self.leave_pending(disk, extents);
        }
        Ok(())
    }

    pub(super) fn reduce_volume(&mut self, id: VolumeId, bytes: u64) -> Result<(), Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        if bytes > volume.bytes {
            return Err(Inconsistent::Backwards);
        }
        if !self.covers(volume, bytes) {
            return Err(Inconsistent::NotCovered(id));
        }
        for (key, kept) in self.runs_beyond(volume, bytes) {
            let mut gone = key;
            if kept > 0 {
                self.split_run(id, key, kept)?;
                gone.first_set += u64::from(kept);
            }
            let run = self.run_of(id, gone)?;
            self.volume_mut(id)?.runs.remove(&gone);
            self.give_up_run(&run);
        }
        self.set_size(id, bytes)
    }

    /// The runs with groups that a volume of such a size doesn't need, and how many of each it does.
    pub(in crate::metadata) fn runs_beyond(
        &self,
        volume: &Volume,
        bytes: u64,
    ) -> Vec<(RunKey, u32)> {
        let Some(stripes) = volume.stripes(self.shape) else { return Vec::new() };
        let sets = stripes.sets_for(bytes.div_ceil(block::BLOCK_BYTES as u64));
        let beyond = volume
            .runs
            .values()
            .filter(|run| run.key.first_set.saturating_add(u64::from(run.count)) > sets);
        let kept = |run: &GroupRun| sets.saturating_sub(run.key.first_set) as u32;
        beyond.map(|run| (run.key, kept(run))).collect()
    }

    /// A run isn't in its volume's map any more: what is known of its groups is forgotten, and their extents
    /// have no owner.
    fn give_up_run(&mut self, run: &GroupRun) {
        let dirty_regions: Vec<_> = self.dirty_regions_in(run).map(|(key, _)| key).collect();
        for key in dirty_regions {
            self.dirty_regions.remove_mut(&key);
        }
        self.generations.remove_mut(&run.generation);
        for (disk, extents) in places_of(run) {
            self.leave_pending(disk, extents);
        }
    }

    fn leave_pending(&mut self, disk: DiskNumber, extents: ExtentRange) {
        if let Some(disk) = self.disks.get_mut(&disk) {
            disk.pending.insert(extents);
        }
    }

    pub(super) fn set_property(
        &mut self,
        id: VolumeId,
        key: &str,
        value: &Option<String>,
    ) -> Result<(), Inconsistent> {
        set_in(&mut self.volume_mut(id)?.properties, key, value)
    }

    pub(super) fn add_run(&mut self, id: VolumeId, run: &GroupRun) -> Result<(), Inconsistent> {
        if run.generation < self.next.generation {
            return Err(Inconsistent::NumberReused);
        }
        self.place_run(id, run)
    }

    /// Adds a run whose generations are free.
    pub(in crate::metadata) fn place_run(
        &mut self,
        id: VolumeId,
        run: &GroupRun,
    ) -> Result<(), Inconsistent> {
        let volume = self.volumes.get(&id).ok_or(Inconsistent::UnknownVolume(id))?;
        let next_generation = run.generation.0.checked_add(u64::from(run.count));
        let end_set = run.key.first_set.checked_add(u64::from(run.count));
        let (Some(next_generation), Some(end_set)) = (next_generation, end_set) else {
            return Err(Inconsistent::BadShape);
        };
        if run.count == 0
            || run.key.lane >= volume.width
            || run.initialised() > 0
            || run.incoming.is_some()
            || !fits_copies(volume, run.members.len())
        {
            return Err(Inconsistent::BadShape);
        }
        let last = RunKey { lane: run.key.lane, first_set: end_set - 1 };
        let before = volume.runs.range(..=last).next_back();
        if before.is_some_and(|(key, before)| {
            key.lane == run.key.lane && key.first_set + u64::from(before.count) > run.key.first_set
        }) {
            return Err(Inconsistent::Overlap(id));
        }
        let places = run.members.iter().map(|member| (member.disk, member.first, run.count));
        self.take(places)?;
        self.next.generation = self.next.generation.max(GenerationId(next_generation));
        self.generations.insert_mut(run.generation, (id, run.key));
        self.volume_mut(id)?.runs.insert(run.clone());
        Ok(())
    }

    pub(super) fn restore_roots(
        &mut self,
        id: VolumeId,
        key: RunKey,
        first: u32,
        roots: &[u64],
    ) -> Result<(), Inconsistent> {
        let unknown = Inconsistent::UnknownRun(id, key);
        let runs = &mut self.volume_mut(id)?.runs;
        let run = runs.get(&key).ok_or(unknown)?;
        let room = (run.count - run.initialised()) as usize;
        if first != run.initialised() || roots.is_empty() || roots.len() > room {
            return Err(Inconsistent::BadShape);
        }
        runs.roots_mut(&key).ok_or(unknown)?.extend(roots.iter().copied());
        Ok(())
    }

    pub(super) fn initialise_run(
        &mut self,
        id: VolumeId,
        key: RunKey,
        count: u32,
    ) -> Result<(), Inconsistent> {
        let unknown = Inconsistent::UnknownRun(id, key);
        let (pool, blocks) = (self.pool.id, self.shape.checksum_blocks());
        let runs = &mut self.volume_mut(id)?.runs;
        let run = runs.get(&key).ok_or(unknown)?;
        if count < run.initialised() || count > run.count {
            return Err(Inconsistent::Backwards);
        }
        let generations =
            (run.initialised()..count).map(|index| run.generation.plus(u64::from(index)));
        let roots: Vec<u64> =
            generations.map(|generation| initial_root(pool, generation, blocks)).collect();
        runs.roots_mut(&key).ok_or(unknown)?.extend(roots);
        Ok(())
    }
}
