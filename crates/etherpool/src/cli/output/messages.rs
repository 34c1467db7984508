//! What is told, and what it means.

use control::catalogue::Entry;

use super::{lines, table};

/// Longest line of an explanation, on wide terminals.
const COLUMNS_MAX: usize = 100;

/// All ids.
pub fn messages(entries: &[&Entry]) -> String {
    let mut shown = table(&["ID", "WHAT IT SAYS"]);
    for entry in entries {
        shown.add_row([entry.id, entry.title]);
    }
    lines(&shown)
}

/// What some of them mean, for a terminal of so many columns.
pub fn explained(entries: &[&Entry], columns: u16) -> String {
    let columns = usize::from(columns).min(COLUMNS_MAX);
    let of = |entry: &&Entry| {
        format!("{}: {}\n\n{}", entry.id, entry.title, paragraph(entry.meaning, columns))
    };
    entries.iter().map(of).collect::<Vec<_>>().join("\n")
}

/// Words in lines that are indented and not longer than that, if a word isn't.
fn paragraph(text: &str, columns: usize) -> String {
    const INDENT: &str = "  ";
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && INDENT.len() + line + 1 + word.chars().count() > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            let space = if line.is_empty() { "" } else { " " };
            line.push_str(space);
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{INDENT}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry =
        Entry { id: "disk-out", title: "Gone", meaning: "It doesn't answer. See cable." };

    #[test]
    fn explanations_fit_the_terminal() {
        let text = explained(&[&ENTRY, &ENTRY], 20);
        let one = "disk-out: Gone\n\n  It doesn't answer.\n  See cable.\n";
        assert_eq!(text, format!("{one}\n{one}"));
        assert_eq!(explained(&[&ENTRY], 3).lines().count(), 7, "a word a line");
        assert_eq!(messages(&[&ENTRY]), "ID        WHAT IT SAYS\ndisk-out  Gone\n");
    }
}
