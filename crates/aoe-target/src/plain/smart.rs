//! SMART: the health of the disk behind an export, asked of the disk itself. Only commands that are
//! known to be harmless get through; nothing else of a client's registers does.

use block::{Buffer, SECTOR_BYTES};

use aoe_wire::{AtaReply, AtaRequest};

/// The address registers that make a SMART command one.
const SIGNATURE: u64 = 0xc2_4f00;
const SIGNATURE_MASK: u64 = 0xff_ff00;

/// What a SMART command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmartFeature {
    /// Reads the attributes.
    ReadData,
    /// Reads their thresholds.
    ReadThresholds,
    /// Begins or ends a self-test.
    ExecuteTest,
    /// Reads a log.
    ReadLog,
    /// Writes a log.
    WriteLog,
    /// Switches SMART on.
    Enable,
    /// Switches it off.
    Disable,
    /// Asks whether a failure is to be expected.
    ReturnStatus,
}

impl SmartFeature {
    /// By the feature register; `None` for all that doesn't get through.
    pub fn of(raw: u8) -> Option<SmartFeature> {
        Some(match raw {
            0xd0 => SmartFeature::ReadData,
            0xd1 => SmartFeature::ReadThresholds,
            0xd4 => SmartFeature::ExecuteTest,
            0xd5 => SmartFeature::ReadLog,
            0xd6 => SmartFeature::WriteLog,
            0xd8 => SmartFeature::Enable,
            0xd9 => SmartFeature::Disable,
            0xda => SmartFeature::ReturnStatus,
            _ => return None,
        })
    }

    /// The feature register.
    pub fn raw(self) -> u8 {
        match self {
            SmartFeature::ReadData => 0xd0,
            SmartFeature::ReadThresholds => 0xd1,
            SmartFeature::ExecuteTest => 0xd4,
            SmartFeature::ReadLog => 0xd5,
            SmartFeature::WriteLog => 0xd6,
            SmartFeature::Enable => 0xd8,
            SmartFeature::Disable => 0xd9,
            SmartFeature::ReturnStatus => 0xda,
        }
    }

    /// Bytes that a successful answer carries, for a count of sectors.
    pub fn reply_bytes(self, count: u8) -> usize {
        match self {
            SmartFeature::ReadData | SmartFeature::ReadThresholds => SECTOR_BYTES,
            SmartFeature::ReadLog => usize::from(count) * SECTOR_BYTES,
            _ => 0,
        }
    }

    /// Whether it changes anything in the disk.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            SmartFeature::ExecuteTest
                | SmartFeature::WriteLog
                | SmartFeature::Enable
                | SmartFeature::Disable
        )
    }
}

/// A SMART command for the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartCommand {
    /// What to do.
    pub feature: SmartFeature,
    /// Sectors of a log to read or write.
    pub count: u8,
    /// Which log, or which test.
    pub lba_low: u8,
    /// What to write to a log; empty for all else.
    pub data: Buffer,
}

impl SmartCommand {
    /// The command of a request and the data behind it, if it is one that gets through.
    pub(crate) fn of(request: &AtaRequest, data: &[u8], sectors_max: u8) -> Option<SmartCommand> {
        let feature = SmartFeature::of(request.feature)?;
        if request.lba_raw & SIGNATURE_MASK != SIGNATURE {
            return None;
        }
        let has_log = matches!(feature, SmartFeature::ReadLog | SmartFeature::WriteLog);
        if has_log && (request.count == 0 || request.count > sectors_max) {
            return None;
        }
        let data = match feature {
            SmartFeature::WriteLog => {
                Buffer::copy_of(data.get(..usize::from(request.count) * SECTOR_BYTES)?)
            }
            _ => Buffer::empty(),
        };
        Some(SmartCommand { feature, count: request.count, lba_low: request.lba_raw as u8, data })
    }

    /// Bytes that a successful answer carries.
    pub fn reply_bytes(&self) -> usize {
        self.feature.reply_bytes(self.count)
    }
}

/// What the disk answered: its registers as they are, and the data that it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartReply {
    /// The status register.
    pub status: u8,
    /// The error register.
    pub error: u8,
    /// The sector count register.
    pub count: u8,
    /// The low, middle and high address registers.
    pub lba: [u8; 3],
    /// The data; empty if the command has none, or failed.
    pub data: Buffer,
}

impl SmartReply {
    /// Whether the command failed in the disk.
    pub fn is_failure(&self) -> bool {
        self.status & AtaReply::STATUS_FAILED_MASK != 0
    }
}
