//! What pools keep of boot servers, and what of it is brought back, for people.

use block::CalendarTime;
use boot::node::Slots;
use control::boot::{Assignment, Copied, KeptIdentity, Machine};
use control::node::NodeConfig;
use pool::KeptNotes;
use serde::Serialize;

use super::{lines, table};
use crate::boot::restoring::{Fate, Restored};

/// A copy, and what can be used of it.
pub struct CopyShown<'k> {
    /// It is this machine's boot server.
    pub is_own: bool,
    /// What can be used.
    pub copied: Copied,
    /// As it is kept.
    pub kept: &'k KeptNotes,
}

/// What `boot restore` would do, or did.
#[derive(Debug, Default, Serialize)]
pub struct RestoreShown {
    /// Machines that aren't known here.
    pub new: Vec<MachineShown>,
    /// Those that get what isn't known of them.
    pub filled: Vec<MachineShown>,
    /// Those of which something else is known here, which is overwritten.
    pub replaced: Vec<MachineShown>,
    /// The same, which stays as it is.
    pub left: Vec<MachineShown>,
    /// Those of which all is known.
    pub same: Vec<String>,
    /// What can't be used, and why.
    pub refused: Vec<String>,
    /// What all others boot, if that is set.
    pub default: Option<String>,
    /// The same, where another one stays.
    pub default_left: Option<String>,
}

/// A machine.
#[derive(Debug, Serialize)]
pub struct MachineShown {
    /// What it is called.
    pub name: String,
    /// What is copied of it, in words.
    pub about: String,
    /// What it would run as root.
    pub runs: Vec<String>,
    /// What would change, as lines of its file.
    pub changes: Vec<String>,
    /// It is a node, or was one.
    pub is_node: bool,
}

impl RestoreShown {
    /// Of what was judged.
    pub fn of(
        all: &[Restored],
        replace: bool,
        refused: Vec<String>,
        default: Option<&Assignment>,
        new_default: Option<&Assignment>,
    ) -> RestoreShown {
        let mut shown = RestoreShown { refused, ..RestoreShown::default() };
        for one in all {
            let list = match (one.fate, replace) {
                (Fate::New, _) => &mut shown.new,
                (Fate::Filled, _) => &mut shown.filled,
                (Fate::Differs, true) => &mut shown.replaced,
                (Fate::Differs, false) => &mut shown.left,
                (Fate::Same, _) => {
                    shown.same.push(one.machine.called());
                    continue;
                }
            };
            list.push(MachineShown::of(one));
        }
        let new_default = new_default.map(|boot| boot.to_string());
        match default {
            Some(now) if !replace => {
                shown.default_left = new_default.map(|new| format!("{new}, and {now} here"));
            }
            _ => shown.default = new_default,
        }
        shown
    }
}

impl MachineShown {
    fn of(Restored { machine, former, .. }: &Restored) -> MachineShown {
        let changes = match former {
            Some(former) => changes(&as_lines(former), &as_lines(machine)),
            None => Vec::new(),
        };
        MachineShown {
            name: machine.called(),
            about: about(machine),
            runs: commands(machine),
            changes,
            is_node: machine.shelf.is_some(),
        }
    }
}

/// Which it is, and what is known of it.
fn about(machine: &Machine) -> String {
    let mut facts: Vec<String> = machine.uuid.iter().map(|uuid| uuid.to_string()).collect();
    facts.extend(machine.macs.iter().take(2).map(|mac| mac.to_string()));
    facts.extend(machine.shelf.map(|shelf| format!("shelf {shelf}")));
    facts.extend(machine.boot.as_ref().map(|boot| format!("boots {boot}")));
    let lines = machine.configuration.as_ref().map(|text| text.lines().count());
    facts.extend(lines.map(|lines| format!("a configuration of {lines} lines")));
    let slots = Some(machine.slots.len()).filter(|count| *count > 0);
    facts.extend(slots.map(|count| format!("slots of {count} disks")));
    if machine.identity.as_ref().is_some_and(KeptIdentity::is_sealed) {
        facts.push("its key, sealed to its TPM".to_owned());
    }
    facts.join(", ")
}

/// What a node runs as root by its configuration.
fn commands(machine: &Machine) -> Vec<String> {
    let Some(text) = &machine.configuration else { return Vec::new() };
    let Ok(config) = NodeConfig::parse(text, "configuration".as_ref()) else { return Vec::new() };
    let program = config.smartctl.map(|program| program.display().to_string());
    config.before_start.into_iter().chain(config.after_stop).chain(program).collect()
}

/// Its file, without what isn't shown to anybody.
fn as_lines(machine: &Machine) -> Vec<String> {
    let key = machine.identity.as_ref().map(|kept| format!("[identity] {}", kept.public()));
    let shown = Machine { identity: None, ..machine.clone() };
    let text = shown.to_text().unwrap_or_default();
    text.lines().map(str::to_owned).chain(key).filter(|line| !line.is_empty()).collect()
}

/// What is between the lines that both begin and end with.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let same = |pair: &(&String, &String)| pair.0 == pair.1;
    let first = before.iter().zip(after).take_while(same).count();
    let (before, after) = (&before[first..], &after[first..]);
    let last = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
    let less = before[..before.len() - last].iter().map(|line| format!("- {line}"));
    less.chain(after[..after.len() - last].iter().map(|line| format!("+ {line}"))).collect()
}

fn whose(copy: &CopyShown<'_>) -> String {
    let KeptNotes { keeper, host, at_secs, .. } = copy.kept;
    let own = if copy.is_own { ", of this machine," } else { "" };
    let host = if host.is_empty() { String::new() } else { format!(" on {host}") };
    let at = CalendarTime::since_1970(*at_secs);
    format!("Boot server {keeper}{own}{host}, changed {at}\n")
}

/// The copies that a pool has.
pub fn boot_copies(pool: &str, copies: &[CopyShown<'_>]) -> String {
    if copies.is_empty() {
        return format!("Pool {pool} has no copy of what a boot server knows.\n");
    }
    let one = |copy: &CopyShown<'_>| {
        let mut table =
            table(&["  NAME", "UUID", "SHELF", "BOOTS", "CONFIGURATION", "SLOTS", "KEY"]);
        let none = || "-".to_owned();
        for machine in &copy.copied.machines {
            let lines = machine.configuration.as_ref().map(|text| text.lines().count());
            let is_sealed = machine.identity.is_some();
            table.add_row([
                format!("  {}", machine.called()),
                machine.uuid.map_or_else(none, |uuid| uuid.to_string()),
                machine.shelf.map_or_else(none, |shelf| shelf.to_string()),
                machine.boot.as_ref().map_or_else(none, |boot| boot.to_string()),
                lines.map_or_else(none, |lines| format!("{lines} lines")),
                slots(&machine.slots),
                if is_sealed { "sealed to its TPM".to_owned() } else { none() },
            ]);
        }
        let mut text = format!("{}{}", whose(copy), lines(&table));
        if let Some(boot) = &copy.copied.default {
            text.push_str(&format!("  Machines that nobody has named boot: {boot}\n"));
        }
        if copy.kept.left_out > 0 {
            let count = copy.kept.left_out;
            text.push_str(&format!("  ** of {count} there was no room for what is known now **\n"));
        }
        copy.copied.wrong.iter().for_each(|why| text.push_str(&format!("  ** {why} **\n")));
        text
    };
    let all: Vec<String> = copies.iter().map(one).collect();
    format!("{}To have it here: etherpool boot restore {pool}\n", all.join("\n"))
}

fn slots(slots: &Slots) -> String {
    if slots.is_empty() { "-".to_owned() } else { slots.len().to_string() }
}

/// What would be forgotten, beside the copies that stay.
pub fn forgetting(pool: &str, copy: &CopyShown<'_>, others: &[CopyShown<'_>]) -> String {
    let mut text = format!(
        "Pool {pool} would have no copy any more of what this boot server knows:\n{}",
        whose(copy)
    );
    let is_elsewhere = |machine: &Machine| {
        let mut machines = others.iter().flat_map(|other| &other.copied.machines);
        machines.any(|other| other.file_name() == machine.file_name())
    };
    for machine in &copy.copied.machines {
        let alone = match is_elsewhere(machine) {
            true => "",
            false => " ** in no other copy of this pool **",
        };
        text.push_str(&format!("  {}: {}{alone}\n", machine.called(), about(machine)));
    }
    if copy.is_own {
        text.push_str("It is copied anew, as far as machines are known here.\n");
    }
    text
}

/// What would be brought back.
pub fn restoring(shown: &RestoreShown, kept: &KeptNotes) -> String {
    let RestoreShown { new, filled, replaced, left, same, refused, default, default_left } = shown;
    let at = CalendarTime::since_1970(kept.at_secs);
    let mut text =
        format!("The copy of boot server {} ({}), changed {at}:\n", kept.keeper, kept.host);
    for (machines, what) in [
        (new, "is not known here, and would be"),
        (filled, "would get what is not known of it here"),
        (replaced, "would be overwritten"),
        (left, "differs here, and stays as it is (--replace overwrites it)"),
    ] {
        for machine in machines {
            text.push_str(&format!("{} {what}: {}\n", machine.name, machine.about));
            machine.changes.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            let runs = machine.runs.iter();
            runs.for_each(|command| text.push_str(&format!("    runs as root: {command}\n")));
        }
    }
    if !same.is_empty() {
        text.push_str(&format!("As they are here: {}\n", same.join(", ")));
    }
    if let Some(boot) = default {
        text.push_str(&format!("Machines that nobody has named would boot: {boot}\n"));
    }
    if let Some(boot) = default_left {
        text.push_str(&format!(
            "Machines that nobody has named boot {boot}, which stays (--replace overwrites it)\n"
        ));
    }
    refused.iter().for_each(|why| text.push_str(&format!("** not restored: {why} **\n")));
    text
}

/// What was brought back, and what is to be done with it.
pub fn restored(shown: &RestoreShown) -> String {
    let changed = || shown.new.iter().chain(&shown.filled).chain(&shown.replaced);
    let names: Vec<&str> = changed().map(|machine| machine.name.as_str()).collect();
    let mut text = match names.as_slice() {
        [] => "What machines boot that nobody has named is as it was.\n".to_owned(),
        names => format!("Restored: {}\n", names.join(", ")),
    };
    let left: Vec<&str> = shown.left.iter().map(|machine| machine.name.as_str()).collect();
    if !left.is_empty() {
        text.push_str(&format!(
            "As they are here (--replace overwrites them): {}\n",
            left.join(", ")
        ));
    }
    shown.refused.iter().for_each(|why| text.push_str(&format!("** not restored: {why} **\n")));
    if changed().any(|machine| machine.is_node) {
        text.push_str(
            "Nodes join the supervisor of this machine when they are accepted anew (etherpool node accept NAME): at once where\n\
             the copy has their key, the others when they have said hello (etherpool node pending).\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aoe_wire::MacAddr;
    use uuid::Uuid;

    use super::*;
    use crate::boot::restoring::judge;
    use crate::boot::slots::AllSlots;

    fn machine(configuration: &str) -> Machine {
        Machine {
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: Some(configuration.into()),
            ..Machine::new(Some(Uuid::from_u128(7)), vec![MacAddr([2, 0, 0, 0, 0, 7])])
        }
    }

    fn shown(copy: Machine, here: &[Machine], replace: bool) -> String {
        let judged = judge(vec![copy], here, &AllSlots::default());
        let all: Vec<Restored> = judged.into_iter().map(Result::unwrap).collect();
        let shown = RestoreShown::of(&all, replace, Vec::new(), None, None);
        restoring(&shown, &KeptNotes::default())
    }

    #[test]
    fn what_would_run_and_what_would_change_is_shown() {
        let copy = machine("before-start = ['mdadm --assemble']\nautomatic = true\n");
        let text = shown(copy.clone(), &[], false);
        assert!(text.contains("node-7 is not known here, and would be"), "{text}");
        assert!(text.contains("runs as root: mdadm --assemble\n"), "{text}");
        let here = machine("automatic = true\n");
        for (replace, what) in [(false, "stays as it is"), (true, "would be overwritten")] {
            let text = shown(copy.clone(), std::slice::from_ref(&here), replace);
            assert!(text.contains(what), "{text}");
            assert!(text.contains("+ before-start = ['mdadm --assemble']\n"), "{text}");
            assert!(!text.contains("- automatic"), "{text}");
        }
        assert!(shown(copy.clone(), &[copy], false).contains("As they are here: node-7\n"));
    }

    #[test]
    fn copies_say_whose_they_are_and_what_is_missing() {
        let copied = Copied {
            machines: vec![machine("")],
            default: Some(Assignment::Local),
            wrong: vec!["x: y".to_owned()],
        };
        let host = "pc".to_owned();
        let kept = KeptNotes { host, left_out: 2, ..KeptNotes::default() };
        let copies = [CopyShown { is_own: true, copied, kept: &kept }];
        let text = boot_copies("p", &copies);
        for said in ["of this machine, on pc", "node-7", "boot: local", "of 2 there", "** x: y **"]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
        let gone = forgetting("p", &copies[0], &[]);
        assert!(gone.contains("copied anew") && gone.contains("in no other copy"), "{gone}");
        assert!(!forgetting("p", &copies[0], &copies).contains("in no other copy"));
        assert!(boot_copies("p", &[]).contains("no copy"));
    }
}
