//! Whether an export's address is free: clients take two targets with one address for two ways to one
//! disk, and write to both. An address that is anybody's is refused before the export is made; whoever
//! comes later is heard by the export itself, and reported.

use std::rc::Rc;
use std::time::Duration;

use aoe_wire::Port;
use aoe_wire::ShelfSlot;
use control::api::{ApiError, ErrorCode, SeenTarget};
use control::settings::ExportSetting;
use os::net::Role;

use super::Process;
use crate::neighbours::{Asking, Neighbour, who_answers};

/// Two seconds without an answer: a machine that is there answers in one.
const ASKING: Asking = Asking { questions: 3, timeout: Duration::from_millis(700) };

impl Process {
    /// Whether nobody but our own running export has the address, as far as can be told: by what the
    /// pools and discovery know, and by asking on the interfaces where the export would be new.
    pub(super) async fn check_address(&self, setting: &ExportSetting) -> Result<(), ApiError> {
        let address = ShelfSlot::new(setting.address.shelf, setting.address.slot);
        let places = self.exports.new_places(setting);
        let is_ours = self.exports.runs(address);
        if is_ours && places.is_empty() {
            return Ok(());
        }
        if !is_ours {
            self.is_no_pools_disk(address)?;
        }
        self.is_unknown(address)?;
        // This machine's own node isn't heard on an interface, but through its socket.
        self.network.ask();
        let mut ports = Vec::new();
        for place in places {
            let port = self
                .namespaces
                .open_port(&self.handle, place, Role::Answers)
                .map_err(|error| ApiError::new(ErrorCode::Io, error.to_string()))?;
            ports.push(Rc::new(port) as Rc<dyn Port>);
        }
        let own = self.exports.macs();
        let found = who_answers(self.handle.runtime(), &ports, address, ASKING, |mac| {
            is_ours && own.contains(&mac)
        })
        .await;
        // It has the name too, if there was time to ask for it.
        self.is_unknown(address)?;
        match found {
            None => Ok(()),
            Some(Neighbour { mac, interface, .. }) => {
                Err(taken(format!("{mac} on {interface} answers for {address}")))
            }
        }
    }

    /// A pool's disk is silent at times, and comes back.
    fn is_no_pools_disk(&self, address: ShelfSlot) -> Result<(), ApiError> {
        let name = address.to_string();
        for pool in self.engine.reports() {
            if let Some(disk) = pool.disks.iter().find(|disk| disk.name == name) {
                let machine = match disk.node.as_str() {
                    "" => String::new(),
                    node => format!(" (on {node})"),
                };
                return Err(taken(format!(
                    "{address} is the address of a disk of pool {}{machine}",
                    pool.name
                )));
            }
        }
        Ok(())
    }

    fn is_unknown(&self, address: ShelfSlot) -> Result<(), ApiError> {
        let Some((seen, ago)) = self.network.who_has(address, &self.exports) else { return Ok(()) };
        let SeenTarget { mac, interface, node, name, .. } = seen;
        let what = match (node, name) {
            (Some(node), Some(name)) => format!(", {name} of {node}"),
            (None, Some(name)) => format!(", {name}"),
            _ => String::new(),
        };
        // Everybody is asked every ten seconds.
        let when = match ago.as_secs() {
            0..=15 => String::new(),
            seconds => format!(", last heard {seconds} s ago; forgotten after 80 s"),
        };
        Err(taken(format!("{mac} on {interface} answers for {address}{what}{when}")))
    }
}

fn taken(message: String) -> ApiError {
    ApiError::new(ErrorCode::Exists, message)
        .remedy("choose another address (aoe:eSHELF.SLOT), or let one be chosen that is free (aoe)")
}
