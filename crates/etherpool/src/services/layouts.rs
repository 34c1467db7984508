//! Requests of the API for groups that move, volumes that get another layout, and disks that people take out of use.

use control::api::{
    ConvertVolume, EmptyDisks, LabelDisks, NamedDisks, RebalancePool, Role, ShownDisk,
};
use control::channel::EngineRequest;
use pool::{
    ConvertForecast, EmptyForecast, LabelForecast, MovedDisk, OfflineForecast, OnlineForecast,
    RebalanceForecast,
};

use axum::extract::State;

use super::api::{Answer, App, OnPool, OnVolume, volume_name};
use super::described::Path;

pub(super) async fn empty_disks(on: OnPool<EmptyDisks>) -> Answer<EmptyForecast> {
    if on.request.remove {
        // What a pool has it isn't given back by who operates.
        on.peer.may(Role::Administer)?;
    }
    on.services.ask(EngineRequest::EmptyDisks { pool: on.path, request: on.request }).await
}

pub(super) async fn label_disks(on: OnPool<LabelDisks>) -> Answer<LabelForecast> {
    on.services.ask(EngineRequest::LabelDisks { pool: on.path, request: on.request }).await
}

pub(super) async fn rebalance_pool(on: OnPool<RebalancePool>) -> Answer<RebalanceForecast> {
    let RebalancePool { dry_run } = on.request;
    on.services.ask(EngineRequest::RebalancePool { pool: on.path, dry_run }).await
}

pub(super) async fn convert_volume(on: OnVolume<ConvertVolume>) -> Answer<ConvertForecast> {
    let volume = volume_name(on.path)?;
    on.services.ask(EngineRequest::ConvertVolume { volume, request: on.request }).await
}

pub(super) async fn offline_disks(on: OnPool<NamedDisks>) -> Answer<OfflineForecast> {
    on.services.ask(EngineRequest::OfflineDisks { pool: on.path, request: on.request }).await
}

pub(super) async fn online_disks(on: OnPool<NamedDisks>) -> Answer<OnlineForecast> {
    on.services.ask(EngineRequest::OnlineDisks { pool: on.path, request: on.request }).await
}

pub(super) async fn moved_disks(
    State(services): App,
    Path(pool): Path<String>,
) -> Answer<Vec<MovedDisk>> {
    services.ask(EngineRequest::MovedDisks { pool }).await
}

pub(super) async fn accept_disks(on: OnPool<Vec<ShownDisk>>) -> Answer<()> {
    let shown = on.request.into_iter().map(MovedDisk::from).collect();
    on.services.ask(EngineRequest::AcceptDisks { pool: on.path, shown }).await
}
