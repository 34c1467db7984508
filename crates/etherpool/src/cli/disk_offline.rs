//! `etherpool disk offline` and `disk online`: disks that people take out of use before they work on them.

use clap::Args;
use client::{News, pool_path};
use control::api::{ApiError, ErrorCode, NamedDisks};
use control::exit::Exit;
use pool::{DiskState, OfflineForecast, OnlineForecast, PoolDisk, PoolReport, Progress};

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::output;
use super::pool_jobs::find_members;
use super::pool_wait::{Look, look_until_over};
use super::{Context, Failure};

/// Arguments of `disk offline`.
#[derive(Debug, Args)]
pub struct OfflineArgs {
    /// The pool
    pool: String,

    /// Disks as `pool show` names them, their identities, or machines: all their disks
    #[arg(required = true, value_name = "DISK|NODE")]
    disks: Vec<String>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `disk online`.
#[derive(Debug, Args)]
pub struct OnlineArgs {
    /// The pool
    pool: String,

    /// Disks as `pool show` names them, their identities, or machines: all their disks
    #[arg(required = true, value_name = "DISK|NODE")]
    disks: Vec<String>,

    /// Wait until they have all that they missed
    #[arg(long)]
    wait: bool,

    /// Only say what would be copied
    #[arg(long)]
    dry_run: bool,
}

/// Looks in a row at which nothing was copied, until they aren't waited for any more.
const STILL_MAX: u32 = 60;

/// `disk offline`.
pub async fn offline(context: &Context, args: OfflineArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let disks = find_members(&report, &args.disks)?;
    let path = format!("{path}/offline");
    let look = NamedDisks { disks: identities(&disks), dry_run: true };
    let plan: OfflineForecast = context.client.post(&path, &look).await?;
    if !confirm_plan(context, &output::offline(&report, &disks, &plan), &plan, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let request = NamedDisks { dry_run: false, ..look };
    let plan: OfflineForecast = context.client.post(&path, &request).await?;
    let (names, pool) = (output::named(&disks), &report.name);
    output::show(context.json, &plan, || {
        let arguments = output::as_arguments(&disks);
        format!(
            "{names} of pool {pool}: offline, until `etherpool disk online {pool} {arguments}`\n"
        )
    })?;
    Ok(Exit::Ok)
}

/// `disk online`. Nothing is lost by it, so nobody is asked.
pub async fn online(context: &Context, args: OnlineArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let report: PoolReport = context.client.get(&path).await?;
    let disks = find_members(&report, &args.disks)?;
    let request = NamedDisks { disks: identities(&disks), dry_run: args.dry_run };
    let plan: OnlineForecast = context.client.post(&format!("{path}/online"), &request).await?;
    if args.wait && !args.dry_run {
        wait(context, &path, &disks).await?;
    }
    let waited = args.wait && !args.dry_run;
    output::show(context.json, &plan, || {
        output::online(&report.name, &plan, args.dry_run, waited)
    })?;
    Ok(Exit::Ok)
}

fn identities(disks: &[&PoolDisk]) -> Vec<String> {
    disks.iter().map(|disk| disk.id.clone()).collect()
}

/// Waits until disks take part and miss nothing.
async fn wait(context: &Context, path: &str, disks: &[&PoolDisk]) -> Result<(), Failure> {
    let (mut total_bytes, mut left_bytes, mut still) = (0, u64::MAX, 0);
    let look = |answer: Result<PoolReport, Failure>| {
        let report = match answer {
            Ok(report) => report,
            Err(failure) if still >= STILL_MAX => return Look::Stuck(failure),
            Err(failure) => {
                still += 1;
                return Look::Going(News::Waiting(failure.error.message));
            }
        };
        let is_one = |disk: &&PoolDisk| disks.iter().any(|wanted| wanted.id == disk.id);
        let now: Vec<&PoolDisk> = report.disks.iter().filter(is_one).collect();
        let left: u64 = now.iter().map(|disk| disk.dirty_bytes).sum();
        let away = now.iter().find(|disk| disk.state != DiskState::Usable);
        if left == 0 && away.is_none() {
            return Look::Over;
        }
        still = if left < left_bytes { 0 } else { still + 1 };
        (total_bytes, left_bytes) = (left.max(total_bytes), left);
        if still < STILL_MAX {
            return Look::Going(match away {
                Some(disk) => News::Waiting(format!("{} is taken in once it answers", disk.name)),
                None => News::Progress(Progress { done_bytes: total_bytes - left, total_bytes }),
            });
        }
        let message = match away {
            Some(disk) => {
                format!("disk {} of pool {} doesn't take part yet", disk.name, report.name)
            }
            None => format!("pool {} copies nothing to what was offline", report.name),
        };
        let error = ApiError::new(ErrorCode::Suspended, message)
            .remedy(format!("it goes on by itself; see `etherpool pool show {}`", report.name));
        Look::Stuck(error.into())
    };
    look_until_over(context, "resync", path, look).await
}
