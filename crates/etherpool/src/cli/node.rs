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
use super::confirm::confirm_plan;
use super::{Context, Failure, output};
use crate::boot::hellos::{self, Conflict, Hellos, Said};
use crate::boot::state::State;

/// Nodes that were booted from the network.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Those that said hello to the boot server and aren't accepted
    Pending(PendingArgs),
    /// Take one for a node of this cluster: it keeps the key that it showed, and gets a name and a shelf
    Accept(Box<AcceptArgs>),
    /// Show the configuration that a node gets when it boots, or set it
    Config(ConfigArgs),
}

/// Arguments of `node pending`.
#[derive(Debug, Args)]
pub struct PendingArgs {
    /// Also those that are accepted: what each said last of itself and of its disks
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    state: StateArgs,
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

    /// The shelf of its disks; one that nobody has by default, which only a supervisor can tell
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

fn pending(context: &Context, args: &PendingArgs) -> Result<Exit, Failure> {
    let mut hellos = Hellos::default();
    if let Some(state) = args.state.present()? {
        hellos = hellos::read(&state.root)?;
        hellos.settle(&state.machines()?.0);
    }
    let shown: Vec<Said> = match args.all {
        true => hellos.all().cloned().collect(),
        false => hellos.waiting().cloned().collect(),
    };
    let shown: Vec<Said> = shown.into_iter().map(Said::without_secret).collect();
    output::show(context.json, &shown, || match args.all {
        true => output::said(&shown),
        false => output::pending(&shown),
    })?;
    Ok(Exit::Ok)
}

async fn accept(context: &Context, args: AcceptArgs) -> Result<Exit, Failure> {
    let state = args.state.open()?;
    let (machines, _) = state.machines()?;
    let hellos: Hellos = hellos::read(&state.root)?;
    let acceptance = match find(&hellos, &machines, &args.node) {
        // An accepted one that is off, or that nobody has heard since.
        Err(failure) => match machines.iter().find(|machine| machine.is(&args.node)) {
            Some(machine) => again(&args, machine, None).ok_or(failure)?,
            None => return Err(failure),
        },
        Ok(said) => {
            match same(&machines, &said.hello).and_then(|of| again(&args, of, Some(said))) {
                Some(acceptance) => acceptance,
                None => shown(&args, &machines, said)?,
            }
        }
    };
    let Acceptance { mut machine, former, identity, question } = acceptance;
    let public = identity.public();
    if args.key.is_some_and(|key| key != public) {
        return Err(Failure::refused(
            format!("it has shown the key {public}"),
            "see that it is the machine you mean: its console shows its key",
        ));
    }
    let shelf = match (args.shelf, machine.shelf) {
        (Some(shelf), _) => {
            check_shelf(&machines, former, shelf)?;
            shelf
        }
        (None, Some(shelf)) => shelf,
        (None, None) => free_shelf(context, &machines).await?,
    };
    let name = name_of(&args, &machines, former, &question, shelf)?;
    (machine.name, machine.shelf) = (Some(name.clone()), Some(shelf));
    let replaced = machine.identity.replace(identity).map(|kept| kept.public());
    let replaced = replaced.filter(|kept| *kept != public);
    let text = match question {
        Question::Shown { said, doubt } => output::accepting(said, &name, shelf, doubt),
        Question::Again(_) => format!(
            "{name} has shelf {shelf} and the key {public}, which becomes a member of the supervisor of this machine.\n"
        ),
    };
    let shown = serde_json::json!({ "name": name, "shelf": shelf, "key": public });
    if !confirm_plan(context, &text, &shown, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    // First of all what is kept: a member whose key nobody has kept would be one for ever. Nobody waits for the rest.
    let turn = state.turn_after(&machines)?;
    state.keep(&turn, &machine, former)?;
    drop(turn);
    join(context, &state, machine, replaced).await?;
    let text =
        || format!("{name} is a node of this cluster, with shelf {shelf} and the key {public}\n");
    output::show(context.json, &shown, text)?;
    Ok(Exit::Ok)
}

/// What speaks against a node whose former key was its TPM's.
const UNSEALED: &str = "it has shown another key than the one that was accepted, which was sealed to a TPM: this one isn't";

/// What would be kept, and by what it is asked.
struct Acceptance<'a> {
    machine: Machine,
    former: Option<&'a Machine>,
    identity: KeptIdentity,
    question: Question<'a>,
}

enum Question<'a> {
    /// A key that a node has shown, and what speaks against it.
    Shown { said: &'a Said, doubt: Option<&'static str> },
    /// The key of a machine that was accepted before.
    Again(&'a Machine),
}

/// With the key that was kept, unless another one is meant.
fn again<'a>(
    args: &AcceptArgs,
    machine: &'a Machine,
    said: Option<&Said>,
) -> Option<Acceptance<'a>> {
    let identity = machine.identity.clone()?;
    let shown = said.and_then(|said| said.hello.identity.as_ref());
    let is_other_meant = said.is_some_and(|said| said.conflict.is_some())
        || shown.is_some_and(|shown| {
            args.key.is_some_and(|key| key != identity.public() && key.to_string() == shown.public)
        });
    (!is_other_meant).then(|| Acceptance {
        machine: machine.clone(),
        former: Some(machine),
        identity,
        question: Question::Again(machine),
    })
}

/// With the key that a node has shown.
fn shown<'a>(
    args: &AcceptArgs,
    machines: &'a [Machine],
    said: &'a Said,
) -> Result<Acceptance<'a>, Failure> {
    let hello = &said.hello;
    let Some(identity) = &hello.identity else {
        return Err(Failure::refused(
            format!("{} has shown no key", args.node),
            "start it again: it makes one when none is handed to it",
        ));
    };
    let identity = KeptIdentity::shown(identity).map_err(|error| {
        Failure::refused(
            format!("{}: {error}", args.node),
            "see what runs there, and start it again",
        )
    })?;
    let public = identity.public();
    let former = same(machines, hello);
    let other = former.and_then(|machine| machine.identity.as_ref());
    let other = other.filter(|kept| kept.public() != public);
    let unsealed = other.filter(|kept| kept.is_sealed() && !identity.is_sealed()).map(|_| UNSEALED);
    // That it shows another key is said with that.
    let conflict = said.conflict.filter(|one| unsealed.is_none() || *one != Conflict::OtherKey);
    let doubt = conflict.map(Conflict::reason).or(unsealed);
    let doubt = doubt.or(other.map(|_| "it has shown another key than the one that was accepted"));
    if args.confirmation.is_given() && args.key.is_none() {
        return Err(Failure::refused(
            doubt.unwrap_or("unasked it is accepted by its key alone: anybody says a UUID"),
            format!("see that it is the machine you mean, then name its key: --key {public}"),
        ));
    }
    let mut machine = former.cloned().unwrap_or_else(|| Machine::new(hello.uuid, Vec::new()));
    machine.uuid = hello.uuid.or(machine.uuid);
    // An address of two machines would be nobody's.
    let is_new = |mac: &&MacAddr| !machines.iter().any(|other| other.macs.contains(mac));
    machine.macs.extend(hello.macs.iter().filter(is_new));
    let question = Question::Shown { said, doubt };
    Ok(Acceptance { machine, former, identity, question })
}

/// Makes a machine that was kept a member of this machine's supervisor, if one runs, and its former key none.
async fn join(
    context: &Context,
    state: &State,
    machine: Machine,
    replaced: Option<PublicKey>,
) -> Result<(), Failure> {
    let name = machine.called();
    let key = machine.identity.as_ref().map(KeptIdentity::public);
    let Some(key) = key else { return Ok(()) };
    let added = context.client.post("/v2/members/add", &NamedMember { key }).await;
    let supervisor = match added.map_err(Failure::from) {
        Ok(AddedMember { supervisor }) => supervisor,
        Err(failure) => {
            let why = match failure.exit {
                Exit::NotRunning => "no supervisor runs on this machine",
                _ => "the supervisor of this machine doesn't take it",
            };
            eprintln!(
                "warning: {name} is accepted, but its key is no member yet, as {why}; when one does: etherpool node accept {name}"
            );
            if let Some(replaced) = replaced {
                eprintln!(
                    "warning: its former key may be a member of a supervisor still; there: etherpool key forget {replaced}"
                );
            }
            return if failure.exit == Exit::NotRunning { Ok(()) } else { Err(failure) };
        }
    };
    if !machine.supervisors.contains(&supervisor) {
        let mut named = machine.clone();
        named.supervisors.push(supervisor);
        let turn = state.turn()?;
        let (machines, _) = state.machines()?;
        if !machines.contains(&machine) {
            return Err(Failure::refused(
                format!(
                    "what is known of {name} has changed meanwhile: it isn't told its supervisor yet"
                ),
                format!("give the command again: etherpool node accept {name}"),
            ));
        }
        state.keep(&turn, &named, Some(&machine))?;
    }
    let Some(replaced) = replaced else { return Ok(()) };
    let forgotten: Result<(), client::Error> =
        context.client.post("/v2/members/forget", &NamedMember { key: replaced }).await;
    match forgotten.map_err(Failure::from) {
        // The supervisor of another machine may have had it.
        Err(failure) if failure.exit != Exit::NotFound => {
            eprintln!(
                "warning: its former key may be a member of the supervisor still; etherpool key forget {replaced}"
            );
            Err(failure)
        }
        _ => Ok(()),
    }
}

fn find<'a>(hellos: &'a Hellos, machines: &[Machine], id: &MachineId) -> Result<&'a Said, Failure> {
    let named = machines.iter().find(|machine| machine.is(id));
    let is_meant = |said: &&Said| match id {
        MachineId::Uuid(uuid) => said.hello.uuid == Some(*uuid),
        MachineId::Mac(mac) => said.hello.macs.contains(mac),
        MachineId::Name(_) => named.is_some_and(|machine| is_same(machine, &said.hello)),
    };
    // Who only says its UUID is meant by an address of its own.
    let is_stranger = |said: &Said| said.conflict == Some(Conflict::OtherAddresses);
    let mut found: Vec<&Said> = hellos.all().filter(is_meant).collect();
    if !matches!(id, MachineId::Mac(_)) && found.iter().any(|said| !is_stranger(said)) {
        found.retain(|said| !is_stranger(said));
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::refused(
            format!("{id} is what several nodes say of themselves"),
            "name the one that you mean by its UUID, or an address: etherpool node pending",
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

/// One that no machine has here, and that nobody answers by. None where nobody says who answers: two nodes of one shelf
/// answer for one another's disks.
async fn free_shelf(context: &Context, machines: &[Machine]) -> Result<u16, Failure> {
    let heard: Result<Vec<SeenTarget>, client::Error> = context.client.get("/v2/discover").await;
    let heard = heard.map_err(Failure::from).map_err(|failure| {
        let why = match failure.exit {
            Exit::NotRunning => "no supervisor runs on this machine".to_owned(),
            _ => {
                format!("the supervisor of this machine doesn't say it: {}", failure.error.message)
            }
        };
        Failure::refused(
            format!("which shelves are in use isn't known: {why}"),
            "name one that no other machine has: --shelf N",
        )
    })?;
    let is_taken = |shelf: &u16| {
        machines.iter().any(|machine| machine.shelf == Some(*shelf))
            || heard.iter().any(|target| target.address.shelf == *shelf)
    };
    (1..u16::MAX).find(|shelf| !is_taken(shelf)).ok_or_else(|| {
        Failure::refused(
            "all shelves are in use",
            "take one of a machine that is no more: its file in the boot server's `machines`, and --shelf N",
        )
    })
}

fn name_of(
    args: &AcceptArgs,
    machines: &[Machine],
    former: Option<&Machine>,
    question: &Question<'_>,
    shelf: u16,
) -> Result<String, Failure> {
    if let Some(name) = args.name.as_ref().or(former.and_then(|machine| machine.name.as_ref())) {
        check_free(machines, former, name)?;
        return Ok(name.clone());
    }
    // Two that call themselves the same are two, and the second gets another name.
    let own = match question {
        Question::Shown { said, .. } => said.hello.hostname.clone(),
        Question::Again(machine) => machine.name.clone(),
    };
    let own = own.filter(|name| {
        matches!(name.parse(), Ok(MachineId::Name(_))) && check_free(machines, former, name).is_ok()
    });
    let name = own.unwrap_or_else(|| format!("node-{shelf}"));
    check_free(machines, former, &name)?;
    Ok(name)
}

fn config(context: &Context, args: &ConfigArgs) -> Result<Exit, Failure> {
    let state = args.state.present()?;
    let known = state.as_ref().map(State::machines).transpose()?;
    let (machines, wrong) = known.unwrap_or_default();
    let former = machines.iter().find(|machine| machine.is(&args.node));
    let Some((state, former)) = state.as_ref().zip(former) else {
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
    let turn = state.turn_after(&machines)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use client::{Address, Client};

    /// Where no supervisor answered the first shelf was given that no machine's file has: perhaps that of a node which never
    /// booted from here, whose disks then answered for those of the new one.
    #[tokio::test]
    async fn no_shelf_is_chosen_where_nobody_says_which_are_in_use() {
        let socket = Address::Socket(PathBuf::from("/nonexistent/etherpool.sock"));
        let context = Context { client: Client::new(socket), json: false };
        let refused = free_shelf(&context, &[]).await;
        let refused = refused.map_err(|failure| (failure.exit, failure.error.remedy));
        let remedy = "name one that no other machine has: --shelf N".to_owned();
        assert_eq!(refused, Err((Exit::Refused, Some(remedy))));
    }
}
