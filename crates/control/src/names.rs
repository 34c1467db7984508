//! Places as they are typed: exports, `aoe:e7.1`, and disks, `e194.0` or a path.

use std::str::FromStr;

use aoe_wire::{InvalidShelfSlot, ShelfSlot};

/// Why a text isn't the place that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `eSHELF.SLOT`.
    #[error(transparent)]
    NotAnAddress(#[from] InvalidShelfSlot),
    /// Not `aoe:eS.L`.
    #[error(
        "'{0}' is not an export: want aoe:eSHELF.SLOT, for example aoe:e7.1 (shelf below 65535, slot below 255)"
    )]
    NotAnExport(String),
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

/// A witness as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessArgument {
    /// `supervisor`: a file that the supervisor keeps.
    Supervisor,
    /// A disk.
    Disk(DiskArgument),
}

impl FromStr for WitnessArgument {
    type Err = NameError;

    fn from_str(text: &str) -> Result<WitnessArgument, NameError> {
        match text {
            "supervisor" => Ok(WitnessArgument::Supervisor),
            _ => text.parse().map(WitnessArgument::Disk),
        }
    }
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
}
