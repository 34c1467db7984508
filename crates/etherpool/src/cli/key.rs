//! `etherpool key`: the key of this machine.

use std::path::PathBuf;

use clap::Subcommand;
use control::exit::Exit;
use os::dir::Directory;
use serde::Serialize;

use super::Failure;
use super::output::print;
use crate::keys;

/// The machine's key
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print the public half, by which others know this machine; it is made if there is none yet
    Show {
        /// Where node and supervisor keep their state
        #[arg(long, value_name = "PATH", default_value = "/var/lib/etherpool")]
        state_dir: PathBuf,
    },
}

#[derive(Serialize)]
struct Shown {
    public: seal::PublicKey,
    file: PathBuf,
}

/// Runs it.
pub fn run(command: KeyCommand, json: bool) -> Result<Exit, Failure> {
    let KeyCommand::Show { state_dir } = command;
    let directory = Directory::create(&state_dir).map_err(|error| {
        anyhow::anyhow!("cannot make the state directory {}: {error}", state_dir.display())
    })?;
    let public = keys::load_or_make(&directory)?.public();
    if json {
        let shown = Shown { public, file: directory.path_of(keys::FILE) };
        let text = serde_json::to_string(&shown).map_err(anyhow::Error::from)?;
        print(&format!("{text}\n"))?;
    } else {
        print(&format!("{public}\n"))?;
    }
    Ok(Exit::Ok)
}
