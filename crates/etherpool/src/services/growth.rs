//! Requests of the API that make pools of disks, and extend them.

use axum::body::Bytes;
use axum::extract::State;
use control::api::{CreatePool, ExtendPool, PoolPlan};
use pool::PoolReport;

use super::api::{Answer, App, Json, On, OnPool, pool_name, read};

pub(super) async fn create_pool(State(services): App, body: Bytes) -> Answer<PoolReport> {
    let request: CreatePool = read(&body)?;
    let name = request.name.clone();
    pool_name(&name)?;
    let (request, witness) = services.creation(request).await?;
    let made = services.ask_for_pool(&name, request).await;
    services.settle(witness, made.is_ok()).await;
    made
}

pub(super) async fn plan_pool(State(services): App, body: Bytes) -> Answer<PoolPlan> {
    let request: CreatePool = read(&body)?;
    pool_name(&request.name)?;
    Ok(Json(services.plan_pool(request).await?))
}

pub(super) async fn extend_pool(on: OnPool<ExtendPool>) -> Answer<PoolReport> {
    let On { services, path: pool, request } = on;
    let (request, witness) = services.extension(pool, request).await?;
    let extended = services.ask::<PoolReport>(request).await;
    services.settle(witness, extended.is_ok()).await;
    let Json(mut report) = extended?;
    services.registry.set_apart(std::slice::from_mut(&mut report));
    Ok(Json(report))
}

pub(super) async fn plan_extension(on: OnPool<ExtendPool>) -> Answer<PoolPlan> {
    Ok(Json(on.services.plan_extension(on.path, on.request).await?))
}
