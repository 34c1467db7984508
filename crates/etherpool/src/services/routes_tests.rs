#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, StatusCode};
use control::config::SupervisorConfig;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::super::ServicesArgs;
use super::super::access::Peer;
use super::*;

/// The API of a supervisor whose engine isn't there.
struct Api {
    router: TowerToHyperService<Router>,
    page: TowerToHyperService<Router>,
    _directory: tempfile::TempDir,
}

impl Api {
    fn new() -> Api {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let text = format!(
            "state-dir = {:?}\nrun-dir = {:?}\ndevice-dir = {:?}\n[alerts]\nmail = {{ enabled = false }}\n",
            at("state"),
            at("run"),
            at("dev")
        );
        let config = SupervisorConfig::parse(&text).unwrap();
        let args = ServicesArgs { config: None, owner: uuid::Uuid::nil(), host: "host".to_owned() };
        let services = Services::start(config, &args).unwrap();
        let [router, page] = [router(Arc::clone(&services)), page_router(services)];
        let [router, page] = [router, page].map(TowerToHyperService::new);
        Api { router, page, _directory: directory }
    }

    async fn ask(&self, peer: Peer, method: &Method, path: &str) -> (StatusCode, String) {
        let mut request =
            Request::builder().method(method).uri(path).body(Body::from("{}")).unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.router.call(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

fn client(role: Role) -> Peer {
    Peer::Client { name: "ann".to_owned(), role, address: [192, 0, 2, 1].into() }
}

/// A request's path, as it may be.
fn path_of(route: &Route) -> String {
    let parts = route.path.split('/').map(|part| match part {
        "{number}" => "1",
        "{disk}" => "e1.0",
        "{id}" => "00ff00ff",
        "{file}" => "page.js",
        part if part.starts_with('{') => "x",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

const METHODS: [Method; 5] =
    [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::PATCH];

#[tokio::test]
async fn who_has_not_the_role_of_a_route_reaches_nothing_behind_it() {
    let api = Api::new();
    let mut operations = BTreeSet::new();
    for route in all() {
        let path = path_of(&route);
        let lower = Role::ALL.into_iter().filter(|role| *role < route.role).map(client);
        let reader = Peer::Local { uid: Some(65_534), login: None };
        let readers = [reader].into_iter().filter(|_| route.role > Role::Read);
        for peer in lower.chain(readers) {
            for method in METHODS {
                let (status, text) = api.ask(peer.clone(), &method, &path).await;
                match status {
                    StatusCode::FORBIDDEN => {
                        operations.insert((route.role, method.to_string(), route.path));
                        assert!(text.contains("\"refused\""), "{method} {path}: {text}");
                    }
                    StatusCode::NOT_FOUND if method != Method::GET => {
                        assert!(text.contains("has no such operation"), "{method} {path}: {text}");
                    }
                    // Another route, of the same path, by which one may look.
                    _ => assert_eq!(method, Method::GET, "{path} by {peer:?}: {status} {text}"),
                }
            }
        }
    }
    let changing = all().into_iter().filter(|route| route.role > Role::Read).count();
    assert_eq!(operations.len(), changing, "each refuses by one method: {operations:?}");
    // What is in the directory of a boot server is root's alone there.
    let only_read = ["/v2/pools/{pool}/boot-copies"];
    let is_changed = |method: &str| method == "POST" || method == "DELETE";
    assert!(operations.iter().all(|(_, how, path)| is_changed(how) != only_read.contains(path)));
}

#[tokio::test]
async fn the_former_versions_paths_lead_to_the_same_and_ask_for_the_same_role() {
    let api = Api::new();
    for route in all() {
        let path = path_of(&route);
        let Some(former) = former_path(&path) else { continue };
        assert_ne!(former, path);
        for role in Role::ALL {
            // Events are told for ever.
            let asked = METHODS
                .iter()
                .filter(|method| !path.ends_with("/events") || *method != Method::GET);
            for method in asked {
                let ours = api.ask(client(role), method, &path).await;
                let theirs = api.ask(client(role), method, &former).await;
                // What has no operation says which.
                let same =
                    |answer: (StatusCode, String)| (answer.0, answer.1.replace("/v2/", "/v1/"));
                assert_eq!(same(theirs), same(ours), "{role:?} {method} {former}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_read_is_read_by_get_alone() {
    let api = Api::new();
    let changed: BTreeSet<&str> =
        all().iter().filter(|route| route.role > Role::Read).map(|route| route.path).collect();
    let read = all().into_iter().filter(|route| route.role == Role::Read);
    for route in read.filter(|route| !changed.contains(route.path)) {
        for method in &METHODS[1..] {
            let (status, text) = api.ask(client(Role::Administer), method, &path_of(&route)).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {}: {text}", route.path);
        }
    }
    let (status, page) = api.ask(client(Role::Read), &Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("etherpool_engine_up 0"), "{page}");
    let (status, _) = api.ask(client(Role::Read), &Method::GET, "/v2/secrets").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

/// A route that is to be an operator's is written here too, by who has asked what it destroys and to whom it gives access.
#[test]
fn who_operates_may_this() {
    let operators: Vec<&str> =
        all().iter().filter(|route| route.role == Role::Operate).map(|route| route.path).collect();
    let volume = |what: &str| format!("/v2/pools/{{pool}}/volumes/{{volume}}/{what}");
    let of_volumes = ["verify", "attach", "detach", "mount", "unmount"].map(volume);
    let of_pools = ["empty", "jobs/{number}", "scrub", "rebalance", "offline", "online"]
        .map(|what| format!("/v2/pools/{{pool}}/{what}"));
    let expected: Vec<String> =
        ["/v2/alerts/test".to_owned()].into_iter().chain(of_pools).chain(of_volumes).collect();
    assert_eq!(operators, expected);
}

/// As is one that is to be a reader's, by who has asked whether anything that it answers is a token or the secret half of a key.
#[test]
fn who_reads_gets_no_secret() {
    let readers: Vec<&str> =
        all().iter().filter(|route| route.role == Role::Read).map(|route| route.path).collect();
    let of_all = ["status", "version", "discover", "disks", "members", "events", "alerts"];
    let of_all = of_all.map(|what| format!("/v2/{what}"));
    let of_pools = ["", "/history", "/import", "/key", "/destroy", "/moved", "/held"]
        .map(|what| format!("/v2/pools/{{pool}}{what}"));
    let of_volumes =
        ["", "/stats"].map(|what| format!("/v2/pools/{{pool}}/volumes/{{volume}}{what}"));
    let others = ["/v2/openapi.json", "/metrics", "/v2/pools"].map(str::to_owned);
    let page = ["/", "/page/{file}"].map(str::to_owned);
    let expected: Vec<String> =
        page.into_iter().chain(of_all).chain(others).chain(of_pools).chain(of_volumes).collect();
    assert_eq!(readers, expected);
}

#[tokio::test]
async fn who_operates_does_not_say_what_makes_him_more() {
    let api = Api::new();
    let ask = async |role, path: &str, body: &str| {
        let mut request = Request::post(path).body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(ConnectInfo(client(role)));
        api.router.call(request).await.unwrap().status()
    };
    let (empty, scrub) = ("/v2/pools/x/empty", "/v2/pools/x/scrub");
    let mount = "/v2/pools/x/volumes/v/mount";
    for (path, more, less) in [
        (empty, r#"{"disks":["e1.0"],"remove":true}"#, r#"{"disks":["e1.0"]}"#),
        (scrub, r#"{"scrub_every_secs":null}"#, "{}"),
        (mount, r#"{"path":"/srv/x","options":["suid"]}"#, r#"{"path":"/srv/x","options":["ro"]}"#),
        (mount, r#"{"path":"/srv/x","options":["ro,dev"]}"#, r#"{"path":"/srv/x"}"#),
    ] {
        assert_eq!(ask(Role::Operate, path, more).await, StatusCode::FORBIDDEN, "{more}");
        // The engine isn't there, so what may be said ends with that.
        assert_eq!(ask(Role::Operate, path, less).await, StatusCode::SERVICE_UNAVAILABLE, "{less}");
        assert_eq!(ask(Role::Administer, path, more).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// A route that is to be served in clear, to whoever has an account on the machine, is written here too.
#[tokio::test]
async fn the_page_shows_this_and_reaches_nothing_else() {
    let shown: Vec<&str> =
        all().iter().filter(|route| route.on_page).map(|route| route.path).collect();
    let stats = "/v2/pools/{pool}/volumes/{volume}/stats";
    let history = "/v2/pools/{pool}/history";
    let expected = ["/", "/page/{file}", "/v2/status", "/v2/disks", "/v2/events", history, stats];
    assert_eq!(shown, expected);
    let api = Api::new();
    for route in all() {
        assert!(!route.on_page || route.role == Role::Read, "{}", route.path);
        for method in &METHODS {
            let mut request = Request::builder().method(method).uri(path_of(&route));
            request.extensions_mut().unwrap().insert(ConnectInfo(client(Role::Administer)));
            let request = request.body(Body::from("{}")).unwrap();
            let status = api.page.call(request).await.unwrap().status();
            let is_there = shown.contains(&route.path) && method == Method::GET;
            assert_eq!(status == StatusCode::NOT_FOUND, !is_there, "{method} {}", route.path);
        }
    }
}

/// Whose certificate a browser shows, whatever page he looks at.
#[tokio::test]
async fn no_page_in_a_browser_changes_anything() {
    let api = Api::new();
    let ask = async |method: &Method, path: &str, origin: Option<&'static str>| {
        let mut request = Request::builder().method(method).uri(path);
        request.extensions_mut().unwrap().insert(ConnectInfo(client(Role::Administer)));
        if let Some(origin) = origin {
            request.headers_mut().unwrap().insert("origin", HeaderValue::from_static(origin));
        }
        let request = request.body(Body::from("{}")).unwrap();
        api.router.call(request).await.unwrap().status()
    };
    for route in all().into_iter().filter(|route| route.role > Role::Read) {
        let path = path_of(&route);
        for method in [Method::POST, Method::DELETE] {
            if ask(&method, &path, None).await == StatusCode::NOT_FOUND {
                continue;
            }
            for origin in ["https://evil.example", "https://192.0.2.1:9443", "null"] {
                let status = ask(&method, &path, Some(origin)).await;
                assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} from {origin}");
            }
        }
    }
    let looked = ask(&Method::GET, "/v2/status", Some("https://192.0.2.1:9443")).await;
    assert_eq!(looked, StatusCode::OK);
}
