//! What a node is to do, by what the boot server has said in this boot: the text of its node.toml, and its key.
//!
//! **As long as nobody has accepted it, it exports no disk but those that carry etherpool's label**; so a mistaken boot of
//! any machine destroys nothing on it. **Once somebody has, it follows nothing that isn't a whole acceptance**: neither a
//! boot server that lost its files nor a mistake in a configuration takes disks away from who uses them.

use std::path::Path;

use anyhow::Context;
use aoe_wire::MacAddr;
use boot::node::{Identity, Slots, State};
use seal::KeyPair;
use toml::{Table, Value};
use uuid::Uuid;

use super::identity::Heard;
use super::network::WIRED;
use crate::node::check_text;

/// Where the node keeps what it must not lose while it runs.
pub const STATE_DIR: &str = "/var/lib/etherpool";
/// Where its sockets are.
pub const RUN_DIR: &str = "/run/etherpool";
/// What the node takes at its start only.
const AT_START_ONLY: [&str; 8] = [
    "name",
    "shelf",
    "node-id",
    "automatic",
    "frame-socket",
    "before-start",
    "after-stop",
    "export-blank",
];

/// The configuration of a node whose own can't be used.
const BARE: &str = "automatic = true\nexport-blank = false\n";
/// What a node tells the boot server that has forgotten it.
const NO_MORE: &str =
    "the boot server says no more that this node is accepted; it goes on as it was told before";

/// What the machine itself is.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Of its SMBIOS, if that says something.
    pub uuid: Option<Uuid>,
    /// Of the wired interface by which it is known where that says nothing.
    pub mac: MacAddr,
    /// Of all of them.
    pub macs: Vec<MacAddr>,
    /// The key that it made itself in this boot.
    pub key: KeyPair,
    /// The same as it shows it; none as long as it isn't known whether there is a TPM.
    pub shown: Option<Identity>,
}

/// What the node process is to do.
#[derive(Clone)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// Its configuration.
    pub configuration: Table,
    /// What it can do under the same name if that configuration can't be used: exports what is labelled.
    bare: Table,
    /// Whether the configuration is that one.
    pub is_bare: bool,
    /// Which slots its disks have, as far as that is known. Counts at its start only: a disk in use keeps its address.
    pub slots: Slots,
    /// By which it proves who it is.
    pub key: KeyPair,
    /// Whether the key was handed to it.
    pub is_handed: bool,
    /// Whether it belongs to somebody.
    pub is_accepted: bool,
    /// What of the last answer isn't done, and why.
    pub wrong: Option<String>,
}

/// What the boot server has said in this boot, as far as the node goes by it.
#[derive(Default)]
pub struct Said {
    /// All that it ever said of who the node is: what a later answer leaves out still holds.
    who: Who,
    /// By the last acceptance that could be followed.
    accepted: Option<Plan>,
    /// What of the last answer isn't done, and why.
    wrong: Option<String>,
}

/// Who a node is.
#[derive(Clone, Default)]
struct Who {
    name: Option<String>,
    shelf: Option<u16>,
    supervisors: Vec<String>,
    slots: Slots,
    key: Option<KeyPair>,
}

/// What becomes of a node process when its plan changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It goes on.
    None,
    /// It reads its configuration again.
    Reload,
    /// It starts anew.
    Restart,
}

impl Machine {
    /// Its identity in failure domains: the same at each boot, where nothing is kept.
    pub fn node_id(&self) -> Uuid {
        if let Some(uuid) = self.uuid {
            return uuid;
        }
        let mut bytes = *b"etherpool.\0\0\0\0\0\0";
        bytes[10..].copy_from_slice(&self.mac.0);
        // A form for what somebody makes as he likes (RFC 9562, 5.8).
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    fn own_name(&self) -> String {
        let digits: String = self.mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("node-{digits}")
    }
}

impl Said {
    /// Whether somebody has accepted the node in this boot.
    pub fn is_accepted(&self) -> bool {
        self.accepted.is_some()
    }

    /// The key that was handed to it and followed in this boot, if one was.
    pub fn key(&self) -> Option<&KeyPair> {
        self.who.key.as_ref()
    }

    /// The boot server says that.
    pub fn hear(&mut self, machine: &Machine, heard: &Heard) {
        let answer = &heard.answer;
        if answer.state != State::Accepted {
            self.wrong = self.accepted.is_some().then(|| NO_MORE.to_owned());
            return;
        }
        let followed = self.who.after(heard).and_then(|who| {
            let text = answer.configuration.as_deref().unwrap_or_default();
            let plan = Plan::accepted(machine, &who, text)?;
            Ok((who, plan))
        });
        match followed {
            Ok((who, plan)) => {
                self.wrong = plan.wrong.clone();
                // A configuration that can be used isn't given up for one that can't.
                let has_whole = self.accepted.as_ref().is_some_and(|former| !former.is_bare);
                if !plan.is_bare || !has_whole {
                    self.who = who;
                    self.accepted = Some(plan);
                }
            }
            Err(error) => self.wrong = Some(format!("{error:#}")),
        }
    }

    /// What the node is to do by all that.
    pub fn plan(&self, machine: &Machine) -> Plan {
        let plan = self.accepted.clone().unwrap_or_else(|| Plan::unaccepted(machine));
        Plan { wrong: self.wrong.clone(), ..plan }
    }
}

impl Who {
    /// With what an answer says.
    fn after(&self, Heard { answer, key }: &Heard) -> anyhow::Result<Who> {
        let mut who = self.clone();
        who.name = answer.name.clone().or(who.name);
        who.shelf = answer.shelf.or(who.shelf);
        if !answer.supervisors.is_empty() {
            who.supervisors.clone_from(&answer.supervisors);
        }
        if !answer.slots.is_empty() {
            who.slots.clone_from(&answer.slots);
        }
        if let Some(key) = key {
            who.key = Some(key.clone().map_err(anyhow::Error::msg)?);
        }
        Ok(who)
    }

    /// The whole configuration of a node of that name, with what its text says.
    fn configuration(&self, machine: &Machine, text: &str) -> anyhow::Result<Table> {
        let place = Path::new("its configuration at the boot server");
        // As people wrote it: what is wrong is in a line that they know.
        check_text(text, place, false)?;
        let mut configuration: Table = text.parse().context("its configuration")?;
        complete(&mut configuration, machine, &self.name(machine));
        if let Some(shelf) = self.shelf {
            configuration.insert("shelf".into(), Value::Integer(shelf.into()));
        }
        let named = configuration.get("supervisors").and_then(Value::as_array).cloned();
        let mut supervisors = named.unwrap_or_default();
        for key in &self.supervisors {
            let key = Value::String(key.clone());
            if !supervisors.contains(&key) {
                supervisors.push(key);
            }
        }
        // Without a list it speaks with everybody who has a key; with an empty one with nobody.
        if !supervisors.is_empty() {
            configuration.insert("supervisors".into(), Value::Array(supervisors));
        }
        let whole = toml::to_string(&configuration).context("its configuration")?;
        check_text(&whole, place, true)?;
        Ok(configuration)
    }

    fn name(&self, machine: &Machine) -> String {
        self.name.clone().unwrap_or_else(|| machine.own_name())
    }
}

impl Plan {
    fn unaccepted(machine: &Machine) -> Plan {
        let mut configuration = Table::new();
        configuration.insert("automatic".into(), Value::Boolean(true));
        configuration.insert("export-blank".into(), Value::Boolean(false));
        let name = machine.own_name();
        complete(&mut configuration, machine, &name);
        Plan {
            name,
            bare: configuration.clone(),
            configuration,
            is_bare: true,
            slots: Slots::new(),
            key: machine.key.clone(),
            is_handed: false,
            is_accepted: false,
            wrong: None,
        }
    }

    /// Who a node is holds also when its configuration is wrong: those who know its disks find them.
    fn accepted(machine: &Machine, who: &Who, text: &str) -> anyhow::Result<Plan> {
        let bare = who.configuration(machine, BARE)?;
        let (configuration, wrong) = match who.configuration(machine, text) {
            Ok(configuration) => (configuration, None),
            Err(error) => (bare.clone(), Some(format!("{error:#}"))),
        };
        Ok(Plan {
            name: who.name(machine),
            configuration,
            bare,
            is_bare: wrong.is_some(),
            slots: who.slots.clone(),
            is_handed: who.key.is_some(),
            key: who.key.clone().unwrap_or_else(|| machine.key.clone()),
            is_accepted: true,
            wrong,
        })
    }

    /// The same node without what its configuration says.
    pub fn without_configuration(&self) -> Plan {
        Plan { configuration: self.bare.clone(), is_bare: true, ..self.clone() }
    }

    /// What a node that follows `former` has to do to follow this.
    pub fn change_from(&self, former: &Plan) -> Change {
        let differs = |key: &&str| self.configuration.get(*key) != former.configuration.get(*key);
        if self.key.public() != former.key.public() || AT_START_ONLY.iter().any(differs) {
            Change::Restart
        } else if self.configuration != former.configuration {
            Change::Reload
        } else {
            Change::None
        }
    }

    /// The text of its node.toml.
    pub fn text(&self) -> anyhow::Result<String> {
        let text = toml::to_string(&self.configuration).context("its configuration")?;
        Ok(format!("# By what the boot server says; written anew at every change.\n{text}"))
    }
}

/// What every node of an image has.
fn complete(configuration: &mut Table, machine: &Machine, name: &str) {
    let text = |text: &str| Value::String(text.to_owned());
    configuration.insert("name".into(), text(name));
    configuration.insert("state-dir".into(), text(STATE_DIR));
    configuration.insert("run-dir".into(), text(RUN_DIR));
    let own = [
        ("node-id", text(&machine.node_id().to_string())),
        ("interfaces", Value::Array(vec![text(&format!("{WIRED}*"))])),
    ];
    for (key, value) in own {
        configuration.entry(key).or_insert(value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use boot::node::{Answer, Kept};
    use control::node::NodeConfig;
    use seal::SecretKey;

    use super::*;

    fn machine() -> Machine {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        Machine { uuid: None, mac, macs: vec![mac], key: key(1), shown: None }
    }

    fn key(number: u8) -> KeyPair {
        KeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    fn shown(key: &KeyPair) -> Identity {
        let kept = Kept::Plain { secret: key.secret().to_text().to_string() };
        Identity { public: key.public().to_string(), kept }
    }

    fn accepted() -> Answer {
        Answer {
            version: boot::node::VERSION,
            state: State::Accepted,
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: None,
            supervisors: vec![key(9).public().to_string()],
            slots: Slots::new(),
            identity: None,
        }
    }

    fn said(answers: &[&Answer]) -> Said {
        let mut said = Said::default();
        answers.iter().for_each(|answer| said.hear(&machine(), &Heard::plain(answer)));
        said
    }

    fn plan_of(answers: &[&Answer]) -> Plan {
        said(answers).plan(&machine())
    }

    fn parsed(plan: &Plan) -> NodeConfig {
        NodeConfig::parse(&plan.text().unwrap(), Path::new("node.toml")).unwrap()
    }

    #[test]
    fn nobody_has_accepted_it_so_it_exports_only_what_is_labelled() {
        let mut pending = Answer { state: State::Pending, ..accepted() };
        pending.configuration = Some("[[export]]\naddress = 'e1.0'\npath = '/dev/sda'".into());
        let unknown = Answer { state: State::Unknown, ..pending.clone() };
        for answers in [&[][..], &[&pending], &[&unknown, &pending]] {
            let config = parsed(&plan_of(answers));
            assert_eq!((config.automatic, config.export_blank), (Some(true), Some(false)));
            assert!(config.export.is_empty() && config.shelf.is_none());
            assert_eq!(config.name.as_deref(), Some("node-020000000007"));
            assert_eq!(config.defaults.interfaces, Some(vec!["eth*".into()]));
        }
    }

    #[test]
    fn who_is_accepted_is_what_he_is_told() {
        let mut answer = accepted();
        let own = key(8).public();
        answer.configuration = Some(format!(
            "name = 'other'\nshelf = 3\ninterfaces = ['eth1']\nsupervisors = ['{own}']\nstate-dir = '/x'\nnode-id = '00000000-0000-0000-0000-000000000003'"
        ));
        answer.identity = Some(shown(&key(5)));
        let plan = plan_of(&[&answer]);
        let config = parsed(&plan);
        assert_eq!((config.name.as_deref(), config.shelf), (Some("node-7"), Some(7)));
        assert_eq!(config.supervisors, Some(vec![own, key(9).public()]));
        assert_eq!(config.defaults.interfaces, Some(vec!["eth1".into()]));
        assert_eq!(config.state_dir.as_deref(), Some(Path::new(STATE_DIR)));
        assert_eq!(config.node_id, Some(Uuid::from_u128(3)));
        assert_eq!(plan.key.public(), key(5).public());
        assert!(plan.is_handed && plan.is_accepted && config.export_blank.is_none());
        let without = plan_of(&[&accepted()]);
        assert_eq!(without.key.public(), key(1).public());
        assert!(!without.is_handed);
    }

    /// Answers whose configuration can't be used, and a word of why.
    fn wrong_configurations() -> Vec<(Answer, &'static str)> {
        let export = "[[export]]\naddress = 'e1.0'\npath = '/dev/none'\n";
        let texts = [
            ("shelf = ".to_owned(), "line 1"),
            ("bufers = 1".to_owned(), "bufers"),
            // What `etherpool node --check` says beside that.
            ("interfaces = []".to_owned(), "no interface is named"),
            (export.repeat(2), "e1.0"),
        ];
        let answer = |text| Answer {
            configuration: Some(text),
            identity: Some(shown(&key(5))),
            ..accepted()
        };
        texts.into_iter().map(|(text, word)| (answer(text), word)).collect()
    }

    /// Answers that don't say who the node is.
    fn wrong_identities() -> Vec<(Answer, &'static str)> {
        let mut lying = shown(&key(5));
        lying.public = key(6).public().to_string();
        let none =
            Identity { public: lying.public.clone(), kept: Kept::Plain { secret: "x".into() } };
        vec![
            (Answer { identity: Some(lying), ..accepted() }, "another than it is said to be"),
            (Answer { identity: Some(none), ..accepted() }, "handed to this node"),
            (Answer { supervisors: vec!["x".into()], ..accepted() }, "line"),
        ]
    }

    #[test]
    fn who_it_is_holds_also_with_a_wrong_configuration() {
        for (answer, word) in wrong_configurations() {
            let plan = plan_of(&[&answer]);
            let wrong = plan.wrong.clone().unwrap();
            assert!(wrong.contains(word), "{wrong}");
            let config = parsed(&plan);
            assert_eq!((config.automatic, config.export_blank), (Some(true), Some(false)));
            assert_eq!((config.name.as_deref(), config.shelf), (Some("node-7"), Some(7)));
            assert_eq!(config.supervisors, Some(vec![key(9).public()]));
            assert!(plan.is_accepted && plan.is_bare && plan.is_handed);
            assert_eq!(plan.key.public(), key(5).public());
            // Who mends it has it followed.
            let mended = plan_of(&[&answer, &accepted()]);
            assert!(mended.wrong.is_none() && !mended.is_bare);
            assert_eq!(parsed(&mended).export_blank, None);
        }
        for (answer, word) in wrong_identities() {
            let plan = plan_of(&[&answer]);
            let wrong = plan.wrong.clone().unwrap();
            assert!(wrong.contains(word), "{wrong}");
            assert_eq!(parsed(&plan).export_blank, Some(false));
            assert!(!plan.is_accepted);
        }
    }

    #[test]
    fn once_accepted_it_follows_nothing_less() {
        let first = Answer {
            configuration: Some("io = 'direct'\n".into()),
            identity: Some(shown(&key(5))),
            ..accepted()
        };
        let former = plan_of(&[&first]);
        let regressed = [State::Pending, State::Unknown]
            .map(|state| (Answer { state, ..accepted() }, "no more that this node is accepted"));
        let all = regressed.into_iter().chain(wrong_configurations()).chain(wrong_identities());
        for (answer, word) in all {
            for answers in [&[&first, &answer][..], &[&first, &answer, &answer]] {
                let plan = plan_of(answers);
                assert_eq!(plan.change_from(&former), Change::None, "{word}");
                assert!(plan.is_accepted && plan.is_handed && !plan.is_bare);
                let wrong = plan.wrong.unwrap();
                assert!(wrong.contains(word), "{wrong}");
            }
            // What is said then is followed again, and nothing is wrong any more.
            let again = plan_of(&[&first, &answer, &first]);
            assert!(again.wrong.is_none() && again.change_from(&former) == Change::None);
        }
        let silent = Answer {
            name: None,
            shelf: None,
            supervisors: Vec::new(),
            slots: Slots::new(),
            identity: None,
            ..first.clone()
        };
        let plan = plan_of(&[&first, &silent]);
        assert_eq!((plan.change_from(&former), plan.wrong), (Change::None, None));
        // Also before the node has begun.
        let pending = Answer { state: State::Pending, ..accepted() };
        assert!(said(&[&first, &pending]).is_accepted() && !said(&[&pending]).is_accepted());
    }

    #[test]
    fn without_its_configuration_it_is_the_same_node() {
        let answer = Answer {
            configuration: Some("interfaces = ['eth1']\nbefore-start = ['false']\n".into()),
            ..accepted()
        };
        let plan = plan_of(&[&answer]);
        let config = parsed(&plan.without_configuration());
        assert_eq!((config.name.as_deref(), config.shelf), (Some("node-7"), Some(7)));
        assert!(config.before_start.is_empty() && config.export_blank == Some(false));
        assert!(!plan.is_bare && plan.without_configuration().is_bare);
    }

    #[test]
    fn a_node_is_disturbed_no_more_than_it_must_be() {
        let plan = |change: &dyn Fn(&mut Answer)| {
            let mut answer = accepted();
            change(&mut answer);
            plan_of(&[&answer])
        };
        let same = plan(&|_| ());
        let after = |change: &dyn Fn(&mut Answer)| plan(change).change_from(&same);
        assert_eq!(after(&|_| ()), Change::None);
        assert_eq!(after(&|answer| answer.supervisors.clear()), Change::Reload);
        assert_eq!(
            after(&|answer| answer.configuration = Some("io = 'direct'".into())),
            Change::Reload
        );
        assert_eq!(after(&|answer| answer.shelf = Some(8)), Change::Restart);
        assert_eq!(after(&|answer| answer.identity = Some(shown(&key(3)))), Change::Restart);
        assert_eq!(after(&|answer| answer.identity = Some(shown(&key(1)))), Change::None);
        assert_eq!(after(&|answer| answer.state = State::Pending), Change::Restart);
    }

    #[test]
    fn a_machine_is_the_same_at_each_boot() {
        assert_eq!(machine().node_id(), machine().node_id());
        let other = Machine { mac: MacAddr([2, 0, 0, 0, 0, 8]), ..machine() };
        assert_ne!(machine().node_id(), other.node_id());
        let uuid = Some(Uuid::from_u128(5));
        assert_eq!(Some(Machine { uuid, ..machine() }.node_id()), uuid);
    }
}
