//! `etherpool pool iostat`: how much is read and written, by volumes and by disks.

use std::collections::BTreeMap;
use std::time::Duration;

use block::VolumeName;
use clap::Args;
use client::volume_path;
use control::api::{ErrorCode, PoolReportExt as _};
use control::exit::Exit;
use pool::{PoolReport, VolumeStats};

use super::output::{self, Rates};
use super::{Context, Failure};

/// Arguments of `pool iostat`.
#[derive(Debug, Args)]
pub struct IostatArgs {
    /// The pool (default: all that are open)
    pool: Option<String>,

    /// Every so many seconds, show what was done meanwhile (with --json a line each); without, since the pools were
    /// opened
    #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: Option<u64>,

    /// End after so many intervals
    #[arg(value_name = "COUNT", requires = "interval")]
    count: Option<u64>,
}

type Counted = BTreeMap<VolumeName, VolumeStats>;

/// Runs it.
pub async fn run(context: &Context, args: IostatArgs) -> Result<Exit, Failure> {
    let pool = args.pool.as_deref();
    let mut before = count(context, pool).await?;
    let Some(interval) = args.interval.map(Duration::from_secs) else {
        let rates = Rates::of(&before);
        output::show(context.json, &rates, || output::rates(&rates))?;
        return Ok(Exit::Ok);
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::time::sleep(interval).await;
        let now = count(context, pool).await?;
        let rates = Rates::of(&between(&now, &before));
        let text = match context.json {
            true => serde_json::to_string(&rates).map_err(anyhow::Error::from)? + "\n",
            false => output::plain(&output::rates(&rates)) + "\n",
        };
        if !output::write(&text)? {
            break;
        }
        before = now;
        left -= 1;
    }
    Ok(Exit::Ok)
}

async fn count(context: &Context, pool: Option<&str>) -> Result<Counted, Failure> {
    let pools: Vec<PoolReport> = match pool {
        Some(pool) => vec![context.client.pool(pool).await?],
        None => context.client.pools().await?,
    };
    let mut counted = Counted::new();
    for (name, _) in
        pools.iter().filter(|pool| pool.is_open()).flat_map(|pool| pool.named_volumes())
    {
        // One that was removed meanwhile ends nothing.
        match context.client.get(&format!("{}/stats", volume_path(&name))).await {
            Ok(stats) => counted.insert(name, stats),
            Err(client::Error::Refused(error)) if error.code == ErrorCode::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(counted)
}

/// What was done meanwhile. A volume that is new, or whose pool was opened anew, counts from then on.
fn between(now: &Counted, before: &Counted) -> Counted {
    let since = |(name, stats): (&VolumeName, &VolumeStats)| {
        let between = before.get(name).and_then(|before| stats.since(before));
        (name.clone(), between.unwrap_or_else(|| stats.clone()))
    };
    now.iter().map(since).collect()
}
