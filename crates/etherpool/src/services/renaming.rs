//! Giving a pool another name, which is in the paths of its volumes' block devices and of whoever mounts them: so while
//! this machine uses one of them, it isn't renamed. Exports stay, with their addresses.

use block::check_name;
use control::api::{ApiError, PoolReportExt as _, RenamePool};
use control::channel::EngineRequest;
use control::settings::VolumeSettings;
use pool::PoolReport;

use super::Services;
use super::mounts::check_open;
use super::operations::{check_detached, check_not_used_here, find_pool};

impl Services {
    /// Gives an open pool another name, or says why it can't have it.
    pub async fn rename_pool(
        &self,
        pool: String,
        request: RenamePool,
    ) -> Result<PoolReport, ApiError> {
        check_name(&request.name).map_err(ApiError::from)?;
        let names: Vec<_> = {
            let pools = self.fresh_pools().await?;
            let report = find_pool(&pools, &pool)?;
            check_open(report)?;
            report.named_volumes().map(|(name, _)| name).collect()
        };
        let (mut turns, mut paused) = (Vec::new(), Vec::new());
        for name in &names {
            turns.push(self.turns.on(name).await?);
        }
        // Looked at once nobody begins anything with them any more.
        let pools = self.fresh_pools().await?;
        for (name, volume) in find_pool(&pools, &pool)?.named_volumes() {
            let settings = VolumeSettings::from_properties(&volume.properties);
            check_not_used_here(&name, &settings)?;
        }
        for name in &names {
            let state = self.reconciler.volume(name).pause().await?;
            check_detached(name, state.device().is_some())?;
            paused.push(state);
        }
        let RenamePool { name, dry_run } = request;
        let mut renamed: PoolReport =
            self.engine.call(EngineRequest::RenamePool { pool, name, dry_run }).await?;
        if !dry_run {
            self.remember().await?;
            self.look_now();
        }
        self.registry.set_apart(std::slice::from_mut(&mut renamed));
        Ok(renamed)
    }
}
