//! The server that exports disks, on this machine's interfaces and, for an engine of the same
//! machine, on a Unix socket; and `etherpool node`, which looks for disks to export by itself. A disk
//! that is missing, vanishes or hangs affects its own export only, and is exported again when it is
//! back.

mod check;
mod choose;
mod drives;
mod export;
mod exporter;
mod health;
mod identity;
mod interfaces;
mod link;
mod local;
mod looker;
mod memory;
mod open_disks;
mod server;
mod shelf;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::NodeCommand;

pub use check::check;
pub use choose::BLANK;
pub use identity::{Identity, shelf_beside, shelf_of};
pub use interfaces::describe as describe_link;
pub use server::{Spec, run as run_server};
pub use source::{Source, TargetSource, check_text};

/// Export this machine's disks.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    /// Looks after nodes that were booted from the network, instead of being one.
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    /// Interfaces to export on: names, or patterns with `*`; repeat for more. Needed unless the
    /// configuration names some
    #[arg(short = 'i', long = "interface", value_name = "IF", value_delimiter = ',')]
    interfaces: Vec<String>,
    /// What to export; without it all unused whole disks that are blank or etherpool's.
    #[arg(long, value_name = "FILE", conflicts_with = "etherpopulate")]
    config: Option<PathBuf>,
    /// An etherpopulate.conf of the old system, as it is.
    #[arg(long, value_name = "FILE")]
    etherpopulate: Option<PathBuf>,
    /// This machine's name in the etherpopulate.conf; its host name by default.
    #[arg(long, requires = "etherpopulate")]
    name: Option<String>,
    /// Check the configuration and say which disks would be exported where, and which not and why,
    /// without exporting.
    #[arg(long)]
    check: bool,
    /// Take the place of the node process that runs: it ends, and this one goes on for it.
    #[arg(long)]
    replace: bool,
}

/// Runs until it is told to stop.
pub fn run(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let etherpopulate = args.etherpopulate.map(|file| {
        let name = args.name.unwrap_or_else(os::process::hostname);
        (file, name)
    });
    let source = Source::Node { config: args.config, etherpopulate, interfaces: args.interfaces };
    if args.check {
        return check(&source);
    }
    run_server(Spec { source, replace: args.replace, log_level: "info".into() })
}
