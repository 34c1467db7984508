//! The command line: its grammar, and the way from a parsed command to an exit code.
//!
//! Commands talk to the supervisor's API and hold no state. Each family of commands has a file of
//! its own with its arguments and what it does; what is printed comes from `output`.

mod alert;
mod aoe;
mod aoe_driver;
mod args;
mod boot;
mod boot_assign;
mod boot_image;
mod boot_restore;
mod boot_verify;
mod confirm;
mod disk;
mod disk_offline;
mod docs;
mod endings;
mod explain;
mod failure;
mod held;
mod join;
mod key;
mod node;
mod output;
mod pool;
mod pool_accept;
mod pool_check;
mod pool_dump;
mod pool_history;
mod pool_import;
mod pool_iostat;
mod pool_jobs;
mod pool_keys;
mod pool_label;
mod pool_rebalance;
mod pool_scrub;
mod pool_wait;
mod progress;
mod remote;
mod status;
mod target_ask;
mod target_client;
mod user;
mod version;
mod volume;
mod volume_export;
mod volume_stats;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use client::{Address, Client};
use control::exit::{Exit, exit_code_table};

pub use aoe_driver::meant;
pub use failure::{Failure, is_about_the_name};
pub use node::NodeCommand;
#[cfg(test)]
pub use output::samples;
use remote::Sources;
pub use target_ask::TargetAsk;
pub use target_client::{targets, targets_below};
pub use user::wrong_users;

use crate::{engine, ftp, init, measure, services, supervisor, target_command, witnesses};

/// Pools of network disks.
#[derive(Debug, Parser)]
#[command(name = "etherpool", version, max_term_width = 100, subcommand_required = true)]
pub struct Cli {
    /// Socket of the supervisor's API
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "ETHERPOOL_SOCKET",
        default_value = client::SOCKET
    )]
    socket: PathBuf,

    #[command(flatten)]
    remote: remote::RemoteArgs,

    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,

    /// How long to wait for an answer (15 for a look, 150 for a change, 30 of silence for what tells
    /// how far it is)
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    timeout: Option<u64>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at the AoE segment
    #[command(subcommand)]
    Aoe(aoe::AoeCommand),
    /// Disks
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// Pools
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// What is wrong, since when, what it means for data, and what to do; then all else at a glance
    Status(status::StatusArgs),
    /// Which version this program is, and the supervisor; with --cluster each node, too
    Version(version::VersionArgs),
    /// What is wrong, and whether people would hear of it
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// What happened to the pools, and who had what done
    Events(pool_history::EventsArgs),
    /// What an id means that the log, events, notifications and status have
    Explain(explain::ExplainArgs),
    /// Own pools, mount and serve their volumes
    Supervisor(supervisor::SupervisorArgs),
    /// Export this machine's disks
    Node(Box<crate::node::NodeArgs>),
    /// Export files and disks by AoE
    Target(Box<target_command::TargetArgs>),
    /// Export a file by AoE, with vblade's arguments
    #[command(disable_help_flag = true)]
    Vblade(target_command::VbladeArgs),
    /// The same in the background, with messages to syslog
    #[command(disable_help_flag = true)]
    Vbladed(target_command::VbladeArgs),
    /// Machines that boot from the network
    #[command(subcommand)]
    Boot(boot::BootCommand),
    /// A whole cluster on this machine, to try things
    Lab(lab::LabArgs),
    /// Entries of the FTP users file
    #[command(subcommand)]
    User(user::UserCommand),
    /// Keys of machines
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Tokens, by which nodes join this supervisor
    #[command(subcommand)]
    Token(join::TokenCommand),
    /// Have this machine's node come to know a supervisor, by a token of it
    Join(join::JoinArgs),
    /// Completions for a shell, on standard output
    Completion(docs::CompletionArgs),
    /// Manual pages, one on standard output or all in a directory
    Man(docs::ManArgs),
    /// The supervisor's API as programs read it, on standard output: OpenAPI 3.1
    Openapi,
    /// The first process of a node that was booted from the network
    #[command(hide = true)]
    Init(init::InitArgs),
    /// The supervisor's engine process
    #[command(hide = true)]
    Engine(engine::EngineArgs),
    /// The supervisor's services process
    #[command(hide = true)]
    Services(services::ServicesArgs),
    /// Serves volumes by FTP
    #[command(hide = true)]
    Ftp(ftp::FtpArgs),
    /// The supervisor's process that exports its witnesses
    #[command(hide = true)]
    Witnesses(witnesses::WitnessesArgs),
    /// Aids of the benchmark
    #[command(hide = true, subcommand)]
    Measure(measure::MeasureCommand),
}

/// What a command needs besides its arguments.
pub struct Context {
    /// The supervisor's API.
    pub client: Client,
    /// Whether JSON is asked for.
    pub json: bool,
}

/// The grammar, for completions and the manual.
pub fn grammar() -> clap::Command {
    Cli::command().after_help(exit_code_table())
}

/// The program, with its command line.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let found = grammar().try_get_matches_from(words).and_then(|matches| understand(&matches));
    let (cli, sources) = match found {
        Ok(understood) => understood,
        Err(error) => {
            // Nothing can be done about a standard error that is gone.
            let _ = error.print();
            let usage = error.use_stderr();
            return ExitCode::from(if usage { Exit::Usage.code() } else { Exit::Ok.code() });
        }
    };
    let json = cli.json;
    let outcome = run(cli, &sources);
    crate::logging::finish();
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            failure.print(json);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn understand(matches: &clap::ArgMatches) -> Result<(Cli, Sources), clap::Error> {
    let cli = <Cli as clap::FromArgMatches>::from_arg_matches(matches)?;
    Ok((cli, Sources::of(matches)))
}

impl Command {
    /// Whether it asks a supervisor.
    fn asks_supervisor(&self) -> bool {
        match self {
            Command::Aoe(command) => !command.is_local(),
            Command::Disk(command) => !matches!(command, disk::DiskCommand::ResetOwner(_)),
            Command::Pool(command) => {
                !matches!(command, pool::PoolCommand::Check(_) | pool::PoolCommand::Dump(_))
            }
            Command::Key(command) => !command.is_local(),
            Command::Volume(_)
            | Command::Status(_)
            | Command::Version(_)
            | Command::Token(_)
            | Command::Alert(_)
            | Command::Events(_) => true,
            _ => false,
        }
    }
}

fn run(cli: Cli, sources: &Sources) -> Result<ExitCode, Failure> {
    let is_local = !cli.command.asks_supervisor();
    if is_local {
        sources.check_local()?;
    }
    let socket = sources.name_socket().then(|| cli.socket.clone());
    let socket = socket.as_deref();
    let timeout = cli.timeout.map(Duration::from_secs);
    let exit = match cli.command {
        Command::Supervisor(args) => return Ok(supervisor::run(args)?),
        Command::Init(args) => return Ok(init::run(args)),
        Command::Engine(args) => return Ok(engine::run(args)?),
        Command::Services(args) => return Ok(services::run(args)?),
        Command::Ftp(args) => return Ok(ftp::run(args)?),
        Command::Witnesses(args) => return Ok(witnesses::run(args)?),
        Command::Node(args) if args.command.is_none() => return Ok(crate::node::run(*args)?),
        Command::Target(mut args) => match args.ask.take() {
            Some(ask) => target_ask::run(ask, socket, timeout, cli.json)?,
            None => return Ok(target_command::run(*args)?),
        },
        Command::Vblade(args) => return Ok(target_command::run_vblade(&args, false)),
        Command::Vbladed(args) => return Ok(target_command::run_vblade(&args, true)),
        Command::Boot(boot::BootCommand::Serve(args)) => return Ok(crate::boot::run(args)?),
        Command::Lab(args) => return Ok(lab::run(args)?),
        Command::Measure(command) => return Ok(measure::run(command)?),
        Command::Completion(args) => docs::completion(args)?,
        Command::Man(args) => docs::man(args)?,
        Command::Explain(args) => explain::explain(&args, cli.json)?,
        Command::Openapi => docs::openapi()?,
        Command::User(command) => user::run(command)?,
        Command::Key(command) if command.is_local() => key::run_here(command, cli.json)?,
        Command::Join(args) => join::join(&args, cli.json)?,
        command => {
            let address = match is_local {
                true => Address::Socket(cli.socket),
                false => remote::address(cli.socket, cli.remote, sources)?,
            };
            let words: Vec<String> = std::env::args().skip(1).collect();
            let aside = terminal::is_seen(cli.json).then(progress::shown_aside);
            let client =
                Client::new(address).timeout(timeout).command(&words.join(" ")).aside(aside);
            let context = Context { client, json: cli.json };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(anyhow::Error::from)?;
            runtime.block_on(ask_supervisor(&context, command))?
        }
    };
    Ok(ExitCode::from(exit.code()))
}

async fn ask_supervisor(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Aoe(command) => aoe::run(context, command).await,
        Command::Disk(command) => disk::run(context, command).await,
        Command::Pool(command) => pool::run(context, command).await,
        Command::Volume(command) => volume::run(context, command).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Version(args) => version::run(context, args).await,
        Command::Key(command) => key::run(context, command).await,
        Command::Token(command) => join::run(context, command).await,
        Command::Alert(command) => alert::run(context, command).await,
        Command::Events(args) => pool_history::events(context, args).await,
        Command::Boot(command) => boot::run(context, command).await,
        Command::Node(args) => match args.command {
            Some(command) => node::run(context, command).await,
            None => Err(Failure::usage("a node is no command of a client")),
        },
        _ => Err(Failure::usage("this command does not use the supervisor")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    #[test]
    fn commands_of_the_manual_are_understood() {
        for line in [
            "etherpool aoe discover",
            "etherpool aoe discover -i eth0 --json",
            "etherpool disk list --json",
            "etherpool disk reset-epoch e1.0 --force-disk e1.0 --yes",
            "etherpool disk offline cluster e1.0 node2 --yes",
            "etherpool disk offline cluster e1.0 --dry-run --json",
            "etherpool disk online cluster node2 --wait",
            "etherpool disk online cluster e1.0 --dry-run",
            "etherpool boot image build --kernel 6.1.0-9-amd64 --modules bonding,8021q --firmware bnx2/* --with smartctl",
            "etherpool boot image build --kernel-image vmlinuz --modules-dir lib/modules/6.1 --name test --json",
            "etherpool boot image verify",
            "etherpool boot image verify test --emulate --memory 1024 --within 600",
            "etherpool pool create cluster e1.0 e1.1 /dev/sdb --failure-domain disk --yes",
            "etherpool pool create cluster e1.0 --force-disk e1.0 --dry-run",
            "etherpool pool extend cluster e4.0",
            "etherpool pool create cluster e1.0 e2.0 --no-witness",
            "etherpool pool create cluster e1.0 e2.0 --witness e3.0",
            "etherpool pool extend cluster --witness supervisor --yes",
            "etherpool pool list",
            "etherpool pool list -H -o pool,free --units bytes -s -free",
            "etherpool disk list -Ho disk,size",
            "etherpool volume list --sort size --columns volume,size",
            "etherpool pool show cluster",
            "etherpool pool import cluster --yes",
            "etherpool pool import --all",
            "etherpool pool release cluster",
            "etherpool pool evacuate cluster e1.0 node2 --wait --yes",
            "etherpool pool evacuate cluster e1.0 --dry-run --json",
            "etherpool pool replace cluster e1.0 e4.0 --force-disk e4.0 --wait",
            "etherpool pool remove cluster e1.0 node2 --wait --yes",
            "etherpool pool remove cluster e1.0 --dry-run --json",
            "etherpool pool jobs",
            "etherpool pool jobs cluster --wait --json",
            "etherpool pool cancel cluster 3 --yes",
            "etherpool pool set cluster rebuild-delay 10min",
            "etherpool pool set cluster rebuild-delay off",
            "etherpool pool set cluster scrub-every 14d",
            "etherpool pool set cluster scrub-rate 100M",
            "etherpool pool set cluster rebuild-rate 50M",
            "etherpool pool scrub cluster",
            "etherpool pool set cluster auto-rebalance off",
            "etherpool pool set cluster trim off",
            "etherpool pool set cluster spare node",
            "etherpool pool create tank e1.0 e2.0 --domain rack=A:e1.0 --domain rack=B:node2",
            "etherpool pool extend tank e3.0 --domain batch=2019-03:/dev/disk/by-path/a:0,e3.0",
            "etherpool pool label tank rack=A:e1.0,node2 batch=:e3.0 --yes",
            "etherpool pool label tank rack=A:e1.0 --dry-run --json",
            "etherpool pool set cluster spare 100G",
            "etherpool pool create tank e1.0 e2.0 e3.0 --spare disk",
            "etherpool pool rebalance cluster --dry-run --json",
            "etherpool pool rebalance cluster --wait",
            "etherpool volume convert cluster/v --layout mirror:3 --wait --yes",
            "etherpool volume convert cluster/v --layout raid0 --dry-run",
            "etherpool pool scrub cluster --rate 50M/s --every 30d --wait --json",
            "etherpool pool history cluster -n 20 --json",
            "etherpool token create --valid 15min --json",
            "etherpool token list",
            "etherpool token revoke 00ff00ff",
            "etherpool join --file token --node /run/etherpool",
            "etherpool key list",
            "etherpool key list --node",
            "etherpool key forget AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= --node /run/x",
            "etherpool events",
            "etherpool alert list --json",
            "etherpool alert test",
            "etherpool events --follow -n 0 --json",
            "etherpool pool check /dev/sdb /srv/d1.img",
            "etherpool pool check cluster d0.img d1.img --data --json",
            "etherpool volume create cluster/v --size 10G --layout mirror:2",
            "etherpool volume create cluster/v --size 100%FREE --layout raid0",
            "etherpool volume extend cluster/v --size 20G --resizefs",
            "etherpool volume extend cluster/v --size +1G",
            "etherpool volume reduce cluster/v --size 20G --resizefs --yes",
            "etherpool volume reduce cluster/v --size -1G --force --dry-run",
            "etherpool volume resize cluster/v --size 4.79GiB",
            "etherpool volume list",
            "etherpool volume show cluster/v",
            "etherpool volume remove cluster/v --yes",
            "etherpool volume verify cluster/v --copy 1",
            "etherpool volume mkfs cluster/v --yes",
            "etherpool volume mount cluster/v /srv/v --option noatime",
            "etherpool volume unmount cluster/v",
            "etherpool volume check cluster/v",
            "etherpool volume attach cluster/v",
            "etherpool volume detach cluster/v",
            "etherpool volume serve cluster/v ftp",
            "etherpool volume serve ftp cluster/v --listen 127.0.0.1:2122",
            "etherpool volume serve ftp cluster/v --stop",
            "etherpool volume export cluster/v aoe:e7.1 -i eth0 --allow 02:00:00:00:00:01 --read-only",
            "etherpool volume export cluster/v aoe",
            "etherpool volume export cluster/v aoe:e7.1 --dry-run",
            "etherpool node -i eth1 -i en*,eth2 --check",
            "etherpool volume unexport cluster/v",
            "etherpool status --json",
            "etherpool version",
            "etherpool version --cluster --json",
            "etherpool status -x",
            "etherpool status -x --watch",
            "etherpool status --watch 5",
            "etherpool --socket /x/y status",
            "etherpool --api https://h:9443 --certificate c --certificate-key k --ca a pool list",
            "etherpool pool import cluster --key f --api https://h:9443",
            "etherpool supervisor --check",
            "etherpool volume mount cluster/v /srv/v --timeout 5",
            "etherpool key show",
            "etherpool key show --state-dir /var/lib/etherpool --json",
            "etherpool completion bash",
            "etherpool man",
            "etherpool target e1.1=/dev/sdb -i eth0 -i eth1 --io direct --write-cache off",
            "etherpool target e1.1=UUID=AB-CD e1.2=/f=x -i v* --read-only --length 63s",
            "etherpool target --config /etc/etherpool/target.toml --check",
            "etherpool target reload --socket /run/etherpool/target",
            "etherpool vblade -b 16 -m 020000000001 -dsr 1 2 eth0 /f",
            "etherpool vbladed 1 2 eth0 /f -s",
            "etherpool user hash joe",
            "etherpool boot serve -i eth1 --config /etc/etherpool/boot.toml --check",
            "etherpool boot assign 02:00:00:00:00:01 node --name node-1",
            "etherpool boot assign 00112233-4455-6677-8899-aabbccddeeff volume tank/v --address e7.1",
            "etherpool boot assign pc7 kernel d/vmlinuz --initrd d/initrd.img --append -x",
            "etherpool boot assign default local --yes",
            "etherpool boot list --json",
            "etherpool node pending --state-dir /srv/boot",
            "etherpool node accept 02:00:00:00:00:01 --name node-1 --shelf 1 --yes",
            "etherpool node config node-1 --etherpopulate etherpopulate.conf --called node-194",
            "etherpool supervisor --config /etc/etherpool/supervisor.toml",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    /// What the hands of those type who come from ZFS and LVM.
    #[test]
    fn habits_of_zfs_and_lvm_are_understood() {
        for (line, means) in [
            ("etherpool pool status", "status"),
            ("etherpool pool status -x", "status"),
            ("etherpool pool status tank", "status"),
            ("etherpool pool iostat", "iostat"),
            ("etherpool pool iostat tank 5 3", "iostat"),
            ("etherpool pool history tank", "history"),
            ("etherpool pool add tank e1.0", "extend"),
            ("etherpool pool export tank", "release"),
            ("etherpool pool destroy tank --yes", "destroy"),
            ("etherpool pool offline tank e1.0 --yes", "offline"),
            ("etherpool pool online tank e1.0", "online"),
            ("etherpool volume destroy tank/v --yes", "remove"),
            ("etherpool volume remove tank/v --yes", "remove"),
            ("etherpool volume resize tank/v --size +1G", "extend"),
            ("etherpool volume reduce tank/v --size -1G", "reduce"),
        ] {
            let matches = match grammar().try_get_matches_from(line.split_whitespace()) {
                Ok(matches) => matches,
                Err(error) => panic!("{line}: {error}"),
            };
            let (_, family) = matches.subcommand().unwrap();
            assert_eq!(family.subcommand_name(), Some(means), "{line}");
        }
        let help = |line: &str| {
            let asked = grammar().try_get_matches_from(line.split_whitespace());
            asked.unwrap_err().to_string()
        };
        let volume = help("etherpool volume --help");
        assert!(
            volume.contains("alias: destroy]") && volume.contains("alias: resize]"),
            "{volume}"
        );
    }

    #[test]
    fn a_target_is_asked_where_the_command_line_says() {
        let understood = |line: &str| {
            let matches = grammar().try_get_matches_from(line.split_whitespace()).unwrap();
            understand(&matches).unwrap()
        };
        for line in [
            "etherpool target status --socket /x",
            "etherpool --socket /x target stats e1.0 --json",
            "etherpool target trace e1.0 e1.1 --count 5 --socket /x",
        ] {
            let (cli, sources) = understood(line);
            assert!(sources.name_socket() && cli.socket == Path::new("/x"), "{line}");
            assert!(matches!(cli.command, Command::Target(args) if args.ask.is_some()), "{line}");
        }
        assert!(!understood("etherpool target status").1.name_socket());
        let (cli, _) = understood("etherpool target e1.1=/status -i eth0");
        assert!(matches!(cli.command, Command::Target(args) if args.ask.is_none()));
    }

    #[test]
    fn what_works_on_its_own_machine_only_is_known() {
        for (line, is_local) in [
            ("etherpool status --api https://h", false),
            ("etherpool aoe discover", false),
            ("etherpool aoe discover -i eth0", true),
            ("etherpool disk list", false),
            ("etherpool disk reset-owner e1.0 --force-disk e1.0", true),
            ("etherpool pool check /d", true),
            ("etherpool key list", false),
            ("etherpool key list --node", true),
            ("etherpool join --file t", true),
            ("etherpool lab up", true),
            ("etherpool events --follow", false),
        ] {
            let matches = grammar().try_get_matches_from(line.split_whitespace()).unwrap();
            let (cli, _) = understand(&matches).unwrap();
            assert_eq!(!cli.command.asks_supervisor(), is_local, "{line}");
        }
        let line = "etherpool pool check /d --api https://h";
        let matches = grammar().try_get_matches_from(line.split_whitespace()).unwrap();
        let (_, sources) = understand(&matches).unwrap();
        let failure = sources.check_local().unwrap_err();
        assert!(failure.error.message.contains("`etherpool pool check`"), "{failure:?}");
    }

    /// Of a page's shell blocks, and of its lines that have one: what follows the program's name, without what the shell has of
    /// it.
    fn commands(page: &str) -> Vec<String> {
        let (mut all, mut is_shell, mut is_block) = (Vec::new(), false, false);
        for line in page.replace("\\\n", " ").lines() {
            if let Some(kind) = line.strip_prefix("```") {
                (is_shell, is_block) = (kind == "sh", !is_block);
            } else if is_shell {
                let line = line.split(" #").next().unwrap_or_default();
                all.extend(line.split("&&").map(|part| format!(" {part}")));
            } else if !is_block {
                all.extend(line.split('`').skip(1).step_by(2).map(|code| format!(" {code}")));
            }
        }
        let parts = all.iter().filter_map(|part| Some(part.split_once(" etherpool ")?.1));
        let parts = parts.filter_map(|part| part.split([';', '|', '>', '<']).next());
        parts.map(|part| part.replace(['[', ']', '"', '\''], "")).collect()
    }

    /// A word of a command that is none: no subcommand, or no option of it.
    fn unknown<'w>(all: &clap::Command, command: &'w str) -> Option<&'w str> {
        let mut at = all;
        let mut words = command.split_whitespace().peekable();
        while let Some(next) = words.peek().and_then(|word| at.find_subcommand(word)) {
            at = next;
            words.next();
        }
        let is_word = |word: &str| word.starts_with(|c: char| c.is_ascii_lowercase());
        let takes_none = at.has_subcommands() && at.get_positionals().next().is_none();
        if let Some(word) = words.peek().filter(|word| takes_none && is_word(word)) {
            return Some(word);
        }
        words.find(|word| {
            let name = word.strip_prefix("--").and_then(|rest| rest.split('=').next());
            let name = name.filter(|name| is_word(name));
            name.is_some_and(|name| {
                let mut known = at.get_arguments();
                !known.any(|one| {
                    one.get_long_and_visible_aliases().unwrap_or_default().contains(&name)
                })
            })
        })
    }

    /// What pages show is there. What stands for something (NAME, UUID) need not be one.
    #[test]
    fn every_command_of_a_page_is_one() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let pages = std::fs::read_dir(root.join("docs")).unwrap().flatten();
        let pages = pages.map(|page| page.path()).chain([root.join("README.md")]);
        let mut all = grammar();
        all.build();
        let (mut count, mut wrong) = (0, Vec::new());
        // Not the texts that are signed.
        let pages = pages.filter(|page| !page.ends_with("session.md"));
        for page in pages.filter(|page| page.extension().is_some_and(|kind| kind == "md")) {
            for command in commands(&std::fs::read_to_string(&page).unwrap()) {
                count += 1;
                if let Some(word) = unknown(&all, &command) {
                    wrong.push(format!("{}: etherpool {command}: {word}", page.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(count > 100, "{count} commands");
    }

    #[test]
    fn wrong_arguments_are_refused_with_the_reason() {
        for (line, reason) in [
            ("etherpool pool create p", "required"),
            ("etherpool pool create bad/name e1.0", "is not a name"),
            ("etherpool pool create p sdb", "not an AoE address"),
            ("etherpool pool create p e1.0 --witness me", "not an AoE address"),
            ("etherpool pool create p e1.0 --witness e2.0 --no-witness", "cannot be used with"),
            ("etherpool pool extend p --no-witness", "required"),
            ("etherpool pool import", "required"),
            ("etherpool pool import p --all", "cannot be used with"),
            ("etherpool pool check", "required"),
            ("etherpool pool evacuate cluster", "required"),
            ("etherpool pool remove cluster", "required"),
            ("etherpool pool replace cluster e1.0", "required"),
            ("etherpool pool set cluster rebuild-delay 0s", "off for never"),
            ("etherpool pool scrub cluster --rate fast", "fast"),
            ("etherpool volume create p/v --layout raid0", "--size"),
            ("etherpool volume create v --size 1G --layout raid0", "want POOL/VOLUME"),
            ("etherpool volume create p/v --size 1X --layout raid0", "unknown unit"),
            ("etherpool volume create p/v --size 1 --layout raid0", "is 1G meant"),
            ("etherpool volume create p/v --size +1G --layout raid0", "volume extend"),
            ("etherpool volume create p/v --size 1G --layout raid5", "not a layout"),
            ("etherpool volume export p/v e7.1 -i eth0", "aoe:eSHELF.SLOT"),
            ("etherpool volume export p/v aoe:e7.1 --allow 02", "--allow"),
            ("etherpool volume export p/v aoe --allow ff:ff:ff:ff:ff:ff", "group address"),
            ("etherpool volume serve ftp p/v --listen 5", "socket address"),
            ("etherpool target /dev/sdb", "e7.0=/dev/sdb"),
            ("etherpool target e1.1=/f --write-cache maybe", "switchable"),
            ("etherpool target e1.1=/f --offset 100", "sectors"),
            ("etherpool target e1.1=/f --accept erase=x", "config-set"),
            ("etherpool target trace --count 0", "0 is not in"),
            ("etherpool target e1.1=/x status", "want an address and a path"),
            ("etherpool volume mkfs p/v --type ntfs", "not known here"),
        ] {
            let error = parse(line).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
