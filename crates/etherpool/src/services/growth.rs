//! Requests of the API that make pools of disks, and extend them.

use control::api::{ApiError, CreatePool, ErrorCode, ExtendPool, GrownPool, PoolPlan};
use pool::PoolReport;

use super::api::{Answer, Json, On, OnPool, pool_name};
use super::witnesses::Growth;

pub(super) async fn create_pool(on: On<(), CreatePool>) -> Answer<GrownPool> {
    let On { services, request, .. } = on;
    let name = request.name.clone();
    pool_name(&name)?;
    to_the_end(async move {
        let Growth { request, witness, turn } = services.creation(request).await?;
        let made = services.ask_for_pool(&name, request).await;
        drop(turn);
        services.witness_left.notify_one();
        let Json(report) = made?;
        let key_file = services.key_file_of(&report.id).await;
        Ok(Json(GrownPool { report, witness, key_file }))
    })
    .await
}

pub(super) async fn plan_pool(on: On<(), CreatePool>) -> Answer<PoolPlan> {
    pool_name(&on.request.name)?;
    Ok(Json(on.services.plan_pool(on.request).await?))
}

pub(super) async fn extend_pool(on: OnPool<ExtendPool>) -> Answer<GrownPool> {
    let On { services, path: pool, request, .. } = on;
    to_the_end(async move {
        let Growth { request, witness, turn } = services.extension(pool, request).await?;
        let extended = services.ask::<PoolReport>(request).await;
        drop(turn);
        services.witness_left.notify_one();
        let Json(mut report) = extended?;
        services.registry.set_apart(std::slice::from_mut(&mut report));
        Ok(Json(GrownPool { report, witness, key_file: None }))
    })
    .await
}

pub(super) async fn plan_extension(on: OnPool<ExtendPool>) -> Answer<PoolPlan> {
    Ok(Json(on.services.plan_extension(on.path, on.request).await?))
}

/// Goes on also where whoever asked is gone. The engine does, too: a witness that it is about to use mustn't be let go.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(ApiError::new(ErrorCode::Internal, format!("it was broken off: {error}")).into())
    })
}
