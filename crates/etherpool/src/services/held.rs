//! Settings that came with a pool: shown to a person, and acted on when that person says so.

use std::collections::BTreeSet;

use control::api::{ApiError, HeldReport};
use control::names::VolumeName;
use control::registry::held;
use control::settings::{HELD_PREFIX, MOUNT_KEY, MountSetting, in_words};
use pool::PoolReport;

use super::Services;
use super::mounts::check_open;
use super::operations::find_pool;

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
                let volume = VolumeName::new(&pool.name, &one.volume);
                let refused = match one.key == MOUNT_KEY {
                    true => self.why_not_mounted(&volume, value, pools).await,
                    false => None,
                };
                let what = in_words(&one.key, value);
                reports.push(HeldReport { volume, key: one.key, what, refused });
            }
        }
        reports
    }

    async fn why_not_mounted(
        &self,
        name: &VolumeName,
        value: &str,
        pools: &[PoolReport],
    ) -> Option<String> {
        let setting: MountSetting = match serde_json::from_str(value) {
            Ok(setting) => setting,
            Err(error) => return Some(format!("it can't be read: {error}")),
        };
        self.check_mount(name, &setting, pools).await.err().map(|error| error.to_string())
    }

    /// What waits of one pool.
    pub async fn held_of(&self, name: &str) -> Result<Vec<HeldReport>, ApiError> {
        let pools = self.fresh_pools().await?;
        find_pool(&pools, name)?;
        let mut reports = self.held(&pools).await;
        reports.retain(|report| report.volume.pool == name);
        Ok(reports)
    }

    /// Has what waits acted on; returns what stays out.
    pub async fn confirm_settings(&self, name: &str) -> Result<Vec<HeldReport>, ApiError> {
        let pools = self.fresh_pools().await?;
        let pool = find_pool(&pools, name)?;
        check_open(pool)?;
        let waiting = self.held_of(name).await?;
        let confirmed: BTreeSet<_> = waiting
            .iter()
            .filter(|report| report.refused.is_none())
            .map(|report| held(&report.volume.volume, &report.key))
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
