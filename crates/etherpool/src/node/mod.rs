//! `etherpool node`: exports this machine's disks by AoE, on its interfaces and, for an engine on the
//! same machine, on a Unix socket. A disk that is missing, vanishes or hangs affects its own export
//! only, and is exported again when it is back.

mod choose;
mod drives;
mod export;
mod identity;
mod interfaces;
mod local;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::rc::Rc;

use anyhow::{Context, bail};
use aoe::driver::TargetDriver;
use aoe::target::NodeIdentity;
use clap::Args;
use control::node::{NodeConfig, parse_etherpopulate};
use os::ata::AtaDisks;
use os::manager::Manager;
use os::process::{Signal, Signals};
use os::{Reactor, ReactorHandle};

use drives::Drives;
use export::Exporter;
use identity::Identity;

/// Export this machine's disks.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// What to export; without it all unused whole disks that are blank or etherpool's.
    #[arg(long, value_name = "FILE", conflicts_with = "etherpopulate")]
    config: Option<PathBuf>,
    /// An etherpopulate.conf of the old system, as it is.
    #[arg(long, value_name = "FILE")]
    etherpopulate: Option<PathBuf>,
    /// This machine's name in the etherpopulate.conf; its host name by default.
    #[arg(long, requires = "etherpopulate")]
    name: Option<String>,
    /// Check the configuration and say what would be exported, without exporting.
    #[arg(long)]
    check: bool,
}

/// Where a node keeps its memory and its sockets by default.
const STATE_DIR: &str = "/var/lib/etherpool";
const RUN_DIR: &str = "/run/etherpool";
/// How old what the service manager shows may be.
const STATUS_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs until it is told to stop.
pub fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let source = Source::new(&args)?;
    let config = source.read()?;
    if args.check {
        println!("{}", describe(&config));
        return Ok(ExitCode::SUCCESS);
    }
    let (reactor, handle) = Reactor::new().context("cannot set up io_uring")?;
    // Before any other thread: threads inherit which signals are taken here.
    let signals =
        os::process::signals(&handle, &[Signal::Terminate, Signal::Interrupt, Signal::HangUp])?;
    crate::logging::start("info");
    protect_process();
    for command in &config.before_start {
        shell(command).with_context(|| format!("before-start command `{command}`"))?;
    }
    let result = serve(Rc::new(source), &config, reactor, signals, handle);
    for command in &config.after_stop {
        if let Err(error) = shell(command) {
            tracing::error!("after-stop command `{command}`: {error:#}");
        }
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Where the configuration comes from; read again on reload.
pub struct Source {
    config: Option<PathBuf>,
    etherpopulate: Option<(PathBuf, String)>,
}

impl Source {
    fn new(args: &NodeArgs) -> anyhow::Result<Source> {
        let etherpopulate = match &args.etherpopulate {
            None => None,
            Some(file) => {
                let name = match &args.name {
                    Some(name) => name.clone(),
                    None => os::process::hostname(),
                };
                Some((file.clone(), name))
            }
        };
        Ok(Source { config: args.config.clone(), etherpopulate })
    }

    /// Reads and checks all of it; refuses it as a whole if a part is wrong.
    pub fn read(&self) -> anyhow::Result<NodeConfig> {
        if let Some((file, name)) = &self.etherpopulate {
            let all = parse_etherpopulate(&read_file(file)?, file)?;
            return match all.node(name) {
                Some(config) => Ok(config.clone()),
                None => {
                    let names: Vec<_> = all.names().collect();
                    bail!(
                        "{} has no lines for this machine ({name}), only for {}; say which it is with --name",
                        file.display(),
                        names.join(", ")
                    )
                }
            };
        }
        match &self.config {
            Some(file) => Ok(NodeConfig::parse(&read_file(file)?, file)?),
            None => Ok(NodeConfig::default()),
        }
    }
}

/// The parts of a running node that its tasks share.
pub struct Node {
    pub handle: ReactorHandle,
    pub driver: TargetDriver,
    pub name: String,
    pub node_id: uuid::Uuid,
    pub run_dir: PathBuf,
    /// The disks themselves, behind what is exported.
    pub ata: Rc<AtaDisks>,
    /// Their settings.
    pub drives: Rc<Drives>,
}

fn serve(
    source: Rc<Source>,
    config: &NodeConfig,
    mut reactor: Reactor,
    signals: Signals,
    handle: ReactorHandle,
) -> anyhow::Result<()> {
    let run_dir = config.run_dir.clone().unwrap_or_else(|| RUN_DIR.into());
    let state_dir = config.state_dir.clone().unwrap_or_else(|| STATE_DIR.into());
    std::fs::create_dir_all(&run_dir)
        .with_context(|| format!("cannot make the run directory {}", run_dir.display()))?;
    let _lock = os::process::ProcessLock::acquire(&run_dir, "node")
        .context("is another node process running on this machine?")?;

    let mut identity = Identity::load(&state_dir)?;
    let node_id = match config.node_id {
        Some(id) => id,
        None => os::process::machine_id(&state_dir.join("machine-id"))
            .context("cannot tell this machine's identity")?,
    };
    let shelf = identity.shelf(config.shelf, node_id)?;
    let name = config.name.clone().unwrap_or_else(os::process::hostname);

    let driver = TargetDriver::new(
        handle.runtime().clone(),
        NodeIdentity { id: node_id, name: name.clone() },
    );
    let ata = Rc::new(AtaDisks::new(&handle));
    let drives = Drives::start(&handle, &ata, &config.drive);
    let node =
        Rc::new(Node { handle: handle.clone(), driver, name, node_id, run_dir, ata, drives });

    let mut interfaces = interfaces::follow(&node, config)?;
    let _frames = local::listen_frames(&node)?;
    let exporter = Exporter::start(&node, identity, shelf, config);
    let _control = local::listen_control(&node, &source, &exporter)?;
    tracing::info!(name = node.name, id = %node.node_id, shelf, "node runs");

    let manager = Manager::from_environment();
    manager.keep_watchdog(&handle);
    let told = Rc::clone(&exporter);
    manager.keep_status(&handle, STATUS_EVERY, move || told.status().summary());
    manager.ready();
    let stopped = reactor.run_until(async move {
        loop {
            match signals.next().await {
                Signal::HangUp => {
                    manager.reloading();
                    match source.read() {
                        Ok(config) => {
                            exporter.reload(&config);
                            match interfaces::follow(&node, &config) {
                                Ok(followed) => interfaces = followed,
                                Err(error) => tracing::error!("interfaces: {error:#}"),
                            }
                        }
                        Err(error) => tracing::error!("configuration not taken: {error:#}"),
                    }
                    manager.ready();
                }
                Signal::Terminate | Signal::Interrupt => break,
                _ => {}
            }
        }
        tracing::info!("node stops");
        manager.stopping();
        exporter.stop().await;
        drop(interfaces);
    });
    stopped.context("the reactor failed")
}

/// What the engine of this machine or of another writes back through us must never wait for memory
/// that only that write-back frees.
fn protect_process() {
    for (what, result) in [
        ("lock memory", os::process::lock_memory()),
        ("become an I/O flusher", os::process::set_io_flusher()),
    ] {
        if let Err(error) = result {
            tracing::warn!("cannot {what}: {error}; under memory pressure this node may stall");
        }
    }
}

fn describe(config: &NodeConfig) -> String {
    let mut lines = Vec::new();
    if config.is_automatic() {
        lines.push("all unused whole disks that are blank or carry an etherpool label".to_owned());
    }
    lines.extend(config.export.iter().map(|e| format!("{} is {}", e.address, e.path)));
    lines.join("\n")
}

fn shell(command: &str) -> anyhow::Result<()> {
    let status = Command::new("/bin/sh").arg("-c").arg(command).status()?;
    if status.success() { Ok(()) } else { bail!("ended with {status}") }
}

fn read_file(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
