//! What goes to people: messages, several of them together, as text and as JSON.

use block::{CalendarTime, spoken};
use pool::Severity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Alert, Kind};

/// What happened to an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It is wrong from now on.
    Raised,
    /// It is worse than it was.
    Worse,
    /// It is still wrong.
    Repeated,
    /// It is over.
    Cleared,
    /// Nothing is wrong: somebody tries whether messages arrive.
    Test,
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// What happened to it.
    pub step: Step,
    /// What is wrong; none of a test.
    pub kind: Option<Kind>,
    /// The pool, if it is one's.
    pub pool: Option<String>,
    /// The disk, volume or whatever else of it.
    pub subject: String,
    /// How bad it is, or was.
    pub severity: Severity,
    /// As a sentence.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// Since when, in seconds since 1970.
    pub since_secs: u64,
    /// When this was said.
    pub at_secs: u64,
}

impl Message {
    pub(super) fn of(alert: &Alert, step: Step, now_secs: u64) -> Message {
        let condition = alert.condition.clone();
        Message {
            step,
            kind: Some(condition.kind),
            pool: condition.pool,
            subject: condition.subject,
            severity: condition.severity,
            text: condition.text,
            remedy: condition.remedy,
            since_secs: alert.since_secs,
            at_secs: now_secs,
        }
    }

    /// One that says that nothing is wrong.
    pub fn test(now_secs: u64) -> Message {
        Message {
            step: Step::Test,
            kind: None,
            pool: None,
            subject: String::new(),
            severity: Severity::Info,
            text: "this is a test: messages of etherpool arrive here".to_owned(),
            remedy: String::new(),
            since_secs: now_secs,
            at_secs: now_secs,
        }
    }

    /// Its id in the catalogue.
    pub fn id(&self) -> &'static str {
        self.kind.map_or("test", Kind::name)
    }

    /// The disk that it is about, if it is one.
    pub fn disk(&self) -> Option<&str> {
        self.kind.filter(|kind| kind.is_of_disk()).map(|_| self.subject.as_str())
    }

    /// The volume that it is about, if it is one.
    pub fn volume(&self) -> Option<&str> {
        // What services have to do without a volume has no pool either.
        let kind = self.kind.filter(|kind| kind.is_of_volume() && self.pool.is_some());
        kind.map(|_| self.subject.as_str())
    }

    /// In one line.
    pub fn line(&self) -> String {
        let lasted = std::time::Duration::from_secs(self.at_secs.saturating_sub(self.since_secs));
        match self.step {
            Step::Raised | Step::Worse => format!("{}: {}", self.severity.word(), self.text),
            Step::Repeated => {
                format!("{}: still, since {}: {}", self.severity.word(), spoken(lasted), self.text)
            }
            Step::Cleared => format!("over, after {}: {}", spoken(lasted), self.text),
            Step::Test => self.text.clone(),
        }
    }
}

/// Messages that are delivered together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Batch {
    /// The machine of the supervisor.
    pub host: String,
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// How many more there were than could be kept while they couldn't be delivered.
    pub lost: u64,
}

/// A mail's subject.
pub fn mail_subject(batch: &Batch) -> String {
    let worst = batch.messages.iter().max_by_key(|m| (m.step != Step::Cleared, m.severity));
    let line = worst.map(Message::line).unwrap_or_default();
    let mut subject: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((end, _)) = subject.char_indices().nth(120) {
        subject.truncate(end);
        subject.push_str("...");
    }
    match batch.messages.len() {
        0 | 1 => format!("etherpool on {}: {subject}", batch.host),
        count => format!("etherpool on {}: {subject} (and {} more)", batch.host, count - 1),
    }
}

/// What a person reads.
pub fn text_of(batch: &Batch) -> String {
    let mut text = String::new();
    for message in &batch.messages {
        let since = CalendarTime::since_1970(message.since_secs);
        text.push_str(&format!("{}\n    since {since} UTC\n", message.line()));
        if !message.remedy.is_empty() && message.step != Step::Cleared {
            text.push_str(&format!("    {}\n", message.remedy));
        }
        text.push('\n');
    }
    if batch.lost > 0 {
        text.push_str(&format!("{} more messages were lost.\n\n", batch.lost));
    }
    text.push_str(&format!(
        "The supervisor on {}; all that lasts: etherpool alert list\n",
        batch.host
    ));
    text
}

/// How a way to people does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelReport {
    /// `journal`, `mail to root`, `webhook URL`, `command PROGRAM`.
    pub name: String,
    /// Whether it reaches a person.
    pub reaches_people: bool,
    /// Messages that it delivered since the services began.
    pub delivered: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Messages that were given up.
    pub lost: u64,
    /// Messages that wait.
    pub waiting: u64,
    /// What went wrong the last time, until one is delivered again.
    pub trouble: Option<String>,
}

/// `GET /v2/alerts`, and part of the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AlertsReport {
    /// What is wrong, the worst first.
    pub raised: Vec<Alert>,
    /// Whether there is more than is kept.
    pub more: bool,
    /// The ways to people.
    pub channels: Vec<ChannelReport>,
}

/// What a channel answered to a test. `POST /v2/alerts/test` answers with a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelAnswer {
    /// Its name.
    pub channel: String,
    /// Whether it took the message.
    pub delivered: bool,
    /// What it said.
    pub answer: String,
}
