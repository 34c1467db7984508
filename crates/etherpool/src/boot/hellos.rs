//! What booted nodes say of themselves, for those who accept them.

use std::collections::BTreeMap;

use boot::node::{Hello, Identity};
use control::boot::Machine;
use os::dir::Directory;
use serde::{Deserialize, Serialize};

use super::kept::{self, now_seconds};

/// Nodes that are remembered.
const HELLOS_MAX: usize = 1024;
/// Bytes of all that they said.
const BYTES_MAX: usize = 8 << 20;
/// Keys of one node that are remembered beside the last.
const FORMER_MAX: usize = 8;
/// The file.
pub const FILE: &str = "hellos.json";

/// The last that a node said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// That, with the last key that it showed.
    pub hello: Hello,
    /// When.
    pub at_seconds: u64,
    /// Whether it is a node of this cluster.
    pub is_accepted: bool,
    /// Why it may be two machines, or one that can't use the key that was kept for it.
    #[serde(default)]
    pub conflict: Option<Conflict>,
    /// Public keys that it showed before.
    #[serde(default)]
    former: Vec<String>,
    #[serde(default)]
    bytes: usize,
}

/// What doesn't go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// A key came back that another had taken the place of: each boot makes one of its own, so these are two machines.
    TwoMachines,
    /// It goes on to show a key of its own after it was handed the one that is kept.
    OtherKey,
}

impl Conflict {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Conflict::TwoMachines => "two machines say that they are this one",
            Conflict::OtherKey => {
                "it shows another key than the one that was accepted, and doesn't take that"
            }
        }
    }
}

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Hellos {
    said: BTreeMap<String, Said>,
}

/// Those that the server has heard, for commands; none where it never ran.
pub fn read(directory: &Directory) -> anyhow::Result<Hellos> {
    kept::read_seen(directory, FILE)
}

/// By what a node is known here: its UUID, or else the address of its first interface.
fn key_of(hello: &Hello) -> Option<String> {
    let uuid = hello.uuid.map(|uuid| uuid.to_string());
    uuid.or_else(|| hello.macs.iter().min().map(|mac| mac.to_string()))
}

impl Hellos {
    /// Those that there are.
    pub fn all(&self) -> impl Iterator<Item = &Said> {
        self.said.values()
    }

    /// Those that wait for being accepted, or looked at.
    pub fn waiting(&self) -> impl Iterator<Item = &Said> {
        self.all().filter(|said| !said.is_accepted || said.conflict.is_some())
    }

    /// Takes those for accepted that are by now: they may not have said hello again.
    pub fn settle(&mut self, machines: &[Machine]) {
        for said in self.said.values_mut() {
            let shown = said.hello.identity.as_ref().map(|identity| identity.public.as_str());
            let has_it = |machine: &Machine| {
                let kept = machine.identity.as_ref().map(|kept| kept.public().to_string());
                let is_it = machine.uuid.is_some() && machine.uuid == said.hello.uuid
                    || machine.uuid.is_none()
                        && said.hello.macs.iter().any(|mac| machine.macs.contains(mac));
                is_it && kept.is_some_and(|kept| shown.is_none_or(|shown| shown == kept))
            };
            if !said.is_accepted && machines.iter().any(has_it) {
                (said.is_accepted, said.conflict) = (true, None);
            }
        }
    }

    /// A node said hello; `kept` is the key that was accepted of it. Whether it is remembered.
    pub fn hear(&mut self, hello: Hello, kept: Option<&Identity>) -> bool {
        let Some(key) = key_of(&hello) else { return false };
        let bytes = serde_json::to_vec(&hello).map_or(usize::MAX, |text| text.len());
        let former = self.said.remove(&key);
        if !self.make_room(bytes) {
            return false;
        }
        let mut said = Said {
            hello,
            at_seconds: now_seconds(),
            is_accepted: kept.is_some(),
            conflict: None,
            former: Vec::new(),
            bytes,
        };
        if let Some(former) = former {
            said.follow(former, kept);
        }
        self.said.insert(key, said);
        true
    }

    /// Those go first whom nobody has accepted and who are silent for the longest: who is there says hello soon again.
    fn make_room(&mut self, bytes: usize) -> bool {
        let used = |said: &BTreeMap<String, Said>| {
            said.values().fold(bytes, |sum, one| sum.saturating_add(one.bytes))
        };
        let mut sum = used(&self.said);
        while self.said.len() >= HELLOS_MAX || sum > BYTES_MAX {
            let first = self.said.iter().min_by_key(|(_, one)| (one.is_accepted, one.at_seconds));
            let Some(key) = first.map(|(key, _)| key.clone()) else { return false };
            if let Some(gone) = self.said.remove(&key) {
                sum = sum.saturating_sub(gone.bytes);
            }
        }
        true
    }
}

impl Said {
    /// It has said something before.
    fn follow(&mut self, before: Said, kept: Option<&Identity>) {
        self.former = before.former;
        self.conflict = before.conflict;
        let public =
            |hello: &Hello| hello.identity.as_ref().map(|identity| identity.public.clone());
        let (now, then) = (public(&self.hello), public(&before.hello));
        if self.is_accepted && !before.is_accepted {
            (self.former, self.conflict) = (Vec::new(), None);
        }
        match (now, then) {
            // Of one that was handed its key nothing else is to be said.
            (None, _) if kept.is_some() => self.conflict = None,
            (None, _) => self.hello.identity = before.hello.identity,
            (Some(now), Some(then)) if now == then => {
                let is_handed = kept.is_some_and(|kept| kept.public != now) && before.is_accepted;
                if is_handed {
                    self.conflict = Some(Conflict::OtherKey);
                }
            }
            (Some(now), then) => {
                if self.former.contains(&now) {
                    self.conflict = Some(Conflict::TwoMachines);
                }
                let then = then.filter(|then| !self.former.contains(then));
                self.former.extend(then);
                self.former.retain(|former| *former != now);
                let many = self.former.len().saturating_sub(FORMER_MAX);
                self.former.drain(..many);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use boot::node::{Kept, Phase, VERSION};
    use uuid::Uuid;

    use super::*;

    fn identity(public: &str) -> Identity {
        Identity { public: public.into(), kept: Kept::Plain { secret: "s".into() } }
    }

    fn hello(uuid: u128, public: Option<&str>) -> Hello {
        Hello {
            version: VERSION,
            uuid: (uuid > 0).then(|| Uuid::from_u128(uuid)),
            macs: Vec::new(),
            hostname: Some("same".into()),
            program_version: "1".into(),
            kernel: "6".into(),
            phase: Phase::Started,
            message: None,
            disks: Vec::new(),
            identity: public.map(identity),
        }
    }

    fn conflict(hellos: &Hellos) -> Option<Conflict> {
        hellos.all().next().unwrap().conflict
    }

    #[test]
    fn a_machine_that_boots_again_is_one_and_two_of_a_name_are_two() {
        let mut hellos = Hellos::default();
        for public in ["a", "a", "b", "b", "c"] {
            assert!(hellos.hear(hello(7, Some(public)), None));
            assert_eq!(conflict(&hellos), None, "{public}");
        }
        hellos.hear(hello(7, None), None);
        assert_eq!(hellos.all().next().unwrap().hello.identity, Some(identity("c")));
        hellos.hear(hello(7, Some("b")), None);
        assert_eq!(conflict(&hellos), Some(Conflict::TwoMachines));
        hellos.hear(hello(7, Some("b")), None);
        assert_eq!(conflict(&hellos), Some(Conflict::TwoMachines), "it stays until it is accepted");
        hellos.hear(hello(7, Some("b")), Some(&identity("b")));
        assert_eq!(conflict(&hellos), None);
        hellos.hear(hello(8, Some("b")), None);
        assert_eq!(hellos.all().count(), 2, "names are nobody's own");
        assert!(!hellos.hear(hello(0, Some("b")), None));
    }

    #[test]
    fn an_accepted_machine_takes_the_key_that_was_kept_or_is_a_conflict() {
        let mut hellos = Hellos::default();
        let kept = identity("a");
        hellos.hear(hello(7, Some("a")), None);
        hellos.hear(hello(7, Some("a")), Some(&kept));
        hellos.hear(hello(7, None), Some(&kept));
        // It boots again, with a key of its own at first.
        hellos.hear(hello(7, Some("b")), Some(&kept));
        assert_eq!(conflict(&hellos), None);
        hellos.hear(hello(7, Some("b")), Some(&kept));
        assert_eq!(conflict(&hellos), Some(Conflict::OtherKey));
        hellos.hear(hello(7, None), Some(&kept));
        assert_eq!(conflict(&hellos), None);
    }

    #[test]
    fn who_is_silent_makes_room_and_who_is_accepted_stays() {
        let mut hellos = Hellos::default();
        hellos.hear(hello(1, Some("a")), Some(&identity("a")));
        for uuid in 2..3 * HELLOS_MAX as u128 {
            assert!(hellos.hear(hello(uuid, Some("a")), None));
        }
        assert_eq!(hellos.all().count(), HELLOS_MAX);
        assert!(hellos.all().any(|said| said.is_accepted));
        let long = Hello { kernel: "x".repeat(BYTES_MAX / 4), ..hello(1, None) };
        for uuid in 0..8 {
            let uuid = Some(Uuid::from_u128(1 << 64 | uuid));
            assert!(hellos.hear(Hello { uuid, ..long.clone() }, None));
        }
        assert!(hellos.all().map(|said| said.bytes).sum::<usize>() <= BYTES_MAX);
        let longer = Hello { kernel: "x".repeat(BYTES_MAX + 1), ..long };
        assert!(!hellos.hear(longer, None));
    }
}
