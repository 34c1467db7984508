//! `lab down`: leaves no process, mount, namespace, loop device or interface behind, whatever state
//! it finds. First politely, by the supervisor's own orderly stop; then whatever is left, by force.

use std::time::Duration;

use anyhow::bail;
use rustix::process::Signal;

use crate::place::Place;
use crate::{cleanup, network, process};

/// An orderly stop destages the log and unmounts; a busy file system takes its time.
const ORDERLY_STOP: Duration = Duration::from_secs(30);

pub fn down(place: &Place, wipe: bool) -> anyhow::Result<()> {
    // Another command may have wiped it while this one waited for its turn. What is mounted below a
    // directory that isn't a lab's is none of ours to unmount, and what is in it none of ours to remove.
    place.exists()?;
    stop_supervisor(place);
    // Also after an orderly stop: the leftovers of one that was killed earlier.
    cleanup::detach_all(place);
    stop_nodes(place);
    let mut left = cleanup::leftovers(place);
    for netns in network::namespaces(place) {
        if let Err(error) = network::remove_netns(&netns) {
            left.push(error.to_string());
        }
    }
    let _ = std::fs::remove_dir_all(place.dir().join("pid"));
    if !left.is_empty() {
        bail!("could not remove everything:\n  {}", left.join("\n  "));
    }
    if wipe {
        wipe_files(place)?;
        println!("The lab is gone, its disks too.");
    } else {
        println!("The lab is down; its disks are kept in {}.", place.dir().join("disks").display());
    }
    Ok(())
}

fn stop_supervisor(place: &Place) {
    let Some(pid) = process::running(place, "supervisor") else { return };
    let children: Vec<_> =
        process::CHILDREN.iter().filter_map(|name| process::child(pid, name)).collect();
    let _ = process::signal(pid, Signal::CONT);
    let _ = process::signal(pid, Signal::TERM);
    if !process::wait_gone(pid, ORDERLY_STOP) {
        eprintln!("the supervisor did not stop within {} s: killing it", ORDERLY_STOP.as_secs());
        // What waits for the volume must get errors, or nobody could be killed.
        cleanup::abort_connections(place);
        let _ = process::signal(pid, Signal::KILL);
        process::wait_gone(pid, Duration::from_secs(10));
    }
    for child in children {
        if !process::wait_gone(child, Duration::from_secs(2)) {
            cleanup::abort_connections(place);
            let _ = process::signal(child, Signal::KILL);
            process::wait_gone(child, Duration::from_secs(10));
        }
    }
}

fn stop_nodes(place: &Place) {
    let mut pids = Vec::new();
    if let Ok(Some(plan)) = place.load_plan() {
        pids.extend(plan.nodes.iter().filter_map(|node| process::running(place, &node.name)));
    }
    for netns in network::namespaces(place) {
        pids.extend(process::in_netns(&netns));
    }
    pids.sort_unstable();
    pids.dedup();
    for pid in &pids {
        let _ = process::signal(*pid, Signal::TERM);
        let _ = process::signal(*pid, Signal::CONT);
    }
    for pid in pids {
        if !process::wait_gone(pid, Duration::from_secs(5)) {
            let _ = process::signal(pid, Signal::KILL);
            process::wait_gone(pid, Duration::from_secs(10));
        }
    }
}

/// Removes what the lab made, by name: there may be something else beside it.
fn wipe_files(place: &Place) -> anyhow::Result<()> {
    let dir = place.dir();
    if let Some(plan) = place.load_plan().ok().flatten() {
        for node in &plan.nodes {
            let _ = std::fs::remove_dir_all(place.node_dir(&node.name));
        }
    }
    for name in ["disks", "log", "supervisor", "pid"] {
        match std::fs::remove_dir_all(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let _ = std::fs::remove_dir(place.mount_point());
    let _ = std::fs::remove_file(place.plan_file());
    Ok(())
}
