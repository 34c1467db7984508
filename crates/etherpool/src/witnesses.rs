//! The files by which a supervisor votes in pools: one for each pool, each called by its address on the network. Their
//! process exports them as a node exports disks, services make and remove them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aoe_wire::ShelfSlot;
use clap::Args;

use crate::node::{Source, Spec, run_server};
use crate::supervisor::{die_with_parent, load_config};

/// Arguments of the hidden `witnesses`.
#[derive(Clone, Debug, Args)]
pub struct WitnessesArgs {
    /// The supervisor's configuration
    #[arg(long)]
    config: Option<PathBuf>,
}

/// The process.
pub fn run(args: WitnessesArgs) -> anyhow::Result<ExitCode> {
    die_with_parent()?;
    let config = load_config(args.config.as_deref())?;
    let log_level = config.log.level.clone();
    run_server(Spec { source: Source::Witnesses(Box::new(config)), replace: false, log_level })
}

/// The files in a directory, which needn't be there. Blocks.
pub fn files(directory: &Path) -> io::Result<BTreeMap<ShelfSlot, PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.insert(address, entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_one_that_is_called_by_an_address() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["e1030.0", "e1030.7", ".e1030.1.new", "notes"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let found = files(directory.path()).unwrap();
        let addresses: Vec<String> = found.keys().map(ToString::to_string).collect();
        assert_eq!(addresses, ["e1030.0", "e1030.7"]);
        assert!(files(&directory.path().join("missing")).unwrap().is_empty());
    }
}
