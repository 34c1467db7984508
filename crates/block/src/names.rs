//! Names of what people make: pools, volumes, file systems. They appear in paths, mount options, URLs and
//! messages, so a name has only characters that are harmless in all of these.

use std::fmt;
use std::str::FromStr;

/// Longest name of a pool or of a volume, in bytes: `POOL/VOL` fits what a loop device remembers. The disk
/// format has room for more.
pub const NAME_BYTES_MAX: usize = 48;

/// Why a text isn't a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not of the form of a name.
    #[error(
        "'{0}' is not a name: 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-', beginning with a letter or digit"
    )]
    Form(String),
    /// Not `POOL/VOL`.
    #[error("'{0}' is not a volume: want POOL/VOLUME, for example cluster/hyperspace")]
    NotAVolume(String),
}

/// Checks the name of a pool or of a volume.
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let valid = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(good)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if valid { Ok(()) } else { Err(InvalidName::Form(text.into())) }
}

/// A volume as people name it, `POOL/VOL`. Both names are checked: it is safe as a part of paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"))]
pub struct VolumeName {
    pool: String,
    volume: String,
}

impl VolumeName {
    /// The volume `volume` of `pool`.
    pub fn new(pool: &str, volume: &str) -> Result<VolumeName, InvalidName> {
        check_name(pool)?;
        check_name(volume)?;
        Ok(VolumeName { pool: pool.into(), volume: volume.into() })
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The volume's name in its pool.
    pub fn volume(&self) -> &str {
        &self.volume
    }
}

impl FromStr for VolumeName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<VolumeName, InvalidName> {
        let (pool, volume) =
            text.split_once('/').ok_or_else(|| InvalidName::NotAVolume(text.into()))?;
        VolumeName::new(pool, volume)
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

/// A file system that can be made, mounted and grown. Its word is what mount and mkfs call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum FsType {
    /// ext4.
    #[default]
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

crate::words!(FsType { Ext4 = "ext4", Xfs = "xfs", Btrfs = "btrfs" });
crate::serde_as_text!(VolumeName, FsType);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_would_walk_through_paths_are_refused() {
        let good: VolumeName = "cluster/hyper-space_1.0".parse().unwrap();
        assert_eq!((good.pool(), good.volume()), ("cluster", "hyper-space_1.0"));
        for wrong in [
            "", "a", "a/", "/b", "a/b/c", "../x", "a/..", "a/.b", "a/b c", "a,b/c", "a/\u{e9}",
            "-a/b",
        ] {
            assert!(wrong.parse::<VolumeName>().is_err(), "{wrong}");
        }
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(check_name(&"x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn texts_in_json_are_checked() {
        let name: VolumeName = serde_json::from_str("\"p/v\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"p/v\"");
        assert!(serde_json::from_str::<VolumeName>("\"a/../b\"").is_err());
        assert_eq!(serde_json::from_str::<FsType>("\"ext4\"").unwrap(), FsType::Ext4);
        let wrong = serde_json::from_str::<FsType>("\"ext2\"").unwrap_err();
        assert!(wrong.to_string().starts_with("'ext2' is not known here: use ext4"), "{wrong}");
    }
}
