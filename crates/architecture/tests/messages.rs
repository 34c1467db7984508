//! Ids of what is told. Those that sources write into the log are in docs/messages.md, which the program makes of its
//! catalogue, and nothing is there that no source tells.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use common::{root, rust_files};

mod common;

/// Macros that log.
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

#[derive(Default)]
struct Found {
    /// Ids of lines of the log.
    logged: BTreeSet<String>,
    /// All texts.
    texts: BTreeSet<String>,
}

impl Found {
    fn look(&mut self, stream: TokenStream, is_log: bool) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        for (at, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => {
                    let before = at.checked_sub(2).map(|from| &trees[from..at]);
                    let is_log = before.is_some_and(|before| {
                        LEVELS.contains(&before[0].to_string().as_str())
                            && before[1].to_string() == "!"
                    });
                    self.look(group.stream(), is_log);
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let Some(text) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'))
                    else {
                        continue;
                    };
                    let before = at
                        .checked_sub(2)
                        .map(|from| (trees[from].to_string(), trees[from + 1].to_string()));
                    if is_log && before == Some(("event".into(), "=".into())) {
                        self.logged.insert(text.to_owned());
                    }
                    self.texts.insert(text.to_owned());
                }
                _ => {}
            }
        }
    }
}

#[test]
fn ids_of_the_log_are_explained_and_what_is_explained_is_told() {
    let page = std::fs::read_to_string(root().join("docs/messages.md")).unwrap();
    let explained: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    let mut found = Found::default();
    for path in rust_files(root().join("crates"), |name| {
        ["tests", "architecture", "catalogue"].contains(&name)
    }) {
        let text = std::fs::read_to_string(&path).unwrap();
        found.look(text.parse().unwrap(), false);
    }
    assert!(found.logged.len() > 3, "sources don't log as they did: {:?}", found.logged);
    let unexplained: Vec<_> = found.logged.difference(&explained).collect();
    assert!(unexplained.is_empty(), "not in control::catalogue: {unexplained:?}");
    let untold: Vec<_> = explained.difference(&found.texts).collect();
    assert!(untold.is_empty(), "explained, and told by nothing: {untold:?}");
}
