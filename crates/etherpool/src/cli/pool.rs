//! `etherpool pool`.

use std::time::Duration;

use clap::{Args, Subcommand};
use control::api::{CreatePool, ExtendPool, FailureDomain, ImportPool, ImportResult};
use control::exit::Exit;
use control::names::{DiskArgument, ShelfSlot};
use control::size::parse_size;
use pool::{DiskReport, PoolReport, PoolState};

use super::args::{Confirmation, parse_name};
use super::confirm::{Proceed, confirm};
use super::disk::{describe, resolve_all};
use super::output::{self, print_json};
use super::{Context, Failure};

/// Pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool of disks; what they carry is lost
    Create(CreateArgs),
    /// Add disks to a pool; what they carry is lost
    Extend(ExtendArgs),
    /// List the pools in sight
    List,
    /// Show a pool with its disks and volumes
    Show {
        /// The pool
        pool: String,
    },
    /// Open a pool that another supervisor owned or released
    Import(ImportArgs),
    /// Close a pool so that another supervisor can import it without waiting
    Release {
        /// The pool
        pool: String,
    },
}

/// Disks as arguments.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// Disks: eSHELF.SLOT, or a path on this machine that its node process exports
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<DiskArgument>,

    /// Overwrite this disk although it carries something
    #[arg(long, value_name = "DISK")]
    force_disk: Vec<DiskArgument>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `pool create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the new pool
    #[arg(value_parser = parse_name)]
    name: String,

    #[command(flatten)]
    disks: DiskArgs,

    /// What may fail as one: node or disk
    #[arg(long, default_value_t = FailureDomain::Node, value_name = "DOMAIN")]
    failure_domain: FailureDomain,

    /// Size of an extent (default: by the pool's size)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    extent_size: Option<u64>,
}

/// Arguments of `pool extend`.
#[derive(Debug, Args)]
pub struct ExtendArgs {
    /// The pool
    pool: String,

    #[command(flatten)]
    disks: DiskArgs,
}

/// Arguments of `pool import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Name or id of the pool
    #[arg(required_unless_present = "all")]
    pool: Option<String>,

    /// Every pool in sight that isn't open here
    #[arg(long, conflicts_with = "pool")]
    all: bool,

    /// How long to wait for disks that are not in sight, once the pool could be opened without them
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3600))]
    grace: Option<u64>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Runs it.
pub async fn run(context: &Context, command: PoolCommand) -> Result<Exit, Failure> {
    match command {
        PoolCommand::Create(args) => create(context, args).await,
        PoolCommand::Extend(args) => extend(context, args).await,
        PoolCommand::List => {
            let mut pools: Vec<PoolReport> = context.client.get("/v1/pools").await?;
            pools.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            if context.json {
                print_json(&pools)?;
            } else {
                output::print(&output::pools(&pools, output::terminal_width()))?;
            }
            let well =
                pools.iter().filter(|pool| is_ours(pool)).all(|pool| health(pool) == Exit::Ok);
            Ok(if well { Exit::Ok } else { Exit::Degraded })
        }
        PoolCommand::Show { pool } => {
            let report: PoolReport = context.client.get(&pool_path(&pool)?).await?;
            show(context, &report)?;
            Ok(health(&report))
        }
        PoolCommand::Import(args) if args.all => import_all(context, args).await,
        PoolCommand::Import(args) => import(context, args).await,
        PoolCommand::Release { pool } => {
            let path = format!("{}/release", pool_path(&pool)?);
            let () = context.client.post(&path, &()).await?;
            done(context, &format!("pool {pool} is released\n"))
        }
    }
}

/// Path of a pool in the API. A name that couldn't be one is refused here, before it becomes part
/// of a path.
pub fn pool_path(pool: &str) -> Result<String, Failure> {
    parse_name(pool).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(format!("/v1/pools/{pool}"))
}

/// Whether it is this supervisor's. Pools of others, and those that were released, are in sight, not in
/// trouble.
pub fn is_ours(report: &PoolReport) -> bool {
    !matches!(report.state, PoolState::Foreign { .. } | PoolState::Released)
}

/// Whether a pool is as it should be.
pub fn health(report: &PoolReport) -> Exit {
    let volumes_whole = report.volumes.iter().all(|volume| volume.suspended.is_none());
    match report.state {
        PoolState::Online if volumes_whole => Exit::Ok,
        _ => Exit::Degraded,
    }
}

/// Tells that something without a result is done.
pub fn done(context: &Context, text: &str) -> Result<Exit, Failure> {
    if context.json {
        print_json(&())?;
    } else {
        output::print(text)?;
    }
    Ok(Exit::Ok)
}

fn show(context: &Context, report: &PoolReport) -> Result<(), Failure> {
    if context.json { print_json(report) } else { output::print(&output::pool(report)) }
}

struct Targets {
    disks: Vec<ShelfSlot>,
    force_disks: Vec<ShelfSlot>,
}

/// Finds the disks, says what each carries, and gets a word for it.
async fn confirm_disks(
    context: &Context,
    title: &str,
    args: &DiskArgs,
) -> Result<Option<Targets>, Failure> {
    let sight = context.client.get::<Vec<DiskReport>>("/v1/disks").await?;
    let disks = resolve_all(&sight, &args.disks)?;
    let force_disks = resolve_all(&sight, &args.force_disk)?;
    if let Some(stray) = force_disks.iter().find(|disk| !disks.contains(disk)) {
        return Err(Failure::usage(format!("--force-disk {stray} is not among the disks")));
    }
    let mut what = format!("{title}\n");
    for disk in &disks {
        what.push_str(&describe(&sight, *disk)?);
        if force_disks.contains(disk) {
            what.push_str("  ** overwritten whatever it carries **");
        }
        what.push('\n');
    }
    Ok(match confirm(&what, args.confirmation)? {
        Proceed::Yes => Some(Targets { disks, force_disks }),
        Proceed::No => None,
    })
}

async fn create(context: &Context, args: CreateArgs) -> Result<Exit, Failure> {
    let title =
        format!("Pool {} would be made of these disks, and what they carry lost:", args.name);
    let Some(targets) = confirm_disks(context, &title, &args.disks).await? else {
        return Ok(Exit::Ok);
    };
    let request = CreatePool {
        name: args.name,
        disks: targets.disks,
        failure_domain: args.failure_domain,
        force_disks: targets.force_disks,
        extent_bytes: args.extent_size,
    };
    let report: PoolReport = context.client.post("/v1/pools", &request).await?;
    show(context, &report)?;
    Ok(Exit::Ok)
}

async fn extend(context: &Context, args: ExtendArgs) -> Result<Exit, Failure> {
    let path = format!("{}/extend", pool_path(&args.pool)?);
    let title =
        format!("These disks would be added to pool {}, and what they carry lost:", args.pool);
    let Some(targets) = confirm_disks(context, &title, &args.disks).await? else {
        return Ok(Exit::Ok);
    };
    let request = ExtendPool { disks: targets.disks, force_disks: targets.force_disks };
    let report: PoolReport = context.client.post(&path, &request).await?;
    show(context, &report)?;
    Ok(Exit::Ok)
}

async fn import(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    let pool = args.pool.unwrap_or_default();
    let path = format!("{}/import", pool_path(&pool)?);
    if args.confirmation.dry_run {
        let what = "imported; another supervisor that has it could not write to it any more";
        return done(context, &format!("Pool {pool} would be {what}.\n"));
    }
    let grace = Duration::from_secs(args.grace.unwrap_or(0));
    let report: PoolReport =
        context.client.post_and_wait(&path, &ImportPool { grace_secs: args.grace }, grace).await?;
    show(context, &report)?;
    Ok(Exit::Ok)
}

async fn import_all(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    if args.confirmation.dry_run {
        return done(context, "Every pool in sight that isn't open here would be imported.\n");
    }
    let results: Vec<ImportResult> = context.client.post("/v1/import-all", &()).await?;
    if context.json {
        print_json(&results)?;
    } else {
        output::print(&output::imports(&results))?;
    }
    let failed = results.iter().any(|result| result.error.is_some());
    Ok(if failed { Exit::Failure } else { Exit::Ok })
}
