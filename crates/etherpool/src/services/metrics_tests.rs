#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet};

use block::VolumeName;
use control::alerts::{Alert, AlertState, AlertsReport, ChannelReport, Condition, Kind};
use control::node::{NodeStatus, TargetReport};
use pool::Severity;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::*;
use crate::cli::samples;

/// A page with something of everything, as a supervisor serves it.
fn page() -> String {
    let mut pool = samples::pool();
    pool.jobs.push(samples::job());
    let condition = Condition {
        kind: Kind::DiskGone,
        pool: Some("cluster".into()),
        subject: "e1.0".into(),
        severity: Severity::Warning,
        text: "gone".into(),
        remedy: "replace it".into(),
    };
    let alert = Alert {
        condition,
        state: AlertState::Raised,
        since_secs: 1,
        seen_secs: 2,
        told_secs: 3,
        told_severity: Severity::Warning,
        clear_secs: 60,
    };
    let channel = ChannelReport { name: "journal".into(), ..ChannelReport::default() };
    let alerts = AlertsReport { raised: vec![alert], more: false, channels: vec![channel] };
    let supervisor = Supervisor {
        host: "h\"1",
        version: "1",
        engine_is_up: true,
        engine_restarts: 3,
        pools: &[pool],
        alerts: &alerts,
    };
    let volumes =
        BTreeMap::from([(VolumeName::new("cluster", "v").unwrap(), samples::volume_stats())]);
    let target = TargetReport { volumes, ..TargetReport::default() };
    metrics(&supervisor) + &control::node::metrics(&target, &NodeStatus::default())
}

/// Families of a page with their types.
fn families(page: &str) -> BTreeMap<&str, &str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split_once(' ')).collect()
}

/// The family that a series belongs to.
fn family_of<'a>(families: &BTreeMap<&'a str, &str>, series: &str) -> Option<&'a str> {
    let mut of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| {
        let family = series.strip_suffix(end)?;
        families.get_key_value(family).filter(|(_, kind)| **kind == "histogram")
    });
    let exact = families.get_key_value(series).filter(|(_, kind)| **kind != "histogram");
    exact.or_else(|| of_histogram.next()).map(|(family, _)| *family)
}

#[test]
fn the_page_follows_the_conventions() {
    let page = page();
    let families = families(&page);
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let name = comment.split(' ').nth(1).unwrap();
            assert!(comment.starts_with("TYPE") || seen.insert(name), "{name} has two HELPs");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(family_of(&families, name).is_some(), "{line} is of no family");
        assert!(!series.contains('{') || series.ends_with('}'), "{line}");
    }
    for (name, kind) in &families {
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        for unit in ["_ms", "_us", "_kib", "_percent", "_secs"] {
            assert!(!name.contains(unit), "{name} has no base unit");
        }
    }
    assert!(page.contains("etherpool_supervisor_info{host=\"h\\\"1\",version=\"1\"} 1"), "{page}");
    assert!(page.contains("etherpool_pool_state{pool=\"cluster\",state=\"online\"} 1\n"));
    assert!(page.contains("etherpool_pool_state{pool=\"cluster\",state=\"degraded\"} 0\n"));
    assert!(page.contains("etherpool_volume_survivable_disk_failures{volume=\"cluster/v\"} 1\n"));
    assert!(page.contains("etherpool_alerts{severity=\"warning\"} 1\n"));
}

/// All names of ours in an expression.
fn named(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("etherpool_")).map(str::to_owned).collect()
}

fn assert_served(expression: &str) {
    let page = page();
    let families = families(&page);
    let names = named(expression);
    assert!(!names.is_empty(), "{expression} asks for nothing of ours");
    for name in names {
        assert!(family_of(&families, &name).is_some(), "{name} of {expression:?} isn't served");
    }
    let count = |c: char| expression.chars().filter(|other| *other == c).count();
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        assert_eq!(count(open), count(close), "{expression}");
    }
}

fn packaged(name: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    std::fs::read_to_string(root.join(name)).unwrap()
}

fn text<'a>(yaml: &'a Yaml, key: &str) -> &'a str {
    yaml[key].as_str().unwrap_or_else(|| panic!("no {key} in {yaml:?}"))
}

#[test]
fn the_rules_for_prometheus_ask_for_what_is_served() {
    let rules = YamlLoader::load_from_str(&packaged("prometheus-alerts.yml")).unwrap();
    let groups = rules[0]["groups"].as_vec().unwrap();
    let mut names = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_vec().unwrap()) {
        assert!(names.insert(text(rule, "alert").to_owned()), "{rule:?} twice");
        assert_served(text(rule, "expr"));
        assert!(["warning", "critical"].contains(&text(&rule["labels"], "severity")));
        assert!(!text(&rule["annotations"], "summary").is_empty());
        let keys = rule.as_hash().unwrap().keys().filter_map(Yaml::as_str);
        let known = ["alert", "expr", "for", "labels", "annotations"];
        assert!(keys.into_iter().all(|key| known.contains(&key)), "{rule:?}");
    }
    assert!(names.len() > 10);
}

#[test]
fn the_dashboard_asks_for_what_is_served() {
    let dashboard: Value = serde_json::from_str(&packaged("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut count = 0;
    for target in targets {
        assert_served(target["expr"].as_str().unwrap());
        count += 1;
    }
    assert!(count > 10);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_served(variables[1]["query"].as_str().unwrap());
    // None lies over another.
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies over another", panel["title"]);
            }
        }
    }
}
