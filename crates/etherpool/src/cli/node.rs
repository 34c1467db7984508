//! `etherpool node pending`, `accept` and `config`: what the boot server knows of nodes, and is told of them.

use std::path::PathBuf;

use anyhow::Context as _;
use aoe_wire::MacAddr;
use boot::node::{Hello, Kept};
use clap::{Args, Subcommand};
use control::api::{AddedMember, NamedMember, SeenTarget};
use control::boot::{KeptIdentity, Machine, MachineId};
use control::exit::Exit;
use control::node::{NodeConfig, parse_etherpopulate};
use seal::PublicKey;

use super::args::{Confirmation, parse_name};
use super::boot::StateArgs;
use super::boot_assign::check_free;
use super::confirm::confirm;
use super::{Context, Failure, output};
use crate::boot::hellos::{self, Conflict, Hellos, Said};

/// Nodes that were booted from the network.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Those that said hello to the boot server and aren't accepted
    Pending(StateArgs),
    /// Take one for a node of this cluster: it keeps the key that it showed, and gets a name and a shelf
    Accept(Box<AcceptArgs>),
    /// Show the configuration that a node gets when it boots, or set it
    Config(ConfigArgs),
}

/// Arguments of `node accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The node, by UUID, MAC or name
    #[arg(value_name = "UUID|MAC|NAME")]
    node: MachineId,

    /// Call it that; as it calls itself by default, or node-SHELF
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// The shelf of its disks; one that nobody has by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(0..65535))]
    shelf: Option<u16>,

    /// The key that it has to have shown
    #[arg(long, value_name = "KEY")]
    key: Option<PublicKey>,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `node config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The node, by name, UUID or MAC
    #[arg(value_name = "NAME|UUID|MAC")]
    node: MachineId,

    /// A node.toml that it gets from now on
    #[arg(long, value_name = "FILE", conflicts_with = "etherpopulate")]
    file: Option<PathBuf>,

    /// An etherpopulate.conf of the old system, of which it gets what is for it
    #[arg(long, value_name = "FILE")]
    etherpopulate: Option<PathBuf>,

    /// Its name in the etherpopulate.conf; the one that it has here by default
    #[arg(long, value_name = "NAME", requires = "etherpopulate")]
    called: Option<String>,

    #[command(flatten)]
    state: StateArgs,
}

/// Runs one.
pub async fn run(context: &Context, command: NodeCommand) -> Result<Exit, Failure> {
    match command {
        NodeCommand::Pending(args) => pending(context, &args),
        NodeCommand::Accept(args) => accept(context, *args).await,
        NodeCommand::Config(args) => config(context, &args),
    }
}

fn pending(context: &Context, args: &StateArgs) -> Result<Exit, Failure> {
    let state = args.open()?;
    let mut hellos: Hellos = hellos::read(&state.root)?;
    let (machines, _) = state.machines()?;
    hellos.settle(&machines);
    let waiting: Vec<Said> = hellos.waiting().cloned().map(Said::without_secret).collect();
    output::show(context.json, &waiting, || output::pending(&waiting))?;
    Ok(Exit::Ok)
}

async fn accept(context: &Context, args: AcceptArgs) -> Result<Exit, Failure> {
    let state = args.state.open()?;
    let turn = state.turn()?;
    let (machines, _) = state.machines()?;
    let hellos: Hellos = hellos::read(&state.root)?;
    let said = find(&hellos, &machines, &args.node)?;
    let hello = &said.hello;
    let Some(identity) = &hello.identity else {
        return Err(Failure::refused(
            format!("{} has shown no key", args.node),
            "start it again: it makes one when none is handed to it",
        ));
    };
    let public: PublicKey = identity.public.parse().map_err(|_| {
        Failure::refused(
            format!("what {} shows is no key", args.node),
            "see what runs there, and start it again",
        )
    })?;
    if args.key.is_some_and(|key| key != public) {
        return Err(Failure::refused(
            format!("it has shown the key {public}"),
            "see that it is the machine you mean: its console shows its key",
        ));
    }
    let former = same(&machines, hello);
    let other = former.and_then(|machine| machine.identity.as_ref());
    let other = other.map(KeptIdentity::public).filter(|kept| *kept != public);
    let doubt = said.conflict.map(Conflict::reason);
    let doubt = doubt.or(other.map(|_| "it has shown another key than the one that was accepted"));
    if let Some(doubt) = doubt
        && args.confirmation.is_given()
        && args.key.is_none()
    {
        return Err(Failure::refused(
            doubt,
            format!("see that it is the machine you mean, then name its key: --key {public}"),
        ));
    }
    let shelf = match (args.shelf, former.and_then(|machine| machine.shelf)) {
        (Some(shelf), _) => {
            check_shelf(&machines, former, shelf)?;
            shelf
        }
        (None, Some(shelf)) => shelf,
        (None, None) => free_shelf(context, &machines).await,
    };
    let name = name_of(&args, &machines, former, hello, shelf)?;
    let mut machine = former.cloned().unwrap_or_else(|| Machine::new(hello.uuid, Vec::new()));
    machine.uuid = hello.uuid.or(machine.uuid);
    // An address of two machines would be nobody's.
    let is_new = |mac: &&MacAddr| !machines.iter().any(|other| other.macs.contains(mac));
    machine.macs.extend(hello.macs.iter().filter(is_new));
    (machine.name, machine.shelf) = (Some(name.clone()), Some(shelf));
    machine.identity = Some(KeptIdentity::of(public, &identity.kept));
    let question = output::accepting(said, &name, shelf, doubt);
    if !confirm(&question, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let added: Result<AddedMember, Failure> =
        context.client.post("/v1/members/add", &NamedMember { key: public }).await;
    match added {
        Ok(AddedMember { supervisor }) if !machine.supervisors.contains(&supervisor) => {
            machine.supervisors.push(supervisor);
        }
        Ok(_) => {}
        Err(failure) if failure.exit == Exit::NotRunning => {
            let has_none = machine.supervisors.is_empty();
            if has_none {
                eprintln!(
                    "warning: no supervisor runs on this machine that could have its disks; when one does: etherpool node accept {name}"
                );
            }
        }
        Err(failure) => return Err(failure),
    }
    state.keep(&turn, &machine, former)?;
    let text =
        || format!("{name} is a node of this cluster, with shelf {shelf} and the key {public}\n");
    let shown = serde_json::json!({ "name": name, "shelf": shelf, "key": public });
    output::show(context.json, &shown, text)?;
    Ok(Exit::Ok)
}

fn find<'a>(hellos: &'a Hellos, machines: &[Machine], id: &MachineId) -> Result<&'a Said, Failure> {
    let named = machines.iter().find(|machine| machine.is(id));
    let is_meant = |said: &&Said| match id {
        MachineId::Uuid(uuid) => said.hello.uuid == Some(*uuid),
        MachineId::Mac(mac) => said.hello.macs.contains(mac),
        MachineId::Name(_) => named.is_some_and(|machine| is_same(machine, &said.hello)),
    };
    let mut found = hellos.all().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::refused(
            format!("{id} is what several nodes say of themselves"),
            "name the one that you mean by its UUID: etherpool node pending",
        )),
        (None, _) => Err(Failure::not_found(
            format!("no node {id} has said hello"),
            "see who has: etherpool node pending",
        )),
    }
}

fn is_same(machine: &Machine, hello: &Hello) -> bool {
    match machine.uuid {
        Some(uuid) => hello.uuid == Some(uuid),
        None => machine.macs.iter().any(|mac| hello.macs.contains(mac)),
    }
}

fn same<'a>(machines: &'a [Machine], hello: &Hello) -> Option<&'a Machine> {
    let by_uuid = |machine: &&Machine| machine.uuid.is_some() && machine.uuid == hello.uuid;
    let found = machines.iter().find(by_uuid);
    found.or_else(|| machines.iter().find(|machine| is_same(machine, hello)))
}

fn check_shelf(machines: &[Machine], former: Option<&Machine>, shelf: u16) -> Result<(), Failure> {
    let has = |other: &&Machine| Some(*other) != former && other.shelf == Some(shelf);
    match machines.iter().find(has) {
        Some(other) => Err(Failure::refused(
            format!("{} has shelf {shelf}", other.called()),
            "choose another one: --shelf",
        )),
        None => Ok(()),
    }
}

/// One that no machine has here, and that nobody answers by.
async fn free_shelf(context: &Context, machines: &[Machine]) -> u16 {
    let heard: Result<Vec<SeenTarget>, Failure> = context.client.get("/v1/discover").await;
    let heard = heard.unwrap_or_default();
    let is_taken = |shelf: &u16| {
        machines.iter().any(|machine| machine.shelf == Some(*shelf))
            || heard.iter().any(|target| target.address.shelf == *shelf)
    };
    (1..u16::MAX).find(|shelf| !is_taken(shelf)).unwrap_or(0)
}

fn name_of(
    args: &AcceptArgs,
    machines: &[Machine],
    former: Option<&Machine>,
    hello: &Hello,
    shelf: u16,
) -> Result<String, Failure> {
    if let Some(name) = args.name.as_ref().or(former.and_then(|machine| machine.name.as_ref())) {
        check_free(machines, former, name)?;
        return Ok(name.clone());
    }
    // Two that call themselves the same are two, and the second gets another name.
    let own = hello.hostname.clone().filter(|name| {
        matches!(name.parse(), Ok(MachineId::Name(_))) && check_free(machines, former, name).is_ok()
    });
    let name = own.unwrap_or_else(|| format!("node-{shelf}"));
    check_free(machines, former, &name)?;
    Ok(name)
}

fn config(context: &Context, args: &ConfigArgs) -> Result<Exit, Failure> {
    let state = args.state.open()?;
    let turn = state.turn()?;
    let (machines, wrong) = state.machines()?;
    let Some(former) = machines.iter().find(|machine| machine.is(&args.node)) else {
        wrong.iter().for_each(|error| eprintln!("warning: {error}; correct it"));
        return Err(Failure::not_found(
            format!("no machine {} is known", args.node),
            "accept it first (etherpool node accept), or say what it boots (etherpool boot assign)",
        ));
    };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{} can't be read: {error}", path.display())))
    };
    let text = match (&args.file, &args.etherpopulate) {
        (None, None) => {
            let text = former.configuration.clone().unwrap_or_default();
            output::show(context.json, &former.configuration, || text)?;
            return Ok(Exit::Ok);
        }
        (Some(file), _) => {
            let text = read(file)?;
            NodeConfig::parse(&text, file).map_err(|error| Failure::usage(error.to_string()))?;
            text
        }
        (None, Some(file)) => {
            let all = parse_etherpopulate(&read(file)?, file)
                .map_err(|error| Failure::usage(error.to_string()))?;
            let name = args.called.clone().unwrap_or_else(|| former.called());
            let found = all.node(&name).ok_or_else(|| {
                let names: Vec<&str> = all.names().collect();
                Failure::not_found(
                    format!("{} has no lines for {name}", file.display()),
                    format!("choose one that it has: --called {}", names.join(", ")),
                )
            })?;
            found.to_text().context("the configuration as TOML")?
        }
    };
    let machine = Machine { configuration: Some(text), ..former.clone() };
    state.keep(&turn, &machine, Some(former))?;
    let said = || format!("{} gets it when it boots, or within a minute\n", machine.called());
    output::show(context.json, &machine.configuration, said)?;
    Ok(Exit::Ok)
}

impl Said {
    /// For people and programs: what is kept of the key isn't theirs.
    fn without_secret(mut self) -> Said {
        if let Some(identity) = &mut self.hello.identity
            && let Kept::Plain { secret } = &mut identity.kept
        {
            secret.clear();
        }
        self
    }
}
