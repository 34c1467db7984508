//! Where the time of a volume's requests goes: what the engine counts while a pool is open, as
//! `volume stats` and metrics show it. Plain values, serialisable; the names of fields are part of the
//! interface.
//!
//! Times are of the runtime's clock, which stands still within one turn of the event loop: what is done
//! in the turn in which it was asked for counts as no time.

use block::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a volume's requests, its destages and the disks under it cost, since its pool was opened here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeStats {
    /// When counting began, in milliseconds on the clock of the engine's machine since its boot.
    pub began_ms: u64,
    /// When this was asked, on the same clock.
    pub now_ms: u64,
    /// Reads.
    pub read: RequestStats,
    /// Writes, of zeros too.
    pub write: RequestStats,
    /// Discards.
    pub discard: RequestStats,
    /// Flushes.
    pub flush: RequestStats,
    /// Destages.
    pub destage: DestageStats,
    /// The disks that hold something of the volume, with what they did for all volumes of the pool.
    pub disks: Vec<DiskStats>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestStats {
    /// Bytes that succeeded.
    pub bytes: u64,
    /// How many failed.
    pub errors: u64,
    /// From the call to the answer, of all that were answered.
    pub total: Histogram,
    /// Waiting for room in the log, which destages make.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub room: Histogram,
    /// Waiting for overlapping requests that came before, and until the volume serves.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub queue: Histogram,
    /// Waiting for contents from disks, that is, for network and disk: what is read; and of writes that
    /// begin or end within a block, those blocks. What is in memory takes no time.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub device: Histogram,
    /// From the queue of the log until durable on all of its copies.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub log: Histogram,
}

/// Destages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DestageStats {
    /// Blocks of the volume that were brought into place, those that became zeros among them.
    pub blocks: u64,
    /// Bytes of the volume that were written there, each counted once however many copies it has.
    pub bytes: u64,
    /// From the beginning of a destage until its room in the log is free.
    pub total: Histogram,
}

/// What the engine had a disk do, as it saw it: network and disk together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskStats {
    /// Its name.
    pub name: String,
    /// Its machine.
    pub node: String,
    /// What it did.
    #[serde(flatten)]
    pub operations: DiskOperations,
}

/// What a disk did, by purpose. Metadata and repairs aren't counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskOperations {
    /// Reads of data: for requests, resync and verification.
    pub read: OperationStats,
    /// Durable writes of log records.
    pub log: OperationStats,
    /// Writes into place: of destages and resync.
    pub write: OperationStats,
    /// Flushes of those.
    pub flush: OperationStats,
    /// Discards of what nothing names any more.
    pub discard: OperationStats,
    /// Questions whether we still own it. Its machine answers them out of memory: what they take, the
    /// network and that machine's program take.
    pub network: OperationStats,
}

/// Operations of one purpose on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationStats {
    /// Bytes that were to be moved.
    pub bytes: u64,
    /// From the call to the answer, or until it wasn't waited for any longer.
    pub total: Histogram,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Discard,
    Flush,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Room,
    Queue,
    Device,
    Log,
}

/// What a disk is asked to do, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Log,
    Write,
    Flush,
    Discard,
    Network,
}

/// What is counted: of what came since an earlier time, each count is the difference of its counts.
trait Counted {
    fn since(&self, earlier: &Self) -> Self;
}

impl Counted for u64 {
    fn since(&self, earlier: &u64) -> u64 {
        self.saturating_sub(*earlier)
    }
}

impl Counted for Histogram {
    fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram::since(self, earlier)
    }
}

macro_rules! counted {
    ($type:ident { $($field:ident),+ }) => {
        impl Counted for $type {
            fn since(&self, earlier: &$type) -> $type {
                $type { $($field: self.$field.since(&earlier.$field)),+ }
            }
        }
    };
}

counted!(RequestStats { bytes, errors, total, room, queue, device, log });
counted!(DestageStats { blocks, bytes, total });
counted!(DiskOperations { read, log, write, flush, discard, network });
counted!(OperationStats { bytes, total });

impl VolumeStats {
    /// What was counted since it was `earlier`; `None` if counting began anew since, with the opening of
    /// the pool.
    pub fn since(&self, earlier: &VolumeStats) -> Option<VolumeStats> {
        if self.began_ms != earlier.began_ms {
            return None;
        }
        let disks = self.disks.iter().map(|disk| {
            let before = earlier.disks.iter().find(|before| before.name == disk.name);
            let before = before.map(|before| before.operations).unwrap_or_default();
            DiskStats { operations: disk.operations.since(&before), ..disk.clone() }
        });
        Some(VolumeStats {
            began_ms: earlier.now_ms,
            now_ms: self.now_ms,
            read: self.read.since(&earlier.read),
            write: self.write.since(&earlier.write),
            discard: self.discard.since(&earlier.discard),
            flush: self.flush.since(&earlier.flush),
            destage: self.destage.since(&earlier.destage),
            disks: disks.collect(),
        })
    }

    /// Its requests by their kinds' names.
    pub fn requests(&self) -> [(&'static str, &RequestStats); 4] {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("discard", &self.discard),
            ("flush", &self.flush),
        ]
    }

    pub(crate) fn of_mut(&mut self, kind: Kind) -> &mut RequestStats {
        match kind {
            Kind::Read => &mut self.read,
            Kind::Write => &mut self.write,
            Kind::Discard => &mut self.discard,
            Kind::Flush => &mut self.flush,
        }
    }
}

impl RequestStats {
    /// How long they took by their stages' names, in the order of the stages.
    pub fn stages(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("total", &self.total),
            ("room", &self.room),
            ("queue", &self.queue),
            ("device", &self.device),
            ("log", &self.log),
        ]
    }

    pub(crate) fn stage_mut(&mut self, stage: Stage) -> &mut Histogram {
        match stage {
            Stage::Room => &mut self.room,
            Stage::Queue => &mut self.queue,
            Stage::Device => &mut self.device,
            Stage::Log => &mut self.log,
        }
    }
}

impl DiskOperations {
    /// The operations by their purposes' names.
    pub fn by_purpose(&self) -> [(&'static str, &OperationStats); 6] {
        [
            ("read", &self.read),
            ("log", &self.log),
            ("write", &self.write),
            ("flush", &self.flush),
            ("discard", &self.discard),
            ("network", &self.network),
        ]
    }

    pub(crate) fn of_mut(&mut self, purpose: Purpose) -> &mut OperationStats {
        match purpose {
            Purpose::Read => &mut self.read,
            Purpose::Log => &mut self.log,
            Purpose::Write => &mut self.write,
            Purpose::Flush => &mut self.flush,
            Purpose::Discard => &mut self.discard,
            Purpose::Network => &mut self.network,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counted(times: u64) -> VolumeStats {
        let mut stats = VolumeStats { began_ms: 5, now_ms: 1000 * times, ..VolumeStats::default() };
        let mut operations = DiskOperations::default();
        for n in 0..times {
            let took = Duration::from_micros(100 * (n + 1));
            for kind in [Kind::Read, Kind::Write, Kind::Discard, Kind::Flush] {
                let requests = stats.of_mut(kind);
                requests.bytes += 512;
                requests.errors += 1;
                requests.total.note(took);
                for stage in [Stage::Room, Stage::Queue, Stage::Device, Stage::Log] {
                    requests.stage_mut(stage).note(took);
                }
            }
            for purpose in [
                Purpose::Read,
                Purpose::Log,
                Purpose::Write,
                Purpose::Flush,
                Purpose::Discard,
                Purpose::Network,
            ] {
                operations.of_mut(purpose).bytes += 4096;
                operations.of_mut(purpose).total.note(took);
            }
            stats.destage.blocks += 2;
            stats.destage.bytes += 4096;
            stats.destage.total.note(took);
        }
        let name = "e1.0".to_owned();
        stats.disks.push(DiskStats { name, node: "n1".into(), operations });
        stats
    }

    #[test]
    fn a_difference_is_what_was_counted_between() {
        let (before, after) = (counted(3), counted(7));
        let between = after.since(&before).unwrap();
        assert_eq!((between.began_ms, between.now_ms), (3000, 7000));
        for (_, requests) in between.requests() {
            assert_eq!((requests.bytes, requests.errors), (4 * 512, 4));
            assert!(requests.stages().iter().all(|(_, stage)| stage.count() == 4));
            assert_eq!(requests.total.sum(), Duration::from_micros(400 + 500 + 600 + 700));
        }
        for (_, operations) in between.disks[0].operations.by_purpose() {
            assert_eq!((operations.bytes, operations.total.count()), (4 * 4096, 4));
        }
        let destage = between.destage;
        assert_eq!((destage.blocks, destage.bytes, destage.total.count()), (8, 4 * 4096, 4));
        assert_eq!(after.since(&VolumeStats { began_ms: 4, ..before }), None, "opened anew");
    }

    #[test]
    fn a_disk_that_came_between_is_shown_whole() {
        let (before, after) = (VolumeStats { disks: Vec::new(), ..counted(3) }, counted(7));
        assert_eq!(after.since(&before).unwrap().disks, after.disks);
    }
}
