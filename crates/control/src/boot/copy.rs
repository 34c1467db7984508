//! What pools keep of a boot server, so that who loses its machine has the same nodes again: the files of machines as they
//! are, without what is a secret and without whom they obey. The first isn't the pool's, whose disks many can read; the
//! second is for whoever accepts them anew.

use std::collections::BTreeMap;

use boot::node::Slots;
use pool::{KeptNotes, NOTE_BYTES_MAX};

use super::{Assignment, DefaultFile, KeptIdentity, Machine};

/// The note that says what all boot that have no assignment of their own; those of machines are called as their files.
pub const DEFAULT_NOTE: &str = "default";

/// Of the disks of a machine, as far as nobody but hellos says their slots: whoever says an accepted machine's UUID adds some,
/// and others are to have room, too. Those of a hundred disks fit.
const LEARNED_BYTES_MAX: usize = 4 << 10;

/// What a boot server has, as texts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedFiles(pub BTreeMap<String, String>);

/// The same, read from a pool: whoever could write its disks has written it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Its machines.
    pub machines: Vec<Machine>,
    /// What all others boot.
    pub default: Option<Assignment>,
    /// What can't be used, and why.
    pub wrong: Vec<String>,
}

impl Machine {
    /// As it is copied, with the slots that its disks have. A key that is sealed to a TPM stays: it is of no use without that,
    /// and the machine would be a stranger to its pools without it.
    pub fn for_copy(self, slots: Slots) -> Machine {
        let identity = self.identity.filter(KeptIdentity::is_sealed);
        Machine { identity, supervisors: Vec::new(), slots, ..self }
    }
}

impl CopiedFiles {
    /// Of machines, with the slots of their disks, and the default. Two that would have one file are in it once.
    ///
    /// # Errors
    /// None that is known of.
    pub fn of(
        machines: impl IntoIterator<Item = (Machine, Slots)>,
        default: Option<Assignment>,
    ) -> Result<CopiedFiles, toml::ser::Error> {
        let mut files = BTreeMap::new();
        for (machine, slots) in machines {
            let slots = bounded(&machine, slots);
            let machine = machine.for_copy(slots);
            files.entry(machine.file_name()).or_insert(machine.to_text()?);
        }
        if let Some(boot) = default {
            files.insert(DEFAULT_NOTE.to_owned(), DefaultFile::new(boot).to_text()?);
        }
        Ok(CopiedFiles(files))
    }
}

/// Without those that there is no room for.
fn bounded(machine: &Machine, mut slots: Slots) -> Slots {
    let mut bytes = 0;
    slots.retain(|disk, _| {
        let is_decided = machine.slots.contains_key(disk);
        bytes += if is_decided { 0 } else { disk.len() + "\"\" = 254\n".len() };
        is_decided || bytes <= LEARNED_BYTES_MAX
    });
    slots
}

impl Copied {
    /// What can be used of what a pool keeps.
    pub fn read(kept: &KeptNotes) -> Copied {
        let mut copied = Copied::default();
        for (name, text) in &kept.notes {
            if let Err(why) = copied.add(name, text) {
                copied.wrong.push(format!("{name}: {why}"));
            }
        }
        copied
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), String> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(format!("it has more than {NOTE_BYTES_MAX} bytes"));
        }
        if name == DEFAULT_NOTE {
            self.default = Some(DefaultFile::parse(text).map_err(|error| error.to_string())?.boot);
            return Ok(());
        }
        let machine = Machine::parse(text).map_err(|error| error.to_string())?;
        if machine.file_name() != name {
            return Err("it is about another machine".to_owned());
        }
        // A secret, or whom a machine obeys, is nothing that is taken from a pool.
        let slots = machine.slots.clone();
        self.machines.push(machine.for_copy(slots));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aoe_wire::MacAddr;
    use boot::node::Kept;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn machine(kept: &Kept) -> Machine {
        Machine {
            name: Some("node-7".into()),
            shelf: Some(7),
            supervisors: vec![KEY.parse().unwrap()],
            configuration: Some("# 'mine'\nbefore-start = ['''x''']\n".into()),
            boot: Some(Assignment::Node { image: "node".into(), append: Vec::new() }),
            identity: Some(KeptIdentity::of(KEY.parse().unwrap(), kept)),
            ..Machine::new(Some(Uuid::from_u128(7)), vec![MacAddr([2, 0, 0, 0, 0, 7])])
        }
    }

    fn kept(notes: BTreeMap<String, String>) -> KeptNotes {
        KeptNotes { notes, ..KeptNotes::default() }
    }

    #[test]
    fn a_copy_has_all_but_secrets_and_whom_nodes_obey() {
        let slots = Slots::from([("wwn-1".to_owned(), 3)]);
        let sealed = Kept::Tpm { public: "AA==".into(), private: "BB==".into() };
        for (how, is_sealed) in [(Kept::Plain { secret: "c2VjcmV0".into() }, false), (sealed, true)]
        {
            let machine = machine(&how);
            let of = [(machine.clone(), slots.clone())];
            let CopiedFiles(files) = CopiedFiles::of(of, Some(Assignment::Local)).unwrap();
            assert!(!format!("{files:?}").contains("c2VjcmV0"));
            assert!(files.values().all(|text| !text.contains("supervisors")), "{files:?}");
            let copied = Copied::read(&kept(files));
            assert_eq!((&copied.default, copied.wrong.len()), (&Some(Assignment::Local), 0));
            let expected = Machine {
                supervisors: Vec::new(),
                slots: slots.clone(),
                identity: machine.identity.clone().filter(|_| is_sealed),
                ..machine
            };
            assert_eq!(copied.machines, [expected]);
        }
    }

    #[test]
    fn who_says_many_disks_takes_no_room_of_others() {
        let many: Slots = (0..255).map(|slot| (format!("{slot:0256}"), slot)).collect();
        let decided = Machine {
            slots: Slots::from([(format!("{:0256}", 200), 200)]),
            ..Machine::new(Some(Uuid::from_u128(7)), Vec::new())
        };
        let CopiedFiles(files) = CopiedFiles::of([(decided.clone(), many)], None).unwrap();
        let text = &files[&decided.file_name()];
        assert!((LEARNED_BYTES_MAX / 2..2 * LEARNED_BYTES_MAX).contains(&text.len()));
        assert_eq!(Machine::parse(text).unwrap().slots.get(&format!("{:0256}", 200)), Some(&200));
    }

    #[test]
    fn what_is_wrong_in_a_pool_is_said_and_no_secret_is_taken_from_it() {
        let named = |name: &str, text: String| Copied::read(&kept([(name.into(), text)].into()));
        let plain = machine(&Kept::Plain { secret: "c2VjcmV0".into() });
        let copied = named(&plain.file_name(), plain.to_text().unwrap());
        assert_eq!(copied.machines, [plain.clone().for_copy(Slots::new())]);
        assert_eq!(copied.machines[0].identity, None);
        let newer = plain.to_text().unwrap().replace("version = 1", "version = 2");
        for (name, text, why) in [
            ("x.toml", plain.to_text().unwrap(), "another machine"),
            ("x.toml", "[".to_owned(), "line 1"),
            ("x.toml", newer, "version 2 isn't known"),
            ("x.toml", "#".repeat(NOTE_BYTES_MAX + 1), "more than"),
            (DEFAULT_NOTE, "version = 1".to_owned(), "boot"),
        ] {
            let copied = named(name, text);
            assert!(copied.machines.is_empty() && copied.default.is_none());
            assert!(copied.wrong.len() == 1 && copied.wrong[0].contains(why), "{copied:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_pool_says_is_more_than_wrong(
            at in 0usize..600,
            with in ".{0,3}",
            text in "[\\[\\]{}='\"a-z0-9\\n .\\-]{0,200}",
        ) {
            let machine = machine(&Kept::Tpm { public: "AA==".into(), private: "BB==".into() });
            let own = machine.to_text().unwrap();
            let at = (0..=at.min(own.len())).rev().find(|at| own.is_char_boundary(*at)).unwrap_or(0);
            let damaged = format!("{}{with}{}", &own[..at], &own[at..]);
            let notes = [(machine.file_name(), damaged), ("default".to_owned(), text)];
            let copied = Copied::read(&kept(notes.into()));
            let found = copied.machines.len() + usize::from(copied.default.is_some());
            prop_assert_eq!(found + copied.wrong.len(), 2);
            prop_assert!(copied.machines.iter().all(|one| one.supervisors.is_empty()));
        }
    }
}
