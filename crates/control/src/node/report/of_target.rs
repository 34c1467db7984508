//! Reports from what the target has.

use std::collections::BTreeMap;

use aoe_target::{ClientStatus, ExportStats, ExportStatus, Latencies, TargetStats};
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
        // All by name: a counter that is added there must get a name here.
        let ExportStats {
            reads,
            writes,
            flushes,
            others,
            read_bytes,
            written_bytes,
            replayed,
            sessions_opened,
            errors_medium,
            errors_no_space,
            errors_out_of_range,
            errors_flush,
            errors_remember,
            errors_lost,
            fenced,
            refused,
            dropped_queue_full,
            dropped_malformed,
            dropped_denied,
            dropped_repeated,
            dropped_session_limit,
            foreign_answers,
        } = *stats;
        Counters {
            requests: named([
                ("read", reads),
                ("write", writes),
                ("flush", flushes),
                ("other", others),
                ("replayed", replayed),
            ]),
            read_bytes,
            written_bytes,
            sessions_opened,
            foreign_answers,
            errors: named([
                ("medium", errors_medium),
                ("no_space", errors_no_space),
                ("out_of_range", errors_out_of_range),
                ("flush", errors_flush),
                ("remember", errors_remember),
                ("lost", errors_lost),
                ("fenced", fenced),
                ("refused", refused),
            ]),
            dropped: named([
                ("queue_full", dropped_queue_full),
                ("malformed", dropped_malformed),
                ("denied", dropped_denied),
                ("repeated", dropped_repeated),
                ("session_limit", dropped_session_limit),
            ]),
        }
    }
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(kind, count)| (kind.to_owned(), count)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_place() {
        let stats = ExportStats {
            reads: 1,
            writes: 2,
            errors_medium: 3,
            fenced: 4,
            dropped_denied: 5,
            read_bytes: 512,
            ..ExportStats::default()
        };
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
