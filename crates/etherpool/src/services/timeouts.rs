//! How long an answer of the engine is waited for: nobody who asks for something waits for ever, and
//! who gives up says for what it waited. What was asked for may go on.

use std::time::Duration;

use control::api::{ApiError, ErrorCode};
use control::channel::EngineRequest;

/// What the engine's loop answers out of memory. Longer than a short machine's pauses; shorter than
/// people believe in an answer.
const FROM_MEMORY: Duration = Duration::from_secs(5);
/// What asks disks present: each has its own limits, all below this.
const FROM_DISKS: Duration = Duration::from_secs(30);
/// What is committed to a pool's metadata. The engine itself gives up before
/// (`Limits::administer`, 30 s), and says more about why.
const COMMIT: Duration = Duration::from_secs(60);
/// Closing a pool: its logs are brought into place first, for as long as `Limits::close` (20 s), and
/// each of its disks is let go.
const RELEASE: Duration = Duration::from_secs(120);
/// What lays out metadata areas or logs, hundreds of megabytes on large disks over a slow link.
const LAYOUT: Duration = Duration::from_secs(600);
/// Opening a pool reads all its metadata; the grace that was asked for comes on top.
const IMPORT: Duration = Duration::from_secs(600);
/// Between two lines of progress: each is for a few megabytes.
pub const SILENCE: Duration = Duration::from_secs(60);

/// How long the answer to a request may take.
pub fn timeout_of(request: &EngineRequest) -> Duration {
    match request {
        EngineRequest::Process
        | EngineRequest::Discover
        | EngineRequest::Versions
        | EngineRequest::Members
        | EngineRequest::Pools
        | EngineRequest::ForgetDisk { .. }
        | EngineRequest::AttachedVolumes
        | EngineRequest::AttachVolume { .. }
        | EngineRequest::PlanVolume { .. }
        | EngineRequest::PlanGrowth { .. }
        | EngineRequest::PlanReduction { .. }
        | EngineRequest::VolumeStats { .. }
        | EngineRequest::History { .. }
        | EngineRequest::Notes { .. }
        | EngineRequest::Metrics
        | EngineRequest::MovedDisks { .. }
        | EngineRequest::AcceptDisks { .. }
        | EngineRequest::GiveUpPool { .. }
        | EngineRequest::TellCommand { .. }
        | EngineRequest::Lease { .. } => FROM_MEMORY,
        // Whether others answer for an address is asked of the network, for some seconds.
        EngineRequest::CheckExport { .. }
        | EngineRequest::HeldExports { .. }
        | EngineRequest::Disks
        | EngineRequest::PoolGrant { .. }
        | EngineRequest::PlanDestroyPool { .. }
        | EngineRequest::PlanWipeDisks(_)
        | EngineRequest::ResetEpoch { .. } => FROM_DISKS,
        EngineRequest::ReleasePool { .. }
        | EngineRequest::DestroyPool { .. }
        | EngineRequest::RenamePool { .. }
        | EngineRequest::WipeDisks { .. }
        | EngineRequest::Shutdown => RELEASE,
        EngineRequest::CreatePool { .. }
        | EngineRequest::ExtendPool { .. }
        | EngineRequest::CreateVolume { .. }
        | EngineRequest::ExtendVolume { .. } => LAYOUT,
        EngineRequest::ImportPool { request, .. } => {
            IMPORT.saturating_add(request.grace.unwrap_or_default())
        }
        EngineRequest::VerifyVolume { .. } => SILENCE,
        _ => COMMIT,
    }
}

/// For people: what the engine was asked to do.
pub fn what(request: &EngineRequest) -> String {
    match request {
        EngineRequest::Process => "to say how it is".into(),
        EngineRequest::Discover => "which targets there are".into(),
        EngineRequest::Versions => "which versions nodes run".into(),
        EngineRequest::Disks => "which disks there are".into(),
        EngineRequest::ForgetDisk { disk } => format!("to forget disk {disk}"),
        EngineRequest::Members => "which nodes joined".into(),
        EngineRequest::CreateToken(_) => "to make a token".into(),
        EngineRequest::RevokeToken { id } => format!("to give up the token {id}"),
        EngineRequest::AddMember(named) => {
            format!("to take the node with the key {} for one that joined", named.key)
        }
        EngineRequest::ForgetMember(named) => {
            format!("to take the node with the key {} for a stranger", named.key)
        }
        EngineRequest::Pools => "which pools there are".into(),
        EngineRequest::AttachedVolumes => "which volumes it serves".into(),
        EngineRequest::CreatePool { request, .. } => format!("to make pool {}", request.name),
        EngineRequest::PoolGrant { pool, .. } => format!("whom the disks of pool {pool} obey"),
        EngineRequest::SetGrant { pool, .. } => {
            format!("to have the disks of pool {pool} obey others")
        }
        EngineRequest::ExtendPool { pool, .. } => format!("to extend pool {pool}"),
        EngineRequest::ImportPool { pool, .. } => format!("to import pool {pool}"),
        EngineRequest::PlanCreatePool(request) => {
            format!("whether pool {} can be made", request.name)
        }
        EngineRequest::PlanExtendPool { pool, .. } => {
            format!("whether pool {pool} can be extended")
        }
        EngineRequest::PlanImportPool { pool, .. } => format!("whose pool {pool} is"),
        EngineRequest::PlanVolume { pool, request } => {
            format!("whether volume {pool}/{} can be made", request.name)
        }
        EngineRequest::PlanGrowth { volume, .. } => format!("whether volume {volume} can grow"),
        EngineRequest::HeldExports { .. } => "to hold exports back".into(),
        EngineRequest::MovedDisks { pool } => format!("which disks of pool {pool} were moved"),
        EngineRequest::AcceptDisks { pool, .. } => {
            format!("to take disks of pool {pool} where they are now")
        }
        EngineRequest::ReleasePool { pool } => format!("to release pool {pool}"),
        EngineRequest::GiveUpPool { name, .. } => format!("to give up pool {name}"),
        EngineRequest::PlanDestroyPool { pool } => {
            format!("what would end with pool {pool}")
        }
        EngineRequest::DestroyPool { shown } => format!("to destroy pool {}", shown.name),
        EngineRequest::RenamePool { pool, name, .. } => format!("to rename pool {pool} to {name}"),
        EngineRequest::PlanWipeDisks(_) => "what is on disks that are to be wiped".into(),
        EngineRequest::WipeDisks { .. } => "to wipe disks".into(),
        EngineRequest::EmptyDisks { pool, request } => {
            format!("to empty {} in pool {pool}", request.disks.join(" and "))
        }
        EngineRequest::OfflineDisks { pool, request } => {
            format!("to take {} in pool {pool} out of use", request.disks.join(" and "))
        }
        EngineRequest::OnlineDisks { pool, request } => {
            format!("to take {} in pool {pool} into use again", request.disks.join(" and "))
        }
        EngineRequest::LabelDisks { pool, .. } => format!("to label disks of pool {pool}"),
        EngineRequest::CancelJob { pool, number } => {
            format!("to cancel job {number} of pool {pool}")
        }
        EngineRequest::SetPool { pool, .. } => format!("to change settings of pool {pool}"),
        EngineRequest::KeepNotes { pool, .. } => {
            format!("to copy what is known of machines that boot into pool {pool}")
        }
        EngineRequest::Notes { pool } => {
            format!("what pool {pool} has of machines that boot")
        }
        EngineRequest::ForgetNotes { pool, keeper } => {
            format!("to have pool {pool} forget its copy of the boot server {keeper}")
        }
        EngineRequest::ScrubPool { pool, .. } => format!("to scrub pool {pool}"),
        EngineRequest::RebalancePool { pool, .. } => format!("to rebalance pool {pool}"),
        EngineRequest::ConvertVolume { volume, .. } => format!("to convert volume {volume}"),
        EngineRequest::CreateVolume { pool, request } => {
            format!("to make volume {pool}/{}", request.name)
        }
        EngineRequest::ExtendVolume { volume, .. } => format!("to extend volume {volume}"),
        EngineRequest::PlanReduction { volume, .. } => {
            format!("whether volume {volume} can be reduced")
        }
        EngineRequest::ReduceVolume { volume, .. } => format!("to reduce volume {volume}"),
        EngineRequest::RenameVolume { volume, name } => {
            format!("to rename volume {volume} to {name}")
        }
        EngineRequest::RemoveVolume { volume } => format!("to remove volume {volume}"),
        EngineRequest::AcceptLoss { volume, .. } => {
            format!("what of the log of volume {volume} is lost")
        }
        EngineRequest::VerifyVolume { volume, .. } => format!("to verify volume {volume}"),
        EngineRequest::VolumeStats { volume } => {
            format!("where the time of volume {volume} goes")
        }
        EngineRequest::Metrics => "for its metrics".into(),
        EngineRequest::History { pool } => format!("what happened to pool {pool}"),
        EngineRequest::TellCommand { pool, .. } => {
            format!("to keep what was done to pool {pool}")
        }
        EngineRequest::SetProperty { volume, key, .. } => {
            format!("to set the property {key} of volume {volume}")
        }
        EngineRequest::AttachVolume { volume, .. } => format!("to serve volume {volume}"),
        EngineRequest::Lease { volume, .. } => format!("whether {volume} may be served"),
        EngineRequest::CheckExport { export } => {
            format!("whether aoe:{} can be exported", export.address)
        }
        EngineRequest::ResetEpoch { disk, .. } => format!("to reset disk {disk}"),
        EngineRequest::Shutdown => "to stop".into(),
    }
}

/// Nobody waits any longer.
pub fn too_long(who: &str, asked: &str, limit: Duration) -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        format!("{who} was asked {asked} and has not answered within {} s", limit.as_secs()),
    )
    .remedy("it may still be done: see `etherpool status`; if that process stays silent, its log says why")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_gives_up_says_for_what_it_waited() {
        let request = EngineRequest::ReleasePool { pool: "tank".into() };
        let error = too_long("the engine", &what(&request), timeout_of(&request));
        assert_eq!(
            error.message,
            "the engine was asked to release pool tank and has not answered within 120 s"
        );
        assert_eq!(error.code, ErrorCode::Unavailable);
        let grace = |grace_secs: u64| -> EngineRequest {
            let text = format!(
                r#"{{"op":"import-pool","pool":"p","request":{{"grace_secs":{grace_secs}}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert!(timeout_of(&grace(3600)) > Duration::from_secs(3600));
        assert_eq!(timeout_of(&grace(u64::MAX)), Duration::MAX);
    }
}
