//! ATA commands that change or ask for something beside the sectors: SET FEATURES and SMART.

use block::{Access, Buffer, IoError};

use crate::export::{Export, PortState};
use crate::io::IoOperation;
use crate::plain::smart::{SmartCommand, SmartFeature, SmartReply};
use crate::stats::Counter;
use aoe_wire::{AtaReply, AtaRequest};

/// SET FEATURES: switch the write cache on.
pub(crate) const CACHE_ON: u8 = 0x02;
/// SET FEATURES: switch it off.
pub(crate) const CACHE_OFF: u8 = 0x82;

/// What SET FEATURES has to wait for, if the export does it at all: switching on for nothing but a
/// switch before it; switching off for all that may be answered from the cache.
pub(crate) fn switch(export: &Export, request: &AtaRequest) -> Option<Access> {
    let switchable = export.options.write_cache_switchable && !export.is_read_only();
    match request.feature {
        CACHE_ON if switchable => Some(Access::Free),
        CACHE_OFF if switchable => Some(Access::Barrier),
        _ => None,
    }
}

/// Whether a request changes the disk's settings or contents without being a WRITE.
pub(crate) fn is_change(request: &AtaRequest) -> bool {
    use aoe_wire::AtaCommand;
    match request.command {
        AtaCommand::SET_FEATURES => true,
        AtaCommand::SMART => SmartFeature::of(request.feature).is_some_and(SmartFeature::is_write),
        _ => false,
    }
}

/// The SMART command of a request, if it gets through to the disk.
pub(crate) fn smart(
    export: &Export,
    port: &PortState,
    request: &AtaRequest,
    data: &[u8],
) -> Option<SmartCommand> {
    let command = SmartCommand::of(request, data, export.plain_sectors_max(port))?;
    let refused = !export.abilities.smart || command.feature.is_write() && export.is_read_only();
    (!refused).then_some(command)
}

/// A SMART command's turn has come. What it may do was decided at the door.
pub(crate) fn start_smart(request: &AtaRequest, data: Buffer) -> Option<IoOperation> {
    let command = SmartCommand::of(request, &data, u8::MAX)?;
    Some(IoOperation::Smart(SmartCommand { data, ..command }))
}

/// The answer to a SMART command that the disk has heard.
pub(crate) fn finish_smart(
    export: &mut Export,
    request: &AtaRequest,
    reply: AtaReply,
    said: SmartReply,
) -> Result<(AtaReply, Buffer), IoError> {
    let failed = said.is_failure();
    let feature = SmartFeature::of(request.feature);
    let expected = feature.map_or(0, |feature| feature.reply_bytes(request.count));
    if !failed && said.data.len() != expected {
        return Err(IoError::Unsupported);
    }
    match feature {
        Some(SmartFeature::Enable) if !failed => export.smart_enabled = true,
        Some(SmartFeature::Disable) if !failed => export.smart_enabled = false,
        _ => {}
    }
    export.meter.count(Counter::Others);
    let [low, middle, high] = said.lba.map(u64::from);
    let lba_raw = reply.lba_raw & !0xff_ffff | high << 16 | middle << 8 | low;
    let SmartReply { status, error, count, .. } = said;
    let data = if failed { Buffer::empty() } else { said.data };
    Ok((AtaReply { status, error, count, lba_raw, ..reply }, data))
}
