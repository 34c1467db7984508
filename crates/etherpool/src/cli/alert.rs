//! `etherpool alert`: what is wrong, and whether people would hear of it.

use clap::Subcommand;
use control::alerts::{AlertsReport, ChannelAnswer};
use control::exit::Exit;

use super::pool::now_secs;
use super::{Context, Failure, output};

/// What people are told of.
#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// List what is wrong, and how the ways do by which people are told
    List,
    /// Send a message by every way there is, and say what each answered
    Test,
}

/// Runs it.
pub async fn run(context: &Context, command: AlertCommand) -> Result<Exit, Failure> {
    match command {
        AlertCommand::List => {
            let report: AlertsReport = context.client.get("/v2/alerts").await?;
            output::show(context.json, &report, || output::alerts(&report, now_secs()))?;
            Ok(Exit::of_health(report.raised.is_empty()))
        }
        AlertCommand::Test => {
            let answers: Vec<ChannelAnswer> = context.client.post("/v2/alerts/test", &()).await?;
            output::show(context.json, &answers, || output::alert_test(&answers))?;
            Ok(Exit::of_health(answers.iter().all(|answer| answer.delivered)))
        }
    }
}
