//! `etherpool pool import`: taking over a pool. What takes its time is reading the logs of its volumes: how much of them is
//! read is told until all volumes serve, or wait for something else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use block::size::Human;
use clap::Args;
use client::{News, pool_path};
use control::api::{ApiError, ImportPool, ImportResult, PoolReportExt as _};
use control::exit::Exit;
use pool::{ImportPlan, PoolError, PoolReport, Progress, VotesOf};
use serde::Serialize;

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::output;
use super::pool::{done, show};
use super::pool_keys;
use super::pool_wait::{LOOK_EVERY, Look, STILL_MAX, look_until_over};
use super::progress::ProgressDisplay;
use super::{Context, Failure};

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
    let present = context.client.pools().await?;
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
    let what = output::import_plan(&plan, args.read_only);
    // Nobody is deprived where nobody owns it; whoever else does is named first.
    let asks = match args.read_only {
        true => plan.no_quorum.is_some() || args.outdated_metadata,
        false => plan.owner.is_some() && !plan.is_ours,
    };
    if (asks || args.confirmation.dry_run)
        && !confirm_plan(context, &what, &plan, args.confirmation)?
    {
        return Ok(Exit::Ok);
    }
    let outdated_metadata = args.outdated_metadata;
    let grace = args.grace.map(Duration::from_secs);
    let (force, read_only) = (args.force, args.read_only);
    let request = ImportPool { grace, force, outdated_metadata, read_only, votes: args.pool_key };
    let mut report = open(context, &plan, &request).await?;
    serve(context, &mut report).await;
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

/// What importing all would do.
#[derive(Serialize)]
struct ImportsPlan<'a> {
    plans: &'a [ImportPlan],
    refused: &'a [ImportResult],
}

/// Imports one after the other all that aren't open and whose owner doesn't live; what isn't imported
/// is told with the reason.
async fn import_all(context: &Context, args: ImportArgs) -> Result<Exit, Failure> {
    let present = context.client.pools().await?;
    let closed = present.into_iter().filter(|report| !report.is_open());
    let (mut plans, mut results) = (Vec::new(), Vec::new());
    for report in closed {
        let path = format!("/v2/pools/{}/import", report.id);
        let failed = |error: ApiError| {
            let (pool, report) = (report.name.clone(), None);
            ImportResult { pool, report, error: Some(error) }
        };
        match context.client.get::<ImportPlan>(&path).await.map_err(Failure::from) {
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
        let plan = ImportsPlan { plans: &plans, refused: &results };
        if !confirm_plan(context, &format!("{what}{refused}"), &plan, args.confirmation)? {
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
    // Not one before the next is imported: a log may be long.
    for report in results.iter_mut().filter_map(|result| result.report.as_mut()) {
        serve(context, report).await;
    }
    output::show(context.json, &results, || output::imports(&results))?;
    for report in results.iter().filter_map(|result| result.report.as_ref()) {
        super::held::ask(context, &report.name, args.confirmation).await?;
    }
    let failed = results.iter().any(|result| result.error.is_some());
    Ok(if failed { Exit::Failure } else { Exit::Ok })
}

/// Has it opened, and says what is waited for.
async fn open(
    context: &Context,
    plan: &ImportPlan,
    request: &ImportPool,
) -> Result<PoolReport, Failure> {
    let path = format!("/v2/pools/{}", plan.id);
    let mut display = ProgressDisplay::new("import", context.json);
    // What is waited for is told here.
    let client = context.client.clone().aside(None);
    let import = format!("{path}/import");
    let wait = request.grace.unwrap_or_default();
    let mut opened = std::pin::pin!(client.post_and_wait::<PoolReport>(&import, request, wait));
    loop {
        tokio::select! {
            biased;
            report = &mut opened => return Ok(report?),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        // What isn't answered now is asked for again.
        if let Ok(report) = client.get::<PoolReport>(&path).await {
            let what = format!("pool {} is {}", plan.name, report.state_text());
            display.update(&News::Waiting(what));
        }
    }
}

/// Tells how far its logs are replayed, until its volumes serve or wait for something else. It is imported: whatever
/// happens to the rest of it is told by its state.
async fn serve(context: &Context, report: &mut PoolReport) {
    let path = format!("/v2/pools/{}", report.id);
    let (mut replay, mut before, mut still) = (Replay::default(), None, 0);
    let look = |answer: Result<PoolReport, Failure>| {
        let Ok(now) = answer else { return Look::Over };
        *report = now;
        let Some(news) = replay.look(report) else { return Look::Over };
        still = if before.as_ref() == Some(&news) { still + 1 } else { 0 };
        before = Some(news.clone());
        if still < STILL_MAX { Look::Going(news) } else { Look::Over }
    };
    let _ = look_until_over(context, "import", &path, look).await;
}

/// How far the logs of a pool's volumes are replayed.
#[derive(Default)]
struct Replay {
    /// How much of each was read when it was seen last.
    read: BTreeMap<String, Progress>,
}

impl Replay {
    /// How far it is, while anything is done for it: without votes nothing is.
    fn look(&mut self, report: &PoolReport) -> Option<News> {
        let going = || report.volumes.iter().filter_map(|one| Some((one, one.replaying?)));
        let (volume, read) = going().next().filter(|_| report.lease_ok)?;
        // One that isn't replayed any more is read.
        self.read.values_mut().for_each(|read| read.done_bytes = read.total_bytes);
        self.read.extend(going().map(|(volume, read)| (volume.id.clone(), read)));
        let sum = |of: fn(&Progress) -> u64| self.read.values().map(of).sum::<u64>();
        let all =
            Progress { done_bytes: sum(|r| r.done_bytes), total_bytes: sum(|r| r.total_bytes) };
        let name = &volume.name;
        Some(match all.done_bytes < all.total_bytes {
            true => News::Progress(all),
            false if read.total_bytes == 0 => {
                News::Waiting(format!("the log of volume {name} is about to be read"))
            }
            false => News::Waiting(format!(
                "{} of the log of volume {name} are brought into place",
                Human(volume.log_bytes)
            )),
        })
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
        let mut other = report.volumes[0].clone();
        (other.name, other.id) = ("w".into(), "2".into());
        report.volumes.push(other);
        assert_eq!(Replay::default().look(&report), None);
        let mut replay = Replay::default();
        let read =
            |done_bytes: u64| Some(Progress { done_bytes: done_bytes << 20, total_bytes: 2 << 20 });
        (report.volumes[0].replaying, report.volumes[1].replaying) = (read(2), read(0));
        let of_all =
            |done: u64| News::Progress(Progress { done_bytes: done << 20, total_bytes: 4 << 20 });
        assert_eq!(replay.look(&report), Some(of_all(2)));
        // What is done with one stays done.
        (report.volumes[0].replaying, report.volumes[1].replaying) = (None, read(1));
        assert_eq!(replay.look(&report), Some(of_all(3)));
        report.volumes[1].replaying = read(2);
        report.volumes[1].log_bytes = 3 << 20;
        let Some(News::Waiting(said)) = replay.look(&report) else { panic!("it is waited for") };
        assert!(said.contains("3.00 MiB") && said.contains("volume w"), "{said}");
        report.lease_ok = false;
        assert_eq!(replay.look(&report), None, "nobody replays without votes");
        report.lease_ok = true;
        report.volumes[1].replaying = Some(Progress::default());
        let said = Replay::default().look(&report);
        assert_eq!(said, Some(News::Waiting("the log of volume w is about to be read".into())));
    }
}
