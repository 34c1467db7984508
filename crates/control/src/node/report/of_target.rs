//! Reports from what the target has.

use std::collections::BTreeMap;

use aoe_target::{ClientStatus, Counter, ExportStats, ExportStatus, Latencies, TargetStats};
use aoe_wire::PortStatus;
use block::Instant;

use super::{ClientReport, Counters, ExportReport, PortReport, TargetReport};

impl TargetReport {
    /// A report without exports and ports.
    pub fn new(name: &str, stats: TargetStats) -> TargetReport {
        let TargetStats { frames, malformed, not_ours, transmit_full, .. } = stats;
        TargetReport {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            frames: named([
                ("received", frames),
                ("malformed", malformed),
                ("not_ours", not_ours),
                ("transmit_full", transmit_full),
            ]),
            ports: Vec::new(),
            exports: Vec::new(),
            volumes: BTreeMap::new(),
        }
    }
}

impl From<&PortStatus> for PortReport {
    fn from(port: &PortStatus) -> PortReport {
        let counters = port.counters;
        PortReport {
            name: port.name.clone(),
            mac: port.mac.to_string(),
            mtu_bytes: port.mtu_bytes,
            sent: counters.sent,
            received: counters.received,
            send_dropped: counters.send_dropped,
            receive_dropped: counters.receive_dropped,
            oversized: counters.oversized,
        }
    }
}

impl ExportReport {
    /// An export and its clients, as of `now`.
    pub fn new(export: &ExportStatus, clients: &[ClientStatus], now: Instant) -> ExportReport {
        let Latencies { read, write, flush } = export.latencies;
        let latency = [("read", read), ("write", write), ("flush", flush)];
        ExportReport {
            address: export.options.address.to_string(),
            name: export.options.name.clone(),
            write_cache: export.write_cache,
            sessions: export.sessions,
            queued: export.queued,
            queued_bytes: export.queued_bytes,
            queued_max: export.queued_max,
            counters: Counters::from(&export.stats),
            latency: latency.map(|(kind, times)| (kind.to_owned(), times)).into(),
            clients: clients.iter().map(|client| ClientReport::new(client, now)).collect(),
        }
    }
}

impl ClientReport {
    fn new(client: &ClientStatus, now: Instant) -> ClientReport {
        let silent = now.since(client.last_seen);
        ClientReport {
            mac: client.mac.map(|mac| mac.to_string()),
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            counters: Counters::from(&client.stats),
            latency: client.latency,
        }
    }
}

impl From<&ExportStats> for Counters {
    fn from(stats: &ExportStats) -> Counters {
        Counters {
            requests: named([
                ("read", stats[Counter::Reads]),
                ("write", stats[Counter::Writes]),
                ("flush", stats[Counter::Flushes]),
                ("other", stats[Counter::Others]),
                ("replayed", stats[Counter::Replayed]),
            ]),
            read_bytes: stats[Counter::ReadBytes],
            written_bytes: stats[Counter::WrittenBytes],
            sessions_opened: stats[Counter::SessionsOpened],
            foreign_answers: stats[Counter::ForeignAnswers],
            errors: named([
                ("medium", stats[Counter::MediumErrors]),
                ("no_space", stats[Counter::NoSpace]),
                ("out_of_range", stats[Counter::OutOfRange]),
                ("flush", stats[Counter::FailedFlushes]),
                ("remember", stats[Counter::NotRemembered]),
                ("lost", stats[Counter::Lost]),
                ("fenced", stats[Counter::Fenced]),
                ("refused", stats[Counter::Refused]),
            ]),
            dropped: named([
                ("queue_full", stats[Counter::QueueFull]),
                ("malformed", stats[Counter::Malformed]),
                ("denied", stats[Counter::Denied]),
                ("repeated", stats[Counter::Repeated]),
                ("session_limit", stats[Counter::SessionLimit]),
                ("forged", stats[Counter::Forged]),
            ]),
        }
    }
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(kind, count)| (kind.to_owned(), count)).into()
}

#[cfg(test)]
mod tests {
    use aoe_target::COUNTERS;

    use super::*;

    #[test]
    fn each_counter_has_its_place() {
        let each = Counters::from(&ExportStats([1; COUNTERS]));
        let named = each.requests_sum() + each.errors_sum() + each.dropped_sum();
        let own = each.read_bytes + each.written_bytes + each.sessions_opened;
        assert_eq!(named + own + each.foreign_answers, COUNTERS as u64);
        let mut stats = ExportStats::default();
        for (counter, count) in [
            (Counter::Reads, 1),
            (Counter::Writes, 2),
            (Counter::MediumErrors, 3),
            (Counter::Fenced, 4),
            (Counter::Denied, 5),
            (Counter::ReadBytes, 512),
        ] {
            stats.count(counter, count);
        }
        let counters = Counters::from(&stats);
        assert_eq!(counters.requests["read"] + counters.requests["write"], 3);
        assert_eq!((counters.errors["medium"], counters.errors["fenced"]), (3, 4));
        assert_eq!((counters.dropped["denied"], counters.read_bytes), (5, 512));
        assert_eq!((counters.requests_sum(), counters.errors_sum()), (3, 7));
        let mut twice = counters.clone();
        twice.add(&counters);
        assert_eq!((twice.requests["write"], twice.errors_sum(), twice.dropped_sum()), (4, 14, 10));
    }
}
