//! The whole metadata as records that make it anew: what a checkpoint holds.
//!
//! One encoding and one validation serve both checkpoint and log, and what a checkpoint says is
//! believed no more than what a record says.

use super::{DiskState, MetaRecord, Metadata, PoolIdentity};
use crate::format::{BirthId, SegmentNumber};
use crate::metadata::Inconsistent;

impl Metadata {
    /// Records that, applied to an empty pool of this identity, yield this metadata.
    pub fn snapshot(&self) -> Vec<MetaRecord> {
        let mut records = Vec::new();
        for disk in self.disks.values() {
            records.push(MetaRecord::DiskAdded {
                number: disk.number,
                id: disk.id,
                node: disk.node,
                node_name: disk.node_name.clone(),
                bytes: disk.bytes,
                area: disk.area,
            });
            let begun = disk.incoming_area;
            records
                .extend(begun.map(|extents| MetaRecord::AreaBegun { disk: disk.number, extents }));
        }
        for volume in self.volumes.values() {
            records.push(MetaRecord::VolumeCreated {
                id: volume.id,
                name: volume.name.clone(),
                layout: volume.layout,
                width: volume.width,
            });
            records.extend(volume.properties.iter().map(|(key, value)| MetaRecord::PropertySet {
                id: volume.id,
                key: key.clone(),
                value: Some(value.clone()),
            }));
        }
        records.extend(self.births_in_order());
        for volume in self.volumes.values() {
            records.push(MetaRecord::VolumeResized { id: volume.id, bytes: volume.bytes });
            records.push(MetaRecord::LogRestored {
                volume: volume.id,
                next_segment: volume.log.next_segment,
                released: volume.log.released,
            });
        }
        if !self.misses.is_empty() {
            records.push(MetaRecord::MissesSet(
                self.misses.iter().map(|(key, mask)| (*key, *mask)).collect(),
            ));
        }
        for disk in self.disks.values() {
            records.push(MetaRecord::DiskRestored {
                number: disk.number,
                expected_release: disk.expected_release,
                pending: disk.pending.ranges().collect(),
            });
            if disk.state != DiskState::Active {
                let (number, state) = (disk.number, disk.state);
                records.push(MetaRecord::DiskStateChanged { number, state });
            }
        }
        records.push(MetaRecord::CountersRestored(self.next));
        records
    }

    /// The metadata that a snapshot describes.
    pub fn restore(pool: PoolIdentity, records: &[MetaRecord]) -> Result<Metadata, Inconsistent> {
        let mut metadata = Metadata::new(pool).ok_or(Inconsistent::BadShape)?;
        metadata.apply_all(records)?;
        Ok(metadata)
    }

    /// Runs and segments by birth, because births only ever go up.
    fn births_in_order(&self) -> impl Iterator<Item = MetaRecord> + '_ {
        let mut births: Vec<(BirthId, MetaRecord)> = Vec::new();
        for volume in self.volumes.values() {
            births.extend(volume.runs.values().map(|run| {
                (run.birth, MetaRecord::RunAdded { volume: volume.id, run: run.clone() })
            }));
            births.extend(volume.log.segments.values().map(|segment| {
                let (volume, segment) = (volume.id, segment.clone());
                (segment.birth, MetaRecord::SegmentOpened { volume, segment })
            }));
        }
        births.sort_by_key(|(birth, _)| *birth);
        births.into_iter().map(|(_, record)| record)
    }

    /// The number that a volume's next segment gets.
    pub fn next_segment(&self, volume: crate::format::VolumeId) -> Option<SegmentNumber> {
        self.volumes.get(&volume).map(|volume| volume.log.next_segment)
    }
}
