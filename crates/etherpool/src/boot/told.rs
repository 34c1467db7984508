//! What a machine is told: the program that it begins with, the script, and who it is as a node. Pure.

use std::net::SocketAddrV4;

use aoe_wire::MacAddr;
use boot::dhcp::{Architecture, Client, Given, Program};
use boot::node::{Answer, Hello, Identity, Phase, Slots, State, VERSION};
use boot::script::{Boots, NoWord, Source, Word};
use control::boot::{Assignment, IpxeConfig, KeptIdentity, Machine};
use uuid::Uuid;

use super::known::Decided;

/// Where we are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where HTTP is served.
    pub http: SocketAddrV4,
    /// What programs there are.
    pub ipxe: IpxeConfig,
}

/// What a machine is given to begin with, if anything, and that in words.
pub fn given(place: &Place, decided: &Decided, client: &Client) -> (Option<Given>, String) {
    let assignment = match decided {
        Decided::Boots(Assignment::Nothing) | Decided::Unknown => {
            return (None, "nothing".to_owned());
        }
        Decided::Unreadable => {
            return (None, "nothing: what is said of it can't be read".to_owned());
        }
        // Firmware that isn't answered goes on with the next of its devices.
        Decided::Boots(Assignment::Local) => return (None, "nothing (local)".to_owned()),
        Decided::Boots(assignment) => assignment,
    };
    let program = match client.architecture {
        Architecture::Bios => Some(&place.ipxe.bios),
        Architecture::EfiX64 => Some(&place.ipxe.efi_x64),
        Architecture::EfiIa32 | Architecture::EfiArm64 | Architecture::Other(_) => None,
    };
    let (given, what) = match (client.program, program) {
        (Program::Ipxe, _) => (source(place, Some(client.mac), client.uuid).to_string(), "script"),
        (Program::Pxe, Some(program)) => (program.clone(), program.as_str()),
        (Program::Http, Some(program)) => {
            (format!("http://{}/ipxe/{program}", place.http), program.as_str())
        }
        (Program::Pxe | Program::Http, None) => {
            let why = format!("nothing: there is no program for {}", client.architecture);
            return (None, why);
        }
        (Program::Other, _) => return (None, "nothing".to_owned()),
    };
    (Some(Given(given)), format!("{what} ({assignment})"))
}

/// Where who says that of himself has his script from.
pub fn source(place: &Place, mac: Option<MacAddr>, uuid: Option<Uuid>) -> Source {
    Source { http: place.http, mac, uuid }
}

/// The script of somebody who says nothing of himself: it asks again, and says it.
pub fn asking_script(place: &Place) -> String {
    let http = place.http;
    format!("#!ipxe\nchain --replace http://{http}/boot.ipxe?mac=${{mac}}&uuid=${{uuid}}\n")
}

/// What a script has a machine boot; none for who boots nothing. Of a node's image that build, if it has several.
pub fn boots(
    place: &Place,
    assignment: &Assignment,
    mac: Option<MacAddr>,
    build: Option<&str>,
) -> Result<Option<Boots>, NoWord> {
    let http = place.http;
    let whose = mac.map(|mac| format!("?mac={mac}")).unwrap_or_default();
    let file = |name: &str| Word::new(format!("http://{http}/images/{name}{whose}"));
    let words = |words: &[String]| words.iter().map(Word::new).collect::<Result<Vec<_>, _>>();
    Ok(Some(match assignment {
        Assignment::Nothing => return Ok(None),
        Assignment::Local => Boots::Local,
        Assignment::Volume { address, .. } => Boots::Volume(*address),
        Assignment::Kernel { kernel, initrd, append } => Boots::Kernel {
            kernel: file(kernel)?,
            initrds: initrd.iter().map(|name| file(name)).collect::<Result<_, _>>()?,
            arguments: words(append)?,
        },
        Assignment::Node { image, append } => {
            let mut arguments = vec![Word::new(format!("etherpool.boot=http://{http}"))?];
            if let Some(mac) = mac {
                // 01 is Ethernet, as in pxelinux, by whose word for it many an initramfs knows its interface.
                let mac = mac.to_string().replace(':', "-");
                arguments.push(Word::new(format!("BOOTIF=01-{mac}"))?);
            }
            // A kernel that panics stands still else, and so would its disks until somebody comes.
            for word in ["console=ttyS0", "console=tty0", "panic=10"] {
                arguments.push(Word::new(word)?);
            }
            arguments.extend(words(append)?);
            // Both of one build: a kernel has no use for the modules of another.
            let build = build.map(|build| format!("{build}/")).unwrap_or_default();
            Boots::Kernel {
                kernel: file(&format!("{image}/{build}vmlinuz"))?,
                initrds: vec![file(&format!("{image}/{build}initrd.img"))?],
                arguments,
            }
        }
    }))
}

/// The key that was accepted of a machine.
pub fn kept_of(machine: Option<&Machine>) -> Option<Identity> {
    machine.and_then(|machine| machine.identity.as_ref()).and_then(KeptIdentity::told)
}

/// Whether a node is handed its key: who shows one of its own hasn't got it, nor has who has just started. Others have it,
/// and it needn't pass through the network once a minute.
pub fn hands_key(hello: &Hello) -> bool {
    hello.identity.is_some() || hello.phase == Phase::Started
}

/// What a node is told that says hello: who isn't accepted is told nothing but its name.
pub fn answer(machine: Option<&Machine>, is_remembered: bool, hands_key: bool) -> Answer {
    let identity = kept_of(machine);
    let name = machine.and_then(|machine| machine.name.clone());
    let nothing = Answer {
        version: VERSION,
        state: if is_remembered { State::Pending } else { State::Unknown },
        name,
        shelf: None,
        configuration: None,
        supervisors: Vec::new(),
        slots: Slots::new(),
        identity: None,
    };
    match (machine, identity) {
        (Some(machine), Some(identity)) => Answer {
            state: State::Accepted,
            shelf: machine.shelf,
            configuration: machine.configuration.clone(),
            supervisors: machine.supervisors.iter().map(|key| key.to_string()).collect(),
            identity: Some(identity).filter(|_| hands_key),
            ..nothing
        },
        _ => nothing,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    fn place() -> Place {
        Place { http: "10.0.0.1:8069".parse().unwrap(), ipxe: IpxeConfig::default() }
    }

    fn client(program: Program, architecture: Architecture) -> Client {
        Client { mac: MAC, uuid: None, program, architecture, hostname: None }
    }

    fn node() -> Assignment {
        Assignment::Node { image: "node".into(), append: vec!["quiet".into()] }
    }

    #[test]
    fn each_is_given_what_it_can_run() {
        use Architecture::*;
        let url = "http://10.0.0.1:8069";
        for (program, architecture, file) in [
            (Program::Pxe, Bios, Some("undionly.kpxe".to_owned())),
            (Program::Pxe, EfiX64, Some("snponly.efi".to_owned())),
            (Program::Pxe, EfiArm64, None),
            (Program::Http, EfiX64, Some(format!("{url}/ipxe/snponly.efi"))),
            (Program::Ipxe, Bios, Some(format!("{url}/boot.ipxe?mac={MAC}"))),
            (Program::Ipxe, EfiArm64, Some(format!("{url}/boot.ipxe?mac={MAC}"))),
            (Program::Other, Bios, None),
        ] {
            let client = client(program, architecture);
            let (given, _) = given(&place(), &Decided::Boots(node()), &client);
            assert_eq!(given.map(|given| given.0), file, "{client:?}");
        }
        let pxe = client(Program::Pxe, Bios);
        for decided in [
            Decided::Unknown,
            Decided::Unreadable,
            Decided::Boots(Assignment::Local),
            Decided::Boots(Assignment::Nothing),
        ] {
            assert_eq!(given(&place(), &decided, &pxe).0, None, "{decided:?}");
        }
    }

    #[test]
    fn a_node_is_told_by_its_command_line_who_has_booted_it() {
        let script = |build| {
            let boots = boots(&place(), &node(), Some(MAC), build).unwrap().unwrap();
            boot::script::script(&boots, &source(&place(), Some(MAC), None))
        };
        let of_build = script(Some("0123abcd"));
        for file in ["vmlinuz", "initrd.img"] {
            assert!(of_build.contains(&format!("/images/node/0123abcd/{file}?mac=")), "{of_build}");
        }
        let script = script(None);
        assert!(script.contains("http://10.0.0.1:8069/images/node/vmlinuz?mac=02:00:00:00:00:07"));
        let line = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
        assert!(
            line.contains(" etherpool.boot=http://10.0.0.1:8069 BOOTIF=01-02-00-00-00-00-07 console=ttyS0 console=tty0 panic=10 quiet"),
            "{line}"
        );
    }

    #[test]
    fn who_isnt_accepted_is_told_no_secret() {
        let machine = Machine {
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: Some("shelf = 7".into()),
            ..Machine::new(None, vec![MAC])
        };
        let told = answer(Some(&machine), true, true);
        assert_eq!((told.state, told.configuration, told.shelf), (State::Pending, None, None));
        assert_eq!(answer(None, false, true).state, State::Unknown);
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let kept = boot::node::Kept::Plain { secret: "s".into() };
        let machine = Machine { identity: Some(KeptIdentity::of(key, &kept)), ..machine };
        let told = answer(Some(&machine), true, false);
        assert_eq!((told.state, told.shelf, &told.identity), (State::Accepted, Some(7), &None));
        let told = answer(Some(&machine), true, true);
        assert_eq!((told.state, told.shelf), (State::Accepted, Some(7)));
        assert_eq!(told.identity.unwrap().public, key.to_string());
    }
}
