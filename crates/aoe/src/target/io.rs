//! What the target asks of the devices behind its exports, and for whom.

use block::{Answer, Completion, IoError, Operation};

use super::change::ChangeWork;
use super::merge::Kind;
use super::meter::Origin;
use super::plain::PlainWork;
use super::queue::Ticket;
use super::remembered::Remembered;
use super::session::{OpenWork, SessionWork};
use super::smart::{SmartCommand, SmartReply};
use super::{ExportId, PortId};
use crate::wire::{Frame, MacAddr};
use std::collections::VecDeque;

/// The number of a request to a device, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId {
    /// Whose device.
    pub export: ExportId,
    pub(super) ticket: Ticket,
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
pub(super) enum Work {
    Plain(PlainWork),
    Session(SessionWork),
    Open(OpenWork),
    Change(ChangeWork),
    /// A flush that nobody asked for: the write cache was switched off by the administrator.
    Settle,
    /// In the place of a command while it is being started.
    Started,
}

impl Work {
    /// Who asked for it.
    pub(super) fn origin(&self) -> Option<Origin> {
        match self {
            Work::Plain(work) => Some(work.origin),
            Work::Session(work) => Some(work.origin),
            Work::Open(work) => Some(work.origin),
            Work::Change(work) => Some(work.origin),
            Work::Settle | Work::Started => None,
        }
    }

    /// Whose rate it counts for, and its bytes. What holds up everybody isn't held up itself.
    pub(super) fn cost(&self) -> Option<(MacAddr, u64)> {
        match self {
            Work::Plain(work) => work.cost().map(|bytes| (work.origin.client.mac, bytes)),
            Work::Session(work) => work.cost().map(|bytes| (work.origin.client.mac, bytes)),
            Work::Open(_) | Work::Change(_) | Work::Settle | Work::Started => None,
        }
    }

    /// Whether it is nothing but sectors that are moved, and which way.
    pub(super) fn transfers(&self) -> Option<Kind> {
        match self {
            Work::Plain(work) => work.transfers(),
            Work::Session(work) => work.transfers(),
            _ => None,
        }
    }

    /// The device is asked for it.
    pub(super) fn begin(&mut self) {
        match self {
            Work::Plain(work) => work.begun = true,
            Work::Session(work) => work.begun = true,
            _ => {}
        }
    }

    /// Whose change of the disk is with the device, if the protocol's lists are for that client.
    pub(super) fn begun_by(&self) -> Option<MacAddr> {
        match self {
            Work::Plain(work) => work.begun_by(),
            Work::Session(work) => work.begun_by(),
            _ => None,
        }
    }

    /// Whether its answers come from the device that the export's instance and fate depend on.
    pub(super) fn is_of_device(&self) -> bool {
        match self {
            Work::Plain(work) => !work.is_smart(),
            Work::Change(_) => false,
            Work::Session(_) | Work::Open(_) | Work::Settle | Work::Started => true,
        }
    }
}

/// What becomes of a command whose turn has come.
pub(super) enum Start {
    /// The device is asked.
    Io(IoOperation),
    /// It has been answered without the device.
    Answered,
}

/// Frames that may wait to be taken away. A batch of requests is answered by fewer.
const TRANSMIT_MAX: usize = 16 * 1024;

/// What the state machine has for its driver.
#[derive(Default)]
pub(super) struct Outbox {
    frames: VecDeque<(PortId, Frame)>,
    requests: VecDeque<IoRequest>,
}

impl Outbox {
    /// False when there is no room.
    pub(super) fn send(&mut self, port: PortId, frame: Frame) -> bool {
        let has_room = self.frames.len() < TRANSMIT_MAX;
        if has_room {
            self.frames.push_back((port, frame));
        }
        has_room
    }

    pub(super) fn request(&mut self, request: IoRequest) {
        self.requests.push_back(request);
    }

    pub(super) fn poll_frame(&mut self) -> Option<(PortId, Frame)> {
        self.frames.pop_front()
    }

    pub(super) fn poll_request(&mut self) -> Option<IoRequest> {
        self.requests.pop_front()
    }
}
