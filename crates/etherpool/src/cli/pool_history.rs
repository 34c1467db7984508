//! `etherpool pool history` and `etherpool events`: what happened, and who had what done.

use clap::Args;
use client::pool_path;
use control::api::{EventLine, Missed, PoolReportExt as _};
use control::exit::Exit;
use pool::{HistoryEntry, PoolEvent};
use serde::Serialize;
use serde_json::Value;

use super::output;
use super::pool::now_secs;
use super::{Context, Failure};

/// Arguments of `pool history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The pool
    pool: String,

    /// Only so many, the last ones
    #[arg(short = 'n', value_name = "N")]
    count: Option<usize>,
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on (with --json a line each), until interrupted
    #[arg(long, short)]
    follow: bool,

    /// So many of what happened before, the last ones
    #[arg(short = 'n', value_name = "N", default_value_t = 20)]
    count: usize,
}

/// An entry and whose it is.
#[derive(Clone, Debug, Serialize)]
pub struct PoolEntry {
    /// The pool.
    pub pool: String,
    /// What happened.
    #[serde(flatten)]
    pub entry: HistoryEntry,
}

/// `pool history`.
pub async fn history(context: &Context, args: HistoryArgs) -> Result<Exit, Failure> {
    let mut entries = entries_of(context, &args.pool).await?;
    keep_last(&mut entries, args.count.unwrap_or(usize::MAX));
    output::show(context.json, &entries, || output::history(&entries, false))?;
    Ok(Exit::Ok)
}

/// `events`.
pub async fn events(context: &Context, args: EventsArgs) -> Result<Exit, Failure> {
    let pools = context.client.pools().await?;
    let mut entries = Vec::new();
    for pool in pools.iter().filter(|pool| pool.is_open()) {
        entries.extend(entries_of(context, &pool.name).await?);
    }
    entries.sort_by_key(|entry| entry.entry.at_secs);
    keep_last(&mut entries, args.count);
    if !args.follow {
        output::show(context.json, &entries, || output::history(&entries, true))?;
        return Ok(Exit::Ok);
    }
    for entry in &entries {
        let goes_on = match context.json {
            true => print_line(&serde_json::to_value(entry).unwrap_or_default())?,
            false => output::write(&output::shown(&output::history_line(entry, true)))?,
        };
        if !goes_on {
            return Ok(Exit::Ok);
        }
    }
    let mut events = context.client.events_as::<Value>().await?;
    loop {
        let (line, as_told) = told(events.next().await?)?;
        let goes_on = match context.json {
            true => print_line(&as_told)?,
            false => output::write(&output::shown(&text(&line)))?,
        };
        if !goes_on {
            return Ok(Exit::Ok);
        }
    }
}

/// A line as it is known here, and as programs get it: as it came, with what only a later version knows. But a
/// supervisor of version 0.1 tells what happens without when, and how bad it is.
fn told(as_told: Value) -> Result<(EventLine, Value), client::Error> {
    let broken = |error: serde_json::Error| client::Error::NotUnderstood(error.to_string());
    let line: EventLine = serde_json::from_value(as_told.clone()).map_err(broken)?;
    let is_other = matches!(line, EventLine::Other(_));
    match serde_json::from_value(as_told.clone()) {
        Ok(event) if is_other => {
            let line = EventLine::of(event, now_secs());
            let filled_in = serde_json::to_value(&line).map_err(broken)?;
            Ok((line, filled_in))
        }
        _ => Ok((line, as_told)),
    }
}

fn text(line: &EventLine) -> String {
    match line {
        EventLine::Happened { event, at_secs, .. } => {
            output::history_line(&live(event, *at_secs), true)
        }
        EventLine::Missed(Missed::Lost { count }) => {
            format!("({count} events are missing here)\n")
        }
        EventLine::Other(fields) => format!("{}\n", Value::from(fields.clone())),
    }
}

fn live(event: &PoolEvent, at_secs: u64) -> PoolEntry {
    let pool = event.about().1.to_owned();
    PoolEntry { pool, entry: event.entry(std::time::Duration::from_secs(at_secs)) }
}

async fn entries_of(context: &Context, pool: &str) -> Result<Vec<PoolEntry>, Failure> {
    let path = format!("{}/history", pool_path(pool)?);
    let entries: Vec<HistoryEntry> = context.client.get(&path).await?;
    Ok(entries.into_iter().map(|entry| PoolEntry { pool: pool.to_owned(), entry }).collect())
}

fn keep_last(entries: &mut Vec<PoolEntry>, count: usize) {
    entries.drain(..entries.len().saturating_sub(count));
}

fn print_line(value: &Value) -> Result<bool, Failure> {
    output::write(&format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_get_what_is_told_as_it_came() {
        let mut later = json!({"event": "scrub-begun", "pool": "tank", "at_secs": 7});
        for (field, value) in [("severity", "info"), ("text", "t"), ("later", "new")] {
            later[field] = value.into();
        }
        let (line, as_told) = told(later.clone()).unwrap();
        assert!(matches!(line, EventLine::Happened { at_secs: 7, .. }), "{line:?}");
        assert_eq!(as_told, later);
        let unknown = json!({"event": "disk-sang", "pool": "tank"});
        let (line, as_told) = told(unknown.clone()).unwrap();
        assert!(matches!(line, EventLine::Other(_)), "{line:?}");
        assert_eq!(as_told, unknown);
        // Of version 0.1.
        let (line, as_told) = told(json!({"event": "scrub-begun", "pool": "tank"})).unwrap();
        assert_eq!(serde_json::to_value(line).unwrap(), as_told);
        assert_eq!(as_told["text"], "pool tank: scrub: everything is read and compared");
        assert!(told(json!(7)).is_err());
    }
}
