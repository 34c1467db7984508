//! What people set of a pool: properties in its metadata, of which each is a number, or `on` or `off`.

use std::rc::Rc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::open_pool::OpenPool;
use crate::error::PoolError;
use crate::metadata::{MetaRecord, Metadata};
use crate::spare::{SPARE, Spare};

/// After how many seconds a disk that is out is rebuilt.
pub(super) const REBUILD_DELAY: &str = "rebuild-delay";
/// Bytes per second that are copied from disk to disk, of all disks together.
pub(super) const REBUILD_RATE: &str = "rebuild-rate";
/// Seconds from the beginning of a scrub to that of the next one.
pub(super) const SCRUB_EVERY: &str = "scrub-every";
/// Bytes that a scrub reads per second, of all disks together.
pub(super) const SCRUB_RATE: &str = "scrub-rate";
/// Whether a rebalance begins by itself.
pub(super) const AUTO_REBALANCE: &str = "auto-rebalance";
/// Whether disks are told what nothing names any more.
pub(super) const TRIM: &str = "trim";

/// What is to be set of a pool. What isn't named stays as it is; null switches it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSettings {
    /// After how many seconds a disk that is out is rebuilt on others; never with null.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub rebuild_delay_secs: Option<Option<u64>>,
    /// Bytes per second that are copied at most when disks are rebuilt, emptied, replaced or resynced, of all disks
    /// together; with null as fast as the disks allow, and less while requests are answered.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub rebuild_rate_bytes: Option<Option<u64>>,
    /// Seconds from the beginning of a scrub to that of the next one; none begins by itself with null.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub scrub_every_secs: Option<Option<u64>>,
    /// Bytes that a scrub reads per second at most, of all disks together; as many as can be read with null.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub scrub_rate_bytes: Option<Option<u64>>,
    /// Whether groups move by themselves where space is free of which no volume can have anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_rebalance: Option<bool>,
    /// Whether disks are told to discard what is freed or discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trim: Option<bool>,
    /// Against which loss space is kept free: `disk`, `node` or bytes, as text; none with null.
    #[serde(deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    pub spare: Option<Option<Spare>>,
}

/// Null is something else than silence.
fn said<'de, D: Deserializer<'de>, Value: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<Value>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl PoolSettings {
    /// The records that set it.
    pub(super) fn records(&self) -> Result<Vec<MetaRecord>, PoolError> {
        let settings = [
            (REBUILD_DELAY, self.rebuild_delay_secs),
            (REBUILD_RATE, self.rebuild_rate_bytes),
            (SCRUB_EVERY, self.scrub_every_secs),
            (SCRUB_RATE, self.scrub_rate_bytes),
        ];
        let said = settings.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let records = said.map(|(key, value)| {
            if value == Some(0) && key != REBUILD_DELAY {
                return Err(PoolError::invalid(
                    format!("{key} can't be nothing"),
                    "name what it shall be, or off",
                ));
            }
            let value = value.map_or_else(|| OFF.to_owned(), |value| value.to_string());
            Ok(MetaRecord::PoolPropertySet { key: key.to_owned(), value: Some(value) })
        });
        let switches = [(AUTO_REBALANCE, self.auto_rebalance), (TRIM, self.trim)];
        let switched = switches.into_iter().filter_map(|(key, on)| {
            let value = Some(if on? { ON } else { OFF }.to_owned());
            Some(Ok(MetaRecord::PoolPropertySet { key: key.to_owned(), value }))
        });
        let spare = self.spare.map(|spare| Ok(spare_record(spare)));
        records.chain(switched).chain(spare).collect()
    }
}

/// The record that sets a pool's spare.
pub(super) fn spare_record(spare: Option<Spare>) -> MetaRecord {
    let value = spare.map_or_else(|| OFF.to_owned(), |spare| spare.to_string());
    MetaRecord::PoolPropertySet { key: SPARE.to_owned(), value: Some(value) }
}

/// What stands for none.
const OFF: &str = "off";
const ON: &str = "on";

/// Whether something is switched on, as it is where nobody switched it off.
pub(super) fn is_on(meta: &Metadata, key: &str) -> bool {
    meta.properties().get(key).is_none_or(|value| value != OFF)
}

/// What a pool's property is set to: a number, or none where it is switched off; `usual` where nobody set it.
pub(super) fn setting(meta: &Metadata, key: &str, usual: Option<u64>) -> Option<u64> {
    match meta.properties().get(key).map(String::as_str) {
        Some(OFF) => None,
        Some(number) => number.parse().ok(),
        None => usual,
    }
}

impl OpenPool {
    /// Sets what is named.
    pub(crate) async fn change_settings(
        self: &Rc<Self>,
        settings: &PoolSettings,
    ) -> Result<(), PoolError> {
        let records = settings.records()?;
        if records.is_empty() {
            return Err(PoolError::invalid("nothing is named that is to be set", "name a setting"));
        }
        self.administer(move |_| Ok((records, ()))).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn null_switches_off_and_silence_leaves_it() {
        let settings = PoolSettings { scrub_rate_bytes: Some(None), ..PoolSettings::default() };
        let off = MetaRecord::PoolPropertySet {
            key: SCRUB_RATE.to_owned(),
            value: Some("off".to_owned()),
        };
        assert_eq!(settings.records().unwrap(), [off]);
        assert!(PoolSettings::default().records().unwrap().is_empty());
        let nothing = PoolSettings { scrub_every_secs: Some(Some(0)), ..PoolSettings::default() };
        assert!(nothing.records().is_err(), "it would never end");
        let spare = PoolSettings { spare: Some(Some(Spare::Node)), ..PoolSettings::default() };
        assert_eq!(spare.records().unwrap(), [spare_record(Some(Spare::Node))]);
        let kept = PoolSettings { trim: Some(false), ..PoolSettings::default() };
        let off =
            MetaRecord::PoolPropertySet { key: TRIM.to_owned(), value: Some("off".to_owned()) };
        assert_eq!(kept.records().unwrap(), [off]);
        let none = PoolSettings { spare: Some(None), ..PoolSettings::default() };
        assert_eq!(none.records().unwrap(), [spare_record(None)]);
    }
}
