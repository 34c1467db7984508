//! What targets of this machine export, and what they count.

use std::path::Path;

use comfy_table::Table;
use control::node::{Counters, ExportReport, NodeStatus, TargetReport};

use super::{facts, or_dash, percentiles, section, size, table};

/// `target status`.
pub fn target_status(socket: &Path, status: &NodeStatus) -> String {
    let mut text = facts(&[
        ("target", status.name.clone()),
        ("socket", socket.display().to_string()),
        ("ports", status.interfaces.join(", ")),
    ]);
    let mut exports = table(&["EXPORT", "SIZE", "PATH", "STATE"]);
    for export in &status.exports {
        exports.add_row([
            export.address.clone(),
            size(export.size_bytes),
            export.path.clone(),
            export.state.clone(),
        ]);
    }
    section(&mut text, &exports, !status.exports.is_empty());
    let mut others = table(&["NOT EXPORTED", "WHY"]);
    for disk in &status.not_exported {
        others.add_row([disk.path.clone(), disk.why.clone()]);
    }
    section(&mut text, &others, !status.not_exported.is_empty());
    let mut drives = table(&["DRIVE", "SETTINGS"]);
    for drive in &status.drives {
        let refused = if drive.refused.is_empty() {
            "applied".to_owned()
        } else {
            format!("refused: {}", drive.refused.join("; "))
        };
        drives.add_row([drive.path.clone(), refused]);
    }
    section(&mut text, &drives, !status.drives.is_empty());
    text
}

/// `target stats`.
pub fn target_stats(report: &TargetReport) -> String {
    let mut text = facts(&[("target", report.name.clone())]);
    let mut work = table(&[
        "EXPORT", "CLIENT", "READS", "WRITES", "OTHER", "READ", "WRITTEN", "ERRORS", "DROPPED",
        "QUEUE", "P50", "P90", "P99", "MAX",
    ]);
    let mut kinds = table(&["EXPORT", "REQUESTS", "COUNT", "P50", "P90", "P99", "MAX"]);
    let mut trouble = table(&["EXPORT", "TROUBLE", "COUNT"]);
    let (mut any_kind, mut any_trouble) = (false, false);
    for export in &report.exports {
        add_work(&mut work, export);
        for (kind, times) in export.latency.iter().filter(|(_, times)| !times.is_empty()) {
            any_kind = true;
            let mut row = vec![export.address.clone(), kind.clone(), times.count().to_string()];
            row.extend(percentiles(times));
            kinds.add_row(row);
        }
        let Counters { errors, dropped, foreign_answers, .. } = &export.counters;
        let errors = errors.iter().map(|(kind, count)| (format!("error: {kind}"), count));
        let dropped = dropped.iter().map(|(kind, count)| (format!("dropped: {kind}"), count));
        let foreign = ("others answer for its address".to_owned(), foreign_answers);
        for (what, count) in errors.chain(dropped).chain([foreign]).filter(|(_, count)| **count > 0)
        {
            any_trouble = true;
            trouble.add_row([export.address.clone(), what, count.to_string()]);
        }
    }
    section(&mut text, &work, !report.exports.is_empty());
    section(&mut text, &kinds, any_kind);
    section(&mut text, &trouble, any_trouble);
    section(&mut text, &ports(report), !report.ports.is_empty());
    let frames: Vec<String> =
        report.frames.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    if !frames.is_empty() {
        text.push_str(&format!("\nframes: {}\n", frames.join(", ")));
    }
    text
}

fn add_work(work: &mut Table, export: &ExportReport) {
    // The export's own line has no latency: that of reads and that of writes have lines below.
    let none = ["-".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()];
    let queue = format!("{} (max {})", export.queued, export.queued_max);
    let address = &export.address;
    work.add_row(work_row(address, "all", &export.counters, queue, none));
    for client in &export.clients {
        let who = client.mac.as_deref().unwrap_or("others");
        let queue = "-".to_owned();
        work.add_row(work_row(address, who, &client.counters, queue, percentiles(&client.latency)));
    }
}

fn work_row(
    address: &str,
    client: &str,
    counters: &Counters,
    queue: String,
    times: [String; 4],
) -> Vec<String> {
    let of = |kind: &str| counters.requests.get(kind).copied().unwrap_or(0);
    let (reads, writes) = (of("read"), of("write"));
    let mut row = vec![
        address.to_owned(),
        client.to_owned(),
        reads.to_string(),
        writes.to_string(),
        counters.requests_sum().saturating_sub(reads + writes).to_string(),
        size(counters.read_bytes),
        size(counters.written_bytes),
        counters.errors_sum().to_string(),
        counters.dropped_sum().to_string(),
        queue,
    ];
    row.extend(times);
    row
}

fn ports(report: &TargetReport) -> Table {
    let mut ports = table(&[
        "PORT",
        "MAC",
        "MTU",
        "SENT",
        "RECEIVED",
        "LOST SENDING",
        "LOST RECEIVING",
        "OVERSIZED",
    ]);
    for port in &report.ports {
        ports.add_row([
            port.name.clone(),
            or_dash(Some(&port.mac)),
            port.mtu_bytes.to_string(),
            port.sent.to_string(),
            port.received.to_string(),
            port.send_dropped.to_string(),
            port.receive_dropped.to_string(),
            port.oversized.to_string(),
        ]);
    }
    ports
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use block::Histogram;
    use control::node::{ClientReport, DriveStatus, ExportStatus, NotExported, PortReport};

    #[test]
    fn what_is_exported_and_what_not() {
        let status = NodeStatus {
            name: "node-7".into(),
            interfaces: vec!["eth0".into(), "eth1".into()],
            exports: vec![ExportStatus {
                address: "e7.0".into(),
                path: "/dev/sdb".into(),
                device: "/dev/sdb".into(),
                size_bytes: 1 << 30,
                state: "online".into(),
            }],
            not_exported: vec![NotExported { path: "/dev/sda".into(), why: "in use".into() }],
            drives: vec![DriveStatus {
                path: "/dev/sdb".into(),
                refused: vec!["spin-down: no timer".into()],
            }],
            ..NodeStatus::default()
        };
        let text = target_status(Path::new("/run/x.sock"), &status);
        let expected = "\
target  node-7
socket  /run/x.sock
ports   eth0, eth1

EXPORT  SIZE      PATH      STATE
e7.0    1.00 GiB  /dev/sdb  online

NOT EXPORTED  WHY
/dev/sda      in use

DRIVE     SETTINGS
/dev/sdb  refused: spin-down: no timer
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_was_counted() {
        let counters = Counters {
            requests: [("read".to_owned(), 5), ("write".to_owned(), 2), ("flush".to_owned(), 1)]
                .into(),
            read_bytes: 4096,
            errors: [("medium".to_owned(), 1), ("lost".to_owned(), 0)].into(),
            dropped: [("denied".to_owned(), 3)].into(),
            ..Counters::default()
        };
        let mut latency = Histogram::default();
        for us in [40, 50, 60, 1500, 90_000_000] {
            latency.note(Duration::from_micros(us));
        }
        let client = ClientReport {
            mac: Some("02:00:00:00:00:01".into()),
            counters: counters.clone(),
            latency,
            ..ClientReport::default()
        };
        let export = ExportReport {
            address: "e7.0".into(),
            queued: 2,
            queued_max: 9,
            counters,
            latency: [("read".to_owned(), latency), ("write".to_owned(), Histogram::default())]
                .into(),
            clients: vec![client],
            ..ExportReport::default()
        };
        let port = PortReport {
            name: "eth0".into(),
            mac: "02:00:00:00:00:09".into(),
            mtu_bytes: 9000,
            sent: 8,
            received: 11,
            ..PortReport::default()
        };
        let report = TargetReport {
            name: "n".into(),
            frames: [("received".to_owned(), 11)].into(),
            ports: vec![port],
            exports: vec![export],
            ..TargetReport::default()
        };
        let text = target_stats(&report);
        let expected = "\
target  n

EXPORT  CLIENT             READS  WRITES  OTHER  READ      WRITTEN  ERRORS  DROPPED  QUEUE      P50    P90   P99   MAX
e7.0    all                5      2       1      4.00 KiB  -        1       3        2 (max 9)  -      -     -     -
e7.0    02:00:00:00:00:01  5      2       1      4.00 KiB  -        1       3        -          <64us  >67s  >67s  >67s

EXPORT  REQUESTS  COUNT  P50    P90   P99   MAX
e7.0    read      5      <64us  >67s  >67s  >67s

EXPORT  TROUBLE          COUNT
e7.0    error: medium    1
e7.0    dropped: denied  3

PORT  MAC                MTU   SENT  RECEIVED  LOST SENDING  LOST RECEIVING  OVERSIZED
eth0  02:00:00:00:00:09  9000  8     11        0             0               0

frames: received 11
";
        assert_eq!(text, expected, "\n{text}");
    }
}
