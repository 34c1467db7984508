//! What the supervisor tells about itself. What it tells about pools is the engine's own report.

use std::path::PathBuf;

use block::VolumeName;
use pool::{PoolReport, PoolState, Progress, VolumeReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::alerts::{AlertsReport, Wrong};
use aoe_wire::ShelfSlot;

/// `GET /v2/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// When this was so, in seconds since 1970.
    #[serde(default)]
    pub at_secs: u64,
    /// What is wrong, the worst first; none from a supervisor of before it told.
    #[serde(default)]
    pub wrong: Option<Vec<Wrong>>,
    /// Host name of the supervisor.
    pub host: String,
    /// Its identity as an owner of pools.
    pub owner: String,
    /// Process id of the supervisor.
    pub supervisor_pid: u32,
    /// The engine's process; none while it is being restarted.
    pub engine: Option<ProcessState>,
    /// The services' process, which answers this.
    pub services_pid: u32,
    /// How often the engine was replaced since the services began.
    pub engine_restarts: u64,
    /// All pools present.
    pub pools: Vec<PoolReport>,
    /// Devices, mounts, FTP and exports of volumes that have or want any.
    pub services: Vec<VolumeServices>,
    /// How the kernel hands over the requests for volumes that are attached from now on.
    #[serde(default)]
    pub fuse_over_io_uring: FuseOverIoUring,
    /// Settings that came with a pool and aren't acted on.
    #[serde(default)]
    pub held: Vec<HeldReport>,
    /// What is wrong with the supervisor itself, and what to do.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// What a user must know about that is nobody's failure yet.
    pub warnings: Vec<String>,
    /// What people were told of that still lasts, and the ways to tell them.
    #[serde(default)]
    pub alerts: AlertsReport,
}

/// Whether the kernel has FUSE over io_uring, and whether the administrator has it switched on; the program
/// never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FuseOverIoUring {
    /// It doesn't have it, or FUSE isn't there yet.
    #[default]
    Missing,
    /// It has it.
    Off,
    /// It uses it.
    On,
}

/// A setting that came with a pool. `GET /v2/pools/POOL/held` answers with a list of them; `POST
/// /v2/pools/POOL/confirm-settings` has them acted on, and answers with those that stay out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldReport {
    /// Its volume.
    pub volume: VolumeName,
    /// The property that holds it.
    pub key: String,
    /// What would be done, in words.
    pub what: String,
    /// Why it stays out also when it is confirmed, and what to do.
    #[serde(default)]
    pub refused: Option<String>,
}

/// What an operation would do, after all the checks of the operation itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    /// Each effect, in words.
    pub effects: Vec<String>,
    /// Whether it ends something that people use, so that the request must say that this is meant.
    pub ends_something: bool,
    /// What a request to mount must name as `move_from`.
    #[serde(default)]
    pub move_from: Option<PathBuf>,
    /// Whether a pool is given up that can't be opened, which a request to release it must say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gives_up: bool,
}

/// The engine's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessState {
    /// Process id.
    pub pid: u32,
    /// Tells it from its predecessors.
    pub instance: u64,
    /// Whether its memory is locked.
    pub memory_locked: bool,
    /// Whether the kernel knows that it serves a block device (PR_SET_IO_FLUSHER).
    pub io_flusher: bool,
    /// Log lines dropped because whoever reads them was too slow.
    pub log_lines_dropped: u64,
    /// The interfaces it listens on.
    pub interfaces: Vec<InterfaceState>,
    /// What is wrong with it.
    pub warnings: Vec<String>,
    /// Which exports of volumes aren't as they should be, and why.
    #[serde(default)]
    pub troubles: Vec<String>,
}

/// An interface of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceState {
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: String,
    /// Its MTU; 0 while it isn't there.
    pub mtu_bytes: u64,
    /// Why it isn't used, if so.
    pub trouble: Option<String>,
}

/// A target that answered discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeenTarget {
    /// Its address.
    pub address: ShelfSlot,
    /// The interface on which it was heard.
    pub interface: String,
    /// Its MAC.
    pub mac: String,
    /// Its size, when it told.
    pub size_bytes: Option<u64>,
    /// Whether it speaks etherpool's sequenced session; others are plain AoE.
    pub session: bool,
    /// The machine's name, when it told.
    pub node: Option<String>,
    /// The export's name (its path on the machine), when it told.
    pub name: Option<String>,
    /// The owner on record, when there is one.
    pub owner: Option<String>,
    /// What is wrong: answers no more, another answers for the same address.
    pub trouble: Option<String>,
}

/// What a report means for those who serve.
pub trait PoolReportExt {
    /// Whether it is open here, with or without its lease. One that couldn't be opened is suspended
    /// too, and its report knows nothing of its space.
    fn is_open(&self) -> bool;

    /// Whether the pool may go on being served: open, with its lease. Requests may have to wait.
    fn may_stay(&self) -> bool;

    /// Whether that volume of it may go on being served.
    fn keeps(&self, name: &VolumeName) -> bool;

    /// Whether that volume answers now, so that a service on it may begin.
    fn serves(&self, name: &VolumeName) -> bool;

    /// Its volumes. One whose name nobody can type is left out, and nothing is made of it: only a
    /// forged pool has such.
    fn named_volumes(&self) -> impl Iterator<Item = (VolumeName, &VolumeReport)>;
}

impl PoolReportExt for PoolReport {
    fn is_open(&self) -> bool {
        match self.state {
            PoolState::Online | PoolState::Degraded => true,
            PoolState::Suspended { .. } => self.lease_ok || self.capacity_bytes > 0,
            _ => false,
        }
    }

    fn may_stay(&self) -> bool {
        self.is_open() && self.lease_ok
    }

    fn keeps(&self, name: &VolumeName) -> bool {
        self.name == name.pool()
            && self.may_stay()
            && self.volumes.iter().any(|volume| volume.name == name.volume())
    }

    fn serves(&self, name: &VolumeName) -> bool {
        // Not by the pool's state: it is that of its worst volume, which says nothing of the others.
        self.keeps(name)
            && self
                .volumes
                .iter()
                .any(|volume| volume.name == name.volume() && volume.suspended().is_none())
    }

    fn named_volumes(&self) -> impl Iterator<Item = (VolumeName, &VolumeReport)> {
        self.volumes
            .iter()
            .filter_map(|volume| Some((VolumeName::new(&self.name, &volume.name).ok()?, volume)))
    }
}

/// Where a service of a volume stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Not wanted.
    #[default]
    Off,
    /// Wanted, not there yet.
    Waiting,
    /// There.
    On,
}

/// What is made of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeServices {
    /// The volume.
    pub volume: VolumeName,
    /// Its block device.
    pub device: Option<PathBuf>,
    /// The mount.
    pub mount: ServiceState,
    /// Where it is or should be mounted.
    pub mount_path: Option<PathBuf>,
    /// FTP.
    pub ftp: ServiceState,
    /// Where FTP listens or should.
    pub ftp_listen: Option<std::net::SocketAddr>,
    /// AoE addresses that it is exported at.
    pub exports: Vec<ShelfSlot>,
    /// What went wrong last, and is tried again.
    pub trouble: Option<String>,
    /// Processes that keep a file system busy which is to be unmounted.
    pub busy_processes: Vec<String>,
}

impl VolumeServices {
    /// Of a volume that is only exported.
    pub fn exported(volume: VolumeName, exports: Vec<ShelfSlot>) -> VolumeServices {
        VolumeServices {
            volume,
            device: None,
            mount: ServiceState::Off,
            mount_path: None,
            ftp: ServiceState::Off,
            ftp_listen: None,
            exports,
            trouble: None,
            busy_processes: Vec::new(),
        }
    }
}

/// The outcome for one pool of `pool import --all`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportResult {
    /// The pool.
    pub pool: String,
    /// Set when it was imported.
    pub report: Option<PoolReport>,
    /// Set when it wasn't.
    pub error: Option<ApiError>,
}

/// A line of a streamed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "StreamLineOf{T}")]
pub enum StreamLine<T> {
    /// It goes on.
    Progress(Progress),
    /// It goes on and there is nothing to tell but what it waits for. Said every few seconds: a stream
    /// that is silent for longer has nobody at its other end.
    Waiting(String),
    /// The last line: done.
    Result(T),
    /// The last line: failed.
    Error(ApiError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stream_lines_are_told_apart_by_their_key() {
        let progress = StreamLine::<u32>::Progress(Progress { done_bytes: 1, total_bytes: 2 });
        let text = serde_json::to_string(&progress).unwrap();
        assert_eq!(text, r#"{"progress":{"done_bytes":1,"total_bytes":2}}"#);
        assert_eq!(serde_json::from_str::<StreamLine<u32>>(&text).unwrap(), progress);
        assert_eq!(serde_json::to_string(&StreamLine::Result(7)).unwrap(), r#"{"result":7}"#);
    }
}
