//! `etherpool target`: exports what is named, here or in a file; the node's server without looking
//! for disks. And the replacement of vblade, which is the same for one export.

mod getopt;
mod settings;
mod vblade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use control::node::ExportConfig;

use crate::cli::TargetAsk;
use crate::node::{Source, Spec, TargetSource, check, run_server};

pub use vblade::{VbladeArgs, called_as_vblade, run as run_vblade};

/// Arguments of `target`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct TargetArgs {
    /// Asks a target that runs, instead of being one.
    #[command(subcommand)]
    pub ask: Option<TargetAsk>,
    /// What to export: an AoE address, and a file, block device, `UUID=…`, `PARTUUID=…`, `LABEL=…`
    /// or `ID=…`
    #[arg(value_name = "eSHELF.SLOT=PATH", value_parser = parse_export)]
    exports: Vec<(String, String)>,
    /// Exports and settings from a file; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the control socket is [default: /run/etherpool/target, or target-ADDRESS without
    /// --config]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where is kept what must survive a restart [default: /var/lib/etherpool]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Check arguments and configuration and say what would be exported, without exporting
    #[arg(long)]
    check: bool,
    /// Take the place of the target that runs with the same run directory: it ends, this one goes on
    #[arg(long)]
    replace: bool,
    // Last: its heading holds for all that follows.
    #[command(flatten)]
    settings: settings::SettingsArgs,
}

const EXAMPLES: &str = "\
Examples:
  A disk, on one interface; every acknowledged write is on stable storage:
    etherpool target e7.0=/dev/disk/by-id/wwn-0x5000c500a1b2c3d4 -i eth1
  An image for two machines and nobody else, read-only:
    etherpool target e7.1=/srv/boot.img -i 'eth*' --read-only \\
      --allow 02:00:00:00:00:01,02:00:00:00:00:02
  What runs here, and how it is doing:
    etherpool target status; etherpool target stats e7.0; etherpool target trace e7.0
  Many, from a file, and what that would do:
    etherpool target --config /etc/etherpool/target.toml --check

What vblade, qaoed and ggaoed call these things: docs/target.md.";

/// Runs until it is told to stop.
pub fn run(args: TargetArgs) -> anyhow::Result<ExitCode> {
    let (settings, own) = args.settings.resolve();
    let exports = args.exports.into_iter().map(|(address, path)| ExportConfig {
        address,
        path,
        ..own.clone()
    });
    let source = Source::Target(Box::new(TargetSource {
        config: args.config,
        exports: exports.collect(),
        settings,
        run_dir: args.run_dir,
        state_dir: args.state_dir,
    }));
    if args.check {
        return check(&source);
    }
    run_server(Spec { source, replace: args.replace, log_level: "info".into() })
}

fn parse_export(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((address, path)) if !path.is_empty() && address.starts_with('e') => {
            Ok((address.to_owned(), path.to_owned()))
        }
        _ => Err("want an address and a path, for example e7.0=/dev/sdb".to_owned()),
    }
}
