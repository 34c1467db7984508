//! `etherpool boot assign`.

use std::path::{Component, Path};
use std::str::FromStr;

use aoe_wire::{MacAddr, ShelfSlot};
use block::VolumeName;
use clap::{Args, ValueEnum};
use control::boot::{Assignment, Machine, MachineId};
use control::exit::Exit;
use control::settings::{ExportSetting, VolumeSettings};

use super::args::{Confirmation, parse_name};
use super::boot::StateArgs;
use super::confirm::confirm_plan;
use super::{Context, Failure, output};
use crate::boot::state::State;

/// Arguments of `boot assign`.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// A machine, by MAC, UUID or name; or `default`, for all that nobody has named
    #[arg(value_name = "MAC|UUID|NAME|default")]
    machine: Whom,

    /// Call it that from now on
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    confirmation: Confirmation,

    /// What it boots
    #[arg(value_enum)]
    what: Kind,

    /// Which volume; or the kernel's file in the images' directory
    #[arg(value_name = "POOL/VOLUME|FILE")]
    which: Option<String>,

    /// node: the image, as `boot image build` made it [default: node]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    image: Option<String>,

    /// volume: by which of its addresses, where it has several, or where no supervisor of this machine exports it
    #[arg(long, value_name = "eSHELF.SLOT")]
    address: Option<ShelfSlot>,

    /// kernel: a file of a file system in memory; repeat for more
    #[arg(long, value_name = "FILE")]
    initrd: Vec<String>,

    /// node, kernel: what the kernel is told beside what it needs, words divided by spaces
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    append: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    Default,
    One(MachineId),
}

impl FromStr for Whom {
    type Err = block::InvalidName;

    fn from_str(text: &str) -> Result<Whom, block::InvalidName> {
        if text == "default" { Ok(Whom::Default) } else { text.parse().map(Whom::One) }
    }
}

/// What is booted
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// It is a node: its disks are exported once it is accepted
    Node,
    /// A volume, as its disk
    Volume,
    /// A kernel of the images' directory
    Kernel,
    /// Its own disk
    Local,
    /// Nothing, whatever all others boot
    None,
    /// What all others boot
    Default,
}

/// The same with what belongs to it.
#[derive(Debug)]
enum What {
    Node { image: String, append: Vec<String> },
    Volume { volume: VolumeName, address: Option<ShelfSlot> },
    Kernel { kernel: String, initrd: Vec<String>, append: Vec<String> },
    Local,
    None,
    Default,
}

impl AssignArgs {
    /// Refuses what doesn't go together.
    fn what(&self) -> Result<What, Failure> {
        let AssignArgs { what, which, image, address, initrd, append, .. } = self;
        let is_for =
            |kinds: &[Kind], is_given: bool, name: &str| match is_given && !kinds.contains(what) {
                true => Err(Failure::usage(format!("{name} means nothing there"))),
                false => Ok(()),
            };
        is_for(&[Kind::Volume, Kind::Kernel], which.is_some(), "a volume or file")?;
        is_for(&[Kind::Node], image.is_some(), "--image")?;
        is_for(&[Kind::Volume], address.is_some(), "--address")?;
        is_for(&[Kind::Kernel], !initrd.is_empty(), "--initrd")?;
        is_for(&[Kind::Node, Kind::Kernel], append.is_some(), "--append")?;
        let words = append.as_deref().unwrap_or_default().split_whitespace();
        let append = words.map(str::to_owned).collect();
        let needs = |what: &str| {
            which.clone().ok_or_else(|| {
                Failure::usage(format!("no {what} is named"))
                    .remedy(format!("name the {what} behind the word {what}"))
            })
        };
        Ok(match what {
            Kind::Node => {
                let image = image.clone().unwrap_or_else(|| Assignment::IMAGE.to_owned());
                What::Node { image, append }
            }
            Kind::Volume => {
                let volume = needs("volume")?.parse();
                let volume = volume
                    .map_err(|error: block::InvalidName| Failure::usage(error.to_string()))?;
                What::Volume { volume, address: *address }
            }
            Kind::Kernel => What::Kernel { kernel: needs("file")?, initrd: initrd.clone(), append },
            Kind::Local => What::Local,
            Kind::None => What::None,
            Kind::Default => What::Default,
        })
    }
}

/// Assigns.
pub async fn run(context: &Context, args: AssignArgs) -> Result<Exit, Failure> {
    let what = args.what()?;
    let state = args.state.open()?;
    let (machines, wrong) = state.machines()?;
    for error in &wrong {
        eprintln!("warning: {error}; correct it: the machine gets nothing until then");
    }
    let id = match &args.machine {
        Whom::Default => return assign_default(context, &state, &args, &what),
        Whom::One(id) => id,
    };
    let former = machines.iter().find(|machine| machine.is(id));
    let mut machine = match (former, id) {
        (Some(machine), _) => machine.clone(),
        (None, MachineId::Uuid(uuid)) => Machine::new(Some(*uuid), Vec::new()),
        (None, MachineId::Mac(mac)) => Machine::new(None, vec![*mac]),
        (None, MachineId::Name(name)) => {
            return Err(Failure::not_found(
                format!("no machine is called {name}"),
                format!(
                    "name it by its MAC or UUID once, with --name {name}: `etherpool boot list` shows them"
                ),
            ));
        }
    };
    if let Some(name) = args.name {
        check_free(&machines, former, &name)?;
        machine.name = Some(name);
    }
    let others = machines.iter().filter(|other| Some(*other) != former);
    machine.boot = match &what {
        What::Default => None,
        What::Volume { volume, address } => {
            let shared = others.clone().find(|other| boots_volume(other, volume));
            if let Some(other) = shared {
                return Err(Failure::refused(
                    format!(
                        "{} boots {volume} already: two machines would write one disk",
                        other.called()
                    ),
                    format!("first: etherpool boot assign {} none", other.called()),
                ));
            }
            let address = address_of(context, volume, *address, &machine.macs).await?;
            Some(Assignment::Volume { volume: volume.clone(), address })
        }
        what => Some(assignment(&state, what)?),
    };
    let words =
        machine.boot.as_ref().map_or("what all others boot".to_owned(), Assignment::to_string);
    let said = format!("{} boots {words}", machine.called());
    if args.confirmation.dry_run {
        confirm_plan(context, &format!("{said}.\n"), &machine.boot, args.confirmation)?;
        return Ok(Exit::Ok);
    }
    // Not held while a supervisor was asked: nobody waits for that.
    let turn = state.turn_after(&machines)?;
    state.keep(&turn, &machine, former)?;
    output::show(context.json, &machine.boot, || format!("{said} from its next start on\n"))?;
    Ok(Exit::Ok)
}

fn assign_default(
    context: &Context,
    state: &State,
    args: &AssignArgs,
    what: &What,
) -> Result<Exit, Failure> {
    let before = state.default().ok();
    let boot = match what {
        What::None | What::Default => None,
        What::Volume { .. } => {
            return Err(Failure::refused(
                "a volume is one machine's disk",
                "name that machine: etherpool boot assign MAC volume POOL/VOLUME",
            ));
        }
        what => Some(assignment(state, what)?),
    };
    if args.name.is_some() {
        return Err(Failure::usage("--name is for one machine"));
    }
    let words = boot.as_ref().map_or("nothing".to_owned(), Assignment::to_string);
    let what = format!(
        "Every machine that boots from the network of the server's interface and that nobody has named would boot: {words}\n"
    );
    let is_asked = boot.is_some() || args.confirmation.dry_run;
    if is_asked && !confirm_plan(context, &what, &boot, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let turn = state.turn()?;
    if state.default().ok() != before {
        return Err(Failure::refused(
            "what all others boot has been changed meanwhile",
            "look at it, and give the command again: `etherpool boot list`",
        ));
    }
    state.set_default(&turn, boot.clone())?;
    output::show(context.json, &boot, || format!("machines that nobody has named boot {words}\n"))?;
    Ok(Exit::Ok)
}

/// Whether nobody else is called that.
pub fn check_free(
    machines: &[Machine],
    former: Option<&Machine>,
    name: &str,
) -> Result<(), Failure> {
    let is_taken = |other: &&Machine| Some(*other) != former && other.name.as_deref() == Some(name);
    match machines.iter().find(is_taken) {
        Some(_) => Err(Failure::refused(
            format!("another machine is called {name}"),
            "choose another name: --name",
        )),
        None => Ok(()),
    }
}

fn boots_volume(machine: &Machine, wanted: &VolumeName) -> bool {
    matches!(&machine.boot, Some(Assignment::Volume { volume, .. }) if volume == wanted)
}

fn assignment(state: &State, what: &What) -> Result<Assignment, Failure> {
    let assignment = match what {
        What::Local => Assignment::Local,
        What::None => Assignment::Nothing,
        What::Node { image, append } => {
            let missing = ["vmlinuz", "initrd.img"]
                .into_iter()
                .find(|file| state.images.open_file(&Path::new(image).join(file)).is_err());
            if let Some(file) = missing {
                let path = state.images.path_of(image).join(file);
                eprintln!(
                    "warning: there is no {} yet; until there is, the machine tries it again and again: etherpool boot image build",
                    path.display()
                );
            }
            Assignment::Node { image: image.clone(), append: append.clone() }
        }
        What::Kernel { kernel, initrd, append } => Assignment::Kernel {
            kernel: image_file(state, kernel)?,
            initrd: initrd.iter().map(|file| image_file(state, file)).collect::<Result<_, _>>()?,
            append: append.clone(),
        },
        What::Volume { .. } | What::Default => {
            return Err(Failure::usage("it is for one machine"));
        }
    };
    // As it would be read again: what iPXE would take for something else is said here, and not when a machine starts.
    assignment.checked().map_err(Failure::usage)
}

/// A file's name in the images' directory: nothing else is served.
fn image_file(state: &State, file: &str) -> Result<String, Failure> {
    let path = Path::new(file);
    let path = path.strip_prefix(state.images.path()).unwrap_or(path);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let found = is_plain.then(|| state.images.open_file(path)).and_then(Result::ok);
    match (found, path.to_str()) {
        (Some(_), Some(name)) => Ok(name.to_owned()),
        _ => Err(Failure::not_found(
            format!("there is no file {file} in {}", state.images.path().display()),
            "copy it there, and name it as it is called in that directory",
        )),
    }
}

/// Where the supervisor of this machine exports a volume to the machine.
async fn address_of(
    context: &Context,
    volume: &VolumeName,
    wanted: Option<ShelfSlot>,
    macs: &[MacAddr],
) -> Result<ShelfSlot, Failure> {
    let report = context.client.volume(volume).await.map_err(Failure::from);
    let report = match (report, wanted) {
        (Ok(report), _) => report,
        // Whoever says where it is may have it exported by a supervisor elsewhere.
        (Err(failure), Some(address)) if failure.exit == Exit::NotRunning => {
            eprintln!("warning: no supervisor of this machine says whether {volume} is {address}");
            return Ok(address);
        }
        (Err(failure), _) => return Err(failure),
    };
    let exports = VolumeSettings::from_properties(&report.properties).exports;
    choose(volume, &exports, wanted, macs)
}

fn choose(
    volume: &VolumeName,
    exports: &[ExportSetting],
    wanted: Option<ShelfSlot>,
    macs: &[MacAddr],
) -> Result<ShelfSlot, Failure> {
    let answers = |export: &&ExportSetting| {
        let allowed = |mac: &MacAddr| export.allow.iter().any(|client| client.mac() == *mac);
        export.allow.is_empty() || macs.iter().any(allowed)
    };
    let meant: Vec<&ExportSetting> =
        exports.iter().filter(|export| wanted.is_none_or(|at| at == export.address)).collect();
    let allow = macs.first().map_or("MAC".to_owned(), MacAddr::to_string);
    let Some(first) = meant.first() else {
        let at = wanted.map(|address| format!(" as {address}")).unwrap_or_default();
        let to = wanted.map(|address| format!(":{address}")).unwrap_or_default();
        return Err(Failure::refused(
            format!("{volume} isn't exported{at}"),
            format!("first: etherpool volume export {volume} aoe{to} --allow {allow}"),
        ));
    };
    let answering: Vec<&&ExportSetting> = meant.iter().filter(|export| answers(export)).collect();
    match answering.as_slice() {
        [one] => Ok(one.address),
        [] => Err(Failure::refused(
            format!("{volume} is exported as {}, but not to this machine", first.address),
            format!(
                "export it to the machine, too: etherpool volume export {volume} aoe:{} --allow {allow}, and all who may now",
                first.address
            ),
        )),
        several => {
            let addresses: Vec<String> =
                several.iter().map(|export| export.address.to_string()).collect();
            Err(Failure::refused(
                format!("{volume} is exported as {}", addresses.join(" and ")),
                "choose one: --address",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn export(address: &str, allow: &[&str]) -> ExportSetting {
        ExportSetting {
            address: address.parse().unwrap(),
            interfaces: Vec::new(),
            allow: allow.iter().map(|mac| mac.parse().unwrap()).collect(),
            read_only: false,
        }
    }

    #[test]
    fn a_volume_is_booted_by_the_address_that_answers_the_machine() {
        let volume: VolumeName = "tank/v".parse().unwrap();
        let (own, other) = ("02:00:00:00:00:07", "02:00:00:00:00:08");
        let choose = |exports: &[ExportSetting], wanted: Option<&str>| {
            let wanted = wanted.map(|at| at.parse().unwrap());
            super::choose(&volume, exports, wanted, &[MAC]).map_err(|failure| {
                format!("{}; {}", failure.error.message, failure.error.remedy.unwrap())
            })
        };
        let error = choose(&[], None).unwrap_err();
        assert!(error.contains("volume export tank/v aoe --allow 02:00:00:00:00:07"), "{error}");
        let all = [export("e7.1", &[other]), export("e7.2", &[other, own])];
        assert_eq!(choose(&all, None), Ok("e7.2".parse().unwrap()));
        assert!(choose(&all, Some("e7.1")).unwrap_err().contains("not to this machine"));
        assert!(choose(&all, Some("e7.3")).unwrap_err().contains("aoe:e7.3"));
        let two = [export("e7.1", &[]), export("e7.2", &[])];
        assert!(choose(&two, None).unwrap_err().contains("--address"));
        assert_eq!(choose(&two, Some("e7.2")), Ok("e7.2".parse().unwrap()));
    }

    #[test]
    fn only_files_of_images_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let images = dir.path().join("images");
        std::fs::write(images.join("vmlinuz"), "x").unwrap();
        let whole = images.join("vmlinuz");
        assert_eq!(image_file(&state, "vmlinuz").unwrap(), "vmlinuz");
        assert_eq!(image_file(&state, whole.to_str().unwrap()).unwrap(), "vmlinuz");
        for file in ["/etc/passwd", "../default", "initrd", "images/vmlinuz"] {
            assert!(image_file(&state, file).is_err(), "{file}");
        }
    }
}
