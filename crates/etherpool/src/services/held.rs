//! Settings that came with a pool: shown to a person, and acted on when that person says so.

use std::collections::{BTreeMap, BTreeSet};

use block::VolumeName;
use control::api::{ApiError, HeldReport, PoolReportExt as _};
use control::registry::held;
use control::settings::{
    EXPORTS_KEY, HELD_PREFIX, MOUNT_KEY, MountSetting, VolumeSettings, in_words,
};
use pool::PoolReport;

use super::Services;
use super::mounts::{check_not_exported, check_open};
use super::operations::{check_free, check_writers, find, find_pool};

/// Why a setting stays out of which only the beginning is shown.
const TOO_LONG: &str = "it is too long to be shown, so nobody can agree to it; set it anew";

impl Services {
    /// What waits of these pools. They are those that [`Services::fresh_pools`] gave.
    pub async fn held(&self, pools: &[PoolReport]) -> Vec<HeldReport> {
        let mut reports = Vec::new();
        for pool in pools {
            for one in self.registry.held(pool) {
                let volume = pool.volumes.iter().find(|volume| volume.name == one.volume);
                let key = format!("{HELD_PREFIX}{}", one.key);
                let Some(value) = volume.and_then(|volume| volume.properties.get(&key)) else {
                    continue;
                };
                let Ok(volume) = VolumeName::new(&pool.name, &one.volume) else { continue };
                let (what, refused) = match in_words(&one.key, value) {
                    Ok(what) => (what, self.why_not(&volume, &one.key, value, pools).await),
                    Err(beginning) => (beginning, Some(TOO_LONG.to_owned())),
                };
                reports.push(HeldReport { volume, key: one.key, what, refused });
            }
        }
        reports
    }

    /// Why a setting isn't acted on, whoever agrees to it: by the rules of the operation that would have
    /// made it here.
    async fn why_not(
        &self,
        name: &VolumeName,
        key: &str,
        value: &str,
        pools: &[PoolReport],
    ) -> Option<String> {
        let properties = find(pools, name).map(|(_, volume)| &volume.properties).ok()?;
        let refused = match key {
            MOUNT_KEY => {
                let setting: MountSetting = match serde_json::from_str(value) {
                    Ok(setting) => setting,
                    Err(error) => return Some(format!("it can't be read: {error}")),
                };
                let exports = VolumeSettings::from_properties(properties).exports;
                check_not_exported(name, &exports)
                    .and(self.check_mount(name, &setting, pools).await.map(drop))
            }
            EXPORTS_KEY => {
                let own = BTreeMap::from([(key.to_owned(), value.to_owned())]);
                let exports = VolumeSettings::from_properties(&own).exports;
                // Also where the mount waits: both may be agreed to at once.
                let has = |key: &str| properties.contains_key(key);
                let mounted = has(MOUNT_KEY) || has(&format!("{HELD_PREFIX}{MOUNT_KEY}"));
                exports.iter().try_for_each(|export| {
                    check_writers(name, mounted, export)?;
                    check_free(pools, name, export)
                })
            }
            _ => Ok(()),
        };
        refused.err().map(|error| error.to_string())
    }

    /// What waits of one pool.
    pub async fn held_of(&self, name: &str) -> Result<Vec<HeldReport>, ApiError> {
        let pools = self.fresh_pools().await?;
        find_pool(&pools, name)?;
        let mut reports = self.held(&pools).await;
        reports.retain(|report| report.volume.pool() == name);
        Ok(reports)
    }

    /// Has what waits acted on; returns what stays out.
    pub async fn confirm_settings(&self, name: &str) -> Result<Vec<HeldReport>, ApiError> {
        let _names = self.turns.on_pool(name).await?;
        let pools = self.fresh_pools().await?;
        let pool = find_pool(&pools, name)?;
        check_open(pool)?;
        let mut turns = Vec::new();
        for (name, _) in pool.named_volumes() {
            turns.push(self.turns.on(&name).await?);
        }
        let _addresses = self.turns.on_exports().await?;
        let waiting = self.held_of(name).await?;
        let confirmed: BTreeSet<_> = waiting
            .iter()
            .filter(|report| report.refused.is_none())
            .map(|report| held(report.volume.volume(), &report.key))
            .collect();
        self.registry.turn().await.confirm(name, &confirmed).await?;
        tracing::info!(
            pool = name,
            settings = confirmed.len(),
            "settings that came with the pool are confirmed"
        );
        // The engine hears of it with the next look.
        self.fresh_pools().await?;
        self.look_now();
        Ok(waiting.into_iter().filter(|report| report.refused.is_some()).collect())
    }
}
