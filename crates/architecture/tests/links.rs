//! Links of the manual lead somewhere: each file that a page names is there, and has the heading.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[allow(dead_code)]
mod common;

/// The lines of a page that aren't code.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What headings are linked by, as GitHub makes it of them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text).filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor = |heading: &str| {
        heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// Where the links of a text lead.
fn links(text: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let parts: Vec<_> = line.split("](").skip(1).collect();
        let ends = |part: &&str| part.split(')').next().unwrap_or_default().to_owned();
        parts.iter().map(ends).collect::<Vec<_>>()
    };
    lines(text).flat_map(of_line).filter(|link| !link.contains("://")).collect()
}

fn dead_links(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let is_dead = |link: &String| {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => page.to_owned(),
            file => page.parent().unwrap().join(file),
        };
        let Ok(there) = std::fs::read_to_string(&target) else { return !target.exists() };
        !anchor.is_empty() && !anchors(&there).contains(anchor)
    };
    links(&text).into_iter().filter(is_dead).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = common::root();
    let pages = [root.clone(), root.join("docs")].into_iter().flat_map(|directory| {
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())
    });
    let pages: Vec<PathBuf> =
        pages.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    assert!(pages.len() > 20, "{pages:?}");
    let of_page = |page: &PathBuf| {
        let dead = dead_links(page);
        (!dead.is_empty()).then(|| format!("{}: {}", page.display(), dead.join(", ")))
    };
    let dead: Vec<_> = pages.iter().filter_map(of_page).collect();
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn headings_are_linked_as_they_are_read() {
    let text = "# A disk's end, by `pool`\n```\n# no heading [a](b)\n```\n[c](d.md#e) and [f](#g)";
    assert_eq!(anchors(text), ["a-disks-end-by-pool".to_owned()].into());
    assert_eq!(links(text), ["d.md#e", "#g"]);
}
