//! Ids that sources write into the log are in docs/messages.md, which the program makes of its catalogue.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use common::{root, rust_files};

mod common;

/// Macros that log.
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// Ids in lines of the log.
fn look(stream: TokenStream, is_log: bool, logged: &mut BTreeSet<String>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        let before: Vec<String> =
            trees[at.saturating_sub(2)..at].iter().map(ToString::to_string).collect();
        match tree {
            TokenTree::Group(group) => {
                let [name, mark] = before.as_slice() else {
                    look(group.stream(), false, logged);
                    continue;
                };
                look(group.stream(), LEVELS.contains(&name.as_str()) && mark == "!", logged);
            }
            TokenTree::Literal(literal) if is_log && before == ["event", "="] => {
                logged.insert(literal.to_string().trim_matches('"').to_owned());
            }
            _ => {}
        }
    }
}

#[test]
fn ids_of_the_log_are_explained() {
    let page = std::fs::read_to_string(root().join("docs/messages.md")).unwrap();
    let explained: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    let mut logged = BTreeSet::new();
    for path in rust_files(root().join("crates"), |name| ["tests", "architecture"].contains(&name))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        look(text.parse().unwrap(), false, &mut logged);
    }
    assert!(logged.len() > 3, "sources don't log as they did: {logged:?}");
    let unexplained: Vec<_> = logged.difference(&explained).collect();
    assert!(unexplained.is_empty(), "not in control::catalogue: {unexplained:?}");
}
