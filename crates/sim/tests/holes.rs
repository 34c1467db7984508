//! What isn't mended yet: docs/failure-model.md lists the scenarios that fail, no more and no fewer,
//! and each of them is shown by a seed.

#![allow(clippy::expect_used)]

use std::collections::BTreeSet;

use sim::runner::{self, Expected, Options};
use sim::scenarios;

/// Seeds tried for each hole. Which of them shows it changes with the timing of the whole engine.
const SEEDS: u64 = 60;

/// Finding and scenario of each row of the page's last table.
fn documented() -> Vec<(String, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failure-model.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (_, section) = page.split_once("\n## Known holes\n").expect("the page has the section");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].to_string(), cells[1].trim_matches('`').to_string())
    })
    .collect()
}

#[test]
fn the_page_lists_the_known_holes_and_nothing_else() {
    let of_code: BTreeSet<(String, String)> = scenarios::known_holes()
        .into_iter()
        .map(|scenario| match scenario.expected {
            Expected::Failing { finding, .. } => (finding.to_string(), scenario.name.to_string()),
            Expected::Passing => panic!("{} is expected to pass", scenario.name),
        })
        .collect();
    let of_page: BTreeSet<(String, String)> = documented().into_iter().collect();
    assert_eq!(of_code, of_page);
    let others =
        [scenarios::named(), vec![scenarios::random(), scenarios::random_lulls()]].concat();
    assert!(others.iter().all(|scenario| scenario.expected == Expected::Passing));
}

/// The last column of each table of the page that has one for them.
#[test]
fn the_page_names_scenarios_that_there_are() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failure-model.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let mut in_table = false;
    let mut named = 0;
    for line in page.lines() {
        if !line.starts_with("| ") {
            in_table = line.starts_with("|-") && in_table;
        } else if line.ends_with("| scenarios |") {
            in_table = true;
        } else if in_table {
            let cell = line.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
            for name in cell.split('`').skip(1).step_by(2) {
                assert!(scenarios::find(name).is_some(), "no scenario {name}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn a_seed_shows_each_hole_of_the_page() {
    for (finding, name) in documented() {
        let scenario = scenarios::find(&name).unwrap_or_else(|| panic!("no scenario {name}"));
        let Expected::Failing { shown_by, .. } = scenario.expected else { continue };
        let shown = (0..SEEDS).any(|seed| {
            let failure = runner::run(&scenario, seed, &Options::default()).failure;
            failure.is_some_and(|failure| failure.contains(shown_by))
        });
        assert!(
            shown,
            "{finding}: no seed below {SEEDS} of {name} shows it. If the hole is mended, move the \
             scenario to the others and take it off docs/failure-model.md"
        );
    }
}
