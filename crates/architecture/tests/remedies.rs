//! What people are told to do. `docs/remedies.md` has every remedy of the sources with the state that
//! it is for, so that none is added without somebody having asked whether it is safe there; and no text
//! names what destroys data except those that are listed here with the reason.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use common::{root, rust_files};

mod common;

/// Words that destroy data, or what keeps two owners apart.
const DANGEROUS: [&str; 5] = ["mkfs", "--force", "reset-epoch", "--wipe", "remount"];

/// Texts that may name such a word, and why: single words as they are, of others the beginning.
const ALLOWED: [(&str, &str); 18] = [
    ("make a file system first: ", "all of the volume was looked at and is blank"),
    ("name another one, or --force-disk ", "stands beside what was read and whose it is"),
    ("export it with etherpool node, or accept that: --force-disk ", "the disk is blank"),
    ("restart its node, in case ", "the reservation record itself is unreadable; data is left"),
    (
        "mount -o remount,rw ...",
        "somebody made it read-only; a file system with errors says another",
    ),
    ("... is to be reset, but --force-disk names ...", "two different disks: refuses"),
    ("... is to be given up, but --force-disk names ...", "two different disks: refuses"),
    ("--force-disk ... is not among the disks", "names a wrong argument: refuses"),
    ("mkfs is at work", "names what is under way"),
    ("another operation on ... is under way (mkfs", "names what is under way"),
    (
        "  etherpool lab down --wipe",
        "the end of the tour that `lab up` prints; the lab's own disks",
    ),
    ("/v2/disks/.../reset-epoch", "an address of the API"),
    ("/v2/pools/.../volumes/.../mkfs", "an address of the API"),
    ("mkfs.ext4", "the program"),
    ("mkfs.xfs", "the program"),
    ("mkfs.btrfs", "the program"),
    ("mkfs", "the command's name"),
    (".../mkfs", "an address of the API"),
];

/// The crates whose texts reach people.
const CRATES: [&str; 10] =
    ["block", "boot", "client", "control", "etherpool", "frontend", "image", "lab", "pool", "tls"];

/// All sources but tests, with the tokens of each.
fn sources() -> Vec<(PathBuf, TokenStream)> {
    let is_of_tests =
        |name: &str| ["tests", "testing", "samples"].contains(&name) || name.ends_with("_tests");
    let directories = CRATES.iter().map(|name| root().join("crates").join(name).join("src"));
    let files = directories.flat_map(|directory| rust_files(directory, is_of_tests));
    let found: Vec<_> = files
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, without_tests(text.parse().unwrap()))
        })
        .collect();
    assert!(found.len() > 100, "sources aren't where they were: {}", found.len());
    found
}

fn is_ident(tree: Option<&TokenTree>, name: &str) -> bool {
    matches!(tree, Some(TokenTree::Ident(ident)) if ident == name)
}

fn is_punct(tree: Option<&TokenTree>, mark: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == mark)
}

fn group(tree: Option<&TokenTree>, delimiter: Delimiter) -> Option<&Group> {
    match tree {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

/// Without attributes (comments for documentation are such) and modules of tests.
fn without_tests(stream: TokenStream) -> TokenStream {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < trees.len() {
        let rest = &trees[at..];
        let bracket = if is_punct(rest.get(1), '!') { 2 } else { 1 };
        if is_punct(rest.first(), '#') && group(rest.get(bracket), Delimiter::Bracket).is_some() {
            at += bracket + 1;
        } else if is_ident(rest.first(), "mod") && is_ident(rest.get(1), "tests") {
            at += 3;
        } else {
            kept.push(match &trees[at] {
                TokenTree::Group(group) => {
                    Group::new(group.delimiter(), without_tests(group.stream())).into()
                }
                other => other.clone(),
            });
            at += 1;
        }
    }
    kept.into_iter().collect()
}

/// The texts in some tokens.
fn texts<'a>(trees: impl IntoIterator<Item = &'a TokenTree>) -> Vec<String> {
    let mut found = Vec::new();
    for tree in trees {
        match tree {
            TokenTree::Group(group) => {
                let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                found.extend(texts(&inside));
            }
            TokenTree::Literal(literal) => found.extend(text_of(&literal.to_string())),
            _ => {}
        }
    }
    found
}

/// What a literal says, with `...` where something is put in.
fn text_of(literal: &str) -> Option<String> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut letters = inside.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next()? {
                '\n' => while letters.next_if(|next| next.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                other => text.push(other),
            },
            '{' if letters.next_if_eq(&'{').is_some() => text.push('{'),
            '{' => {
                while letters.next()? != '}' {}
                text.push_str("...");
            }
            '}' => {
                letters.next_if_eq(&'}');
                text.push('}');
            }
            other => text.push(other),
        }
    }
    Some(text)
}

fn arguments(group: &Group) -> Vec<Vec<TokenTree>> {
    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
    let all = trees.split(|tree| is_punct(Some(tree), ','));
    all.map(<[TokenTree]>::to_vec).filter(|argument| !argument.is_empty()).collect()
}

/// The texts that tell people what to do: given to `.remedy(..)` or a field `remedy`, last of those that
/// make a refusal, bound to the name `remedy`, or anywhere in a function that is called so.
fn remedies(stream: TokenStream, found: &mut Vec<String>) {
    const REFUSALS: [&str; 5] = ["refused", "refuse", "not_found", "invalid", "not_running"];
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (at, tree) in trees.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &trees[before]);
        let rest = &trees[at + 1..];
        match tree {
            TokenTree::Group(group) => remedies(group.stream(), found),
            TokenTree::Ident(_) if is_ident(before, "fn") => {
                let body = rest.iter().find(|tree| group(Some(tree), Delimiter::Brace).is_some());
                if tree.to_string().contains("remedy") {
                    found.extend(texts(body));
                }
            }
            TokenTree::Ident(name) if name == "remedy" => {
                let given = group(rest.first(), Delimiter::Parenthesis);
                if given.is_some() && is_punct(before, '.') {
                    found.extend(texts(rest.first()));
                } else if is_punct(rest.first(), ':') && !is_punct(rest.get(1), '&') {
                    let value = rest.iter().take_while(|tree| !is_punct(Some(tree), ','));
                    found.extend(texts(value));
                }
            }
            TokenTree::Ident(name) if REFUSALS.iter().any(|refusal| name == refusal) => {
                let given = group(rest.first(), Delimiter::Parenthesis);
                let given = given.filter(|_| !is_punct(before, '.')).map(arguments);
                if let Some([_, .., last]) = given.as_deref() {
                    found.extend(texts(last));
                }
            }
            TokenTree::Ident(name) if name == "let" => bound(rest, found),
            _ => {}
        }
    }
}

/// `let remedy = ..;`, or its place in `let (.., remedy) = ..;`.
fn bound(rest: &[TokenTree], found: &mut Vec<String>) {
    let end = rest.iter().position(|tree| is_punct(Some(tree), ';')).unwrap_or(rest.len());
    let Some(equals) = rest[..end].iter().position(|tree| is_punct(Some(tree), '=')) else {
        return;
    };
    let (pattern, value) = (&rest[..equals], &rest[equals..end]);
    if is_ident(pattern.first(), "remedy") {
        found.extend(texts(value));
    }
    let Some(tuple) = group(pattern.first(), Delimiter::Parenthesis).map(arguments) else { return };
    let place = tuple.iter().position(|name| name.len() == 1 && is_ident(name.first(), "remedy"));
    if let Some(place) = place {
        in_tuples(value, place, tuple.len(), found);
    }
}

fn in_tuples(trees: &[TokenTree], place: usize, count: usize, found: &mut Vec<String>) {
    for (at, tree) in trees.iter().enumerate() {
        let TokenTree::Group(inside) = tree else { continue };
        let before = at.checked_sub(1).map(|before| &trees[before]);
        let is_call = matches!(before, Some(TokenTree::Ident(_))) || is_punct(before, '!');
        let parts = arguments(inside);
        if inside.delimiter() == Delimiter::Parenthesis && !is_call && parts.len() == count {
            found.extend(texts(&parts[place]));
        } else {
            let trees: Vec<TokenTree> = inside.stream().into_iter().collect();
            in_tuples(&trees, place, count, found);
        }
    }
}

/// Something is said, not only put together.
fn says_something(text: &str) -> bool {
    text.replace("...", "").chars().filter(|letter| letter.is_alphabetic()).count() > 3
}

/// The third column of the tables.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/remedies.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| state |"));
    rows.map(|row| row.split(" | ").nth(2).unwrap_or_else(|| panic!("{row}")).to_owned()).collect()
}

#[test]
fn the_table_has_every_remedy_and_no_other() {
    let mut found = Vec::new();
    sources().into_iter().for_each(|(_, tokens)| remedies(tokens, &mut found));
    let found: BTreeSet<String> = found.into_iter().filter(|text| says_something(text)).collect();
    assert!(found.len() > 80, "the sources are not read as they are written any more: {found:#?}");
    let documented = documented();
    let missing: Vec<_> = found.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&found).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/remedies.md lacks {missing:#?}\nand has {stale:#?}, which no source says"
    );
}

#[test]
fn what_destroys_data_is_named_only_where_it_may_be() {
    let mut used = BTreeSet::new();
    for (path, tokens) in sources() {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for text in texts(&tokens) {
            if !DANGEROUS.iter().any(|word| text.contains(word)) {
                continue;
            }
            let entry = ALLOWED.iter().position(|(allowed, _)| match allowed.contains(' ') {
                true => text.starts_with(allowed),
                false => text == *allowed,
            });
            let Some(entry) = entry else { panic!("{}: {text}", path.display()) };
            used.insert(entry);
        }
    }
    let unused = (0..ALLOWED.len()).filter(|entry| !used.contains(entry));
    let unused: Vec<_> = unused.map(|entry| ALLOWED[entry]).collect();
    assert!(unused.is_empty(), "nothing says this any more: {unused:?}");
}
