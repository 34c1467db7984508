//! `etherpool pool rebalance` and `etherpool volume convert`: groups that move, or get copies, because somebody wants
//! another order of what is whole.

use block::VolumeName;
use clap::Args;
use client::{pool_path, volume_path};
use control::api::{ConvertVolume, RebalancePool};
use control::exit::Exit;
use pool::{ConvertForecast, Layout, PoolReport, RebalanceForecast};

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::output;
use super::pool_wait::{Watch, wait};
use super::{Context, Failure};

/// Arguments of `pool rebalance`.
#[derive(Debug, Args)]
pub struct RebalanceArgs {
    /// The pool
    pool: String,

    /// Wait until it is done
    #[arg(long)]
    wait: bool,

    /// Only say what would be moved
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `volume convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// The redundancy that it is to have: raid0, or mirror:N (raid1, raid10: mirror:2)
    #[arg(long)]
    layout: Layout,

    /// Wait until all of it has that
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// `pool rebalance`. Nothing is lost by it, so nobody is asked.
pub async fn rebalance(context: &Context, args: RebalanceArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let request = RebalancePool { dry_run: args.dry_run };
    let plan: RebalanceForecast =
        context.client.post(&format!("{path}/rebalance"), &request).await?;
    let Some(number) = plan.job.filter(|_| args.wait && !args.dry_run) else {
        output::show(context.json, &plan, || output::rebalance(&args.pool, &plan, args.dry_run))?;
        return Ok(Exit::Ok);
    };
    let report: PoolReport = context.client.get(&path).await?;
    wait(context, Watch::of_job("rebalance", &report, number)).await?;
    let report: PoolReport = context.client.get(&path).await?;
    // Somebody may have ended it.
    let look = RebalancePool { dry_run: true };
    let left: RebalanceForecast = context.client.post(&format!("{path}/rebalance"), &look).await?;
    let is_done = left.bytes == 0;
    let text = || match is_done {
        true => format!("pool {} is rebalanced\n", report.name),
        false => format!("pool {} isn't rebalanced: its job was cancelled\n", report.name),
    };
    output::show(context.json, &report, text)?;
    Ok(Exit::of_health(is_done))
}

/// `volume convert`.
pub async fn convert(context: &Context, args: ConvertArgs) -> Result<Exit, Failure> {
    let volume = &args.volume;
    let path = format!("{}/convert", volume_path(volume));
    let look = ConvertVolume { layout: args.layout, dry_run: true };
    let plan: ConvertForecast = context.client.post(&path, &look).await?;
    if !confirm_plan(
        context,
        &output::conversion(&volume.to_string(), &plan),
        &plan,
        args.confirmation,
    )? {
        return Ok(Exit::Ok);
    }
    let request = ConvertVolume { dry_run: false, ..look };
    let plan: ConvertForecast = context.client.post(&path, &request).await?;
    let Some(number) = plan.job.filter(|_| args.wait) else {
        let pool = volume.pool();
        let text =
            || format!("{volume} becomes {}; see `etherpool pool jobs {pool}`\n", args.layout);
        output::show(context.json, &plan, text)?;
        return Ok(Exit::Ok);
    };
    let report: PoolReport = context.client.get(&pool_path(volume.pool())?).await?;
    wait(context, Watch::of_job("convert", &report, number)).await?;
    let report = context.client.volume(volume).await?;
    // Somebody may have taken it back.
    let is_done = report.layout == args.layout.to_string() && report.converting_to.is_none();
    let text = || match is_done {
        true => format!("{volume} is {} now\n", report.layout),
        false => format!("{volume} is {}: its conversion was cancelled\n", report.layout),
    };
    output::show(context.json, &report, text)?;
    Ok(Exit::of_health(is_done))
}
