//! `etherpool target status|stats|trace`: what the targets and nodes of this machine say about
//! themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use control::exit::Exit;
use control::node::{NodeReply, NodeRequest, NodeStatus, ONLINE, TraceNews};
use serde::Serialize;

use super::Failure;
use super::output;
use super::target_client::{TargetClient, targets};

/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// How long reading a configuration again may take: longer than the target itself waits for that.
const RELOAD_LIMIT: Duration = Duration::from_secs(35);

/// Look at the targets of this machine.
#[derive(Debug, Subcommand)]
pub enum TargetAsk {
    /// What is exported, and what is wrong with what isn't
    Status(TargetAskArgs),
    /// Requests, bytes, errors, latencies and queues, by export and client
    Stats(TargetAskArgs),
    /// Requests as they are answered, until interrupted
    Trace(TraceArgs),
    /// Read the configuration again; what is wrong in it is said, and then nothing changes
    Reload,
}

/// Arguments of `target status` and `target stats`.
#[derive(Debug, Args)]
pub struct TargetAskArgs {
    /// Addresses of exports; all by default
    #[arg(value_name = "EXPORT")]
    exports: Vec<String>,
}

/// Arguments of `target trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Addresses of exports; all by default
    #[arg(value_name = "EXPORT")]
    exports: Vec<String>,

    /// End after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// What one target told, as JSON shows it.
#[derive(Debug, Serialize)]
struct One<T> {
    socket: PathBuf,
    #[serde(flatten)]
    told: T,
}

/// Runs it.
pub fn run(
    ask: TargetAsk,
    socket: Option<&Path>,
    timeout: Option<Duration>,
    json: bool,
) -> Result<Exit, Failure> {
    let limit = match ask {
        TargetAsk::Reload => RELOAD_LIMIT,
        _ => LOOK_LIMIT,
    };
    let clients = targets(socket, timeout.unwrap_or(limit))?;
    match ask {
        TargetAsk::Status(args) => status(args, clients, json),
        TargetAsk::Stats(args) => stats(args, clients, json),
        TargetAsk::Trace(args) => trace(args, clients, json),
        TargetAsk::Reload => reload(clients),
    }
}

/// One target, because a file is meant for one.
fn reload(clients: Vec<TargetClient>) -> Result<Exit, Failure> {
    let mut client = pick(clients, &[])?;
    client.ask(&NodeRequest::Reload)?;
    Ok(Exit::Ok)
}

fn status(args: TargetAskArgs, clients: Vec<TargetClient>, json: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for mut client in clients {
        let mut status = status_of(&mut client)?;
        if !args.exports.is_empty() {
            status.exports.retain(|export| args.exports.contains(&export.address));
        }
        all.push(One { socket: client.socket, told: status });
    }
    let present = all.iter().flat_map(|one| &one.told.exports).map(|export| &export.address);
    refuse_missing(&args.exports, present)?;
    tell(json, &all, |one| output::target_status(&one.socket, &one.told))?;
    Ok(health(all.iter().map(|one| &one.told)))
}

/// Degraded if an export isn't served or a drive isn't set up.
fn health<'a>(mut all: impl Iterator<Item = &'a NodeStatus>) -> Exit {
    let well = all.all(|status| {
        status.exports.iter().all(|export| export.state == ONLINE)
            && status.drives.iter().all(|drive| drive.refused.is_empty())
    });
    Exit::of_health(well)
}

fn stats(args: TargetAskArgs, clients: Vec<TargetClient>, json: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    for mut client in clients {
        // All, and picked here: another target may have the others that are named.
        let reply = client.ask(&NodeRequest::Stats { exports: Vec::new() })?;
        let NodeReply::Stats(mut report) = reply else {
            return Err(client.broken("it answers something else"));
        };
        report.keep(&args.exports);
        all.push(One { socket: client.socket, told: report });
    }
    let present = all.iter().flat_map(|one| &one.told.exports).map(|export| &export.address);
    refuse_missing(&args.exports, present)?;
    tell(json, &all, |one| output::target_stats(&one.told))?;
    Ok(Exit::Ok)
}

/// What all targets told, each target's text apart from the next.
fn tell<T: Serialize>(
    json: bool,
    all: &[One<T>],
    text: impl Fn(&One<T>) -> String,
) -> Result<(), Failure> {
    output::show(json, &all, || all.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn trace(args: TraceArgs, clients: Vec<TargetClient>, json: bool) -> Result<Exit, Failure> {
    let mut client = pick(clients, &args.exports)?;
    client.ask(&NodeRequest::Trace { exports: args.exports })?;
    client.be_patient()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(news) = client.next_news()? else {
            eprintln!("etherpool: the target has stopped");
            return Ok(Exit::NotRunning);
        };
        if matches!(news, TraceNews::Request(_)) {
            left -= 1;
        }
        if !write_news(&news, json)? {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// Prints a line; false when nobody reads them any more.
fn write_news(news: &TraceNews, json: bool) -> Result<bool, Failure> {
    let text = match news {
        _ if json => serde_json::to_string(news).map_err(anyhow::Error::from)?,
        TraceNews::Request(line) => line.to_string(),
        TraceNews::Lost(count) => format!("({count} requests are missing here)"),
    };
    output::write(&format!("{text}\n"))
}

/// The one target that is meant: the lone one, or the one that has all that is named.
fn pick(mut clients: Vec<TargetClient>, exports: &[String]) -> Result<TargetClient, Failure> {
    if !exports.is_empty() {
        let mut having = Vec::new();
        for mut client in clients {
            let status = status_of(&mut client)?;
            let has = |address: &String| status.exports.iter().any(|e| e.address == *address);
            if exports.iter().all(has) {
                having.push(client);
            }
        }
        clients = having;
    }
    if clients.len() > 1 {
        let sockets: Vec<String> = clients.iter().map(|c| c.socket.display().to_string()).collect();
        return Err(Failure::usage(format!(
            "several targets run here; say which by --socket: {}",
            sockets.join(", ")
        )));
    }
    clients.pop().ok_or_else(|| not_exported(exports))
}

fn status_of(client: &mut TargetClient) -> Result<NodeStatus, Failure> {
    match client.ask(&NodeRequest::Status)? {
        NodeReply::Status(status) => Ok(status),
        _ => Err(client.broken("it answers something else")),
    }
}

fn refuse_missing<'a>(
    wanted: &[String],
    present: impl Iterator<Item = &'a String>,
) -> Result<(), Failure> {
    let present: Vec<&String> = present.collect();
    let missing: Vec<String> =
        wanted.iter().filter(|address| !present.contains(address)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(not_exported(&missing)) }
}

fn not_exported(addresses: &[String]) -> Failure {
    Failure::not_found(
        format!("{} is not exported here", addresses.join(", ")),
        "`etherpool target status` lists what is",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::node::{DriveStatus, ExportStatus};

    #[test]
    fn the_exit_code_says_whether_all_is_served() {
        let export = |state: &str| ExportStatus {
            address: "e1.0".into(),
            path: "/d".into(),
            device: "/d".into(),
            size_bytes: 1,
            state: state.into(),
        };
        let well = NodeStatus { exports: vec![export(ONLINE)], ..NodeStatus::default() };
        assert_eq!(health([&well].into_iter()), Exit::Ok);
        let missing = NodeStatus { exports: vec![export("no such file")], ..NodeStatus::default() };
        assert_eq!(health([&well, &missing].into_iter()), Exit::Degraded);
        let drive = DriveStatus { path: "/d".into(), refused: vec!["x: y".into()] };
        let refused = NodeStatus { drives: vec![drive], ..well };
        assert_eq!(health([&refused].into_iter()), Exit::Degraded);
    }

    #[test]
    fn what_is_not_exported_is_named() {
        let named = ["e1.0".to_owned(), "e9.9".to_owned()];
        assert!(refuse_missing(&named[..1], named.iter()).is_ok());
        let failure = refuse_missing(&named, ["e1.0".to_owned()].iter()).err();
        let failure = failure.unwrap_or_else(|| Failure::usage("missing"));
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.error.message.starts_with("e9.9 "), "{}", failure.error.message);
    }
}
