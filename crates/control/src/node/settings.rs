//! What can be set per export, each with a default for all exports of a target. The same settings
//! come from a configuration file and from the options of `etherpool target`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use aoe_target::{Access, AccessOperation, OnRefusal, Probe};
use block::size::{SizeError, parse_bytes};
use block::{serde_as_text, words};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Settings of an export; what isn't set is taken from the target's, and else has the default that
/// [`super::ExportPlan`] gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ExportSettings {
    /// Interfaces to answer on: names, or patterns with `*`. They may come and go; one that isn't there yet is waited for. For a
    /// node they have to be named, a target answers on all Ethernet interfaces by default.
    pub interfaces: Option<Vec<String>>,
    /// Refuse writes.
    #[schemars(extend("default" = false))]
    pub read_only: Option<bool>,
    /// How to reach the medium.
    #[schemars(extend("default" = "direct"))]
    pub io: Option<IoMode>,
    /// When writes of plain AoE clients are answered. `"off"`: when they are on stable storage. `"on"`: at once; IDENTIFY says so,
    /// and FLUSH CACHE (EXT) makes them stable. `"switchable"`: as `"off"`, until a client says otherwise by SET FEATURES.
    #[schemars(extend("default" = "off"))]
    pub write_cache: Option<WriteCache>,
    /// Commands that wait or run before more are dropped; no fewer than `buffers`. 2048 by default, or `buffers` if that is more.
    pub queue_length: Option<u32>,
    /// Messages that clients are told they may have outstanding; 4 at least, because Linux doesn't come up with less.
    #[schemars(extend("default" = 64))]
    pub buffers: Option<u16>,
    /// Most sectors per command to tell clients; 16 by default, less where the MTU is small.
    pub sectors: Option<u8>,
    /// Largest frame to use, whatever the interface could do; the interface's MTU by default.
    pub mtu: Option<u32>,
    /// Log every request.
    #[schemars(extend("default" = false))]
    pub trace_io: Option<bool>,
    /// The configuration string until a client sets another. What a client set is remembered; a string that is configured anew
    /// goes before it. Empty by default.
    pub config_string: Option<String>,
    /// Announce the export at its start and when its size changes.
    #[schemars(extend("default" = true))]
    pub announce: Option<bool>,
    /// How to answer requests that are refused for who asks.
    #[schemars(extend("default" = "ata-error"))]
    pub on_refusal: Option<OnRefusal>,
    /// What to do about others that answer for the address; `"defend"` by default for disks that were found.
    #[schemars(extend("default" = "report"))]
    pub probe: Option<Probe>,
    /// What becomes of clients that no accept list covers.
    #[schemars(extend("default" = "accept"))]
    pub default_access: Option<Access>,
    /// Who may do what, by operation: `discover`, `config-read`, `config-set`, `read`, `write`. `access.read.accept = ["web"]`
    /// names those who may, `access.read.deny` those who may not, even if accepted: MAC addresses, and names of `[groups]`.
    pub access: Option<AccessLists>,
    /// Who may change mask list and reservation by the protocol: `"all"`, `"nobody"`, or a list of MAC addresses and groups.
    /// By the protocol anyone can lock out everyone.
    #[schemars(extend("default" = "all"))]
    pub list_editors: Option<Editors>,
    /// Bounds on what all clients together get. Commands wait; none is dropped for it.
    pub limit: Option<Limit>,
    /// Bounds on what each client gets.
    pub client_limit: Option<Limit>,
    /// What to do when the file with mask list and reservation is damaged.
    #[schemars(extend("default" = "closed"))]
    pub damaged_state: Option<DamagedState>,
}

impl ExportSettings {
    /// These settings, and what they leave open from `defaults`.
    #[must_use]
    pub fn or(self, defaults: &ExportSettings) -> ExportSettings {
        let d = defaults.clone();
        ExportSettings {
            interfaces: self.interfaces.or(d.interfaces),
            read_only: self.read_only.or(d.read_only),
            io: self.io.or(d.io),
            write_cache: self.write_cache.or(d.write_cache),
            queue_length: self.queue_length.or(d.queue_length),
            buffers: self.buffers.or(d.buffers),
            sectors: self.sectors.or(d.sectors),
            mtu: self.mtu.or(d.mtu),
            trace_io: self.trace_io.or(d.trace_io),
            config_string: self.config_string.or(d.config_string),
            announce: self.announce.or(d.announce),
            on_refusal: self.on_refusal.or(d.on_refusal),
            probe: self.probe.or(d.probe),
            default_access: self.default_access.or(d.default_access),
            // Per operation: an export that says who may write still has the target's readers.
            access: match (self.access, d.access) {
                (Some(own), Some(all)) => Some(all.into_iter().chain(own).collect()),
                (own, all) => own.or(all),
            },
            list_editors: self.list_editors.or(d.list_editors),
            limit: self.limit.or(d.limit),
            client_limit: self.client_limit.or(d.client_limit),
            damaged_state: self.damaged_state.or(d.damaged_state),
        }
    }
}

/// How a medium is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum IoMode {
    /// Past the page cache.
    #[default]
    Direct,
    /// Through the page cache.
    Buffered,
}

/// When writes of plain AoE clients are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(
    with = "String",
    extend("type" = ["string", "boolean"], "enum" = ["off", "on", "switchable", true, false])
)]
pub enum WriteCache {
    /// When they are on stable storage.
    #[default]
    Off,
    /// At once; clients are told so, and have FLUSH CACHE.
    On,
    /// As with `Off`, until a client asks otherwise by SET FEATURES.
    Switchable,
}

/// What an export does that doesn't know for whom it was reserved or masked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum DamagedState {
    /// It is closed to all clients until the file is repaired or removed.
    #[default]
    Closed,
    /// It begins with empty lists; the damaged file is kept under another name.
    Discard,
}

/// Accept and deny lists, per operation.
pub type AccessLists = BTreeMap<AccessOperation, AccessList>;

/// Who may do something: MAC addresses and names of groups. Who is denied may not; with an accept
/// list only those on it may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AccessList {
    /// Only these may, if there are any.
    pub accept: Vec<String>,
    /// These may not.
    pub deny: Vec<String>,
}

/// Named lists of MAC addresses; a list may name other groups.
pub type Groups = BTreeMap<String, Vec<String>>;

/// Who may change mask list and reservation by the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Vec<String>", extend("type" = ["string", "array"]))]
pub enum Editors {
    /// All clients that are answered at all.
    #[default]
    All,
    /// No client.
    Nobody,
    /// These MAC addresses and groups.
    Only(Vec<String>),
}

/// Bounds on requests and traffic; none where nothing is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limit {
    /// Requests per second.
    pub requests_per_second: Option<u64>,
    /// Bytes per second, read and written: a number, or a text as `"50M"`.
    #[serde(deserialize_with = "optional_bytes")]
    #[schemars(with = "Option<String>", extend("type" = ["integer", "string"]))]
    pub bytes_per_second: Option<u64>,
}

/// A length or place on a disk in sectors of 512 bytes. Written in bytes with a unit (`1M`), or in
/// sectors (`63s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("type" = ["integer", "string"]))]
pub struct Sectors(pub u64);

/// Why a text is no [`Sectors`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectorsError {
    /// Not a number of bytes.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Not a number in front of `s`.
    #[error("'{0}' is not a number of sectors: want for example 63s, or bytes as in 1M")]
    Count(String),
    /// A part of a sector.
    #[error("'{0}' is not a whole number of sectors of 512 bytes")]
    NotWhole(String),
}

impl FromStr for Sectors {
    type Err = SectorsError;

    fn from_str(text: &str) -> Result<Sectors, SectorsError> {
        let text = text.trim();
        if let Some(count) = text.strip_suffix(['s', 'S']) {
            let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
            let count = count.parse().ok().filter(|count| digits && *count <= u64::MAX / 512);
            return count.map(Sectors).ok_or_else(|| SectorsError::Count(text.to_owned()));
        }
        let bytes = match parse_bytes(text) {
            Err(SizeError::Zero(_)) => 0,
            bytes => bytes?,
        };
        if !bytes.is_multiple_of(block::SECTOR_BYTES as u64) {
            return Err(SectorsError::NotWhole(text.to_owned()));
        }
        Ok(Sectors(bytes / block::SECTOR_BYTES as u64))
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl Serialize for Sectors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sectors, D::Error> {
        number_or_text(deserializer)?.parse().map_err(de::Error::custom)
    }
}

words!(IoMode { Direct = "direct", Buffered = "buffered" });
words!(WriteCache { Off = "off", On = "on", Switchable = "switchable" });
words!(DamagedState { Closed = "closed", Discard = "discard" });
serde_as_text!(IoMode, DamagedState);

impl Serialize for WriteCache {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WriteCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WriteCache, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "want \"on\", \"off\", \"switchable\", true or false")]
        enum Said {
            Flag(bool),
            Word(String),
        }
        match Said::deserialize(deserializer)? {
            Said::Flag(true) => Ok(WriteCache::On),
            Said::Flag(false) => Ok(WriteCache::Off),
            Said::Word(word) => word.parse().map_err(de::Error::custom),
        }
    }
}

impl FromStr for Editors {
    type Err = std::convert::Infallible;

    /// `all`, `nobody`, or MACs and groups with commas between them.
    fn from_str(text: &str) -> Result<Editors, Self::Err> {
        Ok(match text {
            "all" => Editors::All,
            "nobody" => Editors::Nobody,
            list => Editors::Only(list.split(',').map(|one| one.trim().to_owned()).collect()),
        })
    }
}

impl Serialize for Editors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Editors::All => serializer.serialize_str("all"),
            Editors::Nobody => serializer.serialize_str("nobody"),
            Editors::Only(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Editors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Editors, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "want \"all\", \"nobody\" or a list of MACs and groups")]
        enum Said {
            Word(String),
            List(Vec<String>),
        }
        match Said::deserialize(deserializer)? {
            Said::Word(word) if word == "all" => Ok(Editors::All),
            Said::Word(word) if word == "nobody" => Ok(Editors::Nobody),
            Said::Word(word) => Err(de::Error::custom(format!(
                "'{word}' is neither \"all\" nor \"nobody\" nor a list of MACs and groups"
            ))),
            Said::List(list) => Ok(Editors::Only(list)),
        }
    }
}

/// `1000` or `"1M"`.
fn optional_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = number_or_text(deserializer)?;
    parse_bytes(&text).map(Some).map_err(de::Error::custom)
}

fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "want a number of bytes, or a text like \"1M\"")]
    enum Said {
        Number(u64),
        Text(String),
    }
    Ok(match Said::deserialize(deserializer)? {
        Said::Number(bytes) => bytes.to_string(),
        Said::Text(text) => text,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bytes_or_sectors() {
        for (text, sectors) in
            [("63s", 63), ("0", 0), ("0s", 0), ("512", 1), ("1M", 2048), ("1MiB", 2048)]
        {
            assert_eq!(text.parse(), Ok(Sectors(sectors)), "{text}");
        }
        for text in ["", "s", "-1s", "+1s", "1.5s", "100", "1KB", "99999999999999999999s", "1X"] {
            assert!(text.parse::<Sectors>().is_err(), "{text}");
        }
        assert_eq!(Sectors(63).to_string().parse(), Ok(Sectors(63)));
    }

    #[test]
    fn an_exports_settings_go_before_the_targets() {
        let read = |text: &str| toml::from_str::<ExportSettings>(text).unwrap();
        let all = read("io = 'buffered'\nbuffers = 9\naccess.read.accept = ['a']");
        let own = read("buffers = 7\nwrite-cache = true\naccess.write.deny = ['b']");
        let both = own.or(&all);
        assert_eq!(both.io, Some(IoMode::Buffered));
        assert_eq!((both.buffers, both.write_cache), (Some(7), Some(WriteCache::On)));
        let access = both.access.unwrap();
        assert_eq!(access[&AccessOperation::Read].accept, ["a"]);
        assert_eq!(access[&AccessOperation::Write].deny, ["b"]);
    }

    #[test]
    fn words_are_checked() {
        let read = |text: &str| toml::from_str::<ExportSettings>(text);
        for text in [
            "write-cache = 'switchable'",
            "write-cache = false",
            "list-editors = 'nobody'",
            "list-editors = ['web']",
            "limit = { bytes-per-second = '10M', requests-per-second = 5 }",
            "on-refusal = 'silent'",
            "probe = 'defend'",
            "damaged-state = 'discard'",
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
        for text in [
            "write-cache = 'maybe'",
            "write-cache = 1",
            "list-editors = 'web'",
            "limit = { bytes = 5 }",
            "limit = { bytes-per-second = 0 }",
            "on-refusal = 'loud'",
            "sectors = 256",
            "access.erase.accept = []",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!("x,y".parse(), Ok(Editors::Only(vec!["x".into(), "y".into()])));
    }
}
