//! `etherpool key`: the key of this machine, and those of machines that joined it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control::api::{MembersReport, NamedMember};
use control::exit::Exit;
use control::node::{NodeReply, NodeRequest};
use os::dir::Directory;
use seal::PublicKey;
use serde::Serialize;

use super::output::{self, print};
use super::{Context, Failure, join};
use crate::keys;

/// Keys of machines
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Print the public half of this machine's key, by which others know it; it is made if there is none yet
    Show {
        /// Where node and supervisor keep their state
        #[arg(long, value_name = "PATH", default_value = "/var/lib/etherpool")]
        state_dir: PathBuf,
    },
    /// Show the keys of the nodes that joined this supervisor, or of the supervisors that a node joined, and their tokens
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Take a machine that joined for a stranger again, and give up all tokens, as it may have one. What a pool has of its disks stays in the pool, and disks of pools
    /// obey whom they obeyed
    Forget {
        /// Its key
        key: PublicKey,

        #[command(flatten)]
        of: Of,
    },
}

/// Who is asked.
#[derive(Debug, Args)]
pub struct Of {
    /// Ask the node of this machine, not the supervisor: its run directory, or its control socket
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "/run/etherpool")]
    node: Option<PathBuf>,
}

const FORGOTTEN: &str = "It is a stranger again, and no token is good any more\n";

#[derive(Serialize)]
struct Shown {
    public: PublicKey,
    file: PathBuf,
}

impl KeyCommand {
    /// Whether it does without the supervisor.
    pub fn is_local(&self) -> bool {
        match self {
            KeyCommand::Show { .. } => true,
            KeyCommand::List { of } | KeyCommand::Forget { of, .. } => of.node.is_some(),
        }
    }
}

/// Runs what the supervisor isn't asked for.
pub fn run_here(command: KeyCommand, json: bool) -> Result<Exit, Failure> {
    let (request, of) = match command {
        KeyCommand::Show { state_dir } => return show(&state_dir, json),
        KeyCommand::List { of } => (NodeRequest::Status, of),
        KeyCommand::Forget { key, of } => (NodeRequest::Forget { key }, of),
    };
    let is_forgotten = matches!(request, NodeRequest::Forget { .. });
    let mut node = join::only(&of.node.unwrap_or_default(), join::NODE_TIMEOUT)?;
    let report = match node.ask(&request)? {
        NodeReply::Status(status) => status.members,
        _ => return Err(node.broken("it answers something else")),
    };
    if is_forgotten {
        output::show(json, &(), || FORGOTTEN.to_owned())?;
    } else {
        output::show(json, &report, || describe(&report))?;
    }
    Ok(Exit::Ok)
}

/// Runs what it is asked for.
pub async fn run(context: &Context, command: KeyCommand) -> Result<Exit, Failure> {
    match command {
        KeyCommand::Forget { key, .. } => {
            let request = NamedMember { key };
            let () = context.client.post("/v2/members/forget", &request).await?;
            output::show(context.json, &(), || FORGOTTEN.to_owned())?;
        }
        _ => {
            let report: MembersReport = context.client.get("/v2/members").await?;
            output::show(context.json, &report, || describe(&report))?;
        }
    }
    Ok(Exit::Ok)
}

fn describe(report: &MembersReport) -> String {
    let joined = match report.members.as_slice() {
        [] => "No machine has joined.\n".to_owned(),
        members => members.iter().map(|key| format!("{key}\n")).collect(),
    };
    match report.tokens.as_slice() {
        [] => joined,
        tokens => format!("{joined}Tokens:\n{}", join::describe_tokens(tokens)),
    }
}

fn show(state_dir: &std::path::Path, json: bool) -> Result<Exit, Failure> {
    let directory = Directory::create(state_dir).map_err(|error| {
        let what = format!("cannot make the state directory {}: {error}", state_dir.display());
        Failure::of_file(what, &error).remedy("name a directory where you may write")
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
