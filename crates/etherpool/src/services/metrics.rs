//! The supervisor's page for Prometheus: the engine's part, while it answers, and that of pools and alerts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use control::channel::EngineRequest;
use control::metrics::{Supervisor, metrics};

use super::Services;
use super::api::App;
use super::described::{Text, TextKind};
use crate::admin::{MetricsServer, PAGE_TYPE};

/// Serves it until the end is dropped. Pools don't depend on it: what doesn't work is logged.
pub fn serve(
    services: Arc<Services>,
    runtime: tokio::runtime::Handle,
    address: SocketAddr,
) -> Option<MetricsServer> {
    // It is asked on threads of the page's own.
    let page = move || Some(runtime.block_on(page(&services)));
    match MetricsServer::start(address, page) {
        Ok(server) => {
            tracing::info!("metrics at http://{}/metrics", server.address());
            Some(server)
        }
        Err(error) => {
            tracing::error!("no metrics: {error:#}");
            None
        }
    }
}

/// The type of the page.
pub(super) struct Exposition;

impl TextKind for Exposition {
    const KIND: &str = PAGE_TYPE;
}

/// The same page by the API.
pub(super) async fn show(State(services): App) -> Text<Exposition> {
    Text::new(([(CONTENT_TYPE, PAGE_TYPE)], page(&services).await))
}

async fn page(services: &Services) -> String {
    let asked = services.engine.call::<String>(EngineRequest::Metrics);
    let (exports, pools) = tokio::join!(asked, services.fresh_pools());
    let mut text = metrics(&Supervisor {
        host: &services.host,
        version: env!("CARGO_PKG_VERSION"),
        engine_is_up: pools.is_ok(),
        engine_restarts: services.engines_seen.load(Ordering::Relaxed).saturating_sub(1),
        pools: pools.as_deref().unwrap_or_default(),
        alerts: &services.teller.report(),
    });
    text.push_str(exports.as_deref().unwrap_or_default());
    text
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
