//! References of configuration files: pages of the manual are as the sources say, and so are the defaults that they tell.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use aoe_target::Remembered;
use control::node::NodeConfig;
use control::reference::{Reference, Table, references};
use serde_json::{Value, json};

/// Has the pages written as they are to be.
const WRITE: &str = "ETHERPOOL_WRITE_REFERENCES";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn pages_are_as_the_sources_say() {
    for reference in references() {
        let page = docs().join(format!("{}.md", reference.file));
        let text = reference.markdown();
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&page, &text).unwrap();
        }
        let there = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(
            there == text,
            "docs/{}.md isn't what the sources say: {WRITE}=1 cargo test -p control --test reference",
            reference.file
        );
    }
}

fn reference(file: &str) -> Reference {
    references().into_iter().find(|one| one.file == file).unwrap()
}

fn default_of<'t>(tables: &'t [Table], heading: &str, key: &str) -> Option<&'t str> {
    let table = tables.iter().find(|table| table.heading == heading).unwrap();
    table.settings.iter().find(|setting| setting.key == key).unwrap().default.as_deref()
}

/// Everything that can be set is told of, with a text.
#[test]
fn everything_has_a_text_and_a_form() {
    for reference in references() {
        for table in &reference.tables {
            for setting in &table.settings {
                let what = format!("{} {} {}", reference.file, table.heading, setting.key);
                assert!(setting.says.ends_with(['.', ')', '`']), "{what}: {}", setting.says);
                assert!(!setting.form.is_empty(), "{what}");
                assert!(!setting.says.contains("[`"), "{what}: {}", setting.says);
            }
        }
    }
}

/// Words are told as they are read, and all of them.
#[test]
fn words_are_those_that_are_read() {
    macro_rules! check {
        ($($type:ty),+) => {$(
            let schema = schemars::schema_for!($type).to_value();
            let told: Vec<&Value> = schema["oneOf"].as_array().unwrap().iter().map(|one| &one["const"]).collect();
            let read: Vec<&str> = <$type>::ALL.iter().map(|word| word.name()).collect();
            assert_eq!(told, read, "{}", stringify!($type));
        )+};
    }
    check!(
        control::alerts::Kind,
        block::FsType,
        block::HealthState,
        seal::Security,
        control::api::Role
    );
    check!(pool::FailureDomain, control::node::IoMode, control::node::DamagedState);
    check!(
        aoe_target::OnRefusal,
        aoe_target::Probe,
        aoe_target::Access,
        aoe_target::AccessOperation
    );
}

/// What is told as a default, set by hand where the sources leave it to who reads it, is what an empty file gives.
#[test]
fn defaults_are_those_of_a_file_that_says_nothing() {
    let node = reference("node.toml");
    let text = "[[export]]\naddress = 'e7.0'\npath = '/dev/md0'\n";
    let plans = NodeConfig::parse(text, Path::new("node.toml")).unwrap().plans().unwrap();
    let plan = &plans[0];
    let told =
        |key| serde_json::from_str::<Value>(default_of(&node.tables, "of exports", key).unwrap());
    for (key, is) in [
        ("io", json!(plan.medium.io)),
        ("read-only", json!(plan.read_only)),
        ("write-cache", json!(plan.write_cache)),
        ("trace-io", json!(plan.trace_io)),
        ("announce", json!(plan.announce)),
        ("on-refusal", json!(plan.on_refusal)),
        ("probe", json!(plan.probe)),
        ("damaged-state", json!(plan.damaged_state)),
    ] {
        assert_eq!(told(key).unwrap(), is, "{key}");
    }
    // Each that is told can be said, and says nothing else than saying nothing.
    for (file, heading) in [("node.toml", ""), ("node.toml", "of exports")] {
        let tables = reference(file).tables;
        let table = tables.iter().find(|table| table.heading == heading).unwrap();
        for setting in table.settings.iter().filter(|setting| setting.default.is_some()) {
            let said = format!("{} = {}\n{text}", setting.key, setting.default.as_ref().unwrap());
            let said = NodeConfig::parse(&said, Path::new("node.toml")).unwrap();
            let options = |plan: &control::node::ExportPlan| {
                plan.options("", aoe_target::Reach::AllPorts, Remembered::default(), "")
            };
            let [said, silent] = [&said.plans().unwrap()[0], plan].map(options);
            assert_eq!(format!("{said:?}"), format!("{silent:?}"), "{}", setting.key);
        }
    }
}
