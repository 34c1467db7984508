//! `etherpool services`: the API, and what is made of volumes for people: devices, mounts, FTP.
//!
//! It may wait for the kernel's write-back, which waits for the engine; the engine never waits for
//! it.

mod access;
mod alerts;
mod api;
mod boot_copies;
mod certificate;
mod channel_client;
mod channels;
mod commands;
mod described;
mod doors;
mod endings;
mod filesystems;
mod former;
mod ftp;
mod growth;
mod held;
mod kept;
mod lasting;
mod layouts;
mod local_targets;
mod members;
mod metrics;
mod mounts;
pub mod openapi;
mod operations;
mod page;
mod peer;
mod platform;
mod pool_keys;
mod reconciler;
mod reduce;
pub mod refusals;
mod registry;
mod renaming;
mod routes;
mod schemas;
mod timeouts;
mod tls;
mod told;
mod troubles;
mod turns;
mod versions;
mod webhook;
mod witnesses;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use control::channel::EngineRequest;
use control::config::SupervisorConfig;
use control::reconcile::Attachments;
use pool::{PoolReport, PoolState};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

pub use self::tls::check as check_tls;
use crate::confinement::Process;
use crate::supervisor::{die_with_parent, load_config};
use channel_client::{Asked as _, EngineClient};
use lasting::Lasting;
use platform::Linux;
use pool_keys::PoolKeys;
use reconciler::Reconciler;
use registry::PoolRegistry;
pub use registry::read as read_registry;
use timeouts::too_long;
use turns::Turns;

/// Arguments of the hidden `services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// The supervisor's configuration
    #[arg(long)]
    config: Option<PathBuf>,
    /// The supervisor's identity
    #[arg(long)]
    owner: uuid::Uuid,
    /// The supervisor's name
    #[arg(long)]
    host: String,
}

/// How often the reports are looked at when no event says so.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first engine may take to be there before leftovers are taken for dead.
const ENGINE_START_LIMIT: Duration = Duration::from_secs(5);
/// How long an engine may be out of reach before what it served is taken down.
const RECONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long disks have to be discovered before "there is no pool" is believed.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(10);
/// Threads for API, FTP and mounts.
const WORKERS: usize = 2;

/// What the parts of the process share.
pub struct Services {
    config: SupervisorConfig,
    owner: uuid::Uuid,
    host: String,
    engine: EngineClient,
    reconciler: Arc<Reconciler<Linux>>,
    registry: Arc<PoolRegistry>,
    pool_keys: PoolKeys,
    pools: watch::Sender<Vec<PoolReport>>,
    look: Notify,
    turns: Turns,
    /// The supervisor may have a witness that no pool has any more.
    witness_left: Notify,
    engines_seen: std::sync::atomic::AtomicU64,
    /// Since when it runs.
    begun: Instant,
    /// A pool has fewer copies of what boot servers know than it had.
    copy_forgotten: std::sync::atomic::AtomicBool,
    teller: alerts::Teller,
    refusals: refusals::Refusals,
    /// Of the API by TLS, and of the page.
    door_troubles: Arc<Lasting>,
    /// Of the copies of what a boot server knows, by pool.
    copy_troubles: Lasting,
}

/// The process.
pub fn run(args: ServicesArgs) -> anyhow::Result<ExitCode> {
    die_with_parent()?;
    let config = load_config(args.config.as_deref())?;
    crate::logging::start(&config.log.level);
    crate::confinement::confine_and_tell(Process::Services);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("the services' event loop")?;
    let result = runtime.block_on(serve(config, args));
    // A call that hangs in the kernel (a dead mount) must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: SupervisorConfig, args: ServicesArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let services = Services::start(config, &args)?;
    // On a thread of its own, with a runtime of its own: it can't be made on one of ours.
    let _metrics = match services.config.metrics {
        Some(address) => {
            let (services, runtime) = (Arc::clone(&services), tokio::runtime::Handle::current());
            let begin = move || metrics::serve(services, runtime, address);
            std::thread::spawn(begin).join().ok().flatten()
        }
        None => None,
    };
    let listener = listen(&services.config.api_socket(), &services.config.readers)?;
    let router = routes::router(Arc::clone(&services));
    let (config, main) = (&services.config, tokio::runtime::Handle::current());
    let troubles = || Arc::clone(&services.door_troubles);
    let _tls = tls::serve(config.api.clone(), router.clone(), main.clone(), troubles())
        .context("the thread of the API by TLS")?;
    let shown = routes::page_router(Arc::clone(&services));
    let _page =
        page::serve(&config.page, shown, main, troubles()).context("the thread of the page")?;
    let router = router.into_make_service_with_connect_info::<access::Peer>();
    let listener = access::LocalListener::new(listener);
    let api = tokio::spawn(async move { axum::serve(listener, router).await });
    let follow = tokio::spawn(follow(Arc::clone(&services)));
    let ready = tokio::spawn(tell_ready(Arc::clone(&services)));
    let alerts = tokio::spawn(alerts::run(Arc::clone(&services)));
    let sweep = tokio::spawn(witnesses::sweep(Arc::clone(&services)));
    let copies = tokio::spawn(boot_copies::run(Arc::clone(&services)));
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = api => Err(anyhow::anyhow!("the API ended: {ended:?}")),
        ended = follow_ended(&follow) => Err(anyhow::anyhow!("the reconciler ended: {ended:?}")),
    };
    tracing::info!("services stop");
    alerts.abort();
    sweep.abort();
    copies.abort();
    ready.abort();
    follow.abort();
    // It may be in the middle of telling new wishes: wait until it is gone.
    let _ = follow.await;
    services.reconciler.stop().await;
    let _ = std::fs::remove_file(services.config.api_socket());
    outcome
}

/// Pending until the task is over; it never is by itself.
async fn follow_ended(task: &tokio::task::JoinHandle<()>) -> bool {
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    true
}

/// The API's socket: for root and readers, and made anew when a predecessor left one.
fn listen(socket: &Path, readers: &str) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("{} can't be made", parent.display()))?;
    }
    match std::fs::symlink_metadata(socket) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(socket)
            .with_context(|| format!("{} can't be removed", socket.display()))?,
        Ok(_) => anyhow::bail!("{} exists and is not a socket", socket.display()),
        Err(_) => {}
    }
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("{} can't be listened on", socket.display()))?;
    access::let_in(socket, readers)
        .with_context(|| format!("{} can't be given to root and {readers}", socket.display()))?;
    Ok(listener)
}

impl Services {
    fn start(config: SupervisorConfig, args: &ServicesArgs) -> anyhow::Result<Arc<Services>> {
        let engine = EngineClient::start(config.engine_socket());
        let reconciler = Reconciler::new(Linux::new(&config, engine.clone()));
        let pool_keys = PoolKeys::open(&config.state_dir).with_context(|| {
            format!("cannot make the state directory {}", config.state_dir.display())
        })?;
        Ok(Arc::new(Services {
            owner: args.owner,
            host: args.host.clone(),
            registry: PoolRegistry::open(&config.state_dir, engine.clone()),
            engine,
            pool_keys,
            reconciler,
            pools: watch::Sender::new(Vec::new()),
            look: Notify::new(),
            turns: Turns::default(),
            witness_left: Notify::new(),
            engines_seen: 0.into(),
            begun: Instant::now(),
            copy_forgotten: false.into(),
            teller: alerts::Teller::start(&config, &args.host),
            refusals: refusals::Refusals::default(),
            door_troubles: Arc::new(Lasting::logged(|why| tracing::error!("{why}"))),
            copy_troubles: Lasting::logged(|why| tracing::warn!("{why}")),
            config,
        }))
    }

    /// Has the reports looked at now.
    pub fn look_now(&self) {
        self.look.notify_one();
    }

    /// The pools by their engine's present word, taken note of. Settings that wait are under other
    /// keys.
    pub async fn fresh_pools(&self) -> Result<Vec<PoolReport>, control::api::ApiError> {
        self.look().await.map(|(pools, _)| pools)
    }

    /// Has what was made or imported written down before anybody is told of it.
    pub async fn remember(&self) -> Result<(), control::api::ApiError> {
        self.look().await.and_then(|(_, noted)| noted)
    }

    async fn look(
        &self,
    ) -> Result<(Vec<PoolReport>, Result<(), control::api::ApiError>), control::api::ApiError> {
        // Who has the turn waits for the same answer.
        let asked = EngineRequest::Pools;
        let limit = asked.limit();
        let turn = tokio::time::timeout(limit, self.registry.turn())
            .await
            .map_err(|_| too_long(EngineRequest::WHO, &asked.what(), limit))?;
        let mut pools: Vec<PoolReport> = self.engine.call(asked).await?;
        let noted = turn.take_note(&pools).await;
        self.registry.set_apart(&mut pools);
        Ok((pools, noted))
    }

    /// The pools, and what the same engine serves of them to this machine's kernel.
    pub async fn look_at_engine(
        &self,
    ) -> Result<(Vec<PoolReport>, Attachments), control::api::ApiError> {
        let served = self.engine.call::<Attachments>(EngineRequest::AttachedVolumes);
        let (pools, served) = tokio::try_join!(self.fresh_pools(), served)?;
        Ok((pools, served))
    }
}

/// Follows engine and pools, and tells the reconciler what is wanted.
async fn follow(services: Arc<Services>) {
    let mut process = services.engine.process();
    let mut news = services.engine.news();
    adopt(&services, &mut process).await;
    let mut seen = None;
    loop {
        // An engine that lives on is back at once, and its devices never stopped.
        let back = process.wait_for(Option::is_some);
        let _ = tokio::time::timeout(RECONNECT_LIMIT, back).await;
        let instance = services.engine.instance();
        let looked = match instance {
            Some(_) => services.look_at_engine().await.map(|(pools, served)| (pools, Some(served))),
            None => Ok((Vec::new(), None)),
        };
        let still_there = services.engine.instance() == instance;
        match looked {
            // An engine that was replaced in between gave a report for which nobody stands.
            Ok((pools, served))
                if still_there && served.as_ref().map(|served| served.engine) == instance =>
            {
                if instance.is_some() && instance != seen {
                    seen = instance;
                    services.engines_seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                services.reconciler.want(served.as_ref(), &pools);
                services.pools.send_replace(pools);
            }
            Ok(_) => continue,
            // No word is no reason to take anything down: what its pause costs shows when it goes on.
            Err(error) => {
                tracing::warn!(%error, "the engine doesn't say how its pools are");
            }
        }
        tokio::select! {
            _ = process.changed() => {}
            _ = news.recv() => {}
            () = services.look.notified() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        // One look covers all that has happened by now.
        news = services.engine.news();
    }
}

async fn adopt(
    services: &Services,
    process: &mut watch::Receiver<Option<control::api::ProcessState>>,
) {
    let there = async { process.wait_for(Option::is_some).await.is_ok() };
    let alive = tokio::time::timeout(ENGINE_START_LIMIT, there).await.unwrap_or(false);
    let looked = if alive { services.look_at_engine().await.ok() } else { None };
    let (pools, served) = looked.unzip();
    services.reconciler.adopt(served.as_ref(), &pools.unwrap_or_default()).await;
}

/// Tells the supervisor when all pools that it owns are served, or it is known that there are none.
async fn tell_ready(services: Arc<Services>) {
    let mut pools = services.pools.subscribe();
    let begun = tokio::time::Instant::now();
    loop {
        let seen = pools.borrow_and_update().clone();
        let opening = |report: &PoolReport| {
            matches!(report.state, PoolState::Opening | PoolState::Incomplete { .. })
        };
        let connected = services.engine.instance().is_some();
        let long_enough = begun.elapsed() >= DISCOVERY_LIMIT;
        let open = !seen.is_empty() && !seen.iter().any(opening);
        if connected && (open || long_enough) && services.reconciler.is_up_to_date() {
            println!("{}", crate::supervisor::READY_LINE);
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
