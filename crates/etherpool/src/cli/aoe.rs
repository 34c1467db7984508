//! `etherpool aoe`: what answers on the segment, through the supervisor or by own frames.

use clap::{Args, Subcommand};
use control::api::SeenTarget;
use control::exit::Exit;

use super::aoe_driver::{self, DriverCommand};
use super::output;
use super::{Context, Failure};

/// Look at the AoE segment.
#[derive(Debug, Subcommand)]
pub enum AoeCommand {
    /// List the targets that answer
    Discover(DiscoverArgs),
    #[command(flatten)]
    Driver(DriverCommand),
}

/// Arguments of `aoe discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Ask on this interface by own frames, without a supervisor (needs CAP_NET_RAW)
    #[arg(long, short)]
    interface: Option<String>,

    /// How long to wait for answers with -i, in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    wait_ms: u64,
}

impl AoeCommand {
    /// Whether it looks for itself.
    pub fn is_local(&self) -> bool {
        match self {
            AoeCommand::Discover(args) => args.interface.is_some(),
            AoeCommand::Driver(_) => true,
        }
    }
}

/// Runs it.
pub async fn run(context: &Context, command: AoeCommand) -> Result<Exit, Failure> {
    let args = match command {
        AoeCommand::Discover(args) => args,
        AoeCommand::Driver(command) => return aoe_driver::run(&command, context.json),
    };
    let targets: Vec<SeenTarget> = match args.interface {
        None => context.client.get("/v2/discover").await?,
        Some(interface) => {
            let wait = std::time::Duration::from_millis(args.wait_ms);
            // The reactor owns its thread; the runtime of this command has another.
            tokio::task::spawn_blocking(move || crate::engine::discover_alone(&interface, wait))
                .await
                .map_err(anyhow::Error::from)??
        }
    };
    output::show(context.json, &targets, || output::targets(&targets))?;
    Ok(Exit::Ok)
}
