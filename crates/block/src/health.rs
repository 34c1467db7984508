//! How a drive says that it is, by what it counts itself (SMART, and what NVMe and SCSI have for it): one form for all
//! kinds, from the machine that has the drive to the people who own its contents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{serde_as_text, words};

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 96;

/// What a drive's own counters mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum HealthState {
    /// Nothing that it counts is a reason to do without it.
    Good,
    /// It wears out: drives that count such things die sooner than others.
    Ageing,
    /// It says itself that it is failing, or is worn out beyond what it was made for.
    Failing,
}

words!(HealthState { Good = "good", Ageing = "ageing", Failing = "failing" });
serde_as_text!(HealthState);

/// A drive's health. What a drive doesn't count is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveHealth {
    /// All of it in a word.
    pub state: HealthState,
    /// Why it isn't good, as half a sentence of at most [`REASON_BYTES_MAX`] bytes; empty if it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<i16>,
    /// How much of the writing that it was made for it has done; may be over 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wear_percent: Option<u8>,
    /// How long it was on, in hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_on_hours: Option<u32>,
    /// Sectors or blocks that it has replaced by spare ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reallocated: Option<u64>,
    /// Sectors that it can't read, or errors of its medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
}
