//! docs/failure-model.md names scenarios that there are.

#![allow(clippy::expect_used)]

use sim::scenarios;

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
