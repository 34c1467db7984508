//! What `docs/security.md` promises: behind each sentence stands, where nobody sees it, which test holds it, and that test is
//! there. A sentence that nobody tests is a hope.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use common::{root, rust_files};

mod common;

/// Sections that promise nothing, and why. Each other one is held against tests, also one that is added.
const PROMISE_NOTHING: [(&str, &str); 8] = [
    ("Who can do what", "leads to the others"),
    ("What keys don't do yet", "limits"),
    ("What a stranger on the segment can do", "what others can do isn't promised to them"),
    ("Machines that boot", "limits; what holds there has a section of its own"),
    ("What sealing isn't worth", "limits"),
    ("Why they keep that, and what it isn't worth", "reasons and limits"),
    ("What to do today", "advice"),
    ("What comes later", "isn't there"),
];
const BEGIN: &str = "<!-- test: ";
const END: &str = "-->";

/// Sections by their headings, of each level.
fn sections(text: &str) -> Vec<(&str, String)> {
    let (mut sections, mut is_code) = (Vec::<(&str, String)>::new(), false);
    for line in text.lines() {
        is_code ^= line.starts_with("```");
        let heading = line.trim_start_matches('#').strip_prefix(' ');
        match heading.filter(|_| !is_code && line.starts_with('#')) {
            Some(heading) => sections.push((heading, String::new())),
            None => sections.last_mut().unwrap().1.extend([line, "\n"]),
        }
    }
    sections
}

/// A section as paragraphs, points and rows of tables, each on one line. Code, and what is above a table's rule, says nothing.
fn blocks(section: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut is_code = false;
    for line in section.lines().map(str::trim) {
        let (is_fence, is_rule) = (line.starts_with("```"), line.starts_with("|--"));
        is_code ^= is_fence;
        if is_rule {
            blocks.pop();
        }
        let says_nothing = is_code || is_fence || is_rule || line.is_empty();
        if says_nothing || line.starts_with("- ") || line.starts_with("| ") {
            blocks.push(String::new());
        }
        if !says_nothing {
            let block = blocks.last_mut().unwrap();
            block.push(' ');
            block.push_str(line.trim_end_matches('|').trim_end());
        }
    }
    blocks.retain(|block| !block.trim().is_empty());
    blocks
}

/// Sentences of a block that nothing is said of, and the tests that are named.
fn read(block: &str) -> (Vec<String>, Vec<String>) {
    let (mut untested, mut named) = (Vec::new(), Vec::new());
    let mut rest = block;
    while let Some((said, behind)) = rest.split_once(BEGIN) {
        let (marker, next) = behind.split_once(END).unwrap();
        named.extend(marker.split(',').map(|test| test.trim().to_owned()));
        let mut sentences = sentences(said);
        sentences.pop();
        untested.extend(sentences);
        rest = next;
    }
    let rest = rest.trim();
    // What leads to points, or to code, is tested there.
    if !rest.is_empty() && !rest.ends_with(':') {
        untested.extend(sentences(rest));
    }
    (untested, named)
}

/// A text, cut behind each full stop that another sentence follows.
fn sentences(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.trim().chars().collect();
    let mut all = vec![String::new()];
    for (at, letter) in letters.iter().enumerate() {
        all.last_mut().unwrap().push(*letter);
        let next = letters[at..].iter().skip(1).take(2).collect::<String>();
        let begins = next.starts_with(' ')
            && next
                .chars()
                .nth(1)
                .is_some_and(|next| next.is_uppercase() || next == '*' || next == '`');
        if *letter == '.' && begins {
            all.push(String::new());
        }
    }
    all.into_iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// The functions of a file that are run as tests, by themselves or by one of these; and the simulator's scenarios.
#[derive(Default)]
struct Found {
    functions: BTreeMap<String, (bool, BTreeSet<String>)>,
    scenarios: BTreeSet<String>,
}

impl Found {
    fn of(stream: TokenStream) -> Found {
        let mut found = Found::default();
        found.look(stream);
        found
    }

    fn look(&mut self, stream: TokenStream) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let is_ident = |at: usize, name: &str| matches!(trees.get(at), Some(TokenTree::Ident(ident)) if ident == name);
        let mut is_test = false;
        for (at, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                    let text = group.stream().to_string();
                    is_test |= text == "test" || text.ends_with(":: test");
                    self.look(group.stream());
                }
                TokenTree::Ident(_) if is_ident(at, "fn") => {
                    let name = trees.get(at + 1).map(TokenTree::to_string).unwrap_or_default();
                    let body = trees[at..].iter().find_map(|tree| match tree {
                        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                            Some(group.stream())
                        }
                        _ => None,
                    });
                    let mut calls = BTreeSet::new();
                    body.into_iter().for_each(|body| identifiers(body, &mut calls));
                    self.functions.insert(name, (std::mem::take(&mut is_test), calls));
                }
                TokenTree::Group(group) => {
                    if at > 0 && is_ident(at - 1, "scenario") {
                        let first = group.stream().into_iter().next().map(|tree| tree.to_string());
                        self.scenarios.extend(first.map(|text| text.trim_matches('"').to_owned()));
                    }
                    self.look(group.stream());
                }
                _ => {}
            }
        }
    }

    /// Whether a test is called so; where they have several steps, one of those.
    fn runs(&self, name: &str, has_steps: bool) -> bool {
        let is_called =
            || self.functions.values().any(|(is_test, calls)| *is_test && calls.contains(name));
        self.functions.get(name).is_some_and(|(is_test, _)| *is_test || has_steps && is_called())
    }
}

fn identifiers(stream: TokenStream, found: &mut BTreeSet<String>) {
    for tree in stream {
        match tree {
            TokenTree::Ident(ident) => drop(found.insert(ident.to_string())),
            TokenTree::Group(group) => identifiers(group.stream(), found),
            _ => {}
        }
    }
}

/// Whether there is such a test: `sim SCENARIO`, `blackbox FILE::FUNCTION`, or `CRATE FILE::FUNCTION`.
fn is_there(test: &str) -> bool {
    let Some((place, name)) = test.split_once(' ') else { return false };
    let crates = root().join("crates").join(place);
    let directories = match place {
        "sim" => vec![crates.join("src/scenarios")],
        "blackbox" => vec![root().join("tests/tests")],
        _ => vec![crates.join("src"), crates.join("tests")],
    };
    let mut all = directories.into_iter().flat_map(|directory| rust_files(directory, |_| false));
    let read = |path: &PathBuf| Found::of(std::fs::read_to_string(path).unwrap().parse().unwrap());
    if place == "sim" {
        return all.any(|path| read(&path).scenarios.contains(name));
    }
    let Some((file, function)) = name.split_once("::") else { return false };
    let all = all.filter(|path| path.file_stem().is_some_and(|stem| stem == file));
    all.map(|path| read(&path)).any(|found| found.runs(function, place == "blackbox"))
}

#[test]
fn each_sentence_that_promises_something_has_a_test() {
    let text = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (mut untested, mut named) = (Vec::new(), BTreeSet::new());
    let mut excepted: BTreeMap<&str, &str> = PROMISE_NOTHING.into();
    for (heading, section) in sections(&text) {
        let promises = excepted.remove(heading).is_none();
        for (without, with) in blocks(&section).iter().map(|block| read(block)) {
            named.extend(with);
            untested.extend(without.into_iter().filter(|_| promises));
        }
    }
    assert!(excepted.is_empty(), "no sections any more: {excepted:?}");
    let missing: Vec<_> = named.iter().filter(|test| !is_there(test)).collect();
    assert!(
        untested.is_empty() && missing.is_empty(),
        "docs/security.md says without a test: {untested:#?}\nand names tests that aren't there: {missing:#?}"
    );
    assert!(named.len() > 100, "the page isn't read as it is written any more: {named:#?}");
}

#[test]
fn a_sentence_without_a_test_and_a_test_that_isnt_there_are_seen() {
    let untested = |block: &str| read(block).0;
    assert!(untested("- one is (7.10) tested. <!-- test: sim grants -->").is_empty());
    assert!(untested("what leads on:").is_empty());
    assert_eq!(untested("- one isn't;"), ["- one isn't;"]);
    assert_eq!(untested("- One. Two. <!-- test: sim grants --> Three."), ["- One.", "Three."]);
    assert_eq!(read("a <!-- test: sim grants, x y::z -->").1, ["sim grants", "x y::z"]);
    let text = "# A\nOne\nline.\n```toml\n# a = 1\n```\n- a\n  b\n- c\n\n### Next\nd\n|x|y|\n";
    assert_eq!(sections(text).len(), 2);
    assert_eq!(blocks(&sections(text)[0].1), [" One line.", " - a b", " - c"]);
    assert_eq!(
        blocks("a:\n\n| x | y |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\nb"),
        [" a:", " | 1 | 2", " | 3 | 4 b"]
    );
    for test in [
        "sim grants",
        "seal token::a_token_isnt_shown",
        "blackbox keys::a_cluster_with_keys_serves_and_lets_nobody_else_in",
    ] {
        assert!(is_there(test), "{test}");
    }
    for test in
        ["sim nothing", "seal token::new", "blackbox keys::nothing", "blackbox keys", "seal", ""]
    {
        assert!(!is_there(test), "{test}");
    }
    let called = Found::of("fn a() {} fn b() {} #[test] fn c() { a(); }".parse().unwrap());
    assert_eq!(["a", "b", "c"].map(|name| called.runs(name, true)), [true, false, true]);
}
