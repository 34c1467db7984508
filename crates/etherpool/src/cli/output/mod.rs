//! What commands print: tables for people, JSON for programs. Tables are made by pure functions from
//! the reports, so that they are tested as text.

mod check;
mod disks;
mod exports;
mod pools;
mod status;
mod volumes;

#[cfg(test)]
pub mod samples;

use std::io::{IsTerminal, Write};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

pub use check::pool_check;
pub use disks::{disks, targets};
pub use exports::{target_stats, target_status};
pub use pools::{forecast, import_plan, imports, pool, pool_state, pools};
pub use status::status;
pub use volumes::{NamedVolume, uses, verification, volume, volumes};

use super::Failure;

/// What was read off disks and out of frames may be anybody's: nothing of it moves the cursor or hides
/// what stands beside it.
pub fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// Prints whole lines.
pub fn print(text: &str) -> Result<(), Failure> {
    write(&plain(text))
}

/// A reader that has gone away (`| head`) is no failure.
fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("standard output")?),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).context("the answer as JSON")?;
    text.push('\n');
    write(&text)
}

/// Columns of the terminal that standard output is; none where it isn't one.
pub fn terminal_width() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(stdout).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}

/// A table with a head and no lines: it can be read by people and cut by tools.
fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    table
}

fn lines(table: &Table) -> String {
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

/// `-` for nothing.
fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_stays_where_it_is_printed() {
        assert_eq!(plain("tank\x1b[2J\r\u{9b}x\n"), "tank\u{fffd}[2J\u{fffd}\u{fffd}x\n");
    }
}
