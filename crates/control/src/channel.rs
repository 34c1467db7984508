//! The control channel between services and engine: JSON lines on a Unix socket. The process that serves FTP has one of
//! the same form, with requests and events of its own ([`crate::ftp`]).
//!
//! Requests carry ids, many are in flight, answers come in any order. A request may be followed by
//! progress lines with its id before its one result or error. Events come in between. The descriptors
//! that [`EngineRequest::AttachVolume`] speaks of travel with the first byte of its line.

use std::collections::BTreeSet;

use pool::{DestroyPlan, KeepNotes, KeeperId, MovedDisk, PoolEvent, Progress, WipePlan};
use seal::{Grant, PoolKey, TokenId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{
    ApiError, ConvertVolume, CreateToken, CreateVolume, EmptyDisks, ImportPool, LabelDisks,
    NamedDisks, NamedMember, SetPool, WipeDisks,
};
use crate::reconcile::Attachment;
use crate::settings::ExportSetting;
use aoe_wire::ShelfSlot;
use block::VolumeName;
use block::size::VolumeSize;

/// Longest line that either end accepts; a longer one ends the connection. A report of thousands of
/// disks fits.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Most requests that one connection may have in flight; more are answered with `busy`.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// A request to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum EngineRequest {
    /// Answered with [`crate::api::ProcessState`].
    Process,
    /// Answered with the targets present.
    Discover,
    /// Which versions the machines run whose disks are seen; answered with their [`crate::api::NodeVersion`]s.
    Versions,
    /// Answered with the devices present.
    Disks,
    /// Who joined; answered with [`crate::api::MembersReport`].
    Members,
    /// Answered with [`crate::api::CreatedToken`].
    CreateToken(CreateToken),
    /// Nobody joins by it any more; answered with null.
    RevokeToken {
        /// It.
        id: TokenId,
    },
    /// Take a node for one that joined; answered with [`crate::api::AddedMember`].
    AddMember(NamedMember),
    /// Take a machine that joined for a stranger again; answered with null.
    ForgetMember(NamedMember),
    /// That a device is no more; it is one again if it answers.
    ForgetDisk {
        /// Where it was.
        disk: ShelfSlot,
    },
    /// Answered with all pools.
    Pools,
    /// Answered with the pool.
    CreatePool {
        /// Its disks.
        request: pool::CreatePool<ShelfSlot>,
        /// Whom they are to obey.
        grant: Option<Grant>,
    },
    /// What that would do; answered with a [`pool::PoolForecast`].
    PlanCreatePool(pool::CreatePool<ShelfSlot>),
    /// Answered with the pool.
    ExtendPool {
        /// The pool.
        pool: String,
        /// The disks.
        request: pool::ExtendPool<ShelfSlot>,
    },
    /// What that would do; answered with a [`pool::PoolForecast`].
    PlanExtendPool {
        /// The pool.
        pool: String,
        /// The disks.
        request: pool::ExtendPool<ShelfSlot>,
    },
    /// Whose it is; answered with a [`pool::ImportPlan`].
    PlanImportPool {
        /// Name or id.
        pool: String,
        /// Whose votes count.
        votes: pool::VotesOf,
    },
    /// Answered with the pool.
    ImportPool {
        /// Name or id.
        pool: String,
        /// How.
        request: ImportPool,
        /// By which its disks are to obey this supervisor, if they don't yet.
        grant: Option<Grant>,
    },
    /// Whom its disks obey; answered with a [`pool::PoolGrant`], or null where it is whoever claims them. Of a pool that
    /// isn't open as its disks have it.
    PoolGrant {
        /// Name or id.
        pool: String,
        /// Those whose secret half is known, and which are no forgeries.
        keys: Vec<PoolKey>,
    },
    /// Have its disks obey others; answered with a [`pool::PoolGrant`].
    SetGrant {
        /// The pool.
        pool: String,
        /// Whom.
        grant: Grant,
    },
    /// Disks of a pool that other machines have than had them; answered with [`pool::MovedDisk`]s.
    MovedDisks {
        /// Name or id.
        pool: String,
    },
    /// Take them for the pool's where they are; answered with null.
    AcceptDisks {
        /// Name or id.
        pool: String,
        /// What was shown.
        shown: Vec<MovedDisk>,
    },
    /// Answered with null.
    ReleasePool {
        /// The pool.
        pool: String,
    },
    /// Not to open one by itself any more that isn't open; answered with null.
    GiveUpPool {
        /// Its name, for people.
        name: String,
        /// Its identity.
        id: uuid::Uuid,
    },
    /// What destroying it would end; answered with a [`pool::DestroyPlan`].
    PlanDestroyPool {
        /// Name or id.
        pool: String,
    },
    /// Answered with a [`pool::DestroyReport`].
    DestroyPool {
        /// What was shown.
        shown: DestroyPlan,
    },
    /// Answered with the pool.
    RenamePool {
        /// The pool.
        pool: String,
        /// Its new name.
        name: String,
        /// Only check.
        dry_run: bool,
    },
    /// What would be taken off disks; answered with a [`pool::WipePlan`].
    PlanWipeDisks(WipeDisks),
    /// Answered with a [`pool::WipeReport`].
    WipeDisks {
        /// What was shown.
        shown: WipePlan,
    },
    /// Answered with a [`pool::EmptyForecast`].
    EmptyDisks {
        /// The pool.
        pool: String,
        /// The disks.
        request: EmptyDisks,
    },
    /// Answered with a [`pool::OfflineForecast`].
    OfflineDisks {
        /// The pool.
        pool: String,
        /// The disks.
        request: NamedDisks,
    },
    /// Answered with a [`pool::OnlineForecast`].
    OnlineDisks {
        /// The pool.
        pool: String,
        /// The disks.
        request: NamedDisks,
    },
    /// Answered with a [`pool::LabelForecast`].
    LabelDisks {
        /// The pool.
        pool: String,
        /// The labels and their disks.
        request: LabelDisks,
    },
    /// Answered with null.
    CancelJob {
        /// The pool.
        pool: String,
        /// The job.
        number: u32,
    },
    /// Answered with null.
    SetPool {
        /// The pool.
        pool: String,
        /// What of it.
        settings: SetPool,
    },
    /// Have a pool keep what somebody wants to have there; answered with [`pool::NotesKept`].
    KeepNotes {
        /// The pool.
        pool: String,
        /// Who wants what.
        want: KeepNotes,
    },
    /// What a pool keeps for others; answered with a list of [`pool::KeptNotes`].
    Notes {
        /// The pool.
        pool: String,
    },
    /// Forget what a pool keeps of somebody; answered with null.
    ForgetNotes {
        /// The pool.
        pool: String,
        /// Of whom.
        keeper: KeeperId,
    },
    /// Answered with the job's number.
    ScrubPool {
        /// The pool.
        pool: String,
        /// What is set first.
        settings: SetPool,
    },
    /// Answered with a [`pool::RebalanceForecast`].
    RebalancePool {
        /// The pool.
        pool: String,
        /// Only say what it would do.
        dry_run: bool,
    },
    /// Answered with a [`pool::ConvertForecast`].
    ConvertVolume {
        /// The volume.
        volume: VolumeName,
        /// The layout.
        request: ConvertVolume,
    },
    /// Answered with the volume.
    CreateVolume {
        /// The pool.
        pool: String,
        /// The volume.
        request: CreateVolume,
    },
    /// What that would do; answered with a [`pool::VolumeForecast`].
    PlanVolume {
        /// The pool.
        pool: String,
        /// The volume.
        request: CreateVolume,
    },
    /// What growing would do; answered with a [`pool::VolumeForecast`].
    PlanGrowth {
        /// The volume.
        volume: VolumeName,
        /// New size or share of the free space to add.
        size: VolumeSize,
    },
    /// Answered with the volume.
    ExtendVolume {
        /// The volume.
        volume: VolumeName,
        /// New size or share of the free space to add.
        size: VolumeSize,
    },
    /// What making it smaller would do; answered with a [`pool::VolumeForecast`].
    PlanReduction {
        /// The volume.
        volume: VolumeName,
        /// Its new size.
        bytes: u64,
    },
    /// Gives up what lies beyond a volume's new end; answered with the volume.
    ReduceVolume {
        /// The volume.
        volume: VolumeName,
        /// Its new size.
        bytes: u64,
    },
    /// Answered with the volume.
    RenameVolume {
        /// The volume.
        volume: VolumeName,
        /// Its new name, without that of the pool.
        name: String,
    },
    /// Answered with null.
    RemoveVolume {
        /// The volume.
        volume: VolumeName,
    },
    /// Answered with what is lost.
    AcceptLoss {
        /// The volume.
        volume: VolumeName,
        /// Only say what.
        dry_run: bool,
    },
    /// Answered with progress, then the report.
    VerifyVolume {
        /// The volume.
        volume: VolumeName,
        /// One copy only.
        copy: Option<u8>,
    },
    /// Answered with [`pool::VolumeStats`].
    VolumeStats {
        /// The volume.
        volume: VolumeName,
    },
    /// What happened to a pool; answered with a list of [`pool::HistoryEntry`], the oldest first.
    History {
        /// The pool.
        pool: String,
    },
    /// Somebody had something done to a pool: keep and tell that. Answered with null.
    TellCommand {
        /// The pool.
        pool: String,
        /// Who.
        who: String,
        /// What.
        what: String,
        /// `done`, or why it wasn't.
        result: String,
    },
    /// Answered with a text for Prometheus: what is exported, and where the time of volumes goes.
    Metrics,
    /// Answered with null.
    SetProperty {
        /// The volume.
        volume: VolumeName,
        /// The property.
        key: String,
        /// Its value; removed when none.
        value: Option<String>,
    },
    /// Serve the volume through the FUSE descriptor that comes with the line; answered with the
    /// [`Attachment`] once it is being served.
    AttachVolume {
        /// The volume.
        volume: VolumeName,
        /// A second descriptor comes with it, which ends the connection of the first when it is written to.
        #[serde(default)]
        controlled: bool,
    },
    /// Answered with what is served through FUSE, as [`crate::reconcile::Attachments`].
    AttachedVolumes,
    /// Whether the volume may be served from that attachment: it is alive, and the pool's lease runs;
    /// answered with a boolean.
    Lease {
        /// The volume.
        volume: VolumeName,
        /// What it is served from.
        attachment: Attachment,
    },
    /// Whether an export could be made: its interfaces are there, and nobody else answers for its address
    /// on them; answered with null, after some seconds.
    CheckExport {
        /// The export.
        export: ExportSetting,
    },
    /// Export what the pool's volumes have as exports, but for these volumes: theirs came with the
    /// pool and wait for a person's word. Answered with null.
    HeldExports {
        /// The pool's identity.
        pool: String,
        /// Names of volumes in it.
        volumes: BTreeSet<String>,
    },
    /// Forget an ownership that a disk can't read any more; answered with null.
    ResetEpoch {
        /// The disk.
        disk: ShelfSlot,
        /// Only check that there is something to forget.
        dry_run: bool,
    },
    /// Release all leases cleanly and stop. Answered with null when it is done.
    Shutdown,
}

/// A line to the engine, or to another process with requests of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine<R = EngineRequest> {
    /// Chosen by the asker; unique among its requests in flight.
    pub id: u64,
    /// The request.
    pub request: R,
}

/// A line from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyLine<E = PoolEvent> {
    /// A request goes on.
    Progress {
        /// The request.
        id: u64,
        /// How far.
        progress: Progress,
    },
    /// A request is done.
    Result {
        /// The request.
        id: u64,
        /// The answer.
        value: Value,
    },
    /// A request failed.
    Error {
        /// The request.
        id: u64,
        /// Why.
        error: ApiError,
    },
    /// Something happened.
    Event(E),
    /// So many events were lost here because the reader was too slow: look at the reports.
    EventsLost(u64),
}

/// Cuts a stream of bytes into lines, in bounded memory.
#[derive(Debug)]
pub struct LineReader {
    bytes_max: usize,
    buffer: Vec<u8>,
    /// How much of the buffer was handed out as lines; it goes when more comes, not with each line.
    taken: usize,
    /// Up to where there is no end of a line.
    scanned: usize,
}

/// The other end sent a line of more bytes than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line longer than {0} bytes")]
pub struct LineTooLong(pub usize);

impl Default for LineReader {
    fn default() -> LineReader {
        LineReader::new(LINE_BYTES_MAX)
    }
}

impl LineReader {
    /// For lines of at most `bytes_max`.
    pub fn new(bytes_max: usize) -> LineReader {
        LineReader { bytes_max, buffer: Vec::new(), taken: 0, scanned: 0 }
    }

    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.scanned -= self.taken;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        match self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let end = self.scanned + at;
                let line = self.buffer[self.taken..end].to_vec();
                self.taken = end + 1;
                self.scanned = self.taken;
                Ok(Some(line))
            }
            None if self.buffer.len() - self.taken > self.bytes_max => {
                Err(LineTooLong(self.bytes_max))
            }
            None => {
                self.scanned = self.buffer.len();
                Ok(None)
            }
        }
    }
}

/// A value as a line, with its end.
pub fn to_line<T: Serialize>(value: &T) -> Vec<u8> {
    // Only plain data is sent; an unserialisable value would be a defect, shown as an empty line
    // that the other end answers with an error.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use block::Histogram;
    use pool::{DiskOperations, DiskStats, OperationStats, RequestStats, VolumeStats};

    use super::*;
    use crate::api::ErrorCode;

    #[test]
    fn lines_are_cut_wherever_the_bytes_were() {
        let text = b"{\"a\":1}\n\nlast\npartial";
        for chunk in 1..text.len() {
            let mut reader = LineReader::default();
            let mut lines = Vec::new();
            for bytes in text.chunks(chunk) {
                reader.push(bytes);
                while let Some(line) = reader.next_line().unwrap() {
                    lines.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(lines, ["{\"a\":1}", "", "last"], "chunks of {chunk}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = LineReader::new(9);
        reader.push(b"xxxxxxxxx");
        assert_eq!(reader.next_line(), Ok(None));
        reader.push(b"x");
        assert_eq!(reader.next_line(), Err(LineTooLong(9)));
    }

    fn a_grant() -> Grant {
        let key = seal::PoolKeyPair::of(seal::SecretKey::new([1; 32])).unwrap();
        key.found(&[seal::PublicKey([2; 32])]).unwrap()
    }

    #[test]
    fn every_request_survives_its_line() {
        let volume = VolumeName::new("p", "v").unwrap();
        let requests = [
            EngineRequest::Process,
            EngineRequest::CreatePool {
                request: serde_json::from_str(r#"{"name":"p","disks":["e1.0"]}"#).unwrap(),
                grant: Some(a_grant()),
            },
            EngineRequest::ImportPool {
                pool: "p".into(),
                request: ImportPool {
                    grace: Some(std::time::Duration::from_secs(5)),
                    force: true,
                    ..ImportPool::default()
                },
                grant: None,
            },
            EngineRequest::SetGrant { pool: "p".into(), grant: a_grant() },
            EngineRequest::ExtendVolume {
                volume: volume.clone(),
                size: VolumeSize::PercentFree(100),
            },
            EngineRequest::PlanReduction { volume: volume.clone(), bytes: 1 << 20 },
            EngineRequest::ReduceVolume { volume: volume.clone(), bytes: u64::MAX },
            EngineRequest::VerifyVolume { volume: volume.clone(), copy: Some(1) },
            EngineRequest::SetProperty {
                volume: volume.clone(),
                key: "mount".into(),
                value: Some("{\"path\":\"/srv/a\nb\"}".into()),
            },
            EngineRequest::AttachVolume { volume: volume.clone(), controlled: true },
            EngineRequest::Lease { volume, attachment: Attachment::DEAD },
            EngineRequest::EmptyDisks {
                pool: "p".into(),
                request: EmptyDisks {
                    disks: vec!["node2".into()],
                    remove: true,
                    ..EmptyDisks::default()
                },
            },
            EngineRequest::OfflineDisks {
                pool: "p".into(),
                request: NamedDisks { disks: vec!["node2".into()], dry_run: true },
            },
            EngineRequest::OnlineDisks { pool: "p".into(), request: NamedDisks::default() },
            EngineRequest::LabelDisks {
                pool: "p".into(),
                request: LabelDisks {
                    labels: vec![
                        "rack=A:e1.0,node2".parse().unwrap(),
                        "rack=:e3.0".parse().unwrap(),
                    ],
                    dry_run: true,
                },
            },
            EngineRequest::CancelJob { pool: "p".into(), number: 3 },
            EngineRequest::SetPool {
                pool: "p".into(),
                settings: SetPool { rebuild_delay_secs: Some(None), ..SetPool::default() },
            },
            EngineRequest::ScrubPool { pool: "p".into(), settings: SetPool::default() },
            EngineRequest::KeepNotes { pool: "p".into(), want: KeepNotes::default() },
            EngineRequest::ForgetNotes { pool: "p".into(), keeper: KeeperId(7) },
            EngineRequest::History { pool: "p".into() },
            EngineRequest::TellCommand {
                pool: "p".into(),
                who: "root".into(),
                what: "pool scrub p".into(),
                result: "done".into(),
            },
            EngineRequest::RebalancePool { pool: "p".into(), dry_run: true },
            EngineRequest::ConvertVolume {
                volume: "p/v".parse().unwrap(),
                request: ConvertVolume { layout: pool::Layout::Mirror(3), dry_run: false },
            },
            EngineRequest::HeldExports { pool: "1".into(), volumes: ["v".into()].into() },
            EngineRequest::Shutdown,
        ];
        for (id, request) in requests.into_iter().enumerate() {
            let line = RequestLine { id: id as u64, request };
            let bytes = to_line(&line);
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<RequestLine>(&bytes).unwrap(), line);
        }
    }

    #[test]
    fn every_reply_survives_its_line() {
        let replies = [
            ReplyLine::Progress { id: 1, progress: Progress { done_bytes: 1, total_bytes: 9 } },
            ReplyLine::Result { id: 2, value: Value::Null },
            ReplyLine::Error { id: 3, error: ApiError::new(ErrorCode::Busy, "busy") },
            ReplyLine::Event(PoolEvent::DiskOut {
                pool: "p".into(),
                disk: "e1.0".into(),
                why: "no answer".into(),
            }),
            ReplyLine::EventsLost(3),
        ];
        for reply in replies {
            let bytes = to_line(&reply);
            assert_eq!(serde_json::from_slice::<ReplyLine>(&bytes).unwrap(), reply);
        }
    }

    /// The names are part of the interface.
    #[test]
    fn stats_have_names_and_survive_their_line() {
        let mut times = Histogram::default();
        times.note(Duration::from_micros(100));
        let write = RequestStats { bytes: 512, total: times, log: times, ..Default::default() };
        let network = OperationStats { bytes: 0, total: times };
        let operations = DiskOperations { network, ..Default::default() };
        let disk = DiskStats { name: "e1.0".into(), node: "n1".into(), operations };
        let stats = VolumeStats { write, disks: vec![disk], ..Default::default() };
        let value: Value = serde_json::from_slice(&to_line(&stats)).unwrap();
        assert_eq!(value["write"]["log"]["p50_us"], 128);
        assert!(value["write"].get("room").is_none(), "nothing waited for it");
        assert_eq!(value["disks"][0]["name"], "e1.0");
        assert_eq!(value["disks"][0]["network"]["total"]["count"], 1);
        assert_eq!(serde_json::from_value::<VolumeStats>(value).unwrap(), stats);
    }
}
