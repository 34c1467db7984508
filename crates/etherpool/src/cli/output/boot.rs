//! Machines that boot from the network, for people.

use block::CalendarTime;
use block::size::Human;
use boot::node::{Disk, Hello, Identity, Kept};

use super::{facts, lines, table};
use crate::boot::hellos::{Conflict, Said};
use crate::cli::boot::Listed;

/// Machines, and what they got.
pub fn booting(listed: &[Listed], default: Option<&str>) -> String {
    let default = match default {
        Some(boot) => format!("Machines that nobody has named boot: {boot}\n"),
        None => "Machines that nobody has named get nothing (etherpool boot assign).\n".to_owned(),
    };
    if listed.is_empty() {
        return format!("No machine has asked what to boot.\n{default}");
    }
    let mut table = table(&["MAC", "NAME", "BOOTS", "ASKED", "BY", "GIVEN", "RESULT"]);
    let none = || "-".to_owned();
    for one in listed {
        let seen = one.sighting.as_ref();
        let mac = seen.map(|seen| seen.mac).or_else(|| one.first_mac());
        table.add_row([
            mac.map_or_else(none, |mac| mac.to_string()),
            one.name.clone().unwrap_or_else(none),
            one.assigned.clone().unwrap_or_else(none),
            seen.map_or_else(none, |seen| time(seen.asked_at_seconds)),
            seen.map_or_else(none, |seen| format!("{} {}", seen.architecture, seen.program)),
            seen.map_or_else(none, |seen| seen.given.clone()),
            seen.and_then(|seen| seen.result.clone()).unwrap_or_else(none),
        ]);
    }
    format!("{}{default}", lines(&table))
}

fn time(seconds: u64) -> String {
    CalendarTime::since_1970(seconds).to_string()
}

/// Nodes that wait.
pub fn pending(waiting: &[Said]) -> String {
    if waiting.is_empty() {
        return "No node waits for being accepted.\n".to_owned();
    }
    format!(
        "{}To take one for a node of this cluster compare its key with the one on its console.\n",
        said(waiting)
    )
}

/// What nodes have said last.
pub fn said(nodes: &[Said]) -> String {
    let one = |said: &Said| {
        let hello = &said.hello;
        let conflict = said.conflict.map(|conflict| format!("** {} **\n", conflict.reason()));
        let mut text = format!("{}{}", conflict.unwrap_or_default(), who(hello));
        text.push_str(&facts(&[
            ("  phase", phase(hello)),
            ("  said hello", time(said.at_seconds)),
            ("  runs", format!("etherpool {}, Linux {}", hello.program_version, hello.kernel)),
        ]));
        let is_waiting = !said.is_accepted || said.conflict.is_some();
        if let Some(identity) = hello.identity.as_ref().filter(|_| is_waiting) {
            let whom = match (hello.uuid, hello.macs.first()) {
                (Some(uuid), _) if said.conflict != Some(Conflict::OtherAddresses) => {
                    uuid.to_string()
                }
                (_, Some(mac)) => mac.to_string(),
                _ => "UUID".to_owned(),
            };
            let command = format!("etherpool node accept {whom} --key {}", identity.public);
            text.push_str(&facts(&[("  to accept", command)]));
        }
        text.push_str(&disks(&hello.disks));
        text
    };
    nodes.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// What accepting a node means.
pub fn accepting(said: &Said, name: &str, shelf: u16, doubt: Option<&str>) -> String {
    let doubt = doubt.map(|doubt| format!("** {doubt} **\n")).unwrap_or_default();
    format!(
        "{doubt}{}{}It would be a node of this cluster, called {name}, with shelf {shelf}: the supervisor may have its disks, as far\n\
         as a command takes them. Nothing proves that it is the machine that it says it is: compare the key with the one on\n\
         its console.\n",
        who(&said.hello),
        disks(&said.hello.disks),
    )
}

fn who(hello: &Hello) -> String {
    let macs: Vec<String> = hello.macs.iter().map(|mac| mac.to_string()).collect();
    let uuid = hello.uuid.map_or("no UUID".to_owned(), |uuid| uuid.to_string());
    let key = hello.identity.as_ref().map_or_else(|| "none shown".to_owned(), key);
    let facts = facts(&[
        ("  addresses", macs.join(" ")),
        ("  host name", hello.hostname.clone().unwrap_or_default()),
        ("  key", key),
    ]);
    format!("{uuid}\n{facts}")
}

fn key(identity: &Identity) -> String {
    let kept = match identity.kept {
        Kept::Plain { .. } => "no TPM",
        Kept::Tpm { .. } => "sealed to its TPM",
    };
    format!("{} ({kept})", identity.public)
}

fn phase(hello: &Hello) -> String {
    match &hello.message {
        Some(message) => format!("{}: {message}", hello.phase),
        None => hello.phase.to_string(),
    }
}

fn disks(disks: &[Disk]) -> String {
    if disks.is_empty() {
        return "  no disks\n".to_owned();
    }
    let mut table = table(&["  DISK", "SIZE", "MODEL", "SERIAL", "CONTENTS"]);
    for disk in disks {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            format!("  {}", disk.path),
            Human(disk.size_bytes).to_string(),
            word(&disk.model),
            word(&disk.serial),
            disk.contents.clone().unwrap_or_else(|| "blank".to_owned()),
        ]);
    }
    lines(&table)
}
