//! What booted nodes say of themselves, for those who accept them.

use std::collections::{BTreeMap, BTreeSet};

use aoe_wire::MacAddr;
use boot::node::{Hello, Identity};
use control::boot::Machine;
use os::dir::Directory;
use serde::{Deserialize, Serialize};

use super::kept;

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
    /// It says the UUID of a machine that was accepted, and has none of the addresses of that.
    OtherAddresses,
    /// Its addresses have changed while it showed one key: that is of one start of a machine.
    ChangedAddresses,
    /// What goes with its public key isn't what did first: one of the two is another's, who has read that key.
    OtherSecret,
    /// More keys than are remembered, so that nobody knows whether one of them comes back.
    ManyKeys,
}

impl Conflict {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Conflict::TwoMachines => "two machines say that they are this one",
            Conflict::OtherKey => {
                "it shows another key than the one that was accepted, and doesn't take that"
            }
            Conflict::OtherAddresses => {
                "it says the UUID of a machine that was accepted, and has none of its addresses"
            }
            Conflict::ChangedAddresses => {
                "somebody else shows the same key, or its addresses have changed since it started"
            }
            Conflict::OtherSecret => "two machines show the same key, each with another secret",
            Conflict::ManyKeys => "it has shown more keys than can be compared",
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
    Ok(kept::read_seen(directory, FILE)?)
}

/// What is kept of who says hello.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'k> {
    /// Nothing.
    Unknown,
    /// It is a node of this cluster.
    Accepted {
        /// Its key.
        kept: &'k Identity,
        /// Whether its addresses are kept, too. Else those count by which it said hello first.
        has_addresses: bool,
    },
    /// It says the UUID of another one.
    Stranger,
}

/// What came of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// There is room for it, and it says who it is.
    pub is_remembered: bool,
    /// It isn't the machine whose UUID it says.
    pub is_stranger: bool,
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
                let shares = said.hello.macs.iter().any(|mac| machine.macs.contains(mac));
                let is_stranger = said.conflict == Some(Conflict::OtherAddresses);
                let is_it = match machine.uuid {
                    None => shares,
                    Some(uuid) => {
                        said.hello.uuid == Some(uuid)
                            && (shares || machine.macs.is_empty() && !is_stranger)
                    }
                };
                is_it && kept.is_some_and(|kept| shown.is_none_or(|shown| shown == kept))
            };
            if !said.is_accepted && machines.iter().any(has_it) {
                (said.is_accepted, said.conflict) = (true, None);
            }
        }
    }

    /// A node said hello, now.
    pub fn hear(&mut self, hello: Hello, standing: Standing<'_>, now_seconds: u64) -> Heard {
        let Some(mut key) = key_of(&hello) else {
            return Heard { is_remembered: false, is_stranger: false };
        };
        let (kept, is_stranger) = match standing {
            Standing::Accepted { kept, has_addresses } => {
                let is_other = !has_addresses && self.is_other(&key, &hello);
                (Some(kept).filter(|_| !is_other), is_other)
            }
            Standing::Unknown => (None, false),
            Standing::Stranger => (None, true),
        };
        if is_stranger {
            // Beside the one whose UUID it says, and not in its place.
            let mac = hello.macs.iter().min().map(|mac| mac.to_string());
            key = format!("{key} {}", mac.unwrap_or_default());
        }
        let bytes = serde_json::to_vec(&hello).map_or(usize::MAX, |text| text.len());
        let former = self.said.remove(&key);
        let mut said = Said {
            hello,
            at_seconds: now_seconds,
            is_accepted: kept.is_some(),
            conflict: None,
            former: Vec::new(),
            bytes,
        };
        if let Some(former) = former {
            said.follow(former, kept);
        }
        if is_stranger {
            said.conflict = Some(Conflict::OtherAddresses);
        }
        let is_remembered = self.make_room(said.bytes);
        if is_remembered {
            self.said.insert(key, said);
        }
        Heard { is_remembered, is_stranger }
    }

    /// Whether who was accepted has said hello by addresses of which this has none.
    fn is_other(&self, key: &str, hello: &Hello) -> bool {
        let known = self.said.get(key).filter(|said| said.is_accepted);
        known.is_some_and(|known| {
            let macs = &known.hello.macs;
            !macs.is_empty() && !hello.macs.iter().any(|mac| macs.contains(mac))
        })
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
        if self.is_accepted && !before.is_accepted {
            (self.former, self.conflict) = (Vec::new(), None);
        }
        match (&self.hello.identity, &before.hello.identity) {
            // Of one that was handed its key nothing else is to be said.
            (None, _) if kept.is_some() => (self.former, self.conflict) = (Vec::new(), None),
            // Whoever says less in its name doesn't take the key away that somebody is about to accept.
            (None, Some(_)) if !before.is_accepted => self.keep_first(before.hello, before.bytes),
            (None, _) => {}
            (Some(now), Some(then)) if now.public == then.public => {
                let is_handed = kept.is_some_and(|kept| kept.public != now.public);
                let macs =
                    |hello: &Hello| hello.macs.iter().copied().collect::<BTreeSet<MacAddr>>();
                if now.kept != then.kept {
                    self.conflict = Some(Conflict::OtherSecret);
                    self.keep_first(before.hello, before.bytes);
                } else if kept.is_none() && macs(&self.hello) != macs(&before.hello) {
                    self.conflict = Some(Conflict::ChangedAddresses);
                    self.keep_first(before.hello, before.bytes);
                } else if is_handed && before.is_accepted {
                    self.conflict = Some(Conflict::OtherKey);
                }
            }
            (Some(now), then) => {
                if self.former.contains(&now.public) {
                    self.conflict = Some(Conflict::TwoMachines);
                }
                let then = then.as_ref().map(|then| &then.public);
                let then = then.filter(|then| !self.former.contains(then));
                self.former.extend(then.cloned());
                self.former.retain(|former| *former != now.public);
                let many = self.former.len().saturating_sub(FORMER_MAX);
                if many > 0 {
                    self.conflict = Some(Conflict::ManyKeys);
                    self.former.drain(..many);
                }
            }
        }
    }

    fn keep_first(&mut self, hello: Hello, bytes: usize) {
        (self.hello, self.bytes) = (hello, bytes);
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
            slots: Default::default(),
            slots_signature: None,
            identity: public.map(identity),
        }
    }

    const NOBODY: Standing<'_> = Standing::Unknown;

    fn accepted(kept: &Identity) -> Standing<'_> {
        Standing::Accepted { kept, has_addresses: true }
    }

    /// Hears, at some time; whether it is remembered.
    fn hear(hellos: &mut Hellos, hello: Hello, standing: Standing<'_>) -> bool {
        hellos.hear(hello, standing, 7).is_remembered
    }

    fn conflict(hellos: &Hellos) -> Option<Conflict> {
        hellos.all().next().unwrap().conflict
    }

    #[test]
    fn a_machine_that_boots_again_is_one_and_two_of_a_name_are_two() {
        let mut hellos = Hellos::default();
        for public in ["a", "a", "b", "b", "c"] {
            assert!(hear(&mut hellos, hello(7, Some(public)), NOBODY));
            assert_eq!(conflict(&hellos), None, "{public}");
        }
        // Who says less doesn't take its place.
        let less = Hello { macs: vec![MacAddr([2, 0, 0, 0, 0, 9])], ..hello(7, None) };
        hear(&mut hellos, less, NOBODY);
        assert_eq!(hellos.all().next().unwrap().hello, hello(7, Some("c")));
        hear(&mut hellos, hello(7, Some("b")), NOBODY);
        assert_eq!(conflict(&hellos), Some(Conflict::TwoMachines));
        hear(&mut hellos, hello(7, Some("b")), NOBODY);
        assert_eq!(conflict(&hellos), Some(Conflict::TwoMachines), "it stays until it is accepted");
        hear(&mut hellos, hello(7, Some("b")), accepted(&identity("b")));
        assert_eq!(conflict(&hellos), None);
        hear(&mut hellos, hello(8, Some("b")), NOBODY);
        assert_eq!(hellos.all().count(), 2, "names are nobody's own");
        assert!(!hear(&mut hellos, hello(0, Some("b")), NOBODY));
    }

    #[test]
    fn an_accepted_machine_takes_the_key_that_was_kept_or_is_a_conflict() {
        let mut hellos = Hellos::default();
        let kept = identity("a");
        hear(&mut hellos, hello(7, Some("a")), NOBODY);
        hear(&mut hellos, hello(7, Some("a")), accepted(&kept));
        hear(&mut hellos, hello(7, None), accepted(&kept));
        // It boots again, with a key of its own at first.
        hear(&mut hellos, hello(7, Some("b")), accepted(&kept));
        assert_eq!(conflict(&hellos), None);
        hear(&mut hellos, hello(7, Some("b")), accepted(&kept));
        assert_eq!(conflict(&hellos), Some(Conflict::OtherKey));
        hear(&mut hellos, hello(7, None), accepted(&kept));
        assert_eq!(conflict(&hellos), None);
        for number in 0..3 * FORMER_MAX {
            hear(&mut hellos, hello(7, Some(&number.to_string())), accepted(&kept));
            hear(&mut hellos, hello(7, None), accepted(&kept));
            assert_eq!(conflict(&hellos), None, "{number} starts");
        }
    }

    #[test]
    fn the_first_who_shows_a_key_is_the_one_that_is_shown() {
        let own = Hello { macs: vec![MacAddr([2, 0, 0, 0, 0, 7])], ..hello(7, Some("a")) };
        let kept = Kept::Tpm { public: "p".into(), private: "q".into() };
        let other = Some(Identity { public: "a".into(), kept });
        let moved = vec![MacAddr([2, 0, 0, 0, 0, 8])];
        for (second, expected) in [
            (Hello { identity: other, ..own.clone() }, Conflict::OtherSecret),
            (Hello { macs: moved, ..own.clone() }, Conflict::ChangedAddresses),
        ] {
            let mut hellos = Hellos::default();
            hear(&mut hellos, own.clone(), NOBODY);
            hear(&mut hellos, second, NOBODY);
            assert_eq!(conflict(&hellos), Some(expected));
            assert_eq!(hellos.all().next().unwrap().hello, own);
        }
    }

    #[test]
    fn more_keys_than_are_remembered_are_a_conflict() {
        let mut hellos = Hellos::default();
        for number in 0..=FORMER_MAX {
            hear(&mut hellos, hello(7, Some(&number.to_string())), NOBODY);
            assert_eq!(conflict(&hellos), None);
        }
        hear(&mut hellos, hello(7, Some("one more")), NOBODY);
        assert_eq!(conflict(&hellos), Some(Conflict::ManyKeys));
    }

    #[test]
    fn a_stranger_stands_beside_the_machine_whose_uuid_it_says() {
        let (mut hellos, kept) = (Hellos::default(), identity("a"));
        let by =
            |last, public| Hello { macs: vec![MacAddr([2, 0, 0, 0, 0, last])], ..hello(7, public) };
        let unkept = Standing::Accepted { kept: &kept, has_addresses: false };
        // Where no address is kept, those of the first hello count.
        assert!(!hellos.hear(by(7, None), unkept, 1).is_stranger);
        assert!(!hellos.hear(by(7, Some("b")), unkept, 2).is_stranger);
        let heard = hellos.hear(by(8, Some("a")), unkept, 3);
        assert_eq!(heard, Heard { is_remembered: true, is_stranger: true });
        assert!(hellos.hear(by(9, Some("c")), Standing::Stranger, 4).is_stranger);
        assert_eq!(hellos.all().filter(|said| said.is_accepted).count(), 1);
        let strange = |said: &&Said| said.conflict == Some(Conflict::OtherAddresses);
        // Also who shows the very key that was kept.
        let machine = Machine::new(Some(Uuid::from_u128(7)), vec![MacAddr([2, 0, 0, 0, 0, 7])]);
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let shown = identity(key);
        let kept = control::boot::KeptIdentity::of(key.parse().unwrap(), &shown.kept);
        hellos.hear(by(10, Some(key)), Standing::Stranger, 5);
        hellos.settle(&[Machine { identity: Some(kept), ..machine }]);
        assert_eq!(hellos.waiting().filter(strange).count(), 3);
    }

    #[test]
    fn who_is_silent_makes_room_and_who_is_accepted_stays() {
        let mut hellos = Hellos::default();
        hellos.hear(hello(1, Some("a")), accepted(&identity("a")), 1);
        let last = 3 * HELLOS_MAX as u64;
        for uuid in 2..last {
            let heard = hellos.hear(hello(uuid.into(), Some("a")), NOBODY, uuid);
            assert!(heard.is_remembered);
        }
        assert_eq!(hellos.all().count(), HELLOS_MAX);
        assert!(hellos.all().any(|said| said.is_accepted));
        let oldest = hellos.all().filter(|said| !said.is_accepted).map(|said| said.at_seconds);
        assert_eq!(oldest.min(), Some(last + 1 - HELLOS_MAX as u64));
        let long = Hello { kernel: "x".repeat(BYTES_MAX / 4), ..hello(1, None) };
        for uuid in 0..8 {
            let uuid = Some(Uuid::from_u128(1 << 64 | uuid));
            assert!(hear(&mut hellos, Hello { uuid, ..long.clone() }, NOBODY));
        }
        assert!(hellos.all().map(|said| said.bytes).sum::<usize>() <= BYTES_MAX);
        let longer = Hello { kernel: "x".repeat(BYTES_MAX + 1), ..long };
        assert!(!hear(&mut hellos, longer, NOBODY));
    }
}
