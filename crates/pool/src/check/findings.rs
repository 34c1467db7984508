//! Collecting findings without letting a wrecked disk fill memory: neighbours become one, and of each
//! kind only so many are listed.

use std::collections::BTreeMap;

use super::report::{Counts, Finding, Kind, Severity};

/// Findings of one kind and severity that are listed.
const LISTED_MAX: u64 = 200;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    seen: BTreeMap<(Kind, Severity), u64>,
    counts: Counts,
}

/// A finding that is being described.
pub(super) fn finding(
    severity: Severity,
    kind: Kind,
    what: impl Into<String>,
    means: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        kind,
        what: what.into(),
        means: means.into(),
        disk: None,
        disk_offset_bytes: None,
        bytes: None,
        volume: None,
        volume_offset_bytes: None,
    }
}

impl Finding {
    /// On this disk.
    pub(super) fn on(mut self, disk: &str) -> Finding {
        self.disk = Some(disk.to_owned());
        self
    }

    /// So many bytes from there on.
    pub(super) fn at(mut self, offset: u64, bytes: u64) -> Finding {
        self.disk_offset_bytes = Some(offset);
        self.bytes = Some(bytes);
        self
    }

    /// Of this volume.
    pub(super) fn of(mut self, volume: &str) -> Finding {
        self.volume = Some(volume.to_owned());
        self
    }

    /// There in the volume.
    pub(super) fn volume_at(mut self, volume_offset: Option<u64>) -> Finding {
        self.volume_offset_bytes = volume_offset;
        self
    }
}

impl Findings {
    /// Adds one.
    pub(super) fn add(&mut self, found: Finding) {
        if self.list.last_mut().is_some_and(|last| continues(last, &found)) {
            return;
        }
        match found.severity {
            Severity::Damage => self.counts.damage += 1,
            Severity::Redundancy => self.counts.redundancy += 1,
            Severity::Note => self.counts.notes += 1,
        }
        let seen = self.seen.entry((found.kind, found.severity)).or_default();
        *seen += 1;
        if *seen <= LISTED_MAX {
            self.list.push(found);
        }
    }

    /// Adds what another collection has.
    pub(super) fn take(&mut self, other: Findings) {
        other.list.into_iter().for_each(|found| self.add(found));
    }

    /// Whether no more of a kind are listed.
    pub(super) fn is_full(&self, kind: Kind, severity: Severity) -> bool {
        self.seen.get(&(kind, severity)).is_some_and(|seen| *seen >= LISTED_MAX)
    }

    /// All of them, the worst first, and how many there were.
    pub(super) fn into_list(mut self) -> (Vec<Finding>, Counts) {
        for ((kind, severity), seen) in &self.seen {
            if *seen > LISTED_MAX {
                let what = format!("{} more of the kind {kind:?}", seen - LISTED_MAX);
                let means = "they are counted and not listed";
                self.list.push(finding(*severity, Kind::More, what, means));
            }
        }
        // Stable: within a severity in the order of the disks.
        self.list.sort_by_key(|found| std::cmp::Reverse(found.severity));
        (self.list, self.counts)
    }
}

/// Makes rows that follow each other one finding.
fn continues(last: &mut Finding, found: &Finding) -> bool {
    let end = |from: Option<u64>, bytes: Option<u64>| from?.checked_add(bytes?);
    let follows = found.kind == Kind::Row
        && (last.kind, last.severity) == (found.kind, found.severity)
        && (&last.disk, &last.volume, &last.what) == (&found.disk, &found.volume, &found.what)
        && found.disk_offset_bytes.is_some()
        && end(last.disk_offset_bytes, last.bytes) == found.disk_offset_bytes
        && end(last.volume_offset_bytes, last.bytes) == found.volume_offset_bytes;
    if follows {
        last.bytes = end(last.bytes, found.bytes);
    }
    follows
}
