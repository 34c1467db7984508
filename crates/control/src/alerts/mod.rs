//! What people are told of without having asked: conditions, each raised once, told again every day while it
//! lasts, and told when it is over. `conditions` says what is wrong now, from reports and events; here is what
//! becomes of it. Pure: whoever calls says what time it is, and delivers what comes out.

mod conditions;
mod config;
mod incidents;
mod meaning;
mod message;
mod slow;
mod wrong;

use std::collections::BTreeMap;

use pool::Severity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use conditions::{Condition, Kind, Seen, conditions};
pub use config::{AlertsConfig, CommandConfig, MailConfig, WebhookConfig};
pub use incidents::Incidents;
pub use message::{
    AlertsReport, Batch, ChannelAnswer, ChannelReport, Message, Step, mail_subject, text_of,
};
pub use slow::{Slow, SlowDisks};
pub use wrong::Wrong;

/// The file in the supervisor's state directory that has them.
pub const ALERTS_FILE: &str = "alerts.json";

/// Alerts that are known at a time; of more the first are kept, and it is said that there are more.
const ALERTS_MAX: usize = 500;
/// What lasts is told again so often.
const REPEAT_SECS: u64 = 24 * 3600;
/// For so long it must be away before it is over; twice as long each time that it comes again within an hour
/// after it was over.
const CLEAR_SECS: u64 = 60;
/// At the longest.
const CLEAR_SECS_MAX: u64 = 4 * 3600;
/// How long what is over is remembered, for those that flap.
const REMEMBER_SECS: u64 = 3600;

/// Something that is, or was a moment ago, wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// What it is.
    #[serde(flatten)]
    pub condition: Condition,
    /// Where it stands.
    pub state: AlertState,
    /// Since when it is so, in seconds since 1970.
    pub since_secs: u64,
    /// When it was seen last.
    pub seen_secs: u64,
    /// When people were told last.
    pub told_secs: u64,
    /// How bad it was when people were told last.
    pub told_severity: Severity,
    /// For how long it must be away before it is over.
    pub clear_secs: u64,
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlertState {
    /// Seen, and not for long enough to be told.
    Pending,
    /// People were told.
    Raised,
    /// It is over.
    Cleared,
}

/// All alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alerts {
    alerts: BTreeMap<String, Alert>,
    /// What happened once and is wrong for a while.
    pub incidents: Incidents,
    #[serde(skip)]
    overflown: bool,
}

impl Alerts {
    /// Takes what is wrong now, with what happened lately; returns what people are to be told. What isn't known for the moment, because
    /// `is_known` says no of its kind, stays as it was.
    pub fn step(
        &mut self,
        now_secs: u64,
        mut conditions: Vec<Condition>,
        is_known: impl Fn(Kind) -> bool,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        self.overflown = false;
        conditions.extend(self.incidents.conditions(now_secs));
        for condition in conditions {
            self.see(now_secs, condition, &mut messages);
        }
        for alert in self.alerts.values_mut() {
            if alert.seen_secs != now_secs && !is_known(alert.condition.kind) {
                alert.seen_secs = now_secs;
            }
            // A clock that was set back mustn't keep it for ever.
            alert.seen_secs = alert.seen_secs.min(now_secs);
            alert.told_secs = alert.told_secs.min(now_secs);
            let away = now_secs - alert.seen_secs;
            let is_over = away >= alert.clear_secs;
            match alert.state {
                AlertState::Raised if is_over => {
                    alert.state = AlertState::Cleared;
                    alert.told_secs = now_secs;
                    messages.push(Message::of(alert, Step::Cleared, now_secs));
                }
                AlertState::Raised if now_secs - alert.told_secs >= REPEAT_SECS => {
                    alert.told_secs = now_secs;
                    messages.push(Message::of(alert, Step::Repeated, now_secs));
                }
                _ => {}
            }
        }
        self.alerts.retain(|_, alert| match alert.state {
            AlertState::Pending => alert.seen_secs == now_secs,
            AlertState::Raised => true,
            AlertState::Cleared => now_secs - alert.told_secs < REMEMBER_SECS.max(alert.clear_secs),
        });
        messages
    }

    fn see(&mut self, now_secs: u64, condition: Condition, messages: &mut Vec<Message>) {
        let key = condition.key();
        let Some(alert) = self.alerts.get_mut(&key) else {
            if self.alerts.len() >= ALERTS_MAX {
                self.overflown = true;
                return;
            }
            let mut alert = Alert {
                state: AlertState::Pending,
                since_secs: now_secs,
                seen_secs: now_secs,
                told_secs: now_secs,
                told_severity: condition.severity,
                clear_secs: CLEAR_SECS,
                condition,
            };
            if alert.condition.kind.hold_secs() == 0 {
                alert.raise(now_secs, messages);
            }
            self.alerts.insert(key, alert);
            return;
        };
        alert.condition = condition;
        alert.seen_secs = now_secs;
        // A clock that was set back mustn't keep it from being told.
        alert.since_secs = alert.since_secs.min(now_secs);
        match alert.state {
            AlertState::Pending => {
                let waited = now_secs.saturating_sub(alert.since_secs);
                if waited >= alert.condition.kind.hold_secs() {
                    alert.raise(now_secs, messages);
                }
            }
            AlertState::Raised if alert.condition.severity > alert.told_severity => {
                alert.told_secs = now_secs;
                alert.told_severity = alert.condition.severity;
                messages.push(Message::of(alert, Step::Worse, now_secs));
            }
            AlertState::Raised => {}
            AlertState::Cleared => {
                alert.state = AlertState::Pending;
                alert.since_secs = now_secs;
                alert.clear_secs = (alert.clear_secs * 2).min(CLEAR_SECS_MAX);
                if alert.condition.kind.hold_secs() == 0 {
                    alert.raise(now_secs, messages);
                }
            }
        }
    }

    /// Those that people were told of, the worst first, then the oldest.
    pub fn raised(&self) -> Vec<&Alert> {
        let mut raised: Vec<&Alert> =
            self.alerts.values().filter(|alert| alert.state == AlertState::Raised).collect();
        raised.sort_by_key(|alert| (std::cmp::Reverse(alert.condition.severity), alert.since_secs));
        raised
    }

    /// Whether there were more than are kept.
    pub fn is_overflown(&self) -> bool {
        self.overflown
    }
}

impl Alert {
    fn raise(&mut self, now_secs: u64, messages: &mut Vec<Message>) {
        self.state = AlertState::Raised;
        self.told_secs = now_secs;
        self.told_severity = self.condition.severity;
        messages.push(Message::of(self, Step::Raised, now_secs));
    }
}

#[cfg(test)]
#[path = "alerts_tests.rs"]
mod tests;
