//! `[[drive]]`: settings of this machine's drives, whether or not they are exported.

use std::time::Duration;

use block::glob;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Span;

/// ATA's standby timer counts no further.
const SPIN_DOWN_MAX: Duration = Duration::from_secs(19_800);
/// SCT counts tenths of seconds in 16 bits.
const ERROR_RECOVERY_MAX: Duration = Duration::from_millis(6_553_500);

/// One `[[drive]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DriveConfig {
    /// Which: a path (`/dev/disk/by-id/...`), a serial number or a WWN, with `*`.
    pub r#match: String,
    /// The drive's own volatile write cache.
    #[serde(default)]
    pub write_cache: Option<bool>,
    /// The drive's reading ahead.
    #[serde(default)]
    pub read_ahead: Option<bool>,
    /// How much the kernel reads ahead for buffered exports, in KiB.
    #[serde(default)]
    pub kernel_read_ahead_kib: Option<u32>,
    /// After how long without work it stops spinning; `off` for never.
    #[serde(default)]
    pub spin_down: Option<Span>,
    /// How long it tries to read or write a bad sector before it says so; `off` for as long as it
    /// likes.
    #[serde(default)]
    pub error_recovery: Option<Span>,
}

/// The names that a drive has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveNames {
    /// `/dev/sda` and the links to it.
    pub paths: Vec<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its world-wide name.
    pub wwn: Option<String>,
}

/// What is wrong with a `[[drive]]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// It could be any drive, or none.
    #[error("a [[drive]] needs a match: a path, serial number or WWN, with * for any characters")]
    NoMatch,
    /// It says nothing.
    #[error("the [[drive]] {0} has no settings")]
    NoSettings(String),
    /// More than a drive can count.
    #[error("spin-down of {0} is more than the 5h30min that drives can count")]
    SpinDown(String),
    /// More than a drive can count.
    #[error("error-recovery of {0} is more than the 6553.5 s that drives can count")]
    ErrorRecovery(String),
}

impl DriveConfig {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Says what doesn't.
    pub fn check(&self) -> Result<(), DriveError> {
        let name = || self.r#match.clone();
        if self.r#match.trim().is_empty() {
            return Err(DriveError::NoMatch);
        }
        let empty = self.write_cache.is_none()
            && self.read_ahead.is_none()
            && self.kernel_read_ahead_kib.is_none()
            && self.spin_down.is_none()
            && self.error_recovery.is_none();
        if empty {
            return Err(DriveError::NoSettings(name()));
        }
        if self.spin_down.is_some_and(|span| span.0 > SPIN_DOWN_MAX) {
            return Err(DriveError::SpinDown(name()));
        }
        if self.error_recovery.is_some_and(|span| span.0 > ERROR_RECOVERY_MAX) {
            return Err(DriveError::ErrorRecovery(name()));
        }
        Ok(())
    }

    /// Whether a drive is meant.
    pub fn is_for(&self, drive: &DriveNames) -> bool {
        let pattern = self.r#match.trim();
        if pattern.starts_with('/') {
            return drive.paths.iter().any(|path| glob::matches(pattern, path));
        }
        [&drive.serial, &drive.wwn].into_iter().flatten().any(|name| glob::matches(pattern, name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DriveConfig, String> {
        let config: DriveConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn settings_are_read_and_checked() {
        let all = parse(
            "match = '/dev/disk/by-id/ata-WDC*'\nwrite-cache = false\nread-ahead = true\n\
             kernel-read-ahead-kib = 0\nspin-down = '20min'\nerror-recovery = '7s'\n",
        )
        .unwrap();
        assert_eq!(all.spin_down, Some(Span(Duration::from_secs(1200))));
        assert_eq!((all.write_cache, all.kernel_read_ahead_kib), (Some(false), Some(0)));
        for (text, word) in [
            ("write-cache = true", "match"),
            ("match = ' '\nwrite-cache = true", "needs a match"),
            ("match = 'a'", "no settings"),
            ("match = 'a'\nspin-down = '6h'", "5h30min"),
            ("match = 'a'\nspin-down = '30'", "no span of time"),
            ("match = 'a'\nerror-recovery = '2h'", "6553.5"),
            ("match = 'a'\nwrite-cahce = true", "write-cahce"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn drives_are_known_by_path_serial_and_wwn() {
        let drive = DriveNames {
            paths: vec!["/dev/sda".into(), "/dev/disk/by-id/ata-WDC_WD40-1234".into()],
            serial: Some("WD-1234".into()),
            wwn: Some("naa.50014ee2b1234567".into()),
        };
        let is_for = |pattern: &str| {
            parse(&format!("match = '{pattern}'\nwrite-cache = true")).unwrap().is_for(&drive)
        };
        for pattern in ["/dev/sda", "/dev/disk/by-id/ata-WDC*", "WD-1234", "naa.5001*", "*"] {
            assert!(is_for(pattern), "{pattern}");
        }
        for pattern in ["/dev/sdb", "/dev/disk/by-id/nvme*", "WD-123", "1234", "/*/sdb"] {
            assert!(!is_for(pattern), "{pattern}");
        }
    }
}
