//! What the routes of the HTTP API do: each a line or two. The work is in `operations` and the engine.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts as _, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use block::{VolumeName, check_name};
use control::alerts::Seen;
use control::api::{
    AcceptLoss, ApiError, CreateVolume, ErrorCode, ExportVolume, ExtendVolume, FuseOverIoUring,
    HeldReport, ImportPool, MakeFs, MountVolume, NO_OPERATION, PoolReportExt as _, Preview,
    ProcessState, ReduceVolume, ReleasePool, RemoveVolume, RenamePool, RenameVolume, ResetEpoch,
    Role, SeenTarget, ServeFtp, SetPool, Status, StreamLine, UnexportVolume, UnmountVolume,
    VerifyVolume, WipeDisks,
};
use control::channel::{EngineRequest, to_line};
use control::settings::VolumeSettings;
use frontend::fuse::Switch;
use pool::{
    DestroyPlan, DestroyReport, DiskReport, ImportPlan, PoolReport, Progress, VerifyReport,
    VolumeForecast, VolumeReport, VolumeStats, WipePlan, WipeReport,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::access::Peer;
use super::alerts::now_secs;
use super::commands::{outcome, take_note};
use super::described::{Lines, Path, Query, Work};
use super::{Services, mounts, operations::find, told};
use aoe_wire::ShelfSlot;

pub(super) type App = State<Arc<Services>>;
pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// A JSON document.
pub(super) struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => {
                ([("content-type", "application/json")], Body::from(bytes)).into_response()
            }
            Err(error) => {
                Refusal(ApiError::new(ErrorCode::Internal, error.to_string())).into_response()
            }
        }
    }
}

/// An error as an answer.
pub(super) struct Refusal(ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Refusal {
        Refusal(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        (status, [("content-type", "application/json")], Body::from(body)).into_response()
    }
}

pub(super) async fn no_route(uri: Uri) -> Refusal {
    ApiError::new(ErrorCode::NotFound, format!("{NO_OPERATION}: {}", uri.path()))
        .remedy("use the same version of command and supervisor")
        .into()
}

/// A request with a body: what its path names, and what is asked for.
pub(super) struct On<P, R> {
    pub(super) services: Arc<Services>,
    /// Who asks.
    pub(super) peer: Peer,
    pub(super) path: P,
    pub(super) request: R,
}

pub(super) type OnPool<R> = On<String, R>;
pub(super) type OnVolume<R> = On<(String, String), R>;

impl<P, R> FromRequest<Arc<Services>> for On<P, R>
where
    P: DeserializeOwned + Send + 'static,
    R: DeserializeOwned,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, services: &Arc<Services>) -> Result<Self, Refusal> {
        let peer = Peer::of(&request);
        let (mut parts, body) = request.into_parts();
        let Path(path) = Path::from_request_parts(&mut parts, services).await?;
        let body = Bytes::from_request(Request::from_parts(parts, body), services).await;
        let request = read(&body.map_err(|error| {
            ApiError::new(ErrorCode::Invalid, format!("the request: {}", error.body_text()))
        })?)?;
        Ok(On { services: Arc::clone(services), peer, path, request })
    }
}

/// A request's body. An empty one counts as `{}`, so that `curl -X POST` does for plain operations.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text)
        .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("the request: {error}")).into())
}

pub(super) fn pool_name(pool: &str) -> Result<(), Refusal> {
    Ok(check_name(pool).map_err(ApiError::from)?)
}

pub(super) fn volume_name((pool, volume): (String, String)) -> Result<VolumeName, Refusal> {
    Ok(VolumeName::new(&pool, &volume).map_err(ApiError::from)?)
}

impl Services {
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: EngineRequest) -> Answer<T> {
        let answer = self.engine.call(request).await;
        self.look_now();
        Ok(Json(answer?))
    }

    /// Has a pool opened for good: written down, with what came with it set apart, before the answer.
    pub(super) async fn ask_for_pool(
        &self,
        pool: &str,
        request: EngineRequest,
    ) -> Answer<PoolReport> {
        let named = |one: &PoolReport| one.name == pool || one.id == pool;
        let mut opened = [self.opening(named, request).await?];
        self.registry.set_apart(&mut opened);
        let [opened] = opened;
        Ok(Json(opened))
    }

    /// Has those of these pools opened that aren't.
    async fn opening<T: DeserializeOwned>(
        &self,
        which: impl Fn(&PoolReport) -> bool,
        request: EngineRequest,
    ) -> Result<T, Refusal> {
        let mut closed = self.fresh_pools().await?;
        closed.retain(|pool| which(pool) && !pool.is_open());
        self.registry.import_begins(&closed);
        let answer = self.engine.call::<T>(request).await;
        let noted = match &answer {
            Ok(_) => self.remember().await,
            Err(_) => Ok(()),
        };
        self.registry.import_ends(&closed);
        self.look_now();
        let answer = answer?;
        noted.map_err(|error| {
            let message = format!("the pool is open, but {}", error.message);
            ApiError { message, ..error }
        })?;
        Ok(answer)
    }
}

pub(super) async fn status(State(services): App) -> Json<Status> {
    // Asked together: an engine that doesn't answer costs one limit.
    let process = services.engine.call(EngineRequest::Process);
    let (engine, looked) = tokio::join!(process, services.look_at_engine());
    let engine: Option<ProcessState> = engine.ok();
    let (fresh, served) = looked.ok().unzip();
    let is_fresh = fresh.is_some();
    let pools = fresh.unwrap_or_else(|| services.pools.borrow().clone());
    services.reconciler.look_now(served.as_ref()).await;
    let mut report = services.reconciler.report(services.engine.instance());
    let held = services.held(&pools).await;
    let mut warnings = services.registry.warnings();
    let (now_secs, own_troubles) = (now_secs(), services.registry.trouble());
    let seen = Seen {
        now_secs,
        pools: (is_fresh && engine.is_some()).then_some(&pools),
        known_pools: &services.registry.known(),
        process: engine.as_ref(),
        services: &report,
        troubles: own_troubles.as_slice(),
        slow: &[],
    };
    let (wrong, ignored) = services.teller.wrong(&seen, &services.config.alerts.ignore);
    let ignored = ignored.iter().map(|one| (&one.text, one.kind.clone()));
    warnings.extend(ignored.map(|(text, kind)| format!("{text} ({kind} is to be ignored)")));
    for pool in &pools {
        for (name, volume) in pool.named_volumes() {
            let settings = VolumeSettings::from_properties(&volume.properties);
            warnings.extend(settings.unreadable.iter().map(|error| format!("{name}: {error}")));
            if settings.exports.is_empty() {
                continue;
            }
            let addresses = settings.exports.iter().map(|export| export.address).collect();
            match report.iter_mut().find(|entry| entry.volume == name) {
                Some(entry) => entry.exports = addresses,
                None => report.push(control::api::VolumeServices::exported(name, addresses)),
            }
        }
    }
    report.sort_by(|a, b| a.volume.cmp(&b.volume));
    if services.config.interfaces.is_empty() {
        warnings.push("no interface is configured: no disk of another machine is present".into());
    }
    let served = report.iter().any(|entry| entry.ftp_listen.is_some());
    if served && services.config.ftp.users_file.is_none() {
        warnings.push("no ftp users-file is configured: nobody can write by FTP".into());
    }
    warnings.extend(services.door_troubles.warnings());
    warnings.extend(services.copy_troubles.warnings());
    let mut troubles = engine.as_ref().map(|engine| engine.troubles.clone()).unwrap_or_default();
    troubles.extend(own_troubles);
    let alerts = services.teller.report();
    warnings.extend(told::unheard(&services.config.alerts, &alerts));
    Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        at_secs: now_secs,
        wrong: Some(wrong),
        host: services.host.clone(),
        owner: services.owner.to_string(),
        supervisor_pid: rustix::process::getppid()
            .map_or(0, |pid| pid.as_raw_nonzero().get() as u32),
        engine,
        services_pid: std::process::id(),
        engine_restarts: services.engines_seen.load(Ordering::Relaxed).saturating_sub(1),
        pools,
        services: report,
        fuse_over_io_uring: match frontend::fuse::switch() {
            Switch::Missing => FuseOverIoUring::Missing,
            Switch::Off => FuseOverIoUring::Off,
            Switch::On => FuseOverIoUring::On,
        },
        held,
        troubles,
        warnings,
        alerts,
    })
}

pub(super) async fn discover(State(services): App) -> Answer<Vec<SeenTarget>> {
    services.ask(EngineRequest::Discover).await
}

pub(super) async fn disks(State(services): App) -> Answer<Vec<DiskReport>> {
    services.ask(EngineRequest::Disks).await
}

pub(super) async fn reset_epoch(on: On<ShelfSlot, ResetEpoch>) -> Answer<()> {
    let On { services, path: disk, request, .. } = on;
    if request.force_disk != disk {
        return Err(ApiError::new(
            ErrorCode::Refused,
            format!("{disk} is to be reset, but force_disk names {}", request.force_disk),
        )
        .into());
    }
    services.ask(EngineRequest::ResetEpoch { disk, dry_run: request.dry_run }).await
}

pub(super) async fn pools(State(services): App) -> Answer<Vec<PoolReport>> {
    Ok(Json(services.fresh_pools().await?))
}

pub(super) async fn pool(State(services): App, Path(name): Path<String>) -> Answer<PoolReport> {
    let pools = services.fresh_pools().await?;
    let found = pools.into_iter().find(|pool| pool.name == name || pool.id == name);
    found.map(Json).ok_or_else(|| {
        ApiError::new(ErrorCode::NotFound, format!("pool {name} was not found"))
            .remedy("see `etherpool pool list`")
            .into()
    })
}

pub(super) async fn plan_import(
    State(services): App,
    Path(pool): Path<String>,
    Query(request): Query<ImportPool>,
) -> Answer<ImportPlan> {
    services.plan_import(pool, request.votes).await
}

pub(super) async fn plan_volume(on: OnPool<CreateVolume>) -> Answer<VolumeForecast> {
    pool_name(&on.request.name)?;
    on.services.ask(EngineRequest::PlanVolume { pool: on.path, request: on.request }).await
}

pub(super) async fn import_pool(on: OnPool<ImportPool>) -> Answer<PoolReport> {
    let On { services, path: pool, request, .. } = on;
    services.import(pool, request).await
}

pub(super) async fn release_pool(on: OnPool<ReleasePool>) -> Answer<Option<Preview>> {
    Ok(Json(on.services.release_pool(on.path, on.request).await?))
}

pub(super) async fn plan_destroy(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<DestroyPlan> {
    Ok(Json(services.plan_destroy(pool).await?))
}

pub(super) async fn destroy_pool(on: OnPool<DestroyPlan>) -> Answer<DestroyReport> {
    Ok(Json(on.services.destroy_pool(on.path, on.request).await?))
}

pub(super) async fn rename_pool(on: OnPool<RenamePool>) -> Answer<PoolReport> {
    Ok(Json(on.services.rename_pool(on.path, on.request).await?))
}

pub(super) async fn plan_wipe(on: On<(), WipeDisks>) -> Answer<WipePlan> {
    on.services.ask(EngineRequest::PlanWipeDisks(on.request)).await
}

pub(super) async fn wipe_disks(on: On<(), WipePlan>) -> Answer<WipeReport> {
    on.services.ask(EngineRequest::WipeDisks { shown: on.request }).await
}

pub(super) async fn cancel_job(
    State(services): App,
    Path((pool, number)): Path<(String, u32)>,
) -> Answer<()> {
    services.ask(EngineRequest::CancelJob { pool, number }).await
}

pub(super) async fn set_pool(on: OnPool<SetPool>) -> Answer<()> {
    on.services.ask(EngineRequest::SetPool { pool: on.path, settings: on.request }).await
}

pub(super) async fn scrub_pool(on: OnPool<SetPool>) -> Answer<u32> {
    if on.request != SetPool::default() {
        on.peer.may(Role::Administer)?;
    }
    on.services.ask(EngineRequest::ScrubPool { pool: on.path, settings: on.request }).await
}

pub(super) async fn held(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<Vec<HeldReport>> {
    Ok(Json(services.held_of(&pool).await?))
}

pub(super) async fn confirm_settings(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<Vec<HeldReport>> {
    Ok(Json(services.confirm_settings(&pool).await?))
}

pub(super) async fn create_volume(on: OnPool<CreateVolume>) -> Answer<VolumeReport> {
    pool_name(&on.request.name)?;
    Ok(Json(on.services.create_volume(on.path, on.request).await?))
}

pub(super) async fn volume(
    State(services): App,
    Path(name): Path<(String, String)>,
) -> Answer<VolumeReport> {
    let name = volume_name(name)?;
    let pools = services.fresh_pools().await?;
    let (_, volume) = find(&pools, &name)?;
    Ok(Json(volume.clone()))
}

pub(super) async fn volume_stats(
    State(services): App,
    Path(name): Path<(String, String)>,
) -> Answer<VolumeStats> {
    let volume = volume_name(name)?;
    Ok(Json(services.engine.call(EngineRequest::VolumeStats { volume }).await?))
}

pub(super) async fn rename_volume(on: OnVolume<RenameVolume>) -> Answer<VolumeReport> {
    Ok(Json(on.services.rename_volume(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn remove_volume(on: OnVolume<RemoveVolume>) -> Answer<()> {
    Ok(Json(on.services.remove_volume(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn accept_loss(on: OnVolume<AcceptLoss>) -> Answer<String> {
    Ok(Json(on.services.accept_loss(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn extend_volume(
    on: OnVolume<ExtendVolume>,
) -> Result<Work<Preview, StreamLine<VolumeReport>>, Refusal> {
    let On { services, path, request, .. } = on;
    let name = volume_name(path)?;
    if request.dry_run {
        return Ok(Work::Would(Json(services.extend_preview(&name, &request).await?)));
    }
    let waits = waits_for(&services, &name, "the engine lays out the new space");
    Ok(Work::Does(streamed(waits, |progress| async move {
        services.extend_volume(&name, request, progress).await
    })))
}

pub(super) async fn reduce_volume(
    on: OnVolume<ReduceVolume>,
) -> Result<Work<Preview, StreamLine<VolumeReport>>, Refusal> {
    let On { services, path, request, .. } = on;
    let name = volume_name(path)?;
    if request.dry_run {
        return Ok(Work::Would(Json(services.reduce_preview(&name, &request).await?)));
    }
    let waits = waits_for(&services, &name, "what is under way on its end is done");
    Ok(Work::Does(streamed(waits, |progress| async move {
        services.reduce_volume(&name, request, progress).await
    })))
}

pub(super) async fn verify_volume(
    on: OnVolume<VerifyVolume>,
) -> Result<Lines<StreamLine<VerifyReport>>, Refusal> {
    let On { services, path, request, .. } = on;
    let volume = volume_name(path)?;
    let waits = waits_for(&services, &volume, "disks are read");
    Ok(streamed(waits, |progress| async move {
        let request = EngineRequest::VerifyVolume { volume, copy: request.copy };
        services.engine.call_with_progress::<VerifyReport>(request, progress).await
    }))
}

pub(super) async fn make_fs(on: OnVolume<MakeFs>) -> Result<Lines<StreamLine<()>>, Refusal> {
    let On { services, path, request, .. } = on;
    let name = volume_name(path)?;
    let waits = waits_for(&services, &name, "mkfs is at work");
    Ok(streamed(waits, |progress| async move { services.make_fs(&name, request, progress).await }))
}

pub(super) async fn check_fs(
    State(services): App,
    Path(name): Path<(String, String)>,
) -> Result<Lines<StreamLine<()>>, Refusal> {
    let name = volume_name(name)?;
    let waits = waits_for(&services, &name, "fsck is at work");
    Ok(streamed(waits, |_progress| async move { services.check_fs(&name).await }))
}

pub(super) async fn attach(
    State(services): App,
    Path(name): Path<(String, String)>,
) -> Answer<std::path::PathBuf> {
    Ok(Json(services.attach(&volume_name(name)?).await?))
}

pub(super) async fn detach(State(services): App, Path(name): Path<(String, String)>) -> Answer<()> {
    Ok(Json(services.detach(&volume_name(name)?).await?))
}

pub(super) async fn mount(on: OnVolume<MountVolume>) -> Answer<Option<Preview>> {
    let request = match on.peer.may(Role::Administer) {
        Ok(()) => on.request,
        Err(_) => mounts::as_operator(on.request)?,
    };
    Ok(Json(on.services.mount(&volume_name(on.path)?, request).await?))
}

pub(super) async fn unmount(on: OnVolume<UnmountVolume>) -> Answer<Option<Preview>> {
    Ok(Json(on.services.unmount(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn serve_ftp(on: OnVolume<ServeFtp>) -> Answer<std::net::SocketAddr> {
    Ok(Json(on.services.serve_ftp(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn stop_ftp(
    State(services): App,
    Path(name): Path<(String, String)>,
) -> Answer<()> {
    Ok(Json(services.stop_ftp(&volume_name(name)?).await?))
}

pub(super) async fn export(on: OnVolume<ExportVolume>) -> Answer<ShelfSlot> {
    Ok(Json(on.services.export(&volume_name(on.path)?, on.request).await?))
}

pub(super) async fn unexport(on: OnVolume<UnexportVolume>) -> Answer<()> {
    Ok(Json(on.services.unexport(&volume_name(on.path)?, on.request).await?))
}

/// How often a streamed answer says something, at least.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Answers with JSON lines: progress or what it waits for while `work` runs, then its outcome. The work
/// goes on when whoever asked goes away: half a file system is worse than one that nobody waits for.
fn streamed<T, F>(
    waits_for: impl Fn() -> String + Send + Sync + 'static,
    work: impl FnOnce(mpsc::UnboundedSender<Progress>) -> F,
) -> Lines<StreamLine<T>>
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    let (progress, news) = mpsc::unbounded_channel();
    let (work, note) = (work(progress), take_note());
    let work = tokio::spawn(async move {
        let result = work.await;
        note.into_iter().for_each(|note| note.tell(outcome(&result)));
        result
    });
    let lines = futures::stream::unfold(Some((news, work, waits_for)), |state| {
        Box::pin(async move {
            let (mut news, mut work, waits_for) = state?;
            // The work may be done with its news long before it is done.
            let line = tokio::select! {
                biased;
                Some(mut latest) = news.recv() => {
                    // Only the newest counts for a reader that is behind.
                    while let Ok(newer) = news.try_recv() {
                        latest = newer;
                    }
                    StreamLine::Progress(latest)
                }
                done = &mut work => {
                    let last: StreamLine<T> = match done {
                        Ok(Ok(value)) => StreamLine::Result(value),
                        Ok(Err(error)) => StreamLine::Error(error),
                        Err(error) => {
                            StreamLine::Error(ApiError::new(ErrorCode::Internal, error.to_string()))
                        }
                    };
                    return Some((Ok::<_, std::io::Error>(to_line(&last)), None));
                }
                () = tokio::time::sleep(HEARTBEAT) => StreamLine::<T>::Waiting(waits_for()),
            };
            Some((Ok(to_line(&line)), Some((news, work, waits_for))))
        }) as Pin<Box<dyn Future<Output = _> + Send>>
    });
    Lines::new(Body::from_stream(lines))
}

/// Says what a volume's operation waits for, as far as it can be told.
fn waits_for(
    services: &Arc<Services>,
    name: &VolumeName,
    what: &'static str,
) -> impl Fn() -> String + use<> {
    let (services, name) = (Arc::clone(services), name.clone());
    move || {
        if services.engine.instance().is_none() {
            return "waits for the engine, which is being started".to_owned();
        }
        let pools = services.pools.borrow();
        let suspended =
            find(&pools, &name).ok().and_then(|(_, volume)| volume.suspended().map(str::to_owned));
        suspended.map_or_else(|| what.to_owned(), |why| format!("{name} is suspended: {why}"))
    }
}
