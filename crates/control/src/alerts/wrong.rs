//! What is wrong at this moment, for whoever asks: also what isn't told yet because it may pass.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use pool::{PoolReport, PoolState, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::{Condition, Kind};
use super::meaning::{for_data, known_since};
use super::{Alert, AlertState, Alerts};

/// Something that is wrong, with all that whoever is woken by it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wrong {
    /// What: the word of a [`Kind`], perhaps of one that only later versions know.
    pub kind: String,
    /// The pool, if it is one's.
    pub pool: Option<String>,
    /// The disk, volume or whatever else of it; empty if it is the whole.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// As a sentence.
    pub text: String,
    /// Since when, in seconds since 1970; as far as it is known.
    pub since_secs: u64,
    /// What it means for data.
    pub data: String,
    /// What to do.
    pub remedy: String,
    /// It may pass by itself: nobody is told of it unasked before it lasted.
    #[serde(default)]
    pub may_pass: bool,
}

impl Alerts {
    /// All that is wrong, the worst first, then the oldest: what was found just now, and what happened lately. Of what
    /// nobody can tell at the moment, because the engine doesn't, what was known last.
    pub fn wrong(
        &self,
        now_secs: u64,
        mut found: Vec<Condition>,
        pools: Option<&[PoolReport]>,
    ) -> Vec<Wrong> {
        let passes: BTreeSet<String> = found.iter().map(Condition::key).collect();
        found.extend(self.incidents.lasting(now_secs));
        passing(&mut found, pools.unwrap_or_default());
        if pools.is_none() {
            let raised = self.raised().into_iter().map(|alert| &alert.condition);
            found.extend(raised.filter(|condition| condition.kind.is_of_pool()).cloned());
        }
        let mut seen = BTreeSet::new();
        found.retain(|condition| seen.insert(condition.key()));
        let lasts = |alert: &Alert| alert.state == AlertState::Raised;
        let lasts = |condition: &Condition| {
            condition.kind.hold_secs() == 0 || self.alerts.get(&condition.key()).is_some_and(lasts)
        };
        // A log that is full for a moment is how writers are held back; one that stays full isn't.
        found.retain(|condition| condition.kind != Kind::LogSpace || lasts(condition));
        let lost: BTreeSet<Option<String>> =
            found.iter().filter(|one| is_loss(one.kind)).map(|one| one.pool.clone()).collect();
        let all = found.into_iter().map(|condition| {
            let alert = self.alerts.get(&condition.key());
            let alert = alert.filter(|alert| alert.state != AlertState::Cleared);
            let noticed = alert.map_or(now_secs, |alert| alert.since_secs);
            let pools = pools.unwrap_or_default();
            let since = known_since(&condition, pools).map_or(noticed, |known| known.min(noticed));
            let data = for_data(&condition, pools, lost.contains(&condition.pool));
            // What nobody is told of doesn't begin to last, nor what there was no room for.
            let is_told = passes.contains(&condition.key()) && !self.overflown;
            let may_pass = is_told && !lasts(&condition);
            let Condition { kind, pool, subject, severity, text, remedy } = condition;
            let since_secs = since.min(now_secs);
            let kind = kind.to_string();
            Wrong { kind, pool, subject, severity, text, since_secs, data, remedy, may_pass }
        });
        let mut all: Vec<Wrong> = all.collect();
        all.sort_by_key(|wrong| (Reverse(wrong.severity), wrong.since_secs));
        all
    }
}

fn is_loss(kind: Kind) -> bool {
    matches!(kind, Kind::LostBlocks | Kind::ScrubDamage)
}

/// What nobody is woken for, because it passes by itself or is of a pool that is only read, and isn't well all the same.
fn passing(found: &mut Vec<Condition>, pools: &[PoolReport]) {
    for pool in pools.iter().filter(|pool| pool.is_ours() && !pool.is_healthy()) {
        let whole = [Kind::PoolSuspended, Kind::PoolDegraded, Kind::PoolNotOpen, Kind::PoolTaken];
        let is_told =
            |one: &Condition| one.pool.as_ref() == Some(&pool.name) && whole.contains(&one.kind);
        if found.iter().any(is_told) {
            continue;
        }
        let name = &pool.name;
        let read_only = if pool.read_only { ", which is only read here," } else { "" };
        let (kind, remedy) = match pool.state {
            PoolState::Opening => (
                Kind::PoolNotOpen,
                format!("it goes on by itself: see `etherpool pool show {name}`"),
            ),
            _ => (Kind::PoolDegraded, format!("see `etherpool pool show {name}`")),
        };
        let lacks = pool.volumes.iter().find_map(|volume| {
            let why = volume.unserved()?;
            Some(format!("; volume {}: {why}", volume.name))
        });
        found.push(Condition {
            kind,
            pool: Some(name.clone()),
            subject: String::new(),
            severity: Severity::Warning,
            text: format!(
                "pool {name}{read_only} is {}{}",
                pool.state_text(),
                lacks.unwrap_or_default()
            ),
            remedy,
        });
    }
}
