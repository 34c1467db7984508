//! What happened to pools.

use pool::Severity;

use super::{calendar_time, lines, or_dash, table};
use crate::cli::pool_history::PoolEntry;

/// `pool history` and `events`; with the pool's name where there are several.
pub fn history(entries: &[PoolEntry], of_all: bool) -> String {
    if entries.is_empty() {
        return "nothing so far\n".to_owned();
    }
    let mut shown = match of_all {
        true => table(&["TIME (UTC)", "POOL", "WHO", "WHAT"]),
        false => table(&["TIME (UTC)", "WHO", "WHAT"]),
    };
    for entry in entries {
        shown.add_row(cells(entry, of_all));
    }
    lines(&shown)
}

/// A line for one that comes now.
pub fn history_line(entry: &PoolEntry, of_all: bool) -> String {
    cells(entry, of_all).join("  ") + "\n"
}

fn cells(PoolEntry { pool, entry }: &PoolEntry, of_all: bool) -> Vec<String> {
    let time = calendar_time(entry.at_secs);
    let mark = match entry.severity {
        Severity::Info => "",
        Severity::Warning => "! ",
        Severity::Error => "!! ",
    };
    let result = entry.result.as_ref().map(|result| format!(": {result}")).unwrap_or_default();
    let times = match entry.count {
        0 | 1 => String::new(),
        count => format!(" ({count} times since the one before)"),
    };
    let what = format!("{mark}{}{result}{times}", entry.text);
    let pool = of_all.then(|| or_dash(Some(pool)));
    [Some(time), pool, Some(or_dash(entry.who.as_deref())), Some(what)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use pool::HistoryEntry;

    use super::*;

    #[test]
    fn commands_and_events_stand_in_one_list() {
        let command = HistoryEntry {
            at_secs: 951_782_399,
            count: 1,
            event: "command".into(),
            who: Some("root, logged in as joe".into()),
            result: Some("failed: it is mounted".into()),
            text: "volume remove tank/v --yes".into(),
            ..HistoryEntry::default()
        };
        let event = HistoryEntry {
            at_secs: 951_782_400,
            count: 7,
            severity: Severity::Warning,
            event: "repaired".into(),
            text: "volume tank/v: repaired a block".into(),
            ..HistoryEntry::default()
        };
        let of = |entry: HistoryEntry| PoolEntry { pool: "tank".into(), entry };
        let entries = [of(command), of(event)];
        let expected = "\
TIME (UTC)           WHO                     WHAT
2000-02-28 23:59:59  root, logged in as joe  volume remove tank/v --yes: failed: it is mounted
2000-02-29 00:00:00  -                       ! volume tank/v: repaired a block (7 times since the one before)
";
        assert_eq!(history(&entries, false), expected);
        assert!(history(&entries, true).contains("00:00:00  tank  -"));
        assert_eq!(history(&[], true), "nothing so far\n");
    }
}
