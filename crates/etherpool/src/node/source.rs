//! Where the configuration comes from: a file, an etherpopulate.conf, a command line, or several of
//! them; read again on reload.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context, bail};
use aoe_wire::ShelfSlot;
use control::api::{ApiError, ErrorCode};
use control::config::{InterfaceConfig, SupervisorConfig};
use control::node::{
    ExportConfig, ExportPlan, ExportSettings, NodeConfig, NotExported, parse_etherpopulate,
    plan_found, share,
};

use seal::{Claim, Security, Token};
use zeroize::Zeroizing;

use super::interfaces::{Patterns, list_ethernet};
use super::open_disks::{SystemIdentity, find};
use crate::keys::{Demands, clients};
use crate::membership;
use crate::witnesses::{files, why_not_the_made};

/// Where a node keeps its memory and its sockets by default.
const STATE_DIR: &str = "/var/lib/etherpool";
const RUN_DIR: &str = "/run/etherpool";
/// Parsers recurse; a whole default stack would be locked into memory for it.
const READ_STACK_BYTES: usize = 1 << 20;
/// How long disks are looked at before the configuration is taken without.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `etherpool node`.
    Node {
        /// `--config`.
        config: Option<PathBuf>,
        /// `--etherpopulate`, and the machine's name in it.
        etherpopulate: Option<(PathBuf, String)>,
        /// `--interface`; without any, those that the file names.
        interfaces: Vec<String>,
    },
    /// `etherpool target`.
    Target(Box<TargetSource>),
    /// The files by which the supervisor of this configuration votes.
    Witnesses(Box<SupervisorConfig>),
    /// One export that never changes, without anything that others see of it but its frames.
    Fixed(Box<ExportPlan>),
}

/// The command line of `etherpool target`.
#[derive(Clone, Debug, Default)]
pub struct TargetSource {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Addresses and paths.
    pub exports: Vec<ExportConfig>,
    /// For the exports of the command line; without any, for those of the file that don't say
    /// otherwise.
    pub settings: ExportSettings,
    /// `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// All of the configuration.
    pub config: NodeConfig,
    /// The exports that it names.
    pub plans: Vec<ExportPlan>,
    /// What isn't exported though it would be, with the reason.
    pub refused: Vec<NotExported>,
    /// The interfaces to export on, with their namespaces; those of the configuration without.
    pub placed: Option<Vec<InterfaceConfig>>,
    /// Whether disks are looked for.
    pub automatic: bool,
    /// Whether engines of this machine have a socket.
    pub frame_socket: bool,
    /// Where the sockets are, if there are any.
    pub run_dir: Option<PathBuf>,
    /// Where is kept what survives a restart, if anything is.
    pub state_dir: Option<PathBuf>,
    /// What is demanded of sessions.
    pub demands: Demands,
    /// By which it is to come to know a supervisor.
    pub token: Option<Token>,
    /// What of the state directory says whom it knows, if anybody may join it.
    pub members_file: Option<String>,
}

impl Source {
    /// What the lock is called that only one such process on a machine has.
    pub fn role(&self) -> &'static str {
        match self {
            Source::Node { .. } => "node",
            Source::Target(_) | Source::Fixed(_) => "target",
            Source::Witnesses(_) => "supervisor",
        }
    }

    /// The same on a thread with room for whatever a file may hold: for reading it again.
    pub fn read_apart(&self) -> anyhow::Result<Wanted> {
        let source = self.clone();
        let reading = std::thread::Builder::new()
            .name("read".to_owned())
            .stack_size(READ_STACK_BYTES)
            .spawn(move || source.read())?;
        reading.join().unwrap_or_else(|_| bail!("reading the configuration failed"))
    }

    /// Reads it for a command, which ends as documented (`control::exit`) when it is wrong.
    ///
    /// # Errors
    /// An [`ApiError`] for what the administrator wrote; anything else for what failed underneath.
    pub fn read_first(&self) -> anyhow::Result<Wanted> {
        self.read().map_err(|error| match error.downcast::<ApiError>() {
            Ok(told) => told.into(),
            Err(error) if failed_underneath(&error) => error,
            Err(error) => ApiError::new(ErrorCode::Invalid, format!("{error:#}"))
                .remedy("correct the configuration, or what was typed; nothing was exported")
                .into(),
        })
    }

    /// Reads and checks all of it; refuses it as a whole if a part is wrong. Blocks.
    pub fn read(&self) -> anyhow::Result<Wanted> {
        let wanted = match self {
            Source::Node { config, etherpopulate, interfaces } => {
                let mut config = read_node(config.as_deref(), etherpopulate.as_ref())?;
                if !interfaces.is_empty() {
                    config.defaults.interfaces = Some(interfaces.clone());
                }
                let token = token_of(&config);
                node_wanted(config, token)?
            }
            Source::Target(target) => target.read()?,
            Source::Witnesses(supervisor) => witnesses(supervisor)?,
            Source::Fixed(plan) => Wanted {
                config: NodeConfig::default(),
                demands: Demands { claim: Claim::Anyone, ..Demands::default() },
                token: None,
                members_file: None,
                refused: Vec::new(),
                placed: None,
                plans: vec![(**plan).clone()],
                automatic: false,
                frame_socket: false,
                run_dir: None,
                state_dir: None,
            },
        };
        refuse_wrong_media(&wanted, self.file())?;
        Ok(wanted)
    }

    /// The file that it comes from, or some of it.
    fn file(&self) -> Option<&Path> {
        match self {
            Source::Node { config, .. } => config.as_deref(),
            Source::Target(target) => target.config.as_deref(),
            Source::Fixed(_) | Source::Witnesses(_) => None,
        }
    }
}

/// Refuses the text of a node's configuration as a node does that starts with it, by all that can be told without a look
/// at its disks; `is_whole`: nothing is added to it any more, so that it names all that a node needs.
pub fn check_text(text: &str, place: &Path, is_whole: bool) -> anyhow::Result<()> {
    let config = NodeConfig::parse(text, place)?;
    if is_whole {
        node_wanted(config, None)?;
    }
    Ok(())
}

fn node_wanted(config: NodeConfig, token: Option<Token>) -> anyhow::Result<Wanted> {
    let wanted = Wanted {
        demands: demanded(&config),
        token,
        members_file: Some(membership::NODE_FILE.to_owned()),
        refused: Vec::new(),
        placed: None,
        plans: config.plans()?,
        automatic: config.automatic.unwrap_or(config.export.is_empty()),
        frame_socket: config.frame_socket.unwrap_or(true),
        run_dir: Some(config.run_dir.clone().unwrap_or_else(|| RUN_DIR.into())),
        state_dir: Some(config.state_dir.clone().unwrap_or_else(|| STATE_DIR.into())),
        config,
    };
    refuse_all_interfaces(&wanted)?;
    Ok(wanted)
}

fn demanded(config: &NodeConfig) -> Demands {
    Demands { least: config.security(), peers: config.supervisors.clone(), claim: config.claim() }
}

/// The token that a configuration names. One that isn't there any more was used, or isn't needed.
fn token_of(config: &NodeConfig) -> Option<Token> {
    let file = config.token_file.as_ref()?;
    let read = read_file(file).map(Zeroizing::new);
    let token = read.and_then(|text| Ok(Token::parse(&text)?));
    token.ok()
}

impl TargetSource {
    fn read(&self) -> anyhow::Result<Wanted> {
        let mut config = match &self.config {
            Some(file) => NodeConfig::parse(&read_file(file)?, file)?,
            None => NodeConfig::default(),
        };
        if self.exports.is_empty() {
            config.defaults = self.settings.clone().or(&config.defaults);
        }
        for export in &self.exports {
            let settings = self.settings.clone();
            config.export.push(ExportConfig { settings, ..export.clone() });
        }
        let plans = config.plans()?;
        let automatic = config.automatic.unwrap_or(false);
        if plans.is_empty() && !automatic {
            match &self.config {
                Some(file) => bail!("{}: it names nothing to export", file.display()),
                None => bail!(
                    "nothing to export: name exports (e1.1=/dev/sdb), or a configuration that does (--config)"
                ),
            }
        }
        let run_dir = self.run_dir.clone().or_else(|| config.run_dir.clone());
        let state_dir = self.state_dir.clone().or_else(|| config.state_dir.clone());
        let run_dir = run_dir.unwrap_or_else(|| self.default_run_dir(&plans));
        // Several targets may have one state directory, and each its own run directory.
        let name = run_dir.file_name().map(|name| name.to_string_lossy().into_owned());
        // As open as plain AoE, unless somebody says otherwise.
        let says_more = config.claim.is_some() || config.token_file.is_some();
        config.security = config.security.or((!says_more).then_some(Security::None));
        Ok(Wanted {
            demands: demanded(&config),
            token: token_of(&config),
            members_file: Some(format!("target-{}-members.json", name.unwrap_or_default())),
            automatic,
            frame_socket: config.frame_socket.unwrap_or(false),
            run_dir: Some(run_dir),
            state_dir: Some(state_dir.unwrap_or_else(|| STATE_DIR.into())),
            refused: Vec::new(),
            placed: None,
            config,
            plans,
        })
    }

    /// One-off targets of one machine are told apart by their first address, so that each finds its
    /// own place again.
    fn default_run_dir(&self, plans: &[ExportPlan]) -> PathBuf {
        let run_dir = Path::new(RUN_DIR);
        match (&self.config, plans.first()) {
            (None, Some(first)) => run_dir.join(format!("target-{}", first.address)),
            _ => run_dir.join("target"),
        }
    }
}

/// The exports of a supervisor's witnesses, as its machine's: what else is on the machine goes with them.
fn witnesses(supervisor: &SupervisorConfig) -> anyhow::Result<Wanted> {
    let directory = supervisor.witness_dir();
    let files =
        files(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let machine = os::process::machine_id(&supervisor.state_dir.join("machine-id"))
        .context("cannot tell this machine's identity")?;
    let config = NodeConfig::default();
    let (mut plans, mut refused) = (Vec::new(), Vec::new());
    for (address, path) in files {
        let why = why_not_the_made(&path, machine);
        let path = path.display().to_string();
        if let Some(why) = why {
            refused.push(NotExported { path, why });
            continue;
        }
        let plan = plan_found(address, &path, &config.defaults, &config.groups)?;
        // Nobody but the engines of pools has anything to leave with it.
        plans.push(ExportPlan { remember: false, ..plan });
    }
    Ok(Wanted {
        demands: clients(supervisor),
        token: None,
        members_file: None,
        plans,
        refused,
        placed: Some(supervisor.interfaces.clone()),
        automatic: false,
        frame_socket: true,
        run_dir: Some(supervisor.witness_run_dir()),
        state_dir: Some(supervisor.state_dir.clone()),
        config,
    })
}

fn read_node(
    config: Option<&Path>,
    etherpopulate: Option<&(PathBuf, String)>,
) -> anyhow::Result<NodeConfig> {
    if let Some((file, name)) = etherpopulate {
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
    match config {
        Some(file) => Ok(NodeConfig::parse(&read_file(file)?, file)?),
        None => Ok(NodeConfig::default()),
    }
}

fn read_file(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Whether a file that may be right couldn't be read; a missing one is a wrong argument.
fn failed_underneath(error: &anyhow::Error) -> bool {
    let read = error.downcast_ref::<std::io::Error>();
    read.is_some_and(|error| !crate::cli::is_about_the_name(error))
}

/// A node exports disks that nobody named, to everybody on the segment: so somebody must have named
/// the segment.
fn refuse_all_interfaces(wanted: &Wanted) -> anyhow::Result<()> {
    if !Patterns::of(wanted).means_all() {
        return Ok(());
    }
    let which = wanted.plans.iter().find(|plan| plan.interfaces.is_empty());
    let which = which.filter(|_| wanted.config.defaults.interfaces.is_some());
    let what = match which {
        Some(plan) => format!("no interface is named for {}", plan.address),
        None => "no interface is named".to_owned(),
    };
    let error = ApiError::new(
        ErrorCode::Invalid,
        format!(
            "{what}, so nothing is exported: everybody on an interface's segment could read and write the disks.\n{}",
            list_ethernet()
        ),
    );
    Err(error
        .remedy("name those of the storage network: -i eth1 (more with another -i, patterns with *), or interfaces = [\"eth1\"] in node.toml; one that isn't there yet may be named too")
        .into())
}

/// Refuses directories, and two exports whose paths are two names of one disk where they can't be side
/// by side. What isn't there, or doesn't answer in time, is looked at again when it is opened.
fn refuse_wrong_media(wanted: &Wanted, file: Option<&Path>) -> anyhow::Result<()> {
    let (sender, receiver) = sync_channel(1);
    let paths: Vec<(ShelfSlot, String)> =
        wanted.plans.iter().map(|plan| (plan.address, plan.medium.path.clone())).collect();
    let looking = std::thread::Builder::new().name("look".to_owned()).stack_size(128 << 10);
    let looking = looking.spawn(move || {
        let found = paths.into_iter().filter_map(|(address, path)| {
            let (path, identity) = find(&path).ok()?;
            Some((address, identity, path.is_dir()))
        });
        // Whoever asked may have lost patience.
        let _ = sender.send(found.collect::<Vec<_>>());
    });
    if looking.is_err() {
        return Ok(());
    }
    let Ok(found) = receiver.recv_timeout(LOOK_LIMIT) else { return Ok(()) };
    let of_plan = |plan: &ExportPlan| found.iter().find(|(address, ..)| *address == plan.address);
    let identity =
        |plan: &ExportPlan| -> Option<SystemIdentity> { of_plan(plan).map(|found| found.1) };
    for (index, plan) in wanted.plans.iter().enumerate() {
        let Some((_, own, is_directory)) = of_plan(plan).copied() else { continue };
        if is_directory {
            let problem = format!("{} is a directory, and no disk", plan.medium.path);
            bail!("{}", with_place(wanted, file, plan, &problem));
        }
        for other in wanted.plans.iter().take(index) {
            if identity(other) == Some(own)
                && let Err(problem) = share(other, plan)
            {
                bail!("{}", with_place(wanted, file, plan, &problem.to_string()));
            }
        }
    }
    Ok(())
}

/// What is wrong with an export, and where it stands if it is in a file.
fn with_place(wanted: &Wanted, file: Option<&Path>, plan: &ExportPlan, problem: &str) -> String {
    let of_plan = |export: &&ExportConfig| export.address == plan.address.to_string();
    let line = wanted.config.export.iter().find(of_plan).and_then(|export| export.line);
    match (file, line) {
        (Some(file), Some(line)) => format!("{}: line {line}: {problem}", file.display()),
        _ => problem.to_owned(),
    }
}

/// What there isn't yet of what is to be exported, in a line each. Blocks.
pub fn missing(wanted: &Wanted) -> Vec<String> {
    let missing = wanted.plans.iter().filter_map(|plan| {
        let error = find(&plan.medium.path).err()?;
        Some(format!("{}: {error:#}; it is exported as soon as it can be", plan.address))
    });
    missing.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use control::node::IoMode;

    fn target(exports: &[(&str, &Path)], settings: ExportSettings) -> TargetSource {
        let exports = exports.iter().map(|(address, path)| ExportConfig {
            address: (*address).to_owned(),
            path: path.display().to_string(),
            ..ExportConfig::default()
        });
        TargetSource { exports: exports.collect(), settings, ..TargetSource::default() }
    }

    #[test]
    fn a_supervisors_witnesses_are_exported_where_it_is_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let interface = InterfaceConfig { name: "eth7".into(), netns: Some("storage".into()) };
        let supervisor = SupervisorConfig {
            interfaces: vec![interface.clone()],
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            ..SupervisorConfig::default()
        };
        let read = || Source::Witnesses(Box::new(supervisor.clone())).read().unwrap();
        assert!(read().plans.is_empty());
        std::fs::create_dir_all(supervisor.witness_dir()).unwrap();
        for name in ["e1030.0", ".new-x"] {
            std::fs::write(supervisor.witness_dir().join(name), vec![0; 4096]).unwrap();
        }
        let wanted = read();
        assert!(wanted.plans.is_empty() && wanted.refused[0].why.contains("pool extend"));
        let file = supervisor.witness_dir().join("e1030.0");
        let machine = os::process::machine_id(&supervisor.state_dir.join("machine-id")).unwrap();
        let opened = std::fs::File::open(&file).unwrap();
        crate::witnesses::note_origin(&file, &opened, machine).unwrap();
        let wanted = read();
        assert!(wanted.refused.is_empty());
        let [plan] = &wanted.plans[..] else { panic!("{:?}", wanted.plans) };
        assert_eq!(plan.address, ShelfSlot { shelf: 1030, slot: 0 });
        assert!(plan.medium.path.ends_with("state/witnesses/e1030.0") && !plan.remember);
        assert_eq!(wanted.placed, Some(vec![interface]));
        assert!(wanted.frame_socket && !wanted.automatic);
        assert!(!Patterns::of(&wanted).means_all() && Patterns::of(&wanted).named().count() == 0);
        // The machine's own identity, as a node's beside it.
        assert_eq!((wanted.config.node_id, wanted.state_dir), (None, Some(supervisor.state_dir)));
    }

    #[test]
    fn options_are_for_the_exports_of_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("target.toml");
        std::fs::write(&file, "[[export]]\naddress='e2.0'\npath='/f'\n").unwrap();
        let buffered = ExportSettings { io: Some(IoMode::Buffered), ..ExportSettings::default() };
        let mut source = target(&[("e1.0", Path::new("/c"))], buffered);
        source.config = Some(file);
        let modes = |source: &TargetSource| {
            let wanted = Source::Target(Box::new(source.clone())).read().unwrap();
            wanted.plans.iter().map(|plan| plan.medium.io).collect::<Vec<_>>()
        };
        assert_eq!(modes(&source), [IoMode::Direct, IoMode::Buffered]);
        source.exports.clear();
        assert_eq!(modes(&source), [IoMode::Buffered]);
        assert!(Source::Target(Box::default()).read().is_err());
    }

    #[test]
    fn one_disk_under_two_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        std::fs::write(&disk, [0; 512]).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let exports: &[(&str, &Path)] = &[("e1.0", &disk), ("e1.1", &link)];
        let error = Source::Target(Box::new(target(exports, ExportSettings::default())))
            .read()
            .unwrap_err();
        assert!(error.to_string().contains("in common"), "{error:#}");
        let read_only = ExportSettings { read_only: Some(true), ..ExportSettings::default() };
        Source::Target(Box::new(target(exports, read_only))).read().unwrap();
    }

    #[test]
    fn a_directory_is_no_disk_and_a_missing_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("target.toml");
        let write = |path: &Path| {
            let text = format!("\n[[export]]\naddress='e1.0'\npath={path:?}\n");
            std::fs::write(&file, text).unwrap();
            let source = TargetSource { config: Some(file.clone()), ..TargetSource::default() };
            Source::Target(Box::new(source)).read()
        };
        let error = write(dir.path()).unwrap_err().to_string();
        let place = format!("{}: line 2: ", file.display());
        assert!(error.starts_with(&place) && error.contains("is a directory"), "{error}");
        let exports: &[(&str, &Path)] = &[("e1.0", dir.path())];
        let source = target(exports, ExportSettings::default());
        let error = Source::Target(Box::new(source)).read().unwrap_err().to_string();
        assert!(error.contains("is a directory") && !error.contains("line"), "{error}");
        let disk = dir.path().join("disk");
        let told = missing(&write(&disk).unwrap());
        assert!(matches!(&told[..], [one] if one.contains("e1.0: ")), "{told:?}");
        assert!(told[0].contains(&disk.display().to_string()), "{told:?}");
        std::fs::write(&disk, [0; 512]).unwrap();
        assert!(missing(&write(&disk).unwrap()).is_empty());
    }

    #[test]
    fn a_file_without_exports_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("target.toml");
        std::fs::write(&file, "").unwrap();
        let source = TargetSource { config: Some(file.clone()), ..TargetSource::default() };
        let error = Source::Target(Box::new(source)).read().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", file.display())), "{error}");
    }
}
