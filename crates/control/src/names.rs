//! Names as they are typed: `POOL/VOL`, `e194.0`, `aoe:e7.1`, disks.

use std::fmt;
use std::str::FromStr;

use aoe::wire::{InvalidShelfSlot, ShelfSlot};
use serde::{Deserialize, Serialize};

pub use block::NAME_BYTES_MAX;

/// Why a text isn't the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not of the form of a name.
    #[error(
        "'{0}' is not a name: 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', beginning with a letter or digit"
    )]
    Invalid(String),
    /// Not `POOL/VOL`.
    #[error("'{0}' is not a volume: want POOL/VOLUME, for example cluster/hyperspace")]
    NotAVolume(String),
    /// Not `eSHELF.SLOT`.
    #[error(transparent)]
    NotAnAddress(#[from] InvalidShelfSlot),
    /// Not `aoe:eS.L`.
    #[error("'{0}' is not an export: want aoe:eSHELF.SLOT, for example aoe:e7.1")]
    NotAnExport(String),
}

/// Checks the name of a pool or of a volume. They appear in paths, URLs and messages, so only
/// characters that are harmless in all three are allowed.
pub fn check_name(text: &str) -> Result<(), NameError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let valid = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(good)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if valid { Ok(()) } else { Err(NameError::Invalid(text.into())) }
}

/// A volume as people name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName {
    /// The pool.
    pub pool: String,
    /// The volume in it.
    pub volume: String,
}

impl VolumeName {
    /// From its parts, as reports give them.
    pub fn new(pool: &str, volume: &str) -> VolumeName {
        VolumeName { pool: pool.into(), volume: volume.into() }
    }
}

impl FromStr for VolumeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<VolumeName, NameError> {
        let (pool, volume) =
            text.split_once('/').ok_or_else(|| NameError::NotAVolume(text.into()))?;
        check_name(pool)?;
        check_name(volume)?;
        Ok(VolumeName::new(pool, volume))
    }
}

impl TryFrom<String> for VolumeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<VolumeName, NameError> {
        text.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.to_string()
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

/// Where a volume is exported to: `aoe:e7.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportTarget(pub ShelfSlot);

impl FromStr for ExportTarget {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ExportTarget, NameError> {
        let address = text.strip_prefix("aoe:").and_then(|address| address.parse().ok());
        address.map(ExportTarget).ok_or_else(|| NameError::NotAnExport(text.into()))
    }
}

/// Where a volume is to be exported to: `aoe:e7.1`, or `aoe` for an address that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportWish(pub Option<ShelfSlot>);

impl FromStr for ExportWish {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ExportWish, NameError> {
        match text {
            "aoe" => Ok(ExportWish(None)),
            _ => text.parse().map(|ExportTarget(address)| ExportWish(Some(address))),
        }
    }
}

/// A disk as an argument: an address, or a path on this machine that its node process exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskArgument {
    /// `e194.0`.
    Address(ShelfSlot),
    /// `/dev/sdb`, `./disk.img`.
    Path(std::path::PathBuf),
}

impl FromStr for DiskArgument {
    type Err = NameError;

    fn from_str(text: &str) -> Result<DiskArgument, NameError> {
        if text.contains('/') {
            return Ok(DiskArgument::Path(text.into()));
        }
        Ok(DiskArgument::Address(text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn volumes() {
        assert_eq!("a/b-1".parse(), Ok(VolumeName::new("a", "b-1")));
        for wrong in ["a", "a/", "/b", "a/b/c", "../x", "a/..", "a/b c", "a/\u{e9}", "-a/b"] {
            assert!(wrong.parse::<VolumeName>().is_err(), "{wrong}");
        }
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!("aoe:e7.1".parse(), Ok(ExportTarget(ShelfSlot { shelf: 7, slot: 1 })));
        assert!("e7.1".parse::<ExportTarget>().is_err());
        assert_eq!("aoe".parse(), Ok(ExportWish(None)));
        let wish = ExportWish(Some(ShelfSlot { shelf: 7, slot: 1 }));
        assert_eq!("aoe:e7.1".parse(), Ok(wish));
        assert!("aoe:".parse::<ExportWish>().is_err());
    }

    #[test]
    fn disks() {
        assert!(matches!("e1.0".parse(), Ok(DiskArgument::Address(_))));
        assert_eq!("/dev/sdb".parse(), Ok(DiskArgument::Path("/dev/sdb".into())));
        assert_eq!("./e1.0".parse(), Ok(DiskArgument::Path("./e1.0".into())));
        assert!("sdb".parse::<DiskArgument>().is_err());
    }

    #[test]
    fn names_in_json_are_checked() {
        assert!(serde_json::from_str::<VolumeName>("\"a/../b\"").is_err());
        assert!(serde_json::from_str::<ShelfSlot>("\"e70000.0\"").is_err());
        let name: VolumeName = serde_json::from_str("\"p/v\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"p/v\"");
    }
}
