//! Every wired interface, switched on as it appears, and asked on for an address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use aoe_wire::MacAddr;
use os::net::netlink::{Link, links};
use os::net::setup::switch_on;

use super::lease;

/// What hears of addresses that interfaces have got, with whom the machine was booted by, where a server says so.
pub type Told = Arc<dyn Fn(Option<Ipv4Addr>) + Send + Sync>;

/// The interfaces of the machine.
pub struct Network {
    mtu_bytes: Option<u32>,
    /// By number: where an address is asked for.
    asking: BTreeMap<u32, JoinHandle<()>>,
    told: Told,
    macs: Vec<MacAddr>,
}

impl Network {
    /// None yet. With a size, all are to carry payloads of that many bytes; `told` hears of their addresses.
    pub fn new(mtu_bytes: Option<u32>, told: Told) -> Network {
        Network { mtu_bytes, asking: BTreeMap::new(), told, macs: Vec::new() }
    }

    /// The addresses of the wired interfaces that were there at the last look.
    pub fn macs(&self) -> &[MacAddr] {
        &self.macs
    }

    /// Looks which there are, switches on those that are off, and asks where nobody asks.
    pub fn look(&mut self) {
        let links = match links(None) {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "the interfaces can't be listed");
                return;
            }
        };
        for link in links.iter().filter(|link| link.loopback && !link.up) {
            // Programs of this machine speak to each other by sockets with paths.
            let _ = switch_on(link.index, None);
        }
        let wired: Vec<&Link> = links.iter().filter(|link| is_wired(link)).collect();
        self.macs = wired.iter().filter_map(|link| link.mac).collect();
        // Drivers find cards in any order.
        self.macs.sort();
        self.asking.retain(|index, asking| {
            !asking.is_finished() && wired.iter().any(|link| link.index == *index)
        });
        for link in wired {
            if !link.up {
                self.switch_on(link);
            } else if !self.asking.contains_key(&link.index) {
                match lease::follow(link, Arc::clone(&self.told)) {
                    Ok(asking) => {
                        self.asking.insert(link.index, asking);
                    }
                    Err(error) => tracing::warn!(%error, interface = link.name, "no DHCP"),
                }
            }
        }
    }

    fn switch_on(&self, link: &Link) {
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let mtu = self.mtu_bytes.filter(|mtu| *mtu != link.mtu_bytes);
        let switched = switch_on(link.index, mtu).or_else(|error| {
            let Some(mtu) = mtu else { return Err(error) };
            tracing::warn!(%error, interface = link.name, "it can't carry {mtu} bytes");
            switch_on(link.index, None)
        });
        match switched {
            Ok(()) => tracing::info!(interface = link.name, mac, "switched on"),
            Err(error) => tracing::warn!(%error, interface = link.name, "can't be switched on"),
        }
    }
}

/// Whether it is a card with a cable, not one that somebody made of others, or of radio.
fn is_wired(link: &Link) -> bool {
    let place = Path::new("/sys/class/net").join(&link.name);
    let has = |name: &str| place.join(name).exists();
    link.mac.is_some() && !link.loopback && has("device") && !has("phy80211") && !has("wireless")
}
