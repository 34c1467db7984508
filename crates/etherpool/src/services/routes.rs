//! All routes of the API, each with the role that it takes. A route can't be written without one, and who hasn't it reaches
//! nothing behind it: neither the operation nor a pool's history.
//!
//! Who may operate neither destroys anything nor gives anybody access, himself included. So what an operator's request
//! may not say is refused where it is read: `Peer::may`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use control::api::{ApiError, ErrorCode, Role, former_path};

use super::api::{self, Refusal};
use super::commands::noted;
use super::former::in_former_form;
use super::{
    Services, boot_copies, growth, layouts, members, metrics, page, pool_keys, told, versions,
};

struct Route {
    role: Role,
    /// Where no body is read it can't say that it is a dry run.
    a_body: bool,
    /// Served in clear too, to browsers of this machine.
    on_page: bool,
    path: &'static str,
    operation: MethodRouter<Arc<Services>>,
}

/// What a request must have, and may.
#[derive(Clone, Copy)]
pub(super) struct Takes {
    pub role: Role,
    pub a_body: bool,
}

impl Route {
    /// Nothing is asked for but what the path says.
    fn alone(mut self) -> Route {
        self.a_body = false;
        self
    }

    /// The page shows it.
    fn on_page(mut self) -> Route {
        self.on_page = true;
        self
    }
}

fn read(path: &'static str, operation: MethodRouter<Arc<Services>>) -> Route {
    Route { role: Role::Read, a_body: true, on_page: false, path, operation }
}

fn operate(path: &'static str, operation: MethodRouter<Arc<Services>>) -> Route {
    Route { role: Role::Operate, a_body: true, on_page: false, path, operation }
}

fn administer(path: &'static str, operation: MethodRouter<Arc<Services>>) -> Route {
    Route { role: Role::Administer, a_body: true, on_page: false, path, operation }
}

fn all() -> Vec<Route> {
    let supervisor = [
        read("/", get(page::index)).on_page(),
        read("/page/{file}", get(page::file)).on_page(),
        read("/v2/status", get(api::status)).on_page(),
        read("/v2/version", get(versions::show)),
        read("/v2/discover", get(api::discover)),
        read("/v2/disks", get(api::disks)).on_page(),
        administer("/v2/disks/{disk}/reset-epoch", post(api::reset_epoch)),
        administer("/v2/disks/wipe", post(api::wipe_disks)),
        administer("/v2/disks/wipe/plan", post(api::plan_wipe)),
        read("/v2/members", get(members::show)),
        administer("/v2/members/add", post(members::add)),
        administer("/v2/members/forget", post(members::forget)),
        administer("/v2/tokens", post(members::create_token)),
        administer("/v2/tokens/{id}", delete(members::revoke_token)).alone(),
        read("/v2/events", get(told::events)).on_page(),
        read("/v2/alerts", get(told::alerts)),
        operate("/v2/alerts/test", post(told::test)).alone(),
        read("/metrics", get(metrics::show)),
    ];
    let pools = [
        read("/v2/pools", get(api::pools)),
        administer("/v2/pools", post(growth::create_pool)),
        administer("/v2/plan/pool", post(growth::plan_pool)),
        read("/v2/pools/{pool}", get(api::pool)),
        read("/v2/pools/{pool}/history", get(told::history)).on_page(),
        administer("/v2/pools/{pool}/extend", post(growth::extend_pool)),
        administer("/v2/pools/{pool}/extend/plan", post(growth::plan_extension)),
        read("/v2/pools/{pool}/import", get(api::plan_import)),
        administer("/v2/pools/{pool}/import", post(api::import_pool)),
        read("/v2/pools/{pool}/key", get(pool_keys::show)),
        administer("/v2/pools/{pool}/key/admit", post(pool_keys::admit)),
        administer("/v2/pools/{pool}/key/rotate", post(pool_keys::rotate)),
        administer("/v2/pools/{pool}/key/revoke", post(pool_keys::revoke)),
        administer("/v2/pools/{pool}/key/export", post(pool_keys::export)).alone(),
        administer("/v2/pools/{pool}/key/import", post(pool_keys::import_key)),
        administer("/v2/pools/{pool}/release", post(api::release_pool)),
        read("/v2/pools/{pool}/destroy", get(api::plan_destroy)),
        administer("/v2/pools/{pool}/destroy", post(api::destroy_pool)),
        administer("/v2/pools/{pool}/rename", post(api::rename_pool)),
        operate("/v2/pools/{pool}/empty", post(layouts::empty_disks)),
        operate("/v2/pools/{pool}/jobs/{number}", delete(api::cancel_job)).alone(),
        administer("/v2/pools/{pool}/set", post(api::set_pool)),
        operate("/v2/pools/{pool}/scrub", post(api::scrub_pool)),
        operate("/v2/pools/{pool}/rebalance", post(layouts::rebalance_pool)),
        administer("/v2/pools/{pool}/label", post(layouts::label_disks)),
        operate("/v2/pools/{pool}/offline", post(layouts::offline_disks)),
        operate("/v2/pools/{pool}/online", post(layouts::online_disks)),
        read("/v2/pools/{pool}/moved", get(layouts::moved_disks)),
        administer("/v2/pools/{pool}/accept", post(layouts::accept_disks)),
        administer("/v2/pools/{pool}/boot-copies", get(boot_copies::show)),
        administer("/v2/pools/{pool}/boot-copies/{server}", delete(boot_copies::forget)).alone(),
        read("/v2/pools/{pool}/held", get(api::held)),
        administer("/v2/pools/{pool}/confirm-settings", post(api::confirm_settings)).alone(),
    ];
    let volumes = [
        administer("/v2/pools/{pool}/volumes", post(api::create_volume)),
        administer("/v2/pools/{pool}/plan/volume", post(api::plan_volume)),
        read("/v2/pools/{pool}/volumes/{volume}", get(api::volume)),
        administer("/v2/pools/{pool}/volumes/{volume}", delete(api::remove_volume)),
        read("/v2/pools/{pool}/volumes/{volume}/stats", get(api::volume_stats)).on_page(),
        administer("/v2/pools/{pool}/volumes/{volume}/extend", post(api::extend_volume)),
        administer("/v2/pools/{pool}/volumes/{volume}/reduce", post(api::reduce_volume)),
        administer("/v2/pools/{pool}/volumes/{volume}/rename", post(api::rename_volume)),
        administer("/v2/pools/{pool}/volumes/{volume}/convert", post(layouts::convert_volume)),
        administer("/v2/pools/{pool}/volumes/{volume}/accept-loss", post(api::accept_loss)),
        operate("/v2/pools/{pool}/volumes/{volume}/verify", post(api::verify_volume)),
        administer("/v2/pools/{pool}/volumes/{volume}/mkfs", post(api::make_fs)),
        administer("/v2/pools/{pool}/volumes/{volume}/check", post(api::check_fs)).alone(),
        operate("/v2/pools/{pool}/volumes/{volume}/attach", post(api::attach)).alone(),
        operate("/v2/pools/{pool}/volumes/{volume}/detach", post(api::detach)).alone(),
        operate("/v2/pools/{pool}/volumes/{volume}/mount", post(api::mount)),
        operate("/v2/pools/{pool}/volumes/{volume}/unmount", post(api::unmount)),
        administer("/v2/pools/{pool}/volumes/{volume}/ftp", post(api::serve_ftp)),
        administer("/v2/pools/{pool}/volumes/{volume}/ftp", delete(api::stop_ftp)).alone(),
        administer("/v2/pools/{pool}/volumes/{volume}/export", post(api::export)),
        administer("/v2/pools/{pool}/volumes/{volume}/unexport", post(api::unexport)),
    ];
    supervisor.into_iter().chain(pools).chain(volumes).collect()
}

/// The API, whoever it is served to.
pub fn router(services: Arc<Services>) -> Router {
    serving(services, all(), former_path)
}

/// What the page is made of, for who shows no certificate.
pub fn page_router(services: Arc<Services>) -> Router {
    serving(services, all().into_iter().filter(|route| route.on_page).collect(), |_| None)
}

fn serving(
    services: Arc<Services>,
    routes: Vec<Route>,
    former_path: fn(&str) -> Option<String>,
) -> Router {
    let mut router = Router::new();
    for Route { role, a_body, path, operation, .. } in routes {
        let takes = Takes { role, a_body };
        let answered = from_fn_with_state((Arc::clone(&services), takes), to_its_end);
        let operation = operation.route_layer(answered);
        if let Some(path) = former_path(path) {
            router =
                router.route(&path, operation.clone().route_layer(map_response(in_former_form)));
        }
        router = router.route(path, operation);
    }
    router.fallback(api::no_route).method_not_allowed_fallback(api::no_route).with_state(services)
}

/// Goes on with what was begun when whoever asked goes away: half of a release or a mount leaves the
/// other half to nobody.
async fn to_its_end(
    State((services, takes)): State<(Arc<Services>, Takes)>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::spawn(noted(services, takes, request, next)).await {
        Ok(response) => response,
        Err(error) => {
            let error = ApiError::new(ErrorCode::Internal, error.to_string());
            Refusal::from(error).into_response()
        }
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
