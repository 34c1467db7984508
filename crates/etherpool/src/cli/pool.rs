//! `etherpool pool`.

use std::time::SystemTime;

use block::size::parse_size;
use clap::{Args, Subcommand};
use client::pool_path;
use control::api::{
    CreatePool, ExtendPool, GrownPool, HeldReport, PoolPlan, Preview, ReleasePool, Witness,
    Witnesses,
};
use control::exit::Exit;
use control::names::{DiskArgument, WitnessArgument};
use pool::{DomainLabel, FailureDomain, PoolReport, Spare};
use serde::Serialize;

use super::args::{Confirmation, parse_name};
use super::confirm::{confirm_plan, effects};
use super::disk::{describe, resolve_all};
use super::disk_offline::{self, OfflineArgs, OnlineArgs};
use super::endings::{DestroyArgs, RenameArgs};
use super::output::{self, ListArgs};
use super::pool_accept::{self, AcceptArgs};
use super::pool_check::CheckArgs;
use super::pool_dump::DumpArgs;
use super::pool_history::{self, HistoryArgs};
use super::pool_import::{self, ImportArgs};
use super::pool_iostat::{self, IostatArgs};
use super::pool_jobs::{self, CancelArgs, EmptyArgs, JobsArgs, ReplaceArgs};
use super::pool_keys::{self, AdmitArgs, PoolKeyCommand};
use super::pool_label::{self, LabelArgs};
use super::pool_rebalance::{self, RebalanceArgs};
use super::pool_scrub::{self, ScrubArgs, SetArgs, parse_spare};
use super::status::{self, PoolStatusArgs};
use super::{Context, Failure};
use aoe_wire::ShelfSlot;

/// Pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Make a pool of disks; what they carry is lost
    Create(CreateArgs),
    /// Add disks to a pool; what they carry is lost
    #[command(visible_alias = "add")]
    Extend(ExtendArgs),
    /// List the pools
    List(ListArgs),
    /// Show a pool with its disks and volumes
    Show {
        /// The pool
        pool: String,
    },
    /// Say what is wrong with a pool or all, since when, what it means for data, and what to do; then show it
    Status(PoolStatusArgs),
    /// Show how much is read and written, by volumes and by disks
    Iostat(IostatArgs),
    /// Open a pool that another supervisor owned or released
    Import(ImportArgs),
    /// Take disks where they are now: they were moved to another machine, or their machine has another key
    Accept(AcceptArgs),
    /// Let another supervisor have a pool's disks: it may import the pool
    Admit(AdmitArgs),
    /// A pool's key, by which its disks know whom to obey
    #[command(subcommand)]
    Key(PoolKeyCommand),
    /// Look for damage on the disks of a pool, without a supervisor and without changing anything
    Check(CheckArgs),
    /// Tell everything that the disks of a pool say, structure by structure, for who looks for what is wrong
    Dump(DumpArgs),
    /// Take disks out of use for a while, as `disk offline` does
    Offline(OfflineArgs),
    /// Take them into use again, as `disk online` does
    Online(OnlineArgs),
    /// Empty disks, so that they can be taken out: what they have moves to the pool's others
    Evacuate(EmptyArgs),
    /// Have a disk take another one's place
    Replace(ReplaceArgs),
    /// Take disks out of a pool, also dead ones: what they have moves to its others, or is made anew there
    Remove(EmptyArgs),
    /// Move data so that more space can be given out and disks are evenly full, above all after `pool extend`
    Rebalance(RebalanceArgs),
    /// Read everything that a pool holds, compare it with its checksums, and repair what is wrong
    Scrub(ScrubArgs),
    /// List what is under way: what is moved because somebody asked, what is rebuilt because a disk is gone, scrubs
    Jobs(JobsArgs),
    /// Show what happened to a pool, and who had what done
    History(HistoryArgs),
    /// End a job before it is done; what it moved stays where it is, a layout that changes is taken back
    Cancel(CancelArgs),
    /// Label disks by what they share, such as a rack or a purchase: what has the same label may be lost together
    Label(LabelArgs),
    /// Change a pool's settings
    Set(SetArgs),
    /// Give a pool another name
    Rename(RenameArgs),
    /// Destroy a pool with all that is in it, and free its disks
    Destroy(DestroyArgs),
    /// Close a pool so that another supervisor can import it without waiting, or give up one that can't be opened
    #[command(visible_alias = "export")]
    Release {
        /// The pool
        pool: String,

        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// Disks as arguments.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// Disks: eSHELF.SLOT, or a path on this machine that its node process exports
    #[arg(required_unless_present = "witness", value_name = "DISK")]
    pub disks: Vec<DiskArgument>,

    /// A disk that only votes, on a machine that has none of the others, or `supervisor` for a file that it keeps: of
    /// two machines and that one any may be lost [default: the supervisor, where the machines that vote are an even
    /// number]
    #[arg(long, value_name = "DISK|supervisor")]
    pub witness: Vec<WitnessArgument>,

    /// Add no witness, also where the machines that vote are an even number
    #[arg(long, conflicts_with = "witness")]
    pub no_witness: bool,

    /// A label of disks, or of machines (all their disks among these): what has the same may be lost together, so
    /// copies are kept apart; rack=A:e1.0,node2
    #[arg(long, value_name = "KIND=VALUE:DISK|NODE,...")]
    pub domain: Vec<DomainLabel>,

    /// Overwrite this disk although it carries something
    #[arg(long, value_name = "DISK")]
    pub force_disk: Vec<DiskArgument>,

    #[command(flatten)]
    pub confirmation: Confirmation,
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

    /// Keep so much free that everything finds a place again after the loss of any one disk or node, or of SIZE of
    /// any one disk
    #[arg(long, value_name = "disk|node|SIZE", value_parser = parse_spare)]
    spare: Option<Spare>,
}

/// Arguments of `pool extend`.
#[derive(Debug, Args)]
pub struct ExtendArgs {
    /// The pool
    pool: String,

    #[command(flatten)]
    disks: DiskArgs,
}

/// Runs it.
pub async fn run(context: &Context, command: PoolCommand) -> Result<Exit, Failure> {
    match command {
        PoolCommand::Create(args) => create(context, args).await,
        PoolCommand::Extend(args) => extend(context, args).await,
        PoolCommand::List(args) => {
            let mut pools = context.client.pools().await?;
            pools.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
            let text = output::pools(&pools, &args, output::terminal_width())?;
            output::show_list(context.json, &pools, &args, &text)?;
            let well = pools.iter().filter(|pool| pool.is_ours()).all(PoolReport::is_healthy);
            Ok(Exit::of_health(well))
        }
        PoolCommand::Show { pool } => {
            let report = context.client.pool(&pool).await?;
            show(context, &report)?;
            if !context.json {
                let held: Vec<HeldReport> =
                    context.client.get(&format!("{}/held", pool_path(&report.name)?)).await?;
                output::print(&super::held::remark(&held))?;
            }
            Ok(Exit::of_health(report.is_healthy()))
        }
        PoolCommand::Status(args) => status::of_pool(context, args).await,
        PoolCommand::Iostat(args) => pool_iostat::run(context, args).await,
        PoolCommand::Offline(args) => disk_offline::offline(context, args).await,
        PoolCommand::Online(args) => disk_offline::online(context, args).await,
        PoolCommand::Import(args) => pool_import::run(context, args).await,
        PoolCommand::Accept(args) => pool_accept::accept(context, args).await,
        PoolCommand::Admit(args) => pool_keys::admit(context, args).await,
        PoolCommand::Key(command) => pool_keys::run(context, command).await,
        PoolCommand::Evacuate(args) => pool_jobs::evacuate(context, args).await,
        PoolCommand::Replace(args) => pool_jobs::replace(context, args).await,
        PoolCommand::Remove(args) => pool_jobs::remove(context, args).await,
        PoolCommand::Rebalance(args) => pool_rebalance::rebalance(context, args).await,
        PoolCommand::Scrub(args) => pool_scrub::scrub(context, args).await,
        PoolCommand::Jobs(args) => pool_jobs::jobs(context, args).await,
        PoolCommand::History(args) => pool_history::history(context, args).await,
        PoolCommand::Cancel(args) => pool_jobs::cancel(context, args).await,
        PoolCommand::Label(args) => pool_label::label(context, args).await,
        PoolCommand::Set(args) => pool_scrub::set(context, args).await,
        PoolCommand::Rename(args) => super::endings::rename(context, args).await,
        PoolCommand::Destroy(args) => super::endings::destroy(context, args).await,
        PoolCommand::Release { pool, confirmation } => release(context, &pool, confirmation).await,
        PoolCommand::Check(args) => super::pool_check::run(&args, context.json),
        PoolCommand::Dump(args) => super::pool_dump::run(&args, context.json),
    }
}

/// Tells that something without a result is done.
pub fn done(context: &Context, text: &str) -> Result<Exit, Failure> {
    output::show(context.json, &(), || text.to_owned())?;
    Ok(Exit::Ok)
}

pub(super) fn show(context: &Context, report: &PoolReport) -> Result<(), Failure> {
    output::show(context.json, report, || output::pool(report, now_secs()))
}

/// Seconds since 1970.
pub fn now_secs() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

/// Disks that are to be a pool's.
pub struct Targets {
    /// All of them.
    pub disks: Vec<ShelfSlot>,
    /// Those that only vote, and whether the supervisor does.
    pub witnesses: Witnesses,
    /// Those that may be overwritten although they carry something.
    pub force_disks: Vec<ShelfSlot>,
    /// What they share.
    pub domains: Vec<DomainLabel>,
}

/// Finds the disks; with them what ends the question about them.
pub async fn find_disks(context: &Context, args: &DiskArgs) -> Result<(Targets, String), Failure> {
    let listed = context.client.disks().await?;
    let disks = resolve_all(&listed, &args.disks)?;
    let on_disks = args.witness.iter().filter_map(|witness| match witness {
        WitnessArgument::Disk(disk) => Some(disk.clone()),
        WitnessArgument::Supervisor => None,
    });
    let on_disks = resolve_all(&listed, &on_disks.collect::<Vec<_>>())?;
    let force_disks = resolve_all(&listed, &args.force_disk)?;
    let named = || disks.iter().chain(&on_disks);
    if let Some(stray) = force_disks.iter().find(|disk| !named().any(|named| named == *disk)) {
        return Err(Failure::usage(format!("--force-disk {stray} is not among the disks")));
    }
    let mut what = ", and what they carry lost:\n".to_owned();
    for disk in named() {
        what.push_str(&describe(&listed, *disk)?);
        if on_disks.contains(disk) {
            what.push_str("  as a witness");
        }
        if force_disks.contains(disk) {
            what.push_str("  ** overwritten whatever it carries **");
        }
        what.push('\n');
    }
    let at_supervisor = args.witness.iter().filter(|one| **one == WitnessArgument::Supervisor);
    let witnesses = on_disks.into_iter().map(Witness::Disk);
    let witnesses = witnesses.chain(at_supervisor.map(|_| Witness::Supervisor)).collect();
    let is_spoken_of = args.no_witness || !args.witness.is_empty();
    let witnesses = is_spoken_of.then_some(witnesses);
    let domains = pool_label::addressed(&listed, &args.domain)?;
    Ok((Targets { disks, witnesses, force_disks, domains }, what))
}

async fn create(context: &Context, args: CreateArgs) -> Result<Exit, Failure> {
    let (targets, disks) = find_disks(context, &args.disks).await?;
    let request = CreatePool {
        name: args.name,
        disks: targets.disks,
        witnesses: targets.witnesses,
        failure_domain: args.failure_domain,
        force_disks: targets.force_disks,
        extent_bytes: args.extent_size,
        spare: args.spare,
        domains: targets.domains,
    };
    let what = format!("Pool {} would be made of these disks{disks}", request.name);
    take_disks(context, ("/v2/plan/pool", "/v2/pools"), &request, &what, &args.disks).await
}

async fn extend(context: &Context, args: ExtendArgs) -> Result<Exit, Failure> {
    let path = format!("{}/extend", pool_path(&args.pool)?);
    let (targets, disks) = find_disks(context, &args.disks).await?;
    let Targets { disks: data_disks, witnesses, force_disks, domains } = targets;
    let request = ExtendPool { disks: data_disks, witnesses, force_disks, domains };
    let what = format!("These disks would be added to pool {}{disks}", args.pool);
    take_disks(context, (&format!("{path}/plan"), &path), &request, &what, &args.disks).await
}

/// Has disks made a pool's: asks at the first of two paths what would be had of it, says that with
/// `what`, and asks at the second to do it.
async fn take_disks(
    context: &Context,
    (plan, path): (&str, &str),
    request: &impl Serialize,
    what: &str,
    args: &DiskArgs,
) -> Result<Exit, Failure> {
    let plan: PoolPlan = context.client.post(plan, request).await?;
    let what = format!("{what}{}", output::pool_plan(&plan));
    if !confirm_plan(context, &what, &plan, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let grown: GrownPool = context.client.post(path, request).await?;
    output::show(context.json, &grown, || output::grown_pool(&grown, now_secs()))?;
    Ok(Exit::Ok)
}

async fn release(
    context: &Context,
    pool: &str,
    confirmation: Confirmation,
) -> Result<Exit, Failure> {
    let path = format!("{}/release", pool_path(pool)?);
    let ask = ReleasePool { dry_run: true, ..ReleasePool::default() };
    let preview: Option<Preview> = context.client.post(&path, &ask).await?;
    let preview = preview.unwrap_or_default();
    let (doing, done_with) = match preview.gives_up {
        true => ("Giving up", "given up"),
        false => ("Releasing", "released"),
    };
    let what = format!("{doing} pool {pool} means:\n{}", effects(&preview));
    if !confirm_plan(context, &what, &preview, confirmation)? {
        return Ok(Exit::Ok);
    }
    let request = ReleasePool { confirmed: true, gives_up: preview.gives_up, dry_run: false };
    let _: Option<Preview> = context.client.post(&path, &request).await?;
    done(context, &format!("pool {pool} is {done_with}\n"))
}
