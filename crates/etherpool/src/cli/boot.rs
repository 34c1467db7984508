//! `etherpool boot`: machines that boot from the network. What is decided of them is in files, which are changed here also
//! while no server runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control::boot::Machine;
use control::exit::Exit;
use serde::Serialize;

use super::boot_assign::{self, AssignArgs};
use super::boot_image::{self, ImageCommand};
use super::boot_restore::{self, CopiesArgs, ForgetCopyArgs, RestoreArgs};
use super::{Context, Failure, boot_verify, output};
use crate::boot::ServeArgs;
use crate::boot::sightings::{self, Sighting, Sightings};
use crate::boot::state::{DIRECTORY, State};

/// Machines that boot from the network
#[derive(Debug, Subcommand)]
pub enum BootCommand {
    /// Answer machines that boot: DHCP beside the server that there is (or as that), TFTP and HTTP
    Serve(ServeArgs),
    /// Say what a machine boots, or all that nobody has named
    Assign(Box<AssignArgs>),
    /// Who asked, when, what was given, and with what result
    List(StateArgs),
    /// What a pool keeps of boot servers: their machines, with the configurations of nodes
    Copies(CopiesArgs),
    /// Bring machines back that a pool keeps, where their files are lost
    Restore(RestoreArgs),
    /// Have a pool keep nothing any more of a boot server
    ForgetCopy(ForgetCopyArgs),
    /// The image that nodes boot
    #[command(subcommand)]
    Image(ImageCommand),
}

/// Where the files are.
#[derive(Clone, Debug, Args)]
pub struct StateArgs {
    /// The boot server's directory
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    pub state_dir: PathBuf,
}

impl StateArgs {
    /// The directory, made if it isn't there.
    pub fn open(&self) -> Result<State, Failure> {
        Ok(State::open(&self.state_dir)?)
    }

    /// The same to look at; none where nobody has made it.
    pub fn present(&self) -> Result<Option<State>, Failure> {
        Ok(State::present(&self.state_dir)?)
    }
}

/// A machine, as `boot list --json` shows it.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// As it is called.
    pub name: Option<String>,
    /// What was seen of it last; nothing of one that only has a file.
    #[serde(flatten)]
    pub sighting: Option<Sighting>,
    /// Its UUID and addresses, by its file.
    pub known: Option<Known>,
    /// What it is to boot, in words; none where nobody has said it.
    pub assigned: Option<String>,
}

impl Listed {
    /// The first of its addresses, by its file.
    pub fn first_mac(&self) -> Option<aoe_wire::MacAddr> {
        self.known.as_ref().and_then(|known| known.macs.first().copied())
    }
}

/// By what it is known.
#[derive(Debug, Serialize)]
pub struct Known {
    uuid: Option<uuid::Uuid>,
    macs: Vec<aoe_wire::MacAddr>,
}

/// Runs a command that isn't the server.
pub async fn run(context: &Context, command: BootCommand) -> Result<Exit, Failure> {
    match command {
        BootCommand::Serve(_) => Err(Failure::usage("the server is no command of a client")),
        BootCommand::Assign(args) => boot_assign::run(context, *args).await,
        BootCommand::List(args) => list(context, &args),
        BootCommand::Copies(args) => boot_restore::copies(context, &args).await,
        BootCommand::Restore(args) => boot_restore::restore(context, &args).await,
        BootCommand::ForgetCopy(args) => boot_restore::forget(context, &args).await,
        BootCommand::Image(ImageCommand::Build(args)) => boot_image::build(&args, context.json),
        BootCommand::Image(ImageCommand::Verify(args)) => boot_verify::verify(&args, context.json),
    }
}

fn list(context: &Context, args: &StateArgs) -> Result<Exit, Failure> {
    let (mut machines, mut wrong, mut seen, mut default) = (vec![], vec![], vec![], None);
    if let Some(state) = args.present()? {
        (machines, wrong) = state.machines()?;
        seen = sightings::read(&state.root).map(|seen: Sightings| seen.all())?;
        match state.default() {
            Ok(boot) => default = boot.map(|boot| boot.to_string()),
            Err(error) => wrong.push(error),
        }
    }
    for error in &wrong {
        eprintln!("warning: {error}; correct it: the machine gets nothing until then");
    }
    let listed = merge(seen, &machines, default.as_deref());
    output::show(context.json, &listed, || output::booting(&listed, default.as_deref()))?;
    Ok(Exit::of_health(wrong.is_empty()))
}

fn merge(seen: Vec<Sighting>, machines: &[Machine], default: Option<&str>) -> Vec<Listed> {
    let of = |sighting: &Sighting| {
        let by_uuid = |machine: &&Machine| sighting.uuid.is_some() && machine.uuid == sighting.uuid;
        let by_mac = |machine: &&Machine| machine.macs.contains(&sighting.mac);
        machines.iter().find(by_uuid).or_else(|| machines.iter().find(by_mac))
    };
    let known = |machine: &Machine| Known { uuid: machine.uuid, macs: machine.macs.clone() };
    let own = |machine: &Machine| machine.boot.as_ref().map(|boot| boot.to_string());
    let unseen: Vec<Listed> = machines
        .iter()
        .filter(|machine| !seen.iter().any(|one| of(one) == Some(*machine)))
        .map(|machine| Listed {
            name: machine.name.clone(),
            sighting: None,
            known: Some(known(machine)),
            assigned: own(machine),
        })
        .collect();
    let listed = seen.into_iter().map(|sighting| {
        let machine = of(&sighting);
        Listed {
            name: machine.and_then(|machine| machine.name.clone()),
            known: machine.map(known),
            assigned: machine.and_then(own).or_else(|| default.map(str::to_owned)),
            sighting: Some(sighting),
        }
    });
    listed.chain(unseen).collect()
}
