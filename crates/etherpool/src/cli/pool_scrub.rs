//! `etherpool pool scrub`, and `pool set`, which also says when and how fast that is.

use std::time::Duration;

use block::size::{Human, parse_size};
use clap::{Args, Subcommand};
use client::pool_path;
use control::api::SetPool;
use control::duration::{Span, SpanError};
use control::exit::Exit;
use pool::{JobReport, PoolReport, ScrubReport, Spare};

use super::pool::done;
use super::pool_wait::{Watch, wait};
use super::{Context, Failure, output};

/// Arguments of `pool scrub`.
#[derive(Debug, Args)]
pub struct ScrubArgs {
    /// The pool
    pool: String,

    /// Read so much per second at most, of all disks together, from now on; off for as much as there is
    #[arg(long, value_parser = parse_rate, value_name = "SIZE")]
    rate: Option<Rate>,

    /// From now on begin one by itself so often, such as 30d; off for never
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    every: Option<Time>,

    /// Wait until it is done
    #[arg(long)]
    wait: bool,
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
        #[arg(value_parser = parse_time, value_name = "TIME")]
        delay: Time,
    },
    /// How often a scrub begins by itself
    ScrubEvery {
        /// Such as 30d; off for never
        #[arg(value_parser = parse_time, value_name = "TIME")]
        every: Time,
    },
    /// Whether data is moved by itself where space is free of which no volume can have anything
    AutoRebalance {
        /// on or off
        #[arg(value_parser = parse_switch, value_name = "on|off", action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Whether disks are told to discard what is freed or discarded, so that they can forget it (TRIM)
    Trim {
        /// on or off
        #[arg(value_parser = parse_switch, value_name = "on|off", action = clap::ArgAction::Set)]
        on: bool,
    },
    /// For which loss space is kept free, so that what was lost finds a place again
    Spare {
        /// Of any one disk, any one node, or so many bytes of any one disk; off for none
        #[arg(value_parser = parse_kept, value_name = "disk|node|SIZE|off")]
        spare: Kept,
    },
    /// How much is copied per second at most to rebuild, empty, replace or resync disks, of all disks together
    RebuildRate {
        /// Such as 100M; off for as much as the disks allow, less while the pool is used
        #[arg(value_parser = parse_rate, value_name = "SIZE")]
        rate: Rate,
    },
    /// How much a scrub reads per second at most, of all disks together
    ScrubRate {
        /// Such as 100M; off for as much as there is, half of the time while the pool is used
        #[arg(value_parser = parse_rate, value_name = "SIZE")]
        rate: Rate,
    },
}

/// A span of time; none for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time(Option<Duration>);

/// Bytes per second; none for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<u64>);

/// For which loss space is kept free; none for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept(Option<Spare>);

fn parse_kept(text: &str) -> Result<Kept, String> {
    match text.trim() {
        "off" => Ok(Kept(None)),
        text => parse_spare(text).map(|spare| Kept(Some(spare))),
    }
}

/// A loss for which space is kept free.
pub(super) fn parse_spare(text: &str) -> Result<Spare, String> {
    match text.trim() {
        "disk" => Ok(Spare::Disk),
        "node" => Ok(Spare::Node),
        size => match parse_size(size) {
            Ok(0) => Err("want at least a byte".into()),
            Ok(bytes) => Ok(Spare::Bytes(bytes)),
            Err(error) => Err(format!("want disk, node or a size: {error}")),
        },
    }
}

/// A span's zero is `off`, which here is the opposite of at once.
fn parse_time(text: &str) -> Result<Time, String> {
    let Span(span) = text.parse().map_err(|error: SpanError| error.to_string())?;
    match span {
        _ if text.trim() == "off" => Ok(Time(None)),
        _ if span.is_zero() || span.subsec_nanos() > 0 => {
            Err("want whole seconds, at least 1s, or off for never".into())
        }
        _ => Ok(Time(Some(span))),
    }
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("want on or off".into()),
    }
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    if text.trim() == "off" {
        return Ok(Rate(None));
    }
    // A person may say that it is a rate.
    let size = text.trim().trim_end_matches("/s");
    match parse_size(size) {
        Ok(0) => Err("want at least a byte per second, or off for no limit".into()),
        Ok(rate) => Ok(Rate(Some(rate))),
        Err(error) => Err(error.to_string()),
    }
}

/// `pool scrub`.
pub async fn scrub(context: &Context, args: ScrubArgs) -> Result<Exit, Failure> {
    let path = pool_path(&args.pool)?;
    let request = SetPool {
        scrub_every_secs: args.every.map(|Time(every)| every.map(|every| every.as_secs())),
        scrub_rate_bytes: args.rate.map(|Rate(rate)| rate),
        ..SetPool::default()
    };
    let number: u32 = context.client.post(&format!("{path}/scrub"), &request).await?;
    let report: PoolReport = context.client.get(&path).await?;
    if !args.wait {
        let job = report.jobs.iter().find(|job| job.number == number);
        let text = || begun(&report, job);
        output::show(context.json, &report.scrub, text)?;
        return Ok(Exit::Ok);
    }
    wait(context, Watch::of_job("scrub", &report, number)).await?;
    let report: PoolReport = context.client.get(&path).await?;
    let found = report.scrub.unwrap_or_default();
    output::show(context.json, &found, || output::scrubbed(&report.name, &found))?;
    Ok(Exit::of_health(is_well(&found)))
}

/// Whether all was read and nothing stayed bad.
fn is_well(found: &ScrubReport) -> bool {
    found.ended_secs.is_some()
        && found.repaired_blocks == found.bad_blocks
        && found.unread_blocks == 0
}

fn begun(report: &PoolReport, job: Option<&JobReport>) -> String {
    let name = &report.name;
    let bytes = job.map_or(0, |job| job.left_bytes);
    format!(
        "pool {name}: {} are read and compared; see `etherpool pool jobs {name}`\n",
        Human(bytes)
    )
}

/// `pool set`.
pub async fn set(context: &Context, args: SetArgs) -> Result<Exit, Failure> {
    let path = format!("{}/set", pool_path(&args.pool)?);
    let (request, text) = args.setting.understood();
    let () = context.client.post(&path, &request).await?;
    if request.spare.is_none() {
        return done(context, &format!("pool {}: {text}\n", args.pool));
    }
    let report = context.client.pool(&args.pool).await?;
    let stands = report.spare.as_ref().map_or_else(String::new, output::spare_stands);
    done(context, &format!("pool {}: {text}{stands}\n", args.pool))
}

impl Setting {
    /// What is asked for, and said when it is done.
    fn understood(&self) -> (SetPool, String) {
        let none = SetPool::default();
        let seconds = |time: Option<Duration>| Some(time.map(|time| time.as_secs()));
        match *self {
            Setting::RebuildDelay { delay: Time(delay) } => {
                let text = match delay {
                    Some(delay) => {
                        format!("what a disk had is rebuilt once it is gone for {}", Span(delay))
                    }
                    None => "what a disk had isn't rebuilt unasked".into(),
                };
                (SetPool { rebuild_delay_secs: seconds(delay), ..none }, text)
            }
            Setting::ScrubEvery { every: Time(every) } => {
                let text = match every {
                    Some(every) => format!("a scrub begins every {}", Span(every)),
                    None => "no scrub begins by itself".into(),
                };
                (SetPool { scrub_every_secs: seconds(every), ..none }, text)
            }
            Setting::AutoRebalance { on } => {
                let text = match on {
                    true => "data moves by itself where free space can't be used otherwise",
                    false => "no data moves unasked to make free space usable",
                };
                (SetPool { auto_rebalance: Some(on), ..none }, text.into())
            }
            Setting::Trim { on } => {
                let text = match on {
                    true => "disks discard what is freed or discarded from now on",
                    false => "disks keep what is freed or discarded until it is written over",
                };
                (SetPool { trim: Some(on), ..none }, text.into())
            }
            Setting::Spare { spare: Kept(spare) } => {
                let text = match spare {
                    Some(spare) => {
                        format!("what {} finds a place again", output::spare_loss(spare))
                    }
                    None => "no space is kept free for what may be lost".into(),
                };
                (SetPool { spare: Some(spare), ..none }, text)
            }
            Setting::RebuildRate { rate: Rate(rate) } => {
                let text = match rate {
                    Some(rate) => format!("at most {}/s are copied from disk to disk", Human(rate)),
                    None => {
                        "as much is copied from disk to disk as the disks allow, less while the pool is used"
                            .into()
                    }
                };
                (SetPool { rebuild_rate_bytes: Some(rate), ..none }, text)
            }
            Setting::ScrubRate { rate: Rate(rate) } => {
                let text = match rate {
                    Some(rate) => format!("a scrub reads at most {}/s", Human(rate)),
                    None => {
                        "a scrub reads as much as there is, half of the time while the pool is used"
                            .into()
                    }
                };
                (SetPool { scrub_rate_bytes: Some(rate), ..none }, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_nothing_isn_t_never() {
        assert_eq!(parse_time("10min"), Ok(Time(Some(Duration::from_secs(600)))));
        assert_eq!(parse_time("off"), Ok(Time(None)));
        for wrong in ["0s", "500ms", "1s500ms", "10", "never"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_bytes_per_second() {
        assert_eq!(parse_rate("50M"), Ok(Rate(Some(50 << 20))));
        assert_eq!(parse_rate("1G/s"), Ok(Rate(Some(1 << 30))));
        assert_eq!(parse_rate("off"), Ok(Rate(None)));
        for wrong in ["0", "fast", "-5M", ""] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_spare_is_a_loss_or_a_size() {
        assert_eq!(parse_kept("node"), Ok(Kept(Some(Spare::Node))));
        assert_eq!(parse_kept("100G"), Ok(Kept(Some(Spare::Bytes(100 << 30)))));
        assert_eq!(parse_kept("off"), Ok(Kept(None)));
        assert!(parse_spare("off").is_err(), "a new pool has none anyway");
        for wrong in ["0", "disks", ""] {
            assert!(parse_kept(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_stayed_bad_or_unread_is_no_success() {
        let well = ScrubReport {
            ended_secs: Some(1),
            bad_blocks: 3,
            repaired_blocks: 3,
            ..ScrubReport::default()
        };
        assert!(is_well(&well));
        assert!(!is_well(&ScrubReport { repaired_blocks: 2, ..well }));
        assert!(!is_well(&ScrubReport { unread_blocks: 1, ..well }));
        assert!(!is_well(&ScrubReport { ended_secs: None, ..well }), "it was cancelled");
    }
}
