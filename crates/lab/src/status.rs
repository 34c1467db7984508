//! `lab status`: what runs, what is mounted, what is served.

use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use control::exit::Exit;
use frontend::kernel::mount_at;
use pool::PoolReport;
use serde_json::{Value, json};

use crate::command::etherpool_json;
use crate::place::{LabPlan, NodePlan, Place};
use crate::up::{POOL, VOLUME};
use crate::{network, process};

pub fn status(place: &Place, as_json: bool) -> anyhow::Result<ExitCode> {
    let status = gather(place)?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    let exit = Exit::of_health(is_healthy(&status));
    Ok(ExitCode::from(exit.code()))
}

/// Whether all machines run, and their pools are as they should be.
fn is_healthy(status: &Value) -> bool {
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    // Null without an answer.
    let Ok(pools) = serde_json::from_value::<Vec<PoolReport>>(status["pools"].clone()) else {
        return false;
    };
    ["pid", "engine", "services"].iter().all(|part| status["supervisor"][part].is_number())
        && nodes.all(|node| node["state"] == "running")
        && pools.iter().filter(|pool| pool.is_ours()).all(PoolReport::is_healthy)
}

/// Whether the lab's volume is mounted and its FTP server takes connections.
pub fn is_served(place: &Place) -> bool {
    let Ok(Some(plan)) = place.load_plan() else { return false };
    mount(place).is_some() && ftp(&plan).is_some()
}

/// What is missing of that, for whoever waits.
pub fn not_served(place: &Place) -> String {
    let Ok(Some(plan)) = place.load_plan() else { return "the lab's plan can't be read".into() };
    match (mount(place), ftp(&plan)) {
        (None, _) => format!("nothing is mounted at {} yet", place.mount_point().display()),
        _ => format!("the FTP server on port {} does not greet yet", plan.ftp_port),
    }
}

fn gather(place: &Place) -> anyhow::Result<Value> {
    let plan = place.plan()?;
    let supervisor = process::running(place, "supervisor");
    let list = |what: &str, key: &str| match supervisor {
        Some(_) => etherpool_json(place, [what, "list", "--json"])
            .ok()
            .map_or(Value::Null, |answer| answer.get(key).cloned().unwrap_or(answer)),
        None => json!([]),
    };
    let nodes: Vec<_> = plan.nodes.iter().map(|node| node_status(place, node)).collect();
    Ok(json!({
        "dir": place.dir(),
        "netns": place.switch_netns(),
        "mount": mount(place),
        "ftp": ftp(&plan),
        "api": place.api_socket(),
        "supervisor": {
            "pid": supervisor,
            "engine": supervisor.and_then(|pid| process::child(pid, "engine")),
            "services": supervisor.and_then(|pid| process::child(pid, "services")),
        },
        "nodes": nodes,
        "pools": list("pool", "pools"),
        "volumes": list("volume", "volumes"),
    }))
}

fn node_status(place: &Place, node: &NodePlan) -> Value {
    let pid = process::running(place, &node.name);
    let state = match pid {
        None => "dead",
        Some(pid) if is_stopped(pid) => "paused",
        Some(_) if !network::is_joined(place, &node.name) => "cut",
        Some(_) => "running",
    };
    let disks: Vec<_> = node
        .disk_bytes
        .iter()
        .enumerate()
        .map(|(slot, bytes)| {
            json!({
                "address": format!("e{}.{slot}", node.shelf),
                "file": place.disk_file(&node.name, slot),
                "size_bytes": bytes,
            })
        })
        .collect();
    json!({ "name": node.name, "shelf": node.shelf, "pid": pid, "state": state, "disks": disks })
}

/// The mount point, if something is mounted there.
fn mount(place: &Place) -> Option<String> {
    let point = place.mount_point();
    mount_at(&point).ok()??;
    Some(point.display().to_string())
}

/// The FTP server's address, if it greets.
fn ftp(plan: &LabPlan) -> Option<String> {
    use std::io::Read;
    let address = SocketAddr::from(([127, 0, 0, 1], plan.ftp_port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).ok()?;
    (&greeting == b"220").then(|| address.to_string())
}

fn is_stopped(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('T')))
        .unwrap_or(false)
}

fn print(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    println!("mount       {}", text(&status["mount"]));
    println!("ftp         {}", text(&status["ftp"]));
    println!("api         {}", text(&status["api"]));
    match status["supervisor"]["pid"].as_i64() {
        Some(pid) => println!("supervisor  running (process {pid})"),
        None => println!("supervisor  not running: `etherpool lab start supervisor`"),
    }
    for node in status["nodes"].as_array().into_iter().flatten() {
        let disks: Vec<_> = node["disks"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|disk| text(&disk["address"]))
            .collect();
        println!("node {:<6} {:<8} {}", text(&node["name"]), text(&node["state"]), disks.join(" "));
    }
    for pool in status["pools"].as_array().into_iter().flatten() {
        let state = crate::up::state_of(pool).unwrap_or("-");
        println!("pool {:<6} {state}", text(&pool["name"]));
    }
    if status["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty()) {
        println!("volume      {POOL}/{VOLUME}; more by `etherpool volume list`");
    }
}
