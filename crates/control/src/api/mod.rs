//! The HTTP API of the supervisor: what is sent and answered.
//!
//! One route per operation under `/v2`, on a Unix socket and by TLS; what the former version has is under `/v1`. A request that takes long answers with JSON
//! lines ([`StreamLine`]): progress or what it waits for, every two seconds at least, then exactly one
//! result or error. Everything else answers with one JSON document; an error is always an [`ApiError`].

mod access;
mod asked;
mod error;
mod event;
mod former;
mod keys;
mod plan;
mod request;
mod status;
mod version;

pub(crate) use access::one_or_more;
pub use access::{ApiClient, ApiConfig, Role};
pub use asked::{Asked, COMMAND_HEADER};
pub use error::{ApiError, ErrorCode};
pub use event::{EventLine, Missed};
pub use former::{NO_OPERATION, former_path, from_former, operation, to_former};
pub use keys::{
    AddedMember, CreateToken, CreatedToken, MembersReport, NamedMember, NamedSupervisor,
    PoolKeyReport, PoolKeySecret, RevokeSupervisor, RotateKey, TokenReport,
};
pub use plan::{GrownPool, PoolPlan, WitnessPlan};
pub use request::{
    AcceptLoss, ConvertVolume, CreatePool, CreateVolume, EmptyDisks, ExportVolume, ExtendPool,
    ExtendVolume, ImportPool, LabelDisks, MakeFs, MountVolume, NamedDisks, RebalancePool,
    ReduceVolume, ReleasePool, RemoveVolume, RenamePool, RenameVolume, ResetEpoch, ServeFtp,
    SetPool, ShownDisk, UnexportVolume, UnmountVolume, VerifyVolume, WipeDisks, Witness, Witnesses,
};
pub use status::{
    FuseOverIoUring, HeldReport, ImportResult, InterfaceState, PoolReportExt, Preview,
    ProcessState, SeenTarget, ServiceState, Status, StreamLine, VolumeServices,
};
pub use version::{NodeVersion, SupervisorVersion, VersionReport};
