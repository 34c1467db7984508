//! What a node is to do, by what the boot server said last: the text of its node.toml, and its key. Pure.
//!
//! **As long as nobody has accepted it, it exports no disk but those that carry etherpool's label**; so a mistaken boot of
//! any machine destroys nothing on it.

use std::path::Path;

use anyhow::{Context, bail};
use aoe_wire::MacAddr;
use boot::node::{Answer, Kept, State};
use control::node::NodeConfig;
use seal::{KeyPair, SecretKey};
use toml::{Table, Value};
use uuid::Uuid;

use super::identity;

/// Where the node keeps what it must not lose while it runs.
pub const STATE_DIR: &str = "/var/lib/etherpool";
/// Where its sockets are.
pub const RUN_DIR: &str = "/run/etherpool";
/// What the kernel calls Ethernet's interfaces where nobody names them otherwise.
const INTERFACES: [&str; 1] = ["eth*"];
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
}

/// What the node process is to do.
#[derive(Clone)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// Its configuration.
    pub configuration: Table,
    /// By which it proves who it is.
    pub key: KeyPair,
    /// Whether the key was handed to it.
    pub is_handed: bool,
    /// Whether it belongs to somebody.
    pub is_accepted: bool,
    /// What of the answer can't be done.
    pub wrong: Option<String>,
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

impl Plan {
    /// By the last answer; none as long as nobody has answered.
    pub fn of(machine: &Machine, answer: Option<&Answer>) -> Plan {
        match answer.filter(|answer| answer.state == State::Accepted) {
            None => Plan::unaccepted(machine),
            Some(answer) => Plan::accepted(machine, answer).unwrap_or_else(|error| {
                let wrong = Some(format!("{error:#}"));
                Plan { wrong, ..Plan::unaccepted(machine) }
            }),
        }
    }

    fn unaccepted(machine: &Machine) -> Plan {
        let mut configuration = Table::new();
        configuration.insert("automatic".into(), Value::Boolean(true));
        configuration.insert("export-blank".into(), Value::Boolean(false));
        let name = machine.own_name();
        complete(&mut configuration, machine, &name);
        Plan {
            name,
            configuration,
            key: machine.key.clone(),
            is_handed: false,
            is_accepted: false,
            wrong: None,
        }
    }

    fn accepted(machine: &Machine, answer: &Answer) -> anyhow::Result<Plan> {
        let key = match &answer.identity {
            None => None,
            Some(handed) => {
                let key = identity::open(&handed.kept)?;
                if key.public().to_string() != handed.public {
                    bail!("the key that was handed to this node is another than it is said to be");
                }
                Some(key)
            }
        };
        let text = answer.configuration.as_deref().unwrap_or_default();
        let place = Path::new("its configuration at the boot server");
        NodeConfig::parse(text, place)?;
        let mut configuration: Table = text.parse().context("its configuration")?;
        let name = answer.name.clone().unwrap_or_else(|| machine.own_name());
        complete(&mut configuration, machine, &name);
        if let Some(shelf) = answer.shelf {
            configuration.insert("shelf".into(), Value::Integer(shelf.into()));
        }
        let named = configuration.get("supervisors").and_then(Value::as_array).cloned();
        let mut supervisors = named.unwrap_or_default();
        for key in &answer.supervisors {
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
        NodeConfig::parse(&whole, place)?;
        Ok(Plan {
            name,
            configuration,
            is_handed: key.is_some(),
            key: key.unwrap_or_else(|| machine.key.clone()),
            is_accepted: true,
            wrong: None,
        })
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
        ("interfaces", Value::Array(INTERFACES.map(text).to_vec())),
    ];
    for (key, value) in own {
        configuration.entry(key).or_insert(value);
    }
}

/// What is kept of a key at the boot server, while this node is off.
pub fn shown(key: &KeyPair) -> boot::node::Identity {
    let kept = Kept::Plain { secret: key.secret().to_text().to_string() };
    boot::node::Identity { public: key.public().to_string(), kept }
}

/// A key of a text.
pub fn key_of(secret: &str) -> anyhow::Result<KeyPair> {
    let secret = SecretKey::parse(secret).context("the key that was handed to this node")?;
    KeyPair::of(secret).context("the key that was handed to this node")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        Machine { uuid: None, mac, macs: vec![mac], key: key(1) }
    }

    fn key(number: u8) -> KeyPair {
        KeyPair::of(SecretKey::new([number; 32])).unwrap()
    }

    fn accepted() -> Answer {
        Answer {
            version: boot::node::VERSION,
            state: State::Accepted,
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: None,
            supervisors: vec![key(9).public().to_string()],
            identity: None,
        }
    }

    fn parsed(plan: &Plan) -> NodeConfig {
        NodeConfig::parse(&plan.text().unwrap(), Path::new("node.toml")).unwrap()
    }

    #[test]
    fn nobody_has_accepted_it_so_it_exports_only_what_is_labelled() {
        let mut pending = Answer { state: State::Pending, ..accepted() };
        pending.configuration = Some("[[export]]\naddress = 'e1.0'\npath = '/dev/sda'".into());
        let unknown = Answer { state: State::Unknown, ..pending.clone() };
        for answer in [None, Some(&pending), Some(&unknown)] {
            let config = parsed(&Plan::of(&machine(), answer));
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
        let plan = Plan::of(&machine(), Some(&answer));
        let config = parsed(&plan);
        assert_eq!((config.name.as_deref(), config.shelf), (Some("node-7"), Some(7)));
        assert_eq!(config.supervisors, Some(vec![own, key(9).public()]));
        assert_eq!(config.defaults.interfaces, Some(vec!["eth1".into()]));
        assert_eq!(config.state_dir.as_deref(), Some(Path::new(STATE_DIR)));
        assert_eq!(config.node_id, Some(Uuid::from_u128(3)));
        assert_eq!(plan.key.public(), key(5).public());
        assert!(plan.is_handed && plan.is_accepted && config.export_blank.is_none());
        let without = Plan::of(&machine(), Some(&accepted()));
        assert_eq!(without.key.public(), key(1).public());
        assert!(!without.is_handed);
    }

    #[test]
    fn what_cannot_be_done_leaves_a_node_as_if_nobody_had_accepted_it() {
        let mut lying = shown(&key(5));
        lying.public = key(6).public().to_string();
        let none = boot::node::Identity {
            public: lying.public.clone(),
            kept: Kept::Plain { secret: "x".into() },
        };
        for (answer, word) in [
            (Answer { identity: Some(lying), ..accepted() }, "another than it is said to be"),
            (Answer { identity: Some(none), ..accepted() }, "handed to this node"),
            (Answer { configuration: Some("shelf = ".into()), ..accepted() }, "line 1"),
            (Answer { configuration: Some("bufers = 1".into()), ..accepted() }, "bufers"),
            (Answer { supervisors: vec!["x".into()], ..accepted() }, "line"),
        ] {
            let plan = Plan::of(&machine(), Some(&answer));
            let wrong = plan.wrong.clone().unwrap();
            assert!(wrong.contains(word), "{wrong}");
            assert_eq!(parsed(&plan).export_blank, Some(false));
            assert!(!plan.is_accepted);
        }
    }

    #[test]
    fn a_node_is_disturbed_no_more_than_it_must_be() {
        let plan = |change: &dyn Fn(&mut Answer)| {
            let mut answer = accepted();
            change(&mut answer);
            Plan::of(&machine(), Some(&answer))
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
