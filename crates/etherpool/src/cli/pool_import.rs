//! `etherpool pool import`: taking over a pool. What takes its time is reading the logs of its volumes: how much of them is
//! read is told until all volumes serve, or wait for something else.

use std::path::PathBuf;
use std::time::Duration;

use block::size::Human;
use clap::Args;
use control::api::{ApiError, ImportPool, ImportResult, PoolReportExt as _};
use control::exit::Exit;
use pool::{ImportPlan, PoolError, PoolReport, PoolState, Progress, VotesOf};

use super::args::Confirmation;
use super::confirm::confirm;
use super::output::{self, print_json};
use super::pool::{done, pool_path, show};
use super::pool_keys;
use super::pool_wait::LOOK_EVERY;
use super::progress::ProgressDisplay;
use super::{Context, Failure};
use crate::client::News;

/// Arguments of `pool import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Name or id of the pool
    #[arg(required_unless_present = "all")]
    pool: Option<String>,

    /// Every pool found that isn't open here, but for those whose owner lives
    #[arg(long, conflicts_with_all = ["pool", "force"])]
    all: bool,

    /// Take the pool also from a supervisor that uses it at this moment: what its clients have open is
    /// cut off, and what they were not told to be written is lost
    #[arg(long)]
    force: bool,

    /// Open it with metadata that is older than what its disks know of, because no disk with newer
    /// metadata will ever be back: what was made, written or removed since may be lost or damaged
    #[arg(long, conflicts_with = "all")]
    outdated_metadata: bool,

    /// Change nothing on its disks, of which a majority need not be there: volumes can be read, mounted and
    /// exported, and it ends when it is released, or as soon as its owner is back
    #[arg(long, conflicts_with_all = ["all", "force"])]
    read_only: bool,

    /// The pool's key, as `pool key list` shows it where it was open: what isn't said in its name is a forgery. "any"
    /// if that is to count, too
    #[arg(long, value_name = "KEY|any", default_value_t = VotesOf::Known, hide_default_value = true, conflicts_with = "all")]
    pool_key: VotesOf,

    /// How long to wait for disks that are not present, once the pool could be opened without them
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3600))]
    grace: Option<u64>,

    /// A copy of the pool's key, where its disks don't let this machine in yet
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    key: Option<PathBuf>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Runs it.
pub async fn run(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    if args.all { import_all(context, args).await } else { import(context, args).await }
}

async fn import(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    let pool = args.pool.unwrap_or_default();
    let path = format!("{}/import", pool_path(&pool)?);
    let present: Vec<PoolReport> = context.client.get("/v2/pools").await?;
    let is_open =
        |report: &&PoolReport| (report.name == pool || report.id == pool) && report.is_open();
    if let Some(open) = present.iter().find(is_open) {
        if open.read_only && !args.read_only {
            return Err(ApiError::from(PoolError::ReadOnly { pool: open.name.clone() }).into());
        }
        if args.confirmation.dry_run || args.read_only {
            let how = if open.read_only { " read-only" } else { "" };
            return done(context, &format!("Pool {pool} is open here already{how}.\n"));
        }
        show(context, open)?;
        super::held::ask(context, &open.name, args.confirmation).await?;
        return Ok(Exit::Ok);
    }
    if let Some(file) = args.key.as_deref().filter(|_| !args.confirmation.dry_run) {
        pool_keys::import(context, &pool, file).await?;
    }
    let plan: ImportPlan = context.client.get(&plan_path(&path, args.pool_key)).await?;
    if let Some(refusal) = plan.refusal.clone().filter(|_| !args.force) {
        return Err(ApiError::from(refusal).into());
    }
    if let Some(no_quorum) = plan.no_quorum.clone().filter(|_| !args.read_only) {
        return Err(ApiError::from(no_quorum)
            .remedy(format!("to read what is there: etherpool pool import {pool} --read-only"))
            .into());
    }
    if context.json && args.confirmation.dry_run {
        print_json(&plan)?;
        return Ok(Exit::Ok);
    }
    let what = output::import_plan(&plan, args.read_only);
    // Nobody is deprived where nobody owns it; whoever else does is named first.
    let asks = match args.read_only {
        true => plan.no_quorum.is_some() || args.outdated_metadata,
        false => plan.owner.is_some() && !plan.is_ours,
    };
    if (asks || args.confirmation.dry_run) && !confirm(&what, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let outdated_metadata = args.outdated_metadata;
    let grace = args.grace.map(Duration::from_secs);
    let (force, read_only) = (args.force, args.read_only);
    let request = ImportPool { grace, force, outdated_metadata, read_only, votes: args.pool_key };
    let report = open(context, &plan, &request).await?;
    show(context, &report)?;
    super::held::ask(context, &report.name, args.confirmation).await?;
    Ok(Exit::Ok)
}

/// Where to ask what an import would do in which these votes count.
fn plan_path(path: &str, votes: VotesOf) -> String {
    match votes {
        VotesOf::Known => path.to_owned(),
        votes => {
            let votes = votes.to_string().replace('+', "%2B").replace('/', "%2F");
            format!("{path}?votes={}", votes.replace('=', "%3D"))
        }
    }
}

/// Imports one after the other all that aren't open and whose owner doesn't live; what isn't imported
/// is told with the reason.
async fn import_all(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    let present: Vec<PoolReport> = context.client.get("/v2/pools").await?;
    let closed = present.into_iter().filter(|report| !report.is_open());
    let (mut plans, mut results) = (Vec::new(), Vec::new());
    for report in closed {
        let path = format!("/v2/pools/{}/import", report.id);
        let failed = |error: ApiError| {
            let (pool, report) = (report.name.clone(), None);
            ImportResult { pool, report, error: Some(error) }
        };
        match context.client.get::<ImportPlan>(&path).await {
            Ok(
                ImportPlan { refusal: Some(refusal), .. }
                | ImportPlan { no_quorum: Some(refusal), .. },
            ) => results.push(failed(refusal.into())),
            Ok(plan) => plans.push(plan),
            Err(failure) => results.push(failed(failure.into())),
        }
    }
    let what: String = plans.iter().map(|plan| output::import_plan(plan, false)).collect();
    if args.confirmation.dry_run || !plans.is_empty() {
        let refused =
            results.iter().filter_map(|result| result.error.as_ref().map(|e| (result, e)));
        let refused: String = refused
            .map(|(result, error)| format!("{}: not imported: {error}\n", result.pool))
            .collect();
        if !confirm(&format!("{what}{refused}"), args.confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    for plan in plans {
        let grace = args.grace.map(Duration::from_secs);
        let request = ImportPool { grace, ..ImportPool::default() };
        results.push(match open(context, &plan, &request).await {
            Ok(report) => ImportResult { pool: plan.name, report: Some(report), error: None },
            Err(failure) => {
                ImportResult { pool: plan.name, report: None, error: Some(failure.into()) }
            }
        });
    }
    output::show(context.json, &results, || output::imports(&results))?;
    for report in results.iter().filter_map(|result| result.report.as_ref()) {
        super::held::ask(context, &report.name, args.confirmation).await?;
    }
    let failed = results.iter().any(|result| result.error.is_some());
    Ok(if failed { Exit::Failure } else { Exit::Ok })
}

/// Has it opened, and tells how far that is until its volumes serve or wait for something else.
async fn open(
    context: &Context,
    plan: &ImportPlan,
    request: &ImportPool,
) -> Result<PoolReport, Failure> {
    let (name, path) = (&plan.name, format!("/v2/pools/{}", plan.id));
    let mut display = ProgressDisplay::new("import", context.json);
    let client = context.client.silent();
    let import = format!("{path}/import");
    let wait = request.grace.unwrap_or_default();
    let mut report = {
        let mut opened = std::pin::pin!(client.post_and_wait::<PoolReport>(&import, request, wait));
        loop {
            tokio::select! {
                biased;
                report = &mut opened => break report?,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // What isn't answered now is asked for again.
            if let Ok(report) = client.get::<PoolReport>(&path).await {
                display.update(
                    &opening(&report).unwrap_or_else(|| News::Waiting(format!("pool {name}"))),
                );
            }
        }
    };
    // It is imported: whatever happens to the rest of it is told by its state.
    while let Some(news) = opening(&report) {
        display.update(&news);
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(now) = client.get(&path).await else { break };
        report = now;
    }
    Ok(report)
}

/// How far a pool's opening is, while anything is done for it.
fn opening(report: &PoolReport) -> Option<News> {
    if matches!(report.state, PoolState::Opening) {
        return Some(News::Waiting(format!("pool {} is opening", report.name)));
    }
    let replaying = || report.volumes.iter().filter_map(|volume| Some((volume, volume.replaying?)));
    let sum = |of: fn(&Progress) -> u64| replaying().map(|(_, read)| of(&read)).sum::<u64>();
    let (done_bytes, total_bytes) = (sum(|read| read.done_bytes), sum(|read| read.total_bytes));
    let (volume, _) = replaying().next()?;
    match done_bytes < total_bytes {
        true => Some(News::Progress(Progress { done_bytes, total_bytes })),
        false => {
            let (log, name) = (Human(volume.log_bytes), &volume.name);
            Some(News::Waiting(format!("{log} of the log of volume {name} are brought into place")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn an_import_goes_on_while_logs_are_read_and_brought_into_place() {
        let mut report = samples::pool();
        assert_eq!(opening(&report), None);
        let half = Progress { done_bytes: 1 << 20, total_bytes: 2 << 20 };
        report.volumes[0].replaying = Some(half);
        assert_eq!(opening(&report), Some(News::Progress(half)));
        report.volumes[0].replaying = Some(Progress { done_bytes: 2 << 20, ..half });
        report.volumes[0].log_bytes = 3 << 20;
        let Some(News::Waiting(said)) = opening(&report) else { panic!("it is waited for") };
        assert!(said.contains("3.00 MiB") && said.contains("volume v"), "{said}");
        let opening_yet = PoolReport { state: PoolState::Opening, ..report };
        assert!(matches!(opening(&opening_yet), Some(News::Waiting(_))));
    }
}
