//! All routes of the API, each with the role that it takes. A route can't be written without one, and who hasn't it reaches
//! nothing behind it: neither the operation nor a pool's history.
//!
//! Who may operate neither destroys anything nor gives anybody access, himself included. So what an operator's request
//! may not say is refused where it is read: `Peer::may`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use control::api::{ApiError, ErrorCode, Role, former_path};

use super::api::{self, Refusal};
use super::commands::noted;
use super::described::{Described, Operation};
use super::former::in_former_form;
use super::schemas::Schemas;
use super::{
    Services, boot_copies, growth, layouts, members, metrics, openapi, page, pool_keys, told,
    versions,
};

/// A route. Without a sentence about it, and a handler whose types say what it takes and answers, there is none.
pub(super) struct Route {
    pub role: Role,
    /// Where no body is read it can't say that it is a dry run.
    a_body: bool,
    /// Served in clear too, to browsers of this machine.
    on_page: bool,
    pub path: &'static str,
    pub taken: Taken,
    /// What it does, for people.
    pub says: &'static str,
}

/// A handler, how it is asked, and what it takes and answers.
pub(super) struct Taken {
    pub method: &'static str,
    operation: MethodRouter<Arc<Services>>,
    pub describe: fn(&mut Schemas) -> Operation,
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

fn read(path: &'static str, taken: Taken, says: &'static str) -> Route {
    Route { role: Role::Read, a_body: true, on_page: false, path, taken, says }
}

fn operate(path: &'static str, taken: Taken, says: &'static str) -> Route {
    Route { role: Role::Operate, a_body: true, on_page: false, path, taken, says }
}

fn administer(path: &'static str, taken: Taken, says: &'static str) -> Route {
    Route { role: Role::Administer, a_body: true, on_page: false, path, taken, says }
}

fn get<H, T, D>(handler: H) -> Taken
where
    H: Handler<T, Arc<Services>> + Described<D>,
    T: 'static,
{
    Taken { method: "get", operation: routing::get(handler), describe: H::describe }
}

fn post<H, T, D>(handler: H) -> Taken
where
    H: Handler<T, Arc<Services>> + Described<D>,
    T: 'static,
{
    Taken { method: "post", operation: routing::post(handler), describe: H::describe }
}

fn delete<H, T, D>(handler: H) -> Taken
where
    H: Handler<T, Arc<Services>> + Described<D>,
    T: 'static,
{
    Taken { method: "delete", operation: routing::delete(handler), describe: H::describe }
}

/// All of them.
pub(super) fn all() -> Vec<Route> {
    let supervisor = [
        read("/", get(page::index), "The live page, for browsers").on_page(),
        read("/page/{file}", get(page::file), "A file of the live page").on_page(),
        read("/v2/status", get(api::status), "All that is known of the supervisor, its pools and what is made of their volumes, and what is wrong").on_page(),
        read("/v2/version", get(versions::show), "Who runs which version"),
        read("/v2/discover", get(api::discover), "The AoE targets that answer on the segment"),
        read("/v2/disks", get(api::disks), "The disks that are present, and what is on them").on_page(),
        administer("/v2/disks/{disk}/reset-epoch", post(api::reset_epoch), "Has a disk forget its owner"),
        administer("/v2/disks/wipe", post(api::wipe_disks), "Wipes disks, as a plan says that was shown"),
        administer("/v2/disks/wipe/plan", post(api::plan_wipe), "What wiping disks would take off them"),
        read("/v2/members", get(members::show), "The nodes that joined, and the tokens by which others may"),
        administer("/v2/members/add", post(members::add), "Has a node join by its key"),
        administer("/v2/members/forget", post(members::forget), "Takes a node that joined for a stranger again"),
        administer("/v2/tokens", post(members::create_token), "Makes a token by which nodes join"),
        administer("/v2/tokens/{id}", delete(members::revoke_token), "Gives up a token").alone(),
        read("/v2/events", get(told::events), "What happens, as it happens; it never ends").on_page(),
        read("/v2/alerts", get(told::alerts), "What people were told of that lasts, and the ways to tell them"),
        operate("/v2/alerts/test", post(told::test), "Sends a message by each of these ways").alone(),
        read("/v2/openapi.json", get(openapi::show), "This description of the API: OpenAPI 3.1"),
        read("/metrics", get(metrics::show), "The page for Prometheus"),
    ];
    let pools = [
        read("/v2/pools", get(api::pools), "The pools that are present"),
        administer("/v2/pools", post(growth::create_pool), "Makes a pool"),
        administer("/v2/plan/pool", post(growth::plan_pool), "What making a pool would do"),
        read("/v2/pools/{pool}", get(api::pool), "A pool"),
        read(
            "/v2/pools/{pool}/history",
            get(told::history),
            "What happened to a pool, and who had what done",
        )
        .on_page(),
        administer("/v2/pools/{pool}/extend", post(growth::extend_pool), "Adds disks to a pool"),
        administer(
            "/v2/pools/{pool}/extend/plan",
            post(growth::plan_extension),
            "What adding disks to a pool would do",
        ),
        read(
            "/v2/pools/{pool}/import",
            get(api::plan_import),
            "Whose a pool is that may be imported",
        ),
        administer("/v2/pools/{pool}/import", post(api::import_pool), "Imports a pool"),
        read(
            "/v2/pools/{pool}/key",
            get(pool_keys::show),
            "Whom a pool's disks obey; null where it has no key",
        ),
        administer(
            "/v2/pools/{pool}/key/admit",
            post(pool_keys::admit),
            "Lets another supervisor have a pool's disks",
        ),
        administer(
            "/v2/pools/{pool}/key/rotate",
            post(pool_keys::rotate),
            "Gives a pool another key, or its first",
        ),
        administer(
            "/v2/pools/{pool}/key/revoke",
            post(pool_keys::revoke),
            "Shuts out a supervisor from a pool's disks",
        ),
        administer(
            "/v2/pools/{pool}/key/export",
            post(pool_keys::export),
            "The secret half of a pool's key",
        )
        .alone(),
        administer(
            "/v2/pools/{pool}/key/import",
            post(pool_keys::import_key),
            "Brings the secret half of a pool's key",
        ),
        administer(
            "/v2/pools/{pool}/release",
            post(api::release_pool),
            "Closes a pool for others to import, or gives up one that can't be opened; null once it is done",
        ),
        read(
            "/v2/pools/{pool}/destroy",
            get(api::plan_destroy),
            "What destroying a pool would end",
        ),
        administer(
            "/v2/pools/{pool}/destroy",
            post(api::destroy_pool),
            "Destroys a pool, as a plan says that was shown",
        ),
        administer("/v2/pools/{pool}/rename", post(api::rename_pool), "Gives a pool another name"),
        operate(
            "/v2/pools/{pool}/empty",
            post(layouts::empty_disks),
            "Moves what is on disks to others",
        ),
        operate("/v2/pools/{pool}/jobs/{number}", delete(api::cancel_job), "Cancels a job").alone(),
        administer("/v2/pools/{pool}/set", post(api::set_pool), "Sets what is named of a pool"),
        operate(
            "/v2/pools/{pool}/scrub",
            post(api::scrub_pool),
            "Begins a scrub, and answers with the number of its job",
        ),
        operate(
            "/v2/pools/{pool}/rebalance",
            post(layouts::rebalance_pool),
            "Moves data so that disks are evenly full",
        ),
        administer(
            "/v2/pools/{pool}/label",
            post(layouts::label_disks),
            "Says what disks share with others",
        ),
        operate("/v2/pools/{pool}/offline", post(layouts::offline_disks), "Takes disks out of use"),
        operate(
            "/v2/pools/{pool}/online",
            post(layouts::online_disks),
            "Takes disks into use again",
        ),
        read(
            "/v2/pools/{pool}/moved",
            get(layouts::moved_disks),
            "Disks that another machine has than had them last",
        ),
        administer(
            "/v2/pools/{pool}/accept",
            post(layouts::accept_disks),
            "Takes such disks into use where they are now, as they were shown",
        ),
        administer(
            "/v2/pools/{pool}/boot-copies",
            get(boot_copies::show),
            "What boot servers keep in a pool",
        ),
        administer(
            "/v2/pools/{pool}/boot-copies/{server}",
            delete(boot_copies::forget),
            "Gives up what a boot server keeps in a pool",
        )
        .alone(),
        read(
            "/v2/pools/{pool}/held",
            get(api::held),
            "Settings that came with a pool and aren't acted on",
        ),
        administer(
            "/v2/pools/{pool}/confirm-settings",
            post(api::confirm_settings),
            "Has settings that came with a pool acted on; answers with those that stay out",
        )
        .alone(),
    ];
    let volumes = [
        administer("/v2/pools/{pool}/volumes", post(api::create_volume), "Makes a volume"),
        administer(
            "/v2/pools/{pool}/plan/volume",
            post(api::plan_volume),
            "What making a volume would do",
        ),
        read("/v2/pools/{pool}/volumes/{volume}", get(api::volume), "A volume"),
        administer(
            "/v2/pools/{pool}/volumes/{volume}",
            delete(api::remove_volume),
            "Removes a volume with all that is in it",
        ),
        read(
            "/v2/pools/{pool}/volumes/{volume}/stats",
            get(api::volume_stats),
            "Where the time of a volume's requests goes",
        )
        .on_page(),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/extend",
            post(api::extend_volume),
            "Makes a volume larger",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/reduce",
            post(api::reduce_volume),
            "Makes a volume smaller",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/rename",
            post(api::rename_volume),
            "Gives a volume another name",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/convert",
            post(layouts::convert_volume),
            "Gives a volume another layout",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/accept-loss",
            post(api::accept_loss),
            "Has a volume serve without what is lost of it; answers with what that is",
        ),
        operate(
            "/v2/pools/{pool}/volumes/{volume}/verify",
            post(api::verify_volume),
            "Reads and compares all copies of a volume",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/mkfs",
            post(api::make_fs),
            "Makes a file system on a volume",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/check",
            post(api::check_fs),
            "Checks a volume's file system",
        )
        .alone(),
        operate(
            "/v2/pools/{pool}/volumes/{volume}/attach",
            post(api::attach),
            "Makes a block device of a volume, and answers with its path",
        )
        .alone(),
        operate(
            "/v2/pools/{pool}/volumes/{volume}/detach",
            post(api::detach),
            "Ends a volume's block device",
        )
        .alone(),
        operate(
            "/v2/pools/{pool}/volumes/{volume}/mount",
            post(api::mount),
            "Mounts a volume; null once it is done",
        ),
        operate(
            "/v2/pools/{pool}/volumes/{volume}/unmount",
            post(api::unmount),
            "Unmounts a volume; null once it is done",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/ftp",
            post(api::serve_ftp),
            "Serves a volume by FTP, and answers with where",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/ftp",
            delete(api::stop_ftp),
            "Ends the FTP of a volume",
        )
        .alone(),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/export",
            post(api::export),
            "Exports a volume by AoE, and answers with its address",
        ),
        administer(
            "/v2/pools/{pool}/volumes/{volume}/unexport",
            post(api::unexport),
            "Ends exports of a volume",
        ),
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
    for Route { role, a_body, path, taken: Taken { operation, .. }, .. } in routes {
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
