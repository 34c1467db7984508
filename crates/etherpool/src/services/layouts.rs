//! Requests of the API for groups that move, and volumes that get another layout.

use control::api::{ConvertVolume, RebalancePool};
use control::channel::EngineRequest;
use pool::{ConvertForecast, RebalanceForecast};

use super::api::{Answer, OnPool, OnVolume, volume_name};

pub(super) async fn rebalance_pool(on: OnPool<RebalancePool>) -> Answer<RebalanceForecast> {
    let RebalancePool { dry_run } = on.request;
    on.services.ask(EngineRequest::RebalancePool { pool: on.path, dry_run }).await
}

pub(super) async fn convert_volume(on: OnVolume<ConvertVolume>) -> Answer<ConvertForecast> {
    let volume = volume_name(on.path)?;
    on.services.ask(EngineRequest::ConvertVolume { volume, request: on.request }).await
}
