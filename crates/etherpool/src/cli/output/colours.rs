//! Colours of states, on terminals that have them: what is wrong is to be seen among a hundred lines. They are put into
//! what is printed anyway, cell by cell, so that nothing else depends on them; whoever sets NO_COLOR, or pipes, has none.

use anstream::{AutoStream, ColorChoice};

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const NONE: &str = "\x1b[0m";

/// Data isn't served, or something has failed.
const BAD: [&str; 14] = [
    "error",
    "failed",
    "FAILED",
    "failing",
    "fenced",
    "incomplete",
    "lost",
    "LOST",
    "missing",
    "rolled-back",
    "refused",
    "suspended",
    "trouble",
    "unreachable",
];
/// Something is to be looked at.
const DOUBTFUL: [&str; 7] =
    ["ageing", "degraded", "offline", "opening", "out", "waiting", "warning"];
/// All is well.
const GOOD: [&str; 5] = ["all is well", "delivered", "good", "online", "usable"];
/// What separates columns.
const GAP: &str = "  ";

/// Whether standard output shows them: NO_COLOR, CLICOLOR and TERM are asked.
pub fn are_shown() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// Lines with their states in colours.
pub fn painted(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

/// What stands in a column of its own, or begins a line, may be a state.
fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let cell = rest.find(GAP).map_or(rest, |end| &rest[..end]);
        shown.push_str(&painted_cell(cell));
        rest = &rest[cell.len()..];
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        shown.push_str(&rest[..blanks]);
        rest = &rest[blanks..];
        if rest.is_empty() {
            return shown;
        }
    }
}

/// A state, with what explains it: `refused: its label is damaged`.
fn painted_cell(cell: &str) -> String {
    let of = |words: &[&'static str]| {
        words.iter().copied().find(|word| {
            let rest = cell.strip_prefix(word);
            rest.is_some_and(|rest| {
                rest.trim_end().is_empty() || rest.starts_with([':', ',']) || rest.starts_with(" (")
            })
        })
    };
    let found = [(RED, of(&BAD)), (YELLOW, of(&DOUBTFUL)), (GREEN, of(&GOOD))];
    let found = found.into_iter().find_map(|(colour, word)| Some((colour, word?)));
    match found {
        Some((colour, word)) => format!("{colour}{word}{NONE}{}", &cell[word.len()..]),
        None => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_colours_and_nothing_else_changes() {
        let text = "\
warning: pool tank: disk e1.0 is gone
  since  2026-01-01
NAME  STATE                REMARK
e1.0  usable
e2.0  refused: it is late  online shop
out   online               - missing
";
        let shown = painted(text);
        let expected = "\
\x1b[33mwarning\x1b[0m: pool tank: disk e1.0 is gone
  since  2026-01-01
NAME  STATE                REMARK
e1.0  \x1b[32musable\x1b[0m
e2.0  \x1b[31mrefused\x1b[0m: it is late  online shop
\x1b[33mout\x1b[0m   \x1b[32monline\x1b[0m               - missing
";
        assert_eq!(shown, expected);
        let without = [RED, YELLOW, GREEN, NONE];
        let bare = without.iter().fold(shown, |text, colour| text.replace(colour, ""));
        assert_eq!(bare, text);
    }

    #[test]
    fn blanks_and_ends_stay() {
        for text in ["", "\n", "   \n", "a  ", "  \n\n  online  \n"] {
            assert_eq!(painted(text).replace(GREEN, "").replace(NONE, ""), text);
        }
    }
}
