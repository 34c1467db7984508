//! `etherpool pool evacuate`, `replace`, `jobs`, `cancel` and `set`: disks that are emptied.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use control::api::{ApiError, EmptyDisks, ErrorCode, ExtendPool, SetPool};
use control::duration::{Span, SpanError};
use control::exit::Exit;
use control::names::{DiskArgument, NameError};
use pool::{DiskState, EmptyForecast, JobState, PoolDisk, PoolForecast, PoolReport};
use serde::Serialize;

use super::args::Confirmation;
use super::confirm::confirm;
use super::output::{self, PoolJob, print_json};
use super::pool::{DiskArgs, Targets, done, find_disks, pool_path};
use super::pool_wait::{Watch, wait};
use super::{Context, Failure};

/// Arguments of `pool evacuate`.
#[derive(Debug, Args)]
pub struct EvacuateArgs {
    /// The pool
    pool: String,

    /// Disks as `pool show` names them, their identities, or machines: all their disks
    #[arg(required = true, value_name = "DISK|NODE")]
    disks: Vec<String>,

    /// Wait until they are empty
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `pool replace`.
#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The pool
    pool: String,

    /// The disk to empty, as `pool show` names it, or its identity
    old: String,

    /// The disk that takes its place: of the pool, or one that is added first; what that carries is lost
    new: String,

    /// Overwrite the disk that is added although it carries something
    #[arg(long, value_name = "DISK")]
    force_disk: Option<DiskArgument>,

    /// Wait until it is done
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `pool jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// The pool; all of them without it
    pool: Option<String>,

    /// Wait until none is running any more
    #[arg(long)]
    wait: bool,
}

/// Arguments of `pool cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The pool
    pool: String,

    /// The job's number
    job: u32,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `pool set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The pool
    pool: String,

    #[command(subcommand)]
    setting: Setting,
}

/// What is set.
#[derive(Debug, Subcommand)]
enum Setting {
    /// How long a disk is gone before what it had is made anew on others
    RebuildDelay {
        /// Such as 10min; off for never
        #[arg(value_parser = parse_delay, value_name = "TIME")]
        delay: Delay,
    },
}

/// A rebuild's delay; none for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Delay(Option<Duration>);

/// A span's zero is `off`, which here is the opposite of at once.
fn parse_delay(text: &str) -> Result<Delay, String> {
    let Span(span) = text.parse().map_err(|error: SpanError| error.to_string())?;
    match span {
        _ if text.trim() == "off" => Ok(Delay(None)),
        _ if span.is_zero() || span.subsec_nanos() > 0 => {
            Err("want whole seconds, at least 1s, or off for never".into())
        }
        _ => Ok(Delay(Some(span))),
    }
}

/// `pool evacuate`.
pub async fn evacuate(context: &Context, args: EvacuateArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let disks = find_members(&report, &args.disks)?;
    let path = format!("{path}/empty");
    let request = EmptyDisks { dry_run: true, ..emptying(&disks) };
    let plan: EmptyForecast = context.client.post(&path, &request).await?;
    if context.json && args.confirmation.dry_run {
        print_json(&plan)?;
        return Ok(Exit::Ok);
    }
    if !confirm(&output::evacuation(&report, &disks, &plan), args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let plan: EmptyForecast = context.client.post(&path, &emptying(&disks)).await?;
    if args.wait {
        wait(context, Watch::of("evacuate", &report, &disks)).await?;
        let now: PoolReport = context.client.get(&pool_path(&args.pool)?).await?;
        let is_done = |disk: &&PoolDisk| {
            now.jobs.iter().any(|job| job.disk == disk.name && job.state == JobState::Done)
        };
        if let Some(disk) = disks.iter().find(|disk| !is_done(disk)) {
            let message =
                format!("the job that empties {} was ended before it was done", disk.name);
            return Err(ApiError::new(ErrorCode::Busy, message)
                .remedy("see `etherpool pool jobs`, then begin it again")
                .into());
        }
    }
    output::show(context.json, &plan, || emptied(&report, &disks, args.wait))?;
    Ok(Exit::Ok)
}

/// `pool replace`.
pub async fn replace(context: &Context, args: ReplaceArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let old = match find_members(&report, std::slice::from_ref(&args.old))?[..] {
        [old] => old,
        _ => return Err(Failure::usage(format!("{} is several disks: name one", args.old))),
    };
    // What is missing may be where a new disk is by now.
    let is_there =
        |disk: &&PoolDisk| !matches!(disk.state, DiskState::Missing | DiskState::Refused { .. });
    let to = find_members(&report, std::slice::from_ref(&args.new)).unwrap_or_default();
    let to = to.first().copied().filter(is_there);
    if to.is_some() && args.force_disk.is_some() {
        let message = format!("{} is a disk of the pool already, and isn't overwritten", args.new);
        return Err(Failure::usage(message));
    }
    let newcomer = match to {
        Some(_) => None,
        None => Some(Newcomer::plan(context, &path, &report, &args).await?),
    };
    let empty = format!("{path}/empty");
    let request = EmptyDisks { to: to.map(|disk| disk.id.clone()), ..emptying(&[old]) };
    let look = EmptyDisks { dry_run: true, ..request.clone() };
    let plan: Option<EmptyForecast> = match context.client.post(&empty, &look).await {
        Ok(plan) => Some(plan),
        // There may be room on the new disk alone, which the pool doesn't know yet.
        Err(Failure { error, .. }) if to.is_none() && error.code == ErrorCode::NoSpace => None,
        Err(failure) => return Err(failure),
    };
    if context.json && args.confirmation.dry_run {
        let extension = newcomer.as_ref().map(|newcomer| &newcomer.forecast);
        print_json(&ReplacePlan { extension, emptying: plan.as_ref() })?;
        return Ok(Exit::Ok);
    }
    let name = match (&newcomer, to) {
        (Some(newcomer), _) => newcomer.name.clone(),
        (None, to) => to.map_or_else(String::new, |disk| disk.name.clone()),
    };
    let added = newcomer.as_ref().map_or("", |newcomer| &newcomer.what);
    let what = output::replacement(&report, old, &name, plan.as_ref());
    if !confirm(&format!("{added}{what}"), args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let plan: EmptyForecast = match &newcomer {
        None => context.client.post(&empty, &request).await?,
        Some(newcomer) => {
            let to = newcomer.add(context, &path).await?;
            let request = EmptyDisks { to: Some(to), ..request };
            context.client.post(&empty, &request).await.map_err(|failure: Failure| {
                let message =
                    format!("{name} was added to the pool, but {}", failure.error.message);
                Failure { error: ApiError { message, ..failure.error }, ..failure }
            })?
        }
    };
    if args.wait {
        wait(context, Watch::of("replace", &report, &[old])).await?;
    }
    output::show(context.json, &plan, || emptied(&report, &[old], args.wait))?;
    Ok(Exit::Ok)
}

/// What replacing would do, for programs.
#[derive(Serialize)]
struct ReplacePlan<'a> {
    /// What adding the new disk would do; none if it is the pool's.
    extension: Option<&'a PoolForecast>,
    /// What would be moved; none where that can't be told before the new disk is there.
    emptying: Option<&'a EmptyForecast>,
}

/// A disk that is to be added to a pool before it takes another's place.
struct Newcomer {
    name: String,
    request: ExtendPool,
    forecast: PoolForecast,
    /// What adding it means, for the question.
    what: String,
}

impl Newcomer {
    async fn plan(
        context: &Context,
        path: &str,
        report: &PoolReport,
        args: &ReplaceArgs,
    ) -> Result<Newcomer, Failure> {
        let disk =
            args.new.parse().map_err(|error: NameError| Failure::usage(error.to_string()))?;
        let force_disk = args.force_disk.iter().cloned().collect();
        let disks = DiskArgs { disks: vec![disk], force_disk, confirmation: args.confirmation };
        let (Targets { disks, force_disks }, what) = find_disks(context, &disks).await?;
        let name = disks.first().map_or_else(String::new, ToString::to_string);
        let request = ExtendPool { disks, force_disks };
        let forecast = context.client.post(&format!("{path}/extend/plan"), &request).await?;
        let what = format!(
            "These disks would be added to pool {}{what}{}",
            report.name,
            output::forecast(&forecast)
        );
        Ok(Newcomer { name, request, forecast, what })
    }

    /// Adds it; answers with its identity in the pool.
    async fn add(&self, context: &Context, path: &str) -> Result<String, Failure> {
        let report: PoolReport =
            context.client.post(&format!("{path}/extend"), &self.request).await?;
        // One that is missing may have had its place.
        let added = report.disks.iter().rfind(|disk| disk.name == self.name);
        Ok(added.map_or_else(|| self.name.clone(), |disk| disk.id.clone()))
    }
}

/// `pool jobs`.
pub async fn jobs(context: &Context, args: JobsArgs) -> Result<Exit, Failure> {
    let mut pools = match &args.pool {
        Some(pool) => vec![context.client.get::<PoolReport>(&pool_path(pool)?).await?],
        None => context.client.get("/v1/pools").await?,
    };
    if args.wait {
        let pool = args.pool.is_some().then(|| pools.first()).flatten();
        wait(context, Watch::new("jobs", pool)).await?;
        let ids: Vec<String> = pools.into_iter().map(|pool| pool.id).collect();
        pools = context.client.get("/v1/pools").await?;
        pools.retain(|pool| args.pool.is_none() || ids.contains(&pool.id));
    }
    let of_pool = |pool: PoolReport| {
        let name = pool.name;
        pool.jobs.into_iter().map(move |job| PoolJob { pool: name.clone(), job })
    };
    let jobs: Vec<PoolJob> = pools.into_iter().flat_map(of_pool).collect();
    output::show(context.json, &jobs, || output::jobs(&jobs))?;
    let waits = |job: &PoolJob| matches!(job.job.state, JobState::Waiting { .. });
    Ok(Exit::of_health(!jobs.iter().any(waits)))
}

/// `pool cancel`.
pub async fn cancel(context: &Context, args: CancelArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let job = report.jobs.iter().find(|job| job.number == args.job).ok_or_else(|| {
        Failure::not_found(
            format!("job {} of pool {} was not found", args.job, report.name),
            "see `etherpool pool jobs`",
        )
    })?;
    if !confirm(&output::cancelling(&report.name, job), args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let () = context.client.delete(&format!("{path}/jobs/{}", args.job)).await?;
    done(context, &format!("job {} of pool {} is cancelled\n", args.job, report.name))
}

/// `pool set`.
pub async fn set(context: &Context, args: SetArgs) -> Result<Exit, Failure> {
    let path = format!("{}/set", pool_path(&args.pool)?);
    let Setting::RebuildDelay { delay: Delay(delay) } = args.setting;
    let request = SetPool { rebuild_delay_secs: delay.map(|delay| delay.as_secs()) };
    let () = context.client.post(&path, &request).await?;
    let text = match delay {
        Some(delay) => format!("what a disk had is rebuilt once it is gone for {}", Span(delay)),
        None => "what a disk had isn't rebuilt unasked".into(),
    };
    done(context, &format!("pool {}: {text}\n", args.pool))
}

fn emptying(disks: &[&PoolDisk]) -> EmptyDisks {
    let disks = disks.iter().map(|disk| disk.id.clone()).collect();
    EmptyDisks { disks, ..EmptyDisks::default() }
}

/// What became of disks that were to be emptied.
fn emptied(report: &PoolReport, disks: &[&PoolDisk], waited: bool) -> String {
    let (names, pool) = (output::named(disks), &report.name);
    let (are, they) = if disks.len() == 1 { ("is", "it") } else { ("are", "they") };
    match waited {
        true => format!("nothing of pool {pool} is on {names} any more: {they} may be pulled\n"),
        false => format!("{names} {are} being emptied; see `etherpool pool jobs {pool}`\n"),
    }
}

/// The disks of a pool that are named, each once: by the names under which they are or were present, their
/// identities or their paths on this machine; or all of a machine.
fn find_members<'a>(
    report: &'a PoolReport,
    names: &[String],
) -> Result<Vec<&'a PoolDisk>, Failure> {
    let host = os::process::hostname();
    let mut found: Vec<&PoolDisk> = Vec::new();
    for name in names {
        let real = Path::new(name).canonicalize().ok().filter(|_| name.contains('/'));
        let is_here = |disk: &PoolDisk| {
            let device = Path::new(&disk.device_name);
            disk.node == host
                && real.as_deref().is_some_and(|real| [real, Path::new(name)].contains(&device))
        };
        let is_it = |disk: &&PoolDisk| disk.name == *name || disk.id == *name || is_here(disk);
        let mut named: Vec<&PoolDisk> = report.disks.iter().filter(is_it).collect();
        if named.len() > 1 {
            let message =
                format!("{} disks of pool {} are called {name}", named.len(), report.name);
            return Err(ApiError::new(ErrorCode::Invalid, message)
                .remedy("name one by its identity: `etherpool pool show --json`")
                .into());
        }
        if named.is_empty() {
            named.extend(report.disks.iter().filter(|disk| disk.node == *name));
        }
        if named.is_empty() {
            let message = format!("disk {name} of pool {} was not found", report.name);
            return Err(Failure::not_found(
                message,
                format!("see `etherpool pool show {}`", report.name),
            ));
        }
        named.retain(|disk| !found.iter().any(|other| other.id == disk.id));
        found.extend(named);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn a_delay_of_nothing_isn_t_never() {
        assert_eq!(parse_delay("10min"), Ok(Delay(Some(Duration::from_secs(600)))));
        assert_eq!(parse_delay("off"), Ok(Delay(None)));
        for wrong in ["0s", "500ms", "1s500ms", "10", "never"] {
            assert!(parse_delay(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn disks_are_found_by_name_identity_and_machine() {
        let mut report = samples::pool();
        let second = PoolDisk { name: "e1.1".into(), id: "4".into(), ..report.disks[0].clone() };
        report.disks.push(second);
        let find = |report: &PoolReport, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = find_members(report, &names);
            found.map(|disks| disks.iter().map(|disk| disk.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(find(&report, &["e1.1"]).unwrap(), ["e1.1"]);
        assert_eq!(find(&report, &["4"]).unwrap(), ["e1.1"]);
        assert_eq!(find(&report, &["e1.1", "n1"]).unwrap(), ["e1.1", "e1.0"]);
        assert_eq!(find(&report, &["e7.0"]).unwrap_err().exit, Exit::NotFound);
        // A new disk where one is missing.
        report.disks[0].name = "e1.1".into();
        assert_eq!(find(&report, &["e1.1"]).unwrap_err().exit, Exit::Usage);
        assert_eq!(find(&report, &["4"]).unwrap(), ["e1.1"]);
    }
}
