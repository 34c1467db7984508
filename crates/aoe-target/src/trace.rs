//! The log of requests: a record of each one that was answered or dropped, for those exports whose
//! settings ask for it, and for all while somebody listens. Records that nobody fetches in time are
//! counted and gone; requests never wait for them.

use std::fmt;
use std::time::Duration;

use block::{Instant, Lba};
use runtime::EventQueue;

use crate::ExportId;
use crate::export::Export;
use crate::stats::Counter;
use aoe_wire::PortId;
use aoe_wire::{
    AoeError, AtaCommand, AtaReply, AtaRequest, Command, Header, MacAddr, Operation,
    SessionRequest, ShelfSlot, Status,
};

/// Records that may wait to be fetched.
const RECORDS_MAX: usize = 4096;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedCommand {
    /// An ATA command.
    Ata(AtaCommand),
    /// A command of a session.
    Session(Operation),
    /// Any other, or one that couldn't be read.
    Other(Command),
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedStatus {
    /// It was done.
    Done,
    /// The disk, or its settings, said no: ATA's status and error registers.
    Ata {
        /// Status.
        status: u8,
        /// Error.
        error: u8,
    },
    /// It made no sense, or not here.
    Aoe(AoeError),
    /// How a session's command ended.
    Session(Status),
    /// It got no answer.
    Dropped(Counter),
}

/// A request and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// When it was answered.
    pub at: Instant,
    /// Of which export.
    pub export: ExportId,
    /// At which address.
    pub address: ShelfSlot,
    /// On which port.
    pub port: PortId,
    /// Who asked.
    pub client: MacAddr,
    /// The client's own number for it.
    pub tag: u32,
    /// What it asked.
    pub command: TracedCommand,
    /// From which sector on.
    pub lba: Lba,
    /// For how many sectors.
    pub count: u32,
    /// What became of it.
    pub status: TracedStatus,
    /// How long that took.
    pub took: Duration,
    /// Whether the export's settings ask for the record.
    pub wanted: bool,
}

impl fmt::Display for TraceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} tag {:#010x} ", self.address, self.client, self.tag)?;
        match self.command {
            TracedCommand::Ata(command) => write!(f, "{command} {}+{}", self.lba.0, self.count)?,
            TracedCommand::Session(operation) => {
                write!(f, "session {operation:?} {}+{}", self.lba.0, self.count)?;
            }
            TracedCommand::Other(command) => write!(f, "{command:?}")?,
        }
        match self.status {
            TracedStatus::Done => f.write_str(" done")?,
            TracedStatus::Ata { status, error } => {
                write!(f, " status {status:#04x} error {error:#04x}")?;
            }
            TracedStatus::Aoe(error) => write!(f, " AoE error {error:?}")?,
            TracedStatus::Session(status) => write!(f, " {status:?}")?,
            TracedStatus::Dropped(why) => write!(f, " dropped: {why:?}")?,
        }
        write!(f, " {} us", self.took.as_micros())
    }
}

/// What a record is about; filled in from the request.
#[derive(Clone, Copy)]
pub(crate) struct Traced {
    port: PortId,
    tag: u32,
    command: TracedCommand,
    lba: Lba,
    count: u32,
}

impl Traced {
    pub(crate) fn ata(port: PortId, request: &AtaRequest) -> Traced {
        let (lba, count) = (request.lba(), u32::from(request.count));
        let command = TracedCommand::Ata(request.command);
        Traced { port, tag: request.header.tag, command, lba, count }
    }

    pub(crate) fn session(port: PortId, request: &SessionRequest) -> Traced {
        let command = TracedCommand::Session(request.operation);
        let (lba, count) = (request.lba, request.sectors);
        Traced { port, tag: request.header.tag, command, lba, count }
    }

    /// Of a frame that nobody has looked into.
    pub(crate) fn read(port: PortId, header: &Header, frame: &[u8]) -> Traced {
        match AtaRequest::parse(frame) {
            Ok((request, _)) => Traced::ata(port, &request),
            Err(_) => Traced::other(port, header),
        }
    }

    pub(crate) fn other(port: PortId, header: &Header) -> Traced {
        let command = TracedCommand::Other(header.command);
        Traced { port, tag: header.tag, command, lba: Lba(0), count: 0 }
    }
}

impl TracedStatus {
    pub(crate) fn ata(reply: &AtaReply) -> TracedStatus {
        match reply.is_failure() {
            false => TracedStatus::Done,
            true => TracedStatus::Ata { status: reply.status, error: reply.error },
        }
    }
}

/// The records that wait.
#[derive(Default)]
pub(crate) struct Trace {
    pub records: EventQueue<TraceRecord, RECORDS_MAX>,
    /// Somebody wants to know about every export.
    pub subscribed: bool,
}

impl Trace {
    /// Records what became of a request of the client whose command is being handled.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        export: &Export,
        what: Traced,
        status: TracedStatus,
    ) {
        let wanted = export.options.trace;
        if !wanted && !self.subscribed {
            return;
        }
        let origin = export.meter.origin(now);
        let Traced { port, tag, command, lba, count } = what;
        self.records.push(TraceRecord {
            at: now,
            export: export.id,
            address: export.address(),
            port,
            client: origin.client.mac,
            tag,
            command,
            lba,
            count,
            status,
            took: now.since(origin.arrived),
            wanted,
        });
    }
}
