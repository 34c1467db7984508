//! `--check`: what a configuration means on this machine as it is now. Nothing is exported, and
//! nothing is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use aoe_wire::ShelfSlot;
use block::size::Human;
use control::node::{ExportPlan, NodeReply, NodeRequest, plan_found};
use os::disks::Disk;
use os::net::netlink::links;
use os::{Reactor, ReactorHandle};

use super::choose::{Choice, identity_of, judge, judge_use, matches};
use super::identity::{Identity, shelf_of};
use super::interfaces::{Patterns, describe};
use super::open_disks::find;
use super::shelf;
use super::source::{Source, Wanted, missing};
use crate::cli::targets;

/// Says what a configuration would do.
pub fn check(source: &Source) -> anyhow::Result<ExitCode> {
    let wanted = source.read_first()?;
    let mut lines = vec!["Interfaces:".to_owned()];
    lines.extend(interfaces(&wanted)?);
    let mut exported: Vec<String> = wanted.plans.iter().map(named).collect();
    let mut left_alone = Vec::new();
    if wanted.automatic {
        let found = find_disks(&wanted)?;
        exported.extend(found.exported);
        left_alone = found.left_alone;
    }
    for (title, what) in [("Exported:", exported), ("Left alone:", left_alone)] {
        if !what.is_empty() {
            lines.push(title.to_owned());
            lines.extend(what.into_iter().map(|line| format!("  {line}")));
        } else if title == "Exported:" {
            lines.push("Exported: nothing".to_owned());
        }
    }
    // Whoever closed standard output doesn't want it.
    let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
    for missing in missing(&wanted) {
        eprintln!("warning: {missing}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Those that are wanted and there, and the names of those that aren't.
fn interfaces(wanted: &Wanted) -> anyhow::Result<Vec<String>> {
    let patterns = Patterns::of(wanted);
    let links = links(None).context("cannot list this machine's interfaces")?;
    let mut lines: Vec<String> =
        links.iter().filter(|link| patterns.want_link(link)).map(describe).collect();
    let is_missing = |name: &&str| !links.iter().any(|link| matches(name, &link.name));
    let missing = patterns.named().filter(is_missing);
    lines.extend(missing.map(|name| format!("  {name}  no such interface now; waited for")));
    Ok(lines)
}

fn named(plan: &ExportPlan) -> String {
    let size = find(&plan.medium.path).and_then(|(path, _)| size_of(&path));
    match size {
        Ok(bytes) => {
            let window = plan.medium.window;
            let rest = bytes.saturating_sub(window.start.0.saturating_mul(SECTOR));
            let own = window.sectors.map_or(rest, |sectors| sectors.saturating_mul(SECTOR));
            format!("{plan} ({})", Human(own))
        }
        // That it isn't there is a warning of its own.
        Err(_) => plan.to_string(),
    }
}

/// How long a process that runs may take to say what it exports.
const TIMEOUT: Duration = Duration::from_secs(5);
const SECTOR: u64 = block::SECTOR_BYTES as u64;

fn size_of(path: &Path) -> anyhow::Result<u64> {
    Ok(File::open(path)?.seek(SeekFrom::End(0))?)
}

/// What becomes of the disks of this machine, in a line each.
struct Found {
    exported: Vec<String>,
    left_alone: Vec<String>,
}

fn find_disks(wanted: &Wanted) -> anyhow::Result<Found> {
    let (mut reactor, handle) = Reactor::new().context("cannot set up io_uring")?;
    let (running, wanted) = (running(wanted), wanted.clone());
    let looked = reactor.run_until(async move { look(&handle, &wanted, &running).await });
    looked.context("the reactor failed")?
}

/// What the process exports that has this run directory, if one runs: its disks are in use by it.
fn running(wanted: &Wanted) -> BTreeMap<PathBuf, String> {
    let Some(run_dir) = wanted.run_dir.as_ref().filter(|run_dir| run_dir.is_dir()) else {
        return BTreeMap::new();
    };
    let mut exports = BTreeMap::new();
    for mut client in targets(Some(run_dir), TIMEOUT).unwrap_or_default() {
        if let Ok(NodeReply::Status(status)) = client.ask(&NodeRequest::Status) {
            let own = |export: control::node::ExportStatus| (export.device.into(), export.address);
            exports.extend(status.exports.into_iter().map(own));
        }
    }
    exports
}

async fn look(
    handle: &ReactorHandle,
    wanted: &Wanted,
    running: &BTreeMap<PathBuf, String>,
) -> anyhow::Result<Found> {
    let config = &wanted.config;
    let disks =
        handle.blocking(os::disks::list).await?.context("cannot list this machine's disks")?;
    let mut addresses = Addresses::of(handle, wanted).await?;
    let named: Vec<PathBuf> = wanted
        .plans
        .iter()
        .filter_map(|plan| find(&plan.medium.path).ok().map(|(path, _)| path))
        .collect();
    let mut found = Found { exported: Vec::new(), left_alone: Vec::new() };
    for disk in disks.iter().filter(|disk| !named.contains(&disk.path)) {
        let address = running.get(&disk.path);
        let choice = match (address, judge_use(disk, &config.scan)) {
            (Some(_), _) => Choice::Export,
            (None, Choice::Export) => {
                judge(handle, &disk.path, config.export_blank.unwrap_or(true)).await
            }
            (None, choice) => choice,
        };
        match choice {
            Choice::Skip => {}
            Choice::Refuse(why) => {
                found.left_alone.push(format!("{}: {why}", disk.path.display()));
            }
            Choice::Export => {
                let address = match address {
                    Some(address) => address.clone(),
                    None => addresses.of_disk(disk)?,
                };
                found.exported.push(line_of(wanted, disk, &address)?);
            }
        }
    }
    Ok(found)
}

/// As a named export is told.
fn line_of(wanted: &Wanted, disk: &Disk, address: &str) -> anyhow::Result<String> {
    // An address that nobody knows yet stands in the text only.
    let place = ShelfSlot::new(0, 0);
    let (defaults, groups) = (&wanted.config.defaults, &wanted.config.groups);
    let plan = plan_found(place, &disk.path.display().to_string(), defaults, groups)?;
    let text = plan.to_string().replacen(&place.to_string(), address, 1);
    Ok(format!("{text} ({})", Human(disk.sectors.saturating_mul(SECTOR))))
}

/// The addresses that found disks have or would get.
struct Addresses {
    identity: Identity,
    /// `None`: it is chosen at the first start, when the machine has an identity.
    shelf: Option<u16>,
    named: Vec<ShelfSlot>,
}

impl Addresses {
    async fn of(handle: &ReactorHandle, wanted: &Wanted) -> anyhow::Result<Addresses> {
        let state_dir = wanted.state_dir.clone().unwrap_or_default();
        let identity = Identity::peek(&state_dir)?;
        let mut shelf = identity.known_shelf(wanted.config.shelf);
        if shelf.is_none() {
            let patterns = Patterns::of(wanted);
            shelf = shelf::from_address(handle, |link| patterns.want_link(link)).await;
        }
        if shelf.is_none() {
            let known = match wanted.config.node_id {
                Some(id) => Some(id),
                None => os::process::known_machine_id(&state_dir.join("machine-id"))
                    .context("cannot tell this machine's identity")?,
            };
            shelf = known.map(shelf_of);
        }
        let named = wanted.plans.iter().map(|plan| plan.address).collect();
        Ok(Addresses { identity, shelf, named })
    }

    fn of_disk(&mut self, disk: &Disk) -> anyhow::Result<String> {
        let Addresses { identity, shelf, named } = self;
        let taken =
            |slot: u8| shelf.is_some_and(|shelf| named.contains(&ShelfSlot::new(shelf, slot)));
        let slot = identity.slot(&identity_of(disk), taken).context("no address for it")?.0;
        Ok(match shelf {
            Some(shelf) => ShelfSlot::new(*shelf, slot).to_string(),
            None => format!("e(new shelf).{slot}"),
        })
    }
}
