//! What happened to a pool, and who had what done to it: kept in the pool itself, so that it goes where the pool
//! goes. It is bounded, and what repeats is kept ever more seldom, with a count: neither a disk that comes and
//! goes nor a client that reads what is lost over and over drives out what happened before, or costs the pool
//! more than a small commit now and then.
//!
//! It lies in properties of the pool, `history-0` to `history-31`, which are written in turn. Of each the first line
//! is the number of its turn, every other one an entry: fields between tabs. What can't be read is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use block::{HealthState, Instant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metadata::{MetaRecord, Metadata};
use crate::report::PoolEvent;

/// How bad something is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing need be done.
    #[default]
    Info,
    /// Something is to be looked at; all data is there and is served.
    Warning,
    /// Data isn't served, or is lost.
    Error,
}

impl Severity {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something that happened, or that somebody had done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryEntry {
    /// When, the last time if it happened several times: seconds since 1970, by the clock of who owned the pool.
    pub at_secs: u64,
    /// How often it happened since the entry of its kind before.
    pub count: u64,
    /// How bad it is.
    pub severity: Severity,
    /// `command`, or the event's name.
    pub event: String,
    /// Who gave the command; none of an event.
    pub who: Option<String>,
    /// What the command did, or why it didn't; none of an event.
    pub result: Option<String>,
    /// The command, or what happened, as a sentence.
    pub text: String,
}

/// Properties that it takes.
const CHUNKS: u64 = 32;
/// Bytes of each: what a commit of entries costs.
const CHUNK_BYTES_MAX: usize = 4096;
/// What begins their names.
const KEY: &str = "history-";
/// Longest field of an entry.
const FIELD_BYTES_MAX: usize = 400;

/// All entries of a pool, the oldest first.
pub(crate) fn entries(meta: &Metadata) -> Vec<HistoryEntry> {
    let chunks = chunks(meta);
    chunks.values().flat_map(|text| text.lines().skip(1).filter_map(decode)).collect()
}

/// The records that keep further entries.
pub(crate) fn records(meta: &Metadata, entries: &[HistoryEntry]) -> Vec<MetaRecord> {
    let newest = chunks(meta).pop_last();
    let (mut turn, mut text) = newest.map_or_else(|| new_chunk(0), |(turn, t)| (turn, t.clone()));
    let mut changed = BTreeMap::new();
    for entry in entries {
        let line = encode(entry);
        if text.len() + line.len() > CHUNK_BYTES_MAX {
            (turn, text) = new_chunk(turn.wrapping_add(1));
        }
        text.push_str(&line);
        changed.insert(turn, text.clone());
    }
    // Of more than there is room for the last are kept.
    let surplus = changed.len().saturating_sub(CHUNKS as usize);
    let kept = changed.into_iter().skip(surplus);
    let set = kept.map(|(turn, text)| MetaRecord::PoolPropertySet {
        key: format!("{KEY}{}", turn % CHUNKS),
        value: Some(text),
    });
    set.collect()
}

fn new_chunk(turn: u64) -> (u64, String) {
    (turn, format!("{turn}\n"))
}

/// What there is, by turn. Whatever wrote it, it is no more than what is looked for.
fn chunks(meta: &Metadata) -> BTreeMap<u64, &String> {
    let keys = (0..CHUNKS).map(|index| format!("{KEY}{index}"));
    let texts = keys.filter_map(|key| meta.properties().get(&key));
    let known = texts.filter_map(|text| Some((text.lines().next()?.parse().ok()?, text)));
    known.collect()
}

fn encode(entry: &HistoryEntry) -> String {
    let HistoryEntry { at_secs, count, severity, event, who, result, text } = entry;
    let [who, result] = [who, result].map(|field| field.as_deref().unwrap_or_default());
    let [event, who, result, text] = [event, who, result, text].map(cut);
    format!("{at_secs}\t{count}\t{}\t{event}\t{who}\t{result}\t{text}\n", severity.word())
}

fn decode(line: &str) -> Option<HistoryEntry> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let at_secs = next()?.parse().ok()?;
    let count = next()?.parse().ok()?;
    let severity = match next()? {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        _ => Severity::Info,
    };
    let event = next()?.to_owned();
    let mut some = || next().map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
    let (who, result) = (some()?, some()?);
    Some(HistoryEntry { at_secs, count, severity, event, who, result, text: some()?? })
}

/// Without what would end a field, and not too long.
fn cut(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars() {
        if short.len() + c.len_utf8() > FIELD_BYTES_MAX {
            short.push_str("...");
            break;
        }
        short.push(if c.is_control() { ' ' } else { c });
    }
    short
}

impl PoolEvent {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            PoolEvent::DiskOut { .. }
            | PoolEvent::DiskRefused { .. }
            | PoolEvent::RolledBack { .. }
            | PoolEvent::RebuildWaits { .. }
            | PoolEvent::DomainsJoined { .. }
            | PoolEvent::Repaired { .. }
            | PoolEvent::StructureRepaired { .. }
            | PoolEvent::StructureDamaged { .. }
            | PoolEvent::VolumeSuspended { .. } => Severity::Warning,
            PoolEvent::Unrepairable { .. }
            | PoolEvent::DiskHealth { health: HealthState::Failing, .. } => Severity::Error,
            PoolEvent::DiskHealth { health: HealthState::Ageing, .. } => Severity::Warning,
            _ => Severity::Info,
        }
    }

    /// What it is called, the pool that it is about, and what of that: a disk, a volume.
    pub fn about(&self) -> (&'static str, &str, &str) {
        match self {
            PoolEvent::PoolState { pool, state } => ("pool-state", pool, state.word()),
            PoolEvent::Owned { pool, .. } => ("owned", pool, ""),
            PoolEvent::Command { pool, what, .. } => ("command", pool, what),
            PoolEvent::DiskOut { pool, disk, .. } => ("disk-out", pool, disk),
            PoolEvent::DiskIn { pool, disk, .. } => ("disk-in", pool, disk),
            PoolEvent::DiskOffline { pool, disk } => ("disk-offline", pool, disk),
            PoolEvent::DiskOnline { pool, disk } => ("disk-online", pool, disk),
            PoolEvent::VotesMoved { pool, .. } => ("votes-moved", pool, ""),
            PoolEvent::JobBegun { pool, disk, .. } => ("job-begun", pool, disk),
            PoolEvent::JobDone { pool, disk, .. } => ("job-done", pool, disk),
            PoolEvent::ConversionBegun { pool, volume, .. } => ("conversion-begun", pool, volume),
            PoolEvent::ConversionDone { pool, volume, .. } => ("conversion-done", pool, volume),
            PoolEvent::ScrubBegun { pool } => ("scrub-begun", pool, ""),
            PoolEvent::ScrubDone { pool, .. } => ("scrub-done", pool, ""),
            PoolEvent::RebuildWaits { pool, disk, .. } => ("rebuild-waits", pool, disk),
            PoolEvent::Resynced { pool, disk, .. } => ("resynced", pool, disk),
            PoolEvent::DiskMoved { pool, disk, .. } => ("disk-moved", pool, disk),
            PoolEvent::DiskHealth { pool, disk, .. } => ("disk-health", pool, disk),
            PoolEvent::DomainsJoined { pool, .. } => ("domains-joined", pool, ""),
            PoolEvent::DiskRefused { pool, disk, .. } => {
                ("disk-refused", pool.as_deref().unwrap_or_default(), disk)
            }
            PoolEvent::RolledBack { pool, disk } => ("rolled-back", pool, disk),
            PoolEvent::Repaired { pool, disk, .. } => ("repaired", pool, disk),
            PoolEvent::StructureRepaired { pool, disk, .. } => ("structure-repaired", pool, disk),
            PoolEvent::StructureDamaged { pool, disk, .. } => ("structure-damaged", pool, disk),
            PoolEvent::Unrepairable { pool, volume, .. } => ("unrepairable", pool, volume),
            PoolEvent::VolumeSuspended { pool, volume, .. } => ("volume-suspended", pool, volume),
            PoolEvent::VolumeServing { pool, volume, .. } => ("volume-serving", pool, volume),
        }
    }

    /// The disk that it is about, if it is one.
    pub fn disk(&self) -> Option<&str> {
        match self {
            PoolEvent::DiskOut { disk, .. }
            | PoolEvent::DiskIn { disk, .. }
            | PoolEvent::DiskOffline { disk, .. }
            | PoolEvent::DiskOnline { disk, .. }
            | PoolEvent::JobBegun { disk, .. }
            | PoolEvent::JobDone { disk, .. }
            | PoolEvent::RebuildWaits { disk, .. }
            | PoolEvent::Resynced { disk, .. }
            | PoolEvent::DiskMoved { disk, .. }
            | PoolEvent::DiskHealth { disk, .. }
            | PoolEvent::DiskRefused { disk, .. }
            | PoolEvent::RolledBack { disk, .. }
            | PoolEvent::Repaired { disk, .. }
            | PoolEvent::StructureRepaired { disk, .. }
            | PoolEvent::StructureDamaged { disk, .. } => {
                // A rebalance is of none.
                Some(disk.as_str()).filter(|disk| !disk.is_empty())
            }
            _ => None,
        }
    }

    /// The volume that it is about, if it is one.
    pub fn volume(&self) -> Option<&str> {
        match self {
            PoolEvent::ConversionBegun { volume, .. }
            | PoolEvent::ConversionDone { volume, .. }
            | PoolEvent::Repaired { volume, .. }
            | PoolEvent::Unrepairable { volume, .. }
            | PoolEvent::VolumeSuspended { volume, .. }
            | PoolEvent::VolumeServing { volume, .. } => Some(volume),
            _ => None,
        }
    }

    /// As it is kept, at a time since 1970.
    pub fn entry(&self, at: Duration) -> HistoryEntry {
        let (who, result, text) = match self {
            PoolEvent::Command { who, what, result, .. } => {
                (Some(who.clone()), Some(result.clone()), what.clone())
            }
            _ => (None, None, self.to_string()),
        };
        let event = self.about().0.to_owned();
        let severity = self.severity();
        HistoryEntry { at_secs: at.as_secs(), count: 1, severity, event, who, result, text }
    }
}

/// What repeats is told again after so long, then after twice as long each time.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// At the longest.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Different things of a pool that are told apart at a time.
const KINDS_MAX: usize = 256;
/// Entries of a pool that wait to be kept.
const WAITING_MAX: usize = 64;

/// What isn't kept yet of the pools that are open here, by name.
#[derive(Default)]
pub(crate) struct Recorder {
    pools: BTreeMap<String, Waiting>,
}

#[derive(Default)]
struct Waiting {
    kinds: BTreeMap<(&'static str, String), Kind>,
    entries: Vec<HistoryEntry>,
    /// Those that were taken and aren't known to be kept.
    taken: Vec<HistoryEntry>,
    /// Entries that there was no room for.
    lost: u64,
}

struct Kind {
    told: Instant,
    pause: Duration,
    /// What came since.
    held: Option<HistoryEntry>,
}

impl Recorder {
    /// A pool is open from now on.
    pub(crate) fn begin(&mut self, pool: &str) {
        self.pools.entry(pool.to_owned()).or_default();
    }

    /// It is closed: nobody would keep what is noted of it.
    pub(crate) fn end(&mut self, pool: &str) {
        self.pools.remove(pool);
    }

    /// Takes note of an event at a time, which is so much since 1970.
    pub(crate) fn note(&mut self, event: &PoolEvent, now: Instant, calendar: Duration) {
        let (name, pool, subject) = event.about();
        if let Some(waiting) = self.pools.get_mut(pool) {
            waiting.note((name, subject.to_owned()), event.entry(calendar), now);
        }
    }

    /// What is to be kept of a pool by now; with `all`, also what would be held back.
    pub(crate) fn take(&mut self, pool: &str, now: Instant, all: bool) -> Vec<HistoryEntry> {
        self.pools.get_mut(pool).map(|waiting| waiting.take(now, all)).unwrap_or_default()
    }

    /// What isn't kept yet, as far as it is told.
    pub(crate) fn waiting(&self, pool: &str) -> Vec<HistoryEntry> {
        let Some(waiting) = self.pools.get(pool) else { return Vec::new() };
        waiting.taken.iter().chain(&waiting.entries).cloned().collect()
    }

    /// What was taken is kept by now.
    pub(crate) fn kept(&mut self, pool: &str) {
        if let Some(waiting) = self.pools.get_mut(pool) {
            waiting.taken.clear();
        }
    }
}

impl Waiting {
    fn note(&mut self, key: (&'static str, String), entry: HistoryEntry, now: Instant) {
        match self.kinds.get_mut(&key) {
            Some(kind) if kind.held.is_some() || now.since(kind.told) < kind.pause => {
                let before = kind.held.as_ref().map_or(0, |held| held.count);
                kind.held = Some(HistoryEntry { count: before.saturating_add(1), ..entry });
                return;
            }
            Some(kind) => kind.tell(now),
            None => {
                if self.kinds.len() >= KINDS_MAX {
                    // The one that is due first; what it holds is told now.
                    let due = |kind: &Kind| kind.told + kind.pause;
                    let first = self.kinds.iter().min_by_key(|(_, kind)| due(kind));
                    let first = first.map(|(key, _)| key.clone());
                    let gone = first.and_then(|key| self.kinds.remove(&key));
                    gone.and_then(|kind| kind.held).into_iter().for_each(|held| self.push(held));
                }
                self.kinds.insert(key, Kind { told: now, pause: PAUSE_MIN, held: None });
            }
        }
        self.push(entry);
    }

    fn push(&mut self, entry: HistoryEntry) {
        match self.entries.len() < WAITING_MAX {
            true => self.entries.push(entry),
            false => self.lost = self.lost.saturating_add(entry.count),
        }
    }

    fn take(&mut self, now: Instant, all: bool) -> Vec<HistoryEntry> {
        let mut taken = std::mem::take(&mut self.entries);
        for kind in self.kinds.values_mut() {
            if !all && now.since(kind.told) < kind.pause {
                continue;
            }
            if let Some(held) = kind.held.take() {
                taken.push(held);
                kind.tell(now);
            }
        }
        self.kinds.retain(|_, kind| now.since(kind.told) < PAUSE_MAX);
        taken.sort_by_key(|entry| entry.at_secs);
        if let (true, Some(last)) = (self.lost > 0, taken.last()) {
            let text = format!("{} more events than could be kept", std::mem::take(&mut self.lost));
            let event = "lost".to_owned();
            taken.push(HistoryEntry { event, text, count: 1, who: None, ..last.clone() });
        }
        self.taken.clone_from(&taken);
        taken
    }
}

impl Kind {
    /// It is told now. What comes at last once an hour is told at once the next time.
    fn tell(&mut self, now: Instant) {
        let was_quiet = now.since(self.told) >= PAUSE_MAX && self.pause < PAUSE_MAX;
        self.pause = if was_quiet { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        self.told = now;
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
