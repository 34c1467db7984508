//! The lab's Ethernet: a bridge in a namespace of its own, and a cable to each node.

use std::path::Path;

use crate::command::run;
use crate::place::Place;

/// The supervisor's interface, in the switch's namespace.
pub const SUPERVISOR_INTERFACE: &str = "sup0";
/// A node's interface, in the node's namespace.
pub const NODE_INTERFACE: &str = "eth0";
const BRIDGE: &str = "br0";

/// Makes the switch and the supervisor's cable, unless they are there.
pub fn ensure_switch(place: &Place, mtu: u32) -> anyhow::Result<()> {
    let netns = place.switch_netns();
    ensure_netns(&netns)?;
    if !has_link(&netns, BRIDGE) {
        let quiet = "stp_state 0 forward_delay 0 mcast_snooping 0";
        ip(&netns, &format!("link add {BRIDGE} mtu {mtu} type bridge {quiet}"))?;
    }
    if !has_link(&netns, SUPERVISOR_INTERFACE) {
        let peer = format!("peer name psup mtu {mtu}");
        ip(&netns, &format!("link add {SUPERVISOR_INTERFACE} mtu {mtu} type veth {peer}"))?;
    }
    for link in ["lo", BRIDGE, SUPERVISOR_INTERFACE] {
        ip(&netns, &format!("link set {link} up"))?;
    }
    ip(&netns, &format!("link set psup master {BRIDGE} up"))?;
    Ok(())
}

/// Makes a node's namespace and cable, unless they are there.
pub fn ensure_node(place: &Place, node: &str, mtu: u32) -> anyhow::Result<()> {
    let (switch, netns) = (place.switch_netns(), place.node_netns(node));
    ensure_netns(&netns)?;
    ip(&netns, "link set lo up")?;
    let port = port(node);
    if !has_link(&netns, NODE_INTERFACE) {
        // What an unfinished attempt left.
        let _ = ip(&switch, &format!("link del {port}"));
        let peer = format!("peer name {NODE_INTERFACE} mtu {mtu} netns {netns}");
        ip(&switch, &format!("link add {port} mtu {mtu} type veth {peer}"))?;
        ip(&switch, &format!("link set {port} master {BRIDGE} up"))?;
    }
    ip(&netns, &format!("link set {NODE_INTERFACE} up"))?;
    Ok(())
}

/// Pulls a node's cable at the switch.
pub fn cut(place: &Place, node: &str) -> anyhow::Result<()> {
    ip(&place.switch_netns(), &format!("link set {} down", port(node))).map(drop)
}

/// Plugs it in again.
pub fn join(place: &Place, node: &str) -> anyhow::Result<()> {
    ip(&place.switch_netns(), &format!("link set {} up", port(node))).map(drop)
}

/// Whether a node's cable is plugged in.
pub fn is_joined(place: &Place, node: &str) -> bool {
    ip(&place.switch_netns(), &format!("-o link show {}", port(node)))
        .is_ok_and(|line| line.contains("state UP"))
}

/// The lab's namespaces that exist.
pub fn namespaces(place: &Place) -> Vec<String> {
    let prefix = place.netns_prefix();
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Removes a namespace with all its interfaces.
pub fn remove_netns(netns: &str) -> anyhow::Result<()> {
    run("ip", ["netns", "del", netns]).map(drop)
}

fn ensure_netns(netns: &str) -> anyhow::Result<()> {
    if !Path::new("/run/netns").join(netns).exists() {
        run("ip", ["netns", "add", netns])?;
    }
    Ok(())
}

fn has_link(netns: &str, link: &str) -> bool {
    ip(netns, &format!("link show {link}")).is_ok()
}

/// Runs `ip` in a namespace, with words as people type them: no name in the lab has a space.
fn ip(netns: &str, words: &str) -> anyhow::Result<String> {
    run("ip", ["-n", netns].into_iter().chain(words.split(' ')))
}

fn port(node: &str) -> String {
    format!("p{node}")
}
