//! `GET /v2/events`: what happens, a line each.

use pool::{PoolEvent, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A line of the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EventLine {
    /// Something that happened, as the history tells it too.
    Happened {
        /// What.
        #[serde(flatten)]
        event: PoolEvent,
        /// When, in seconds since 1970.
        at_secs: u64,
        /// How bad it is.
        severity: Severity,
        /// As a sentence.
        text: String,
    },
    /// What whoever reads this was too slow for.
    Missed(Missed),
    /// What another version tells.
    #[schemars(skip)]
    Other(Map<String, Value>),
}

/// Events that aren't told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Missed {
    /// There were some.
    Lost {
        /// How many.
        count: u64,
    },
}

impl EventLine {
    /// Of what happened.
    pub fn of(event: PoolEvent, at_secs: u64) -> EventLine {
        let (severity, text) = (event.severity(), event.to_string());
        EventLine::Happened { event, at_secs, severity, text }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pool::PoolState;
    use serde_json::json;

    #[test]
    fn what_happens_is_told_with_its_sentence_and_read_as_it_was() {
        let (pool, disk) = ("tank".to_owned(), "e1.0".to_owned());
        let state = PoolState::Suspended { why: "2 of 5 votes".to_owned() };
        for event in [
            PoolEvent::DiskOffline { pool: pool.clone(), disk },
            PoolEvent::PoolState { pool, state },
        ] {
            let line = EventLine::of(event.clone(), 7);
            let told = serde_json::to_value(&line).unwrap();
            assert_eq!((&told["event"], &told["pool"]), (&event.about().0.into(), &"tank".into()));
            assert_eq!((&told["at_secs"], &told["text"]), (&7.into(), &event.to_string().into()));
            assert_eq!(serde_json::from_value::<EventLine>(told).unwrap(), line);
        }
    }

    #[test]
    fn what_is_missed_and_what_another_version_tells_is_read_too() {
        let read = |told: &Value| serde_json::from_value::<EventLine>(told.clone()).unwrap();
        let lost = json!({"event": "lost", "count": 3});
        assert_eq!(read(&lost), EventLine::Missed(Missed::Lost { count: 3 }));
        let later = json!({"event": "disk-sang", "pool": "tank", "at_secs": 7, "severity": "odd"});
        // So does a supervisor of version 0.1.
        let former = json!({"event": "scrub-begun", "pool": "tank"});
        for told in [later, former] {
            let line = read(&told);
            assert!(matches!(line, EventLine::Other(_)), "{line:?}");
            assert_eq!(serde_json::to_value(line).unwrap(), told);
        }
    }
}
