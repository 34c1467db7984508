//! What the target asks of the devices behind its exports, and for whom.

use block::{Answer, Completion, IoError, Operation};

use crate::ExportId;
use crate::merge::Kind;
use crate::meter::Origin;
use crate::plain::PlainWork;
use crate::plain::change::ChangeWork;
use crate::plain::remembered::Remembered;
use crate::plain::smart::{SmartCommand, SmartReply};
use crate::queue::Ticket;
use crate::session::{OpenWork, SessionWork};
use aoe_wire::MacAddr;

/// The number of a request to a device, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId {
    /// Whose device.
    pub export: ExportId,
    pub(crate) ticket: Ticket,
}

/// A request to the device of an export.
#[derive(Clone, Debug)]
pub struct IoRequest {
    /// To be given back with the answer.
    pub id: IoId,
    /// What to do.
    pub operation: IoOperation,
}

/// What to do. Requests that are out at the same time don't overlap.
#[derive(Clone, Debug)]
pub enum IoOperation {
    /// The device's business.
    Device(Operation),
    /// Ask the disk itself. The answer's instance means nothing.
    Smart(SmartCommand),
    /// Put on stable storage what clients left with the export; the answer's instance means nothing.
    Remember(Remembered),
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoValue {
    /// By the device; that something is done, also by others.
    Device(Answer),
    /// By the disk itself.
    Smart(SmartReply),
}

/// The end of a request.
pub type IoResult = Result<Completion<IoValue>, IoError>;

/// A command in the queue of an export.
pub(crate) enum Work {
    Plain(PlainWork),
    Session(SessionWork),
    Open(OpenWork),
    Change(ChangeWork),
    /// A flush that nobody asked for: the write cache was switched off by the administrator.
    FlushCache,
    /// In the place of a command while it is being started.
    Started,
}

impl Work {
    /// Who asked for it.
    pub(crate) fn origin(&self) -> Option<Origin> {
        match self {
            Work::Plain(work) => Some(work.origin),
            Work::Session(work) => Some(work.origin),
            Work::Open(work) => Some(work.origin),
            Work::Change(work) => Some(work.origin),
            Work::FlushCache | Work::Started => None,
        }
    }

    /// Whose rate it counts for, and its bytes. What holds up everybody isn't held up itself.
    pub(crate) fn cost(&self) -> Option<(MacAddr, u64)> {
        match self {
            Work::Plain(work) => work.cost().map(|bytes| (work.origin.client.mac, bytes)),
            Work::Session(work) => work.cost().map(|bytes| (work.origin.client.mac, bytes)),
            Work::Open(_) | Work::Change(_) | Work::FlushCache | Work::Started => None,
        }
    }

    /// Whether it is nothing but sectors that are moved, and which way.
    pub(crate) fn transfers(&self) -> Option<Kind> {
        match self {
            Work::Plain(work) => work.transfers(),
            Work::Session(work) => work.transfers(),
            _ => None,
        }
    }

    /// The device is asked for it.
    pub(crate) fn begin(&mut self) {
        match self {
            Work::Plain(work) => work.begun = true,
            Work::Session(work) => work.begun = true,
            _ => {}
        }
    }

    /// Whose change of the disk is with the device, if the protocol's lists are for that client.
    pub(crate) fn begun_by(&self) -> Option<MacAddr> {
        match self {
            Work::Plain(work) => work.begun_by(),
            Work::Session(work) => work.begun_by(),
            _ => None,
        }
    }

    /// Whether its answers come from the device that the export's instance and fate depend on.
    pub(crate) fn is_of_device(&self) -> bool {
        match self {
            Work::Plain(work) => !work.is_smart(),
            Work::Change(_) => false,
            Work::Session(_) | Work::Open(_) | Work::FlushCache | Work::Started => true,
        }
    }
}

/// What becomes of a command whose turn has come.
pub(crate) enum Start {
    /// The device is asked.
    Io(IoOperation),
    /// It has been answered without the device.
    Answered,
}
