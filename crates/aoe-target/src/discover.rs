//! Commands 1 to 3 of plain AoE: discovery and configuration string, mask list, reservation; and
//! the announcements that a target makes unasked. What changes the state is executed in [`change`].

use std::collections::BTreeSet;

use crate::Shared;
use crate::export::{Export, PortState};
use crate::plain::change::{self, Change};
use crate::policy::AccessOperation;
use crate::stats::Counter;
use crate::trace::{Traced, TracedStatus};
use aoe_wire::{
    AoeError, Command, ConfigCommand, ConfigMessage, Directive, DirectiveCommand, Header, MacAddr,
    MaskCommand, MaskError, MaskMessage, ParseError, ReserveCommand, ReserveMessage,
};

/// What fits into a frame of this size behind a mask message, counted as narrowly as in reads.
fn mask_entries_max(mtu_bytes: usize) -> usize {
    mtu_bytes.saturating_sub(28) / 8
}

/// The same behind a reservation.
fn reserve_entries_max(mtu_bytes: usize) -> usize {
    mtu_bytes.saturating_sub(26) / 6
}

/// Whether a request looks for exports instead of naming one. A config query to all stations is a
/// search too (iPXE knows the address, but not the machine), an ATA command to them isn't: its
/// sender is past that.
pub(crate) fn is_search(header: &Header) -> bool {
    let to_all = header.destination.is_group() && header.command == Command::Config;
    to_all || !header.address.is_concrete()
}

pub(crate) fn config(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let (request, string) = match ConfigMessage::parse(frame) {
        Ok(parsed) => parsed,
        Err(_) => return export.meter.count(Counter::Malformed),
    };
    let client = request.header.source;
    let needed = match request.command {
        // Who may search is told of the export, if not of its string.
        ConfigCommand::Read if is_search(&request.header) => AccessOperation::Discover,
        ConfigCommand::Set | ConfigCommand::ForceSet => AccessOperation::ConfigSet,
        _ => AccessOperation::ConfigRead,
    };
    if !export.permits(port.trusted, needed, client) {
        return shared.drop(export, Traced::other(port.id, &request.header), Counter::Denied);
    }
    let present = &export.remembered.config_string;
    match request.command {
        ConfigCommand::Read => {}
        ConfigCommand::Test if string == present => {}
        ConfigCommand::TestPrefix if present.starts_with(string) => {}
        ConfigCommand::Test | ConfigCommand::TestPrefix => return,
        command @ (ConfigCommand::Set | ConfigCommand::ForceSet) => {
            let change = Change::Config { command, string: string.to_vec() };
            return change::enqueue(export, shared, port, &request.header, change);
        }
        ConfigCommand::Unknown(_) => {
            return shared.refuse(export, port, &request.header, AoeError::BadArgument);
        }
    }
    tell_config(export, shared, port, &request.header, None, request.command);
}

pub(crate) fn tell_config(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    asked: &Header,
    error: Option<AoeError>,
    command: ConfigCommand,
) {
    export.meter.count(Counter::Others);
    let status = error.map_or(TracedStatus::Done, TracedStatus::Aoe);
    shared.trace.note(shared.now, export, Traced::other(port.id, asked), status);
    // Who may set the string learns by that what it is.
    let readable = matches!(command, ConfigCommand::Set | ConfigCommand::ForceSet)
        || export.permits(port.trusted, AccessOperation::ConfigRead, asked.source);
    let header = Header { error, ..asked.answer(port.mac, export.address()) };
    shared.send(port.id, describe(export, port, header, command, readable));
}

/// Tells all who may know that the export is there.
pub(crate) fn announce(export: &Export, shared: &mut Shared, port: &PortState) {
    let asked = Header::request(port.mac, MacAddr::BROADCAST, export.address(), Command::Config, 0);
    let policy = &export.options.access;
    for listener in listeners(export, port) {
        let readable = match listener {
            MacAddr::BROADCAST => port.trusted || policy.allows_all(AccessOperation::ConfigRead),
            mac => export.permits(port.trusted, AccessOperation::ConfigRead, mac),
        };
        let header = Header { destination: listener, ..asked.answer(port.mac, export.address()) };
        shared.send(port.id, describe(export, port, header, ConfigCommand::Read, readable));
    }
}

/// Everybody, where everybody may know; else those who are named. Where only some are denied, whom a
/// broadcast would reach too, those who have been here; others find the export at their next query.
fn listeners(export: &Export, port: &PortState) -> BTreeSet<MacAddr> {
    let discover = AccessOperation::Discover;
    let policy = &export.options.access;
    let may = |mac: &MacAddr| port.trusted || policy.allows(discover, *mac);
    let mask = &export.remembered.mask;
    if has_lists(export) && !mask.is_empty() {
        return mask.iter().copied().filter(may).collect();
    }
    if port.trusted || policy.allows_all(discover) {
        return BTreeSet::from([MacAddr::BROADCAST]);
    }
    match policy.accepted(discover) {
        Some(accepted) => accepted.collect(),
        None => export.meter.known().filter(may).collect(),
    }
}

fn describe(
    export: &Export,
    port: &PortState,
    header: Header,
    command: ConfigCommand,
    readable: bool,
) -> aoe_wire::Frame {
    let message = ConfigMessage {
        header,
        buffer_count: export.buffer_count(),
        firmware: crate::FIRMWARE_VERSION,
        sectors_max: export.plain_sectors_advertised(port),
        command,
    };
    message.emit(if readable { &export.remembered.config_string } else { &[] })
}

/// Whether a client may change the lists: they don't exist for what belongs to a pool.
fn has_lists(export: &Export) -> bool {
    export.device.ownership.is_open_to_plain_clients()
}

/// Whether a client may ask for the lists. Who may edit them may look at them.
fn may_look(export: &Export, port: &PortState, client: MacAddr) -> bool {
    export.permits(port.trusted, AccessOperation::ConfigRead, client)
        || export.options.list_editors.names(client)
}

pub(crate) fn mask(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let request = match MaskMessage::parse(frame) {
        Ok(request) => request,
        Err(error) => return malformed(export, shared, port, frame, error),
    };
    let client = request.header.source;
    if !may_look(export, port, client) {
        return shared.drop(export, Traced::other(port.id, &request.header), Counter::Denied);
    }
    let refuse = match request.command {
        _ if !has_lists(export) => Some(AoeError::UnrecognisedCommand),
        MaskCommand::Unknown(_) => Some(AoeError::BadArgument),
        MaskCommand::Edit if !export.options.list_editors.allows(client) => {
            Some(AoeError::BadArgument)
        }
        MaskCommand::Read | MaskCommand::Edit => None,
    };
    if let Some(error) = refuse {
        return shared.refuse(export, port, &request.header, error);
    }
    let command = request.command;
    if command == MaskCommand::Edit {
        let change = Change::Mask { command, directives: request.directives };
        return change::enqueue(export, shared, port, &request.header, change);
    }
    tell_mask(export, shared, port, &request.header, command, Ok(()));
}

pub(crate) fn tell_mask(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    asked: &Header,
    command: MaskCommand,
    edited: Result<(), (u8, MaskError)>,
) {
    export.meter.count(Counter::Others);
    shared.trace.note(shared.now, export, Traced::other(port.id, asked), TracedStatus::Done);
    let header = asked.answer(port.mac, export.address());
    let entries = mask_entries_max(port.mtu_bytes);
    let (count, error, directives) = match edited {
        Ok(()) => {
            let list = export.remembered.mask.iter().take(entries);
            let list: Vec<Directive> =
                list.map(|mac| Directive { command: DirectiveCommand::None, mac: *mac }).collect();
            (u8::try_from(list.len()).unwrap_or(u8::MAX), MaskError::None, list)
        }
        Err((index, error)) => (index, error, Vec::new()),
    };
    let reply = MaskMessage { header, command, error, count, directives };
    shared.send(port.id, reply.emit());
}

pub(crate) fn reserve(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let request = match ReserveMessage::parse(frame) {
        Ok(request) => request,
        Err(error) => return malformed(export, shared, port, frame, error),
    };
    let client = request.header.source;
    if !may_look(export, port, client) {
        return shared.drop(export, Traced::other(port.id, &request.header), Counter::Denied);
    }
    let is_read = request.command == ReserveCommand::Read;
    let refuse = match request.command {
        _ if !has_lists(export) => Some(AoeError::UnrecognisedCommand),
        ReserveCommand::Unknown(_) => Some(AoeError::BadArgument),
        _ if !is_read && !export.options.list_editors.allows(client) => Some(AoeError::BadArgument),
        ReserveCommand::Read | ReserveCommand::Set | ReserveCommand::ForceSet => None,
    };
    if let Some(error) = refuse {
        return shared.refuse(export, port, &request.header, error);
    }
    let command = request.command;
    if !is_read {
        let change = Change::Reserve { command, macs: request.macs };
        return change::enqueue(export, shared, port, &request.header, change);
    }
    tell_reservation(export, shared, port, &request.header, command);
}

pub(crate) fn tell_reservation(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    asked: &Header,
    command: ReserveCommand,
) {
    export.meter.count(Counter::Others);
    shared.trace.note(shared.now, export, Traced::other(port.id, asked), TracedStatus::Done);
    let header = asked.answer(port.mac, export.address());
    // A list that was set on a port with larger frames is told as far as it fits.
    let macs = &export.remembered.reserved;
    let macs = macs.iter().take(reserve_entries_max(port.mtu_bytes)).copied().collect();
    let reply = ReserveMessage { header, command, macs };
    shared.send(port.id, reply.emit());
}

fn malformed(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    frame: &[u8],
    _: ParseError,
) {
    match Header::parse(frame) {
        Ok(header) => shared.refuse(export, port, &header, AoeError::BadArgument),
        Err(_) => export.meter.count(Counter::Malformed),
    }
}
