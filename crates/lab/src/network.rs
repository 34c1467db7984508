//! The lab's Ethernet: a bridge in a namespace of its own, and a cable to each node.

use std::path::Path;

use crate::command::{run, try_run};
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
    let mtu = mtu.to_string();
    if !has_link(&netns, BRIDGE) {
        run(
            "ip",
            [
                "-n",
                &netns,
                "link",
                "add",
                BRIDGE,
                "mtu",
                &mtu,
                "type",
                "bridge",
                "stp_state",
                "0",
                "forward_delay",
                "0",
                "mcast_snooping",
                "0",
            ],
        )?;
    }
    if !has_link(&netns, SUPERVISOR_INTERFACE) {
        run(
            "ip",
            [
                "-n",
                &netns,
                "link",
                "add",
                SUPERVISOR_INTERFACE,
                "mtu",
                &mtu,
                "type",
                "veth",
                "peer",
                "name",
                "psup",
                "mtu",
                &mtu,
            ],
        )?;
    }
    for link in ["lo", BRIDGE, SUPERVISOR_INTERFACE] {
        run("ip", ["-n", &netns, "link", "set", link, "up"])?;
    }
    run("ip", ["-n", &netns, "link", "set", "psup", "master", BRIDGE, "up"])?;
    Ok(())
}

/// Makes a node's namespace and cable, unless they are there.
pub fn ensure_node(place: &Place, node: &str, mtu: u32) -> anyhow::Result<()> {
    let (switch, netns) = (place.switch_netns(), place.node_netns(node));
    ensure_netns(&netns)?;
    run("ip", ["-n", &netns, "link", "set", "lo", "up"])?;
    let (port, mtu) = (port(node), mtu.to_string());
    if !has_link(&netns, NODE_INTERFACE) {
        try_run("ip", ["-n", &switch, "link", "del", &port]);
        run(
            "ip",
            [
                "-n",
                &switch,
                "link",
                "add",
                &port,
                "mtu",
                &mtu,
                "type",
                "veth",
                "peer",
                "name",
                NODE_INTERFACE,
                "mtu",
                &mtu,
                "netns",
                &netns,
            ],
        )?;
        run("ip", ["-n", &switch, "link", "set", &port, "master", BRIDGE, "up"])?;
    }
    run("ip", ["-n", &netns, "link", "set", NODE_INTERFACE, "up"])?;
    Ok(())
}

/// Pulls a node's cable at the switch.
pub fn cut(place: &Place, node: &str) -> anyhow::Result<()> {
    run("ip", ["-n", &place.switch_netns(), "link", "set", &port(node), "down"]).map(drop)
}

/// Plugs it in again.
pub fn join(place: &Place, node: &str) -> anyhow::Result<()> {
    run("ip", ["-n", &place.switch_netns(), "link", "set", &port(node), "up"]).map(drop)
}

/// Whether a node's cable is plugged in.
pub fn is_joined(place: &Place, node: &str) -> bool {
    run("ip", ["-n", &place.switch_netns(), "-o", "link", "show", &port(node)])
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
    run("ip", ["-n", netns, "link", "show", link]).is_ok()
}

fn port(node: &str) -> String {
    format!("p{node}")
}
