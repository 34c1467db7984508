//! `etherpool volume stats`: where the time of a volume's requests goes.

use std::time::Duration;

use block::VolumeName;
use clap::Args;
use client::volume_path;
use control::exit::Exit;
use pool::VolumeStats;

use super::output;
use super::{Context, Failure};

/// Arguments of `volume stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// Every so many seconds, show what was done meanwhile (with --json a line each)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: Option<u64>,

    /// End after so many intervals
    #[arg(long, value_name = "N", requires = "interval")]
    count: Option<u64>,
}

/// Runs it.
pub async fn run(context: &Context, args: StatsArgs) -> Result<Exit, Failure> {
    let path = format!("{}/stats", volume_path(&args.volume));
    let mut before: VolumeStats = context.client.get(&path).await?;
    let Some(interval) = args.interval.map(Duration::from_secs) else {
        output::show(context.json, &before, || {
            output::volume_stats(&args.volume, &before, "since the pool was opened")
        })?;
        return Ok(Exit::Ok);
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        tokio::time::sleep(interval).await;
        let now: VolumeStats = context.client.get(&path).await?;
        let (shown, since) = match now.since(&before) {
            Some(between) => (between, "until now"),
            None => (now.clone(), "since the pool was opened anew"),
        };
        let text = match context.json {
            true => serde_json::to_string(&shown).map_err(anyhow::Error::from)? + "\n",
            false => output::plain(&output::volume_stats(&args.volume, &shown, since)) + "\n",
        };
        if !output::write(&text)? {
            break;
        }
        before = now;
        left -= 1;
    }
    Ok(Exit::Ok)
}
