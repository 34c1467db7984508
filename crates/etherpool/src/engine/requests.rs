//! Requests of the control channel: one arm each, one task each, so that a long one holds nobody up.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block::VolumeName;
use block::{Claim, Epoch, IoError, Lba, OwnerId, RefusalReason, SectorRange};
use control::api::{
    AddedMember, ApiError, ConvertVolume, CreateToken, CreateVolume, CreatedToken, ErrorCode,
    NamedMember, PoolReportExt as _, ProcessState,
};
use control::channel::{EngineRequest, ReplyLine};
use frontend::fuse::Connection;
use os::reactor::Mailbox;
use serde::Serialize;
use serde_json::Value;

use super::Process;
use super::channel::{Incoming, Peer};
use crate::admin::AdminHandler;
use crate::membership;
use aoe_wire::ShelfSlot;
use seal::TokenRefused;

/// Answers until the engine stops.
pub async fn answer_all(process: Rc<Process>, mut requests: Mailbox<Incoming>) {
    while let Some(Incoming { line, descriptors, peer }) = requests.receive().await {
        let process = Rc::clone(&process);
        let runtime = process.handle.runtime().clone();
        runtime.spawn(async move {
            let id = line.id;
            let work = Work { process: &process, id, peer: &peer };
            let reply = match work.perform(line.request, descriptors).await {
                Ok(value) => ReplyLine::Result { id, value },
                Err(error) => ReplyLine::Error { id, error },
            };
            peer.finish(reply);
        });
    }
}

/// The first sector of a disk that is shown to nobody but its owner (docs/session.md, rule 3).
const OWNED_FROM: u64 = (48 << 10) / block::SECTOR_BYTES as u64;

const TOKEN_VALID_MIN: Duration = Duration::from_secs(60);
/// How long a token may be good: it is for machines that are set up now, not for whoever finds it next year.
const TOKEN_VALID_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

struct Work<'a> {
    process: &'a Process,
    id: u64,
    peer: &'a Arc<Peer>,
}

/// The answer to what was to be given up, if it was there.
fn given_up(was_there: bool, why: String) -> Result<Value, ApiError> {
    was_there.then_some(Value::Null).ok_or_else(|| ApiError::new(ErrorCode::NotFound, why))
}

fn not_kept(error: anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::Io, format!("{error:#}"))
}

fn value(of: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(of).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

impl Work<'_> {
    async fn create_token(&self, request: CreateToken) -> Result<CreatedToken, ApiError> {
        if self.process.key.is_none() {
            let why = "this supervisor demands no keys: it takes disks of everybody";
            return Err(ApiError::new(ErrorCode::Refused, why).remedy(
                "set security = \"encrypt\" in supervisor.toml, and restart the supervisor",
            ));
        }
        let valid = Duration::from_secs(request.valid_seconds);
        if !(TOKEN_VALID_MIN..=TOKEN_VALID_MAX).contains(&valid) {
            let why = "a token is good for a minute to 90 days";
            return Err(
                ApiError::new(ErrorCode::Invalid, why).remedy("choose another time: --valid 24h")
            );
        }
        let token = membership::make_token(valid).map_err(not_kept)?;
        let added = self.process.members.add_token(token.clone()).await;
        added.map_err(|error| match error.downcast::<TokenRefused>() {
            Err(error) => not_kept(error),
            Ok(refused) => ApiError::new(ErrorCode::Refused, refused.to_string())
                .remedy("use one that there is, or give one up: etherpool token revoke"),
        })?;
        Ok(CreatedToken { report: membership::report_of(&token), token })
    }

    async fn perform(
        &self,
        request: EngineRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Value, ApiError> {
        let process = self.process;
        let engine = &process.engine;
        match request {
            EngineRequest::Process => value(self.state()),
            EngineRequest::Discover => {
                process.network.ask();
                value(process.network.targets())
            }
            EngineRequest::Versions => value(process.network.versions()),
            EngineRequest::Disks => value(engine.disks().await),
            EngineRequest::ForgetDisk { disk } => {
                process.network.forget(disk, engine);
                Ok(Value::Null)
            }
            // A closed pool looks like one that was given up, which services would forget.
            EngineRequest::Pools if process.closing.get() => Err(ApiError::engine_away()),
            EngineRequest::Pools => value(engine.reports()),
            EngineRequest::Members => value(process.members.report()),
            EngineRequest::CreateToken(request) => value(self.create_token(request).await?),
            EngineRequest::RevokeToken { id } => {
                let was_there = process.members.revoke_token(id).await.map_err(not_kept)?;
                let why = format!("there is no token {id}, or no more");
                given_up(was_there, why).map_err(|error| error.remedy("see `etherpool token list`"))
            }
            EngineRequest::AddMember(NamedMember { key }) => {
                // Where nobody has to prove a key there is none to tell.
                let supervisor = process.key.ok_or_else(|| {
                    ApiError::new(
                        ErrorCode::Refused,
                        "this supervisor demands no keys: nobody joins it",
                    )
                    .remedy("set `security = \"encrypt\"` in its configuration")
                })?;
                process.members.add(key).await.map_err(not_kept)?;
                value(AddedMember { supervisor })
            }
            EngineRequest::ForgetMember(NamedMember { key }) => {
                let was_there = process.members.forget(key).await.map_err(not_kept)?;
                let why = format!("no node with the key {key} has joined");
                given_up(was_there, why).map_err(|error| error.remedy("see `etherpool key list`"))
            }
            EngineRequest::CreatePool { request, grant } => {
                process.network.check_own(request.disks.iter().chain(&request.witnesses))?;
                value(engine.create_granted(request.by_name(), grant).await?)
            }
            EngineRequest::PoolGrant { pool, keys } => value(process.grant_of(&pool, &keys).await?),
            EngineRequest::SetGrant { pool, grant } => value(engine.set_grant(&pool, grant).await?),
            EngineRequest::PlanCreatePool(request) => {
                process.network.check_own(request.disks.iter().chain(&request.witnesses))?;
                value(engine.plan_create(&request.by_name()).await?)
            }
            EngineRequest::PlanExtendPool { pool, request } => {
                process.network.check_own(request.disks.iter().chain(&request.witnesses))?;
                value(engine.plan_extend(&pool, &request.by_name()).await?)
            }
            EngineRequest::PlanImportPool { pool, votes } => {
                value(engine.plan_import(&pool, votes).await?)
            }
            EngineRequest::PlanVolume { pool, request } => {
                let CreateVolume { name, size, layout } = request;
                value(engine.plan_volume(&pool, &name, size, layout)?)
            }
            EngineRequest::PlanGrowth { volume, size } => {
                value(engine.plan_growth(volume.pool(), volume.volume(), size)?)
            }
            EngineRequest::ExtendPool { pool, request } => {
                process.network.check_own(request.disks.iter().chain(&request.witnesses))?;
                value(engine.extend_pool(&pool, &request.by_name()).await?)
            }
            EngineRequest::ImportPool { pool, request, grant } => {
                if let Some(grant) = grant {
                    engine.learn_grant(&pool, grant)?;
                }
                let named = |one: &pool::PoolReport| one.name == pool || one.id == pool;
                let import = engine.import_pool(&pool, request);
                value(process.exports.while_importing(named, import).await?)
            }
            EngineRequest::MovedDisks { pool } => value(engine.moved_disks(&pool)?),
            EngineRequest::AcceptDisks { pool, shown } => {
                value(engine.accept_disks(&pool, &shown)?)
            }
            EngineRequest::ReleasePool { pool } => value(engine.release_pool(&pool).await?),
            EngineRequest::GiveUpPool { id, .. } => value(engine.give_up_pool(id)?),
            EngineRequest::PlanDestroyPool { pool } => value(engine.plan_destroy(&pool).await?),
            EngineRequest::DestroyPool { shown } => value(engine.destroy_pool(&shown).await?),
            EngineRequest::RenamePool { pool, name, dry_run } => {
                let renamed = match dry_run {
                    true => engine.plan_rename(&pool, &name)?,
                    false => engine.rename_pool(&pool, &name).await?,
                };
                process.look_at_served().await;
                value(renamed)
            }
            EngineRequest::PlanWipeDisks(request) => {
                value(engine.plan_wipe(&request.by_name()).await?)
            }
            EngineRequest::WipeDisks { shown } => value(engine.wipe_disks(&shown).await?),
            EngineRequest::EmptyDisks { pool, request } => {
                value(engine.empty_disks(&pool, &request).await?)
            }
            EngineRequest::OfflineDisks { pool, request } => {
                value(engine.offline_disks(&pool, &request).await?)
            }
            EngineRequest::OnlineDisks { pool, request } => {
                value(engine.online_disks(&pool, &request).await?)
            }
            EngineRequest::LabelDisks { pool, request } => {
                value(engine.label_disks(&pool, &request).await?)
            }
            EngineRequest::CancelJob { pool, number } => {
                value(engine.cancel_job(&pool, number).await?)
            }
            EngineRequest::SetPool { pool, settings } => {
                value(engine.set_pool(&pool, &settings).await?)
            }
            EngineRequest::KeepNotes { pool, want } => value(engine.keep_notes(&pool, want).await?),
            EngineRequest::Notes { pool } => value(engine.notes(&pool)?),
            EngineRequest::ForgetNotes { pool, keeper } => {
                let was_there = engine.forget_notes(&pool, keeper).await?;
                let why = format!("pool {pool} has no copy of the boot server {keeper}");
                given_up(was_there, why)
                    .map_err(|error| error.remedy(format!("see `etherpool boot copies {pool}`")))
            }
            EngineRequest::ScrubPool { pool, settings } => {
                value(engine.scrub_pool(&pool, &settings).await?)
            }
            EngineRequest::RebalancePool { pool, dry_run } => {
                value(engine.rebalance_pool(&pool, dry_run).await?)
            }
            EngineRequest::ConvertVolume { volume, request } => {
                let ConvertVolume { layout, dry_run } = request;
                let (pool, volume) = (volume.pool(), volume.volume());
                value(engine.convert_volume(pool, volume, layout, dry_run).await?)
            }
            EngineRequest::CreateVolume { pool, request } => {
                let CreateVolume { name, size, layout } = request;
                value(engine.create_volume(&pool, &name, size, layout).await?)
            }
            EngineRequest::ExtendVolume { volume, size } => {
                let report = engine.extend_volume(volume.pool(), volume.volume(), size).await?;
                process.volumes.refresh(&volume);
                value(report)
            }
            EngineRequest::PlanReduction { volume, bytes } => {
                value(engine.plan_reduction(volume.pool(), volume.volume(), bytes)?)
            }
            EngineRequest::ReduceVolume { volume, bytes } => {
                let report = engine.reduce_volume(volume.pool(), volume.volume(), bytes).await?;
                process.volumes.refresh(&volume);
                value(report)
            }
            EngineRequest::RenameVolume { volume, name } => {
                let report = engine.rename_volume(volume.pool(), volume.volume(), &name).await?;
                process.look_at_served().await;
                value(report)
            }
            EngineRequest::RemoveVolume { volume } => {
                value(engine.remove_volume(volume.pool(), volume.volume()).await?)
            }
            EngineRequest::AcceptLoss { volume, dry_run } => {
                value(engine.accept_log_loss(volume.pool(), volume.volume(), dry_run)?)
            }
            EngineRequest::VerifyVolume { volume, copy } => self.verify(&volume, copy).await,
            EngineRequest::VolumeStats { volume } => {
                value(engine.volume_stats(volume.pool(), volume.volume())?)
            }
            EngineRequest::Metrics => {
                let handler = Rc::clone(&process.exports) as Rc<dyn AdminHandler>;
                value(crate::admin::metrics_of(handler).await)
            }
            EngineRequest::History { pool } => value(engine.history(&pool)?),
            EngineRequest::TellCommand { pool, who, what, result } => {
                engine.tell_command(pool, who, what, result);
                Ok(Value::Null)
            }
            EngineRequest::SetProperty { volume, key, value: property } => {
                engine.set_property(volume.pool(), volume.volume(), &key, property).await?;
                process.look_at_served().await;
                Ok(Value::Null)
            }
            EngineRequest::AttachVolume { volume, .. } => self.attach(&volume, descriptors),
            EngineRequest::AttachedVolumes => value(process.volumes.attachments()),
            EngineRequest::Lease { volume, attachment } => {
                let runs = engine.keeps(volume.pool(), volume.volume());
                value(runs && process.volumes.serves(&volume, attachment))
            }
            EngineRequest::CheckExport { export } => {
                process.exports.check(&export)?;
                value(process.check_address(&export).await?)
            }
            EngineRequest::HeldExports { pool, volumes } => {
                // Exported at the next look: whoever tells mustn't wait for a device.
                process.exports.hold(pool, volumes);
                Ok(Value::Null)
            }
            EngineRequest::ResetEpoch { disk, dry_run } => self.reset_epoch(disk, dry_run).await,
            EngineRequest::Shutdown => {
                process.stopping.notify_all();
                Ok(Value::Null)
            }
        }
    }

    fn state(&self) -> ProcessState {
        let process = self.process;
        let dropped = crate::logging::dropped_lines();
        ProcessState {
            pid: std::process::id(),
            instance: process.instance,
            memory_locked: process.hardening.memory_locked,
            io_flusher: process.hardening.io_flusher,
            log_lines_dropped: dropped,
            interfaces: process.network.interfaces(),
            warnings: process.hardening.warnings.clone(),
            troubles: process.exports.troubles(),
        }
    }

    async fn verify(&self, volume: &VolumeName, copy: Option<u8>) -> Result<Value, ApiError> {
        let id = self.id;
        let tell = |progress| self.peer.tell_progress(id, progress);
        let engine = &self.process.engine;
        value(engine.verify_volume(volume.pool(), volume.volume(), copy, &tell).await?)
    }

    fn attach(&self, volume: &VolumeName, descriptors: Vec<OwnedFd>) -> Result<Value, ApiError> {
        let mut descriptors = descriptors.into_iter();
        let fuse = descriptors.next().ok_or_else(|| {
            ApiError::new(ErrorCode::Invalid, "no descriptor came with the request to attach")
        })?;
        let connection = Connection { fuse, abort: descriptors.next() };
        let serving = self.process.engine.reports().iter().any(|pool| pool.serves(volume));
        if !serving {
            return Err(ApiError::new(ErrorCode::Suspended, format!("{volume} is not served now"))
                .remedy("see `etherpool pool show`"));
        }
        let device = self.process.engine.open_to_mount(volume.pool(), volume.volume())?;
        value(self.process.volumes.attach(volume, device, connection)?)
    }

    /// Claims a disk whose record of its owner can't be read, with the lowest epoch there is: the
    /// pool that it belongs to raises it at once.
    async fn reset_epoch(&self, disk: ShelfSlot, dry_run: bool) -> Result<Value, ApiError> {
        let device = self.process.network.device(disk).ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("disk {disk} was not found"))
                .remedy("see `etherpool disk list`")
        })?;
        let failed = |error: IoError| {
            ApiError::new(ErrorCode::Io, format!("disk {disk} can't be reset: {error}"))
                .remedy("see whether its node answers, and what its log says")
        };
        let nothing = |why: &str| {
            ApiError::new(ErrorCode::Invalid, format!("disk {disk} {why}"))
                .remedy("there is nothing to reset; see `etherpool disk list` for what is wrong")
        };
        let holder = device.renew().await.map_err(failed)?.value;
        if holder.epoch != Epoch::OBSERVER {
            return Err(nothing("has a readable record of its owner"));
        }
        // Nobody on record: of a disk that never had an owner everything can be read, of one whose
        // record is unreadable only labels and votes.
        match device.read(SectorRange::new(Lba(OWNED_FROM), 1)).await {
            Err(IoError::Refused(RefusalReason::Owned)) => {}
            Ok(_) => return Err(nothing("has no owner on record")),
            Err(error) => return Err(failed(error)),
        }
        if dry_run {
            return Ok(Value::Null);
        }
        let claim = Claim {
            epoch: Epoch::OBSERVER.next(),
            owner: OwnerId::NONE,
            force: true,
            trust: block::Trust::Unchanged,
        };
        let claimed = device.claim(claim).await;
        // Whoever is to have it claims it for himself.
        device.disown();
        match claimed {
            Ok(_) => Ok(Value::Null),
            Err(IoError::Fenced { .. }) => Err(nothing("has a readable record of its owner")),
            Err(error) => Err(failed(error)),
        }
    }
}
