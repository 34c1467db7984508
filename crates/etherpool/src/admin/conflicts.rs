//! Others that answer for the addresses of a target's exports: initiators take them for more paths to
//! one disk, and write to both.

use aoe_target::TargetDriver;
use aoe_target::{ExportState, ExportStatus, TargetEvent};
use control::node::{NodeStatus, ONLINE};

/// Says so in the log, for as long as it is asked to.
pub async fn tell(driver: TargetDriver) {
    loop {
        let event = driver.next_event().await;
        let (TargetEvent::AddressConflict { export, .. } | TargetEvent::AddressFree { export }) =
            event;
        let Some(status) = driver.exports().into_iter().find(|status| status.id == export) else {
            continue;
        };
        let (address, name) = (status.options.address, &status.options.name);
        match event {
            TargetEvent::AddressConflict { mac, .. } if status.state == ExportState::Up => {
                tracing::error!(event = "address-conflict", %address, name, %mac, "another machine answers for this export's address: clients take both for one disk");
            }
            TargetEvent::AddressConflict { mac, .. } => {
                tracing::error!(event = "address-conflict", %address, name, %mac, "not answering: another machine has this address");
            }
            TargetEvent::AddressFree { .. } => {
                tracing::info!(event = "address-free", %address, name, "the address is free now; answering");
            }
        }
    }
}

/// Says it of exports that are open, and silent because of it.
pub fn mark(status: &mut NodeStatus, exports: &[ExportStatus]) {
    for export in exports {
        let state = match export.state {
            ExportState::Up => continue,
            ExportState::Probing => "looking whether its address is free".to_owned(),
            ExportState::Conflict { mac } => format!("silent: {mac} answers for its address"),
        };
        let address = export.options.address.to_string();
        let own = status.exports.iter_mut().find(|own| own.address == address);
        if let Some(own) = own.filter(|own| own.state == ONLINE) {
            own.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aoe_target::Ownership;
    use aoe_target::{Abilities, DeviceState, ExportOptions, NodeIdentity, Probe, Target};
    use aoe_wire::{MacAddr, PortId, ShelfSlot};
    use block::{DurabilityClass, Geometry, Instance};

    #[test]
    fn an_export_that_waits_for_its_address_is_not_called_online() {
        let identity = NodeIdentity { id: uuid::Uuid::from_u128(1), name: "n".into() };
        let mut target = Target::new(identity, 1);
        target.set_port(PortId(0), "eth0".into(), MacAddr([2, 0, 0, 0, 0, 1]), 1500);
        let device = DeviceState {
            geometry: Geometry {
                sectors: 8,
                physical_block_bytes: 512,
                max_transfer_bytes: 4096,
                read_only: false,
                class: DurabilityClass::Durable,
            },
            instance: Instance::default(),
            ownership: Ownership::Unclaimed { labelled: false },
            labelled: [None; 2],
            grant: None,
        };
        for (slot, probe) in [(0, Probe::Off), (1, Probe::Defend)] {
            let options =
                ExportOptions { probe, ..ExportOptions::new(ShelfSlot::new(1, slot), "x") };
            target.add_export(options, device.clone(), Abilities::default()).unwrap();
        }
        let own = |address: &str, state: &str| control::node::ExportStatus {
            address: address.into(),
            path: "/x".into(),
            device: "/x".into(),
            size_bytes: 4096,
            state: state.into(),
        };
        let mut status = NodeStatus {
            exports: vec![own("e1.0", ONLINE), own("e1.1", ONLINE), own("e1.2", "missing")],
            ..NodeStatus::default()
        };
        let mut exports = target.exports();
        mark(&mut status, &exports);
        let states = |status: &NodeStatus| {
            status.exports.iter().map(|export| export.state.clone()).collect::<Vec<_>>()
        };
        assert_eq!(states(&status), [ONLINE, "looking whether its address is free", "missing"]);
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        exports[1].state = ExportState::Conflict { mac };
        status.exports[1].state = ONLINE.into();
        mark(&mut status, &exports);
        let silent = "silent: 02:00:00:00:00:09 answers for its address";
        assert_eq!(states(&status), [ONLINE, silent, "missing"]);
    }
}
