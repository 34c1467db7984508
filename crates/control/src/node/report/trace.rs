//! The log of requests as lines.

use aoe_target::{TraceRecord, TracedCommand, TracedStatus};
use serde::{Deserialize, Serialize};

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// When it was answered, in microseconds since the machine started.
    pub at_us: u64,
    /// Of which export.
    pub export: String,
    /// Who asked.
    pub client: String,
    /// The client's own number for it.
    pub tag: u32,
    /// What it asked: ATA's or the protocol's name of the command.
    pub command: String,
    /// From which sector on.
    pub lba: u64,
    /// For how many sectors.
    pub count: u32,
    /// `done`, or how it ended otherwise.
    pub status: String,
    /// How long that took.
    pub took_us: u64,
}

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceNews {
    /// A request.
    Request(TraceLine),
    /// So many were lost here because the listener was slow.
    Lost(u64),
}

impl From<&TraceRecord> for TraceLine {
    fn from(record: &TraceRecord) -> TraceLine {
        let micros = |nanos: u128| u64::try_from(nanos / 1000).unwrap_or(u64::MAX);
        TraceLine {
            at_us: record.at.as_nanos() / 1000,
            export: record.address.to_string(),
            client: record.client.to_string(),
            tag: record.tag,
            command: match record.command {
                TracedCommand::Ata(command) => command.to_string(),
                TracedCommand::Session(operation) => format!("session {operation:?}"),
                TracedCommand::Other(command) => format!("{command:?}"),
            },
            lba: record.lba.0,
            count: record.count,
            status: match record.status {
                TracedStatus::Done => "done".to_owned(),
                TracedStatus::Ata { status, error } => {
                    format!("status {status:#04x} error {error:#04x}")
                }
                TracedStatus::Aoe(error) => format!("AoE error: {error:?}"),
                TracedStatus::Session(status) => format!("{status:?}"),
                TracedStatus::Dropped(why) => format!("dropped: {why:?}"),
            },
            took_us: micros(record.took.as_nanos()),
        }
    }
}

impl std::fmt::Display for TraceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, micros) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        write!(f, "{seconds}.{micros:06} {} {} {:08x}", self.export, self.client, self.tag)?;
        write!(f, " {} {}+{}", self.command, self.lba, self.count)?;
        write!(f, " {} {} us", self.status, self.took_us)
    }
}
