//! Commands 1 to 3 of plain AoE: discovery and configuration string, mask list, reservation; and
//! the announcements that a target makes unasked.

use super::Shared;
use super::export::{Export, PortState};
use super::stats::Drop;
use crate::wire::{
    AoeError, Command, ConfigCommand, ConfigMessage, Directive, DirectiveCommand, Header, MacAddr,
    MaskCommand, MaskError, MaskMessage, ParseError, ReserveCommand, ReserveMessage,
};

/// What fits into a frame of this size behind a mask message, counted as narrowly as in reads.
fn mask_entries_max(mtu_bytes: usize) -> usize {
    mtu_bytes.saturating_sub(28) / 8
}

pub(super) fn config(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let (request, string) = match ConfigMessage::parse(frame) {
        Ok(parsed) => parsed,
        Err(_) => return export.stats.dropped(Drop::Malformed),
    };
    let mut error = None;
    match request.command {
        ConfigCommand::Read => {}
        ConfigCommand::Test if string == export.config_string => {}
        ConfigCommand::TestPrefix if export.config_string.starts_with(string) => {}
        ConfigCommand::Test | ConfigCommand::TestPrefix => return,
        ConfigCommand::Set
            if !export.config_string.is_empty() && string != export.config_string =>
        {
            error = Some(AoeError::ConfigStringPresent);
        }
        ConfigCommand::Set | ConfigCommand::ForceSet => export.config_string = string.to_vec(),
        ConfigCommand::Unknown(_) => {
            return shared.refuse(export, port, &request.header, AoeError::BadArgument);
        }
    }
    export.stats.others += 1;
    let answer = request.header.answer(port.mac, export.address());
    let header = Header { error, ..answer };
    shared.send(port.id, describe(export, port, header, request.command));
}

/// Tells all, or those on the mask list, that the export is there.
pub(super) fn announce(export: &Export, shared: &mut Shared, port: &PortState) {
    let asked = Header::request(port.mac, MacAddr::BROADCAST, export.address(), Command::Config, 0);
    let listeners = match export.lists.mask() {
        [] => &[MacAddr::BROADCAST][..],
        mask => mask,
    };
    for listener in listeners {
        let header = Header { destination: *listener, ..asked.answer(port.mac, export.address()) };
        shared.send(port.id, describe(export, port, header, ConfigCommand::Read));
    }
}

fn describe(
    export: &Export,
    port: &PortState,
    header: Header,
    command: ConfigCommand,
) -> crate::driver::Frame {
    let message = ConfigMessage {
        header,
        buffer_count: export.buffer_count(),
        firmware: super::FIRMWARE_VERSION,
        sectors_max: export.plain_sectors_advertised(port),
        command,
    };
    message.emit(&export.config_string)
}

/// Whether a client may change the lists: they don't exist for what belongs to a pool.
fn has_lists(export: &Export) -> bool {
    export.device.ownership.is_open_to_plain_clients()
}

pub(super) fn mask(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let request = match MaskMessage::parse(frame) {
        Ok(request) => request,
        Err(error) => return malformed(export, shared, port, frame, error),
    };
    let refuse = match request.command {
        _ if !has_lists(export) => Some(AoeError::UnrecognisedCommand),
        MaskCommand::Unknown(_) => Some(AoeError::BadArgument),
        MaskCommand::Edit if !export.options.lists_editable => Some(AoeError::BadArgument),
        MaskCommand::Read | MaskCommand::Edit => None,
    };
    if let Some(error) = refuse {
        return shared.refuse(export, port, &request.header, error);
    }
    export.stats.others += 1;
    let edited = match request.command {
        MaskCommand::Edit => export.lists.edit_mask(&request.directives),
        _ => Ok(()),
    };
    let header = request.header.answer(port.mac, export.address());
    let entries = mask_entries_max(port.mtu_bytes);
    let (count, error, directives) = match edited {
        Ok(()) => {
            let list = export.lists.mask().iter().take(entries);
            let list: Vec<Directive> =
                list.map(|mac| Directive { command: DirectiveCommand::None, mac: *mac }).collect();
            (u8::try_from(list.len()).unwrap_or(u8::MAX), MaskError::None, list)
        }
        Err((index, error)) => (index, error, Vec::new()),
    };
    let reply = MaskMessage { header, command: request.command, error, count, directives };
    shared.send(port.id, reply.emit());
}

pub(super) fn reserve(export: &mut Export, shared: &mut Shared, port: &PortState, frame: &[u8]) {
    let request = match ReserveMessage::parse(frame) {
        Ok(request) => request,
        Err(error) => return malformed(export, shared, port, frame, error),
    };
    let client = request.header.source;
    let is_read = request.command == ReserveCommand::Read;
    let refuse = match request.command {
        _ if !has_lists(export) => Some(AoeError::UnrecognisedCommand),
        ReserveCommand::Unknown(_) => Some(AoeError::BadArgument),
        _ if !is_read && !export.options.lists_editable => Some(AoeError::BadArgument),
        ReserveCommand::Read => None,
        ReserveCommand::Set => {
            (!export.lists.reserve(client, &request.macs, false)).then_some(AoeError::Reserved)
        }
        ReserveCommand::ForceSet => {
            export.lists.reserve(client, &request.macs, true);
            None
        }
    };
    if let Some(error) = refuse {
        return shared.refuse(export, port, &request.header, error);
    }
    export.stats.others += 1;
    let header = request.header.answer(port.mac, export.address());
    let macs = export.lists.reserved().to_vec();
    let reply = ReserveMessage { header, command: request.command, macs };
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
        Err(_) => export.stats.dropped(Drop::Malformed),
    }
}
