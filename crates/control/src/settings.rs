//! What a pool remembers for its services: properties of a volume, as JSON texts.
//!
//! They travel with the disks, so a new supervisor reads settings that another one wrote, perhaps
//! of a later version: unknown fields are kept out of the way, not refused, and a setting that
//! can't be read stops this one service with a message instead of the pool.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use aoe_target::Remembered;
use aoe_wire::{MacAddr, ShelfSlot};
use block::FsType;
use pool::PoolReport;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::{InvalidClient, check_client};

/// Property under which [`MountSetting`] is kept.
pub const MOUNT_KEY: &str = "mount";
/// Property that says, by being `true`, that a volume has a block device also without a mount.
pub const DEVICE_KEY: &str = "device";
/// Property under which [`FtpSetting`] is kept.
pub const FTP_KEY: &str = "ftp";
/// Property under which the list of [`ExportSetting`] is kept.
pub const EXPORTS_KEY: &str = "exports";

/// The properties that have something done to this machine or its network. Those that came with a
/// pool wait until a person confirms them.
pub const ACTED_ON: [&str; 4] = [DEVICE_KEY, MOUNT_KEY, FTP_KEY, EXPORTS_KEY];
/// Put before the key of such a property in a report while it waits.
pub const HELD_PREFIX: &str = "held.";

/// Beginning of the property under which [`ExportState`] is kept; the address follows.
const EXPORT_STATE_PREFIX: &str = "export-state.";

/// Most exports that one volume may have.
pub const EXPORTS_MAX: usize = 8;

/// Where a volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSetting {
    /// Absolute path of the mount point.
    pub path: PathBuf,
    /// Its file system.
    #[serde(default)]
    pub fstype: FsType,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
}

impl MountSetting {
    /// The same as it is done in a pool: of one that was imported read-only nothing is mounted otherwise.
    #[must_use]
    pub fn as_in(mut self, pool: &PoolReport) -> MountSetting {
        if pool.read_only {
            let options = self.options.iter().flat_map(|options| options.split(','));
            let others = options.map(str::trim).filter(|one| ![READ_ONLY, WRITABLE].contains(one));
            let options = others.chain([READ_ONLY]).map(str::to_owned).collect();
            self.options = options;
        }
        self
    }
}

/// The options of a mount that say whether it is written to.
const READ_ONLY: &str = "ro";
const WRITABLE: &str = "rw";

/// That a volume's mount is served by FTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FtpSetting {
    /// Where to listen; the supervisor's configuration decides without it.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// An AoE export of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSetting {
    /// Its address.
    pub address: ShelfSlot,
    /// The interfaces it answers on; all of the supervisor's configuration when empty.
    pub interfaces: Vec<String>,
    /// The clients it answers; all when empty.
    #[serde(default)]
    pub allow: Vec<ClientMac>,
    /// Whether writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// What clients left with an export by the protocol: it survives a restart of the supervisor, and
/// moves with the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportState {
    /// The configuration string, in hexadecimal digits: it is bytes.
    #[serde(default)]
    pub config_string: String,
    /// The mask list.
    #[serde(default)]
    pub mask: Vec<MacAddr>,
    /// The reservation.
    #[serde(default)]
    pub reserved: Vec<MacAddr>,
}

impl ExportState {
    /// The property under which the state of the export at `address` is kept.
    pub fn key(address: ShelfSlot) -> String {
        format!("{EXPORT_STATE_PREFIX}{address}")
    }

    /// Reads it from a volume's properties; nothing if there is nothing.
    pub fn read(
        properties: &BTreeMap<String, String>,
        address: ShelfSlot,
    ) -> Result<Remembered, SettingError> {
        let key = ExportState::key(address);
        let Some(text) = properties.get(&key) else { return Ok(Remembered::default()) };
        let wrong = |reason| SettingError::Unreadable { key: key.clone(), reason };
        let state: ExportState =
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let config_string = bytes_of(&state.config_string)
            .ok_or_else(|| wrong("the configuration string is not hexadecimal".to_owned()))?;
        Ok(Remembered { config_string, mask: state.mask, reserved: state.reserved })
    }
}

impl From<&Remembered> for ExportState {
    fn from(state: &Remembered) -> ExportState {
        ExportState {
            config_string: state.config_string.iter().map(|byte| format!("{byte:02x}")).collect(),
            mask: state.mask.clone(),
            reserved: state.reserved.clone(),
        }
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The address of a client in an access list, in JSON; what can't be one is refused wherever it is
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}$"))]
pub struct ClientMac(MacAddr);

impl ClientMac {
    /// The address.
    pub fn mac(self) -> MacAddr {
        self.0
    }
}

impl TryFrom<MacAddr> for ClientMac {
    type Error = InvalidClient;

    fn try_from(mac: MacAddr) -> Result<ClientMac, InvalidClient> {
        check_client(mac).map(ClientMac)
    }
}

impl std::str::FromStr for ClientMac {
    type Err = InvalidClient;

    fn from_str(text: &str) -> Result<ClientMac, InvalidClient> {
        text.parse::<MacAddr>()?.try_into()
    }
}

impl std::fmt::Display for ClientMac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

block::serde_as_text!(ClientMac);

/// Why a setting isn't one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A mount point that could mean several places, or hide the system.
    #[error("mount point {path}: {reason}")]
    MountPoint {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An option that could undo what etherpool relies on.
    #[error("mount option '{0}' is not allowed: {1}")]
    MountOption(String, &'static str),
    /// More exports than a volume may have.
    #[error("a volume has at most {EXPORTS_MAX} exports")]
    TooManyExports,
    /// The property holds something else.
    #[error("property '{key}' can't be read ({reason}); set it anew or remove it")]
    Unreadable {
        /// The property.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl MountSetting {
    /// Checks what a request or a foreign pool brought: the mount point must be absolute, plain and
    /// not a directory that the system runs from, the options must be words.
    pub fn validate(&self) -> Result<(), SettingError> {
        let wrong = |reason| SettingError::MountPoint { path: self.path.clone(), reason };
        if !self.path.is_absolute() {
            return Err(wrong("must be an absolute path"));
        }
        if self.path.as_os_str().len() > 1024 {
            return Err(wrong("is too long"));
        }
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !self.path.components().all(plain) || self.path.to_str().is_none() {
            return Err(wrong("must not contain '..' or bytes that are not UTF-8"));
        }
        const SYSTEM: [&str; 15] = [
            "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run",
            "/sbin", "/sys", "/tmp", "/usr", "/var",
        ];
        let below = |tree: &str| self.path.starts_with(tree);
        if SYSTEM.iter().any(|dir| self.path == Path::new(dir))
            || ["/proc", "/sys", "/dev"].into_iter().any(below)
        {
            return Err(wrong(
                "belongs to the system; use a directory of its own, such as /srv/NAME",
            ));
        }
        for option in &self.options {
            let word =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '=' | '.' | ':');
            if option.is_empty() || option.len() > 128 || !option.chars().all(word) {
                return Err(SettingError::MountOption(option.clone(), "it is not a plain word"));
            }
            // Both make a file system acknowledge what isn't durable.
            if matches!(option.as_str(), "nobarrier" | "barrier=0") {
                return Err(SettingError::MountOption(
                    option.clone(),
                    "acknowledged writes could be lost",
                ));
            }
            // A pool that came from elsewhere would choose among this machine's devices.
            const OF_DEVICES: [&str; 5] =
                ["device=", "journal_dev=", "journal_path=", "logdev=", "rtdev="];
            if OF_DEVICES.iter().any(|names| option.starts_with(names)) {
                return Err(SettingError::MountOption(
                    option.clone(),
                    "a volume's file system lies on the volume alone",
                ));
            }
        }
        Ok(())
    }
}

/// The settings of one volume, read from its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Whether it has a block device also without a mount.
    pub device: bool,
    /// Where it is mounted.
    pub mount: Option<MountSetting>,
    /// Whether the mount is served.
    pub ftp: Option<FtpSetting>,
    /// Where it is exported.
    pub exports: Vec<ExportSetting>,
    /// Properties that couldn't be read, for status.
    pub unreadable: Vec<SettingError>,
}

impl VolumeSettings {
    /// Reads the settings. What can't be read is left out and reported.
    pub fn from_properties(properties: &BTreeMap<String, String>) -> VolumeSettings {
        let mut unreadable = Vec::new();
        let device = read(properties, DEVICE_KEY, &mut unreadable).unwrap_or(false);
        let mount = read::<MountSetting>(properties, MOUNT_KEY, &mut unreadable);
        let mount = mount.filter(|mount| keep(mount.validate(), &mut unreadable));
        let ftp = read(properties, FTP_KEY, &mut unreadable);
        let mut exports: Vec<ExportSetting> =
            read(properties, EXPORTS_KEY, &mut unreadable).unwrap_or_default();
        if exports.len() > EXPORTS_MAX {
            exports.truncate(EXPORTS_MAX);
            unreadable.push(SettingError::TooManyExports);
        }
        VolumeSettings { device, mount, ftp, exports, unreadable }
    }
}

/// The longest property that is put in words, in characters: what people look over before they say yes.
const WORDS_MAX: usize = 1000;

/// What a property of a volume would have done, in words for people who haven't seen it before. Its
/// contents are another's: they are shown as one line without characters that hide or move others. Of
/// one that is too long only the beginning is given, as an error: nobody can have agreed to the rest.
pub fn in_words(key: &str, value: &str) -> Result<String, String> {
    let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let settings = VolumeSettings::from_properties(&properties);
    let words = match key {
        MOUNT_KEY => serde_json::from_str::<MountSetting>(value).ok().map(|mount| {
            let options = match mount.options.as_slice() {
                [] => String::new(),
                options => format!(" with the options {}", options.join(",")),
            };
            format!("mount at {} as {}{options}", mount.path.display(), mount.fstype)
        }),
        FTP_KEY => settings.ftp.map(|ftp| match ftp.listen {
            Some(address) => format!("serve the mount by FTP at {address}"),
            None => "serve the mount by FTP".to_owned(),
        }),
        DEVICE_KEY => Some(match settings.device {
            true => "have a block device on this machine".to_owned(),
            false => "have no block device".to_owned(),
        }),
        EXPORTS_KEY if !settings.exports.is_empty() => {
            let exports: Vec<String> = settings.exports.iter().map(export_in_words).collect();
            Some(exports.join("; "))
        }
        _ => None,
    };
    let words = words.unwrap_or_else(|| format!("{key} = {value}"));
    let mut plain = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            c if c.is_control() => plain.push(' '),
            c if c.is_ascii() => plain.push(c),
            c => plain.extend(c.escape_debug()),
        }
    }
    match plain.char_indices().nth(WORDS_MAX) {
        None => Ok(plain),
        Some((end, _)) => Err(format!("{}...", &plain[..end])),
    }
}

fn export_in_words(export: &ExportSetting) -> String {
    let how = if export.read_only { "read-only" } else { "for reading and writing" };
    let on = match export.interfaces.as_slice() {
        [] => "all interfaces of the configuration".to_owned(),
        interfaces => interfaces.join(", "),
    };
    let clients = match export.allow.as_slice() {
        [] => "ANY client".to_owned(),
        allow => allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("export as aoe:{} {how} to {clients} on {on}", export.address)
}

/// The text that a setting is kept as.
pub fn property_text<T: Serialize>(setting: &T) -> String {
    // Settings are plain structs of texts and numbers; their serialisation has no failing case.
    serde_json::to_string(setting).unwrap_or_default()
}

fn read<T: DeserializeOwned>(
    properties: &BTreeMap<String, String>,
    key: &str,
    unreadable: &mut Vec<SettingError>,
) -> Option<T> {
    match serde_json::from_str(properties.get(key)?) {
        Ok(setting) => Some(setting),
        Err(error) => {
            unreadable
                .push(SettingError::Unreadable { key: key.into(), reason: error.to_string() });
            None
        }
    }
}

fn keep(valid: Result<(), SettingError>, unreadable: &mut Vec<SettingError>) -> bool {
    match valid {
        Ok(()) => true,
        Err(error) => {
            unreadable.push(error);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mount(path: &str, options: &[&str]) -> MountSetting {
        let options = options.iter().map(|option| (*option).into()).collect();
        MountSetting { path: path.into(), fstype: FsType::Ext4, options }
    }

    #[test]
    fn mount_points_that_hide_the_system_are_refused() {
        for good in ["/srv/x", "/mnt", "/var/lib/x", "/tmp/x", "/home/x", "/run/x"] {
            assert_eq!(mount(good, &["noatime", "commit=5"]).validate(), Ok(()), "{good}");
        }
        for bad in ["/", "/usr", "/proc/x", "/sys", "/dev/shm", "srv", "", "/srv/../etc"] {
            assert!(mount(bad, &[]).validate().is_err(), "{bad}");
        }
        for bad in ["", "a,b", "nobarrier", "x y", "a\nb", "journal_dev=2049", "device=sdb"] {
            assert!(mount("/srv/x", &[bad]).validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_came_with_a_pool_is_told_in_words_on_one_line() {
        let told = |key: &str, value: &str| in_words(key, value).unwrap();
        let text = property_text(&mount("/srv/x", &["noatime", "ro"]));
        assert_eq!(told(MOUNT_KEY, &text), "mount at /srv/x as ext4 with the options noatime,ro");
        let text = property_text(&mount("/etc/x\n/srv/y\u{1b}[2J", &[]));
        assert_eq!(told(MOUNT_KEY, &text), "mount at /etc/x /srv/y [2J as ext4");
        let text = property_text(&mount("/srv/\u{202e}é", &[]));
        assert_eq!(told(MOUNT_KEY, &text), "mount at /srv/\\u{202e}é as ext4");
        assert_eq!(
            told(FTP_KEY, r#"{"listen":"0.0.0.0:21"}"#),
            "serve the mount by FTP at 0.0.0.0:21"
        );
        assert_eq!(
            told(EXPORTS_KEY, r#"[{"address":"e7.1","interfaces":[]}]"#),
            "export as aoe:e7.1 for reading and writing to ANY client on all interfaces of the \
             configuration"
        );
        assert_eq!(told(EXPORTS_KEY, "no\njson"), "exports = no json");
    }

    /// The end of a long line is where something could be hidden.
    #[test]
    fn what_is_too_long_to_be_shown_is_not_agreed_to() {
        let text = property_text(&mount("/srv/x", &["noatime"; 150]));
        let beginning = in_words(MOUNT_KEY, &text).unwrap_err();
        assert!(beginning.starts_with("mount at /srv/x") && beginning.ends_with("..."));
    }

    #[test]
    fn settings_survive_the_way_through_properties() {
        let setting = mount("/srv/x", &["noatime"]);
        let export = ExportSetting {
            address: ShelfSlot { shelf: 7, slot: 1 },
            interfaces: vec!["eth0".into()],
            allow: vec!["02:00:00:00:00:09".parse().unwrap()],
            read_only: true,
        };
        let ftp = FtpSetting { listen: Some("127.0.0.1:2121".parse().unwrap()) };
        let properties = BTreeMap::from([
            (MOUNT_KEY.to_string(), property_text(&setting)),
            (FTP_KEY.to_string(), property_text(&ftp)),
            (EXPORTS_KEY.to_string(), property_text(&[&export])),
        ]);
        let read = VolumeSettings::from_properties(&properties);
        assert_eq!(read.mount, Some(setting));
        assert_eq!(read.ftp, Some(ftp));
        assert_eq!(read.exports, [export]);
        assert!(read.unreadable.is_empty());
    }

    #[test]
    fn a_list_with_a_group_address_is_reported_and_not_acted_on() {
        for mac in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            let text = format!(
                r#"[{{"address":"e7.1","interfaces":[],"allow":["02:00:00:00:00:01","{mac}"]}}]"#
            );
            let properties = BTreeMap::from([(EXPORTS_KEY.to_string(), text)]);
            let read = VolumeSettings::from_properties(&properties);
            assert!(read.exports.is_empty(), "{mac}");
            let told = read.unreadable[0].to_string();
            assert!(told.contains(mac) && told.contains("property 'exports'"), "{told}");
        }
    }

    #[test]
    fn what_clients_left_survives_the_way_through_properties() {
        let address = ShelfSlot { shelf: 7, slot: 1 };
        let left = Remembered {
            config_string: vec![0, 0xff, b'a'],
            mask: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            reserved: vec![MacAddr([2, 0, 0, 0, 0, 2]); 255],
        };
        let text = property_text(&ExportState::from(&left));
        let mut properties = BTreeMap::from([(ExportState::key(address), text)]);
        assert_eq!(ExportState::read(&properties, address), Ok(left));
        let other = ShelfSlot { shelf: 7, slot: 2 };
        assert_eq!(ExportState::read(&properties, other), Ok(Remembered::default()));
        for wrong in ["no json", r#"{"config_string":"0"}"#, r#"{"config_string":"é0"}"#] {
            properties.insert(ExportState::key(address), wrong.to_owned());
            assert!(ExportState::read(&properties, address).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unreadable_setting_stops_only_itself() {
        let properties = BTreeMap::from([
            (MOUNT_KEY.to_string(), "{\"path\": \"/usr\"}".to_string()),
            (FTP_KEY.to_string(), "{\"later\": 1}".to_string()),
            (EXPORTS_KEY.to_string(), "no json".to_string()),
            ("other".to_string(), "untouched".to_string()),
        ]);
        let read = VolumeSettings::from_properties(&properties);
        assert_eq!(read.mount, None);
        assert_eq!(read.ftp, Some(FtpSetting::default()));
        assert_eq!(read.unreadable.len(), 2);
        assert!(read.unreadable[1].to_string().contains("property 'exports' can't be read"));
    }
}
