//! What isn't mended yet: docs/failure-model.md lists the scenarios that fail, no more and no fewer,
//! and each seed there shows its hole.

#![allow(clippy::expect_used)]

use std::collections::BTreeSet;

use sim::runner::{self, Expected, Options};
use sim::scenarios;

/// Finding, scenario and seed of each row of the page's last table.
fn documented() -> Vec<(String, String, u64)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failure-model.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (_, section) = page.split_once("\n## Known holes\n").expect("the page has the section");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let seed = cells[2].parse().expect("the third cell is a seed");
        (cells[0].to_string(), cells[1].trim_matches('`').to_string(), seed)
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
    let of_page =
        documented().into_iter().map(|(finding, name, _)| (finding, name)).collect::<BTreeSet<_>>();
    assert_eq!(of_code, of_page);
    let others =
        [scenarios::named(), vec![scenarios::random(), scenarios::random_lulls()]].concat();
    assert!(others.iter().all(|scenario| scenario.expected == Expected::Passing));
}

#[test]
fn each_seed_of_the_page_still_shows_its_hole() {
    for (finding, name, seed) in documented() {
        let scenario = scenarios::find(&name).unwrap_or_else(|| panic!("no scenario {name}"));
        let Expected::Failing { shown_by, .. } = scenario.expected else { continue };
        let failure = runner::run(&scenario, seed, Options::default()).failure;
        let Some(failure) = failure else {
            panic!(
                "{finding}: seed {seed} of {name} passes. If the hole is mended, move the scenario to \
                 the others and take it off docs/failure-model.md; else find a seed that shows it \
                 (sim --known-holes)"
            );
        };
        assert!(failure.contains(shown_by), "{name} {seed} fails otherwise: {failure}");
    }
}
