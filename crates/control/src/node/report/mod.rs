//! What a running target counts, as programs and people are shown it: for `etherpool target stats`
//! and for Prometheus. The names of kinds are part of the interface; they stay as they are.

mod metrics;
mod of_target;
mod trace;

use std::collections::BTreeMap;

use block::Histogram;
use pool::VolumeStats;
use serde::{Deserialize, Serialize};

use block::VolumeName;

pub use metrics::{CLIENTS_SHOWN_MAX, metrics};
pub use trace::{TraceLine, TraceNews};

/// All counters of a target, from its start on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The machine's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Frames by what became of them: `received`, `malformed`, `not_ours`, `transmit_full`.
    pub frames: BTreeMap<String, u64>,
    /// Interfaces, and the sockets of programs of this machine.
    pub ports: Vec<PortReport>,
    /// Exports that are served, by address.
    pub exports: Vec<ExportReport>,
    /// Volumes behind them, and all others, by pool and name: a supervisor's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<VolumeName, VolumeStats>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: String,
    /// Largest Ethernet payload.
    pub mtu_bytes: usize,
    /// Frames handed to the kernel.
    pub sent: u64,
    /// Frames that arrived.
    pub received: u64,
    /// Frames not sent: queue full for long, interface down.
    pub send_dropped: u64,
    /// Frames that the kernel dropped because the target was slow.
    pub receive_dropped: u64,
    /// Frames longer than the MTU.
    pub oversized: u64,
}

/// An export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Its address, `e1.0`.
    pub address: String,
    /// What is exported.
    pub name: String,
    /// Whether writes are answered before they are on stable storage.
    pub write_cache: bool,
    /// Open sessions.
    pub sessions: usize,
    /// Commands in the queue now.
    pub queued: usize,
    /// Bytes that those hold or ask for.
    pub queued_bytes: u64,
    /// Commands in the queue at once, at most.
    pub queued_max: usize,
    /// What it counted.
    #[serde(flatten)]
    pub counters: Counters,
    /// How long commands took, from the arrival of their frames to their answers: `read`, `write`,
    /// `flush`.
    pub latency: BTreeMap<String, Histogram>,
    /// Its clients.
    pub clients: Vec<ClientReport>,
}

/// A client of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Its address; none for the sum of those that aren't told apart any more.
    pub mac: Option<String>,
    /// How long nothing came from it.
    pub silent_ms: u64,
    /// Its share of what the export counted.
    #[serde(flatten)]
    pub counters: Counters,
    /// How long its reads, writes and flushes took.
    pub latency: Histogram,
}

/// Counters of an export or of one of its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests executed, by kind: `read`, `write`, `flush`, `other`, `replayed`.
    pub requests: BTreeMap<String, u64>,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Answers of others for the export's address: initiators take both for one disk.
    pub foreign_answers: u64,
    /// Requests that failed or were refused, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Frames that got no answer, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl TargetReport {
    /// Keeps only these exports; everything without names. The names that no export has come back.
    pub fn keep(&mut self, addresses: &[String]) -> Vec<String> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let has = |export: &ExportReport| addresses.contains(&export.address);
        let there = |address: &&String| self.exports.iter().any(|e| e.address == **address);
        let missing = addresses.iter().filter(|address| !there(address)).cloned().collect();
        self.exports.retain(has);
        self.volumes.clear();
        missing
    }
}

impl Counters {
    /// Requests executed.
    pub fn requests_sum(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Requests that failed or were refused.
    pub fn errors_sum(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Frames without an answer.
    pub fn dropped_sum(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Adds others to it.
    pub fn add(&mut self, other: &Counters) {
        for (own, more) in [
            (&mut self.requests, &other.requests),
            (&mut self.errors, &other.errors),
            (&mut self.dropped, &other.dropped),
        ] {
            for (kind, count) in more {
                *own.entry(kind.clone()).or_default() += count;
            }
        }
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.sessions_opened += other.sessions_opened;
        self.foreign_answers += other.foreign_answers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_picked_by_address() {
        let export = |address: &str| ExportReport { address: address.into(), ..Default::default() };
        let all =
            TargetReport { exports: vec![export("e1.0"), export("e1.1")], ..Default::default() };
        let mut report = all.clone();
        assert!(report.keep(&[]).is_empty());
        assert_eq!(report, all);
        assert_eq!(report.keep(&["e1.1".into(), "e9.9".into()]), ["e9.9"]);
        assert_eq!(report.exports, [export("e1.1")]);
    }
}
