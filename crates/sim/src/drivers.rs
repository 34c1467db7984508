//! What a node process and an engine process start: the production drivers, connected to simulated
//! disks and ports as the binary connects them to real ones.

use std::rc::Rc;

use aoe::driver::{Disk as FoundDisk, ExportDevice, Initiator, InitiatorOptions, TargetDriver};
use aoe::medium::Medium;
use aoe::target::{ExportOptions, NodeIdentity};
use aoe::wire::{Incarnation, ShelfSlot};
use runtime::Handle;
use uuid::Uuid;

use crate::disk::Disk;
use crate::network::SimPort;
use crate::world::Process;

/// What identifies a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The machine.
    pub machine: Uuid,
    /// Its name.
    pub name: &'a str,
    /// The shelf of its exports.
    pub shelf: u16,
}

/// A node process: exports `disks`, each as soon as its medium is opened.
pub fn serve(process: &Process, port: Rc<SimPort>, facts: NodeFacts<'_>, disks: &[Rc<Disk>]) {
    let Some(handle) = process.handle() else { return };
    let identity = NodeIdentity { id: facts.machine, name: facts.name.to_string() };
    let driver = TargetDriver::new(handle.clone(), identity);
    driver.add_port(port);
    for (slot, disk) in disks.iter().enumerate() {
        let (driver, handle_inside) = (driver.clone(), handle.clone());
        let device = disk.open();
        let options = ExportOptions::new(
            ShelfSlot::new(facts.shelf, slot as u8),
            format!("/dev/{}", disk.name()),
        );
        handle.spawn(async move {
            // A disk that answers nothing isn't exported; the node is started anew to retry.
            let Ok(medium) = Medium::open(device, handle_inside).await else { return };
            let exported = driver.add_export(ExportDevice::Medium(Rc::new(medium)), options).await;
            debug_assert!(exported.is_ok());
        });
    }
}

/// A client process: calls `found` for each disk that answers for the first time, for as long as the
/// process lives.
pub fn look_for_disks(handle: &Handle, port: Rc<SimPort>, found: impl Fn(&FoundDisk) + 'static) {
    let options = InitiatorOptions::new(Incarnation(handle.random_bytes16()));
    let initiator = Initiator::new(handle.clone(), options);
    initiator.add_port(port);
    handle.spawn(async move {
        let mut told = std::collections::BTreeSet::new();
        loop {
            for disk in initiator.disks() {
                if told.insert(disk.address()) {
                    found(&disk);
                }
            }
            initiator.next_disk_event().await;
        }
    });
}
