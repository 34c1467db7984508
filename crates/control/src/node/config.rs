//! `node.toml`.
//!
//! Naming a disk here is the override for *exporting* a disk that isn't blank; it never is one for
//! labelling it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aoe::wire::ShelfSlot;
use serde::{Deserialize, Serialize};

use super::drive::{DriveConfig, DriveError};

/// What `etherpool node --config FILE` reads. Every field has a default; an empty file means: all
/// unused whole disks that are blank or carry an etherpool label, on all Ethernet interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NodeConfig {
    /// What people call this machine; its host name by default.
    pub name: Option<String>,
    /// The machine's identity in failure domains; from /etc/machine-id by default. Cloned machines
    /// need one each.
    pub node_id: Option<uuid::Uuid>,
    /// Shelf of automatic exports; by default a number that is chosen once and stored.
    pub shelf: Option<u16>,
    /// Where the stored shelf and slots are kept.
    pub state_dir: Option<PathBuf>,
    /// Where the sockets for programs of this machine are.
    pub run_dir: Option<PathBuf>,
    /// Interfaces to export on; all Ethernet interfaces by default.
    pub interfaces: Vec<String>,
    /// Whether to look for disks by itself; by default only if no export is named.
    pub automatic: Option<bool>,
    /// Kernel names of the disks to look at, with `*`: `["sd*", "nvme*"]`. All whole disks by
    /// default; loop devices only where they are named here.
    pub scan: Vec<String>,
    /// Shell commands to run before the first export, in order; a failing one stops the start.
    pub before_start: Vec<String>,
    /// Shell commands to run after the last export is gone.
    pub after_stop: Vec<String>,
    /// Where Prometheus may ask for metrics, `127.0.0.1:9100`; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// Settings of this machine's drives.
    pub drive: Vec<DriveConfig>,
    /// Disks, partitions, arrays or files to export.
    pub export: Vec<ExportConfig>,
}

/// One `[[export]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExportConfig {
    /// AoE address, `e194.0`.
    pub address: String,
    /// Path of a block device or file, or `UUID=...` of a file system or partition.
    pub path: String,
    /// Interfaces of this export; the node's by default.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// How to reach the medium.
    #[serde(default)]
    pub io: IoMode,
    /// Acknowledge writes of plain AoE clients before they are on stable storage.
    #[serde(default)]
    pub write_cache: bool,
}

impl ExportConfig {
    /// The address as numbers.
    pub fn shelf_slot(&self) -> Result<ShelfSlot, NodeConfigError> {
        match self.address.parse::<ShelfSlot>() {
            // The protocol's own reader also takes wildcards, and numbers without the letter.
            Ok(address) if address.is_concrete() && self.address.starts_with('e') => Ok(address),
            _ => Err(NodeConfigError::Address(self.address.clone())),
        }
    }
}

/// How a medium is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoMode {
    /// Past the page cache.
    #[default]
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// Not TOML, or not of this form; the message has line and column.
    #[error("{file}: {source}", file = .file.display())]
    Toml {
        /// The file.
        file: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// An address that no export can have.
    #[error(
        "{0:?} is not an address of an export (want for example e194.0; shelf 65535 and slot 255 mean all)"
    )]
    Address(String),
    /// Two exports under one address.
    #[error("{0} is given to two exports; initiators would take them for two paths to one disk")]
    DuplicateAddress(String),
    /// A `[[drive]]` that makes no sense.
    #[error(transparent)]
    Drive(#[from] DriveError),
}

impl NodeConfig {
    /// Reads the text of `file`; the name is for messages only.
    ///
    /// # Errors
    /// Says what is wrong and where; a configuration is taken whole or not at all.
    pub fn parse(text: &str, file: &Path) -> Result<NodeConfig, NodeConfigError> {
        let config: NodeConfig = toml::from_str(text).map_err(|source| NodeConfigError::Toml {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Whether every address is one and no two are the same.
    pub fn check(&self) -> Result<(), NodeConfigError> {
        for drive in &self.drive {
            drive.check()?;
        }
        let mut seen = std::collections::BTreeSet::new();
        for export in &self.export {
            if !seen.insert(export.shelf_slot()?) {
                return Err(NodeConfigError::DuplicateAddress(export.address.clone()));
            }
        }
        Ok(())
    }

    /// Whether the node looks for disks by itself.
    pub fn is_automatic(&self) -> bool {
        self.automatic.unwrap_or(self.export.is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodeConfig, NodeConfigError> {
        NodeConfig::parse(text, Path::new("node.toml"))
    }

    #[test]
    fn an_empty_file_means_automatic() {
        assert!(parse("").unwrap().is_automatic());
    }

    #[test]
    fn named_exports_turn_the_search_off() {
        let config = parse("[[export]]\naddress = 'e7.1'\npath = '/dev/sdb'\n").unwrap();
        assert!(!config.is_automatic());
        assert_eq!(config.export[0].shelf_slot().unwrap().to_string(), "e7.1");
        assert_eq!(config.export[0].io, IoMode::Direct);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = parse("shelf = 3\n\n[[export]]\naddress = 'e1.0'\npaht = 'x'\n").unwrap_err();
        assert!(error.to_string().contains("line 5"), "{error}");
        assert!(error.to_string().contains("paht"), "{error}");
        for bad in ["e65535.0", "e1.255", "1.2", "e1", "e70000.1"] {
            let text = format!("[[export]]\naddress = '{bad}'\npath = 'x'\n");
            assert!(matches!(parse(&text), Err(NodeConfigError::Address(_))), "{bad}");
        }
        let twice = "[[export]]\naddress='e1.0'\npath='a'\n[[export]]\naddress='e1.0'\npath='b'\n";
        assert!(matches!(parse(twice), Err(NodeConfigError::DuplicateAddress(_))));
    }
}
