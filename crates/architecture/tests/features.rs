//! Tests of the program don't build it twice.
//!
//! Cargo builds a crate anew for each set of its features, and features are those that all packages of one command ask
//! for. `make test` builds all but the black-box tests first, and these later: what they alone have must not bring
//! a feature to what the others have, or the whole program is built again, which takes many minutes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::process::Command;

#[allow(dead_code)]
mod common;

/// Every crate that the packages depend on, with its features.
fn features(without: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--workspace", "--edges", "normal,build,dev"]);
    cargo.args(["--prefix", "none", "--no-dedupe", "--format", "{p} {f}"]);
    for package in without {
        cargo.args(["--exclude", package]);
    }
    let output = cargo.current_dir(common::root()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn black_box_tests_bring_no_features_to_what_was_built_before() {
    let before = features(&["architecture", "blackbox"]);
    let with_them = features(&["architecture"]);
    assert!(before.len() > 100, "{}", before.len());
    let anew: Vec<&String> = before.difference(&with_them).collect();
    assert!(
        anew.is_empty(),
        "the black-box tests have these built again, with other features: {anew:#?}"
    );
}
