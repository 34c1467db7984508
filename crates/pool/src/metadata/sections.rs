//! The metadata as sections: records that make it anew, and where they may be cut.
//!
//! One encoding and one validation serve both checkpoint and log, and what a checkpoint says is
//! believed no more than what a record says (`restore`).

use std::ops::Bound;

use super::changes::{ROOTS_TOGETHER, SectionKey, SectionKind};
use super::{DirtyRegions, Disk, MetaRecord, Metadata, RunKey, Volume};
use crate::format::{DiskNumber, GenerationId, VolumeId, Writer};

/// A section that was encoded, and the keys at which it may be cut.
pub(super) struct SectionBytes {
    pub(super) bytes: Vec<u8>,
    /// Keys in order, each with the offset where it begins; the first at zero.
    pub(super) cuts: Vec<(SectionKey, usize)>,
}

/// A section that is being written.
#[derive(Default)]
struct SectionWriter {
    writer: Writer,
    cuts: Vec<(SectionKey, usize)>,
}

impl SectionWriter {
    /// What is written from here on begins with this key.
    fn begin(&mut self, key: SectionKey) -> &mut Writer {
        self.cuts.push((key, self.writer.len()));
        &mut self.writer
    }
}

impl Metadata {
    /// What a kind has from a key on, up to another; the same bytes whenever that is the same.
    pub(super) fn encode_section(
        &self,
        kind: SectionKind,
        from: SectionKey,
        end: Option<SectionKey>,
    ) -> SectionBytes {
        let mut w = SectionWriter::default();
        let ends = |key: SectionKey| end.is_some_and(|end| key >= end);
        match kind {
            SectionKind::Disks => {
                let first = DiskNumber(u32::try_from(from.at).unwrap_or(u32::MAX));
                let disks = self.disks.range(first..).map(|(_, disk)| disk);
                for disk in disks.take_while(|disk| !ends(SectionKey::of_disk(disk.number))) {
                    put_disk(w.begin(SectionKey::of_disk(disk.number)), disk);
                }
            }
            SectionKind::Volumes => {
                let volumes = self.volumes.range(from.volume..).map(|(_, volume)| volume);
                for volume in volumes.take_while(|volume| !ends(SectionKey::of_volume(volume.id))) {
                    put_volume(w.begin(SectionKey::of_volume(volume.id)), volume);
                }
            }
            SectionKind::Runs => self.put_runs(&mut w, from, ends),
            SectionKind::Roots => self.put_roots(&mut w, from, end),
            SectionKind::DirtyRegions => self.put_dirty_regions(&mut w, from, ends),
            SectionKind::Pool => self.put_pool(&mut w),
        }
        SectionBytes { bytes: w.writer.into_bytes(), cuts: w.cuts }
    }

    fn put_runs(&self, w: &mut SectionWriter, from: SectionKey, ends: impl Fn(SectionKey) -> bool) {
        for (id, volume) in self.volumes.range(from.volume..) {
            let first = match *id == from.volume {
                true => RunKey { lane: from.lane, first_set: from.at },
                false => RunKey { lane: 0, first_set: 0 },
            };
            for (key, run) in volume.runs.range(first..) {
                let key = SectionKey::of_set(*id, key.lane, key.first_set);
                if ends(key) {
                    return;
                }
                let w = w.begin(key);
                w.put(&MetaRecord::RunAdded { volume: *id, run: run.clone() });
                if let Some(incoming) = run.incoming {
                    let (volume, key) = (*id, run.key);
                    let (position, to) = (incoming.position, incoming.member);
                    w.put(&MetaRecord::MoveRestored { volume, key, position, to });
                }
            }
        }
    }

    /// The sets of a run whose roots belong here may be a part of it, also one that no cut of ours made.
    fn put_roots(&self, w: &mut SectionWriter, from: SectionKey, end: Option<SectionKey>) {
        for (id, volume) in self.volumes.range(from.volume..) {
            let place = |set: u64, lane: u16| SectionKey::of_set(*id, lane, set);
            let first = RunKey { lane: from.lane, first_set: from.at };
            let begin = match *id == from.volume {
                // The run that the first set is in may begin before it.
                true => volume.runs.range(..=first).next_back().map(|(key, _)| *key),
                false => None,
            };
            let begin = begin.map_or(Bound::Unbounded, Bound::Included);
            for (key, run) in volume.runs.range((begin, Bound::Unbounded)) {
                if end.is_some_and(|end| place(key.first_set, key.lane) >= end) {
                    return;
                }
                let index_of = |bound: SectionKey| {
                    let within = (bound.volume, bound.lane) == (*id, key.lane);
                    let sets = bound.at.saturating_sub(key.first_set).min(run.count.into());
                    within.then_some(sets as u32)
                };
                let before = place(key.first_set, key.lane) < from;
                let mut index = match before {
                    true => index_of(from).unwrap_or(run.count),
                    false => 0,
                };
                let last = end.and_then(index_of).unwrap_or(run.count).min(run.initialised());
                while index < last {
                    let next = (index / ROOTS_TOGETHER + 1) * ROOTS_TOGETHER;
                    let next = next.min(last);
                    let roots = run.roots.between(index as usize, next as usize).collect();
                    let set = key.first_set + u64::from(index);
                    let record =
                        MetaRecord::RootsRestored { volume: *id, key: *key, first: index, roots };
                    w.begin(place(set, key.lane)).put(&record);
                    index = next;
                }
            }
        }
    }

    fn put_dirty_regions(
        &self,
        w: &mut SectionWriter,
        from: SectionKey,
        ends: impl Fn(SectionKey) -> bool,
    ) {
        let first = (GenerationId(from.at), DiskNumber(0));
        let mut dirty_regions = self.dirty_regions.range(first..).peekable();
        while let Some(((generation, _), _)) = dirty_regions.peek() {
            let key = SectionKey::of_dirty_regions(*generation);
            if ends(key) {
                return;
            }
            let mut together = DirtyRegions::new();
            while let Some((missing, mask)) = dirty_regions
                .next_if(|((generation, _), _)| SectionKey::of_dirty_regions(*generation) == key)
            {
                together.insert(*missing, *mask);
            }
            w.begin(key).put(&MetaRecord::RegionsDirtied(together));
        }
    }

    /// All of it: there is little, so it isn't cut.
    fn put_pool(&self, w: &mut SectionWriter) {
        if self.jobs.is_empty() && self.properties.is_empty() {
            return;
        }
        let w = w.begin(SectionKey::default());
        for (number, job) in &self.jobs {
            w.put(&MetaRecord::JobSet { number: *number, job: job.clone() });
        }
        for (key, value) in &self.properties {
            let (key, value) = (key.clone(), Some(value.clone()));
            w.put(&MetaRecord::PoolPropertySet { key, value });
        }
    }

    /// The number that a volume's next segment gets.
    pub fn next_segment(&self, volume: VolumeId) -> Option<crate::format::SegmentNumber> {
        self.volumes.get(&volume).map(|volume| volume.log.next_segment)
    }
}

fn put_disk(w: &mut Writer, disk: &Disk) {
    let number = disk.number;
    let added = MetaRecord::DiskAdded {
        number,
        id: disk.id,
        node: disk.node,
        node_name: disk.node_name.clone(),
        bytes: disk.bytes,
        area: disk.area,
    };
    w.put(&added);
    if let Some(extents) = disk.incoming_area {
        w.put(&MetaRecord::AreaBegun { disk: number, extents });
    }
    let pending = disk.pending.ranges().collect();
    let expected_release = disk.expected_release;
    w.put(&MetaRecord::DiskRestored { number, expected_release, pending });
}

fn put_volume(w: &mut Writer, volume: &Volume) {
    let id = volume.id;
    let created = MetaRecord::VolumeCreated {
        id,
        name: volume.name.clone(),
        layout: volume.layout,
        width: volume.width,
    };
    w.put(&created);
    if let Some(to) = volume.conversion {
        w.put(&MetaRecord::LayoutChanging { id, to });
    }
    for (key, value) in volume.properties.iter() {
        let (key, value) = (key.clone(), Some(value.clone()));
        w.put(&MetaRecord::PropertySet { id, key, value });
    }
    for segment in volume.log.segments.values() {
        w.put(&MetaRecord::SegmentOpened { volume: id, segment: segment.clone() });
        if let Some(blocks) = segment.high_water_blocks {
            w.put(&MetaRecord::SegmentHighWater { volume: id, number: segment.number, blocks });
        }
    }
    let log = &volume.log;
    let (next_segment, released) = (log.next_segment, log.released);
    w.put(&MetaRecord::LogRestored { volume: id, next_segment, released });
    w.put(&MetaRecord::VolumeResized { id, bytes: volume.bytes });
}
