//! What commands print: tables for people, JSON for programs. Tables are made by pure functions from
//! the reports, so that they are tested as text.

mod alerts;
mod boot;
mod boot_copies;
mod check;
mod colours;
mod disks;
mod dump;
mod exports;
mod history;
mod jobs;
mod labels;
mod layouts;
mod listing;
mod messages;
mod offline;
mod pools;
mod rates;
mod status;
mod versions;
mod volume_stats;
mod volumes;

#[cfg(test)]
pub mod samples;

use std::io::{IsTerminal, Write};

use anyhow::Context as _;
use block::size::Human;
use block::{CalendarTime, Histogram};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

pub use alerts::{alert_test, alerts};
pub use block::plain;
pub use boot::{accepting, booting, pending, said};
pub use boot_copies::{CopyShown, RestoreShown, boot_copies, forgetting, restored, restoring};
pub use check::pool_check;
pub use disks::{disks, targets, with_missing};
pub use dump::dumped;
pub use exports::{target_stats, target_status};
pub use history::{history, history_line};
pub use jobs::{
    PoolJob, as_arguments, cancelling, evacuation, jobs, named, removal, replacement, resyncs,
    scrubbed, what_it_does,
};
pub use labels::{labelled, labels};
use layouts::layout;
pub use layouts::{conversion, rebalance};
use listing::{Cell, Listing};
pub use listing::{ListArgs, show_list};
pub use messages::{explained, messages};
pub use offline::{offline, online};
pub use pools::{
    forecast, grown_pool, import_plan, imports, pool, pool_plan, pool_table, pools, spare_loss,
    spare_stands,
};
pub use rates::{Rates, rates};
pub use status::{status, wrong};
pub use versions::{node_versions, programs};
pub use volume_stats::volume_stats;
pub use volumes::{NamedVolume, uses, verification, volume, volumes};

use super::Failure;

/// Prints whole lines.
pub fn print(text: &str) -> Result<(), Failure> {
    write(&shown(text)).map(drop)
}

/// What is harmless of it, in colours where the terminal has them.
pub fn shown(text: &str) -> String {
    let text = plain(text);
    if colours::are_shown() { colours::painted(&text) } else { text }
}

/// Writes what is harmless as it is; false when nobody reads it any more (`| head`), which is no failure.
pub fn write(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true).context("standard output")?),
    }
}

/// Prints an answer: a value as JSON, or its text.
pub fn show(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if json { print_json(value) } else { print(&text()) }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).context("the answer as JSON")?;
    text.push('\n');
    write(&text).map(drop)
}

/// Columns of the terminal that standard output is; none where it isn't one, or doesn't say.
pub fn terminal_width() -> Option<u16> {
    told_size().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

/// Its columns and rows; those that a terminal has which doesn't say (a serial line's).
pub fn terminal_size() -> Option<(u16, u16)> {
    const USUAL: (u16, u16) = (80, 24);
    let told = told_size()?;
    Some(if told.0 > 0 && told.1 > 0 { told } else { USUAL })
}

fn told_size() -> Option<(u16, u16)> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(stdout).ok().map(|size| (size.ws_col, size.ws_row))
}

/// Draws a page over what is on a terminal of so many columns and rows; false when nobody sees it any more.
pub fn redraw(page: &str, size: (u16, u16)) -> Result<bool, Failure> {
    let paint = if colours::are_shown() { colours::painted } else { str::to_owned };
    write(&drawn(page, size, paint))
}

/// The lines that fit, each over what stood there, and nothing below them: a terminal that isn't cleared first doesn't
/// flicker.
fn drawn(page: &str, (columns, rows): (u16, u16), paint: fn(&str) -> String) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_LINE: &str = "\x1b[K";
    const CLEAR_BELOW: &str = "\x1b[J";
    let mut left = usize::from(rows).saturating_sub(1);
    let mut text = HOME.to_owned();
    for line in plain(page).lines() {
        let taken = line.chars().count().div_ceil(usize::from(columns.max(1))).max(1);
        if taken > left {
            break;
        }
        left -= taken;
        // Before it: behind a line as wide as the terminal it would take the last character.
        text.push_str(&format!("{CLEAR_LINE}{}\r\n", paint(line)));
    }
    text + CLEAR_BELOW
}

/// A table with a head and no lines: it can be read by people and cut by tools.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    table
}

/// The same, not wider than the terminal where there is one.
fn fit(table: &mut Table, width: Option<u16>) -> &Table {
    if let Some(width) = width {
        // `lines` takes the first blank of each line away.
        let width = width.saturating_add(1);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// Its lines, as they are printed.
pub fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
        text.push('\n');
    }
    text
}

/// Lines of `name: value` with the values in a column.
fn facts(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{name:width$}  {value}\n"));
    }
    text
}

/// A table of its own below what is there.
fn section(text: &mut String, table: &Table, wanted: bool) {
    if wanted {
        text.push('\n');
        text.push_str(&lines(table));
    }
}

/// The heads of [`percentiles`].
const PERCENTILES: [&str; 4] = ["P50", "P90", "P99", "MAX"];

/// What half of all took, nine of ten, all but one in a hundred, and all.
fn percentiles(times: &Histogram) -> [String; 4] {
    [50, 90, 99, 100].map(|percent| match times.percentile(percent) {
        _ if times.is_empty() => "-".to_owned(),
        Some(time) => format!("<{}", duration(time.as_micros())),
        None => ">67s".to_owned(),
    })
}

/// Three digits are enough for the end of a bucket.
fn duration(us: u128) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..100_000 => format!("{}.{}ms", us / 1000, us % 1000 / 100),
        100_000..1_000_000 => format!("{}ms", us / 1000),
        _ => format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// Seconds since 1970 as people read them.
fn calendar_time(secs: u64) -> String {
    CalendarTime::since_1970(secs).to_string()
}

/// Bytes; `-` for none.
fn size(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { Human(bytes).to_string() }
}

/// `-` for nothing.
fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_drawn_as_far_as_it_fits() {
        let page = "one\ntwo is long\nthree \x1b[2J\n";
        let whole = drawn(page, (40, 24), str::to_owned);
        assert_eq!(
            whole,
            "\x1b[H\x1b[Kone\r\n\x1b[Ktwo is long\r\n\x1b[Kthree \u{fffd}[2J\r\n\x1b[J"
        );
        assert_eq!(drawn(page, (40, 2), str::to_owned), "\x1b[H\x1b[Kone\r\n\x1b[J");
        // The second takes three rows, of two that are left.
        assert_eq!(drawn(page, (4, 4), str::to_owned), "\x1b[H\x1b[Kone\r\n\x1b[J");
    }

    #[test]
    fn what_strangers_wrote_stays_where_it_is_printed() {
        assert_eq!(plain("tank\x1b[2J\r\u{9b}x\n"), "tank\u{fffd}[2J\u{fffd}\u{fffd}x\n");
        // "e1.0 gone" read from behind, and a name that looks like another one.
        assert_eq!(plain("\u{202e}enog 0.1e\u{202c}"), "\u{fffd}enog 0.1e\u{fffd}");
        assert_eq!(plain("ta\u{200b}nk"), "ta\u{fffd}nk");
        assert_eq!(plain("Daten für später, 数据, بيانات"), "Daten für später, 数据, بيانات");
    }
}
