//! `etherpool lab`: a whole cluster on one machine, made of the real parts. Each node is a network
//! namespace with a virtual Ethernet cable into a bridge and an `etherpool node` process with sparse
//! files for disks; the supervisor has its packet sockets in a namespace of the lab and FTP and API
//! on the host's loopback. People try etherpool with it, and the black-box tests drive it.
//!
//! The lab only calls what people call on real machines: `ip`, and etherpool's own commands.

mod cleanup;
mod command;
mod down;
mod fault;
mod network;
mod place;
mod process;
mod status;
mod up;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use control::api::{ApiError, ErrorCode};

use place::Place;

pub use place::{LAB_DIR, api_socket};

/// Environment variable that says where the lab is.
pub const LAB_DIR_VARIABLE: &str = "ETHERPOOL_LAB_DIR";

/// Try etherpool: a whole cluster on this machine, in network namespaces.
#[derive(Args, Debug)]
pub struct LabArgs {
    /// Where the lab keeps its disks, sockets and logs; a second lab needs another place.
    #[arg(
        long,
        global = true,
        env = LAB_DIR_VARIABLE,
        default_value = LAB_DIR
    )]
    dir: std::path::PathBuf,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Subcommand, Debug)]
enum LabCommand {
    /// Start the cluster; harmless when it runs already: what died is started again.
    Up(up::UpArgs),
    /// Show what runs, what is mounted and served.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Kill a node's process or the supervisor with SIGKILL, without goodbye.
    Kill {
        /// `n1`, `n2`, ... or `supervisor`, `engine`, `services`.
        who: String,
    },
    /// Start a killed node or supervisor again.
    Start {
        /// `n1`, `n2`, ... or `supervisor`.
        who: String,
    },
    /// Stop a node's process with SIGSTOP, as a machine that hangs.
    Pause {
        /// `n1`, `n2`, ...
        node: String,
    },
    /// Let a paused node go on.
    Resume {
        /// `n1`, `n2`, ...
        node: String,
    },
    /// Pull a node's network cable.
    Cut {
        /// `n1`, `n2`, ...
        node: String,
    },
    /// Plug a node's network cable in again.
    Join {
        /// `n1`, `n2`, ...
        node: String,
    },
    /// Destroy a machine for good: its process, its disks and all that was on them, its place in the lab.
    Destroy {
        /// `n1`, `n2`, ...
        node: String,
    },
    /// Add a machine with disks; `pool extend` then takes them.
    AddNode {
        /// Size of each of its disks; as the first node's by default.
        #[arg(long)]
        size: Option<String>,
        /// Number of its disks; as the first node's by default.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=32))]
        disks: Option<u8>,
    },
    /// Stop everything and leave nothing behind but the disks.
    Down {
        /// Delete the disks too.
        #[arg(long)]
        wipe: bool,
    },
}

fn check_user(user: rustix::process::Uid) -> Result<(), ApiError> {
    if user.is_root() {
        return Ok(());
    }
    let message = "the lab makes network namespaces and mounts, which only root may";
    Err(ApiError::new(ErrorCode::Refused, message).remedy("run it as root: sudo etherpool lab ..."))
}

/// Runs one lab command.
pub fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    check_user(rustix::process::geteuid())?;
    let place = Place::new(&args.dir)?;
    // A mistyped directory isn't made, nor anything in it.
    match &args.command {
        LabCommand::Up(_) => place.make()?,
        _ => place.exists()?,
    }
    let _lock = place.lock()?;
    match args.command {
        LabCommand::Up(up) => up::up(&place, &up)?,
        LabCommand::Status { json } => return status::status(&place, json),
        LabCommand::Kill { who } => fault::kill(&place, &who)?,
        LabCommand::Start { who } => fault::start(&place, &who)?,
        LabCommand::Pause { node } => fault::pause(&place, &node)?,
        LabCommand::Resume { node } => fault::resume(&place, &node)?,
        LabCommand::Cut { node } => fault::cut(&place, &node)?,
        LabCommand::Join { node } => fault::join(&place, &node)?,
        LabCommand::Destroy { node } => fault::destroy(&place, &node)?,
        LabCommand::AddNode { size, disks } => up::add_node(&place, size.as_deref(), disks)?,
        LabCommand::Down { wipe } => down::down(&place, wipe)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_not_root_is_refused_and_told_how() {
        assert_eq!(check_user(rustix::process::Uid::ROOT), Ok(()));
        let refused = check_user(rustix::process::Uid::from_raw(65534)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Refused);
        assert!(refused.remedy.unwrap().contains("sudo"), "it says what to do");
    }
}
