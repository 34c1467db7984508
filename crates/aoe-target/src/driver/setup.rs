//! What an export is made of: its device, its settings, and what it may lean on beside the device.

use std::rc::Rc;

use block::IoError;
use futures::future::LocalBoxFuture;

use super::ExportDevice;
use crate::{ExportOptions, Remembered, SmartCommand, SmartReply};
use aoe_wire::ShelfSlot;

/// Where is kept what clients leave with an export.
pub trait Memory {
    /// Puts the state on stable storage. Called for one change of an export after the other; until
    /// it succeeds the former state counts, and the client isn't answered.
    fn store(
        &self,
        address: ShelfSlot,
        state: Remembered,
    ) -> LocalBoxFuture<'static, Result<(), IoError>>;
}

/// The way to the disk itself behind a device, for ATA commands that aren't reads and writes.
pub trait AtaPassThrough {
    /// Executes a SMART command. What the disk says, failure included, is a reply; an error means
    /// that it couldn't be asked.
    fn smart(&self, command: SmartCommand) -> LocalBoxFuture<'static, Result<SmartReply, IoError>>;
}

/// An export to be.
pub struct ExportSetup {
    /// What is exported.
    pub device: ExportDevice,
    /// How it behaves.
    pub options: ExportOptions,
    /// Where is kept what clients leave with it; without, that is gone with the export.
    pub memory: Option<Rc<dyn Memory>>,
    /// The disk itself, where there is one: clients may ask for its health.
    pub ata: Option<Rc<dyn AtaPassThrough>>,
    /// Writes that a former export of the disk had answered early may be gone: see
    /// [`super::TargetDriver::owes_flush`].
    pub lost: bool,
}

impl ExportSetup {
    /// A device without memory and health.
    pub fn new(device: ExportDevice, options: ExportOptions) -> ExportSetup {
        ExportSetup { device, options, memory: None, ata: None, lost: false }
    }
}
