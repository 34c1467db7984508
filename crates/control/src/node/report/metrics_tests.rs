//! The text is read back by a reader of its own, written from the format's description.

use std::collections::BTreeMap;
use std::time::Duration;

use block::{Histogram, VolumeName};
use pool::{DestageStats, DiskStats, OperationStats, RequestStats};

use super::super::{ExportReport, PortReport};
use super::*;
use crate::node::{DriveStatus, ExportStatus};

/// A sample: name, labels, value.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && text.chars().all(good) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Reads one line `name{label="value",...} number`.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, behind) = rest.split_once("=\"").unwrap();
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let mut value = String::new();
            let mut chars = behind.char_indices();
            let after = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at + 1,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        c @ ('\\' | '"') => value.push(c),
                        c => panic!("\\{c} in {line}"),
                    },
                    (_, '\n') => panic!("{line}"),
                    (_, c) => value.push(c),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = &behind[after..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.strip_prefix(' ').unwrap();
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
    Sample { name: name.to_owned(), labels, value }
}

/// Reads a page, and checks what the format asks of it: each family once and together, with help and
/// type before its samples; no sample twice; histograms cumulative and complete.
fn read(page: &str) -> Vec<Sample> {
    assert!(page.ends_with('\n'));
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut samples: Vec<Sample> = Vec::new();
    let mut family = String::new();
    let mut helped = String::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').unwrap().0.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "help before type");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            family = name.to_owned();
        } else {
            let sample = sample(line);
            let suffixes: &[&str] = match kinds[&family].as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.iter().any(|s| sample.name == format!("{family}{s}")), "{line}");
            assert!(kinds[&family] != "counter" || family.ends_with("_total"), "{family}");
            let same = |other: &&Sample| other.name == sample.name && other.labels == sample.labels;
            assert_eq!(samples.iter().find(same), None, "twice");
            samples.push(sample);
        }
    }
    for (family, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        check_histogram(family, &samples);
    }
    samples
}

fn check_histogram(family: &str, samples: &[Sample]) {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|s| s.name == format!("{family}_bucket")) {
        let mut labels = sample.labels.clone();
        let end = labels.remove("le").unwrap();
        let end = if end == "+Inf" { f64::INFINITY } else { end.parse().unwrap() };
        series.entry(labels).or_default().push((end, sample.value));
    }
    for (labels, buckets) in series {
        assert!(buckets.is_sorted(), "cumulative: {labels:?} {buckets:?}");
        let of = |suffix: &str| {
            let name = format!("{family}{suffix}");
            samples.iter().find(|s| s.name == name && s.labels == labels).unwrap().value
        };
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, of("_count"))));
        assert!(of("_sum") >= 0.0);
    }
}

fn counters(reads: u64) -> Counters {
    Counters {
        requests: [("read".to_owned(), reads)].into(),
        read_bytes: reads * 512,
        errors: [("medium".to_owned(), 1)].into(),
        dropped: [("denied".to_owned(), 2)].into(),
        ..Counters::default()
    }
}

fn client(last: u8, reads: u64) -> ClientReport {
    let mac = Some(format!("02:00:00:00:00:{last:02x}"));
    ClientReport { mac, counters: counters(reads), ..ClientReport::default() }
}

/// Two volumes of a pool on the same disk.
fn volumes(times: Histogram) -> BTreeMap<VolumeName, VolumeStats> {
    let requests = RequestStats { bytes: 4096, total: times, log: times, ..Default::default() };
    let log = OperationStats { bytes: 8192, total: times };
    let operations = DiskOperations { log, ..DiskOperations::default() };
    let stats = VolumeStats {
        write: requests,
        destage: DestageStats { blocks: 2, bytes: 4096, total: times },
        disks: vec![DiskStats { name: "e1.0".into(), node: "n1".into(), operations }],
        ..VolumeStats::default()
    };
    ["v", "w"].map(|name| (VolumeName::new("p", name).unwrap(), stats.clone())).into()
}

fn report() -> (TargetReport, NodeStatus) {
    // Two of less than a microsecond, three of less than four, one of more than two minutes.
    let mut latency = Histogram::default();
    for us in [0, 0, 3, 3, 3, 130_000_003] {
        latency.note(Duration::from_micros(us));
    }
    let export = ExportReport {
        address: "e1.0".into(),
        queued: 3,
        counters: counters(7),
        latency: [("read".to_owned(), latency)].into(),
        clients: vec![client(1, 5), client(2, 2)],
        ..ExportReport::default()
    };
    let port =
        PortReport { name: "eth0".into(), sent: 9, receive_dropped: 4, ..Default::default() };
    let report = TargetReport {
        name: "a \"quoted\\name\"\nwith a line".into(),
        version: "1".into(),
        frames: [("received".to_owned(), 11)].into(),
        ports: vec![port],
        exports: vec![export],
        volumes: volumes(latency),
    };
    let online = |address: &str, state: &str| ExportStatus {
        address: address.into(),
        path: "/dev/disk/by-id/x".into(),
        device: "/dev/sda".into(),
        size_bytes: 1 << 40,
        state: state.into(),
    };
    let status = NodeStatus {
        exports: vec![online("e1.0", ONLINE), online("e1.1", "no such file")],
        drives: vec![DriveStatus { path: "/dev/sda".into(), refused: vec!["x".into()] }],
        ..NodeStatus::default()
    };
    (report, status)
}

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    samples.iter().find(|s| s.name == name && s.labels == labels).map(|s| s.value)
}

#[test]
fn the_page_is_in_form_and_says_what_the_report_says() {
    let (report, status) = report();
    let samples = read(&metrics(&report, &status));
    let value = |name: &str, labels: &[(&str, &str)]| {
        value(&samples, &format!("etherpool_target_{name}"), labels)
    };
    assert_eq!(value("info", &[("name", &report.name), ("version", "1")]), Some(1.0));
    assert_eq!(value("frames_total", &[("kind", "received")]), Some(11.0));
    assert_eq!(value("requests_total", &[("export", "e1.0"), ("kind", "read")]), Some(7.0));
    assert_eq!(value("bytes_total", &[("export", "e1.0"), ("direction", "read")]), Some(3584.0));
    assert_eq!(value("errors_total", &[("export", "e1.0"), ("kind", "medium")]), Some(1.0));
    assert_eq!(value("dropped_total", &[("export", "e1.0"), ("reason", "denied")]), Some(2.0));
    assert_eq!(value("queue_commands", &[("export", "e1.0")]), Some(3.0));
    assert_eq!(value("port_frames_total", &[("port", "eth0"), ("direction", "sent")]), Some(9.0));
    assert_eq!(value("port_dropped_total", &[("port", "eth0"), ("reason", "receive")]), Some(4.0));
    let path = ("path", "/dev/disk/by-id/x");
    assert_eq!(value("export_online", &[("export", "e1.0"), path]), Some(1.0));
    assert_eq!(value("export_online", &[("export", "e1.1"), path]), Some(0.0));
    assert_eq!(value("drive_settings_refused", &[("drive", "/dev/sda")]), Some(1.0));
    let mac = ("client", "02:00:00:00:00:01");
    let client = [("export", "e1.0"), mac, ("result", "done")];
    assert_eq!(value("client_requests_total", &client), Some(5.0));
}

#[test]
fn buckets_add_up_in_seconds() {
    let (report, status) = report();
    let samples = read(&metrics(&report, &status));
    let name = "etherpool_target_request_duration_seconds";
    let own = [("export", "e1.0"), ("kind", "read")];
    let below = |end: &str| {
        let labels = [own[0], own[1], ("le", end)];
        value(&samples, &format!("{name}_bucket"), &labels)
    };
    assert_eq!(below("0.000001"), Some(2.0));
    assert_eq!(below("0.000002"), Some(2.0));
    assert_eq!(below("0.000004"), Some(5.0));
    assert_eq!(below("67.108864"), Some(5.0), "the end of the last that has one");
    assert_eq!(below("+Inf"), Some(6.0));
    assert_eq!(value(&samples, &format!("{name}_sum"), &own), Some(130.000012));
    assert_eq!(value(&samples, &format!("{name}_count"), &own), Some(6.0));
}

#[test]
fn a_supervisor_tells_of_its_volumes_and_of_each_disk_once() {
    let (report, status) = report();
    let samples = read(&metrics(&report, &status));
    let value =
        |name: &str, labels: &[(&str, &str)]| value(&samples, &format!("etherpool_{name}"), labels);
    for volume in ["p/v", "p/w"] {
        let write = [("volume", volume), ("kind", "write")];
        assert_eq!(value("volume_bytes_total", &write), Some(4096.0));
        assert_eq!(value("volume_errors_total", &write), Some(0.0));
        for (stage, count) in [("total", Some(6.0)), ("log", Some(6.0)), ("room", None)] {
            let labels = [write[0], write[1], ("stage", stage)];
            assert_eq!(value("volume_request_duration_seconds_count", &labels), count, "{stage}");
        }
        let volume = [("volume", volume)];
        assert_eq!(value("volume_destage_duration_seconds_count", &volume), Some(6.0));
    }
    let log = [("pool", "p"), ("disk", "e1.0"), ("purpose", "log")];
    assert_eq!(value("pool_disk_bytes_total", &log), Some(8192.0));
    assert_eq!(value("pool_disk_operation_duration_seconds_count", &log), Some(6.0));
}

#[test]
fn invented_clients_make_no_series() {
    let (mut report, status) = report();
    let unknown = ClientReport { counters: counters(1), ..ClientReport::default() };
    let clients = (0..100).map(|n| client(n, if n == 77 { 1000 } else { u64::from(n % 7) }));
    report.exports[0].clients = clients.chain([unknown]).collect();
    let samples = read(&metrics(&report, &status));
    let name = "etherpool_target_client_bytes_total";
    let reads: Vec<&Sample> =
        samples.iter().filter(|s| s.name == name && s.labels["direction"] == "read").collect();
    assert_eq!(reads.len(), CLIENTS_SHOWN_MAX + 1);
    assert!(reads.iter().any(|s| s.labels["client"] == "02:00:00:00:00:4d"));
    let all: u64 = report.exports[0].clients.iter().map(|c| c.counters.read_bytes).sum();
    let shown: f64 = reads.iter().map(|s| s.value).sum();
    assert_eq!(shown, all as f64, "nothing is lost in the sum");
}

#[test]
fn an_idle_target_has_a_page_too() {
    read(&metrics(&TargetReport::default(), &NodeStatus::default()));
}
