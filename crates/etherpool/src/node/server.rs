//! The process that exports: `etherpool node`, `etherpool target` and vblade's replacement are this
//! one server with more or less around it.
//!
//! The engine of this machine may need it to serve what is mounted anywhere, so once it serves it
//! resolves no path but on threads of their own, and only to find what it doesn't have open: a
//! configuration that is to be read again, a disk that isn't exported yet, new disks in `/sys` and
//! `/dev`, and drives to be set up. No export that is served waits for these.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use aoe_target::NodeIdentity;
use aoe_target::TargetDriver;
use aoe_wire::ShelfSlot;
use control::node::NodeStatus;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use os::ata::AtaDisks;
use os::dir::Directory;
use os::manager::Manager;
use os::process::{LockError, ProcessLock, Signal, Signals};
use os::{Reactor, ReactorHandle};
use runtime::{Notify, Semaphore};
use seal::{Claim, KeyPair, Members, PoolKey, Token};

use super::drives::Drives;
use super::exporter::{Automatic, Exporter};
use super::health::DriveAsker;
use super::identity::Identity;
use super::interfaces::{Interfaces, Patterns};
use super::link;
use super::local;
use super::open_disks::OpenDisks;
use super::source::{Source, Wanted};
use crate::admin::{AdminHandler, AdminServer, Change, Metrics, status_of};
use crate::confinement::Process;
use crate::keys::{self, Demands};
use crate::membership::Membership;

/// How long the end waits for requests that a disk has.
const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// How long the start waits for disks to be opened.
const READY_LIMIT: Duration = Duration::from_secs(2);
/// How long a successor waits for its predecessor, whose last commands may take a while.
const REPLACE_LIMIT: Duration = Duration::from_secs(60);
/// What the lock in the run directory is called. One name for nodes and targets: they would take
/// each other's sockets.
const LOCK: &str = "node";
/// What has commands done.
const SHELL: &str = "/bin/sh";
/// How old what the service manager shows may be.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How to run.
pub struct Spec {
    /// Where the configuration comes from.
    pub source: Source,
    /// Take the place of a process that runs already.
    pub replace: bool,
    /// What to log, unless the environment says otherwise.
    pub log_level: String,
}

/// The parts of a running server that its tasks share.
pub struct Node {
    /// The reactor's.
    pub handle: ReactorHandle,
    /// The target.
    pub driver: TargetDriver,
    /// The machine's name.
    pub name: String,
    /// The machine's key.
    pub keys: RefCell<KeyPair>,
    /// Who joined it.
    pub membership: Rc<Membership>,
    /// What is demanded of sessions at present.
    pub demands: RefCell<Demands>,
    /// Pools whose keys are lost.
    pub reset_owner: RefCell<Vec<PoolKey>>,
    /// The machine's identity.
    pub node_id: uuid::Uuid,
    /// Where the sockets are, if there are any. Opened before anything is served: nothing in it is
    /// reached by its path later.
    pub run_dir: Option<Directory>,
    /// Whether engines of this machine have a socket there.
    pub has_frame_socket: bool,
    /// Where is kept what survives a restart, if anything is. The same holds for it.
    pub state_dir: Option<Directory>,
    /// The open disks.
    pub disks: OpenDisks,
    /// The disks themselves, behind what is exported.
    pub ata: Rc<AtaDisks>,
    /// Their settings.
    pub drives: Rc<Drives>,
    /// How they are.
    pub asker: DriveAsker,
    /// A port came or went.
    pub ports_changed: Notify,
}

impl Node {
    /// The path of the socket for frames; empty without one.
    pub fn frame_socket(&self) -> String {
        let run_dir = self.run_dir.as_ref().filter(|_| self.has_frame_socket);
        let path = run_dir.map(|run_dir| run_dir.path_of(local::FRAME_SOCKET));
        path.map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Has a disk obey nobody if the key that it obeys is lost, by the configuration's word.
    pub async fn reset_owner_of(&self, address: ShelfSlot) {
        let lost = self.reset_owner.borrow().clone();
        match self.driver.reset_owner(address, &lost).await {
            Ok(None) => {}
            Ok(Some(key)) => tracing::warn!(
                export = %address, %key,
                "it obeys nobody any more, as reset-owner of the configuration says"
            ),
            Err(error) => tracing::error!(export = %address, %error, "reset-owner"),
        }
    }
}

/// Runs until it is told to stop.
pub fn run(spec: Spec) -> anyhow::Result<ExitCode> {
    let ran = run_whole(spec);
    if let Err(error) = &ran {
        Manager::from_environment().failed(&format!("{error:#}"));
    }
    ran
}

fn run_whole(spec: Spec) -> anyhow::Result<ExitCode> {
    let wanted = spec.source.read_first()?;
    let (reactor, handle) = Reactor::new().context("cannot set up io_uring")?;
    // Before any other thread: threads inherit which signals are taken here.
    let mut signals = vec![Signal::Terminate, Signal::Interrupt];
    if !matches!(spec.source, Source::Fixed(_)) {
        signals.push(Signal::HangUp);
    }
    let signals = os::process::signals(&handle, &signals)?;
    crate::logging::start(&spec.log_level);
    protect_process(&spec.source);
    // Before the commands: a predecessor that is replaced runs its own after its exports.
    let lock = lock(&spec, &wanted)?;
    for command in &wanted.config.before_start {
        shell(command).with_context(|| format!("before-start command `{command}`"))?;
    }
    confine(&spec.source, &wanted);
    let needed: Vec<PathBuf> = wanted.run_dir.iter().chain(&wanted.state_dir).cloned().collect();
    let _running = match needed.is_empty() {
        true => None,
        false => crate::running::register(spec.source.role(), needed),
    };
    let after_stop = wanted.config.after_stop.clone();
    // The end waits for dead disks. A successor needn't, unless commands come after it.
    let (early, late) = if after_stop.is_empty() { (lock, None) } else { (None, lock) };
    let result = serve(spec, wanted, reactor, Signalled { signals, handle, lock: early });
    for command in &after_stop {
        if let Err(error) = shell(command) {
            tracing::error!("after-stop command `{command}`: {error:#}");
        }
    }
    drop(late);
    result.map(|()| ExitCode::SUCCESS)
}

/// What a process has before it serves.
struct Signalled {
    signals: Signals,
    handle: ReactorHandle,
    /// Given back as soon as nothing is exported any more.
    lock: Option<ProcessLock>,
}

fn serve(
    spec: Spec,
    wanted: Wanted,
    mut reactor: Reactor,
    process: Signalled,
) -> anyhow::Result<()> {
    let Signalled { signals, handle, lock } = process;
    let node = prepare(&wanted, &handle)?;
    let automatic = find_shelf(&spec.source, &node, &wanted, &mut reactor)?;
    let interfaces = Interfaces::follow(&node, &wanted)?;
    let _frames = match wanted.frame_socket {
        true => Some(local::listen_frames(&node)?),
        false => None,
    };
    let metrics_at = wanted.config.metrics;
    node.take_first_token(&wanted);
    node.say_who_may_claim();
    let exporter = Exporter::start(&node, automatic, wanted);
    let service = Rc::new(Service {
        node: Rc::clone(&node),
        source: spec.source,
        exporter,
        interfaces,
        metrics: RefCell::default(),
        reloading: Semaphore::new(1),
    });
    let (admin, _answering) = AdminServer::open(Rc::clone(&service) as Rc<dyn AdminHandler>);
    if let Some(run_dir) = &node.run_dir {
        admin.listen(run_dir.path())?;
    }
    let mut metrics = Metrics::new(admin);
    metrics.follow(metrics_at);
    service.metrics.replace(Some(metrics));
    tracing::info!(name = node.name, id = %node.node_id, "running");

    let manager = Manager::from_environment();
    manager.keep_watchdog(&handle);
    let told = Rc::clone(&service);
    manager.keep_status(&handle, STATUS_EVERY, move || status_of(&*told).summary());
    let stopped = reactor.run_until(async move {
        // Who waits for this process waits for its exports, but not for those whose disks are missing
        // or hang.
        let runtime = service.node.handle.runtime();
        let _ = runtime::timeout(runtime, READY_LIMIT, service.exporter.all_tried()).await;
        manager.ready();
        loop {
            match signals.next().await {
                Signal::HangUp => {
                    manager.reloading();
                    if let Err(error) = service.reload().await {
                        tracing::error!("configuration not taken: {error:#}");
                    }
                    manager.ready();
                }
                Signal::Terminate | Signal::Interrupt => break,
                _ => {}
            }
        }
        tracing::info!("stopping");
        manager.stopping();
        let runtime = service.node.handle.runtime();
        let finished = async {
            service.node.driver.finish().await;
            service.exporter.stop().await;
        };
        if runtime::timeout(runtime, FINISH_LIMIT, finished).await.is_err() {
            tracing::warn!("some disks don't answer; their requests are left to them");
        }
    });
    drop(lock);
    stopped.context("the reactor failed")
}

/// What answers the administrator.
pub struct Service {
    node: Rc<Node>,
    source: Source,
    /// All exports.
    pub exporter: Rc<Exporter>,
    interfaces: Interfaces,
    /// Once there is somebody to ask for them.
    metrics: RefCell<Option<Metrics>>,
    /// One reload at a time: the last one that was asked for counts.
    reloading: Rc<Semaphore>,
}

impl Service {
    /// Reads the configuration again, and takes it whole or not at all.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let _turn = self.reloading.acquire(1).await;
        let source = self.source.clone();
        let wanted = self.node.handle.blocking(move || source.read_apart()).await??;
        for (what, now, then) in [
            ("run-dir", &self.node.run_dir, &wanted.run_dir),
            ("state-dir", &self.node.state_dir, &wanted.state_dir),
        ] {
            if now.as_ref().map(Directory::path) != then.as_deref() {
                tracing::warn!("a new {what} takes effect at the next start");
            }
        }
        if *self.node.demands.borrow() != wanted.demands {
            // A machine without a key that lasts began with another one at its last start.
            let state_dir = self.node.state_dir.clone().filter(|_| wanted.demands.demand_keys());
            let kept = move || state_dir.as_ref().map(keys::load_or_make).transpose();
            if let Some(kept) = self.node.handle.blocking(kept).await?? {
                self.node.keys.replace(kept);
            }
            self.node.membership.set_claim(&wanted.demands.claim);
            self.node.demands.replace(wanted.demands.clone());
            self.node.renew_identity();
        }
        self.node.take_token(&wanted).await;
        if wanted.automatic && !self.exporter.can_look() {
            tracing::warn!("disks are looked for from the next start on");
        }
        if let Some(metrics) = self.metrics.borrow_mut().as_mut() {
            metrics.follow(wanted.config.metrics);
        }
        // The exports first: a new one must know whom it answers before it hears anybody, and what
        // fails at an interface must not leave the exports as they were.
        self.exporter.reload(wanted.clone());
        self.interfaces.reload(&wanted).context("interfaces")?;
        tracing::info!("configuration read again");
        Ok(())
    }
}

impl AdminHandler for Service {
    fn handle(&self) -> &ReactorHandle {
        &self.node.handle
    }

    fn driver(&self) -> &TargetDriver {
        &self.node.driver
    }

    fn name(&self) -> String {
        self.node.name.clone()
    }

    fn status(&self) -> NodeStatus {
        NodeStatus { members: self.node.membership.report(), ..self.exporter.status() }
    }

    fn change(self: Rc<Self>, change: Change) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        async move {
            match change {
                Change::Export { path } => self.exporter.export_path(&path).await,
                Change::Reload => self.reload().await,
                Change::Join { token } => self.node.join(token).await,
                Change::Forget { key } => {
                    if !self.node.membership.forget(key).await? {
                        bail!("no machine with the key {key} has joined; see etherpool key list --node");
                    }
                    self.node.renew_identity();
                    Ok(())
                }
                Change::ResetOwner { disk } => {
                    let forgotten = self.node.driver.forget_grant(disk).await;
                    forgotten.with_context(|| format!("disk {disk} can't be given up"))
                }
            }
        }
        .boxed_local()
    }
}

/// Sees to it that nobody else serves from the same directories.
fn lock(spec: &Spec, wanted: &Wanted) -> anyhow::Result<Option<ProcessLock>> {
    let Some(run_dir) = &wanted.run_dir else { return Ok(None) };
    let role = spec.source.role();
    std::fs::create_dir_all(run_dir)
        .with_context(|| format!("cannot make the run directory {}", run_dir.display()))?;
    let taken = match ProcessLock::acquire(run_dir, LOCK) {
        Err(LockError::Held { pid, .. }) if spec.replace && pid != 0 => {
            tracing::info!(pid, "taking the place of the {role} that runs");
            os::process::terminate(pid).with_context(|| format!("cannot stop process {pid}"))?;
            let begun = std::time::Instant::now();
            loop {
                match ProcessLock::acquire(run_dir, LOCK) {
                    Err(LockError::Held { .. }) if begun.elapsed() < REPLACE_LIMIT => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    taken => break taken,
                }
            }
        }
        taken => taken,
    };
    taken.map(Some).with_context(|| match &spec.source {
        Source::Witnesses(_) => "the witnesses of another supervisor run with this run directory; stop that, or set another run-dir".to_owned(),
        _ => format!("another {role} runs with this run directory; stop it, take its place with --replace, or choose another --run-dir"),
    })
}

impl Node {
    /// What is demanded of sessions, or who belongs, has changed: sessions that wouldn't be opened any more end.
    fn renew_identity(&self) {
        let members = Rc::clone(&self.membership) as Rc<dyn Members>;
        let keys = self.keys.borrow().clone();
        let identity = keys::with_demands(keys, &self.demands.borrow(), Some(members));
        self.driver.set_identity(identity);
    }

    /// Whether a token changes anything here.
    fn may_join(&self) -> anyhow::Result<()> {
        let demands = self.demands.borrow().clone();
        if !demands.demand_keys() {
            bail!(
                "this node demands no keys: with security = \"none\" everybody may have its disks"
            );
        }
        if demands.claim != Claim::Token {
            bail!("by its configuration (claim) a token changes nothing here");
        }
        Ok(())
    }

    /// Comes to know, by a token, whoever has it too.
    async fn join(&self, token: Token) -> anyhow::Result<()> {
        self.may_join()?;
        self.membership.add_token(token).await?;
        self.renew_identity();
        Ok(())
    }

    /// The token that the configuration names, if it says anything new. Without it the node serves whom it knows.
    fn new_token<'w>(&self, wanted: &'w Wanted) -> Option<&'w Token> {
        if let (None, Some(file)) = (&wanted.token, &wanted.config.token_file) {
            tracing::warn!("the token-file {} can't be read, or holds no token", file.display());
        }
        let named = wanted.token.as_ref()?;
        self.membership.look_at_named(named).then_some(named)
    }

    /// Takes it before anybody is heard.
    fn take_first_token(&self, wanted: &Wanted) {
        let Some(token) = self.new_token(wanted) else { return };
        let taken = self.may_join();
        let taken = taken.and_then(|()| self.membership.add_token_at_start(token));
        taken.unwrap_or_else(|error| tell_not_taken(&error));
    }

    async fn take_token(&self, wanted: &Wanted) {
        let Some(token) = self.new_token(wanted) else { return };
        self.join(token.clone()).await.unwrap_or_else(|error| tell_not_taken(&error));
    }

    /// Says whom blank disks are kept for, if nobody may have them yet.
    fn say_who_may_claim(&self) {
        let demands = self.demands.borrow();
        let is_known = demands.peers.is_some() || !self.membership.report().members.is_empty();
        if demands.demand_keys() && demands.claim == Claim::Token && !is_known {
            tracing::info!(
                "its disks are for programs of this machine only, until it joins a supervisor: etherpool token create there, etherpool join here"
            );
        }
    }
}

fn tell_not_taken(error: &anyhow::Error) {
    tracing::warn!("the token of the configuration (token-file) isn't taken: {error:#}");
}

/// The server's parts, without ports and exports.
pub(super) fn prepare(wanted: &Wanted, handle: &ReactorHandle) -> anyhow::Result<Rc<Node>> {
    let config = &wanted.config;
    let made = |path: &Option<PathBuf>, what: &str| -> anyhow::Result<Option<Directory>> {
        let Some(path) = path else { return Ok(None) };
        let made = Directory::create(path);
        made.map(Some).with_context(|| format!("cannot make the {what} {}", path.display()))
    };
    let state_dir = made(&wanted.state_dir, "state directory")?;
    let run_dir = made(&wanted.run_dir, "run directory")?;
    if let Some(run_dir) = &run_dir {
        link::clear(run_dir);
    }
    let node_id = match (config.node_id, &state_dir) {
        (Some(id), _) => id,
        (None, Some(state_dir)) => os::process::machine_id(&state_dir.path_of("machine-id"))
            .context("cannot tell this machine's identity")?,
        // Nobody relies on it: there are no sessions without a state directory that matter.
        (None, None) => uuid::Builder::from_random_bytes(os::random_bytes()?).into_uuid(),
    };
    let name = config.name.clone().unwrap_or_else(os::process::hostname);
    let identity = NodeIdentity { id: node_id, name: name.clone() };
    let driver = TargetDriver::new(handle.runtime().clone(), identity);
    let demands = &wanted.demands;
    let place = state_dir.as_ref().zip(wanted.members_file.clone());
    let membership = Membership::of_node(handle, place, &demands.claim)?;
    let members = Rc::clone(&membership) as Rc<dyn Members>;
    let identity = keys::identity(state_dir.as_ref(), demands, Some(members))?;
    driver.set_identity(Rc::clone(&identity));
    let ata = Rc::new(AtaDisks::new(handle));
    let node = Node {
        drives: Drives::start(handle, &ata, &config.drive),
        asker: DriveAsker::new(handle, config.smartctl.as_deref()),
        ata,
        handle: handle.clone(),
        driver,
        keys: RefCell::new(identity.keys().clone()),
        membership,
        demands: RefCell::new(wanted.demands.clone()),
        reset_owner: RefCell::new(config.reset_owner.clone()),
        name,
        node_id,
        run_dir,
        has_frame_socket: wanted.frame_socket,
        state_dir,
        disks: OpenDisks::new(handle),
        ports_changed: Notify::new(),
    };
    Ok(Rc::new(node))
}

/// Where disks get their addresses that are found, or exported on request: a node only, unless a
/// target looks for disks too.
fn find_shelf(
    source: &Source,
    node: &Node,
    wanted: &Wanted,
    reactor: &mut Reactor,
) -> anyhow::Result<Option<Automatic>> {
    let needed = wanted.automatic || matches!(source, Source::Node { .. });
    let Some(state_dir) = node.state_dir.as_ref().filter(|_| needed) else { return Ok(None) };
    let mut identity = Identity::load(state_dir)?;
    let shelf = match identity.known_shelf(wanted.config.shelf) {
        Some(shelf) => shelf,
        None => {
            let (handle, patterns) = (node.handle.clone(), Patterns::of(wanted));
            let asked = async move {
                super::shelf::from_address(&handle, |link| patterns.want_link(link)).await
            };
            let preferred = reactor.run_until(asked).context("the reactor failed")?;
            identity.choose_shelf(preferred, node.node_id)?
        }
    };
    tracing::info!(shelf, "disks that are found are on this shelf");
    Ok(Some(Automatic::new(identity, shelf)))
}

/// What the engine of this machine or of another writes back through us must never wait for memory
/// that only that write-back frees.
fn protect_process(source: &Source) {
    for (what, result) in [
        ("lock memory", os::process::lock_memory()),
        ("become an I/O flusher", os::process::set_io_flusher()),
    ] {
        // vblade's users expect vblade's words, and no others.
        if let Err(error) = result
            && !matches!(source, Source::Fixed(_))
        {
            tracing::warn!("cannot {what}: {error}; under memory pressure this process may stall");
        }
    }
}

/// Before anybody is heard, and after what takes more.
fn confine(source: &Source, wanted: &Wanted) {
    let process = match source {
        Source::Witnesses(supervisor) => Process::Witnesses(supervisor),
        Source::Node { .. } | Source::Target(_) | Source::Fixed(_) => {
            Process::Exporter { has_last_commands: !wanted.config.after_stop.is_empty() }
        }
    };
    for warning in crate::confinement::confine(process) {
        if !matches!(source, Source::Fixed(_)) {
            tracing::warn!("{warning}");
        }
    }
}

fn shell(command: &str) -> anyhow::Result<()> {
    let status = Command::new(SHELL).arg("-c").arg(command).status();
    let status = status.with_context(|| {
        format!("{SHELL} (the image of a booted node has it if it was built --with sh)")
    })?;
    if status.success() { Ok(()) } else { bail!("ended with {status}") }
}
