//! `etherpool engine`: pools and volumes, in a process that never waits for anybody who might wait
//! for it: its memory is locked, the kernel knows that it serves block devices, and its only I/O is
//! frames, FUSE and the control channel. It resolves no path once it serves: what may be mounted over
//! it is its own volume.

mod addresses;
mod channel;
mod exports;
mod grants;
mod hardening;
mod held;
mod network;
mod requests;
mod stops;
mod volumes;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use block::OwnerId;
use clap::Args;
use control::api::{PoolReportExt as _, SeenTarget};
use control::channel::ReplyLine;
use control::config::{InterfaceConfig, SupervisorConfig};
use control::reconcile::EngineInstance;
use control::registry::Registry;
use futures::future::{Either, select};
use os::dir::Directory;
use os::process::{Signal, Signals, signals};
use os::reactor::Mailbox;
use os::{Reactor, ReactorHandle};
use pool::{DiskPlace, Engine, EngineConfig, KnownDisk, KnownPool, Limits, OwnNodes, PoolEvent};
use seal::{Claim, Members, PublicKey};

use crate::admin::{AdminHandler, AdminServer, Answering};
use crate::keys::{self, Demands};
use crate::membership::Membership;
use crate::namespaces::Namespaces;
use crate::supervisor::{ENGINE_SAYS_EVERY, die_with_parent, load_config};
use channel::{Channel, Incoming};
use exports::Exports;
use hardening::Hardening;
use network::{Network, OwnMachines};
use volumes::Volumes;

pub use volumes::serve_device;

/// Arguments of the hidden `engine`.
#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
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

/// Below the run directory: where exported volumes are asked about; `etherpool target` looks there.
pub const TARGET_DIR: &str = "target-volumes";

/// How often what is served is compared with what may be, when no event says so.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// One part in so many of the machine's memory may be taken by checksums, as they are used: 1 GiB is enough for
/// 1 TiB that is read at random.
const CHECKSUM_SHARE: u64 = 16;

/// The parts of the process.
pub struct Process {
    handle: ReactorHandle,
    engine: Rc<Engine>,
    namespaces: Rc<Namespaces>,
    network: Network,
    volumes: Rc<Volumes>,
    exports: Rc<Exports>,
    hardening: Hardening,
    /// The key that it shows to targets, where it demands theirs.
    key: Option<PublicKey>,
    /// The nodes that joined it.
    members: Rc<Membership>,
    instance: u64,
    stopping: runtime::Notify,
    /// All pools are being closed, but stay ours.
    closing: Cell<bool>,
}

/// The process.
pub fn run(args: EngineArgs) -> anyhow::Result<ExitCode> {
    die_with_parent()?;
    let config = load_config(args.config.as_deref())?;
    let (mut reactor, handle) = Reactor::new().context("io_uring")?;
    // Before the first thread: all of them inherit that the signal isn't theirs, and the marks.
    let told = signals(&handle, &[Signal::Terminate]).context("signals")?;
    let hardening = hardening::apply(&config);
    crate::logging::start(&config.log.level);
    hardening.tell();
    let instance = os::random_u64().context("random numbers")?.max(1);
    let (channel, requests) = Channel::listen(&config.engine_socket())?;
    let outcome = reactor.run_until(async move {
        let process = Process::start(handle, &config, &args, hardening, instance)?;
        let _admin = process.open_admin(&config);
        process.serve(channel, requests, told).await
    });
    outcome.context("the engine's event loop")??;
    Ok(ExitCode::SUCCESS)
}

/// Production's, on this machine.
fn limits() -> Limits {
    let defaults = Limits::default();
    let share = os::process::machine_memory_bytes() / CHECKSUM_SHARE;
    let checksum_bytes = usize::try_from(share).unwrap_or(usize::MAX);
    Limits { checksum_bytes: checksum_bytes.max(defaults.checksum_bytes), ..defaults }
}

impl Process {
    fn start(
        handle: ReactorHandle,
        config: &SupervisorConfig,
        args: &EngineArgs,
        hardening: Hardening,
        instance: u64,
    ) -> anyhow::Result<Rc<Process>> {
        let registry = read_registry(&config.state_dir);
        let state_dir = Directory::create(&config.state_dir).with_context(|| {
            format!("cannot make the state directory {}", config.state_dir.display())
        })?;
        let members = Membership::of_supervisor(&handle, &state_dir)?;
        let (least, peers) = (config.security, config.nodes.clone());
        let disks = Demands { least, peers, claim: Claim::Token };
        let belonging = Rc::clone(&members) as Rc<dyn Members>;
        let identity = keys::identity(Some(&state_dir), &disks, Some(belonging))?;
        let key = disks.demand_keys().then(|| identity.public());
        let own = OwnMachines::of(&identity);
        let belong = Rc::clone(&own);
        let owner = EngineConfig {
            owner: OwnerId(args.owner),
            owner_name: args.host.clone(),
            keys: Some(identity.keys().clone()),
            own_nodes: OwnNodes::those(move |key| belong.has(key)),
            pools: known_pools(&registry),
            grants: registry.grants.clone().into_iter().collect(),
            limits: limits(),
            stops: stops::from_environment()?,
        };
        let engine = Engine::new(handle.runtime().clone(), owner);
        registry.destroyed.iter().for_each(|pool| engine.remember_destroyed(pool.id, &pool.name));
        let namespaces = Namespaces::of(&config.interfaces);
        let sockets = [config.node_socket(), config.witness_socket()];
        let network = Network::open(&handle, &config.interfaces, &namespaces, &sockets, own)?;
        let volumes = Volumes::new(handle.clone(), EngineInstance(instance));
        let exports =
            Exports::new(&engine, &handle, &config.interfaces, &namespaces, args.owner, &args.host);
        exports.know(&registry);
        exports.set_identity(keys::identity(Some(&state_dir), &keys::clients(config), None)?);
        let exports = Rc::new(exports);
        Ok(Rc::new(Process {
            handle,
            engine,
            namespaces,
            network,
            volumes,
            exports,
            hardening,
            key,
            members,
            instance,
            stopping: runtime::Notify::new(),
            closing: Cell::new(false),
        }))
    }

    /// Lets programs ask how exported volumes are doing, as they ask any target. Pools and volumes
    /// don't depend on it: what doesn't work is logged.
    fn open_admin(&self, config: &SupervisorConfig) -> Answering {
        let handler = Rc::clone(&self.exports) as Rc<dyn AdminHandler>;
        let (admin, answering) = AdminServer::open(handler);
        let run_dir = config.run_dir.join(TARGET_DIR);
        let made = std::fs::create_dir_all(&run_dir).map_err(anyhow::Error::from);
        if let Err(error) = made.and_then(|()| admin.listen(&run_dir)) {
            tracing::error!("exports can't be asked how they are: {error:#}");
        }
        answering
    }

    async fn serve(
        self: Rc<Self>,
        channel: Channel,
        requests: Mailbox<Incoming>,
        signals: Signals,
    ) -> anyhow::Result<()> {
        let runtime = self.handle.runtime().clone();
        tracing::info!(instance = self.instance, "engine begins");
        runtime.spawn(Rc::clone(&self).feed_disks());
        runtime.spawn(Rc::clone(&self).keep_ports());
        runtime.spawn(Rc::clone(&self).tell_events(channel));
        runtime.spawn(Rc::clone(&self).keep_served());
        runtime.spawn(Rc::clone(&self).keep_grants());
        runtime.spawn(say_that_it_turns(runtime.clone()));
        runtime.spawn(requests::answer_all(Rc::clone(&self), requests));
        let stopping = self.stopping.notified();
        let told = std::pin::pin!(signals.next());
        let asked = std::pin::pin!(stopping);
        select(told, asked).await;
        tracing::info!("engine stops");
        self.closing.set(true);
        self.exports.stop().await;
        self.volumes.drop_all();
        self.engine.shutdown().await;
        tracing::info!("all leases are released");
        Ok(())
    }

    /// Hands every disk that appears to the engine, and has those forgotten that are gone.
    async fn feed_disks(self: Rc<Self>) {
        loop {
            self.network.feed(&self.engine);
            let event = std::pin::pin!(self.network.next_disk_event());
            let pause = std::pin::pin!(self.handle.runtime().sleep(LOOK_INTERVAL * 5));
            if let Either::Right(_) = select(event, pause).await {
                self.network.forget_silent(&self.engine);
            }
        }
    }

    /// Opens interfaces that couldn't be opened before.
    async fn keep_ports(self: Rc<Self>) {
        loop {
            self.namespaces.look(&self.handle).await;
            self.network.open_missing(&self.handle);
            self.handle.runtime().sleep(LOOK_INTERVAL * 2).await;
        }
    }

    /// Passes events on to whoever listens. The log has them from the pool itself.
    async fn tell_events(self: Rc<Self>, channel: Channel) {
        loop {
            let event = self.engine.next_event().await;
            let lost = self.engine.take_lost_events();
            if matches!(event, PoolEvent::PoolState { .. } | PoolEvent::VolumeSuspended { .. }) {
                self.look_at_served().await;
            }
            if lost > 0 {
                channel.tell_all(&ReplyLine::EventsLost(lost));
            }
            channel.tell_all(&ReplyLine::Event(event));
        }
    }

    async fn keep_grants(self: Rc<Self>) {
        loop {
            self.handle.runtime().sleep(LOOK_INTERVAL * 10).await;
            self.learn_grants().await;
        }
    }

    async fn keep_served(self: Rc<Self>) {
        loop {
            self.look_at_served().await;
            self.handle.runtime().sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends what may not be served any more, and exports what is to be exported.
    pub async fn look_at_served(&self) {
        let pools = self.engine.reports();
        self.volumes.keep_only(|name| pools.iter().any(|pool| pool.keeps(name)));
        self.exports.follow(&pools).await;
    }
}

/// What the supervisor's records say. Without them nothing is opened by itself, and every export waits
/// until services tell; they say to people what is wrong with the file.
fn read_registry(state_dir: &Path) -> Registry {
    crate::services::read_registry(state_dir).unwrap_or_else(|error| {
        tracing::error!("no pool is opened by itself: {error:#}");
        Registry::default()
    })
}

fn known_pools(registry: &Registry) -> Vec<KnownPool> {
    let disk = |disk: &control::registry::KnownDisk| KnownDisk {
        id: disk.id,
        place: DiskPlace {
            name: disk.name.clone(),
            node_name: disk.node.clone(),
            device_name: disk.device_name.clone(),
            serial: disk.serial.clone(),
            node_key: disk.node_key,
        },
    };
    let pools = registry.pools.iter();
    pools
        .map(|pool| KnownPool { id: pool.id, disks: pool.disks.iter().map(disk).collect() })
        .collect()
}

/// Tells the supervisor from the event loop itself that this turns. Without waiting: a supervisor that
/// doesn't read must not hold up the loop.
async fn say_that_it_turns(runtime: runtime::Handle) {
    let stdout = std::io::stdout();
    if let Err(error) = rustix::io::ioctl_fionbio(&stdout, true) {
        return tracing::warn!(%error, "the supervisor can't be told that the engine's loop turns");
    }
    loop {
        // One line more or less: what finds no room says nothing new.
        let _ = rustix::io::write(&stdout, b"alive\n");
        runtime.sleep(ENGINE_SAYS_EVERY).await;
    }
}

/// Discovery by own frames, for `aoe discover -i`, without engine and supervisor.
pub fn discover_alone(interface: &str, wait: Duration) -> anyhow::Result<Vec<SeenTarget>> {
    let (mut reactor, handle) = Reactor::new().context("io_uring")?;
    let interface = InterfaceConfig { name: interface.to_owned(), netns: None };
    reactor
        .run_until(async move {
            let network = Network::listen(&handle, &interface)?;
            handle.runtime().sleep(wait).await;
            Ok(network.targets())
        })
        .context("discovery")?
}
