//! `etherpool pool scrub`, and `pool set`, which also says when and how fast that is.

use std::time::Duration;

use block::size::{Human, parse_size};
use clap::{Args, Subcommand};
use control::api::SetPool;
use control::duration::{Span, SpanError};
use control::exit::Exit;
use pool::{InvalidSpare, JobReport, PoolReport, ScrubReport, Spare};

use super::pool::{done, pool_path};
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
    /// How much a scrub reads per second at most, of all disks together
    ScrubRate {
        /// Such as 100M; off for as much as there is, half of the time while the pool is used
        #[arg(value_parser = parse_rate, value_name = "SIZE")]
        rate: Rate,
    },
    /// What is kept free, so that it can be rebuilt elsewhere when it is lost; no volume may take that
    Spare {
        /// disk (the largest), node, or a size such as 2T; none for nothing
        #[arg(value_parser = parse_spare, value_name = "disk|node|SIZE|none")]
        spare: Kept,
    },
}

/// What is kept as spare; none for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept(Option<Spare>);

fn parse_spare(text: &str) -> Result<Kept, String> {
    match text.trim() {
        "none" | "off" => Ok(Kept(None)),
        spare => spare
            .parse()
            .map(|spare| Kept(Some(spare)))
            .map_err(|error: InvalidSpare| format!("{error}; or none for nothing")),
    }
}

/// A span of time; none for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time(Option<Duration>);

/// Bytes per second; none for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<u64>);

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
    done(context, &format!("pool {}: {text}\n", args.pool))
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
            Setting::Spare { spare: Kept(spare) } => {
                let text = match spare {
                    Some(Spare::Disk) => {
                        "so much is kept free that the largest disk can be rebuilt".into()
                    }
                    Some(Spare::Node) => {
                        "so much is kept free that the largest machine can be rebuilt".into()
                    }
                    Some(Spare::Bytes(bytes)) => format!("{} are kept free", Human(bytes)),
                    None => "nothing is kept free".into(),
                };
                (SetPool { spare: Some(spare), ..none }, text)
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
    fn a_spare_is_a_disk_a_machine_or_a_size() {
        assert_eq!(parse_spare("disk"), Ok(Kept(Some(Spare::Disk))));
        assert_eq!(parse_spare("2T"), Ok(Kept(Some(Spare::Bytes(2 << 40)))));
        assert_eq!(parse_spare("none"), Ok(Kept(None)));
        assert!(parse_spare("two").is_err_and(|error| error.contains("none for nothing")));
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
