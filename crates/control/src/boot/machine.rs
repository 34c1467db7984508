//! What the boot server knows of a machine: a file that people can read and write.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use aoe_wire::{MacAddr, ShelfSlot};
use block::VolumeName;
use boot::node::{Identity, Kept, Slots, are_sound};
use seal::{KeyPair, PublicKey, SecretKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{ConfigError, line_and_column, parse_toml};
use crate::node::NodeConfig;

/// The form of the files.
const VERSION: u32 = 1;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// Of the file's form.
    pub version: u32,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of its SMBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Of its interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<MacAddr>,
    /// Of its disks, when it is a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelf: Option<u16>,
    /// Public keys of the supervisors that it obeys as a node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supervisors: Vec<PublicKey>,
    /// The text of its `node.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Which slots disks of it have, whatever it says of them: what was given once, before it said so here.
    #[serde(default, skip_serializing_if = "Slots::is_empty")]
    pub slots: Slots,
    /// What it boots; what all do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Assignment>,
    /// Its key as a node; none before it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<KeptIdentity>,
}

/// What all machines boot that have no assignment of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultFile {
    version: u32,
    /// That.
    pub boot: Assignment,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AssignmentTable", into = "AssignmentTable")]
pub enum Assignment {
    /// It is a node: its disks are exported.
    Node {
        /// The name of the image.
        image: String,
        /// What its kernel is told beside what it needs.
        append: Vec<String>,
    },
    /// A volume, as its disk.
    Volume {
        /// Which.
        volume: VolumeName,
        /// Where it is exported.
        address: ShelfSlot,
    },
    /// A kernel of the images' directory.
    Kernel {
        /// Its file there.
        kernel: String,
        /// Files of file systems in memory.
        initrd: Vec<String>,
        /// What it is told.
        append: Vec<String>,
    },
    /// Its own disk.
    Local,
    /// Nothing, whatever others boot.
    Nothing,
}

/// The same as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AssignmentTable {
    is: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<ShelfSlot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    initrd: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    append: Vec<String>,
}

/// A node's key, as it is written.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KeptIdentity {
    /// By which others know it.
    public: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tpm_public: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tpm_private: Option<String>,
}

/// Secrets don't go to logs.
impl fmt::Debug for KeptIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptIdentity({})", self.public)
    }
}

impl KeptIdentity {
    /// Of a key that a node showed.
    pub fn of(public: PublicKey, kept: &Kept) -> KeptIdentity {
        let none = KeptIdentity { public, secret: None, tpm_public: None, tpm_private: None };
        match kept.clone() {
            Kept::Plain { secret } => KeptIdentity { secret: Some(secret), ..none },
            Kept::Tpm { public, private } => {
                KeptIdentity { tpm_public: Some(public), tpm_private: Some(private), ..none }
            }
        }
    }

    /// Of a key that a node shows: without a TPM it has to have the secret one of it, so that nobody has another's kept
    /// in his name.
    pub fn shown(identity: &Identity) -> Result<KeptIdentity, NoIdentity> {
        let public = identity.public.parse().map_err(|_| NoIdentity::NoKey)?;
        if let Kept::Plain { secret } = &identity.kept {
            let pair = SecretKey::parse(secret).and_then(KeyPair::of);
            if pair.map_err(|_| NoIdentity::NoKey)?.public() != public {
                return Err(NoIdentity::NotItsOwn);
            }
        }
        Ok(KeptIdentity::of(public, &identity.kept))
    }

    /// By which others know it.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Whether it is sealed to a TPM.
    pub fn is_sealed(&self) -> bool {
        self.tpm_private.is_some()
    }

    /// As the node is told. None where parts of it are missing, which isn't read.
    pub fn told(&self) -> Option<Identity> {
        let kept = match (&self.secret, &self.tpm_public, &self.tpm_private) {
            (Some(secret), None, None) => Kept::Plain { secret: secret.clone() },
            (None, Some(public), Some(private)) => {
                Kept::Tpm { public: public.clone(), private: private.clone() }
            }
            _ => return None,
        };
        Some(Identity { public: self.public.to_string(), kept })
    }
}

/// Why what a node shows is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// Not even that.
    #[error("what it shows is no key")]
    NoKey,
    /// The public one is somebody else's.
    #[error("the public key that it shows isn't that of its secret one")]
    NotItsOwn,
}

/// How people name a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineId {
    /// By its SMBIOS' UUID.
    Uuid(Uuid),
    /// By the address of an interface.
    Mac(MacAddr),
    /// As it is called.
    Name(String),
}

impl FromStr for MachineId {
    type Err = block::InvalidName;

    fn from_str(text: &str) -> Result<MachineId, block::InvalidName> {
        if let Ok(uuid) = text.parse() {
            return Ok(MachineId::Uuid(uuid));
        }
        if let Ok(mac) = text.parse() {
            return Ok(MachineId::Mac(mac));
        }
        block::check_name(text).map(|()| MachineId::Name(text.to_owned()))
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MachineId::Uuid(uuid) => uuid.fmt(f),
            MachineId::Mac(mac) => mac.fmt(f),
            MachineId::Name(name) => name.fmt(f),
        }
    }
}

/// Why a file isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {error}", .file.display())]
pub struct MachineError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub error: ConfigError,
}

impl Machine {
    /// One of which nothing is known.
    pub fn new(uuid: Option<Uuid>, macs: Vec<MacAddr>) -> Machine {
        Machine {
            version: VERSION,
            name: None,
            uuid,
            macs,
            shelf: None,
            supervisors: Vec::new(),
            configuration: None,
            slots: Slots::new(),
            boot: None,
            identity: None,
        }
    }

    /// Parses and checks the text of its file.
    pub fn parse(text: &str) -> Result<Machine, ConfigError> {
        let machine: Machine = parse_toml(text)?;
        machine.check().map_err(|(needle, reason)| wrong(text, needle, reason))?;
        Ok(machine)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        check_version(self.version)?;
        if let Some(name) = &self.name {
            block::check_name(name).map_err(|error| ("name", error.to_string()))?;
            if MachineId::from_str(name) != Ok(MachineId::Name(name.clone())) {
                return Err(("name", format!("'{name}' looks like an address or a UUID")));
            }
        }
        if self.uuid.is_none() && self.macs.is_empty() {
            return Err(("version", "neither uuid nor macs says which machine it is".into()));
        }
        if self.uuid.is_some_and(|uuid| uuid.is_nil() || uuid.is_max()) {
            return Err(("uuid", "that is the UUID of boards whose maker set none".into()));
        }
        if self.shelf == Some(ShelfSlot::ANY_SHELF) {
            return Err(("shelf", "shelf 65535 means all shelves".into()));
        }
        if !are_sound(&self.slots) {
            let why = "slots are 0 to 254, one for each disk, and disks are named in a line";
            return Err(("[slots]", why.into()));
        }
        if self.identity.as_ref().is_some_and(|identity| identity.told().is_none()) {
            let why = "an identity has a secret, or tpm-public and tpm-private";
            return Err(("[identity]", why.into()));
        }
        let configured = |text| NodeConfig::parse(text, "configuration".as_ref());
        match self.configuration.as_deref().map(configured) {
            Some(Err(error)) => Err(("configuration", error.to_string())),
            _ => Ok(()),
        }
    }

    /// As it is written.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }

    /// What its file is called.
    pub fn file_name(&self) -> String {
        match (self.uuid, self.macs.first()) {
            (Some(uuid), _) => format!("{uuid}.toml"),
            (None, Some(mac)) => format!("{}.toml", mac.to_string().replace(':', "-")),
            // It isn't read again: who has neither isn't made.
            (None, None) => "nobody.toml".to_owned(),
        }
    }

    /// Whether it is what somebody means.
    pub fn is(&self, id: &MachineId) -> bool {
        match id {
            MachineId::Uuid(uuid) => self.uuid == Some(*uuid),
            MachineId::Mac(mac) => self.macs.contains(mac),
            MachineId::Name(name) => self.name.as_ref() == Some(name),
        }
    }

    /// Whether it stands for one that is known by addresses alone: its UUID became known, and it has taken that one's place.
    pub fn covers(&self, other: &Machine) -> bool {
        let has = |mac: &MacAddr| self.macs.contains(mac);
        self.uuid.is_some() && other.uuid.is_none() && other.macs.iter().all(has)
    }

    /// What people call it, or else what it is.
    pub fn called(&self) -> String {
        let id = self.uuid.map(|uuid| uuid.to_string());
        let id = id.or_else(|| self.macs.first().map(|mac| mac.to_string()));
        self.name.clone().or(id).unwrap_or_default()
    }
}

/// Without those that another one covers: whoever put that in their place was stopped before their files were gone.
pub fn without_covered(machines: Vec<Machine>) -> Vec<Machine> {
    let mut of: BTreeMap<MacAddr, Uuid> = BTreeMap::new();
    for machine in &machines {
        of.extend(
            machine.uuid.iter().flat_map(|uuid| machine.macs.iter().map(|mac| (*mac, *uuid))),
        );
    }
    let is_covered = |machine: &Machine| {
        let mut stands = machine.macs.iter().map(|mac| of.get(mac));
        let first = stands.next().flatten();
        machine.uuid.is_none() && first.is_some() && stands.all(|one| one == first)
    };
    machines.into_iter().filter(|machine| !is_covered(machine)).collect()
}

impl DefaultFile {
    /// That all boot this.
    pub fn new(boot: Assignment) -> DefaultFile {
        DefaultFile { version: VERSION, boot }
    }

    /// Parses and checks the text of the file.
    pub fn parse(text: &str) -> Result<DefaultFile, ConfigError> {
        let file: DefaultFile = parse_toml(text)?;
        check_version(file.version).map_err(|(needle, reason)| wrong(text, needle, reason))?;
        Ok(file)
    }

    /// As it is written.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

fn check_version(version: u32) -> Result<(), (&'static str, String)> {
    match version == VERSION {
        true => Ok(()),
        false => Err(("version", format!("version {version} isn't known to this etherpool"))),
    }
}

/// The place of a value that is wrong by itself is where it is written.
fn wrong(text: &str, needle: &str, reason: String) -> ConfigError {
    let (line, column) = line_and_column(text, text.find(needle).unwrap_or(0));
    ConfigError { line, column, reason }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Assignment::Node { image, .. } if image == Assignment::IMAGE => f.write_str("node"),
            Assignment::Node { image, .. } => write!(f, "node (image {image})"),
            Assignment::Volume { volume, address } => write!(f, "volume {volume} at {address}"),
            Assignment::Kernel { kernel, .. } => write!(f, "kernel {kernel}"),
            Assignment::Local => f.write_str("local"),
            Assignment::Nothing => f.write_str("none"),
        }
    }
}

impl Assignment {
    /// The image of nodes, by default.
    pub const IMAGE: &str = "node";

    /// As it would be read from a file.
    pub fn checked(self) -> Result<Assignment, String> {
        AssignmentTable::from(self).try_into()
    }
}

impl TryFrom<AssignmentTable> for Assignment {
    type Error = String;

    fn try_from(table: AssignmentTable) -> Result<Assignment, String> {
        let AssignmentTable { is, image, volume, address, kernel, initrd, append } = table;
        let set = [
            ("image", image.is_some()),
            ("volume", volume.is_some()),
            ("address", address.is_some()),
            ("kernel", kernel.is_some()),
            ("initrd", !initrd.is_empty()),
            ("append", !append.is_empty()),
        ];
        let only = |allowed: &[&str]| match set
            .iter()
            .find(|(name, is_set)| *is_set && !allowed.contains(name))
        {
            Some((name, _)) => Err(format!("`{name}` means nothing where is = \"{is}\"")),
            None => Ok(()),
        };
        let needs = |name: &str| format!("is = \"{is}\" takes `{name}`");
        for word in &append {
            boot::script::Word::new(word).map_err(|error| error.to_string())?;
        }
        for file in kernel.iter().chain(&initrd) {
            boot::tftp::Name::parse(file.as_bytes()).map_err(|error| error.to_string())?;
            boot::script::Word::new(file).map_err(|error| error.to_string())?;
        }
        match is.as_str() {
            "node" => {
                only(&["image", "append"])?;
                let image = image.unwrap_or_else(|| Assignment::IMAGE.to_owned());
                block::check_name(&image).map_err(|error| error.to_string())?;
                Ok(Assignment::Node { image, append })
            }
            "volume" => {
                only(&["volume", "address"])?;
                let volume = volume.ok_or_else(|| needs("volume"))?;
                let volume = volume.parse().map_err(|error| format!("{error}"))?;
                Ok(Assignment::Volume { volume, address: address.ok_or_else(|| needs("address"))? })
            }
            "kernel" => {
                only(&["kernel", "initrd", "append"])?;
                let kernel = kernel.ok_or_else(|| needs("kernel"))?;
                Ok(Assignment::Kernel { kernel, initrd, append })
            }
            "local" => only(&[]).map(|()| Assignment::Local),
            "none" => only(&[]).map(|()| Assignment::Nothing),
            _ => Err(format!("'{is}' is none of node, volume, kernel, local and none")),
        }
    }
}

impl From<Assignment> for AssignmentTable {
    fn from(assignment: Assignment) -> AssignmentTable {
        let table = |is: &str| AssignmentTable { is: is.to_owned(), ..AssignmentTable::default() };
        match assignment {
            Assignment::Node { image, append } => {
                AssignmentTable { image: Some(image), append, ..table("node") }
            }
            Assignment::Volume { volume, address } => AssignmentTable {
                volume: Some(volume.to_string()),
                address: Some(address),
                ..table("volume")
            },
            Assignment::Kernel { kernel, initrd, append } => {
                AssignmentTable { kernel: Some(kernel), initrd, append, ..table("kernel") }
            }
            Assignment::Local => table("local"),
            Assignment::Nothing => table("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
    const MAC: &str = "version = 1\nmacs = ['02:00:00:00:00:07']\n";

    fn assignments() -> Vec<Assignment> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        vec![
            Assignment::Node { image: "node".into(), append: words("quiet") },
            Assignment::Volume {
                volume: "tank/v".parse().unwrap(),
                address: "e7.3".parse().unwrap(),
            },
            Assignment::Kernel {
                kernel: "d/vmlinuz".into(),
                initrd: words("d/a d/b"),
                append: words("root=/dev/ram0 quiet"),
            },
            Assignment::Local,
            Assignment::Nothing,
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        for boot in assignments() {
            let kept = Kept::Tpm { public: "AA==".into(), private: "BB==".into() };
            let machine = Machine {
                name: Some("node-7".into()),
                shelf: Some(7),
                supervisors: vec![KEY.parse().unwrap()],
                configuration: Some("# mine\nshelf = 7\n".into()),
                slots: Slots::from([("wwn-0x5000".into(), 0), ("a b".into(), 254)]),
                boot: Some(boot.clone()),
                identity: Some(KeptIdentity::of(KEY.parse().unwrap(), &kept)),
                ..Machine::new(Some(Uuid::from_u128(7)), vec![MacAddr([2, 0, 0, 0, 0, 7])])
            };
            let text = machine.to_text().unwrap();
            assert_eq!(Machine::parse(&text).unwrap(), machine, "{text}");
            assert!(!format!("{machine:?}").contains("BB=="));
            let file = DefaultFile::new(boot);
            assert_eq!(DefaultFile::parse(&file.to_text().unwrap()).unwrap(), file);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, reason) in [
            ("macs = ['02:00:00:00:00:07']\n".to_owned(), 1, "missing field `version`"),
            ("version = 2\nmacs = ['02:00:00:00:00:07']\n".into(), 1, "version 2 isn't known"),
            ("version = 1\n".into(), 1, "neither uuid nor macs"),
            (format!("{MAC}nmae = 'x'\n"), 3, "unknown field `nmae`"),
            (format!("{MAC}name = 'a/b'\n"), 3, "is not a name"),
            (format!("{MAC}name = '{}'\n", Uuid::from_u128(7)), 3, "looks like"),
            (format!("{MAC}shelf = 65535\n"), 3, "all shelves"),
            (format!("{MAC}configuration = 'x = 1'\n"), 3, "line 1"),
            (format!("{MAC}[slots]\na = 255\n"), 3, "0 to 254"),
            (format!("{MAC}[slots]\na = 1\nb = 1\n"), 3, "one for each disk"),
            (format!("{MAC}[boot]\nis = 'nodes'\n"), 3, "none of node, volume"),
            (format!("{MAC}[boot]\nis = 'local'\nimage = 'x'\n"), 3, "means nothing"),
            (format!("{MAC}[boot]\nis = 'volume'\nvolume = 'a/b'\n"), 3, "takes `address`"),
            (format!("{MAC}[boot]\nis = 'kernel'\nkernel = '../x'\n"), 3, "'..'"),
            (format!("{MAC}[boot]\nis = 'node'\nappend = ['a;b']\n"), 3, "something else"),
            (format!("{MAC}\n[identity]\npublic = '{KEY}'\n"), 4, "has a secret"),
        ] {
            let error = Machine::parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_is_shown_by_who_has_its_secret_half() {
        let pair = |byte| KeyPair::of(SecretKey::new([byte; 32])).unwrap();
        let shows = |public: &KeyPair, secret: &str| {
            let kept = Kept::Plain { secret: secret.to_owned() };
            KeptIdentity::shown(&Identity { public: public.public().to_string(), kept })
        };
        let (own, other) = (pair(7), pair(8));
        let secret = own.secret().to_text();
        assert_eq!(shows(&own, &secret).unwrap().public(), own.public());
        assert_eq!(shows(&other, &secret), Err(NoIdentity::NotItsOwn));
        assert_eq!(shows(&own, "s"), Err(NoIdentity::NoKey));
    }

    #[test]
    fn one_by_addresses_alone_yields_to_the_one_that_took_its_place() {
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let whole = Machine::new(Some(Uuid::from_u128(7)), vec![mac(7), mac(8)]);
        let former = Machine::new(None, vec![mac(7)]);
        let other = Machine::new(None, vec![mac(8), mac(9)]);
        assert!(whole.covers(&former) && !whole.covers(&other) && !former.covers(&whole));
        let left = without_covered(vec![former, whole.clone(), other.clone()]);
        assert_eq!(left, [whole, other]);
    }

    #[test]
    fn machines_are_named_in_three_ways() {
        let machine = Machine {
            name: Some("node-7".into()),
            ..Machine::new(Some(Uuid::from_u128(7)), vec![MacAddr([2, 0, 0, 0, 0, 7])])
        };
        for text in ["node-7", "00000000-0000-0000-0000-000000000007", "02:00:00:00:00:07"] {
            let id: MachineId = text.parse().unwrap();
            assert!(machine.is(&id) && id.to_string() == text, "{text}");
        }
        assert!("a b".parse::<MachineId>().is_err());
        assert_eq!(machine.file_name(), "00000000-0000-0000-0000-000000000007.toml");
        let unnamed = Machine::new(None, machine.macs);
        assert_eq!(
            (unnamed.file_name(), unnamed.called()),
            ("02-00-00-00-00-07.toml".into(), "02:00:00:00:00:07".into())
        );
    }
}
