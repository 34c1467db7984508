//! `etherpool explain`: what the ids mean that the log, events, notifications and `status` have. It asks nobody.

use clap::Args;
use control::catalogue::{self, Entry};
use control::exit::Exit;

use super::{Failure, output};
use crate::logging;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Ids as the log, events, notifications and status have them; without any all are listed
    ids: Vec<String>,

    /// The page of the manual, of all of them
    #[arg(long, hide = true, conflicts_with_all = ["ids", "journal"])]
    markdown: bool,

    /// The catalogue for systemd's journal, of all of them
    #[arg(long, hide = true, conflicts_with = "ids")]
    journal: bool,
}

/// `explain`.
pub fn explain(args: &ExplainArgs, json: bool) -> Result<Exit, Failure> {
    if args.markdown || args.journal {
        let text = if args.markdown { catalogue::markdown() } else { logging::journal_catalogue() };
        output::print(&text)?;
        return Ok(Exit::Ok);
    }
    let found: Vec<&Entry> = match args.ids.as_slice() {
        [] => catalogue::all().iter().collect(),
        ids => ids.iter().map(|id| named(id)).collect::<Result<_, _>>()?,
    };
    output::show(json, &found, || match args.ids.is_empty() {
        true => output::messages(&found),
        false => output::explained(&found, output::terminal_width().unwrap_or(80)),
    })?;
    Ok(Exit::Ok)
}

fn named(id: &str) -> Result<&'static Entry, Failure> {
    catalogue::find(id).ok_or_else(|| {
        let message = format!("nothing that is told has the id {id}");
        Failure::not_found(message, "see `etherpool explain` for all ids")
    })
}
