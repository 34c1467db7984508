//! Changes of what an export remembers. They are answered when they are on stable storage, where the
//! export has any for this; until then the former state counts. Changes of one export run one after
//! the other, in order of their arrival.
//!
//! A mask list or reservation that shuts others out is a fence: who is told of it relies on nobody
//! else's write landing from then on. So that answer waits for what others have with the device, and
//! nothing else waits for the answer.

use crate::Shared;
use crate::discover;
use crate::export::{Export, PortState};
use crate::io::{IoOperation, IoResult, Start};
use crate::meter::Origin;
use crate::plain::remembered::Remembered;
use crate::queue::Ticket;
use crate::stats::Counter;
use crate::trace::Traced;
use aoe_wire::PortId;
use aoe_wire::{
    AoeError, ConfigCommand, Directive, Header, MacAddr, MaskCommand, MaskError, ReserveCommand,
};

/// Changes of an export that may wait: each costs a write to stable storage, and clients repeat.
const CHANGES_MAX: usize = 32;
/// Answers that may wait for the device. Counted apart: a device that hangs must not use up the changes.
const FENCES_MAX: usize = 32;

/// A change as a client asks for it.
#[derive(Clone)]
pub(crate) enum Change {
    /// The configuration string.
    Config { command: ConfigCommand, string: Vec<u8> },
    /// The mask list.
    Mask { command: MaskCommand, directives: Vec<Directive> },
    /// The reservation.
    Reserve { command: ReserveCommand, macs: Vec<MacAddr> },
}

/// A change that waits for its turn or for the storage.
#[derive(Clone)]
pub(crate) struct ChangeWork {
    port: PortId,
    pub origin: Origin,
    header: Header,
    change: Change,
    /// What it makes of the state, and how it is answered, once its turn has come.
    decided: Option<(Remembered, Outcome)>,
}

/// A change that is in force, and whose client hears of it when these writes of others are done.
pub(crate) struct Fence {
    work: ChangeWork,
    outcome: Outcome,
    writes: Vec<Ticket>,
}

/// What the client hears.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    /// The index of the mask directive that failed.
    MaskFailed(u8, MaskError),
    /// An AoE error.
    Refused(AoeError),
}

/// Takes a change in.
pub(crate) fn enqueue(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    header: &Header,
    change: Change,
) {
    if export.changes >= CHANGES_MAX || !export.has_room(0, shared.now) {
        return shared.drop(export, Traced::other(port.id, header), Counter::QueueFull);
    }
    export.changes += 1;
    let origin = export.meter.origin(shared.now);
    let work = ChangeWork { port: port.id, origin, header: *header, change, decided: None };
    export.enqueue_change(work);
}

/// A change's turn has come: all earlier ones are in force.
pub(crate) fn start(export: &mut Export, shared: &mut Shared, work: &mut ChangeWork) -> Start {
    let (next, outcome) = decide(&export.remembered, work.header.source, &work.change);
    // A repetition of what is in force costs no write.
    if next != export.remembered && export.abilities.remembers {
        work.decided = Some((next.clone(), outcome));
        return Start::Io(IoOperation::Remember(next));
    }
    conclude(export, shared, work, next, outcome);
    Start::Answered
}

/// The storage has answered.
pub(crate) fn finish(
    export: &mut Export,
    shared: &mut Shared,
    work: &mut ChangeWork,
    result: IoResult,
) {
    let Some((next, outcome)) = work.decided.take() else { return };
    match result {
        Ok(_) => conclude(export, shared, work, next, outcome),
        Err(_) => {
            export.meter.count(Counter::NotRemembered);
            let former = export.remembered.clone();
            conclude(export, shared, work, former, Outcome::Refused(AoeError::DeviceUnavailable));
        }
    }
}

fn decide(now: &Remembered, client: MacAddr, change: &Change) -> (Remembered, Outcome) {
    let mut next = now.clone();
    let outcome = match change {
        Change::Config { command: ConfigCommand::Set, string }
            if !now.config_string.is_empty() && *string != now.config_string =>
        {
            Outcome::Refused(AoeError::ConfigStringPresent)
        }
        Change::Config { string, .. } => {
            next.config_string.clone_from(string);
            Outcome::Done
        }
        Change::Mask { directives, .. } => match next.edit_mask(directives) {
            Ok(()) => Outcome::Done,
            Err((index, error)) => Outcome::MaskFailed(index, error),
        },
        Change::Reserve { command, macs } => {
            let force = *command == ReserveCommand::ForceSet;
            match next.reserve(client, macs, force) {
                true => Outcome::Done,
                false => Outcome::Refused(AoeError::Reserved),
            }
        }
    };
    (next, outcome)
}

/// The state is in force, and the client hears of it, once it means what it says.
fn conclude(
    export: &mut Export,
    shared: &mut Shared,
    work: &ChangeWork,
    next: Remembered,
    outcome: Outcome,
) {
    export.remembered = next;
    export.changes = export.changes.saturating_sub(1);
    let is_config = matches!(work.change, Change::Config { .. });
    let writes = match outcome {
        Outcome::Done | Outcome::MaskFailed(..) if !is_config => writes_of_others(export),
        _ => Vec::new(),
    };
    if writes.is_empty() {
        return tell(export, shared, work, outcome);
    }
    // A client that repeats itself wants one answer.
    export.fences.retain(|fence| fence.work.header != work.header || fence.work.port != work.port);
    if export.fences.len() >= FENCES_MAX {
        return shared.drop(export, Traced::other(work.port, &work.header), Counter::QueueFull);
    }
    export.fences.push(Fence { work: work.clone(), outcome, writes });
}

/// Writes that are with the device though their clients may not write any more. Of all that were shut
/// out, also by an earlier change: repeating what is in force says the same as the first time.
fn writes_of_others(export: &Export) -> Vec<Ticket> {
    let begun = export.queue.iter().filter_map(|(ticket, work)| Some((ticket, work.begun_by()?)));
    begun.filter(|(_, client)| export.shuts_out(*client)).map(|(ticket, _)| ticket).collect()
}

/// Tells those who waited for nothing but commands that have ended.
pub(crate) fn release(export: &mut Export, shared: &mut Shared) {
    let mut index = 0;
    while index < export.fences.len() {
        if export.fences[index].writes.iter().any(|write| export.queue.get(*write).is_some()) {
            index += 1;
            continue;
        }
        let Fence { work, outcome, .. } = export.fences.remove(index);
        export.meter.resumes(work.origin);
        tell(export, shared, &work, outcome);
    }
}

fn tell(export: &mut Export, shared: &mut Shared, work: &ChangeWork, outcome: Outcome) {
    let has_lists = export.device.ownership.is_open_to_plain_clients();
    let outcome = match &work.change {
        // Claimed meanwhile: lists are nothing to its owner, and nobody may rely on them.
        Change::Mask { .. } | Change::Reserve { .. } if !has_lists => {
            Outcome::Refused(AoeError::UnrecognisedCommand)
        }
        _ => outcome,
    };
    let Some(port) = shared.ports.get(&work.port).cloned() else { return };
    let header = &work.header;
    match (&work.change, outcome) {
        // The one error that comes with the string that is there.
        (Change::Config { command, .. }, Outcome::Refused(AoeError::ConfigStringPresent)) => {
            let error = Some(AoeError::ConfigStringPresent);
            discover::tell_config(export, shared, &port, header, error, *command);
        }
        (_, Outcome::Refused(error)) => shared.refuse(export, &port, header, error),
        (Change::Config { command, .. }, _) => {
            discover::tell_config(export, shared, &port, header, None, *command);
        }
        (Change::Mask { command, .. }, Outcome::MaskFailed(index, error)) => {
            discover::tell_mask(export, shared, &port, header, *command, Err((index, error)));
        }
        (Change::Mask { command, .. }, Outcome::Done) => {
            discover::tell_mask(export, shared, &port, header, *command, Ok(()));
        }
        (Change::Reserve { command, .. }, _) => {
            discover::tell_reservation(export, shared, &port, header, *command);
        }
    }
}
