//! Lists: columns by name, their order, units of sizes, and lines for scripts.

use std::cmp::Ordering;

use block::size::{Decimal, Human};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{fit, lines, plain, print, print_json, table, write};
use crate::cli::Failure;

/// How a list is printed; `--json` has everything, in the list's own order.
#[derive(Args, Clone, Debug, Default)]
pub struct ListArgs {
    /// Print these columns, in this order: named as in the head, with a dash for a blank
    #[arg(short = 'o', long, value_name = "COLUMN,...", value_delimiter = ',')]
    columns: Vec<String>,

    /// Print no head, and a tab between columns, for scripts
    #[arg(short = 'H', long)]
    no_head: bool,

    /// How sizes are printed
    #[arg(long, value_enum, default_value_t = Units::Human, value_name = "human|si|bytes")]
    units: Units,

    /// Order by this column, with a dash before it from the largest down
    #[arg(short = 's', long, value_name = "[-]COLUMN", allow_hyphen_values = true)]
    sort: Option<String>,
}

impl ListArgs {
    /// Whether a column is named.
    pub fn names(&self, column: &str) -> bool {
        self.columns.iter().any(|named| named.eq_ignore_ascii_case(column))
    }

    /// Whether it is for people: what isn't of the list stands below it.
    pub fn is_for_people(&self) -> bool {
        !self.no_head
    }
}

/// How sizes are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Units {
    /// In powers of 1024, with a unit
    #[default]
    Human,
    /// In powers of 1000, with a unit
    Si,
    /// As a number of bytes
    Bytes,
}

/// What stands in a column.
#[derive(Clone, Debug)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A size.
    Bytes(u64),
    /// A number.
    Count(usize),
}

impl Cell {
    fn shown(&self, units: Units) -> String {
        match (self, units) {
            (Cell::Text(text), _) => text.clone(),
            (Cell::Count(count), _) => count.to_string(),
            (Cell::Bytes(bytes), Units::Human) => Human(*bytes).to_string(),
            (Cell::Bytes(bytes), Units::Si) => Decimal(*bytes).to_string(),
            (Cell::Bytes(bytes), Units::Bytes) => bytes.to_string(),
        }
    }

    fn order(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Bytes(one), Cell::Bytes(other)) => one.cmp(other),
            (Cell::Count(one), Cell::Count(other)) => one.cmp(other),
            _ => natural(&self.shown(Units::Bytes), &other.shown(Units::Bytes)),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::Text(text)
    }
}

/// Numbers in names count as numbers: e2.0 comes before e10.0.
fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (Some(a), Some(b)) = (one.chars().next(), other.chars().next()) else {
            return one.len().cmp(&other.len());
        };
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
        let (of_one, of_other) = (digits(one), digits(other));
        let (order, taken) = if of_one > 0 && of_other > 0 {
            let number =
                |text: &str, count: usize| text[..count].trim_start_matches('0').to_owned();
            let (a, b) = (number(one, of_one), number(other, of_other));
            (a.len().cmp(&b.len()).then(a.cmp(&b)), (of_one, of_other))
        } else {
            (a.cmp(&b), (a.len_utf8(), b.len_utf8()))
        };
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (&one[taken.0..], &other[taken.1..]);
    }
}

/// Prints a list: a value as JSON, or its text.
pub fn show_list(
    json: bool,
    value: &impl Serialize,
    args: &ListArgs,
    text: &str,
) -> Result<(), Failure> {
    match (json, args.is_for_people()) {
        (true, _) => print_json(value),
        (false, true) => print(text),
        // Its tabs are the list's own, and the rest is harmless already.
        (false, false) => write(text).map(drop),
    }
}

/// A list that is to be printed.
pub struct Listing {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Listing {
    /// With these columns.
    pub fn new(heads: &[&'static str]) -> Listing {
        Listing { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// One line more, with a cell for each column.
    pub fn add(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// All of it, as it comes.
    pub fn whole(self, width: Option<u16>) -> String {
        // Only a column that isn't there is refused, and none is named.
        self.text(&ListArgs::default(), width).unwrap_or_default()
    }

    /// As it is printed, not wider than a terminal.
    pub fn text(mut self, args: &ListArgs, width: Option<u16>) -> Result<String, Failure> {
        if let Some(sort) = &args.sort {
            let (name, is_down) = match sort.strip_prefix('-') {
                Some(name) => (name, true),
                None => (sort.as_str(), false),
            };
            let at = self.column(name)?;
            self.rows.sort_by(|one, other| {
                let order = match (one.get(at), other.get(at)) {
                    (Some(one), Some(other)) => one.order(other),
                    _ => Ordering::Equal,
                };
                if is_down { order.reverse() } else { order }
            });
        }
        let columns: Vec<usize> = match args.columns.as_slice() {
            [] => (0..self.heads.len()).collect(),
            named => named.iter().map(|name| self.column(name)).collect::<Result<_, _>>()?,
        };
        let shown = |row: &Vec<Cell>| -> Vec<String> {
            columns.iter().filter_map(|at| Some(row.get(*at)?.shown(args.units))).collect()
        };
        if args.no_head {
            // One line each, and a tab between columns alone, whatever names are like.
            let clean = |cell: String| plain(&cell).replace('\n', " ");
            let line = |row| {
                let cells: Vec<String> = shown(row).into_iter().map(clean).collect();
                cells.join("\t") + "\n"
            };
            return Ok(self.rows.iter().map(line).collect());
        }
        let heads: Vec<&str> =
            columns.iter().filter_map(|at| self.heads.get(*at).copied()).collect();
        let mut table = table(&heads);
        for row in &self.rows {
            table.add_row(shown(row));
        }
        Ok(lines(fit(&mut table, width)))
    }

    fn column(&self, name: &str) -> Result<usize, Failure> {
        let named: Vec<String> =
            self.heads.iter().map(|head| head.to_lowercase().replace(' ', "-")).collect();
        named.iter().position(|head| head.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let all = named.join(", ");
            Failure::usage(format!("there is no column {name:?} in this list"))
                .remedy(format!("name one of these: {all}"))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }

    fn listed(options: &str, width: Option<u16>) -> Result<String, Failure> {
        let mut listing = Listing::new(&["DISK", "SIZE", "TO CATCH UP", "VOLUMES"]);
        for (name, size, volumes) in [("e10.0", 3 << 30, 2), ("e2.0", 5_000_000_000, 10)] {
            listing.add(vec![
                Cell::Text(name.into()),
                Cell::Bytes(size),
                Cell::Bytes(0),
                Cell::Count(volumes),
            ]);
        }
        let line = Line::parse_from(["list"].into_iter().chain(options.split_whitespace()));
        listing.text(&line.args, width)
    }

    #[test]
    fn columns_units_and_order_are_as_asked_for() {
        let all = listed("", None).unwrap();
        assert!(all.starts_with("DISK   SIZE      TO CATCH UP  VOLUMES\ne10.0  3.00 GiB"), "{all}");
        let cut = listed("-H -o disk,to-catch-up --units bytes -s disk", None).unwrap();
        assert_eq!(cut, "e2.0\t0\ne10.0\t0\n");
        assert_eq!(listed("-Ho DISK -s -size", None).unwrap(), "e2.0\ne10.0\n");
        assert_eq!(listed("-Ho volumes --sort volumes", None).unwrap(), "2\n10\n");
        let si = listed("-H -o size --units si", None).unwrap();
        assert_eq!(si, "3.22 GB\n5.00 GB\n");
        let narrow = listed("", Some(24)).unwrap();
        assert!(narrow.lines().all(|line| line.chars().count() <= 24), "{narrow}");
    }

    #[test]
    fn a_name_makes_no_column_and_no_line() {
        let mut listing = Listing::new(&["POOL", "DISKS"]);
        listing.add(vec![Cell::Text("a\tb\nc\x1b[2J".into()), Cell::Count(1)]);
        let line = Line::parse_from(["list", "-H"]);
        let text = listing.text(&line.args, None).unwrap();
        assert_eq!(text, "a\u{fffd}b c\u{fffd}[2J\t1\n");
    }

    #[test]
    fn a_column_that_is_not_there_is_told_with_those_that_are() {
        for options in ["-o disk,colour", "-s -colour"] {
            let failure = listed(options, None).unwrap_err();
            let text = failure.text(false);
            assert!(text.contains("\"colour\"") && text.contains("to-catch-up"), "{text}");
            assert_eq!(failure.exit, control::exit::Exit::Usage);
        }
    }

    #[test]
    fn numbers_in_names_count() {
        for (one, other) in
            [("e2.0", "e10.0"), ("e2.1", "e2.10"), ("a", "b"), ("a", "a1"), ("é1", "é02")]
        {
            assert_eq!(natural(one, other), Ordering::Less, "{one} {other}");
            assert_eq!(natural(other, one), Ordering::Greater, "{one} {other}");
        }
        assert_eq!(natural("e2.0", "e2.0"), Ordering::Equal);
    }
}
