//! A report as Prometheus reads it: the text format, version 0.0.4.

use std::collections::BTreeMap;

use pool::{DiskOperations, VolumeStats};

use super::{ClientReport, Counters, TargetReport};
use crate::exposition::Page;
use crate::node::{NodeStatus, ONLINE};

/// Clients of an export that are shown each by itself, those with the most requests; the others are
/// summed up as `others`. Who can send frames can invent addresses, and each would be a time series.
pub const CLIENTS_SHOWN_MAX: usize = 32;

/// The text.
pub fn metrics(report: &TargetReport, status: &NodeStatus) -> String {
    let mut page = Page::default();
    let labels = [("name", report.name.as_str()), ("version", report.version.as_str())];
    page.family("etherpool_target_info", "gauge", "The target and its program.");
    page.sample("etherpool_target_info", &labels, 1);
    whole_target(&mut page, report);
    state_of_exports(&mut page, status);
    ports(&mut page, report);
    queues(&mut page, report);
    counters(&mut page, report);
    clients(&mut page, report);
    latencies(&mut page, report);
    volumes(&mut page, report);
    pool_disks(&mut page, report);
    page.into_text()
}

fn whole_target(page: &mut Page, report: &TargetReport) {
    let name = "etherpool_target_frames_total";
    page.family(name, "counter", "Frames by what became of them before any export saw them.");
    for (kind, count) in &report.frames {
        page.sample(name, &[("kind", kind)], *count);
    }
}

fn state_of_exports(page: &mut Page, status: &NodeStatus) {
    let name = "etherpool_target_export_online";
    page.family(name, "gauge", "Whether an export that is to be served is.");
    for export in &status.exports {
        let labels = [("export", export.address.as_str()), ("path", export.path.as_str())];
        page.sample(name, &labels, u64::from(export.state == ONLINE));
    }
    let name = "etherpool_target_export_size_bytes";
    page.family(name, "gauge", "Size of an export; zero while its medium is missing.");
    for export in &status.exports {
        page.sample(name, &[("export", &export.address)], export.size_bytes);
    }
    let name = "etherpool_target_drive_settings_refused";
    page.family(name, "gauge", "Settings that a drive refused.");
    for drive in &status.drives {
        page.sample(name, &[("drive", &drive.path)], drive.refused.len() as u64);
    }
}

fn ports(page: &mut Page, report: &TargetReport) {
    let name = "etherpool_target_port_frames_total";
    page.family(name, "counter", "Frames through an interface.");
    for port in &report.ports {
        let port_name = port.name.as_str();
        page.sample(name, &[("port", port_name), ("direction", "sent")], port.sent);
        page.sample(name, &[("port", port_name), ("direction", "received")], port.received);
    }
    let name = "etherpool_target_port_dropped_total";
    page.family(name, "counter", "Frames that an interface lost.");
    for port in &report.ports {
        for (reason, count) in [
            ("send", port.send_dropped),
            ("receive", port.receive_dropped),
            ("oversized", port.oversized),
        ] {
            page.sample(name, &[("port", &port.name), ("reason", reason)], count);
        }
    }
    let name = "etherpool_target_port_mtu_bytes";
    page.family(name, "gauge", "Largest Ethernet payload of an interface.");
    for port in &report.ports {
        page.sample(name, &[("port", &port.name)], port.mtu_bytes as u64);
    }
}

fn queues(page: &mut Page, report: &TargetReport) {
    type Value = fn(&super::ExportReport) -> u64;
    let gauges: [(&str, &str, Value); 4] = [
        ("etherpool_target_queue_commands", "Commands in an export's queue.", |e| e.queued as u64),
        ("etherpool_target_queue_commands_max", "The most that there were at once.", |e| {
            e.queued_max as u64
        }),
        ("etherpool_target_queue_bytes", "Bytes of the commands in the queue.", |e| e.queued_bytes),
        ("etherpool_target_sessions", "Open sessions.", |e| e.sessions as u64),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        for export in &report.exports {
            page.sample(name, &[("export", &export.address)], value(export));
        }
    }
}

fn counters(page: &mut Page, report: &TargetReport) {
    type Values = fn(&Counters) -> Vec<(&str, u64)>;
    let families: [(&str, &str, &str, Values); 5] = [
        ("etherpool_target_requests_total", "kind", "Requests executed.", |c| pairs(&c.requests)),
        ("etherpool_target_bytes_total", "direction", "Bytes moved.", |c| {
            vec![("read", c.read_bytes), ("written", c.written_bytes)]
        }),
        ("etherpool_target_errors_total", "kind", "Requests that failed or were refused.", |c| {
            pairs(&c.errors)
        }),
        ("etherpool_target_conflicts_total", "kind", "Others at an export's address.", |c| {
            vec![("foreign_answer", c.foreign_answers)]
        }),
        ("etherpool_target_dropped_total", "reason", "Frames that got no answer.", |c| {
            pairs(&c.dropped)
        }),
    ];
    for (name, label, help, values) in families {
        page.family(name, "counter", help);
        for export in &report.exports {
            for (kind, count) in values(&export.counters) {
                page.sample(name, &[("export", &export.address), (label, kind)], count);
            }
        }
    }
}

fn clients(page: &mut Page, report: &TargetReport) {
    type Values = fn(&Counters) -> Vec<(&'static str, u64)>;
    let families: [(&str, &str, &str, Values); 2] = [
        (
            "etherpool_target_client_requests_total",
            "result",
            "Requests of a client, by how they ended.",
            |c| {
                vec![
                    ("done", c.requests_sum()),
                    ("error", c.errors_sum()),
                    ("dropped", c.dropped_sum()),
                ]
            },
        ),
        ("etherpool_target_client_bytes_total", "direction", "Bytes moved for a client.", |c| {
            vec![("read", c.read_bytes), ("written", c.written_bytes)]
        }),
    ];
    let shown: Vec<_> =
        report.exports.iter().map(|e| (e.address.as_str(), most_active(&e.clients))).collect();
    for (name, label, help, values) in families {
        page.family(name, "counter", help);
        for (export, clients) in &shown {
            for (client, counters) in clients {
                for (kind, count) in values(counters) {
                    let labels = [("export", *export), ("client", client), (label, kind)];
                    page.sample(name, &labels, count);
                }
            }
        }
    }
}

/// Those with the most requests, by address, and the sum of all others.
fn most_active(clients: &[ClientReport]) -> Vec<(String, Counters)> {
    let mut named: Vec<&ClientReport> = clients.iter().filter(|c| c.mac.is_some()).collect();
    named.sort_by_key(|client| std::cmp::Reverse(client.counters.requests_sum()));
    let rest = named.split_off(named.len().min(CLIENTS_SHOWN_MAX));
    named.sort_by(|a, b| a.mac.cmp(&b.mac));
    let mut shown: Vec<_> = named
        .iter()
        .filter_map(|client| Some((client.mac.clone()?, client.counters.clone())))
        .collect();
    let mut others = Counters::default();
    for client in rest.into_iter().chain(clients.iter().filter(|c| c.mac.is_none())) {
        others.add(&client.counters);
    }
    if others != Counters::default() {
        shown.push(("others".to_owned(), others));
    }
    shown
}

fn latencies(page: &mut Page, report: &TargetReport) {
    let name = "etherpool_target_request_duration_seconds";
    page.family(name, "histogram", "From the arrival of a command's frame to its answer.");
    for export in &report.exports {
        for (kind, latency) in &export.latency {
            page.histogram(name, &[("export", &export.address), ("kind", kind)], latency);
        }
    }
}

fn volumes(page: &mut Page, report: &TargetReport) {
    let volumes: Vec<(String, &VolumeStats)> =
        report.volumes.iter().map(|(name, stats)| (name.to_string(), stats)).collect();
    let requests = || {
        let kinds = |(volume, stats): &(String, &VolumeStats)| {
            stats.requests().map(|(kind, requests)| (volume.clone(), kind, *requests))
        };
        volumes.iter().flat_map(kinds).filter(|(_, _, requests)| !requests.total.is_empty())
    };
    if volumes.is_empty() {
        return;
    }
    let name = "etherpool_volume_bytes_total";
    page.family(name, "counter", "Bytes of a volume's requests that succeeded.");
    for (volume, kind, requests) in requests() {
        page.sample(name, &[("volume", &volume), ("kind", kind)], requests.bytes);
    }
    let name = "etherpool_volume_errors_total";
    page.family(name, "counter", "Requests of a volume that failed.");
    for (volume, kind, requests) in requests() {
        page.sample(name, &[("volume", &volume), ("kind", kind)], requests.errors);
    }
    let name = "etherpool_volume_request_duration_seconds";
    page.family(name, "histogram", "What a volume's requests took, and what they waited for.");
    for (volume, kind, requests) in requests() {
        for (stage, times) in requests.stages().into_iter().filter(|(_, t)| !t.is_empty()) {
            page.histogram(name, &[("volume", &volume), ("kind", kind), ("stage", stage)], times);
        }
    }
    let name = "etherpool_volume_destaged_bytes_total";
    page.family(name, "counter", "Bytes brought from a volume's log into place.");
    for (volume, stats) in &volumes {
        page.sample(name, &[("volume", volume)], stats.destage.bytes);
    }
    let name = "etherpool_volume_destage_duration_seconds";
    page.family(name, "histogram", "What a volume's destages took.");
    for (volume, stats) in &volumes {
        page.histogram(name, &[("volume", volume)], &stats.destage.total);
    }
}

/// Disks of pools: those of several volumes once.
fn pool_disks(page: &mut Page, report: &TargetReport) {
    let mut disks: BTreeMap<(&str, &str), &DiskOperations> = BTreeMap::new();
    for (volume, stats) in &report.volumes {
        let of_pool =
            stats.disks.iter().map(|disk| ((volume.pool(), disk.name.as_str()), &disk.operations));
        disks.extend(of_pool);
    }
    if disks.is_empty() {
        return;
    }
    let name = "etherpool_pool_disk_bytes_total";
    page.family(name, "counter", "Bytes that the engine had a disk of a pool move.");
    for ((pool, disk), operations) in &disks {
        for (purpose, done) in operations.by_purpose().into_iter().filter(|(_, o)| o.bytes > 0) {
            page.sample(name, &[("pool", pool), ("disk", disk), ("purpose", purpose)], done.bytes);
        }
    }
    let name = "etherpool_pool_disk_operation_duration_seconds";
    page.family(name, "histogram", "What operations on a disk of a pool took, network included.");
    for ((pool, disk), operations) in &disks {
        let by_purpose = operations.by_purpose().into_iter();
        for (purpose, done) in by_purpose.filter(|(_, done)| !done.total.is_empty()) {
            let labels = [("pool", *pool), ("disk", *disk), ("purpose", purpose)];
            page.histogram(name, &labels, &done.total);
        }
    }
}

fn pairs(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "metrics_tests.rs"]
mod tests;
