//! `etherpool pool evacuate`, `replace`, `remove`, `jobs` and `cancel`: disks that are emptied.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use client::pool_path;
use control::api::{ApiError, EmptyDisks, ErrorCode, ExtendPool, PoolPlan};
use control::exit::Exit;
use control::names::{DiskArgument, NameError};
use pool::{DiskState, EmptyForecast, JobState, PoolDisk, PoolForecast, PoolReport};
use serde::Serialize;

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::output::{self, PoolJob};
use super::pool::{DiskArgs, Targets, done, find_disks};
use super::pool_wait::{Watch, wait};
use super::{Context, Failure};

/// Arguments of `pool evacuate` and `pool remove`.
#[derive(Debug, Args)]
pub struct EmptyArgs {
    /// The pool
    pool: String,

    /// Disks as `pool show` names them, their identities, or machines: all their disks
    #[arg(required = true, value_name = "DISK|NODE")]
    disks: Vec<String>,

    /// Wait until it is done
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

    /// Wait until none is running any more, and all disks have what they missed
    #[arg(long)]
    wait: bool,
}

/// Arguments of `pool cancel`.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The pool
    pool: String,

    /// The job's number
    #[arg(value_parser = parse_job)]
    job: u32,

    #[command(flatten)]
    confirmation: Confirmation,
}

fn parse_job(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "want a job's number, as `etherpool pool jobs` shows it".to_owned())
}

/// What disks are emptied for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Evacuate,
    Replace,
    Remove,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Evacuate => "evacuate",
            Purpose::Replace => "replace",
            Purpose::Remove => "remove",
        }
    }

    /// Whether it is done with a disk. A job that isn't there any more was cancelled, unless the disk went too.
    fn is_done(self, now: &PoolReport, disk: &PoolDisk) -> bool {
        let is_empty =
            || now.jobs.iter().any(|job| job.disk == disk.name && job.state == JobState::Done);
        let is_there = now.disks.iter().any(|other| other.id == disk.id);
        !is_there || self != Purpose::Remove && is_empty()
    }

    /// Of disks that are being emptied: waits where that is asked for, and says what became of them.
    async fn finish(
        self,
        context: &Context,
        report: &PoolReport,
        disks: &[&PoolDisk],
        plan: &EmptyForecast,
        waits: bool,
    ) -> Result<Exit, Failure> {
        if waits {
            wait(context, Watch::of(self.word(), report, disks)).await?;
            let now = context.client.pool(&report.id).await?;
            if let Some(disk) = disks.iter().find(|disk| !self.is_done(&now, disk)) {
                let message =
                    format!("the job that empties {} was ended before it was done", disk.name);
                return Err(ApiError::new(ErrorCode::Busy, message)
                    .remedy("see `etherpool pool jobs`, then begin it again")
                    .into());
            }
        }
        output::show(context.json, plan, || self.outcome(report, disks, waits))?;
        Ok(Exit::Ok)
    }

    fn outcome(self, report: &PoolReport, disks: &[&PoolDisk], waited: bool) -> String {
        let (names, pool) = (output::named(disks), &report.name);
        let one = disks.len() == 1;
        if !waited {
            let are = if one { "is" } else { "are" };
            return format!("{names} {are} being emptied; see `etherpool pool jobs {pool}`\n");
        }
        if self == Purpose::Remove {
            let belong = if one { "belongs" } else { "belong" };
            return format!("{names} {belong} to pool {pool} no more\n");
        }
        let they = if one { "it" } else { "they" };
        format!("nothing of pool {pool} is on {names} any more: {they} may be pulled\n")
    }
}

/// `pool evacuate`.
pub async fn evacuate(context: &Context, args: EmptyArgs) -> Result<Exit, Failure> {
    empty(context, args, Purpose::Evacuate).await
}

/// `pool remove`.
pub async fn remove(context: &Context, args: EmptyArgs) -> Result<Exit, Failure> {
    empty(context, args, Purpose::Remove).await
}

async fn empty(context: &Context, args: EmptyArgs, purpose: Purpose) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let disks = find_members(&report, &args.disks)?;
    let path = format!("{path}/empty");
    let request = EmptyDisks { remove: purpose == Purpose::Remove, ..emptying(&disks) };
    let look = EmptyDisks { dry_run: true, ..request.clone() };
    let plan: EmptyForecast = context.client.post(&path, &look).await?;
    let what = match purpose {
        Purpose::Remove => output::removal(&report, &disks, &plan),
        _ => output::evacuation(&report, &disks, &plan),
    };
    if !confirm_plan(context, &what, &plan, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let plan: EmptyForecast = context.client.post(&path, &request).await?;
    purpose.finish(context, &report, &disks, &plan, args.wait).await
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
    let plan = context.client.post::<EmptyForecast>(&empty, &look).await.map_err(Failure::from);
    let plan = match plan {
        Ok(plan) => Some(plan),
        // There may be room on the new disk alone, which the pool doesn't know yet.
        Err(Failure { error, .. }) if to.is_none() && error.code == ErrorCode::NoSpace => None,
        Err(failure) => return Err(failure),
    };
    let name = match (&newcomer, to) {
        (Some(newcomer), _) => newcomer.name.clone(),
        (None, to) => to.map_or_else(String::new, |disk| disk.name.clone()),
    };
    let added = newcomer.as_ref().map_or("", |newcomer| &newcomer.what);
    let what = output::replacement(&report, old, &name, plan.as_ref());
    let extension = newcomer.as_ref().map(|newcomer| &newcomer.forecast);
    let whole = ReplacePlan { extension, emptying: plan.as_ref() };
    if !confirm_plan(context, &format!("{added}{what}"), &whole, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let plan: EmptyForecast = match &newcomer {
        None => context.client.post(&empty, &request).await?,
        Some(newcomer) => {
            let to = newcomer.add(context, &path).await?;
            let request = EmptyDisks { to: Some(to), ..request };
            let emptied = context.client.post(&empty, &request).await;
            emptied.map_err(Failure::from).map_err(|failure| {
                let message =
                    format!("{name} was added to the pool, but {}", failure.error.message);
                Failure { error: ApiError { message, ..failure.error }, ..failure }
            })?
        }
    };
    Purpose::Replace.finish(context, &report, &[old], &plan, args.wait).await
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
        let confirmation = args.confirmation;
        let disks = DiskArgs {
            disks: vec![disk],
            witness: Vec::new(),
            // As many machines vote as before.
            no_witness: true,
            domain: Vec::new(),
            force_disk,
            confirmation,
        };
        let (targets, what) = find_disks(context, &disks).await?;
        let Targets { disks, witnesses, force_disks, domains } = targets;
        let name = disks.first().map_or_else(String::new, ToString::to_string);
        let request = ExtendPool { disks, witnesses, force_disks, domains };
        let PoolPlan { forecast, .. } =
            context.client.post(&format!("{path}/extend/plan"), &request).await?;
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

/// Over which time `pool jobs` looks how fast they are.
const RATE_OVER: Duration = Duration::from_secs(1);

/// `pool jobs`.
pub async fn jobs(context: &Context, args: JobsArgs) -> Result<Exit, Failure> {
    let mut pools = match &args.pool {
        Some(pool) => vec![context.client.pool(pool).await?],
        None => context.client.pools().await?,
    };
    if args.wait {
        let pool = args.pool.is_some().then(|| pools.first()).flatten();
        wait(context, Watch::new("jobs", pool)).await?;
        pools = again(context, &args, &pools).await?;
    }
    let mut jobs = jobs_of(&pools);
    if jobs.iter().any(|job| job.job.state == JobState::Running) {
        let (before, begun) = (jobs, Instant::now());
        tokio::time::sleep(RATE_OVER).await;
        pools = again(context, &args, &pools).await?;
        let rated = |job: PoolJob| {
            let rate = rate_of(&job, &before, begun.elapsed());
            job.at_rate(rate)
        };
        jobs = jobs_of(&pools).into_iter().map(rated).collect();
    }
    output::show(context.json, &jobs, || output::jobs(&jobs))?;
    let waits = |job: &PoolJob| matches!(job.job.state, JobState::Waiting { .. });
    Ok(Exit::of_health(!jobs.iter().any(waits)))
}

/// The same pools as they are now.
async fn again(
    context: &Context,
    args: &JobsArgs,
    pools: &[PoolReport],
) -> Result<Vec<PoolReport>, Failure> {
    let mut now = context.client.pools().await?;
    now.retain(|pool| args.pool.is_none() || pools.iter().any(|before| before.id == pool.id));
    Ok(now)
}

fn jobs_of(pools: &[PoolReport]) -> Vec<PoolJob> {
    let of_pool = |pool: &PoolReport| {
        let name = pool.name.clone();
        let jobs = pool.jobs.iter().cloned().chain(output::resyncs(pool)).collect::<Vec<_>>();
        let at_rest =
            move |job| PoolJob { pool: name.clone(), job, bytes_per_sec: None, left_secs: None };
        jobs.into_iter().map(at_rest)
    };
    pools.iter().flat_map(of_pool).collect()
}

/// What a job did in a second since `before`; none where it wasn't there, or has more to do than then.
fn rate_of(job: &PoolJob, before: &[PoolJob], elapsed: Duration) -> Option<u64> {
    let key = |job: &PoolJob| (job.pool.clone(), job.job.number, job.job.disk.clone());
    let before = before.iter().find(|before| key(before) == key(job))?;
    let done = before.job.left_bytes.checked_sub(job.job.left_bytes)?;
    Some((done as f64 / elapsed.as_secs_f64()) as u64)
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
    if !confirm_plan(context, &output::cancelling(&report.name, job), job, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let () = context.client.delete(&format!("{path}/jobs/{}", args.job)).await?;
    let (number, pool) = (args.job, &report.name);
    let text = match &*job.kind {
        "convert" => format!(
            "job {number} of pool {pool} takes back what it did; see `etherpool pool jobs {pool}`\n"
        ),
        "rebalance" => format!(
            "job {number} of pool {pool} is cancelled; so that none begins by itself: \
             etherpool pool set {pool} auto-rebalance off\n"
        ),
        _ => format!("job {number} of pool {pool} is cancelled\n"),
    };
    done(context, &text)
}

fn emptying(disks: &[&PoolDisk]) -> EmptyDisks {
    let disks = disks.iter().map(|disk| disk.id.clone()).collect();
    EmptyDisks { disks, ..EmptyDisks::default() }
}

/// The disks of a pool that are named, each once: by the names under which they are or were present, their
/// identities or their paths on this machine; or all of a machine.
pub(super) fn find_members<'a>(
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
    use pool::JobReport;

    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn a_job_that_was_cancelled_is_no_success() {
        let all = [Purpose::Evacuate, Purpose::Replace, Purpose::Remove];
        let report = samples::pool();
        let disk = &report.disks[0];
        let with = |state| {
            let job = JobReport { state, ..samples::job() };
            PoolReport { jobs: vec![job], ..samples::pool() }
        };
        for purpose in all {
            assert!(!purpose.is_done(&report, disk), "{purpose:?}, cancelled");
            assert!(!purpose.is_done(&with(JobState::Running), disk), "{purpose:?}, begun anew");
            let is_empty = purpose.is_done(&with(JobState::Done), disk);
            assert_eq!(is_empty, purpose != Purpose::Remove, "{purpose:?}");
            // Others may remove what we empty.
            let without = PoolReport { disks: Vec::new(), ..samples::pool() };
            assert!(purpose.is_done(&without, disk), "{purpose:?}");
        }
    }

    #[test]
    fn what_became_of_disks_is_said() {
        let report = samples::pool();
        let second = PoolDisk { name: "e1.1".into(), ..report.disks[0].clone() };
        let (one, two) = ([&report.disks[0]], [&report.disks[0], &second]);
        let said = |purpose: Purpose, disks: &[&PoolDisk]| purpose.outcome(&report, disks, true);
        assert_eq!(said(Purpose::Remove, &one), "e1.0 belongs to pool cluster no more\n");
        assert_eq!(said(Purpose::Remove, &two), "e1.0, e1.1 belong to pool cluster no more\n");
        let pulled = "nothing of pool cluster is on e1.0, e1.1 any more: they may be pulled\n";
        assert_eq!(said(Purpose::Evacuate, &two), pulled);
        let begun = Purpose::Remove.outcome(&report, &one, false);
        assert_eq!(begun, "e1.0 is being emptied; see `etherpool pool jobs cluster`\n");
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
