//! What happens to machines: they die, hang, lose their cable, and come back.

use std::time::Duration;

use anyhow::{Context, bail};
use control::api::{ApiError, ErrorCode};
use rustix::process::Signal;

use crate::place::Place;
use crate::{network, process, up};

/// SIGKILL, without goodbye.
pub fn kill(place: &Place, who: &str) -> anyhow::Result<()> {
    let pid = pid_of(place, who)?;
    // The supervisor's children die with it; the next start must not meet them.
    let mut family = vec![pid];
    family.extend(process::CHILDREN.iter().filter_map(|name| process::child(pid, name)));
    process::signal(pid, Signal::KILL)?;
    for pid in family {
        if !process::wait_gone(pid, Duration::from_secs(10)) {
            bail!("process {pid} of {who} does not die; what holds it is in /proc/{pid}/stack");
        }
    }
    println!("killed {who} (process {pid})");
    Ok(())
}

/// Starts a node or the supervisor unless it runs.
pub fn start(place: &Place, who: &str) -> anyhow::Result<()> {
    let plan = place.plan()?;
    let pid = if who == "supervisor" {
        up::start_supervisor(place, &plan)?
    } else {
        up::start_node(place, plan.node(who)?, plan.security)?
    };
    println!("{who} runs (process {pid})");
    Ok(())
}

/// SIGSTOP: the machine hangs.
pub fn pause(place: &Place, node: &str) -> anyhow::Result<()> {
    process::signal(node_pid(place, node)?, Signal::STOP)?;
    println!("paused {node}");
    Ok(())
}

/// SIGCONT.
pub fn resume(place: &Place, node: &str) -> anyhow::Result<()> {
    process::signal(node_pid(place, node)?, Signal::CONT)?;
    println!("{node} goes on");
    Ok(())
}

/// Pulls the cable.
pub fn cut(place: &Place, node: &str) -> anyhow::Result<()> {
    place.plan()?.node(node)?;
    network::cut(place, node)?;
    println!("cut {node} off the network");
    Ok(())
}

/// Plugs it in.
pub fn join(place: &Place, node: &str) -> anyhow::Result<()> {
    place.plan()?.node(node)?;
    network::join(place, node)?;
    println!("{node} is on the network again");
    Ok(())
}

/// Takes a machine away for good, with its disks. Its name and its disks' addresses aren't given again.
pub fn destroy(place: &Place, node: &str) -> anyhow::Result<()> {
    let mut plan = place.plan()?;
    let disks = plan.node(node)?.disk_bytes.len();
    if process::running(place, node).is_some() {
        kill(place, node)?;
    }
    let netns = place.node_netns(node);
    if network::namespaces(place).contains(&netns) {
        network::remove_netns(&netns)?;
    }
    for disk in 0..disks {
        remove(std::fs::remove_file(place.disk_file(node, disk)))?;
    }
    remove(std::fs::remove_file(place.pid_file(node)))?;
    remove(std::fs::remove_dir_all(place.node_dir(node)))?;
    // Last: what is cut short may be done again.
    plan.nodes_made = plan.nodes_made.max(plan.highest_shelf());
    plan.nodes.retain(|other| other.name != node);
    place.store_plan(&plan)?;
    println!("destroyed {node} with its disks");
    Ok(())
}

/// That something is gone, or never was.
fn remove(removed: std::io::Result<()>) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn node_pid(place: &Place, node: &str) -> anyhow::Result<i32> {
    place.plan()?.node(node)?;
    process::running(place, node).with_context(|| format!("{node} does not run"))
}

fn pid_of(place: &Place, who: &str) -> anyhow::Result<i32> {
    match who {
        "supervisor" => process::running(place, who).context("the supervisor does not run"),
        child if process::CHILDREN.contains(&child) => process::running(place, "supervisor")
            .and_then(|supervisor| process::child(supervisor, who))
            .with_context(|| format!("the supervisor has no {who} process now")),
        node => node_pid(place, node).map_err(|error| match error.downcast::<ApiError>() {
            Ok(error) if error.code == ErrorCode::NotFound => {
                let names = error.remedy.clone().unwrap_or_default();
                error
                    .remedy(format!(
                        "{names}; and there are supervisor, engine, services and witnesses"
                    ))
                    .into()
            }
            Ok(error) => error.into(),
            Err(error) => error,
        }),
    }
}
