//! Making the metadata anew from the records of a checkpoint. They are validated as those of the log are,
//! but for what only holds for a history: generations come in the order of the map, so each must be free
//! instead of new; and a volume's size is told before its groups, so it is compared at the end.

use std::collections::BTreeSet;

use super::changes::Changes;
use super::{Counters, Inconsistent, MetaRecord, Metadata, PoolIdentity};
use crate::format::GenerationId;

/// Metadata that isn't whole yet.
#[derive(Debug)]
pub struct Restoring {
    metadata: Metadata,
    segment_generations: BTreeSet<GenerationId>,
}

impl Restoring {
    /// A pool that has nothing.
    pub fn new(pool: PoolIdentity) -> Result<Restoring, Inconsistent> {
        let metadata = Metadata::new(pool).ok_or(Inconsistent::BadShape)?;
        Ok(Restoring { metadata, segment_generations: BTreeSet::new() })
    }

    /// What was taken so far.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Takes the next record, or changes nothing.
    pub fn take(&mut self, record: &MetaRecord) -> Result<(), Inconsistent> {
        match record {
            MetaRecord::RunAdded { volume, run } => {
                if !self.are_free(run.generation, run.count) {
                    return Err(Inconsistent::NumberReused);
                }
                self.metadata.place_run(*volume, run)
            }
            MetaRecord::SegmentOpened { volume, segment } => {
                if !self.are_free(segment.generation, 1) {
                    return Err(Inconsistent::NumberReused);
                }
                self.metadata.place_segment(*volume, segment)?;
                self.segment_generations.insert(segment.generation);
                Ok(())
            }
            MetaRecord::VolumeResized { id, bytes } => self.metadata.set_size(*id, *bytes),
            other => self.metadata.apply(other),
        }
    }

    /// The metadata, once all was taken, and what of it can't be.
    pub fn finish(self, counters: Counters) -> (Metadata, Vec<Inconsistent>) {
        let mut metadata = self.metadata;
        let volumes = metadata.volumes().values();
        let uncovered = volumes.filter(|volume| !metadata.covers(volume, volume.bytes));
        let mut refused: Vec<Inconsistent> =
            uncovered.map(|volume| Inconsistent::NotCovered(volume.id)).collect();
        refused.extend(metadata.set_counters(counters).err());
        metadata.changes = Changes::none();
        (metadata, refused)
    }

    /// Whether no group and no segment has any of these generations.
    fn are_free(&self, first: GenerationId, count: u32) -> bool {
        let Some(last) = first.0.checked_add(u64::from(count.max(1)) - 1).map(GenerationId) else {
            return false;
        };
        let mut runs = self.metadata.generations.range(..=last);
        // Of those that begin up to there the last one ends last: they don't overlap.
        let before = runs.next_back().and_then(|(generation, (volume, key))| {
            let run = self.metadata.volumes.get(volume)?.runs.get(key)?;
            Some(generation.plus(u64::from(run.count)))
        });
        before.is_none_or(|end| end <= first)
            && self.segment_generations.range(first..=last).next().is_none()
    }
}
