//! `etherpool disk`: disks, and the one thing that can be wrong with one alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use control::api::ResetEpoch;
use control::exit::Exit;
use control::names::DiskArgument;
use control::node::{NodeReply, NodeRequest};
use pool::{DiskReport, DiskState, PoolReport};

use super::args::Confirmation;
use super::confirm::confirm;
use super::disk_offline::{OfflineArgs, OnlineArgs};
use super::endings::WipeArgs;
use super::output;
use super::{Context, Failure, join};
use aoe_wire::ShelfSlot;

/// How long a node may take to write what a disk's record of its owner says.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// Disks present.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// List the disks: whose they are, and what is on them
    List(output::ListArgs),
    /// Open a disk whose record of its owner can't be read any more
    ResetEpoch(ResetEpochArgs),
    /// On a node: have a disk obey whoever claims it, because the key of its pool is lost
    ResetOwner(ResetOwnerArgs),
    /// Take disks of a pool out of use before you work on them: it goes on without them until `disk online`
    Offline(OfflineArgs),
    /// Take disks into use again that are offline; what they missed is copied to them
    Online(OnlineArgs),
    /// Take etherpool's labels off disks that no pool uses, so that they are free
    Wipe(WipeArgs),
}

/// Arguments of `disk reset-epoch`.
#[derive(Debug, Args)]
pub struct ResetEpochArgs {
    /// The disk (eSHELF.SLOT, or its path on this machine)
    disk: DiskArgument,

    /// The same disk again
    #[arg(long, value_name = "DISK", required = true)]
    force_disk: DiskArgument,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `disk reset-owner`.
#[derive(Debug, Args)]
pub struct ResetOwnerArgs {
    /// The disk (eSHELF.SLOT) of a node on this machine
    disk: ShelfSlot,

    /// The same disk again
    #[arg(long, value_name = "DISK", required = true)]
    force_disk: ShelfSlot,

    /// Run directory of the node, or its control socket
    #[arg(long, value_name = "PATH", default_value = "/run/etherpool")]
    node: PathBuf,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Runs it.
pub async fn run(context: &Context, command: DiskCommand) -> Result<Exit, Failure> {
    match command {
        DiskCommand::List(args) => {
            let disks = context.client.disks().await?;
            // Disks that aren't present are known by their pools only.
            let pools = context.client.pools().await?;
            let listed = output::with_missing(disks.clone(), &pools);
            let text = output::disks(&listed, &args, output::terminal_width())?;
            output::show_list(context.json, &listed, &args, &text)?;
            Ok(health(&disks, &pools))
        }
        DiskCommand::ResetEpoch(args) => reset_epoch(context, args).await,
        DiskCommand::ResetOwner(args) => reset_owner(context, args),
        DiskCommand::Offline(args) => super::disk_offline::offline(context, args).await,
        DiskCommand::Online(args) => super::disk_offline::online(context, args).await,
        DiskCommand::Wipe(args) => super::endings::wipe(context, args).await,
    }
}

/// Degraded if a disk of a pool of ours is missing, out or refused. Free disks, those that others use
/// and those of other pools are as they are.
fn health(disks: &[DiskReport], pools: &[PoolReport]) -> Exit {
    let unwell = |state: &DiskState| {
        !matches!(
            state,
            DiskState::Usable
                | DiskState::Seen
                | DiskState::Free
                | DiskState::InUse
                | DiskState::Destroyed
        )
    };
    let ours = || pools.iter().filter(|pool| pool.is_ours());
    let member = |disk: &DiskReport| {
        let pool = disk.pool.as_deref();
        pool.is_some_and(|pool| ours().any(|ours| ours.name == pool || ours.id == pool))
    };
    let listed = disks.iter().filter(|disk| member(disk)).any(|disk| unwell(&disk.state));
    let known = ours().flat_map(|pool| &pool.disks).any(|disk| unwell(&disk.state));
    Exit::of_health(!listed && !known)
}

async fn reset_epoch(context: &Context, args: ResetEpochArgs) -> Result<Exit, Failure> {
    let disks = context.client.disks().await?;
    let disk = resolve(&disks, &args.disk)?;
    let force_disk = resolve(&disks, &args.force_disk)?;
    if disk != force_disk {
        return Err(Failure::refused(
            format!("{disk} is to be reset, but --force-disk names {force_disk}"),
            "name the same disk twice",
        ));
    }
    let what = format!(
        "The record of who owns {disk} would be made anew. A supervisor that owned it before and \
         is still running\nsomewhere could write to it again until the pool's present owner claims \
         it.\n"
    );
    let path = format!("/v2/disks/{disk}/reset-epoch");
    let () = context.client.post(&path, &ResetEpoch { force_disk, dry_run: true }).await?;
    if confirm(context, &what, args.confirmation)? {
        let () = context.client.post(&path, &ResetEpoch { force_disk, dry_run: false }).await?;
        output::show(context.json, &(), || format!("{disk} is open again\n"))?;
    }
    Ok(Exit::Ok)
}

/// Asks the node itself: no supervisor could, whom the disk doesn't obey.
fn reset_owner(context: &Context, args: ResetOwnerArgs) -> Result<Exit, Failure> {
    let ResetOwnerArgs { disk, force_disk, node, confirmation } = args;
    if disk != force_disk {
        return Err(Failure::refused(
            format!("{disk} is to be given up, but --force-disk names {force_disk}"),
            "name the same disk twice",
        ));
    }
    let what = format!(
        "Disk {disk} would obey nobody, with all that is on it: any supervisor that its node has joined could import its \
         pool.\nNothing else is changed. A supervisor that has the pool open has the disk obey the \
         pool's key again when it takes it in anew.\n"
    );
    if !confirm(context, &what, confirmation)? {
        return Ok(Exit::Ok);
    }
    let mut client = join::only(&node, NODE_TIMEOUT)?;
    let _status: NodeReply = client.ask(&NodeRequest::ResetOwner { disk })?;
    output::show(context.json, &(), || {
        format!("{disk} obeys nobody: it is for those whom its node has joined\n")
    })?;
    Ok(Exit::Ok)
}

/// The addresses of disks that were named as arguments.
pub fn resolve_all(
    disks: &[DiskReport],
    arguments: &[DiskArgument],
) -> Result<Vec<ShelfSlot>, Failure> {
    let mut resolved: Vec<ShelfSlot> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let address = resolve(disks, argument)?;
        if resolved.contains(&address) {
            return Err(Failure::usage(format!("disk {address} is named twice"))
                .remedy("name each disk once"));
        }
        resolved.push(address);
    }
    Ok(resolved)
}

/// The address of a disk that was named as an argument.
pub fn resolve(disks: &[DiskReport], argument: &DiskArgument) -> Result<ShelfSlot, Failure> {
    let path = match argument {
        DiskArgument::Address(address) => return Ok(*address),
        DiskArgument::Path(path) => path,
    };
    let real = path.canonicalize().map_err(|error| {
        Failure::not_found(
            format!("{}: {error}", path.display()),
            "name a disk of this machine, or eSHELF.SLOT from `etherpool disk list`",
        )
    })?;
    let host = os::process::hostname();
    let mut found = disks.iter().filter(|disk| {
        disk.node == host
            && [path, &real].iter().any(|path| **path == *Path::new(&disk.device_name))
    });
    match (found.next(), found.next()) {
        (Some(disk), None) => disk.name.parse().map_err(|_| {
            Failure::usage(format!("{} has no AoE address: {}", path.display(), disk.name))
        }),
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "{} is exported twice, as {} and {}; name one of these",
            path.display(),
            one.name,
            other.name
        ))),
        (None, _) => Err(Failure::not_found(
            format!("{} is not exported by this machine ({host})", path.display()),
            "export it by `etherpool node -i IF` on this machine; the supervisor reaches local disks through it too",
        )),
    }
}

/// What is on a disk that is about to be labelled, for people.
pub fn describe(disks: &[DiskReport], address: ShelfSlot) -> Result<String, Failure> {
    let name = address.to_string();
    let Some(disk) = disks.iter().find(|disk| disk.name == name) else {
        return Err(Failure::not_found(
            format!("disk {name} was not found"),
            "see `etherpool disk list`; check that its node runs and is on the same segment",
        ));
    };
    let size = block::size::Human(disk.size_bytes);
    let content = match &disk.pool {
        Some(pool) => format!("{}, of pool {pool}", disk.content),
        None => disk.content.clone(),
    };
    Ok(format!("  {name}  {size}  {} on {}: {content}", disk.device_name, disk.node))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn paths_are_found_only_on_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().canonicalize().unwrap().join("disk");
        std::fs::write(&file, "").unwrap();
        let mut disk = samples::disk("e1.0");
        disk.device_name = file.display().to_string();
        disk.node = "elsewhere".into();
        let argument = DiskArgument::Path(file.clone());
        let failure = resolve(&[disk.clone()], &argument).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);

        disk.node = os::process::hostname();
        assert_eq!(resolve(&[disk.clone()], &argument).unwrap().to_string(), "e1.0");
        let twin = DiskReport { name: "e1.1".into(), ..disk.clone() };
        let failure = resolve(&[disk, twin], &argument).unwrap_err();
        assert!(failure.error.message.contains("e1.0 and e1.1"));
    }

    #[test]
    fn the_list_is_well_if_all_disks_of_our_pools_are() {
        let mut pool = samples::pool();
        let disk = samples::disk("e1.0");
        assert_eq!(health(std::slice::from_ref(&disk), &[pool.clone()]), Exit::Ok);
        let why = || DiskState::Refused { why: "older than it had confirmed".into() };
        let refused = DiskReport { state: why(), pool: Some(pool.name.clone()), ..disk.clone() };
        assert_eq!(health(std::slice::from_ref(&refused), &[pool.clone()]), Exit::Degraded);
        let others = DiskReport { pool: Some("elsewhere".into()), ..refused.clone() };
        assert_eq!(health(&[others], &[pool.clone()]), Exit::Ok);
        // What isn't present is in no list but its pool's.
        pool.disks[0].state = DiskState::Missing;
        assert_eq!(health(&[], &[pool.clone()]), Exit::Degraded);
        pool.state = pool::PoolState::Released;
        assert_eq!(health(&[refused], &[pool]), Exit::Ok);
    }

    #[test]
    fn a_disk_named_twice_is_a_slip() {
        let arguments = ["e1.0".parse().unwrap(), "e1.0".parse().unwrap()];
        assert!(resolve_all(&[], &arguments).is_err());
    }
}
