//! `node.toml` and `target.toml`: one form for the node agent and for `etherpool target`.
//!
//! Naming a disk here is the override for *exporting* a disk that isn't blank; it never is one for
//! labelling it.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aoe_wire::ShelfSlot;
use schemars::JsonSchema;
use seal::{Claim, PoolKey, PublicKey, Security};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::drive::DriveConfig;
use super::plan::{ExportPlan, PlanError, plan};
use super::settings::{ExportSettings, Groups, Sectors};

/// What `--config FILE` holds. Every field has a default; for a node an empty file means: all unused
/// whole disks that are blank or carry an etherpool label. Which interfaces they are exported on must be
/// named, here or on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NodeConfig {
    /// What people call this machine; its host name by default.
    pub name: Option<String>,
    /// The machine's identity in failure domains; from `/etc/machine-id` by default. Cloned machines need one each, or two copies
    /// may land on "different" nodes that are one.
    pub node_id: Option<uuid::Uuid>,
    /// The shelf of disks that it finds; by default the last number of the IPv4 address if nobody else is there, or another number,
    /// chosen once and stored.
    pub shelf: Option<u16>,
    /// The directory of what must survive a restart; `/var/lib/etherpool` by default.
    pub state_dir: Option<PathBuf>,
    /// The directory of sockets for programs of this machine, and of links to what is exported; by default `/run/etherpool` for a node,
    /// `/run/etherpool/target` for a target, or one of its
    /// first address where it has no file.
    pub run_dir: Option<PathBuf>,
    /// Whether engines of this machine reach the exports by a socket; by default for a node only.
    pub frame_socket: Option<bool>,
    /// Whether to look for disks by itself; by default only for a node without any `[[export]]`.
    pub automatic: Option<bool>,
    /// Whether blank disks that it finds are exported, as those are that carry etherpool's label. They are by default. One that
    /// is exported stays so until the next start: somebody may have begun to use it.
    pub export_blank: Option<bool>,
    /// Kernel names of the disks to look at, with `*`: `["sd*", "nvme*"]`. All whole disks by
    /// default; loop devices only where they are named here.
    pub scan: Vec<String>,
    /// Shell commands to run before the first export, in order; where one fails the start does. By Debian's unit they may assemble
    /// arrays, and mount for this process alone.
    pub before_start: Vec<String>,
    /// Shell commands to run after the last export is gone.
    pub after_stop: Vec<String>,
    /// Where Prometheus may ask for metrics, in clear and without a password: `"127.0.0.1:9100"`; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// The program that says how drives are: `smartctl` by default; the empty text for none.
    pub smartctl: Option<PathBuf>,
    /// What sessions over the wire have at least; for a node `"encrypt"` by default, for a target `"none"`.
    pub security: Option<Security>,
    /// The keys of those who may open sessions over the wire, beside those who joined; all who have one without a list.
    pub supervisors: Option<Vec<PublicKey>>,
    /// Who may have disks that no pool has under its key: `"token"`, who joined; `"anyone"`; `"key:KEY"`, who has that key
    /// (`etherpool key show` there), or a list of such. Who joined by default, or everybody where `security` is `"none"`.
    pub claim: Option<Claim>,
    /// A file with a token to join by, of `etherpool token create`, read at every start and reload: for a node that is set up by
    /// programs, or keeps nothing.
    pub token_file: Option<PathBuf>,
    /// Pools whose keys are lost, by their public halves (`obeys` in the log where it exports a disk): a disk that obeys one obeys nobody from when it is exported on, as by
    /// `etherpool disk reset-owner`.
    pub reset_owner: Vec<PoolKey>,
    /// Settings of this machine's drives, whether or not they are exported.
    pub drive: Vec<DriveConfig>,
    /// Named lists of MAC addresses, for all lists of clients; a list may name other groups.
    pub groups: Groups,
    /// What holds for every export that doesn't say otherwise; at the top level of the file.
    #[serde(skip)]
    pub defaults: ExportSettings,
    /// Disks, partitions, arrays or files to export.
    #[serde(skip)]
    pub export: Vec<ExportConfig>,
}

/// The keys of [`NodeConfig`] itself; all others at the top level are defaults for exports.
const OWN_KEYS: &[&str] = &[
    "name",
    "node-id",
    "shelf",
    "state-dir",
    "run-dir",
    "frame-socket",
    "automatic",
    "export-blank",
    "scan",
    "before-start",
    "after-stop",
    "metrics",
    "smartctl",
    "security",
    "supervisors",
    "claim",
    "token-file",
    "reset-owner",
    "drive",
    "groups",
];

/// One `[[export]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExportConfig {
    /// AoE address, `e194.0`.
    pub address: String,
    /// A file, block device or `/dev/disk/by-...` link, or `UUID=`, `PARTUUID=`, `LABEL=` or `ID=` as udev knows them below `/dev/disk`.
    pub path: String,
    /// The name of a symbolic link to the path, in `exports` of the run directory, while it is exported.
    #[serde(default)]
    pub name: Option<String>,
    /// Where on the disk the export begins: bytes with a unit (`"1M"`), or sectors of 512 bytes (`"63s"`).
    #[serde(default)]
    pub offset: Sectors,
    /// How long it is, in the same form; up to the disk's end by default.
    #[serde(default)]
    pub length: Option<Sectors>,
    /// The serial number in IDENTIFY, at most 20 characters; shelf, slot and machine by default: `7.0:machine`.
    #[serde(default)]
    pub serial: Option<String>,
    /// All other settings.
    #[serde(skip)]
    pub settings: ExportSettings,
    /// Where it stands in its file, for messages.
    #[serde(skip)]
    pub line: Option<usize>,
}

/// The keys of [`ExportConfig`] itself.
const OWN_EXPORT_KEYS: &[&str] = &["address", "path", "name", "offset", "length", "serial"];

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// Not TOML, or not of this form.
    #[error("{}: line {line}: {what}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// What, with the place.
        what: String,
    },
    /// The exports don't go together.
    #[error("{}: {plan}", .file.display())]
    Plan {
        /// The file.
        file: PathBuf,
        /// What doesn't.
        plan: PlanError,
    },
}

impl NodeConfig {
    /// Reads the text of `file`; the name is for messages only.
    ///
    /// # Errors
    /// Says what is wrong and where; a configuration is taken whole or not at all.
    pub fn parse(text: &str, file: &Path) -> Result<NodeConfig, NodeConfigError> {
        let config = read(text).map_err(|wrong| NodeConfigError::Form {
            file: file.to_owned(),
            line: wrong.span.map_or(1, |span| line_of(text, &span)),
            what: wrong.what,
        })?;
        let checked = config.plans();
        checked.map_err(|plan| NodeConfigError::Plan { file: file.to_owned(), plan })?;
        Ok(config)
    }

    /// As a file that says the same, of one that only names exports, and commands to run. Its name and shelf are left out:
    /// who keeps it has another place for these.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        let mut table = toml::Table::try_from(self)?;
        table.retain(|key, value| match value {
            toml::Value::Array(array) => !array.is_empty(),
            toml::Value::Table(table) => !table.is_empty(),
            _ => !matches!(key, "name" | "shelf"),
        });
        let exports = self.export.iter().map(|export| {
            let mut own = toml::Table::try_from(export)?;
            own.extend(toml::Table::try_from(&export.settings)?);
            own.retain(|key, value| key != "offset" || *value != toml::Value::from("0s"));
            Ok(toml::Value::Table(own))
        });
        let exports = exports.collect::<Result<Vec<_>, toml::ser::Error>>()?;
        table.insert("export".to_owned(), exports.into());
        toml::to_string_pretty(&table)
    }

    /// What is demanded of sessions over the wire.
    pub fn security(&self) -> Security {
        self.security.unwrap_or(Security::Encrypt)
    }

    /// Who may have disks that obey nobody yet. Where nobody proves who he is that is everybody.
    pub fn claim(&self) -> Claim {
        match self.security() {
            Security::None => Claim::Anyone,
            _ => self.claim.clone().unwrap_or_default(),
        }
    }

    /// The exports that are named, with all their settings.
    ///
    /// # Errors
    /// When one isn't possible, or they don't go together.
    pub fn plans(&self) -> Result<Vec<ExportPlan>, PlanError> {
        plan(&self.export, &self.defaults, &self.groups)
    }
}

/// What is wrong, and where in the text.
struct Wrong {
    span: Option<Range<usize>>,
    what: String,
}

impl From<toml::de::Error> for Wrong {
    fn from(error: toml::de::Error) -> Wrong {
        Wrong { span: error.span(), what: error.message().to_owned() }
    }
}

fn read(text: &str) -> Result<NodeConfig, Wrong> {
    let whole = DeTable::parse(text)?;
    let span = whole.span();
    let mut whole = whole.into_inner();
    let exports = whole.remove("export");
    let drives: Vec<Range<usize>> = match whole.get("drive").map(Spanned::get_ref) {
        Some(DeValue::Array(drives)) => drives.iter().map(Spanned::span).collect(),
        _ => Vec::new(),
    };
    let shelf_at = whole.get("shelf").map(Spanned::span);
    let claim_at = whole.get("claim").map(Spanned::span);
    let (own, defaults) = split(whole, OWN_KEYS);
    let mut config: NodeConfig = build(own, span.clone())?;
    if config.shelf == Some(ShelfSlot::ANY_SHELF) {
        return Err(Wrong { span: shelf_at, what: "shelf 65535 means all shelves".to_owned() });
    }
    if config.claim.as_ref().is_some_and(|claim| *claim != config.claim()) {
        let what = "with security = \"none\" nobody proves who he is: claim can be \"anyone\" only";
        return Err(Wrong { span: claim_at, what: what.to_owned() });
    }
    for (drive, span) in config.drive.iter().zip(drives) {
        drive.check().map_err(|error| Wrong { span: Some(span), what: error.to_string() })?;
    }
    config.defaults = build(defaults, span)?;
    let Some(exports) = exports else { return Ok(config) };
    let span = exports.span();
    let DeValue::Array(exports) = exports.into_inner() else {
        let what = "exports are written [[export]], with two brackets".to_owned();
        return Err(Wrong { span: Some(span), what });
    };
    for export in exports {
        let span = export.span();
        let DeValue::Table(export) = export.into_inner() else {
            return Err(Wrong { span: Some(span), what: "an export is a table".to_owned() });
        };
        let (own, settings) = split(export, OWN_EXPORT_KEYS);
        // First what may be misspelt: that key is named, not the one that is missing for it.
        let settings = build(settings, span.clone())?;
        let mut export: ExportConfig = build(own, span.clone())?;
        export.settings = settings;
        export.line = Some(line_of(text, &span));
        config.export.push(export);
    }
    Ok(config)
}

/// The entries with one of these keys, and all others.
fn split<'i>(table: DeTable<'i>, keys: &[&str]) -> (DeTable<'i>, DeTable<'i>) {
    let (mut own, mut rest) = (DeTable::new(), DeTable::new());
    for (key, value) in table {
        let side = if keys.contains(&&**key.get_ref()) { &mut own } else { &mut rest };
        side.insert(key, value);
    }
    (own, rest)
}

fn build<'i, T: Deserialize<'i>>(table: DeTable<'i>, span: Range<usize>) -> Result<T, Wrong> {
    Ok(T::deserialize(Deserializer::from(Spanned::new(span, table)))?)
}

/// The line, counted from one, on which a place of a text is.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::node::settings::{IoMode, WriteCache};

    fn parse(text: &str) -> Result<NodeConfig, NodeConfigError> {
        NodeConfig::parse(text, Path::new("node.toml"))
    }

    #[test]
    fn who_may_have_disks_is_whoever_joined_unless_it_is_said() {
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let keys = Claim::Keys(vec![key.parse().unwrap()]);
        for (text, security, claim) in [
            ("", Security::Encrypt, Claim::Token),
            ("claim = 'token'", Security::Encrypt, Claim::Token),
            ("claim = 'anyone'", Security::Encrypt, Claim::Anyone),
            (&format!("claim = 'key:{key}'"), Security::Encrypt, keys.clone()),
            (&format!("claim = ['key:{key}']"), Security::Encrypt, keys),
            ("claim = []", Security::Encrypt, Claim::Keys(Vec::new())),
            ("security = 'none'", Security::None, Claim::Anyone),
            ("security = 'none'\nclaim = 'anyone'", Security::None, Claim::Anyone),
        ] {
            let config = parse(text).unwrap();
            assert_eq!((config.security(), config.claim()), (security, claim), "{text}");
        }
        for text in ["claim = 'tokens'", &format!("claim = '{key}'"), "claim = 3", "claim = ['x']"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        let error = parse("name = 'x'\nsecurity = 'none'\nclaim = 'token'").unwrap_err();
        assert!(
            error.to_string().contains("line 3") && error.to_string().contains("nobody proves")
        );
    }

    #[test]
    fn all_keys_are_known() {
        let text = "name = 'n'\nnode-id = '00000000-0000-0000-0000-000000000001'\nshelf = 3\n\
            state-dir = '/s'\nrun-dir = '/r'\nframe-socket = true\nautomatic = true\n\
            export-blank = false\nscan = ['sd*']\nbefore-start = ['a']\nafter-stop = ['b']\n\
            metrics = '127.0.0.1:9100'\nsmartctl = '/s'\nsecurity = 'encrypt'\n\
            supervisors = ['hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=']\ninterfaces = ['eth*']\nio = 'buffered'\n\
            claim = ['key:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=']\ntoken-file = '/t'\n\
            reset-owner = ['hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=']\n\
            [[drive]]\nmatch = 'x'\nread-ahead = true\n\
            [groups]\nweb = ['02:00:00:00:00:01']\n\
            [access]\nread.accept = ['web']\n\
            [[export]]\naddress = 'e1.0'\npath = '/x'\nname = 'x'\noffset = '63s'\n\
            length = '1M'\nserial = 'abc'\nwrite-cache = 'on'\naccess.write.deny = ['web']\n";
        let config = parse(text).unwrap();
        let own = toml::Table::try_from(&config).unwrap();
        assert_eq!(own.keys().collect::<Vec<_>>().len(), OWN_KEYS.len(), "{own:?}");
        assert!(OWN_KEYS.iter().all(|key| own.contains_key(*key)), "{own:?}");
        let own = toml::Table::try_from(&config.export[0]).unwrap();
        assert!(own.len() == OWN_EXPORT_KEYS.len(), "{own:?}");
        assert!(OWN_EXPORT_KEYS.iter().all(|key| own.contains_key(*key)), "{own:?}");
        assert_eq!(config.defaults.io, Some(IoMode::Buffered));
        assert_eq!(config.export[0].settings.write_cache, Some(WriteCache::On));
        assert_eq!(config.export[0].line, Some(28));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, word) in [
            ("shelf = 3\n\n[[export]]\naddress = 'e1.0'\npaht = 'x'\n", 5, "paht"),
            ("shelf = 3\nbufers = 4\n", 2, "bufers"),
            ("\n[[export]]\npath = 'x'\n", 2, "address"),
            ("shelf = 3\nserial = 'x'\n", 2, "serial"),
            ("\nshelf = 65535\n", 2, "all shelves"),
            ("shelf = 3\n\nexport = 5\n", 3, "[[export]]"),
            ("[[export]]\naddress = 'e1.0'\npath = 'x'\nwrite-cache = 'maybe'\n", 4, "maybe"),
            ("[[export]]\naddress = 'e1.0'\npath = 'x'\noffset = '100'\n", 4, "sectors"),
            ("shelf = 3\n[[export]\n", 2, "]"),
            ("shelf = 3\n[[drive]]\nmatch = 'x'\n", 2, "no settings"),
            ("[[export]]\naddress = 'e1'\npath = 'x'\n", 1, "'e1'"),
            (
                "[[export]]\naddress='e1.0'\npath='a'\n\n[[export]]\naddress='e1.0'\npath='b'\n",
                5,
                "twice",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("node.toml: line {line}:")), "{text}: {error}");
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
