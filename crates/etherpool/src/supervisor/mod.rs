//! `etherpool supervisor`: the parent of engine, services and the process that serves FTP, and of the process that exports
//! its witnesses if it has some.
//!
//! It does no work of its own, so that nothing it waits for can take it down: it holds the lock on
//! its state, keeps its children running, and ends them in the right order. The children die with
//! it, because an engine without its supervisor would be nobody's.

mod check;
mod child;
mod identity;
mod lock;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use control::api::{ApiError, ErrorCode};
use control::config::SupervisorConfig;

use crate::confinement::Process;

pub use child::{check_parent, die_with_parent, is_child};
pub use identity::Identity;
pub use run::{ENGINE_SAYS_EVERY, READY_LINE, WITNESS_LINE};

/// Arguments of `supervisor`.
#[derive(Clone, Debug, Args)]
pub struct SupervisorArgs {
    /// Configuration file [default: /etc/etherpool/supervisor.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Only say what the configuration would do here, and whether it can be used, with the files that it names
    #[arg(long)]
    check: bool,
}

/// The configuration of a machine's supervisor.
pub const DEFAULT_CONFIG: &str = "/etc/etherpool/supervisor.toml";

/// The process.
pub fn run(args: SupervisorArgs) -> anyhow::Result<ExitCode> {
    let config = load_config(args.config.as_deref())?;
    if args.check {
        return check::check(&config);
    }
    crate::logging::start(&config.log.level);
    let _lock = lock::take(&config)?;
    let identity = Identity::load_or_create(&config.state_dir)?;
    let _running = crate::running::register("supervisor", config.needed_paths());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the supervisor's event loop")?;
    crate::confinement::confine_and_tell(Process::Supervisor);
    runtime.block_on(run::run(config, args.config, identity))
}

/// Reads the configuration that all processes of a supervisor share. Without `--config` a missing
/// default file means the defaults; a file that is named must be there.
pub fn load_config(file: Option<&Path>) -> anyhow::Result<SupervisorConfig> {
    let path = file.unwrap_or(Path::new(DEFAULT_CONFIG));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(SupervisorConfig::default());
        }
        Err(error) => {
            return Err(ApiError::new(ErrorCode::Invalid, format!("{}: {error}", path.display()))
                .remedy("name a readable file with --config")
                .into());
        }
    };
    SupervisorConfig::parse(&text).map_err(|error| {
        ApiError::new(ErrorCode::Invalid, format!("{}: {error}", path.display()))
            .remedy("correct the file; nothing was started")
            .into()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bad_file_is_named_with_line_and_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("supervisor.toml");
        std::fs::write(&file, "\nstate-dirr = \"/x\"\n").unwrap();
        let error = load_config(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("supervisor.toml: line 2, column 1: unknown field"), "{error}");
        assert!(load_config(Some(&directory.path().join("none"))).is_err());
    }
}
