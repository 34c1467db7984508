//! `etherpool pool label`, and the labels of `pool create` and `pool extend`: what disks share besides their machine.

use clap::Args;
use client::pool_path;
use control::api::LabelDisks;
use control::exit::Exit;
use control::names::DiskArgument;
use pool::{DiskReport, DomainLabel, LabelForecast};

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::disk::resolve;
use super::output;
use super::{Context, Failure};

/// Arguments of `pool label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// The pool
    pool: String,

    /// A label and what gets it, disks or machines (all their disks): rack=A:e1.0,node2. Without a value they lose
    /// the one of that kind that they have: rack=:e1.0
    #[arg(required = true, value_name = "KIND=[VALUE]:DISK|NODE,...")]
    labels: Vec<DomainLabel>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// `pool label`.
pub async fn label(context: &Context, args: LabelArgs) -> Result<Exit, Failure> {
    let path = format!("{}/label", pool_path(&args.pool)?);
    let listed = context.client.disks().await?;
    let labels = addressed(&listed, &args.labels)?;
    let look = LabelDisks { labels, dry_run: true };
    let plan: LabelForecast = context.client.post(&path, &look).await?;
    // Whoever asks for what there is already changes nothing.
    let is_done = plan.disks.is_empty() && !args.confirmation.dry_run;
    if !is_done
        && !confirm_plan(context, &output::labels(&args.pool, &plan), &plan, args.confirmation)?
    {
        return Ok(Exit::Ok);
    }
    let request = LabelDisks { dry_run: false, ..look };
    let plan: LabelForecast = context.client.post(&path, &request).await?;
    output::show(context.json, &plan, || output::labelled(&args.pool, &plan))?;
    Ok(Exit::Ok)
}

/// The same with the addresses of disks that are named by a path on this machine.
pub fn addressed(
    listed: &[DiskReport],
    labels: &[DomainLabel],
) -> Result<Vec<DomainLabel>, Failure> {
    let of = |label: &DomainLabel| {
        let address = |name: &String| match name.parse() {
            Ok(argument @ DiskArgument::Path(_)) => Ok(resolve(listed, &argument)?.to_string()),
            // It may be a machine.
            Ok(DiskArgument::Address(_)) | Err(_) => Ok(name.clone()),
        };
        let disks = label.disks.iter().map(address).collect::<Result<_, Failure>>()?;
        Ok(DomainLabel { disks, ..label.clone() })
    };
    labels.iter().map(of).collect()
}
